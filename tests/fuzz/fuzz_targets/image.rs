//! Any bytes as a partition: no panic, and what is taken is what it would be written as.

#![no_main]

use glowplug_firmware_config::image::{SLOT, Trust, newest, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|partition: &[u8]| {
    if let Ok((_, image)) = newest(partition, Trust::default()) {
        let mut slot = [0; SLOT];
        write(&image.settings, image.counter, None, &mut slot).expect("it came from a slot");
        assert_eq!(read(&slot, Trust::default()), Ok(image));
    }
});
