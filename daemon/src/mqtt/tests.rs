#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The link against the embedded broker, on loopback and port 0. The same against Mosquitto is in the tests package.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::broker::{self, Embedded, Users};
use super::*;
use crate::config::BrokerAddress;

const PAYLOAD_MAX: usize = 1000;
/// For what must come; a machine may be slow.
const SOON: Duration = Duration::from_secs(120);

mod fake;
mod faults;
mod groups;
mod networks;

fn users() -> Users {
    let credentials = |username: &str| Credentials {
        username: username.to_owned(),
        password: format!("{username}-secret"),
    };
    Users {
        shared: Vec::new(),
        base: "glowplug".to_owned(),
        daemon: credentials("glowplug"),
        daemon_id: "glowplug-n".to_owned(),
        local: credentials("local"),
        local_may: crate::wire::topics::local_may,
        file: None,
        user_may: crate::wire::topics::user_may,
        outside_may: |_, _, _| false,
    }
}

async fn start(port: u16) -> Embedded {
    // a port that was just closed may be refused for a moment
    for _ in 0..50 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        match broker::start(address, None, users(), PAYLOAD_MAX).await {
            Ok(broker) => return broker,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("no broker")
}

fn options(broker: &Embedded, client_id: &str, user: &Credentials, filters: &[&str]) -> Options {
    Options {
        server: BrokerAddress {
            host: broker.address.ip().to_string(),
            port: broker.address.port(),
            tls: false,
        },
        tls: crate::config::Tls::default(),
        client_id: client_id.to_owned(),
        credentials: Some(user.clone()),
        will: None,
        subscriptions: filters
            .iter()
            .map(|f| ((*f).to_owned(), Qos::AtLeastOnce))
            .collect(),
        payload_max: PAYLOAD_MAX,
    }
}

async fn event(events: &mut Events) -> Event {
    timeout(SOON, events.recv())
        .await
        .expect("an event in time")
        .expect("a living link")
}

async fn up(events: &mut Events) {
    loop {
        match event(events).await {
            Event::Up { .. } => return,
            Event::Down { refused: false, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A link whose connection stands.
async fn connected(
    broker: &Embedded,
    client_id: &str,
    user: &Credentials,
    filters: &[&str],
) -> (Link, Events) {
    let (link, mut events) = connect(options(broker, client_id, user, filters));
    up(&mut events).await;
    (link, events)
}

async fn message(link: &Link, events: &mut Events) -> Incoming {
    loop {
        if let Event::Incoming(mut incoming) = event(events).await {
            if let Some(ack) = incoming.ack.take() {
                link.ack(ack).unwrap();
            }
            return incoming;
        }
    }
}

async fn refused(events: &mut Events) {
    match event(events).await {
        Event::Down { refused: true, .. } => {}
        other => panic!("{other:?}"),
    }
}

fn qos1(topic: &str, payload: impl Into<Bytes>) -> Publication {
    Publication::new(topic, payload, Qos::AtLeastOnce)
}

fn out(message: Publication) -> Outgoing {
    Outgoing::new(Lane::Last, message)
}

#[tokio::test]
async fn a_message_goes_through_with_its_properties_and_back() {
    let broker = start(0).await;
    let u = users();
    let (daemon, mut at_daemon) = connected(
        &broker,
        "glowplug-n",
        &u.daemon,
        &["glowplug/n/chat/+/request"],
    )
    .await;
    let (client, mut at_client) =
        connected(&broker, "me", &u.local, &["glowplug/+/chat/me/reply"]).await;
    let mut request = qos1("glowplug/n/chat/me/request", "hi");
    request.properties.correlation_data = Some(Bytes::from_static(&[0, 255]));
    request.properties.response_topic = Some("glowplug/n/chat/me/reply".to_owned());
    request.properties.expiry_s = Some(30);
    client.publish(out(request.clone())).unwrap();
    let got = message(&daemon, &mut at_daemon).await;
    assert_eq!(got.message.payload, request.payload);
    assert_eq!(
        got.message.properties.correlation_data,
        request.properties.correlation_data
    );
    assert_eq!(
        got.message.properties.response_topic,
        request.properties.response_topic
    );
    assert!(got.message.properties.expiry_s.is_some_and(|s| s <= 30));
    assert!(!got.message.retain && got.oversize.is_none());
    let mut reply = qos1("glowplug/n/chat/me/reply", "ho");
    reply.properties.content_type = Some("application/json".to_owned());
    reply.properties.utf8 = true;
    daemon.publish(out(reply)).unwrap();
    let got = message(&client, &mut at_client).await;
    assert_eq!(got.message.payload, "ho");
    assert!(got.message.properties.utf8);
    assert_eq!(
        got.message.properties.content_type.as_deref(),
        Some("application/json")
    );
    client.close(SOON).await;
    daemon.close(SOON).await;
}

#[tokio::test]
async fn users_and_topics_are_guarded() {
    let broker = start(0).await;
    let u = users();
    let wrong = Credentials {
        username: "local".to_owned(),
        password: "local-secreT".to_owned(),
    };
    let (_l, mut events) = connect(options(&broker, "me", &wrong, &[]));
    refused(&mut events).await;
    let mut nobody = options(&broker, "me", &wrong, &[]);
    nobody.credentials = None;
    let (_l, mut events) = connect(nobody);
    refused(&mut events).await;
    // the daemon's identifier belongs to the daemon
    let (_l, mut events) = connect(options(&broker, "glowplug-n", &u.local, &[]));
    refused(&mut events).await;
    for filter in [
        "glowplug/#",
        "#",
        "glowplug/n/chat/other/reply",
        "glowplug/+/chat/+/reply",
        "elsewhere",
    ] {
        let (_l, mut events) = connect(options(&broker, "me", &u.local, &[filter]));
        match event(&mut events).await {
            Event::Unsubscribed { filter: which, .. } => assert_eq!(which, filter),
            other => panic!("{other:?}"),
        }
        up(&mut events).await;
    }
    // a publish that is not allowed reaches nobody
    let (daemon, mut at_daemon) =
        connected(&broker, "glowplug-n", &u.daemon, &["glowplug/#"]).await;
    let (client, _at_client) = connected(&broker, "me", &u.local, &[]).await;
    client
        .publish(out(qos1("glowplug/n/chat/other/request", "no")))
        .unwrap();
    client
        .publish(out(qos1("glowplug/n/status", "no")))
        .unwrap();
    client
        .publish(out(qos1("glowplug/n/chat/me/request", "yes")))
        .unwrap();
    assert_eq!(
        message(&daemon, &mut at_daemon).await.message.payload,
        "yes"
    );
}

/// A daemon whose model does not load stops before its connection stands.
#[tokio::test]
async fn what_is_queued_is_sent_although_nobody_listens_any_more() {
    let broker = start(0).await;
    let u = users();
    let (client, mut at_client) = connected(&broker, "me", &u.local, &["glowplug/n/status"]).await;
    let (daemon, events) = connect(options(&broker, "glowplug-n", &u.daemon, &[]));
    drop(events);
    daemon
        .publish(out(qos1("glowplug/n/status", "offline")))
        .unwrap();
    daemon.close(SOON).await;
    let got = message(&client, &mut at_client).await;
    assert_eq!(got.message.payload, "offline");
}

#[tokio::test]
async fn a_payload_above_the_limit_arrives_as_its_length() {
    let broker = start(0).await;
    let u = users();
    let (daemon, mut at_daemon) =
        connected(&broker, "glowplug-n", &u.daemon, &["glowplug/n/ask/+"]).await;
    let (client, _at_client) = connected(&broker, "me", &u.local, &[]).await;
    for (bytes, oversize) in [
        (PAYLOAD_MAX, false),
        (PAYLOAD_MAX + 1, true),
        (10 << 20, true),
        (3, false),
    ] {
        client
            .publish(out(qos1("glowplug/n/ask/me", vec![b'x'; bytes])))
            .unwrap();
        let got = message(&daemon, &mut at_daemon).await;
        // the embedded broker throws the end of a long one away
        assert!(got.oversize.is_none_or(|n| n > PAYLOAD_MAX && n <= bytes));
        assert_eq!(got.oversize.is_some(), oversize);
        assert_eq!(got.message.payload.len(), if oversize { 0 } else { bytes });
    }
}

#[tokio::test]
async fn a_retained_message_shows_that_it_is() {
    let broker = start(0).await;
    let u = users();
    let (daemon, mut at_daemon) =
        connected(&broker, "glowplug-n", &u.daemon, &["glowplug/n/ask/+"]).await;
    let (client, _at_client) = connected(&broker, "me", &u.local, &[]).await;
    let mut poison = qos1("glowplug/n/ask/me", "again and again");
    poison.retain = true;
    client.publish(out(poison)).unwrap();
    assert!(message(&daemon, &mut at_daemon).await.message.retain);
}

#[tokio::test]
async fn nothing_is_lost_when_the_broker_restarts() {
    let first = start(0).await;
    let port = first.address.port();
    let u = users();
    let (daemon, mut at_daemon) =
        connected(&first, "glowplug-n", &u.daemon, &["glowplug/n/ask/+"]).await;
    drop(first);
    assert!(matches!(
        event(&mut at_daemon).await,
        Event::Down { refused: false, .. }
    ));
    // published while nobody listens; retained, since it may be sent before the client below has subscribed
    let topics: Vec<String> = (0..100)
        .map(|i| format!("glowplug/n/chat/me/{i}"))
        .collect();
    for topic in &topics {
        let mut kept = qos1(topic, "kept");
        kept.retain = true;
        daemon.publish(out(kept)).unwrap();
    }
    let second = start(port).await;
    up(&mut at_daemon).await;
    let (client, mut at_client) =
        connect(options(&second, "me", &u.local, &["glowplug/+/chat/me/#"]));
    let mut got = std::collections::BTreeSet::new();
    while got.len() < topics.len() {
        got.insert(message(&client, &mut at_client).await.message.topic);
    }
    assert_eq!(got, topics.into_iter().collect());
}

#[tokio::test]
async fn messages_keep_their_order() {
    let broker = start(0).await;
    let u = users();
    let (daemon, _at_daemon) = connected(&broker, "glowplug-n", &u.daemon, &[]).await;
    let (client, mut at_client) =
        connected(&broker, "me", &u.local, &["glowplug/+/chat/me/reply"]).await;
    for i in 0..300 {
        daemon
            .publish(out(qos1("glowplug/n/chat/me/reply", i.to_string())))
            .unwrap();
    }
    for i in 0..300 {
        assert_eq!(
            message(&client, &mut at_client).await.message.payload,
            i.to_string()
        );
    }
}

/// Between a client and a broker, to be cut.
async fn cable(to: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cable = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    (address, cable)
}

#[tokio::test]
async fn the_will_speaks_for_a_lost_daemon_and_is_silent_after_a_goodbye() {
    let broker = start(0).await;
    let u = users();
    let (watch, mut at_watch) = connected(&broker, "me", &u.local, &["glowplug/+/status"]).await;
    let mut with_will = options(&broker, "glowplug-n", &u.daemon, &[]);
    with_will.will = Some(qos1("glowplug/n/status", "polite is lost"));
    let (polite, mut events) = connect(with_will.clone());
    up(&mut events).await;
    polite
        .publish(out(qos1("glowplug/n/status", "bye")))
        .unwrap();
    polite.close(SOON).await;
    assert_eq!(message(&watch, &mut at_watch).await.message.payload, "bye");
    let (address, cable) = cable(broker.address).await;
    with_will.server.port = address.port();
    with_will.will = Some(qos1("glowplug/n/status", "rude is lost"));
    let (rude, mut events) = connect(with_will);
    up(&mut events).await;
    rude.publish(out(qos1("glowplug/n/status", "hello")))
        .unwrap();
    // a will of the polite one would have come before
    assert_eq!(
        message(&watch, &mut at_watch).await.message.payload,
        "hello"
    );
    cable.abort();
    assert_eq!(
        message(&watch, &mut at_watch).await.message.payload,
        "rude is lost"
    );
}

/// A link whose sending task is the test's own.
fn link() -> (Link, tokio::sync::mpsc::Receiver<Goodbye>) {
    let (commands, goodbyes) = tokio::sync::mpsc::channel(2);
    let link = Link {
        outbox: Arc::default(),
        acks: tokio::sync::mpsc::channel(1).0,
        wishes: tokio::sync::mpsc::channel(1).0,
        commands,
    };
    for i in 0..20 {
        link.publish(out(qos1("glowplug/n/status/last", i.to_string())))
            .unwrap();
    }
    (link, goodbyes)
}

#[tokio::test]
async fn a_goodbye_says_how_much_never_reached_the_broker() {
    let (well, mut goodbyes) = link();
    let outbox = well.outbox.clone();
    let sender = tokio::spawn(async move {
        let Some(Goodbye::Close(done)) = goodbyes.recv().await else {
            panic!("no goodbye")
        };
        while let Some(sent) = outbox.pop() {
            outbox.release(&sent);
        }
        done.send(()).unwrap();
    });
    assert_eq!(well.close(SOON).await, 0);
    sender.await.unwrap();

    let (dead, _goodbyes) = link();
    assert_eq!(dead.close(Duration::from_millis(1)).await, 20);
}
