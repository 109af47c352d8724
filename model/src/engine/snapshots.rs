//! Sessions in files: what was said, and the pages that hold it. A file is believed only as far as its checksums go.

use super::session::{Session, SessionKey};
use crate::gguf::Gguf;
use crate::kv::snapshot::{self, Limits, Reader, Snapshot, SnapshotError};
use crate::kv::{KvCache, KvLayout, PageId, Pages};
use crate::text::{Message, Role};
use glowplug_firmware_config::limits::{PAGE_TOKENS, SESSIONS_MAX};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

const SUFFIX: &str = "session";

/// The folder, and what its files must have been made with.
pub(super) struct Snapshots {
    folder: PathBuf,
    fingerprint: [u8; 32],
    page_bytes: usize,
    /// of the arena
    pages: usize,
    wear: Wear,
}

/// What may be written in a day, for the sake of the storage. Days begin with the daemon.
#[derive(Debug, Clone, Copy)]
struct Wear {
    per_day: u64,
    day: u64,
    written: u64,
}

const DAY_S: u64 = 86_400;

/// A session is not in its file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsaved {
    /// it cannot be written
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// the day's writes are done
    #[error("{0} bytes of sessions a day are what the storage bears")]
    Worn(u64),
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

impl Snapshots {
    /// Makes the folder if it is not there.
    pub(super) fn new(
        folder: &Path,
        gguf: &Gguf,
        layout: &KvLayout,
        pages: usize,
        per_day: Option<u64>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            fingerprint: fingerprint(gguf, layout),
            page_bytes: layout.page_bytes(),
            pages,
            wear: Wear {
                per_day: per_day.unwrap_or(u64::MAX),
                day: 0,
                written: 0,
            },
        })
    }

    /// It is so many seconds later than the beginning.
    pub(super) fn at(&mut self, now: u64) {
        if now / DAY_S != self.wear.day {
            (self.wear.day, self.wear.written) = (now / DAY_S, 0);
        }
    }

    /// Writes a session to its file, if the storage still bears that today.
    pub(super) fn save(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        pages: &Pages,
        kv: &mut KvCache,
    ) -> Result<(), Unsaved> {
        if self.wear.written >= self.wear.per_day {
            return Err(Unsaved::Worn(self.wear.per_day));
        }
        Ok(self.save_now(key, session, pages, kv)?)
    }

    /// The same, whatever was written today.
    pub(super) fn save_now(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        pages: &Pages,
        kv: &mut KvCache,
    ) -> Result<(), SnapshotError> {
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
        let note = serde_json::to_vec(&note).map_err(|e| SnapshotError::Io(e.into()))?;
        let mut chain: Vec<PageId> = session
            .tip
            .into_iter()
            .flat_map(|tip| pages.chain(tip))
            .collect();
        chain.reverse();
        let tokens: Vec<u32> = chain
            .iter()
            .flat_map(|page| pages.tokens(*page))
            .copied()
            .collect();
        let head = Snapshot {
            fingerprint: self.fingerprint,
            page_bytes: self.page_bytes,
            tokens: &tokens,
            note: &note,
        };
        let bytes = note.len() + tokens.len() * 4 + chain.len() * self.page_bytes;
        self.wear.written = self.wear.written.saturating_add(bytes as u64);
        let arena = kv.arena();
        snapshot::write(
            &self.folder,
            &name(key),
            &head,
            chain.iter().map(|page| arena.page(*page)),
        )?;
        session.saved = true;
        Ok(())
    }

    /// Opens the file of a session; its pages follow.
    pub(super) fn open(&self, key: &SessionKey) -> Result<Reader, SnapshotError> {
        let path = self.folder.join(name(key));
        let reader = self.read(&path)?;
        match note(&reader) {
            Some(note) if *note.client == *key.client && *note.session == *key.name => Ok(reader),
            _ => Err(SnapshotError::NotOurs),
        }
    }

    fn read(&self, path: &Path) -> Result<Reader, SnapshotError> {
        let limits = Limits {
            page_bytes: self.page_bytes,
            pages: self.pages,
        };
        snapshot::read_header(path, &self.fingerprint, limits)
    }

    /// What was said in a session, by its file.
    pub(super) fn known(&self, key: &SessionKey) -> Option<Session> {
        let reader = self.open(key).ok()?;
        Some(session(note(&reader)?)?.1)
    }

    /// Forgets the file of a session.
    pub(super) fn remove(&self, key: &SessionKey) {
        // not there is what was wanted; one that stays is overwritten by the next of its name
        let _ = std::fs::remove_file(self.folder.join(name(key)));
    }

    /// Forgets the files of a client's sessions, those of other models too.
    ///
    /// # Errors
    /// The folder's; some of the files may be there still.
    pub(super) fn remove_client(&self, client: &str) -> io::Result<()> {
        let begin = format!("{}-", hex(client));
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&begin) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// What was said in every session that has a sound file, the pages left where they are.
    pub(super) fn all(&self) -> Vec<(SessionKey, Session)> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let paths = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == SUFFIX));
        paths
            .filter_map(|path| {
                let reader = self.read(&path).ok()?;
                session(note(&reader)?)
            })
            .take(SESSIONS_MAX)
            .collect()
    }
}

fn note(reader: &Reader) -> Option<Note> {
    serde_json::from_slice(&reader.header().note).ok()
}

fn session(note: Note) -> Option<(SessionKey, Session)> {
    let messages = note.messages.into_iter().map(|said| {
        let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
        let role = roles.into_iter().find(|r| r.as_str() == said.role)?;
        Some(Message {
            role,
            content: said.content,
        })
    });
    let key = SessionKey {
        client: note.client.into(),
        name: note.session.into(),
    };
    Some((
        key,
        Session::restored(messages.collect::<Option<_>>()?, note.turns),
    ))
}

/// No part of a client's name is part of a path; a client's files are known by how their names begin.
fn name(key: &SessionKey) -> String {
    format!("{}-{}.{SUFFIX}", hex(&key.client), hex(&key.name))
}

/// Half of the hash is enough: nobody finds a name of another one's.
fn hex(name: &str) -> String {
    let hash = Sha256::digest(name.as_bytes());
    hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
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
