//! Ends an answer at a stop string.

use glowplug_firmware_config::limits::{STOP_BYTES_MAX, STOPS_MAX};

/// Cuts the text at the first stop string, and holds back what may still become one.
///
/// The first stop string is the one that is complete first, so that the answer does not depend on how the text is cut into
/// pushes. Of several that are complete at the same byte the longest counts.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// text that is not given out yet; between pushes it is a proper prefix of some stop string, so it is shorter than
    /// [`STOP_BYTES_MAX`]
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Keeps at most [`STOPS_MAX`] strings of at most [`STOP_BYTES_MAX`] bytes; the daemon refuses more and names the field.
    /// Empty strings stop nothing.
    pub fn new(stops: &[String]) -> Self {
        let fits = |s: &&String| !s.is_empty() && s.len() <= STOP_BYTES_MAX;
        Self {
            stops: stops.iter().filter(fits).take(STOPS_MAX).cloned().collect(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Appends text to `out` that is no part of a stop string. Gives true when a stop string was found; it and everything after
    /// it is dropped, now and in later pushes.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|s| self.held.find(s.as_str()).map(|at| (at + s.len(), at)))
            .min();
        if let Some((_, at)) = first {
            out.push_str(&self.held[..at]);
            self.held.clear();
            self.stopped = true;
            return true;
        }
        let safe = self.held.len() - self.undecided();
        out.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        false
    }

    /// Ends the text and gives out what was held back, which did not become a stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Bytes of the longest end of `held` that begins a stop string.
    fn undecided(&self) -> usize {
        let held = &self.held;
        let longest = |stop: &String| {
            let most = held.len().min(stop.len() - 1);
            (1..=most)
                .rev()
                .find(|&n| held.as_bytes().ends_with(&stop.as_bytes()[..n]))
        };
        // both are whole UTF-8, so an end that equals a beginning starts at a character
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(stops: &[&str], parts: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let (mut stop, mut out, mut found) = (StopStrings::new(&stops), String::new(), false);
        for part in parts {
            found = stop.push(part, &mut out);
        }
        stop.finish(&mut out);
        (out, found)
    }

    #[test]
    fn cuts_at_the_first() {
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&[], &["abc"], "abc", false),
            (&[""], &["abc"], "abc", false),
            (&["\n\n"], &["one\n", "two\n", "\nthree"], "one\ntwo", true),
            (&["END"], &["the E", "N", "d. EN"], "the ENd. EN", false),
            (&["END"], &["the E", "N", "D of", " END"], "the ", true),
            (&["b", "ab"], &["xab"], "x", true),
            (&["cd", "abcdef"], &["abcdef"], "ab", true),
            (&["aab"], &["aaaa", "aab"], "aaaa", true),
            (&["。\n"], &["はい。", "次"], "はい。次", false),
        ];
        for (stops, parts, text, found) in table {
            assert_eq!(
                run(stops, parts.iter().copied()),
                (text.to_string(), *found),
                "{stops:?} {parts:?}"
            );
        }
    }

    #[test]
    fn holds_back_no_more_than_it_must() {
        let (mut stop, mut out) = (StopStrings::new(&["</s>".into()]), String::new());
        stop.push("a<b</", &mut out);
        assert_eq!(out, "a<b");
        stop.push("x", &mut out);
        assert_eq!(out, "a<b</x");
    }

    #[test]
    fn is_bounded() {
        let many: Vec<String> = (0..100).map(|i| format!("{i:03}")).collect();
        assert_eq!(StopStrings::new(&many).stops.len(), STOPS_MAX);
        let (long, fits) = ("x".repeat(STOP_BYTES_MAX + 1), "x".repeat(STOP_BYTES_MAX));
        assert_eq!(StopStrings::new(&[long, fits.clone()]).stops, [fits]);
        let (mut stop, mut out) = (
            StopStrings::new(&["x".repeat(STOP_BYTES_MAX - 1) + "y"]),
            String::new(),
        );
        for _ in 0..10 {
            stop.push(&"x".repeat(1000), &mut out);
            assert!(stop.held.len() < STOP_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_matter(
            stops in prop::collection::vec("[abé]{1,5}", 0..4),
            parts in prop::collection::vec("[abé]{0,6}", 0..12),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let whole = parts.concat();
            let expected = run(&stops, [whole.as_str()]);
            prop_assert_eq!(&run(&stops, parts.iter().map(String::as_str)), &expected);
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            prop_assert_eq!(&run(&stops, chars.iter().map(String::as_str)), &expected);
            if !expected.1 {
                prop_assert_eq!(&expected.0, &whole);
                prop_assert!(stops.iter().all(|s| !whole.contains(s)));
            }
        }
    }
}
