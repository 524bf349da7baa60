//! Every size, budget and deadline of the NIC, with its reason. Times are in
//! units of the partition's reference clock (100 ns).

/// One millisecond.
pub const MILLISECOND: u64 = 10_000;
/// One second.
pub const SECOND: u64 = 1000 * MILLISECOND;

/// Receive buffer that an owner should share: a thousand slots of a full frame,
/// 10 ms of traffic at 1 Gbit/s. Linux takes 16 MiB, which is all of our
/// private memory.
pub const RECEIVE_BUFFER: usize = 2 << 20;
/// Send buffer that an owner should share: 170 sections of the 6 KiB that
/// Hyper-V makes of it (Linux: the same 1 MiB).
pub const SEND_BUFFER: usize = 1 << 20;

/// The same for more channels than that has sections for: 256, all that we use.
pub const LARGE_SEND_BUFFER: usize = 256 * 6144;
/// Send buffer for a card with so many sub-channels: [`SECTIONS_PER_LANE`] each.
pub const fn send_buffer(sub_channels: u16) -> usize {
    match sub_channels {
        0..40 => SEND_BUFFER,
        _ => LARGE_SEND_BUFFER,
    }
}

/// Deadline of a request of the handshake (NVSP or RNDIS). Hosts answer in
/// milliseconds; a busy one may take seconds, an emulated one more.
pub const REQUEST_DEADLINE: u64 = 20 * SECOND;
/// Deadline of a transmit completion (PKT-24). Longer than the pause of a live
/// migration.
pub const TRANSMIT_DEADLINE: u64 = 30 * SECOND;
/// How long the ring may refuse one of our answers before the channel counts
/// as dead. The host can read them at any time.
pub const ANSWER_DEADLINE: u64 = 30 * SECOND;
/// How often the table of outstanding requests is looked through for old ones.
pub const DEADLINE_SCAN: u64 = SECOND;
/// How long an orderly stop waits for outstanding transmits before it takes
/// the buffers back (FreeBSD and DPDK wait 200 ms for the host after a revoke).
pub const DRAIN: u64 = 200 * MILLISECOND;

/// Packets of the ring that one poll takes at most.
pub const PACKETS_PER_POLL: usize = 64;
/// Ranges (frames) that one poll delivers at most. A packet may have 375.
pub const RANGES_PER_POLL: usize = 256;

/// Outstanding requests: one for each send section and a few for messages
/// without section. A power of two, so that an index can be masked (SYS-04).
pub const REQUESTS: usize = 512;
/// Private memory of all sub-channels for copies of a slot. Hyper-V's slots have 1728
/// bytes, and 63 of them fit; a host that makes larger ones is
/// asked for fewer channels.
pub const SLOT_COPIES: usize = 128 << 10;
/// Sub-channels for which that is enough with slots of so many bytes.
pub fn sub_channels_for(slot_size: usize) -> u16 {
    let copies = SLOT_COPIES.checked_div(slot_size);
    copies.map_or(u16::MAX, |copies| u16::try_from(copies).unwrap_or(u16::MAX))
}
/// Room for requests of a sub-channel beside those that hold its sections: there is none
/// so far.
pub const REQUESTS_BESIDE: usize = 8;
/// Sections that frames leave to control messages (a request, a keepalive).
pub const CONTROL_SECTIONS: u16 = 2;
/// Least sections of a lane: two beside those of the primary for control messages.
pub const SECTIONS_PER_LANE: u16 = 2 * CONTROL_SECTIONS;
/// Longest RNDIS message: the largest frame that is sent in segments, with its
/// headers. It spans 18 pages at most, below `vmbus::limits::MAX_DIRECT_PAGES`.
pub const MESSAGE: usize = validate::frame::MAX_SEGMENTED + MESSAGE_OVERHEAD;
/// Bytes of a message around its frame: the PACKET header and three elements of
/// information, with room to spare.
pub const MESSAGE_OVERHEAD: usize = 128;
/// Most segments of one frame, and so most messages about it.
pub const SEGMENTS: usize =
    validate::frame::MAX_SEGMENTED / validate::frame::MIN_SEGMENT as usize + 1;

/// Completions and responses that answer nothing before the channel is given
/// up ("drop, repeat = reset" in the catalogue: PKT-13, PKT-15, PKT-22, RND-37).
pub const STRAYS: u32 = 64;

/// In-band messages of the host per [`RATE_INTERVAL`] (NVS-47). Hosts send a
/// handful in a NIC's life.
pub const IN_BAND_PER_INTERVAL: u32 = 100;
/// Keepalives answered per [`RATE_INTERVAL`] (RND-64). Hosts send one in seconds.
pub const KEEPALIVES_PER_INTERVAL: u32 = 10;
/// Interval of both budgets.
pub const RATE_INTERVAL: u64 = SECOND;

/// Least time between two link events that the guest sees (RND-55). Linux takes
/// one per 2 s; virtio-net guests handle a change in microseconds.
pub const LINK_INTERVAL: u64 = 200 * MILLISECOND;
/// Least time between two reports of a changed network (RND-56); each may make
/// the guest renew its lease.
pub const NETWORK_CHANGE_INTERVAL: u64 = 10 * SECOND;

/// Largest message that we take, as told by INITIALIZE (Linux 0x4000).
pub const MAX_TRANSFER: u32 = 0x4000;

/// Private buffer for one packet of the ring: a transfer-page packet with
/// [`MAX_RANGES`] ranges (24 + 562 * 8 bytes) and its message, with room to
/// spare. A longer packet is a corrupt ring (RNG-22).
pub const PACKET_BUFFER: usize = 8192;
/// Most ranges of a transfer-page packet, with receive coalescing.
pub const MAX_RANGES: u32 = abi::nvsp::MAX_RANGES_RSC;
