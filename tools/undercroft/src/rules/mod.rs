//! The catalogue of rules: what `paravisor/validate` declares, with the places
//! in code and tests that the build script of this crate found.
//!
//! [`list`] and [`explain`] are for people at a console, [`markdown`] is
//! `docs/rules.md`, and [`Catalogue`] serialises to JSON.

mod markdown;
#[cfg(test)]
mod scan;
mod text;
mod words;

pub use markdown::markdown;
pub use text::{explain, list};

use serde::Serialize;
use validate::{Declaration, Layer, Reaction, Rule, Standing};

use crate::Error;

// `USES`, `NOTES`, `TESTS` and `CHECKS`: id, file, line, item.
include!(concat!(env!("OUT_DIR"), "/rules.rs"));

/// Rules with their numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Catalogue {
    /// Totals over all ids, whichever are shown.
    pub counts: Counts,
    /// Ids in the catalogue's order.
    pub rules: Vec<Entry>,
}

/// Totals over ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Ids given out.
    pub ids: usize,
    /// Rules declared.
    pub declared: usize,
    /// Declared rules that are properties of the construction.
    pub structural: usize,
    /// Declared rules whose case cannot come up, because another rule refuses it.
    pub not_applicable: usize,
    /// Declared rules that were rejected with an argument.
    pub rejected: usize,
    /// Declared rules that a test is named after.
    pub tested: usize,
    /// Ids without a declaration: not done.
    pub not_done: usize,
    /// Tests named after declared rules. A test that names two counts twice.
    pub tests: usize,
}

impl Counts {
    /// Counts these.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a Entry>) -> Counts {
        let mut counts = Counts::default();
        for rule in rules {
            counts.ids += 1;
            if rule.declaration.is_none() {
                counts.not_done += 1;
                continue;
            }
            counts.declared += 1;
            match rule.status {
                Status::NotApplicable => counts.not_applicable += 1,
                Status::Rejected => counts.rejected += 1,
                Status::Structural => counts.structural += 1,
                Status::Enforced | Status::Uncounted | Status::NotDone => {}
            }
            counts.tested += usize::from(!rule.tests.is_empty());
            counts.tests += rule.tests.len();
        }
        counts
    }
}

/// How far a rule has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Code refuses what breaks it.
    Enforced,
    /// A property of the construction: there is no moment of refusal.
    Structural,
    /// The client has no use for what it speaks of; another rule refuses that.
    NotApplicable,
    /// Not done on purpose, for a reason that is given.
    Rejected,
    /// Declared, yet no code names it: nothing counts a violation.
    Uncounted,
    /// The catalogue knows it, the code does not.
    NotDone,
}

/// One id of the catalogue.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// `RND-16`.
    pub id: &'static str,
    /// Where the host byte is when it is judged.
    pub layer: &'static str,
    /// How far it has come.
    pub status: Status,
    /// What it says; nothing if it is not done.
    #[serde(flatten)]
    pub declaration: Option<Said>,
    /// The rule that refuses what a rule that does not apply speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<&'static str>,
    /// Why it does not apply, was rejected, or cannot be tested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// Code that names it.
    pub enforced: Vec<Place>,
    /// Comments that name it, where the code holds it without refusing anything.
    pub noted: Vec<Place>,
    /// Tests named after it.
    pub tests: Vec<Place>,
    /// How many of them look for the id itself.
    pub checks: usize,
    /// Of a rule that does not apply: the tests of the rule that refuses its case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusal_tests: Vec<Place>,
}

/// What a declared rule says.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Said {
    /// What must hold.
    pub statement: &'static str,
    /// What goes wrong without it.
    pub danger: &'static str,
    /// What a malicious host would send.
    pub example: &'static str,
    /// What follows; for a rule that does not apply, that of the rule that
    /// refuses its case.
    pub reaction: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

/// A function or test in the sources of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From the root of the checkout.
    pub file: &'static str,
    /// From 1.
    pub line: usize,
    /// Function, constant or test.
    pub item: &'static str,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.item)
    }
}

/// All ids, as of this build.
pub fn catalogue() -> Catalogue {
    let rules: Vec<Entry> = Rule::ids().map(|(id, layer)| entry(id, layer)).collect();
    Catalogue {
        counts: Counts::of(&rules),
        rules,
    }
}

/// Every id that code, comments or tests name, given out or not.
pub fn named_ids() -> impl Iterator<Item = &'static str> {
    [USES, NOTES, TESTS]
        .into_iter()
        .flatten()
        .map(|(id, ..)| *id)
}

fn entry(id: &'static str, layer: Layer) -> Entry {
    let declaration = Rule::declarations().find(|d| d.rule.id() == id);
    let standing = declaration.map(|d| d.standing);
    let enforced = places(USES, id);
    let (status, refused_by, why) = match standing {
        None => (Status::NotDone, None, None),
        Some(Standing::Structural { untestable }) => (Status::Structural, None, untestable),
        Some(Standing::NotApplicable { refused_by, why }) => {
            (Status::NotApplicable, Some(refused_by), Some(why))
        }
        Some(Standing::Rejected { why }) => (Status::Rejected, None, Some(why)),
        Some(Standing::Enforced(_)) if enforced.is_empty() => (Status::Uncounted, None, None),
        Some(Standing::Enforced(_)) => (Status::Enforced, None, None),
    };
    Entry {
        id,
        layer: layer.name(),
        status,
        declaration: declaration.map(|d| said(d, refused_by)),
        refused_by: refused_by.map(Rule::id),
        why,
        enforced,
        noted: places(NOTES, id),
        tests: places(TESTS, id),
        checks: places(CHECKS, id).len(),
        refusal_tests: refused_by.map_or_else(Vec::new, |by| places(TESTS, by.id())),
    }
}

fn said(d: &Declaration, refused_by: Option<Rule>) -> Said {
    let reaction = d.standing.reaction().or(refused_by.map(Rule::reaction));
    Said {
        statement: d.statement,
        danger: d.danger,
        example: d.example,
        reaction: reaction.map_or("none", Reaction::name),
        source: d.source,
    }
}

fn places(found: &'static [(&str, &str, usize, &str)], id: &str) -> Vec<Place> {
    found
        .iter()
        .filter(|(of, ..)| *of == id)
        .map(|&(_, file, line, item)| Place { file, line, item })
        .collect()
}

impl Catalogue {
    /// Keeps the rules with these ids, in the order given; `rnd_16` is RND-16,
    /// and `RND` is all that begin so.
    pub fn choose(&mut self, ids: &[String]) -> Result<(), Error> {
        let mut chosen: Vec<Entry> = Vec::new();
        for given in ids {
            let id = given.trim().to_ascii_uppercase().replace('_', "-");
            let before = chosen.len();
            let same =
                |rule: &&Entry| rule.id == id || rule.id.split_once('-').is_some_and(|p| p.0 == id);
            chosen.extend(self.rules.iter().filter(same).cloned());
            if chosen.len() == before {
                return Err(Error::Rule(given.clone(), self.nearest(&id)));
            }
        }
        self.rules = chosen;
        Ok(())
    }

    /// What may have been meant by an id that there is not.
    fn nearest(&self, id: &str) -> String {
        let prefix = id.get(..3).unwrap_or_default();
        let of_prefix: Vec<&str> = self
            .rules
            .iter()
            .map(|r| r.id)
            .filter(|i| i.starts_with(prefix))
            .collect();
        match (of_prefix.first(), of_prefix.last()) {
            (Some(first), Some(last)) if prefix.len() == 3 => {
                format!("{prefix} has {first} to {last}")
            }
            _ => {
                "ids look like RND-16 and begin with SYN, CTL, GPD, RNG, PKT, NVS, RND, ICS or SYS"
                    .into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(ids: &[&str]) -> Result<Catalogue, Error> {
        let mut catalogue = catalogue();
        let ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        catalogue.choose(&ids).map(|()| catalogue)
    }

    #[test]
    fn every_id_has_a_status_and_the_numbers_add_up() {
        let all = catalogue();
        assert_eq!(all.rules.len(), Rule::COUNT);
        assert_eq!(all.counts.ids, Rule::COUNT);
        assert_eq!(all.counts.declared, Rule::declarations().count());
        assert_eq!(all.counts.declared + all.counts.not_done, all.counts.ids);
        for rule in &all.rules {
            assert_eq!(
                rule.status == Status::NotDone,
                rule.declaration.is_none(),
                "{}",
                rule.id
            );
        }
    }

    #[test]
    fn what_the_scan_finds_is_in_the_build() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let found = scan::scan(&root).expect("the sources are here");
        let row = |f: &scan::Found| (f.id.clone(), f.file.clone(), f.line, f.item.clone());
        let own = |list: &[(&str, &str, usize, &str)]| -> Vec<_> {
            list.iter()
                .map(|&(id, file, line, item)| (id.into(), file.into(), line, item.into()))
                .collect()
        };
        assert_eq!(own(USES), found.uses.iter().map(row).collect::<Vec<_>>());
        assert_eq!(own(NOTES), found.notes.iter().map(row).collect::<Vec<_>>());
        assert_eq!(
            own(CHECKS),
            found.checks.iter().map(row).collect::<Vec<_>>()
        );
        assert_eq!(own(TESTS), found.tests.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn a_rule_knows_its_code_and_its_test() {
        let rule = chosen(&["rnd_16"]).expect("a rule").rules.remove(0);
        assert_eq!((rule.id, rule.status), ("RND-16", Status::Enforced));
        assert_eq!(rule.layer, "rndis");
        assert!(rule.enforced.iter().all(|p| p.file.contains("/src/rndis")));
        assert!(rule.tests.iter().any(|t| t.item.starts_with("rnd_16_")));
    }

    #[test]
    fn ids_that_are_none_are_refused() {
        for id in ["RND-99", "XYZ-01", "RN", "", "RND-16-1", "ÄÖ"] {
            let error = chosen(&["RND-16", id]).expect_err(id).to_string();
            assert!(error.starts_with(&format!("no rule {id}:")), "{error}");
        }
        let error = chosen(&["RND-99"]).expect_err("none").to_string();
        assert!(error.contains("RND-01 to RND-69"), "{error}");
        assert_eq!(chosen(&["ics"]).map(|c| c.rules.len()).ok(), Some(14));
    }
}
