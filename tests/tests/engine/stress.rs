//! Random work against a cache far too small for it: the bounds hold at every step, everybody is answered, nobody hears
//! another, and in the end nothing is left.

use super::world::{Heard, Random, answer, config, load, request, tiny, turn};
use glowplug_firmware_config::limits::QUEUE_MAX;
use glowplug_model::engine::{
    Engine, EngineConfig, Finish, Priority, Refusal, RequestId, SessionFault, SessionVerb, Share,
    Worked,
};
use glowplug_tests::Think;
use std::collections::{BTreeMap, HashMap};

const STEPS: u64 = 100_000;
const PAGES: usize = 64;
const CLIENTS: u64 = 8;
/// of each client: 1,000 in all
const SESSIONS: u64 = 125;
/// Steps from the acceptance of a request to its end at most: 16 before it, each at most 12 tokens and a few chunks.
const PATIENCE: u64 = 2_000;
/// Background work has its turn when so many tokens were served to others, at least one with each step.
const AGED: u64 = 8_192;

const LINES: [&str; 6] = [
    "the rain",
    "in the plain",
    "a canary, and 42 more",
    "oil",
    "the train falls mainly on the rain in the plain",
    "a b",
];
const OPENINGS: [&str; 3] = [
    "",
    "the rain in the plain falls mainly on the train. ",
    "the rain in the plain falls mainly on the oil, and on the oil falls mainly the rain of the plain. ",
];

/// What is waited for.
struct Open {
    session: Option<(u64, u64)>,
    line: usize,
    expected: String,
    /// the last step by which it must have ended
    by: u64,
    cancelled: bool,
}

/// What each conversation must sound like, found out by an engine that has nothing else to do.
struct Alone {
    engine: Engine,
    known: HashMap<Vec<usize>, String>,
    next: RequestId,
}

impl Alone {
    fn new() -> Self {
        Self {
            engine: load(&tiny(Think::Never), &config(64, 1)),
            known: HashMap::new(),
            next: 0,
        }
    }

    fn says(&mut self, lines: &[usize]) -> String {
        self.says_within(lines, 12)
    }

    /// In answers of so many tokens at most; the same with every call.
    fn says_within(&mut self, lines: &[usize], tokens: u32) -> String {
        if let Some(text) = self.known.get(lines) {
            return text.clone();
        }
        let mut text = String::new();
        for line in lines {
            self.next += 1;
            text = answer(
                &mut self.engine,
                self.next,
                turn("c", "s", &said(*line), tokens),
            )
            .0;
        }
        self.engine.session("c", "s", SessionVerb::Drop).unwrap();
        self.known.insert(lines.to_vec(), text.clone());
        text
    }
}

fn said(line: usize) -> String {
    OPENINGS[line / LINES.len()].to_owned() + LINES[line % LINES.len()]
}

fn name(n: u64) -> String {
    n.to_string()
}

#[test]
fn a_hundred_thousand_steps_in_64_pages() {
    let model = tiny(Think::Never);
    let shared = EngineConfig {
        share: Share::All,
        ..config(PAGES, 4)
    };
    let mut engine = load(&model, &shared);
    let mut alone = Alone::new();
    let mut random = Random(3);
    let mut heard = Heard::default();
    let mut open: BTreeMap<RequestId, Open> = BTreeMap::new();
    let mut history: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
    let (mut id, mut answered, mut refused, mut shared) = (0, 0u64, 0u64, 0u64);
    for step in 0..STEPS {
        let (client, session) = (random.below(CLIENTS), random.below(SESSIONS));
        // floods and calm
        let dice = if step / 500 % 2 == 0 { 24 } else { 8 };
        match random.below(dice) {
            // a question, alone or as a turn of a session
            0..=3 => {
                id += 1;
                let line = random.below((LINES.len() * OPENINGS.len()) as u64) as usize;
                let key = (client, session);
                let in_session =
                    random.below(2) == 0 && !open.values().any(|o| o.session == Some(key));
                let mut lines = Vec::new();
                if in_session {
                    lines.clone_from(history.entry(key).or_default());
                    if lines.len() == 3 {
                        engine
                            .session(&name(client), &name(session), SessionVerb::Reset)
                            .ok();
                        lines.clear();
                        history.insert(key, Vec::new());
                    }
                }
                lines.push(line);
                let expected = alone.says(&lines);
                let mut asked = if in_session {
                    turn(&name(client), &name(session), &said(line), 12)
                } else {
                    request(&name(client), &said(line), 12)
                };
                asked.priority = [
                    Priority::Normal,
                    Priority::Normal,
                    Priority::Urgent,
                    Priority::Background,
                ][random.below(4) as usize];
                let patience = if asked.priority == Priority::Background {
                    AGED + PATIENCE
                } else {
                    PATIENCE
                };
                match engine.submit(id, asked) {
                    Ok(before) => {
                        assert!(before <= 16 + 4 + 8, "{before}");
                        let session = in_session.then_some(key);
                        let by = step + patience;
                        open.insert(
                            id,
                            Open {
                                session,
                                line,
                                expected,
                                by,
                                cancelled: false,
                            },
                        );
                    }
                    Err(_) => refused += 1,
                }
            }
            // a cancel of anybody
            4 => {
                if let Some((id, open)) = open.iter_mut().nth(random.below(20) as usize) {
                    open.cancelled |= engine.end(*id, Finish::Cancelled);
                }
            }
            5 => {
                let verb = [SessionVerb::Drop, SessionVerb::Reset][random.below(2) as usize];
                if engine.session(&name(client), &name(session), verb).is_ok() {
                    history.remove(&(client, session));
                }
            }
            6 => {
                engine.expire(step, 5_000);
                // without a folder, who is there says so
                history.retain(|(client, session), _| {
                    let state = engine.session(&name(*client), &name(*session), SessionVerb::Save);
                    state != Err(SessionFault::NotFound)
                });
            }
            _ => {}
        }
        engine.step(&mut |id, event| heard.take(id, event));
        let counts = engine.counts();
        assert!(counts.pages_used <= PAGES);
        assert_eq!(counts.pages_used + counts.pages_free, counts.pages_total);
        assert!(counts.running <= 4 && counts.sessions <= 1024);
        shared = shared.max(counts.pages_shared as u64);
        settle(
            &mut engine,
            &mut heard,
            &mut open,
            &mut history,
            &mut answered,
        );
        if let Some((id, open)) = open.iter().find(|(_, o)| o.by < step) {
            panic!(
                "request {id} is not answered at step {step}: due {}",
                open.by
            );
        }
    }
    heard.idle(&mut engine);
    settle(
        &mut engine,
        &mut heard,
        &mut open,
        &mut history,
        &mut answered,
    );
    assert!(open.is_empty(), "{} requests have no end", open.len());
    engine.expire(u64::MAX, 1);
    let counts = engine.counts();
    assert_eq!(
        (counts.pages_free, counts.pages_used, counts.sessions),
        (PAGES, 0, 0)
    );
    assert!(
        answered > 5_000 && refused > 100 && shared > 4,
        "{answered} {refused} {shared}"
    );
}

/// What ended is what it should be.
fn settle(
    engine: &mut Engine,
    heard: &mut Heard,
    open: &mut BTreeMap<RequestId, Open>,
    history: &mut HashMap<(u64, u64), Vec<usize>>,
    answered: &mut u64,
) {
    for (id, outcome) in std::mem::take(&mut heard.ended) {
        let done = open.remove(&id).unwrap();
        let text = heard.text.remove(&id).unwrap_or_default();
        match outcome.finish {
            Finish::Stop | Finish::Length => {
                assert_eq!(text, done.expected, "request {id}");
                *answered += 1;
                if let Some(key) = done.session {
                    history.entry(key).or_default().push(done.line);
                }
            }
            Finish::Cancelled => {
                assert!(
                    done.cancelled && done.expected.starts_with(&text),
                    "request {id}"
                );
                // how much of it was said is chance: begin anew
                if let Some((client, session)) = done.session {
                    engine
                        .session(&name(client), &name(session), SessionVerb::Drop)
                        .ok();
                    history.remove(&(client, session));
                }
            }
            other => panic!("request {id} ended by {other:?}"),
        }
    }
}

/// Longest prompt and answer of those below.
const ASKED: usize = 320;
const ANSWERED: usize = 6;

/// A thousand conversations, far more than there is room for, all asked at once, three times: each turn is taken or
/// refused for the queue's length, and who was taken is answered within the steps of those before it: a chunk of a prompt
/// beside others is four tokens at least.
#[test]
fn a_thousand_sessions_asked_at_once() {
    const PATIENCE: u64 = ((QUEUE_MAX + 4) * (ASKED / 4 + ANSWERED)) as u64;
    let whole = EngineConfig {
        queue: QUEUE_MAX,
        ..config(PAGES, 4)
    };
    let mut engine = load(&tiny(Think::Never), &whole);
    let mut alone = Alone::new();
    let mut heard = Heard::default();
    let lines = LINES.len() * OPENINGS.len();
    let (mut step, mut longest, mut refusals) = (0, 0, 0);
    for round in 0..3 {
        let mut to_ask: Vec<u64> = (0..CLIENTS * SESSIONS).collect();
        let mut open: BTreeMap<RequestId, u64> = BTreeMap::new();
        let mut answered = 0;
        while answered < CLIENTS * SESSIONS {
            // all who were not taken yet ask again
            to_ask.retain(|&session| {
                let id = round * CLIENTS * SESSIONS + session;
                let line = (session + round) as usize % lines;
                let (client, name) = (name(session % CLIENTS), name(session));
                match engine.submit(id, turn(&client, &name, &said(line), ANSWERED as u32)) {
                    Ok(_) => open.insert(id, step).is_some(),
                    Err(refused) => {
                        assert!(matches!(refused, Refusal::Overloaded { .. }), "{refused}");
                        refusals += 1;
                        true
                    }
                }
            });
            // until half of the queue is free again
            while engine.counts().queued > QUEUE_MAX / 2 || to_ask.is_empty() && !open.is_empty() {
                let worked = engine.step(&mut |id, event| heard.take(id, event));
                step += 1;
                assert_ne!(worked, Worked::Nothing, "{} are waiting", open.len());
                for (id, outcome) in std::mem::take(&mut heard.ended) {
                    assert!(matches!(outcome.finish, Finish::Stop | Finish::Length));
                    assert!(outcome.prompt_tokens as usize <= ASKED);
                    let waited = step - open.remove(&id).unwrap();
                    longest = longest.max(waited);
                    assert!(waited <= PATIENCE, "{id} waited for {waited} steps");
                    let session = (id % (CLIENTS * SESSIONS)) as usize;
                    let lines = (0..=round as usize).map(|round| (session + round) % lines);
                    let expected = alone.says_within(&lines.collect::<Vec<_>>(), ANSWERED as u32);
                    assert_eq!(heard.text.remove(&id).unwrap_or_default(), expected);
                    answered += 1;
                }
            }
        }
        assert!(engine.counts().sessions == 1000 && engine.counts().running == 0);
    }
    println!("{step} steps, the longest wait {longest} of {PATIENCE}, {refusals} refused");
    assert!(refusals > 0);
    engine.expire(u64::MAX, 1);
    let counts = engine.counts();
    assert_eq!((counts.pages_free, counts.pages_used), (PAGES, 0));
}
