//! The admin verbs: what they ask for, and their answers. Who may ask is decided by the broker's rules for the topics.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chat::reply::{ErrorBody, encode};
use super::fault::Fault;
use super::properties::ReplyTo;
use super::topics::valid_segment;

/// Longest name of a model in bytes; it is the name of a file.
const NAME_MAX: usize = 255;

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admin {
    /// The numbers of `metrics`, and those since the start.
    Stats,
    /// Serve the model of this name. None: say which one is served.
    Model(Option<String>),
    /// Load the model again from the file as it is now.
    Reload,
    /// Take nothing more, and say when everything that was accepted has ended.
    Drain,
    /// Forget everything of this client.
    Forget(String),
    /// Refuse changes of the model from now on, or allow them again. None: say which of the two holds.
    Inhibit(Option<bool>),
}

impl Admin {
    /// The verb's name in a topic.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Stats => "stats",
            Self::Model(_) => "model",
            Self::Reload => "reload",
            Self::Drain => "drain",
            Self::Forget(_) => "forget",
            Self::Inhibit(_) => "inhibit",
        }
    }
}

/// The asker's own mark, which is echoed: a text, a number, or none.
pub type Transaction = Option<Value>;

/// Who asked, and how the answer is recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct Asker {
    pub to: ReplyTo,
    pub verb: &'static str,
    pub transaction: Transaction,
}

impl Asker {
    /// Encodes the answer `{"transaction", "<verb>": result}`.
    #[must_use]
    pub fn done(&self, result: &Value) -> Bytes {
        encode(&json!({"transaction": self.transaction, self.verb: result}))
    }

    /// Encodes the answer `{"transaction", "error"}`.
    #[must_use]
    pub fn refused(&self, fault: &Fault) -> Bytes {
        refused(&self.transaction, fault)
    }
}

/// Encodes the error for a request that was not understood, so that there is no [`Asker`].
#[must_use]
pub fn refused(transaction: &Transaction, fault: &Fault) -> Bytes {
    encode(&json!({"transaction": transaction, "error": ErrorBody::of(fault)}))
}

/// Reads a payload. An empty one is an object without fields.
///
/// # Errors
/// `invalid_request` with the field at fault, and the transaction if it can be read.
#[allow(
    clippy::result_large_err,
    reason = "a refusal carries its transaction; made once a verb"
)]
pub fn parse(verb: &str, payload: &[u8]) -> Result<(Admin, Transaction), (Fault, Transaction)> {
    let mut body: Map<String, Value> = if payload.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(payload)
            .map_err(|error| (Fault::invalid("", error.to_string()), None))?
    };
    let transaction = match body.remove("transaction") {
        Some(Value::String(text)) if text.len() > 64 => Err(()),
        Some(mark @ (Value::String(_) | Value::Number(_))) => Ok(Some(mark)),
        Some(Value::Null) | None => Ok(None),
        Some(_) => Err(()),
    };
    let transaction = transaction.map_err(|()| {
        let why = "a transaction is a text of at most 64 bytes or a number";
        (Fault::invalid("transaction", why), None)
    })?;
    match fields(verb, body) {
        Ok(admin) => Ok((admin, transaction)),
        Err(fault) => Err((fault, transaction)),
    }
}

fn fields(verb: &str, mut body: Map<String, Value>) -> Result<Admin, Fault> {
    let admin =
        match verb {
            "stats" => Admin::Stats,
            "model" => Admin::Model(name(field(&mut body, "name")?)?),
            "reload" => Admin::Reload,
            "drain" => Admin::Drain,
            "forget" => {
                let client: Option<String> = field(&mut body, "client")?;
                let client = client.filter(|client| valid_segment(client));
                Admin::Forget(client.ok_or_else(|| {
                    Fault::invalid("client", "must be a client's segment of a topic")
                })?)
            }
            "inhibit" => Admin::Inhibit(field(&mut body, "on")?),
            _ => {
                let known = "`model`, `reload`, `drain`, `stats`, `forget` and `inhibit`";
                return Err(Fault::invalid("", format!("the admin verbs are {known}")));
            }
        };
    match body.keys().next() {
        Some(unknown) => Err(Fault::invalid(unknown, "unknown field")),
        None => Ok(admin),
    }
}

fn field<T: for<'de> Deserialize<'de>>(
    body: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, Fault> {
    let value = body.remove(name).unwrap_or_default();
    serde_json::from_value(value).map_err(|error| Fault::invalid(name, error.to_string()))
}

/// Checks that a name is no path, so that it cannot say where on the disk a model is.
fn name(name: Option<String>) -> Result<Option<String>, Fault> {
    match name {
        Some(name)
            if name.is_empty()
                || name.len() > NAME_MAX
                || name.starts_with('.')
                || name.contains(['/', '\\', '\0']) =>
        {
            let why =
                format!("must be the name of a file without a path, of at most {NAME_MAX} bytes");
            Err(Fault::invalid("name", why))
        }
        name => Ok(name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::result_large_err)]
mod tests {
    use super::*;
    use crate::wire::fault::Code;
    use glowplug_tests::world::contract::CONTRACT;

    /// The name of a schema of the document, as `AdminModelRequest`.
    fn schema(verb: &str, end: &str) -> String {
        format!("Admin{}{}{end}", verb[..1].to_uppercase(), &verb[1..])
    }

    fn asked(verb: &str, payload: &str) -> Result<(Admin, Option<Value>), (Fault, Option<Value>)> {
        let told = serde_json::from_str(payload)
            .map_err(|error| error.to_string())
            .and_then(|body| CONTRACT.fits(&schema(verb, "Request"), &body));
        let parsed = parse(verb, payload.as_bytes());
        // what the document rejects is refused, and here the other way round; an empty payload is a message of its own
        assert_eq!(
            parsed.is_ok(),
            told.is_ok() || payload.is_empty(),
            "{told:?}"
        );
        let (admin, mark) = parsed?;
        assert_eq!(admin.verb(), verb);
        Ok((admin, mark))
    }

    #[test]
    fn every_verb_is_read() {
        for (verb, payload, admin) in [
            ("stats", "", Admin::Stats),
            ("stats", "{}", Admin::Stats),
            ("model", "", Admin::Model(None)),
            (
                "model",
                r#"{"name":"b.gguf"}"#,
                Admin::Model(Some("b.gguf".into())),
            ),
            ("reload", "", Admin::Reload),
            ("drain", "{}", Admin::Drain),
            ("forget", r#"{"client":"a.b"}"#, Admin::Forget("a.b".into())),
            ("inhibit", r#"{"on":true}"#, Admin::Inhibit(Some(true))),
            ("inhibit", "", Admin::Inhibit(None)),
        ] {
            assert_eq!(asked(verb, payload), Ok((admin, None)), "{verb} {payload}");
        }
        let (_, mark) = asked(
            "drain",
            r#"{"transaction":[7][0]}"#.replace("[7][0]", "7").as_str(),
        )
        .unwrap();
        assert_eq!(mark, Some(7.into()));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_transaction_comes_back() {
        let long = format!(r#"{{"transaction":"{}"}}"#, "x".repeat(65));
        for (verb, payload, param) in [
            ("stats", "[]", None),
            ("stats", long.as_str(), Some("transaction")),
            ("stats", r#"{"transaction":{}}"#, Some("transaction")),
            (
                "stats",
                r#"{"transaction":"t","client":"a"}"#,
                Some("client"),
            ),
            ("model", r#"{"transaction":"t","name":7}"#, Some("name")),
            (
                "model",
                r#"{"transaction":"t","name":"../x"}"#,
                Some("name"),
            ),
            ("model", r#"{"transaction":"t","name":".x"}"#, Some("name")),
            ("model", r#"{"transaction":"t","name":""}"#, Some("name")),
            ("forget", r#"{"transaction":"t"}"#, Some("client")),
            (
                "forget",
                r#"{"transaction":"t","client":"a/b"}"#,
                Some("client"),
            ),
            ("inhibit", r#"{"transaction":"t","on":1}"#, Some("on")),
            ("reboot", r#"{"transaction":"t"}"#, None),
        ] {
            let (fault, mark) = asked(verb, payload).unwrap_err();
            assert_eq!(fault.param.as_deref(), param, "{verb} {payload}");
            assert_eq!(
                mark.is_some(),
                payload.contains(r#""t""#),
                "{verb} {payload}"
            );
        }
    }

    #[test]
    fn answers_carry_the_verb_and_the_transaction() {
        let asker = |verb| Asker {
            to: ReplyTo {
                client: "".into(),
                default_topic: None,
                topic: "t".into(),
                qos: crate::mqtt::Qos::AtLeastOnce,
                correlation_data: None,
                content_type: "application/json",
                record: None,
            },
            verb,
            transaction: Some("t".into()),
        };
        let value = |frame: Bytes| serde_json::from_slice::<Value>(&frame).unwrap();
        let done = value(asker("inhibit").done(&json!({"on": true})));
        assert_eq!(done, json!({"inhibit": {"on": true}, "transaction": "t"}));
        let refused = value(asker("inhibit").refused(&Fault::invalid("on", "no")));
        assert_eq!(refused["error"]["param"], "on");
        assert_eq!(refused["transaction"], "t");

        let every = Code::ALL.map(|code| {
            let fault = Fault::new(code, "no").retry_after(7);
            let param = Some("on".to_owned());
            value(asker("inhibit").refused(&Fault { param, ..fault }))
        });
        for (verb, result) in [
            ("inhibit", json!({"on": true})),
            ("drain", json!({"state": "draining"})),
            ("forget", json!({"client": "a", "sessions": 2})),
        ] {
            let mut frames = every.to_vec();
            frames.push(value(asker(verb).done(&result)));
            CONTRACT.wrote(&schema(verb, "Response"), &frames);
        }
    }
}
