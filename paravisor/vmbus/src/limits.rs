//! Budgets, deadlines and sizes, each with its reason. Times are in 100 ns.

/// One second of the reference clock.
pub const SECOND: u64 = 10_000_000;
/// One millisecond of the reference clock.
pub const MILLISECOND: u64 = SECOND / 1000;

/// Packets taken from a ring per poll (RNG-26). Linux's NAPI weight.
pub const PACKETS_PER_POLL: usize = 64;
/// In-band requests of the host that may wait for our completion (PKT-20). A
/// NIC host sends a handful in its life.
pub const UNANSWERED_HOST_REQUESTS: u32 = 32;
