//! Joins the bytes of tokens to whole characters.

/// Takes the bytes of tokens and gives whole UTF-8 characters. An incomplete tail of at most three bytes is held back. If the
/// answer ends there it is dropped, because the rest of the character was never said.
///
/// Wherever the cuts between pushes are, the text is that of [`String::from_utf8_lossy`] over all bytes but that tail, with
/// one U+FFFD for each maximal invalid part, as the Unicode standard has it (3.9, "U+FFFD Substitution of Maximal Subparts").
#[derive(Debug, Default)]
pub struct Utf8Stream {
    /// bytes that may still become a character, always fewer than one has
    tail: Vec<u8>,
}

impl Utf8Stream {
    /// Appends to `out` the characters that are complete. Invalid bytes become U+FFFD.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.tail.extend_from_slice(bytes);
        let mut at = 0;
        let mut chunks = self.tail.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            at += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && is_prefix(invalid) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            at += invalid.len();
        }
        self.tail.drain(..at);
    }

    /// Drops an incomplete tail, because the next bytes are not of the same text.
    pub fn cut(&mut self) {
        self.tail.clear();
    }
}

/// Whether more bytes can still make a character of `part`, which is a maximal invalid part.
fn is_prefix(part: &[u8]) -> bool {
    std::str::from_utf8(part).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        for part in parts {
            stream.push(part, &mut out);
            assert!(stream.tail.len() < 4, "the tail is bounded");
        }
        out
    }

    #[test]
    fn a_character_is_never_split() {
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        for (byte, seen) in "a👍é"
            .bytes()
            .zip(["a", "a", "a", "a", "a👍", "a👍", "a👍é"])
        {
            stream.push(&[byte], &mut out);
            assert_eq!(out, seen);
        }
    }

    #[test]
    fn an_incomplete_end_is_no_text_and_invalid_bytes_are_replaced() {
        assert_eq!(run([&b"ok \xF0\x9F\x91"[..]]), "ok ");
        assert_eq!(run([&b"\xE2"[..], b"\x82", b"x"]), "\u{FFFD}x");
        assert_eq!(run([&b"\xED\xA0\x80"[..]]), "\u{FFFD}\u{FFFD}\u{FFFD}");
        assert_eq!(run([&b"\xFF"[..]]), "\u{FFFD}");
        let (mut stream, mut out) = (Utf8Stream::default(), String::new());
        stream.push(b"\xF0\x9F", &mut out);
        stream.cut();
        stream.push(b"x", &mut out);
        assert_eq!(out, "x");
    }

    /// Bytes that are often nearly UTF-8: characters with bytes dropped or changed.
    fn nearly_utf8() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop_oneof![
                any::<char>().prop_map(|c| c.to_string().into_bytes()),
                any::<char>().prop_map(|c| c.to_string().into_bytes()[1..].to_vec()),
                any::<char>().prop_map(|c| c.to_string().into_bytes()[..c.len_utf8() - 1].to_vec()),
                any::<u8>().prop_map(|b| vec![b]),
            ],
            0..40,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_lossy_text(bytes in nearly_utf8(), cuts in prop::collection::vec(1usize..6, 0..200)) {
            let mut rest = &bytes[..];
            let mut parts = Vec::new();
            for cut in cuts {
                let (part, tail) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = tail;
            }
            parts.push(rest);
            let end = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
            let tail = if is_prefix(end) { end.len() } else { 0 };
            let whole = &bytes[..bytes.len() - tail];
            prop_assert_eq!(run(parts), String::from_utf8_lossy(whole).into_owned());
        }
    }
}
