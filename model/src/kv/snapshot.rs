//! A session in a file: its tokens, a note that the caller wants back, its pages, and its state where the network has one.
//! One file, because what is written and what is read back must agree field by field.
//!
//! # Format
//! All numbers are little endian. The header has a magic number (8 bytes), the version (u32), the fingerprint (32 bytes: what
//! model, tokenizer, formats and configuration the pages belong to), the bytes of a page (u64), the numbers of pages, of
//! tokens and of the note's bytes (u32 each), the tokens (u32 each), the note, and the CRC-32 of all this. Then follow the
//! pages, each with its CRC-32, which also covers the header's CRC-32 and the page's number, so that pages cannot change
//! places or come from another file.
//!
//! Where the network has states, the 17th bit of the version is set: the bytes of a state (u64) stand behind the number of the
//! note's bytes, and behind the last page the state of the session behind its last token, with a CRC-32 like a page's. Pages
//! without it would be of no use.
//!
//! With keys, the version is 3. Before the tokens stands the file's lock (40 bytes: the name of the key, and random bytes);
//! tokens and note are encrypted, and all that stands before them is bound to them. Tags of 16 bytes take the places of the
//! CRCs. A page is encrypted in pieces of 64 KiB, each with its tag, and each with its number in the file, and so is a state.
//!
//! The header stands alone. The note is read whatever model the pages belong to, and also where the pages are cut off, which
//! is how they are dropped to make room.
//!
//! The file is a new one with a `~` before its name until all of it is on the disk; then it takes its name. When it is read
//! back it is hostile input: nothing is believed that the limits and the file's own length do not allow. The CRCs find
//! accidental damage, but no forgery: whoever can write to the folder can write a session without keys, which is read where
//! there are keys too, so that those from before there were any go on.

mod guard;

use super::PageLost;
use crate::files;
use crate::seal::{FileLock, Keys, LOCK_BYTES, key_name};
use crc32fast::Hasher;
use glowplug_firmware_config::limits::{PAGE_TOKENS, PAGES_MAX};
use guard::{Guard, Place, read_crc, read_exact};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path};

const MAGIC: [u8; 8] = *b"glowsess";
const VERSION: u32 = 2;
/// The version of a file that is encrypted.
const SEALED: u32 = 3;
/// The oldest version that is read. Since version 2 a session's messages may have calls of tools and their results.
const OLDEST: u32 = 1;
/// The bit of the version of a file that has a state behind its pages.
const STATED: u32 = 1 << 16;
/// Bytes of the header before the tokens, without those that say how many bytes a state has.
const FIXED: usize = 8 + 4 + 32 + 8 + 4 + 4 + 4;

/// What the name of a file begins with while it is written. The name of a session never does.
pub(crate) const PART: char = '~';

/// Most bytes of a note, which is eight for each token that there may be.
pub const NOTE_MAX: usize = 1 << 20;

/// The hash of everything that pages depend on. Pages with another fingerprint cannot be used.
pub type Fingerprint = [u8; 32];

/// What is written before the pages.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The fingerprint of what the pages belong to.
    pub fingerprint: Fingerprint,
    /// How many bytes a page has.
    pub page_bytes: usize,
    /// The tokens in the pages. Their number says how many pages there are.
    pub tokens: &'a [u32],
    /// Whatever the caller wants back.
    pub note: &'a [u8],
    /// The state behind the last token; empty in a network without states.
    pub state: &'a [u8],
}

/// The limits that a file is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many bytes a page must have.
    pub page_bytes: usize,
    /// How many pages there may be.
    pub pages: usize,
    /// How many bytes a state must have, which is 0 in a network without states.
    pub state_bytes: usize,
}

/// What was read before the pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How many pages follow.
    pub pages: usize,
    /// The tokens in those pages.
    pub tokens: Vec<u32>,
    /// The note that the caller wanted back.
    pub note: Vec<u8>,
}

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is no snapshot at all.
    #[error("it is no snapshot")]
    NotOurs,
    /// The snapshot has another version.
    #[error("it has version {0}, this program reads {OLDEST} to {SEALED}")]
    Version(u32),
    /// The snapshot was made with another model, tokenizer, format or configuration.
    #[error("it belongs to another model or configuration")]
    OtherModel,
    /// The file is shorter than it says.
    #[error("it is cut off")]
    Truncated,
    /// The file contradicts itself or its checksums.
    #[error("its {what} is corrupt")]
    Corrupt {
        /// The part of the file that is wrong.
        what: &'static str,
    },
    /// A part of the file is larger than the limits allow.
    #[error("its {what} is larger than it may be")]
    TooLarge {
        /// The part of the file that is wrong.
        what: &'static str,
    },
    /// The snapshot is encrypted, and there are no keys.
    #[error("it is encrypted, and `sessions.key_file` is not set")]
    NoKey,
    /// The snapshot is encrypted with a key that is none of those there are.
    #[error("it is encrypted with the key {0}, which `sessions.key_file` does not hold")]
    OtherKey(String),
    /// What is encrypted is not what was written there.
    #[error("its {what} was altered: it does not open with the key that it names")]
    Altered {
        /// The part of the file that is wrong.
        what: &'static str,
    },
    /// The device that has the pages does not give them any more.
    #[error(transparent)]
    Page(#[from] PageLost),
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a snapshot into the folder `dir` under `name`, and replaces the one of this name. With `keys` it is encrypted with
/// the newest of them. `pages` gives the pages in order.
///
/// # Errors
/// The file cannot be written, is larger than the limits allow, has pages that do not fit the tokens, or has a path for its
/// name. A snapshot of this name that was there before is then still there.
pub fn write(
    dir: &Path,
    name: &str,
    snapshot: &Snapshot<'_>,
    keys: Option<&Keys>,
    pages: impl Iterator<Item = Result<impl AsRef<[u8]>, PageLost>>,
) -> Result<(), SnapshotError> {
    let mut parts = Path::new(name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
    {
        return Err(invalid("a snapshot's name is no path"));
    }
    let (header, guard) = encode(snapshot, keys)?;
    let part = dir.join(format!("{PART}{name}"));
    files::replace(&dir.join(name), &part, 0o600, |file| {
        write_all(file, &header, &guard, snapshot, pages)
    })
}

/// How many bytes a snapshot's file has before its pages. `sealed`: it is encrypted.
#[must_use]
pub fn header_bytes(tokens: usize, note: usize, sealed: bool) -> usize {
    let lock = if sealed { LOCK_BYTES } else { 0 };
    FIXED + lock + tokens * size_of::<u32>() + note + guard::header_bytes(sealed)
}

/// How many bytes a page of `page` bytes takes in a snapshot's file. `sealed`: it is encrypted.
#[must_use]
pub fn page_bytes(page: usize, sealed: bool) -> usize {
    page + guard::part_bytes(page, sealed)
}

/// How many bytes a state of `state` bytes adds to a snapshot's file, which are none where there is none. `sealed`: it is
/// encrypted.
#[must_use]
pub fn state_bytes(state: usize, sealed: bool) -> usize {
    if state == 0 {
        0
    } else {
        size_of::<u64>() + state + guard::part_bytes(state, sealed)
    }
}

/// Takes the pages out of a snapshot's file but leaves the note, and returns the new length of the file.
///
/// # Errors
/// The file cannot be changed, is no snapshot or does not open, and is then as it was.
pub fn drop_pages(path: &Path, keys: Option<&Keys>) -> Result<u64, SnapshotError> {
    let none = Limits {
        page_bytes: 0,
        pages: 0,
        state_bytes: 0,
    };
    let Reader {
        file, begin: len, ..
    } = read_header(path, &[0; 32], none, keys)?;
    let written = file.metadata()?.modified()?;
    files::operation("open")?;
    let file = OpenOptions::new().write(true).open(path)?;
    files::operation("cut")?;
    file.set_len(len)?;
    // the file keeps the age of the conversation in it
    file.set_modified(written)?;
    Ok(len)
}

fn write_all(
    file: &mut dyn Write,
    header: &[u8],
    guard: &Guard,
    snapshot: &Snapshot<'_>,
    pages: impl Iterator<Item = Result<impl AsRef<[u8]>, PageLost>>,
) -> Result<(), SnapshotError> {
    file.write_all(header)?;
    let mut written = 0;
    for page in pages {
        let page = page?;
        let page = page.as_ref();
        if page.len() != snapshot.page_bytes {
            return Err(invalid("a page of another size"));
        }
        guard.write(file, Place::behind(written, page.len()), page)?;
        written += 1;
    }
    if written != snapshot.tokens.len().div_ceil(PAGE_TOKENS) {
        return Err(invalid("more or fewer pages than the tokens take"));
    }
    if !snapshot.state.is_empty() {
        let behind = Place::behind(written, snapshot.page_bytes);
        guard.write(file, behind, snapshot.state)?;
    }
    Ok(())
}

/// Encodes the header with what guards it, and gives what guards the pages.
fn encode(snapshot: &Snapshot<'_>, keys: Option<&Keys>) -> Result<(Vec<u8>, Guard), SnapshotError> {
    let Snapshot {
        fingerprint,
        page_bytes,
        tokens,
        note,
        state,
    } = snapshot;
    if tokens.len() > PAGES_MAX * PAGE_TOKENS {
        return Err(SnapshotError::TooLarge { what: "text" });
    }
    if note.len() > NOTE_MAX {
        return Err(SnapshotError::TooLarge { what: "note" });
    }
    let sealed = keys.is_some();
    let mut bytes = Vec::with_capacity(header_bytes(tokens.len(), note.len(), sealed));
    bytes.extend_from_slice(&MAGIC);
    let stated = if state.is_empty() { 0 } else { STATED };
    let version = if sealed { SEALED } else { VERSION } | stated;
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(fingerprint);
    bytes.extend_from_slice(&(*page_bytes as u64).to_le_bytes());
    // the limits above are far below what 32 bits hold
    for count in [tokens.len().div_ceil(PAGE_TOKENS), tokens.len(), note.len()] {
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
    }
    if !state.is_empty() {
        bytes.extend_from_slice(&(state.len() as u64).to_le_bytes());
    }
    let lock = keys.map(Keys::lock).transpose()?;
    if let Some((lock, _)) = &lock {
        bytes.extend_from_slice(lock);
    }
    let clear = bytes.len();
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes.extend_from_slice(note);
    let guard = match lock {
        None => {
            let sum = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&sum.to_le_bytes());
            Guard::Sum(sum)
        }
        Some((_, key)) => {
            let (clear, body) = bytes.split_at_mut(clear);
            let tag = key.seal(0, clear, body)?;
            bytes.extend_from_slice(&tag);
            Guard::Seal(key)
        }
    };
    Ok((bytes, guard))
}

fn invalid(what: &'static str) -> SnapshotError {
    io::Error::new(io::ErrorKind::InvalidInput, what).into()
}

/// A snapshot whose header has been read and whose pages come next.
#[derive(Debug)]
pub struct Reader {
    file: File,
    header: Header,
    guard: Guard,
    /// Whether it would be written otherwise now: with another key, or with one at all.
    stale: bool,
    page_bytes: usize,
    state_bytes: usize,
    /// The byte at which its pages begin.
    begin: u64,
    /// Why its pages cannot be used, if they cannot.
    unusable: Option<SnapshotError>,
    /// How many pages have been read.
    read: usize,
}

/// Reads and checks a snapshot's header, and checks that the file is no longer than the header says. `fingerprint` and
/// `limits` only decide whether the pages can be used: see [`Reader::unusable`]. A file that is encrypted is read with the one
/// of the `keys` that it names.
///
/// # Errors
/// Whatever is wrong with the file, as [`SnapshotError`] names it.
pub fn read_header(
    path: &Path,
    fingerprint: &Fingerprint,
    limits: Limits,
    keys: Option<&Keys>,
) -> Result<Reader, SnapshotError> {
    files::operation("open")?;
    // a FIFO would block
    if !fs::metadata(path)?.is_file() {
        return Err(SnapshotError::NotOurs);
    }
    let mut file = File::open(path)?;
    let file_len = file.metadata()?.len();

    let mut fixed = [0; FIXED];
    read_exact(&mut file, &mut fixed)?;
    let mut fields = &fixed[..];
    if take(&mut fields)? != MAGIC {
        return Err(SnapshotError::NotOurs);
    }
    let version = u32::from_le_bytes(take(&mut fields)?);
    let (stated, kind) = (version & STATED != 0, version & !STATED);
    if !(OLDEST..=SEALED).contains(&kind) {
        return Err(SnapshotError::Version(version));
    }
    let sealed = kind == SEALED;
    if sealed && keys.is_none() {
        return Err(SnapshotError::NoKey);
    }
    let ours = take(&mut fields)? == *fingerprint;
    let page_bytes = u64::from_le_bytes(take(&mut fields)?);
    let mut count = |max: usize, what| {
        let n = u32::from_le_bytes(take(&mut fields)?);
        usize::try_from(n)
            .ok()
            .filter(|&n| n <= max)
            .ok_or(SnapshotError::TooLarge { what })
    };
    let pages = count(PAGES_MAX, "number of pages")?;
    let tokens = count(pages * PAGE_TOKENS, "text")?;
    let note = count(NOTE_MAX, "note")?;
    if tokens.div_ceil(PAGE_TOKENS) != pages {
        return Err(SnapshotError::Corrupt {
            what: "number of pages",
        });
    }
    let mut head = fixed.to_vec();
    let mut state = 0;
    if stated {
        let mut bytes = [0; size_of::<u64>()];
        read_exact(&mut file, &mut bytes)?;
        head.extend_from_slice(&bytes);
        state = u64::from_le_bytes(bytes);
    }
    // at most 1.5 MiB
    let body_len = tokens * size_of::<u32>() + note;
    let header_len = (header_bytes(tokens, note, sealed) + head.len() - FIXED) as u64;
    let guarded = |bytes: u64| {
        let bytes = usize::try_from(bytes).ok()?;
        bytes.checked_add(guard::part_bytes(bytes, sealed))
    };
    let state_len = if stated { guarded(state) } else { Some(0) };
    let len = guarded(page_bytes)
        .and_then(|page| page.checked_mul(pages))
        .and_then(|pages| pages.checked_add(state_len?))
        .and_then(|parts| (parts as u64).checked_add(header_len))
        .ok_or(SnapshotError::TooLarge { what: "length" })?;
    if file_len < header_len {
        return Err(SnapshotError::Truncated);
    }
    if file_len > len {
        return Err(SnapshotError::Corrupt { what: "length" });
    }
    let fits = usize::try_from(page_bytes) == Ok(limits.page_bytes)
        && usize::try_from(state) == Ok(limits.state_bytes);
    let unusable = if !ours || !fits {
        Some(SnapshotError::OtherModel)
    } else if pages > limits.pages {
        Some(SnapshotError::TooLarge {
            what: "number of pages",
        })
    } else {
        (file_len < len).then_some(SnapshotError::Truncated)
    };

    let lock = match keys {
        Some(keys) if sealed => {
            let mut lock: FileLock = [0; LOCK_BYTES];
            read_exact(&mut file, &mut lock)?;
            let key = keys.behind(&lock);
            Some((
                lock,
                key.ok_or_else(|| SnapshotError::OtherKey(key_name(&lock)))?,
            ))
        }
        _ => None,
    };
    let mut body = vec![0; body_len];
    read_exact(&mut file, &mut body)?;
    let (guard, stale) = match lock {
        None => {
            let mut hasher = Hasher::new();
            hasher.update(&head);
            hasher.update(&body);
            let sum = hasher.finalize();
            if read_crc(&mut file)? != sum {
                return Err(SnapshotError::Corrupt { what: "header" });
            }
            (Guard::Sum(sum), keys.is_some())
        }
        Some((lock, (key, newest))) => {
            let clear = [&head[..], &lock].concat();
            guard::open(&key, &mut file, 0, &clear, &mut body, "header")?;
            (Guard::Seal(key), !newest)
        }
    };
    let note = body.split_off(tokens * size_of::<u32>());
    let (tokens, _) = body.as_chunks();
    Ok(Reader {
        file,
        header: Header {
            pages,
            tokens: tokens
                .iter()
                .map(|&token| u32::from_le_bytes(token))
                .collect(),
            note,
        },
        guard,
        stale,
        page_bytes: limits.page_bytes,
        state_bytes: limits.state_bytes,
        begin: header_len,
        unusable,
        read: 0,
    })
}

impl Reader {
    /// The header that was read before the pages.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Why no page can be read, if so: the pages belong to another model or configuration, are more than the limit, or are
    /// not all there.
    #[must_use]
    pub fn unusable(&self) -> Option<&SnapshotError> {
        self.unusable.as_ref()
    }

    /// Whether the file would be written otherwise with the keys that it was read with: it is encrypted with an older one, or
    /// not at all.
    #[must_use]
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// Skips the next `pages` pages.
    ///
    /// # Errors
    /// The file cannot be read, or fewer pages are left.
    pub fn skip_pages(&mut self, pages: usize) -> Result<(), SnapshotError> {
        if pages > self.header.pages - self.read {
            return Err(invalid("all pages were read"));
        }
        let bytes = pages * page_bytes(self.page_bytes, self.guard.seals());
        // the length of the file was checked to hold them
        self.file.seek_relative(bytes as i64)?;
        self.read += pages;
        Ok(())
    }

    /// Reads the next page into `page`, whose contents mean nothing after an error.
    ///
    /// # Errors
    /// The page is corrupt, the file was shortened meanwhile, all pages have been read, or `page` has another size. The first
    /// call also gives what [`Self::unusable`] says.
    pub fn read_page(&mut self, page: &mut [u8]) -> Result<(), SnapshotError> {
        if let Some(why) = self.unusable.take() {
            self.read = self.header.pages;
            return Err(why);
        }
        if page.len() != self.page_bytes {
            return Err(invalid("a page of another size"));
        }
        if self.read == self.header.pages {
            return Err(invalid("all pages were read"));
        }
        let place = Place::behind(self.read, page.len());
        self.guard.read(&mut self.file, place, page, "page")?;
        self.read += 1;
        Ok(())
    }

    /// Reads the state behind the last token into `state`, whose contents mean nothing after an error. The page that is read next
    /// stays the same.
    ///
    /// # Errors
    /// The state is corrupt, the file was shortened meanwhile, no page can be read either, or `state` has another size.
    pub fn read_state(&mut self, state: &mut [u8]) -> Result<(), SnapshotError> {
        if self.unusable.is_some() || state.is_empty() || state.len() != self.state_bytes {
            return Err(invalid("a state of another size"));
        }
        // the length of the file was checked to hold all pages
        let page = page_bytes(self.page_bytes, self.guard.seals());
        let behind = |pages: usize| SeekFrom::Start(self.begin + (pages * page) as u64);
        let (pages, next) = (behind(self.header.pages), behind(self.read));
        self.file.seek(pages)?;
        let place = Place::behind(self.header.pages, self.page_bytes);
        self.guard.read(&mut self.file, place, state, "state")?;
        self.file.seek(next)?;
        Ok(())
    }
}

/// Takes the next field of the header.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], SnapshotError> {
    let (field, rest) = bytes.split_first_chunk().ok_or(SnapshotError::Truncated)?;
    *bytes = rest;
    Ok(*field)
}

#[cfg(test)]
mod tests;
