//! Walks the guest's own page tables, as the processor would, to find what a
//! guest virtual address means.

/// What the walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Guest physical address with the C bit or the bit of the virtual top of
    /// memory still in it.
    pub gpa: u64,
    /// The whole path is writable.
    pub writable: bool,
    /// The whole path is accessible in user mode.
    pub user: bool,
    /// Some entry on the path forbids execution.
    pub no_execute: bool,
}

/// The registers that decide how to walk.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Translates `gva`. `read` gives 8 (or, for 32-bit paging, 4) bytes of guest
/// memory at a physical address as the table walker sees it. `None`: not mapped,
/// or a table lies where `read` finds nothing.
pub fn walk(
    paging: Paging,
    gva: u64,
    mut read: impl FnMut(u64, usize) -> Option<u64>,
) -> Option<Found> {
    let mut found = Found {
        gpa: gva,
        writable: true,
        user: true,
        no_execute: false,
    };
    if paging.cr0 & CR0_PG == 0 {
        found.gpa &= 0xffff_ffff;
        return Some(found);
    }
    if paging.cr4 & CR4_PAE == 0 {
        return walk32(paging, gva, read);
    }
    let (mut level, mut table) = if paging.efer & EFER_LMA == 0 {
        // PAE: four entries in a 32-byte table, no rights in them.
        let entry = read((paging.cr3 & 0xffff_ffe0) + ((gva >> 30) & 3) * 8, 8)?;
        if entry & PRESENT == 0 {
            return None;
        }
        (2u32, entry & ADDRESS)
    } else if paging.cr4 & CR4_LA57 != 0 {
        (5, paging.cr3 & ADDRESS)
    } else {
        (4, paging.cr3 & ADDRESS)
    };
    loop {
        let shift = 12 + 9 * (level - 1);
        let entry = read(table + ((gva >> shift) & 0x1ff) * 8, 8)?;
        if entry & PRESENT == 0 {
            return None;
        }
        found.writable &= entry & WRITE != 0;
        found.user &= entry & USER != 0;
        found.no_execute |= entry & NX != 0;
        if level == 1 || (entry & LARGE != 0 && level <= 3) {
            let offset = (1u64 << shift) - 1;
            found.gpa = (entry & ADDRESS & !offset) | (gva & offset);
            return Some(found);
        }
        table = entry & ADDRESS;
        level -= 1;
    }
}

fn walk32(
    paging: Paging,
    gva: u64,
    mut read: impl FnMut(u64, usize) -> Option<u64>,
) -> Option<Found> {
    let pde = read((paging.cr3 & 0xffff_f000) + ((gva >> 22) & 0x3ff) * 4, 4)?;
    if pde & PRESENT == 0 {
        return None;
    }
    let mut found = Found {
        gpa: 0,
        writable: pde & WRITE != 0,
        user: pde & USER != 0,
        no_execute: false,
    };
    if pde & LARGE != 0 && paging.cr4 & CR4_PSE != 0 {
        found.gpa = (pde & 0xffc0_0000) | ((pde & 0x001f_e000) << 19) | (gva & 0x3f_ffff);
        return Some(found);
    }
    let pte = read((pde & 0xffff_f000) + ((gva >> 12) & 0x3ff) * 4, 4)?;
    if pte & PRESENT == 0 {
        return None;
    }
    found.writable &= pte & WRITE != 0;
    found.user &= pte & USER != 0;
    found.gpa = (pte & 0xffff_f000) | (gva & 0xfff);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const C: u64 = 1 << 47;

    fn long(cr3: u64) -> Paging {
        Paging {
            cr0: 0x8000_0001,
            cr3,
            cr4: 0x20,
            efer: 0x500,
        }
    }

    #[test]
    fn four_levels_keep_the_c_bit() {
        let m: BTreeMap<u64, u64> = [
            (C | 0x1000, C | 0x2000 | 7),
            (C | 0x2000, C | 0x3000 | 7),
            (C | 0x3008, C | 0x4000 | 3),
            (C | 0x4018, C | 0x9000 | 1 | NX),
        ]
        .into();
        let f = walk(long(C | 0x1000), 0x20_3123, |a, _| m.get(&a).copied()).unwrap();
        assert_eq!(
            f,
            Found {
                gpa: C | 0x9123,
                writable: false,
                user: false,
                no_execute: true
            }
        );
        assert_eq!(
            walk(long(C | 0x1000), 0x20_4000, |a, _| m.get(&a).copied()),
            None
        );
    }

    #[test]
    fn large_pages_end_the_walk() {
        let m: BTreeMap<u64, u64> = [
            (0x1000, 0x2003),
            (0x2000, 0x3003),
            (0x3008, C | 0x40_0000 | 0x83),
        ]
        .into();
        let f = walk(long(0x1000), 0x32_3456, |a, _| m.get(&a).copied()).unwrap();
        assert_eq!(f.gpa, C | 0x52_3456);
    }

    #[test]
    fn no_paging_is_identity() {
        let p = Paging {
            cr0: 1,
            cr3: 0,
            cr4: 0,
            efer: 0,
        };
        assert_eq!(walk(p, 0x1234, |_, _| None).unwrap().gpa, 0x1234);
    }

    #[test]
    fn a_loop_of_tables_ends() {
        // Every entry points back to the same table: four levels, then done.
        let f = walk(long(0x1000), 0x1234, |_, _| Some(0x1003)).unwrap();
        assert_eq!(f.gpa, 0x1234);
    }
}
