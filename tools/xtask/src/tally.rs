//! Counts what `cargo test` reports, by kind of test. The kind is told by the
//! test's name, so that a test is counted as what its name promises.

use std::collections::BTreeMap;
use std::fmt;

/// Prefixes of the ids of rules, as they stand in the names of tests.
const RULES: [&str; 9] = [
    "syn_", "ctl_", "gpd_", "rng_", "pkt_", "nvs_", "rnd_", "ics_", "sys_",
];

/// Kinds of tests, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Named after one or more rules.
    Rule,
    /// Goes through every value of something.
    Sweep,
    /// Replays committed inputs of the fuzz targets.
    Seeds,
    /// Plays the scenarios of a hostile host.
    Scenario,
    /// A piece of documentation that is compiled and run.
    Example,
    /// Drives QEMU.
    EndToEnd,
    /// All others: parts of a crate, tools, formats.
    Other,
}

impl Kind {
    /// What the test `name` is, unless it drives QEMU, which no name tells.
    fn of(name: &str) -> Kind {
        if name.contains("(line ") {
            Kind::Example
        } else if name.contains("scenario") {
            Kind::Scenario
        } else if name.contains("seed") {
            Kind::Seeds
        } else if name.contains("sweep") {
            Kind::Sweep
        } else if names_a_rule(name) {
            Kind::Rule
        } else {
            Kind::Other
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Rule => "named after rules",
            Kind::Sweep => "exhaustive sweeps",
            Kind::Seeds => "fuzz targets over seeds",
            Kind::Scenario => "scenarios, in process",
            Kind::Example => "examples in documentation",
            Kind::EndToEnd => "end to end, in QEMU",
            Kind::Other => "of parts and tools",
        }
    }
}

/// Whether `name` holds the id of a rule: three letters, two digits.
fn names_a_rule(name: &str) -> bool {
    RULES.iter().any(|prefix| {
        name.match_indices(prefix).any(|(at, _)| {
            let digits = name
                .as_bytes()
                .get(at + prefix.len()..at + prefix.len() + 2);
            let before = name[..at].chars().next_back();
            digits.is_some_and(|two| two.iter().all(u8::is_ascii_digit))
                && !before.is_some_and(char::is_alphanumeric)
        })
    })
}

/// Tests that passed, by kind, with those that failed or were left out.
#[derive(Debug, Default)]
pub struct Tally {
    passed: BTreeMap<Kind, u64>,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Takes a line of the output of tests that need no machine.
    pub fn host_line(&mut self, line: &str) {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        match result.split([' ', ',']).next() {
            Some("ok") => *self.passed.entry(Kind::of(name)).or_default() += 1,
            Some("FAILED") => self.failed += 1,
            Some("ignored") => self.ignored += 1,
            _ => {}
        }
    }

    /// Takes a line of the output of tests that drive QEMU. What they print stands
    /// between name and result, so only the closing line can be counted.
    pub fn machine_line(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        let count = |what: &str| {
            rest.split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
                .sum::<u64>()
        };
        *self.passed.entry(Kind::EndToEnd).or_default() += count("passed");
        self.failed += count("failed");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Tests by kind")?;
        for (kind, count) in &self.passed {
            writeln!(f, "  {:<26} {count:>5}", kind.words())?;
        }
        let sum: u64 = self.passed.values().sum();
        writeln!(f, "  {:<26} {sum:>5}", "passed in all")?;
        writeln!(f, "  {:<26} {:>5}", "failed", self.failed)?;
        // The end-to-end tests are left out of the run that needs no machine.
        write!(f, "  {:<26} {:>5}", "ignored in process", self.ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_name() {
        for (name, kind) in [
            ("packet::tests::rnd_16_ppi_size_zero", Kind::Rule),
            ("rng_12_rng_13_signals", Kind::Rule),
            ("sys_call_is_refused", Kind::Other),
            ("tests::transys_01_nothing", Kind::Other),
            ("every_control_message_sweep", Kind::Sweep),
            ("seeds_of_ring", Kind::Seeds),
            ("all_scenarios_play", Kind::Scenario),
            ("abi/src/lib.rs - record (line 12)", Kind::Example),
            ("a_page_is_freed", Kind::Other),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn lines_are_counted_once() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::syn_01_once ... ok",
            "test b::other ... FAILED",
            "test c ... ignored, needs QEMU",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out",
        ] {
            tally.host_line(line);
        }
        tally.machine_line("test x ... {}: ok");
        tally.machine_line("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured");
        assert_eq!(tally.passed.get(&Kind::Rule), Some(&1));
        assert_eq!(tally.passed.get(&Kind::EndToEnd), Some(&12));
        assert_eq!((tally.failed, tally.ignored), (1, 1));
        assert!(
            tally
                .to_string()
                .contains("passed in all                 13")
        );
    }
}
