//! The same templates with the same contexts, rendered by the engine and by Jinja2 in Python.

pub(crate) mod bombs;

use glowplug_model::text::{Jinja, Message, Role, Tool, ToolCall};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// What a template may use here: more than any conversation of the tests needs.
const WORK: usize = 64 << 20;

/// One template with one context.
pub struct Rendered {
    pub template: String,
    pub context: usize,
    /// the text, or why there is none
    pub ours: Result<String, String>,
    pub jinja: Result<String, String>,
}

impl Rendered {
    /// Whether both write the same text, or both none.
    pub fn agrees(&self) -> bool {
        self.ours.as_ref().ok() == self.jinja.as_ref().ok()
    }
}

/// The conversations of `vectors/jinja`, as a template gets them.
pub fn conversations() -> Vec<Value> {
    let json = include_str!("../../vectors/jinja/conversations.json");
    serde_json::from_str(json).unwrap_or_else(|e| panic!("conversations.json: {e}"))
}

/// The messages of a conversation as a client sends them.
pub fn messages(context: &Value) -> Vec<Message> {
    let text = |value: &Value| value.as_str().map(String::from);
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    let all = context["messages"].as_array().into_iter().flatten();
    all.map(|json| {
        let role = roles.iter().find(|role| role.as_str() == json["role"]);
        let calls = json["tool_calls"].as_array().into_iter().flatten();
        Message {
            role: *role.unwrap_or(&Role::User),
            content: text(&json["content"]).unwrap_or_default(),
            tool_calls: calls
                .map(|call| ToolCall {
                    id: text(&call["id"]).unwrap_or_default(),
                    name: text(&call["function"]["name"]).unwrap_or_default(),
                    arguments: match &call["function"]["arguments"] {
                        Value::String(text) => text.clone(),
                        map => map.to_string(),
                    },
                })
                .collect(),
            tool_call_id: text(&json["tool_call_id"]),
        }
    })
    .collect()
}

/// The tools of a conversation as a client sends them.
pub fn tools(context: &Value) -> Vec<Tool> {
    let all = context["tools"].as_array().into_iter().flatten();
    all.filter_map(|json| {
        let function = &json["function"];
        let parameters = function["parameters"].to_string();
        Tool::new(
            function["name"].as_str()?,
            function["description"].as_str(),
            &parameters,
        )
        .ok()
    })
    .collect()
}

/// Renders each template, which is a name and a source, with each context.
pub fn render_both(templates: &[(String, String)], contexts: &[Value]) -> Vec<Rendered> {
    let sources: serde_json::Map<_, _> = templates
        .iter()
        .map(|(name, source)| (name.clone(), json!(source)))
        .collect();
    let theirs = python(&json!({"templates": sources, "contexts": contexts}));
    let mut rendered = Vec::new();
    for (name, source) in templates {
        let template = Jinja::new(source).map_err(|e| format!("refused: {e}"));
        for (context, names) in contexts.iter().enumerate() {
            let ours = template.as_ref().map_err(String::clone);
            let ours = ours.and_then(|template| {
                let text = template.render_json(&names.to_string(), WORK);
                text.map_err(|e| e.to_string())
            });
            let theirs = &theirs[name][context];
            let text = |value: &Value| value.as_str().map(String::from);
            rendered.push(Rendered {
                template: name.clone(),
                context,
                ours,
                jinja: text(&theirs[0]).ok_or_else(|| text(&theirs[1]).unwrap_or_default()),
            });
        }
    }
    rendered
}

fn python(given: &Value) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/jinja/render.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| needs(e));
    // the script reads all of it before it writes
    let mut stdin = child.stdin.take();
    let sent = stdin
        .as_mut()
        .map(|to| to.write_all(given.to_string().as_bytes()));
    sent.unwrap_or(Ok(())).unwrap_or_else(|e| needs(e));
    drop(stdin);
    let out = child.wait_with_output().unwrap_or_else(|e| needs(e));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| needs(e))
}

fn needs(error: impl std::fmt::Display) -> ! {
    panic!("{error}: this needs python3 with jinja2")
}
