//! What `MODEL` on the command line means, and the engine for one command.

pub(super) mod hub;
pub(super) mod inspect;
pub(super) mod pack;
pub(super) mod pins;
pub(super) mod prompt;
pub(super) mod pull;
pub(super) mod sign;
pub(super) mod tokenize;
pub(super) mod wheel;

use super::failure::Failure;
use super::folders::{models_dir, state_dir};
use crate::config;
use crate::machine::cores::Cores;
use crate::models::catalogue::{self, Entry};
use crate::models::opened::Opened;
use crate::models::packed::{self, Weights};
use crate::models::plan::formats;
use crate::models::record::Ledger;
use glowplug_firmware_config::limits::THREADS_MAX;
use glowplug_model::engine::{Compute, EngineConfig, KvFormats, LoadError};
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Dims;
use glowplug_model::quant::Isa;
use std::env;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file that `MODEL` means: a path, or a name of the catalogue whose file has been pulled.
pub(crate) fn resolve(model: &str) -> Result<PathBuf, Failure> {
    let path = place(model)?;
    if path.is_file() {
        return Ok(path);
    }
    Err(missing(model, &path))
}

/// Where the file that `MODEL` means is, or will be.
pub(crate) fn place(model: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(model);
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if let Some(entry) = entry(model)? {
        return Ok(models_dir().join(&entry.file));
    }
    if model.contains(['/', '\\']) || model.ends_with(".gguf") {
        return Ok(path.to_path_buf());
    }
    Err(unknown(model))
}

/// The entry of a name of the catalogue, or of a file of its hub.
pub(crate) fn entry(name: &str) -> Result<Option<Entry>, Failure> {
    if let Some(entry) = catalogue::find(name)? {
        return Ok(Some(entry));
    }
    catalogue::hub_file(name)
        .map_err(|error| Failure::Use(format!("`{}`: {error}", name.escape_debug())))
}

/// The error for a model whose file is not in its place.
pub(crate) fn missing(model: &str, place: &Path) -> Failure {
    Failure::Missing(if Path::new(model) == place {
        format!("no such model file: {model}")
    } else {
        format!(
            "model `{model}` is not here yet ({}): `glowplug pull {model}` fetches it",
            place.display()
        )
    })
}

/// The error for a name that the catalogue does not have: it names the nearest.
pub(crate) fn unknown(name: &str) -> Failure {
    let hint = match catalogue::nearest(name) {
        Ok(nearest) => nearest.map_or(String::new(), |n| format!("; the nearest is `{n}`")),
        Err(error) => return error.into(),
    };
    Failure::Use(format!(
        "no model `{name}` in the catalogue{hint} (`glowplug pull` lists them)"
    ))
}

/// Opens the file that `MODEL` means, or the packed one beside it.
pub(crate) fn open(model: &str) -> Result<Gguf, Failure> {
    let path = resolve(model)?;
    let opened = || {
        let file = Opened::open(&path)?;
        match weights(&file)? {
            Some(weights) => weights.map(),
            None => file.gguf(),
        }
    };
    opened().map_err(|error| Failure::Use(format!("{}: {error}", path.display())))
}

/// A model that has a packed file beside it, and whether that was made of exactly this model, for which the model is
/// read through once.
pub(crate) fn weights(file: &Opened) -> io::Result<Option<Weights>> {
    if !packed::path(file.path()).is_file() {
        return Ok(None);
    }
    // a record that cannot be read is left for the daemon to start anew
    let sha256 = Ledger::new(&state_dir(), true).sha256(file)?;
    Ok(Some(Weights::new(file.clone(), sha256)))
}

/// Bytes of the requantised head in the packed file beside a model.
pub(crate) fn requantized_head(file: &Opened) -> io::Result<u64> {
    Ok(weights(file)?.map_or(0, |weights| weights.requantized_head()))
}

/// What a program or a file gives on stdin, which has at most so many bytes.
fn stdin(stdin: impl Read, most: u64) -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    stdin
        .take(most + 1)
        .read_to_end(&mut input)
        .map_err(|error| Failure::Run(format!("cannot read stdin: {error}")))?;
    if input.len() as u64 > most {
        return Err(Failure::Use(format!("stdin is longer than {most} bytes")));
    }
    Ok(input)
}

/// The longest context that the model takes.
pub(crate) fn trained_context(gguf: &Gguf) -> Result<usize, Failure> {
    let dims = Dims::from_gguf(gguf).map_err(|error| Failure::Use(error.to_string()))?;
    Ok(dims.context_max())
}

/// The instruction set that `GLOWPLUG_ISA` forces, if it is set.
pub(crate) fn forced_isa() -> Result<Option<Isa>, Failure> {
    match env::var("GLOWPLUG_ISA") {
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::Use("GLOWPLUG_ISA is not UTF-8".into())),
        Ok(name) => match name.parse() {
            Ok(isa) => Ok(Some(isa)),
            Err(error) => Err(Failure::Use(format!("GLOWPLUG_ISA: {error}"))),
        },
    }
}

/// The configuration of an engine for one request at a time, with a KV cache of `context` tokens, on `threads` threads
/// or on all fast ones.
pub(crate) fn engine_config(
    gguf: &Gguf,
    context: usize,
    streams: usize,
    threads: Option<usize>,
    kv_format: Option<KvFormats>,
    compute: Compute,
) -> Result<EngineConfig, Failure> {
    let cores = Cores::here(Path::new("/"));
    let threads = match threads {
        None => cores.fast(),
        Some(threads) if (1..=THREADS_MAX).contains(&threads) => threads,
        Some(threads) => {
            return Err(Failure::Use(format!(
                "{threads} threads: from 1 to {THREADS_MAX}"
            )));
        }
    };
    let head_dim = Dims::from_gguf(gguf).map_err(LoadError::from)?.head_dim;
    let kv = formats(kv_format, head_dim).map_err(|error| Failure::Use(error.to_string()))?;
    Ok(EngineConfig {
        prefill_threads: threads,
        decode_threads: threads,
        affinity: cores.places(threads),
        isa: forced_isa()?,
        compute,
        ..EngineConfig::new(context, streams, kv)
    })
}

/// Parses the value of `--device`.
pub(crate) fn compute(text: &str) -> Result<Compute, String> {
    match text {
        "cpu" => Ok(Compute::Cpu),
        "gpu" => Ok(Compute::Gpu),
        _ => Err("neither `cpu` nor `gpu`".to_owned()),
    }
}

/// Parses the value of `--kv-format`.
pub(crate) fn kv_format(text: &str) -> Result<KvFormats, String> {
    config::kv_format(text).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_bad_use() {
        for (model, says) in [
            ("no/such.gguf", "no such model file: no/such.gguf"),
            ("smollm", "the nearest is `smol"),
            ("a/b:c.gguf", "`glowplug pull a/b:c.gguf` fetches it"),
            ("file:///a.gguf", "`file:///a.gguf`: before the `:`"),
        ] {
            let failure = resolve(model).unwrap_err();
            assert!(matches!(failure, Failure::Use(_) | Failure::Missing(_)));
            assert!(failure.to_string().contains(says), "{failure}");
        }
    }
}
