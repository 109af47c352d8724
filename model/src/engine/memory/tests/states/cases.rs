//! What a prompt goes on from, case by case.

use super::*;
use crate::engine::scheduler::Due;

fn world(slots: usize) -> World {
    World::new(0, 16, slots, 2)
}

fn text(client: u32, tokens: usize) -> Vec<u32> {
    vec![SECRETS * (client + 1) + 5; tokens]
}

impl World {
    /// Starts a request and gives it, with the tokens that it need not compute.
    fn starts(
        &mut self,
        client: u32,
        session: Option<u8>,
        tokens: &[u32],
        checkpoints: [usize; 2],
    ) -> (RequestId, usize) {
        let prompt = Prompt {
            tokens: tokens.to_vec(),
            thinking_open: false,
            common: 0,
        };
        let session = session.map(|session| key(client, session));
        let id = self.submit(client, session, prompt, 60, checkpoints);
        let id = id.unwrap();
        self.sequences.get_mut(&id).unwrap().pauses = false;
        let (kv, sequences) = (&mut self.kv, &mut self.sequences);
        let scheduler = &mut self.scheduler;
        while self.memory.admit(kv, scheduler, sequences, &mut |_| {}) {}
        (id, self.sequences[&id].fed)
    }

    /// Feeds a request all of its tokens.
    fn feeds(&mut self, id: RequestId) {
        while self.sequences[&id].fed < self.sequences[&id].tokens.len() {
            let (Due::Prompt(tokens) | Due::Answer(tokens)) = self.sequences[&id].due();
            self.feed(id, tokens.min(64));
        }
    }

    /// Feeds a request all of its tokens and ends it.
    fn ends(&mut self, id: RequestId, thought: bool) {
        self.feeds(id);
        let mut sequence = self.sequences.remove(&id).unwrap();
        if thought {
            sequence.has_thought();
        }
        self.scheduler.remove(id).unwrap();
        ends(&mut self.memory, &mut self.kv, &mut sequence);
        self.check();
    }

    /// Answers a request with `answer` tokens.
    fn answers(&mut self, id: RequestId, answer: &[u32], thought: bool) {
        self.feeds(id);
        let sequence = self.sequences.get_mut(&id).unwrap();
        sequence.tokens.extend(answer);
        self.ends(id, thought);
    }
}

#[test]
fn a_turn_goes_on_from_the_end_of_the_one_before() {
    // what anybody might say
    let said = |tokens| vec![3; tokens];
    for slots in 1..4 {
        let mut world = world(slots);
        let (id, cached) = world.starts(0, Some(0), &said(70), [0; 2]);
        assert_eq!(cached, 0);
        world.answers(id, &said(5), false);
        let (id, cached) = world.starts(0, Some(0), &said(90), [0; 2]);
        assert_eq!(cached, 75, "{slots} slots");
        world.ends(id, false);
        // nobody else's, whatever it says
        let (id, cached) = world.starts(1, None, &said(90), [0; 2]);
        assert_eq!(cached, 0);
        world.ends(id, false);
    }
}

#[test]
fn what_parts_from_a_text_goes_on_from_a_checkpoint_or_from_nothing() {
    let mut world = world(4);
    let (id, _) = world.starts(0, None, &text(0, 100), [70, 99]);
    world.ends(id, false);
    assert_eq!(world.kv.states().counts(), (3, 1));
    for (shared, cached) in [
        (100, 100),
        (99, 96),
        (96, 96),
        (95, 64),
        (64, 64),
        (63, 0),
        (0, 0),
    ] {
        let tokens = [&text(0, shared)[..], &[SECRETS]].concat();
        let (id, found) = world.starts(0, None, &tokens, [0; 2]);
        assert_eq!(found, cached, "{shared} shared");
        world.end(id, true);
    }
}

#[test]
fn a_thought_costs_no_more_than_the_page_before_it() {
    let mut world = world(3);
    let (id, _) = world.starts(0, Some(0), &text(0, 100), [0, 97]);
    world.answers(id, &text(0, 40), true);
    // only what was before the thought: 96 of the 97 tokens that come again
    let mut again = text(0, 97);
    again.extend([SECRETS; 20]);
    let (id, cached) = world.starts(0, Some(0), &again, [0; 2]);
    assert_eq!(cached, 96);
    world.ends(id, false);
}

#[test]
fn what_the_configuration_says_is_computed_once_for_everybody() {
    let mut world = world(4);
    let starts = |client: u32, world: &mut World| {
        let mut tokens: Vec<u32> = (0..SYSTEM as u32).collect();
        tokens.extend(text(client, 30));
        let prompt = Prompt {
            tokens,
            thinking_open: false,
            common: SYSTEM,
        };
        let id = world.submit(client, None, prompt, 8, [SYSTEM, 0]).unwrap();
        let (kv, sequences) = (&mut world.kv, &mut world.sequences);
        let scheduler = &mut world.scheduler;
        while world.memory.admit(kv, scheduler, sequences, &mut |_| {}) {}
        let fed = world.sequences[&id].fed;
        world.ends(id, false);
        fed
    };
    assert_eq!(starts(0, &mut world), 0);
    assert_eq!(starts(1, &mut world), 64);
    // an operator forgets what clients said, not what the configuration says
    world.kv.states_mut().forget(0);
    world.kv.states_mut().forget(1);
    assert_eq!(starts(2, &mut world), 64);
}

/// A request that waits for a slot holds none and no page, and costs no session anything.
#[test]
fn who_finds_no_slot_waits_with_nothing() {
    let mut world = world(1);
    let (first, _) = world.starts(0, None, &text(0, 40), [0; 2]);
    let before = world.memory.pages.counts();
    let (second, _) = world.starts(1, None, &text(1, 40), [0; 2]);
    assert_eq!(world.sequences[&second].slot, None);
    assert_eq!(world.memory.pages.counts(), before);
    world.ends(first, false);
    let (kv, sequences) = (&mut world.kv, &mut world.sequences);
    let scheduler = &mut world.scheduler;
    assert!(world.memory.admit(kv, scheduler, sequences, &mut |_| {}));
    // the only slot was the first one's snapshot, and is clear now
    assert!(world.sequences[&second].slot.is_some());
    world.ends(second, false);
}

#[test]
fn a_snapshot_without_its_pages_is_of_no_use_and_neither_are_pages_alone() {
    let mut world = world(4);
    let (id, _) = world.starts(0, None, &text(0, 70), [0; 2]);
    world.ends(id, false);
    world.memory.pages.forget_cached(0);
    assert_eq!(world.kv.states().counts().0, 1);
    // who is cancelled before his first step has found nothing wrong with it
    let (id, cached) = world.starts(0, None, &text(0, 71), [0; 2]);
    assert_eq!(cached, 0);
    world.end(id, true);
    assert_eq!(world.kv.states().counts().0, 1);
    let (id, cached) = world.starts(0, None, &text(0, 71), [0; 2]);
    assert_eq!(cached, 0);
    world.ends(id, false);
    world.kv.states_mut().forget(0);
    let (id, cached) = world.starts(0, None, &text(0, 72), [0; 2]);
    assert_eq!(cached, 0);
    world.ends(id, false);
}

/// The state is in the session's file, and a file without it, or with another one, costs what it would have saved.
#[test]
fn a_session_comes_back_with_its_state_or_is_computed_again() {
    let mut world = world(3);
    world.folder = Some(tempfile::tempdir().unwrap());
    world.restart();
    let (id, _) = world.starts(0, Some(0), &text(0, 70), [0; 2]);
    world.answers(id, &text(0, 5), false);
    world.memory.unload(&mut world.kv, &key(0, 0));
    let file = std::fs::read_dir(world.folder.as_ref().unwrap().path());
    let file = file.unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&file).unwrap();
    let next = |world: &mut World, bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        world.history.clear();
        world.restart();
        let (id, cached) = world.starts(0, Some(0), &text(0, 90), [0; 2]);
        world.ends(id, false);
        cached
    };
    assert_eq!(next(&mut world, &good), 75);
    // the state is the last part of the file, and a page stands before it
    for back in [10, STATE.bytes() + 4 + 10] {
        let mut bad = good.clone();
        let at = bad.len() - back;
        bad[at] ^= 1;
        assert_eq!(next(&mut world, &bad), 0);
    }
    assert_eq!(next(&mut world, &good[..good.len() - 1]), 0);
    // a conversation that parts from its file finds nothing in it
    std::fs::write(&file, &good).unwrap();
    world.restart();
    let mut other = text(0, 74);
    other.extend([SECRETS; 9]);
    let (id, cached) = world.starts(0, Some(0), &other, [0; 2]);
    assert_eq!(cached, 0);
    world.ends(id, false);
}

/// A state that breaks the network down is read from its file once, and then never again.
#[test]
fn a_file_that_failed_a_turn_is_written_anew() {
    let mut world = world(3);
    world.folder = Some(tempfile::tempdir().unwrap());
    world.restart();
    let (id, _) = world.starts(0, Some(0), &text(0, 70), [0; 2]);
    world.answers(id, &text(0, 5), false);
    world.memory.unload(&mut world.kv, &key(0, 0));
    world.restart();
    let turn = |world: &mut World| world.starts(0, Some(0), &text(0, 90), [0; 2]);
    let (id, cached) = turn(&mut world);
    assert_eq!(cached, 75);
    world.end(id, false);
    let session = world.memory.sessions.get(&key(0, 0)).unwrap();
    assert!(!session.saved && session.busy.is_none());
    let (id, cached) = turn(&mut world);
    assert_eq!(cached, 0);
    world.answers(id, &text(0, 5), false);
    world.memory.unload(&mut world.kv, &key(0, 0));
    world.restart();
    // what was written since is sound
    assert_eq!(world.starts(0, Some(0), &text(0, 99), [0; 2]).1, 95);
}

/// One stream has three slots: its own, that of its conversation's last turn, and that of what all prompts have in common.
#[test]
fn what_prompts_have_in_common_outlives_a_conversation() {
    let mut world = World::new(0, 30, 3, 1);
    let mut said = text(0, 64);
    for turn in 0..5 {
        said.extend([SECRETS + turn; 40]);
        let (id, cached) = world.starts(0, Some(0), &said, [64, 0]);
        assert_eq!(cached, [0, said.len() - 40][usize::from(turn > 0)]);
        world.answers(id, &[], false);
        let other = [&text(0, 64)[..], &[SECRETS + 9]].concat();
        let (id, cached) = world.starts(0, None, &other, [0; 2]);
        assert_eq!(cached, 64, "after turn {turn}");
        // it would have a snapshot of its own at its end
        world.end(id, true);
    }
}

/// Without a snapshot at its end, a session's file has its text alone, or its pages as far as one goes.
#[test]
fn a_file_has_pages_as_far_as_a_state_is_known() {
    let mut world = world(3);
    world.folder = Some(tempfile::tempdir().unwrap());
    world.restart();
    let (id, _) = world.starts(0, Some(0), &text(0, 100), [0, 97]);
    world.answers(id, &text(0, 5), true);
    let file = |world: &mut World| {
        let session = key(0, 0);
        world.memory.sessions.get_mut(&session).unwrap().saved = false;
        let Memory {
            sessions,
            snapshots,
            pages,
            ..
        } = &mut world.memory;
        let snapshots = snapshots.as_mut().unwrap();
        let known = sessions.get_mut(&session).unwrap();
        snapshots.save(&session, known, pages, &world.kv).unwrap();
        snapshots.open(&session).unwrap().header().tokens.len()
    };
    assert_eq!(file(&mut world), 96);
    world.kv.states_mut().forget(0);
    assert_eq!(file(&mut world), 0);
}

/// The page of which a part is copied may be the only one that can be taken. Then it is taken as it is.
#[test]
fn the_only_page_left_is_taken_over_with_its_rows() {
    let mut world = World::new(0, 3, 2, 1);
    let (id, _) = world.starts(0, None, &text(0, 70), [0; 2]);
    world.answers(id, &text(0, 5), false);
    let (id, cached) = world.starts(0, None, &text(0, 88), [0; 2]);
    assert_eq!(cached, 75);
    world.ends(id, false);
}
