//! A byte-level BPE vocabulary of 256 bytes, some merges, and the control tokens of ChatML.

/// A few merges of GPT-2's kind. Both sides and the whole of each are tokens.
const MERGES: [&str; 24] = [
    "Ġ t", "h e", "i n", "Ġt he", "Ġ a", "e r", "o n", "r e", "a t", "e n", "o r", "Ġ s", "i s",
    "Ġ w", "l l", "e s", "o u", "in g", "a n", "Ġa n", "Ġan d", "h a", "Ġt o", "l o",
];

/// Control tokens, which have type 3.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The tags of a thought. They are user-defined tokens (type 4) as in the files of R1's distillates.
const THINK: [&str; 2] = ["<think>", "</think>"];

/// The values of the keys `tokenizer.ggml.*`.
pub(crate) struct Vocabulary {
    pub(crate) tokens: Vec<String>,
    pub(crate) types: Vec<i32>,
    pub(crate) merges: Vec<String>,
}

impl Vocabulary {
    /// Makes the vocabulary with or without the tags of a thought.
    pub(crate) fn new(think: bool) -> Self {
        let think: &[&str] = if think { &THINK } else { &[] };
        let bytes = (0..=u8::MAX).map(|b| byte_char(b).to_string());
        let merged = MERGES.iter().map(|m| m.replace(' ', ""));
        let whole = CONTROL.iter().chain(think).map(ToString::to_string);
        let types = [
            (1, 256 + MERGES.len()),
            (3, CONTROL.len()),
            (4, think.len()),
        ];
        Self {
            tokens: bytes.chain(merged).chain(whole).collect(),
            types: types
                .iter()
                .flat_map(|&(ty, n)| std::iter::repeat_n(ty, n))
                .collect(),
            merges: MERGES.iter().map(ToString::to_string).collect(),
        }
    }

    /// Adds a token for each of these texts that is none yet, which no merge makes: no prompt has it.
    pub(crate) fn add(&mut self, texts: &[String]) {
        for text in texts {
            let token: String = text.bytes().map(byte_char).collect();
            if !self.tokens.contains(text) && !self.tokens.contains(&token) {
                self.tokens.push(token);
                self.types.push(1);
            }
        }
    }

    /// Adds numbered tokens, which no text has, until there are `len`.
    pub(crate) fn fill(&mut self, len: usize) {
        let numbered = (self.tokens.len()..len).map(|id| format!("<token {id}>"));
        self.tokens.extend(numbered);
        self.types.resize(self.tokens.len(), 1);
    }

    /// Tokens and types as SentencePiece writes them: bytes as `<0x0A>`, blanks as `▁`.
    pub(crate) fn sentence(&self) -> (Vec<String>, Vec<i32>) {
        let piece = |token: &String| {
            let bytes: Vec<u8> = (0..=u8::MAX).collect();
            let byte = |c| bytes.iter().copied().find(|b| byte_char(*b) == c);
            let text: Vec<u8> = token.chars().filter_map(byte).collect();
            String::from_utf8_lossy(&text).replace(' ', "▁")
        };
        let pairs = self.tokens.iter().zip(&self.types).zip(0..);
        pairs
            .map(|((token, ty), id)| match (id, ty) {
                (0..256, _) => (format!("<0x{id:02X}>"), 6),
                (_, 1) => (piece(token), 1),
                _ => (token.clone(), *ty),
            })
            .unzip()
    }

    /// The id of the token that stands for a text.
    pub(crate) fn id_of(&self, text: &str) -> u32 {
        let token: String = text.bytes().map(byte_char).collect();
        let is_it = |t: &String| t == text || *t == token;
        let Some(id) = self.tokens.iter().rposition(is_it) else {
            panic!("no token for {text:?}");
        };
        id as u32
    }

    /// The id of a token.
    pub(crate) fn id(&self, token: &str) -> u32 {
        let Some(id) = self.tokens.iter().position(|t| t == token) else {
            panic!("no token {token}");
        };
        id as u32
    }
}

/// GPT-2's visible character of a byte: the byte itself where it is printable in Latin-1, else the next free one from U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        char::from(byte)
    } else {
        let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
        char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        // the pairs that everybody knows from GPT-2's vocabulary
        assert_eq!(
            [byte_char(b' '), byte_char(b'\n'), byte_char(b'\t')],
            ['Ġ', 'Ċ', 'ĉ']
        );
        assert_eq!(
            [byte_char(b'a'), byte_char(0x7f), byte_char(0xad)],
            ['a', 'ġ', 'Ń']
        );
        let all: HashSet<char> = (0..=u8::MAX).map(byte_char).collect();
        assert_eq!(all.len(), 256);
    }

    #[test]
    fn merges_are_made_of_tokens_and_make_tokens() {
        let v = Vocabulary::new(true);
        let tokens: HashSet<&str> = v.tokens.iter().map(String::as_str).collect();
        assert_eq!(tokens.len(), v.tokens.len(), "every token once");
        assert_eq!(v.types.len(), v.tokens.len());
        for merge in &v.merges {
            let whole = merge.replace(' ', "");
            assert!(
                merge
                    .split(' ')
                    .chain([whole.as_str()])
                    .all(|t| tokens.contains(t)),
                "{merge}"
            );
        }
    }
}
