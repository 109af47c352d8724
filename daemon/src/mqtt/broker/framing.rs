//! MQTT packets, as far as a listener must read them: where one ends, who a CONNECT says it is, and what comes before
//! the payload of a PUBLISH. Section numbers are those of the OASIS standards for 3.1.1 and 5.

use std::io;

use tokio::io::{AsyncBufRead, AsyncReadExt};

/// First bytes of packets that have no flags; of the other kinds the upper half.
pub(in crate::mqtt) const CONNECT: u8 = 0x10;
pub(in crate::mqtt) const CONNACK: u8 = 0x20;
pub(in crate::mqtt) const PUBLISH: u8 = 0x30;
pub(in crate::mqtt) const PUBACK: u8 = 0x40;
pub(in crate::mqtt) const PUBREC: u8 = 0x50;
pub(in crate::mqtt) const PUBREL: u8 = 0x62;
pub(in crate::mqtt) const PUBCOMP: u8 = 0x70;
pub(in crate::mqtt) const DISCONNECT: u8 = 0xe0;

/// The kind of a packet, without its flags.
pub(in crate::mqtt) const KIND: u8 = 0xf0;

/// Protocol level of MQTT 5.
pub(in crate::mqtt) const LEVEL_5: u8 = 5;

/// The fixed header of a packet (2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) struct FixedHeader {
    /// The kind of the packet and its flags.
    pub(in crate::mqtt) first: u8,
    /// Bytes that follow the header.
    pub(in crate::mqtt) len: usize,
}

impl FixedHeader {
    /// Reads the next header. None: the stream ended between two packets.
    pub(in crate::mqtt) async fn read(
        from: &mut (impl AsyncBufRead + Unpin),
    ) -> io::Result<Option<Self>> {
        let first = match from.read_u8().await {
            Ok(first) => first,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut len = 0;
        for place in 0..4 {
            let byte = from.read_u8().await?;
            len |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(Some(Self { first, len }));
            }
        }
        Err(malformed())
    }

    pub(in crate::mqtt) fn write(self, to: &mut Vec<u8>) {
        to.push(self.first);
        let mut len = self.len;
        loop {
            let more = if len > 0x7f { 0x80 } else { 0 };
            to.push(len as u8 & 0x7f | more);
            len >>= 7;
            if len == 0 {
                return;
            }
        }
    }
}

/// The error for a peer that does not speak MQTT.
pub(in crate::mqtt) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a malformed MQTT packet")
}

/// Who a CONNECT (3.1) says it is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mqtt) struct Connect {
    /// The protocol level; 4 is MQTT 3.1.1.
    pub(in crate::mqtt) level: u8,
    /// The client identifier may be empty.
    pub(in crate::mqtt) client_id: String,
    pub(in crate::mqtt) username: Option<String>,
    pub(in crate::mqtt) password: Option<Vec<u8>>,
    /// Whether its session should outlive the connection.
    pub(in crate::mqtt) keeps: bool,
}

impl Connect {
    /// Reads the bytes after the fixed header. None: they are malformed.
    pub(in crate::mqtt) fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = Rest(body);
        rest.binary()?;
        let [level, flags, _, _] = *rest.array()?;
        let mut keeps = level < LEVEL_5 && flags & 0x02 == 0;
        if level >= LEVEL_5 {
            keeps = session_expiry(rest.properties()?)? > 0;
        }
        let client_id = rest.text()?;
        if flags & 0x04 != 0 {
            if level >= LEVEL_5 {
                rest.properties()?;
            }
            // the will's topic and payload
            rest.binary()?;
            rest.binary()?;
        }
        Some(Self {
            level,
            client_id,
            username: if flags & 0x80 == 0 {
                None
            } else {
                Some(rest.text()?)
            },
            password: if flags & 0x40 == 0 {
                None
            } else {
                Some(rest.binary()?.to_vec())
            },
            keeps,
        })
    }
}

/// Puts another client identifier into a CONNECT that was read.
pub(in crate::mqtt) fn rename(body: &mut Vec<u8>, id: &str) {
    let place = |body: &[u8]| {
        let mut rest = Rest(body);
        rest.binary()?;
        if rest.array::<4>()?[0] >= LEVEL_5 {
            rest.properties()?;
        }
        let from = body.len() - rest.0.len();
        rest.binary()?;
        Some(from..body.len() - rest.0.len())
    };
    if let (Some(place), Ok(len)) = (place(body.as_slice()), u16::try_from(id.len())) {
        body.splice(place, len.to_be_bytes().into_iter().chain(id.bytes()));
    }
}

/// Turns a will of QoS 2 in a CONNECT of 3.1.1 into one of QoS 1.
pub(in crate::mqtt) fn lower_will(body: &mut [u8]) {
    let name = body
        .get(..2)
        .map_or(0, |n| usize::from(u16::from_be_bytes([n[0], n[1]])));
    if let Some(flags) = body.get_mut(name + 3)
        && *flags & 0x18 == 0x10
    {
        *flags = *flags & !0x18 | 0x08;
    }
}

/// The Session Expiry Interval in seconds (3.1.2.11.2), 0 where it is not given.
fn session_expiry(properties: &[u8]) -> Option<u32> {
    let mut rest = Rest(properties);
    while !rest.0.is_empty() {
        match rest.array::<1>()?[0] {
            0x11 => return Some(u32::from_be_bytes(*rest.array()?)),
            0x15 | 0x16 => rest.binary().map(drop)?,
            0x17 | 0x19 => rest.array::<1>().map(drop)?,
            0x21 | 0x22 => rest.array::<2>().map(drop)?,
            0x27 => rest.array::<4>().map(drop)?,
            0x26 => {
                rest.binary()?;
                rest.binary()?;
            }
            _ => return None,
        }
    }
    Some(0)
}

/// Reads the packet identifier of a PUBLISH of QoS 1 or 2 from the bytes after its fixed header.
pub(in crate::mqtt) fn publish_id(body: &[u8]) -> Option<u16> {
    let mut rest = Rest(body);
    rest.binary()?;
    Some(u16::from_be_bytes(*rest.array()?))
}

/// How many bytes after the fixed header of a PUBLISH come before its payload.
pub(in crate::mqtt) fn before_payload(
    header: FixedHeader,
    level: u8,
    body: &[u8],
) -> Option<usize> {
    let mut rest = Rest(body);
    rest.binary()?;
    if header.first & 0x06 != 0 {
        rest.array::<2>()?;
    }
    if level >= LEVEL_5 {
        rest.properties()?;
    }
    Some(body.len() - rest.0.len())
}

/// The bytes that are not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Reads binary data: two bytes of length, then so many bytes.
    fn binary(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_be_bytes(*self.array()?);
        self.take(len.into())
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.binary()?).ok()?.to_owned())
    }

    fn properties(&mut self) -> Option<&'a [u8]> {
        let mut len = 0;
        for place in 0..4 {
            let byte = self.array::<1>()?[0];
            len |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return self.take(len);
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> Vec<u8> {
        let mut bytes = u16::try_from(s.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(s.as_bytes());
        bytes
    }

    fn connect(level: u8, flags: u8, properties: &[u8], fields: &[&str]) -> Vec<u8> {
        let mut body = text("MQTT");
        body.extend([level, flags, 0, 60]);
        body.extend(properties);
        for field in fields {
            body.extend(text(field));
        }
        body
    }

    #[test]
    fn a_connect_says_who_and_whether_it_comes_back() {
        let seen = |body: &[u8]| {
            let c = Connect::parse(body)?;
            let password = c.password.map(|p| String::from_utf8(p).unwrap());
            Some((c.level, c.client_id, c.username, password, c.keeps))
        };
        let me = |level, keeps| {
            let own = |s: &str| Some(s.to_owned());
            Some((level, "me".to_owned(), own("u"), own("p"), keeps))
        };
        let fields = ["me", "u", "p"];
        assert_eq!(seen(&connect(4, 0xc2, &[], &fields)), me(4, false));
        assert_eq!(seen(&connect(4, 0xc0, &[], &fields)), me(4, true));
        assert_eq!(seen(&connect(5, 0xc0, &[0], &fields)), me(5, false));
        // receive maximum, a user property, then the expiry: an hour, and none
        let with = |expiry: u32| {
            let mut p = vec![0x21, 0, 9, 0x26];
            p.extend(text("a"));
            p.extend(text("b"));
            p.push(0x11);
            p.extend(expiry.to_be_bytes());
            p.insert(0, u8::try_from(p.len()).unwrap());
            p
        };
        assert_eq!(seen(&connect(5, 0xc2, &with(3600), &fields)), me(5, true));
        assert_eq!(seen(&connect(5, 0xc2, &with(0), &fields)), me(5, false));
        // a will between identifier and user
        let will = ["me", "topic", "payload", "u", "p"];
        assert_eq!(seen(&connect(4, 0xc6, &[], &will)), me(4, false));
        let bare = Connect::parse(&connect(4, 0x02, &[], &[""])).unwrap();
        assert_eq!((bare.username, bare.password), (None, None));
        // cut anywhere, it is none
        let whole = connect(5, 0xc2, &with(1), &fields);
        for n in 0..whole.len() {
            assert_eq!(seen(&whole[..n]), None, "{n}");
        }
    }

    #[test]
    fn another_identifier_changes_nothing_else() {
        let will = ["me", "topic", "payload", "u", "p"];
        for (level, properties) in [(4, &[][..]), (5, &[3, 0x21, 0, 9][..])] {
            let mut body = connect(level, 0xc2, properties, &["me", "u", "p"]);
            rename(&mut body, "another");
            assert_eq!(
                body,
                connect(level, 0xc2, properties, &["another", "u", "p"])
            );
        }
        let mut body = connect(4, 0xc6, &[], &will);
        rename(&mut body, "");
        let read = Connect::parse(&body).unwrap();
        assert_eq!(
            (read.client_id.as_str(), read.username.as_deref()),
            ("", Some("u"))
        );
        for cut in 0..13 {
            let mut body = connect(4, 0xc6, &[], &will);
            body.truncate(cut);
            rename(&mut body, "another");
            assert_eq!(body.len(), cut, "what is no CONNECT stays as it is");
        }
    }

    #[test]
    fn a_will_of_qos_2_is_lowered_and_no_other() {
        for (flags, lowered) in [(0x16, 0x0e), (0x0e, 0x0e), (0x06, 0x06), (0x02, 0x02)] {
            let mut body = connect(4, flags, &[], &["me"]);
            lower_will(&mut body);
            assert_eq!(body[7], lowered);
        }
        lower_will(&mut []);
        lower_will(&mut [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn heads_are_read_as_they_were_written(first: u8, len in 0usize..1 << 28) {
            let header = FixedHeader { first, len };
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut from = bytes.as_slice();
            prop_assert_eq!(runtime.block_on(FixedHeader::read(&mut from)).unwrap(), Some(header));
            prop_assert!(from.is_empty());
        }

        #[test]
        fn what_comes_before_a_payload_is_found(
            topic in "[a-z/]{1,300}", qos in 0u8..3, properties in 0usize..300, payload in 0usize..50, five: bool,
        ) {
            let mut body = text(&topic);
            if qos > 0 {
                body.extend([1, 2]);
            }
            if five {
                let mut len = Vec::new();
                FixedHeader { first: 0, len: properties }.write(&mut len);
                body.extend(&len[1..]);
                body.extend(vec![0; properties]);
            }
            let before = body.len();
            body.extend(vec![b'x'; payload]);
            let header = FixedHeader { first: PUBLISH | qos << 1, len: body.len() };
            let level = if five { 5 } else { 4 };
            prop_assert_eq!(before_payload(header, level, &body), Some(before));
            if qos > 0 {
                prop_assert_eq!(publish_id(&body), Some(0x102));
            }
        }

        #[test]
        fn any_bytes_are_a_connect_or_none(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(connect) = Connect::parse(&body) {
                prop_assert!(connect.client_id.len() < body.len());
            }
        }
    }
}
