//! The whole machine: routes accesses to devices and interrupts to the processor.

use memory::GuestMemory;

/// CPUID leaves of the real processor, as far as the platform vouches for them
/// (SEV-SNP: the CPUID page that the firmware checked).
pub trait CpuidSource {
    /// EAX, EBX, ECX, EDX of a leaf; `None` if the platform has no such leaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]>;
}

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
    /// Seconds since 1970 (UTC) at clock 0, for the CMOS clock.
    pub epoch_seconds: u64,
    /// Whether ACPI tells the guest of the PM timer. Only for platforms on which
    /// three port reads take less than 20 µs (see the head of the crate).
    pub advertise_pm_timer: bool,
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
    /// Times the NIC went into DEVICE_NEEDS_RESET.
    pub nic_broken: u64,
    /// Console bytes lost because nobody drained them.
    pub console_lost: u64,
}

/// The machine of one guest with one VP.
pub struct Machine {
    counters: Counters,
}

impl Machine {
    /// A machine after power-on, at clock 0 or later.
    pub fn new(config: &MachineConfig, host: &dyn CpuidSource) -> Machine {
        let _ = (config, host);
        Machine { counters: Counters::default() }
    }

    /// `IN`: `size` is 1, 2 or 4 bytes. Ports without a device read all ones.
    pub fn io_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
        let _ = (port, size, now);
        u32::MAX
    }

    /// `OUT`.
    pub fn io_write(&mut self, port: u16, size: u8, value: u32, now: u64) {
        let _ = (port, size, value, now);
    }

    /// A read of `size` (1, 2, 4, 8) bytes from an address that is not RAM.
    pub fn mmio_read(&mut self, gpa: u64, size: u8, now: u64) -> u64 {
        let _ = (gpa, size, now);
        u64::MAX
    }

    /// A write to an address that is not RAM. Needs no guest memory: a doorbell
    /// is only noted (see [`Machine::take_nic_events`]).
    pub fn mmio_write(&mut self, gpa: u64, size: u8, value: u64, now: u64) {
        let _ = (gpa, size, value, now);
    }

    /// CPUID as the guest sees it: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: CpuidState) -> [u32; 4] {
        let _ = (leaf, subleaf, state);
        [0; 4]
    }

    /// RDMSR of an MSR that the processor does not keep by itself.
    pub fn rdmsr(&mut self, msr: u32, now: u64) -> Result<u64, Fault> {
        let _ = (msr, now);
        Err(Fault)
    }

    /// WRMSR.
    pub fn wrmsr(&mut self, msr: u32, value: u64, now: u64) -> Result<(), Fault> {
        let _ = (msr, value, now);
        Err(Fault)
    }

    /// Whether XSETBV with this register number (ECX) and value may be executed
    /// for the guest.
    pub fn check_xsetbv(&self, index: u32, value: u64) -> Result<(), Fault> {
        let _ = (index, value);
        Err(Fault)
    }

    /// The interrupt to deliver next, if the task priority lets one through.
    /// Asking changes nothing.
    pub fn pending_interrupt(&self) -> Option<PendingInterrupt> {
        None
    }

    /// The guest has taken (or will surely take) this interrupt: it moves from
    /// requested to in service.
    pub fn accept_interrupt(&mut self, vector: u8) {
        let _ = vector;
    }

    /// Whether the guest sent itself an NMI; asking takes it.
    pub fn take_nmi(&mut self) -> bool {
        false
    }

    /// When [`Machine::advance`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// Lets timers expire that are due at `now`.
    pub fn advance(&mut self, now: u64) {
        let _ = now;
    }

    /// Moves bytes that the guest sent to its serial port into `buf`; how many.
    pub fn take_console(&mut self, buf: &mut [u8]) -> usize {
        let _ = buf;
        0
    }

    /// The guest switched itself off or reset itself; asking takes the event.
    pub fn take_power_event(&mut self) -> Option<PowerEvent> {
        None
    }

    /// What happened at the NIC; asking takes the events.
    pub fn take_nic_events(&mut self) -> NicEvents {
        NicEvents::default()
    }

    /// The next frame that the guest sends, copied into `buf` without virtio's
    /// header; its length. Frames that do not fit `buf` are dropped and counted.
    /// `None`: nothing to send now; the guest will ring (`tx_kicked`) when there is.
    pub fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        let _ = (guest, buf);
        None
    }

    /// Gives a frame (from the destination MAC on, without FCS) to the guest.
    pub fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer> {
        let _ = (guest, frame);
        Err(NoBuffer)
    }

    /// Tells the guest that the link went up or down.
    pub fn set_link(&mut self, up: bool) {
        let _ = up;
    }

    /// Counters since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
