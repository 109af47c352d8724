//! How many sessions one client may have. Beyond that its own sessions make room, and nobody else's.

use super::world::{Heard, answer, config, load, new_id, tiny, turn};
use glowplug_firmware_config::limits::{
    SESSION_TEXT_PER_CLIENT, SESSIONS_PER_CLIENT, SNAPSHOTS_PER_CLIENT,
};
use glowplug_model::engine::{
    Engine, EngineConfig, Notice, Refusal, SessionBound, SessionFault, SessionVerb,
};
use glowplug_tests::Think;
use std::path::{Path, PathBuf};

const NAMES: u64 = 10_000;
const OTHERS: [&str; 3] = ["b", "c", "d"];
const LONG: &str = "the rain in the plain falls mainly on the train. ";

/// A folder that is in memory where that is possible, because every file is synced.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn bounded(sessions: Option<PathBuf>, session_writes: Option<u64>) -> EngineConfig {
    EngineConfig {
        sessions,
        session_writes,
        ..config(256, 2)
    }
}

/// What the second turn of each of the other clients must cost.
fn expected(engine: &mut Engine) -> u32 {
    answer(engine, new_id(), turn("b", "s", LONG, 8));
    let (_, second) = answer(engine, new_id(), turn("b", "s", "and now?", 4));
    second.prompt_tokens
}

/// One client asks in a new session each time. Gives how many it had.
fn flood(engine: &mut Engine, names: u64) -> u64 {
    let mut taken = 0;
    for name in 0..names {
        let asked = turn("mallory", &name.to_string(), "hi", 1);
        match engine.submit(new_id(), asked) {
            Ok(_) => taken += 1,
            Err(refused) => assert_eq!(refused, Refusal::Sessions(SessionBound::OfClient)),
        }
        Heard::default().idle(engine);
        assert!(engine.counts().sessions <= SESSIONS_PER_CLIENT + OTHERS.len());
    }
    taken
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Ten thousand sessions of one client cost no other client a conversation, whatever its files can take.
fn others_go_on(config: &EngineConfig) -> u64 {
    let tiny = tiny(Think::Never);
    let expected = expected(&mut load(&tiny, &bounded(None, None)));
    let mut engine = load(&tiny, config);
    for other in OTHERS {
        answer(&mut engine, new_id(), turn(other, "s", LONG, 8));
    }
    let taken = flood(&mut engine, NAMES);
    for other in OTHERS {
        let (_, second) = answer(&mut engine, new_id(), turn(other, "s", "and now?", 4));
        assert_eq!(second.prompt_tokens, expected, "{other}");
        // and many more than that
        answer(&mut engine, new_id(), turn(other, "t", "hi", 1));
    }
    taken
}

#[test]
fn ten_thousand_names_without_files() {
    let taken = others_go_on(&bounded(None, None));
    assert_eq!(taken, SESSIONS_PER_CLIENT as u64);
}

#[test]
fn ten_thousand_names_with_files() {
    let folder = folder();
    let dir = folder.path().join("sessions");
    let taken = others_go_on(&bounded(Some(dir.clone()), None));
    assert_eq!((taken, files(&dir)), (NAMES, SNAPSHOTS_PER_CLIENT));
}

#[test]
fn ten_thousand_names_when_the_days_writes_are_used_up() {
    let folder = folder();
    let taken = others_go_on(&bounded(Some(folder.path().to_owned()), Some(1)));
    // the first session that made room was written
    assert_eq!(
        (taken, files(folder.path())),
        (SESSIONS_PER_CLIENT as u64 + 1, 1)
    );
}

#[test]
fn ten_thousand_names_where_nothing_can_be_written() {
    let folder = folder();
    let file = folder.path().join("sessions");
    std::fs::write(&file, "no folder").unwrap();
    let taken = others_go_on(&bounded(Some(file), None));
    assert_eq!(taken, SESSIONS_PER_CLIENT as u64);
}

#[test]
fn a_client_at_its_bound_makes_room_by_itself() {
    let mut engine = load(&tiny(Think::Never), &bounded(None, None));
    flood(&mut engine, SESSIONS_PER_CLIENT as u64 + 7);
    // a session without text has nothing to lose
    engine.session("mallory", "5", SessionVerb::Reset).unwrap();
    answer(&mut engine, new_id(), turn("mallory", "new", "hi", 1));
    assert_eq!(
        engine.session("mallory", "5", SessionVerb::Drop),
        Err(SessionFault::NotFound)
    );
    engine.session("mallory", "7", SessionVerb::Drop).unwrap();
    answer(&mut engine, new_id(), turn("mallory", "newer", "hi", 1));
    let refused = engine
        .submit(9, turn("mallory", "newest", "hi", 1))
        .unwrap_err();
    assert!(
        refused.to_string().contains("drop or reset one"),
        "{refused}"
    );
}

#[test]
fn text_has_a_bound_that_its_own_session_does_not_pay() {
    let mut engine = load(&tiny(Think::Never), &bounded(None, None));
    answer(&mut engine, new_id(), turn("a", "s", "hi", 1));
    let long = " ".repeat(SESSION_TEXT_PER_CLIENT);
    for session in ["s", "t"] {
        let refused = engine
            .submit(new_id(), turn("a", session, &long, 1))
            .unwrap_err();
        assert_eq!(refused, Refusal::Sessions(SessionBound::TextOfClient));
    }
    let (_, goes_on) = answer(&mut engine, new_id(), turn("a", "s", "hi", 1));
    assert!(goes_on.prompt_tokens > 8);
    assert_eq!(engine.counts().sessions, 1);
}

#[test]
fn a_session_that_made_room_is_found_by_every_verb_and_by_its_next_turn() {
    let folder = folder();
    let tiny = tiny(Think::Never);
    let mut engine = load(&tiny, &bounded(Some(folder.path().to_owned()), None));
    let expected = expected(&mut load(&tiny, &bounded(None, None)));
    for session in ["save", "reset", "drop", "next"] {
        answer(&mut engine, new_id(), turn("mallory", session, LONG, 8));
    }
    flood(&mut engine, SESSIONS_PER_CLIENT as u64);
    assert_eq!((engine.counts().sessions, files(folder.path())), (128, 4));
    let saved = engine
        .session("mallory", "save", SessionVerb::Save)
        .unwrap();
    assert_eq!((saved.turns, saved.saved), (1, true));
    for (session, verb) in [("reset", SessionVerb::Reset), ("drop", SessionVerb::Drop)] {
        engine.session("mallory", session, verb).unwrap();
        let gone = engine.session("mallory", session, SessionVerb::Drop);
        assert_eq!(gone, Err(SessionFault::NotFound));
    }
    assert_eq!(files(folder.path()), 2);
    let (_, next) = answer(
        &mut engine,
        new_id(),
        turn("mallory", "next", "and now?", 4),
    );
    assert_eq!(next.prompt_tokens, expected);
    let forgotten = engine.forget("mallory", &mut |_, _| {});
    // the sessions in memory, and the one that a client saved
    assert_eq!(forgotten, Ok(SESSIONS_PER_CLIENT + 2));
    assert_eq!((engine.counts().sessions, files(folder.path())), (0, 0));
    assert_eq!(engine.notices(), Vec::<Notice>::new());
}
