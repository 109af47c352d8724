//! Whatever the mask lets through validates.

use super::judge::validates;
use super::*;
use proptest::prelude::*;

const SCHEMAS: &[&str] = &[
    "true",
    "{}",
    r#"{"type":"object"}"#,
    r#"{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":4}"#,
    r#"{"type":["string","null"],"minLength":2,"maxLength":5}"#,
    r#"{"enum":["on","off",1,2.5,null,true,{"a":[1]},["x"]]}"#,
    r#"{"const":"é\n\"\\"}"#,
    r#"{"type":"string","pattern":"^[a-f]{2}-\\d+$"}"#,
    r#"{"type":"string","pattern":"b+c"}"#,
    r#"{"type":"string","pattern":"^(ab|c)*$","minLength":3,"maxLength":6}"#,
    r#"{"type":"integer","minimum":-5,"maximum":17,"multipleOf":3}"#,
    r#"{"type":"number","exclusiveMinimum":0,"maximum":1}"#,
    r#"{"type":"number","exclusiveMinimum":0.25,"maximum":0.5}"#,
    r#"{"type":"number","minimum":-1.5,"exclusiveMaximum":2.25}"#,
    r#"{"type":"number","minimum":0,"maximum":2,"multipleOf":0.25}"#,
    r#"{"exclusiveMinimum":3}"#,
    r#"{"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"boolean"}},"required":["a"],"additionalProperties":false}"#,
    r#"{"type":"object","properties":{"foo":{"type":"integer"}},"additionalProperties":{"type":"boolean"}}"#,
    r#"{"type":"object","properties":{"foo":{"type":"integer"}}}"#,
    r#"{"type":"object","patternProperties":{"^x":{"type":"null"},"^y.$":{"type":"integer"}},"additionalProperties":false}"#,
    r#"{"type":"object","patternProperties":{"^x":{"type":"null"}},"properties":{"a":true},"required":["a","xa"]}"#,
    r#"{"type":"object","maxProperties":2,"additionalProperties":{"type":"null"}}"#,
    r#"{"type":"object","minProperties":1}"#,
    r#"{"type":"object","properties":{"a":{"const":1},"b":{"const":2}},"minProperties":1,"maxProperties":1,"additionalProperties":false}"#,
    r#"{"type":"object","properties":{"a":{"const":1},"b":{"const":2}},"minProperties":1,"additionalProperties":false}"#,
    r#"{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"}}"#,
    r#"{"anyOf":[{"type":"integer"},{"type":"string","maxLength":2}]}"#,
    r#"{"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"v":{"type":"integer"}},"required":["k","v"]},{"type":"object","properties":{"k":{"const":"b"}},"required":["k"]}]}"#,
    r##"{"allOf":[{"$ref":"#/$defs/a"},{"properties":{"y":{"type":"null"}}}],"$defs":{"a":{"type":"object","properties":{"x":{"type":"integer"}},"required":["x","y"]}}}"##,
    r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"kids":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["kids"],"additionalProperties":false}}}"##,
    r##"{"anyOf":[{"$ref":"#/$defs/a b~0%25"},{"type":"null"}],"$defs":{"a b~%":{"type":"integer"}}}"##,
    r##"{"type":"object","properties":{"next":{"$ref":"#"}},"additionalProperties":false}"##,
    r#"{"type":"object","properties":{"a\u0001\u007f\"é":{"const":1}},"required":["a\u0001\u007f\"é"],"additionalProperties":false}"#,
    r#"{"type":"object","required":["a"],"properties":{"a":{"type":"integer"}},"allOf":[{"properties":{"b":{"type":"null"}},"required":["b"]}],"anyOf":[{"properties":{"a":{"minimum":5}}},{"required":["c"]}]}"#,
];

#[test]
fn what_a_mask_lets_through_validates() {
    for text in SCHEMAS {
        let root: Value = serde_json::from_str(text).unwrap();
        let mut constraint = CONSTRAINER
            .compile(&schema(text))
            .unwrap_or_else(|error| panic!("{error}: {text}"));
        let mut ended = 0;
        for seed in 1..40 {
            constraint.restart().unwrap();
            if let Some(answer) = walk(&mut constraint, &TOKENIZER, seed, 300) {
                ended += 1;
                let value = json(&answer);
                assert!(validates(&root, &root, &value), "{text}: {answer}");
            }
        }
        assert!(ended > 0, "{text}: no answer came to an end");
    }
}

#[test]
fn a_blank_may_come_behind_a_comma_or_a_colon_alone() {
    let mut constraint = CONSTRAINER.compile(&Format::JsonObject).unwrap();
    let mut fits = |text: &str| {
        constraint.restart().unwrap();
        constraint.begin(text).is_ok()
    };
    for text in [r#"{"a":[7,8],"b":{}}"#, r#"{"a": [7, 8], "b": {}}"#] {
        assert!(fits(text), "{text}");
    }
    for text in [
        " {",
        "{ ",
        "{\n",
        "{}\n",
        "{\"a\" ",
        "{\"a\":  ",
        "{\"a\":\n",
        "{\"a\":\t",
        "{\"a\":[ ",
        "{\"a\":[7 ",
        "{\"a\":[7,  ",
        "{\"a\":[7,\n",
        "{\"a\":7 ",
        "{\"a\":7,\r",
    ] {
        assert!(!fits(text), "{text:?}");
    }
}

/// What a double makes of a number counts, as a reader has it.
#[test]
fn an_open_end_is_open_however_a_number_is_written() {
    for (end, number, inside) in [
        (r#""exclusiveMinimum":37.25"#, "37.250000000000002", false),
        (r#""exclusiveMinimum":37.25"#, "37.2500000000001", true),
        (r#""exclusiveMinimum":37.25,"minimum":37"#, "37.25", false),
        (r#""minimum":38,"exclusiveMinimum":37.25"#, "37.5", false),
        (r#""minimum":38,"exclusiveMinimum":37.25"#, "38", true),
        (r#""exclusiveMaximum":3"#, "2.9", true),
        (r#""exclusiveMaximum":-3"#, "-3.00000000000000001", false),
        (r#""exclusiveMaximum":-3"#, "-3.1", true),
        (r#""exclusiveMinimum":0"#, "0.00000000000000001", true),
        (r#""exclusiveMinimum":0"#, "0.0", false),
    ] {
        let text = format!(r#"{{"type":"number",{end}}}"#);
        let mut constraint = CONSTRAINER.compile(&schema(&text)).unwrap();
        let fits = constraint.begin(number).is_ok() && constraint.is_complete();
        assert_eq!(fits, inside, "{text}: {number}");
    }
}

#[test]
fn no_key_can_be_written_as_another_one() {
    let format = schema(r#"{"type":"object","properties":{"foo":{"type":"integer"}}}"#);
    let mut constraint = CONSTRAINER.compile(&format).unwrap();
    constraint.begin("{\"f").unwrap();
    let mask = constraint.mask().unwrap();
    assert!(mask.allows(u32::from(b'\\')));
    constraint.accept(u32::from(b'\\')).unwrap();
    assert!(!constraint.mask().unwrap().allows(u32::from(b'u')));
}

#[test]
fn formats_write_what_they_say() {
    for (name, good, bad) in [
        (
            "date",
            &["2024-02-29", "2000-02-29", "1999-12-31"][..],
            &["2023-02-29", "1900-02-29", "2024-04-31", "24-1-1"][..],
        ),
        (
            "time",
            &["23:59:60Z", "08:30:06.28+05:30", "00:00:00z"],
            &["24:00:00Z", "22:59:60Z", "12:00:00", "12:00:00+24:00"],
        ),
        (
            "date-time",
            &["1990-12-31T23:59:60Z", "1963-06-19t08:30:06.283185z"],
            &[
                "1990-02-31T15:59:59Z",
                "2013-350T01:01:01",
                "1990-12-31 15:59:59Z",
            ],
        ),
        (
            "duration",
            &["P4DT12H30M5S", "P4Y", "PT0S", "P2W", "P1YT1M"],
            &["P", "P1YT", "P1Y2W", "PT1D", "4D"],
        ),
        (
            "email",
            &["joe.bloggs@example.com", "te~st@a", "a@[127.0.0.1]"],
            &[".a@b", "a..b@c", "a@", "a@-b", "a@[127.0.0.300]"],
        ),
        (
            "hostname",
            &["www.example.com", "a-b", "a1", "hostnam3", &"a".repeat(63)],
            &["-a", "a-", "a..b", "a_b", "xn--x", "a.", &"a".repeat(64)],
        ),
        (
            "ipv4",
            &["192.168.0.1", "255.255.255.255"],
            &["127.0.0.0.1", "256.1.1.1", "01.1.1.1", "1.1.1"],
        ),
        (
            "ipv6",
            &[
                "::1",
                "::",
                "1:2:3:4:5:6:7:8",
                "::ffff:192.168.0.1",
                "a::b:c",
                "1:2:3:4:5:6:7::",
            ],
            &[
                "12345::",
                "1::2::3",
                "1:2:3:4:5:6:7:8:9",
                "1:2:3",
                "::1%eth0",
            ],
        ),
        (
            "uri",
            &[
                "http://foo.bar/?baz=qux#quux",
                "urn:oasis:names",
                "mailto:a@b.c",
                "http://[2001:db8::7]/c",
                "tel:+1-816",
            ],
            &[
                "//foo.bar",
                "/abc",
                "http:// bad",
                "http://foo.bar/a b",
                ":// should",
            ],
        ),
        (
            "uuid",
            &["2EB8AA08-aa98-11ea-b4aa-73b441d16380"],
            &[
                "2eb8aa08-aa98-11ea-b4aa-73b441d1638",
                "2eb8aa08aa9811eab4aa73b441d16380",
            ],
        ),
    ] {
        let mut constraint = CONSTRAINER
            .compile(&schema(&format!(
                r#"{{"type":"string","format":"{name}"}}"#
            )))
            .unwrap();
        let mut takes = |text: &str| {
            constraint.restart().unwrap();
            constraint.begin(&Value::from(text).to_string()).is_ok() && constraint.is_complete()
        };
        for text in good {
            assert!(takes(text), "{name}: {text}");
        }
        for text in bad {
            assert!(!takes(text), "{name}: {text}");
        }
    }
}

/// Any schema of these keywords, as far as they make sense.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(serde_json::json!({})),
        Just(serde_json::json!(true)),
        Just(serde_json::json!(false)),
        Just(serde_json::json!({"$ref": "#/$defs/a"})),
        Just(serde_json::json!({"$ref": "#"})),
        prop::sample::select(vec!["null", "boolean", "integer", "number", "string", "array", "object"])
            .prop_map(|name| serde_json::json!({"type": name})),
        (-3i8..9, 0u8..9).prop_map(|(low, span)| serde_json::json!({"minimum": low, "maximum": f64::from(low) + f64::from(span) / 2.0})),
        (0u8..3, 0u8..4).prop_map(|(low, high)| serde_json::json!({"minLength": low, "maxLength": high})),
        prop::sample::select(vec!["^a+$", "b", "^[0-9]{2}$", "^(x|yy)"])
            .prop_map(|pattern| serde_json::json!({"type": ["string", "null"], "pattern": pattern})),
        prop::collection::vec(prop::sample::select(vec!["1", "\"a\"", "null", "[1]", "{\"a\":2}"]), 1..4)
            .prop_map(|values| serde_json::json!({"enum": values.iter().map(|one| json(one)).collect::<Vec<_>>()})),
        (1u8..4).prop_map(|number| serde_json::json!({"type": "integer", "multipleOf": number})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let named = prop::collection::btree_map("[abc]", inner.clone(), 0..3);
        let required = prop::collection::btree_set("[abcd]", 0..3);
        let list = prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            (named, required, prop::option::of(inner.clone()), 0u8..3, prop::option::of(0u8..4)).prop_map(
                |(properties, required, other, least, most)| {
                    let mut schema = serde_json::json!({"type": "object", "properties": properties, "required": required, "minProperties": least});
                    if let Some(other) = other {
                        schema["additionalProperties"] = other;
                    }
                    if let Some(most) = most {
                        schema["maxProperties"] = most.into();
                    }
                    schema
                }
            ),
            (inner.clone(), list.clone(), 0u8..3, 0u8..4).prop_map(|(items, first, least, more)| {
                serde_json::json!({"items": items, "prefixItems": first, "minItems": least, "maxItems": least + more})
            }),
            (list.clone(), inner.clone(), prop::sample::select(vec!["allOf", "anyOf", "oneOf"])).prop_map(
                |(list, mut beside, key)| {
                    if let Value::Object(map) = &mut beside {
                        map.insert(key.into(), list.into());
                    }
                    beside
                }
            ),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any schema is refused, or what its masks let through validates.
    #[test]
    fn any_schema_is_refused_or_kept_to(mut root in any_schema(), a in any_schema(), seed: u64) {
        if let Value::Object(map) = &mut root {
            map.insert("$defs".into(), serde_json::json!({"a": a}));
        }
        let format = schema(&root);
        let checked = format.check();
        let Ok(mut constraint) = CONSTRAINER.compile(&format) else { return Ok(()) };
        prop_assert_eq!(checked, Ok(()));
        for round in 0..6 {
            constraint.restart().unwrap();
            let Some(answer) = walk(&mut constraint, &TOKENIZER, seed.wrapping_add(round), 120) else { continue };
            prop_assert!(validates(&root, &root, &json(&answer)), "{root}: {answer}");
        }
    }

    /// The bounds of numbers are exact.
    #[test]
    fn numbers_keep_to_their_bounds(
        low in -2000i32..2000, span in 0i32..3000, scale in 0u32..3, integer: bool, open_low: bool, open_high: bool, seed: u64,
    ) {
        let unit = f64::from(10u32.pow(scale));
        let (low, high) = (f64::from(low) / unit, f64::from(low + span) / unit);
        let key = |open, name: &str| if open { format!("exclusive{name}") } else { name.to_lowercase() };
        let root = serde_json::json!({
            "type": if integer { "integer" } else { "number" },
            key(open_low, "Minimum"): low,
            key(open_high, "Maximum"): high,
        });
        let Ok(mut constraint) = CONSTRAINER.compile(&schema(&root)) else {
            // there is none between them, or they are refused for being near and open
            let whole = (low.ceil() as i64..=high.floor() as i64).any(|one| {
                let one = one as f64;
                (one > low || !open_low) && (one < high || !open_high)
            });
            let some = if integer { whole } else { low < high || !(open_low || open_high) };
            prop_assert!(!some || high - low < 1.0, "{root}");
            return Ok(());
        };
        for round in 0..8 {
            constraint.restart().unwrap();
            if let Some(answer) = walk(&mut constraint, &TOKENIZER, seed.wrapping_add(round), 12) {
                prop_assert!(validates(&root, &root, &json(&answer)), "{root}: {answer}");
            }
        }
    }
}
