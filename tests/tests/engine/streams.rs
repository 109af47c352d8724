//! Many streams share one step.

use super::world::{Heard, answer, config, hybrid, load, request, tiny, turn};
use glowplug_firmware_config::limits::{CHUNK_TOKENS, DRAFT_MAX, STEP_TOKENS};
use glowplug_model::engine::{Effort, Finish, Priority, Refusal, Request, Worked};
use glowplug_tests::world::on_gpu;
use glowplug_tests::{SplitMix, Think, Tiny};

/// A stream's answer does not depend on the other streams in the step, on chunks, or on pages that are shared and copied.
#[test]
fn streams_together_say_what_each_says_alone() {
    let shared = together(&tiny(Think::Never));
    assert!(shared.cached.values().any(|cached| *cached > 64));
    // a GPU refuses the network
    if !on_gpu() {
        together(&hybrid());
    }
}

fn together(tiny: &Tiny) -> Heard {
    let prompts: Vec<String> = (0..12u64)
        .map(|i| {
            let mut random = SplitMix::new(i, "streams");
            let words = 1 + random.below(60);
            // some prompts share a beginning, of whole pages and of a part of a page
            let common =
                "the rain in the plain falls mainly on the train ".repeat((i % 3) as usize);
            let own: String = (0..words)
                .map(|_| ["rain ", "plain ", "oil ", "a b ", "42 "][random.below(5)])
                .collect();
            common + &own
        })
        .collect();
    let alone: Vec<_> = prompts
        .iter()
        .map(|prompt| {
            let mut engine = load(tiny, &config(64, 1));
            answer(&mut engine, 1, request("c", prompt, 24)).0
        })
        .collect();
    let mut engine = load(tiny, &config(64, 4));
    let mut heard = Heard::default();
    for (i, prompt) in prompts.iter().enumerate() {
        let client = ["a", "b", "c"][i % 3];
        engine
            .submit(i as u64, request(client, prompt, 24))
            .unwrap();
        // requests come while others run
        for _ in 0..i {
            engine.step(&mut |id, event| heard.take(id, event));
        }
    }
    heard.idle(&mut engine);
    for (i, alone) in alone.iter().enumerate() {
        assert_eq!(&heard.text[&(i as u64)], alone, "{}", prompts[i]);
    }
    heard
}

/// Whatever an engine has answered before, and whoever asks again or goes on.
#[test]
fn states_are_those_of_the_text() {
    if on_gpu() {
        return;
    }
    let long = "the rain in the plain ".repeat(8);
    let fresh = |before: &str| {
        let mut engine = load(&hybrid(), &config(64, 1));
        let said = answer(&mut engine, 1, turn("a", "s", before, 8)).0;
        (said, answer(&mut engine, 2, turn("a", "s", &long, 40)).0)
    };
    let (once, twice) = (fresh(&long), fresh("42"));
    assert_ne!(once, twice);
    let mut engine = load(&hybrid(), &config(64, 2));
    for (i, session) in ["s", "t", "s", "u"].into_iter().enumerate() {
        let (first, id) = (if session == "u" { "42" } else { &long }, 10 * i as u64);
        let want = if session == "u" { &twice } else { &once };
        let known = i == 2;
        if !known {
            assert_eq!(
                answer(&mut engine, id, turn("a", session, first, 8)).0,
                want.0
            );
            assert_eq!(
                answer(&mut engine, id + 1, turn("a", session, &long, 40)).0,
                want.1
            );
        }
        // and beside it the same text without a session
        assert_eq!(
            answer(&mut engine, id + 2, request("b", first, 8)).0,
            want.0
        );
    }
}

#[test]
fn a_repeated_question_is_computed_once() {
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let long = "the rain in the plain ".repeat(20);
    let (first, cold) = answer(&mut engine, 1, request("a", &long, 8));
    let (second, warm) = answer(&mut engine, 2, request("a", &long, 8));
    assert_eq!(first, second);
    assert_eq!(cold.cached_tokens, 0);
    assert_eq!(warm.cached_tokens, warm.prompt_tokens - 1);
}

#[test]
fn an_urgent_request_starts_with_the_next_step_and_nothing_is_lost() {
    let mut engine = load(&tiny(Think::Never), &config(128, 1));
    let (alone, _) = answer(&mut engine, 1, request("a", "the rain", 200));
    let mut heard = Heard::default();
    let mut background = request("a", "the rain", 200);
    background.priority = Priority::Background;
    engine.submit(2, background).unwrap();
    for _ in 0..20 {
        engine.step(&mut |id, event| heard.take(id, event));
    }
    let mut urgent = request("b", "in the plain", 4);
    urgent.priority = Priority::Urgent;
    engine.submit(3, urgent).unwrap();
    // checking the rest of a draft takes no time
    let drafted = (0..2 * DRAFT_MAX)
        .take_while(|_| {
            let worked = engine.step(&mut |id, event| heard.take(id, event));
            !matches!(worked, Worked::Pass(_))
        })
        .count();
    assert!(drafted < 2 * DRAFT_MAX);
    assert_eq!(heard.started, [2, 3]);
    assert_eq!((engine.counts().running, engine.counts().parked), (1, 1));
    heard.idle(&mut engine);
    assert_eq!(heard.text[&2], alone);
    assert_eq!(engine.counts().pages_used, 0);
}

#[test]
fn what_can_never_fit_is_refused_with_the_number() {
    let mut engine = load(&tiny(Think::Never), &config(4, 2));
    let refusal = engine.submit(1, request("a", "hi", 400)).unwrap_err();
    assert!(
        matches!(refusal, Refusal::Memory { needed, pages: 4 } if needed > 4),
        "{refusal}"
    );
    assert!(refusal.to_string().contains("are missing"), "{refusal}");
}

#[test]
fn who_has_no_room_yet_waits_and_who_is_cancelled_there_ends() {
    let mut engine = load(&tiny(Think::Never), &config(6, 4));
    let mut heard = Heard::default();
    for id in 1..=3 {
        engine.submit(id, request("a", "the rain", 100)).unwrap();
    }
    engine.step(&mut |id, event| heard.take(id, event));
    assert_eq!((engine.counts().running, engine.counts().queued), (1, 2));
    assert!(engine.end(3, Finish::Cancelled) && !engine.end(3, Finish::Cancelled));
    heard.idle(&mut engine);
    assert_eq!(heard.finish(3), Finish::Cancelled);
    assert_eq!(heard.text[&1], heard.text[&2]);
}

#[test]
fn with_less_effort_what_runs_goes_on_and_what_begins_waits() {
    let mut engine = load(&tiny(Think::Never), &config(128, 4));
    let (alone, _) = answer(&mut engine, 1, request("a", "the rain", 60));
    let mut heard = Heard::default();
    for id in 2..5 {
        engine.submit(id, request("a", "the rain", 60)).unwrap();
    }
    engine.step(&mut |id, event| heard.take(id, event));
    let effort = |streams| Effort {
        prefill_threads: 9,
        decode_threads: 0,
        streams,
    };
    engine.limit(effort(1));
    engine.submit(5, request("b", "the rain", 60)).unwrap();
    while heard.ended.is_empty() {
        engine.step(&mut |id, event| heard.take(id, event));
        assert_eq!(engine.counts().queued, 1);
    }
    // `finish_ended` reports an end without a step
    assert!(engine.end(3, Finish::Cancelled));
    let said = heard.text[&3].len();
    assert!(engine.finish_ended(&mut |id, event| heard.take(id, event)));
    assert!(!engine.finish_ended(&mut |_, _| panic!()));
    assert_eq!(
        (heard.finish(3), heard.text[&3].len()),
        (Finish::Cancelled, said)
    );
    // and urgent work does not wait for background work
    let mut urgent = request("c", "the rain", 60);
    urgent.priority = Priority::Urgent;
    engine.submit(6, urgent).unwrap();
    engine.step(&mut |id, event| heard.take(id, event));
    assert!(heard.started.contains(&6) && !heard.started.contains(&5));
    engine.limit(effort(4));
    heard.idle(&mut engine);
    for id in [2, 4, 5, 6] {
        assert_eq!(heard.text[&id], alone, "{id}");
    }
}

/// Where the only free page is the one that shares the prompt's beginning, nothing of it counts as computed, because it is
/// cleared before its new holder could copy from it.
#[test]
fn a_page_taken_to_be_its_own_copy_is_computed_again() {
    let tiny = tiny(Think::Never);
    let raw = |client: &str, said: &str| Request {
        raw: true,
        ..request(client, said, 4)
    };
    let (first, second) = ("the rain in the plain", "the rain in the oil");
    let expected = answer(&mut load(&tiny, &config(2, 2)), 1, raw("c", second));
    for pinned in [false, true] {
        let mut engine = load(&tiny, &config(2, 2));
        if pinned {
            let idle = Request {
                session: Some("s".into()),
                ..raw("a", "42")
            };
            answer(&mut engine, 1, idle);
        }
        answer(&mut engine, 2, raw("c", first));
        assert_eq!(engine.counts().pages_used, usize::from(pinned));
        let (said, outcome) = answer(&mut engine, 3, raw("c", second));
        assert_eq!(said, expected.0);
        // with another free page, the shared rows are copied
        assert_eq!(outcome.cached_tokens == 0, pinned, "{outcome:?}");
    }
}

/// Chunks are wide while the last one says that they are quick, and until somebody else comes; a GPU has none that are.
#[test]
fn a_prompt_that_is_alone_on_a_fast_machine_has_wide_chunks() {
    let tiny = tiny(Think::Never);
    let long = "the rain in the oil, ".repeat(28);
    let alone = answer(&mut load(&tiny, &config(64, 1)), 1, request("a", &long, 6));
    let mut engine = load(&tiny, &config(64, 2));
    let mut heard = Heard::default();
    engine.submit(1, request("a", &long, 6)).unwrap();
    // seconds of the step before, and how many tokens come then
    for (took, tokens) in [
        (None, CHUNK_TOKENS),
        (Some(0.4), if on_gpu() { CHUNK_TOKENS } else { STEP_TOKENS }),
        (Some(1.1), CHUNK_TOKENS),
    ] {
        if let Some(took) = took {
            engine.took(took);
        }
        let step = engine.step(&mut |id, event| heard.take(id, event));
        assert_eq!(step, Worked::Pass(tokens));
    }
    engine.took(0.1);
    engine.submit(2, request("b", "hi", 6)).unwrap();
    let step = engine.step(&mut |id, event| heard.take(id, event));
    assert!(matches!(step, Worked::Pass(tokens) if tokens <= CHUNK_TOKENS));
    heard.idle(&mut engine);
    assert_eq!(heard.text[&1], alone.0);
}

/// Prompts alternate by share: a short one is in the cache within two chunks of a long one, and the answers stay the same.
#[test]
fn a_short_prompt_does_not_wait_for_all_of_a_long_one() {
    let tiny = tiny(Think::Never);
    let long = "the rain in the oil, ".repeat(28);
    let alone = [("a", long.as_str()), ("b", "hi")].map(|(client, said)| {
        let mut engine = load(&tiny, &config(64, 1));
        answer(&mut engine, 1, request(client, said, 6))
    });
    let prompt = alone[0].1.prompt_tokens as usize;
    assert!(prompt > 5 * CHUNK_TOKENS && prompt + 6 <= 512, "{prompt}");
    let mut engine = load(&tiny, &config(64, 2));
    let mut heard = Heard::default();
    engine.submit(1, request("a", &long, 6)).unwrap();
    let step = engine.step(&mut |id, event| heard.take(id, event));
    // a prompt that is alone has whole chunks
    assert_eq!(step, Worked::Pass(CHUNK_TOKENS));
    engine.submit(2, request("b", "hi", 6)).unwrap();
    let mut passes = 0;
    while !heard.text.contains_key(&2) {
        let step = engine.step(&mut |id, event| heard.take(id, event));
        passes += usize::from(matches!(step, Worked::Pass(_)));
    }
    assert!(passes <= 2, "{passes}");
    assert!(!heard.text.contains_key(&1));
    heard.idle(&mut engine);
    assert_eq!(
        (&heard.text[&1], &heard.text[&2]),
        (&alone[0].0, &alone[1].0)
    );
}
