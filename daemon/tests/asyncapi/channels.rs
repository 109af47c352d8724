//! The topics, and who says what on them.

use crate::state::{VERBS, name};
use glowplug::wire::homeassistant;
use glowplug::wire::topics::{ANY, Topics};
use serde_json::{Map, Value, json};

/// A topic of the contract.
pub(crate) struct Channel {
    pub(crate) name: String,
    /// None: the configuration says.
    pub(crate) address: Option<String>,
    about: &'static str,
    messages: Vec<String>,
    operation: &'static str,
    pub(crate) side: Side,
}

/// Who publishes on a topic.
pub(crate) enum Side {
    /// A client, and the reply goes to the channel of this name.
    In { reply: Option<String> },
    /// The daemon, by itself or with a reply.
    Out {
        /// None: that of the request.
        qos: Option<u8>,
        retain: bool,
        /// Whether it has the Message Expiry of a reply.
        expires: bool,
    },
}

const REPLY: Side = Side::Out {
    qos: None,
    retain: false,
    expires: true,
};

fn input(
    name: &str,
    address: String,
    messages: &[&str],
    operation: &'static str,
    reply: Option<&str>,
    about: &'static str,
) -> Channel {
    let side = Side::In {
        reply: reply.map(str::to_owned),
    };
    channel(name, Some(address), messages, operation, side, about)
}

fn channel(
    name: &str,
    address: Option<String>,
    messages: &[&str],
    operation: &'static str,
    side: Side,
    about: &'static str,
) -> Channel {
    Channel {
        name: name.to_owned(),
        address,
        about,
        messages: messages.iter().map(|&name| name.to_owned()).collect(),
        operation,
        side,
    }
}

/// The topics as the daemon makes them, with the names of their parameters in the places of values.
pub(crate) fn topics() -> Topics {
    Topics::new("{base}", "{node}")
}

pub(crate) fn all() -> Vec<Channel> {
    let t = topics();
    let own = |tail: &str| format!("{{base}}/{{node}}/{tail}");
    let pool = |tail: &str| format!("{{base}}/{ANY}/{tail}");
    let out = |name: &str, address: String, messages: &[&str], operation, side, about| {
        channel(name, Some(address), messages, operation, side, about)
    };
    let news = |qos, retain| Side::Out {
        qos: Some(qos),
        retain,
        expires: false,
    };
    let frames = ["ChatChunk", "ChatFinal", "ChatError"];
    let mut all = vec![
        out(
            "status",
            t.status(),
            &["Status"],
            "publish",
            news(1, true),
            "Whether the daemon is there, and takes requests.",
        ),
        out(
            "info",
            t.info(),
            &["Info"],
            "publish",
            news(1, true),
            "What can be asked of the daemon.",
        ),
        out(
            "metrics",
            t.metrics(),
            &["Metrics"],
            "publish",
            news(0, false),
            "The daemon's numbers, every `mqtt.metrics_interval_s` seconds.",
        ),
        input(
            "chatRequest",
            t.request("{client}"),
            &["ChatRequest"],
            "take",
            Some("chatReply"),
            "Where a client asks. A retained request is dropped.",
        ),
        out(
            "chatReply",
            t.reply("{client}"),
            &frames,
            "send",
            REPLY,
            "Chunks, if they were asked for, and one final frame or error. With MQTT 5 a Response Topic that is allowed takes its place. Errors of `chatCancel` and `chatControl` come here too.",
        ),
        input(
            "poolRequest",
            pool("chat/{client}/request"),
            &["ChatRequest"],
            "take",
            Some("poolReply"),
            "With `pool.group`: where a client asks whichever daemon of the pool. A retained request is dropped.",
        ),
        out(
            "poolReply",
            t.pool_reply("{client}"),
            &frames,
            "send",
            REPLY,
            "The frames of a request to the pool. Their `node` names the daemon, whose own topics are used from then on.",
        ),
        input(
            "chatCancel",
            t.cancel("{client}"),
            &["Cancel", "Nothing"],
            "take",
            Some("chatReply"),
            "Ends requests of the client, each with its final frame.",
        ),
        input(
            "chatControl",
            own("chat/{client}/control"),
            &["Control"],
            "take",
            Some("chatReply"),
            "Changes a request that runs.",
        ),
        input(
            "ask",
            t.ask("{client}"),
            &["PlainText"],
            "take",
            Some("askAnswer"),
            "A question in plain text, for clients that say little.",
        ),
        out(
            "askAnswer",
            t.answer("{client}"),
            &["Answer"],
            "send",
            REPLY,
            "The whole answer in plain text.",
        ),
        input(
            "sessionVerb",
            t.session("{client}", "{session}", "{verb}"),
            &["Nothing"],
            "take",
            Some("sessionResult"),
            "Resets a conversation, saves it to a file, or drops it.",
        ),
        out(
            "sessionResult",
            t.session_result("{client}", "{session}"),
            &["SessionDone", "SessionRefused"],
            "send",
            REPLY,
            "How a conversation is after the verb.",
        ),
        input(
            "toolAnswer",
            t.tool_response("{random}"),
            &["ToolAnswer"],
            "take",
            None,
            "Where a tool of the daemon's own answers with MQTT 5: its call names this topic as the Response Topic.",
        ),
        out(
            "toolAudit",
            t.tool_audit(),
            &["ToolAudit"],
            "publish",
            news(1, false),
            "A line for each call of a tool of the daemon's own.",
        ),
        channel(
            "toolCall",
            None,
            &["ToolInvocation"],
            "publish",
            news(1, false),
            "The topic of a tool, as `[[tools]]` or a catalogue of `[tools_from]` says.",
        ),
        out(
            "discovery",
            homeassistant::config_topic("NODE").replace("NODE", "{node}"),
            &["Discovery", "Nothing"],
            "publish",
            news(1, true),
            "With `homeassistant.discovery`. Characters of the node other than `a-z A-Z 0-9 _ -` are `_`, and a part of its hash follows. It is emptied when that is switched off.",
        ),
        input(
            "homeAssistantStatus",
            homeassistant::STATUS.to_owned(),
            &["HomeAssistantStatus"],
            "take",
            None,
            "Home Assistant's own; at `online` the document of `discovery` is sent again.",
        ),
    ];
    for (verb, about) in VERBS {
        let response = name("admin", verb, "Response");
        let [asked, given] = ["Request", "Response"].map(|end| name("Admin", verb, end));
        let address = own(&format!("admin/{verb}/request"));
        all.push(input(
            &name("admin", verb, "Request"),
            address,
            &[&asked, "Nothing"],
            "take",
            Some(&response),
            about,
        ));
        all.push(out(
            &response,
            t.admin_response(verb),
            &[&given],
            "send",
            REPLY,
            about,
        ));
    }
    all
}

/// What a parameter is, by its name.
fn parameter(name: &str) -> Value {
    match name {
        "base" => {
            json!({"description": "The base topic of the configuration, of any depth.", "default": "glowplug"})
        }
        "node" => {
            json!({"description": "The daemon's name in the configuration; by default the host's."})
        }
        "client" => {
            json!({"description": "The client's own segment: 1 to 64 characters of `A-Z a-z 0-9 . _ -`. Whoever may use it is that client, so the broker's rules guard it."})
        }
        "session" => {
            json!({"description": "A conversation of the client, by its name: 1 to 64 characters of `A-Z a-z 0-9 . _ -`."})
        }
        "verb" => json!({"description": "What to do.", "enum": ["reset", "save", "drop"]}),
        "random" => json!({"description": "128 random bits in hexadecimal, which nobody guesses."}),
        other => panic!("nobody says what `{{{other}}}` is"),
    }
}

/// The names of the parameters in an address.
fn parameters(address: &str) -> impl Iterator<Item = &str> {
    address
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
}

pub(crate) fn channels(all: &[Channel]) -> Map<String, Value> {
    let one = |channel: &Channel| {
        let messages: Map<String, Value> = channel
            .messages
            .iter()
            .map(|name| {
                (
                    name.clone(),
                    json!({"$ref": format!("#/components/messages/{name}")}),
                )
            })
            .collect();
        let mut made =
            json!({"address": channel.address, "description": channel.about, "messages": messages});
        let parameters: Map<String, Value> = parameters(channel.address.as_deref().unwrap_or(""))
            .map(|name| {
                (
                    name.to_owned(),
                    json!({"$ref": format!("#/components/parameters/{name}")}),
                )
            })
            .collect();
        if !parameters.is_empty() {
            made["parameters"] = parameters.into();
        }
        (channel.name.clone(), made)
    };
    all.iter().map(one).collect()
}

pub(crate) fn all_parameters() -> Map<String, Value> {
    let names = ["base", "node", "client", "session", "verb", "random"];
    names
        .into_iter()
        .map(|name| (name.to_owned(), parameter(name)))
        .collect()
}

pub(crate) fn operations(all: &[Channel]) -> Map<String, Value> {
    let reference = |channel: &str| json!({"$ref": format!("#/channels/{channel}")});
    let messages = |of: &Channel| -> Vec<Value> {
        let one =
            |name: &String| json!({"$ref": format!("#/channels/{}/messages/{name}", of.name)});
        of.messages.iter().map(one).collect()
    };
    let one = |channel: &Channel| {
        let (first, rest) = channel.name.split_at(1);
        let name = format!("{}{}{rest}", channel.operation, first.to_uppercase());
        let mut mqtt = json!({"bindingVersion": "0.2.0"});
        let mut made = json!({"channel": reference(&channel.name), "messages": messages(channel)});
        match &channel.side {
            Side::In { reply } => {
                made["action"] = "receive".into();
                // the daemon's subscription; QoS 0 comes through it as well
                mqtt["qos"] = 1.into();
                mqtt["retain"] = false.into();
                if let Some(to) = reply {
                    let to = all.iter().find(|channel| channel.name == *to).unwrap();
                    made["reply"] =
                        json!({"channel": reference(&to.name), "messages": messages(to)});
                }
            }
            Side::Out {
                qos,
                retain,
                expires,
            } => {
                made["action"] = "send".into();
                match qos {
                    Some(qos) => mqtt["qos"] = (*qos).into(),
                    None => made["description"] = "The QoS is that of the request.".into(),
                }
                mqtt["retain"] = (*retain).into();
                if *expires {
                    mqtt["messageExpiryInterval"] = 60.into();
                }
            }
        }
        made["bindings"] = json!({"mqtt": mqtt});
        (name, made)
    };
    all.iter().map(one).collect()
}
