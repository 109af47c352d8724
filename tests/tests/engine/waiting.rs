//! A request that waits for pages holds none, so no two wait for each other.

use super::world::{Heard, answer, config, load, request, tiny, turn};
use glowplug_model::engine::{EngineConfig, Finish, Refusal, Request};
use glowplug_tests::Think;

/// A text of some 150 tokens that no other name has.
fn told(name: &str) -> String {
    (0..12)
        .map(|k| format!("{name}{k} is {}, ok. ", k * 7))
        .collect()
}

/// Two conversations fill the pages between them, and both are asked before either can start.
#[test]
fn two_sessions_that_fill_the_pages_are_asked_at_once() {
    for streams in [1, 2] {
        let mut engine = load(&tiny(Think::Never), &config(12, streams));
        let mut heard = Heard::default();
        for (id, session) in [(1, "s"), (2, "t")] {
            answer(&mut engine, id, turn("a", session, &told(session), 8));
        }
        assert!(engine.counts().pages_used >= 10);
        for (id, session) in [(3, "s"), (4, "t")] {
            engine
                .submit(id, turn("a", session, "and then?", 100))
                .unwrap();
        }
        engine.submit(5, request("b", "hello", 4)).unwrap();
        heard.idle(&mut engine);
        for id in 3..=5 {
            assert!(matches!(heard.finish(id), Finish::Length | Finish::Stop));
        }
        // the answers do not depend on what else was asked
        let mut alone = load(&tiny(Think::Never), &config(64, 1));
        for (id, session) in [(3, "s"), (4, "t")] {
            answer(&mut alone, 1, turn("a", session, &told(session), 8));
            let (said, _) = answer(&mut alone, 2, turn("a", session, "and then?", 100));
            assert_eq!(heard.text[&id], said);
        }
        for session in ["s", "t"] {
            engine
                .session("a", session, glowplug_model::engine::SessionVerb::Drop)
                .unwrap();
        }
        assert_eq!(engine.counts().pages_used, 0);
    }
}

/// The same where they have files: a session that gives way is written and read again.
#[test]
fn sessions_that_give_way_while_they_wait_go_on_from_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let files = EngineConfig {
        sessions: Some(folder.path().to_owned()),
        ..config(12, 2)
    };
    let mut engine = load(&tiny(Think::Never), &files);
    let mut heard = Heard::default();
    let sessions = [(1, "s"), (2, "t"), (3, "u")];
    for (id, session) in sessions {
        answer(&mut engine, id, turn("a", session, &told(session), 8));
    }
    for (id, session) in sessions {
        engine
            .submit(10 + id, turn("a", session, "and then?", 100))
            .unwrap();
    }
    heard.idle(&mut engine);
    for (id, _) in sessions {
        let outcome = &heard.ended[&(10 + id)];
        assert!(
            outcome.cached_tokens + 40 > outcome.prompt_tokens,
            "{outcome:?}"
        );
    }
}

#[test]
fn a_context_of_a_token_or_two_is_no_panic() {
    for context in 1..=3 {
        let config = EngineConfig {
            context,
            ..config(4, 1)
        };
        let mut engine = load(&tiny(Think::Never), &config);
        let refused = engine.submit(1, request("a", "hi", 400)).unwrap_err();
        assert!(matches!(refused, Refusal::ContextLength { .. }));
        let raw = Request {
            raw: true,
            ..request("a", "a", 400)
        };
        if context > 1 {
            let (_, outcome) = answer(&mut engine, 2, raw);
            assert_eq!(outcome.prompt_tokens, 1);
        } else {
            assert!(engine.submit(2, raw).is_err());
        }
    }
}
