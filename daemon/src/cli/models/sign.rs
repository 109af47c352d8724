//! `glowplug sign MODEL --key FILE`: the manifest that a daemon with keys asks for.

use crate::cli::config::image;
use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::models;
use crate::files;
use crate::hex::hex;
use crate::models::manifest::{self, Manifest, Untrusted};
use serde_json::json;
use std::path::PathBuf;

/// Sign a model: write its manifest beside it, for daemons whose `trust.keys` are set
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// file with the secret key, 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// age among models; a daemon refuses older ones than it has served [default: one more than in the manifest there]
    #[arg(long, value_name = "N")]
    counter: Option<u64>,
    /// print the manifest as JSON
    #[arg(long)]
    json: bool,
}

/// Hashes the whole model file, then writes and prints a signed manifest.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = models::resolve(&args.model)?;
    let named = |error: Untrusted| Failure::Use(format!("{}: {error}", model.display()));
    let key = image::signing_key(&args.key)?;
    let version = match args.counter {
        Some(counter) => counter,
        None => match Manifest::read(&model, &[key.verifying_key()]) {
            Ok(before) => before.version.saturating_add(1),
            Err(Untrusted::Unsigned) => 1,
            Err(error) => {
                return Err(Failure::Use(format!(
                    "{}: {error}; `--counter` says how old the new one is",
                    manifest::path(&model).display()
                )));
            }
        },
    };
    let of = Manifest::of(&model, version).map_err(named)?;
    let text = of.sign(&key).map_err(named)?;
    let path = manifest::path(&model);
    files::replace(&path, text.as_bytes()).map_err(|error| Failure::io("write", &path, &error))?;
    let by = hex(key.verifying_key().as_bytes());
    if args.json {
        return put_json(&json!({"manifest": path, "signed_by": by, "of": of}));
    }
    put_line(&format!(
        "{}: version {version}, signed by {by}",
        path.display()
    ))
}
