//! Request and response of MQTT 5: what the properties of a request say about its reply, and which properties a reply
//! has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use glowplug_firmware_config::limits::ID_MAX;
use sha2::{Digest, Sha256};

use super::fault::{Code, Fault};
use super::topics::Topics;
use crate::hex::hex;
use crate::mqtt::{Lane, Outgoing, Properties, Publication, Qos};

/// Seconds that a broker may keep a reply for a client that is away: an old answer should never be spoken.
const REPLY_EXPIRY_S: u32 = 60;

/// Where and how the frames of one request go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// The client whose request it is; empty for an administrator.
    pub client: Arc<str>,
    /// A topic without wildcards, and never one that the daemon listens to.
    pub topic: String,
    /// Where the frames would go without the request's Response Topic.
    pub default_topic: Option<String>,
    pub qos: Qos,
    /// It is echoed byte for byte.
    pub correlation_data: Option<Bytes>,
    /// `application/json`, or `text/plain` for an `ask`
    pub content_type: &'static str,
    /// The number of a request that is on record until the broker has its last frame.
    pub record: Option<u64>,
}

impl ReplyTo {
    /// Makes a frame ready to be queued in a lane.
    #[must_use]
    pub fn outgoing(&self, frame: Bytes, lane: Lane) -> Outgoing {
        Outgoing {
            lane,
            client: self.client.clone(),
            message: self.message(frame),
            default_topic: self.default_topic.clone(),
            instead: false,
            token: self.record.filter(|_| lane == Lane::Last),
        }
    }

    /// Makes a frame a publication.
    #[must_use]
    pub fn message(&self, payload: Bytes) -> Publication {
        let properties = Properties {
            response_topic: None,
            correlation_data: self.correlation_data.clone(),
            expiry_s: Some(REPLY_EXPIRY_S),
            content_type: Some(self.content_type.to_owned()),
            utf8: true,
        };
        Publication {
            topic: self.topic.clone(),
            payload,
            qos: self.qos,
            retain: false,
            properties,
        }
    }
}

/// Decides where the frames of a request go. If its Response Topic or its Correlation Data is refused, they go to the
/// default topic, which is returned together with the fault.
#[allow(
    clippy::result_large_err,
    reason = "a refusal carries where it goes; made once a request"
)]
pub fn reply_to(
    message: &Publication,
    client: &str,
    default: String,
    content_type: &'static str,
    topics: &Topics,
    allow: &[String],
) -> Result<ReplyTo, (Fault, ReplyTo)> {
    let p = &message.properties;
    let mut reply = ReplyTo {
        client: client.into(),
        topic: default,
        default_topic: None,
        qos: message.qos,
        correlation_data: p.correlation_data.clone(),
        content_type,
        record: None,
    };
    if let Some(data) = reply.correlation_data.as_ref().filter(|d| d.len() > ID_MAX) {
        let why = format!(
            "Correlation Data has {} bytes, the limit is {ID_MAX}",
            data.len()
        );
        reply.correlation_data = None;
        return Err((Fault::invalid("correlation_data", why), reply));
    }
    match &p.response_topic {
        None => Ok(reply),
        Some(topic) if *topic == reply.topic => Ok(reply),
        Some(topic) => match topics.may_reply_on(client, topic, allow) {
            Ok(()) => Ok(ReplyTo {
                default_topic: Some(std::mem::replace(&mut reply.topic, topic.clone())),
                ..reply
            }),
            Err(why) => Err((Fault::new(Code::ResponseTopicDenied, why), reply)),
        },
    }
}

/// The id of a request whose body has none: its Correlation Data as text, or a text made of it.
#[must_use]
pub fn id_of(correlation_data: &Bytes) -> Option<String> {
    if correlation_data.is_empty() || correlation_data.len() > ID_MAX {
        return None;
    }
    match std::str::from_utf8(correlation_data) {
        Ok(text) if !text.chars().any(char::is_control) => Some(text.to_owned()),
        // hexadecimal takes two characters a byte
        _ if 2 * correlation_data.len() <= ID_MAX => Some(hex(correlation_data)),
        _ => Some(hex(&Sha256::digest(correlation_data))),
    }
}

/// How long a request may take from its arrival: as long as it says itself, else what the broker left of its Message
/// Expiry.
#[must_use]
pub fn deadline(deadline_ms: Option<u64>, expiry_s: Option<u32>) -> Option<Duration> {
    deadline_ms
        .map(Duration::from_millis)
        .or(expiry_s.map(|s| Duration::from_secs(u64::from(s))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn request(response_topic: Option<&str>, correlation: Option<&[u8]>) -> Publication {
        let mut m = Publication::new("b/n/chat/a/request", "", Qos::AtLeastOnce);
        m.properties.response_topic = response_topic.map(str::to_owned);
        m.properties.correlation_data = correlation.map(Bytes::copy_from_slice);
        m
    }

    #[allow(
        clippy::result_large_err,
        reason = "a refusal carries where it goes; made once a request"
    )]
    fn decide(m: &Publication) -> Result<ReplyTo, (Fault, ReplyTo)> {
        let topics = Topics::new("b", "n");
        reply_to(
            m,
            "a",
            topics.reply("a"),
            "application/json",
            &topics,
            &["apps".to_owned()],
        )
    }

    #[test]
    fn the_reply_goes_where_it_may() {
        assert_eq!(
            decide(&request(None, None)).unwrap().topic,
            "b/n/chat/a/reply"
        );
        assert_eq!(
            decide(&request(Some("b/n/chat/a/reply/7"), None))
                .unwrap()
                .topic,
            "b/n/chat/a/reply/7"
        );
        let elsewhere = decide(&request(Some("apps/x"), None)).unwrap();
        assert_eq!(elsewhere.topic, "apps/x");
        assert_eq!(elsewhere.default_topic.as_deref(), Some("b/n/chat/a/reply"));
        let named = decide(&request(Some("b/n/chat/a/reply"), None)).unwrap();
        assert_eq!(named.default_topic, None, "the same without a name");
        for denied in [
            "b/n/chat/b/reply",
            "b/n/chat/a/request",
            "$SYS/x",
            "#",
            "a/+",
            "",
            "elsewhere",
            "apps/\u{7}",
            "apps/\u{fffe}",
        ] {
            let (fault, reply) = decide(&request(Some(denied), Some(b"c"))).unwrap_err();
            assert_eq!(fault.code, Code::ResponseTopicDenied);
            assert_eq!(reply.topic, "b/n/chat/a/reply");
            assert_eq!(reply.correlation_data.as_deref(), Some(&b"c"[..]));
        }
    }

    #[test]
    fn correlation_data_is_echoed_up_to_its_limit() {
        let data = [0xff_u8; ID_MAX];
        let m = decide(&request(None, Some(&data)))
            .unwrap()
            .message(Bytes::from_static(b"{}"));
        assert_eq!(m.properties.correlation_data.as_deref(), Some(&data[..]));
        assert_eq!(
            (m.properties.expiry_s, m.properties.utf8, m.retain),
            (Some(60), true, false)
        );
        assert_eq!(
            m.properties.content_type.as_deref(),
            Some("application/json")
        );
        let (fault, reply) = decide(&request(None, Some(&[1; ID_MAX + 1]))).unwrap_err();
        assert_eq!(
            (fault.code, reply.correlation_data),
            (Code::InvalidRequest, None)
        );
    }

    #[test]
    fn every_correlation_data_makes_an_id_that_fits() {
        let id = |b: &[u8]| id_of(&Bytes::copy_from_slice(b));
        assert_eq!(id(b"job-7").as_deref(), Some("job-7"));
        assert_eq!(id(&[0xff, 0x01]).as_deref(), Some("ff01"));
        assert_eq!(id(b"a\n").as_deref(), Some("610a"));
        assert_eq!(id(b""), None);
        let (a, b) = (id(&[0xff; 40]).unwrap(), id(&[0xfe; 40]).unwrap());
        assert!(a.len() == ID_MAX && a != b);
    }

    #[test]
    fn the_body_beats_the_expiry() {
        assert_eq!(deadline(Some(5), Some(9)), Some(Duration::from_millis(5)));
        assert_eq!(deadline(None, Some(9)), Some(Duration::from_secs(9)));
        assert_eq!(deadline(None, None), None);
    }
}
