//! Any bytes as events of Wyoming: the same events, and the same error after them, however they are cut on their way. The first
//! byte says how.

use glowplug::bridge::wyoming::event::{Decoder, Event, EventError};

fn all(pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<Event>, Option<EventError>) {
    let (mut decoder, mut events) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(&piece);
        loop {
            match decoder.event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

pub(super) fn run(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = all(std::iter::once(bytes.to_vec()));
    let cut = all(bytes.chunks(usize::from(cut) + 1).map(<[u8]>::to_vec));
    assert_eq!(whole, cut);
}
