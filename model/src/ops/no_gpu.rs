//! Why a model does not run on a GPU.

/// Why a model does not run on the GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// The program was built without the feature.
    #[error("this program was built without GPUs; `--features wgpu` builds it with them")]
    NotBuilt,
    /// There is no device, or it cannot be used.
    #[error("{0}")]
    Device(String),
    /// The device has no kernels for something that the network does.
    #[error("the GPU has no kernels for {what}")]
    Network {
        /// What the network does.
        what: &'static str,
    },
    /// The device has no kernels for a tensor.
    #[error("the GPU has no kernels for tensor `{name}`, which is in {ty}")]
    Type {
        /// The name of the tensor.
        name: String,
        /// The name of its type.
        ty: &'static str,
    },
    /// One layer's part of all pages is larger than the device's buffers.
    #[error("a layer of all KV pages takes {bytes} bytes, a buffer of the GPU has at most {limit}")]
    TooLarge {
        /// How many bytes a layer takes.
        bytes: u64,
        /// How many bytes a buffer may have.
        limit: u64,
    },
    /// The device has no kernels for keys or values as they would be stored.
    #[error(
        "the GPU keeps heads of {head_dim} values neither in four bits nor in more than {max} values"
    )]
    Heads {
        /// How many values a head has.
        head_dim: usize,
        /// The largest head that the GPU takes.
        max: usize,
    },
}
