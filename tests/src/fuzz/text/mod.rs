//! Texts, and what a model file says of them.

pub(super) mod calls;
pub(super) mod schema;
pub(super) mod template;
pub(super) mod vocabulary;
