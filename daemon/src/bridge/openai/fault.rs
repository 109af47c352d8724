//! Refusals as OpenAI's clients read them: a status, and an object `error`.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Body;
use crate::bridge::connection::Unavailable;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    /// The daemon's error code, or one of OpenAI's.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) retry_after_ms: Option<u64>,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            param: None,
            retry_after_ms: None,
        }
    }

    /// A body that is not what it has to be, and the field at fault.
    pub(super) fn invalid(param: &str, message: &str) -> Self {
        Self {
            param: (!param.is_empty()).then(|| param.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
        }
    }

    /// There is no place for it now.
    pub(super) fn full(message: &str) -> Self {
        Self {
            retry_after_ms: Some(1000),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
        }
    }

    /// The object `error` of a frame.
    pub(super) fn of_frame(error: &Value) -> Self {
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let code = text("code").unwrap_or_else(|| "internal".to_owned());
        Self {
            status: status(&code),
            code,
            message: text("message").unwrap_or_default(),
            param: text("param"),
            retry_after_ms: error["retry_after_ms"].as_u64(),
        }
    }

    /// OpenAI's word for the kind of error.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }

    pub(super) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind(),
            "code": self.code,
            "param": self.param,
        } })
    }

    pub(super) fn response(&self) -> Response<Body> {
        let body = Full::new(Bytes::from(self.body().to_string())).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(ms) = self.retry_after_ms {
            // whole seconds are all that it can say, and too early is in vain
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        response
    }
}

impl From<Unavailable> for Fault {
    fn from(why: Unavailable) -> Self {
        let code = why.code();
        Self {
            status: status(code),
            code: code.to_owned(),
            ..Self::full(&why.to_string())
        }
    }
}

/// The status of one of the daemon's error codes. A client tries again after 409, 429 and from 500 on.
fn status(code: &str) -> StatusCode {
    match code {
        "invalid_request" | "invalid_schema" | "context_length_exceeded" | "memory_budget" => {
            StatusCode::BAD_REQUEST
        }
        "not_found" => StatusCode::NOT_FOUND,
        "superseded" => StatusCode::CONFLICT,
        "payload_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "rate_limited" => StatusCode::TOO_MANY_REQUESTS,
        "overloaded" | "model_loading" | "draining" | "offline" => StatusCode::SERVICE_UNAVAILABLE,
        "deadline_exceeded" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_protocol_have_their_status() {
        let table = [
            ("invalid_request", 400, "invalid_request_error"),
            ("invalid_schema", 400, "invalid_request_error"),
            ("context_length_exceeded", 400, "invalid_request_error"),
            ("memory_budget", 400, "invalid_request_error"),
            ("not_found", 404, "invalid_request_error"),
            ("payload_too_large", 413, "invalid_request_error"),
            ("rate_limited", 429, "rate_limit_error"),
            ("overloaded", 503, "server_error"),
            ("model_loading", 503, "server_error"),
            ("draining", 503, "server_error"),
            ("deadline_exceeded", 504, "server_error"),
            ("internal", 500, "server_error"),
            ("one_of_a_later_version", 500, "server_error"),
        ];
        for (code, status, kind) in table {
            let fault = Fault::of_frame(&json!({ "code": code, "message": "m", "param": "p" }));
            assert_eq!(fault.status.as_u16(), status, "{code}");
            let body = json!({ "message": "m", "type": kind, "code": code, "param": "p" });
            assert_eq!(fault.body()["error"], body);
        }
    }

    #[test]
    fn a_time_to_wait_is_in_whole_seconds() {
        for (ms, seconds) in [(1, "1"), (1000, "1"), (1001, "2"), (61_500, "62")] {
            let error = json!({ "code": "overloaded", "message": "m", "retry_after_ms": ms });
            let response = Fault::of_frame(&error).response();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
        }
        let response = Fault::new(StatusCode::NOT_FOUND, "not_found", "m").response();
        assert!(response.headers().get(RETRY_AFTER).is_none());
    }
}
