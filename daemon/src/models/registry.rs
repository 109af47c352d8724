//! Which model is served: what a file must be to be one, and what is remembered of models over restarts.
//!
//! A model that was asked for is a [`Candidate`] once it was found, checked and planned for, all before anything of the
//! one that runs is given up. In the state folder is remembered which model answered last, how often one has failed to,
//! and the greatest version that was ever served.

use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use glowplug_firmware_config::plan::{DoesNotFit, Limit, LimitSource};
use glowplug_model::engine::recommended;
use glowplug_model::gguf::{GgufError, MAX_TEMPLATE};
use glowplug_model::text::{ChatTemplate, SamplerParams, TextError};

use super::catalogue;
use super::manifest::{Manifest, Untrusted};
use super::opened::Opened;
use super::packed::Weights;
use super::plan::{self, Plan, PlanError};
use super::record::{Choice, Ledger, Record};
use crate::config::Config;
use crate::config::counter;

/// Starts without an answer, after which a model that answered before, or the configured one, takes the place.
pub const STARTS_MAX: u32 = 3;

/// Found, checked and planned for.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// what is mapped, and what it was when it was checked
    pub weights: Weights,
    /// of its manifest; none: nobody has to sign
    pub version: Option<u64>,
    /// what it is loaded with
    pub plan: Plan,
    /// its own sampling values
    pub sampler: SamplerParams,
    /// what prompts are written with
    pub template: ChatTemplate,
}

/// A file whose header was checked, and that has room; its weights were not read.
#[derive(Debug)]
pub struct Sighted {
    file: Opened,
    manifest: Option<Manifest>,
    template: ChatTemplate,
}

/// Why a file is no candidate.
#[derive(Debug, thiserror::Error)]
pub enum UnfitModel {
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
    /// it must be signed, and what was checked could be changed afterwards
    #[error(
        "others than this user may write the file: who signed it would say nothing (`chmod go-w`, or give it to this user)"
    )]
    Exposed,
    /// it cannot be read
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UnfitModel {
    /// Does it stay so until somebody changes a file or the configuration? All else may pass: a mount that is not there yet, a
    /// copy that is under way, memory that somebody else holds for a moment, an error of the disk.
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

/// See [`UnfitModel::stays`].
pub(crate) fn stays(error: &GgufError) -> bool {
    !matches!(error, GgufError::Io(_) | GgufError::Truncated { .. })
}

/// A change of what is remembered, to be written beside the select loop.
#[must_use = "it is not written yet"]
pub struct Note {
    ledger: Ledger,
    change: Box<dyn FnOnce(&mut Record) + Send>,
    /// of the configuration's image, and where that is remembered
    counter: Option<(PathBuf, u64)>,
}

impl Note {
    /// Writes it.
    ///
    /// # Errors
    /// It will not be remembered, or only in part.
    pub fn write(self) -> io::Result<()> {
        let changed = self.ledger.change(self.change);
        // one does not wait for the other
        match self.counter {
            Some((folder, counter)) => counter::served(&folder, counter).and(changed),
            None => changed,
        }
    }
}

/// The memory over restarts, and what is checked against it.
#[derive(Debug, Clone)]
pub struct Registry {
    /// of this daemon, among those of one user
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
    /// Reads the state folder. What cannot be read is begun anew, except where versions count.
    ///
    /// # Errors
    /// There are keys, and it is not known which versions were served; `InvalidData`: that stays so.
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

    /// The model to start with: the one chosen over MQTT, else the configured one. One that has failed so often gives way to
    /// the last that answered, then to the configured one, then it has its turns again. True: it gave way.
    pub fn first(&mut self) -> (PathBuf, bool) {
        if !self.remembered {
            return (self.configured.clone(), false);
        }
        let mut choice = self.choice();
        if choice.configured != self.configured {
            (choice.configured, choice.chosen) = (self.configured.clone(), None);
        }
        let wanted = choice.chosen.as_ref().unwrap_or(&self.configured).clone();
        let ways = self.ways_back(&choice, &wanted);
        let starts = match &choice.trial {
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
        choice.trial = Some((wanted, starts));
        self.written(choice);
        (path, fallback)
    }

    /// Is there another model that a later start may serve?
    #[must_use]
    pub fn has_way_back(&self) -> bool {
        let choice = self.choice();
        let wanted = choice.trial.as_ref().map(|(wanted, _)| wanted);
        self.remembered && wanted.is_some_and(|wanted| !self.ways_back(&choice, wanted).is_empty())
    }

    /// The last that answered, and the configured one, unless it is the one that is wanted.
    fn ways_back(&self, choice: &Choice, wanted: &Path) -> Vec<PathBuf> {
        let mut ways: Vec<PathBuf> = choice.good.iter().cloned().collect();
        ways.push(self.configured.clone());
        ways.dedup();
        ways.retain(|path| path != wanted && path.is_file());
        ways
    }

    fn choice(&self) -> Choice {
        self.record.of(&self.name)
    }

    /// At once: the daemon is on its way up, or down.
    fn written(&mut self, choice: Choice) {
        let name = self.name.clone();
        let note = self.note(move |record| {
            let now = record.of_mut(&name);
            // said by another daemon's operator, or by ours, and not by this start
            let inhibited = now.inhibited;
            *now = Choice {
                inhibited,
                ..choice.clone()
            };
        });
        if let Err(error) = note.write() {
            tracing::warn!("it will not be remembered how this start went: {error}");
        }
    }

    /// Changes what is remembered here, and gives what is to be written.
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
        let mut choice = self.choice();
        if let (true, Some((_, starts))) = (self.remembered, &mut choice.trial) {
            *starts = starts.saturating_sub(1);
            self.written(choice);
        }
    }

    /// A model has answered; `version`: of its manifest; `chosen`: as somebody asked over MQTT.
    pub fn answered(&mut self, weights: &Weights, version: Option<u64>, chosen: bool) -> Note {
        let (name, remembered) = (self.name.clone(), self.remembered);
        let weights = weights.clone();
        let counter = self.counter.take();
        let mut note = self.note(move |record| {
            let path = weights.model.path().to_owned();
            if remembered {
                let choice = record.of_mut(&name);
                choice
                    .trial
                    .take_if(|(wanted, _)| chosen || *wanted == path);
                if let Some((_, starts)) = &mut choice.trial {
                    // it gave way to this one: so it does at the next start
                    *starts = STARTS_MAX;
                }
                if chosen {
                    choice.chosen = Some(path.clone());
                }
                choice.good = Some(path);
            }
            record.version = record.version.max(version.unwrap_or(0));
            record.know(&weights.model, &weights.sha256);
            // where models are signed: written here, or known to be, of one that is
            if let (Some(_), Some(packed)) = (version, &weights.packed) {
                record.know(packed, &weights.sha256);
            }
        });
        note.counter = counter.map(|counter| (self.state_dir.clone(), counter));
        note
    }

    /// Are changes refused?
    #[must_use]
    pub fn inhibited(&self) -> bool {
        self.choice().inhibited
    }

    /// Changes are refused from now on. Written, over restarts too.
    pub fn inhibit(&mut self) -> Note {
        let name = self.name.clone();
        self.note(move |record| record.of_mut(&name).inhibited = true)
    }

    /// They are not any more, when this is written and [`Self::allowed`] is told.
    pub fn allow(&self) -> Note {
        let name = self.name.clone();
        Note {
            ledger: self.ledger.clone(),
            change: Box::new(move |record| record.of_mut(&name).inhibited = false),
            counter: None,
        }
    }

    /// [`Self::allow`] was written.
    pub fn allowed(&mut self) {
        self.record.of_mut(&self.name).inhibited = false;
    }

    /// Opens a file and checks all that takes no time: who signed it, its header, and whether it fits.
    ///
    /// # Errors
    /// [`UnfitModel`]; nothing is loaded.
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
            manifest,
            template,
        })
    }

    /// Reads the file through unless its hash is known, which takes seconds for gigabytes, and plans with what will be mapped.
    ///
    /// # Errors
    /// [`UnfitModel`]; nothing is loaded.
    pub fn read(
        &self,
        sighted: Sighted,
        config: &Config,
        limit: &Limit,
    ) -> Result<Candidate, UnfitModel> {
        let Sighted {
            file,
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
        let gguf = file.gguf()?;
        let mut weights = Weights::new(file, sha256);
        if manifest.is_some() {
            // nobody signed what is packed: it counts if it was made here, and is made again if that is not known
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

    /// [`Self::sight`] and [`Self::read`].
    ///
    /// # Errors
    /// [`UnfitModel`]; nothing is loaded.
    pub fn check(
        &self,
        path: &Path,
        config: &Config,
        limit: &Limit,
    ) -> Result<Candidate, UnfitModel> {
        self.read(self.sight(path, config, limit)?, config, limit)
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

#[cfg(test)]
mod tests;
