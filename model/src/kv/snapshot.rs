//! A session in a file: its tokens, a note that the caller wants back, and its pages.
//!
//! # Format
//! All numbers are little endian. The header has a magic number (8 bytes), the version (u32), the fingerprint (32 bytes: what
//! model, tokenizer, formats and configuration the pages belong to), the bytes of a page (u64), the numbers of pages, of
//! tokens and of the note's bytes (u32 each), the tokens (u32 each), the note, and the CRC-32 of all this. Then follow the
//! pages, each with its CRC-32, which also covers the header's CRC-32 and the page's number, so that pages cannot change
//! places or come from another file.
//!
//! The header stands alone. The note is read whatever model the pages belong to, and also where the pages are cut off, which
//! is how they are dropped to make room.
//!
//! The file is a new one with a `~` before its name until all of it is on the disk; then it takes its name. When it is read
//! back it is hostile input: nothing is believed that the limits and the file's own length do not allow. The CRCs find
//! accidental damage, but no forgery: whoever can write to the folder can write a session.

use super::PageLost;
use crate::files;
use crc32fast::Hasher;
use glowplug_firmware_config::limits::{PAGE_TOKENS, PAGES_MAX};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Component, Path};

const MAGIC: [u8; 8] = *b"glowsess";
const VERSION: u32 = 2;
/// The oldest version that is read. Since version 2 a session's messages may have calls of tools and their results.
const OLDEST: u32 = 1;
/// Bytes of the header before the tokens.
const FIXED: usize = 8 + 4 + 32 + 8 + 4 + 4 + 4;
const CRC: usize = 4;

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
}

/// The limits that a file is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many bytes a page must have.
    pub page_bytes: usize,
    /// How many pages there may be.
    pub pages: usize,
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
    #[error("it has version {0}, this program reads {OLDEST} to {VERSION}")]
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
    /// The device that has the pages does not give them any more.
    #[error(transparent)]
    Page(#[from] PageLost),
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a snapshot into the folder `dir` under `name`, and replaces the one of this name. `pages` gives the pages in order.
///
/// # Errors
/// The file cannot be written, is larger than the limits allow, has pages that do not fit the tokens, or has a path for its
/// name. A snapshot of this name that was there before is then still there.
pub fn write(
    dir: &Path,
    name: &str,
    snapshot: &Snapshot<'_>,
    pages: impl Iterator<Item = Result<impl AsRef<[u8]>, PageLost>>,
) -> Result<(), SnapshotError> {
    let mut parts = Path::new(name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
    {
        return Err(invalid("a snapshot's name is no path"));
    }
    let header = encode(snapshot)?;
    let part = dir.join(format!("{PART}{name}"));
    files::replace(&dir.join(name), &part, 0o600, |file| {
        write_all(file, &header, snapshot, pages)
    })
}

/// How many bytes a snapshot's file has before its pages.
#[must_use]
pub fn header_bytes(tokens: usize, note: usize) -> usize {
    FIXED + tokens * size_of::<u32>() + note + CRC
}

/// How many bytes a page of `page` bytes takes in a snapshot's file.
#[must_use]
pub fn page_bytes(page: usize) -> usize {
    page + CRC
}

/// Takes the pages out of a snapshot's file but leaves the note, and returns the new length of the file.
///
/// # Errors
/// The file cannot be changed or is no snapshot, and is then as it was.
pub fn drop_pages(path: &Path) -> Result<u64, SnapshotError> {
    let none = Limits {
        page_bytes: 0,
        pages: 0,
    };
    let Reader { header, file, .. } = read_header(path, &[0; 32], none)?;
    let len = header_bytes(header.tokens.len(), header.note.len()) as u64;
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
    snapshot: &Snapshot<'_>,
    pages: impl Iterator<Item = Result<impl AsRef<[u8]>, PageLost>>,
) -> Result<(), SnapshotError> {
    let header_crc = crc32fast::hash(header);
    file.write_all(header)?;
    file.write_all(&header_crc.to_le_bytes())?;
    let mut written = 0;
    for page in pages {
        let page = page?;
        let page = page.as_ref();
        if page.len() != snapshot.page_bytes {
            return Err(invalid("a page of another size"));
        }
        file.write_all(page)?;
        file.write_all(&page_crc(header_crc, written, page).to_le_bytes())?;
        written += 1;
    }
    if written != snapshot.tokens.len().div_ceil(PAGE_TOKENS) {
        return Err(invalid("more or fewer pages than the tokens take"));
    }
    Ok(())
}

/// Encodes the header without its CRC.
fn encode(snapshot: &Snapshot<'_>) -> Result<Vec<u8>, SnapshotError> {
    let Snapshot {
        fingerprint,
        page_bytes,
        tokens,
        note,
    } = snapshot;
    if tokens.len() > PAGES_MAX * PAGE_TOKENS {
        return Err(SnapshotError::TooLarge { what: "text" });
    }
    if note.len() > NOTE_MAX {
        return Err(SnapshotError::TooLarge { what: "note" });
    }
    let mut bytes = Vec::with_capacity(FIXED + tokens.len() * 4 + note.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(fingerprint);
    bytes.extend_from_slice(&(*page_bytes as u64).to_le_bytes());
    // the limits above are far below what 32 bits hold
    for count in [tokens.len().div_ceil(PAGE_TOKENS), tokens.len(), note.len()] {
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
    }
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes.extend_from_slice(note);
    Ok(bytes)
}

fn page_crc(header_crc: u32, number: usize, page: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&header_crc.to_le_bytes());
    hasher.update(&(number as u32).to_le_bytes());
    hasher.update(page);
    hasher.finalize()
}

fn invalid(what: &'static str) -> SnapshotError {
    io::Error::new(io::ErrorKind::InvalidInput, what).into()
}

/// A snapshot whose header has been read and whose pages come next.
#[derive(Debug)]
pub struct Reader {
    file: File,
    header: Header,
    header_crc: u32,
    page_bytes: usize,
    /// Why its pages cannot be used, if they cannot.
    unusable: Option<SnapshotError>,
    /// How many pages have been read.
    read: usize,
}

/// Reads and checks a snapshot's header, and checks that the file is no longer than the header says. `fingerprint` and
/// `limits` only decide whether the pages can be used: see [`Reader::unusable`].
///
/// # Errors
/// Whatever is wrong with the file, as [`SnapshotError`] names it.
pub fn read_header(
    path: &Path,
    fingerprint: &Fingerprint,
    limits: Limits,
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
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(SnapshotError::Version(version));
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
    // at most 1.5 MiB
    let body_len = tokens * size_of::<u32>() + note;
    let header_len = header_bytes(tokens, note) as u64;
    let len = page_bytes
        .checked_add(CRC as u64)
        .and_then(|page| page.checked_mul(pages as u64))
        .and_then(|pages| pages.checked_add(header_len))
        .ok_or(SnapshotError::TooLarge { what: "length" })?;
    if file_len < header_len {
        return Err(SnapshotError::Truncated);
    }
    if file_len > len {
        return Err(SnapshotError::Corrupt { what: "length" });
    }
    let unusable = if !ours || usize::try_from(page_bytes) != Ok(limits.page_bytes) {
        Some(SnapshotError::OtherModel)
    } else if pages > limits.pages {
        Some(SnapshotError::TooLarge {
            what: "number of pages",
        })
    } else {
        (file_len < len).then_some(SnapshotError::Truncated)
    };

    let mut body = vec![0; body_len];
    read_exact(&mut file, &mut body)?;
    let mut hasher = Hasher::new();
    hasher.update(&fixed);
    hasher.update(&body);
    let header_crc = hasher.finalize();
    if read_crc(&mut file)? != header_crc {
        return Err(SnapshotError::Corrupt { what: "header" });
    }
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
        header_crc,
        page_bytes: limits.page_bytes,
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

    /// Skips the next `pages` pages.
    ///
    /// # Errors
    /// The file cannot be read, or fewer pages are left.
    pub fn skip_pages(&mut self, pages: usize) -> Result<(), SnapshotError> {
        if pages > self.header.pages - self.read {
            return Err(invalid("all pages were read"));
        }
        let bytes = pages * (self.page_bytes + CRC);
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
        read_exact(&mut self.file, page)?;
        if read_crc(&mut self.file)? != page_crc(self.header_crc, self.read, page) {
            return Err(SnapshotError::Corrupt { what: "page" });
        }
        self.read += 1;
        Ok(())
    }
}

/// Takes the next field of the header.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], SnapshotError> {
    let (field, rest) = bytes.split_first_chunk().ok_or(SnapshotError::Truncated)?;
    *bytes = rest;
    Ok(*field)
}

fn read_exact(file: &mut File, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    files::operation("read")?;
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Truncated,
        _ => error.into(),
    })
}

fn read_crc(file: &mut File) -> Result<u32, SnapshotError> {
    let mut crc = [0; CRC];
    read_exact(file, &mut crc)?;
    Ok(u32::from_le_bytes(crc))
}

#[cfg(test)]
mod tests;
