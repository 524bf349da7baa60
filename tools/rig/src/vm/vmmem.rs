//! The one way of the host side into the VM's memory. A page that the guest owns
//! is refused, remembered and ends the run: a leak is a failed run, not a read.

use super::ram::Ram;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;
use hostkit::{MemoryFault, VmMemory};
use rig::rmp::Rmp;

/// Shared between the machine and its host.
pub struct HostMemory {
    ram: Ram,
    rmp: Rc<RefCell<Rmp>>,
    refused: Cell<u64>,
    first: Cell<Option<u64>>,
}

impl HostMemory {
    /// The host's view of `ram` under `rmp`.
    pub fn new(ram: Ram, rmp: Rc<RefCell<Rmp>>) -> HostMemory {
        HostMemory {
            ram,
            rmp,
            refused: Cell::new(0),
            first: Cell::new(None),
        }
    }

    /// Accesses to private pages so far.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Address of the first of them: the run has failed.
    pub fn violation(&self) -> Option<u64> {
        self.first.get()
    }

    /// The gate. Every access of the host side comes through here.
    fn check(&self, gpa: u64, len: usize) -> Result<(), MemoryFault> {
        let end = gpa
            .checked_add(len as u64)
            .filter(|e| *e <= self.ram.size())
            .ok_or(MemoryFault::Unmapped(gpa))?;
        let rmp = self.rmp.borrow();
        for gfn in gpa >> 12..end.next_multiple_of(4096) >> 12 {
            if !rmp.is_shared(gfn) {
                self.refused.set(self.refused.get() + 1);
                if self.first.get().is_none() {
                    self.first.set(Some(gfn << 12));
                }
                return Err(MemoryFault::Private(gfn << 12));
            }
        }
        Ok(())
    }

    fn word(&self, gpa: u64) -> Result<&core::sync::atomic::AtomicU32, MemoryFault> {
        self.check(gpa, 4)?;
        self.ram.atomic(gpa).ok_or(MemoryFault::Unmapped(gpa))
    }
}

impl VmMemory for HostMemory {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        self.check(gpa, dst.len())?;
        self.ram
            .read(gpa, dst)
            .then_some(())
            .ok_or(MemoryFault::Unmapped(gpa))
    }

    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        self.check(gpa, src.len())?;
        self.ram
            .write(gpa, src)
            .then_some(())
            .ok_or(MemoryFault::Unmapped(gpa))
    }

    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        Ok(self.word(gpa)?.load(Ordering::Acquire))
    }

    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        self.word(gpa)?.store(value, Ordering::Release);
        Ok(())
    }

    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        Ok(self.word(gpa)?.fetch_or(bits, Ordering::AcqRel))
    }

    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        let word = self.word(gpa)?;
        Ok(word
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok())
    }

    fn fence(&self) {
        self.ram.fence();
    }
}
