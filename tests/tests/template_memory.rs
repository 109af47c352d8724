//! A chat template of a hostile file cannot take memory. A process of its own, so that its peak is
//! the template's.

#![allow(clippy::unwrap_used)]

use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::{ChatTemplate, Message, Role, TextError, Tokenizer};
use glowplug_tests::Tiny;

/// Peak resident size of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn templates_that_grow_are_stopped_while_they_are_small() {
    let doubling = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}";
    let bombs = [
        format!("{doubling}{{% set ns.x = ns.x ~ ns.x %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.x = ns.x.replace('a', ns.x) %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.x = ns.x|join(ns.x) %}}{{% endfor %}}"),
        "{% set x = 'aaaaaaaa' %}".to_owned() + &"{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60),
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('aaaaaaaa') }}".into(),
        "{{ range(100000)|list|length }}".into(),
        "{{ range(99999)|join('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') }}".into(),
        "{{ 'a'|indent(4000000000) }}{{ [1]|tojson(indent=4000000000) }}".into(),
        "{% for i in range(999) %}".to_owned() + &"text".repeat(15_000) + "{% endfor %}",
    ];
    let user = [Message::new(Role::User, "hi")];
    let mut writer = Tiny::smallest(Arch::Qwen2).writer();
    let tokenizer =
        Tokenizer::from_gguf(&Gguf::from_bytes(writer.build().into()).unwrap()).unwrap();
    let before = peak();
    for bomb in bombs {
        writer.set("tokenizer.chat_template", bomb.as_str());
        let file = Gguf::from_bytes(writer.build().into()).unwrap();
        let template = ChatTemplate::from_gguf(&file).unwrap();
        let result = template.prompt(&tokenizer, &user, &[], true);
        assert!(matches!(result, Err(TextError::Render(_))), "{bomb:.80}");
    }
    let grown = peak() - before;
    assert!(grown < 8 << 10, "{grown} KiB");
}
