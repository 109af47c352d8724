//! What a model thinks, in every form in which an answer goes out.

use super::driven::{Driven, Place};
use super::*;
use glowplug_model::engine::Thinking;
use glowplug_tests::{THOUGHTS, Think, r1_template};

/// A model under R1's template that says a script.
fn thinker(opened: bool, script: &[&str]) -> Driven {
    let think = if opened { Think::Prompt } else { Think::Model };
    Driven::new(think, script, Some(&r1_template(opened)))
}

fn asks(id: &str, kind: Kind, spoken: bool, visible: bool) -> Arrival {
    let mut arrival = arrival("c", Some(id), kind);
    arrival.spoken = spoken;
    arrival.request.max_tokens = 400;
    arrival.request.sampler.temperature = 0.0;
    arrival.request.thinking = Thinking {
        enabled: true,
        budget: None,
        visible,
    };
    arrival
}

const FORMS: [(Kind, bool); 3] = [(Kind::Chat, false), (Kind::Chat, true), (Kind::Ask, true)];

/// The chunks' text of one field, and the last frame.
fn chunks(frames: &[Value], field: &str) -> (String, Value) {
    let (last, chunks) = frames.split_last().unwrap();
    let text = |frame: &'_ Value| {
        let text = frame["choices"][0]["delta"][field].as_str();
        text.unwrap_or_default().to_owned()
    };
    (chunks.iter().map(text).collect(), last.clone())
}

#[test]
fn nothing_of_a_thought_is_said_in_chunks_sentences_or_plain_text() {
    for (opened, script, answer) in THOUGHTS {
        let mut d = thinker(*opened, script);
        let answer = Value::from(*answer);
        for (n, (kind, spoken)) in FORMS.into_iter().enumerate() {
            for visible in [true, false] {
                d.ask(asks(&format!("{n} {visible}"), kind, spoken, visible));
                d.idle();
                let (_, frames) = d.frames.drain().next().unwrap();
                let (said, last) = chunks(&frames, "content");
                if kind == Kind::Ask {
                    assert_eq!((frames.len(), &last), (1, &answer), "{script:?}");
                    continue;
                }
                let message = &last["choices"][0]["message"];
                assert_eq!(said, answer, "{script:?}");
                assert_eq!(message["content"], answer, "{script:?}");
                let (thought, _) = chunks(&frames, "reasoning_content");
                let secret = script.concat().contains("secret");
                assert_eq!(thought.contains("secret"), visible && secret, "{script:?}");
                assert!(!thought.contains("think>"), "{thought}");
            }
        }
    }
}

#[test]
fn a_thought_that_is_ended_in_flight_stays_out_of_the_answer_in_every_form() {
    let words: Vec<String> = (0..200).map(|n| format!(" w{n}")).collect();
    let script: Vec<&str> = words.iter().map(String::as_str).collect();
    for (kind, spoken) in FORMS {
        let mut d = thinker(true, &script);
        let number = d.ask(asks("ask", kind, spoken, true)).unwrap();
        while d.open[&number].place != Place::Thought || d.open[&number].tokens < 9 {
            d.step();
        }
        d.w.a.end_thinking("c", "ask", &mut d.w.out);
        d.perform();
        d.idle();
        let frames = d.frames.remove("ask").unwrap();
        let (said, last) = chunks(&frames, "content");
        // behind the closing words the script begins anew
        let (said, thought) = if kind == Kind::Ask {
            (last.as_str().unwrap().to_owned(), String::new())
        } else {
            (said, chunks(&frames, "reasoning_content").0)
        };
        assert!(said.trim_start().starts_with("w0 w1"), "{said}");
        assert!(!said.contains("enough"), "{said}");
        let ends = thought.ends_with("will answer now.\n");
        assert!(ends || kind == Kind::Ask, "{thought}");
        assert!(!thought.contains("w20"), "{thought}");
    }
}
