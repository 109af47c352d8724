//! Any bytes as what clients send: a chat, a cancel, a control, a question. A request that is taken is within its limits, and
//! one that is not has a fault that a client can read.

use glowplug::wire::chat::request::{
    ChatDefaults, parse_ask, parse_cancel, parse_chat, parse_control,
};
use glowplug_firmware_config::limits::{
    ID_MAX, SCHEMA_BYTES_MAX, TOOL_CALLS_MAX, TOOL_SCHEMAS_MAX, TOOLS_MAX,
};
use glowplug_model::engine::Thinking;
use glowplug_model::text::json_object;

const DEFAULTS: ChatDefaults = ChatDefaults {
    max_tokens: 256,
    thinking: Thinking {
        enabled: true,
        budget: None,
        visible: false,
    },
};

pub(super) fn run(payload: &[u8]) {
    match parse_chat(payload, &DEFAULTS) {
        Ok(request) => {
            let bytes: usize = request.messages.iter().map(|m| m.content.len()).sum();
            assert!(bytes <= payload.len(), "contents only ever shrink");
            if let Some(tools) = &request.tools {
                let schemas: usize = tools.list.iter().map(|tool| tool.parameters().len()).sum();
                // an empty schema is written for a tool without one
                assert!(
                    schemas <= TOOL_SCHEMAS_MAX + 64 * TOOLS_MAX && tools.list.len() <= TOOLS_MAX
                );
            }
            if let Some(kind) = request.format
                && let Some(format) = kind.format()
            {
                assert!(format.bytes() <= SCHEMA_BYTES_MAX && format.check().is_ok());
            }
            for message in &request.messages {
                assert!(message.tool_calls.len() <= TOOL_CALLS_MAX);
                assert!(
                    message
                        .tool_calls
                        .iter()
                        .all(|call| json_object(&call.arguments).is_ok())
                );
            }
            assert!(request.id.is_none_or(|id| id.len() <= ID_MAX));
        }
        Err((fault, _)) => assert!(!fault.message.is_empty() && fault.message.len() < 4096),
    }
    if let Ok(question) = parse_ask(payload) {
        let mark = "\u{feff}".as_bytes();
        assert_eq!(
            question.as_bytes(),
            payload.strip_prefix(mark).unwrap_or(payload)
        );
    }
    let _ = (parse_cancel(payload), parse_control(payload));
}
