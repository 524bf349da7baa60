//! How the image enters the guest and talks to the host.
//!
//! [`Platform`] is what the rest of the paravisor knows of the machine below it:
//! run the guest until it leaves, make a hypercall, reach a synthetic register,
//! share a page with the host, give the guest rights on a page, say a byte on a
//! port, stop. One module per backend; [`snp`] (SEV-SNP, paravisor at VMPL0,
//! guest at VMPL2) is the first.
//!
//! A backend is split in two. What a request looks like, whether an answer is
//! one that the protocol allows, what an exit means: pure code over
//! [`memory::SharedMemory`] and plain structures, tested on any machine. The few
//! instructions that do it: behind one trait, implemented for the firmware in
//! one module with `unsafe`.
#![cfg_attr(not(test), no_std)]
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

mod error;
mod exit;
pub mod snp;
mod vp;

pub use error::Error;
pub use exit::{Exit, IoAccess, StringIo};
pub use vp::{BootState, Reg, Registers, Seg, Segment};

use abi::hyperv::{CallResult, Control};
use abi::record::Outcome;

/// What the guest may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the page is the paravisor's.
    None,
    /// Read, write, execute.
    All,
}

/// One virtual processor's way to host and guest.
pub trait Platform {
    /// The guest's registers between two entries.
    type Vp: Registers;

    /// Runs the guest until it leaves. Interrupts of the host are held back
    /// meanwhile and make the guest leave with [`Exit::Interrupted`].
    fn enter(&mut self) -> Exit;
    /// The guest's registers.
    fn vp(&mut self) -> &mut Self::Vp;
    /// Puts the guest's VP into the state in which it starts.
    fn start(&mut self, state: &BootState) -> Result<(), Error>;
    /// Puts the guest's VP into the state after INIT and a SIPI with this page number:
    /// real mode, at the start of the page.
    fn start_at(&mut self, page: u8) -> Result<(), Error>;

    /// Calls the hypervisor; `input` is the call's whole input structure. A rep
    /// call which the host cuts short goes on until it is complete.
    fn hypercall(&mut self, control: Control, input: &[u8]) -> Result<CallResult, Error>;
    /// Hypercalls made so far, by code.
    fn hypercall_counts(&self) -> &[(u16, u64)];
    /// Reads a synthetic register by its MSR number.
    fn read_register(&mut self, msr: u32) -> Result<u64, Error>;
    /// Writes a synthetic register by its MSR number.
    fn write_register(&mut self, msr: u32, value: u64) -> Result<(), Error>;
    /// Raises `vector` at VP `vp`. A host that loses it only delays what the VP is to
    /// do. The VP's APIC ID is its index.
    fn kick(&mut self, vp: u8, vector: u8) -> Result<(), Error> {
        let command = u64::from(vp) << 56 | u64::from(vector);
        self.write_register(abi::hyperv::msr::ICR, command)
    }
    /// Writes a byte to a port of the host's.
    fn write_port(&mut self, port: u16, value: u8) -> Result<(), Error>;

    /// Makes the 4 KiB page at `gpa` visible to the host. It must not be
    /// validated. Its contents afterwards are arbitrary.
    fn share(&mut self, gpa: u64) -> Result<(), Error>;
    /// Makes the 4 KiB page at `gpa` private again (and leaves it unvalidated).
    fn unshare(&mut self, gpa: u64) -> Result<(), Error>;
    /// Takes unvalidated pages into use, from `start` up to `end`. Fails if one
    /// of them was validated before: a page can be accepted only once.
    fn accept(&mut self, start: u64, end: u64) -> Result<(), Error>;
    /// Gives the guest these rights on validated pages.
    fn protect(&mut self, start: u64, end: u64, access: Access) -> Result<(), Error>;

    /// Waits for an interrupt of the host with interrupts taken.
    fn wait(&mut self);
    /// Takes the interrupts that are due and returns.
    fn take_interrupts(&mut self);
    /// Stops the VM.
    fn terminate(&mut self, outcome: Outcome) -> !;
}
