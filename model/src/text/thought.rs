//! Splits generated text into thought and answer.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// White space before a mark that is still "the very start of the output". Models write a newline
/// or two; the limit bounds what is held back.
const MAX_LEADING: usize = 64;

/// Splits generated text at `<think>` / `</think>`; marks are in neither side, a partial mark is
/// held back.
///
/// The thought may be opened by the prompt, by the model, or never: `<think>` is a mark only at the
/// very start of the output, later it is text. After a thought every `</think>` is swallowed,
/// because R1 distillates like to write a second one; the same holds for one at the very start,
/// which they write after an empty thought in the prompt. Newlines right after a mark are dropped.
/// How the text is cut into pushes does not matter.
#[derive(Debug)]
pub struct ThoughtSplitter {
    state: State,
    /// not yet given out: white space at the very start and a partial mark
    held: String,
}

/// Which side a piece is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `reasoning_content`
    Thought,
    /// `content`
    Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// nothing but white space so far
    Start,
    /// `fresh`: no text of it yet
    Thought { fresh: bool },
    /// an answer without a thought: all of it is text
    Plain,
    /// the answer after a thought; `fresh`: no text of it yet
    Answer { fresh: bool },
}

impl ThoughtSplitter {
    /// `open`: the prompt already opened the thought.
    pub fn new(open: bool) -> Self {
        let state = if open {
            State::Thought { fresh: true }
        } else {
            State::Start
        };
        Self {
            state,
            held: String::new(),
        }
    }

    /// Feeds text; `emit(side, piece)` is called with what is decided, never with an empty piece.
    pub fn push(&mut self, text: &str, emit: &mut dyn FnMut(Side, &str)) {
        self.held.push_str(text);
        while self.advance(emit) {}
    }

    /// End of the text: what was held back is emitted.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Side, &str)) {
        self.give(self.held.len(), emit);
    }

    /// On which side the next text goes, as far as known.
    pub fn side(&self) -> Side {
        match self.state {
            State::Thought { .. } => Side::Thought,
            State::Start | State::Plain | State::Answer { .. } => Side::Answer,
        }
    }

    /// One step; true if there may be another.
    fn advance(&mut self, emit: &mut dyn FnMut(Side, &str)) -> bool {
        match self.state {
            State::Start => self.start(),
            State::Thought { fresh } => {
                if fresh {
                    self.drop_newlines();
                    match self.leading_mark(&[OPEN]) {
                        Leading::Mark(_, end) => {
                            self.held.drain(..end);
                            return true;
                        }
                        Leading::Undecided => return false,
                        Leading::Text => {}
                    }
                }
                self.until_close(emit)
            }
            State::Plain => {
                self.give(self.held.len(), emit);
                false
            }
            State::Answer { fresh } => {
                if fresh {
                    self.drop_newlines();
                }
                self.until_close(emit)
            }
        }
    }

    /// At the very start: which of the three kinds of output is it?
    fn start(&mut self) -> bool {
        match self.leading_mark(&[OPEN, CLOSE]) {
            Leading::Mark(mark, end) => {
                self.held.drain(..end);
                self.state = if mark == OPEN {
                    State::Thought { fresh: true }
                } else {
                    State::Answer { fresh: true }
                };
                true
            }
            Leading::Undecided => false,
            Leading::Text => {
                self.state = State::Plain;
                true
            }
        }
    }

    /// Emits up to the closing mark and drops that; or all but what may become one.
    fn until_close(&mut self, emit: &mut dyn FnMut(Side, &str)) -> bool {
        if let Some(at) = self.held.find(CLOSE) {
            self.give(at, emit);
            self.held.drain(..CLOSE.len());
            if let State::Thought { .. } = self.state {
                self.state = State::Answer { fresh: true };
            }
            return true;
        }
        let partial = (1..CLOSE.len())
            .rev()
            .find(|&n| self.held.ends_with(&CLOSE[..n]))
            .unwrap_or(0);
        self.give(self.held.len() - partial, emit);
        false
    }

    /// Emits the first `len` bytes on the present side.
    fn give(&mut self, len: usize, emit: &mut dyn FnMut(Side, &str)) {
        if len == 0 {
            return;
        }
        emit(self.side(), &self.held[..len]);
        self.held.drain(..len);
        match &mut self.state {
            State::Thought { fresh } | State::Answer { fresh } => *fresh = false,
            State::Start | State::Plain => {}
        }
    }

    fn drop_newlines(&mut self) {
        let text = self.held.trim_start_matches(['\n', '\r']);
        self.held.drain(..self.held.len() - text.len());
    }

    /// Does what is held begin, after white space, with one of these marks?
    fn leading_mark(&self, marks: &[&'static str]) -> Leading {
        let text = self.held.trim_start();
        let white = self.held.len() - text.len();
        if white > MAX_LEADING {
            return Leading::Text;
        }
        if let Some(mark) = marks.iter().find(|m| text.starts_with(**m)) {
            return Leading::Mark(mark, white + mark.len());
        }
        if marks.iter().any(|m| m.starts_with(text)) {
            Leading::Undecided
        } else {
            Leading::Text
        }
    }
}

enum Leading {
    /// the mark, and where it ends
    Mark(&'static str, usize),
    Undecided,
    Text,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// (thought, answer) of these pushes.
    fn run<'a>(open: bool, parts: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let (mut thought, mut answer) = (String::new(), String::new());
        let mut splitter = ThoughtSplitter::new(open);
        let mut emit = |side, piece: &str| {
            assert!(!piece.is_empty());
            match side {
                Side::Thought => thought.push_str(piece),
                Side::Answer => answer.push_str(piece),
            }
        };
        for part in parts {
            splitter.push(part, &mut emit);
            assert!(
                splitter.held.len() < MAX_LEADING + CLOSE.len() + 1,
                "what is held back is bounded"
            );
        }
        splitter.finish(&mut emit);
        (thought, answer)
    }

    #[test]
    fn sides() {
        #[rustfmt::skip]
        let table = [
            // opened by the prompt
            (true, "I think.\n</think>\n\nYes.", "I think.\n", "Yes."),
            (true, "\n\nno end", "no end", ""),
            (true, "</think>\n\nYes.", "", "Yes."),
            (true, "\n<think>\nagain</think>Yes.", "again", "Yes."),
            // opened by the model
            (false, "<think>\nHm.\n</think>\n\nYes.", "Hm.\n", "Yes."),
            (false, "\n <think>Hm.</think>Yes.", "Hm.", "Yes."),
            (false, "<think>\n\n</think>\n\nYes.", "", "Yes."),
            (false, "<think>a <think> b</think>c <think> d", "a <think> b", "c <think> d"),
            // never
            (false, "Yes.", "", "Yes."),
            (false, "\n\nYes.", "", "\n\nYes."),
            (false, "The <think> mark, and </think>.", "", "The <think> mark, and </think>."),
            (false, "<thin", "", "<thin"),
            (false, "<thinking>", "", "<thinking>"),
            (false, "", "", ""),
            // a second end
            (true, "a</think>\n\nb</think>\n\nc", "a", "b\n\nc"),
            (true, "a</think>\n</think>\n\nc", "a", "c"),
            (false, "</think>\n\nYes.</thi", "", "Yes.</thi"),
        ];
        for (open, text, thought, answer) in table {
            assert_eq!(
                run(open, [text]),
                (thought.to_string(), answer.to_string()),
                "{open} {text:?}"
            );
        }
    }

    #[test]
    fn text_comes_as_soon_as_it_is_decided() {
        let mut seen = Vec::new();
        let mut splitter = ThoughtSplitter::new(false);
        for part in ["<th", "ink>", "a <", "b </th", "ink", ">", "\n", "c"] {
            splitter.push(part, &mut |side, piece| {
                seen.push((side, piece.to_string()));
            });
        }
        let (t, a) = (Side::Thought, Side::Answer);
        assert_eq!(seen, [(t, "a ".into()), (t, "<b ".into()), (a, "c".into())]);
        assert_eq!(splitter.side(), Side::Answer);
    }

    #[test]
    fn a_mark_after_much_white_space_is_text() {
        let text = " ".repeat(MAX_LEADING + 1) + "<think>a</think>";
        assert_eq!(run(false, [text.as_str()]), (String::new(), text.clone()));
        assert_eq!(run(false, [&text[1..]]), ("a".into(), String::new()));
    }

    fn texts() -> impl Strategy<Value = Vec<String>> {
        let piece = prop_oneof![
            Just("<think>".to_string()),
            Just("</think>".to_string()),
            "[\n <]{0,3}",
            "[ab</think>]{0,6}",
            Just(" ".repeat(40)),
        ];
        prop::collection::vec(piece, 0..8)
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_matter(parts in texts(), open in any::<bool>()) {
            let whole = parts.concat();
            let expected = run(open, [whole.as_str()]);
            prop_assert_eq!(&run(open, parts.iter().map(String::as_str)), &expected);
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            prop_assert_eq!(&run(open, chars.iter().map(String::as_str)), &expected);
        }
    }
}
