//! The pure parts of the rig: they judge and compute, touch no hardware and run
//! in ordinary tests. The hypervisor around them is the binary of this crate.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod digest;
pub mod enlightenment;
pub mod firmware;
pub mod fwcfg;
pub mod ghcb;
pub mod igvm;
pub mod insn;
pub mod nic;
pub mod npt;
pub mod rmp;
pub mod trace;
pub mod vc;
pub mod vmsa;
pub mod walk;
