//! Calls: what their grammar lets through is read as calls and nothing else.

use super::judge::validates;
use super::*;
use crate::text::tokenizer::tests::SPECIAL;
use crate::text::{CallSplitter, Convention, Piece, Tool, ToolChoice, Tools, Utf8Stream};
use glowplug_firmware_config::limits::SCHEMA_LEVELS_MAX;

const CONVENTIONS: [Convention; 5] = [
    Convention::Hermes,
    Convention::DeepSeek,
    Convention::Llama,
    Convention::Tagged,
    Convention::Mistral,
];

/// A vocabulary whose marks are control tokens, or are not in it.
fn vocabulary(marks: bool) -> (Arc<Tokenizer>, Constrainer) {
    let mut tiny = Tiny::default();
    if marks {
        for mark in crate::text::tools::MARKS {
            tiny.tokens.push((mark.to_owned(), SPECIAL[0].1));
        }
    }
    let tokenizer = Arc::new(tiny.build().unwrap());
    let constrainer = Constrainer::new(Arc::clone(&tokenizer), 288).unwrap();
    (tokenizer, constrainer)
}

fn tools(choice: ToolChoice) -> Tools {
    let tool = |name, parameters| Tool::new(name, None, parameters).unwrap();
    Tools {
        list: [
            tool(
                "set_light",
                r#"{"properties":{"room":{"enum":["hall","kitchen"]},"level":{"type":"number"}},"required":["room"],"additionalProperties":false}"#,
            ),
            tool("time", ""),
            tool("note", r#"{"type":"object","properties":{"text":{"type":"string","maxLength":20}},"additionalProperties":false}"#),
        ]
        .into(),
        choice,
        parallel: true,
    }
}

fn splitter(convention: Convention, most: usize) -> CallSplitter {
    CallSplitter::new(convention, tools(ToolChoice::Auto).list, most)
}

/// Checks a call against its tool, and gives its name.
fn checked(name: &str, arguments: &str) -> String {
    let tools = tools(ToolChoice::Auto);
    let tool = tools.list.iter().find(|tool| tool.name() == name).unwrap();
    let schema = json(tool.parameters());
    assert!(
        validates(&schema, &schema, &json(arguments)),
        "{name} {arguments}"
    );
    name.to_owned()
}

#[test]
fn an_answer_of_calls_is_read_as_calls() {
    for marks in [false, true] {
        let (tokenizer, constrainer) = vocabulary(marks);
        for convention in CONVENTIONS {
            let tools = tools(ToolChoice::Required);
            let mut constraint = constrainer.compile_calls(convention, &tools, 3).unwrap();
            let mut ended = 0;
            for seed in 1..60 {
                constraint.restart().unwrap();
                let Some(answer) = walk(&mut constraint, &tokenizer, seed, 400) else {
                    continue;
                };
                ended += 1;
                let (mut names, mut text) = (Vec::new(), String::new());
                let mut splitter = splitter(convention, 4);
                let mut emit = |piece: Piece<'_>| match piece {
                    Piece::Content(content) => text += content,
                    Piece::Call { name, arguments } => names.push(checked(name, arguments)),
                };
                splitter.push(&answer, &mut emit);
                splitter.finish(&mut emit);
                assert!((1..=3).contains(&names.len()), "{answer}: {names:?}");
                assert_eq!(text.trim(), "", "{answer}");
            }
            assert!(ended > 5, "{convention:?} {marks}: {ended}");
        }
    }
}

#[test]
fn it_is_what_the_template_writes() {
    for marks in [false, true] {
        let (tokenizer, constrainer) = vocabulary(marks);
        for convention in CONVENTIONS {
            let named = tools(ToolChoice::Named("note".into()));
            let mut constraint = constrainer.compile_calls(convention, &named, 1).unwrap();
            let call = convention.write("note", r#"{"text":"x"}"#);
            for token in tokenizer.encode(&call, marks).unwrap() {
                constraint.accept(token).unwrap();
            }
            assert!(constraint.is_over());
            let mut constraint = constrainer.compile_calls(convention, &named, 1).unwrap();
            let other = tokenizer
                .encode(&convention.write("time", "{}"), marks)
                .unwrap();
            assert!(constraint.agreed(&other) < other.len());
        }
    }
    let none = tools(ToolChoice::Named("nobody".into()));
    let error = CONSTRAINER
        .compile_calls(Convention::Hermes, &none, 1)
        .err()
        .unwrap();
    assert_eq!(error.place, "tool_choice");
    let mut wrong = tools(ToolChoice::Required);
    wrong.list = [Tool::new("a", None, r#"{"properties":{"x":{"not":{}}}}"#).unwrap()].into();
    let error = CONSTRAINER
        .compile_calls(Convention::Hermes, &wrong, 1)
        .err()
        .unwrap();
    assert_eq!(error.place, "tools[0].function.parameters.properties.x.not");
    wrong.list = [Tool::new("a", None, r#"{"type":"string"}"#).unwrap()].into();
    let error = CONSTRAINER
        .compile_call(Convention::Hermes, &wrong)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "tools[0].function.parameters.type: must be `object`"
    );
}

/// Writes `text` as the model would, then what the mask lets through once a call is open, and gives the calls.
fn held(convention: Convention, text: &str, marks: bool, seed: u64) -> Option<Vec<String>> {
    let (tokenizer, constrainer) = vocabulary(marks);
    let mut constraint = constrainer
        .compile_call(convention, &tools(ToolChoice::Auto))
        .unwrap();
    let mut splitter = splitter(convention, 4);
    let mut names = Vec::new();
    let mut emit = |piece: Piece<'_>| {
        if let Piece::Call { name, arguments } = piece {
            names.push(checked(name, arguments));
        }
    };
    splitter.push(text, &mut emit);
    let open = splitter.open_call()?.to_owned();
    constraint.begin(&open).unwrap();
    let (mut dice, mut utf8) = (Dice(seed | 1), Utf8Stream::default());
    for _ in 0..400 {
        if splitter.open_call().is_none() {
            assert!(constraint.is_complete());
            return Some(names);
        }
        let tokens: Vec<u32> = constraint.mask().unwrap().tokens().collect();
        let ends = |token: &&u32| matches!(&*tokenizer.token_bytes(**token), b"\"" | b"}");
        let ending: Vec<u32> = tokens.iter().filter(ends).copied().collect();
        let among = if ending.is_empty() || dice.below(3) > 0 {
            &tokens
        } else {
            &ending
        };
        let token = among[dice.below(among.len())];
        constraint.accept(token).unwrap();
        let mut text = String::new();
        match tokenizer.call_mark(token) {
            Some(mark) => text += mark,
            None => utf8.push(&tokenizer.token_bytes(token), &mut text),
        }
        splitter.push(&text, &mut emit);
    }
    None
}

#[test]
fn a_call_within_an_answer_is_held_from_its_name_on() {
    for (convention, text) in [
        (Convention::Hermes, "I will. <tool_call>{\"name\":\"note\""),
        (
            Convention::Hermes,
            "<tool_call>\n{\"name\": \"set_light\", ",
        ),
        (Convention::Hermes, "{\"name\": \"time\""),
        (Convention::Hermes, "```json\n{\n  \"name\": \"note\""),
        (Convention::Llama, "{\"name\": \"note\", "),
        (
            Convention::Llama,
            "{\"type\": \"function\", \"name\": \"note\"",
        ),
        (
            Convention::Llama,
            "<|python_tag|>{\"name\": \"time\", \"par",
        ),
        (
            Convention::DeepSeek,
            "Well.\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>note\n```json\n{",
        ),
        (
            Convention::DeepSeek,
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>set_light\n```json\n{",
        ),
        (Convention::Tagged, "Well.\n<tool_call>\n<function=note>"),
        (Convention::Tagged, "<function=set_light>\n<parameter=room>"),
        (Convention::Mistral, "So. [TOOL_CALLS]note[ARGS]{"),
        (Convention::Mistral, "[TOOL_CALLS]set_light[ARGS]{"),
    ] {
        for marks in [false, true] {
            let calls = (1..40).filter_map(|seed| held(convention, text, marks, seed));
            let calls: Vec<Vec<String>> = calls.collect();
            assert!(
                calls.len() > 5,
                "{convention:?} {text}: {} came to an end",
                calls.len()
            );
            assert!(
                calls.iter().all(|names| names.len() == 1),
                "{convention:?} {text}"
            );
        }
    }
    // what is no call yet is not held
    let door = "<tool_call>{\"name\": \"door\", ";
    for text in ["Hello", "{", "{\"name\": \"note", "<tool_call>", door] {
        assert!(held(Convention::Hermes, text, false, 1).is_none(), "{text}");
    }
}

/// The texts of parameters are held to what their schemas say of texts, and come out letter by letter.
#[test]
fn texts_between_tags_are_held_to_their_schemas() {
    let schema = r##"{"type":"object","properties":{
        "plain":{"type":"string","maxLength":4},
        "date":{"type":"string","format":"date"},
        "code":{"type":"string","pattern":"^[A-C]{2}$"},
        "maybe":{"anyOf":[{"type":"string","maxLength":2},{"type":"null"}]},
        "color":{"$ref":"#/$defs/color"},
        "unit":{"oneOf":[{"const":"C"},{"const":"F"}]},
        "both":{"allOf":[{"type":"string","minLength":1},{"enum":["x\ny","</parameter>z"]}]},
        "list":{"type":"array","items":{"$ref":"#/$defs/color"},"maxItems":2},
        "level":{"type":["integer","null"],"minimum":0,"maximum":9},
        "count":{"type":"integer"},"ratio":{"type":"number"},
        "never":false},
        "required":["plain","date","code","color","unit","both","list"],"minProperties":7,
        "$defs":{"color":{"enum":["red","blue"]}}}"##;
    let tool = Tool::new("paint", None, schema).unwrap();
    let tools = Tools {
        list: [tool].into(),
        choice: ToolChoice::Required,
        parallel: false,
    };
    let (tokenizer, constrainer) = vocabulary(false);
    let mut constraint = constrainer
        .compile_calls(Convention::Tagged, &tools, 1)
        .unwrap();
    let schema = json(schema);
    let mut ended = 0;
    for seed in 1..80 {
        constraint.restart().unwrap();
        let Some(answer) = walk(&mut constraint, &tokenizer, seed, 900) else {
            continue;
        };
        ended += 1;
        let mut splitter = CallSplitter::new(Convention::Tagged, tools.list.clone(), 1);
        let mut called = String::new();
        splitter.push(&answer, &mut |piece| match piece {
            Piece::Call { arguments, .. } => called = arguments.to_owned(),
            Piece::Content(text) => panic!("{text}"),
        });
        assert!(validates(&schema, &schema, &json(&called)), "{answer}");
        assert_eq!(json(&called)["both"], "x\ny", "{answer}");
    }
    assert!(ended > 20, "{ended}");
}

/// A model that loves brackets and digits still writes JSON between tags that can be read, and a reference with percent signs means
/// the same to the grammar and to the reader.
#[test]
fn json_between_tags_is_what_a_reader_can_bear() {
    let schema = r##"{"type":"object","properties":{
        "any":{"type":["object","array","number"]},"list":{"type":"array"},"text":{"type":"string","maxLength":90},
        "count":{"$ref":"#/$defs/a%25count"}},
        "required":["any","list","text","count"],"$defs":{"a%count":{"type":"integer","minimum":0}}}"##;
    let tools = Tools {
        list: [Tool::new("paint", None, schema).unwrap()].into(),
        choice: ToolChoice::Required,
        parallel: false,
    };
    let (tokenizer, constrainer) = vocabulary(false);
    let mut constraint = constrainer
        .compile_calls(Convention::Tagged, &tools, 1)
        .unwrap();
    let schema = json(schema);
    let (mut deep, mut long) = (0, 0);
    for seed in 1..40 {
        constraint.restart().unwrap();
        let (mut dice, mut answer) = (Dice(seed), Vec::new());
        // brackets, a digit, or both, and after a while what ends them
        let loved: &[u8] = [&b"["[..], b"7e", b"[7{\"e"][seed as usize % 3];
        while !constraint.is_over() {
            let tokens: Vec<u32> = constraint.mask().unwrap().tokens().collect();
            let loved = if answer.len() < 400 { loved } else { b"\"]}\n" };
            let is_loved = |token: &&u32| matches!(&*tokenizer.token_bytes(**token), [one] if loved.contains(one));
            let few: Vec<u32> = tokens.iter().filter(is_loved).copied().collect();
            let among = if few.is_empty() { &tokens } else { &few };
            let token = among[dice.below(among.len())];
            constraint.accept(token).unwrap();
            answer.extend_from_slice(&tokenizer.token_bytes(token));
            assert!(answer.len() < 5_000);
        }
        let answer = String::from_utf8(answer).unwrap();
        let mut splitter = CallSplitter::new(Convention::Tagged, tools.list.clone(), 1);
        let mut called = String::new();
        splitter.push(&answer, &mut |piece| match piece {
            Piece::Call { arguments, .. } => called = arguments.to_owned(),
            Piece::Content(text) => panic!("{text}"),
        });
        assert!(validates(&schema, &schema, &json(&called)), "{answer}");
        deep += usize::from(called.contains(&"[".repeat(SCHEMA_LEVELS_MAX - 1)));
        long += usize::from(called.contains("7777777"));
    }
    assert!(deep > 5 && long > 5, "{deep} deep, {long} long");
}

#[test]
fn what_is_not_enforced_between_tags_is_refused_by_its_place() {
    let long = "k".repeat(257);
    let one_of =
        r#"{"properties":{"a":{"oneOf":[{"type":"string","maxLength":2},{"const":"abc"}]}}}"#;
    for (schema, says) in [
        (
            r#"{"minProperties":1}"#.to_owned(),
            "minProperties: is not enforced",
        ),
        (
            r#"{"anyOf":[{"required":["a"]}],"properties":{"a":{}}}"#.into(),
            "anyOf: is not enforced",
        ),
        (r#"{"required":["a"]}"#.into(), "required: has `a`"),
        (
            r#"{"properties":{"a>b":{}}}"#.into(),
            "properties.a>b: must have",
        ),
        (
            format!(r#"{{"properties":{{"{long}":{{}}}}}}"#),
            "must have at most 256 bytes",
        ),
        (one_of.into(), "properties.a: is only enforced between tags"),
        (doubled(), "properties.a: refers to too many schemas"),
    ] {
        let tools = Tools {
            list: [Tool::new("a", None, &schema).unwrap()].into(),
            choice: ToolChoice::Auto,
            parallel: true,
        };
        // JSON is held to all of them but the last two
        let json = CONSTRAINER.compile_call(Convention::Hermes, &tools);
        let neither = [one_of, &doubled()].contains(&&*schema);
        assert!(json.is_ok() || neither, "{schema}");
        let error = CONSTRAINER
            .compile_call(Convention::Tagged, &tools)
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(
            error.contains(says) && error.starts_with("tools[0].function.parameters."),
            "{error}"
        );
    }
}

/// A schema that refers to as many as it has, twice at each level.
fn doubled() -> String {
    let one = |n| {
        let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, n + 1);
        format!(r#""d{n}":{{"anyOf":[{next},{next}]}}"#)
    };
    let all: Vec<String> = (0..20).map(one).collect();
    let all = all.join(",");
    format!(
        r##"{{"properties":{{"a":{{"$ref":"#/$defs/d0"}}}},"$defs":{{{all},"d20":{{"type":"integer"}}}}}}"##
    )
}
