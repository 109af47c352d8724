//! Why the daemon ended, and whether another start can help.

use crate::inference::Lost;
use crate::models::registry::{Registry, STARTS_MAX, UnfitModel};
use crate::mqtt::broker::BrokerError;
use crate::mqtt::broker::credentials::CredentialsError;

/// Why the daemon ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// no embedded broker
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// no password
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// the model cannot be served or does not fit, until somebody changes it or the configuration
    #[error("{0}")]
    Model(String),
    /// it cannot be served now; another start may help
    #[error("{0}")]
    NotNow(String),
    /// it cannot be served, but another model may
    #[error("{0}; after {STARTS_MAX} such starts another model that is here is served")]
    OnTrial(String),
    /// it answered, and does not any more
    #[error("{0}")]
    Broke(String),
}

/// A model has not answered. What is tried again may end in another one; where that was tried, the first has its turns again.
pub(super) fn unserved(registry: &Registry, fallback: bool, lost: Lost) -> RunError {
    match lost {
        Lost { why, .. } if !fallback && registry.has_way_back() => RunError::OnTrial(why),
        Lost { why, stays: true } if !fallback => RunError::Model(why),
        Lost { why, .. } => RunError::NotNow(why),
    }
}

pub(super) fn lost(error: &UnfitModel) -> Lost {
    Lost {
        why: error.to_string(),
        stays: error.stays(),
    }
}
