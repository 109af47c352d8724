//! Splits generated text into thought and answer.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Most bytes of white space before a tag that still counts as the very start of the output. Models write a newline or two;
/// the limit bounds what is held back.
const MAX_LEADING: usize = 64;

/// Splits generated text at the tags `<think>` and `</think>`. The tags are in neither side, and a partial tag is held back.
///
/// The thought may be opened by the prompt, by the model, or never. `<think>` is a tag only at the very start of the output;
/// later it is text, unless the caller knows better ([`Self::reopen`]). After a thought every `</think>` is dropped, because R1 distillates like to write a second one. So is one
/// at the very start, which they write after an empty thought in the prompt. Newlines right after a tag are dropped. How the
/// text is cut into pushes does not matter.
#[derive(Debug)]
pub struct ThoughtSplitter {
    state: SplitState,
    /// text that is not given out yet: white space at the very start, and a partial tag
    held: String,
    /// whether nothing but white space was given out since the last newline
    line_start: bool,
}

/// Which side of the output a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The thought: `reasoning_content` on the wire.
    Thought,
    /// The answer: `content` on the wire.
    Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SplitState {
    /// nothing but white space has come so far
    Start,
    /// in a thought, of which no text has come yet if it is `fresh`
    Thought { fresh: bool },
    /// in an answer without a thought, in which tags are text
    Plain,
    /// in the answer after a thought, of which no text has come yet if it is `fresh`
    Answer { fresh: bool },
}

impl ThoughtSplitter {
    /// Splits an output whose thought the prompt has opened already, if `open`.
    pub fn new(open: bool) -> Self {
        let state = if open {
            SplitState::Thought { fresh: true }
        } else {
            SplitState::Start
        };
        Self {
            state,
            held: String::new(),
            line_start: true,
        }
    }

    /// Whether the next text begins a line of an answer that has begun.
    pub fn at_line_start(&self) -> bool {
        let begins = match self.state {
            SplitState::Start | SplitState::Thought { .. } => return false,
            SplitState::Plain => self.line_start,
            SplitState::Answer { fresh } => fresh || self.line_start,
        };
        self.held.trim_start().is_empty() && (begins || self.held.contains('\n'))
    }

    /// Begins another thought, because the model opened one after its answer had begun. What was held back is given out.
    pub fn reopen(&mut self, emit: &mut dyn FnMut(Side, &str)) {
        self.finish(emit);
        self.state = SplitState::Thought { fresh: true };
    }

    /// Takes text and calls `emit(side, piece)` with what is decided, never with an empty piece.
    pub fn push(&mut self, text: &str, emit: &mut dyn FnMut(Side, &str)) {
        self.held.push_str(text);
        while self.advance(emit) {}
    }

    /// Ends the text and emits what was held back.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Side, &str)) {
        self.give(self.held.len(), emit);
    }

    /// The side that the next text belongs to, as far as that is known.
    pub fn side(&self) -> Side {
        match self.state {
            SplitState::Thought { .. } => Side::Thought,
            SplitState::Start | SplitState::Plain | SplitState::Answer { .. } => Side::Answer,
        }
    }

    /// Takes one step through the held text. Gives true if there may be another.
    fn advance(&mut self, emit: &mut dyn FnMut(Side, &str)) -> bool {
        match self.state {
            SplitState::Start => self.start(),
            SplitState::Thought { fresh } => {
                if fresh {
                    self.drop_newlines();
                    match self.leading_tag(&[OPEN]) {
                        Leading::Tag(_, end) => {
                            self.held.drain(..end);
                            return true;
                        }
                        Leading::Undecided => return false,
                        Leading::Text => {}
                    }
                }
                self.until_close(emit)
            }
            SplitState::Plain => {
                self.give(self.held.len(), emit);
                false
            }
            SplitState::Answer { fresh } => {
                if fresh {
                    self.drop_newlines();
                }
                self.until_close(emit)
            }
        }
    }

    /// Decides at the very start which of the three kinds of output this is.
    fn start(&mut self) -> bool {
        match self.leading_tag(&[OPEN, CLOSE]) {
            Leading::Tag(tag, end) => {
                self.held.drain(..end);
                self.state = if tag == OPEN {
                    SplitState::Thought { fresh: true }
                } else {
                    SplitState::Answer { fresh: true }
                };
                true
            }
            Leading::Undecided => false,
            Leading::Text => {
                self.state = SplitState::Plain;
                true
            }
        }
    }

    /// Emits the text up to a closing tag and drops the tag; without one, emits all but what may become one.
    fn until_close(&mut self, emit: &mut dyn FnMut(Side, &str)) -> bool {
        if let Some(at) = self.held.find(CLOSE) {
            self.give(at, emit);
            self.held.drain(..CLOSE.len());
            if let SplitState::Thought { .. } = self.state {
                self.state = SplitState::Answer { fresh: true };
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

    /// Emits the first `len` held bytes on the present side.
    fn give(&mut self, len: usize, emit: &mut dyn FnMut(Side, &str)) {
        if len == 0 {
            return;
        }
        emit(self.side(), &self.held[..len]);
        let line = self.held[..len].rsplit('\n').next().unwrap_or_default();
        let blank = line.trim_start().is_empty();
        self.line_start = blank && (self.line_start || line.len() < len);
        self.held.drain(..len);
        match &mut self.state {
            SplitState::Thought { fresh } | SplitState::Answer { fresh } => *fresh = false,
            SplitState::Start | SplitState::Plain => {}
        }
    }

    fn drop_newlines(&mut self) {
        let text = self.held.trim_start_matches(['\n', '\r']);
        self.held.drain(..self.held.len() - text.len());
    }

    /// Whether the held text begins, after white space, with one of these tags.
    fn leading_tag(&self, tags: &[&'static str]) -> Leading {
        let text = self.held.trim_start();
        let white = self.held.len() - text.len();
        if white > MAX_LEADING {
            return Leading::Text;
        }
        if let Some(tag) = tags.iter().find(|m| text.starts_with(**m)) {
            return Leading::Tag(tag, white + tag.len());
        }
        if tags.iter().any(|m| m.starts_with(text)) {
            Leading::Undecided
        } else {
            Leading::Text
        }
    }
}

enum Leading {
    /// the tag, and where it ends
    Tag(&'static str, usize),
    Undecided,
    Text,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The thought and the answer of these pushes.
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
    fn a_thought_is_opened_again_at_the_beginning_of_a_line() {
        let mut seen = (String::new(), String::new());
        let mut splitter = ThoughtSplitter::new(true);
        let mut emit = |side, piece: &str| match side {
            Side::Thought => seen.0.push_str(piece),
            Side::Answer => seen.1.push_str(piece),
        };
        for (part, at_line_start) in [
            ("a</think>\n\n", true),
            ("Yes", false),
            (".", false),
            ("\n", true),
            (" ", true),
            ("x ", false),
            ("\n\n", true),
        ] {
            splitter.push(part, &mut emit);
            assert_eq!(splitter.at_line_start(), at_line_start, "{part:?}");
        }
        splitter.reopen(&mut emit);
        assert_eq!(splitter.side(), Side::Thought);
        assert!(!splitter.at_line_start());
        splitter.push("\nb</think>\n\nNo.", &mut emit);
        splitter.finish(&mut emit);
        assert_eq!(seen, ("ab".to_owned(), "Yes.\n x \n\nNo.".to_owned()));
        // where nothing but white space has come, the tag itself decides
        let mut splitter = ThoughtSplitter::new(false);
        splitter.push(" \n", &mut |_, _| {});
        assert!(!splitter.at_line_start());
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
