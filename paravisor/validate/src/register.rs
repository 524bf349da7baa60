//! Synthetic registers, judged by what they read (TLFS chapters 11 and 12).

use crate::{Rule, Violation};
use abi::hyperv::{SCONTROL_ENABLE, SYNIC_VERSION, msr};

/// Slowest TSC that is believed, in Hz.
pub const MIN_HZ: u64 = 100_000_000;
/// Fastest TSC that is believed, in Hz.
pub const MAX_HZ: u64 = 20_000_000_000;

/// Frame and enable bit of SIMP and SIEFP; bits 11:1 are the hypervisor's.
const PAGE: u64 = !0xffe;
/// Vector and mask of a SINT; the other bits choose how the interrupt ends, which
/// harms nobody but the host's own message.
const SOURCE: u64 = 0x1_00ff;

/// Judges what `register` (an MSR's number) reads, with what was last written to it,
/// if anything; for the VP index, the index as which the VP was started (0 for the first
/// one). The violation's offset is the register's number.
///
/// A register that has no rule may hold anything.
pub fn read(register: u32, written: Option<u64>, value: u64) -> Result<(), Violation> {
    let back =
        |significant: u64| written.is_none_or(|written| (written ^ value) & significant == 0);
    let (holds, rule) = match register {
        msr::VP_INDEX => (value == written.unwrap_or(0), Rule::SYN_26),
        msr::SVERSION => (value == SYNIC_VERSION, Rule::SYN_22),
        msr::SIMP | msr::SIEFP => (back(PAGE), Rule::SYN_20),
        msr::SINT0..=msr::SINT15 => (back(SOURCE), Rule::SYN_22),
        msr::SCONTROL => (back(SCONTROL_ENABLE), Rule::SYN_22),
        msr::TSC_FREQUENCY => ((MIN_HZ..=MAX_HZ).contains(&value), Rule::SYN_28),
        _ => return Ok(()),
    };
    if holds {
        Ok(())
    } else {
        Err(Violation::new(rule, register as usize, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(register: u32, written: Option<u64>, value: u64) -> Option<Rule> {
        read(register, written, value).err().map(|v| v.rule)
    }

    #[test]
    fn syn_20_pages_read_back_as_ours() {
        for register in [msr::SIMP, msr::SIEFP] {
            let ours = Some(0x880_1001);
            for other in [0x1234_5001, 0x880_1000, 0x880_2001, 0, u64::MAX] {
                assert_eq!(
                    rule(register, ours, other),
                    Some(Rule::SYN_20),
                    "{other:#x}"
                );
            }
            // The reserved bits are the hypervisor's.
            assert_eq!(rule(register, ours, 0x880_1ffd), None);
            assert_eq!(rule(register, ours, 0x880_1001), None);
        }
    }

    #[test]
    fn syn_22_version_source_and_switch() {
        for version in [0, 2, u64::MAX] {
            assert_eq!(rule(msr::SVERSION, None, version), Some(Rule::SYN_22));
        }
        assert_eq!(rule(msr::SVERSION, None, 1), None);
        assert_eq!(rule(msr::SCONTROL, Some(1), 0), Some(Rule::SYN_22));
        assert_eq!(rule(msr::SCONTROL, Some(1), 1), None);
        for sint in [msr::SINT0, msr::SINT0 + 7, msr::SINT15] {
            for other in [0x61, 0x1_0060, 0] {
                assert_eq!(rule(sint, Some(0x2_0060), other), Some(Rule::SYN_22));
            }
            assert_eq!(rule(sint, Some(0x2_0060), 0x60), None);
        }
        assert_eq!(rule(msr::SINT15 + 1, Some(1), 0), None);
    }

    #[test]
    fn syn_26_index_is_the_one_that_was_started() {
        for index in [1, 0xffff_ffff, u64::MAX] {
            assert_eq!(rule(msr::VP_INDEX, None, index), Some(Rule::SYN_26));
        }
        assert_eq!(rule(msr::VP_INDEX, None, 0), None);
        for index in [0, 1, 3, 64, u64::MAX] {
            assert_eq!(rule(msr::VP_INDEX, Some(2), index), Some(Rule::SYN_26));
        }
        assert_eq!(rule(msr::VP_INDEX, Some(2), 2), None);
    }

    #[test]
    fn syn_28_rates_that_no_processor_has() {
        for rate in [0, MIN_HZ - 1, MAX_HZ + 1, u64::MAX] {
            assert_eq!(rule(msr::TSC_FREQUENCY, None, rate), Some(Rule::SYN_28));
        }
        for rate in [MIN_HZ, 2_500_000_000, MAX_HZ] {
            assert_eq!(rule(msr::TSC_FREQUENCY, None, rate), None);
        }
        assert_eq!(
            read(msr::TSC_FREQUENCY, None, 5).unwrap_err(),
            Violation::new(Rule::SYN_28, msr::TSC_FREQUENCY as usize, 5_u64)
        );
    }
}
