//! What README.md and the pages beside it show is what the program takes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use glowplug::config::Draft;
use glowplug::wire::admin;
use glowplug::wire::topics::{Route, Topics};
use std::path::{Path, PathBuf};
use std::process::Command;

const README: &str = include_str!("../../README.md");
const PAGES: [&str; 8] = [
    README,
    include_str!("../docs/bridges.md"),
    include_str!("../docs/clients.md"),
    include_str!("../docs/configuration.md"),
    include_str!("../docs/gpu.md"),
    include_str!("../docs/operations.md"),
    include_str!("../docs/pool.md"),
    include_str!("../docs/protocol.md"),
];

/// The lines between a fence of this language and its end, all blocks of all pages together.
fn blocks(language: &str) -> String {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in PAGES.iter().flat_map(|page| page.lines()) {
        match line.strip_prefix("```") {
            Some(rest) => inside = !inside && rest == language,
            None if inside => lines.push(line),
            None => {}
        }
    }
    lines.join("\n")
}

#[test]
fn the_configuration_is_valid() {
    let toml = blocks("toml");
    assert!(toml.contains("[engine]"));
    let config = Draft::from_toml(&toml)
        .unwrap()
        .finish("host", PathBuf::new())
        .unwrap();
    assert_eq!(config.base_topic, "plant7/line2/ai");
    assert!(config.mqtt.server.is_some());
}

#[test]
fn the_commands_are_there() {
    let output = Command::new(env!("CARGO_BIN_EXE_glowplug"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 11, "{help}");
    for command in commands {
        assert!(
            README.contains(&format!("`{command}")),
            "`{command}` is not in README.md"
        );
    }
}

#[test]
fn each_topic_that_is_written_to_is_one_the_daemon_reads() {
    let topics = Topics::new("glowplug", "n");
    let mut seen = Vec::new();
    for line in blocks("sh")
        .lines()
        .filter(|line| line.starts_with("mosquitto_pub") || line.starts_with("mosquitto_rr"))
    {
        let topic = line
            .split_once("-t \"$N/")
            .unwrap()
            .1
            .split('"')
            .next()
            .unwrap();
        let topic = format!("glowplug/n/{topic}");
        seen.push(match topics.route(&topic) {
            Some(Route::Request("me")) => "request",
            Some(Route::Cancel("me")) => "cancel",
            Some(Route::Control("me")) => "control",
            Some(Route::Ask("me")) => "ask",
            Some(Route::Session { client: "me", .. }) => "session",
            Some(Route::Admin("stats")) => "stats",
            other => panic!("{topic}: {other:?}"),
        });
    }
    for kind in ["request", "cancel", "control", "ask", "session", "stats"] {
        assert!(seen.contains(&kind), "no line for {kind}");
    }
    let mut verbs = Vec::new();
    for line in blocks("sh")
        .lines()
        .filter_map(|line| line.strip_prefix("admin "))
    {
        let (verb, body) = line.split_once(" '").unwrap();
        let body = body.split('\'').next().unwrap();
        let (asked, _) =
            admin::parse(verb, body.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e:?}"));
        verbs.push(asked.verb());
    }
    assert_eq!(verbs, ["model", "reload", "drain", "forget", "inhibit"]);
    // and what it writes has a line that reads it
    for topic in [
        "status",
        "info",
        "metrics",
        "chat/me/reply",
        "ask/me/answer",
        "session/me/+/result",
    ] {
        assert!(
            blocks("sh").contains(&format!("-t \"$N/{topic}\"")),
            "no line for {topic}"
        );
    }
}

/// All of the text in files of Rust below this folder.
fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            *into += &std::fs::read_to_string(path).unwrap();
        }
    }
}

/// Whether a function of this name is a test there.
fn is_test(name: &str, sources: &str) -> bool {
    let Some((before, _)) = sources.split_once(&format!("fn {name}(")) else {
        return false;
    };
    // without the line that it begins on
    let before = &before[..before.rfind('\n').unwrap_or(0)];
    let attributes = before.lines().rev();
    let mut attributes = attributes.take_while(|line| line.trim_start().starts_with("#["));
    attributes.any(|line| line.contains("test]"))
}

#[test]
fn whatever_it_works_with_has_a_test() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut all = String::new();
    for folder in ["daemon/src", "daemon/tests", "tests/tests"] {
        sources(&root.join(folder), &mut all);
    }
    let (_, section) = README.split_once("## Works with").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    // below its head
    for row in &rows[2..] {
        let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            let is = if test.contains('/') {
                root.join(test).is_file()
            } else {
                is_test(test, &all)
            };
            assert!(is, "no test `{test}`: {row}");
        }
    }
    assert!(rows.len() > 8 && !is_test("sources", &all) && !is_test("no_such_test", &all));
}

#[test]
fn it_is_read_in_five_minutes_and_leads_on() {
    assert!(README.lines().count() <= 200);
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let pages = [root.clone(), root.join("daemon/docs")];
    for (page, folder) in PAGES
        .iter()
        .zip(pages.iter().chain(std::iter::repeat(&pages[1])))
    {
        for link in page
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let text = std::fs::read_to_string(folder.join(file));
            let text = text.unwrap_or_else(|e| panic!("{link}: {e}"));
            let headings = text
                .lines()
                .filter_map(|line| line.strip_prefix("## "))
                .map(|heading| {
                    let heading = heading.to_lowercase().replace(' ', "-");
                    heading.replace([',', '\'', '.'], "")
                });
            assert!(
                part.is_empty() || headings.into_iter().any(|h| h == part),
                "{link}"
            );
        }
    }
}
