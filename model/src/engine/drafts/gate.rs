//! Decides how many tokens to draft: what they would save by the odds of this sequence so far, against what a wider step costs by
//! the times measured so far. It reads no clock: times come from the caller, and without them it uses assumed ones.

use super::lookup::{MATCH_MAX, Match};
use glowplug_firmware_config::limits::DRAFT_MAX;

/// Lengths of a match that begin a class of their own in the odds.
const LENGTHS: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, MATCH_MAX];

/// Odds that are assumed before anything was seen, taken from edits, forms and summaries by the 1.5B.
const ASSUMED: [[f64; LENGTHS.len()]; 3] = [
    [0.2, 0.3, 0.45, 0.6, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9],
    // for a copy that goes on behind a change
    [0.6, 0.7, 0.75, 0.8, 0.85, 0.85, 0.9, 0.9, 0.9, 0.9],
    // for what another text says
    [0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.8, 0.9, 0.9],
];

/// Odds of the layer that drafts that are assumed before anything was seen. For small models 0.35 to 0.65 are reported.
const LAYER_ASSUMED: f64 = 0.5;

/// What a draft of the layer's must promise, because its odds are known from fewer guesses, and its price from steps of which some
/// take a guess into the state and some do not. Where it promises less it was as often slower as faster.
const LAYER_MARGIN: f64 = 1.1;

/// Assumed price of a step with a draft of the layer's, in steps of one column.
const LAYER_PRICE: f64 = 1.25;

/// The assumed odds count as so many guesses.
const WEIGHT: f64 = 4.0;

/// After so many guesses of a class, everything seen before counts half, so that a text which begins to copy is noticed.
const REMEMBERED: f64 = 64.0;

/// A draft must promise this much more than a plain step, because the estimates may be wrong by as much.
const MARGIN: f64 = 1.05;

/// Assumed price of each further column, in steps of one column.
const SLOPE: f64 = 0.15;

/// After so many wider steps in a row there is one of one column, so that its price stays up to date.
const WIDE_MAX: u32 = 64;

/// After so many steps in which only the measured price spoke against a draft, the price is measured again. The number doubles
/// each time.
const PATIENCE: u32 = 128;

/// How often the guesses of one sequence came true.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Odds {
    seen: [[Seen; LENGTHS.len()]; ASSUMED.len()],
    layer: Seen,
}

/// Guesses of one class, and those that were right.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    right: f64,
    all: f64,
}

impl Odds {
    /// Notes whether a guess was right: one after a match, or else one of the layer that drafts.
    pub(super) fn saw(&mut self, after: Option<Match>, right: bool) {
        let seen = match after.map(class) {
            Some((kind, class)) => &mut self.seen[kind][class],
            None => &mut self.layer,
        };
        if seen.all >= REMEMBERED {
            (seen.right, seen.all) = (seen.right / 2.0, seen.all / 2.0);
        }
        seen.right += f64::from(u8::from(right));
        seen.all += 1.0;
    }

    /// The odds of the next guess after a match.
    pub(super) fn of(&self, after: Match) -> f64 {
        let (kind, class) = class(after);
        self.seen[kind][class].odds(ASSUMED[kind][class])
    }
}

impl Seen {
    fn odds(self, assumed: f64) -> f64 {
        (self.right + WEIGHT * assumed) / (self.all + WEIGHT)
    }
}

/// The class of a match: an index into [`ASSUMED`], and one into [`LENGTHS`].
fn class(of: Match) -> (usize, usize) {
    let class = LENGTHS.partition_point(|from| *from <= of.len).max(1) - 1;
    let kind = match of {
        Match {
            elsewhere: true, ..
        } => 2,
        Match { copied: 0, .. } => 0,
        _ => 1,
    };
    (kind, class)
}

/// Knows the seconds of a step by its columns, and decides from them.
#[derive(Debug)]
pub(super) struct Gate {
    /// seconds of a step by its columns less one; 0 if not measured
    seconds: [f64; DRAFT_MAX + 1],
    /// wider steps in a row so far
    wide: u32,
    /// steps declined for their price since the last trial
    declined: u32,
    /// steps declined until the next trial
    patience: u32,
    /// seconds of a step with a draft of the layer's, that of the draft included; 0 if not measured
    layer_seconds: f64,
    /// drafts of the layer's in a row so far
    asked: u32,
    /// steps since the layer was asked last
    unasked: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            seconds: [0.0; DRAFT_MAX + 1],
            // the first step of all has one column
            wide: WIDE_MAX,
            declined: 0,
            patience: PATIENCE,
            layer_seconds: 0.0,
            asked: WIDE_MAX,
            unasked: 0,
        }
    }
}

impl Gate {
    /// Decides how many tokens to draft after a match, at most `most`. Without a match it drafts none.
    pub(super) fn width(&mut self, odds: &Odds, after: Option<Match>, most: usize) -> usize {
        let most = most.min(DRAFT_MAX);
        let mut width = 0;
        if let Some(after) = after
            && self.wide < WIDE_MAX
        {
            width = best(odds, after, most, &|columns| self.price(columns));
            if width > 0 {
                self.patience = PATIENCE;
                self.declined = 0;
            } else if best(odds, after, most, &assumed) > 0 {
                self.declined += 1;
                if self.declined >= self.patience {
                    width = best(odds, after, most, &assumed);
                    self.declined = 0;
                    self.patience = self.patience.saturating_mul(2);
                }
            }
        }
        self.wide = if width == 0 { 0 } else { self.wide + 1 };
        width
    }

    /// Decides whether the layer that drafts is asked for one token, where no match is followed. If that does not pay, it is asked
    /// once in a while, because text and machine change.
    pub(super) fn asks(&mut self, odds: &Odds) -> bool {
        let plain = self.price(1);
        let price = match self.layer_seconds {
            0.0 => plain * LAYER_PRICE,
            seconds => seconds,
        };
        let pays = (1.0 + odds.layer.odds(LAYER_ASSUMED)) / price > LAYER_MARGIN / plain;
        let asks = (pays || self.unasked >= PATIENCE) && self.asked < WIDE_MAX;
        (self.asked, self.unasked) = if asks {
            (self.asked + 1, 0)
        } else {
            (0, self.unasked + 1)
        };
        asks
    }

    /// Notes how many seconds a step of `columns` columns took.
    pub(super) fn took(&mut self, columns: usize, seconds: f64) {
        if !(1..=DRAFT_MAX + 1).contains(&columns) {
            return;
        }
        let before = self.seconds[columns - 1];
        let now = learned(before, seconds);
        self.seconds[columns - 1] = now;
        // a machine that has become faster is faster for all widths
        if columns == 1 && now < before {
            let others = self.seconds[1..].iter_mut();
            others
                .chain([&mut self.layer_seconds])
                .for_each(|s| *s *= now / before);
        }
    }

    /// Notes how many seconds a step with a draft of the layer's took.
    pub(super) fn layer_took(&mut self, seconds: f64) {
        self.layer_seconds = learned(self.layer_seconds, seconds);
    }

    /// The price of a step of so many columns, measured or interpolated between measured ones.
    fn price(&self, columns: usize) -> f64 {
        let measured = |c: &usize| self.seconds[c - 1] > 0.0;
        let below = (1..=columns).rev().find(measured);
        let above = (columns..=DRAFT_MAX + 1).find(measured);
        match (below, above) {
            (Some(a), Some(b)) if a < b => {
                let part = (columns - a) as f64 / (b - a) as f64;
                self.seconds[a - 1] * (1.0 - part) + self.seconds[b - 1] * part
            }
            (Some(near), _) | (None, Some(near)) => {
                self.seconds[near - 1] * assumed(columns) / assumed(near)
            }
            (None, None) => assumed(columns),
        }
    }
}

/// The estimate of a step's seconds after another one. Interruptions make steps longer and nothing makes them shorter, so it falls
/// fast and rises slowly.
fn learned(before: f64, seconds: f64) -> f64 {
    if !seconds.is_finite() || seconds <= 0.0 {
        before
    } else if before == 0.0 {
        seconds
    } else if seconds < before {
        (before + seconds) / 2.0
    } else {
        before + (seconds - before).min(before) / 16.0
    }
}

/// The assumed price of a step, in steps of one column.
fn assumed(columns: usize) -> f64 {
    1.0 + SLOPE * (columns - 1) as f64
}

/// The length of the draft that gives the most tokens a second, 0 if a plain step gives more.
fn best(odds: &Odds, after: Match, most: usize, price: &dyn Fn(usize) -> f64) -> usize {
    let (mut width, mut most_per_second) = (0, MARGIN / price(1));
    let (mut tokens, mut reached) = (1.0, 1.0);
    for drafted in 1..=most {
        // the match grows by every token that comes true
        reached *= odds.of(after.and(drafted - 1));
        tokens += reached;
        let per_second = tokens / price(drafted + 1);
        if per_second > most_per_second {
            (width, most_per_second) = (drafted, per_second);
        }
    }
    width
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn after(len: usize) -> Option<Match> {
        Some(Match {
            at: 0,
            len,
            copied: 0,
            elsewhere: false,
        })
    }

    /// Odds after many guesses of which this share came true.
    fn odds(share: f64) -> Odds {
        let mut odds = Odds::default();
        for i in 0..400 {
            for len in LENGTHS {
                odds.saw(after(len), f64::from(i % 100) < share * 100.0);
            }
        }
        odds
    }

    /// A gate that knows what a step of each width costs.
    fn priced(price: impl Fn(usize) -> f64) -> Gate {
        let mut gate = Gate {
            wide: 0,
            ..Gate::default()
        };
        for columns in 1..=DRAFT_MAX + 1 {
            gate.took(columns, price(columns));
        }
        gate
    }

    #[test]
    fn a_draft_must_promise_more_than_it_costs() {
        let free = |_| 1.0;
        let dear = |columns| columns as f64;
        assert_eq!(priced(free).width(&odds(0.99), after(8), 9), DRAFT_MAX);
        let cheap = |columns| 1.0 + 0.1 * (columns - 1) as f64;
        assert_eq!(priced(cheap).width(&odds(0.99), after(8), 9), DRAFT_MAX);
        assert_eq!(priced(cheap).width(&odds(0.0), after(8), 9), 0);
        assert_eq!(priced(dear).width(&odds(1.0), after(8), 9), 0);
        assert_eq!(
            priced(|c| 1.0 + 0.2 * (c - 1) as f64).width(&odds(0.5), after(8), 9),
            1
        );
        // nothing was found, or there is no room
        assert_eq!(priced(free).width(&odds(1.0), None, 9), 0);
        assert_eq!(priced(free).width(&odds(1.0), after(8), 0), 0);
    }

    #[test]
    fn what_never_comes_true_is_given_up_and_noticed_when_it_does() {
        let mut gate = priced(|c| 1.0 + 0.1 * (c - 1) as f64);
        let mut odds = odds(1.0);
        let mut tries = 0;
        while gate.width(&odds, after(4), 3) > 0 {
            odds.saw(after(4), false);
            odds.saw(after(6), false);
            tries += 1;
            assert!(tries < 300);
        }
        tries = 0;
        while gate.width(&odds, after(4), 3) == 0 {
            odds.saw(after(4), true);
            tries += 1;
            assert!(tries < 300);
        }
    }

    #[test]
    fn a_price_out_of_date_is_measured_again_ever_less_often() {
        let dear = |columns| if columns == 1 { 1.0 } else { 10.0 };
        let mut gate = priced(dear);
        let odds = odds(1.0);
        let mut trials = Vec::new();
        for step in 0..2000 {
            let width = gate.width(&odds, after(8), 3);
            gate.took(1 + width, dear(1 + width));
            if width > 0 {
                trials.push(step);
            }
        }
        assert!((2..6).contains(&trials.len()), "{trials:?}");
        let gaps: Vec<i32> = trials.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.windows(2).all(|w| w[1] > w[0]), "{trials:?}");
    }

    #[test]
    fn the_price_of_one_column_does_not_go_out_of_date() {
        let mut gate = priced(|_| 1.0);
        let odds = odds(1.0);
        let widths: Vec<usize> = (0..200).map(|_| gate.width(&odds, after(8), 3)).collect();
        assert!(widths.contains(&0));
        let run = widths.split(|w| *w == 0).map(<[_]>::len).max();
        assert_eq!(run, Some(WIDE_MAX as usize));
    }

    #[test]
    fn the_layer_is_asked_where_it_pays_and_now_and_then_where_it_does_not() {
        for (price, share, pays) in [
            (1.2, 1.0, true),
            (1.2, 0.5, true),
            (1.2, 0.1, false),
            (1.6, 0.5, false),
            (2.0, 1.0, false),
        ] {
            let mut gate = priced(|_| 1.0);
            gate.layer_took(price);
            let mut odds = Odds::default();
            for i in 0..1000 {
                odds.saw(None, f64::from(i % 10) < share * 10.0);
            }
            let asked = (0..1000).filter(|_| gate.asks(&odds)).count();
            let expected = if pays { 980..990 } else { 5..10 };
            assert!(expected.contains(&asked), "{price} {share}: {asked}");
        }
        // nothing is known: a plain step first, and then the layer is tried
        let mut gate = Gate::default();
        assert!(!gate.asks(&Odds::default()) && gate.asks(&Odds::default()));
    }

    #[test]
    fn times_that_cannot_be_are_not_believed() {
        let mut gate = priced(|_| 1.0);
        for (columns, seconds) in [(0, 1.0), (9, 1.0), (1, 0.0), (1, -1.0), (1, f64::NAN)] {
            gate.took(columns, seconds);
        }
        assert!((1..=DRAFT_MAX + 1).all(|columns| gate.price(columns) == 1.0));
        // one slow step in between weighs little, a fast one much
        gate.took(1, 100.0);
        assert!(gate.price(1) < 1.1);
        gate.took(1, 0.5);
        assert!(gate.price(1) < 0.8 && gate.price(4) < 0.8);
    }
}
