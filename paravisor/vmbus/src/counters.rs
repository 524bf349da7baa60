//! What was judged and what was refused.

use alloc::vec::Vec;
use validate::{Layer, Rule, Violation};

/// One rule that did not hold since the owner last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// The first violation of the rule.
    pub violation: Violation,
    /// How often the rule did not hold, this one included.
    pub times: u32,
}

/// What went through one channel since its rings were made. Packets that were
/// dropped are among those that came in; by which rule is in [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from the host.
    pub packets_in: u64,
    /// Their bytes, headers included.
    pub bytes_in: u64,
    /// Packets to the host.
    pub packets_out: u64,
    /// Their bytes, headers included.
    pub bytes_out: u64,
    /// How often the rules of the protocol called for a signal to the host.
    pub signals_needed: u64,
    /// How often the host has set the channel's event flag.
    pub events: u64,
    /// How often events about nothing have moved the channel to the clock (SYN-18).
    pub storms: u64,
}

/// The life of one channel on the control plane since it was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Messages of the host that spoke of this channel and were obeyed.
    pub messages: u64,
    /// How often it was opened.
    pub opened: u64,
    /// How often it was closed, or an open of it failed.
    pub closed: u64,
    /// GPADLs that were given up (GPD-06).
    pub leaked: u64,
}

impl Life {
    /// How often it was opened again.
    pub fn resets(&self) -> u64 {
        self.opened.saturating_sub(1)
    }
}

/// Messages judged by layer, violations by rule.
#[derive(Clone, Debug)]
pub struct Counters {
    judged: [u64; Layer::ALL.len()],
    violations: [u32; Rule::COUNT],
    /// One entry a rule, so what a host can make us keep here is bounded.
    news: Vec<News>,
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
            news: Vec::new(),
        }
    }

    /// One more message was judged in `layer`.
    #[inline]
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
        let known = self
            .news
            .iter_mut()
            .find(|news| news.violation.rule == violation.rule);
        match known {
            Some(news) => news.times = news.times.saturating_add(1),
            None => self.news.push(News {
                violation,
                times: 1,
            }),
        }
    }

    /// Takes what did not hold since the last call, in the order in which the rules
    /// were broken first: for the owner's audit, who knows time and channel.
    pub fn take_news(&mut self) -> Vec<News> {
        core::mem::take(&mut self.news)
    }

    /// Messages judged in `layer`.
    pub fn messages(&self, layer: Layer) -> u64 {
        self.judged.get(layer as usize).copied().unwrap_or(0)
    }

    /// Violations of `rule`.
    pub fn of(&self, rule: Rule) -> u32 {
        self.violations.get(rule.index()).copied().unwrap_or(0)
    }

    /// Violations of all rules together.
    pub fn total(&self) -> u64 {
        self.violations
            .iter()
            .fold(0, |sum, count| sum.saturating_add((*count).into()))
    }

    /// Rules that were violated, with their counts.
    pub fn violations(&self) -> impl Iterator<Item = (Rule, u32)> + '_ {
        Rule::all()
            .map(|rule| (rule, self.of(rule)))
            .filter(|(_, count)| *count != 0)
    }

    /// Adds what `other` has counted; its news stay with it.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.judged.iter_mut().zip(other.judged) {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in self.violations.iter_mut().zip(other.violations) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_one_entry_a_rule_in_order() {
        let mut counters = Counters::new();
        for value in 0..1000u64 {
            counters.violation(Violation::new(Rule::SYN_06, 4, value));
            counters.violation(Violation::new(Rule::CTL_01, 0, value));
        }
        let expected = [(Rule::SYN_06, 4), (Rule::CTL_01, 0)].map(|(rule, offset)| News {
            violation: Violation::new(rule, offset, 0u64),
            times: 1000,
        });
        assert_eq!(counters.take_news(), expected);
        assert_eq!(counters.take_news(), []);
        assert_eq!(counters.of(Rule::SYN_06), 1000);
    }
}
