//! `glowplug plan [MODEL]`: whether it fits, and where every byte goes.

use super::config::sources;
use super::failure::{Failure, put_json, put_line};
use super::models;
use crate::config::{Config, Device};
use crate::machine::memory_limit;
use crate::models::opened::Opened;
use crate::models::plan::{self, Plan, PlanError};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use glowplug_firmware_config::plan::{DoesNotFit, LimitSource};
use glowplug_model::gguf::GgufError;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The memory plan: a line per consumer, in bytes; or the line that does not fit, and by how much
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue [default: the configured one]
    model: Option<String>,
    /// a board that is somewhere else, instead of this machine as it is now
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    board: Option<String>,
    /// configuration file [default: /etc/glowplug/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// Makes the plan and prints it. If the model does not fit, that is a failure at run time.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let name = args.model.as_deref();
    let model = name.map(models::place).transpose()?;
    let draft = sources::load(args.config.as_deref(), args.board.as_deref())?;
    let mut config = sources::finish(draft, model)?;
    let model = sources::model(&mut config)?.to_owned();
    let known = match name {
        Some(name) if !model.is_file() => {
            let sizes = models::entry(name)?.and_then(|e| Some((e.bytes, e.sizes?)));
            Some(sizes.ok_or_else(|| models::missing(name, &model))?)
        }
        _ => None,
    };
    let limit = match (&args.board, &config.board) {
        (Some(_), Some(board)) => memory_limit::there(board, config.memory.budget),
        _ => memory_limit::here(&config).map_err(|e| Failure::Run(e.to_string()))?,
    };
    let open = || {
        let file = Opened::open(&model)?;
        Ok((file.gguf()?, models::requantized_head(&file)?))
    };
    let planned = match &known {
        Some((bytes, sizes)) => {
            eprintln!(
                "glowplug: {} is not here: this is planned from its dimensions in the catalogue",
                model.display()
            );
            let shape = sizes.shape(*bytes);
            plan::before_pull(&model, &shape, sizes.context, &config, &limit)
        }
        None => open()
            .map_err(|error: GgufError| PlanError::from(error))
            .and_then(|(gguf, requantized_head)| {
                plan::plan(&model, &gguf, requantized_head, &config, &limit)
            }),
    };
    match planned {
        Ok(plan) if args.json => put_json(&fits(&plan, &config)),
        Ok(plan) => print(&plan, &config),
        Err(PlanError::DoesNotFit(error)) => {
            if args.json {
                put_json(&does_not_fit(&error))?;
            }
            Err(Failure::Run(error.to_string()))
        }
        Err(error) => Err(Failure::Use(format!("{}: {error}", model.display()))),
    }
}

fn print(plan: &Plan, config: &Config) -> Result<(), Failure> {
    let memory = &plan.memory;
    let line = |name: &str, bytes: u64, what: &str| {
        put_line(format!("{name:<12} {bytes:>12}  {what}").trim_end())
    };
    for (name, bytes) in memory.lines() {
        let what = match name {
            "kv_pages" => format!(
                "{} pages of {PAGE_TOKENS} tokens, keys {}, values {}",
                memory.pages,
                plan.kv.k.name(),
                plan.kv.v.name()
            ),
            "states" => format!(
                "{} slots; a conversation of {} tokens holds one, and with its pages {} bytes",
                memory.state_slots,
                plan.context,
                memory.sequence_bytes(plan.context)
            ),
            _ => String::new(),
        };
        line(name, bytes, &what)?;
    }
    line("total", memory.total(), "")?;
    line("limit", memory.limit.bytes, &memory.limit.from.to_string())?;
    if plan.device != Device::Cpu {
        match &plan.gpu {
            Ok(gpu) => {
                for (name, bytes) in gpu.lines() {
                    line(name, bytes, "")?;
                }
                line("gpu_total", gpu.total(), "")?;
                match gpu.limit {
                    Some(limit) => line("gpu_limit", limit.bytes, &limit.from.to_string())?,
                    None => put_line(
                        "gpu_limit    not known: its driver refuses what it has no memory for",
                    )?,
                }
            }
            Err(why) => put_line(&format!("gpu          not used: {why}"))?,
        }
    }
    let board = config.board.as_ref().map_or("none", |board| board.name);
    put_line(&format!(
        "board      {board} ({})",
        config.board_chosen.why()
    ))
}

pub(super) fn fits(plan: &Plan, config: &Config) -> Value {
    let memory = &plan.memory;
    let lines: Map<String, Value> = memory
        .lines()
        .map(|(name, bytes)| (name.to_owned(), bytes.into()))
        .collect();
    json!({
        "fits": true,
        "lines": lines,
        "total": memory.total(),
        "resident": memory.resident(),
        "limit": memory.limit.bytes,
        "limit_from": source(memory.limit.from),
        "gpu": gpu(plan),
        "context": plan.context,
        "pages": memory.pages,
        "page_bytes": memory.page_bytes,
        "state_slots": memory.state_slots,
        "sequence_bytes": memory.sequence_bytes(plan.context),
        "threads": {"prefill": plan.threads.prefill, "decode": plan.threads.decode},
        "board": config.board_chosen.json(config.board.as_ref()),
        "kv_format": [plan.kv.k.name(), plan.kv.v.name()],
    })
}

/// What the GPU needs, or why it is not used; null where the processor was chosen.
fn gpu(plan: &Plan) -> Value {
    match &plan.gpu {
        _ if plan.device == Device::Cpu => Value::Null,
        Ok(gpu) => {
            let lines = gpu
                .lines()
                .map(|(name, bytes)| (name.to_owned(), bytes.into()));
            json!({
                "lines": lines.collect::<Map<String, Value>>(),
                "total": gpu.total(),
                "limit": gpu.limit.map(|limit| limit.bytes),
                "limit_from": gpu.limit.map(|limit| source(limit.from)),
            })
        }
        Err(why) => json!({ "why_not": why }),
    }
}

pub(super) fn does_not_fit(error: &DoesNotFit) -> Value {
    json!({
        "fits": false,
        "line": error.line,
        "bytes": error.bytes,
        "missing": error.missing,
        "total": error.need,
        "limit": error.limit.bytes,
        "limit_from": source(error.limit.from),
    })
}

fn source(from: LimitSource) -> &'static str {
    match from {
        LimitSource::Config => "config",
        LimitSource::Cgroup => "cgroup",
        LimitSource::Available => "available",
        LimitSource::Board => "board",
        LimitSource::Gpu => "gpu",
        LimitSource::Shared => "shared",
    }
}
