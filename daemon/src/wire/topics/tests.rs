//! Every topic, both ways, and who may use it.

use super::*;
use glowplug_firmware_config::limits::CLIENT_MAX;
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
        ("plant7/ai/any/chat/a/request", Some(Route::Pool("a"))),
        ("plant7/ai/any/chat/a/cancel", None),
        ("plant7/ai/any/chat/a b/request", None),
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
        t.pool_reply("a"),
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
        ("plant7/ai/any/chat/a/reply", true),
        ("plant7/ai/any/chat/a/reply/42", true),
        ("plant7/ai/any/chat/b/reply", false),
        ("plant7/ai/any/ask/a/answer", false),
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
        let name = id.split(':').next().unwrap();
        assert_eq!(user_may(name, rest, publish), ok, "{name} {rest} {publish}");
    }
}

/// Any text, and levels that mean something in any order.
fn nearly_a_topic() -> impl Strategy<Value = String> {
    let level = proptest::sample::select(vec![
        "plant7", "ai", "n1", "any", "chat", "ask", "session", "admin", "a", "b", "s", "request",
        "reply", "answer", "cancel", "control", "drop", "result", "status", "+", "#", "", "$SYS",
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
            let rest = ["plant7/ai/n1/", "plant7/ai/any/"].iter().find_map(|own| topic.strip_prefix(own));
            prop_assert_eq!(rest.and_then(|rest| rest.split('/').nth(1)), Some("a"));
        }
        // what is routed belongs to the segment of a client, or to the operator
        match t.route(&topic) {
            Some(Route::Request(c) | Route::Pool(c) | Route::Ask(c) | Route::Cancel(c) | Route::Control(c)) => {
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
        // a further user reaches less than a program on this machine that calls itself by its name
        for publish in [true, false] {
            prop_assert!(!user_may("a", &topic, publish) || local_may("a", &topic, publish));
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
        let topic = format!("plant7/ai/any/chat/{client}/request");
        prop_assert_eq!(t.route(&topic), Some(Route::Pool(client.as_str())));
        prop_assert!(t.may_reply_on(&client, &t.pool_reply(&client), &[]).is_ok());
        let topic = t.request(&client);
        prop_assert_eq!(t.route(&topic), Some(Route::Request(client.as_str())));
        prop_assert!(t.may_reply_on(&client, &t.reply(&client), &[]).is_ok());
        let topic = t.session(&client, "s", "save");
        let verb = SessionVerb::Save;
        prop_assert_eq!(t.route(&topic), Some(Route::Session { client: &client, session: "s", verb }));
    }
}
