//! `[[tools]]`, `[tools_from]`, and the tools of presets.

use super::*;

#[test]
fn tools_are_read_as_the_owner_wrote_them() {
    let c = load(
        r#"
        [engine]
        tools_max_rounds = 2
        [[tools]]
        name = "set_light"
        description = "Switch a lamp on or off"
        parameters = '{"type":"object","properties":{"room":{"enum":["kitchen","hall"]},"state":{"enum":["ON","OFF"]}},"required":["room","state"],"additionalProperties":false}'
        topic = "zigbee2mqtt/{room}/set"
        payload = '{"state":"{state}"}'
        reply_topic = "zigbee2mqtt/{room}"
        timeout_ms = 500
        clients = ["panel", "voice-*"]
        [[tools]]
        name = "bell"
        topic = "house/bell"
        confirm = true
        [[presets]]
        name = "cabin"
        tools = ["bell"]
        "#,
    )
    .unwrap();
    let [light, bell] = &c.tools[..] else {
        panic!("{:?}", c.tools)
    };
    let planned = light.plan(r#"{"room":"hall","state":"ON"}"#).unwrap();
    assert_eq!(
        (
            planned.topic.as_str(),
            &planned.payload[..],
            planned.timeout
        ),
        (
            "zigbee2mqtt/hall/set",
            &br#"{"state":"ON"}"#[..],
            Duration::from_millis(500)
        )
    );
    assert!(light.is_for("voice-1") && !light.confirm);
    assert!(!bell.is_for("panel") && bell.confirm);
    assert_eq!(bell.plan("{}").unwrap().timeout, Duration::from_secs(2));
    assert_eq!(
        (c.engine.tools_max_rounds, &c.presets[0].tools[..]),
        (2, &["bell".to_owned()][..])
    );
    assert_eq!((c.tools_from.clone(), c.read_max()), (None, 262_144));
}

#[test]
fn a_tool_that_is_wrong_is_named_by_key_and_number() {
    for (lines, says) in [
        ("topic = 'a'", "`tools[].name`: must have 1 to 64"),
        ("name = 'a b'\ntopic = 'a'", "`tools[].name`"),
        (
            "name = 'a'",
            "`tools[].topic`: of `a` must have 1 to 512 bytes",
        ),
        (
            "name = 'a'\ntopic = 'glowplug/x'",
            "`tools[].topic`: of `a` can be below `glowplug/`",
        ),
        (
            "name = 'a'\ntopic = 'a/{x}'",
            "`tools[].topic`: of `a` has `{x}`",
        ),
        (
            "name = 'a'\ntopic = 'a'\nparameters = '7'",
            "`tools[].parameters`: of `a` must be a JSON object",
        ),
        (
            "name = 'a'\ntopic = 'a'\npayload = 'ON'",
            "`tools[].payload`: of `a` is no JSON",
        ),
        (
            "name = 'a'\ntopic = 'a'\npayload_text = '{x}'",
            "`tools[].payload_text`: of `a` has `{x}`",
        ),
        (
            "name = 'a'\ntopic = 'a'\npayload_text = 'x'\npayload = '1'",
            "`tools[].payload_text`: of `a` and `tools[].payload` exclude",
        ),
        (
            "name = 'a'\ntopic = 'a'\nreply_topic = 'a'",
            "`tools[].reply_topic`: of `a` must not be",
        ),
        (
            "name = 'a'\ntopic = 'a'\ntimeout_ms = 0",
            "`tools[].timeout_ms`: 0 is not between",
        ),
        (
            "name = 'a'\ntopic = 'a'\nclients = ['a/b']",
            "`tools[].clients`: `a/b`",
        ),
        (
            "name = 'a'\ntopic = 'a'\nconfirm = 1",
            "`tools[].confirm` is `true` or `false`",
        ),
    ] {
        let text = format!("[[tools]]\nname = 'first'\ntopic = 'x'\n[[tools]]\n{lines}");
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{lines}: {error}");
        assert!(error.contains("(in number 2)"), "{lines}: {error}");
    }
    let many = |n: usize, schema: &str| {
        let one = |n| format!("[[tools]]\nname = 't{n}'\ntopic = 'x'\nparameters = '{schema}'\n");
        (0..n).map(one).collect::<String>()
    };
    let long = format!(r#"{{"title":"{}"}}"#, "x".repeat(1024));
    for (text, says) in [
        (
            "[[tools]]\nname = 'a'\ntopic = 'x'\n".repeat(2).as_str(),
            "`tools[].name`: `a` is there twice",
        ),
        (&many(129, "{}"), "`tools`: has more than 128 tables"),
        (&many(64, &long), "`tools[].parameters`: have "),
        (
            "[[tools]]\ntopi = 'a'",
            "unknown key `tools[].topi`; the nearest known one is `tools[].topic`",
        ),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text:.40}: {error}");
    }
    assert!(load(&many(128, "{}")).is_ok());
}

#[test]
fn catalogues_are_off_and_doors_stay_shut_unless_the_owner_says_so() {
    assert_eq!(
        load("[tools_from]\ntopics = ['a/#']").unwrap().tools_from,
        None
    );
    let c = load(
        "[tools_from]\nzigbee2mqtt = true\ntopics = ['zigbee2mqtt/+/set']\nclients = ['panel']",
    )
    .unwrap();
    let terms = c.tools_from.clone().unwrap();
    assert_eq!(terms.domains, ["light", "switch", "fan", "scene"]);
    assert_eq!(c.read_max(), 2 << 20);
    // what catalogues name is not known when the file is read
    assert!(
        load("[tools_from]\nhomeassistant = true\n[[presets]]\nname = 'a'\ntools = ['set_light']")
            .is_ok()
    );
    let named =
        load("[tools_from]\nhomeassistant = true\ndomains = ['lock', 'light', 'lock']").unwrap();
    assert_eq!(named.tools_from.unwrap().domains, ["lock", "light"]);
    for (lines, says) in [
        (
            "domains = ['light', 'oven']",
            "`tools_from.domains`: `oven` is none of light",
        ),
        ("topics = ['a/#/b']", "`tools_from.topics`: `a/#/b` has `#`"),
        ("topics = ['$SYS/#']", "`tools_from.topics`"),
        ("clients = ['a b']", "`tools_from.clients`: `a b`"),
        (
            "homeassistant = 1",
            "`tools_from.homeassistant` is `true` or `false`",
        ),
    ] {
        let error = load(&format!("[tools_from]\n{lines}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{lines}: {error}");
    }
}
