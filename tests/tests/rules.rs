//! The catalogue keeps its word: `docs/rules.md` is what the sources say, a rule
//! has code, and a rule has a test.

use std::collections::BTreeSet;
use std::path::Path;

use undercroft::rules::{self, Entry, Status, catalogue};
use validate::Rule;

/// Rules that code holds without counting a violation: it simply does nothing
/// with the byte, bounds its own work, or another rule's refusal comes first.
/// A comment at the place names the rule. This list may only shrink.
const UNCOUNTED: [(&str, &str); 1] = [("GPD-07", "a failed conversion is counted as leaked pages")];

/// Declared rules, not structural, without a test. This list may only shrink.
const UNTESTED: [(&str, &str); 0] = [];

/// Enforced rules whose tests see the effect but do not look for the id: what
/// the rule bounds or leaks is counted elsewhere. This list may only shrink.
const UNCHECKED: [(&str, &str); 1] = [("GPD-07", "the test counts leaked pages")];

/// Ids without a standing: not done yet. This list may only shrink.
const NOT_DONE: [&str; 14] = [
    "SYN-18", "CTL-40", "CTL-57", "CTL-58", "GPD-11", "GPD-14", "RNG-30", "SYS-04", "SYS-07",
    "SYS-10", "SYS-11", "SYS-13", "SYS-15", "SYS-17",
];

fn declared() -> Vec<Entry> {
    let mut rules = catalogue().rules;
    rules.retain(|rule| rule.declaration.is_some());
    assert_eq!(rules.len(), Rule::declarations().count());
    rules
}

/// The ids that a condition holds for must be exactly the listed ones.
fn exactly(listed: &[(&str, &str)], what: &str, holds: impl Fn(&Entry) -> bool) {
    let listed: BTreeSet<&str> = listed.iter().map(|(id, _)| *id).collect();
    let found = declared();
    let found: BTreeSet<&str> = found.iter().filter(|r| holds(r)).map(|r| r.id).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(new.is_empty(), "{what}: {new:?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "no longer {what}, take them out: {gone:?}");
}

#[test]
fn docs_rules_md_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    let written = std::fs::read_to_string(&path).expect("docs/rules.md");
    let wanted = rules::markdown(&catalogue());
    let differs = written.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        written == wanted,
        "docs/rules.md is stale, run `cargo run -p undercroft -- rules --markdown > docs/rules.md`; \
         first difference: {differs:#?}"
    );
}

#[test]
fn every_declared_rule_has_code() {
    exactly(&UNCOUNTED, "declared without code", |rule| {
        rule.status == Status::Uncounted
    });
    for rule in declared() {
        if rule.status == Status::Uncounted {
            assert!(!rule.noted.is_empty(), "{}: not even a comment", rule.id);
        }
    }
}

#[test]
fn every_rule_that_refuses_has_a_test() {
    exactly(&UNTESTED, "without a test", |rule| {
        matches!(rule.status, Status::Enforced | Status::Uncounted) && rule.tests.is_empty()
    });
}

/// A test that bears a rule's name looks for its id, not for any refusal.
#[test]
fn every_rule_that_refuses_has_a_test_that_looks_for_its_id() {
    exactly(&UNCHECKED, "without a test that looks for its id", |rule| {
        matches!(rule.status, Status::Enforced | Status::Uncounted) && rule.checks == 0
    });
}

/// What a rule that does not apply speaks of is refused by one that code
/// enforces and a test proves.
#[test]
fn what_refuses_the_rest_is_enforced_and_tested() {
    let catalogue = catalogue();
    for rule in &catalogue.rules {
        let Some(by) = rule.refused_by else { continue };
        let by = catalogue.rules.iter().find(|r| r.id == by).expect("an id");
        assert_eq!(by.status, Status::Enforced, "{} by {}", rule.id, by.id);
        assert!(!by.tests.is_empty(), "{} by {}", rule.id, by.id);
        assert!(rule.why.is_some_and(|why| !why.is_empty()), "{}", rule.id);
    }
}

/// Every id has a standing, and every standing its proof: a refusal or a property
/// has a test, or says why there can be none.
#[test]
fn nothing_is_left() {
    let catalogue = catalogue();
    let left = catalogue.rules.iter().filter(|rule| match rule.status {
        Status::NotDone => !NOT_DONE.contains(&rule.id),
        Status::Enforced | Status::Uncounted => rule.tests.is_empty(),
        Status::Structural => rule.tests.is_empty() && rule.why.is_none(),
        Status::NotApplicable | Status::Rejected => rule.why.is_none(),
    });
    let left: Vec<_> = left.map(|rule| (rule.id, rule.status)).collect();
    assert!(left.is_empty(), "without a standing or a test: {left:?}");
}

/// A rule without a declaration has no constant, so only a comment or the name of
/// a test can speak of an id that was never given out.
#[test]
fn no_test_is_named_after_an_id_that_does_not_exist() {
    let ids: BTreeSet<&str> = Rule::ids().map(|(id, _)| id).collect();
    for id in rules::named_ids() {
        assert!(ids.contains(id), "{id}");
    }
}
