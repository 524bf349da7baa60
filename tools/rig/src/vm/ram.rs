//! The VM's memory as the emulated hardware reaches it: page walks, instruction
//! fetch, VMSA, the loader. The host side has [`super::vmmem`] instead; nothing
//! outside of `vm` can name this type's accessors.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};

/// One contiguous piece of the machine's memory, guest frame 0 first.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    base: u64,
    size: u64,
}

impl Ram {
    /// `base` and `size` from the memory plan.
    pub fn new(base: u64, size: u64) -> Ram {
        Ram { base, size }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn at(&self, gpa: u64, len: usize) -> Option<*mut u8> {
        let end = gpa.checked_add(len as u64)?;
        (end <= self.size).then(|| (self.base + gpa) as *mut u8)
    }

    /// Copies out; `false` if the range does not exist.
    pub(super) fn read(&self, gpa: u64, to: &mut [u8]) -> bool {
        let Some(from) = self.at(gpa, to.len()) else {
            return false;
        };
        // SAFETY: the range lies in the VM's memory, which no Rust reference
        // points to. Other VPs may write there meanwhile: what is read is some mix of
        // old and new bytes, and the fence keeps the compiler from looking twice.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Copies in; `false` if the range does not exist.
    pub(super) fn write(&self, gpa: u64, from: &[u8]) -> bool {
        let Some(to) = self.at(gpa, from.len()) else {
            return false;
        };
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        true
    }

    /// A little-endian word of 4 or 8 bytes, as an entry of a page table: in one piece
    /// where it is aligned, whatever another VP writes there.
    pub(super) fn word(&self, gpa: u64, len: usize) -> Option<u64> {
        if len == 8 && gpa.is_multiple_of(8) {
            let at: *mut u64 = self.at(gpa, 8)?.cast();
            // SAFETY: aligned, inside of the VM's memory, accessed as in `atomic`.
            return Some(unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Acquire));
        }
        let mut bytes = [0; 8];
        self.read(gpa, bytes.get_mut(..len)?)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// Makes a page unreadable, as a change of its owner does with encrypted
    /// memory.
    pub(super) fn scramble(&self, gfn: u64, seed: u64) {
        let mut x = seed ^ gfn.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut page = [0u8; 4096];
        for word in page.chunks_exact_mut(8) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            word.copy_from_slice(&x.to_le_bytes());
        }
        self.write(gfn << 12, &page);
    }

    /// An aligned word for atomic access.
    pub(super) fn atomic(&self, gpa: u64) -> Option<&AtomicU32> {
        if !gpa.is_multiple_of(4) {
            return None;
        }
        let at = self.at(gpa, 4)?;
        // SAFETY: aligned, inside of the VM's memory, which lives as long as the
        // rig and is otherwise accessed by raw copies only.
        Some(unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// Full barrier towards the other accessors.
    pub(super) fn fence(&self) {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}
