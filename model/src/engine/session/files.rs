//! Sessions in files: what was said, and the pages that hold it. A file is believed only as far as its checksums go. What
//! was said is any model's; pages are those of the model, the tokenizer and the formats they were computed with.

use super::stored::{Stored, name, owner};
use super::wear::Wear;
use super::{Session, SessionKey};
use crate::engine::request::Notice;
use crate::files;
use crate::gguf::Gguf;
use crate::kv::snapshot::{self, Limits, PART, Reader, Snapshot, SnapshotError};
use crate::kv::{KvCache, KvLayout, PageId, Pages};
use crate::text::{Message, Role};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Notices that nobody has read yet; more of them are lost.
const NOTICES_MAX: usize = 16;

/// The folder, and what pages in its files must have been made with.
pub(in crate::engine) struct Snapshots {
    folder: PathBuf,
    fingerprint: [u8; 32],
    page_bytes: usize,
    /// of the arena
    pages: usize,
    wear: Wear,
    /// nothing before the folder could be read
    stored: Stored,
    read: bool,
    /// seconds, of whoever calls [`crate::engine::Engine::expire`]
    now: i64,
    /// the disk did not do what it was told the last time
    failing: bool,
    notices: Vec<Notice>,
}

/// A session is not in its file.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum Unsaved {
    /// it cannot be written
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// so much was written today
    #[error("{0} bytes of sessions a day are what the storage bears")]
    Worn(u64),
    /// there are as many files, or bytes in them, as there may be
    #[error("there are as many files as there may be")]
    Full,
}

/// What a file says besides tokens and pages.
#[derive(Serialize, Deserialize)]
struct Note {
    client: String,
    session: String,
    turns: usize,
    messages: Vec<Said>,
}

#[derive(Serialize, Deserialize)]
struct Said {
    role: String,
    content: String,
}

impl From<io::Error> for Unsaved {
    fn from(error: io::Error) -> Self {
        Self::File(error.into())
    }
}

impl Snapshots {
    /// A folder that cannot be made or read is tried again, and is a [`Notice`] until then.
    pub(in crate::engine) fn new(
        folder: &Path,
        gguf: &Gguf,
        layout: &KvLayout,
        pages: usize,
        per_day: Option<u64>,
    ) -> Self {
        let mut snapshots = Self {
            folder: folder.to_owned(),
            fingerprint: fingerprint(gguf, layout),
            page_bytes: layout.page_bytes(),
            pages,
            wear: Wear::new(per_day),
            stored: Stored::default(),
            read: false,
            now: 0,
            failing: false,
            notices: Vec::new(),
        };
        snapshots.look();
        snapshots
    }

    /// It is so many seconds later than the beginning.
    pub(in crate::engine) fn at(&mut self, now: u64) {
        self.wear.at(now);
        self.now = i64::try_from(now).unwrap_or(i64::MAX);
        self.look();
    }

    /// Looks what is in the folder, until that has succeeded once.
    fn look(&mut self) {
        if self.read {
            return;
        }
        let stored = files::make_private_folder(&self.folder)
            .and_then(|()| Stored::read(&self.folder, self.now));
        let done = stored.and_then(|(stored, written)| {
            (self.stored, self.read) = (stored, true);
            written
        });
        // that it can be written again is known when something was
        if done.is_err() {
            // it was noted, which is all that can be done now
            let _ = self.heard(done);
        }
    }

    /// Writes a session to its file, if the storage still bears that today.
    pub(in crate::engine) fn save(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        pages: &Pages,
        kv: &mut KvCache,
    ) -> Result<(), Unsaved> {
        self.wear.check(&key.client)?;
        self.save_now(key, session, pages, kv)
    }

    /// The same, whatever was written today.
    pub(in crate::engine) fn save_now(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        pages: &Pages,
        kv: &mut KvCache,
    ) -> Result<(), Unsaved> {
        let mut chain: Vec<PageId> = (session.tip.into_iter())
            .flat_map(|tip| pages.chain(tip))
            .collect();
        chain.reverse();
        let tokens = chain.iter().flat_map(|page| pages.tokens(*page));
        let tokens: Vec<u32> = tokens.copied().collect();
        let arena = kv.arena();
        let pages: Vec<&[u8]> = chain.iter().map(|page| arena.page(*page)).collect();
        match self.write(key, session, &tokens, &pages) {
            // what was said needs less room
            Err(Unsaved::Full) => self.write(key, session, &[], &[]),
            written => written,
        }
    }

    /// Writes what was said alone, if the storage still bears that today.
    pub(in crate::engine) fn save_text(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
    ) -> Result<(), Unsaved> {
        self.wear.check(&key.client)?;
        self.write(key, session, &[], &[])
    }

    fn write(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        tokens: &[u32],
        pages: &[&[u8]],
    ) -> Result<(), Unsaved> {
        let messages = session.messages.iter().map(|m| Said {
            role: m.role.as_str().to_owned(),
            content: m.content.clone(),
        });
        let note = Note {
            client: key.client.to_string(),
            session: key.name.to_string(),
            turns: session.turns,
            messages: messages.collect(),
        };
        let note = serde_json::to_vec(&note).map_err(io::Error::from)?;
        let head = Snapshot {
            fingerprint: self.fingerprint,
            page_bytes: self.page_bytes,
            tokens,
            note: &note,
        };
        let name = name(&key.client, &key.name);
        let bytes = snapshot::header_bytes(tokens.len(), note.len())
            + pages.len() * snapshot::page_bytes(self.page_bytes);
        let bytes = bytes as u64;
        let written = self
            .stored
            .make_room(&self.folder, &name, bytes)
            .and_then(|()| {
                files::make_private_folder(&self.folder)?;
                snapshot::write(&self.folder, &name, &head, pages.iter().copied())?;
                Ok(())
            });
        match written {
            Ok(()) => self.heard(Ok(()))?,
            Err(Unsaved::File(SnapshotError::Io(error))) => self.heard(Err(error))?,
            Err(unsaved) => return Err(unsaved),
        }
        self.wear.wrote(&key.client, bytes);
        self.stored.put(name, bytes, !pages.is_empty(), self.now);
        (session.saved, session.paged) = (true, true);
        Ok(())
    }

    /// Takes note of whether the disk does what it is told: said when it begins to fail, and when it has done something
    /// again.
    fn heard<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        match &done {
            Err(error) if !self.failing => {
                self.failing = true;
                self.notice(Notice::Failing(error.to_string()));
            }
            Ok(_) if self.failing => {
                self.failing = false;
                self.notice(Notice::Mended);
            }
            _ => {}
        }
        done
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(notice);
        }
    }

    pub(in crate::engine) fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Opens the file of a session; its pages follow.
    pub(in crate::engine) fn open(&self, key: &SessionKey) -> Result<Reader, SnapshotError> {
        let limits = Limits {
            page_bytes: self.page_bytes,
            pages: self.pages,
        };
        let path = self.folder.join(name(&key.client, &key.name));
        let reader = snapshot::read_header(&path, &self.fingerprint, limits)?;
        match note(&reader) {
            Some(note) if *note.client == *key.client && *note.session == *key.name => Ok(reader),
            _ => Err(SnapshotError::NotOurs),
        }
    }

    /// What was said in a session, by its file. A file that is of no use is a [`Notice`].
    pub(in crate::engine) fn known(&mut self, key: &SessionKey) -> Option<Session> {
        let session = match self.open(key) {
            Ok(reader) => session(note(&reader)?).ok_or(SnapshotError::NotOurs),
            Err(SnapshotError::Io(error)) if files::is_missing(&error) => return None,
            Err(error) => Err(error),
        };
        match session {
            Ok(mut session) => {
                let seen = self.stored.seen(&name(&key.client, &key.name));
                session.seen = seen.unwrap_or(self.now);
                Some(session)
            }
            Err(why) => {
                self.notice(Notice::Unreadable {
                    client: key.client.clone(),
                    session: key.name.clone(),
                    why: why.to_string(),
                });
                None
            }
        }
    }

    /// Is there a file of this session?
    pub(in crate::engine) fn has(&self, key: &SessionKey) -> bool {
        self.stored.has(&name(&key.client, &key.name))
    }

    /// A session is in its file alone from now on.
    pub(in crate::engine) fn shelved(&mut self, key: &SessionKey, session: &Session) {
        self.stored
            .touch(&name(&key.client, &key.name), session.seen);
    }

    /// Forgets the file of a session, and what a killed process has left of it. Gives if there was one.
    ///
    /// # Errors
    /// It may be there still, or again after a power cut.
    pub(in crate::engine) fn remove(&mut self, key: &SessionKey) -> io::Result<bool> {
        let name = name(&key.client, &key.name);
        let path = self.folder.join(&name);
        let removed = files::remove(&self.folder.join(format!("{PART}{name}"))).and_then(|part| {
            let file = files::remove(&path)?;
            if part || file {
                files::sync_folder(&path)?;
            }
            Ok(file)
        });
        let was_there = self.removed(removed)?;
        self.stored.forget(&name);
        Ok(was_there)
    }

    /// Forgets the files of a client's sessions, those of other models too. Gives how many there were besides those of the
    /// sessions that are given.
    ///
    /// # Errors
    /// The folder's; some of the files may be there still.
    pub(in crate::engine) fn remove_client(
        &mut self,
        client: &str,
        besides: &[SessionKey],
    ) -> io::Result<usize> {
        let removed = self.remove_all(&owner(client));
        let mut gone = self.removed(removed)?;
        for name in &gone {
            self.stored.forget(name);
        }
        gone.retain(|gone| !besides.iter().any(|k| *gone == name(&k.client, &k.name)));
        Ok(gone.len())
    }

    /// A disk where nothing had to be removed has done nothing.
    fn removed<T: Default + PartialEq>(&mut self, done: io::Result<T>) -> io::Result<T> {
        match done {
            Ok(none) if none == T::default() => Ok(none),
            done => self.heard(done),
        }
    }

    /// Removes the files whose names begin so, and gives these.
    fn remove_all(&self, begin: &str) -> io::Result<Vec<String>> {
        let mut gone = Vec::new();
        files::operation("read folder")?;
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if files::is_missing(&error) => return Ok(gone),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let whole = name.strip_prefix(PART).unwrap_or(&name);
            if whole.starts_with(begin) {
                files::remove(&self.folder.join(&name))?;
                if whole.len() == name.len() {
                    gone.push(name);
                }
            }
        }
        files::sync_folder(&self.folder.join(begin))?;
        Ok(gone)
    }

    /// Removes some of the files whose sessions nobody used for `seconds`, besides those of the sessions that are given.
    pub(in crate::engine) fn expire(&mut self, seconds: u64, besides: &[SessionKey]) {
        let besides = besides.iter().map(|k| name(&k.client, &k.name));
        let besides: BTreeSet<String> = besides.collect();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        for name in self.stored.expired(self.now, seconds, &besides) {
            let removed = files::remove(&self.folder.join(&name));
            if self.heard(removed).is_err() {
                break;
            }
            self.stored.forget(&name);
        }
    }
}

fn note(reader: &Reader) -> Option<Note> {
    serde_json::from_slice(&reader.header().note).ok()
}

fn session(note: Note) -> Option<Session> {
    let messages = note.messages.into_iter().map(|said| {
        let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
        let role = roles.into_iter().find(|r| r.as_str() == said.role)?;
        Some(Message {
            role,
            content: said.content,
        })
    });
    Some(Session::restored(
        messages.collect::<Option<_>>()?,
        note.turns,
    ))
}

/// Of all that pages depend on: model, tokenizer and template (the file's header, its length, the begin of each tensor)
/// and the format of the cache. The whole file would take seconds to read.
fn fingerprint(gguf: &Gguf, layout: &KvLayout) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(gguf.header());
    hash.update(gguf.file_bytes().to_le_bytes());
    for tensor in gguf.tensors() {
        let bytes = gguf.data(tensor);
        hash.update(&bytes[..bytes.len().min(256)]);
    }
    hash.update(format!("{layout:?} {PAGE_TOKENS}"));
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
