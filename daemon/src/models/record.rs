//! What is remembered of models over restarts: `models.json` in the state folder. Several programs of a user may use it
//! at once, so a change is applied under a lock to what is in the file, never to what was read a while ago.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::opened::Opened;
use crate::files;

/// Its name in the state folder.
const FILE: &str = "models.json";
/// Most bytes of the file.
const FILE_MAX: u64 = 1 << 20;
/// Most files whose hashes are remembered.
const KNOWN_MAX: usize = 16;
/// Most daemons that are remembered, by their names.
const DAEMONS_MAX: usize = 16;
/// Tries to get the lock, and the pause between two. A change takes milliseconds, so whoever holds the lock for longer
/// is stuck.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// A file that was read through, and what it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    stamp: String,
    /// SHA-256 of the file; for a packed file that of the model that it was made from.
    sha256: String,
}

/// What is remembered of one daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DaemonRecord {
    /// The model that was configured when `chosen` was chosen. If another one is configured now, the configuration
    /// wins.
    pub(crate) configured: PathBuf,
    /// The model that was chosen over MQTT.
    pub(crate) chosen: Option<PathBuf>,
    /// The last model that answered.
    pub(crate) good: Option<PathBuf>,
    /// A model that has not answered yet, and how often it was started.
    pub(crate) trial: Option<(PathBuf, u32)>,
    /// Changes of the model are refused while this is true.
    pub(crate) inhibited: bool,
}

/// Everything that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Record {
    daemons: BTreeMap<String, DaemonRecord>,
    /// The greatest version of a model that has answered.
    pub(crate) version: u64,
    known: BTreeMap<PathBuf, Known>,
}

impl Record {
    /// What is remembered of a daemon.
    pub(crate) fn of(&self, daemon: &str) -> DaemonRecord {
        self.daemons.get(daemon).cloned().unwrap_or_default()
    }

    /// What is remembered of a daemon, to be changed.
    pub(crate) fn of_mut(&mut self, daemon: &str) -> &mut DaemonRecord {
        while self.daemons.len() >= DAEMONS_MAX && !self.daemons.contains_key(daemon) {
            self.daemons.pop_first();
        }
        self.daemons.entry(daemon.to_owned()).or_default()
    }

    /// Remembers the hash of a file that was read through, or that was made here from one that was.
    pub(crate) fn know(&mut self, file: &Opened, sha256: &str) {
        let Some(stamp) = file.stamp().lasting() else {
            self.known.remove(file.path());
            return;
        };
        while self.known.len() >= KNOWN_MAX && !self.known.contains_key(file.path()) {
            // files that are gone are forgotten first, then any: the hash can be computed again
            let gone = self.known.keys().find(|path| !path.exists()).cloned();
            match gone {
                Some(path) => self.known.remove(&path),
                None => self.known.pop_first().map(|(_, known)| known),
            };
        }
        let sha256 = sha256.to_owned();
        self.known
            .insert(file.path().to_owned(), Known { stamp, sha256 });
    }

    /// The hash that [`Self::know`] was told, if this is still that file.
    pub(crate) fn known(&self, file: &Opened) -> Option<&str> {
        let known = self.known.get(file.path())?;
        (file.stamp().lasting().as_ref() == Some(&known.stamp)).then_some(known.sha256.as_str())
    }
}

/// The file, and how it is read and changed.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    file: PathBuf,
    /// A file that cannot be read is started anew, unless versions count.
    strict: bool,
}

impl Ledger {
    /// The file in a state folder.
    pub(crate) fn new(state_dir: &Path, strict: bool) -> Self {
        let file = state_dir.join(FILE);
        Self { file, strict }
    }

    /// Reads what is remembered.
    ///
    /// # Errors
    /// It cannot be read, and versions count. `InvalidData` means that this stays so.
    pub(crate) fn read(&self) -> io::Result<Record> {
        let error = match read(&self.file) {
            Ok(record) => return Ok(record),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Record::default()),
            Err(error) => error,
        };
        let why = format!("{}: {error}", self.file.display());
        if self.strict {
            let why = format!("{why}; which versions were served is not known");
            return Err(io::Error::new(error.kind(), why));
        }
        tracing::warn!("{why}; it is begun anew");
        Ok(Record::default())
    }

    /// Changes what is in the file, whoever wrote it last.
    ///
    /// # Errors
    /// It cannot be read or written, or another program holds the lock; nothing was changed.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            // the password of the embedded broker lies there too
            glowplug_model::files::make_private_folder(folder)?;
        }
        let _lock = self.lock()?;
        let before = self.read()?;
        let mut record = before.clone();
        change(&mut record);
        // the storage of a board bears only so many writes
        if record == before {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&record).map_err(io::Error::other)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(io::Error::other(format!("longer than {FILE_MAX} bytes")));
        }
        files::replace(&self.file, &bytes)
    }

    /// The hash of a file. If it is not known, the file is read through, and the hash is remembered where the folder
    /// can be written.
    ///
    /// # Errors
    /// The file cannot be read, or was changed meanwhile.
    pub(crate) fn sha256(&self, file: &Opened) -> io::Result<String> {
        if let Ok(record) = self.read()
            && let Some(sha256) = record.known(file)
        {
            return Ok(sha256.to_owned());
        }
        let sha256 = file.sha256()?;
        if let Err(error) = self.change(|record| record.know(file, &sha256)) {
            tracing::debug!("{}: {error}", self.file.display());
        }
        Ok(sha256)
    }

    /// Takes the lock. It is a file of its own, because the other one is replaced.
    fn lock(&self) -> io::Result<File> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(files::beside(&self.file, ".lock"))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let why = "another program of this user does not let go of it";
        Err(io::Error::new(ErrorKind::TimedOut, why))
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let bad = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(bad(format!("longer than {FILE_MAX} bytes")));
    }
    serde_json::from_slice(&fs::read(path)?).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn opened(path: &Path) -> Opened {
        Opened::open(path).unwrap()
    }

    #[test]
    fn hashes_are_known_as_long_as_the_file_is_the_same_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::default();
        let path = |n: usize| folder.path().join(format!("m{n}"));
        for n in 0..2 * KNOWN_MAX {
            fs::write(path(n), "x").unwrap();
            record.know(&opened(&path(n)), "ab");
            assert_eq!(record.known(&opened(&path(n))), Some("ab"));
        }
        assert_eq!(record.known.len(), KNOWN_MAX);
        let last = path(2 * KNOWN_MAX - 1);
        fs::write(&last, "xy").unwrap();
        assert_eq!(record.known(&opened(&last)), None);
        for n in 0..2 * DAEMONS_MAX {
            record.of_mut(&n.to_string()).inhibited = true;
        }
        assert_eq!(record.daemons.len(), DAEMONS_MAX);
        assert!(serde_json::to_vec(&record).unwrap().len() < FILE_MAX as usize);
    }

    /// One that read the file a while ago does not write that back.
    #[test]
    fn a_change_is_made_of_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (ours, theirs) = (Ledger::new(&state, false), Ledger::new(&state, true));
        let before = ours.read().unwrap();
        theirs
            .change(|record| record.of_mut("b").inhibited = true)
            .unwrap();
        ours.change(|record| record.version = 3).unwrap();
        assert_eq!(before, Record::default());
        let now = ours.read().unwrap();
        assert_eq!((now.version, now.of("b").inhibited), (3, true));
        // nobody else looks into the folder, and what says nothing new is not written
        let mode = fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let written = fs::metadata(state.join(FILE)).unwrap();
        ours.change(|record| record.version = 3).unwrap();
        let now = fs::metadata(state.join(FILE)).unwrap();
        assert_eq!(written.modified().unwrap(), now.modified().unwrap());
    }

    /// Many writers at once: each change is there afterwards.
    #[test]
    fn writers_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let ledger = Ledger::new(folder.path(), false);
                scope.spawn(move || {
                    let change = |record: &mut Record| {
                        record.version += 1;
                        record.of_mut(&n.to_string()).inhibited = true;
                    };
                    // eight share one disk: who waits too long tries again
                    while ledger.change(change).is_err() {}
                });
            }
        });
        let record = Ledger::new(folder.path(), false).read().unwrap();
        assert_eq!((record.version, record.daemons.len()), (8, 8));
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_a_damaged_one_is_begun_anew_unless_versions_count() {
        let folder = tempfile::tempdir().unwrap();
        let (loose, strict) = (
            Ledger::new(folder.path(), false),
            Ledger::new(folder.path(), true),
        );
        for text in ["{", "{\"x\":1}", &" ".repeat(FILE_MAX as usize + 1)] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert_eq!(loose.read().unwrap(), Record::default());
            let error = strict.read().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            let error = error.to_string();
            assert!(
                error.contains(FILE) && error.contains("versions"),
                "{error}"
            );
            assert!(strict.change(|record| record.version = 1).is_err());
        }
        loose.change(|record| record.version = 1).unwrap();
        assert_eq!(strict.read().unwrap().version, 1);
        // a folder in its place
        let folder = folder.path().join("other");
        fs::create_dir_all(folder.join(FILE).join("x")).unwrap();
        let ledger = Ledger::new(&folder, false);
        assert!(ledger.change(|record| record.version = 1).is_err());
    }
}
