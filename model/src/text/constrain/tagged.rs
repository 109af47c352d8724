//! The grammar of arguments between tags: each parameter in the order of its schema, texts letter by letter and all else as JSON.

use super::SchemaError;
use super::schema::Schema;
use crate::text::tools::{
    FUNCTION_END, KEY_MAX, PARAMETER, PARAMETER_END, Parameters, Takes, referred,
};
use glowplug_firmware_config::limits::SCHEMA_BYTES_MAX;
use serde_json::{Map, Value};

/// Most bytes of the grammar of one call's arguments, in which what is referred to stands once for each parameter that does so.
const BYTES_MAX: usize = 4 * SCHEMA_BYTES_MAX;
/// Most schemas within each other, references followed.
const LEVELS_MAX: usize = 64;
/// Most schemas that say which texts the parameters of a tool may be, references followed.
const SCHEMAS_MAX: usize = 4096;

/// What may still be read and written of a tool.
struct Left {
    schemas: usize,
    bytes: usize,
}

impl Left {
    fn read(&mut self) -> Result<(), &'static str> {
        let left = self.schemas.checked_sub(1);
        self.schemas = left.ok_or("refers to too many schemas")?;
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), &'static str> {
        let left = self.bytes.checked_sub(text.len());
        self.bytes = left.ok_or("allows texts that are too long together")?;
        Ok(())
    }
}

const ANY: &str = "/(?s:.*)/";
/// Numbers that every reader has exactly enough, where their schema asks nothing else of them.
const INTEGER: &str = r"/-?(0|[1-9][0-9]{0,15})/";
const NUMBER: &str = r"/-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?/";

/// The parameters of a tool with this schema and the tag behind them; its reader will go by the same `parameters`. Texts are terminals
/// of the grammar, which are put into `texts`: the number of one is a part of its name.
pub(super) fn grammar(
    schema: &Schema,
    parameters: &Parameters,
    texts: &mut Vec<String>,
) -> Result<String, SchemaError> {
    let map = schema.keywords();
    let root = Value::Object(map.clone());
    let none = Map::new();
    let properties = map.get("properties").and_then(Value::as_object);
    let properties = properties.unwrap_or(&none);
    let required = map.get("required").and_then(Value::as_array);
    let required = required.map_or(&[][..], Vec::as_slice);
    for (key, value) in map {
        let count = value.as_u64().unwrap_or(0) as usize;
        let enforced = match key.as_str() {
            "minProperties" => count <= required.len(),
            "maxProperties" => count >= properties.len(),
            // others than the named ones are not written
            "additionalProperties" | "patternProperties" => true,
            "type" | "properties" | "required" | "$defs" => true,
            _ => false,
        };
        if !enforced {
            return Err(refused(key, "is not enforced for arguments between tags"));
        }
    }
    let mut names = required.iter().filter_map(Value::as_str);
    if let Some(name) = names.find(|name| !properties.contains_key(*name)) {
        let message = format!("has `{name:.64}`, which is none of the `properties`");
        return Err(refused("required", message));
    }
    let mut left = Left {
        schemas: SCHEMAS_MAX,
        bytes: BYTES_MAX,
    };
    let mut grammar = String::new();
    for (key, value) in properties {
        let place = format!("properties.{key}");
        let is_required = required.iter().any(|name| name == key);
        if key.len() > KEY_MAX || key.contains('>') {
            let message = format!("must have at most {KEY_MAX} bytes and no `>` between tags");
            return Err(refused(&place, message));
        }
        if *value == Value::Bool(false) && !is_required {
            continue;
        }
        let takes = parameters.takes(key);
        let texts_of = match takes.text {
            true => text(value, &root, LEVELS_MAX, &mut left),
            false => Ok(None),
        };
        let value = texts_of.and_then(|text| of_value(schema, value, takes, text, texts));
        let value = value.map_err(|message| refused(&place, message))?;
        let open = Value::from(format!("{PARAMETER}{key}>\n"));
        grammar += &match is_required {
            true => format!("{open} {value} "),
            false => format!("({open} {value})? "),
        };
        if grammar.len() > BYTES_MAX {
            let message = format!("is beyond the {BYTES_MAX} bytes that arguments may take");
            return Err(refused(&place, message));
        }
    }
    Ok(grammar + &Value::from(FUNCTION_END).to_string())
}

fn refused(place: &str, message: impl Into<String>) -> SchemaError {
    SchemaError {
        place: place.to_owned(),
        message: message.into(),
    }
}

/// The value of one parameter and the tag behind it. `text`: the texts that it may be.
fn of_value(
    schema: &Schema,
    value: &Value,
    takes: Takes,
    text: Option<String>,
    texts: &mut Vec<String>,
) -> Result<String, &'static str> {
    let end = Value::from(format!("\n{PARAMETER_END}\n"));
    if takes.text && text.is_none() {
        // its reader would make a text of anything
        return Err("refers to too many schemas");
    }
    let text = match (text, number(value)) {
        (Some(text), _) => {
            let tag = PARAMETER_END.replace('/', r"\/");
            format!("(({text}) & ~/(?s:.*){tag}(?s:.*)/) {end}")
        }
        (None, Some(number)) => format!("{number} {end}"),
        (None, None) => return Ok(format!("%json {} {end}", schema.part(value).grammar())),
    };
    let at = texts.iter().position(|known| *known == text);
    let at = at.unwrap_or_else(|| {
        texts.push(text);
        texts.len() - 1
    });
    Ok(match takes.text && takes.null {
        true => format!("(TEXT_{at} | \"null\" {end})"),
        false => format!("TEXT_{at}"),
    })
}

/// The number that a schema allows, as a terminal, if it asks nothing but its type.
fn number(schema: &Value) -> Option<&'static str> {
    let map = schema.as_object().filter(|map| map.len() == 1)?;
    match map.get("type")?.as_str()? {
        "integer" => Some(INTEGER),
        "number" => Some(NUMBER),
        _ => None,
    }
}

/// The texts that a schema allows, as a terminal; none if it allows none.
fn text(
    schema: &Value,
    root: &Value,
    levels: usize,
    left: &mut Left,
) -> Result<Option<String>, &'static str> {
    left.read()?;
    let map = match schema {
        Value::Bool(true) => return Ok(Some(ANY.to_owned())),
        Value::Object(_) if levels == 0 => return Err("has too many schemas within each other"),
        Value::Object(map) => map,
        _ => return Ok(None),
    };
    let mut all = Vec::new();
    for (key, value) in map {
        let list = value.as_array().map_or(&[][..], Vec::as_slice);
        match key.as_str() {
            "type" if value != "string" && !list.iter().any(|one| one == "string") => {
                return Ok(None);
            }
            "const" | "enum" => {
                let list = if key == "const" {
                    std::slice::from_ref(value)
                } else {
                    list
                };
                let strings: Vec<&Value> = list.iter().filter(|one| one.is_string()).collect();
                if strings.is_empty() {
                    return Ok(None);
                }
                all.push(either(strings.into_iter()));
                left.write(&all[all.len() - 1])?;
            }
            "pattern" => {
                let pattern = value.as_str().unwrap_or_default();
                let pattern = pattern.trim_start_matches('^').trim_end_matches('$');
                all.push(format!("/{pattern}/"));
                left.write(&all[all.len() - 1])?;
            }
            "anyOf" | "oneOf" => {
                let mut one_of = Vec::new();
                for one in list {
                    one_of.extend(text(one, root, levels - 1, left)?);
                }
                if one_of.is_empty() {
                    return Ok(None);
                }
                let constants = list.iter().filter_map(|one| one.get("const"));
                let constants: Vec<&Value> = constants.filter(|one| one.is_string()).collect();
                let twice =
                    (constants.iter().enumerate()).any(|(at, one)| constants[..at].contains(one));
                if key == "oneOf" && one_of.len() > 1 && (twice || constants.len() < one_of.len()) {
                    return Err(
                        "is only enforced between tags where all texts of `oneOf` are constants",
                    );
                }
                all.push(either(one_of.iter()));
            }
            "allOf" => {
                for one in list {
                    match text(one, root, levels - 1, left)? {
                        Some(one) => all.push(one),
                        None => return Ok(None),
                    }
                }
            }
            // all arguments together are an object
            "$ref" if value == "#" => return Ok(None),
            "$ref" => {
                if let Some(found) = referred(value, root) {
                    match text(found, root, levels - 1, left)? {
                        Some(found) => all.push(found),
                        None => return Ok(None),
                    }
                }
            }
            _ => {}
        }
    }
    let length = |key: &str| map.get(key).and_then(Value::as_u64);
    match (length("minLength"), length("maxLength")) {
        (None, None) => {}
        (least, None) => all.push(format!("/(?s:.{{{},}})/", least.unwrap_or(0))),
        (least, Some(most)) => all.push(format!("/(?s:.{{{},{most}}})/", least.unwrap_or(0))),
    }
    Ok(Some(match all.is_empty() {
        true => ANY.to_owned(),
        false => all.join(" & "),
    }))
}

fn either(all: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = all.map(|one| one.to_string()).collect();
    format!("({})", all.join(" | "))
}
