//! The configuration space of one function: bytes and which bits of them the
//! guest may change.

use abi::pci::{command, header, status};

/// 256 bytes of configuration space.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    /// Sizes of the memory BARs, 0 for none.
    bars: [u32; 6],
    /// Where the next capability goes, and the link byte that will point to it.
    next_capability: usize,
    link: usize,
}

impl ConfigSpace {
    /// A type 0 header. The subsystem IDs repeat the vendor and give `subsystem`.
    pub(crate) fn new(vendor: u16, device: u16, class: [u8; 3], subsystem: u16) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; 256],
            writable: [0; 256],
            bars: [0; 6],
            next_capability: 0x40,
            link: header::CAPABILITIES,
        };
        space.put(header::VENDOR, &vendor.to_le_bytes());
        space.put(header::DEVICE, &device.to_le_bytes());
        space.put(header::CLASS, &class);
        space.put(header::SUBSYSTEM_VENDOR, &vendor.to_le_bytes());
        space.put(header::SUBSYSTEM, &subsystem.to_le_bytes());
        space.allow(header::CACHE_LINE, &[0xff, 0xff]);
        space.allow(header::INTERRUPT_LINE, &[0xff]);
        let commands = command::MEMORY | command::BUS_MASTER | command::INTX_DISABLE;
        space.allow(header::COMMAND, &commands.to_le_bytes());
        space
    }

    /// Adds a 32-bit memory BAR of `size` bytes (a power of two of at least 16),
    /// assigned to `address` and with memory decoding on, as firmware leaves it.
    pub(crate) fn add_bar(&mut self, index: usize, size: u32, address: u32) {
        let offset = header::BAR0.saturating_add(index.saturating_mul(4));
        self.put(offset, &address.to_le_bytes());
        self.allow(offset, &(!size.wrapping_sub(1)).to_le_bytes());
        if let Some(bar) = self.bars.get_mut(index) {
            *bar = size;
        }
        self.put(header::COMMAND, &command::MEMORY.to_le_bytes());
    }

    /// Says that the function uses INTA on I/O APIC pin `line`.
    pub(crate) fn set_interrupt(&mut self, line: u8) {
        self.put(header::INTERRUPT_LINE, &[line, 1]);
    }

    /// Appends a capability of at most 32 bytes: `body` follows the two bytes ID
    /// and next. Returns its offset.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.next_capability;
        self.put(self.link, &[at as u8]);
        self.put(at, &[id, 0]);
        self.put(at.saturating_add(2), body);
        self.allow(at.saturating_add(2), writable);
        self.link = at.saturating_add(1);
        // Capabilities are aligned to 4 bytes (PCI 3.0, 6.7).
        self.next_capability = at.saturating_add(body.len()).saturating_add(2 + 3) & !3;
        let status = self.word(header::STATUS) | status::CAPABILITIES;
        self.put(header::STATUS, &status.to_le_bytes());
        at
    }

    /// Writes bytes regardless of what the guest may write.
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(offset).zip(bytes) {
            *slot = *byte;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (slot, byte) in self.writable.iter_mut().skip(offset).zip(mask) {
            *slot = *byte;
        }
    }

    /// The 16-bit register at `offset`.
    pub(crate) fn word(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }

    /// Reads `size` (1, 2, 4) bytes.
    pub(crate) fn read(&self, offset: usize, size: u8) -> u32 {
        let bytes = self
            .bytes
            .iter()
            .skip(offset)
            .take(usize::from(size.min(4)));
        bytes
            .rev()
            .fold(0u32, |value, byte| value << 8 | u32::from(*byte))
    }

    /// Writes `size` bytes as far as the guest may.
    pub(crate) fn write(&mut self, offset: usize, size: u8, value: u32) {
        let slots = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((slot, mask), byte) in slots
            .take(usize::from(size.min(4)))
            .zip(value.to_le_bytes())
        {
            *slot = (*slot & !mask) | (byte & mask);
        }
    }

    /// Where a BAR answers, if it does.
    pub(crate) fn bar(&self, index: usize) -> Option<u64> {
        let size = *self.bars.get(index)?;
        let offset = header::BAR0.saturating_add(index.saturating_mul(4));
        let base = u64::from(self.read(offset, 4) & !0xf);
        let decoding = self.word(header::COMMAND) & command::MEMORY != 0;
        // A BAR at 0 has not been assigned.
        (decoding && size != 0 && base != 0).then_some(base)
    }

    /// Which BAR answers at `gpa`, and the offset in it.
    pub(crate) fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
        if self.word(header::COMMAND) & command::MEMORY == 0 {
            return None;
        }
        (0u8..6).find_map(|index| {
            let within = gpa.checked_sub(self.bar(usize::from(index))?)?;
            let size = u64::from(*self.bars.get(usize::from(index))?);
            (within < size).then_some((index, within))
        })
    }

    /// Whether the function may access memory.
    pub(crate) fn bus_master(&self) -> bool {
        self.word(header::COMMAND) & command::BUS_MASTER != 0
    }

    /// Whether INTx may be asserted.
    pub(crate) fn intx_enabled(&self) -> bool {
        self.word(header::COMMAND) & command::INTX_DISABLE == 0
    }

    /// Shows the state of INTx in the status register.
    pub(crate) fn set_intx_status(&mut self, on: bool) {
        let status = self.word(header::STATUS);
        let bit = status::INTERRUPT;
        self.put(
            header::STATUS,
            &(if on { status | bit } else { status & !bit }).to_le_bytes(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> ConfigSpace {
        let mut space = ConfigSpace::new(0x1af4, 0x1041, [0, 0, 2], 1);
        space.add_bar(0, 0x4000, 0xe000_0000);
        space
    }

    #[test]
    fn pci_6_2_5_1_bars_tell_their_size_and_move() {
        let mut space = function();
        assert_eq!(space.decode(0xe000_3fff), Some((0, 0x3fff)));
        assert_eq!(space.decode(0xe000_4000), None);
        space.write(0x10, 4, u32::MAX);
        assert_eq!(space.read(0x10, 4), 0xffff_c000);
        space.write(0x14, 4, u32::MAX);
        assert_eq!(space.read(0x14, 4), 0);
        space.write(0x10, 4, 0xe123_4567);
        assert_eq!(space.decode(0xe123_4004), Some((0, 4)));
        space.write(0x04, 2, 0);
        assert_eq!(space.decode(0xe123_4004), None);
        space.write(0x04, 2, 2);
        space.write(0x10, 4, 0);
        assert_eq!(space.decode(4), None);
    }

    #[test]
    fn identity_cannot_be_changed() {
        let mut space = function();
        for offset in 0..256 {
            space.write(offset, 4, 0x5555_5555);
        }
        assert_eq!(space.read(0, 4), 0x1041_1af4);
        assert_eq!(space.read(8, 4), 0x0200_0000);
        assert_eq!(space.read(0xff, 4), 0);
        assert_eq!(space.read(1000, 4), 0);
    }

    #[test]
    fn pci_6_7_capabilities_are_linked() {
        let mut space = function();
        assert_eq!(space.word(header::STATUS) & status::CAPABILITIES, 0);
        let first = space.add_capability(0x11, &[0; 10], &[]);
        let second = space.add_capability(9, &[7; 15], &[0xff]);
        let third = space.add_capability(9, &[7; 2], &[]);
        assert_eq!((first, second, third), (0x40, 0x4c, 0x60));
        assert_eq!(space.read(header::CAPABILITIES, 1), 0x40);
        assert_eq!(space.read(0x40, 2), 0x4c11);
        assert_eq!(space.read(0x4c, 2), 0x6009);
        assert_eq!(space.read(0x60, 2), 0x0009);
        space.write(0x4c, 4, 0xffff_ffff);
        assert_eq!(space.read(0x4c, 4), 0x07ff_6009);
    }
}
