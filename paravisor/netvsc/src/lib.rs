//! The NIC of the host: NVSP and RNDIS over one VMBus channel, as a state
//! machine without I/O. Frames go in, frames and events come out.
//!
//! ```text
//! start() ─ INIT ─ config, NDIS version ─ receive buffer ─ send buffer
//!         ─ RNDIS INITIALIZE ─ OIDs ─ packet filter ─ ready
//! stop()  ─ filter 0 ─ HALT ─ drain ─ revoke buffers ─ stopped
//! ```
//!
//! The owner has the channel (opened) and both buffers (shared, with GPADLs),
//! calls [`Nic::poll`] when the host signals, when [`Nic::next_deadline`] has
//! passed and when the guest has room again, and takes events with
//! [`Nic::take_event`]. A rule broken badly enough ends in [`Event::Failed`]:
//! the owner closes the channel, tears the GPADLs down and may start over with
//! a new [`Nic`]. No host byte is read twice, every wait has a deadline and every
//! loop a budget ([`limits`]).
//!
//! With sub-channels ([`Config::sub_channels`]) the handshake ends with the request
//! for them; each that the owner opens then becomes a [`Lane`].
//!
//! Times are in units of 100 ns of the partition's reference clock.
#![no_std]
#![forbid(unsafe_code)]
// Tests may panic: it is how they fail.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

mod coalesce;
mod counters;
mod gather;
mod handshake;
mod joint;
mod lane;
pub mod limits;
mod nic;
mod offload;
mod poll;
mod rate;
mod receive;
mod requests;
mod send;
mod spread;
#[cfg(test)]
mod tests;
mod transmit;

pub use counters::Counters;
pub use lane::Lane;
pub use nic::{Config, Delivery, Event, Nic, Polled, TransmitError};
pub use offload::Sending;

/// What the NIC's channel must be made with ([`vmbus::Channel::new`]).
pub const POLICY: validate::packet::Policy = validate::packet::Policy {
    transfer_set: abi::nvsp::RECEIVE_BUFFER_ID,
    max_ranges: limits::MAX_RANGES,
};
