//! A chat request and its frames, in OpenAI's shapes.

pub(super) mod messages;
pub mod reply;
pub mod request;
pub(super) mod values;
