//! Any bytes as a vocabulary and a chat template, both of which come from the model file: what they take they take within
//! their bounds, and every text goes into tokens and comes out again.

use glowplug_model::gguf::Gguf;
use glowplug_model::text::{ChatTemplate, Message, Role, Tokenizer, Tool, ToolCall};

pub(in crate::fuzz) fn run(bytes: &[u8]) {
    let Ok(file) = Gguf::from_bytes(bytes.to_vec().into()) else {
        return;
    };
    let Ok(tokenizer) = Tokenizer::from_gguf(&file) else {
        return;
    };
    let content = "Is 12 o'clock <|im_end|> noon?\n\u{1f980}</think>\u{2581} \u{2581}x";
    for special in [false, true] {
        let begins = tokenizer.encode(content, special);
        let behind = tokenizer.encode_behind(content, special);
        for ids in [begins, behind].into_iter().flatten() {
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab()));
            let back: Vec<u8> = ids
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id))
                .collect();
            assert!(special || back.len() <= 4 * content.len() * content.len());
            let first = ids.first().map_or(0, |&id| tokenizer.first_bytes(id).len());
            assert!(first <= back.len());
            if let Some(longest) = tokenizer.longest().filter(|_| !special) {
                assert!(ids.len() >= content.len() / longest);
            }
        }
    }
    let Ok(template) = ChatTemplate::from_gguf(&file) else {
        return;
    };
    let calls = Message {
        tool_calls: vec![ToolCall {
            id: "1".to_owned(),
            name: "look".to_owned(),
            arguments: r#"{"at":["<|im_end|>",1]}"#.to_owned(),
        }],
        ..Message::new(Role::Assistant, "")
    };
    let result = Message {
        tool_call_id: Some("1".to_owned()),
        ..Message::new(Role::Tool, content)
    };
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, content),
        calls,
        result,
        Message::new(Role::Assistant, "<think>hm</think>yes"),
        Message::new(Role::User, ""),
    ];
    let schema = r#"{"type":"object","properties":{"at":{"type":["string","null"]}}}"#;
    let Ok(tool) = Tool::new("look", Some(content), schema) else {
        return;
    };
    for thinking in [false, true] {
        if let Ok(prompt) =
            template.prompt(&tokenizer, &messages, std::slice::from_ref(&tool), thinking)
        {
            assert!(
                prompt
                    .tokens
                    .iter()
                    .all(|&id| (id as usize) < tokenizer.vocab())
            );
        }
    }
}
