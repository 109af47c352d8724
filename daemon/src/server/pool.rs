//! The pool in the select loop: the daemon joins its group and leaves it as the state machine says, and each request that it
//! takes from there is on record until the broker has its last frame.

use std::collections::BTreeMap;
use std::time::Instant;

use glowplug_model::engine::RequestId;
use serde_json::{Value, json};

use super::model_change::{Change, Waited};
use super::{Daemon, now};
use crate::config::Config;
use crate::mqtt::{Ack, Lane};
use crate::pool::membership::{Membership, Step};
use crate::pool::record::Record;
use crate::requests::admission::{Action, Phase};
use crate::tools::journal::Acted;
use crate::wire::topics::Topics;

/// The number of the group's subscription. Those of tools are counted from 1.
const TOKEN: u64 = 0;

/// Everything of the pool.
pub(super) struct Pool {
    group: String,
    filter: String,
    membership: Membership,
    record: Record,
    /// Requests that are acknowledged once they are on record.
    owed: BTreeMap<RequestId, Ack>,
    /// Whether the log has said that this daemon is in the group, or that it is not; one line for each change of the broker's mind.
    said: Option<bool>,
    taken: u64,
}

impl Pool {
    /// Reads what the run before had taken and not ended. None: there is no pool.
    pub(super) fn new(config: &Config, topics: &Topics) -> Option<Self> {
        let group = config.pool.clone()?;
        let (record, read) = Record::open(&config.state_dir, &topics.client_id());
        if let Err(error) = read {
            tracing::warn!("{error}");
        }
        Some(Self {
            filter: topics.pool(&group),
            group,
            membership: Membership::default(),
            record,
            owed: BTreeMap::new(),
            said: None,
            taken: 0,
        })
    }

    /// What the run before had taken and not ended, until its clients are told.
    pub(super) fn left(&self) -> impl Iterator<Item = &Acted> {
        self.record.left()
    }

    /// Whether there are any.
    pub(super) fn owes(&self) -> bool {
        self.left().next().is_some()
    }

    /// Whether the request of the run before is one of those.
    pub(super) fn has_left(&self, of: &Acted) -> bool {
        self.left()
            .any(|left| (&left.client, left.ask, &left.id) == (&of.client, of.ask, &of.id))
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.membership.next_tick()
    }

    /// What `info` says of it.
    pub(super) fn about(&self) -> Value {
        json!({"group": self.group, "shared_subscriptions": self.membership.is_offered()})
    }

    /// What `metrics` says: whether it is in the group, and how many requests it has taken.
    pub(super) fn numbers(&self) -> (bool, u64) {
        (self.membership.is_in(), self.taken)
    }

    /// Says that it is in the group, or why it cannot be, unless that was said before.
    fn say(&mut self, why_not: Option<&str>) {
        let is_in = why_not.is_none();
        if self.said.replace(is_in) == Some(is_in) {
            return;
        }
        match why_not {
            Some(why) => tracing::error!(
                "this daemon cannot be in the pool `{}`: {why}; its own topics are served",
                self.group
            ),
            None => tracing::info!("this daemon is in the pool `{}`", self.group),
        }
    }
}

impl Daemon {
    /// Joins the group or leaves it, as there is room.
    pub(super) fn move_in_pool(&mut self) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        // while the model changes, others of the pool can answer sooner
        let serves = matches!(self.models.change, Change::No | Change::Checking(_));
        let takes = serves && self.admission.phase() == Phase::Online;
        let places = self.admission.places(self.link.room(Lane::Last));
        match pool.membership.look(now(), takes, places) {
            Some(Step::Join) => {
                // a request that was sent to be retained is refused, so its flag must be seen
                let asked = self.link.subscribe(TOKEN, pool.filter.clone(), true);
                if asked.is_err() {
                    pool.membership.joined(now(), false);
                }
            }
            Some(Step::Leave) => {
                // if there is no room for the wish, it is as with a broker that does not answer
                let _ = self.link.unsubscribe(pool.filter.clone());
            }
            None => {}
        }
        self.admission.in_pool(pool.membership.hears());
    }

    /// Whether everything that was accepted has ended, and nothing more can come from the pool.
    pub(super) fn is_drained(&self) -> bool {
        let hears = |pool: &Pool| pool.membership.hears();
        self.admission.outstanding() == 0 && !self.pool.as_ref().is_some_and(hears)
    }

    /// A connection stands, and nothing is subscribed to on it.
    pub(super) fn pool_up(&mut self, shared: bool) {
        if let Some(pool) = &mut self.pool {
            pool.membership.connected(shared);
            if !shared {
                pool.say(Some("the broker says that it has no shared subscriptions"));
            }
        }
    }

    /// Ends what the run before had taken, once.
    pub(super) fn end_pool_before(&mut self, out: &mut Vec<Action>) {
        if let Some(pool) = &mut self.pool {
            pool.record.adopt(|taken| {
                let number = self.admission.number();
                self.admission.interrupted(now(), &taken, Some(number), out);
                number
            });
        }
    }

    pub(super) fn pool_down(&mut self) {
        if let Some(pool) = &mut self.pool {
            pool.membership.disconnected();
            // the broker forgets these with the connection
            pool.owed.clear();
        }
    }

    pub(super) fn is_pool(&self, filter: &str) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.filter == filter)
    }

    /// The broker has granted the group's subscription or refused it.
    pub(super) fn pool_joined(&mut self, filter: &str, refused: Option<String>) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        pool.membership.joined(now(), refused.is_none());
        let why =
            refused.map(|why| format!("the broker refuses the subscription to `{filter}` ({why})"));
        pool.say(why.as_deref());
    }

    pub(super) fn pool_left(&mut self, filter: &str) {
        if let Some(pool) = self.pool.as_mut().filter(|pool| pool.filter == filter) {
            pool.membership.left();
        }
    }

    /// Does not wait for the broker's word that it gives us nothing more.
    pub(super) fn abandon_pool(&mut self) {
        if let Some(pool) = &mut self.pool {
            pool.membership.disconnected();
        }
    }

    /// Nothing that was taken is to be ended after a restart: all of it has its last frame, or another daemon of our name
    /// answers it.
    pub(super) fn forget_pool(&mut self) {
        if let Some(note) = self.pool.as_mut().and_then(|pool| pool.record.clear()) {
            self.write(move || note.write(), None);
        }
    }

    /// Puts a request of the pool on record.
    pub(super) fn record(&mut self, number: RequestId, taken: &Acted) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        pool.taken += 1;
        match pool.record.begin(number, taken) {
            Some(note) => self.write(move || note.write(), Some(Waited::Recorded(number))),
            None => self.recorded(number),
        }
    }

    /// Keeps the acknowledgement of a request that is about to go on record; gives it back for any other.
    pub(super) fn owe_pool(&mut self, ack: Ack, accepted: &[Action]) -> Option<Ack> {
        let number = accepted.iter().find_map(|action| match action {
            Action::Record(number, _) => Some(*number),
            _ => None,
        });
        match (&mut self.pool, number) {
            (Some(pool), Some(number)) => pool.owed.insert(number, ack),
            _ => Some(ack),
        }
    }

    /// A request of the pool is on record, or cannot be.
    pub(super) fn recorded(&mut self, number: RequestId) {
        let owed = self
            .pool
            .as_mut()
            .and_then(|pool| pool.owed.remove(&number));
        if let Some(ack) = owed {
            self.acknowledge(ack);
        }
    }

    /// The broker has the last frame of a request that is on record.
    pub(super) fn ended_on_record(&mut self, number: RequestId) {
        let note = self.pool.as_mut().and_then(|pool| pool.record.end(number));
        if let Some(note) = note {
            self.write(move || note.write(), None);
        }
    }
}
