#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

const OURS: Fingerprint = [7; 32];
const LIMITS: Limits = Limits {
    page_bytes: 20,
    pages: 3,
};
type Pages = Vec<Vec<u8>>;

fn session(tokens: u32, fill: u8) -> (Vec<u32>, Pages) {
    let pages = (0..tokens.div_ceil(32) as u8).map(|n| vec![n ^ fill; 20]);
    ((0..tokens).collect(), pages.collect())
}

fn save(dir: &TempDir, (tokens, pages): &(Vec<u32>, Pages), note: &[u8]) -> PathBuf {
    let snapshot = Snapshot {
        fingerprint: OURS,
        page_bytes: 20,
        tokens,
        note,
    };
    write(dir.path(), "s", &snapshot, pages.iter().map(Vec::as_slice)).unwrap();
    dir.path().join("s")
}

fn load(path: &Path) -> Result<(Header, Pages), SnapshotError> {
    let mut reader = read_header(path, &OURS, LIMITS)?;
    let mut pages = vec![vec![0; 20]; reader.header().pages];
    for page in &mut pages {
        reader.read_page(page)?;
    }
    assert!(reader.read_page(&mut [0; 20]).is_err());
    Ok((reader.header().clone(), pages))
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for tokens in [0, 1, 32, 33, 96] {
        let session = session(tokens, 5);
        let (header, pages) = load(&save(&dir, &session, b"{}")).unwrap();
        assert_eq!((header.tokens, pages), session);
        assert_eq!(header.note, b"{}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn pages_can_be_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (tokens, pages) = session(96, 5);
    let path = save(&dir, &(tokens, pages.clone()), b"note");
    for (passed, expected) in pages.iter().enumerate() {
        let mut reader = read_header(&path, &OURS, LIMITS).unwrap();
        let mut page = vec![0; 20];
        reader.skip_pages(passed).unwrap();
        reader.read_page(&mut page).unwrap();
        assert_eq!(page, *expected);
        assert!(reader.skip_pages(3 - passed).is_err());
        reader.skip_pages(2 - passed).unwrap();
        assert!(reader.read_page(&mut page).is_err());
    }
}

#[test]
fn every_cut_every_flipped_bit_and_every_byte_too_many_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&dir, &session(33, 5), b"note");
    let good = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for (at, &byte) in good.iter().enumerate() {
        for bit in 0..8 {
            file.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
            assert!(load(&path).is_err(), "byte {at}, bit {bit}");
        }
        file.write_all_at(&[byte], at as u64).unwrap();
    }
    assert!(load(&path).is_ok());
    for len in (0..good.len()).rev() {
        file.set_len(len as u64).unwrap();
        let error = load(&path).unwrap_err();
        assert!(matches!(error, SnapshotError::Truncated), "{len}: {error}");
    }
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    assert!(matches!(
        load(&path),
        Err(SnapshotError::Corrupt { what: "length" })
    ));
}

#[test]
fn pages_cannot_change_places_or_files() {
    let dir = tempfile::tempdir().unwrap();
    let other = fs::read(save(&dir, &session(64, 5), b"a")).unwrap();
    let path = save(&dir, &session(64, 5), b"b");
    let good = fs::read(&path).unwrap();
    let at = good.len() - 2 * 24;
    let bad = [&good[..at], &good[at + 24..], &good[at..at + 24]].concat();
    for bad in [bad, [&good[..at], &other[at..]].concat()] {
        fs::write(&path, bad).unwrap();
        let error = load(&path).unwrap_err();
        assert!(matches!(error, SnapshotError::Corrupt { what: "page" }));
    }
}

#[test]
fn another_model_another_version_and_more_than_the_caps_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&dir, &session(96, 5), b"");
    let refused = |fingerprint, page_bytes, pages| {
        let limits = Limits { page_bytes, pages };
        read_header(&path, &fingerprint, limits).unwrap_err()
    };
    assert!(matches!(refused([8; 32], 20, 3), SnapshotError::OtherModel));
    assert!(matches!(refused(OURS, 21, 3), SnapshotError::OtherModel));
    let error = refused(OURS, 20, 2);
    assert_eq!(
        error.to_string(),
        "its number of pages is larger than it may be"
    );

    let good = fs::read(&path).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, bad).unwrap();
        load(&path).unwrap_err()
    };
    assert!(matches!(with(0, b"GGUF"), SnapshotError::NotOurs));
    assert!(matches!(with(8, &[2]), SnapshotError::Version(2)));
    let most = u32::MAX.to_le_bytes();
    for at in [52, 56, 60] {
        let error = with(at, &most);
        assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
    }
    let error = with(56, &[64]);
    let what = "number of pages";
    assert!(matches!(error, SnapshotError::Corrupt { what: w } if w == what));
    assert!(matches!(with(60, &[1]), SnapshotError::Truncated));
    let folder = read_header(dir.path(), &OURS, LIMITS);
    assert!(matches!(folder, Err(SnapshotError::NotOurs)));
}

#[test]
fn a_crash_before_the_rename_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let old = session(40, 1);
    let path = save(&dir, &old, b"old");
    let (tokens, pages) = session(70, 2);
    let snapshot = Snapshot {
        fingerprint: OURS,
        page_bytes: 20,
        tokens: &tokens,
        note: b"new",
    };
    let all = || pages.iter().map(Vec::as_slice);
    let part = stage(dir.path(), "s", &snapshot, all()).unwrap();
    assert!(part.exists());
    assert_eq!(load(&path).unwrap().1, old.1);
    // what is left over is in nobody's way, even if it is longer
    fs::write(&part, [0; 9999]).unwrap();
    write(dir.path(), "s", &snapshot, all()).unwrap();
    assert_eq!(load(&path).unwrap().1, pages);
    assert!(!part.exists());
}

#[test]
fn what_cannot_be_written_leaves_the_old_one_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&dir, &session(40, 1), b"old");
    let tokens = vec![0; PAGES_MAX * PAGE_TOKENS + 1];
    let note = vec![0; NOTE_MAX + 1];
    let page = [0; 21];
    let try_write = |name, tokens, note, pages: &[&[u8]]| {
        let snapshot = Snapshot {
            fingerprint: OURS,
            page_bytes: 20,
            tokens,
            note,
        };
        write(dir.path(), name, &snapshot, pages.iter().copied()).unwrap_err()
    };
    for pages in [&[][..], &[&page[..20]; 3], &[&page[..]; 2]] {
        try_write("s", &tokens[..40], &[], pages);
    }
    for name in ["", ".", "..", "/s", "a/b", "s/"] {
        try_write(name, &[], &[], &[]);
    }
    let error = try_write("s", &tokens, &[], &[]);
    assert!(matches!(error, SnapshotError::TooLarge { what: "text" }));
    let error = try_write("s", &[], &note, &[]);
    assert!(matches!(error, SnapshotError::TooLarge { what: "note" }));
    assert_eq!(load(&path).unwrap().0.note, b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
