//! The guest's VMSA: registers, what its exit fields mean, event injection.
//!
//! With alternate injection the processor takes `EVENTINJ` and `VINTR_CTRL` from
//! this page and writes back, of the latter, V_TPR, V_IRQ, V_NMI and the
//! interrupt shadow only. The loop of one entry is [`VmplState::before_entry`],
//! the entry, [`VmplState::after_exit`] (APM volume 2, 15.36; the order is that of
//! OpenVMM `virt_mshv_vtl/src/processor/snp`).

use super::GUEST_VMPL;
use crate::{BootState, Exit, IoAccess, Reg, Registers, Seg, Segment, StringIo};
use abi::snp::{SevFeatures, SevStatus, Vmsa, attrib, event, exit, npf, reset, vintr};
use abi::svm::{self, MSR_INFO_WRITE, ioio};
use zerocopy::FromZeros;

/// From this address on the guest's memory would be shared (vTOM; whole 2 MiB). It
/// is above every address that a page table entry can hold but the last 2 MiB of 52
/// bits, so the guest can name no shared page: neither the paravisor's rings and
/// slots nor any of its own. It has no use for one, its devices being the paravisor's.
const VTOM: u64 = (1 << 52) - (2 << 20);

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NX: u64 = 1 << 11;
const EFER_SVME: u64 = 1 << 12;
const RFLAGS_IF: u64 = 1 << 9;

/// Bits of SEV_FEATURES that the guest gets because VMPL0 has them: host
/// hardening that is the same for all levels.
const INHERITED: SevFeatures = SevFeatures::DEBUG_SWAP
    .union(SevFeatures::PREVENT_HOST_IBS)
    .union(SevFeatures::BTB_ISOLATION)
    .union(SevFeatures::IBPB_ON_ENTRY);

/// What the first state of another VP of the paravisor's is made of; everything that
/// it does not name is as the image has it for the first VP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperState {
    /// First instruction.
    pub rip: u64,
    /// Stack.
    pub rsp: u64,
    /// First argument.
    pub rdi: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// Control registers, as the first VP has them now.
    pub cr0: u64,
    /// See `cr0`.
    pub cr3: u64,
    /// See `cr0`.
    pub cr4: u64,
    /// GDT with the two selectors.
    pub gdt_base: u64,
    /// Its limit.
    pub gdt_limit: u16,
    /// Flat 64-bit code.
    pub code_selector: u16,
    /// Flat data.
    pub data_selector: u16,
}

impl UpperState {
    /// Writes the state into a page; `status` is the first VP's SEV_STATUS, whose
    /// features are to be on for all.
    pub(super) fn fill(&self, page: &mut Vmsa, status: SevStatus) {
        let code = segment(self.code_selector, attrib::CODE64);
        let data = segment(self.data_selector, attrib::DATA);
        anew(page, code, data);
        page.gs.base = self.gs_base;
        page.gdtr.base = self.gdt_base;
        page.gdtr.limit = self.gdt_limit.into();
        page.tr.attrib = attrib::TSS64_BUSY;
        page.tr.limit = 0xffff;
        page.vmpl = 0;
        page.efer = EFER_SVME | EFER_LMA | EFER_LME | EFER_NX;
        page.cr0 = self.cr0;
        page.cr3 = self.cr3;
        page.cr4 = self.cr4;
        page.rip = self.rip;
        page.rsp = self.rsp;
        page.rdi = self.rdi;
        // Bits 2 to 23 of SEV_STATUS are SEV_FEATURES (APM volume 2, 15.34.10).
        let features = SevFeatures::from_bits_truncate(status.bits() >> 2);
        page.sev_features = (SevFeatures::SNP | features).bits();
    }
}

/// The guest's registers between two entries.
pub struct VmplState<'a> {
    page: &'a mut Vmsa,
}

fn segment(selector: u16, attrib: u16) -> svm::Segment {
    svm::Segment {
        selector,
        attrib,
        limit: 0xffff_ffff,
        base: 0,
    }
}

/// A page as after a reset, with these segments; the rest is zero.
fn anew(page: &mut Vmsa, code: svm::Segment, data: svm::Segment) {
    page.zero();
    page.cs = code;
    page.ss = data;
    page.ds = data;
    page.es = data;
    page.fs = data;
    page.gs = data;
    page.dr6 = reset::DR6;
    page.dr7 = reset::DR7;
    page.rflags = reset::RFLAGS;
    page.pat = reset::PAT;
    page.xcr0 = reset::XCR0;
    page.mxcsr = reset::MXCSR;
    page.x87_fcw = reset::X87_FCW;
    page.x87_ftw = reset::X87_FTW;
}

/// Splits IOIO information. `None` for a width that does not exist.
fn io_access(info1: u64) -> Option<IoAccess> {
    let size = ioio::width(info1);
    if size == 0 {
        return None;
    }
    let string = (info1 & ioio::STRING != 0).then_some(StringIo {
        rep: info1 & ioio::REP != 0,
        address_size: match info1 >> 7 & 7 {
            1 => 2,
            2 => 4,
            _ => 8,
        },
        segment: (info1 >> 10 & 7) as u8,
    });
    Some(IoAccess {
        port: ioio::port(info1),
        size,
        input: info1 & ioio::IN != 0,
        string,
    })
}

/// Last of the 32 exit codes of intercepted exceptions.
const LAST_EXCEPTION: u64 = exit::EXCEPTION + 31;

/// Whether an exception of the guest's own brings an error code (APM volume 2, table
/// 8-1). `None` for what cannot be injected under alternate injection (#BP, #OF), and
/// for what no instruction of a guest raises: NMI, #MC, the exceptions between guest
/// and hypervisor, and vectors that are reserved.
fn exception_error(vector: u8) -> Option<bool> {
    match vector {
        0 | 1 | 5..=7 | 16 | 19 => Some(false),
        8 | 10..=14 | 17 | 21 => Some(true),
        _ => None,
    }
}

/// What an exit code with its details means.
pub fn decode(code: u64, info1: u64, info2: u64) -> Exit {
    let unknown = Exit::Unknown { code, info1, info2 };
    match code {
        exit::CPUID => Exit::Cpuid,
        exit::IOIO => io_access(info1).map_or(unknown, Exit::Io),
        exit::MSR if info1 == MSR_INFO_WRITE => Exit::WriteMsr,
        exit::MSR if info1 == 0 => Exit::ReadMsr,
        exit::NPF if info1 & npf::NOT_RESTARTABLE == 0 => Exit::Mmio {
            gpa: info2,
            write: info1 & npf::WRITE != 0,
            fetch: info1 & npf::FETCH != 0,
        },
        exit::HLT | exit::IDLE_HLT => Exit::Halt,
        exit::INTR | exit::NMI | exit::VINTR => Exit::Interrupted,
        exit::VMMCALL => Exit::Hypercall,
        exit::SHUTDOWN => Exit::Shutdown,
        exit::EXCEPTION..=LAST_EXCEPTION => {
            let vector = (code & 0x1f) as u8;
            match exception_error(vector) {
                Some(has_code) => Exit::Exception {
                    vector,
                    error: has_code.then_some(info1 as u32),
                    address: info2,
                },
                None => unknown,
            }
        }
        exit::XSETBV => Exit::Xsetbv,
        exit::RDPMC => Exit::Rdpmc,
        exit::WBINVD | exit::INVD => Exit::CacheFlush,
        exit::PAUSE => Exit::Nothing,
        exit::MONITOR
        | exit::MWAIT
        | exit::MWAIT_ARMED
        | exit::INVLPGB
        | exit::INVLPGB_ILLEGAL
        | exit::INVLPGA
        | exit::TLBSYNC
        | exit::VMRUN
        | exit::VMLOAD
        | exit::VMSAVE
        | exit::STGI
        | exit::CLGI
        | exit::SKINIT
        | exit::RDPRU
        | exit::MCOMMIT
        | exit::VMGEXIT => Exit::Undefined,
        exit::INVALID | exit::BUSY => Exit::EntryRefused { code },
        _ => unknown,
    }
}

impl<'a> VmplState<'a> {
    pub(super) fn new(page: &'a mut Vmsa) -> Self {
        page.zero();
        VmplState { page }
    }

    pub(super) fn page(&mut self) -> &mut Vmsa {
        self.page
    }

    /// Gives the page to the processor.
    pub(super) fn before_entry(&mut self) {
        self.page.vintr_ctrl &= !vintr::BUSY;
    }

    /// Reads the exit, once, and prepares the next entry: an event whose delivery
    /// was interrupted is injected again, except those that the instruction
    /// raises again by itself (software interrupts, #BP, #OF).
    pub(super) fn after_exit(&mut self) -> Exit {
        let page = &mut *self.page;
        page.event_inj = 0;
        let interrupted = page.guest_exitintinfo;
        page.guest_exitintinfo = 0;
        if interrupted & event::VALID != 0 {
            let kind = interrupted & event::TYPE_MASK;
            let vector = interrupted & event::VECTOR_MASK;
            let by_instruction = kind == event::TYPE_SOFTWARE
                || kind == event::TYPE_EXCEPTION && matches!(vector, 3 | 4);
            if !by_instruction {
                let code = if interrupted & event::ERROR_CODE_VALID != 0 {
                    interrupted >> event::ERROR_CODE_SHIFT << event::ERROR_CODE_SHIFT
                } else {
                    0
                };
                let keep = event::VECTOR_MASK | event::TYPE_MASK | event::ERROR_CODE_VALID;
                page.event_inj = interrupted & keep | code | event::VALID;
            }
        }
        let exit = decode(
            page.guest_exitcode,
            page.guest_exitinfo1,
            page.guest_exitinfo2,
        );
        // So that the same exit is not handled twice should the next entry come
        // back without having run.
        page.guest_exitcode = exit::INTR;
        exit
    }

    /// The state of [`BootState`] and everything else as after reset.
    pub(super) fn reset(&mut self, state: &BootState, status: SevStatus) {
        let page = &mut *self.page;
        let code = segment(state.code_selector, attrib::CODE64);
        let data = segment(state.data_selector, attrib::DATA);
        anew(page, code, data);
        page.gdtr.base = state.gdt_base;
        page.gdtr.limit = state.gdt_limit.into();
        page.tr.attrib = attrib::TSS64_BUSY;
        page.tr.limit = 0xffff;
        page.ldtr.attrib = attrib::LDT;
        page.ldtr.limit = 0xffff;
        page.efer = EFER_SVME | EFER_LMA | EFER_LME | EFER_NX;
        page.cr0 = CR0_PG | CR0_NE | CR0_ET | CR0_PE;
        page.cr3 = state.cr3;
        page.cr4 = CR4_PAE;
        page.rip = state.rip;
        page.rsi = state.rsi;
        self.finish_reset(status);
    }

    /// The state after INIT and a SIPI (APM volume 2, 14.1.3 and 15.27.8): real mode, CS
    /// at the page whose number the message had.
    pub(super) fn reset_to_real_mode(&mut self, start: u8, status: SevStatus) {
        let page = &mut *self.page;
        let data = svm::Segment {
            selector: 0,
            attrib: attrib::REAL_DATA,
            limit: 0xffff,
            base: 0,
        };
        let code = svm::Segment {
            selector: u16::from(start) << 8,
            attrib: attrib::REAL_CODE,
            limit: 0xffff,
            base: u64::from(start) << 12,
        };
        anew(page, code, data);
        page.gdtr.limit = 0xffff;
        page.idtr.limit = 0xffff;
        page.tr.attrib = attrib::TSS16_BUSY;
        page.tr.limit = 0xffff;
        page.ldtr.attrib = attrib::LDT;
        page.ldtr.limit = 0xffff;
        page.efer = EFER_SVME;
        page.cr0 = CR0_ET;
        self.finish_reset(status);
    }

    /// What is alike in the guest after each kind of reset.
    fn finish_reset(&mut self, status: SevStatus) {
        let page = &mut *self.page;
        page.vmpl = GUEST_VMPL;
        let inherited = SevFeatures::from_bits_truncate(status.bits() >> 2) & INHERITED;
        page.sev_features = (SevFeatures::SNP
            | SevFeatures::VTOM
            | SevFeatures::REFLECT_VC
            | SevFeatures::ALTERNATE_INJECTION
            | inherited)
            .bits();
        page.virtual_tom = VTOM;
        page.vintr_ctrl = vintr::BUSY;
        page.guest_exitcode = exit::INTR;
    }

    fn register(&mut self, reg: Reg) -> &mut u64 {
        let page = &mut *self.page;
        match reg {
            Reg::Rax => &mut page.rax,
            Reg::Rcx => &mut page.rcx,
            Reg::Rdx => &mut page.rdx,
            Reg::Rbx => &mut page.rbx,
            Reg::Rsp => &mut page.rsp,
            Reg::Rbp => &mut page.rbp,
            Reg::Rsi => &mut page.rsi,
            Reg::Rdi => &mut page.rdi,
            Reg::R8 => &mut page.r8,
            Reg::R9 => &mut page.r9,
            Reg::R10 => &mut page.r10,
            Reg::R11 => &mut page.r11,
            Reg::R12 => &mut page.r12,
            Reg::R13 => &mut page.r13,
            Reg::R14 => &mut page.r14,
            Reg::R15 => &mut page.r15,
            Reg::Rip => &mut page.rip,
            Reg::Rflags => &mut page.rflags,
            Reg::Cr0 => &mut page.cr0,
            Reg::Cr2 => &mut page.cr2,
            Reg::Cr3 => &mut page.cr3,
            Reg::Cr4 => &mut page.cr4,
            Reg::Efer => &mut page.efer,
            Reg::Xcr0 => &mut page.xcr0,
            Reg::Pat => &mut page.pat,
            Reg::Xss => &mut page.xss,
            Reg::Star => &mut page.star,
            Reg::Lstar => &mut page.lstar,
            Reg::Cstar => &mut page.cstar,
            Reg::Sfmask => &mut page.sfmask,
            Reg::KernelGsBase => &mut page.kernel_gs_base,
            Reg::SysenterCs => &mut page.sysenter_cs,
            Reg::SysenterEsp => &mut page.sysenter_esp,
            Reg::SysenterEip => &mut page.sysenter_eip,
            Reg::SpecCtrl => &mut page.spec_ctrl,
            Reg::Debugctl => &mut page.debugctl,
        }
    }
}

impl Registers for VmplState<'_> {
    fn get(&self, reg: Reg) -> u64 {
        let page = &*self.page;
        match reg {
            Reg::Rax => page.rax,
            Reg::Rcx => page.rcx,
            Reg::Rdx => page.rdx,
            Reg::Rbx => page.rbx,
            Reg::Rsp => page.rsp,
            Reg::Rbp => page.rbp,
            Reg::Rsi => page.rsi,
            Reg::Rdi => page.rdi,
            Reg::R8 => page.r8,
            Reg::R9 => page.r9,
            Reg::R10 => page.r10,
            Reg::R11 => page.r11,
            Reg::R12 => page.r12,
            Reg::R13 => page.r13,
            Reg::R14 => page.r14,
            Reg::R15 => page.r15,
            Reg::Rip => page.rip,
            Reg::Rflags => page.rflags,
            Reg::Cr0 => page.cr0,
            Reg::Cr2 => page.cr2,
            Reg::Cr3 => page.cr3,
            Reg::Cr4 => page.cr4,
            // The processor insists on SVME in a VMSA; the guest has no SVM.
            Reg::Efer => page.efer & !EFER_SVME,
            Reg::Xcr0 => page.xcr0,
            Reg::Pat => page.pat,
            Reg::Xss => page.xss,
            Reg::Star => page.star,
            Reg::Lstar => page.lstar,
            Reg::Cstar => page.cstar,
            Reg::Sfmask => page.sfmask,
            Reg::KernelGsBase => page.kernel_gs_base,
            Reg::SysenterCs => page.sysenter_cs,
            Reg::SysenterEsp => page.sysenter_esp,
            Reg::SysenterEip => page.sysenter_eip,
            Reg::SpecCtrl => page.spec_ctrl,
            Reg::Debugctl => page.debugctl,
        }
    }

    fn set(&mut self, reg: Reg, value: u64) {
        let value = if reg == Reg::Efer {
            value | EFER_SVME
        } else {
            value
        };
        *self.register(reg) = value;
    }

    fn segment(&self, seg: Seg) -> Segment {
        let s = match seg {
            Seg::Es => &self.page.es,
            Seg::Cs => &self.page.cs,
            Seg::Ss => &self.page.ss,
            Seg::Ds => &self.page.ds,
            Seg::Fs => &self.page.fs,
            Seg::Gs => &self.page.gs,
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
        self.page.cpl & 3
    }

    fn next_rip(&self) -> u64 {
        self.page.guest_nrip
    }

    fn offer_interrupt(&mut self, vector: Option<u8>) {
        let word = &mut self.page.vintr_ctrl;
        *word &= !(vintr::V_IRQ | vintr::VECTOR_MASK | vintr::PRIORITY_MASK | vintr::IGNORE_TPR);
        if let Some(vector) = vector {
            // The processor compares with V_TPR, which the guest can change by CR8
            // without an exit.
            *word |= vintr::pending(vector) & !vintr::IGNORE_TPR;
        }
    }

    fn task_priority(&self) -> u8 {
        (self.page.vintr_ctrl & 0xf) as u8
    }

    fn set_task_priority(&mut self, class: u8) {
        let word = &mut self.page.vintr_ctrl;
        *word = *word & !vintr::TPR_MASK | u64::from(class & 0xf);
    }

    fn interrupt_offered(&self) -> bool {
        self.page.vintr_ctrl & vintr::V_IRQ != 0
    }

    fn raise(&mut self, vector: u8, error_code: Option<u32>) {
        self.page.event_inj = match error_code {
            Some(code) => event::exception_with_code(vector, code),
            None => event::exception(vector),
        };
    }

    fn inject_nmi(&mut self) {
        if !self.event_pending() {
            self.page.event_inj = event::VALID | event::TYPE_NMI | 2;
        }
    }

    fn event_pending(&self) -> bool {
        self.page.event_inj & event::VALID != 0
    }

    fn clear_interrupt_shadow(&mut self) {
        self.page.vintr_ctrl &= !vintr::INT_SHADOW;
    }

    fn interrupts_enabled(&self) -> bool {
        self.page.rflags & RFLAGS_IF != 0 && self.page.vintr_ctrl & vintr::INT_SHADOW == 0
    }
}
