//! The closed list of tensor types, with their ids and block sizes.

macro_rules! types {
    ($($name:ident: id $id:literal, $values:literal $unit:ident in $bytes:literal bytes;)*) => {
        /// A GGML storage type that glowplug reads. Names and ids are ggml's (`ggml.h`, `enum ggml_type`), block sizes are
        /// the `static_assert`s beside the structs of `ggml-common.h`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs, reason = "the field's own names")]
        pub enum GgmlType { $($name),* }

        impl GgmlType {
            /// Every type, in the order of its id.
            pub const ALL: [Self; [$($id),*].len()] = [$(Self::$name),*];

            /// The id that ggml gives the type.
            pub const fn id(self) -> u32 {
                match self { $(Self::$name => $id),* }
            }

            /// How many values a block has; a row is a whole number of blocks.
            pub const fn block_len(self) -> usize {
                match self { $(Self::$name => $values),* }
            }

            /// How many bytes a block has.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes),* }
            }

            /// The name that people use, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}
types! {
    F32: id 0, 1 value in 4 bytes;
    F16: id 1, 1 value in 2 bytes;
    Q4_0: id 2, 32 values in 18 bytes;
    Q4_1: id 3, 32 values in 20 bytes;
    Q5_0: id 6, 32 values in 22 bytes;
    Q5_1: id 7, 32 values in 24 bytes;
    Q8_0: id 8, 32 values in 34 bytes;
    Q2_K: id 10, 256 values in 84 bytes;
    Q3_K: id 11, 256 values in 110 bytes;
    Q4_K: id 12, 256 values in 144 bytes;
    Q5_K: id 13, 256 values in 176 bytes;
    Q6_K: id 14, 256 values in 210 bytes;
    Q8_K: id 15, 256 values in 292 bytes;
    IQ2_XXS: id 16, 256 values in 66 bytes;
    IQ2_XS: id 17, 256 values in 74 bytes;
    IQ3_XXS: id 18, 256 values in 98 bytes;
    IQ1_S: id 19, 256 values in 50 bytes;
    IQ4_NL: id 20, 32 values in 18 bytes;
    IQ3_S: id 21, 256 values in 110 bytes;
    IQ2_S: id 22, 256 values in 82 bytes;
    IQ4_XS: id 23, 256 values in 136 bytes;
    IQ1_M: id 29, 256 values in 56 bytes;
    BF16: id 30, 1 value in 2 bytes;
    TQ1_0: id 34, 256 values in 54 bytes;
    TQ2_0: id 35, 256 values in 66 bytes;
    MXFP4: id 39, 32 values in 17 bytes;
    NVFP4: id 40, 64 values in 36 bytes;
    Q1_0: id 41, 128 values in 18 bytes;
    Q2_0: id 42, 64 values in 18 bytes;
}

impl GgmlType {
    /// The type that an id in a file stands for. `Err` is the name of a type that ggml has and glowplug does not, or the bare
    /// id.
    ///
    /// # Errors
    /// The id is not in [`Self::ALL`].
    pub fn from_id(id: u32) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|ty| ty.id() == id)
            .ok_or_else(|| match id {
                9 => "Q8_1".into(),
                24 => "I8".into(),
                25 => "I16".into(),
                26 => "I32".into(),
                27 => "I64".into(),
                28 => "F64".into(),
                other => format!("type id {other}"),
            })
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::GgmlType;

    #[test]
    fn ids_go_there_and_back_and_names_are_unique() {
        for ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Ok(ty));
            assert_eq!(format!("{ty}"), format!("{ty:?}"));
        }
        assert!(GgmlType::ALL.windows(2).all(|w| w[0].id() < w[1].id()));
    }

    #[test]
    fn a_known_type_that_is_not_supported_has_its_name() {
        assert_eq!(GgmlType::from_id(9), Err("Q8_1".to_owned()));
        assert_eq!(GgmlType::from_id(4), Err("type id 4".to_owned()));
        assert_eq!(
            GgmlType::from_id(u32::MAX),
            Err("type id 4294967295".to_owned())
        );
    }

    /// Bits a weight, as ggml publishes them: a second source for the block sizes.
    #[test]
    fn bits_a_weight() {
        for (ty, bits) in [
            (GgmlType::F32, 32.0),
            (GgmlType::BF16, 16.0),
            (GgmlType::Q4_0, 4.5),
            (GgmlType::Q4_1, 5.0),
            (GgmlType::Q5_0, 5.5),
            (GgmlType::Q5_1, 6.0),
            (GgmlType::Q8_0, 8.5),
            (GgmlType::Q2_K, 2.625),
            (GgmlType::Q3_K, 3.4375),
            (GgmlType::Q4_K, 4.5),
            (GgmlType::Q5_K, 5.5),
            (GgmlType::Q6_K, 6.5625),
            (GgmlType::Q8_K, 9.125),
            (GgmlType::IQ2_XXS, 2.0625),
            (GgmlType::IQ2_XS, 2.3125),
            (GgmlType::IQ3_XXS, 3.0625),
            (GgmlType::IQ1_S, 1.5625),
            (GgmlType::IQ4_NL, 4.5),
            (GgmlType::IQ3_S, 3.4375),
            (GgmlType::IQ2_S, 2.5625),
            (GgmlType::IQ1_M, 1.75),
            (GgmlType::IQ4_XS, 4.25),
            (GgmlType::TQ1_0, 1.6875),
            (GgmlType::TQ2_0, 2.0625),
            (GgmlType::MXFP4, 4.25),
            (GgmlType::NVFP4, 4.5),
            (GgmlType::Q1_0, 1.125),
            (GgmlType::Q2_0, 2.25),
        ] {
            assert_eq!(
                ty.block_bytes() as f64 * 8.0 / ty.block_len() as f64,
                bits,
                "{ty}"
            );
        }
    }
}
