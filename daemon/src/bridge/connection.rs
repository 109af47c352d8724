//! One client of a running daemon, and the connection that its requests share.
//!
//! One task reads what comes from the broker and waits for nobody. Whoever drops its [`Asked`] has lost interest, and the
//! daemon is told so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::flights::{Flights, REQUESTS_MAX};
use crate::mqtt::{
    self, Event, Events, Full, Incoming, Journal, Lane, Link, Options, Outgoing, Publication, Qos,
    Rejection,
};
use crate::wire::topics::Topics;

/// How often it is looked whether an answer is long overdue.
const LOOK: Duration = Duration::from_secs(10);

/// How long the broker may take at the end to get what is queued.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where the daemon is, and as whom it is asked.
pub struct Place {
    pub options: Options,
    pub topics: Topics,
    /// The client's segment in the topics.
    pub client: String,
    /// The name of the daemon's node, for messages.
    pub node: String,
}

/// Why nothing can be asked now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("the broker cannot be reached")]
    Broker,
    /// The broker does not let this client hear its answers.
    #[error("{0}")]
    Denied(String),
    #[error("there is no daemon `{0}` on the broker")]
    Nobody(String),
    #[error("the daemon `{0}` is offline")]
    Offline(String),
    #[error("{REQUESTS_MAX} requests of this client are under way, which is the limit")]
    Busy,
    #[error("{0}")]
    Full(#[from] Full),
}

impl Unavailable {
    /// The error code that says the most of it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Busy => "rate_limited",
            Self::Full(_) => "overloaded",
            Self::Broker | Self::Denied(_) | Self::Nobody(_) | Self::Offline(_) => "offline",
        }
    }
}

/// A handle on the connection, cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    link: Link,
    topics: Topics,
    client: String,
    node: String,
    known: Mutex<Known>,
}

/// What was heard of the broker and the daemon.
#[derive(Default)]
struct Known {
    up: bool,
    /// The `state` of the daemon's status.
    state: Option<String>,
    info: Option<Arc<Value>>,
    /// Why no answers can be heard, if the broker refuses the subscription.
    denied: Option<String>,
    flights: Flights,
    /// What the log has said of the connection.
    journal: Journal,
    /// What it has last said of anything else, which is not said again.
    said: String,
}

impl Connection {
    /// Begins to connect. The task ends when the broker has refused this client, with the reason.
    pub(super) fn open(place: Place) -> (Self, tokio::task::JoinHandle<String>) {
        let (link, events) = mqtt::connect(place.options);
        let connection = Self(Arc::new(Shared {
            link,
            topics: place.topics,
            client: place.client,
            node: place.node,
            known: Mutex::default(),
        }));
        let task = tokio::spawn(connection.clone().listen(events));
        (connection, task)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the daemon says about itself, once it has come.
    pub(super) fn info(&self) -> Option<Arc<Value>> {
        self.known().info.clone()
    }

    /// Sends a chat request under an id of its own.
    pub(super) fn ask(&self, mut request: Map<String, Value>) -> Result<Asked, Unavailable> {
        let mut known = self.known();
        let node = || self.0.node.clone();
        if let Some(why) = &known.denied {
            return Err(Unavailable::Denied(why.clone()));
        }
        match known.state.as_deref() {
            _ if !known.up => return Err(Unavailable::Broker),
            None => return Err(Unavailable::Nobody(node())),
            Some("offline") => return Err(Unavailable::Offline(node())),
            // what else it may be, the daemon says itself
            Some(_) => {}
        }
        let id = format!("chatcmpl-{:032x}", fastrand::u128(..));
        request.insert("id".to_owned(), json!(id));
        let payload = Bytes::from(Value::Object(request).to_string());
        let begun = known
            .flights
            .begin(id.clone(), payload.clone(), Instant::now());
        let frames = begun.ok_or(Unavailable::Busy)?;
        if let Err(full) = self.send(self.0.topics.request(&self.0.client), payload) {
            known.flights.abandon(&id);
            return Err(full.into());
        }
        Ok(Asked {
            connection: self.clone(),
            id,
            frames,
        })
    }

    /// Makes the daemon forget a session of this client.
    pub(super) fn forget(&self, session: &str) {
        let topic = self.0.topics.session(&self.0.client, session, "drop");
        // if there is no room for it, the daemon forgets the session at its own time
        let _ = self.send(topic, Bytes::new());
    }

    /// Sends what is queued, then ends the connection.
    pub(super) async fn close(&self) {
        self.0.link.clone().close(GOODBYE).await;
    }

    fn send(&self, topic: String, payload: Bytes) -> Result<(), Full> {
        let message = Publication::new(topic, payload, Qos::AtLeastOnce);
        self.0.link.publish(Outgoing::new(Lane::Last, message))
    }

    fn cancel(&self, id: &str) {
        let topic = self.0.topics.cancel(&self.0.client);
        // if there is no room for it, the request goes on to its end and nobody hears it
        let _ = self.send(topic, Bytes::from(json!({ "id": id }).to_string()));
    }

    async fn listen(self, mut events: Events) -> String {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else {
                        return "the connection to the broker has ended".to_owned();
                    };
                    if let Some(refused) = self.take(event) {
                        return refused;
                    }
                }
                _ = look.tick() => {
                    let late = self.known().flights.give_up(Instant::now());
                    for id in late {
                        self.cancel(&id);
                    }
                }
            }
        }
    }

    /// Takes what happened on the link. Returns the reason if the broker refuses this client for good.
    fn take(&self, event: Event) -> Option<String> {
        let now = Instant::now();
        let mut known = self.known();
        match event {
            Event::Up { .. } => {
                known.up = true;
                known.denied = None;
                if known.journal.up(now) {
                    tracing::info!("connected to the broker");
                }
                // of what the daemon had taken, answers may be lost; it does not run the same id twice
                let again: Vec<Bytes> = known.flights.payloads().cloned().collect();
                for payload in again {
                    // what has no room is given up when nothing is heard of it
                    let _ = self.send(self.0.topics.request(&self.0.client), payload);
                }
            }
            Event::Down { reason, refused } => {
                known.up = false;
                if refused {
                    return Some(reason);
                }
                if known.journal.down(now, &reason) {
                    tracing::info!("cannot reach the broker: {reason}");
                }
            }
            Event::Left { .. } => known.up = false,
            Event::Subscribed { .. } | Event::Withdrawn { .. } | Event::Delivered(..) => {}
            Event::Unsubscribed { filter, reason } => {
                let why = format!("the broker refuses the subscription to `{filter}`: {reason}");
                known.say(why.clone());
                if filter == self.0.topics.reply(&self.0.client) {
                    known.denied = Some(why);
                }
            }
            Event::Refused(out, why) => {
                let message = format!("the broker does not take the request ({})", why.name());
                let body: Value = serde_json::from_slice(&out.message.payload).unwrap_or_default();
                if let Some(id) = body["id"].as_str() {
                    let code = match why {
                        Rejection::TooLarge => "payload_too_large",
                        _ => "internal",
                    };
                    known.flights.fail(id, code, &message, now);
                }
                known.say(message);
            }
            Event::Incoming(incoming) => {
                // what is retained comes before the last subscription is granted
                known.up = true;
                self.hear(&mut known, incoming, now);
            }
        }
        None
    }

    fn hear(&self, known: &mut Known, incoming: Incoming, now: Instant) {
        let Incoming { message, ack, .. } = incoming;
        if let Some(ack) = ack {
            // if this fails, the frame comes again and is passed over the second time
            let _ = self.0.link.ack(ack);
        }
        let value: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        if message.topic == self.0.topics.reply(&self.0.client) {
            known.flights.hear(value, now);
        } else if message.topic == self.0.topics.info() {
            known.info = (!value.is_null()).then(|| Arc::new(value));
        } else if message.topic == self.0.topics.status() {
            known.state = value["state"].as_str().map(str::to_owned);
            let node = &self.0.node;
            if let Some(state) = known.state.clone() {
                if state == "offline" {
                    let why = format!("the daemon `{node}` went offline");
                    known.flights.fail_all("offline", &why, now);
                }
                known.say(format!("the daemon `{node}` is {state}"));
            }
        }
    }
}

impl Known {
    /// Logs a change, and the same thing once.
    fn say(&mut self, what: String) {
        if self.said != what {
            tracing::info!("{what}");
            self.said = what;
        }
    }
}

/// A request under way. Dropped before its end, it is cancelled.
pub(super) struct Asked {
    connection: Connection,
    id: String,
    frames: mpsc::Receiver<Value>,
}

impl Asked {
    /// The next frame; the last one is a final or an error frame, and after it there is none.
    pub(super) async fn next(&mut self) -> Option<Value> {
        self.frames.recv().await
    }

    /// As [`Self::next`], for a body that is polled.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Value>> {
        self.frames.poll_recv(context)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.connection.known().flights.abandon(&self.id) {
            self.connection.cancel(&self.id);
        }
    }
}
