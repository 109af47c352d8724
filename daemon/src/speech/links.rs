//! Links of Markdown, of which an answer keeps the text.

/// Most bytes of the text of a link. A longer one is no link.
pub(super) const TEXT_MAX: usize = 512;
/// Most bytes of the target of a link. A longer one is no link.
pub(super) const TARGET_MAX: usize = 2048;

/// What stands where a link could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Bytes of its text, which is behind the first mark, and of all of it.
    Is {
        text: usize,
        all: usize,
    },
    No,
    /// Nothing is known until more text has come.
    Wait,
}

/// Reads a link whose first mark, `[` or `![`, has so many bytes.
pub(super) fn link(rest: &str, mark: usize, last: bool) -> Link {
    let no = Link::No;
    let mut depth = 1;
    let mut chars = rest[mark..].char_indices();
    let text = loop {
        match chars.next() {
            Some((at, _)) if at > TEXT_MAX => return no,
            Some((_, '\n')) => return no,
            Some((_, '\\')) => drop(chars.next()),
            Some((_, '[')) => depth += 1,
            Some((at, ']')) => {
                depth -= 1;
                if depth == 0 {
                    break at;
                }
            }
            Some(_) => {}
            None => return if last { no } else { Link::Wait },
        }
    };
    let target = mark + text + 2;
    match rest[target - 1..].chars().next() {
        Some('(') => {}
        None if !last => return Link::Wait,
        _ => return no,
    }
    let (mut depth, mut quote) = (1, None);
    let mut chars = rest[target..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if at > TARGET_MAX => return no,
            '\n' => return no,
            _ if quote.is_some() => quote = quote.filter(|quote| *quote != c),
            '(' => depth += 1,
            ')' if depth == 1 => {
                return Link::Is {
                    text,
                    all: target + at + 1,
                };
            }
            ')' => depth -= 1,
            ' ' => match chars.peek() {
                // a title
                Some((_, '"' | '\'')) => quote = chars.next().map(|(_, quote)| quote),
                Some((_, ')')) => {}
                None if !last => return Link::Wait,
                // prose in parentheses
                _ => return no,
            },
            _ => {}
        }
    }
    if last { no } else { Link::Wait }
}

/// Reads an address in angle brackets.
pub(super) fn address(rest: &str, last: bool) -> Link {
    for scheme in ["<http://", "<https://", "<mailto:"] {
        if scheme.starts_with(rest) && !last {
            return Link::Wait;
        }
        if rest.starts_with(scheme) {
            let end = rest.find(|c: char| c == '>' || c.is_whitespace());
            return match end {
                _ if end.unwrap_or(rest.len()) > TARGET_MAX => Link::No,
                Some(end) if rest[end..].starts_with('>') => Link::Is {
                    text: end - 1,
                    all: end + 1,
                },
                None if !last => Link::Wait,
                _ => Link::No,
            };
        }
    }
    Link::No
}
