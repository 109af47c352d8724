//! Values of a chat request that are more than a number or a text. Each of them stops reading at its bound.

use std::fmt;

use glowplug_firmware_config::limits::{STOP_BYTES_MAX, STOPS_MAX};
use glowplug_model::engine::{Priority, Thinking};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Most entries of `logit_bias`.
pub(in crate::wire) const LOGIT_BIAS_MAX: usize = 1024;

/// The field `thinking`: `false`, `true`, or `{"budget", "visible"}`.
pub(in crate::wire) struct RawThinking {
    enabled: bool,
    budget: Option<u32>,
    visible: Option<bool>,
}

impl RawThinking {
    pub(in crate::wire) fn over(self, default: Thinking) -> Thinking {
        Thinking {
            enabled: self.enabled,
            budget: self.budget.or(default.budget),
            visible: self.visible.unwrap_or(default.visible),
        }
    }
}

impl<'de> Deserialize<'de> for RawThinking {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = RawThinking;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean or an object of `budget` (tokens) and `visible`")
            }
            fn visit_bool<E>(self, enabled: bool) -> Result<RawThinking, E> {
                Ok(RawThinking {
                    enabled,
                    budget: None,
                    visible: None,
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawThinking, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Table {
                    budget: Option<u32>,
                    visible: Option<bool>,
                }
                let t = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                // a budget of 0 switches thinking off
                Ok(RawThinking {
                    enabled: t.budget != Some(0),
                    budget: t.budget,
                    visible: t.visible,
                })
            }
        }
        d.deserialize_any(V)
    }
}

/// The field `stop`: a string or an array of strings.
pub(in crate::wire) struct Stops(pub(in crate::wire) Vec<String>);

impl<'de> Deserialize<'de> for Stops {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Stops;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Stops, E> {
                if s.is_empty() || s.len() > STOP_BYTES_MAX {
                    return Err(E::custom(format_args!(
                        "a string has {} bytes, it must have 1 to {STOP_BYTES_MAX}",
                        s.len()
                    )));
                }
                Ok(Stops(vec![s.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stops, A::Error> {
                let mut all = Vec::new();
                while let Some(stop) = seq.next_element::<String>()? {
                    if all.len() == STOPS_MAX {
                        return Err(de::Error::custom(format_args!(
                            "has more than {STOPS_MAX} strings"
                        )));
                    }
                    all.append(&mut V.visit_str::<A::Error>(&stop)?.0);
                }
                Ok(Stops(all))
            }
        }
        d.deserialize_any(V)
    }
}

/// The field `seed`. OpenAI's may be negative; in llama-server -1 asks for a random one.
pub(in crate::wire) struct Seed(pub(in crate::wire) Option<u64>);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Seed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of 64 bits")
            }
            fn visit_u64<E>(self, n: u64) -> Result<Seed, E> {
                Ok(Seed(Some(n)))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Seed, E> {
                Ok(Seed((n != -1).then_some(n.cast_unsigned())))
            }
        }
        d.deserialize_i64(V)
    }
}

/// The field `logit_bias`: `{"token id": bias}` in the order of the body, with no id twice.
pub(in crate::wire) struct Biases(pub(in crate::wire) Vec<(u32, f32)>);

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Biases;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids and biases")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Biases, A::Error> {
                let mut all: Vec<(u32, f32)> = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if all.len() == LOGIT_BIAS_MAX {
                        return Err(de::Error::custom(format_args!(
                            "has more than {LOGIT_BIAS_MAX} entries"
                        )));
                    }
                    let id: u32 = key
                        .parse()
                        .map_err(|_| de::Error::custom("a key is not a token id"))?;
                    let bias = number_of(&mut map)?;
                    all.push((id, bias));
                }
                let mut ids: Vec<u32> = all.iter().map(|(id, _)| *id).collect();
                ids.sort_unstable();
                match ids.windows(2).find(|w| w[0] == w[1]) {
                    Some(w) => Err(de::Error::custom(format_args!(
                        "token {} is given twice",
                        w[0]
                    ))),
                    None => Ok(Biases(all)),
                }
            }
        }
        fn number_of<'de, A: MapAccess<'de>>(map: &mut A) -> Result<f32, A::Error> {
            match map.next_value::<f64>()? {
                bias if (-100.0..=100.0).contains(&bias) => Ok(bias as f32),
                bias => Err(de::Error::custom(format_args!(
                    "{bias} is not between -100 and 100"
                ))),
            }
        }
        d.deserialize_map(V)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::wire) enum RawPriority {
    Background,
    Normal,
    Urgent,
}

impl From<RawPriority> for Priority {
    fn from(priority: RawPriority) -> Self {
        match priority {
            RawPriority::Background => Self::Background,
            RawPriority::Normal => Self::Normal,
            RawPriority::Urgent => Self::Urgent,
        }
    }
}

/// The field `chunk`: what a chunk holds.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::wire) enum RawChunk {
    Token,
    Sentence,
}

/// The field `modalities`: an array in which every element is `"text"`.
pub(in crate::wire) struct Modalities;

impl<'de> Deserialize<'de> for Modalities {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Modalities;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Modalities, A::Error> {
                while let Some(modality) = seq.next_element::<String>()? {
                    if modality != "text" {
                        return Err(de::Error::custom(format_args!(
                            "`{modality}` is not `text`, which is all that answers are"
                        )));
                    }
                }
                Ok(Modalities)
            }
        }
        d.deserialize_seq(V)
    }
}

/// As much of a value as is needed to see whether it asks for something.
pub(in crate::wire) enum Scalar {
    Text(String),
    /// A number without a fraction.
    Number(i64),
    /// An array without elements.
    Empty,
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E>(self, s: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(s.to_owned()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_u64<E>(self, n: u64) -> Result<Scalar, E> {
                Ok(i64::try_from(n).map_or(Scalar::Other, Scalar::Number))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(n))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                let mut any = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    any = true;
                }
                Ok(if any { Scalar::Other } else { Scalar::Empty })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        d.deserialize_any(V)
    }
}

/// An integer between two limits, or null.
pub(super) fn integer<'de, A: MapAccess<'de>>(
    map: &mut A,
    min: u64,
    max: u64,
) -> Result<Option<u64>, A::Error> {
    match map.next_value::<Option<u64>>()? {
        Some(n) if !(min..=max).contains(&n) => Err(de::Error::custom(format_args!(
            "{n} is not between {min} and {max}"
        ))),
        n => Ok(n),
    }
}

/// A number between two limits, or null.
pub(super) fn number<'de, A: MapAccess<'de>>(
    map: &mut A,
    min: f64,
    max: f64,
) -> Result<Option<f32>, A::Error> {
    match map.next_value::<Option<f64>>()? {
        Some(x) if !(min..=max).contains(&x) => Err(de::Error::custom(format_args!(
            "{x} is not between {min} and {max}"
        ))),
        x => Ok(x.map(|x| x as f32)),
    }
}

/// A text that passes a check, or null.
pub(super) fn text<'de, A: MapAccess<'de>>(
    map: &mut A,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Option<String>, A::Error> {
    let value = map.next_value::<Option<String>>()?;
    value
        .as_deref()
        .map_or(Ok(()), check)
        .map_err(de::Error::custom)?;
    Ok(value)
}
