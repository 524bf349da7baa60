//! What crosses a boundary: layouts, numbers and sizes, one module per
//! counterpart. No logic beyond field access, no `unsafe`, no allocation.
//! Sizes and offsets are asserted at compile time (SYS-11); unknown values of an
//! enumeration stay representable, so that judging them is `validate`'s work.
#![no_std]
#![forbid(unsafe_code)]

pub mod e1000e;
pub mod ghcb;
pub mod hyperv;
pub mod igvm;
pub mod linux_boot;
pub mod nvsp;
pub mod pci;
pub mod record;
pub mod rndis;
pub mod snp;
pub mod svm;
pub mod trace;
pub mod virtio;
pub mod vmbus;
