//! A chat request and its frames, in OpenAI's shapes.

mod exact;
pub(crate) mod format;
pub(super) mod messages;
pub(crate) mod reply;
pub mod request;
mod sampling;
pub(super) mod tools;
pub(super) mod values;
