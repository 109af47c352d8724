//! Text in and text out: tokenizer, chat template, thought splitter, stop strings and sampler. This room knows nothing of
//! tensors.
//!
//! A request takes this path: [`ChatTemplate::prompt`] writes the conversation as the model was trained to read it, and
//! [`Tokenizer`] turns it into ids. An answer takes this one: [`Constraint`] says which
//! ids may come, [`Sampler`] draws one, [`Tokenizer::token_bytes`] gives its
//! bytes, [`Utf8Stream`] joins them to whole characters, [`ThoughtSplitter`] tells thought from answer, [`Closing`] ends a
//! thought that takes too long, [`CallSplitter`] finds the tools that are called, and [`StopStrings`] finds the end. Everything
//! that comes out of the model file (vocabulary, merges, template) is treated as hostile.

mod closing;
mod constrain;
mod error;
mod jinja;
mod message;
mod sample;
mod stop;
mod template;
mod thought;
mod tokenizer;
mod tools;
mod utf8;

pub use closing::Closing;
pub use constrain::{Constrainer, Constraint, ConstraintError, Format, Mask, SchemaError};
pub use error::TextError;
pub use jinja::{Jinja, JinjaError};
pub use message::{Message, Role, ToolCall};
pub use sample::{BEST, MAX_TOP_LOGPROBS, PENALTY_WINDOW, Sampled, Sampler, SamplerParams};
pub use stop::StopStrings;
#[cfg(test)]
pub(crate) use template::tests::chatml;
pub use template::{ChatTemplate, Prompt, another_letter, conversation, described};
pub use thought::{Side, ThoughtSplitter};
pub use tokenizer::{MAX_TEXT_BYTES, Tokenizer};
pub use tools::{
    CallSplitter, Convention, JsonText, Misplaced, NOT_ANSWERED, Piece, Tool, ToolChoice,
    ToolError, Tools, json_object, settle_results,
};
pub use utf8::Utf8Stream;
