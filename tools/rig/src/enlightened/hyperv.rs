//! The guest's way to the hypervisor: CPUID leaves, synthetic MSRs, hypercalls.

use super::Pc;
use abi::hyperv::{self, CallResult, Control, OverlayPage, cpuid, status};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use devices::CpuidState;
use hostkit::hv::NoHook;
use memory::GuestMemory;
use platform::{Reg, Registers};
use rig::enlightenment;

const UD: u8 = 6;
const GP: u8 = 13;
const PAGE: u64 = hyperv::PAGE_SIZE as u64;
/// Numbers that belong to the hypervisor.
const SYNTHETIC: RangeInclusive<u32> = 0x4000_0000..=0x4000_0fff;
/// EFER as a guest may set it: SCE, LME, LMA, NXE and AMD's further bits but SVME.
const EFER_KNOWN: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15;
const EFER_LMA: u64 = 1 << 10;
const PAT: u32 = 0x277;

impl Pc {
    /// CPUID: the devices' view with the hypervisor's leaves and its bit added.
    pub(super) fn cpuid(&mut self) {
        let vp = &mut self.vp;
        let leaf = vp.get(Reg::Rax) as u32;
        let state = CpuidState {
            cr4: vp.get(Reg::Cr4),
            xcr0: vp.get(Reg::Xcr0),
        };
        let mut registers = enlightenment::cpuid(leaf)
            .unwrap_or_else(|| self.devices.cpuid(leaf, vp.get(Reg::Rcx) as u32, state));
        if leaf == 1 {
            registers[2] |= cpuid::LEAF1_ECX_HYPERVISOR;
        }
        let names = [Reg::Rax, Reg::Rbx, Reg::Rcx, Reg::Rdx];
        for (reg, value) in names.into_iter().zip(registers) {
            vp.set(reg, value.into());
        }
        vp.advance(vp.next_rip);
    }

    /// RDMSR and WRMSR of what the devices do not have. `false`: not one of these.
    pub(super) fn msr(&mut self, write: bool) -> bool {
        let msr = self.vp.get(Reg::Rcx) as u32;
        let value = self.vp.get(Reg::Rax) & 0xffff_ffff | self.vp.get(Reg::Rdx) << 32;
        let now = self.clock.now();
        self.stats.msr(msr);
        let done = match (msr, write) {
            (m, false) if SYNTHETIC.contains(&m) => self.host.msr_read(now, 0, m).ok(),
            (m, true) if SYNTHETIC.contains(&m) => self.synthetic_write(m, value),
            (abi::svm::msr::EFER, false) => Some(self.vp.get(Reg::Efer)),
            (abi::svm::msr::EFER, true) => self.write_efer(value),
            (PAT, false) => Some(self.vp.get(Reg::Pat)),
            (PAT, true) => {
                self.vp.set(Reg::Pat, value);
                Some(0)
            }
            _ => return false,
        };
        match done {
            None => self.vp.raise(GP, Some(0)),
            Some(read) => {
                if !write {
                    self.vp.set(Reg::Rax, read & 0xffff_ffff);
                    self.vp.set(Reg::Rdx, read >> 32);
                }
                self.vp.advance(self.vp.next_rip);
            }
        }
        true
    }

    fn write_efer(&mut self, value: u64) -> Option<u64> {
        if value & !EFER_KNOWN != 0 {
            return None;
        }
        // LMA follows CR0.PG by the processor.
        let old = self.vp.get(Reg::Efer);
        self.vp.set(Reg::Efer, value & !EFER_LMA | old & EFER_LMA);
        Some(0)
    }

    fn synthetic_write(&mut self, msr: u32, value: u64) -> Option<u64> {
        let now = self.clock.now();
        self.host.msr_write(now, 0, msr, value).ok()?;
        if msr == hyperv::msr::HYPERCALL {
            let page = OverlayPage(self.host.msr_read(now, 0, msr).ok()?);
            if page.enabled() {
                // Hyper-V lays its own page over the guest's; writing there is as good.
                let written = self.ram.write(page.gpa(), &enlightenment::HYPERCALL_PAGE);
                written.ok()?;
            }
        }
        Some(0)
    }

    /// A call through the hypercall page (TLFS section 3.7): input value in RCX, input
    /// in RDX and R8 or at the addresses in them, result in RAX.
    pub(super) fn hypercall(&mut self) {
        if self.vp.cpl() != 0 || !self.vp.segment(platform::Seg::Cs).long {
            self.vp.raise(UD, None);
            return;
        }
        let control = Control(self.vp.get(Reg::Rcx));
        let (rdx, r8) = (self.vp.get(Reg::Rdx), self.vp.get(Reg::R8));
        let result = if control.is_fast() {
            let mut input = [0; 16];
            input[..8].copy_from_slice(&rdx.to_le_bytes());
            input[8..].copy_from_slice(&r8.to_le_bytes());
            self.call(control, &input, &mut [])
        } else if !rdx.is_multiple_of(8) || !r8.is_multiple_of(8) {
            CallResult::new(status::INVALID_ALIGNMENT, 0).0
        } else {
            self.slow_call(control, rdx, r8)
        };
        self.vp.set(Reg::Rax, result);
        self.vp.advance(self.vp.next_rip);
    }

    /// Lists lie in one page each; an address of which the call needs nothing may be
    /// anything.
    fn slow_call(&mut self, control: Control, input_gpa: u64, output_gpa: u64) -> u64 {
        let room = |gpa: u64| (PAGE - gpa % PAGE) as usize;
        let mut input: Vec<u8> = alloc::vec![0; room(input_gpa)];
        if self.ram.read(input_gpa, &mut input).is_err() {
            input.clear();
        }
        // Nobody writes more than a register's value per element.
        let size = usize::from(control.rep_count()) * size_of::<hyperv::RegisterValue>();
        let mut output: Vec<u8> = alloc::vec![0; size.min(room(output_gpa))];
        let result = self.call(control, &input, &mut output);
        if CallResult(result).status() == status::SUCCESS
            && self.ram.write(output_gpa, &output).is_err()
        {
            return CallResult::new(status::INVALID_HYPERCALL_INPUT, 0).0;
        }
        result
    }

    fn call(&mut self, control: Control, input: &[u8], output: &mut [u8]) -> u64 {
        let now = self.clock.now();
        self.host
            .hypercall(now, 0, &mut NoHook, control.0, input, output)
    }
}
