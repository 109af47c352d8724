//! How a model writes a call, which it has learned together with its chat template.

use super::tagged::{self, PARAMETER};

/// The form in which a model calls a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`: Qwen, Hermes and many others.
    Hermes,
    /// A function's name and a block of JSON between marks of their own: DeepSeek, R1's distillates.
    DeepSeek,
    /// `{"name": …, "parameters": …}` as all of the answer, with or without `<|python_tag|>`: Llama 3.
    Llama,
    /// A function's name and its parameters between tags, whose values are texts or JSON: Qwen3-Coder, Qwen3.5.
    Tagged,
    /// `[TOOL_CALLS]NAME[ARGS]{…}`: Ministral 3, Devstral.
    Mistral,
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
pub(in crate::text) const MARKS: [&str; 10] = [
    TOOL_CALL,
    TOOL_CALL_END,
    CALLS,
    "<｜tool▁call▁begin｜>",
    SEPARATOR,
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|python_tag|>",
    TOOL_CALLS,
    ARGS,
];

const TOOL_CALL: &str = "<tool_call>";
const TOOL_CALL_END: &str = "</tool_call>";
const TOOL_CALLS: &str = "[TOOL_CALLS]";
const ARGS: &str = "[ARGS]";
/// What stands before the name of a tool in [`Convention::Tagged`].
const FUNCTION_TAG: &str = "<function=";
const CALLS: &str = "<｜tool▁calls▁begin｜>";
/// Stands between the kind of a call, which is `function`, and the name in [`Convention::DeepSeek`].
const SEPARATOR: &str = "<｜tool▁sep｜>";
/// What DeepSeek's form has before the separator.
const FUNCTION: &str = "function";
/// The language that DeepSeek's fence names.
const JSON: &str = "json";
/// What DeepSeek's form has before and after the arguments.
pub(super) const FENCE: &str = "```";

impl Convention {
    /// The convention of a chat template, if it names the marks of one.
    pub(in crate::text) fn of_template(source: &str) -> Option<Self> {
        let names = |marks: &[&str]| marks.iter().all(|mark| source.contains(mark));
        if names(&[FUNCTION_TAG, PARAMETER]) {
            Some(Self::Tagged)
        } else if names(&[TOOL_CALL]) {
            Some(Self::Hermes)
        } else if names(&[CALLS]) {
            Some(Self::DeepSeek)
        } else if names(&[TOOL_CALLS, ARGS]) {
            Some(Self::Mistral)
        } else if names(&["\"parameters\"", "ipython"]) {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// The marks that open a call anywhere in an answer.
    pub(in crate::text) fn openers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[TOOL_CALL],
            Self::DeepSeek => &[CALLS, "<｜tool▁call▁begin｜>"],
            Self::Llama => &["<|python_tag|>"],
            // Qwen3-Coder leaves the first of them out at times
            Self::Tagged => &[TOOL_CALL, FUNCTION_TAG],
            Self::Mistral => &[TOOL_CALLS],
        }
    }

    /// The marks that may follow the arguments of a call and are no text.
    pub(super) fn closers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[TOOL_CALL_END, FENCE],
            Self::DeepSeek => &[FENCE, "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
            Self::Llama => &[";"],
            Self::Tagged => &[TOOL_CALL_END],
            Self::Mistral => &[],
        }
    }

    /// Where the name of a tool stands before its arguments and not in their object: the marks before it, and those behind.
    pub(in crate::text) fn around_name(
        self,
    ) -> Option<(&'static [&'static str], &'static [&'static str])> {
        match self {
            Self::Hermes | Self::Llama => None,
            Self::DeepSeek => Some((&[FUNCTION, SEPARATOR], &[FENCE, JSON])),
            Self::Tagged => Some((&[FUNCTION_TAG], &[">"])),
            Self::Mistral => Some((&[], &[ARGS])),
        }
    }

    /// Whether the object of a call may stand without a mark where an answer begins.
    pub(super) fn bare(self) -> bool {
        matches!(self, Self::Hermes | Self::Llama)
    }

    /// What may stand before such an object. Qwen2.5-Coder writes all of its calls in a block of code, whatever its template
    /// says: 27 of 30 answers of `tests/examples/calls`.
    pub(in crate::text) fn fence(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some("```json")
    }

    /// The marks before and behind the object of a call that has its name in it.
    pub(in crate::text) fn marks(self) -> Vec<(&'static str, &'static str)> {
        let behind = match self {
            Self::Hermes => "\n</tool_call>",
            _ => "",
        };
        let openers = self.openers().iter().copied();
        openers.map(|open| (open, behind)).collect()
    }

    /// The key of the arguments in the object of a call.
    pub(in crate::text) fn key(self) -> &'static str {
        match self {
            Self::Llama => "parameters",
            _ => "arguments",
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
        let arguments = match self {
            Self::Tagged => &tagged::written(arguments),
            _ => arguments,
        };
        format!("{open}{before}{name}{between}{arguments}{behind}{close}")
    }

    /// A call in this form as an example, and what is said of its arguments.
    pub(in crate::text) fn example(self) -> (String, &'static str) {
        match self {
            Self::Tagged => (
                self.write("NAME", r#"{"KEY":"VALUE"}"#),
                "its arguments, of which those that are no text are JSON",
            ),
            _ => (
                self.write("NAME", "ARGUMENTS"),
                "its arguments, which are a JSON object",
            ),
        }
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
            Self::Tagged => Form {
                open: "",
                before: "<tool_call>\n<function=",
                between: ">\n",
                behind: "\n</tool_call>",
                next: "\n",
                close: "",
            },
            Self::Mistral => Form {
                open: "",
                before: TOOL_CALLS,
                between: ARGS,
                behind: "",
                next: "",
                close: "",
            },
        }
    }
}
