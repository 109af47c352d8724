//! What is refused, and where.

use super::*;

/// What only the compiler finds out.
const COMPILED: [&str; 3] = [
    r#"{"type":"string","const":1}"#,
    r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#,
    r#"{"patternProperties":{"a":{},"b":{"type":"null"}}}"#,
];

#[test]
fn what_is_not_enforced_is_named() {
    for (text, place, says) in [
        ("7", "", "must be an object or a boolean"),
        ("false", "", "allows nothing"),
        ("{", "", "is no JSON"),
        (r#"{"not":{}}"#, "not", "is not enforced"),
        (
            r#"{"properties":{"a":{"not":{}}}}"#,
            "properties.a.not",
            "is not enforced",
        ),
        (
            r#"{"anyOf":[{},{"if":{}}]}"#,
            "anyOf.1.if",
            "is not enforced",
        ),
        (r#"{"uniqueItems":true}"#, "uniqueItems", "is not enforced"),
        (r#"{"contains":{}}"#, "contains", "is not enforced"),
        (
            r#"{"dependentRequired":{}}"#,
            "dependentRequired",
            "is not enforced",
        ),
        (
            r#"{"propertyNames":{}}"#,
            "propertyNames",
            "is not enforced",
        ),
        (
            r#"{"unevaluatedProperties":false}"#,
            "unevaluatedProperties",
            "is not enforced",
        ),
        (
            r##"{"$dynamicRef":"#a"}"##,
            "$dynamicRef",
            "is not enforced",
        ),
        (r#"{"items":[{}]}"#, "items", "must be a schema"),
        (r#"{"type":"text"}"#, "type", "must be one of"),
        (r#"{"type":[]}"#, "type", "must be one of"),
        (r#"{"enum":[]}"#, "enum", "must not be empty"),
        (
            r#"{"enum":["a","\u0001"]}"#,
            "enum.1",
            "has a control character",
        ),
        (
            r#"{"const":9007199254740993}"#,
            "const",
            "is a number of 2^53",
        ),
        (r#"{"minimum":"1"}"#, "minimum", "must be a number"),
        (
            r#"{"exclusiveMinimum":true}"#,
            "exclusiveMinimum",
            "must be a number",
        ),
        (r#"{"multipleOf":0}"#, "multipleOf", "must be positive"),
        (
            r#"{"multipleOf":0.07}"#,
            "multipleOf",
            "is 0.07, which has more digits",
        ),
        (
            r#"{"multipleOf":123457}"#,
            "multipleOf",
            "is 123457, which has more digits",
        ),
        (
            r#"{"minimum":1,"maximum":4,"multipleOf":5}"#,
            "multipleOf",
            "has no multiple",
        ),
        (
            r#"{"exclusiveMinimum":0,"maximum":0.5}"#,
            "maximum",
            "is not enforced beside the bound 0,",
        ),
        (
            r#"{"minimum":-0.5,"properties":{"a":{"exclusiveMaximum":0}}}"#,
            "properties.a.exclusiveMaximum",
            "is not enforced beside",
        ),
        (r#"{"minLength":-1}"#, "minLength", "must be a whole number"),
        (
            r#"{"maxLength":1.5}"#,
            "maxLength",
            "must be a whole number",
        ),
        (
            r#"{"maxLength":100000}"#,
            "maxLength",
            "is beyond the 2000 states",
        ),
        (r#"{"pattern":"(?=a)"}"#, "pattern", "looks ahead"),
        (r#"{"pattern":"\\bfoo"}"#, "pattern", "has `\\b`"),
        (r#"{"pattern":"(a)\\1"}"#, "pattern", "refers to a group"),
        (
            r#"{"pattern":"["}"#,
            "pattern",
            "has a class that is not closed",
        ),
        (r#"{"pattern":"^\\x01$"}"#, "pattern", "matches no text"),
        (
            r#"{"pattern":"a","minLength":9,"maxLength":3}"#,
            "pattern",
            "matches no text",
        ),
        (
            r#"{"pattern":"[ab]*a[ab]{900}c"}"#,
            "pattern",
            "needs more than 2000 states",
        ),
        (
            r#"{"patternProperties":{"(":{}}}"#,
            "patternProperties.(",
            "has a group that is not closed",
        ),
        (
            r#"{"format":"regex"}"#,
            "format",
            "is not enforced with this value",
        ),
        (r#"{"properties":[]}"#, "properties", "must be an object"),
        (r#"{"required":"a"}"#, "required", "must be a list of names"),
        (
            r#"{"minProperties":2}"#,
            "minProperties",
            "is only enforced up to one more",
        ),
        (
            r#"{"maxProperties":2,"properties":{"a":{}}}"#,
            "maxProperties",
            "is only enforced where all",
        ),
        (
            r#"{"$ref":"https://example.com/s"}"#,
            "$ref",
            "refers to another document",
        ),
        (
            r#"{"$ref":"other.json"}"#,
            "$ref",
            "refers to another document",
        ),
        (r##"{"$ref":"#a"}"##, "$ref", "refers to an anchor"),
        (r##"{"$ref":"#/$defs/a"}"##, "$ref", "refers to nothing"),
        (
            r##"{"$ref":"#/$defs/a","$defs":{"a":{"not":{}}}}"##,
            "$defs.a.not",
            "is not enforced",
        ),
        (
            r##"{"$ref":"#"}"##,
            "",
            "has no answer that comes to an end",
        ),
        (
            r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##,
            "",
            "has no answer",
        ),
        // one part asks for an array, and another for a first item of it
        (
            r##"{"type":"array","allOf":[{"prefixItems":[{"$ref":"#"}],"minItems":1}]}"##,
            "",
            "has no answer",
        ),
        (
            r##"{"properties":{"a":{"$ref":"#/$defs/l"}},"$defs":{"l":{"type":"array","minItems":1,"items":{"$ref":"#/$defs/l"}}}}"##,
            "$defs.l",
            "has no answer",
        ),
        (
            r#"{"properties":{"a":{"$id":"b"}}}"#,
            "properties.a.$id",
            "is not supported below the root",
        ),
        (
            r#"{"$schema":"https://example.com/meta"}"#,
            "$schema",
            "names another draft",
        ),
        (COMPILED[2], "patternProperties", "has two patterns"),
        (COMPILED[1], "oneOf", "is only enforced where it is plain"),
        (COMPILED[0], "", "allows nothing"),
    ] {
        let error = CONSTRAINER
            .compile(&schema(text))
            .err()
            .unwrap_or_else(|| panic!("{text} is taken"));
        assert_eq!(error.place, place, "{text}: {error}");
        assert!(error.message.starts_with(says), "{text}: {error}");
        if !COMPILED.contains(&text) {
            assert_eq!(
                schema(text).check(),
                Err(error),
                "a model is not needed for it"
            );
        }
    }
}

#[test]
fn what_describes_is_ignored_and_a_clients_options_are_dropped() {
    let text = r#"{"title":"t","description":"d","default":7,"examples":[1],"deprecated":true,"$comment":"c","readOnly":true,
        "$schema":"http://json-schema.org/draft-07/schema#","$id":"https://example.com/x","x-guidance":{"lenient":true},
        "x-order":1,"type":"integer","$defs":{"unused":{"not":{}}}}"#;
    let mut constraint = CONSTRAINER.compile(&schema(text)).unwrap();
    assert!(constraint.begin("12").is_ok() && constraint.is_complete());
    let options = r#"{"type":"object","x-guidance":{"lenient":true,"whitespace_pattern":" +"},"properties":{"a":{"x-guidance":7}}}"#;
    let mut constraint = CONSTRAINER.compile(&schema(options)).unwrap();
    assert_eq!(constraint.begin("{ "), Err(ConstraintError::Text));
}

#[test]
fn bytes_and_levels_are_bounded() {
    let long = |n: usize| {
        let text = format!(r#"{{"type":"integer","title":"{}"}}"#, "x".repeat(n - 29));
        assert_eq!(text.len(), n);
        schema(&text)
    };
    assert_eq!(long(SCHEMA_BYTES_MAX).check(), Ok(()));
    assert_eq!(
        long(SCHEMA_BYTES_MAX + 1).check().unwrap_err().message,
        "has 65537 bytes, at most 65536 are taken"
    );
    let deep = |n: usize| schema(&(r#"{"items":"#.repeat(n) + "{}" + &"}".repeat(n)));
    assert_eq!(deep(63).check(), Ok(()));
    assert!(CONSTRAINER.compile(&deep(63)).is_ok());
    assert_eq!(
        deep(64).check().unwrap_err().message,
        "has more than 64 levels"
    );
    assert_eq!(deep(100_000).check().unwrap_err().message[..3], *"has");
    let chain = |n: usize| {
        let defs: Vec<String> = (0..n)
            .map(|k| format!(r##""{k}":{{"$ref":"#/$defs/{}"}}"##, k + 1))
            .collect();
        schema(&format!(
            r##"{{"$ref":"#/$defs/0","$defs":{{{},"{n}":{{}}}}}}"##,
            defs.join(",")
        ))
    };
    assert!(CONSTRAINER.compile(&chain(62)).is_ok());
    let error = chain(63).check().unwrap_err();
    assert_eq!(error.message, "is beyond 64 levels, with references");
    let wide = |n: usize| {
        let all: Vec<String> = (0..n)
            .map(|k| format!(r#""{k}":{{"type":"null"}}"#))
            .collect();
        schema(&format!(
            r#"{{"type":"object","properties":{{{}}}}}"#,
            all.join(",")
        ))
    };
    assert!(CONSTRAINER.compile(&wide(256)).is_ok());
    assert_eq!(
        wide(257).check().unwrap_err().to_string(),
        "properties: has 257 properties, at most 256 are taken"
    );
    assert_eq!(
        Format::Regex("a".repeat(70_000).into())
            .check()
            .unwrap_err()
            .place,
        ""
    );
    assert_eq!(Format::JsonObject.bytes(), 0);
    assert_eq!(schema("{}").bytes(), 2);
}

#[test]
fn lists_are_bounded() {
    /// The place, how many are taken, a schema of so many, and what is said of one more.
    type Row<'r> = (&'r str, usize, &'r dyn Fn(usize) -> String, &'r str);

    let many = |n: usize, one: &dyn Fn(usize) -> String| -> String {
        (0..n).map(one).collect::<Vec<_>>().join(",")
    };
    let made: [Row<'_>; 6] = [
        (
            "enum",
            1_024,
            &|n| format!(r#"{{"enum":[{}]}}"#, many(n, &|k| k.to_string())),
            "has 1025 elements",
        ),
        (
            "prefixItems",
            128,
            &|n| format!(r#"{{"prefixItems":[{}]}}"#, many(n, &|_| "{}".into())),
            "has more than 128",
        ),
        (
            "patternProperties",
            8,
            &|n| {
                format!(
                    r#"{{"patternProperties":{{{}}}}}"#,
                    many(n, &|k| format!(r#""^{k}":{{}}"#))
                )
            },
            "has 9 properties",
        ),
        (
            "required",
            256,
            &|n| format!(r#"{{"required":[{}]}}"#, many(n, &|k| format!(r#""{k}""#))),
            "has more than 256 names",
        ),
        (
            "properties.256.$ref",
            256,
            &|n| {
                let refs = many(n, &|k| format!(r##""{k}":{{"$ref":"#/$defs/{k}"}}"##));
                let both = |part: &str| part.replace("$ref", "title");
                // more properties than one object may have: in two
                let (first, second) = refs.split_at(refs.find(r#","200""#).unwrap());
                format!(
                    r#"{{"properties":{{"first":{{"properties":{{{first}}}}},{}}},"$defs":{{{}}}}}"#,
                    &second[1..],
                    both(&refs)
                )
            },
            "is beyond the 256 schemas that may be referred to",
        ),
        (
            "anyOf.999.items",
            999,
            &|n| {
                format!(
                    r#"{{"anyOf":[{}]}}"#,
                    many(n, &|_| r#"{"items":{}}"#.into())
                )
            },
            "is beyond the 2000 schemas",
        ),
    ];
    for (place, most, make, says) in made {
        assert_eq!(schema(&make(most)).check(), Ok(()), "{place}");
        let error = schema(&make(most + 1)).check().unwrap_err();
        assert_eq!(error.place, place);
        assert!(error.message.starts_with(says), "{error}");
    }
}
