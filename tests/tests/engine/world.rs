//! An engine over a tiny model, and the events of its requests.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{
    Compute, Engine, EngineConfig, Event, Finish, KvFormats, Outcome, Request, RequestId, Thinking,
    Worked,
};
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::{Message, SamplerParams, ToolCall};
use glowplug_tests::world::on_gpu;
use glowplug_tests::{Think, Tiny};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const Q8: KvFormats = KvFormats::both(KvFormat::Q8_0);

pub(crate) fn tiny(think: Think) -> Tiny {
    Tiny {
        think,
        head_dim: 32,
        ..Tiny::smallest(Arch::Qwen2)
    }
}

/// A model whose sequences have states beside pages. With a head of its own it says more than its last token again.
pub(crate) fn hybrid() -> Tiny {
    Tiny {
        think: Think::Never,
        head_dim: 32,
        tied_head: false,
        ..Tiny::smallest(Arch::Qwen35)
    }
}

pub(crate) fn config(pages: usize, streams: usize) -> EngineConfig {
    EngineConfig {
        compute: compute(),
        pages,
        queue: 16,
        ..EngineConfig::new(512, streams, Q8)
    }
}

/// The processor that these tests run on: that of the host, unless `GLOWPLUG_TEST_DEVICE` says `gpu`.
fn compute() -> Compute {
    if on_gpu() { Compute::Gpu } else { Compute::Cpu }
}

pub(crate) fn load(tiny: &Tiny, config: &EngineConfig) -> Engine {
    Engine::load(&Gguf::from_bytes(tiny.bytes().into()).unwrap(), config).unwrap()
}

pub(crate) fn request(client: &str, said: &str, max_tokens: u32) -> Request {
    Request {
        sampler: SamplerParams {
            temperature: 0.0,
            seed: 1,
            ..SamplerParams::default()
        },
        thinking: Thinking {
            enabled: true,
            budget: Some(8),
            visible: false,
        },
        ..Request::new(client, vec![Message::user(said)], max_tokens)
    }
}

pub(crate) fn turn(client: &str, session: &str, said: &str, max_tokens: u32) -> Request {
    Request {
        session: Some(session.into()),
        ..request(client, said, max_tokens)
    }
}

/// All events of each request, as far as tests look at them.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) text: BTreeMap<RequestId, String>,
    pub(crate) thoughts: BTreeMap<RequestId, String>,
    pub(crate) calls: BTreeMap<RequestId, Vec<ToolCall>>,
    pub(crate) cached: BTreeMap<RequestId, u32>,
    /// requests in the order of their starts
    pub(crate) started: Vec<RequestId>,
    pub(crate) ended: BTreeMap<RequestId, Outcome>,
}

impl Heard {
    pub(crate) fn take(&mut self, id: RequestId, event: Event) {
        assert!(
            !self.ended.contains_key(&id),
            "{id} said {event:?} after its end"
        );
        match event {
            Event::Started { cached_tokens, .. } => {
                self.started.push(id);
                self.cached.insert(id, cached_tokens);
            }
            Event::Prefilled => {}
            Event::Call(call) => self.calls.entry(id).or_default().push(call),
            Event::Text {
                content, reasoning, ..
            } => {
                self.text.entry(id).or_default().push_str(&content);
                self.thoughts.entry(id).or_default().push_str(&reasoning);
            }
            Event::Finished(outcome) => {
                self.ended.insert(id, outcome);
            }
        }
    }

    /// Steps the engine until there is nothing left to do.
    pub(crate) fn idle(&mut self, engine: &mut Engine) {
        let mut steps = 0;
        while engine.step(&mut |id, event| self.take(id, event)) != Worked::Nothing || engine.tidy()
        {
            steps += 1;
            assert!(steps < 100_000, "it never comes to rest");
        }
    }

    pub(crate) fn finish(&self, id: RequestId) -> Finish {
        self.ended[&id].finish
    }
}

/// An engine of a network that a GPU refuses, or none if the tests run on one.
pub(crate) fn on_host(tiny: &Tiny, config: &EngineConfig) -> Option<Engine> {
    (!on_gpu()).then(|| load(tiny, config))
}

/// A number that no other request of this process has.
pub(crate) fn new_id() -> RequestId {
    static LAST: AtomicU64 = AtomicU64::new(1_000_000);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// Runs one request alone to its end.
pub(crate) fn answer(engine: &mut Engine, id: RequestId, request: Request) -> (String, Outcome) {
    let mut heard = Heard::default();
    engine.submit(id, request).unwrap();
    heard.idle(engine);
    let text = heard.text.remove(&id).unwrap_or_default();
    (text, heard.ended.remove(&id).unwrap())
}
