//! The table of keys in daemon/docs/configuration.md is the one in the code.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use glowplug::config::{Draft, entries, env_name, is_in_list};
use glowplug_tests::check_page;
use std::fmt::Write;
use std::path::PathBuf;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
const BEGIN: &str = "<!-- made of daemon/src/config/keys.rs -->\n";
const END: &str = "<!-- end -->\n";

fn table() -> String {
    let mut table = String::new();
    let mut section = None;
    for entry in entries() {
        let of = entry.key.split_once('.').map(|(of, _)| of);
        if table.is_empty() || of != section {
            let heading = of.map_or("Outside of any table".to_owned(), |of| {
                match of.strip_suffix("[]") {
                    Some(list) => format!("`[[{list}]]`"),
                    None => format!("`[{of}]`"),
                }
            });
            let columns = "| key | values | default | what it is |\n|---|---|---|---|";
            write!(table, "\n### {heading}\n\n{columns}\n").unwrap();
            section = of;
        }
        writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            entry.key, entry.values, entry.default, entry.about
        )
        .unwrap();
    }
    table.push('\n');
    table
}

/// `GLOWPLUG_WRITE_PAGES=1 cargo test --release -p glowplug --test configuration` writes the page anew.
#[test]
fn the_page_lists_every_key() {
    check_page(PAGE, Some([BEGIN, END]), &table());
}

#[test]
fn what_the_page_says_of_a_number_is_what_is_taken() {
    let taken = |key: &str, value: u64| {
        let mut draft = Draft::default();
        if let Some((list, key)) = key.split_once("[].") {
            let topic = if list == "tools" {
                "topic = \"a\"\n"
            } else {
                ""
            };
            let text = format!("[[{list}]]\nname = \"a\"\n{topic}{key} = {value}");
            draft = Draft::from_toml(&text).unwrap();
        } else {
            draft.set(key, &value.to_string()).unwrap();
        }
        draft.finish("host", PathBuf::new()).is_ok()
    };
    let mut numbers = 0;
    for entry in entries() {
        let Some((min, max)) = entry.values.split_once(" to ") else {
            continue;
        };
        let (min, max): (u64, u64) = (min.parse().unwrap(), max.parse().unwrap());
        assert!(taken(entry.key, min) && taken(entry.key, max), "{entry:?}");
        assert!(!taken(entry.key, max + 1), "{entry:?}");
        assert!(min == 0 || !taken(entry.key, min - 1), "{entry:?}");
        assert!(is_in_list(entry.key) || env_name(entry.key).starts_with("GLOWPLUG_"));
        numbers += 1;
    }
    assert!(numbers > 10);
}
