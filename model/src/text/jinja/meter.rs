//! What a render has used, and why it ends when it has used too much.

/// Why a template cannot be read, or why it does not write this conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct JinjaError {
    /// the line of the template, counted from 1
    pub line: u32,
    /// what is wrong there, or what the template says itself by `raise_exception`
    pub why: String,
}

pub(super) type Result<T> = std::result::Result<T, JinjaError>;

/// An error whose line whoever runs the template knows.
pub(super) fn error(why: impl Into<String>) -> JinjaError {
    JinjaError {
        line: 0,
        why: why.into(),
    }
}

pub(super) fn fail<T>(why: impl Into<String>) -> Result<T> {
    Err(error(why))
}

/// Work of a step: one expression that is evaluated, one thing that is done with its value, or one statement that is run.
const STEP: usize = 32;
/// Work of an element of a container, and of a text besides its bytes. Memory for one is less: a value has 32 bytes, and what
/// lies around it in a list, a map or a scope is at most as much.
pub(super) const ELEMENT: usize = 96;
/// Most steps within each other. A tool's schema has 64 levels, for each of which templates go through up to 10.
const LEVELS: usize = 700;

/// Work that a render may still do. One unit is a byte that is made, so that it bounds memory, or what takes as long as
/// making a few bytes, so that it bounds time.
#[derive(Debug)]
pub(in crate::text) struct Meter {
    left: usize,
    levels: usize,
}

impl Meter {
    pub(in crate::text) fn new(work: usize) -> Self {
        Self {
            left: work,
            levels: 0,
        }
    }

    /// Takes so much work, before it is done.
    pub(super) fn charge(&mut self, work: usize) -> Result<()> {
        match self.left.checked_sub(work) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => fail("the template takes too much work"),
        }
    }

    /// Takes the work of so many elements.
    pub(super) fn charge_elements(&mut self, count: usize) -> Result<()> {
        self.charge(count.saturating_mul(ELEMENT))
    }

    /// Takes the work of one of the steps that an expression consists of.
    pub(super) fn charge_step(&mut self) -> Result<()> {
        self.charge(STEP)
    }

    /// Goes a level down; [`Self::leave`] comes up again.
    pub(super) fn enter(&mut self) -> Result<()> {
        self.charge_step()?;
        self.levels += 1;
        if self.levels > LEVELS {
            return fail("the template's steps are nested too deeply");
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.levels -= 1;
    }
}
