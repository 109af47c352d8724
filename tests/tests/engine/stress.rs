//! Random work against a cache far too small for it: the bounds hold at every step, everybody is answered, nobody hears
//! another, and in the end nothing is left.

use super::world::{Heard, Random, answer, config, load, request, tiny, turn};
use glowplug_model::engine::{Engine, Finish, Priority, RequestId, SessionFault, SessionVerb};
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
    fn says(&mut self, lines: &[usize]) -> String {
        if let Some(text) = self.known.get(lines) {
            return text.clone();
        }
        let mut text = String::new();
        for line in lines {
            self.next += 1;
            text = answer(
                &mut self.engine,
                self.next,
                turn("c", "s", &said(*line), 12),
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
    let mut engine = load(&model, &config(PAGES, 4));
    let mut alone = Alone {
        engine: load(&model, &config(64, 1)),
        known: HashMap::new(),
        next: 0,
    };
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
