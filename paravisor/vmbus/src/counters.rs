//! What was judged and what was refused.

use validate::{Layer, Rule, Violation};

/// Messages judged by layer, violations by rule.
#[derive(Clone, Debug)]
pub struct Counters {
    judged: [u64; Layer::ALL.len()],
    violations: [u32; Rule::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new()
    }
}

impl Counters {
    /// All zero.
    pub const fn new() -> Counters {
        Counters {
            judged: [0; Layer::ALL.len()],
            violations: [0; Rule::COUNT],
        }
    }

    /// One more message was judged in `layer`.
    pub fn judged(&mut self, layer: Layer) {
        if let Some(count) = self.judged.get_mut(layer as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// A rule did not hold.
    pub fn violation(&mut self, violation: Violation) {
        if let Some(count) = self.violations.get_mut(violation.rule.index()) {
            *count = count.saturating_add(1);
        }
    }

    /// Messages judged in `layer`.
    pub fn messages(&self, layer: Layer) -> u64 {
        self.judged.get(layer as usize).copied().unwrap_or(0)
    }

    /// Violations of `rule`.
    pub fn of(&self, rule: Rule) -> u32 {
        self.violations.get(rule.index()).copied().unwrap_or(0)
    }

    /// Rules that were violated, with their counts.
    pub fn violations(&self) -> impl Iterator<Item = (Rule, u32)> + '_ {
        Rule::all()
            .map(|rule| (rule, self.of(rule)))
            .filter(|(_, count)| *count != 0)
    }

    /// Adds what `other` has counted.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.judged.iter_mut().zip(other.judged) {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in self.violations.iter_mut().zip(other.violations) {
            *mine = mine.saturating_add(theirs);
        }
    }
}
