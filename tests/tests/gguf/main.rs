//! The GGUF reader and the network's dimensions, from outside: good files, broken ones, hostile ones, real ones.

#![allow(clippy::unwrap_used)]
#![allow(
    clippy::semicolon_if_nothing_returned,
    reason = "the tables' closures are one expression each"
)]

use glowplug_tests::GgufWriter;

mod architectures;
mod dims;
mod formats;
mod grids;
mod hostile;
mod keys;
mod packed;
mod real_files;
mod rules;
mod values;

/// A name, how the file is broken, and the message that it is refused with; `taken` where it is not refused.
type Rule = (&'static str, fn(&mut GgufWriter), &'static str);

/// Breaks a good file by each rule and reads it.
fn check<T, E: ToString>(
    rules: &[Rule],
    good: impl Fn() -> GgufWriter,
    read: impl Fn(&GgufWriter) -> Result<T, E>,
) {
    for (name, break_it, message) in rules {
        let mut w = good();
        break_it(&mut w);
        let got = read(&w).map_or_else(|e| e.to_string(), |_| "taken".into());
        assert_eq!(&got, message, "{name}");
    }
}
