//! Ring indices: what the host wrote into the control page of a ring, judged
//! against our own indices.
//!
//! An index is a byte offset into the data area. Equal indices mean an empty
//! ring, so at least 8 bytes always stay free. All sums are on values that were
//! judged here: below the data size, which is at most 1 GiB, so nothing wraps
//! in 32 bits (RNG-16).

use crate::{Judged, Rule, Violation};
use abi::vmbus::{
    PACKET_MIN_SIZE, PAGE_SIZE, RING_GAP, RING_PENDING_SEND_SIZE, RING_READ_INDEX, RING_WRITE_INDEX,
};

/// Size of a ring's data area in bytes: whole pages, at most 1 GiB (RNG-10:
/// ours, never read from the shared page).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSize(u32);

impl DataSize {
    /// A data area of this many pages.
    pub fn pages(pages: usize) -> Option<DataSize> {
        let bytes = pages.checked_mul(PAGE_SIZE)?;
        (bytes != 0 && bytes <= 1 << 30).then(|| u32::try_from(bytes).ok().map(DataSize))?
    }

    /// Bytes.
    #[inline]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Most bytes that can be in use at a time.
    #[inline]
    pub const fn capacity(self) -> u32 {
        self.0.saturating_sub(RING_GAP as u32)
    }

    /// The index `by` bytes after `index`; both are at most the size.
    #[inline]
    pub const fn advance(self, index: u32, by: u32) -> u32 {
        let sum = index.wrapping_add(by);
        if sum >= self.0 {
            sum.wrapping_sub(self.0)
        } else {
            sum
        }
    }

    /// Bytes from `from` forward to `to`; both below the size.
    #[inline]
    pub const fn distance(self, from: u32, to: u32) -> u32 {
        if to >= from {
            to.wrapping_sub(from)
        } else {
            self.0.wrapping_sub(from).wrapping_add(to)
        }
    }
}

/// Bytes that the host has written and we have not taken.
///
/// `published` is the read index that the host knows of, `taken` what we have
/// read beyond it, `known` what was left at the last look, less what was taken
/// since, and `write_index` what the host's index says now.
#[inline]
pub fn available(
    size: DataSize,
    published: u32,
    taken: u32,
    known: u32,
    write_index: u32,
) -> Result<u32, Violation> {
    let broken = |rule| Err(Violation::new(rule, RING_WRITE_INDEX, write_index));
    if write_index >= size.0 {
        return broken(Rule::RNG_02);
    }
    if !write_index.is_multiple_of(8) {
        return broken(Rule::RNG_03);
    }
    // Room that was not given back yet cannot have been written to: the host's
    // index may neither fall behind what it wrote nor enter what we took.
    let Some(available) = size.distance(published, write_index).checked_sub(taken) else {
        return broken(Rule::RNG_06);
    };
    if available < known {
        return broken(Rule::RNG_06);
    }
    if available != 0 && (available as usize) < PACKET_MIN_SIZE {
        return broken(Rule::RNG_08);
    }
    Ok(available)
}

/// Bytes that we have written and the host has not read.
///
/// `write` is our write index, `known` what was in use at the last look plus
/// what was written since, `unpublished` the part of it that the host was not
/// yet told of, and `read_index` what the host's index says now.
#[inline]
pub fn in_use(
    size: DataSize,
    write: u32,
    known: u32,
    unpublished: u32,
    read_index: u32,
) -> Result<u32, Violation> {
    let broken = |rule| Err(Violation::new(rule, RING_READ_INDEX, read_index));
    if read_index >= size.0 || !read_index.is_multiple_of(8) {
        return broken(Rule::RNG_04);
    }
    let used = size.distance(read_index, write);
    if used > known || used < unpublished {
        return broken(Rule::RNG_05);
    }
    Ok(used)
}

/// Free bytes that a blocked host waits to be exceeded; `None` if it does not wait.
#[inline]
pub fn pending_send_size(size: DataSize, raw: u32) -> Judged<Option<u32>> {
    if raw == 0 {
        return Judged::clean(None);
    }
    // Some hosts write the ring's size less 1: "tell me when it is empty".
    let rounded = raw & !7;
    if rounded > size.capacity() {
        let noted = Violation::new(Rule::RNG_15, RING_PENDING_SEND_SIZE, raw);
        return Judged {
            value: Some(size.capacity()),
            noted: Some(noted),
        };
    }
    Judged::clean(Some(rounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: DataSize = DataSize(8192);

    fn rule<T: core::fmt::Debug>(result: Result<T, Violation>) -> Rule {
        result.unwrap_err().rule
    }

    #[test]
    fn rng_02_write_index_below_the_size() {
        assert_eq!(rule(available(SIZE, 0, 0, 0, 8192)), Rule::RNG_02);
        assert_eq!(rule(available(SIZE, 0, 0, 0, u32::MAX)), Rule::RNG_02);
        assert_eq!(available(SIZE, 0, 0, 0, 8184), Ok(8184));
    }

    #[test]
    fn rng_03_write_index_a_multiple_of_8() {
        assert_eq!(rule(available(SIZE, 0, 0, 0, 0x13)), Rule::RNG_03);
        assert_eq!(available(SIZE, 0, 0, 0, 0x18), Ok(0x18));
    }

    #[test]
    fn rng_04_read_index_below_the_size_and_a_multiple_of_8() {
        assert_eq!(rule(in_use(SIZE, 64, 64, 0, 0xffff_fff8)), Rule::RNG_04);
        assert_eq!(rule(in_use(SIZE, 64, 64, 0, 8192)), Rule::RNG_04);
        assert_eq!(rule(in_use(SIZE, 64, 64, 0, 12)), Rule::RNG_04);
        assert_eq!(in_use(SIZE, 64, 64, 0, 16), Ok(48));
    }

    #[test]
    fn rng_05_read_index_only_moves_forward() {
        // Two packets written, one consumed; then the host takes 64 bytes back.
        assert_eq!(in_use(SIZE, 128, 128, 0, 64), Ok(64));
        assert_eq!(rule(in_use(SIZE, 128, 64, 0, 0)), Rule::RNG_05);
        // Past our write index is "backwards" too.
        assert_eq!(rule(in_use(SIZE, 128, 64, 0, 136)), Rule::RNG_05);
        // And so is into what was not published.
        assert_eq!(rule(in_use(SIZE, 128, 128, 32, 104)), Rule::RNG_05);
        assert_eq!(in_use(SIZE, 128, 128, 32, 96), Ok(32));
    }

    #[test]
    fn rng_06_write_index_only_moves_forward() {
        assert_eq!(available(SIZE, 8000, 0, 0, 100 & !7), Ok(288));
        assert_eq!(rule(available(SIZE, 8000, 0, 288, 64)), Rule::RNG_06);
        assert_eq!(available(SIZE, 8000, 0, 288, 96), Ok(288));
        // 96 of the 288 bytes were taken and not yet given back.
        assert_eq!(available(SIZE, 8000, 96, 192, 96), Ok(192));
        assert_eq!(rule(available(SIZE, 8000, 96, 192, 8000)), Rule::RNG_06);
    }

    #[test]
    fn rng_08_nothing_or_a_whole_packet() {
        assert_eq!(rule(available(SIZE, 8, 0, 0, 16)), Rule::RNG_08);
        assert_eq!(rule(available(SIZE, 8, 0, 0, 24)), Rule::RNG_08);
        assert_eq!(available(SIZE, 8, 0, 0, 32), Ok(24));
        assert_eq!(available(SIZE, 8, 0, 0, 8), Ok(0));
        assert_eq!(rule(available(SIZE, 8, 24, 0, 40)), Rule::RNG_08);
        assert_eq!(available(SIZE, 8, 24, 0, 32), Ok(0));
    }

    #[test]
    fn rng_15_pending_send_size_is_clamped() {
        let judged = pending_send_size(SIZE, u32::MAX);
        assert_eq!(judged.value, Some(8184));
        assert_eq!(judged.noted.unwrap().rule, Rule::RNG_15);
        // Ring size less one means "empty" and is legal.
        assert_eq!(pending_send_size(SIZE, 8191), Judged::clean(Some(8184)));
        assert_eq!(pending_send_size(SIZE, 100), Judged::clean(Some(96)));
        assert_eq!(pending_send_size(SIZE, 0), Judged::clean(None));
    }

    #[test]
    fn a_data_area_has_whole_pages() {
        assert_eq!(DataSize::pages(0), None);
        assert_eq!(DataSize::pages(1).unwrap().bytes(), 4096);
        assert_eq!(DataSize::pages(1 << 18).unwrap().bytes(), 1 << 30);
        assert_eq!(DataSize::pages((1 << 18) + 1), None);
        assert_eq!(DataSize::pages(usize::MAX), None);
    }
}
