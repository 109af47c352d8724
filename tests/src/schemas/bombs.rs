//! Schemas that are broken, or made to cost much.

/// More than a hundred of them: broken, deep, wide, recursive, with huge counted repeats and catastrophic patterns.
#[must_use]
pub fn schema_bombs() -> Vec<String> {
    let object =
        |properties: String| format!(r#"{{"type":"object","properties":{{{properties}}}}}"#);
    let many =
        |n: usize, one: &dyn Fn(usize) -> String| (0..n).map(one).collect::<Vec<_>>().join(",");
    let mut all: Vec<String> = Vec::new();
    // broken
    for text in [
        "",
        "{",
        "}",
        "[]",
        "null",
        "\"\"",
        "{\"type\":}",
        "{\"a\":1,}",
        "\u{0}",
        "{\"type\":\"object\"}}",
        "{'type':'object'}",
        r#"{"type":7}"#,
        r#"{"type":{"a":1}}"#,
        r#"{"properties":7}"#,
        r#"{"properties":{"a":7}}"#,
        r#"{"items":7}"#,
        r#"{"enum":{}}"#,
        r#"{"required":[1]}"#,
        r#"{"allOf":{}}"#,
        r#"{"anyOf":[]}"#,
        r#"{"$ref":7}"#,
        r#"{"pattern":7}"#,
        r#"{"minimum":1e999}"#,
        r#"{"maxLength":-1}"#,
        r#"{"minItems":1e30}"#,
        r#"{"oneOf":7}"#,
        r#"{"const":1e-200}"#,
        r#"{"type":"object","properties":{"a":{"$schema":"x"}}}"#,
        r#"{"format":["date"]}"#,
        r#"{"\ud800":1}"#,
    ] {
        all.push(text.to_owned());
    }
    // deep
    for open in [
        "[",
        "{\"a\":",
        "{\"items\":",
        "{\"properties\":{\"a\":",
        "{\"not\":",
        "{\"allOf\":[",
        "{\"enum\":[",
    ] {
        all.push(open.repeat(60_000 / open.len()));
        all.push(open.repeat(65));
    }
    // wide
    all.push(object(many(6_000, &|n| format!(r#""{n}":{{}}"#))));
    all.push(object(many(257, &|n| {
        format!(r#""{n}":{{"type":"integer"}}"#)
    })));
    all.push(format!(
        r#"{{"enum":[{}]}}"#,
        many(9_000, &|n| n.to_string())
    ));
    all.push(format!(
        r#"{{"anyOf":[{}]}}"#,
        many(4_000, &|n| format!(r#"{{"const":{n}}}"#))
    ));
    all.push(format!(
        r#"{{"oneOf":[{}]}}"#,
        many(1_000, &|n| format!(r#"{{"const":{n}}}"#))
    ));
    all.push(format!(
        r#"{{"allOf":[{}]}}"#,
        many(900, &|n| format!(r#"{{"minimum":{n}}}"#))
    ));
    all.push(format!(
        r#"{{"required":[{}]}}"#,
        many(5_000, &|n| format!(r#""{n}""#))
    ));
    all.push(format!(
        r#"{{"prefixItems":[{}]}}"#,
        many(5_000, &|_| "{}".into())
    ));
    all.push(format!(
        r#"{{"patternProperties":{{{}}}}}"#,
        many(9, &|n| format!(r#""^a{n}":{{}}"#))
    ));
    all.push(format!(
        r#"{{"type":[{}]}}"#,
        many(5_000, &|_| r#""null""#.into()) + r#","x""#
    ));
    // multiplied out
    for n in [4, 8, 16, 60] {
        let pair = r#"{"anyOf":[{"properties":{"a":{"minimum":1}}},{"properties":{"b":{"minimum":1}}},{"required":["c"]}]}"#;
        all.push(format!(
            r#"{{"type":"object","allOf":[{}]}}"#,
            many(4 + n, &|_| pair.into())
        ));
        let nested = |n: usize| {
            let mut text = r#"{"type":"integer"}"#.to_owned();
            for _ in 0..n.min(14) {
                text = format!(r#"{{"anyOf":[{text},{text}],"minimum":1}}"#);
            }
            text
        };
        all.push(nested(n + 8));
        all.push(object(many(n, &|k| format!(r##""p{k}":{{"anyOf":[{{"$ref":"#/x"}},{{"$ref":"#/y"}}],"allOf":[{{"$ref":"#/z"}}]}}"##))));
    }
    // recursive
    for text in [
        r##"{"$ref":"#"}"##.to_owned(),
        r##"{"allOf":[{"$ref":"#"}]}"##.to_owned(),
        r##"{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}"##.to_owned(),
        r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##.to_owned(),
        r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##.to_owned(),
        r##"{"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"$defs":{"a":{"properties":{"x":{"$ref":"#/$defs/a"},"y":{"$ref":"#/$defs/a"}}},"b":{"properties":{"x":{"$ref":"#/$defs/b"},"y":{"$ref":"#/$defs/b"}}}}}"##.to_owned(),
        format!(r##"{{"$ref":"#/$defs/0","$defs":{{{}}}}}"##, many(1_500, &|n| format!(r##""{n}":{{"$ref":"#/$defs/{}"}}"##, n + 1))),
        format!(r##"{{"$ref":"#/$defs/0","$defs":{{{},"30":{{}}}}}}"##, many(30, &|n| format!(r##""{n}":{{"properties":{{"a":{{"$ref":"#/$defs/{0}"}},"b":{{"$ref":"#/$defs/{0}"}}}}}}"##, n + 1))),
        format!(r##"{{"allOf":[{{"$ref":"#/$defs/0"}},{{"$ref":"#/$defs/0"}}],"$defs":{{{},"30":{{}}}}}}"##, many(30, &|n| format!(r##""{n}":{{"properties":{{"a":{{"$ref":"#/$defs/{0}"}},"b":{{"$ref":"#/$defs/{0}"}}}}}}"##, n + 1))),
        format!(r##"{{"anyOf":[{}]}}"##, many(300, &|n| format!(r##"{{"$ref":"#/anyOf/{}"}}"##, (n + 1) % 300))),
    ] {
        all.push(text);
    }
    // counted
    for text in [
        r#"{"type":"string","maxLength":2001}"#,
        r#"{"type":"string","minLength":4000000000}"#,
        r#"{"type":"string","maxLength":1e300}"#,
        r#"{"type":"array","minItems":5000000000}"#,
        r#"{"minProperties":4000000000}"#,
        r#"{"multipleOf":4294967295}"#,
        r#"{"multipleOf":1e-300}"#,
        r#"{"minimum":-1e300,"maximum":1e300}"#,
        r#"{"multipleOf":0.0000123457}"#,
    ] {
        all.push(text.to_owned());
    }
    for pattern in [
        "[ab]*a[ab]{900}c",
        "(a{1,1000}b{1,1000}){1,1000}",
        "([ab]+)+a[ab]{30}$",
        "(?=a)",
        r"(\\w+)\\1",
        "((a{0,99}){0,99}){0,99}",
        "^.*a.{40}b",
        "a{99999999999}",
        "(?:){4000000000}",
        "(((((((((a?){9}){9}){9}){9}){9}){9}){9}){9}){9}",
        "[a-",
        "(?<n>",
        r"\\p{L}{900}",
        "x{1000}{1000}",
    ] {
        all.push(format!(r#"{{"type":"string","pattern":"{pattern}"}}"#));
    }
    all.push(object(many(40, &|n| {
        format!(r#""{n}":{{"type":"string","maxLength":{}}}"#, 100 + n)
    })));
    all.push(object(many(40, &|n| {
        format!(r#""{n}":{{"type":"string","pattern":"^[a-f]{{60}}{n}$"}}"#)
    })));
    all
}
