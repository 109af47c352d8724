//! What follows each part of a session's file and finds out whether the part is as it was written: a checksum, or the tag
//! of its encryption.

use super::SnapshotError;
use crate::files;
use crate::seal::{FileKey, TAG_BYTES};
use crc32fast::Hasher;
use std::fs::File;
use std::io::{self, Read, Write};

const CRC: usize = 4;
/// Bytes of a part that are sealed at a time, which is what sealing takes of memory.
const SEALED_AT_A_TIME: usize = 64 << 10;

/// What guards the parts of a file behind its header, which are its pages and a state, and has guarded the header.
#[derive(Debug)]
pub(super) enum Guard {
    /// The header's checksum, which those of the parts cover too.
    Sum(u32),
    /// The key of the file. The header is its part 0, the pieces of the pages follow, and then those of the state.
    Seal(FileKey),
}

/// The place of a part behind the header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    number: usize,
    /// The number of its first piece, where it is encrypted.
    piece: u64,
}

impl Place {
    /// The place behind so many pages of `page` bytes. No two parts of a file have a piece of the same number, because only
    /// the last part may have another size than a page.
    pub(super) fn behind(pages: usize, page: usize) -> Self {
        Self {
            number: pages,
            // that of the header is 0
            piece: 1 + (pages * page.div_ceil(SEALED_AT_A_TIME)) as u64,
        }
    }
}

/// How many bytes guard a header.
pub(super) const fn header_bytes(sealed: bool) -> usize {
    if sealed { TAG_BYTES } else { CRC }
}

/// How many bytes guard a page or a state of `part` bytes.
pub(super) const fn part_bytes(part: usize, sealed: bool) -> usize {
    if sealed {
        part.div_ceil(SEALED_AT_A_TIME) * TAG_BYTES
    } else {
        CRC
    }
}

impl Guard {
    /// Whether what it guards is encrypted.
    pub(super) fn seals(&self) -> bool {
        matches!(self, Self::Seal(_))
    }

    /// Writes the part of this place and what guards it.
    pub(super) fn write(&self, file: &mut dyn Write, at: Place, part: &[u8]) -> io::Result<()> {
        match self {
            Self::Sum(header) => {
                file.write_all(part)?;
                file.write_all(&sum(*header, at.number, part).to_le_bytes())
            }
            Self::Seal(key) => {
                let mut piece = Vec::with_capacity(part.len().min(SEALED_AT_A_TIME) + TAG_BYTES);
                for (number, bytes) in (at.piece..).zip(part.chunks(SEALED_AT_A_TIME)) {
                    piece.clear();
                    piece.extend_from_slice(bytes);
                    let tag = key.seal(number, &[], &mut piece)?;
                    piece.extend_from_slice(&tag);
                    file.write_all(&piece)?;
                }
                Ok(())
            }
        }
    }

    /// Reads the part of this place, which is called `what`, and finds out whether it is as it was written.
    pub(super) fn read(
        &self,
        file: &mut File,
        at: Place,
        part: &mut [u8],
        what: &'static str,
    ) -> Result<(), SnapshotError> {
        match self {
            Self::Sum(header) => {
                read_exact(file, part)?;
                if read_crc(file)? != sum(*header, at.number, part) {
                    return Err(SnapshotError::Corrupt { what });
                }
                Ok(())
            }
            Self::Seal(key) => {
                for (number, bytes) in (at.piece..).zip(part.chunks_mut(SEALED_AT_A_TIME)) {
                    read_exact(file, bytes)?;
                    open(key, file, number, &[], bytes, what)?;
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

fn sum(header: u32, number: usize, part: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&header.to_le_bytes());
    hasher.update(&(number as u32).to_le_bytes());
    hasher.update(part);
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
