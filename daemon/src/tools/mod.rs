//! Tools of the daemon's own, which it calls for a model: a tool is a topic that somebody listens to. No I/O and no clock,
//! apart from the [`journal`]'s file.
//!
//! - [`topic`]: topics with placeholders, filters, and what a tool must never write to.
//! - [`arguments`]: whether what a model wrote fits the schema of a tool.
//! - [`definition`]: one tool as the owner wrote it, checked, and what a call of it publishes.
//! - [`thing`]: one thing of a catalogue, and what brings it into its states.
//! - [`catalogue`]: tools made of what the house tells of itself.
//! - [`toolbox`]: all tools, and who may use them.
//! - [`calls`]: the calls in flight, a state machine beside admission.
//! - [`journal`]: the requests that have acted on the world, which must not run again after a restart.

pub mod arguments;
pub mod calls;
pub mod catalogue;
pub mod definition;
pub mod journal;
pub mod thing;
pub mod toolbox;
pub mod topic;
