//! Which model is served: what a file must be like, and what is remembered of models over restarts.
//!
//! A model that was asked for becomes a [`Candidate`] once it was found, checked and planned for, all before anything
//! of the running one is given up. The state folder remembers which model answered last, how often a model has failed
//! to, and the greatest version that was ever served.

use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use glowplug_firmware_config::plan::{DoesNotFit, Limit, LimitSource};
use glowplug_model::engine::recommended;
use glowplug_model::gguf::{Gguf, GgufError, MAX_TEMPLATE};
use glowplug_model::text::{ChatTemplate, SamplerParams, TextError};

use super::catalogue;
use super::manifest::{Manifest, Untrusted};
use super::opened::Opened;
use super::packed::Weights;
use super::plan::{self, Plan, PlanError};
use super::record::{DaemonRecord, Ledger, Record};
use crate::config::Config;
use crate::config::counter;

/// After this many starts without an answer, a model that answered before takes the place, or the configured one.
pub const STARTS_MAX: u32 = 3;

/// A model that was found, checked and planned for.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What is mapped, and what it was when it was checked.
    pub weights: Weights,
    /// The version in its manifest; none if nobody has to sign.
    pub version: Option<u64>,
    pub plan: Plan,
    /// The model's own sampling values.
    pub sampler: SamplerParams,
    /// The template that prompts are written with.
    pub template: ChatTemplate,
}

/// A file whose header was checked and that fits into memory. Its weights were not read.
#[derive(Debug)]
pub struct Sighted {
    file: Opened,
    gguf: Gguf,
    manifest: Option<Manifest>,
    template: ChatTemplate,
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum UnfitModel {
    /// It is not a model that we can serve, or it does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// It has no template that prompts can be written with.
    #[error("{0}; `model.template_file` can name another template for the configured model")]
    Template(TextError),
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It must be signed, but others could change it after it was checked.
    #[error(
        "others than this user may write to the file, so its signature would prove nothing (`chmod go-w`, or give it to this user)"
    )]
    Exposed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UnfitModel {
    /// Whether it stays so until somebody changes a file or the configuration. Everything else may pass: a mount that
    /// is not there yet, a copy that is under way, memory that somebody else holds for a moment, an error of the disk.
    #[must_use]
    pub fn stays(&self) -> bool {
        match self {
            Self::Io(_)
            | Self::Untrusted(Untrusted::Io(_))
            | Self::Plan(PlanError::DoesNotFit(DoesNotFit {
                limit:
                    Limit {
                        from: LimitSource::Available,
                        ..
                    },
                ..
            })) => false,
            Self::Gguf(error)
            | Self::Untrusted(Untrusted::Gguf(error))
            | Self::Plan(PlanError::Gguf(error)) => stays(error),
            Self::Plan(_) | Self::Template(_) | Self::Untrusted(_) | Self::Exposed => true,
        }
    }
}

/// Whether an error of a file stays; see [`UnfitModel::stays`].
pub(crate) fn stays(error: &GgufError) -> bool {
    !matches!(error, GgufError::Io(_) | GgufError::Truncated { .. })
}

/// A change of what is remembered, to be written beside the select loop.
#[must_use = "it is not written yet"]
pub struct Note {
    ledger: Ledger,
    change: Box<dyn FnOnce(&mut Record) + Send>,
    /// The counter of the configuration's image, and where it is remembered.
    counter: Option<(PathBuf, u64)>,
}

impl Note {
    /// Writes the change.
    ///
    /// # Errors
    /// It will not be remembered, or only in part.
    pub fn write(self) -> io::Result<()> {
        let changed = self.ledger.change(self.change);
        // one is written even if the other fails
        match self.counter {
            Some((folder, counter)) => counter::served(&folder, counter).and(changed),
            None => changed,
        }
    }
}

/// What is remembered over restarts, and what files are checked against.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The name of this daemon among those of one user.
    name: String,
    configured: PathBuf,
    remembered: bool,
    keys: Vec<VerifyingKey>,
    ledger: Ledger,
    record: Record,
    state_dir: PathBuf,
    counter: Option<u64>,
}

impl Registry {
    /// Reads the state folder. What cannot be read is started anew, except where versions count.
    ///
    /// # Errors
    /// There are keys, and it is not known which versions were served. `InvalidData` means that this stays so.
    pub fn open(config: &Config, configured: PathBuf) -> io::Result<Self> {
        let ledger = Ledger::new(&config.state_dir, !config.trust.is_empty());
        Ok(Self {
            name: format!("{}/{}", config.base_topic, config.node),
            configured,
            remembered: config.model.remembered,
            keys: config.trust.clone(),
            record: ledger.read()?,
            ledger,
            state_dir: config.state_dir.clone(),
            counter: config.counter,
        })
    }

    /// The model to start with: the one chosen over MQTT, else the configured one. After [`STARTS_MAX`] failed starts
    /// it gives way to the last one that answered, then to the configured one, then it has its turns again. True: it
    /// gave way.
    pub fn first(&mut self) -> (PathBuf, bool) {
        if !self.remembered {
            return (self.configured.clone(), false);
        }
        let mut own = self.own_record();
        if own.configured != self.configured {
            (own.configured, own.chosen) = (self.configured.clone(), None);
        }
        let wanted = own.chosen.as_ref().unwrap_or(&self.configured).clone();
        let ways = self.ways_back(&own, &wanted);
        let starts = match &own.trial {
            Some((path, starts)) if *path == wanted => *starts,
            _ => 0,
        };
        let way = starts
            .checked_sub(STARTS_MAX)
            .map(|failed| ways.get(failed as usize).cloned());
        let (path, starts, fallback) = match way {
            Some(Some(way)) => (way, starts.saturating_add(1), true),
            Some(None) if !ways.is_empty() => (wanted.clone(), 1, false),
            _ => (wanted.clone(), starts.saturating_add(1), false),
        };
        own.trial = Some((wanted, starts));
        self.written(own);
        (path, fallback)
    }

    /// Whether there is another model that a later start may serve.
    #[must_use]
    pub fn has_way_back(&self) -> bool {
        let own = self.own_record();
        let wanted = own.trial.as_ref().map(|(wanted, _)| wanted);
        self.remembered && wanted.is_some_and(|wanted| !self.ways_back(&own, wanted).is_empty())
    }

    /// The models that may take the place of the wanted one: the last that answered, and the configured one.
    fn ways_back(&self, own: &DaemonRecord, wanted: &Path) -> Vec<PathBuf> {
        let mut ways: Vec<PathBuf> = own.good.iter().cloned().collect();
        ways.push(self.configured.clone());
        ways.dedup();
        ways.retain(|path| path != wanted && path.is_file());
        ways
    }

    fn own_record(&self) -> DaemonRecord {
        self.record.of(&self.name)
    }

    /// Writes the record at once, because the daemon is on its way up or down.
    fn written(&mut self, own: DaemonRecord) {
        let name = self.name.clone();
        let note = self.note(move |record| {
            let now = record.of_mut(&name);
            // only an operator changes this one, so it is taken from the file
            let inhibited = now.inhibited;
            *now = DaemonRecord {
                inhibited,
                ..own.clone()
            };
        });
        if let Err(error) = note.write() {
            tracing::warn!("how this start went will not be remembered: {error}");
        }
    }

    /// Changes what is remembered here, and returns the change to be written.
    fn note(&mut self, change: impl Fn(&mut Record) + Send + 'static) -> Note {
        change(&mut self.record);
        Note {
            ledger: self.ledger.clone(),
            change: Box::new(change),
            counter: None,
        }
    }

    /// The daemon stops before its model has answered, and that is nobody's fault.
    pub fn interrupted(&mut self) {
        let mut own = self.own_record();
        if let (true, Some((_, starts))) = (self.remembered, &mut own.trial) {
            *starts = starts.saturating_sub(1);
            self.written(own);
        }
    }

    /// A model has answered. `version` is that of its manifest; `chosen` says that somebody asked for it over MQTT.
    pub fn answered(&mut self, weights: &Weights, version: Option<u64>, chosen: bool) -> Note {
        let (name, remembered) = (self.name.clone(), self.remembered);
        let weights = weights.clone();
        let counter = self.counter.take();
        let mut note = self.note(move |record| {
            let path = weights.model.path().to_owned();
            if remembered {
                let own = record.of_mut(&name);
                own.trial.take_if(|(wanted, _)| chosen || *wanted == path);
                if let Some((_, starts)) = &mut own.trial {
                    // it gave way to this one, and it will at the next start too
                    *starts = STARTS_MAX;
                }
                if chosen {
                    own.chosen = Some(path.clone());
                }
                own.good = Some(path);
            }
            record.version = record.version.max(version.unwrap_or(0));
            record.know(&weights.model, &weights.sha256);
            // where models are signed, this file was written here from one that is, or is known to have been
            if let (Some(_), Some(packed)) = (version, &weights.packed) {
                record.know(packed, &weights.sha256);
            }
        });
        note.counter = counter.map(|counter| (self.state_dir.clone(), counter));
        note
    }

    /// Whether changes of the model are refused.
    #[must_use]
    pub fn inhibited(&self) -> bool {
        self.own_record().inhibited
    }

    /// Refuses changes from now on; once it is written, also over restarts.
    pub fn inhibit(&mut self) -> Note {
        let name = self.name.clone();
        self.note(move |record| record.of_mut(&name).inhibited = true)
    }

    /// Allows changes again, once this is written and [`Self::allowed`] was called.
    pub fn allow(&self) -> Note {
        let name = self.name.clone();
        Note {
            ledger: self.ledger.clone(),
            change: Box::new(move |record| record.of_mut(&name).inhibited = false),
            counter: None,
        }
    }

    /// The change of [`Self::allow`] was written.
    pub fn allowed(&mut self) {
        self.record.of_mut(&self.name).inhibited = false;
    }

    /// Opens a file and checks everything that takes no time: who signed it, its header, and whether it fits.
    ///
    /// # Errors
    /// [`UnfitModel`]; nothing was loaded.
    pub fn sight(
        &self,
        path: &Path,
        config: &Config,
        limit: &Limit,
    ) -> Result<Sighted, UnfitModel> {
        let file = Opened::open(path)?;
        let manifest = (!self.keys.is_empty())
            .then(|| Manifest::read(path, &self.keys))
            .transpose()?;
        let gguf = file.gguf()?;
        if let Some(manifest) = &manifest {
            manifest.check(&gguf, self.record.version)?;
            if file.is_exposed()? {
                return Err(UnfitModel::Exposed);
            }
        }
        plan::plan(path, &gguf, 0, config, limit)?;
        let template = match &config.model.template_file {
            Some(given) if *path == self.configured => {
                let named = |error: io::Error| {
                    io::Error::new(error.kind(), format!("{}: {error}", given.display()))
                };
                let given = Opened::open(given).map_err(named)?;
                if manifest.is_some() && given.is_exposed()? {
                    return Err(UnfitModel::Exposed);
                }
                ChatTemplate::given(&given.text(MAX_TEMPLATE)?, &gguf)
            }
            _ => ChatTemplate::from_gguf(&gguf),
        };
        let template = template.map_err(UnfitModel::Template)?;
        Ok(Sighted {
            file,
            gguf,
            manifest,
            template,
        })
    }

    /// Reads the file through unless its hash is known, which takes seconds for gigabytes, and plans for what will be
    /// mapped.
    ///
    /// # Errors
    /// [`UnfitModel`]; nothing was loaded.
    pub fn read(
        &self,
        sighted: Sighted,
        config: &Config,
        limit: &Limit,
    ) -> Result<Candidate, UnfitModel> {
        let Sighted {
            file,
            gguf,
            manifest,
            template,
        } = sighted;
        let sha256 = match self.record.known(&file) {
            Some(sha256) => sha256.to_owned(),
            None => file.sha256()?,
        };
        if let Some(manifest) = &manifest
            && sha256 != manifest.file_sha256
        {
            return Err(Untrusted::Altered("content").into());
        }
        let mut weights = Weights::new(file, sha256);
        if manifest.is_some() {
            // nobody signed a packed file: it counts if it was made here, and if that is not known it is made again
            weights
                .packed
                .take_if(|packed| self.record.known(packed) != Some(&weights.sha256));
        }
        let plan = plan::plan(
            weights.model.path(),
            &gguf,
            weights.requantized_head(),
            config,
            limit,
        )?;
        Ok(Candidate {
            version: manifest.map(|manifest| manifest.version),
            plan,
            sampler: recommended(&gguf),
            template,
            weights,
        })
    }

    /// Does [`Self::sight`] and [`Self::read`].
    ///
    /// # Errors
    /// [`UnfitModel`]; nothing was loaded.
    pub fn check(
        &self,
        path: &Path,
        config: &Config,
        limit: &Limit,
    ) -> Result<Candidate, UnfitModel> {
        self.read(self.sight(path, config, limit)?, config, limit)
    }

    /// Finds the file that a name means: one beside the configured one, with or without its suffix, or one of the
    /// catalogue.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = self.configured.parent()?;
        let catalogue = catalogue::find(name).ok().flatten().map(|entry| entry.file);
        let names = [name.to_owned(), format!("{name}.gguf")];
        let mut paths = names.into_iter().chain(catalogue).map(|n| folder.join(n));
        paths.find(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests;
