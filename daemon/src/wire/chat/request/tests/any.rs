//! Bodies of all kinds.

use super::openai::OPENAIS;
use super::*;
use proptest::prelude::*;

/// Objects of known and unknown fields with values of all kinds.
fn nearly() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("true".to_owned()),
        Just(r#"["text"]"#.to_owned()),
        Just(r#"[{"role":"user","content":"x"}]"#.to_owned()),
        Just(r#"[{"role":"owner"}]"#.to_owned()),
        (-3i64..300).prop_map(|n| n.to_string()),
        "[a-z]{0,3}".prop_map(|s| format!("\"{s}\"")),
    ];
    let ours = [
        "id",
        "session",
        "priority",
        "top_k",
        "thinking",
        "deadline_ms",
        "mood",
    ];
    let names: Vec<&str> = OPENAIS.iter().map(|(name, ..)| *name).chain(ours).collect();
    let field = (proptest::sample::select(names), value);
    (any::<bool>(), proptest::collection::vec(field, 0..3)).prop_map(|(hi, fields)| {
        let mut all: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        all.extend(hi.then(|| HI.to_owned()));
        format!("{{{}}}", all.join(","))
    })
}

proptest! {
    /// Bytes of all kinds, and bodies that are nearly right: what is taken keeps every limit and is what JSON says it is;
    /// what is not has a code, a reason, and the field at fault where the bytes are an object at all.
    #[test]
    fn any_bytes_end_in_a_request_or_a_fault(body in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        nearly().prop_map(String::into_bytes),
    ]) {
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body);
        match parse_chat(&body, &DEFAULTS) {
            Ok(request) => {
                let object = object.unwrap();
                prop_assert!(!request.messages.is_empty() && request.messages.len() <= 1024);
                prop_assert_eq!(request.messages.len(), object["messages"].as_array().unwrap().len());
                prop_assert_eq!(request.id.as_deref(), object.get("id").and_then(|id| id.as_str()));
                prop_assert!(request.id.is_none_or(|id| (1..=ID_MAX).contains(&id.len())));
                prop_assert_ne!(request.max_tokens, Some(0));
                for name in request.ignored.iter().filter(|name| !name.starts_with("messages")) {
                    prop_assert!(!object[*name].is_null(), "{}", name);
                }
            }
            Err((fault, id)) => {
                prop_assert_eq!(fault.code, Code::InvalidRequest);
                prop_assert!(!fault.message.is_empty());
                prop_assert!(fault.param.is_some() || object.is_err(), "{:?}", fault);
                prop_assert!(id.is_none_or(|id| check_id(&id).is_ok()));
            }
        }
        for small in [parse_cancel(&body).err(), parse_control(&body).err()] {
            prop_assert!(small.is_none_or(|f| f.code == Code::InvalidRequest && !f.message.is_empty()));
        }
    }

    #[test]
    fn any_text_comes_through_unchanged(content in "[^\0]{0,100}") {
        let body = serde_json::json!({"messages": [{"role": "user", "content": content}]}).to_string();
        prop_assert_eq!(&parse(&body).unwrap().messages[0].content, &content);
    }

    #[test]
    fn a_changed_byte_is_a_request_or_a_fault(at in 0_usize..60, byte in any::<u8>()) {
        let mut body = format!("{{{HI},\"stop\":[\"a\"],\"seed\":1}}").into_bytes();
        let at = at % body.len();
        body[at] = byte;
        if let Err((fault, _)) = parse_chat(&body, &DEFAULTS) {
            prop_assert_eq!(fault.code, Code::InvalidRequest);
            prop_assert!(!fault.message.is_empty());
        }
    }
}
