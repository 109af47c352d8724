//! Admission with an engine behind it, whose model says a script: no thread, no broker, and no clock. What disk and tools would
//! do is in the test's hands.

use super::rounds::{World, world};
use super::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{Engine, EngineConfig, Event, KvFormats};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::ChatTemplate;
use glowplug_tests::{Think, Tiny};

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Queue,
    Prefill,
    Thought,
    /// Its answer, if nothing holds it.
    Free,
    /// Its answer, if a format or the tools that it must call hold it.
    Held,
    /// It waits for a tool, or for the disk before that.
    Tool,
}

/// A request in the test's sight.
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) place: Place,
    held: bool,
    /// Tokens that were decoded for it.
    pub(super) tokens: usize,
}

pub(super) struct Driven {
    pub(super) w: World,
    pub(super) engine: Engine,
    /// The requests that have no last frame, by the number under which the engine has them.
    pub(super) open: BTreeMap<RequestId, Seen>,
    /// Tokens that were decoded for each request, whether it has ended or not.
    pub(super) decoded: BTreeMap<RequestId, usize>,
    pub(super) recording: Vec<RequestId>,
    pub(super) flying: Vec<(RequestId, String)>,
    /// The frames of each request, the last one last; plain text is a JSON string.
    pub(super) frames: HashMap<String, Vec<Value>>,
}

impl Driven {
    /// `think` says who opens a thought, the template or the model; without a template it is the tiny model's own.
    pub(super) fn new(think: Think, script: &[&str], template: Option<&str>) -> Self {
        let file = Tiny::saying(think, script.iter().copied()).bytes();
        let file = Gguf::from_bytes(file.into()).unwrap();
        let formats = KvFormats::both(KvFormat::F16);
        let config = EngineConfig {
            pages: 128,
            queue: 8,
            ..EngineConfig::new(2048, 2, formats)
        };
        let mut engine = Engine::load(&file, &config).unwrap();
        if let Some(template) = template {
            engine.set_template(ChatTemplate::given(template, &file).unwrap());
        }
        Self {
            w: world(),
            engine,
            open: BTreeMap::new(),
            decoded: BTreeMap::new(),
            recording: Vec::new(),
            flying: Vec::new(),
            frames: HashMap::new(),
        }
    }

    /// A request comes in. Gives its number, if it is accepted.
    pub(super) fn ask(&mut self, arrival: Arrival) -> Option<RequestId> {
        let id = arrival.id.clone().unwrap();
        let held = arrival.request.format.is_some() || arrival.request.tools.is_some();
        self.w.ask(arrival);
        let number = submitted(&self.w.out).pop();
        if let Some(number) = number {
            let seen = Seen {
                id,
                place: Place::Queue,
                held,
                tokens: 0,
            };
            self.open.insert(number, seen);
        }
        self.perform();
        number
    }

    /// One step of the engine, and what follows from it.
    pub(super) fn step(&mut self) {
        let mut events = Vec::new();
        self.engine.step(&mut |id, event| events.push((id, event)));
        for (number, event) in events {
            let now = self.w.now;
            let mut update = Update {
                times: Timestamps::default(),
                ..text(number, "", now)
            };
            if let Some(seen) = self.open.get_mut(&number) {
                seen.follow(&event);
                self.decoded.insert(number, seen.tokens);
            }
            match event {
                Event::Started { .. } => update.times.started = Some(now),
                Event::Prefilled => update.times.prefilled = Some(now),
                Event::Text {
                    content, reasoning, ..
                } => (update.text.content, update.text.reasoning) = (content, reasoning),
                Event::Call(call) => update.text.calls.push(call),
                Event::Finished(outcome) => update.end = Some((End::Finished(outcome), now)),
            }
            self.w.a.update(now, ROOM, update, &mut self.w.out);
            self.perform();
        }
    }

    /// Steps until nothing is left to do for the engine.
    pub(super) fn idle(&mut self) {
        while self.w.a.engine_works() {
            self.step();
        }
    }

    /// The oldest request that waits for the disk has it.
    pub(super) fn disk(&mut self) {
        if !self.recording.is_empty() {
            let number = self.recording.remove(0);
            self.w.a.recorded(self.w.now, number, true, &mut self.w.out);
            self.perform();
        }
    }

    /// The oldest call is answered.
    pub(super) fn house(&mut self) {
        if !self.flying.is_empty() {
            let (number, call) = self.flying.remove(0);
            let (now, took) = (self.w.now, Duration::from_millis(7));
            self.w
                .a
                .tool_ended(now, number, &call, "ON", took, ROOM, &mut self.w.out);
            self.perform();
        }
    }

    /// Does what admission wants.
    pub(super) fn perform(&mut self) {
        while !self.w.out.is_empty() {
            for action in std::mem::take(&mut self.w.out) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Engine(Command::Submit(number, request)) => {
                if let Some(seen) = self.open.get_mut(&number) {
                    seen.place = Place::Queue;
                }
                if let Err(refusal) = self.engine.submit(number, *request) {
                    let mut refused = text(number, "", self.w.now);
                    refused.end = Some((End::Refused(refusal), self.w.now));
                    self.w.a.update(self.w.now, ROOM, refused, &mut self.w.out);
                }
            }
            Action::Engine(Command::End(number, why)) => {
                self.engine.end(number, why);
            }
            Action::Engine(Command::EndThinking(number)) => {
                assert!(self.engine.end_thinking(number));
            }
            Action::Engine(Command::Release(number)) => self.engine.release(number),
            Action::Tools(ToolAction::Record(number, _)) => {
                self.recording.push(number);
                self.waits(number);
            }
            Action::Tools(ToolAction::Call { request, call, .. }) => {
                self.flying.push((request, call));
                self.waits(request);
            }
            Action::Tools(ToolAction::Forget(number)) => {
                self.recording.retain(|of| *of != number);
                self.flying.retain(|(of, _)| *of != number);
            }
            Action::Tools(ToolAction::Ended { .. } | ToolAction::Audit { .. }) => {}
            Action::Publish { frame, lane, .. } => {
                let said = || Value::String(String::from_utf8(frame.to_vec()).unwrap());
                let frame = serde_json::from_slice::<Value>(&frame).unwrap_or_else(|_| said());
                let id = frame["id"].as_str().unwrap_or("ask").to_owned();
                self.frames.entry(id.clone()).or_default().push(frame);
                if lane == Lane::Last {
                    self.open.retain(|_, seen| seen.id != id);
                }
                if self.w.a.outstanding() == 0 {
                    let used = self.engine.counts().pages_used;
                    assert_eq!(used, 0, "pages are free when the last frame is sent");
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn waits(&mut self, number: RequestId) {
        if let Some(seen) = self.open.get_mut(&number) {
            seen.place = Place::Tool;
        }
    }
}

impl Seen {
    fn follow(&mut self, event: &Event) {
        self.place = match event {
            Event::Started { .. } => Place::Prefill,
            Event::Text { reasoning, .. } => {
                self.tokens += 1;
                match self.held {
                    _ if !reasoning.is_empty() => Place::Thought,
                    true => Place::Held,
                    false => Place::Free,
                }
            }
            Event::Prefilled | Event::Call(_) | Event::Finished(_) => self.place,
        };
    }
}
