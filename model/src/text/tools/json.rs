//! JSON that is kept as its text: schemas and arguments, whose keys stay in the order in which they were written.

use glowplug_firmware_config::limits::TOOL_LEVELS_MAX;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The text of a JSON value without blanks, with its keys in their order. It has at most [`TOOL_LEVELS_MAX`] levels of lists and
/// objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(pub String);

/// Reads the text of a JSON object. The error is a sentence without a subject.
///
/// # Errors
/// The text is no JSON, no object, or is nested too deeply.
pub fn json_object(text: &str) -> Result<String, String> {
    match serde_json::from_str(text) {
        Ok(JsonText(text)) if text.starts_with('{') => Ok(text),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) if error.is_data() => Err(format!("has more than {TOOL_LEVELS_MAX} levels")),
        Err(error) => Err(format!("is no JSON: {error}")),
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut out = String::new();
        let writer = Writer {
            out: &mut out,
            levels: TOOL_LEVELS_MAX,
        };
        writer.deserialize(d)?;
        Ok(Self(out))
    }
}

/// Appends the text of a value.
struct Writer<'o> {
    out: &'o mut String,
    /// levels that it may still have
    levels: usize,
}

impl Writer<'_> {
    fn scalar<E: Error>(self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        // a text and a number of JSON have JSON
        *self.out += &serde_json::to_string(value).map_err(E::custom)?;
        Ok(())
    }

    /// Opens a list or an object and gives what writes its values.
    fn open<E: Error>(&mut self, mark: char) -> Result<(), E> {
        let left = self.levels.checked_sub(1);
        self.levels =
            left.ok_or_else(|| E::custom(format_args!("more than {TOOL_LEVELS_MAX} levels")))?;
        self.out.push(mark);
        Ok(())
    }

    fn inner(&mut self) -> Writer<'_> {
        Writer {
            out: &mut *self.out,
            levels: self.levels,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Writer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Writer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(&())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(&value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(&value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.open('[')?;
        let mut first = true;
        loop {
            let end = self.out.len();
            if !first {
                self.out.push(',');
            }
            if seq.next_element_seed(self.inner())?.is_none() {
                self.out.truncate(end);
                break;
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.open('{')?;
        let mut first = true;
        while let Some(key) = map.next_key::<String>()? {
            if !first {
                self.out.push(',');
            }
            first = false;
            self.inner().scalar(&key)?;
            self.out.push(':');
            map.next_value_seed(self.inner())?;
        }
        self.out.push('}');
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_same_json_in_the_same_order() {
        for (text, kept) in [
            ("{ }", "{}"),
            (
                r#"{"z": [1, -2, 2.50, 1e3, []], "a" : {"b":null}}"#,
                r#"{"z":[1,-2,2.5,1000.0,[]],"a":{"b":null}}"#,
            ),
            (
                r#"{"\u00e9\n<": "\"\\ \u0001", "t": [true ,false]}"#,
                r#"{"é\n<":"\"\\ \u0001","t":[true,false]}"#,
            ),
            (
                r#"{"n": 18446744073709551615}"#,
                r#"{"n":18446744073709551615}"#,
            ),
        ] {
            assert_eq!(json_object(text).as_deref(), Ok(kept));
        }
        assert_eq!(json_object("[]"), Err("must be a JSON object".into()));
        assert!(
            json_object(r#"{"a": 1e999}"#)
                .unwrap_err()
                .starts_with("is no JSON: ")
        );
    }
}
