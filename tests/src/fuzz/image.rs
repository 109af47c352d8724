//! Any bytes as a partition: no panic, and what is taken is what it would be written as. Its slots are sealed with the CRC
//! that they should have, which no fuzzer guesses, so that the settings behind it are reached.

use glowplug_firmware_config::image::{MAGIC, SLOT, Trust, newest, read, write};

pub(super) fn run(bytes: &[u8]) {
    check(bytes);
    let mut partition = bytes.to_vec();
    partition.chunks_mut(SLOT).for_each(seal);
    check(&partition);
}

fn check(partition: &[u8]) {
    if let Ok((_, image)) = newest(partition, Trust::default()) {
        let mut slot = [0; SLOT];
        write(&image.settings, image.counter, None, &mut slot).expect("it came from a slot");
        let again = read(&slot, Trust::default()).expect("it was just written");
        assert_eq!(
            (again.settings, again.counter),
            (image.settings, image.counter)
        );
    }
}

/// Magic number and CRC; the length stays the fuzzer's.
fn seal(slot: &mut [u8]) {
    let Some(&[low, high]) = slot.get(6..8).and_then(<[u8]>::first_chunk) else {
        return;
    };
    slot[..4].copy_from_slice(MAGIC);
    let end = 16 + usize::from(u16::from_le_bytes([low, high]));
    if let Some((image, rest)) = slot.split_at_mut_checked(end)
        && let Some(crc) = rest.first_chunk_mut()
    {
        *crc = crc32fast::hash(image).to_le_bytes();
    }
}
