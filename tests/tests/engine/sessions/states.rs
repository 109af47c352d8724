//! Networks with states: what is found again, and that it says what an engine says that computes everything.

use crate::world::{answer, config, load, on_host, request, turn};
use glowplug_model::engine::{EngineConfig, Request, SessionVerb};
use glowplug_model::text::{Message, Role};
use glowplug_tests::{Think, Tiny};

/// A model with states that says its last token again and again, so that its answers are read as the tokens that they were.
fn hybrid() -> Tiny {
    Tiny {
        tied_head: true,
        ..crate::world::hybrid()
    }
}

/// What an engine says that knows nothing, to a conversation that is asked at once.
fn anew(tiny: &Tiny, said: &[(&str, &str)], asks: &str, max_tokens: u32) -> String {
    let mut messages = Vec::new();
    for (question, answer) in said {
        messages.push(Message::user(*question));
        messages.push(Message::new(Role::Assistant, *answer));
    }
    messages.push(Message::user(asks));
    let asks = Request {
        messages,
        ..request("fresh", "", max_tokens)
    };
    answer(&mut load(tiny, &config(64, 2)), 1, asks).0
}

/// With thoughts, whose answers are computed again in idle time, and without.
#[test]
fn a_turn_computes_only_what_is_new_and_says_the_same() {
    // with thoughts a slot more, for the copy from before the thought
    for (think, slots) in [(Think::Never, [1, 2, 5]), (Think::Prompt, [2, 3, 5])] {
        let tiny = Tiny { think, ..hybrid() };
        let long = "the rain in the plain ".repeat(12);
        for state_slots in slots {
            let config = EngineConfig {
                state_slots,
                ..config(64, 2)
            };
            let Some(mut engine) = on_host(&tiny, &config) else {
                return;
            };
            let (said, first) = answer(&mut engine, 1, turn("a", "s", &long, 40));
            let (second, warm) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
            assert_eq!(second, anew(&tiny, &[(&long, &said)], "and now?", 20));
            assert!(
                warm.cached_tokens + 64 > first.prompt_tokens,
                "{think:?}, {state_slots} slots: {} of {} are cached",
                warm.cached_tokens,
                warm.prompt_tokens
            );
        }
    }
}

#[test]
fn a_system_text_is_computed_once_for_everybody_and_a_question_once_for_its_client() {
    let long = "be as brief as the rain in the plain is long ".repeat(6);
    let asks = |client: &str| Request {
        system: Some(long.as_str().into()),
        ..request(client, "hello", 8)
    };
    let Some(mut engine) = on_host(&hybrid(), &config(64, 2)) else {
        return;
    };
    let (said, first) = answer(&mut engine, 1, asks("a"));
    for (id, client) in [(2, "b"), (3, "a")] {
        let (again, outcome) = answer(&mut engine, id, asks(client));
        assert_eq!(again, said);
        assert!(outcome.cached_tokens + 64 > first.prompt_tokens);
    }
}

#[test]
fn a_session_goes_on_from_its_file_and_a_damaged_one_costs_the_time_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = EngineConfig {
        sessions: Some(folder.path().to_owned()),
        ..config(64, 2)
    };
    let tiny = hybrid();
    let long = "the rain in the plain ".repeat(12);
    let Some(mut engine) = on_host(&tiny, &config) else {
        return;
    };
    let (said, first) = answer(&mut engine, 1, turn("a", "s", &long, 40));
    engine.session("a", "s", SessionVerb::Save).unwrap();
    drop(engine);
    let file = std::fs::read_dir(folder.path()).unwrap().next();
    let file = file.unwrap().unwrap().path();
    let good = std::fs::read(&file).unwrap();
    let want = anew(&tiny, &[(&long, &said)], "and now?", 20);
    let next = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let mut engine = load(&tiny, &config);
        let (second, outcome) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
        assert_eq!(second, want);
        outcome.cached_tokens
    };
    assert!(next(&good) + 32 > first.prompt_tokens);
    // the last byte of the state, and one of a page
    for back in [5, good.len() / 2] {
        let mut bad = good.clone();
        let at = bad.len() - back;
        bad[at] ^= 1;
        assert_eq!(next(&bad), 0);
    }
}
