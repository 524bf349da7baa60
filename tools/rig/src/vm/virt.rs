//! Guest virtual memory as the processor itself reaches it: instruction fetch,
//! and the stack of an exception that is delivered in software.

use super::end::{End, end};
use super::{LOWER, Turn, UPPER};
use abi::record::Outcome;
use abi::svm::{attrib, event};
use rig::rmp::{Access, Verdict};
use rig::vc::{self, Interrupted};
use rig::walk::{self, Found, Paging};

impl Turn<'_> {
    fn paging(&self, index: usize) -> Paging {
        let s = &self.vp.ctx[index].vmcb.save;
        Paging {
            cr0: s.cr0,
            cr3: s.cr3,
            cr4: s.cr4,
            efer: s.efer,
        }
    }

    /// Page walk of a context. Tables are private memory that the level may read.
    pub(super) fn translate(&self, index: usize, gva: u64) -> Option<Found> {
        let npt = &self.vp.ctx[index].npt;
        let rmp = self.vm.rmp.borrow();
        walk::walk(self.paging(index), gva, |address, len| {
            let (gpa, private) = npt.view.split(address);
            match rmp.check(npt.vmpl, gpa >> 12, private, Access::Read) {
                Verdict::Allowed(_) if private => self.vm.ram.word(gpa, len),
                _ => None,
            }
        })
    }

    /// Reads guest virtual memory page by page; returns how many bytes could be
    /// read.
    pub(super) fn read_virtual(
        &self,
        index: usize,
        gva: u64,
        to: &mut [u8],
        access: Access,
    ) -> usize {
        let npt = &self.vp.ctx[index].npt;
        let mut done = 0;
        while done < to.len() {
            let at = gva.wrapping_add(done as u64);
            let Some(found) = self.translate(index, at) else {
                break;
            };
            let (gpa, private) = npt.view.split(found.gpa);
            let allowed = self
                .vm
                .rmp
                .borrow()
                .check(npt.vmpl, gpa >> 12, private, access);
            if !matches!(allowed, Verdict::Allowed(_)) {
                break;
            }
            let len = (to.len() - done).min(4096 - (at & 0xfff) as usize);
            if !to
                .get_mut(done..done + len)
                .is_some_and(|t| self.vm.ram.read(gpa, t))
            {
                break;
            }
            done += len;
        }
        done
    }

    /// Bytes of the instruction at RIP.
    pub(super) fn fetch<'a>(
        &self,
        index: usize,
        buffer: &'a mut [u8; rig::insn::MAX_LEN],
    ) -> &'a [u8] {
        let rip = self.vp.ctx[index].linear_rip();
        let len = self.read_virtual(index, rip, buffer, Access::Fetch);
        buffer.get(..len).unwrap_or_default()
    }

    /// The first four bytes at RIP: enough to name VMGEXIT and the SNP instructions.
    pub(super) fn fetch4(&self, index: usize) -> [u8; 4] {
        let mut bytes = [0; 4];
        self.read_virtual(
            index,
            self.vp.ctx[index].linear_rip(),
            &mut bytes,
            Access::Fetch,
        );
        bytes
    }

    /// Length of the instruction at RIP if it ends in `opcode`; decoded where
    /// prefixes come first.
    pub(super) fn instruction_length(&self, index: usize, opcode: &[u8]) -> Option<u64> {
        let mut buffer = [0; rig::insn::MAX_LEN];
        let rip = self.vp.ctx[index].linear_rip();
        // Nearly always there is no prefix and no page boundary.
        let short = buffer.get_mut(..opcode.len())?;
        if self.read_virtual(index, rip, short, Access::Fetch) == opcode.len() && short == opcode {
            return Some(opcode.len() as u64);
        }
        let bytes = self.fetch(index, &mut buffer);
        rig::insn::length(bytes, self.vp.ctx[index].bits())
    }

    /// Writes private memory of VMPL0 through its page tables.
    fn write_upper(&self, gva: u64, bytes: &[u8]) -> bool {
        let npt = &self.vp.ctx[UPPER].npt;
        bytes.iter().enumerate().all(|(i, byte)| {
            let Some(found) = self.translate(UPPER, gva.wrapping_add(i as u64)) else {
                return false;
            };
            let (gpa, private) = npt.view.split(found.gpa);
            let allowed = self
                .vm
                .rmp
                .borrow()
                .check(0, gpa >> 12, private, Access::Write);
            found.writable
                && matches!(allowed, Verdict::Allowed(_))
                && self.vm.ram.write(gpa, &[*byte])
        })
    }

    /// Raises `#VC` in VMPL0.
    pub(super) fn raise_vc(&mut self, code: u64) -> Result<(), End> {
        // TR lies behind VMSAVE.
        self.sync(UPPER);
        let save = &self.vp.ctx[UPPER].vmcb.save;
        let at = Interrupted {
            rip: save.rip,
            cs: save.cs.selector,
            rflags: save.rflags,
            rsp: save.rsp,
            ss: save.ss.selector,
        };
        let (idt, tss) = (save.idtr, save.tr.base);
        let vector = u64::from(abi::snp::VC_VECTOR);
        let fail = |what: &str| -> Result<(), End> {
            end!(
                Outcome::VmKilled,
                "#VC {code:#x} at rip {:#x} cannot be delivered ({what}): {}",
                at.rip,
                self.describe()
            )
        };
        let mut raw = [0u8; 16];
        if vector * 16 + 15 > u64::from(idt.limit)
            || self.read_virtual(UPPER, idt.base + vector * 16, &mut raw, Access::Read) != 16
        {
            return fail("no IDT entry");
        }
        let Some(gate) = vc::gate(&raw) else {
            return fail("gate not present");
        };
        let mut stack = at.rsp;
        if gate.ist != 0 {
            let mut ist = [0u8; 8];
            if self.read_virtual(
                UPPER,
                tss + vc::ist_offset(gate.ist),
                &mut ist,
                Access::Read,
            ) != 8
            {
                return fail("no TSS");
            }
            stack = u64::from_le_bytes(ist);
        }
        let (frame, rsp, rflags) = vc::frame(gate, stack, at, code);
        if !self.write_upper(rsp, &frame) {
            return fail("stack not writable");
        }
        let save = &mut self.vp.ctx[UPPER].vmcb.save;
        save.rip = gate.offset;
        save.rsp = rsp;
        save.rflags = rflags;
        save.cs.selector = gate.selector;
        save.cs.attrib = attrib::CODE64;
        self.vp.ctx[UPPER].vmcb.control.interrupt_shadow = 0;
        Ok(())
    }

    /// Raises another exception, with an error code if it has one.
    pub(super) fn raise(&mut self, index: usize, vector: u8, code: Option<u32>) {
        self.vp.ctx[index].vmcb.control.event_inj = match code {
            Some(code) => event::exception_with_code(vector, code),
            None => event::exception(vector),
        };
    }

    /// RDMSR/WRMSR that the rig answers for both levels. `Some(Ok)`: done and
    /// stepped over; `Some(Err)`: raise `#GP`; `None`: not one of these.
    pub(super) fn native_msr(&mut self, index: usize, write: bool) -> Option<Result<(), ()>> {
        let features = match index {
            LOWER => self.vp.vmsa.sev_features,
            _ => abi::snp::SevFeatures::SNP.bits(),
        };
        let ctx = &mut self.vp.ctx[index];
        let save = &mut ctx.vmcb.save;
        let msr = ctx.regs.rcx as u32;
        let value = (save.rax & 0xffff_ffff) | ctx.regs.rdx << 32;
        let svme = abi::svm::msr::EFER_SVME;
        let read = match (msr, write) {
            (abi::svm::msr::EFER, false) if index == LOWER => save.efer & !svme,
            (abi::svm::msr::EFER, false) => save.efer,
            (abi::svm::msr::EFER, true) => {
                // LMA follows CR0.PG by the processor; SVME stays set.
                const KNOWN: u64 =
                    0x1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15;
                let lme_while_paging =
                    (value ^ save.efer) & (1 << 8) != 0 && save.cr0 & (1 << 31) != 0;
                if value & !KNOWN != 0 || lme_while_paging {
                    return Some(Err(()));
                }
                let lma = 1 << 10;
                save.efer = (value & !lma) | (save.efer & lma) | svme;
                0
            }
            (abi::snp::MSR_SEV_STATUS, false) => features << 2 | 3,
            (abi::snp::MSR_SEV_STATUS, true) => return Some(Err(())),
            (abi::snp::MSR_GHCB, false) => ctx.ghcb_msr,
            (abi::snp::MSR_GHCB, true) => {
                ctx.ghcb_msr = value;
                0
            }
            (0x277, false) => save.pat,
            (0x277, true) => {
                save.pat = value;
                0
            }
            _ => return None,
        };
        if !write {
            save.rax = read & 0xffff_ffff;
            ctx.regs.rdx = read >> 32;
        }
        Some(Ok(()))
    }
}
