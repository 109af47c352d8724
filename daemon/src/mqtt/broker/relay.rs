//! Stands between a client and the broker crate on one connection, and mends what the crate (mqtt5 0.49) does not do:
//!
//! - MQTT 3.1.1 has no reason codes in acknowledgements and no DISCONNECT from a server. Reason codes are cut off (a
//!   publish that is refused is acknowledged; 3.3.5 of 3.1.1 gives a server no other word), and a DISCONNECT ends the
//!   connection.
//! - MQTT 3.1.1 has no highest QoS. An exchange of QoS 2 is held here, by method B of its figure 4.3, and the crate
//!   gets a publish of QoS 1, so that only packet identifiers are kept for it.
//! - A payload above the daemon's limit is never held: what is over the limit is thrown away as it comes, and the
//!   daemon refuses the rest by its length.
//! - Only a few large packets are on their way in at a time, and not for long.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::framing::{
    DISCONNECT, FixedHeader, KIND, LEVEL_5, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL,
    before_payload, malformed, publish_id,
};

/// Most bytes of a packet besides its payload.
const AROUND_PAYLOAD: usize = 16 << 10;
/// A packet above this size waits for one of few places.
pub(in crate::mqtt) const LARGE: usize = 16 << 10;
/// How long a packet may hold its place.
pub(in crate::mqtt) const LARGE_WITHIN: Duration = Duration::from_secs(30);

/// The DISCONNECT for a client that is expelled (3.14.2.1 of MQTT 5).
const NOT_AUTHORISED: [u8; 3] = [DISCONNECT, 1, 0x87];

/// The largest packet that goes on when payloads of up to `payload_max` are taken.
pub(in crate::mqtt) const fn packet_max(payload_max: usize) -> usize {
    payload_max + AROUND_PAYLOAD
}

/// The relay of one connection.
pub(in crate::mqtt) struct Relay<'a> {
    /// The level of the client's protocol.
    pub(in crate::mqtt) level: u8,
    pub(in crate::mqtt) payload_max: usize,
    /// Places for large packets, and how long one may be held. None: this connection needs none.
    pub(in crate::mqtt) places: Option<(&'a Semaphore, Duration)>,
    /// Packet identifiers of QoS 2 exchanges that the client has not released.
    pub(in crate::mqtt) unreleased: Mutex<Identifiers>,
}

impl Relay<'_> {
    /// Relays from the client's CONNECT until either side ends or breaks the protocol, or until the client is `expelled`,
    /// which it is told if its protocol has a word for it.
    pub(in crate::mqtt) async fn run(
        &self,
        connect: &[u8],
        client: (impl AsyncBufRead + Unpin, impl AsyncWrite + Unpin),
        broker: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
        expelled: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (from_client, to_client) = client;
        let (from_broker, mut to_broker) = broker;
        to_broker.write_all(connect).await?;
        let from_broker = BufReader::with_capacity(super::listener::READ_AHEAD, from_broker);
        // both directions write to the client, one packet at a time
        let to_client = tokio::sync::Mutex::new(to_client);
        let ended = tokio::select! {
            ended = self.inward(from_client, to_broker, &to_client) => ended,
            ended = self.outward(from_broker, &to_client) => ended,
            () = expelled => {
                if self.level >= LEVEL_5 {
                    let say = async { write(&mut *to_client.lock().await, &NOT_AUTHORISED).await };
                    // one that does not read is not waited for
                    let _ = timeout(super::GOODBYE, say).await;
                }
                Ok(())
            }
        };
        // by TLS an end without a word looks like one that somebody cut off; a client that is gone needs no word
        let _ = timeout(super::GOODBYE, to_client.into_inner().shutdown()).await;
        ended
    }

    async fn inward(
        &self,
        mut client: impl AsyncBufRead + Unpin,
        mut broker: impl AsyncWrite + Unpin,
        to_client: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
    ) -> io::Result<()> {
        let mut packet = Vec::new();
        while let Some(header) = FixedHeader::read(&mut client).await? {
            let pass = async {
                match self.receive(header, &mut client, &mut packet).await? {
                    None => broker.write_all(&packet).await,
                    Some(answer) => write(&mut *to_client.lock().await, &answer).await,
                }
            };
            match self.places {
                Some((places, within)) if header.len > LARGE => {
                    // the semaphore is never closed
                    let _place = places.acquire().await;
                    timeout(within, pass).await??;
                    packet = Vec::new();
                }
                _ => pass.await?,
            }
        }
        Ok(())
    }

    /// Reads a packet as it should go on; or returns the answer to one that goes no further.
    async fn receive(
        &self,
        header: FixedHeader,
        client: &mut (impl AsyncBufRead + Unpin),
        packet: &mut Vec<u8>,
    ) -> io::Result<Option<[u8; 4]>> {
        let len = header.len.min(packet_max(self.payload_max));
        packet.clear();
        FixedHeader { len, ..header }.write(packet);
        let start = packet.len();
        append(client, len, packet).await?;
        let body = &packet[start..];
        if len < header.len {
            // only a payload is cut, and so that it is still above the limit
            let payload = (header.first & KIND == PUBLISH)
                .then(|| before_payload(header, self.level, body))
                .flatten()
                .and_then(|before| len.checked_sub(before));
            if payload.is_none_or(|bytes| bytes <= self.payload_max) {
                return Err(malformed());
            }
            skip(client, header.len - len).await?;
        }
        if self.level >= LEVEL_5 {
            return Ok(None);
        }
        let mut unreleased = self
            .unreleased
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match header.first {
            PUBREL => {
                let id = acknowledged(body)?;
                unreleased.remove(id);
                Ok(Some(acknowledgement(PUBCOMP, id)))
            }
            first if first & (KIND | 0x06) == PUBLISH | 0x04 => {
                let id = publish_id(body).ok_or_else(malformed)?;
                if !unreleased.insert(id) {
                    return Ok(Some(acknowledgement(PUBREC, id)));
                }
                packet[0] = first & !0x06 | 0x02;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn outward(
        &self,
        mut broker: impl AsyncBufRead + Unpin,
        to_client: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
    ) -> io::Result<()> {
        let mut packet = Vec::new();
        while let Some(header) = FixedHeader::read(&mut broker).await? {
            packet.clear();
            if self.level < LEVEL_5 {
                match header.first & KIND {
                    DISCONNECT => return Ok(()),
                    PUBACK | PUBREC | 0x60 | PUBCOMP => {
                        append(&mut broker, header.len, &mut packet).await?;
                        let id = acknowledged(&packet)?;
                        let first = self.acknowledge(header.first, id);
                        let said = acknowledgement(first, id);
                        write(&mut *to_client.lock().await, &said).await?;
                        continue;
                    }
                    _ => {}
                }
            }
            header.write(&mut packet);
            let now = header.len.min(LARGE);
            append(&mut broker, now, &mut packet).await?;
            let mut to_client = to_client.lock().await;
            to_client.write_all(&packet).await?;
            let mut rest = (&mut broker).take((header.len - now) as u64);
            tokio::io::copy_buf(&mut rest, &mut *to_client).await?;
        }
        Ok(())
    }

    /// The kind of an acknowledgement. A publish of QoS 2 went on as QoS 1, so its PUBACK becomes a PUBREC.
    fn acknowledge(&self, first: u8, id: u16) -> u8 {
        let unreleased = self
            .unreleased
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if first == PUBACK && unreleased.contains(id) {
            PUBREC
        } else {
            first
        }
    }
}

/// Reads the packet identifier at the start of an acknowledgement.
fn acknowledged(body: &[u8]) -> io::Result<u16> {
    match body {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(malformed()),
    }
}

/// Builds an acknowledgement as 3.1.1 has it, without a reason code.
fn acknowledgement(first: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [first, 2, high, low]
}

/// Writes all of a packet. What TLS has encrypted may still be in its buffer then.
async fn write(to: &mut (impl AsyncWrite + Unpin), packet: &[u8]) -> io::Result<()> {
    to.write_all(packet).await?;
    to.flush().await
}

/// Reads so many bytes. The buffer grows as they come and not by what a header promises.
async fn append(
    from: &mut (impl AsyncBufRead + Unpin),
    bytes: usize,
    to: &mut Vec<u8>,
) -> io::Result<()> {
    if from.take(bytes as u64).read_to_end(to).await? < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

async fn skip(from: &mut (impl AsyncBufRead + Unpin), mut bytes: usize) -> io::Result<()> {
    while bytes > 0 {
        let have = from.fill_buf().await?.len().min(bytes);
        if have == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        from.consume(have);
        bytes -= have;
    }
    Ok(())
}

/// A set of packet identifiers. It takes 8 KiB, whatever a client does.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Identifiers(Vec<u64>);

impl Identifiers {
    fn place(id: u16) -> (usize, u64) {
        (usize::from(id) / 64, 1 << (id % 64))
    }

    /// Adds an identifier. False: it was there already.
    fn insert(&mut self, id: u16) -> bool {
        let (word, bit) = Self::place(id);
        self.0.resize(1024, 0);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    fn remove(&mut self, id: u16) {
        let (word, bit) = Self::place(id);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    fn contains(&self, id: u16) -> bool {
        let (word, bit) = Self::place(id);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
