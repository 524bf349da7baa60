//! One privilege level of the VM as the processor runs it: a VMCB, the registers
//! beside it and its nested tables.

use super::end::{End, end};
use crate::metal::memory::Frames;
use crate::metal::svm;
use abi::record::Outcome;
use abi::svm::{Vmcb, event, intercept1, intercept2, vintr};
use alloc::boxed::Box;
use rig::npt::{Npt, Tables, View};
use rig::vmsa::Regs;
use zerocopy::FromZeros;

/// MSRs that both levels use natively, without the rig: syscall and sysenter
/// entry points, segment bases, TSC_AUX, XSS, SPEC_CTRL, PRED_CMD.
const NATIVE_MSRS: [u32; 14] = [
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0x174,
    0x175,
    0x176,
    0xda0,
    0x48,
    0x49,
];

/// Faults in a row at one place until it counts as one that never goes away. Another
/// VP may take the same page away time and again.
const FAULTS_MOST: u32 = 10_000;

/// A privilege level.
pub struct Context {
    /// Control block.
    pub vmcb: Box<Vmcb>,
    /// Registers that VMRUN leaves alone.
    pub regs: Regs,
    /// Nested tables.
    pub npt: Npt,
    /// Guest frame of its VMSA.
    pub vmsa_gfn: u64,
    /// Value of its GHCB MSR.
    pub ghcb_msr: u64,
    /// Interrupt that the processor may deliver by itself.
    offered: Option<u8>,
    /// The last nested page fault and how often it came in a row.
    pub last_fault: (u64, u64, u32),
}

/// One permission map for MSRs and I/O, shared by both levels.
pub struct Maps {
    iopm: u64,
    msrpm: u64,
}

impl Maps {
    /// Everything intercepted except [`NATIVE_MSRS`].
    pub fn new(frames: &mut Frames) -> Option<Maps> {
        let iopm = frames.take(3)?;
        let msrpm = frames.take(2)?;
        let all = |frames: &mut Frames, at: u64, pages: u64| {
            for page in 0..pages {
                for i in 0..512 {
                    frames.set(at + page * 4096, i, u64::MAX);
                }
            }
        };
        all(frames, iopm, 3);
        all(frames, msrpm, 2);
        for msr in NATIVE_MSRS {
            // Two bits per MSR (read, write), 2 KiB per range.
            let (range, first) = if msr >= 0xc000_0000 {
                (0x800, 0xc000_0000)
            } else {
                (0, 0)
            };
            let bit = u64::from(msr - first) * 2;
            let byte = range + bit / 8;
            let (table, index) = (msrpm + (byte & !0xfff), ((byte & 0xfff) / 8) as usize);
            let shift = (byte % 8) * 8 + bit % 8;
            let word = frames.get(table, index);
            frames.set(table, index, word & !(3 << shift));
        }
        Some(Maps { iopm, msrpm })
    }
}

impl Context {
    /// A context with nested tables of its own.
    pub fn new(
        vmpl: usize,
        view: View,
        maps: &Maps,
        memory: u64,
        noise: u64,
        frames: &mut Frames,
    ) -> Option<Context> {
        let npt = Npt {
            root: frames.take(1)?,
            vmpl,
            view,
            memory,
            noise,
        };
        Context::over(npt, maps)
    }

    /// A context that stops wherever the level above or the host must look.
    pub fn over(npt: Npt, maps: &Maps) -> Option<Context> {
        let vmpl = npt.vmpl;
        let mut vmcb = Vmcb::new_box_zeroed().ok()?;
        let c = &mut vmcb.control;
        c.intercept_misc1 = intercept1::INTR
            | intercept1::NMI
            | intercept1::CPUID
            | intercept1::HLT
            | intercept1::INVLPGA
            | intercept1::IOIO
            | intercept1::MSR
            | intercept1::SHUTDOWN;
        c.intercept_misc2 = intercept2::VMRUN
            | intercept2::VMMCALL
            | intercept2::VMLOAD
            | intercept2::VMSAVE
            | intercept2::STGI
            | intercept2::CLGI
            | intercept2::SKINIT
            | intercept2::MONITOR
            | intercept2::MWAIT;
        if vmpl == 0 {
            // The SNP instructions are undefined on the processor below.
            c.intercept_exceptions = 1 << 6;
        } else {
            c.intercept_misc1 |= intercept1::RDPMC | intercept1::INVD;
            c.intercept_misc2 |= intercept2::ICEBP | intercept2::WBINVD;
        }
        c.iopm_base = maps.iopm;
        c.msrpm_base = maps.msrpm;
        c.asid = 1 + vmpl as u32;
        c.vintr = vintr::V_INTR_MASKING;
        c.nested_control = 1;
        c.nested_cr3 = npt.root;
        Some(Context {
            vmcb,
            regs: Regs::default(),
            npt,
            vmsa_gfn: 0,
            ghcb_msr: 0,
            offered: None,
            last_fault: (0, 0, 0),
        })
    }

    /// Runs until the next exit. Events to inject were put into the VMCB.
    pub fn run(&mut self, load: bool) {
        svm::run(&mut self.vmcb, &mut self.regs, load);
    }

    /// Whether an interrupt could be taken now.
    pub fn interruptible(&self) -> bool {
        self.vmcb.save.rflags & (1 << 9) != 0 && self.vmcb.control.interrupt_shadow & 1 == 0
    }

    /// Lets the processor deliver an interrupt as soon as it can be taken, without
    /// an exit before.
    pub fn offer(&mut self, vector: u8) {
        let c = &mut self.vmcb.control;
        c.vintr = (c.vintr & vintr::TPR_MASK)
            | vintr::V_INTR_MASKING
            | vintr::V_IRQ
            | vintr::IGNORE_TPR
            | vintr::PRIORITY_MASK
            | u64::from(vector) << vintr::VECTOR_SHIFT;
        self.offered = Some(vector);
    }

    /// Takes the offer back after an exit. The vector, if it was delivered.
    ///
    /// A fault during the delivery leaves it in EXITINTINFO (as an exception, in
    /// QEMU) and V_IRQ set: then nothing was delivered, and it is offered again.
    pub fn settle(&mut self) -> Option<u8> {
        let c = &mut self.vmcb.control;
        let pending = c.vintr & vintr::V_IRQ != 0;
        c.vintr = (c.vintr & vintr::TPR_MASK) | vintr::V_INTR_MASKING;
        let vector = self.offered.take()?;
        if !pending {
            return Some(vector);
        }
        if c.exit_int_info & event::VALID != 0
            && c.exit_int_info & event::VECTOR_MASK == u64::from(vector)
        {
            c.exit_int_info = 0;
        }
        None
    }

    /// An event whose delivery the last exit interrupted and which must be
    /// delivered again. Software interrupts are executed again instead.
    pub fn interrupted_event(&self) -> u64 {
        let info = self.vmcb.control.exit_int_info;
        if info & event::VALID == 0 {
            return 0;
        }
        match (info & event::TYPE_MASK, info & event::VECTOR_MASK) {
            (event::TYPE_SOFTWARE, _) | (event::TYPE_EXCEPTION, 3 | 4) => 0,
            _ => info,
        }
    }

    /// Steps over an instruction.
    pub fn advance(&mut self, len: u64) {
        let s = &mut self.vmcb.save;
        s.rip = s.rip.wrapping_add(len);
        self.vmcb.control.interrupt_shadow &= !1;
    }

    /// Operand size of the code that runs.
    pub fn bits(&self) -> u32 {
        let cs = self.vmcb.save.cs.attrib;
        if self.vmcb.save.efer & (1 << 10) != 0 && cs & abi::svm::attrib::LONG != 0 {
            64
        } else if cs & abi::svm::attrib::DEFAULT_BIG != 0 {
            32
        } else {
            16
        }
    }

    /// RIP as a linear address.
    pub fn linear_rip(&self) -> u64 {
        let s = &self.vmcb.save;
        if self.bits() == 64 {
            s.rip
        } else {
            s.cs.base.wrapping_add(s.rip) & 0xffff_ffff
        }
    }

    /// An exit for another reason than a nested fault: the last one went away.
    pub fn moved_on(&mut self) {
        self.last_fault = (0, 0, 0);
    }

    /// Watches for a fault that never goes away.
    pub fn note_fault(&mut self, address: u64) -> Result<(), End> {
        let rip = self.vmcb.save.rip;
        let (last_rip, last_address, n) = self.last_fault;
        let n = if (last_rip, last_address) == (rip, address) {
            n + 1
        } else {
            0
        };
        self.last_fault = (rip, address, n);
        if n > FAULTS_MOST {
            return end!(
                Outcome::RigFailure,
                "nested fault does not go away: VMPL{} rip {:#x} address {:#x} info {:#x}",
                self.npt.vmpl,
                rip,
                address,
                self.vmcb.control.exit_info1
            );
        }
        Ok(())
    }
}
