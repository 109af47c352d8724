//! The publications in flight, and which of them is to blame when a connection ends. A state machine without I/O and
//! without a clock.
//!
//! After the broker ended a connection, everything in flight is suspect and is sent again one by one. What is alone in
//! flight when the next connection ends is clearly to blame. After a few times it is given up; the others were only in
//! its company.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Lane, Outgoing, Rejection};

/// Publications that may be sent and not yet acknowledged.
pub(super) const WINDOW: usize = 32;
/// A publication that was to blame this often is given up.
const BLAME_MAX: u8 = 4;
/// For this long nothing is published on a Response Topic that has cost connections.
const SHUN: Duration = Duration::from_secs(600);
const SHUNNED_MAX: usize = 64;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nothing that we sent was the cause.
    Other,
    /// The broker closed it and gave no reason.
    Closed,
    /// The broker named something in what was sent.
    Told(Rejection),
    /// The broker named something in the acknowledgement of the oldest publication.
    Oldest(Rejection),
}

/// How the sending of a publication ended.
pub(super) enum Settled {
    /// It was acknowledged, or it was refused for this reason.
    Answered(Option<Rejection>),
    /// It was acknowledged, and nobody subscribes to its topic.
    Unheard,
    /// The socket took it; with QoS 0 that is all there is to know.
    Sent,
    /// Nothing is known, because the connection ends.
    Lost(String),
}

/// What may be handed over next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The entry at this index.
    Hand(usize),
    /// The next publication of the outbox.
    Pull,
    /// Nothing before another publication is acknowledged.
    Wait,
}

/// A publication in flight. `done` is none until the event loop of this connection has it.
struct Entry<D> {
    out: Outgoing,
    done: Option<D>,
    suspect: bool,
    blame: u8,
}

/// The publications in the order in which they are sent and acknowledged. `D` tells when one of them is.
pub(super) struct Flight<D> {
    entries: VecDeque<Entry<D>>,
    /// Topics of unacknowledged publications (QoS 0) since the last acknowledgement of another.
    unproven: VecDeque<String>,
    /// Topics that may have ended a connection: the next publications on them ask for an acknowledgement.
    suspects: VecDeque<String>,
    shunned: VecDeque<(String, Instant)>,
}

impl<D> Flight<D> {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            unproven: VecDeque::new(),
            suspects: VecDeque::new(),
            shunned: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many were handed over on this connection; they are always the oldest.
    fn handed(&self) -> usize {
        self.entries.iter().take_while(|e| e.done.is_some()).count()
    }

    pub(super) fn next(&self) -> Next {
        let handed = self.handed();
        let alone = self.entries.iter().take(handed).any(|e| e.suspect);
        match self.entries.get(handed) {
            _ if handed >= WINDOW || alone => Next::Wait,
            Some(entry) if entry.suspect && handed > 0 => Next::Wait,
            Some(_) => Next::Hand(handed),
            None => Next::Pull,
        }
    }

    /// Adds a publication; [`Self::next`] says when it may be handed over.
    pub(super) fn take(&mut self, out: Outgoing) {
        let suspect = self.suspects.contains(&out.message.topic);
        self.entries.push_back(Entry {
            out,
            done: None,
            suspect,
            blame: 0,
        });
    }

    /// The publication at an index, and whether it must be acknowledged whatever its quality of service.
    pub(super) fn get(&self, index: usize) -> Option<(&Outgoing, bool)> {
        self.entries.get(index).map(|e| (&e.out, e.suspect))
    }

    pub(super) fn handed_over(&mut self, index: usize, done: D) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.done = Some(done);
        }
    }

    pub(super) fn oldest(&mut self) -> Option<&mut D> {
        self.entries.front_mut().and_then(|e| e.done.as_mut())
    }

    /// The event loop of this connection will not finish the oldest one.
    pub(super) fn withdraw(&mut self) {
        if let Some(entry) = self.entries.front_mut() {
            entry.done = None;
        }
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Outgoing> {
        self.entries.remove(index).map(|e| e.out)
    }

    /// The oldest one is done: it was acknowledged, or the socket took it.
    pub(super) fn settle(&mut self, acknowledged: bool) -> Option<Outgoing> {
        let out = self.entries.pop_front()?.out;
        if acknowledged {
            // the broker reads in order, so it has survived everything before
            self.unproven.clear();
            self.suspects.retain(|topic| *topic != out.message.topic);
        } else if !self.unproven.contains(&out.message.topic) {
            remember(&mut self.unproven, out.message.topic.clone(), WINDOW);
        }
        Some(out)
    }

    /// Removes and returns the calls of tools, which are not sent again.
    pub(super) fn take_calls(&mut self) -> Vec<Outgoing> {
        let (calls, others): (VecDeque<_>, _) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|e| e.out.lane == Lane::Tool);
        self.entries = others;
        calls.into_iter().map(|e| e.out).collect()
    }

    /// Removes and returns everything, because there will be no connection to send it on.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Outgoing> {
        self.entries.drain(..).map(|e| e.out)
    }

    /// The connection ended. Returns the publication that is given up, if there is one, and why.
    pub(super) fn lost(&mut self, cause: Cause, now: Instant) -> Option<(Outgoing, Rejection)> {
        let handed = self.handed();
        for entry in &mut self.entries {
            entry.done = None;
        }
        let (blame, why) = match cause {
            Cause::Other => return None,
            Cause::Closed => (1, Rejection::Closed),
            Cause::Told(why) | Cause::Oldest(why) => (BLAME_MAX / 2, why),
        };
        let certain = handed == 1 || matches!(cause, Cause::Oldest(_));
        for entry in self.entries.iter_mut().take(handed) {
            entry.suspect = true;
        }
        while let Some(topic) = self.unproven.pop_front() {
            if !self.suspects.contains(&topic) {
                remember(&mut self.suspects, topic, WINDOW);
            }
        }
        let oldest = self.entries.front_mut().filter(|_| handed > 0 && certain)?;
        oldest.blame += blame;
        if oldest.blame < BLAME_MAX {
            return None;
        }
        let out = self.entries.pop_front()?.out;
        if out.default_topic.is_some() && why != Rejection::TooLarge {
            remember(
                &mut self.shunned,
                (out.message.topic.clone(), now),
                SHUNNED_MAX,
            );
        }
        Some((out, why))
    }

    /// Whether the publication's Response Topic has cost connections a while ago.
    pub(super) fn shuns(&self, out: &Outgoing, now: Instant) -> bool {
        out.default_topic.is_some()
            && self.shunned.iter().any(|(topic, at)| {
                *topic == out.message.topic && now.saturating_duration_since(*at) < SHUN
            })
    }
}

fn remember<T>(list: &mut VecDeque<T>, new: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(new);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::mqtt::{Publication, Qos};
    use proptest::prelude::*;

    fn out(topic: &str) -> Outgoing {
        Outgoing::new(Lane::Last, Publication::new(topic, "x", Qos::AtLeastOnce))
    }

    /// Hands over what may be; returns how many are on their way.
    fn fill(flight: &mut Flight<()>) -> usize {
        while let Next::Hand(i) = flight.next() {
            flight.handed_over(i, ());
        }
        flight.handed()
    }

    /// A broker that ends the connection at one message of many: that one is given up after few connections, and all the
    /// others arrive, in order.
    fn worlds(poison: usize, of: usize, cause: Cause) -> (usize, Vec<String>) {
        let mut flight = Flight::new();
        for i in 0..of {
            flight.take(out(&i.to_string()));
        }
        let (mut losses, mut arrived) = (0, Vec::new());
        let now = Instant::now();
        while !flight.is_empty() {
            let on_their_way = fill(&mut flight);
            assert!(on_their_way > 0, "it goes on");
            let topic = flight.get(0).unwrap().0.message.topic.clone();
            // a close comes as soon as the broker has read it, an acknowledgement in its turn
            let closes = flight
                .entries
                .iter()
                .take(on_their_way)
                .any(|e| e.out.message.topic == poison.to_string());
            if topic == poison.to_string() || (closes && !matches!(cause, Cause::Oldest(_))) {
                losses += 1;
                if let Some((out, _)) = flight.lost(cause, now) {
                    assert_eq!(out.message.topic, poison.to_string());
                }
            } else {
                arrived.push(flight.settle(true).unwrap().message.topic);
            }
        }
        (losses, arrived)
    }

    proptest! {
        #[test]
        fn only_the_one_to_blame_is_given_up(poison in 0..40_usize, of in 1..40_usize, cause in 0..3_usize) {
            let (cause, most) = [
                (Cause::Closed, 5),
                (Cause::Told(Rejection::Topic), 3),
                (Cause::Oldest(Rejection::TooLarge), 2),
            ][cause];
            let (losses, arrived) = worlds(poison, of, cause);
            let others: Vec<String> = (0..of).filter(|i| *i != poison).map(|i| i.to_string()).collect();
            prop_assert_eq!(arrived, others);
            prop_assert!(losses <= most, "{}", losses);
        }
    }

    #[test]
    fn a_broker_that_restarts_is_no_blame() {
        let mut flight = Flight::new();
        flight.take(out("a"));
        for _ in 0..100 {
            assert_eq!(fill(&mut flight), 1);
            assert_eq!(flight.lost(Cause::Other, Instant::now()), None);
        }
        // nor does a restart before anything was sent count
        for _ in 0..100 {
            assert_eq!(flight.lost(Cause::Closed, Instant::now()), None);
        }
    }

    #[test]
    fn a_message_that_nobody_acknowledges_is_found_as_well() {
        let (mut flight, now) = (Flight::new(), Instant::now());
        let reply = |topic: &str| Outgoing {
            default_topic: Some("default".to_owned()),
            ..out(topic)
        };
        // QoS 0: gone with the connection
        flight.take(reply("deep"));
        fill(&mut flight);
        flight.settle(false).unwrap();
        assert_eq!(flight.lost(Cause::Closed, now), None);
        flight.take(reply("deep"));
        let (_, acknowledged) = flight.get(0).unwrap();
        assert!(acknowledged, "the next one must be");
        let given_up = (0..BLAME_MAX)
            .filter(|_| {
                fill(&mut flight);
                flight.lost(Cause::Closed, now).is_some()
            })
            .count();
        assert!(given_up == 1 && flight.is_empty());
        assert!(flight.shuns(&reply("deep"), now));
        assert!(!flight.shuns(&out("deep"), now), "a default topic never");
        assert!(!flight.shuns(&reply("deep"), now + SHUN));
        // and one that is acknowledged is above suspicion
        flight.take(out("well"));
        fill(&mut flight);
        flight.settle(false).unwrap();
        flight.lost(Cause::Closed, now);
        flight.take(out("well"));
        fill(&mut flight);
        flight.settle(true).unwrap();
        flight.take(out("well"));
        assert!(!flight.get(0).unwrap().1);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut flight = Flight::new();
        for _ in 0..2 * WINDOW {
            flight.take(out("a"));
        }
        assert_eq!((fill(&mut flight), flight.next()), (WINDOW, Next::Wait));
    }
}
