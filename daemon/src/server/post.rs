//! What goes out, and what the broker says of it: replies, the daemon's own status, messages that the broker does not
//! take, and another daemon of the same name.

use bytes::Bytes;
use glowplug_model::engine::Finish;
use serde::Deserialize;

use super::{Daemon, now};
use crate::admission::{Action, Phase};
use crate::status;
use crate::transport::{Event, Lane, Message, Outgoing, Qos, Refusal};
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::ReplyTo;
use crate::wire::reply::{self, encode};

/// Bytes of a reply besides its frame, at most: a Response Topic, Correlation Data, the rest.
const TOPIC_AND_PROPERTIES: usize = 2048;

/// How it stands with the broker.
#[derive(Debug)]
pub(super) struct Post {
    /// connected
    up: bool,
    /// our status was published, by this run of the daemon
    told: bool,
    /// another daemon has our name: what we would answer is its to answer
    away: bool,
    /// and this connection is about to end for it
    leaving: bool,
    /// and the log says so
    contested: bool,
    /// bytes of the longest frame that the broker may take, after those it did not
    frame_max: usize,
    /// why the last attempt failed
    reason: String,
}

impl Default for Post {
    fn default() -> Self {
        Self {
            up: false,
            told: false,
            away: false,
            leaving: false,
            contested: false,
            frame_max: usize::MAX,
            reason: String::new(),
        }
    }
}

/// A status, ours or another's.
#[derive(Deserialize)]
struct Seen {
    state: String,
    boot_id: String,
}

impl Daemon {
    /// News of the connection. Messages are not its business.
    pub(super) fn connection(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            // found out before the last subscription was granted
            Event::Up { .. } if self.post.leaving => {}
            Event::Up { packet_max } => {
                tracing::info!("connected to the broker");
                (self.post.up, self.post.away) = (true, false);
                self.post.told = true;
                self.post.reason.clear();
                let taken = packet_max.saturating_sub(TOPIC_AND_PROPERTIES);
                self.admission.frame_max(taken.min(self.post.frame_max));
                self.publish_status();
                self.publish_info();
            }
            Event::Down { reason, refused } => {
                self.post.leaving = false;
                let (was_up, at) = (std::mem::take(&mut self.post.up), self.broker());
                // a broker that is away is said once
                if was_up || reason != self.post.reason {
                    if refused {
                        tracing::error!(
                            "{reason}{at}; see `mqtt.username` and `mqtt.password_file`"
                        );
                    } else {
                        tracing::warn!("no connection to the broker{at}: {reason}");
                    }
                }
                self.post.reason = reason;
            }
            Event::Left { pause } => {
                tracing::error!(
                    "this daemon stays away from the broker{} and tries again in {} s",
                    self.broker(),
                    pause.as_secs()
                );
                (self.post.up, self.post.leaving) = (false, false);
                self.give_way(out);
            }
            Event::Unsubscribed { filter, reason } => tracing::error!(
                "the broker refuses the subscription to `{filter}` ({reason}): nothing that is published there is heard; \
                 see its access rules for this daemon's user"
            ),
            Event::Refused(out, why) => self.refused(*out, why),
            Event::Message(_) => {}
        }
    }

    /// For the log; the embedded one needs no words.
    fn broker(&self) -> String {
        match &self.config.mqtt.server {
            Some(server) => format!(" at {}:{} (`mqtt.url`)", server.host, server.port),
            None => String::new(),
        }
    }

    /// Somebody's status came in on our topic. Two daemons of one name throw each other out, or both answer: the one with
    /// the greater boot id stays, which both know.
    pub(super) fn status_seen(&mut self, payload: &[u8], out: &mut Vec<Action>) {
        let Ok(seen) = serde_json::from_slice::<Seen>(payload) else {
            return;
        };
        // before our own was told, the broker keeps that of the run before
        if seen.boot_id == self.boot_id || !self.post.told {
            return;
        }
        if self.post.up && seen.state == "offline" {
            // the last will of one that is gone; the broker is to keep our word
            return self.publish_status();
        }
        if !std::mem::replace(&mut self.post.contested, true) {
            tracing::error!(
                "another daemon uses the same node name on this broker, `{}` (client identifier `{}`): give one of them \
                 another `node` in its configuration",
                self.config.node,
                self.topics.client_id()
            );
        }
        if seen.boot_id > self.boot_id {
            self.post.leaving = true;
            self.link.leave();
            self.give_way(out);
        } else {
            self.publish_status();
        }
    }

    /// What was accepted is the other daemon's to answer when it is asked again; twice would be once too often.
    fn give_way(&mut self, out: &mut Vec<Action>) {
        self.post.away = true;
        self.admission.end_all(now(), Finish::Interrupted, out);
    }

    pub(super) fn reply(&mut self, to: &ReplyTo, frame: Bytes, lane: Lane) {
        if self.post.away {
            self.admission.count_refused("name_taken");
        } else {
            self.publish(to.outgoing(frame, lane));
        }
    }

    fn publish(&mut self, out: Outgoing) {
        let (lane, topic) = (out.lane, out.message.topic.clone());
        if self.link.publish(out).is_err() {
            self.admission.count_refused("reply_dropped");
            if lane == Lane::Last {
                tracing::error!("no room for a last frame on `{topic}`");
            }
        }
    }

    /// A reply that the broker does not take is followed by a small one that says so, where its client may hear it.
    fn refused(&mut self, out: Outgoing, why: Refusal) {
        let bytes = out.message.payload.len();
        self.admission.count_refused(why.name());
        if why == Refusal::TooLarge {
            self.post.frame_max = self.post.frame_max.min(bytes.saturating_sub(1));
            self.admission.frame_max(self.post.frame_max);
        }
        if out.lane == Lane::Chunk {
            // the last frame repeats it
            return;
        }
        tracing::warn!(
            topic = out.message.topic,
            bytes,
            reason = why.name(),
            "the broker does not take a message"
        );
        if out.instead || out.lane == Lane::State {
            return;
        }
        let (topic, fault) = match (why.is_for_the_topic(), out.default_topic) {
            (true, None) => return,
            (true, Some(default)) => (
                default,
                Fault::new(
                    Code::ResponseTopicDenied,
                    "the broker takes no message on the Response Topic",
                ),
            ),
            (false, _) => (
                out.message.topic,
                Fault::new(
                    Code::Internal,
                    format!("the broker does not take the answer of {bytes} bytes"),
                ),
            ),
        };
        let text = out.message.properties.content_type.as_deref() == Some("text/plain");
        let payload = if text {
            reply::error_text(&fault)
        } else {
            reply::instead(&out.message.payload, &fault)
        };
        self.publish(Outgoing {
            message: Message {
                topic,
                payload,
                ..out.message
            },
            default_topic: None,
            instead: true,
            ..out
        });
    }

    pub(super) fn publish_status(&mut self) {
        let state = match self.admission.phase() {
            Phase::Starting => "starting",
            Phase::Online => "online",
            Phase::Draining => "draining",
        };
        self.publish_retained(
            self.topics.status(),
            status::status(state, &self.boot_id, self.since),
        );
    }

    pub(super) fn publish_info(&mut self) {
        let info = self.serves().map(|(model, of)| {
            let about = status::model(model, of, self.fallback);
            status::info(&self.config, model, &of.plan.memory, &about)
        });
        if let Some(info) = info {
            self.publish_retained(self.topics.info(), info);
        }
    }

    /// Only while connected: every connection begins with both.
    pub(super) fn publish_retained(&mut self, topic: String, payload: Bytes) {
        if self.post.up {
            let mut message = Message::new(topic, payload, Qos::AtLeastOnce);
            message.retain = true;
            self.publish(Outgoing::new(Lane::State, message));
        }
    }

    pub(super) fn publish_metrics(&mut self) {
        let speed = self.speed.since_last(self.load);
        if self.post.up {
            let metrics = encode(&self.reading().metrics(speed));
            let message = Message::new(self.topics.metrics(), metrics, Qos::AtMostOnce);
            self.publish(Outgoing::new(Lane::State, message));
        }
    }
}
