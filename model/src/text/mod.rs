//! Text in and text out: tokenizer, chat template, thought splitter, sampler. Knows nothing of tensors.
//! SKELETON: signatures are fixed by their users (engine, daemon); bodies and further items are the owner's.

use crate::gguf::{Gguf, GgufError};

/// One chat message as the template sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message { /** who */ pub role: Role, /** what; may be empty for an assistant turn */ pub content: String }

/// OpenAI's roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role { /** instructions */ System, /** the person */ User, /** the model */ Assistant, /** a tool's result */ Tool }

/// Built once from the file's metadata.
pub struct Tokenizer;
impl Tokenizer {
    /// Pre-rules qwen2, deepseek-r1-qwen, smollm, llama-bpe, gpt-2; another is refused by name.
    pub fn from_gguf(_g: &Gguf) -> Result<Self, TextError> { todo!() }
    /// `special`: control tokens in the text become their ids; otherwise they stay text. Nothing is added (no BOS).
    pub fn encode(&self, _text: &str, _special: bool) -> Result<Vec<u32>, TextError> { todo!() }
    /// The bytes of one token (not always whole UTF-8); empty for control tokens.
    pub fn token_bytes(&self, _id: u32) -> Vec<u8> { todo!() }
    /// ids that end a turn (eos, eot, `<|im_end|>`, `<｜end▁of▁sentence｜>` ...)
    pub fn is_end(&self, _id: u32) -> bool { todo!() }
    /// number of ids
    pub fn vocab(&self) -> usize { todo!() }
    /// does the vocabulary have `<think>` and `</think>` as tokens or does the template name them
    pub fn bos(&self) -> Option<u32> { todo!() }
}

/// Bytes of tokens in, whole UTF-8 characters out; an incomplete tail is held back.
#[derive(Debug, Default)]
pub struct Utf8Stream;
impl Utf8Stream {
    /// appends to `out` what is complete; invalid bytes become U+FFFD
    pub fn push(&mut self, _bytes: &[u8], _out: &mut String) { todo!() }
    /// end of the stream: an incomplete tail becomes one U+FFFD
    pub fn finish(&mut self, _out: &mut String) { todo!() }
}

/// The file's own chat template, compiled once.
pub struct ChatTemplate;
/// What to feed for a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt { /** token ids, BOS included where the template has it */ pub tokens: Vec<u32>, /** the prompt leaves a thought open */ pub thinking_open: bool }
impl ChatTemplate {
    /// From `tokenizer.chat_template`; Err if the file has none or it does not compile.
    pub fn from_gguf(_g: &Gguf) -> Result<Self, TextError> { todo!() }
    /// Renders with the generation prompt and tokenizes. Control tokens in message contents stay text.
    /// `thinking == false` on a thinking model: an empty thought (`<think>\n\n</think>\n\n`) is written for the model.
    pub fn prompt(&self, _tok: &Tokenizer, _messages: &[Message], _thinking: bool) -> Result<Prompt, TextError> { todo!() }
    /// Does this model think (template or vocabulary names `<think>`)?
    pub fn thinks(&self) -> bool { todo!() }
}

/// Splits generated text at `<think>` / `</think>`; marks are in neither side, a partial mark is held back.
#[derive(Debug)]
pub struct ThoughtSplitter;
/// Which side a piece is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side { /** reasoning_content */ Thought, /** content */ Answer }
impl ThoughtSplitter {
    /// `open`: the prompt already opened the thought.
    pub fn new(_open: bool) -> Self { todo!() }
    /// feed text; `emit(side, piece)`
    pub fn push(&mut self, _text: &str, _emit: &mut dyn FnMut(Side, &str)) { todo!() }
    /// end: what was held back is emitted
    pub fn finish(&mut self, _emit: &mut dyn FnMut(Side, &str)) { todo!() }
    /// in which side the next text goes, as far as known
    pub fn side(&self) -> Side { todo!() }
}

/// Stop strings over the answer: holds back what may still become one.
#[derive(Debug)]
pub struct StopStrings;
impl StopStrings {
    /// bounded: at most 16 of at most 256 bytes (the daemon refuses more)
    pub fn new(_stops: &[String]) -> Self { todo!() }
    /// appends safe text to `out`; true when a stop string was found (text from it on is dropped)
    pub fn push(&mut self, _text: &str, _out: &mut String) -> bool { todo!() }
    /// end: what was held back
    pub fn finish(&mut self, _out: &mut String) { todo!() }
}

/// Every sampling knob of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerParams {
    /// 0 is greedy
    pub temperature: f32, /** 1 is off */ pub top_p: f32, /** 0 is off */ pub top_k: u32, /** 0 is off */ pub min_p: f32,
    /** 1 is off */ pub repeat_penalty: f32, /** 0 is off */ pub presence_penalty: f32, /** 0 is off */ pub frequency_penalty: f32,
    /** added to logits first */ pub logit_bias: Vec<(u32, f32)>, /** same seed, same build, same model: same tokens */ pub seed: u64,
    /** how many alternatives to report; None: no logprobs at all */ pub top_logprobs: Option<u8>,
}
/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled { /** id */ pub token: u32, /** ln p of the model's own distribution (before the knobs), with alternatives */ pub logprobs: Option<(f32, Vec<(u32, f32)>)> }
/// llama.cpp's usual order: bias, penalties (last 64 tokens), top-k, top-p, min-p, temperature, draw.
pub struct Sampler;
impl Sampler {
    /// all buffers made here, sized by `vocab`
    pub fn new(_p: SamplerParams, _vocab: usize) -> Self { todo!() }
    /// Draws; `logits` may be changed. Err if they are not finite.
    pub fn sample(&mut self, _logits: &mut [f32]) -> Result<Sampled, TextError> { todo!() }
    /// the token that was really taken (drawn or forced): enters the penalty window. Prompt tokens too.
    pub fn accept(&mut self, _token: u32) { todo!() }
}

/// Why text could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// the file
    #[error(transparent)] Gguf(#[from] GgufError),
    /// placeholder for the owner's variants
    #[error("{0}")] Other(String),
}
