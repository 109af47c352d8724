//! The KV cache: one arena of pages, who holds them, how a prompt finds those that hold its beginning, and the file that a
//! session is stored in.
//!
//! A page is the keys and values of 32 tokens across all layers ([`KvLayout`]). All pages lie in one [`Arena`], which is
//! made at start and never grows. [`Pages`] says which of them are free, held by running sequences, pinned by idle sessions
//! or merely cached; it knows page numbers and tokens, but no bytes. [`snapshot`] writes a session's pages to a file, and
//! reads them back as the hostile input that a file is.
//!
//! A network with delta layers keeps a state of constant size for each sequence as well: [`States`] has a slot of memory for each
//! that has started, and snapshots in the others, from which prompts that share a beginning go on.

mod arena;
mod cache;
mod journal;
mod layout;
mod pages;
mod prefix;
mod slots;
pub mod snapshot;
mod states;

pub use arena::{Arena, DevicePages, NoMemory, NotLocked, PageLost};
pub use cache::{Accepted, KvCache, Span};
pub use layout::{KvLayout, LayoutError};
pub use pages::{Found, Missing, PageCounts, PageTable, Pages, Partial, TooManyPages, page_table};
pub use prefix::{Owner, Owners, PageId};
pub use slots::StateSlot;
pub use states::{StateLayout, States};
