//! A driver for the 82574L that touches it in the order of Linux's e1000e:
//! `e1000_probe` (variants, EEPROM, PHY, MAC), `e1000_reset_hw_82571`,
//! `e1000_init_hw_82571`, `e1000e_open`, the three handlers of MSI-X.

use super::{Ram, config_read, config_write};
use crate::Machine;
use abi::e1000e::{
    EEMNGCTL_DONE, EXTCNF_SW_OWNER, RAH_VALID, RFCTL_EXTEN, SWSM_SMBI, TCTL_EN, cause, ctrl,
    ctrl_ext, eecd, eerd, id, mdic, nvm, phy, rctl, reg, rx, status, tx,
};
use abi::pci::{capability, header, msix};
use alloc::vec;
use alloc::vec::Vec;
use memory::GuestMemory;

/// Vectors of the interrupts: receive, transmit, other.
pub const VECTORS: [u8; 3] = [0x50, 0x51, 0x52];
/// Descriptors per ring.
pub const RING: u64 = 256;
/// Bytes of RAM that the driver uses from its base on.
pub const DRIVER_RAM: u64 = 0x20_0000;
const BUFFER: u64 = 2048;

/// How descriptors for received frames look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxShape {
    /// 16 bytes, status in the last four.
    Legacy,
    /// 16 bytes, written back whole.
    Extended,
    /// 32 bytes, four buffers.
    Split,
}

/// The driver.
pub struct E1000eDriver {
    bar: u64,
    msix_table: u64,
    msix_capability: u8,
    shape: RxShape,
    base: u64,
    tx_tail: u64,
    tx_clean: u64,
    rx_tail: u64,
    rx_next: u64,
    /// The MAC address that the EEPROM and the first receive address gave.
    pub mac: [u8; 6],
}

impl E1000eDriver {
    /// Probe, reset, initialization and open with MSI-X, and the link as the PHY says.
    pub fn start(machine: &mut Machine, ram: &Ram, base: u64, shape: RxShape) -> E1000eDriver {
        machine.mmio_write(0xfee0_00f0, 4, 0x1ff, 0);
        let mut driver = E1000eDriver::probe(machine);
        driver.base = base;
        driver.shape = shape;
        driver.open(machine, ram);
        driver
    }

    /// Reads a register.
    pub fn read(&self, machine: &mut Machine, register: u32) -> u32 {
        machine.mmio_read(self.bar + u64::from(register), 4, 0) as u32
    }

    /// Writes a register.
    pub fn write(&self, machine: &mut Machine, register: u32, value: u32) {
        machine.mmio_write(self.bar + u64::from(register), 4, u64::from(value), 0);
    }

    fn own_phy(&self, machine: &mut Machine, own: bool) {
        let value = self.read(machine, reg::EXTCNF_CTRL) & !EXTCNF_SW_OWNER;
        let wanted = if own { EXTCNF_SW_OWNER } else { 0 };
        self.write(machine, reg::EXTCNF_CTRL, value | wanted);
        let read = self.read(machine, reg::EXTCNF_CTRL);
        assert_eq!(read & EXTCNF_SW_OWNER, wanted);
    }

    /// Reads a register of the PHY.
    pub fn phy_read(&self, machine: &mut Machine, register: u8) -> u16 {
        let at = u32::from(register) << mdic::REGISTER_SHIFT;
        self.write(machine, reg::MDIC, at | 1 << mdic::PHY_SHIFT | mdic::READ);
        let answer = self.read(machine, reg::MDIC);
        assert_eq!(answer & (mdic::READY | mdic::ERROR), mdic::READY);
        assert_eq!(answer >> mdic::REGISTER_SHIFT & 0x1f, u32::from(register));
        answer as u16
    }

    /// Writes a register of the PHY.
    pub fn phy_write(&self, machine: &mut Machine, register: u8, value: u16) {
        let at = u32::from(register) << mdic::REGISTER_SHIFT | 1 << mdic::PHY_SHIFT;
        self.write(machine, reg::MDIC, at | mdic::WRITE | u32::from(value));
        let answer = self.read(machine, reg::MDIC);
        assert_eq!(answer & (mdic::READY | mdic::ERROR), mdic::READY);
    }

    /// Reads a word of the EEPROM.
    pub fn nvm_read(&self, machine: &mut Machine, word: usize) -> u16 {
        let request = (word as u32) << eerd::ADDRESS_SHIFT | eerd::START;
        self.write(machine, reg::EERD, request);
        let answer = self.read(machine, reg::EERD);
        assert_ne!(answer & eerd::DONE, 0);
        (answer >> eerd::DATA_SHIFT) as u16
    }

    /// `e1000_probe`, up to the MAC address.
    pub fn probe(machine: &mut Machine) -> E1000eDriver {
        let identity = config_read(machine, 0, 4);
        assert_eq!(
            identity,
            u32::from(id::DEVICE) << 16 | u32::from(id::VENDOR)
        );
        config_write(machine, header::COMMAND as u8, 2, 0x6);
        let bar_of = |machine: &mut Machine, index: u8| {
            u64::from(config_read(machine, header::BAR0 as u8 + 4 * index, 4) & !0xf)
        };
        let mut driver = E1000eDriver {
            bar: bar_of(machine, 0),
            msix_table: 0,
            msix_capability: config_read(machine, header::CAPABILITIES as u8, 1) as u8,
            shape: RxShape::Legacy,
            base: 0,
            tx_tail: 0,
            tx_clean: 0,
            rx_tail: 0,
            rx_next: 0,
            mac: [0; 6],
        };
        let at = driver.msix_capability;
        assert_eq!(config_read(machine, at, 1) as u8, capability::MSIX);
        let table = config_read(machine, at + msix::TABLE as u8, 4);
        driver.msix_table = bar_of(machine, (table & 7) as u8) + u64::from(table & !7);
        assert_eq!(config_read(machine, at + msix::CONTROL as u8, 2) & 0x7ff, 4);

        // `e1000_init_mac_params_82571`, `e1000_init_nvm_params_82571`.
        let semaphore = driver.read(machine, reg::SWSM);
        driver.write(machine, reg::SWSM, semaphore & !SWSM_SMBI);
        let control = driver.read(machine, reg::EECD);
        assert_ne!(control >> 15 & 3, 3, "an EEPROM, no flash");
        assert_eq!(1usize << ((control >> 11 & 0xf) + 6), nvm::WORDS);
        // `e1000_get_phy_id_82571`.
        driver.own_phy(machine, true);
        let first = driver.phy_read(machine, phy::ID1);
        let second = driver.phy_read(machine, phy::ID2);
        driver.own_phy(machine, false);
        assert_eq!(u32::from(first) << 16 | u32::from(second), phy::ID);

        driver.reset(machine);
        // `e1000e_validate_nvm_checksum_generic`.
        let words: Vec<u16> = (0..nvm::WORDS)
            .map(|word| driver.nvm_read(machine, word))
            .collect();
        let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        assert_eq!(sum, nvm::SUM);
        // `e1000_read_mac_addr_generic`.
        let low = driver.read(machine, reg::RA);
        let high = driver.read(machine, reg::RA + 4);
        driver.mac[..4].copy_from_slice(&low.to_le_bytes());
        driver.mac[4..].copy_from_slice(&high.to_le_bytes()[..2]);
        assert_ne!(high & RAH_VALID, 0);
        let stored: Vec<u8> = words[..3].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(stored, driver.mac);
        driver
    }

    /// `e1000_reset_hw_82571`.
    pub fn reset(&mut self, machine: &mut Machine) {
        let value = self.read(machine, reg::CTRL);
        self.write(machine, reg::CTRL, value | ctrl::MASTER_DISABLE);
        assert_eq!(self.read(machine, reg::STATUS) & status::MASTER_ENABLE, 0);
        self.write(machine, reg::IMC, u32::MAX);
        self.write(machine, reg::RCTL, 0);
        let transmit = self.read(machine, reg::TCTL);
        self.write(machine, reg::TCTL, transmit & !TCTL_EN);
        self.own_phy(machine, true);
        let value = self.read(machine, reg::CTRL);
        self.write(machine, reg::CTRL, value | ctrl::RST);
        self.own_phy(machine, false);
        assert_ne!(self.read(machine, reg::EECD) & eecd::AUTO_RD, 0);
        assert_ne!(self.read(machine, reg::EEMNGCTL) & EEMNGCTL_DONE, 0);
        assert_eq!(self.read(machine, reg::CTRL) & ctrl::RST, 0);
        self.write(machine, reg::IMC, u32::MAX);
        self.read(machine, reg::ICR);
        assert_eq!(self.read(machine, reg::ICR), 0);
        (self.tx_tail, self.tx_clean, self.rx_tail, self.rx_next) = (0, 0, 0, 0);
    }

    /// Where the registers lie.
    pub fn bar(&self) -> u64 {
        self.bar
    }

    /// Where the transmit and the receive ring lie.
    pub fn ring_addresses(&self) -> (u64, u64) {
        (self.tx_ring(), self.rx_ring())
    }

    fn tx_ring(&self) -> u64 {
        self.base
    }

    fn rx_ring(&self) -> u64 {
        self.base + 0x1_0000
    }

    fn tx_buffer(&self, index: u64) -> u64 {
        self.base + 0x2_0000 + index * BUFFER
    }

    fn rx_buffer(&self, index: u64) -> u64 {
        self.base + 0x10_0000 + index * BUFFER
    }

    fn rx_len(&self) -> u64 {
        match self.shape {
            RxShape::Split => rx::SPLIT_LEN as u64,
            _ => rx::LEN as u64,
        }
    }

    /// `e1000_init_hw_82571`, `e1000_configure`, `e1000_request_msix`, `e1000e_up`.
    fn open(&mut self, machine: &mut Machine, ram: &Ram) {
        for table in [reg::VFTA, reg::MTA] {
            for word in 0..128 {
                self.write(machine, table + 4 * word, 0);
            }
        }
        for index in 1..15 {
            self.write(machine, reg::RA + 8 * index, 0);
            self.write(machine, reg::RA + 8 * index + 4, 0);
        }
        // `e1000e_copper_link_setup_m88`, `e1000_copper_link_autoneg`.
        let value = self.phy_read(machine, phy::SPECIFIC_CONTROL);
        self.phy_write(machine, phy::SPECIFIC_CONTROL, value | 0x0800);
        let value = self.phy_read(machine, phy::BMCR);
        self.phy_write(machine, phy::BMCR, value | phy::BMCR_RESET);
        assert_eq!(self.phy_read(machine, phy::BMCR) & phy::BMCR_RESET, 0);
        self.phy_write(machine, phy::ADVERTISE, 0x0de1);
        self.phy_write(machine, phy::CONTROL_1000, 0x0200);
        let value = self.phy_read(machine, phy::BMCR);
        let restart = phy::BMCR_AUTONEGOTIATE | phy::BMCR_RESTART;
        self.phy_write(machine, phy::BMCR, value | restart);
        // `e1000_clear_hw_cntrs_82571`.
        for counter in (0x4000..0x4128).step_by(4) {
            self.read(machine, counter);
        }
        self.write(machine, reg::VET, 0x8100);
        self.rings(machine, ram);
        self.vectors(machine);
        // `e1000e_trigger_lsc`.
        self.write(machine, reg::ICS, cause::LSC | cause::OTHER);
    }

    fn rings(&mut self, machine: &mut Machine, ram: &Ram) {
        for (first, ring, len) in [
            (reg::TDBAL, self.tx_ring(), tx::LEN as u64),
            (reg::RDBAL, self.rx_ring(), self.rx_len()),
        ] {
            ram.write(ring, &vec![0; (RING * len) as usize]).unwrap();
            self.write(machine, first, ring as u32);
            self.write(machine, first + 4, (ring >> 32) as u32);
            self.write(machine, first + 8, (RING * len) as u32);
            self.write(machine, first + 0x10, 0);
            self.write(machine, first + 0x18, 0);
        }
        self.write(machine, reg::TCTL, TCTL_EN | 8);
        let filter = match self.shape {
            RxShape::Legacy => 0,
            _ => RFCTL_EXTEN,
        };
        self.write(machine, reg::RFCTL, filter);
        let mut control = rctl::EN | rctl::BAM | rctl::SECRC;
        if self.shape == RxShape::Split {
            control |= rctl::DTYP_PS | rctl::LPE;
            // 256 bytes, then 1 KiB three times.
            self.write(machine, reg::PSRCTL, 0x0101_0102);
        }
        self.write(machine, reg::RCTL, control);
    }

    /// Only what a card needs after a reset to move frames again.
    pub fn reopen(&mut self, machine: &mut Machine, ram: &Ram) {
        self.write(machine, reg::CTRL, ctrl::RST);
        (self.tx_tail, self.tx_clean, self.rx_tail, self.rx_next) = (0, 0, 0, 0);
        self.rings(machine, ram);
    }

    /// `e1000_configure_msix`, `e1000_irq_enable`.
    fn vectors(&mut self, machine: &mut Machine) {
        for (index, vector) in (0u64..).zip(VECTORS) {
            let entry = self.msix_table + 16 * index;
            machine.mmio_write(entry, 8, 0xfee0_0000, 0);
            machine.mmio_write(entry + 8, 4, u64::from(vector), 0);
            machine.mmio_write(entry + 12, 4, 0, 0);
            self.write(machine, reg::EITR + 4 * index as u32, 0);
        }
        let at = self.msix_capability + msix::CONTROL as u8;
        config_write(machine, at, 2, u32::from(msix::ENABLE));
        self.write(machine, reg::IVAR, 1 << 31 | 0xa_0908);
        let kept = self.read(machine, reg::CTRL_EXT) & !ctrl_ext::IAME;
        let more = ctrl_ext::PBA_CLR | ctrl_ext::EIAME;
        self.write(machine, reg::CTRL_EXT, kept | more);
        self.write(machine, reg::EIAC, cause::RXQ0 | cause::TXQ0);
        let mask = cause::RXQ0 | cause::TXQ0 | cause::OTHER | cause::OTHER_CAUSES;
        self.write(machine, reg::IMS, mask);
    }

    /// Lets the causes of a vector through again, as its handler does at its end.
    pub fn rearm(&self, machine: &mut Machine) {
        let mask = cause::RXQ0 | cause::TXQ0 | cause::OTHER | cause::OTHER_CAUSES;
        self.write(machine, reg::IMS, mask);
    }

    /// `e1000e_phy_has_link_generic`, `e1000e_get_speed_and_duplex_copper`.
    pub fn link(&self, machine: &mut Machine) -> bool {
        let up = self.phy_read(machine, phy::BMSR) & phy::BMSR_LINK != 0;
        let seen = self.read(machine, reg::STATUS);
        assert_eq!(seen & status::LU != 0, up);
        assert_eq!(seen & status::SPEED_1000, status::SPEED_1000);
        up
    }

    /// Puts a descriptor into the transmit ring; its place. The device is not told.
    pub fn push(&mut self, ram: &Ram, address: u64, lower: u32, upper: u32) -> u64 {
        let at = self.tx_tail;
        let descriptor = self.tx_ring() + 16 * at;
        ram.set::<8>(descriptor, address);
        ram.set::<4>(descriptor + 8, u64::from(lower));
        ram.set::<4>(descriptor + 12, u64::from(upper));
        self.tx_tail = (at + 1) % RING;
        at
    }

    /// Puts a context into the transmit ring: the three words before and behind the
    /// lower one.
    pub fn push_context(&mut self, ram: &Ram, ip: u32, transport: u32, lower: u32, cut: u32) {
        let address = u64::from(ip) | u64::from(transport) << 32;
        self.push(ram, address, lower | tx::DEXT, cut);
    }

    /// Puts a packet into the transmit ring, cut into buffers of `part` bytes.
    pub fn push_packet(&mut self, ram: &Ram, packet: &[u8], part: usize, lower: u32, upper: u32) {
        let parts = packet.chunks(part).count();
        for (index, bytes) in packet.chunks(part).enumerate() {
            let buffer = self.tx_buffer(self.tx_tail);
            ram.write(buffer, bytes).unwrap();
            let end = if index + 1 == parts {
                tx::EOP | tx::RS
            } else {
                0
            };
            self.push(ram, buffer, lower | end | bytes.len() as u32, upper);
        }
    }

    /// Tells the device where the transmit ring ends.
    pub fn ring_tx(&self, machine: &mut Machine) {
        self.write(machine, reg::TDT, self.tx_tail as u32);
    }

    /// Sends a frame by one legacy descriptor.
    pub fn send(&mut self, machine: &mut Machine, ram: &Ram, frame: &[u8]) -> bool {
        if (self.tx_tail + 1) % RING == self.tx_clean {
            return false;
        }
        self.push_packet(ram, frame, BUFFER as usize, 0, 0);
        self.ring_tx(machine);
        true
    }

    /// Takes back the descriptors of packets whose last one is done; how many packets.
    pub fn reap_tx(&mut self, ram: &Ram) -> usize {
        let mut packets = 0;
        let mut at = self.tx_clean;
        while at != self.tx_tail {
            let descriptor = self.tx_ring() + 16 * at;
            at = (at + 1) % RING;
            if ram.get::<4>(descriptor + 8) as u32 & tx::RS == 0 {
                continue;
            }
            if ram.get::<1>(descriptor + 12) as u8 & tx::DD == 0 {
                break;
            }
            packets += 1;
            self.tx_clean = at;
        }
        packets
    }

    /// Posts receive buffers until the ring is full; how many.
    pub fn fill_rx(&mut self, machine: &mut Machine, ram: &Ram) -> u64 {
        let mut count = 0;
        while (self.rx_tail + 1) % RING != self.rx_next {
            let descriptor = self.rx_ring() + self.rx_len() * self.rx_tail;
            let buffer = self.rx_buffer(self.rx_tail);
            ram.write(descriptor, &vec![0; self.rx_len() as usize])
                .unwrap();
            ram.set::<8>(descriptor, buffer);
            if self.shape == RxShape::Split {
                // The page buffers lie side by side: 256 bytes, then KiBs.
                for (at, offset) in [(8, 256), (16, 1280)] {
                    ram.set::<8>(descriptor + at, buffer + offset);
                }
            }
            self.rx_tail = (self.rx_tail + 1) % RING;
            count += 1;
        }
        self.write(machine, reg::RDT, self.rx_tail as u32);
        count
    }

    /// Reads the causes as the handler of link changes and overruns does
    /// (`e1000_msix_other`).
    pub fn others(&self, machine: &mut Machine) -> u32 {
        let causes = self.read(machine, reg::ICR);
        self.write(machine, reg::ICS, causes & (cause::RXQ0 | cause::TXQ0));
        self.rearm(machine);
        causes
    }

    /// The next received frame, with its VLAN tag where one was taken off.
    pub fn receive(&mut self, ram: &Ram) -> Option<(Vec<u8>, Option<u16>)> {
        let mut frame = Vec::new();
        loop {
            let descriptor = self.rx_ring() + self.rx_len() * self.rx_next;
            let (status, length, tag) = match self.shape {
                RxShape::Legacy => (
                    ram.get::<1>(descriptor + 12) as u32,
                    ram.get::<2>(descriptor + 8),
                    ram.get::<2>(descriptor + 14),
                ),
                _ => (
                    ram.get::<4>(descriptor + 8) as u32,
                    ram.get::<2>(descriptor + 12),
                    ram.get::<2>(descriptor + 14),
                ),
            };
            // In an extended descriptor that is not done, that word is reserved.
            if status & rx::DD == 0 {
                return None;
            }
            let mut length = length;
            if self.shape == RxShape::Split {
                let rest: u64 = [18, 20, 22]
                    .iter()
                    .map(|at| ram.get::<2>(descriptor + at))
                    .sum();
                length += rest;
            }
            let mut bytes = vec![0; length as usize];
            ram.read(self.rx_buffer(self.rx_next), &mut bytes).unwrap();
            frame.extend(bytes);
            // As Linux does: what is not posted again must not look done.
            ram.write(descriptor, &vec![0; self.rx_len() as usize])
                .unwrap();
            self.rx_next = (self.rx_next + 1) % RING;
            if status & rx::EOP != 0 {
                let tag = (status & rx::VP != 0).then_some(tag as u16);
                return Some((frame, tag));
            }
        }
    }

    /// Takes the pending interrupt and ends it; its vector.
    pub fn take_interrupt(&self, machine: &mut Machine) -> Option<u8> {
        let vector = machine.pending_interrupt()?.vector;
        machine.accept_interrupt(vector);
        machine.mmio_write(0xfee0_00b0, 4, 0, 0);
        Some(vector)
    }
}
