//! Time: one monotonic clock, from the TSC.
//!
//! The host names the TSC's rate once (a rate outside of what processors have is
//! refused) and the partition's reference time at one moment; from then on both
//! nanoseconds and reference time are computed from the TSC, which the host
//! cannot change (SYN-28). The counter is looked at a second time, at the end of
//! bring-up, to correct the origin: the host's timers expire by its counter, not by
//! ours. What it says then is clamped to what the TSC allows (SYN-29), so time never
//! goes backwards and never jumps. A host that lies about the rate gets a clock that
//! runs at the wrong speed, and timeouts that are wrong by the same factor, at most
//! [`MAX_HZ`] / [`MIN_HZ`].

use abi::hyperv::msr;
pub use validate::register::{MAX_HZ, MIN_HZ};
use validate::{Rule, Violation};

/// How far the host's counter may be from ours at the second look, in 100 ns: one
/// second, and a sixteenth of the time between the looks. Two clocks of one machine
/// differ by parts in a thousand; a request to a busy host takes its time.
const SLACK: u64 = 10_000_000;
const SLACK_SHIFT: u32 = 4;
/// Highest origin that is believed: the counter starts at 0 with the partition, and
/// 2^62 * 100 ns are 14 000 years. Nearer to its end deadlines would wrap.
const MAX_REFERENCE: u64 = 1 << 62;

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
        validate::register::read(msr::TSC_FREQUENCY, None, hz)?;
        Ok(Clock {
            hz,
            start,
            reference: reference.min(MAX_REFERENCE),
        })
    }

    /// A second look at the host's counter: `tsc` was read right after it. Where the
    /// counter is ahead of our calculation, the origin moves forward with it, so that
    /// the host's timers are not early for us; backwards it never moves. SYN-29 for
    /// a counter that fell behind its own first value, stands still or has jumped:
    /// it is clamped to what the TSC allows.
    pub fn align(&mut self, tsc: u64, counter: u64) -> Option<Violation> {
        let ours = self.reference_at(tsc);
        let passed = ours.saturating_sub(self.reference);
        let slack = SLACK.saturating_add(passed >> SLACK_SHIFT);
        let lowest = ours.saturating_sub(slack).max(self.reference);
        let highest = ours.saturating_add(slack);
        let ahead = counter.clamp(lowest, highest).saturating_sub(ours);
        self.reference = self.reference.saturating_add(ahead).min(MAX_REFERENCE);
        (!(lowest..=highest).contains(&counter)).then(|| Violation::new(Rule::SYN_29, 0, counter))
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

    /// The same for a TSC reading.
    pub fn reference_at(&self, tsc: u64) -> u64 {
        self.reference(self.ns(tsc))
    }
}

#[cfg(test)]
mod tests {
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

    /// One second after a first reading of 1000.
    fn second_look(counter: u64) -> (Option<Violation>, u64) {
        const HZ: u64 = 1_000_000_000;
        let mut clock = Clock::new(5, HZ, 1000).unwrap();
        let before = clock.reference_at(5 + HZ);
        assert_eq!(before, 10_001_000);
        let found = clock.align(5 + HZ, counter);
        let after = clock.reference_at(5 + HZ);
        assert!(after >= before, "time went backwards");
        (found, after - before)
    }

    #[test]
    fn syn_29_a_counter_that_runs_backwards_or_jumps_is_clamped() {
        let slack = SLACK + 10_000_000 / 16;
        let refused = |counter| Some(Violation::new(Rule::SYN_29, 0, counter));
        // The counter returns 0 after its first value, or one less than it.
        assert_eq!(second_look(0), (refused(0), 0));
        assert_eq!(second_look(999), (refused(999), 0));
        // It jumps: the origin moves by no more than the slack.
        let jump = 10_001_000 + slack;
        assert_eq!(second_look(jump + 1), (refused(jump + 1), slack));
        assert_eq!(second_look(u64::MAX), (refused(u64::MAX), slack));
        // Just legal: as fast as ours, a little behind, a little ahead.
        assert_eq!(second_look(jump), (None, slack));
        assert_eq!(second_look(10_001_000), (None, 0));
        assert_eq!(second_look(10_000_000), (None, 0));
        assert_eq!(second_look(10_001_700), (None, 700));
        // A long time after, one that has stood still.
        let mut clock = Clock::new(0, 1_000_000_000, 1000).unwrap();
        let found = clock.align(3_600_000_000_000, 1000);
        assert_eq!(found, refused(1000));
    }

    #[test]
    fn syn_28_rates_that_no_processor_has_are_refused() {
        for hz in [0, 1_000_000, MIN_HZ - 1, MAX_HZ + 1, u64::MAX] {
            assert_eq!(
                Clock::new(0, hz, 0),
                Err(Violation::new(
                    Rule::SYN_28,
                    msr::TSC_FREQUENCY as usize,
                    hz
                ))
            );
        }
        for hz in [MIN_HZ, MAX_HZ] {
            assert!(Clock::new(0, hz, 0).is_ok());
        }
    }
}
