//! The catalogue keeps its word: `docs/rules.md` is what the sources say, a rule
//! has code, and a rule has a test.

use std::collections::BTreeSet;
use std::path::Path;

use undercroft::rules::{self, Status, catalogue};
use validate::Rule;

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
        assert_eq!(rule.refusal_tests, by.tests, "{} by {}", rule.id, by.id);
        assert!(rule.why.is_some_and(|why| !why.is_empty()), "{}", rule.id);
    }
}

/// Every id has a standing, and every standing its proof: a refusal is counted by
/// code and has a test that looks for its id, not for any refusal; a property has a
/// test, or says why there can be none.
#[test]
fn nothing_is_left() {
    let catalogue = catalogue();
    assert_eq!(catalogue.rules.len(), Rule::COUNT);
    let left = catalogue.rules.iter().filter(|rule| match rule.status {
        Status::NotDone | Status::Uncounted => true,
        Status::Enforced => rule.enforced.is_empty() || rule.tests.is_empty() || rule.checks == 0,
        Status::Structural => rule.tests.is_empty() && rule.why.is_none(),
        Status::NotApplicable | Status::Rejected => rule.why.is_none(),
    });
    let left: Vec<_> = left.map(|rule| (rule.id, rule.status)).collect();
    assert!(left.is_empty(), "without a standing or its proof: {left:?}");
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
