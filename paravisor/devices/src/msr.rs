//! Model-specific registers that the platform emulates. The processor keeps EFER,
//! STAR, FS and GS bases, SYSENTER, PAT and the like by itself (they are in the
//! guest's save area). What is not here ends in #GP, which Linux expects of an
//! unknown MSR.

use crate::cpuid::PHYSICAL_BITS;
use crate::{Fault, layout};

const TSC: u32 = 0x10;
pub(crate) const APIC_BASE: u32 = 0x1b;
const PATCH_LEVEL: u32 = 0x8b;
const MTRR_CAPABILITIES: u32 = 0xfe;
const MTRR_VARIABLE_FIRST: u32 = 0x200;
const MTRR_VARIABLE_LAST: u32 = 0x20f;
const MTRR_FIXED_64K: u32 = 0x250;
const MTRR_FIXED_16K: u32 = 0x258;
const MTRR_FIXED_4K_FIRST: u32 = 0x268;
const MTRR_FIXED_4K_LAST: u32 = 0x26f;
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const TOP_MEM: u32 = 0xc001_001a;
const TOP_MEM2: u32 = 0xc001_001d;
const NB_CFG: u32 = 0xc001_001f;
const PATCH_LOADER: u32 = 0xc001_0020;
const DE_CFG: u32 = 0xc001_1029;

/// APIC_BASE: boot processor, and the APIC is on.
const APIC_BSP: u64 = 1 << 8;
pub(crate) const APIC_ENABLE: u64 = 1 << 11;
/// HWCR: the TSC counts at the P0 rate. Linux complains if it does not.
const HWCR_TSC_AT_P0: u64 = 1 << 24;
/// NB_CFG: extended configuration access by CF8. Linux sets it if it is clear.
const NB_CFG_CF8_EXTENDED: u64 = 1 << 46;
/// DE_CFG: LFENCE serializes.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// MTRR capabilities: 8 variable ranges, fixed ranges, write combining.
const CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// Default type: write-back, fixed and all ranges on.
const DEFAULT_TYPE: u64 = 6 | 1 << 10 | 1 << 11;
const WRITE_BACK_8: u64 = 0x0606_0606_0606_0606;
/// A plausible microcode revision: none of those for which Linux wants an update.
const MICROCODE: u64 = 0x0100_0065;

/// The emulated registers.
#[derive(Clone, Debug)]
pub(crate) struct Msrs {
    /// The processor that starts first.
    boot: bool,
    tsc_hz: u64,
    memory_size: u64,
    variable: [u64; 16],
    fixed: [u64; 11],
    default_type: u64,
    hwcr: u64,
    nb_cfg: u64,
    de_cfg: u64,
}

impl Msrs {
    pub(crate) fn new(boot: bool, tsc_hz: u64, memory_size: u64) -> Msrs {
        let mut variable = [0; 16];
        // As firmware leaves them: write-back, except where the devices are.
        let length = (1u64 << 32).saturating_sub(layout::MMIO_HOLE_BASE);
        let mask = (1u64 << PHYSICAL_BITS).saturating_sub(length) | 1 << 11;
        for (slot, value) in variable.iter_mut().zip([layout::MMIO_HOLE_BASE, mask]) {
            *slot = value;
        }
        Msrs {
            boot,
            tsc_hz,
            memory_size,
            variable,
            fixed: [WRITE_BACK_8; 11],
            default_type: DEFAULT_TYPE,
            hwcr: HWCR_TSC_AT_P0,
            nb_cfg: NB_CFG_CF8_EXTENDED,
            de_cfg: DE_CFG_LFENCE,
        }
    }

    /// Those of another processor after power-on: alike, as firmware leaves them.
    pub(crate) fn of_another(&self) -> Msrs {
        Msrs::new(false, self.tsc_hz, self.memory_size)
    }

    /// Reads an MSR; `apic_enabled` is the state of the local APIC.
    pub(crate) fn read(&self, msr: u32, apic_enabled: bool, now: u64) -> Result<u64, Fault> {
        Ok(match msr {
            TSC => {
                let ticks = u128::from(now).wrapping_mul(u128::from(self.tsc_hz));
                (ticks / 1_000_000_000) as u64
            }
            APIC_BASE => {
                let boot = if self.boot { APIC_BSP } else { 0 };
                layout::LAPIC_BASE | boot | if apic_enabled { APIC_ENABLE } else { 0 }
            }
            PATCH_LEVEL => MICROCODE,
            MTRR_CAPABILITIES => CAPABILITIES,
            MTRR_VARIABLE_FIRST..=MTRR_VARIABLE_LAST => self
                .variable
                .get((msr & 0xf) as usize)
                .copied()
                .ok_or(Fault)?,
            MTRR_DEFAULT_TYPE => self.default_type,
            SYSCFG => 0,
            HWCR => self.hwcr,
            TOP_MEM => self.memory_size,
            TOP_MEM2 => 0,
            NB_CFG => self.nb_cfg,
            DE_CFG => self.de_cfg,
            _ => {
                let index = fixed_index(msr).ok_or(Fault)?;
                self.fixed.get(index).copied().ok_or(Fault)?
            }
        })
    }

    /// Writes an MSR other than APIC_BASE.
    pub(crate) fn write(&mut self, msr: u32, value: u64) -> Result<(), Fault> {
        match msr {
            // A new microcode is taken note of and forgotten; the rest is fixed.
            PATCH_LOADER | SYSCFG => {}
            MTRR_VARIABLE_FIRST..=MTRR_VARIABLE_LAST => {
                let valid = if msr & 1 == 0 {
                    value & !0xff < 1 << PHYSICAL_BITS && value & 0xf00 == 0 && memory_type(value)
                } else {
                    value & 0x7ff == 0 && value < 1 << PHYSICAL_BITS
                };
                if !valid {
                    return Err(Fault);
                }
                *self.variable.get_mut((msr & 0xf) as usize).ok_or(Fault)? = value;
            }
            MTRR_DEFAULT_TYPE => {
                if value & !0xcff != 0 || !memory_type(value) {
                    return Err(Fault);
                }
                self.default_type = value;
            }
            HWCR => self.hwcr = value | HWCR_TSC_AT_P0,
            NB_CFG => self.nb_cfg = value,
            DE_CFG => self.de_cfg = value | DE_CFG_LFENCE,
            _ => {
                let index = fixed_index(msr).ok_or(Fault)?;
                // AMD's fixed ranges have two more bits per type, which SYSCFG hides.
                if !value
                    .to_le_bytes()
                    .into_iter()
                    .all(|kind| memory_type(u64::from(kind)))
                {
                    return Err(Fault);
                }
                *self.fixed.get_mut(index).ok_or(Fault)? = value;
            }
        }
        Ok(())
    }
}

/// Whether the low byte is a memory type of MTRRs (APM volume 2, table 7-9).
fn memory_type(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4 | 5 | 6)
}

fn fixed_index(msr: u32) -> Option<usize> {
    match msr {
        MTRR_FIXED_64K => Some(0),
        MTRR_FIXED_16K => Some(1),
        0x259 => Some(2),
        MTRR_FIXED_4K_FIRST..=MTRR_FIXED_4K_LAST => {
            usize::try_from(msr.wrapping_sub(MTRR_FIXED_4K_FIRST))
                .ok()?
                .checked_add(3)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apm_7_7_mtrrs_keep_what_is_valid() {
        let mut msrs = Msrs::new(true, 1_000_000_000, 512 << 20);
        assert_eq!(msrs.read(0xfe, true, 0), Ok(0x508));
        assert_eq!(msrs.read(0x200, true, 0), Ok(0xc000_0000));
        assert_eq!(msrs.read(0x201, true, 0), Ok(0xff_c000_0800));
        assert_eq!(msrs.write(0x204, 0x8000_0006), Ok(()));
        assert_eq!(msrs.read(0x204, true, 0), Ok(0x8000_0006));
        assert_eq!(msrs.write(0x204, 0x8000_0002), Err(Fault));
        assert_eq!(msrs.write(0x205, 1 << 40), Err(Fault));
        assert_eq!(msrs.write(0x2ff, 0x1006), Err(Fault));
        assert_eq!(msrs.write(0x2ff, 6), Ok(()));
        assert_eq!(msrs.write(0x250, 0x0606_0606_0606_0602), Err(Fault));
        assert_eq!(msrs.write(0x26f, 0), Ok(()));
        assert_eq!(msrs.read(0x26f, true, 0), Ok(0));
        assert_eq!(msrs.read(0x270, true, 0), Err(Fault));
    }

    #[test]
    fn what_linux_reads_without_a_safety_net() {
        let msrs = Msrs::new(true, 2_000_000_000, 512 << 20);
        assert_eq!(
            msrs.read(HWCR, true, 0).unwrap() & HWCR_TSC_AT_P0,
            HWCR_TSC_AT_P0
        );
        assert_eq!(
            msrs.read(NB_CFG, true, 0).unwrap() & NB_CFG_CF8_EXTENDED,
            1 << 46
        );
        assert!(msrs.read(TOP_MEM, true, 0).is_ok());
        assert_eq!(msrs.read(TSC, true, 1_500_000_000), Ok(3_000_000_000));
    }

    #[test]
    fn unknown_and_host_registers_fault() {
        let mut msrs = Msrs::new(true, 1, 0);
        for msr in [
            0x3a,
            0x48,
            0x179,
            0x6e0,
            0x802,
            0x4000_0000,
            0xc001_0130,
            0xc001_0131,
            u32::MAX,
        ] {
            assert_eq!(msrs.read(msr, true, 0), Err(Fault), "{msr:#x}");
            assert_eq!(msrs.write(msr, 0), Err(Fault), "{msr:#x}");
        }
    }
}
