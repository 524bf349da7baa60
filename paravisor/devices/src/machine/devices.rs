//! The devices that all processors share: which of them answers an access, and their
//! interrupt lines.

use crate::interrupt::apics::Apics;
use crate::interrupt::{Deliver, Message, ioapic::IoApic};
use crate::layout;
use crate::nic::Nic;
use crate::pci::{self, ConfigAddress, ConfigSpace};
use crate::power::Power;
use crate::rtc::Rtc;
use crate::uart::Uart;
use crate::{MachineConfig, NicModel};

/// What the guest has left for the owner.
pub(super) mod left {
    /// Console output.
    pub const CONSOLE: u32 = 1 << 0;
    /// Output at the audit port.
    pub const AUDIT: u32 = 1 << 1;
    /// A power event.
    pub const POWER: u32 = 1 << 2;
}

const PCI_CONFIG_DATA_FIRST: u16 = layout::PCI_CONFIG_DATA;
const PCI_CONFIG_DATA_LAST: u16 = layout::PCI_CONFIG_DATA + 3;
const UART_FIRST: u16 = layout::UART_BASE;
const UART_LAST: u16 = layout::UART_BASE + 7;
const AUDIT_FIRST: u16 = layout::AUDIT_UART_BASE;
const AUDIT_LAST: u16 = layout::AUDIT_UART_BASE + 7;
const RTC_DATA: u16 = layout::RTC_BASE + 1;

/// The devices.
pub(super) struct Devices {
    pub(super) ioapic: IoApic,
    pub(super) uart: Uart,
    /// COM2, behind which the owner answers questions about its audit.
    pub(super) audit: Uart,
    audit_touched: bool,
    rtc: Rtc,
    pub(super) power: Power,
    config_address: ConfigAddress,
    host_bridge: ConfigSpace,
    pub(super) nic: Nic,
    pub(super) unknown_port: u64,
    pub(super) unknown_mmio: u64,
}

impl Devices {
    pub(super) fn new(config: &MachineConfig, nic: NicModel) -> Devices {
        Devices {
            ioapic: IoApic::new(),
            uart: Uart::new(),
            audit: Uart::new(),
            audit_touched: false,
            rtc: Rtc::new(config.epoch_seconds),
            power: Power::default(),
            config_address: ConfigAddress::default(),
            host_bridge: pci::host_bridge(),
            nic: Nic::new(config, nic),
            unknown_port: 0,
            unknown_mmio: 0,
        }
    }

    pub(super) fn io_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
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
        value & low_bytes(size)
    }

    pub(super) fn io_write(&mut self, port: u16, size: u8, value: u32) {
        match port {
            layout::PCI_CONFIG_ADDRESS if size == 4 => self.config_address.write(value),
            PCI_CONFIG_DATA_FIRST..=PCI_CONFIG_DATA_LAST => self.pci_write(port, size, value),
            _ => {
                for (index, byte) in (0..u16::from(size.min(4))).zip(value.to_le_bytes()) {
                    self.port_write(port.wrapping_add(index), byte);
                }
            }
        }
    }

    fn port_read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            UART_FIRST..=UART_LAST => self.uart.read(port),
            AUDIT_FIRST..=AUDIT_LAST => {
                self.audit_touched = true;
                self.audit.read(port)
            }
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
            AUDIT_FIRST..=AUDIT_LAST => {
                self.audit_touched = true;
                self.audit.write(port, value);
            }
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

    pub(super) fn mmio_read(&mut self, gpa: u64, size: u8, now: u64) -> u64 {
        match gpa & !0xfff {
            layout::IOAPIC_BASE => u64::from(self.ioapic.read(gpa & 0xfff)),
            _ => match self.nic.decode(gpa) {
                Some((bar, offset)) => self.nic.bar_read(bar, offset, size, now),
                None => {
                    self.unknown_mmio = self.unknown_mmio.saturating_add(1);
                    u64::MAX
                }
            },
        }
    }

    pub(super) fn mmio_write(
        &mut self,
        gpa: u64,
        size: u8,
        value: u64,
        now: u64,
        apics: &mut Apics<'_>,
    ) {
        match gpa & !0xfff {
            layout::IOAPIC_BASE => self.ioapic.write(gpa & 0xfff, value as u32, apics),
            _ => match self.nic.decode(gpa) {
                Some((bar, offset)) => self.nic.bar_write(bar, offset, size, value, now),
                None => self.unknown_mmio = self.unknown_mmio.saturating_add(1),
            },
        }
    }

    /// What there is to take, by bits of [`left`].
    pub(super) fn left(&self) -> u32 {
        let bit = |there, bit| if there { bit } else { 0 };
        bit(self.uart.has_output(), left::CONSOLE)
            | bit(self.audit.has_output(), left::AUDIT)
            | bit(self.power.has_event(), left::POWER)
    }

    /// Processors for which there is something that only they can do, by bits: for the
    /// one that serves the devices, and for owners of queue pairs.
    pub(super) fn take_calls(&mut self) -> u64 {
        u64::from(core::mem::take(&mut self.audit_touched)) | self.nic.take_calls()
    }

    /// Carries interrupts from the devices to the APICs.
    pub(super) fn update_lines(&mut self, apics: &mut Apics<'_>) {
        while let Some((address, data)) = self.nic.next_message() {
            if let Some(message) = Message::from_msi(address, data) {
                apics.deliver(message);
            }
        }
        let intx = self.nic.intx();
        self.ioapic.set_line(layout::NIC_PIN, intx, apics);
        self.ioapic
            .set_line(layout::UART_PIN, self.uart.line(), apics);
        self.ioapic
            .set_line(layout::AUDIT_UART_PIN, self.audit.line(), apics);
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
