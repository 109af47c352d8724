//! Any bytes as a session's file: an error, or a header and pages within the caps. The checksums are made right first, or what
//! an encrypted file holds is encrypted, which no fuzzer guesses, so that what lies behind them is reached.

use glowplug_model::kv::snapshot::{Limits, read_header};
use glowplug_model::seal::{FileLock, Keys, LOCK_BYTES};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

const LIMITS: Limits = Limits {
    page_bytes: 20,
    pages: 3,
    state_bytes: 0,
};
/// Before the tokens: magic number, version, fingerprint, bytes of a page, and the numbers of pages, tokens and note bytes.
const FIXED: usize = 8 + 4 + 32 + 8 + 3 * 4;

/// Those of the seeds.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"5".repeat(64)).expect("one key"));

/// The folder is made once, in memory where there is such a file system.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    folder.join(format!("glowplug-fuzz-session-{}", std::process::id()))
});

pub(super) fn run(bytes: &[u8]) {
    check(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    check(&sealed);
    let mut encrypted = bytes.to_vec();
    if encrypt(&mut encrypted).is_some() {
        check(&encrypted);
    }
}

fn check(bytes: &[u8]) {
    fs::write(&*FILE, bytes).expect("the file system takes it");
    // that of the seeds
    let Ok(mut reader) = read_header(&FILE, &[7; 32], LIMITS, Some(&KEYS)) else {
        return;
    };
    let header = reader.header().clone();
    assert!(header.pages <= LIMITS.pages && header.tokens.len().div_ceil(32) == header.pages);
    let mut page = [0; LIMITS.page_bytes];
    while reader.read_page(&mut page).is_ok() {}
}

/// Makes an encrypted file of what is one but for that, with the random bytes that it names. None: it is too short.
fn encrypt(file: &mut [u8]) -> Option<()> {
    let number =
        |file: &[u8], at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let (tokens, note) = (number(file, FIXED - 8)?, number(file, FIXED - 4)?);
    file.get_mut(8..12)?.copy_from_slice(&3u32.to_le_bytes());
    let lock = file.get_mut(FIXED..FIXED + LOCK_BYTES)?;
    lock[..8].copy_from_slice(&KEYS.lock().ok()?.0[..8]);
    let (key, _) = KEYS.behind(&FileLock::try_from(&*lock).ok()?)?;
    let (clear, rest) = file.split_at_mut(FIXED + LOCK_BYTES);
    let (body, mut rest) = rest.split_at_mut_checked(tokens.checked_mul(4)?.checked_add(note)?)?;
    *rest.split_off_mut(..16)?.first_chunk_mut()? = key.seal(0, clear, body).ok()?;
    for number in 1.. {
        let Some(page) = rest.split_off_mut(..LIMITS.page_bytes) else {
            break;
        };
        let Some(tag) = rest.split_off_mut(..16) else {
            break;
        };
        tag.copy_from_slice(&key.seal(number, &[], page).ok()?);
    }
    Some(())
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
    let Some(end) = tokens
        .checked_mul(4)
        .and_then(|n| n.checked_add(note + FIXED))
    else {
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
    for index in 0u32.. {
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
