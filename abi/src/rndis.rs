//! RNDIS as the Hyper-V NIC speaks it: one message per range of the receive
//! buffer, one or more per section of the send buffer.
//!
//! Layouts follow Microsoft's RNDIS specification as used by Linux
//! `include/linux/rndis.h` and `drivers/net/hyperv/rndis_filter.c`, FreeBSD
//! `sys/net/rndis.h` and OpenVMM `netvsp/src/rndisprot.rs`. Structures include
//! the common [`Header`]; offsets carried *inside* messages count from byte
//! [`OFFSET_BASE`]. All fields are little-endian and byte-aligned.

use crate::nvsp::wire;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

mod ndis;

pub use ndis::*;

/// Offsets inside messages count from this byte of the message.
pub const OFFSET_BASE: usize = 8;
/// Bit that turns a request's type into its completion's type.
pub const COMPLETION: u32 = 0x8000_0000;
/// RNDIS version: 1.0, (major, minor).
pub const VERSION: (u32, u32) = (1, 0);
/// Smallest INITIALIZE_COMPLETE that clients accept (without the AF list).
pub const INITIALIZE_COMPLETE_MIN: usize = 48;
/// Device flag of INITIALIZE_COMPLETE: connectionless.
pub const DEVICE_CONNECTIONLESS: u32 = 1;
/// Medium of INITIALIZE_COMPLETE: IEEE 802.3.
pub const MEDIUM_802_3: u32 = 0;

/// Message types.
pub mod message {
    use super::COMPLETION;
    /// Data packet, either way.
    pub const PACKET: u32 = 1;
    /// Initialise the device.
    pub const INITIALIZE: u32 = 2;
    /// Stop the device; no reply.
    pub const HALT: u32 = 3;
    /// Query an OID.
    pub const QUERY: u32 = 4;
    /// Set an OID.
    pub const SET: u32 = 5;
    /// Reset the device.
    pub const RESET: u32 = 6;
    /// Event from the device.
    pub const INDICATE_STATUS: u32 = 7;
    /// Sign of life, either way.
    pub const KEEPALIVE: u32 = 8;
    /// Not used.
    pub const SET_EX: u32 = 9;
    /// Completion of [`INITIALIZE`].
    pub const INITIALIZE_COMPLETE: u32 = INITIALIZE | COMPLETION;
    /// Completion of [`QUERY`].
    pub const QUERY_COMPLETE: u32 = QUERY | COMPLETION;
    /// Completion of [`SET`].
    pub const SET_COMPLETE: u32 = SET | COMPLETION;
    /// Completion of [`RESET`].
    pub const RESET_COMPLETE: u32 = RESET | COMPLETION;
    /// Completion of [`KEEPALIVE`].
    pub const KEEPALIVE_COMPLETE: u32 = KEEPALIVE | COMPLETION;
}

/// Status values, of completions and of [`IndicateStatus`].
pub mod status {
    /// Success.
    pub const SUCCESS: u32 = 0;
    /// Will be completed later.
    pub const PENDING: u32 = 0x0000_0103;
    /// Event: the link is up.
    pub const MEDIA_CONNECT: u32 = 0x4001_000B;
    /// Event: the link is down.
    pub const MEDIA_DISCONNECT: u32 = 0x4001_000C;
    /// Event: the link's speed changed; buffer: u32 in 100 bit/s.
    pub const LINK_SPEED_CHANGE: u32 = 0x4001_0013;
    /// Event: the network behind the link changed; buffer: u32.
    pub const NETWORK_CHANGE: u32 = 0x4001_0018;
    /// Event: the offload configuration in use; buffer: an offload structure.
    pub const TASK_OFFLOAD_CURRENT_CONFIG: u32 = 0x4002_0006;
    /// Buffer too small.
    pub const BUFFER_OVERFLOW: u32 = 0x8000_0005;
    /// Failure.
    pub const FAILURE: u32 = 0xC000_0001;
    /// Out of resources.
    pub const RESOURCES: u32 = 0xC000_009A;
    /// Not supported.
    pub const NOT_SUPPORTED: u32 = 0xC000_00BB;
    /// Invalid data.
    pub const INVALID_DATA: u32 = 0xC001_0015;
    /// Invalid OID.
    pub const INVALID_OID: u32 = 0xC001_0017;
}

/// Object identifiers.
pub mod oid {
    /// Largest payload of a frame, the MTU (u32).
    pub const MAXIMUM_FRAME_SIZE: u32 = 0x0001_0106;
    /// Link speed in 100 bit/s (u32).
    pub const LINK_SPEED: u32 = 0x0001_0107;
    /// Packet filter (u32, bits of [`super::filter`]).
    pub const CURRENT_PACKET_FILTER: u32 = 0x0001_010E;
    /// Largest frame with its header (u32).
    pub const MAXIMUM_TOTAL_SIZE: u32 = 0x0001_0111;
    /// Link: 0 = connected, 1 = not (u32).
    pub const MEDIA_CONNECT_STATUS: u32 = 0x0001_0114;
    /// RSS capabilities ([`super::RssCapabilities`]).
    pub const RECEIVE_SCALE_CAPABILITIES: u32 = 0x0001_0203;
    /// RSS parameters ([`super::RssParameters`]).
    pub const RECEIVE_SCALE_PARAMETERS: u32 = 0x0001_0204;
    /// Link state ([`super::LinkState`]).
    pub const LINK_STATE: u32 = 0x0001_0207;
    /// Configuration parameter ([`super::ConfigurationParameter`]).
    pub const RNDIS_CONFIG_PARAMETER: u32 = 0x0001_021B;
    /// Friendly name (UTF-16).
    pub const FRIENDLY_NAME: u32 = 0x0002_0216;
    /// Permanent MAC address (6 bytes).
    pub const PERMANENT_ADDRESS: u32 = 0x0101_0101;
    /// Current MAC address (6 bytes).
    pub const CURRENT_ADDRESS: u32 = 0x0101_0102;
    /// Encapsulation ([`super::OffloadEncapsulation`]).
    pub const OFFLOAD_ENCAPSULATION: u32 = 0x0101_010A;
    /// Offload configuration in use ([`super::Offload`]).
    pub const TCP_OFFLOAD_CURRENT_CONFIG: u32 = 0xFC01_020B;
    /// Offload parameters ([`super::OffloadParameters`]).
    pub const TCP_OFFLOAD_PARAMETERS: u32 = 0xFC01_020C;
    /// Offloads that the device can do ([`super::Offload`]).
    pub const TCP_OFFLOAD_HARDWARE_CAPABILITIES: u32 = 0xFC01_020D;
}

/// Packet filter bits.
pub mod filter {
    /// Frames to our address.
    pub const DIRECTED: u32 = 0x01;
    /// Frames to listed multicast addresses.
    pub const MULTICAST: u32 = 0x02;
    /// Frames to any multicast address.
    pub const ALL_MULTICAST: u32 = 0x04;
    /// Broadcast frames.
    pub const BROADCAST: u32 = 0x08;
    /// All frames.
    pub const PROMISCUOUS: u32 = 0x20;
}

/// Per-packet information types.
pub mod ppi {
    /// Checksum offload ([`super::checksum`]).
    pub const CHECKSUM: u32 = 0;
    /// IPsec offload.
    pub const IPSEC: u32 = 1;
    /// Large send offload ([`super::lso`]).
    pub const LSO: u32 = 2;
    /// IEEE 802.1Q tag ([`super::vlan`]).
    pub const IEEE_8021Q: u32 = 6;
    /// Hash value (u32).
    pub const HASH_VALUE: u32 = 8;
    /// Hash information (u32, [`super::hash`]).
    pub const HASH_INFO: u32 = 9;
    /// Bit 31 of the type: Microsoft's internal name space.
    pub const INTERNAL: u32 = 0x8000_0000;
    /// Internal: packet id ([`super::PacketId`]).
    pub const PACKET_ID: u32 = INTERNAL | 1;
    /// Size of [`super::PerPacketInfo`], where an element's value starts.
    pub const HEADER_SIZE: usize = 12;
}

/// Checksum PPI bits.
pub mod checksum {
    /// Transmit: IPv4.
    pub const TX_IPV4: u32 = 1 << 0;
    /// Transmit: IPv6.
    pub const TX_IPV6: u32 = 1 << 1;
    /// Transmit: fill in the TCP checksum.
    pub const TX_TCP: u32 = 1 << 2;
    /// Transmit: fill in the UDP checksum.
    pub const TX_UDP: u32 = 1 << 3;
    /// Transmit: fill in the IP header checksum.
    pub const TX_IP_HEADER: u32 = 1 << 4;
    /// Transmit: shift of the TCP header's offset (10 bits).
    pub const TX_TCP_OFFSET_SHIFT: u32 = 16;
    /// Receive: TCP checksum wrong.
    pub const RX_TCP_FAILED: u32 = 1 << 0;
    /// Receive: UDP checksum wrong.
    pub const RX_UDP_FAILED: u32 = 1 << 1;
    /// Receive: IP checksum wrong.
    pub const RX_IP_FAILED: u32 = 1 << 2;
    /// Receive: TCP checksum right.
    pub const RX_TCP_SUCCEEDED: u32 = 1 << 3;
    /// Receive: UDP checksum right.
    pub const RX_UDP_SUCCEEDED: u32 = 1 << 4;
    /// Receive: IP checksum right.
    pub const RX_IP_SUCCEEDED: u32 = 1 << 5;
    /// Receive: the frame came from this very host.
    pub const RX_LOOPBACK: u32 = 1 << 6;
    /// Receive: TCP data good, the checksum field is not filled in.
    pub const RX_TCP_VALUE_INVALID: u32 = 1 << 7;
    /// Receive: IP data good, the checksum field is not filled in.
    pub const RX_IP_VALUE_INVALID: u32 = 1 << 8;
}

/// Large send offload PPI (version 2).
pub mod lso {
    /// Bits of the segment size.
    pub const MSS_MASK: u32 = 0x000F_FFFF;
    /// Shift of the TCP header's offset (10 bits).
    pub const TCP_OFFSET_SHIFT: u32 = 20;
    /// Set: version 2.
    pub const TYPE_V2: u32 = 1 << 30;
    /// Set: IPv6.
    pub const IPV6: u32 = 1 << 31;
}

/// IEEE 802.1Q PPI.
pub mod vlan {
    /// Bits of the priority.
    pub const PRIORITY_MASK: u32 = 0x7;
    /// Drop eligible.
    pub const CFI: u32 = 1 << 3;
    /// Shift of the VLAN id.
    pub const ID_SHIFT: u32 = 4;
    /// Bits of the VLAN id after the shift.
    pub const ID_MASK: u32 = 0xFFF;
    /// Bits that are reserved.
    pub const RESERVED_MASK: u32 = 0xFFFF_0000;
}

/// Flags of [`PacketId`].
pub mod packet_id {
    /// The only version.
    pub const VERSION: u8 = 1;
    /// A fragment of a coalesced packet.
    pub const SUB_ALLOCATION: u8 = 1;
    /// First fragment.
    pub const FIRST: u8 = 2;
    /// Last fragment.
    pub const LAST: u8 = 4;
}

wire! {
    /// Start of every message.
    Header: 8 {
        /// One of [`message`].
        message_type: U32 = 0,
        /// Bytes of the whole message.
        length: U32 = 4,
    }
    /// [`message::PACKET`].
    Packet: 44 {
        /// Type and length.
        header: Header = 0,
        /// Frame: offset from byte 8.
        data_offset: U32 = 8,
        /// Frame: bytes.
        data_length: U32 = 12,
        /// Out-of-band data: offset.
        oob_offset: U32 = 16,
        /// Out-of-band data: bytes.
        oob_length: U32 = 20,
        /// Out-of-band data: elements.
        oob_count: U32 = 24,
        /// Per-packet information: offset from byte 8.
        ppi_offset: U32 = 28,
        /// Per-packet information: bytes.
        ppi_length: U32 = 32,
        /// Virtual connection, 0.
        vc_handle: U32 = 36,
        /// Zero.
        reserved: U32 = 40,
    }
    /// One element of per-packet information; its value follows.
    PerPacketInfo: 12 {
        /// Bytes of the element with header and value, a multiple of 4.
        size: U32 = 0,
        /// One of [`ppi`].
        kind: U32 = 4,
        /// Offset of the value from the start of the element.
        value_offset: U32 = 8,
    }
    /// Value of [`ppi::PACKET_ID`].
    PacketId: 4 {
        /// [`packet_id::VERSION`].
        version: u8 = 0,
        /// Bits of [`packet_id`].
        flags: u8 = 1,
        /// Which packet the fragment belongs to.
        id: U16 = 2,
    }
    /// [`message::INITIALIZE`].
    Initialize: 24 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
        /// 1.
        major: U32 = 12,
        /// 0.
        minor: U32 = 16,
        /// Largest message that the guest takes.
        max_transfer: U32 = 20,
    }
    /// [`message::INITIALIZE_COMPLETE`].
    InitializeComplete: 52 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
        /// One of [`status`].
        status: U32 = 12,
        /// 1.
        major: U32 = 16,
        /// 0.
        minor: U32 = 20,
        /// [`DEVICE_CONNECTIONLESS`].
        device_flags: U32 = 24,
        /// [`MEDIUM_802_3`].
        medium: U32 = 28,
        /// Most PACKET messages in one transfer.
        max_packets_per_message: U32 = 32,
        /// Largest transfer in bytes.
        max_transfer: U32 = 36,
        /// Alignment of messages in a transfer, as a power of two.
        alignment_factor: U32 = 40,
        /// Address families: offset.
        af_list_offset: U32 = 44,
        /// Address families: bytes.
        af_list_size: U32 = 48,
    }
    /// [`message::HALT`].
    Halt: 12 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
    }
    /// [`message::QUERY`] and [`message::SET`]; the buffer follows.
    Request: 28 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
        /// One of [`oid`].
        oid: U32 = 12,
        /// Bytes of the buffer.
        buffer_length: U32 = 16,
        /// Offset of the buffer from byte 8.
        buffer_offset: U32 = 20,
        /// Virtual connection, 0.
        vc_handle: U32 = 24,
    }
    /// [`message::QUERY_COMPLETE`]; the buffer follows.
    QueryComplete: 24 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
        /// One of [`status`].
        status: U32 = 12,
        /// Bytes of the buffer.
        buffer_length: U32 = 16,
        /// Offset of the buffer from byte 8; may be 0 if the length is 0.
        buffer_offset: U32 = 20,
    }
    /// [`message::SET_COMPLETE`] and [`message::KEEPALIVE_COMPLETE`].
    StatusComplete: 16 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
        /// One of [`status`].
        status: U32 = 12,
    }
    /// [`message::RESET`].
    Reset: 12 {
        /// Type and length.
        header: Header = 0,
        /// Reserved.
        reserved: U32 = 8,
    }
    /// [`message::RESET_COMPLETE`].
    ResetComplete: 16 {
        /// Type and length.
        header: Header = 0,
        /// One of [`status`].
        status: U32 = 8,
        /// Whether addresses must be set again.
        addressing_reset: U32 = 12,
    }
    /// [`message::INDICATE_STATUS`]; the buffer follows.
    IndicateStatus: 20 {
        /// Type and length; the length of old hosts omits the buffer.
        header: Header = 0,
        /// One of [`status`].
        status: U32 = 8,
        /// Bytes of the buffer.
        buffer_length: U32 = 12,
        /// Offset of the buffer from byte 8; 0 if the length is 0.
        buffer_offset: U32 = 16,
    }
    /// [`message::KEEPALIVE`].
    Keepalive: 12 {
        /// Type and length.
        header: Header = 0,
        /// Request id.
        request_id: U32 = 8,
    }
    /// Value of [`oid::RNDIS_CONFIG_PARAMETER`]; the texts follow.
    ConfigurationParameter: 20 {
        /// Name: offset from the start of the structure.
        name_offset: U32 = 0,
        /// Name: bytes of UTF-16.
        name_length: U32 = 4,
        /// 0 = integer, 2 = string.
        kind: U32 = 8,
        /// Value: offset from the start of the structure.
        value_offset: U32 = 12,
        /// Value: bytes.
        value_length: U32 = 16,
    }
}
