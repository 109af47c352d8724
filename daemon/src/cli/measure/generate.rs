//! `glowplug generate MODEL --prompt TEXT`: the engine without a broker. It is the first thing to run on a new board.

use crate::cli::failure::{Failure, put, put_json};
use crate::cli::models;
use glowplug_model::engine::{Compute, Engine, Event, Finish, Outcome, Request, Thinking, Worked};
use glowplug_model::text::Message;
use serde_json::json;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Tokens of context, if the model allows as many.
const CONTEXT: usize = 4096;

/// One answer without a broker: the text alone on stdout, thoughts on stderr
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// what to say to the model: one user turn in its chat template
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// feed the prompt as it is, without a template
    #[arg(long)]
    raw: bool,
    /// longest answer in tokens, thoughts included
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// 0 is greedy [default: the model's own]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = temperature)]
    temperature: Option<f32>,
    /// keep the most likely tokens of this total probability [default: the model's own]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    top_p: Option<f32>,
    /// keep so many of the most likely tokens [default: the model's own]
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// drop tokens below this share of the most likely one [default: the model's own]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    min_p: Option<f32>,
    /// the same seed gives the same tokens [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// let the model answer without a thought
    #[arg(long)]
    no_thinking: bool,
    /// the processor to compute on: `cpu`, or `gpu` in a program that was built with feature `wgpu`
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = models::compute)]
    device: Compute,
    /// threads [default: all cores]
    #[arg(short, long)]
    threads: Option<usize>,
    /// print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
}

/// Loads the model, asks it, and prints the answer as it comes.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let gguf = models::open(&args.model)?;
    let context = models::trained_context(&gguf)?.min(CONTEXT);
    let mut engine = Engine::load(
        &gguf,
        &models::engine_config(&gguf, context, 1, args.threads, None, args.device)?,
    )?;
    engine
        .submit(0, request(args, &engine))
        .map_err(|refusal| Failure::Use(refusal.to_string()))?;

    let mut answer = Answer::new(args.json);
    let mut ended = None;
    while ended.is_none() {
        let (mut written, begun) = (Ok(()), Instant::now());
        let worked = engine.step(&mut |_, event| match event {
            Event::Finished(outcome) => ended = Some(outcome),
            event => {
                if written.is_ok() {
                    written = answer.take(event);
                }
            }
        });
        if matches!(worked, Worked::Pass(_)) {
            engine.took(begun.elapsed().as_secs_f64());
        }
        if let Some(why) = engine.gpu_lost() {
            return Err(Failure::Run(format!("the GPU is lost: {why}")));
        }
        written?;
        if worked == Worked::Nothing && ended.is_none() {
            return Err(Failure::Run("the engine stopped without an end".into()));
        }
    }
    answer.finish(&ended.ok_or_else(|| Failure::Run("the engine stopped without an end".into()))?)
}

fn request(args: &Args, engine: &Engine) -> Request {
    let mut sampler = engine.model().sampler.clone();
    sampler.temperature = args.temperature.unwrap_or(sampler.temperature);
    sampler.top_p = args.top_p.unwrap_or(sampler.top_p);
    sampler.min_p = args.min_p.unwrap_or(sampler.min_p);
    sampler.top_k = args.top_k.unwrap_or(sampler.top_k);
    sampler.seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let messages = vec![Message::user(args.prompt.clone())];
    Request {
        raw: args.raw,
        sampler,
        thinking: Thinking {
            enabled: !args.no_thinking,
            budget: None,
            visible: true,
        },
        ..Request::new("generate", messages, args.max_tokens)
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    within(text, 0.0..=10.0)
}

fn probability(text: &str) -> Result<f32, String> {
    within(text, 0.0..=1.0)
}

/// Reads the number of a flag. Clap puts the flag's name before the error.
fn within(text: &str, limits: RangeInclusive<f32>) -> Result<f32, String> {
    let number = text.parse().map_err(|_| "not a number".to_owned())?;
    let error = || format!("must be from {} to {}", limits.start(), limits.end());
    limits.contains(&number).then_some(number).ok_or_else(error)
}

/// What has come of the answer so far.
struct Answer {
    json: bool,
    content: String,
    reasoning: String,
    start: Instant,
    prefilled: Duration,
}

impl Answer {
    fn new(json: bool) -> Self {
        Self {
            json,
            content: String::new(),
            reasoning: String::new(),
            start: Instant::now(),
            prefilled: Duration::ZERO,
        }
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Prefilled => self.prefilled = self.start.elapsed(),
            Event::Text {
                content, reasoning, ..
            } => {
                if self.json {
                    self.reasoning.push_str(&reasoning);
                } else {
                    // stderr may be closed, and a thought is not the result
                    let _ = io::stderr().write_all(reasoning.as_bytes());
                    put(&content)?;
                }
                self.content.push_str(&content);
            }
            Event::Started { .. } | Event::Call(_) | Event::Finished(_) => {}
        }
        Ok(())
    }

    fn finish(self, outcome: &Outcome) -> Result<(), Failure> {
        let decoding = self.start.elapsed().saturating_sub(self.prefilled);
        let per_second = f64::from(outcome.completion_tokens) / decoding.as_secs_f64().max(1e-9);
        if outcome.finish == Finish::Failed {
            return Err(Failure::Run(
                "the model failed: its numbers are not finite".into(),
            ));
        }
        if self.json {
            return put_json(&json!({
                "content": self.content,
                "reasoning_content": self.reasoning,
                "finish_reason": if outcome.finish == Finish::Length { "length" } else { "stop" },
                "usage": {
                    "prompt_tokens": outcome.prompt_tokens,
                    "completion_tokens": outcome.completion_tokens,
                    "reasoning_tokens": outcome.reasoning_tokens,
                },
                "timings": {
                    "prompt_ms": self.prefilled.as_secs_f64() * 1e3,
                    "predicted_ms": decoding.as_secs_f64() * 1e3,
                    "predicted_per_second": per_second,
                },
            }));
        }
        if !self.content.ends_with('\n') {
            put("\n")?;
        }
        eprintln!(
            "glowplug: {} tokens of prompt in {:.0} ms, {} tokens at {per_second:.1} tokens/s",
            outcome.prompt_tokens,
            self.prefilled.as_secs_f64() * 1e3,
            outcome.completion_tokens,
        );
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_limits() {
        assert_eq!(probability("1"), Ok(1.0));
        assert_eq!(temperature("0"), Ok(0.0));
        for bad in ["-0.1", "1.1", "nan"] {
            assert_eq!(probability(bad), Err("must be from 0 to 1".to_owned()));
        }
        assert_eq!(temperature("hot"), Err("not a number".to_owned()));
    }
}
