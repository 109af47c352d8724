//! Answers that are held to a format, on models whose weights are random: a finished one always validates, whatever runs
//! beside it, and what is streamed is the whole text.

use crate::world::{Heard, answer, config, load, request, tiny, turn};
use glowplug_model::engine::{
    Engine, EngineConfig, Event, Finish, Priority, Refusal, Request, RequestId, SessionVerb,
    Thinking, Worked,
};
use glowplug_model::text::{Format, Message, SamplerParams};
use glowplug_tests::schemas::{judge, object};
use glowplug_tests::{SplitMix, Think};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn schema(value: &Value) -> Option<Format> {
    Some(Format::JsonSchema(value.to_string().into()))
}

/// A request whose answer is held to this.
fn held(format: Option<Format>, request: Request) -> Request {
    Request {
        format,
        thinking: Thinking::default(),
        ..request
    }
}

/// The same with tokens that are drawn by chance.
fn warm(seed: u64, request: Request) -> Request {
    let sampler = SamplerParams {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        seed,
        ..SamplerParams::default()
    };
    Request { sampler, ..request }
}

/// Requests under random schemas, each with its schema.
fn random(count: u64, name: &str) -> Vec<(Value, Request)> {
    let mut random = SplitMix::new(7, name);
    let one = |seed| {
        let value = object(&mut random);
        let asked = held(schema(&value), request("c", "the rain", 200));
        (value, warm(seed, asked))
    };
    (0..count).map(one).collect()
}

#[test]
fn a_finished_answer_validates_alone_and_beside_others() {
    for (streams, count) in [(1, 60), (4, 60)] {
        let mut engine = load(&tiny(Think::Never), &config(128, streams));
        let mut heard = Heard::default();
        let asked = random(count, "streams");
        for (id, (_, request)) in (0..).zip(&asked) {
            while engine.counts().queued == 16 {
                engine.step(&mut |id, event| heard.take(id, event));
            }
            engine.submit(id, request.clone()).unwrap();
        }
        heard.idle(&mut engine);
        let mut finished = 0;
        for (id, (schema, _)) in (0..).zip(&asked) {
            let text = &heard.text[&id];
            match heard.finish(id) {
                Finish::Stop => {
                    judge(schema, text).unwrap();
                    finished += 1;
                }
                Finish::Length => assert!(heard.ended[&id].completion_tokens == 200, "{text}"),
                other => panic!("{other:?}: {text} under {schema}"),
            }
        }
        assert!(finished * 10 > count * 9, "{finished} of {count}");
        assert_eq!(engine.counts().pages_used, 0);
    }
}

/// The texts and ends of these requests, one after the other, and the runs of the network.
fn run(engine: &mut Engine, requests: &[Request]) -> (Vec<(String, Finish, u32)>, usize) {
    let (mut said, mut passes) = (Vec::new(), 0);
    for (id, request) in (0..).zip(requests) {
        engine.submit(id, request.clone()).unwrap();
        let mut heard = Heard::default();
        loop {
            match engine.step(&mut |id, event| heard.take(id, event)) {
                Worked::Nothing => break,
                Worked::Little => {}
                Worked::GpuLost => panic!("the GPU was lost"),
                Worked::Pass(_) => {
                    engine.took(1.0);
                    passes += 1;
                }
            }
        }
        let outcome = &heard.ended[&id];
        let text = heard.text.get(&id).cloned().unwrap_or_default();
        said.push((text, outcome.finish, outcome.completion_tokens));
    }
    (said, passes)
}

/// What a schema forces is fed in stretches and drafts are cut to what may come; neither changes an answer.
#[test]
fn what_is_forced_costs_no_steps_and_changes_no_answer() {
    let value = json!({"type": "object", "properties": {
        "the quick brown fox": {"type": "boolean"}, "jumps over": {"enum": ["the lazy dog", "a fence"]},
    }, "required": ["the quick brown fox", "jumps over"], "additionalProperties": false});
    let asked = |top_logprobs| {
        let mut asked = held(schema(&value), request("c", "the fence, a fence", 200));
        asked.sampler.top_logprobs = top_logprobs;
        asked
    };
    let with = |drafts| EngineConfig {
        drafts,
        ..config(64, 1)
    };
    let mut plain = load(&tiny(Think::Never), &with(false));
    let (forced, few) = run(&mut plain, &[asked(None)]);
    judge(&value, &forced[0].0).unwrap();
    let (drawn, many) = run(&mut plain, &[asked(Some(1))]);
    judge(&value, &drawn[0].0).unwrap();
    assert!(
        few * 3 < many * 2,
        "{few} runs, {many} where each token is drawn: {forced:?} {drawn:?}"
    );
    // usage counts what is forced, too
    assert!(forced[0].2 as usize > few, "{forced:?}");
    let mut requests: Vec<Request> = random(20, "drafts").into_iter().map(|(_, r)| r).collect();
    requests.push(asked(None));
    let (without, _) = run(&mut plain, &requests);
    let (with, _) = run(&mut load(&tiny(Think::Never), &with(true)), &requests);
    assert_eq!(without, with);
}

#[test]
fn a_thought_is_free_and_the_answer_behind_it_is_held() {
    let value = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false});
    for think in [Think::Prompt, Think::Model, Think::Never] {
        let mut engine = load(&tiny(think), &config(64, 2));
        for (id, visible) in [(1, true), (2, false)] {
            let mut asked = warm(id, held(schema(&value), request("c", "hi", 100)));
            asked.thinking = Thinking {
                enabled: true,
                budget: Some(8),
                visible,
            };
            let mut heard = Heard::default();
            engine.submit(id, asked).unwrap();
            heard.idle(&mut engine);
            assert_eq!(heard.finish(id), Finish::Stop, "{think:?}");
            judge(&value, &heard.text[&id]).unwrap();
            let thought = heard.ended[&id].reasoning_tokens;
            if think == Think::Prompt {
                assert!(thought >= 8 && visible != heard.thoughts[&id].is_empty());
            }
        }
        // the thought is ended from outside
        let mut asked = held(schema(&value), request("c", "hi", 100));
        asked.thinking.enabled = true;
        let mut heard = Heard::default();
        engine.submit(3, asked).unwrap();
        for _ in 0..4 {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        engine.end_thinking(3);
        heard.idle(&mut engine);
        judge(&value, &heard.text[&3]).unwrap();
    }
    // a model that would begin with a thought may, and one that must not does not
    let mut engine = load(&tiny(Think::Model), &config(64, 2));
    for thinks in [true, false] {
        let mut asked = held(schema(&value), request("c", "hi", 100));
        asked.sampler.logit_bias = vec![(super::OPEN, 100.0)];
        asked.thinking = Thinking {
            enabled: thinks,
            budget: Some(8),
            visible: true,
        };
        let (text, outcome) = answer(&mut engine, 1, asked);
        judge(&value, &text).unwrap();
        assert_eq!(outcome.reasoning_tokens > 0, thinks);
    }
}

#[test]
fn any_object_and_a_pattern_are_formats_too() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let (mut objects, mut id) = (0, 0);
    for seed in 0..20 {
        let asked = held(Some(Format::JsonObject), request("c", "hi", 120));
        let (text, outcome) = answer(&mut engine, id, warm(seed, asked));
        if outcome.finish == Finish::Stop {
            assert!(serde_json::from_str::<Value>(&text).unwrap().is_object());
            objects += 1;
        }
        let pattern = Format::Regex("(red|green|blue), [0-9]{2,4}( °C)?".into());
        let asked = held(Some(pattern), request("c", "hi", 100));
        let (text, outcome) = answer(&mut engine, id + 1, warm(seed, asked));
        assert_eq!(outcome.finish, Finish::Stop);
        let (colour, rest) = text.split_once(", ").unwrap();
        assert!(["red", "green", "blue"].contains(&colour), "{text}");
        let digits = rest.strip_suffix(" °C").unwrap_or(rest);
        let digit = |c: char| c.is_ascii_digit();
        assert!(
            (2..=4).contains(&digits.len()) && digits.chars().all(digit),
            "{text}"
        );
        id += 2;
    }
    assert!(objects > 1, "{objects}");
}

#[test]
fn it_meets_its_limit_as_a_valid_beginning() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let value = json!({"type": "object", "properties": {"the quick brown fox jumps": {"const": "over the lazy dog"}}, "required": ["the quick brown fox jumps"], "additionalProperties": false});
    let (whole, _) = answer(
        &mut engine,
        0,
        held(schema(&value), request("c", "hi", 100)),
    );
    judge(&value, &whole).unwrap();
    let mut cut = 0;
    for most in 1..60 {
        let asked = held(schema(&value), request("c", "hi", most));
        let (text, outcome) = answer(&mut engine, u64::from(most), asked);
        if outcome.finish == Finish::Length {
            assert_eq!(outcome.completion_tokens, most);
            assert!(whole.starts_with(&text), "{text}");
            cut += 1;
        } else {
            assert_eq!((&text, outcome.finish), (&whole, Finish::Stop));
        }
    }
    assert!(cut > 10);
}

/// In a session, parked for somebody's urgent question, and in a session that comes back from a file.
#[test]
fn it_is_held_in_a_session_through_a_park_and_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let saved = EngineConfig {
        sessions: Some(folder.path().to_owned()),
        ..config(128, 1)
    };
    let mut engine = load(&tiny(Think::Never), &saved);
    let mut ids = 0..;
    for (n, (value, asked)) in random(12, "sessions").into_iter().enumerate() {
        let mut heard = Heard::default();
        let id = ids.next().unwrap();
        let background = Request {
            session: Some("s".into()),
            priority: Priority::Background,
            ..asked
        };
        engine.submit(id, background).unwrap();
        for _ in 0..1 + n {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        let urgent = ids.next().unwrap();
        let (other, asked) = random(1, &format!("urgent {n}")).remove(0);
        let asked = Request {
            priority: Priority::Urgent,
            client: "u".into(),
            ..asked
        };
        engine.submit(urgent, asked).unwrap();
        heard.idle(&mut engine);
        for (id, schema) in [(id, &value), (urgent, &other)] {
            if heard.finish(id) == Finish::Stop {
                judge(schema, &heard.text[&id]).unwrap();
            }
        }
        match n % 4 {
            1 => {
                engine.session("c", "s", SessionVerb::Save).unwrap();
                engine = load(&tiny(Think::Never), &saved);
            }
            3 => drop(engine.session("c", "s", SessionVerb::Reset).unwrap()),
            _ => {}
        }
    }
    assert_eq!(engine.save_all(), 0);
    // what was said under a format is said in the next turn as any other answer
    let (_, next) = answer(&mut engine, 99, turn("c", "s", "and now?", 8));
    assert!(next.cached_tokens > 0);
}

/// A cancel at every step: what was said is a beginning, and nothing is left.
#[test]
fn a_cancel_at_every_point_leaves_nothing() {
    let (_, asked) = random(1, "cancel").remove(0);
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let (whole, _) = answer(&mut engine, 1000, asked.clone());
    for steps in 0..40 {
        let mut heard = Heard::default();
        engine.submit(steps, asked.clone()).unwrap();
        for _ in 0..steps {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        let said = heard.text.get(&steps).map_or(0, String::len);
        if engine.end(steps, Finish::Cancelled) {
            heard.idle(&mut engine);
            assert_eq!(heard.finish(steps), Finish::Cancelled);
            assert_eq!(heard.text.get(&steps).map_or(0, String::len), said);
            let text = heard.text.remove(&steps).unwrap_or_default();
            assert!(whole.starts_with(&text), "{text} of {whole}");
        }
        assert_eq!(engine.counts().pages_used, 0);
    }
}

/// A thousand cancels at any time, of requests that are held and of others beside them: each ends with the next step, what was said
/// is a beginning, the others are as they are alone, and nothing is left.
#[test]
fn a_thousand_cancels_at_any_time_leave_nothing() {
    let both = |(_, held): (Value, Request)| {
        let free = Request {
            format: None,
            ..held.clone()
        };
        [held, free]
    };
    let kinds: Vec<Request> = random(8, "cancels").into_iter().flat_map(both).collect();
    let mut engine = load(&tiny(Think::Never), &config(64, 4));
    let alone = kinds.iter().zip(1_000_000..);
    let alone = alone.map(|(asked, id)| answer(&mut engine, id, asked.clone()).0);
    let alone: Vec<String> = alone.collect();
    let mut dice = SplitMix::new(11, "cancels");
    let (mut heard, mut open) = (Heard::default(), BTreeMap::new());
    let (mut next, mut cancelled, mut finished) = (0, 0, 0);
    while cancelled < 1000 {
        let kind = dice.below(kinds.len());
        if open.len() < 6 && engine.submit(next, kinds[kind].clone()).is_ok() {
            open.insert(next, kind);
        }
        next += 1;
        for _ in 0..dice.below(20) {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        if let Some(id) = open.keys().nth(dice.below(8)).copied()
            && engine.end(id, Finish::Cancelled)
        {
            engine.step(&mut |id, event| heard.take(id, event));
            assert_eq!(heard.ended[&id].finish, Finish::Cancelled);
        }
        for (id, outcome) in std::mem::take(&mut heard.ended) {
            let whole = &alone[open.remove(&id).unwrap()];
            let text = heard.text.remove(&id).unwrap_or_default();
            if outcome.finish == Finish::Cancelled {
                assert!(whole.starts_with(&text), "{text} of {whole}");
                cancelled += 1;
            } else {
                assert_eq!(&text, whole);
                finished += 1;
            }
        }
    }
    for id in open.into_keys() {
        engine.end(id, Finish::Cancelled);
    }
    heard.idle(&mut engine);
    assert_eq!(engine.counts().pages_used, 0);
    assert!(finished > 100, "{finished}");
}

#[test]
fn the_model_is_told_only_where_that_is_asked_for() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let value = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "additionalProperties": false});
    let prompt = |engine: &mut Engine, id: RequestId, request: Request| {
        answer(engine, id, request).1.prompt_tokens
    };
    let plain = prompt(&mut engine, 1, request("c", "hi", 4));
    let quiet = prompt(&mut engine, 2, held(schema(&value), request("c", "hi", 4)));
    assert_eq!(plain, quiet);
    let told = |mut request: Request| {
        request.schema_in_prompt = true;
        held(schema(&value), request)
    };
    let alone = prompt(&mut engine, 3, told(request("c", "hi", 4)));
    // as the user could have said it
    let text = format!("Answer with JSON that is valid against this JSON schema:\n{value}");
    let said = |system: String| {
        let mut request = request("c", "hi", 4);
        request
            .messages
            .insert(0, Message::new(glowplug_model::text::Role::System, system));
        request
    };
    assert_eq!(alone, prompt(&mut engine, 4, said(text.clone())));
    let behind = prompt(&mut engine, 5, told(said("Be brief.".into())));
    assert_eq!(
        behind,
        prompt(&mut engine, 6, said(format!("Be brief.\n\n{text}")))
    );
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_place() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let mut refused = |format: Format| {
        let asked = held(Some(format), request("c", "hi", 4));
        let refusal = engine.submit(1, asked).unwrap_err();
        let Refusal::Schema { param, message } = refusal else {
            panic!("{refusal}")
        };
        assert!(!message.is_empty());
        param
    };
    let not = json!({"type": "object", "properties": {"a": {"not": {}}}});
    assert_eq!(
        refused(Format::JsonSchema(not.to_string().into())),
        "response_format.json_schema.schema.properties.a.not"
    );
    assert!(refused(Format::Regex("(".into())).starts_with("response_format.pattern"));
    assert_eq!(engine.counts().queued, 0);
}

#[test]
fn a_streamed_text_has_an_event_for_each_token() {
    let (value, asked) = random(1, "events").remove(0);
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    engine.submit(1, asked).unwrap();
    let (mut events, mut text, mut ended) = (0, String::new(), None);
    while engine.step(&mut |_, event| match event {
        Event::Text { content, .. } => {
            events += 1;
            text.push_str(&content);
        }
        Event::Finished(outcome) => ended = Some(outcome),
        _ => {}
    }) != Worked::Nothing
    {}
    let ended = ended.unwrap();
    if ended.finish == Finish::Stop {
        judge(&value, &text).unwrap();
    }
    assert_eq!(events, ended.completion_tokens);
}
