//! `glowplug tokenize MODEL`: texts in, token ids out. It needs the vocabulary of the file and no tensor.

use crate::cli::failure::{Failure, put_json};
use crate::cli::models;
use glowplug_model::text::Tokenizer;
use serde_json::json;
use std::io::Read;

/// Most bytes of stdin that are read.
const STDIN_MAX: u64 = 64 << 20;

/// Token ids of texts: a JSON list of strings on stdin, a JSON list of id lists on stdout
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// read control tokens in the text as such
    #[arg(long)]
    special: bool,
    /// print JSON (it is JSON either way)
    #[arg(long, hide = true)]
    json: bool,
}

/// Reads texts from stdin and prints their token ids.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let tokenizer = Tokenizer::from_gguf(&models::open(&args.model)?)?;
    let texts = texts(std::io::stdin().lock())?;
    let ids = texts
        .iter()
        .map(|text| tokenizer.encode(text, args.special))
        .collect::<Result<Vec<_>, _>>()?;
    put_json(&json!(ids))
}

fn texts(stdin: impl Read) -> Result<Vec<String>, Failure> {
    serde_json::from_slice(&models::stdin(stdin, STDIN_MAX)?)
        .map_err(|error| Failure::Use(format!("stdin is not a JSON list of strings: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn stdin_is_a_json_list_of_strings() {
        assert_eq!(
            texts(&br#"["", "a\nb", "\u00e9"]"#[..]).unwrap(),
            ["", "a\nb", "é"]
        );
        for bad in ["", "{}", "[1]", "[\"a\"", "[\"a\"] x", "[\"\\ud800\"]"] {
            let failure = texts(bad.as_bytes()).unwrap_err();
            assert!(
                matches!(&failure, Failure::Use(says) if says.contains("JSON list of strings")),
                "{bad}"
            );
        }
        assert!(
            texts(std::io::repeat(b' '))
                .unwrap_err()
                .to_string()
                .contains("67108864")
        );
    }
}
