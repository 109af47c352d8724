//! What an answer that is held to a schema costs, beside the same text without.

use crate::cli::failure::Failure;
use glowplug_model::engine::{Engine, EngineConfig, Event, Request, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Constrainer, Format, Message, SamplerParams, Tokenizer};
use std::sync::Arc;
use std::time::Instant;

/// What the model is asked. The schema is told to it in its prompt.
const QUESTION: &str = "Make up an example.";

/// The figures of one answer.
pub(super) struct Held {
    /// Tokens of its text, each of which is a step where nothing holds it.
    pub(super) tokens: usize,
    /// Steps that it took behind its prompt.
    pub(super) steps: usize,
    /// Seconds of each time that it was found out which tokens may come.
    pub(super) masks_s: Vec<f64>,
    /// Seconds of each step of one token.
    pub(super) steps_s: Vec<f64>,
}

/// Has the model answer by a schema, greedily and without drafts, in at most so many tokens. Then it goes through the text once
/// more and times the masks: in the engine they are made while the network computes.
pub(super) fn measure(
    gguf: &Gguf,
    config: EngineConfig,
    format: &Format,
    most: u32,
) -> Result<Held, Failure> {
    let config = EngineConfig {
        drafts: false,
        ..config
    };
    let mut engine = Engine::load(gguf, &config)?;
    let request = Request {
        sampler: SamplerParams {
            temperature: 0.0,
            ..SamplerParams::default()
        },
        format: Some(format.clone()),
        schema_in_prompt: true,
        ..Request::new("bench", vec![Message::user(QUESTION)], most)
    };
    let refused = |refusal| Failure::Use(format!("--schema: {refusal}"));
    engine.submit(0, request).map_err(refused)?;
    let (mut text, mut begun, mut steps, mut took) = (String::new(), false, 0, Vec::new());
    loop {
        let (decodes, start) = (begun, Instant::now());
        let worked = engine.step(&mut |_, event| match event {
            Event::Prefilled => begun = true,
            Event::Text { content, .. } => text.push_str(&content),
            Event::Started { .. } | Event::Call(_) | Event::Finished(_) => {}
        });
        match worked {
            Worked::Nothing => break,
            Worked::Pass(columns) if decodes => {
                steps += 1;
                if columns == 1 {
                    took.push(start.elapsed().as_secs_f64());
                }
            }
            Worked::Pass(_) | Worked::Little => {}
            Worked::GpuLost => return Err(Failure::Run("the GPU was lost".into())),
        }
    }
    drop(engine);
    let (tokens, masks_s) = masks(gguf, format, &text)?;
    Ok(Held {
        tokens,
        steps,
        masks_s,
        steps_s: took,
    })
}

/// The number of tokens of a text in this format, and the seconds of each mask where something has to be drawn.
fn masks(gguf: &Gguf, format: &Format, text: &str) -> Result<(usize, Vec<f64>), Failure> {
    let run = |error: &dyn std::fmt::Display| Failure::Run(error.to_string());
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf).map_err(|error| run(&error))?);
    let tokens = tokenizer.encode(text, false).map_err(|error| run(&error))?;
    let vocab = tokenizer.vocab();
    let constrainer = Constrainer::new(tokenizer, vocab).map_err(|error| run(&error))?;
    let mut constraint = constrainer.compile(format).map_err(|error| run(&error))?;
    let (mut left, mut masks) = (&tokens[..], Vec::new());
    while let [next, rest @ ..] = left {
        let forced = constraint.forced();
        if !forced.is_empty() && left.starts_with(&forced) {
            for token in &forced {
                constraint.accept(*token).map_err(|error| run(&error))?;
            }
            left = &left[forced.len()..];
            continue;
        }
        let start = Instant::now();
        constraint.mask().map_err(|error| run(&error))?;
        masks.push(start.elapsed().as_secs_f64());
        constraint.accept(*next).map_err(|error| run(&error))?;
        left = rest;
    }
    Ok((tokens.len(), masks))
}
