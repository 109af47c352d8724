//! What every answer keeps to: whole characters, an end to every thought, and nothing from logits that are not finite.

mod calls;
mod formats;
mod sentence;
mod thoughts;
mod tools;

use super::world::{Heard, answer, config, load, new_id, request, tiny, turn};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{
    Engine, EngineConfig, Finish, KvFormats, Outcome, Refusal, Request, RequestId, Thinking,
};
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::Arch;
use glowplug_model::quant::{Isa, Kernels};
use glowplug_model::text::{ChatTemplate, Message, Role, ToolCall};
use glowplug_tests::{Kv, Think, Tiny, Types};

/// The ids of an end token and of `<think>`. The vocabulary begins with the 256 bytes; behind its merges are the control tokens
/// and the tags of a thought.
const END: u32 = 282;
const OPEN: u32 = 283;

/// What one request said and called.
struct Said {
    text: String,
    calls: Vec<ToolCall>,
    outcome: Outcome,
}

impl Said {
    fn names(&self) -> Vec<&str> {
        self.calls.iter().map(|call| &*call.name).collect()
    }
}

/// Runs one request alone to its end.
fn hear(engine: &mut Engine, id: RequestId, request: Request) -> Result<Said, Refusal> {
    engine.submit(id, request)?;
    let mut heard = Heard::default();
    heard.idle(engine);
    Ok(Said {
        text: heard.text.remove(&id).unwrap_or_default(),
        calls: heard.calls.remove(&id).unwrap_or_default(),
        outcome: heard.ended.remove(&id).unwrap(),
    })
}

/// A request in which the model says nothing but `token`.
fn only(token: u32, mut request: Request) -> Request {
    request.sampler.logit_bias = vec![(token, 100.0)];
    request
}

fn no_budget(mut request: Request) -> Request {
    request.thinking = Thinking {
        enabled: true,
        budget: None,
        visible: true,
    };
    request
}

#[test]
fn a_character_that_is_not_finished_is_no_text_and_no_history() {
    // the first byte of a character that has four
    let cut = u32::from(0xF0_u8);
    let mut engine = load(&tiny(Think::Never), &config(64, 2));
    let (said, outcome) = answer(&mut engine, 1, only(cut, turn("c", "s", "hi", 1)));
    assert_eq!((said.as_str(), outcome.completion_tokens), ("", 1));
    // the session goes on from an empty answer
    let (_, next) = answer(&mut engine, 2, turn("c", "s", "hi", 1));
    let says = |role, content: &str| Message::new(role, content);
    let mut same = request("d", "hi", 1);
    same.messages = vec![
        says(Role::User, "hi"),
        says(Role::Assistant, ""),
        says(Role::User, "hi"),
    ];
    let (_, same) = answer(&mut engine, 3, same);
    assert_eq!(next.prompt_tokens, same.prompt_tokens);
    // bytes in the middle of a text that are no character are shown as U+FFFD
    let (said, _) = answer(&mut engine, 4, only(cut, request("c", "hi", 3)));
    assert_eq!(said, "\u{FFFD}\u{FFFD}");
    // a cancel cuts in the same way
    let mut heard = Heard::default();
    engine.submit(5, only(cut, request("c", "hi", 99))).unwrap();
    while heard.text.get(&5).is_none_or(|said| said.len() < 9) {
        engine.step(&mut |id, event| heard.take(id, event));
    }
    let before = heard.text[&5].clone();
    assert!(engine.end(5, Finish::Cancelled));
    heard.idle(&mut engine);
    assert_eq!(heard.text[&5], before);
}

#[test]
fn a_thought_leaves_tokens_for_the_answer() {
    let mut engine = load(&tiny(Think::Prompt), &config(64, 1));
    let a = u32::from(b'a');
    // the last quarter of many tokens is left for the closing tag and the answer, and the last 16 of few
    for (id, most, thought) in [
        (1, 200, 150),
        (2, 40, 24),
        (3, 17, 1),
        (4, 16, 0),
        (5, 12, 0),
    ] {
        let (said, outcome) = answer(
            &mut engine,
            id,
            only(a, no_budget(request("c", "hi", most))),
        );
        let mark = outcome.reasoning_tokens - thought;
        assert!((1..=12).contains(&mark), "{most}: {outcome:?}");
        assert_eq!(outcome.finish, Finish::Length);
        assert!(
            !said.is_empty() && said.chars().all(|c| c == 'a'),
            "{most}: {said:?}"
        );
    }
    // a smaller budget of the request counts
    let mut small = only(a, no_budget(request("c", "hi", 200)));
    small.thinking.budget = Some(5);
    let (said, outcome) = answer(&mut engine, 6, small);
    assert!(
        outcome.reasoning_tokens < 20 && said.len() > 170,
        "{outcome:?}"
    );
}

#[test]
fn a_turn_that_would_end_in_its_thought_ends_the_thought() {
    let mut engine = load(&tiny(Think::Prompt), &config(64, 1));
    let (_, outcome) = answer(
        &mut engine,
        1,
        only(END, no_budget(request("c", "hi", 200))),
    );
    // nothing was thought: only the closing tag counts as reasoning, and then the turn ends
    assert_eq!(outcome.finish, Finish::Stop);
    assert!(outcome.reasoning_tokens > 0, "{outcome:?}");
    assert!(
        outcome.completion_tokens > outcome.reasoning_tokens,
        "{outcome:?}"
    );
    // where there are no tokens left to close it, the request ends all the same
    let (said, outcome) = answer(&mut engine, 2, only(END, no_budget(request("c", "hi", 2))));
    assert_eq!((said.as_str(), outcome.finish), ("", Finish::Length));
}

#[test]
fn a_thought_that_nobody_asked_for_is_not_begun() {
    let mut engine = load(&tiny(Think::Model), &config(64, 1));
    let off = |most| {
        let mut request = only(OPEN, request("c", "hi", most));
        request.thinking = Thinking {
            enabled: false,
            budget: Some(100),
            visible: false,
        };
        request
    };
    let (said, outcome) = answer(&mut engine, 1, off(64));
    assert!(!said.contains("<think>"), "{said:?} {outcome:?}");
    assert_eq!(outcome.reasoning_tokens, 0, "{outcome:?}");
}

/// A model whose embedding of one word is not finite. Only one client says that word.
fn sick(value: f32) -> Engine {
    let whole = Tiny {
        think: Think::Never,
        types: Types::all(GgmlType::F32),
        tied_head: false,
        ..Tiny::smallest(Arch::Qwen2)
    };
    let mut writer = whole.writer();
    let words = writer
        .tensors
        .iter_mut()
        .find(|t| t.name == "token_embd.weight");
    let row = whole.embed as usize * 4;
    let word = usize::from(b'z') * row;
    for value_of in words.unwrap().data[word..word + row].chunks_exact_mut(4) {
        value_of.copy_from_slice(&value.to_le_bytes());
    }
    let file = Gguf::from_bytes(writer.build().into()).unwrap();
    let config = EngineConfig {
        kv: KvFormats::both(KvFormat::F16),
        ..config(64, 4)
    };
    Engine::load(&file, &config).unwrap()
}

#[test]
fn numbers_that_are_none_end_their_own_stream_alone() {
    let prompts = ["the rain", "in the plain falls", "a b a b a b a b"];
    let alone: Vec<_> = prompts
        .iter()
        .map(|prompt| answer(&mut sick(f32::NAN), 1, request("c", prompt, 40)))
        .collect();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut engine = sick(value);
        let mut heard = Heard::default();
        for (id, prompt) in (1..).zip(prompts) {
            engine.submit(id, request("c", prompt, 40)).unwrap();
            engine.step(&mut |id, event| heard.take(id, event));
        }
        // more than a page of good words, and then the bad one
        let long = "so it is with the rain ".repeat(4) + "z";
        engine.submit(9, turn("d", "s", &long, 40)).unwrap();
        heard.idle(&mut engine);
        let failed = &heard.ended[&9];
        assert_eq!(
            (failed.finish, failed.completion_tokens),
            (Finish::Failed, 0)
        );
        assert_eq!(heard.text.get(&9), None, "{value}");
        for ((id, (said, outcome)), prompt) in (1..).zip(&alone).zip(prompts) {
            let same = |o: &Outcome| (o.finish, o.completion_tokens);
            assert_eq!(&heard.text[&id], said, "{value}: {prompt}");
            assert_eq!(same(&heard.ended[&id]), same(outcome), "{value}: {prompt}");
        }
        // the next prompt does not find its pages, not even the same prompt
        let (_, again) = answer(&mut engine, 10, turn("d", "s", &long, 40));
        assert_eq!(again.finish, Finish::Failed);
        // every client has the beginning of the template's text
        assert!(again.cached_tokens < 32, "{again:?}");
        let well = answer(&mut engine, 11, turn("d", "s", "the rain", 40)).0;
        assert_eq!(well, alone[0].0);
        assert_eq!(engine.counts().pages_free + engine.counts().pages_used, 64);
    }
}

/// A model whose embedding of `Z` is not finite. That row is read for nothing else.
fn sick_at_every_level() -> Gguf {
    const Z: usize = 90;
    let tiny = Tiny {
        think: Think::Never,
        tied_head: false,
        types: Types {
            token_embd: GgmlType::F32,
            ..Types::all(GgmlType::Q8_0)
        },
        ..Tiny::new(Arch::Llama)
    };
    let mut writer = tiny.writer();
    let row = 4 * tiny.embed as usize;
    writer.tensor("token_embd.weight").data[Z * row..][..row].fill(0xff);
    Gguf::from_bytes(writer.build().into()).unwrap()
}

#[test]
fn who_has_none_fails_alone_at_every_level() {
    let gguf = sick_at_every_level();
    for isa in Isa::ALL {
        if Kernels::detect(Some(isa)).is_err() {
            continue;
        }
        let mut config = config(32, 4);
        config.isa = Some(isa);
        let mut engine = Engine::load(&gguf, &config).unwrap();
        let story = || request("bob", "the rain", 120);
        let (alone, _) = answer(&mut engine, new_id(), story());
        for steps in [0, 1, 3, 20] {
            let (good, bad) = (new_id(), new_id());
            let mut heard = Heard::default();
            engine.submit(good, story()).unwrap();
            for _ in 0..steps {
                engine.step(&mut |id, event| heard.take(id, event));
            }
            engine
                .submit(bad, request("mallory", "the rain Z", 50))
                .unwrap();
            heard.idle(&mut engine);
            assert_eq!(heard.finish(bad), Finish::Failed, "{isa}");
            assert_eq!(heard.text.get(&bad), None, "{isa}");
            assert_eq!(heard.text[&good], alone, "{isa}, after {steps} steps");
        }
    }
}

#[test]
fn a_bias_on_no_token_is_refused_by_its_name() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let refusal = engine
        .submit(1, only(283, request("c", "hi", 4)))
        .unwrap_err();
    let Refusal::Invalid { param, message } = refusal else {
        panic!("{refusal}")
    };
    assert_eq!(param, "logit_bias");
    assert!(message.contains("283 is no token"), "{message}");
    assert!(message.contains("which has 283"), "{message}");
    engine.submit(1, only(282, request("c", "hi", 4))).unwrap();
}

#[test]
fn a_file_without_a_template_reads_prompts_as_they_are_or_by_one_that_is_given() {
    let whole = tiny(Think::Never);
    let mut writer = whole.writer();
    writer
        .keys
        .retain(|(key, _)| key != "tokenizer.chat_template");
    let without = Gguf::from_bytes(writer.build().into()).unwrap();
    writer.set("tokenizer.chat_template", Kv::Str("{% if %}".to_owned()));
    let broken = Gguf::from_bytes(writer.build().into()).unwrap();
    for file in [&without, &broken] {
        let mut engine = Engine::load(file, &config(64, 1)).unwrap();
        let refusal = engine.submit(1, request("c", "hi", 4)).unwrap_err();
        assert!(
            refusal.to_string().contains("no chat template"),
            "{refusal}"
        );
        let raw = Request {
            raw: true,
            ..request("c", "hi", 4)
        };
        assert_eq!(answer(&mut engine, 2, raw).1.prompt_tokens, 2);
        engine.set_template(ChatTemplate::given("{{ messages[0].content }}<think>", file).unwrap());
        assert!(engine.model().thinks);
        assert!(
            answer(&mut engine, 3, request("c", "hi", 30))
                .1
                .reasoning_tokens
                > 0
        );
    }
    let long = ChatTemplate::given(&"x".repeat((64 << 10) + 1), &without).unwrap_err();
    assert!(long.to_string().contains("65537"), "{long}");
}
