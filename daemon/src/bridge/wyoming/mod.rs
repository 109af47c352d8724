//! The protocol of Home Assistant's voice services: a service `handle`, which answers what was said.
//!
//! A conversation is a session of the daemon. What is said goes to the model as it is, and what the model says comes back as one
//! text without marks of Markdown. Nothing in the house is switched by it.

mod conversations;
pub mod event;
mod talk;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};

use self::conversations::Conversations;
use self::event::{Decoder, Event};
use self::talk::Reply;
use super::BridgeError;
use super::connection::{Asked, Connection, Place};
use super::doors::{self, PATIENCE, Patient};

/// How long a connection may be without an event while nothing is asked.
const IDLE: Duration = Duration::from_secs(60);

/// How much is read of a client that was told to go, and for how long.
const REST_BYTES: u64 = 64 * 1024;
const REST: Duration = Duration::from_secs(2);

/// What all connections share.
struct Host {
    connection: Connection,
    conversations: Mutex<Conversations>,
    defaults: Map<String, Value>,
}

/// Serves until `stop`. `defaults` are fields of every request. At the end the daemon forgets the conversations.
pub async fn run(
    listener: TcpListener,
    place: Place,
    defaults: Map<String, Value>,
    stop: impl Future<Output = ()>,
) -> Result<(), BridgeError> {
    let (connection, refused) = Connection::open(place);
    let host = Arc::new(Host {
        connection,
        conversations: Mutex::default(),
        defaults,
    });
    let mut ended = Ok(());
    let stop = async {
        tokio::select! {
            () = stop => {}
            why = refused => {
                let why = why.unwrap_or_else(|failed| failed.to_string());
                ended = Err(BridgeError::Refused(why));
            }
        }
    };
    doors::accept(listener, stop, |stream, full| {
        serve(stream, full, Arc::clone(&host))
    })
    .await;
    let conversations = std::mem::take(&mut *host.conversations());
    for session in conversations.into_sessions() {
        host.connection.forget(&session);
    }
    host.connection.close().await;
    ended
}

impl Host {
    fn conversations(&self) -> std::sync::MutexGuard<'_, Conversations> {
        self.conversations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What an event asks for: an answer at once, or one to wait for. Events that are not known are passed over.
    fn take(&self, event: &Event) -> Option<Result<Asked, Reply>> {
        match event.kind.as_str() {
            "describe" => {
                let info = self.connection.info();
                Some(Err(talk::info(info.as_deref())))
            }
            "ping" => Some(Err(talk::pong(event))),
            "transcript" => Some(self.ask(event)),
            _ => None,
        }
    }

    fn ask(&self, event: &Event) -> Result<Asked, Reply> {
        let mut request = talk::request(event, &self.defaults)?;
        if let Some(conversation) = talk::conversation(event) {
            let (session, oldest) = self.conversations().session(conversation);
            if let Some(oldest) = oldest {
                self.connection.forget(&oldest);
            }
            request.insert("session".to_owned(), session.into());
        }
        self.connection
            .ask(request)
            .map_err(|why| talk::error(why.code(), &why.to_string()))
    }
}

/// One connection, until either side has had enough. A client that goes away cancels what it asked.
async fn serve(stream: TcpStream, full: bool, host: Arc<Host>) {
    let mut stream = Patient::new(stream, PATIENCE);
    if full {
        let reply = talk::error("overloaded", "there are too many connections");
        return part(stream, &reply).await;
    }
    let (mut decoder, mut bytes) = (Decoder::default(), [0; 4096]);
    let mut asked: Option<Asked> = None;
    let mut idle = Instant::now() + IDLE;
    loop {
        let reply = match decoder.event() {
            Ok(Some(event)) => {
                idle = Instant::now() + IDLE;
                match host.take(&event) {
                    // a new question takes the place of one that was not answered yet
                    Some(Ok(question)) => {
                        asked = Some(question);
                        continue;
                    }
                    Some(Err(reply)) => reply,
                    None => continue,
                }
            }
            Err(why) => {
                let reply = talk::error("invalid_request", &why.to_string());
                return part(stream, &reply).await;
            }
            Ok(None) => {
                tokio::select! {
                    read = stream.read(&mut bytes) => match read {
                        Ok(read @ 1..) => {
                            decoder.push(&bytes[..read]);
                            continue;
                        }
                        _ => return,
                    },
                    frame = answer(&mut asked) => {
                        asked = None;
                        idle = Instant::now() + IDLE;
                        talk::reply(&frame)
                    }
                    () = sleep_until(idle), if asked.is_none() => return,
                }
            }
        };
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// Says why the connection ends, and ends it. What the client still sends is read, because bytes that nobody read would take the
/// last word with them.
async fn part(mut stream: Patient<TcpStream>, reply: &Reply) {
    let parted = async {
        stream.write_all(reply).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(REST_BYTES), &mut tokio::io::sink()).await
    };
    // whoever does not hear it sees that the connection ends
    let _ = timeout(REST, parted).await;
}

/// The last frame of what was asked; never, if nothing was.
async fn answer(asked: &mut Option<Asked>) -> Value {
    match asked {
        Some(asked) => asked.next().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
