//! Cancels wherever a request can be.

use super::driven::{Driven, Place};
use super::rounds::asking;
use super::*;
use glowplug_model::engine::Thinking;
use glowplug_model::text::Format;
use glowplug_tests::{SplitMix, Think};

const SCRIPT: [&str; 12] = [
    "<think>", "hm", " so", " it", " is", "</think>", "Hello", " there", ".\n", "And", " good",
    " bye",
];

/// A request that thinks, and then answers freely, in a format, or with a call of the daemon's lamp.
fn some(kind: usize, client: &str, id: &str, words: usize) -> Arrival {
    let mut arrival = asking(id, None);
    let request = &mut arrival.request;
    if kind < 2 {
        (request.tools, arrival.own) = (None, Vec::new());
        let schema = r#"{"type":"object","properties":{"to":{"enum":["on","off"]}},"required":["to"],"additionalProperties":false}"#;
        request.format = (kind == 1).then(|| Format::JsonSchema(schema.into()));
    } else if let Some(tools) = &mut request.tools {
        // the lamp is the first; the others are the client's to run
        tools.list = tools.list.iter().take(1).cloned().collect();
        tools.parallel = false;
    }
    request.client = client.into();
    request.messages = vec![Message::user("rain ".repeat(words))];
    request.thinking = Thinking {
        enabled: true,
        budget: None,
        visible: true,
    };
    request.sampler.temperature = 0.0;
    arrival
}

/// A thousand cancels at any time: each ends its request with the next step, after at most one more token; pages are free when
/// the last frame is sent, no call is made for it any more, and the others go on.
#[test]
fn a_thousand_cancels_in_every_place_end_at_once_and_leave_nothing() {
    let mut d = Driven::new(Think::Model, &SCRIPT, None);
    let mut dice = SplitMix::new(17, "places");
    let (mut cancelled, mut answered) = (BTreeMap::<Place, usize>::new(), 0);
    let mut next = 0;
    while cancelled.values().sum::<usize>() < 1000 {
        if d.open.len() < 5 {
            next += 1;
            let client = format!("c{}", next % 3);
            let asked = some(
                dice.below(3),
                &client,
                &format!("r{next}"),
                4 + dice.below(40),
            );
            d.ask(asked);
        }
        for _ in 0..dice.below(16) {
            d.step();
            match dice.below(6) {
                0 => d.disk(),
                1 => d.house(),
                _ => {}
            }
        }
        let at = dice.below(6);
        let Some((&number, seen)) = d.open.iter().nth(at) else {
            continue;
        };
        let (id, place, tokens) = (seen.id.clone(), seen.place, seen.tokens);
        let client = format!("c{}", id[1..].parse::<usize>().unwrap() % 3);
        d.w.a
            .cancel(d.w.now, &client, &Cancel::Id(id.clone()), &mut d.w.out);
        d.perform();
        if let Some(seen) = d.open.get(&number) {
            assert!(place != Place::Tool, "{id} goes on to wait");
            assert_eq!(seen.tokens, tokens);
            d.step();
            assert!(d.decoded[&number] <= tokens + 1, "{place:?}");
        }
        let last = &d.frames[&id].last().unwrap()["choices"][0];
        assert!(!d.open.contains_key(&number));
        assert_eq!(last["finish_reason"], "cancelled", "{place:?}");
        assert!(d.flying.iter().all(|(of, _)| *of != number));
        *cancelled.entry(place).or_default() += 1;
        answered += d
            .frames
            .drain()
            .filter(|(_, all)| {
                let reason = &all.last().unwrap()["choices"][0]["finish_reason"];
                reason == "stop"
            })
            .count();
    }
    for id in d
        .open
        .values()
        .map(|seen| seen.id.clone())
        .collect::<Vec<_>>()
    {
        let client = format!("c{}", id[1..].parse::<usize>().unwrap() % 3);
        d.w.a
            .cancel(d.w.now, &client, &Cancel::Id(id), &mut d.w.out);
    }
    d.perform();
    d.idle();
    assert_eq!((d.w.a.outstanding(), d.engine.counts().pages_used), (0, 0));
    assert!(
        cancelled.len() == 6 && cancelled.values().all(|n| *n > 20),
        "{cancelled:?}"
    );
    assert!(answered > 100, "{answered}");
}
