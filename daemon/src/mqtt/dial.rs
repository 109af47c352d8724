//! The way to a broker: the addresses of its host, a TCP connection to the first of them that answers, and what it may
//! mean that the broker ends it before it has said a word.
//!
//! Each attempt asks for the addresses again, because a broker may move, and because at boot there may be nobody to ask.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::tls::Clock;
use crate::config::{BrokerAddress, Tls};

/// Seconds after which a broker that hears nothing else is pinged. What translates addresses on the way forgets idle connections
/// after four minutes at the soonest, so this is for the broker: it publishes our last will after one and a half of these.
const KEEP_ALIVE_S: u16 = 10;
/// How long an attempt waits for the addresses of a host.
const LOOKUP: Duration = Duration::from_secs(5);
/// How long it then waits for one of them to answer.
const DIAL: Duration = Duration::from_secs(5);
/// How long the addresses that are tried already may be silent before the next one is tried beside them: RFC 8305 has this
/// time. One that swallows everything, as IPv6 does in half-made networks, must not keep us from the others.
const NEXT: Duration = Duration::from_millis(250);
/// Most addresses of a host that one attempt tries.
const ADDRESSES_MAX: usize = 8;

type Addresses = io::Result<Vec<SocketAddr>>;

/// Finds the addresses of a host with this port. It may take as long as it likes: it has a thread to itself.
pub(super) type Lookup = Arc<dyn Fn(&str, u16) -> Addresses + Send + Sync>;

/// The lookup of this system.
fn system(host: &str, port: u16) -> Addresses {
    Ok((host, port).to_socket_addrs()?.collect())
}

/// The world as a link meets it. Tests have others.
pub(super) struct Outside {
    pub(super) way: Arc<Way>,
    /// What certificates are valid by.
    pub(super) clock: Clock,
    pub(super) keep_alive_s: u16,
}

impl Outside {
    /// The one that there is, with this broker in it.
    pub(super) fn real(server: &BrokerAddress) -> Self {
        Self {
            way: Arc::new(Way::new(server, Arc::new(system))),
            clock: super::tls::clock(),
            keep_alive_s: KEEP_ALIVE_S,
        }
    }
}

/// The way to one broker.
pub(super) struct Way {
    host: String,
    port: u16,
    lookup: Lookup,
    /// What an earlier attempt asked and did not wait for. A resolver that needs longer than an attempt lasts is heard by a later
    /// one, and never has more than one thread.
    asked: Mutex<Option<oneshot::Receiver<Addresses>>>,
}

impl Way {
    pub(super) fn new(server: &BrokerAddress, lookup: Lookup) -> Self {
        Self {
            host: server.host.clone(),
            port: server.port,
            lookup,
            asked: Mutex::default(),
        }
    }

    /// Connects to the first address that answers. An error's text is the same at every try that fails alike.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let literal = self.host.parse::<IpAddr>();
        let addresses = match literal {
            Ok(ip) => vec![SocketAddr::new(ip, self.port)],
            Err(_) => self.addresses(LOOKUP).await?,
        };
        let connected = first(addresses, DIAL, TcpStream::connect).await;
        let stream = connected.map_err(|mut failed| {
            failed.sort_by_key(|(address, _)| *address);
            let each = failed.into_iter().map(|(address, error)| match literal {
                Ok(_) => error.to_string(),
                Err(_) => format!("{address}: {error}"),
            });
            io::Error::other(each.collect::<Vec<_>>().join("; "))
        })?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn addresses(&self, limit: Duration) -> Addresses {
        let host = &self.host;
        let pending = self.asked().take();
        let mut answer = pending.map_or_else(|| self.ask(), Ok)?;
        match timeout(limit, &mut answer).await {
            Ok(Ok(Ok(found))) if found.is_empty() => Err(io::Error::other(format!(
                "the name `{host}` has no address"
            ))),
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(error))) => Err(io::Error::other(format!(
                "the name `{host}` cannot be resolved: {error}"
            ))),
            Ok(Err(_)) => Err(io::Error::other("the resolver broke down")),
            Err(_) => {
                *self.asked() = Some(answer);
                Err(io::Error::other(format!(
                    "the resolver does not say what address `{host}` has"
                )))
            }
        }
    }

    /// Asks in a thread of its own. Tokio's would be waited for when the daemon ends.
    fn ask(&self) -> io::Result<oneshot::Receiver<Addresses>> {
        let (told, answer) = oneshot::channel();
        let (lookup, host, port) = (self.lookup.clone(), self.host.clone(), self.port);
        std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                // if nobody waits any more, the link has ended
                let _ = told.send(lookup(&host, port));
            })?;
        Ok(answer)
    }

    fn asked(&self) -> MutexGuard<'_, Option<oneshot::Receiver<Addresses>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the addresses one after another, the next one when those before it have failed or said nothing for [`NEXT`], and
/// gives the first that succeeds. An error has what each of them failed with.
async fn first<T, F>(
    addresses: Vec<SocketAddr>,
    limit: Duration,
    open: impl Fn(SocketAddr) -> F,
) -> Result<T, Vec<(SocketAddr, io::Error)>>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = alternating(addresses).into_iter();
    let mut failed = Vec::new();
    let mut tried = JoinSet::new();
    let mut next = Instant::now();
    let until = next + limit;
    loop {
        tokio::select! {
            biased;
            Some(ended) = tried.join_next() => match ended {
                Ok((_, Ok(opened))) => return Ok(opened),
                Ok((address, Err(error))) => {
                    failed.push((address, error));
                    next = Instant::now();
                }
                // none of them is stopped before the set is dropped
                Err(_) => {}
            },
            () = sleep_until(next), if waiting.len() > 0 => {
                next = Instant::now() + NEXT;
                if let Some(address) = waiting.next() {
                    let opening = open(address);
                    tried.spawn(async move {
                        let opened = timeout_at(until, opening).await;
                        (address, opened.unwrap_or_else(|_| Err(io::Error::other("no answer"))))
                    });
                }
            }
            else => return Err(failed),
        }
    }
}

/// The addresses in their order, but of both families in turn, and not more than an attempt tries.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut these, mut those) = (Vec::new(), Vec::new());
    for address in addresses {
        if address.is_ipv6() == six {
            these.push(address);
        } else {
            those.push(address);
        }
    }
    let longer = these.len().max(those.len());
    (0..longer)
        .flat_map(|n| [these.get(n), those.get(n)])
        .flatten()
        .copied()
        .take(ADDRESSES_MAX)
        .collect()
}

/// Why a broker may close a connection that it has accepted and said nothing on.
pub(super) fn hint(tls: Option<&Tls>) -> &'static str {
    match tls {
        None => {
            "a broker that speaks TLS on this port does that, and wants `mqtts://` in `mqtt.url`"
        }
        Some(tls) if tls.identity.is_none() => {
            "a broker that wants a certificate of its clients does that (`mqtt.cert_file` and `mqtt.key_file`)"
        }
        Some(_) => "a broker that does not take our certificate does that (`mqtt.cert_file`)",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENCE: Duration = Duration::from_secs(120);

    fn addresses(text: &str) -> Vec<SocketAddr> {
        text.split(' ').map(|one| one.parse().unwrap()).collect()
    }

    fn way(lookup: impl Fn(&str, u16) -> Addresses + Send + Sync + 'static) -> Way {
        let server = BrokerAddress {
            host: "broker.lan".to_owned(),
            port: 1883,
            tls: false,
        };
        Way::new(&server, Arc::new(lookup))
    }

    #[test]
    fn families_take_turns_and_there_is_an_end() {
        let mixed = addresses("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1");
        let turns = addresses("[::1]:1 1.1.1.1:1 [::2]:1 [::3]:1");
        assert_eq!(alternating(mixed), turns);
        let many = (1..=40).map(|n| SocketAddr::from(([10, 0, 0, n], 1883)));
        assert_eq!(alternating(many.collect()).len(), ADDRESSES_MAX);
        assert_eq!(alternating(Vec::new()), []);
    }

    #[tokio::test]
    async fn an_address_that_swallows_everything_keeps_nobody_from_the_next() {
        let open = |address: SocketAddr| async move {
            match address.port() {
                1 => std::future::pending().await,
                2 => Err(io::Error::other("refused")),
                port => Ok(port),
            }
        };
        let tried = addresses("[::1]:1 [::1]:2 [::1]:3 [::1]:1");
        assert_eq!(first(tried, PATIENCE, open).await.unwrap(), 3);
        let none = addresses("[::1]:1 [::1]:2");
        let failed = first(none, 2 * NEXT, open).await.unwrap_err();
        let mut said: Vec<String> = failed
            .iter()
            .map(|(address, error)| format!("{address}: {error}"))
            .collect();
        said.sort();
        assert_eq!(said, ["[::1]:1: no answer", "[::1]:2: refused"]);
        assert!(first(Vec::new(), PATIENCE, open).await.is_err());
    }

    /// The first nameserver of a list may be dead, and the resolver then takes as long as an attempt and longer.
    #[tokio::test]
    async fn a_slow_resolver_is_asked_once_and_heard_later() {
        let (release, held) = std::sync::mpsc::channel();
        let (held, asked) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        let way = way(move |_, port| {
            count.fetch_add(1, Ordering::Relaxed);
            held.lock().unwrap().recv().unwrap();
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))])
        });
        for _ in 0..3 {
            let late = way.addresses(Duration::from_millis(1)).await.unwrap_err();
            assert!(late.to_string().contains("`broker.lan`"), "{late}");
        }
        release.send(()).unwrap();
        assert_eq!(way.addresses(PATIENCE).await.unwrap().len(), 1);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // and for the next connection anew, because the broker may have moved
        release.send(()).unwrap();
        way.addresses(PATIENCE).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_fails_is_said_with_the_name() {
        let no = way(|_, _| Err(io::Error::other("nobody to ask")));
        let said = no.connect().await.unwrap_err().to_string();
        assert_eq!(
            said,
            "the name `broker.lan` cannot be resolved: nobody to ask"
        );
        let none = way(|_, _| Ok(Vec::new()));
        let said = none.connect().await.unwrap_err().to_string();
        assert_eq!(said, "the name `broker.lan` has no address");
        // of several the text has one order, whatever order the resolver has
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let both = way(move |_, _| {
            Ok([2, 1]
                .map(|n| SocketAddr::from(([127, 0, 0, n], port)))
                .to_vec())
        });
        let said = both.connect().await.unwrap_err().to_string();
        let (one, two) = said.split_once("; ").unwrap();
        assert!(one.starts_with("127.0.0.1:") && two.starts_with("127.0.0.2:"));
    }
}
