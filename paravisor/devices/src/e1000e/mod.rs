//! The other network card: Intel's 82574L, for guests without virtio. One receive
//! and one transmit queue (no RSS), legacy, extended and packet-split descriptors,
//! checksums and segmentation on the way out, MSI-X and INTA. What was received has
//! its checksums marked as not looked at, so the guest looks at them itself: the host's
//! word about them is not passed on (RND-25). Frames are taken in pieces, unless the
//! driver wants their FCS, and written to its buffers in one copy. Interrupts are held by
//! throttles and delays as the driver sets them.
//!
//! The driver is hostile: a value that makes no sense is kept and has no effect, a
//! packet that makes no sense is dropped and counted. Rings or buffers outside of
//! the guest's memory stop both directions until the driver resets the device.

mod delays;
mod eeprom;
mod interrupts;
mod offload;
mod phy;
mod receive;
mod registers;
mod ring;
mod statistics;
#[cfg(test)]
mod sweeps;
mod systim;
mod transmit;

use crate::pci::ConfigSpace;
use crate::{MachineConfig, NicEvents, layout};
use abi::e1000e::{
    EEMNGCTL_DONE, MSIX_BAR, MSIX_PBA, MSIX_SIZE, RAH_VALID, REGISTERS_SIZE, SWSM_SMBI, VECTORS,
    cause, ctrl, ctrl_ext, eecd, id, mdic, reg, status,
};
use abi::pci::{capability, msix};

use eeprom::Eeprom;
use interrupts::Interrupts;
use phy::Phy;
use registers::Plain;
use ring::Ring;
use statistics::Statistics;
use systim::Systim;
use transmit::Sender;

/// Ethernet header.
const ETHERNET_LEN: usize = 14;
/// One VLAN tag.
const TAG_LEN: usize = 4;
/// BAR of the registers.
const REGISTERS_BAR: u8 = 0;

/// The network card.
#[derive(Debug)]
pub(crate) struct E1000e {
    config: ConfigSpace,
    msix_capability: usize,
    mac: [u8; 6],
    plain: Plain,
    eeprom: Eeprom,
    phy: Phy,
    /// What these two read.
    eerd: u32,
    mdic: u32,
    interrupts: Interrupts,
    statistics: Statistics,
    systim: Systim,
    rx: Ring,
    tx: Ring,
    sender: Sender,
    /// The link as the owner says.
    partner: bool,
    /// Longest frame.
    max_frame: usize,
    tx_kicked: bool,
    rx_refilled: bool,
    reset_seen: bool,
    /// A frame waits for a receive buffer.
    starved: bool,
    /// Stopped until a reset, and how often that was so.
    stopped: bool,
    pub(crate) broken: u64,
    pub(crate) tx_frames: u64,
    pub(crate) rx_frames: u64,
    pub(crate) tx_dropped: u64,
    pub(crate) rx_dropped: u64,
    /// Frames that the driver's filters did not want.
    pub(crate) rx_filtered: u64,
}

impl E1000e {
    pub(crate) fn new(machine: &MachineConfig) -> E1000e {
        let class = abi::pci::id::CLASS_ETHERNET;
        let mut config = ConfigSpace::new(id::VENDOR, id::DEVICE, class, 0);
        let base = layout::PCI_MMIO_BASE as u32;
        config.add_bar(usize::from(REGISTERS_BAR), REGISTERS_SIZE, base);
        let second = base.wrapping_add(REGISTERS_SIZE);
        config.add_bar(usize::from(MSIX_BAR), MSIX_SIZE, second);
        config.set_interrupt(layout::NIC_PIN);
        let last = (VECTORS as u16).wrapping_sub(1).to_le_bytes();
        let table = u32::from(MSIX_BAR).to_le_bytes();
        let pending = (MSIX_PBA as u32 | u32::from(MSIX_BAR)).to_le_bytes();
        let mut body = [0; msix::CAPABILITY_LEN - 2];
        let fields = last.iter().chain(&table).chain(&pending);
        for (slot, byte) in body.iter_mut().zip(fields) {
            *slot = *byte;
        }
        let mask = (msix::ENABLE | msix::FUNCTION_MASK).to_le_bytes();
        let msix_capability = config.add_capability(capability::MSIX, &body, &mask);
        let mut device = E1000e {
            config,
            msix_capability,
            mac: machine.mac,
            plain: Plain::new(),
            eeprom: Eeprom::new(machine.mac),
            phy: Phy::new(),
            eerd: 0,
            mdic: mdic::READY,
            interrupts: Interrupts::new(),
            statistics: Statistics::new(),
            systim: Systim::default(),
            rx: Ring::default(),
            tx: Ring::default(),
            sender: Sender::new(),
            partner: machine.link_up,
            max_frame: usize::from(machine.mtu).saturating_add(ETHERNET_LEN + TAG_LEN),
            tx_kicked: false,
            rx_refilled: false,
            reset_seen: false,
            starved: false,
            stopped: false,
            broken: 0,
            tx_frames: 0,
            rx_frames: 0,
            tx_dropped: 0,
            rx_dropped: 0,
            rx_filtered: 0,
        };
        device.load_address();
        device
    }

    /// What the device does by itself after a reset: the MAC address becomes the
    /// first receive address (datasheet 10.2.5.20).
    fn load_address(&mut self) {
        let [a, b, c, d, e, f] = self.mac;
        self.plain.put(reg::RA, u32::from_le_bytes([a, b, c, d]));
        let high = u32::from_le_bytes([e, f, 0, 0]) | RAH_VALID;
        self.plain.put(reg::RA.saturating_add(4), high);
    }

    /// `CTRL.RST`: everything but PCI and the PHY starts anew.
    fn reset(&mut self) {
        self.plain.reset();
        self.load_address();
        self.interrupts.reset();
        self.statistics = Statistics::new();
        self.rx = Ring::default();
        self.tx = Ring::default();
        self.sender.reset();
        self.eerd = 0;
        self.mdic = mdic::READY;
        self.tx_kicked = false;
        self.rx_refilled = false;
        self.starved = false;
        self.stopped = false;
        self.reset_seen = true;
    }

    /// Whether the device may touch the guest's memory.
    fn running(&self) -> bool {
        !self.stopped
            && self.config.bus_master()
            && self.plain.get(reg::CTRL) & ctrl::MASTER_DISABLE == 0
    }

    /// The driver gave addresses that are not its memory.
    fn set_broken(&mut self) {
        if !self.stopped {
            self.stopped = true;
            self.broken = self.broken.saturating_add(1);
        }
    }

    fn link(&self) -> bool {
        self.partner && self.phy.powered()
    }

    /// Tells the driver that the link went up or down.
    pub(crate) fn set_link(&mut self, up: bool) {
        if up != self.partner {
            self.partner = up;
            self.interrupts.raise(cause::LSC);
        }
    }

    pub(crate) fn has_events(&self) -> bool {
        self.tx_kicked || self.rx_refilled || self.reset_seen
    }

    pub(crate) fn take_events(&mut self) -> NicEvents {
        NicEvents {
            tx_kicked: core::mem::take(&mut self.tx_kicked),
            rx_refilled: core::mem::take(&mut self.rx_refilled),
            reset: core::mem::take(&mut self.reset_seen),
            pairs_changed: false,
            hash_changed: false,
        }
    }

    fn msix_control(&self) -> u16 {
        let at = self.msix_capability.saturating_add(msix::CONTROL);
        self.config.word(at)
    }

    /// Reads configuration space.
    pub(crate) fn config_read(&self, offset: usize, size: u8) -> u32 {
        self.config.read(offset, size)
    }

    /// Writes configuration space.
    pub(crate) fn config_write(&mut self, offset: usize, size: u8, value: u32) {
        self.config.write(offset, size, value);
        let on = self.msix_control() & msix::ENABLE != 0;
        self.interrupts.set_messages(on);
    }

    /// The next MSI-X message that leaves the device.
    pub(crate) fn next_message(&mut self) -> Option<(u64, u32)> {
        if !self.config.bus_master() {
            return None;
        }
        let control = self.msix_control();
        self.interrupts.msix.next_message(control)
    }

    /// State of INTA.
    pub(crate) fn intx(&mut self) -> bool {
        let wanted = self.interrupts.line() && self.msix_control() & msix::ENABLE == 0;
        self.config.set_intx_status(wanted);
        wanted && self.config.intx_enabled()
    }

    /// See [`crate::Machine::advance`].
    pub(crate) fn advance(&mut self, now: u64) {
        self.interrupts.advance(now);
    }

    /// See [`crate::Machine::next_deadline`].
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.interrupts.next_deadline()
    }

    /// Which BAR answers at `gpa`.
    pub(crate) fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
        self.config.decode(gpa)
    }

    /// Reads a BAR. Registers have 32 bits: a narrower access gets its part, one
    /// that leaves its register or pair reads 0.
    pub(crate) fn bar_read(&mut self, bar: u8, offset: u64, size: u8, now: u64) -> u64 {
        if bar == MSIX_BAR {
            return match offset {
                MSIX_PBA.. => {
                    let at = offset.wrapping_sub(MSIX_PBA);
                    self.interrupts.msix.read_pending(at, size)
                }
                _ if offset < self.interrupts.msix.table_len() => {
                    self.interrupts.msix.read_table(offset, size)
                }
                _ => 0,
            };
        }
        self.advance(now);
        let within = offset & 3;
        let register = (offset & !3) as u32;
        match size {
            8 if within == 0 => {
                let low = u64::from(self.read(register, now));
                low | u64::from(self.read(register.wrapping_add(4), now)) << 32
            }
            1 | 2 | 4 if within.saturating_add(u64::from(size)) <= 4 => {
                u64::from(self.read(register, now)).wrapping_shr((within as u32).wrapping_mul(8))
            }
            _ => 0,
        }
    }

    /// Writes a BAR. Only whole registers can be written.
    pub(crate) fn bar_write(&mut self, bar: u8, offset: u64, size: u8, value: u64, now: u64) {
        if bar == MSIX_BAR {
            if offset < self.interrupts.msix.table_len() {
                self.interrupts.msix.write_table(offset, size, value);
            }
            return;
        }
        self.advance(now);
        let register = offset as u32;
        match size {
            4 if offset & 3 == 0 => self.write(register, value as u32, now),
            8 if offset & 7 == 0 => {
                self.write(register, value as u32, now);
                self.write(register.wrapping_add(4), (value >> 32) as u32, now);
            }
            _ => {}
        }
    }

    fn status(&self) -> u32 {
        let control = self.plain.get(reg::CTRL);
        let mut value = status::FD | status::SPEED_1000 | self.plain.get(reg::STATUS);
        if self.link() {
            value |= status::LU;
        }
        if control & ctrl::MASTER_DISABLE == 0 {
            value |= status::MASTER_ENABLE;
        }
        value
    }

    fn read(&mut self, register: u32, now: u64) -> u32 {
        match register {
            reg::STATUS => self.status(),
            reg::EECD => {
                let request = self.plain.get(reg::EECD) & eecd::REQ;
                let granted = if request != 0 { eecd::GNT } else { 0 };
                request | granted | eecd::PRES | eecd::AUTO_RD
            }
            reg::EERD => self.eerd,
            reg::MDIC => self.mdic,
            reg::EEMNGCTL => EEMNGCTL_DONE,
            // Reading takes the semaphore (datasheet 10.2.8.15).
            reg::SWSM => {
                let value = self.plain.get(reg::SWSM);
                self.plain.put(reg::SWSM, value | SWSM_SMBI);
                value
            }
            statistics::FIRST..statistics::END => self.statistics.read(register),
            systim::FIRST..systim::END => self.systim.read(register, now),
            _ => {
                let ring = match register & !0xff {
                    reg::RDBAL => self.rx.read(register & 0xff),
                    reg::TDBAL => self.tx.read(register & 0xff),
                    _ => None,
                };
                ring.or_else(|| self.interrupts.read(register))
                    .unwrap_or_else(|| self.plain.get(register))
            }
        }
    }

    fn write(&mut self, register: u32, value: u32, now: u64) {
        match register {
            reg::CTRL => self.write_control(value),
            // The driver clears what says that the PHY was reset.
            reg::STATUS => {
                let kept = self.plain.get(reg::STATUS) & (value | !status::PHYRA);
                self.plain.put(reg::STATUS, kept);
            }
            reg::CTRL_EXT => {
                self.plain.write(register, value & !ctrl_ext::EE_RST);
                self.interrupts.set_control(value);
            }
            reg::EECD => self.plain.put(reg::EECD, value & eecd::REQ),
            reg::EERD => self.eerd = self.eeprom.request(value),
            reg::MDIC => {
                let done = self.phy.access(value, self.partner);
                self.mdic = done.answer;
                if done.renegotiated {
                    self.interrupts.raise(cause::LSC);
                }
                if value & mdic::INTERRUPT != 0 {
                    self.interrupts.raise(cause::MDAC);
                }
            }
            systim::FIRST..systim::END => self.systim.write(register, value, now),
            _ => self.write_other(register, value),
        }
    }

    fn write_other(&mut self, register: u32, value: u32) {
        let within = register & 0xff;
        match register & !0xff {
            reg::RDBAL if self.rx.write(within, value) => {
                self.rx_refilled |= within == ring::TAIL;
                return;
            }
            reg::TDBAL if self.tx.write(within, value) => {
                self.tx_kicked |= within == ring::TAIL;
                return;
            }
            _ => {}
        }
        if self.interrupts.write(register, value) {
            return;
        }
        self.plain.write(register, value);
        match register {
            // What came before may find its way now.
            reg::TCTL => self.tx_kicked = true,
            reg::RCTL => self.rx_refilled = true,
            _ => {}
        }
    }

    fn write_control(&mut self, value: u32) {
        if value & ctrl::PHY_RST != 0 {
            self.phy.reset();
            let status = self.plain.get(reg::STATUS) | status::PHYRA;
            self.plain.put(reg::STATUS, status);
            self.interrupts.raise(cause::LSC);
        }
        if value & ctrl::RST != 0 {
            self.reset();
        } else {
            self.plain.write(reg::CTRL, value);
        }
    }
}

#[cfg(test)]
mod tests;
