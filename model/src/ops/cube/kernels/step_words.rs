//! Where the kernels find what a step tells them: see [`crate::ops::cube::buffers`].

use glowplug_firmware_config::limits::CHUNK_TOKENS;

/// The word of the first row's token.
pub(in crate::ops::cube) const TOKENS: usize = 0;
/// The word of the first row's position.
pub(in crate::ops::cube) const POSITIONS: usize = CHUNK_TOKENS;
/// The word of the first row's number of the word at which its page table begins.
pub(in crate::ops::cube) const TABLES: usize = 2 * CHUNK_TOKENS;
/// The word that has the number of rows.
pub(in crate::ops::cube) const ROWS: usize = 3 * CHUNK_TOKENS;
/// The word at which the angles begin: for each row the cosines, then the sines.
pub(in crate::ops::cube) const ANGLES: usize = ROWS + 1;
