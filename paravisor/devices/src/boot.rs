//! What the loader of a Linux guest must know about this platform.

use alloc::string::String;

/// Command line parameters that tell Linux the rate of the TSC, with a leading
/// space: ` tsc_early_khz=2594000 tsc=reliable`. See the head of this crate.
pub fn clock_parameters(tsc_hz: u64) -> String {
    alloc::format!(" tsc_early_khz={} tsc=reliable", tsc_hz / 1000)
}
