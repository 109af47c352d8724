//! The daemon's select loop.

use crate::config::{Config, Server};
use tokio::sync::oneshot;

/// What a caller of [`run`] may need to know once the broker is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// the broker in use; the embedded one's real port
    pub server: Server,
}

/// Why the daemon ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// no embedded broker
    #[error(transparent)]
    Broker(#[from] crate::transport::broker::BrokerError),
    /// no password
    #[error(transparent)]
    Credentials(#[from] crate::transport::credentials::CredentialsError),
    /// the model
    #[error("{0}")]
    Model(String),
}

/// Runs until `shutdown` completes, then drains and stops. `config.model.path` must be set. `started` is told when the
/// broker can be reached; the model may load for longer: `status` on the broker says when it is `online`.
pub async fn run(
    _config: Config,
    _started: oneshot::Sender<Started>,
    _shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    todo!()
}
