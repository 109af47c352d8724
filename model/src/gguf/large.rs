//! Writing a file so that its pages are large ones in memory.

use std::io::{self, Seek, SeekFrom, Write};

/// The size of a large page, and of what is written at once.
const LARGE: usize = 2 << 20;

/// Writes a file from its beginning in pieces of 2 MiB. Where the file system can (ext4 of Linux 6.18 does), the kernel keeps what is
/// written at once in one large page of its cache, and small ones are never joined later. So a file that is mapped as soon as it was
/// written has large pages too.
#[derive(Debug)]
pub struct Large<W> {
    out: W,
    piece: Vec<u8>,
}

impl<W: Write> Large<W> {
    /// A writer of a file that nothing was written to yet.
    pub fn new(out: W) -> Self {
        Self {
            out,
            piece: Vec::with_capacity(LARGE),
        }
    }
}

impl<W: Write> Write for Large<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.len().min(LARGE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..some]);
        if self.piece.len() == LARGE {
            self.out.write_all(&self.piece)?;
            self.piece.clear();
        }
        Ok(some)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.piece)?;
        self.piece.clear();
        self.out.flush()
    }
}

impl<W: Write + Seek> Seek for Large<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.flush()?;
        self.out.seek(to)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// What was written at once.
    struct Pieces(Cursor<Vec<u8>>, Vec<usize>);

    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.push(bytes.len());
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Pieces {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn all_is_written_in_large_pieces() {
        let bytes: Vec<u8> = (0..2 * LARGE + 77).map(|i| (i % 251) as u8).collect();
        let mut pieces = Pieces(Cursor::default(), Vec::new());
        let mut out = Large::new(&mut pieces);
        for some in bytes.chunks(300_007) {
            out.write_all(some).unwrap();
        }
        // as a sum is put in the head at the end
        out.seek(SeekFrom::Start(8)).unwrap();
        out.write_all(b"sum").unwrap();
        out.flush().unwrap();
        assert_eq!(pieces.1, [LARGE, LARGE, 77, 3]);
        let written = pieces.0.into_inner();
        assert_eq!(written[..8], bytes[..8]);
        assert_eq!(&written[8..11], b"sum");
        assert_eq!(written[11..], bytes[11..]);
    }
}
