//! A chat template of a hostile file cannot take memory. A program of its own, whose allocator counts.

#![allow(clippy::unwrap_used)]

use glowplug_model::text::{ChatTemplate, Message, Role, Tokenizer};
use glowplug_tests::{Counting, r1_vocabulary, template_bombs};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Most bytes that a template takes, and how often it may ask for some.
const BYTES: usize = 64 << 20;
const CALLS: usize = 1_000_000;

#[test]
fn bombs_end_while_they_are_small() {
    let file = r1_vocabulary();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let hello = [
        Message::new(Role::User, "hi"),
        Message::new(Role::Assistant, "ho"),
    ];
    let mut wrong = Vec::new();
    for (source, says) in template_bombs() {
        let (before, calls) = (ALLOCATOR.in_use(), ALLOCATOR.calls());
        ALLOCATOR.peak();
        let template = ChatTemplate::given(&source, &file);
        let made = template.and_then(|template| template.prompt(&tokenizer, &hello, &[], true));
        let (peak, calls) = (ALLOCATOR.peak() - before, ALLOCATOR.calls() - calls);
        let name: String = source.chars().take(120).collect();
        let said = match &made {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        if said.is_empty() != says.is_empty() || !said.contains(says) {
            wrong.push(format!("{name}: {said:?} instead of {says:?}"));
        }
        if peak > BYTES || calls > CALLS {
            wrong.push(format!("{name}: {peak} bytes in {calls} pieces"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
