//! The client crate, `rumqttc`. One file, because nothing else may name it.
//!
//! A connection is a value: every attempt makes a new event loop and throws it away at the first error, so nothing of
//! the crate's own state (replay queue, collisions, packet ids) outlives a connection. What must survive is ours: the
//! queue of a [`Link`](super::Link), and the publications in flight, which are sent again until the broker has
//! acknowledged them. The rules kept here have their reasons in `ARCHITECTURE.md`: one task polls and does nothing
//! else; every publish is tracked; subscriptions are asked for again on every connection and their answers are read;
//! packet sizes are explicit; silence ends a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AckMode, AsyncClient, Broker, ConnAck, ConnectionError, DisconnectReasonCode, EventLoop,
    LastWill, ManualAck, MqttOptions, Outgoing, Packet, PubAckReason, Publish, PublishNotice,
    PublishNoticeError, PublishOptions, PublishProperties, PublishResult, QoS, StateError,
    SubscribeFilterInput, SubscribeNoticeError, UnsubscribeNoticeError,
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::dial::{self, Outside};
use super::flight::{Cause, WINDOW};
use super::outcome::{Ending, Offer, Settled};
use super::silence::{Pulse, Silence, Then, Watched};
use super::{
    Event, EventSender, Incoming, Options, PACKET_MAX, Properties, Publication, Qos, Rejection,
    intake_bytes, tls,
};
use crate::config::Tls;

/// How long an attempt to connect may take in all. Each of its steps has a limit of its own: this one is for a broker that says
/// its first words a byte at a time.
const ATTEMPT: Duration = Duration::from_secs(60);
/// A filter that nobody subscribes to. A broker answers whoever takes it back, and that is all it is for.
const STILL_THERE: &str = "glowplug/still-there";
/// QoS 1 publications that the broker may send before the first one is acknowledged.
pub(super) const RECEIVE_MAX: u16 = 64;
/// Bytes of an event besides its texts and its payload.
const EVENT_BYTES: usize = 512;

/// The right to acknowledge one QoS 1 message on the connection it came by.
#[derive(Debug)]
pub struct Ack {
    connection: u64,
    ack: ManualAck,
}

impl Ack {
    pub(super) fn is_of(&self, connection: u64) -> bool {
        self.connection == connection
    }
}

/// The broker's answer to a change of what is subscribed to.
pub(super) type Answer = Pin<Box<dyn Future<Output = Event> + Send>>;

pub(super) type Done = Pin<Box<dyn Future<Output = Settled> + Send>>;

/// The sending half of a connection.
pub(super) struct Connection(AsyncClient);

impl Connection {
    /// Begins to connect. The task ends together with the connection; the offer comes once it stands.
    pub(super) fn open(
        options: &Options,
        outside: &Outside,
        number: u64,
        events: EventSender,
        room: Arc<Semaphore>,
    ) -> (Self, JoinHandle<Ending>, oneshot::Receiver<Offer>) {
        let pulse = Pulse::new();
        let (client, event_loop) =
            AsyncClient::builder(mqtt_options(options, outside, pulse.clone()))
                .capacity(WINDOW * 2)
                .build();
        let (connected, offer) = oneshot::channel();
        let keep_alive = Duration::from_secs(outside.keep_alive_s.into());
        let reader = Reader {
            client: client.clone(),
            events,
            room,
            connected: Some(connected),
            connection: number,
            payload_max: options.payload_max,
            tls: options.server.tls.then(|| options.tls.clone()),
            pulse,
            silence: Silence::new(keep_alive, Instant::now()),
        };
        (Self(client), tokio::spawn(reader.run(event_loop)), offer)
    }

    /// Subscribes and waits for the answer. An error is the broker's refusal. With `as_published` a publication has the
    /// retain flag that it was sent with; else only what the broker had kept has it.
    pub(super) async fn subscribe(
        &self,
        filter: &str,
        qos: Qos,
        as_published: bool,
    ) -> Result<(), String> {
        let input = SubscribeFilterInput::new(filter.to_owned(), qos_out(qos));
        let input = input.preserve_retain(as_published);
        match self.0.subscribe_many_tracked([input]).await {
            Ok(notice) => match notice.wait_completion_async().await {
                Ok(()) => Ok(()),
                Err(SubscribeNoticeError::V5SubAckFailure(codes)) => {
                    Err(codes.iter().map(|code| format!("{code:?}")).collect())
                }
                // the connection ends, and the reader says why
                Err(_) => std::future::pending().await,
            },
            Err(e) => Err(e.to_string()),
        }
    }

    /// The same, to be waited for beside other work.
    pub(super) fn subscription(&self, token: u64, filter: String, as_published: bool) -> Answer {
        let client = Self(self.0.clone());
        Box::pin(async move {
            let granted = client.subscribe(&filter, Qos::AtLeastOnce, as_published);
            let refused = granted.await.err();
            Event::Subscribed {
                token,
                filter,
                refused,
            }
        })
    }

    /// Takes a subscription back, likewise. If the connection ends before, that is just as good.
    pub(super) fn unsubscription(&self, filter: String) -> Answer {
        let client = self.0.clone();
        Box::pin(async move {
            if let Ok(notice) = client.unsubscribe_tracked(filter.clone()).await
                && matches!(
                    notice.wait_completion_async().await,
                    Ok(()) | Err(UnsubscribeNoticeError::V5UnsubAckFailure(_))
                )
            {
                return Event::Withdrawn { filter };
            }
            std::future::pending().await
        })
    }

    /// Hands a publication to the event loop. None: it cannot be sent on any connection.
    pub(super) async fn publish(
        &self,
        message: &Publication,
        qos: Qos,
        retain: bool,
    ) -> Result<Option<Done>, Ending> {
        let options = PublishOptions::new(qos_out(qos))
            .retain(retain)
            .properties(properties_out(&message.properties));
        let (topic, payload) = (message.topic.clone(), message.payload.clone());
        match self.0.publish_tracked(topic, payload, options).await {
            Ok(notice) => Ok(Some(Box::pin(settled(notice)))),
            Err(rumqttc::ClientError::InvalidRequest(_)) => Ok(None),
            Err(e) => Err(Ending::nobody(e)),
        }
    }

    pub(super) async fn ack(&self, ack: Ack) -> Result<(), Ending> {
        self.0.manual_ack(ack.ack).await.map_err(Ending::nobody)
    }

    /// Finishes what is under way, then disconnects. If the event loop is gone, that is just as good.
    pub(super) async fn disconnect(&self, limit: Duration) {
        let _ = self.0.disconnect_with_timeout(limit).await;
    }

    /// Disconnects at once, whatever is under way.
    pub(super) async fn disconnect_now(&self) {
        let _ = self.0.disconnect_now().await;
    }
}

/// Time for the reader to say why a connection ended, before a publication in flight says it.
const LAST_WORD: Duration = Duration::from_secs(1);

async fn settled(notice: PublishNotice) -> Settled {
    match notice.wait_async().await {
        Ok(PublishResult::Qos1(ack)) if ack.reason == PubAckReason::NoMatchingSubscribers => {
            Settled::Unheard
        }
        Ok(PublishResult::Qos1(ack)) => Settled::Answered(match ack.reason {
            PubAckReason::Success => None,
            PubAckReason::NotAuthorized => Some(Rejection::Denied),
            PubAckReason::TopicNameInvalid => Some(Rejection::Topic),
            PubAckReason::QuotaExceeded => Some(Rejection::Quota),
            _ => Some(Rejection::Other),
        }),
        Ok(_) => Settled::Sent,
        Err(PublishNoticeError::RetainNotSupported) => Settled::Answered(Some(Rejection::Other)),
        Err(e) => {
            tokio::time::sleep(LAST_WORD).await;
            Settled::Lost(e.to_string())
        }
    }
}

/// The task that polls and does nothing else.
struct Reader {
    client: AsyncClient,
    events: EventSender,
    room: Arc<Semaphore>,
    connected: Option<oneshot::Sender<Offer>>,
    connection: u64,
    payload_max: usize,
    /// How TLS is spoken on this connection, if it is.
    tls: Option<Tls>,
    pulse: Pulse,
    silence: Silence,
}

impl Reader {
    async fn run(mut self, mut event_loop: EventLoop) -> Ending {
        loop {
            let event = match self.next(&mut event_loop).await {
                Ok(event) => event,
                Err(end) => return end,
            };
            match event {
                rumqttc::Event::Incoming(Packet::ConnAck(ack)) => {
                    let keep_alive = ack.properties.as_ref().and_then(|p| p.server_keep_alive);
                    self.silence
                        .stands(keep_alive.map(|s| Duration::from_secs(s.into())));
                    if let Some(connected) = self.connected.take() {
                        // if the pump is gone, the select in the sender notices
                        let _ = connected.send(offer(&ack));
                    }
                }
                rumqttc::Event::Incoming(Packet::Publish(publish)) => {
                    let Ok(room) = self.room_for(&publish).await else {
                        return Ending::Closed;
                    };
                    let event = Event::Incoming(self.incoming(publish));
                    // at the daemon's goodbye nobody takes events any more, but this loop must go on; what comes late
                    // is not acknowledged
                    let _ = self.events.send((event, Some(room))).await;
                    self.silence.listens(Instant::now());
                }
                rumqttc::Event::Outgoing(Outgoing::PingReq) => self.silence.asked(Instant::now()),
                _ => {}
            }
        }
    }

    /// Waits for the next event, and meanwhile sees to it that the broker is still there.
    async fn next(&mut self, event_loop: &mut EventLoop) -> Result<rumqttc::Event, Ending> {
        let mut poll = std::pin::pin!(event_loop.poll());
        loop {
            let (due, then) = self.silence.due(self.pulse.last());
            tokio::select! {
                biased;
                event = &mut poll => return event.map_err(|error| self.end(error)),
                () = sleep_until(due) => {}
            }
            // bytes that have come since then are no event yet
            if self.silence.due(self.pulse.last()) != (due, then) {
                continue;
            }
            match then {
                Then::Ask => {
                    self.silence.asked(Instant::now());
                    // a queue without room for it is full of what has to be answered as well
                    let _ = self.client.try_unsubscribe(STILL_THERE);
                }
                Then::End => {
                    let silent = self.silence.limit().as_secs();
                    return Err(Ending::nobody(format!(
                        "the broker was silent for {silent} s"
                    )));
                }
            }
        }
    }

    /// Why the connection ended. Before it stood, the wrong kind of port and a certificate that the broker does not take
    /// look like a broker that closes for no reason.
    fn end(&self, error: ConnectionError) -> Ending {
        if let Some(tls) = &self.tls
            && let ConnectionError::MqttState(
                StateError::Io(io) | StateError::Deserialization(rumqttc::mqttbytes::Error::Io(io)),
            ) = &error
            && let Some(why) = tls::of_broker(io, tls)
        {
            return Ending::nobody(why);
        }
        let unreached = matches!(error, ConnectionError::Io(_));
        match end_of(error) {
            Ending::Lost(reason, Cause::Closed) if self.connected.is_some() && !unreached => {
                Ending::nobody(format!("{reason}; {}", dial::hint(self.tls.as_ref())))
            }
            end => end,
        }
    }

    /// Waits until enough of the earlier events were read to leave room for this one.
    async fn room_for(&self, publish: &Publish) -> Result<OwnedSemaphorePermit, AcquireError> {
        let p = publish.properties.as_ref();
        let texts = p.map_or(0, |p| {
            let text = |t: &Option<String>| t.as_ref().map_or(0, String::len);
            text(&p.response_topic)
                + text(&p.content_type)
                + p.correlation_data.as_ref().map_or(0, bytes::Bytes::len)
        });
        let payload = if publish.payload.len() > self.payload_max {
            0
        } else {
            publish.payload.len()
        };
        let bytes = EVENT_BYTES + publish.topic.len() + texts + payload;
        // three texts of 64 KiB and a payload of the longest size always fit
        let bytes = bytes.min(intake_bytes(self.payload_max)) as u32;
        self.room.clone().acquire_many_owned(bytes).await
    }

    fn incoming(&self, publish: Publish) -> Incoming {
        let ack = self.client.prepare_ack(&publish).map(|ack| Ack {
            connection: self.connection,
            ack,
        });
        let qos = if publish.qos == QoS::AtMostOnce {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
        let oversize = (publish.payload.len() > self.payload_max).then_some(publish.payload.len());
        // copied, because a slice would keep all of the packet's buffer alive
        let payload = if oversize.is_some() {
            bytes::Bytes::new()
        } else {
            bytes::Bytes::copy_from_slice(&publish.payload)
        };
        let p = publish.properties.unwrap_or_default();
        let properties = Properties {
            response_topic: p.response_topic,
            correlation_data: p
                .correlation_data
                .map(|d| bytes::Bytes::copy_from_slice(&d)),
            expiry_s: p.message_expiry_interval,
            content_type: p.content_type,
            utf8: p.payload_format_indicator == Some(1),
        };
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        Incoming {
            message: Publication {
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

fn offer(ack: &ConnAck) -> Offer {
    let p = ack.properties.as_ref();
    Offer {
        packet_max: p
            .and_then(|p| p.max_packet_size)
            .map_or(PACKET_MAX, |n| PACKET_MAX.min(n as usize)),
        qos: match p.and_then(|p| p.max_qos) {
            Some(0) => Qos::AtMostOnce,
            _ => Qos::AtLeastOnce,
        },
        retain: p.and_then(|p| p.retain_available) != Some(0),
        shared: p.and_then(|p| p.shared_subscription_available) != Some(0),
    }
}

fn end_of(error: ConnectionError) -> Ending {
    use DisconnectReasonCode as D;
    use rumqttc::ConnectReturnCode as C;
    match error {
        ConnectionError::RequestsDone => Ending::Closed,
        ConnectionError::ConnectionRefused(code) => {
            let reason = format!("the broker refused the connection: {code:?}");
            match code {
                C::BadUserNamePassword
                | C::NotAuthorized
                | C::Banned
                | C::BadClientId
                | C::ClientIdentifierNotValid => Ending::Refused(reason),
                C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => {
                    Ending::Refused(format!("{reason}; MQTT 5 is needed"))
                }
                _ => Ending::nobody(reason),
            }
        }
        // an acknowledgement with a reason code that the client crate does not know: brokers send more than the
        // standard has
        ConnectionError::MqttState(StateError::Deserialization(
            rumqttc::mqttbytes::Error::InvalidConnectReturnCode(code),
        )) => Ending::Lost(
            format!("the broker refused a message with code {code:#04x}"),
            Cause::Oldest(if code == D::PacketTooLarge as u8 {
                Rejection::TooLarge
            } else {
                Rejection::Other
            }),
        ),
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => {
            let cause = match reason_code {
                D::NotAuthorized => Cause::Told(Rejection::Denied),
                D::TopicNameInvalid => Cause::Told(Rejection::Topic),
                D::PacketTooLarge => Cause::Told(Rejection::TooLarge),
                D::QuotaExceeded => Cause::Told(Rejection::Quota),
                D::MalformedPacket
                | D::ProtocolError
                | D::UnspecifiedError
                | D::ImplementationSpecificError
                | D::PayloadFormatInvalid => Cause::Told(Rejection::Closed),
                _ => Cause::Other,
            };
            let why = reason_string.map_or(String::new(), |why| format!(" ({why})"));
            let reason = if reason_code == D::SessionTakenOver {
                "another client uses this client identifier".to_owned()
            } else {
                format!("the broker ended the connection: {reason_code:?}{why}")
            };
            Ending::Lost(reason, cause)
        }
        // this also covers the DISCONNECT without properties that Mosquitto sends, which the client crate cannot read
        ConnectionError::MqttState(
            e
            @ (StateError::ConnectionAborted | StateError::Io(_) | StateError::Deserialization(_)),
        ) => Ending::Lost(e.to_string(), Cause::Closed),
        // as a rule this comes before the broker was reached: nothing was on its way then, and nothing is blamed
        ConnectionError::Io(e) => Ending::Lost(e.to_string(), Cause::Closed),
        other => Ending::nobody(other),
    }
}

fn mqtt_options(o: &Options, outside: &Outside, pulse: Pulse) -> MqttOptions {
    let mut m = MqttOptions::new(
        o.client_id.clone(),
        Broker::tcp(o.server.host.clone(), o.server.port),
    );
    let way = outside.way.clone();
    let dial = move || {
        let (way, pulse) = (way.clone(), pulse.clone());
        async move {
            way.connect()
                .await
                .map(|stream| Watched::new(stream, pulse))
        }
    };
    if o.server.tls {
        let (host, tls, clock) = (o.server.host.clone(), o.tls.clone(), outside.clock.clone());
        m.set_socket_connector(move |_, _| {
            let (stream, host, tls) = (dial(), host.clone(), tls.clone());
            let clock = clock.clone();
            async move { tls::connect(stream, &host, &tls, clock).await }
        });
    } else {
        m.set_socket_connector(move |_, _| dial());
    }
    m.set_connect_timeout(ATTEMPT);
    m.set_keep_alive(outside.keep_alive_s);
    m.set_ack_mode(AckMode::Manual);
    m.set_receive_maximum(Some(RECEIVE_MAX));
    m.set_max_packet_size(u32::try_from(PACKET_MAX).ok());
    m.set_session_expiry_interval(Some(0));
    m.set_outgoing_inflight_upper_limit(WINDOW as u16);
    // one publication at a time: the others wait in the socket and take no memory
    m.set_read_batch_size(1);
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
