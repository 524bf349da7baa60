//! The two kinds of memory as types.
//!
//! *Shared* memory is what the host can see and change at any moment. There is
//! no reference into it: bytes leave it by one copy into a private buffer
//! ([`SharedMemory::copy_in`]) and enter it by one copy
//! ([`SharedMemory::copy_out`]); index and flag words are single atomic
//! accesses. *Guest* memory ([`GuestMemory`]) is private to the VM, but the
//! guest is hostile too and can change it while we look: the same copy rule.
#![no_std]
// Tests may panic: it is how they fail.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

pub mod copy;
#[cfg(any(test, feature = "test-support"))]
pub mod doubles;
#[cfg(any(test, feature = "test-support"))]
mod native;
mod parcel;
mod pool;
mod raw;

use alloc::sync::Arc;

#[cfg(any(test, feature = "test-support"))]
pub use native::{Native, NativeGuest};
pub use parcel::{Parcel, Piece};
pub use pool::{Backing, Owned, PoolError, Purpose, ShareFailed, SharedPool};
pub use raw::{GuestPlace, RawShared};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// An access did not lie inside the region it was made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// One contiguous region that the host can read and write at any moment.
///
/// Offsets are in bytes from the start of the region. Every method touches
/// shared memory exactly once per byte (or word) and never hands out a
/// reference. Implementations: `RawShared` in the firmware, `DoubleFetch` (each
/// byte changes after its first read) and a plain one in tests.
pub trait SharedMemory {
    /// Size of the region in bytes.
    fn len(&self) -> usize;
    /// Whether the region has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// 4 KiB frame number (GPA >> 12, without C bit) of page `index` of the region.
    fn pfn(&self, index: usize) -> Option<u64>;
    /// Copies `dst.len()` bytes at `offset` into private memory.
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange>;
    /// Copies private bytes to `offset`.
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange>;
    /// Copies private bytes to `offset`: both `heads`, each of `parts`, then `tail`, one
    /// behind the other. All of it lies inside, or nothing is written.
    fn copy_out_all(
        &self,
        offset: usize,
        heads: [&[u8]; 2],
        parts: &[&[u8]],
        tail: &[u8],
    ) -> Result<(), OutOfRange> {
        check(self.len(), offset, total(heads, parts, tail)?)?;
        let mut at = offset;
        for part in heads.iter().chain(parts).chain([&tail]) {
            self.copy_out(at, part)?;
            at = at.wrapping_add(part.len());
        }
        Ok(())
    }
    /// Writes zeros.
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange>;
    /// One atomic load with acquire ordering; `offset` is a multiple of 4.
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange>;
    /// One atomic store with release ordering; `offset` is a multiple of 4.
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange>;
    /// Atomic compare-exchange (sequentially consistent); `Ok(true)` if it took place.
    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange>;
    /// Atomically takes a 64-bit word and leaves zero; `offset` is a multiple of 8.
    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange>;
    /// Full barrier between earlier stores and later loads of shared memory.
    fn fence(&self);
    /// Copies the bytes at `offset` to a place in the guest's memory, without a stop
    /// on the way. For bytes that nobody judges. `false`: not possible here.
    fn copy_to_guest(&self, _offset: usize, _to: &GuestPlace) -> Result<bool, OutOfRange> {
        Ok(false)
    }
}

/// The guest's RAM as the paravisor sees it: guest-physical addresses as the
/// guest uses them. The paravisor's own region is not part of it.
pub trait GuestMemory {
    /// Copies guest memory into a private buffer.
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange>;
    /// Copies private bytes into guest memory.
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange>;
    /// Copies the `len` bytes at `offset` of shared memory into guest memory, each
    /// read once: by way of a private buffer, or where both are mapped in one go
    /// ([`SharedMemory::copy_to_guest`]).
    fn write_shared(
        &self,
        gpa: u64,
        from: &dyn SharedMemory,
        offset: usize,
        len: usize,
    ) -> Result<(), OutOfRange> {
        bounce(self, gpa, from, offset, len)
    }
}

/// [`GuestMemory::write_shared`] by way of a private buffer.
pub fn bounce<G: GuestMemory + ?Sized>(
    guest: &G,
    gpa: u64,
    from: &dyn SharedMemory,
    offset: usize,
    len: usize,
) -> Result<(), OutOfRange> {
    let mut buffer = [0; BOUNCE];
    let mut done = 0_usize;
    while done < len {
        let count = len.saturating_sub(done).min(BOUNCE);
        let part = buffer.get_mut(..count).ok_or(OutOfRange)?;
        from.copy_in(offset.checked_add(done).ok_or(OutOfRange)?, part)?;
        guest.write(gpa.checked_add(done as u64).ok_or(OutOfRange)?, part)?;
        done = done.saturating_add(count);
    }
    Ok(())
}

/// Private buffer of [`bounce`].
const BOUNCE: usize = 512;

/// Through what points to it.
macro_rules! by_pointer {
    ($($pointer:ty),+) => {$(
        impl<T: SharedMemory + ?Sized> SharedMemory for $pointer {
            fn len(&self) -> usize {
                (**self).len()
            }
            fn pfn(&self, index: usize) -> Option<u64> {
                (**self).pfn(index)
            }
            fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
                (**self).copy_in(offset, dst)
            }
            fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
                (**self).copy_out(offset, src)
            }
            #[inline]
            fn copy_out_all(
                &self,
                offset: usize,
                heads: [&[u8]; 2],
                parts: &[&[u8]],
                tail: &[u8],
            ) -> Result<(), OutOfRange> {
                (**self).copy_out_all(offset, heads, parts, tail)
            }
            fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
                (**self).zero(offset, len)
            }
            fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
                (**self).load_u32(offset)
            }
            fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
                (**self).store_u32(offset, value)
            }
            fn compare_exchange_u32(
                &self,
                offset: usize,
                from: u32,
                to: u32,
            ) -> Result<bool, OutOfRange> {
                (**self).compare_exchange_u32(offset, from, to)
            }
            fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
                (**self).take_u64(offset)
            }
            fn fence(&self) {
                (**self).fence();
            }
            fn copy_to_guest(&self, offset: usize, to: &GuestPlace) -> Result<bool, OutOfRange> {
                (**self).copy_to_guest(offset, to)
            }
        }
    )+};
}
// An `Arc` is a view of memory for several VPs: what is behind it goes back to its
// pool when the last has let go of it.
by_pointer!(&T, Arc<T>);

/// Bytes of all of them together.
#[inline]
fn total(heads: [&[u8]; 2], parts: &[&[u8]], tail: &[u8]) -> Result<usize, OutOfRange> {
    // Two slices and one more are less than all addresses.
    let [first, second] = heads;
    let around = first.len().saturating_add(second.len());
    let mut sum = around.saturating_add(tail.len());
    for part in parts {
        sum = sum.checked_add(part.len()).ok_or(OutOfRange)?;
    }
    Ok(sum)
}

/// `offset`, if `offset..offset + len` lies inside a region of `size` bytes. Many
/// offsets are the host's: a processor that guesses beyond the check uses 0, by
/// the same arithmetic as `validate::index` (SYS-04).
#[inline]
fn check(size: usize, offset: usize, len: usize) -> Result<usize, OutOfRange> {
    let end = offset.checked_add(len).ok_or(OutOfRange)?;
    if end > size {
        return Err(OutOfRange);
    }
    // Sign bit clear: both differences are none below zero.
    let hidden = copy::hidden(offset);
    let inside = !(hidden | size.wrapping_sub(len).wrapping_sub(hidden)).cast_signed();
    Ok(hidden & (inside >> usize::BITS.wrapping_sub(1)).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_04_ranges_of_shared_memory_are_checked_and_masked() {
        for (size, offset, len) in [
            (4096, 0, 0),
            (4096, 0, 4096),
            (4096, 4096, 0),
            (8192, 17, 9),
        ] {
            assert_eq!(check(size, offset, len), Ok(offset));
        }
        for (size, offset, len) in [
            (4096, 0, 4097),
            (4096, 4097, 0),
            (4096, 1, 4096),
            (4096, usize::MAX, 1),
            (4096, 1, usize::MAX),
        ] {
            assert_eq!(
                check(size, offset, len),
                Err(OutOfRange),
                "{size} {offset} {len}"
            );
        }
    }
}
