//! Ordinary memory of a process that is reached exactly as the firmware reaches
//! shared memory: for benches, which measure these accesses, and for tests.
//!
//! Only built for tests (feature `test-support`).
#![allow(
    unsafe_code,
    reason = "makes the memory that a `RawShared` promises to be alone with"
)]

use crate::{GuestMemory, OutOfRange, PAGE_SIZE, RawShared, SharedMemory, check};
use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr::NonNull;

/// Zeroed pages that live as long as the process. Windows see the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Native {
    base: NonNull<u8>,
    len: usize,
    first_pfn: u64,
}

impl Native {
    /// `pages` pages, at least one; the first has frame number `first_pfn`. `None`
    /// if there is no memory.
    pub fn new(pages: usize, first_pfn: u64) -> Option<Native> {
        let len = pages.checked_mul(PAGE_SIZE).filter(|len| *len != 0)?;
        let layout = Layout::from_size_align(len, PAGE_SIZE).ok()?;
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Native {
            base,
            len,
            first_pfn,
        })
    }

    /// The `len` bytes at `offset`, both whole pages.
    pub fn window(&self, offset: usize, len: usize) -> Option<RawShared> {
        let offset = check(self.len, offset, len).ok()?;
        let pfn = self
            .first_pfn
            .checked_add((offset / PAGE_SIZE).try_into().ok()?)?;
        // SAFETY: inside the allocation, by the check.
        let base = unsafe { self.base.add(offset) };
        // SAFETY: never freed, and reached through windows only, each access of which
        // bears that another one changes the bytes.
        unsafe { RawShared::new(base, len, pfn) }
    }
}

/// A guest's RAM from guest-physical address 0 on.
#[derive(Debug)]
pub struct NativeGuest(RawShared);

impl NativeGuest {
    /// All of `memory`.
    pub fn new(memory: &Native) -> Option<NativeGuest> {
        memory.window(0, memory.len).map(NativeGuest)
    }
}

impl GuestMemory for NativeGuest {
    #[inline]
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let at = usize::try_from(gpa).map_err(|_| OutOfRange)?;
        self.0.copy_in(at, dst)
    }
    #[inline]
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        let at = usize::try_from(gpa).map_err(|_| OutOfRange)?;
        self.0.copy_out(at, src)
    }
    fn write_shared(
        &self,
        gpa: u64,
        from: &dyn SharedMemory,
        offset: usize,
        len: usize,
    ) -> Result<(), OutOfRange> {
        let at = usize::try_from(gpa).map_err(|_| OutOfRange)?;
        if from.copy_to_guest(offset, &self.0.place(at, len)?)? {
            return Ok(());
        }
        crate::bounce(self, gpa, from, offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_guest_see_the_same_bytes() {
        let memory = Native::new(3, 7).unwrap();
        let (low, high) = (
            memory.window(0, 2 * PAGE_SIZE).unwrap(),
            memory.window(PAGE_SIZE, 2 * PAGE_SIZE).unwrap(),
        );
        assert_eq!((low.pfn(1), high.pfn(0)), (Some(8), Some(8)));
        low.copy_out(PAGE_SIZE + 5, &[1, 2, 3]).unwrap();
        let guest = NativeGuest::new(&memory).unwrap();
        let (mut seen, mut read) = ([0; 3], [0; 3]);
        high.copy_in(5, &mut seen).unwrap();
        guest.read(PAGE_SIZE as u64 + 5, &mut read).unwrap();
        assert_eq!((seen, read), ([1, 2, 3], [1, 2, 3]));
        assert!(memory.window(PAGE_SIZE, 3 * PAGE_SIZE).is_none());
        assert!(memory.window(1, PAGE_SIZE).is_none());
        assert!(Native::new(0, 0).is_none());
    }
}
