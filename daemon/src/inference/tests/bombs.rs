//! Schemas that are broken or made to cost much, one after the other beside another's stream: counted in steps, with the thread of
//! the prompts, which compiles, in the test's hands.

use super::flood::{Daemon, STREAM, says};
use super::*;
use glowplug_model::engine::{Priority, Refusal};
use glowplug_model::text::Format;
use glowplug_tests::schema_bombs;

/// Steps that pass while the compiler is held up with a bomb.
const HELD_UP: usize = 3;
const TOKENS: u32 = 1000;

/// A daemon in which the stream has its first token, and is to have [`TOKENS`] of them.
fn streaming() -> Daemon {
    let mut daemon = Daemon::new();
    daemon.send(Command::Submit(STREAM, says("a", "the rain", TOKENS)));
    daemon.step();
    assert!(daemon.prepare());
    while daemon.step().0 == 0 {}
    daemon
}

/// What the stream has said when it ends; each step until then has a token of it.
fn rest(mut daemon: Daemon) -> String {
    while !daemon.ended.contains_key(&STREAM) {
        assert_eq!(daemon.step().0, 1);
    }
    daemon.said.remove(&STREAM).unwrap()
}

#[test]
fn bombs_take_no_step_from_another_stream() {
    let alone = rest(streaming());
    let mut daemon = streaming();
    let mut taken = 0;
    for (id, bomb) in (STREAM + 1..).zip(schema_bombs()) {
        let mut asked = says("b", "hi", 4);
        asked.format = Some(Format::JsonSchema(bomb.as_str().into()));
        // what is urgent and short may be prepared between two steps, but is not if it has to be compiled
        asked.priority = Priority::Urgent;
        daemon.send(Command::Submit(id, asked));
        for _ in 0..HELD_UP {
            assert_eq!(daemon.step(), (1, 0), "{bomb:.100}");
        }
        assert!(daemon.prepare());
        let (mut steps, (mut tokens, _)) = (1, daemon.step());
        while !daemon.ended.contains_key(&id) {
            tokens += daemon.step().0;
            steps += 1;
        }
        let own = match &daemon.ended[&id] {
            End::Refused(Refusal::Schema { .. }) => 0,
            End::Refused(other) => panic!("{other}: {bomb:.100}"),
            End::Finished(outcome) => {
                taken += 1;
                outcome.completion_tokens
            }
        };
        assert_eq!(tokens, steps + u64::from(own), "{bomb:.100}");
    }
    // the compiler makes little of these
    assert!(taken <= 2, "{taken} are taken");
    assert_eq!(rest(daemon), alone);
}
