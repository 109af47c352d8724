//! Wyoming's conversations as sessions of the daemon. It keeps no more of a client's than so many, so the oldest are forgotten.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::wire::topics::valid_segment;

/// Most conversations that are kept. Home Assistant begins a new one after five minutes of silence.
const CONVERSATIONS_MAX: usize = 32;

/// The sessions that were used, the latest last.
#[derive(Default)]
pub(super) struct Conversations(VecDeque<String>);

impl Conversations {
    /// The session of a conversation, and one that has to go for it.
    pub(super) fn session(&mut self, conversation: &str) -> (String, Option<String>) {
        let session = if valid_segment(conversation) {
            conversation.to_owned()
        } else {
            // an identifier may be any text, and a session is a level of a topic
            let mut hash = hex(&Sha256::digest(conversation));
            hash.truncate(32);
            hash
        };
        self.0.retain(|known| *known != session);
        self.0.push_back(session.clone());
        let oldest = (self.0.len() > CONVERSATIONS_MAX).then(|| self.0.pop_front());
        (session, oldest.flatten())
    }

    /// All of them, at the end.
    pub(super) fn into_sessions(self) -> VecDeque<String> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_one_session_and_the_oldest_goes() {
        let mut conversations = Conversations::default();
        assert_eq!(conversations.session("01JD"), ("01JD".to_owned(), None));
        let (odd, _) = conversations.session("a/b ü");
        assert!(valid_segment(&odd) && odd.len() == 32, "{odd}");
        assert_eq!(conversations.session("a/b ü").0, odd);
        for n in 2..CONVERSATIONS_MAX {
            assert_eq!(conversations.session(&n.to_string()).1, None);
        }
        // the first was used again, so another is the oldest
        assert_eq!(conversations.session("01JD").1, None);
        assert_eq!(conversations.session("new").1, Some(odd));
        assert_eq!(conversations.into_sessions().len(), CONVERSATIONS_MAX);
    }
}
