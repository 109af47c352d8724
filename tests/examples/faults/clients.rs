//! Clients that die, lag, repeat themselves or speak out of turn: F3 to F6.

use super::table::Row;

pub(crate) const ROWS: [Row; 0] = [];
