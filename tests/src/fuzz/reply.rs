//! Any bytes as a reply at a small client: an error or a frame whose texts lie in the payload and end.

use glowplug_firmware_config::wire::{Body, Text, read};

pub(super) fn run(payload: &[u8]) {
    let Ok(frame) = read(payload) else {
        return;
    };
    let within = |text: Text<'_>| assert!(text.chars().count() <= payload.len());
    match frame.body {
        Body::Chunk { content, reasoning } => {
            within(content);
            within(reasoning);
        }
        Body::Final { content, .. } => within(content),
        Body::Error { code, .. } => assert!(code.len() <= payload.len()),
    }
}
