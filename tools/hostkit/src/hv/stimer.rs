//! The four synthetic timers of one VP (TLFS section 12.6).
use super::synic::{Queued, Synic};
use crate::mem::VmMemory;
use abi::hyperv::StimerConfig;

/// Shortest period that is honoured, 100 ns: keeps a bad guest from making the
/// host do nothing but expire timers.
const MIN_PERIOD: u64 = 100;

/// One timer. Times are partition reference time, 100 ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stimer {
    pub config: StimerConfig,
    pub count: u64,
    due: Option<u64>,
}

impl Stimer {
    pub const fn new() -> Self {
        Stimer {
            config: StimerConfig(0),
            count: 0,
            due: None,
        }
    }

    /// Write to CONFIG. `false` if a reserved bit is set.
    pub fn write_config(&mut self, now: u64, value: u64) -> bool {
        if value & !StimerConfig::KNOWN != 0 {
            return false;
        }
        self.config = StimerConfig(value);
        // SINT 0 is no target for an enabled message timer.
        if !self.config.has(StimerConfig::DIRECT) && self.config.sint() == 0 {
            self.config.0 &= !StimerConfig::ENABLE;
        }
        self.arm(now);
        true
    }

    /// Write to COUNT: absolute time, or period. 0 stops the timer.
    pub fn write_count(&mut self, now: u64, value: u64) {
        self.count = value;
        if value == 0 {
            self.config.0 &= !StimerConfig::ENABLE;
        } else if self.config.has(StimerConfig::AUTO_ENABLE) {
            self.config.0 |= StimerConfig::ENABLE;
        }
        self.arm(now);
    }

    fn arm(&mut self, now: u64) {
        self.due = (self.config.has(StimerConfig::ENABLE) && self.count != 0).then(|| {
            if self.config.has(StimerConfig::PERIODIC) {
                now.saturating_add(self.count.max(MIN_PERIOD))
            } else {
                self.count
            }
        });
    }

    /// A timer whose last expiry is still on its way does not expire again.
    fn blocked(&self, index: u32, synic: &Synic) -> bool {
        if self.config.has(StimerConfig::DIRECT) {
            synic.is_requested(self.config.vector())
        } else {
            synic.timer_queued(index)
        }
    }

    /// When this timer next wants to expire, unless it waits for the guest.
    pub fn deadline(&self, index: u32, synic: &Synic) -> Option<u64> {
        self.due.filter(|_| !self.blocked(index, synic))
    }

    /// Expires if it is time. Never early.
    pub fn poll(&mut self, mem: &dyn VmMemory, now: u64, index: u32, synic: &mut Synic) -> bool {
        let Some(due) = self.deadline(index, synic).filter(|due| *due <= now) else {
            return false;
        };
        self.due = if self.config.has(StimerConfig::PERIODIC) {
            let period = self.count.max(MIN_PERIOD);
            let next = due.saturating_add(period);
            // Lazy timers skip what they missed, the others catch up.
            let lazy = self.config.has(StimerConfig::LAZY) && next <= now;
            Some(if lazy {
                now.saturating_add(period)
            } else {
                next
            })
        } else {
            self.config.0 &= !StimerConfig::ENABLE;
            None
        };
        if self.config.has(StimerConfig::DIRECT) {
            synic.request(self.config.vector(), false);
        } else {
            let sint = usize::from(self.config.sint());
            synic.push(
                mem,
                now,
                sint,
                Queued::Timer {
                    index,
                    expiration: due,
                },
            );
        }
        true
    }
}
