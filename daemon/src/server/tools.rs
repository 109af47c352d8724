//! The daemon's own tools in the select loop: it carries calls to the broker and answers back, and decides nothing about
//! them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug_model::engine::{PromptBuilder, RequestId};
use serde_json::json;

use super::model_change::Waited;
use super::{Daemon, now};
use crate::config::Config;
use crate::mqtt::broker::credentials;
use crate::mqtt::{Incoming, Lane, Outgoing, Properties, Publication, Qos, Rejection};
use crate::requests::admission::{Action, ToolAction};
use crate::tools::calls::{Calls, Order, Step};
use crate::tools::catalogue::{Catalogues, Terms};
use crate::tools::definition::{Definition, Planned};
use crate::tools::journal::Journal;
use crate::tools::toolbox::Toolbox;
use crate::wire::chat::reply::encode;
use crate::wire::topics::Topics;

/// The tools that are made of catalogues take at most this part of the context.
const CATALOGUES_PART: usize = 4;

/// Everything of the daemon's own tools.
pub(super) struct OwnTools {
    pub(super) toolbox: Toolbox,
    pub(super) calls: Calls,
    catalogues: Option<Catalogues>,
    /// The toolbox has not got what the catalogues say now.
    stale: bool,
    journal: Journal,
    /// What was open when the run before ended was told so.
    told: bool,
    /// Counts the tokens of the loaded model's vocabulary.
    prompts: Option<PromptBuilder>,
}

impl OwnTools {
    /// Reads what the run before left; none of that runs again.
    pub(super) fn new(config: &Config, topics: &Topics, now: Instant) -> Self {
        let window = config.engine.dedup_window;
        let (journal, read) = Journal::open(&config.state_dir, &topics.client_id(), window, now);
        if let Err(error) = read {
            tracing::warn!("{error}");
        }
        let catalogues = config.tools_from.clone();
        Self {
            toolbox: Toolbox::new(&config.tools),
            calls: Calls::default(),
            catalogues: catalogues
                .map(|terms| Catalogues::new(terms, &config.base_topic, &config.node)),
            stale: false,
            journal,
            told: false,
            prompts: None,
        }
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }
}

/// The filters that tools need from the start.
pub(super) fn subscriptions(config: &Config, topics: &Topics) -> Vec<(String, Qos)> {
    let mut filters = Vec::new();
    if !config.tools.is_empty() || config.tools_from.is_some() {
        filters.push(topics.tool_responses());
    }
    let catalogues = config.tools_from.iter().flat_map(Terms::filters);
    filters.extend(catalogues.map(str::to_owned));
    filters
        .into_iter()
        .map(|filter| (filter, Qos::AtLeastOnce))
        .collect()
}

/// The filters of all topics outside of the base topic that tools use, for the embedded broker.
pub(super) fn shared(config: &Config) -> Vec<String> {
    let mut filters: Vec<String> = config
        .tools
        .iter()
        .flat_map(|tool| tool.filters())
        .collect();
    if let Some(terms) = &config.tools_from {
        filters.extend(terms.topics.iter().cloned());
        let catalogues = [
            (terms.homeassistant, "homeassistant/#"),
            (terms.zigbee2mqtt, "zigbee2mqtt/#"),
        ];
        filters.extend(
            catalogues
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, filter)| (*filter).to_owned()),
        );
    }
    filters
}

impl Daemon {
    /// Takes a publication that is an answer of a tool or a part of a catalogue. False: it is neither.
    pub(super) fn heard(&mut self, incoming: &Incoming, out: &mut Vec<Action>) -> bool {
        let message = &incoming.message;
        let mut steps = Vec::new();
        if self
            .tools
            .calls
            .answered(now(), message, incoming.oversize, &mut steps)
        {
            self.steps(steps, out);
            return true;
        }
        if self.topics.is_tool(&message.topic) {
            // the audit is our own, and an answer that nobody waits for comes too late
            return true;
        }
        let Some(catalogues) = self
            .tools
            .catalogues
            .as_mut()
            .filter(|all| all.is_one(&message.topic))
        else {
            return false;
        };
        if incoming.oversize.is_some() {
            tracing::warn!(topic = message.topic, "a catalogue is too long to be read");
        } else {
            self.tools.stale |= catalogues.take(&message.topic, &message.payload);
        }
        true
    }

    /// Has the toolbox know what the catalogues say now, as far as it fits into the context.
    pub(super) fn refresh_tools(&mut self) {
        let Some(catalogues) = self.tools.catalogues.as_ref().filter(|_| self.tools.stale) else {
            return;
        };
        let (Some(prompts), Some(model)) = (&self.tools.prompts, &self.inference.model) else {
            return;
        };
        let most = model.context / CATALOGUES_PART;
        let tokens = |tool: &Definition| prompts.cut(tool.tool.parameters(), usize::MAX).1;
        let found = catalogues.definitions(|tools| tools.iter().map(tokens).sum::<usize>() <= most);
        tracing::info!(
            tools = found.len(),
            "the catalogues of the house have changed"
        );
        self.tools.toolbox.found(found);
        self.tools.stale = false;
    }

    /// A model answers: results are cut by its tokens.
    pub(super) fn measure_results(&mut self, prompts: PromptBuilder, context: usize) {
        let rounds = self.config.engine.tools_max_rounds;
        self.tools.stale = true;
        self.tools.prompts = Some(prompts.clone());
        self.admission
            .bound_rounds(rounds, context, move |text, most| {
                let (kept, tokens) = prompts.cut(text, most);
                (kept.to_owned(), tokens)
            });
    }

    /// The engine is gone, and its vocabulary must not stay in memory.
    pub(super) fn forget_vocabulary(&mut self) {
        self.tools.prompts = None;
        self.admission.bound_rounds(0, 0, |_, _| (String::new(), 0));
    }

    /// Does what admission wants of a tool.
    pub(super) fn tool_action(&mut self, action: ToolAction) {
        let mut out = Vec::new();
        match action {
            ToolAction::Record(number, acted) => match self.tools.journal.begin(now(), *acted) {
                Some(note) => self.write(move || note.write(), Some(Waited::Acted(number))),
                None => self.admission.recorded(now(), number, true, &mut out),
            },
            ToolAction::Call {
                request,
                client,
                call,
                planned,
            } => {
                let mut steps = Vec::new();
                match (credentials::random(), credentials::random()) {
                    (Ok(random), Ok(correlation)) => {
                        let order = Order {
                            request,
                            client,
                            call,
                            planned,
                            response_topic: self.topics.tool_response(&random),
                            correlation_data: correlation.into(),
                        };
                        self.tools.calls.order(now(), order, &mut steps);
                        self.steps(steps, &mut out);
                    }
                    _ => {
                        let why = "error: not done: the system has no random numbers";
                        self.tool_ended(request, &call, why, Duration::ZERO, &mut out);
                    }
                }
            }
            ToolAction::Forget(number) => {
                let mut steps = Vec::new();
                self.tools.calls.forget(now(), number, &mut steps);
                self.steps(steps, &mut out);
            }
            ToolAction::Ended { client, ask, id } => {
                if let Some(note) = self.tools.journal.end(&client, ask, &id) {
                    self.write(move || note.write(), None);
                }
            }
            ToolAction::Audit {
                client,
                id,
                call,
                outcome,
            } => {
                let (tool, arguments) = (&call.name, &call.arguments);
                tracing::info!(
                    client = &*client,
                    request = id,
                    tool,
                    arguments,
                    outcome,
                    "a tool was called"
                );
                let line = json!({
                    "client": &*client,
                    "request": id,
                    "tool": tool,
                    "arguments": arguments,
                    "outcome": outcome,
                });
                let message =
                    Publication::new(self.topics.tool_audit(), encode(&line), Qos::AtLeastOnce);
                self.publish(Outgoing::new(Lane::Audit, message));
            }
        }
        self.perform(out);
    }

    /// Does what the calls in flight want.
    pub(super) fn steps(&mut self, steps: Vec<Step>, out: &mut Vec<Action>) {
        let mut more = Vec::new();
        for step in steps {
            match step {
                Step::Subscribe(token, filter) => {
                    if self.link.subscribe(token, filter, false).is_err() {
                        self.tools.calls.subscribed(now(), token, false, &mut more);
                    }
                }
                Step::Unsubscribe(filter) => {
                    if self.link.unsubscribe(filter).is_err() {
                        tracing::warn!("a subscription of a tool lasts until the connection ends");
                    }
                }
                Step::Publish(token, order) => {
                    let mut all = outgoing(token, &order).into_iter();
                    if all.any(|out| self.link.publish(out).is_err()) {
                        let why = "too many calls are being sent";
                        self.tools.calls.refused(now(), token, why, &mut more);
                    }
                }
                Step::Ended {
                    request,
                    call,
                    ended,
                    took,
                } => {
                    self.tool_ended(request, &call, &ended.to_string(), took, out);
                }
            }
        }
        if !more.is_empty() {
            self.steps(more, out);
        }
    }

    fn tool_ended(
        &mut self,
        request: RequestId,
        call: &str,
        said: &str,
        took: Duration,
        out: &mut Vec<Action>,
    ) {
        let room = self.link.room(Lane::Chunk);
        self.admission
            .tool_ended(now(), request, call, said, took, room, out);
    }

    /// Ends the calls that have waited long enough.
    pub(super) fn tick_tools(&mut self, out: &mut Vec<Action>) {
        let mut steps = Vec::new();
        self.tools.calls.tick(now(), &mut steps);
        self.steps(steps, out);
    }

    /// The broker has granted or refused a subscription of a call.
    pub(super) fn tool_subscribed(&mut self, token: u64, granted: bool, out: &mut Vec<Action>) {
        let mut steps = Vec::new();
        self.tools
            .calls
            .subscribed(now(), token, granted, &mut steps);
        self.steps(steps, out);
    }

    /// The broker does not take a call, or it was not sent.
    pub(super) fn tool_refused(&mut self, token: u64, why: Rejection, out: &mut Vec<Action>) {
        let mut steps = Vec::new();
        match why {
            // the end of the connection says it of all calls
            Rejection::Lost => {}
            Rejection::Unheard => {
                let why = "nobody listens to the tool's topic";
                self.tools.calls.refused(now(), token, why, &mut steps);
            }
            why => {
                let why = format!("the broker does not take it ({})", why.name());
                self.tools.calls.refused(now(), token, &why, &mut steps);
            }
        }
        self.steps(steps, out);
    }

    /// A connection stands. The first one tells what was open when the run before ended.
    pub(super) fn tools_up(&mut self, out: &mut Vec<Action>) {
        self.tools.calls.connected();
        if std::mem::replace(&mut self.tools.told, true) {
            return;
        }
        let pool = self.pool.as_ref();
        let open = self.tools.journal.entries().filter(|of| !of.ended);
        // what the pool's record has is ended by that
        for acted in open.filter(|of| !pool.is_some_and(|pool| pool.has_left(of))) {
            self.admission.interrupted(now(), acted, None, out);
        }
        if let Some(note) = self.tools.journal.end_all() {
            self.write(move || note.write(), None);
        }
    }

    /// The connection is gone, and with it every call.
    pub(super) fn tools_down(&mut self, out: &mut Vec<Action>) {
        let mut steps = Vec::new();
        self.tools.calls.disconnected(&mut steps);
        if let Some(catalogues) = &mut self.tools.catalogues {
            // the next connection brings them again, without what is gone by then
            catalogues.clear();
            self.tools.stale = true;
        }
        self.steps(steps, out);
    }
}

/// A call as it is published. A broker keeps it no longer than its answer is waited for, which is asked for with the last part.
fn outgoing(token: u64, order: &Order) -> Vec<Outgoing> {
    let Planned {
        before,
        topic,
        payload,
        json,
        timeout,
        ..
    } = &order.planned;
    let kind = if *json {
        "application/json"
    } else {
        "text/plain"
    };
    let expiry = timeout.as_millis().div_ceil(1000);
    let part = |topic: &str, payload: &Bytes, kind: &str| Publication {
        properties: Properties {
            expiry_s: u32::try_from(expiry).ok(),
            content_type: Some(kind.to_owned()),
            utf8: true,
            ..Properties::default()
        },
        ..Publication::new(topic, payload.clone(), Qos::AtLeastOnce)
    };
    let mut last = part(topic, payload, kind);
    last.properties.response_topic = Some(order.response_topic.clone());
    last.properties.correlation_data = Some(order.correlation_data.clone());
    let before = before
        .iter()
        .map(|(topic, said)| part(topic, said, "text/plain"));
    // a part that the broker refuses ends the call
    let out = |message| Outgoing {
        token: Some(token),
        ..Outgoing::new(Lane::Tool, message)
    };
    before.chain([last]).map(out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_call_is_the_one_that_is_answered() {
        let order = Order {
            request: 1,
            client: "a".into(),
            call: "x".to_owned(),
            planned: Planned {
                before: vec![("lamp/bri".to_owned(), "7".into())],
                topic: "lamp/set".to_owned(),
                payload: "{}".into(),
                json: true,
                reply_topic: None,
                timeout: Duration::from_millis(1500),
            },
            response_topic: "r".to_owned(),
            correlation_data: "c".into(),
        };
        let all = outgoing(7, &order);
        let of = |out: &Outgoing| {
            let Properties {
                response_topic,
                correlation_data,
                content_type,
                expiry_s,
                ..
            } = out.message.properties.clone();
            assert_eq!(
                (out.token, out.lane, expiry_s),
                (Some(7), Lane::Tool, Some(2))
            );
            (
                out.message.topic.clone(),
                content_type,
                response_topic,
                correlation_data,
            )
        };
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            ("lamp/bri".to_owned(), text("text/plain"), None, None),
            (
                "lamp/set".to_owned(),
                text("application/json"),
                text("r"),
                Some("c".into()),
            ),
        ];
        assert_eq!(all.iter().map(of).collect::<Vec<_>>(), expected);
    }
}
