//! MSI-X: the vector table, the pending bits and the messages they let out
//! (PCI 3.0, section 6.8.2). Enable and function mask live in the capability.

use abi::pci::msix;

/// One vector.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

/// `N` vectors (at most 64).
#[derive(Clone, Debug)]
pub(crate) struct Msix<const N: usize> {
    entries: [Entry; N],
    pending: u64,
}

impl<const N: usize> Msix<N> {
    /// All vectors masked (6.8.2.9).
    pub(crate) fn new() -> Msix<N> {
        let masked = Entry {
            address: 0,
            data: 0,
            control: msix::ENTRY_MASKED,
        };
        Msix {
            entries: [masked; N],
            pending: 0,
        }
    }

    /// Bytes of the table.
    pub(crate) const fn table_len() -> u64 {
        (N as u64).wrapping_mul(msix::ENTRY_LEN as u64)
    }

    /// Reads 4 or 8 aligned bytes of the table; others read 0 (6.8.2: undefined).
    pub(crate) fn read_table(&self, offset: u64, size: u8) -> u64 {
        match size {
            4 if offset & 3 == 0 => u64::from(self.dword(offset)),
            8 if offset & 7 == 0 => {
                u64::from(self.dword(offset)) | u64::from(self.dword(offset.wrapping_add(4))) << 32
            }
            _ => 0,
        }
    }

    fn dword(&self, offset: u64) -> u32 {
        let index = usize::try_from(offset >> 4).ok();
        let Some(entry) = index.and_then(|i| self.entries.get(i)) else {
            return 0;
        };
        match offset & 0xc {
            0 => entry.address as u32,
            4 => (entry.address >> 32) as u32,
            8 => entry.data,
            _ => entry.control,
        }
    }

    /// Writes 4 or 8 aligned bytes of the table.
    pub(crate) fn write_table(&mut self, offset: u64, size: u8, value: u64) {
        match size {
            4 if offset & 3 == 0 => self.set_dword(offset, value as u32),
            8 if offset & 7 == 0 => {
                self.set_dword(offset, value as u32);
                self.set_dword(offset.wrapping_add(4), (value >> 32) as u32);
            }
            _ => {}
        }
    }

    fn set_dword(&mut self, offset: u64, value: u32) {
        let index = usize::try_from(offset >> 4).ok();
        let Some(entry) = index.and_then(|i| self.entries.get_mut(i)) else {
            return;
        };
        match offset & 0xc {
            0 => entry.address = (entry.address & !0xffff_ffff) | u64::from(value & !3),
            4 => entry.address = (entry.address & 0xffff_ffff) | u64::from(value) << 32,
            8 => entry.data = value,
            _ => entry.control = value & msix::ENTRY_MASKED,
        }
    }

    /// Reads the pending bit array: one 64-bit word.
    pub(crate) fn read_pending(&self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0, 8) => self.pending,
            (0, 4) => self.pending & 0xffff_ffff,
            (4, 4) => self.pending >> 32,
            _ => 0,
        }
    }

    /// Vector `index` wants to be sent.
    pub(crate) fn raise(&mut self, index: u16) {
        if usize::from(index) < N {
            self.pending |= 1u64.wrapping_shl(u32::from(index));
        }
    }

    /// Forgets what wants to be sent.
    pub(crate) fn clear_pending(&mut self) {
        self.pending = 0;
    }

    /// Takes the next message that may leave: address and data. `control` is the
    /// capability's message control word.
    pub(crate) fn next_message(&mut self, control: u16) -> Option<(u64, u32)> {
        if control & (msix::ENABLE | msix::FUNCTION_MASK) != msix::ENABLE {
            return None;
        }
        let (index, entry) = self.entries.iter().enumerate().find(|(index, entry)| {
            self.pending.wrapping_shr(*index as u32) & 1 != 0
                && entry.control & msix::ENTRY_MASKED == 0
        })?;
        self.pending &= !1u64.wrapping_shl(index as u32);
        Some((entry.address, entry.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_reads_back_by_4_and_8_bytes() {
        let mut table = Msix::<3>::new();
        assert_eq!(table.read_table(0x1c, 4), 1);
        table.write_table(0x10, 8, 0x1234_fee0_0003);
        table.write_table(0x18, 4, 0x41);
        table.write_table(0x1c, 4, 0xffff_fffe);
        assert_eq!(table.read_table(0x10, 4), 0xfee0_0000);
        assert_eq!(table.read_table(0x10, 8), 0x1234_fee0_0000);
        assert_eq!(table.read_table(0x18, 8), 0x41);
        assert_eq!(table.read_table(0x30, 4), 0);
        assert_eq!(table.read_table(0x11, 1), 0);
        table.write_table(0x1000, 4, 7);
    }

    #[test]
    fn pci_6_8_2_9_a_masked_vector_waits_in_the_pending_array() {
        let mut table = Msix::<3>::new();
        table.write_table(0, 4, 0xfee0_0000);
        table.write_table(8, 4, 0x31);
        table.raise(0);
        table.raise(3);
        assert_eq!(table.next_message(msix::ENABLE), None);
        assert_eq!(table.read_pending(0, 8), 1);
        table.write_table(12, 4, 0);
        assert_eq!(table.next_message(0), None);
        assert_eq!(table.next_message(msix::ENABLE | msix::FUNCTION_MASK), None);
        assert_eq!(table.next_message(msix::ENABLE), Some((0xfee0_0000, 0x31)));
        assert_eq!(table.next_message(msix::ENABLE), None);
        assert_eq!(table.read_pending(0, 4), 0);
    }
}
