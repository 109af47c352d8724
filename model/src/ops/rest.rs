//! The rows of a matrix that a GPU has in other buffers than the first.

use burn::backend::tensor::IntTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType,
};

/// The tensors behind the first one of a matrix, in the order of its rows. There are none where one buffer has room for all.
#[derive(Debug, Clone)]
pub struct Rest<B: Backend>(pub Vec<IntTensor<B>>);

impl<B: Backend> Default for Rest<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

// what the derive makes of a field that is one tensor
impl<B: Backend> ExtensionType<B> for Rest<B> {
    type Target = Rest<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let tensors = self.0.into_iter().map(|tensor| DispatchTensor {
            kind: map_kind(BackendTensor::Int(tensor)),
            autodiff,
        });
        Rest(tensors.collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let tensors = target.0.into_iter().map(|tensor| unwrap_kind(tensor).int());
        Self(tensors.collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(_: &Self::Target) -> Option<&DispatchTensor> {
        None
    }
}
