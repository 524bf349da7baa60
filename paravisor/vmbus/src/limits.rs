//! Budgets, deadlines and sizes, each with its reason. Times are in 100 ns.

/// One second of the reference clock.
pub const SECOND: u64 = 10_000_000;
/// One millisecond of the reference clock.
pub const MILLISECOND: u64 = SECOND / 1000;

/// Packets taken from a ring per poll (RNG-26). Linux's NAPI weight.
pub const PACKETS_PER_POLL: usize = 64;
/// Messages taken per wake-up (SYN-11).
pub const MESSAGES_PER_WAKE: usize = 64;
/// Wake-ups in a row that may use the whole budget before the connection ends
/// (SYN-11): 16384 messages without one empty slot between them. All that a host
/// has to say at a boot are some hundred.
pub const SPENT_BUDGETS: u32 = 256;
/// Events of a channel in a row without a byte moved in its rings, after which
/// they count as spurious (RNG-30). An honest host signals when a ring has
/// become non-empty or roomy, so there is a change behind each.
pub const SPURIOUS_EVENTS: u32 = 64;
/// How often a channel under a storm of events is looked at (SYN-18). What a
/// frame may wait for while its host misbehaves.
pub const STORM_PERIOD: u64 = MILLISECOND;
/// Periods of a storm without a byte moved before the channel is reset (SYN-18):
/// five seconds of more than 64 000 events a second about nothing.
pub const STORM_PERIODS: u32 = 5000;
/// Sub-channels of a card: with the primary one for each of 64 processors, as
/// many as Linux has (`VRSS_CHANNEL_MAX`).
pub const MAX_SUB_CHANNELS: u16 = 63;
/// Channels whose relid is not released. Those of one network card, and room for
/// cards that are being replaced.
pub const MAX_CHANNELS: usize = MAX_SUB_CHANNELS as usize + 9;
/// GPADLs that exist at a time: a ring per channel, receive and send buffer of
/// the cards.
pub const MAX_GPADLS: usize = MAX_CHANNELS + 24;
/// Refused offers in an interval before the connection ends (CTL-28). A host offers
/// some twenty classes that we do not take, once at the boot and once more when the
/// VM has moved: that is a dozen moves in an interval.
pub const REFUSED_OFFERS: usize = 256;
/// Cards taken after the boot-time set, in an interval (CTL-28). More than the
/// relay would open again, less than what would keep anybody busy.
pub const LATE_OFFERS: usize = 16;
/// The interval of both, which slides: an hour.
pub const OFFERS_INTERVAL: u64 = 3600 * SECOND;
/// Pages that one GPA-direct packet names at most: Linux's
/// `MAX_PAGE_BUFFER_COUNT`, and below the chain of 34 buffers that Hyper-V takes.
pub const MAX_DIRECT_PAGES: usize = 32;
/// Messages that wait to be posted; a large GPADL counts as one. Beyond it the
/// host makes us answer faster than it takes our answers (CTL-59).
pub const MAX_QUEUED_POSTS: usize = 512;
/// Events that wait for the owner (CTL-59). The end of a card with all its
/// sub-channels makes some three each at once.
pub const MAX_QUEUED_EVENTS: usize = 512;

/// Longest wait for VERSION_RESPONSE. A host that is there answers in
/// milliseconds.
pub const CONTACT_DEADLINE: u64 = 5 * SECOND;
/// Longest wait for ALLOFFERS_DELIVERED; Linux waits 60 s at most.
pub const OFFERS_DEADLINE: u64 = 10 * SECOND;
/// How long sub-channels may come after the request for them (NVS-39). Hosts
/// offer them with the grant.
pub const SUB_CHANNELS_DEADLINE: u64 = 5 * SECOND;
/// Longest wait for GPADL_CREATED, OPENCHANNEL_RESULT, GPADL_TORNDOWN and
/// MODIFYCHANNEL_RESPONSE.
pub const REQUEST_DEADLINE: u64 = 10 * SECOND;
/// Longest wait for UNLOAD_RESPONSE. Hosts may take tens of seconds; what is
/// lost without an answer is shared pages of a VM that ends.
pub const UNLOAD_DEADLINE: u64 = 20 * SECOND;

/// Tries to post one message (SYN-23); Linux has the same.
pub const POST_TRIES: u32 = 100;
/// Pause after the first refused try; doubled up to [`POST_PAUSE_MAX`].
pub const POST_PAUSE: u64 = MILLISECOND;
/// Longest pause between two tries.
pub const POST_PAUSE_MAX: u64 = 64 * MILLISECOND;
