//! From logits to what `eval` reports: the most likely tokens, and the loss of the one that came.

use serde::{Serialize, Serializer};

/// One sequence, in the shape of the `--out` file.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Scores {
    /// The sequence of `n` token ids.
    pub(crate) tokens: Vec<u32>,
    /// For each of `n` positions the `k` most likely ids after that token, the most likely first.
    pub(crate) top_ids: Vec<Vec<u32>>,
    /// The natural logarithm of the probability of each of `top_ids`.
    #[serde(serialize_with = "rounded_rows")]
    pub(crate) top_logprobs: Vec<Vec<f64>>,
    /// The `n - 1` losses: -ln p of token `i + 1` at position `i`.
    #[serde(serialize_with = "rounded")]
    pub(crate) nll: Vec<f64>,
}

impl Scores {
    /// Takes the logits after one token (`vocab` values), and the token that really came next, if there is one.
    pub(crate) fn push(&mut self, logits: &[f32], k: usize, next: Option<u32>) {
        let norm = log_sum_exp(logits);
        let ids = top(logits, k);
        self.top_logprobs.push(
            ids.iter()
                .map(|&id| f64::from(logits[id as usize]) - norm)
                .collect(),
        );
        self.top_ids.push(ids);
        if let Some(next) = next {
            // an id outside the vocabulary was refused before, because its loss would be infinite
            self.nll.push(
                logits
                    .get(next as usize)
                    .map_or(f64::INFINITY, |&logit| norm - f64::from(logit)),
            );
        }
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits
        .iter()
        .map(|&logit| (f64::from(logit) - max).exp())
        .sum::<f64>()
        .ln()
}

/// The ids of the `k` largest logits, the largest first; of equals the smaller id first.
fn top(logits: &[f32], k: usize) -> Vec<u32> {
    let order = |a: &u32, b: &u32| {
        logits[*b as usize]
            .total_cmp(&logits[*a as usize])
            .then(a.cmp(b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if k < ids.len() {
        ids.select_nth_unstable_by(k, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    ids
}

// six decimals are enough, because the differences of interest are of 1e-3
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn rounded<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|&v| round(v)))
}

fn rounded_rows<S: Serializer>(rows: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        rows.iter()
            .map(|row| row.iter().map(|&v| round(v)).collect::<Vec<_>>()),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_in_order() {
        let logits = [0.5, 3.0, -1.0, 3.0, 2.0];
        assert_eq!(top(&logits, 3), [1, 3, 4]);
        assert_eq!(top(&logits, 5), [1, 3, 4, 0, 2]);
        assert_eq!(top(&logits, 9), [1, 3, 4, 0, 2]);
        assert!(top(&logits, 0).is_empty());
    }

    #[test]
    fn a_distribution_sums_to_one_at_any_offset() {
        for offset in [0.0, 500.0, -500.0] {
            let logits = [1.0f32, 2.0, 3.0, 4.0].map(|x| x + offset);
            let mut scores = Scores {
                tokens: vec![7, 2],
                ..Scores::default()
            };
            scores.push(&logits, 4, Some(2));
            scores.push(&logits, 4, None);
            let sum: f64 = scores.top_logprobs[0].iter().map(|lp| lp.exp()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            // ln(1 + e^-1 + e^-2 + e^-3) + 1
            assert!(
                (scores.nll[0] - 1.440_189_7).abs() < 1e-6,
                "{}",
                scores.nll[0]
            );
            assert_eq!((scores.top_ids.len(), scores.nll.len()), (2, 1));
        }
    }

    #[test]
    fn the_shape_of_the_file() {
        let mut scores = Scores {
            tokens: vec![1, 0],
            ..Scores::default()
        };
        scores.push(&[0.0, 0.0], 1, Some(0));
        scores.push(&[0.0, f32::NEG_INFINITY], 2, None);
        assert_eq!(
            serde_json::to_string(&scores).unwrap(),
            r#"{"tokens":[1,0],"top_ids":[[0],[0,1]],"top_logprobs":[[-0.693147],[0.0,null]],"nll":[0.693147]}"#
        );
    }
}
