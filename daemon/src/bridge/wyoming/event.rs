//! Wyoming's events as bytes: a line of JSON that says how long data and payload are, the data, the payload.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Longest line of an event, in bytes. Data may be in it.
pub const LINE_MAX: usize = 64 * 1024;

/// Longest data of an event, in bytes.
pub const DATA_MAX: usize = 64 * 1024;

/// Longest payload, in bytes. A payload is sound, of which nothing is wanted here, and passed over as it comes.
pub const PAYLOAD_MAX: usize = 1024 * 1024;

/// One event, without its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: String,
    pub data: Map<String, Value>,
}

/// Why bytes are no event. After it nothing of the connection can be read any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("the line of an event has more than {LINE_MAX} bytes")]
    Line,
    #[error("`{field}` is {length}, the limit is {limit}")]
    Long {
        field: &'static str,
        length: usize,
        limit: usize,
    },
    #[error("not an event: {0}")]
    Json(String),
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "type")]
    kind: String,
    data: Option<Map<String, Value>>,
    data_length: Option<usize>,
    payload_length: Option<usize>,
}

/// Puts events together from bytes as they come.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How many bytes were looked at for the end of a line.
    looked: usize,
    /// The header whose data is still to come.
    header: Option<Header>,
    /// Bytes of a payload that are still to come.
    payload: usize,
}

impl Decoder {
    /// Adds bytes. What of them belongs to a payload is not kept.
    pub fn push(&mut self, bytes: &[u8]) {
        let passed = self.payload.min(bytes.len());
        self.payload -= passed;
        self.bytes.extend_from_slice(&bytes[passed..]);
    }

    /// The next event, if all of it is there.
    ///
    /// # Errors
    /// What has come is not the beginning of an event.
    pub fn event(&mut self) -> Result<Option<Event>, EventError> {
        if self.header.is_none() {
            let line = self.bytes[self.looked..]
                .iter()
                .position(|byte| *byte == b'\n');
            let Some(end) = line.map(|end| self.looked + end) else {
                self.looked = self.bytes.len();
                return if self.looked > LINE_MAX {
                    Err(EventError::Line)
                } else {
                    Ok(None)
                };
            };
            if end > LINE_MAX {
                return Err(EventError::Line);
            }
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.looked = 0;
            self.header = Some(header(&line)?);
        }
        let length = |header: &Header| header.data_length.unwrap_or(0);
        let Some(mut header) = self
            .header
            .take_if(|header| length(header) <= self.bytes.len())
        else {
            return Ok(None);
        };
        let mut data = header.data.take().unwrap_or_default();
        let rest: Vec<u8> = self.bytes.drain(..length(&header)).collect();
        if !rest.is_empty() {
            let rest: Map<String, Value> =
                serde_json::from_slice(&rest).map_err(|why| EventError::Json(why.to_string()))?;
            data.extend(rest);
        }
        // what of the payload is there goes, the rest goes as it comes
        let payload = header.payload_length.unwrap_or(0);
        let here = payload.min(self.bytes.len());
        self.bytes.drain(..here);
        self.payload = payload - here;
        Ok(Some(Event {
            kind: header.kind,
            data,
        }))
    }
}

fn header(line: &[u8]) -> Result<Header, EventError> {
    let header: Header =
        serde_json::from_slice(line).map_err(|why| EventError::Json(why.to_string()))?;
    for (field, length, limit) in [
        ("data_length", header.data_length, DATA_MAX),
        ("payload_length", header.payload_length, PAYLOAD_MAX),
    ] {
        if let Some(length) = length.filter(|length| *length > limit) {
            return Err(EventError::Long {
                field,
                length,
                limit,
            });
        }
    }
    Ok(header)
}

/// An event as bytes.
#[must_use]
pub fn encode(kind: &str, data: &Value) -> Vec<u8> {
    let data = data.to_string();
    let header = json!({ "type": kind, "data_length": data.len() });
    format!("{header}\n{data}").into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(decoder: &mut Decoder) -> Result<Vec<Event>, EventError> {
        let mut events = Vec::new();
        while let Some(event) = decoder.event()? {
            events.push(event);
        }
        Ok(events)
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<Event>, EventError> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        all(&mut decoder)
    }

    #[test]
    fn data_stands_in_the_line_or_behind_it() {
        let event = |kind: &str, data: Value| Event {
            kind: kind.into(),
            data: data.as_object().unwrap().clone(),
        };
        let bytes = b"{\"type\":\"describe\"}\n\
            {\"type\":\"a\",\"data\":{\"x\":1,\"y\":1},\"data_length\":7,\"payload_length\":3,\"version\":\"1\"}\n{\"y\":2}\n\n\n\
            {\"type\":\"b\",\"data\":null,\"data_length\":0,\"payload_length\":null}\n";
        let expected = [
            event("describe", json!({})),
            event("a", json!({ "x": 1, "y": 2 })),
            event("b", json!({})),
        ];
        assert_eq!(decoded(bytes).unwrap(), expected);
        let own = encode("handled", &json!({ "text": "ä\n" }));
        assert_eq!(
            decoded(&own).unwrap(),
            [event("handled", json!({ "text": "ä\n" }))]
        );
    }

    #[test]
    fn what_is_no_event_is_said() {
        let long = |field: &'static str, limit| EventError::Long {
            field,
            length: limit + 1,
            limit,
        };
        let table = [
            (
                format!("{{\"type\":\"a\",\"data_length\":{}}}\n", DATA_MAX + 1),
                long("data_length", DATA_MAX),
            ),
            (
                format!(
                    "{{\"type\":\"a\",\"payload_length\":{}}}\n",
                    PAYLOAD_MAX + 1
                ),
                long("payload_length", PAYLOAD_MAX),
            ),
            (" ".repeat(LINE_MAX + 1), EventError::Line),
            (format!("{}\n", " ".repeat(LINE_MAX + 1)), EventError::Line),
        ];
        for (bytes, error) in table {
            assert_eq!(decoded(bytes.as_bytes()).unwrap_err(), error);
        }
        for bytes in [
            "\n",
            "GET / HTTP/1.1\r\n",
            "{}\n",
            "{\"type\":1}\n",
            "{\"type\":\"a\",\"data_length\":2}\n[]",
        ] {
            let error = decoded(bytes.as_bytes()).unwrap_err();
            assert!(matches!(error, EventError::Json(_)), "{bytes}: {error}");
        }
        // at the bounds
        let data = format!("{{\"t\":\"{}\"}}", "x".repeat(DATA_MAX - 8));
        let bytes = format!(
            "{{\"type\":\"a\",\"data_length\":{DATA_MAX},\"payload_length\":{PAYLOAD_MAX}}}\n{data}"
        );
        assert_eq!(decoded(bytes.as_bytes()).unwrap().len(), 1);
        let line = "{\"type\":\"a\"}";
        let line = format!("{line}{}\n", " ".repeat(LINE_MAX - line.len()));
        assert_eq!(decoded(line.as_bytes()).unwrap().len(), 1);
    }

    proptest! {
        /// However the bytes are cut on their way, they are the same events.
        #[test]
        fn any_cut_gives_the_same_events(
            events in prop::collection::vec(("[a-z-]{1,8}", ".{0,20}", 0..40_usize), 0..6),
            cuts in prop::collection::vec(1..30_usize, 1..40),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (kind, text, payload) in &events {
                let data = json!({ "text": text });
                let body = data.to_string();
                let header = json!({ "type": kind, "data_length": body.len(), "payload_length": payload });
                bytes.extend_from_slice(format!("{header}\n{body}").as_bytes());
                bytes.resize(bytes.len() + payload, b'\n');
                expected.push(Event { kind: kind.clone(), data: data.as_object().unwrap().clone() });
            }
            let (mut decoder, mut found, mut rest) = (Decoder::default(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                found.extend(all(&mut decoder).unwrap());
                rest = later;
            }
            prop_assert_eq!(found, expected);
            prop_assert!(decoder.bytes.is_empty() && decoder.payload == 0);
        }
    }
}
