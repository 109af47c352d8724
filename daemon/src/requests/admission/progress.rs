//! What becomes of accepted requests: their chunks as the engine gets on, and their one last frame.

use std::time::{Duration, Instant};

use glowplug_model::engine::{Finish, RequestId};

use super::{Action, Admission};
use crate::inference::messages::{End, Update, unheard};
use crate::mqtt::Lane;
use crate::requests::dedup::Known;
use crate::wire::fault::{Code, Fault};

/// After this long chunks are tried again that the outbox had no room for. Until then their text waits, and then it is
/// sent as one chunk.
pub(super) const STARVED_RETRY: Duration = Duration::from_millis(100);

impl Admission {
    /// The engine will say no more, so everything gets its last frame now.
    pub fn abandon(&mut self, now: Instant, why: Finish, out: &mut Vec<Action>) {
        while let Some((number, _)) = self.live.first_key_value() {
            self.finish(now, *number, End::Finished(unheard(why)), usize::MAX, out);
        }
        self.abandon_verbs(out);
    }

    /// The engine said something about a request. `room` is how many chunks the outbox can take, here and below.
    pub fn update(&mut self, now: Instant, room: usize, mut update: Update, out: &mut Vec<Action>) {
        let Some(live) = self.live.get_mut(&update.id) else {
            return;
        };
        let mut goes_on = false;
        if let Some(rounds) = &mut live.rounds {
            rounds.hear(&mut update.text);
            goes_on = matches!(&update.end, Some((End::Finished(outcome), _))
                if !live.ending && rounds.goes_on(outcome));
        }
        live.stream.push(update.text, update.times, now);
        match update.end {
            Some((End::Finished(outcome), at)) if goes_on => {
                self.run_tools(at, update.id, &outcome, room, out);
            }
            Some((end, at)) => self.finish(at, update.id, end, room, out),
            None => self.chunk(now, update.id, room, out),
        }
    }

    /// Does what is due: deadlines, and text that has waited long enough.
    pub fn tick(&mut self, now: Instant, room: usize, out: &mut Vec<Action>) {
        self.starved_until = self.starved_until.filter(|until| *until > now);
        self.end_where(now, Finish::DeadlineExceeded, out, |live| {
            live.deadline.is_some_and(|d| d <= now)
        });
        let numbers: Vec<RequestId> = self.live.keys().copied().collect();
        for number in numbers {
            self.chunk(now, number, room.saturating_sub(out.len()), out);
        }
    }

    /// When [`Self::tick`] will have something to do, if ever.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        let deadlines = self
            .live
            .values()
            .filter(|l| !l.ending)
            .filter_map(|l| l.deadline);
        let chunks = self.live.values().filter_map(|l| l.stream.due(self.chunk));
        // not before the outbox is tried again
        let chunks = chunks.map(|due| self.starved_until.map_or(due, |until| due.max(until)));
        deadlines.chain(chunks).min()
    }

    /// Sends the chunks of a request that are due: one, or as many as sentences have ended.
    pub(super) fn chunk(
        &mut self,
        now: Instant,
        number: RequestId,
        mut room: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(live) = self.live.get_mut(&number) else {
            return;
        };
        let mut dropped = 0;
        while live.stream.due(self.chunk).is_some_and(|due| due <= now) {
            if room == 0 {
                self.starved_until = Some(now + STARVED_RETRY);
                break;
            }
            // the last frame repeats what is dropped
            match live.stream.chunk(&self.speaker, self.frame_max, now) {
                Some(frame) => {
                    out.push(Action::Publish {
                        to: live.stream.reply.clone(),
                        frame,
                        lane: Lane::Chunk,
                    });
                    room -= 1;
                }
                None => dropped += 1,
            }
        }
        for _ in 0..dropped {
            self.count_refused("reply_dropped");
        }
    }

    pub(super) fn finish(
        &mut self,
        now: Instant,
        number: RequestId,
        end: End,
        mut room: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(mut live) = self.live.remove(&number) else {
            return;
        };
        live.stream.end(now);
        let end = self.settle_rounds(now, number, &mut live, end, out);
        let frame = match end {
            End::Finished(outcome) => {
                self.observe(now, &live, &outcome);
                // a client that prints chunks misses nothing; one that did not get them has the last frame
                while live.stream.due(Duration::ZERO).is_some() && room > 0 {
                    let Some(frame) = live.stream.chunk(&self.speaker, self.frame_max, now) else {
                        continue;
                    };
                    room -= 1;
                    out.push(Action::Publish {
                        to: live.stream.reply.clone(),
                        frame,
                        lane: Lane::Chunk,
                    });
                }
                match outcome.finish {
                    Finish::Failed | Finish::GpuLost => {
                        self.count_refused(Code::Internal.name());
                    }
                    Finish::Stuck => self.count_refused(Code::InvalidSchema.name()),
                    Finish::Superseded => self.count_refused(Code::Superseded.name()),
                    _ => {}
                }
                let frame = live.stream.last(&self.speaker, &outcome, now);
                if frame.len() > self.frame_max {
                    let why = format!(
                        "the answer has {} bytes, the broker takes {}",
                        frame.len(),
                        self.frame_max
                    );
                    live.stream
                        .error(&self.speaker, &Fault::new(Code::Internal, why))
                } else {
                    frame
                }
            }
            End::Refused(refusal) => {
                let fault = Fault::from(refusal);
                self.count_refused(fault.code.name());
                live.stream.error(&self.speaker, &fault)
            }
        };
        let to = live.stream.reply;
        if let Some(key) = live.key {
            self.by_key.remove(&key);
            self.done.insert(now, key, Known::Ended(frame.clone()));
        }
        self.counters.finished += 1;
        out.push(Action::Publish {
            to,
            frame,
            lane: Lane::Last,
        });
    }
}
