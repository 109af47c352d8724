//! The calls in flight: a state machine. Events and `now` go in, steps come out; it does no I/O and reads no clock.
//!
//! A call whose answer comes on a topic of the tool's own waits until the subscription to it is acknowledged, and is then
//! published; calls that share such a topic run in turn. A call ends exactly once, unless its request ends before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug_firmware_config::limits::{
    CALLS_IN_FLIGHT_MAX, CALLS_IN_FLIGHT_PER_CLIENT, TOOL_ANSWER_MAX,
};
use glowplug_model::engine::RequestId;

use super::definition::Planned;
use crate::mqtt::Publication;

/// How long a call waits for those before it on its reply topic.
const TURN_MAX: Duration = Duration::from_secs(60);

/// The number of a call, or of a subscription; none is used twice.
pub type Token = u64;

/// A call that is to be made.
#[derive(Debug, Clone)]
pub struct Order {
    pub request: RequestId,
    pub client: Arc<str>,
    /// The id that the model's call has.
    pub call: String,
    pub planned: Planned,
    /// Where the tool may answer with MQTT 5. Nobody can guess it.
    pub response_topic: String,
    /// What such an answer must bring back.
    pub correlation_data: Bytes,
}

/// How a call ended, in the words that the model reads and the audit repeats.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The tool said this.
    #[error("{0}")]
    Answered(String),
    /// The broker has the call, and the tool has nothing to say.
    #[error("done")]
    Done,
    #[error("error: no answer within {} ms; whether it was done is not known", .0.as_millis())]
    Silent(Duration),
    #[error("error: the answer is not text")]
    Garbage,
    #[error("error: the answer has {0} bytes, the limit is {TOOL_ANSWER_MAX}")]
    TooLarge(usize),
    /// Nothing was published, for this reason.
    #[error("error: not done: {0}")]
    NotDone(String),
    #[error("error: the connection to the broker was lost; whether it was done is not known")]
    Lost,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Step {
    /// Subscribe to a reply topic, and say how that went.
    Subscribe(Token, String),
    Unsubscribe(String),
    /// Publish a call, and say when the broker has it or refuses it.
    Publish(Token, Box<Order>),
    Ended {
        request: RequestId,
        call: String,
        ended: Ended,
        /// From its publication, or from its order if it never was published.
        took: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Others use its reply topic.
    Queued,
    Subscribing,
    /// Whether the broker has it.
    Published {
        acknowledged: bool,
    },
}

#[derive(Debug)]
struct Flying {
    order: Order,
    stage: Stage,
    /// When it was ordered, or published if it was.
    since: Instant,
    until: Instant,
}

/// A reply topic that is subscribed to or about to be.
#[derive(Debug)]
struct Heard {
    subscription: Token,
    granted: bool,
    /// The call whose turn it is.
    call: Token,
}

/// All calls that have not ended.
#[derive(Debug, Default)]
pub struct Calls {
    flying: BTreeMap<Token, Flying>,
    heard: BTreeMap<String, Heard>,
    next: Token,
    connected: bool,
}

impl Calls {
    /// Makes a call, or says at once why it is not made.
    pub fn order(&mut self, now: Instant, order: Order, out: &mut Vec<Step>) {
        let own = self
            .flying
            .values()
            .filter(|f| f.order.client == order.client)
            .count();
        let why = if !self.connected {
            Some("there is no connection to the broker".to_owned())
        } else if own >= CALLS_IN_FLIGHT_PER_CLIENT {
            Some(format!(
                "{own} calls of this client are in flight, which is the limit"
            ))
        } else if self.flying.len() >= CALLS_IN_FLIGHT_MAX {
            Some(format!(
                "{CALLS_IN_FLIGHT_MAX} calls are in flight, which is the limit"
            ))
        } else {
            None
        };
        if let Some(why) = why {
            let (request, call) = (order.request, order.call);
            let (ended, took) = (Ended::NotDone(why), Duration::ZERO);
            return out.push(Step::Ended {
                request,
                call,
                ended,
                took,
            });
        }
        let token = self.token();
        let reply = order.planned.reply_topic.clone();
        let flying = Flying {
            order,
            stage: Stage::Queued,
            since: now,
            until: now + TURN_MAX,
        };
        self.flying.insert(token, flying);
        match reply {
            None => self.publish(now, token, out),
            Some(topic) if self.heard.contains_key(&topic) => {}
            Some(topic) => {
                let subscription = self.token();
                out.push(Step::Subscribe(subscription, topic.clone()));
                let heard = Heard {
                    subscription,
                    granted: false,
                    call: token,
                };
                self.heard.insert(topic, heard);
                self.turn(now, token, Stage::Subscribing);
            }
        }
    }

    fn token(&mut self) -> Token {
        self.next += 1;
        self.next
    }

    fn turn(&mut self, now: Instant, token: Token, stage: Stage) {
        if let Some(flying) = self.flying.get_mut(&token) {
            (flying.stage, flying.since) = (stage, now);
            flying.until = now + flying.order.planned.timeout;
        }
    }

    fn publish(&mut self, now: Instant, token: Token, out: &mut Vec<Step>) {
        self.turn(
            now,
            token,
            Stage::Published {
                acknowledged: false,
            },
        );
        if let Some(flying) = self.flying.get(&token) {
            out.push(Step::Publish(token, Box::new(flying.order.clone())));
        }
    }

    /// The broker has granted a subscription or refused it.
    pub fn subscribed(&mut self, now: Instant, token: Token, granted: bool, out: &mut Vec<Step>) {
        let found = self
            .heard
            .iter_mut()
            .find(|(_, heard)| heard.subscription == token);
        let Some((topic, heard)) = found else {
            return;
        };
        if granted {
            heard.granted = true;
            let call = heard.call;
            return self.publish(now, call, out);
        }
        let topic = topic.clone();
        self.heard.remove(&topic);
        let why = "the broker does not let the daemon hear the tool's reply topic";
        let all = self.flying.iter();
        let all = all.filter(|(_, f)| f.order.planned.reply_topic.as_ref() == Some(&topic));
        for token in all.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.end(now, token, Ended::NotDone(why.to_owned()), out);
        }
    }

    /// The broker has a call.
    pub fn acknowledged(&mut self, token: Token) {
        if let Some(flying) = self.flying.get_mut(&token)
            && let Stage::Published { acknowledged } = &mut flying.stage
        {
            *acknowledged = true;
        }
    }

    /// A call was not published, or the broker does not take it.
    pub fn refused(&mut self, now: Instant, token: Token, why: &str, out: &mut Vec<Step>) {
        self.end(now, token, Ended::NotDone(why.to_owned()), out);
    }

    /// Whether a publication may be an answer: it came on a topic on which one is waited for. `oversize` is its length if
    /// it was not read.
    pub fn answered(
        &mut self,
        now: Instant,
        message: &Publication,
        oversize: Option<usize>,
        out: &mut Vec<Step>,
    ) -> bool {
        let own = |f: &Flying| f.order.response_topic == message.topic;
        let own = self
            .flying
            .iter()
            .find(|(_, f)| own(f))
            .map(|(token, _)| *token);
        let token = match (own, self.heard.get(&message.topic)) {
            (Some(token), _) => token,
            (None, Some(heard)) => heard.call,
            (None, None) => return false,
        };
        let Some(flying) = self.flying.get(&token) else {
            return true;
        };
        let brought = message.properties.correlation_data.as_ref();
        let ours = brought == Some(&flying.order.correlation_data);
        let published = matches!(flying.stage, Stage::Published { .. });
        // a state that the broker kept is none of this call, and neither is an answer to somebody else
        if message.retain || !published || !(ours || own.is_none() && brought.is_none()) {
            return true;
        }
        let bytes = oversize.unwrap_or(message.payload.len());
        let ended = match std::str::from_utf8(&message.payload) {
            _ if bytes > TOOL_ANSWER_MAX => Ended::TooLarge(bytes),
            Ok(text) if !text.contains('\0') && !text.trim().is_empty() => {
                Ended::Answered(text.to_owned())
            }
            _ => Ended::Garbage,
        };
        self.end(now, token, ended, out);
        true
    }

    /// Ends what has waited long enough.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Step>) {
        let late = self.flying.iter().filter(|(_, f)| f.until <= now);
        for token in late.map(|(token, _)| *token).collect::<Vec<_>>() {
            let Some(flying) = self.flying.get(&token) else {
                continue;
            };
            let planned = &flying.order.planned;
            let ended = match flying.stage {
                // it got its turn meanwhile
                _ if flying.until > now => continue,
                Stage::Queued => Ended::NotDone("the tool was busy for a minute".to_owned()),
                Stage::Subscribing => {
                    Ended::NotDone("the broker does not answer a subscription".to_owned())
                }
                Stage::Published { acknowledged: true } if planned.reply_topic.is_none() => {
                    Ended::Done
                }
                Stage::Published { .. } => Ended::Silent(planned.timeout),
            };
            self.end(now, token, ended, out);
        }
    }

    /// When [`Self::tick`] will have something to do, if ever.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        self.flying.values().map(|f| f.until).min()
    }

    /// A request has ended: nobody wants the answers to its calls.
    pub fn forget(&mut self, now: Instant, request: RequestId, out: &mut Vec<Step>) {
        let own = self
            .flying
            .iter()
            .filter(|(_, f)| f.order.request == request);
        // the last first, so that no turn is given to one that goes too
        for token in own.map(|(token, _)| *token).rev().collect::<Vec<_>>() {
            self.leave(now, token, out);
        }
    }

    /// A connection stands. Nothing is subscribed to.
    pub fn connected(&mut self) {
        self.connected = true;
    }

    /// The connection is gone, with all subscriptions. Nothing is published again, because nobody knows whether the tool
    /// has had it.
    pub fn disconnected(&mut self, out: &mut Vec<Step>) {
        self.connected = false;
        self.heard.clear();
        for (_, flying) in std::mem::take(&mut self.flying) {
            let ended = match flying.stage {
                Stage::Published { .. } => Ended::Lost,
                Stage::Queued | Stage::Subscribing => {
                    Ended::NotDone("the connection to the broker was lost".to_owned())
                }
            };
            out.push(Step::Ended {
                request: flying.order.request,
                call: flying.order.call,
                ended,
                took: Duration::ZERO,
            });
        }
    }

    fn end(&mut self, now: Instant, token: Token, ended: Ended, out: &mut Vec<Step>) {
        if let Some(flying) = self.leave(now, token, out) {
            out.push(Step::Ended {
                request: flying.order.request,
                call: flying.order.call,
                ended,
                took: now.saturating_duration_since(flying.since),
            });
        }
    }

    /// Takes a call out, and gives its turn on a reply topic to the next.
    fn leave(&mut self, now: Instant, token: Token, out: &mut Vec<Step>) -> Option<Flying> {
        let flying = self.flying.remove(&token)?;
        let topic = flying.order.planned.reply_topic.as_ref();
        if let Some(topic) = topic
            && let Some(heard) = self.heard.get_mut(topic)
            && heard.call == token
        {
            let waits = |f: &Flying| f.order.planned.reply_topic.as_ref() == Some(topic);
            match self
                .flying
                .iter()
                .find(|(_, f)| waits(f))
                .map(|(next, _)| *next)
            {
                Some(next) => {
                    heard.call = next;
                    if heard.granted {
                        self.publish(now, next, out);
                    } else {
                        self.turn(now, next, Stage::Subscribing);
                    }
                }
                None => {
                    self.heard.remove(topic);
                    out.push(Step::Unsubscribe(topic.clone()));
                }
            }
        }
        Some(flying)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
