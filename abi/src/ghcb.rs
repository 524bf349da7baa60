//! The guest-hypervisor communication block of SEV-ES/SNP as Hyper-V uses it.
//!
//! Sources: AMD 56421 "SEV-ES Guest-Hypervisor Communication Block
//! Standardization" rev 2.03 (sections named below), Linux `arch/x86/include/
//! asm/{sev-common,svm}.h`, and for usage 1 and 2 OpenVMM `openhcl_boot`
//! (`arch/x86_64/snp.rs`) and the OpenHCL Linux kernel (`snp_mshv_vtl_return`).
//!
//! Three ways to use it: the MSR protocol (a request in the MSR itself, no page
//! needed), the page with an exit code (usage 0), and Hyper-V's two page uses:
//! a hypercall (usage 1) and running a lower privilege level (usage 2).

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The MSR that carries requests of the MSR protocol or the page's address.
pub const MSR_GHCB: u32 = 0xc001_0130;
/// SEV_STATUS: `(SEV_FEATURES << 2) | SEV-ES | SEV`, read-only.
pub const MSR_SEV_STATUS: u32 = 0xc001_0131;
/// The protocol version that this project speaks.
pub const PROTOCOL_VERSION: u16 = 2;
/// Size of a GHCB page.
pub const PAGE_SIZE: usize = 4096;

// ---------------------------------------------------------------- the page

/// A GHCB page (section 2.6). `usage` decides what the rest means; this is the
/// layout for [`Usage::BASE`].
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Ghcb {
    /// Reserved. In usage 2, byte 0 is the target VTL.
    pub reserved_000: [u8; 0x0cb],
    /// Current privilege level.
    pub cpl: u8,
    /// Reserved.
    pub reserved_0cc: [u8; 0x140 - 0x0cc],
    /// XSS.
    pub xss: u64,
    /// Reserved.
    pub reserved_148: [u8; 0x160 - 0x148],
    /// DR7.
    pub dr7: u64,
    /// Reserved.
    pub reserved_168: [u8; 0x178 - 0x168],
    /// RIP.
    pub rip: u64,
    /// Reserved.
    pub reserved_180: [u8; 0x1d8 - 0x180],
    /// RSP.
    pub rsp: u64,
    /// Reserved.
    pub reserved_1e0: [u8; 0x1f8 - 0x1e0],
    /// RAX.
    pub rax: u64,
    /// Reserved.
    pub reserved_200: [u8; 0x308 - 0x200],
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
    /// Reserved.
    pub reserved_320: [u8; 8],
    /// RBP.
    pub rbp: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// R8 to R15.
    pub r8_r15: [u64; 8],
    /// Reserved.
    pub reserved_380: [u8; 0x390 - 0x380],
    /// Exit code of the request, see [`exit`].
    pub sw_exit_code: u64,
    /// In: first argument. Out: bits 31:0 are a [`reply`] code.
    pub sw_exit_info1: u64,
    /// In: second argument. Out: depends on the exit.
    pub sw_exit_info2: u64,
    /// GPA of a scratch area, usually [`offset::SHARED_BUFFER`] of this page.
    pub sw_scratch: u64,
    /// Reserved.
    pub reserved_3b0: [u8; 0x3e8 - 0x3b0],
    /// XCR0.
    pub xcr0: u64,
    /// Bit n set: the quadword at offset 8 * n holds a value, see [`valid`].
    pub valid_bitmap: [u64; 2],
    /// GPA of an x87 state page, unused.
    pub x87_state_gpa: u64,
    /// Reserved.
    pub reserved_408: [u8; 0x800 - 0x408],
    /// Scratch buffer, 2032 bytes.
    pub shared_buffer: [u8; SHARED_BUFFER_SIZE],
    /// Reserved.
    pub reserved_ff0: [u8; 0xffa - 0xff0],
    /// Version of the protocol that the guest uses.
    pub protocol_version: u16,
    /// What this page is used for, see [`Usage`].
    pub usage: u32,
}
const_assert_eq!(size_of::<Ghcb>(), PAGE_SIZE);

/// Bytes of the scratch buffer inside the page.
pub const SHARED_BUFFER_SIZE: usize = 0x7f0;

/// Byte offsets of the fields, for code that reaches the page through copies.
pub mod offset {
    #![allow(missing_docs)]
    pub const CPL: usize = 0x0cb;
    pub const XSS: usize = 0x140;
    pub const DR7: usize = 0x160;
    pub const RIP: usize = 0x178;
    pub const RSP: usize = 0x1d8;
    pub const RAX: usize = 0x1f8;
    pub const RCX: usize = 0x308;
    pub const RDX: usize = 0x310;
    pub const RBX: usize = 0x318;
    pub const RBP: usize = 0x328;
    pub const RSI: usize = 0x330;
    pub const RDI: usize = 0x338;
    pub const R8: usize = 0x340;
    pub const SW_EXIT_CODE: usize = 0x390;
    pub const SW_EXIT_INFO1: usize = 0x398;
    pub const SW_EXIT_INFO2: usize = 0x3a0;
    pub const SW_SCRATCH: usize = 0x3a8;
    pub const XCR0: usize = 0x3e8;
    pub const VALID_BITMAP: usize = 0x3f0;
    pub const X87_STATE_GPA: usize = 0x400;
    pub const SHARED_BUFFER: usize = 0x800;
    pub const PROTOCOL_VERSION: usize = 0xffa;
    pub const USAGE: usize = 0xffc;
    /// Usage 2: the target VTL (a byte).
    pub const TARGET_VTL: usize = 0;
}
const_assert_eq!(core::mem::offset_of!(Ghcb, cpl), offset::CPL);
const_assert_eq!(core::mem::offset_of!(Ghcb, xss), offset::XSS);
const_assert_eq!(core::mem::offset_of!(Ghcb, dr7), offset::DR7);
const_assert_eq!(core::mem::offset_of!(Ghcb, rip), offset::RIP);
const_assert_eq!(core::mem::offset_of!(Ghcb, rsp), offset::RSP);
const_assert_eq!(core::mem::offset_of!(Ghcb, rax), offset::RAX);
const_assert_eq!(core::mem::offset_of!(Ghcb, rcx), offset::RCX);
const_assert_eq!(core::mem::offset_of!(Ghcb, rdx), offset::RDX);
const_assert_eq!(core::mem::offset_of!(Ghcb, rbx), offset::RBX);
const_assert_eq!(core::mem::offset_of!(Ghcb, rbp), offset::RBP);
const_assert_eq!(core::mem::offset_of!(Ghcb, rsi), offset::RSI);
const_assert_eq!(core::mem::offset_of!(Ghcb, rdi), offset::RDI);
const_assert_eq!(core::mem::offset_of!(Ghcb, r8_r15), offset::R8);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, sw_exit_code),
    offset::SW_EXIT_CODE
);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, sw_exit_info1),
    offset::SW_EXIT_INFO1
);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, sw_exit_info2),
    offset::SW_EXIT_INFO2
);
const_assert_eq!(core::mem::offset_of!(Ghcb, sw_scratch), offset::SW_SCRATCH);
const_assert_eq!(core::mem::offset_of!(Ghcb, xcr0), offset::XCR0);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, valid_bitmap),
    offset::VALID_BITMAP
);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, x87_state_gpa),
    offset::X87_STATE_GPA
);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, shared_buffer),
    offset::SHARED_BUFFER
);
const_assert_eq!(
    core::mem::offset_of!(Ghcb, protocol_version),
    offset::PROTOCOL_VERSION
);
const_assert_eq!(core::mem::offset_of!(Ghcb, usage), offset::USAGE);

/// Bit numbers in [`Ghcb::valid_bitmap`]: field offset / 8.
pub mod valid {
    #![allow(missing_docs)]
    pub const CPL: u32 = 25;
    pub const XSS: u32 = 40;
    pub const DR7: u32 = 44;
    pub const RAX: u32 = 63;
    pub const RCX: u32 = 97;
    pub const RDX: u32 = 98;
    pub const RBX: u32 = 99;
    pub const SW_EXIT_CODE: u32 = 114;
    pub const SW_EXIT_INFO1: u32 = 115;
    pub const SW_EXIT_INFO2: u32 = 116;
    pub const SW_SCRATCH: u32 = 117;
    pub const XCR0: u32 = 125;
    /// Word 1 of the bitmap as every page call sets it: code, info1, info2.
    pub const EVERY_CALL_WORD1: u64 =
        (1 << (SW_EXIT_CODE - 64)) | (1 << (SW_EXIT_INFO1 - 64)) | (1 << (SW_EXIT_INFO2 - 64));
}
const_assert_eq!(valid::RAX as usize * 8, offset::RAX);
const_assert_eq!(valid::RCX as usize * 8, offset::RCX);
const_assert_eq!(valid::SW_EXIT_CODE as usize * 8, offset::SW_EXIT_CODE);
const_assert_eq!(valid::SW_SCRATCH as usize * 8, offset::SW_SCRATCH);
const_assert_eq!(valid::XCR0 as usize * 8, offset::XCR0);

/// What a GHCB page is used for ([`Ghcb::usage`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage(pub u32);

impl Usage {
    /// An exit code with arguments.
    pub const BASE: Usage = Usage(0);
    /// A Hyper-V hypercall, [`HypercallPage`].
    pub const HYPERCALL: Usage = Usage(1);
    /// Run a lower privilege level: byte 0 is the VTL (0 = VMPL2), no exit code,
    /// no valid bitmap.
    pub const VTL_RETURN: Usage = Usage(2);
    /// Written back by the guest after each call, so that a stray exit is refused.
    pub const INVALID: Usage = Usage(u32::MAX);
}

/// A GHCB page with [`Usage::HYPERCALL`]: input inline, no fast calls.
/// Linux `union hv_ghcb`, OpenVMM `GhcbHypercall`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HypercallPage {
    /// Input, inline.
    pub data: [u8; HYPERCALL_DATA_SIZE],
    /// GPA of the output page, or 0 for none.
    pub output_gpa: u64,
    /// In: control word. Out: result, `status | elements processed << 32`.
    pub control: u64,
    /// Reserved.
    pub reserved: u16,
    /// As in [`Ghcb`].
    pub protocol_version: u16,
    /// [`Usage::HYPERCALL`].
    pub usage: u32,
}
const_assert_eq!(size_of::<HypercallPage>(), PAGE_SIZE);

/// Bytes of inline input in a [`HypercallPage`].
pub const HYPERCALL_DATA_SIZE: usize = 4072;
/// Offsets in a [`HypercallPage`].
pub const HYPERCALL_OUTPUT_GPA_OFFSET: usize = 4072;
/// Control in, result out.
pub const HYPERCALL_CONTROL_OFFSET: usize = 4080;
const_assert_eq!(
    core::mem::offset_of!(HypercallPage, output_gpa),
    HYPERCALL_OUTPUT_GPA_OFFSET
);
const_assert_eq!(
    core::mem::offset_of!(HypercallPage, control),
    HYPERCALL_CONTROL_OFFSET
);
const_assert_eq!(
    core::mem::offset_of!(HypercallPage, protocol_version),
    offset::PROTOCOL_VERSION
);
const_assert_eq!(core::mem::offset_of!(HypercallPage, usage), offset::USAGE);

// ------------------------------------------------------------- exit codes

/// `SW_EXITCODE` of page calls (section 4) that this project knows. Codes below
/// 0x8000_0000 are SVM exit codes (APM volume 2, appendix C).
pub mod exit {
    #![allow(missing_docs)]
    pub const CPUID: u64 = 0x72;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const VMMCALL: u64 = 0x81;
    pub const MMIO_READ: u64 = 0x8000_0001;
    pub const MMIO_WRITE: u64 = 0x8000_0002;
    pub const NMI_COMPLETE: u64 = 0x8000_0003;
    pub const AP_RESET_HOLD: u64 = 0x8000_0004;
    pub const AP_JUMP_TABLE: u64 = 0x8000_0005;
    pub const PAGE_STATE_CHANGE: u64 = 0x8000_0010;
    pub const GUEST_REQUEST: u64 = 0x8000_0011;
    pub const EXTENDED_GUEST_REQUEST: u64 = 0x8000_0012;
    pub const AP_CREATION: u64 = 0x8000_0013;
    pub const HV_DOORBELL: u64 = 0x8000_0014;
    pub const RUN_VMPL: u64 = 0x8000_0018;
    pub const HV_FEATURES: u64 = 0x8000_fffd;
    pub const TERMINATE: u64 = 0x8000_fffe;
    pub const UNSUPPORTED: u64 = 0x8000_ffff;
}

/// `SW_EXITINFO1` of an IOIO exit (the same bits as SVM's EXITINFO1, APM
/// volume 2 section 15.10.2); the port is in bits 31:16.
pub mod ioio {
    /// Set for IN.
    pub const IN: u64 = 1 << 0;
    /// INS/OUTS.
    pub const STRING: u64 = 1 << 2;
    /// REP prefix.
    pub const REP: u64 = 1 << 3;
    /// One byte.
    pub const SIZE_8: u64 = 1 << 4;
    /// Two bytes.
    pub const SIZE_16: u64 = 1 << 5;
    /// Four bytes.
    pub const SIZE_32: u64 = 1 << 6;
    /// Address size 16 bits.
    pub const ADDRESS_16: u64 = 1 << 7;
    /// Address size 32 bits.
    pub const ADDRESS_32: u64 = 1 << 8;
    /// Address size 64 bits.
    pub const ADDRESS_64: u64 = 1 << 9;
    /// Lowest bit of the segment number (3 bits).
    pub const SEGMENT_SHIFT: u32 = 10;
    /// Lowest bit of the port.
    pub const PORT_SHIFT: u32 = 16;

    /// INFO1 of a plain access (no string, no REP) of `bytes` = 1, 2 or 4.
    pub const fn info1(port: u16, bytes: u8, input: bool) -> u64 {
        let size = match bytes {
            1 => SIZE_8,
            2 => SIZE_16,
            _ => SIZE_32,
        };
        (port as u64) << PORT_SHIFT | size | if input { IN } else { 0 }
    }
}

/// `SW_EXITINFO1` of an MSR exit: a read.
pub const MSR_READ: u64 = 0;
/// `SW_EXITINFO1` of an MSR exit: a write.
pub const MSR_WRITE: u64 = 1;

/// `SW_EXITINFO1[31:0]` of a reply (section 4.1).
pub mod reply {
    /// Done.
    pub const OK: u32 = 0;
    /// INFO2 is an event to raise, in EVENTINJ format.
    pub const EVENT: u32 = 1;
    /// Malformed input; INFO2 says which. Hyper-V kills the VM instead.
    pub const MALFORMED: u32 = 2;
}

// ----------------------------------------------------- page state change

/// Operation of a page state change (section 4.1.6): make private.
pub const PSC_PRIVATE: u8 = 1;
/// Make shared.
pub const PSC_SHARED: u8 = 2;
/// Entries in one page state change buffer.
pub const PSC_MAX_ENTRIES: usize = 253;

/// Header of the buffer at `sw_scratch` for [`exit::PAGE_STATE_CHANGE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PscHeader {
    /// Entry to handle next; the host moves it forward.
    pub cur_entry: u16,
    /// Last entry, inclusive. Done when `cur_entry > end_entry`.
    pub end_entry: u16,
    /// Zero.
    pub reserved: u32,
}
const_assert_eq!(size_of::<PscHeader>(), 8);

/// One entry: bits 11:0 current page, 51:12 frame number, 55:52 operation,
/// 56 a 2 MiB page.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PscEntry(pub u64);

impl PscEntry {
    /// An entry whose `current page` is 0.
    pub const fn new(gfn: u64, operation: u8, large: bool) -> PscEntry {
        PscEntry(
            (gfn & 0xff_ffff_ffff) << 12 | (operation as u64 & 0xf) << 52 | (large as u64) << 56,
        )
    }
    /// Progress within a 2 MiB page, in 4 KiB pages.
    pub const fn current_page(self) -> u16 {
        (self.0 & 0xfff) as u16
    }
    /// Frame number (GPA >> 12).
    pub const fn gfn(self) -> u64 {
        self.0 >> 12 & 0xff_ffff_ffff
    }
    /// [`PSC_PRIVATE`], [`PSC_SHARED`] or something else.
    pub const fn operation(self) -> u8 {
        (self.0 >> 52 & 0xf) as u8
    }
    /// Whether it names a 2 MiB page.
    pub const fn large(self) -> bool {
        self.0 >> 56 & 1 != 0
    }
}

// ------------------------------------------------------------ MSR protocol

/// Values of the GHCB MSR (section 2.3.1). Requests are built by the functions,
/// replies are told by [`msr::info`] and the masks.
pub mod msr {
    /// Bits that tell which request or reply it is; 0 = the page's address.
    pub const INFO_MASK: u64 = 0xfff;
    /// Reply to [`SEV_INFO_REQUEST`]: 63:48 highest version, 47:32 lowest, 31:24 C bit.
    pub const SEV_INFO_RESPONSE: u64 = 0x001;
    /// Which versions, which C bit?
    pub const SEV_INFO_REQUEST: u64 = 0x002;
    /// CPUID: 63:32 function, 31:30 register (EAX, EBX, ECX, EDX).
    pub const CPUID_REQUEST: u64 = 0x004;
    /// 63:32 the register's value.
    pub const CPUID_RESPONSE: u64 = 0x005;
    /// Where would the host like the GHCB?
    pub const PREFERRED_GPA_REQUEST: u64 = 0x010;
    /// 63:12 frame, all ones = no preference.
    pub const PREFERRED_GPA_RESPONSE: u64 = 0x011;
    /// Register the page in 63:12.
    pub const REGISTER_REQUEST: u64 = 0x012;
    /// 63:12 the same frame, or all ones = refused.
    pub const REGISTER_RESPONSE: u64 = 0x013;
    /// Change the state of one 4 KiB page: 51:12 frame, 55:52 operation.
    pub const PSC_REQUEST: u64 = 0x014;
    /// 63:32 error (0 = done), 31:12 zero.
    pub const PSC_RESPONSE: u64 = 0x015;
    /// What can the host do?
    pub const FEATURES_REQUEST: u64 = 0x080;
    /// 63:12 the feature bits, see [`super::features`].
    pub const FEATURES_RESPONSE: u64 = 0x081;
    /// Stop the VM: 15:12 set, 23:16 reason. No return.
    pub const TERMINATE_REQUEST: u64 = 0x100;

    /// The request or reply code of a value.
    pub const fn info(value: u64) -> u64 {
        value & INFO_MASK
    }
    /// The frame number in bits 63:12 (register and preferred replies).
    pub const fn frame(value: u64) -> u64 {
        value >> 12
    }
    /// Refused registration, no preference: all ones in 63:12.
    pub const NO_FRAME: u64 = u64::MAX >> 12;

    /// Announces the page at `gpa` for the next VMGEXIT.
    pub const fn page(gpa: u64) -> u64 {
        gpa & !INFO_MASK
    }
    /// Registers the page at `gpa`.
    pub const fn register(gpa: u64) -> u64 {
        gpa & !INFO_MASK | REGISTER_REQUEST
    }
    /// The reply that grants [`register`].
    pub const fn registered(gpa: u64) -> u64 {
        gpa & !INFO_MASK | REGISTER_RESPONSE
    }
    /// Changes the state of the 4 KiB page at `gpa`; `operation` is
    /// [`super::PSC_PRIVATE`] or [`super::PSC_SHARED`].
    pub const fn psc(gpa: u64, operation: u8) -> u64 {
        (operation as u64 & 0xf) << 52 | gpa & 0x000f_ffff_ffff_f000 | PSC_REQUEST
    }
    /// GPA of a [`PSC_REQUEST`].
    pub const fn psc_gpa(value: u64) -> u64 {
        value & 0x000f_ffff_ffff_f000
    }
    /// Operation of a [`PSC_REQUEST`].
    pub const fn psc_operation(value: u64) -> u8 {
        (value >> 52 & 0xf) as u8
    }
    /// Stops the VM with a reason.
    pub const fn terminate(set: u8, reason: u8) -> u64 {
        (reason as u64) << 16 | (set as u64 & 0xf) << 12 | TERMINATE_REQUEST
    }
    /// `(set, reason)` of a [`TERMINATE_REQUEST`].
    pub const fn terminate_reason(value: u64) -> (u8, u8) {
        ((value >> 12 & 0xf) as u8, (value >> 16 & 0xff) as u8)
    }
    /// Builds the reply to [`SEV_INFO_REQUEST`].
    pub const fn sev_info(max_version: u16, min_version: u16, c_bit: u8) -> u64 {
        (max_version as u64) << 48
            | (min_version as u64) << 32
            | (c_bit as u64) << 24
            | SEV_INFO_RESPONSE
    }
    /// `(highest version, lowest version, C bit)` of a reply to [`SEV_INFO_REQUEST`].
    pub const fn sev_info_fields(value: u64) -> (u16, u16, u8) {
        (
            (value >> 48) as u16,
            (value >> 32) as u16,
            (value >> 24) as u8,
        )
    }
}

/// Bits of the HV features reply (section 4.1.13), Hyper-V answers 3.
pub mod features {
    /// SEV-SNP.
    pub const SNP: u64 = 1 << 0;
    /// AP creation.
    pub const AP_CREATION: u64 = 1 << 1;
}

/// Reason sets of a termination request: 0 general, 1 Linux; ours is
/// [`crate::record::TERMINATE_SET`].
pub mod terminate {
    /// The general set.
    pub const SET_GENERAL: u8 = 0;
    /// General reason.
    pub const GENERAL: u8 = 0;
    /// The protocol versions do not overlap.
    pub const PROTOCOL_RANGE: u8 = 1;
    /// SNP is needed and missing.
    pub const SNP_UNSUPPORTED: u8 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psc_request_puts_operation_in_55_52() {
        let v = msr::psc(0x0880_1000, PSC_SHARED);
        assert_eq!(v, 0x0020_0000_0880_1014);
        assert_eq!(msr::psc_gpa(v), 0x0880_1000);
        assert_eq!(msr::psc_operation(v), PSC_SHARED);
    }

    #[test]
    fn termination_puts_set_in_15_12_and_reason_in_23_16() {
        assert_eq!(msr::terminate(5, 6), 0x0006_5100);
        assert_eq!(msr::terminate_reason(0x0006_5100), (5, 6));
    }

    #[test]
    fn psc_entry_fields() {
        let e = PscEntry::new(0x12345, PSC_PRIVATE, true);
        assert_eq!(e.0, 0x0110_0000_1234_5000);
        assert_eq!(
            (e.gfn(), e.operation(), e.large()),
            (0x12345, PSC_PRIVATE, true)
        );
    }

    #[test]
    fn ioio_info_of_a_byte_written_to_com2() {
        assert_eq!(ioio::info1(0x2f8, 1, false), 0x02f8_0010);
        assert_eq!(ioio::info1(0x64, 1, true), 0x0064_0011);
    }
}
