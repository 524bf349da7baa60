//! Rings for the model: the index words are loom's atomics, so that loom tries
//! every order of loads and stores that the memory model allows, stale values
//! included; the first bytes of data are loom's cells, so that a byte that is read
//! while the other side may write it ends the test.

use abi::vmbus::{
    RING_FEATURE_BITS, RING_HEADER_SIZE, RING_INTERRUPT_MASK, RING_PENDING_SEND_SIZE,
    RING_READ_INDEX, RING_WRITE_INDEX,
};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use memory::{OutOfRange, SharedMemory};
use std::sync::Arc;

/// Bytes of a ring with its control page: the smallest that there is.
pub const RING: usize = 2 * RING_HEADER_SIZE;
/// Bytes of data at the start of each ring that are watched.
const WATCHED: usize = 128;

/// One ring.
pub struct Ring {
    pub write: AtomicU32,
    pub read: AtomicU32,
    pub mask: AtomicU32,
    pub pending: AtomicU32,
    data: Option<Vec<UnsafeCell<[u8; 8]>>>,
}

// SAFETY: the cells are reached by `put` and `get` only, which loom watches.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(watched: bool) -> Ring {
        let cells = || (0..WATCHED / 8).map(|_| UnsafeCell::new([0; 8])).collect();
        Ring {
            write: AtomicU32::new(0),
            read: AtomicU32::new(0),
            mask: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            data: watched.then(cells),
        }
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        match offset {
            RING_WRITE_INDEX => Some(&self.write),
            RING_READ_INDEX => Some(&self.read),
            RING_INTERRUPT_MASK => Some(&self.mask),
            RING_PENDING_SEND_SIZE => Some(&self.pending),
            _ => None,
        }
    }

    /// Writes data, whole words of 8 bytes.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at.is_multiple_of(8) && bytes.len().is_multiple_of(8));
        for (index, word) in bytes.chunks(8).enumerate() {
            if let Some(cell) = self.cell(at / 8 + index) {
                cell.with_mut(|to| {
                    // SAFETY: nobody else has the cell now: loom checks exactly that.
                    let to = unsafe { &mut *to };
                    to[..word.len()].copy_from_slice(word);
                });
            }
        }
    }

    /// Reads data, whole words of 8 bytes. Zeros where nothing is watched.
    pub fn get(&self, at: usize, bytes: &mut [u8]) {
        assert!(at.is_multiple_of(8) && bytes.len().is_multiple_of(8));
        for (index, word) in bytes.chunks_mut(8).enumerate() {
            word.fill(0);
            if let Some(cell) = self.cell(at / 8 + index) {
                // SAFETY: nobody writes the cell now: loom checks exactly that.
                cell.with(|from| word.copy_from_slice(unsafe { &(&*from)[..word.len()] }));
            }
        }
    }

    fn cell(&self, index: usize) -> Option<&UnsafeCell<[u8; 8]>> {
        self.data.as_ref()?.get(index)
    }
}

/// Both rings as the paravisor sees them, outgoing first.
#[derive(Clone)]
pub struct Shared {
    pub rings: Arc<[Ring; 2]>,
    /// What [`SharedMemory::fence`] is. Without it the tests must fail.
    fences: bool,
}

impl Shared {
    /// Rings whose data is watched.
    pub fn new(fences: bool) -> Shared {
        let rings = Arc::new([Ring::new(true), Ring::new(true)]);
        Shared { rings, fences }
    }

    /// Rings in which anybody may write anything at any time.
    pub fn unwatched() -> Shared {
        let rings = Arc::new([Ring::new(false), Ring::new(false)]);
        Shared {
            rings,
            fences: true,
        }
    }

    /// Ring of an offset, and the offset in it.
    fn at(&self, offset: usize, len: usize) -> Result<(usize, usize), OutOfRange> {
        let (ring, at) = (offset / RING, offset % RING);
        if ring > 1 || at + len > RING {
            return Err(OutOfRange);
        }
        Ok((ring, at))
    }

    fn data(&self, offset: usize, len: usize) -> Result<(&Ring, usize), OutOfRange> {
        let (ring, at) = self.at(offset, len)?;
        assert!(at >= RING_HEADER_SIZE, "bytes of a control page");
        Ok((&self.rings[ring], at - RING_HEADER_SIZE))
    }
}

impl SharedMemory for Shared {
    fn len(&self) -> usize {
        2 * RING
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        Some(index as u64)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let (ring, at) = self.data(offset, dst.len())?;
        assert_eq!(offset / RING, 1, "RNG-29: our own data is read back");
        ring.get(at, dst);
        Ok(())
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        let (ring, at) = self.data(offset, src.len())?;
        assert_eq!(offset / RING, 0, "data is written into the host's ring");
        ring.put(at, src);
        Ok(())
    }
    fn zero(&self, _: usize, _: usize) -> Result<(), OutOfRange> {
        // They are new.
        Ok(())
    }
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        let (ring, at) = self.at(offset, 4)?;
        let ours = [RING_WRITE_INDEX, RING_READ_INDEX][ring];
        assert_ne!(at, ours, "RNG-01: our own index is read back");
        let word = self.rings[ring].word(at).expect("RNG-11: a reserved word");
        Ok(word.load(Ordering::Acquire))
    }
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        let (ring, at) = self.at(offset, 4)?;
        if at != RING_FEATURE_BITS {
            let word = self.rings[ring].word(at).expect("a reserved word");
            word.store(value, Ordering::Release);
        }
        Ok(())
    }
    fn compare_exchange_u32(&self, _: usize, _: u32, _: u32) -> Result<bool, OutOfRange> {
        unreachable!("rings need none")
    }
    fn take_u64(&self, _: usize) -> Result<u64, OutOfRange> {
        unreachable!("rings need none")
    }
    fn fence(&self) {
        if self.fences {
            fence(Ordering::SeqCst);
        }
    }
}
