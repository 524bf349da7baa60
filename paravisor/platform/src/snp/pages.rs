//! Owning pages: PVALIDATE and RMPADJUST over ranges, 2 MiB at a time where the
//! hardware agrees.

use super::GUEST_VMPL;
use super::machine::Machine;
use crate::Error;
use abi::snp::{RmpAttr, rc};

const SMALL: u64 = 0x1000;
const LARGE: u64 = 0x20_0000;

/// Calls `each(gpa, large)` for every 2 MiB page that lies in the range as a
/// whole and for the 4 KiB pages of the rest. Where it answers `false` to a large
/// page (which the hardware keeps in small pieces) its 512 small pages follow.
fn for_each_page(
    start: u64,
    end: u64,
    mut each: impl FnMut(u64, bool) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut gpa = start;
    let mut small_until = start;
    while gpa < end {
        let next = gpa.saturating_add(LARGE);
        if gpa >= small_until && gpa.is_multiple_of(LARGE) && next <= end {
            if each(gpa, true)? {
                gpa = next;
            } else {
                small_until = next;
            }
        } else {
            each(gpa, false)?;
            gpa = gpa.saturating_add(SMALL);
        }
    }
    Ok(())
}

/// Validates pages that were never validated. "Nothing changed" means that
/// somebody put a page back that we had taken into use: fatal.
pub(super) fn validate<M: Machine>(machine: &mut M, start: u64, end: u64) -> Result<(), Error> {
    for_each_page(start, end, |gpa, large| {
        match machine.pvalidate(gpa, large, true) {
            (rc::SUCCESS, false) => Ok(true),
            (rc::SUCCESS, true) => Err(Error::Replayed { gpa }),
            (rc::FAIL_SIZEMISMATCH, _) if large => Ok(false),
            (code, _) => Err(Error::Page {
                instruction: "PVALIDATE",
                gpa,
                code,
            }),
        }
    })
}

/// Gives the guest's VMPL `rights` on validated pages.
pub(super) fn adjust<M: Machine>(
    machine: &mut M,
    start: u64,
    end: u64,
    rights: RmpAttr,
) -> Result<(), Error> {
    let attributes = rights.bits() | u64::from(GUEST_VMPL);
    for_each_page(start, end, |gpa, large| {
        match machine.rmpadjust(gpa, large, attributes) {
            rc::SUCCESS => Ok(true),
            rc::FAIL_SIZEMISMATCH if large => Ok(false),
            code => Err(Error::Page {
                instruction: "RMPADJUST",
                gpa,
                code,
            }),
        }
    })
}

/// Marks a page as a VMSA. The target is VMPL1 so that a caller who is not at
/// VMPL0 fails in place of being ignored (Linux `snp_set_vmsa`).
pub(super) fn make_vmsa<M: Machine>(machine: &mut M, gpa: u64) -> Result<(), Error> {
    let attributes = RmpAttr::VMSA.bits() | 1;
    match machine.rmpadjust(gpa, false, attributes) {
        rc::SUCCESS => Ok(()),
        code => Err(Error::Page {
            instruction: "RMPADJUST (VMSA)",
            gpa,
            code,
        }),
    }
}
