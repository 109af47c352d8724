//! The embedded broker's listener: it lets in who says in time who it is. A connection that says nothing costs a
//! descriptor for a while, but never the place of one that speaks.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::framing::{CONNACK, CONNECT, Connect, FixedHeader, LEVEL_5};

/// Most connections that have not sent their CONNECT. If one more comes, the oldest of them is closed. All come from
/// this machine, so a bound for each address would be no different.
pub(in crate::mqtt) const SILENT_MAX: usize = 256;
/// How long a connection may take to send its CONNECT.
pub(in crate::mqtt) const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest CONNECT: an identifier, a user, a password, and a will of a few words.
const CONNECT_MAX: usize = 8 << 10;
/// Bytes that are read ahead on a connection.
pub(in crate::mqtt) const READ_AHEAD: usize = 4 << 10;
/// The pause when this process or this machine has no descriptor or no memory for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The log says so once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy)]
pub(in crate::mqtt) enum TurnedAway {
    /// User name, password or client identifier are not right.
    User,
    /// There is no place for another client.
    Full,
}

/// A connection of which the CONNECT was read, and nothing after it.
pub(in crate::mqtt) struct Visitor {
    pub(in crate::mqtt) from: BufReader<OwnedReadHalf>,
    pub(in crate::mqtt) to: OwnedWriteHalf,
    pub(in crate::mqtt) address: SocketAddr,
    pub(in crate::mqtt) connect: Connect,
    /// The CONNECT after its fixed header.
    pub(in crate::mqtt) body: Vec<u8>,
}

impl Visitor {
    async fn meet(stream: TcpStream, address: SocketAddr) -> Option<Self> {
        // an error means that the peer is gone, which is noticed soon enough
        let _ = stream.set_nodelay(true);
        let (from, to) = stream.into_split();
        let mut from = BufReader::with_capacity(READ_AHEAD, from);
        let header = FixedHeader::read(&mut from).await.ok()??;
        if header.first != CONNECT || header.len > CONNECT_MAX {
            return None;
        }
        let mut body = vec![0; header.len];
        from.read_exact(&mut body).await.ok()?;
        let connect = Connect::parse(&body)?;
        Some(Self {
            from,
            to,
            address,
            connect,
            body,
        })
    }

    /// Says why the connection is turned away, and closes it.
    pub(in crate::mqtt) async fn turn_away(mut self, why: TurnedAway) {
        let id = &self.connect.client_id;
        tracing::debug!("the embedded broker turns `{id}` away: {why:?}");
        // codes of 3.2.2.2 of MQTT 5 and 3.2.2.3 of 3.1.1
        let (of_5, of_4) = match why {
            TurnedAway::User => (0x86, 4),
            TurnedAway::Full => (0x89, 3),
        };
        let said: &[u8] = if self.connect.level >= LEVEL_5 {
            &[CONNACK, 3, 0, of_5, 0]
        } else {
            &[CONNACK, 2, 0, of_4]
        };
        // a peer that does not listen is turned away all the same
        let _ = timeout(CONNECT_WITHIN, self.to.write_all(said)).await;
    }
}

/// The listening socket, and the connections that have not said who they are.
pub(in crate::mqtt) struct Listener {
    socket: TcpListener,
    within: Duration,
    silent: JoinSet<Option<Visitor>>,
    /// The silent connections, the oldest first.
    order: VecDeque<AbortHandle>,
    /// When the log last said that descriptors or memory were short.
    exhausted: Option<Instant>,
}

impl Listener {
    /// Closes connections that do not send their CONNECT `within` this time.
    pub(in crate::mqtt) fn new(socket: TcpListener, within: Duration) -> Self {
        Self {
            socket,
            within,
            silent: JoinSet::new(),
            order: VecDeque::new(),
            exhausted: None,
        }
    }

    /// Waits for the next connection that says who it is. An error means that the socket is gone and nobody will come.
    pub(in crate::mqtt) async fn next(&mut self) -> io::Result<Visitor> {
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, address)) => self.wait_for(stream, address),
                    Err(e) => self.failed(&e).await?,
                },
                Some(met) = self.silent.join_next() => {
                    // nothing comes of one that said nothing in time, was closed for another, or spoke something else
                    if let Ok(Some(visitor)) = met {
                        return Ok(visitor);
                    }
                }
            }
        }
    }

    fn wait_for(&mut self, stream: TcpStream, address: SocketAddr) {
        self.order.retain(|one| !one.is_finished());
        if self.order.len() >= SILENT_MAX {
            self.close_oldest(1);
        }
        let within = self.within;
        let met = async move { timeout(within, Visitor::meet(stream, address)).await.ok()? };
        let handle = self.silent.spawn(met);
        self.order.push_back(handle);
    }

    fn close_oldest(&mut self, n: usize) {
        for oldest in self.order.drain(..n) {
            oldest.abort();
        }
    }

    async fn failed(&mut self, error: &io::Error) -> io::Result<()> {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // now and then, not at every try
                let now = Instant::now();
                if self.exhausted.is_none_or(|said| now > said + SAY_AGAIN) {
                    self.exhausted = Some(now);
                    tracing::error!(
                        "the embedded broker cannot take another connection: {error}; it goes on trying"
                    );
                }
                self.order.retain(|one| !one.is_finished());
                self.close_oldest(self.order.len().div_ceil(2));
                sleep(EXHAUSTED_PAUSE).await;
                Ok(())
            }
            Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => {
                Err(io::Error::new(error.kind(), error.to_string()))
            }
            // this error is of the one connection that was to be accepted
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const LONG: Duration = Duration::from_secs(600);

    /// A CONNECT of 3.1.1, `me`, clean.
    const HELLO: &[u8] = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me";

    async fn listener(within: Duration) -> (Listener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        (Listener::new(socket, within), address)
    }

    /// Until the listener has closed it.
    async fn closed(mut stream: TcpStream) {
        // a reset is an end too
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    }

    #[tokio::test]
    async fn the_silent_do_not_keep_one_that_speaks_out() {
        let (mut listener, address) = listener(LONG).await;
        let door = tokio::spawn(async move {
            let visitor = listener.next().await.unwrap();
            (visitor.connect.client_id.clone(), listener.order.len())
        });
        let mut silent = Vec::new();
        for _ in 0..SILENT_MAX + 50 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut speaks = TcpStream::connect(address).await.unwrap();
        speaks.write_all(HELLO).await.unwrap();
        let (met, waiting) = door.await.unwrap();
        assert_eq!(met, "me");
        assert!(waiting <= SILENT_MAX, "{waiting}");
        // the oldest went first
        closed(silent.remove(0)).await;
    }

    #[tokio::test]
    async fn who_says_nothing_in_time_is_closed() {
        let (mut listener, address) = listener(Duration::from_millis(20)).await;
        tokio::spawn(async move { listener.next().await.map(drop) });
        let mut halfway = TcpStream::connect(address).await.unwrap();
        halfway.write_all(&HELLO[..9]).await.unwrap();
        closed(halfway).await;
    }

    #[tokio::test]
    async fn what_is_no_connect_is_closed_at_once() {
        let (mut listener, address) = listener(LONG).await;
        tokio::spawn(async move { listener.next().await.map(drop) });
        for said in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"\x10\xff\xff\x03",
            b"\x10\xff\xff\xff\xff\xff",
            b"\x10\x02\x00\x09",
            b"\xc0\x00",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            closed(stream).await;
        }
    }

    #[tokio::test]
    async fn without_descriptors_it_makes_room_and_says_so_once() {
        let (mut listener, address) = listener(LONG).await;
        let mut oldest = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.socket.accept().await.unwrap();
        listener.wait_for(stream, peer);
        let mut said = None;
        for _ in 0..3 {
            let full = Errno::MFILE.into();
            listener.failed(&full).await.unwrap();
            assert!(listener.exhausted.is_some() && listener.order.is_empty());
            assert_eq!(*said.get_or_insert(listener.exhausted), listener.exhausted);
        }
        assert_eq!(oldest.read(&mut [0]).await.unwrap(), 0);
        // a connection that is gone before it was accepted is nobody else's trouble, a socket that is none is the end
        listener.failed(&Errno::CONNABORTED.into()).await.unwrap();
        listener.failed(&Errno::BADF.into()).await.unwrap_err();
    }
}
