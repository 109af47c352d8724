//! The topic tree of the protocol, both ways: the topics to publish on, and what a topic that came in asks for.

use glowplug_model::engine::SessionVerb;
use sha2::{Digest, Sha256};

pub use super::clients::valid_segment;
use super::session;
use crate::hex::hex;
use crate::mqtt::Qos;

/// What a topic asks of the daemon. The names are borrowed from the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// A chat request, on `chat/{client}/request`.
    Request(&'a str),
    /// A chat request to whichever daemon of the pool, on `{base}/any/chat/{client}/request`.
    Pool(&'a str),
    /// A cancel, on `chat/{client}/cancel`.
    Cancel(&'a str),
    /// The end of a thought, on `chat/{client}/control`.
    Control(&'a str),
    /// A question in plain text, on `ask/{client}`.
    Ask(&'a str),
    /// A verb on a session, on `session/{client}/{session}/{reset|save|drop}`.
    Session {
        client: &'a str,
        session: &'a str,
        verb: SessionVerb,
    },
    /// An admin verb, on `admin/{verb}/request`.
    Admin(&'a str),
}

/// The topics of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    base: String,
    node: String,
}

impl Topics {
    /// The configuration has checked both parts.
    #[must_use]
    pub fn new(base: &str, node: &str) -> Self {
        Self {
            base: base.to_owned(),
            node: node.to_owned(),
        }
    }

    fn own(&self, tail: std::fmt::Arguments<'_>) -> String {
        format!("{}/{}/{tail}", self.base, self.node)
    }

    fn any(&self, tail: std::fmt::Arguments<'_>) -> String {
        format!("{}/{ANY}/{tail}", self.base)
    }

    /// The filter of the pool's requests. The broker gives each of them to one daemon of the group.
    #[must_use]
    pub fn pool(&self, group: &str) -> String {
        let requests = self.any(format_args!("chat/+/request"));
        format!("$share/{group}/{requests}")
    }

    /// Where the frames of a chat client's requests to the pool go unless it asked for another topic.
    #[must_use]
    pub fn pool_reply(&self, client: &str) -> String {
        self.any(format_args!("chat/{client}/reply"))
    }

    /// The MQTT client identifier of the daemon. Daemons of different names never have the same one. It is
    /// `{base}-{node}` with `.` for `/`; other characters of the base topic are escaped, and one that is too long for a
    /// broker ends in a hash.
    #[must_use]
    pub fn client_id(&self) -> String {
        let mut id = String::new();
        for byte in self.base.bytes() {
            match byte {
                b'/' => id.push('.'),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' => id.push(byte.into()),
                // escaped, so that the first `-` ends the base topic
                other => id.push_str(&format!("={other:02x}")),
            }
        }
        id.push('-');
        id.push_str(&self.node);
        if id.len() <= CLIENT_ID_MAX && id.is_ascii() {
            return id;
        }
        let hash = hex(&Sha256::digest(&id));
        let kept: String = id.chars().take(CLIENT_ID_MAX / 4).collect();
        format!("{kept}~{}", &hash[..CLIENT_ID_MAX / 2])
    }

    /// The daemon's state; retained, and also the topic of the last will.
    #[must_use]
    pub fn status(&self) -> String {
        self.own(format_args!("status"))
    }

    /// What can be asked of the daemon; retained.
    #[must_use]
    pub fn info(&self) -> String {
        self.own(format_args!("info"))
    }

    /// The daemon's numbers, published every few seconds.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.own(format_args!("metrics"))
    }

    /// Where a chat client sends its requests.
    #[must_use]
    pub fn request(&self, client: &str) -> String {
        self.own(format_args!("chat/{client}/request"))
    }

    /// Where a chat client's frames go unless it asked for another topic.
    #[must_use]
    pub fn reply(&self, client: &str) -> String {
        self.own(format_args!("chat/{client}/reply"))
    }

    /// Where a chat client cancels.
    #[must_use]
    pub fn cancel(&self, client: &str) -> String {
        self.own(format_args!("chat/{client}/cancel"))
    }

    /// Where a client asks in plain text.
    #[must_use]
    pub fn ask(&self, client: &str) -> String {
        self.own(format_args!("ask/{client}"))
    }

    /// Where an `ask` is answered.
    #[must_use]
    pub fn answer(&self, client: &str) -> String {
        self.own(format_args!("ask/{client}/answer"))
    }

    /// Where a client does something to a session of its own: `reset`, `save` or `drop`.
    #[must_use]
    pub fn session(&self, client: &str, session: &str, verb: &str) -> String {
        self.own(format_args!("session/{client}/{session}/{verb}"))
    }

    /// Where a session's verbs are answered.
    #[must_use]
    pub fn session_result(&self, client: &str, session: &str) -> String {
        self.own(format_args!("session/{client}/{session}/result"))
    }

    /// Where an admin verb is answered.
    #[must_use]
    pub fn admin_response(&self, verb: &str) -> String {
        self.own(format_args!("admin/{verb}/response"))
    }

    /// Where a tool answers with MQTT 5. `random` cannot be guessed.
    #[must_use]
    pub fn tool_response(&self, random: &str) -> String {
        self.own(format_args!("tool/{random}"))
    }

    /// Where every call of a tool is told.
    #[must_use]
    pub fn tool_audit(&self) -> String {
        self.own(format_args!("tool/audit"))
    }

    /// Whether a topic is one of [`Self::tool_responses`].
    #[must_use]
    pub fn is_tool(&self, topic: &str) -> bool {
        let rest = below(&self.base, topic).and_then(|rest| below(&self.node, rest));
        rest.and_then(|rest| below("tool", rest)).is_some()
    }

    /// The filter of all topics on which tools answer.
    #[must_use]
    pub fn tool_responses(&self) -> String {
        self.own(format_args!("tool/+"))
    }

    /// All filters that the daemon subscribes to. Its own status comes first: what the broker keeps of another daemon
    /// of this name has then arrived when the last subscription is granted.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<(String, Qos)> {
        let own = [
            "status",
            "chat/+/request",
            "chat/+/cancel",
            "chat/+/control",
            "ask/+",
            "session/+/+/reset",
            "session/+/+/save",
            "session/+/+/drop",
            "admin/+/request",
        ];
        own.iter()
            .map(|t| (self.own(format_args!("{t}")), Qos::AtLeastOnce))
            .collect()
    }

    /// What a topic asks for. None: it is not one of ours, or a segment is not valid for a client or a session.
    #[must_use]
    pub fn route<'a>(&self, topic: &'a str) -> Option<Route<'a>> {
        let rest = below(&self.base, topic)?;
        let (node, rest) = rest.split_once('/')?;
        let mut levels = rest.split('/');
        let parts = [levels.next(), levels.next(), levels.next(), levels.next()];
        if levels.next().is_some() || !parts[1].is_some_and(valid_segment) {
            return None;
        }
        let own = node == self.node;
        match parts {
            [Some("chat"), Some(client), Some("request"), None] if node == ANY => {
                Some(Route::Pool(client))
            }
            [Some("chat"), Some(client), Some("request"), None] if own => {
                Some(Route::Request(client))
            }
            [Some("chat"), Some(client), Some("cancel"), None] if own => {
                Some(Route::Cancel(client))
            }
            [Some("chat"), Some(client), Some("control"), None] if own => {
                Some(Route::Control(client))
            }
            [Some("ask"), Some(client), None, None] if own => Some(Route::Ask(client)),
            [Some("session"), Some(client), Some(session), Some(verb)]
                if own && valid_segment(session) =>
            {
                session::verb(verb).map(|verb| Route::Session {
                    client,
                    session,
                    verb,
                })
            }
            [Some("admin"), Some(verb), Some("request"), None] if own => Some(Route::Admin(verb)),
            _ => None,
        }
    }

    /// Whether replies for `client` may go to `topic`, which its request asked for. They may go below the client's own
    /// branch, here or of the pool, or below one of the operator's prefixes outside `{base}`. They never go to a topic that the daemon
    /// listens to, nor to one for which a broker would end the connection: `$…`, a wildcard, characters that MQTT
    /// forbids or lets a broker refuse, too many levels.
    ///
    /// # Errors
    /// The reason, for the client.
    pub fn may_reply_on(
        &self,
        client: &str,
        topic: &str,
        allow: &[String],
    ) -> Result<(), &'static str> {
        if topic.is_empty() || topic.len() > RESPONSE_TOPIC_MAX {
            return Err("a Response Topic has 1 to 512 bytes");
        }
        if topic.bytes().filter(|b| *b == b'/').count() >= LEVELS_MAX {
            return Err("a Response Topic has at most 128 levels");
        }
        if topic.starts_with('$') || topic.contains(['+', '#']) || topic.contains(is_refused) {
            return Err(
                "a Response Topic holds no wildcards, no control characters, and does not start with `$`",
            );
        }
        let allowed = if below(&self.base, topic).is_some() {
            let own = |kind| topic.starts_with(&self.own(format_args!("{kind}/{client}/")));
            let pool = topic.starts_with(&self.any(format_args!("chat/{client}/")));
            (own("chat") || own("ask") || own("session") || pool) && self.route(topic).is_none()
        } else {
            allow.iter().any(|prefix| {
                let prefix = prefix.trim_end_matches('/');
                topic == prefix || below(prefix, topic).is_some()
            })
        };
        if allowed {
            Ok(())
        } else {
            Err("the Response Topic is neither this client's own nor on the allow-list")
        }
    }
}

/// What stands for the node where whichever daemon of the pool is meant. No daemon has this name.
pub const ANY: &str = "any";
/// Longest client identifier in bytes that the brokers in use take.
const CLIENT_ID_MAX: usize = 128;
/// Longest Response Topic, in bytes.
const RESPONSE_TOPIC_MAX: usize = 512;
/// Most levels of a Response Topic: Mosquitto ends the connection above 200, EMQX refuses more than 128.
const LEVELS_MAX: usize = 128;

/// Whether a broker may end the connection for this character (MQTT 5, 1.5.4): controls and non-characters.
fn is_refused(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// The part of a topic that follows `{base}/`.
#[must_use]
pub fn below<'a>(base: &str, topic: &'a str) -> Option<&'a str> {
    topic.strip_prefix(base)?.strip_prefix('/')
}

/// The embedded broker's rule for the owner's own programs. They may read what the daemon tells everybody, and use the
/// branches of the client that their MQTT client identifier names (`kitchen`, or `kitchen:anything` for a second
/// connection of the same client). `rest` is a topic or filter below `{base}/`.
#[must_use]
pub fn local_may(client_id: &str, rest: &str, publish: bool) -> bool {
    let client = client_id
        .split_once(':')
        .map_or(client_id, |(client, _)| client);
    let mut levels = rest.split('/');
    let node = levels.next();
    match (levels.next(), levels.next()) {
        (Some("tool"), Some("audit")) => !publish,
        (Some("admin"), Some(_)) => node != Some("#"),
        _ => user_may(client, rest, publish),
    }
}

/// The embedded broker's rule for a user of its file, whose name is its client's segment: what the daemon tells everybody, and
/// the branches of that client. The operator's verbs and the record of all calls are none of its business.
#[must_use]
pub fn user_may(name: &str, rest: &str, publish: bool) -> bool {
    let mut levels = rest.split('/');
    let node = levels.next();
    if node == Some("#") {
        return false;
    }
    match (levels.next(), levels.next()) {
        (Some("status" | "info" | "metrics"), None) => !publish,
        (Some("chat" | "ask" | "session"), Some(segment)) => segment == name && valid_segment(name),
        // the other side of the daemon's tools: whoever answers one was told where
        (Some("tool"), Some(level)) => publish && level != "audit",
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
