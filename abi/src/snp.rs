//! AMD SEV-SNP: the VMSA page, feature and permission bits, return codes of
//! PVALIDATE, RMPADJUST and RMPQUERY, and the pages which the firmware fills.
//!
//! Sources: AMD64 Architecture Programmer's Manual, volume 2, 15.34 to 15.36 and
//! appendix B; SEV-SNP firmware ABI specification, chapters 7 and 8; Linux
//! `arch/x86/include/asm/svm.h` and `sev.h`. Offsets are asserted below.

use bitflags::bitflags;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use crate::svm::{Segment, attrib, event, exit, ioio, npf, vintr};

/// Vector of `#VC`; its error code is an exit code (APM 15.35.5).
pub const VC_VECTOR: u8 = 29;
/// Vector of `#HV` (restricted injection).
pub const HV_VECTOR: u8 = 28;

/// MSR that holds the GHCB's address or carries the MSR protocol.
pub const MSR_GHCB: u32 = 0xc001_0130;
/// Read-only MSR with the active SEV features, see [`SevStatus`].
pub const MSR_SEV_STATUS: u32 = 0xc001_0131;
/// Reads and writes the virtual top of memory where the feature is on.
pub const MSR_VTOM: u32 = 0xc001_0135;

bitflags! {
    /// `SEV_FEATURES` in the VMSA (offset 3B0h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SevFeatures: u64 {
        /// SEV-SNP is active.
        const SNP = 1 << 0;
        /// Virtual top of memory: addresses from `VIRTUAL_TOM` up are shared.
        const VTOM = 1 << 1;
        /// Non-automatic exits go to VMPL0 and not to an own `#VC` handler.
        const REFLECT_VC = 1 << 2;
        /// The host may inject `#HV` only.
        const RESTRICTED_INJECTION = 1 << 3;
        /// Events come from this VMSA's `EVENTINJ` and `VINTR_CTRL`.
        const ALTERNATE_INJECTION = 1 << 4;
        /// Debug registers are switched with the rest.
        const DEBUG_SWAP = 1 << 5;
        /// No host instruction-based sampling.
        const PREVENT_HOST_IBS = 1 << 6;
        /// Branch target isolation.
        const BTB_ISOLATION = 1 << 7;
        /// Supervisor shadow stack per VMPL.
        const VMPL_SSS = 1 << 8;
        /// Secure TSC.
        const SECURE_TSC = 1 << 9;
        /// VMGEXIT parameter (RAX and CPL in the VMCB).
        const VMGEXIT_PARAMETER = 1 << 10;
        /// Virtualized performance counters.
        const PMC_VIRT = 1 << 11;
        /// Virtualized instruction-based sampling.
        const IBS_VIRT = 1 << 12;
        /// Intercepts chosen by the guest's own VMPL0.
        const GUEST_INTERCEPT_CTL = 1 << 13;
        /// Registers in the VMSA are masked by a nonce.
        const VMSA_REG_PROT = 1 << 14;
        /// SMT protection.
        const SMT_PROTECTION = 1 << 15;
        /// Secure AVIC.
        const SECURE_AVIC = 1 << 16;
        /// IBPB on entry.
        const IBPB_ON_ENTRY = 1 << 21;
    }
}

bitflags! {
    /// `SEV_STATUS` (MSR C001_0131): SEV and SEV-ES, then `SEV_FEATURES << 2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SevStatus: u64 {
        /// SEV is on.
        const SEV = 1 << 0;
        /// SEV-ES is on.
        const SEV_ES = 1 << 1;
        /// SEV-SNP is on.
        const SNP = 1 << 2;
        /// Virtual top of memory is on.
        const VTOM = 1 << 3;
        /// Reflected `#VC`.
        const REFLECT_VC = 1 << 4;
        /// Restricted injection.
        const RESTRICTED_INJECTION = 1 << 5;
        /// Alternate injection.
        const ALTERNATE_INJECTION = 1 << 6;
        /// Debug swap.
        const DEBUG_SWAP = 1 << 7;
        /// Secure TSC.
        const SECURE_TSC = 1 << 11;
        /// VMSA register protection.
        const VMSA_REG_PROT = 1 << 16;
        /// Secure AVIC.
        const SECURE_AVIC = 1 << 18;
        const _ = !0;
    }
}

impl SevStatus {
    /// What the MSR reads for a context with these features.
    pub const fn from_features(features: SevFeatures) -> SevStatus {
        SevStatus::from_bits_retain((features.bits() << 2) | 3)
    }
}

bitflags! {
    /// RDX of RMPADJUST (with the target VMPL in 7:0) and of RMPQUERY's answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RmpAttr: u64 {
        /// Read.
        const READ = 1 << 8;
        /// Write; illegal without read.
        const WRITE = 1 << 9;
        /// Execute in user mode.
        const EXEC_USER = 1 << 10;
        /// Execute in supervisor mode.
        const EXEC_SUPER = 1 << 11;
        /// Supervisor shadow stack.
        const SHADOW_STACK = 1 << 12;
        /// The page is a VMSA; takes effect at VMPL0 only.
        const VMSA = 1 << 16;
        /// Read, write, execute.
        const RWX = Self::READ.bits() | Self::WRITE.bits()
            | Self::EXEC_USER.bits() | Self::EXEC_SUPER.bits();
    }
}

/// Mask of the target VMPL in RMPADJUST's RDX.
pub const RMPADJUST_VMPL_MASK: u64 = 0xff;

/// EAX after PVALIDATE, RMPADJUST, RMPQUERY (APM volume 3).
pub mod rc {
    /// Done. After PVALIDATE CF tells whether the state was the same before.
    pub const SUCCESS: u32 = 0;
    /// An argument makes no sense.
    pub const FAIL_INPUT: u32 = 1;
    /// The caller lacks the right.
    pub const FAIL_PERMISSION: u32 = 2;
    /// The page is in use as a VMSA.
    pub const FAIL_INUSE: u32 = 3;
    /// Page size of RMP entry and request differ.
    pub const FAIL_SIZEMISMATCH: u32 = 6;
}

/// Page size argument of PVALIDATE and RMPADJUST: 4 KiB.
pub const RMP_PAGE_4K: u32 = 0;
/// Page size argument of PVALIDATE and RMPADJUST: 2 MiB.
pub const RMP_PAGE_2M: u32 = 1;

/// The VM save area page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
#[allow(missing_docs)]
pub struct Vmsa {
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
    pub pl_ssp: [u64; 4],
    pub u_cet: u64,
    pub reserved_0c8: [u8; 2],
    pub vmpl: u8,
    pub cpl: u8,
    pub reserved_0cc: u32,
    pub efer: u64,
    pub reserved_0d8: u64,
    pub perf: [u64; 12],
    pub xss: u64,
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pub dr: [u64; 4],
    pub dr_addr_mask: [u64; 4],
    pub instr_retired: u64,
    pub perf_global_status: u64,
    pub perf_global_ctl: u64,
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
    pub dbg_extn_cfg: u64,
    pub reserved_2a0: [u8; 0x40],
    pub spec_ctrl: u64,
    pub pkru: u32,
    pub tsc_aux: u32,
    pub guest_tsc_scale: u64,
    pub guest_tsc_offset: u64,
    pub reg_prot_nonce: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub secure_avic_ctl: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub reserved_380: [u8; 0x10],
    pub guest_exitinfo1: u64,
    pub guest_exitinfo2: u64,
    /// See [`event`].
    pub guest_exitintinfo: u64,
    pub guest_nrip: u64,
    /// See [`SevFeatures`].
    pub sev_features: u64,
    /// See [`vintr`].
    pub vintr_ctrl: u64,
    /// See [`exit`].
    pub guest_exitcode: u64,
    pub virtual_tom: u64,
    pub tlb_id: u64,
    pub pcpu_id: u64,
    /// See [`event`].
    pub event_inj: u64,
    pub xcr0: u64,
    pub reserved_3f0: [u8; 0x10],
    pub x87_dp: u64,
    pub mxcsr: u32,
    pub x87_ftw: u16,
    pub x87_fsw: u16,
    pub x87_fcw: u16,
    pub x87_fop: u16,
    pub x87_ds: u16,
    pub x87_cs: u16,
    pub x87_rip: u64,
    pub x87_regs: [u8; 80],
    pub xmm: [u8; 256],
    pub ymm_hi: [u8; 256],
    pub lbr_stack: [u8; 256],
    pub lbr_select: u64,
    pub ibs: [u8; 0x48],
    pub reserved_7c0: [u8; 0x140],
    pub guest_intercepts: [u32; 8],
    pub guest_msr_intercepts: [u64; 4],
    pub reserved_940: [u8; 0x6c0],
}

/// Values which registers have in a VMSA made by hand (Linux `snp_set_vmsa`,
/// APM volume 1, 14.1.3).
#[allow(missing_docs)]
pub mod reset {
    pub const X87_FCW: u16 = 0x40;
    pub const X87_FTW: u16 = 0x5555;
    pub const MXCSR: u32 = 0x1f80;
    pub const RFLAGS: u64 = 2;
    pub const DR6: u64 = 0xffff_0ff0;
    pub const DR7: u64 = 0x400;
    pub const PAT: u64 = 0x0007_0406_0007_0406;
    pub const XCR0: u64 = 1;
}

/// Entries in a CPUID page.
pub const CPUID_ENTRIES: usize = 64;

/// One answer in the CPUID page (SEV-SNP firmware ABI, 8.17.2.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
#[allow(missing_docs)]
pub struct CpuidEntry {
    pub eax_in: u32,
    pub ecx_in: u32,
    pub xcr0_in: u64,
    pub xss_in: u64,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub reserved: u64,
}

/// The CPUID page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct CpuidPage {
    /// Entries used, at most [`CPUID_ENTRIES`].
    pub count: u32,
    /// Reserved.
    pub reserved_004: u32,
    /// Reserved.
    pub reserved_008: u64,
    /// The entries.
    pub entries: [CpuidEntry; CPUID_ENTRIES],
    /// Unused rest of the page.
    pub reserved_c10: [u8; 0x3f0],
}

/// The secrets page (SEV-SNP firmware ABI, 8.17.2.5).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
#[allow(missing_docs)]
pub struct SecretsPage {
    pub version: u32,
    /// Bit 0: initial migration image.
    pub imi: u32,
    pub fms: u32,
    pub reserved_00c: u32,
    pub gosvw: [u8; 16],
    /// VM platform communication keys, one per VMPL.
    pub vmpck: [[u8; 32]; 4],
    pub guest_os_area: [u8; 0x60],
    /// Bit i % 8 of byte i / 8: qword i of the VMSA is masked by the nonce.
    pub vmsa_tweak_bitmap: [u8; 0x40],
    pub svsm_base: u64,
    pub svsm_size: u64,
    pub svsm_caa: u64,
    pub svsm_max_version: u32,
    pub svsm_guest_vmpl: u8,
    pub reserved_15d: [u8; 3],
    pub tsc_factor: u32,
    pub reserved_164: [u8; 0xe9c],
}

/// `CPUID` leaf with SEV capabilities.
pub const CPUID_LEAF_SEV: u32 = 0x8000_001f;

/// Bits of EAX in [`CPUID_LEAF_SEV`]. EBX: 5:0 C-bit position, 11:6 physical
/// address bits lost, 15:12 number of VMPLs.
#[allow(missing_docs)]
pub mod cpuid_sev {
    pub const SEV: u32 = 1 << 1;
    pub const SEV_ES: u32 = 1 << 3;
    pub const SNP: u32 = 1 << 4;
    pub const VMPL: u32 = 1 << 5;
    pub const RMPQUERY: u32 = 1 << 6;
    pub const COHERENCY: u32 = 1 << 10;
    pub const HOST_64BIT: u32 = 1 << 11;
    pub const RESTRICTED_INJECTION: u32 = 1 << 12;
    pub const ALTERNATE_INJECTION: u32 = 1 << 13;
    pub const DEBUG_SWAP: u32 = 1 << 14;
    pub const VTE: u32 = 1 << 16;
    pub const VTOM_MSR: u32 = 1 << 18;
}

const_assert_eq!(size_of::<Vmsa>(), 0x1000);
const_assert_eq!(size_of::<CpuidEntry>(), 48);
const_assert_eq!(size_of::<CpuidPage>(), 0x1000);
const_assert_eq!(size_of::<SecretsPage>(), 0x1000);
use crate::svm::at;
at!(Vmsa: es = 0x000, cs = 0x010, ss = 0x020, ds = 0x030, fs = 0x040, gs = 0x050,
    gdtr = 0x060, ldtr = 0x070, idtr = 0x080, tr = 0x090, pl_ssp = 0x0a0, u_cet = 0x0c0,
    vmpl = 0x0ca, cpl = 0x0cb, efer = 0x0d0, perf = 0x0e0, xss = 0x140, cr4 = 0x148,
    cr3 = 0x150, cr0 = 0x158, dr7 = 0x160, dr6 = 0x168, rflags = 0x170, rip = 0x178,
    dr = 0x180, dr_addr_mask = 0x1a0, instr_retired = 0x1c0, perf_global_status = 0x1c8,
    perf_global_ctl = 0x1d0, rsp = 0x1d8, s_cet = 0x1e0, ssp = 0x1e8, isst = 0x1f0,
    rax = 0x1f8, star = 0x200, lstar = 0x208, cstar = 0x210, sfmask = 0x218,
    kernel_gs_base = 0x220, sysenter_cs = 0x228, sysenter_esp = 0x230, sysenter_eip = 0x238,
    cr2 = 0x240, pat = 0x268, debugctl = 0x270, br_from = 0x278, br_to = 0x280,
    last_excp_from = 0x288, last_excp_to = 0x290, dbg_extn_cfg = 0x298, spec_ctrl = 0x2e0,
    pkru = 0x2e8, tsc_aux = 0x2ec, guest_tsc_scale = 0x2f0, guest_tsc_offset = 0x2f8,
    reg_prot_nonce = 0x300, rcx = 0x308, rdx = 0x310, rbx = 0x318, secure_avic_ctl = 0x320,
    rbp = 0x328, rsi = 0x330, rdi = 0x338, r8 = 0x340, r15 = 0x378, guest_exitinfo1 = 0x390,
    guest_exitinfo2 = 0x398, guest_exitintinfo = 0x3a0, guest_nrip = 0x3a8,
    sev_features = 0x3b0, vintr_ctrl = 0x3b8, guest_exitcode = 0x3c0, virtual_tom = 0x3c8,
    tlb_id = 0x3d0, pcpu_id = 0x3d8, event_inj = 0x3e0, xcr0 = 0x3e8, reserved_3f0 = 0x3f0,
    x87_dp = 0x400, mxcsr = 0x408, x87_ftw = 0x40c, x87_fsw = 0x40e, x87_fcw = 0x410,
    x87_fop = 0x412, x87_ds = 0x414, x87_cs = 0x416, x87_rip = 0x418, x87_regs = 0x420,
    xmm = 0x470, ymm_hi = 0x570, lbr_stack = 0x670, lbr_select = 0x770, ibs = 0x778,
    guest_intercepts = 0x900, guest_msr_intercepts = 0x920);
at!(CpuidPage: entries = 0x10);
at!(SecretsPage: gosvw = 0x10, vmpck = 0x20, guest_os_area = 0xa0, vmsa_tweak_bitmap = 0x100,
    svsm_base = 0x140, svsm_size = 0x148, svsm_caa = 0x150, svsm_max_version = 0x158,
    svsm_guest_vmpl = 0x15c, tsc_factor = 0x160);
