//! NDIS structures: what a NIC can do and is to do for frames, how it spreads them,
//! its link. Each begins with its own type, revision and size; earlier revisions are
//! prefixes of later ones.

use crate::nvsp::wire;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Hash information: function and types.
pub mod hash {
    /// Bits of the function.
    pub const FUNCTION_MASK: u32 = 0xFF;
    /// Function: Toeplitz.
    pub const TOEPLITZ: u32 = 1;
    /// IPv4.
    pub const IPV4: u32 = 0x100;
    /// TCP over IPv4.
    pub const TCP_IPV4: u32 = 0x200;
    /// IPv6.
    pub const IPV6: u32 = 0x400;
    /// IPv6 with extension headers.
    pub const IPV6_EX: u32 = 0x800;
    /// TCP over IPv6.
    pub const TCP_IPV6: u32 = 0x1000;
    /// TCP over IPv6 with extension headers.
    pub const TCP_IPV6_EX: u32 = 0x2000;
    /// UDP over IPv4.
    pub const UDP_IPV4: u32 = 0x4000;
    /// UDP over IPv6.
    pub const UDP_IPV6: u32 = 0x8000;
    /// UDP over IPv6 with extension headers.
    pub const UDP_IPV6_EX: u32 = 0x1_0000;
}

/// Bits of [`RssCapabilities`], beside those of the hash function (Linux
/// `NDIS_RSS_CAPS_HASH_TYPE_*`; UDP: Microsoft's `ntddndis.h`). A NIC that hashes the
/// ports of a version of IP hashes its addresses too.
pub mod rss_capability {
    /// TCP over IPv4.
    pub const TCP_IPV4: u32 = 0x100;
    /// TCP over IPv6.
    pub const TCP_IPV6: u32 = 0x200;
    /// UDP over IPv4.
    pub const UDP_IPV4: u32 = 0x800;
    /// UDP over IPv6.
    pub const UDP_IPV6: u32 = 0x1000;
}

/// Flags of [`RssParameters`] (Linux `NDIS_RSS_PARAM_FLAG_*`).
pub mod rss_flag {
    /// Receive scaling is switched off.
    pub const DISABLE: u16 = 0x10;
}

/// Types in [`ObjectHeader`].
pub mod object {
    /// Default.
    pub const DEFAULT: u8 = 0x80;
    /// RSS capabilities.
    pub const RSS_CAPABILITIES: u8 = 0x88;
    /// RSS parameters.
    pub const RSS_PARAMETERS: u8 = 0x89;
    /// Offload.
    pub const OFFLOAD: u8 = 0xA7;
    /// Offload encapsulation.
    pub const OFFLOAD_ENCAPSULATION: u8 = 0xA8;
}

/// Sizes of revisions of the versioned structures.
pub mod revision {
    /// Offload, revisions 1 to 3.
    pub const OFFLOAD: [usize; 3] = [112, 144, 156];
    /// Offload parameters, revisions 1 to 3.
    pub const OFFLOAD_PARAMETERS: [usize; 3] = [20, 22, 28];
    /// RSS capabilities, revisions 1 and 2.
    pub const RSS_CAPABILITIES: [usize; 2] = [16, 18];
    /// RSS parameters, revisions 1 to 3.
    pub const RSS_PARAMETERS: [usize; 3] = [28, 40, 44];
}

/// Encapsulation values of offload structures.
pub mod encapsulation {
    /// Not supported.
    pub const NONE: u32 = 0;
    /// Null.
    pub const NULL: u32 = 1;
    /// IEEE 802.3.
    pub const IEEE_802_3: u32 = 2;
    /// IEEE 802.3 with a tag.
    pub const IEEE_802_3_TAGGED: u32 = 4;
    /// IEEE 802.3 with the tag out of band.
    pub const IEEE_802_3_TAG_OOB: u32 = 8;
}

/// Bits of the checksum and large send abilities in [`Offload`] (Linux
/// `NDIS_TXCSUM_CAP_*`, `NDIS_RXCSUM_CAP_*`, `NDIS_LSOV2_CAP_*`).
pub mod ability {
    /// IPv4 or IPv6 headers with options or extensions.
    pub const IP_OPTIONS: u32 = 0x001;
    /// TCP headers with options.
    pub const TCP_OPTIONS: u32 = 0x004;
    /// TCP checksums.
    pub const TCP: u32 = 0x010;
    /// UDP checksums.
    pub const UDP: u32 = 0x040;
    /// Checksums of IPv4 headers.
    pub const IP_HEADER: u32 = 0x100;
}

/// Values in [`OffloadParameters`].
pub mod offload_parameter {
    /// Leave as it is.
    pub const NO_CHANGE: u8 = 0;
    /// Off (checksums, large send, coalescing).
    pub const OFF: u8 = 1;
    /// Checksums: transmit only. Large send and coalescing: on.
    pub const TX_OR_ON: u8 = 2;
    /// Checksums: receive only.
    pub const RX: u8 = 3;
    /// Checksums: both ways.
    pub const TX_RX: u8 = 4;
}

wire! {
    /// Start of versioned NDIS structures.
    ObjectHeader: 4 {
        /// One of [`object`].
        object_type: u8 = 0,
        /// Revision, from 1.
        revision: u8 = 1,
        /// Bytes with this header.
        size: U16 = 2,
    }
    /// Checksum abilities of [`Offload`].
    ChecksumOffload: 32 {
        /// IPv4 transmit encapsulation.
        ipv4_tx_encapsulation: U32 = 0,
        /// IPv4 transmit bits.
        ipv4_tx: U32 = 4,
        /// IPv4 receive encapsulation.
        ipv4_rx_encapsulation: U32 = 8,
        /// IPv4 receive bits.
        ipv4_rx: U32 = 12,
        /// IPv6 transmit encapsulation.
        ipv6_tx_encapsulation: U32 = 16,
        /// IPv6 transmit bits.
        ipv6_tx: U32 = 20,
        /// IPv6 receive encapsulation.
        ipv6_rx_encapsulation: U32 = 24,
        /// IPv6 receive bits.
        ipv6_rx: U32 = 28,
    }
    /// Large send abilities (version 2) of [`Offload`].
    LsoV2: 28 {
        /// IPv4 encapsulation.
        ipv4_encapsulation: U32 = 0,
        /// IPv4 largest size.
        ipv4_max_size: U32 = 4,
        /// IPv4 fewest segments.
        ipv4_min_segments: U32 = 8,
        /// IPv6 encapsulation.
        ipv6_encapsulation: U32 = 12,
        /// IPv6 largest size.
        ipv6_max_size: U32 = 16,
        /// IPv6 fewest segments.
        ipv6_min_segments: U32 = 20,
        /// IPv6 options.
        ipv6_options: U32 = 24,
    }
    /// NDIS_OFFLOAD, revision 3; earlier revisions are prefixes.
    Offload: 156 {
        /// Type 0xA7, revision and size.
        header: ObjectHeader = 0,
        /// Checksums.
        checksum: ChecksumOffload = 4,
        /// Large send, version 1.
        lso_v1: [U32; 4] = 36,
        /// IPsec, version 1.
        ipsec_v1: [U32; 7] = 52,
        /// Large send, version 2.
        lso_v2: LsoV2 = 80,
        /// Flags.
        flags: U32 = 108,
        /// IPsec, version 2 (revision 2).
        ipsec_v2: [U32; 8] = 112,
        /// Receive coalescing for IPv4 (revision 3).
        rsc_ipv4: u8 = 144,
        /// Receive coalescing for IPv6.
        rsc_ipv6: u8 = 145,
        /// Padding.
        pad: [u8; 2] = 146,
        /// NVGRE flags.
        nvgre_flags: U32 = 148,
        /// NVGRE largest header.
        nvgre_max_header: U32 = 152,
    }
    /// NDIS_OFFLOAD_PARAMETERS, revision 3; earlier revisions are prefixes.
    OffloadParameters: 28 {
        /// Type 0x80, revision and size.
        header: ObjectHeader = 0,
        /// IPv4 header checksum.
        ipv4_checksum: u8 = 4,
        /// TCP over IPv4 checksum.
        tcp_ipv4_checksum: u8 = 5,
        /// UDP over IPv4 checksum.
        udp_ipv4_checksum: u8 = 6,
        /// TCP over IPv6 checksum.
        tcp_ipv6_checksum: u8 = 7,
        /// UDP over IPv6 checksum.
        udp_ipv6_checksum: u8 = 8,
        /// Large send, version 1.
        lso_v1: u8 = 9,
        /// IPsec, version 1.
        ipsec_v1: u8 = 10,
        /// Large send, version 2, IPv4.
        lso_v2_ipv4: u8 = 11,
        /// Large send, version 2, IPv6.
        lso_v2_ipv6: u8 = 12,
        /// TCP connection offload, IPv4.
        tcp_connection_ipv4: u8 = 13,
        /// TCP connection offload, IPv6.
        tcp_connection_ipv6: u8 = 14,
        /// Padding.
        pad: u8 = 15,
        /// Flags.
        flags: U32 = 16,
        /// IPsec, version 2.
        ipsec_v2: u8 = 20,
        /// IPsec, version 2, IPv4.
        ipsec_v2_ipv4: u8 = 21,
        /// Receive coalescing, IPv4.
        rsc_ipv4: u8 = 22,
        /// Receive coalescing, IPv6.
        rsc_ipv6: u8 = 23,
        /// Encapsulated packet offload.
        encapsulated: u8 = 24,
        /// Encapsulation types.
        encapsulation_types: u8 = 25,
        /// Padding.
        pad2: [u8; 2] = 26,
    }
    /// NDIS_OFFLOAD_ENCAPSULATION.
    OffloadEncapsulation: 28 {
        /// Type 0xA8, revision and size.
        header: ObjectHeader = 0,
        /// IPv4 enabled.
        ipv4_enabled: U32 = 4,
        /// IPv4 encapsulation type.
        ipv4_type: U32 = 8,
        /// IPv4 header size (14).
        ipv4_header_size: U32 = 12,
        /// IPv6 enabled.
        ipv6_enabled: U32 = 16,
        /// IPv6 encapsulation type.
        ipv6_type: U32 = 20,
        /// IPv6 header size (14).
        ipv6_header_size: U32 = 24,
    }
    /// NDIS_RECEIVE_SCALE_CAPABILITIES, revision 2.
    RssCapabilities: 18 {
        /// Type 0x88, revision and size.
        header: ObjectHeader = 0,
        /// Hash functions and [`rss_capability`].
        flags: U32 = 4,
        /// Interrupt messages.
        interrupt_messages: U32 = 8,
        /// Receive queues.
        receive_queues: U32 = 12,
        /// Entries of the indirection table (revision 2).
        table_entries: U16 = 16,
    }
    /// NDIS_RECEIVE_SCALE_PARAMETERS, revision 2; table and key follow.
    RssParameters: 40 {
        /// Type 0x89, revision and size.
        header: ObjectHeader = 0,
        /// Bits of [`rss_flag`].
        flags: U16 = 4,
        /// Base CPU.
        base_cpu: U16 = 6,
        /// Bits of [`hash`].
        hash_info: U32 = 8,
        /// Bytes of the indirection table.
        table_size: U16 = 12,
        /// Padding.
        pad: U16 = 14,
        /// Offset of the table from the start of the structure.
        table_offset: U32 = 16,
        /// Bytes of the key (40).
        key_size: U16 = 20,
        /// Padding.
        pad2: U16 = 22,
        /// Offset of the key from the start of the structure.
        key_offset: U32 = 24,
        /// Offset of the CPU masks (revision 2).
        mask_offset: U32 = 28,
        /// Number of CPU masks.
        mask_count: U32 = 32,
        /// Bytes of one CPU mask.
        mask_size: U32 = 36,
    }
    /// NDIS_LINK_STATE.
    LinkState: 40 {
        /// Type 0x80, revision and size.
        header: ObjectHeader = 0,
        /// 1 = connected.
        connect_state: U32 = 4,
        /// Duplex state.
        duplex: U32 = 8,
        /// Padding.
        pad: U32 = 12,
        /// Transmit speed in bit/s.
        tx_speed: U64 = 16,
        /// Receive speed in bit/s.
        rx_speed: U64 = 24,
        /// Pause functions.
        pause: U32 = 32,
        /// Autonegotiation flags.
        autonegotiation: U32 = 36,
    }
}

impl ObjectHeader {
    /// The header of a structure of so many bytes.
    pub const fn new(object_type: u8, revision: u8, size: usize) -> Self {
        ObjectHeader {
            object_type,
            revision,
            size: U16::new(size as u16),
        }
    }
}
