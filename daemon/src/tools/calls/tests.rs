use super::*;
use crate::mqtt::{Properties, Qos};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const TIMEOUT: Duration = Duration::from_secs(2);

fn order(request: RequestId, client: &str, call: &str, reply: Option<&str>) -> Order {
    Order {
        request,
        client: client.into(),
        call: call.to_owned(),
        planned: Planned {
            before: Vec::new(),
            topic: "lamp/set".to_owned(),
            payload: "ON".into(),
            json: false,
            reply_topic: reply.map(str::to_owned),
            timeout: TIMEOUT,
        },
        response_topic: format!("g/n/tool/{call}"),
        correlation_data: format!("c{call}").into_bytes().into(),
    }
}

fn publication(topic: &str, payload: &[u8], correlation: Option<&str>) -> Publication {
    Publication {
        properties: Properties {
            correlation_data: correlation.map(|c| c.as_bytes().to_vec().into()),
            ..Properties::default()
        },
        ..Publication::new(topic, payload.to_vec(), Qos::AtLeastOnce)
    }
}

/// The steps in short: `sub topic`, `unsub topic`, `pub call`, `call: result`.
fn short(out: &mut Vec<Step>) -> Vec<String> {
    let short = |step| match step {
        Step::Subscribe(_, topic) => format!("sub {topic}"),
        Step::Unsubscribe(topic) => format!("unsub {topic}"),
        Step::Publish(_, order) => format!("pub {}", order.call),
        Step::Ended { call, ended, .. } => format!("{call}: {ended}"),
    };
    out.drain(..).map(short).collect()
}

fn subscription(out: &[Step]) -> Token {
    out.iter()
        .find_map(|step| match step {
            Step::Subscribe(token, _) => Some(*token),
            _ => None,
        })
        .unwrap()
}

fn published(out: &[Step]) -> Token {
    out.iter()
        .find_map(|step| match step {
            Step::Publish(token, _) => Some(*token),
            _ => None,
        })
        .unwrap()
}

struct World {
    calls: Calls,
    now: Instant,
    out: Vec<Step>,
}

fn world() -> World {
    let mut calls = Calls::default();
    calls.connected();
    World {
        calls,
        now: Instant::now(),
        out: Vec::new(),
    }
}

impl World {
    fn order(&mut self, order: Order) -> &mut Self {
        self.calls.order(self.now, order, &mut self.out);
        self
    }

    fn hear(&mut self, message: &Publication) -> bool {
        self.calls.answered(self.now, message, None, &mut self.out)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.calls.tick(self.now, &mut self.out);
    }

    fn steps(&mut self) -> Vec<String> {
        short(&mut self.out)
    }
}

#[test]
fn a_call_without_a_reply_topic_is_done_when_the_broker_has_it_and_nobody_answers() {
    let mut w = world();
    w.order(order(1, "a", "x", None));
    let token = published(&w.out);
    assert_eq!(w.steps(), ["pub x"]);
    w.calls.acknowledged(token);
    assert_eq!(w.calls.next_tick(), Some(w.now + TIMEOUT));
    w.wait(TIMEOUT - Duration::from_millis(1));
    assert!(w.steps().is_empty());
    w.wait(Duration::from_millis(1));
    assert_eq!(
        (w.steps(), w.calls.next_tick()),
        (vec!["x: done".to_owned()], None)
    );
    // the broker never said that it has it
    w.order(order(1, "a", "y", None));
    w.wait(TIMEOUT);
    assert_eq!(
        w.steps(),
        [
            "pub y",
            "y: error: no answer within 2000 ms; whether it was done is not known"
        ]
    );
}

#[test]
fn an_answer_counts_only_with_our_correlation_data_and_only_once() {
    let mut w = world();
    w.order(order(1, "a", "x", None)).steps();
    for wrong in [None, Some("other"), Some("")] {
        assert!(w.hear(&publication("g/n/tool/x", b"no", wrong)));
    }
    let mut kept = publication("g/n/tool/x", b"no", Some("cx"));
    kept.retain = true;
    assert!(w.hear(&kept));
    assert!(!w.hear(&publication("g/n/tool/other", b"no", Some("cx"))));
    assert!(w.steps().is_empty());
    assert!(w.hear(&publication("g/n/tool/x", b"{\"on\":true}", Some("cx"))));
    assert_eq!(w.steps(), ["x: {\"on\":true}"]);
    assert!(!w.hear(&publication("g/n/tool/x", b"again", Some("cx"))));
    assert!(w.steps().is_empty());
}

#[test]
fn a_reply_topic_is_heard_before_the_call_goes_out_and_no_longer_than_needed() {
    let mut w = world();
    w.order(order(1, "a", "x", Some("lamp")));
    let token = subscription(&w.out);
    assert_eq!(w.steps(), ["sub lamp"]);
    // what comes before the call is no answer to it
    assert!(w.hear(&publication("lamp", b"OFF", None)));
    assert!(w.steps().is_empty());
    w.calls.subscribed(w.now, token, true, &mut w.out);
    assert_eq!(w.steps(), ["pub x"]);
    let mut kept = publication("lamp", b"OFF", None);
    kept.retain = true;
    w.hear(&kept);
    w.hear(&publication("lamp", b"OFF", Some("of another")));
    assert!(w.steps().is_empty());
    w.hear(&publication("lamp", b"ON", None));
    assert_eq!(w.steps(), ["unsub lamp", "x: ON"]);
    // silence of a tool that has a reply topic is not done
    w.order(order(1, "a", "y", Some("lamp")));
    let token = subscription(&w.out);
    w.calls.subscribed(w.now, token, true, &mut w.out);
    let call = published(&w.out);
    w.calls.acknowledged(call);
    w.wait(TIMEOUT);
    assert_eq!(
        w.steps().last().unwrap(),
        "y: error: no answer within 2000 ms; whether it was done is not known"
    );
}

#[test]
fn calls_that_share_a_reply_topic_run_in_turn() {
    let mut w = world();
    for call in ["x", "y", "z"] {
        w.order(order(1, "a", call, Some("lamp")));
    }
    let token = subscription(&w.out);
    assert_eq!(w.steps(), ["sub lamp"]);
    w.calls.subscribed(w.now, token, true, &mut w.out);
    assert_eq!(w.steps(), ["pub x"]);
    w.hear(&publication("lamp", b"1", None));
    assert_eq!(w.steps(), ["pub y", "x: 1"]);
    w.wait(TIMEOUT);
    assert_eq!(
        w.steps(),
        [
            "pub z",
            "y: error: no answer within 2000 ms; whether it was done is not known"
        ]
    );
    w.hear(&publication("lamp", b"3", None));
    assert_eq!(w.steps(), ["unsub lamp", "z: 3"]);
}

#[test]
fn a_refused_subscription_ends_all_that_wait_for_it() {
    let mut w = world();
    w.order(order(1, "a", "x", Some("lamp")))
        .order(order(2, "b", "y", Some("lamp")));
    let token = subscription(&w.out);
    w.steps();
    w.calls.subscribed(w.now, token, false, &mut w.out);
    let said = w.steps();
    assert!(
        said.iter()
            .all(|s| s.ends_with("hear the tool's reply topic"))
            && said.len() == 2,
        "{said:?}"
    );
    w.calls.subscribed(w.now, token, true, &mut w.out);
    assert!(w.steps().is_empty());
}

#[test]
fn what_a_tool_says_is_bounded_and_text() {
    let mut w = world();
    let long = vec![b'x'; TOOL_ANSWER_MAX + 1];
    for (payload, says) in [
        (&b"\xff\xfe"[..], "error: the answer is not text"),
        (b"a\0b", "error: the answer is not text"),
        (b" ", "error: the answer is not text"),
        (
            &long,
            "error: the answer has 16385 bytes, the limit is 16384",
        ),
        (&long[1..], &"x".repeat(TOOL_ANSWER_MAX)),
    ] {
        w.order(order(1, "a", "x", None)).steps();
        w.hear(&publication("g/n/tool/x", payload, Some("cx")));
        assert_eq!(w.steps(), [format!("x: {says}")]);
    }
    w.order(order(1, "a", "x", None)).steps();
    let unread = publication("g/n/tool/x", b"", Some("cx"));
    w.calls
        .answered(w.now, &unread, Some(5_000_000), &mut w.out);
    assert_eq!(
        w.steps(),
        ["x: error: the answer has 5000000 bytes, the limit is 16384"]
    );
}

#[test]
fn calls_in_flight_are_bounded_for_a_client_and_in_all() {
    let mut w = world();
    for i in 0..=CALLS_IN_FLIGHT_PER_CLIENT {
        w.order(order(1, "flood", &i.to_string(), None));
    }
    assert_eq!(
        w.steps().pop().unwrap(),
        "16: error: not done: 16 calls of this client are in flight, which is the limit"
    );
    for i in 0..CALLS_IN_FLIGHT_MAX - CALLS_IN_FLIGHT_PER_CLIENT {
        w.order(order(2, &format!("c{i}"), "x", None));
        assert_eq!(w.steps(), ["pub x"]);
    }
    w.order(order(3, "late", "x", None));
    assert_eq!(
        w.steps(),
        ["x: error: not done: 64 calls are in flight, which is the limit"]
    );
    assert_eq!(w.calls.flying.len(), CALLS_IN_FLIGHT_MAX);
}

#[test]
fn nothing_is_published_twice_when_the_connection_goes() {
    let mut w = world();
    w.order(order(1, "a", "x", None))
        .order(order(1, "a", "y", Some("lamp")))
        .order(order(1, "a", "z", Some("lamp")));
    w.steps();
    w.calls.disconnected(&mut w.out);
    assert_eq!(
        w.steps(),
        [
            "x: error: the connection to the broker was lost; whether it was done is not known",
            "y: error: not done: the connection to the broker was lost",
            "z: error: not done: the connection to the broker was lost",
        ]
    );
    w.order(order(1, "a", "x", None));
    assert_eq!(
        w.steps(),
        ["x: error: not done: there is no connection to the broker"]
    );
    w.calls.connected();
    w.order(order(1, "a", "x", None));
    assert_eq!(w.steps(), ["pub x"]);
}

#[test]
fn a_request_that_ends_gives_its_turn_to_the_next() {
    let mut w = world();
    w.order(order(1, "a", "x", Some("lamp")))
        .order(order(2, "a", "y", Some("lamp")));
    let token = subscription(&w.out);
    w.steps();
    w.calls.forget(w.now, 1, &mut w.out);
    assert!(w.steps().is_empty());
    w.calls.subscribed(w.now, token, true, &mut w.out);
    assert_eq!(w.steps(), ["pub y"]);
    w.calls.forget(w.now, 2, &mut w.out);
    assert_eq!(w.steps(), ["unsub lamp"]);
    assert_eq!(w.calls.flying.len(), 0);
}

#[test]
fn a_request_that_ends_has_none_of_its_calls_made_any_more() {
    let mut w = world();
    for call in ["x", "y", "z"] {
        w.order(order(1, "a", call, Some("lamp")));
    }
    let token = subscription(&w.out);
    w.calls.subscribed(w.now, token, true, &mut w.out);
    assert_eq!(w.steps(), ["sub lamp", "pub x"]);
    w.calls.forget(w.now, 1, &mut w.out);
    assert_eq!(w.steps(), ["unsub lamp"]);
}

#[derive(Debug, Clone)]
enum Happens {
    Order {
        request: u64,
        reply: Option<u8>,
    },
    Granted(bool),
    Acknowledged(usize),
    Refused(usize),
    Hears {
        reply: u8,
        retained: bool,
        correlation: Option<u8>,
    },
    Responds {
        call: u64,
        right: bool,
    },
    Wait(u16),
    Forget(u64),
    Down,
    Up,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (0..6_u64, prop::option::of(0..3_u8)).prop_map(|(request, reply)| Happens::Order { request, reply }),
        4 => any::<bool>().prop_map(Happens::Granted),
        3 => (0..8_usize).prop_map(Happens::Acknowledged),
        1 => (0..8_usize).prop_map(Happens::Refused),
        5 => (0..3_u8, any::<bool>(), prop::option::of(0..2_u8))
            .prop_map(|(reply, retained, correlation)| Happens::Hears { reply, retained, correlation }),
        3 => (0..40_u64, any::<bool>()).prop_map(|(call, right)| Happens::Responds { call, right }),
        3 => (0..3000_u16).prop_map(Happens::Wait),
        1 => (0..6_u64).prop_map(Happens::Forget),
        1 => Just(Happens::Down),
        1 => Just(Happens::Up),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens in whatever order: a call ends once or its request does, it is published at most once and only
    /// while its reply topic is heard, one at a time on each reply topic, and in the end nothing is left.
    #[test]
    fn every_call_ends_once(all in prop::collection::vec(happens(), 1..120)) {
        let mut w = world();
        let (mut open, mut sent, mut heard) = (HashMap::new(), HashSet::new(), HashMap::new());
        let (mut asked, mut flying, mut up) = (Vec::new(), Vec::new(), true);
        let mut on: HashMap<String, String> = HashMap::new();
        let mut number = 0_u64;
        for what in all.into_iter().chain([Happens::Wait(60_000), Happens::Wait(60_000)]) {
            match what {
                Happens::Order { request, reply } => {
                    let call = number.to_string();
                    number += 1;
                    open.insert(call.clone(), request);
                    let reply = reply.map(|r| format!("r{r}"));
                    w.order(order(request, &format!("c{request}"), &call, reply.as_deref()));
                }
                Happens::Granted(granted) => if let Some(token) = asked.pop() {
                    let (token, topic): (Token, String) = token;
                    if granted { heard.insert(topic, true); }
                    w.calls.subscribed(w.now, token, granted, &mut w.out);
                },
                Happens::Acknowledged(i) => if let Some(token) = flying.get(i) { w.calls.acknowledged(*token); },
                Happens::Refused(i) => if let Some(token) = flying.get(i) { w.calls.refused(w.now, *token, "no", &mut w.out); },
                Happens::Hears { reply, retained, correlation } => {
                    let correlation = correlation.map(|c| format!("x{c}"));
                    let mut message = publication(&format!("r{reply}"), b"yes", correlation.as_deref());
                    message.retain = retained;
                    let before = w.out.len();
                    w.hear(&message);
                    let counts = w.out[before..].iter().any(|s| matches!(s, Step::Ended { .. }));
                    prop_assert!(!counts || !retained && correlation.is_none());
                }
                Happens::Responds { call, right } => {
                    let correlation = if right { format!("c{call}") } else { "c".to_owned() };
                    let before = w.out.len();
                    w.hear(&publication(&format!("g/n/tool/{call}"), b"yes", Some(&correlation)));
                    prop_assert!(right || w.out.len() == before);
                }
                Happens::Wait(ms) => {
                    w.wait(Duration::from_millis(ms.into()));
                    prop_assert!(w.calls.next_tick().is_none_or(|at| at > w.now), "no busy loop");
                }
                Happens::Forget(request) => {
                    w.calls.forget(w.now, request, &mut w.out);
                    open.retain(|_, of| *of != request);
                    on.retain(|_, call| open.contains_key(call));
                }
                Happens::Down => {
                    up = false;
                    asked.clear();
                    heard.clear();
                    flying.clear();
                    on.clear();
                    w.calls.disconnected(&mut w.out);
                }
                Happens::Up => { up = true; w.calls.connected(); }
            }
            // ends come after the turn that they give away
            let steps: Vec<Step> = w.out.drain(..).collect();
            for step in &steps {
                if let Step::Ended { call, .. } = step {
                    prop_assert!(open.remove(call).is_some(), "{call} ends twice");
                    on.retain(|_, running| running != call);
                }
            }
            for step in steps {
                match step {
                    Step::Subscribe(token, topic) => {
                        prop_assert!(heard.insert(topic.clone(), false).is_none(), "heard already");
                        asked.push((token, topic));
                    }
                    Step::Unsubscribe(topic) => { heard.remove(&topic); asked.retain(|(_, t)| *t != topic); }
                    Step::Publish(token, order) => {
                        prop_assert!(up && sent.insert(order.call.clone()), "published once, on a connection");
                        if let Some(reply) = &order.planned.reply_topic {
                            prop_assert_eq!(heard.get(reply), Some(&true));
                            prop_assert!(on.insert(reply.clone(), order.call.clone()).is_none(), "one at a time");
                        }
                        flying.push(token);
                    }
                    Step::Ended { .. } => {}
                }
            }
            let refused: Vec<String> = heard.keys().filter(|t| !w.calls.heard.contains_key(*t)).cloned().collect();
            for topic in refused { heard.remove(&topic); }
            prop_assert_eq!(w.calls.flying.len(), open.len());
            prop_assert!(w.calls.flying.len() <= CALLS_IN_FLIGHT_MAX);
        }
    }
}
