//! The memory plan of this daemon: what the model's file and the configuration need, laid out below a limit before
//! anything is loaded.

use std::path::Path;

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::{
    CALLS_IN_FLIGHT_MAX, CHUNK_TOKENS, DEDUP_BYTES_MAX, SESSION_TEXT_MAX, STEP_TOKENS,
    TOOL_ANSWER_MAX,
};
use glowplug_firmware_config::plan::device::{DevicePlan, device_plan};
use glowplug_firmware_config::plan::{Choice, DoesNotFit, Limit, MemoryPlan, Shape};
use glowplug_model::engine::{
    KvFormats, LoadError, Share, check_context, device_memory, gpu as gpu_here, shape,
};
use glowplug_model::gguf::{Gguf, GgufError};
use glowplug_model::network::dims::{Dims, DimsError};
use glowplug_model::text::Format;

use super::tuned::Tuned;
use crate::config::{Config, Device, Preset};
use crate::machine::board::Chosen;
use crate::machine::cores::{Cores, FAST};
use crate::machine::memory_limit::{self, Unknown};
use crate::mqtt::{self, broker};
use crate::pool::record;
use crate::requests::admission::KEPT_BYTES_MAX;
use crate::speech;
use crate::tools::{catalogue, journal};

/// Tokens of context when the configuration does not say and the model allows more.
const CONTEXT_DEFAULT: usize = 4096;
/// Bytes of messages besides the requests that wait: what MQTT holds, the last frames that are kept to answer repeated
/// requests, the text of sessions, of presets and of their formats, what answers hold back that are spoken, and what is
/// being written of requests of the pool.
fn message_bytes(config: &Config) -> u64 {
    let server = config.mqtt.server.as_ref();
    let tls = server.map_or(config.listen_tls.is_some(), |server| server.tls);
    let longest = config.engine.max_payload_bytes;
    let held = mqtt::bytes(config.read_max(), longest, server.is_none(), tls);
    let users = config
        .users_file
        .as_ref()
        .map_or(0, |_| broker::USERS_BYTES);
    let presets = config.presets.iter().filter_map(Preset::system);
    let presets = presets.map(|text| text.len()).sum::<usize>();
    let formats = config.presets.iter().filter_map(|p| p.format.as_ref());
    let presets = presets + formats.map(Format::bytes).sum::<usize>();
    let spoken = (config.engine.queue + config.engine.max_streams) * speech::HELD_MAX;
    let pool = config.pool.as_ref().map_or(0, |_| record::BYTES_MAX);
    (held
        + users
        + DEDUP_BYTES_MAX
        + SESSION_TEXT_MAX
        + presets
        + spoken
        + pool
        + tool_bytes(config)) as u64
}

/// Bytes that the daemon's own tools may hold, where there are any: a copy of each request that goes on with results, the
/// answers of tools and the calls in flight, what is remembered of requests that acted, and the catalogues of the house.
fn tool_bytes(config: &Config) -> usize {
    if config.tools.is_empty() && config.tools_from.is_none() {
        return 0;
    }
    let requests =
        (config.engine.queue + config.engine.max_streams) * config.engine.max_payload_bytes;
    let calls = CALLS_IN_FLIGHT_MAX * 2 * TOOL_ANSWER_MAX;
    let catalogues = config
        .tools_from
        .as_ref()
        .map_or(0, |_| catalogue::BYTES_MAX);
    requests + calls + journal::BYTES_MAX + KEPT_BYTES_MAX + catalogues
}

/// What the engine is loaded with.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Most tokens of one sequence.
    pub context: usize,
    /// How keys and values are stored.
    pub kv: KvFormats,
    /// Whether they are kept from being swapped out.
    pub lock: bool,
    /// Whose requests find what is in them.
    pub share: Share,
    /// Which processor may compute. What the host needs is planned for either, so that it can go on without a GPU.
    pub device: Device,
    /// What the GPU needs besides, or why it is not used.
    pub gpu: Result<DevicePlan, String>,
    /// Threads for prefill and for decoding: as configured, else as `glowplug tune` found, else the fast cores.
    pub threads: Threads,
    /// Tokens of the widest step: more than those of a chunk only where that leaves the cache as large as it is.
    pub step_tokens: usize,
    /// The number of pages, and where every byte goes.
    pub memory: MemoryPlan,
}

/// The threads of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    pub prefill: usize,
    pub decode: usize,
}

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Dims(#[from] DimsError),
    /// More context was configured than the model was made for.
    #[error(transparent)]
    Context(LoadError),
    /// A format was configured that the model's heads cannot have.
    #[error("`memory.kv_format`: {} stores {} values at a time, a head of this model has {head_dim}", format.name(), KvFormat::BLOCK)]
    Format { format: KvFormat, head_dim: usize },
    #[error(transparent)]
    Unknown(#[from] Unknown),
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
}

/// Makes the plan for an open file. `model` is its path, and `requantized_head` the bytes that only its packed file
/// has.
///
/// # Errors
/// [`PlanError`]; nothing was loaded.
pub fn plan(
    model: &Path,
    gguf: &Gguf,
    requantized_head: u64,
    config: &Config,
    limit: &Limit,
) -> Result<Plan, PlanError> {
    let dims = Dims::from_gguf(gguf)?;
    if let Some(asked) = config.model.context {
        check_context(asked, &dims).map_err(PlanError::Context)?;
    }
    let mut shape = shape(gguf, &dims);
    // the packed file is mapped instead, with its requantised head
    shape.file_bytes += requantized_head;
    let mut plan = before_pull(model, &shape, dims.context_max(), config, limit)?;
    plan.gpu = gpu(gguf, &dims, plan.kv, plan.context, config, &plan.memory);
    Ok(plan)
}

/// Makes the plan of a file that is not here, without a GPU, from its sizes and the most tokens of context that the model takes.
///
/// # Errors
/// [`PlanError`].
pub(crate) fn before_pull(
    model: &Path,
    shape: &Shape,
    context_max: usize,
    config: &Config,
    limit: &Limit,
) -> Result<Plan, PlanError> {
    let context = match config.model.context {
        Some(asked) if asked == 0 || asked > context_max => {
            let limit = context_max;
            return Err(PlanError::Context(LoadError::Context { asked, limit }));
        }
        asked => asked.unwrap_or(CONTEXT_DEFAULT.min(context_max)),
    };
    let kv = formats(config.memory.kv_format, shape.head_dim)?;
    let engine = &config.engine;
    let threads = threads(model, config);
    let message_bytes = message_bytes(config);
    let plan = |step_tokens| {
        let choice = Choice {
            context,
            k: kv.k,
            v: kv.v,
            kv_pages: config.memory.kv_pages,
            streams: engine.max_streams,
            queue: engine.queue,
            max_payload_bytes: engine.max_payload_bytes,
            message_bytes,
            step_tokens,
            threads: threads.prefill.max(threads.decode),
        };
        glowplug_firmware_config::plan::plan(limit, shape, &choice)
    };
    let memory = plan(CHUNK_TOKENS)?;
    let cache = |plan: &MemoryPlan| (plan.pages, plan.state_slots);
    let (step_tokens, memory) = match plan(STEP_TOKENS) {
        Ok(wide) if cache(&wide) == cache(&memory) => (STEP_TOKENS, wide),
        _ => (CHUNK_TOKENS, memory),
    };
    Ok(Plan {
        context,
        kv,
        lock: config.memory.lock,
        share: config.memory.share,
        device: config.model.device,
        gpu: Err("its file is not here".to_owned()),
        threads,
        step_tokens,
        memory,
    })
}

/// See [`Plan::gpu`]. A GPU is opened to see how much memory it has, but not for a board that may be elsewhere.
fn gpu(
    gguf: &Gguf,
    dims: &Dims,
    kv: KvFormats,
    context: usize,
    config: &Config,
    host: &MemoryPlan,
) -> Result<DevicePlan, String> {
    if config.model.device == Device::Cpu {
        return Err("`model.device` is `cpu`".to_owned());
    }
    let needs = device_memory(gguf, dims, kv, host.pages, context).map_err(|e| e.to_string())?;
    let limit = if config.board_chosen == Chosen::Named {
        None
    } else {
        let gpu = gpu_here().map_err(|error| error.to_string())?;
        memory_limit::of_gpu(&config.root, &gpu, host)
    };
    device_plan(limit, &needs).map_err(|error| error.to_string())
}

/// See [`Plan::threads`]. For a board that was named and may be elsewhere, nothing was measured and its own cores
/// count.
fn threads(model: &Path, config: &Config) -> Threads {
    let engine = &config.engine;
    let here = Cores::here(&config.root);
    let (all, fast) = match (&config.board, &config.board_chosen) {
        (Some(board), Chosen::Named) => (board.cores(0.0), board.cores(FAST)),
        _ => (here.all(), here.fast()),
    };
    let tuned = Tuned::read(model, engine.isa, all).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}", Tuned::path(model).display());
        None
    });
    let found = |count: fn(&Tuned) -> usize| tuned.as_ref().map_or(fast, count);
    Threads {
        prefill: engine
            .prefill_threads
            .unwrap_or_else(|| found(|t| t.prefill)),
        decode: engine.decode_threads.unwrap_or_else(|| found(|t| t.decode)),
    }
}

/// The formats that were chosen, if the heads can have them. Without a choice it is q8_0, or f16 for heads that cannot
/// have that.
pub(crate) fn formats(chosen: Option<KvFormats>, head_dim: usize) -> Result<KvFormats, PlanError> {
    let Some(kv) = chosen else {
        let format = if KvFormat::Q8_0.takes(head_dim) {
            KvFormat::Q8_0
        } else {
            KvFormat::F16
        };
        return Ok(KvFormats {
            k: format,
            v: format,
        });
    };
    match [kv.k, kv.v]
        .into_iter()
        .find(|format| !format.takes(head_dim))
    {
        Some(format) => Err(PlanError::Format { format, head_dim }),
        None => Ok(kv),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Draft;
    use crate::machine::memory_limit;
    use glowplug_firmware_config::board::{self, Board};
    use glowplug_firmware_config::limits::PAGE_TOKENS;
    use glowplug_firmware_config::plan::LimitSource;
    use glowplug_firmware_config::plan::shapes::{Q15, SMOL};
    use glowplug_firmware_config::units::Bytes;
    use std::path::PathBuf;

    /// The shape of Qwen2.5-Coder-0.5B-Instruct in Q4_K_M.
    const Q05: Shape = Shape {
        file_bytes: 491_400_064,
        layers: 24,
        embed: 896,
        heads: 14,
        head_dim: 64,
        ff: 4864,
        ..Q15
    };
    /// The shape of DeepSeek-R1-Distill-Qwen-7B in Q4_K_M.
    const Q7: Shape = Shape {
        file_bytes: 4_683_073_536,
        embed: 3584,
        heads: 28,
        kv_heads: 4,
        ff: 18_944,
        vocab: 152_064,
        ..Q15
    };

    /// What the default configuration chooses, with steps of a chunk.
    fn choice(context: usize, kv: KvFormats, threads: usize) -> Choice {
        let config = Draft::default().finish("host", PathBuf::new()).unwrap();
        Choice {
            context,
            k: kv.k,
            v: kv.v,
            kv_pages: None,
            streams: config.engine.max_streams,
            queue: config.engine.queue,
            max_payload_bytes: config.engine.max_payload_bytes,
            message_bytes: message_bytes(&config),
            step_tokens: CHUNK_TOKENS,
            threads,
        }
    }

    /// Every board with its own model, and with every smaller one; what does not fit says which line and why.
    #[test]
    fn every_board_fits_its_model_and_a_smaller_one_names_the_line() {
        for (name, _) in board::FILES {
            let board = board::find(name).unwrap();
            let limit = memory_limit::there(&board, None);
            let (k, v) = (board.model.k, board.model.v);
            let choice = choice(board.model.context, KvFormats { k, v }, board.cores(FAST));
            let plan = |limit: &Limit, shape: &Shape| {
                glowplug_firmware_config::plan::plan(limit, shape, &choice)
            };
            assert_eq!(board.model.name, "deepseek-r1-distill-qwen-1.5b", "{name}");
            for shape in [Q15, Q05, SMOL] {
                let plan = plan(&limit, &shape).unwrap_or_else(|e| panic!("{name}: {e}"));
                // two conversations of the whole context at least
                let pages = 2 * board.model.context.div_ceil(PAGE_TOKENS);
                assert!(plan.pages >= pages && plan.total() <= limit.bytes, "{name}");
            }
            if let Err(error) = plan(&limit, &Q7) {
                assert!(
                    ["weights", "kv_pages"].contains(&error.line),
                    "{name}: {error}"
                );
                assert_eq!(error.need, limit.bytes + error.missing);
            }
            let small = Board {
                ram: Bytes(board.reserve.0 + (1 << 30)),
                ..board.clone()
            };
            let error = plan(&memory_limit::there(&small, None), &Q15).unwrap_err();
            assert_eq!(
                (error.line, error.need),
                ("weights", (1 << 30) + error.missing)
            );
        }
    }

    /// From a limit with room for all that is wanted down to one that is too small.
    #[test]
    fn a_wide_step_takes_nothing_from_the_cache() {
        let config = Draft::default().finish("host", PathBuf::new()).unwrap();
        let (mut wide, mut narrow) = (0, 0);
        for bytes in (1_u64 << 30..4 << 30).rev().step_by(3 << 20) {
            let limit = Limit {
                bytes,
                from: LimitSource::Config,
            };
            let Ok(plan) = before_pull(Path::new("none"), &Q15, 32_768, &config, &limit) else {
                break;
            };
            let threads = plan.threads.prefill.max(plan.threads.decode);
            let without = choice(plan.context, plan.kv, threads);
            let without = glowplug_firmware_config::plan::plan(&limit, &Q15, &without).unwrap();
            assert_eq!(plan.memory.pages, without.pages, "{bytes}");
            assert!(plan.memory.total() <= bytes);
            match plan.step_tokens {
                STEP_TOKENS => wide += 1,
                _ => narrow += 1,
            }
        }
        assert!(wide > 0 && narrow > 0, "{wide} wide, {narrow} not");
    }

    #[test]
    fn the_embedded_broker_counts_where_it_is_used() {
        let plan = |toml: &str| {
            let draft = Draft::from_toml(toml).unwrap();
            message_bytes(&draft.finish("host", PathBuf::new()).unwrap())
        };
        let external = plan("[mqtt]\nurl = 'mqtt://b'");
        let embedded = plan("");
        assert_eq!(
            embedded - external,
            mqtt::broker::bytes(glowplug_firmware_config::limits::PAYLOAD_DEFAULT, false) as u64
        );
        let files = "cert_file = 'c'\nkey_file = 'k'";
        let with_tls = plan(&format!("[broker.tls]\n{files}"));
        assert!(with_tls > embedded + 64 * (32 << 10));
        assert!(plan("[mqtt]\nurl = 'mqtts://b'") > external);
        let with_users = plan("[broker]\nusers_file = 'u'");
        assert_eq!(with_users - embedded, broker::USERS_BYTES as u64);
        let larger = plan("[engine]\nmax_payload_bytes = 4194304");
        assert!(larger > embedded + 64 * (3 << 20));
        let preset = plan("[[presets]]\nname = 'a'\nsystem = 'Be brief.'");
        assert_eq!(preset - embedded, "Be brief.".len() as u64);
    }

    #[test]
    fn messages_that_came_in_are_in_the_plan() {
        let bytes = |payload: usize| {
            let text =
                format!("[mqtt]\nurl = 'mqtt://host'\n[engine]\nmax_payload_bytes = {payload}");
            let draft = Draft::from_toml(&text).unwrap();
            message_bytes(&draft.finish("host", PathBuf::new()).unwrap())
        };
        // what waits to be read, and the one in its reader's hands
        assert_eq!(bytes(4 << 20) - bytes(1 << 20), 2 * (3 << 20));
        assert!(bytes(4 << 20) > (mqtt::PACKET_MAX + mqtt::intake_bytes(4 << 20)) as u64);
    }

    #[test]
    fn a_board_that_was_named_computes_on_its_fast_cores() {
        for (name, prefill) in [("rk3588-8g", 4), ("sa8155p", 4), ("sa8295p", 8)] {
            let draft = Draft::from_toml(&format!("board = '{name}'")).unwrap();
            let config = draft.finish("host", PathBuf::new()).unwrap();
            let threads = threads(Path::new("none"), &config);
            assert_eq!(
                (threads.prefill, threads.decode),
                (prefill, prefill),
                "{name}"
            );
        }
    }

    #[test]
    fn heads_that_q8_0_cannot_store_are_f16_unless_it_was_asked_for() {
        let (f16, q8, q4) = (KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0);
        let both = |k, v| KvFormats { k, v };
        assert_eq!(formats(None, 128).unwrap(), both(q8, q8));
        assert_eq!(formats(None, 80).unwrap(), both(f16, f16));
        assert_eq!(formats(Some(both(q8, q4)), 64).unwrap(), both(q8, q4));
        let error = formats(Some(both(f16, q4)), 80).unwrap_err().to_string();
        assert!(
            error.contains("`memory.kv_format`: q4_0") && error.contains("80"),
            "{error}"
        );
    }
}
