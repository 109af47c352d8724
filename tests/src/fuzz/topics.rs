//! Any bytes as a topic with its properties, a line each: what is routed names a client that a topic can name, and a reply
//! never goes where the daemon listens, to a wildcard, or below another client's branch.

use bytes::Bytes;
use glowplug::mqtt::{Publication, Qos};
use glowplug::wire::properties::{id_of, reply_to};
use glowplug::wire::topics::{Route, Topics, valid_segment};
use glowplug_firmware_config::limits::ID_MAX;

pub(super) fn run(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |&b| b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (topic, response, correlation) = (line(), line(), line());
    let (Ok(topic), Ok(response)) = (std::str::from_utf8(topic), std::str::from_utf8(response))
    else {
        return;
    };
    let topics = Topics::new("plant7/ai", "n1");
    if let Some(route) = topics.route(topic) {
        let (Route::Request(client)
        | Route::Pool(client)
        | Route::Cancel(client)
        | Route::Control(client)
        | Route::Ask(client)
        | Route::Admin(client)
        | Route::Session { client, .. }) = route;
        assert!(valid_segment(client));
        assert!(topic.starts_with("plant7/ai/"));
    }
    let correlation = Bytes::copy_from_slice(correlation);
    assert!(id_of(&correlation).is_none_or(|id| id.len() <= ID_MAX));
    let mut message = Publication::new(topic, "", Qos::AtLeastOnce);
    message.properties.response_topic = Some(response.to_owned());
    message.properties.correlation_data = Some(correlation);
    let allow = ["building/answers".to_owned()];
    let default = topics.reply("a");
    match reply_to(
        &message,
        "a",
        default.clone(),
        "application/json",
        &topics,
        &allow,
    ) {
        Ok(reply) => {
            assert_eq!(reply.topic, response);
            assert!(!reply.topic.contains(['+', '#', '\0']) && !reply.topic.starts_with('$'));
            assert!(topics.route(&reply.topic).is_none(), "we listen there");
            let own = ["chat", "ask", "session"].map(|kind| format!("plant7/ai/n1/{kind}/a/"));
            assert!(
                own.iter().any(|own| reply.topic.starts_with(own))
                    || reply.topic == "building/answers"
                    || reply.topic.starts_with("building/answers/")
            );
        }
        Err((_, reply)) => assert_eq!(reply.topic, default),
    }
}
