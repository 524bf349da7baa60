//! AMD Secure Virtual Machine: the VMCB, exit codes and intercept bits.
//!
//! Source: AMD64 Architecture Programmer's Manual, volume 2, appendices B
//! (VMCB layout) and C (exit codes); Linux `arch/x86/include/asm/svm.h`.
//! The save area here is the classic one (no SEV-ES); the VMSA page of an
//! encrypted guest is [`crate::snp::Vmsa`].

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Exit codes (VMCB offset 70h, VMSA `GUEST_EXITCODE`, `#VC` error code, GHCB
/// `SW_EXITCODE`); APM volume 2, appendix C.
#[allow(missing_docs)]
pub mod exit {
    /// Read of CRn is `CR_READ + n`.
    pub const CR_READ: u64 = 0x00;
    /// Write of CRn is `CR_WRITE + n`.
    pub const CR_WRITE: u64 = 0x10;
    /// Read of DRn is `DR_READ + n`.
    pub const DR_READ: u64 = 0x20;
    /// Write of DRn is `DR_WRITE + n`.
    pub const DR_WRITE: u64 = 0x30;
    /// Exception with vector v is `EXCEPTION + v`.
    pub const EXCEPTION: u64 = 0x40;
    pub const EXCEPTION_DB: u64 = 0x41;
    pub const EXCEPTION_UD: u64 = 0x46;
    pub const EXCEPTION_DF: u64 = 0x48;
    pub const EXCEPTION_GP: u64 = 0x4d;
    pub const EXCEPTION_PF: u64 = 0x4e;
    pub const EXCEPTION_AC: u64 = 0x51;
    pub const EXCEPTION_MC: u64 = 0x52;
    pub const EXCEPTION_VC: u64 = 0x5d;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const CR0_SEL_WRITE: u64 = 0x65;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const SWINT: u64 = 0x75;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPG: u64 = 0x79;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const FERR_FREEZE: u64 = 0x7e;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const ICEBP: u64 = 0x88;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const EFER_WRITE_TRAP: u64 = 0x8f;
    /// Write trap of CRn is `CR_WRITE_TRAP + n`.
    pub const CR_WRITE_TRAP: u64 = 0x90;
    pub const INVLPGB: u64 = 0xa0;
    pub const INVLPGB_ILLEGAL: u64 = 0xa1;
    pub const INVPCID: u64 = 0xa2;
    pub const MCOMMIT: u64 = 0xa3;
    pub const TLBSYNC: u64 = 0xa4;
    pub const BUS_LOCK: u64 = 0xa5;
    pub const IDLE_HLT: u64 = 0xa6;
    pub const NPF: u64 = 0x400;
    pub const AVIC_INCOMPLETE_IPI: u64 = 0x401;
    pub const AVIC_NOACCEL: u64 = 0x402;
    pub const VMGEXIT: u64 = 0x403;
    /// `#VC` code only: access to a page that was never validated.
    pub const PAGE_NOT_VALIDATED: u64 = 0x404;
    pub const NOT_RESTARTABLE: u64 = 0x406;
    /// VMRUN refused the state.
    pub const INVALID: u64 = u64::MAX;
    /// VMRUN found the VMSA's BUSY bit set.
    pub const BUSY: u64 = u64::MAX - 1;
}

/// Bits of `IOIO` exit information 1 (APM volume 2, 15.10.2). The port is in
/// bits 31:16; exit information 2 is the next RIP.
#[allow(missing_docs)]
pub mod ioio {
    pub const IN: u64 = 1 << 0;
    pub const STRING: u64 = 1 << 2;
    pub const REP: u64 = 1 << 3;
    pub const SIZE_8: u64 = 1 << 4;
    pub const SIZE_16: u64 = 1 << 5;
    pub const SIZE_32: u64 = 1 << 6;
    /// Shift of the port number.
    pub const PORT_SHIFT: u32 = 16;

    /// The port of an exit.
    pub const fn port(info1: u64) -> u16 {
        (info1 >> PORT_SHIFT) as u16
    }

    /// Access width in bytes: 1, 2, 4, or 0 where the bits make no sense.
    pub const fn width(info1: u64) -> u8 {
        match (info1 >> 4) & 7 {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => 0,
        }
    }
}

/// Exit information 1 of an `MSR` exit: 0 is RDMSR, 1 is WRMSR.
pub const MSR_INFO_WRITE: u64 = 1;

/// Bits of `NPF` exit information 1 (APM volume 2, 15.25.6 and 15.36.10).
/// Exit information 2 is the GPA.
#[allow(missing_docs)]
pub mod npf {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    /// Reserved bit set in the nested table: how a host marks emulated MMIO.
    pub const RESERVED: u64 = 1 << 3;
    pub const FETCH: u64 = 1 << 4;
    pub const SHADOW_STACK: u64 = 1 << 6;
    pub const RMP: u64 = 1 << 31;
    /// The fault hit the final guest physical address.
    pub const FINAL: u64 = 1 << 32;
    /// The fault hit a read of the guest's own page tables.
    pub const TABLE_WALK: u64 = 1 << 33;
    pub const ENCRYPTED: u64 = 1 << 34;
    pub const SIZE_MISMATCH: u64 = 1 << 35;
    pub const VMPL: u64 = 1 << 36;
    pub const NOT_RESTARTABLE: u64 = 1 << 63;
}

/// Intercepts by exit code: bit n of [`Control::intercept_misc1`] belongs to
/// exit code 60h + n, of [`Control::intercept_misc2`] to 80h + n.
#[allow(missing_docs)]
pub mod intercept1 {
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDTSC: u32 = 1 << 14;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const RSM: u32 = 1 << 19;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const TASK_SWITCH: u32 = 1 << 29;
    pub const FERR_FREEZE: u32 = 1 << 30;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Second word of intercepts, exit codes 80h and up.
#[allow(missing_docs)]
pub mod intercept2 {
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const ICEBP: u32 = 1 << 8;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// `EVENTINJ` and `EXITINTINFO`: 7:0 vector, 10:8 type, 11 error code valid,
/// 31 valid, 63:32 error code (APM volume 2, 15.20).
#[allow(missing_docs)]
pub mod event {
    pub const VECTOR_MASK: u64 = 0xff;
    pub const TYPE_MASK: u64 = 7 << 8;
    pub const TYPE_INTR: u64 = 0 << 8;
    pub const TYPE_NMI: u64 = 2 << 8;
    pub const TYPE_EXCEPTION: u64 = 3 << 8;
    pub const TYPE_SOFTWARE: u64 = 4 << 8;
    pub const ERROR_CODE_VALID: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
    pub const ERROR_CODE_SHIFT: u32 = 32;

    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> u64 {
        VALID | TYPE_INTR | vector as u64
    }

    /// An exception without an error code.
    pub const fn exception(vector: u8) -> u64 {
        VALID | TYPE_EXCEPTION | vector as u64
    }

    /// An exception with an error code.
    pub const fn exception_with_code(vector: u8, code: u32) -> u64 {
        exception(vector) | ERROR_CODE_VALID | ((code as u64) << ERROR_CODE_SHIFT)
    }
}

/// `V_INTR` word of the control area (offset 60h) and, with the same layout,
/// the VMSA's `VINTR_CTRL` (offset 3B8h).
#[allow(missing_docs)]
pub mod vintr {
    pub const TPR_MASK: u64 = 0xff;
    pub const V_IRQ: u64 = 1 << 8;
    pub const VGIF: u64 = 1 << 9;
    /// VMSA only: the interrupt shadow.
    pub const INT_SHADOW: u64 = 1 << 10;
    pub const V_NMI: u64 = 1 << 11;
    pub const V_NMI_MASK: u64 = 1 << 12;
    pub const PRIORITY_SHIFT: u32 = 16;
    pub const PRIORITY_MASK: u64 = 0xf << 16;
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// VMCB only: physical interrupts obey the host's IF, not the guest's.
    pub const V_INTR_MASKING: u64 = 1 << 24;
    pub const VGIF_ENABLE: u64 = 1 << 25;
    pub const V_NMI_ENABLE: u64 = 1 << 26;
    pub const VECTOR_SHIFT: u32 = 32;
    pub const VECTOR_MASK: u64 = 0xff << 32;
    /// VMSA only, alternate injection: the context is in use or a delivery
    /// was interrupted.
    pub const BUSY: u64 = 1 << 63;

    /// A pending virtual interrupt with its own priority, TPR ignored.
    pub const fn pending(vector: u8) -> u64 {
        V_IRQ
            | IGNORE_TPR
            | (((vector >> 4) as u64) << PRIORITY_SHIFT)
            | ((vector as u64) << VECTOR_SHIFT)
    }

    /// The vector field.
    pub const fn vector(word: u64) -> u8 {
        (word >> VECTOR_SHIFT) as u8
    }
}

/// A segment register in VMCB and VMSA.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Descriptor attributes packed to 12 bits:
    /// `(attr & 0xff) | ((attr >> 4) & 0xf00)` of the descriptor's bits 47:40
    /// and 55:52.
    pub attrib: u16,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// Packed attributes for [`Segment::attrib`].
#[allow(missing_docs)]
pub mod attrib {
    /// 64-bit code, DPL 0, present, readable, accessed.
    pub const CODE64: u16 = 0xa9b;
    /// 32-bit code, DPL 0, flat.
    pub const CODE32: u16 = 0xc9b;
    /// Data, DPL 0, present, writable, accessed, 4 KiB granularity.
    pub const DATA: u16 = 0xc93;
    /// Busy 64-bit TSS.
    pub const TSS64_BUSY: u16 = 0x08b;
    /// Busy 16-bit TSS, as after reset.
    pub const TSS16_BUSY: u16 = 0x083;
    /// LDT.
    pub const LDT: u16 = 0x082;
    /// Real mode code: present, readable, accessed.
    pub const REAL_CODE: u16 = 0x09b;
    /// Real mode data: present, writable, accessed.
    pub const REAL_DATA: u16 = 0x093;
    pub const PRESENT: u16 = 1 << 7;
    pub const LONG: u16 = 1 << 9;
    pub const DEFAULT_BIG: u16 = 1 << 10;
}

/// VMCB control area (offsets 0 to 3FFh).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Control {
    pub intercept_cr_read: u16,
    pub intercept_cr_write: u16,
    pub intercept_dr_read: u16,
    pub intercept_dr_write: u16,
    /// One bit per exception vector.
    pub intercept_exceptions: u32,
    /// See [`intercept1`].
    pub intercept_misc1: u32,
    /// See [`intercept2`].
    pub intercept_misc2: u32,
    pub intercept_misc3: u32,
    pub reserved_018: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    /// Physical address of the 12 KiB I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the 8 KiB MSR permission map.
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    pub reserved_05d: [u8; 3],
    /// See [`vintr`].
    pub vintr: u64,
    /// Bit 0 interrupt shadow, bit 1 guest IF (SEV-ES).
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    pub avic_apic_bar: u64,
    pub ghcb: u64,
    /// See [`event`].
    pub event_inj: u64,
    pub nested_cr3: u64,
    pub virt_ext: u64,
    pub clean: u32,
    pub reserved_0c4: u32,
    pub next_rip: u64,
    pub insn_len: u8,
    pub insn_bytes: [u8; 15],
    pub avic_backing_page: u64,
    pub reserved_0e8: u64,
    pub avic_logical_table: u64,
    pub avic_physical_table: u64,
    pub reserved_100: u64,
    pub vmsa: u64,
    pub vmgexit_rax: u64,
    pub vmgexit_cpl: u64,
    pub reserved_120: [u8; 0x18],
    pub allowed_sev_features: u64,
    pub reserved_140: [u8; 0x2c0],
}

/// VMCB save area of a guest without SEV-ES (VMCB offsets 400h to FFFh).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Save {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    pub reserved_0a0: [u8; 0x2b],
    pub cpl: u8,
    pub reserved_0cc: u32,
    pub efer: u64,
    pub reserved_0d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pub reserved_180: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    pub reserved_248: [u8; 0x20],
    pub pat: u64,
    pub debugctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
    pub reserved_298: [u8; 0x48],
    pub spec_ctrl: u64,
    pub reserved_2e8: [u8; 0x918],
}

/// The whole VMCB: one 4 KiB page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
#[allow(missing_docs)]
pub struct Vmcb {
    pub control: Control,
    pub save: Save,
}

/// MSR numbers which belong to SVM itself.
#[allow(missing_docs)]
pub mod msr {
    pub const EFER: u32 = 0xc000_0080;
    /// EFER bit 12: SVM enable.
    pub const EFER_SVME: u64 = 1 << 12;
    pub const VM_CR: u32 = 0xc001_0114;
    /// VM_CR bit 4: SVM disabled by firmware.
    pub const VM_CR_SVMDIS: u64 = 1 << 4;
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
}

macro_rules! at {
    ($t:ty: $($field:ident = $offset:expr),+ $(,)?) => {
        $(const_assert_eq!(core::mem::offset_of!($t, $field), $offset);)+
    };
}
pub(crate) use at;

const_assert_eq!(size_of::<Segment>(), 16);
const_assert_eq!(size_of::<Control>(), 0x400);
const_assert_eq!(size_of::<Save>(), 0xc00);
const_assert_eq!(size_of::<Vmcb>(), 0x1000);
at!(Control: intercept_dr_read = 0x4, intercept_exceptions = 0x8, intercept_misc1 = 0xc,
    intercept_misc2 = 0x10, intercept_misc3 = 0x14, pause_filter_threshold = 0x3c,
    iopm_base = 0x40, msrpm_base = 0x48, tsc_offset = 0x50, asid = 0x58, tlb_control = 0x5c,
    vintr = 0x60, interrupt_shadow = 0x68, exit_code = 0x70, exit_info1 = 0x78,
    exit_info2 = 0x80, exit_int_info = 0x88, nested_control = 0x90, avic_apic_bar = 0x98,
    ghcb = 0xa0, event_inj = 0xa8, nested_cr3 = 0xb0, virt_ext = 0xb8, clean = 0xc0,
    next_rip = 0xc8, insn_len = 0xd0, avic_backing_page = 0xe0, avic_logical_table = 0xf0,
    avic_physical_table = 0xf8, vmsa = 0x108, vmgexit_rax = 0x110, vmgexit_cpl = 0x118,
    allowed_sev_features = 0x138);
at!(Save: es = 0x0, cs = 0x10, ss = 0x20, ds = 0x30, fs = 0x40, gs = 0x50, gdtr = 0x60,
    ldtr = 0x70, idtr = 0x80, tr = 0x90, cpl = 0xcb, efer = 0xd0, cr4 = 0x148, cr3 = 0x150,
    cr0 = 0x158, dr7 = 0x160, dr6 = 0x168, rflags = 0x170, rip = 0x178, rsp = 0x1d8,
    rax = 0x1f8, star = 0x200, kernel_gs_base = 0x220, sysenter_cs = 0x228, cr2 = 0x240,
    pat = 0x268, debugctl = 0x270, br_from = 0x278, last_excp_to = 0x290, spec_ctrl = 0x2e0);
