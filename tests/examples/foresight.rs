//! How fast a model with a layer that drafts answers with it and without: `cargo run --release -p glowplug-tests --example foresight --
//! MODEL.gguf [THREADS] [TOKENS] [ROUNDS]`. Rounds alternate; tokens a second behind the first, and the ratio of the best and of each
//! round. The answers must be equal. Example `hybrid` makes models whose layer is right as often as is wanted.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use glowplug_model::engine::{Engine, EngineConfig, Event, KvFormats, Request, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::Message;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(model) = args.first() else {
        return Err("usage: foresight MODEL.gguf [THREADS] [TOKENS] [ROUNDS]".into());
    };
    let number = |i: usize, or| args.get(i).map_or(Ok(or), |n| n.parse::<usize>());
    let (threads, tokens, rounds) = (number(1, 2)?, number(2, 128)?, number(3, 3)?);
    let gguf = Gguf::open(Path::new(model))?;
    let mut engines = [false, true].map(|drafts| {
        let context = 2048;
        let config = EngineConfig {
            pages: context / PAGE_TOKENS,
            prefill_threads: threads,
            decode_threads: threads,
            drafts,
            ..EngineConfig::new(context, 1, KvFormats::both(KvFormat::Q8_0))
        };
        Engine::load(&gguf, &config)
    });
    let mut best = [0.0_f64; 2];
    for round in 0..rounds {
        let mut speeds = [0.0; 2];
        let mut texts = [String::new(), String::new()];
        for i in [round % 2, 1 - round % 2] {
            let engine = engines[i].as_mut().map_err(|error| error.to_string())?;
            let (text, speed, passes) = answer(engine, round as u64, tokens)?;
            println!(
                "{:8} {speed:7.2} tokens/s, {passes} runs of the network",
                ["plain", "drafted"][i]
            );
            (texts[i], speeds[i], best[i]) = (text, speed, best[i].max(speed));
        }
        if texts[0] != texts[1] {
            return Err("drafts changed the answer".into());
        }
        println!("{:8} {:7.3}", "ratio", speeds[1] / speeds[0]);
    }
    println!("{:8} {:7.3}", "best", best[1] / best[0]);
    Ok(())
}

/// The text, tokens a second behind the first, and runs of the network.
fn answer(
    engine: &mut Engine,
    id: u64,
    tokens: usize,
) -> Result<(String, f64, usize), Box<dyn Error>> {
    let mut sampler = engine.model().sampler.clone();
    sampler.temperature = 0.0;
    let client = format!("client {id}");
    let request = Request {
        sampler,
        ..Request::new(&client, vec![Message::user("Go on.")], tokens as u32)
    };
    engine.submit(id, request).map_err(|e| format!("{e:?}"))?;
    let (mut text, mut first, mut said, mut passes, mut ended) = (String::new(), None, 0, 0, false);
    while !ended {
        let begun = Instant::now();
        let worked = engine.step(&mut |_, event| match event {
            Event::Text { content, .. } => {
                text.push_str(&content);
                said += 1;
                first.get_or_insert_with(Instant::now);
            }
            Event::Finished(_) => ended = true,
            _ => {}
        });
        if let Worked::Pass(_) = worked {
            engine.took(begun.elapsed().as_secs_f64());
            passes += 1;
        }
    }
    let seconds = first.ok_or("no token")?.elapsed().as_secs_f64();
    Ok((text, f64::from(said - 1) / seconds, passes))
}
