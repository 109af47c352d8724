//! Bounds of numbers that llguidance does not keep when they meet.

/// A bound of numbers, wherever it stands in the schema.
pub(super) struct Bound {
    pub(super) number: f64,
    is_low: bool,
    /// whether it is a whole number that is not within
    is_open: bool,
}

impl Bound {
    /// The bound of a keyword.
    pub(super) fn new(key: &str, number: f64) -> Self {
        Self {
            number,
            is_low: key.ends_with("inimum"),
            is_open: key.starts_with("exclusive") && number.fract() == 0.0,
        }
    }

    /// Whether both are bounds of less than one, of which an open end is a whole number. llguidance 1.9.1 allows that number.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let apart = (self.number - other.number).abs();
        let is_open = self.is_open || other.is_open;
        self.is_low != other.is_low && is_open && apart > 0.0 && apart < 1.0
    }
}
