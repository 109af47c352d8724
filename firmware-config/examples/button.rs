//! A button that asks and a line of a display that shows the answer. It needs less than 4 KB of a Cortex-M, besides its MQTT
//! client.
//!
//! `cargo build -p glowplug-firmware-config --example button --target thumbv7em-none-eabihf` builds it without std; the
//! same file speaks to a real daemon in `tests/tests/whole/clients/small.rs`.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

use glowplug_firmware_config::wire::{self, Body, Message, Request, WireError};
use heapless::String;

/// Longest answer that is shown, in bytes.
const LINE: usize = 1024;
/// Longest request, in bytes.
const PAYLOAD: usize = 1024;

/// All that the client holds. Its MQTT client needs its own buffers: a chunk has some hundred bytes, the final frame the
/// whole answer, which `max_tokens` bounds.
pub struct Button {
    payload: [u8; PAYLOAD],
    /// the answer as far as it has come
    pub line: String<LINE>,
    asked: u32,
    next: u32,
}

const _: () = assert!(size_of::<Button>() < 4096);

/// What the button's light shows after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    /// the answer is not complete yet
    Busy,
    /// the line has the whole answer
    Done,
    /// ask again after so many milliseconds
    Later(u32),
    /// somebody must look at it
    Failed,
}

impl Button {
    /// A button that was never pressed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            payload: [0; PAYLOAD],
            line: String::new(),
            asked: 0,
            next: 0,
        }
    }

    /// Gives the payload to publish to `wire::request_topic`.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the question is too long.
    pub fn press(&mut self, question: &str) -> Result<&[u8], WireError> {
        self.asked = self.asked.wrapping_add(1);
        self.next = 0;
        self.line.clear();
        let request = Request {
            id: &id(self.asked),
            messages: &[Message {
                role: "user",
                content: question,
            }],
            stream: true,
            max_tokens: Some(48),
            session: None,
            thinking: Some(false),
            priority: None,
        };
        request.write(&mut self.payload)
    }

    /// Takes in a message that came on `wire::reply_topic`.
    pub fn hear(&mut self, payload: &[u8]) -> Light {
        let Ok(frame) = wire::read(payload) else {
            return Light::Failed;
        };
        if frame.id != id(self.asked) {
            return Light::Busy;
        }
        match frame.body {
            Body::Chunk { content, .. } => {
                // after a lost chunk the line waits for the final frame, which has everything
                if frame.seq == self.next && content.push_to(&mut self.line) {
                    self.next += 1;
                }
                Light::Busy
            }
            Body::Final { content, .. } => {
                self.line.clear();
                content.push_to(&mut self.line);
                Light::Done
            }
            Body::Error {
                retry_after_ms: Some(ms),
                ..
            } => Light::Later(ms),
            Body::Error { .. } => Light::Failed,
        }
    }
}

impl Default for Button {
    fn default() -> Self {
        Self::new()
    }
}

/// The request id of the press with this number.
fn id(asked: u32) -> String<12> {
    let mut id = String::new();
    // 12 bytes have room for every number
    let _ = core::fmt::write(&mut id, format_args!("b{asked}"));
    id
}
