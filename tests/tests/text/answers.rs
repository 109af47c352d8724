//! Constraints over R1's vocabulary: what is forced, and what its marks of calls are.

use crate::r1;
use glowplug_model::text::{Constrainer, Convention, Format, Tokenizer, Tool, ToolChoice, Tools};
use std::sync::{Arc, LazyLock};

/// Logits of the model, which are more than its tokens.
const LOGITS: usize = 151_936;

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&r1()).unwrap()));
static CONSTRAINER: LazyLock<Constrainer> =
    LazyLock::new(|| Constrainer::new(Arc::clone(&TOKENIZER), LOGITS).unwrap());

const LIGHT: &str = r#"{"type":"object","properties":{"intent":{"const":"set_light"},"room":{"enum":["kitchen","hall"]}},"required":["intent","room"],"additionalProperties":false}"#;

fn text(tokens: &[u32]) -> String {
    let bytes = tokens
        .iter()
        .flat_map(|token| TOKENIZER.token_bytes(*token));
    String::from_utf8(bytes.collect()).unwrap()
}

#[test]
fn what_is_forced_is_what_the_tokenizer_writes() {
    let mut constraint = CONSTRAINER
        .compile(&Format::JsonSchema(LIGHT.into()))
        .unwrap();
    let first = TOKENIZER.encode("{\"", false).unwrap()[0];
    constraint.accept(first).unwrap();
    let mut written = vec![first];
    while !constraint.is_over() {
        let forced = constraint.forced();
        let next = match forced.first() {
            Some(token) => {
                assert_eq!(
                    constraint.mask().unwrap().tokens().collect::<Vec<_>>(),
                    [*token]
                );
                *token
            }
            // the longest one goes on in the fewest steps
            None => {
                let mask: Vec<u32> = constraint.mask().unwrap().tokens().collect();
                let blank = |token: &u32| text(&[*token]).contains(char::is_whitespace);
                let solid: Vec<u32> = mask.iter().filter(|token| !blank(token)).copied().collect();
                *solid
                    .iter()
                    .max_by_key(|token| TOKENIZER.token_bytes(**token).len())
                    .unwrap()
            }
        };
        constraint.accept(next).unwrap();
        written.push(next);
    }
    let answer = text(&written);
    assert!(
        answer.contains(r#""set_light""#) && answer.contains("room"),
        "{answer}"
    );
    assert_eq!(
        written,
        TOKENIZER.encode(&answer, false).unwrap(),
        "{answer}"
    );
}

#[test]
fn control_tokens_are_never_in_an_answer() {
    let mut constraint = CONSTRAINER.compile(&Format::Regex(".*".into())).unwrap();
    let mask = constraint.mask().unwrap();
    for token in mask.tokens().filter(|token| !TOKENIZER.is_end(*token)) {
        assert!(!TOKENIZER.token_bytes(token).is_empty(), "{token}");
    }
    assert!(mask.tokens().any(|token| TOKENIZER.is_end(token)));
    assert!(!mask.allows(LOGITS as u32 - 1));
    assert!(mask.count() > 140_000);
}

#[test]
fn its_calls_are_written_with_its_own_marks() {
    let tools = Tools {
        list: [Tool::new("set_light", None, LIGHT).unwrap()].into(),
        choice: ToolChoice::Required,
        parallel: true,
    };
    let mut constraint = CONSTRAINER
        .compile_calls(Convention::DeepSeek, &tools, 2)
        .unwrap();
    let call = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>set_light\n```json\n\
        {\"intent\": \"set_light\", \"room\": \"hall\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let tokens = TOKENIZER.encode(call, true).unwrap();
    let forced = constraint.forced();
    assert_eq!(forced[..4], tokens[..4], "the marks and what follows them");
    for token in tokens {
        constraint.accept(token).unwrap();
    }
    assert!(constraint.is_over());
}
