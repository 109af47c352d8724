//! What every reader of JSON can bear, whatever the schema allows.
//!
//! A schema bounds neither how deep an answer nests nor how large its numbers are, and a small model repeats a bracket or a digit
//! until its tokens are spent. And `1e999` is JSON, but many readers have no number for it.

use glowplug_firmware_config::limits::SCHEMA_LEVELS_MAX;

/// Most bytes of a number. Those of a schema have 30 at most.
const NUMBER_MAX: usize = 40;
/// Brackets or digits of one token, about.
const OF_A_TOKEN: usize = 16;

/// Where an answer is that has JSON in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    /// whether all of the answer is JSON; otherwise it has objects
    whole: bool,
    depth: usize,
    in_string: bool,
    after_backslash: bool,
    /// bytes of the number that may go on
    number: usize,
}

impl Written {
    /// Nothing is written. `whole`: whether nothing but JSON will be.
    pub(super) fn new(whole: bool) -> Self {
        Self {
            whole,
            depth: 0,
            in_string: false,
            after_backslash: false,
            number: 0,
        }
    }

    /// Goes on. Gives whether what is written can still be borne.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let mut fits = true;
        for byte in bytes {
            // those behind what is too much count too
            fits &= self.byte(*byte);
        }
        fits
    }

    /// Whether any token might be too much. Otherwise only one with an exponent is.
    pub(super) fn is_near(&self) -> bool {
        self.number > 0 || self.depth + OF_A_TOKEN > SCHEMA_LEVELS_MAX
    }

    fn byte(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.after_backslash => self.after_backslash = false,
                b'\\' => self.after_backslash = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return true;
        }
        let before = std::mem::take(&mut self.number);
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth += 1;
                return self.depth <= SCHEMA_LEVELS_MAX;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            // outside of all objects, what is no JSON has names
            _ if !self.whole && self.depth == 0 => {}
            b'0'..=b'9' | b'.' | b'-' | b'+' => {
                self.number = before + 1;
                return self.number <= NUMBER_MAX;
            }
            b'e' | b'E' if before > 0 => {
                self.number = before + 1;
                return false;
            }
            _ => {}
        }
        true
    }
}

/// Whether a token has what may be an exponent.
pub(super) fn has_exponent(token: &[u8]) -> bool {
    token
        .windows(2)
        .any(|pair| matches!(pair, [b'0'..=b'9', b'e' | b'E']))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_levels_are_bounded_outside_of_strings() {
        let fits = |whole, text: &str| Written::new(whole).push(text.as_bytes());
        let digits = |n: usize| "7".repeat(n);
        for (text, bears) in [
            ("[1.5,-20,true,false,null]".into(), true),
            ("1e5".into(), false),
            ("{\"a\":1E5}".into(), false),
            ("{\"1e5\":\"\\\"1e5\"}".into(), true),
            (digits(NUMBER_MAX), true),
            (digits(NUMBER_MAX + 1), false),
            (format!("[{0},{0}]", digits(NUMBER_MAX)), true),
            (format!("\"{}\"", digits(99)), true),
            ("[".repeat(SCHEMA_LEVELS_MAX), true),
            ("[".repeat(SCHEMA_LEVELS_MAX) + "]{", true),
            ("[".repeat(SCHEMA_LEVELS_MAX) + "{", false),
            (format!("\"{}", "[".repeat(99)), true),
        ] {
            assert_eq!(fits(true, &text), bears, "{text}");
        }
        assert!(fits(false, "tool_2e\n{\"a\":1}"));
        assert!(!fits(false, "tool_2e\n{\"a\":1e1}"));
        assert!(has_exponent(b" 1e") && !has_exponent(b"e1") && !has_exponent(b"true"));
    }
}
