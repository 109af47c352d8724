//! MQTT, as the rest of the daemon sees it: a [`Link`] to publish on and a stream of [`Event`]s. The client crate is
//! named in [`client`] alone and the embedded broker's in [`broker`] alone.
//!
//! ```text
//! server/cli --Link (bounded queue = the outbox)--> outbox task --> client crate --> broker
//!        <--- Events (bounded) ---------------------- poll task <--
//! ```

pub mod broker;
pub mod client;
pub mod credentials;
mod framing;
mod listener;
mod relay;
mod sessions;

pub use client::connect;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Largest packet we take from a broker and the embedded broker from a client: four times the largest payload that can
/// be configured, so that a payload over the limit is answered with `payload_too_large`. A packet above this never
/// reaches us: the broker drops it, or turns its sender away.
pub const PACKET_MAX: usize = 4 * glowplug_firmware_config::limits::PAYLOAD_MAX;
/// Messages waiting in a [`Link`], in all.
pub const OUTBOX: usize = 512;

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
pub struct Message {
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

impl Message {
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
    pub message: Message,
    /// bytes of a payload above [`Options::payload_max`], which was dropped on arrival
    pub oversize: Option<usize>,
    /// QoS 1: to be handed to [`Link::ack`] once the message is accepted or refused
    pub ack: Option<Ack>,
}

/// The right to acknowledge one QoS 1 message on the connection it came by.
#[derive(Debug)]
pub struct Ack(client::PendingAck);

/// What happens on a link.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every event is a message")]
pub enum Event {
    /// connected and every subscription granted; again after each reconnection
    Up {
        /// bytes of the largest packet the broker takes from us
        packet_max: usize,
    },
    /// the connection is gone or could not be made; another attempt follows
    Down {
        /// for the log
        reason: String,
        /// the broker said no (credentials, ACL): waiting will not help
        refused: bool,
    },
    /// something arrived
    Message(Incoming),
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
    pub will: Option<Message>,
    /// asked for at every connection
    pub subscriptions: Vec<(String, Qos)>,
    /// longer payloads arrive as [`Incoming::oversize`]
    pub payload_max: usize,
}

/// The queue was full; nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{OUTBOX} messages are waiting to be sent")]
pub struct Full;

/// The sending side. Cheap to clone; the connection ends when [`Link::close`] is called or the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    commands: mpsc::Sender<Command>,
}

/// The receiving side.
pub type Events = mpsc::Receiver<Event>;

#[derive(Debug)]
enum Command {
    Publish(Message),
    Ack(Ack),
    Close(tokio::sync::oneshot::Sender<()>),
}

impl Link {
    /// Queues a message. It is kept and sent again until the broker has it (QoS 1) or the socket took it (QoS 0).
    pub fn publish(&self, message: Message) -> Result<(), Full> {
        self.commands
            .try_send(Command::Publish(message))
            .map_err(|_| Full)
    }

    /// Acknowledges a QoS 1 message. Meant for the connection it came by; on a later one it is forgotten, as the
    /// broker forgot the message. When the queue is full the broker will not hear of it, and sends nothing more
    /// for a while: that is flow control, not loss.
    pub fn ack(&self, ack: Ack) -> Result<(), Full> {
        self.commands.try_send(Command::Ack(ack)).map_err(|_| Full)
    }

    /// Messages that can be queued now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.commands.capacity()
    }

    /// Sends what is queued, disconnects cleanly (the will is not published) and ends; gives up after `limit`.
    pub async fn close(self, limit: std::time::Duration) {
        let (done, closed) = tokio::sync::oneshot::channel();
        let close = async {
            if self.commands.send(Command::Close(done)).await.is_ok() {
                // an error means the task is gone, which is what was wanted
                let _ = closed.await;
            }
        };
        let _ = tokio::time::timeout(limit, close).await;
    }
}

#[cfg(test)]
mod tests;
