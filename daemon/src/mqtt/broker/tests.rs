use super::framing::{CONNACK, PUBACK, PUBLISH};
use super::*;
use crate::mqtt::Credentials;
use std::path::Path;
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
        file: None,
        user_may: crate::wire::topics::user_may,
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
        Self::login(to, (user, user), id, flags).await
    }

    async fn login(
        to: &Embedded,
        (user, password): (&str, &str),
        id: &str,
        flags: u8,
    ) -> (Self, [u8; 2]) {
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.extend([flags, 0, 60]);
        for field in [id, user, password] {
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

    /// Whether the broker lets it subscribe to a filter.
    async fn may_hear(&mut self, filter: &str) -> bool {
        let mut subscribe = vec![0, 1];
        subscribe.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
        subscribe.extend(filter.as_bytes());
        subscribe.push(1);
        self.send(0x82, &subscribe).await;
        let (first, said) = self.packet().await;
        assert_eq!((first, &said[..2]), (0x90, &[0, 1][..]));
        said[2] == 1
    }

    /// Whether it is still served.
    async fn is_served(&mut self) -> bool {
        self.send(0xc0, &[]).await;
        matches!(FixedHeader::read(&mut self.0).await, Ok(Some(header)) if header.first == 0xd0)
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

/// A hash of `correct horse`, which is cheap to check.
const HASH: &str = "$argon2id$v=19$m=16,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$klgEAbyJTdj963Jx07PEsZuI7ww9GF9BR1zf+VqqPc8";
const PASSWORD: &str = "correct horse";

/// Writes a file of users with that password.
fn write_users(folder: &Path, names: &[&str]) -> std::path::PathBuf {
    let path = folder.join("users");
    let lines: String = names
        .iter()
        .map(|name| format!("{name}:{HASH}\n"))
        .collect();
    std::fs::write(folder.join("new"), lines).unwrap();
    std::fs::rename(folder.join("new"), &path).unwrap();
    path
}

async fn with_users(folder: &Path, names: &[&str]) -> Embedded {
    let users = Users {
        file: Some(write_users(folder, names)),
        ..users()
    };
    let here = ([127, 0, 0, 1], 0).into();
    start(here, None, users, 1000).await.unwrap()
}

#[tokio::test]
async fn further_users_have_their_own_topics_and_sessions_whatever_their_clients_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let broker = with_users(folder.path(), &["kitchen", "hall"]).await;
    let login = async |user, id, flags| Raw::login(&broker, (user, PASSWORD), id, flags).await;
    let (mut kitchen, said) = login("kitchen", "same", KEPT).await;
    assert_eq!(said, [0, 0]);
    assert!(kitchen.may_hear("glowplug/n/chat/kitchen/reply").await);
    assert!(!kitchen.may_hear("glowplug/n/chat/hall/reply").await);
    assert!(!kitchen.may_hear("glowplug/n/admin/stats/response").await);
    assert!(kitchen.may_hear("glowplug/n/metrics").await);
    // the same identifier of others is another client, and has another session
    let (mut hall, said) = login("hall", "same", KEPT).await;
    assert_eq!(said, [0, 0]);
    let (mut local, said) = Raw::connect(&broker, "local", "same", KEPT).await;
    assert_eq!(said, [0, 0]);
    for client in [&mut kitchen, &mut hall, &mut local] {
        assert!(client.is_served().await);
    }
    assert_eq!(login("kitchen", "same", KEPT).await.1, [1, 0]);
    // one without an identifier, one with a long one, and nobody with that of another
    assert_eq!(login("kitchen", "", CLEAN).await.1, [0, 0]);
    assert_eq!(login("kitchen", &"i".repeat(200), CLEAN).await.1, [0, 0]);
    let taken = "kitchen\u{e000}same";
    assert_eq!(Raw::connect(&broker, "local", taken, KEPT).await.1, [0, 4]);
    for (user, password) in [("kitchen", "no"), ("garden", PASSWORD), ("local", PASSWORD)] {
        let (_, said) = Raw::login(&broker, (user, password), "x", CLEAN).await;
        assert_eq!(said, [0, 4], "{user}");
    }
}

#[tokio::test]
async fn one_user_has_no_more_connections_than_its_share() {
    let folder = tempfile::tempdir().unwrap();
    let broker = with_users(folder.path(), &["kitchen", "hall"]).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS_OF_ONE {
        let id = n.to_string();
        let (client, said) = Raw::login(&broker, ("kitchen", PASSWORD), &id, CLEAN).await;
        assert_eq!(said, [0, 0]);
        clients.push(client);
    }
    let login = async |user, id| Raw::login(&broker, (user, PASSWORD), id, CLEAN).await;
    assert_eq!(
        login("kitchen", "more").await.1,
        [0, 3],
        "server unavailable"
    );
    assert_eq!(login("hall", "more").await.1, [0, 0]);
    // who comes back takes its own place
    assert_eq!(login("kitchen", "0").await.1, [0, 0]);
}

#[tokio::test]
async fn a_user_that_is_taken_out_is_cut_off_and_forgotten_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let broker = with_users(folder.path(), &["kitchen", "hall"]).await;
    let login = async |user, id| Raw::login(&broker, (user, PASSWORD), id, KEPT).await;
    let (mut kitchen, _) = login("kitchen", "here").await;
    let (mut away, _) = login("kitchen", "away").await;
    away.send(0xe0, &[]).await;
    let (mut hall, _) = login("hall", "here").await;
    // a file that cannot be used takes nobody out
    std::fs::write(folder.path().join("users"), "hall").unwrap();
    assert_eq!(login("kitchen", "other").await.1, [0, 0]);
    assert!(kitchen.is_served().await);
    write_users(folder.path(), &["hall", "garden"]);
    // the file is looked at when somebody comes
    assert_eq!(login("garden", "here").await.1, [0, 0]);
    assert_eq!(FixedHeader::read(&mut kitchen.0).await.ok().flatten(), None);
    assert!(hall.is_served().await);
    assert_eq!(login("kitchen", "here").await.1, [0, 4]);
    // whoever gets the name later gets nothing else
    write_users(folder.path(), &["hall", "kitchen"]);
    for id in ["here", "away"] {
        assert_eq!(login("kitchen", id).await.1, [0, 0], "{id}");
    }
}

#[tokio::test]
async fn a_file_of_users_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    std::fs::write(&path, "kitchen secret").unwrap();
    let users = Users {
        file: Some(path),
        ..users()
    };
    let here = ([127, 0, 0, 1], 0).into();
    let error = start(here, None, users, 1000).await.unwrap_err();
    let error = error.to_string();
    for word in ["`broker.users_file`", "line 1", "Argon2id"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!error.contains("secret"), "{error}");
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
        ("kitchen", "house/hall", true, true),
        ("kitchen", "other", true, false),
        ("kitchen", "glowplug/n/tool/0123", true, true),
        ("kitchen", "glowplug/n/tool/audit", false, false),
        ("kitchen", "glowplug/n/ask/kitchen", true, true),
        ("kitchen", "glowplug/n/ask/me", true, false),
        ("kitchen", "glowplug/n/admin/drain/request", true, false),
    ] {
        assert_eq!(
            guard.may("me", Some(user), topic, publish),
            ok,
            "{user} {topic} {publish}"
        );
    }
}
