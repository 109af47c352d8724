//! Each rule on a small table.

mod lives;
mod steps;

use super::*;
use Priority::{Background, Normal, Urgent};
use std::collections::BTreeSet;

fn job(id: RequestId, client: u64, priority: Priority) -> Job {
    Job {
        id,
        client,
        priority,
    }
}

fn started(id: RequestId) -> Admitted {
    Admitted::Started { id, parked: None }
}

fn instead(id: RequestId, parked: RequestId) -> Admitted {
    Admitted::Started {
        id,
        parked: Some(parked),
    }
}

fn resumed(id: RequestId) -> Admitted {
    Admitted::Resumed { id, parked: None }
}

/// Everything that the scheduler decides, with pages for all jobs but `large`.
fn admit(s: &mut Scheduler, large: &[RequestId]) -> std::vec::Vec<Admitted> {
    std::iter::from_fn(|| s.admit(&mut |id| !large.contains(&id))).collect()
}

fn with(max_streams: usize, queue: usize, jobs: &[Job]) -> Scheduler {
    let mut s = Scheduler::new(max_streams, queue);
    for &job in jobs {
        s.submit(job).unwrap();
    }
    s
}

/// What a job is due whose prompt has so many tokens to go.
fn due(prompt: usize) -> Due {
    if prompt > 0 {
        Due::Prompt(prompt)
    } else {
        Due::Answer(1)
    }
}

/// Ends the running jobs one after the other, and gives the order in which they ran.
fn drain(s: &mut Scheduler) -> std::vec::Vec<RequestId> {
    let mut order = vec![];
    loop {
        admit(s, &[]);
        let Some(id) = s.running().next() else {
            return order;
        };
        order.push(id);
        s.served(id, 10);
        s.remove(id);
    }
}

#[test]
fn priority_then_the_share_then_arrival() {
    let jobs = [
        job(1, 1, Background),
        job(2, 1, Normal),
        job(3, 1, Normal),
        job(4, 2, Normal),
        job(5, 1, Urgent),
        job(6, 3, Background),
    ];
    let mut s = with(1, 9, &jobs);
    // client 1 was served for job 5, so client 2 goes before it; then they are level, then 3 was never served
    assert_eq!(drain(&mut s), [5, 4, 2, 3, 6, 1]);
}

#[test]
fn the_number_before_counts_what_does_not_yield() {
    let mut s = Scheduler::new(2, 9);
    assert_eq!(s.submit(job(1, 1, Background)), Ok(0));
    assert_eq!(s.submit(job(2, 1, Normal)), Ok(0));
    assert_eq!(admit(&mut s, &[]), [started(2), started(1)]);
    assert_eq!(s.submit(job(3, 2, Normal)), Ok(1));
    assert_eq!(s.submit(job(4, 2, Normal)), Ok(2));
    assert_eq!(s.submit(job(5, 2, Urgent)), Ok(0));
    assert_eq!(s.submit(job(6, 2, Background)), Ok(5));
}

#[test]
fn nobody_is_passed_for_want_of_pages_except_by_priority() {
    let mut s = with(4, 9, &[job(1, 1, Normal), job(2, 2, Normal)]);
    assert_eq!(admit(&mut s, &[1]), []);
    // not by the same priority, not by a lower one, not by a client that was served less
    s.submit(job(3, 3, Background)).unwrap();
    assert_eq!(admit(&mut s, &[1]), []);
    s.submit(job(4, 4, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[1]), [started(4)]);
    s.served(4, 100);
    assert_eq!(admit(&mut s, &[]), [started(1), started(2), started(3)]);
}

#[test]
fn a_turn_that_came_is_kept_until_the_pages_are_there() {
    let mut s = with(3, 9, &[job(1, 1, Normal)]);
    admit(&mut s, &[]);
    s.submit(job(2, 1, Normal)).unwrap();
    assert_eq!(admit(&mut s, &[2]), []);
    s.served(1, 500);
    s.submit(job(3, 3, Normal)).unwrap();
    // the share says 3, which would take the pages that 2 waits for
    assert_eq!(admit(&mut s, &[2]), []);
    assert_eq!(admit(&mut s, &[]), [started(2), started(3)]);
}

#[test]
fn who_waits_for_pages_parks_nobody() {
    let mut s = with(1, 9, &[job(1, 1, Background)]);
    admit(&mut s, &[]);
    s.submit(job(2, 2, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[2]), []);
    assert_eq!(s.running().collect::<std::vec::Vec<_>>(), [1]);
    assert_eq!(admit(&mut s, &[]), [instead(2, 1)]);
}

#[test]
fn urgent_work_takes_the_place_of_the_lowest_and_most_served() {
    let jobs = [
        job(1, 1, Normal),
        job(2, 2, Normal),
        job(3, 3, Background),
        job(4, 2, Normal),
    ];
    let mut s = with(4, 9, &jobs);
    admit(&mut s, &[]);
    s.served(1, 10);
    s.served(2, 20);
    s.served(3, 5);
    for (id, parked) in [(11, 3), (12, 4), (13, 2), (14, 1)] {
        s.submit(job(id, id, Urgent)).unwrap();
        assert_eq!(admit(&mut s, &[]), [instead(id, parked)]);
    }
    // urgent work does not take the place of urgent work
    s.submit(job(15, 15, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), []);
    // a parked one resumes before the waiting of its priority, even those served less
    s.submit(job(5, 5, Normal)).unwrap();
    s.remove(11);
    assert_eq!(admit(&mut s, &[]), [started(15)]);
    let mut back = vec![];
    for id in [12, 13, 14, 15] {
        s.remove(id);
        back.extend(admit(&mut s, &[]));
    }
    assert_eq!(back, [resumed(1), resumed(2), resumed(4), started(5)]);
}

#[test]
fn background_work_yields_to_normal_and_goes_on_after_it() {
    let mut s = with(1, 9, &[job(1, 1, Background), job(2, 1, Background)]);
    assert_eq!(admit(&mut s, &[]), [started(1)]);
    s.submit(job(3, 1, Normal)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(3, 1)]);
    s.submit(job(4, 1, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(4, 3)]);
    let mut order = vec![];
    for id in [4, 3, 1, 2] {
        assert_eq!(s.remove(id), Some(JobState::Running));
        order.extend(admit(&mut s, &[]));
    }
    assert_eq!(order, [resumed(3), resumed(1), started(2)]);
}

#[test]
fn a_parked_one_goes_on_while_a_more_urgent_one_waits_for_pages() {
    let mut s = with(2, 9, &[job(1, 1, Normal), job(2, 2, Normal)]);
    admit(&mut s, &[]);
    s.submit(job(3, 3, Urgent)).unwrap();
    s.submit(job(4, 4, Urgent)).unwrap();
    s.submit(job(5, 5, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(3, 2), instead(4, 1)]);
    s.remove(3);
    s.remove(4);
    assert_eq!(admit(&mut s, &[5]), [resumed(1), resumed(2)]);
    assert_eq!(admit(&mut s, &[]), [instead(5, 2)]);
}

#[test]
fn every_place_can_be_parked_twice_and_no_more() {
    for streams in 1..=STREAMS_MAX {
        let mut s = Scheduler::new(streams, QUEUE_MAX);
        let mut id = 0;
        for priority in [Background, Normal, Urgent] {
            for _ in 0..streams {
                s.submit(job(id, id, priority)).unwrap();
                assert!(matches!(admit(&mut s, &[])[..], [Admitted::Started { .. }]));
                id += 1;
            }
        }
        assert_eq!(s.parked().len(), 2 * streams);
        // from here on an urgent one waits for an urgent one's end
        s.submit(job(id, id, Urgent)).unwrap();
        assert_eq!(admit(&mut s, &[]), []);
        s.remove(id - 1);
        assert_eq!(admit(&mut s, &[]), [started(id)]);
        drain(&mut s);
        assert_eq!((s.waiting().len(), s.parked().len()), (0, 0));
    }
}

#[test]
fn a_client_has_one_urgent_one_at_a_time() {
    let mut s = with(2, 9, &[job(1, 1, Urgent), job(2, 1, Urgent)]);
    assert_eq!(admit(&mut s, &[]), [started(1), started(2)]);
    s.submit(job(3, 1, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), []);
    // the second started as normal, and yields
    s.submit(job(4, 2, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(4, 2)]);
    // what it started as it stays; the third is the urgent one now
    s.remove(1);
    assert_eq!(admit(&mut s, &[]), [started(3)]);
    s.remove(4);
    assert_eq!(admit(&mut s, &[]), [resumed(2)]);
}

#[test]
fn urgency_ends_with_the_share() {
    let mut s = with(1, 9, &[job(1, 1, Urgent), job(2, 2, Normal)]);
    assert_eq!(admit(&mut s, &[]), [started(1)]);
    // of two clients, half of it is its share
    s.served(1, 2 * URGENT_TOKENS as usize);
    s.remove(1);
    s.submit(job(3, 1, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [started(3)]);
    s.served(3, 2);
    s.remove(3);
    s.submit(job(4, 1, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [started(2)]);
    // another newcomer may press, and the one who waits may again when its share has grown
    s.submit(job(5, 3, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(5, 2)]);
    s.remove(5);
    assert_eq!(admit(&mut s, &[]), [resumed(2)]);
    s.served(2, 2);
    assert_eq!(admit(&mut s, &[]), [instead(4, 2)]);
    // who is alone loses nothing by it
    let mut s = with(1, 9, &[job(1, 1, Urgent)]);
    admit(&mut s, &[]);
    s.served(1, 5000);
    s.remove(1);
    s.submit(job(2, 2, Normal)).unwrap();
    s.submit(job(3, 1, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [started(3)]);
}

#[test]
fn background_work_that_waited_long_has_a_turn_and_keeps_it() {
    let mut s = with(1, 9, &[job(1, 1, Background), job(9, 9, Background)]);
    admit(&mut s, &[]);
    let mut id = 2;
    s.submit(job(id, 2, Normal)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(2, 1)]);
    for served in [AGE_TOKENS - 1, 1] {
        s.served(id, served as usize);
        s.remove(id);
        id += 1;
        s.submit(job(id, 2, Normal)).unwrap();
        let next = admit(&mut s, &[]);
        if served > 1 {
            assert_eq!(next, [started(id)]);
        } else {
            assert_eq!(next, [resumed(1)]);
        }
    }
    // it is parked for urgent work only; the other one, which never started, has aged too
    s.submit(job(20, 3, Urgent)).unwrap();
    assert_eq!(admit(&mut s, &[]), [instead(20, 1)]);
    s.remove(20);
    assert_eq!(admit(&mut s, &[]), [resumed(1)]);
    s.remove(1);
    assert_eq!(admit(&mut s, &[]), [started(9)]);
}

#[test]
fn prompts_of_one_rank_take_turns_by_share() {
    let mut s = with(4, 9, &[job(1, 1, Normal)]);
    let mut left = std::collections::BTreeMap::from([(1, 3400), (2, 33), (3, 500), (4, 500)]);
    let mut step = |s: &mut Scheduler| {
        admit(s, &[]);
        let step = s.step(&|id| due(left[&id]));
        let [(id, tokens)] = step[..] else {
            panic!("{step:?}");
        };
        assert_eq!(tokens, left[&id].min(PREFILL_ALONE));
        s.served(id, tokens);
        *left.get_mut(&id).unwrap() -= tokens;
        if left[&id] == 0 {
            s.remove(id);
        }
        id
    };
    for _ in 0..5 {
        assert_eq!(step(&mut s), 1);
    }
    s.submit(job(2, 2, Normal)).unwrap();
    s.submit(job(3, 2, Normal)).unwrap();
    // the short one of another client within two chunks; then chunk by chunk, for each client one at a time
    s.submit(job(4, 1, Normal)).unwrap();
    let order: std::vec::Vec<_> = (0..9).map(|_| step(&mut s)).collect();
    assert_eq!(order, [1, 2, 3, 1, 3, 1, 3, 1, 3]);
    // a higher rank does not take turns
    s.submit(job(5, 2, Urgent)).unwrap();
    admit(&mut s, &[]);
    assert_eq!(
        s.step(&|_| Due::Prompt(100)).last(),
        Some(&(5, PREFILL_ALONE))
    );
}

#[test]
fn only_a_prompt_for_which_nobody_waits_has_wide_chunks() {
    let mut s = with(1, 9, &[job(1, 1, Normal)]);
    admit(&mut s, &[]);
    let step = |s: &Scheduler| s.step(&|_| Due::Prompt(1000)).to_vec();
    assert_eq!(step(&s), [(1, PREFILL_ALONE)]);
    s.widen(true);
    assert_eq!(step(&s), [(1, PREFILL_WIDE)]);
    // what is forced of an answer is no prompt
    let forced = s.step(&|_| Due::Answer(1000)).to_vec();
    assert_eq!(forced, [(1, PREFILL_ALONE)]);
    s.submit(job(2, 2, Background)).unwrap();
    assert_eq!(step(&s), [(1, PREFILL_ALONE)]);
    s.remove(2);
    assert_eq!(step(&s), [(1, PREFILL_WIDE)]);
    s.widen(false);
    assert_eq!(step(&s), [(1, PREFILL_ALONE)]);
}

#[test]
fn a_job_ends_in_any_state_and_only_once() {
    let mut s = with(1, 1, &[job(1, 1, Background)]);
    admit(&mut s, &[]);
    s.submit(job(2, 1, Normal)).unwrap();
    admit(&mut s, &[]);
    s.submit(job(3, 1, Normal)).unwrap();
    for id in [1, 2, 3] {
        assert_eq!(
            s.submit(job(id, 2, Urgent)),
            Err(SubmitError::Twice(id)),
            "{id}"
        );
    }
    assert_eq!(s.remove(1), Some(JobState::Parked));
    assert_eq!(s.remove(3), Some(JobState::Waiting));
    assert_eq!(s.remove(2), Some(JobState::Running));
    for id in [1, 2, 3, 4] {
        assert_eq!(s.remove(id), None);
    }
    s.served(2, 1);
    assert_eq!(s.submit(job(2, 1, Normal)), Ok(0));
}

#[test]
fn the_queue_is_bounded_and_holds_nobody_up_who_starts_at_once() {
    let full = |waiting, limit| Err(SubmitError::Full { waiting, limit });
    let mut s = Scheduler::new(2, 0);
    s.submit(job(1, 1, Normal)).unwrap();
    s.submit(job(2, 1, Background)).unwrap();
    assert_eq!(s.submit(job(3, 1, Normal)), full(2, 0));
    admit(&mut s, &[]);
    assert_eq!(s.submit(job(3, 1, Background)), full(0, 0));
    // the background one yields, the other does not
    s.submit(job(3, 1, Normal)).unwrap();
    assert_eq!(s.submit(job(4, 1, Normal)), full(1, 0));
    s.submit(job(5, 1, Urgent)).unwrap();
    assert_eq!(s.submit(job(6, 1, Urgent)), full(2, 0));
    assert_eq!(admit(&mut s, &[]), [instead(5, 2)]);

    // a queue full of background work does not keep urgent work out
    let mut s = Scheduler::new(1, QUEUE_MAX + 1);
    for id in 0..QUEUE_MAX as RequestId {
        s.submit(job(id, 1, Background)).unwrap();
    }
    assert_eq!(
        s.submit(job(1000, 1, Normal)).map_err(|_| ()),
        Ok(0),
        "a free place"
    );
    admit(&mut s, &[]);
    assert_eq!(s.submit(job(1001, 1, Normal)), full(QUEUE_MAX, QUEUE_MAX));
    assert_eq!(s.submit(job(1002, 2, Urgent)), Ok(0));

    // nor does urgent work of one client keep another's out, but its own
    let mut s = Scheduler::new(2, 2);
    for id in 0..4 {
        s.submit(job(id, 1, Urgent)).unwrap();
        admit(&mut s, &[]);
    }
    assert_eq!(s.submit(job(4, 1, Urgent)), full(2, 2));
    assert_eq!(s.submit(job(5, 2, Urgent)), Ok(1));
    assert_eq!(admit(&mut s, &[]), [instead(5, 1)]);
}

#[test]
fn one_request_beside_a_flood_is_next() {
    for streams in 1..=STREAMS_MAX {
        let mut s = Scheduler::new(streams, QUEUE_MAX);
        for id in 0..100 {
            s.submit(job(id, 1, Normal)).unwrap();
        }
        admit(&mut s, &[]);
        s.submit(job(1000, 2, Normal)).unwrap();
        assert_eq!(s.remove(0), Some(JobState::Running));
        assert_eq!(admit(&mut s, &[]), [started(1000)], "{streams}");
        // the same for its next one, whatever the others were served meanwhile
        s.served(1000, 50);
        for id in 1..streams as RequestId {
            s.served(id, 60);
        }
        s.submit(job(1001, 2, Normal)).unwrap();
        s.remove(1000);
        let next = if streams > 1 { 1001 } else { 1 };
        assert_eq!(admit(&mut s, &[]), [started(next)], "{streams}");
    }
}

#[test]
fn time_without_a_request_neither_earns_nor_costs() {
    let mut s = Scheduler::new(1, 99);
    for id in 0..20 {
        s.submit(job(id, 1, Normal)).unwrap();
        admit(&mut s, &[]);
        s.served(id, 100);
        s.remove(id);
    }
    // client 1 had the machine for itself; 2 does not go before it for that
    for id in [100, 102, 104] {
        s.submit(job(id, 1, Normal)).unwrap();
        s.submit(job(id + 1, 2, Normal)).unwrap();
    }
    assert_eq!(drain(&mut s), [101, 100, 103, 102, 105, 104]);
}

#[test]
fn service_long_ago_counts_less() {
    let mut s = with(1, 99, &[job(1, 1, Background), job(2, 2, Normal)]);
    s.served(1, 4000);
    s.served(2, 2000);
    assert!(s.clients[0].service == 4000 && s.clients[1].service == 2000);
    s.served(2, 3000);
    assert_eq!((s.clients[0].service, s.clients[1].service), (2000, 2500));
}

#[test]
fn the_table_of_clients_is_bounded_and_forgets_the_least() {
    let mut s = Scheduler::new(1, QUEUE_MAX);
    let come_and_go = |s: &mut Scheduler, client: u64| {
        s.submit(job(1000, client, Normal)).unwrap();
        s.served(1000, if client == 7 { 30 } else { 1 });
        s.remove(1000);
    };
    for client in 0..2 * CLIENTS_MAX as u64 {
        come_and_go(&mut s, client);
    }
    assert_eq!(s.clients.len(), CLIENTS_MAX);
    assert!(s.clients.iter().any(|c| c.name == 7 && c.service == 30));
    for id in 0..QUEUE_MAX as u64 {
        s.submit(job(id, 5000 + id, Normal)).unwrap();
    }
    for client in 9000..9999 {
        let fits = s.submit(job(1000, client, Urgent)).is_ok();
        assert!(fits);
        s.remove(1000);
    }
    // the live ones are all there
    let live = s.clients.iter().filter(|c| c.jobs == 1);
    let names: BTreeSet<u64> = live.map(|c| c.name).collect();
    assert_eq!(names, (5000..5000 + QUEUE_MAX as u64).collect());
}
