//! VMBus: channel messages, GPADLs, ring headers and packet descriptors.
//!
//! All integers are little-endian; every structure is laid out byte by byte and
//! may lie at any alignment, so that a private copy of host bytes is read in
//! place. Offsets named in comments count from the start of the message (the
//! payload of a SynIC message) or of the packet. Sources: Linux
//! `include/linux/hyperv.h`, OpenVMM `vmbus_core/src/protocol.rs` and
//! `vmbus_ring/src/lib.rs`, mu_msvm; where they disagree the comment says so.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of a page frame of the protocol, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Message type in the SynIC slot (and in HvCallPostMessage) of every channel message.
pub const SYNIC_MESSAGE_TYPE: u32 = 1;
/// Largest channel message: the payload of one SynIC message, in bytes.
pub const MAX_MESSAGE_SIZE: usize = 240;
/// Number of relids (and of event flags of one SINT). Relid 0 is never used.
pub const MAX_CHANNELS: u32 = 2048;

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

mod message;
mod ring;

pub use message::*;
pub use ring::*;

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

/// Interface classes: what a channel is for (`HV_*_GUID` in Linux
/// `include/linux/hyperv.h`; FreeBSD `hyperv.h` agrees on cards and disks).
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
    /// Dynamic memory: the balloon.
    pub const DYNAMIC_MEMORY: Guid = Guid::new(0x525074dc, 0x8985, 0x46e2, 0x8057_a307_dc18_a502);
    /// IDE controller.
    pub const IDE: Guid = Guid::new(0x32412632, 0x86cb, 0x44a2, 0x9b5c_50d1_4173_54f5);
    /// Fibre channel.
    pub const FIBRE_CHANNEL: Guid = Guid::new(0x2f9bcc4a, 0x0069, 0x4af3, 0xb76b_6fd0_be52_8cda);
    /// File copy from the host.
    pub const FILE_COPY: Guid = Guid::new(0x34d14be3, 0xdee4, 0x41c8, 0x9ae7_6b17_4977_c192);
    /// Network Direct (RDMA).
    pub const NETWORK_DIRECT: Guid = Guid::new(0x8c2eaf3d, 0x32a7, 0x4b09, 0xab99_bd1f_1c86_b501);
    /// Activation of virtual machines, both directions.
    pub const ACTIVATION: [Guid; 2] = [
        Guid::new(0xf8e65716, 0x3cb3, 0x4a06, 0x9a60_1889_c5cc_cab5),
        Guid::new(0x3375baf4, 0x9e15, 0x4b30, 0xb765_67ac_b10d_607b),
    ];
    /// Remote desktop control.
    pub const REMOTE_DESKTOP: Guid = Guid::new(0x276aacf4, 0xac15, 0x426c, 0x98dd_7521_ad3f_01fe);
}
