//! What the inference thread has before it: commands that wait for their turn, prompts that are being prepared, and
//! reports that were not sent yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use glowplug_model::engine::{
    Engine, Event, Finish, PromptJob, Refusal, RequestId, SessionFault, SessionState,
};
use tokio::sync::mpsc;

use super::messages::{Command, End, Load, Report, Text, Timestamps, Update, unheard};
use super::prompts::{self, Prompts};
use super::{SWEEP, guarded};

/// An engine that works reports at least this often.
const NEWS: Duration = Duration::from_secs(1);

/// The result of a verb, which was not reported yet.
#[derive(Debug)]
pub(super) enum Done {
    Session(RequestId, Result<SessionState, SessionFault>),
    Forgotten(RequestId, Result<usize, SessionFault>),
}

/// Commands that wait, reports on their way out, and who is running.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) prompts: Prompts,
    /// Verbs, of which one is done between two steps, and the commands that must not overtake them.
    pub(super) held: VecDeque<Command>,
    pub(super) pending: BTreeMap<RequestId, Update>,
    pub(super) done: VecDeque<Done>,
    pub(super) running: Vec<RequestId>,
    /// Those of them whose prompt is not yet in the cache.
    pub(super) prefill: Vec<RequestId>,
    pub(super) load: Load,
    /// The numbers of the last report.
    pub(super) told: Load,
    /// When the last report was made.
    heard: Option<Instant>,
    /// How often a report must be made, if it must.
    pub(super) beat: Option<Duration>,
}

impl Inbox {
    pub(super) fn new(beat: Option<Duration>, jobs: std_mpsc::SyncSender<PromptJob>) -> Self {
        Self {
            prompts: Prompts::new(jobs),
            held: VecDeque::new(),
            pending: BTreeMap::new(),
            done: VecDeque::new(),
            running: Vec::new(),
            prefill: Vec::new(),
            load: Load::default(),
            told: Load::default(),
            heard: None,
            beat,
        }
    }

    /// Takes all commands that are there, and more until it is time for the next step; without a next step, until there
    /// is something to do. A cancel that comes meanwhile is answered meanwhile. False: nobody needs the engine any
    /// more.
    pub(super) fn attend(
        &mut self,
        engine: &mut Engine,
        commands: &std_mpsc::Receiver<Command>,
        reports: &mpsc::Sender<Report>,
        next: Option<Instant>,
    ) -> bool {
        let (mut wait, mut at_once) = (None, true);
        if next.is_none() && self.held.is_empty() {
            if !self.flush_all(reports) {
                return false;
            }
            wait = Some(self.beat.map_or(SWEEP, |beat| beat.min(SWEEP)));
        }
        loop {
            match commands.recv_timeout(wait.unwrap_or_default()) {
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
            self.dispatch(engine, &mut at_once);
            let Some(left) = next.and_then(|next| next.checked_duration_since(Instant::now()))
            else {
                return true;
            };
            let mut tell = |id, event| self.event(id, event, Instant::now());
            if guarded(|| engine.finish_ended(&mut tell)).is_none() {
                self.recover(engine, Finish::Failed);
            }
            self.flush(reports);
            wait = Some(left);
        }
    }

    /// Cleans up after a panic of the engine, or the loss of its GPU.
    pub(super) fn recover(&mut self, engine: &mut Engine, why: Finish) {
        self.fail_running(why);
        engine.recover();
    }

    /// Fails everything that was running; the engine forgets it, and the others go on.
    pub(super) fn fail_running(&mut self, why: Finish) {
        for id in std::mem::take(&mut self.running) {
            self.end(id, End::Finished(unheard(why)), Instant::now());
        }
        self.prefill.clear();
    }

    /// Applies a command at once, unless it is a verb or must come after one.
    fn take(&mut self, engine: &mut Engine, command: Command) {
        if self.must_wait(&command) {
            self.held.push_back(command);
        } else {
            self.apply(engine, command);
        }
    }

    /// Whether a command must wait. The commands of one session keep their order; all others do not wait for that
    /// session's file.
    pub(super) fn must_wait(&self, command: &Command) -> bool {
        match command {
            Command::Session(..) | Command::Forget(..) => true,
            Command::Submit(_, request) => self.held.iter().any(|held| match held {
                Command::Session(_, call) => {
                    call.client == request.client && Some(&call.session) == request.session.as_ref()
                }
                Command::Forget(_, client) => *client == request.client,
                _ => false,
            }),
            Command::Prepared(..) | Command::Release(_) => false,
            Command::End(id, _) | Command::EndThinking(id) => self
                .held
                .iter()
                .any(|held| matches!(held, Command::Submit(waiting, _) if waiting == id)),
        }
    }

    /// Takes out the first verb and the commands that waited for it alone.
    pub(super) fn release(&mut self) -> Vec<Command> {
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
            Command::Submit(id, request) => {
                if let Err(refusal) = self.prompts.push(id, request) {
                    self.refuse(id, refusal);
                }
            }
            Command::Prepared(id, prepared) => {
                self.prompts.returned();
                self.load.progress += 1;
                let accepted = prepared.and_then(|p| guarded(|| engine.accept(*p)));
                self.accepted(engine, id, accepted);
            }
            Command::End(id, why) => {
                if self.prompts.remove(id) {
                    let outcome = unheard(why);
                    self.end(id, End::Finished(outcome), Instant::now());
                } else if guarded(|| engine.end(id, why)).is_none() {
                    // if it is not there, it ended by itself and its last update is on the way
                    self.fail(id);
                }
            }
            Command::Release(id) => {
                // a panic would be one of bookkeeping, and fails nobody
                let _ = guarded(|| engine.release(id));
            }
            Command::EndThinking(id) => {
                if guarded(|| engine.end_thinking(id)).is_none() {
                    self.fail(id);
                }
            }
            Command::Session(id, call) => {
                let result = if self.prompts.has_session(&call.client, &call.session) {
                    Err(SessionFault::Busy)
                } else {
                    guarded(|| engine.session(&call.client, &call.session, call.verb))
                        .unwrap_or_else(|| Err(SessionFault::Failed("a panic".to_owned())))
                };
                self.load.progress += 1;
                if let Err(SessionFault::Failed(why)) = &result {
                    // the engine has one notice for a disk that fails, instead of one for each request
                    tracing::debug!(verb = call.name(), "a verb on a session failed: {why}");
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
                self.load.progress += 1;
                self.done.push_back(Done::Forgotten(id, result));
            }
        }
    }

    /// Hands over the requests whose turn it is to have their prompts prepared.
    fn dispatch(&mut self, engine: &mut Engine, at_once: &mut bool) {
        while let Some((id, request)) = self.prompts.next() {
            match guarded(|| engine.gather(id, *request)) {
                Some(Ok(job)) if *at_once && prompts::at_once(&job) => {
                    *at_once = false;
                    let accepted = guarded(|| {
                        let prepared = engine.prompts().prepare(job);
                        engine.accept(prepared)
                    });
                    self.accepted(engine, id, accepted);
                }
                Some(Ok(job)) => {
                    if !self.prompts.send(job) {
                        self.accepted(engine, id, None);
                    }
                }
                Some(Err(refusal)) => self.refuse(id, refusal),
                None => self.accepted(engine, id, None),
            }
        }
    }

    /// Lets the thread of the prompts do the engine's chores when nothing else is to be done.
    pub(super) fn chore(&mut self, engine: &mut Engine) {
        if self.prompts.is_idle()
            && let Some(Some(job)) = guarded(|| engine.chore())
        {
            let id = job.id();
            if !self.prompts.send(job) {
                engine.end(id, Finish::Failed);
            }
        }
    }

    /// Takes note of what became of a prompt. None: preparing or accepting it panicked.
    fn accepted(
        &mut self,
        engine: &mut Engine,
        id: RequestId,
        accepted: Option<Result<usize, Refusal>>,
    ) {
        match accepted {
            Some(Ok(_)) => {}
            Some(Err(refusal)) => self.refuse(id, refusal),
            // the engine knows it, and ends it with the next step
            None if guarded(|| engine.end(id, Finish::Failed)) == Some(true) => {}
            None => self.fail(id),
        }
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) {
        self.end(id, End::Refused(refusal), Instant::now());
    }

    pub(super) fn event(&mut self, id: RequestId, event: Event, now: Instant) {
        match event {
            Event::Started { .. } => {
                // one that was parked starts again
                if !self.running.contains(&id) {
                    self.running.push(id);
                    self.prefill.push(id);
                }
                self.update(id).times.started = Some(now);
            }
            Event::Prefilled => {
                self.prefill.retain(|prompt| *prompt != id);
                self.update(id).times.prefilled = Some(now);
            }
            Event::Text {
                content,
                reasoning,
                logprobs,
            } => {
                self.load.tokens += 1;
                let update = self.update(id);
                update.times.first_token.get_or_insert(now);
                update.text.content.push_str(&content);
                update.text.reasoning.push_str(&reasoning);
                update.text.logprobs.extend(logprobs);
            }
            Event::Call(call) => self.update(id).text.calls.push(call),
            Event::Finished(outcome) => {
                self.running.retain(|running| *running != id);
                self.prefill.retain(|prompt| *prompt != id);
                self.end(id, End::Finished(outcome), now);
            }
        }
    }

    pub(super) fn update(&mut self, id: RequestId) -> &mut Update {
        self.pending.entry(id).or_insert_with(|| Update {
            id,
            text: Text::default(),
            times: Timestamps::default(),
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

    /// The next report, with the numbers of now.
    pub(super) fn report(&mut self) -> Option<Report> {
        let report = if let Some((_, update)) = self.pending.pop_first() {
            Report::Update(update, self.load)
        } else if let Some(done) = self.done.pop_front() {
            match done {
                Done::Session(id, result) => Report::Session(id, result, self.load),
                Done::Forgotten(id, result) => Report::Forgotten(id, result, self.load),
            }
        } else if self.told.counts != self.load.counts || self.is_overdue() {
            Report::Load(self.load)
        } else {
            return None;
        };
        self.told = self.load;
        self.heard = Some(Instant::now());
        Some(report)
    }

    /// Whether a report is due although there is nothing new to say.
    fn is_overdue(&self) -> bool {
        let works = (self.told.progress != self.load.progress).then_some(NEWS);
        self.beat
            .or(works)
            .is_some_and(|longest| self.heard.is_none_or(|heard| heard.elapsed() >= longest))
    }

    /// Sends as many reports as the channel takes. What stays is merged with what comes.
    pub(super) fn flush(&mut self, reports: &mpsc::Sender<Report>) {
        while let Ok(permit) = reports.try_reserve() {
            match self.report() {
                Some(report) => permit.send(report),
                None => return,
            }
        }
    }

    /// Sends all reports and waits for that; there is nothing else to do. False: nobody listens.
    fn flush_all(&mut self, reports: &mpsc::Sender<Report>) -> bool {
        while let Some(report) = self.report() {
            if reports.blocking_send(report).is_err() {
                return false;
            }
        }
        true
    }
}
