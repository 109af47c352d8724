//! Where the configuration comes from: a file, then `GLOWPLUG_*`, then flags.

use super::image;
use crate::cli::failure::Failure;
use crate::cli::folders::state_dir;
use crate::cli::models;
use crate::config::{Config, ConfigError, Draft, KEYS, Preset, check_text, env_name, is_in_list};
use crate::machine::board;
use glowplug_firmware_config::image::{SLOT, SLOTS};
use glowplug_model::engine::KvFormats;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The file that is read when `--config` names no other.
const SYSTEM_FILE: &str = "/etc/glowplug/config.toml";

/// Longest configuration file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Variables that are read elsewhere and are no keys of the configuration.
const NOT_KEYS: [&str; 4] = ["GLOWPLUG_MODELS", "GLOWPLUG_ISA", "GLOWPLUG_LOG", ROOT];

/// Names the folder in which tests keep another machine's `/proc` and `/sys`.
const ROOT: &str = "GLOWPLUG_ROOT";

/// Reads the file (`--config`, else the system's if it is there), then lets the environment and `--board` override it.
pub(crate) fn load(file: Option<&Path>, board: Option<&str>) -> Result<Draft, Failure> {
    let path = file.unwrap_or(Path::new(SYSTEM_FILE));
    // one that cannot be looked for is an error and no default
    let mut draft = if file.is_none() && matches!(path.try_exists(), Ok(false)) {
        Draft::default()
    } else {
        self::file(path)?
    };
    for (name, why) in environment(&mut draft, env::vars_os())? {
        eprintln!("glowplug: {name} is ignored: {why}");
    }
    if let Some(name) = board {
        draft
            .set("board", name)
            .map_err(|error| Failure::Use(format!("--board: {error}")))?;
    }
    Ok(draft)
}

/// Reads a file alone, as the daemon takes it: TOML, or a flash image that is not older than one that was served with. Where there
/// are keys it is an image that one of them signed, and nothing else: who can write a partition can write TOML into it.
pub(crate) fn file(path: &Path) -> Result<Draft, Failure> {
    let named = |why: String| Failure::Use(format!("{}: {why}", path.display()));
    let mut file = open(path)?;
    let keys = image::keys()?;
    let mut bytes = Vec::new();
    // of a partition only the slots are read, however large it is
    (&mut file)
        .take((SLOT * SLOTS) as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("read", path, &error))?;
    if image::is_one(&bytes) {
        let state_dir = state_dir();
        let least = image::least(&state_dir)?;
        let (draft, passed) = image::draft(&bytes, &keys, least, &state_dir).map_err(named)?;
        for why in passed {
            eprintln!("glowplug: {}: {why}", path.display());
        }
        return Ok(draft);
    }
    if !keys.is_empty() {
        return Err(named(format!(
            "no signed image: while {} is set, no other configuration is taken (keys of models alone go into `trust.keys`)",
            image::KEYS
        )));
    }
    toml(path, bytes, file)
}

/// Reads a file that an image is made of. It is TOML, and nobody has to have signed it yet.
pub(crate) fn source(path: &Path) -> Result<Draft, Failure> {
    toml(path, Vec::new(), open(path)?)
}

/// Parses a file of which the first bytes have been read.
fn toml(path: &Path, mut bytes: Vec<u8>, rest: File) -> Result<Draft, Failure> {
    let named = |why: String| Failure::Use(format!("{}: {why}", path.display()));
    let left = (FILE_MAX + 1).saturating_sub(bytes.len() as u64);
    rest.take(left)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("read", path, &error))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(named(format!("longer than {FILE_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| named("not UTF-8".to_owned()))?;
    Draft::from_toml(&text).map_err(|error| named(error.to_string()))
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Missing(format!("{}: {error}", path.display())),
        _ => Failure::io("read", path, &error),
    })
}

/// Checks the settings as the daemon would at start.
pub(crate) fn valid(path: &Path, draft: Draft) -> Result<(), Failure> {
    draft
        .finish("node", state_dir())
        .map(|_| ())
        .map_err(|error| Failure::Use(format!("{}: {error}", path.display())))
}

/// Sets what `GLOWPLUG_*` names. A variable that names no key is returned with the nearest that does: the name space is
/// shared with other programs' scripts, so it is a warning and no error.
fn environment(
    draft: &mut Draft,
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut ignored = Vec::new();
    for (name, value) in vars {
        let Some(name) = name.to_str().filter(|name| name.starts_with("GLOWPLUG_")) else {
            continue;
        };
        if NOT_KEYS.contains(&name) {
            continue;
        }
        let keys = || KEYS.iter().filter(|key| !is_in_list(key));
        match keys().find(|key| env_name(key) == name) {
            Some(key) => {
                let value = value
                    .to_str()
                    .ok_or_else(|| Failure::Use(format!("{name} is not UTF-8")))?;
                draft
                    .set(key, value)
                    .map_err(|error| Failure::Use(format!("{name}: {error}")))?;
            }
            None => {
                let names = keys().map(|key| env_name(key));
                let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, name));
                let why = format!(
                    "no such key; the nearest is {}",
                    nearest.unwrap_or_default()
                );
                ignored.push((name.to_owned(), why));
            }
        }
    }
    Ok(ignored)
}

/// Checks the configuration and turns what only the command line knows into values: host name, folders, the forced
/// instruction set, the board that this machine is. A model of the command line takes the place of the configured one.
pub(crate) fn finish(draft: Draft, model: Option<PathBuf>) -> Result<Config, Failure> {
    let host = gethostname::gethostname();
    let mut config = draft
        .finish(&host.to_string_lossy(), state_dir())
        .map_err(|error: ConfigError| Failure::Use(format!("configuration: {error}")))?;
    if model.is_some() {
        (config.model.path, config.model.name) = (model, None);
    }
    config.engine.isa = models::forced_isa()?;
    if let Some(root) = env::var_os(ROOT) {
        config.root = root.into();
    }
    if config.board.is_none() {
        (config.board, config.board_chosen) = board::find(&config.root, env::consts::ARCH);
    }
    for preset in &mut config.presets {
        read_system(preset)?;
    }
    config.sessions.writes_per_day = (config.board.as_ref()).map(|board| board.writes_per_day.0);
    Ok(config)
}

/// Reads the system text of a preset that has it in a file.
fn read_system(preset: &mut Preset) -> Result<(), Failure> {
    let Some(path) = preset.text_file.take() else {
        return Ok(());
    };
    let named = |why: String| {
        let (name, path) = (&preset.name, path.display());
        Failure::Use(format!("configuration: the preset `{name}`: {path}: {why}"))
    };
    let mut text = String::new();
    open(&path)?
        .take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(|error| named(error.to_string()))?;
    let text = text.trim_end().to_owned();
    check_text(&text).map_err(named)?;
    preset.text = Some(text);
    Ok(())
}

/// The model's file, which a daemon must have; its clients share the configuration and need none. Where nobody says which, it
/// is the board's, as it fits there. One that is missing is configured all the same: another may be served in its place.
pub(crate) fn model(config: &mut Config) -> Result<&Path, Failure> {
    let Config {
        model,
        memory,
        board,
        ..
    } = config;
    if let (None, None, Some(board)) = (&model.path, &model.name, board) {
        let fit = &board.model;
        model.name = Some(fit.name.to_string());
        model.context.get_or_insert(fit.context);
        memory
            .kv_format
            .get_or_insert(KvFormats { k: fit.k, v: fit.v });
    }
    if let Some(name) = &model.name {
        let path = model.path.insert(models::place(name)?);
        if !path.is_file() {
            return Err(models::missing(name, path));
        }
    }
    model.path.as_deref().ok_or_else(|| {
        Failure::Use(
            "no model: set `model.path` or `model.name` in the configuration, or GLOWPLUG_MODEL_NAME".into(),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect::<Vec<_>>()
            .into_iter()
    }

    #[test]
    fn the_environment_overrides_single_values() {
        let mut draft = Draft::from_toml("node = \"a\"\nbase_topic = \"b\"").unwrap();
        let env = [
            ("GLOWPLUG_NODE", "kitchen"),
            ("GLOWPLUG_ENGINE_THREADS_DECODE", "3"),
            ("GLOWPLUG_MODELS", "/m"),
            ("GLOWPLUG_MQTT_URI", "mqtt://x"),
            ("PATH", "/bin"),
        ];
        let ignored = environment(&mut draft, vars(&env)).unwrap();
        assert_eq!(ignored.len(), 1);
        assert_eq!(ignored[0].0, "GLOWPLUG_MQTT_URI");
        assert!(
            ignored[0].1.ends_with("GLOWPLUG_MQTT_URL"),
            "{}",
            ignored[0].1
        );
        let config = draft.finish("host", PathBuf::new()).unwrap();
        assert_eq!(
            (config.node.as_str(), config.base_topic.as_str()),
            ("kitchen", "b")
        );
        assert_eq!(config.engine.decode_threads, Some(3));
    }

    #[test]
    fn only_who_needs_the_model_misses_it() {
        let draft = Draft::from_toml("model.name = 'smollm'").unwrap();
        let mut config = finish(draft, None).unwrap();
        let failure = model(&mut config).unwrap_err();
        assert!(failure.to_string().contains("smol"), "{failure}");
    }

    #[test]
    fn a_file_is_named_in_its_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("glowplug.toml");
        for (text, says) in [
            ("nodes = \"a\"", "the nearest known one is `node`"),
            ("node", "TOML"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = load(Some(&path), None).unwrap_err();
            assert!(
                matches!(&failure, Failure::Use(said) if said.contains(says)),
                "{failure}"
            );
            assert!(failure.to_string().contains("glowplug.toml"));
        }
        std::fs::write(&path, "#".repeat(FILE_MAX as usize + 1)).unwrap();
        assert!(
            load(Some(&path), None)
                .unwrap_err()
                .to_string()
                .contains("1048576")
        );
        assert!(matches!(
            load(Some(Path::new("/nonexistent.toml")), None),
            Err(Failure::Missing(_))
        ));
    }
}
