//! What the tests of the whole stand on: tiny seeded models, hostile files, the paths of the real models, and in [`world`] the
//! real daemon on a real broker.
//!
//! A test that needs any model makes one with [`Tiny`]. A test that needs a broken one takes a tiny model's [`GgufWriter`] and
//! breaks it. A test that needs a real one asks [`real_model`].
#![allow(
    missing_docs,
    reason = "only tests see it; what a name says is not said again"
)]

pub mod architectures;
mod counting;
mod foresight;
pub mod formats;
pub mod fuzz;
mod jinja;
mod link;
mod models;
mod page;
mod rng;
pub mod schemas;
mod script;
mod tiny;
mod vocabulary;
pub mod world;
mod writer;

pub use counting::Counting;
pub use foresight::foresee;
pub use jinja::bombs::template_bombs;
pub use jinja::{Rendered, conversations, messages, render_both, tools};
pub use link::{Fate, Faults, Link, TICK};
pub use models::{Real, r1_vocabulary, real_model};
pub use page::check_page;
pub use rng::SplitMix;
pub use schemas::schema_bombs;
pub use script::{THOUGHTS, r1_template};
pub use tiny::{Think, Tiny, Types};
pub use writer::{GgufWriter, Kv, Tensor};
