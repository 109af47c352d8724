//! Remembers for a while which requests must not run again: those that ended, whose last frame answers a repetition,
//! and those that were cancelled before they came. It is bounded in entries and bytes. Beyond the bounds the client
//! that holds most forgets its oldest first, so that no client can push out what others hold.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug_firmware_config::limits::DEDUP_BYTES_MAX;

/// Most requests that are remembered at a time.
pub const ENTRIES_MAX: usize = 1024;

/// Which of a client's topics a request came on. The same id on the other topic is another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Chat,
    Ask,
}

/// What tells one request from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub client: Arc<str>,
    pub topic: Topic,
    /// The id that the client gave.
    pub id: String,
}

/// What is known of a request that must not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It ended with this frame.
    Ended(Bytes),
    /// A cancel came before the request.
    Cancelled,
    /// It had acted on the world, or had come to the pool, when the run before ended.
    Interrupted,
}

impl Known {
    fn bytes(&self) -> usize {
        match self {
            Self::Ended(frame) => frame.len(),
            Self::Cancelled | Self::Interrupted => 0,
        }
    }
}

/// The requests of one client that are remembered.
#[derive(Debug, Default)]
struct ClientRequests {
    /// Its requests, the oldest first.
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
}

/// The requests that were answered or cancelled lately.
#[derive(Debug)]
pub struct RecentRequests {
    length: Duration,
    clients: HashMap<Arc<str>, ClientRequests>,
    known: HashMap<Key, Known>,
    bytes: usize,
}

impl RecentRequests {
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            clients: HashMap::new(),
            known: HashMap::new(),
            bytes: 0,
        }
    }

    /// Remembers this about a request from now on.
    pub fn insert(&mut self, now: Instant, key: Key, known: Known) {
        self.expire(now);
        self.remove(&key);
        let own = self.clients.entry(key.client.clone()).or_default();
        own.bytes += known.bytes();
        self.bytes += known.bytes();
        own.order.push_back((now, key.clone()));
        self.known.insert(key, known);
        while self.known.len() > ENTRIES_MAX {
            self.forget_of(|own| own.order.len());
        }
        while self.bytes > DEDUP_BYTES_MAX {
            self.forget_of(|own| own.bytes);
        }
    }

    /// What is known of a request, if it is within the window.
    pub fn get(&mut self, now: Instant, key: &Key) -> Option<&Known> {
        self.expire(now);
        self.known.get(key)
    }

    /// Forgets everything about the requests of a client.
    pub fn forget(&mut self, client: &str) {
        if let Some(own) = self.clients.remove(client) {
            self.bytes -= own.bytes;
            for (_, key) in own.order {
                self.known.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(known) = self.known.remove(key)
            && let Some(own) = self.clients.get_mut(&key.client)
        {
            own.order.retain(|(_, other)| other != key);
            own.bytes -= known.bytes();
            self.bytes -= known.bytes();
            if own.order.is_empty() {
                self.clients.remove(&key.client);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let (length, bytes, known) = (self.length, &mut self.bytes, &mut self.known);
        self.clients.retain(|_, own| {
            let is_old = |at: Instant| now.saturating_duration_since(at) > length;
            while let Some((_, key)) = own.order.pop_front_if(|(at, _)| is_old(*at)) {
                let freed = known.remove(&key).map_or(0, |known| known.bytes());
                own.bytes -= freed;
                *bytes -= freed;
            }
            !own.order.is_empty()
        });
    }

    /// Makes the client that holds most by this measure forget its oldest request. Of equals it is the one whose oldest
    /// is older.
    fn forget_of(&mut self, measure: impl Fn(&ClientRequests) -> usize) {
        let most = self.clients.values().max_by_key(|own| {
            let oldest = own.order.front().map(|(at, _)| *at);
            (measure(own), std::cmp::Reverse(oldest))
        });
        if let Some((_, key)) = most.and_then(|own| own.order.front()).cloned() {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn key(client: &str, i: usize) -> Key {
        Key {
            client: client.into(),
            topic: Topic::Chat,
            id: i.to_string(),
        }
    }

    fn ended(bytes: usize) -> Known {
        Known::Ended(vec![0; bytes].into())
    }

    fn window(s: u64) -> RecentRequests {
        RecentRequests::new(Duration::from_secs(s))
    }

    #[test]
    fn entries_and_bytes_are_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut w = window(300);
        for i in 0..=ENTRIES_MAX {
            w.insert(now, key("c", i), ended(1));
        }
        assert!(w.get(now, &key("c", 0)).is_none() && w.get(now, &key("c", 1)).is_some());
        assert_eq!((w.known.len(), w.bytes), (ENTRIES_MAX, ENTRIES_MAX));
        w.insert(now, key("c", 5000), ended(DEDUP_BYTES_MAX));
        assert_eq!((w.known.len(), w.bytes), (1, DEDUP_BYTES_MAX));
        w.insert(now, key("c", 5001), ended(DEDUP_BYTES_MAX + 1));
        assert_eq!((w.known.len(), w.bytes), (0, 0));
    }

    #[test]
    fn one_clients_flood_makes_no_other_client_forgotten() {
        let now = Instant::now();
        let mut w = window(300);
        for client in ["a", "b", "c"] {
            for i in 0..100 {
                w.insert(now, key(client, i), ended(10_000));
            }
        }
        for i in 0..10_000 {
            w.insert(now, key("flood", i), ended(1));
        }
        for i in 0..100 {
            w.insert(now, key("flood", i), ended(100_000));
        }
        for client in ["a", "b", "c"] {
            assert!(
                (0..100).all(|i| w.get(now, &key(client, i)).is_some()),
                "{client}"
            );
        }
        assert!(w.bytes <= DEDUP_BYTES_MAX && w.known.len() <= ENTRIES_MAX);
        // many clients share what there is
        for i in 0..2 * ENTRIES_MAX {
            let later = now + Duration::from_secs(1);
            w.insert(later, key(&i.to_string(), 0), ended(1));
        }
        assert_eq!((w.known.len(), w.clients.len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert!(w.get(now, &key("a", 99)).is_none());
    }

    #[test]
    fn the_window_ends() {
        let now = Instant::now();
        let mut w = window(10);
        w.insert(now, key("c", 1), ended(4));
        w.insert(now, key("c", 2), Known::Cancelled);
        assert!(w.get(now + Duration::from_secs(10), &key("c", 1)).is_some());
        assert!(w.get(now + Duration::from_secs(11), &key("c", 1)).is_none());
        assert_eq!((w.bytes, w.known.len(), w.clients.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_known_is_replaced_and_forgotten() {
        let now = Instant::now();
        let mut w = window(10);
        w.insert(now, key("c", 1), Known::Cancelled);
        w.insert(now, key("c", 1), ended(4));
        assert_eq!(w.get(now, &key("c", 1)), Some(&ended(4)));
        assert_eq!((w.bytes, w.known.len()), (4, 1));
        w.insert(now, key("d", 1), ended(8));
        w.forget("c");
        assert_eq!((w.bytes, w.known.len(), w.clients.len()), (8, 1, 1));
    }
}
