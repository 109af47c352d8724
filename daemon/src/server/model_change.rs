//! A change of models. The new model is checked while the old one runs, what was accepted is finished, the engine gives
//! its memory back, the new engine loads, and what came meanwhile is answered by it. If it does not load, the model
//! before takes its place. Nothing accepted is dropped, and no answer mixes two models.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use glowplug_firmware_config::plan::Limit;
use glowplug_model::engine::{ModelInfo, RequestId};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::run_error::lost;
use super::status;
use super::{Daemon, Reports, Shutdown, now};
use crate::config::Config;
use crate::inference::{Lost, Sessions, Worker};
use crate::models::plan::PlanError;
use crate::models::registry::{Candidate, Registry, UnfitModel};
use crate::mqtt::Lane;
use crate::requests::admission::Action;
use crate::wire::admin::{Admin, Asker};
use crate::wire::fault::{Code, Fault};

/// How far the change is.
#[derive(Debug, Default)]
pub(super) enum Change {
    /// No change is under way.
    #[default]
    No,
    /// A file is being checked while the engine runs. Without an asker it is the first model.
    Checking(Option<Asker>),
    /// What was accepted is being finished.
    Finishing(Box<Candidate>, Asker),
    /// The old engine is ending.
    Ending(Box<Candidate>, Asker),
    /// The next engine loads. The model before takes its place if it cannot.
    Loading(Option<(Asker, Box<Candidate>)>),
    /// The model before loads again, for this reason.
    Returning(Asker, String),
}

/// What work beside the loop has found: a thread that reads a whole file, or a task that writes what should be
/// remembered.
#[derive(Debug)]
pub(super) enum Finding {
    /// A file that is fit to be served, or why it is not.
    Checked(Result<Box<Candidate>, UnfitModel>),
    /// Whether what somebody waits for was written.
    Written(Waited, bool),
}

/// What is answered once it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waited {
    /// An `inhibit` with this value of `on`.
    Inhibit(bool),
    /// The choice of a model that answers now.
    Choice,
    /// This request is about to act on the world.
    Acted(RequestId),
    /// This request of the pool is on record.
    Recorded(RequestId),
}

impl Daemon {
    /// The model that answers now, if one does.
    pub(super) fn serves(&self) -> Option<(&ModelInfo, &Candidate)> {
        match self.models.change {
            Change::Loading(_) | Change::Returning(..) => None,
            _ => Some((self.inference.model.as_ref()?, self.models.served.as_ref()?)),
        }
    }

    pub(super) fn ask_for(&mut self, path: PathBuf, asker: Asker) {
        self.models.change = Change::Checking(Some(asker));
        self.check(move |registry, config, limit| registry.check(&path, config, limit));
    }

    /// Checks a file in a thread of its own. Nobody waits for the thread, so the daemon may end before it.
    pub(super) fn check(
        &mut self,
        check: impl FnOnce(&Registry, &Config, &Limit) -> Result<Candidate, UnfitModel> + Send + 'static,
    ) {
        let (registry, config, limit) = (
            self.models.registry.clone(),
            self.config.clone(),
            self.models.limit,
        );
        let spawned = background(&self.models.found, move || {
            let checked = guarded(|| check(&registry, &config, &limit));
            Finding::Checked(checked.map(Box::new))
        });
        if let Err(error) = spawned {
            // there is one check at a time, so there is room
            let _ = self
                .models
                .found
                .try_send(Finding::Checked(Err(error.into())));
        }
    }

    /// Takes a finding. An error means that there is nothing to serve.
    pub(super) fn finding(
        &mut self,
        finding: Finding,
        reports: &mut Reports,
        out: &mut Vec<Action>,
    ) -> Result<(), Lost> {
        let checked = match finding {
            Finding::Checked(checked) => checked,
            Finding::Written(Waited::Inhibit(on), written) => {
                self.inhibited(on, written);
                return Ok(());
            }
            Finding::Written(Waited::Choice, written) => {
                self.chose(written);
                return Ok(());
            }
            Finding::Written(Waited::Acted(number), written) => {
                self.admission.recorded(now(), number, written, out);
                return Ok(());
            }
            Finding::Written(Waited::Recorded(number), _) => {
                self.recorded(number);
                return Ok(());
            }
        };
        match (std::mem::take(&mut self.models.change), checked) {
            (Change::Checking(None), Ok(candidate)) => {
                self.models.served = Some(*candidate);
                return self.load_engine(reports);
            }
            (Change::Checking(None), Err(error)) => return Err(lost(&error)),
            (Change::Checking(Some(asker)), checked) => {
                let fit = checked.map_err(|error| {
                    tracing::warn!("the requested model is refused: {error}");
                    refused(error)
                });
                match fit.and_then(|fit| self.may_change().map(|()| fit)) {
                    Ok(candidate) => {
                        if let Some(waits) = self.models.waiting.drain.take() {
                            let why = "a change of the model took its place";
                            self.refuse(&waits, &Fault::new(Code::Superseded, why));
                        }
                        // a daemon that was drained serves again
                        self.admission.resume();
                        self.admission.hold();
                        self.intake.sampler(candidate.sampler.clone());
                        self.models.change = Change::Finishing(candidate, asker);
                    }
                    Err(fault) => {
                        self.refuse(&asker, &fault);
                    }
                }
            }
            (other, _) => self.models.change = other,
        }
        Ok(())
    }

    /// Does what need not wait for an event: answers a drain, and ends the engine once it is idle.
    pub(super) fn advance(&mut self) {
        if self.is_drained()
            && let Some(asker) = self.models.waiting.drain.take()
        {
            self.reply(
                &asker.to,
                asker.done(&json!({"state": "draining"})),
                Lane::Admin,
            );
        }
        self.models.change = match std::mem::take(&mut self.models.change) {
            Change::Finishing(next, asker) if self.admission.engine_is_idle() => {
                // the thread is kept until it has ended: it saves the sessions, and a shutdown has to wait for that
                if let Some(worker) = &mut self.inference.worker {
                    worker.leave();
                }
                tracing::info!("the model changes: the engine ends");
                self.systemd.loading();
                Change::Ending(next, asker)
            }
            other => other,
        };
    }

    /// The engine is gone. An error means that it should not be.
    pub(super) fn engine_ended(
        &mut self,
        ended: Result<(), Lost>,
        reports: &mut Reports,
    ) -> Result<(), Lost> {
        match (std::mem::take(&mut self.models.change), ended) {
            // it was meant to end; if it broke on its way out, it is gone as well
            (change @ Change::Ending(..), _) if self.run.ending != Shutdown::No => {
                // a daemon that stops loads no model
                (self.inference.worker, *reports, self.models.change) = (None, None, change);
                Ok(())
            }
            (Change::Ending(next, asker), _) => {
                let before = self.models.served.replace(*next).map(Box::new);
                self.load_engine(reports)?;
                self.models.change = Change::Loading(before.map(|before| (asker, before)));
                Ok(())
            }
            (Change::Loading(Some((asker, before))), Err(Lost { why, .. })) => {
                tracing::error!("the requested model does not load: {why}");
                self.models.served = Some(*before);
                self.load_engine(reports)?;
                self.models.change = Change::Returning(asker, why);
                Ok(())
            }
            (_, Err(lost)) => Err(lost),
            (_, Ok(())) => Err("the inference thread ended".to_owned().into()),
        }
    }

    /// Starts the inference thread with what is to be served.
    pub(super) fn load_engine(&mut self, reports: &mut Reports) -> Result<(), Lost> {
        let Some(of) = &self.models.served else {
            return Err("there is no model".to_owned().into());
        };
        let (worker, news) = Worker::start(
            of.weights.clone(),
            of.plan.clone(),
            of.template.clone(),
            self.config.engine.clone(),
            Sessions {
                config: self.config.sessions.clone(),
                keys: self.inference.keys.clone(),
            },
            std::mem::take(&mut self.inference.conversations),
            self.inference.machine.clone(),
        )
        .map_err(|error| format!("cannot start the inference thread: {error}"))?;
        (self.inference.worker, *reports) = (Some(worker), Some(news));
        self.models.change = Change::Loading(None);
        Ok(())
    }

    /// The model has passed its self-test: it is served from now on.
    pub(super) fn loaded(&mut self, info: ModelInfo, out: &mut Vec<Action>) {
        tracing::info!(
            model = info.name,
            quantisation = info.quantisation,
            context = info.context,
            isa = info.isa,
            "the model is loaded"
        );
        let change = std::mem::take(&mut self.models.change);
        let sha256 = (self.models.served.as_ref()).map(|of| of.weights.sha256.clone());
        self.intake.sampler(info.sampler.clone());
        self.admission.online(info.name.clone(), sha256, out);
        self.systemd.ready(now(), &info.name);
        self.inference.model = Some(info);
        if let Some(of) = &self.models.served {
            let chosen =
                matches!(&change, Change::Loading(Some((asker, _))) if asker.verb == "model");
            self.models.fallback &= !chosen;
            let note = self
                .models
                .registry
                .answered(&of.weights, of.version, chosen);
            self.write(move || note.write(), chosen.then_some(Waited::Choice));
        }
        self.run.since = status::unix_ms();
        self.publish_status();
        self.publish_info();
        match change {
            Change::Loading(Some((asker, _))) if asker.verb == "model" => {
                self.models.waiting.choice = Some(asker);
            }
            Change::Loading(Some((asker, _))) => self.admin(Admin::Model(None), asker),
            Change::Returning(asker, why) => {
                let why = format!("the model does not load, so the one before is served: {why}");
                self.refuse(&asker, &Fault::new(Code::Internal, why));
            }
            _ => {}
        }
    }

    /// Writes what should be remembered, beside the loop and one note after the other.
    pub(super) fn write(
        &mut self,
        note: impl FnOnce() -> io::Result<()> + Send + 'static,
        waited: Option<Waited>,
    ) {
        let (before, found) = (self.models.writes.take(), self.models.found.clone());
        self.models.writes = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // if it panicked, there is nothing to learn from it
                let _ = before.await;
            }
            let written = beside(note).await.flatten();
            if let Err(error) = &written {
                tracing::error!(
                    "cannot write to the state folder: {error}; this will not be remembered"
                );
            }
            if let Some(waited) = waited {
                // nobody may be listening any more
                let _ = found.send(Finding::Written(waited, written.is_ok())).await;
            }
        }));
    }

    /// Takes nothing more. What was accepted goes on.
    pub(super) fn drain(&mut self) {
        self.admission.drain();
        self.run.since = status::unix_ms();
        self.publish_status();
    }

    /// The daemon stops: tells everybody who waits for a change, a drain or an `inhibit`.
    pub(super) fn give_up_change(&mut self) {
        let asker = match std::mem::take(&mut self.models.change) {
            Change::Checking(asker) => asker,
            Change::Finishing(_, asker)
            | Change::Ending(_, asker)
            | Change::Loading(Some((asker, _)))
            | Change::Returning(asker, _) => Some(asker),
            Change::No | Change::Loading(None) => None,
        };
        let waiting = [
            asker,
            self.models.waiting.drain.take(),
            self.models.waiting.inhibit.take(),
            self.models.waiting.choice.take(),
        ];
        for asker in waiting.into_iter().flatten() {
            self.refuse(&asker, &Fault::new(Code::Draining, "the daemon stops"));
        }
    }
}

/// Why a model that somebody asked for is not served.
fn refused(unfit: UnfitModel) -> Fault {
    match unfit {
        UnfitModel::Plan(PlanError::DoesNotFit(error)) => {
            Fault::new(Code::MemoryBudget, error.to_string())
        }
        // the log says why; the client is not told, because the reason may name a file
        UnfitModel::Io(_) => Fault::new(Code::Internal, "the model cannot be read"),
        unfit => Fault::invalid("name", unfit.to_string()),
    }
}

/// Turns a panic while a file is checked into an error of that file, so that the asker is answered and can ask for
/// another one.
fn guarded<T>(check: impl FnOnce() -> Result<T, UnfitModel>) -> Result<T, UnfitModel> {
    catch_unwind(AssertUnwindSafe(check))
        .unwrap_or_else(|_| Err(io::Error::other("checking the file panicked").into()))
}

fn background(
    found: &mpsc::Sender<Finding>,
    work: impl FnOnce() -> Finding + Send + 'static,
) -> io::Result<()> {
    let found = found.clone();
    files(move || {
        // nobody may be listening any more
        let _ = found.blocking_send(work());
    })
}

/// Does work on a thread of its own and waits for it. The error is that of a thread which the system refuses, where
/// `spawn_blocking` would panic, or says that the work did.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, end) = oneshot::channel();
    files(move || {
        // nobody may be listening any more
        let _ = done.send(work());
    })?;
    end.await
        .map_err(|_| io::Error::other("the thread that does it panicked"))
}

fn files(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name("files".to_owned())
        .spawn(work)
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

    #[tokio::test]
    async fn a_panic_of_work_beside_the_loop_is_an_error() {
        assert!(matches!(beside(|| 1).await, Ok(1)));
        let done = beside(|| -> u8 { panic!("a bug") }).await;
        assert!(matches!(done, Err(error) if error.to_string().contains("panicked")));
    }
}
