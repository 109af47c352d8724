//! Which model is served: what a file must be to be one, and what is remembered of models over restarts.
//!
//! A model that was asked for is a [`Candidate`] once it was found, checked and planned for, all before anything of the
//! one that runs is given up. In the state folder is remembered which model answered last, how often one has failed to,
//! and the greatest version that was ever served.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use glowplug_firmware_config::plan::Limit;
use glowplug_model::engine::recommended;
use glowplug_model::gguf::{Gguf, GgufError, MAX_TEMPLATE};
use glowplug_model::text::{ChatTemplate, SamplerParams, TextError};
use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::config::Config;
use crate::files;
use crate::manifest::{Manifest, Untrusted};
use crate::packed;
use crate::plan::{self, Plan, PlanError};

/// In the state folder.
const FILE: &str = "models.json";
/// Longest, in bytes.
const FILE_MAX: u64 = 1 << 16;
/// Starts without an answer, after which the last model that answered takes the place.
pub const STARTS_MAX: u32 = 3;
/// Files whose hashes are remembered.
const KNOWN_MAX: usize = 16;

/// Found, checked and planned for.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// where it is, and what is known of it
    pub file: ModelFile,
    /// what it is loaded with
    pub plan: Plan,
    /// its own sampling values
    pub sampler: SamplerParams,
    /// what prompts are written with
    pub template: ChatTemplate,
}

/// A file that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// where it is
    pub path: PathBuf,
    /// of all of it; none: not computed yet
    pub sha256: Option<String>,
    /// of its manifest; none: nobody has to sign
    pub version: Option<u64>,
    /// what it is known again by, taken before anything was read
    stamp: String,
}

/// Why a file is no candidate.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// not a model we serve, or one that does not fit
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// not a sound file
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// no prompt can be written for it
    #[error("{0}; `model.template_file` can name another template for the configured model")]
    Template(TextError),
    /// not signed as it must be
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// it cannot be read
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file that was read through, and what it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    stamp: String,
    /// of the file; of a packed one, of the model that it was made of
    sha256: String,
}

/// What the state folder remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Record {
    /// what was configured when `chosen` was: another configuration has the last word
    configured: PathBuf,
    /// over MQTT
    chosen: Option<PathBuf>,
    /// the last that answered
    good: Option<PathBuf>,
    /// one that has not answered yet, and how often it was started
    trial: Option<(PathBuf, u32)>,
    /// the greatest that has answered
    version: u64,
    /// no changes while this is true
    inhibited: bool,
    known: BTreeMap<PathBuf, Known>,
}

/// The memory over restarts, and what is checked against it.
#[derive(Debug, Clone)]
pub struct Supply {
    configured: PathBuf,
    remembered: bool,
    keys: Vec<VerifyingKey>,
    file: PathBuf,
    record: Record,
}

impl Supply {
    /// Reads the state folder. What cannot be read is begun anew, except where versions count.
    ///
    /// # Errors
    /// There are keys, and it is not known which versions were served.
    pub fn open(config: &Config, configured: PathBuf) -> io::Result<Self> {
        let file = config.state_dir.join(FILE);
        let record = match read(&file) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::NotFound => Record::default(),
            Err(error) => {
                let why = format!("{}: {error}", file.display());
                if !config.trust.is_empty() {
                    return Err(io::Error::other(format!(
                        "{why}; which versions were served is not known"
                    )));
                }
                tracing::warn!("{why}; it is begun anew");
                Record::default()
            }
        };
        Ok(Self {
            configured,
            remembered: config.model.remembered,
            keys: config.trust.clone(),
            file,
            record,
        })
    }

    /// Must models be signed?
    #[must_use]
    pub fn is_strict(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The model to start with: the one chosen over MQTT, else the configured one; but the last that answered if that one
    /// has failed so often. True: so it is.
    pub fn first(&mut self) -> (PathBuf, bool) {
        if !self.remembered {
            return (self.configured.clone(), false);
        }
        let record = &mut self.record;
        if record.configured != self.configured {
            (record.configured, record.chosen) = (self.configured.clone(), None);
        }
        let wanted = record.chosen.as_ref().unwrap_or(&self.configured).clone();
        let starts = match &record.trial {
            Some((path, starts)) if *path == wanted => *starts,
            _ => 0,
        };
        record.trial = Some((wanted.clone(), starts.saturating_add(1)));
        if starts >= STARTS_MAX
            && self.has_way_back()
            && let Some(good) = &self.record.good
        {
            return (good.clone(), true);
        }
        self.save();
        (wanted, false)
    }

    /// Is there a model that answered, and is not the one that is to be started?
    #[must_use]
    pub fn has_way_back(&self) -> bool {
        let record = &self.record;
        match (&record.trial, &record.good) {
            (Some((wanted, _)), Some(good)) => self.remembered && good != wanted && good.is_file(),
            _ => false,
        }
    }

    /// The daemon stops before its model has answered, and that is nobody's fault.
    pub fn interrupted(&mut self) {
        if let Some((_, starts)) = &mut self.record.trial {
            *starts = starts.saturating_sub(1);
            self.save();
        }
    }

    /// A model has answered; `chosen`: as somebody asked over MQTT.
    pub fn answered(&mut self, file: &ModelFile, chosen: bool) {
        let record = &mut self.record;
        if self.remembered {
            record
                .trial
                .take_if(|(path, _)| chosen || *path == file.path);
            if chosen {
                record.chosen = Some(file.path.clone());
            }
            record.good = Some(file.path.clone());
        }
        record.version = record.version.max(file.version.unwrap_or(0));
        if let Some(sha256) = &file.sha256 {
            self.know(&file.path, file.stamp.clone(), sha256);
            let packed = packed::path(&file.path);
            // packed just now, or known before, of a model that was signed
            if file.version.is_some()
                && let Ok(stamp) = files::stamp(&packed)
            {
                self.know(&packed, stamp, sha256);
            }
        }
        self.save();
    }

    /// The model that is served was read through.
    pub fn hashed(&mut self, file: &ModelFile, sha256: &str) {
        self.know(&file.path, file.stamp.clone(), sha256);
        self.save();
    }

    fn know(&mut self, path: &Path, stamp: String, sha256: &str) {
        let known = &mut self.record.known;
        if known.len() >= KNOWN_MAX && !known.contains_key(path) {
            // what is gone first, then anything: it is computed again
            known.retain(|path, known| files::stamp(path).is_ok_and(|now| now == known.stamp));
            while known.len() >= KNOWN_MAX && known.pop_first().is_some() {}
        }
        let sha256 = sha256.to_owned();
        known.insert(path.to_owned(), Known { stamp, sha256 });
    }

    fn known(&self, path: &Path) -> Option<&str> {
        let known = self.record.known.get(path)?;
        files::stamp(path)
            .is_ok_and(|now| now == known.stamp)
            .then_some(known.sha256.as_str())
    }

    /// Are changes refused?
    #[must_use]
    pub fn inhibited(&self) -> bool {
        self.record.inhibited
    }

    /// They are from now on, over restarts too; or not any more.
    pub fn inhibit(&mut self, on: bool) {
        self.record.inhibited = on;
        self.save();
    }

    fn save(&self) {
        let written = serde_json::to_vec(&self.record)
            .map_err(io::Error::other)
            .and_then(|bytes| {
                if let Some(folder) = self.file.parent() {
                    glowplug_model::files::make_private_folder(folder)?;
                }
                files::replace(&self.file, &bytes)
            });
        if let Err(error) = written {
            tracing::warn!(
                "{}: {error}; it will not be remembered",
                self.file.display()
            );
        }
    }

    /// Checks a file and plans for it. `whole`: its hash is wanted, which takes seconds for gigabytes unless it is known;
    /// where models must be signed it is always.
    ///
    /// # Errors
    /// [`Unfit`]; nothing is loaded.
    pub fn check(
        &self,
        path: &Path,
        config: &Config,
        limit: &Limit,
        whole: bool,
    ) -> Result<Candidate, Unfit> {
        let stamp = files::stamp(path)?;
        let manifest = self
            .is_strict()
            .then(|| Manifest::read(path, &self.keys))
            .transpose()?;
        let gguf = Gguf::open(path)?;
        if let Some(manifest) = &manifest {
            manifest.check(&gguf, self.record.version)?;
        }
        let plan = plan::plan(path, &gguf, config, limit)?;
        let template = match &config.model.template_file {
            Some(file) if *path == self.configured => {
                ChatTemplate::given(&files::text(file, MAX_TEMPLATE)?, &gguf)
            }
            _ => ChatTemplate::from_gguf(&gguf),
        };
        let template = template.map_err(Unfit::Template)?;
        let mut sha256 = self.known(path).map(str::to_owned);
        if sha256.is_none() && (whole || manifest.is_some()) {
            sha256 = Some(files::sha256(path)?);
        }
        if let Some(manifest) = &manifest {
            if sha256.as_ref() != Some(&manifest.file_sha256) {
                return Err(Untrusted::Altered("content").into());
            }
            let packed = packed::path(path);
            if packed.exists() && self.known(&packed) != Some(&manifest.file_sha256) {
                // nobody signed it: it is made again, of what was
                fs::remove_file(&packed)?;
            }
        }
        Ok(Candidate {
            file: ModelFile {
                path: path.to_owned(),
                sha256,
                version: manifest.map(|manifest| manifest.version),
                stamp,
            },
            plan,
            sampler: recommended(&gguf),
            template,
        })
    }

    /// The file that a name means: beside the configured one, with or without its suffix, or as the catalogue has it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = self.configured.parent()?;
        let catalogue = catalogue::find(name).ok().flatten().map(|entry| entry.file);
        let names = [name.to_owned(), format!("{name}.gguf")];
        let mut paths = names.into_iter().chain(catalogue).map(|n| folder.join(n));
        paths.find(|path| path.is_file())
    }
}

fn read(path: &Path) -> io::Result<Record> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::other(format!("longer than {FILE_MAX} bytes")));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Draft;
    use std::path::Path;

    fn config(state: &Path, keys: &str) -> Config {
        let draft = Draft::from_toml(&format!("[trust]\nkeys = [{keys}]")).unwrap();
        let mut config = draft.finish("n", state.to_owned()).unwrap();
        config.model.remembered = true;
        config
    }

    fn supply(state: &Path, configured: &Path) -> Supply {
        Supply::open(&config(state, ""), configured.to_owned()).unwrap()
    }

    fn file(path: &Path, version: Option<u64>) -> ModelFile {
        ModelFile {
            path: path.to_owned(),
            sha256: Some("ab".into()),
            version,
            stamp: files::stamp(path).unwrap_or_default(),
        }
    }

    #[test]
    fn after_three_starts_without_an_answer_the_last_good_one_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "old").unwrap();
        assert_eq!(supply(&state, &old).first(), (old.clone(), false));
        supply(&state, &old).answered(&file(&old, None), false);
        for _ in 0..STARTS_MAX {
            let mut supply = supply(&state, &new);
            assert_eq!(supply.first(), (new.clone(), false));
            assert!(supply.has_way_back());
        }
        for _ in 0..2 {
            assert_eq!(supply(&state, &new).first(), (old.clone(), true));
            supply(&state, &new).answered(&file(&old, None), false);
        }
        // who says what to serve is listened to again
        let newer = folder.path().join("newer");
        assert_eq!(supply(&state, &newer).first(), (newer, false));
        // without one to go back to, the one there is
        fs::remove_file(&old).unwrap();
        for _ in 0..=STARTS_MAX {
            assert_eq!(supply(&state, &new).first(), (new.clone(), false));
        }
    }

    #[test]
    fn a_stop_in_time_is_no_failed_start_and_an_answer_ends_the_count() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "old").unwrap();
        supply(folder.path(), &old).answered(&file(&old, None), false);
        for _ in 0..9 {
            let mut supply = supply(folder.path(), &new);
            assert_eq!(supply.first(), (new.clone(), false));
            supply.interrupted();
        }
        for _ in 0..9 {
            let mut supply = supply(folder.path(), &new);
            assert_eq!(supply.first(), (new.clone(), false));
            supply.answered(&file(&new, None), false);
        }
    }

    #[test]
    fn what_was_chosen_stays_until_the_configuration_names_another() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
        let mut first = supply(folder.path(), &a);
        first.first();
        first.answered(&file(&a, None), false);
        first.answered(&file(&b, None), true);
        first.inhibit(true);
        let mut second = supply(folder.path(), &a);
        assert!(second.inhibited());
        assert_eq!(second.first(), (b.clone(), false));
        // one that asks for this model alone gets it
        let mut config = config(folder.path(), "");
        config.model.remembered = false;
        let mut alone = Supply::open(&config, a.clone()).unwrap();
        assert_eq!(alone.first(), (a.clone(), false));
        assert_eq!(supply(folder.path(), &c).first(), (c, false));
        assert_eq!(supply(folder.path(), &a).first(), (a, false));
    }

    #[test]
    fn hashes_are_known_as_long_as_the_file_is_the_same_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut supply = supply(folder.path(), Path::new("m"));
        let path = |n: usize| folder.path().join(format!("m{n}"));
        for n in 0..2 * KNOWN_MAX {
            fs::write(path(n), "x").unwrap();
            supply.hashed(&file(&path(n), None), "ab");
            assert_eq!(supply.known(&path(n)), Some("ab"));
        }
        assert!(supply.record.known.len() <= KNOWN_MAX);
        let last = path(2 * KNOWN_MAX - 1);
        fs::write(&last, "xy").unwrap();
        assert_eq!(supply.known(&last), None);
        // a packed file counts only beside a model that was signed
        let packed = packed::path(&last);
        fs::write(&packed, "p").unwrap();
        for (version, known) in [(None, None), (Some(3), Some("ab"))] {
            supply.answered(&file(&last, version), false);
            assert_eq!(supply.known(&packed), known);
        }
        assert_eq!(supply.record.version, 3);
    }

    #[test]
    fn a_damaged_record_is_begun_anew_unless_versions_count() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", "{\"x\":1}", &" ".repeat(FILE_MAX as usize + 1)] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert_eq!(
                supply(folder.path(), Path::new("m")).record,
                Record::default()
            );
            let key = "'d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a'";
            let strict = Supply::open(&config(folder.path(), key), "m".into());
            let error = strict.unwrap_err().to_string();
            assert!(
                error.contains(FILE) && error.contains("versions"),
                "{error}"
            );
        }
    }
}
