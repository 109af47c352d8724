use super::*;
use fancy_regex::Regex;
use proptest::prelude::*;

#[test]
fn it_matches_what_ecmascript_does() {
    for (pattern, yes, no) in [
        ("a", &["a", "xax"][..], &["", "b"][..]),
        ("^a$", &["a"], &["a\n", "ba", "ab"]),
        ("^a|b$", &["ax", "xb"], &["xa", "bx"]),
        ("^(?:a|bc)+?$", &["abca"], &["", "ac"]),
        (r"^\d{2,3}$", &["12", "123"], &["1", "1234", "٣٣"]),
        (r"^\w\W\s\S$", &["a- b"], &["é- b", "a- \u{a0}"]),
        (r"^.$", &["é", "\u{85}"], &["\n", "\r", "\u{2028}"]),
        (r"^[^a-c\]]$", &["d", "["], &["a", "]"]),
        (r"^[\w-]$", &["-", "a"], &["+"]),
        (r"^[]$|^[^]$", &["x", "\n"], &[""]),
        (
            r"^\u00e9\x41\u{1F600}\ud83d\ude00\cJ\0$",
            &["éA😀😀\n\0"],
            &["é"],
        ),
        (r"^(?<year>\d)\/\.$", &["1/."], &["1/x"]),
        (r"^\s$", &["\u{feff}", "\u{3000}"], &["\u{85}", "\u{200b}"]),
        ("^a{0}$", &[""], &["a"]),
        ("", &["", "x"], &[]),
    ] {
        let written = Regex::new(&Pattern::within(pattern).unwrap().text()).unwrap();
        for text in yes {
            assert!(written.is_match(text).unwrap(), "{pattern} {text:?}");
        }
        for text in no {
            assert!(!written.is_match(text).unwrap(), "{pattern} {text:?}");
        }
    }
    for pattern in [
        "a**", "(", ")", "a)", "[b-a]", "{2}", "a{2", "a{3,2}", r"\", r"\q", r"\p{L}", r"\1",
        "a^b", "a$b", "(^a)", r"\ud800", r"\u12", "(?i)a", "(?<!a)b", "*",
    ] {
        assert!(Pattern::within(pattern).is_err(), "{pattern}");
    }
    assert!(Pattern::within(&"(".repeat(100_000)).is_err());
}

#[test]
fn states_are_counted() {
    let states = |text: &str| Pattern::whole(text).unwrap().states(0, None);
    assert_eq!(states("abc"), Ok(4));
    assert_eq!(states("[a-z]*"), Ok(1));
    assert_eq!(states("a[a-z]*"), Ok(2));
    assert_eq!(states("a{5}"), Ok(6));
    assert!(states("a{1999}").is_ok());
    assert!(states("a{2000}").is_err());
    assert_eq!(Pattern::whole("a*").unwrap().states(2, Some(10)), Ok(11));
    for bomb in [
        "[ab]*a[ab]{900}c",
        "(a{1,1000}b{1,1000}){1,1000}",
        "((a{0,99}){0,99}){0,99}",
        "(?:){4000000000}",
        "(a|aa|aaa|b){1,4000000000}",
        ".*a.{30}b",
        "((((a?){99}){99}){99}){99}",
    ] {
        let error = states(bomb).unwrap_err();
        assert_eq!(
            error, "needs more than 2000 states to be enforced",
            "{bomb}"
        );
    }
    assert_eq!(
        states("[]"),
        Err("matches no text that can be written".into())
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in r"[ab^$|()\[\]{},*+?.\\dws0-9-]{0,16}", sample in "[ab0-9 \\n]{0,6}") {
        let Ok(pattern) = Pattern::within(&text) else { return Ok(()) };
        let _ = pattern.states(0, Some(9));
        // where both know the syntax, both match the same
        let Ok(other) = Regex::new(&text) else { return Ok(()) };
        let written = Regex::new(&pattern.text()).unwrap();
        let (Ok(ours), Ok(theirs)) = (written.is_match(&sample), other.is_match(&sample)) else { return Ok(()) };
        // that crate's `$`, `.` and classes are Rust's
        if !sample.contains('\n') && !text.contains(r"\d") {
            prop_assert_eq!(ours, theirs);
        }
    }
}
