//! MQTT, as the rest of the daemon sees it: a [`Link`] to publish on and a stream of [`Event`]s. The client crate is
//! named in `client` alone and the embedded broker's in `broker` alone.
//!
//! ```text
//! server/cli --Link (outbox: room of its own per lane)--> sending task --> client crate --> broker
//!            --Link (acknowledgements)----------------->
//!        <--- Events (bounded in bytes) --------------- poll task <--
//! ```

pub(crate) mod broker;
mod client;

mod backoff;
mod dial;
mod flight;
mod journal;
mod outbox;
mod outcome;
mod sender;
mod silence;
mod tls;

pub use client::Ack;
pub use journal::Journal;
pub use outbox::{Lane, OUTBOX_BYTES, Outgoing};
pub use sender::connect;
pub use tls::FileError;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use outbox::Outbox;

/// The largest packet that we take from a broker, and that the embedded broker takes from a client. It is four times
/// the largest payload that can be configured, so that a payload over the limit can still be answered with
/// `payload_too_large`. A larger packet never reaches us: the broker drops it or turns its sender away.
pub const PACKET_MAX: usize = 4 * glowplug_firmware_config::limits::PAYLOAD_MAX;

/// Most bytes of publications that came in and were not read yet. One more, of up to `payload_max`, is in its reader's
/// hands.
#[must_use]
pub const fn intake_bytes(payload_max: usize) -> usize {
    payload_max + (1 << 20)
}

/// Bytes that MQTT may hold: one packet on its way in, what came in and was not read, the publication that is being
/// read, the outbox, and the embedded broker where it is used. `tls` says whether that one speaks TLS, or else the
/// connection to another broker. The outbox holds more only when the last frames of requests that were accepted before
/// it was full are long. `read_max` is the longest payload that is read, and `payload_max` the longest request.
#[must_use]
pub const fn bytes(read_max: usize, payload_max: usize, embedded: bool, tls: bool) -> usize {
    let broker = match (embedded, tls) {
        (true, _) => broker::bytes(payload_max, tls),
        (false, true) => tls::BYTES,
        (false, false) => 0,
    };
    PACKET_MAX + intake_bytes(read_max) + read_max + OUTBOX_BYTES + broker
}

/// Quality of service. QoS 2 is not offered, because the protocol does not need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
}

/// The MQTT 5 properties that the protocol uses. They are all empty when the sender speaks 3.1.1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Where the sender wants its reply.
    pub response_topic: Option<String>,
    /// The sender's own mark, which is echoed.
    pub correlation_data: Option<Bytes>,
    /// Seconds; the broker has already subtracted the time that it kept the publication.
    pub expiry_s: Option<u32>,
    pub content_type: Option<String>,
    /// Whether the Payload Format Indicator is 1.
    pub utf8: bool,
}

/// One application message of MQTT, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    /// Outgoing: the broker is asked to keep it. Incoming: the broker had kept it.
    pub retain: bool,
    pub properties: Properties,
}

impl Publication {
    /// A publication without properties, not retained.
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

/// A publication that came in.
#[derive(Debug)]
pub struct Incoming {
    /// Its payload is empty if `oversize` says how long it was.
    pub message: Publication,
    /// Length of a payload above [`Options::payload_max`], which was dropped on arrival.
    pub oversize: Option<usize>,
    /// With QoS 1: hand it to [`Link::ack`] once the request is accepted or refused.
    pub ack: Option<Ack>,
}

/// What happens on a link.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every event is a message")]
pub enum Event {
    /// We are connected, and every subscription was asked for. Comes again after each reconnection.
    Up {
        /// Bytes of the largest packet that the broker takes from us.
        packet_max: usize,
        /// Whether it has shared subscriptions.
        shared: bool,
    },
    /// The broker refuses a subscription. It is asked for again, at growing intervals.
    Unsubscribed {
        filter: String,
        /// The reason in the broker's words.
        reason: String,
    },
    /// The broker has granted a subscription that [`Link::subscribe`] asked for, or has refused it.
    Subscribed {
        token: u64,
        filter: String,
        /// The reason in the broker's words.
        refused: Option<String>,
    },
    /// The broker has taken a subscription back. What it had sent before has come in.
    Withdrawn { filter: String },
    /// The broker has the publication of this lane and this token.
    Delivered(Lane, u64),
    /// The broker will never take this publication, so it is given up.
    Refused(Box<Outgoing>, Rejection),
    /// The connection is gone or could not be made. Another attempt follows.
    Down {
        reason: String,
        /// The broker refuses our credentials, so waiting will not help.
        refused: bool,
    },
    /// We went away after [`Link::leave`], or soon after coming back from it. What was to be sent is dropped.
    Left {
        /// How long it is until the next attempt.
        pause: std::time::Duration,
    },
    /// A publication came in.
    Incoming(Incoming),
}

/// Why the broker does not take a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    TooLarge,
    /// We may not publish on its topic.
    Denied,
    /// Nobody can publish on its topic.
    Topic,
    /// A quota of the broker is used up.
    Quota,
    /// The connection ends each time that it is sent.
    Closed,
    /// The connection ended, and it is none that may be sent twice.
    Lost,
    /// Nobody subscribes to its topic, which is a tool's.
    Unheard,
    Other,
}

impl Rejection {
    /// The name under which `metrics` counts it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "broker_too_large",
            Self::Denied => "broker_denied",
            Self::Topic => "broker_topic",
            Self::Quota => "broker_quota",
            Self::Closed => "broker_closed",
            Self::Lost => "connection_lost",
            Self::Unheard => "unheard",
            Self::Other => "broker_other",
        }
    }

    /// Whether the broker might take the same payload on another topic.
    #[must_use]
    pub fn is_for_the_topic(self) -> bool {
        matches!(self, Self::Denied | Self::Topic | Self::Closed)
    }
}

/// User name and password for a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub server: crate::config::BrokerAddress,
    /// What counts where the server's address says TLS.
    pub tls: crate::config::Tls,
    pub client_id: String,
    /// Without credentials the daemon connects as an anonymous user.
    pub credentials: Option<Credentials>,
    pub will: Option<Publication>,
    /// Filters that are subscribed to at every connection.
    pub subscriptions: Vec<(String, Qos)>,
    /// Longer payloads arrive as [`Incoming::oversize`].
    pub payload_max: usize,
}

/// There is no room left in the lane; nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages are waiting to be sent")]
pub struct Full;

/// The sending side of a link. It is cheap to clone; the connection ends when [`Link::close`] is called or the last
/// clone is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    outbox: Arc<Outbox>,
    acks: mpsc::Sender<Ack>,
    wishes: mpsc::Sender<Wish>,
    commands: mpsc::Sender<Goodbye>,
}

/// A change of what is subscribed to on this connection.
#[derive(Debug)]
enum Wish {
    Subscribe {
        token: u64,
        filter: String,
        as_published: bool,
    },
    Unsubscribe(String),
}

/// An event, and the room in memory that it takes until it is read.
type Held = (Event, Option<OwnedSemaphorePermit>);
type EventSender = mpsc::Sender<Held>;

/// The receiving side of a link.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Held>);

impl Events {
    /// The next event; none when the link has ended. From here on its bytes no longer count as unread.
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
    /// Queues a publication. It is kept and sent again until the broker has it (QoS 1) or the socket took it (QoS 0),
    /// or until it comes back as [`Event::Refused`].
    pub fn publish(&self, out: Outgoing) -> Result<(), Full> {
        self.outbox.push(out)
    }

    /// Acknowledges a QoS 1 publication on the connection that it came by. On a later connection this does nothing,
    /// because the broker will send the publication again. There is room for as many as the broker may send before the
    /// first is acknowledged; an error means that it sent more.
    pub fn ack(&self, ack: Ack) -> Result<(), Full> {
        if ack.is_of(self.outbox.connection()) {
            self.acks.try_send(ack).map_err(|_| Full)
        } else {
            Ok(())
        }
    }

    /// Subscribes to a filter for the rest of this connection. [`Event::Subscribed`] says by the token how that went. With
    /// `as_published` a publication has the retain flag that it was sent with; else only what the broker had kept has it.
    pub fn subscribe(&self, token: u64, filter: String, as_published: bool) -> Result<(), Full> {
        let wish = Wish::Subscribe {
            token,
            filter,
            as_published,
        };
        self.wishes.try_send(wish).map_err(|_| Full)
    }

    /// Takes back what [`Self::subscribe`] asked for. [`Event::Withdrawn`] says when that is done.
    pub fn unsubscribe(&self, filter: String) -> Result<(), Full> {
        let wish = Wish::Unsubscribe(filter);
        self.wishes.try_send(wish).map_err(|_| Full)
    }

    /// How many publications of a lane can be queued now.
    #[must_use]
    pub fn room(&self, lane: Lane) -> usize {
        self.outbox.room(lane)
    }

    /// Goes away without the last will, drops what is queued, and comes back after a pause that is longer each time:
    /// another daemon has our name.
    pub fn leave(&self) {
        // the channel is full if this was asked for already
        let _ = self.commands.try_send(Goodbye::Leave);
    }

    /// Sends what is queued, disconnects without the last will, and ends. Gives up when for `patience` nothing more has
    /// reached the broker, and returns how many publications never did: a slow broker gets all of them, a dead one keeps
    /// nobody waiting.
    pub async fn close(self, patience: std::time::Duration) -> usize {
        let (done, closed) = tokio::sync::oneshot::channel();
        let close = async {
            if self.commands.send(Goodbye::Close(done)).await.is_ok() {
                // an error means that the task is gone, which is what was wanted
                let _ = closed.await;
            }
        };
        tokio::pin!(close);
        let mut left = self.outbox.held();
        while tokio::time::timeout(patience, &mut close).await.is_err() {
            let before = std::mem::replace(&mut left, self.outbox.held());
            if left >= before {
                break;
            }
        }
        self.outbox.held()
    }
}

#[cfg(test)]
mod tests;
