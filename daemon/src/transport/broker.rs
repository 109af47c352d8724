//! The embedded broker, `mqtt5`, in the one file that names it: zero set-up on loopback, both MQTT versions on one port,
//! users and topic rules always on. Production uses a broker of its own.
//!
//! Its measured traits (0.49): it adds a user property with the sender's client identifier to everything it forwards, it
//! answers a refused 3.1.1 publisher with a longer PUBACK than that version has, and it drops QoS 1 messages of a
//! subscriber that does not read, once the limits below are reached.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerConfig, MqttBroker};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

use super::{Credentials, PACKET_MAX, credentials};
use crate::wire::topics;

/// Connections at a time, the daemon's own among them.
const CLIENTS_MAX: usize = 64;
/// Messages, and their bytes, kept for one client that does not read.
const QUEUE_MAX: (usize, usize) = (1000, 4 << 20);
/// Retained messages in all.
const RETAINED_MAX: usize = 256;

/// A running broker; it ends when this is dropped.
#[derive(Debug)]
pub struct Embedded {
    /// where it really listens, port 0 resolved
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
#[error("the embedded broker cannot listen on {listen}: {why}")]
pub struct BrokerError {
    listen: SocketAddr,
    why: String,
}

/// Who may connect, and to which topics of `base`.
#[derive(Debug, Clone)]
pub struct Users {
    /// `{base}`
    pub base: String,
    /// the daemon: every topic below `{base}`
    pub daemon: Credentials,
    /// the daemon's client identifier, which nobody else may take
    pub daemon_id: String,
    /// programs of this machine's owner: what is public, and their own client's topics
    pub local: Credentials,
}

/// Binds and starts the broker. Boxed, not `async`: its future is large, and compiled here once.
pub fn start(
    listen: SocketAddr,
    users: Users,
) -> Pin<Box<dyn Future<Output = Result<Embedded, BrokerError>> + Send>> {
    Box::pin(async move {
        let fail = |e: &dyn std::fmt::Display| BrokerError {
            listen,
            why: e.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        let mut config = BrokerConfig::default()
            .with_bind_address(listen)
            .with_max_clients(CLIENTS_MAX)
            .with_max_packet_size(PACKET_MAX)
            .with_max_subscriptions_per_client(64)
            .with_max_retained_messages(RETAINED_MAX)
            .with_max_retained_message_size(64 << 10)
            .with_sys_topics_enabled(false)
            .with_storage(StorageConfig {
                backend: StorageBackend::Memory,
                // false would also switch off the sessions kept in memory
                enable_persistence: true,
                max_queued_messages_per_client: QUEUE_MAX.0,
                max_queued_bytes_per_client: QUEUE_MAX.1,
                ..StorageConfig::default()
            });
        config.maximum_qos = 1;
        config.topic_alias_maximum = 0;
        config.session_expiry_interval = std::time::Duration::from_secs(3600);
        // a wrong password costs its sender the connection and us nothing; a lock-out would hit the owner's own programs,
        // which all come from this one address
        config.auth_config.rate_limit.enabled = false;
        let broker = MqttBroker::with_config(config)
            .await
            .map_err(|e| fail(&e))?;
        let address = broker.local_addr().ok_or_else(|| fail(&"no address"))?;
        let mut broker = broker.with_auth_provider(Arc::new(Guard(users)));
        let mut ready = broker.ready_receiver();
        let task = tokio::spawn(async move {
            if let Err(e) = broker.run().await {
                tracing::error!("the embedded broker ended: {e}");
            }
        });
        // an error means that it ended at once; the client will say that nobody listens
        let _ = ready.wait_for(|r| *r).await;
        Ok(Embedded { address, task })
    })
}

/// Checks users and topics. The broker asks it for every connection, will, publish and subscription.
struct Guard(Users);

impl Guard {
    fn user(&self, connect: &ConnectPacket) -> Option<&Credentials> {
        let (name, password) = (connect.username.as_deref()?, connect.password.as_deref()?);
        let known = [&self.0.daemon, &self.0.local]
            .into_iter()
            .find(|c| c.username == name)?;
        let own_id =
            (known.username == self.0.daemon.username) == (connect.client_id == self.0.daemon_id);
        (credentials::same(password, known.password.as_bytes()) && own_id).then_some(known)
    }

    fn may(&self, client_id: &str, user: Option<&str>, topic: &str, publish: bool) -> bool {
        let rest = topics::below(&self.0.base, topic);
        match (user, rest) {
            (Some(name), Some(_)) if name == self.0.daemon.username => true,
            (Some(name), Some(rest)) if name == self.0.local.username => {
                topics::local_may(client_id, rest, publish)
            }
            // programs on the same machine may talk to each other elsewhere only through a broker of their own
            _ => false,
        }
    }
}

impl AuthProvider for Guard {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::error::Result<AuthResult>> + Send + 'a>> {
        let result = match self.user(connect) {
            Some(c) => AuthResult::success_with_user(c.username.clone()),
            None => AuthResult::fail(ReasonCode::BadUsernameOrPassword),
        };
        Box::pin(std::future::ready(Ok(result)))
    }

    fn authorize_publish<'a>(
        &'a self,
        client_id: &str,
        user: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(self.may(client_id, user, topic, true)))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        client_id: &str,
        user: Option<&'a str>,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(self.may(client_id, user, filter, false)))
    }
}
