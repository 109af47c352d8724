//! What a template does with tools by itself, found out by asking it, and what is done for it where it does nothing.

use super::values::{Calls, Values, context};
use super::work;
use crate::text::jinja::{self, Jinja, Meter};
use crate::text::{CallSplitter, Convention, Message, Piece, Role, Tool, ToolCall};

/// Words of the conversation that a template is asked to write. No template has them by itself.
const WORDS: [&str; 6] = [
    "probed_tool",
    "probed_key",
    "probed_value",
    "probed_result",
    "probed_content",
    "probed_other",
];

/// What a template does with tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Support {
    /// how its model writes a call; [`Convention::Hermes`] where the template does not say, or writes calls in a form that is not
    /// read, so that they and the tools are written for it
    pub(super) convention: Convention,
    /// whether it writes the tools that are offered
    pub(super) tools: bool,
    /// how it wants past calls; none if it does not write them and their results
    pub(super) calls: Option<Calls>,
    /// whether it writes what was said beside a call
    pub(super) both: bool,
    /// whether it writes several calls of one message
    pub(super) several: bool,
}

impl Support {
    /// Asks a template that compiles.
    pub(super) fn of(source: &str, template: &Jinja) -> Self {
        let nothing = Self {
            convention: Convention::Hermes,
            tools: false,
            calls: None,
            both: false,
            several: true,
        };
        let Some(convention) = Convention::of_template(source) else {
            return nothing;
        };
        let [name, key, value, result, content, other] = WORDS;
        let call = |name: &str| ToolCall {
            id: "call_1".to_owned(),
            name: name.to_owned(),
            arguments: format!(r#"{{"{key}": "{value}"}}"#),
        };
        let called = |content: &str, names: &[&str]| Message {
            tool_calls: names.iter().map(|name| call(name)).collect(),
            ..Message::new(Role::Assistant, content)
        };
        let answered = Message {
            tool_call_id: Some("call_1".to_owned()),
            ..Message::new(Role::Tool, result)
        };
        let made = |form, message: &Message| {
            let messages = [Message::user("x"), message.clone(), answered.clone()];
            written(template, &messages, None, form)
        };
        let writes = |form, message: &Message, words: &[&str]| {
            made(form, message).is_some_and(|text| words.iter().all(|word| text.contains(word)))
        };
        let alone = called("", &[name]);
        let mut all = Calls::ALL.into_iter();
        let calls = all.find(|form| writes(*form, &alone, &[name, value, result]));
        let form = calls.unwrap_or(Calls::ALL[0]);
        let schema = format!(
            r#"{{"type": "object", "properties": {{"{key}": {{"type": "string", "description": "x"}}}}}}"#
        );
        let tool = Tool::new(name, Some("x"), &schema).ok();
        let unread = |form| made(form, &alone).is_some_and(|text| !reads(convention, &text, &tool));
        if calls.is_some_and(unread) {
            return nothing;
        }
        Self {
            convention,
            tools: written(template, &[Message::user("x")], tool.as_ref(), form)
                .is_some_and(|text| text.contains(name) && text.contains(key)),
            calls,
            both: calls.is_some() && writes(form, &called(content, &[name]), &[name, content]),
            several: calls.is_none() || writes(form, &called("", &[name, other]), &[name, other]),
        }
    }

    /// Writes into the messages what the template does not write by itself.
    pub(super) fn adapt(self, messages: &[Message], tools: &[Tool]) -> Vec<Message> {
        let mut adapted: Vec<Message> = Vec::with_capacity(messages.len() + 1);
        for message in messages {
            if message.role == Role::Tool && self.calls.is_none() {
                let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
                match adapted.last_mut() {
                    // results of one turn are one message
                    Some(last)
                        if last.role == Role::User && last.content.ends_with(RESPONSE_END) =>
                    {
                        last.content.push('\n');
                        last.content.push_str(&text);
                    }
                    _ => adapted.push(Message::user(text)),
                }
            } else if message.tool_calls.is_empty() || (self.calls.is_some() && self.both) {
                adapted.push(message.clone());
            } else if self.calls.is_none() {
                let calls = (message.tool_calls.iter())
                    .map(|call| self.convention.write(&call.name, &call.arguments));
                let said = (!message.content.is_empty()).then(|| message.content.clone());
                let text: Vec<String> = said.into_iter().chain(calls).collect();
                adapted.push(Message::new(Role::Assistant, text.join("\n")));
            } else {
                if !message.content.is_empty() {
                    adapted.push(Message::new(Role::Assistant, message.content.clone()));
                }
                adapted.push(Message {
                    content: String::new(),
                    ..message.clone()
                });
            }
        }
        if !tools.is_empty() && !self.tools {
            let text = self.offer(tools);
            match adapted.first_mut() {
                Some(first) if first.role == Role::System => {
                    first.content.push_str("\n\n");
                    first.content.push_str(&text);
                }
                _ => adapted.insert(0, Message::new(Role::System, text)),
            }
        }
        adapted
    }

    /// The words that offer tools to a model whose template does not.
    fn offer(self, tools: &[Tool]) -> String {
        let plain = |text: &str| text.to_owned();
        let mut values = Values::new(&plain, Calls::ALL[0]);
        let mut lines = String::new();
        for tool in tools {
            // a tool's schema was read when it was taken
            let line = values.tool(tool);
            let line = line.and_then(|tool| jinja::json(&tool, &mut Meter::new(usize::MAX)));
            lines += &line.unwrap_or_default();
            lines.push('\n');
        }
        let (form, arguments) = self.convention.example();
        format!(
            "Functions that you can call, each described by a line of JSON:\n<tools>\n{lines}</tools>\n\
             To call one, write nothing but its name and {arguments}, in this form:\n{form}"
        )
    }
}

const RESPONSE_END: &str = "</tool_response>";

/// Whether the call of this tool that a template wrote into `text` is read as one.
fn reads(convention: Convention, text: &str, tool: &Option<Tool>) -> bool {
    let (Some(tool), Some(at)) = (tool, text.find(WORDS[0])) else {
        return false;
    };
    // Llama's calls have no mark where nothing is said before them
    let bare = (convention == Convention::Llama).then_some("{");
    let openers = convention.openers().iter().copied().chain(bare);
    let mut begins = openers.filter_map(|mark| text[..at].rfind(mark));
    begins.any(|begin| {
        let mut read = false;
        let mut splitter = CallSplitter::new(convention, [tool.clone()].into(), 1);
        splitter.push(&text[begin..], &mut |piece| {
            read |= matches!(piece, Piece::Call { arguments, .. } if arguments.contains(WORDS[2]));
        });
        read
    })
}

/// What a template makes of these messages, if it takes them.
fn written(
    template: &Jinja,
    messages: &[Message],
    tool: Option<&Tool>,
    calls: Calls,
) -> Option<String> {
    let plain = |text: &str| text.to_owned();
    let mut values = Values::new(&plain, calls);
    let made = messages.iter().map(|m| values.message(m, &m.content, None));
    let made = made.collect::<Result<Vec<_>, _>>().ok()?;
    let tools = tool.map(|tool| values.tool(tool)).transpose().ok()?;
    // it is asked up to seven times, a few words each
    let work = work(messages.len(), values.bytes, values.nodes) / 4;
    let context = context(made, tools.into_iter().collect(), "", "", true).ok()?;
    template.render(context, work).ok()
}
