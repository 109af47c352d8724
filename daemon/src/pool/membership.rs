//! Whether this daemon is in the group of its pool. A state machine without I/O and without a clock.
//!
//! It leaves while there still is some room, because requests come until the broker has taken the subscription back. It joins
//! again when there is much room, so that it does not come and go with every request.

use std::time::{Duration, Instant};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause before a subscription that was refused is asked for again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// How many more requests can be accepted, and how many in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    pub free: usize,
    pub all: usize,
}

impl Places {
    /// The last quarter is for what comes while the daemon leaves.
    fn are_few(self) -> bool {
        self.free <= self.all.div_ceil(4)
    }

    fn are_many(self) -> bool {
        !self.are_few() && self.free >= self.all.div_ceil(2)
    }
}

/// What is to be asked of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Join,
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Out,
    /// The broker has until then to grant the subscription.
    Joining(Instant),
    In,
    /// The broker has until then to take it back.
    Leaving(Instant),
    /// The broker has refused it, and is asked again then.
    Refused(Instant),
}

/// How this daemon stands to the group.
#[derive(Debug)]
pub struct Membership {
    /// The connection stands, and its broker has shared subscriptions.
    offered: bool,
    state: State,
    pause: Duration,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            offered: false,
            state: State::Out,
            pause: ASK_AGAIN.0,
        }
    }
}

impl Membership {
    /// A connection stands, and nothing is subscribed to on it. `offered`: its broker has shared subscriptions.
    pub fn connected(&mut self, offered: bool) {
        *self = Self {
            offered,
            ..Self::default()
        };
    }

    /// The connection has ended, and the subscription with it.
    pub fn disconnected(&mut self) {
        *self = Self::default();
    }

    /// What is to be done now. `takes`: requests are accepted, as far as there are places.
    pub fn look(&mut self, now: Instant, takes: bool, places: Places) -> Option<Step> {
        match self.state {
            State::Refused(until) | State::Leaving(until) if until <= now => {
                self.state = State::Out;
            }
            _ => {}
        }
        match self.state {
            State::Out if self.offered && takes && places.are_many() => {
                self.state = State::Joining(now + PATIENCE);
                Some(Step::Join)
            }
            State::In if !takes || places.are_few() => {
                self.state = State::Leaving(now + PATIENCE);
                Some(Step::Leave)
            }
            // whether it was granted is not known
            State::Joining(until) if until <= now => {
                self.state = State::Leaving(now + PATIENCE);
                Some(Step::Leave)
            }
            _ => None,
        }
    }

    /// The broker has granted the subscription or refused it.
    pub fn joined(&mut self, now: Instant, granted: bool) {
        match self.state {
            State::Joining(_) if granted => {
                (self.state, self.pause) = (State::In, ASK_AGAIN.0);
            }
            State::Joining(_) => {
                self.state = State::Refused(now + self.pause);
                self.pause = (2 * self.pause).min(ASK_AGAIN.1);
            }
            _ => {}
        }
    }

    /// The broker has taken the subscription back.
    pub fn left(&mut self) {
        if matches!(self.state, State::Leaving(_)) {
            self.state = State::Out;
        }
    }

    /// Whether the broker may give us requests of the pool: from the moment it is asked to until it has answered that it no
    /// longer does.
    #[must_use]
    pub fn hears(&self) -> bool {
        matches!(
            self.state,
            State::Joining(_) | State::In | State::Leaving(_)
        )
    }

    /// Whether the broker gives us requests and is meant to.
    #[must_use]
    pub fn is_in(&self) -> bool {
        self.state == State::In
    }

    /// Whether the broker of this connection has shared subscriptions.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.offered
    }

    /// When [`Self::look`] may have something to do although nothing has happened.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        match self.state {
            State::Joining(until) | State::Leaving(until) | State::Refused(until) => Some(until),
            State::Out | State::In => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: usize = 20;

    fn places(free: usize) -> Places {
        Places { free, all: ALL }
    }

    fn member(now: Instant) -> Membership {
        let mut member = Membership::default();
        member.connected(true);
        assert_eq!(member.look(now, true, places(ALL)), Some(Step::Join));
        member.joined(now, true);
        member
    }

    #[test]
    fn it_leaves_before_it_is_full_and_comes_back_when_half_of_it_is_free() {
        let now = Instant::now();
        let mut member = member(now);
        let mut moves = Vec::new();
        let filling = (0..=ALL).rev();
        for free in filling.chain(0..=ALL).chain([9, 10, 9, 6, 7, 6, 5, 6]) {
            if let Some(step) = member.look(now, true, places(free)) {
                moves.push((step, free));
                match step {
                    Step::Join => member.joined(now, true),
                    Step::Leave => member.left(),
                }
            }
        }
        // between the two marks nothing moves
        let expected = [(Step::Leave, 5), (Step::Join, 10), (Step::Leave, 5)];
        assert_eq!(moves, expected);
    }

    #[test]
    fn the_smallest_daemon_leaves_with_a_free_place_and_joins_when_it_is_idle() {
        let now = Instant::now();
        for all in 2..=4 {
            let few: Vec<bool> = (0..=all)
                .map(|free| Places { free, all }.are_few())
                .collect();
            assert_eq!(few.iter().filter(|few| **few).count(), 2, "{all}");
            let mut member = Membership::default();
            member.connected(true);
            assert_eq!(member.look(now, true, Places { free: 1, all }), None);
            assert_eq!(
                member.look(now, true, Places { free: all, all }),
                Some(Step::Join)
            );
        }
    }

    #[test]
    fn a_drain_leaves_at_once_and_requests_may_come_until_the_broker_has_answered() {
        let now = Instant::now();
        let mut member = member(now);
        assert_eq!(member.look(now, false, places(ALL)), Some(Step::Leave));
        assert!(member.hears() && !member.is_in());
        assert_eq!(member.look(now, false, places(ALL)), None, "once");
        member.left();
        assert!(!member.hears());
        assert_eq!(member.look(now, false, places(ALL)), None);
        assert_eq!(member.look(now, true, places(ALL)), Some(Step::Join));
        // one that drains while it joins
        assert_eq!(member.look(now, false, places(ALL)), None);
        member.joined(now, true);
        assert_eq!(member.look(now, false, places(ALL)), Some(Step::Leave));
    }

    #[test]
    fn without_shared_subscriptions_nothing_is_asked() {
        let now = Instant::now();
        let mut member = Membership::default();
        assert_eq!(member.look(now, true, places(ALL)), None, "no connection");
        member.connected(false);
        assert_eq!(member.look(now, true, places(ALL)), None);
        assert!(!member.is_offered() && member.next_tick().is_none());
        // the next broker has them
        member.disconnected();
        member.connected(true);
        assert_eq!(member.look(now, true, places(ALL)), Some(Step::Join));
    }

    #[test]
    fn a_refusal_is_asked_again_at_growing_intervals() {
        let mut now = Instant::now();
        let mut member = Membership::default();
        member.connected(true);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(member.look(now, true, places(ALL)), Some(Step::Join));
            member.joined(now, false);
            assert!(!member.hears());
            let next = member.next_tick().unwrap_or(now);
            assert_eq!(member.look(now, true, places(ALL)), None);
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_broker_that_does_not_answer_is_not_waited_for_for_ever() {
        let mut now = Instant::now();
        let mut member = Membership::default();
        member.connected(true);
        assert_eq!(member.look(now, true, places(ALL)), Some(Step::Join));
        now += PATIENCE;
        assert_eq!(member.look(now, true, places(ALL)), Some(Step::Leave));
        // what comes too late is not believed
        member.joined(now, true);
        assert!(!member.is_in() && member.hears());
        now += PATIENCE;
        assert_eq!(member.look(now, false, places(ALL)), None);
        assert!(!member.hears());
    }

    #[derive(Debug, Clone)]
    enum Happens {
        Connected(bool),
        Disconnected,
        Joined(bool),
        Left,
        Wait(u16),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            any::<bool>().prop_map(Happens::Connected),
            Just(Happens::Disconnected),
            any::<bool>().prop_map(Happens::Joined),
            Just(Happens::Left),
            (0..20_000_u16).prop_map(Happens::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_asks_for_one_thing_at_a_time_and_never_spins(
            all in prop::collection::vec((happens(), any::<bool>(), 0..=ALL), 1..60),
        ) {
            let (mut now, mut member) = (Instant::now(), Membership::default());
            for (what, takes, free) in all {
                match what {
                    Happens::Connected(offered) => member.connected(offered),
                    Happens::Disconnected => member.disconnected(),
                    Happens::Joined(granted) => member.joined(now, granted),
                    Happens::Left => member.left(),
                    Happens::Wait(ms) => now += Duration::from_millis(ms.into()),
                }
                let step = member.look(now, takes, places(free));
                if step == Some(Step::Join) {
                    prop_assert!(takes && free >= ALL / 2 && member.is_offered());
                }
                prop_assert!(step.is_none() || member.hears());
                prop_assert_eq!(member.look(now, takes, places(free)), None, "one thing");
                prop_assert!(!member.is_in() || (takes && free > ALL / 4), "full or draining, and still in");
                prop_assert!(member.next_tick().is_none_or(|at| at > now), "no busy loop");
            }
        }
    }
}
