//! What the machine is made of, what it is asked for and what it tells.

use crate::interrupt::lapic;
use crate::layout;
use validate::frame::HashKinds;

/// CPUID leaves of the real processor, as far as the platform vouches for them
/// (SEV-SNP: the CPUID page that the firmware checked).
pub trait CpuidSource {
    /// EAX, EBX, ECX, EDX of a leaf; `None` if the platform has no such leaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]>;
}

/// Most processors of a machine: one bit each in a word.
pub const MAX_PROCESSORS: u8 = 64;

/// What the machine is made of.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Bytes of RAM from guest-physical address 0.
    pub memory_size: u64,
    /// Rate of the guest's TSC in Hz.
    pub tsc_hz: u64,
    /// MAC address of the NIC.
    pub mac: [u8; 6],
    /// MTU of the NIC (payload of an Ethernet frame), 1280 to 9000.
    pub mtu: u16,
    /// Whether the NIC starts with its link up.
    pub link_up: bool,
    /// Processors of the guest, 1 to [`MAX_PROCESSORS`].
    pub processors: u8,
    /// Most queue pairs that virtio's NIC offers, each to the processor with its number;
    /// not more than there are processors. 1: a card without a choice.
    pub queue_pairs: u16,
    /// Kinds of hashes that virtio's NIC offers to tell with a frame; none: it does not
    /// offer any.
    pub hash: HashKinds,
    /// Seconds since 1970 (UTC) at clock 0, for the CMOS clock.
    pub epoch_seconds: u64,
    /// Whether ACPI tells the guest of the PM timer, which is right only where
    /// three port reads take less than 20 µs. If not, ACPI is hardware-reduced and
    /// the guest needs [`crate::boot::clock_parameters`] (see the head of the crate).
    pub advertise_pm_timer: bool,
}

/// The network cards that a machine can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicModel {
    /// virtio-net over PCI.
    #[default]
    Virtio,
    /// Intel 82574L, for guests that have no virtio driver.
    E1000e,
}

/// The access ends in an exception: `#GP(0)` is to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The NIC has no receive buffer posted by the guest; try again after
/// [`NicEvents::rx_refilled`] or drop the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBuffer;

/// What the guest did to its machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// ACPI S5.
    PowerOff,
    /// Reset register.
    Reset,
}

/// An interrupt that the local APIC wants to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingInterrupt {
    /// Vector, 16 to 255.
    pub vector: u8,
    /// Priority class (vector / 16), for V_INTR_PRIO.
    pub priority: u8,
}

/// Registers of the guest on which CPUID depends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidState {
    /// CR4 (OSXSAVE is bit 18).
    pub cr4: u64,
    /// XCR0 (for the size in leaf 0xd; 1 if not known).
    pub xcr0: u64,
}

/// What happened at the NIC since the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicEvents {
    /// The guest rang the transmit queue: call [`Machine::take_tx`] until `None`.
    pub tx_kicked: bool,
    /// The guest posted receive buffers.
    pub rx_refilled: bool,
    /// The driver reset the device (a new driver comes, or none).
    pub reset: bool,
    /// The driver chose another number of queue pairs: see
    /// `Machine::queue_pairs_in_use`. The first processor is told.
    pub pairs_changed: bool,
    /// The driver wants other hashes than before, or none: see `Machine::hash_request`.
    /// The first processor is told.
    pub hash_changed: bool,
}

/// Things that an ordinary guest does not do, and traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Port accesses that no device answered.
    pub unknown_port: u64,
    /// MMIO accesses that no device answered.
    pub unknown_mmio: u64,
    /// MSR accesses that ended in #GP.
    pub unknown_msr: u64,
    /// Frames taken from the guest.
    pub tx_frames: u64,
    /// Frames given to the guest.
    pub rx_frames: u64,
    /// Frames of the guest that could not be used (malformed chains, too long).
    pub tx_dropped: u64,
    /// Frames for the guest that did not fit its buffers.
    pub rx_dropped: u64,
    /// Frames for the guest that its filters did not want.
    pub rx_filtered: u64,
    /// Times the NIC stopped until a reset because its driver broke a rule.
    pub nic_broken: u64,
    /// Console bytes lost because nobody drained them.
    pub console_lost: u64,
    /// Interrupt messages that no processor took.
    pub ignored_interrupts: u64,
    /// This processor's accesses to registers.
    pub registers: Registers,
}

/// How often a processor reached for registers, by what they are for: each time its guest
/// was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The end of an interrupt, told to the local APIC.
    pub interrupt_end: u64,
    /// The time until the local APIC's next timer interrupt.
    pub timer: u64,
    /// The network card's, its doorbells among them.
    pub card: u64,
    /// All others.
    pub other: u64,
}

impl Registers {
    /// One access to `gpa`.
    pub(super) fn count(&mut self, gpa: u64) {
        const END: u64 = layout::LAPIC_BASE + lapic::reg::EOI;
        const TIMER: u64 = layout::LAPIC_BASE + lapic::reg::TIMER_INITIAL;
        let counter = match gpa {
            END => &mut self.interrupt_end,
            TIMER => &mut self.timer,
            layout::PCI_MMIO_BASE..layout::PCI_MMIO_END => &mut self.card,
            _ => &mut self.other,
        };
        *counter = counter.saturating_add(1);
    }
}

/// What another processor did to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// INIT: it is to be reset and then to wait; `start` came after it.
    pub init: bool,
    /// SIPI: it is to start at this page number, if it waits for that.
    pub start: Option<u8>,
}
