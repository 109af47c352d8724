//! The embedded broker, `mqtt5`, in the one file that names it. It needs no set-up, listens on loopback or behind
//! TLS, speaks both MQTT versions on one port, and always checks users and topics.
//!
//! Only the part of the crate that serves one connection is used. `listener` and `relay` decide before it who is let in
//! and what the crate gets to see. What was measured of version 0.49: it adds a user property with the sender's client
//! identifier to everything that it forwards, and it drops QoS 1 publications for a subscriber that does not read once
//! the limits below are reached.

pub mod credentials;
mod framing;
mod guard;
mod listener;
mod logins;
mod relay;
mod running;
mod sessions;
mod users;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mqtt5::broker::BrokerConfig;
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::{DynamicStorage, MemoryBackend, QueueLimits, StorageBackend};
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::transport::BrokerTransport;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, interval, timeout};

use super::PACKET_MAX;
use super::tls::{self, Acceptor};
use crate::config::ListenerTls;
use framing::{CONNECT, Connect, FixedHeader, LEVEL_5, lower_will};
pub use guard::Users;
use guard::{Guard, Member, Who, own_identifier};
use listener::{CONNECT_WITHIN, HANDSHAKES_MAX, Listener, TurnedAway, Visitor};
use logins::{Login, Logins, PAUSE};
use relay::{LARGE, LARGE_WITHIN, Relay, packet_max};
pub use running::{BrokerError, Embedded};
use sessions::{SESSIONS_MAX, Sessions};

/// Clients that may be connected at a time. The daemon has a place of its own.
const CLIENTS_MAX: usize = SESSIONS_MAX;
/// Connections of one of the further users.
const CLIENTS_OF_ONE: usize = CLIENTS_MAX / 4;
/// Publications, and their bytes, that are kept for a client that does not read or is away.
const QUEUE_MAX: (usize, usize) = (1000, 64 << 10);
/// Publications of each QoS on their way to one client, and those of QoS 1 that it has not acknowledged. They are
/// frames of a few hundred bytes each.
const CLIENT_LANE: usize = 256;
const CLIENT_WINDOW: u16 = 32;
/// The same for the daemon. These are requests, and may be as long as the configuration allows.
const DAEMON_LANE: usize = 16;
const DAEMON_WINDOW: u16 = 8;
/// Large packets that may be on their way in at a time.
const LARGE_MAX: usize = 4;
/// Retained publications in all, and the bytes of one.
const RETAINED_MAX: (usize, usize) = (128, 16 << 10);
/// How long the session of a client that is away is kept.
const SESSION_EXPIRY: Duration = Duration::from_secs(3600);
/// How often expired sessions are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How often it is looked whether the file of users has changed.
const LOOK: Duration = Duration::from_secs(5);
/// Time for the last words to a client whose connection the broker ended.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bytes that the broker may hold when payloads of up to `payload_max` are taken: for each client its queue and the
/// buffers of its connection; requests on their way to the daemon, in both queues and twice in the window, where the
/// crate keeps a copy; large packets on their way in, here and in the crate; and what is retained. With `tls` also the
/// buffers of every connection that speaks it, or is about to.
#[must_use]
pub const fn bytes(payload_max: usize, tls: bool) -> usize {
    let client = QUEUE_MAX.1 + 4 * LARGE;
    let tls = if tls {
        (CLIENTS_MAX + HANDSHAKES_MAX) * tls::BYTES
    } else {
        0
    };
    let requests = 2 * DAEMON_LANE + 2 * DAEMON_WINDOW as usize + 2 * LARGE_MAX;
    CLIENTS_MAX * client
        + tls
        + requests * packet_max(payload_max)
        + RETAINED_MAX.0 * RETAINED_MAX.1
}

/// Bytes that further users take besides: their file, and the check of one password.
pub const USERS_BYTES: usize = users::FILE_BYTES + users::HASH_BYTES;

/// Binds and starts the broker. A client's payload above `payload_max` is cut so that it is still above the limit, and
/// forwarded.
///
/// # Errors
/// The broker cannot listen on the address, or cannot use its certificate or the file of its users.
pub async fn start(
    listen: SocketAddr,
    tls: Option<&ListenerTls>,
    users: Users,
    payload_max: usize,
) -> Result<Embedded, BrokerError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BrokerError::Taken(listen),
        _ => BrokerError::Listen(listen, error),
    };
    let socket = TcpListener::bind(listen).await.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    let mut own = address;
    let tls = match tls {
        None => None,
        Some(files) => {
            let acceptor = Arc::new(Acceptor::new(files.clone())?);
            let inner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let inner = inner.map_err(failed)?;
            own = inner.local_addr().map_err(failed)?;
            Some((acceptor, inner))
        }
    };
    let (shutdown, _) = broadcast::channel(1);
    let logins = users.file.as_deref();
    let logins = logins.map(|file| Logins::open(file, PAUSE)).transpose()?;
    let broker = Broker::new(users, logins, payload_max, shutdown.downgrade());
    let broker = Arc::new(broker);
    let task = tokio::spawn(broker.run(Listener::new(socket, tls, CONNECT_WITHIN)));
    Ok(Embedded {
        address,
        own,
        task,
        shutdown,
    })
}

/// What all connections share.
struct Broker {
    guard: Arc<Guard>,
    /// The further users, if there is a file of some.
    logins: Option<Logins>,
    payload_max: usize,
    router: Arc<MessageRouter>,
    storage: Arc<DynamicStorage>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    shutdown: broadcast::WeakSender<()>,
    for_clients: Arc<BrokerConfig>,
    /// For clients without an identifier: they get no session, because nobody could come back to it.
    for_nameless: Arc<BrokerConfig>,
    for_daemon: Arc<BrokerConfig>,
    clients: Semaphore,
    large: Semaphore,
    sessions: Mutex<Sessions>,
}

impl Broker {
    fn new(
        users: Users,
        logins: Option<Logins>,
        payload_max: usize,
        shutdown: broadcast::WeakSender<()>,
    ) -> Self {
        let storage = Arc::new(DynamicStorage::Memory(MemoryBackend::with_queue_limits(
            QueueLimits {
                max_messages: QUEUE_MAX.0,
                max_bytes: QUEUE_MAX.1,
            },
        )));
        let router = MessageRouter::with_storage(Arc::clone(&storage))
            .with_retained_limits(RETAINED_MAX.0, RETAINED_MAX.1);
        let mut for_clients = BrokerConfig::default()
            .with_max_packet_size(PACKET_MAX)
            .with_max_subscriptions_per_client(64);
        for_clients.maximum_qos = 1;
        for_clients.topic_alias_maximum = 0;
        for_clients.session_expiry_interval = SESSION_EXPIRY;
        for_clients.client_channel_capacity = CLIENT_LANE;
        for_clients.max_outbound_inflight = CLIENT_WINDOW;
        let mut for_nameless = for_clients.clone();
        for_nameless.session_expiry_interval = Duration::ZERO;
        let mut for_daemon = for_clients.clone();
        for_daemon.client_channel_capacity = DAEMON_LANE;
        for_daemon.max_outbound_inflight = DAEMON_WINDOW;
        Self {
            guard: Arc::new(Guard(users)),
            logins,
            payload_max,
            router: Arc::new(router),
            storage,
            stats: Arc::new(BrokerStats::new()),
            // clients are counted here; their rate is not limited, because they are the owner's own programs
            monitor: Arc::new(ResourceMonitor::new(ResourceLimits {
                max_message_rate_per_client: 0,
                max_bandwidth_per_client: 0,
                ..ResourceLimits::default()
            })),
            shutdown,
            for_clients: Arc::new(for_clients),
            for_nameless: Arc::new(for_nameless),
            for_daemon: Arc::new(for_daemon),
            clients: Semaphore::new(CLIENTS_MAX),
            large: Semaphore::new(LARGE_MAX),
            sessions: Mutex::default(),
        }
    }

    /// Accepts connections until the socket fails.
    async fn run(self: Arc<Self>, mut listener: Listener) -> io::Error {
        let (mut sweep, mut look) = (interval(SWEEP), interval(LOOK));
        loop {
            tokio::select! {
                visitor = listener.next() => match visitor {
                    Ok(visitor) => drop(tokio::spawn(Arc::clone(&self).serve(visitor))),
                    Err(error) => return error,
                },
                _ = sweep.tick() => self.sweep().await,
                _ = look.tick(), if self.logins.is_some() => self.look().await,
            }
        }
    }

    async fn sweep(&self) {
        if let Err(error) = self.storage.cleanup_expired().await {
            tracing::warn!("the embedded broker: {error}");
        }
        self.router.sweep_sessions().await;
    }

    /// Reads the file of users again if it has changed. Who is none any more has no session either.
    async fn look(&self) {
        let gone = self.logins.as_ref().map(Logins::look);
        for name in gone.into_iter().flatten() {
            self.forget_user(&name).await;
        }
    }

    /// Whose connection it is.
    async fn who(&self, connect: &Connect, from: IpAddr) -> Result<Who, TurnedAway> {
        let (Some(name), Some(password)) = (&connect.username, &connect.password) else {
            return Err(TurnedAway::User);
        };
        if let Some(own) = self.guard.own(connect, name, password) {
            return own.ok_or(TurnedAway::User);
        }
        let logins = self.logins.as_ref().ok_or(TurnedAway::User)?;
        self.look().await;
        match logins.check(name, password, from).await {
            Login::Right(member) => Ok(Who::Member(member)),
            Login::Wrong => Err(TurnedAway::User),
            Login::Busy => Err(TurnedAway::Busy),
        }
    }

    /// Serves one connection until it ends.
    async fn serve(self: Arc<Self>, mut visitor: Visitor) {
        let who = match self.who(&visitor.connect, visitor.address.ip()).await {
            Ok(who) => who,
            Err(why) => return visitor.turn_away(why).await,
        };
        let (daemon, member) = match who {
            Who::Daemon => (true, None),
            Who::Local => (false, None),
            Who::Member(member) => (false, Some(member)),
        };
        let nameless = visitor.connect.client_id.is_empty();
        if let Some(member) = &member {
            own_identifier(&member.name, &mut visitor.connect, &mut visitor.body);
            let besides = self
                .sessions()
                .connected_besides(&visitor.connect.client_id);
            if besides >= CLIENTS_OF_ONE {
                return visitor.turn_away(TurnedAway::Many).await;
            }
        }
        let place = if daemon {
            None
        } else if let Ok(place) = self.clients.try_acquire() {
            Some(place)
        } else {
            return visitor.turn_away(TurnedAway::Full).await;
        };
        let config = if daemon {
            &self.for_daemon
        } else if nameless {
            &self.for_nameless
        } else {
            &self.for_clients
        };
        let (Some(shutdown), Ok((ours, theirs))) = (self.shutdown.upgrade(), pair()) else {
            return visitor.turn_away(TurnedAway::Full).await;
        };
        let session = self.arrives(&visitor.connect).await;
        let handler = ClientHandler::new(
            BrokerTransport::tcp(theirs),
            visitor.address,
            Arc::clone(config),
            Arc::clone(&self.router),
            Arc::clone(&self.guard) as Arc<dyn AuthProvider>,
            Some(Arc::clone(&self.storage)),
            Arc::clone(&self.stats),
            Arc::clone(&self.monitor),
            shutdown.subscribe(),
        );
        drop(shutdown);
        let relay = Relay {
            level: visitor.connect.level,
            payload_max: if daemon { PACKET_MAX } else { self.payload_max },
            places: (!daemon).then_some((&self.large, LARGE_WITHIN)),
            unreleased: Mutex::default(),
        };
        if relay.level < LEVEL_5 {
            lower_will(&mut visitor.body);
        }
        let mut connect = Vec::new();
        FixedHeader {
            first: CONNECT,
            len: visitor.body.len(),
        }
        .write(&mut connect);
        connect.extend(visitor.body);
        // boxed, because it is large
        let mut handler = Box::pin(handler.run());
        let ended = {
            let client = (visitor.from, visitor.to);
            let expelled = self.expelled(member.as_ref());
            let mut relayed = pin!(relay.run(&connect, client, ours.into_split(), expelled));
            tokio::select! {
                ended = &mut handler => {
                    // whether or not the client still reads
                    let _ = timeout(GOODBYE, relayed.as_mut()).await;
                    Some(ended)
                }
                _ = &mut relayed => None,
            }
        };
        // the client is gone; the crate still has to send the will and keep the session
        let ended = match ended {
            Some(ended) => ended,
            None => handler.await,
        };
        if let Err(error) = ended {
            tracing::debug!("the embedded broker: {error}");
        }
        drop((session, place));
        if let (Some(logins), Some(member)) = (&self.logins, &member)
            && logins.is_gone(member)
        {
            self.forget_user(&member.name).await;
        }
    }

    /// Waits until a further user is none any more, or has another password. For others it never ends.
    async fn expelled(&self, member: Option<&Member>) {
        match (&self.logins, member) {
            (Some(logins), Some(member)) => logins.expelled(member).await,
            _ => std::future::pending().await,
        }
    }

    /// Counts the session in, and forgets another one if there are too many.
    async fn arrives(&self, connect: &Connect) -> Present<'_> {
        let id = connect.client_id.clone();
        let keeps = connect.keeps && !id.is_empty();
        let forgotten = self.sessions().arrive(&id, keeps, now());
        let present = Present { broker: self, id };
        if let Some(id) = forgotten {
            self.forget(&id).await;
        }
        present
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the sessions of a further user that are away.
    async fn forget_user(&self, name: &str) {
        let away = self.sessions().forget_user(name);
        for id in away {
            self.forget(&id).await;
        }
    }

    /// Forgets the session of a client that is away: its subscriptions and its queue.
    async fn forget(&self, id: &str) {
        let _slot = self.router.lock_session(id).await;
        if self.router.is_connected(id).await {
            return;
        }
        tracing::debug!("the embedded broker forgets the session of `{id}`, which is away");
        self.router.unregister_client(id).await;
        self.router.queue_handle(id).clear(None);
        let removed = self.storage.remove_session(id).await;
        if let Err(error) = removed.and(self.storage.remove_all_inflight_messages(id).await) {
            tracing::warn!("the embedded broker: {error}");
        }
    }
}

/// A client counts as connected as long as this lives.
struct Present<'a> {
    broker: &'a Broker,
    id: String,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.broker.sessions().leave(&self.id, now());
    }
}

/// The clock of tokio, which tests can stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Makes a pair of connected sockets, one for us and one for the crate. The crate takes nothing but a TCP stream; it
/// only reads, writes and closes it, which works the same on every socket.
fn pair() -> io::Result<(UnixStream, TcpStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let theirs = std::net::TcpStream::from(OwnedFd::from(theirs));
    Ok((UnixStream::from_std(ours)?, TcpStream::from_std(theirs)?))
}

impl AuthProvider for Guard {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::error::Result<AuthResult>> + Send + 'a>> {
        // unknown users did not come this far
        let result = match &connect.username {
            Some(name) => AuthResult::success_with_user(name.clone()),
            None => AuthResult::fail(ReasonCode::BadUsernameOrPassword),
        };
        Box::pin(std::future::ready(Ok(result)))
    }

    fn authorize_publish<'a>(
        &'a self,
        client_id: &str,
        user: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(self.may(client_id, user, topic, true)))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        client_id: &str,
        user: Option<&'a str>,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(self.may(client_id, user, filter, false)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
