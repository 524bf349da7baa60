//! The first stage: the first instructions of the VM at VMPL0.
//!
//! It starts in 64-bit mode on measured page tables, with no stack, no IDT and
//! an FPU in unknown state, and trusts nothing else. It makes the private RAM
//! usable (PVALIDATE, then zero), checks the measured configuration page and
//! jumps to the paravisor with RDI = address of that page and RSP = top of the
//! boot stack. Whatever fails ends the VM by the GHCB MSR protocol.
#![no_std]
#![no_main]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

mod hw;

use abi::record::Outcome;
use abi::snp::rc;
use undercroft_loader::config::Config;
use undercroft_loader::layout::{self, Range};

/// Called once by the entry code in [`hw`], on the stage's own stack.
extern "C" fn stage_main() -> ! {
    match bring_up() {
        Ok(entry) => hw::enter_paravisor(entry),
        Err(outcome) => hw::terminate(outcome),
    }
}

/// Prepares all that the paravisor expects; returns its entry point.
fn bring_up() -> Result<u64, Outcome> {
    let config = Config::from_page(hw::config_page()).map_err(|_| Outcome::BadConfig)?;
    // The guard page between the two stays unvalidated and unmapped.
    for range in [layout::HEAP, layout::BOOT_STACK] {
        accept(range)?;
    }
    Ok(config.paravisor_entry)
}

/// Takes ownership of a range. It was never validated before, so a page that
/// claims to be valid already is another page put in its place: stop.
fn accept(range: Range) -> Result<(), Outcome> {
    let mut page = range.start;
    while page < range.end {
        let answer = hw::pvalidate(page);
        if answer.code != rc::SUCCESS || answer.unchanged {
            return Err(Outcome::MemoryFailure);
        }
        // The host chose what is in it.
        hw::zero(page);
        page = page.saturating_add(layout::PAGE);
    }
    Ok(())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    hw::terminate(Outcome::Panic)
}
