//! Calls that must be made, and arguments that are held to their schemas, on models whose weights are random.

use super::{Said, hear};
use crate::world::{Q8, config, load, request, tiny};
use glowplug_model::engine::{Engine, EngineConfig, Finish, Refusal, Request};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Format, SamplerParams, Tool, ToolCall, ToolChoice, Tools};
use glowplug_tests::schemas::{judge, object};
use glowplug_tests::{SplitMix, Think, Tiny};
use serde_json::{Value, json};

/// Two tools under random schemas, and the schemas.
fn tools(random: &mut SplitMix, choice: ToolChoice, parallel: bool) -> (Vec<Value>, Tools) {
    let schemas = vec![object(random), object(random)];
    let tool = |(name, schema): (&str, &Value)| Tool::new(name, None, &schema.to_string()).unwrap();
    let list = ["light", "time"].into_iter().zip(&schemas).map(tool);
    let list = list.collect();
    (
        schemas,
        Tools {
            list,
            choice,
            parallel,
        },
    )
}

/// A request whose tokens are drawn by chance.
fn asked(seed: u64, tools: Tools) -> Request {
    let sampler = SamplerParams {
        temperature: 1.0,
        seed,
        ..SamplerParams::default()
    };
    Request {
        sampler,
        tools: Some(tools),
        ..request("c", "hi", 300)
    }
}

/// An engine with room for tools, whose every byte is a token.
fn wide() -> Engine {
    let tiny = Tiny {
        context: 4096,
        ..tiny(Think::Never)
    };
    load(&tiny, &EngineConfig::new(4096, 1, Q8))
}

fn check(schemas: &[Value], calls: &[ToolCall]) {
    for call in calls {
        let schema = &schemas[usize::from(call.name == "time")];
        judge(schema, &call.arguments).unwrap();
    }
}

#[test]
fn who_must_call_calls_and_says_nothing_else() {
    let mut engine = wide();
    let mut random = SplitMix::new(1, "must");
    let named = || ToolChoice::Named("time".into());
    let mut finished = 0;
    for seed in 0..30 {
        let choice = [ToolChoice::Required, named()][seed as usize % 2].clone();
        let parallel = seed % 3 > 0;
        let (schemas, tools) = tools(&mut random, choice.clone(), parallel);
        let Said {
            text,
            calls,
            outcome,
        } = hear(&mut engine, seed, asked(seed, tools)).unwrap();
        let finish = outcome.finish;
        check(&schemas, &calls);
        if finish == Finish::Stop {
            assert!(text.is_empty() && !calls.is_empty(), "{text}");
            assert!(parallel || calls.len() == 1);
            finished += 1;
        }
        if choice == named() {
            assert!(calls.iter().all(|call| call.name == "time"));
        }
    }
    assert!(finished > 15, "{finished}");
}

/// Where a format is given too, an answer is a text in it, or calls.
#[test]
fn a_format_binds_what_is_no_call() {
    let mut engine = wide();
    let mut random = SplitMix::new(2, "format");
    let (mut called, mut said) = (0, 0);
    for seed in 0..30 {
        let (schemas, tools) = tools(&mut random, ToolChoice::Auto, false);
        let mut asked = Request {
            format: Some(Format::Regex("(yes|no), [a-z]{3}".into())),
            ..asked(seed, tools)
        };
        // every second one would rather begin with the mark of a call
        asked.sampler.logit_bias = vec![(u32::from(b'<'), 10.0 * (seed % 2) as f32)];
        let Said {
            text,
            calls,
            outcome,
        } = hear(&mut engine, seed, asked).unwrap();
        let finish = outcome.finish;
        if finish != Finish::Stop {
            continue;
        }
        check(&schemas, &calls);
        match &calls[..] {
            [] => {
                let (word, letters) = text.split_once(", ").unwrap();
                assert!(["yes", "no"].contains(&word) && letters.len() == 3);
                said += 1;
            }
            [_] => {
                assert!(text.is_empty(), "{text}");
                called += 1;
            }
            many => panic!("{many:?}"),
        }
    }
    assert!(called > 0 && said > 0, "{called} {said}");
}

/// A model that opens a call by itself, and would go on with anything.
#[test]
fn the_arguments_of_a_call_that_it_makes_by_itself_are_held() {
    let script = ["Well. ", "<tool_call>\n", r#"{"name": "time", "#];
    let file = Tiny::saying(Think::Never, script).bytes();
    let config = EngineConfig::new(4096, 1, Q8);
    let mut engine = Engine::load(&Gguf::from_bytes(file.into()).unwrap(), &config).unwrap();
    let mut random = SplitMix::new(3, "auto");
    let mut calls_made = 0;
    for seed in 0..20 {
        let (schemas, tools) = tools(&mut random, ToolChoice::Auto, false);
        let mut asked = asked(seed, tools);
        // it follows its script as long as it may
        asked.sampler.temperature = 0.0;
        let Said {
            text,
            calls,
            outcome,
        } = hear(&mut engine, seed, asked).unwrap();
        let finish = outcome.finish;
        assert!(text.starts_with("Well."), "{text}");
        check(&schemas, &calls);
        if finish == Finish::Stop {
            assert!(calls.len() == 1, "{text} {calls:?}");
            calls_made += 1;
        }
    }
    assert!(calls_made > 10, "{calls_made}");
}

/// Where a call begins in a way that no schema describes, it cannot be held, and what is not held is no call.
#[test]
fn what_cannot_be_held_is_no_call() {
    let rest = [r#" "name": "time", "arguments"#, r#"": {"no": 1}}"#];
    for first in [
        "{                    ",
        r#"{"parameters": 1,"#,
        r#"{"function": 1,"#,
    ] {
        let script = [first, rest[0], rest[1]];
        let file = Tiny::saying(Think::Never, script).bytes();
        let config = EngineConfig::new(4096, 1, Q8);
        let mut engine = Engine::load(&Gguf::from_bytes(file.into()).unwrap(), &config).unwrap();
        let tool = Tool::new(
            "time",
            None,
            r#"{"properties":{},"additionalProperties":false}"#,
        );
        let tools = Tools {
            list: [tool.unwrap()].into(),
            choice: ToolChoice::Auto,
            parallel: true,
        };
        let mut asked = asked(1, tools);
        asked.sampler.temperature = 0.0;
        let said = hear(&mut engine, 1, asked).unwrap();
        assert_eq!((said.text, said.calls), (script.concat(), Vec::new()));
    }
}

#[test]
fn a_tool_that_cannot_be_held_to_its_schema_is_named() {
    let mut engine = load(&tiny(Think::Never), &config(64, 1));
    let tool = |name, schema: Value| Tool::new(name, None, &schema.to_string()).unwrap();
    for choice in [ToolChoice::Auto, ToolChoice::Required] {
        let list = [
            tool("light", json!({"type": "object"})),
            tool("time", json!({"properties": {"a": {"uniqueItems": true}}})),
        ];
        let tools = Tools {
            list: list.into(),
            choice,
            parallel: true,
        };
        let refusal = engine.submit(1, asked(1, tools)).unwrap_err();
        let Refusal::Schema { param, .. } = refusal else {
            panic!("{refusal}")
        };
        assert_eq!(
            param,
            "tools[1].function.parameters.properties.a.uniqueItems"
        );
    }
}
