//! The kernels, each with what it is compiled for. [`super::launch`] launches them.

pub(super) mod arithmetic;
pub(super) mod attention;
pub(super) mod best;
pub(super) mod decode;
pub(super) mod embed;
pub(super) mod heads;
pub(super) mod matmul;
pub(super) mod matvec;
pub(super) mod quantize;
pub(super) mod step_words;
pub(super) mod stored;
