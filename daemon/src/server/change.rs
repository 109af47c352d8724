//! A change of models: the new one is checked beside what runs, what was accepted is finished, the engine gives its memory
//! back, the new one loads, and what came meanwhile is its. One that does not load is followed by the one before. Nothing
//! accepted is dropped, and no answer is of two models.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use glowplug_model::engine::ModelInfo;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Daemon, Drain, Reports, now};
use crate::admission::{Action, Phase};
use crate::counter;
use crate::files;
use crate::status;
use crate::supply::{Candidate, Unfit};
use crate::transport::Lane;
use crate::wire::admin::{Admin, Asker};
use crate::wire::fault::{Code, Fault};
use crate::worker::Worker;

/// How far it is.
#[derive(Debug, Default)]
pub(super) enum Change {
    /// none is under way
    #[default]
    No,
    /// a file is being checked, beside the engine that runs; nobody asked: the first one
    Checking(Option<Asker>),
    /// what was accepted is finished
    Finishing(Box<Candidate>, Asker),
    /// the engine ends
    Ending(Box<Candidate>, Asker),
    /// the next engine loads; the model before takes its place if it cannot
    Loading(Option<(Asker, Box<Candidate>)>),
    /// the model before loads again, and why
    Returning(Asker, String),
}

/// From a thread that reads a whole file.
#[derive(Debug)]
pub(super) enum Finding {
    /// a candidate, or why it is none
    Checked(Result<Box<Candidate>, Unfit>),
    /// of this file, which is served
    Hash(PathBuf, String),
}

impl Daemon {
    /// An admin verb that concerns the whole daemon.
    pub(super) fn admin(&mut self, asked: Admin, asker: Asker) {
        if self.link.room(Lane::Admin) <= self.unanswered() {
            // what cannot be answered is not done
            return self.admission.count_refused("reply_dropped");
        }
        let done = match asked {
            Admin::Stats => Ok(self.reading().stats()),
            Admin::Model(None) => match self.serves() {
                Some((model, of)) => Ok(status::model(model, &of.file, self.fallback)),
                None => Err(loading()),
            },
            Admin::Inhibit(on) => {
                if let Some(on) = on {
                    self.supply.inhibit(on);
                }
                Ok(json!({"on": self.supply.inhibited()}))
            }
            Admin::Drain => match self.may_drain() {
                Ok(()) => {
                    self.drained = Some(asker);
                    return self.drain();
                }
                Err(fault) => Err(fault),
            },
            Admin::Model(Some(name)) => match self.may_change().and_then(|()| self.find(&name)) {
                Ok(path) => return self.ask_for(path, asker),
                Err(fault) => Err(fault),
            },
            Admin::Reload => match self.may_change().and_then(|()| self.served_path()) {
                Ok(path) => return self.ask_for(path, asker),
                Err(fault) => Err(fault),
            },
            // the engine's
            Admin::Forget(_) => return,
        };
        match done {
            Ok(result) => self.reply(&asker.to, asker.done(&result), Lane::Admin),
            Err(fault) => self.refuse(&asker, &fault),
        }
    }

    /// Answers that are still to come: of a change of the model, and of a drain.
    fn unanswered(&self) -> usize {
        let change = match &self.change {
            Change::No | Change::Checking(None) | Change::Loading(None) => 0,
            _ => 1,
        };
        change + usize::from(self.drained.is_some())
    }

    /// The model that answers now.
    pub(super) fn serves(&self) -> Option<(&ModelInfo, &Candidate)> {
        match self.change {
            Change::Loading(_) | Change::Returning(..) => None,
            _ => Some((self.model.as_ref()?, self.served.as_ref()?)),
        }
    }

    fn refuse(&mut self, asker: &Asker, fault: &Fault) {
        self.admission.count_refused(fault.code.name());
        self.reply(&asker.to, asker.refused(fault), Lane::Admin);
    }

    fn find(&self, name: &str) -> Result<PathBuf, Fault> {
        let missing = || Fault {
            param: Some("name".to_owned()),
            ..Fault::new(Code::NotFound, "no model of this name is here")
        };
        self.supply.find(name).ok_or_else(missing)
    }

    fn served_path(&self) -> Result<PathBuf, Fault> {
        let served = self.served.as_ref().ok_or_else(loading)?;
        Ok(served.file.path.clone())
    }

    fn may_drain(&self) -> Result<(), Fault> {
        match self.admission.phase() {
            Phase::Starting => Err(loading()),
            Phase::Draining if self.drained.is_some() || self.ending != Drain::No => {
                Err(Fault::new(Code::Draining, "the daemon drains already"))
            }
            Phase::Draining | Phase::Online => Ok(()),
        }
    }

    fn may_change(&self) -> Result<(), Fault> {
        if self.ending != Drain::No {
            return Err(Fault::new(Code::Draining, "the daemon stops"));
        }
        if self.supply.inhibited() {
            let why =
                "changes of the model are inhibited until `inhibit` is asked for with `on` false";
            return Err(Fault::new(Code::Overloaded, why));
        }
        match (&self.change, &self.model) {
            (Change::No, Some(_)) => Ok(()),
            (_, None) => Err(loading()),
            _ => Err(
                Fault::new(Code::Overloaded, "another change of the model is under way")
                    .retry_after(RETRY_MS),
            ),
        }
    }

    fn ask_for(&mut self, path: PathBuf, asker: Asker) {
        self.change = Change::Checking(Some(asker));
        self.check(path);
    }

    /// In a thread of its own, which nobody waits for: the daemon may end before it.
    pub(super) fn check(&mut self, path: PathBuf) {
        let (supply, config, limit) = (self.supply.clone(), self.config.clone(), self.limit);
        let spawned = background(&self.found, move || {
            let checked = guarded(|| supply.check(&path, &config, &limit, true));
            Some(Finding::Checked(checked.map(Box::new)))
        });
        if let Err(error) = spawned {
            // one check at a time: there is room
            let _ = self.found.try_send(Finding::Checked(Err(error.into())));
        }
    }

    /// A thread has found something. An error: there is nothing to serve.
    pub(super) fn finding(
        &mut self,
        finding: Finding,
        reports: &mut Reports,
    ) -> Result<(), String> {
        let checked = match finding {
            Finding::Checked(checked) => checked,
            Finding::Hash(path, sha256) => {
                self.hashed(&path, sha256);
                return Ok(());
            }
        };
        match (std::mem::take(&mut self.change), checked) {
            (Change::Checking(None), Ok(candidate)) => {
                self.served = Some(*candidate);
                return self.load_engine(reports);
            }
            (Change::Checking(None), Err(error)) => return Err(error.to_string()),
            (Change::Checking(Some(asker)), checked) => {
                let fit = checked.map_err(|error| {
                    tracing::warn!("the model that was asked for is refused: {error}");
                    error.into()
                });
                match fit.and_then(|fit| self.may_change().map(|()| fit)) {
                    Ok(candidate) => {
                        if let Some(waits) = self.drained.take() {
                            let why = "a change of the model took its place";
                            self.refuse(&waits, &Fault::new(Code::Superseded, why));
                        }
                        // what was drained serves again
                        self.admission.resume();
                        self.admission.hold();
                        self.intake.sampler(candidate.sampler.clone());
                        self.change = Change::Finishing(candidate, asker);
                    }
                    Err(fault) => {
                        self.refuse(&asker, &fault);
                    }
                }
            }
            (other, _) => self.change = other,
        }
        Ok(())
    }

    /// What need not wait for news.
    pub(super) fn advance(&mut self) {
        if self.admission.outstanding() == 0
            && let Some(asker) = self.drained.take()
        {
            self.reply(
                &asker.to,
                asker.done(&json!({"state": "draining"})),
                Lane::Admin,
            );
        }
        self.change = match std::mem::take(&mut self.change) {
            Change::Finishing(next, asker) if self.admission.engine_is_idle() => {
                // it is kept until it has ended: it saves the sessions, which a shutdown has to wait for
                if let Some(worker) = &mut self.worker {
                    worker.leave();
                }
                tracing::info!("the model changes: the engine ends");
                self.line.loading();
                Change::Ending(next, asker)
            }
            other => other,
        };
    }

    /// The engine is gone. An error: and it should not be.
    pub(super) fn engine_ended(
        &mut self,
        ended: Result<(), String>,
        reports: &mut Reports,
    ) -> Result<(), String> {
        match (std::mem::take(&mut self.change), ended) {
            // as it was meant to; one that broke on its way out is gone as well
            (change @ Change::Ending(..), _) if self.ending != Drain::No => {
                // no model is loaded for a daemon that stops
                (self.worker, *reports, self.change) = (None, None, change);
                Ok(())
            }
            (Change::Ending(next, asker), _) => {
                let before = self.served.replace(*next).map(Box::new);
                self.load_engine(reports)?;
                self.change = Change::Loading(before.map(|before| (asker, before)));
                Ok(())
            }
            (Change::Loading(Some((asker, before))), Err(why)) => {
                tracing::error!("the model that was asked for does not load: {why}");
                self.served = Some(*before);
                self.load_engine(reports)?;
                self.change = Change::Returning(asker, why);
                Ok(())
            }
            (_, Err(why)) => Err(why),
            (_, Ok(())) => Err("the inference thread ended".to_owned()),
        }
    }

    /// Starts the inference thread with what is to be served.
    pub(super) fn load_engine(&mut self, reports: &mut Reports) -> Result<(), String> {
        let Some(of) = &self.served else {
            return Err("there is no model".to_owned());
        };
        let (worker, news) = Worker::start(
            of.file.path.clone(),
            of.plan.clone(),
            of.template.clone(),
            self.config.engine.clone(),
            self.config.sessions.clone(),
            std::mem::take(&mut self.conversations),
            self.machine.clone(),
        )
        .map_err(|error| format!("cannot start the inference thread: {error}"))?;
        (self.worker, *reports) = (Some(worker), Some(news));
        self.change = Change::Loading(None);
        Ok(())
    }

    /// The model has answered.
    pub(super) fn loaded(&mut self, info: ModelInfo, out: &mut Vec<Action>) {
        tracing::info!(
            model = info.name,
            quantisation = info.quantisation,
            context = info.context,
            isa = info.isa,
            "the model is loaded"
        );
        let change = std::mem::take(&mut self.change);
        let sha256 = self.served.as_ref().and_then(|of| of.file.sha256.clone());
        self.intake.sampler(info.sampler.clone());
        self.admission
            .online(info.name.clone(), sha256.clone(), out);
        self.line.ready(now(), &info.name);
        self.model = Some(info);
        if let Some(of) = self.served.as_ref().map(|of| of.file.clone()) {
            let chosen =
                matches!(&change, Change::Loading(Some((asker, _))) if asker.verb == "model");
            self.fallback &= !chosen;
            self.count_image();
            self.supply.answered(&of, chosen);
            if sha256.is_none() {
                let spawned = background(&self.found, move || {
                    let sum = files::sha256(&of.path)
                        .inspect_err(|error| tracing::warn!("cannot hash the model: {error}"));
                    sum.ok().map(|sum| Finding::Hash(of.path, sum))
                });
                if let Err(error) = spawned {
                    tracing::warn!("the model's hash stays unknown: {error}");
                }
            }
        }
        self.since = status::unix_ms();
        self.publish_status();
        self.publish_info();
        match change {
            Change::Loading(Some((asker, _))) => self.admin(Admin::Model(None), asker),
            Change::Returning(asker, why) => {
                let why = format!("the model does not load, the one before is served: {why}");
                self.refuse(&asker, &Fault::new(Code::Internal, why));
            }
            _ => {}
        }
    }

    /// The configuration's image has proved itself: from now on an older one is refused.
    fn count_image(&mut self) {
        let Some(counter) = self.config.counter.take() else {
            return;
        };
        let folder = self.config.state_dir.clone();
        let spawned = background(&self.found, move || {
            if let Err(error) = counter::served(&folder, counter) {
                tracing::error!("older images of the configuration stay possible: {error}");
            }
            None
        });
        if let Err(error) = spawned {
            tracing::error!("older images of the configuration stay possible: {error}");
        }
    }

    fn hashed(&mut self, path: &Path, sha256: String) {
        if let Some(of) = self.served.as_mut().filter(|of| of.file.path == *path) {
            of.file.sha256 = Some(sha256.clone());
            self.supply.hashed(&of.file, &sha256);
            self.admission.hashed(sha256);
            self.publish_info();
        }
    }

    /// Takes nothing more; what was accepted goes on.
    pub(super) fn drain(&mut self) {
        self.admission.drain();
        self.since = status::unix_ms();
        self.publish_status();
    }

    /// The daemon stops: who waits for a change or a drain is told.
    pub(super) fn give_up_change(&mut self) {
        let asker = match std::mem::take(&mut self.change) {
            Change::Checking(asker) => asker,
            Change::Finishing(_, asker)
            | Change::Ending(_, asker)
            | Change::Loading(Some((asker, _)))
            | Change::Returning(asker, _) => Some(asker),
            Change::No | Change::Loading(None) => None,
        };
        for asker in [asker, self.drained.take()].into_iter().flatten() {
            self.refuse(&asker, &Fault::new(Code::Draining, "the daemon stops"));
        }
    }
}

fn loading() -> Fault {
    Fault::new(Code::ModelLoading, "the model is being loaded")
}

/// When a change that was refused for another one may be asked for again.
const RETRY_MS: u64 = 1000;

/// A panic while a file is checked is said of the file: who asked is answered, and can ask for another.
fn guarded<T>(check: impl FnOnce() -> Result<T, Unfit>) -> Result<T, Unfit> {
    catch_unwind(AssertUnwindSafe(check))
        .unwrap_or_else(|_| Err(io::Error::other("checking the file panicked").into()))
}

fn background(
    found: &mpsc::Sender<Finding>,
    work: impl FnOnce() -> Option<Finding> + Send + 'static,
) -> io::Result<()> {
    let found = found.clone();
    std::thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || {
            if let Some(finding) = work() {
                // nobody may be listening any more
                let _ = found.blocking_send(finding);
            }
        })
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_check_is_said_of_the_file() {
        let checked = guarded::<()>(|| panic!("a bug"));
        assert!(matches!(checked, Err(error) if error.to_string().contains("panicked")));
        assert!(matches!(guarded(|| Ok(1)), Ok(1)));
    }
}
