//! An MQTT client for tests, 3.1.1 and 5, of plain sockets: nothing of a client library stands between a test and what it
//! sends, and the daemon's own library does not judge itself. Packets are those of the OASIS standards, chapter 3.

use super::contract::CONTRACT;
use serde_json::Value;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before a test has failed: machines that build and test at once are slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Protocol level of the CONNECT packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3 = 4,
    V5 = 5,
}

/// An application message, either way. Properties are MQTT 5's.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub utf8: bool,
    pub expiry_s: Option<u32>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Vec<u8>>,
    /// It goes against the contract on purpose. What does and is not marked fails its test. This is not sent.
    pub wrong: bool,
}

impl Message {
    /// QoS 1, nothing else set.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: 1,
            ..Self::default()
        }
    }

    /// The same, and wrong on purpose.
    #[must_use]
    pub fn wrong(self) -> Self {
        Self {
            wrong: true,
            ..self
        }
    }

    /// The payload, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Where it is, and how it begins.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.payload);
        write!(f, "{}: {text:.500}", self.topic)
    }
}

/// A connection. Dropping it says nothing to the broker, as a client that dies does.
pub struct Client {
    pub name: String,
    version: Version,
    socket: Arc<Mutex<TcpStream>>,
    messages: Receiver<Message>,
    acks: Receiver<(u16, u8)>,
    next_id: u16,
    judged: bool,
}

impl Client {
    /// Err: the broker is not there, or its CONNACK has another code than 0 (the error's text has it).
    pub fn connect(
        port: u16,
        version: Version,
        name: &str,
        user: Option<(&str, &str)>,
    ) -> io::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut body = text("MQTT");
        let flags = if user.is_some() { 0xc2 } else { 0x02 };
        // keep alive: longer than any test, so that no pings are needed
        body.extend([version as u8, flags, 0x0e, 0x10]);
        if version == Version::V5 {
            body.push(0);
        }
        body.extend(text(name));
        if let Some((user, password)) = user {
            body.extend(text(user));
            body.extend(text(password));
        }
        socket.write_all(&packet(0x10, &body))?;
        let (kind, body) = read(&mut socket)?;
        assert_eq!(kind, 0x20, "CONNACK");
        if body[1] != 0 {
            return Err(io::Error::other(format!("CONNACK {}", body[1])));
        }
        socket.set_read_timeout(None)?;
        let (to_messages, messages) = mpsc::channel();
        let (to_acks, acks) = mpsc::channel();
        let reader = socket.try_clone()?;
        let socket = Arc::new(Mutex::new(socket));
        let writer = Arc::clone(&socket);
        std::thread::spawn(move || listen(reader, &writer, version, &to_messages, &to_acks));
        Ok(Self {
            name: name.to_owned(),
            version,
            socket,
            messages,
            acks,
            next_id: 1,
            judged: true,
        })
    }

    /// One that speaks for the daemon, or against everybody: the contract does not judge it.
    #[must_use]
    pub fn unjudged(mut self) -> Self {
        self.judged = false;
        self
    }

    /// Subscribes with QoS 1; the broker must grant it.
    pub fn subscribe(&mut self, filter: &str) {
        assert!(self.try_subscribe(filter), "{}: no `{filter}`", self.name);
    }

    /// False: the broker refused.
    pub fn try_subscribe(&mut self, filter: &str) -> bool {
        self.granted(filter).unwrap()
    }

    /// As [`Self::try_subscribe`].
    ///
    /// Err: the connection ended before the broker answered.
    pub fn granted(&mut self, filter: &str) -> io::Result<bool> {
        let id = self.id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(text(filter));
        body.push(1);
        self.send(&packet(0x82, &body))?;
        Ok(self.ack(id)? < 0x80)
    }

    /// Sends without waiting for the broker's acknowledgement; gives the packet's identifier.
    pub fn publish(&mut self, message: &Message) -> u16 {
        self.try_publish(message).unwrap()
    }

    /// As [`Self::publish`].
    ///
    /// Err: the connection has ended.
    pub fn try_publish(&mut self, message: &Message) -> io::Result<u16> {
        match CONTRACT.sent(message) {
            _ if !self.judged => {}
            Err(why) if !message.wrong => {
                panic!("{} sends what is wrong on {message}: {why}", self.name)
            }
            _ => {}
        }
        let id = self.id();
        let mut body = text(&message.topic);
        if message.qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if self.version == Version::V5 {
            let properties = properties(message);
            body.extend(variable(properties.len()));
            body.extend(properties);
        }
        body.extend(&message.payload);
        let flags = 0x30 | message.qos << 1 | u8::from(message.retain);
        self.send(&packet(flags, &body))?;
        Ok(id)
    }

    /// The code of the acknowledgement of a packet; 0 for a PUBACK of 3.1.1, which has none.
    ///
    /// Err: the connection ended before it came.
    pub fn ack(&mut self, id: u16) -> io::Result<u8> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.acks.recv_timeout(left(until)) {
                Ok((acked, code)) if acked == id => return Ok(code),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Err(e) => panic!("{}: no acknowledgement of packet {id}: {e}", self.name),
            }
        }
    }

    /// Waits for the next message.
    pub fn next(&mut self) -> Message {
        self.within(PATIENCE)
            .unwrap()
            .unwrap_or_else(|| panic!("{}: nothing came", self.name))
    }

    /// Passes over messages until one gives a value; `what` is said when none does.
    pub fn until<T>(&mut self, what: &str, pick: impl FnMut(&Message) -> Option<T>) -> T {
        self.until_closed(what, pick)
            .unwrap_or_else(|| panic!("{}: {what}: the connection ended", self.name))
    }

    /// As [`Self::until`]; none when the broker went away before.
    pub fn until_closed<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Message) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.messages.recv_timeout(left(until)) {
                Ok(message) => {
                    self.judge(&message);
                    if let Some(found) = pick(&message) {
                        return Some(found);
                    }
                    let text = String::from_utf8_lossy(&message.payload);
                    seen.push(format!("{} {text:.200}", message.topic));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let last = &seen[seen.len().saturating_sub(5)..];
                    panic!("{}: never: {what}; last came {last:#?}", self.name)
                }
            }
        }
    }

    /// The next message, if it comes so soon.
    ///
    /// Err: the connection has ended.
    pub fn within(&mut self, patience: Duration) -> io::Result<Option<Message>> {
        match self.messages.recv_timeout(patience) {
            Ok(message) => {
                self.judge(&message);
                Ok(Some(message))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// What came and was not yet taken.
    pub fn rest(&mut self) -> Vec<Message> {
        self.messages
            .try_iter()
            .inspect(|message| self.judge(message))
            .collect()
    }

    /// A message that came must be what the contract says.
    fn judge(&self, message: &Message) {
        if self.judged
            && let Err(why) = CONTRACT.given(message, self.version)
        {
            panic!("{} was given what is wrong on {message}: {why}", self.name);
        }
    }

    fn id(&mut self) -> u16 {
        // 0 is no identifier
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.lock().unwrap().write_all(packet)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // what nobody looked at
            self.rest();
        }
        // the reader has a handle of its own
        let _ = self.socket.lock().unwrap().shutdown(Shutdown::Both);
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Until the connection or the client ends.
fn listen(
    mut reader: TcpStream,
    writer: &Mutex<TcpStream>,
    version: Version,
    messages: &Sender<Message>,
    acks: &Sender<(u16, u8)>,
) {
    while let Ok((kind, body)) = read(&mut reader) {
        let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let sent = match kind >> 4 {
            3 => {
                let (message, id) = publish(kind, &body, version);
                if let Some(id) = id {
                    // a connection that is gone ends the loop at its next read
                    let _ = writer
                        .lock()
                        .unwrap()
                        .write_all(&packet(0x40, &id.to_be_bytes()));
                }
                messages.send(message).is_ok()
            }
            4 => acks
                .send((id(0), body.get(2).copied().unwrap_or(0)))
                .is_ok(),
            9 => acks.send((id(0), body[body.len() - 1])).is_ok(),
            _ => true,
        };
        if !sent {
            return;
        }
    }
}

fn publish(kind: u8, body: &[u8], version: Version) -> (Message, Option<u16>) {
    let mut rest = Bytes(body);
    let mut message = Message {
        topic: rest.text(),
        qos: (kind >> 1) & 3,
        retain: kind & 1 == 1,
        ..Message::default()
    };
    let id = (message.qos > 0).then(|| rest.u16());
    if version == Version::V5 {
        let length = rest.variable();
        let mut properties = Bytes(rest.take(length));
        while let [property, ..] = *properties.0 {
            properties.take(1);
            match property {
                0x01 => message.utf8 = properties.take(1) == [1],
                0x02 => {
                    message.expiry_s =
                        Some(u32::from_be_bytes(properties.take(4).try_into().unwrap()));
                }
                0x03 => message.content_type = Some(properties.text()),
                0x08 => message.response_topic = Some(properties.text()),
                0x09 => message.correlation_data = Some(properties.binary().to_vec()),
                0x26 => {
                    properties.text();
                    properties.text();
                }
                other => panic!("property {other:#x} in a PUBLISH"),
            }
        }
    }
    message.payload = rest.0.to_vec();
    (message, id)
}

fn properties(message: &Message) -> Vec<u8> {
    let mut all = Vec::new();
    if message.utf8 {
        all.extend([0x01, 1]);
    }
    if let Some(seconds) = message.expiry_s {
        all.push(0x02);
        all.extend(seconds.to_be_bytes());
    }
    if let Some(kind) = &message.content_type {
        all.push(0x03);
        all.extend(text(kind));
    }
    if let Some(topic) = &message.response_topic {
        all.push(0x08);
        all.extend(text(topic));
    }
    if let Some(data) = &message.correlation_data {
        all.push(0x09);
        all.extend(binary(data));
    }
    all
}

/// What is left of a packet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn binary(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.take(usize::from(length))
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.binary().to_vec()).unwrap()
    }

    fn variable(&mut self) -> usize {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut all = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    all.extend(bytes);
    all
}

fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

fn variable(mut value: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let more = value > 0x7f;
        all.push((value & 0x7f) as u8 | u8::from(more) << 7);
        value >>= 7;
        if !more {
            return all;
        }
    }
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut all = vec![kind];
    all.extend(variable(body.len()));
    all.extend(body);
    all
}

fn read(socket: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    socket.read_exact(&mut byte)?;
    let kind = byte[0];
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        socket.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok((kind, body))
}
