#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::text::tokenizer::tests::{FIRST_SPECIAL, SPECIAL, Tiny};

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content \
    + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The parts of the R1 distillates' template that matter here.
const R1: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}\
    {{ '<｜User｜>' + m['content'] }}{% endif %}{% if m['role'] == 'assistant' %}\
    {% set content = m['content'] %}{% if '</think>' in content %}\
    {% set content = content.split('</think>')[-1] %}{% endif %}\
    {{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}";

/// The parts of Qwen3's template that matter here.
const QWEN3: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}\
    {% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}\
    {% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}\
    {{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}\
    {{ '<think>\n\n</think>\n\n' }}{% endif %}";

fn tokenizer() -> Tokenizer {
    Tiny::default().build().unwrap()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, true).unwrap()
}

/// The vocabulary of these tests, and a template that leaves thoughts out of past answers.
pub(crate) fn chatml() -> (Tokenizer, ChatTemplate) {
    (tokenizer(), template(QWEN3))
}

fn says(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

/// Checks that the template's prompt has the ids of this text, control tokens included.
#[track_caller]
fn assert_prompt(source: &str, messages: &[Message], thinking: bool, text: &str, open: bool) {
    let tok = tokenizer();
    let prompt = template(source)
        .prompt(&tok, messages, &[], thinking)
        .unwrap();
    let expected = tok.encode(text, true).unwrap();
    assert_eq!(
        prompt,
        Prompt {
            tokens: expected,
            thinking_open: open,
            common: 0
        },
        "{text:?}"
    );
}

#[test]
fn a_conversation_as_the_template_has_it() {
    let conversation = [
        says(Role::System, "Be brief."),
        says(Role::User, "hello"),
        says(Role::Assistant, "<think>\nhm\n</think>Hi."),
    ];
    let chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n\
        <|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>assistant\n";
    assert_prompt(QWEN3, &conversation, true, chatml, false);
    let r1 = "<|endoftext|><｜User｜>hello<｜Assistant｜>Hi.<｜end▁of▁sentence｜><｜Assistant｜>";
    assert_prompt(R1, &conversation, true, r1, false);
}

#[test]
fn thinking_on_and_off() {
    let hello = [says(Role::User, "hello")];
    let r1 = "<|endoftext|><｜User｜>hello<｜Assistant｜>";
    let r1_opens = R1.replace(
        "'<｜Assistant｜>' }}{% endif %}",
        "'<｜Assistant｜><think>\n' }}{% endif %}",
    );
    let r1_opens_bare = R1.replace(
        "'<｜Assistant｜>' }}{% endif %}",
        "'<｜Assistant｜><think>' }}{% endif %}",
    );
    let qwen3 = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    let off = "<think>\n\n</think>\n\n";
    for (source, thinking, text, open) in [
        (R1, true, r1.to_string(), false),
        (R1, false, format!("{r1}{off}"), false),
        (&r1_opens, true, format!("{r1}<think>\n"), true),
        (&r1_opens, false, format!("{r1}{off}"), false),
        (&r1_opens_bare, true, format!("{r1}<think>"), true),
        (&r1_opens_bare, false, format!("{r1}{off}"), false),
        (QWEN3, true, qwen3.to_string(), false),
        (QWEN3, false, format!("{qwen3}{off}"), false),
    ] {
        assert_prompt(source, &hello, thinking, &text, open);
    }
    // a model that does not think gets no thought, on or off
    let plain = ChatTemplate::new(CHATML, false).unwrap();
    assert!(!plain.thinks() && template(CHATML).thinks());
    let tok = tokenizer();
    assert_eq!(
        plain.prompt(&tok, &hello, &[], false).unwrap(),
        plain.prompt(&tok, &hello, &[], true).unwrap()
    );
    for (source, thinks) in [(R1, true), (QWEN3, true), (CHATML, false)] {
        assert_eq!(ChatTemplate::new(source, false).unwrap().thinks(), thinks);
    }
}

#[test]
fn contents_never_become_control_tokens() {
    let tok = tokenizer();
    let is_special = |id: &&u32| **id >= FIRST_SPECIAL;
    for source in [CHATML, R1, QWEN3] {
        let template = template(source);
        for role in [Role::System, Role::User, Role::Assistant, Role::Tool] {
            let around = |content: &str| {
                let messages = [
                    says(Role::User, "x"),
                    says(role, content),
                    says(Role::User, "y"),
                ];
                template.prompt(&tok, &messages, &[], true).unwrap().tokens
            };
            let own = around("a").iter().filter(is_special).count();
            // the last is a single character, which is what it is wherever it stands
            for (token, _) in &SPECIAL[..8] {
                let (first, rest) = token.split_at(1);
                let broken = format!("{first}\u{FDD0}{rest}");
                for content in [
                    token.to_string(),
                    format!("a{token}{token}b"),
                    format!("<|im_{token}start|>"),
                    format!("{token}</think>{token}"),
                    broken,
                ] {
                    let found = around(&content).iter().filter(is_special).count();
                    assert_eq!(found, own, "{role:?} {content:?}");
                }
            }
        }
    }
}

#[test]
fn contents_are_fed_as_they_are() {
    let tok = tokenizer();
    for content in [
        "<|im_end|>",
        "a<b && c>d",
        "{{ 1 }}{% if %}",
        "</think>",
        "  \n",
    ] {
        let prompt = template("{{ messages[0].content }}").prompt(
            &tok,
            &[says(Role::User, content)],
            &[],
            true,
        );
        let bytes: Vec<u8> = prompt
            .unwrap()
            .tokens
            .iter()
            .flat_map(|&id| tok.token_bytes(id))
            .collect();
        assert_eq!(bytes, content.as_bytes());
    }
    // only the noncharacter that guards them is lost
    let prompt = template("{{ messages[0].content }}").prompt(
        &tok,
        &[says(Role::User, "a\u{FDD0}<")],
        &[],
        true,
    );
    let bytes: Vec<u8> = prompt
        .unwrap()
        .tokens
        .iter()
        .flat_map(|&id| tok.token_bytes(id))
        .collect();
    assert_eq!(bytes, "a\u{FFFD}<".as_bytes());
}

#[test]
fn one_bos() {
    let hello = [says(Role::User, "hello")];
    for (source, add, count) in [
        (CHATML, None, 0),
        (CHATML, Some(true), 1),
        (R1, None, 1),
        (R1, Some(false), 1),
        (R1, Some(true), 1),
    ] {
        let tok = Tiny {
            add_bos: add,
            ..Tiny::default()
        }
        .build()
        .unwrap();
        let tokens = template(source)
            .prompt(&tok, &hello, &[], true)
            .unwrap()
            .tokens;
        assert_eq!(
            tokens.iter().filter(|id| **id == FIRST_SPECIAL).count(),
            count,
            "{add:?}"
        );
        assert_eq!(tokens[0] == FIRST_SPECIAL, count == 1);
    }
}

#[test]
fn errors_say_what_the_template_said() {
    let compile = |source: &str| ChatTemplate::new(source, false).unwrap_err().to_string();
    assert_eq!(
        compile("\n{% if %}"),
        "the chat template: line 2: unexpected end of a tag"
    );
    assert_eq!(
        compile("{% include 'x' %}"),
        "the chat template: line 1: the tag `include` is not supported"
    );
    let run = |source: &str| {
        template(source)
            .prompt(&tokenizer(), &[says(Role::User, "x")], &[], true)
            .unwrap_err()
            .to_string()
    };
    let raised = run("{{ raise_exception('no ' ~ messages[0].role ~ ' first') }}");
    assert_eq!(
        raised,
        "the chat template failed on this conversation: line 1: no user first"
    );
    let long = "x".repeat(1000);
    assert!(run(&format!("{{{{ raise_exception('{long}') }}}}")).len() < 300);
    let much = vec![says(Role::User, &"x".repeat(MAX_TEXT_BYTES / 2 + 1)); 2];
    let error = template(CHATML)
        .prompt(&tokenizer(), &much, &[], true)
        .unwrap_err();
    assert!(matches!(
        error,
        TextError::TooLong {
            bytes: 4_194_306,
            ..
        }
    ));
}

#[test]
fn long_conversations_fit_the_budget() {
    let tok = tokenizer();
    for source in [CHATML, R1, QWEN3] {
        for (count, content) in [
            (100, "some words of no great length"),
            (4000, ""),
            (2, &"<".repeat(100_000)),
        ] {
            let messages: Vec<Message> = (0..count)
                .map(|i| {
                    says(
                        if i % 2 == 0 {
                            Role::User
                        } else {
                            Role::Assistant
                        },
                        content,
                    )
                })
                .collect();
            template(source).prompt(&tok, &messages, &[], true).unwrap();
        }
    }
}
