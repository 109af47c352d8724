//! The admin verbs that concern the whole daemon: some are answered at once, others begin something.

use std::path::PathBuf;

use serde_json::json;

use super::model_change::{Change, Waited};
use super::{Daemon, Shutdown, status};
use crate::mqtt::Lane;
use crate::requests::admission::Phase;
use crate::wire::admin::{Admin, Asker};
use crate::wire::fault::{Code, Fault};

/// When a change that was refused for another one may be asked for again.
const RETRY_MS: u64 = 1000;

impl Daemon {
    /// Does or begins an admin verb that concerns the whole daemon.
    pub(super) fn admin(&mut self, asked: Admin, asker: Asker) {
        if self.link.room(Lane::Admin) <= self.unanswered() {
            // a verb whose answer has no room is not done
            return self.admission.count_refused("reply_dropped");
        }
        let done = match asked {
            Admin::Stats => Ok(self.reading().stats()),
            Admin::Model(None) => match self.serves() {
                Some((model, of)) => Ok(status::model(model, of, self.models.fallback)),
                None => Err(loading()),
            },
            Admin::Inhibit(Some(on)) => return self.inhibit(on, asker),
            Admin::Inhibit(None) => Ok(json!({"on": self.models.registry.inhibited()})),
            Admin::Drain => match self.may_drain() {
                Ok(()) => {
                    self.models.waiting.drain = Some(asker);
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
            // admission handles this one
            Admin::Forget(_) => return,
        };
        match done {
            Ok(result) => self.reply(&asker.to, asker.done(&result), Lane::Admin),
            Err(fault) => self.refuse(&asker, &fault),
        }
    }

    /// Answers that are still owed: of a change of the model, and of a drain.
    fn unanswered(&self) -> usize {
        let change = match &self.models.change {
            Change::No | Change::Checking(None) | Change::Loading(None) => 0,
            _ => 1,
        };
        change + usize::from(self.models.waiting.drain.is_some())
    }

    pub(super) fn refuse(&mut self, asker: &Asker, fault: &Fault) {
        self.admission.count_refused(fault.code.name());
        self.reply(&asker.to, asker.refused(fault), Lane::Admin);
    }

    fn find(&self, name: &str) -> Result<PathBuf, Fault> {
        let missing = || Fault {
            param: Some("name".to_owned()),
            ..Fault::new(Code::NotFound, "no model of this name is here")
        };
        self.models.registry.find(name).ok_or_else(missing)
    }

    fn served_path(&self) -> Result<PathBuf, Fault> {
        let served = self.models.served.as_ref().ok_or_else(loading)?;
        Ok(served.weights.model.path().to_owned())
    }

    fn may_drain(&self) -> Result<(), Fault> {
        match self.admission.phase() {
            Phase::Starting => Err(loading()),
            Phase::Draining
                if self.models.waiting.drain.is_some() || self.run.ending != Shutdown::No =>
            {
                Err(Fault::new(Code::Draining, "the daemon drains already"))
            }
            Phase::Draining | Phase::Online => Ok(()),
        }
    }

    pub(super) fn may_change(&self) -> Result<(), Fault> {
        if self.run.ending != Shutdown::No {
            return Err(Fault::new(Code::Draining, "the daemon stops"));
        }
        if self.models.registry.inhibited() {
            let why =
                "changes of the model are inhibited until `inhibit` is asked for with `on` false";
            return Err(Fault::new(Code::Overloaded, why));
        }
        match (&self.models.change, &self.inference.model) {
            (Change::No, Some(_)) if self.models.waiting.choice.is_none() => Ok(()),
            (_, None) => Err(loading()),
            _ => Err(
                Fault::new(Code::Overloaded, "another change of the model is under way")
                    .retry_after(RETRY_MS),
            ),
        }
    }

    /// Inhibits or allows changes of the model. Changes are refused from now on; they are allowed again, and either
    /// holds over restarts, once it is written.
    fn inhibit(&mut self, on: bool, asker: Asker) {
        if self.models.waiting.inhibit.is_some() {
            let why = "another `inhibit` is being written";
            return self.refuse(
                &asker,
                &Fault::new(Code::Overloaded, why).retry_after(RETRY_MS),
            );
        }
        self.models.waiting.inhibit = Some(asker);
        let note = if on {
            self.models.registry.inhibit()
        } else {
            self.models.registry.allow()
        };
        self.write(move || note.write(), Some(Waited::Inhibit(on)));
    }

    /// Answers whoever chose the model, once it is known whether the choice holds over restarts.
    pub(super) fn chose(&mut self, written: bool) {
        match self.models.waiting.choice.take() {
            Some(asker) if written => self.admin(Admin::Model(None), asker),
            Some(asker) => {
                let why = "the model is served, but only until the daemon ends: the state folder cannot be written";
                self.refuse(&asker, &Fault::new(Code::Internal, why));
            }
            None => {}
        }
    }

    pub(super) fn inhibited(&mut self, on: bool, written: bool) {
        if written && !on {
            self.models.registry.allowed();
        }
        let Some(asker) = self.models.waiting.inhibit.take() else {
            return;
        };
        if written {
            let on = self.models.registry.inhibited();
            return self.reply(&asker.to, asker.done(&json!({"on": on})), Lane::Admin);
        }
        let why = if on {
            "changes are inhibited, but only until the daemon ends: the state folder cannot be written"
        } else {
            "changes stay inhibited: the state folder cannot be written"
        };
        self.refuse(&asker, &Fault::new(Code::Internal, why));
    }
}

fn loading() -> Fault {
    Fault::new(Code::ModelLoading, "the model is being loaded")
}
