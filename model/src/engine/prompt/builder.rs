//! What prompts are made with, and how: the step that needs nothing of the engine.

use super::{Made, Prepared, PromptJob};
use crate::engine::config::EngineConfig;
use crate::engine::guide::Guides;
use crate::engine::request::{Refusal, Request};
use crate::text::{
    ChatTemplate, Convention, Message, Prompt, Role, TextError, Tokenizer, Tool, another_letter,
    described,
};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::sync::Arc;

/// What compiling a schema counts as, in bytes of text: at most 24 ms by the same measure.
const COMPILING: usize = 64 << 10;

/// Reading stops at a prompt of more tokens than so many contexts, and of more than [`COUNTED`]: a flood of prompts that are
/// refused costs little more than one of prompts that are not. A session's history fills one context at most, and new messages
/// that fill another cannot be answered.
const CONTEXTS_MAX: usize = 2;
/// So many tokens are counted in any context, for a refusal that says how many there are.
const COUNTED: usize = 4096;

/// Everything that prompts are made with: tokenizer, template and limits. It is cheap to clone and stays the same as long as
/// its engine lives.
#[derive(Debug, Clone)]
pub struct PromptBuilder {
    pub(in crate::engine) tokenizer: Arc<Tokenizer>,
    /// if it is an error, only raw prompts can be made
    pub(in crate::engine) template: Arc<Result<ChatTemplate, TextError>>,
    /// most tokens of one sequence
    pub(in crate::engine) context: usize,
    /// tokens that the whole cache holds, but no more than `context`
    pub(in crate::engine) whole: usize,
    /// whether sessions may forget their oldest turns
    pub(in crate::engine) window: bool,
    /// whether the network has states, which are kept where prompts are likely to part
    pub(in crate::engine) states: bool,
    /// bytes of the longest token; none if some bytes have no token
    longest: Option<usize>,
    guides: Arc<Guides>,
}

impl PromptBuilder {
    pub(in crate::engine) fn new(
        tokenizer: Tokenizer,
        template: Result<ChatTemplate, TextError>,
        guides: Guides,
        config: &EngineConfig,
    ) -> Self {
        Self {
            guides: Arc::new(guides),
            longest: tokenizer.longest(),
            tokenizer: Arc::new(tokenizer.at_most((CONTEXTS_MAX * config.context).max(COUNTED))),
            template: Arc::new(template),
            context: config.context,
            whole: config.context.min(config.pages * PAGE_TOKENS),
            window: config.window,
            states: false,
        }
    }

    /// Renders and tokenises a prompt, and compiles what the answer is held to. This takes time that grows with the text, and may
    /// be called on any thread.
    #[must_use]
    pub fn prepare(&self, job: PromptJob) -> Prepared {
        let PromptJob {
            id,
            mut request,
            history: mut messages,
        } = job;
        let (history, new) = (messages.len(), request.messages.len());
        messages.append(&mut request.messages);
        let mut bytes = 0;
        let prompt = self.fit(&request, &mut messages, history, &mut bytes);
        let checkpoints = match &prompt {
            Ok((prompt, _)) if self.states && !request.raw => {
                self.checkpoints(&request, &messages, prompt, &mut bytes)
            }
            _ => [0; 2],
        };
        request.messages = messages.split_off(messages.len() - new);
        let made = prompt.and_then(|(prompt, forgotten)| {
            bytes += usize::from(request.compiles()) * COMPILING;
            let guide = (self.guides).compile(&self.tokenizer, self.calls(), &request, &prompt)?;
            Ok(Made {
                prompt,
                forgotten,
                guide,
                checkpoints,
            })
        });
        Prepared {
            id,
            request,
            made,
            bytes,
        }
    }

    /// How many tokens the prompt of these messages shares with one in which something else is said behind the system messages,
    /// and with one that goes on with the conversation: there states are worth keeping. A template that refuses the other
    /// conversation has nothing in common with it.
    fn checkpoints(
        &self,
        request: &Request,
        messages: &[Message],
        prompt: &Prompt,
        bytes: &mut usize,
    ) -> [usize; 2] {
        let system = messages.iter().take_while(|m| m.role == Role::System);
        let (system, rest) = messages.split_at(system.count());
        let other = [system, &[Message::user(another_letter(rest.first()))]].concat();
        let answer = match messages.last() {
            Some(last) if last.role == Role::Assistant => None,
            _ => Some(Message::new(Role::Assistant, "x")),
        };
        let further = [messages, answer.as_slice(), &[Message::user("x")]].concat();
        [other, further].map(|messages| {
            let other = self.prompt(request, &messages, bytes);
            let other = other.map_or_else(|_| Vec::new(), |prompt| prompt.tokens);
            let pairs = prompt.tokens.iter().zip(&other);
            pairs.take_while(|(a, b)| a == b).count()
        })
    }

    /// How the model writes a call, and how many calls of one answer it can read again.
    pub(super) fn calls(&self) -> (Convention, usize) {
        let template = self.template.as_ref().as_ref();
        template.map_or((Convention::Hermes, 1), ChatTemplate::calls)
    }

    /// Makes the prompt of these messages. The bytes of their text are added to `bytes`.
    pub(in crate::engine) fn prompt(
        &self,
        request: &Request,
        messages: &[Message],
        bytes: &mut usize,
    ) -> Result<Prompt, Refusal> {
        let tools = request.offered();
        let told = request.format.as_ref();
        let told = told.filter(|_| request.schema_in_prompt && !request.raw);
        let told = told.map(|format| described(messages, format));
        let messages = told.as_deref().unwrap_or(messages);
        let text = messages.iter().map(Message::bytes).sum::<usize>()
            + tools.iter().map(Tool::bytes).sum::<usize>()
            + request.system.as_ref().map_or(0, |system| system.len());
        *bytes += text;
        let invalid = |message: String| Refusal::Invalid {
            param: "messages",
            message,
        };
        let prompt = if request.raw {
            let text = messages.first().map_or("", |m| m.content.as_str());
            self.tokenizer.encode(text, true).map(|tokens| Prompt {
                tokens,
                thinking_open: false,
                common: 0,
            })
        } else {
            let none = |error| invalid(format!("the model has no chat template: {error}"));
            let template = self.template.as_ref().as_ref().map_err(none)?;
            let thinking = request.thinking.enabled;
            let tok = &self.tokenizer;
            match &request.system {
                Some(system) => template.with_system(tok, system, messages, tools, thinking),
                None => template.prompt(tok, messages, tools, thinking),
            }
        };
        match prompt {
            Ok(prompt) if prompt.tokens.is_empty() => {
                Err(invalid("the prompt is empty".to_owned()))
            }
            Ok(prompt) => Ok(prompt),
            Err(TextError::TooManyTokens { .. }) => Err(Refusal::TextLength {
                bytes: text,
                limit: self.context,
            }),
            Err(error) => Err(invalid(error.to_string())),
        }
    }

    /// The beginning of a text that has at most so many tokens, cut between two characters, and how many tokens it has.
    #[must_use]
    pub fn cut<'t>(&self, text: &'t str, most: usize) -> (&'t str, usize) {
        let Ok(ids) = self.tokenizer.encode_behind(text, false) else {
            // it was not read to its end; no token is shorter than a byte
            let end = text.floor_char_boundary(most);
            return (&text[..end], most);
        };
        if ids.len() <= most {
            return (text, ids.len());
        }
        let kept = ids[..most].iter();
        let bytes: usize = kept.map(|id| self.tokenizer.token_bytes(*id).len()).sum();
        (&text[..text.floor_char_boundary(bytes)], most)
    }

    /// Refuses text that is too long for the context even if all of its tokens were as long as tokens can be, before any work
    /// goes into it. Only the user's messages count, without the blanks around each: a template may leave out the rest.
    pub(super) fn may_fit(&self, request: &Request) -> Result<(), Refusal> {
        let said = request.messages.iter().filter(|m| m.role == Role::User);
        let bytes: usize = said.map(|m| m.content.trim().len()).sum();
        if self
            .longest
            .is_some_and(|longest| bytes.div_ceil(longest) > self.context)
        {
            return Err(Refusal::TextLength {
                bytes,
                limit: self.context,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::config::KvFormats;
    use crate::engine::request::Thinking;
    use crate::text::chatml;
    use glowplug_firmware_config::kv::KvFormat;

    /// The tokens of a prompt up to its checkpoints, and all of them.
    fn parts(states: bool, request: Request, history: &[Message]) -> [Vec<u32>; 3] {
        let (tokenizer, template) = chatml();
        let config = EngineConfig::new(500, 1, KvFormats::both(KvFormat::F16));
        let mut builder =
            PromptBuilder::new(tokenizer, Ok(template), Guides::new(300, None), &config);
        builder.states = states;
        let prepared = builder.prepare(PromptJob::new(1, request, history.to_vec()));
        let Made {
            prompt,
            checkpoints: [first, answer],
            ..
        } = prepared.made.unwrap();
        let tokens = &prompt.tokens;
        [first, answer, tokens.len()].map(|end| tokens[..end].to_vec())
    }

    fn tokens(text: &str) -> Vec<u32> {
        chatml().0.encode(text, true).unwrap()
    }

    fn request(messages: Vec<Message>, thinking: bool) -> Request {
        Request {
            thinking: Thinking {
                enabled: thinking,
                ..Thinking::default()
            },
            ..Request::new("c", messages, 9)
        }
    }

    const SYSTEM: &str = "<|im_start|>system\nBe brief.<|im_end|>\n";
    const HELLO: &str = "<|im_start|>user\nhello<|im_end|>\n";
    const ANSWER: &str = "<|im_start|>assistant\n";

    #[test]
    fn prompts_part_behind_the_system_message_and_where_the_answer_begins() {
        let says = || {
            vec![
                Message::new(Role::System, "Be brief."),
                Message::user("hello"),
            ]
        };
        for thinking in [false, true] {
            let [first, answer, all] = parts(true, request(says(), thinking), &[]);
            assert_eq!(first, tokens(&format!("{SYSTEM}<|im_start|>user\n")));
            assert_eq!(answer, tokens(&format!("{SYSTEM}{HELLO}{ANSWER}")));
            // without a thought an empty one is written behind that
            assert_eq!(all.len() > answer.len(), !thinking);
        }
        let none = parts(false, request(says(), true), &[]);
        assert!(none[..2].iter().all(Vec::is_empty));
        let raw = Request {
            raw: true,
            ..request(vec![Message::user("hello")], true)
        };
        assert!(parts(true, raw, &[])[..2].iter().all(Vec::is_empty));
    }

    /// The configuration's text is part of the system message, and what the session said comes before the question.
    #[test]
    fn the_configurations_text_and_the_turns_before_are_shared() {
        let with = Request {
            system: Some("Be brief.".into()),
            ..request(vec![Message::user("x")], true)
        };
        let said = [
            Message::user("hello"),
            Message::new(Role::Assistant, "<think>a</think>Hi."),
        ];
        let [first, answer, _] = parts(true, with, &said);
        assert_eq!(first, tokens(&format!("{SYSTEM}<|im_start|>user\n")));
        let turn = format!("{HELLO}{ANSWER}Hi.<|im_end|>\n");
        let asks = "<|im_start|>user\nx<|im_end|>\n";
        assert_eq!(answer, tokens(&format!("{SYSTEM}{turn}{asks}{ANSWER}")));
    }

    /// The engine's own work ends with an answer, behind which another question comes.
    #[test]
    fn own_work_parts_where_the_next_question_begins() {
        let said = [Message::user("hello"), Message::new(Role::Assistant, "Hi.")];
        let own = Request::new("c", Vec::new(), 0);
        let [first, next, all] = parts(true, own, &said);
        assert_eq!(first, tokens("<|im_start|>user\n"));
        let turn = format!("{HELLO}{ANSWER}Hi.<|im_end|>\n");
        assert_eq!(next, tokens(&format!("{turn}<|im_start|>")));
        assert!(all.starts_with(&tokens(&format!("{turn}{ANSWER}"))));
    }
}
