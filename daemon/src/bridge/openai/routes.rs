//! What is at which path, and for whom.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use glowplug_firmware_config::limits::PAYLOAD_DEFAULT;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Body;
use super::answer::{Stream, whole};
use super::fault::Fault;
use super::keys::Keys;
use super::question::question;
use crate::bridge::connection::{Asked, Connection};

/// How long a client may take for the body of a request.
const BODY: Duration = Duration::from_secs(30);

/// Bytes of all bodies together, from their first byte to the end of their answers: with the daemon's usual limit as many as
/// there are connections.
const BODIES: usize = 16 << 20;

/// How much of a refused body is read, so that its sender gets to the answer, and for how long.
const REST_BYTES: usize = 1 << 20;
const REST: Duration = Duration::from_secs(2);

/// The daemon's clients, and who is which of them.
pub(super) struct Routes {
    clients: HashMap<String, Connection>,
    keys: Option<Keys>,
    defaults: Map<String, Value>,
    /// Room for bodies, in bytes.
    bodies: Arc<Semaphore>,
}

impl Routes {
    pub(super) fn new(
        clients: HashMap<String, Connection>,
        keys: Option<Keys>,
        defaults: Map<String, Value>,
    ) -> Self {
        Self {
            clients,
            keys,
            defaults,
            bodies: Arc::new(Semaphore::new(BODIES)),
        }
    }

    /// Answers a request. `full` says that there is no place for its connection.
    pub(super) async fn answer(&self, request: Request<Incoming>, full: bool) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        let known = match head.uri.path().trim_end_matches('/') {
            "/v1/models" => Some(Method::GET),
            "/v1/chat/completions" => Some(Method::POST),
            _ => None,
        };
        let answered = match known {
            _ if full => Err(Fault::full("there are too many connections")),
            None => {
                let why = format!("there is nothing at {}", head.uri.path());
                Err(Fault::new(StatusCode::NOT_FOUND, "not_found", why))
            }
            Some(method) if head.method != method => {
                let why = format!("it takes {method}");
                let mut response =
                    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", why).response();
                if let Ok(method) = HeaderValue::from_str(method.as_str()) {
                    response.headers_mut().insert(ALLOW, method);
                }
                Ok(response)
            }
            Some(method) => match self.client(&head.headers) {
                Err(fault) => Err(fault),
                Ok(client) if method == Method::GET => models(client),
                Ok(client) => self.chat(client, &mut body).await,
            },
        };
        match answered {
            Ok(response) => response,
            Err(fault) => {
                discard(&mut body).await;
                fault.response()
            }
        }
    }

    /// Whose request it is.
    fn client(&self, headers: &HeaderMap) -> Result<&Connection, Fault> {
        let denied = |why: &str| Fault::new(StatusCode::UNAUTHORIZED, "invalid_api_key", why);
        let Some(keys) = &self.keys else {
            // any page in this machine's browser can send a request to loopback, and its browser says so
            if headers.contains_key(ORIGIN) {
                let why = "without keys no page of a browser may ask; see --api-keys";
                return Err(Fault::new(StatusCode::FORBIDDEN, "forbidden", why));
            }
            let only = self.clients.values().next();
            return only.ok_or_else(|| denied("there is no client"));
        };
        let shown = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let (scheme, key) = shown
            .and_then(|shown| shown.split_once(' '))
            .ok_or_else(|| denied("an API key is needed, as `Authorization: Bearer KEY`"))?;
        let client = keys
            .client(key.trim())
            .filter(|_| scheme.eq_ignore_ascii_case("bearer"));
        client
            .and_then(|client| self.clients.get(client))
            .ok_or_else(|| denied("the API key is not known"))
    }

    async fn chat(
        &self,
        client: &Connection,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Fault> {
        let limit = client.info().map_or(PAYLOAD_DEFAULT, |info| {
            let limit = info["limits"]["max_payload_bytes"].as_u64();
            limit.map_or(PAYLOAD_DEFAULT, |limit| limit as usize)
        });
        let bodies = Arc::clone(&self.bodies);
        let mut room = bodies
            .try_acquire_many_owned(limit.min(BODIES) as u32)
            .map_err(|_| Fault::full("there is no room for another body now"))?;
        let body = read(body, limit.min(BODIES)).await?;
        // the rest of the room is for others
        drop(room.split(room.num_permits() - body.len()));
        let asked = question(&body, &self.defaults)?;
        drop(body);
        let mut answer = client.ask(asked.request)?;
        let gone = || Fault::full("the bridge is ending");
        let first = answer.next().await.ok_or_else(gone)?;
        if let Some(error) = first.get("error") {
            return Err(Fault::of_frame(error));
        }
        if !asked.stream {
            // it was asked not to come in pieces, so the first frame is the last
            return Ok(json_response(&whole(first, unix_s())?));
        }
        let mut events = Events {
            asked: answer,
            _room: room,
            stream: Stream::new(unix_s(), asked.usage),
            ready: VecDeque::new(),
            ended: false,
        };
        events.take(&first);
        let mut response = Response::new(events.boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }
}

/// The one model that the daemon serves.
fn models(client: &Connection) -> Result<Response<Body>, Fault> {
    let info = client.info();
    let name = info
        .as_ref()
        .and_then(|info| info["model"]["name"].as_str());
    let name = name.ok_or_else(|| Fault {
        code: "offline".to_owned(),
        ..Fault::full("the daemon has not said yet what it serves")
    })?;
    // nobody knows when it was made, and OpenAI's clients want a number
    let model = json!({ "id": name, "object": "model", "created": 0, "owned_by": "glowplug" });
    Ok(json_response(&json!({ "object": "list", "data": [model] })))
}

fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Reads a body to its end, no longer than `limit` and within its time.
async fn read(body: &mut Incoming, limit: usize) -> Result<Bytes, Fault> {
    match timeout(BODY, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(why)) if why.is::<LengthLimitError>() => Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            format!("the body has more than {limit} bytes, which is the limit"),
        )),
        Ok(Err(why)) => Err(Fault::invalid("", &format!("the body breaks off: {why}"))),
        Err(_) => Err(Fault::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body did not come within {} s", BODY.as_secs()),
        )),
    }
}

/// Reads on where nothing more is wanted. A connection that is closed with bytes unread takes the answer with it.
async fn discard(body: &mut Incoming) {
    let rest = async {
        let mut left = REST_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // what does not come in time is not waited for
    let _ = timeout(REST, rest).await;
}

/// It is for people only.
fn unix_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// An answer as server-sent events. Dropped before its end, because the client is gone, it cancels the request.
struct Events {
    asked: Asked,
    _room: OwnedSemaphorePermit,
    stream: Stream,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Events {
    fn take(&mut self, frame: &Value) {
        let (chunks, ended) = self.stream.take(frame);
        let event = |chunk: &Value| Bytes::from(format!("data: {chunk}\n\n"));
        self.ready.extend(chunks.iter().map(event));
        if ended {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ready
            .push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.ended = true;
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.asked.poll_next(context)) {
                Some(frame) => self.take(&frame),
                None => self.end(),
            }
        }
    }
}
