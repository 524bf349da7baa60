//! Shared memory in ordinary memory.

extern crate alloc;

use crate::{OutOfRange, PAGE_SIZE, SharedMemory, check};
use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Shared memory in ordinary memory. Clones and windows see the same bytes, so
/// a host in the same process takes a clone.
#[derive(Clone, Debug)]
pub struct PlainShared {
    words: Arc<[AtomicU64]>,
    start: usize,
    len: usize,
    first_pfn: u64,
}

impl PlainShared {
    /// `pages` zeroed pages; the first has frame number `first_pfn`.
    pub fn new(pages: usize, first_pfn: u64) -> PlainShared {
        let len = pages.saturating_mul(PAGE_SIZE);
        let words = (0..len / 8).map(|_| AtomicU64::new(0)).collect();
        PlainShared {
            words,
            start: 0,
            len,
            first_pfn,
        }
    }

    /// The `len` bytes at `offset`, as a region of their own. `None` if they do
    /// not lie inside or do not consist of whole pages.
    pub fn window(&self, offset: usize, len: usize) -> Option<PlainShared> {
        check(self.len, offset, len).ok()?;
        if !offset.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        Some(PlainShared {
            words: self.words.clone(),
            start: self.start.checked_add(offset)?,
            len,
            first_pfn: self.first_pfn.checked_add((offset / PAGE_SIZE) as u64)?,
        })
    }

    /// Atomically sets bits, as a host does with event flags.
    pub fn fetch_or_u32(&self, offset: usize, bits: u32) -> Result<u32, OutOfRange> {
        check(self.len, offset, 4)?;
        let shift = match offset % 8 {
            0 => 0,
            4 => 32,
            _ => return Err(OutOfRange),
        };
        let old = self
            .word(offset)?
            .fetch_or(u64::from(bits) << shift, Ordering::SeqCst);
        Ok((old >> shift) as u32)
    }

    fn word(&self, offset: usize) -> Result<&AtomicU64, OutOfRange> {
        self.words
            .get(self.start.wrapping_add(offset) / 8)
            .ok_or(OutOfRange)
    }

    /// Replaces, in the word that holds `offset`, the bits of `mask`.
    fn merge(&self, offset: usize, mask: u64, bits: u64) -> Result<(), OutOfRange> {
        let word = self.word(offset)?;
        if mask == u64::MAX {
            word.store(bits, Ordering::Release);
        } else {
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                Some((old & !mask) | (bits & mask))
            });
        }
        Ok(())
    }

    /// Writes one word after the other; `bytes` gives the next up to 8 bytes.
    fn write_words(
        &self,
        offset: usize,
        len: usize,
        mut bytes: impl FnMut(Range<usize>) -> [u8; 8],
    ) -> Result<(), OutOfRange> {
        check(self.len, offset, len)?;
        let mut done = 0_usize;
        while done < len {
            let at = offset.wrapping_add(done);
            let lane = at % 8;
            let next = done.wrapping_add(8_usize.wrapping_sub(lane)).min(len);
            let count = next.wrapping_sub(done);
            let shift = (lane as u32).wrapping_mul(8);
            let mask = u64::MAX >> 64_u32.wrapping_sub((count as u32).wrapping_mul(8)) << shift;
            self.merge(at, mask, u64::from_le_bytes(bytes(done..next)) << shift)?;
            done = next;
        }
        Ok(())
    }
}

impl SharedMemory for PlainShared {
    fn len(&self) -> usize {
        self.len
    }

    fn pfn(&self, index: usize) -> Option<u64> {
        (index < self.len / PAGE_SIZE).then(|| self.first_pfn.wrapping_add(index as u64))
    }

    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        check(self.len, offset, dst.len())?;
        let mut at = offset;
        let mut rest = dst;
        while !rest.is_empty() {
            let word = self.word(at)?.load(Ordering::Acquire).to_le_bytes();
            let lane = word.get(at % 8..).unwrap_or(&[]);
            let count = lane.len().min(rest.len());
            let (now, later) = rest.split_at_mut_checked(count).ok_or(OutOfRange)?;
            now.copy_from_slice(lane.get(..count).ok_or(OutOfRange)?);
            rest = later;
            at = at.wrapping_add(count);
        }
        Ok(())
    }

    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        self.write_words(offset, src.len(), |range| {
            let mut word = [0; 8];
            let part = src.get(range).unwrap_or(&[]);
            if let Some(low) = word.get_mut(..part.len()) {
                low.copy_from_slice(part);
            }
            word
        })
    }

    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        if offset.is_multiple_of(8) && len.is_multiple_of(8) {
            // Whole words: megabytes of them in many a test.
            check(self.len, offset, len)?;
            let first = self.start.wrapping_add(offset) / 8;
            let words = self.words.get(first..first.wrapping_add(len / 8));
            let words = words.ok_or(OutOfRange)?;
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Release));
            return Ok(());
        }
        self.write_words(offset, len, |_| [0; 8])
    }

    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        check(self.len, offset, 4)?;
        if !offset.is_multiple_of(4) {
            return Err(OutOfRange);
        }
        let word = self.word(offset)?.load(Ordering::Acquire);
        Ok(if offset.is_multiple_of(8) {
            word as u32
        } else {
            (word >> 32) as u32
        })
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        check(self.len, offset, 4)?;
        match offset % 8 {
            0 => self.merge(offset, 0xffff_ffff, value.into()),
            4 => self.merge(offset, 0xffff_ffff << 32, u64::from(value) << 32),
            _ => Err(OutOfRange),
        }
    }

    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange> {
        check(self.len, offset, 4)?;
        let shift = match offset % 8 {
            0 => 0,
            4 => 32,
            _ => return Err(OutOfRange),
        };
        let word = self.word(offset)?;
        Ok(word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
                ((old >> shift) as u32 == from)
                    .then_some((old & !(0xffff_ffff << shift)) | (u64::from(to) << shift))
            })
            .is_ok())
    }

    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
        check(self.len, offset, 8)?;
        if !offset.is_multiple_of(8) {
            return Err(OutOfRange);
        }
        Ok(self.word(offset)?.swap(0, Ordering::SeqCst))
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
