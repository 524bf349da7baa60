//! What the guest sees: an ordinary PC with up to [`MAX_PROCESSORS`] processors, a
//! serial port and a PCI network card. Nothing here knows of the host; nothing here
//! does I/O.
//!
//! The owner of a processor (the paravisor's loop for the VP) holds one [`Machine`] and
//! * hands it decoded exits: port I/O, MMIO, CPUID, MSR accesses;
//! * asks it for interrupts ([`Machine::pending_interrupt`]) before entering the
//!   guest and tells it when one was taken ([`Machine::accept_interrupt`]);
//! * calls [`Machine::advance`] when [`Machine::next_deadline`] has passed;
//! * drains the serial port ([`Machine::drain_console`]) and the power events
//!   ([`Machine::take_power_event`]);
//! * says when its processor goes and comes back ([`Machine::leave`],
//!   [`Machine::back`]), takes what other processors sent to it
//!   ([`Machine::take_signals`]) and wakes those to which it sent something
//!   ([`Machine::take_kicks`]);
//! * on the first processor, moves frames between the NIC and the host ([`Machine::take_tx`],
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
//! # How the guest learns the rate of its clocks
//!
//! Linux on AMD parts measures the TSC against the PM timer and throws away any
//! sample that took 50 000 cycles or more (`tsc_read_refs`, three port reads per
//! sample). Where three exits cost more than that (about 20 µs; always in an
//! emulator) it gives up, and then hangs while it calibrates the APIC timer. So
//! there are two platforms, and [`MachineConfig::advertise_pm_timer`] chooses:
//!
//! * `true`: ACPI with fixed hardware and a PM timer, nothing on the command line.
//!   For platforms with fast exits.
//! * `false`: hardware-reduced ACPI without a PM timer, and the loader of the guest
//!   passes the TSC's rate on the command line ([`boot::clock_parameters`]).
//!   Without the PM timer Linux takes the TSC as its clock at once, instead of
//!   retrying a measurement that cannot succeed (`tsc_refine_calibration_work`).
//!   Hardware-reduced, because otherwise Linux takes a PIT for granted and checks
//!   the APIC timer against its ticks (`apic_needs_pit`, `calibrate_APIC_clock`),
//!   unless there is a PM timer to check against.
//!
//! Either way there is no 8259, no 8254, no HPET and no keyboard controller.
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

pub mod acpi;
pub mod boot;
mod cpuid;
mod e1000e;
mod interrupt;
pub mod layout;
mod machine;
mod msr;
mod nic;
mod pci;
mod power;
mod rtc;
#[cfg(test)]
mod sweeps;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
mod uart;
mod virtio;

pub use interrupt::post;
pub use machine::{
    Counters, CpuidSource, CpuidState, Fault, MAX_PROCESSORS, Machine, MachineConfig, NicEvents,
    NicModel, NoBuffer, PendingInterrupt, PowerEvent, Registers, Signals,
};
