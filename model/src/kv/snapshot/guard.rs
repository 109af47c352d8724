//! What follows each part of a session's file and finds out whether the part is as it was written: a checksum, or the tag
//! of its encryption.

use super::SnapshotError;
use crate::files;
use crate::seal::{FileKey, TAG_BYTES};
use crc32fast::Hasher;
use std::fs::File;
use std::io::{self, Read, Write};

const CRC: usize = 4;
/// Bytes of a page that are sealed at a time, which is what sealing takes of memory.
const SEALED_AT_A_TIME: usize = 64 << 10;

/// What guards the pages of a file, and has guarded its header.
#[derive(Debug)]
pub(super) enum Guard {
    /// The header's checksum, which those of the pages cover too.
    Sum(u32),
    /// The key of the file. The header is its part 0, the pieces of the pages follow.
    Seal(FileKey),
}

/// How many bytes guard a header.
pub(super) const fn header_bytes(sealed: bool) -> usize {
    if sealed { TAG_BYTES } else { CRC }
}

/// How many bytes guard a page of `page` bytes.
pub(super) const fn page_bytes(page: usize, sealed: bool) -> usize {
    if sealed {
        page.div_ceil(SEALED_AT_A_TIME) * TAG_BYTES
    } else {
        CRC
    }
}

impl Guard {
    /// Whether what it guards is encrypted.
    pub(super) fn seals(&self) -> bool {
        matches!(self, Self::Seal(_))
    }

    /// Writes the page of this number and what guards it.
    pub(super) fn write_page(
        &self,
        file: &mut dyn Write,
        number: usize,
        page: &[u8],
    ) -> io::Result<()> {
        match self {
            Self::Sum(header) => {
                file.write_all(page)?;
                file.write_all(&sum(*header, number, page).to_le_bytes())
            }
            Self::Seal(key) => {
                let mut piece = Vec::with_capacity(page.len().min(SEALED_AT_A_TIME) + TAG_BYTES);
                for (part, bytes) in parts(number, page.len()).zip(page.chunks(SEALED_AT_A_TIME)) {
                    piece.clear();
                    piece.extend_from_slice(bytes);
                    let tag = key.seal(part, &[], &mut piece)?;
                    piece.extend_from_slice(&tag);
                    file.write_all(&piece)?;
                }
                Ok(())
            }
        }
    }

    /// Reads the page of this number, and finds out whether it is as it was written.
    pub(super) fn read_page(
        &self,
        file: &mut File,
        number: usize,
        page: &mut [u8],
    ) -> Result<(), SnapshotError> {
        match self {
            Self::Sum(header) => {
                read_exact(file, page)?;
                if read_crc(file)? != sum(*header, number, page) {
                    return Err(SnapshotError::Corrupt { what: "page" });
                }
                Ok(())
            }
            Self::Seal(key) => {
                let parts = parts(number, page.len());
                for (part, bytes) in parts.zip(page.chunks_mut(SEALED_AT_A_TIME)) {
                    read_exact(file, bytes)?;
                    open(key, file, part, &[], bytes, "page")?;
                }
                Ok(())
            }
        }
    }
}

/// Reads the tag of a part that was read, and opens the part.
pub(super) fn open(
    key: &FileKey,
    file: &mut File,
    part: u64,
    beside: &[u8],
    bytes: &mut [u8],
    what: &'static str,
) -> Result<(), SnapshotError> {
    let mut tag = [0; TAG_BYTES];
    read_exact(file, &mut tag)?;
    key.open(part, beside, bytes, tag)
        .map_err(|_| SnapshotError::Altered { what })
}

/// The numbers of the pieces of a page. That of the header is 0.
fn parts(page: usize, bytes: usize) -> impl Iterator<Item = u64> {
    1 + (page * bytes.div_ceil(SEALED_AT_A_TIME)) as u64..
}

fn sum(header: u32, number: usize, page: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&header.to_le_bytes());
    hasher.update(&(number as u32).to_le_bytes());
    hasher.update(page);
    hasher.finalize()
}

/// Reads so many bytes, which the file must have.
pub(super) fn read_exact(file: &mut File, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    files::operation("read")?;
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Truncated,
        _ => error.into(),
    })
}

/// Reads a checksum, which the file must have.
pub(super) fn read_crc(file: &mut File) -> Result<u32, SnapshotError> {
    let mut crc = [0; CRC];
    read_exact(file, &mut crc)?;
    Ok(u32::from_le_bytes(crc))
}
