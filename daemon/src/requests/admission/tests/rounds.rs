//! Requests whose tools the daemon runs: their rounds, and what each of them asks for.

use super::*;
use crate::tools::definition::{Definition, Written};
use glowplug_model::text::{Role, Tool, ToolCall, ToolChoice, Tools};
use serde_json::json;

mod acting;
mod waits;

const SCHEMA: &str =
    r#"{"properties":{"to":{"enum":["on","off"]}},"required":["to"],"additionalProperties":false}"#;

fn tool(name: &str, confirm: bool) -> Arc<Definition> {
    let written = Written {
        name: name.to_owned(),
        parameters: Some(SCHEMA.to_owned()),
        topic: format!("house/{name}"),
        clients: vec!["*".to_owned()],
        timeout: Duration::from_secs(2),
        confirm,
        ..Written::default()
    };
    Arc::new(Definition::new(written, "base").unwrap())
}

/// A request with a lamp and a door of the daemon's, and a tool `mine` of the client's.
pub(super) fn asking(id: &str, session: Option<&str>) -> Arrival {
    let own = vec![tool("lamp", false), tool("door", true)];
    let mine = Tool::new("mine", None, "").unwrap();
    let list: Vec<Tool> = own.iter().map(|t| t.tool.clone()).chain([mine]).collect();
    let mut arrival = arrival("c", Some(id), Kind::Chat);
    arrival.request.session = session.map(Into::into);
    arrival.request.max_tokens = 100;
    arrival.request.tools = Some(Tools {
        list: list.into(),
        choice: ToolChoice::Required,
        parallel: true,
    });
    Arrival { own, ..arrival }
}

pub(super) fn call(id: &str, name: &str, to: &str) -> ToolCall {
    ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: json!({ "to": to }).to_string(),
    }
}

pub(super) struct World {
    pub(super) a: Admission,
    pub(super) now: Instant,
    pub(super) out: Vec<Action>,
    /// How often the engine was told that a request does not go on.
    released: usize,
}

/// Two rounds may follow the first, in a context of 800 tokens, of which each byte is one.
pub(super) fn world() -> World {
    let mut a = machine_of(4, 2);
    a.bound_rounds(2, 800, |text, most| {
        let kept = &text[..text.floor_char_boundary(most)];
        (kept.to_owned(), kept.len())
    });
    World {
        a,
        now: Instant::now(),
        out: Vec::new(),
        released: 0,
    }
}

impl World {
    pub(super) fn ask(&mut self, arrival: Arrival) -> &mut Self {
        self.a.request(self.now, ROOM, arrival, &mut self.out);
        self
    }

    /// The engine ends a round with this text and these calls.
    pub(super) fn says(
        &mut self,
        number: RequestId,
        content: &str,
        calls: &[ToolCall],
        finish: Finish,
    ) {
        let mut update = text(number, content, self.now);
        update.text.calls = calls.to_vec();
        update.end = Some((End::Finished(outcome(finish)), self.now));
        self.a.update(self.now, ROOM, update, &mut self.out);
    }

    pub(super) fn recorded(&mut self, number: RequestId) {
        self.a.recorded(self.now, number, true, &mut self.out);
    }

    pub(super) fn ended(&mut self, number: RequestId, call: &str, said: &str) {
        self.a.tool_ended(
            self.now,
            number,
            call,
            said,
            Duration::from_millis(7),
            ROOM,
            &mut self.out,
        );
    }

    /// What admission wants, in short; frames apart.
    pub(super) fn wants(&mut self) -> (Vec<String>, Vec<Value>, Vec<Request>) {
        let (mut wants, mut published, mut submitted) = (Vec::new(), Vec::new(), Vec::new());
        for action in self.out.drain(..) {
            match action {
                Action::Publish { frame, .. } => {
                    published.push(serde_json::from_slice(&frame).unwrap());
                }
                Action::Engine(Command::Submit(_, request)) => submitted.push(*request),
                Action::Engine(Command::Release(_)) => self.released += 1,
                Action::Tools(ToolAction::Record(n, acted)) => {
                    wants.push(format!("record {n} {}", acted.id));
                }
                Action::Tools(ToolAction::Call { call, planned, .. }) => {
                    wants.push(format!("call {call} {}", planned.topic));
                }
                Action::Tools(ToolAction::Forget(n)) => wants.push(format!("forget {n}")),
                Action::Tools(ToolAction::Ended { id, .. }) => wants.push(format!("ended {id}")),
                Action::Tools(ToolAction::Audit { call, outcome, .. }) => {
                    wants.push(format!("audit {}: {outcome}", call.id));
                }
                Action::Engine(Command::End(n, why)) => wants.push(format!("end {n} {why:?}")),
                other => panic!("{other:?}"),
            }
        }
        (wants, published, submitted)
    }
}

fn result(call: &str, content: &str) -> Message {
    Message {
        tool_call_id: Some(call.to_owned()),
        ..Message::new(Role::Tool, content)
    }
}

pub(super) fn texts(request: &Request) -> Vec<String> {
    request
        .messages
        .iter()
        .map(|m| format!("{}:{}", m.role.as_str(), m.content))
        .collect()
}

#[test]
fn a_call_is_recorded_made_and_told_and_the_model_goes_on() {
    let mut w = world();
    let first = w.ask(asking("r", None)).wants().2.remove(0);
    assert_eq!((first.max_tokens, first.reserve), (100, 100));
    w.says(1, "Let me see. ", &[call("1", "lamp", "on")], Finish::Stop);
    let (wants, chunks, _) = w.wants();
    assert_eq!(wants, ["record 1 r"]);
    assert_eq!(chunks[0]["choices"][0]["delta"]["content"], "Let me see. ");
    assert_eq!(
        chunks[1]["tool_call"],
        json!({"id": "1", "name": "lamp", "arguments": "{\"to\":\"on\"}"})
    );
    assert!(w.a.started() == 1 && !w.a.engine_works() && !w.a.engine_is_idle());
    w.recorded(1);
    assert_eq!(w.wants().0, ["call 1 house/lamp"]);
    w.ended(1, "1", "ON");
    let (wants, chunks, mut submitted) = w.wants();
    assert_eq!(wants, ["audit 1: ON"]);
    assert_eq!(
        chunks[0]["tool_result"],
        json!({"id": "1", "content": "ON", "ms": 7})
    );
    let second = submitted.remove(0);
    assert_eq!(
        texts(&second),
        ["user:hi", "assistant:Let me see.", "tool:ON"]
    );
    assert_eq!(second.messages[1].tool_calls[0].id, "1");
    assert_eq!(second.messages[2].tool_call_id.as_deref(), Some("1"));
    assert_eq!(
        (second.max_tokens, second.tools.unwrap().choice),
        (98, ToolChoice::Auto)
    );
    assert_eq!(second.reserve, 100 - 2 - 24);
    assert!(w.a.engine_works());
    w.says(1, "It is on.", &[], Finish::Stop);
    let (wants, mut frames, _) = w.wants();
    assert_eq!(wants, ["ended r"]);
    let last = frames.pop().unwrap();
    let message = &last["choices"][0]["message"];
    assert_eq!(
        (&message["content"], message.get("tool_calls")),
        (&json!("Let me see. \n\nIt is on."), None)
    );
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        last["tool_results"],
        json!([{"id": "1", "name": "lamp", "arguments": "{\"to\":\"on\"}", "content": "ON", "ms": 7}])
    );
    assert_eq!(last["usage"]["completion_tokens"], 4);
    assert_eq!(last["usage"]["prompt_tokens"], 6);
    assert_eq!(last["seq"], 4);
    assert_eq!((w.a.outstanding(), w.released), (0, 1));
}

#[test]
fn rounds_and_tokens_are_bounded_and_the_last_round_has_no_tools() {
    let mut w = world();
    w.ask(asking("r", None)).wants();
    for round in 1..=2 {
        w.says(1, "", &[call("x", "lamp", "on")], Finish::Stop);
        w.recorded(1);
        w.ended(1, "x", "ok");
        let (wants, _, mut submitted) = w.wants();
        // it is written once
        assert_eq!(wants.contains(&"record 1 r".to_owned()), round == 1);
        assert_eq!(submitted.remove(0).tools.is_some(), round == 1);
    }
    w.says(1, "Done.", &[], Finish::Stop);
    assert_eq!(
        w.wants().1.pop().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
    // no token is left
    let mut few = asking("s", None);
    few.request.max_tokens = 2;
    w.ask(few).wants();
    w.says(2, "", &[call("x", "lamp", "on")], Finish::Stop);
    w.recorded(2);
    w.ended(2, "x", "ok");
    let (_, mut frames, submitted) = w.wants();
    assert!(submitted.is_empty());
    let last = frames.pop().unwrap();
    assert_eq!(
        (
            &last["choices"][0]["finish_reason"],
            &last["tool_results"][0]["content"]
        ),
        (&json!("length"), &json!("ok"))
    );
}

/// A model that calls and calls until its tokens end: what is complete is made, or handed out.
#[test]
fn calls_that_were_complete_when_the_tokens_ended_are_made() {
    let mut w = world();
    let mut few = asking("r", None);
    few.request.max_tokens = 2;
    w.ask(few).wants();
    let calls = [call("1", "lamp", "on"), call("2", "lamp", "off")];
    w.says(1, r#"<tool_call>{"na"#, &calls, Finish::Length);
    w.recorded(1);
    assert!(w.wants().0.contains(&"call 2 house/lamp".to_owned()));
    w.ended(1, "1", "ON");
    w.ended(1, "2", "OFF");
    let (wants, mut frames, submitted) = w.wants();
    assert!(submitted.is_empty() && wants.contains(&"ended r".to_owned()));
    let last = frames.pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(last["tool_results"].as_array().unwrap().len(), 2);
    // the context ended, and not the tokens: what the results leave of it is the next round's
    w.ask(asking("s", None)).wants();
    w.says(2, "", &calls[..1], Finish::Length);
    w.recorded(2);
    w.ended(2, "1", "ON");
    assert_eq!(w.wants().2.len(), 1);
    // the client's own, and those that it confirms
    w.ask(asking("t", Some("s"))).wants();
    let left = [
        call("3", "mine", "on"),
        call("4", "door", "on"),
        call("5", "lamp", "on"),
    ];
    w.says(3, "", &left, Finish::Length);
    w.recorded(3);
    w.ended(3, "5", "ON");
    let last = w.wants().1.pop().unwrap();
    let choice = &last["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 2);
    let mut next = asking("u", Some("s"));
    next.request.messages = ["3", "4"].map(|id| result(id, "confirmed")).to_vec();
    w.ask(next);
    w.recorded(4);
    assert_eq!(w.wants().0, ["record 4 u", "call 4 house/door"]);
    // what was cancelled is not made
    w.ask(asking("v", None)).wants();
    w.says(5, "", &calls, Finish::Cancelled);
    assert!(w.wants().0.is_empty());
}

#[test]
fn results_share_their_part_of_the_context() {
    let mut w = world();
    w.ask(asking("r", None)).wants();
    w.says(
        1,
        "",
        &[call("1", "lamp", "on"), call("2", "lamp", "off")],
        Finish::Stop,
    );
    w.recorded(1);
    w.ended(1, "2", &"y".repeat(500));
    w.ended(1, "1", "short");
    let (wants, _, mut submitted) = w.wants();
    let next = submitted.remove(0);
    // an eighth of 800, of which each call has half, less what is around it
    let cut = format!("{} [cut: 26 of 500 bytes]", "y".repeat(26));
    assert_eq!(
        texts(&next)[2..],
        ["tool:short".to_owned(), format!("tool:{cut}")],
        "in the order of the calls"
    );
    assert!(wants.contains(&format!("audit 2: {cut}")));
    assert_eq!(next.reserve, 100 - (26 + 24) - (5 + 24));
}

#[test]
fn a_call_that_cannot_be_made_is_a_result_that_says_so() {
    let mut w = world();
    w.ask(asking("r", None)).wants();
    let wrong = ToolCall {
        arguments: r#"{"to":"up"}"#.to_owned(),
        ..call("1", "lamp", "")
    };
    w.says(1, "", &[wrong], Finish::Stop);
    w.recorded(1);
    let (wants, _, submitted) = w.wants();
    assert_eq!(
        wants,
        [
            "record 1 r",
            "audit 1: error: not done: `to` is none of \"on\", \"off\""
        ]
    );
    assert_eq!(texts(&submitted[0]).len(), 3);
    w.says(1, "", &[call("2", "lamp", "on")], Finish::Stop);
    w.wants();
    // the disk is full: nothing acts
    w.a.tool_ended(w.now, 1, "2", "x", Duration::ZERO, ROOM, &mut w.out);
    let mut w = world();
    w.ask(asking("r", None)).wants();
    w.says(1, "", &[call("1", "lamp", "on")], Finish::Stop);
    w.a.recorded(w.now, 1, false, &mut w.out);
    let (wants, _, submitted) = w.wants();
    assert_eq!(
        wants[1],
        "audit 1: error: not done: the state folder cannot be written"
    );
    assert_eq!(submitted.len(), 1);
}

#[test]
fn what_is_left_to_the_client_ends_the_request_after_the_daemons_own() {
    let mut w = world();
    w.ask(asking("r", Some("s"))).wants();
    w.says(
        1,
        "",
        &[call("1", "mine", "on"), call("2", "lamp", "on")],
        Finish::Stop,
    );
    w.recorded(1);
    w.ended(1, "2", "ON");
    let (_, mut frames, submitted) = w.wants();
    assert!(submitted.is_empty());
    let last = frames.pop().unwrap();
    let choice = &last["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(choice["message"]["tool_calls"][0]["id"], "1");
    assert_eq!(last["tool_results"][0]["id"], "2");
    // the session gets both results
    let mut next = asking("t", Some("s"));
    next.request.messages = vec![result("1", "mine")];
    let next = w.ask(next).wants().2.remove(0);
    let ids: Vec<_> = next
        .messages
        .iter()
        .map(|m| m.tool_call_id.as_deref().unwrap())
        .collect();
    assert_eq!(ids, ["2", "1"]);
    // once: what the session has said is there
    w.says(2, "Well.", &[], Finish::Stop);
    w.wants();
    let after = w.ask(asking("u", Some("s"))).wants().2.remove(0);
    assert_eq!(texts(&after), ["user:hi"]);
}

#[test]
fn in_a_session_only_the_results_are_new() {
    let mut w = world();
    w.ask(asking("r", Some("s"))).wants();
    w.says(1, "Now.", &[call("1", "lamp", "on")], Finish::Stop);
    w.recorded(1);
    w.ended(1, "1", "ON");
    assert_eq!(texts(&w.wants().2[0]), ["tool:ON"]);
}

#[test]
fn a_call_to_be_confirmed_goes_to_the_client_and_runs_when_it_comes_back() {
    let mut w = world();
    w.ask(asking("r", None)).wants();
    let asked = call("9", "door", "on");
    w.says(1, "", std::slice::from_ref(&asked), Finish::Stop);
    let (wants, mut frames, _) = w.wants();
    let last = frames.pop().unwrap();
    assert!(wants.is_empty() && last["choices"][0]["finish_reason"] == "tool_calls");
    assert_eq!(last["choices"][0]["message"]["tool_calls"][0]["id"], "9");
    let confirming = |id: &str| {
        let mut next = asking(id, None);
        next.request.messages.push(Message {
            tool_calls: vec![asked.clone()],
            ..Message::new(Role::Assistant, "")
        });
        let yes = result("9", r#"{"confirmed":true}"#);
        next.request.messages.push(yes);
        next
    };
    let (wants, chunks, submitted) = w.ask(confirming("t")).wants();
    assert!(wants == ["record 2 t"] && submitted.is_empty() && chunks.is_empty());
    w.recorded(2);
    let wants = w.wants().0;
    assert_eq!(wants, ["call 9 house/door"]);
    w.ended(2, "9", "open");
    let (_, chunks, submitted) = w.wants();
    assert!(chunks[0].get("tool_call").is_some() && chunks[1].get("tool_result").is_some());
    let first = &submitted[0];
    assert_eq!(texts(first), ["user:hi", "assistant:", "tool:open"]);
    assert_eq!(
        (first.max_tokens, &first.tools.as_ref().unwrap().choice),
        (100, &ToolChoice::Required)
    );
    w.says(2, "It is open.", &[], Finish::Stop);
    w.wants();
    // once, and only by whom it was left to
    let again = w.ask(confirming("u")).wants().2.remove(0);
    assert_eq!(
        texts(&again)[2],
        "tool:error: not done: no such call waits to be confirmed"
    );
}
