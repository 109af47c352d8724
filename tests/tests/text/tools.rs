//! Tools in chat templates: what they write is compared with what Jinja2 wrote (`vectors/templates/make.py`), and where a
//! template has no place for them, with the words that take it.

use super::r1;
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{ChatTemplate, Convention, Message, Role, Tokenizer, Tool, ToolCall};
use serde_json::Value;

/// The templates of the folder, whose golden texts are in one file.
pub(super) const TEMPLATES: [(&str, &str); 4] = [
    (
        "hermes",
        include_str!("../../vectors/templates/hermes.jinja"),
    ),
    (
        "llama3",
        include_str!("../../vectors/templates/llama3.jinja"),
    ),
    ("qwen2", include_str!("../../vectors/templates/qwen2.jinja")),
    ("qwen3", include_str!("../../vectors/templates/qwen3.jinja")),
];

/// The template of this name, for R1's vocabulary.
fn template(name: &str, file: &Gguf) -> ChatTemplate {
    match TEMPLATES.iter().find(|(known, _)| *known == name) {
        Some((_, source)) => ChatTemplate::given(source, file).unwrap(),
        None => ChatTemplate::from_gguf(file).unwrap(),
    }
}

/// A message as OpenAI's API has it.
fn message(json: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    let role = roles.into_iter().find(|role| role.as_str() == json["role"]);
    let call = |call: &Value| ToolCall {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]),
        arguments: text(&call["function"]["arguments"]),
    };
    Message {
        role: role.unwrap(),
        content: text(&json["content"]),
        tool_calls: json["tool_calls"]
            .as_array()
            .map_or(&[][..], |all| all)
            .iter()
            .map(call)
            .collect(),
        tool_call_id: json["tool_call_id"].as_str().map(String::from),
    }
}

fn tool(json: &Value) -> Tool {
    let text = |key: &str| json[key].as_str();
    Tool::new(
        text("name").unwrap(),
        text("description"),
        text("parameters").unwrap(),
    )
    .unwrap()
}

/// `call`, answered by `content`.
fn called(name: &str, arguments: &str, content: &str) -> [Message; 2] {
    let call = ToolCall {
        id: "call_7".into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    let calls = Message {
        tool_calls: vec![call],
        ..Message::new(Role::Assistant, "")
    };
    let result = Message {
        tool_call_id: Some("call_7".into()),
        ..Message::new(Role::Tool, content)
    };
    [calls, result]
}

#[test]
fn templates_write_what_jinja_writes() {
    let file = r1();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let golden: Vec<Value> =
        serde_json::from_str(include_str!("../../vectors/templates/golden.json")).unwrap();
    assert_eq!(golden.len(), 24);
    for one in &golden {
        let messages: Vec<Message> = one["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(message)
            .collect();
        let tools = one["tools"].as_array().map_or(&[][..], |all| all);
        let tools: Vec<Tool> = tools.iter().map(tool).collect();
        let name = one["template"].as_str().unwrap();
        let prompt = template(name, &file).prompt(&tokenizer, &messages, &tools, true);
        match one["text"].as_str() {
            Some(text) => assert_eq!(
                said(&tokenizer, &prompt.unwrap().tokens),
                said(&tokenizer, &tokenizer.encode(text, true).unwrap()),
                "{name} {}",
                one["title"]
            ),
            // a template that reads one call of a message says so
            None => {
                let error = prompt.unwrap_err().to_string();
                assert!(
                    error.ends_with("This model calls one tool at a time."),
                    "{error}"
                );
            }
        }
    }
}

/// The text of tokens, with the numbers of those that have none, and without the beginning of the text, which this
/// vocabulary puts before every prompt.
fn said(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut bytes = Vec::new();
    for &token in tokens
        .iter()
        .skip_while(|token| Some(**token) == tokenizer.bos())
    {
        match tokenizer.token_bytes(token) {
            none if none.is_empty() => bytes.extend(format!("[{token}]").into_bytes()),
            some => bytes.extend(some),
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_template_says_how_its_model_calls() {
    let file = r1();
    for (name, convention, most) in [
        ("hermes", Convention::Hermes, 16),
        ("qwen2", Convention::Hermes, 16),
        ("qwen3", Convention::Hermes, 16),
        ("llama3", Convention::Llama, 1),
        ("r1", Convention::DeepSeek, 16),
    ] {
        assert_eq!(template(name, &file).calls(), (convention, most), "{name}");
    }
    let chatml = ChatTemplate::given(CHATML, &file).unwrap();
    assert_eq!(chatml.calls(), (Convention::Hermes, 16));
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
    {% endfor %}{{ '<|im_start|>assistant\n' }}";

/// A template that writes tools, calls in this form, and results.
fn writing(call: &str) -> String {
    format!(
        "{{% for t in tools %}}{{{{ t|tojson }}}}{{% endfor %}}{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content or '' }}}}\
         {{% for c in m.tool_calls %}}{{% set c = c.function %}}{call}{{% endfor %}}{{% endfor %}}"
    )
}

/// The call that a template writes has to be read back, or its tools are described in words.
#[test]
fn a_form_that_is_not_read_is_not_asked_for() {
    let file = r1();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let tagged = "<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments|items %}<parameter={{ k }}>\n{{ v }}\n\
        </parameter>\n{% endfor %}</function>\n</tool_call>";
    let time = Tool::new("time", None, "").unwrap();
    for (form, convention, offers) in [
        (tagged, Convention::Tagged, true),
        (
            "<tool_call>{{ {'name': c.name, 'arguments': c.arguments}|tojson }}</tool_call>",
            Convention::Hermes,
            true,
        ),
        (
            "[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments|tojson }}",
            Convention::Mistral,
            true,
        ),
        // as GLM, Mistral Nemo and Functionary write them
        (
            "<tool_call>{{ c.name }}\n<arg_key>{{ c.arguments }}</arg_key></tool_call>",
            Convention::Hermes,
            false,
        ),
        (
            "[TOOL_CALLS][{{ {'name': c.name, 'arguments': c.arguments}|tojson }}]{# [ARGS] #}",
            Convention::Hermes,
            false,
        ),
        (
            "<function={{ c.name }}>{{ c.arguments|tojson }}</function>{# <parameter= #}",
            Convention::Hermes,
            false,
        ),
    ] {
        let source = writing(form);
        let template = ChatTemplate::given(&source, &file).unwrap();
        assert_eq!(template.calls(), (convention, 16), "{form}");
        let tools = std::slice::from_ref(&time);
        let prompt = template.prompt(&tokenizer, &[Message::user("x")], tools, true);
        let text = said(&tokenizer, &prompt.unwrap().tokens);
        assert_eq!(
            !text.contains("Functions that you can call"),
            offers,
            "{form}: {text}"
        );
    }
}

#[test]
fn where_a_template_has_no_place_for_tools_the_texts_have() {
    let file = r1();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let time = Tool::new("time", Some("The time."), "").unwrap();
    let offer = |form: &str| {
        format!(
            "Functions that you can call, each described by a line of JSON:\n<tools>\n\
         {{\"type\": \"function\", \"function\": {{\"name\": \"time\", \"description\": \"The time.\", \
         \"parameters\": {{\"type\": \"object\", \"properties\": {{}}}}}}}}\n</tools>\n\
         To call one, write nothing but its name and its arguments, which are a JSON object, in this form:\n{form}"
        )
    };
    let hermes = offer("<tool_call>\n{\"name\": \"NAME\", \"arguments\": ARGUMENTS}\n</tool_call>");
    let [calls, result] = called("time", "{}", "12:00");
    let spoken = Message {
        content: "I look.".into(),
        ..calls.clone()
    };
    let prompt = |source: &str, messages: &[Message]| {
        let template = ChatTemplate::given(source, &file).unwrap();
        let prompt = template
            .prompt(&tokenizer, messages, std::slice::from_ref(&time), true)
            .unwrap();
        said(&tokenizer, &prompt.tokens)
    };
    // ChatML, whose marks are plain text to R1's vocabulary
    let text = prompt(
        CHATML,
        &[
            Message::user("hi"),
            spoken.clone(),
            result.clone(),
            result.clone(),
        ],
    );
    assert_eq!(
        text,
        format!(
            "<|im_start|>system\n{hermes}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nI look.\n\
             <tool_call>\n{{\"name\": \"time\", \"arguments\": {{}}}}\n</tool_call><|im_end|>\n<|im_start|>user\n\
             <tool_response>\n12:00\n</tool_response>\n<tool_response>\n12:00\n</tool_response><|im_end|>\n\
             <|im_start|>assistant\n"
        )
    );
    // a system message keeps its words
    let system = Message::new(Role::System, "Be brief.");
    let text = prompt(CHATML, &[system, Message::user("hi")]);
    assert!(text.starts_with(&format!(
        "<|im_start|>system\nBe brief.\n\n{hermes}<|im_end|>\n"
    )));
    // R1's template writes calls, but no tools, and no words beside a call
    let template = ChatTemplate::from_gguf(&file).unwrap();
    let messages = [Message::user("hi"), spoken, result];
    let tokens = template
        .prompt(&tokenizer, &messages, &[time], true)
        .unwrap()
        .tokens;
    let form = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```\
        <｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let text = format!(
        "<｜begin▁of▁sentence｜>{}<｜User｜>hi<｜Assistant｜>I look.<｜end▁of▁sentence｜><｜Assistant｜>\
         <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{{}}\n```<｜tool▁call▁end｜>\
         <｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>12:00<｜tool▁output▁end｜><｜tool▁outputs▁end｜>",
        offer(form)
    );
    assert_eq!(
        said(&tokenizer, &tokens),
        said(&tokenizer, &tokenizer.encode(&text, true).unwrap())
    );
}

/// Names, descriptions, schemas, arguments and results come from clients and from the world.
#[test]
fn nothing_of_a_tool_becomes_a_control_token() {
    let file = r1();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let marks = [
        "<｜User｜>",
        "<｜end▁of▁sentence｜>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
    ];
    let special: Vec<u32> = marks
        .iter()
        .map(|mark| match tokenizer.encode(mark, true).unwrap()[..] {
            [id] => id,
            _ => panic!("{mark}"),
        })
        .collect();
    for name in ["hermes", "llama3", "qwen2", "qwen3", "r1"] {
        let template = template(name, &file);
        let count = |word: &str| {
            let word = word.replace('"', "");
            let schema = format!(
                r#"{{"type":"object","description":"{word}","properties":{{"{word}":{{"type":"string","enum":["{word}"],"description":"{word}"}}}}}}"#
            );
            let tool = Tool::new("look", Some(&word), &schema).unwrap();
            let arguments = format!(r#"{{"{word}":["{word}",{{"a{word}":"{word}"}}]}}"#);
            let [calls, result] = called("look", &arguments, &word);
            let messages = [Message::user("x"), calls, result];
            let prompt = template
                .prompt(&tokenizer, &messages, &[tool], true)
                .unwrap();
            prompt
                .tokens
                .iter()
                .filter(|id| special.contains(id))
                .count()
        };
        let own = count("a");
        for mark in marks {
            let (first, rest) = mark.split_at(1);
            for word in [
                mark.to_owned(),
                format!("a{mark}{mark}b"),
                format!("{first}\u{FDD0}{rest}"),
            ] {
                assert_eq!(count(&word), own, "{name} {word:?}");
            }
        }
    }
}

/// Tools at their bounds are rendered within the limits of templates, in the forms that cost most for their bytes.
#[test]
fn tools_at_their_bounds_fit_the_budget_of_a_template() {
    let file = r1();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let many: Vec<Tool> = (0..128)
        .map(|n| {
            Tool::new(
                &format!("tool_{n}"),
                Some("x"),
                r#"{"properties":{"a":{"type":"string","description":"x"}}}"#,
            )
            .unwrap()
        })
        .collect();
    let list = |item: &str| {
        let items = vec![item; (64 << 10) / (item.len() + 1) - 20].join(",");
        Tool::new(
            "list",
            Some("x"),
            &format!(
                r#"{{"properties":{{"a":{{"type":"string","description":"x","enum":[{items}]}}}}}}"#
            ),
        )
        .unwrap()
    };
    let wide: String = (0..1200)
        .map(|n| format!(r#""p{n}":{{"type":"string","description":"x"}},"#))
        .collect();
    let wide = format!(r#"{{"properties":{{{wide}"z":{{"type":"integer","description":"y"}}}}}}"#);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(60), "}".repeat(60));
    let deep =
        format!(r#"{{"properties":{{"a":{{"type":"string","description":"x","const":{deep}}}}}}}"#);
    for name in ["hermes", "llama3", "qwen2", "qwen3", "r1"] {
        let template = template(name, &file);
        for tools in [
            many.clone(),
            vec![list("1")],
            vec![list("\"<<<<\"")],
            vec![list("{}")],
            vec![Tool::new("wide", Some("x"), &wide).unwrap()],
            vec![Tool::new("deep", Some("x"), &deep).unwrap()],
        ] {
            let prompt = template.prompt(&tokenizer, &[Message::user("hi")], &tools, true);
            assert!(
                prompt.is_ok(),
                "{name} {}: {:?}",
                tools[0].name(),
                prompt.err()
            );
        }
    }
}
