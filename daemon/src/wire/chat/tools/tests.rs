use crate::wire::chat::request::{ChatDefaults, ChatRequest, parse_chat};
use crate::wire::fault::Fault;
use glowplug_firmware_config::limits::{
    ID_MAX, TOOL_CALLS_MAX, TOOL_LEVELS_MAX, TOOL_NAME_MAX, TOOL_SCHEMAS_MAX, TOOLS_MAX,
};
use glowplug_model::engine::Thinking;
use glowplug_model::text::{Role, ToolChoice};
use glowplug_tests::world::contract::CONTRACT;

fn parse(fields: &str) -> Result<ChatRequest, Fault> {
    let defaults = ChatDefaults {
        max_tokens: 8,
        thinking: Thinking::default(),
    };
    let body = format!("{{{fields}}}");
    let parsed = parse_chat(body.as_bytes(), &defaults).map_err(|(fault, _)| fault)?;
    let told = CONTRACT.fits("ChatRequest", &serde_json::from_str(&body).unwrap());
    told.unwrap_or_else(|why| panic!("{why}: {body}"));
    Ok(parsed)
}

/// A request that offers these tools, with more fields.
fn offer(tools: &str, more: &str) -> Result<ChatRequest, Fault> {
    parse(&format!(
        r#""messages":[{{"role":"user","content":"hi"}}],"tools":[{tools}]{more}"#
    ))
}

fn tool(name: &str, more: &str) -> String {
    format!(r#"{{"type":"function","function":{{"name":"{name}"{more}}}}}"#)
}

#[test]
fn tools_are_openais() {
    let schema =
        r#"{"type":"object", "properties":{"z":{"enum":["b","a"]},"a":{}},"required":["z"]}"#;
    let light = format!(
        r#"{{"function":{{"parameters":{schema},"strict":true,"description":"Lights.","name":"set-light_1"}},"type":"function"}}"#
    );
    let both = format!(
        "{light},{}",
        tool("time", r#","description":null,"strict":null"#)
    );
    let tools = offer(&both, r#","parallel_tool_calls":false"#)
        .unwrap()
        .tools
        .unwrap();
    let [light, time] = &*tools.list else {
        panic!("{tools:?}");
    };
    assert_eq!(
        (light.name(), light.description()),
        ("set-light_1", Some("Lights."))
    );
    // in the client's own order
    assert_eq!(light.parameters(), schema.replace(", ", ","));
    assert_eq!((time.name(), time.description()), ("time", None));
    assert_eq!((tools.choice, tools.parallel), (ToolChoice::Auto, false));
    let must = offer(&both, r#","tool_choice":"required""#).unwrap();
    assert_eq!(must.tools.unwrap().choice, ToolChoice::Required);
    let named = r#","tool_choice":{"type":"function","function":{"name":"time"}}"#;
    let named = offer(&both, named).unwrap().tools.unwrap();
    assert_eq!(named.choice, ToolChoice::Named("time".into()));
    let auto = offer(&both, r#","tool_choice":"auto""#).unwrap();
    assert!(auto.tools.unwrap().parallel && auto.ignored.is_empty());
    // a model that must not call does not see them
    assert_eq!(
        offer(&both, r#","tool_choice":"none""#).unwrap().tools,
        None
    );
    assert_eq!(
        parse(r#""messages":[{"role":"user","content":"hi"}],"tools":null"#)
            .unwrap()
            .tools,
        None
    );
}

#[test]
fn what_is_wrong_with_a_tool_is_said_where_it_stands() {
    let deep = format!(
        r#","parameters":{}1{}"#,
        r#"{"a":"#.repeat(TOOL_LEVELS_MAX + 1),
        "}".repeat(TOOL_LEVELS_MAX + 1)
    );
    let (time, long) = (tool("time", ""), "x".repeat(TOOL_NAME_MAX + 1));
    for (tools, param, why) in [
        ("3".to_owned(), "tools[0]", "expected"),
        (format!("{time},{{}}"), "tools[1]", "missing field"),
        (
            r#"{"type":"web_search"}"#.to_owned(),
            "tools[0]",
            "web_search",
        ),
        (tool("a b", ""), "tools[0].function.name", "a-z A-Z 0-9 _ -"),
        (tool("", ""), "tools[0].function.name", "1 to 64"),
        (tool(&long, ""), "tools[0].function.name", "1 to 64"),
        (
            format!("{time},{time}"),
            "tools[1].function.name",
            "two tools",
        ),
        (
            tool("a", r#","parameters":[]"#),
            "tools[0].function.parameters",
            "JSON object",
        ),
        (tool("a", &deep), "tools[0]", "more than 64 levels"),
        (tool("a", r#","mood":1"#), "tools[0]", "`mood`"),
        (
            tool("a", r#","description":"\u0000""#),
            "tools[0].function.description",
            "U+0000",
        ),
    ] {
        let fault = offer(&tools, "").unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{tools}: {fault:?}");
        assert!(fault.message.contains(why), "{tools}: {fault:?}");
    }
    for (choice, why) in [
        (r#""sometimes""#, "sometimes"),
        (
            r#"{"type":"function","function":{"name":"light"}}"#,
            "names `light`, which is no tool",
        ),
        (r#"{"type":"function"}"#, "missing field"),
        ("7", "invalid type"),
    ] {
        let fault = offer(&time, &format!(r#","tool_choice":{choice}"#)).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("tool_choice"), "{choice}");
        assert!(fault.message.contains(why), "{choice}: {fault:?}");
    }
    let fault = offer("", r#","tool_choice":"required""#).unwrap_err();
    assert_eq!(
        (fault.param.as_deref(), &*fault.message),
        (Some("tool_choice"), "needs `tools`")
    );
}

#[test]
fn tools_are_bounded() {
    let tools = |count: usize, schema: &str| {
        let one = |n| tool(&format!("t{n}"), schema);
        (0..count).map(one).collect::<Vec<_>>().join(",")
    };
    assert_eq!(
        offer(&tools(TOOLS_MAX, ""), "")
            .unwrap()
            .tools
            .unwrap()
            .list
            .len(),
        TOOLS_MAX
    );
    let fault = offer(&tools(TOOLS_MAX + 1, ""), "").unwrap_err();
    assert_eq!(
        (fault.param.as_deref(), fault.message.contains("128 tools")),
        (Some("tools"), true)
    );
    let schema = |bytes: usize| {
        let around = r#"{"description":""}"#.len();
        format!(
            r#","parameters":{{"description":"{}"}}"#,
            "x".repeat(bytes - around)
        )
    };
    assert!(offer(&tools(2, &schema(TOOL_SCHEMAS_MAX / 2)), "").is_ok());
    let fault = offer(
        &format!(
            "{},{}",
            tool("a", &schema(TOOL_SCHEMAS_MAX)),
            tool("b", r#","parameters":{}"#)
        ),
        "",
    );
    let fault = fault.unwrap_err();
    assert_eq!(
        (
            fault.param.as_deref(),
            fault.message.contains("65536 bytes")
        ),
        (Some("tools"), true)
    );
}

fn call(id: &str, name: &str, arguments: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}}}"#
    )
}

fn said(message: &str) -> Result<ChatRequest, Fault> {
    parse(&format!(
        r#""messages":[{{"role":"user","content":"hi"}},{message}]"#
    ))
}

#[test]
fn calls_and_results_come_back_as_they_went_out() {
    let arguments = r#"{\"a\": [1]}"#;
    let calls = format!(
        "{},{}",
        call("call_1", "f", arguments),
        r#"{"index":1,"id":"2","function":{"name":"g","arguments":""}}"#
    );
    let r = said(&format!(
        r#"{{"role":"assistant","content":null,"tool_calls":[{calls}]}},
        {{"role":"tool","content":[{{"type":"text","text":"42"}}],"tool_call_id":"call_1"}},
        {{"role":"tool","tool_call_id":"2","content":""}}"#
    ))
    .unwrap();
    assert!(r.ignored.is_empty(), "{:?}", r.ignored);
    let [_, asked, first, second] = &r.messages[..] else {
        panic!("{r:?}");
    };
    assert_eq!((asked.role, &*asked.content), (Role::Assistant, ""));
    let of = |n: usize| {
        let call = &asked.tool_calls[n];
        (&*call.id, &*call.name, &*call.arguments)
    };
    assert_eq!(
        (of(0), of(1)),
        (("call_1", "f", r#"{"a": [1]}"#), ("2", "g", "{}"))
    );
    assert_eq!(
        (first.tool_call_id.as_deref(), &*first.content),
        (Some("call_1"), "42")
    );
    assert_eq!(
        (second.role, second.tool_call_id.as_deref()),
        (Role::Tool, Some("2"))
    );
}

#[test]
fn what_is_wrong_with_a_call_is_said_where_it_stands() {
    let calls =
        |calls: &str| format!(r#"{{"role":"assistant","content":"","tool_calls":[{calls}]}}"#);
    let one = call("1", "f", "{}");
    let many: Vec<String> = (0..=TOOL_CALLS_MAX)
        .map(|n| call(&n.to_string(), "f", "{}"))
        .collect();
    let long = "x".repeat(ID_MAX + 1);
    assert!(said(&calls(&many[1..].join(","))).is_ok());
    for (message, field, why) in [
        (calls("7"), "tool_calls[0]", "expected"),
        (calls(&many.join(",")), "tool_calls", "more than 16"),
        (
            calls(&format!("{one},{one}")),
            "tool_calls[1].id",
            "two calls",
        ),
        (calls(&call("", "f", "{}")), "tool_calls[0].id", "1 to 64"),
        (
            calls(&call(&long, "f", "{}")),
            "tool_calls[0].id",
            "1 to 64",
        ),
        (
            calls(&call("1", "a b", "{}")),
            "tool_calls[0].function.name",
            "1 to 64",
        ),
        (
            calls(&call("1", "f", "[]")),
            "tool_calls[0].function.arguments",
            "JSON object",
        ),
        (
            calls(&call("1", "f", "{")),
            "tool_calls[0].function.arguments",
            "no JSON",
        ),
        (
            calls(&one).replace("assistant", "user"),
            "tool_calls",
            "only an assistant",
        ),
        (
            r#"{"role":"tool","content":"1"}"#.to_owned(),
            "tool_call_id",
            "is required",
        ),
        (
            format!(r#"{{"role":"tool","content":"1","tool_call_id":"{long}"}}"#),
            "tool_call_id",
            "1 to 64",
        ),
        (
            r#"{"role":"tool","tool_call_id":"1"}"#.to_owned(),
            "content",
            "is required",
        ),
    ] {
        let fault = said(&message).unwrap_err();
        assert_eq!(
            fault.param,
            Some(format!("messages[1].{field}")),
            "{message}: {fault:?}"
        );
        assert!(fault.message.contains(why), "{message}: {fault:?}");
    }
}
