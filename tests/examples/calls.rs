//! How often a model calls the right tool under `auto`: 20 requests that need one of four tools and 10 that need none, greedily.
//!
//! ```sh
//! cargo run --release -p glowplug-tests --example calls -- MODEL.gguf
//! ```

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{Engine, EngineConfig, Event, KvFormats, Request, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Message, SamplerParams, Tool, ToolCall, ToolChoice, Tools};
use serde_json::Value;
use std::error::Error;
use std::path::Path;

const TOOLS: [(&str, &str, &str); 4] = [
    (
        "set_light",
        "Switch the light of a room on or off",
        r#"{"type":"object","properties":{"room":{"type":"string","enum":["kitchen","hall","bedroom"]},"state":{"type":"string","enum":["on","off"]}},"required":["room","state"]}"#,
    ),
    (
        "get_temperature",
        "Read the temperature of a room in degrees Celsius",
        r#"{"type":"object","properties":{"room":{"type":"string","enum":["kitchen","hall","bedroom"]}},"required":["room"]}"#,
    ),
    (
        "set_timer",
        "Set a kitchen timer",
        r#"{"type":"object","properties":{"minutes":{"type":"integer","minimum":1,"maximum":180}},"required":["minutes"]}"#,
    ),
    ("get_time", "Tell the time of day", ""),
];

/// What is asked, and the call that answers it: a tool, and its arguments.
const ASKED: [(&str, Option<(&str, &str)>); 30] = [
    (
        "Turn on the light in the kitchen.",
        Some(("set_light", r#"{"room":"kitchen","state":"on"}"#)),
    ),
    (
        "Please switch off the hall light.",
        Some(("set_light", r#"{"room":"hall","state":"off"}"#)),
    ),
    (
        "It is too dark in the bedroom.",
        Some(("set_light", r#"{"room":"bedroom","state":"on"}"#)),
    ),
    (
        "Lights out in the kitchen!",
        Some(("set_light", r#"{"room":"kitchen","state":"off"}"#)),
    ),
    (
        "I am going to sleep, turn the bedroom light off.",
        Some(("set_light", r#"{"room":"bedroom","state":"off"}"#)),
    ),
    (
        "Can you make some light in the hall?",
        Some(("set_light", r#"{"room":"hall","state":"on"}"#)),
    ),
    (
        "How warm is it in the bedroom?",
        Some(("get_temperature", r#"{"room":"bedroom"}"#)),
    ),
    (
        "What is the temperature in the kitchen?",
        Some(("get_temperature", r#"{"room":"kitchen"}"#)),
    ),
    (
        "Is the hall cold right now?",
        Some(("get_temperature", r#"{"room":"hall"}"#)),
    ),
    (
        "Tell me how many degrees the bedroom has.",
        Some(("get_temperature", r#"{"room":"bedroom"}"#)),
    ),
    (
        "Check the kitchen temperature for me.",
        Some(("get_temperature", r#"{"room":"kitchen"}"#)),
    ),
    (
        "Set a timer for 10 minutes.",
        Some(("set_timer", r#"{"minutes":10}"#)),
    ),
    (
        "My eggs need six minutes, remind me.",
        Some(("set_timer", r#"{"minutes":6}"#)),
    ),
    (
        "Start a timer of half an hour.",
        Some(("set_timer", r#"{"minutes":30}"#)),
    ),
    (
        "Timer, 45 minutes, please.",
        Some(("set_timer", r#"{"minutes":45}"#)),
    ),
    (
        "Wake me in two hours with the timer.",
        Some(("set_timer", r#"{"minutes":120}"#)),
    ),
    ("What time is it?", Some(("get_time", "{}"))),
    ("Do you know how late it is?", Some(("get_time", "{}"))),
    ("Tell me the time.", Some(("get_time", "{}"))),
    (
        "Is it past noon already? Look at the clock.",
        Some(("get_time", "{}")),
    ),
    ("What is the capital of France?", None),
    ("Say hello.", None),
    ("Write one sentence about cats.", None),
    ("What is 7 times 6?", None),
    ("Who wrote Hamlet?", None),
    ("Translate \"good night\" into German.", None),
    ("Name three colours.", None),
    ("Why is the sky blue?", None),
    ("Thank you, that was all.", None),
    ("Give me a word that rhymes with tree.", None),
];

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a model")?;
    let both = KvFormats::both(KvFormat::Q8_0);
    let config = EngineConfig {
        pages: 128,
        ..EngineConfig::new(2048, 1, both)
    };
    let mut engine = Engine::load(&Gguf::open(Path::new(&path))?, &config)?;
    let tools = TOOLS
        .iter()
        .map(|(name, what, schema)| Tool::new(name, Some(what), schema));
    let tools = Tools {
        list: tools.collect::<Result<Vec<_>, _>>()?.into(),
        choice: ToolChoice::Auto,
        parallel: true,
    };
    let (mut called, mut named, mut right, mut silent, mut need) = (0, 0, 0, 0, 0);
    for (id, (asked, due)) in (0..).zip(ASKED) {
        let (text, calls) = answer(&mut engine, id, asked, &tools)?;
        let said: Vec<String> = calls
            .iter()
            .map(|c| format!("{}{}", c.name, c.arguments))
            .collect();
        println!("{asked}\t{}\t{:?}", said.join(" "), text.trim());
        let Some((name, arguments)) = due else {
            silent += usize::from(calls.is_empty());
            continue;
        };
        need += 1;
        called += usize::from(!calls.is_empty());
        if let [call] = &calls[..]
            && call.name == name
        {
            named += 1;
            let [given, wanted] = [&*call.arguments, arguments].map(serde_json::from_str::<Value>);
            right += usize::from(given? == wanted?);
        }
    }
    let none = ASKED.len() - need;
    println!(
        "of {need} that need a call: {called} called, {named} the right tool and no other, {right} with the right arguments"
    );
    println!("of {none} that need none: {silent} called nothing");
    Ok(())
}

/// The text and the calls of one answer.
fn answer(
    engine: &mut Engine,
    id: u64,
    asked: &str,
    tools: &Tools,
) -> Result<(String, Vec<ToolCall>), Box<dyn Error>> {
    let request = Request {
        sampler: SamplerParams {
            temperature: 0.0,
            ..SamplerParams::default()
        },
        tools: Some(tools.clone()),
        ..Request::new("calls", vec![Message::user(asked)], 96)
    };
    engine.submit(id, request)?;
    let (mut text, mut calls) = (String::new(), Vec::new());
    let mut sink = |_, event| match event {
        Event::Text { content, .. } => text.push_str(&content),
        Event::Call(call) => calls.push(call),
        Event::Started { .. } | Event::Prefilled | Event::Finished(_) => {}
    };
    while engine.step(&mut sink) != Worked::Nothing {}
    Ok((text, calls))
}
