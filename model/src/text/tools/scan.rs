//! Finds the end of a JSON object that comes in pieces, without reading any byte twice.

/// Where a scan is.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// bytes that were looked at
    at: usize,
    /// objects and lists that are open
    open: usize,
    in_string: bool,
    after_backslash: bool,
}

/// What a scan has found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// the object goes on
    More,
    /// the object ends before this byte
    End(usize),
    /// this is no JSON, whatever follows
    Broken,
}

impl Scan {
    /// Goes on with a text that begins with what was given before.
    pub(super) fn object(&mut self, text: &str) -> Found {
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if self.at == 0 && byte != b'{' {
                return Found::Broken;
            }
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_string = false,
                    // no string of JSON goes over the end of a line
                    0..0x20 => return Found::Broken,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.open += 1,
                b'}' | b']' => {
                    self.open -= 1;
                    if self.open == 0 {
                        return Found::End(self.at);
                    }
                }
                b':' | b',' | b'+' | b'-' | b'.' | b' ' | b'\n' | b'\r' | b'\t' => {}
                b'0'..=b'9' | b'a'..=b'z' | b'E' => {}
                _ => return Found::Broken,
            }
        }
        Found::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_ends_where_its_brace_is_closed() {
        for (text, found) in [
            (r#"{} x"#, Found::End(2)),
            (r#"{"a": {"b": [1, -2.5E+3, true, null]}}{"#, Found::End(38)),
            (r#"{"}": "\"}\\"} "#, Found::End(14)),
            (r#"{"a": "é}"}"#, Found::End(12)),
            (r#"{"a": "}"#, Found::More),
            (r#"{"a": "\"#, Found::More),
            (r#"{"a": [}"#, Found::More),
            ("", Found::More),
            ("[1]", Found::Broken),
            ("{\"a\": \"\n\"}", Found::Broken),
            ("{\"a\": 1\n</tool_call>", Found::Broken),
            ("{'a': 1}", Found::Broken),
        ] {
            assert_eq!(Scan::default().object(text), found, "{text}");
            // in pieces it is the same
            let mut scan = Scan::default();
            let mut last = Found::More;
            for (at, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
                last = scan.object(&text[..at]);
                if last != Found::More {
                    break;
                }
            }
            assert_eq!(last, found, "{text} in pieces");
        }
    }
}
