//! VMPL2: entered from its VMSA, left with everything written back there
//! (reflected `#VC`, alternate injection).

use super::end::{End, end};
use super::{LOWER, Turn, UPPER, VTOM_BIT};
use crate::metal::svm;
use abi::record::Outcome;
use abi::svm::{event, exit, ioio, npf, vintr};
use rig::npt::View;
use rig::rmp::{Access, Verdict};
use rig::vmsa::Exit;
use zerocopy::IntoBytes;

const GP: u8 = 13;
/// Bytes of the VMSA which the rig moves: all before x87, SSE and the rest, which
/// stay in the processor.
const STATE: usize = 0x400;

impl Turn<'_> {
    /// VMRUN of VMPL2's VMSA.
    pub(super) fn enter_lower(&mut self) -> Result<(), End> {
        let Some(gfn) = self.vm.vps[self.vp.index].lower_vmsa else {
            return end!(Outcome::VmKilled, "run VTL 0 without SevControl");
        };
        if gfn.is_multiple_of(rig::rmp::REGION_FRAMES) {
            return end!(
                Outcome::VmKilled,
                "VMSA {:#x} is aligned to 2 MiB",
                gfn << 12
            );
        }
        if !self.vm.rmp.borrow().is_vmsa(gfn) {
            return end!(
                Outcome::VmKilled,
                "page {:#x} is no VMSA (RMPADJUST)",
                gfn << 12
            );
        }
        if self.vm.rmp.borrow().is_in_use(gfn) {
            return end!(
                Outcome::VmKilled,
                "VMSA {:#x} is in use by another VP",
                gfn << 12
            );
        }
        self.vm
            .ram
            .read(gfn << 12, &mut self.vp.vmsa.as_mut_bytes()[..STATE]);
        if let Err(why) = rig::vmsa::check_vmpl2(&self.vp.vmsa, 1 << VTOM_BIT) {
            return end!(Outcome::VmKilled, "VMRUN refuses VMPL2's VMSA: {why:?}");
        }
        self.vm.rmp.borrow_mut().set_in_use(gfn, true);
        // FS, GS and so on of VMPL0 must be saved before VMPL2's are loaded.
        self.sync(UPPER);
        self.vp.live = None;
        self.fix_view(if self.vp.vmsa.virtual_tom > 1 << VTOM_BIT {
            View::Private
        } else {
            View::SharedBit(VTOM_BIT)
        })?;
        let ctx = &mut self.vp.ctx[LOWER];
        rig::vmsa::load(&self.vp.vmsa, &mut ctx.vmcb.save, &mut ctx.regs);
        ctx.vmsa_gfn = gfn;
        let c = &mut ctx.vmcb.control;
        let word = self.vp.vmsa.vintr_ctrl;
        c.vintr = vintr::V_INTR_MASKING | (word & vintr::TPR_MASK);
        c.interrupt_shadow = u64::from(word & vintr::INT_SHADOW != 0);
        c.event_inj = if self.vp.vmsa.event_inj & event::VALID != 0 {
            self.vp.vmsa.event_inj
        } else {
            0
        };
        c.exit_int_info = 0;
        self.vp.vmsa.event_inj = 0;
        self.vp.lower_irq = (word & vintr::V_IRQ != 0).then(|| vintr::vector(word));
        self.stats().switches += 1;
        self.vp.current = LOWER;
        Ok(())
    }

    /// Chooses what VMPL2 takes at entry.
    pub(super) fn prepare_lower(&mut self) {
        let ctx = &mut self.vp.ctx[LOWER];
        if ctx.vmcb.control.event_inj & event::VALID != 0 {
            return;
        }
        let again = ctx.interrupted_event();
        ctx.vmcb.control.exit_int_info = 0;
        if again != 0 {
            ctx.vmcb.control.event_inj = again;
            return;
        }
        let word = self.vp.vmsa.vintr_ctrl;
        let Some(vector) = self.vp.lower_irq else {
            return;
        };
        let priority = (word & vintr::PRIORITY_MASK) >> vintr::PRIORITY_SHIFT;
        let tpr = ctx.vmcb.control.vintr & 0xf;
        if word & vintr::IGNORE_TPR == 0 && priority <= tpr {
            return;
        }
        if ctx.interruptible() {
            ctx.vmcb.control.event_inj = event::interrupt(vector);
            self.vp.lower_irq = None;
        } else {
            ctx.offer(vector);
        }
    }

    /// Leaves VMPL2: state and exit into the VMSA page, VMPL0 goes on behind its
    /// VMGEXIT.
    pub(super) fn reflect(&mut self, mut exit: Exit) -> Result<(), End> {
        self.unwritten()?;
        self.sync(LOWER);
        self.vp.live = None;
        let ctx = &mut self.vp.ctx[LOWER];
        // An event that was chosen but never entered counts as interrupted.
        let chosen = ctx.vmcb.control.event_inj;
        let again = ctx.interrupted_event();
        exit.int_info = if chosen & event::VALID != 0 {
            chosen
        } else {
            again
        };
        ctx.vmcb.control.event_inj = 0;
        ctx.vmcb.control.exit_int_info = 0;
        let word = &mut self.vp.vmsa.vintr_ctrl;
        *word &= !(vintr::TPR_MASK | vintr::V_IRQ | vintr::INT_SHADOW);
        *word |= ctx.vmcb.control.vintr & 0xf;
        if self.vp.lower_irq.take().is_some() {
            *word |= vintr::V_IRQ;
        }
        if ctx.vmcb.control.interrupt_shadow & 1 != 0 {
            *word |= vintr::INT_SHADOW;
        }
        rig::vmsa::store(&ctx.vmcb.save, &ctx.regs, &mut self.vp.vmsa);
        // XSETBV is not intercepted, so the page learns of it here.
        self.vp.vmsa.xcr0 = svm::xcr0();
        rig::vmsa::store_exit(exit, &mut self.vp.vmsa);
        let gfn = ctx.vmsa_gfn;
        self.vm
            .ram
            .write(gfn << 12, &self.vp.vmsa.as_bytes()[..STATE]);
        self.vm.rmp.borrow_mut().set_in_use(gfn, false);
        self.stats().switches += 1;
        self.vp.current = UPPER;
        Ok(())
    }

    /// Ends the run if somebody wrote to VMPL2's VMSA while it ran. On hardware the
    /// write itself would fault, as the RMP has the page in use; here other VPs may
    /// still have it mapped.
    fn unwritten(&self) -> Result<(), End> {
        if self.vm.vps.len() == 1 {
            return Ok(());
        }
        let gfn = self.vp.ctx[LOWER].vmsa_gfn;
        let mut page = [0; STATE];
        self.vm.ram.read(gfn << 12, &mut page);
        let own = self.vp.vmsa.as_bytes().get(..STATE).unwrap_or_default();
        let event = core::mem::offset_of!(abi::snp::Vmsa, event_inj);
        let other = |range: core::ops::Range<usize>| page.get(range.clone()) != own.get(range);
        // The event is taken out of the copy at entry.
        if other(0..event) || other(event + 8..STATE) {
            return end!(
                Outcome::VmKilled,
                "VMSA {:#x} was written while VP {} used it",
                gfn << 12,
                self.vp.index
            );
        }
        Ok(())
    }

    /// An exit with the information that the processor gave.
    fn plain(&self, code: u64) -> Exit {
        let c = &self.vp.ctx[LOWER].vmcb.control;
        Exit {
            code,
            info1: c.exit_info1,
            info2: c.exit_info2,
            ..Exit::default()
        }
    }

    /// The same for an instruction of known bytes.
    fn instruction(&self, code: u64, opcode: &[u8]) -> Exit {
        let mut exit = self.plain(code);
        let rip = self.vp.ctx[LOWER].vmcb.save.rip;
        exit.next_rip = self
            .instruction_length(LOWER, opcode)
            .map_or(0, |l| rip.wrapping_add(l));
        exit
    }

    pub(super) fn lower_exit(&mut self, code: u64) -> Result<(), End> {
        match code {
            // The main loop decides whether VMPL0 must know.
            exit::INTR | exit::NMI => Ok(()),
            exit::MSR => self.lower_msr(),
            exit::CPUID => self.reflect(self.instruction(code, &[0x0f, 0xa2])),
            exit::HLT => {
                // An automatic exit: RIP is already behind.
                let len = self.instruction_length(LOWER, &[0xf4]).unwrap_or(1);
                self.vp.ctx[LOWER].advance(len);
                let mut exit = self.plain(code);
                exit.next_rip = self.vp.ctx[LOWER].vmcb.save.rip;
                self.reflect(exit)
            }
            exit::IOIO => {
                let mut exit = self.plain(code);
                exit.next_rip = exit.info2;
                self.stats().port(ioio::port(exit.info1));
                self.reflect(exit)
            }
            exit::VMMCALL => {
                let vmgexit =
                    rig::insn::vmmcall(&self.fetch4(LOWER)) == Some(rig::insn::Vmmcall::Vmgexit);
                if vmgexit {
                    self.vp.ctx[LOWER].advance(4);
                    return self.reflect(self.plain(exit::VMGEXIT));
                }
                self.reflect(self.instruction(code, &[0x0f, 0x01, 0xd9]))
            }
            exit::RDPMC => self.reflect(self.instruction(code, &[0x0f, 0x33])),
            exit::INVD => self.reflect(self.instruction(code, &[0x0f, 0x08])),
            exit::WBINVD => self.reflect(self.instruction(code, &[0x0f, 0x09])),
            exit::XSETBV => self.reflect(self.instruction(code, &[0x0f, 0x01, 0xd1])),
            exit::MONITOR => self.reflect(self.instruction(code, &[0x0f, 0x01, 0xc8])),
            exit::MWAIT => self.reflect(self.instruction(code, &[0x0f, 0x01, 0xc9])),
            exit::VMRUN..=exit::SKINIT | exit::INVLPGA | exit::ICEBP | exit::SHUTDOWN => {
                self.reflect(self.plain(code))
            }
            exit::NPF => self.lower_fault(),
            _ => end!(Outcome::RigFailure, "unexpected exit: {}", self.describe()),
        }
    }

    fn lower_msr(&mut self) -> Result<(), End> {
        let write = self.vp.ctx[LOWER].vmcb.control.exit_info1 & 1 != 0;
        let opcode: &[u8] = if write { &[0x0f, 0x30] } else { &[0x0f, 0x32] };
        let msr = self.vp.ctx[LOWER].regs.rcx as u32;
        self.stats().msr(msr);
        match self.native_msr(LOWER, write) {
            Some(Ok(())) => {
                let len = self.instruction_length(LOWER, opcode).unwrap_or(2);
                self.vp.ctx[LOWER].advance(len);
                Ok(())
            }
            Some(Err(())) => {
                self.raise(LOWER, GP, Some(0));
                Ok(())
            }
            None => self.reflect(self.instruction(exit::MSR, opcode)),
        }
    }

    fn lower_fault(&mut self) -> Result<(), End> {
        let (info, address) = (
            self.vp.ctx[LOWER].vmcb.control.exit_info1,
            self.vp.ctx[LOWER].vmcb.control.exit_info2,
        );
        let npt = self.vp.ctx[LOWER].npt;
        let (gpa, private) = npt.view.split(address);
        let access = if info & npf::FETCH != 0 {
            Access::Fetch
        } else if info & npf::WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        };
        let verdict = self
            .vm
            .rmp
            .borrow()
            .check(npt.vmpl, gpa >> 12, private, access);
        let private_only = access == Access::Fetch || info & npf::TABLE_WALK != 0;
        let bits = match verdict {
            Verdict::Allowed(_) | Verdict::Ciphertext if private || !private_only => {
                self.vp.ctx[LOWER].note_fault(address)?;
                return self.fill(LOWER, address);
            }
            Verdict::NoMemory => {
                self.stats().register(gpa);
                npf::RESERVED
            }
            Verdict::NotValidated => {
                let exit = Exit {
                    code: exit::PAGE_NOT_VALIDATED,
                    info1: info,
                    info2: address,
                    ..Exit::default()
                };
                return self.reflect(exit);
            }
            Verdict::Denied => npf::RMP | npf::VMPL,
            _ => npf::RMP,
        };
        let exit = Exit {
            code: exit::NPF,
            info1: info & !npf::RESERVED | bits,
            info2: address,
            ..Exit::default()
        };
        self.reflect(exit)
    }
}
