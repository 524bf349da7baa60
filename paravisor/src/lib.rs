//! The paravisor's logic that needs no machine: what the image (`main.rs`) does
//! with guest exits, host parameters, time and records. Built for the machine
//! you sit at, too, so that it is tested there.
#![cfg_attr(not(test), no_std)]
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

pub mod account;
pub mod audit;
pub mod cpuid;
pub mod dispatch;
pub mod guest_boot;
pub mod isolation;
pub mod journal;
pub mod lanes;
pub mod mmio;
pub mod pio;
pub mod record;
pub mod report;
pub mod run;
#[cfg(test)]
mod sweeps;
pub mod synic;
#[cfg(test)]
mod testing;
pub mod time;
mod turns;
pub mod uplink;
pub mod walk;
