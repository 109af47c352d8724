//! `glowplug tune MODEL`: which thread counts are fastest here, for prefill and for decoding, and which layout of the weights.
//! Both phases are measured with each count, and each gets its own: decoding waits for memory, which a few fast cores read as
//! fast as all, and a prompt is arithmetic, to which the slow ones add.

use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::models;
use crate::machine::cores::Cores;
use crate::models::device::{self, Comparison};
use crate::models::layout::{Layouts, Setting};
use crate::models::opened::Opened;
use crate::models::speed::{PREFILL, Speed, median};
use crate::models::tuned::Tuned;
use glowplug_model::engine::{Compute, LoadError, gpu};
use glowplug_model::ops::memory::GpuKind;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::Path;

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
    let here = Cores::here(Path::new("/"));
    let cores = here.all();
    let measured = measure(&model, &candidates(cores, here.up_to_each_cluster()))?;
    let prefill = fewest(measured.iter().map(|m| (m.threads, m.prefill_tps)));
    let decode = fewest(measured.iter().map(|m| (m.threads, m.decode_tps)));
    let file = Tuned::path(&model);
    Tuned::here(models::forced_isa()?, cores, prefill, decode)
        .write(&model)
        .map_err(|error| Failure::io("write", &file, &error))?;
    let threads = prefill.max(decode);
    let layouts = layouts(&model, cores, threads)?;
    let compared = compare(&model, cores, threads)?;
    if args.json {
        let lines: Vec<_> = measured
            .iter()
            .map(|m| json!({"threads": m.threads, "prefill_tps": m.prefill_tps, "decode_tps": m.decode_tps}))
            .collect();
        return put_json(&json!({
            "model": args.model, "cores": cores, "prefill": prefill, "decode": decode, "measured": lines, "file": file,
            "layouts": layouts.as_ref().map(|layouts| json!({
                "packed": layouts.packed, "as_it_came": layouts.as_it_came, "packed_is_faster": layouts.packed_is_faster(),
                "file": Layouts::path(&model),
            })),
            "gpu": compared.as_ref().map(|compared| json!({
                "prefill_tps": compared.gpu.prefill_tps, "decode_tps": compared.gpu.decode_tps,
                "faster": compared.faster() == Compute::Gpu, "file": Comparison::path(&model),
            })),
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
    put_line(&format!("written to {}", file.display()))?;
    if let Some(layouts) = layouts {
        let faster = if layouts.packed_is_faster() {
            "the packed file"
        } else {
            "the model as it came"
        };
        put_line(&format!(
            "{layouts}: {faster} is served\nwritten to {}",
            Layouts::path(&model).display()
        ))?;
    }
    let Some(compared) = compared else {
        return Ok(());
    };
    let speed = compared.gpu;
    put_line(&format!(
        "gpu     {:>8.1} {:>8.2}\n{compared}: `auto` takes the {}",
        speed.prefill_tps,
        speed.decode_tps,
        match compared.faster() {
            Compute::Cpu => "processor",
            Compute::Gpu => "GPU",
        }
    ))?;
    put_line(&format!(
        "written to {}",
        Comparison::path(&model).display()
    ))
}

/// Compares the model as it came with the packed file beside it, if there is one, and writes the file that a daemon chooses by.
fn layouts(model: &Path, cores: usize, threads: usize) -> Result<Option<Layouts>, Failure> {
    let unreadable = |error: io::Error| Failure::io("read", model, &error);
    let file = Opened::open(model).map_err(unreadable)?;
    let Some(weights) = models::weights(&file).map_err(unreadable)? else {
        return Ok(None);
    };
    let Some(packed) = &weights.packed else {
        return Ok(None);
    };
    let gguf = file.gguf().map_err(LoadError::from)?;
    let context = PREFILL.min(models::trained_context(&gguf)?);
    let config = models::engine_config(&gguf, context, 1, Some(threads), None, Compute::Cpu)?;
    drop(gguf);
    let four_bit_head = weights.requantized_head() > 0;
    let setting = Setting::here(models::forced_isa()?, cores, &weights.sha256, four_bit_head);
    let layouts = Layouts::measure(&setting, &file, packed, &config)?;
    let written = layouts.write(model);
    written.map_err(|error| Failure::io("write", &Layouts::path(model), &error))?;
    Ok(Some(layouts))
}

/// Compares the GPU, if there is one, with the processor on the threads that were found, and writes the file that
/// `model.device = "auto"` reads.
fn compare(model: &Path, cores: usize, threads: usize) -> Result<Option<Comparison>, Failure> {
    let Ok(gpu) = gpu() else {
        return Ok(None);
    };
    if gpu.kind == GpuKind::Software {
        return Ok(None);
    }
    let gguf = models::open(&model.to_string_lossy())?;
    let context = PREFILL.min(models::trained_context(&gguf)?);
    let config = models::engine_config(&gguf, context, 1, Some(threads), None, Compute::Cpu)?;
    let setting = device::Setting::here(&gpu, models::forced_isa()?, cores, gguf.file_bytes());
    let compared = Comparison::measure(setting, &gguf, &config)?;
    let file = Comparison::path(model);
    let written = compared.write(model);
    written.map_err(|error| Failure::io("write", &file, &error))?;
    Ok(Some(compared))
}

/// Takes the medians over [`ROUNDS`] rounds through all counts.
fn measure(model: &Path, counts: &[usize]) -> Result<Vec<Measured>, Failure> {
    let gguf = models::open(&model.to_string_lossy())?;
    let context = PREFILL.min(models::trained_context(&gguf)?);
    let mut speeds = vec![(Vec::new(), Vec::new()); counts.len()];
    for round in 0..ROUNDS {
        for (&threads, (prefill, decode)) in counts.iter().zip(&mut speeds) {
            if io::stderr().is_terminal() {
                eprint!("\rround {} of {ROUNDS}, {threads} threads ", round + 1);
            }
            let config =
                models::engine_config(&gguf, context, 1, Some(threads), None, Compute::Cpu)?;
            let speed = Speed::measure(&gguf, &config)?;
            prefill.push(speed.prefill_tps);
            decode.push(speed.decode_tps);
        }
    }
    if io::stderr().is_terminal() {
        eprintln!();
    }
    Ok(counts
        .iter()
        .zip(&mut speeds)
        .map(|(&threads, (prefill, decode))| Measured {
            threads,
            prefill_tps: median(prefill),
            decode_tps: median(decode),
        })
        .collect())
}

/// Thread counts that are worth a try: all up to eight, then doubled ones, whole clusters of equally fast cores, and all cores.
fn candidates(cores: usize, clusters: impl Iterator<Item = usize>) -> Vec<usize> {
    let doubled = (4..usize::BITS).map(|bit| 1 << bit);
    let doubled = doubled.take_while(|count| *count < cores);
    let counts = (1..=cores.min(8))
        .chain(doubled)
        .chain(clusters)
        .chain([cores]);
    counts.collect::<BTreeSet<_>>().into_iter().collect()
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
        let counts = |cores, clusters: &[usize]| candidates(cores, clusters.iter().copied());
        assert_eq!(counts(1, &[1]), [1]);
        assert_eq!(counts(4, &[]), [1, 2, 3, 4]);
        assert_eq!(counts(12, &[12]), [1, 2, 3, 4, 5, 6, 7, 8, 12]);
        assert_eq!(counts(64, &[64]), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
        // 6 large cores of two threads each, 8 small ones
        assert_eq!(counts(20, &[12, 20]), [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20]);
    }

    #[test]
    fn the_fewest_of_the_fastest() {
        let speeds = |tps: [f64; 4]| fewest((1..).zip(tps));
        assert_eq!(speeds([5.0, 9.8, 10.0, 7.0]), 2);
        assert_eq!(speeds([5.0, 9.6, 10.0, 7.0]), 3);
        assert_eq!(speeds([1.0, 2.0, 3.0, 4.0]), 4);
    }
}
