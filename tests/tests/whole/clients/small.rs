//! The client for a microcontroller, against the daemon.

#[path = "../../../../firmware-config/examples/button.rs"]
#[allow(unreachable_pub, reason = "an example of its own")]
mod button;

use button::{Button, Light};
use glowplug_firmware_config::wire::{reply_topic, request_topic};
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{Kind, World, request, topic, wrong_request};
use serde_json::json;

fn asks_and_is_answered(kind: Kind, version: Version) {
    let mut world = World::new(kind);
    let mut panel = world.client(version, "panel");
    let mut button = Button::new();
    assert_eq!(
        request_topic("glowplug", "n1", "panel").unwrap().as_str(),
        topic("chat/panel/request")
    );
    let replies = reply_topic("glowplug", "n1", "panel").unwrap();
    for question in ["the rain", "\"the\"\nplain"] {
        let payload = button.press(question).unwrap().to_vec();
        panel.publish(&Message::new(
            topic("chat/panel/request"),
            String::from_utf8(payload).unwrap(),
        ));
        let (mut chunks, mut whole) = (String::new(), String::new());
        panel.until("the answer", |message| {
            (message.topic == replies.as_str()).then_some(())?;
            let before = button.line.len();
            let light = button.hear(&message.payload);
            match light {
                Light::Busy => chunks.push_str(&button.line[before..]),
                Light::Done => {
                    whole = message.json()["choices"][0]["message"]["content"]
                        .as_str()
                        .unwrap()
                        .to_owned();
                }
                other => panic!("{other:?}"),
            }
            (light == Light::Done).then_some(())
        });
        assert_eq!(button.line, whole.as_str());
        assert_eq!(chunks, whole);
    }
    // one that is refused
    wrong_request(&mut panel, &json!({"id": "b2", "messages": 7}));
    let reply = |m: &Message| (m.topic == replies.as_str()).then(|| m.payload.clone());
    let refused = panel.until("the refusal", reply);
    assert_eq!(button.hear(&refused), Light::Failed);
    // another's frames are not for it
    request(&mut panel, &World::endless("other", 2));
    let frame = panel.until("a frame", reply);
    assert_eq!(button.hear(&frame), Light::Busy);
    world.metrics("all done", |m| m["finished"] == 3);
}

#[test]
fn a_microcontroller_is_answered_by_mosquitto() {
    asks_and_is_answered(Kind::Mosquitto, Version::V3);
}

#[test]
fn a_microcontroller_is_answered_by_the_embedded_broker() {
    asks_and_is_answered(Kind::Embedded, Version::V5);
}
