//! Indices that the host has chosen (SYS-04).
//!
//! A bounds check alone does not hold while the processor guesses: behind a
//! branch that was predicted wrongly it may still read at the host's index, and
//! the cache remembers where that was (Spectre, variant 1). Here the index is
//! also masked by arithmetic, so that even a guess stays inside the table. It is
//! the same arithmetic as in Linux's `array_index_mask_nospec`, generic version.

use core::hint::black_box;

/// All ones if `index < bound`, else zero, without a branch. Both are far below
/// `isize::MAX`, as sizes of tables are; above it the answer is zero.
#[inline]
fn mask(index: usize, bound: usize) -> usize {
    // The compiler knows from the check before that the mask is all ones, and
    // would leave it out if it could see the index.
    let index = black_box(index);
    let inside = !(index | bound.wrapping_sub(1).wrapping_sub(index));
    // Spreads the sign over all bits.
    (inside.cast_signed() >> (usize::BITS.wrapping_sub(1))).cast_unsigned()
}

/// `index`, if it is below `bound`; a processor that guesses otherwise uses 0.
#[inline]
pub fn confine(index: usize, bound: usize) -> Option<usize> {
    (index < bound).then(|| index & mask(index, bound))
}

/// The `len` bytes at `start`, if they lie inside `bytes`; a processor that
/// guesses otherwise sees none of what lies behind them.
#[inline]
pub fn part(bytes: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    let past = bytes.len().checked_add(1)?;
    let end = start.checked_add(len)?;
    if end >= past {
        return None;
    }
    // Both ends: a guess that is wrong about the end sees nothing at all.
    let mask = mask(end, past);
    let (start, end) = (start & mask, end & mask);
    bytes.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_04_the_mask_is_all_or_nothing() {
        let sizes = [1, 2, 3, 29, 64, 2048, 0x1000, usize::MAX / 2];
        for bound in sizes {
            for index in [0, 1, bound / 2, bound - 1] {
                if index < bound {
                    assert_eq!(mask(index, bound), usize::MAX, "{index} {bound}");
                    assert_eq!(confine(index, bound), Some(index));
                }
            }
            // What a wrong guess would use.
            for index in [bound, bound + 1, 2 * bound, usize::MAX / 2 + 1, usize::MAX] {
                assert_eq!(mask(index, bound), 0, "{index} {bound}");
                assert_eq!(confine(index, bound), None);
            }
        }
        assert_eq!((mask(0, 0), confine(0, 0)), (0, None));
    }

    #[test]
    fn sys_04_a_part_lies_inside() {
        let bytes = [1, 2, 3, 4];
        assert_eq!(part(&bytes, 1, 2), Some(&[2, 3][..]));
        assert_eq!(part(&bytes, 0, 4), Some(&bytes[..]));
        assert_eq!(part(&bytes, 4, 0), Some(&[][..]));
        for (start, len) in [(0, 5), (4, 1), (5, 0), (1, usize::MAX), (usize::MAX, 0)] {
            assert_eq!(part(&bytes, start, len), None, "{start} {len}");
        }
    }
}
