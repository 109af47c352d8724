//! `[[presets]]`: what plain text and small clients get, which do not say much themselves.

use std::path::PathBuf;
use std::sync::Arc;

use glowplug_model::engine::Thinking;
use glowplug_model::text::Format;
use toml::Table;

use super::keys::*;
use super::{ConfigError, invalid};
use crate::wire::clients;
use crate::wire::topics::valid_segment;

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
    /// Names of tools of the daemon's own that the model may call, and that the daemon runs. If there are none, it does
    /// not say.
    pub tools: Vec<String>,
}

impl Preset {
    /// Whether this client may use it.
    #[must_use]
    pub fn is_for(&self, client: &str) -> bool {
        self.clients.is_empty()
            || self
                .clients
                .iter()
                .any(|pattern| clients::matches(pattern, client))
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
    let name = PRESETS_NAME.of(table)?;
    let name = name.filter(|name| valid_segment(name));
    let name = name.ok_or_else(|| {
        let why = "must have 1 to 64 characters of A-Z a-z 0-9 . _ -";
        invalid(PRESETS_NAME.name, why)
    })?;
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
    check_clients(PRESETS_CLIENTS.name, &clients)?;
    let max_tokens = PRESETS_MAX_TOKENS.of(table)?;
    Ok(Preset {
        name,
        text,
        text_file,
        language,
        clients,
        thinking: PRESETS_THINKING.of(table)?,
        tools: PRESETS_TOOLS.of(table)?,
        max_tokens: max_tokens.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        format: PRESETS_RESPONSE_FORMAT.of(table)?,
    })
}

/// Checks the names and patterns of clients that a key lists.
pub(super) fn check_clients(key: &'static str, listed: &[String]) -> Result<(), ConfigError> {
    match listed.iter().find(|client| !clients::is_pattern(client)) {
        None => Ok(()),
        Some(client) => Err(invalid(
            key,
            format!("`{client}` must have {}", clients::FORM),
        )),
    }
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
