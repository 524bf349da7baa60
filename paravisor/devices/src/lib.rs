//! What the guest sees: an ordinary PC with one processor, a serial port and a
//! PCI network card. Nothing here knows of the host; nothing here does I/O.
//!
//! The owner (the paravisor's loop for the VP) holds one [`Machine`] and
//! * hands it decoded exits: port I/O, MMIO, CPUID, MSR accesses;
//! * asks it for interrupts ([`Machine::pending_interrupt`]) before entering the
//!   guest and tells it when one was taken ([`Machine::accept_interrupt`]);
//! * calls [`Machine::advance`] when [`Machine::next_deadline`] has passed;
//! * drains the serial port ([`Machine::take_console`]) and the power events
//!   ([`Machine::take_power_event`]);
//! * moves frames between the NIC and the host ([`Machine::take_tx`],
//!   [`Machine::deliver_rx`], [`Machine::take_nic_events`]).
//!
//! Times are nanoseconds of a monotonic clock that the owner reads from the TSC.
//!
//! The guest is hostile: any width at any address, any value in any register,
//! any descriptor chain. Such accesses read all ones or zeros, are ignored, or
//! put the NIC into the state that virtio calls DEVICE_NEEDS_RESET; they are
//! counted ([`Machine::counters`]) and never panic or loop for longer than a
//! queue is long.
//!
//! # How the guest learns the rate of its clock
//!
//! Linux on AMD parts measures the TSC against the PM timer and throws away any
//! sample that took 50 000 cycles or more (`tsc_read_refs`, three port reads per
//! sample). Where three exits cost more than that (about 20 µs; always in an
//! emulator) it gives up, and then hangs while it calibrates the APIC timer. So the
//! loader of the guest passes the rate on the kernel's command line
//! ([`boot::clock_parameters`]) and the PM timer is not advertised
//! ([`MachineConfig::advertise_pm_timer`] = false), because a PM timer with slow
//! reads would also keep Linux from ever taking the TSC as its clock source
//! (`tsc_refine_calibration_work`). Both together are the platform that was
//! tried with Debian's kernels; a fast platform may advertise the timer.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

extern crate alloc;

pub mod acpi;
pub mod boot;
mod cpuid;
mod interrupt;
pub mod layout;
mod machine;
mod msr;
mod pci;
mod power;
mod rtc;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
mod uart;
mod virtio;

pub use machine::{
    Counters, CpuidSource, CpuidState, Fault, Machine, MachineConfig, NicEvents, NoBuffer,
    PendingInterrupt, PowerEvent,
};
