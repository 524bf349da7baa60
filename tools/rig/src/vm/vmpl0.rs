//! Exits of VMPL0: what SNP hardware does itself, and `#VC` for the rest.

use super::end::{End, end};
use super::{Life, Turn, UPPER};
use abi::record::Outcome;
use abi::svm::{event, exit, npf};
use rig::insn::{self, Snp, Vmmcall};
use rig::rmp::{Access, Done, Verdict};

/// CF in RFLAGS.
const CARRY: u64 = 1;
const GP: u8 = 13;
const UD: u8 = 6;
const PF: u8 = 14;

impl Turn<'_> {
    /// Chooses what VMPL0 takes at entry: an interrupted event again, an
    /// exception that the last exit raised, or an interrupt of the host.
    pub(super) fn prepare_upper(&mut self) {
        let ctx = &mut self.vp.ctx[UPPER];
        if ctx.vmcb.control.event_inj & event::VALID != 0 {
            return;
        }
        let again = ctx.interrupted_event();
        ctx.vmcb.control.exit_int_info = 0;
        if again != 0 {
            ctx.vmcb.control.event_inj = again;
            return;
        }
        let index = self.vp.index;
        match self.vm.host.pending_vector(index) {
            Some(vector) if ctx.interruptible() => {
                ctx.vmcb.control.event_inj = event::interrupt(vector);
                self.vm.host.accept_vector(index, vector);
            }
            Some(vector) => {
                ctx.offer(vector);
                self.vm.host.offer_vector(index, Some(vector), None);
            }
            None => {}
        }
    }

    pub(super) fn upper_exit(&mut self, code: u64) -> Result<(), End> {
        match code {
            exit::INTR | exit::NMI => Ok(()),
            exit::MSR => self.upper_msr(),
            exit::EXCEPTION_UD => self.upper_undefined(),
            exit::NPF => self.upper_fault(),
            exit::VMMCALL => self.upper_vmmcall(),
            exit::HLT => self.upper_halt(),
            exit::CPUID | exit::IOIO | exit::MONITOR | exit::MWAIT => self.raise_vc(code),
            exit::VMRUN..=exit::SKINIT | exit::INVLPGA => {
                self.raise(UPPER, UD, None);
                Ok(())
            }
            exit::SHUTDOWN => end!(Outcome::VmKilled, "VMPL0 triple fault: {}", self.describe()),
            _ => end!(Outcome::RigFailure, "unexpected exit: {}", self.describe()),
        }
    }

    fn upper_msr(&mut self) -> Result<(), End> {
        let write = self.vp.ctx[UPPER].vmcb.control.exit_info1 & 1 != 0;
        match self.native_msr(UPPER, write) {
            Some(Ok(())) => self.vp.ctx[UPPER].advance(2),
            Some(Err(())) => self.raise(UPPER, GP, Some(0)),
            None => return self.raise_vc(exit::MSR),
        }
        Ok(())
    }

    fn upper_halt(&mut self) -> Result<(), End> {
        self.vp.ctx[UPPER].advance(1);
        if self.vp.ctx[UPPER].vmcb.save.rflags & (1 << 9) == 0 {
            // One VP may stop for good; when the last one does the VM has come to its end.
            self.vm.vps[self.vp.index].life = Life::Stopped;
            if self.vm.vps.iter().all(|vp| vp.life != Life::On) {
                return end!(
                    Outcome::VmKilled,
                    "VMPL0 halted with interrupts off: {}",
                    self.describe()
                );
            }
        }
        self.vp.halted = true;
        Ok(())
    }

    fn upper_vmmcall(&mut self) -> Result<(), End> {
        match insn::vmmcall(&self.fetch4(UPPER)) {
            Some(Vmmcall::Vmgexit) => {
                self.vp.ctx[UPPER].advance(4);
                self.vmgexit()
            }
            Some(Vmmcall::Plain) => self.raise_vc(exit::VMMCALL),
            None => end!(
                Outcome::RigFailure,
                "VMMCALL without its bytes: {}",
                self.describe()
            ),
        }
    }

    /// `#UD`: an SNP instruction, or really undefined.
    fn upper_undefined(&mut self) -> Result<(), End> {
        let Some(snp) = insn::snp(&self.fetch4(UPPER)) else {
            self.raise(UPPER, UD, None);
            return Ok(());
        };
        let ctx = &self.vp.ctx[UPPER];
        if ctx.vmcb.save.cpl != 0 || ctx.bits() != 64 {
            self.raise(UPPER, GP, Some(0));
            return Ok(());
        }
        let gva = ctx.vmcb.save.rax;
        let (rcx, rdx) = (ctx.regs.rcx, ctx.regs.rdx);
        // Checked like a read of one byte.
        let Some(found) = self.translate(UPPER, gva) else {
            self.vp.ctx[UPPER].vmcb.save.cr2 = gva;
            self.raise(UPPER, PF, Some(0));
            return Ok(());
        };
        let (gpa, _) = self.vp.ctx[UPPER].npt.view.split(found.gpa);
        let size = rcx as u32;
        let frames = if size == 1 {
            rig::rmp::REGION_FRAMES
        } else {
            1
        };
        let done = match snp {
            Snp::Pvalidate => {
                self.stats().rmp_instructions[0] += 1;
                self.vm.rmp.borrow_mut().pvalidate(gpa, size, rdx & 1 != 0)
            }
            Snp::Rmpadjust => {
                self.stats().rmp_instructions[1] += 1;
                self.vm.rmp.borrow_mut().rmpadjust(0, gpa, size, rdx)
            }
            Snp::Rmpquery => {
                self.stats().rmp_instructions[2] += 1;
                match self.vm.rmp.borrow().rmpquery(0, gpa, rdx) {
                    Ok((eax, rdx, rcx)) => {
                        self.vp.ctx[UPPER].regs.rdx = rdx;
                        self.vp.ctx[UPPER].regs.rcx = rcx;
                        Done::Code { eax, carry: false }
                    }
                    Err(done) => done,
                }
            }
        };
        match done {
            Done::Code { eax, carry } => {
                if snp != Snp::Rmpquery {
                    self.forget(gpa >> 12, frames)?;
                }
                let save = &mut self.vp.ctx[UPPER].vmcb.save;
                save.rax = u64::from(eax);
                if snp == Snp::Pvalidate {
                    save.rflags = (save.rflags & !CARRY) | u64::from(carry);
                }
                self.vp.ctx[UPPER].advance(insn::SNP_LEN);
                Ok(())
            }
            Done::NotValidated => self.not_validated(gva),
            Done::HostFault => end!(
                Outcome::VmKilled,
                "{snp:?} of page {gpa:#x} which the guest does not own: {}",
                self.describe()
            ),
        }
    }

    /// `#VC` 404h: access to a page that was never validated.
    fn not_validated(&mut self, address: u64) -> Result<(), End> {
        crate::record::log(
            "warn",
            format_args!(
                "VMPL0 touched unvalidated page {address:#x}, rip {:#x}",
                self.vp.ctx[UPPER].vmcb.save.rip
            ),
        );
        self.vp.ctx[UPPER].vmcb.save.cr2 = address;
        self.raise_vc(exit::PAGE_NOT_VALIDATED)
    }

    fn upper_fault(&mut self) -> Result<(), End> {
        let (info, address) = (
            self.vp.ctx[UPPER].vmcb.control.exit_info1,
            self.vp.ctx[UPPER].vmcb.control.exit_info2,
        );
        self.vp.ctx[UPPER].note_fault(address)?;
        let npt = self.vp.ctx[UPPER].npt;
        let (gpa, private) = npt.view.split(address);
        let access = if info & npf::FETCH != 0 {
            Access::Fetch
        } else if info & npf::WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        };
        // Fetches and table walks are private whatever the C bit says.
        if !private && (access == Access::Fetch || info & npf::TABLE_WALK != 0) {
            return end!(
                Outcome::VmKilled,
                "VMPL0 fetches code or page tables from shared address {gpa:#x}: {}",
                self.describe()
            );
        }
        let verdict = self.vm.rmp.borrow().check(0, gpa >> 12, private, access);
        match verdict {
            Verdict::Allowed(_) | Verdict::Ciphertext => self.fill(UPPER, address),
            Verdict::NotValidated => self.not_validated(gpa),
            Verdict::NoMemory => self.raise_vc(exit::NPF),
            Verdict::NotOwned | Verdict::Denied | Verdict::SharedWrite => end!(
                Outcome::VmKilled,
                "RMP violation ({verdict:?}) at {gpa:#x}: {}",
                self.describe()
            ),
        }
    }
}
