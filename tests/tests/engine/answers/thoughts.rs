//! Thoughts that are too long, that nobody wants, or that a model opens by itself, on models that say a script.

use crate::world::{Heard, Q8, request};
use glowplug_model::engine::{Engine, EngineConfig, Outcome, Thinking};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::ChatTemplate;
use glowplug_tests::{THOUGHTS, Think, Tiny, r1_template};

const ON: Thinking = Thinking {
    enabled: true,
    budget: None,
    visible: true,
};
const OFF: Thinking = Thinking {
    enabled: false,
    budget: None,
    visible: true,
};

fn engine(think: Think, script: &[&str]) -> Engine {
    let file = Tiny::saying(think, script.iter().copied()).bytes();
    let config = EngineConfig::new(1024, 2, Q8);
    let config = EngineConfig {
        pages: 64,
        ..config
    };
    Engine::load(&Gguf::from_bytes(file.into()).unwrap(), &config).unwrap()
}

/// Answer, thought, and how it ended.
fn said(engine: &mut Engine, thinking: Thinking) -> (String, String, Outcome) {
    let mut heard = Heard::default();
    let mut request = request("c", "hi", 300);
    request.thinking = thinking;
    engine.submit(1, request).unwrap();
    heard.idle(engine);
    let text = heard.text.remove(&1).unwrap_or_default();
    let thought = heard.thoughts.remove(&1).unwrap_or_default();
    (text, thought, heard.ended.remove(&1).unwrap())
}

/// Words of which each comes once.
fn words(n: usize) -> Vec<String> {
    (0..n).map(|n| format!(" w{n}")).collect()
}

#[test]
fn a_budget_ends_a_thought_with_its_closing_words() {
    let long: Vec<String> = words(200);
    for (think, first) in [(Think::Prompt, &[][..]), (Think::Model, &["<think>"])] {
        let script: Vec<&str> = first
            .iter()
            .copied()
            .chain(long.iter().map(String::as_str))
            .collect();
        let mut engine = engine(think, &script);
        for budget in [1, 2, 5, 16, 17, 40, 64, 100, 150] {
            let thinking = Thinking {
                budget: Some(budget),
                ..ON
            };
            let (text, thought, outcome) = said(&mut engine, thinking);
            assert!(
                outcome.reasoning_tokens <= budget + 16,
                "{budget}: {outcome:?}"
            );
            assert!(thought.starts_with(" w0"), "{budget}: {thought:?}");
            assert!(!text.contains("think>"), "{budget}: {text:?}");
            // the tokens of this vocabulary are bytes, so that only a large budget has room for a sentence
            let sentence =
                thought.contains("\n\nOkay, I have thought enough and will answer now.\n");
            assert_eq!(sentence, budget >= 64, "{budget}: {thought:?}");
            if think == Think::Prompt {
                assert!(text.starts_with(" w0"), "{budget}: {text:?}");
            }
        }
    }
}

#[test]
fn without_thinking_no_token_is_a_thought() {
    let opens = ["<think>", "secret", "</think>", "Hello", " there."];
    for think in [Think::Model, Think::Prompt] {
        let (text, thought, outcome) = said(&mut engine(think, &opens), OFF);
        assert_eq!((text.as_str(), thought.as_str()), ("Hello there.", ""));
        assert_eq!(outcome.reasoning_tokens, 0);
    }
    // a tag that is spelled in several tokens cannot be kept from coming: its thought is closed at once
    let spelled = ["<th", "ink>", "secret", "Hello"];
    let (text, thought, outcome) = said(&mut engine(Think::Model, &spelled), OFF);
    assert!(
        !text.starts_with("secret") && !thought.contains("secret"),
        "{text:?}"
    );
    assert_eq!(outcome.reasoning_tokens, 0);
}

#[test]
fn nothing_of_a_thought_is_in_the_answer() {
    for (opened, script, answer) in THOUGHTS {
        let think = if *opened { Think::Prompt } else { Think::Model };
        for template in [None, Some(r1_template(*opened))] {
            let mut engine = engine(think, script);
            if let Some(template) = template {
                let file = Tiny::saying(think, script.iter().copied()).bytes();
                let file = Gguf::from_bytes(file.into()).unwrap();
                engine.set_template(ChatTemplate::given(&template, &file).unwrap());
            }
            let (text, thought, outcome) = said(&mut engine, ON);
            assert_eq!(text, *answer, "{script:?}");
            let secret = script.concat().contains("secret");
            assert_eq!(
                thought.contains("secret"),
                secret,
                "{script:?}: {thought:?}"
            );
            assert_eq!(
                outcome.reasoning_tokens > 0,
                *opened || secret,
                "{script:?}: {outcome:?}"
            );
            let hidden = Thinking {
                visible: false,
                ..ON
            };
            let (text, thought, _) = said(&mut engine, hidden);
            assert_eq!(
                (text.as_str(), thought.as_str()),
                (*answer, ""),
                "{script:?}"
            );
        }
    }
}

#[test]
fn a_thought_is_ended_in_flight() {
    let script: Vec<String> = words(200);
    let script: Vec<&str> = script.iter().map(String::as_str).collect();
    let mut engine = engine(Think::Prompt, &script);
    let mut heard = Heard::default();
    let mut request = request("c", "hi", 300);
    request.thinking = ON;
    engine.submit(1, request).unwrap();
    assert!(!engine.end_thinking(1), "it has not begun");
    while heard
        .thoughts
        .get(&1)
        .is_none_or(|thought| !thought.contains("w9"))
    {
        engine.step(&mut |id, event| heard.take(id, event));
    }
    assert!(engine.end_thinking(1));
    assert!(!engine.end_thinking(1), "it ends already");
    heard.idle(&mut engine);
    let outcome = heard.ended.remove(&1).unwrap();
    assert!(heard.text[&1].starts_with(" w0"));
    assert!(
        heard.thoughts[&1].ends_with("will answer now.\n"),
        "{:?}",
        heard.thoughts
    );
    assert!(outcome.reasoning_tokens < 100, "{outcome:?}");
}
