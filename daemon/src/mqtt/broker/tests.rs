use super::framing::{CONNACK, PUBACK, PUBLISH};
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

fn users() -> Users {
    let of = |name: &str| Credentials {
        username: name.to_owned(),
        password: name.to_owned(),
    };
    Users {
        shared: Vec::new(),
        base: "glowplug".to_owned(),
        daemon: of("daemon"),
        daemon_id: "d".to_owned(),
        local: of("local"),
        local_may: crate::wire::topics::local_may,
        outside_may: |_, _, _| false,
    }
}

async fn here(address: SocketAddr) -> Result<Embedded, BrokerError> {
    start(address, None, users(), 1000).await
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_both_ways_out() {
    let first = here(([127, 0, 0, 1], 0).into()).await.unwrap();
    let error = here(first.address).await.unwrap_err().to_string();
    for word in [
        first.address.to_string().as_str(),
        "taken",
        "`mqtt.url`",
        "`broker.listen`",
    ] {
        assert!(error.contains(word), "{error}");
    }
    let error = here(([192, 0, 2, 1], 1883).into()).await.unwrap_err();
    assert!(error.to_string().contains("`broker.listen`"), "{error}");
}

#[tokio::test]
async fn its_end_is_told() {
    let mut broker = here(([127, 0, 0, 1], 0).into()).await.unwrap();
    broker.task.abort();
    assert!(
        broker
            .ended()
            .await
            .starts_with("the embedded broker ended")
    );
}

/// A client of 3.1.1 in its bytes.
struct Raw(BufReader<TcpStream>);

impl Raw {
    /// With the flags of CONNECT; gives those of CONNACK and its code.
    async fn connect(to: &Embedded, user: &str, id: &str, flags: u8) -> (Self, [u8; 2]) {
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.extend([flags, 0, 60]);
        for field in [id, user, user] {
            body.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
            body.extend(field.as_bytes());
        }
        let stream = TcpStream::connect(to.address).await.unwrap();
        let mut raw = Self(BufReader::new(stream));
        raw.send(CONNECT, &body).await;
        let (first, said) = raw.packet().await;
        assert_eq!(first, CONNACK);
        (raw, said.try_into().unwrap())
    }

    async fn send(&mut self, first: u8, body: &[u8]) {
        let mut packet = Vec::new();
        FixedHeader {
            first,
            len: body.len(),
        }
        .write(&mut packet);
        packet.extend(body);
        self.0.get_mut().write_all(&packet).await.unwrap();
    }

    async fn packet(&mut self) -> (u8, Vec<u8>) {
        let header = FixedHeader::read(&mut self.0).await.unwrap().unwrap();
        let mut body = vec![0; header.len];
        self.0.read_exact(&mut body).await.unwrap();
        (header.first, body)
    }
}

/// Flags of CONNECT: user and password, and what is kept of the session.
const CLEAN: u8 = 0xc2;
const KEPT: u8 = 0xc0;

#[tokio::test]
async fn one_client_too_many_is_told_and_the_daemon_has_its_place() {
    let broker = here(([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut clients = Vec::new();
    for n in 0..CLIENTS_MAX {
        let (client, said) = Raw::connect(&broker, "local", &n.to_string(), CLEAN).await;
        assert_eq!(said, [0, 0]);
        clients.push(client);
    }
    let (_, said) = Raw::connect(&broker, "local", "more", CLEAN).await;
    assert_eq!(said, [0, 3], "server unavailable");
    let (_daemon, said) = Raw::connect(&broker, "daemon", "d", CLEAN).await;
    assert_eq!(said, [0, 0]);
    // nobody has its place by its name
    let (_, said) = Raw::connect(&broker, "daemon", "x", CLEAN).await;
    assert_eq!(said, [0, 4], "bad user name or password");
    // who leaves makes room, as soon as it is seen
    clients.pop();
    while Raw::connect(&broker, "local", "more", CLEAN).await.1 != [0, 0] {}
}

#[tokio::test]
async fn a_session_too_many_costs_the_one_that_is_away_longest() {
    let broker = here(([127, 0, 0, 1], 0).into()).await.unwrap();
    let present = async |id: &str| Raw::connect(&broker, "local", id, KEPT).await.1;
    assert_eq!(present("first").await, [0, 0]);
    assert_eq!(present("first").await, [1, 0], "its session is there");
    for n in 0..SESSIONS_MAX {
        assert_eq!(present(&n.to_string()).await, [0, 0]);
    }
    assert_eq!(present(&(SESSIONS_MAX - 1).to_string()).await, [1, 0]);
    assert_eq!(present("first").await, [0, 0], "it was forgotten");
}

#[tokio::test]
async fn what_waits_for_a_client_is_bounded_in_bytes_and_the_newest_is_kept() {
    let broker = here(([127, 0, 0, 1], 0).into()).await.unwrap();
    let topic = b"\0\x18glowplug/n/chat/me/reply";
    let (mut away, _) = Raw::connect(&broker, "local", "me", KEPT).await;
    let mut subscribe = vec![0, 1];
    subscribe.extend(topic);
    subscribe.push(1);
    away.send(0x82, &subscribe).await;
    assert_eq!(away.packet().await, (0x90, vec![0, 1, 1]));
    away.send(0xe0, &[]).await;
    // closed by the broker: it has left
    assert_eq!(FixedHeader::read(&mut away.0).await.unwrap(), None);
    let (mut writer, _) = Raw::connect(&broker, "local", "me:2", CLEAN).await;
    let most = u16::try_from(2 * QUEUE_MAX.1 / 1000).unwrap();
    for n in 1..=most {
        let mut publish = topic.to_vec();
        publish.extend(n.to_be_bytes());
        publish.extend(n.to_be_bytes());
        publish.extend([b'x'; 900]);
        writer.send(PUBLISH | 0x02, &publish).await;
        assert_eq!(writer.packet().await, (PUBACK, n.to_be_bytes().into()));
    }
    let (mut back, said) = Raw::connect(&broker, "local", "me", KEPT).await;
    assert_eq!(said, [1, 0]);
    let (mut bytes, mut last) = (0, None);
    while last != Some(most) {
        let (first, body) = back.packet().await;
        assert_eq!(first & 0xf6, PUBLISH | 0x02);
        let at = topic.len();
        back.send(PUBACK, &body[at..at + 2]).await;
        let n = u16::from_be_bytes([body[at + 2], body[at + 3]]);
        assert!(last.is_none_or(|before| before + 1 == n), "{last:?} {n}");
        bytes += body.len();
        last = Some(n);
    }
    assert!(bytes <= QUEUE_MAX.1 && bytes > QUEUE_MAX.1 / 2, "{bytes}");
}

#[test]
fn outside_of_the_base_topic_only_what_tools_use_is_anybodys() {
    let users = Users {
        shared: vec!["house/+/set".to_owned(), "house/#".to_owned()],
        ..users()
    };
    let guard = Guard(users);
    for (user, topic, publish, ok) in [
        ("daemon", "house/hall/set", true, true),
        ("daemon", "house/hall", false, true),
        ("local", "house/+/set", false, true),
        ("local", "house/hall", true, true),
        ("local", "#", false, false),
        ("local", "other", true, false),
        ("daemon", "other", true, false),
        ("local", "glowplug/n/tool/0123", true, true),
        ("local", "glowplug/n/tool/+", false, false),
        ("local", "glowplug/n/tool/audit", false, true),
        ("local", "glowplug/n/tool/audit", true, false),
    ] {
        assert_eq!(
            guard.may("me", Some(user), topic, publish),
            ok,
            "{user} {topic} {publish}"
        );
    }
}
