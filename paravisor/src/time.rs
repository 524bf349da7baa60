//! Time: one monotonic clock, from the TSC.
//!
//! The host names the TSC's rate once (a rate outside of what processors have is
//! refused) and the partition's reference time at one moment; from then on both
//! nanoseconds and reference time are computed from the TSC, which the host
//! cannot change. The reference counter is never read again, so it cannot run
//! backwards or stand still for us (SYN-28, SYN-29): a host that lies about the
//! rate gets a clock that runs at the wrong speed, and timeouts that are wrong by
//! the same factor, at most [`MAX_HZ`] / [`MIN_HZ`].

use validate::{Rule, Violation};

/// Slowest TSC that is believed.
pub const MIN_HZ: u64 = 100_000_000;
/// Fastest TSC that is believed.
pub const MAX_HZ: u64 = 20_000_000_000;

const NS_PER_SECOND: u64 = 1_000_000_000;
/// Reference time counts 100 ns.
const NS_PER_REFERENCE: u64 = 100;

/// The clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
    /// TSC at nanosecond 0 of this clock.
    start: u64,
    /// Reference time at nanosecond 0.
    reference: u64,
}

impl Clock {
    /// A clock that starts now: TSC `start`, rate `hz` as the host names it,
    /// reference time as the host names it. SYN-28 for a rate that cannot be.
    pub fn new(start: u64, hz: u64, reference: u64) -> Result<Clock, Violation> {
        if !(MIN_HZ..=MAX_HZ).contains(&hz) {
            return Err(Violation::new(Rule::SYN_28, 0, hz));
        }
        // A counter near its end would make deadlines wrap; it starts at 0 with
        // the partition, so this is a lie (2^62 * 100 ns are 14 000 years).
        Ok(Clock {
            hz,
            start,
            reference: reference.min(1 << 62),
        })
    }

    /// Rate of the TSC.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Nanoseconds since the clock started, for a TSC reading.
    pub fn ns(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.start));
        let ns = ticks
            .wrapping_mul(u128::from(NS_PER_SECOND))
            .checked_div(u128::from(self.hz))
            .unwrap_or(0);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The time of audit records, for a TSC reading: [`Clock::audit_units`].
    pub fn audit_time(&self, tsc: u64) -> u64 {
        Clock::audit_units(self.ns(tsc))
    }

    /// Nanoseconds of this clock as audit records have them: in 100 ns. Without the
    /// host's origin, which it could choose.
    pub fn audit_units(ns: u64) -> u64 {
        ns / NS_PER_REFERENCE
    }

    /// Partition reference time of a moment of this clock, rounded up: a timer
    /// set to it never fires early.
    pub fn reference(&self, ns: u64) -> u64 {
        self.reference.saturating_add(ns.div_ceil(NS_PER_REFERENCE))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    #[test]
    fn nanoseconds_and_reference_time() {
        let clock = Clock::new(1000, 2_500_000_000, 77).unwrap();
        assert_eq!(clock.ns(1000), 0);
        assert_eq!(clock.ns(1000 + 2_500_000_000), 1_000_000_000);
        assert_eq!(clock.ns(0), 0);
        assert_eq!(clock.reference(0), 77);
        assert_eq!(clock.reference(1), 78);
        assert_eq!(clock.reference(1_000_000_000), 77 + 10_000_000);
    }

    #[test]
    fn centuries_do_not_overflow() {
        let clock = Clock::new(0, 100_000_000, u64::MAX).unwrap();
        assert_eq!(clock.ns(u64::MAX), u64::MAX);
        assert_eq!(
            clock.reference(u64::MAX),
            (1 << 62) + u64::MAX.div_ceil(100)
        );
    }

    #[test]
    fn syn_28_rates_that_no_processor_has_are_refused() {
        for hz in [0, 1_000_000, MIN_HZ - 1, MAX_HZ + 1, u64::MAX] {
            assert_eq!(
                Clock::new(0, hz, 0),
                Err(Violation::new(Rule::SYN_28, 0, hz))
            );
        }
        for hz in [MIN_HZ, MAX_HZ] {
            assert!(Clock::new(0, hz, 0).is_ok());
        }
    }
}
