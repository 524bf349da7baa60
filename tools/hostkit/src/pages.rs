//! Memory that a GPADL or a packet names: a byte range over a list of pages.
use crate::mem::{MemoryFault, VmMemory};
use abi::vmbus::PAGE_SIZE;
use alloc::vec::Vec;

/// One range: `len` bytes that start `offset` bytes into the first page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageList {
    pfns: Vec<u64>,
    offset: usize,
    len: usize,
}

/// An access beyond the end of a [`PageList`], or one that the memory refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// Beyond the end.
    OutOfRange,
    /// Refused by the memory.
    Memory(MemoryFault),
}

impl From<MemoryFault> for PageError {
    fn from(fault: MemoryFault) -> Self {
        PageError::Memory(fault)
    }
}

impl PageList {
    /// A range; `None` if it is empty, starts beyond the first page or has too
    /// few frames. Frames behind its end are cut.
    pub fn new(mut pfns: Vec<u64>, offset: u32, len: u32) -> Option<Self> {
        let (offset, len) = (offset as usize, len as usize);
        let pages = offset.checked_add(len)?.div_ceil(PAGE_SIZE);
        if len == 0 || offset >= PAGE_SIZE || pfns.len() < pages {
            return None;
        }
        // A frame number has 52 bits; more would wrap the address.
        if pfns.iter().any(|p| p >> 52 != 0) {
            return None;
        }
        pfns.truncate(pages);
        Some(PageList { pfns, offset, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty range is not made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is made of whole pages.
    pub fn is_page_aligned(&self) -> bool {
        self.offset == 0 && self.len.is_multiple_of(PAGE_SIZE)
    }

    /// Frames.
    pub fn pfns(&self) -> &[u64] {
        &self.pfns
    }

    /// GPA of a byte.
    pub fn gpa(&self, at: usize) -> Result<u64, PageError> {
        if at >= self.len {
            return Err(PageError::OutOfRange);
        }
        let at = at + self.offset;
        let pfn = self.pfns.get(at / PAGE_SIZE).ok_or(PageError::OutOfRange)?;
        Ok((pfn << 12) + (at % PAGE_SIZE) as u64)
    }

    fn check(&self, at: usize, len: usize) -> Result<(), PageError> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(PageError::OutOfRange),
        }
    }

    /// Copies bytes out of the VM.
    pub fn read(&self, mem: &dyn VmMemory, mut at: usize, dst: &mut [u8]) -> Result<(), PageError> {
        self.check(at, dst.len())?;
        let mut rest = dst;
        while !rest.is_empty() {
            let room = PAGE_SIZE - (at + self.offset) % PAGE_SIZE;
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            mem.read(self.gpa(at)?, now)?;
            at += now.len();
            rest = later;
        }
        Ok(())
    }

    /// Copies bytes into the VM.
    pub fn write(&self, mem: &dyn VmMemory, mut at: usize, src: &[u8]) -> Result<(), PageError> {
        self.check(at, src.len())?;
        let mut rest = src;
        while !rest.is_empty() {
            let room = PAGE_SIZE - (at + self.offset) % PAGE_SIZE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            mem.write(self.gpa(at)?, now)?;
            at += now.len();
            rest = later;
        }
        Ok(())
    }
}
