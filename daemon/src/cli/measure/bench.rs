//! `glowplug bench MODEL`: how fast a model is, how large, and how close to what this machine's memory allows.

use super::held::{self, Held};
use super::probe;
use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::models;
use crate::cli::schema::Schema;
use crate::machine::energy::Energy;
use crate::models::speed::{ids, median, run_once};
use glowplug_firmware_config::limits::STREAMS_MAX;
use glowplug_firmware_config::plan::device::device_plan;
use glowplug_model::engine::{Compute, Evaluator, KvFormats, LoadError, device_memory};
use glowplug_model::gguf::{Gguf, pack};
use glowplug_model::network::dims::Dims;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens that are decoded and prefilled once before anything is timed. This brings the weights into memory and wakes
/// the threads.
const WARM_UP: usize = 16;
/// Tokens of context for an answer by a schema, with its prompt.
const HELD_CONTEXT: usize = 4096;

/// Speed and size of a model on this machine
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// tokens of the prompt to prefill
    #[arg(short, long, default_value_t = 512, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// tokens to decode after it
    #[arg(short = 'n', long, default_value_t = 64, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    decode: u32,
    /// threads, for prompt and decoding alike [default: all cores]
    #[arg(short, long)]
    threads: Option<usize>,
    /// tokens that are in the KV cache already when prompt and decoding begin
    #[arg(short = 'c', long, default_value_t = 0, value_name = "TOKENS")]
    depth: u32,
    /// streams decoded at once
    #[arg(short = 'b', long)]
    streams: Option<usize>,
    /// repetitions; medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    reps: u32,
    /// the processor to compute on: `cpu`, or `gpu` in a program that was built with feature `wgpu`
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = models::compute)]
    device: Compute,
    /// how the KV cache is stored, as `memory.kv_format` has it [default: q8_0]
    #[arg(long, value_name = "FORMAT", value_parser = models::kv_format)]
    kv_format: Option<KvFormats>,
    /// also measure an answer that is held to the JSON schema in this file, of at most `-n` tokens
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Loads the model, measures it and the machine's memory, and prints the figures.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let streams = args.streams.unwrap_or(1);
    if !(1..=STREAMS_MAX).contains(&streams) {
        return Err(Failure::Use(format!(
            "`-b`: from 1 to {STREAMS_MAX} streams"
        )));
    }
    let schema = args.schema.as_deref().map(Schema::read).transpose()?;
    let [prompt, decode, depth] = [args.prompt, args.decode, args.depth].map(|n| n as usize);

    let start = Instant::now();
    let gguf = models::open(&args.model)?;
    let (bytes_per_token, packed) = (bytes_per_token(&gguf), pack::source(&gguf).is_some());
    let context = depth.saturating_add(prompt.max(decode).max(WARM_UP));
    let trained = models::trained_context(&gguf)?;
    if context > trained {
        return Err(Failure::Use(format!(
            "-c, -p and -n need {context} tokens, the model's context is {trained}"
        )));
    }
    let config = models::engine_config(
        &gguf,
        context,
        streams,
        args.threads,
        args.kv_format,
        args.device,
    )?;
    let threads = config.decode_threads;
    // the tokenizer counts for load time and memory, because the daemon has it too
    let (mut evaluator, tokenizer) = Evaluator::load_with_tokenizer(&gguf, &config)?;
    let load_s = start.elapsed().as_secs_f64();

    let ids = ids(depth.max(prompt).max(WARM_UP), tokenizer.vocab());
    let mut prefill_s = Vec::new();
    let (mut decode_s, mut decode_j) = (Vec::new(), Vec::new());
    let first = run_once(&mut evaluator, &ids, 0, WARM_UP, WARM_UP, streams, None)?;
    let start_s = load_s + first.prefill_s;
    let energy = Energy::here(Path::new("/"));
    for _ in 0..args.reps {
        let energy = energy.as_ref();
        let took = run_once(&mut evaluator, &ids, depth, prompt, decode, streams, energy)?;
        prefill_s.push(took.prefill_s);
        decode_s.push(took.decode_s);
        decode_j.extend(took.decode_j);
    }
    let isa = evaluator.isa();
    let device = match args.device {
        Compute::Cpu => "cpu",
        Compute::Gpu => "gpu",
    };
    let gpu = match args.device {
        Compute::Cpu => None,
        Compute::Gpu => {
            let dims = Dims::from_gguf(&gguf).map_err(LoadError::from)?;
            let (kv, pages) = (config.kv, config.pages);
            let planned =
                device_memory(&gguf, &dims, kv, pages, context).map_err(LoadError::from)?;
            let held = evaluator.reserved().map_err(LoadError::from)?;
            let planned = device_plan(None, &planned);
            let planned = planned.map_err(|error| Failure::Run(error.to_string()))?;
            Some((held, planned.total()))
        }
    };
    let peak_rss_bytes = probe::peak_rss_bytes()?;
    // the probe needs memory of its own, so it runs after the peak was read and ours was given back
    drop((evaluator, tokenizer));
    let probe_gbps = probe::read_gbps(threads)?;

    let schema = schema.map(|schema| {
        let context = trained.min(HELD_CONTEXT);
        let kv = args.kv_format;
        let config = models::engine_config(&gguf, context, 1, args.threads, kv, args.device)?;
        held::measure(&gguf, config, &schema.format(), args.decode)
    });
    let schema = schema.transpose()?.map(|mut held: Held| {
        let (mask_s, step_s) = (median(&mut held.masks_s), median(&mut held.steps_s));
        (held, mask_s, step_s)
    });

    let prefill_tps = prompt as f64 / median(&mut prefill_s);
    let decode_tps = decode as f64 / median(&mut decode_s);
    let aggregate_tps = decode_tps * streams as f64;
    let first_token_ms = median(&mut prefill_s) * 1e3;
    let read_gbps = bytes_per_token as f64 * decode_tps / 1e9;
    let probe_share = read_gbps / probe_gbps;
    // a counter that stood still counts nothing
    let joules = median(&mut decode_j);
    let tokens_per_joule = (joules > 0.0).then(|| (decode * streams) as f64 / joules);
    if args.json {
        let mut result = json!({
            "model": args.model, "packed": packed, "device": device, "isa": isa, "threads": threads, "streams": streams,
            "prefill_tps": prefill_tps, "decode_tps": decode_tps, "load_s": load_s, "first_token_ms": first_token_ms,
            "peak_rss_bytes": peak_rss_bytes, "bytes_per_token": bytes_per_token, "read_gbps": read_gbps,
            "probe_gbps": probe_gbps, "probe_share": probe_share, "start_s": start_s, "tokens_per_joule": tokens_per_joule,
        });
        if let Some((held, planned)) = gpu {
            result["gpu_bytes"] = json!({"held": held, "planned": planned});
        }
        if args.streams.is_some() {
            result["aggregate_tps"] = json!(aggregate_tps);
        }
        if let Some((held, mask_s, step_s)) = schema {
            result["schema_tokens"] = json!(held.tokens);
            result["schema_steps"] = json!(held.steps);
            result["schema_step_share"] = json!(held.steps as f64 / held.tokens as f64);
            result["mask_us"] = json!(mask_s * 1e6);
            result["mask_share"] = json!(mask_s / step_s);
        }
        return put_json(&result);
    }
    put_line(&format!(
        "model        {} ({}{device}, {isa}, {threads} threads, {depth} tokens in the cache)",
        args.model,
        if packed { "packed, " } else { "" }
    ))?;
    put_line(&format!(
        "load         {load_s:.3} s, {start_s:.3} s to the first token of a prompt of {WARM_UP}"
    ))?;
    put_line(&format!(
        "prefill      {prefill_tps:.1} tokens/s over {prompt}, first token after {first_token_ms:.0} ms"
    ))?;
    put_line(&format!(
        "decode       {decode_tps:.2} tokens/s over {decode}"
    ))?;
    if streams > 1 {
        put_line(&format!(
            "streams      {aggregate_tps:.2} tokens/s in all, {streams} at once"
        ))?;
    }
    if let Some(tokens) = tokens_per_joule {
        put_line(&format!(
            "energy       {tokens:.2} tokens a joule of the processors while decoding"
        ))?;
    }
    if let Some((held, mask_s, step_s)) = schema {
        put_line(&format!(
            "schema       {} steps for {} tokens ({:.0} %), a mask takes {:.1} us, {:.2} % of a step",
            held.steps,
            held.tokens,
            held.steps as f64 * 100.0 / held.tokens as f64,
            mask_s * 1e6,
            mask_s * 100.0 / step_s
        ))?;
    }
    put_line(&format!(
        "memory       {:.1} MB at the peak",
        peak_rss_bytes as f64 / 1e6
    ))?;
    if let Some((held, planned)) = gpu {
        put_line(&format!(
            "gpu memory   {:.1} MB held, {:.1} MB planned",
            held as f64 / 1e6,
            planned as f64 / 1e6
        ))?;
    }
    put_line(&format!(
        "bandwidth    {read_gbps:.2} GB/s ({:.1} MB a token), {:.0} % of the {probe_gbps:.2} GB/s a plain read reaches",
        bytes_per_token as f64 / 1e6,
        probe_share * 100.0
    ))
}

/// Bytes of weights that decoding one token reads: every tensor, but only single rows of the embedding table, and of a
/// head that has a requantised one beside it.
fn bytes_per_token(gguf: &Gguf) -> u64 {
    // the first of these that the file has is read as a whole
    let scanned = [pack::REQUANTIZED_HEAD, "output.weight", "token_embd.weight"];
    let scan = scanned.into_iter().find(|name| gguf.tensor(name).is_some());
    let read = gguf
        .tensors()
        .iter()
        .filter(|t| !scanned.contains(&t.name.as_str()) || Some(t.name.as_str()) == scan);
    read.map(|tensor| tensor.bytes as u64).sum()
}
