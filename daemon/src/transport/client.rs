//! The client crate, `rumqttc`, in the one file that names it.
//!
//! A connection is a value: every attempt makes a new event loop and throws it away at the first error, so nothing of the
//! crate's own state (replay queue, collisions, packet ids) outlives a connection. What must survive is ours: the queue of
//! a [`Link`] and the messages in flight, which are sent again until the broker acknowledged them. Rules kept here, with
//! their reasons in `ARCHITECTURE.md`: one task polls and does nothing else; every publish is tracked; subscriptions are
//! asked for again on every connection and their answers read; packet sizes are explicit; silence ends a connection.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use rumqttc::{
    AckMode, AsyncClient, Broker, ConnectionError, DisconnectReasonCode, EventLoop, LastWill,
    ManualAck, MqttOptions, NetworkOptions, Packet, PubAckReason, Publish, PublishNoticeError,
    PublishOptions, PublishProperties, PublishResult, QoS, StateError, SubscribeFilterInput,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{
    Ack, Command, Event, Events, Incoming, Link, Message, OUTBOX, Options, PACKET_MAX, Properties,
    Qos,
};

/// Seconds between pings; a dead peer is noticed within two of them.
const KEEP_ALIVE_S: u16 = 10;
/// Messages sent and not yet acknowledged.
const WINDOW: usize = 32;
/// QoS 1 messages the broker may send before the first is acknowledged.
const RECEIVE_MAX: u16 = 64;
/// Events not yet read; with QoS 0 in a flood the socket waits, and nothing grows.
const EVENTS: usize = RECEIVE_MAX as usize + 64;
/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Bytes of an outgoing packet besides topic and payload, at most (header, properties).
const OVERHEAD: usize = 512;

/// An acknowledgement and the connection it belongs to.
#[derive(Debug)]
pub struct PendingAck {
    connection: u64,
    ack: ManualAck,
}

/// Starts to connect, in the background and for ever; [`Event`]s tell how it goes.
pub fn connect(options: Options) -> (Link, Events) {
    let (commands, commands_rx) = mpsc::channel(OUTBOX);
    let (events_tx, events) = mpsc::channel(EVENTS);
    let outbox = Outbox {
        options,
        commands: commands_rx,
        events: events_tx,
        in_flight: VecDeque::new(),
        connection: 0,
        attempts: 0,
        closing: None,
    };
    tokio::spawn(outbox.run());
    (Link { commands }, events)
}

type Done = Pin<Box<dyn Future<Output = Result<PublishResult, PublishNoticeError>> + Send>>;

/// A message on its way; `done` is none until the event loop of this connection has it.
struct InFlight {
    message: Message,
    done: Option<Done>,
}

struct Outbox {
    options: Options,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    in_flight: VecDeque<InFlight>,
    connection: u64,
    attempts: u32,
    closing: Option<oneshot::Sender<()>>,
}

/// Why a connection ended.
enum End {
    /// another attempt may work
    Lost(String),
    /// the broker said no
    Refused(String),
    /// another client has our identifier
    Superseded,
    /// we are done
    Closed,
}

impl Outbox {
    async fn run(mut self) {
        loop {
            self.connection += 1;
            let (reason, refused, wait) = match self.connection().await {
                End::Closed => break,
                End::Lost(reason) => (reason, false, self.backoff()),
                End::Refused(reason) => (reason, true, self.backoff()),
                // two owners of one identifier throw each other out in turn: be the slow one
                End::Superseded => (
                    "another client uses this client identifier".to_owned(),
                    false,
                    BACKOFF.1,
                ),
            };
            for entry in &mut self.in_flight {
                entry.done = None;
            }
            if self
                .events
                .send(Event::Down { reason, refused })
                .await
                .is_err()
            {
                break;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = self.events.closed() => break,
            }
            if self.commands.is_closed() && self.commands.is_empty() {
                break;
            }
        }
        if let Some(done) = self.closing.take() {
            // nobody waiting any more is as good
            let _ = done.send(());
        }
    }

    /// Doubles from the shortest to the longest pause, half of it random, so that a fleet does not return as one.
    fn backoff(&mut self) -> Duration {
        let doubled = BACKOFF
            .0
            .saturating_mul(1 << self.attempts.min(10))
            .min(BACKOFF.1);
        self.attempts = self.attempts.saturating_add(1);
        doubled.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    async fn connection(&mut self) -> End {
        let (client, event_loop) = AsyncClient::builder(mqtt_options(&self.options))
            .capacity(WINDOW * 2)
            .build();
        let (connected_tx, connected) = oneshot::channel();
        let poll = Poll {
            event_loop,
            client: client.clone(),
            events: self.events.clone(),
            connected: Some(connected_tx),
            connection: self.connection,
            payload_max: self.options.payload_max,
        };
        let mut poll = AbortOnDrop(tokio::spawn(poll.run()));
        let ended = |joined: Result<End, tokio::task::JoinError>| {
            joined.unwrap_or_else(|e| End::Lost(format!("MQTT event loop: {e}")))
        };
        tokio::select! {
            end = &mut poll.0 => return ended(end),
            end = self.pump(&client, connected) => match end {
                // the disconnection is on its way: the event loop ends by itself
                End::Closed => {}
                other => return other,
            },
        }
        match ended((&mut poll.0).await) {
            // asked to close: how the event loop puts it does not matter
            End::Lost(_) | End::Closed => End::Closed,
            other => other,
        }
    }

    /// Everything a connection sends. Safe to drop at any `await`: a message is in `in_flight` before it is handed over.
    async fn pump(&mut self, client: &AsyncClient, connected: oneshot::Receiver<usize>) -> End {
        let Ok(packet_max) = connected.await else {
            // the poll task says why
            return std::future::pending().await;
        };
        self.attempts = 0;
        for (filter, qos) in &self.options.subscriptions {
            // retain-as-published: a request must show that it was sent to be kept, to be refused for it
            let input =
                SubscribeFilterInput::new(filter.clone(), qos_out(*qos)).preserve_retain(true);
            let granted = match client.subscribe_many_tracked([input]).await {
                Ok(notice) => notice
                    .wait_completion_async()
                    .await
                    .map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            if let Err(e) = granted {
                return End::Refused(format!("subscription to `{filter}`: {e}"));
            }
        }
        if self.events.send(Event::Up { packet_max }).await.is_err() {
            return End::Closed;
        }
        for i in 0..self.in_flight.len() {
            if let Err(end) = self.send(client, i, packet_max).await {
                return end;
            }
        }
        loop {
            let open = self.in_flight.len() < WINDOW && self.closing.is_none();
            tokio::select! {
                biased;
                result = first_done(&mut self.in_flight), if !self.in_flight.is_empty() => {
                    if let Err(end) = self.settle(result) {
                        return end;
                    }
                }
                command = self.commands.recv(), if open => match command {
                    Some(Command::Publish(message)) => {
                        self.in_flight.push_back(InFlight { message, done: None });
                        if let Err(end) = self.send(client, self.in_flight.len() - 1, packet_max).await {
                            return end;
                        }
                    }
                    Some(Command::Ack(Ack(pending))) => {
                        // the broker forgot what an earlier connection left unacknowledged
                        if pending.connection == self.connection && client.manual_ack(pending.ack).await.is_err() {
                            return End::Lost("the event loop is gone".to_owned());
                        }
                    }
                    Some(Command::Close(done)) => self.closing = Some(done),
                    None => {
                        let (done, _) = oneshot::channel();
                        self.closing = Some(done);
                    }
                },
                else => {
                    // closing, and nothing in flight
                    let _ = client.disconnect_with_timeout(Duration::from_secs(2)).await;
                    return End::Closed;
                }
            }
        }
    }

    async fn send(
        &mut self,
        client: &AsyncClient,
        index: usize,
        packet_max: usize,
    ) -> Result<(), End> {
        let Some(entry) = self.in_flight.get_mut(index) else {
            return Ok(());
        };
        let m = &entry.message;
        if m.topic.len() + m.payload.len() + OVERHEAD > packet_max {
            // encoding it would end the connection, again at every attempt
            tracing::error!(
                topic = m.topic,
                bytes = m.payload.len(),
                packet_max,
                "the broker takes no packet of this size; message dropped"
            );
            entry.done = Some(Box::pin(async { Ok(PublishResult::Qos0Flushed) }));
            return Ok(());
        }
        let options = PublishOptions::new(qos_out(m.qos))
            .retain(m.retain)
            .properties(properties_out(&m.properties));
        match client
            .publish_tracked(m.topic.clone(), m.payload.clone(), options)
            .await
        {
            Ok(notice) => {
                entry.done = Some(Box::pin(notice.wait_async()));
                Ok(())
            }
            Err(e) => Err(End::Lost(e.to_string())),
        }
    }

    /// The oldest message in flight came to its end.
    fn settle(&mut self, result: Result<PublishResult, PublishNoticeError>) -> Result<(), End> {
        let topic = self
            .in_flight
            .front()
            .map_or("", |e| e.message.topic.as_str());
        match result {
            Ok(PublishResult::Qos1(ack))
                if !matches!(
                    ack.reason,
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers
                ) =>
            {
                tracing::warn!(topic, reason = ?ack.reason, "the broker refused a message");
            }
            Ok(_) => {}
            Err(e @ PublishNoticeError::RetainNotSupported) => tracing::warn!(topic, "{e}"),
            Err(e) => return Err(End::Lost(e.to_string())),
        }
        self.in_flight.pop_front();
        Ok(())
    }
}

/// Waits for the oldest message only: acknowledgements come in order, and so are messages sent again.
async fn first_done(
    in_flight: &mut VecDeque<InFlight>,
) -> Result<PublishResult, PublishNoticeError> {
    match in_flight.front_mut().and_then(|e| e.done.as_mut()) {
        Some(done) => done.await,
        None => std::future::pending().await,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<End>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The task that polls and does nothing else.
struct Poll {
    event_loop: EventLoop,
    client: AsyncClient,
    events: mpsc::Sender<Event>,
    connected: Option<oneshot::Sender<usize>>,
    connection: u64,
    payload_max: usize,
}

impl Poll {
    async fn run(mut self) -> End {
        let mut silence = silence_limit(KEEP_ALIVE_S);
        loop {
            let event = match timeout(silence, self.event_loop.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(e)) => return end_of(e),
                Err(_) => return End::Lost(format!("silence for {} s", silence.as_secs())),
            };
            match event {
                rumqttc::Event::Incoming(Packet::ConnAck(ack)) => {
                    let p = ack.properties.as_ref();
                    silence =
                        silence_limit(p.and_then(|p| p.server_keep_alive).unwrap_or(KEEP_ALIVE_S));
                    let max = p
                        .and_then(|p| p.max_packet_size)
                        .map_or(PACKET_MAX, |n| PACKET_MAX.min(n as usize));
                    if let Some(connected) = self.connected.take() {
                        // a pump that is gone is noticed by the select above us
                        let _ = connected.send(max);
                    }
                }
                rumqttc::Event::Incoming(Packet::Publish(publish)) => {
                    let incoming = self.incoming(publish);
                    if self.events.send(Event::Message(incoming)).await.is_err() {
                        return End::Closed;
                    }
                }
                _ => {}
            }
        }
    }

    fn incoming(&self, publish: Publish) -> Incoming {
        let ack = self.client.prepare_ack(&publish).map(|ack| {
            Ack(PendingAck {
                connection: self.connection,
                ack,
            })
        });
        let qos = if publish.qos == QoS::AtMostOnce {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
        let oversize = (publish.payload.len() > self.payload_max).then_some(publish.payload.len());
        // an own copy: the packet's buffer goes back to the crate, whole
        let payload = if oversize.is_some() {
            bytes::Bytes::new()
        } else {
            bytes::Bytes::copy_from_slice(&publish.payload)
        };
        let p = publish.properties.unwrap_or_default();
        let properties = Properties {
            response_topic: p.response_topic,
            correlation_data: p.correlation_data,
            expiry_s: p.message_expiry_interval,
            content_type: p.content_type,
            utf8: p.payload_format_indicator == Some(1),
        };
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        Incoming {
            message: Message {
                topic,
                payload,
                qos,
                retain: publish.retain,
                properties,
            },
            oversize,
            ack,
        }
    }
}

fn silence_limit(keep_alive_s: u16) -> Duration {
    Duration::from_secs(2 * u64::from(keep_alive_s) + 5)
}

fn end_of(error: ConnectionError) -> End {
    match error {
        ConnectionError::RequestsDone => End::Closed,
        ConnectionError::ConnectionRefused(code) => {
            use rumqttc::ConnectReturnCode as C;
            let reason = format!("the broker refused the connection: {code:?}");
            match code {
                C::BadUserNamePassword
                | C::NotAuthorized
                | C::Banned
                | C::BadClientId
                | C::ClientIdentifierNotValid => End::Refused(reason),
                C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => {
                    End::Refused(format!("{reason}; MQTT 5 is needed"))
                }
                _ => End::Lost(reason),
            }
        }
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => End::Superseded,
        other => End::Lost(other.to_string()),
    }
}

fn mqtt_options(o: &Options) -> MqttOptions {
    let mut m = MqttOptions::new(
        o.client_id.clone(),
        Broker::tcp(o.server.host.clone(), o.server.port),
    );
    m.set_keep_alive(KEEP_ALIVE_S);
    m.set_ack_mode(AckMode::Manual);
    m.set_receive_maximum(Some(RECEIVE_MAX));
    m.set_max_packet_size(u32::try_from(PACKET_MAX).ok());
    m.set_session_expiry_interval(Some(0));
    m.set_outgoing_inflight_upper_limit(WINDOW as u16);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    m.set_network_options(network);
    if let Some(c) = &o.credentials {
        m.set_credentials(c.username.clone(), c.password.clone());
    }
    if let Some(w) = &o.will {
        m.set_last_will(LastWill::new(
            w.topic.clone(),
            w.payload.to_vec(),
            qos_out(w.qos),
            w.retain,
            None,
        ));
    }
    m
}

fn qos_out(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}

fn properties_out(p: &Properties) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: p.utf8.then_some(1),
        message_expiry_interval: p.expiry_s,
        response_topic: p.response_topic.clone(),
        correlation_data: p.correlation_data.clone(),
        content_type: p.content_type.clone(),
        ..PublishProperties::default()
    }
}
