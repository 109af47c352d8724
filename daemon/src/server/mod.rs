//! The daemon's select loop: carries events to the state machines and their actions to the world, and decides nothing
//! about requests itself.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use glowplug_firmware_config::plan::Limit;
use glowplug_model::engine::{Conversations, Finish, ModelInfo};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::config::{Config, Server};
use crate::inference::messages::{Command, Load, Report};
use crate::inference::{Lost, Machine, Worker};
use crate::machine::cores::Cores;
use crate::machine::memory_limit;
use crate::machine::sensors;
use crate::machine::systemd::{Line, Supervisor};
use crate::models::registry::{Candidate, Registry, Sighted};
use crate::mqtt::broker::credentials;
use crate::mqtt::broker::{self, Embedded};
use crate::mqtt::{self, Credentials, Event, Events, Lane, Link, Message, Options, Qos};
use crate::requests::admission::{Action, Admission};
use crate::requests::answer::Speaker;
use crate::requests::intake::{Context, Intake};
use crate::wire::admin::Asker;
use crate::wire::topics::{self, Topics};
use model_change::{Change, Finding};
use post::Post;
pub use run_error::RunError;
use run_error::{lost, unserved};
use stall::Stall;
use status::{Reading, Speed};

mod model_change;
mod post;
mod run_error;
pub mod stall;
pub mod status;

/// At shutdown, running requests may finish for so long, are then interrupted, and are given up after as long again.
const DRAIN: Duration = Duration::from_secs(2);
/// For the sessions to be written to their files.
const SAVE: Duration = Duration::from_secs(20);
/// Findings not yet read; one check and one change of what is remembered are under way at a time.
const FINDINGS: usize = 4;
/// For the last frames and the final status to reach the broker.
const CLOSE: Duration = Duration::from_secs(2);

/// What a caller of [`run`] may need to know once the broker is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// the broker in use; the embedded one's real port
    pub server: Server,
}

/// Runs until `shutdown` completes, then drains and stops. `config.model.path` must be set. `started` is told when the
/// broker can be reached; the model may load for longer: `status` on the broker says when it is `online`.
pub async fn run(
    config: Config,
    started: oneshot::Sender<Started>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let path = config
        .model
        .path
        .clone()
        .ok_or_else(|| RunError::Model("`model.path` is not set".to_owned()))?;
    let limit = memory_limit::here(&config).map_err(|error| RunError::Model(error.to_string()))?;
    let mut registry = Registry::open(&config, path).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => RunError::Model(error.to_string()),
        _ => RunError::NotNow(error.to_string()),
    })?;
    let (path, fallback) = registry.first();
    if fallback {
        tracing::error!(
            "the model that was asked for has not answered in its last starts: {} is served",
            path.display()
        );
    }
    // at once: who typed the wrong name is not to wait for a broker
    let first = registry.sight(&path, &config, &limit).map_err(|error| {
        let Lost { why, stays } = lost(&error);
        let why = format!("{}: {why}", path.display());
        unserved(&registry, fallback, Lost { why, stays })
    })?;
    let topics = Topics::new(&config.base_topic, &config.node);
    let boot_id = credentials::random()?;
    let (embedded, server, credentials) = broker(&config, &topics).await?;
    let since = status::unix_ms();
    let mut will = Message::new(
        topics.status(),
        status::status("offline", &boot_id, since),
        Qos::AtLeastOnce,
    );
    will.retain = true;
    let (link, events) = mqtt::connect(Options {
        server: server.clone(),
        client_id: topics.client_id(),
        credentials,
        will: Some(will),
        subscriptions: topics.subscriptions(),
        payload_max: config.engine.max_payload_bytes,
    });
    let state = sensors::watch(
        &config.root,
        config.board.as_ref().map(|board| board.throttle),
    );
    // the caller may not care
    let _ = started.send(Started { server });
    let speaker = Speaker {
        node: config.node.clone(),
        model: config.model.name.clone().unwrap_or_default(),
        sha256: None,
    };
    let (found, findings) = mpsc::channel(FINDINGS);
    let daemon = Daemon {
        admission: Admission::new(
            config.engine.queue,
            config.engine.max_streams,
            config.engine.chunk,
            config.engine.dedup_window,
            speaker,
        ),
        intake: Intake::new(&config),
        topics,
        boot_id,
        since,
        booted: now(),
        link,
        worker: None,
        machine: Machine {
            cores: Cores::here(&config.root),
            state,
            beat: config.supervisor.as_ref().and_then(Supervisor::beat),
        },
        conversations: Conversations::default(),
        registry,
        limit,
        fallback,
        served: None,
        change: Change::Checking(None),
        drained: None,
        inhibiting: None,
        choosing: None,
        writes: None,
        ending: Drain::No,
        found,
        line: Line::new(config.supervisor.as_ref()),
        stall: Stall::default(),
        post: Post::default(),
        model: None,
        load: Load::default(),
        speed: Speed::default(),
        config,
        embedded,
    };
    daemon.serve(first, events, findings, shutdown).await
}

type BrokerInUse = (Option<Embedded>, Server, Option<Credentials>);

async fn broker(config: &Config, topics: &Topics) -> Result<BrokerInUse, RunError> {
    if let Some(server) = &config.mqtt.server {
        let password = config
            .mqtt
            .password_file
            .as_deref()
            .map(credentials::read_password)
            .transpose()?;
        let credentials = config.mqtt.username.clone().map(|username| Credentials {
            username,
            password: password.unwrap_or_default(),
        });
        return Ok((None, server.clone(), credentials));
    }
    let users = broker::Users {
        base: config.base_topic.clone(),
        daemon: credentials::daemon()?,
        daemon_id: topics.client_id(),
        local: credentials::local(&config.state_dir)?,
        local_may: topics::local_may,
    };
    let own = users.daemon.clone();
    let embedded = broker::start(config.listen, users, config.engine.max_payload_bytes).await?;
    let server = Server {
        host: embedded.address.ip().to_string(),
        port: embedded.address.port(),
    };
    Ok((Some(embedded), server, Some(own)))
}

/// Tokio's clock, which tests can stop, as the one the state machines take.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

struct Daemon {
    config: Config,
    /// the last to go: it carries the final status
    embedded: Option<Embedded>,
    topics: Topics,
    boot_id: String,
    since: u64,
    booted: Instant,
    link: Link,
    /// none: no engine is loaded, or on its way
    worker: Option<Worker>,
    machine: Machine,
    /// of the engine before, for the one to come
    conversations: Conversations,
    registry: Registry,
    limit: Limit,
    /// is what is served not what was asked for
    fallback: bool,
    /// served, or loading
    served: Option<Candidate>,
    change: Change,
    /// who waits for what was accepted to end
    drained: Option<Asker>,
    /// who waits for an `inhibit` to be written
    inhibiting: Option<Asker>,
    /// who waits for a choice of the model to be written
    choosing: Option<Asker>,
    /// ends when all that is to be remembered is written
    writes: Option<JoinHandle<()>>,
    ending: Drain,
    found: mpsc::Sender<Finding>,
    line: Line,
    stall: Stall,
    admission: Admission,
    intake: Intake,
    model: Option<ModelInfo>,
    load: Load,
    speed: Speed,
    post: Post,
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

    /// Until there is nothing left to do; why, if it is a failure.
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
            self.advance();
            if self.ending != Drain::No && self.admission.outstanding() == 0 {
                return None;
            }
            let decision = self.machine.state.borrow().decision;
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
                    self.line.alive(now(), self.stall.lasts(now()));
                }
                Some(finding) = findings.recv() => {
                    if let Err(why) = self.finding(finding, reports) {
                        return Some(why);
                    }
                }
                why = ended(&mut self.embedded) => return Some(why.into()),
                () = at(next) => self.admission.tick(now(), self.link.room(Lane::Chunk), &mut out),
                _ = metrics.tick() => self.publish_metrics(),
                () = &mut shutdown, if self.ending == Drain::No => {
                    self.ending = Drain::Finishing(now() + DRAIN);
                    self.line.stopping();
                    self.drain();
                }
                () = at(self.ending.until()) => match self.ending {
                    Drain::Finishing(_) => {
                        self.ending = Drain::Interrupting(now() + DRAIN);
                        self.admission.end_all(now(), Finish::Interrupted, &mut out);
                    }
                    _ => self.admission.abandon(now(), Finish::Interrupted, &mut out),
                },
            }
            self.perform(out);
            self.look();
        }
    }

    /// Does what the engine has to do get on?
    fn look(&mut self) {
        let waits = !self.admission.engine_is_idle();
        self.stall.look(now(), waits, self.load.progress);
    }

    fn report(
        &mut self,
        report: Option<Report>,
        reports: &mut Reports,
        out: &mut Vec<Action>,
    ) -> Result<(), Lost> {
        match report {
            Some(Report::Mapped(weights)) => {
                if let Some(served) = &mut self.served {
                    served.weights = *weights;
                }
            }
            Some(Report::Loaded(info, load)) => {
                self.load = load;
                self.loaded(*info, out);
            }
            Some(Report::Update(update, load)) => {
                self.load = load;
                self.admission
                    .update(now(), self.link.room(Lane::Chunk), update, out);
            }
            Some(Report::Session(id, result, load)) => {
                self.load = load;
                self.admission.session_done(id, result, out);
            }
            Some(Report::Forgotten(id, result, load)) => {
                self.load = load;
                self.admission.forgotten(id, result, out);
            }
            Some(Report::Load(load)) => self.load = load,
            Some(Report::Ended(ended, conversations)) => {
                self.conversations = conversations;
                return self.engine_ended(ended, reports);
            }
            // without a last word: it panicked
            None => {
                let why = Err("the inference thread ended".to_owned().into());
                return self.engine_ended(why, reports);
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Message(incoming) => {
                if incoming.message.topic == self.topics.status() {
                    self.status_seen(&incoming.message.payload, out);
                } else {
                    self.intake.take(
                        &incoming,
                        &mut Context {
                            admission: &mut self.admission,
                            now: now(),
                            room: self.link.room(Lane::Last),
                            out,
                        },
                    );
                }
                // accepted or refused: either way it is ours now
                if let Some(ack) = incoming.ack
                    && self.link.ack(ack).is_err()
                {
                    tracing::error!(
                        "the broker sends more than it may: a request stays unacknowledged"
                    );
                }
            }
            news => self.connection(news, out),
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Engine(command) => self.command(command),
                Action::Admin(asked, asker) => self.admin(asked, asker),
                Action::Publish { to, frame, lane } => self.reply(&to, frame, lane),
            }
        }
    }

    fn command(&self, command: Command) {
        let sent = self.worker.as_ref().map(|worker| worker.send(command));
        if !matches!(sent, Some(Ok(()))) {
            // its last report ends the daemon; nothing waits for this command any more
            tracing::error!("the inference thread is gone");
        }
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            admission: &self.admission,
            load: self.load,
            state: *self.machine.state.borrow(),
            budget: match &self.served {
                Some(of) => status::budget(&self.config, &of.plan.memory),
                None => self.limit.bytes,
            },
            boot_id: &self.boot_id,
            uptime: now().saturating_duration_since(self.booted),
            stalled: self.stall.lasts(now()),
        }
    }

    /// Last frames, the final status, a clean goodbye.
    async fn stop(mut self, failed: Option<Lost>) -> Result<(), RunError> {
        let mut out = Vec::new();
        self.admission.abandon(now(), Finish::Failed, &mut out);
        self.perform(out);
        self.give_up_change();
        self.publish_retained(
            self.topics.status(),
            status::status("offline", &self.boot_id, status::unix_ms()),
        );
        self.link.close(CLOSE).await;
        if let Some(worker) = self.worker {
            // sessions are saved by the thread on its way out
            worker.stop(SAVE).await;
        }
        if let Some(writes) = self.writes.take()
            && tokio::time::timeout(SAVE, writes).await.is_err()
        {
            tracing::warn!("what is to be remembered was not written in time");
        }
        if failed.is_none() && self.model.is_none() {
            self.registry.interrupted();
        }
        match failed {
            // no fault of a model's, and another start can help
            Some(lost) if self.embedded.as_ref().is_some_and(Embedded::is_over) => {
                Err(RunError::Broke(lost.why))
            }
            Some(lost) if self.model.is_none() => {
                Err(unserved(&self.registry, self.fallback, lost))
            }
            Some(lost) => Err(RunError::Broke(lost.why)),
            None => Ok(()),
        }
    }
}

/// How far a shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// requests may finish until then
    Finishing(Instant),
    /// the engine may end them until then
    Interrupting(Instant),
}

impl Drain {
    fn until(self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::Finishing(until) | Self::Interrupting(until) => Some(until),
        }
    }
}

/// What comes from the inference thread, if there is one.
type Reports = Option<mpsc::Receiver<Report>>;

async fn next_report(reports: &mut Reports) -> Option<Report> {
    match reports {
        Some(reports) => reports.recv().await,
        None => std::future::pending().await,
    }
}

/// Why the embedded broker is gone; there may be none.
async fn ended(embedded: &mut Option<Embedded>) -> String {
    match embedded {
        Some(embedded) => embedded.ended().await,
        None => std::future::pending().await,
    }
}

/// A moment of the state machines' clock.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
