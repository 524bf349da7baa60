//! The heap: a fixed piece of private RAM behind a lock.
//!
//! `unsafe` because the allocator interface is, and because the heap is given
//! its memory by address. An allocation that does not fit ends in a panic record
//! (`alloc` offers nothing else on stable); callers allocate at start and bounded
//! amounts later, nothing whose size a neighbour chooses.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use linked_list_allocator::Heap;
use loader::layout;
use paravisor_core::account::Heap as Usage;
use spin::Mutex;

struct PrivateHeap(Mutex<Heap>);

/// Most bytes that were ever in use; written with the heap's lock held.
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: PrivateHeap = PrivateHeap(Mutex::new(Heap::empty()));

// SAFETY: allocations come from `Heap`, which keeps its blocks apart; the lock
// keeps two allocations apart. Interrupt handlers do not allocate.
unsafe impl GlobalAlloc for PrivateHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        match heap.allocate_first_fit(layout) {
            Ok(block) => {
                PEAK.fetch_max(heap.used(), Ordering::Relaxed);
                block.as_ptr()
            }
            Err(()) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller returns a block of this allocator with its layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}

/// Takes the heap's memory into use; a second call changes nothing.
pub fn init() {
    let mut heap = HEAP.0.lock();
    if heap.size() == 0 {
        // SAFETY: the range is mapped, validated and zeroed by the stage, and the
        // layout gives it to nobody else; the size check keeps this to one time.
        unsafe { heap.init(layout::HEAP.start as *mut u8, layout::HEAP.len() as usize) };
    }
}

/// Bytes in use now, and at most so far.
pub fn usage() -> Usage {
    let used = HEAP.0.lock().used();
    Usage {
        used: used as u64,
        peak: PEAK.load(Ordering::Relaxed) as u64,
    }
}
