//! Answers with and without drafts, by a real model: how much sooner, on text that repeats and on text that does not.
//!
//! `cargo bench -p glowplug-model --bench drafts -- MODEL.gguf [THREADS] [ROUNDS]`. Rounds alternate; tokens a second of the
//! answers alone, medians, and the ratio. The answers must be equal.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use glowplug_model::engine::{Engine, EngineConfig, Event, KvFormats, Request, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::Message;
use std::path::Path;
use std::time::Instant;

const CODE: &str = "struct Pump { speed: u32, hours: f64, fault: Option<String> }\n\nimpl Pump {\n    fn start(&mut self, speed: u32) {\n        if self.fault.is_none() {\n            self.speed = speed;\n        }\n    }\n\n    fn stop(&mut self) {\n        self.speed = 0;\n    }\n\n    fn log(&self) -> String {\n        format!(\"speed {} after {} hours\", self.speed, self.hours)\n    }\n}\n";
const JSON: &str = "{\"device\": \"conveyor-belt-07\", \"site\": \"plant-north-hall-3\", \"motor_temperature_celsius\": 71.4, \"bearing_vibration_mm_s\": 4.82, \"maintenance_due\": \"2026-12-04\", \"operator\": \"second shift\"}";
const REPORT: &str = "At 06:12 the pressure in line 4 fell from 5.2 bar to 3.1 bar within twenty seconds. The operator closed valve V-114 and the pressure recovered to 4.9 bar at 06:15. At 07:40 the same valve was found to leak at its stem seal. The seal was replaced by the maintenance crew, and line 4 was back in service at 09:05.";

/// What a client says to a house in the course of a day, each an own request, as a voice satellite sends them.
const DIALOGUE: [&str; 8] = [
    "Turn on the light in the kitchen.",
    "How warm is it in the living room? The sensor says 21.5 degrees.",
    "Turn on the light in the hall.",
    "Set a timer for ten minutes for the pasta.",
    "Is the window in the bedroom open? The sensor says open.",
    "Turn off the light in the kitchen.",
    "Set a timer for twenty minutes for the bread.",
    "How warm is it in the bedroom? The sensor says 17 degrees.",
];

/// Rows of the table: what one client asks, one request after the other.
fn prompts() -> Vec<(&'static str, Vec<String>)> {
    let one = |name, prompt: String| (name, vec![prompt]);
    let spoken = DIALOGUE.map(|said| {
        format!("You are the voice of a house. Confirm or answer in one or two short sentences.\n\n{said}")
    });
    vec![
        one(
            "edit",
            format!(
                "Repeat this Rust code with the struct renamed from Pump to Motor, and nothing else changed:\n\n{CODE}"
            ),
        ),
        one(
            "json",
            format!(
                "Here are values: {JSON}\nWrite a JSON array with two objects: the first is exactly this object, the second is the same with \"operator\" set to \"third shift\". Only JSON."
            ),
        ),
        one(
            "quotes",
            format!(
                "{REPORT}\n\nSummarise the report in a list. Quote the whole sentence of the report behind each point."
            ),
        ),
        one(
            "story",
            "Tell a story about a lighthouse keeper who finds a strange machine on the beach."
                .to_owned(),
        ),
        one(
            "advice",
            "How do I choose a bicycle for commuting in a hilly town? Give reasons.".to_owned(),
        ),
        ("dialogue", spoken.into()),
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let Some(model) = args.first() else {
        println!(
            "no model: cargo bench -p glowplug-model --bench drafts -- MODEL.gguf [THREADS] [ROUNDS]"
        );
        return Ok(());
    };
    let number = |i: usize, or| args.get(i).map_or(Ok(or), |n| n.parse::<usize>());
    let (threads, rounds) = (number(1, 2)?, number(2, 3)?);
    let gguf = Gguf::open(Path::new(model))?;
    let mut engines = [
        engine(&gguf, threads, false)?,
        engine(&gguf, threads, true)?,
    ];
    println!(
        "{:8} {:>8} {:>8} {:>7} {:>7}",
        "", "plain", "drafted", "ratio", "tokens"
    );
    let mut id = 0;
    for (name, prompts) in prompts() {
        let mut speeds = [Vec::new(), Vec::new()];
        let mut ratios = Vec::new();
        let mut tokens = 0;
        for round in 0..rounds {
            let mut texts = [String::new(), String::new()];
            // a client of its own, for whom nothing was said yet
            let client = format!("{name}{round}");
            for i in [round % 2, 1 - round % 2] {
                let (mut decoded, mut seconds) = (0, 0.0);
                for prompt in &prompts {
                    id += 1;
                    let (text, n, took) = answer(&mut engines[i], id, &client, prompt)?;
                    texts[i].push_str(&text);
                    (decoded, seconds) = (decoded + n, seconds + took);
                }
                speeds[i].push(decoded as f64 / seconds);
                tokens = decoded;
            }
            assert_eq!(texts[0], texts[1], "{name}: drafts changed the answer");
            ratios.push(speeds[1][round] / speeds[0][round]);
        }
        println!(
            "{name:8} {:8.2} {:8.2} {:7.2} {tokens:7}",
            median(&mut speeds[0]),
            median(&mut speeds[1]),
            median(&mut ratios)
        );
    }
    Ok(())
}

fn engine(gguf: &Gguf, threads: usize, drafts: bool) -> Result<Engine, Box<dyn std::error::Error>> {
    let context = 2048;
    let config = EngineConfig {
        pages: 2 * context / PAGE_TOKENS,
        prefill_threads: threads,
        decode_threads: threads,
        drafts,
        ..EngineConfig::new(context, 4, KvFormats::both(KvFormat::Q8_0))
    };
    Ok(Engine::load(gguf, &config)?)
}

/// The text, how many tokens after the first, and their seconds.
fn answer(
    engine: &mut Engine,
    id: u64,
    client: &str,
    prompt: &str,
) -> Result<(String, usize, f64), Box<dyn std::error::Error>> {
    let mut sampler = engine.model().sampler.clone();
    sampler.temperature = 0.0;
    let request = Request {
        sampler,
        ..Request::new(client, vec![Message::user(prompt)], 256)
    };
    engine.submit(id, request).map_err(|e| format!("{e:?}"))?;
    let (mut text, mut first, mut tokens, mut ended) = (String::new(), None, 0usize, false);
    while !ended {
        let begun = Instant::now();
        let worked = engine.step(&mut |_, event| match event {
            Event::Text { content, .. } => {
                text.push_str(&content);
                tokens += 1;
                first.get_or_insert_with(Instant::now);
            }
            Event::Finished(_) => ended = true,
            _ => {}
        });
        if let Worked::Pass(_) = worked {
            engine.took(begun.elapsed().as_secs_f64());
        }
    }
    let seconds = first.ok_or("no token")?.elapsed().as_secs_f64();
    Ok((text, tokens - 1, seconds))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
