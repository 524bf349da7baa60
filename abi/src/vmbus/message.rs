//! Channel messages and the table of their types.

use super::{Features, Guid, MAX_MESSAGE_SIZE, Version};
use core::mem::{offset_of, size_of};
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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
}

/// [`OpenChannel2::flags`] bit: deliver the channel's interrupt to the VTL of the client.
pub const OPEN_REDIRECT_INTERRUPT: u16 = 1;
/// [`OpenChannel::target_vp`]: no interrupts.
pub const TARGET_VP_NONE: u32 = 0xffff_ffff;
/// `status` of an answer: success.
pub const STATUS_SUCCESS: u32 = 0;
/// `status` of an answer: general failure (OpenVMM).
pub const STATUS_FAILURE: u32 = 0x8000_ffff;

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

const _: () = {
    // The table's rows stand at their number, so that `info` may index.
    let mut i = 0;
    while i < MESSAGES.len() {
        assert!(MESSAGES[i].message_type.0 as usize == i + 1);
        i += 1;
    }
    assert!(MESSAGES.len() == 29);
};
