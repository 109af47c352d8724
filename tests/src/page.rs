//! Pages of the documentation that are made of the code.

use std::{env, fs};

/// Checks that a page has the text that is made, all of it or what is between two marks. With `GLOWPLUG_WRITE_PAGES` in the
/// environment it is written anew before.
///
/// # Panics
/// If the page has another text, or no marks.
#[track_caller]
#[allow(clippy::unwrap_used, reason = "only tests call it")]
pub fn check_page(path: &str, between: Option<[&str; 2]>, made: &str) {
    let whole = match between {
        None => made.to_owned(),
        Some([begin, end]) => {
            let page = fs::read_to_string(path).unwrap();
            let (before, rest) = page.split_once(begin).unwrap();
            let (_, after) = rest.split_once(end).unwrap();
            format!("{before}{begin}{made}{end}{after}")
        }
    };
    if env::var_os("GLOWPLUG_WRITE_PAGES").is_some() {
        fs::write(path, &whole).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap() == whole,
        "GLOWPLUG_WRITE_PAGES=1 writes {path} as it would be now"
    );
}
