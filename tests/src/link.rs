//! A network between an MQTT client and its broker that fails as networks do: a TCP proxy on loopback that delays, cuts, loses
//! and slows what it carries.
//!
//! Each connection has a [`Fate`], which is drawn only from the seed of the link and the connection's number, so the same seed
//! gives the same faults. Besides, [`Link::cut`], [`Link::silence`] and [`Link::refuse`] act at a moment that the test chooses. A
//! connection holds one buffer each way, and the kernel's are kept small: what cannot be passed on waits at its sender.

use crate::SplitMix;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::sleep;

/// How often a slow connection passes bytes on.
pub const TICK: Duration = Duration::from_millis(10);
/// Bytes of a connection that the link holds, each way.
const BUFFER: usize = 4096;
/// Bytes of a connection that the kernel holds, each way and on each side. It may take twice as many.
const KERNEL_BUFFER: u32 = 32 * 1024;

/// The faults that connections may meet; by default there are none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Longest time that a connection holds its bytes back, in milliseconds. Every connection draws its own delay, so what was
    /// sent on two of them may arrive in another order.
    pub delay_ms: u64,
    /// Bytes that reach the client in a [`TICK`].
    pub bytes_per_tick: Option<usize>,
    /// Every connection is closed after at most so many bytes in one direction.
    pub close_within: Option<u64>,
    /// Every connection silently loses what follows at most so many bytes in one direction: it is half open.
    pub lose_within: Option<u64>,
}

/// The faults that were drawn for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// wait before each read is passed on
    pub delay: Duration,
    /// bytes that reach the client in a [`TICK`]
    pub bytes_per_tick: Option<usize>,
    /// the connection is closed after this byte of either direction
    pub close_at: Option<u64>,
    /// everything is lost from this byte of either direction on
    pub lose_at: Option<u64>,
}

impl Fate {
    /// The fate of connection `number` (from 0) on a link of this seed.
    pub fn draw(seed: u64, number: u64, faults: &Faults) -> Self {
        let mut random = SplitMix::new(seed, &format!("connection {number}"));
        let mut upto = |most: u64| random.next_u64() % (most + 1);
        Self {
            delay: Duration::from_millis(upto(faults.delay_ms)),
            bytes_per_tick: faults.bytes_per_tick,
            close_at: faults.close_within.map(&mut upto),
            lose_at: faults.lose_within.map(&mut upto),
        }
    }
}

/// What the test asks of the link at a moment. Connections compare it with what it was when they began.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    cuts: u64,
    silences: u64,
    refuse: bool,
}

struct Shared {
    seed: u64,
    to: SocketAddr,
    faults: Mutex<Faults>,
    orders: watch::Sender<Orders>,
}

/// The proxy. It ends, and its connections with it, when it is dropped.
pub struct Link {
    /// where clients connect, on 127.0.0.1
    pub port: u16,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Link {
    /// Makes a link to the broker at this port of 127.0.0.1, which need not listen yet.
    ///
    /// # Errors
    /// If there is no free port or no thread.
    pub fn new(seed: u64, to: u16, faults: Faults) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(listen(0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            seed,
            to: ([127, 0, 0, 1], to).into(),
            faults: Mutex::new(faults),
            orders: watch::Sender::new(Orders::default()),
        });
        runtime.spawn(accept(Arc::clone(&shared), listener, port));
        Ok(Self {
            port,
            shared,
            runtime: Some(runtime),
        })
    }

    /// Sets the faults that connections meet from now on.
    pub fn faults(&self, faults: Faults) {
        *self
            .shared
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Closes every connection, both sides.
    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Loses all that the present connections carry from here on, and tells neither side.
    pub fn silence(&self) {
        self.shared
            .orders
            .send_modify(|orders| orders.silences += 1);
    }

    /// Sets whether new connections are refused, as where nobody listens.
    pub fn refuse(&self, refuse: bool) {
        self.shared
            .orders
            .send_modify(|orders| orders.refuse = refuse);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // connections of an earlier listener may still be closing
    socket.set_reuseaddr(true)?;
    // accepted connections inherit this
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    socket.listen(1024)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, port: u16) {
    let mut orders = shared.orders.subscribe();
    let mut listener = Some(listener);
    let mut number = 0;
    loop {
        let Some(open) = &listener else {
            if orders.wait_for(|orders| !orders.refuse).await.is_err() {
                return;
            }
            // another process may have taken the port: then it stays refused, and the test sees that
            listener = listen(port).await.ok();
            sleep(TICK).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let faults = *shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
                let fate = Fate::draw(shared.seed, number, &faults);
                number += 1;
                tokio::spawn(carry(client, shared.to, fate, shared.orders.subscribe()));
            }
            refused = orders.wait_for(|orders| orders.refuse) => {
                if refused.is_err() {
                    return;
                }
                listener = None;
            }
        }
    }
}

/// Carries a connection until one side ends it, or its fate does.
async fn carry(client: TcpStream, to: SocketAddr, fate: Fate, mut orders: watch::Receiver<Orders>) {
    let begin = *orders.borrow_and_update();
    let Ok(broker) = dial(to).await else { return };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let up = Fate {
        bytes_per_tick: None,
        ..fate
    };
    let silent = || {
        let mut orders = orders.clone();
        async move {
            // an error means that the link is gone, and its tasks with it
            let _ = orders.wait_for(|now| now.silences > begin.silences).await;
        }
    };
    tokio::select! {
        () = pass(from_client, to_broker, up, silent()) => {}
        () = pass(from_broker, to_client, fate, silent()) => {}
        _ = orders.wait_for(|now| now.cuts > begin.cuts) => {}
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.connect(to).await
}

/// Carries one direction. It ends when the connection must be closed, and never when it is half open.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fate: Fate,
    silent: impl Future<Output = ()>,
) {
    let mut silent = std::pin::pin!(silent);
    let mut buffer = [0; BUFFER];
    let mut passed: u64 = 0;
    let mut lost = false;
    loop {
        let most = fate.bytes_per_tick.unwrap_or(BUFFER).clamp(1, BUFFER);
        let n = tokio::select! {
            biased;
            () = &mut silent, if !lost => {
                lost = true;
                continue;
            }
            n = from.read(&mut buffer[..most]) => n,
        };
        let Ok(n @ 1..) = n else {
            if lost {
                // the end of this side is lost too
                return std::future::pending().await;
            }
            return;
        };
        if lost {
            continue;
        }
        sleep(fate.delay).await;
        if fate.bytes_per_tick.is_some() {
            sleep(TICK).await;
        }
        let room = |at: Option<u64>| at.map_or(n, |at| n.min((at - passed) as usize));
        let n = room(fate.close_at).min(room(fate.lose_at));
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        passed += n as u64;
        if fate.close_at == Some(passed) {
            return;
        }
        lost = fate.lose_at == Some(passed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener as Listener, TcpStream as Stream};

    /// A link and both ends of its first connection.
    fn connected(faults: Faults) -> (Link, Stream, Stream) {
        let broker = Listener::bind("127.0.0.1:0").unwrap();
        let link = Link::new(7, broker.local_addr().unwrap().port(), faults).unwrap();
        let client = Stream::connect(("127.0.0.1", link.port)).unwrap();
        let (broker, _) = broker.accept().unwrap();
        (link, client, broker)
    }

    fn rest(mut stream: &Stream) -> Vec<u8> {
        let mut all = Vec::new();
        // a connection that is reset carries no more than what came before
        let _ = stream.read_to_end(&mut all);
        all
    }

    fn exactly(mut stream: &Stream, n: usize) -> Vec<u8> {
        let mut all = vec![0; n];
        stream.read_exact(&mut all).unwrap();
        all
    }

    #[test]
    fn without_faults_all_passes_and_the_end_too() {
        let (_link, mut client, mut broker) = connected(Faults::default());
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| client.write_all(&bytes).unwrap());
            assert!(exactly(&broker, bytes.len()) == bytes);
        });
        broker.write_all(b"answer").unwrap();
        assert_eq!(exactly(&client, 6), b"answer");
        drop(broker);
        assert_eq!(rest(&client), b"");
    }

    #[test]
    fn a_seed_is_a_weather() {
        let faults = Faults {
            delay_ms: 1000,
            close_within: Some(100_000),
            lose_within: Some(100_000),
            bytes_per_tick: Some(3),
        };
        let of = |seed| -> Vec<Fate> { (0..20).map(|n| Fate::draw(seed, n, &faults)).collect() };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_ne!(of(1)[0], of(1)[1]);
    }

    #[test]
    fn a_connection_is_closed_after_its_byte() {
        let faults = Faults {
            close_within: Some(5000),
            ..Faults::default()
        };
        let (link, mut client, broker) = connected(faults);
        let at = Fate::draw(7, 0, &faults).close_at.unwrap();
        // the link may close before everything is written
        let _ = client.write_all(&[9; 20_000]);
        assert_eq!(rest(&broker).len() as u64, at);
        drop(link);
    }

    #[test]
    fn what_is_lost_is_lost_without_a_word() {
        let faults = Faults {
            lose_within: Some(5000),
            ..Faults::default()
        };
        let (link, mut client, broker) = connected(faults);
        let at = Fate::draw(7, 0, &faults).lose_at.unwrap();
        client.write_all(&[9; 20_000]).unwrap();
        assert!(exactly(&broker, at as usize).iter().all(|b| *b == 9));
        client.write_all(b"not heard").unwrap();
        link.cut();
        assert_eq!(rest(&broker), b"");

        let (link, mut client, mut broker) = connected(Faults::default());
        client.write_all(b"heard").unwrap();
        assert_eq!(exactly(&broker, 5), b"heard");
        link.silence();
        client.write_all(b"not heard").unwrap();
        broker.write_all(b"nor this").unwrap();
        // nor that it went away
        drop(client);
        let port = link.port;
        assert!(Stream::connect(("127.0.0.1", port)).is_ok());
        link.cut();
        assert_eq!(rest(&broker), b"");
    }

    #[test]
    fn a_slow_reader_holds_its_writer_up_and_nothing_grows() {
        let faults = Faults {
            bytes_per_tick: Some(1),
            ..Faults::default()
        };
        let (_link, client, mut broker) = connected(faults);
        broker.set_nonblocking(true).unwrap();
        let mut taken = 0;
        loop {
            match broker.write(&[0; 4096]) {
                Ok(n) => taken += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
            assert!(taken < 64 << 20, "somebody keeps it all");
        }
        assert_eq!(exactly(&client, 3), [0; 3]);
    }

    #[test]
    fn who_is_refused_comes_back() {
        let (link, mut client, broker) = connected(Faults::default());
        link.refuse(true);
        let refused = || Stream::connect(("127.0.0.1", link.port)).is_err();
        while !refused() {
            std::thread::yield_now();
        }
        // those that are there stay
        client.write_all(b"still").unwrap();
        assert_eq!(exactly(&broker, 5), b"still");
        link.refuse(false);
        while refused() {
            std::thread::yield_now();
        }
    }
}
