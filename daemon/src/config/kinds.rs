//! What the value of a key can be: how it is read, and what the page says of it.

use std::path::PathBuf;

use glowplug_firmware_config::image::VerifyingKey;
use glowplug_firmware_config::units::Bytes;
use glowplug_model::engine::Thinking;
use serde::Deserialize;
use toml::{Table, Value};

use super::{ConfigError, invalid};

/// A key of the table in [`super::keys`], with the kind of its value.
pub(super) struct Key<K> {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kind: K,
}

/// What the reference page says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key with its tables, as in `mqtt.url`.
    pub key: &'static str,
    /// What values it may have.
    pub values: String,
    /// What it is where nothing is written.
    pub default: String,
    /// What the key is for.
    pub about: &'static str,
}

/// A list of tables, `[[name]]` in a file. The keys of its elements are in the table of keys too, as `name[].key`.
pub(super) struct List {
    pub(super) name: &'static str,
    pub(super) max: usize,
}

impl List {
    /// Reads every element.
    ///
    /// # Errors
    /// There are too many, or `read` says what is wrong with one; the error counts from 1.
    pub(super) fn of<T>(
        &self,
        table: &Table,
        read: impl Fn(&Table) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let elements = table.get(self.name).and_then(Value::as_array);
        let elements = elements.into_iter().flatten().filter_map(Value::as_table);
        let mut all = Vec::new();
        for (n, element) in (1..).zip(elements) {
            if n > self.max {
                let why = format!("has more than {} tables", self.max);
                return Err(invalid(self.name, why));
            }
            all.push(read(element).map_err(|error| error.in_element(n))?);
        }
        Ok(all)
    }
}

/// A kind of value.
pub(super) trait Kind {
    type Value;

    /// Whether an override is taken as text even where it looks like a number or a table.
    const TEXT: bool = false;

    /// Reads the value of `key`, or its absence.
    ///
    /// # Errors
    /// Names the key and the type or the limit.
    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError>;

    /// For the page: what values there are, and what an absent one is.
    fn page(&self) -> (String, String);
}

impl<K: Kind> Key<K> {
    /// # Errors
    /// Those of [`Kind::read`].
    pub(super) fn of(&self, table: &Table) -> Result<K::Value, ConfigError> {
        // in a list of tables, what is given is one of them
        let inner = self.name.rsplit_once("[].");
        let inner = inner.map_or(self.name, |(_, inner)| inner);
        let (mut tables, name) = parts(inner);
        let within = tables.try_fold(table, |table, name| table.get(name)?.as_table());
        let value = within.and_then(|table| table.get(name));
        self.kind.read(self.name, value)
    }

    pub(super) fn entry(&self) -> Entry {
        let (values, default) = self.kind.page();
        Entry {
            key: self.name,
            values,
            default,
            about: self.about.trim(),
        }
    }
}

/// The tables that a key with dots is in, the outermost first, and its own name.
pub(super) fn parts(key: &str) -> (impl Iterator<Item = &str>, &str) {
    let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
    (tables.split_terminator('.'), name)
}

pub(super) fn wrong(key: &str, wanted: &str, value: &Value) -> ConfigError {
    ConfigError::Type(format!(
        "`{key}` is {wanted}, and not the {} {value}",
        value.type_str()
    ))
}

fn text<'a>(key: &'static str, value: &'a Value) -> Result<&'a str, ConfigError> {
    value.as_str().ok_or_else(|| wrong(key, "a text", value))
}

/// Text that is taken as it is.
pub(super) struct Text {
    pub(super) default: &'static str,
}

impl Kind for Text {
    type Value = Option<String>;
    const TEXT: bool = true;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value
            .map(|value| text(key, value).map(str::to_owned))
            .transpose()
    }

    fn page(&self) -> (String, String) {
        ("text".to_owned(), self.default.to_owned())
    }
}

/// The path of a file or a folder.
pub(super) struct Path {
    pub(super) default: &'static str,
}

impl Kind for Path {
    type Value = Option<PathBuf>;
    const TEXT: bool = true;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value
            .map(|value| text(key, value).map(PathBuf::from))
            .transpose()
    }

    fn page(&self) -> (String, String) {
        ("a path".to_owned(), self.default.to_owned())
    }
}

/// Text that means something.
pub(super) struct Parsed<T> {
    pub(super) parse: fn(&'static str, &str) -> Result<T, ConfigError>,
    /// What the text looks like, for the page.
    pub(super) form: &'static str,
    pub(super) default: &'static str,
}

impl<T> Kind for Parsed<T> {
    type Value = Option<T>;
    const TEXT: bool = true;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value
            .map(|value| (self.parse)(key, text(key, value)?))
            .transpose()
    }

    fn page(&self) -> (String, String) {
        (self.form.to_owned(), self.default.to_owned())
    }
}

/// One of a few words, the first where nothing is written.
pub(super) struct OneOf<T: 'static> {
    pub(super) of: &'static [(&'static str, T)],
}

impl<T> OneOf<T> {
    fn words(&self, between: &str) -> String {
        let words = self.of.iter().map(|(word, _)| format!("`{word}`"));
        words.collect::<Vec<_>>().join(between)
    }
}

impl<T: Copy> Kind for OneOf<T> {
    type Value = T;
    const TEXT: bool = true;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        let said = match value {
            Some(value) => text(key, value)?,
            None => self.of[0].0,
        };
        let found = self.of.iter().find(|(word, _)| *word == said);
        found
            .map(|(_, is)| *is)
            .ok_or_else(|| invalid(key, format!("`{said}` is neither {}", self.words(" nor "))))
    }

    fn page(&self) -> (String, String) {
        (self.words(", "), format!("`{}`", self.of[0].0))
    }
}

fn whole(key: &'static str, value: &Value, min: u64, max: u64) -> Result<u64, ConfigError> {
    let number = value
        .as_integer()
        .ok_or_else(|| wrong(key, "a whole number", value))?;
    match u64::try_from(number) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(invalid(
            key,
            format!("{number} is not between {min} and {max}"),
        )),
    }
}

/// A whole number within limits.
pub(super) struct Number {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) default: u64,
}

impl Kind for Number {
    type Value = u64;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value.map_or(Ok(self.default), |value| {
            whole(key, value, self.min, self.max)
        })
    }

    fn page(&self) -> (String, String) {
        (
            format!("{} to {}", self.min, self.max),
            self.default.to_string(),
        )
    }
}

/// A whole number whose default is found out later.
pub(super) struct Optional {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) default: &'static str,
}

impl Kind for Optional {
    type Value = Option<usize>;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        let number = value.map(|value| whole(key, value, self.min, self.max));
        Ok(number.transpose()?.map(|number| number as usize))
    }

    fn page(&self) -> (String, String) {
        (
            format!("{} to {}", self.min, self.max),
            self.default.to_owned(),
        )
    }
}

/// On or off; off where nothing is written.
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value.map_or(Ok(false), |value| {
            value
                .as_bool()
                .ok_or_else(|| wrong(key, "`true` or `false`", value))
        })
    }

    fn page(&self) -> (String, String) {
        ("`true`, `false`".to_owned(), "`false`".to_owned())
    }
}

/// A size in memory, in bytes.
pub(super) struct Size {
    pub(super) default: &'static str,
}

impl Kind for Size {
    type Value = Option<u64>;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        let size = match value {
            Value::Integer(n) => u64::try_from(*n).ok().filter(|n| *n > 0),
            Value::String(text) => Bytes::parse(text).map(|size| size.0),
            _ => None,
        };
        let wrong = "is not a size such as `1400 MiB` or a number of bytes";
        size.map(Some).ok_or_else(|| invalid(key, wrong))
    }

    fn page(&self) -> (String, String) {
        let values = "`\"1400 MiB\"`, `\"1.5 GiB\"`, or a number of bytes";
        (values.to_owned(), self.default.to_owned())
    }
}

/// A list of texts.
pub(super) struct Texts {
    pub(super) max: usize,
    /// The word for several of them, as in `prefixes`.
    pub(super) of: &'static str,
}

impl Kind for Texts {
    type Value = Vec<String>;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        let Some(value) = value else {
            return Ok(Vec::new());
        };
        let list = value
            .as_array()
            .ok_or_else(|| wrong(key, "a list of texts", value))?;
        if list.len() > self.max {
            return Err(invalid(
                key,
                format!("has more than {} {}", self.max, self.of),
            ));
        }
        list.iter()
            .map(|value| text(key, value).map(str::to_owned))
            .collect()
    }

    fn page(&self) -> (String, String) {
        (
            format!("a list of at most {} {}", self.max, self.of),
            "none".to_owned(),
        )
    }
}

/// Public keys: a list in the file, one text with commas in the environment.
pub(super) struct Keys {
    pub(super) max: usize,
    pub(super) parse: fn(&str) -> Result<Vec<VerifyingKey>, String>,
}

impl Kind for Keys {
    type Value = Vec<VerifyingKey>;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        let keys = match value {
            None => return Ok(Vec::new()),
            Some(Value::String(keys)) => keys.clone(),
            Some(list) => {
                let list = Texts {
                    max: usize::MAX,
                    of: "keys",
                }
                .read(key, Some(list))?;
                list.join(",")
            }
        };
        (self.parse)(&keys).map_err(|why| invalid(key, why))
    }

    fn page(&self) -> (String, String) {
        let values = format!("a list of at most {}", self.max);
        (values, "none: nobody has to sign".to_owned())
    }
}

/// Whether and how a model thinks.
pub(super) struct Thought {
    pub(super) default: Thinking,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "is `false`, `true` or a table of `budget` (tokens) and `visible`"
)]
enum Written {
    Switch(bool),
    Table(WrittenTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTable {
    budget: Option<u32>,
    #[serde(default)]
    visible: bool,
}

impl Kind for Thought {
    type Value = Thinking;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value.map_or(Ok(self.default), |value| thinking(key, value))
    }

    fn page(&self) -> (String, String) {
        let budget = self.default.budget.unwrap_or_default();
        (THINKING.to_owned(), format!("`{{ budget = {budget} }}`"))
    }
}

const THINKING: &str = "`true`, `false`, or a table of `budget` (tokens) and `visible`";

fn thinking(key: &'static str, value: &Value) -> Result<Thinking, ConfigError> {
    let written = Written::deserialize(value.clone())
        .map_err(|error| ConfigError::Type(format!("`{key}` {}", error.message())))?;
    Ok(match written {
        Written::Switch(enabled) => Thinking {
            enabled,
            budget: None,
            visible: false,
        },
        Written::Table(table) => Thinking {
            enabled: table.budget != Some(0),
            budget: table.budget,
            visible: table.visible,
        },
    })
}

/// Whether and how a model thinks, where that differs from `engine.thinking`.
pub(super) struct OwnThought;

impl Kind for OwnThought {
    type Value = Option<Thinking>;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        value.map(|value| thinking(key, value)).transpose()
    }

    fn page(&self) -> (String, String) {
        (THINKING.to_owned(), "`engine.thinking`".to_owned())
    }
}
