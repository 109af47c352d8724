#![allow(clippy::unwrap_used, clippy::expect_used)]

pub(in crate::text) mod sentence;

use super::alphabet::char_of;
use super::vocabulary::{CONTROL, NORMAL, UNUSED, USER_DEFINED};
use super::*;
use proptest::prelude::*;

/// A vocabulary of all bytes, "he", "ll", "hell" and " w", the special tokens of ChatML and R1, and a user-defined emoji.
pub(in crate::text) struct Tiny {
    pub(in crate::text) tokens: Vec<(String, i32)>,
    pub(in crate::text) merges: Vec<&'static str>,
    pub(in crate::text) pre: &'static str,
    pub(in crate::text) add_bos: Option<bool>,
}

/// Id of `<|endoftext|>`, the first after the letters and words.
pub(in crate::text) const FIRST_SPECIAL: u32 = 260;
/// The special tokens in the order of their ids.
pub(in crate::text) const SPECIAL: [(&str, i32); 9] = [
    ("<|endoftext|>", CONTROL),
    ("<|im_start|>", CONTROL),
    ("<|im_end|>", CONTROL),
    ("<｜end▁of▁sentence｜>", CONTROL),
    ("<｜User｜>", CONTROL),
    ("<｜Assistant｜>", CONTROL),
    ("<think>", USER_DEFINED),
    ("</think>", USER_DEFINED),
    ("👍", USER_DEFINED),
];

impl Default for Tiny {
    fn default() -> Self {
        let bytes = (0..=255u8).map(|b| (char_of(b).to_string(), NORMAL));
        let words = ["he", "ll", "hell", "Ġw"].map(|w| (w.to_string(), NORMAL));
        let special = SPECIAL.map(|(text, ty)| (text.to_string(), ty));
        Self {
            tokens: bytes.chain(words).chain(special).collect(),
            merges: vec!["h e", "l l", "he ll", "Ġ w"],
            pre: "qwen2",
            add_bos: None,
        }
    }
}

impl Tiny {
    pub(in crate::text) fn build(&self) -> Result<Tokenizer, TextError> {
        Tokenizer::build(&Vocabulary {
            kind: Kind::Bytes {
                pre: self.pre,
                merges: self.merges.clone(),
            },
            tokens: self.tokens.iter().map(|(t, _)| t.as_str()).collect(),
            types: self.tokens.iter().map(|(_, ty)| *ty).collect(),
            bos: Some(FIRST_SPECIAL),
            eos: Some(FIRST_SPECIAL + 2),
            other_ends: vec![],
            add_bos: self.add_bos,
        })
    }
}

fn letters(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn merges_in_order() {
    let t = Tiny::default().build().unwrap();
    assert_eq!(
        t.encode("hello w", false).unwrap(),
        [258, u32::from(b'o'), 259]
    );
    assert_eq!(t.encode("he", false).unwrap(), [256]);
    assert_eq!(t.encode("", true).unwrap(), [0; 0]);
    assert_eq!(t.vocab(), 269);
}

#[test]
fn control_tokens_are_read_only_on_request_and_words_of_the_vocabulary_always() {
    let t = Tiny::default().build().unwrap();
    assert_eq!(t.encode("<|im_end|>", true).unwrap(), [262]);
    assert_eq!(
        t.encode("<|im_end|>", false).unwrap(),
        letters("<|im_end|>")
    );
    for special in [false, true] {
        assert_eq!(t.encode("a<think>👍", special).unwrap(), [97, 266, 268]);
    }
}

#[test]
fn bytes_of_tokens() {
    let mut tiny = Tiny::default();
    tiny.tokens.push(("[PAD]".into(), UNUSED));
    tiny.tokens.push(("▁".into(), NORMAL));
    let t = tiny.build().unwrap();
    let cases: [(u32, &[u8]); 9] = [
        (0, b"\0"),
        (255, b"\xFF"),
        (258, b"hell"),
        (259, b" w"),
        (262, b""),
        (268, "👍".as_bytes()),
        (269, b""),
        (270, "▁".as_bytes()),
        (u32::MAX, b""),
    ];
    for (id, bytes) in cases {
        assert_eq!(t.token_bytes(id), bytes, "{id}");
    }
}

#[test]
fn ends_are_found_by_key_and_by_name() {
    let t = Tiny::default().build().unwrap();
    let ends: Vec<u32> = (0..300).filter(|&id| t.is_end(id)).collect();
    assert_eq!(
        ends,
        [260, 262, 263],
        "endoftext, im_end (also the file's eos), end of sentence"
    );
    // a word that is only written like an end
    let mut tiny = Tiny::default();
    tiny.tokens[260].1 = NORMAL;
    assert!(!tiny.build().unwrap().is_end(260));
}

#[test]
fn bytes_that_the_vocabulary_lacks_are_lost() {
    let mut tiny = Tiny::default();
    tiny.tokens[usize::from(b'x')].0 = "xx".into();
    let t = tiny.build().unwrap();
    assert_eq!(t.encode("x", false).unwrap(), [0; 0]);
    assert_eq!(
        t.encode("hxe", false).unwrap(),
        letters("he"),
        "h and e do not merge"
    );
}

#[test]
fn whole_words_come_before_merges_in_llama_3_only() {
    let mut tiny = Tiny::default();
    tiny.tokens.push(("hello".into(), NORMAL));
    assert_eq!(
        tiny.build().unwrap().encode("hello", false).unwrap().len(),
        2
    );
    tiny.pre = "llama-bpe";
    assert_eq!(tiny.build().unwrap().encode("hello", false).unwrap(), [269]);
}

#[test]
fn bos_is_added_where_the_file_or_its_kind_says_so() {
    for (pre, said, adds) in [
        ("qwen2", None, false),
        ("qwen2", Some(true), true),
        ("llama-bpe", None, true),
        ("llama-bpe", Some(false), false),
    ] {
        let t = Tiny {
            pre,
            add_bos: said,
            ..Tiny::default()
        }
        .build()
        .unwrap();
        assert_eq!(t.adds_bos(), adds, "{pre} {said:?}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    type Break = fn(&mut Tiny);
    let table: [(Break, &str); 9] = [
        (
            |t| t.pre = "bloom",
            "`tokenizer.ggml.pre` is `bloom`, a rule for splitting words that is not known; known are qwen2, ",
        ),
        (
            |t| t.tokens[257].0 = "he".into(),
            "`tokenizer.ggml.tokens`: token 257 stands twice",
        ),
        (
            |t| t.merges.push("he"),
            "`tokenizer.ggml.merges`: merge 4 is not of two tokens",
        ),
        (
            |t| t.merges.push(" he"),
            "`tokenizer.ggml.merges`: merge 4 is not of two tokens",
        ),
        (
            |t| t.merges.push("he "),
            "`tokenizer.ggml.merges`: merge 4 is not of two tokens",
        ),
        (
            |t| t.merges.push("h e l"),
            "`tokenizer.ggml.merges`: merge 4 is not of two tokens",
        ),
        (
            |t| t.merges.push("he zz"),
            "`tokenizer.ggml.merges`: merge 4 has `zz`, which no text can become",
        ),
        (
            |t| t.merges.push("zz he"),
            "`tokenizer.ggml.merges`: merge 4 has `zz`, which no text can become",
        ),
        (
            |t| t.merges.push("he a"),
            "`tokenizer.ggml.merges`: merge 4 has `hea`, which no text can become",
        ),
    ];
    for (change, says) in table {
        let mut tiny = Tiny::default();
        change(&mut tiny);
        let message = tiny.build().unwrap_err().to_string();
        assert!(message.starts_with(says), "{message}");
    }
}

#[test]
fn no_text_merges_into_a_control_token() {
    let mut tiny = Tiny::default();
    tiny.tokens[258].1 = CONTROL;
    let message = tiny.build().unwrap_err().to_string();
    assert_eq!(
        message,
        "`tokenizer.ggml.merges`: merge 2 has `hell`, which no text can become"
    );
}

#[test]
fn text_is_bounded() {
    let t = Tiny::default().build().unwrap();
    let most = "x".repeat(MAX_TEXT_BYTES);
    assert_eq!(t.encode(&most, false).unwrap().len(), MAX_TEXT_BYTES);
    let message = t.encode(&(most + "x"), false).unwrap_err().to_string();
    assert_eq!(
        message,
        "text of 4194305 bytes, at most 4194304 are tokenized at once"
    );
}

proptest! {
    #[test]
    fn text_goes_there_and_back(text in "[hel w<|im_start>think/👍\\PC]{0,40}", pre in prop::sample::select(split::names().collect::<Vec<_>>())) {
        let t = Tiny { pre, ..Tiny::default() }.build().unwrap();
        let ids = t.encode(&text, false).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| t.token_bytes(id)).collect();
        prop_assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
}

#[test]
fn merges_that_no_text_comes_to_are_harmless() {
    let mut tiny = Tiny::default();
    tiny.tokens.push(("▁▁".into(), NORMAL));
    // the second one stands twice and counts by its first place
    tiny.merges.extend(["▁ ▁", "h e"]);
    let t = tiny.build().unwrap();
    assert_eq!(
        t.encode("hello▁▁", false).unwrap()[..2],
        [258, u32::from(b'o')]
    );
    assert!(!t.encode("▁▁", false).unwrap().contains(&269));
    assert_eq!(t.token_bytes(269), "▁▁".as_bytes());
}
