//! VMBus: channel messages, GPADLs, ring headers and packet descriptors.
//!
//! All integers are little-endian; every structure is laid out byte by byte and
//! may lie at any alignment, so that a private copy of host bytes is read in
//! place. Offsets named in comments count from the start of the message (the
//! payload of a SynIC message) or of the packet. Sources: Linux
//! `include/linux/hyperv.h`, OpenVMM `vmbus_core/src/protocol.rs` and
//! `vmbus_ring/src/lib.rs`, mu_msvm; where they disagree the comment says so.

use core::mem::{offset_of, size_of};
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of a page frame of the protocol, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Message type in the SynIC slot (and in HvCallPostMessage) of every channel message.
pub const SYNIC_MESSAGE_TYPE: u32 = 1;
/// Largest channel message: the payload of one SynIC message, in bytes.
pub const MAX_MESSAGE_SIZE: usize = 240;
/// Number of relids (and of event flags of one SINT). Relid 0 is never used.
pub const MAX_CHANNELS: u32 = 2048;

// ---------------------------------------------------------------- connection

/// Message connection of protocol versions below 5.0; some hosts name it in
/// VERSION_RESPONSE later too.
pub const CONNECTION_MESSAGE_LEGACY: u32 = 1;
/// Message connection for INITIATE_CONTACT from version 5.0 on.
pub const CONNECTION_MESSAGE: u32 = 4;
/// Message connection of a VTL2 client of a host that redirects: VTL 2, VP 0,
/// SINT 7 (`4 + (vtl << 22) + (vp << 8) + (sint << 4)`).
pub const CONNECTION_MESSAGE_REDIRECTED: u32 = 0x0080_0074;
/// Event connection shared by all channels before dedicated interrupts.
pub const CONNECTION_EVENT_SHARED: u32 = 2;
/// Connection of the monitor pages.
pub const CONNECTION_MONITOR: u32 = 3;
/// A VTL2 client opens a channel with connection id `relid` plus this (VTL 2, SINT 7).
pub const REDIRECTED_CHANNEL_CONNECTION_BASE: u32 = 0x0002_7000;
/// Connection and port ids have 24 bits.
pub const CONNECTION_ID_MASK: u32 = 0x00ff_ffff;
/// SINT of a plain client.
pub const SINT: u8 = 2;
/// SINT of a VTL2 client of a host that redirects.
pub const SINT_REDIRECTED: u8 = 7;

/// A protocol version, `major << 16 | minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// Windows Server 2008.
    pub const V0_13: Version = Version(0x0000_000d);
    /// Windows 7.
    pub const V1_1: Version = Version(0x0001_0001);
    /// Windows 8: target VP per channel, dedicated interrupts.
    pub const V2_4: Version = Version(0x0002_0004);
    /// Windows 8.1: reconnect after UNLOAD.
    pub const V3_0: Version = Version(0x0003_0000);
    /// Windows 10.
    pub const V4_0: Version = Version(0x0004_0000);
    /// Windows 10 RS3: MODIFYCHANNEL.
    pub const V4_1: Version = Version(0x0004_0001);
    /// Windows 10 RS3: connection 4 and the SINT in INITIATE_CONTACT.
    pub const V5_0: Version = Version(0x0005_0000);
    /// Windows 10 RS4: the VTL in INITIATE_CONTACT.
    pub const V5_1: Version = Version(0x0005_0001);
    /// Windows 10 RS5.
    pub const V5_2: Version = Version(0x0005_0002);
    /// Iron: MODIFYCHANNEL_RESPONSE.
    pub const V5_3: Version = Version(0x0005_0003);
    /// Copper: feature flags, longer responses.
    pub const V6_0: Version = Version(0x0006_0000);

    /// Every version that exists, oldest first.
    pub const ALL: [Version; 11] = [
        Version::V0_13,
        Version::V1_1,
        Version::V2_4,
        Version::V3_0,
        Version::V4_0,
        Version::V4_1,
        Version::V5_0,
        Version::V5_1,
        Version::V5_2,
        Version::V5_3,
        Version::V6_0,
    ];

    /// Major number.
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }
    /// Minor number.
    pub const fn minor(self) -> u16 {
        self.0 as u16
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

bitflags::bitflags! {
    /// Feature flags of version 6.0 (INITIATE_CONTACT and VERSION_RESPONSE).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// The guest chooses connection id and event flag in OPENCHANNEL.
        const GUEST_SIGNAL_PARAMETERS = 0x1;
        /// The guest may redirect a channel's interrupt to its own VTL.
        const INTERRUPT_REDIRECTION = 0x2;
        /// MODIFY_CONNECTION.
        const MODIFY_CONNECTION = 0x4;
        /// INITIATE_CONTACT carries a client id (56 bytes).
        const CLIENT_ID = 0x8;
        /// Confidential channels; offered by paravisors only.
        const CONFIDENTIAL_CHANNELS = 0x10;
        /// PAUSE and RESUME.
        const PAUSE_RESUME = 0x20;
        /// The server names the monitor pages.
        const SERVER_MONITOR_PAGES = 0x40;
        /// GPA pinning.
        const GPA_PINNING = 0x80;
    }
}

bitflags::bitflags! {
    /// Flags of an offer (OFFERCHANNEL at 56).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OfferFlags: u16 {
        /// Enumerate as a device interface.
        const ENUMERATE_INTERFACE = 0x1;
        /// Rings in confidential memory.
        const CONFIDENTIAL_RING = 0x2;
        /// External buffers in confidential memory.
        const CONFIDENTIAL_EXTERNAL_MEMORY = 0x4;
        /// External memory has to be pinned.
        const PINNED_EXTERNAL_MEMORY = 0x8;
        /// Named pipe framing.
        const NAMED_PIPE = 0x10;
        /// hv_sock provider.
        const TLNPI_PROVIDER = 0x2000;
    }
}

// --------------------------------------------------------------------- GUIDs

/// A GUID in wire order (first three fields little-endian).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The GUID written `a-b-c-d` in text, with `d` the last 16 hex digits.
    pub const fn new(a: u32, b: u16, c: u16, d: u64) -> Guid {
        let a = a.to_le_bytes();
        let b = b.to_le_bytes();
        let c = c.to_le_bytes();
        let d = d.to_be_bytes();
        Guid([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ])
    }

    /// Whether all bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl core::fmt::Display for Guid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [
            a0,
            a1,
            a2,
            a3,
            b0,
            b1,
            c0,
            c1,
            d0,
            d1,
            d2,
            d3,
            d4,
            d5,
            d6,
            d7,
        ] = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}",
            u32::from_le_bytes([a0, a1, a2, a3]),
            u16::from_le_bytes([b0, b1]),
            u16::from_le_bytes([c0, c1]),
            d0,
            d1,
            d2,
            d3,
            d4,
            d5,
            d6,
            d7
        )
    }
}

impl core::fmt::Debug for Guid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Interface classes (Linux names; `HV_*_GUID` in `include/linux/hyperv.h`).
pub mod class {
    use super::Guid;

    /// Network card.
    pub const NIC: Guid = Guid::new(0xf8615163, 0xdf3e, 0x46c5, 0x913f_f2d2_f965_ed0e);
    /// SCSI controller.
    pub const SCSI: Guid = Guid::new(0xba6163d9, 0x04a1, 0x4d29, 0xb605_72e2_ffb1_dc7f);
    /// PCI pass-through.
    pub const PCI: Guid = Guid::new(0x44c4f61d, 0x4444, 0x4400, 0x9d52_802e_27ed_e19f);
    /// Time synchronisation.
    pub const TIME_SYNC: Guid = Guid::new(0x9527e630, 0xd0ae, 0x497b, 0xadce_e80a_b017_5caf);
    /// Heartbeat.
    pub const HEARTBEAT: Guid = Guid::new(0x57164f39, 0x9115, 0x4e78, 0xab55_382f_3bd5_422d);
    /// Guest shutdown.
    pub const SHUTDOWN: Guid = Guid::new(0x0e0b6031, 0x5213, 0x4934, 0x818b_38d9_0ced_39db);
    /// Keyboard.
    pub const KEYBOARD: Guid = Guid::new(0xf912ad6d, 0x2b17, 0x48ea, 0xbd65_f927_a61c_7684);
    /// Mouse.
    pub const MOUSE: Guid = Guid::new(0xcfa8b69e, 0x5b4a, 0x4cc0, 0xb98b_8ba1_a1f3_f95a);
    /// Synthetic video.
    pub const VIDEO: Guid = Guid::new(0xda0a7802, 0xe377, 0x4aac, 0x8e77_0558_eb10_73f8);
    /// Key-value pairs.
    pub const KVP: Guid = Guid::new(0xa9a0f4e7, 0x5a45, 0x4d96, 0xb827_8a84_1e8c_03e6);
    /// Volume snapshots.
    pub const VSS: Guid = Guid::new(0x35fa2e29, 0xea23, 0x4236, 0x96ae_3a6e_bacb_a440);
    /// Dynamic memory.
    pub const DYNAMIC_MEMORY: Guid = Guid::new(0x525074dc, 0x8985, 0x46e2, 0x8057_a307_dc18_a502);
}

// ------------------------------------------------------------------ messages

/// Type of a channel message. Any value can be represented; judging it is
/// `validate`'s work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageType(pub u32);

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Host to guest.
    ToGuest,
    /// Guest to host.
    ToHost,
}

/// One row of the message table.
#[derive(Clone, Copy, Debug)]
pub struct MessageInfo {
    /// Number on the wire.
    pub message_type: MessageType,
    /// Name in the documents.
    pub name: &'static str,
    /// Who sends it.
    pub direction: Direction,
    /// Smallest size in bytes, header included.
    pub min_size: usize,
    /// Oldest version that has it.
    pub min_version: Version,
    /// Feature flags, all of which have to be negotiated.
    pub features: Features,
}

macro_rules! message_table {
    ($($(#[doc = $doc:literal])* $number:literal $name:ident $dir:ident $size:expr, $version:ident, $features:expr;)*) => {
        impl MessageType {
            $($(#[doc = $doc])* pub const $name: MessageType = MessageType($number);)*
        }
        /// Every channel message, in order of its number (types 1..=29).
        pub const MESSAGES: &[MessageInfo] = &[$(MessageInfo {
            message_type: MessageType::$name,
            name: stringify!($name),
            direction: Direction::$dir,
            min_size: $size,
            min_version: Version::$version,
            features: $features,
        }),*];
    };
}

const NONE: Features = Features::empty();

message_table! {
    /// The host offers a channel.
    1 OFFER_CHANNEL ToGuest size_of::<OfferChannel>(), V0_13, NONE;
    /// The host takes an offer back.
    2 RESCIND_CHANNEL_OFFER ToGuest size_of::<RescindChannelOffer>(), V0_13, NONE;
    /// The guest asks for all offers.
    3 REQUEST_OFFERS ToHost size_of::<MessageHeader>(), V0_13, NONE;
    /// The boot-time offers are complete.
    4 ALL_OFFERS_DELIVERED ToGuest size_of::<MessageHeader>(), V0_13, NONE;
    /// The guest opens a channel.
    5 OPEN_CHANNEL ToHost size_of::<OpenChannel>(), V0_13, NONE;
    /// Answer to OPEN_CHANNEL.
    6 OPEN_CHANNEL_RESULT ToGuest size_of::<OpenChannelResult>(), V0_13, NONE;
    /// The guest closes a channel; no answer.
    7 CLOSE_CHANNEL ToHost size_of::<CloseChannel>(), V0_13, NONE;
    /// First part of a GPADL.
    8 GPADL_HEADER ToHost size_of::<GpadlHeader>(), V0_13, NONE;
    /// Further part of a GPADL.
    9 GPADL_BODY ToHost size_of::<GpadlBody>(), V0_13, NONE;
    /// Answer to a complete GPADL.
    10 GPADL_CREATED ToGuest size_of::<GpadlCreated>(), V0_13, NONE;
    /// The guest takes a GPADL back.
    11 GPADL_TEARDOWN ToHost size_of::<GpadlTeardown>(), V0_13, NONE;
    /// Answer to GPADL_TEARDOWN.
    12 GPADL_TORNDOWN ToGuest size_of::<GpadlTorndown>(), V0_13, NONE;
    /// The guest has forgotten a rescinded relid.
    13 RELID_RELEASED ToHost size_of::<RelidReleased>(), V0_13, NONE;
    /// The guest proposes a version.
    14 INITIATE_CONTACT ToHost size_of::<InitiateContact>(), V0_13, NONE;
    /// Answer to INITIATE_CONTACT (three sizes).
    15 VERSION_RESPONSE ToGuest size_of::<VersionResponse>(), V0_13, NONE;
    /// The guest ends the connection.
    16 UNLOAD ToHost size_of::<MessageHeader>(), V0_13, NONE;
    /// Answer to UNLOAD.
    17 UNLOAD_RESPONSE ToGuest size_of::<MessageHeader>(), V0_13, NONE;
    /// Opens a reserved channel.
    18 OPEN_RESERVED_CHANNEL ToHost 28, V4_0, NONE;
    /// Closes a reserved channel.
    19 CLOSE_RESERVED_CHANNEL ToHost 20, V0_13, NONE;
    /// Answer to CLOSE_RESERVED_CHANNEL.
    20 CLOSE_RESERVED_RESPONSE ToGuest 12, V4_0, NONE;
    /// Asks for an hv_sock connection.
    21 TL_CONNECT_REQUEST ToHost 40, V4_0, NONE;
    /// Moves a channel's interrupts to another VP.
    22 MODIFY_CHANNEL ToHost size_of::<ModifyChannel>(), V4_1, NONE;
    /// Answer to TL_CONNECT_REQUEST.
    23 TL_CONNECT_RESULT ToGuest 44, V4_1, NONE;
    /// Answer to MODIFY_CHANNEL.
    24 MODIFY_CHANNEL_RESPONSE ToGuest size_of::<ModifyChannelResponse>(), V5_3, NONE;
    /// Names other monitor pages.
    25 MODIFY_CONNECTION ToHost 24, V6_0, Features::MODIFY_CONNECTION;
    /// Answer to MODIFY_CONNECTION.
    26 MODIFY_CONNECTION_RESPONSE ToGuest 9, V6_0, Features::MODIFY_CONNECTION;
    /// Stops the host's messages.
    27 PAUSE ToHost size_of::<MessageHeader>(), V6_0, Features::PAUSE_RESUME;
    /// Answer to PAUSE.
    28 PAUSE_RESPONSE ToGuest size_of::<MessageHeader>(), V6_0, Features::PAUSE_RESUME;
    /// Lets the host's messages flow again.
    29 RESUME ToHost size_of::<MessageHeader>(), V6_0, Features::PAUSE_RESUME;
}

impl MessageType {
    /// The table's row for this type, if the protocol has it.
    pub fn info(self) -> Option<&'static MessageInfo> {
        MESSAGES.get((self.0 as usize).checked_sub(1)?)
    }
}

macro_rules! wire {
    ($($(#[$meta:meta])* $size:literal struct $name:ident { $($(#[doc = $doc:literal])* $offset:literal => $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
            #[repr(C)]
            pub struct $name { $($(#[doc = $doc])* pub $field: $ty,)* }
            const_assert_eq!(size_of::<$name>(), $size);
            $(const_assert_eq!(offset_of!($name, $field), $offset);)*
        )*
    };
}

wire! {
    /// Head of every channel message.
    8 struct MessageHeader {
        /// See [`MessageType`].
        0 => message_type: U32,
        /// Zero when sent, ignored when received.
        4 => padding: U32,
    }

    /// OFFERCHANNEL (type 1).
    196 struct OfferChannel {
        /// Head.
        0 => header: MessageHeader,
        /// Interface class, see [`class`].
        8 => interface: Guid,
        /// Instance of the class.
        24 => instance: Guid,
        /// Reserved.
        40 => reserved: [u8; 16],
        /// See [`OfferFlags`].
        56 => flags: U16,
        /// MMIO space wanted, MiB.
        58 => mmio_megabytes: U16,
        /// Opaque (pipe offers keep their type here).
        60 => user_defined: [u8; 120],
        /// 0 for a primary channel.
        180 => sub_channel_index: U16,
        /// Optional MMIO space (OpenVMM); reserved in Linux.
        182 => mmio_megabytes_optional: U16,
        /// The channel's number on this connection.
        184 => relid: U32,
        /// Bit of the monitor page.
        188 => monitor_id: u8,
        /// Bit 0: `monitor_id` is valid.
        189 => monitor_allocated: u8,
        /// Bit 0: the channel has its own event connection.
        190 => is_dedicated: U16,
        /// Connection for SignalEvent.
        192 => connection_id: U32,
    }

    /// RESCIND_CHANNELOFFER (type 2).
    12 struct RescindChannelOffer {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
    }

    /// OPENCHANNEL (type 5), short form.
    148 struct OpenChannel {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// Chosen by the guest, echoed in the result.
        12 => open_id: U32,
        /// GPADL with both rings.
        16 => ring_gpadl: U32,
        /// VP index for interrupts; `0xffff_ffff` = none.
        20 => target_vp: U32,
        /// Page index of the host-to-guest ring inside the GPADL.
        24 => downstream_page_offset: U32,
        /// For the device; zero for a NIC.
        28 => user_data: [u8; 120],
    }

    /// OPENCHANNEL (type 5), long form: with feature 0x1 or 0x2.
    156 struct OpenChannel2 {
        /// Short form.
        0 => open: OpenChannel,
        /// Connection for signals to the host.
        148 => connection_id: U32,
        /// Event flag for signals to the guest.
        152 => event_flag: U16,
        /// Bit 0: redirect the interrupt ([`OPEN_REDIRECT_INTERRUPT`]).
        154 => flags: U16,
    }

    /// OPENCHANNEL_RESULT (type 6).
    20 struct OpenChannelResult {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// As in the request.
        12 => open_id: U32,
        /// 0 = open.
        16 => status: U32,
    }

    /// CLOSECHANNEL (type 7).
    12 struct CloseChannel {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
    }

    /// GPADL_HEADER (type 8) without the ranges that follow.
    20 struct GpadlHeader {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// Chosen by the guest.
        12 => gpadl: U32,
        /// Bytes of all ranges, those in bodies included.
        16 => range_buffer_length: U16,
        /// Number of ranges.
        18 => range_count: U16,
    }

    /// Head of one range of a GPADL; page frame numbers (u64) follow.
    8 struct GpaRange {
        /// Bytes in the range.
        0 => byte_count: U32,
        /// Offset into the first page.
        4 => byte_offset: U32,
    }

    /// GPADL_BODY (type 9) without the page frame numbers (u64) that follow.
    16 struct GpadlBody {
        /// Head.
        0 => header: MessageHeader,
        /// Number of this body, from 1 (0 in OpenVMM; not checked by hosts).
        8 => message_number: U32,
        /// Which GPADL.
        12 => gpadl: U32,
    }

    /// GPADL_CREATED (type 10).
    20 struct GpadlCreated {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// Which GPADL.
        12 => gpadl: U32,
        /// 0 = created.
        16 => status: U32,
    }

    /// GPADL_TEARDOWN (type 11).
    16 struct GpadlTeardown {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// Which GPADL.
        12 => gpadl: U32,
    }

    /// GPADL_TORNDOWN (type 12).
    12 struct GpadlTorndown {
        /// Head.
        0 => header: MessageHeader,
        /// Which GPADL.
        8 => gpadl: U32,
    }

    /// RELID_RELEASED (type 13).
    12 struct RelidReleased {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
    }

    /// INITIATE_CONTACT (type 14), from version 5.0 on.
    40 struct InitiateContact {
        /// Head.
        0 => header: MessageHeader,
        /// Proposed version.
        8 => version: U32,
        /// VP that takes the host's messages.
        12 => target_vp: U32,
        /// SINT for messages and events.
        16 => sint: u8,
        /// VTL for messages and events (from 5.1).
        17 => vtl: u8,
        /// Zero.
        18 => reserved: U16,
        /// See [`Features`]; zero below 6.0.
        20 => features: U32,
        /// GPA of the monitor page host to guest; 0 = none.
        24 => parent_to_child_monitor: U64,
        /// GPA of the monitor page guest to host; 0 = none.
        32 => child_to_parent_monitor: U64,
    }

    /// INITIATE_CONTACT (type 14) with a client id ([`Features::CLIENT_ID`]).
    56 struct InitiateContact2 {
        /// Form without client id.
        0 => contact: InitiateContact,
        /// Client id.
        40 => client_id: Guid,
    }

    /// VERSION_RESPONSE (type 15), the form that every version has; a refusal
    /// has no other.
    16 struct VersionResponse {
        /// Head.
        0 => header: MessageHeader,
        /// 1 = version accepted.
        8 => supported: u8,
        /// 0 ok, 1 low resources, 2 unknown failure.
        9 => connection_state: u8,
        /// Padding.
        10 => padding: U16,
        /// From 5.0: connection for all later messages.
        12 => message_connection_id: U32,
    }

    /// VERSION_RESPONSE (type 15), 6.0.
    20 struct VersionResponse2 {
        /// First form.
        0 => response: VersionResponse,
        /// See [`Features`].
        16 => features: U32,
    }

    /// VERSION_RESPONSE (type 15), 6.0 with [`Features::SERVER_MONITOR_PAGES`].
    40 struct VersionResponse3 {
        /// Second form.
        0 => response: VersionResponse2,
        /// Padding.
        20 => padding: U32,
        /// GPA of the monitor page host to guest; may be 0.
        24 => parent_to_child_monitor: U64,
        /// GPA of the monitor page guest to host.
        32 => child_to_parent_monitor: U64,
    }

    /// MODIFYCHANNEL (type 22).
    16 struct ModifyChannel {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// New VP for interrupts.
        12 => target_vp: U32,
    }

    /// MODIFYCHANNEL_RESPONSE (type 24).
    16 struct ModifyChannelResponse {
        /// Head.
        0 => header: MessageHeader,
        /// Which channel.
        8 => relid: U32,
        /// 0 = moved.
        12 => status: U32,
    }

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

    /// One range of a transfer-page packet.
    8 struct TransferPageRange {
        /// Bytes.
        0 => byte_count: U32,
        /// Offset into the receive buffer.
        4 => byte_offset: U32,
    }
}

/// [`OpenChannel2::flags`] bit: deliver the channel's interrupt to the VTL of the client.
pub const OPEN_REDIRECT_INTERRUPT: u16 = 1;
/// [`OpenChannel::target_vp`]: no interrupts.
pub const TARGET_VP_NONE: u32 = 0xffff_ffff;
/// `status` of an answer: success.
pub const STATUS_SUCCESS: u32 = 0;
/// `status` of an answer: general failure (OpenVMM).
pub const STATUS_FAILURE: u32 = 0x8000_ffff;

// --------------------------------------------------------------------- GPADL

/// Page frame numbers that fit into a GPADL_HEADER with one range.
pub const GPADL_HEADER_PFNS: usize = 26;
/// Page frame numbers that fit into a GPADL_BODY.
pub const GPADL_BODY_PFNS: usize = 28;
/// Most page frame numbers of one range (`range_buffer_length` is 16 bits wide).
pub const GPADL_MAX_PFNS: usize = 8190;
const_assert_eq!(
    size_of::<GpadlHeader>() + size_of::<GpaRange>() + 8 * GPADL_HEADER_PFNS,
    236
);
const_assert_eq!(
    size_of::<GpadlBody>() + 8 * GPADL_BODY_PFNS,
    MAX_MESSAGE_SIZE
);

// --------------------------------------------------------------------- rings

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

const _: () = {
    // The table's rows stand at their number, so that `info` may index.
    let mut i = 0;
    while i < MESSAGES.len() {
        assert!(MESSAGES[i].message_type.0 as usize == i + 1);
        i += 1;
    }
    assert!(MESSAGES.len() == 29);
};
