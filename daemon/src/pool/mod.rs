//! The pool: daemons on one broker that share the requests which any of them may take. When this one is in the group
//! (membership), and which requests it has taken that have no end yet (record).

pub mod membership;
pub mod record;
