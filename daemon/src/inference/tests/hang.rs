//! A step that hangs, injected: the thread looks at the board's state before each, and the test does not let go of it.

use super::*;
use crate::machine::sensors::MachineState;

/// Between two times that the thread is to be heard of.
const BEAT: Duration = Duration::from_millis(1);
/// Silence that is no coincidence.
const SILENCE: Duration = Duration::from_millis(50);

#[test]
fn a_thread_that_hangs_is_not_heard_of_and_goes_on_when_it_can() {
    let (state, seen) = watch::channel(MachineState::default());
    let (commands, taken) = std_mpsc::sync_channel(COMMANDS);
    let (jobs, _prompts) = std_mpsc::sync_channel(AHEAD);
    let (told, mut reports) = mpsc::channel(REPORTS);
    let thread = std::thread::spawn(move || {
        let threads = Threads {
            prefill: 1,
            decode: 1,
        };
        let (governed, inbox) = (
            Governed::new(seen, threads, 1),
            Inbox::new(Some(BEAT), jobs),
        );
        answer(&mut flood::engine(), SWEEP, governed, inbox, &taken, &told)
    });
    // nobody asks anything: it says that it lives
    for _ in 0..4 {
        reports.blocking_recv().unwrap();
    }
    let mut silent = false;
    state.send_modify(|_| {
        for _ in 0..200 {
            std::thread::sleep(SILENCE);
            // what it said on its way to where it hangs
            silent = std::iter::from_fn(|| reports.try_recv().ok()).count() == 0;
            if silent {
                return;
            }
        }
    });
    assert!(silent, "it does not hang");
    for _ in 0..4 {
        reports.blocking_recv().unwrap();
    }
    drop((commands, reports));
    thread.join().unwrap().unwrap();
}

/// The models change, the thread is on its way out, and the daemon is told to stop.
#[tokio::test]
async fn who_left_is_waited_for() {
    let (commands, taken) = std_mpsc::sync_channel::<Command>(1);
    let (done, saved) = std_mpsc::channel();
    let (go, going) = std_mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        assert!(taken.recv().is_err(), "nobody can send any more");
        going.recv().unwrap();
        done.send(()).unwrap();
    });
    let mut worker = Worker {
        commands: Some(Arc::new(commands)),
        thread,
    };
    worker.leave();
    assert_eq!(worker.send(Command::EndThinking(1)), Err(Gone));
    go.send(()).unwrap();
    worker.stop(Duration::from_secs(600)).await;
    saved.try_recv().unwrap();
}
