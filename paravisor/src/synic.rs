//! Taking the synthetic interrupt controller and the timer: the registers, each
//! judged by what it reads back (`validate::register`).
//!
//! The pages come from the pool, so they were shared first and zeroed then
//! (SYN-21). The host is asked for nothing that it could choose: where the pages
//! are, which source and which vector is used is our decision, and a host that
//! reports another one is not used.

use abi::hyperv::{OverlayPage, SCONTROL_ENABLE, Sint, StimerConfig, guest_os_id, msr};
use memory::SharedMemory;
use platform::{Error, Platform};
use validate::{Rule, Violation};

/// Who we say we are: the open-source form. The type is Linux's, the only one
/// besides Windows that every host version has met; version and build are ours.
const GUEST_OS_ID: u64 = guest_os_id(1, 0, 1);

/// Why the host's interrupt controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynicError {
    /// A request failed.
    Platform(Error),
    /// A register does not hold what it must; the rule says what.
    Judged {
        /// The rule.
        rule: Rule,
        /// Which register.
        register: u32,
        /// What it reads.
        value: u64,
    },
    /// The page has no frame (a bug of ours).
    NoFrame,
}

impl SynicError {
    /// The rule that did not hold, with the register in place of an offset.
    pub fn violation(&self) -> Option<Violation> {
        match self {
            SynicError::Judged {
                rule,
                register,
                value,
            } => Some(Violation::new(*rule, *register as usize, *value)),
            SynicError::Platform(_) | SynicError::NoFrame => None,
        }
    }
}

impl From<Error> for SynicError {
    fn from(error: Error) -> Self {
        SynicError::Platform(error)
    }
}

impl core::fmt::Display for SynicError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SynicError::Platform(error) => error.fmt(f),
            SynicError::Judged {
                rule,
                register,
                value,
            } => {
                write!(f, "{rule}: register {register:#x} reads {value:#x}")
            }
            SynicError::NoFrame => f.write_str("page without a frame"),
        }
    }
}

impl From<Violation> for SynicError {
    /// For the rules of registers, whose offset is the register's number.
    fn from(violation: Violation) -> Self {
        SynicError::Judged {
            rule: violation.rule,
            register: violation.offset,
            value: violation.value,
        }
    }
}

/// Reads a register and judges what it says.
fn get<P: Platform>(platform: &mut P, register: u32) -> Result<u64, SynicError> {
    let value = platform.read_register(register)?;
    validate::register::read(register, None, value)?;
    Ok(value)
}

/// Writes a register and insists on reading it back.
fn set<P: Platform>(platform: &mut P, register: u32, value: u64) -> Result<(), SynicError> {
    platform.write_register(register, value)?;
    let back = platform.read_register(register)?;
    Ok(validate::register::read(register, Some(value), back)?)
}

/// Introduces us to the hypervisor: without a guest id there are no hypercalls.
pub fn introduce<P: Platform>(platform: &mut P) -> Result<(), SynicError> {
    platform.write_register(msr::GUEST_OS_ID, GUEST_OS_ID)?;
    get(platform, msr::VP_INDEX)?;
    Ok(())
}

/// Makes sure that another VP is the one that was started.
pub fn identify<P: Platform>(platform: &mut P, index: u8) -> Result<(), SynicError> {
    let value = platform.read_register(msr::VP_INDEX)?;
    Ok(validate::register::read(
        msr::VP_INDEX,
        Some(index.into()),
        value,
    )?)
}

/// Takes the SynIC: both pages, then the source, then the switch.
pub fn take<P: Platform>(
    platform: &mut P,
    messages: &impl SharedMemory,
    flags: &impl SharedMemory,
    sint: u8,
    vector: u8,
) -> Result<(), SynicError> {
    let gpa = |page: Option<u64>| {
        page.map(|pfn| pfn.wrapping_shl(12))
            .ok_or(SynicError::NoFrame)
    };
    get(platform, msr::SVERSION)?;
    let simp = OverlayPage::enabled_at(gpa(messages.pfn(0))?);
    set(platform, msr::SIMP, simp.0)?;
    let siefp = OverlayPage::enabled_at(gpa(flags.pfn(0))?);
    set(platform, msr::SIEFP, siefp.0)?;
    let source = msr::SINT0.wrapping_add(u32::from(sint & 0xf));
    set(platform, source, Sint::new(vector, true).0)?;
    set(platform, msr::SCONTROL, SCONTROL_ENABLE)
}

/// How long after its time the interrupt of a timer counts as lost, in 100 ns: far
/// beyond what a busy host delays one.
const TIMER_LOST: u64 = 10_000_000;

/// One of the four timers, one-shot, as an interrupt of its own.
#[derive(Debug)]
pub struct Timer {
    /// Its COUNT register.
    count: u32,
    /// Deadline to which it is set, in reference time.
    armed: Option<u64>,
    /// Earliest deadline that a later write has replaced or may replace. Its
    /// interrupt may have been on its way already, so one more than was asked for can
    /// come, and honestly.
    superseded: Option<u64>,
}

impl Timer {
    /// Configures timer `index` (0 to 3); it runs when a count is written.
    pub fn new<P: Platform>(platform: &mut P, index: u8, vector: u8) -> Result<Timer, Error> {
        let config = StimerConfig::direct(vector, StimerConfig::AUTO_ENABLE);
        let pair = u32::from(index & 3).wrapping_mul(2);
        let count = msr::STIMER0_COUNT.wrapping_add(pair);
        platform.write_register(count, 0)?;
        platform.write_register(msr::STIMER0_CONFIG.wrapping_add(pair), config.0)?;
        Ok(Timer {
            count,
            armed: None,
            superseded: None,
        })
    }

    /// Makes sure that an interrupt comes at `deadline` (reference time) or
    /// earlier. An earlier deadline that still runs is left alone: its interrupt
    /// is early, the loop looks at the clock and asks again. One whose time is long
    /// past at `now` has lost its interrupt and is not relied on any more.
    pub fn ensure<P: Platform>(
        &mut self,
        platform: &mut P,
        now: u64,
        deadline: u64,
    ) -> Result<(), Error> {
        let relied_on = |armed: u64| armed <= deadline && now < armed.saturating_add(TIMER_LOST);
        if self.armed.is_some_and(relied_on) {
            return Ok(());
        }
        // 0 would stop the timer.
        let deadline = deadline.max(1);
        platform.write_register(self.count, deadline)?;
        if let Some(old) = self.armed.replace(deadline) {
            self.superseded = Some(self.superseded.map_or(old, |older| older.min(old)));
        }
        Ok(())
    }

    /// The timer's interrupt came: ends it at the interrupt controller (direct
    /// mode has no automatic end). `false` tells the caller to count one that came
    /// early or without a cause (SYN-34). Either way the timer counts as stopped:
    /// whether it still runs is the host's word and the two clocks need not agree to
    /// the last tick, so a one-shot that fired a tick early would else be waited for
    /// for ever.
    pub fn expired<P: Platform>(&mut self, platform: &mut P, now: u64) -> Result<bool, Error> {
        platform.write_register(msr::EOI, 0)?;
        let armed = self.armed.take();
        if armed.is_some_and(|armed| armed <= now) {
            return Ok(true);
        }
        let replaced = self.superseded.take_if(|old| *old <= now).is_some();
        if replaced {
            // It was the replaced one's. The other still runs, and is written again
            // as soon as the loop asks: it may expire before that.
            self.superseded = armed;
        }
        Ok(replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakePlatform;
    use memory::doubles::PlainShared;

    const SINT7: u32 = msr::SINT0 + 7;

    fn platform() -> FakePlatform {
        let mut platform = FakePlatform::default();
        platform.registers.insert(msr::SVERSION, 1);
        platform
    }

    fn take_it(platform: &mut FakePlatform) -> Result<(), SynicError> {
        take(
            platform,
            &PlainShared::new(1, 0x8801),
            &PlainShared::new(1, 0x8802),
            7,
            0x60,
        )
    }

    #[test]
    fn syn_21_pages_are_set_before_the_source_and_the_switch_comes_last() {
        let mut platform = platform();
        take_it(&mut platform).unwrap();
        assert_eq!(
            platform.written,
            [
                (msr::SIMP, 0x880_1001),
                (msr::SIEFP, 0x880_2001),
                (SINT7, 0x2_0060),
                (msr::SCONTROL, 1)
            ]
        );
    }

    #[test]
    fn syn_20_another_page_than_ours_is_refused() {
        let mut platform = platform();
        platform.stuck.insert(msr::SIMP, 0x1234_5001);
        let judged = SynicError::Judged {
            rule: Rule::SYN_20,
            register: msr::SIMP,
            value: 0x1234_5001,
        };
        assert_eq!(take_it(&mut platform), Err(judged));
    }

    #[test]
    fn syn_22_version_and_switch_read_back() {
        let mut platform = platform();
        platform.registers.insert(msr::SVERSION, 0);
        assert!(matches!(
            take_it(&mut platform),
            Err(SynicError::Judged {
                rule: Rule::SYN_22,
                ..
            })
        ));
        platform.registers.insert(msr::SVERSION, 1);
        for (register, value) in [(SINT7, 0x2_0061), (SINT7, 0x3_0060), (msr::SCONTROL, 0)] {
            platform.stuck.clear();
            platform.stuck.insert(register, value);
            let judged = SynicError::Judged {
                rule: Rule::SYN_22,
                register,
                value,
            };
            assert_eq!(take_it(&mut platform), Err(judged));
        }
    }

    #[test]
    fn syn_26_vp_index_is_ours() {
        let mut platform = platform();
        platform.stuck.insert(msr::VP_INDEX, 0xffff_ffff);
        assert!(matches!(
            introduce(&mut platform),
            Err(SynicError::Judged {
                rule: Rule::SYN_26,
                ..
            })
        ));
    }

    #[test]
    fn syn_26_vp_that_was_started_has_its_index() {
        let mut platform = platform();
        platform.stuck.insert(msr::VP_INDEX, 2);
        assert_eq!(identify(&mut platform, 2), Ok(()));
        let judged = SynicError::Judged {
            rule: Rule::SYN_26,
            register: msr::VP_INDEX,
            value: 2,
        };
        for index in [0, 1, 3] {
            assert_eq!(identify(&mut platform, index), Err(judged));
        }
    }

    #[test]
    fn timer_is_written_only_for_earlier_deadlines() {
        let mut platform = platform();
        let mut timer = Timer::new(&mut platform, 0, 0x50).unwrap();
        platform.written.clear();
        timer.ensure(&mut platform, 0, 1000).unwrap();
        timer.ensure(&mut platform, 0, 2000).unwrap();
        timer.ensure(&mut platform, 0, 500).unwrap();
        assert_eq!(
            platform.written,
            [(msr::STIMER0_COUNT, 1000), (msr::STIMER0_COUNT, 500)]
        );
    }

    #[test]
    fn timer_whose_interrupt_was_lost_is_set_again() {
        let mut platform = platform();
        let mut timer = Timer::new(&mut platform, 0, 0x50).unwrap();
        timer.ensure(&mut platform, 0, 500).unwrap();
        platform.written.clear();
        timer
            .ensure(&mut platform, 499 + TIMER_LOST, u64::MAX)
            .unwrap();
        assert_eq!(platform.written, []);
        let now = 500 + TIMER_LOST;
        timer.ensure(&mut platform, now, now + 7).unwrap();
        assert_eq!(platform.written, [(msr::STIMER0_COUNT, now + 7)]);
        // It was only held back (interrupts were off): no fault of the host's.
        assert!(timer.expired(&mut platform, now).unwrap());
        timer.ensure(&mut platform, now, now + 7).unwrap();
        assert!(!timer.expired(&mut platform, now).unwrap());
    }

    #[test]
    fn syn_34_replaced_deadline_explains_one_interrupt() {
        let mut platform = platform();
        let mut timer = Timer::new(&mut platform, 0, 0x50).unwrap();
        // 500 passes while the loop is busy and asks for 450: both expire.
        timer.ensure(&mut platform, 0, 500).unwrap();
        timer.ensure(&mut platform, 0, 450).unwrap();
        assert!(timer.expired(&mut platform, 510).unwrap());
        timer.ensure(&mut platform, 510, 900).unwrap();
        assert!(timer.expired(&mut platform, 520).unwrap());
        timer.ensure(&mut platform, 520, 900).unwrap();
        assert!(!timer.expired(&mut platform, 530).unwrap());
    }

    #[test]
    fn syn_34_a_lost_interrupt_that_comes_first_does_not_make_the_next_one_early() {
        let mut platform = platform();
        let mut timer = Timer::new(&mut platform, 0, 0x50).unwrap();
        timer.ensure(&mut platform, 0, 500).unwrap();
        // Taken for lost; another deadline is set, and then the old one's comes.
        let now = 500 + TIMER_LOST;
        timer.ensure(&mut platform, now, now + 7).unwrap();
        assert!(timer.expired(&mut platform, now + 5).unwrap());
        // The new one expires before the loop sets the next.
        timer.ensure(&mut platform, now + 8, now + 900).unwrap();
        assert!(timer.expired(&mut platform, now + 9).unwrap());
        // That explains one interrupt, and only after its time.
        timer.ensure(&mut platform, now + 9, now + 900).unwrap();
        assert!(!timer.expired(&mut platform, now + 10).unwrap());
        // The other way round: the replaced one stays due, the next one is early.
        let mut timer = Timer::new(&mut platform, 0, 0x50).unwrap();
        timer.ensure(&mut platform, 0, 500).unwrap();
        timer.ensure(&mut platform, now, now + 7).unwrap();
        assert!(timer.expired(&mut platform, now + 5).unwrap());
        timer.ensure(&mut platform, now + 5, now + 7).unwrap();
        assert!(!timer.expired(&mut platform, now + 6).unwrap());
    }

    #[test]
    fn syn_34_after_any_timer_interrupt_the_timer_is_set_again() {
        let mut platform = platform();
        let mut timer = Timer::new(&mut platform, 0, 0x50).unwrap();
        for (now, on_time) in [(499, false), (500, true), (501, true)] {
            timer.ensure(&mut platform, 0, 500).unwrap();
            assert_eq!(timer.expired(&mut platform, now).unwrap(), on_time);
            platform.written.clear();
            timer.ensure(&mut platform, 0, 500).unwrap();
            assert_eq!(platform.written, [(msr::STIMER0_COUNT, 500)]);
            timer.expired(&mut platform, 500).unwrap();
        }
        // Never set: counted, nothing else.
        assert!(!timer.expired(&mut platform, 500).unwrap());
    }
}
