//! The clock for time stamps (datasheet 10.2.9). No frame is stamped; Linux reads the
//! clock all the same (`e1000e_read_systim`) and divides by its increment.

/// Registers, from Linux `regs.h`.
pub(super) const FIRST: u32 = 0xb600;
pub(super) const END: u32 = 0xb60c;
const LOW: u32 = 0xb600;
const HIGH: u32 = 0xb604;
const INCREMENT: u32 = 0xb608;
/// Nanoseconds of a tick of 25 MHz (Linux `e1000e_get_base_timinca`).
const TICK: u64 = 40;

/// The clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Systim {
    increment: u32,
    value: u64,
    /// When it had that value.
    since: u64,
}

impl Systim {
    fn at(&self, now: u64) -> u64 {
        // Every `period` ticks it grows by the increment; period 0: it stands.
        let period = u64::from(self.increment >> 24).saturating_mul(TICK);
        let passed = now.saturating_sub(self.since);
        let steps = passed.checked_div(period).unwrap_or(0);
        let step = u64::from(self.increment & 0xff_ffff);
        self.value.wrapping_add(steps.wrapping_mul(step))
    }

    pub(super) fn read(&self, register: u32, now: u64) -> u32 {
        match register {
            LOW => self.at(now) as u32,
            HIGH => (self.at(now) >> 32) as u32,
            INCREMENT => self.increment,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u32, value: u32, now: u64) {
        self.value = self.at(now);
        self.since = now;
        match register {
            LOW => self.value = self.value & !0xffff_ffff | u64::from(value),
            HIGH => self.value = self.value & 0xffff_ffff | u64::from(value) << 32,
            INCREMENT => self.increment = value,
            _ => {}
        }
    }
}
