//! The Hyper-V hypervisor interface: identity, hypercalls, synthetic MSRs, VP
//! registers, SynIC pages, timers, reference time.
//!
//! Sources: Hypervisor Top-Level Functional Specification (TLFS), Linux
//! `include/hyperv/hvgdk*.h` and `arch/x86/include/asm/hyperv-tlfs.h`, OpenVMM
//! `hvdef`. All integers are little-endian; addresses are guest-physical.
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub mod cpuid;

const _: () = assert!(cfg!(target_endian = "little"));

/// Size of a page, of every overlay and of the unit of every GPADL.
pub const PAGE_SIZE: usize = 4096;

/// Synthetic MSRs (TLFS appendix; Linux `HV_X64_MSR_*`).
pub mod msr {
    /// Guest OS id, partition-wide; see [`super::guest_os_id`].
    pub const GUEST_OS_ID: u32 = 0x4000_0000;
    /// Hypercall page: bit 0 enable, 1 locked, 63:12 frame.
    pub const HYPERCALL: u32 = 0x4000_0001;
    /// This VP's index, read-only.
    pub const VP_INDEX: u32 = 0x4000_0002;
    /// Partition reference counter in 100 ns, read-only.
    pub const TIME_REF_COUNT: u32 = 0x4000_0020;
    /// Reference TSC page: bit 0 enable, 63:12 frame.
    pub const REFERENCE_TSC: u32 = 0x4000_0021;
    /// TSC frequency in Hz, read-only.
    pub const TSC_FREQUENCY: u32 = 0x4000_0022;
    /// APIC timer frequency in Hz, read-only.
    pub const APIC_FREQUENCY: u32 = 0x4000_0023;
    /// End of interrupt.
    pub const EOI: u32 = 0x4000_0070;
    /// Interrupt command.
    pub const ICR: u32 = 0x4000_0071;
    /// Task priority.
    pub const TPR: u32 = 0x4000_0072;
    /// VP assist page: bit 0 enable, 63:12 frame.
    pub const VP_ASSIST_PAGE: u32 = 0x4000_0073;
    /// SynIC control: bit 0 enable.
    pub const SCONTROL: u32 = 0x4000_0080;
    /// SynIC version, read-only; reads 1.
    pub const SVERSION: u32 = 0x4000_0081;
    /// Event-flags page; see [`super::OverlayPage`].
    pub const SIEFP: u32 = 0x4000_0082;
    /// Message page; see [`super::OverlayPage`].
    pub const SIMP: u32 = 0x4000_0083;
    /// End of message; any write.
    pub const EOM: u32 = 0x4000_0084;
    /// First of 16 SINT registers; see [`super::Sint`].
    pub const SINT0: u32 = 0x4000_0090;
    /// Last SINT register.
    pub const SINT15: u32 = 0x4000_009F;
    /// First of four timer pairs, CONFIG (even) and COUNT (odd).
    pub const STIMER0_CONFIG: u32 = 0x4000_00B0;
    /// COUNT of timer 0.
    pub const STIMER0_COUNT: u32 = 0x4000_00B1;
    /// Last timer register (COUNT of timer 3).
    pub const STIMER3_COUNT: u32 = 0x4000_00B7;
    /// Crash parameters P0..P4.
    pub const CRASH_P0: u32 = 0x4000_0100;
    /// Crash control.
    pub const CRASH_CTL: u32 = 0x4000_0105;
    /// The x2APIC EOI register, which ends a SynIC interrupt as well.
    pub const X2APIC_EOI: u32 = 0x80B;
}

/// Number of synthetic interrupt sources per VP.
pub const SINT_COUNT: usize = 16;
/// Number of synthetic timers per VP.
pub const STIMER_COUNT: usize = 4;
/// What SVERSION reads (OpenVMM; TLFS gives no value).
pub const SYNIC_VERSION: u64 = 1;
/// SCONTROL bit 0.
pub const SCONTROL_ENABLE: u64 = 1;

/// Guest OS id in the open-source form (TLFS section 2.6): build in 15:0,
/// version in 47:16, OS id in 55:48, OS type in 62:56, bit 63 set.
pub const fn guest_os_id(os_type: u8, version: u32, build: u16) -> u64 {
    (1 << 63) | (((os_type & 0x7f) as u64) << 56) | ((version as u64) << 16) | build as u64
}

/// VP register names for Get/SetVpRegisters (OpenVMM `HvX64RegisterName`).
pub mod reg {
    /// Guest OS id.
    pub const GUEST_OS_ID: u32 = 0x0009_0002;
    /// VP index.
    pub const VP_INDEX: u32 = 0x0009_0003;
    /// Reference counter.
    pub const TIME_REF_COUNT: u32 = 0x0009_0004;
    /// VP assist page.
    pub const VP_ASSIST_PAGE: u32 = 0x0009_0013;
    /// Reference TSC page.
    pub const REFERENCE_TSC: u32 = 0x0009_0017;
    /// GHCB overlay of a lower VTL.
    pub const GHCB: u32 = 0x0009_0019;
    /// VMSA of a VP: page address with bit 0 as enable.
    pub const SEV_CONTROL: u32 = 0x0009_0040;
    /// Registered GHCB.
    pub const SEV_GHCB_GPA: u32 = 0x0009_0041;
    /// Secure AVIC backing page.
    pub const SEV_AVIC_GPA: u32 = 0x0009_0043;
    /// First of 16 SINT registers.
    pub const SINT0: u32 = 0x000A_0000;
    /// SCONTROL.
    pub const SCONTROL: u32 = 0x000A_0010;
    /// SVERSION.
    pub const SVERSION: u32 = 0x000A_0011;
    /// SIEFP.
    pub const SIFP: u32 = 0x000A_0012;
    /// SIMP.
    pub const SIPP: u32 = 0x000A_0013;
    /// EOM.
    pub const EOM: u32 = 0x000A_0014;
    /// First of eight timer registers, CONFIG (even) and COUNT (odd).
    pub const STIMER0_CONFIG: u32 = 0x000B_0000;
}

/// Hypercall codes.
pub mod call {
    /// Read VP registers, rep call.
    pub const GET_VP_REGISTERS: u16 = 0x0050;
    /// Write VP registers, rep call.
    pub const SET_VP_REGISTERS: u16 = 0x0051;
    /// Post a message to a port.
    pub const POST_MESSAGE: u16 = 0x005C;
    /// Signal an event flag of a port.
    pub const SIGNAL_EVENT: u16 = 0x005D;
    /// Start a virtual processor.
    pub const START_VIRTUAL_PROCESSOR: u16 = 0x0099;
    /// VP index from APIC id.
    pub const GET_VP_INDEX_FROM_APIC_ID: u16 = 0x009A;
}

/// Hypercall status, bits 15:0 of the result value.
pub mod status {
    /// Done.
    pub const SUCCESS: u16 = 0;
    /// Unknown hypercall code.
    pub const INVALID_HYPERCALL_CODE: u16 = 2;
    /// Reserved bits, wrong rep count or start.
    pub const INVALID_HYPERCALL_INPUT: u16 = 3;
    /// Input or output is not 8-byte aligned.
    pub const INVALID_ALIGNMENT: u16 = 4;
    /// A parameter is wrong.
    pub const INVALID_PARAMETER: u16 = 5;
    /// No privilege.
    pub const ACCESS_DENIED: u16 = 6;
    /// The object is not in a state for it.
    pub const OPERATION_DENIED: u16 = 8;
    /// Not enough memory.
    pub const INSUFFICIENT_MEMORY: u16 = 0xB;
    /// No such partition.
    pub const INVALID_PARTITION_ID: u16 = 0xD;
    /// No such VP.
    pub const INVALID_VP_INDEX: u16 = 0xE;
    /// The port is gone or of another kind.
    pub const INVALID_PORT_ID: u16 = 0x11;
    /// No such connection.
    pub const INVALID_CONNECTION_ID: u16 = 0x12;
    /// Every buffer of the port is in use.
    pub const INSUFFICIENT_BUFFERS: u16 = 0x13;
    /// The VP is not in a state for it.
    pub const INVALID_VP_STATE: u16 = 0x15;
    /// The target SynIC or its page is off.
    pub const INVALID_SYNIC_STATE: u16 = 0x18;
    /// Repeat the call from the rep that the result names.
    pub const TIMEOUT: u16 = 0x78;
}

/// "This partition".
pub const PARTITION_ID_SELF: u64 = u64::MAX;
/// "The calling VP".
pub const VP_INDEX_SELF: u32 = 0xFFFF_FFFE;
/// `target_vtl` byte: bit 4 says that bits 3:0 are meant.
pub const TARGET_VTL_VALID: u8 = 0x10;

/// Hypercall input value (TLFS section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(pub u64);

impl Control {
    /// Bits that must be zero.
    pub const RESERVED: u64 = 0xF << 27 | 0xF << 44 | 0xF << 60;
    /// Bit 16: input in registers.
    pub const FAST: u64 = 1 << 16;
    /// A call without reps.
    pub const fn simple(code: u16) -> Self {
        Control(code as u64)
    }
    /// A rep call of `count` elements (12 bits).
    pub const fn rep(code: u16, count: u16) -> Self {
        Control(code as u64 | ((count & 0xfff) as u64) << 32)
    }
    /// The same call, to go on from element `start` (12 bits).
    pub const fn with_rep_start(self, start: u16) -> Self {
        Control(self.0 & !(0xfff << 48) | ((start & 0xfff) as u64) << 48)
    }
    /// Call code.
    pub const fn code(self) -> u16 {
        self.0 as u16
    }
    /// Whether the input is in registers.
    pub const fn is_fast(self) -> bool {
        self.0 & Self::FAST != 0
    }
    /// Variable header size in 8-byte units.
    pub const fn variable_header(self) -> u16 {
        (self.0 >> 17) as u16 & 0x3ff
    }
    /// Number of elements.
    pub const fn rep_count(self) -> u16 {
        (self.0 >> 32) as u16 & 0xfff
    }
    /// First element to do.
    pub const fn rep_start(self) -> u16 {
        (self.0 >> 48) as u16 & 0xfff
    }
}

/// Hypercall result value: status in 15:0, elements completed in total in 43:32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallResult(pub u64);

impl CallResult {
    /// Puts a result together; `reps` has 12 bits.
    pub const fn new(status: u16, reps: u16) -> Self {
        CallResult(status as u64 | ((reps & 0xfff) as u64) << 32)
    }
    /// One of [`status`], or a value that is not known.
    pub const fn status(self) -> u16 {
        self.0 as u16
    }
    /// Elements completed, counted from element 0.
    pub const fn reps(self) -> u16 {
        (self.0 >> 32) as u16 & 0xfff
    }
}

/// SINT register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sint(pub u64);

impl Sint {
    /// Reset value: masked, no vector.
    pub const RESET: Sint = Sint(Self::MASKED);
    /// No interrupt is raised.
    pub const MASKED: u64 = 1 << 16;
    /// The interrupt needs no EOI.
    pub const AUTO_EOI: u64 = 1 << 17;
    /// Unmasked, but no interrupt.
    pub const POLLING: u64 = 1 << 18;
    /// Unmasked with a vector (16..=255).
    pub const fn new(vector: u8, auto_eoi: bool) -> Self {
        Sint(vector as u64 | if auto_eoi { Self::AUTO_EOI } else { 0 })
    }
    /// Interrupt vector.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }
    /// Bit 16.
    pub const fn masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }
    /// Bit 17.
    pub const fn auto_eoi(self) -> bool {
        self.0 & Self::AUTO_EOI != 0
    }
    /// Bit 18.
    pub const fn polling(self) -> bool {
        self.0 & Self::POLLING != 0
    }
}

/// SIMP, SIEFP, reference TSC, VP assist and hypercall page registers: bit 0
/// enable, 63:12 frame, the rest preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayPage(pub u64);

impl OverlayPage {
    /// Enabled at the page that holds `gpa`.
    pub const fn enabled_at(gpa: u64) -> Self {
        OverlayPage(gpa & !0xfff | 1)
    }
    /// Bit 0.
    pub const fn enabled(self) -> bool {
        self.0 & 1 != 0
    }
    /// Address of the page.
    pub const fn gpa(self) -> u64 {
        self.0 & !0xfff
    }
}

/// STIMERn_CONFIG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StimerConfig(pub u64);

impl StimerConfig {
    /// Running.
    pub const ENABLE: u64 = 1 << 0;
    /// COUNT is a period.
    pub const PERIODIC: u64 = 1 << 1;
    /// Missed expiries are skipped.
    pub const LAZY: u64 = 1 << 2;
    /// A non-zero COUNT enables.
    pub const AUTO_ENABLE: u64 = 1 << 3;
    /// Raise the APIC vector in 11:4; no message.
    pub const DIRECT: u64 = 1 << 12;
    /// Bits that exist.
    pub const KNOWN: u64 = 0x000F_1FFF;
    /// One-shot or periodic timer in direct mode.
    pub const fn direct(vector: u8, flags: u64) -> Self {
        StimerConfig(Self::DIRECT | (vector as u64) << 4 | flags)
    }
    /// One-shot or periodic timer that sends messages to `sint` (0..=15).
    pub const fn message(sint: u8, flags: u64) -> Self {
        StimerConfig(((sint & 0xf) as u64) << 16 | flags)
    }
    /// Whether all of these flag bits are set.
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }
    /// Vector for direct mode.
    pub const fn vector(self) -> u8 {
        (self.0 >> 4) as u8
    }
    /// SINT for message mode.
    pub const fn sint(self) -> u8 {
        (self.0 >> 16) as u8 & 0xf
    }
}

/// Most payload bytes of a message.
pub const MESSAGE_PAYLOAD: usize = 240;
/// Slot `n` of a message page lies at `n * MESSAGE_SLOT`.
pub const MESSAGE_SLOT: usize = 256;
/// Flag area `n` of an event-flags page lies at `n * EVENT_FLAGS_AREA`.
pub const EVENT_FLAGS_AREA: usize = 256;
/// Flags per SINT.
pub const EVENT_FLAGS: usize = EVENT_FLAGS_AREA * 8;
/// Slot is empty.
pub const MESSAGE_TYPE_NONE: u32 = 0;
/// Set in types that only the hypervisor may use.
pub const MESSAGE_TYPE_HYPERVISOR: u32 = 1 << 31;
/// Timer expired; payload is [`TimerMessage`].
pub const MESSAGE_TYPE_TIMER_EXPIRED: u32 = 0x8000_0010;
/// Flag: another message waits for this slot.
pub const MESSAGE_FLAG_PENDING: u8 = 1;

/// Head of a message slot; 240 payload bytes follow. Bytes beyond
/// `payload_size` may be stale.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MessageHeader {
    /// 0 = slot empty.
    pub message_type: u32,
    /// At most [`MESSAGE_PAYLOAD`].
    pub payload_size: u8,
    /// Bit 0: [`MESSAGE_FLAG_PENDING`].
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
    /// Port or sender.
    pub origin: u64,
}
const_assert_eq!(size_of::<MessageHeader>(), 16);

/// One whole slot of a message page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Message {
    /// What the payload is.
    pub header: MessageHeader,
    /// `header.payload_size` bytes count.
    pub payload: [u8; MESSAGE_PAYLOAD],
}
const_assert_eq!(size_of::<Message>(), MESSAGE_SLOT);

/// Payload of a timer message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TimerMessage {
    /// 0..=3.
    pub timer_index: u32,
    /// Zero.
    pub reserved: u32,
    /// When it was due, 100 ns.
    pub expiration: u64,
    /// When the message was written, 100 ns.
    pub delivery: u64,
}
const_assert_eq!(size_of::<TimerMessage>(), 24);

/// Input of PostMessage. Slow form only.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PostMessage {
    /// 24 bits.
    pub connection_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Non-zero, bit 31 clear; VMBus uses [`VMBUS_MESSAGE_TYPE`].
    pub message_type: u32,
    /// At most [`MESSAGE_PAYLOAD`].
    pub payload_size: u32,
    /// Bytes beyond `payload_size` are zero.
    pub payload: [u8; MESSAGE_PAYLOAD],
}
const_assert_eq!(size_of::<PostMessage>(), 256);

/// Message type of all VMBus channel messages.
pub const VMBUS_MESSAGE_TYPE: u32 = 1;

/// Input of SignalEvent. May be given fast.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SignalEvent {
    /// 24 bits.
    pub connection_id: u32,
    /// Relative to the port's base flag.
    pub flag: u16,
    /// Zero.
    pub reserved: u16,
}
const_assert_eq!(size_of::<SignalEvent>(), 8);

/// Head of Get/SetVpRegisters. Get: register names (u32) follow, values
/// ([`RegisterValue`]) come out. Set: [`RegisterAssignment`]s follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VpRegistersHeader {
    /// [`PARTITION_ID_SELF`].
    pub partition_id: u64,
    /// Index or [`VP_INDEX_SELF`].
    pub vp_index: u32,
    /// 0 = the caller's, else [`TARGET_VTL_VALID`] | level.
    pub target_vtl: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const_assert_eq!(size_of::<VpRegistersHeader>(), 16);

/// A register's value; 64-bit registers use the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegisterValue {
    /// Low half.
    pub low: u64,
    /// High half.
    pub high: u64,
}
const_assert_eq!(size_of::<RegisterValue>(), 16);

/// Element of SetVpRegisters.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegisterAssignment {
    /// One of [`reg`].
    pub name: u32,
    /// Zero.
    pub pad: [u32; 3],
    /// New value.
    pub value: RegisterValue,
}
const_assert_eq!(size_of::<RegisterAssignment>(), 32);

/// Head of StartVirtualProcessor; a 224-byte initial context follows. On SNP the
/// context's first word is the VMSA page with bit 0 set (Linux `ivm.c`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StartVpHeader {
    /// [`PARTITION_ID_SELF`].
    pub partition_id: u64,
    /// VP to start.
    pub vp_index: u32,
    /// Level to start it in.
    pub target_vtl: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const_assert_eq!(size_of::<StartVpHeader>(), 16);
/// Size of the whole StartVirtualProcessor input.
pub const START_VP_INPUT: usize = 240;

/// Head of the reference TSC page (TLFS section 12.7): reference time in 100 ns
/// = high 64 bits of (TSC * scale) + offset, unless `sequence` is 0 (invalid:
/// read the MSR). Read sequence, TSC, scale, offset, sequence again.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReferenceTsc {
    /// Changes with every update; 0 = invalid.
    pub sequence: u32,
    /// Zero.
    pub reserved: u32,
    /// 2^64 * 10^7 / TSC frequency.
    pub scale: u64,
    /// 100 ns.
    pub offset: i64,
}
const_assert_eq!(size_of::<ReferenceTsc>(), 24);

/// Head of the VP assist page (TLFS section 14.3, VTL control at 8).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VpAssist {
    /// Bit 0: no EOI required.
    pub apic_assist: u32,
    /// Zero.
    pub reserved: u32,
    /// Why the level was entered: 1 call, 2 interrupt, 3 intercept.
    pub vtl_entry_reason: u32,
    /// Flags of the VTL control.
    pub vtl_flags: u32,
    /// RAX to give back at a VTL return.
    pub vtl_return_rax: u64,
    /// RCX to give back at a VTL return.
    pub vtl_return_rcx: u64,
}
const_assert_eq!(size_of::<VpAssist>(), 32);
/// `vtl_entry_reason`: the lower level called.
pub const VTL_ENTRY_CALL: u32 = 1;
/// `vtl_entry_reason`: an interrupt for this level.
pub const VTL_ENTRY_INTERRUPT: u32 = 2;
/// `vtl_entry_reason`: an intercept message waits.
pub const VTL_ENTRY_INTERCEPT: u32 = 3;

/// Connection id of a message port (TLFS gives 24 bits; layout by OpenVMM):
/// multiclient port 4 of a level, VP and SINT. `message_connection(2, 0, 7)` = 0x800074.
pub const fn message_connection(vtl: u8, vp: u8, sint: u8) -> u32 {
    4 | ((vtl & 3) as u32) << 22 | (vp as u32) << 8 | ((sint & 0xf) as u32) << 4
}
const_assert_eq!(message_connection(2, 0, 7), 0x80_0074);

/// The shared hypercall page in a GHCB with usage 1 (Linux `union hv_ghcb`).
pub mod ghcb_hypercall {
    /// Input starts here.
    pub const INPUT: usize = 0;
    /// Bytes of inline input.
    pub const INPUT_SIZE: usize = 4072;
    /// GPA of the output, u64.
    pub const OUTPUT_GPA: usize = 0xFE8;
    /// Control word in, result out, u64.
    pub const CONTROL: usize = 0xFF0;
    /// `usage` of the GHCB for a hypercall.
    pub const USAGE_HYPERCALL: u32 = 1;
    /// `usage` of the GHCB to run a lower privilege level.
    pub const USAGE_VTL_RETURN: u32 = 2;
}
