//! Requests to whichever daemon of the pool.

use super::*;

#[test]
fn a_request_to_the_pool_is_answered_on_the_pools_topics() {
    let mut w = world();
    let request = "b/any/chat/c/request";
    let o = w.send(request, HI);
    assert_eq!(
        (o.submitted.len(), &o.recorded[..]),
        (1, &["b/any/chat/c/reply".to_owned()][..])
    );
    assert!(w.send(REQUEST, HI).recorded.is_empty(), "the same request");
    // refused, where its client listens
    let o = w.send(request, r#"{"id":"2","messages":[]}"#);
    assert_eq!(o.frames[0].0.topic, "b/any/chat/c/reply");
    assert_eq!(o.frames[0].1["error"]["code"], "invalid_request");
    let respond = |to: &str, id: &str| {
        let body = HI.replace("\"1\"", &format!("\"{id}\""));
        let mut message = Publication::new(request, body, Qos::AtLeastOnce);
        message.properties.response_topic = Some(to.to_owned());
        message
    };
    let o = w.take(respond("b/any/chat/c/reply/7", "3"), None);
    assert_eq!(o.recorded, ["b/any/chat/c/reply/7"]);
    let o = w.take(respond("b/any/chat/d/reply", "4"), None);
    assert_eq!(o.frames[0].0.topic, "b/any/chat/c/reply");
    assert_eq!(o.frames[0].1["error"]["code"], "response_topic_denied");
    // a retained one would run at every start
    let mut retained = Publication::new(request, HI, Qos::AtLeastOnce);
    retained.retain = true;
    assert!(w.take(retained, None).frames.is_empty());
    assert_eq!(w.refused("retained"), 1);
}
