//! From a message to a decision: reads what came in on each topic and tells [`Admission`]. Every message ends here in
//! one of three ways: taken, answered with an error frame, or dropped and counted.

use std::time::Instant;

use glowplug_model::engine::{Request, SessionVerb, Thinking};
use glowplug_model::text::{Message as Turn, Role, SamplerParams};

use super::admission::{Action, Admission, Arrival};
use super::answer::Kind;
use crate::config::Config;
use crate::mqtt::{Incoming, Message};
use crate::wire::admin::{self, Admin, Asker};
use crate::wire::chat::request::{self, ChatDefaults, ChatRequest};
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::{self, ReplyTo};
use crate::wire::session::Call;
use crate::wire::topics::{Route, Topics};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// What of the configuration concerns messages.
pub struct Intake {
    topics: Topics,
    allow: Vec<String>,
    defaults: ChatDefaults,
    payload_max: usize,
    sampler: Option<SamplerParams>,
}

/// The state a message meets.
pub struct Context<'a> {
    /// decides
    pub admission: &'a mut Admission,
    /// by the monotonic clock
    pub now: Instant,
    /// of the outbox, for last frames
    pub room: usize,
    /// what follows
    pub out: &'a mut Vec<Action>,
}

impl Intake {
    /// For a daemon without a model yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            topics: Topics::new(&config.base_topic, &config.node),
            allow: config.mqtt.response_topic_allow.clone(),
            defaults: ChatDefaults {
                max_tokens: config.engine.max_tokens,
                thinking: config.engine.thinking,
            },
            payload_max: config.engine.max_payload_bytes,
            sampler: None,
        }
    }

    /// The model's own values are used where a request has none.
    pub fn sampler(&mut self, sampler: SamplerParams) {
        self.sampler = Some(sampler);
    }

    /// Takes one message to its end.
    pub fn take(&self, incoming: &Incoming, context: &mut Context<'_>) {
        let message = &incoming.message;
        let Some(route) = self.topics.route(&message.topic) else {
            return context.admission.count_refused("unknown_topic");
        };
        if message.retain {
            // it would be run again at every start
            return context.admission.count_refused("retained");
        }
        match route {
            Route::Request(client) => self.chat(client, incoming, context),
            Route::Ask(client) => self.ask(client, incoming, context),
            Route::Cancel(client) => match self
                .small(incoming)
                .and_then(|()| request::parse_cancel(&message.payload))
            {
                Ok(what) => context
                    .admission
                    .cancel(context.now, client, &what, context.out),
                Err(fault) => self.answer(client, message, &fault, context),
            },
            Route::Control(client) => match self
                .small(incoming)
                .and_then(|()| request::parse_control(&message.payload))
            {
                Ok(id) => context.admission.end_thinking(client, &id, context.out),
                Err(fault) => self.answer(client, message, &fault, context),
            },
            Route::Session {
                client,
                session,
                verb,
            } => self.session(client, session, verb, incoming, context),
            Route::Admin(verb) => self.admin(verb, incoming, context),
        }
    }

    fn chat(&self, client: &str, incoming: &Incoming, context: &mut Context<'_>) {
        let message = &incoming.message;
        let to = properties::reply_to(
            message,
            client,
            self.topics.reply(client),
            JSON,
            &self.topics,
            &self.allow,
        );
        let (to, denied) = match to {
            Ok(to) => (to, None),
            Err((fault, to)) => (to, Some(fault)),
        };
        let mark = to.correlation_data.as_ref().and_then(properties::id_of);
        let parsed = match self.small(incoming) {
            Ok(()) => request::parse_chat(&message.payload, &self.defaults),
            Err(fault) => Err((fault, None)),
        };
        match (denied, parsed) {
            (None, Ok(chat)) => {
                let kind = if chat.stream.unwrap_or(true) {
                    Kind::Chat
                } else {
                    Kind::ChatWhole
                };
                let id = chat.id.clone().or(mark);
                self.submit(client, kind, id, to, chat, message, context);
            }
            (Some(fault), parsed) => {
                let id = parsed.map_or_else(|(_, id)| id, |chat| chat.id);
                context.refuse(&id.or(mark).unwrap_or_else(made_id), Kind::Chat, to, &fault);
            }
            (None, Err((fault, id))) => {
                context.refuse(&id.or(mark).unwrap_or_else(made_id), Kind::Chat, to, &fault);
            }
        }
    }

    fn ask(&self, client: &str, incoming: &Incoming, context: &mut Context<'_>) {
        let message = &incoming.message;
        let to = properties::reply_to(
            message,
            client,
            self.topics.answer(client),
            TEXT,
            &self.topics,
            &self.allow,
        );
        let (to, denied) = match to {
            Ok(to) => (to, Ok(())),
            Err((fault, to)) => (to, Err(fault)),
        };
        let text = denied
            .and_then(|()| self.small(incoming))
            .and_then(|()| request::parse_ask(&message.payload));
        match text {
            Ok(content) => {
                let chat = ChatRequest {
                    messages: vec![Turn {
                        role: Role::User,
                        content,
                    }],
                    // thinking as configured, for the answer's sake, and never shown
                    thinking: Some(Thinking {
                        visible: false,
                        ..self.defaults.thinking
                    }),
                    ..ChatRequest::default()
                };
                let mark = to.correlation_data.as_ref().and_then(properties::id_of);
                self.submit(client, Kind::Ask, mark, to, chat, message, context);
            }
            Err(fault) => context.refuse("", Kind::Ask, to, &fault),
        }
    }

    #[allow(clippy::too_many_arguments)] // one request, told apart by name
    fn submit(
        &self,
        client: &str,
        kind: Kind,
        id: Option<String>,
        to: ReplyTo,
        chat: ChatRequest,
        message: &Message,
        context: &mut Context<'_>,
    ) {
        let deadline = properties::deadline(chat.deadline_ms, message.properties.expiry_s);
        let sampler = self.sampler.clone().unwrap_or_default();
        let max_tokens = chat.max_tokens.unwrap_or(self.defaults.max_tokens);
        let request = Request {
            session: chat.session.map(Into::into),
            priority: chat.priority,
            sampler: chat.sampling.over(&sampler, fastrand::u64(..)),
            thinking: chat.thinking.unwrap_or(self.defaults.thinking),
            stop: chat.stop,
            ..Request::new(client, chat.messages, max_tokens)
        };
        let arrival = Arrival {
            kind,
            id,
            made_id: made_id(),
            reply: to,
            request,
            ignored: chat.ignored,
            deadline,
        };
        context
            .admission
            .request(context.now, context.room, arrival, context.out);
    }

    /// An error frame on a chat client's reply topic, under an id that no request has.
    fn answer(&self, client: &str, message: &Message, fault: &Fault, context: &mut Context<'_>) {
        context.refuse(
            &made_id(),
            Kind::Chat,
            plain_reply(message, client, self.topics.reply(client)),
            fault,
        );
    }

    fn session(
        &self,
        client: &str,
        session: &str,
        verb: SessionVerb,
        incoming: &Incoming,
        context: &mut Context<'_>,
    ) {
        let to = properties::reply_to(
            &incoming.message,
            client,
            self.topics.session_result(client, session),
            JSON,
            &self.topics,
            &self.allow,
        );
        let (to, denied) = match to {
            Ok(to) => (to, Ok(())),
            Err((fault, to)) => (to, Err(fault)),
        };
        let call = Call {
            client: client.into(),
            session: session.into(),
            verb,
        };
        let empty = denied.and_then(|()| self.small(incoming)).and_then(|()| {
            if incoming.message.payload.is_empty() {
                Ok(())
            } else {
                Err(Fault::invalid("", "the payload must be empty"))
            }
        });
        let Context {
            admission,
            room,
            out,
            ..
        } = context;
        match empty {
            Ok(()) => admission.session(*room, call, to, out),
            Err(fault) => admission.refuse_verb(to, fault.code, call.refused(&fault), out),
        }
    }

    fn admin(&self, verb: &str, incoming: &Incoming, context: &mut Context<'_>) {
        let message = &incoming.message;
        let to = plain_reply(message, "", self.topics.admin_response(verb));
        let asked = match self.small(incoming) {
            Ok(()) => admin::parse(verb, &message.payload),
            Err(fault) => Err((fault, None)),
        };
        match asked {
            Ok((asked, transaction)) => {
                let verb = asked.verb();
                let asker = Asker {
                    to,
                    verb,
                    transaction,
                };
                match asked {
                    Admin::Forget(client) => {
                        context.admission.forget(
                            context.now,
                            context.room,
                            client,
                            asker,
                            context.out,
                        );
                    }
                    asked => context.out.push(Action::Admin(asked, asker)),
                }
            }
            Err((fault, transaction)) => {
                let frame = admin::refused(&transaction, &fault);
                context
                    .admission
                    .refuse_verb(to, fault.code, frame, context.out);
            }
        }
    }

    fn small(&self, incoming: &Incoming) -> Result<(), Fault> {
        match incoming.oversize {
            None => Ok(()),
            // not how many: a broker may have thrown the end away
            Some(_) => Err(Fault::new(
                Code::PayloadTooLarge,
                format!("the payload has more than {} bytes", self.payload_max),
            )),
        }
    }
}

impl Context<'_> {
    fn refuse(&mut self, id: &str, kind: Kind, to: ReplyTo, fault: &Fault) {
        self.admission.refuse(id, kind, to, fault, self.out);
    }
}

/// The default topic, with the mark echoed if it is within its limit.
fn plain_reply(message: &Message, client: &str, topic: String) -> ReplyTo {
    let correlation_data = message
        .properties
        .correlation_data
        .clone()
        .filter(|d| properties::id_of(d).is_some());
    ReplyTo {
        client: client.into(),
        topic,
        default_topic: None,
        qos: message.qos,
        correlation_data,
        content_type: JSON,
    }
}

/// An id for a request that came without; cannot be guessed, so it cannot be asked for again.
fn made_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

#[cfg(test)]
mod tests;
