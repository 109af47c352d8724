//! `[[tools]]` and `[tools_from]`: tools of the daemon's own.

use std::sync::Arc;
use std::time::Duration;

use glowplug_firmware_config::limits::TOOL_SCHEMAS_MAX;
use toml::Table;

use super::keys::*;
use super::presets::check_clients;
use super::{ConfigError, invalid};
use crate::tools::catalogue::{DEFAULT_DOMAINS, DOMAINS, Terms};
use crate::tools::definition::{Definition, DefinitionError, Written};
use crate::tools::topic::check_filter;

/// Reads all tools. `base` is the base topic, below which no tool writes.
///
/// # Errors
/// Names the key and the number of the tool.
pub(super) fn tools(table: &Table, base: &str) -> Result<Vec<Arc<Definition>>, ConfigError> {
    let all = TOOLS.of(table, |table| tool(table, base))?;
    let mut bytes = 0;
    for (n, tool) in all.iter().enumerate() {
        let name = tool.tool.name();
        if all[..n].iter().any(|before| before.tool.name() == name) {
            let why = format!("`{name}` is there twice");
            return Err(invalid(TOOLS_NAME.name, why));
        }
        bytes += tool.tool.parameters().len();
    }
    if bytes > TOOL_SCHEMAS_MAX {
        let why = format!("have {bytes} bytes together, the limit is {TOOL_SCHEMAS_MAX}");
        return Err(invalid(TOOLS_PARAMETERS.name, why));
    }
    Ok(all)
}

fn tool(table: &Table, base: &str) -> Result<Arc<Definition>, ConfigError> {
    let clients = TOOLS_CLIENTS.of(table)?;
    check_clients(TOOLS_CLIENTS.name, &clients)?;
    let written = Written {
        name: TOOLS_NAME.of(table)?.unwrap_or_default(),
        description: TOOLS_DESCRIPTION.of(table)?,
        parameters: TOOLS_PARAMETERS.of(table)?,
        topic: TOOLS_TOPIC.of(table)?.unwrap_or_default(),
        payload: TOOLS_PAYLOAD.of(table)?,
        payload_text: TOOLS_PAYLOAD_TEXT.of(table)?,
        reply_topic: TOOLS_REPLY_TOPIC.of(table)?,
        timeout: Duration::from_millis(TOOLS_TIMEOUT_MS.of(table)?),
        clients,
        confirm: TOOLS_CONFIRM.of(table)?,
    };
    let name = written.name.clone();
    let definition = Definition::new(written, base).map_err(|error| {
        let key = match &error {
            DefinitionError::Name(_) => return invalid(TOOLS_NAME.name, error.to_string()),
            DefinitionError::Description(_) => TOOLS_DESCRIPTION.name,
            DefinitionError::Parameters(_) => TOOLS_PARAMETERS.name,
            DefinitionError::Topic(_) => TOOLS_TOPIC.name,
            DefinitionError::Payload(_) => TOOLS_PAYLOAD.name,
            DefinitionError::PayloadText(_) => TOOLS_PAYLOAD_TEXT.name,
            DefinitionError::ReplyTopic(_) => TOOLS_REPLY_TOPIC.name,
        };
        invalid(key, format!("of `{name}` {error}"))
    })?;
    Ok(Arc::new(definition))
}

/// Reads which catalogues become tools; none if neither is switched on.
///
/// # Errors
/// Names the key and the value.
pub(super) fn tools_from(table: &Table) -> Result<Option<Terms>, ConfigError> {
    let topics = TOOLS_FROM_TOPICS.of(table)?;
    for filter in &topics {
        check_filter(filter)
            .map_err(|why| invalid(TOOLS_FROM_TOPICS.name, format!("`{filter}` {why}")))?;
    }
    let clients = TOOLS_FROM_CLIENTS.of(table)?;
    check_clients(TOOLS_FROM_CLIENTS.name, &clients)?;
    let mut domains = TOOLS_FROM_DOMAINS.of(table)?;
    if let Some(domain) = domains
        .iter()
        .find(|domain| !DOMAINS.contains(&domain.as_str()))
    {
        let why = format!("`{domain}` is none of {}", DOMAINS.join(", "));
        return Err(invalid(TOOLS_FROM_DOMAINS.name, why));
    }
    if domains.is_empty() {
        domains = DOMAINS[..DEFAULT_DOMAINS]
            .iter()
            .map(|d| (*d).to_owned())
            .collect();
    }
    for n in (1..domains.len()).rev() {
        if domains[..n].contains(&domains[n]) {
            domains.remove(n);
        }
    }
    let terms = Terms {
        homeassistant: TOOLS_FROM_HOMEASSISTANT.of(table)?,
        zigbee2mqtt: TOOLS_FROM_ZIGBEE2MQTT.of(table)?,
        topics,
        clients,
        domains,
    };
    Ok((terms.homeassistant || terms.zigbee2mqtt).then_some(terms))
}
