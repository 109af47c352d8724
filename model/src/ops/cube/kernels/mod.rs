//! The kernels, each with what it is compiled for. [`super::launch`] launches them.

pub(super) mod attention;
pub(super) mod best;
mod decode;
pub(super) mod embed;
pub(super) mod heads;
pub(super) mod matmul;
pub(super) mod matvec;
pub(super) mod norm;
pub(super) mod step_words;
