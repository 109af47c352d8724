//! Networks that are not there yet, that change, or that go without a word.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::time_provider::TimeProvider;

use super::dial::{Outside, Way};
use super::fake::{Do, Fake, Got};
use super::sender::connect_in;
use super::*;
use crate::config::{Identity, ListenerTls};

async fn down(events: &mut Events) -> String {
    match event(events).await {
        Event::Down { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// The user's link to `broker.lan`, which is at the addresses that `lookup` finds.
fn named(
    lookup: impl Fn() -> std::io::Result<SocketAddr> + Send + Sync + 'static,
) -> (Link, Events) {
    let server = BrokerAddress {
        host: "broker.lan".to_owned(),
        port: 1883,
        tls: false,
    };
    let lookup = move |_: &str, _| Ok(vec![lookup()?]);
    let outside = Outside {
        way: Arc::new(Way::new(&server, Arc::new(lookup))),
        ..Outside::real(&server)
    };
    let options = Options {
        server,
        tls: crate::config::Tls::default(),
        client_id: "me".to_owned(),
        credentials: Some(users().local),
        will: None,
        subscriptions: Vec::new(),
        payload_max: PAYLOAD_MAX,
    };
    connect_in(outside, options)
}

#[tokio::test]
async fn a_name_that_nobody_knows_at_boot_is_asked_for_until_it_is_known() {
    let broker = start(0).await;
    let (address, asked) = (broker.address, AtomicU64::new(0));
    let (_link, mut events) = named(move || match asked.fetch_add(1, Ordering::Relaxed) {
        0..3 => Err(std::io::Error::other("no network")),
        _ => Ok(address),
    });
    for _ in 0..3 {
        assert_eq!(
            down(&mut events).await,
            "the name `broker.lan` cannot be resolved: no network"
        );
    }
    up(&mut events).await;
}

#[tokio::test]
async fn a_broker_that_moves_is_found_at_its_new_address() {
    let here = start(0).await;
    let there = start(0).await;
    let at = Arc::new(Mutex::new(here.address));
    let known = at.clone();
    let (_link, mut events) = named(move || Ok(*known.lock().unwrap()));
    up(&mut events).await;
    *at.lock().unwrap() = there.address;
    drop(here);
    down(&mut events).await;
    up(&mut events).await;
}

/// Needs a loopback of IPv6, as every Linux has that was not told otherwise.
#[tokio::test]
async fn an_address_of_ipv6_is_one_like_any_other() {
    let loopback = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let broker = broker::start(loopback, None, users(), PAYLOAD_MAX).await;
    let broker = broker.expect("a loopback of IPv6");
    let options = options(&broker, "me", &users().local, &["glowplug/+/status"]);
    assert_eq!(options.server.host, "::1");
    let (_link, mut events) = connect(options);
    up(&mut events).await;
}

/// A link that looks for its broker every second, through a cable that can go silent.
async fn watched(fake: &Fake) -> (Link, Events, tokio::sync::oneshot::Sender<()>) {
    let (address, silence) = silent_cable(fake.address).await;
    let mut options = fake.options(&[]);
    options.server.port = address.port();
    let outside = Outside {
        keep_alive_s: 1,
        ..Outside::real(&options.server)
    };
    let (link, mut events) = connect_in(outside, options);
    up(&mut events).await;
    (link, events, silence)
}

/// A cable that swallows everything once it is told to, and stays in its sockets.
async fn silent_cable(to: SocketAddr) -> (SocketAddr, tokio::sync::oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (silence, mut told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = &mut told => std::future::pending().await,
        }
    });
    (address, silence)
}

/// Publishes as metrics are, for ever.
async fn publish_metrics(link: &Link) -> Event {
    loop {
        let metrics = Publication::new("metrics", "{}", Qos::AtMostOnce);
        link.publish(Outgoing::new(Lane::State, metrics)).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing is said on the connection; or publications that nobody has to acknowledge are, so that the client crate does not
/// ping; or nothing is even read, and the socket fills, so that the client crate hangs in a write.
#[tokio::test]
async fn half_open_connections_are_found() {
    let fake = Fake::start(vec![], |_| Do::Well).await;
    let (_link, mut events, silence) = watched(&fake).await;
    silence.send(()).unwrap();
    assert_eq!(down(&mut events).await, "the broker was silent for 1 s");

    let fake = Fake::start(vec![], |_| Do::Well).await;
    let (link, mut events, silence) = watched(&fake).await;
    silence.send(()).unwrap();
    let found = tokio::select! {
        event = event(&mut events) => event,
        event = publish_metrics(&link) => event,
    };
    assert!(matches!(found, Event::Down { .. }), "{found:?}");

    let fake = Fake::start(vec![], |_| Do::Well).await;
    let (link, mut events, silence) = watched(&fake).await;
    silence.send(()).unwrap();
    for _ in 0..4 {
        link.publish(out(qos1("x", vec![b'x'; 4 << 20]))).unwrap();
    }
    down(&mut events).await;
}

#[tokio::test]
async fn a_broker_that_has_nothing_to_say_is_asked_whether_it_is_there() {
    let fake = Fake::start(vec![], |_| Do::Well).await;
    let (link, _events, _silence) = watched(&fake).await;
    tokio::select! {
        () = fake.until(|f| f.count(|g| matches!(g, Got::Unsubscribe(_))) == 3) => {}
        event = publish_metrics(&link) => panic!("{event:?}"),
    }
}

/// A clock of seconds since 1970 that stands still until it is set.
#[derive(Debug, Default)]
struct BoardClock(AtomicU64);

impl TimeProvider for BoardClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = Duration::from_secs(self.0.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(seconds))
    }
}

#[tokio::test]
async fn a_board_whose_clock_is_wrong_at_boot_waits_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    own.not_before = date_time_ymd(2026, 11, 29);
    let key = KeyPair::generate().unwrap();
    let certificate = own.signed_by(&key, &authority).unwrap();
    let listener = ListenerTls {
        identity: Identity {
            cert_file: write("cert.pem", certificate.pem()),
            key_file: write("key.pem", key.serialize_pem()),
        },
        ca_file: None,
    };
    let port = SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = broker::start(port, Some(&listener), users(), PAYLOAD_MAX).await;
    let broker = broker.unwrap();
    let mut options = options(&broker, "me", &users().local, &[]);
    options.server.tls = true;
    options.tls.ca_file = Some(write("ca.pem", authority.pem()));

    let clock = Arc::new(BoardClock::default());
    let outside = Outside {
        clock: clock.clone(),
        ..Outside::real(&options.server)
    };
    let (_link, mut events) = connect_in(outside, options);
    for _ in 0..3 {
        assert_eq!(
            down(&mut events).await,
            "the broker's certificate is valid from 2026-11-29 00:00 UTC on, and the clock of this board says 1970-01-01: \
             set the clock"
        );
    }
    clock.0.store(1_800_000_000, Ordering::Relaxed);
    up(&mut events).await;
}
