//! Named conversations: what they remember, which pages they find again, and their files.

mod states;

use super::world::{Heard, Q8, answer, config, load, request, tiny, turn};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{
    Engine, EngineConfig, Finish, KvFormats, Notice, Refusal, Request, SessionFault, SessionVerb,
};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Message, Role};
use glowplug_tests::{SplitMix, Think};
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
        // the same conversation, asked at once of an engine that knows nothing of it
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
    // there is only one file, and what was said since then is not in it
    drop(engine);
    let mut engine = load(&tiny, &saved(folder.path()));
    let known = engine.session("a", "s", SessionVerb::Save).unwrap();
    assert_eq!((known.turns, known.saved), (1, true));
    let (said, restored) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
    assert_eq!(
        (said, restored.cached_tokens),
        (expected, warm.cached_tokens)
    );
    assert_eq!(engine.save_all(), 0);
    only_file(folder.path());
}

#[test]
fn what_was_said_goes_on_with_another_model_and_another_cache() {
    let tiny = tiny(Think::Never);
    let mut other = tiny.clone();
    other.seed += 1;
    let f16 = KvFormats {
        k: KvFormat::F16,
        v: KvFormat::F16,
    };
    let long = "the rain in the plain ".repeat(12);
    for (model, kv) in [(&other, Q8), (&tiny, f16), (&tiny, Q8)] {
        let folder = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            kv,
            ..saved(folder.path())
        };
        let mut engine = load(&tiny, &saved(folder.path()));
        answer(&mut engine, 1, turn("a", "s", &long, 40));
        assert_eq!(engine.save_all(), 0);
        let (_, expected) = answer(&mut engine, 2, turn("a", "s", "and now?", 20));
        let mut after = load(model, &config);
        let (_, outcome) = answer(&mut after, 1, turn("a", "s", "and now?", 20));
        assert_eq!(outcome.prompt_tokens, expected.prompt_tokens);
        // only its own model can use its pages
        let same = std::ptr::eq(model, &raw const tiny) && kv == Q8;
        assert_eq!(outcome.cached_tokens > 0, same);
        assert_eq!(after.notices(), []);
        // another model writes them anew
        assert_eq!(after.save_all(), 0);
        let mut again = load(model, &config);
        let (_, outcome) = answer(&mut again, 1, turn("a", "s", "go on", 4));
        assert!(outcome.cached_tokens > expected.prompt_tokens);
        let mut late = load(&other, &saved(folder.path()));
        late.session("a", "s", SessionVerb::Drop).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
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
    let mut random = SplitMix::new(7, "sessions");
    for i in 0..24 {
        let mut bytes = sound.clone();
        if i % 3 == 0 {
            bytes.truncate(random.below(sound.len()));
        } else {
            bytes[random.below(sound.len())] ^= 1 << random.below(8);
        }
        std::fs::write(&file, bytes).unwrap();
        let mut engine = load(&tiny, &saved(folder.path()));
        let (_, outcome) = answer(&mut engine, 1, turn("a", "s", "go on", 8));
        assert_eq!(outcome.finish, Finish::Length);
        // either the session is forgotten, which the client is told, or its text is known and damaged pages are computed again
        let known = match &engine.notices()[..] {
            [] => true,
            [
                Notice::Unreadable {
                    client, session, ..
                },
            ] => {
                assert_eq!((&**client, &**session), ("a", "s"));
                false
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(known, outcome.prompt_tokens == expected.prompt_tokens);
        assert_eq!(engine.counts().pages_total, 64);
    }
}

/// What a session should remember, as its client could keep track of it.
fn said(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

#[test]
fn a_session_that_may_forgets_its_oldest_turns_and_answers_as_if_they_had_not_been() {
    let tiny = tiny(Think::Never);
    // in the second case the arena is the bound
    for pages in [64, 12] {
        let windowed = EngineConfig {
            window: true,
            ..config(pages, 2)
        };
        let whole = (pages * 32).min(512) as u32;
        let mut engine = load(&tiny, &windowed);
        let mut history = vec![said(Role::System, "you know it")];
        let (mut cuts, mut cold) = (0, 0);
        for i in 0..40 {
            let words = format!("{i} the rain in the plain, and on it");
            let mut request = turn("a", "s", &words, 24);
            if i == 0 {
                request.messages.insert(0, history[0].clone());
            }
            let (answered, outcome) = answer(&mut engine, i, request);
            assert!(outcome.prompt_tokens < whole, "{outcome:?}");
            let forgotten = outcome.forgotten_messages as usize;
            history.drain(1..1 + forgotten);
            history.push(said(Role::User, &words));
            if forgotten > 0 {
                cuts += 1;
                assert!(outcome.prompt_tokens <= whole / 2, "{outcome:?}");
                let mut alone = request_of(&history, 24);
                alone.client = "b".into();
                let (told, all) = answer(&mut load(&tiny, &config(64, 2)), 0, alone);
                assert_eq!(
                    (&told, all.prompt_tokens),
                    (&answered, outcome.prompt_tokens)
                );
            } else if i > 0 && outcome.cached_tokens * 2 < outcome.prompt_tokens {
                cold += 1;
            }
            history.push(said(Role::Assistant, &answered));
        }
        assert!(cuts >= 2, "{cuts} of 40 turns forgot");
        // the turns that follow find the pages of what was kept
        assert_eq!(cold, 0);
        // a message that has no room whatever is forgotten
        let long = "the rain in the plain ".repeat(60);
        let refused = engine.submit(99, turn("a", "s", &long, 8)).unwrap_err();
        assert!(
            matches!(refused, Refusal::ContextLength { .. }),
            "{refused}"
        );
        let (_, outcome) = answer(&mut engine, 100, turn("a", "s", "go on", 8));
        assert!(outcome.forgotten_messages < history.len() as u32 - 2);
        engine.session("a", "s", SessionVerb::Drop).unwrap();
        assert_eq!(engine.counts().pages_used, 0);
    }
}

fn request_of(history: &[Message], max_tokens: u32) -> Request {
    Request {
        messages: history.to_vec(),
        ..request("a", "", max_tokens)
    }
}

#[test]
fn a_session_that_may_not_forget_is_refused_with_the_limit() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let words = "the rain in the plain ".repeat(12);
    let refused = (0..20).find_map(|i| {
        let mut heard = Heard::default();
        let refused = engine.submit(i, turn("a", "s", &words, 24)).err();
        heard.idle(&mut engine);
        refused
    });
    assert!(
        matches!(refused, Some(Refusal::ContextLength { limit: 512, .. })),
        "{refused:?}"
    );
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

#[test]
fn a_forgotten_client_leaves_no_session_no_file_and_no_page() {
    let folder = tempfile::tempdir().unwrap();
    for think in [Think::Never, Think::Prompt] {
        let mut engine = load(&tiny(think), &saved(folder.path()));
        let long = "the canary of a ".repeat(12);
        for (id, session) in [(1, "s"), (2, "t")] {
            answer(&mut engine, id, turn("a", session, &long, 8));
        }
        answer(&mut engine, 3, turn("b", "s", "rain in the plain", 8));
        assert_eq!(engine.save_all(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        // a request of the session and the idle work on its last answer are under way
        engine.submit(4, turn("a", "s", &long, 100)).unwrap();
        let mut heard = Heard::default();
        for _ in 0..4 {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        assert!(engine.end(4, Finish::Cancelled));
        let forgotten = engine.forget("a", &mut |id, event| heard.take(id, event));
        assert_eq!((forgotten, heard.finish(4)), (Ok(2), Finish::Cancelled));
        assert_eq!(engine.counts().sessions, 1);
        only_file(folder.path());
        // b's prompts begin with the same text of the template
        let (_, other) = answer(&mut engine, 5, request("c", "quite another", 8));
        let (_, again) = answer(&mut engine, 6, turn("a", "s", &long, 8));
        assert_eq!(again.cached_tokens, other.cached_tokens, "{think:?}");
        let (_, kept) = answer(&mut engine, 7, turn("b", "s", "and now?", 8));
        assert!(kept.cached_tokens > other.cached_tokens, "{think:?}");
        assert_eq!(engine.forget("nobody", &mut |_, _| {}), Ok(0));
        for client in ["a", "b"] {
            engine.forget(client, &mut |_, _| {}).unwrap();
        }
        assert_eq!(engine.counts().pages_used, 0);
    }
}

#[test]
fn the_engine_after_goes_on_with_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let said = "the rain in the plain ".repeat(4);
    let mut whole = load(&tiny, &config(64, 2));
    answer(&mut whole, 1, turn("a", "s", &said, 20));
    let (expected, all) = answer(&mut whole, 2, turn("a", "s", "and now?", 20));
    // with files and without them, with the same model and with another
    for (config, save) in [(config(64, 2), false), (saved(folder.path()), true)] {
        let mut before = load(&tiny, &config);
        answer(&mut before, 1, turn("a", "s", &said, 20));
        if save {
            assert_eq!(before.save_all(), 0);
        }
        let mut after = load(&tiny, &config);
        after.adopt(before.into_conversations());
        assert_eq!(after.counts().sessions, 1);
        let (text, outcome) = answer(&mut after, 2, turn("a", "s", "and now?", 20));
        assert_eq!(
            (text, outcome.prompt_tokens),
            (expected.clone(), all.prompt_tokens)
        );
        assert_eq!(outcome.cached_tokens > 0, save);
        let mut other = load(&self::tiny(Think::Prompt), &config);
        other.adopt(after.into_conversations());
        let (_, outcome) = answer(&mut other, 3, turn("a", "s", "and now?", 20));
        assert!(outcome.prompt_tokens > all.prompt_tokens);
        assert_eq!(outcome.cached_tokens, 0);
    }
}

#[test]
fn without_its_gpu_the_engine_goes_on_with_what_waits_and_what_was_said() {
    let (tiny, config) = (tiny(Think::Never), config(64, 2));
    let gguf = Gguf::from_bytes(tiny.bytes().into()).unwrap();
    let long = "the rain in the plain ".repeat(12);
    let mut engine = Engine::load(&gguf, &config).unwrap();
    answer(&mut engine, 1, turn("a", "s", &long, 40));
    let mut heard = Heard::default();
    for (id, client) in [(2, "b"), (3, "c"), (4, "d")] {
        let request = request(client, "the rain", 40);
        engine.submit(id, request).unwrap();
    }
    while engine.counts().running < 2 || heard.text.len() < 2 {
        engine.step(&mut |id, event| heard.take(id, event));
    }
    engine.go_on_without_gpu(&gguf, &config).unwrap();
    assert_eq!(engine.counts().running, 0);
    heard.idle(&mut engine);
    // what had started is gone, for the caller to report; what waited is answered
    assert_eq!(heard.ended.keys().collect::<Vec<_>>(), [&4]);
    let (second, outcome) = answer(&mut engine, 5, turn("a", "s", "and now?", 20));
    assert_eq!(outcome.cached_tokens, 0, "its pages were the GPU's");
    let mut other = Engine::load(&gguf, &config).unwrap();
    let (alone, _) = answer(&mut other, 1, request("d", "the rain", 40));
    assert_eq!(heard.text[&4], alone);
    answer(&mut other, 2, turn("a", "s", &long, 40));
    let (again, _) = answer(&mut other, 3, turn("a", "s", "and now?", 20));
    assert_eq!(second, again);
    engine.session("a", "s", SessionVerb::Drop).unwrap();
    assert_eq!(engine.counts().pages_used, 0);
}

#[test]
fn a_days_writes_are_bounded_and_a_session_that_is_not_written_is_computed_again() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let config = EngineConfig {
        session_writes: Some(1),
        ..saved(folder.path())
    };
    let mut engine = load(&tiny, &config);
    answer(&mut engine, 1, turn("a", "s", "the rain", 8));
    answer(&mut engine, 2, turn("b", "s", "the rain", 8));
    assert!(engine.session("a", "s", SessionVerb::Save).unwrap().saved);
    let worn = engine.session("b", "s", SessionVerb::Save);
    assert_eq!(worn, Err(SessionFault::Worn { per_day: 1 }));
    only_file(folder.path());
    // a session that has to give way under load is not written either
    answer(&mut engine, 3, request("c", "the plain ", 490));
    for id in 0..6 {
        engine
            .submit(10 + id, request("d", "the plain", 490))
            .unwrap();
    }
    Heard::default().idle(&mut engine);
    only_file(folder.path());
    let (_, again) = answer(&mut engine, 4, turn("b", "s", "and now?", 8));
    assert!(again.prompt_tokens > 20);
    // on the next day it is written
    engine.expire(86_400, 1_000_000);
    assert!(engine.session("b", "s", SessionVerb::Save).unwrap().saved);
    answer(&mut engine, 5, turn("a", "s", "and now?", 8));
    let worn = engine.session("a", "s", SessionVerb::Save);
    assert_eq!(worn, Err(SessionFault::Worn { per_day: 1 }));
    // at shutdown all are written
    assert_eq!(engine.save_all(), 0);
    let mut after = load(&tiny, &config);
    for client in ["a", "b"] {
        let known = after.session(client, "s", SessionVerb::Save).unwrap();
        assert_eq!(known.turns, 2);
    }
}
