//! Schemas that are referred to.

use super::work::Read;

/// A schema that is referred to, read once.
pub(super) struct Definition {
    pub(super) place: Vec<String>,
    /// none while it is being read
    pub(super) read: Option<Read>,
}
