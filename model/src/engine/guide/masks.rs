//! The thread that finds out what may come next while the network computes how likely it is. A mask takes some microseconds
//! and now and then milliseconds, which is time that no step has to wait for.

use super::Guide;
use crate::engine::request::RequestId;
use glowplug_firmware_config::limits::STREAMS_MAX;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The engine's side of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(in crate::engine) struct Masks {
    asked: SyncSender<(RequestId, Guide)>,
    ready: Receiver<(RequestId, Option<Guide>)>,
    /// guides that are with the thread
    away: usize,
}

impl Masks {
    /// Starts the thread, which waits for guides.
    pub(in crate::engine) fn start() -> io::Result<Self> {
        Self::with(Guide::prepare)
    }

    fn with(work: fn(&mut Guide)) -> io::Result<Self> {
        // a guide for each sequence of a step, so that nobody waits to hand one over
        let (asked, inbox) = sync_channel::<(RequestId, Guide)>(STREAMS_MAX);
        let (done, ready) = sync_channel(STREAMS_MAX);
        std::thread::Builder::new()
            .name("masks".to_owned())
            .spawn(move || {
                for (id, mut guide) in inbox {
                    let prepared = catch_unwind(AssertUnwindSafe(|| {
                        work(&mut guide);
                        guide
                    }));
                    if done.send((id, prepared.ok())).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            asked,
            ready,
            away: 0,
        })
    }

    /// Hands over the guide of a sequence, of which there are at most [`STREAMS_MAX`] in a step.
    pub(in crate::engine) fn ask(&mut self, id: RequestId, guide: Guide) {
        // without the thread its sequence has no guide, and ends when it is collected
        self.away += usize::from(self.asked.send((id, guide)).is_ok());
    }

    /// Waits for all guides and gives each back; none for one that is lost by a panic.
    pub(in crate::engine) fn collect(&mut self, give: &mut dyn FnMut(RequestId, Option<Guide>)) {
        while self.away > 0 {
            let Ok((id, guide)) = self.ready.recv() else {
                self.away = 0;
                return;
            };
            self.away -= 1;
            give(id, guide);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_is_lost_by_a_panic_is_told_and_the_others_come_back() {
        let mut masks = Masks::with(|guide| assert!(guide.writes)).unwrap();
        for round in 0..3 {
            let ids = round..round + STREAMS_MAX as RequestId;
            for id in ids.clone() {
                masks.ask(id, Guide::whole(Vec::new(), None, id % 2 == 0));
            }
            let mut back = Vec::new();
            masks.collect(&mut |id, guide| back.push((id, guide.is_some())));
            assert!(back.into_iter().eq(ids.map(|id| (id, id % 2 == 0))));
            masks.collect(&mut |_, _| panic!("nobody is away"));
        }
    }
}
