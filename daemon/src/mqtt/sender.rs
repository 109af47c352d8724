//! The task behind a [`Link`]: it connects for ever, sends what waits, and decides what follows when a connection ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glowplug_firmware_config::limits::CALLS_IN_FLIGHT_MAX;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::Backoff;
use super::client::{Answer, Connection, Done, RECEIVE_MAX};
use super::dial::Outside;
use super::flight::{Cause, Flight, Next};
use super::outbox::{Lane, Outbox};
use super::outcome::{Ending, Offer, Settled};
use super::tls::Seen;
use super::{
    Ack, Event, EventSender, Events, Goodbye, Link, Options, Outgoing, Qos, Rejection, Wish,
    intake_bytes,
};

/// Events that are not read yet. [`intake_bytes`] bounds their bytes. In a flood of QoS 0 the socket waits, and nothing
/// grows.
const EVENTS: usize = 128;
/// Most bytes of an outgoing packet besides topic and payload: header and properties.
const OVERHEAD: usize = 512;
/// First and longest pause after [`Link::leave`].
const AWAY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// A connection after [`Link::leave`] that stood this long has proved that we are alone again.
const BACK: Duration = Duration::from_secs(30);
/// First and longest pause before a refused subscription is asked for again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Time for publications in flight to be acknowledged before a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often the files of TLS are looked at. Who renews certificates does so hours before they expire.
const LOOK: Duration = Duration::from_secs(10);
/// After this many connections in a row that were closed soon after they stood, the log says what that looks like.
const CLOSES: u32 = 3;

/// Changes of subscriptions that were not made yet, and those that were not answered yet: each call of a tool may ask for
/// one and take it back, and the pool has one.
const WISHES: usize = 4 * CALLS_IN_FLIGHT_MAX;

/// Starts to connect in the background, and never gives up. [`Event`]s tell how it goes.
pub fn connect(options: Options) -> (Link, Events) {
    let outside = Outside::real(&options.server);
    connect_in(outside, options)
}

/// The same in a world that may be another one.
pub(super) fn connect_in(outside: Outside, options: Options) -> (Link, Events) {
    let outbox = Arc::new(Outbox::default());
    let (acks, acks_rx) = mpsc::channel(usize::from(RECEIVE_MAX));
    let (wishes, wishes_rx) = mpsc::channel(WISHES);
    let (commands, commands_rx) = mpsc::channel(2);
    let (events_tx, events) = mpsc::channel(EVENTS);
    let client = Client {
        room: Arc::new(Semaphore::new(intake_bytes(options.payload_max))),
        options,
        outside,
        outbox: outbox.clone(),
        acks: acks_rx,
        wishes: wishes_rx,
        commands: commands_rx,
        events: events_tx,
        flight: Flight::new(),
        reports: VecDeque::new(),
        backoff: Backoff::default(),
        since: None,
        away: 0,
        closes: 0,
        closing: None,
    };
    tokio::spawn(client.run());
    let link = Link {
        outbox,
        acks,
        wishes,
        commands,
    };
    (link, Events(events))
}

struct Client {
    options: Options,
    outside: Outside,
    /// Room for the bytes of events that are not read yet.
    room: Arc<Semaphore>,
    outbox: Arc<Outbox>,
    acks: mpsc::Receiver<Ack>,
    wishes: mpsc::Receiver<Wish>,
    commands: mpsc::Receiver<Goodbye>,
    events: EventSender,
    flight: Flight<Done>,
    /// Events that were not told yet.
    reports: VecDeque<Event>,
    backoff: Backoff,
    /// When this connection began to stand.
    since: Option<Instant>,
    /// How often another daemon was found to have our name.
    away: u32,
    /// Connections in a row that were closed soon after they stood.
    closes: u32,
    closing: Option<oneshot::Sender<()>>,
}

impl Client {
    async fn run(mut self) {
        loop {
            self.outbox.next_connection();
            // what is left belongs to earlier connections
            while self.acks.try_recv().is_ok() {}
            while self.wishes.try_recv().is_ok() {}
            self.since = None;
            let end = self.connection().await;
            let stood = self.since.map_or(Duration::ZERO, |at| at.elapsed());
            let Some((event, pause)) = self.ended(end, stood) else {
                break;
            };
            self.reports.push_back(event);
            self.report().await;
            let goes_on = self.pause(pause).await;
            if !goes_on {
                break;
            }
        }
        if let Some(done) = self.closing.take() {
            // if nobody waits any more, that is just as good
            let _ = done.send(());
        }
    }

    /// What follows from the end of a connection that stood for so long. None: the link has ended.
    fn ended(&mut self, end: Ending, stood: Duration) -> Option<(Event, Duration)> {
        if stood >= BACK {
            self.away = 0;
        }
        let closed = matches!(end, Ending::Lost(_, Cause::Closed)) && self.since.is_some();
        self.closes = if closed && !self.backoff.has_lasted(stood) {
            self.closes + 1
        } else {
            0
        };
        let (mut reason, cause, refused) = match end {
            Ending::Closed => return None,
            Ending::Left => return Some(self.leave()),
            Ending::Renewed => {
                let reason =
                    "the certificates have changed, and a new connection takes them".to_owned();
                let refused = false;
                return Some((Event::Down { reason, refused }, Duration::ZERO));
            }
            Ending::Lost(..) if self.away > 0 && self.since.is_some() => return Some(self.leave()),
            Ending::Lost(reason, cause) => (reason, cause, false),
            Ending::Refused(reason) => (reason, Cause::Other, true),
        };
        // the last acknowledgements may have come together with the end
        while let Some(settled) = self.flight.oldest().and_then(settled) {
            if self.settle(settled).is_err() {
                break;
            }
        }
        for out in self.flight.take_calls() {
            self.give_up(out, Rejection::Lost);
        }
        for out in self.outbox.take(Lane::Tool) {
            self.give_up(out, Rejection::Lost);
        }
        let now = Instant::now().into_std();
        if let Some((out, why)) = self.flight.lost(cause, now) {
            self.give_up(out, why);
        }
        if self.closes >= CLOSES {
            reason = format!(
                "{reason}; connections are closed soon after they stood, again and again: \
                 does another client use the client identifier `{}`?",
                self.options.client_id
            );
        }
        Some((
            Event::Down { reason, refused },
            self.backoff.ended(now, stood),
        ))
    }

    /// Drops everything that was to be sent: the other daemon will answer it.
    fn leave(&mut self) -> (Event, Duration) {
        for out in self.flight.clear() {
            self.outbox.release(&out);
        }
        self.outbox.clear();
        let pause = AWAY.0.saturating_mul(1 << self.away.min(10)).min(AWAY.1);
        self.away += 1;
        (Event::Left { pause }, pause)
    }

    /// Waits before the next attempt. False: there is nothing to come back for.
    async fn pause(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while self.closing.is_none() {
            tokio::select! {
                () = sleep_until(until) => return true,
                command = self.commands.recv() => match command {
                    // we are away already
                    Some(Goodbye::Leave) => {}
                    Some(Goodbye::Close(done)) => self.closing = Some(done),
                    None => self.closing = Some(oneshot::channel().0),
                },
            }
        }
        if self.outbox.is_empty() && self.flight.is_empty() {
            return false;
        }
        // what is queued may still be sent on the next connection
        sleep_until(until).await;
        true
    }

    async fn connection(&mut self) -> Ending {
        let (number, room) = (self.outbox.connection(), self.room.clone());
        let files = (self.options.server.tls).then(|| Seen::now(&self.options.tls));
        let events = self.events.clone();
        let (connection, reader, offer) =
            Connection::open(&self.options, &self.outside, number, events, room);
        let mut reader = AbortOnDrop(reader);
        let ended = |joined: Result<Ending, tokio::task::JoinError>| {
            joined.unwrap_or_else(|e| Ending::nobody(format!("MQTT event loop: {e}")))
        };
        let end = tokio::select! {
            end = &mut reader.0 => return ended(end),
            end = self.pump(&connection, offer, files) => end,
        };
        match end {
            // we disconnect, so the event loop's reason does not matter
            Ending::Closed | Ending::Left | Ending::Renewed => match ended((&mut reader.0).await) {
                Ending::Lost(..) | Ending::Closed => end,
                other => other,
            },
            // the event loop knows better why it ended
            other => match timeout(Duration::from_secs(1), &mut reader.0).await {
                Ok(joined) => ended(joined),
                Err(_) => other,
            },
        }
    }

    /// Sends everything on a connection that stands. It may be dropped at any `await`, because a publication is in
    /// flight before it is handed over.
    async fn pump(
        &mut self,
        connection: &Connection,
        offer: oneshot::Receiver<Offer>,
        files: Option<Seen>,
    ) -> Ending {
        let Ok(offer) = offer.await else {
            // the reader says why
            return std::future::pending().await;
        };
        let mut refused = Vec::new();
        for (filter, qos) in self.options.subscriptions.clone() {
            // a request that was sent to be retained is refused, so its flag must be seen
            if let Err(reason) = connection.subscribe(&filter, qos, true).await {
                let filter_again = (filter.clone(), qos);
                self.reports
                    .push_back(Event::Unsubscribed { filter, reason });
                refused.push(filter_again);
            }
        }
        self.since = Some(Instant::now());
        self.reports.push_back(Event::Up {
            packet_max: offer.packet_max,
            shared: offer.shared,
        });
        let mut asked: Vec<Answer> = Vec::new();
        let mut ask_again = (ASK_AGAIN.0, Instant::now() + ASK_AGAIN.0);
        let mut look = Instant::now() + LOOK;
        let mut renew = false;
        loop {
            if renew && self.flight.is_empty() {
                connection.disconnect(GOODBYE).await;
                return Ending::Renewed;
            }
            // what is on its way is acknowledged first, so that nothing is sent twice
            if !renew && let Err(end) = self.send(connection, &offer).await {
                return end;
            }
            self.report().await;
            if self.closing.is_some() && self.flight.is_empty() && self.outbox.is_empty() {
                connection.disconnect(GOODBYE).await;
                return Ending::Closed;
            }
            tokio::select! {
                biased;
                Some(ack) = self.acks.recv() => {
                    if ack.is_of(self.outbox.connection()) && let Err(end) = connection.ack(ack).await {
                        return end;
                    }
                }
                settled = oldest_done(&mut self.flight), if !self.flight.is_empty() => {
                    if let Err(end) = self.settle(settled) {
                        return end;
                    }
                }
                command = self.commands.recv(), if self.closing.is_none() => match command {
                    Some(Goodbye::Leave) => {
                        connection.disconnect_now().await;
                        return Ending::Left;
                    }
                    Some(Goodbye::Close(done)) => self.closing = Some(done),
                    None => self.closing = Some(oneshot::channel().0),
                },
                Some(wish) = self.wishes.recv(), if asked.len() < WISHES => asked.push(match wish {
                    Wish::Subscribe { token, filter, as_published } => {
                        connection.subscription(token, filter, as_published)
                    }
                    Wish::Unsubscribe(filter) => connection.unsubscription(filter),
                }),
                answer = first_answer(&mut asked), if !asked.is_empty() => self.reports.push_back(answer),
                () = self.outbox.news() => {}
                () = sleep_until(look), if files.is_some() => {
                    look = Instant::now() + LOOK;
                    renew = files.as_ref().is_some_and(|seen| seen.changed(&self.options.tls));
                }
                () = sleep_until(ask_again.1), if !refused.is_empty() => {
                    let mut still = Vec::new();
                    for (filter, qos) in refused {
                        match connection.subscribe(&filter, qos, true).await {
                            Ok(()) => tracing::info!("the broker grants the subscription to `{filter}` now"),
                            Err(_) => still.push((filter, qos)),
                        }
                    }
                    refused = still;
                    ask_again.0 = (2 * ask_again.0).min(ASK_AGAIN.1);
                    ask_again.1 = Instant::now() + ask_again.0;
                }
            }
        }
    }

    /// Hands over every publication that may be sent now.
    async fn send(&mut self, connection: &Connection, offer: &Offer) -> Result<(), Ending> {
        loop {
            let index = match self.flight.next() {
                Next::Wait => return Ok(()),
                Next::Hand(index) => index,
                Next::Pull => match self.outbox.pop() {
                    Some(out) => {
                        self.flight.take(out);
                        continue;
                    }
                    None => return Ok(()),
                },
            };
            let Some((out, acknowledged)) = self.flight.get(index) else {
                return Ok(());
            };
            let m = &out.message;
            let refusal = if m.topic.len() + m.payload.len() + OVERHEAD > offer.packet_max {
                // encoding it would end the connection, again at every attempt
                Some(Rejection::TooLarge)
            } else if self.flight.shuns(out, Instant::now().into_std()) {
                Some(Rejection::Closed)
            } else {
                None
            };
            if let Some(why) = refusal {
                if let Some(out) = self.flight.remove(index) {
                    self.give_up(out, why);
                }
                continue;
            }
            let qos = match (offer.qos, m.qos) {
                (Qos::AtLeastOnce, _) if acknowledged => Qos::AtLeastOnce,
                (Qos::AtLeastOnce, asked) => asked,
                (Qos::AtMostOnce, _) => Qos::AtMostOnce,
            };
            match connection.publish(m, qos, m.retain && offer.retain).await? {
                Some(done) => self.flight.handed_over(index, done),
                None => {
                    if let Some(out) = self.flight.remove(index) {
                        self.give_up(out, Rejection::Topic);
                    }
                }
            }
        }
    }

    /// The oldest publication in flight is done.
    fn settle(&mut self, settled: Settled) -> Result<(), Ending> {
        let (mut acknowledged, mut heard, mut refusal) = (true, true, None);
        match settled {
            Settled::Answered(why) => refusal = why,
            Settled::Unheard => heard = false,
            Settled::Sent => acknowledged = false,
            Settled::Lost(why) => {
                self.flight.withdraw();
                return Err(Ending::nobody(why));
            }
        }
        match (self.flight.settle(acknowledged), refusal) {
            (Some(out), None) if out.lane == Lane::Tool && !heard => {
                self.give_up(out, Rejection::Unheard);
            }
            (Some(out), None) => {
                self.outbox.release(&out);
                let delivered = out.token.map(|token| Event::Delivered(out.lane, token));
                self.reports.extend(delivered);
            }
            (Some(out), Some(why)) => self.give_up(out, why),
            (None, _) => {}
        }
        Ok(())
    }

    fn give_up(&mut self, out: Outgoing, why: Rejection) {
        self.outbox.release(&out);
        self.reports.push_back(Event::Refused(Box::new(out), why));
    }

    /// Tells what happened. At the daemon's goodbye nobody listens any more, but what is queued is still sent.
    async fn report(&mut self) {
        while !self.reports.is_empty() {
            let Ok(place) = self.events.reserve().await else {
                self.reports.clear();
                return;
            };
            if let Some(event) = self.reports.pop_front() {
                place.send((event, None));
            }
        }
    }
}

/// Waits for the first of the changes of subscriptions that is answered. They are sent in their order.
async fn first_answer(asked: &mut Vec<Answer>) -> Event {
    std::future::poll_fn(|context| {
        for at in 0..asked.len() {
            if let Poll::Ready(answer) = asked[at].as_mut().poll(context) {
                drop(asked.remove(at));
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits for the oldest publication only: acknowledgements come in order, and so does what is sent again.
async fn oldest_done(flight: &mut Flight<Done>) -> Settled {
    match flight.oldest() {
        Some(done) => done.await,
        None => std::future::pending().await,
    }
}

/// How the publication ended, if it has.
fn settled(done: &mut Done) -> Option<Settled> {
    match done.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<Ending>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
