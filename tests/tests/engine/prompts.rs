//! Prompts that are prepared outside of the engine and come back at any time.

use super::world::{Heard, answer, config, load, request, tiny, turn};
use glowplug_model::engine::{
    Engine, EngineConfig, Finish, Outcome, Prepared, Priority, PromptJob, Refusal, Request,
    RequestId, SessionFault, SessionVerb,
};
use glowplug_model::text::{Message, Role};
use glowplug_tests::{SplitMix, Think};
use std::collections::BTreeMap;

fn prepare(engine: &Engine, job: PromptJob) -> Prepared {
    engine.prompts().prepare(job)
}

#[test]
fn a_prompt_that_comes_late_is_answered_as_one_that_comes_at_once() {
    let tiny = tiny(Think::Never);
    let mut engine = load(&tiny, &config(64, 2));
    let (said, _) = answer(&mut engine, 1, turn("a", "s", "the rain", 12));
    let (more, all) = answer(&mut engine, 2, turn("a", "s", "and now?", 12));

    let mut late = load(&tiny, &config(64, 2));
    let mut heard = Heard::default();
    for (id, text, expected) in [(1, "the rain", &said), (2, "and now?", &more)] {
        let job = late.gather(id, turn("a", "s", text, 12)).unwrap();
        assert_eq!((job.id(), job.priority()), (id, Priority::Normal));
        heard.idle(&mut late);
        assert!(!heard.started.contains(&id), "it has no prompt yet");
        assert_eq!(late.counts().queued, 1);
        assert_eq!(
            late.session("a", "s", SessionVerb::Reset),
            Err(SessionFault::Busy)
        );
        let prepared = std::thread::scope(|scope| {
            let builder = late.prompts().clone();
            scope.spawn(move || builder.prepare(job)).join().unwrap()
        });
        late.accept(prepared).unwrap();
        heard.idle(&mut late);
        assert_eq!(heard.text[&id], *expected);
    }
    assert_eq!(heard.ended[&2], all);
}

#[test]
fn what_ends_before_its_prompt_is_there_ends_once_and_frees_its_session() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let mut heard = Heard::default();
    let job = engine.gather(1, turn("a", "s", "the rain", 12)).unwrap();
    assert!(engine.end(1, Finish::Superseded) && !engine.end(1, Finish::Cancelled));
    let next = engine
        .gather(2, turn("a", "s", "in the plain", 12))
        .unwrap();
    assert!(engine.finish_ended(&mut |id, event| heard.take(id, event)));
    assert_eq!(heard.finish(1), Finish::Superseded);
    // its prompt comes too late
    let prepared = prepare(&engine, job);
    assert_eq!(engine.accept(prepared), Ok(0));
    let prepared = prepare(&engine, next);
    engine.accept(prepared).unwrap();
    heard.idle(&mut engine);
    let (alone, _) = answer(
        &mut load(&tiny(Think::Never), &config(64, 2)),
        0,
        request("c", "in the plain", 12),
    );
    assert_eq!(heard.text[&2], alone);
    assert!(!heard.started.contains(&1));
    assert_eq!(engine.counts().queued, 0);
}

/// A client that cancels and asks again at once goes on from what was said before the cancel.
#[test]
fn the_next_turn_goes_on_from_one_that_was_just_ended() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let mut heard = Heard::default();
    engine.submit(1, turn("a", "s", "the rain", 200)).unwrap();
    for _ in 0..10 {
        engine.step(&mut |id, event| heard.take(id, event));
    }
    assert!(engine.end(1, Finish::Cancelled));
    let job = engine.gather(2, turn("a", "s", "stop", 8)).unwrap();
    assert!(job.bytes() >= "the rainstop".len());
    let prepared = prepare(&engine, job);
    engine.accept(prepared).unwrap();
    heard.idle(&mut engine);
    let (first, second) = (&heard.ended[&1], &heard.ended[&2]);
    assert_eq!(first.finish, Finish::Cancelled);
    assert!(second.prompt_tokens > first.prompt_tokens + first.completion_tokens / 2);
    // each of the two is in the session once
    let state = engine.session("a", "s", SessionVerb::Reset).unwrap();
    assert_eq!(state.turns, 0);
}

#[test]
fn what_is_refused_leaves_nothing_and_counts_for_its_client() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    // the text would be too many tokens even if all of them were the longest
    let refused = engine.gather(1, turn("f", "s", &"x".repeat(256 << 10), 8));
    assert!(matches!(
        refused.unwrap_err(),
        Refusal::TextLength {
            bytes: 262_144,
            limit: 512
        }
    ));
    assert_eq!(engine.counts().sessions, 0);
    // blanks around the text do not count, because a template may remove them
    let blank = format!("hi{}", " ".repeat(256 << 10));
    let job = engine.gather(1, turn("f", "s", &blank, 8)).unwrap();
    let prepared = prepare(&engine, job);
    let refused = engine.accept(prepared).unwrap_err();
    assert!(matches!(refused, Refusal::TextLength { .. }), "{refused}");
    let counts = engine.counts();
    assert_eq!((counts.sessions, counts.queued), (0, 0));
    // of two requests that wait for one place, the one goes first whose client had less work done for it
    let mut heard = Heard::default();
    engine.submit(2, request("f", "the rain", 4)).unwrap();
    engine.submit(3, request("g", "the rain", 4)).unwrap();
    heard.idle(&mut engine);
    assert_eq!(heard.started, [3, 2]);
}

#[test]
fn a_prompt_is_counted_up_to_a_bound_and_read_no_further() {
    let mut counted = 0;
    for words in (250..20_000).step_by(250) {
        let mut engine = load(&tiny(Think::Never), &config(64, 1));
        // of the system, whose bytes are not looked at before
        let text = " x".repeat(words);
        let mut asked = request("a", "hi", 8);
        let system = Message::new(Role::System, text.clone());
        asked.messages.insert(0, system);
        let job = engine.gather(1, asked).unwrap();
        let prepared = prepare(&engine, job);
        match engine.accept(prepared) {
            Ok(_) => assert_eq!(counted, 0, "{words} words"),
            Err(Refusal::ContextLength { tokens, limit: 512 }) => {
                assert!((512..=4096).contains(&tokens), "{tokens} tokens");
                counted += 1;
            }
            Err(Refusal::TextLength { bytes, limit: 512 }) => {
                assert!(counted > 0);
                assert_eq!(bytes, text.len() + 2);
                return;
            }
            Err(other) => panic!("{words} words: {other}"),
        }
    }
    panic!("no text is too long");
}

#[test]
fn an_id_is_taken_once_and_no_more_are_prepared_than_may_be() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    engine.gather(1, request("a", "x", 1)).unwrap();
    let twice = engine.gather(1, request("a", "x", 1)).unwrap_err();
    assert!(matches!(twice, Refusal::Invalid { param: "id", .. }));
    let refused = (2..).find_map(|id| engine.gather(id, request("a", "x", 1)).err());
    let Some(Refusal::Overloaded { queued, limit }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((queued, engine.counts().queued), (limit, limit));
}

/// The last answer of a session is computed again after its thought; then the session is reset, dropped or forgotten, or goes
/// on, while that is prepared.
#[test]
fn own_work_on_what_is_no_more_is_not_done() {
    for end in 0..4 {
        let mut engine = load(&tiny(Think::Prompt), &config(64, 2));
        let mut heard = Heard::default();
        engine
            .submit(1, turn("a", "s", "the rain in the plain ", 12))
            .unwrap();
        while heard.ended.is_empty() {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        let job = engine.chore().unwrap();
        let own = job.id();
        assert!(engine.chore().is_none());
        match end {
            0 => drop(engine.session("a", "s", SessionVerb::Reset).unwrap()),
            1 => drop(engine.session("a", "s", SessionVerb::Drop).unwrap()),
            2 => drop(engine.forget("a", &mut |_, _| {}).unwrap()),
            _ => {
                let next = engine.gather(2, turn("a", "s", "and now?", 4)).unwrap();
                let next = prepare(&engine, next);
                engine.accept(next).unwrap();
            }
        }
        let prepared = prepare(&engine, job);
        assert_eq!(engine.accept(prepared), Ok(0));
        assert_eq!(engine.counts().queued, usize::from(end == 3));
        heard.idle(&mut engine);
        assert!(!heard.ended.contains_key(&own));
        if end < 3 {
            assert_eq!(engine.counts().pages_used, 0, "{end}");
        }
    }
}

/// Random lives: prompts come back in any order and at any time, or never if their request has ended, between cancels, newer
/// turns and verbs. Every request that was gathered ends exactly once ([`Heard::take`] checks it), and the turns of a session
/// keep their order.
#[test]
fn every_request_ends_once_whenever_its_prompt_comes() {
    for seed in 0..20 {
        let mut random = SplitMix::new(seed, "prompts");
        let think = [Think::Never, Think::Prompt][seed as usize % 2];
        let mut engine = load(
            &tiny(think),
            &EngineConfig {
                window: seed % 4 > 1,
                ..config(48, 2)
            },
        );
        let mut heard = Heard::default();
        let (mut jobs, mut turns) = (Vec::new(), BTreeMap::<usize, RequestId>::new());
        let (mut id, mut taken, mut refused) = (0, 0, 0);
        for _ in 0..400 {
            match random.below(8) {
                0 | 1 if jobs.len() < 12 => {
                    id += 1;
                    let session = random.below(4);
                    let said = "the rain in the plain ".repeat(1 + random.below(12));
                    let asked = if session == 3 {
                        request("b", &said, 6)
                    } else {
                        if let Some(before) = turns.insert(session, id) {
                            engine.end(before, Finish::Superseded);
                        }
                        turn("a", &session.to_string(), &said, 6)
                    };
                    match engine.gather(id, asked) {
                        Ok(job) => {
                            taken += 1;
                            jobs.push(job);
                        }
                        Err(_) => refused += 1,
                    }
                }
                2 | 3 if !jobs.is_empty() => {
                    let job = jobs.swap_remove(random.below(jobs.len()));
                    let prepared = prepare(&engine, job);
                    if engine.accept(prepared).is_err() {
                        (taken, refused) = (taken - 1, refused + 1);
                    }
                }
                4 => {
                    engine.end(random.below(id as usize + 1) as u64, Finish::Cancelled);
                }
                5 => {
                    let verb = [SessionVerb::Reset, SessionVerb::Drop][random.below(2)];
                    let session = random.below(3).to_string();
                    engine.session("a", &session, verb).ok();
                }
                6 if jobs.len() < 12 => jobs.extend(engine.chore()),
                _ => {
                    engine.step(&mut |id, event| heard.take(id, event));
                }
            }
        }
        for job in jobs {
            let prepared = prepare(&engine, job);
            if engine.accept(prepared).is_err() {
                (taken, refused) = (taken - 1, refused + 1);
            }
        }
        heard.idle(&mut engine);
        assert_eq!(heard.ended.len(), taken, "seed {seed}, {refused} refused");
        assert!(taken > 20, "seed {seed}");
        let counts = engine.counts();
        assert_eq!((counts.queued, counts.running, counts.parked), (0, 0, 0));
        engine.forget("a", &mut |_, _| {}).unwrap();
        engine.forget("b", &mut |_, _| {}).unwrap();
        assert_eq!(engine.counts().pages_used, 0, "seed {seed}");
    }
}

#[test]
fn what_a_request_reserves_is_left_free_by_prompt_and_answer() {
    let context = 512;
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let asked = |reserve| Request {
        reserve,
        ..request("c", "the rain in the plain", 10_000)
    };
    let (_, free) = answer(&mut engine, 1, asked(0));
    let tokens = free.prompt_tokens as usize;
    // the last token of an answer is not fed, so it needs no room
    let fed = |outcome: &Outcome| tokens + outcome.completion_tokens as usize - 1;
    let (_, kept) = answer(&mut engine, 2, asked(500 - tokens));
    assert_eq!(kept.finish, Finish::Length);
    assert_eq!(fed(&kept), context - (500 - tokens));
    assert!(fed(&free) > fed(&kept) && fed(&free) <= context);
    // not even the prompt has room
    let refused = engine.submit(3, asked(context - tokens));
    let limit = tokens;
    assert_eq!(refused, Err(Refusal::ContextLength { tokens, limit }));
    assert!(engine.submit(4, asked(context - tokens - 1)).is_ok());
    // the pages for it count too
    let mut few = load(&tiny(Think::Never), &config(4, 1));
    let short = |reserve| Request {
        max_tokens: 8,
        ..asked(reserve)
    };
    assert!(few.submit(1, short(0)).is_ok());
    let refused = few.submit(2, short(128));
    assert!(
        matches!(refused, Err(Refusal::Memory { pages: 4, .. })),
        "{refused:?}"
    );
}

#[test]
fn a_text_is_cut_to_its_tokens_between_two_characters() {
    let engine = load(&tiny(Think::Never), &config(64, 1));
    let prompts = engine.prompts();
    let text = "the rain in the plain \u{e9}\u{1f327} falls mainly".repeat(3);
    let (whole, tokens) = prompts.cut(&text, usize::MAX);
    assert_eq!(whole, text);
    for most in 0..=tokens {
        let (kept, has) = prompts.cut(&text, most);
        assert_eq!(has, most);
        assert!(text.starts_with(kept) && (most < tokens || kept == text));
    }
    assert_eq!(prompts.cut(&text, 0).0, "");
}
