//! The embedded broker's listener: it lets in who says in time who it is. A connection that says nothing costs a
//! descriptor for a while, but never the place of one that speaks.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::{Discriminant, discriminant};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::framing::{CONNACK, CONNECT, Connect, FixedHeader, LEVEL_5};
use crate::mqtt::tls::Acceptor;

/// Most connections that have not sent their CONNECT. If one more comes, the oldest is closed of the address that has
/// most of them.
pub(in crate::mqtt) const SILENT_MAX: usize = 256;
/// The same where they speak TLS: a handshake takes memory and a signature.
pub(in crate::mqtt) const HANDSHAKES_MAX: usize = 64;
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

/// The first byte of a TLS connection: a record of its handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// The two directions of a connection, with TLS taken off.
pub(in crate::mqtt) type Inward = Box<dyn AsyncRead + Send + Unpin>;
pub(in crate::mqtt) type Outward = Box<dyn AsyncWrite + Send + Unpin>;

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy)]
pub(in crate::mqtt) enum TurnedAway {
    /// User name, password or client identifier are not right.
    User,
    /// There is no place for another client.
    Full,
    /// This user has as many connections as one may have.
    Many,
    /// So many passwords wait to be checked that this one is not.
    Busy,
}

/// A connection of which the CONNECT was read, and nothing after it.
pub(in crate::mqtt) struct Visitor {
    pub(in crate::mqtt) from: BufReader<Inward>,
    pub(in crate::mqtt) to: Outward,
    pub(in crate::mqtt) address: SocketAddr,
    pub(in crate::mqtt) connect: Connect,
    /// The CONNECT after its fixed header.
    pub(in crate::mqtt) body: Vec<u8>,
}

impl Visitor {
    async fn meet(
        stream: TcpStream,
        address: SocketAddr,
        acceptor: Option<&Acceptor>,
    ) -> Result<Self, Stranger> {
        // an error means that the peer is gone, which is noticed soon enough
        let _ = stream.set_nodelay(true);
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(Stranger::Other);
        }
        let (from, to): (Inward, Outward) = match (acceptor, first[0]) {
            (Some(_), CONNECT) => return Err(Stranger::Plain),
            (None, TLS_HANDSHAKE) => return Err(Stranger::Tls),
            (Some(acceptor), _) => {
                let stream = acceptor.accept(stream).await.map_err(Stranger::Handshake)?;
                let (from, to) = tokio::io::split(stream);
                (Box::new(from), Box::new(to))
            }
            (None, _) => {
                let (from, to) = stream.into_split();
                (Box::new(from), Box::new(to))
            }
        };
        let mut from = BufReader::with_capacity(READ_AHEAD, from);
        let header = FixedHeader::read(&mut from).await?.ok_or(Stranger::Other)?;
        if header.first != CONNECT || header.len > CONNECT_MAX {
            return Err(Stranger::Other);
        }
        let mut body = vec![0; header.len];
        from.read_exact(&mut body).await?;
        let connect = Connect::parse(&body).ok_or(Stranger::Other)?;
        Ok(Self {
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
            TurnedAway::Many => (0x97, 3),
            TurnedAway::Busy => (0x9f, 3),
        };
        let said: &[u8] = if self.connect.level >= LEVEL_5 {
            &[CONNACK, 3, 0, of_5, 0]
        } else {
            &[CONNACK, 2, 0, of_4]
        };
        let say = async {
            self.to.write_all(said).await?;
            self.to.shutdown().await
        };
        // a peer that does not listen is turned away all the same
        let _ = timeout(CONNECT_WITHIN, say).await;
    }
}

/// Why nothing comes of a connection.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error(
        "a client speaks plain MQTT where the embedded broker has TLS: its address begins with `mqtts://`"
    )]
    Plain,
    #[error(
        "a client speaks TLS where the embedded broker has none (`broker.tls`): its address begins with `mqtt://`"
    )]
    Tls,
    #[error("a client ended the TLS handshake, or showed no certificate that is taken: {0}")]
    Handshake(io::Error),
    /// It said nothing, went away, or spoke something else.
    #[error("no MQTT")]
    Other,
}

impl From<io::Error> for Stranger {
    fn from(_: io::Error) -> Self {
        Self::Other
    }
}

/// The listening socket, and the connections that have not said who they are.
pub(in crate::mqtt) struct Listener {
    socket: TcpListener,
    /// What makes the connections of `socket` speak TLS, and a socket on loopback for the daemon itself, which needs none.
    tls: Option<(Arc<Acceptor>, TcpListener)>,
    within: Duration,
    silent: JoinSet<Result<Visitor, Stranger>>,
    /// The silent connections and where they come from, the oldest first.
    order: VecDeque<(IpAddr, AbortHandle)>,
    /// When the log last said that descriptors or memory were short.
    exhausted: Option<Instant>,
    /// When it last said of each kind of stranger that there are some.
    strangers: HashMap<Discriminant<Stranger>, Instant>,
}

impl Listener {
    /// Closes connections that do not send their CONNECT `within` this time.
    pub(in crate::mqtt) fn new(
        socket: TcpListener,
        tls: Option<(Arc<Acceptor>, TcpListener)>,
        within: Duration,
    ) -> Self {
        Self {
            socket,
            tls,
            within,
            silent: JoinSet::new(),
            order: VecDeque::new(),
            exhausted: None,
            strangers: HashMap::new(),
        }
    }

    /// Waits for the next connection that says who it is. An error means that the socket is gone and nobody will come.
    pub(in crate::mqtt) async fn next(&mut self) -> io::Result<Visitor> {
        loop {
            tokio::select! {
                (accepted, acceptor) = accept(&self.socket, self.tls.as_ref()) => match accepted {
                    Ok((stream, address)) => self.wait_for(stream, address, acceptor),
                    Err(e) => self.failed(&e).await?,
                },
                Some(met) = self.silent.join_next() => match met {
                    Ok(Ok(visitor)) => return Ok(visitor),
                    Ok(Err(stranger)) => self.met(&stranger),
                    // it was closed for another
                    Err(_) => {}
                }
            }
        }
    }

    fn wait_for(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        acceptor: Option<Arc<Acceptor>>,
    ) {
        self.order.retain(|(_, one)| !one.is_finished());
        let most = if self.tls.is_some() {
            HANDSHAKES_MAX
        } else {
            SILENT_MAX
        };
        if self.order.len() >= most {
            self.close_one();
        }
        let within = self.within;
        let met = async move {
            let meeting = Visitor::meet(stream, address, acceptor.as_deref());
            // nothing comes of one that said nothing in time
            timeout(within, meeting)
                .await
                .unwrap_or(Err(Stranger::Other))
        };
        let handle = self.silent.spawn(met);
        self.order.push_back((address.ip(), handle));
    }

    /// Closes the oldest connection of the address that has most of them, so that one machine keeps no other out.
    fn close_one(&mut self) {
        let mut of = HashMap::<IpAddr, usize>::new();
        for (address, _) in &self.order {
            *of.entry(*address).or_default() += 1;
        }
        let most = of.values().copied().max();
        let at = self
            .order
            .iter()
            .position(|(address, _)| of.get(address).copied() == most);
        if let Some((_, oldest)) = at.and_then(|at| self.order.remove(at)) {
            oldest.abort();
        }
    }

    fn close_oldest(&mut self, n: usize) {
        for (_, oldest) in self.order.drain(..n) {
            oldest.abort();
        }
    }

    /// Says what a client spoke that does not come in; now and then, because it will try again.
    fn met(&mut self, stranger: &Stranger) {
        tracing::debug!("the embedded broker: {stranger}");
        let (kind, now) = (discriminant(stranger), Instant::now());
        let said = self.strangers.get(&kind);
        if !matches!(stranger, Stranger::Other) && said.is_none_or(|said| now > *said + SAY_AGAIN) {
            self.strangers.insert(kind, now);
            tracing::warn!("{stranger}");
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
                self.order.retain(|(_, one)| !one.is_finished());
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

/// The next connection, and what makes it speak TLS if it has to.
async fn accept(
    socket: &TcpListener,
    tls: Option<&(Arc<Acceptor>, TcpListener)>,
) -> (io::Result<(TcpStream, SocketAddr)>, Option<Arc<Acceptor>>) {
    match tls {
        None => (socket.accept().await, None),
        Some((acceptor, own)) => tokio::select! {
            accepted = socket.accept() => (accepted, Some(Arc::clone(acceptor))),
            accepted = own.accept() => (accepted, None),
        },
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
        (Listener::new(socket, None, within), address)
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
    async fn one_address_with_many_connections_costs_its_own() {
        let (mut listener, _) = listener(LONG).await;
        let of = |last| IpAddr::from([192, 0, 2, last]);
        for last in [1, 2, 2, 3, 2, 1] {
            let waits = listener.silent.spawn(std::future::pending());
            listener.order.push_back((of(last), waits));
        }
        let left = |listener: &Listener| -> Vec<IpAddr> {
            listener.order.iter().map(|(address, _)| *address).collect()
        };
        listener.close_one();
        assert_eq!(left(&listener), [1, 2, 3, 2, 1].map(of));
        // of as many the oldest
        listener.close_one();
        assert_eq!(left(&listener), [2, 3, 2, 1].map(of));
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
        listener.wait_for(stream, peer, None);
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
