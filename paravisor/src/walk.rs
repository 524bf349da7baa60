//! The guest's linear addresses: its page tables are read by copies, each entry
//! once, and its segments as 64-bit code has them.
//!
//! Only four-level paging exists for this guest (CPUID shows no LA57), and a
//! guest that leaves long mode gets no emulation: its exits end in #UD.

use memory::GuestMemory;
use platform::{Reg, Registers};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Page fault error code bits.
mod fault {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const FETCH: u32 = 1 << 4;
}

/// What an access is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// Why an address could not be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest gets `#PF` with this code and CR2.
    PageFault {
        /// Error code.
        code: u32,
        /// Linear address.
        address: u64,
    },
    /// A paging mode that no guest of ours uses, or page tables outside of its RAM.
    Unsupported,
}

/// Translates one linear address.
pub fn translate(
    vp: &impl Registers,
    guest: &impl GuestMemory,
    address: u64,
    purpose: Purpose,
) -> Result<u64, WalkError> {
    let efer = vp.get(Reg::Efer);
    if vp.get(Reg::Cr0) & CR0_PG == 0 || efer & EFER_LMA == 0 || vp.get(Reg::Cr4) & CR4_LA57 != 0 {
        return Err(WalkError::Unsupported);
    }
    let user = vp.cpl() == 3;
    let fault = |present: u32| WalkError::PageFault {
        code: present
            | if purpose == Purpose::Write {
                fault::WRITE
            } else {
                0
            }
            | if user { fault::USER } else { 0 }
            | if purpose == Purpose::Fetch {
                fault::FETCH
            } else {
                0
            },
        address,
    };
    // Canonical addresses only; others are #GP or #SS, which no driver provokes.
    if (address as i64) << 16 >> 16 != address as i64 {
        return Err(WalkError::Unsupported);
    }
    let mut table = vp.get(Reg::Cr3) & ADDRESS;
    for shift in [39u32, 30, 21, 12] {
        let index = address.wrapping_shr(shift) & 0x1ff;
        let mut bytes = [0; 8];
        guest
            .read(table.wrapping_add(index.wrapping_mul(8)), &mut bytes)
            .map_err(|_| WalkError::Unsupported)?;
        let entry = u64::from_le_bytes(bytes);
        if entry & PRESENT == 0 {
            return Err(fault(0));
        }
        let write_protected = entry & WRITABLE == 0 && (user || vp.get(Reg::Cr0) & CR0_WP != 0);
        if user && entry & USER == 0
            || purpose == Purpose::Write && write_protected
            || purpose == Purpose::Fetch && entry & NO_EXECUTE != 0 && efer & EFER_NXE != 0
        {
            return Err(fault(fault::PRESENT));
        }
        if shift == 12 || shift < 39 && entry & LARGE != 0 {
            let offset = 1u64.wrapping_shl(shift).wrapping_sub(1);
            return Ok(entry & ADDRESS & !offset | address & offset);
        }
        table = entry & ADDRESS;
    }
    Err(WalkError::Unsupported)
}

/// Calls `access(gpa, piece)` for each piece of `len` bytes from `address` that
/// lies in one page.
fn by_page(
    vp: &impl Registers,
    guest: &impl GuestMemory,
    address: u64,
    len: usize,
    purpose: Purpose,
    mut access: impl FnMut(u64, core::ops::Range<usize>) -> Result<(), memory::OutOfRange>,
) -> Result<(), WalkError> {
    let mut done = 0usize;
    while done < len {
        let at = address.wrapping_add(done as u64);
        let room = 0x1000usize.saturating_sub((at & 0xfff) as usize);
        let end = len.min(done.saturating_add(room));
        let gpa = translate(vp, guest, at, purpose)?;
        access(gpa, done..end).map_err(|_| WalkError::Unsupported)?;
        done = end;
    }
    Ok(())
}

/// Copies from the guest's linear memory. RAM only.
pub fn read(
    vp: &impl Registers,
    guest: &impl GuestMemory,
    address: u64,
    dst: &mut [u8],
) -> Result<(), WalkError> {
    by_page(
        vp,
        guest,
        address,
        dst.len(),
        Purpose::Read,
        |gpa, range| guest.read(gpa, dst.get_mut(range).unwrap_or(&mut [])),
    )
}

/// Copies to the guest's linear memory. RAM only.
pub fn write(
    vp: &impl Registers,
    guest: &impl GuestMemory,
    address: u64,
    src: &[u8],
) -> Result<(), WalkError> {
    by_page(
        vp,
        guest,
        address,
        src.len(),
        Purpose::Write,
        |gpa, range| guest.write(gpa, src.get(range).unwrap_or(&[])),
    )
}

/// Longest instruction in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// Copies the instruction at RIP: as many bytes as are mapped, at most 15.
pub fn fetch(
    vp: &impl Registers,
    guest: &impl GuestMemory,
    dst: &mut [u8; MAX_INSTRUCTION],
) -> Result<usize, WalkError> {
    let rip = vp.get(Reg::Rip);
    let mut have = 0usize;
    let result = by_page(vp, guest, rip, dst.len(), Purpose::Fetch, |gpa, range| {
        let end = range.end;
        guest.read(gpa, dst.get_mut(range).unwrap_or(&mut []))?;
        have = end;
        Ok(())
    });
    match result {
        Err(error) if have == 0 => Err(error),
        _ => Ok(have),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeVp, identity_tables};
    use memory::doubles::VecGuest;

    #[test]
    fn large_and_small_pages_are_found() {
        let guest = VecGuest::new(0x40_0000);
        let mut vp = FakeVp::long_mode(0x1000);
        identity_tables(&guest, 0x1000);
        assert_eq!(
            translate(&vp, &guest, 0x20_1234, Purpose::Read),
            Ok(0x20_1234)
        );
        // Replace the second large page by a table with one page elsewhere.
        guest.write(0x3008, &(0x5000u64 | 3).to_le_bytes()).unwrap();
        guest
            .write(0x5000 + 8, &(0x7000u64 | 1 | NO_EXECUTE).to_le_bytes())
            .unwrap();
        assert_eq!(translate(&vp, &guest, 0x20_1234, Purpose::Read), Ok(0x7234));
        let fault = |code| {
            Err(WalkError::PageFault {
                code,
                address: 0x20_1234,
            })
        };
        assert_eq!(translate(&vp, &guest, 0x20_1234, Purpose::Write), fault(3));
        assert_eq!(
            translate(&vp, &guest, 0x20_1234, Purpose::Fetch),
            fault(0x11)
        );
        vp.cpl = 3;
        assert_eq!(translate(&vp, &guest, 0x20_1234, Purpose::Read), fault(5));
    }

    #[test]
    fn tables_outside_of_ram_are_no_memory_of_ours() {
        let guest = VecGuest::new(0x10_0000);
        let vp = FakeVp::long_mode(0x0800_0000);
        assert_eq!(
            translate(&vp, &guest, 0, Purpose::Read),
            Err(WalkError::Unsupported)
        );
    }

    #[test]
    fn non_canonical_addresses_are_refused() {
        let guest = VecGuest::new(0x10_0000);
        identity_tables(&guest, 0x1000);
        let vp = FakeVp::long_mode(0x1000);
        assert_eq!(
            translate(&vp, &guest, 0x1234_0000_0000_0000, Purpose::Read),
            Err(WalkError::Unsupported)
        );
    }

    #[test]
    fn instruction_at_the_end_of_mapped_memory_is_cut() {
        let guest = VecGuest::new(0x40_0000);
        identity_tables(&guest, 0x1000);
        guest.write(0x3010, &0u64.to_le_bytes()).unwrap();
        let mut vp = FakeVp::long_mode(0x1000);
        vp.set(Reg::Rip, 0x3f_fffd);
        let mut bytes = [0; MAX_INSTRUCTION];
        assert_eq!(fetch(&vp, &guest, &mut bytes), Ok(3));
        vp.set(Reg::Rip, 0x40_0000);
        assert!(fetch(&vp, &guest, &mut bytes).is_err());
    }

    #[test]
    fn copies_cross_pages() {
        let guest = VecGuest::new(0x40_0000);
        identity_tables(&guest, 0x1000);
        // Swap the pages 0x20_0000 and 0x20_1000.
        guest.write(0x3008, &(0x5000u64 | 3).to_le_bytes()).unwrap();
        guest
            .write(0x5000, &(0x20_1000u64 | 3).to_le_bytes())
            .unwrap();
        guest
            .write(0x5008, &(0x20_0000u64 | 3).to_le_bytes())
            .unwrap();
        let vp = FakeVp::long_mode(0x1000);
        write(&vp, &guest, 0x20_0ffe, &[1, 2, 3, 4]).unwrap();
        let mut part = [0; 2];
        guest.read(0x20_1ffe, &mut part).unwrap();
        assert_eq!(part, [1, 2]);
        guest.read(0x20_0000, &mut part).unwrap();
        assert_eq!(part, [3, 4]);
        let mut back = [0; 4];
        read(&vp, &guest, 0x20_0ffe, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
    }
}
