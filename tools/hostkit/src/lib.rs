//! The other side of the wire: what a Hyper-V host does for one VM, as far as a
//! VMBus NIC needs it. One fake host with two homes: the bare-metal rig runs it
//! below a real image, in-process tests run it against the client's state
//! machines.
//!
//! ```text
//! guest  --hypercall, MSR-->  hv::Partition  --inbox-->  vmbus::Server  --events-->  netvsp::Nic  -->  Backend
//!        <--slots, vectors--                 <--messages--              <--signals--             <--
//! ```
//!
//! Every access to the VM's memory goes through [`VmMemory`], so that the owner
//! can refuse private pages. Nothing here panics on bytes of the VM: a protocol
//! error is counted under its name and stops at most the channel.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod backend;
pub mod fault;
pub mod hv;
pub mod machine;
pub mod mem;
pub mod netvsp;
pub mod pages;
pub mod ring;
pub mod scenario;
pub mod trace;
pub mod vmbus;

pub use machine::{Machine, MachineConfig};
pub use mem::{MemoryFault, VmMemory};
