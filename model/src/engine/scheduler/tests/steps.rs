//! What each job has in one step.

use super::*;

#[test]
fn a_step_is_bounded_and_nobody_that_decodes_is_left_out() {
    // (priority, prompt to go) of those that run, what each has in the step
    type Row<'a> = (&'a [(Priority, usize)], &'a [usize]);
    let table: &[Row] = &[
        (&[], &[]),
        (&[(Normal, 0)], &[1]),
        (&[(Normal, 0), (Normal, 0), (Background, 0)], &[1, 1, 1]),
        (&[(Normal, 1000)], &[64]),
        (&[(Normal, 7)], &[7]),
        (&[(Normal, 1000), (Normal, 1000)], &[64, 0]),
        (&[(Normal, 0), (Normal, 1000)], &[1, 7]),
        (&[(Normal, 0), (Normal, 3)], &[1, 3]),
        (&[(Normal, 9), (Normal, 0), (Normal, 0)], &[6, 1, 1]),
        (&[(Normal, 1000), (Urgent, 1000), (Normal, 0)], &[0, 7, 1]),
        (&[(Background, 10), (Normal, 10)], &[0, 10]),
        (
            &[
                (Normal, 0),
                (Normal, 0),
                (Normal, 0),
                (Normal, 0),
                (Normal, 0),
                (Normal, 0),
                (Normal, 0),
                (Normal, 99),
            ],
            &[1, 1, 1, 1, 1, 1, 1, 4],
        ),
    ];
    for (jobs, want) in table {
        let mut s = Scheduler::new(STREAMS_MAX, QUEUE_MAX);
        for (id, &(priority, _)) in jobs.iter().enumerate() {
            s.submit(job(id as RequestId, 1, priority)).unwrap();
        }
        admit(&mut s, &[]);
        let step = s.step(&|id| due(jobs[id as usize].1));
        let mut got = vec![0; jobs.len()];
        for (id, tokens) in step {
            got[id as usize] += tokens;
        }
        assert_eq!(&got, want, "{jobs:?}");
    }
}

#[test]
fn what_a_format_forces_has_the_room_of_a_prompt_that_is_not_there() {
    // tokens due of those that run, of which the first may be a prompt; what each has in the step
    type Row<'a> = (&'a [Due], &'a [usize]);
    let table: &[Row] = &[
        (&[Due::Answer(100)], &[64]),
        (&[Due::Answer(5)], &[5]),
        (&[Due::Answer(1), Due::Answer(5)], &[1, 5]),
        (&[Due::Answer(1), Due::Answer(100)], &[1, 7]),
        (
            &[Due::Answer(9), Due::Answer(9), Due::Answer(1)],
            &[6, 1, 1],
        ),
        (&[Due::Answer(9), Due::Prompt(9)], &[1, 7]),
        (&[Due::Answer(9); STREAMS_MAX], &[1; STREAMS_MAX]),
    ];
    for (jobs, want) in table {
        let mut s = Scheduler::new(STREAMS_MAX, QUEUE_MAX);
        for id in 0..jobs.len() {
            s.submit(job(id as RequestId, 1, Normal)).unwrap();
        }
        admit(&mut s, &[]);
        let mut got = vec![0; jobs.len()];
        for (id, tokens) in s.step(&|id| jobs[id as usize]) {
            got[id as usize] += tokens;
        }
        assert_eq!(&got, want, "{jobs:?}");
    }
}
