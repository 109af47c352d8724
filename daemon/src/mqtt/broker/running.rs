//! The embedded broker as it runs, and why it does not.

use std::io;
use std::net::SocketAddr;

use tokio::sync::broadcast;

use super::logins::LoginsError;
use crate::mqtt::FileError;

/// A running broker, which ends when this is dropped.
#[derive(Debug)]
pub struct Embedded {
    /// The address with the port that it really has.
    pub address: SocketAddr,
    /// Where the daemon itself comes in: the same, or a port on loopback where the other one speaks TLS.
    pub own: SocketAddr,
    pub(super) task: tokio::task::JoinHandle<io::Error>,
    pub(super) shutdown: broadcast::Sender<()>,
}

impl Embedded {
    /// Waits until the broker has ended by itself, which it should not, and says why.
    pub async fn ended(&mut self) -> String {
        let why = match (&mut self.task).await {
            Ok(error) => error.to_string(),
            Err(error) => error.to_string(),
        };
        format!("the embedded broker ended: {why}")
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.task.abort();
        // an error means that there is no connection
        let _ = self.shutdown.send(());
    }
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(
        "the embedded broker cannot listen on {0}: the address is taken, as by a broker that runs already. To use that one, \
         set `mqtt.url` (\"mqtt://{0}\"); to have both, give this one another address, `broker.listen`"
    )]
    Taken(SocketAddr),
    #[error("the embedded broker cannot listen on {0} (`broker.listen`): {1}")]
    Listen(SocketAddr, io::Error),
    #[error("the embedded broker cannot speak TLS: {0}")]
    Tls(#[from] FileError),
    #[error("the embedded broker cannot let its users in: {0}")]
    Users(#[from] LoginsError),
}
