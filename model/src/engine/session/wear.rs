//! How many bytes may be written to session files in a day, so that the storage lasts. Days count from the start of the
//! daemon.

use super::unsaved::Unsaved;
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY_S: u64 = 86_400;
/// One client may write a quarter of a day's bytes, so that others are left theirs.
const SHARES: u64 = 4;
/// Clients whose writes are counted. Another client that comes on the same day has to wait for the next.
const CLIENTS_MAX: usize = 1024;

#[derive(Debug, Clone)]
pub(in crate::engine) struct Wear {
    per_day: u64,
    day: u64,
    written: u64,
    by: BTreeMap<Arc<str>, u64>,
}

impl Wear {
    /// Without `per_day` there is no limit.
    pub(in crate::engine) fn new(per_day: Option<u64>) -> Self {
        Self {
            per_day: per_day.unwrap_or(u64::MAX),
            day: 0,
            written: 0,
            by: BTreeMap::new(),
        }
    }

    /// Sets the clock: `now` seconds have passed since the daemon began.
    pub(in crate::engine) fn at(&mut self, now: u64) {
        if now / DAY_S != self.day {
            (self.day, self.written) = (now / DAY_S, 0);
            self.by.clear();
        }
    }

    /// Checks whether a file of this client may be written today.
    pub(in crate::engine) fn check(&self, client: &str) -> Result<(), Unsaved> {
        if self.written >= self.per_day {
            return Err(Unsaved::Worn(self.per_day));
        }
        let share = (self.per_day / SHARES).max(1);
        let worn = match self.by.get(client) {
            Some(written) => *written >= share,
            None => self.by.len() >= CLIENTS_MAX,
        };
        if worn {
            Err(Unsaved::Worn(share))
        } else {
            Ok(())
        }
    }

    /// Counts a file of this client that was written.
    pub(in crate::engine) fn wrote(&mut self, client: &Arc<str>, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
        // at shutdown everything is written, whatever client it belongs to: the table still does not grow
        if self.by.len() < CLIENTS_MAX || self.by.contains_key(client) {
            let by = self.by.entry(client.clone()).or_default();
            *by = by.saturating_add(bytes);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_use_up_the_day_of_the_others() {
        let mut wear = Wear::new(Some(400));
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        wear.check("a").unwrap();
        wear.wrote(&a, 100);
        assert!(matches!(wear.check("a"), Err(Unsaved::Worn(100))));
        wear.check("b").unwrap();
        wear.wrote(&b, 300);
        assert!(matches!(wear.check("c"), Err(Unsaved::Worn(400))));
        wear.at(DAY_S);
        wear.check("a").unwrap();
    }

    #[test]
    fn clients_are_counted_up_to_a_bound() {
        let mut wear = Wear::new(Some(1_000_000));
        for i in 0..CLIENTS_MAX {
            wear.check(&i.to_string()).unwrap();
            wear.wrote(&i.to_string().into(), 1);
        }
        assert!(wear.check("one more").is_err() && wear.check("7").is_ok());
        wear.wrote(&"one more".into(), 1);
        assert_eq!(wear.by.len(), CLIENTS_MAX);
    }
}
