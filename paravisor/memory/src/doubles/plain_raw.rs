//! The plain region for Miri: over `RawShared`, so that tests of the rooms above run
//! the accesses of the image (its assembly apart) and not a double's.

extern crate alloc;

use crate::{OutOfRange, RawShared, SharedMemory};
use alloc::sync::Arc;

/// Shared memory in ordinary memory. Clones and windows see the same bytes, so
/// a host in the same process takes a clone.
#[derive(Clone, Debug)]
pub struct PlainShared(Arc<RawShared>);

impl PlainShared {
    /// `pages` zeroed pages; the first has frame number `first_pfn`.
    pub fn new(pages: usize, first_pfn: u64) -> PlainShared {
        PlainShared(Arc::new(RawShared::leaked(pages, first_pfn)))
    }

    /// The `len` bytes at `offset`, as a region of their own. `None` if they do
    /// not lie inside or do not consist of whole pages.
    pub fn window(&self, offset: usize, len: usize) -> Option<PlainShared> {
        Some(PlainShared(Arc::new(self.0.window(offset, len)?)))
    }

    /// Atomically sets bits, as a host does with event flags.
    pub fn fetch_or_u32(&self, offset: usize, bits: u32) -> Result<u32, OutOfRange> {
        loop {
            let old = self.load_u32(offset)?;
            if self.compare_exchange_u32(offset, old, old | bits)? {
                return Ok(old);
            }
        }
    }
}

impl SharedMemory for PlainShared {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        self.0.pfn(index)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.0.copy_in(offset, dst)
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        self.0.copy_out(offset, src)
    }
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        self.0.zero(offset, len)
    }
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        self.0.load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        self.0.store_u32(offset, value)
    }
    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange> {
        self.0.compare_exchange_u32(offset, from, to)
    }
    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
        self.0.take_u64(offset)
    }
    fn fence(&self) {
        self.0.fence();
    }
}
