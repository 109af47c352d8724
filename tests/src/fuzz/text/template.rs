//! Any text as a chat template: it is refused or renders within its work, and twice the same.

use glowplug_model::text::Jinja;

const CONTEXT: &str = r#"{"messages":[{"role":"user","content":"a <b>\n"},{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":{"a":[1,2.5,null]}}}]}],
    "tools":[{"function":{"name":"f","parameters":{"properties":{"a":{"type":"string"}}}}}],"add_generation_prompt":true,"bos_token":"<s>","n":-7,"x":1e300}"#;
const WORK: usize = 1 << 20;

pub(in crate::fuzz) fn run(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(template) = Jinja::new(source) else {
        return;
    };
    let made = template.render_json(CONTEXT, WORK);
    if let Ok(text) = &made {
        assert!(text.len() <= WORK);
    }
    // the time is no part of what must be the same
    if !source.contains("now") {
        assert_eq!(template.render_json(CONTEXT, WORK), made);
    }
}
