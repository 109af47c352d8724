//! Tools in the engine, on models that say a script: what is called, what a session keeps of it, and what it refuses.

use super::{Said, hear};
use crate::world::{Heard, Q8, request, turn};
use glowplug_model::engine::{
    Engine, EngineConfig, Finish, Outcome, Refusal, Request, SessionVerb,
};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Message, NOT_ANSWERED, Role, Tool, ToolCall, ToolChoice, Tools};
use glowplug_tests::{Think, Tiny};
use std::path::Path;

/// An answer with two calls, cut as a model might cut it.
const SCRIPT: [&str; 12] = [
    "I look. ",
    "\n<tool",
    "_call>\n",
    r#"{"name": "#,
    r#""time", "arguments""#,
    ": {}}",
    "\n</tool_",
    "call>",
    "\n<tool_call>",
    r#"{"name": "light", "arguments": {"on": tr"#,
    "ue}}\n</",
    "tool_call>",
];

fn engine(script: &[&str], sessions: Option<&Path>) -> Engine {
    let file = Tiny::saying(Think::Never, script.iter().copied()).bytes();
    let config = EngineConfig {
        pages: 256,
        sessions: sessions.map(Into::into),
        ..EngineConfig::new(4096, 2, Q8)
    };
    Engine::load(&Gguf::from_bytes(file.into()).unwrap(), &config).unwrap()
}

/// An engine with just the pages of one long request.
fn few_pages() -> Engine {
    let file = Tiny::saying(Think::Never, SCRIPT).bytes();
    let config = EngineConfig {
        pages: 130,
        queue: 8,
        ..EngineConfig::new(4096, 2, Q8)
    };
    Engine::load(&Gguf::from_bytes(file.into()).unwrap(), &config).unwrap()
}

fn tools(parallel: bool) -> Option<Tools> {
    let tool = |name| Tool::new(name, None, r#"{"type":"object"}"#).unwrap();
    Some(Tools {
        list: ["light", "time"].map(tool).into(),
        choice: ToolChoice::Auto,
        parallel,
    })
}

/// A request that offers the tools.
fn offering(request: Request) -> Request {
    Request {
        tools: tools(true),
        ..request
    }
}

fn result(call: &ToolCall, content: &str) -> Message {
    Message {
        tool_call_id: Some(call.id.clone()),
        ..Message::new(Role::Tool, content)
    }
}

/// A request that goes on with a session by these messages.
fn goes_on(messages: Vec<Message>) -> Request {
    Request {
        messages,
        ..offering(turn("c", "s", "", 100))
    }
}

fn refused(said: Result<Said, Refusal>) -> String {
    said.err().unwrap().to_string()
}

#[test]
fn calls_are_told_from_text_and_only_where_tools_are_offered() {
    let mut engine = engine(&SCRIPT, None);
    let said = hear(&mut engine, 1, offering(request("c", "hi", 100))).unwrap();
    assert_eq!(
        (&*said.text, said.names()),
        ("I look.", vec!["time", "light"])
    );
    assert_eq!(said.calls[1].arguments, r#"{"on":true}"#);
    assert_eq!(
        (said.outcome.finish, said.outcome.completion_tokens),
        (Finish::Stop, 13)
    );
    let again = hear(&mut engine, 2, offering(request("c", "hi", 100))).unwrap();
    let mut ids: Vec<&str> = said
        .calls
        .iter()
        .chain(&again.calls)
        .map(|call| &*call.id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(
        ids.len() == 4
            && ids
                .iter()
                .all(|id| id.starts_with("call_") && id.len() <= 64),
        "{ids:?}"
    );
    // nobody offered anything
    let plain = hear(&mut engine, 3, request("c", "hi", 100)).unwrap();
    assert_eq!((plain.text, plain.calls.len()), (SCRIPT.concat(), 0));
    // one call at a time
    let one = Request {
        tools: tools(false),
        ..request("c", "hi", 100)
    };
    let one = hear(&mut engine, 4, one).unwrap();
    assert_eq!(
        (one.names(), one.outcome.completion_tokens),
        (vec!["time"], 6)
    );
}

#[test]
fn a_call_that_is_cut_off_is_text() {
    let mut engine = engine(&SCRIPT, None);
    let said = hear(&mut engine, 1, offering(request("c", "hi", 10))).unwrap();
    assert_eq!(said.names(), ["time"]);
    assert_eq!(
        said.text,
        "I look.<tool_call>{\"name\": \"light\", \"arguments\": {\"on\": tr"
    );
    assert_eq!(said.outcome.finish, Finish::Length);
    // a stop string ends what is said, and not what is called
    let stop = |stop: &str| Request {
        stop: vec![stop.to_owned()],
        ..offering(request("c", "hi", 100))
    };
    let said = hear(&mut engine, 2, stop("look")).unwrap();
    assert_eq!((&*said.text, said.calls.len()), ("I ", 0));
    let said = hear(&mut engine, 3, stop("true")).unwrap();
    assert_eq!((&*said.text, said.calls.len()), ("I look.", 2));
}

#[test]
fn a_session_keeps_calls_until_their_results_come() {
    let mut engine = engine(&SCRIPT, None);
    let said = hear(&mut engine, 1, offering(turn("c", "s", "hi", 100))).unwrap();
    let [time, light] = &said.calls[..] else {
        panic!("{}", said.text);
    };
    let (at, on) = (result(time, "12:00"), result(light, "ok"));
    // one result is not enough, one of nothing is too many
    assert_eq!(
        refused(hear(&mut engine, 2, goes_on(vec![at.clone()]))),
        format!(
            "messages[0]: the result of the call `{}` is missing",
            light.id
        )
    );
    let mut other = at.clone();
    other.tool_call_id = Some("call_x".into());
    assert_eq!(
        refused(hear(
            &mut engine,
            3,
            goes_on(vec![at.clone(), on.clone(), other])
        )),
        "messages[2]: no call `call_x` waits for a result here"
    );
    // in any order; the prompt has what the client could have sent itself
    let next = hear(&mut engine, 4, goes_on(vec![on.clone(), at.clone()])).unwrap();
    let calls = |said: &Said| Message {
        tool_calls: said.calls.clone(),
        ..Message::new(Role::Assistant, said.text.clone())
    };
    let mut same = offering(request("d", "hi", 100));
    same.messages.extend([calls(&said), on.clone(), at.clone()]);
    let alone = hear(&mut engine, 5, same.clone()).unwrap();
    assert_eq!(alone.outcome.prompt_tokens, next.outcome.prompt_tokens);
    // a question where results are due: nobody answered
    let question = hear(&mut engine, 6, goes_on(vec![Message::user("hm?")])).unwrap();
    let none = |call: &ToolCall| result(call, NOT_ANSWERED);
    same.messages.push(calls(&next));
    same.messages.extend(next.calls.iter().map(none));
    same.messages.push(Message::user("hm?"));
    let alone = hear(&mut engine, 7, same.clone()).unwrap();
    assert_eq!(alone.outcome.prompt_tokens, question.outcome.prompt_tokens);
    // without a session the client must know better
    same.messages.remove(2);
    assert!(
        refused(hear(&mut engine, 8, same))
            .starts_with("messages[3]: the result of the call `call_")
    );
}

#[test]
fn calls_survive_a_file_and_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = folder.path().join("sessions");
    let mut first = engine(&SCRIPT, Some(&sessions));
    let said = hear(&mut first, 1, offering(turn("c", "s", "hi", 100))).unwrap();
    first.session("c", "s", SessionVerb::Save).unwrap();
    let results: Vec<Message> = said.calls.iter().map(|call| result(call, "ok")).collect();
    let expected = hear(&mut first, 2, goes_on(results.clone())).unwrap();
    drop(first);
    let mut second = engine(&SCRIPT, Some(&sessions));
    let next = hear(&mut second, 1, goes_on(results.clone())).unwrap();
    assert_eq!(next.outcome.prompt_tokens, expected.outcome.prompt_tokens);
    assert!(
        next.outcome.cached_tokens > 32,
        "its pages were read: {:?}",
        next.outcome
    );
    // the next engine goes on with the conversations of this one
    let mut third = engine(&SCRIPT, None);
    third.adopt(second.into_conversations());
    let results = next.calls.iter().map(|call| result(call, "ok")).collect();
    hear(&mut third, 1, goes_on(results)).unwrap();
}

/// What a session forgets are whole turns, and never the calls whose results are being told.
#[test]
fn a_window_never_parts_a_call_from_its_result() {
    let file = Tiny::saying(Think::Never, SCRIPT).bytes();
    let config = EngineConfig {
        pages: 16,
        window: true,
        ..EngineConfig::new(512, 1, Q8)
    };
    let mut engine = Engine::load(&Gguf::from_bytes(file.into()).unwrap(), &config).unwrap();
    let mut forgotten = 0;
    let plain = |request: Request| Request {
        tools: None,
        ..request
    };
    // the tools themselves have no room here, only what was called
    let calls = |id: &str| {
        vec![
            Message::user("hi"),
            Message {
                tool_calls: vec![ToolCall {
                    id: id.into(),
                    name: "time".into(),
                    arguments: "{}".into(),
                }],
                ..Message::new(Role::Assistant, "")
            },
            Message {
                tool_call_id: Some(id.into()),
                ..Message::new(Role::Tool, "12:00")
            },
        ]
    };
    for n in 0..20 {
        let id = format!("call_{n}");
        let said = hear(&mut engine, n, plain(goes_on(calls(&id)))).unwrap();
        forgotten += said.outcome.forgotten_messages;
        assert!(
            said.outcome.forgotten_messages.is_multiple_of(4),
            "whole turns: {:?}",
            said.outcome
        );
    }
    assert!(forgotten > 0);
}

#[test]
fn a_request_that_goes_on_under_its_number_has_other_calls() {
    let mut engine = engine(&SCRIPT, None);
    let first = hear(&mut engine, 1, offering(request("c", "hi", 100))).unwrap();
    let said = Message {
        tool_calls: first.calls.clone(),
        ..Message::new(Role::Assistant, "")
    };
    let results = first.calls.iter().map(|call| result(call, "ok"));
    let messages = [Message::user("hi"), said].into_iter().chain(results);
    let next = Request {
        messages: messages.collect(),
        ..offering(request("c", "", 100))
    };
    let next = hear(&mut engine, 1, next).unwrap();
    let ids = |said: &Said| {
        said.calls
            .iter()
            .map(|call| call.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(next.calls.len(), 2);
    assert!(ids(&next).iter().all(|id| !ids(&first).contains(id)));
}

/// A request for which results may follow.
fn pausing(id: u64, engine: &mut Engine, messages: Vec<Message>) -> Outcome {
    let request = Request {
        reserve: 100,
        messages,
        ..offering(request("c", "", 100))
    };
    hear(engine, id, request).unwrap().outcome
}

#[test]
fn pages_are_kept_while_tools_run_unless_somebody_needs_them() {
    let mut engine = engine(&SCRIPT, None);
    let long = Message::user("the rain in the plain ".repeat(40));
    let first = pausing(1, &mut engine, vec![long.clone()]);
    let kept = engine.counts().pages_used;
    assert!(kept >= first.prompt_tokens as usize / 32, "{kept}");
    // what others compute takes the pages that nobody keeps
    let flood = |engine: &mut Engine, id: u64| {
        let said = format!("{id} ").repeat(900);
        hear(engine, id, request("d", &said, 1)).unwrap();
    };
    (10..20).for_each(|id| flood(&mut engine, id));
    assert_eq!(engine.counts().pages_used, kept);
    let next = pausing(1, &mut engine, vec![long.clone(), Message::user("on")]);
    assert!(next.cached_tokens + 64 > first.prompt_tokens, "{next:?}");
    // it does not go on: nobody keeps them
    engine.release(1);
    engine.release(1);
    assert_eq!(engine.counts().pages_used, 0);
    // more of them than there are pages: the oldest give way, and everybody is answered
    for id in 100..150 {
        pausing(
            id,
            &mut engine,
            vec![Message::user(format!("{id} ").repeat(300))],
        );
    }
    assert!(engine.counts().pages_used > 128);
    flood(&mut engine, 9);
    (100..150).for_each(|id| engine.release(id));
    assert_eq!(engine.counts().pages_used, 0);
    // the calls of an answer that was cut off may be made, those of one that was cancelled are not
    let short = Request {
        reserve: 100,
        ..offering(request("c", "hi", 2))
    };
    hear(&mut engine, 3, short.clone()).unwrap();
    assert!(engine.counts().pages_used > 0);
    engine.release(3);
    engine.submit(4, short).unwrap();
    engine.end(4, Finish::Cancelled);
    Heard::default().idle(&mut engine);
    assert_eq!(engine.counts().pages_used, 0);
}

/// While it waits, others may take every page and every place: it goes on behind them all the same, and says the same.
#[test]
fn who_lost_the_pages_to_others_goes_on_when_they_have_ended() {
    let resumed = |engine: &mut Engine, others: u64| {
        let first = Request {
            reserve: 100,
            ..offering(request("c", &"the rain in the plain ".repeat(40), 100))
        };
        let said = hear(engine, 1, first.clone()).unwrap();
        let mut heard = Heard::default();
        // each of them needs all pages but a few, so that they run one after the other
        for id in 10..10 + others {
            let text = format!("{id} ").repeat(1200);
            engine.submit(id, request("d", &text, 200)).unwrap();
        }
        for _ in 0..others {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        let mut next = first;
        next.reserve = 70;
        next.messages.push(Message {
            tool_calls: said.calls.clone(),
            ..Message::new(Role::Assistant, said.text)
        });
        next.messages
            .extend(said.calls.iter().map(|call| result(call, "ok")));
        engine.submit(1, next).unwrap();
        heard.idle(engine);
        engine.release(1);
        assert_eq!(engine.counts().pages_used, 0);
        let outcome = heard.ended.remove(&1).unwrap();
        (heard.text.remove(&1), outcome.finish, outcome.cached_tokens)
    };
    let (said, finish, cached) = resumed(&mut few_pages(), 0);
    let (same, end, taken) = resumed(&mut few_pages(), 3);
    assert_eq!((&same, end), (&said, finish));
    assert!(cached > 900 && taken < cached / 2, "{cached} {taken}");
}
