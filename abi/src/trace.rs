//! The file in which a run keeps every byte that the host side handed over.
//!
//! A [`FileHeader`], then records: a [`RecordHead`] and its payload, one behind
//! the other, the last one of kind [`Kind::END`]. All integers are little-endian.
//! What is recorded is what crosses the boundary itself: accesses of the host
//! side to the VM's memory, registers, hypercalls, interrupts. What a slot, a
//! ring or a buffer is follows from the registers and messages in the same
//! trace, so that the recorder knows no protocol and cannot leave out what one
//! of them does not expect. `docs/trace-format.md` has the whole story.

use core::mem::{offset_of, size_of};
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a trace. The first is no text and the line ends are there to
/// be broken by whoever treats the file as text.
pub const MAGIC: [u8; 8] = *b"\x89UCTR\r\n\x1a";
/// Version of the format; a reader refuses others.
pub const VERSION: u16 = 1;
/// [`FileHeader::byte_order`] as it must be read.
pub const BYTE_ORDER: u32 = 0x0102_0304;
/// Unit of all times, in nanoseconds: the partition reference clock's.
pub const CLOCK_UNIT_NS: u32 = 100;
/// Longest payload of a record. Longer accesses are cut into several records.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Reflected polynomial of the checksums (CRC-32 of IEEE 802.3).
pub const CRC_POLYNOMIAL: u32 = 0xedb8_8320;

/// Start of the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FileHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U16,
    /// Bytes of this header: 64.
    pub header_size: U16,
    /// [`BYTE_ORDER`].
    pub byte_order: U32,
    /// [`CLOCK_UNIT_NS`].
    pub clock_unit_ns: U32,
    /// Zero.
    pub reserved: U32,
    /// Reference time at which the recording began.
    pub start: U64,
    /// Who wrote it: ASCII, filled up with zeros.
    pub creator: [u8; 28],
    /// CRC-32 of the 60 bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<FileHeader>(), 64);
const_assert_eq!(offset_of!(FileHeader, crc), 60);

/// In front of every record's payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHead {
    /// Bytes of the payload, at most [`MAX_PAYLOAD`].
    pub length: U32,
    /// See [`Kind`].
    pub kind: U16,
    /// Zero.
    pub reserved: U16,
    /// 0 for the first record, then one more each time.
    pub sequence: U64,
    /// Reference time.
    pub time: U64,
    /// Registers, hypercalls and interrupts: the VP. Memory: 0, since memory
    /// belongs to no channel before a reader knows whose page it is.
    pub subject: U32,
    /// CRC-32 of the 28 bytes before and of the payload.
    pub crc: U32,
}
const_assert_eq!(size_of::<RecordHead>(), 32);
const_assert_eq!(offset_of!(RecordHead, crc), 28);

/// Kind of a record. Any value can be represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $number:literal $name:ident $text:literal $least:literal;)*) => {
        impl Kind {
            $($(#[doc = $doc])* pub const $name: Kind = Kind($number);)*
            /// Every kind with its name and its least payload in bytes.
            pub const ALL: &'static [(Kind, &'static str, usize)] =
                &[$((Kind::$name, $text, $least)),*];
        }
    };
}

kinds! {
    /// The host side wrote memory: address (u64), bytes.
    0x10 WRITE "write" 8;
    /// The host side stored a word: address (u64), value (u32).
    0x11 STORE "store" 12;
    /// The host side set bits of a word: address (u64), old value (u32), bits (u32).
    0x12 SET_BITS "set-bits" 16;
    /// The host side exchanged a word: address (u64), old (u32), new (u32).
    0x13 EXCHANGE "exchange" 16;
    /// The host side read memory: address (u64), the bytes that it found. This
    /// is what the guest's side has sent.
    0x20 READ "read" 8;
    /// The host side loaded a word and found it changed: address (u64), value (u32).
    0x21 LOAD "load" 12;
    /// An access to memory that is not shared was refused: address (u64).
    0x22 REFUSED "refused" 8;
    /// The guest reads a register: number (u32), 0 or 1 = fault (u32), the answer (u64).
    0x30 REGISTER_READ "register-read" 16;
    /// The guest writes a register: number (u32), zero (u32), value (u64). Comes
    /// before whatever the write leads to.
    0x31 REGISTER_WRITE "register-write" 16;
    /// The last register write raised a fault: number (u32), zero (u32).
    0x32 REGISTER_FAULT "register-fault" 8;
    /// The guest makes a hypercall: control (u64), input without the zeros at
    /// its end. Comes before whatever the call leads to.
    0x33 CALL "call" 8;
    /// What a hypercall returns: result (u64), output without the zeros at its end.
    0x34 RESULT "result" 8;
    /// An interrupt was taken: vector (u32).
    0x35 INTERRUPT "interrupt" 4;
    /// A request through the GHCB MSR and its answer: two u64.
    0x36 GHCB "ghcb" 16;
    /// Records that had no room just before this one: how many (u64).
    0x40 DROPPED "dropped" 8;
    /// The last record: records before it (u64), records dropped in all (u64).
    0x41 END "end" 16;
}

impl Kind {
    /// Name and least payload; `None` for a kind that this version does not have.
    pub fn info(self) -> Option<(&'static str, usize)> {
        Kind::ALL
            .iter()
            .find(|(kind, _, _)| *kind == self)
            .map(|(_, name, least)| (*name, *least))
    }
}
