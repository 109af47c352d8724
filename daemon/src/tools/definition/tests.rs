use super::*;
use proptest::prelude::*;

const SCHEMA: &str = r#"{"type":"object","properties":{"room":{"enum":["kitchen","hall"]},"state":{"enum":["ON","OFF"]},
    "level":{"type":"integer"},"note":{"type":"string"},"unit":{"enum":[1,2]}},"required":["room","state","unit"],"additionalProperties":false}"#;

fn written() -> Written {
    Written {
        name: "set_light".to_owned(),
        parameters: Some(SCHEMA.to_owned()),
        topic: "zigbee2mqtt/{room}/set".to_owned(),
        timeout: Duration::from_secs(2),
        ..Written::default()
    }
}

fn error(change: impl FnOnce(&mut Written)) -> DefinitionError {
    let mut written = written();
    change(&mut written);
    Definition::new(written, "plant/ai").unwrap_err()
}

#[test]
fn what_is_wrong_is_said_of_its_key() {
    use DefinitionError as E;
    let says = |error: DefinitionError, key: fn(String) -> DefinitionError, part: &str| {
        let text = error.to_string();
        assert_eq!(error, key(text.clone()), "{text}");
        assert!(text.contains(part), "{text} {part}");
    };
    says(error(|w| w.name = "a b".into()), E::Name, "1 to 64");
    says(
        error(|w| w.description = Some("x".repeat(5000))),
        E::Description,
        "4096 bytes",
    );
    says(
        error(|w| w.parameters = Some("{".into())),
        E::Parameters,
        "is no JSON",
    );
    says(
        error(|w| w.parameters = Some("[]".into())),
        E::Parameters,
        "object",
    );
    for (topic, part) in [
        ("", "1 to 512"),
        ("a/x{room}", "one whole level"),
        ("a/{attic}", "`{attic}`, which is no required property"),
        ("a/{level}", "`{level}`, which is no required property"),
        ("a/+", "no wildcard"),
        ("$SYS/a", "start with `$`"),
        ("plant/ai/n/chat", "below `plant/ai/`"),
        ("homeassistant/light", "below `homeassistant/`"),
        ("zigbee2mqtt/bridge/request", "below `zigbee2mqtt/bridge/`"),
    ] {
        says(error(|w| w.topic = topic.into()), E::Topic, part);
    }
    for (values, part) in [
        (r#"{"type":"string"}"#, "bound by `enum`"),
        (r#"{"enum":[]}"#, "bound by `enum`"),
        (r#"{"enum":["a/b"]}"#, "one of whose values has `a/b`"),
        (r#"{"enum":["a","+"]}"#, "one of whose values has `+`"),
        (r#"{"enum":[""]}"#, "empty level"),
        (r#"{"enum":["$a"]}"#, "starts with `$`"),
        (r#"{"enum":[null]}"#, "value null is no topic level"),
        (r#"{"enum":[1.5]}"#, "value 1.5 is no topic level"),
        (r#"{"enum":["bridge"]}"#, "below `zigbee2mqtt/bridge/`"),
    ] {
        let schema = format!(r#"{{"properties":{{"room":{values}}},"required":["room"]}}"#);
        says(error(|w| w.parameters = Some(schema)), E::Topic, part);
    }
    let many: Vec<String> = (0..300).map(|n| format!("\"{n}\"")).collect();
    let schema = format!(
        r#"{{"properties":{{"room":{{"enum":[{}]}}}},"required":["room"]}}"#,
        many.join(",")
    );
    says(
        error(|w| w.parameters = Some(schema)),
        E::Topic,
        "more than 256 values",
    );
    let long = format!(
        r#"{{"properties":{{"room":{{"enum":["{}"]}}}},"required":["room"]}}"#,
        "x".repeat(600)
    );
    says(
        error(|w| w.parameters = Some(long)),
        E::Topic,
        "longer than 512 bytes",
    );
    says(
        error(|w| w.reply_topic = Some("a/{level}".into())),
        E::ReplyTopic,
        "no required property",
    );
    says(
        error(|w| w.reply_topic = Some("zigbee2mqtt/{room}/set".into())),
        E::ReplyTopic,
        "hear itself",
    );
    says(
        error(|w| w.reply_topic = Some("plant/ai/x".into())),
        E::ReplyTopic,
        "below `plant/ai/`",
    );
    says(
        error(|w| w.payload = Some("ON".into())),
        E::Payload,
        "is no JSON",
    );
    says(
        error(|w| w.payload = Some(r#"{"a":["{attic}"]}"#.into())),
        E::Payload,
        "`{attic}`, which is no property",
    );
    says(
        error(|w| w.payload = Some("1".repeat(5000))),
        E::Payload,
        "4096 bytes",
    );
    says(
        error(|w| w.payload_text = Some("{attic}".into())),
        E::PayloadText,
        "no required property",
    );
    says(
        error(|w| w.payload_text = Some("a {room".into())),
        E::PayloadText,
        "without its `}`",
    );
    let free = SCHEMA.replace(r#""required":["#, r#""required":["note","#);
    says(
        error(|w| {
            w.parameters = Some(free);
            w.payload_text = Some("{note}".into());
        }),
        E::PayloadText,
        "bound neither by `enum`",
    );
    says(
        error(|w| {
            w.payload = Some("1".into());
            w.payload_text = Some("{state}".into());
        }),
        E::PayloadText,
        "exclude each other",
    );
}

#[test]
fn a_call_fills_in_topic_and_payload() {
    let call = r#"{"room":"hall","state":"ON","unit":2,"level":7}"#;
    let plan = |change: fn(&mut Written), call: &str| {
        let mut written = written();
        change(&mut written);
        let planned = Definition::new(written, "plant/ai").unwrap().plan(call);
        planned.map(|p| {
            (
                p.topic,
                String::from_utf8(p.payload.to_vec()).unwrap(),
                p.json,
                p.reply_topic,
            )
        })
    };
    let topic = || "zigbee2mqtt/hall/set".to_owned();
    assert_eq!(
        plan(|_| {}, call).unwrap(),
        (topic(), call.to_owned(), true, None)
    );
    let filled = plan(
        |w| {
            w.payload = Some(
                r#"{"state":"{state}","deep":[{"l":"{level}"},"{note}","x {state}"],"n":"{note}"}"#
                    .into(),
            );
            w.reply_topic = Some("zigbee2mqtt/{room}".into());
        },
        call,
    );
    let payload = r#"{"state":"ON","deep":[{"l":7},"x {state}"]}"#;
    let (filled_topic, said, json, reply) = filled.unwrap();
    assert_eq!(
        (filled_topic, json, reply.as_deref()),
        (topic(), true, Some("zigbee2mqtt/hall"))
    );
    let [said, expected] =
        [said.as_str(), payload].map(|text| serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(said, expected);
    let text = plan(|w| w.payload_text = Some("{state}-{unit}".into()), call).unwrap();
    assert_eq!((text.1.as_str(), text.2), ("ON-2", false));
    let unit = plan(|w| w.topic = "cmnd/{unit}/POWER".into(), call).unwrap();
    assert_eq!(unit.0, "cmnd/2/POWER");
    for (call, says) in [
        ("[]", "arguments: "),
        ("{", "arguments: "),
        (r#"{"room":"hall","unit":1}"#, "`state` is missing"),
        (
            r#"{"room":"../hall","state":"ON","unit":1}"#,
            "`room` is none of",
        ),
        (
            r#"{"room":"hall","state":"ON","unit":1,"x":1}"#,
            "there is no `x`",
        ),
    ] {
        let error = plan(|_| {}, call).unwrap_err();
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn only_who_is_named_may_use_a_tool() {
    let nobody = Definition::new(written(), "b").unwrap();
    assert!(!nobody.is_for("panel"));
    let some = Written {
        clients: vec!["panel".into(), "voice-*".into()],
        ..written()
    };
    let some = Definition::new(some, "b").unwrap();
    assert!(some.is_for("panel") && some.is_for("voice-1") && !some.is_for("panel2"));
}

#[test]
fn a_thing_of_a_catalogue_has_only_its_own_states() {
    let thing = |topic: &str, states: &[(&str, &str)]| Thing {
        topic: topic.into(),
        reply_topic: None,
        states: states
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
        ..Thing::default()
    };
    let things = BTreeMap::from([
        (
            "Lamp".to_owned(),
            thing("a/lamp", &[("on", "ON"), ("off", "OFF")]),
        ),
        (
            "Door".to_owned(),
            thing("a/door", &[("open", r#"{"s":1}"#)]),
        ),
    ]);
    let tool =
        Definition::of_things("set", "Sets.", things, vec!["c".into()], Duration::ZERO).unwrap();
    assert!(
        tool.tool.parameters().contains(r#"["Door","Lamp"]"#),
        "{}",
        tool.tool.parameters()
    );
    let planned = tool.plan(r#"{"name":"Door","state":"open"}"#).unwrap();
    assert_eq!(
        (planned.topic.as_str(), &planned.payload[..], planned.json),
        ("a/door", &br#"{"s":1}"#[..], true)
    );
    for call in [
        r#"{"name":"Door","state":"on"}"#,
        r#"{"name":"Gate","state":"on"}"#,
        "{}",
    ] {
        assert!(tool.plan(call).is_err(), "{call}");
    }
    assert!(Definition::of_things("set", "", BTreeMap::new(), vec![], Duration::ZERO).is_none());
}

proptest! {
    /// Whatever a model writes as arguments, nothing is published outside of the owner's pattern.
    #[test]
    fn no_argument_leaves_the_owners_topic(room in ".{0,12}", state in ".{0,6}") {
        let call = serde_json::json!({"room": room, "state": state, "unit": 1}).to_string();
        if let Ok(planned) = Definition::new(written(), "b").unwrap().plan(&call) {
            prop_assert!(["zigbee2mqtt/kitchen/set", "zigbee2mqtt/hall/set"].contains(&&*planned.topic));
        }
    }
}
