//! The image's layout as data ([`layout`]), its measured configuration page
//! ([`config`]) and the builder of VMPL0's page tables ([`page_tables`]).
//!
//! The image builder, the first stage (`src/bin/stage`), the paravisor and the
//! rig all read the same constants from here. No I/O, no allocation, no `unsafe`.
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

pub mod config;
pub mod layout;
pub mod page_tables;
