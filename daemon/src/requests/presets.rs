//! The presets of the configuration, and which of them a request gets.

use std::sync::Arc;

use glowplug_model::engine::Thinking;
use glowplug_model::text::Format;

use crate::config;
use crate::wire::fault::Fault;

/// All presets, in the order of the configuration.
#[derive(Debug, Default)]
pub(super) struct Presets(Vec<(config::Preset, Terms)>);

/// What a request with a preset gets where it says nothing itself. Without a preset there is nothing in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// What is said before its messages.
    pub(super) system: Option<Arc<str>>,
    pub(super) thinking: Option<Thinking>,
    /// The most that it may ask for, too.
    pub(super) max_tokens: Option<u32>,
    /// What its answer is held to.
    pub(super) format: Option<Format>,
    /// Names of the daemon's own tools that the daemon runs.
    pub(super) tools: Arc<[String]>,
}

impl Presets {
    pub(super) fn new(presets: &[config::Preset]) -> Self {
        let terms = |preset: &config::Preset| Terms {
            system: preset.system(),
            thinking: preset.thinking,
            max_tokens: preset.max_tokens,
            format: preset.format.clone(),
            tools: preset.tools.clone().into(),
        };
        let all = presets.iter().map(|p| (p.clone(), terms(p)));
        Self(all.collect())
    }

    /// The preset of this name, if this client may use it.
    ///
    /// # Errors
    /// It may not, or there is none: the answer is the same, so that nobody learns what others have.
    pub(super) fn named(&self, name: &str, client: &str) -> Result<Terms, Fault> {
        let found = self.of(client).find(|(preset, _)| preset.name == name);
        let why = || format!("there is no preset `{name}` for this client");
        let found = found.ok_or_else(|| Fault::invalid("preset", why()))?;
        Ok(found.1.clone())
    }

    /// What an `ask` of this client gets: the first preset that it may use.
    pub(super) fn own(&self, client: &str) -> Terms {
        self.of(client)
            .next()
            .map_or_else(Terms::default, |(_, terms)| terms.clone())
    }

    fn of(&self, client: &str) -> impl Iterator<Item = &(config::Preset, Terms)> {
        self.0
            .iter()
            .filter(move |(preset, _)| preset.is_for(client))
    }
}

impl Terms {
    /// The most tokens of an answer that asked for so many, or did not say.
    pub(super) fn tokens(&self, asked: Option<u32>, default: u32) -> u32 {
        let most = self.max_tokens.unwrap_or(u32::MAX);
        asked
            .unwrap_or(self.max_tokens.unwrap_or(default))
            .min(most)
    }
}
