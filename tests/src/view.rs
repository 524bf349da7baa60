//! The VM's memory as the host sees it: the pages that were shared, and no others.

use hostkit::mem::{MemoryFault, VmMemory};
use memory::doubles::PlainShared;
use memory::{OutOfRange, SharedMemory};
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

/// Which pages the host may touch, and how often it tried to touch another.
#[derive(Debug, Default)]
struct Ledger {
    shared: HashSet<u64>,
    refused: u64,
}

/// The view. Clones are the same one.
#[derive(Clone, Debug)]
pub struct HostView {
    memory: PlainShared,
    first_pfn: u64,
    ledger: Rc<RefCell<Ledger>>,
}

impl HostView {
    /// A view of `memory` in which all is private yet.
    pub fn new(memory: PlainShared) -> HostView {
        HostView {
            first_pfn: memory.pfn(0).unwrap_or(0),
            memory,
            ledger: Rc::default(),
        }
    }

    /// Shares `pages` pages with the host.
    pub fn share(&self, first_pfn: u64, pages: usize) {
        let pages = (first_pfn..).take(pages);
        self.ledger.borrow_mut().shared.extend(pages);
    }

    /// Accesses of the host to private pages.
    pub fn refused(&self) -> u64 {
        self.ledger.borrow().refused
    }

    /// The pages as a region of shared memory.
    pub fn window(&self, first_pfn: u64, pages: usize) -> Option<PlainShared> {
        let at = self.offset(first_pfn << 12)?;
        self.memory.window(at, pages * memory::PAGE_SIZE)
    }

    fn offset(&self, gpa: u64) -> Option<usize> {
        gpa.checked_sub(self.first_pfn << 12)
            .and_then(|at| usize::try_from(at).ok())
    }

    /// Lets the host at its bytes.
    fn access<T>(
        &self,
        gpa: u64,
        len: usize,
        access: impl FnOnce(usize) -> Result<T, OutOfRange>,
    ) -> Result<T, MemoryFault> {
        let last = gpa.saturating_add((len.max(1) - 1) as u64);
        let mut ledger = self.ledger.borrow_mut();
        let all = (gpa >> 12..=last >> 12).all(|pfn| ledger.shared.contains(&pfn));
        if !all {
            ledger.refused += 1;
            return Err(MemoryFault::Private(gpa));
        }
        let at = self.offset(gpa).ok_or(MemoryFault::Unmapped(gpa))?;
        access(at).map_err(|OutOfRange| MemoryFault::Unmapped(gpa))
    }
}

impl VmMemory for HostView {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        self.access(gpa, dst.len(), |at| self.memory.copy_in(at, dst))
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        self.access(gpa, src.len(), |at| self.memory.copy_out(at, src))
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        self.access(gpa, 4, |at| self.memory.load_u32(at))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        self.access(gpa, 4, |at| self.memory.store_u32(at, value))
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        self.access(gpa, 4, |at| self.memory.fetch_or_u32(at, bits))
    }
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        self.access(gpa, 4, |at| self.memory.compare_exchange_u32(at, from, to))
    }
    fn fence(&self) {
        self.memory.fence();
    }
}
