//! What was seen against what was expected.
use super::{Expect, Guest, Scenario};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What was seen of a run.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Ids of the rules that were named.
    pub rules: Vec<String>,
    /// How the guest stands.
    pub guest: Guest,
    /// Name of the outcome.
    pub outcome: String,
    /// Private pages that the host's side reached for.
    pub private_refused: u64,
    /// How often each `when` happened, by line.
    pub happened: Vec<(u32, u64)>,
}

/// What is not as it should be, each with the line that says so (0: said nowhere,
/// but true of every scenario). Nothing is a scenario that went as expected.
pub fn judge(scenario: &Scenario, seen: &Observed) -> Vec<(u32, String)> {
    let mut wrong = Vec::new();
    let rules = || match seen.rules.as_slice() {
        [] => "no rule".to_string(),
        some => some.join(", "),
    };
    if seen.private_refused > 0 {
        let n = seen.private_refused;
        wrong.push((0, format!("the host's side reached for {n} private pages")));
    }
    for line in &scenario.lines {
        let happened = seen
            .happened
            .iter()
            .any(|(n, times)| *n == line.number && *times > 0);
        if !happened {
            wrong.push((line.number, "this never happened".to_string()));
        }
    }
    for (line, expect) in &scenario.expect {
        let complaint = match expect {
            Expect::Rule(any) if !any.iter().any(|rule| seen.rules.contains(rule)) => {
                Some(format!(
                    "{} was not named; named were: {}",
                    any.join(" or "),
                    rules()
                ))
            }
            Expect::NoRule if !seen.rules.is_empty() => Some(format!("named were: {}", rules())),
            Expect::Guest(guest) if *guest != seen.guest => {
                Some(format!("the run ended with: {}", seen.guest.name()))
            }
            Expect::Outcome(name) if *name != seen.outcome => {
                Some(format!("the outcome was {}", seen.outcome))
            }
            _ => None,
        };
        wrong.extend(complaint.map(|c| (*line, c)));
    }
    // A run ends as its guest wants it, if nothing else is said.
    let said = |(_, e): &(u32, Expect)| matches!(e, Expect::Outcome(_));
    let usual = abi::record::Outcome::PowerOff.name();
    if !scenario.expect.iter().any(said) && seen.outcome != usual {
        wrong.push((0, format!("the outcome was {}, not {usual}", seen.outcome)));
    }
    wrong
}
