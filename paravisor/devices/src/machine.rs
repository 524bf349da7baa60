//! The whole machine: routes accesses to devices and interrupts to the processor.

use crate::cpuid::Cpuid;
use crate::interrupt::{Message, ioapic::IoApic, lapic::Lapic};
use crate::layout;
use crate::msr::{self, Msrs};
use crate::nic::Nic;
use crate::pci::{self, ConfigAddress, ConfigSpace};
use crate::power::Power;
use crate::rtc::Rtc;
use crate::uart::Uart;
use memory::GuestMemory;
use validate::frame::Task;

const PCI_CONFIG_DATA_FIRST: u16 = layout::PCI_CONFIG_DATA;
const PCI_CONFIG_DATA_LAST: u16 = layout::PCI_CONFIG_DATA + 3;
const UART_FIRST: u16 = layout::UART_BASE;
const UART_LAST: u16 = layout::UART_BASE + 7;
const AUDIT_FIRST: u16 = layout::AUDIT_UART_BASE;
const AUDIT_LAST: u16 = layout::AUDIT_UART_BASE + 7;
const RTC_DATA: u16 = layout::RTC_BASE + 1;

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
}

/// The machine of one guest with one VP.
pub struct Machine {
    cpuid: Cpuid,
    msrs: Msrs,
    lapic: Lapic,
    ioapic: IoApic,
    uart: Uart,
    /// COM2, behind which the owner answers questions about its audit.
    audit: Uart,
    rtc: Rtc,
    power: Power,
    config_address: ConfigAddress,
    host_bridge: ConfigSpace,
    nic: Nic,
    unknown_port: u64,
    unknown_mmio: u64,
    unknown_msr: u64,
}

impl Machine {
    /// A machine after power-on, at clock 0 or later.
    pub fn new(config: &MachineConfig, host: &dyn CpuidSource) -> Machine {
        Machine::with_nic(config, host, NicModel::Virtio)
    }

    /// The same with a network card of that model.
    pub fn with_nic(config: &MachineConfig, host: &dyn CpuidSource, nic: NicModel) -> Machine {
        Machine {
            cpuid: Cpuid::new(host),
            msrs: Msrs::new(config.tsc_hz, config.memory_size),
            lapic: Lapic::new(),
            ioapic: IoApic::new(),
            uart: Uart::new(),
            audit: Uart::new(),
            rtc: Rtc::new(config.epoch_seconds),
            power: Power::default(),
            config_address: ConfigAddress::default(),
            host_bridge: pci::host_bridge(),
            nic: Nic::new(config, nic),
            unknown_port: 0,
            unknown_mmio: 0,
            unknown_msr: 0,
        }
    }

    /// `IN`: `size` is 1, 2 or 4 bytes. Ports without a device read all ones.
    pub fn io_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
        let value = match port {
            layout::PCI_CONFIG_ADDRESS if size == 4 => self.config_address.read(),
            PCI_CONFIG_DATA_FIRST..=PCI_CONFIG_DATA_LAST => self.pci_read(port, size),
            _ => {
                // Everything else is made of byte registers.
                let mut value = 0u32;
                for index in (0..u16::from(size.min(4))).rev() {
                    let at = port.wrapping_add(index);
                    value = value << 8 | u32::from(self.port_read(at, now));
                }
                value
            }
        };
        self.update_lines();
        value & low_bytes(size)
    }

    /// `OUT`.
    pub fn io_write(&mut self, port: u16, size: u8, value: u32, _now: u64) {
        match port {
            layout::PCI_CONFIG_ADDRESS if size == 4 => self.config_address.write(value),
            PCI_CONFIG_DATA_FIRST..=PCI_CONFIG_DATA_LAST => self.pci_write(port, size, value),
            _ => {
                for (index, byte) in (0..u16::from(size.min(4))).zip(value.to_le_bytes()) {
                    self.port_write(port.wrapping_add(index), byte);
                }
            }
        }
        self.update_lines();
    }

    fn port_read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            UART_FIRST..=UART_LAST => self.uart.read(port),
            AUDIT_FIRST..=AUDIT_LAST => self.audit.read(port),
            RTC_DATA => self.rtc.read(now),
            // No 8254. Linux takes an endless row of 0xff from its data ports for the
            // high byte of a counter that runs, and reads on 100 000 times before it
            // gives up (`quick_pit_calibrate`); a counter that stands at zero ends it
            // after two reads.
            layout::PIT_FIRST..=layout::PIT_LAST => {
                self.unknown_port = self.unknown_port.saturating_add(1);
                0
            }
            _ => self.power.read(port, now).unwrap_or_else(|| {
                self.unknown_port = self.unknown_port.saturating_add(1);
                0xff
            }),
        }
    }

    fn port_write(&mut self, port: u16, value: u8) {
        match port {
            UART_FIRST..=UART_LAST => self.uart.write(port, value),
            AUDIT_FIRST..=AUDIT_LAST => self.audit.write(port, value),
            layout::RTC_BASE => self.rtc.select(value),
            RTC_DATA => self.rtc.write(value),
            // Port 0x80: Linux writes it to pass a microsecond.
            0x80 => {}
            _ => {
                if !self.power.write(port, value) {
                    self.unknown_port = self.unknown_port.saturating_add(1);
                }
            }
        }
    }

    /// The register and size of an access to the configuration data port; an
    /// access that leaves the port's four bytes is none.
    fn pci_target(&self, port: u16, size: u8) -> Option<(u8, usize)> {
        let byte = port.wrapping_sub(layout::PCI_CONFIG_DATA) as u8;
        let selected = self.config_address.selected()?;
        (matches!(size, 1 | 2 | 4) && byte.saturating_add(size) <= 4)
            .then(|| (selected.device, usize::from(selected.register | byte)))
    }

    fn pci_read(&mut self, port: u16, size: u8) -> u32 {
        match self.pci_target(port, size) {
            Some((0, offset)) => self.host_bridge.read(offset, size),
            Some((layout::NIC_DEVICE, offset)) => self.nic.config_read(offset, size),
            // Nobody answers: a master abort reads all ones.
            _ => u32::MAX,
        }
    }

    fn pci_write(&mut self, port: u16, size: u8, value: u32) {
        match self.pci_target(port, size) {
            Some((0, offset)) => self.host_bridge.write(offset, size, value),
            Some((layout::NIC_DEVICE, offset)) => {
                self.nic.config_write(offset, size, value);
            }
            _ => {}
        }
    }

    /// A read of `size` (1, 2, 4, 8) bytes from an address that is not RAM.
    pub fn mmio_read(&mut self, gpa: u64, size: u8, now: u64) -> u64 {
        let offset = gpa & 0xfff;
        let value = match gpa & !0xfff {
            // APICs know 32-bit accesses only; a wider one is padded, a narrower cut.
            layout::LAPIC_BASE if self.lapic.hardware_enabled() => {
                u64::from(self.lapic.read(offset, now))
            }
            layout::IOAPIC_BASE => u64::from(self.ioapic.read(offset)),
            _ => match self.nic.decode(gpa) {
                Some((bar, offset)) => self.nic.bar_read(bar, offset, size, now),
                None => {
                    self.unknown_mmio = self.unknown_mmio.saturating_add(1);
                    u64::MAX
                }
            },
        };
        self.update_lines();
        // No more bits than the access has, whatever its width is.
        let unused = 64u32.saturating_sub(u32::from(size).saturating_mul(8));
        value & u64::MAX.checked_shr(unused).unwrap_or(0)
    }

    /// A write to an address that is not RAM. Needs no guest memory: a doorbell
    /// is only noted (see [`Machine::take_nic_events`]).
    pub fn mmio_write(&mut self, gpa: u64, size: u8, value: u64, now: u64) {
        let offset = gpa & 0xfff;
        match gpa & !0xfff {
            layout::LAPIC_BASE if self.lapic.hardware_enabled() => {
                if let Some(vector) = self.lapic.write(offset, value as u32, now) {
                    self.ioapic.end_of_interrupt(vector, &mut self.lapic);
                }
            }
            layout::IOAPIC_BASE => self.ioapic.write(offset, value as u32, &mut self.lapic),
            _ => match self.nic.decode(gpa) {
                Some((bar, offset)) => self.nic.bar_write(bar, offset, size, value, now),
                None => self.unknown_mmio = self.unknown_mmio.saturating_add(1),
            },
        }
        self.update_lines();
    }

    /// CPUID as the guest sees it: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: CpuidState) -> [u32; 4] {
        self.cpuid.get(leaf, subleaf, state)
    }

    /// RDMSR of an MSR that the processor does not keep by itself.
    pub fn rdmsr(&mut self, msr: u32, now: u64) -> Result<u64, Fault> {
        let value = self.msrs.read(msr, self.lapic.hardware_enabled(), now);
        self.count_fault(value)
    }

    /// WRMSR.
    pub fn wrmsr(&mut self, msr: u32, value: u64, _now: u64) -> Result<(), Fault> {
        let outcome = if msr == msr::APIC_BASE {
            // The page stays where it is and x2APIC does not exist.
            let fixed = msr::APIC_ENABLE | layout::LAPIC_BASE | 1 << 8;
            if value & !fixed != 0 || value & layout::LAPIC_BASE != layout::LAPIC_BASE {
                Err(Fault)
            } else {
                self.lapic
                    .set_hardware_enabled(value & msr::APIC_ENABLE != 0);
                Ok(())
            }
        } else {
            self.msrs.write(msr, value)
        };
        self.count_fault(outcome)
    }

    fn count_fault<T>(&mut self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.inspect_err(|Fault| self.unknown_msr = self.unknown_msr.saturating_add(1))
    }

    /// Whether XSETBV with this register number (ECX) and value may be executed
    /// for the guest.
    pub fn check_xsetbv(&self, index: u32, value: u64) -> Result<(), Fault> {
        if index == 0 && self.cpuid.xcr0_allowed(value) {
            Ok(())
        } else {
            Err(Fault)
        }
    }

    /// Edge of an interrupt that comes from outside of this machine's devices, such
    /// as a hypervisor's own. Lost while the local APIC is off.
    pub fn raise_interrupt(&mut self, vector: u8) {
        self.lapic.receive(Message {
            destination: 0xff,
            logical: false,
            mode: crate::interrupt::mode::FIXED,
            vector,
            level: false,
        });
    }

    /// The interrupt to deliver next, if the task priority lets one through.
    /// Asking changes nothing. An interrupt that was offered to the guest and not
    /// taken may be replaced by a more urgent one.
    pub fn pending_interrupt(&self) -> Option<PendingInterrupt> {
        self.lapic.pending()
    }

    /// The most urgent interrupt above those in service, whatever the task priority:
    /// for a processor that compares with the task priority by itself.
    pub fn requested_interrupt(&self) -> Option<PendingInterrupt> {
        self.lapic.requested()
    }

    /// Class of vectors that the task priority holds back, as in CR8.
    pub fn task_priority(&self) -> u8 {
        self.lapic.task_priority()
    }

    /// The guest has written CR8, which is the same register.
    pub fn set_task_priority(&mut self, class: u8) {
        self.lapic.set_task_priority(class);
    }

    /// The guest has taken (or will surely take) this interrupt: it moves from
    /// requested to in service.
    pub fn accept_interrupt(&mut self, vector: u8) {
        self.lapic.accept(vector);
    }

    /// Whether the guest sent itself an NMI; asking takes it.
    pub fn take_nmi(&mut self) -> bool {
        self.lapic.take_nmi()
    }

    /// When [`Machine::advance`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        let deadlines = [self.lapic.next_deadline(), self.nic.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Lets timers expire that are due at `now`. May be called at any time.
    pub fn advance(&mut self, now: u64) {
        self.lapic.advance(now);
        self.nic.advance(now);
        self.update_lines();
    }

    /// Moves bytes that the guest sent to its serial port into `buf`; how many.
    pub fn take_console(&mut self, buf: &mut [u8]) -> usize {
        self.uart.take_output(buf)
    }

    /// Types bytes into the guest's serial port; how many found room.
    pub fn put_console(&mut self, bytes: &[u8]) -> usize {
        let count = self.uart.put_input(bytes);
        self.update_lines();
        count
    }

    /// Moves bytes that the guest sent to its audit port into `buf`; how many.
    pub fn take_audit(&mut self, buf: &mut [u8]) -> usize {
        self.audit.take_output(buf)
    }

    /// How many bytes [`Machine::put_audit`] has room for.
    pub fn audit_room(&self) -> usize {
        self.audit.input_room()
    }

    /// Sends bytes to the guest's audit port; how many found room.
    pub fn put_audit(&mut self, bytes: &[u8]) -> usize {
        let count = self.audit.put_input(bytes);
        self.update_lines();
        count
    }

    /// The guest switched itself off or reset itself; asking takes the event.
    pub fn take_power_event(&mut self) -> Option<PowerEvent> {
        self.power.take_event()
    }

    /// What happened at the NIC; asking takes the events.
    pub fn take_nic_events(&mut self) -> NicEvents {
        self.nic.take_events()
    }

    /// The next frame that the guest sends, copied into `buf` without the
    /// card's header: its length, and what the guest leaves to its card. Frames that do not
    /// fit `buf` or ask for what cannot be are dropped and counted. `None`: nothing
    /// to send now; the guest will ring (`tx_kicked`) when there is.
    pub fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        let taken = self.nic.take_frame(guest, buf);
        self.update_lines();
        taken
    }

    /// [`Machine::take_frame`] for a guest that leaves nothing to its card.
    pub fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        self.take_frame(guest, buf).map(|(len, _)| len)
    }

    /// Gives a frame (from the destination MAC on, without FCS) to the guest.
    /// Frames longer than MTU + 18 bytes, and those for which the guest's next
    /// buffer is too small, are dropped and counted.
    pub fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer> {
        let outcome = self.nic.deliver_rx(guest, frame);
        self.update_lines();
        outcome
    }

    /// Tells the guest that the link went up or down.
    pub fn set_link(&mut self, up: bool) {
        self.nic.set_link(up);
        self.update_lines();
    }

    /// Counters since start.
    pub fn counters(&self) -> Counters {
        let traffic = self.nic.traffic();
        Counters {
            unknown_port: self.unknown_port,
            unknown_mmio: self.unknown_mmio,
            unknown_msr: self.unknown_msr,
            tx_frames: traffic.tx_frames,
            rx_frames: traffic.rx_frames,
            tx_dropped: traffic.tx_dropped,
            rx_dropped: traffic.rx_dropped,
            rx_filtered: traffic.rx_filtered,
            nic_broken: traffic.broken,
            console_lost: self.uart.lost,
            ignored_interrupts: self.lapic.ignored_messages,
        }
    }

    /// Carries interrupts from the devices to the APICs.
    fn update_lines(&mut self) {
        while let Some((address, data)) = self.nic.next_message() {
            if let Some(message) = Message::from_msi(address, data) {
                self.lapic.receive(message);
            }
        }
        let intx = self.nic.intx();
        self.ioapic.set_line(layout::NIC_PIN, intx, &mut self.lapic);
        self.ioapic
            .set_line(layout::UART_PIN, self.uart.line(), &mut self.lapic);
        self.ioapic
            .set_line(layout::AUDIT_UART_PIN, self.audit.line(), &mut self.lapic);
    }
}

/// A mask of `size` bytes, at most four.
fn low_bytes(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects
)]
mod tests;
