//! A step that hangs, injected: the thread looks at the board's state before each, and the test does not let go of it.

use super::*;
use crate::machine::sensors::MachineState;
use crate::models::opened::Opened;
use tokio::time::timeout;

/// Between two times that the thread is to be heard of.
const BEAT: Duration = Duration::from_millis(1);
/// Silence that is no coincidence, 500 times as long.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn a_thread_that_hangs_is_not_heard_of_and_goes_on_when_it_can() {
    let (state, seen) = watch::channel(MachineState::default());
    let (commands, taken) = std_mpsc::sync_channel(COMMANDS);
    let (jobs, _prompts) = std_mpsc::sync_channel(AHEAD);
    let (told, mut reports) = mpsc::channel(REPORTS);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    flood::model().write(&file).unwrap();
    let source = Source {
        weights: Weights::new(Opened::open(&file).unwrap(), String::new()),
        config: flood::config(),
        computes: Computes::cpu(String::new()),
        tested: Duration::ZERO,
    };
    let mut engine = Engine::load(&source.weights.map().unwrap(), &source.config).unwrap();
    let thread = std::thread::spawn(move || {
        let threads = Threads {
            prefill: 1,
            decode: 1,
        };
        let (governed, inbox) = (
            Governed::new(seen, threads, 1),
            Inbox::new(Some(BEAT), jobs),
        );
        let life = Life {
            expire: SWEEP,
            beat: Some(BEAT),
            watchdog: None,
            results: Weak::new(),
        };
        answer(&mut engine, source, &life, governed, inbox, &taken, &told)
    });
    // nobody asks anything: it says that it lives
    for _ in 0..4 {
        reports.blocking_recv().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut silent = false;
    state.send_modify(|_| {
        // what waits, and what it says on its way to where it hangs; if it said more, it would not hang
        silent = (0..2 * REPORTS).any(|_| {
            let next = runtime.block_on(async { timeout(SILENCE, reports.recv()).await });
            next.is_err()
        });
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
