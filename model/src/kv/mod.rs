//! The KV cache: one arena of pages, who holds them, how a prompt finds those that hold its beginning, and the file that a
//! session is stored in. Beside it are the states of layers that keep no keys ([`States`]).
//!
//! A page is the keys and values of 32 tokens across all layers ([`KvLayout`]). All pages lie in one [`Arena`], which is
//! made at start and never grows. [`Pages`] says which of them are free, held by running sequences, pinned by idle sessions
//! or merely cached; it knows page numbers and tokens, but no bytes. [`snapshot`] writes a session's pages to a file, and
//! reads them back as the hostile input that a file is.

mod arena;
mod cache;
mod layout;
mod pages;
mod prefix;
pub mod snapshot;
mod states;

pub use arena::{Arena, DevicePages, NoMemory, NotLocked, PageLost};
pub use cache::{KvCache, Span};
pub use layout::{KvLayout, LayoutError};
pub use pages::{Found, Missing, PageCounts, PageTable, Pages, Partial, TooManyPages, page_table};
pub use prefix::{Owner, Owners, PageId};
pub use states::{StateLayout, StateSlot, States};
