//! Ring headers, packet descriptors and their extended headers.

use super::PAGE_SIZE;
use core::mem::{offset_of, size_of};
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

wire! {
    /// Descriptor at the start of every ring packet.
    16 struct PacketDescriptor {
        /// See [`PacketType`].
        0 => packet_type: U16,
        /// Start of the payload, in units of 8 bytes.
        2 => data_offset8: U16,
        /// Length without the trailer, in units of 8 bytes.
        4 => length8: U16,
        /// Bit 0: completion requested.
        6 => flags: U16,
        /// Echoed in the completion.
        8 => transaction_id: U64,
    }

    /// Extended header of a transfer-page packet (type 7), behind the descriptor.
    8 struct TransferPageHeader {
        /// Id of the receive buffer.
        0 => set_id: U16,
        /// May hold garbage.
        2 => sender_owns_set: u8,
        /// May hold garbage.
        3 => reserved: u8,
        /// Ranges that follow.
        4 => range_count: U32,
    }

    /// Behind the descriptor of a GPA-direct packet; ranges follow (Linux
    /// `struct vmbus_channel_packet_page_buffer`).
    8 struct GpaDirectHeader {
        /// Zero.
        0 => reserved: U32,
        /// Ranges that follow.
        4 => range_count: U32,
    }

    /// One range of a GPA-direct packet, inside one page (Linux `struct
    /// hv_page_buffer`; a `GpaRange` with one page frame number).
    16 struct PageRange {
        /// Bytes.
        0 => byte_count: U32,
        /// Offset into the page.
        4 => byte_offset: U32,
        /// Page frame number.
        8 => pfn: U64,
    }

    /// One range of a transfer-page packet.
    8 struct TransferPageRange {
        /// Bytes.
        0 => byte_count: U32,
        /// Offset into the receive buffer.
        4 => byte_offset: U32,
    }
}

/// Bytes of the control page in front of a ring's data.
pub const RING_HEADER_SIZE: usize = PAGE_SIZE;
/// Offset of the write index (u32, owner: sender).
pub const RING_WRITE_INDEX: usize = 0;
/// Offset of the read index (u32, owner: receiver).
pub const RING_READ_INDEX: usize = 4;
/// Offset of the interrupt mask (u32, owner: receiver; 1 = no signal on new data).
pub const RING_INTERRUPT_MASK: usize = 8;
/// Offset of the pending send size (u32, owner: sender).
pub const RING_PENDING_SEND_SIZE: usize = 12;
/// Offset of the feature bits (u32, owner: sender).
pub const RING_FEATURE_BITS: usize = 64;
/// Feature bit: the pending send size is used.
pub const RING_FEATURE_PENDING_SEND_SIZE: u32 = 1;
/// Bytes that stay free in a full ring (equal indices mean empty).
pub const RING_GAP: usize = 8;
/// Bytes behind every packet: u32 reserved (zero), u32 start offset of the packet.
pub const PACKET_TRAILER_SIZE: usize = 8;
/// Smallest packet with its trailer.
pub const PACKET_MIN_SIZE: usize = size_of::<PacketDescriptor>() + PACKET_TRAILER_SIZE;
/// [`PacketDescriptor::flags`]: the sender wants a completion.
pub const PACKET_FLAG_COMPLETION_REQUESTED: u16 = 1;

/// Type of a ring packet. Any value can be represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketType(pub u16);

impl PacketType {
    /// Payload in the ring.
    pub const IN_BAND: PacketType = PacketType(6);
    /// Ranges of a buffer that was shared before.
    pub const TRANSFER_PAGES: PacketType = PacketType(7);
    /// Payload in a GPADL.
    pub const GPADL_DATA: PacketType = PacketType(8);
    /// Payload at guest-physical addresses.
    pub const GPA_DIRECT: PacketType = PacketType(9);
    /// Cancels a request.
    pub const CANCEL: PacketType = PacketType(10);
    /// Answers a packet that asked for it.
    pub const COMPLETION: PacketType = PacketType(11);
}
