//! How connections of another protocol are let in: so many at a time, and a few more that are told so.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

/// Most connections that are served at a time.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Connections beyond those that are told that there is no place. Further ones are closed without a word.
const TURNED_AWAY_MAX: usize = 16;

/// The pause after a connection could not be accepted, as when descriptors are short.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a peer may take nothing of what is written to it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Accepts connections until `stop`, and has each of them served. `full` says that it is one that has to be told that there is
/// no place. At the end all that are still there are broken off.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, bool) -> F,
) {
    let mut guests = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            // a panic in one is the end of that one alone
            Some(_) = guests.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if guests.len() < CONNECTIONS_MAX + TURNED_AWAY_MAX => {
                    // small events are to go out at once; without this they only come later
                    let _ = stream.set_nodelay(true);
                    let full = guests.len() >= CONNECTIONS_MAX;
                    guests.spawn(serve(stream, full));
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::warn!("cannot accept a connection: {why}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    guests.shutdown().await;
}

/// A stream whose writing fails when its peer takes nothing for too long.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while the peer takes nothing.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            limit: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(written) = Pin::new(&mut this.stream).poll_write(context, bytes) {
            this.limit = None;
            return Poll::Ready(written);
        }
        let patience = this.patience;
        let limit = this
            .limit
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Patient::new(ours, Duration::ZERO);
        ours.write_all(b"1234").await.unwrap();
        let late = ours.write_all(b"5").await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        // one that takes it after all has its patience back
        let mut taken = [0; 4];
        theirs.read_exact(&mut taken).await.unwrap();
        ours.write_all(b"5678").await.unwrap();
    }

    #[tokio::test]
    async fn beyond_the_places_are_those_who_are_told_and_those_who_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = |mut stream: TcpStream, full: bool| async move {
            stream.write_all(&[u8::from(full)]).await.unwrap();
            // until the other side goes
            let _ = stream.read(&mut [0]).await;
        };
        let doors = tokio::spawn(accept(
            listener,
            async {
                let _ = stopped.await;
            },
            serve,
        ));
        let mut guests = Vec::new();
        let mut first = [0];
        for n in 0..CONNECTIONS_MAX + TURNED_AWAY_MAX {
            let mut guest = TcpStream::connect(address).await.unwrap();
            guest.read_exact(&mut first).await.unwrap();
            assert_eq!(first[0] == 1, n >= CONNECTIONS_MAX, "{n}");
            guests.push(guest);
        }
        let mut more = TcpStream::connect(address).await.unwrap();
        assert!(!matches!(more.read(&mut first).await, Ok(1..)));
        stop.send(()).unwrap();
        doors.await.unwrap();
        assert!(!matches!(guests[0].read(&mut first).await, Ok(1..)));
    }
}
