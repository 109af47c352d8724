//! What comes of a connection and of what is sent on it, in other words than the client crate's.

use super::flight::Cause;
use super::{Qos, Rejection};

/// Why a connection ended.
pub(super) enum Ending {
    /// Another attempt may work.
    Lost(String, Cause),
    /// The broker said no.
    Refused(String),
    /// We left, because another daemon has our name.
    Left,
    /// We left, to come back at once with the certificates that are there now.
    Renewed,
    /// The link was closed.
    Closed,
}

impl Ending {
    pub(super) fn nobody(reason: impl std::fmt::Display) -> Self {
        Self::Lost(reason.to_string(), Cause::Other)
    }
}

/// What a broker says it can do.
pub(super) struct Offer {
    pub(super) packet_max: usize,
    /// The highest quality of service of a publish.
    pub(super) qos: Qos,
    /// Whether it keeps retained messages.
    pub(super) retain: bool,
    /// Whether it has shared subscriptions.
    pub(super) shared: bool,
}

/// How the sending of a publication ended.
pub(super) enum Settled {
    /// It was acknowledged, or it was refused for this reason.
    Answered(Option<Rejection>),
    /// It was acknowledged, and nobody subscribes to its topic.
    Unheard,
    /// The socket took it; with QoS 0 that is all there is to know.
    Sent,
    /// Nothing is known, because the connection ends.
    Lost(String),
}
