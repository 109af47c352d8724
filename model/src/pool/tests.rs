//! Each task once, tiles apart, panics and sleepers come back.

use super::*;
#[cfg(not(miri))]
use std::sync::Barrier;

const MANY: usize = if cfg!(miri) { 30 } else { 1000 };

fn message(panic: &Panic) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str))
        .unwrap()
}

#[test]
fn every_task_runs_exactly_once() {
    for size in 1..=4 {
        let pool = Pool::new(size).unwrap();
        assert_eq!(pool.threads(), size);
        for threads in 0..=5 {
            for tasks in [0, 1, 2, 3, MANY] {
                let hits: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(threads, tasks, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    hits.iter().all(|h| h.load(Ordering::Relaxed) == 1),
                    "{size} {threads} {tasks}"
                );
            }
        }
    }
}

#[test]
fn no_more_threads_than_asked_for_and_all_of_them_take_part() {
    let pool = Pool::new(4).unwrap();
    for threads in 1..=4 {
        // each task waits until as many threads as may come are inside: so all came, and no more
        let inside = AtomicUsize::new(0);
        let seen = Mutex::new(std::collections::HashSet::new());
        pool.run(threads, threads, &|_| {
            seen.lock().unwrap().insert(thread::current().id());
            inside.fetch_add(1, Ordering::SeqCst);
            while inside.load(Ordering::SeqCst) < threads {
                thread::yield_now();
            }
        });
        assert_eq!(seen.lock().unwrap().len(), threads);
        // only the callers of the first `threads` may come, whatever the number of tasks
        let seen = Mutex::new(std::collections::HashSet::new());
        pool.run(threads, MANY, &|_| {
            seen.lock().unwrap().insert(thread::current().id());
        });
        assert!(seen.lock().unwrap().len() <= threads);
    }
}

#[test]
fn rows_are_split_without_overlap_and_without_gap() {
    let pool = Pool::new(3).unwrap();
    for (rows, cols, chunk) in [
        (0, 0, 4),
        (1, 1, 1),
        (7, 3, 2),
        (16, 5, 16),
        (33, 2, 4),
        (5, 4, 100),
    ] {
        let mut out = vec![0.0f32; rows * cols];
        pool.run_rows(3, &mut out, rows, (chunk, 2), &|range, tile| {
            assert_eq!((tile.rows(), tile.cols()), (range.len(), cols));
            for c in 0..cols {
                for (r, v) in range.clone().zip(tile.column(c)) {
                    *v += (c * 1000 + r + 1) as f32;
                }
            }
        });
        let want: Vec<f32> = (0..cols)
            .flat_map(|c| (0..rows).map(move |r| (c * 1000 + r + 1) as f32))
            .collect();
        assert_eq!(out, want, "{rows} {cols} {chunk}");
    }
}

#[test]
fn tiles_are_split_without_overlap_and_with_the_gaps_that_were_asked_for() {
    let pool = Pool::new(3).unwrap();
    let (rows, cols) = (7, 9);
    for (chunk, parts) in [
        (1, std::iter::once(0..9).collect()),
        (3, vec![0..1, 1..1, 1..4, 6..9]),
        (7, vec![2..3, 3..8]),
        (4, vec![]),
        (100, vec![0..0, 8..9, 9..9]),
    ] {
        let mut out = vec![0.0f32; rows * cols];
        pool.run_tiles(3, &mut out, rows, chunk, &parts, &|range, part, tile| {
            assert_eq!((tile.rows(), tile.cols()), (range.len(), parts[part].len()));
            for (c, column) in parts[part].clone().enumerate() {
                for (r, v) in range.clone().zip(tile.column(c)) {
                    *v += (column * 1000 + r + 1) as f32;
                }
            }
        });
        for (i, v) in out.iter().enumerate() {
            let (column, r) = (i / rows, i % rows);
            let there = parts.iter().any(|part| part.contains(&column));
            let want = if there { column * 1000 + r + 1 } else { 0 };
            assert_eq!(*v, want as f32, "{chunk} {parts:?}: row {r} of {column}");
        }
    }
    for parts in [
        std::iter::once(0..10).collect(),
        vec![3..5, 4..6],
        vec![3..5, 0..1],
    ] {
        let refused = catch_unwind(AssertUnwindSafe(|| {
            pool.run_tiles(3, &mut [0.0; 63], rows, 1, &parts, &|_, _, _| {});
        }));
        assert!(refused.is_err(), "{parts:?}");
    }
}

#[test]
fn chunks_are_split_without_overlap_and_without_gap() {
    let pool = Pool::new(4).unwrap();
    for (len, chunk) in [(0, 1), (1, 1), (10, 3), (12, 4), (5, 9), (MANY, 7)] {
        let mut out = vec![0u64; len];
        pool.run_chunks(4, &mut out, chunk, &|index, part| {
            assert!(part.len() <= chunk);
            for (i, v) in part.iter_mut().enumerate() {
                *v += (index * chunk + i) as u64;
            }
        });
        assert!(
            out.iter().enumerate().all(|(i, &v)| v == i as u64),
            "{len} {chunk}"
        );
    }
}

#[test]
fn a_panic_is_raised_here_after_all_tasks_and_the_pool_lives() {
    for (size, threads) in [(1, 1), (2, 2), (4, 4), (4, 1)] {
        let pool = Pool::new(size).unwrap();
        for _ in 0..20 {
            let ran = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(threads, 40, &|i| {
                    ran.fetch_add(1, Ordering::Relaxed);
                    if i % 8 == 5 {
                        // a panic, without the message on stderr
                        resume_unwind(Box::new("task broke"));
                    }
                });
            }));
            assert_eq!(message(&caught.unwrap_err()), "task broke");
            assert_eq!(ran.load(Ordering::Relaxed), 40, "the others ran to the end");
            let sum = AtomicUsize::new(0);
            pool.run(threads, 10, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 45);
        }
    }
}

#[test]
fn a_run_inside_a_task_runs_inline() {
    let pool = Pool::new(3).unwrap();
    let (hits, strangers) = (AtomicUsize::new(0), AtomicUsize::new(0));
    pool.run(3, 12, &|_| {
        let outer = thread::current().id();
        pool.run(3, 5, &|_| {
            hits.fetch_add(1, Ordering::Relaxed);
            strangers.fetch_add(
                usize::from(thread::current().id() != outer),
                Ordering::Relaxed,
            );
        });
    });
    assert_eq!((hits.into_inner(), strangers.into_inner()), (60, 0));
}

#[test]
fn several_callers_take_turns() {
    let pool = Pool::new(3).unwrap();
    let total = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..MANY / 10 {
                    pool.run(3, 7, &|i| {
                        total.fetch_add(i, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 3 * (MANY / 10) * 21);
}

#[test]
fn ten_thousand_runs_oversubscribed() {
    // eight threads on a board of two to four cores: late workers must not be waited for
    let pool = Pool::new(8).unwrap();
    let runs = 10 * MANY;
    let total = AtomicUsize::new(0);
    let mut expected = 0;
    for run in 0..runs {
        let tasks = run % 11;
        expected += tasks;
        pool.run(1 + run % 8, tasks, &|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(total.into_inner(), expected);
}

#[test]
fn parked_workers_wake_and_a_parked_caller_too() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..if cfg!(miri) { 2 } else { 20 } {
        while !pool.shared.parked[0].0.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        // task 1 must be the worker's, because task 0 does not end before it; and it lasts until the caller sleeps
        let other = AtomicBool::new(false);
        let caller = thread::current().id();
        pool.run(2, 2, &|_| {
            if thread::current().id() == caller {
                while !other.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            } else {
                other.store(true, Ordering::SeqCst);
                while !pool.shared.caller_parked.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            }
        });
    }
}

#[test]
fn wrong_sizes_are_refused() {
    assert!(Pool::new(0).is_err() && Pool::new(MAX_THREADS + 1).is_err());
    let pool = Pool::new(1).unwrap();
    type Case = fn(&Pool);
    let cases: [(&str, Case); 4] = [
        ("whole number of columns", |p| {
            p.run_rows(1, &mut [0.0; 5], 2, (1, 1), &|_, _| {});
        }),
        ("whole number of columns", |p| {
            p.run_rows(1, &mut [0.0; 5], 0, (1, 1), &|_, _| {});
        }),
        ("chunks of 0 rows", |p| {
            p.run_rows(1, &mut [0.0; 4], 2, (0, 1), &|_, _| {});
        }),
        ("column 2 of a tile of 2", |_| {
            RowTile::new(&mut [0.0; 4], 2).column(2).fill(0.0);
        }),
    ];
    for (want, case) in cases {
        let got = catch_unwind(AssertUnwindSafe(|| case(&pool))).unwrap_err();
        assert!(message(&got).contains(want), "{want}: {}", message(&got));
    }
}

/// The processors that the calling thread may run on, as the kernel writes them.
#[cfg(not(miri))]
fn allowed() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

#[cfg(not(miri))]
#[test]
fn threads_are_held_to_their_places_and_go_on_without_one() {
    let before = allowed();
    let last: usize = before.rsplit([',', '-']).next().unwrap().parse().unwrap();
    // a thread of its own: the caller is placed too
    thread::spawn(move || {
        let own = || vec![last];
        let before_pool = allowed();
        let pool = Pool::placed(3, &[own(), own()]).unwrap();
        assert_eq!(allowed(), last.to_string());
        let (seen, barrier) = (Mutex::new(Vec::new()), Barrier::new(3));
        pool.run(3, 3, &|_| {
            // before the barrier, behind which a thread that another process puts off its processor is fetched
            lock(&seen).push(allowed());
            barrier.wait();
        });
        drop(pool);
        assert_eq!(
            allowed(),
            before_pool,
            "whoever made the pool may run where it could"
        );
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        let mut expected = vec![last.to_string(), last.to_string(), before.clone()];
        expected.sort();
        assert_eq!(seen, expected);
        // processors that are not there, or that no set can name
        let here = allowed();
        let pool = Pool::placed(2, &[vec![1023], vec![1 << 20]]).unwrap();
        assert_eq!((allowed(), pool.threads()), (here, 2));
    })
    .join()
    .unwrap();
}

/// Two processors that this process may use, or none: with one alone nobody can be fetched.
#[cfg(not(miri))]
fn two_processors() -> Option<[usize; 2]> {
    let here = allowed();
    let mut ends = here.split([',', '-']).map(|cpu| cpu.parse().unwrap());
    let first = ends.next().unwrap();
    let last = ends.next_back().unwrap_or(first);
    if first == last {
        println!("one processor alone: that a thread is fetched is NOT TESTED");
    }
    (first != last).then_some([first, last])
}

/// Runs two tasks, of which that of one thread (0: the caller) sleeps until it was moved to the other's processor inside its task.
/// Afterwards each has a processor of its own again; which one is not said, because on a busy machine they may change places.
#[cfg(not(miri))]
fn one_sleeps_until_it_is_moved(held: usize, cpus: [usize; 2]) {
    thread::spawn(move || {
        let pool = Pool::placed(2, &cpus.map(|cpu| vec![cpu])).unwrap();
        let caller = thread::current().id();
        let index = || usize::from(thread::current().id() != caller);
        assert_eq!(allowed(), cpus[0].to_string());
        let barrier = Barrier::new(2);
        pool.run(2, 2, &|_| {
            barrier.wait();
            while index() == held && allowed() != cpus[1 - held].to_string() {
                thread::sleep(LOOK);
            }
        });
        let own = cpus.map(|cpu| cpu.to_string());
        // one that is fetched may leave before it is told so, and go back a run later; and on a busy machine one may be fetched in any
        // of these runs
        let back = (0..1000).any(|_| {
            let seen = Mutex::new([String::new(), String::new()]);
            pool.run(2, 2, &|_| {
                lock(&seen)[index()] = allowed();
                barrier.wait();
            });
            let mut seen = seen.into_inner().unwrap();
            seen.sort_by_key(|cpu| cpu.parse::<usize>().unwrap());
            seen == own
        });
        assert!(back, "neither goes back to a processor of its own");
    })
    .join()
    .unwrap();
}

#[cfg(not(miri))]
#[test]
fn a_worker_that_stands_still_is_fetched_and_goes_back() {
    if let Some(cpus) = two_processors() {
        one_sleeps_until_it_is_moved(1, cpus);
    }
}

#[cfg(not(miri))]
#[test]
fn a_caller_that_stands_still_changes_places_with_a_worker() {
    if let Some(cpus) = two_processors() {
        one_sleeps_until_it_is_moved(0, cpus);
    }
}

#[cfg(not(miri))]
#[test]
fn a_thread_that_runs_is_not_taken_for_one_that_stands_still() {
    let seat = Seat::default();
    seat.take();
    assert_eq!(seat.ran(), None, "outside a run nobody waits for it");
    seat.enter();
    let before = seat.ran().unwrap();
    assert!(!seat.leave());
    seat.enter();
    while seat.ran().unwrap() == before {
        hint::spin_loop();
    }
    seat.fetch_if_still();
    assert!(!seat.leave(), "the first look compares with none");
    // another thread than the one that sits here
    thread::scope(|scope| {
        scope.spawn(|| {
            seat.enter();
            assert_eq!(seat.ran(), None);
        });
    });
}
