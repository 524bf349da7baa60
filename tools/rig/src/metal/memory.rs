//! Divides the machine's memory: the rig, its heap, frames for page tables, the
//! VM's memory, the image.
#![allow(unsafe_code)]

use super::boot::Boot;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use rig::npt::Tables;
use spin::Mutex;

/// The heap behind a lock. Interrupt handlers never allocate.
struct Locked(Mutex<Heap>);

#[global_allocator]
static HEAP: Locked = Locked(Mutex::new(Heap::empty()));

// SAFETY: forwards to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.0.lock().allocate_first_fit(layout);
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got the block from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) }
        }
    }
}

const LARGE: u64 = 0x20_0000;
/// Heap of the rig: host side queues, tables of the RMP (4 bytes per page).
const HEAP_SIZE: u64 = 24 << 20;
/// Frames that do not depend on the VM's size: upper tables, VMCBs, DMA rings.
const FIXED_FRAMES: u64 = 8 << 20;

/// Where things lie.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// First byte of the VM's memory; 2 MiB aligned.
    pub vm: u64,
    /// Bytes of it.
    pub vm_size: u64,
    frames: u64,
    frames_end: u64,
}

/// Finds room. `None`: QEMU was started with too little memory.
pub fn plan(boot: &Boot, vm_size: u64) -> Option<Plan> {
    let heap = boot.rig_end.next_multiple_of(LARGE);
    let frames = heap + HEAP_SIZE;
    // A 4 KiB table per 2 MiB, up to two views of two VMPLs.
    let frames_end = (frames + FIXED_FRAMES + vm_size / LARGE * 4 * 4096).next_multiple_of(LARGE);
    let vm = frames_end;
    let end = vm + vm_size;
    let ram = boot.memory.iter().any(|r| {
        r.kind == 1
            && r.start <= boot.rig_end
            && r.start.checked_add(r.size).is_some_and(|e| e >= end)
    });
    let image = boot.image.as_ptr() as u64;
    let command_line = boot.cmdline.as_ptr() as u64;
    let table = boot.memory.as_ptr() as u64;
    let clash = |at: u64, len: u64| len != 0 && at < end && at + len > heap;
    if !ram
        || clash(image, boot.image.len() as u64)
        || clash(command_line, boot.cmdline.len() as u64)
        || clash(table, 1)
    {
        return None;
    }
    // SAFETY: heap..frames is RAM which nothing else uses (checked above), and
    // this runs once.
    unsafe { HEAP.0.lock().init(heap as *mut u8, HEAP_SIZE as usize) };
    Some(Plan {
        vm,
        vm_size,
        frames,
        frames_end,
    })
}

/// Page frames for tables and control blocks.
pub struct Frames {
    next: u64,
    end: u64,
    /// Tables that were given back, but another core may still walk them.
    retired: Vec<u64>,
    /// Tables that were given back.
    free: Vec<u64>,
}

impl Frames {
    /// All frames of a plan.
    pub fn new(plan: &Plan) -> Frames {
        Frames {
            next: plan.frames,
            end: plan.frames_end,
            retired: Vec::new(),
            free: Vec::new(),
        }
    }

    /// `count` zeroed frames in a row.
    pub fn take(&mut self, count: u64) -> Option<u64> {
        let at = self.next;
        let next = at + count * 4096;
        if next > self.end {
            return None;
        }
        self.next = next;
        // SAFETY: the range is RAM that belongs to this allocator alone.
        unsafe { core::ptr::write_bytes(at as *mut u8, 0, (count * 4096) as usize) };
        Some(at)
    }

    /// No core is in its guest: tables that were given back may be used again.
    pub fn reuse(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Bytes handed out so far.
    pub fn used(&self, plan: &Plan) -> u64 {
        self.next - plan.frames
    }
}

impl Tables for Frames {
    fn allocate(&mut self) -> Option<u64> {
        let Some(table) = self.free.pop() else {
            return self.take(1);
        };
        for i in 0..512 {
            self.set(table, i, 0);
        }
        Some(table)
    }

    fn release(&mut self, table: u64) {
        self.retired.push(table);
    }

    fn get(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `table` came from `allocate` and index is below 512 (9 bits of
        // an address); tables are accessed by this type only.
        unsafe { (table as *const u64).add(index & 0x1ff).read_volatile() }
    }

    fn set(&mut self, table: u64, index: usize, entry: u64) {
        // SAFETY: as above.
        unsafe { (table as *mut u64).add(index & 0x1ff).write_volatile(entry) }
    }
}
