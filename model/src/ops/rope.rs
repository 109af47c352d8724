//! Rotary position embedding: the angle table and the rotation of one head.

/// Which two values of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// Value `i` with value `i + dims / 2`.
    Neox,
    /// Value `2i` with value `2i + 1`, as in architectures whose converter permutes q and k for it.
    Norm,
}

/// The cosine and the sine of every position and frequency, computed once at load: `[positions][dims / 2]` each, and what queries
/// are multiplied with at each position.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    query_scale: Vec<f32>,
}

impl RopeTable {
    /// Computes the angles `position * base^(-2i/dims) / divisors[i]`. `divisors` is `[dims / 2]`: all ones without
    /// scaling, one number repeated for linear scaling, and `rope_freqs.weight` for llama-3's. What is rotated becomes
    /// `magnitude` times as long. The angles are computed in f64, because at position 4,096 an f32 product is already off by
    /// 2e-4.
    #[must_use]
    pub fn new(positions: usize, base: f32, divisors: &[f32], magnitude: f32) -> Self {
        let half = divisors.len();
        let frequency: Vec<f64> = divisors
            .iter()
            .enumerate()
            .map(|(i, &divisor)| {
                f64::from(base).powf(-(i as f64) / half as f64) / f64::from(divisor)
            })
            .collect();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for f in &frequency {
                let angle = position as f64 * f;
                cos.push((angle.cos() * f64::from(magnitude)) as f32);
                sin.push((angle.sin() * f64::from(magnitude)) as f32);
            }
        }
        Self {
            half,
            cos,
            sin,
            query_scale: vec![1.0; positions],
        }
    }

    /// Sets what queries are multiplied with.
    #[must_use]
    pub fn with_query_scale(mut self, scale: impl Fn(usize) -> f32) -> Self {
        for (position, value) in self.query_scale.iter_mut().enumerate() {
            *value = scale(position);
        }
        self
    }

    /// What queries of a position are multiplied with, rotated or not.
    #[must_use]
    pub fn query_scale(&self, position: usize) -> f32 {
        self.query_scale[position]
    }

    /// How many positions the table has, which is the length of the longest sequence.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.query_scale.len()
    }

    /// The cosines of one position: `[dims / 2]`.
    #[must_use]
    pub fn cos(&self, position: usize) -> &[f32] {
        &self.cos[position * self.half..][..self.half]
    }

    /// The sines of one position: `[dims / 2]`.
    #[must_use]
    pub fn sin(&self, position: usize) -> &[f32] {
        &self.sin[position * self.half..][..self.half]
    }

    /// Rotates the first `dims` values of one head in place; the others stay as they are.
    pub fn rotate(&self, pairing: RopePairing, position: usize, head: &mut [f32]) {
        let (cos, sin) = (self.cos(position), self.sin(position));
        match pairing {
            RopePairing::Neox => {
                let (low, high) = head[..2 * self.half].split_at_mut(self.half);
                for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
            RopePairing::Norm => {
                for ((pair, c), s) in head[..2 * self.half].chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (a, b) = (pair[0], pair[1]);
                    (pair[0], pair[1]) = (a * c - b * s, b * c + a * s);
                }
            }
        }
    }
}
