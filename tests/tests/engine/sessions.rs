//! Named conversations: history, reuse, files.

use super::world::{Heard, Random, answer, config, load, request, tiny, turn};
use glowplug_model::engine::{EngineConfig, Finish, SessionFault, SessionVerb};
use glowplug_tests::Think;
use std::path::{Path, PathBuf};

fn saved(folder: &Path) -> EngineConfig {
    EngineConfig {
        sessions: Some(folder.to_owned()),
        ..config(64, 2)
    }
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[test]
fn a_second_turn_knows_the_first_and_computes_only_what_is_new() {
    for think in [Think::Never, Think::Prompt] {
        let tiny = tiny(think);
        let mut engine = load(&tiny, &config(64, 2));
        let long = "the rain in the plain ".repeat(12);
        let (_, first) = answer(&mut engine, 1, turn("a", "s", &long, 40));
        let (second, warm) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
        assert!(
            warm.cached_tokens + 64 > first.prompt_tokens,
            "{think:?}: {} of {} are cached",
            warm.cached_tokens,
            warm.prompt_tokens
        );
        // the same conversation, told at once to an engine that knows nothing of it
        let state = engine.session("a", "s", SessionVerb::Save);
        assert_eq!(state, Err(SessionFault::NoFolder));
        let mut other = load(&tiny, &config(64, 2));
        answer(&mut other, 1, turn("b", "s", &long, 40));
        let (again, _) = answer(&mut other, 2, turn("b", "s", "and now?", 20));
        assert_eq!(second, again, "{think:?}");
    }
}

#[test]
fn a_session_is_of_its_client_alone() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    answer(&mut engine, 1, turn("a", "s", "the canary", 4));
    let (_, other) = answer(&mut engine, 2, turn("b", "s", "hi", 4));
    let (_, alone) = answer(&mut engine, 3, request("c", "hi", 4));
    assert_eq!(other.prompt_tokens, alone.prompt_tokens);
    assert_eq!(
        engine.session("c", "s", SessionVerb::Reset),
        Err(SessionFault::NotFound)
    );
    engine.session("a", "s", SessionVerb::Drop).unwrap();
    assert_eq!(engine.counts().sessions, 1);
    engine.session("b", "s", SessionVerb::Reset).unwrap();
    let (_, reset) = answer(&mut engine, 4, turn("b", "s", "hi", 4));
    assert_eq!(reset.prompt_tokens, alone.prompt_tokens);
}

#[test]
fn a_superseded_turn_ends_and_the_next_goes_on_from_what_it_said() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let mut heard = Heard::default();
    engine.submit(1, turn("a", "s", "the rain", 200)).unwrap();
    for _ in 0..10 {
        engine.step(&mut |id, event| heard.take(id, event));
    }
    assert_eq!(
        engine.session("a", "s", SessionVerb::Reset),
        Err(SessionFault::Busy)
    );
    assert!(engine.end(1, Finish::Superseded));
    engine.submit(2, turn("a", "s", "stop", 8)).unwrap();
    heard.idle(&mut engine);
    assert_eq!(heard.finish(1), Finish::Superseded);
    let (first, second) = (&heard.ended[&1], &heard.ended[&2]);
    assert!(second.prompt_tokens > first.prompt_tokens + first.completion_tokens / 2);
    assert!(engine.session("a", "s", SessionVerb::Drop).is_ok());
    assert_eq!(engine.counts().pages_used, 0);
}

#[test]
fn a_session_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let long = "the rain in the plain ".repeat(12);
    let mut engine = load(&tiny, &saved(folder.path()));
    let (_, first) = answer(&mut engine, 1, turn("a", "s", &long, 40));
    let state = engine.session("a", "s", SessionVerb::Save).unwrap();
    assert!(state.saved && state.turns == 1 && state.tokens >= first.prompt_tokens as usize);
    let (expected, warm) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
    // one file only, and what was said since is not in it
    drop(engine);
    let mut engine = load(&tiny, &saved(folder.path()));
    assert_eq!(engine.counts().sessions, 1);
    let (said, restored) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
    assert_eq!(
        (said, restored.cached_tokens),
        (expected, warm.cached_tokens)
    );
    assert_eq!(engine.save_all(), 0);
    only_file(folder.path());
    // another model does not take it
    let mut other = tiny.clone();
    other.seed += 1;
    assert_eq!(load(&other, &saved(folder.path())).counts().sessions, 0);
}

#[test]
fn a_session_that_is_only_in_its_file_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let mut late = load(&tiny, &saved(folder.path()));
    let mut engine = load(&tiny, &saved(folder.path()));
    answer(&mut engine, 1, turn("a", "s", "the rain", 8));
    assert_eq!(engine.save_all(), 0);
    let (_, expected) = answer(&mut engine, 2, turn("a", "s", "go on", 8));
    let (_, outcome) = answer(&mut late, 1, turn("a", "s", "go on", 8));
    assert_eq!(outcome.prompt_tokens, expected.prompt_tokens);
    assert_eq!(outcome.cached_tokens, expected.cached_tokens);
}

#[test]
fn a_damaged_file_costs_its_session_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let mut engine = load(&tiny, &saved(folder.path()));
    let long = "the rain in the plain ".repeat(12);
    answer(&mut engine, 1, turn("a", "s", &long, 8));
    assert_eq!(engine.save_all(), 0);
    let file = only_file(folder.path());
    let sound = std::fs::read(&file).unwrap();
    let (_, expected) = answer(&mut engine, 2, turn("a", "s", "go on", 8));
    let mut random = Random(7);
    for i in 0..24 {
        let mut bytes = sound.clone();
        if i % 3 == 0 {
            bytes.truncate(random.below(sound.len() as u64) as usize);
        } else {
            bytes[random.below(sound.len() as u64) as usize] ^= 1 << random.below(8);
        }
        std::fs::write(&file, bytes).unwrap();
        let mut engine = load(&tiny, &saved(folder.path()));
        let known = engine.counts().sessions == 1;
        let (_, outcome) = answer(&mut engine, 1, turn("a", "s", "go on", 8));
        assert_eq!(outcome.finish, Finish::Length);
        // either forgotten as a whole, or what was said is known and damaged pages are computed again
        assert_eq!(known, outcome.prompt_tokens == expected.prompt_tokens);
        assert_eq!(engine.counts().pages_total, 64);
    }
}

#[test]
fn sessions_expire() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    answer(&mut engine, 1, turn("a", "s", "hi", 4));
    engine.expire(10, 100);
    assert_eq!(engine.counts().sessions, 1);
    engine.expire(100, 100);
    assert_eq!(
        (engine.counts().sessions, engine.counts().pages_used),
        (0, 0)
    );
}
