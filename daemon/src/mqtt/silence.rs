//! How long a broker may say nothing. A broker that was cut off says no goodbye, and one that hangs does not either.
//!
//! It is heard by its bytes and not by its messages, so that a long message on a slow line is no silence. The client crate
//! pings when it has sent nothing for a keep-alive, and so never while anything else is sent: with metrics alone that nobody
//! acknowledges, a broker that hangs would not be missed. So one that was not heard for a keep-alive is asked for an answer, and it
//! has half a keep-alive more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// When the other side of a connection was last heard. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    start: Instant,
    /// Nanoseconds after the start: an answer may come in the same microsecond as its question went.
    heard: Arc<AtomicU64>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            heard: Arc::default(),
        }
    }

    fn beat(&self) {
        let after = self.start.elapsed().as_nanos();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        self.heard.store(after, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_nanos(self.heard.load(Ordering::Relaxed))
    }
}

/// A stream whose other side is listened for.
pub(super) struct Watched<S> {
    stream: S,
    pulse: Pulse,
    /// The stream took nothing when it was last written to.
    full: bool,
}

impl<S> Watched<S> {
    /// Watches a stream that has just come to be.
    pub(super) fn new(stream: S, pulse: Pulse) -> Self {
        pulse.beat();
        let full = false;
        Self {
            stream,
            pulse,
            full,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.beat();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        // what makes room in a full socket is that the other side takes something
        if self.full && matches!(written, Poll::Ready(Ok(1..))) {
            self.pulse.beat();
        }
        self.full = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What follows when a broker has said nothing until some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It is asked for an answer.
    Ask,
    /// It is given up, and the connection ends.
    End,
}

/// What a silence leads to. A state machine without a clock.
#[derive(Debug)]
pub(super) struct Silence {
    keep_alive: Duration,
    /// Silence before this moment does not count, because nobody listened.
    since: Instant,
    /// The broker can be asked for an answer.
    stands: bool,
    asked: Option<Instant>,
}

impl Silence {
    /// Of a connection that is being made.
    pub(super) fn new(keep_alive: Duration, now: Instant) -> Self {
        Self {
            keep_alive,
            since: now,
            stands: false,
            asked: None,
        }
    }

    /// The connection stands. A broker may want to be written to more often than we do by ourselves, and zero is no limit.
    pub(super) fn stands(&mut self, server_keep_alive: Option<Duration>) {
        self.stands = true;
        let wanted = server_keep_alive.filter(|wanted| !wanted.is_zero());
        self.keep_alive = wanted.map_or(self.keep_alive, |wanted| wanted.min(self.keep_alive));
    }

    /// The broker has to answer what was sent now.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// From now on somebody listens again.
    pub(super) fn listens(&mut self, now: Instant) {
        self.since = now;
    }

    /// How long the broker may say nothing.
    pub(super) fn limit(&self) -> Duration {
        self.keep_alive * 3 / 2
    }

    /// When something follows if the broker was last heard at this moment, and what.
    pub(super) fn due(&self, heard: Instant) -> (Instant, Then) {
        let heard = heard.max(self.since);
        let due = heard + self.keep_alive;
        let asked = self.asked.filter(|asked| *asked >= heard);
        match asked {
            // whoever was asked late has the same time to answer
            Some(asked) => (asked.max(due) + self.keep_alive / 2, Then::End),
            None if self.stands => (due, Then::Ask),
            None => (heard + self.limit(), Then::End),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const KEEP_ALIVE: Duration = Duration::from_secs(10);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn who_says_nothing_is_asked_and_then_given_up_within_one_and_a_half_keep_alives() {
        let start = Instant::now();
        let mut silence = Silence::new(KEEP_ALIVE, start);
        // before it stands there is nothing to ask by
        assert_eq!(silence.due(start), (start + seconds(15), Then::End));
        silence.stands(None);
        assert_eq!(silence.limit(), seconds(15));
        assert_eq!(silence.due(start), (start + seconds(10), Then::Ask));
        silence.asked(start + seconds(10));
        assert_eq!(silence.due(start), (start + seconds(15), Then::End));
        // an answer begins anew
        let heard = start + seconds(11);
        assert_eq!(silence.due(heard), (heard + seconds(10), Then::Ask));
        // the crate's own ping asks as well, and does not make it sooner
        silence.asked(heard + seconds(3));
        assert_eq!(silence.due(heard), (heard + seconds(15), Then::End));
    }

    #[test]
    fn who_did_not_listen_or_asked_late_waits_for_an_answer() {
        let start = Instant::now();
        let mut silence = Silence::new(KEEP_ALIVE, start);
        silence.stands(None);
        // the whole process stood still for a minute
        let now = start + seconds(60);
        assert_eq!(silence.due(start).1, Then::Ask);
        silence.asked(now);
        assert_eq!(silence.due(start), (now + seconds(5), Then::End));
        // nobody took events for a minute
        silence.listens(now + seconds(60));
        assert_eq!(silence.due(start), (now + seconds(70), Then::Ask));
    }

    #[test]
    fn a_broker_can_want_more_and_never_less() {
        for (wanted, is) in [(Some(4), 4), (Some(300), 10), (Some(0), 10), (None, 10)] {
            let mut silence = Silence::new(KEEP_ALIVE, Instant::now());
            silence.stands(wanted.map(seconds));
            assert_eq!(silence.limit(), seconds(is) * 3 / 2, "{wanted:?}");
        }
    }

    /// What is written into a buffer shows nothing of the other side, until the buffer was full and has room again.
    #[tokio::test]
    async fn bytes_that_come_or_are_taken_are_heard() {
        let (near, mut far) = tokio::io::duplex(8);
        let pulse = Pulse::new();
        let heard = || pulse.heard.swap(u64::MAX, Ordering::Relaxed) != u64::MAX;
        let mut near = Watched::new(near, pulse.clone());
        assert!(heard());
        near.write_all(b"12345678").await.unwrap();
        assert!(!heard());
        let write = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut near).poll_write(context, b"9").is_pending())
        });
        assert!(write.await && !heard());
        far.read_exact(&mut [0; 8]).await.unwrap();
        near.write_all(b"9").await.unwrap();
        assert!(heard());
        far.write_all(b"x").await.unwrap();
        near.read_u8().await.unwrap();
        assert!(heard());
    }
}
