//! Presets: in their order, and refused by key and number.

use super::*;

#[test]
fn presets_are_read_in_their_order() {
    let c = load(
        r#"
        [[presets]]
        name = "cabin"
        system = "You are a car."
        language = "German"
        clients = ["voice-*", "panel"]
        thinking = false
        max_tokens = 60
        response_format = '{"type":"json_schema","json_schema":{"name":"x","schema":{"required":["b"],"properties":{"b":{},"a":{}}}}}'
        [[presets]]
        name = "all"
        response_format = { type = "regex", pattern = "yes|no" }
        [[presets]]
        name = "text"
        response_format = '{"type":"text"}'
        "#,
    )
    .unwrap();
    let [cabin, all, text] = &c.presets[..] else {
        panic!("{:?}", c.presets)
    };
    assert_eq!((cabin.name.as_str(), all.name.as_str()), ("cabin", "all"));
    assert_eq!(
        cabin.system().as_deref(),
        Some("You are a car.\n\nAnswer in German.")
    );
    assert!(!cabin.thinking.unwrap().enabled);
    assert_eq!((cabin.max_tokens, all.max_tokens), (Some(60), None));
    assert_eq!((all.system(), all.thinking), (None, None));
    // in the owner's order
    let schema = r#"{"required":["b"],"properties":{"b":{},"a":{}}}"#;
    assert_eq!(cabin.format, Some(Format::JsonSchema(schema.into())));
    assert_eq!(all.format, Some(Format::Regex("yes|no".into())));
    assert_eq!(text.format, None);
    for (client, is_for) in [("voice-1", true), ("panel", true), ("panel2", false)] {
        assert_eq!(cabin.is_for(client), is_for, "{client}");
        assert!(all.is_for(client));
    }
}

#[test]
fn a_preset_that_is_wrong_is_named_by_key_and_number() {
    let long = format!("name = 'a'\nsystem = '{}'", "x".repeat(16_385));
    let table = [
        ("", "`presets[].name`: must have 1 to 64"),
        ("name = 'a b'", "`presets[].name`"),
        ("name = 'a'\nsystem = ''", "`presets[].system`: is empty"),
        (&long, "has 16385 bytes, the limit is 16384"),
        (
            "name = 'a'\nsystem = 'b'\nsystem_file = 'c'",
            "`presets[].system_file`",
        ),
        ("name = 'a'\nlanguage = ''", "`presets[].language`"),
        (
            "name = 'a'\nclients = ['a/b']",
            "`presets[].clients`: `a/b`",
        ),
        (
            "name = 'a'\nclients = 'b'",
            "`presets[].clients` is a list of texts",
        ),
        (
            "name = 'a'\nthinking = 3",
            "`presets[].thinking` is `false`",
        ),
        (
            "name = 'a'\nmax_tokens = 0",
            "`presets[].max_tokens`: 0 is not between",
        ),
        (
            "name = 'a'\nresponse_format = 7",
            "`presets[].response_format` is JSON in a text, or a table",
        ),
        (
            "name = 'a'\nresponse_format = '{'",
            "`presets[].response_format`: `response_format`",
        ),
        (
            "name = 'a'\nresponse_format = { type = 'json_schema', json_schema = { name = 'x', schema = { not = {} } } }",
            "`presets[].response_format`: `response_format.json_schema.schema.not`",
        ),
    ];
    for (lines, says) in table {
        let text = format!("[[presets]]\nname = 'first'\n[[presets]]\n{lines}");
        let error = load(&text).unwrap_err().to_string();
        assert!(
            error.contains(says) && error.ends_with("(in number 2)"),
            "{lines:.40}: {error}"
        );
    }
    let twice = "[[presets]]\nname = 'a'\n".repeat(2);
    let many: String = (0..17)
        .map(|n| format!("[[presets]]\nname = 'p{n}'\n"))
        .collect();
    for (text, says) in [
        (twice.as_str(), "`presets[].name`: `a` is there twice"),
        (&many, "`presets`: has more than 16 tables"),
        (
            "presets = 3",
            "`presets` is a list of tables, each headed `[[presets]]`",
        ),
        ("[presets]\nname = 'a'", "`presets` is a list of tables"),
        (
            "[[presets]]\nnam = 'a'",
            "unknown key `presets[].nam`; the nearest known one is `presets[].name`",
        ),
        (
            "[[presets]]\nname = 'a'\ntools = ['b']",
            "`presets[].tools`: `b` (of `a`) is no tool of `[[tools]]`",
        ),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text:.40}: {error}");
    }
    assert!(Draft::default().set("presets[].name", "a").is_err());
}
