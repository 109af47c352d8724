//! The requests of one client that are under way: which frame belongs to which, and which of them nobody answers.
//!
//! Nothing here waits. A reader that is slow misses chunks and never its last frame, which repeats the whole text.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Most requests of one client at a time. The daemon has a bound of its own, which is lower unless its queue is long.
pub(super) const REQUESTS_MAX: usize = 32;

/// Most chunks of one request that wait for its reader.
const CHUNKS_MAX: usize = 64;

/// The longest silence while an answer is due: a queue of long answers before it takes time.
const SILENCE: Duration = Duration::from_secs(900);

struct Flight {
    /// It is sent again after a lost connection.
    payload: Bytes,
    /// It has room for one frame more than there may be chunks.
    frames: mpsc::Sender<Value>,
    /// When the last frame came, or the request was made.
    heard: Instant,
}

/// The requests under way, by their ids.
#[derive(Default)]
pub(super) struct Flights(HashMap<String, Flight>);

impl Flights {
    /// Adds a request. None: there are as many as there may be.
    pub(super) fn begin(
        &mut self,
        id: String,
        payload: Bytes,
        now: Instant,
    ) -> Option<mpsc::Receiver<Value>> {
        if self.0.len() >= REQUESTS_MAX {
            return None;
        }
        let (frames, reader) = mpsc::channel(CHUNKS_MAX + 1);
        let flight = Flight {
            payload,
            frames,
            heard: now,
        };
        self.0.insert(id, flight);
        Some(reader)
    }

    /// Hands a frame of the daemon to whoever asked. A frame of an unknown request is one of an earlier process, or the end
    /// of one that was cancelled.
    pub(super) fn hear(&mut self, frame: Value, now: Instant) {
        let Some(id) = frame["id"].as_str() else {
            return;
        };
        if frame.get("error").is_some() || frame["object"] == "chat.completion" {
            if let Some(flight) = self.0.remove(id) {
                // there is room for it; an error means that nobody waits any more
                let _ = flight.frames.try_send(frame);
            }
        } else if let Some(flight) = self.0.get_mut(id) {
            flight.heard = now;
            if flight.frames.capacity() > 1 {
                let _ = flight.frames.try_send(frame);
            }
        }
    }

    /// Ends a request with an error that is not the daemon's own.
    pub(super) fn fail(&mut self, id: &str, code: &str, message: &str, now: Instant) {
        let error = json!({ "code": code, "message": message });
        self.hear(json!({ "id": id, "error": error }), now);
    }

    /// Ends every request with the same error.
    pub(super) fn fail_all(&mut self, code: &str, message: &str, now: Instant) {
        let ids: Vec<String> = self.0.keys().cloned().collect();
        for id in ids {
            self.fail(&id, code, message, now);
        }
    }

    /// Ends the requests of which nothing was heard for too long, and gives their ids.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<String> {
        let silent = |flight: &Flight| now.duration_since(flight.heard) >= SILENCE;
        let late = self.0.iter().filter(|(_, flight)| silent(flight));
        let late: Vec<String> = late.map(|(id, _)| id.clone()).collect();
        let why = format!("the daemon has said nothing for {} s", SILENCE.as_secs());
        for id in &late {
            self.fail(id, "deadline_exceeded", &why, now);
        }
        late
    }

    /// Forgets a request that nobody waits for. False: it has ended already.
    pub(super) fn abandon(&mut self, id: &str) -> bool {
        self.0.remove(id).is_some()
    }

    /// The payloads of all requests under way.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &Bytes> {
        self.0.values().map(|flight| &flight.payload)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn chunk(id: &str, seq: usize) -> Value {
        json!({ "id": id, "seq": seq, "object": "chat.completion.chunk" })
    }

    fn begin(flights: &mut Flights, id: &str, now: Instant) -> Option<mpsc::Receiver<Value>> {
        flights.begin(id.to_owned(), Bytes::from_static(b"{}"), now)
    }

    #[test]
    fn a_reader_that_is_slow_misses_chunks_and_never_the_end() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let mut reader = begin(&mut flights, "a", now).unwrap();
        for seq in 0..CHUNKS_MAX + 100 {
            flights.hear(chunk("a", seq), now);
        }
        flights.hear(json!({ "id": "a", "object": "chat.completion" }), now);
        for seq in 0..CHUNKS_MAX {
            assert_eq!(reader.try_recv().unwrap()["seq"], seq);
        }
        assert_eq!(reader.try_recv().unwrap()["object"], "chat.completion");
        assert!(reader.try_recv().is_err());
        assert!(!flights.abandon("a"), "it has ended");
    }

    #[test]
    fn a_client_has_so_many_requests_at_a_time() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let mut readers = Vec::new();
        for n in 0..REQUESTS_MAX {
            readers.push(begin(&mut flights, &n.to_string(), now).unwrap());
        }
        assert!(begin(&mut flights, "more", now).is_none());
        assert!(flights.abandon("0"));
        assert!(begin(&mut flights, "more", now).is_some());
        assert_eq!(flights.payloads().count(), REQUESTS_MAX);
    }

    #[test]
    fn silence_ends_a_request_and_news_do_not() {
        let (mut flights, start) = (Flights::default(), Instant::now());
        let mut quiet = begin(&mut flights, "quiet", start).unwrap();
        let mut lively = begin(&mut flights, "lively", start).unwrap();
        let almost = start + SILENCE - Duration::from_millis(1);
        flights.hear(chunk("lively", 0), almost);
        assert!(flights.give_up(almost).is_empty());
        assert_eq!(flights.give_up(start + SILENCE), ["quiet"]);
        let last = quiet.try_recv().unwrap();
        assert_eq!(last["error"]["code"], "deadline_exceeded");
        assert_eq!(lively.try_recv().unwrap()["seq"], 0);
        flights.fail_all("offline", "gone", start);
        assert_eq!(lively.try_recv().unwrap()["error"]["code"], "offline");
        assert_eq!(flights.payloads().count(), 0);
    }

    #[test]
    fn what_nobody_asked_for_is_passed_over() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let mut reader = begin(&mut flights, "a", now).unwrap();
        for frame in [
            json!(7),
            json!({ "id": 7 }),
            chunk("b", 0),
            json!({ "object": "x" }),
        ] {
            flights.hear(frame, now);
        }
        assert!(reader.try_recv().is_err());
    }
}
