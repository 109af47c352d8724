//! The inference thread: it alone owns the engine. Commands come by a bounded channel and are all taken before every
//! step, so that a cancel is seen before the next token. News goes back by a bounded channel; when the server is slow,
//! text of a request is put together here instead of waiting, so that decoding never depends on a broker.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glowplug_firmware_config::limits::{QUEUE_MAX, STREAMS_MAX};
use glowplug_model::engine::{
    Conversations, Counts, Engine, EngineConfig, Event, Finish, LoadError, ModelInfo, Request,
    RequestId, SessionFault, SessionState, Worked,
};
use tokio::sync::{mpsc, watch};

use crate::admission::{END_THINKING_MAX, End, Update, VERBS_MAX, unheard};
use crate::config;
use crate::cores::Cores;
use crate::pace::Step;
use crate::packed;
use crate::plan::{Plan, Threads};
use crate::sensors;
use crate::stream::{Marks, Text};
use crate::wire::session::Call;
use effort::Governed;

mod effort;
mod proof;

/// What admission sends for one request at most: submit, end, and some tries to end the thought; and the verbs.
const COMMANDS: usize = (2 + END_THINKING_MAX) * (QUEUE_MAX + STREAMS_MAX) + VERBS_MAX;
/// How often old sessions are looked for; an idle daemon wakes so often.
const SWEEP: Duration = Duration::from_secs(60);
/// News not yet read.
const REPORTS: usize = 64;
/// Panics in steps that follow each other, after which the engine is given up.
const PANICS_MAX: usize = 3;

/// For the thread.
#[derive(Debug)]
pub enum Command {
    /// a new request
    Submit(RequestId, Box<Request>),
    /// ends one
    End(RequestId, Finish),
    /// ends its thought
    EndThinking(RequestId),
    /// does something to a session, between two steps
    Session(RequestId, Call),
    /// forgets a client, whose requests were ended
    Forget(RequestId, Arc<str>),
}

/// From the thread.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every report is an update"
)]
pub enum Report {
    /// ready; the first report unless it is `Ended`
    Loaded(Box<ModelInfo>, Load),
    /// news of a request
    Update(Update, Load),
    /// a verb was done, or was not
    Session(RequestId, Result<SessionState, SessionFault>, Load),
    /// a client was forgotten with so many sessions, or was not
    Forgotten(RequestId, Result<usize, SessionFault>, Load),
    /// nothing to tell but other numbers
    Load(Load),
    /// the last one: the engine is gone and its memory free. An error: the file cannot be served, or the engine broke
    Ended(Result<(), String>, Conversations),
}

/// What the engine is doing, as of the latest report.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// sequences and pages
    pub counts: Counts,
    /// tokens decoded since the start
    pub tokens: u64,
    /// time spent decoding them
    pub decoding: Duration,
}

/// Where the thread and the engine's own run, and how hard.
#[derive(Debug, Clone)]
pub struct Machine {
    /// those there are
    pub cores: Cores,
    /// what the board says of its state
    pub state: watch::Receiver<sensors::State>,
    /// how often the thread must be heard of, if it must: a step that hangs is known by its silence
    pub beat: Option<Duration>,
}

/// The sending side; the thread ends when it is dropped.
#[derive(Debug)]
pub struct Worker {
    commands: std_mpsc::SyncSender<Command>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread; the model is loaded there, as it was planned, and goes on with the conversations of the one before.
    pub fn start(
        model: PathBuf,
        plan: Plan,
        engine: config::Engine,
        sessions: config::Sessions,
        conversations: Conversations,
        machine: Machine,
    ) -> std::io::Result<(Self, mpsc::Receiver<Report>)> {
        let (commands, inbox) = std_mpsc::sync_channel(COMMANDS);
        let (outbox, reports) = mpsc::channel(REPORTS);
        let thread = std::thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || {
                let threads = threads(&plan, &engine, &machine.cores);
                let (ended, conversations) = match catch_unwind(AssertUnwindSafe(|| {
                    load(&model, &plan, &engine, &sessions, threads, &machine.cores)
                })) {
                    Ok(Ok(mut loaded)) => {
                        loaded.adopt(conversations);
                        let governed = Governed::new(machine.state, threads, engine.max_streams);
                        let desk = Desk::new(machine.beat);
                        run(loaded, sessions.expire, governed, desk, &inbox, &outbox)
                    }
                    Ok(Err(why)) => (Err(why), conversations),
                    Err(_) => (Err("loading the model panicked".to_owned()), conversations),
                };
                // nobody listening any more is the same end
                let _ = outbox.blocking_send(Report::Ended(ended, conversations));
            })?;
        Ok((Self { commands, thread }, reports))
    }

    /// Never waits; an error means that the thread is gone, which its last report tells too.
    pub fn send(&self, command: Command) -> Result<(), Gone> {
        self.commands.try_send(command).map_err(|_| Gone)
    }

    /// Lets the thread end, and waits for it so long at most.
    pub async fn stop(self, longest: Duration) {
        drop(self.commands);
        let ended = tokio::task::spawn_blocking(move || self.thread.join());
        if tokio::time::timeout(longest, ended).await.is_err() {
            tracing::warn!("the inference thread did not end in time; a session may be unsaved");
        }
    }
}

/// The inference thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the inference thread is gone")]
pub struct Gone;

/// As planned; but a board that was named may have more cores than this machine.
fn threads(plan: &Plan, config: &config::Engine, cores: &Cores) -> Threads {
    Threads {
        prefill: config
            .prefill_threads
            .unwrap_or(plan.threads.prefill.min(cores.all())),
        decode: config
            .decode_threads
            .unwrap_or(plan.threads.decode.min(cores.all())),
    }
}

/// Err: the file cannot be served.
fn load(
    model: &std::path::Path,
    plan: &Plan,
    config: &config::Engine,
    sessions: &config::Sessions,
    threads: Threads,
    cores: &Cores,
) -> Result<Engine, String> {
    let config = EngineConfig {
        context: plan.context,
        streams: config.max_streams,
        pages: plan.memory.pages,
        kv: plan.kv,
        lock: plan.lock,
        share: plan.share,
        sessions: sessions.dir.clone(),
        session_writes: sessions.writes_per_day,
        window: sessions.window,
        // admission counts; here only room for what it accepts
        queue: config.queue + config.max_streams,
        prefill_threads: threads.prefill,
        decode_threads: threads.decode,
        drafts: true,
        places: cores.places(threads.prefill.max(threads.decode)),
        isa: config.isa,
    };
    let loaded = || Engine::load(&packed::prepare(model)?, &config);
    let mut engine = match loaded() {
        Err(LoadError::Gguf(error)) if packed::discard(model) => {
            tracing::warn!("the packed file is thrown away: {error}");
            loaded()
        }
        loaded => loaded,
    }
    .map_err(|e| e.to_string())?;
    proof::answers(&mut engine).map_err(|e| e.to_string())?;
    Ok(engine)
}

/// Until nobody needs the engine any more, or it is broken; then it is gone.
fn run(
    mut engine: Engine,
    expire: Duration,
    governed: Governed,
    desk: Desk,
    inbox: &std_mpsc::Receiver<Command>,
    outbox: &mpsc::Sender<Report>,
) -> (Result<(), String>, Conversations) {
    let ended = answer(&mut engine, expire, governed, desk, inbox, outbox);
    let unsaved = engine.save_all();
    if unsaved > 0 {
        tracing::warn!(unsaved, "sessions could not be saved");
    }
    (ended, engine.into_conversations())
}

/// The loop of [`run`]. An error: the engine is broken.
fn answer(
    engine: &mut Engine,
    expire: Duration,
    mut governed: Governed,
    mut desk: Desk,
    inbox: &std_mpsc::Receiver<Command>,
    outbox: &mpsc::Sender<Report>,
) -> Result<(), String> {
    let begun = Instant::now();
    let mut swept = begun;
    desk.load.counts = engine.counts();
    desk.told = desk.load.counts;
    let loaded = Report::Loaded(Box::new(engine.model().clone()), desk.load);
    if outbox.blocking_send(loaded).is_err() {
        return Ok(());
    }
    let mut panics = 0;
    // when the next step may begin; none: there is nothing to do
    let mut next = None;
    while desk.attend(engine, inbox, outbox, next) {
        let before = (Instant::now(), desk.load);
        if before.0.duration_since(swept) >= SWEEP {
            swept = before.0;
            engine.expire(swept.duration_since(begun).as_secs(), expire.as_secs());
        }
        governed.apply(engine);
        let prompts = !desk.prompts.is_empty();
        match guarded(|| engine.step(&mut |id, event| desk.event(id, event, Instant::now()))) {
            Some(worked) => {
                let decoded = desk.load.tokens > before.1.tokens;
                next = match worked {
                    Worked::Nothing => None,
                    Worked::Little => Some(Instant::now()),
                    Worked::Pass(_) => {
                        engine.took(before.0.elapsed().as_secs_f64());
                        let step = if decoded && !prompts && desk.prompts.is_empty() {
                            Step::Decode(before.1.counts.running)
                        } else {
                            Step::Prompt
                        };
                        Some(governed.next(before.0, step))
                    }
                };
                if let Some(next) = next.filter(|_| decoded) {
                    // the pause is a part of what a token takes
                    desk.load.decoding += next - before.0;
                }
                panics = 0;
            }
            None => {
                panics += 1;
                if panics == PANICS_MAX {
                    return Err(format!("{PANICS_MAX} steps in a row panicked"));
                }
                desk.recover(engine);
                next = Some(Instant::now());
            }
        }
        desk.load.counts = engine.counts();
        desk.flush(outbox);
    }
    Ok(())
}

/// A verb that was done, or was not.
#[derive(Debug)]
enum Done {
    Session(RequestId, Result<SessionState, SessionFault>),
    Forgotten(RequestId, Result<usize, SessionFault>),
}

/// Commands that wait, news on their way out, and who is running.
#[derive(Debug, Default)]
struct Desk {
    /// verbs, of which one is done between two steps, and what must not overtake them
    held: VecDeque<Command>,
    pending: BTreeMap<RequestId, Update>,
    done: VecDeque<Done>,
    running: Vec<RequestId>,
    /// of those, whose prompt is not yet in the cache
    prompts: Vec<RequestId>,
    load: Load,
    /// what the server knows
    told: Counts,
    /// and since when it has heard nothing
    heard: Option<Instant>,
    /// how long that may be, if the thread must be heard of
    beat: Option<Duration>,
}

impl Desk {
    fn new(beat: Option<Duration>) -> Self {
        Self {
            beat,
            ..Self::default()
        }
    }

    /// Takes all commands there are, and more until it is time for the next step; without one, until there is something
    /// to do. A cancel that comes meanwhile is answered meanwhile. False: nobody needs the engine any more.
    fn attend(
        &mut self,
        engine: &mut Engine,
        inbox: &std_mpsc::Receiver<Command>,
        outbox: &mpsc::Sender<Report>,
        next: Option<Instant>,
    ) -> bool {
        let mut wait = None;
        if next.is_none() && self.held.is_empty() {
            if !self.flush_all(outbox) {
                return false;
            }
            wait = Some(self.beat.map_or(SWEEP, |beat| beat.min(SWEEP)));
        }
        loop {
            match inbox.recv_timeout(wait.unwrap_or_default()) {
                Ok(command) => {
                    self.take(engine, command);
                    wait = None;
                    continue;
                }
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                Err(std_mpsc::RecvTimeoutError::Disconnected) => return false,
            }
            for command in self.release() {
                self.apply(engine, command);
            }
            let Some(left) = next.and_then(|next| next.checked_duration_since(Instant::now()))
            else {
                return true;
            };
            let mut tell = |id, event| self.event(id, event, Instant::now());
            if guarded(|| engine.finish_ended(&mut tell)).is_none() {
                self.recover(engine);
            }
            self.flush(outbox);
            wait = Some(left);
        }
    }

    /// After a panic of the engine.
    fn recover(&mut self, engine: &mut Engine) {
        self.fail_running();
        engine.recover();
    }

    /// A panic belongs to what was running, and the engine forgets it; the others go on.
    fn fail_running(&mut self) {
        for id in std::mem::take(&mut self.running) {
            self.fail(id);
        }
        self.prompts.clear();
    }

    /// At once, unless it is a verb or must come after one.
    fn take(&mut self, engine: &mut Engine, command: Command) {
        if self.must_wait(&command) {
            self.held.push_back(command);
        } else {
            self.apply(engine, command);
        }
    }

    /// A session's commands keep their order; all others do not wait for its file.
    fn must_wait(&self, command: &Command) -> bool {
        match command {
            Command::Session(..) | Command::Forget(..) => true,
            Command::Submit(_, request) => self.held.iter().any(|held| match held {
                Command::Session(_, call) => {
                    call.client == request.client && Some(&call.session) == request.session.as_ref()
                }
                Command::Forget(_, client) => *client == request.client,
                _ => false,
            }),
            Command::End(id, _) | Command::EndThinking(id) => self
                .held
                .iter()
                .any(|held| matches!(held, Command::Submit(waiting, _) if waiting == id)),
        }
    }

    /// The first verb and what waited for it alone; nothing while there is no verb.
    fn release(&mut self) -> Vec<Command> {
        let mut due: Vec<Command> = self.held.pop_front().into_iter().collect();
        while let Some(next) = self
            .held
            .pop_front_if(|next| !matches!(next, Command::Session(..) | Command::Forget(..)))
        {
            due.push(next);
        }
        due
    }

    fn apply(&mut self, engine: &mut Engine, command: Command) {
        match command {
            Command::Submit(id, request) => match guarded(|| engine.submit(id, *request)) {
                Some(Ok(_)) => {}
                Some(Err(refusal)) => self.end(id, End::Refused(refusal), Instant::now()),
                None => self.fail(id),
            },
            // false: it ended by itself, and its last update is on the way
            Command::End(id, why) => {
                if guarded(|| engine.end(id, why)).is_none() {
                    self.fail(id);
                }
            }
            Command::EndThinking(id) => {
                if guarded(|| engine.end_thinking(id)).is_none() {
                    self.fail(id);
                }
            }
            Command::Session(id, call) => {
                let result = guarded(|| engine.session(&call.client, &call.session, call.verb))
                    .unwrap_or_else(|| Err(SessionFault::Failed("a panic".to_owned())));
                if let Err(SessionFault::Failed(why)) = &result {
                    tracing::warn!(verb = call.name(), "a verb on a session failed: {why}");
                }
                self.done.push_back(Done::Session(id, result));
            }
            Command::Forget(id, client) => {
                let mut tell = |id, event| self.event(id, event, Instant::now());
                let result = guarded(|| engine.forget(&client, &mut tell))
                    .unwrap_or_else(|| Err(SessionFault::Failed("a panic".to_owned())));
                if let Err(error) = &result {
                    tracing::warn!("a client was not forgotten: {error}");
                }
                self.done.push_back(Done::Forgotten(id, result));
            }
        }
    }

    fn event(&mut self, id: RequestId, event: Event, now: Instant) {
        match event {
            Event::Started { .. } => {
                // one that was parked may start again
                if !self.running.contains(&id) {
                    self.running.push(id);
                    self.prompts.push(id);
                }
                self.update(id).marks.started = Some(now);
            }
            Event::Prefilled => {
                self.prompts.retain(|prompt| *prompt != id);
                self.update(id).marks.prefilled = Some(now);
            }
            Event::Text {
                content,
                reasoning,
                logprobs,
            } => {
                self.load.tokens += 1;
                let update = self.update(id);
                update.marks.first_token.get_or_insert(now);
                update.text.content.push_str(&content);
                update.text.reasoning.push_str(&reasoning);
                update.text.logprobs.extend(logprobs);
            }
            Event::Finished(outcome) => {
                self.running.retain(|running| *running != id);
                self.prompts.retain(|prompt| *prompt != id);
                self.end(id, End::Finished(outcome), now);
            }
        }
    }

    fn update(&mut self, id: RequestId) -> &mut Update {
        self.pending.entry(id).or_insert_with(|| Update {
            id,
            text: Text::default(),
            marks: Marks::default(),
            end: None,
        })
    }

    fn end(&mut self, id: RequestId, end: End, now: Instant) {
        self.update(id).end.get_or_insert((end, now));
    }

    fn fail(&mut self, id: RequestId) {
        let outcome = unheard(Finish::Failed);
        self.end(id, End::Finished(outcome), Instant::now());
    }

    /// The next piece of news, with the numbers of now.
    fn report(&mut self) -> Option<Report> {
        let report = if let Some((_, update)) = self.pending.pop_first() {
            Report::Update(update, self.load)
        } else if let Some(done) = self.done.pop_front() {
            match done {
                Done::Session(id, result) => Report::Session(id, result, self.load),
                Done::Forgotten(id, result) => Report::Forgotten(id, result, self.load),
            }
        } else if self.told != self.load.counts || self.is_overdue() {
            Report::Load(self.load)
        } else {
            return None;
        };
        self.told = self.load.counts;
        self.heard = Some(Instant::now());
        Some(report)
    }

    /// It must be heard of, and has nothing to say.
    fn is_overdue(&self) -> bool {
        self.beat
            .is_some_and(|beat| self.heard.is_none_or(|heard| heard.elapsed() >= beat))
    }

    /// Sends what the channel takes; the rest stays and grows together.
    fn flush(&mut self, outbox: &mpsc::Sender<Report>) {
        while let Ok(permit) = outbox.try_reserve() {
            match self.report() {
                Some(report) => permit.send(report),
                None => return,
            }
        }
    }

    /// Sends everything; there is nothing else to do. False: nobody listens.
    fn flush_all(&mut self, outbox: &mpsc::Sender<Report>) -> bool {
        while let Some(report) = self.report() {
            if outbox.blocking_send(report).is_err() {
                return false;
            }
        }
        true
    }
}

/// None: it panicked.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
