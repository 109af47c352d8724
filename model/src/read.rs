//! A plain read of memory, which is what decoding is compared with. It is compiled here, as the kernels are: in the daemon, which is
//! compiled for its size, it read 18 to 25 GB/s in the place of 28 to 40 (two cores of an Intel Xeon, in turn).

/// Words of a place that are read before it is the next one's turn: four cache lines.
const RUN: usize = 32;

/// Reads all words of `streams` equal places by turns, and what is left over behind them. The result depends on each of them.
///
/// # Panics
/// If `streams` is 0.
#[inline(never)]
pub fn read(part: &[u64], streams: usize) -> u64 {
    let place = part.len() / streams / RUN * RUN;
    let (places, rest) = part.split_at(place * streams);
    let mut folded = [0u64; 8];
    for at in (0..place).step_by(RUN) {
        for first in (0..streams).map(|stream| stream * place + at) {
            for eight in places[first..first + RUN].as_chunks::<8>().0 {
                for (folded, word) in folded.iter_mut().zip(eight) {
                    *folded ^= word;
                }
            }
        }
    }
    folded.iter().chain(rest).fold(0, |all, word| all ^ word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let mut words = vec![0; 8 * RUN * 5 + 77];
        for streams in [1, 2, 4, 8] {
            let before = read(&words, streams);
            for place in 0..words.len() {
                words[place] ^= 1 << 40;
                assert_ne!(
                    read(&words, streams),
                    before,
                    "word {place} of {streams} places"
                );
                words[place] ^= 1 << 40;
            }
        }
    }
}
