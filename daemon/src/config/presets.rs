//! `[[presets]]`: what plain text and small clients get, which do not say much themselves.

use std::path::PathBuf;
use std::sync::Arc;

use glowplug_firmware_config::limits::CLIENT_MAX;
use glowplug_model::engine::Thinking;
use glowplug_model::text::Format;
use toml::Table;

use super::keys::*;
use super::{ConfigError, invalid};

/// Longest system text, in bytes. The texts of all presets are a small part of what the memory plan has for messages.
pub(crate) const SYSTEM_MAX: usize = 16 << 10;

/// A preset as it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    pub name: String,
    /// The system text, without the sentence about the language.
    pub text: Option<String>,
    /// Where the text is instead. The command line reads it, because nothing here reads files.
    pub text_file: Option<PathBuf>,
    pub language: Option<String>,
    /// Names of clients, in which `*` stands for any characters. If there are none, it is for all.
    pub clients: Vec<String>,
    pub thinking: Option<Thinking>,
    pub max_tokens: Option<u32>,
    /// What the answers are held to.
    pub format: Option<Format>,
}

impl Preset {
    /// Whether this client may use it.
    #[must_use]
    pub fn is_for(&self, client: &str) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|pattern| matches(pattern, client))
    }

    /// The whole system text, if there is any.
    #[must_use]
    pub fn system(&self) -> Option<Arc<str>> {
        let language = self.language.as_ref();
        let language = language.map(|language| format!("Answer in {language}."));
        let parts = [self.text.clone(), language];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("\n\n").into())
    }
}

/// Reads all of them.
///
/// # Errors
/// Names the key and the number of the preset.
pub(super) fn presets(table: &Table) -> Result<Vec<Preset>, ConfigError> {
    let all = PRESETS.of(table, preset)?;
    for (n, preset) in all.iter().enumerate() {
        if all[..n].iter().any(|before| before.name == preset.name) {
            let why = format!("`{}` is there twice", preset.name);
            return Err(invalid(PRESETS_NAME.name, why));
        }
    }
    Ok(all)
}

fn preset(table: &Table) -> Result<Preset, ConfigError> {
    const NAMES: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -";
    let name = PRESETS_NAME.of(table)?;
    let name = name.filter(|name| is_name(name));
    let name = name.ok_or_else(|| invalid(PRESETS_NAME.name, format!("must have {NAMES}")))?;
    let (text, text_file) = (PRESETS_SYSTEM.of(table)?, PRESETS_SYSTEM_FILE.of(table)?);
    if text.is_some() && text_file.is_some() {
        let why = "and `presets[].system` exclude each other";
        return Err(invalid(PRESETS_SYSTEM_FILE.name, why));
    }
    if let Some(text) = &text {
        check_text(text).map_err(|why| invalid(PRESETS_SYSTEM.name, why))?;
    }
    let language = PRESETS_LANGUAGE.of(table)?;
    let of_people = |l: &String| (1..=64).contains(&l.len()) && !l.contains(char::is_control);
    if language
        .as_ref()
        .is_some_and(|language| !of_people(language))
    {
        let why = "must be the name of a language, of at most 64 bytes";
        return Err(invalid(PRESETS_LANGUAGE.name, why));
    }
    let clients = PRESETS_CLIENTS.of(table)?;
    for client in &clients {
        if !is_name(&client.replace('*', "a")) {
            let why = format!("`{client}` must have {NAMES}, or `*` for any of them");
            return Err(invalid(PRESETS_CLIENTS.name, why));
        }
    }
    PRESETS_TOOLS.of(table)?;
    let max_tokens = PRESETS_MAX_TOKENS.of(table)?;
    Ok(Preset {
        name,
        text,
        text_file,
        language,
        clients,
        thinking: PRESETS_THINKING.of(table)?,
        max_tokens: max_tokens.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        format: PRESETS_RESPONSE_FORMAT.of(table)?,
    })
}

fn is_name(text: &str) -> bool {
    let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=CLIENT_MAX).contains(&text.len()) && text.chars().all(may)
}

/// What is wrong with a system text, if anything is.
pub(crate) fn check_text(text: &str) -> Result<(), String> {
    if text.len() > SYSTEM_MAX {
        let bytes = text.len();
        return Err(format!("has {bytes} bytes, the limit is {SYSTEM_MAX}"));
    }
    if text.contains('\0') {
        return Err("holds U+0000".to_owned());
    }
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(())
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // the first place is as good as any later one
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, fits, others) in [
            ("panel", &["panel"][..], &["panel2", "a", ""][..]),
            (
                "voice-*",
                &["voice-", "voice-hall"],
                &["voice", "a-voice-b"],
            ),
            ("*", &["a", "b-c"], &[]),
            (
                "*-a-*b",
                &["x-a-b", "-a-a-bb", "1-a-2b"],
                &["x-a-bc", "-a-"],
            ),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
        ] {
            for name in fits {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in others {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }
}
