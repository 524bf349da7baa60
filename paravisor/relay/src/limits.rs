//! Budgets and times of the relay, with their reasons. Times are in units of
//! the partition's reference clock (100 ns).

use netvsc::limits::{MILLISECOND, SECOND};

/// Largest frame that is taken from the guest: one that is to be cut into segments.
pub const FRAME: usize = validate::frame::MAX_SEGMENTED;

/// Frames of the guest that one poll takes at most: a third of the host's send
/// sections, so that completions are looked at in between.
pub const TX_PER_POLL: usize = 64;

/// How long a frame waits for a buffer of the guest before frames are dropped.
/// Meanwhile the host's packets stay in ring and receive buffer, so nothing is
/// lost while a slow (emulated) guest works off what it has. It also bounds how
/// long a guest that posts no buffers holds up the completions of its own
/// transmits, which share that ring; far below their deadline.
pub const RX_HOLD: u64 = 200 * MILLISECOND;

/// How long the guest sees its link down when the host reports another network
/// behind it. Long enough for a driver that reads the state after the
/// interrupt to see it.
pub const LINK_BOUNCE: u64 = 200 * MILLISECOND;

/// How often the NIC's channel is opened again within [`RESET_INTERVAL`], for
/// whatever reason (SYS-05). A host that is serviced or migrates a VM needs one or
/// two; one that goes on breaking rules is not worth its interrupts.
pub const RESETS_PER_INTERVAL: usize = 6;
/// One hour.
pub const RESET_INTERVAL: u64 = 3600 * SECOND;

/// Pause before a channel that could not be opened is opened again (CTL-48). Doubled
/// with each failure in a row: the tries of an hour then last some sixteen seconds,
/// in which a host whose service starts anew is there again. Without a pause they
/// would be over in milliseconds, and the link with them.
pub const OPEN_PAUSE: u64 = 250 * MILLISECOND;

/// Bursts of frames per [`RX_INTERVAL`] that the guest is interrupted for, however
/// often the host signals (SYS-07): 20000 a second, which is where Linux's e1000e
/// driver holds its hardware by default while latency matters. A burst holds up to
/// 256 frames, so this bounds interrupts, not throughput.
pub const RX_BURSTS_PER_INTERVAL: u32 = 20;
/// One millisecond: the longest time that a frame waits for the next interval.
pub const RX_INTERVAL: u64 = MILLISECOND;
