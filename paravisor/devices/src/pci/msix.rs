//! MSI-X: the vector table, the pending bits and the messages they let out
//! (PCI 3.0, section 6.8.2). Enable and function mask live in the capability.
//!
//! All of it is atomic: whoever has used a queue sends the queue's message, without a
//! lock, while another processor may write the table. Who finds a vector masked leaves
//! a pending bit first and looks at the mask again; who takes a mask away does so first
//! and looks for pending bits then. So one of the two sends. An entry that is written
//! while its message leaves can make a wrong message, at the guest's own expense.

use abi::pci::msix;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// Words of pending bits.
const WORDS: usize = 3;

/// One vector.
#[derive(Debug)]
struct Entry {
    low: AtomicU32,
    high: AtomicU32,
    data: AtomicU32,
    control: AtomicU32,
}

/// Up to `N` vectors (at most 192).
#[derive(Debug)]
pub(crate) struct Msix<const N: usize> {
    entries: [Entry; N],
    count: u16,
    pending: [AtomicU64; WORDS],
}

impl<const N: usize> Msix<N> {
    /// So many vectors, all masked (6.8.2.9).
    pub(crate) fn new(count: u16) -> Msix<N> {
        const { assert!(N <= WORDS * 64) }
        Msix {
            entries: core::array::from_fn(|_| Entry {
                low: AtomicU32::new(0),
                high: AtomicU32::new(0),
                data: AtomicU32::new(0),
                control: AtomicU32::new(msix::ENTRY_MASKED),
            }),
            count,
            pending: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// Bytes of the table.
    pub(crate) fn table_len(&self) -> u64 {
        u64::from(self.count).wrapping_mul(msix::ENTRY_LEN as u64)
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        if index >= u64::from(self.count) {
            return None;
        }
        self.entries.get(usize::try_from(index).ok()?)
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

    fn cell(&self, offset: u64) -> Option<&AtomicU32> {
        let entry = self.entry(offset >> 4)?;
        Some(match offset & 0xc {
            0 => &entry.low,
            4 => &entry.high,
            8 => &entry.data,
            _ => &entry.control,
        })
    }

    fn dword(&self, offset: u64) -> u32 {
        self.cell(offset).map_or(0, |cell| cell.load(SeqCst))
    }

    /// Writes 4 or 8 aligned bytes of the table.
    pub(crate) fn write_table(&self, offset: u64, size: u8, value: u64) {
        match size {
            4 if offset & 3 == 0 => self.set_dword(offset, value as u32),
            8 if offset & 7 == 0 => {
                self.set_dword(offset, value as u32);
                self.set_dword(offset.wrapping_add(4), (value >> 32) as u32);
            }
            _ => {}
        }
    }

    fn set_dword(&self, offset: u64, value: u32) {
        let value = match offset & 0xc {
            0 => value & !3,
            0xc => value & msix::ENTRY_MASKED,
            _ => value,
        };
        if let Some(cell) = self.cell(offset) {
            cell.store(value, SeqCst);
        }
    }

    /// Reads the pending bit array: 64-bit words.
    pub(crate) fn read_pending(&self, offset: u64, size: u8) -> u64 {
        let index = usize::try_from(offset >> 3).unwrap_or(usize::MAX);
        let word = self.pending.get(index).map_or(0, |word| word.load(SeqCst));
        match (offset & 7, size) {
            (0, 8) => word,
            (0, 4) => word & 0xffff_ffff,
            (4, 4) => word >> 32,
            _ => 0,
        }
    }

    /// The word and the bit in which a vector waits.
    fn waiting(&self, index: u16) -> Option<(&AtomicU64, u64)> {
        let word = self.pending.get(usize::from(index >> 6))?;
        let bit = 1u64.wrapping_shl(u32::from(index));
        (index < self.count).then_some((word, bit))
    }

    /// Vector `index` wants to be sent.
    pub(crate) fn raise(&self, index: u16) {
        if let Some((word, bit)) = self.waiting(index) {
            word.fetch_or(bit, SeqCst);
        }
    }

    /// Forgets what wants to be sent.
    pub(crate) fn clear_pending(&self) {
        for word in &self.pending {
            word.store(0, SeqCst);
        }
    }

    /// The message of a vector, if it may leave. `control` is the capability's message
    /// control word.
    fn message(&self, index: u16, control: u16) -> Option<(u64, u32)> {
        if control & (msix::ENABLE | msix::FUNCTION_MASK) != msix::ENABLE {
            return None;
        }
        let entry = self.entry(index.into())?;
        if entry.control.load(SeqCst) & msix::ENTRY_MASKED != 0 {
            return None;
        }
        let address = u64::from(entry.high.load(SeqCst)) << 32 | u64::from(entry.low.load(SeqCst));
        Some((address, entry.data.load(SeqCst)))
    }

    /// Vector `index` wants to be sent: its message, if it may leave at once. Else it
    /// waits. `control` tells the message control word of now.
    pub(crate) fn send(&self, index: u16, control: impl Fn() -> u16) -> Option<(u64, u32)> {
        if let Some(message) = self.message(index, control()) {
            return Some(message);
        }
        self.raise(index);
        // The mask may have gone meanwhile, and the one who took it away may not have
        // seen the bit.
        let message = self.message(index, control())?;
        let (word, bit) = self.waiting(index)?;
        (word.fetch_and(!bit, SeqCst) & bit != 0).then_some(message)
    }

    /// Takes the next message that waits and may leave: address and data.
    pub(crate) fn next_message(&self, control: u16) -> Option<(u64, u32)> {
        for (first, word) in (0..u16::MAX).step_by(64).zip(&self.pending) {
            // Nearly always none waits.
            let mut left = word.load(SeqCst);
            while left != 0 {
                let at = left.trailing_zeros();
                let bit = 1u64.wrapping_shl(at);
                left &= !bit;
                let message = self.message(first.wrapping_add(at as u16), control);
                if message.is_some() && word.fetch_and(!bit, SeqCst) & bit != 0 {
                    return message;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_reads_back_by_4_and_8_bytes() {
        let table = Msix::<3>::new(3);
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
        let table = Msix::<3>::new(3);
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

    #[test]
    fn more_vectors_than_a_word_has_bits() {
        let table = Msix::<130>::new(129);
        assert_eq!(table.table_len(), 129 * 16);
        for index in [0, 63, 64, 127, 128, 129, 191, u16::MAX] {
            table.write_table(16 * u64::from(index), 4, 0xfee0_0000);
            table.write_table(16 * u64::from(index) + 8, 4, u64::from(index));
            assert_eq!(table.send(index, || msix::ENABLE), None, "masked");
        }
        assert_eq!(table.read_pending(0, 8), 1 << 63 | 1);
        assert_eq!(table.read_pending(8, 4), 1);
        assert_eq!(table.read_pending(12, 4), 1 << 31);
        assert_eq!(table.read_pending(16, 8), 1);
        assert_eq!(table.read_pending(24, 8), 0);
        for index in [128, 63, 0, 129] {
            table.write_table(16 * index + 12, 4, 0);
        }
        let left = || table.next_message(msix::ENABLE).map(|(_, data)| data);
        assert_eq!([left(), left(), left()], [Some(0), Some(63), Some(128)]);
        assert_eq!(left(), None);
        // One that is not masked leaves at once and waits nowhere.
        assert_eq!(table.send(128, || msix::ENABLE), Some((0xfee0_0000, 128)));
        assert_eq!(table.read_pending(16, 8), 0);
        table.clear_pending();
        assert_eq!(table.read_pending(8, 8), 0);
    }

    /// One thread masks and unmasks and sends what waits then, as the processor does
    /// that writes the table; the other sends and counts: each message leaves once.
    #[test]
    fn no_message_is_lost_between_mask_and_pending_bit() {
        const ROUNDS: u32 = if cfg!(miri) { 50 } else { 20_000 };
        let table = Msix::<1>::new(1);
        let sent = AtomicU32::new(0);
        let over = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while over.load(SeqCst) == 0 {
                    table.write_table(12, 4, 1);
                    table.write_table(12, 4, 0);
                    if table.next_message(msix::ENABLE).is_some() {
                        sent.fetch_add(1, SeqCst);
                    }
                }
            });
            for round in 1..=ROUNDS {
                if table.send(0, || msix::ENABLE).is_some() {
                    sent.fetch_add(1, SeqCst);
                }
                let begin = std::time::Instant::now();
                while sent.load(SeqCst) < round {
                    assert!(begin.elapsed().as_secs() < 20, "lost in round {round}");
                    std::thread::yield_now();
                }
                assert_eq!(sent.load(SeqCst), round);
            }
            over.store(1, SeqCst);
        });
    }
}
