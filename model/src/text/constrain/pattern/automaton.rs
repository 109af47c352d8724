//! Counts the states of an expression. A mask follows the expression's automaton, and each state that an answer or a token
//! leads to costs memory, so an expression whose automaton explodes has to be known before.

use super::Node;
use std::collections::{HashMap, HashSet, VecDeque};

/// Most states of an expression. An answer visits one for each of its characters at most, where they are counted.
pub(in crate::text::constrain) const STATES_MAX: usize = 2_000;
/// Most states before they are made deterministic.
const NODES_MAX: usize = 8 * STATES_MAX;
/// Most steps of the count: 12 ms on two Intel cores, in a build that is hardly optimised.
const STEPS_MAX: usize = 2_000_000;

/// A state of the automaton that is not deterministic.
enum Step {
    /// goes on at all of these without a character
    Fork(Vec<u32>),
    /// goes on with a character of this set
    Read(usize, u32),
}

const END: u32 = 0;

struct Builder {
    steps: Vec<Step>,
    /// the ranges of each set
    sets: Vec<Vec<(u32, u32)>>,
    left: usize,
}

/// Counts the states for texts of so many characters.
pub(super) fn states(node: &Node, least: usize, most: Option<usize>) -> Result<usize, String> {
    let mut builder = Builder {
        steps: vec![Step::Fork(Vec::new())],
        sets: Vec::new(),
        left: STEPS_MAX,
    };
    let start = builder.add(node, END)?;
    let classes = builder.classes();
    builder.count(start, &classes, least, most)
}

fn too_large() -> String {
    format!("needs more than {STATES_MAX} states to be enforced")
}

impl Builder {
    fn spend(&mut self, steps: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(steps).ok_or_else(too_large)?;
        Ok(())
    }

    fn push(&mut self, step: Step) -> Result<u32, String> {
        if self.steps.len() == NODES_MAX {
            return Err(too_large());
        }
        self.steps.push(step);
        Ok(self.steps.len() as u32 - 1)
    }

    /// Adds a node that goes on at `next`, and gives where it begins.
    fn add(&mut self, node: &Node, next: u32) -> Result<u32, String> {
        self.spend(1)?;
        match node {
            Node::Empty => Ok(next),
            Node::Set(ranges) => {
                self.sets.push(ranges.clone());
                self.push(Step::Read(self.sets.len() - 1, next))
            }
            Node::Concat(nodes) => nodes
                .iter()
                .rev()
                .try_fold(next, |next, node| self.add(node, next)),
            Node::Alternatives(nodes) => {
                let starts: Result<_, _> = nodes.iter().map(|node| self.add(node, next)).collect();
                self.push(Step::Fork(starts?))
            }
            Node::Repeat(node, least, most) => {
                let mut start = next;
                match most {
                    None => {
                        start = self.push(Step::Fork(Vec::new()))?;
                        let body = self.add(node, start)?;
                        self.steps[start as usize] = Step::Fork(vec![body, next]);
                    }
                    Some(most) => {
                        for _ in *least..*most {
                            let body = self.add(node, start)?;
                            start = self.push(Step::Fork(vec![body, next]))?;
                        }
                    }
                }
                for _ in 0..*least {
                    start = self.add(node, start)?;
                }
                Ok(start)
            }
        }
    }

    /// The classes of characters that no set tells apart: of each set, which classes it has.
    fn classes(&self) -> Vec<Vec<usize>> {
        let ranges = || self.sets.iter().flatten();
        let mut bounds: Vec<u32> = ranges()
            .flat_map(|&(first, last)| [first, last + 1])
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let class = |ranges: &Vec<(u32, u32)>| {
            ranges
                .iter()
                .flat_map(|(first, last)| {
                    let at = |bound| bounds.partition_point(|other| *other < bound);
                    at(*first)..at(last + 1)
                })
                .collect()
        };
        self.sets.iter().map(class).collect()
    }

    /// Adds `from` and all that it goes on at without a character.
    fn close(
        &mut self,
        from: u32,
        set: &mut Vec<u32>,
        seen: &mut [u32],
        round: u32,
    ) -> Result<(), String> {
        let mut todo = vec![from];
        while let Some(at) = todo.pop() {
            self.spend(1)?;
            if std::mem::replace(&mut seen[at as usize], round) == round {
                continue;
            }
            match &self.steps[at as usize] {
                Step::Fork(next) => todo.extend(next),
                Step::Read(..) => {}
            }
            if at == END || matches!(self.steps[at as usize], Step::Read(..)) {
                set.push(at);
            }
        }
        Ok(())
    }

    fn count(
        &mut self,
        start: u32,
        classes: &[Vec<usize>],
        least: usize,
        most: Option<usize>,
    ) -> Result<usize, String> {
        // how long the text is matters up to here
        let counted = most.unwrap_or(least);
        let mut seen = vec![u32::MAX; self.steps.len()];
        let mut round = 0;
        let mut first = Vec::new();
        self.close(start, &mut first, &mut seen, round)?;
        first.sort_unstable();
        let mut known = HashSet::from([(first.clone(), 0)]);
        let mut todo = VecDeque::from([(first, 0)]);
        let mut ends = false;
        while let Some((set, length)) = todo.pop_front() {
            ends |= length >= least && set.contains(&END);
            if most == Some(length) {
                continue;
            }
            let mut onward: HashMap<usize, Vec<u32>> = HashMap::new();
            for &at in &set {
                if let Step::Read(read, next) = self.steps[at as usize] {
                    self.spend(classes[read].len())?;
                    for class in &classes[read] {
                        onward.entry(*class).or_default().push(next);
                    }
                }
            }
            for nexts in onward.into_values() {
                round += 1;
                let mut set = Vec::new();
                for next in nexts {
                    self.close(next, &mut set, &mut seen, round)?;
                }
                set.sort_unstable();
                let state = (set, (length + 1).min(counted));
                if known.contains(&state) {
                    continue;
                }
                if known.len() == STATES_MAX {
                    return Err(too_large());
                }
                known.insert(state.clone());
                todo.push_back(state);
            }
        }
        if !ends {
            return Err("matches no text that can be written".into());
        }
        Ok(known.len())
    }
}
