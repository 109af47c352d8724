extern crate std;

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

fn signing(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn settings(node: &str) -> Settings {
    let mut settings = Settings {
        node: Some(node.try_into().unwrap()),
        ..Settings::default()
    };
    settings.mqtt.url = Some("mqtt://10.0.0.2:1883".try_into().unwrap());
    settings.memory.budget = Some(1400 << 20);
    settings.engine.threads.decode = Some(2);
    settings
}

fn slot(settings: &Settings, counter: u64, key: Option<&SigningKey>) -> [u8; SLOT] {
    let mut slot = [0xff; SLOT];
    write(settings, counter, key, &mut slot).unwrap();
    slot
}

fn length(slot: &[u8; SLOT]) -> usize {
    HEAD + usize::from(u16::from_le_bytes([slot[6], slot[7]])) + CRC + SIGNATURE
}

/// Old image in the first slot, new one in the second.
fn partition(key: Option<&SigningKey>) -> Vec<u8> {
    [
        slot(&settings("old"), 4, key),
        slot(&settings("new"), 5, key),
    ]
    .concat()
}

#[test]
fn the_newest_good_one_counts_and_the_one_before_is_left() {
    let key = signing(1);
    let keys = [signing(2).verifying_key(), key.verifying_key()];
    let trust = Trust {
        keys: &keys,
        least: 4,
    };
    let mut partition = partition(Some(&key));
    let (slot, image) = newest(&partition, trust).unwrap();
    assert_eq!((slot, image.counter, image.key), (1, 5, Some(1)));
    assert!(image.signed);
    assert_eq!(image.settings, settings("new"));
    // a power cut while the second was written
    partition[SLOT + 40..].fill(0xff);
    let (slot, image) = newest(&partition, trust).unwrap();
    assert_eq!((slot, image.settings), (0, settings("old")));
    assert_eq!(
        newest(&partition, Trust { least: 5, ..trust }),
        Err(ImageError::Crc),
        "the first is too old, the second is cut"
    );
    assert_eq!(newest(&[0xff; 2 * SLOT], trust), Err(ImageError::Empty));
    assert_eq!(newest(&[], trust), Err(ImageError::Empty));
}

#[test]
fn the_limits() {
    let text = |n| Some("x".repeat(n).as_str().try_into().unwrap());
    let mut long = settings("n");
    for allow in 0..crate::settings::ALLOW_MAX {
        let prefix = std::format!("{allow}{}", "p".repeat(crate::limits::BASE_TOPIC_MAX - 1));
        long.mqtt
            .response_topic_allow
            .push(prefix.as_str().try_into().unwrap())
            .unwrap();
    }
    let most = crate::settings::TEXT_MAX;
    long.mqtt.username = text(most);
    long.mqtt.password_file = text(most);
    long.mqtt.url = text(most);
    long.model.path = text(most);
    long.sessions.dir = text(most);
    let short = || {
        Some(
            "x".repeat(crate::limits::CLIENT_MAX)
                .as_str()
                .try_into()
                .unwrap(),
        )
    };
    long.tls = Some(crate::settings::Tls {
        ca_file: short(),
        cert_file: short(),
        key_file: short(),
        server_name: short(),
        broker: crate::settings::BrokerTls {
            cert_file: short(),
            key_file: short(),
            ca_file: short(),
        },
        plaintext: true,
    });
    // the largest there can be has room
    let slot = slot(&long, u64::MAX, Some(&signing(1)));
    let image = read(&slot, Trust::default()).unwrap();
    assert_eq!((image.counter, image.settings), (u64::MAX, long));
    assert!(size_of::<Settings>() < SETTINGS_MAX);
}

/// Every bit and every length, in each slot and in both: refused, or what was written.
#[test]
fn flips_and_cuts_are_refused_or_change_nothing() {
    let key = signing(1);
    let keys = [key.verifying_key()];
    let good = partition(Some(&key));
    let long = length(good.first_chunk().unwrap());
    for trust in [
        Trust::default(),
        Trust {
            keys: &keys,
            least: 0,
        },
    ] {
        let images = [0, 1].map(|slot| newest(&good[slot * SLOT..][..SLOT], trust).unwrap().1);
        let check = |bytes: &[u8], what: &str| {
            if let Ok((_, image)) = newest(bytes, trust) {
                assert!(images.contains(&image), "{what}: {image:?}");
            }
        };
        // signatures are slow to check: with keys every bit of what is not the signature, of that every byte
        let step = if trust.keys.is_empty() { 1 } else { 7 };
        for slots in [&[0][..], &[1], &[0, 1]] {
            for bit in (0..8 * (long + 8)).step_by(step) {
                let mut bytes = good.clone();
                for slot in slots {
                    bytes[slot * SLOT + bit / 8] ^= 1 << (bit % 8);
                    let read = read(&bytes[slot * SLOT..][..SLOT], trust);
                    let signature = (long - SIGNATURE..).contains(&(bit / 8));
                    let counts = bit / 8 < long && !(signature && trust.keys.is_empty());
                    assert_eq!(read.is_err(), counts, "bit {bit}: {read:?}");
                }
                check(&bytes, "a bit");
            }
        }
        for cut in 0..long {
            assert!(read(&good[..cut], trust).is_err(), "{cut}");
            check(&good[..cut], "a cut");
            check(&good[..SLOT + cut], "a cut of the second");
        }
    }
}

/// Other settings, other counters, other keys, no signature: none of 1,000.
#[test]
fn a_thousand_that_are_not_ours() {
    let (ours, theirs) = (signing(1), signing(2));
    let keys = [ours.verifying_key()];
    let trust = Trust {
        keys: &keys,
        least: 1000,
    };
    let mut refused = 0;
    for n in 0..1000u64 {
        let forged = match n % 4 {
            0 => slot(&settings("theirs"), 2000 + n, Some(&theirs)),
            1 => slot(&settings("nobody's"), 2000 + n, None),
            2 => slot(&settings("old"), n, Some(&ours)),
            _ => {
                // a good signature on something else, its CRC made to fit
                let mut slot = slot(&settings("node1"), 2000 + n, Some(&ours));
                slot[HEAD + 6] ^= 1 + (n % 3) as u8;
                let end = length(&slot) - SIGNATURE - CRC;
                let crc = crc32fast::hash(&slot[..end]).to_le_bytes();
                slot[end..end + CRC].copy_from_slice(&crc);
                slot
            }
        };
        refused += u32::from(read(&forged, trust).is_err());
    }
    assert_eq!(refused, 1000);
    assert!(read(&slot(&settings("ours"), 1000, Some(&ours)), trust).is_ok());
    // and who asks for no signature is told whether there is one
    for (key, signed) in [(None, false), (Some(&theirs), true)] {
        let image = read(&slot(&settings("any"), 1, key), Trust::default()).unwrap();
        assert_eq!((image.signed, image.key), (signed, None));
    }
}

/// `settings("old")` with counter 4, not signed, as schema 1 had it.
const SCHEMA_1: &str = "\
    4750434601003c00040000000000000001036f6c64000001146d7174743a2f2f31302e302e302e323a31383833000000\
    00000000000001808080bc0500000000000001020000000000000000090c224a";

#[test]
fn an_image_of_the_schema_before_is_read_as_one_of_today() {
    let digits = SCHEMA_1.as_bytes().as_chunks::<2>().0;
    let byte =
        |pair: &[u8; 2]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
    let mut old: Vec<u8> = digits.iter().map(byte).collect();
    old.extend([0; SIGNATURE]);
    let image = read(&old, Trust::default()).unwrap();
    assert_eq!((image.counter, image.settings), (4, settings("old")));
    // nobody knows what others say
    for schema in [0, SCHEMA + 1] {
        old[4..6].copy_from_slice(&schema.to_le_bytes());
        let end = old.len() - SIGNATURE - CRC;
        let crc = crc32fast::hash(&old[..end]).to_le_bytes();
        old[end..end + CRC].copy_from_slice(&crc);
        assert_eq!(
            read(&old, Trust::default()),
            Err(ImageError::Schema(schema))
        );
    }
}

/// A caller may hand over a whole flash region: what is longer than a slot is refused, whatever its schema.
#[test]
fn settings_longer_than_a_slot_are_refused_where_more_than_a_slot_is_read() {
    for extra in 0..=usize::from(SCHEMA) + 1 {
        for schema in 1..=SCHEMA {
            let length = SETTINGS_MAX + extra;
            let mut region = std::vec![0; 3 * SLOT];
            region[..4].copy_from_slice(MAGIC);
            region[4..6].copy_from_slice(&schema.to_le_bytes());
            region[6..8].copy_from_slice(&(length as u16).to_le_bytes());
            let end = HEAD + length;
            let crc = crc32fast::hash(&region[..end]).to_le_bytes();
            region[end..end + CRC].copy_from_slice(&crc);
            assert_eq!(
                read(&region, Trust::default()),
                Err(ImageError::Settings),
                "{extra} more, schema {schema}"
            );
        }
    }
}

proptest! {
    #[test]
    fn what_is_read_from_any_bytes_can_be_written_again(bytes in prop::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
        let mut bytes = bytes;
        if whole && bytes.len() > HEAD + CRC {
            // past the checks before the settings
            let length = bytes.len() - HEAD - CRC;
            bytes[..4].copy_from_slice(MAGIC);
            bytes[4..6].copy_from_slice(&SCHEMA.to_le_bytes());
            bytes[6..8].copy_from_slice(&(length as u16).to_le_bytes());
            let end = HEAD + length;
            let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&crc);
            bytes.extend([0; SIGNATURE]);
        }
        if let Ok(image) = read(&bytes, Trust::default()) {
            let again = slot(&image.settings, image.counter, None);
            prop_assert_eq!(read(&again, Trust::default()), Ok(image));
        }
    }
}
