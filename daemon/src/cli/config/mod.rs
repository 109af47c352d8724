//! `glowplug config check|compile|show`: a configuration is checked, made into a flash image, printed.

pub(super) mod image;
pub(super) mod sources;

use super::failure::{Failure, put, put_json, put_line};
use crate::config::Draft;
use crate::hex::hex;
use clap::Subcommand;
use glowplug_firmware_config::image::{self as format, SLOT, SLOTS, SigningKey, Trust};
use glowplug_model::files::sync_folder;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Check a configuration, write it as a flash image, print an image
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Check(Check),
    Compile(Compile),
    Show(Show),
}

/// Check a configuration file, or the newest good image of a partition
#[derive(clap::Args)]
struct Check {
    /// a file in TOML, or an image
    file: PathBuf,
    /// print JSON, for a program to read
    #[arg(long)]
    json: bool,
}

/// Write a configuration file as an image, into the older slot of a partition
#[derive(clap::Args)]
struct Compile {
    /// the file, in TOML
    file: PathBuf,
    /// a partition of two slots, or a file, which is made if it is not there
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// greater than that of every image before [default: by one]
    #[arg(long, value_name = "N")]
    counter: Option<u64>,
    /// a file with the secret key of Ed25519: 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
}

/// Print the images of a partition
#[derive(clap::Args)]
struct Show {
    /// a partition, or a file
    image: PathBuf,
    /// print JSON, for a program to read
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Check(args) => check(args),
        What::Compile(args) => compile(args),
        What::Show(args) => show(args),
    }
}

fn check(args: &Check) -> Result<(), Failure> {
    let checked = sources::file(&args.file).and_then(|draft| {
        let counter = draft.counter();
        sources::valid(&args.file, draft).map(|()| counter)
    });
    match checked {
        Ok(counter) if args.json => put_json(&json!({"valid": true, "counter": counter})),
        Ok(counter) => {
            let image = counter.map_or(String::new(), |n| format!(" (image {n})"));
            put_line(&format!("{}: valid{image}", args.file.display()))
        }
        Err(error) => {
            if args.json {
                put_json(&json!({"valid": false, "error": error.to_string()}))?;
            }
            Err(error)
        }
    }
}

fn compile(args: &Compile) -> Result<(), Failure> {
    let bad = |why: String| Failure::Use(format!("{}: {why}", args.file.display()));
    let draft = sources::source(&args.file)?;
    let settings = draft
        .to_settings()
        .map_err(|error| bad(error.to_string()))?;
    sources::valid(&args.file, draft)?;
    let key = args.sign.as_deref().map(image::signing_key).transpose()?;
    let before = match File::open(&args.output) {
        Ok(file) => partition(file, &args.output)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::io("read", &args.output, &error)),
    };
    let erased = |byte: &u8| matches!(byte, 0xff | 0);
    if !(image::is_one(&before) || before.iter().all(erased)) {
        return Err(Failure::Use(format!(
            "{}: holds something else, neither an image nor erased bytes; it is not overwritten",
            args.output.display()
        )));
    }
    let mut keys = image::keys()?;
    keys.extend(key.as_ref().map(SigningKey::verifying_key));
    let (slot, least) = image::next(&before, &keys);
    let counter = match (args.counter, least) {
        (Some(counter), Some(least)) if counter >= least => counter,
        (None, Some(least)) => least,
        (_, least) => {
            let least = least.map_or("no greater one".to_owned(), |n| format!("at least {n}"));
            return Err(Failure::Use(format!(
                "--counter: {} has an image of that age or newer; {least} is possible",
                args.output.display()
            )));
        }
    };
    let mut bytes = [0xff; SLOT];
    format::write(&settings, counter, key.as_ref(), &mut bytes)
        .map_err(|error| bad(error.to_string()))?;
    write(&args.output, slot, &bytes, before.is_empty())
        .map_err(|error| Failure::io("write", &args.output, &error))?;
    let signed = key.map_or("not signed".to_owned(), |key| {
        format!("signed by {}", hex(key.verifying_key().as_bytes()))
    });
    put_line(&format!(
        "{}: slot {slot}, counter {counter}, {signed}",
        args.output.display()
    ))
}

/// Writes one slot and no other byte, so that a power cut leaves the other slot as it was.
fn write(path: &Path, slot: usize, bytes: &[u8; SLOT], new: bool) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if new {
        file.write_all(&[0xff; SLOT * SLOTS])?;
    }
    file.seek(SeekFrom::Start((slot * SLOT) as u64))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    if new { sync_folder(path) } else { Ok(()) }
}

fn show(args: &Show) -> Result<(), Failure> {
    let file = File::open(&args.image)
        .map_err(|error| Failure::Use(format!("{}: {error}", args.image.display())))?;
    let bytes = partition(file, &args.image)?;
    let keys = image::keys()?;
    let trust = Trust {
        keys: &keys,
        least: 0,
    };
    let slots = format::slots(&bytes).map(|slot| format::read(slot, trust));
    let newest = format::newest(&bytes, trust);
    let signer = |key: Option<usize>| {
        key.and_then(|key| keys.get(key))
            .map(|key| hex(key.as_bytes()))
    };
    if args.json {
        let slots: Vec<Value> = slots
            .map(|slot| match slot {
                Ok(image) => json!({"counter": image.counter, "signed_by": signer(image.key), "settings": image.settings}),
                Err(error) => json!({"error": error.to_string()}),
            })
            .collect();
        put_json(&json!({"slots": slots, "newest": newest.as_ref().ok().map(|(slot, _)| slot)}))?;
    } else {
        for (n, slot) in slots.enumerate() {
            let said = match slot {
                Ok(image) => {
                    let by = match signer(image.key) {
                        Some(key) => format!("signed by {key}"),
                        None => format!("signature not checked: no {}", image::KEYS),
                    };
                    format!("counter {}, {by}", image.counter)
                }
                Err(error) => error.to_string(),
            };
            put_line(&format!("# slot {n}: {said}"))?;
        }
    }
    let (_, image) =
        newest.map_err(|error| Failure::Use(format!("{}: {error}", args.image.display())))?;
    if !args.json {
        let draft = Draft::from_settings(&image.settings, image.counter)
            .map_err(|error| Failure::Use(error.to_string()))?;
        put(&draft.to_toml())?;
    }
    Ok(())
}

/// Reads the slots of a partition, and nothing of what is behind them.
fn partition(file: File, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    file.take((SLOT * SLOTS) as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("read", path, &error))?;
    Ok(bytes)
}
