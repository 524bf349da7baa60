//! What only the firmware has: the entry, the processor's tables, exceptions,
//! the heap, and the windows through which memory is reached.
//!
//! `unsafe` lives in these modules and in `platform::snp::hardware`, nowhere else.

pub mod entry;
pub mod heap;
pub mod log;
pub mod memory;
pub mod percpu;
pub mod tables;
pub mod traps;

/// The time stamp counter. VMPL0 reads it natively.
#[allow(unsafe_code, reason = "an instruction has no other name")]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
