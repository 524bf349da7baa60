//! The one place that touches shared memory: a mapped range, reached by the copies of
//! [`crate::copy`] and by single atomic accesses.
//!
//! `unsafe` is needed because the host changes these bytes while we look: a
//! Rust reference to them would promise otherwise.
#![allow(unsafe_code)]

use crate::{OutOfRange, PAGE_SIZE, SharedMemory, check, copy, total};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A mapped, page-aligned range of memory that the host can see.
///
/// There is no way to a reference or a slice into it.
#[derive(Debug)]
pub struct RawShared {
    base: NonNull<u8>,
    len: usize,
    first_pfn: u64,
}

// SAFETY: every access is a single atomic access or a volatile byte copy made
// by the processor; nothing is cached in this structure.
unsafe impl Send for RawShared {}
// SAFETY: as above; several processors may access the range at once, just as
// the host does.
unsafe impl Sync for RawShared {}

impl RawShared {
    /// Takes the range of `len` bytes at `base`, whose first page has the frame
    /// number `first_pfn`. `None` if `base` or `len` is not a multiple of the
    /// page size, or `len` is 0.
    ///
    /// # Safety
    ///
    /// For as long as the value lives:
    /// * `base..base + len` is mapped readable and writable, without the C bit,
    ///   to the consecutive frames that start at `first_pfn`;
    /// * no Rust reference, of this or another type, points into the range;
    /// * the pages belong to no other allocation.
    pub unsafe fn new(base: NonNull<u8>, len: usize, first_pfn: u64) -> Option<RawShared> {
        let aligned = base.addr().get().is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        (aligned && len != 0).then_some(RawShared {
            base,
            len,
            first_pfn,
        })
    }

    /// Pointer to `offset`, after the bounds check that `len` bytes lie there.
    #[inline]
    fn at(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfRange> {
        let offset = check(self.len, offset, len)?;
        // SAFETY: `offset <= self.len`, so the result lies inside the range that
        // `new` was promised, or one past its end for an empty access.
        Ok(unsafe { self.base.as_ptr().add(offset) })
    }

    /// `len` bytes at `offset` as a place that shared bytes are copied to. The region
    /// stands for a guest's memory, which nothing refers to.
    #[cfg(any(test, feature = "test-support"))]
    pub(crate) fn place(&self, offset: usize, len: usize) -> Result<GuestPlace, OutOfRange> {
        let start = NonNull::new(self.at(offset, len)?).ok_or(OutOfRange)?;
        // SAFETY: good for `len` bytes by the check, for as long as this region is.
        Ok(unsafe { GuestPlace::new(start, len) })
    }

    /// Offsets of words are ours, never the host's: the check needs no mask.
    #[inline]
    fn word32(&self, offset: usize) -> Result<&AtomicU32, OutOfRange> {
        // Whole pages: a word that starts inside ends inside.
        if !offset.is_multiple_of(4) || offset >= self.len {
            return Err(OutOfRange);
        }
        // SAFETY: in bounds and aligned (the base is page-aligned); an atomic
        // may change at any time, so this reference promises nothing that the
        // host could break. It does not leave this module.
        Ok(unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }
}

impl SharedMemory for RawShared {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    fn pfn(&self, index: usize) -> Option<u64> {
        (index < self.len.div_ceil(PAGE_SIZE)).then(|| self.first_pfn.wrapping_add(index as u64))
    }

    #[inline]
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.at(offset, dst.len())?;
        // SAFETY: `from` is good for `dst.len()` bytes, `dst` is exclusive private
        // memory.
        unsafe { copy::copy(from, dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    #[inline]
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        let to = self.at(offset, src.len())?;
        // SAFETY: `to` is good for `src.len()` bytes, `src` is private memory.
        unsafe { copy::copy(src.as_ptr(), to, src.len()) };
        Ok(())
    }

    #[inline]
    fn copy_out_all(
        &self,
        offset: usize,
        heads: [&[u8]; 2],
        parts: &[&[u8]],
        tail: &[u8],
    ) -> Result<(), OutOfRange> {
        let mut to = self.at(offset, total(heads, parts, tail)?)?;
        let mut put = |part: &[u8]| {
            // SAFETY: `to` is good for all that is left of the total, `part` is private
            // memory.
            unsafe {
                copy::copy(part.as_ptr(), to, part.len());
                to = to.add(part.len());
            }
        };
        // Written out: the first is short and always there, the second seldom.
        let [first, second] = heads;
        put(first);
        if !second.is_empty() {
            put(second);
        }
        for part in parts {
            put(part);
        }
        put(tail);
        Ok(())
    }

    #[inline]
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        let to = self.at(offset, len)?;
        // SAFETY: `to` is good for `len` bytes.
        unsafe { copy::zero(to, len) };
        Ok(())
    }

    #[inline]
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        Ok(self.word32(offset)?.load(Ordering::Acquire))
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        self.word32(offset)?.store(value, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange> {
        let word = self.word32(offset)?;
        Ok(word
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok())
    }

    #[inline]
    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
        if !offset.is_multiple_of(8) {
            return Err(OutOfRange);
        }
        // SAFETY: as in `word32`, for eight bytes.
        let word = unsafe { AtomicU64::from_ptr(self.at(offset, 8)?.cast()) };
        Ok(word.swap(0, Ordering::SeqCst))
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn copy_to_guest(&self, offset: usize, to: &GuestPlace) -> Result<bool, OutOfRange> {
        let from = self.at(offset, to.len)?;
        // SAFETY: `from` is good for `to.len` bytes, and so is `to` by its promise; the
        // two kinds of memory never overlap.
        unsafe { copy::copy(from, to.start.as_ptr(), to.len) };
        Ok(true)
    }
}

/// Bytes of the guest's memory to which [`SharedMemory::copy_to_guest`] copies.
#[derive(Debug)]
pub struct GuestPlace {
    start: NonNull<u8>,
    len: usize,
}

impl GuestPlace {
    /// # Safety
    /// While the value lives, `len` bytes at `start` are mapped writable, are the
    /// guest's, and no Rust reference points to them.
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> GuestPlace {
        GuestPlace { start, len }
    }
}

/// Pages for the test doubles under Miri, so that what is built on these runs on the
/// real accesses there.
#[cfg(all(miri, any(test, feature = "test-support")))]
impl RawShared {
    /// `pages` zeroed pages that are never freed; the first has frame number `first_pfn`.
    pub(crate) fn leaked(pages: usize, first_pfn: u64) -> RawShared {
        #[repr(align(4096))]
        #[derive(Clone)]
        struct Page(#[allow(dead_code)] [u8; PAGE_SIZE]);
        extern crate alloc;
        RawShared {
            base: NonNull::from(alloc::vec![Page([0; PAGE_SIZE]); pages].leak()).cast(),
            len: pages.saturating_mul(PAGE_SIZE),
            first_pfn,
        }
    }

    /// The same pages, or some of them: whole ones, inside.
    pub(crate) fn window(&self, offset: usize, len: usize) -> Option<RawShared> {
        let aligned = offset.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        let base = NonNull::new(self.at(offset, len).ok()?)?;
        aligned.then_some(RawShared {
            base,
            len,
            first_pfn: self.first_pfn.checked_add((offset / PAGE_SIZE) as u64)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::boxed::Box;
    use std::vec;

    #[repr(align(4096))]
    struct Page(#[allow(dead_code)] [u8; 2 * PAGE_SIZE]);

    fn region() -> RawShared {
        let page = NonNull::from(Box::leak(Box::new(Page([0; 2 * PAGE_SIZE])))).cast();
        // SAFETY: leaked, aligned, and nothing else points there.
        unsafe { RawShared::new(page, 2 * PAGE_SIZE, 0x1234) }.unwrap()
    }

    #[test]
    fn copies_and_words_stay_inside() {
        let memory = region();
        let pattern: vec::Vec<u8> = (0..=255).collect();
        memory.copy_out(4000, &pattern).unwrap();
        let mut back = [0; 256];
        memory.copy_in(4000, &mut back).unwrap();
        assert_eq!(&back[..], &pattern[..]);
        assert_eq!(memory.load_u32(4004), Ok(0x0706_0504));
        assert_eq!(memory.compare_exchange_u32(4004, 1, 2), Ok(false));
        assert_eq!(memory.compare_exchange_u32(4004, 0x0706_0504, 2), Ok(true));
        assert_eq!(memory.take_u64(4000), Ok(0x0000_0002_0302_0100));
        memory.zero(4000, 256).unwrap();
        memory.copy_in(4000, &mut back).unwrap();
        assert_eq!(back, [0; 256]);
        assert_eq!(memory.pfn(1), Some(0x1235));
        assert_eq!(memory.pfn(2), None);
    }

    #[test]
    fn shared_bytes_go_to_the_guest_in_one_copy() {
        let memory = region();
        let pattern: vec::Vec<u8> = (0..=255).collect();
        memory.copy_out(4000, &pattern).unwrap();
        for len in [0, 1, 7, 8, 9, 64, 255] {
            let mut guest = [0xEE_u8; 256];
            let start = NonNull::from(&mut guest).cast();
            // SAFETY: the array stands for the guest's memory; it is looked at after
            // the copy only.
            let place = unsafe { GuestPlace::new(start, len) };
            assert_eq!(memory.copy_to_guest(4000, &place), Ok(true));
            assert_eq!(memory.copy_to_guest(8193, &place), Err(OutOfRange));
            assert_eq!(guest[..len], pattern[..len]);
            assert!(guest[len..].iter().all(|byte| *byte == 0xEE));
        }
    }

    #[test]
    fn parts_lie_one_behind_the_other() {
        let memory = region();
        let parts: [&[u8]; 3] = [&[3], &[], &[4, 5, 6]];
        memory
            .copy_out_all(4093, [&[1], &[2]], &parts, &[7])
            .unwrap();
        let mut back = [0; 9];
        memory.copy_in(4092, &mut back).unwrap();
        assert_eq!(back, [0, 1, 2, 3, 4, 5, 6, 7, 0]);
        assert_eq!(
            memory.copy_out_all(8188, [&[9], &[]], &parts, &[]),
            Err(OutOfRange)
        );
        memory.copy_in(8183, &mut back).unwrap();
        assert_eq!(back, [0; 9]);
    }

    #[test]
    fn out_of_range_touches_nothing() {
        let memory = region();
        let mut byte = [0; 1];
        assert_eq!(memory.copy_in(8192, &mut byte), Err(OutOfRange));
        assert_eq!(memory.copy_in(usize::MAX, &mut byte), Err(OutOfRange));
        assert_eq!(memory.copy_out(8191, &[1, 2]), Err(OutOfRange));
        assert_eq!(memory.zero(1, usize::MAX), Err(OutOfRange));
        assert_eq!(memory.load_u32(2), Err(OutOfRange));
        assert_eq!(memory.load_u32(8190), Err(OutOfRange));
        assert_eq!(memory.take_u64(4), Err(OutOfRange));
        assert_eq!(memory.copy_in(8192, &mut []), Ok(()));
    }
}
