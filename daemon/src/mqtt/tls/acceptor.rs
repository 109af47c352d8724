//! The embedded broker's side of TLS: its certificate, read again when its files have changed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::server::TlsStream;

use super::files::{FileError, Named, PairKeys, Stamps, pair};
use super::{BUFFER, unusable};
use crate::config::ListenerTls;

const CA_FILE: &str = "broker.tls.ca_file";
const IDENTITY: PairKeys = ("broker.tls.cert_file", "broker.tls.key_file");

/// Makes connections that came in speak TLS.
#[derive(Debug)]
pub(in crate::mqtt) struct Acceptor {
    files: ListenerTls,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    stamps: Stamps,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// Says which of them cannot be used, and why.
    pub(in crate::mqtt) fn new(files: ListenerTls) -> Result<Self, FileError> {
        let loaded = Mutex::new(Loaded {
            stamps: stamps(&files),
            config: load(&files)?,
        });
        Ok(Self { files, loaded })
    }

    /// Waits for the handshake of a client.
    ///
    /// # Errors
    /// The client went away, speaks something else, or shows no certificate where it must.
    pub(in crate::mqtt) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config());
        let accepting = acceptor.accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(BUFFER));
        });
        accepting.await
    }

    /// The configuration of the files as they are. Where they cannot be used now, the one before goes on: a certificate
    /// may be replaced a moment before its key.
    fn config(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != loaded.stamps {
            // looked at once more only when they change again
            loaded.stamps = stamps;
            match load(&self.files) {
                Ok(config) => {
                    tracing::info!(
                        "the embedded broker's certificate has changed and was read again"
                    );
                    loaded.config = config;
                }
                Err(error) => {
                    tracing::error!(
                        "{error}; the embedded broker keeps the certificate that it had"
                    );
                }
            }
        }
        Arc::clone(&loaded.config)
    }
}

fn stamps(of: &ListenerTls) -> Stamps {
    let identity = [&of.identity.cert_file, &of.identity.key_file];
    Stamps::of(identity.into_iter().chain(&of.ca_file))
}

fn load(of: &ListenerTls) -> Result<Arc<ServerConfig>, FileError> {
    let (certificates, key) = pair(&of.identity, IDENTITY)?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match &of.ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let file = Named { key: CA_FILE, path };
            let roots = Arc::new(file.authorities()?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| file.holds(format!("no authority that can be used: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| unusable(&error, &of.identity, IDENTITY))?;
    Ok(Arc::new(config))
}
