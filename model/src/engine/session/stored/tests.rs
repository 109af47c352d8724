#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::kv::snapshot::{Snapshot, write};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

/// A file with one page of 20 bytes.
fn save(folder: &TempDir, name: &str) {
    let snapshot = Snapshot {
        fingerprint: [0; 32],
        page_bytes: 20,
        tokens: &[1],
        note: b"said",
        state: &[],
    };
    write(
        folder.path(),
        name,
        &snapshot,
        None,
        [Ok([7; 20])].into_iter(),
    )
    .unwrap();
}

fn fill(stored: &mut Stored, client: &str, files: usize, bytes: u64) {
    for i in 0..files {
        stored.put(name(client, &i.to_string()), bytes, false, 0);
    }
}

fn full(result: &Result<(), Unsaved>) -> bool {
    matches!(result, Err(Unsaved::Full))
}

#[test]
fn a_start_sweeps_what_was_half_written_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = (name("a", "s"), format!("~{}", name("a", "t")));
    save(&folder, &whole);
    for other in [&part, "~notes.txt", "photo.jpg", "x.session"] {
        fs::write(folder.path().join(other), b"x").unwrap();
    }
    let (stored, written) = Stored::read(folder.path(), 0).unwrap();
    written.unwrap();
    assert!(stored.has(&whole) && stored.files.len() == 1);
    assert_eq!(stored.of(&owner("a")).collect::<Vec<_>>(), [whole.as_str()]);
    assert_eq!(stored.of(&owner("b")).count(), 0);
    assert!(!folder.path().join(part).exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    assert!(Stored::read(&folder.path().join("none"), 0).is_err());
}

#[test]
fn files_are_as_old_as_they_say_and_expire_a_few_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let age = |name: &str, at: SystemTime| {
        save(&folder, name);
        let file = File::options().write(true).open(folder.path().join(name));
        file.unwrap().set_modified(at).unwrap();
    };
    let now = SystemTime::now();
    let [old, young, future] = ["old", "young", "future"].map(|session| name("a", session));
    age(&old, now - Duration::from_secs(1000));
    age(&young, now - Duration::from_secs(100));
    // a clock that was set back makes nothing old
    age(&future, now + Duration::from_secs(1_000_000));
    let (stored, _) = Stored::read(folder.path(), 5).unwrap();
    let none = BTreeSet::new();
    let expired = |now| stored.expired(now, 900, &none);
    assert_eq!(expired(5), [old.as_str()]);
    assert_eq!(stored.expired(5, 900, &[old.clone()].into()).len(), 0);
    assert_eq!(expired(500), [old.as_str()]);
    assert_eq!(expired(1000).len(), 3);

    let mut many = Stored::default();
    fill(&mut many, "a", EXPIRED_MAX + 7, 1);
    assert_eq!(many.expired(900, 900, &none).len(), EXPIRED_MAX);
    many.touch(&name("a", "0"), 900);
    let first = name("a", "0");
    assert!(!many.expired(1000, 900, &none).contains(&first));
    // a file of before the epoch is no reason to panic
    age(&old, UNIX_EPOCH - Duration::from_secs(10));
    assert!(Stored::read(folder.path(), 0).is_ok());
}

#[test]
fn at_its_bound_a_client_loses_its_oldest_file_and_nobody_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = Stored::default();
    fill(&mut stored, "b", 1, 1);
    fill(&mut stored, "a", SNAPSHOTS_PER_CLIENT, 1);
    stored.touch(&name("a", "0"), 0);
    let new = name("a", "new");
    stored.make_room(folder.path(), &new, 1, None).unwrap();
    assert!(!stored.has(&name("a", "1")) && stored.has(&name("a", "0")));
    stored.put(new, 1, true, 0);
    // in place of its own
    stored
        .make_room(folder.path(), &name("a", "7"), 1, None)
        .unwrap();
    assert_eq!(stored.of(&owner("a")).count(), SNAPSHOTS_PER_CLIENT);
    assert!(stored.has(&name("b", "0")));
}

#[test]
fn at_the_bound_of_all_who_has_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = Stored::default();
    for client in 0..SNAPSHOTS_MAX / SNAPSHOTS_PER_CLIENT {
        fill(&mut stored, &client.to_string(), SNAPSHOTS_PER_CLIENT, 1);
    }
    let all = stored.files.len();
    assert!(full(&stored.make_room(
        folder.path(),
        &name("late", "s"),
        1,
        None
    )));
    assert_eq!(stored.files.len(), all);
    stored
        .make_room(folder.path(), &name("3", "new"), 1, None)
        .unwrap();
    assert_eq!(stored.files.len(), all - 1);
    // the place is anybody's now
    stored
        .make_room(folder.path(), &name("late", "s"), 1, None)
        .unwrap();
    assert_eq!(stored.files.len(), all - 1);
}

#[test]
fn bytes_are_made_room_for_by_pages_first_and_then_by_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = Stored::default();
    let names = ["0", "1", "2"].map(|session| name("a", session));
    for name in &names {
        save(&folder, name);
        stored.put(name.clone(), SNAPSHOT_BYTES_PER_CLIENT / 3, true, 0);
    }
    let len = |name: &str| {
        fs::metadata(folder.path().join(name))
            .map(|of| of.len())
            .ok()
    };
    let whole = len(&names[0]).unwrap();
    let new = name("a", "new");
    stored.make_room(folder.path(), &new, 1000, None).unwrap();
    assert_eq!(len(&names[0]), Some(whole - 24));
    assert_eq!(len(&names[1]), Some(whole));
    // all that a client may have
    let most = SNAPSHOT_BYTES_PER_CLIENT - 2 * (whole - 24);
    stored.make_room(folder.path(), &new, most, None).unwrap();
    assert!(len(&names[0]).is_none() && len(&names[1]) == Some(whole - 24));
    assert!(full(&stored.make_room(
        folder.path(),
        &new,
        SNAPSHOT_BYTES_PER_CLIENT + 1,
        None
    )));
    assert_eq!(stored.files.len(), 2);
}

#[test]
fn bytes_of_others_cost_nobody_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = Stored::default();
    fill(&mut stored, "own", 1, 10);
    for client in 0..8 {
        let bytes = SNAPSHOT_BYTES_PER_CLIENT / 4;
        fill(&mut stored, &client.to_string(), 4, bytes);
    }
    assert!(full(&stored.make_room(
        folder.path(),
        &name("own", "new"),
        1,
        None
    )));
    assert!(stored.has(&name("own", "0")) && stored.files.len() == 33);
}
