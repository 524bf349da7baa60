//! Bytes on their way to the guest: a head that is private already, and pieces that
//! lie in shared memory and that nobody has read.

use crate::{GuestMemory, OutOfRange, SharedMemory};

/// A piece of shared memory. There may be hundreds for each channel, so in half the room
/// of two `usize`: regions end far below 4 GiB, and what does not fit lies outside of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    offset: u32,
    len: u32,
}

impl Piece {
    /// `len` bytes from `offset` in its region on.
    pub fn new(offset: usize, len: usize) -> Piece {
        let fit = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Piece {
            offset: fit(offset),
            len: fit(len),
        }
    }

    /// Where it starts in its region.
    pub fn offset(self) -> usize {
        self.offset as usize
    }

    /// Its bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// The bytes of one frame for the guest. They are written in their order, and each
/// shared byte is read once: what was written is gone.
pub struct Parcel<'a> {
    head: &'a [u8],
    pieces: &'a [Piece],
    region: &'a dyn SharedMemory,
    len: usize,
    /// Bytes of the first of `pieces` that were written.
    begun: usize,
}

impl<'a> Parcel<'a> {
    /// All bytes are private.
    pub fn private(bytes: &'a [u8]) -> Parcel<'a> {
        Parcel::new(bytes, &[], &Nowhere)
    }

    /// Private bytes, then pieces of a region.
    pub fn new(head: &'a [u8], pieces: &'a [Piece], region: &'a dyn SharedMemory) -> Parcel<'a> {
        let behind = pieces
            .iter()
            .fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
        Parcel {
            head,
            pieces,
            region,
            len: head.len().saturating_add(behind),
            begun: 0,
        }
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The private bytes that are left: all, unless the taker said that it takes pieces;
    /// then a frame's addresses, its EtherType and a tag behind them, as far as it goes.
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Writes the next `len` bytes to guest memory.
    pub fn write(
        &mut self,
        guest: &impl GuestMemory,
        gpa: u64,
        len: usize,
    ) -> Result<(), OutOfRange> {
        let (now, later) = self.head.split_at_checked(len).unwrap_or((self.head, &[]));
        if !now.is_empty() {
            guest.write(gpa, now)?;
        }
        self.head = later;
        let mut done = now.len();
        while done < len {
            let (from, count) = self.next_shared(len.saturating_sub(done))?;
            let to = gpa.checked_add(done as u64).ok_or(OutOfRange)?;
            if count != 0 {
                guest.write_shared(to, self.region, from, count)?;
            }
            done = done.saturating_add(count);
        }
        self.len = self.len.saturating_sub(len);
        Ok(())
    }

    /// Leaves out the next `len` bytes.
    pub fn skip(&mut self, len: usize) -> Result<(), OutOfRange> {
        let (now, later) = self.head.split_at_checked(len).unwrap_or((self.head, &[]));
        self.head = later;
        let mut done = now.len();
        while done < len {
            let (_, count) = self.next_shared(len.saturating_sub(done))?;
            done = done.saturating_add(count);
        }
        self.len = self.len.saturating_sub(len);
        Ok(())
    }

    /// Takes shared bytes that lie together, `most` of them at most: where they start, and
    /// their number.
    fn next_shared(&mut self, most: usize) -> Result<(usize, usize), OutOfRange> {
        let (piece, rest) = self.pieces.split_first().ok_or(OutOfRange)?;
        let left = piece.len().saturating_sub(self.begun);
        let count = left.min(most);
        let from = piece.offset().checked_add(self.begun).ok_or(OutOfRange)?;
        if count == left {
            self.pieces = rest;
            self.begun = 0;
        } else {
            self.begun = self.begun.saturating_add(count);
        }
        Ok((from, count))
    }
}

/// No shared memory.
struct Nowhere;

impl SharedMemory for Nowhere {
    fn len(&self) -> usize {
        0
    }
    fn pfn(&self, _: usize) -> Option<u64> {
        None
    }
    fn copy_in(&self, _: usize, _: &mut [u8]) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn copy_out(&self, _: usize, _: &[u8]) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn zero(&self, _: usize, _: usize) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn load_u32(&self, _: usize) -> Result<u32, OutOfRange> {
        Err(OutOfRange)
    }
    fn store_u32(&self, _: usize, _: u32) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn compare_exchange_u32(&self, _: usize, _: u32, _: u32) -> Result<bool, OutOfRange> {
        Err(OutOfRange)
    }
    fn take_u64(&self, _: usize) -> Result<u64, OutOfRange> {
        Err(OutOfRange)
    }
    fn fence(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubles::{DoubleFetch, PlainShared, VecGuest};
    extern crate std;
    use std::vec::Vec;

    /// However the guest's buffers cut it, the bytes come in order, and each shared
    /// one is read once: the double changes what is read twice.
    #[test]
    fn a_parcel_is_written_in_order_and_read_once() {
        let bytes: Vec<u8> = (0..3000).map(|n| (n % 251) as u8).collect();
        for cut in [1, 3, 100, 511, 512, 513, 3000] {
            let plain = PlainShared::new(2, 0);
            plain.copy_out(5, &bytes[20..1000]).unwrap();
            plain.copy_out(4096, &bytes[1000..]).unwrap();
            let shared = DoubleFetch::new(plain, &[]);
            let pieces = [Piece::new(5, 980), Piece::new(9, 0), Piece::new(4096, 2000)];
            let guest = VecGuest::new(8192);
            let mut parcel = Parcel::new(&bytes[..20], &pieces, &shared);
            assert_eq!(parcel.len(), 3000);
            let mut at = 0;
            let mut expected = bytes.clone();
            while !parcel.is_empty() {
                let len = cut.min(parcel.len());
                // Every third is left out.
                if at / cut as u64 % 3 == 2 {
                    parcel.skip(len).unwrap();
                    expected[at as usize..][..len].fill(0);
                } else {
                    parcel.write(&guest, 100 + at, len).unwrap();
                }
                at += len as u64;
            }
            let mut back = std::vec![0; 3000];
            guest.read(100, &mut back).unwrap();
            assert_eq!(back, expected, "{cut}");
            assert_eq!(parcel.skip(1), Err(OutOfRange));
            assert_eq!(parcel.write(&guest, 0, 1), Err(OutOfRange));
        }
    }
}
