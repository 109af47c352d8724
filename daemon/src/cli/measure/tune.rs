//! `glowplug tune MODEL`: which thread counts are fastest here, for prefill and for decoding.

use super::bench::{ids, median, run_once};
use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::models;
use crate::machine::cores::Cores;
use crate::models::tuned::Tuned;
use glowplug_model::engine::{Compute, Evaluator};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::path::Path;

/// Tokens of the prompt, which take two full steps.
const PREFILL: usize = 128;
/// Tokens that are decoded, which take five seconds on the slowest board.
const DECODE: usize = 16;
/// Rounds through all counts: a minute in which something else ran costs one figure of each count.
const ROUNDS: usize = 3;
/// A count within this share of the fastest counts as equally fast; the smaller one leaves cores to others.
const AS_FAST: f64 = 0.97;

/// Measure how many threads are fastest for a model on this machine; the daemon uses what was found
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// print the counts as JSON
    #[arg(long)]
    json: bool,
}

/// Tokens per second with a number of threads.
struct Measured {
    threads: usize,
    prefill_tps: f64,
    decode_tps: f64,
}

/// Measures the counts, writes them to the file beside the model, and prints them.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = models::resolve(&args.model)?;
    let cores = Cores::here(Path::new("/")).all();
    let measured = measure(&model, &candidates(cores))?;
    let prefill = fewest(measured.iter().map(|m| (m.threads, m.prefill_tps)));
    let decode = fewest(measured.iter().map(|m| (m.threads, m.decode_tps)));
    let file = Tuned::path(&model);
    Tuned::here(models::forced_isa()?, cores, prefill, decode)
        .write(&model)
        .map_err(|error| Failure::io("write", &file, &error))?;
    if args.json {
        let lines: Vec<_> = measured
            .iter()
            .map(|m| json!({"threads": m.threads, "prefill_tps": m.prefill_tps, "decode_tps": m.decode_tps}))
            .collect();
        return put_json(&json!({
            "model": args.model, "cores": cores, "prefill": prefill, "decode": decode, "measured": lines, "file": file,
        }));
    }
    put_line("threads  prefill   decode  tokens/s")?;
    for m in &measured {
        put_line(&format!(
            "{:>7} {:>8.1} {:>8.2}",
            m.threads, m.prefill_tps, m.decode_tps
        ))?;
    }
    put_line(&format!(
        "threads = {{ prefill = {prefill}, decode = {decode} }}"
    ))?;
    put_line(&format!("written to {}", file.display()))
}

/// Takes the medians over [`ROUNDS`] rounds through all counts.
fn measure(model: &Path, counts: &[usize]) -> Result<Vec<Measured>, Failure> {
    let gguf = models::open(&model.to_string_lossy())?;
    let context = PREFILL.max(DECODE).min(models::trained_context(&gguf)?);
    let mut seconds = vec![(Vec::new(), Vec::new()); counts.len()];
    for round in 0..ROUNDS {
        for (&threads, (prefill, decode)) in counts.iter().zip(&mut seconds) {
            if io::stderr().is_terminal() {
                eprint!("\rround {} of {ROUNDS}, {threads} threads ", round + 1);
            }
            let config =
                models::engine_config(&gguf, context, 1, Some(threads), None, Compute::Cpu)?;
            let mut evaluator = Evaluator::load(&gguf, &config)?;
            let ids = ids(context, evaluator.vocab());
            // the first run brings the weights into memory and wakes the threads
            run_once(&mut evaluator, &ids, 0, 1, 1, 1)?;
            let run = run_once(&mut evaluator, &ids, 0, context, DECODE.min(context), 1)?;
            prefill.push(run.0);
            decode.push(run.1);
        }
    }
    if io::stderr().is_terminal() {
        eprintln!();
    }
    Ok(counts
        .iter()
        .zip(&mut seconds)
        .map(|(&threads, (prefill, decode))| Measured {
            threads,
            prefill_tps: context as f64 / median(prefill),
            decode_tps: DECODE.min(context) as f64 / median(decode),
        })
        .collect())
}

/// Thread counts that are worth a try: all up to eight, then doubled ones, and all cores.
fn candidates(cores: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (1..=cores.min(8)).collect();
    let mut more = 16;
    while more < cores {
        counts.push(more);
        more *= 2;
    }
    if cores > 8 {
        counts.push(cores);
    }
    counts
}

/// The smallest count that is as fast as the fastest.
fn fewest(measured: impl Iterator<Item = (usize, f64)> + Clone) -> usize {
    let best = measured.clone().map(|(_, tps)| tps).fold(0.0, f64::max);
    measured
        .filter(|(_, tps)| *tps >= best * AS_FAST)
        .map(|(threads, _)| threads)
        .min()
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_worth_a_try() {
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(4), [1, 2, 3, 4]);
        assert_eq!(candidates(12), [1, 2, 3, 4, 5, 6, 7, 8, 12]);
        assert_eq!(candidates(64), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
    }

    #[test]
    fn the_fewest_of_the_fastest() {
        let speeds = |tps: [f64; 4]| fewest((1..).zip(tps));
        assert_eq!(speeds([5.0, 9.8, 10.0, 7.0]), 2);
        assert_eq!(speeds([5.0, 9.6, 10.0, 7.0]), 3);
        assert_eq!(speeds([1.0, 2.0, 3.0, 4.0]), 4);
    }
}
