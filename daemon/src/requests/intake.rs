//! From a message to a decision: reads what came in on each topic and tells [`Admission`]. Every message ends here in
//! one of three ways: it is taken, answered with an error frame, or dropped and counted.

use std::sync::Arc;
use std::time::Instant;

use glowplug_model::engine::{Request, SessionVerb, Thinking};
use glowplug_model::text::{Message, Role, SamplerParams, ToolChoice, Tools};

use super::admission::{Action, Admission, Arrival};
use super::answer::Kind;
use super::presets::{Presets, Terms};
use crate::config::Config;
use crate::mqtt::{Incoming, Publication};
use crate::tools::definition::{Definition, Definitions};
use crate::tools::toolbox::Toolbox;
use crate::wire::admin::{self, Admin, Asker};
use crate::wire::chat::format::ResponseFormat;
use crate::wire::chat::request::{self, ChatDefaults, ChatRequest, Execution};
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::{self, ReplyTo};
use crate::wire::session::Call;
use crate::wire::topics::{Route, Topics};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// The part of the configuration that message handling needs, and the model's own sampling values.
pub struct Intake {
    topics: Topics,
    allow: Vec<String>,
    defaults: ChatDefaults,
    payload_max: usize,
    presets: Presets,
    sampler: Option<SamplerParams>,
}

/// The state that a message meets.
pub struct Context<'a> {
    pub admission: &'a mut Admission,
    pub now: Instant,
    /// Last frames that the outbox has room for.
    pub room: usize,
    /// The daemon's own tools.
    pub tools: &'a Toolbox,
    /// What follows from the message is appended here.
    pub out: &'a mut Vec<Action>,
}

/// What every request has, whatever it asks for.
struct Asked<'a> {
    client: &'a str,
    message: &'a Publication,
    /// Where the answer goes.
    to: ReplyTo,
    /// The id that its Correlation Data stands for.
    mark: Option<String>,
    /// Whether it came to whichever daemon of the pool.
    pooled: bool,
}

impl Intake {
    /// Until [`Self::sampler`] says more, requests are sampled with the engine's default values.
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
            presets: Presets::new(&config.presets),
            sampler: None,
        }
    }

    /// From now on these values are used where a request has none; they are the model's own.
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
            // the broker would deliver it again at every start
            return context.admission.count_refused("retained");
        }
        match route {
            Route::Request(client) => {
                let reply = self.topics.reply(client);
                self.chat(client, incoming, reply, false, context);
            }
            Route::Pool(client) => {
                let reply = self.topics.pool_reply(client);
                self.chat(client, incoming, reply, true, context);
            }
            Route::Ask(client) => self.ask(client, incoming, context),
            Route::Cancel(client) => match self.body(incoming).and_then(request::parse_cancel) {
                Ok(what) => context
                    .admission
                    .cancel(context.now, client, &what, context.out),
                Err(fault) => self.answer(client, message, &fault, context),
            },
            Route::Control(client) => match self.body(incoming).and_then(request::parse_control) {
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

    /// Decides where a request's answer goes. Gives its body too, unless its Response Topic or its length is refused.
    fn asked<'a>(
        &self,
        client: &'a str,
        incoming: &'a Incoming,
        default_topic: String,
        content_type: &'static str,
    ) -> (Asked<'a>, Result<&'a [u8], Fault>) {
        let message = &incoming.message;
        let (to, body) = match properties::reply_to(
            message,
            client,
            default_topic,
            content_type,
            &self.topics,
            &self.allow,
        ) {
            Ok(to) => (to, self.body(incoming)),
            Err((fault, to)) => (to, Err(fault)),
        };
        let asked = Asked {
            client,
            message,
            mark: to.correlation_data.as_ref().and_then(properties::id_of),
            to,
            pooled: false,
        };
        (asked, body)
    }

    fn chat(
        &self,
        client: &str,
        incoming: &Incoming,
        default_topic: String,
        pooled: bool,
        context: &mut Context<'_>,
    ) {
        let (mut asked, body) = self.asked(client, incoming, default_topic, JSON);
        asked.pooled = pooled;
        // also of a request that is refused, for the sake of its id
        let mut own = Vec::new();
        let payload: &[u8] = match &body {
            // it is not read, not even for its id
            Err(fault) if fault.code == Code::PayloadTooLarge => &[],
            _ => &asked.message.payload,
        };
        let parsed = request::parse_chat_with(payload, &self.defaults, |chat| {
            own = self.own_tools(client, chat, context.tools);
            own.iter().map(|tool| tool.tool.clone()).collect()
        });
        let (id, chat) = match parsed {
            Ok(chat) => (chat.id.clone(), Ok(chat)),
            Err((fault, id)) => (id, Err(fault)),
        };
        match body.and(chat) {
            Ok(chat) => {
                let kind = if chat.stream.unwrap_or(true) {
                    Kind::Chat
                } else {
                    Kind::ChatWhole
                };
                let terms = match &chat.preset {
                    Some(name) => self.presets.named(name, client),
                    None => Ok(Terms::default()),
                };
                let tokens =
                    |terms: &Terms| terms.tokens(chat.max_tokens, self.defaults.max_tokens);
                let terms = terms.and_then(|terms| {
                    chat.sampling.check_logprobs(tokens(&terms))?;
                    chat.check_stop(terms.format.is_some())?;
                    Ok(terms)
                });
                match terms {
                    Ok(terms) => self.submit(asked, kind, chat, terms, own, context),
                    Err(fault) => {
                        let id = id.or(asked.mark).unwrap_or_else(made_id);
                        context.refuse(&id, Kind::Chat, asked.to, &fault);
                    }
                }
            }
            Err(fault) => {
                let id = id.or(asked.mark).unwrap_or_else(made_id);
                context.refuse(&id, Kind::Chat, asked.to, &fault);
            }
        }
    }

    fn ask(&self, client: &str, incoming: &Incoming, context: &mut Context<'_>) {
        let (asked, body) = self.asked(client, incoming, self.topics.answer(client), TEXT);
        match body.and_then(request::parse_ask) {
            Ok(content) => {
                let terms = self.presets.own(client);
                let own = named(context.tools.allowed(client), &terms.tools);
                let list = own.iter().map(|tool| tool.tool.clone()).collect::<Vec<_>>();
                let thinking = terms.thinking.unwrap_or(self.defaults.thinking);
                let chat = ChatRequest {
                    messages: vec![Message::new(Role::User, content)],
                    // thinking as configured makes the answer better, but plain text has no place to show it
                    thinking: Some(Thinking {
                        visible: false,
                        ..thinking
                    }),
                    tools: (!list.is_empty()).then(|| Tools {
                        list: list.into(),
                        choice: ToolChoice::Auto,
                        parallel: true,
                    }),
                    ..ChatRequest::default()
                };
                self.submit(asked, Kind::Ask, chat, terms, own, context);
            }
            Err(fault) => context.refuse("", Kind::Ask, asked.to, &fault),
        }
    }

    /// The daemon's tools that a chat request may use: those of its preset, or all that are for its client.
    fn own_tools(&self, client: &str, chat: &ChatRequest, tools: &Toolbox) -> Definitions {
        let preset = chat.preset.as_ref();
        let preset = preset.and_then(|name| self.presets.named(name, client).ok());
        match (
            chat.tool_execution,
            preset.filter(|terms| !terms.tools.is_empty()),
        ) {
            (Some(Execution::Client), _) | (None, None) => Vec::new(),
            (_, Some(terms)) => named(tools.allowed(client), &terms.tools),
            (Some(Execution::Daemon), None) => tools.allowed(client),
        }
    }

    fn submit(
        &self,
        asked: Asked<'_>,
        kind: Kind,
        mut chat: ChatRequest,
        terms: Terms,
        own: Definitions,
        context: &mut Context<'_>,
    ) {
        let expiry_s = asked.message.properties.expiry_s;
        let sampler = self.sampler.clone().unwrap_or_default();
        let max_tokens = terms.tokens(chat.max_tokens, self.defaults.max_tokens);
        let thinking = chat.thinking.or(terms.thinking);
        let format = (chat.format).map_or(terms.format, ResponseFormat::format);
        if chat.schema_in_prompt && format.is_none() {
            chat.ignored.push("schema_in_prompt");
        }
        // plain text is for people, who read or hear it as it is, and what is held to a format is for programs
        let spoken = format.is_none() && (kind == Kind::Ask || chat.sentences);
        let request = Request {
            session: chat.session.map(Into::into),
            priority: chat.priority,
            sampler: chat.sampling.over(&sampler, fastrand::u64(..)),
            thinking: thinking.unwrap_or(self.defaults.thinking),
            system: terms.system,
            stop: chat.stop,
            tools: chat.tools,
            format,
            schema_in_prompt: chat.schema_in_prompt,
            ..Request::new(asked.client, chat.messages, max_tokens)
        };
        let arrival = Arrival {
            kind,
            id: chat.id.or(asked.mark),
            made_id: made_id(),
            pooled: asked.pooled,
            reply: asked.to,
            request,
            spoken,
            ignored: chat.ignored,
            own,
            deadline: properties::deadline(chat.deadline_ms, expiry_s),
        };
        context
            .admission
            .request(context.now, context.room, arrival, context.out);
    }

    /// Sends an error frame on a chat client's reply topic, under an id that no request has.
    fn answer(
        &self,
        client: &str,
        message: &Publication,
        fault: &Fault,
        context: &mut Context<'_>,
    ) {
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
        let default_topic = self.topics.session_result(client, session);
        let (asked, body) = self.asked(client, incoming, default_topic, JSON);
        let call = Call {
            client: client.into(),
            session: session.into(),
            verb,
        };
        let empty = body.and_then(|body| {
            if body.is_empty() {
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
            Ok(()) => admission.session(*room, call, asked.to, out),
            Err(fault) => admission.refuse_verb(asked.to, fault.code, call.refused(&fault), out),
        }
    }

    fn admin(&self, verb: &str, incoming: &Incoming, context: &mut Context<'_>) {
        let to = plain_reply(&incoming.message, "", self.topics.admin_response(verb));
        let asked = match self.body(incoming) {
            Ok(body) => admin::parse(verb, body),
            Err(fault) => Err((fault, None)),
        };
        let Context {
            admission,
            now,
            room,
            out,
            ..
        } = context;
        match asked {
            Ok((asked, transaction)) => {
                let asker = Asker {
                    to,
                    verb: asked.verb(),
                    transaction,
                };
                match asked {
                    Admin::Forget(client) => admission.forget(*now, *room, client, asker, out),
                    asked => out.push(Action::Admin(asked, asker)),
                }
            }
            Err((fault, transaction)) => {
                let frame = admin::refused(&transaction, &fault);
                admission.refuse_verb(to, fault.code, frame, out);
            }
        }
    }

    fn body<'a>(&self, incoming: &'a Incoming) -> Result<&'a [u8], Fault> {
        let payload = &incoming.message.payload;
        match incoming.oversize {
            None if payload.len() <= self.payload_max => Ok(payload),
            // the number is not told: the broker may have cut the payload already
            _ => Err(Fault::new(
                Code::PayloadTooLarge,
                format!("the payload has more than {} bytes", self.payload_max),
            )),
        }
    }
}

/// Those of some tools that a preset names.
fn named(tools: Definitions, names: &[String]) -> Definitions {
    let is_named = |tool: &Arc<Definition>| names.iter().any(|name| name == tool.tool.name());
    tools.into_iter().filter(is_named).collect()
}

impl Context<'_> {
    fn refuse(&mut self, id: &str, kind: Kind, to: ReplyTo, fault: &Fault) {
        self.admission.refuse(id, kind, to, fault, self.out);
    }
}

/// A reply on the default topic. The Correlation Data is echoed if it is within its limit.
fn plain_reply(message: &Publication, client: &str, topic: String) -> ReplyTo {
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
        record: None,
    }
}

/// An id for a request that came without one. It cannot be guessed, so nobody can repeat the request.
fn made_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

#[cfg(test)]
mod tests;
