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

/// Bytes of the page that one entry of the RMP may describe besides 4 KiB.
const LARGE_PAGE: u64 = 0x20_0000;

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

/// Takes ownership of a range, 2 MiB at a time where the hardware keeps it so. It
/// was never validated before, so a page that claims to be valid already is another
/// page put in its place: stop.
fn accept(range: Range) -> Result<(), Outcome> {
    let mut page = range.start;
    let mut small_until = page;
    while page < range.end {
        let next = page.saturating_add(LARGE_PAGE);
        let large = page >= small_until && page.is_multiple_of(LARGE_PAGE) && next <= range.end;
        let answer = hw::pvalidate(page, large);
        if large && answer.code == rc::FAIL_SIZEMISMATCH {
            small_until = next;
            continue;
        }
        if answer.code != rc::SUCCESS || answer.unchanged {
            return Err(Outcome::MemoryFailure);
        }
        let size = if large { LARGE_PAGE } else { layout::PAGE };
        // The host chose what is in it.
        hw::zero(page, size);
        page = page.saturating_add(size);
    }
    Ok(())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    hw::terminate(Outcome::Panic)
}
