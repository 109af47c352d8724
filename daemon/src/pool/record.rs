//! The requests of the pool that were accepted and have no end yet: a file in the state folder, so that each has its one end
//! although the daemon is killed. Who sent one does not know which daemon had it, and cannot ask that one again.
//!
//! Each has a slot of a block, written over in place and not forced to the disk. What a process has written outlives it, and
//! the kernel takes a block to a card twice a minute at most, however many requests come. After a power cut a part may be
//! missing, and an end may come a second time.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use glowplug_model::engine::RequestId;
use glowplug_model::files::make_private_folder;

use crate::mqtt::Lane;
use crate::tools::journal::Acted;

/// Most requests on record: as many as last frames that may wait to be sent, which bounds what is accepted.
const SLOTS: usize = Lane::Last.capacity();
/// Bytes of a slot. Client, id, two topics and Correlation Data are bounded and fit.
const SLOT: usize = 4096;

/// Most bytes that are held of it: slots on their way to the file.
pub const BYTES_MAX: usize = SLOTS * SLOT;

#[derive(Debug, Clone)]
enum Slot {
    Free,
    /// The run before had this one.
    Left(Box<Acted>),
    Taken(RequestId),
}

/// What is to be written, on any thread.
#[derive(Debug)]
pub struct Note {
    file: PathBuf,
    what: Change,
}

#[derive(Debug)]
enum Change {
    /// The slot has this text from now on, none if it is free.
    Slot(usize, Vec<u8>),
    Nothing,
}

impl Note {
    /// # Errors
    /// The folder cannot be written.
    pub fn write(self) -> io::Result<()> {
        let (slot, mut text) = match self.what {
            Change::Slot(slot, text) => (slot, text),
            Change::Nothing => return gone(fs::remove_file(&self.file)),
        };
        if let Some(folder) = self.file.parent() {
            make_private_folder(folder)?;
        }
        text.resize(SLOT - 1, b' ');
        text.push(b'\n');
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.file)?;
        file.write_all_at(&text, (slot * SLOT) as u64)
    }
}

/// Which slot has which request.
#[derive(Debug)]
pub struct Record {
    file: PathBuf,
    slots: Vec<Slot>,
}

impl Record {
    /// Reads what the run before left. `name` is that of this daemon among those that share the folder. A file that cannot
    /// be read is begun anew; the error is for the log.
    pub fn open(state_dir: &Path, name: &str) -> (Self, io::Result<()>) {
        let file = state_dir.join(format!("pool-{name}.json"));
        let mut record = Self {
            file,
            slots: vec![Slot::Free; SLOTS],
        };
        let read = record.read().or_else(|error| {
            gone(fs::remove_file(&record.file))?;
            let why = format!("{}: {error}; it is begun anew", record.file.display());
            Err(io::Error::new(error.kind(), why))
        });
        (record, read)
    }

    fn read(&mut self) -> io::Result<()> {
        let bytes = match fs::metadata(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            about => about?.len(),
        };
        if bytes > BYTES_MAX as u64 {
            return Err(io::Error::new(ErrorKind::InvalidData, "is too long"));
        }
        let text = fs::read(&self.file)?;
        for (slot, text) in self.slots.iter_mut().zip(text.chunks(SLOT)) {
            // one that was cut by a power cut says nothing
            if let Ok(taken) = serde_json::from_slice(text) {
                *slot = Slot::Left(Box::new(taken));
            }
        }
        Ok(())
    }

    /// What the run before had accepted and not ended.
    pub fn left(&self) -> impl Iterator<Item = &Acted> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Left(taken) => Some(&**taken),
            _ => None,
        })
    }

    /// Gives what the run before left to this one, each under a number of its own.
    pub fn adopt(&mut self, mut number: impl FnMut(Acted) -> RequestId) {
        for slot in &mut self.slots {
            if let Slot::Left(taken) = slot {
                *slot = Slot::Taken(number((**taken).clone()));
            }
        }
    }

    /// Puts a request on record. None: there is no room, which what is accepted does not let happen.
    pub fn begin(&mut self, number: RequestId, taken: &Acted) -> Option<Note> {
        let free = |slot: &Slot| matches!(slot, Slot::Free);
        let at = self.slots.iter().position(free)?;
        let text = serde_json::to_vec(taken).ok()?;
        if text.len() >= SLOT {
            return None;
        }
        self.slots[at] = Slot::Taken(number);
        Some(self.note(Change::Slot(at, text)))
    }

    /// The broker has the last frame of a request. None: it is not on record.
    pub fn end(&mut self, number: RequestId) -> Option<Note> {
        let own = |slot: &Slot| matches!(slot, Slot::Taken(taken) if *taken == number);
        let at = self.slots.iter().position(own)?;
        self.slots[at] = Slot::Free;
        Some(self.note(Change::Slot(at, Vec::new())))
    }

    /// Nothing is to be ended after a restart. None: nothing was.
    pub fn clear(&mut self) -> Option<Note> {
        let free = |slot: &Slot| matches!(slot, Slot::Free);
        if self.slots.iter().all(free) {
            return None;
        }
        self.slots.fill(Slot::Free);
        Some(self.note(Change::Nothing))
    }

    fn note(&self, what: Change) -> Note {
        Note {
            file: self.file.clone(),
            what,
        }
    }
}

/// That a file is not there is what was wanted.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn taken(id: &str) -> Acted {
        Acted {
            client: "c".to_owned(),
            ask: false,
            id: id.to_owned(),
            topic: "t".to_owned(),
            default_topic: None,
            qos: 1,
            correlation: None,
            ended: false,
        }
    }

    fn open(folder: &Path) -> Record {
        let (record, read) = Record::open(folder, "g-n");
        read.unwrap();
        record
    }

    fn ids(record: &Record) -> Vec<&str> {
        record.left().map(|of| of.id.as_str()).collect()
    }

    #[test]
    fn what_has_no_end_is_there_after_a_restart_until_it_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = open(folder.path());
        for (number, id) in [(1, "a"), (2, "b"), (3, "c")] {
            record.begin(number, &taken(id)).unwrap().write().unwrap();
        }
        record.end(2).unwrap().write().unwrap();
        assert!(record.end(2).is_none());
        record.begin(4, &taken("d")).unwrap().write().unwrap();
        // killed: the slot of `b` is that of `d`
        let mut record = open(folder.path());
        assert_eq!(ids(&record), ["a", "d", "c"]);
        let mut number = 10;
        record.adopt(|_| {
            number += 1;
            number
        });
        // what comes before they are told takes no slot of theirs
        record.begin(20, &taken("e")).unwrap().write().unwrap();
        record.end(12).unwrap().write().unwrap();
        let mut record = open(folder.path());
        assert_eq!(ids(&record), ["a", "c", "e"]);
        record.clear().unwrap().write().unwrap();
        assert!(record.clear().is_none());
        assert_eq!(ids(&open(folder.path())).len(), 0);
    }

    #[test]
    fn it_is_bounded_and_the_longest_request_fits() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = open(folder.path());
        let longest = Acted {
            client: "c".repeat(64),
            id: "\"".repeat(64),
            topic: "\"".repeat(512),
            default_topic: Some("\"".repeat(128 + 64 + 16)),
            correlation: Some(vec![255; 64]),
            ..taken("")
        };
        for number in 0..SLOTS as u64 {
            let note = record.begin(number, &longest).expect("a slot");
            if number + 1 == SLOTS as u64 {
                note.write().unwrap();
            }
        }
        assert!(record.begin(9999, &longest).is_none(), "the bound");
        record.end(7).unwrap();
        assert!(record.begin(9999, &longest).is_some());
        let read = open(folder.path());
        assert_eq!(read.left().next(), Some(&longest));
    }

    #[test]
    fn a_torn_slot_says_nothing_and_a_file_that_is_none_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = open(folder.path());
        for (number, id) in [(1, "a"), (2, "b")] {
            record.begin(number, &taken(id)).unwrap().write().unwrap();
        }
        let file = folder.path().join("pool-g-n.json");
        let mut text = fs::read(&file).unwrap();
        text[10..40].fill(0);
        fs::write(&file, &text[..text.len() - 100]).unwrap();
        assert_eq!(ids(&open(folder.path())), ["b"], "without its padding");
        fs::write(&file, vec![b' '; BYTES_MAX + 1]).unwrap();
        let (record, read) = Record::open(folder.path(), "g-n");
        assert!(read.unwrap_err().to_string().contains("begun anew"));
        assert!(record.left().next().is_none() && !file.exists());
    }
}
