//! Why the daemon ended, and whether another start can help.

use glowplug_model::seal::KeyFileError;

use crate::inference::Lost;
use crate::models::registry::{Registry, STARTS_MAX, UnfitModel};
use crate::mqtt::broker::BrokerError;
use crate::mqtt::broker::credentials::CredentialsError;

/// Why the daemon ended or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The model cannot be served or does not fit, until somebody changes it or the configuration.
    #[error("{0}")]
    Model(String),
    /// The model cannot be served now; another start may help.
    #[error("{0}")]
    NotNow(String),
    /// The model cannot be served, but another model may be.
    #[error("{0}; after {STARTS_MAX} such starts another model that is here is served")]
    OnTrial(String),
    /// The model had answered, and does not any more.
    #[error("{0}")]
    Broke(String),
}

/// The error for a model that has not answered. Further starts may serve another model; if that was tried too, the
/// first one has its turns again.
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
