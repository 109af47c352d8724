//! Loading a model until it answers, and loading it again without its GPU.

use std::time::{Duration, Instant};

use glowplug_model::engine::{Compute, Engine, EngineConfig, LoadError};
use glowplug_model::gguf::GgufError;
use glowplug_model::kv::NoMemory;

use super::Sessions;
use super::device::{self, Computes};
use super::lost::Lost;
use super::self_test;
use crate::config;
use crate::machine::cores::Cores;
use crate::models::packed::Weights;
use crate::models::plan::{Plan, Threads};

/// What an engine was loaded from.
pub(super) struct Source {
    pub(super) weights: Weights,
    pub(super) config: EngineConfig,
    /// Which processor computes, and why.
    pub(super) computes: Computes,
    /// How long the self-test took, which is the first that is known of its steps.
    pub(super) tested: Duration,
}

/// Loads the model and has it answer the self-test. An error means that the file cannot be served.
pub(super) fn load(
    mut weights: Weights,
    plan: &Plan,
    config: &config::Engine,
    sessions: &Sessions,
    threads: Threads,
    cores: &Cores,
) -> Result<(Engine, Source), Lost> {
    let mut config = EngineConfig {
        context: plan.context,
        streams: config.max_streams,
        pages: plan.memory.pages,
        state_slots: plan.memory.state_slots,
        kv: plan.kv,
        lock: plan.lock,
        share: plan.share,
        sessions: sessions.config.dir.clone(),
        session_keys: sessions.keys.clone(),
        session_writes: sessions.config.writes_per_day,
        window: sessions.config.window,
        // admission bounds the queue; here there must only be room for what it accepts
        queue: config.queue + config.max_streams,
        prefill_threads: threads.prefill,
        decode_threads: threads.decode,
        drafts: true,
        step_tokens: plan.step_tokens,
        affinity: cores.places(threads.prefill.max(threads.decode)),
        isa: config.isa,
        compute: Compute::Cpu,
    };
    let once = |weights: &mut Weights, config: &EngineConfig| {
        let gguf = weights.prepare()?;
        room(plan, threads)?;
        Engine::load(&gguf, config)
    };
    let loaded = |weights: &mut Weights, config: &EngineConfig| match once(weights, config) {
        Err(LoadError::Gguf(error)) if !lacks_memory(&error) && weights.discard() => {
            tracing::warn!("the packed file is thrown away: {error}");
            once(weights, config)
        }
        loaded => loaded,
    };
    room(plan, threads)?;
    weights.choose_layout(&config, cores.all());
    let mut computes = device::choose(plan, &mut weights, &config, cores.all());
    config.compute = computes.compute;
    let mut engine = match loaded(&mut weights, &config) {
        Err(LoadError::NoGpu(error)) => {
            tracing::warn!("the processor computes instead of a GPU: {error}");
            computes = Computes::cpu(error.to_string());
            config.compute = Compute::Cpu;
            loaded(&mut weights, &config)
        }
        loaded => loaded,
    }?;
    let mut source = Source {
        weights,
        config,
        computes,
        tested: Duration::ZERO,
    };
    let begun = Instant::now();
    let mut answers = self_test::answers(&mut engine);
    if engine.gpu_lost().is_some() {
        source.go_on_without_gpu(&mut engine)?;
        answers = self_test::answers(&mut engine);
    }
    source.tested = begun.elapsed();
    answers.map_err(|error| Lost {
        why: error.to_string(),
        stays: true,
    })?;
    if engine.watch().lost() {
        return Err(Lost::weights());
    }
    Ok((engine, source))
}

impl Source {
    /// Has the processor go on where the GPU is lost. The plan has room for what it needs.
    pub(super) fn go_on_without_gpu(&mut self, engine: &mut Engine) -> Result<(), Lost> {
        let why = engine.gpu_lost().unwrap_or_default();
        tracing::error!("the GPU is lost, and the processor goes on: {why}");
        let gguf = self.weights.map().map_err(LoadError::from)?;
        engine.go_on_without_gpu(&gguf, &self.config)?;
        self.computes = Computes::cpu(format!("the GPU was lost: {why}"));
        Ok(())
    }
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
    /// The threads that build the tokenizer, make masks, prepare prompts and read files.
    const OTHERS: usize = 4;
    let stacks = (threads.prefill.max(threads.decode) + OTHERS) as u64 * STACK;
    let tables = plan
        .memory
        .lines()
        .filter(|(line, _)| ["kv_pages", "states", "scratch", "tokenizer", "masks"].contains(line));
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
