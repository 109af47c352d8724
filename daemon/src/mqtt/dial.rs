//! The way to a broker: a TCP connection, and what it may mean that the broker ends it before it has said a word.

use std::io;

use tokio::net::TcpStream;

use crate::config::{BrokerAddress, Tls};

/// Connects to the first address of the host that answers.
pub(super) async fn tcp(server: &BrokerAddress) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Why a broker may close a connection that it has accepted and said nothing on.
pub(super) fn hint(tls: Option<&Tls>) -> &'static str {
    match tls {
        None => {
            "a broker that speaks TLS on this port does that, and wants `mqtts://` in `mqtt.url`"
        }
        Some(tls) if tls.identity.is_none() => {
            "a broker that wants a certificate of its clients does that (`mqtt.cert_file` and `mqtt.key_file`)"
        }
        Some(_) => "a broker that does not take our certificate does that (`mqtt.cert_file`)",
    }
}
