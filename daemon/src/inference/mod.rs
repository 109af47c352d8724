//! The inference thread, which alone owns the engine. Commands come through a bounded channel and are all taken before
//! every step, so that a cancel is seen before the next token. Reports go back through a bounded channel. When the
//! server is slow, the text of a request is put together here instead of waiting, so that decoding never depends on a
//! broker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glowplug_firmware_config::limits::{QUEUE_MAX, STREAMS_MAX};
use glowplug_model::engine::{Conversations, Engine, Finish, Worked};
use glowplug_model::seal::KeyFile;
use glowplug_model::text::ChatTemplate;
use tokio::sync::{mpsc, watch};

use crate::config;
use crate::machine::cores::Cores;
use crate::machine::sensors;
use crate::models::packed::Weights;
use crate::models::plan::{Plan, Threads};
pub use device::Computes;
use device::Patience;
use effort::Governed;
use inbox::Inbox;
use load::Source;
pub use lost::Lost;
use messages::{Command, END_THINKING_MAX, Report, VERBS_MAX};
use pace::Step;
use prompts::AHEAD;

mod device;
mod effort;
mod inbox;
mod load;
mod lost;
pub mod messages;
pub mod pace;
mod prompts;
mod self_test;

/// The most commands that can wait: for each request its submission, its end, its release and some tries to end its thought; the
/// verbs; and prompts that come back prepared.
const COMMANDS: usize = (3 + END_THINKING_MAX) * (QUEUE_MAX + STREAMS_MAX) + VERBS_MAX + AHEAD;
/// How often old sessions are looked for. An idle daemon wakes this often.
const SWEEP: Duration = Duration::from_secs(60);
/// How often it is looked whether a thread that was told to leave has ended.
const LEFT_POLL: Duration = Duration::from_millis(5);
/// Reports that the server has not read yet.
const REPORTS: usize = 64;
/// After this many panics in consecutive steps the engine is given up.
const PANICS_MAX: usize = 3;

/// What the thread needs to know of the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The cores that the daemon may use.
    pub cores: Cores,
    /// What the sensors last said, and what the governor made of it.
    pub state: watch::Receiver<sensors::MachineState>,
    /// How often the thread must report, if it must: a step that hangs is noticed by its silence.
    pub beat: Option<Duration>,
    /// How long the watchdog waits for a report, if there is one.
    pub watchdog: Option<Duration>,
}

/// What the thread needs to know of conversations.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub config: config::Sessions,
    /// What their files are encrypted with. It outlives a change of models, because a file of keys that cannot be used
    /// at that moment costs no conversation.
    pub keys: Option<Arc<KeyFile>>,
}

/// The server's side of the inference thread. The thread ends when this is dropped or told to leave.
#[derive(Debug)]
pub struct Worker {
    /// None: it was told to leave.
    commands: Option<Arc<std_mpsc::SyncSender<Command>>>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread, which loads the model as it was planned and goes on with the conversations of the engine
    /// before.
    pub fn start(
        model: Weights,
        plan: Plan,
        template: ChatTemplate,
        engine: config::Engine,
        sessions: Sessions,
        conversations: Conversations,
        machine: Machine,
    ) -> std::io::Result<(Self, mpsc::Receiver<Report>)> {
        let (commands, taken) = std_mpsc::sync_channel(COMMANDS);
        let commands = Arc::new(commands);
        // weak, so that the thread of the prompts does not keep this one alive
        let results = Arc::downgrade(&commands);
        let (told, reports) = mpsc::channel(REPORTS);
        let thread = std::thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || {
                let threads = threads(&plan, &engine, &machine.cores);
                let (ended, conversations) = match catch_unwind(AssertUnwindSafe(|| {
                    load::load(model, &plan, &engine, &sessions, threads, &machine.cores)
                })) {
                    Ok(Ok((mut loaded, source))) => {
                        // if nobody listens any more, the next report finds out
                        let _ =
                            told.blocking_send(Report::Mapped(Box::new(source.weights.clone())));
                        loaded.set_template(template);
                        loaded.adopt(conversations);
                        let governed = Governed::new(machine.state, threads, engine.max_streams);
                        let life = Life {
                            expire: sessions.config.expire,
                            beat: machine.beat,
                            watchdog: machine.watchdog,
                            results,
                        };
                        run(loaded, source, &life, governed, &taken, &told)
                    }
                    Ok(Err(why)) => (Err(why), conversations),
                    Err(_) => (
                        Err("loading the model panicked".to_owned().into()),
                        conversations,
                    ),
                };
                // if nobody listens any more, the thread ends just the same
                let _ = told.blocking_send(Report::Ended(ended, conversations));
            })?;
        let commands = Some(commands);
        Ok((Self { commands, thread }, reports))
    }

    /// Sends a command without waiting. An error means that the thread is gone; its last report says so too.
    pub fn send(&self, command: Command) -> Result<(), Gone> {
        let commands = self.commands.as_ref().ok_or(Gone)?;
        commands.try_send(command).map_err(|_| Gone)
    }

    /// Lets the thread end; its last report says when it has.
    pub fn leave(&mut self) {
        self.commands = None;
    }

    /// Lets the thread end, and waits for it no longer than this.
    pub async fn stop(mut self, longest: Duration) {
        self.leave();
        // no thread is started to join this one: a system that is short of them refuses it
        let ended = async {
            while !self.thread.is_finished() {
                tokio::time::sleep(LEFT_POLL).await;
            }
        };
        if tokio::time::timeout(longest, ended).await.is_err() {
            tracing::warn!("the inference thread did not end in time; a session may be unsaved");
        }
    }
}

/// The inference thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the inference thread is gone")]
pub struct Gone;

/// The threads as planned. A board that was named may have more cores than this machine, so they are bounded.
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

/// What the thread needs to know besides the model and the plan.
struct Life {
    /// Sessions that were unused for so long end.
    expire: Duration,
    /// How often the thread must report, if it must: a step that hangs is noticed by its silence.
    beat: Option<Duration>,
    /// How long the watchdog waits for a report, if there is one.
    watchdog: Option<Duration>,
    /// Where prepared prompts go: to the thread's own commands.
    results: Weak<std_mpsc::SyncSender<Command>>,
}

/// Runs until nobody needs the engine any more or it is broken. Then the engine is gone.
fn run(
    mut engine: Engine,
    source: Source,
    life: &Life,
    governed: Governed,
    commands: &std_mpsc::Receiver<Command>,
    reports: &mpsc::Sender<Report>,
) -> (Result<(), Lost>, Conversations) {
    let ended = match prompts::start(engine.prompts().clone(), life.results.clone()) {
        Ok((jobs, thread)) => {
            let inbox = Inbox::new(life.beat, jobs);
            let ended = answer(
                &mut engine,
                source,
                life,
                governed,
                inbox,
                commands,
                reports,
            );
            // the inbox is gone, so that thread ends after its current prompt; its panics were caught
            let _ = thread.join();
            ended
        }
        Err(error) => Err(format!("the thread of the prompts does not start: {error}").into()),
    };
    let unsaved = engine.save_all();
    warn(&mut engine);
    if unsaved > 0 {
        tracing::warn!(unsaved, "sessions could not be saved");
    }
    (ended, engine.into_conversations())
}

/// The loop of [`run`]. An error means that the engine is broken.
fn answer(
    engine: &mut Engine,
    mut source: Source,
    life: &Life,
    mut governed: Governed,
    mut inbox: Inbox,
    commands: &std_mpsc::Receiver<Command>,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Lost> {
    let begun = Instant::now();
    let mut swept = begun;
    inbox.load.counts = engine.counts();
    inbox.told = inbox.load;
    let info = Box::new(engine.model().clone());
    let prompts = engine.prompts().clone();
    let loaded = Report::Loaded(info, prompts, source.computes.clone(), inbox.load);
    if reports.blocking_send(loaded).is_err() {
        return Ok(());
    }
    warn(engine);
    let mut watch = engine.watch().clone();
    let mut panics = 0;
    let mut patience = Patience::new(life.watchdog);
    patience.took(source.tested);
    // when the next step may begin; none while there is nothing to do
    let mut next = None;
    while inbox.attend(engine, commands, reports, next) {
        let before = (Instant::now(), inbox.load);
        if before.0.duration_since(swept) >= SWEEP {
            swept = before.0;
            let now = swept.duration_since(begun).as_secs();
            engine.expire(now, life.expire.as_secs());
        }
        warn(engine);
        governed.apply(engine);
        engine.wait_at_most(patience.longest());
        let prefill = !inbox.prefill.is_empty();
        let stepped = guarded(|| {
            engine.step(&mut |id, event| {
                // what was computed without the weights is not reported
                if !watch.lost() {
                    inbox.event(id, event, Instant::now());
                }
            })
        });
        if watch.lost() {
            inbox.recover(engine, Finish::Failed);
            inbox.flush(reports);
            return Err(Lost::weights());
        }
        match stepped {
            Some(worked) => {
                let decoded = inbox.load.tokens > before.1.tokens;
                inbox.load.progress += u64::from(worked != Worked::Nothing);
                next = match worked {
                    Worked::Nothing => {
                        inbox.chore(engine);
                        None
                    }
                    Worked::Little => Some(Instant::now()),
                    Worked::GpuLost => {
                        // those who wait for an answer hear of it before the processor is made ready
                        inbox.recover(engine, Finish::GpuLost);
                        inbox.load.counts = engine.counts();
                        inbox.flush(reports);
                        source.go_on_without_gpu(engine)?;
                        watch = engine.watch().clone();
                        let info = Box::new(engine.model().clone());
                        let moved = Report::Moved(info, source.computes.clone());
                        if reports.blocking_send(moved).is_err() {
                            return Ok(());
                        }
                        Some(Instant::now())
                    }
                    Worked::Pass(_) => {
                        let took = before.0.elapsed();
                        engine.took(took.as_secs_f64());
                        patience.took(took);
                        let step = if decoded && !prefill && inbox.prefill.is_empty() {
                            Step::Decode(before.1.counts.running)
                        } else {
                            Step::Prompt
                        };
                        Some(governed.next(before.0, step))
                    }
                };
                if let Some(next) = next.filter(|_| decoded) {
                    // the pause is a part of what a token costs
                    inbox.load.decoding += next - before.0;
                }
                panics = 0;
            }
            None => {
                panics += 1;
                if panics == PANICS_MAX {
                    return Err(format!("{PANICS_MAX} steps in a row panicked").into());
                }
                inbox.recover(engine, Finish::Failed);
                next = Some(Instant::now());
            }
        }
        inbox.load.counts = engine.counts();
        inbox.flush(reports);
    }
    Ok(())
}

/// Writes what the engine has to tell an operator to the log.
fn warn(engine: &mut Engine) {
    for notice in engine.notices() {
        tracing::warn!("{notice}");
    }
}

/// Runs `work` and catches its panic, which is none.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
