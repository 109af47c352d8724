//! The inference thread: it alone owns the engine. Commands come by a bounded channel and are all taken before every
//! step, so that a cancel is seen before the next token. News goes back by a bounded channel; when the server is slow,
//! text of a request is put together here instead of waiting, so that decoding never depends on a broker.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use glowplug_firmware_config::limits::{QUEUE_MAX, THREADS_MAX};
use glowplug_model::engine::{
    Counts, Engine, EngineConfig, Event, Finish, LoadError, ModelInfo, Outcome, Request, RequestId,
};
use glowplug_model::gguf::Gguf;
use tokio::sync::mpsc;

use crate::admission::{END_THINKING_MAX, End, STREAMS, Update};
use crate::config;
use crate::stream::{Marks, Text};

/// What admission sends for one request at most: submit, end, and some tries to end the thought.
const COMMANDS: usize = (2 + END_THINKING_MAX) * (QUEUE_MAX + STREAMS);
/// News not yet read.
const REPORTS: usize = 64;
/// Panics in steps that follow each other, after which the engine is given up.
const PANICS_MAX: usize = 3;
/// Tokens of context when the configuration has no say and the model allows more.
const CONTEXT_DEFAULT: usize = 4096;

/// For the thread.
#[derive(Debug)]
pub enum Command {
    /// a new request
    Submit(RequestId, Box<Request>),
    /// ends one
    End(RequestId, Finish),
    /// ends its thought
    EndThinking(RequestId),
}

/// From the thread.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every report is an update"
)]
pub enum Report {
    /// ready; the first report unless it is `Failed`
    Loaded(Box<ModelInfo>, Load),
    /// news of a request
    Update(Update, Load),
    /// the thread ended: the file cannot be served, or the engine is broken
    Failed(String),
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

/// The sending side; the thread ends when it is dropped.
#[derive(Debug)]
pub struct Worker {
    commands: std_mpsc::SyncSender<Command>,
}

impl Worker {
    /// Starts the thread; the model is loaded there.
    pub fn start(
        model: PathBuf,
        context: Option<usize>,
        engine: config::Engine,
    ) -> std::io::Result<(Self, mpsc::Receiver<Report>)> {
        let (commands, inbox) = std_mpsc::sync_channel(COMMANDS);
        let (outbox, reports) = mpsc::channel(REPORTS);
        std::thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || {
                let failed = match catch_unwind(AssertUnwindSafe(|| load(&model, context, &engine)))
                {
                    Ok(Ok(engine)) => run(engine, &inbox, &outbox).err(),
                    Ok(Err(e)) => Some(e.to_string()),
                    Err(_) => Some("loading the model panicked".to_owned()),
                };
                if let Some(why) = failed {
                    // nobody listening any more is the same end
                    let _ = outbox.blocking_send(Report::Failed(why));
                }
            })?;
        Ok((Self { commands }, reports))
    }

    /// Never waits; an error means that the thread is gone, which its last report tells too.
    pub fn send(&self, command: Command) -> Result<(), Gone> {
        self.commands.try_send(command).map_err(|_| Gone)
    }
}

/// The inference thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the inference thread is gone")]
pub struct Gone;

fn load(
    model: &std::path::Path,
    context: Option<usize>,
    config: &config::Engine,
) -> Result<Engine, LoadError> {
    let gguf = Gguf::open(model)?;
    let context = match context {
        Some(context) => context,
        None => {
            let architecture = gguf.str("general.architecture")?.to_owned();
            CONTEXT_DEFAULT.min(gguf.u32(&format!("{architecture}.context_length"))? as usize)
        }
    };
    let cores = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    Engine::load(
        &gguf,
        &EngineConfig {
            context,
            // admission counts; here only room for what it accepts
            queue: config.queue + STREAMS,
            prefill_threads: config.prefill_threads.unwrap_or(cores),
            decode_threads: config.decode_threads.unwrap_or(cores),
            isa: config.isa,
        },
    )
}

/// Err: the engine is broken. Ok: nobody needs it any more.
fn run(
    mut engine: Engine,
    inbox: &std_mpsc::Receiver<Command>,
    outbox: &mpsc::Sender<Report>,
) -> Result<(), String> {
    let mut desk = Desk::default();
    desk.load.counts = engine.counts();
    let loaded = Report::Loaded(Box::new(engine.model().clone()), desk.load);
    if outbox.blocking_send(loaded).is_err() {
        return Ok(());
    }
    let mut panics = 0;
    let mut idle = true;
    loop {
        if idle {
            if !desk.flush_all(outbox) {
                return Ok(());
            }
            match inbox.recv() {
                Ok(command) => desk.apply(&mut engine, command),
                Err(_) => return Ok(()),
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => desk.apply(&mut engine, command),
                Err(std_mpsc::TryRecvError::Empty) => break,
                Err(std_mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
        }
        let before = (Instant::now(), desk.load.tokens);
        match catch_unwind(AssertUnwindSafe(|| {
            engine.step(&mut |id, event| desk.event(id, event, Instant::now()))
        })) {
            Ok(busy) => {
                idle = !busy;
                panics = 0;
            }
            Err(_) => {
                panics += 1;
                if panics == PANICS_MAX {
                    return Err(format!("{PANICS_MAX} steps in a row panicked"));
                }
                desk.fail_running();
                engine.recover();
                idle = false;
            }
        }
        if desk.load.tokens > before.1 {
            desk.load.decoding += before.0.elapsed();
        }
        desk.load.counts = engine.counts();
        desk.flush(outbox);
    }
}

/// News on their way out, and who is running.
#[derive(Debug, Default)]
struct Desk {
    pending: BTreeMap<RequestId, Update>,
    running: Vec<RequestId>,
    load: Load,
}

impl Desk {
    fn apply(&mut self, engine: &mut Engine, command: Command) {
        let id = match &command {
            Command::Submit(id, _) | Command::End(id, _) | Command::EndThinking(id) => *id,
        };
        let applied = catch_unwind(AssertUnwindSafe(|| match command {
            Command::Submit(id, request) => engine.submit(id, *request).map(drop),
            // false: it ended by itself, and its last update is on the way
            Command::End(id, why) => {
                engine.end(id, why);
                Ok(())
            }
            Command::EndThinking(id) => {
                engine.end_thinking(id);
                Ok(())
            }
        }));
        match applied {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => self.end(id, End::Refused(refusal), Instant::now()),
            Err(_) => self.fail(id),
        }
    }

    fn event(&mut self, id: RequestId, event: Event, now: Instant) {
        match event {
            Event::Started { .. } => {
                self.running.push(id);
                self.update(id).marks.started = Some(now);
            }
            Event::Prefilled => self.update(id).marks.prefilled = Some(now),
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

    /// A panic belongs to what was running, and the engine forgets it; the others go on.
    fn fail_running(&mut self) {
        for id in std::mem::take(&mut self.running) {
            self.fail(id);
        }
    }

    fn fail(&mut self, id: RequestId) {
        let outcome = Outcome {
            finish: Finish::Failed,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            reasoning_tokens: 0,
        };
        self.end(id, End::Finished(outcome), Instant::now());
    }

    /// Sends what the channel takes; the rest stays and grows together.
    fn flush(&mut self, outbox: &mpsc::Sender<Report>) {
        while let Some(entry) = self.pending.first_entry() {
            match outbox.try_reserve() {
                Ok(permit) => permit.send(Report::Update(entry.remove(), self.load)),
                Err(_) => return,
            }
        }
    }

    /// Sends everything; there is nothing else to do. False: nobody listens.
    fn flush_all(&mut self, outbox: &mpsc::Sender<Report>) -> bool {
        while let Some((_, update)) = self.pending.pop_first() {
            if outbox
                .blocking_send(Report::Update(update, self.load))
                .is_err()
            {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn outcome(finish: Finish) -> Outcome {
        Outcome {
            finish,
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: 2,
            reasoning_tokens: 0,
        }
    }

    fn text(content: &str) -> Event {
        Event::Text {
            content: content.to_owned(),
            reasoning: String::new(),
            logprobs: None,
        }
    }

    #[test]
    fn a_slow_server_gets_text_put_together_and_loses_nothing() {
        let (outbox, mut reports) = mpsc::channel(1);
        let mut desk = Desk::default();
        let now = Instant::now();
        desk.event(
            1,
            Event::Started {
                prompt_tokens: 1,
                cached_tokens: 0,
            },
            now,
        );
        desk.flush(&outbox);
        for i in 0..100 {
            desk.event(1, text(&i.to_string()), now);
            desk.flush(&outbox);
        }
        desk.event(1, Event::Finished(outcome(Finish::Stop)), now);
        desk.flush(&outbox);
        assert_eq!(desk.pending.len(), 1);
        let Ok(Report::Update(first, _)) = reports.try_recv() else {
            panic!()
        };
        assert!(first.end.is_none() && first.marks.started.is_some());
        desk.flush(&outbox);
        let Ok(Report::Update(second, load)) = reports.try_recv() else {
            panic!()
        };
        assert_eq!(
            second.text.content,
            (0..100).map(|i| i.to_string()).collect::<String>()
        );
        assert_eq!(second.end.unwrap().0, End::Finished(outcome(Finish::Stop)));
        assert_eq!(load.tokens, 100);
        assert!(desk.pending.is_empty() && desk.running.is_empty());
    }

    #[test]
    fn a_panic_fails_what_was_running_and_keeps_its_text() {
        let mut desk = Desk::default();
        let now = Instant::now();
        desk.event(
            7,
            Event::Started {
                prompt_tokens: 1,
                cached_tokens: 0,
            },
            now,
        );
        desk.event(7, text("so far"), now);
        desk.update(8).marks.prefilled = Some(now);
        desk.fail_running();
        let update = desk.pending.remove(&7).unwrap();
        assert_eq!(update.text.content, "so far");
        assert!(matches!(
            update.end,
            Some((
                End::Finished(Outcome {
                    finish: Finish::Failed,
                    ..
                }),
                _
            ))
        ));
        assert!(desk.pending.remove(&8).unwrap().end.is_none());
        assert!(desk.running.is_empty());
    }
}
