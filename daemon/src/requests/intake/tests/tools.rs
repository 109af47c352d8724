//! Which tools of the daemon's own a request is offered, and which it may name.

use super::*;
use glowplug_model::text::Tool;

const TOOLS: &str = "[[tools]]\nname = 'lamp'\ntopic = 'house/lamp'\nclients = ['c', 'x*']\n\
    [[tools]]\nname = 'door'\ntopic = 'house/door'\nclients = ['c']\n\
    [[tools]]\nname = 'nobodys'\ntopic = 'house/nobody'\n\
    [[presets]]\nname = 'p'\nclients = ['c', 'xa']\ntools = ['lamp', 'nobodys']\n";

fn body(fields: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{fields}}}"#)
}

fn request(client: &str) -> String {
    format!("b/n/chat/{client}/request")
}

/// The names of the tools that a request is offered.
fn offered(client: &str, fields: &str) -> Vec<String> {
    let mut w = world_with(TOOLS);
    let mut o = w.send(&request(client), &body(fields));
    let tools = o.submitted.remove(0).tools;
    let list = tools.map(|tools| tools.list);
    list.iter()
        .flat_map(|list| list.iter())
        .map(|tool| tool.name().to_owned())
        .collect()
}

#[test]
fn a_client_is_offered_its_tools_where_the_daemon_runs_them() {
    const OWN: &str = r#","tools":[{"type":"function","function":{"name":"time"}}]"#;
    let daemon = r#","tool_execution":"daemon""#;
    for (client, fields, names) in [
        ("c", "", &[][..]),
        ("c", OWN, &["time"]),
        ("c", daemon, &["lamp", "door"]),
        ("xb", daemon, &["lamp"]),
        ("d", daemon, &[]),
        ("c", &format!("{daemon}{OWN}"), &["time", "lamp", "door"]),
        // a preset names some, and brings them along
        ("c", r#","preset":"p""#, &["lamp"]),
        ("c", &format!(r#"{daemon},"preset":"p""#), &["lamp"]),
        ("xa", r#","preset":"p""#, &["lamp"]),
        ("c", r#","preset":"p","tool_execution":"client""#, &[]),
        ("c", &format!(r#"{daemon},"tool_choice":"none""#), &[]),
    ] {
        assert_eq!(offered(client, fields), names, "{client} {fields}");
    }
    // plain text has those of its client's preset
    let mut w = world_with(TOOLS);
    let asked = w.send("b/n/ask/c", "hi").submitted.remove(0);
    let names: Vec<&str> = asked
        .tools
        .as_ref()
        .unwrap()
        .list
        .iter()
        .map(Tool::name)
        .collect();
    assert_eq!(names, ["lamp"]);
    w.admission = world().admission;
    assert!(
        w.send("b/n/ask/d", "hi")
            .submitted
            .remove(0)
            .tools
            .is_none()
    );
}

#[test]
fn a_tool_that_is_not_allowed_cannot_be_named() {
    let choice = |name: &str| {
        format!(
            r#","tool_execution":"daemon","tool_choice":{{"type":"function","function":{{"name":"{name}"}}}}"#
        )
    };
    let same = r#","tool_execution":"daemon","tools":[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"lamp"}}]"#;
    for (client, fields, param, says) in [
        (
            "xb",
            choice("door"),
            "tool_choice",
            "names `door`, which is no tool",
        ),
        (
            "d",
            choice("lamp"),
            "tool_choice",
            "names `lamp`, which is no tool",
        ),
        (
            "c",
            same.to_owned(),
            "tools[1].function.name",
            "is the name of a tool of the daemon's own",
        ),
        (
            "c",
            r#","tool_execution":"both""#.to_owned(),
            "tool_execution",
            "unknown variant",
        ),
    ] {
        let mut w = world_with(TOOLS);
        let o = w.send(&request(client), &body(&fields));
        assert!(o.submitted.is_empty());
        let error = &o.frames[0].1["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&"invalid_request".into(), &param.into()),
            "{fields}"
        );
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    // the client's own of that name is fine where the daemon has none for it
    assert_eq!(offered("d", same), ["a", "lamp"]);
}
