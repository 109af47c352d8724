#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::marks::{HELD_MAX, Marks};
use super::sentences::{SENTENCE_MAX, Sentences};
use super::*;
use proptest::prelude::*;

/// Texts as a reader splits them.
const TABLE: &str = include_str!("testdata/sentences.txt");

fn sentences<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let (mut all, mut sentences) = (String::new(), Sentences::default());
    for part in parts {
        all.push_str(part);
        sentences.push(part);
    }
    sentences.finish();
    let mut from = 0;
    let mut out = Vec::new();
    while let Some(end) = sentences.next() {
        out.push(all[from..end].to_owned());
        from = end;
    }
    assert_eq!(from, all.len(), "the sentences are the whole text");
    out
}

fn plain<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let (mut marks, mut out) = (Marks::default(), String::new());
    for part in parts {
        marks.push(part, &mut out);
    }
    marks.finish(&mut out);
    out
}

fn characters(text: &str) -> Vec<&str> {
    text.split_inclusive(|_| true).collect()
}

#[test]
fn sentences_are_those_of_a_reader() {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    let mut wrong = Vec::new();
    let (mut count, mut languages) = (0, std::collections::BTreeSet::new());
    for row in rows {
        let (language, text) = row.split_once('\t').unwrap();
        let text = text.replace('⏎', "\n");
        let expected: Vec<&str> = text.split('¦').collect();
        let whole = text.replace('¦', "");
        let found = sentences([whole.as_str()]);
        if found != expected {
            wrong.push(format!("{expected:?}\n{found:?}"));
        }
        (count, _) = (count + 1, languages.insert(language));
    }
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        count >= 80 && languages.len() >= 6,
        "{count} texts, {languages:?}"
    );
}

#[test]
fn a_sentence_is_told_when_its_end_is_certain_and_not_before() {
    for (text, bounds) in [
        ("It is 3.5 degrees. Now ", &[("N", 19)][..]),
        ("Hi! You", &[("Y", 4)]),
        ("Am 3. Oktober. Ja ", &[("J", 15)]),
        ("Ich bin 42. Und du? Ja", &[(" ", 12), ("J", 20)]),
        ("好。你好", &[("你", 6)]),
        ("One\nTwo", &[("T", 4)]),
    ] {
        let (mut sentences, mut seen) = (Sentences::default(), Vec::new());
        for part in characters(text) {
            sentences.push(part);
            while let Some(end) = sentences.next() {
                seen.push((part, end));
            }
        }
        assert_eq!(seen, bounds, "{text}");
    }
}

#[test]
fn marks_are_not_spoken() {
    #[rustfmt::skip]
    let table = [
        ("**Bold**, *slanted*, ***both***, __under__ and ~~gone~~.", "Bold, slanted, both, under and gone."),
        ("# Title\n\nText ## here\n### 3. Part", "Title\n\nText ## here\n3. Part"),
        ("- one\n* two\n  + three\n1. four\n- [x] five\n- [ ] six", "one\ntwo\nthree\n1. four\nfive\nsix"),
        ("Use `a*b*c` and ``d`e``.", "Use a*b*c and d`e."),
        ("```rust\nlet x = *y;\n```\nDone.", "let x = *y;\nDone."),
        ("~~~\n# no title\n~~~", "# no title\n"),
        ("See [the *manual*](https://x.org/a_(b) \"title\") and ![a lamp](l.png).", "See the manual and a lamp."),
        ("[1] and [x] (not a link) [y](is no link)", "[1] and [x] (not a link) [y](is no link)"),
        ("<https://example.com>, 1 < 2 and a<br>b", "https://example.com, 1 < 2 and a b"),
        ("> Quote\n> > deeper\n> - item", "Quote\ndeeper\nitem"),
        ("a\n---\nb\n***\n* * *\nc\n===", "a\nb\nc\n"),
        ("| Room | Lamp |\n|------|:----:|\n| hall | on |\n|kitchen|off|\n\nEnd", "Room, Lamp\nhall, on\nkitchen, off\n\nEnd"),
        ("2 * 3 * 4 = 24, 2*3 = 6, 2**3 = 8, a_b_c, 5*", "2 * 3 * 4 = 24, 2*3 = 6, 2**3 = 8, a_b_c, 5*"),
        ("-5 degrees, #1, C#, #hashtag, a|b, ~5, -- so --", "-5 degrees, #1, C#, #hashtag, a|b, ~5, -- so --"),
        ("\\*not\\* \\# a mark, C:\\Users", "*not* # a mark, C:\\Users"),
        ("这是**重点**。「**强调**」的*字*。", "这是重点。「强调」的字。"),
        ("**never closed", "never closed"),
        ("wow!", "wow!"),
        ("", ""),
        ("***", ""),
        ("- ", ""),
        ("`", ""),
        ("[open", "[open"),
    ];
    for (text, spoken) in table {
        assert_eq!(plain([text]), spoken, "{text:?}");
        assert_eq!(plain(characters(text)), spoken, "{text:?} by characters");
    }
}

const ENDLESS: &[&str] = &[
    "a",
    "好",
    "- ",
    "-",
    "[",
    "[a](",
    "[a](b ",
    "`",
    "*",
    "_ ",
    "|",
    "| ",
    " ",
    "<https://",
    "a, ",
    "\u{301}",
    "1. ",
    "e.g. ",
    "\n",
    "» ",
    "…",
    "#",
    "> ",
    "~~~",
    "```a ",
    "\\",
    "![",
];

#[test]
fn what_is_held_back_is_bounded() {
    for endless in ENDLESS {
        let (mut speech, mut spoken) = (Speech::default(), String::new());
        let (now, mut given) = (Instant::now(), 0);
        for pushed in 1..=5000 {
            speech.push(endless, now, &mut spoken);
            while speech.sentences.has_next() {
                given = speech.next(now).unwrap();
            }
            assert!(spoken.len() - given <= SENTENCE_MAX, "{endless:?}");
            assert!(
                speech.marks.held.len() <= HELD_MAX,
                "{endless:?} after {pushed}"
            );
        }
    }
}

#[test]
fn a_long_sentence_is_cut_between_words_or_characters() {
    let words = "word ".repeat(1000);
    for sentence in sentences([words.as_str()]) {
        assert!(sentence.len() <= SENTENCE_MAX && sentence.ends_with("word "));
    }
    // a family of several code points is one character
    let families = "👨\u{200d}👩\u{200d}👧".repeat(500);
    for sentence in sentences([families.as_str()]) {
        assert!(sentence.starts_with('👨') && sentence.ends_with('👧'));
    }
}

#[test]
fn a_clause_goes_ahead_of_a_slow_sentence() {
    let (every, start) = (Duration::from_millis(40), Instant::now());
    let (mut speech, mut spoken) = (Speech::default(), String::new());
    speech.push("Well, ", start, &mut spoken);
    assert_eq!(
        speech.due(every),
        None,
        "what follows the comma is not there yet"
    );
    speech.push("it is 3,5 degrees; in the ", start + every, &mut spoken);
    let due = start + every * PATIENCE;
    assert_eq!(speech.due(every), Some(Due::At(due)));
    assert_eq!(
        speech.next(due).map(|end| &spoken[..end]),
        Some("Well, it is 3,5 degrees; ")
    );
    assert_eq!(speech.due(every), None);
    // the rest has a patience of its own, and a sentence that ends goes at once
    speech.push("house, and so ", due, &mut spoken);
    assert_eq!(speech.due(every), Some(Due::At(due + every * PATIENCE)));
    speech.push("on. Then ", due + every, &mut spoken);
    assert_eq!(speech.due(every), Some(Due::Now));
    let end = speech.next(due + every).unwrap();
    assert_eq!(&spoken[25..end], "in the house, and so on. ");
    assert_eq!(speech.due(every), None);
}

const PIECES: &[&str] = &[
    "Dr", ".", " ", "3", "5", "Oktober", "z", "B", "U.S", "e.g", "?", "!", "…", "\n", "*", "**",
    "_", "`", "```\n", "# ", "- ", "[", "](", ")", "|", "¡", "“", "”", "»", "。", "」", "と", "好",
    "The", "the", "<br", ">", "\\", "~", "1", "https://", "é", "👍", ",",
];

fn words() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(PIECES).prop_map(str::to_owned), 0..40)
}

proptest! {
    #[test]
    fn the_cuts_do_not_matter(parts in words()) {
        let whole = parts.concat();
        let spoken = plain([whole.as_str()]);
        prop_assert_eq!(&plain(parts.iter().map(String::as_str)), &spoken);
        prop_assert_eq!(&plain(characters(&whole)), &spoken);
        let (mut speech, mut said) = (Speech::default(), String::new());
        let now = Instant::now();
        for part in &parts {
            speech.push(part, now, &mut said);
        }
        speech.finish(now, &mut said);
        prop_assert_eq!(&said, &spoken);
        let (mut from, mut split) = (0, Vec::new());
        while speech.sentences.has_next() {
            let end = speech.next(now).unwrap();
            split.push(said[from..end].to_owned());
            from = end;
        }
        prop_assert_eq!(split, sentences([spoken.as_str()]));
    }
}
