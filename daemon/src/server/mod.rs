//! The daemon's select loop. It carries events to the state machines and their actions to the world, and decides
//! nothing about requests itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use glowplug_firmware_config::plan::Limit;
use glowplug_model::engine::{Conversations, Finish, ModelInfo};
use glowplug_model::seal::KeyFile;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::config::Config;
use crate::inference::messages::{Command, Load, Report};
use crate::inference::{Computes, Lost, Machine, Worker};
use crate::machine::systemd::Notify;
use crate::models::registry::{Candidate, Registry, Sighted};
use crate::mqtt::broker::Embedded;
use crate::mqtt::{Ack, Event, Events, Lane, Link};
use crate::requests::admission::{Action, Admission};
use crate::requests::intake::{Context, Intake};
use crate::wire::admin::Asker;
use crate::wire::homeassistant::STATUS;
use crate::wire::topics::Topics;
use homeassistant::Discovery;
use model_change::{Change, Finding};
use pool::Pool;
use post::Post;
pub use run_error::RunError;
use run_error::unserved;
use stall::Stall;
pub use startup::{Started, run};
use status::{Reading, Speed};
use tools::OwnTools;

mod admin;
mod homeassistant;
mod model_change;
mod pool;
mod post;
mod run_error;
mod stall;
mod startup;
mod status;
mod tools;

/// Running requests may finish for this long at shutdown; after as long again they are given up.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a shutdown waits for the sessions to be written to their files.
const SAVE: Duration = Duration::from_secs(20);
/// A shutdown gives up on the last frames and the final status when none of them has reached the broker for so long.
const CLOSE: Duration = Duration::from_secs(5);

/// The clock of tokio, which tests can stop, in the type that the state machines take.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

struct Daemon {
    config: Config,
    topics: Topics,
    run: Run,
    link: Link,
    post: Post,
    /// Dropped last at shutdown: it carries the final status.
    embedded: Option<Embedded>,
    intake: Intake,
    admission: Admission,
    inference: Inference,
    tools: OwnTools,
    models: Models,
    systemd: Notify,
    discovery: Discovery,
    pool: Option<Pool>,
}

/// This run of the daemon.
struct Run {
    /// Tells this run from others of the same name.
    boot_id: String,
    booted: Instant,
    /// When the current `status` began, in Unix milliseconds.
    since: u64,
    ending: Shutdown,
}

/// The inference side: its thread, and what it last reported.
struct Inference {
    /// None while no engine is loaded.
    worker: Option<Worker>,
    machine: Machine,
    /// What was said in sessions to the engine before, for the next one.
    conversations: Conversations,
    /// What sessions are encrypted with in their files, if they are.
    keys: Option<Arc<KeyFile>>,
    /// None until a model has answered for the first time.
    model: Option<ModelInfo>,
    /// Which processor computes, and why; none until then, too.
    computes: Option<Computes>,
    load: Load,
    speed: Speed,
    stall: Stall,
}

/// Which model is served, and the change to another one.
struct Models {
    registry: Registry,
    limit: Limit,
    /// The model took the place of the configured one, which did not answer.
    fallback: bool,
    /// The model that is served or loading.
    served: Option<Candidate>,
    change: Change,
    waiting: Waiting,
    /// Ends when everything that is to be remembered is written.
    writes: Option<JoinHandle<()>>,
    found: mpsc::Sender<Finding>,
}

/// Administrators whose verbs are done but for one last step.
#[derive(Default)]
struct Waiting {
    /// Waits for the end of what was accepted.
    drain: Option<Asker>,
    /// Waits for an `inhibit` to be written.
    inhibit: Option<Asker>,
    /// Waits for a choice of the model to be written.
    choice: Option<Asker>,
}

impl Daemon {
    async fn serve(
        mut self,
        first: Sighted,
        events: Events,
        findings: mpsc::Receiver<Finding>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let mut reports = None;
        self.check(move |registry, config, limit| registry.read(first, config, limit));
        let failed = self.work(events, &mut reports, findings, shutdown).await;
        // so that the inference thread does not wait for a reader
        drop(reports);
        self.stop(failed).await
    }

    /// Runs until there is nothing left to do. Returns why it ended, if that is a failure.
    async fn work(
        &mut self,
        mut events: Events,
        reports: &mut Reports,
        mut findings: mpsc::Receiver<Finding>,
        shutdown: impl Future<Output = ()>,
    ) -> Option<Lost> {
        tokio::pin!(shutdown);
        let mut metrics = interval(self.config.mqtt.metrics_interval);
        metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut out = Vec::new();
            self.move_in_pool();
            self.advance();
            if self.run.ending != Shutdown::No && self.is_drained() {
                return None;
            }
            let decision = self.inference.machine.state.borrow().decision;
            self.admission.one_at_a_time(decision.one_at_a_time());
            let next = self.admission.next_tick();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.event(event, &mut out),
                    None => return Some("the MQTT client ended".to_owned().into()),
                },
                report = next_report(reports) => {
                    if let Err(why) = self.report(report, reports, &mut out) {
                        return Some(why);
                    }
                    self.look();
                    self.systemd.alive(now(), self.inference.stall.lasts(now()));
                }
                Some(finding) = findings.recv() => {
                    if let Err(why) = self.finding(finding, reports, &mut out) {
                        return Some(why);
                    }
                }
                why = ended(&mut self.embedded) => return Some(why.into()),
                () = at(next) => self.admission.tick(now(), self.link.room(Lane::Chunk), &mut out),
                () = at(self.tools.calls.next_tick()) => self.tick_tools(&mut out),
                // the next turn of the loop does what is due
                () = at(self.pool.as_ref().and_then(Pool::next_tick)) => {}
                _ = metrics.tick() => self.publish_metrics(),
                () = &mut shutdown, if self.run.ending == Shutdown::No => {
                    self.run.ending = Shutdown::Finishing(now() + DRAIN);
                    self.systemd.stopping();
                    self.drain();
                }
                () = at(self.run.ending.until()) => match self.run.ending {
                    Shutdown::Finishing(_) => {
                        self.run.ending = Shutdown::Interrupting(now() + DRAIN);
                        self.admission.end_all(now(), Finish::Interrupted, &mut out);
                    }
                    _ => {
                        self.admission.abandon(now(), Finish::Interrupted, &mut out);
                        self.abandon_pool();
                    }
                },
            }
            self.perform(out);
            self.look();
        }
    }

    /// Takes note of whether what the engine has to do gets on.
    fn look(&mut self) {
        let waits = self.admission.engine_works();
        self.inference
            .stall
            .look(now(), waits, self.inference.load.progress);
    }

    fn report(
        &mut self,
        report: Option<Report>,
        reports: &mut Reports,
        out: &mut Vec<Action>,
    ) -> Result<(), Lost> {
        match report {
            Some(Report::Mapped(weights)) => {
                if let Some(served) = &mut self.models.served {
                    served.weights = *weights;
                }
            }
            Some(Report::Loaded(info, prompts, computes, load)) => {
                self.inference.load = load;
                self.inference.computes = Some(computes);
                self.measure_results(prompts, info.context);
                self.loaded(*info, out);
            }
            Some(Report::Moved(info, computes)) => {
                self.inference.model = Some(*info);
                self.inference.computes = Some(computes);
                self.publish_info();
            }
            Some(Report::Update(update, load)) => {
                self.inference.load = load;
                self.admission
                    .update(now(), self.link.room(Lane::Chunk), update, out);
            }
            Some(Report::Session(id, result, load)) => {
                self.inference.load = load;
                self.admission.session_done(id, result, out);
            }
            Some(Report::Forgotten(id, result, load)) => {
                self.inference.load = load;
                self.admission.forgotten(id, result, out);
            }
            Some(Report::Load(load)) => self.inference.load = load,
            Some(Report::Ended(ended, conversations)) => {
                self.forget_vocabulary();
                self.inference.conversations = conversations;
                return self.engine_ended(ended, reports);
            }
            // it panicked, so there was no last report
            None => {
                let why = Err("the inference thread ended".to_owned().into());
                return self.engine_ended(why, reports);
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Incoming(incoming) => {
                if incoming.message.topic == self.topics.status() {
                    self.status_seen(&incoming.message.payload, out);
                } else if incoming.message.topic == STATUS {
                    if incoming.message.payload == "online" {
                        self.publish_discovery();
                    }
                } else if !self.heard(&incoming, out) {
                    self.refresh_tools();
                    self.intake.take(
                        &incoming,
                        &mut Context {
                            admission: &mut self.admission,
                            now: now(),
                            room: self.link.room(Lane::Last),
                            tools: &self.tools.toolbox,
                            out,
                        },
                    );
                }
                // accepted or refused: either way the request is ours now
                if let Some(ack) = incoming.ack
                    && let Some(ack) = self.owe_pool(ack, out)
                {
                    self.acknowledge(ack);
                }
            }
            news => self.connection(news, out),
        }
    }

    fn acknowledge(&mut self, ack: Ack) {
        if self.link.ack(ack).is_err() {
            tracing::error!("the broker sends more than it may: a request stays unacknowledged");
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Engine(command) => self.command(command),
                Action::Admin(asked, asker) => self.admin(asked, asker),
                Action::Tools(action) => self.tool_action(action),
                Action::Record(number, taken) => self.record(number, &taken),
                Action::Publish { to, frame, lane } => self.reply(&to, frame, lane),
            }
        }
    }

    fn command(&self, command: Command) {
        let sent = self
            .inference
            .worker
            .as_ref()
            .map(|worker| worker.send(command));
        if !matches!(sent, Some(Ok(()))) {
            // its last report ends the daemon, and nothing waits for this command any more
            tracing::error!("the inference thread is gone");
        }
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            admission: &self.admission,
            load: self.inference.load,
            state: *self.inference.machine.state.borrow(),
            budget: match &self.models.served {
                Some(of) => status::budget(&self.config, &of.plan.memory),
                None => self.models.limit.bytes,
            },
            pool: self.pool.as_ref().map(Pool::numbers),
            boot_id: &self.run.boot_id,
            uptime: now().saturating_duration_since(self.run.booted),
            stalled: self.inference.stall.lasts(now()),
        }
    }

    /// Sends the last frames and the final status, and disconnects.
    async fn stop(mut self, failed: Option<Lost>) -> Result<(), RunError> {
        let mut out = Vec::new();
        self.admission.abandon(now(), Finish::Failed, &mut out);
        self.perform(out);
        self.give_up_change();
        self.publish_retained(
            self.topics.status(),
            status::status("offline", &self.run.boot_id, status::unix_ms()),
        );
        let left = self.link.clone().close(CLOSE).await;
        if left > 0 {
            tracing::warn!("{left} messages did not reach the broker before the end");
        }
        self.discovery.end();
        // before a connection stood, nobody was told of what the run before had taken
        if left == 0 && !self.pool.as_ref().is_some_and(Pool::owes) {
            self.forget_pool();
        }
        if let Some(worker) = self.inference.worker {
            // the thread saves the sessions on its way out
            worker.stop(SAVE).await;
        }
        if let Some(writes) = self.models.writes.take()
            && tokio::time::timeout(SAVE, writes).await.is_err()
        {
            tracing::warn!("the state folder was not written in time");
        }
        if failed.is_none() && self.inference.model.is_none() {
            self.models.registry.interrupted();
        }
        match failed {
            // this is no fault of the model, and another start can help
            Some(lost) if self.embedded.as_ref().is_some_and(Embedded::is_over) => {
                Err(RunError::Broke(lost.why))
            }
            Some(lost) if self.inference.model.is_none() => {
                Err(unserved(&self.models.registry, self.models.fallback, lost))
            }
            Some(lost) => Err(RunError::Broke(lost.why)),
            None => Ok(()),
        }
    }
}

/// How far a shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    No,
    /// Requests may finish until this moment.
    Finishing(Instant),
    /// The engine may end them until this moment; then they are given up.
    Interrupting(Instant),
}

impl Shutdown {
    fn until(self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::Finishing(until) | Self::Interrupting(until) => Some(until),
        }
    }
}

/// Where reports of the inference thread come in, if there is one.
type Reports = Option<mpsc::Receiver<Report>>;

async fn next_report(reports: &mut Reports) -> Option<Report> {
    match reports {
        Some(reports) => reports.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits until the embedded broker has ended, and says why; for ever if there is none.
async fn ended(embedded: &mut Option<Embedded>) -> String {
    match embedded {
        Some(embedded) => embedded.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits until a moment of the state machines' clock; for ever if there is none.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
