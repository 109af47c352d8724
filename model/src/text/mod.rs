//! Text in and text out: tokenizer, chat template, thought splitter, stop strings, sampler. Knows
//! nothing of tensors.
//!
//! The path of a request: [`ChatTemplate::prompt`] writes the conversation as the model was trained
//! to read it and [`Tokenizer`] turns it into ids. The path of an answer: [`Sampler`] draws an id,
//! [`Tokenizer::token_bytes`] gives its bytes, [`Utf8Stream`] whole characters, [`ThoughtSplitter`]
//! the side, [`StopStrings`] the end. Everything that comes out of the model file (vocabulary,
//! merges, template) is taken as hostile.

mod error;
mod message;
mod sample;
mod stop;
mod template;
mod thought;
mod tokenizer;
mod utf8;

pub use error::TextError;
pub use message::{Message, Role};
pub use sample::{MAX_TOP_LOGPROBS, PENALTY_WINDOW, Sampled, Sampler, SamplerParams};
pub use stop::{MAX_STOP_BYTES, MAX_STOPS, StopStrings};
pub use template::{ChatTemplate, Prompt};
pub use thought::{Side, ThoughtSplitter};
pub use tokenizer::{MAX_TEXT_BYTES, Tokenizer};
pub use utf8::Utf8Stream;
