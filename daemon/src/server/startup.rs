//! Start-up: the model is looked at, the broker is reached, and the select loop begins.

use std::io::ErrorKind;
use std::sync::Arc;

use glowplug_model::engine::Conversations;
use glowplug_model::seal::KeyFile;
use tokio::sync::{mpsc, oneshot};

use super::homeassistant::Discovery;
use super::model_change::{Change, Finding};
use super::pool::Pool;
use super::post::Post;
use super::run_error::{RunError, lost, unserved};
use super::stall::Stall;
use super::status::{self, Speed};
use super::tools::{self, OwnTools};
use super::{Daemon, Inference, Models, Run, Shutdown, Waiting, now};
use crate::config::{BrokerAddress, Config};
use crate::inference::messages::Load;
use crate::inference::{Lost, Machine};
use crate::machine::cores::Cores;
use crate::machine::memory_limit;
use crate::machine::sensors;
use crate::machine::systemd::{Notify, Supervisor};
use crate::models::registry::{Registry, Sighted};
use crate::mqtt::broker::credentials;
use crate::mqtt::broker::{self, Embedded};
use crate::mqtt::{self, Credentials, Events, Link, Options, Publication, Qos};
use crate::requests::admission::Admission;
use crate::requests::answer::Speaker;
use crate::requests::intake::Intake;
use crate::wire::homeassistant;
use crate::wire::topics::{self, Topics};

/// Findings not yet read; one check and one change of what is remembered are under way at a time.
const FINDINGS: usize = 4;

/// What a caller of [`run`] may need to know once the broker is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Where the broker in use is for this process; of the embedded one with the port that it really has.
    pub server: BrokerAddress,
    /// Where the embedded broker is for its clients, as a URL.
    pub embedded: Option<String>,
}

/// Runs until `shutdown` completes, then drains and stops. `config.model.path` must be set. `started` is told when the
/// broker can be reached; the model may load for longer: `status` on the broker says when it is `online`.
///
/// # Errors
/// [`RunError`] says whether another start can help.
pub async fn run(
    config: Config,
    started: oneshot::Sender<Started>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    // before the broker: whoever typed a wrong name should not have to wait for it
    let keys = config.sessions.key_file.as_deref().map(KeyFile::open);
    let keys = keys.transpose()?.map(Arc::new);
    let (models, first, findings) = models(&config)?;
    let topics = Topics::new(&config.base_topic, &config.node);
    let run = Run {
        boot_id: credentials::random()?,
        booted: now(),
        since: status::unix_ms(),
        ending: Shutdown::No,
    };
    let (embedded, server, credentials) = broker(&config, &topics).await?;
    let (link, events) = connect(&config, &topics, &run, server.clone(), credentials);
    let throttle = config.board.as_ref().map(|board| board.throttle);
    let machine = Machine {
        cores: Cores::here(&config.root),
        state: sensors::watch(&config.root, throttle),
        beat: config.supervisor.as_ref().and_then(Supervisor::beat),
        watchdog: config.supervisor.as_ref().and_then(|of| of.watchdog),
    };
    // the caller may not care
    let embedded_at = embedded.as_ref().map(|broker| {
        let scheme = if config.listen_tls.is_some() {
            "mqtts"
        } else {
            "mqtt"
        };
        format!("{scheme}://{}", broker.address)
    });
    let _ = started.send(Started {
        server,
        embedded: embedded_at,
    });
    let speaker = Speaker {
        node: config.node.clone(),
        model: config.model.name.clone().unwrap_or_default(),
        sha256: None,
    };
    let tools = OwnTools::new(&config, &topics, now());
    let mut daemon = Daemon {
        run,
        link,
        post: Post::default(),
        embedded,
        intake: Intake::new(&config),
        admission: Admission::new(
            config.engine.queue,
            config.engine.max_streams,
            config.engine.chunk,
            config.engine.dedup_window,
            speaker,
        ),
        inference: Inference {
            worker: None,
            machine,
            conversations: Conversations::default(),
            keys,
            model: None,
            computes: None,
            load: Load::default(),
            speed: Speed::default(),
            stall: Stall::default(),
        },
        tools,
        models,
        systemd: Notify::new(config.supervisor.as_ref()),
        discovery: Discovery::new(&config, &topics),
        pool: Pool::new(&config, &topics),
        topics,
        config,
    };
    let acted = daemon.tools.journal().entries();
    daemon.admission.acted_before(now(), acted);
    let taken = daemon.pool.iter().flat_map(Pool::left);
    daemon.admission.acted_before(now(), taken);
    daemon.serve(first, events, findings, shutdown).await
}

/// Decides which model to start with, and looks at its file's header.
fn models(config: &Config) -> Result<(Models, Sighted, mpsc::Receiver<Finding>), RunError> {
    let path = config
        .model
        .path
        .clone()
        .ok_or_else(|| RunError::Model("`model.path` is not set".to_owned()))?;
    let limit = memory_limit::here(config).map_err(|error| RunError::Model(error.to_string()))?;
    let mut registry = Registry::open(config, path).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => RunError::Model(error.to_string()),
        _ => RunError::NotNow(error.to_string()),
    })?;
    let (path, fallback) = registry.first();
    if fallback {
        tracing::error!(
            "the configured model did not answer in its last starts; serving the last one that did: {}",
            path.display()
        );
    }
    let first = registry.sight(&path, config, &limit).map_err(|error| {
        let Lost { why, stays } = lost(&error);
        let why = format!("{}: {why}", path.display());
        unserved(&registry, fallback, Lost { why, stays })
    })?;
    let (found, findings) = mpsc::channel(FINDINGS);
    let models = Models {
        registry,
        limit,
        fallback,
        served: None,
        change: Change::Checking(None),
        waiting: Waiting::default(),
        writes: None,
        found,
    };
    Ok((models, first, findings))
}

/// Begins to connect. The last will says that the daemon is offline.
fn connect(
    config: &Config,
    topics: &Topics,
    run: &Run,
    server: BrokerAddress,
    credentials: Option<Credentials>,
) -> (Link, Events) {
    let mut will = Publication::new(
        topics.status(),
        status::status("offline", &run.boot_id, run.since),
        Qos::AtLeastOnce,
    );
    will.retain = true;
    let mut subscriptions = [topics.subscriptions(), tools::subscriptions(config, topics)].concat();
    if config.discovery {
        subscriptions.push((homeassistant::STATUS.to_owned(), Qos::AtLeastOnce));
    }
    mqtt::connect(Options {
        server,
        tls: config.mqtt.tls.clone(),
        client_id: topics.client_id(),
        credentials,
        will: Some(will),
        subscriptions,
        payload_max: config.read_max(),
    })
}

/// The embedded broker if it is used, where the broker is, and how the daemon logs in.
type BrokerInUse = (Option<Embedded>, BrokerAddress, Option<Credentials>);

/// Starts the embedded broker unless the configuration names another one.
async fn broker(config: &Config, topics: &Topics) -> Result<BrokerInUse, RunError> {
    if let Some(server) = &config.mqtt.server {
        let password = config
            .mqtt
            .password_file
            .as_deref()
            .map(credentials::read_password)
            .transpose()?;
        let credentials = config.mqtt.username.clone().map(|username| Credentials {
            username,
            password: password.unwrap_or_default(),
        });
        return Ok((None, server.clone(), credentials));
    }
    let users = broker::Users {
        base: config.base_topic.clone(),
        shared: tools::shared(config),
        daemon: credentials::daemon()?,
        daemon_id: topics.client_id(),
        local: credentials::local(&config.state_dir)?,
        local_may: topics::local_may,
        file: config.users_file.clone(),
        user_may: topics::user_may,
        outside_may: if config.discovery {
            homeassistant::may
        } else {
            |_, _, _| false
        },
    };
    let own = users.daemon.clone();
    let embedded = broker::start(
        config.listen,
        config.listen_tls.as_ref(),
        users,
        config.engine.max_payload_bytes,
    )
    .await?;
    let server = BrokerAddress::of_listener(embedded.own, false);
    Ok((Some(embedded), server, Some(own)))
}
