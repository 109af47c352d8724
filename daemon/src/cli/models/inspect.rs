//! `glowplug inspect MODEL`: what is in the file, how fast its types are on this machine, and whether it will be served.

use crate::cli::config::sources;
use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::{models, plan as of_plan};
use crate::config::Config;
use crate::machine::memory_limit;
use crate::models::opened::Opened;
use crate::models::plan::{self, Plan, PlanError, formats};
use glowplug_model::engine::{device_memory, shape};
use glowplug_model::gguf::{Gguf, GgufError, Value};
use glowplug_model::network::dims::Dims;
use glowplug_model::quant::{Isa, Kernels, Speed};
use glowplug_model::text::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Longest metadata text that is printed for people; `--json` has all of it.
const TEXT_MAX: usize = 100;

/// Metadata, tensors and sizes of a model file, what is unsupported and why, how fast it is here and in what memory
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// print everything as JSON
    #[arg(long)]
    json: bool,
}

/// Reads the header of the file and prints what it says.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let path = models::resolve(&args.model)?;
    let gguf = Gguf::open(&path)?;
    let (unsupported, gpu) = (unsupported(&gguf), gpu_weights(&gguf));
    let state = state_bytes(&gguf);
    let isa = Kernels::detect(models::forced_isa()?).map_err(|e| Failure::Use(e.to_string()))?;
    let isa = isa.isa();
    let speeds = speeds(&gguf, isa);
    let planned = planned(&path, &gguf);
    let is_served = unsupported.is_empty() && planned.is_ok();
    if args.json {
        let metadata: Map<String, Json> = gguf
            .metadata()
            .map(|(key, value)| (key.to_owned(), json_value(value)))
            .collect();
        let tensors: Vec<Json> = gguf
            .tensors()
            .iter()
            .map(|t| json!({ "name": t.name, "type": format!("{:?}", t.ty), "dims": t.dims, "offset": t.offset, "bytes": t.bytes }))
            .collect();
        return put_json(&json!({
            "path": path, "bytes": gguf.file_bytes(), "version": gguf.version(), "metadata": metadata, "tensors": tensors,
            "types": types(&gguf).into_iter().map(|(ty, (count, bytes))| (ty, json!({ "tensors": count, "bytes": bytes }))).collect::<Map<_, _>>(),
            "unsupported": unsupported,
            "state_bytes": state,
            "served": is_served,
            "isa": isa.name(),
            "speed": speeds.iter().map(|((ty, speed), count)| {
                json!({ "type": ty, "kernels": speed.name(), "matrices": count })
            }).collect::<Vec<_>>(),
            "plan": match &planned {
                Ok((config, plan)) => of_plan::fits(plan, config),
                Err(Unplanned::Plan(PlanError::DoesNotFit(error))) => of_plan::does_not_fit(error),
                Err(error) => json!({ "why_not": error.to_string() }),
            },
            "gpu": match &gpu {
                Ok(bytes) => json!({ "weights": bytes }),
                Err(why) => json!({ "why_not": why }),
            },
        }));
    }
    put_line(&format!(
        "{}: GGUF version {}, {} bytes",
        path.display(),
        gguf.version(),
        gguf.file_bytes()
    ))?;
    put_line("\nmetadata")?;
    for (key, value) in gguf.metadata() {
        put_line(&format!("  {key} = {}", text_value(value)))?;
    }
    put_line("\ntensors")?;
    for t in gguf.tensors() {
        let dims = t
            .dims
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(" x ");
        put_line(&format!(
            "  {:<32} {:<7} {dims:<20} {:>12}",
            t.name,
            format!("{:?}", t.ty),
            t.bytes
        ))?;
    }
    put_line("\nbytes by type")?;
    for (ty, (count, bytes)) in types(&gguf) {
        put_line(&format!("  {ty:<7} {count:>4} tensors {bytes:>13}"))?;
    }
    if let Some(bytes) = state {
        put_line(&format!(
            "\na sequence keeps a state of {bytes} bytes besides its pages"
        ))?;
    }
    put_line(&format!("\non this processor ({})", isa.name()))?;
    for ((ty, speed), count) in &speeds {
        let how = match speed {
            Speed::Packed => "kernels over interleaved rows, once it is packed",
            Speed::Rows => "kernels over rows",
            Speed::Definition => "slow: this level has no kernels for it",
        };
        put_line(&format!("  {ty:<7} {count:>4} matrices {how}"))?;
    }
    put_line("\non a GPU")?;
    put_line(&match gpu {
        Ok(bytes) => format!("  the weights take {bytes} bytes of its memory"),
        Err(why) => format!("  {why}"),
    })?;
    put_line(if unsupported.is_empty() {
        "\nunsupported: nothing"
    } else {
        "\nunsupported"
    })?;
    unsupported
        .iter()
        .try_for_each(|why| put_line(&format!("  {why}")))?;
    put_line("\nserved")?;
    put_line(&match &planned {
        _ if !unsupported.is_empty() => "  no: see what is unsupported".to_owned(),
        Ok((_, plan)) => format!(
            "  yes, in {} bytes; {} is {} (`glowplug plan` has every line)",
            plan.memory.total(),
            plan.memory.limit.from,
            plan.memory.limit.bytes
        ),
        Err(error) => format!("  no: {error}"),
    })
}

/// Why there is no plan. All else of a file can be told without one.
#[derive(Debug, thiserror::Error)]
enum Unplanned {
    #[error(transparent)]
    Configuration(#[from] Failure),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The plan of the file under the configuration, and on this machine as it is now.
fn planned(path: &Path, gguf: &Gguf) -> Result<(Config, Plan), Unplanned> {
    let draft = sources::load(None, None)?;
    let config = sources::finish(draft, Some(path.to_path_buf()))?;
    let limit = memory_limit::here(&config).map_err(PlanError::from)?;
    let file = Opened::open(path).map_err(|error| PlanError::from(GgufError::from(error)))?;
    let head =
        models::requantized_head(&file).map_err(|error| PlanError::from(GgufError::from(error)))?;
    let plan = plan::plan(path, gguf, head, &config, &limit)?;
    Ok((config, plan))
}

/// The number of matrices of each type by the kernels that they get.
fn speeds(gguf: &Gguf, isa: Isa) -> BTreeMap<(String, Speed), usize> {
    let mut speeds = BTreeMap::new();
    let matrices = gguf.tensors().iter().filter(|tensor| tensor.dims.len() > 1);
    for tensor in matrices {
        let speed = Speed::of(isa, &tensor.name, tensor.ty, tensor.rows());
        *speeds
            .entry((format!("{:?}", tensor.ty), speed))
            .or_insert(0) += 1;
    }
    speeds
}

/// Bytes that a sequence keeps besides pages, if the network keeps any.
fn state_bytes(gguf: &Gguf) -> Option<u64> {
    let dims = Dims::from_gguf(gguf).ok()?;
    Some(shape(gguf, &dims).state_bytes).filter(|bytes| *bytes > 0)
}

/// Bytes that the weights take of a GPU's memory, or why no GPU computes them. None is opened for it.
fn gpu_weights(gguf: &Gguf) -> Result<u64, String> {
    let dims = Dims::from_gguf(gguf).map_err(|error| error.to_string())?;
    let kv = formats(None, dims.head_dim).map_err(|error| error.to_string())?;
    let memory = device_memory(gguf, &dims, kv, 1, dims.context_max());
    memory
        .map(|memory| memory.weights)
        .map_err(|error| error.to_string())
}

/// What keeps this version from serving the file, in words.
fn unsupported(gguf: &Gguf) -> Vec<String> {
    let network = if gguf.tensors().is_empty() {
        Some("the file has no tensors, only a vocabulary".to_owned())
    } else {
        Dims::from_gguf(gguf).err().map(|error| error.to_string())
    };
    let tokenizer = Tokenizer::from_gguf(gguf).err();
    let template = ChatTemplate::from_gguf(gguf).err();
    [
        network.map(|why| format!("network: {why}")),
        tokenizer.map(|why| format!("tokenizer: {why}")),
        template.map(|why| format!("chat template: {why}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The number of tensors and their bytes, by type.
fn types(gguf: &Gguf) -> BTreeMap<String, (usize, u64)> {
    let mut types = BTreeMap::new();
    for tensor in gguf.tensors() {
        let (count, bytes) = types.entry(format!("{:?}", tensor.ty)).or_insert((0, 0));
        *count += 1;
        *bytes += tensor.bytes as u64;
    }
    types
}

/// A metadata value as JSON. Arrays are given by their length, because nobody looks for a vocabulary here.
fn json_value(value: Value<'_>) -> Json {
    match value {
        Value::Uint(v) => json!(v),
        Value::Int(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(v),
        Value::Array(v) => json!({ "array": v.element().to_string(), "length": v.len() }),
    }
}

fn text_value(value: Value<'_>) -> String {
    match value {
        Value::Str(text) if text.chars().count() > TEXT_MAX => {
            let head: String = text.chars().take(TEXT_MAX).collect();
            format!("{head:?}… ({} bytes)", text.len())
        }
        Value::Array(v) => format!("{} x {}", v.len(), v.element()),
        // the shortest digits that give this f32, not those of the f64 that JSON has
        Value::F32(v) => v.to_string(),
        value => json_value(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(text_value(Value::Str("a\nb")), "\"a\\nb\"");
        let long = "é".repeat(TEXT_MAX + 1);
        assert_eq!(
            text_value(Value::Str(&long)),
            format!("{:?}… (202 bytes)", "é".repeat(TEXT_MAX))
        );
        assert_eq!(text_value(Value::Uint(7)), "7");
        assert_eq!(text_value(Value::Bool(true)), "true");
        assert_eq!(text_value(Value::F32(1e-6)), "0.000001");
    }
}
