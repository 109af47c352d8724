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
use glowplug_model::engine::{Compute, Conversations, Engine, EngineConfig, LoadError, Worked};
use glowplug_model::gguf::GgufError;
use glowplug_model::kv::NoMemory;
use glowplug_model::text::ChatTemplate;
use tokio::sync::{mpsc, watch};

use crate::config;
use crate::machine::cores::Cores;
use crate::machine::sensors;
use crate::models::packed::Weights;
use crate::models::plan::{Plan, Threads};
use effort::Governed;
use inbox::Inbox;
pub use lost::Lost;
use messages::{Command, END_THINKING_MAX, Report, VERBS_MAX};
use pace::Step;
use prompts::AHEAD;

mod effort;
mod inbox;
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
        sessions: config::Sessions,
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
                    load(model, &plan, &engine, &sessions, threads, &machine.cores)
                })) {
                    Ok(Ok((mut loaded, mapped))) => {
                        // if nobody listens any more, the next report finds out
                        let _ = told.blocking_send(Report::Mapped(Box::new(mapped)));
                        loaded.set_template(template);
                        loaded.adopt(conversations);
                        let governed = Governed::new(machine.state, threads, engine.max_streams);
                        let life = Life {
                            expire: sessions.expire,
                            beat: machine.beat,
                            results,
                        };
                        run(loaded, life, governed, &taken, &told)
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

/// Loads the model and has it answer the self-test. An error means that the file cannot be served.
fn load(
    mut model: Weights,
    plan: &Plan,
    config: &config::Engine,
    sessions: &config::Sessions,
    threads: Threads,
    cores: &Cores,
) -> Result<(Engine, Weights), Lost> {
    let mut config = EngineConfig {
        context: plan.context,
        streams: config.max_streams,
        pages: plan.memory.pages,
        kv: plan.kv,
        lock: plan.lock,
        share: plan.share,
        sessions: sessions.dir.clone(),
        session_writes: sessions.writes_per_day,
        window: sessions.window,
        // admission bounds the queue; here there must only be room for what it accepts
        queue: config.queue + config.max_streams,
        prefill_threads: threads.prefill,
        decode_threads: threads.decode,
        drafts: true,
        affinity: cores.places(threads.prefill.max(threads.decode)),
        isa: config.isa,
        compute: plan.compute,
    };
    let once = |model: &mut Weights, config: &EngineConfig| {
        let gguf = model.prepare()?;
        room(plan, threads)?;
        Engine::load(&gguf, config)
    };
    let loaded = |model: &mut Weights, config: &EngineConfig| match once(model, config) {
        Err(LoadError::Gguf(error)) if !lacks_memory(&error) && model.discard() => {
            tracing::warn!("the packed file is thrown away: {error}");
            once(model, config)
        }
        loaded => loaded,
    };
    let mut engine = match loaded(&mut model, &config) {
        Err(LoadError::NoGpu(error)) => {
            tracing::warn!("the processor computes instead of a GPU: {error}");
            config.compute = Compute::Cpu;
            loaded(&mut model, &config)
        }
        loaded => loaded,
    }?;
    self::self_test::answers(&mut engine).map_err(|error| Lost {
        why: error.to_string(),
        stays: true,
    })?;
    if engine.watch().lost() {
        return Err(Lost::weights());
    }
    Ok((engine, model))
}

/// Whether a file was not mapped for want of memory, which says nothing about the file.
fn lacks_memory(error: &GgufError) -> bool {
    matches!(error, GgufError::Io(error) if error.kind() == std::io::ErrorKind::OutOfMemory)
}

/// Refuses in words a model for whose tables and threads the system has no memory. The libraries that build the tables cannot
/// be refused an allocation: they abort.
fn room(plan: &Plan, threads: Threads) -> Result<(), LoadError> {
    /// At most 0.8 MB are in use while the regular expressions of the tokenizer are compiled, which the plan counts among
    /// the program's own; twice that, for what is allocated beside them.
    const EXPRESSIONS: u64 = 1_600_000;
    /// The stack of a thread of the standard library.
    const STACK: u64 = 2 << 20;
    /// The threads that build the tokenizer, prepare prompts and read files.
    const OTHERS: usize = 3;
    let stacks = (threads.prefill.max(threads.decode) + OTHERS) as u64 * STACK;
    let tables = plan
        .memory
        .lines()
        .filter(|(line, _)| ["kv_pages", "scratch", "tokenizer"].contains(line));
    let mut held = Vec::new();
    for bytes in tables.map(|(_, bytes)| bytes).chain([stacks, EXPRESSIONS]) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut room = Vec::<u8>::new();
        room.try_reserve_exact(bytes)
            .map_err(|_| NoMemory { bytes })?;
        held.push(room);
    }
    // what nobody looks at is never reserved
    std::hint::black_box(&held);
    Ok(())
}

/// What the thread needs to know besides the model and the plan.
struct Life {
    /// Sessions that were unused for so long end.
    expire: Duration,
    /// How often the thread must report, if it must: a step that hangs is noticed by its silence.
    beat: Option<Duration>,
    /// Where prepared prompts go: to the thread's own commands.
    results: Weak<std_mpsc::SyncSender<Command>>,
}

/// Runs until nobody needs the engine any more or it is broken. Then the engine is gone.
fn run(
    mut engine: Engine,
    life: Life,
    governed: Governed,
    commands: &std_mpsc::Receiver<Command>,
    reports: &mpsc::Sender<Report>,
) -> (Result<(), Lost>, Conversations) {
    let ended = match prompts::start(engine.prompts().clone(), life.results) {
        Ok((jobs, thread)) => {
            let inbox = Inbox::new(life.beat, jobs);
            let ended = answer(&mut engine, life.expire, governed, inbox, commands, reports);
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
    expire: Duration,
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
    let loaded = Report::Loaded(info, engine.prompts().clone(), inbox.load);
    if reports.blocking_send(loaded).is_err() {
        return Ok(());
    }
    warn(engine);
    let watch = engine.watch().clone();
    let mut panics = 0;
    // when the next step may begin; none while there is nothing to do
    let mut next = None;
    while inbox.attend(engine, commands, reports, next) {
        let before = (Instant::now(), inbox.load);
        if before.0.duration_since(swept) >= SWEEP {
            swept = before.0;
            engine.expire(swept.duration_since(begun).as_secs(), expire.as_secs());
        }
        warn(engine);
        governed.apply(engine);
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
            inbox.recover(engine);
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
                    Worked::Pass(_) => {
                        engine.took(before.0.elapsed().as_secs_f64());
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
                inbox.recover(engine);
                if let Some(why) = engine.gpu_lost() {
                    inbox.flush(reports);
                    return Err(format!("the GPU is lost: {why}").into());
                }
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
