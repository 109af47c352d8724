//! Vocabularies of SentencePiece, and what a hostile one comes to.

use super::super::vocabulary::{BYTE, UNKNOWN};
use super::*;

/// `<unk>`, `<s>` and `</s>`, the 256 bytes, and these pieces from id 259 on, the first with the highest score.
pub(in crate::text) struct Sentence {
    pub(in crate::text) tokens: Vec<(String, i32, f32)>,
    pub(in crate::text) prefix: bool,
}

/// Id of the first piece.
pub(in crate::text) const FIRST_PIECE: u32 = 259;
const PIECES: [&str; 17] = [
    "▁t", "he", "▁the", "▁▁", "in", "▁", "t", "h", "e", "n", "i", "a", "é", "界", ".", "<", ">",
];

impl Default for Sentence {
    fn default() -> Self {
        let marks = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
        let marks = marks.map(|(text, ty)| (text.to_owned(), ty, 0.0));
        let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), BYTE, 0.0));
        let pieces = PIECES
            .iter()
            .zip(0u8..)
            .map(|(text, at)| ((*text).to_owned(), NORMAL, -f32::from(at)));
        Self {
            tokens: marks.into_iter().chain(bytes).chain(pieces).collect(),
            prefix: true,
        }
    }
}

impl Sentence {
    pub(in crate::text) fn build(&self) -> Result<Tokenizer, TextError> {
        Tokenizer::build(&Vocabulary {
            kind: Kind::Sentence {
                scores: self.tokens.iter().map(|(.., score)| *score).collect(),
                prefix: self.prefix,
                unknown: Some(0),
            },
            tokens: self.tokens.iter().map(|(t, ..)| t.as_str()).collect(),
            types: self.tokens.iter().map(|(_, ty, _)| *ty).collect(),
            bos: Some(1),
            eos: Some(2),
            other_ends: vec![],
            add_bos: None,
        })
    }
}

/// Ids of pieces by their text.
fn ids(pieces: &[&str]) -> Vec<u32> {
    let id = |piece: &&str| {
        let at = PIECES.iter().position(|p| p == piece);
        at.map_or_else(
            || 3 + u32::from_str_radix(&piece[3..5], 16).unwrap(),
            |at| FIRST_PIECE + at as u32,
        )
    };
    pieces.iter().map(id).collect()
}

#[test]
fn the_highest_score_merges_first_and_a_blank_stands_before_text() {
    let t = Sentence::default().build().unwrap();
    for (text, pieces) in [
        ("", &[][..]),
        // `▁t` comes before `he`, and then there is `▁the` of both
        ("the", &["▁the"]),
        ("then", &["▁the", "n"]),
        ("athe", &["▁", "a", "t", "he"]),
        (" the", &["▁", "▁the"]),
        ("the the", &["▁the", "▁the"]),
        ("   ", &["▁▁", "▁▁"]),
        ("in界é", &["▁", "in", "界", "é"]),
        // what is no piece is written in bytes
        ("the\n", &["▁the", "<0x0A>"]),
        ("👍", &["▁", "<0xF0>", "<0x9F>", "<0x91>", "<0x8D>"]),
        (
            "<0x41>",
            &["▁", "<", "<0x30>", "<0x78>", "<0x34>", "<0x31>", ">"],
        ),
        // the character that stands for blanks is a blank
        ("the▁the", &["▁the", "▁the"]),
    ] {
        assert_eq!(t.encode(text, false).unwrap(), ids(pieces), "{text:?}");
    }
    assert!(t.adds_bos());
    assert_eq!((t.bos(), t.is_end(2), t.is_end(1)), (Some(1), true, false));
}

#[test]
fn text_behind_other_text_has_no_blank_before_it() {
    let t = Sentence::default().build().unwrap();
    assert_eq!(t.encode_behind("the", false).unwrap(), ids(&["t", "he"]));
    let bare = Sentence {
        prefix: false,
        ..Sentence::default()
    };
    let bare = bare.build().unwrap();
    assert_eq!(bare.encode("the", false).unwrap(), ids(&["t", "he"]));
    assert_eq!(bare.first_bytes(FIRST_PIECE), b" t");
    // but behind a control token text begins again
    let begins = [&ids(&["t", "he"])[..], &[2], &ids(&["▁the"])].concat();
    assert_eq!(t.encode_behind("the</s>the", true).unwrap(), begins);
}

#[test]
fn no_text_becomes_a_control_token_unasked() {
    let t = Sentence::default().build().unwrap();
    let ids = t.encode("<s>", false).unwrap();
    assert!(!ids.contains(&1), "{ids:?}");
    assert_eq!(t.encode("<s>", true).unwrap(), [1]);
}

#[test]
fn bytes_of_pieces() {
    let mut sentence = Sentence::default();
    sentence.tokens.push(("a▁b".into(), USER_DEFINED, 0.0));
    sentence.tokens.push(("▁x".into(), UNUSED, 0.0));
    let t = sentence.build().unwrap();
    let last = FIRST_PIECE + PIECES.len() as u32;
    for (id, bytes) in [
        (0, &b""[..]),
        (1, b""),
        (3, b"\0"),
        (258, b"\xFF"),
        (FIRST_PIECE + 2, b" the"),
        (FIRST_PIECE + 3, b"  "),
        (last, "a▁b".as_bytes()),
        (last + 1, b""),
        (last + 2, b""),
    ] {
        assert_eq!(t.token_bytes(id), bytes, "{id}");
    }
    assert_eq!(t.first_bytes(FIRST_PIECE + 2), b"the");
    assert_eq!(t.first_bytes(FIRST_PIECE + 3), b" ");
    assert_eq!(t.first_bytes(FIRST_PIECE + 1), b"he");
    // of a text each byte of a blank that was written with its own character
    assert_eq!(t.longest(), Some(6));
}

#[test]
fn what_has_no_bytes_is_the_unknown_token() {
    let mut sentence = Sentence::default();
    sentence.tokens[3 + 0xF0] = ("x".into(), NORMAL, -20.0);
    let t = sentence.build().unwrap();
    assert_eq!(
        t.encode_behind("a👍👍é", false).unwrap(),
        [ids(&["a"])[0], 0, 0, ids(&["é"])[0]]
    );
    assert_eq!(t.longest(), None);
}

#[test]
fn pieces_with_blanks_within_are_merged_as_well() {
    let mut sentence = Sentence::default();
    sentence.tokens.push(("e▁".into(), NORMAL, 1.0));
    sentence.tokens.push(("e▁t".into(), NORMAL, 1.0));
    let t = sentence.build().unwrap();
    let last = FIRST_PIECE + PIECES.len() as u32;
    assert_eq!(t.encode_behind("e t", false).unwrap(), [last + 1]);
}

#[test]
fn hostile_vocabularies_are_refused_or_bounded() {
    type Break = fn(&mut Sentence);
    let table: [(Break, &str); 4] = [
        (
            |s| s.tokens.push(("he".into(), NORMAL, 0.0)),
            "`tokenizer.ggml.tokens`: token 276 stands twice",
        ),
        (
            |s| s.tokens.push(("<0x0A>".into(), BYTE, 0.0)),
            "`tokenizer.ggml.tokens`: token 276 stands twice",
        ),
        (
            |s| s.tokens.push(("<0x+A>".into(), BYTE, 0.0)),
            "`tokenizer.ggml.token_type`: token 276 is a byte and is not written as <0x0A>",
        ),
        (
            |s| s.tokens.push(("\n".into(), BYTE, 0.0)),
            "`tokenizer.ggml.token_type`: token 276 is a byte and is not written as <0x0A>",
        ),
    ];
    for (change, says) in table {
        let mut sentence = Sentence::default();
        change(&mut sentence);
        assert_eq!(sentence.build().unwrap_err().to_string(), says);
    }
    // a piece with a blank of its own is of no text, also when the same is there with the other character
    let mut sentence = Sentence::default();
    sentence.tokens.push((" the".into(), NORMAL, 9.0));
    let t = sentence.build().unwrap();
    assert_eq!(t.encode("the", false).unwrap(), ids(&["▁the"]));
    // scores that are all the same: from left to right
    let mut sentence = Sentence::default();
    sentence
        .tokens
        .iter_mut()
        .for_each(|(.., score)| *score = 0.0);
    let t = sentence.build().unwrap();
    assert_eq!(t.encode("the", false).unwrap(), ids(&["▁the"]));
}

proptest! {
    #[test]
    fn text_goes_there_and_back(text in "[the inaé界<s>▁\\n👍\\PC]{0,40}", behind: bool) {
        let t = Sentence::default().build().unwrap();
        let ids = if behind { t.encode_behind(&text, false) } else { t.encode(&text, false) }.unwrap();
        let mut bytes: Vec<u8> = Vec::new();
        for (at, &id) in ids.iter().enumerate() {
            bytes.extend(if at == 0 && !behind { t.first_bytes(id) } else { t.token_bytes(id) });
        }
        prop_assert_eq!(String::from_utf8(bytes).unwrap(), text.replace('▁', " "));
        prop_assert!(ids.len() >= text.len() / t.longest().unwrap());
    }

    /// Words are merged one by one, and all at once they come to the same.
    #[test]
    fn words_do_not_change_what_is_merged(text in "[the in▁.]{0,40}") {
        let sentence = Sentence::default();
        let t = sentence.build().unwrap();
        let whole = Tokenizer { rule: Rule::whole(), ..sentence.build().unwrap() };
        prop_assert_eq!(t.encode(&text, false).unwrap(), whole.encode(&text, false).unwrap());
    }
}
