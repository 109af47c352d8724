//! HTTP as OpenAI's clients speak it: `/v1/models` and `/v1/chat/completions`, whole and as server-sent events.
//!
//! A request becomes one chat request without a session: what was said before is in its messages, and the daemon finds their
//! pages by itself. A client that goes away cancels what it asked.

mod answer;
mod fault;
pub mod keys;
mod question;
mod routes;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

use self::keys::Keys;
use self::routes::Routes;
use super::BridgeError;
use super::connection::{Connection, Place};
use super::doors::{self, PATIENCE, Patient};

/// What answers are sent in.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long a client may take for the head of a request, and be idle between two.
const HEAD: Duration = Duration::from_secs(30);

/// How long one that is turned away may take for it.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// Longest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// Serves until `stop`. Without keys every request is the first place's; else that of its key's client. `defaults` fills in
/// what a request does not say.
pub async fn run(
    listener: TcpListener,
    places: Vec<Place>,
    keys: Option<Keys>,
    defaults: Map<String, Value>,
    stop: impl Future<Output = ()>,
) -> Result<(), BridgeError> {
    let mut refused = tokio::task::JoinSet::new();
    let mut clients = HashMap::new();
    for place in places {
        let client = place.client.clone();
        let (connection, task) = Connection::open(place);
        refused.spawn(task);
        clients.insert(client, connection);
    }
    let open: Vec<Connection> = clients.values().cloned().collect();
    let routes = Arc::new(Routes::new(clients, keys, defaults));
    let mut ended = Ok(());
    let stop = async {
        tokio::select! {
            () = stop => {}
            Some(why) = refused.join_next() => {
                let why = match why {
                    Ok(Ok(why)) => why,
                    Ok(Err(failed)) | Err(failed) => failed.to_string(),
                };
                ended = Err(BridgeError::Refused(why));
            }
        }
    };
    doors::accept(listener, stop, |stream, full| {
        serve(stream, full, Arc::clone(&routes))
    })
    .await;
    for connection in open {
        connection.close().await;
    }
    ended
}

/// One connection, until either side has had enough.
async fn serve(stream: TcpStream, full: bool, routes: Arc<Routes>) {
    let service = service_fn(|request| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(routes.answer(request, full).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if full { TURNED_AWAY } else { HEAD })
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS_MAX)
        .keep_alive(!full)
        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service)
        .await;
    if let Err(why) = served {
        tracing::debug!("a connection ended: {why}");
    }
}
