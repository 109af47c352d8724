//! Any bytes as a session's file: an error, or a header and pages within the caps. The checksums are sealed first, which no
//! fuzzer guesses, so that what lies behind them is reached.

#![no_main]

use glowplug_model::kv::snapshot::{Limits, read_header};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

const LIMITS: Limits = Limits {
    page_bytes: 20,
    pages: 3,
};
/// Before the tokens: magic number, version, fingerprint, bytes of a page, and the numbers of pages, tokens and note bytes.
const FIXED: usize = 4 + 4 + 32 + 8 + 3 * 4;

/// The folder is made once, in memory where there is such a file system.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("glowplug-fuzz-session-{}", std::process::id()))
});

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    check(&sealed);
});

fn check(bytes: &[u8]) {
    fs::write(&*FILE, bytes).expect("the file system takes it");
    // that of the seeds
    let Ok(mut reader) = read_header(&FILE, &[7; 32], LIMITS) else {
        return;
    };
    let header = reader.header().clone();
    assert!(header.pages <= LIMITS.pages && header.tokens.len().div_ceil(32) == header.pages);
    let mut page = [0; LIMITS.page_bytes];
    while reader.read_page(&mut page).is_ok() {}
}

/// Writes the checksum behind the header and behind each page that is there.
fn seal(file: &mut [u8]) {
    let number = |file: &[u8], at: usize| {
        let field = file.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_le_bytes(*field) as usize)
    };
    let (Some(tokens), Some(note)) = (number(file, FIXED - 8), number(file, FIXED - 4)) else {
        return;
    };
    let Some(end) = tokens.checked_mul(4).and_then(|n| n.checked_add(note + FIXED)) else {
        return;
    };
    let Some((header, rest)) = file.split_at_mut_checked(end) else {
        return;
    };
    let header_crc = crc32fast::hash(header);
    let Some((crc, mut rest)) = rest.split_first_chunk_mut() else {
        return;
    };
    *crc = header_crc.to_le_bytes();
    for index in 0u64.. {
        let Some((page, after)) = rest.split_at_mut_checked(LIMITS.page_bytes) else {
            return;
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header_crc.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.update(page);
        let Some((crc, after)) = after.split_first_chunk_mut() else {
            return;
        };
        *crc = hasher.finalize().to_le_bytes();
        rest = after;
    }
}
