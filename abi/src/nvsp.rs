//! NVSP: the messages between the NIC's driver and Hyper-V's virtual switch
//! that travel as payloads of in-band, transfer-page and completion packets.
//!
//! Layouts follow Linux `drivers/net/hyperv/hyperv_net.h` and OpenVMM
//! `vm/devices/net/netvsp/src/protocol.rs`. Every structure starts with the
//! message type at offset 0; all fields are little-endian and byte-aligned.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Declares a wire structure with its size and the offset of every field, both
/// checked at compile time.
macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident: $size:literal {
        $($(#[$fmeta:meta])* $field:ident: $ty:ty = $offset:literal,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq,
            FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $ty,)*
        }
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    )*};
}
pub(crate) use wire;

/// Protocol versions, oldest first.
pub mod version {
    /// NVSP 1.
    pub const V1: u32 = 0x0000_0002;
    /// NVSP 2.
    pub const V2: u32 = 0x0003_0002;
    /// NVSP 4.
    pub const V4: u32 = 0x0004_0000;
    /// NVSP 5.
    pub const V5: u32 = 0x0005_0000;
    /// NVSP 6.
    pub const V6: u32 = 0x0006_0000;
    /// NVSP 6.1: the floor of an isolated guest.
    pub const V61: u32 = 0x0006_0001;
}

/// Message types (offset 0 of every message).
pub mod message {
    /// Guest proposes a version.
    pub const INIT: u32 = 1;
    /// Completion of [`INIT`].
    pub const INIT_COMPLETE: u32 = 2;
    /// Guest tells its NDIS version.
    pub const SEND_NDIS_VERSION: u32 = 100;
    /// Guest names its receive buffer.
    pub const SEND_RECEIVE_BUFFER: u32 = 101;
    /// Completion of [`SEND_RECEIVE_BUFFER`].
    pub const SEND_RECEIVE_BUFFER_COMPLETE: u32 = 102;
    /// Guest takes its receive buffer back.
    pub const REVOKE_RECEIVE_BUFFER: u32 = 103;
    /// Guest names its send buffer.
    pub const SEND_SEND_BUFFER: u32 = 104;
    /// Completion of [`SEND_SEND_BUFFER`].
    pub const SEND_SEND_BUFFER_COMPLETE: u32 = 105;
    /// Guest takes its send buffer back.
    pub const REVOKE_SEND_BUFFER: u32 = 106;
    /// RNDIS message, either way.
    pub const SEND_RNDIS_PACKET: u32 = 107;
    /// Completion of [`SEND_RNDIS_PACKET`], either way.
    pub const SEND_RNDIS_PACKET_COMPLETE: u32 = 108;
    /// Guest tells MTU and capabilities (version 2 and later).
    pub const SEND_NDIS_CONFIG: u32 = 125;
    /// Host announces or withdraws an SR-IOV function.
    pub const SEND_VF_ASSOCIATION: u32 = 128;
    /// Guest moves traffic to or from an SR-IOV function.
    pub const SWITCH_DATA_PATH: u32 = 129;
    /// OID query by NVSP (version 5 and later).
    pub const OID_QUERY_EX: u32 = 131;
    /// Completion of [`OID_QUERY_EX`].
    pub const OID_QUERY_EX_COMPLETE: u32 = 132;
    /// Sub-channel request (guest to host) and its completion (host to guest).
    pub const SUB_CHANNEL: u32 = 133;
    /// Host tells which channel to transmit on, by hash.
    pub const SEND_INDIRECTION_TABLE: u32 = 134;
}

/// Status values of completions.
pub mod status {
    /// No status.
    pub const NONE: u32 = 0;
    /// Success.
    pub const SUCCESS: u32 = 1;
    /// Failure.
    pub const FAILURE: u32 = 2;
    /// The RNDIS packet could not be parsed.
    pub const INVALID_RNDIS_PACKET: u32 = 5;
    /// Busy.
    pub const BUSY: u32 = 6;
    /// Protocol version not supported.
    pub const VERSION_UNSUPPORTED: u32 = 7;
}

/// Channel type of [`SendRndisPacket`].
pub mod channel_type {
    /// The RNDIS message is a data packet.
    pub const DATA: u32 = 0;
    /// The RNDIS message is a control message.
    pub const CONTROL: u32 = 1;
}

/// Capability bits of [`SendNdisConfig`].
pub mod capability {
    /// Virtual machine queues.
    pub const VMQ: u64 = 1 << 0;
    /// TCP chimney.
    pub const CHIMNEY: u64 = 1 << 1;
    /// SR-IOV.
    pub const SRIOV: u64 = 1 << 2;
    /// IEEE 802.1Q per-packet information.
    pub const IEEE_8021Q: u64 = 1 << 3;
    /// Correlation ids.
    pub const CORRELATION_ID: u64 = 1 << 4;
    /// Teaming; link speed events depend on it.
    pub const TEAMING: u64 = 1 << 5;
    /// Virtual subnet ids.
    pub const VIRTUAL_SUBNET_ID: u64 = 1 << 6;
    /// Receive segment coalescing.
    pub const RSC: u64 = 1 << 7;
}

/// Size of every message that a 6.1 guest sends (Linux `struct nvsp_message`).
pub const MESSAGE_SIZE_V61: usize = 40;
/// Id of the receive buffer, also the page set id of transfer-page packets.
pub const RECEIVE_BUFFER_ID: u16 = 0xCAFE;
/// Id of the send buffer (Linux).
pub const SEND_BUFFER_ID: u16 = 0;
/// "Not in the send buffer" as section index of [`SendRndisPacket`].
pub const NO_SECTION: u32 = 0xFFFF_FFFF;
/// Most ranges of one transfer-page packet without receive segment coalescing.
pub const MAX_RANGES: u32 = 375;
/// Most ranges of one transfer-page packet with receive segment coalescing.
pub const MAX_RANGES_RSC: u32 = 562;
/// Entries of a [`SendIndirectionTable`].
pub const INDIRECTION_ENTRIES: u32 = 16;
/// NDIS version that goes with NVSP 5 and later: 6.30, (major, minor).
pub const NDIS_VERSION: (u32, u32) = (6, 30);

wire! {
    /// Start of every message.
    Header: 4 {
        /// One of [`message`].
        message_type: U32 = 0,
    }
    /// [`message::INIT`].
    Init: 12 {
        /// [`message::INIT`].
        message_type: U32 = 0,
        /// Lowest version offered; the same as `max_version` in practice.
        min_version: U32 = 4,
        /// Highest version offered.
        max_version: U32 = 8,
    }
    /// [`message::INIT_COMPLETE`].
    InitComplete: 16 {
        /// [`message::INIT_COMPLETE`].
        message_type: U32 = 0,
        /// Deprecated.
        negotiated_version: U32 = 4,
        /// Longest chain of memory descriptors.
        max_mdl_chain: U32 = 8,
        /// 1 = accepted.
        status: U32 = 12,
    }
    /// [`message::SEND_NDIS_VERSION`].
    SendNdisVersion: 12 {
        /// [`message::SEND_NDIS_VERSION`].
        message_type: U32 = 0,
        /// NDIS major version.
        major: U32 = 4,
        /// NDIS minor version.
        minor: U32 = 8,
    }
    /// [`message::SEND_NDIS_CONFIG`].
    SendNdisConfig: 20 {
        /// [`message::SEND_NDIS_CONFIG`].
        message_type: U32 = 0,
        /// Largest frame in bytes, with the Ethernet header.
        mtu: U32 = 4,
        /// Zero.
        reserved: U32 = 8,
        /// Bits of [`capability`].
        capabilities: U64 = 12,
    }
    /// [`message::SEND_RECEIVE_BUFFER`] and [`message::SEND_SEND_BUFFER`].
    SendBuffer: 10 {
        /// Which buffer.
        message_type: U32 = 0,
        /// GPADL of the buffer.
        gpadl: U32 = 4,
        /// [`RECEIVE_BUFFER_ID`] or [`SEND_BUFFER_ID`].
        id: U16 = 8,
    }
    /// [`message::REVOKE_RECEIVE_BUFFER`] and [`message::REVOKE_SEND_BUFFER`].
    RevokeBuffer: 6 {
        /// Which buffer.
        message_type: U32 = 0,
        /// The id it was sent with.
        id: U16 = 4,
    }
    /// One section of the receive buffer.
    ReceiveSection: 16 {
        /// Bytes from the start of the buffer.
        offset: U32 = 0,
        /// Bytes of one slot.
        sub_allocation_size: U32 = 4,
        /// Number of slots.
        sub_allocation_count: U32 = 8,
        /// First byte behind the last slot.
        end_offset: U32 = 12,
    }
    /// [`message::SEND_RECEIVE_BUFFER_COMPLETE`] with its one section.
    SendReceiveBufferComplete: 28 {
        /// [`message::SEND_RECEIVE_BUFFER_COMPLETE`].
        message_type: U32 = 0,
        /// One of [`status`].
        status: U32 = 4,
        /// Number of sections, always 1.
        section_count: U32 = 8,
        /// The first section.
        section: ReceiveSection = 12,
    }
    /// [`message::SEND_SEND_BUFFER_COMPLETE`].
    SendSendBufferComplete: 12 {
        /// [`message::SEND_SEND_BUFFER_COMPLETE`].
        message_type: U32 = 0,
        /// One of [`status`].
        status: U32 = 4,
        /// Bytes of one section.
        section_size: U32 = 8,
    }
    /// [`message::SEND_RNDIS_PACKET`].
    SendRndisPacket: 16 {
        /// [`message::SEND_RNDIS_PACKET`].
        message_type: U32 = 0,
        /// One of [`channel_type`].
        channel_type: U32 = 4,
        /// Section of the send buffer or [`NO_SECTION`].
        section_index: U32 = 8,
        /// Bytes used in that section.
        section_size: U32 = 12,
    }
    /// [`message::SEND_RNDIS_PACKET_COMPLETE`].
    SendRndisPacketComplete: 8 {
        /// [`message::SEND_RNDIS_PACKET_COMPLETE`].
        message_type: U32 = 0,
        /// One of [`status`].
        status: U32 = 4,
    }
    /// [`message::SEND_VF_ASSOCIATION`].
    SendVfAssociation: 12 {
        /// [`message::SEND_VF_ASSOCIATION`].
        message_type: U32 = 0,
        /// 1 = a function is there.
        allocated: U32 = 4,
        /// Its serial number.
        serial: U32 = 8,
    }
    /// [`message::SWITCH_DATA_PATH`].
    SwitchDataPath: 8 {
        /// [`message::SWITCH_DATA_PATH`].
        message_type: U32 = 0,
        /// 0 = synthetic, 1 = SR-IOV function.
        active: U32 = 4,
    }
    /// [`message::SUB_CHANNEL`], guest to host.
    SubChannelRequest: 12 {
        /// [`message::SUB_CHANNEL`].
        message_type: U32 = 0,
        /// 1 = allocate.
        operation: U32 = 4,
        /// Number of sub-channels wanted.
        count: U32 = 8,
    }
    /// [`message::SUB_CHANNEL`], host to guest.
    SubChannelComplete: 12 {
        /// [`message::SUB_CHANNEL`].
        message_type: U32 = 0,
        /// One of [`status`].
        status: U32 = 4,
        /// Number of sub-channels granted.
        count: U32 = 8,
    }
    /// [`message::SEND_INDIRECTION_TABLE`] without its table.
    SendIndirectionTable: 12 {
        /// [`message::SEND_INDIRECTION_TABLE`].
        message_type: U32 = 0,
        /// Number of entries ([`INDIRECTION_ENTRIES`]).
        count: U32 = 4,
        /// Offset of the table from the message type.
        offset: U32 = 8,
    }
}
