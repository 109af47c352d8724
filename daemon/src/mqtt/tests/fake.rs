//! A broker of a few lines that answers as a test wants it to, and counts.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

/// What came in from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    Connect,
    Subscribe(String),
    Unsubscribe(String),
    Publish {
        topic: String,
        qos: u8,
        bytes: usize,
    },
    Ack,
    Disconnect,
}

/// What follows; [`Do::Well`] is what a sound broker does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Do {
    Well,
    /// a CONNACK that says that it has no shared subscriptions
    Unshared,
    /// a reason code in SUBACK or PUBACK
    Code(u8),
    /// nothing: as if the network swallowed it
    Nothing,
    /// a DISCONNECT with this reason code, and the end
    Disconnect(u8),
    /// the same without properties, not even their length
    ShortDisconnect(u8),
    Close,
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// `after` is sent once the first subscription is granted, as it is.
    pub(super) async fn start(
        after: Vec<Vec<u8>>,
        rule: impl Fn(&Got) -> Do + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let seen = got.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // one at a time, as with one client identifier
                let _ = serve(stream, &after, &seen, &rule).await;
            }
        });
        Self { address, got, task }
    }

    pub(super) fn options(&self, filters: &[&str]) -> Options {
        Options {
            server: BrokerAddress {
                host: self.address.ip().to_string(),
                port: self.address.port(),
                tls: false,
            },
            tls: crate::config::Tls::default(),
            client_id: "glowplug-n".to_owned(),
            credentials: None,
            will: None,
            subscriptions: filters
                .iter()
                .map(|f| ((*f).to_owned(), Qos::AtLeastOnce))
                .collect(),
            payload_max: 1 << 18,
        }
    }

    pub(super) fn count(&self, what: impl Fn(&Got) -> bool) -> usize {
        self.got.lock().unwrap().iter().filter(|g| what(g)).count()
    }

    /// Topics in the order they were first published on.
    pub(super) fn topics(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for got in self.got.lock().unwrap().iter() {
            if let Got::Publish { topic, .. } = got
                && !all.contains(topic)
            {
                all.push(topic.clone());
            }
        }
        all
    }

    pub(super) async fn until(&self, enough: impl Fn(&Self) -> bool) {
        let wait = async {
            while !enough(self) {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, wait).await.expect("enough in time");
    }
}

/// A PUBLISH packet; with a packet identifier it is one of QoS 1.
pub(super) fn publish(topic: &str, id: Option<u16>, bytes: usize) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    body.push(0);
    body.resize(body.len() + bytes, b'x');
    packet(if id.is_some() { 0x32 } else { 0x30 }, &body)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut whole = vec![kind];
    let mut left = body.len();
    loop {
        let more = if left > 127 { 128 } else { 0 };
        whole.push((left & 127) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    whole.extend(body);
    whole
}

async fn serve(
    mut stream: TcpStream,
    after: &[Vec<u8>],
    seen: &Mutex<Vec<Got>>,
    rule: &impl Fn(&Got) -> Do,
) -> std::io::Result<()> {
    let mut granted = false;
    loop {
        let kind = stream.read_u8().await?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = stream.read_u8().await?;
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let text = |at: usize| {
            let length = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
            String::from_utf8(body[at + 2..at + 2 + length].to_vec()).unwrap()
        };
        let qos = kind >> 1 & 3;
        // no properties of a SUBSCRIBE: the filter is at byte 3
        let (got, id) = match kind >> 4 {
            1 => (Got::Connect, 0),
            3 => {
                let topic = text(0);
                let at = 2 + topic.len();
                let bytes = body.len() - at;
                (Got::Publish { topic, qos, bytes }, at)
            }
            4 => (Got::Ack, 0),
            8 => (Got::Subscribe(text(3)), 0),
            10 => (Got::Unsubscribe(text(3)), 0),
            12 => {
                stream.write_all(&[0xd0, 0]).await?;
                continue;
            }
            14 => (Got::Disconnect, 0),
            other => panic!("packet type {other}"),
        };
        let todo = rule(&got);
        seen.lock().unwrap().push(got.clone());
        let code = match todo {
            Do::Well | Do::Unshared => 0,
            Do::Code(code) => code,
            Do::Nothing => continue,
            Do::Close => return Ok(()),
            Do::Disconnect(code) => {
                stream.write_all(&packet(0xe0, &[code, 0])).await?;
                return Ok(());
            }
            Do::ShortDisconnect(code) => {
                stream.write_all(&packet(0xe0, &[code])).await?;
                return Ok(());
            }
        };
        match got {
            Got::Connect if matches!(todo, Do::Unshared) => {
                stream.write_all(&[0x20, 5, 0, 0, 2, 0x2a, 0]).await?;
            }
            Got::Connect => stream.write_all(&[0x20, 3, 0, code, 0]).await?,
            Got::Subscribe(_) => {
                let code = if code == 0 { 1 } else { code };
                stream
                    .write_all(&packet(0x90, &[body[0], body[1], 0, code]))
                    .await?;
                if !std::mem::replace(&mut granted, true) {
                    for packet in after {
                        stream.write_all(packet).await?;
                    }
                }
            }
            // nothing was subscribed to
            Got::Unsubscribe(filter) if filter.ends_with("still-there") => {
                stream
                    .write_all(&packet(0xb0, &[body[0], body[1], 0, 0x11]))
                    .await?;
            }
            Got::Unsubscribe(_) => {
                // what was sent before it took the subscription back
                stream.write_all(&publish("late", None, 1)).await?;
                stream
                    .write_all(&packet(0xb0, &[body[0], body[1], 0, code]))
                    .await?;
            }
            Got::Publish { qos: 1, .. } => {
                stream
                    .write_all(&packet(0x40, &[body[id], body[id + 1], code]))
                    .await?;
            }
            Got::Publish { .. } | Got::Ack => {}
            Got::Disconnect => return Ok(()),
        }
    }
}
