use super::*;
use tokio::io::{DuplexStream, duplex, split};

const PAYLOAD_MAX: usize = 100;

/// The far ends of a connection's two streams.
struct World {
    client: DuplexStream,
    broker: DuplexStream,
}

/// A relay that runs until the world is gone.
fn world(level: u8, places: &'static Semaphore, within: Duration) -> World {
    let (client, near_client) = duplex(64);
    let (broker, near_broker) = duplex(64);
    tokio::spawn(async move {
        let relay = Relay {
            level,
            payload_max: PAYLOAD_MAX,
            places: Some((places, within)),
            unreleased: Mutex::default(),
        };
        let (from_client, to_client) = split(near_client);
        let client = (BufReader::new(from_client), to_client);
        let expelled = std::future::pending();
        relay.run(&[], client, split(near_broker), expelled).await
    });
    World { client, broker }
}

fn free(level: u8) -> World {
    static PLACES: Semaphore = Semaphore::const_new(4);
    world(level, &PLACES, Duration::from_secs(600))
}

async fn send(to: &mut DuplexStream, bytes: &[u8]) {
    to.write_all(bytes).await.unwrap();
}

/// The next packet is this one.
async fn expect(from: &mut DuplexStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    from.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

async fn at_end(from: &mut DuplexStream) {
    assert_eq!(from.read(&mut [0]).await.unwrap(), 0);
}

fn publish(flags: u8, topic: &str, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    body.extend(payload);
    let mut packet = Vec::new();
    FixedHeader {
        first: PUBLISH | flags,
        len: body.len(),
    }
    .write(&mut packet);
    packet.extend(body);
    packet
}

#[tokio::test]
async fn reasons_are_cut_off_for_3_1_1_alone() {
    // PUBACK not authorised with a text, PUBREC, PUBREL, PUBCOMP without a known identifier
    let said: [&[u8]; 4] = [
        &[0x40, 7, 0, 5, 0x87, 3, 0x1f, 0, 0],
        &[0x50, 4, 1, 0, 0x9b, 0],
        &[0x62, 3, 0, 6, 0x92],
        &[0x70, 4, 0, 7, 0x92, 0],
    ];
    let mut old = free(4);
    let mut new = free(5);
    for packet in said {
        send(&mut old.broker, packet).await;
        expect(&mut old.client, &[packet[0], 2, packet[2], packet[3]]).await;
        send(&mut new.broker, packet).await;
        expect(&mut new.client, packet).await;
    }
    // 3.1.1 has no goodbye from a server
    let taken_over = [0xe0, 2, 0x8e, 0];
    send(&mut new.broker, &taken_over).await;
    expect(&mut new.client, &taken_over).await;
    send(&mut old.broker, &taken_over).await;
    at_end(&mut old.client).await;
}

#[tokio::test]
async fn qos_2_of_3_1_1_is_taken_once_and_completed() {
    let mut w = free(4);
    for id in [1, 0xffff] {
        let [high, low] = u16::to_be_bytes(id);
        let once = publish(0x04, "t", Some(id), b"x");
        send(&mut w.client, &once).await;
        expect(&mut w.broker, &publish(0x02, "t", Some(id), b"x")).await;
        // refused or taken, it has one word for it
        send(&mut w.broker, &[0x40, 3, high, low, 0x87]).await;
        expect(&mut w.client, &[0x50, 2, high, low]).await;
        // sent again, it goes no further
        send(&mut w.client, &publish(0x0c, "t", Some(id), b"x")).await;
        expect(&mut w.client, &[0x50, 2, high, low]).await;
        // released, and again as after a lost PUBCOMP
        for _ in 0..2 {
            send(&mut w.client, &[0x62, 2, high, low]).await;
            expect(&mut w.client, &[0x70, 2, high, low]).await;
        }
        // the identifier is free: of QoS 1 now
        let other = publish(0x02, "t", Some(id), b"y");
        send(&mut w.client, &other).await;
        expect(&mut w.broker, &other).await;
        send(&mut w.broker, &[0x40, 2, high, low]).await;
        expect(&mut w.client, &[0x40, 2, high, low]).await;
    }
}

#[tokio::test]
async fn qos_2_of_5_is_the_brokers_own() {
    let mut w = free(5);
    let twice = publish(0x04, "t", Some(3), b"\0x");
    send(&mut w.client, &twice).await;
    expect(&mut w.broker, &twice).await;
    send(&mut w.client, &[0x62, 2, 0, 3]).await;
    expect(&mut w.broker, &[0x62, 2, 0, 3]).await;
}

#[tokio::test]
async fn a_payload_above_the_limit_goes_on_as_one_just_above_it() {
    for (level, properties) in [(4, &b""[..]), (5, &[2, 1, 1])] {
        let mut w = free(level);
        for len in [PAYLOAD_MAX, packet_max(PAYLOAD_MAX), 300_000] {
            let mut after_topic = properties.to_vec();
            after_topic.extend(vec![b'x'; len]);
            let sent = publish(0, "t", None, &after_topic);
            let goes_on = sent.len().min(packet_max(PAYLOAD_MAX) + 4);
            let sender = async {
                send(&mut w.client, &sent).await;
                send(&mut w.client, &[0xc0, 0]).await;
            };
            let receiver = async {
                let mut got = vec![0; goes_on];
                w.broker.read_exact(&mut got).await.unwrap();
                let header = FixedHeader::read(&mut got.as_slice())
                    .await
                    .unwrap()
                    .unwrap();
                let start = goes_on - header.len;
                assert_eq!(
                    got[start..],
                    sent[sent.len() - sent_len(&sent)..][..header.len]
                );
                let before = before_payload(header, level, &got[start..]).unwrap();
                assert!((header.len - before > PAYLOAD_MAX) == (len > PAYLOAD_MAX));
                // and nothing of the rest is taken for a packet
                expect(&mut w.broker, &[0xc0, 0]).await;
            };
            tokio::join!(sender, receiver);
        }
    }
}

/// Bytes after the fixed header.
fn sent_len(packet: &[u8]) -> usize {
    packet.len() - 1 - packet[1..].iter().take_while(|b| **b & 0x80 != 0).count() - 1
}

#[tokio::test]
async fn what_is_too_long_and_no_payload_ends_the_connection() {
    // a SUBSCRIBE, and a topic that leaves no room for a payload above the limit
    let topic = "t".repeat(AROUND_PAYLOAD);
    let mut long_topic = publish(0, &topic, None, &[b'x'; 2 * PAYLOAD_MAX]);
    long_topic.truncate(packet_max(PAYLOAD_MAX) + 4);
    let mut subscribe = Vec::new();
    FixedHeader {
        first: 0x82,
        len: 1 << 20,
    }
    .write(&mut subscribe);
    subscribe.extend(vec![0; packet_max(PAYLOAD_MAX)]);
    for packet in [long_topic, subscribe] {
        let mut w = free(4);
        send(&mut w.client, &packet).await;
        at_end(&mut w.broker).await;
    }
}

#[tokio::test]
async fn who_holds_a_place_for_large_packets_too_long_loses_it() {
    static ONE: Semaphore = Semaphore::const_new(1);
    let mut slow = world(4, &ONE, Duration::from_millis(20));
    let mut next = world(4, &ONE, Duration::from_secs(600));
    let large = publish(0, &"t".repeat(LARGE), None, b"x");
    send(&mut slow.client, &large[..20]).await;
    // small ones need no place
    send(&mut next.client, &[0xc0, 0]).await;
    expect(&mut next.broker, &[0xc0, 0]).await;
    let sender = send(&mut next.client, &large);
    let receiver = expect(&mut next.broker, &large);
    tokio::join!(sender, receiver);
    at_end(&mut slow.broker).await;
}

#[tokio::test]
async fn who_is_expelled_is_told_where_its_protocol_has_a_word_for_it() {
    for (level, told) in [(LEVEL_5, &[DISCONNECT, 1, 0x87][..]), (4, &[])] {
        let (mut client, near_client) = duplex(64);
        let (_broker, near_broker) = duplex(64);
        let relay = Relay {
            level,
            payload_max: PAYLOAD_MAX,
            places: None,
            unreleased: Mutex::default(),
        };
        let (from_client, to_client) = split(near_client);
        let near_client = (BufReader::new(from_client), to_client);
        let expelled = std::future::ready(());
        let ended = relay.run(&[], near_client, split(near_broker), expelled);
        ended.await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, told, "{level}");
    }
}
