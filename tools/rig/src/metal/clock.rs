//! Time: the TSC, calibrated by the PIT together with the local APIC's timer.
#![allow(unsafe_code)]

use super::apic;
use super::io::{inb, outb};

const PIT_HZ: u64 = 1_193_182;
/// One calibration window in PIT ticks (10 ms).
const WINDOW: u64 = 11_932;
/// Fewest windows. The shortest one counts, the others were disturbed.
const WINDOWS: usize = 3;
/// Most windows, on a machine that is so busy that hardly one is left alone.
const WINDOWS_MOST: usize = 100;
/// The two shortest must agree to one part in so many.
const AGREEMENT: u64 = 100;

/// Frequencies and the start of time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Local APIC timer ticks per second.
    pub apic_hz: u64,
    /// TSC at time 0.
    pub start: u64,
    /// 100 ns units per TSC tick, times 2^64.
    scale: u64,
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and has no side effects.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn window() -> (u64, u64) {
    // Channel 2, gate low, mode 0 (output goes high when the count is reached).
    let port61 = inb(0x61) & !3;
    outb(0x61, port61);
    outb(0x43, 0xb0);
    outb(0x42, (WINDOW & 0xff) as u8);
    apic::timer(u32::MAX);
    // Looked at before anything counts (QEMU starts with the last byte of the count,
    // hardware with the gate): if the machine is stopped anywhere in here, the window
    // comes out longer than it was, never shorter, and the shortest is the best.
    let t0 = tsc();
    let a0 = apic::timer_current();
    outb(0x42, (WINDOW >> 8) as u8);
    outb(0x61, port61 | 1);
    while inb(0x61) & 0x20 == 0 {}
    let t1 = tsc();
    let a1 = apic::timer_current();
    apic::timer(0);
    outb(0x61, port61);
    (t1 - t0, u64::from(a0.wrapping_sub(a1)))
}

impl Clock {
    /// Measures. Interrupts must be off.
    pub fn calibrate() -> Clock {
        let mut best = window();
        for count in 2..=WINDOWS_MOST {
            let other = window();
            let apart = best.0.abs_diff(other.0);
            best = best.min(other);
            if count >= WINDOWS && apart <= best.0 / AGREEMENT {
                break;
            }
        }
        let tsc_hz = (best.0 * PIT_HZ / WINDOW).max(1);
        Clock {
            tsc_hz,
            apic_hz: (best.1 * PIT_HZ / WINDOW).max(1),
            start: tsc(),
            // The TSC is faster than 10 MHz, so this fits.
            scale: u64::try_from((10_000_000u128 << 64) / u128::from(tsc_hz)).unwrap_or(u64::MAX),
        }
    }

    /// Units of 100 ns since the start.
    pub fn now(&self) -> u64 {
        let ticks = tsc().wrapping_sub(self.start);
        ((u128::from(ticks) * u128::from(self.scale)) >> 64) as u64
    }

    /// Microseconds since the start.
    pub fn micros(&self) -> u64 {
        self.now() / 10
    }

    /// Programs the timer for a time in 100 ns units; at least a few microseconds
    /// from now, at most what fits.
    pub fn arm(&self, at: u64) {
        let delta = at.saturating_sub(self.now()).clamp(20, 10_000_000);
        let count = u128::from(delta) * u128::from(self.apic_hz) / 10_000_000;
        apic::timer(u32::try_from(count).unwrap_or(u32::MAX).max(1));
    }
}
