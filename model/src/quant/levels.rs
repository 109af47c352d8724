//! The instruction-set levels of this architecture, and which of them this machine can run.
//!
//! A new level is one module with a `TABLE` and one line in [`TABLES`].

use super::Isa;
use super::kernels::Kernels;
use super::reference::scalar;

/// The levels of this architecture, best first.
static TABLES: &[&Kernels] = &[
    #[cfg(target_arch = "aarch64")]
    &super::arm::i8mm::TABLE,
    #[cfg(target_arch = "aarch64")]
    &super::arm::dotprod::TABLE,
    #[cfg(target_arch = "aarch64")]
    &super::arm::neon::TABLE,
    #[cfg(target_arch = "x86_64")]
    &super::x86::avx512::TABLE,
    #[cfg(target_arch = "x86_64")]
    &super::x86::avx2::VNNI,
    #[cfg(target_arch = "x86_64")]
    &super::x86::avx2::VNNI_EVEX,
    #[cfg(target_arch = "x86_64")]
    &super::x86::avx2::TABLE,
    &scalar::TABLE,
];

/// The forced level cannot run on this machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("instruction set `{0}` is not available on this machine")]
pub struct UnsupportedIsa(pub Isa);

impl Kernels {
    /// The best level of this machine, or the one forced.
    ///
    /// # Errors
    /// This machine cannot run the forced level.
    pub fn detect(forced: Option<Isa>) -> Result<&'static Self, UnsupportedIsa> {
        let mut supported = TABLES.iter().copied().filter(|t| (t.supported)());
        match forced {
            None => Ok(supported.next().unwrap_or(&scalar::TABLE)),
            Some(isa) => supported.find(|t| t.isa == isa).ok_or(UnsupportedIsa(isa)),
        }
    }
}
