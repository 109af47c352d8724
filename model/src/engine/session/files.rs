//! Sessions in files: what was said, and the pages that hold it. A file is believed only as far as its checksums go. The
//! text can be used with any model, the pages only with the model, the tokenizer and the formats that they were computed
//! with. Where the network has states, the pages come with the state behind them, without which they are of no use. With keys, files are encrypted, and one that does not open is neither used nor replaced.

use super::stored::{Stored, name, owner};
use super::unsaved::Unsaved;
use super::wear::Wear;
use super::{Session, SessionKey};
use crate::engine::request::Notice;
use crate::files;
use crate::gguf::Gguf;
use crate::kv::snapshot::{self, Limits, PART, Reader, Snapshot, SnapshotError};
use crate::kv::{KvCache, KvLayout, PageId, PageLost, Pages, StateLayout};
use crate::seal::{KeyFile, Keys};
use crate::text::{Message, Role, ToolCall};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most notices that wait to be read; more of them are lost.
const NOTICES_MAX: usize = 16;

/// The folder of session files, and what the pages in them must have been computed with.
pub(in crate::engine) struct Snapshots {
    folder: PathBuf,
    fingerprint: [u8; 32],
    page_bytes: usize,
    /// pages of the arena
    pages: usize,
    /// bytes of a state, which are none in a network without states
    state_bytes: usize,
    /// what files are encrypted with, if they are
    keys: Option<Arc<KeyFile>>,
    /// names of files that do not open, which an operator was told
    closed: BTreeSet<String>,
    wear: Wear,
    /// empty until the folder could be read
    stored: Stored,
    /// whether the folder was read
    read: bool,
    /// seconds of the clock of [`crate::engine::Engine::expire`]
    now: i64,
    /// whether the last write or removal failed
    failing: bool,
    notices: Vec<Notice>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Called>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Called {
    id: String,
    name: String,
    arguments: String,
}

impl Snapshots {
    /// Makes and reads the folder. If that fails, it is tried again later, and a [`Notice`] says so.
    pub(in crate::engine) fn new(
        folder: &Path,
        gguf: &Gguf,
        layout: &KvLayout,
        pages: usize,
        keys: Option<Arc<KeyFile>>,
        per_day: Option<u64>,
    ) -> Self {
        let mut snapshots = Self {
            folder: folder.to_owned(),
            fingerprint: fingerprint(gguf, layout),
            page_bytes: layout.page_bytes(),
            pages,
            state_bytes: 0,
            keys,
            closed: BTreeSet::new(),
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

    /// Takes pages for what they are only together with such a state from now on. A layout without layers changes nothing.
    pub(in crate::engine) fn with_states(mut self, layout: &StateLayout) -> Self {
        self.state_bytes = layout.bytes();
        if self.state_bytes > 0 {
            let mut hash = Sha256::new();
            hash.update(self.fingerprint);
            hash.update(format!("{layout:?}"));
            self.fingerprint = hash.finalize().into();
        }
        self
    }

    /// Sets the clock: `now` seconds have passed since the daemon began.
    pub(in crate::engine) fn at(&mut self, now: u64) {
        self.wear.at(now);
        self.now = i64::try_from(now).unwrap_or(i64::MAX);
        self.look();
    }

    /// Reads which files the folder has, until that has succeeded once.
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
        // a folder that could be read may still refuse writes: only a failure is noted here
        if done.is_err() {
            // the error is noted, and nothing else can be done now
            let _ = self.heard(done);
        }
    }

    /// Writes a session to its file, unless too much was written today.
    pub(in crate::engine) fn save(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        pages: &Pages,
        kv: &KvCache,
    ) -> Result<(), Unsaved> {
        self.wear.check(&key.client)?;
        self.save_now(key, session, pages, kv)
    }

    /// Writes a session to its file, however much was written today.
    pub(in crate::engine) fn save_now(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        pages: &Pages,
        kv: &KvCache,
    ) -> Result<(), Unsaved> {
        let mut chain: Vec<PageId> = (session.tip.into_iter())
            .flat_map(|tip| pages.chain(tip))
            .collect();
        chain.reverse();
        let tokens = chain.iter().flat_map(|page| pages.tokens(*page));
        let mut tokens: Vec<u32> = tokens.copied().collect();
        let mut state: &[u8] = &[];
        if self.state_bytes > 0 {
            // the pages go as far as a state is known
            let owner = session.tip.map(|tip| pages.owner(tip));
            let known = owner.and_then(|owner| kv.states().longest(owner, &tokens));
            tokens.truncate(known.map_or(0, |(_, tokens)| tokens));
            chain.truncate(tokens.len().div_ceil(PAGE_TOKENS));
            state = known.map_or(state, |(slot, _)| kv.states().bytes(slot));
        }
        // one after the other, because a device's pages take memory of the host while they are written
        let pages = chain.iter().map(|page| kv.page(*page));
        match self.write(key, session, (&tokens, state), pages) {
            // the text without the pages needs less room, and no device
            Err(Unsaved::Full | Unsaved::File(SnapshotError::Page(_))) => {
                self.write(key, session, (&[], &[]), std::iter::empty())
            }
            written => written,
        }
    }

    /// Writes only the text of a session to its file, unless too much was written today.
    pub(in crate::engine) fn save_text(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
    ) -> Result<(), Unsaved> {
        self.wear.check(&key.client)?;
        self.write(key, session, (&[], &[]), std::iter::empty())
    }

    fn write<'a>(
        &mut self,
        key: &SessionKey,
        session: &mut Session,
        (tokens, state): (&[u32], &[u8]),
        pages: impl ExactSizeIterator<Item = Result<Cow<'a, [u8]>, PageLost>>,
    ) -> Result<(), Unsaved> {
        let called = |call: &ToolCall| Called {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        };
        let messages = session.messages.iter().map(|m| Said {
            role: m.role.as_str().to_owned(),
            content: m.content.clone(),
            tool_calls: m.tool_calls.iter().map(called).collect(),
            tool_call_id: m.tool_call_id.clone(),
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
            state,
        };
        let name = name(&key.client, &key.name);
        let keys = self.keys();
        let (keys, sealed) = (keys.as_deref(), keys.is_some());
        let bytes = snapshot::header_bytes(tokens.len(), note.len(), sealed)
            + pages.len() * snapshot::page_bytes(self.page_bytes, sealed)
            + snapshot::state_bytes(state.len(), sealed);
        let (bytes, paged) = (bytes as u64, pages.len() > 0);
        let written = self
            .stored
            .make_room(&self.folder, &name, bytes, keys)
            .and_then(|()| {
                files::make_private_folder(&self.folder)?;
                snapshot::write(&self.folder, &name, &head, keys, pages)?;
                Ok(())
            });
        match written {
            Ok(()) => self.heard(Ok(()))?,
            Err(Unsaved::File(SnapshotError::Io(error))) => self.heard(Err(error))?,
            Err(unsaved) => return Err(unsaved),
        }
        self.wear.wrote(&key.client, bytes);
        self.stored.put(name, bytes, paged, self.now);
        (session.saved, session.paged, session.stale_file) = (true, true, false);
        Ok(())
    }

    /// The keys as they are now. What became of a change of them is noted.
    fn keys(&mut self) -> Option<Arc<Keys>> {
        let (keys, news) = self.keys.as_ref()?.keys();
        match news {
            None => {}
            Some(Ok(())) => {
                self.closed.clear();
                self.notice(Notice::Keys(keys.count()));
            }
            Some(Err(why)) => self.notice(Notice::KeysKept(why.to_string())),
        }
        Some(keys)
    }

    /// Notes whether the disk did what it was told. A [`Notice`] says when it begins to fail and when it works again.
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

    /// Opens the file of a session and checks its header. The pages are read from the reader.
    pub(in crate::engine) fn open(&mut self, key: &SessionKey) -> Result<Reader, SnapshotError> {
        let limits = Limits {
            page_bytes: self.page_bytes,
            pages: self.pages,
            state_bytes: self.state_bytes,
        };
        let path = self.folder.join(name(&key.client, &key.name));
        let keys = self.keys();
        let reader = snapshot::read_header(&path, &self.fingerprint, limits, keys.as_deref())?;
        match note(&reader) {
            Some(note) if *note.client == *key.client && *note.session == *key.name => Ok(reader),
            _ => Err(SnapshotError::NotOurs),
        }
    }

    /// Reads what was said in a session from its file. If the file is of no use, a [`Notice`] says so, and the session may
    /// begin anew.
    ///
    /// # Errors
    /// The file is encrypted, or may be, and does not open: nobody may replace it.
    pub(in crate::engine) fn known(
        &mut self,
        key: &SessionKey,
    ) -> Result<Option<Session>, SnapshotError> {
        let session = match self.open(key) {
            Ok(reader) => {
                let stale = reader.stale();
                let session = note(&reader).and_then(session);
                session.map(|session| (session, stale))
            }
            Err(SnapshotError::Io(error)) if files::is_missing(&error) => return Ok(None),
            Err(error) => return self.unusable(key, error).map(|()| None),
        };
        let Some((mut session, stale)) = session else {
            return self.unusable(key, SnapshotError::NotOurs).map(|()| None);
        };
        let seen = self.stored.seen(&name(&key.client, &key.name));
        (session.seen, session.stale_file) = (seen.unwrap_or(self.now), stale);
        Ok(Some(session))
    }

    /// Tells an operator of a file that is of no use. With keys, any damage may be that of an encrypted file, which the
    /// right key or a copy may mend: it is an error then, told once.
    fn unusable(&mut self, key: &SessionKey, why: SnapshotError) -> Result<(), SnapshotError> {
        let (client, session) = (key.client.clone(), key.name.clone());
        if self.keys.is_none() && !matches!(why, SnapshotError::NoKey) {
            self.notice(Notice::Unreadable {
                client,
                session,
                why: why.to_string(),
            });
            return Ok(());
        }
        let name = name(&key.client, &key.name);
        if self.closed.len() < NOTICES_MAX && self.closed.insert(name) {
            self.notice(Notice::Closed {
                client,
                session,
                why: why.to_string(),
            });
        }
        Err(why)
    }

    /// Whether there is a file of this session.
    pub(in crate::engine) fn has(&self, key: &SessionKey) -> bool {
        self.stored.has(&name(&key.client, &key.name))
    }

    /// Notes that a session is in its file alone from now on.
    pub(in crate::engine) fn shelved(&mut self, key: &SessionKey, session: &Session) {
        self.stored
            .touch(&name(&key.client, &key.name), session.seen);
    }

    /// Removes the file of a session, and the part of one that a killed process may have left. Gives whether there was one.
    ///
    /// # Errors
    /// The file may still be there, or be there again after a power cut.
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

    /// Removes the files of a client's sessions, those of other models too. Gives how many there were, not counting those of
    /// the sessions `besides`.
    ///
    /// # Errors
    /// The folder cannot be read, or a file cannot be removed; some of the files may still be there.
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

    /// Notes whether a removal worked, unless there was nothing to remove: that says nothing about the disk.
    fn removed<T: Default + PartialEq>(&mut self, done: io::Result<T>) -> io::Result<T> {
        match done {
            Ok(none) if none == T::default() => Ok(none),
            done => self.heard(done),
        }
    }

    /// Removes the files whose names begin with `begin`, and gives their names.
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

    /// Removes some of the files whose sessions nobody used in the last `seconds`, but none of the sessions `besides`.
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
        let call = |call: Called| ToolCall {
            id: call.id,
            name: call.name,
            arguments: call.arguments,
        };
        Some(Message {
            tool_calls: said.tool_calls.into_iter().map(call).collect(),
            tool_call_id: said.tool_call_id,
            ..Message::new(role, said.content)
        })
    });
    Some(Session::restored(
        messages.collect::<Option<_>>()?,
        note.turns,
    ))
}

/// A hash of all that pages depend on: model, tokenizer and template (by the file's header, its length and the beginning of
/// each tensor, because reading the whole file would take seconds) and the format of the cache.
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
