//! When Home Assistant is told of the daemon, and when it is told to forget it: the retained document outlives the daemon
//! on its broker, so a later run that is not to be discovered takes it away.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use glowplug_model::files::make_private_folder;

use super::Daemon;
use crate::config::Config;
use crate::files;
use crate::wire::homeassistant::{config_topic, document};
use crate::wire::topics::Topics;

/// What is to be on the topic of discovery.
pub(super) enum Discovery {
    /// Nothing of ours is there, and the topic is left alone: a daemon that never used it needs no right to it.
    Silent,
    /// The document of this daemon.
    Told,
    /// Nothing any more. The file is the mark that an earlier run left with its document.
    Emptied {
        mark: PathBuf,
        /// The broker has been given the empty payload, and has not refused it.
        sent: bool,
    },
}

impl Discovery {
    /// Reads and leaves the mark. The embedded broker forgets by itself, so there is none for it.
    pub(super) fn new(config: &Config, topics: &Topics) -> Self {
        let name = format!("homeassistant.{}", topics.client_id());
        let mark = config.state_dir.join(name);
        let external = config.mqtt.server.is_some();
        if config.discovery {
            let leave = || -> io::Result<()> {
                make_private_folder(&config.state_dir)?;
                files::replace(&mark, b"")
            };
            if external
                && !mark.exists()
                && let Err(error) = leave()
            {
                tracing::warn!(
                    "{}: {error}; when `homeassistant.discovery` is switched off, Home Assistant will not be told",
                    mark.display()
                );
            }
            Self::Told
        } else if external && mark.exists() {
            Self::Emptied { mark, sent: false }
        } else {
            Self::Silent
        }
    }

    /// The broker does not take what was published on this topic.
    pub(super) fn refused(&mut self, topic: &str, node: &str) {
        if let Self::Emptied { sent, .. } = self
            && topic == config_topic(node)
        {
            *sent = false;
        }
    }

    /// At the daemon's end: what was taken away need not be taken away again.
    pub(super) fn end(&self) {
        if let Self::Emptied { mark, sent: true } = self
            && let Err(error) = std::fs::remove_file(mark)
        {
            tracing::warn!("{}: {error}", mark.display());
        }
    }
}

impl Daemon {
    /// Publishes the document, or takes it away. Every connection begins with it, and so does Home Assistant.
    pub(super) fn publish_discovery(&mut self) {
        let payload = match &mut self.discovery {
            Discovery::Silent => return,
            Discovery::Told => document(
                &self.config.node,
                &self.topics,
                self.config.mqtt.metrics_interval,
                self.inference.machine.state.borrow().temperature.is_some(),
            ),
            Discovery::Emptied { sent, .. } => {
                *sent = true;
                Bytes::new()
            }
        };
        self.publish_retained(config_topic(&self.config.node), payload);
    }
}
