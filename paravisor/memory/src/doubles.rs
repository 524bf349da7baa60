//! Memory for tests: a plain shared region that a host in the same process can
//! use too, one that punishes a second fetch, and a guest's memory.
//!
//! Only built for tests (feature `test-support`).

extern crate alloc;

#[cfg_attr(miri, path = "doubles/plain_raw.rs")]
mod plain;

use crate::{GuestMemory, OutOfRange, PAGE_SIZE, SharedMemory};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
pub use plain::PlainShared;

/// Bits that change with each read.
const SPOIL: u64 = 0xb5a7_3d91_e64c_58f2;

/// Shared memory that changes every byte as soon as it has been read once.
///
/// A reader that fetches a byte twice gets something else the second time, as
/// from a host that races. Words that the protocol makes a reader look at again
/// and again (ring indices, event flags, the type and flags of a message slot)
/// are named as exceptions; everything else, words included, is subject to it.
#[derive(Clone, Debug)]
pub struct DoubleFetch<M> {
    inner: M,
    steady: Arc<[Range<usize>]>,
    turn: Arc<AtomicU64>,
    copied: Arc<[AtomicU64; 2]>,
}

impl<M: SharedMemory> DoubleFetch<M> {
    /// Wraps `inner`; bytes inside `steady` do not change.
    pub fn new(inner: M, steady: &[Range<usize>]) -> DoubleFetch<M> {
        DoubleFetch {
            inner,
            steady: steady.into(),
            turn: Arc::default(),
            copied: Arc::default(),
        }
    }

    /// Wraps the memory of a pair of rings: indices, mask and pending size of
    /// both headers do not change.
    pub fn rings(inner: M, downstream_page: usize) -> DoubleFetch<M> {
        let second = downstream_page.saturating_mul(PAGE_SIZE);
        DoubleFetch::new(inner, &[0..16, second..second.saturating_add(16)])
    }

    /// Wraps a SynIC message page: type (bytes 0..4) and flags (byte 5) of each
    /// slot do not change.
    pub fn message_page(inner: M) -> DoubleFetch<M> {
        let steady: Vec<_> = (0..16_usize)
            .map(|slot| slot.wrapping_mul(256))
            .flat_map(|at| {
                [
                    at..at.wrapping_add(4),
                    at.wrapping_add(5)..at.wrapping_add(6),
                ]
            })
            .collect();
        DoubleFetch::new(inner, &steady)
    }

    /// Bytes that were copied in and out through this wrapper and its clones.
    pub fn copied(&self) -> [u64; 2] {
        let [copied_in, copied_out] = &*self.copied;
        [copied_in, copied_out].map(|count| count.load(Ordering::Relaxed))
    }

    fn count(&self, way: usize, len: usize) {
        if let Some(count) = self.copied.get(way) {
            count.fetch_add(len as u64, Ordering::Relaxed);
        }
    }

    /// The memory itself, as the host sees it.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Changes the bytes that were just seen: each with a pattern that has no
    /// zero byte, another one at each call, so that two fetches do not cancel.
    fn spoil(&self, offset: usize, seen: &[u8]) -> Result<(), OutOfRange> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u32;
        let pattern = SPOIL.rotate_left((turn % 8).wrapping_mul(8));
        let end = offset.saturating_add(seen.len());
        let touched = self
            .steady
            .iter()
            .any(|range| range.start < end && offset < range.end);
        if touched {
            let steady = |at: usize| self.steady.iter().any(|range| range.contains(&at));
            for (byte, at) in seen.iter().zip(offset..) {
                if !steady(at) {
                    self.inner.copy_out(at, &[byte ^ pattern as u8])?;
                }
            }
            return Ok(());
        }
        let mut buffer = [0; 256];
        let mut at = offset;
        for part in seen.chunks(buffer.len()) {
            let spoiled = buffer.get_mut(..part.len()).unwrap_or_default();
            spoiled.copy_from_slice(part);
            for word in spoiled.chunks_mut(8) {
                if let Ok(whole) = <[u8; 8]>::try_from(&*word) {
                    word.copy_from_slice(&(u64::from_le_bytes(whole) ^ pattern).to_le_bytes());
                } else {
                    word.iter_mut().for_each(|byte| *byte ^= pattern as u8);
                }
            }
            self.inner.copy_out(at, spoiled)?;
            at = at.wrapping_add(part.len());
        }
        Ok(())
    }
}

impl<M: SharedMemory> SharedMemory for DoubleFetch<M> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        self.inner.pfn(index)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.inner.copy_in(offset, dst)?;
        self.count(0, dst.len());
        self.spoil(offset, dst)
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        self.count(1, src.len());
        self.inner.copy_out(offset, src)
    }
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        self.inner.zero(offset, len)
    }
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        let value = self.inner.load_u32(offset)?;
        self.spoil(offset, &value.to_le_bytes())?;
        Ok(value)
    }
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        self.inner.store_u32(offset, value)
    }
    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange> {
        self.inner.compare_exchange_u32(offset, from, to)
    }
    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
        self.inner.take_u64(offset)
    }
    fn fence(&self) {
        self.inner.fence();
    }
}

/// A guest's RAM from guest-physical address 0 on. Clones see the same bytes.
#[derive(Clone, Debug)]
pub struct VecGuest {
    memory: PlainShared,
}

impl VecGuest {
    /// `bytes` bytes of zeros, rounded up to whole pages.
    pub fn new(bytes: usize) -> VecGuest {
        VecGuest {
            memory: PlainShared::new(bytes.div_ceil(PAGE_SIZE), 0),
        }
    }
}

impl GuestMemory for VecGuest {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.memory
            .copy_in(usize::try_from(gpa).map_err(|_| OutOfRange)?, dst)
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        self.memory
            .copy_out(usize::try_from(gpa).map_err(|_| OutOfRange)?, src)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_memory_keeps_bytes_at_any_alignment() {
        let memory = PlainShared::new(1, 5);
        let pattern: [u8; 37] = core::array::from_fn(|i| i as u8 ^ 0x5a);
        for offset in 0..16 {
            memory.copy_out(offset, &pattern).unwrap();
            let mut back = [0; 37];
            memory.copy_in(offset, &mut back).unwrap();
            assert_eq!(back, pattern);
        }
        memory.store_u32(4, 0xdead_beef).unwrap();
        assert_eq!(memory.load_u32(4), Ok(0xdead_beef));
        assert_eq!(memory.load_u32(5), Err(OutOfRange));
        assert_eq!(memory.compare_exchange_u32(4, 0xdead_beef, 7), Ok(true));
        assert_eq!(memory.compare_exchange_u32(4, 0xdead_beef, 8), Ok(false));
        assert_eq!(memory.take_u64(0).unwrap() >> 32, 7);
        assert_eq!(memory.load_u32(0), Ok(0));
        assert_eq!(memory.copy_in(4090, &mut [0; 7]), Err(OutOfRange));
    }

    #[test]
    fn a_second_fetch_sees_something_else() {
        let memory = DoubleFetch::new(PlainShared::new(1, 0), &[8..10, 10..12]);
        memory.copy_out(0, &[1; 16]).unwrap();
        let (mut once, mut twice) = ([0; 16], [0; 16]);
        memory.copy_in(0, &mut once).unwrap();
        memory.copy_in(0, &mut twice).unwrap();
        assert_eq!(once, [1; 16]);
        assert!((0..16).all(|i| (once[i] == twice[i]) == (8..12).contains(&i)));
        memory.store_u32(0, 5).unwrap();
        assert_eq!(memory.load_u32(0), Ok(5));
        assert_ne!(memory.load_u32(0), Ok(5));
    }

    #[test]
    fn a_window_is_the_same_memory() {
        let memory = PlainShared::new(4, 100);
        let window = memory.window(2 * PAGE_SIZE, PAGE_SIZE).unwrap();
        window.copy_out(0, &[9]).unwrap();
        let mut byte = [0];
        memory.copy_in(2 * PAGE_SIZE, &mut byte).unwrap();
        assert_eq!((byte, window.pfn(0), window.pfn(1)), ([9], Some(102), None));
        assert!(memory.window(PAGE_SIZE, 4 * PAGE_SIZE).is_none());
    }

    #[test]
    fn a_guest_reads_what_it_wrote() {
        let guest = VecGuest::new(5000);
        guest.write(8000, &[3; 100]).unwrap();
        let mut back = [0; 100];
        guest.read(8000, &mut back).unwrap();
        assert_eq!(back, [3; 100]);
        assert_eq!(guest.read(8192, &mut [0]), Err(OutOfRange));
        assert_eq!(guest.read(u64::MAX, &mut [0]), Err(OutOfRange));
    }
}
