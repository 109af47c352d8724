#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::sandbox::{Limits, render};
use super::*;
use crate::text::tokenizer::tests::{FIRST_SPECIAL, SPECIAL, Tiny};
use minijinja::value::Value;
use minijinja::{Environment, context};

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
    assert!(compile("{% if %}").starts_with("the chat template: syntax error: "));
    assert_eq!(
        compile("{% include 'x' %}"),
        "the chat template: invalid operation: other templates and blocks are not supported"
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
        "the chat template failed on this conversation: invalid operation: no user first"
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

fn few() -> Limits {
    limits(2, 4, 0)
}

fn conversation() -> Value {
    let message = |role: &str, content: &str| context! { role, content };
    context! { messages => [message("user", "hi"), message("assistant", "ho")], yes => true, n => 3 }
}

/// The steps that are put between those of a template change neither what it does nor where it jumps.
#[test]
fn renders_as_minijinja_does() {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    for source in [
        "",
        "text only\n",
        "a\n  {% if yes %}\n  b\n  {% endif %}\nc\n",
        "{{ 'a' ~ 1 ~ 'b' + 'c' }} {{ 1 + n }} {{ n + 1.5 }} {{ n - 1 }} {{ 7 // n }} {{ 7 % n }}",
        "{% for m in messages %}{{ loop.index0 + 1 }}{{ m.role }}{% else %}none{% endfor %}",
        "{% for m in [] %}x{% else %}none{% endfor %}{% for i in range(n, -1, -1) %}{{ i }}{% endfor %}",
        "{% if n == 3 and 'h' in messages[0].content and not 'x' in 'abc' %}a{% elif n %}b{% else %}c{% endif %}",
        "{% if n != 3 or n < 2 or n <= 2 %}a{% elif n > 2 %}b{% endif %}{{ 1 < n < 4 }}{{ 'a' if n >= 4 else 'b' }}",
        "{% set ns = namespace(x='', i=0) %}{% for m in messages[::-1] %}{% set ns.x = ns.x + m.role %}\
         {% set ns.i = ns.i + loop.index %}{% endfor %}{{ ns.x }}{{ ns.i }}",
        "{% set x %}a{{ n }}b{% endset %}{{ x|upper }}{% with y = x ~ x %}{{ y }}{% endwith %}",
        "{% macro m(a, b='z') %}[{{ a }}{% if b %}{{ b }}{% endif %}]{% endmacro %}{{ m('x') }}{{ m('x', b='') }}",
        "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}{% filter upper %}up{% endfilter %}",
        "{% for x in ['a', 'b'] recursive %}{{ x }}{{ loop(['c']) if x == 'a' else '' }}{% endfor %}",
        "{% set a, b = 'x', n %}{{ b }}{{ a }}{% for k, v in {'p': 1}|items %}{{ k }}{{ v }}{% endfor %}",
        "{{ messages|map(attribute='role')|join(', ') }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
        "{{ messages[1:][0].content }}{{ messages[-1]['role'] }}{{ messages|length }}{{ 'abc'[1:] }}{{ ['x', n]|join }}",
        "{{ 'a</b>c'.split('</b>')[-1] }}{{ ' x '.strip() }}{{ 'x\n'.rstrip('\n') }}{{ 'aXa'.replace('X', 'yy') }}",
        "{{ 'abc'.startswith('a') }}{{ ', '.join(['p', 'q']) }}",
        "{{ gone is defined }}{{ gone }}{{ none is none }}{{ 'a' is string }}{{ n is in [1, 3] }}{{ gone|default('d') }}",
        "{# note #}{% raw %}{{ raw }}{% endraw %}{%- if yes -%}  tight  {%- endif -%}",
    ] {
        let ours = render(source, conversation(), few()).unwrap();
        let plain = env.render_str(source, conversation()).unwrap();
        // Jinja2 writes its language's True and None
        let python = plain
            .replace("true", "True")
            .replace("false", "False")
            .replace("none", "None");
        assert!(ours == plain || ours == python, "{source}\n{ours}\n{plain}");
    }
}

/// They end by what they use up, and not by the clock: after 0.03 to 25 ms on a Xeon of 2023, half a second under an emulator.
#[test]
fn bombs_end_with_an_error() {
    let fill = |before: &str, what: &str, after: &str| {
        let count = ((64 << 10) - before.len() - after.len()) / what.len();
        format!("{before}{}{after}", what.repeat(count))
    };
    let each = |what: &str| fill("{% set x = 'aaaa' %}", what, "");
    let often = |what: &str| {
        format!(
            "{{% set ns = namespace(x='aaaa') %}}{{% for i in range(60) %}}{what}{{% endfor %}}"
        )
    };
    let deep =
        |before: &str, after: &str| format!("{}x{}", before.repeat(2000), after.repeat(2000));
    let (much, fuel) = ("makes too much text", "ran out of fuel");
    let (long, flat) = ("a tag is too long", "only texts and numbers");
    #[rustfmt::skip]
    let bombs = [
        // lists
        ("{{ range(999999999)|list|length }}".into(), "too many elements"),
        ("{{ range(100000)|list|length }}".into(), much),
        ("{{ range(2000)|join('0123456789012345678901234567890123456789') }}".into(), much),
        (often("{% set x = range(2000)|list %}"), much),
        (often("{% if 3000 in range(2000) %}{% endif %}"), much),
        (often("{% if 3000 is in range(2000) %}{% endif %}"), much),
        (often("{{ range(2000)|last }}"), much),
        (often("{% set x = namespace(range(2000)) %}"), much),
        // loops
        ("{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}".into(), much),
        ("{% for i in range(999) %}{% for j in range(9) %}{{ n }}{% endfor %}{% endfor %}".into(), much),
        (format!("{}{}", "{% for i in 'abcdefghi' %}".repeat(60), "{% endfor %}".repeat(60)), fuel),
        (fill("{% for i in range(999) %}", "text", "{% endfor %}"), much),
        (fill("{% set x %}{% for i in range(999) %}", "text", "{% endfor %}{% endset %}"), much),
        (fill("", "{{ n }}", ""), fuel),
        // recursion
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), "recursion limit"),
        ("{% macro m(x) %}{{ m(x[0:]) }}{{ m(x[0:]) }}{% endmacro %}{{ m(messages) }}".into(), "recursion limit"),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(), "recursion limit"),
        (deep("{% if 1 %}", "{% endif %}"), "recursion limit"),
        (deep("{% for i in [1] %}", "{% endfor %}"), "recursion limit"),
        (fill("{% if 0 %}", "{% elif 0 %}", "{% endif %}"), "too many elifs"),
        (fill("{% set m = messages %}", "{% set m = m[::-1] %}", "{{ m|length }}"), much),
        (fill("{{ ", "(", " }}"), long), (fill("{{ ", "[", " }}"), long), (fill("{{ ", "not ", "1 }}"), long),
        (fill("{{ n", "~n", " }}"), long), (fill("{{ n", ".n", " }}"), long), (fill("{{ n", "|abs", " }}"), long),
        (fill("{{ 1", " if 1 else 1", " }}"), long), (fill("{{ 1", " and 1", " }}"), long),
        // doubling
        (often("{% set ns.x = ns.x ~ ns.x %}"), much), (often("{% set ns.x = ns.x + ns.x %}"), much),
        (each("{% set x = x ~ x %}"), much), (each("{% set x %}{{ x }}{{ x }}{% endset %}"), much),
        (each("{% set x = x|join(x) %}"), much), (each("{% set x = x.join([x, x]) %}"), much),
        (each("{% set x = x|replace('a', x) %}"), much), (each("{% set x = x.replace('', x) %}"), much),
        (format!("{}{}", "{% with n = n ~ n %}".repeat(90), "{% endwith %}".repeat(90)), much),
        ("{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('aaaa') }}".into(), much),
        ("{% for x in ['a'] recursive %}{{ loop([x ~ x]) }}{% endfor %}".into(), much),
        (each("{% set x = [x, x] %}"), flat), (each("{% set x = {'a': x, 'b': x} %}"), flat),
        (each("{% set x = '%s%s'|format(x, x) %}"), "filter format is unknown"),
        (each("{% set x = '{}{}'.format(x, x) %}"), "has no method named format"),
        ("{{ 'a'.count('') }}".into(), "has no method named count"),
        // what holds itself
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns|tojson }}".into(), flat),
        ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns|tojson }}".into(), flat),
        ("{% set a = namespace() %}{% set b = namespace(a=a) %}{{ b|tojson }}".into(), flat),
        // numbers that are sizes
        ("{{ 'a' * 99999999 }}".into(), "multiplication"), ("{{ ([1] * 99999999)|list }}".into(), "multiplication"),
        ("{{ 2 ** 99999999 }}".into(), "multiplication"), ("{{ [1]|tojson(indent=99999999) }}".into(), much),
        ("{{ 'a\nb'|indent(99999999) }}".into(), much), ("{{ 'a\nb'|indent(width=99999999) }}".into(), much),
        // other templates
        ("{% extends 'x' %}".into(), "not supported"), ("{% import 'x' as y %}".into(), "not supported"),
        ("{% block x %}{% endblock %}".into(), "not supported"),
    ];
    for (source, says) in bombs {
        let error = render(&source, conversation(), few())
            .unwrap_err()
            .to_string();
        let name: String = source.chars().take(80).collect();
        assert!(error.contains(says), "{name}: {error}");
    }
}

#[test]
fn a_panic_of_the_engine_is_an_error() {
    let error = render("{{ [][::-1]|list }}", conversation(), few()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid operation: the template engine failed"
    );
}
