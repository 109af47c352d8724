//! TLS 1.2 and 1.3 on a connection, of rustls with ring: towards a broker, and in front of the embedded one. Nothing else of
//! MQTT knows of it: both sides get a stream.
//!
//! The files are read for each connection to a broker, and by the embedded broker when they have changed. So a
//! certificate that was renewed is used without a restart.

mod acceptor;
mod fault;
mod files;

pub(super) use acceptor::Acceptor;
pub(super) use fault::of_broker;
pub use files::FileError;

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio_rustls::rustls::{ClientConfig, Error};

use files::{Named, PairKeys, Stamps};

use crate::config::{Identity, Tls};

/// The keys of the client's files.
const CA_FILE: &str = "mqtt.ca_file";
const IDENTITY: PairKeys = ("mqtt.cert_file", "mqtt.key_file");

/// Bytes of one connection with TLS: what is decrypted and not read, what is encrypted and not sent, and the records on
/// their way in. [`BUFFER`] holds the first two down, a record has at most 18 KiB.
pub(super) const BYTES: usize = 64 << 10;
/// Bytes that wait to be sent on one connection, which are decrypted text or records.
const BUFFER: usize = 16 << 10;

/// What tells the time by which certificates are valid.
pub(super) type Clock = Arc<dyn TimeProvider>;

/// The clock of this system. It is read for each handshake, since it may be set when the daemon already runs.
pub(super) fn clock() -> Clock {
    Arc::new(DefaultTimeProvider)
}

/// Reads the files of a client.
fn client(tls: &Tls, clock: Clock) -> Result<Arc<ClientConfig>, FileError> {
    let roots = match &tls.ca_file {
        Some(path) => Named { key: CA_FILE, path }.authorities()?,
        None => files::system()?,
    };
    let builder = ClientConfig::builder_with_details(Arc::new(default_provider()), clock)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(of) => {
            let (certificates, key) = files::pair(of, IDENTITY)?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(|error| unusable(&error, of, IDENTITY))?
        }
    };
    Ok(Arc::new(config))
}

/// Why a certificate and a key cannot be used together.
fn unusable(error: &Error, of: &Identity, keys: PairKeys) -> FileError {
    if matches!(error, Error::InconsistentKeys(_)) {
        return FileError::Mismatch {
            cert_file: of.cert_file.clone(),
            cert_key: keys.0,
            key_file: of.key_file.clone(),
            key_key: keys.1,
        };
    }
    let file = Named {
        key: keys.0,
        path: &of.cert_file,
    };
    file.holds(format!("a certificate that cannot be used: {error}"))
}

/// The files of a client as they are now. They differ from others when a new connection would use another certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen(Stamps);

impl Seen {
    pub(super) fn now(tls: &Tls) -> Self {
        let identity = tls.identity.iter();
        let identity = identity.flat_map(|of| [&of.cert_file, &of.key_file]);
        Self(Stamps::of(tls.ca_file.iter().chain(identity)))
    }

    /// Whether the files are others now, and whole: one may be replaced a moment before its key.
    pub(super) fn changed(&self, tls: &Tls) -> bool {
        *self != Self::now(tls) && client(tls, clock()).is_ok()
    }
}

/// Speaks TLS with a broker, on the stream that comes of dialling its host. An error's text is a sentence that names file and
/// cause.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    dialled: impl Future<Output = io::Result<S>>,
    host: &str,
    tls: &Tls,
    clock: Clock,
) -> io::Result<TlsStream<S>> {
    let config = client(tls, clock).map_err(io::Error::other)?;
    let name = tls.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|_| {
        io::Error::other(format!(
            "`{name}` is no name that a certificate can have: see `mqtt.server_name`"
        ))
    })?;
    let connecting = TlsConnector::from(config).connect_with(name, dialled.await?, |connection| {
        connection.set_buffer_limit(Some(BUFFER));
    });
    connecting
        .await
        .map_err(|error| io::Error::other(fault::of_handshake(&error, tls)))
}
