//! Why a session is not in its file, and what its client is told of that.

use crate::engine::request::SessionFault;
use crate::kv::snapshot::SnapshotError;
use std::io;

/// Why a session is not in its file.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum Unsaved {
    #[error(transparent)]
    File(#[from] SnapshotError),
    #[error("{0} bytes of sessions a day are what the storage bears")]
    Worn(u64),
    #[error("there are as many session files as there may be")]
    Full,
}

impl From<io::Error> for Unsaved {
    fn from(error: io::Error) -> Self {
        Self::File(error.into())
    }
}

impl From<Unsaved> for SessionFault {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Worn(per_day) => Self::Worn { per_day },
            Unsaved::Full | Unsaved::File(SnapshotError::TooLarge { .. }) => Self::Full,
            Unsaved::File(SnapshotError::Io(error)) => error.into(),
            Unsaved::File(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<io::Error> for SessionFault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full,
            _ => Self::Failed(error.to_string()),
        }
    }
}
