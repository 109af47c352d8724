use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn own(owner: Owner) -> Owners {
    owner.into()
}

#[test]
fn the_longest_snapshot_that_a_text_goes_on_from_comes_first() {
    let mut slots = Slots::new(4);
    for tokens in [&[1, 2][..], &[1, 2, 3, 4], &[9], &[1]] {
        let slot = slots.take(None).unwrap();
        slots.keep(slot, own(5), tokens);
    }
    let lengths = |text: &[u32], owner| {
        let found = slots.find(own(owner), text);
        found.into_iter().map(|(_, len)| len).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&[1, 2, 3, 4, 5], 5), [4, 2, 1]);
    // the last token is computed in any case
    assert_eq!(lengths(&[1, 2, 3, 4], 5), [2, 1]);
    assert_eq!(lengths(&[1, 2, 4, 4, 5], 5), [2, 1]);
    assert!(lengths(&[1], 5).is_empty() && lengths(&[], 5).is_empty());
    let longest = |text: &[u32], owner| slots.longest(owner, text).map(|(_, len)| len);
    assert_eq!(longest(&[1, 2, 3, 4], 5), Some(4));
    assert_eq!((longest(&[1, 2, 4], 5), longest(&[2], 5)), (Some(2), None));
    assert_eq!(longest(&[1, 2], 6), None);
    assert!(lengths(&[1, 2, 3, 4, 5], 6).is_empty());
}

#[test]
fn what_the_configuration_says_is_everybodys_in_whole_pages() {
    let text: Vec<u32> = (0..80).collect();
    let common = |own| Owners { own, common: 70 };
    let mut slots = Slots::new(3);
    for tokens in [64, 65] {
        let slot = slots.take(None).unwrap();
        slots.keep(slot, common(1), &text[..tokens]);
    }
    assert_eq!(slots.snapshots[0].owner, EVERYBODY);
    assert_eq!(slots.find(common(1), &text).len(), 2);
    assert_eq!(
        slots.find(common(2), &text),
        [(slots.snapshots[0].slot, 64)]
    );
    // whoever says the same of its own does not find what the configuration says
    assert!(slots.find(own(2), &text).is_empty());
    slots.forget(1);
    assert_eq!(slots.find(common(1), &text).len(), 1);
    slots.forget_prefixes(common(2), &text);
    assert_eq!(slots.counts(), (0, 3));
}

#[test]
fn the_snapshot_that_was_used_longest_ago_goes_first() {
    let mut slots = Slots::new(3);
    for token in 0..3 {
        let slot = slots.take(None).unwrap();
        slots.keep(slot, own(5), &[token]);
    }
    let of = |slots: &Slots, token| slots.find(own(5), &[token, 9]).first().map(|(s, _)| *s);
    let (first, second) = (of(&slots, 0), of(&slots, 1));
    // the first is used: what it is taken from goes last
    assert_eq!(slots.take(first), second);
    assert!(of(&slots, 0).is_some() && of(&slots, 1).is_none());
    // a use is also that the same is to be kept again
    assert_eq!(slots.keep_copy(own(5), &[2]), None);
    assert_eq!(slots.keep_copy(own(5), &[3]), first);
    assert!(of(&slots, 0).is_none() && of(&slots, 2).is_some());
}

/// A conversation goes on, turn after turn, beside one question that nobody asks again.
#[test]
fn what_texts_have_in_common_outlives_all_but_the_last_of_them() {
    let mut slots = Slots::new(4);
    let keep = |slots: &mut Slots, tokens: &[u32]| {
        let from = slots.find(own(5), tokens);
        let slot = slots.take(from.first().map(|(slot, _)| *slot)).unwrap();
        slots.keep(slot, own(5), tokens);
    };
    let has = |slots: &Slots, tokens: &[u32]| slots.snapshots().any(|(.., of)| of == tokens);
    keep(&mut slots, &[1]);
    keep(&mut slots, &[8]);
    for turn in 2..9 {
        let said: Vec<u32> = (1..=turn).collect();
        keep(&mut slots, &said);
        assert!(has(&slots, &[1]) && has(&slots, &said), "turn {turn}");
        // the question goes before the turns, and they before what they begin with
        assert_eq!(has(&slots, &[8]), turn < 4, "turn {turn}");
        assert!(turn < 3 || has(&slots, &said[..said.len() - 1]));
    }
    // checkpoints of one prompt, without a turn between them
    let mut slots = Slots::new(3);
    let running = slots.take(None).unwrap();
    for tokens in [&[1][..], &[1, 2], &[1, 2, 3]] {
        slots.keep_copy(own(5), tokens).unwrap();
    }
    assert!(has(&slots, &[1]) && has(&slots, &[1, 2, 3]) && !has(&slots, &[1, 2]));
    slots.keep(running, own(5), &[1, 2, 3, 4]);
}

#[test]
#[should_panic(expected = "no sequence has slot 1")]
fn a_slot_is_released_once() {
    let mut slots = Slots::new(2);
    let slot = slots.take(None).unwrap();
    assert_eq!(slot, 0);
    slots.release(1);
}

#[derive(Debug, Clone)]
enum Op {
    Take { client: Owner, tokens: Vec<u32> },
    Copy(usize),
    Keep(usize),
    Release(usize),
    Forget(Owner),
    Distrust(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let tokens = prop::collection::vec(0..2u32, 1..5);
    prop_oneof![
        4 => (0..3u64, tokens).prop_map(|(client, tokens)| Op::Take { client, tokens }),
        3 => any::<usize>().prop_map(Op::Copy),
        2 => any::<usize>().prop_map(Op::Keep),
        1 => any::<usize>().prop_map(Op::Release),
        1 => (0..3u64).prop_map(Op::Forget),
        1 => any::<usize>().prop_map(Op::Distrust),
    ]
}

proptest! {
    /// Every slot is free, a snapshot's or one sequence's. What is found is the searcher's own, a beginning of its text, and
    /// was kept behind exactly these tokens.
    #[test]
    fn no_slot_is_lost_or_used_twice(
        total in 1..6u16,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut slots = Slots::new(total);
        // what a slot's bytes would be, and the sequences
        let mut bytes = BTreeMap::<StateSlot, (Owner, Vec<u32>)>::new();
        let mut taken = Vec::<(StateSlot, Owner, Vec<u32>)>::new();
        for op in ops {
            let at = |which: usize| which.checked_rem(taken.len());
            match op {
                Op::Take { client, tokens } => {
                    let found = slots.find(own(client), &tokens);
                    for (slot, len) in &found {
                        prop_assert_eq!(&bytes[slot], &(client, tokens[..*len].to_vec()));
                    }
                    let room = slots.is_room();
                    let slot = slots.take(found.first().map(|(slot, _)| *slot));
                    prop_assert_eq!(slot.is_some(), room);
                    if let Some(slot) = slot {
                        prop_assert!(taken.iter().all(|(other, ..)| *other != slot));
                        bytes.insert(slot, (client, tokens.clone()));
                        taken.push((slot, client, tokens));
                    }
                }
                Op::Copy(which) => if let Some(at) = at(which) {
                    let (slot, client, tokens) = taken[at].clone();
                    if let Some(copy) = slots.keep_copy(own(client), &tokens) {
                        prop_assert!(copy != slot && taken.iter().all(|(other, ..)| *other != copy));
                        bytes.insert(copy, (client, tokens));
                    }
                },
                Op::Keep(which) => if let Some(at) = at(which) {
                    let (slot, client, tokens) = taken.swap_remove(at);
                    slots.keep(slot, own(client), &tokens);
                },
                Op::Release(which) => if let Some(at) = at(which) {
                    slots.release(taken.swap_remove(at).0);
                },
                Op::Forget(client) => {
                    slots.forget(client);
                    prop_assert!(slots.snapshots.iter().all(|kept| kept.owner != client));
                }
                Op::Distrust(which) => if let Some(at) = at(which) {
                    let (_, client, tokens) = &taken[at];
                    slots.forget_prefixes(own(*client), tokens);
                    let more = [&tokens[..], &[7]].concat();
                    prop_assert!(slots.find(own(*client), &more).is_empty());
                },
            }
            let (snapshots, free) = slots.counts();
            prop_assert_eq!(snapshots + free + taken.len(), usize::from(total));
            // no two snapshots are the same
            for (at, kept) in slots.snapshots.iter().enumerate() {
                let same = slots.snapshots[..at].iter();
                let mut same = same.filter(|o| (o.owner, &o.tokens) == (kept.owner, &kept.tokens));
                prop_assert!(same.next().is_none());
            }
        }
    }
}
