#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::files::fault::{self, Fault};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use tempfile::TempDir;

const OURS: Fingerprint = [7; 32];
const LIMITS: Limits = Limits {
    page_bytes: 20,
    pages: 3,
    state_bytes: 0,
};
type Pages = Vec<Vec<u8>>;

fn session(tokens: u32, fill: u8) -> (Vec<u32>, Pages) {
    let pages = (0..tokens.div_ceil(32) as u8).map(|n| vec![n ^ fill; 20]);
    ((0..tokens).collect(), pages.collect())
}

/// Keys that are this digit all over, the newest first.
fn keys(of: &[char]) -> Keys {
    let lines = of.iter().map(|digit| digit.to_string().repeat(64) + "\n");
    Keys::parse(&lines.collect::<String>()).unwrap()
}

fn save(dir: &TempDir, session: &(Vec<u32>, Pages), note: &[u8]) -> PathBuf {
    save_with(dir, session, note, &[], None)
}

fn save_with(
    dir: &TempDir,
    (tokens, pages): &(Vec<u32>, Pages),
    note: &[u8],
    state: &[u8],
    keys: Option<&Keys>,
) -> PathBuf {
    let snapshot = Snapshot {
        fingerprint: OURS,
        page_bytes: pages.first().map_or(20, Vec::len),
        tokens,
        note,
        state,
    };
    write(dir.path(), "s", &snapshot, keys, pages.iter().map(Ok)).unwrap();
    dir.path().join("s")
}

fn load(path: &Path) -> Result<(Header, Pages), SnapshotError> {
    load_with(path, LIMITS, None)
}

fn load_with(
    path: &Path,
    limits: Limits,
    keys: Option<&Keys>,
) -> Result<(Header, Pages), SnapshotError> {
    let mut reader = read_header(path, &OURS, limits, keys)?;
    let unusable = reader.unusable().is_some();
    let pages = pages_of(&mut reader, limits.page_bytes)?;
    assert!(!unusable);
    assert!(reader.read_page(&mut vec![0; limits.page_bytes]).is_err());
    Ok((reader.header().clone(), pages))
}

/// The pages that a file still has.
fn pages_of(reader: &mut Reader, page_bytes: usize) -> Result<Pages, SnapshotError> {
    let mut pages = vec![vec![0; page_bytes]; reader.header().pages];
    for page in &mut pages {
        reader.read_page(page)?;
    }
    Ok(pages)
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
        let mut reader = read_header(&path, &OURS, LIMITS, None).unwrap();
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
    let own = keys(&['a', 'b']);
    for keys in [None, Some(&own)] {
        let path = save_with(&dir, &session(33, 5), b"note", &[], keys);
        let load = || load_with(&path, LIMITS, keys);
        let good = fs::read(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, &byte) in good.iter().enumerate() {
            for bit in 0..8 {
                file.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
                assert!(load().is_err(), "byte {at}, bit {bit}");
            }
            file.write_all_at(&[byte], at as u64).unwrap();
        }
        assert!(load().is_ok());
        for len in (0..good.len()).rev() {
            file.set_len(len as u64).unwrap();
            let error = load().unwrap_err();
            assert!(matches!(error, SnapshotError::Truncated), "{len}: {error}");
        }
        fs::write(&path, [&good[..], &[0]].concat()).unwrap();
        assert!(matches!(
            load(),
            Err(SnapshotError::Corrupt { what: "length" })
        ));
    }
}

#[test]
fn what_is_encrypted_is_read_with_the_key_that_it_names_and_says_when_that_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        page_bytes: 150_000,
        pages: 3,
        state_bytes: 0,
    };
    let pages: Pages = (0..3).map(|n| vec![b'a' + n; 150_000]).collect();
    let session = ((0..96).collect(), pages);
    let (old, new) = (keys(&['1']), keys(&['2', '1']));
    let path = save_with(&dir, &session, b"canary", &[], Some(&old));
    let file = fs::read(&path).unwrap();
    let len = header_bytes(96, 6, true) + 3 * page_bytes(150_000, true);
    assert_eq!((file.len(), &file[8..12]), (len, &3u32.to_le_bytes()[..]));
    // nothing of tokens, note and pages is in it, and nothing comes twice
    for plain in [&b"canary"[..], b"aaaaaaaa", &[7, 0, 0, 0, 8, 0, 0, 0]] {
        assert!(!file.windows(plain.len()).any(|some| some == plain));
    }
    let blocks: std::collections::BTreeSet<_> = file.chunks(64).skip(2).collect();
    assert_eq!(blocks.len(), file.len().div_ceil(64) - 2);
    for (keys, stale) in [(&old, false), (&new, true)] {
        let (header, pages) = load_with(&path, limits, Some(keys)).unwrap();
        assert_eq!(header.note, b"canary");
        assert_eq!((&header.tokens, &pages), (&session.0, &session.1));
        let mut reader = read_header(&path, &OURS, limits, Some(keys)).unwrap();
        assert_eq!(reader.stale(), stale);
        reader.skip_pages(2).unwrap();
        let mut page = vec![0; 150_000];
        reader.read_page(&mut page).unwrap();
        assert_eq!(page, session.1[2]);
    }
    let why = |keys: Option<&Keys>| {
        let error = load_with(&path, limits, keys).unwrap_err().to_string();
        assert!(drop_pages(&path, keys).is_err());
        error
    };
    assert!(why(None).contains("`sessions.key_file` is not set"));
    let other = why(Some(&keys(&['2', '3'])));
    assert!(
        other.contains("does not hold") && !other.contains("22"),
        "{other}"
    );
    // one that was written before there were keys is read with them
    let path = save(&dir, &(Vec::new(), Vec::new()), b"plain");
    let reader = read_header(&path, &OURS, LIMITS, Some(&new)).unwrap();
    assert!(reader.stale() && reader.header().note == b"plain");
    assert!(!read_header(&path, &OURS, LIMITS, None).unwrap().stale());
}

#[test]
fn what_was_encrypted_is_as_it_was_or_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(&['c']);
    let other = fs::read(save_with(&dir, &session(64, 5), b"note", &[], Some(&keys))).unwrap();
    let path = save_with(&dir, &session(64, 5), b"note", &[], Some(&keys));
    let good = fs::read(&path).unwrap();
    let (page, head) = (20 + 16, good.len() - 2 * (20 + 16));
    let swapped = [
        &good[..head],
        &good[head + page..],
        &good[head..head + page],
    ]
    .concat();
    // the pages of another file, and its whole content behind this one's lock
    let pages = [&good[..head], &other[head..]].concat();
    let content = [&good[..FIXED + LOCK_BYTES], &other[FIXED + LOCK_BYTES..]].concat();
    for (bad, part) in [(swapped, "page"), (pages, "page"), (content, "header")] {
        fs::write(&path, bad).unwrap();
        let error = load_with(&path, LIMITS, Some(&keys)).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Altered { what } if what == part),
            "{error}"
        );
    }
    // what was said outlives its pages here too
    fs::write(&path, &good).unwrap();
    let len = drop_pages(&path, Some(&keys)).unwrap();
    assert_eq!(len, header_bytes(64, 4, true) as u64);
    let reader = read_header(&path, &OURS, LIMITS, Some(&keys)).unwrap();
    assert_eq!(reader.header().note, b"note");
    assert!(matches!(reader.unusable(), Some(SnapshotError::Truncated)));
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
    let path = save(&dir, &session(96, 5), b"said");
    let refused = |fingerprint, page_bytes, pages| {
        let limits = Limits {
            page_bytes,
            pages,
            state_bytes: 0,
        };
        let mut reader = read_header(&path, &fingerprint, limits, None).unwrap();
        assert!(reader.unusable().is_some());
        // what was said is there all the same
        assert_eq!(
            (
                reader.header().note.as_slice(),
                reader.header().tokens.len()
            ),
            (&b"said"[..], 96)
        );
        let mut page = vec![0; page_bytes];
        let why = reader.read_page(&mut page).unwrap_err();
        assert!(reader.read_page(&mut page).is_err());
        why
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
    assert!(matches!(with(8, &[4]), SnapshotError::Version(4)));
    let most = u32::MAX.to_le_bytes();
    for at in [52, 56, 60] {
        let error = with(at, &most);
        assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
    }
    // pages of a size that no number holds
    let error = with(44, &[0xff; 8]);
    assert!(
        matches!(error, SnapshotError::TooLarge { what: "length" }),
        "{error}"
    );
    let error = with(56, &[64]);
    let what = "number of pages";
    assert!(matches!(error, SnapshotError::Corrupt { what: w } if w == what));
    assert!(matches!(
        with(60, &[1]),
        SnapshotError::Corrupt {
            what: "length" | "header"
        }
    ));
    let folder = read_header(dir.path(), &OURS, LIMITS, None);
    assert!(matches!(folder, Err(SnapshotError::NotOurs)));
}

/// Also F7: a process that is killed leaves what it has written by then, which is a part of the new file under another
/// name, or all of it under its own.
#[test]
fn killed_at_any_byte_or_operation_the_old_one_is_there_or_the_new_one() {
    let (old, new) = (session(40, 1), session(96, 2));
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(save(&dir, &new, &[b'n'; 9600])).unwrap();
    let path = save(&dir, &old, b"old");
    let part = dir.path().join("~s");
    let mut points = 0;
    for len in 0..=whole.len() {
        // a file that grows by a byte each time
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&part)
            .unwrap();
        file.write_all(&whole[len.saturating_sub(1)..len]).unwrap();
        let (header, pages) = load(&path).unwrap();
        assert!(header.note == b"old" && pages == old.1, "{len}");
        points += 1;
    }
    assert!(points > 10_000, "{points}");
    assert_eq!(fs::read(&part).unwrap(), whole);

    let snapshot = |note| Snapshot {
        fingerprint: OURS,
        page_bytes: 20,
        tokens: &new.0,
        note,
        state: &[],
    };
    for nth in 0.. {
        save(&dir, &old, b"old");
        let (done, happened) = fault::at(nth, Fault::Kill, || {
            write(
                dir.path(),
                "s",
                &snapshot(b"new"),
                None,
                new.1.iter().map(Ok),
            )
        });
        assert_eq!(done.is_none(), happened);
        let (header, pages) = load(&path).unwrap();
        match &header.note[..] {
            b"old" => assert_eq!(pages, old.1),
            note => assert!(note == b"new" && pages == new.1),
        }
        if !happened {
            assert_eq!(header.note, b"new");
            break;
        }
    }
}

#[test]
fn any_operation_may_fail_and_none_panics() {
    for number in [libc::EIO, libc::ENOSPC, libc::EINTR] {
        for nth in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let path = save(&dir, &session(40, 1), b"old");
            let (tokens, pages) = session(70, 2);
            let snapshot = Snapshot {
                fingerprint: OURS,
                page_bytes: 20,
                tokens: &tokens,
                note: b"new",
                state: &[],
            };
            let (_, happened) =
                fault::at(nth, Fault::Errno(number), || -> Result<_, SnapshotError> {
                    write(dir.path(), "s", &snapshot, None, pages.iter().map(Ok))?;
                    load(&path)?;
                    drop_pages(&path, None)
                });
            let mut reader = read_header(&path, &OURS, LIMITS, None).unwrap();
            let note = reader.header().note.clone();
            assert!(note == b"old" || note == b"new");
            let sound = (0..reader.header().pages).all(|n| {
                let mut page = [0; 20];
                reader
                    .read_page(&mut page)
                    .is_ok_and(|()| page == [n as u8 ^ if note == b"old" { 1 } else { 2 }; 20])
            });
            assert!(sound || note == b"new", "{number} at {nth}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            if !happened {
                break;
            }
        }
    }
}

#[test]
fn what_was_noted_outlives_its_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&dir, &session(96, 5), b"said");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    let len = drop_pages(&path, None).unwrap();
    assert_eq!(len, header_bytes(96, 4, false) as u64);
    let of = fs::metadata(&path).unwrap();
    assert_eq!((of.len(), of.modified().unwrap()), (len, long_ago));
    let reader = read_header(&path, &OURS, LIMITS, None).unwrap();
    assert_eq!(reader.header().note, b"said");
    assert!(matches!(reader.unusable(), Some(SnapshotError::Truncated)));
    assert_eq!(drop_pages(&path, None).unwrap(), len);
    fs::write(
        &path,
        b"something else that is long enough for a header of a session",
    )
    .unwrap();
    assert!(drop_pages(&path, None).is_err());
}

#[test]
fn what_cannot_be_written_leaves_the_old_one_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&dir, &session(40, 1), b"old");
    let tokens = vec![0; PAGES_MAX * PAGE_TOKENS + 1];
    let note = vec![0; NOTE_MAX + 1];
    let page = [0; 21];
    let lost = [Ok(vec![0; 20]), Err(PageLost("gone".to_owned()))];
    let snapshot = Snapshot {
        fingerprint: OURS,
        page_bytes: 20,
        tokens: &tokens[..40],
        note: &[],
        state: &[],
    };
    let error = write(dir.path(), "s", &snapshot, None, lost.into_iter()).unwrap_err();
    assert!(matches!(error, SnapshotError::Page(_)), "{error}");
    let try_write = |name, tokens, note, pages: &[&[u8]]| {
        let snapshot = Snapshot {
            fingerprint: OURS,
            page_bytes: 20,
            tokens,
            note,
            state: &[],
        };
        write(dir.path(), name, &snapshot, None, pages.iter().map(Ok)).unwrap_err()
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

mod states;
