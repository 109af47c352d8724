#![allow(clippy::unwrap_used, clippy::expect_used)]

extern crate std;

use super::shapes::{Q15, Q35, SMOL};
use super::*;
use std::format;
use std::vec::Vec;

const CHOICE: Choice = Choice {
    context: 4096,
    k: KvFormat::Q8_0,
    v: KvFormat::Q8_0,
    kv_pages: None,
    streams: 4,
    queue: 16,
    max_payload_bytes: 1 << 18,
    message_bytes: 22 << 20,
    step_tokens: 64,
    threads: 4,
};

fn of(bytes: u64) -> Limit {
    Limit {
        bytes,
        from: LimitSource::Config,
    }
}

fn line(plan: &MemoryPlan, name: &str) -> u64 {
    plan.lines().find(|(line, _)| *line == name).unwrap().1
}

#[test]
fn pages_are_what_the_limit_leaves_between_one_context_and_all() {
    let all = plan(&of(u64::MAX), &Q15, &CHOICE).unwrap();
    assert_eq!((all.pages, all.page_bytes), (4 * 128, 15_232 * 32));
    assert_eq!(line(&all, "kv_pages"), 4 * 4096 * 15_232);
    assert_eq!(all.total(), all.lines().map(|(_, bytes)| bytes).sum());
    let room = line(&all, "messages") + line(&all, "masks") + line(&all, "reserve");
    assert_eq!(all.resident() + room, all.total());
    // every byte less takes pages, never more than the limit has, and never wastes two
    for missing in (0..all.total()).step_by(1_000_003) {
        let limit = of(all.total() - missing);
        match plan(&limit, &Q15, &CHOICE) {
            Ok(less) => {
                assert!((128..=512).contains(&less.pages));
                assert!(less.total() <= limit.bytes);
                let unused = limit.bytes - less.total();
                assert!(less.pages == 512 || unused < 2 * less.page_bytes);
            }
            Err(error) => {
                let Choice { context, .. } = CHOICE;
                let least = Choice {
                    kv_pages: Some(context / PAGE_TOKENS),
                    ..CHOICE
                };
                assert_eq!(plan(&limit, &Q15, &least), Err(error));
                assert_eq!(error.need - error.missing, limit.bytes);
            }
        }
    }
}

#[test]
fn pages_asked_for_are_taken_as_they_are() {
    let choice = Choice {
        kv_pages: Some(64),
        ..CHOICE
    };
    let plan = plan(&of(1 << 40), &SMOL, &choice).unwrap();
    assert_eq!(plan.pages, 64);
    let long = Choice {
        context: usize::MAX,
        streams: 8,
        ..CHOICE
    };
    // more than the arena's page table takes is never planned
    let error = super::plan(&of(1 << 40), &SMOL, &long).unwrap_err();
    assert_eq!(error.line, "scratch");
}

#[test]
fn every_line_can_be_the_one_that_crosses() {
    let least = Choice {
        kv_pages: Some(128),
        ..CHOICE
    };
    let whole = plan(&of(u64::MAX), &SMOL, &least).unwrap();
    let mut before = 0;
    let mut named = Vec::new();
    for (line, bytes) in whole.lines() {
        for limit in [before, before + bytes - 1] {
            let error = plan(&of(limit), &SMOL, &least).unwrap_err();
            assert_eq!((error.line, error.bytes), (line, bytes));
            assert_eq!(error.missing, whole.total() - limit);
            assert_eq!(error.need, whole.total());
        }
        before += bytes;
        named.push(line);
    }
    assert_eq!(
        named,
        [
            "weights",
            "kv_pages",
            "scratch",
            "tokenizer",
            "program",
            "messages",
            "masks",
            "reserve"
        ]
    );
    assert_eq!(plan(&of(before), &SMOL, &least).unwrap().total(), before);
}

/// 32 queries and their results of 128 values, and 512 KB of scores.
#[test]
fn every_thread_has_room_for_a_tile_of_attention() {
    let scratch = |threads| {
        let choice = Choice { threads, ..CHOICE };
        line(&plan(&of(u64::MAX), &Q15, &choice).unwrap(), "scratch")
    };
    assert_eq!(scratch(5) - scratch(4), 4 * 2 * 32 * 128 + (512 << 10));
}

#[test]
fn formats_and_f16_layers_change_the_page_alone() {
    let pages = |shape: Shape, k, v| {
        plan(&of(u64::MAX), &shape, &Choice { k, v, ..CHOICE })
            .unwrap()
            .page_bytes
            / 32
    };
    let some = Shape {
        f16_key_layers: 2,
        ..Q15
    };
    let all = Shape {
        f16_key_layers: 99,
        ..Q15
    };
    let (f16, q8, q4) = (KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0);
    assert_eq!(pages(Q15, f16, f16), 28_672);
    assert_eq!(pages(Q15, q8, q4), 11_648);
    assert_eq!(pages(some, q8, q8), 15_232 + 2 * 2 * (256 - 136));
    assert_eq!(pages(all, q8, f16), 28_672);
}

#[test]
fn masks_are_what_was_measured() {
    let none = Choice {
        streams: 0,
        queue: 0,
        ..CHOICE
    };
    // while they are made it is a third more
    for (shape, measured) in [(SMOL, 9_500_000_u64), (Q15, 32_400_000)] {
        let bytes = masks(&shape, &none);
        assert!(
            (measured * 5 / 4..measured * 8 / 5).contains(&bytes),
            "{}: {bytes}, measured {measured}",
            shape.vocab
        );
    }
    let requests = masks(&Q15, &CHOICE) - masks(&Q15, &none);
    assert_eq!(requests, 4 * CONSTRAINT_BYTES_MAX + 16 * CONSTRAINT_WAITING);
}

#[test]
fn the_error_is_a_sentence() {
    let error = plan(&of(1_000_000), &SMOL, &CHOICE).unwrap_err();
    let text = format!("{error}");
    assert!(
        text.starts_with("`weights` (98362432 bytes) does not fit"),
        "{text}"
    );
    assert!(
        text.contains("`memory.budget` is 1000000,")
            && text.contains(&format!("{}", error.missing))
    );
}

#[test]
fn absurd_numbers_are_refused_and_not_wrapped() {
    let huge = Shape {
        file_bytes: u64::MAX,
        layers: 1 << 20,
        embed: usize::MAX,
        heads: usize::MAX,
        kv_heads: usize::MAX,
        head_dim: 1 << 20,
        ff: usize::MAX,
        vocab: usize::MAX,
        token_bytes: u64::MAX,
        merges: usize::MAX,
        f16_key_layers: usize::MAX,
        state_bytes: u64::MAX,
        delta_width: usize::MAX,
        draft_bytes: u64::MAX,
    };
    let choice = Choice {
        context: usize::MAX,
        streams: usize::MAX,
        queue: usize::MAX,
        max_payload_bytes: usize::MAX,
        message_bytes: u64::MAX,
        step_tokens: usize::MAX,
        threads: usize::MAX,
        ..CHOICE
    };
    assert!(plan(&of(1 << 50), &huge, &choice).is_err());
}

#[test]
fn the_least_limit_is_the_one() {
    let other = Limit {
        bytes: 3,
        from: LimitSource::Cgroup,
    };
    assert_eq!(Limit::least([of(5), other, of(4)]), Some(other));
    assert_eq!(Limit::least([]), None);
}

#[test]
fn slots_come_with_the_pages_of_their_streams() {
    let most = plan(&of(u64::MAX), &Q35, &CHOICE).unwrap();
    // 18.9 MB of matrices, 1.3 MB of columns, and a snapshot's tokens
    assert_eq!(most.slot_bytes, 18_874_368 + 1_327_104 + 4 * 4096);
    assert_eq!((most.state_slots, most.pages), (9, 4 * 128));
    assert_eq!(line(&most, "states"), 9 * most.slot_bytes);
    let pages = 128 * most.page_bytes;
    assert_eq!(most.sequence_bytes(4096), pages + most.slot_bytes);
    assert_eq!(most.sequence_bytes(1), most.page_bytes + most.slot_bytes);
    let lines = most.lines().map(|(_, bytes)| bytes);
    assert_eq!(most.total(), lines.sum::<u64>());

    let mut before = (usize::MAX, usize::MAX);
    for missing in (0..most.total()).step_by(1_000_003) {
        let limit = of(most.total() - missing);
        match plan(&limit, &Q35, &CHOICE) {
            Ok(less) => {
                let now = (less.state_slots, less.pages);
                assert!((1..=9).contains(&now.0) && (128..=512).contains(&now.1));
                // a stream has its slots and its pages, or neither
                assert!(now.0 < 3 || now.0 % 2 == 1 && now.1 >= (now.0 - 1) / 2 * 128);
                assert!(now.0 <= before.0 && less.total() <= limit.bytes);
                before = now;
            }
            Err(error) => {
                // one slot and the pages of one context did not fit
                let least = plan(&of(limit.bytes + error.missing), &Q35, &CHOICE).unwrap();
                assert_eq!((least.state_slots, least.pages), (1, 128));
                assert_eq!(least.total(), error.need);
                assert!(before.0 == 1 && before.1 < 128 + 8);
                return;
            }
        }
    }
    panic!("nothing was too little");
}

#[test]
fn chosen_pages_leave_slots_the_rest_and_one_slot_is_needed() {
    let choice = Choice {
        kv_pages: Some(64),
        ..CHOICE
    };
    let most = plan(&of(u64::MAX), &Q35, &choice).unwrap();
    assert_eq!((most.state_slots, most.pages), (9, 64));
    let least = most.total() - 8 * (most.slot_bytes + most.slot_bytes / 50);
    let one = plan(&of(least), &Q35, &choice).unwrap();
    assert_eq!((one.state_slots, one.pages), (1, 64));

    // the state itself is what does not fit
    let weights = line(&one, "weights") + line(&one, "kv_pages");
    let error = plan(&of(weights + one.slot_bytes - 1), &Q35, &choice).unwrap_err();
    assert_eq!((error.line, error.bytes), ("states", one.slot_bytes));
    let text = format!("{error}");
    assert!(
        text.starts_with(&format!("`states` ({} bytes) does not fit", one.slot_bytes)),
        "{text}"
    );
    assert_eq!(state_slots(usize::MAX), 2 * STREAMS_MAX + 1);
}

#[test]
fn without_states_there_is_neither_line_nor_slot() {
    let plan = plan(&of(u64::MAX), &Q15, &CHOICE).unwrap();
    assert_eq!((plan.state_slots, plan.slot_bytes), (0, 0));
    assert!(plan.lines().all(|(line, _)| line != "states"));
    assert_eq!(plan.sequence_bytes(33), 2 * plan.page_bytes);
}
