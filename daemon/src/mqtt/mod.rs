//! MQTT, as the rest of the daemon sees it: a [`Link`] to publish on and a stream of [`Event`]s. The client crate is
//! named in [`client`] alone and the embedded broker's in [`broker`] alone.
//!
//! ```text
//! server/cli --Link (outbox: room of its own per lane)--> sending task --> client crate --> broker
//!            --Link (acknowledgements)----------------->
//!        <--- Events (bounded in bytes) --------------- poll task <--
//! ```

pub(crate) mod broker;
mod client;

mod backoff;
mod flight;
mod outbox;
mod sender;

pub use client::Ack;
pub use outbox::{Lane, OUTBOX_BYTES, Outgoing};
pub use sender::connect;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use outbox::Outbox;

/// Largest packet we take from a broker and the embedded broker from a client: four times the largest payload that can
/// be configured, so that a payload over the limit is answered with `payload_too_large`. A packet above this never
/// reaches us: the broker drops it, or turns its sender away.
pub const PACKET_MAX: usize = 4 * glowplug_firmware_config::limits::PAYLOAD_MAX;

/// Bytes of messages that came in and were not read yet, at most. One more, of `payload_max`, is in its reader's hands.
#[must_use]
pub const fn intake_bytes(payload_max: usize) -> usize {
    payload_max + (1 << 20)
}

/// Bytes that MQTT may hold: one packet on its way in, what came in and was not read, the message that is being read, the
/// outbox, and the embedded broker where it is used. The outbox holds more only when the last frames of requests that were
/// accepted before it was full are long.
#[must_use]
pub const fn bytes(payload_max: usize, embedded: bool) -> usize {
    let broker = if embedded {
        broker::bytes(payload_max)
    } else {
        0
    };
    PACKET_MAX + intake_bytes(payload_max) + payload_max + OUTBOX_BYTES + broker
}

/// Quality of service; 2 is not offered (`protocol.md` needs none of it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// 0
    AtMostOnce,
    /// 1
    AtLeastOnce,
}

/// The MQTT 5 properties the protocol uses; all empty for a 3.1.1 sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// where the sender wants its reply
    pub response_topic: Option<String>,
    /// the sender's own mark, echoed
    pub correlation_data: Option<Bytes>,
    /// seconds, already counted down by the broker
    pub expiry_s: Option<u32>,
    /// MIME type
    pub content_type: Option<String>,
    /// Payload Format Indicator 1
    pub utf8: bool,
}

/// One application message, either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// no wildcards
    pub topic: String,
    /// any bytes
    pub payload: Bytes,
    /// 0 or 1
    pub qos: Qos,
    /// out: to be kept by the broker; in: was kept by the broker
    pub retain: bool,
    /// MQTT 5
    pub properties: Properties,
}

impl Publication {
    /// A message without properties, not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>, qos: Qos) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain: false,
            properties: Properties::default(),
        }
    }
}

/// A message that came in.
#[derive(Debug)]
pub struct Incoming {
    /// what; the payload is empty when `oversize` says how long it was
    pub message: Publication,
    /// bytes of a payload above [`Options::payload_max`], which was dropped on arrival
    pub oversize: Option<usize>,
    /// QoS 1: to be handed to [`Link::ack`] once the message is accepted or refused
    pub ack: Option<Ack>,
}

/// What happens on a link.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every event is a message")]
pub enum Event {
    /// connected, and every subscription asked for; again after each reconnection
    Up {
        /// bytes of the largest packet the broker takes from us
        packet_max: usize,
    },
    /// the broker refuses a subscription; it is asked for again, more and more rarely
    Unsubscribed {
        /// which
        filter: String,
        /// in the broker's words
        reason: String,
    },
    /// the broker does not take a message, and never will: it is given up
    Refused(Box<Outgoing>, Refusal),
    /// the connection is gone or could not be made; another attempt follows
    Down {
        /// for the log
        reason: String,
        /// the broker said no (credentials): waiting will not help
        refused: bool,
    },
    /// the same, after [`Link::leave`], or soon after coming back from it; what was to be sent is dropped
    Left {
        /// until the next attempt
        pause: std::time::Duration,
    },
    /// something arrived
    Incoming(Incoming),
}

/// Why the broker does not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// its size
    TooLarge,
    /// we may not publish on its topic
    Denied,
    /// its topic cannot be published on
    Topic,
    /// a quota of the broker's is used up
    Quota,
    /// the connection ends each time that it is sent
    Closed,
    /// something else
    Other,
}

impl Refusal {
    /// As it is counted.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "broker_too_large",
            Self::Denied => "broker_denied",
            Self::Topic => "broker_topic",
            Self::Quota => "broker_quota",
            Self::Closed => "broker_closed",
            Self::Other => "broker_other",
        }
    }

    /// Would the same be taken on another topic?
    #[must_use]
    pub fn is_for_the_topic(self) -> bool {
        matches!(self, Self::Denied | Self::Topic | Self::Closed)
    }
}

/// User name and password for a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// user
    pub username: String,
    /// password
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// the broker
    pub server: crate::config::Server,
    /// the MQTT client identifier
    pub client_id: String,
    /// none: anonymous
    pub credentials: Option<Credentials>,
    /// last will
    pub will: Option<Publication>,
    /// asked for at every connection
    pub subscriptions: Vec<(String, Qos)>,
    /// longer payloads arrive as [`Incoming::oversize`]
    pub payload_max: usize,
}

/// The room of its lane is taken; nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages are waiting to be sent")]
pub struct Full;

/// The sending side. Cheap to clone; the connection ends when [`Link::close`] is called or the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    outbox: Arc<Outbox>,
    acks: mpsc::Sender<Ack>,
    commands: mpsc::Sender<Goodbye>,
}

/// An event, and the room in memory that it takes until it is read.
type Held = (Event, Option<OwnedSemaphorePermit>);
type EventSender = mpsc::Sender<Held>;

/// The receiving side.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Held>);

impl Events {
    /// The next one; none: the link has ended. Its bytes count as read from here on.
    pub async fn recv(&mut self) -> Option<Event> {
        self.0.recv().await.map(|(event, _)| event)
    }
}

#[derive(Debug)]
enum Goodbye {
    Leave,
    Close(tokio::sync::oneshot::Sender<()>),
}

impl Link {
    /// Queues a message. It is kept and sent again until the broker has it (QoS 1) or the socket took it (QoS 0), or
    /// until it comes back as [`Event::Refused`].
    pub fn publish(&self, out: Outgoing) -> Result<(), Full> {
        self.outbox.push(out)
    }

    /// Acknowledges a QoS 1 message on the connection it came by; on a later one it is forgotten, as the broker forgot
    /// the message. There is room for as many as the broker may send before the first is acknowledged: an error means
    /// that it sent more.
    pub fn ack(&self, ack: Ack) -> Result<(), Full> {
        if ack.is_of(self.outbox.connection()) {
            self.acks.try_send(ack).map_err(|_| Full)
        } else {
            Ok(())
        }
    }

    /// Messages of a lane that can be queued now.
    #[must_use]
    pub fn room(&self, lane: Lane) -> usize {
        self.outbox.room(lane)
    }

    /// Goes away without a word (the will is not published), drops what is queued, and comes back after a pause, which is
    /// a longer one each time: another one has our name.
    pub fn leave(&self) {
        // full: it was asked to already
        let _ = self.commands.try_send(Goodbye::Leave);
    }

    /// Sends what is queued, disconnects cleanly (the will is not published) and ends; gives up after `limit`.
    pub async fn close(self, limit: std::time::Duration) {
        let (done, closed) = tokio::sync::oneshot::channel();
        let close = async {
            if self.commands.send(Goodbye::Close(done)).await.is_ok() {
                // an error means the task is gone, which is what was wanted
                let _ = closed.await;
            }
        };
        let _ = tokio::time::timeout(limit, close).await;
    }
}

#[cfg(test)]
mod tests;
