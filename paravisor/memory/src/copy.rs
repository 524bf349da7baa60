//! Copies between private memory and memory that somebody else may change meanwhile.
//!
//! `unsafe` is needed because a Rust reference to such memory would promise that it
//! stays as it is. Every byte is read once and written once, by instructions in inline
//! assembly, which the compiler can neither split, repeat nor elide.
//!
//! Small copies are moves of 8 bytes and less, each a single access if it is aligned, so
//! that nobody sees an index half written:
//! to start a string instruction costs about as much as to move half a kilobyte
//! (docs/speed.md), and an emulator pays for each repetition of one.
//!
//! What the other side writes meanwhile may be in the copy or not, byte by byte, and is
//! judged there: nothing is read again to complete or compare. An access that faults
//! half way across two pages starts anew before anything of it was kept; a string
//! instruction goes on where an interrupt stopped it. The assembly may touch any memory
//! as far as the compiler knows, so no other access moves across it, and it relies on
//! the direction flag only where Rust promises it clear.
#![allow(unsafe_code)]

/// Longer copies are string instructions. Measured on a processor of 2021 (AMD family
/// 25, its other thread busy): moves take half the time of `rep movsq` at 256 bytes,
/// but more of it from 768 on. `rep movsb` takes three times as long.
#[cfg(not(miri))]
const STRING: usize = 640;
/// Bytes of the largest step by moves, and of the next.
#[cfg(not(miri))]
const STEPS: [usize; 2] = [64, 32];

/// Copies `len` bytes.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap. No
/// Rust reference is kept to the side that may change.
#[cfg(not(miri))]
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // Pointers advance as numbers do: a guest's page 0 is as good as any other.
    let mut done = 0_usize;
    if len > STRING {
        // SAFETY: whole words of the range that the caller vouches for.
        unsafe { step::string(from, to, len >> 3) };
        done = len & !7;
    }
    let [large, half] = STEPS;
    while len.wrapping_sub(done) >= large {
        let (from, to) = (from.wrapping_add(done), to.wrapping_add(done));
        // SAFETY: as many bytes are left.
        unsafe {
            step::half_line(from, to);
            step::half_line(from.wrapping_add(half), to.wrapping_add(half));
        }
        done = done.wrapping_add(large);
    }
    if len.wrapping_sub(done) >= half {
        // SAFETY: as many bytes are left.
        unsafe { step::half_line(from.wrapping_add(done), to.wrapping_add(done)) };
        done = done.wrapping_add(half);
    }
    while len.wrapping_sub(done) >= 8 {
        // SAFETY: as above.
        unsafe { step::word(from.wrapping_add(done), to.wrapping_add(done)) };
        done = done.wrapping_add(8);
    }
    if len & 7 != 0 {
        // SAFETY: as above; fewer than 8 bytes are left.
        unsafe { rest(from.wrapping_add(done), to.wrapping_add(done), len & 7) };
    }
}

/// Copies fewer than 8 bytes.
///
/// # Safety
/// As [`copy`].
#[cfg(not(miri))]
#[inline]
unsafe fn rest(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0_usize;
    if len & 4 != 0 {
        // SAFETY: the caller vouches for `len` bytes, of which these are the first.
        unsafe { step::half(from, to) };
        done = 4;
    }
    if len & 2 != 0 {
        // SAFETY: as above, the next.
        unsafe { step::pair(from.wrapping_add(done), to.wrapping_add(done)) };
        done = done.wrapping_add(2);
    }
    if len & 1 != 0 {
        // SAFETY: as above, the last.
        unsafe { step::byte(from.wrapping_add(done), to.wrapping_add(done)) };
    }
}

/// Writes `len` zeros.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[cfg(not(miri))]
#[inline]
pub unsafe fn zero(to: *mut u8, len: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: as the caller promises.
    unsafe { step::zeros(to, len) };
}

/// What is done at a time. Every function: the pointers are good for all bytes it is
/// named for.
#[cfg(not(miri))]
mod step {
    use core::arch::asm;

    macro_rules! moves {
        ($name:ident, $class:ident, $text:literal) => {
            #[inline(always)]
            pub(super) unsafe fn $name(from: *const u8, to: *mut u8) {
                // SAFETY: by the caller.
                unsafe {
                    asm!(
                        concat!("mov ", $text, ", [{from}]"),
                        concat!("mov [{to}], ", $text),
                        value = out($class) _,
                        from = in(reg) from,
                        to = in(reg) to,
                        options(nostack, preserves_flags),
                    );
                }
            }
        };
    }

    moves!(word, reg, "{value:r}");
    moves!(half, reg, "{value:e}");
    moves!(pair, reg, "{value:x}");
    moves!(byte, reg_byte, "{value}");

    #[inline(always)]
    pub(super) unsafe fn half_line(from: *const u8, to: *mut u8) {
        // SAFETY: by the caller.
        unsafe {
            asm!(
                "mov {a}, [{from}]",
                "mov {b}, [{from} + 8]",
                "mov {c}, [{from} + 16]",
                "mov {d}, [{from} + 24]",
                "mov [{to}], {a}",
                "mov [{to} + 8], {b}",
                "mov [{to} + 16], {c}",
                "mov [{to} + 24], {d}",
                a = out(reg) _,
                b = out(reg) _,
                c = out(reg) _,
                d = out(reg) _,
                from = in(reg) from,
                to = in(reg) to,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    pub(super) unsafe fn string(from: *const u8, to: *mut u8, words: usize) {
        // SAFETY: by the caller; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep movsq", inout("rcx") words => _, inout("rsi") from => _,
                 inout("rdi") to => _, options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    pub(super) unsafe fn zeros(to: *mut u8, len: usize) {
        // SAFETY: by the caller; the direction flag is clear by the ABI; the second
        // part goes on where the first has stopped.
        unsafe {
            asm!("rep stosq", "mov rcx, {rest}", "rep stosb", rest = in(reg) len & 7,
                 inout("rcx") len >> 3 => _, inout("rdi") to => _, in("rax") 0_u64,
                 options(nostack, preserves_flags));
        }
    }
}

/// For Miri, which cannot run assembly: the copy that has the same conditions, at a cost
/// that lets whole pages be tested.
///
/// # Safety
/// As without Miri.
#[cfg(miri)]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: by the caller.
    unsafe { from.copy_to_nonoverlapping(to, len) }
}

/// The same for zeros.
///
/// # Safety
/// As without Miri.
#[cfg(miri)]
pub unsafe fn zero(to: *mut u8, len: usize) {
    // SAFETY: by the caller.
    unsafe { to.write_bytes(0, len) }
}

/// The same value, of which the compiler knows nothing afterwards. Costs nothing,
/// unlike `black_box`, which takes the way through memory.
#[inline(always)]
pub fn hidden(value: usize) -> usize {
    #[cfg(not(miri))]
    {
        let mut value = value;
        // SAFETY: no instruction at all.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(miri)]
    core::hint::black_box(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    /// Every length up to well beyond each change of method, at every alignment of
    /// both sides: the bytes arrive, and none beside them is touched.
    #[test]
    fn every_length_and_alignment() {
        let lengths =
            (0..=100).chain([127, 128, 129, 511, 512, 639, 640, 641, 647, 648, 1000, 1514]);
        let source: Vec<u8> = (0..2000).map(|at| (at % 251) as u8 | 1).collect();
        for len in lengths {
            for (from, to) in (0..8).flat_map(|from| (0..8).map(move |to| (from, to))) {
                if cfg!(miri) && (len > 48 || (from * 3 + to + len) % 16 != 0) {
                    continue;
                }
                let mut target = vec![0_u8; len + 24];
                // SAFETY: both lie inside their vectors.
                unsafe {
                    copy(
                        source.as_ptr().add(from),
                        target.as_mut_ptr().add(8 + to),
                        len,
                    )
                };
                let (before, rest) = target.split_at(8 + to);
                let (copied, behind) = rest.split_at(len);
                assert_eq!(copied, &source[from..][..len]);
                assert!(before.iter().chain(behind).all(|byte| *byte == 0), "{len}");
                target.fill(0xff);
                // SAFETY: as above.
                unsafe { zero(target.as_mut_ptr().add(8 + to), len) };
                let touched =
                    |(at, byte): (usize, &u8)| (*byte == 0) == (8 + to..8 + to + len).contains(&at);
                assert!(target.iter().enumerate().all(touched), "{len}");
            }
        }
        assert_eq!(hidden(77), 77);
    }
}
