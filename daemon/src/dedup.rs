//! Finished requests, remembered for a while: the same (client, id) again gets its last frame again. Bounded in entries
//! and bytes; beyond them the oldest is forgotten first.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::wire::properties::ReplyTo;

/// Most requests remembered.
pub const ENTRIES_MAX: usize = 1024;
/// Most bytes of their last frames.
pub const BYTES_MAX: usize = 4 << 20;

/// Whose request it is: client, then id.
pub type Key = (String, String);

/// The window.
#[derive(Debug)]
pub struct Window {
    length: Duration,
    order: VecDeque<(Instant, Key)>,
    frames: HashMap<Key, (ReplyTo, Bytes)>,
    bytes: usize,
}

impl Window {
    /// Remembers for `length`.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            order: VecDeque::new(),
            frames: HashMap::new(),
            bytes: 0,
        }
    }

    /// A request ended with `frame`.
    pub fn insert(&mut self, now: Instant, key: Key, reply: ReplyTo, frame: Bytes) {
        self.expire(now);
        self.bytes += frame.len();
        // a key comes here once: while it is remembered the same request is not run again
        self.frames.insert(key.clone(), (reply, frame));
        self.order.push_back((now, key));
        while self.order.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// The last frame of a request that ended within the window.
    pub fn get(&mut self, now: Instant, key: &Key) -> Option<&(ReplyTo, Bytes)> {
        self.expire(now);
        self.frames.get(key)
    }

    /// Forgets what a client was told.
    pub fn forget(&mut self, client: &str) {
        self.order.retain(|(_, key)| key.0 != client);
        let bytes = &mut self.bytes;
        self.frames.retain(|key, (_, frame)| {
            let stays = key.0 != client;
            *bytes -= if stays { 0 } else { frame.len() };
            stays
        });
    }

    fn expire(&mut self, now: Instant) {
        while self
            .order
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > self.length)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, frame)) = self
            .order
            .pop_front()
            .and_then(|(_, key)| self.frames.remove(&key))
        {
            self.bytes -= frame.len();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::transport::Qos;

    fn key(i: usize) -> Key {
        ("c".to_owned(), i.to_string())
    }

    fn reply() -> ReplyTo {
        ReplyTo {
            client: "c".into(),
            default_topic: None,
            topic: "t".into(),
            qos: Qos::AtLeastOnce,
            correlation_data: None,
            content_type: "application/json",
        }
    }

    #[test]
    fn entries_and_bytes_are_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut w = Window::new(Duration::from_secs(300));
        for i in 0..=ENTRIES_MAX {
            w.insert(now, key(i), reply(), Bytes::from_static(b"x"));
        }
        assert!(w.get(now, &key(0)).is_none() && w.get(now, &key(1)).is_some());
        assert_eq!(
            (w.order.len(), w.frames.len(), w.bytes),
            (ENTRIES_MAX, ENTRIES_MAX, ENTRIES_MAX)
        );
        w.insert(now, key(5000), reply(), Bytes::from(vec![0; BYTES_MAX]));
        assert_eq!((w.order.len(), w.bytes), (1, BYTES_MAX));
        w.insert(now, key(5001), reply(), Bytes::from(vec![0; BYTES_MAX + 1]));
        assert_eq!((w.order.len(), w.frames.len(), w.bytes), (0, 0, 0));
    }

    #[test]
    fn the_window_ends() {
        let now = Instant::now();
        let mut w = Window::new(Duration::from_secs(10));
        w.insert(now, key(1), reply(), Bytes::from_static(b"last"));
        assert!(w.get(now + Duration::from_secs(10), &key(1)).is_some());
        assert!(w.get(now + Duration::from_secs(11), &key(1)).is_none());
        assert_eq!(w.bytes, 0);
    }
}
