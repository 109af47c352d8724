//! Random work against a cache that is far too small for it. The bounds hold at every step, every request is answered, no client
//! hears another, and in the end nothing is left.

use super::world::{Heard, answer, config, load, request, tiny, turn};
use glowplug_firmware_config::limits::QUEUE_MAX;
use glowplug_model::engine::{
    Engine, EngineConfig, Finish, Priority, Refusal, RequestId, SessionFault, SessionVerb, Share,
    Worked,
};
use glowplug_tests::{SplitMix, Think};
use std::collections::{BTreeMap, HashMap};

const STEPS: u64 = 100_000;
const PAGES: usize = 64;
const CLIENTS: usize = 8;
/// Sessions of each client, which are 1,000 in all.
const SESSIONS: usize = 125;
/// Most steps from the acceptance of a request to its end: 16 requests are before it, each of at most 12 tokens and a few chunks.
const PATIENCE: u64 = 2_000;
/// Background work runs after so many tokens were served to others, at least one with each step.
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

/// A request that has not ended yet.
struct Open {
    session: Option<(usize, usize)>,
    line: usize,
    expected: String,
    /// the step by which it must have ended
    by: u64,
    cancelled: bool,
}

/// What each conversation must say, found out by an engine that has nothing else to do.
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

    /// The conversation in answers of at most so many tokens, the same with every call.
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

fn name(n: usize) -> String {
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
    let mut random = SplitMix::new(3, "stress");
    let mut heard = Heard::default();
    let mut open: BTreeMap<RequestId, Open> = BTreeMap::new();
    let mut history: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    let (mut id, mut answered, mut refused, mut shared) = (0, 0u64, 0u64, 0u64);
    for step in 0..STEPS {
        let (client, session) = (random.below(CLIENTS), random.below(SESSIONS));
        // times of flood and times of calm
        let dice = if step / 500 % 2 == 0 { 24 } else { 8 };
        match random.below(dice) {
            // asks a question, alone or as a turn of a session
            0..=3 => {
                id += 1;
                let line = random.below(LINES.len() * OPENINGS.len());
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
                ][random.below(4)];
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
            // cancels any request
            4 => {
                if let Some((id, open)) = open.iter_mut().nth(random.below(20)) {
                    open.cancelled |= engine.end(*id, Finish::Cancelled);
                }
            }
            5 => {
                let verb = [SessionVerb::Drop, SessionVerb::Reset][random.below(2)];
                if engine.session(&name(client), &name(session), verb).is_ok() {
                    history.remove(&(client, session));
                }
            }
            6 => {
                engine.expire(step, 5_000);
                // without a folder, a session that exists says that there is none
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

/// Checks that what ended said what it should.
fn settle(
    engine: &mut Engine,
    heard: &mut Heard,
    open: &mut BTreeMap<RequestId, Open>,
    history: &mut HashMap<(usize, usize), Vec<usize>>,
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
                // chance decides how much of it was said, so the conversation begins anew
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

/// The longest prompt and answer of the conversations below.
const ASKED: usize = 320;
const ANSWERED: usize = 6;

/// A thousand conversations, far more than there is room for, are all asked at once, three times. Each turn is taken, or refused
/// because the queue is full. A turn that was taken is answered within the steps of those before it: a chunk of a prompt beside
/// others is at least four tokens.
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
        let mut to_ask: Vec<usize> = (0..CLIENTS * SESSIONS).collect();
        let mut open: BTreeMap<RequestId, u64> = BTreeMap::new();
        let mut answered = 0;
        while answered < CLIENTS * SESSIONS {
            // all that were not taken yet ask again
            to_ask.retain(|&session| {
                let id = (round * CLIENTS * SESSIONS + session) as RequestId;
                let line = (session + round) % lines;
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
            // runs until half of the queue is free again
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
                    let session = id as usize % (CLIENTS * SESSIONS);
                    let lines = (0..=round).map(|round| (session + round) % lines);
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
