//! Synthetic MSRs (TLFS appendix). The SynIC ones are VP registers as well, see
//! [`super::call`].
use super::Partition;
use crate::mem::VmMemory;
use abi::hyperv::{OverlayPage, ReferenceTsc, SYNIC_VERSION, Sint, msr};
use zerocopy::IntoBytes;

/// The access raises #GP in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault;

/// Crash control: notify.
const CRASH_NOTIFY: u64 = 1 << 63;

impl Partition {
    /// RDMSR of `register` on `vp`. #GP for registers that do not exist.
    pub fn msr_read(&mut self, vp: u32, register: u32) -> Result<u64, MsrFault> {
        self.counters.msr_accesses += 1;
        let result = self.read_register(vp, register);
        if result.is_err() {
            *self.counters.msr_faults.entry(register).or_default() += 1;
        }
        result
    }

    /// WRMSR of `register` on `vp`. #GP for registers that do not exist or are
    /// read-only, and for values that set reserved bits.
    pub fn msr_write(
        &mut self,
        mem: &dyn VmMemory,
        vp: u32,
        register: u32,
        value: u64,
    ) -> Result<(), MsrFault> {
        self.counters.msr_accesses += 1;
        let result = self.write_register(mem, vp, register, value);
        if result.is_err() {
            *self.counters.msr_faults.entry(register).or_default() += 1;
        }
        result
    }

    fn read_register(&mut self, vp: u32, register: u32) -> Result<u64, MsrFault> {
        let now = self.now;
        let config = self.config;
        let (os_id, hypercall, tsc) = (self.guest_os_id, self.hypercall_page, self.reference_tsc);
        let (crash, crashed) = (self.crash, self.crashed);
        let v = self.vp(vp).ok_or(MsrFault)?;
        Ok(match register {
            msr::GUEST_OS_ID => os_id,
            msr::HYPERCALL => hypercall,
            msr::VP_INDEX => u64::from(vp),
            msr::TIME_REF_COUNT => now,
            msr::REFERENCE_TSC => tsc.0,
            msr::TSC_FREQUENCY => config.tsc_hz,
            msr::APIC_FREQUENCY => config.apic_hz,
            msr::VP_ASSIST_PAGE => v.vp_assist.0,
            msr::SCONTROL => v.synic.scontrol,
            msr::SVERSION => SYNIC_VERSION,
            msr::SIEFP => v.synic.siefp.0,
            msr::SIMP => v.synic.simp.0,
            msr::EOM => 0,
            msr::SINT0..=msr::SINT15 => v.synic.sint[(register - msr::SINT0) as usize].0,
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => {
                let timer = &v.stimers[((register - msr::STIMER0_CONFIG) / 2) as usize];
                if register.is_multiple_of(2) {
                    timer.config.0
                } else {
                    timer.count
                }
            }
            msr::CRASH_P0..msr::CRASH_CTL => crash[(register - msr::CRASH_P0) as usize],
            msr::CRASH_CTL => CRASH_NOTIFY | u64::from(crashed),
            _ => return Err(MsrFault),
        })
    }

    pub(super) fn write_register(
        &mut self,
        mem: &dyn VmMemory,
        vp: u32,
        register: u32,
        value: u64,
    ) -> Result<(), MsrFault> {
        let now = self.now;
        match register {
            msr::GUEST_OS_ID => {
                self.guest_os_id = value;
                if value == 0 {
                    self.hypercall_page &= !1;
                }
                return Ok(());
            }
            msr::HYPERCALL => return self.write_hypercall_page(value),
            msr::REFERENCE_TSC => {
                self.reference_tsc = OverlayPage(value);
                return self.write_tsc_page(mem);
            }
            msr::CRASH_P0..msr::CRASH_CTL => {
                self.crash[(register - msr::CRASH_P0) as usize] = value;
                return Ok(());
            }
            msr::CRASH_CTL => {
                self.crashed |= value & CRASH_NOTIFY != 0;
                return Ok(());
            }
            _ => {}
        }
        if register == msr::EOM {
            self.counters.eom += 1;
        }
        let v = self.vp(vp).ok_or(MsrFault)?;
        match register {
            msr::EOI | msr::X2APIC_EOI => {
                v.synic.eoi();
                v.synic.rescan_all(mem, now);
            }
            msr::ICR => return self.send_interrupt(vp, value),
            msr::VP_ASSIST_PAGE => v.vp_assist = OverlayPage(value),
            msr::SCONTROL => {
                v.synic.scontrol = value;
                v.synic.rescan_all(mem, now);
            }
            msr::SIEFP => v.synic.siefp = OverlayPage(value),
            msr::SIMP => {
                v.synic.simp = OverlayPage(value);
                v.synic.rescan_all(mem, now);
            }
            msr::EOM => v.synic.rescan_all(mem, now),
            msr::SINT0..=msr::SINT15 => {
                let sint = Sint(value);
                // Vectors below 16 do not exist; OpenVMM lets a masked SINT be anything.
                if !sint.masked() && sint.vector() < 16 {
                    return Err(MsrFault);
                }
                v.synic.sint[(register - msr::SINT0) as usize] = sint;
            }
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => {
                let timer = &mut v.stimers[((register - msr::STIMER0_CONFIG) / 2) as usize];
                if !register.is_multiple_of(2) {
                    timer.write_count(now, value);
                } else if !timer.write_config(now, value) {
                    return Err(MsrFault);
                }
            }
            _ => return Err(MsrFault),
        }
        Ok(())
    }

    /// Bit 0 stays clear without a guest OS id; bit 1 locks.
    fn write_hypercall_page(&mut self, value: u64) -> Result<(), MsrFault> {
        if self.hypercall_page & 2 != 0 || value & 0xffc != 0 {
            return Err(MsrFault);
        }
        self.hypercall_page = if self.guest_os_id == 0 {
            value & !1
        } else {
            value
        };
        Ok(())
    }

    /// Fills the reference TSC page: time = high64(tsc * scale) + offset.
    fn write_tsc_page(&mut self, mem: &dyn VmMemory) -> Result<(), MsrFault> {
        if !self.reference_tsc.enabled() {
            return Ok(());
        }
        let mut page = ReferenceTsc {
            sequence: 0,
            reserved: 0,
            scale: 0,
            offset: 0,
        };
        if self.config.tsc_hz != 0 {
            // 0 means invalid and is skipped.
            self.tsc_sequence = self.tsc_sequence.checked_add(1).unwrap_or(1);
            let scale = (10_000_000u128 << 64) / u128::from(self.config.tsc_hz);
            page.scale = u64::try_from(scale).unwrap_or(u64::MAX);
            page.offset =
                -(((u128::from(self.config.tsc_at_start) * u128::from(page.scale)) >> 64) as i64);
            page.sequence = self.tsc_sequence;
        }
        let written = mem.write(self.reference_tsc.gpa(), page.as_bytes());
        written.map_err(|_| {
            self.counters.memory_faults += 1;
            MsrFault
        })
    }
}
