//! How fast a level multiplies a type of weights, by which of its kernels.

use super::Isa;
use super::format::kinds::has_kernels;
use crate::gguf::{GgmlType, Layout};

/// The kernels that a matrix gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speed {
    /// Those that stream sixteen interleaved rows, once the file is packed.
    Packed,
    /// Those that read row after row.
    Rows,
    /// The definition in plain Rust, which is several times slower.
    Definition,
}

impl Speed {
    /// What a matrix of this name and type with so many rows gets on a level.
    #[must_use]
    pub fn of(isa: Isa, name: &str, ty: GgmlType, rows: u64) -> Self {
        if isa == Isa::Scalar || !has_kernels(ty) {
            Self::Definition
        } else if Layout::takes(name, ty, rows) {
            Self::Packed
        } else {
            Self::Rows
        }
    }

    /// The name that programs read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packed => "packed",
            Self::Rows => "rows",
            Self::Definition => "definition",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_the_kernels_of_its_level() {
        for (isa, ty, rows, speed) in [
            (Isa::Avx2, GgmlType::Q4_K, 32, Speed::Packed),
            (Isa::Neon, GgmlType::Q4_K, 33, Speed::Rows),
            (Isa::Dotprod, GgmlType::Q3_K, 32, Speed::Rows),
            (Isa::Avx512Vnni, GgmlType::F16, 32, Speed::Rows),
            (Isa::AvxVnni, GgmlType::NVFP4, 32, Speed::Rows),
            (Isa::I8mm, GgmlType::Q8_K, 32, Speed::Definition),
            (Isa::Scalar, GgmlType::Q4_K, 32, Speed::Definition),
        ] {
            let got = Speed::of(isa, "blk.0.attn_q.weight", ty, rows);
            assert_eq!(got, speed, "{isa:?} {ty:?} {rows}");
        }
        let of_a_vocabulary = Speed::of(Isa::Neon, "output.weight", GgmlType::Q4_K, 33);
        assert_eq!(of_a_vocabulary, Speed::Packed);
    }
}
