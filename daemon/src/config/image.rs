//! Between a [`Draft`] and the settings of a flash image. What an image says is checked as a file is: it becomes one.

use super::keys::MEMORY_BUDGET;
use super::{ConfigError, Draft};
use glowplug_firmware_config::settings::Settings;
use toml::Value;

impl Draft {
    /// Makes the settings of an image, in which a size is a number of bytes and a thought is a table.
    ///
    /// # Errors
    /// [`ConfigError::Type`] names what has no room in an image, or is of another type.
    pub fn to_settings(&self) -> Result<Settings, ConfigError> {
        let mut table = self.table.clone();
        if let Some(bytes) = MEMORY_BUDGET.of(&table)?
            && let Some(budget) = value(&mut table, "memory", "budget")
        {
            *budget = i64::try_from(bytes).unwrap_or(i64::MAX).into();
        }
        if let Some(thinking) = value(&mut table, "engine", "thinking")
            && let Value::Boolean(on) = *thinking
        {
            let none = (!on).then(|| ("budget".to_owned(), 0.into()));
            *thinking = toml::Table::from_iter(none).into();
        }
        if let Some(Value::Table(memory)) = table.get_mut("memory")
            && let Some(share) = memory.remove("share")
        {
            table.insert("share".to_owned(), share);
        }
        let tls = tls_of(&mut table);
        if !tls.is_empty() {
            table.insert("tls".to_owned(), tls.into());
        }
        table.try_into().map_err(|e: toml::de::Error| {
            ConfigError::Type(e.to_string().trim().replace('\n', " "))
        })
    }

    /// Reads the settings of an image with this counter.
    ///
    /// # Errors
    /// Settings that [`Self::to_settings`] made cause none.
    pub fn from_settings(settings: &Settings, counter: u64) -> Result<Self, ConfigError> {
        let mut table =
            toml::Table::try_from(settings).map_err(|e| ConfigError::Type(e.to_string()))?;
        // an image has no other way to say that nobody has to sign; in a file a list without a key is an error
        if let Some(Value::Table(trust)) = table.get_mut("trust")
            && settings.trust.keys.is_empty()
        {
            trust.remove("keys");
        }
        if let Some(Value::Table(tls)) = table.remove("tls") {
            tls_into(&mut table, tls);
        }
        if let Some(share) = table.remove("share")
            && let Some(Value::Table(memory)) = table.get_mut("memory")
        {
            memory.insert("share".to_owned(), share);
        }
        Ok(Self {
            table,
            counter: Some(counter),
        })
    }

    /// Writes what was collected as the text of a file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let filled = |(name, value): (&String, &Value)| match value {
            Value::Table(table) if table.is_empty() => None,
            value => Some((name.clone(), value.clone())),
        };
        let table: toml::Table = self.table.iter().filter_map(filled).collect();
        table.to_string()
    }
}

/// The keys of TLS that are in `[mqtt]` and have the same name in an image.
const TLS_OF_MQTT: [&str; 4] = ["ca_file", "cert_file", "key_file", "server_name"];

/// Takes the keys of TLS out of the tables of a file, as an image has them.
fn tls_of(table: &mut toml::Table) -> toml::Table {
    let mut tls = toml::Table::new();
    let mut take = |outer: &str, inner: &str, name: &str| {
        let outer = table.get_mut(outer).and_then(Value::as_table_mut);
        if let Some(value) = outer.and_then(|outer| outer.remove(inner)) {
            tls.insert(name.to_owned(), value);
        }
    };
    for key in TLS_OF_MQTT {
        take("mqtt", key, key);
    }
    take("broker", "tls", "broker");
    take("broker", "plaintext", "plaintext");
    tls
}

/// Puts the keys of TLS of an image where a file has them.
fn tls_into(table: &mut toml::Table, tls: toml::Table) {
    for (name, value) in tls {
        let (outer, inner) = match name.as_str() {
            "broker" => ("broker", "tls"),
            "plaintext" => ("broker", "plaintext"),
            own => ("mqtt", own),
        };
        if let Some(Value::Table(outer)) = table.get_mut(outer) {
            outer.insert(inner.to_owned(), value);
        }
    }
}

fn value<'a>(table: &'a mut toml::Table, outer: &str, inner: &str) -> Option<&'a mut Value> {
    table.get_mut(outer)?.get_mut(inner)
}
