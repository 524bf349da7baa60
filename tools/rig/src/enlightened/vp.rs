//! The guest's registers between two entries, as the code that answers its exits
//! (shared with the paravisor) wants to see them.

use crate::metal::svm;
use crate::vm::context::Context;
use abi::svm::{attrib, event, msr::EFER_SVME, vintr};
use platform::{Reg, Registers, Seg, Segment};

/// One virtual processor.
pub struct Vp {
    /// VMCB, registers and nested tables.
    pub ctx: Context,
    /// RIP behind the instruction that exited.
    pub next_rip: u64,
}

impl Vp {
    /// The place of a register that is in memory between two entries.
    fn register(&mut self, reg: Reg) -> Option<&mut u64> {
        let (save, regs) = (&mut self.ctx.vmcb.save, &mut self.ctx.regs);
        Some(match reg {
            Reg::Rax => &mut save.rax,
            Reg::Rcx => &mut regs.rcx,
            Reg::Rdx => &mut regs.rdx,
            Reg::Rbx => &mut regs.rbx,
            Reg::Rsp => &mut save.rsp,
            Reg::Rbp => &mut regs.rbp,
            Reg::Rsi => &mut regs.rsi,
            Reg::Rdi => &mut regs.rdi,
            Reg::R8 => &mut regs.r8,
            Reg::R9 => &mut regs.r9,
            Reg::R10 => &mut regs.r10,
            Reg::R11 => &mut regs.r11,
            Reg::R12 => &mut regs.r12,
            Reg::R13 => &mut regs.r13,
            Reg::R14 => &mut regs.r14,
            Reg::R15 => &mut regs.r15,
            Reg::Rip => &mut save.rip,
            Reg::Rflags => &mut save.rflags,
            Reg::Cr0 => &mut save.cr0,
            Reg::Cr2 => &mut save.cr2,
            Reg::Cr3 => &mut save.cr3,
            Reg::Cr4 => &mut save.cr4,
            Reg::Efer => &mut save.efer,
            Reg::Pat => &mut save.pat,
            // The guest has these to itself, in the processor.
            _ => return None,
        })
    }
}

impl Registers for Vp {
    fn get(&self, reg: Reg) -> u64 {
        let (save, regs) = (&self.ctx.vmcb.save, &self.ctx.regs);
        match reg {
            Reg::Rax => save.rax,
            Reg::Rcx => regs.rcx,
            Reg::Rdx => regs.rdx,
            Reg::Rbx => regs.rbx,
            Reg::Rsp => save.rsp,
            Reg::Rbp => regs.rbp,
            Reg::Rsi => regs.rsi,
            Reg::Rdi => regs.rdi,
            Reg::R8 => regs.r8,
            Reg::R9 => regs.r9,
            Reg::R10 => regs.r10,
            Reg::R11 => regs.r11,
            Reg::R12 => regs.r12,
            Reg::R13 => regs.r13,
            Reg::R14 => regs.r14,
            Reg::R15 => regs.r15,
            Reg::Rip => save.rip,
            Reg::Rflags => save.rflags,
            Reg::Cr0 => save.cr0,
            Reg::Cr2 => save.cr2,
            Reg::Cr3 => save.cr3,
            Reg::Cr4 => save.cr4,
            // The processor insists on SVME in a VMCB; the guest has no SVM.
            Reg::Efer => save.efer & !EFER_SVME,
            Reg::Xcr0 => svm::xcr0(),
            Reg::Pat => save.pat,
            _ => 0,
        }
    }

    fn set(&mut self, reg: Reg, value: u64) {
        let value = if reg == Reg::Efer {
            value | EFER_SVME
        } else {
            value
        };
        if let Some(place) = self.register(reg) {
            *place = value;
        }
    }

    fn segment(&self, seg: Seg) -> Segment {
        let save = &self.ctx.vmcb.save;
        let s = match seg {
            Seg::Es => &save.es,
            Seg::Cs => &save.cs,
            Seg::Ss => &save.ss,
            Seg::Ds => &save.ds,
            Seg::Fs => &save.fs,
            Seg::Gs => &save.gs,
        };
        Segment {
            selector: s.selector,
            base: s.base,
            limit: s.limit,
            long: s.attrib & attrib::LONG != 0,
            big: s.attrib & attrib::DEFAULT_BIG != 0,
        }
    }

    fn cpl(&self) -> u8 {
        self.ctx.vmcb.save.cpl & 3
    }

    fn next_rip(&self) -> u64 {
        self.next_rip
    }

    fn offer_interrupt(&mut self, vector: Option<u8>) {
        if let Some(vector) = vector {
            self.ctx.offer(vector);
        }
    }

    fn interrupt_offered(&self) -> bool {
        false
    }

    fn task_priority(&self) -> u8 {
        (self.ctx.vmcb.control.vintr & 0xf) as u8
    }

    fn set_task_priority(&mut self, class: u8) {
        let word = &mut self.ctx.vmcb.control.vintr;
        *word = *word & !vintr::TPR_MASK | u64::from(class & 0xf);
    }

    fn raise(&mut self, vector: u8, error_code: Option<u32>) {
        self.ctx.vmcb.control.event_inj = match error_code {
            Some(code) => event::exception_with_code(vector, code),
            None => event::exception(vector),
        };
    }

    fn inject_nmi(&mut self) {
        if !self.event_pending() {
            self.ctx.vmcb.control.event_inj = event::VALID | event::TYPE_NMI | 2;
        }
    }

    fn event_pending(&self) -> bool {
        self.ctx.vmcb.control.event_inj & event::VALID != 0
    }

    fn clear_interrupt_shadow(&mut self) {
        self.ctx.vmcb.control.interrupt_shadow &= !1;
    }

    fn interrupts_enabled(&self) -> bool {
        self.ctx.interruptible()
    }
}
