use super::*;
use proptest::prelude::*;

/// Tools of these names that take the same.
fn tools(names: &[&str]) -> Arc<[Tool]> {
    let schema = r#"{"properties":{"on":{"type":"boolean"},"text":{"type":"string"}}}"#;
    let tool = |name: &&str| Tool::new(name, None, schema).unwrap();
    names.iter().map(tool).collect()
}

/// What came out, with texts put together: `(text)` or `name{arguments}`.
fn run<'a>(
    convention: Convention,
    most: usize,
    parts: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut in_text = false;
    let mut splitter = CallSplitter::new(convention, tools(&["light", "time"]), most);
    let mut emit = |piece: Piece<'_>| match piece {
        Piece::Content(text) => {
            assert!(!text.is_empty());
            match out.last_mut() {
                Some(last) if in_text => last.push_str(text),
                _ => out.push(text.to_owned()),
            }
            in_text = true;
        }
        Piece::Call { name, arguments } => {
            out.push(format!("{name} {arguments}"));
            in_text = false;
        }
    };
    for part in parts {
        splitter.push(part, &mut emit);
    }
    splitter.finish(&mut emit);
    out
}

const HERMES: Convention = Convention::Hermes;
const DEEPSEEK: Convention = Convention::DeepSeek;
const LLAMA: Convention = Convention::Llama;
const TAGGED: Convention = Convention::Tagged;
const MISTRAL: Convention = Convention::Mistral;

#[test]
fn calls_are_told_from_text() {
    let light = r#"<tool_call>
{"name": "light", "arguments": {"on": true}}
</tool_call>"#;
    let r1 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>light\n```json\n{\"on\": true}\n```<｜tool▁call▁end｜>";
    let r1_more = "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let llama = r#"{"name": "light", "parameters": {"on": true}}"#;
    let tagged = "<tool_call>\n<function=light>\n<parameter=on>\ntrue\n</parameter>\n</function>\n</tool_call>";
    let (door, maybe) = (
        tagged.replace("light", "door"),
        tagged.replace("true", "maybe"),
    );
    let mistral = r#"[TOOL_CALLS]light[ARGS]{"on": true}"#;
    let called = r#"light {"on":true}"#;
    #[rustfmt::skip]
    let table: Vec<(Convention, String, Vec<&str>)> = vec![
        (HERMES, "Hello <b>.".into(), vec!["Hello <b>."]),
        (HERMES, String::new(), vec![]),
        (HERMES, light.into(), vec![called]),
        (HERMES, format!("I switch.\n\n{light}\n{light}\n"), vec!["I switch.", called, called]),
        (HERMES, format!("{light}\nDone."), vec![called, "Done."]),
        (HERMES, r#"<tool_call>{"name":"time","arguments":{},"id":7}"#.into(), vec!["time {}"]),
        (HERMES, r#"<tool_call>{"type":"function", "name" : "time"}"#.into(), vec!["time {}"]),
        (HERMES, r#"<tool_call> {"name":"time"}"#.into(), vec!["time {}"]),
        (HERMES, r#"<tool_call>{"name":"light","arguments":"{\"on\":1}"}"#.into(), vec![r#"light {"on":1}"#]),
        (HERMES, r#"<tool_call>{"name":"light","parameters":{"</tool_call>":"}"}}</tool_call>x"#.into(),
            vec![r#"light {"</tool_call>":"}"}"#, "x"]),
        // a closing mark that is cut off goes with its call
        (HERMES, light[..light.len() - 3].to_owned(), vec![called]),
        // none of these is a call
        (HERMES, "<tool_call".into(), vec!["<tool_call"]),
        (HERMES, r#"  <tool_call>{"name": "light", "arg"#.into(), vec![r#"  <tool_call>{"name": "light", "arg"#]),
        (HERMES, "<tool_call>\n{\"name\": \"light\", \"arguments\": {\"on\": true}\n</tool_call>!".into(),
            vec!["<tool_call>\n{\"name\": \"light\", \"arguments\": {\"on\": true}\n</tool_call>!"]),
        (HERMES, r#"<tool_call>{"name": "door", "arguments": {}}</tool_call>"#.into(),
            vec![r#"<tool_call>{"name": "door", "arguments": {}}</tool_call>"#]),
        (HERMES, r#"<tool_call>{"name": "time", "arguments": []}"#.into(), vec![r#"<tool_call>{"name": "time", "arguments": []}"#]),
        (HERMES, "<tool_call>light()".into(), vec!["<tool_call>light()"]),
        (HERMES, format!("<tool_call>{light}"), vec!["<tool_call>", called]),
        // some of these models write no marks where nothing else is said
        (HERMES, r#"{"name": "time", "arguments": {}}"#.into(), vec!["time {}"]),
        (HERMES, "```json\n{\"name\": \"time\"}\n```".into(), vec!["time {}"]),
        (HERMES, "```json\n{\"name\": \"time\"}\n```\n\n```json\n{\"name\": \"light\"}\n```\nSo.".into(), vec!["time {}", "light {}", "So."]),
        (HERMES, "```json\n{\"name\": \"door\"}\n```".into(), vec!["```json\n{\"name\": \"door\"}\n```"]),
        (HERMES, "```json\n{\"a\": 1}\n```".into(), vec!["```json\n{\"a\": 1}\n```"]),
        (HERMES, "```js".into(), vec!["```js"]),
        (HERMES, "So: ```json\n{\"name\": \"time\"}\n```".into(), vec!["So: ```json\n{\"name\": \"time\"}\n```"]),
        // R1's form
        (DEEPSEEK, r1.into(), vec![called]),
        (DEEPSEEK, format!("So:\n{r1}{r1_more}"), vec!["So:", called, "time {}"]),
        (DEEPSEEK, r1.replace("<｜tool▁calls▁begin｜>", ""), vec![called]),
        (DEEPSEEK, format!("{r1}<｜tool▁calls▁end｜>\n\nDone."), vec![called, "Done."]),
        (DEEPSEEK, "```json\n{}\n```".into(), vec!["```json\n{}\n```"]),
        (DEEPSEEK, r1.replace("light", "door"), vec!["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>door\n```json\n{\"on\": true}\n```<｜tool▁call▁end｜>"]),
        (DEEPSEEK, "<｜tool▁calls▁begin｜>".into(), vec!["<｜tool▁calls▁begin｜>"]),
        // Llama's form is the whole answer, with a mark or without
        (LLAMA, llama.into(), vec![called]),
        (LLAMA, format!("\n<|python_tag|>{llama}"), vec![called]),
        (LLAMA, format!("{llama}; {llama}"), vec![called, called]),
        (LLAMA, format!(r#"{{"type": "function", {}"#, &llama[1..]), vec![called]),
        // nor is one whose arguments come first, which nothing could hold to a schema
        (LLAMA, r#"{"parameters": {}, "name": "light"}"#.into(), vec![r#"{"parameters": {}, "name": "light"}"#]),
        (HERMES, r#"<tool_call>{"arguments":{},"name":"time"}"#.into(), vec![r#"<tool_call>{"arguments":{},"name":"time"}"#]),
        (LLAMA, r#"{"answer": 42}"#.into(), vec![r#"{"answer": 42}"#]),
        (LLAMA, format!("Yes. {llama}"), vec![r#"Yes. {"name": "light", "parameters": {"on": true}}"#]),
        (LLAMA, "{}".into(), vec!["{}"]),
        (LLAMA, "{".into(), vec!["{"]),
        // between tags
        (TAGGED, tagged.into(), vec![called]),
        (TAGGED, format!("So.\n\n{tagged}\n{tagged}\n"), vec!["So.", called, called]),
        (TAGGED, tagged.replace("<tool_call>\n", ""), vec![called]),
        (TAGGED, tagged.replace("\n</tool_call>", "\nDone."), vec![called, "Done."]),
        (TAGGED, tagged.replace("true", "True"), vec![called]),
        (TAGGED, "<tool_call><function=time></function>".into(), vec!["time {}"]),
        (TAGGED, tagged.replace("on>\ntrue", "text>\n<b>{\n} \"x"), vec![r#"light {"text":"<b>{\n} \"x"}"#]),
        (TAGGED, tagged.replace("light", "door"), vec![&door]),
        (TAGGED, tagged.replace("true", "maybe"), vec![&maybe]),
        (TAGGED, tagged[..tagged.len() - 30].to_owned(), vec![&tagged[..tagged.len() - 30]]),
        (TAGGED, "<function=light>\n<param".into(), vec!["<function=light>\n<param"]),
        (TAGGED, "<tool_call>\n{\"name\": \"time\"}".into(), vec!["<tool_call>\n{\"name\": \"time\"}"]),
        (TAGGED, "Write <function=f> there.".into(), vec!["Write <function=f> there."]),
        // Mistral's form has nothing behind a call
        (MISTRAL, mistral.into(), vec![called]),
        (MISTRAL, format!("So.{mistral}{mistral} Done."), vec!["So.", called, called, "Done."]),
        (MISTRAL, mistral.replace("light", "door"), vec![r#"[TOOL_CALLS]door[ARGS]{"on": true}"#]),
        (MISTRAL, "[TOOL_CALLS]light{}".into(), vec!["[TOOL_CALLS]light{}"]),
        (MISTRAL, "[TOOL_CALLS][{\"name\": \"time\"}]".into(), vec!["[TOOL_CALLS][{\"name\": \"time\"}]"]),
    ];
    for (convention, text, expected) in table {
        assert_eq!(run(convention, 16, [text.as_str()]), expected, "{text}");
    }
}

#[test]
fn a_call_comes_as_soon_as_its_object_ends() {
    let mut splitter = CallSplitter::new(HERMES, tools(&["time"]), 16);
    let mut seen = Vec::new();
    for part in [
        "Hm",
        ".",
        "\n<tool",
        "_call>\n",
        r#"{"name": "time", "#,
        r#""arguments": {}"#,
        "}",
        "\n</tool_call>",
    ] {
        splitter.push(part, &mut |piece| {
            seen.push(match piece {
                Piece::Content(text) => text.to_owned(),
                Piece::Call { name, .. } => format!("call {name}"),
            });
        });
        seen.push("|".into());
    }
    assert_eq!(seen.concat(), "Hm|.|||||call time||");
}

#[test]
fn a_call_that_is_given_up_is_text() {
    for (text, more) in [
        (
            r#"<tool_call>{"name": "time""#,
            r#", "arguments": {}}</tool_call>"#,
        ),
        (r#"{"name": "time""#, "}"),
    ] {
        let mut splitter = CallSplitter::new(HERMES, tools(&["time"]), 16);
        let mut said = String::new();
        let mut emit = |piece: Piece<'_>| match piece {
            Piece::Content(text) => said.push_str(text),
            Piece::Call { .. } => panic!("a call"),
        };
        splitter.push(text, &mut emit);
        assert!(splitter.open_call().is_some());
        splitter.give_up();
        assert!(splitter.open_call().is_none());
        splitter.push(more, &mut emit);
        splitter.finish(&mut emit);
        assert_eq!(said, format!("{text}{more}"));
    }
}

/// Before that nothing is known of its arguments, and a model that means another tool is not made to call this one.
#[test]
fn a_call_is_open_when_it_has_named_a_tool() {
    let r1 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>";
    let fence = "\n```json\n{";
    let block = "```json\n{\n \"type\" : \"function\", \"name\": \"time\"";
    for (convention, text, open) in [
        (HERMES, "<tool_call>", false),
        (HERMES, r#"<tool_call>{"name": "time"#, false),
        (HERMES, r#"<tool_call>{"name": "time""#, true),
        (
            HERMES,
            r#"<tool_call>{"name": "door", "arguments": {"#,
            false,
        ),
        (HERMES, r#"<tool_call>{"id": 7, "name": "time""#, false),
        (HERMES, block, true),
        (HERMES, r#"{"name": "time", "arguments": {"#, true),
        (LLAMA, r#"<|python_tag|>{"name": "time""#, true),
        (DEEPSEEK, &format!("{r1}time"), false),
        (DEEPSEEK, &format!("{r1}time{fence}"), true),
        (DEEPSEEK, &format!("{r1}door{fence}"), false),
        (TAGGED, "<tool_call>\n<function=time", false),
        (TAGGED, "<tool_call>\n<function=time>", true),
        (TAGGED, "<function=door>", false),
        (MISTRAL, "[TOOL_CALLS]time[ARGS", false),
        (MISTRAL, "[TOOL_CALLS]time[ARGS]{", true),
    ] {
        let mut splitter = CallSplitter::new(convention, tools(&["time"]), 16);
        splitter.push(text, &mut |_| {});
        assert_eq!(splitter.open_call().is_some(), open, "{text}");
    }
}

#[test]
fn so_many_calls_and_no_more() {
    let call = r#"<tool_call>{"name": "time"}</tool_call>"#;
    let text = format!("{}and so on", call.repeat(3));
    assert_eq!(
        run(HERMES, 3, [text.as_str()]),
        ["time {}", "time {}", "time {}", "and so on"][..3]
    );
    assert_eq!(run(HERMES, 1, [text.as_str()]), ["time {}"]);
    let mut splitter = CallSplitter::new(HERMES, tools(&["time"]), 1);
    splitter.push(call, &mut |_| {});
    assert!(splitter.is_full());
}

#[test]
fn much_white_space_is_text() {
    let white = " ".repeat(WHITE_MAX);
    let call = r#"<tool_call>{"name": "time"}"#;
    assert_eq!(
        run(HERMES, 9, [format!("a{white}{call}").as_str()]),
        ["a", "time {}"]
    );
    assert_eq!(
        run(HERMES, 9, [format!("a{white} {call}").as_str()]),
        [&format!("a{white} "), "time {}"]
    );
    let late = format!("<tool_call>{white} {{\"name\": \"time\"}}");
    assert_eq!(run(HERMES, 9, [late.as_str()]), [late]);
    // what is held back is bounded until a call has begun
    for convention in [HERMES, DEEPSEEK, LLAMA, TAGGED, MISTRAL] {
        let mut splitter = CallSplitter::new(convention, tools(&["time"]), 9);
        for _ in 0..1000 {
            splitter.push(" ", &mut |_| {});
            assert!(splitter.held.len() <= WHITE_MAX);
        }
    }
}

fn texts() -> impl Strategy<Value = (Convention, Vec<String>)> {
    const FIXED: [&str; 34] = [
        "```json",
        "<tool_call>",
        "</tool_call>",
        "\n",
        " ",
        r#"{"name": "time", "arguments": {"a": "}"}}"#,
        r#"{"name": "light"}"#,
        r#"{"name": "#,
        "{",
        "}",
        "\"",
        "time",
        "<",
        "function",
        ";",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "function<｜tool▁sep｜>time\n```json\n{}\n```",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "```",
        "json",
        "<|python_tag|>",
        r#"{"name": "time", "parameters": {}}"#,
        "<function=time>",
        "<parameter=on>",
        "\ntrue\n",
        "</parameter>",
        "</function>",
        "<function=light>\n<parameter=text>\né<\n</parameter>\n</function>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[TOOL_CALLS]time[ARGS]{}",
    ];
    let piece = prop_oneof![
        prop::sample::select(&FIXED[..]).prop_map(String::from),
        prop::sample::select(&FIXED[..]).prop_map(|mark| {
            let half = mark.chars().count() / 2;
            mark.chars().take(half).collect()
        }),
        "[ab{\"é]{0,4}",
        (0usize..80).prop_map(|n| " ".repeat(n)),
    ];
    let convention = prop::sample::select(&[HERMES, DEEPSEEK, LLAMA, TAGGED, MISTRAL][..]);
    (convention, prop::collection::vec(piece, 0..12))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_cuts_do_not_matter((convention, parts) in texts(), most in 1usize..4) {
        let whole = parts.concat();
        let expected = run(convention, most, [whole.as_str()]);
        prop_assert_eq!(&run(convention, most, parts.iter().map(String::as_str)), &expected);
        let chars: Vec<String> = whole.chars().map(String::from).collect();
        prop_assert_eq!(&run(convention, most, chars.iter().map(String::as_str)), &expected);
    }

    /// Whatever is no call comes through whole, but for the marks and the white space around calls.
    #[test]
    fn without_a_call_nothing_is_lost((convention, parts) in texts()) {
        let whole = parts.concat();
        let out = run(convention, 16, [whole.as_str()]);
        let calls = out.iter().any(|piece| piece.starts_with("time {") || piece.starts_with("light {"));
        if !calls {
            prop_assert_eq!(out.concat(), whole);
        }
    }
}
