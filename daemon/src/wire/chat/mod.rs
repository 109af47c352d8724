//! A chat request and its frames, in OpenAI's shapes.

pub(super) mod messages;
pub(crate) mod reply;
pub mod request;
pub(super) mod tools;
pub(super) mod values;
