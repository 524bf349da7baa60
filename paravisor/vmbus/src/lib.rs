//! The VMBus client as a state machine without I/O.
//!
//! * [`Client`] is the control plane: messages and the clock go in, messages to
//!   post and events come out. It neither sleeps nor makes hypercalls.
//! * [`Channel`] is a pair of rings: packets in, packets out, and whether the
//!   host must be signalled.
//! * [`synic`] takes messages and event flags out of the shared SynIC pages.
//!
//! Host bytes reach a state machine only as the typed results of `validate`.
//! All times are in units of 100 ns of the partition's reference clock.
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

pub mod affinity;
mod channel;
mod client;
pub mod counters;
pub mod limits;
pub mod synic;

pub use channel::{
    Attention, Channel, Drained, GeometryError, Outbound, ReceiveError, Reply, SendError, Signal,
};
pub use client::{
    Action, ChannelId, Client, Config, Event, GpadlId, LateOffers, Post, RequestError,
    SignalTarget, Target, VERSIONS,
};
pub use counters::{Counters, Life, News, Traffic};
