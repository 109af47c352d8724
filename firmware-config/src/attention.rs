//! The tiles of attention: how many positions of a prompt look at the cache at once, and the memory that this takes.
//!
//! A key or value is opened once for all queries of a tile. The scores of each query are kept for the whole row, because the
//! softmax goes over all of it.

/// Most queries of a tile, which are its positions times the query heads of a group. Only a group that is larger by itself has
/// more.
pub const QUERIES_MAX: usize = 32;
/// Values of f32 that the scores of a tile of several positions have at most: 512 KB, half of the L2 of the core on which it
/// was measured (AMD EPYC, Zen 4).
const SCORES_MAX: usize = 128 << 10;

/// Values of f32 from the scores of one query to those of the next, for rows of at most `len`. It is an odd number of lines of
/// 64 bytes, because rows that are a power of two apart would all be in the same few places of a cache.
#[must_use]
pub const fn stride(len: usize) -> usize {
    (len.div_ceil(16) | 1).saturating_mul(16)
}

/// How many positions of a prompt, the last of which looks at `len`, look at the cache at once: 1 at least.
#[must_use]
pub const fn positions(group: usize, len: usize) -> usize {
    let by_memory = SCORES_MAX / group.saturating_mul(stride(len));
    let positions = QUERIES_MAX / group;
    let positions = if by_memory < positions {
        by_memory
    } else {
        positions
    };
    if positions == 0 { 1 } else { positions }
}

/// Values of f32 that a thread works in, for groups of `group` query heads of `head_dim` values over at most `context` positions:
/// queries, results and scores of a tile.
#[must_use]
pub const fn scratch(group: usize, head_dim: usize, context: usize) -> usize {
    let queries = if group > QUERIES_MAX {
        group
    } else {
        QUERIES_MAX
    };
    let alone = group.saturating_mul(stride(context));
    let tile = QUERIES_MAX.saturating_mul(stride(context));
    let tile = if tile < SCORES_MAX { tile } else { SCORES_MAX };
    let scores = if alone > tile { alone } else { tile };
    queries
        .saturating_mul(head_dim)
        .saturating_mul(2)
        .saturating_add(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No tile takes more than what is planned, and the largest takes nearly all of it.
    #[test]
    fn the_scratch_holds_every_tile() {
        for group in [1, 2, 3, 5, 6, 7, 8, 16, 31, 32, 33, 48] {
            for context in [1, 15, 16, 31, 32, 33, 511, 512, 4096, 8192, 40_000, 131_072] {
                let room = scratch(group, 128, context);
                let mut most = 0;
                for len in (1..=context).rev().step_by(1 + context / 977) {
                    let queries = positions(group, len) * group;
                    assert!(queries <= QUERIES_MAX || queries == group);
                    most = most.max(queries * (2 * 128 + stride(len)));
                }
                assert!(most <= room, "{group} {context}: {most} of {room}");
                // three heads of a group are not a part of 32 queries, and 17 only one position of them
                assert!(
                    2 * most >= room - 2 * 128 * QUERIES_MAX,
                    "{group} {context}: {most} of {room}"
                );
            }
        }
    }

    #[test]
    fn tiles_shrink_to_one_position() {
        // SmolLM2-135M, Qwen2.5-Coder 1.5B and 0.5B, heads without groups, and one group of all heads
        assert_eq!(
            [3, 6, 7, 1, 48].map(|group| positions(group, 512)),
            [10, 5, 4, 32, 1]
        );
        assert_eq!(
            [4096, 8192, 16_384, 32_768].map(|len| positions(6, len)),
            [5, 2, 1, 1]
        );
        assert_eq!(positions(1, usize::MAX), 1);
        assert_eq!(scratch(6, 128, usize::MAX), usize::MAX);
    }

    #[test]
    fn rows_of_scores_are_an_odd_number_of_lines() {
        for len in 1..5000 {
            let stride = stride(len);
            assert!(
                (len..len + 32).contains(&stride) && stride % 32 == 16,
                "{len}: {stride}"
            );
        }
    }
}
