//! The error codes of the protocol, and how refusals of the engine become one of them.

use glowplug_model::engine::{Refusal, SessionFault};

/// The `error.code` of a frame; the names are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // each is its own name in the protocol
pub enum Code {
    InvalidRequest,
    PayloadTooLarge,
    InvalidSchema,
    ContextLengthExceeded,
    MemoryBudget,
    Overloaded,
    RateLimited,
    DeadlineExceeded,
    ResponseTopicDenied,
    NotFound,
    ModelLoading,
    Draining,
    Superseded,
    Internal,
}

impl Code {
    /// All codes, in the order of the protocol's page.
    pub const ALL: [Self; 14] = [
        Self::InvalidRequest,
        Self::PayloadTooLarge,
        Self::InvalidSchema,
        Self::ContextLengthExceeded,
        Self::MemoryBudget,
        Self::Overloaded,
        Self::RateLimited,
        Self::DeadlineExceeded,
        Self::ResponseTopicDenied,
        Self::NotFound,
        Self::ModelLoading,
        Self::Draining,
        Self::Superseded,
        Self::Internal,
    ];

    /// The code as it is written in a frame.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::PayloadTooLarge => "payload_too_large",
            Self::InvalidSchema => "invalid_schema",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::MemoryBudget => "memory_budget",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResponseTopicDenied => "response_topic_denied",
            Self::NotFound => "not_found",
            Self::ModelLoading => "model_loading",
            Self::Draining => "draining",
            Self::Superseded => "superseded",
            Self::Internal => "internal",
        }
    }
}

// a code that is missing there has moved the last one
const _: () = assert!(Code::Internal as usize + 1 == Code::ALL.len());

/// Longest message of an error frame in bytes. What a client wrote may be quoted in it.
const MESSAGE_MAX: usize = 300;

/// Longest name of a field in an error frame, in bytes.
const PARAM_MAX: usize = 100;

fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Why a request gets an error frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The part that programs read.
    pub code: Code,
    /// The part that people read. It never holds a path, an address or another client's text.
    pub message: String,
    pub param: Option<String>,
    /// After this time the same request may work.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault that names no field and no time.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: cut(message.into(), MESSAGE_MAX),
            param: None,
            retry_after_ms: None,
        }
    }

    /// An `invalid_request` that names the field at fault. `param` is empty if the body as a whole is at fault.
    #[must_use]
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        let param = (!param.is_empty()).then(|| cut(param.to_owned(), PARAM_MAX));
        Self {
            param,
            ..Self::new(Code::InvalidRequest, message)
        }
    }

    /// An `invalid_schema` that names the place which cannot be enforced.
    #[must_use]
    pub fn schema(param: &str, message: impl Into<String>) -> Self {
        Self {
            code: Code::InvalidSchema,
            ..Self::invalid(param, message)
        }
    }

    /// The same fault with a time after which the request may work.
    #[must_use]
    pub fn retry_after(self, ms: u64) -> Self {
        Self {
            retry_after_ms: Some(ms),
            ..self
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Overloaded { .. } | Refusal::Sessions(_) => {
                Self::new(Code::Overloaded, message)
            }
            Refusal::Closed { .. } => Self {
                param: Some("session".to_owned()),
                ..Self::new(Code::Internal, message)
            },
            Refusal::Memory { .. } => Self::new(Code::MemoryBudget, message),
            Refusal::ContextLength { .. } | Refusal::TextLength { .. } => Self {
                param: Some("messages".to_owned()),
                ..Self::new(Code::ContextLengthExceeded, message)
            },
            Refusal::Schema { param, .. } => Self::schema(&param, message),
            Refusal::Invalid { param, .. } => Self::invalid(param, message),
        }
    }
}

impl From<SessionFault> for Fault {
    fn from(fault: SessionFault) -> Self {
        let message = fault.to_string();
        match fault {
            SessionFault::NotFound => Self::new(Code::NotFound, message),
            SessionFault::Busy | SessionFault::Worn { .. } | SessionFault::Full => {
                Self::new(Code::Overloaded, message)
            }
            SessionFault::NoFolder => Self::new(Code::InvalidRequest, message),
            SessionFault::Closed { .. } => Self::new(Code::Internal, message),
            // the log says why; the client is not told, because the reason may name a file
            SessionFault::Failed(_) => {
                Self::new(Code::Internal, "the verb failed inside the daemon")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glowplug_model::engine::SessionBound;

    #[test]
    fn refusals_map_to_codes() {
        let table = [
            (
                Refusal::Overloaded {
                    queued: 3,
                    limit: 3,
                },
                Code::Overloaded,
                None,
            ),
            (
                Refusal::ContextLength {
                    tokens: 9,
                    limit: 8,
                },
                Code::ContextLengthExceeded,
                Some("messages"),
            ),
            (
                Refusal::TextLength { bytes: 9, limit: 1 },
                Code::ContextLengthExceeded,
                Some("messages"),
            ),
            (
                Refusal::Invalid {
                    param: "logit_bias",
                    message: "x".into(),
                },
                Code::InvalidRequest,
                Some("logit_bias"),
            ),
            (
                Refusal::Schema {
                    param: "response_format.pattern".into(),
                    message: "x".into(),
                },
                Code::InvalidSchema,
                Some("response_format.pattern"),
            ),
            (
                Refusal::Memory {
                    needed: 7,
                    pages: 4,
                },
                Code::MemoryBudget,
                None,
            ),
            (
                Refusal::Sessions(SessionBound::OfClient),
                Code::Overloaded,
                None,
            ),
            (
                Refusal::Closed {
                    session: "s".into(),
                    why: "x".into(),
                },
                Code::Internal,
                Some("session"),
            ),
        ];
        for (refusal, code, param) in table {
            let fault = Fault::from(refusal);
            assert_eq!((fault.code, fault.param.as_deref()), (code, param));
        }
        let fault = Fault::from(Refusal::Memory {
            needed: 7,
            pages: 4,
        });
        assert!(fault.message.contains("3 are missing"), "{}", fault.message);
    }

    #[test]
    fn a_failed_verb_keeps_its_file_to_itself() {
        let fault = Fault::from(SessionFault::Failed("/var/lib/x: no space".into()));
        assert_eq!(fault.code, Code::Internal);
        assert!(!fault.message.contains('/'), "{}", fault.message);
        let table = [
            (SessionFault::NotFound, Code::NotFound),
            (SessionFault::Busy, Code::Overloaded),
            (SessionFault::Full, Code::Overloaded),
            (SessionFault::NoFolder, Code::InvalidRequest),
        ];
        for (fault, code) in table {
            assert_eq!(Fault::from(fault).code, code);
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let fault = Fault::new(Code::Internal, "ä".repeat(400));
        assert!(fault.message.len() <= MESSAGE_MAX + '…'.len_utf8());
        assert!(fault.message.ends_with("ä…"));
    }
}
