//! The words that end a thought for a model that does not end it itself.

use super::{TextError, Tokenizer};

const OPEN: &str = "<think>";
/// Ends a thought as models do.
const MARK: &str = "\n</think>\n\n";
/// What Qwen3 was trained to read where its thinking was cut off (technical report, "thinking budget").
const QWEN3: &str = "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.";
/// For models that know no such sentence: short, in the tone of R1's own thoughts.
const OTHERS: &str = "\n\nOkay, I have thought enough and will answer now.";

/// Tokens by which an open thought is ended.
#[derive(Debug, Default)]
pub struct Closing {
    /// The token `<think>`, if the vocabulary has it in one.
    pub open: Option<u32>,
    /// The closing tag alone.
    pub mark: Vec<u32>,
    /// A sentence that says why the thought ends here, and the closing tag.
    pub sentence: Vec<u32>,
}

impl Closing {
    /// Makes the tokens for a model of this architecture, by its name in the file.
    ///
    /// # Errors
    /// None in practice: the texts are short.
    pub fn new(tokenizer: &Tokenizer, architecture: &str) -> Result<Self, TextError> {
        let sentence = match architecture {
            "qwen3" => QWEN3,
            _ => OTHERS,
        };
        let open = tokenizer.encode_behind(OPEN, true)?;
        Ok(Self {
            open: match open[..] {
                [open] => Some(open),
                _ => None,
            },
            mark: tokenizer.encode_behind(MARK, true)?,
            sentence: tokenizer.encode_behind(&format!("{sentence}{MARK}"), true)?,
        })
    }
}
