//! What goes out, and what the broker says about it: replies, the daemon's own status, publications that the broker
//! does not take, and another daemon of the same name.

use bytes::Bytes;
use glowplug_model::engine::Finish;
use serde::Deserialize;

use super::pool::Pool;
use super::status;
use super::{Daemon, now};
use crate::mqtt::{Event, Journal, Lane, Outgoing, Publication, Qos, Rejection};
use crate::requests::admission::{Action, Phase};
use crate::wire::chat::reply::{self, encode};
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::ReplyTo;

/// Most bytes of a reply besides its frame: a Response Topic, Correlation Data, and the rest.
const TOPIC_AND_PROPERTIES: usize = 2048;

/// How things stand with the broker.
#[derive(Debug)]
pub(super) struct Post {
    up: bool,
    /// This run of the daemon has published its status.
    told: bool,
    /// Another daemon has our name, so our requests are its to answer.
    away: bool,
    /// This connection is about to end because of that.
    leaving: bool,
    /// What is known of another daemon of our name.
    rival: Rival,
    /// The log has said that there is one.
    contested: bool,
    /// Connections that were lost or not made since the last one that stood.
    losses: u32,
    /// Most bytes of a frame, as learned from frames that the broker did not take.
    frame_max: usize,
    /// What the log has said of the connection.
    journal: Journal,
}

impl Default for Post {
    fn default() -> Self {
        Self {
            up: false,
            told: false,
            away: false,
            leaving: false,
            rival: Rival::default(),
            contested: false,
            losses: 0,
            frame_max: usize::MAX,
            journal: Journal::default(),
        }
    }
}

/// A `status`, ours or that of another daemon.
#[derive(Deserialize)]
struct Seen {
    state: String,
    boot_id: String,
}

/// After so many times that the broker has another's status in place of ours, the other daemon is believed to live. A
/// broker that was killed may come back with what it kept of an earlier run.
const SIGHTINGS: u32 = 3;

/// What the status of another daemon means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing, or nothing yet.
    Wait,
    /// It is the last will of one that is gone: the broker should keep our status instead.
    Repeat,
    /// The other one lives, and it has to go.
    Stay,
    /// The other one lives, and we have to go.
    Go,
}

/// Another daemon of our name. The two throw each other out, or both answer. The one with the greater boot id stays,
/// and both know which that is.
#[derive(Debug, Default)]
struct Rival {
    boot_id: String,
    sightings: u32,
}

impl Rival {
    /// A status that is not ours came in: on a connection that stands (`up`), or before it stood, after so many losses.
    fn seen(&mut self, seen: &Seen, ours: &str, up: bool, losses: u32) -> Verdict {
        if up && seen.state == "offline" {
            return Verdict::Repeat;
        }
        let again = self.boot_id == seen.boot_id;
        self.sightings = match (up, again) {
            // the other one is there now
            (true, _) => SIGHTINGS,
            (false, true) if self.sightings >= SIGHTINGS => SIGHTINGS,
            // one that was thrown out finds the broker where it was; a broker that was killed takes a moment
            (false, true) if losses <= 1 => self.sightings + 1,
            (false, _) => 1,
        };
        self.boot_id.clone_from(&seen.boot_id);
        if self.sightings < SIGHTINGS {
            Verdict::Wait
        } else if self.boot_id.as_str() > ours {
            Verdict::Go
        } else {
            Verdict::Stay
        }
    }
}

impl Daemon {
    /// Takes an event of the connection. Publications are not handled here.
    pub(super) fn connection(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            // the other daemon was noticed before the last subscription was granted
            Event::Up { .. } if self.post.leaving => {}
            Event::Up { packet_max, shared } => {
                if self.post.journal.up(now()) {
                    tracing::info!("connected to the broker");
                }
                (self.post.up, self.post.away) = (true, false);
                self.post.told = true;
                self.post.losses = 0;
                let taken = packet_max.saturating_sub(TOPIC_AND_PROPERTIES);
                self.admission.frame_max(taken.min(self.post.frame_max));
                self.publish_status();
                self.pool_up(shared);
                self.publish_info();
                self.publish_discovery();
                self.tools_up(out);
                self.end_pool_before(out);
            }
            Event::Down { reason, refused } => {
                self.tools_down(out);
                self.pool_down();
                self.post.leaving = false;
                self.post.losses += 1;
                self.post.up = false;
                let at = self.broker();
                match (self.post.journal.down(now(), &reason), refused) {
                    (true, true) => tracing::error!(
                        "{reason}{at}; see `mqtt.username` and `mqtt.password_file`"
                    ),
                    (true, false) => tracing::warn!("no connection to the broker{at}: {reason}"),
                    (false, _) => {
                        tracing::debug!("still no connection to the broker{at}: {reason}");
                    }
                }
            }
            Event::Left { pause } => {
                tracing::error!(
                    "this daemon stays away from the broker{} and tries again in {} s",
                    self.broker(),
                    pause.as_secs()
                );
                (self.post.up, self.post.leaving) = (false, false);
                self.tools_down(out);
                self.pool_down();
                self.give_way(out);
            }
            Event::Unsubscribed { filter, reason } => tracing::error!(
                "the broker refuses the subscription to `{filter}` ({reason}): nothing that is published there is heard; \
                 see its access rules for this daemon's user"
            ),
            Event::Subscribed {
                filter, refused, ..
            } if self.is_pool(&filter) => self.pool_joined(&filter, refused),
            Event::Subscribed {
                token,
                filter,
                refused,
            } => {
                if let Some(reason) = &refused {
                    tracing::warn!("the broker refuses the subscription to `{filter}` ({reason})");
                }
                self.tool_subscribed(token, refused.is_none(), out);
            }
            Event::Withdrawn { filter } => self.pool_left(&filter),
            Event::Delivered(Lane::Tool, token) => self.tools.calls.acknowledged(token),
            Event::Delivered(_, number) => self.ended_on_record(number),
            Event::Refused(refused, why) => match refused.token {
                Some(token) if refused.lane == Lane::Tool => self.tool_refused(token, why, out),
                _ => self.refused(*refused, why),
            },
            Event::Incoming(_) => {}
        }
    }

    /// Where the broker is, for the log; nothing for the embedded one.
    fn broker(&self) -> String {
        match &self.config.mqtt.server {
            Some(server) => format!(" at {server} (`mqtt.url`)"),
            None => String::new(),
        }
    }

    /// A status came in on our own topic.
    pub(super) fn status_seen(&mut self, payload: &[u8], out: &mut Vec<Action>) {
        let Ok(seen) = serde_json::from_slice::<Seen>(payload) else {
            return;
        };
        // before we have published ours, the broker keeps that of the run before
        if seen.boot_id == self.run.boot_id || !self.post.told {
            return;
        }
        let (up, losses) = (self.post.up, self.post.losses);
        let verdict = self.post.rival.seen(&seen, &self.run.boot_id, up, losses);
        let lives = matches!(verdict, Verdict::Stay | Verdict::Go);
        if lives && !std::mem::replace(&mut self.post.contested, true) {
            tracing::error!(
                "another daemon uses the same node name on this broker, `{}` (client identifier `{}`): give one of them \
                 another `node` in its configuration",
                self.config.node,
                self.topics.client_id()
            );
        }
        match verdict {
            Verdict::Wait => {}
            Verdict::Repeat | Verdict::Stay => self.publish_status(),
            Verdict::Go => {
                self.post.leaving = true;
                self.link.leave();
                self.give_way(out);
            }
        }
    }

    /// Ends what was accepted without an answer: the other daemon answers it when it is asked again, and two answers
    /// would be one too many.
    fn give_way(&mut self, out: &mut Vec<Action>) {
        self.post.away = true;
        self.admission.end_all(now(), Finish::Interrupted, out);
        self.forget_pool();
    }

    pub(super) fn reply(&mut self, to: &ReplyTo, frame: Bytes, lane: Lane) {
        if self.post.away {
            self.admission.count_refused("name_taken");
        } else {
            self.publish(to.outgoing(frame, lane));
        }
    }

    pub(super) fn publish(&mut self, out: Outgoing) {
        let (lane, topic) = (out.lane, out.message.topic.clone());
        if self.link.publish(out).is_err() {
            self.admission.count_refused("reply_dropped");
            if lane == Lane::Last {
                tracing::error!("no room for a last frame on `{topic}`");
            }
        }
    }

    /// The broker does not take a reply: a small one that says so follows, on a topic where its client may hear it.
    fn refused(&mut self, out: Outgoing, why: Rejection) {
        let bytes = out.message.payload.len();
        self.admission.count_refused(why.name());
        self.discovery
            .refused(&out.message.topic, &self.config.node);
        if why == Rejection::TooLarge {
            self.post.frame_max = self.post.frame_max.min(bytes.saturating_sub(1));
            self.admission.frame_max(self.post.frame_max);
        }
        if out.lane == Lane::Chunk {
            // the last frame repeats this text
            return;
        }
        tracing::warn!(
            topic = out.message.topic,
            bytes,
            reason = why.name(),
            "the broker does not take a message"
        );
        if out.instead || matches!(out.lane, Lane::State | Lane::Audit) {
            return out
                .token
                .into_iter()
                .for_each(|number| self.ended_on_record(number));
        }
        let (topic, fault) = match (why.is_for_the_topic(), out.default_topic) {
            (true, None) => {
                // nothing can tell its client, not after a restart either
                return out
                    .token
                    .into_iter()
                    .for_each(|number| self.ended_on_record(number));
            }
            (true, Some(default)) => (
                default,
                Fault::new(
                    Code::ResponseTopicDenied,
                    "the broker does not take messages on the Response Topic",
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
            message: Publication {
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
            status::status(state, &self.run.boot_id, self.run.since),
        );
    }

    pub(super) fn publish_info(&mut self) {
        let info = self.serves().map(|(model, of)| {
            let about = status::model(model, of, self.models.fallback);
            let computes = self.inference.computes.as_ref();
            let pool = self.pool.as_ref().map(Pool::about);
            status::info(
                &self.config,
                model,
                &of.plan,
                computes,
                &about,
                pool.as_ref(),
            )
        });
        if let Some(info) = info {
            self.publish_retained(self.topics.info(), info);
        }
    }

    /// Publishes a retained message while connected. Every connection begins with both of them.
    pub(super) fn publish_retained(&mut self, topic: String, payload: Bytes) {
        if self.post.up {
            let mut message = Publication::new(topic, payload, Qos::AtLeastOnce);
            message.retain = true;
            self.publish(Outgoing::new(Lane::State, message));
        }
    }

    pub(super) fn publish_metrics(&mut self) {
        let speed = self.inference.speed.since_last(self.inference.load);
        if self.post.up {
            let metrics = encode(&self.reading().metrics(speed));
            let message = Publication::new(self.topics.metrics(), metrics, Qos::AtMostOnce);
            self.publish(Outgoing::new(Lane::State, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(boot_id: &str, state: &str) -> Seen {
        Seen {
            state: state.to_owned(),
            boot_id: boot_id.to_owned(),
        }
    }

    #[test]
    fn of_two_that_throw_each_other_out_the_same_one_goes_for_both() {
        let (mut at_a, mut at_b) = (Rival::default(), Rival::default());
        let (a, b) = (status("a", "offline"), status("b", "offline"));
        for _ in 1..SIGHTINGS {
            assert_eq!(at_a.seen(&b, "a", false, 1), Verdict::Wait);
            assert_eq!(at_b.seen(&a, "b", false, 1), Verdict::Wait);
        }
        assert_eq!(at_a.seen(&b, "a", false, 1), Verdict::Go);
        assert_eq!(at_b.seen(&a, "b", false, 1), Verdict::Stay);
        // and when it looks again: at once
        assert_eq!(at_a.seen(&b, "a", false, 5), Verdict::Go);
    }

    #[test]
    fn what_a_killed_broker_kept_is_no_rival() {
        let mut rival = Rival::default();
        for _ in 0..100 {
            // it was not there at the first attempt
            let kept = rival.seen(&status("z", "online"), "a", false, 2);
            assert_eq!(kept, Verdict::Wait);
        }
    }

    #[test]
    fn on_a_connection_that_stands_the_living_are_told_from_the_dead() {
        let mut rival = Rival::default();
        let will = rival.seen(&status("z", "offline"), "a", true, 0);
        assert_eq!(will, Verdict::Repeat);
        let alive = rival.seen(&status("z", "online"), "a", true, 0);
        assert_eq!(alive, Verdict::Go);
        assert_eq!(
            rival.seen(&status("0", "starting"), "a", true, 0),
            Verdict::Stay
        );
    }
}
