//! Clients as the configuration names them: a segment, or a pattern in which `*` stands for any characters.

use glowplug_firmware_config::limits::CLIENT_MAX;

/// What a name or a pattern must look like, as the end of a sentence.
pub const FORM: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -, or `*` for any of them";

/// Whether a segment of a client or session is valid: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn valid_segment(segment: &str) -> bool {
    (1..=CLIENT_MAX).contains(&segment.len())
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether a text is a client's name or a pattern of some.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    valid_segment(&text.replace('*', "a"))
}

/// Whether a name fits a pattern in which `*` stands for any characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // the first place is as good as any later one
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, fits, others) in [
            ("panel", &["panel"][..], &["panel2", "a", ""][..]),
            (
                "voice-*",
                &["voice-", "voice-hall"],
                &["voice", "a-voice-b"],
            ),
            ("*", &["a", "b-c"], &[]),
            (
                "*-a-*b",
                &["x-a-b", "-a-a-bb", "1-a-2b"],
                &["x-a-bc", "-a-"],
            ),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
        ] {
            assert!(is_pattern(pattern), "{pattern}");
            for name in fits {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in others {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
        assert!(!is_pattern("a/b") && !is_pattern(""));
    }
}
