//! How a model writes a call, which it has learned together with its chat template.

/// The form in which a model calls a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`: Qwen, Hermes and many others.
    Hermes,
    /// A function's name and a block of JSON between marks of their own: DeepSeek, R1's distillates.
    DeepSeek,
    /// `{"name": …, "parameters": …}` as all of the answer, with or without `<|python_tag|>`: Llama 3.
    Llama,
}

/// All marks of all conventions. Where a vocabulary has one of them as a control token, its text counts while tools are
/// offered.
pub(in crate::text) const MARKS: [&str; 8] = [
    "<tool_call>",
    "</tool_call>",
    CALLS,
    "<｜tool▁call▁begin｜>",
    SEPARATOR,
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|python_tag|>",
];

const CALLS: &str = "<｜tool▁calls▁begin｜>";
/// Stands between the kind of a call, which is `function`, and the name in [`Convention::DeepSeek`].
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
/// What DeepSeek's form has before the separator.
pub(super) const FUNCTION: &str = "function";
/// What DeepSeek's form has before and after the arguments.
pub(super) const FENCE: &str = "```";

impl Convention {
    /// The convention of a chat template, if it names the marks of one.
    pub(in crate::text) fn of_template(source: &str) -> Option<Self> {
        if source.contains("<tool_call>") {
            Some(Self::Hermes)
        } else if source.contains(CALLS) {
            Some(Self::DeepSeek)
        } else if source.contains("\"parameters\"") && source.contains("ipython") {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// The marks that open a call anywhere in an answer.
    pub(super) fn openers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::DeepSeek => &[CALLS, "<｜tool▁call▁begin｜>"],
            Self::Llama => &["<|python_tag|>"],
        }
    }

    /// The marks that may follow the arguments of a call and are no text.
    pub(super) fn closers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["</tool_call>", FENCE],
            Self::DeepSeek => &[FENCE, "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
            Self::Llama => &[";"],
        }
    }

    /// Whether the object of a call may stand without a mark where an answer begins.
    pub(super) fn bare(self) -> bool {
        self != Self::DeepSeek
    }

    /// What may stand before such an object. Qwen2.5-Coder writes all of its calls in a block of code, whatever its template
    /// says: 27 of 30 answers of `tests/examples/calls`.
    pub(super) fn fence(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some("```json")
    }

    /// A call in this form. `arguments` is the text of a JSON object.
    pub(in crate::text) fn write(self, name: &str, arguments: &str) -> String {
        match self {
            Self::Hermes => format!(
                "<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>"
            ),
            Self::DeepSeek => format!(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{FUNCTION}{SEPARATOR}{name}\n\
                 {FENCE}json\n{arguments}\n{FENCE}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            ),
            Self::Llama => format!("{{\"name\": \"{name}\", \"parameters\": {arguments}}}"),
        }
    }
}
