//! The topic tree of `protocol.md`, both ways: names to write on, and what a name that came in asks for.

use glowplug_firmware_config::limits::CLIENT_MAX;
use glowplug_model::engine::SessionVerb;
use sha2::{Digest, Sha256};

use super::session;
use crate::hex::hex;
use crate::mqtt::Qos;

/// What a topic asks of us. Borrowed from the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// `chat/{client}/request`
    Request(&'a str),
    /// `chat/{client}/cancel`
    Cancel(&'a str),
    /// `chat/{client}/control`
    Control(&'a str),
    /// `ask/{client}`
    Ask(&'a str),
    /// `session/{client}/{session}/{reset|save|drop}`
    Session {
        /// whose
        client: &'a str,
        /// which
        session: &'a str,
        /// what to do
        verb: SessionVerb,
    },
    /// `admin/{verb}/request`
    Admin(&'a str),
}

/// The names of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    base: String,
    node: String,
}

impl Topics {
    /// Both were checked by the configuration.
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

    /// The MQTT client identifier of the daemon: no two of different names have the same. It is `{base}-{node}` with `.`
    /// for `/`; other characters of the base topic are escaped, and what is too long for a broker ends in a hash.
    #[must_use]
    pub fn client_id(&self) -> String {
        let mut id = String::new();
        for byte in self.base.bytes() {
            match byte {
                b'/' => id.push('.'),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' => id.push(byte.into()),
                // so that the first `-` ends the base topic
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

    /// Retained, and the last will's.
    #[must_use]
    pub fn status(&self) -> String {
        self.own(format_args!("status"))
    }

    /// Retained.
    #[must_use]
    pub fn info(&self) -> String {
        self.own(format_args!("info"))
    }

    /// Every few seconds.
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

    /// Everything the daemon listens to. Its own status comes first: whatever the broker keeps of another daemon of this
    /// name has arrived when the last subscription is granted.
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

    /// None: not one of ours, or a segment that a client or session cannot have.
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

    /// May replies for `client` go to `topic`, which the request asked for? Below the client's own branch, or below one
    /// of the operator's prefixes outside `{base}`; never where we listen ourselves, and never on what a broker ends the
    /// connection for: `$…`, a wildcard, characters that MQTT forbids or lets it refuse, too many levels.
    ///
    /// # Errors
    /// Why not, for the client.
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
            (own("chat") || own("ask") || own("session")) && self.route(topic).is_none()
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

/// Longest client identifier, in bytes, that brokers in use take.
const CLIENT_ID_MAX: usize = 128;
/// Longest Response Topic, in bytes.
const RESPONSE_TOPIC_MAX: usize = 512;
/// Most levels of one: Mosquitto ends the connection above 200, EMQX refuses more than 128.
const LEVELS_MAX: usize = 128;

/// Characters for which a broker may end the connection (MQTT 5, 1.5.4): controls and non-characters.
fn is_refused(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// What follows `{base}/`.
#[must_use]
pub fn below<'a>(base: &str, topic: &'a str) -> Option<&'a str> {
    topic.strip_prefix(base)?.strip_prefix('/')
}

/// 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn valid_segment(segment: &str) -> bool {
    (1..=CLIENT_MAX).contains(&segment.len())
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The embedded broker's rule for the owner's own programs: what the daemon tells everybody, and the branches of the
/// client that the MQTT client identifier names (`kitchen`, or `kitchen:anything` for a second connection of the same
/// client). `rest` is a topic or filter below `{base}/`.
#[must_use]
pub fn local_may(client_id: &str, rest: &str, publish: bool) -> bool {
    let client = client_id
        .split_once(':')
        .map_or(client_id, |(client, _)| client);
    let mut levels = rest.split('/');
    let node = levels.next();
    if node == Some("#") {
        return false;
    }
    match (levels.next(), levels.next()) {
        (Some("status" | "info" | "metrics"), None) => !publish,
        (Some("chat" | "ask" | "session"), Some(segment)) => {
            segment == client && valid_segment(client)
        }
        (Some("admin"), Some(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topics() -> Topics {
        Topics::new("plant7/ai", "n1")
    }

    #[test]
    fn routes() {
        let t = topics();
        let table = [
            ("plant7/ai/n1/chat/a/request", Some(Route::Request("a"))),
            ("plant7/ai/n1/chat/a/cancel", Some(Route::Cancel("a"))),
            ("plant7/ai/n1/chat/a/control", Some(Route::Control("a"))),
            ("plant7/ai/n1/ask/a", Some(Route::Ask("a"))),
            (
                "plant7/ai/n1/session/a/s/drop",
                Some(Route::Session {
                    client: "a",
                    session: "s",
                    verb: SessionVerb::Drop,
                }),
            ),
            ("plant7/ai/n1/session/a/s/load", None),
            ("plant7/ai/n1/session/a//drop", None),
            ("plant7/ai/any/session/a/s/drop", None),
            (
                "plant7/ai/n1/admin/stats/request",
                Some(Route::Admin("stats")),
            ),
            ("plant7/ai/any/chat/a/request", None),
            ("plant7/ai/n1/chat/a/reply", None),
            ("plant7/ai/n1/ask/a/answer", None),
            ("plant7/ai/n1/session/a/s/result", None),
            ("plant7/ai/n1/session/a/s t/drop", None),
            ("plant7/ai/n2/chat/a/request", None),
            ("plant7/ai/any/ask/a", None),
            ("plant7/ai/n1/chat//request", None),
            ("plant7/ai/n1/chat/a b/request", None),
            ("plant7/ai/n1/chat/ä/request", None),
            ("plant7/ai/n1/chat/a/request/x", None),
            ("plant7/ai/n1/chat/a", None),
            ("plant7/ai", None),
            ("", None),
        ];
        for (topic, route) in table {
            assert_eq!(t.route(topic), route, "{topic}");
        }
        let long = "x".repeat(CLIENT_MAX + 1);
        assert_eq!(t.route(&format!("plant7/ai/n1/ask/{long}")), None);
        assert!(
            t.route(&format!("plant7/ai/n1/ask/{}", &long[1..]))
                .is_some()
        );
    }

    #[test]
    fn no_two_daemons_have_the_same_client_identifier() {
        let id = |base: &str, node: &str| Topics::new(base, node).client_id();
        assert_eq!(id("glowplug", "n1"), "glowplug-n1");
        assert_eq!(id("plant7/ai", "line-1"), "plant7.ai-line-1");
        assert_ne!(id("plant", "line-1"), id("plant-line", "1"));
        assert_ne!(id("a/b", "n"), id("a.b", "n"));
        assert_ne!(id("a=2d", "n"), id("a-", "n"));
        let long = "ä/".repeat(60) + "x";
        let (one, two) = (id(&long, "1"), id(&long, "2"));
        assert!(one != two && one.len() <= CLIENT_ID_MAX, "{one}");
        assert!(!one.contains(['/', '+', '#']));
    }

    #[test]
    fn what_is_written_is_never_what_is_listened_to() {
        let t = topics();
        for topic in [
            t.status(),
            t.info(),
            t.metrics(),
            t.reply("a"),
            t.answer("a"),
            t.session_result("a", "s"),
            t.admin_response("v"),
        ] {
            assert_eq!(t.route(&topic), None, "{topic}");
        }
    }

    #[test]
    fn response_topics() {
        let t = topics();
        let allow = vec!["apps/answers/".to_owned(), "plant7".to_owned()];
        let table = [
            ("plant7/ai/n1/chat/a/reply", true),
            ("plant7/ai/n1/chat/a/reply/42", true),
            ("plant7/ai/n1/ask/a/answer", true),
            ("plant7/ai/n1/session/a/s/result", true),
            ("plant7/ai/n1/session/a/s/drop", false),
            ("plant7/ai/n1/session/b/s/result", false),
            ("plant7/ai/n1/chat/a/request", false),
            ("plant7/ai/n1/chat/a/cancel", false),
            ("plant7/ai/n1/chat/b/reply", false),
            ("plant7/ai/n1/chat/ab/reply", false),
            ("plant7/ai/n1/status", false),
            ("plant7/ai/n2/chat/a/request", false),
            ("plant7/ai/any/chat/a/request", false),
            ("apps/answers", true),
            ("apps/answers/x", true),
            ("apps/answersx", false),
            ("plant7/other", true),
            ("$SYS/broker", false),
            ("apps/answers/+", false),
            ("apps/answers/#", false),
            ("apps/answers/\0", false),
            ("apps/answers/\u{1f}", false),
            ("apps/answers/\u{7f}", false),
            ("apps/answers/\u{9f}", false),
            ("apps/answers/\u{feff}", true),
            ("apps/answers/\u{fdd0}", false),
            ("apps/answers/\u{ffff}", false),
            ("apps/answers/\u{1fffe}", false),
            ("apps/answers/\u{1f408}", true),
            ("", false),
        ];
        for (topic, ok) in table {
            assert_eq!(t.may_reply_on("a", topic, &allow).is_ok(), ok, "{topic:?}");
        }
        let may = |topic: String| t.may_reply_on("a", &topic, &allow).is_ok();
        assert!(may(format!("apps/answers/{}", "x".repeat(499))));
        assert!(!may(format!("apps/answers/{}", "x".repeat(500))));
        assert!(may(format!("apps/answers{}", "/x".repeat(126))));
        assert!(!may(format!("apps/answers{}", "/x".repeat(127))));
    }

    #[test]
    fn a_local_program_reaches_its_own_client_only() {
        let table = [
            ("a", "n/chat/a/request", true, true),
            ("a:sub", "n/chat/a/reply", false, true),
            ("a", "+/chat/a/#", false, true),
            ("a", "+/ask/a/answer", false, true),
            ("a", "n/ask/a", true, true),
            ("a", "any/chat/a/request", true, true),
            ("a", "n/chat/b/request", true, false),
            ("a", "n/chat/+/reply", false, false),
            ("a", "+/chat/#", false, false),
            ("a", "#", false, false),
            ("a", "n/#", false, false),
            ("a", "+/+/a/reply", false, false),
            ("+", "n/chat/+/reply", false, false),
            ("a", "+/status", false, true),
            ("a", "n/status", true, false),
            ("a", "n/info", true, false),
            ("", "n/chat//request", true, false),
        ];
        for (id, rest, publish, ok) in table {
            assert_eq!(local_may(id, rest, publish), ok, "{id} {rest} {publish}");
        }
    }

    /// Any text, and levels that mean something in any order.
    fn nearly_a_topic() -> impl Strategy<Value = String> {
        let level = proptest::sample::select(vec![
            "plant7", "ai", "n1", "any", "chat", "ask", "session", "admin", "a", "b", "s",
            "request", "reply", "answer", "cancel", "control", "drop", "result", "status", "+",
            "#", "", "$SYS",
        ]);
        let known =
            (any::<bool>(), proptest::collection::vec(level, 0..6)).prop_map(|(base, levels)| {
                let base = if base { "plant7/ai/n1/" } else { "" };
                base.to_owned() + &levels.join("/")
            });
        prop_oneof![".{0,200}", known]
    }

    proptest! {
        #[test]
        fn a_topic_that_is_listened_to_is_never_replied_on(topic in nearly_a_topic()) {
            let t = topics();
            let everything = ["plant7".to_owned()];
            if t.may_reply_on("a", &topic, &everything).is_ok() {
                prop_assert_eq!(t.route(&topic), None);
                prop_assert!(!topic.contains(['+', '#', '\0']) && !topic.starts_with('$') && !topic.is_empty());
            }
            // without an allow-list it is below the client's own segment
            if t.may_reply_on("a", &topic, &[]).is_ok() {
                prop_assert_eq!(topic.strip_prefix("plant7/ai/n1/").and_then(|rest| rest.split('/').nth(1)), Some("a"));
            }
            // what is routed belongs to the segment of a client, or to the operator
            match t.route(&topic) {
                Some(Route::Request(c) | Route::Ask(c) | Route::Cancel(c) | Route::Control(c)) => {
                    let level = format!("/{c}");
                    prop_assert!(valid_segment(c) && topic.contains(&level));
                }
                Some(Route::Session { client, session, .. }) => {
                    let levels = format!("/session/{client}/{session}/");
                    prop_assert!(valid_segment(client) && topic.contains(&levels));
                }
                Some(Route::Admin(verb)) => prop_assert_eq!(&topic, &format!("plant7/ai/n1/admin/{verb}/request")),
                None => {}
            }
            // and a program on this machine reaches no segment but its own
            if local_may("a", &topic, true) && topic.split('/').nth(1).is_some_and(|kind| kind != "admin") {
                prop_assert_eq!(topic.split('/').nth(2), Some("a"));
            }
        }

        #[test]
        fn names_and_client_identifiers_are_as_many(
            one in ("[a/.=-]{1,4}", "[a.-]{1,3}"),
            two in ("[a/.=-]{1,4}", "[a.-]{1,3}"),
        ) {
            let id = |(base, node): &(String, String)| Topics::new(base, node).client_id();
            prop_assert_eq!(id(&one) == id(&two), one == two);
        }

        #[test]
        fn a_request_topic_names_its_client(client in "[A-Za-z0-9._-]{1,64}") {
            let t = topics();
            let topic = t.request(&client);
            prop_assert_eq!(t.route(&topic), Some(Route::Request(client.as_str())));
            prop_assert!(t.may_reply_on(&client, &t.reply(&client), &[]).is_ok());
            let topic = t.session(&client, "s", "save");
            let verb = SessionVerb::Save;
            prop_assert_eq!(t.route(&topic), Some(Route::Session { client: &client, session: "s", verb }));
        }
    }
}
