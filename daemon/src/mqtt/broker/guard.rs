//! Who may connect to the embedded broker, and which topics each of them may use.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::credentials;
use super::framing::{self, Connect};
use super::users::Hash;
use crate::hex::hex;
use crate::mqtt::Credentials;
use crate::tools::topic::covers;

/// What stands between a further user and the identifier of its client, a character that no name has. So nobody takes the
/// session of another user by its identifier.
const OWNED: char = '\u{e000}';
/// Longest identifier in bytes that the crate takes.
const CLIENT_ID_MAX: usize = 128;

/// Who may connect, and which topics each of them may use.
#[derive(Debug, Clone)]
pub struct Users {
    /// Everything below this topic is the daemon's; outside it only `shared` and what `outside_may` allows can be used.
    pub base: String,
    /// Filters of topics outside of `base` on which the daemon and everybody else may say anything to each other.
    pub shared: Vec<String>,
    /// The daemon may use every topic below `base`.
    pub daemon: Credentials,
    /// The daemon's client identifier, which nobody else may take.
    pub daemon_id: String,
    /// Programs of this machine's owner may use what `local_may` allows.
    pub local: Credentials,
    /// Whether the client of an MQTT client identifier may publish on a topic (`true`) or subscribe to a filter
    /// (`false`). The topic is what follows `{base}/`.
    pub local_may: fn(client_id: &str, rest: &str, publish: bool) -> bool,
    /// The file of further users, if there is one.
    pub file: Option<PathBuf>,
    /// The same for one of those, by its name.
    pub user_may: fn(name: &str, rest: &str, publish: bool) -> bool,
    /// The same for topics and filters outside of `base`, of the daemon (`true`) or of anybody else.
    pub outside_may: fn(daemon: bool, topic: &str, publish: bool) -> bool,
}

/// Who it is that has connected.
pub(super) enum Who {
    Daemon,
    Local,
    Member(Member),
}

/// One of the further users, with the hash that its password had.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) hash: Arc<Hash>,
}

/// Checks the two users of its own, and topics for every connection, will, publish and subscription.
pub(super) struct Guard(pub(super) Users);

impl Guard {
    /// Whether it is one of the two users of its own, which password and identifier must be right for. None: the name is
    /// that of neither.
    pub(super) fn own(
        &self,
        connect: &Connect,
        name: &str,
        password: &[u8],
    ) -> Option<Option<Who>> {
        let daemon = name == self.0.daemon.username;
        let known = if daemon {
            &self.0.daemon
        } else if name == self.0.local.username {
            &self.0.local
        } else {
            return None;
        };
        let id = &connect.client_id;
        let own_id = daemon == (*id == self.0.daemon_id) && !id.contains(OWNED);
        let right = credentials::same(password, known.password.as_bytes()) && own_id;
        let who = if daemon { Who::Daemon } else { Who::Local };
        Some(right.then_some(who))
    }

    pub(super) fn may(
        &self,
        client_id: &str,
        user: Option<&str>,
        topic: &str,
        publish: bool,
    ) -> bool {
        let rest = topic
            .strip_prefix(&self.0.base)
            .and_then(|rest| rest.strip_prefix('/'));
        let Some(name) = user else {
            return false;
        };
        let daemon = name == self.0.daemon.username;
        match rest {
            Some(_) if daemon => true,
            Some(rest) if name == self.0.local.username => {
                (self.0.local_may)(client_id, rest, publish)
            }
            Some(rest) => (self.0.user_may)(name, rest, publish),
            None => {
                (self.0.outside_may)(daemon, topic, publish)
                    || self.0.shared.iter().any(|shared| covers(shared, topic))
            }
        }
    }
}

/// Makes the identifier of a further user's client that user's own, in what was read of its CONNECT and in the bytes of it.
/// A client without one has no session.
pub(super) fn own_identifier(name: &str, connect: &mut Connect, body: &mut Vec<u8>) {
    let nameless = connect.client_id.is_empty();
    let mut id = format!("{name}{OWNED}{}", connect.client_id);
    if id.len() > CLIENT_ID_MAX {
        let hash = hex(&Sha256::digest(&connect.client_id));
        id = format!("{name}{OWNED}{hash:.32}");
    }
    if nameless {
        connect.keeps = false;
    } else {
        framing::rename(body, &id);
    }
    connect.client_id = id;
}

/// The further user whose client has this identifier; empty for the owner's programs.
pub(super) fn owner(client_id: &str) -> &str {
    client_id.split_once(OWNED).map_or("", |(name, _)| name)
}
