//! For tests: a rule's example beside the message next to it that is just legal.
//!
//! Whatever a rule is about, its violation must point at the bytes in which the two
//! differ and must say what stands there, because that is what an audit shows.

use crate::{Judged, Layer, Rule, Standing, Violation};
use std::collections::BTreeSet;
use std::vec::Vec;

extern crate std;

/// What a judgement has to say against a message, refused or bent.
pub(crate) fn verdict<T>(judged: Result<Judged<T>, Violation>) -> Option<Violation> {
    match judged {
        Ok(judged) => judged.noted,
        Err(violation) => Some(violation),
    }
}

/// The rules that were shown so far.
#[derive(Default)]
pub(crate) struct Neighbours(BTreeSet<&'static str>);

impl Neighbours {
    /// `legal` passes; with `word` at byte `at` it breaks `rule`.
    pub fn field(
        &mut self,
        rule: Rule,
        judge: impl Fn(&[u8]) -> Option<Violation>,
        legal: &[u8],
        at: usize,
        word: impl AsRef<[u8]>,
    ) {
        let word = word.as_ref();
        let mut bent = legal.to_vec();
        bent[at..at + word.len()].copy_from_slice(word);
        assert_ne!(bent, legal, "{rule}: nothing changed");
        assert_eq!(judge(legal), None, "{rule}: its neighbour");
        let violation = self.broken(rule, judge(&bent));
        let field = stands(&violation, &bent);
        assert!(
            field.start < at + word.len() && at < field.end,
            "{violation} points at {field:?}, not at {at}"
        );
    }

    /// `legal` passes; its first `len` bytes are too few for `rule`.
    pub fn cut(
        &mut self,
        rule: Rule,
        judge: impl Fn(&[u8]) -> Option<Violation>,
        legal: &[u8],
        len: usize,
    ) {
        assert_eq!(judge(legal), None, "{rule}: its neighbour");
        let violation = self.broken(rule, judge(&legal[..len]));
        assert_eq!(
            (violation.offset, violation.value),
            (0, len as u64),
            "{rule}"
        );
    }

    /// The same bytes in two states: they pass in one and break `rule` in the other.
    pub fn state(
        &mut self,
        rule: Rule,
        bytes: &[u8],
        fitting: Option<Violation>,
        other: Option<Violation>,
    ) {
        assert_eq!(fitting, None, "{rule}: its neighbour");
        let violation = self.broken(rule, other);
        stands(&violation, bytes);
    }

    /// One more than `count` of something, the first too many at byte `at`.
    pub fn count(
        &mut self,
        rule: Rule,
        fitting: Option<Violation>,
        other: Option<Violation>,
        at: usize,
        count: u64,
    ) {
        assert_eq!(fitting, None, "{rule}: its neighbour");
        let violation = self.broken(rule, other);
        assert_eq!((violation.offset as usize, violation.value), (at, count));
    }

    fn broken(&mut self, rule: Rule, violation: Option<Violation>) -> Violation {
        let violation = violation.unwrap_or_else(|| panic!("{rule}: nothing broken"));
        assert_eq!(violation.rule, rule, "{violation}");
        self.0.insert(rule.id());
        violation
    }

    /// Every rule of the layer that refuses was shown, but for those that no
    /// message by itself can break (`client`).
    pub fn complete(&self, layer: Layer, client: &[&str]) {
        let all = Rule::declarations().filter(|declared| {
            matches!(declared.standing, Standing::Enforced(_)) && declared.rule.layer() == layer
        });
        let missing: Vec<_> = all
            .map(|declared| declared.rule.id())
            .filter(|id| !self.0.contains(id))
            .collect();
        assert_eq!(missing, client);
    }
}

/// Where the violation's value stands, which must be at its offset.
fn stands(violation: &Violation, bytes: &[u8]) -> core::ops::Range<usize> {
    let at = violation.offset as usize;
    let value = violation.value.to_le_bytes();
    let width = [8, 4, 2, 1].into_iter().find(|width| {
        let (low, high) = value.split_at(*width);
        bytes.get(at..at + width) == Some(low) && high.iter().all(|byte| *byte == 0)
    });
    match width {
        Some(width) => at..at + width,
        None => panic!("{violation} is not what stands there: {bytes:x?}"),
    }
}
