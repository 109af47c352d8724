//! One client floods with prompts that are refused, beside another's stream: counted in steps, with the thread of the prompts
//! in the test's hands.

use super::*;
use crate::inference::inbox::Inbox;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{EngineConfig, KvFormats, Priority, Refusal};
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::{Message, Role};
use glowplug_tests::{Think, Tiny};

/// What admission lets one client have outstanding beside a stream: see `gate::share`.
const OUTSTANDING: usize = 11;
pub(super) const STREAM: RequestId = 1;

pub(super) fn model() -> Tiny {
    Tiny {
        think: Think::Never,
        context: 2048,
        ..Tiny::smallest(Arch::Llama)
    }
}

pub(super) fn config() -> EngineConfig {
    EngineConfig {
        queue: 20,
        // a token a step
        drafts: false,
        ..EngineConfig::new(2048, 4, KvFormats::both(KvFormat::F16))
    }
}

fn engine() -> Engine {
    Engine::load(
        &Gguf::from_bytes(model().bytes().into()).unwrap(),
        &config(),
    )
    .unwrap()
}

pub(super) fn says(client: &str, said: &str, max_tokens: u32) -> Box<Request> {
    let mut request = request(client, None);
    request.messages = vec![Message::new(Role::User, said)];
    request.max_tokens = max_tokens;
    // the tokens that would end it
    request.sampler.logit_bias = (280..283).map(|token| (token, -100.0)).collect();
    request
}

pub(super) struct Daemon {
    inbox: Inbox,
    engine: Engine,
    commands: std_mpsc::SyncSender<Command>,
    taken: std_mpsc::Receiver<Command>,
    jobs: std_mpsc::Receiver<glowplug_model::engine::PromptJob>,
    told: mpsc::Sender<Report>,
    _reports: mpsc::Receiver<Report>,
    pub(super) said: BTreeMap<RequestId, String>,
    pub(super) ended: BTreeMap<RequestId, End>,
}

impl Daemon {
    pub(super) fn new() -> Self {
        let (commands, taken) = std_mpsc::sync_channel(COMMANDS);
        let (sender, jobs) = std_mpsc::sync_channel(AHEAD);
        // nothing is ever sent: what would be is looked at on the inbox
        let (told, reports) = mpsc::channel(1);
        let permit = told.clone().try_reserve_owned().unwrap();
        std::mem::forget(permit);
        Self {
            inbox: Inbox::new(None, sender),
            engine: engine(),
            commands,
            taken,
            jobs,
            told,
            _reports: reports,
            said: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    pub(super) fn send(&self, command: Command) {
        self.commands.try_send(command).unwrap();
    }

    /// What the thread of the prompts does with its next job. False: it has none.
    pub(super) fn prepare(&self) -> bool {
        let Ok(job) = self.jobs.try_recv() else {
            return false;
        };
        let id = job.id();
        let prepared = self.engine.prompts().prepare(job);
        self.send(Command::Prepared(id, Some(Box::new(prepared))));
        true
    }

    /// Takes the commands, makes a step; how many tokens the stream got by it, and how many others ended.
    pub(super) fn step(&mut self) -> (u64, usize) {
        let (tokens, ended) = (self.inbox.load.tokens, self.ended.len());
        let now = Some(Instant::now());
        let (inbox, engine) = (&mut self.inbox, &mut self.engine);
        assert!(inbox.attend(engine, &self.taken, &self.told, now));
        engine.step(&mut |id, event| inbox.event(id, event, Instant::now()));
        for (id, update) in std::mem::take(&mut inbox.pending) {
            let said = self.said.entry(id).or_default();
            said.push_str(&update.text.content);
            if let Some((end, _)) = update.end {
                assert!(self.ended.insert(id, end).is_none(), "{id} ended twice");
            }
        }
        (self.inbox.load.tokens - tokens, self.ended.len() - ended)
    }
}

#[test]
fn a_flood_of_refused_prompts_takes_no_step_from_another_stream() {
    let mut daemon = Daemon::new();
    daemon.send(Command::Submit(STREAM, says("a", "the rain", 1500)));
    daemon.step();
    assert!(daemon.prepare());
    while daemon.step().0 == 0 {}
    // short enough to be tokenised, too long for the context
    let long = "Zq".repeat(1500);
    let mut id = STREAM;
    let flood = |daemon: &mut Daemon, id: &mut RequestId| {
        while (*id - STREAM) as usize - daemon.ended.len() < OUTSTANDING {
            *id += 1;
            daemon.send(Command::Submit(*id, says("f", &long, 8)));
        }
    };
    // the thread of the prompts stands still: nothing is refused, and every step is the stream's
    for _ in 0..200 {
        flood(&mut daemon, &mut id);
        assert_eq!(daemon.step(), (1, 0));
    }
    // two are under way, the others can be cancelled at once, and so can those
    for (cancelled, ended) in [(id, 1), (2, 1)] {
        daemon.send(Command::End(cancelled, Finish::Cancelled));
        assert_eq!(daemon.step(), (1, ended));
        let End::Finished(outcome) = &daemon.ended[&cancelled] else {
            panic!()
        };
        assert_eq!(outcome.finish, Finish::Cancelled);
    }
    // it works as fast as it can: few are dealt with between two steps, and every step is the stream's
    let mut most = 0;
    for _ in 0..200 {
        flood(&mut daemon, &mut id);
        while daemon.prepare() {}
        let (tokens, ended) = daemon.step();
        assert_eq!(tokens, 1);
        most = most.max(ended);
    }
    assert!((1..=AHEAD).contains(&most), "{most} between two steps");
    let refused = |end: &End| matches!(end, End::Refused(Refusal::ContextLength { .. }));
    assert!(daemon.ended.values().filter(|end| refused(end)).count() > 200);
    // another's short prompt waits for what is under way and for one turn of the flood
    flood(&mut daemon, &mut id);
    daemon.step();
    let other = 1_000_000;
    daemon.send(Command::Submit(other, says("b", "hi", 4)));
    let mut prepared = 0;
    while !daemon.inbox.running.contains(&other) {
        prepared += usize::from(daemon.prepare());
        daemon.step();
        assert!(prepared <= AHEAD + 2, "{prepared} were prepared before it");
    }
}

#[test]
fn an_urgent_short_prompt_starts_in_the_next_step_and_a_second_one_waits() {
    let mut daemon = Daemon::new();
    for id in [1, 2] {
        let mut urgent = says("u", "the rain", 4);
        urgent.priority = Priority::Urgent;
        daemon.send(Command::Submit(id, urgent));
    }
    daemon.step();
    assert_eq!(daemon.inbox.running, [1]);
    assert!(daemon.prepare() && !daemon.prepare());
    let mut urgent = says("v", &"the rain ".repeat(500), 4);
    urgent.priority = Priority::Urgent;
    daemon.send(Command::Submit(3, urgent));
    daemon.step();
    assert!(!daemon.inbox.running.contains(&3));
    assert!(daemon.prepare());
}

#[test]
fn a_verb_on_a_session_whose_turn_waits_is_refused() {
    let mut daemon = Daemon::new();
    // two are under way, the third waits at the inbox
    for (id, session) in [(1, "r"), (2, "s"), (3, "t")] {
        let mut turn = says("c", "the rain", 4);
        turn.session = Some(session.into());
        daemon.send(Command::Submit(id, turn));
    }
    daemon.step();
    for (id, session) in [(11, "s"), (12, "t"), (13, "u")] {
        daemon.send(reset(id, session));
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        daemon.step();
        told.extend(daemon.inbox.done.drain(..));
    }
    let results: Vec<_> = told
        .into_iter()
        .map(|done| match done {
            Done::Session(id, result) => (id, result.unwrap_err()),
            Done::Forgotten(..) => panic!(),
        })
        .collect();
    assert_eq!(
        results,
        [
            (11, SessionFault::Busy),
            (12, SessionFault::Busy),
            (13, SessionFault::NotFound)
        ]
    );
}

#[test]
fn a_panic_on_the_thread_of_the_prompts_fails_that_request_alone() {
    let mut daemon = Daemon::new();
    for id in [1, 2] {
        daemon.send(Command::Submit(id, says("c", "the rain", 4)));
    }
    daemon.step();
    let job = daemon.jobs.try_recv().unwrap();
    daemon.send(Command::Prepared(job.id(), None));
    assert!(daemon.prepare());
    while daemon.ended.len() < 2 {
        daemon.step();
    }
    let finish = |id| match &daemon.ended[&id] {
        End::Finished(outcome) => outcome.finish,
        End::Refused(refusal) => panic!("{refusal}"),
    };
    assert_eq!((finish(1), finish(2)), (Finish::Failed, Finish::Length));
}
