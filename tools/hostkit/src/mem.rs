//! The host's view of the VM's memory.
use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::RefCell;

/// The host side touched memory that it may not touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFault {
    /// The page at this GPA is private to the guest: a leak or a broken guest.
    Private(u64),
    /// There is no memory at this GPA.
    Unmapped(u64),
}

/// Memory of the VM, addressed by GPA (without C bit). Every access of the host
/// side goes through these methods; words are naturally aligned.
pub trait VmMemory {
    /// Copies VM memory out.
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault>;
    /// Copies bytes into VM memory.
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault>;
    /// Atomic load, acquire.
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault>;
    /// Atomic store, release.
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault>;
    /// Atomic OR; returns the old value.
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault>;
    /// Atomic compare-exchange; `true` if it took place.
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault>;
    /// Full barrier.
    fn fence(&self);
}

macro_rules! forward {
    ($($t:ty),*) => {$(
        impl<M: VmMemory + ?Sized> VmMemory for $t {
            fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
                (**self).read(gpa, dst)
            }
            fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
                (**self).write(gpa, src)
            }
            fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
                (**self).load_u32(gpa)
            }
            fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
                (**self).store_u32(gpa, value)
            }
            fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
                (**self).fetch_or_u32(gpa, bits)
            }
            fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
                (**self).compare_exchange_u32(gpa, from, to)
            }
            fn fence(&self) {
                (**self).fence()
            }
        }
    )*};
}
forward!(&M, Rc<M>, Arc<M>);

/// Plain memory for tests that run host and client in one thread. Pages can be
/// marked private; a touched private page is remembered.
#[derive(Debug)]
pub struct VecMemory {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: alloc::vec::Vec<u8>,
    private: alloc::collections::BTreeSet<u64>,
    refused: u64,
}

impl VecMemory {
    /// Zeroed memory at GPA 0, all of it shared. `size` in bytes.
    pub fn new(size: usize) -> Self {
        VecMemory {
            inner: RefCell::new(Inner {
                bytes: alloc::vec![0; size],
                private: Default::default(),
                refused: 0,
            }),
        }
    }

    /// Makes one 4 KiB page private or shared to the host side.
    pub fn set_private(&self, gpa: u64, private: bool) {
        let mut inner = self.inner.borrow_mut();
        if private {
            inner.private.insert(gpa >> 12);
        } else {
            inner.private.remove(&(gpa >> 12));
        }
    }

    /// How many accesses to private pages were refused.
    pub fn refused(&self) -> u64 {
        self.inner.borrow().refused
    }

    /// The guest's own access, private pages included. Runs `f` on the bytes;
    /// `None` if the range does not exist.
    pub fn guest<R>(&self, gpa: u64, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let start = usize::try_from(gpa).ok()?;
        let end = start.checked_add(len)?;
        self.inner.borrow_mut().bytes.get_mut(start..end).map(f)
    }

    fn with<R>(
        &self,
        gpa: u64,
        len: usize,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, MemoryFault> {
        let mut inner = self.inner.borrow_mut();
        let last = gpa.saturating_add(len.saturating_sub(1) as u64);
        if !inner.private.is_empty()
            && let Some(page) = (gpa >> 12..=last >> 12).find(|p| inner.private.contains(p))
        {
            inner.refused += 1;
            return Err(MemoryFault::Private(page << 12));
        }
        let start = usize::try_from(gpa).unwrap_or(usize::MAX);
        start
            .checked_add(len)
            .and_then(|end| inner.bytes.get_mut(start..end))
            .map(f)
            .ok_or(MemoryFault::Unmapped(gpa))
    }

    fn word<R>(&self, gpa: u64, f: impl FnOnce(&mut u32) -> R) -> Result<R, MemoryFault> {
        if !gpa.is_multiple_of(4) {
            return Err(MemoryFault::Unmapped(gpa));
        }
        self.with(gpa, 4, |b| {
            let mut w = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let r = f(&mut w);
            b.copy_from_slice(&w.to_le_bytes());
            r
        })
    }
}

impl VmMemory for VecMemory {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        self.with(gpa, dst.len(), |b| dst.copy_from_slice(b))
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        self.with(gpa, src.len(), |b| b.copy_from_slice(src))
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        self.word(gpa, |w| *w)
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        self.word(gpa, |w| *w = value)
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        self.word(gpa, |w| core::mem::replace(w, *w | bits))
    }
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        self.word(gpa, |w| {
            let same = *w == from;
            if same {
                *w = to;
            }
            same
        })
    }
    fn fence(&self) {}
}
