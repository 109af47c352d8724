//! What a client may do to its own requests: cancel them, or end a thought.

use std::time::Instant;

use glowplug_firmware_config::limits::ID_MAX;
use glowplug_model::engine::Finish;

use super::{Action, Admission};
use crate::inference::messages::{Command, END_THINKING_MAX};
use crate::requests::dedup::{Key, Known, Topic};
use crate::wire::chat::request::Cancel;

impl Admission {
    /// A client cancels its own requests and nobody else's. An id that is not known may be on its way, behind its
    /// cancel: if it comes within the window of de-duplication, it ends at once.
    pub fn cancel(&mut self, now: Instant, client: &str, what: &Cancel, out: &mut Vec<Action>) {
        if let Cancel::Id(id) = what {
            self.remember(now, client, id);
        }
        self.end_where(now, Finish::Cancelled, out, |live| {
            let meant = match what {
                Cancel::Id(id) => live.stream.id() == id,
                Cancel::Session(name) => live.session.as_deref() == Some(name),
                Cancel::All => true,
            };
            meant && *live.client == *client
        });
    }

    /// Remembers the cancel of a chat request that has not come. Cancels of an `ask` are not remembered, because the
    /// same id may belong to a chat that ended.
    fn remember(&mut self, now: Instant, client: &str, id: &str) {
        let key = |topic| Key {
            client: client.into(),
            topic,
            id: id.to_owned(),
        };
        let keys = [key(Topic::Chat), key(Topic::Ask)];
        let known = keys
            .iter()
            .any(|key| self.by_key.contains_key(key) || self.done.get(now, key).is_some());
        let [chat, _] = keys;
        if !known && id.len() <= ID_MAX {
            self.done.insert(now, chat, Known::Cancelled);
        }
    }

    /// A client wants a thought to end, so that the answer begins.
    pub fn end_thinking(&mut self, client: &str, id: &str, out: &mut Vec<Action>) {
        let held = self.held.as_ref();
        for (number, live) in &mut self.live {
            if *live.client == *client
                && live.stream.id() == id
                && !live.ending
                && !live.is_waiting()
                && !held.is_some_and(|held| held.contains_key(number))
                && live.end_thinking < END_THINKING_MAX
            {
                live.end_thinking += 1;
                out.push(Action::Engine(Command::EndThinking(*number)));
            }
        }
    }
}
