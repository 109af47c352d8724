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

/// The texts around the names and the arguments of calls, in their order.
pub(in crate::text) struct Form {
    /// before the first call
    pub(in crate::text) open: &'static str,
    /// before the name of a tool
    pub(in crate::text) before: &'static str,
    /// between a name and its arguments
    pub(in crate::text) between: &'static str,
    /// behind the arguments of a call
    pub(in crate::text) behind: &'static str,
    /// between one call and the next
    pub(in crate::text) next: &'static str,
    /// behind the last call
    pub(in crate::text) close: &'static str,
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
    pub(in crate::text) fn fence(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some("```json")
    }

    /// The marks before and behind the object of a call.
    pub(in crate::text) fn marks(self) -> Vec<(&'static str, &'static str)> {
        let openers = self.openers().iter().copied();
        match self {
            Self::Hermes => openers.map(|open| (open, "\n</tool_call>")).collect(),
            Self::DeepSeek | Self::Llama => openers.map(|open| (open, "")).collect(),
        }
    }

    /// The key of the arguments in the object of a call.
    pub(in crate::text) fn key(self) -> &'static str {
        match self {
            Self::Hermes | Self::DeepSeek => "arguments",
            Self::Llama => "parameters",
        }
    }

    /// A call in this form. `arguments` is the text of a JSON object.
    pub(in crate::text) fn write(self, name: &str, arguments: &str) -> String {
        let Form {
            open,
            before,
            between,
            behind,
            close,
            ..
        } = self.form();
        format!("{open}{before}{name}{between}{arguments}{behind}{close}")
    }

    /// The texts of which an answer of calls consists.
    pub(in crate::text) fn form(self) -> Form {
        match self {
            Self::Hermes => Form {
                open: "",
                before: "<tool_call>\n{\"name\": \"",
                between: "\", \"arguments\": ",
                behind: "}\n</tool_call>",
                next: "\n",
                close: "",
            },
            Self::DeepSeek => Form {
                open: CALLS,
                before: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                between: "\n```json\n",
                behind: "\n```<｜tool▁call▁end｜>",
                next: "\n",
                close: "<｜tool▁calls▁end｜>",
            },
            Self::Llama => Form {
                open: "",
                before: "{\"name\": \"",
                between: "\", \"parameters\": ",
                behind: "}",
                next: "; ",
                close: "",
            },
        }
    }
}
