//! The requests that have acted on the world: a file in the state folder, written before the first call of a request is
//! published. After a restart they end as `interrupted`, and none of them runs again.
//!
//! Ages are counted by the daemon's own clock and begin anew with it, because a board's may be wrong after a restart.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glowplug_firmware_config::limits::{QUEUE_MAX, STREAMS_MAX};
use serde::{Deserialize, Serialize};

use crate::files;

/// Most requests that are remembered: all that can run, and some that have ended.
const ENTRIES_MAX: usize = QUEUE_MAX + STREAMS_MAX + 56;
/// Most bytes of the file.
const FILE_MAX: u64 = 1 << 20;

/// Most bytes that the journal holds: each entry has a client, an id, two topics and Correlation Data, all bounded.
pub const BYTES_MAX: usize = ENTRIES_MAX * 2048;

/// A request that acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acted {
    pub client: String,
    /// Whether it came as plain text.
    pub ask: bool,
    pub id: String,
    /// Where its frames go, and where they would go without a Response Topic.
    pub topic: String,
    pub default_topic: Option<String>,
    pub qos: u8,
    pub correlation: Option<Vec<u8>>,
    /// Its last frame was sent.
    pub ended: bool,
}

/// What is to be written, on any thread.
#[derive(Debug)]
pub struct Note {
    file: PathBuf,
    text: Vec<u8>,
}

impl Note {
    /// # Errors
    /// The folder cannot be written; the file is as it was.
    pub fn write(self) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            glowplug_model::files::make_private_folder(folder)?;
        }
        files::replace(&self.file, &self.text)
    }
}

/// The requests that acted within the window of de-duplication.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
    window: Duration,
    entries: VecDeque<(Instant, Acted)>,
}

impl Journal {
    /// Reads what the run before left. `name` is that of this daemon among those that share the folder. A file that cannot
    /// be read is begun anew; the error is for the log.
    pub fn open(
        state_dir: &Path,
        name: &str,
        window: Duration,
        now: Instant,
    ) -> (Self, io::Result<()>) {
        let file = state_dir.join(format!("tools-{name}.json"));
        let (entries, read) = match read(&file) {
            Ok(entries) => (entries, Ok(())),
            Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), Ok(())),
            Err(error) => {
                let why = format!("{}: {error}; it is begun anew", file.display());
                (Vec::new(), Err(io::Error::new(error.kind(), why)))
            }
        };
        let entries = entries
            .into_iter()
            .take(ENTRIES_MAX)
            .map(|acted| (now, acted));
        let journal = Self {
            file,
            window,
            entries: entries.collect(),
        };
        (journal, read)
    }

    /// All that is remembered, and which of them had not ended.
    pub fn entries(&self) -> impl Iterator<Item = &Acted> {
        self.entries.iter().map(|(_, acted)| acted)
    }

    /// Notes that a request is about to act. None: it is noted already.
    pub fn begin(&mut self, now: Instant, acted: Acted) -> Option<Note> {
        let is_same =
            |of: &Acted| (&of.client, of.ask, &of.id) == (&acted.client, acted.ask, &acted.id);
        if self.entries().any(|of| is_same(of) && !of.ended) {
            return None;
        }
        self.entries.retain(|(_, of)| !is_same(of));
        self.expire(now);
        self.entries.push_back((now, acted));
        Some(self.note())
    }

    /// Notes that a request has its last frame.
    pub fn end(&mut self, client: &str, ask: bool, id: &str) -> Option<Note> {
        let mut own = self.entries.iter_mut().map(|(_, acted)| acted);
        let own =
            own.find(|of| of.client == client && of.ask == ask && of.id == id && !of.ended)?;
        own.ended = true;
        Some(self.note())
    }

    /// Notes that everything that was found at the start has its last frame.
    pub fn end_all(&mut self) -> Option<Note> {
        let open = self.entries.iter_mut().filter(|(_, of)| !of.ended);
        let ended = open.map(|(_, of)| of.ended = true).count();
        (ended > 0).then(|| self.note())
    }

    /// Forgets what is older than the window, and at the bound the oldest that have ended.
    fn expire(&mut self, now: Instant) {
        let window = self.window;
        self.entries
            .retain(|(at, of)| !of.ended || now.saturating_duration_since(*at) <= window);
        while self.entries.len() >= ENTRIES_MAX {
            let oldest = self.entries.iter().position(|(_, of)| of.ended);
            self.entries.remove(oldest.unwrap_or(0));
        }
    }

    fn note(&self) -> Note {
        let all: Vec<&Acted> = self.entries().collect();
        Note {
            file: self.file.clone(),
            // this fails only for maps whose keys are no text
            text: serde_json::to_vec(&all).unwrap_or_default(),
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Acted>> {
    if fs::metadata(file)?.len() > FILE_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "is too long"));
    }
    serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn acted(client: &str, id: usize) -> Acted {
        Acted {
            client: client.to_owned(),
            ask: false,
            id: id.to_string(),
            topic: "t".to_owned(),
            default_topic: None,
            qos: 1,
            correlation: None,
            ended: false,
        }
    }

    fn open(folder: &Path, now: Instant) -> Journal {
        let (journal, read) = Journal::open(folder, "g-n", Duration::from_secs(10), now);
        read.unwrap();
        journal
    }

    #[test]
    fn what_began_is_there_after_a_restart_and_what_ended_is_known_as_ended() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut journal = open(folder.path(), now);
        journal.begin(now, acted("a", 1)).unwrap().write().unwrap();
        assert!(journal.begin(now, acted("a", 1)).is_none(), "once");
        journal.begin(now, acted("a", 2)).unwrap().write().unwrap();
        journal.end("a", false, "1").unwrap().write().unwrap();
        assert!(journal.end("a", false, "1").is_none() && journal.end("a", true, "2").is_none());
        let mut again = open(folder.path(), now);
        let ended: Vec<bool> = again.entries().map(|of| of.ended).collect();
        assert_eq!(ended, [true, false]);
        again.end_all().unwrap().write().unwrap();
        assert!(again.end_all().is_none());
        assert!(open(folder.path(), now).entries().all(|of| of.ended));
        // the window ends, for those that have ended
        again.begin(now, acted("b", 3)).unwrap();
        let later = now + Duration::from_secs(11);
        again.begin(later, acted("b", 4)).unwrap();
        let ids: Vec<&str> = again.entries().map(|of| of.id.as_str()).collect();
        assert_eq!(ids, ["3", "4"]);
    }

    #[test]
    fn it_is_bounded_and_a_broken_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut journal = open(folder.path(), now);
        for id in 0..2 * ENTRIES_MAX {
            journal.begin(now, acted("a", id)).unwrap();
            journal.end("a", false, &id.to_string()).unwrap();
        }
        assert_eq!(journal.entries().count(), ENTRIES_MAX);
        fs::write(folder.path().join("tools-g-n.json"), "[{").unwrap();
        let (journal, read) = Journal::open(folder.path(), "g-n", Duration::ZERO, now);
        assert!(
            read.unwrap_err().to_string().contains("begun anew") && journal.entries().count() == 0
        );
    }
}
