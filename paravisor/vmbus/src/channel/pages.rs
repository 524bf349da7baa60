//! The pages that a GPA-direct packet names: of shared memory, and of nothing else.

use crate::limits::MAX_DIRECT_PAGES;
use abi::vmbus::{GpaDirectHeader, PAGE_SIZE, PageRange};
use core::mem::size_of;
use memory::SharedMemory;
use zerocopy::IntoBytes;

const SIZE: usize = size_of::<GpaDirectHeader>() + MAX_DIRECT_PAGES * size_of::<PageRange>();

/// Bytes of shared memory that a GPA-direct packet names, by pages of the region
/// that they lie in.
pub(super) struct Pages {
    bytes: [u8; SIZE],
    len: usize,
}

impl Pages {
    /// The `len` bytes at `offset` of `region`; `None` if they do not lie in it, are
    /// none or span too many pages.
    pub(super) fn of(region: &impl SharedMemory, offset: usize, len: usize) -> Option<Pages> {
        let end = offset.checked_add(len)?;
        if len == 0 || end > region.len() {
            return None;
        }
        let first = offset / PAGE_SIZE;
        let count = end.div_ceil(PAGE_SIZE).checked_sub(first)?;
        if count > MAX_DIRECT_PAGES {
            return None;
        }
        let mut pages = Pages {
            bytes: [0; SIZE],
            len: 0,
        };
        pages.put(
            GpaDirectHeader {
                reserved: 0.into(),
                range_count: u32::try_from(count).ok()?.into(),
            }
            .as_bytes(),
        )?;
        let mut at = offset;
        while at < end {
            let in_page = at % PAGE_SIZE;
            let bytes = PAGE_SIZE.checked_sub(in_page)?.min(end.checked_sub(at)?);
            let range = PageRange {
                byte_count: u32::try_from(bytes).ok()?.into(),
                byte_offset: u32::try_from(in_page).ok()?.into(),
                pfn: region.pfn(at / PAGE_SIZE)?.into(),
            };
            pages.put(range.as_bytes())?;
            at = at.checked_add(bytes)?;
        }
        Some(pages)
    }

    /// The header with its ranges, whole words of 8 bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::doubles::PlainShared;

    #[test]
    fn sys_09_pages_are_those_of_the_region() {
        let region = PlainShared::new(20, 0x300);
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        for (offset, len) in [(0, 1), (0, 4096), (4095, 2), (6144, 65600), (0, 20 * 4096)] {
            let pages = Pages::of(&region, offset, len).unwrap();
            let bytes = pages.bytes();
            let count = word(bytes, 4) as usize;
            assert_eq!(bytes.len(), 8 + 16 * count);
            let mut at = offset;
            for range in bytes[8..].chunks(16) {
                assert_eq!(word(range, 4) as usize, at % 4096);
                assert_eq!(word(range, 8) as usize, 0x300 + at / 4096);
                at += word(range, 0) as usize;
            }
            assert_eq!(at, offset + len, "SYS_09");
        }
        for (offset, len) in [(0, 0), (0, 20 * 4096 + 1), (20 * 4096, 1), (usize::MAX, 1)] {
            assert!(Pages::of(&region, offset, len).is_none());
        }
        // More pages than a packet may have.
        let region = PlainShared::new(40, 0x300);
        assert!(Pages::of(&region, 1, 32 * 4096).is_none());
        assert!(Pages::of(&region, 0, 32 * 4096).is_some());
    }
}
