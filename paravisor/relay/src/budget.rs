//! How often a NIC may be started again, and how often its frames may wake the guest.

use crate::limits::{RESET_INTERVAL, RESETS_PER_INTERVAL, RX_BURSTS_PER_INTERVAL, RX_INTERVAL};
use validate::{Rule, Violation};

/// The resets of the last hour (SYS-05). A window that slides: whatever hour one
/// looks at, it holds no more than the limit.
#[derive(Clone, Debug, Default)]
pub struct ResetBudget {
    /// When the last resets were, the place of the oldest at `next`.
    times: [Option<u64>; RESETS_PER_INTERVAL],
    next: usize,
}

impl ResetBudget {
    /// One more reset at `now`. An error means that the host has used up the hour:
    /// the device is not worth another try.
    pub fn take(&mut self, now: u64) -> Result<(), Violation> {
        let refused = Violation::new(Rule::SYS_05, 0, RESETS_PER_INTERVAL as u64);
        let oldest = self.times.get_mut(self.next).ok_or(refused)?;
        if oldest.is_some_and(|then| now.saturating_sub(then) < RESET_INTERVAL) {
            return Err(refused);
        }
        *oldest = Some(now);
        self.next = match self.next.saturating_add(1) {
            RESETS_PER_INTERVAL => 0,
            next => next,
        };
        Ok(())
    }
}

/// How often frames of the host interrupt the guest (SYS-07). The frames of one poll
/// are one burst: the guest does not run in between, so its interrupt controller
/// makes one interrupt of them.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    left: u32,
    since: u64,
}

impl Pace {
    /// Nothing came yet.
    pub const fn new() -> Pace {
        Pace {
            left: RX_BURSTS_PER_INTERVAL,
            since: 0,
        }
    }

    /// Whether another burst may begin now.
    pub fn allows(&mut self, now: u64) -> bool {
        if now >= self.renewed_at() {
            *self = Pace {
                left: RX_BURSTS_PER_INTERVAL,
                since: now,
            };
        }
        self.left != 0
    }

    /// A burst has begun.
    pub fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// When the next interval begins.
    pub fn renewed_at(&self) -> u64 {
        self.since.saturating_add(RX_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_05_no_hour_has_more_resets_than_the_limit() {
        let mut budget = ResetBudget::default();
        let step = RESET_INTERVAL / 100;
        let taken: alloc::vec::Vec<u64> = (0..1000)
            .map(|i| 5 + i * step)
            .filter(|now| budget.take(*now).is_ok())
            .collect();
        assert!(taken.len() > RESETS_PER_INTERVAL);
        for window in taken.windows(RESETS_PER_INTERVAL + 1) {
            assert!(window.last().unwrap() - window[0] >= RESET_INTERVAL);
        }
    }

    #[test]
    fn sys_05_the_limit_itself_is_allowed() {
        let mut budget = ResetBudget::default();
        for now in 0..RESETS_PER_INTERVAL as u64 {
            assert_eq!(budget.take(now), Ok(()));
        }
        let refused = budget.take(RESET_INTERVAL - 1).unwrap_err();
        assert_eq!(refused.rule, Rule::SYS_05);
        // A refusal costs nothing.
        assert_eq!(budget.take(RESET_INTERVAL), Ok(()));
        assert!(budget.take(RESET_INTERVAL).is_err());
    }
}
