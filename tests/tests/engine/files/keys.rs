//! Sessions that are encrypted in their files, and their keys.

use super::{answer, config, load, names, new_id, tiny, turn};
use glowplug_model::engine::{EngineConfig, Refusal, SessionFault, SessionVerb};
use glowplug_model::seal::KeyFile;
use glowplug_tests::Think;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// What is said, and looked for in files.
const SAID: &str = "the canary in the plain, ";

/// Replaces the file of keys, each the same digit all over, the newest first.
fn put_keys(folder: &Path, of: &[char]) {
    let lines = of.iter().map(|digit| digit.to_string().repeat(64) + "\n");
    let new = folder.join("keys.new");
    fs::write(&new, lines.collect::<String>()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, folder.join("keys")).unwrap();
}

fn with_keys(folder: &Path) -> EngineConfig {
    let keys = KeyFile::open(&folder.join("keys")).unwrap();
    EngineConfig {
        session_keys: Some(Arc::new(keys)),
        ..without_keys(folder)
    }
}

fn without_keys(folder: &Path) -> EngineConfig {
    EngineConfig {
        sessions: Some(folder.join("sessions")),
        ..config(64, 2)
    }
}

/// Whether a session's file tells what was said, and its version.
fn tells(file: &Path) -> (bool, u8) {
    let bytes = fs::read(file).unwrap();
    let found = bytes.windows(6).any(|some| some == b"canary");
    (found, bytes[8])
}

#[test]
fn a_conversation_goes_on_from_its_encrypted_pages_and_is_encrypted_once_there_are_keys() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let long = SAID.repeat(10);
    let sessions = folder.path().join("sessions");
    // before there were keys
    let mut engine = load(&tiny, &without_keys(folder.path()));
    answer(&mut engine, new_id(), turn("a", "s", &long, 8));
    assert_eq!(engine.save_all(), 0);
    let file = names(&sessions).pop().unwrap();
    assert_eq!(tells(&file), (true, 2));
    let (expected, warm) = answer(&mut engine, new_id(), turn("a", "s", "go on", 8));
    drop(engine);
    // what is read goes on from its pages, and its next file is encrypted
    put_keys(folder.path(), &['1']);
    for (id, turns) in [(1, 2), (2, 3)] {
        let mut engine = load(&tiny, &with_keys(folder.path()));
        let (answered, outcome) = answer(&mut engine, new_id(), turn("a", "s", "go on", 8));
        if id == 1 {
            assert_eq!(
                (&answered, outcome.cached_tokens),
                (&expected, warm.cached_tokens)
            );
        } else {
            assert!(outcome.cached_tokens > warm.cached_tokens, "{outcome:?}");
        }
        let state = engine.session("a", "s", SessionVerb::Save).unwrap();
        assert_eq!((state.turns, tells(&file)), (turns, (false, 3)));
    }
    // a session that nobody goes on with is written with the newest key when it is saved
    put_keys(folder.path(), &['2', '1']);
    let mut engine = load(&tiny, &with_keys(folder.path()));
    let before = fs::read(&file).unwrap();
    for written in [true, false] {
        let before = fs::metadata(&file).unwrap().ino();
        engine.session("a", "s", SessionVerb::Save).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().ino() != before, written);
    }
    assert!(
        fs::read(&file).unwrap()[64..72] != before[64..72],
        "another key's name"
    );
    put_keys(folder.path(), &['2']);
    let mut engine = load(&tiny, &with_keys(folder.path()));
    let (_, outcome) = answer(&mut engine, new_id(), turn("a", "s", "go on", 8));
    assert!(outcome.prompt_tokens > warm.prompt_tokens);
    // nothing is left of any of it
    assert_eq!(names(&sessions), [file]);
}

#[test]
fn a_session_without_its_key_is_refused_by_its_name_until_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    put_keys(folder.path(), &['1']);
    let mut engine = load(&tiny, &with_keys(folder.path()));
    for session in ["s", "t"] {
        answer(&mut engine, new_id(), turn("a", session, SAID, 8));
    }
    assert_eq!(engine.save_all(), 0);
    put_keys(folder.path(), &['2']);
    let mut engine = load(&tiny, &with_keys(folder.path()));
    let files = names(&folder.path().join("sessions"));
    let before: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let refused = engine.submit(new_id(), turn("a", "s", "go on", 8));
    let Err(Refusal::Closed { session, why }) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        &*session == "s" && why.contains("`sessions.key_file` does not hold"),
        "{why}"
    );
    let unsaved = engine.session("a", "s", SessionVerb::Save);
    assert!(
        matches!(unsaved, Err(SessionFault::Closed { .. })),
        "{unsaved:?}"
    );
    assert_eq!(engine.save_all(), 0);
    // nothing waits, others are answered, and the files are as they were
    assert_eq!(engine.counts().queued, 0);
    answer(&mut engine, new_id(), turn("b", "s", "hi", 8));
    for (file, before) in files.iter().zip(before) {
        assert_eq!(fs::read(file).unwrap(), before);
    }
    // its client begins anew, or the key comes back
    engine.session("a", "s", SessionVerb::Drop).unwrap();
    answer(&mut engine, new_id(), turn("a", "s", "hi", 8));
    put_keys(folder.path(), &['2', '1']);
    let (_, outcome) = answer(&mut engine, new_id(), turn("a", "t", "go on", 8));
    assert!(
        outcome.cached_tokens > 0 || outcome.prompt_tokens > 40,
        "{outcome:?}"
    );
    assert_eq!(
        engine.session("a", "t", SessionVerb::Save).unwrap().turns,
        2
    );
}
