//! From a message to an answer, without I/O and without a clock. [`intake`] reads a request, [`admission`] lets it in,
//! `presets` say what it gets where it says nothing, [`answer`] cuts its frames, [`dedup`] remembers it.

pub mod admission;
pub mod answer;
pub mod dedup;
pub mod intake;
mod presets;
