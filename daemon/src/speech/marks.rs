//! Takes the marks of Markdown out of an answer, as it comes.

use super::links::{self, Link};

/// Most bytes that a construct on one line may have before it is decided: a fence, a rule, the first cells of a table.
const LINE_MAX: usize = 256;
/// Most bytes that are held back in all.
pub(super) const HELD_MAX: usize = LINE_MAX + links::TEXT_MAX + links::TARGET_MAX;
/// So many equal marks in a row are decoration, and no mark of anything.
const RUN_MAX: usize = 64;

/// Removes emphasis, headings, quotes, bullets, rules, fences, code ticks and the frames of tables, and leaves of links their
/// text. Numbers of lists stay, because they are read aloud.
///
/// A parser of CommonMark decides at the end of a paragraph, by marks that close each other. Here text has to go out sentence by
/// sentence, so a mark goes when what is beside it says that it is one, whether another closes it or not. What is undecided is
/// held back, at most [`HELD_MAX`] bytes. How the text is cut into pushes does not matter.
#[derive(Debug)]
pub(super) struct Marks {
    /// Text that is not given out yet.
    pub(super) held: String,
    /// How much of it is done, while a push is worked on.
    at: usize,
    /// The character before what is held.
    before: char,
    /// Whether only blanks and marks were on this line.
    line_start: bool,
    mode: Mode,
    /// Whether a single `*` and a `_` are open.
    open: [bool; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Text,
    /// In a row of a table, whose cells become a list with commas.
    Row,
    /// In code on a line, up to so many ticks.
    Code(usize),
    /// In a block of code, up to a line of at least so many of these.
    Fence(char, usize),
}

/// What is next in the held text.
enum Next {
    /// So many bytes are text.
    Text(usize),
    /// So many bytes are marks.
    Mark(usize),
    /// So many bytes stand for this.
    Instead(usize, &'static str),
    /// The bytes of a link: its first mark, the text, and all.
    Link(usize, usize, usize),
    /// A line of so many bytes that begins or ends a mode.
    Line(usize, Mode),
    /// Nothing is known until more text has come.
    Wait,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            held: String::new(),
            at: 0,
            before: '\n',
            line_start: true,
            mode: Mode::Text,
            open: [false; 2],
        }
    }
}

impl Marks {
    /// Appends to `out` what is decided.
    pub(super) fn push(&mut self, text: &str, out: &mut String) {
        self.held.push_str(text);
        self.run(false, out);
    }

    /// Ends the text, so that everything is decided.
    pub(super) fn finish(&mut self, out: &mut String) {
        self.run(true, out);
    }

    fn run(&mut self, last: bool, out: &mut String) {
        while self.at < self.held.len() {
            match self.next(last) {
                Next::Wait => break,
                Next::Text(bytes) => {
                    out.push_str(&self.held[self.at..self.at + bytes]);
                    self.pass(bytes);
                }
                Next::Mark(bytes) => self.pass(bytes),
                Next::Instead(bytes, text) => {
                    out.push_str(text);
                    self.pass(bytes);
                }
                Next::Link(mark, text, all) => {
                    // what is inside may have marks of its own
                    let end = self.at + mark + text;
                    self.held.replace_range(end..self.at + all, "");
                    self.at += mark;
                }
                Next::Line(bytes, mode) => {
                    self.pass(bytes);
                    (self.mode, self.line_start) = (mode, true);
                }
            }
        }
        self.held.drain(..self.at);
        self.at = 0;
    }

    fn pass(&mut self, bytes: usize) {
        let done = &self.held[self.at..self.at + bytes];
        self.before = done.chars().next_back().unwrap_or(self.before);
        self.at += bytes;
    }

    fn next(&mut self, last: bool) -> Next {
        match self.mode {
            Mode::Fence(mark, run) => self.fenced(mark, run, last),
            Mode::Code(run) => self.code(run, last),
            Mode::Text if self.line_start => self.line(last),
            Mode::Text | Mode::Row => self.inline(last),
        }
    }

    fn rest(&self) -> &str {
        &self.held[self.at..]
    }

    /// The beginning of a line outside of code.
    fn line(&mut self, last: bool) -> Next {
        let rest = &self.held[self.at..];
        let indent = blanks(rest);
        let body = &rest[indent..];
        let Some(first) = body.chars().next() else {
            if last || indent >= LINE_MAX {
                self.line_start = false;
                return Next::Text(indent);
            }
            return Next::Wait;
        };
        match first {
            '\n' => {
                // a paragraph ends, and whatever was open in it
                self.open = [false; 2];
                return Next::Text(indent + 1);
            }
            '#' => match run(body, '#') {
                7.. => {}
                n => match body[n..].chars().next() {
                    None if !last => return Next::Wait,
                    Some(' ' | '\t') => {
                        self.line_start = false;
                        return Next::Mark(indent + n + 1);
                    }
                    Some('\n') | None => return Next::Mark(indent + n),
                    Some(_) => {}
                },
            },
            '>' => match body[1..].chars().next() {
                None if !last => return Next::Wait,
                Some(' ') => return Next::Mark(indent + 2),
                _ => return Next::Mark(indent + 1),
            },
            '`' | '~' => {
                if let Some(next) = fence(body, first, indent, last) {
                    return next;
                }
            }
            '|' => {
                if let Some(next) = self.row(indent, last) {
                    return next;
                }
            }
            '-' | '*' | '_' | '=' | '+' => {
                if let Some(next) = rule_or_bullet(body, first, indent, last) {
                    self.line_start = !matches!(next, Next::Mark(_));
                    return next;
                }
            }
            _ => {}
        }
        self.line_start = false;
        Next::Text(indent)
    }

    /// The first bar of a table's row, or the line under its head.
    fn row(&mut self, indent: usize, last: bool) -> Option<Next> {
        let body = &self.held[self.at + indent..];
        let frame = body
            .find(|c| !matches!(c, '|' | '-' | ':' | ' ' | '\t'))
            .unwrap_or(body.len());
        if frame >= LINE_MAX {
            return None;
        }
        match body[frame..].chars().next() {
            None if !last => return Some(Next::Wait),
            Some('\n') if body[..frame].contains('-') => {
                return Some(Next::Line(indent + frame + 1, Mode::Text));
            }
            None if body.contains('-') => return Some(Next::Mark(indent + frame)),
            Some('\n') | None => return None,
            Some(_) => {}
        }
        (self.mode, self.line_start) = (Mode::Row, false);
        Some(Next::Mark(indent + 1 + blanks(&body[1..])))
    }

    /// Text in a line, up to a mark, or the mark.
    fn inline(&mut self, last: bool) -> Next {
        let row = self.mode == Mode::Row;
        let rest = &self.held[self.at..];
        let special = |c| {
            matches!(c, '\n' | '\\' | '`' | '*' | '_' | '~' | '[' | '!' | '<')
                || row && matches!(c, '|' | ' ' | '\t')
        };
        let mark = match rest.find(special) {
            Some(0) => rest.as_bytes()[0],
            plain => return Next::Text(plain.unwrap_or(rest.len())),
        };
        let after = rest[1..].chars().next();
        if after.is_none() && !last && mark != b'\n' {
            return Next::Wait;
        }
        match mark {
            b'\n' => {
                (self.mode, self.line_start) = (Mode::Text, true);
                Next::Text(1)
            }
            b'\\' => match after {
                Some('\n') => Next::Mark(1),
                Some(c) if c.is_ascii_punctuation() => {
                    self.at += 1;
                    Next::Text(1)
                }
                _ => Next::Text(1),
            },
            b'`' => match run(rest, '`') {
                RUN_MAX => Next::Text(RUN_MAX),
                n if n == rest.len() && !last => Next::Wait,
                n => {
                    self.mode = Mode::Code(n);
                    Next::Mark(n)
                }
            },
            b'*' | b'_' | b'~' => self.emphasis(char::from(mark), last),
            b'[' => linked(1, links::link(rest, 1, last)),
            b'!' if after == Some('[') => linked(2, links::link(rest, 2, last)),
            b'<' => angle(rest, last),
            b'|' | b' ' | b'\t' => cell(rest, last),
            _ => Next::Text(1),
        }
    }

    /// A run of `*`, `_` or `~`.
    fn emphasis(&mut self, mark: char, last: bool) -> Next {
        let rest = self.rest();
        let n = run(rest, mark);
        if n == RUN_MAX {
            return Next::Text(n);
        }
        let after = match rest[n..].chars().next() {
            Some(after) => after,
            None if last => '\n',
            None => return Next::Wait,
        };
        let before = self.before;
        let (blank_before, blank_after) = (before.is_whitespace(), after.is_whitespace());
        let opens =
            !blank_after && (!is_punctuation(after) || blank_before || is_punctuation(before));
        let closes =
            !blank_before && (!is_punctuation(before) || blank_after || is_punctuation(after));
        let inside = before.is_ascii_alphanumeric() && after.is_ascii_alphanumeric();
        let is_mark = match (mark, n) {
            ('*', 2 | 3) => {
                !(blank_before && blank_after || before.is_numeric() && after.is_numeric())
            }
            ('~', 2) => opens || closes,
            ('*' | '_', 1..=3) => {
                let open = &mut self.open[usize::from(mark == '_')];
                let ends = *open && closes;
                let begins = !ends && opens && !inside;
                *open = !ends && (*open || begins);
                ends || begins
            }
            _ => false,
        };
        if is_mark {
            Next::Mark(n)
        } else {
            Next::Text(n)
        }
    }

    /// Code in a line, which ends with the line at the latest.
    fn code(&mut self, ticks: usize, last: bool) -> Next {
        let rest = &self.held[self.at..];
        match rest.find(['`', '\n']) {
            Some(0) if rest.starts_with('\n') => {
                self.mode = Mode::Text;
                Next::Text(0)
            }
            Some(0) => match run(rest, '`') {
                RUN_MAX => Next::Text(RUN_MAX),
                n if n == rest.len() && !last => Next::Wait,
                n if n == ticks => {
                    self.mode = Mode::Text;
                    Next::Mark(n)
                }
                n => Next::Text(n),
            },
            plain => Next::Text(plain.unwrap_or(rest.len())),
        }
    }

    /// A block of code, which is given as it is.
    fn fenced(&mut self, mark: char, ticks: usize, last: bool) -> Next {
        let rest = &self.held[self.at..];
        let end = rest.find('\n');
        if !self.line_start {
            self.line_start = end.is_some();
            return Next::Text(end.map_or(rest.len(), |end| end + 1));
        }
        let line = &rest[..end.unwrap_or(rest.len()).min(LINE_MAX)];
        let indent = blanks(line);
        let n = run(&line[indent..], mark);
        let blank = line[indent + n..].trim().is_empty();
        if blank && n >= ticks && (end.is_some_and(|end| end < LINE_MAX) || last) {
            return Next::Line(end.map_or(rest.len(), |end| end + 1), Mode::Text);
        }
        if blank && end.is_none() && !last && line.len() < LINE_MAX {
            return Next::Wait;
        }
        self.line_start = false;
        Next::Text(0)
    }
}

/// The bytes of the blanks that a text begins with, as far as they matter.
fn blanks(text: &str) -> usize {
    let blanks = text.bytes().take(LINE_MAX);
    blanks.take_while(|b| matches!(b, b' ' | b'\t')).count()
}

/// How often the text begins with this ASCII character, at most [`RUN_MAX`] times.
fn run(text: &str, mark: char) -> usize {
    let bytes = text.bytes().take(RUN_MAX);
    bytes.take_while(|b| char::from(*b) == mark).count()
}

fn is_punctuation(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace()
}

/// The line that opens a block of code; none if it is something else.
fn fence(body: &str, mark: char, indent: usize, last: bool) -> Option<Next> {
    let n = run(body, mark);
    if n == body.len() && !last && n < RUN_MAX {
        return Some(Next::Wait);
    }
    if n < 3 {
        return None;
    }
    let line = &body[n..];
    let end = line.find(['\n', '`']);
    match end {
        _ if end.unwrap_or(line.len()) >= LINE_MAX => None,
        Some(end) if line[end..].starts_with('`') => None,
        Some(end) => Some(Next::Line(indent + n + end + 1, Mode::Fence(mark, n))),
        None if last => Some(Next::Mark(indent + body.len())),
        None => Some(Next::Wait),
    }
}

/// A line of nothing but these marks, or the bullet of a list with the box of a task.
fn rule_or_bullet(body: &str, mark: char, indent: usize, last: bool) -> Option<Next> {
    let of_rule = |c: char| c == mark || matches!(c, ' ' | '\t');
    let rule = body.find(|c| !of_rule(c)).unwrap_or(body.len());
    let after = body[rule..].chars().next();
    let marks = body[..rule].chars().filter(|c| *c == mark).count();
    if rule < LINE_MAX {
        match after {
            None if !last => return Some(Next::Wait),
            Some('\n') if marks >= 3 && mark != '+' => {
                return Some(Next::Line(indent + rule + 1, Mode::Text));
            }
            None if marks >= 3 && mark != '+' => return Some(Next::Mark(indent + rule)),
            _ => {}
        }
    }
    let is_bullet = matches!(mark, '-' | '*' | '+') && body[1..].starts_with([' ', '\t']);
    if !is_bullet {
        return None;
    }
    let bullet = 1 + blanks(&body[1..]);
    let item = &body[bullet..];
    for task in ["[ ] ", "[x] ", "[X] "] {
        if item.starts_with(task) {
            return Some(Next::Mark(indent + bullet + task.len()));
        }
        if task.starts_with(item) && !last {
            return Some(Next::Wait);
        }
    }
    Some(Next::Mark(indent + bullet))
}

/// A link whose first mark has so many bytes, or the mark as text.
fn linked(mark: usize, link: Link) -> Next {
    match link {
        Link::Is { text, all } => Next::Link(mark, text, all),
        Link::No => Next::Text(mark),
        Link::Wait => Next::Wait,
    }
}

/// An address in angle brackets, or a line break of HTML.
fn angle(rest: &str, last: bool) -> Next {
    for line_break in ["<br>", "<br/>", "<br />"] {
        if rest.starts_with(line_break) {
            return Next::Instead(line_break.len(), " ");
        }
        if line_break.starts_with(rest) && !last {
            return Next::Wait;
        }
    }
    linked(1, links::address(rest, last))
}

/// What stands between two cells of a row, or after the last one.
fn cell(rest: &str, last: bool) -> Next {
    let before = blanks(rest);
    match rest[before..].chars().next() {
        None if !last && before < LINE_MAX => return Next::Wait,
        Some('|') => {}
        _ => return Next::Text(before.max(1)),
    }
    let bar = before + 1 + blanks(&rest[before + 1..]);
    match rest[bar..].chars().next() {
        None if !last && bar < LINE_MAX => Next::Wait,
        None | Some('\n') => Next::Mark(bar),
        Some(_) => Next::Instead(bar, ", "),
    }
}
