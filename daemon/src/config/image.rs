//! Between a [`Draft`] and the settings of a flash image. What an image says is checked as a file is: it becomes one.

use super::raw::bytes;
use super::{ConfigError, Draft};
use glowplug_firmware_config::settings::Settings;
use toml::Value;

impl Draft {
    /// For an image: a size in bytes and a thought as a table, as [`Settings`] have them.
    ///
    /// # Errors
    /// [`ConfigError::Type`] names what has no room in an image, or is of another type.
    pub fn to_settings(&self) -> Result<Settings, ConfigError> {
        let mut table = self.table.clone();
        let slot = |table: &mut toml::Table, outer: &str, inner: &str| {
            let tables = table.get_mut(outer)?.as_table_mut()?;
            tables.remove(inner)
        };
        let put = |table: &mut toml::Table, outer: &str, inner: &str, value: Value| {
            if let Some(Value::Table(tables)) = table.get_mut(outer) {
                tables.insert(inner.to_owned(), value);
            }
        };
        if let Some(budget) = slot(&mut table, "memory", "budget") {
            let budget = i64::try_from(bytes(&budget)?).unwrap_or(i64::MAX);
            put(&mut table, "memory", "budget", Value::Integer(budget));
        }
        if let Some(thinking) = slot(&mut table, "engine", "thinking") {
            let thinking = match thinking {
                Value::Boolean(false) => {
                    toml::Table::from_iter([("budget".to_owned(), 0.into())]).into()
                }
                Value::Boolean(true) => Value::Table(toml::Table::new()),
                table => table,
            };
            put(&mut table, "engine", "thinking", thinking);
        }
        table.try_into().map_err(|e: toml::de::Error| {
            ConfigError::Type(e.to_string().trim().replace('\n', " "))
        })
    }

    /// Of an image with this counter.
    ///
    /// # Errors
    /// None that an image written by [`Self::to_settings`] has.
    pub fn from_settings(settings: &Settings, counter: u64) -> Result<Self, ConfigError> {
        let table =
            toml::Table::try_from(settings).map_err(|e| ConfigError::Type(e.to_string()))?;
        Ok(Self {
            table,
            counter: Some(counter),
        })
    }

    /// As a file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let filled = |(name, value): (&String, &Value)| match value {
            Value::Table(table) if table.is_empty() => None,
            value => Some((name.clone(), value.clone())),
        };
        let table: toml::Table = self.table.iter().filter_map(filled).collect();
        toml::to_string(&table).unwrap_or_default()
    }
}
