//! The rules: private bytes and the little state that a rule needs go in; a
//! typed message or a [`Violation`] comes out.
//!
//! This crate is the audit surface. It has no access to shared memory, to time
//! or to devices, allocates nothing and cannot panic; so a verdict follows from
//! the bytes and the state it is given, today and in an audit (SYS-10). The typed results have
//! private fields, so no other crate can make one: what a state machine is
//! given has been judged here. Every check carries the id of its rule
//! ([`Rule`]); `docs/rules.md` is generated from the same tables.
#![no_std]
#![forbid(unsafe_code)]
// Tests may panic: it is how they fail.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod control;
pub mod frame;
pub mod index;
#[cfg(test)]
mod neighbours;
pub mod nvsp;
pub mod packet;
pub mod register;
pub mod ring;
pub mod rndis;
mod rule;
pub mod synic;

use zerocopy::FromBytes;

pub use rule::{Declaration, Layer, Reaction, Rule, Standing};

/// A rule did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// Where the field lies: bytes from the start of the judged message or packet.
    pub offset: u32,
    /// What stood there, little-endian (a number of the protocol, never guest
    /// data). If there are too few bytes for a field: how many there are. If the
    /// rule is about something that was counted: the count.
    pub value: u64,
}

impl Violation {
    /// `rule` is broken by the field at `offset`, which holds `value`.
    #[cold]
    pub fn new(rule: Rule, offset: usize, value: impl Into<u64>) -> Violation {
        Violation {
            rule,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            value: value.into(),
        }
    }
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} at {}: {:#x}", self.rule, self.offset, self.value)
    }
}

/// A result that may be used, with a violation to be counted: the reaction of
/// its rule is `ignore` or `clamp`, and `value` is what is left after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<T> {
    /// The result.
    pub value: T,
    /// What was noticed on the way.
    pub noted: Option<Violation>,
}

impl<T> Judged<T> {
    /// A result with nothing to note.
    pub fn clean(value: T) -> Judged<T> {
        Judged { value, noted: None }
    }
}

/// Reads a `T` from the start of `bytes`, if they are enough.
#[inline]
pub(crate) fn read_prefix<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}
