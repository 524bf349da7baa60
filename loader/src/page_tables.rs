//! VMPL0's page tables, built by the image builder and measured.
//!
//! * Identity mapping of 0 to 4 GiB, private (C bit set), writable, never
//!   executable, by 2 MiB pages.
//! * The paravisor's region below the pool by 4 KiB pages: each range with the
//!   least rights that it needs, nothing both writable and executable, guard
//!   pages and everything unused unmapped. Page tables are read-only.
//! * The pool: unmapped in the identity mapping, and shared (C bit clear),
//!   writable, never executable in the window at [`layout::SHARED_WINDOW`].
//!
//! Accessed and dirty bits are set beforehand, so that the processor has no
//! reason to write to the tables. Entries that point to tables carry the C bit:
//! table walks are always private (APM volume 2, 15.34.5).

use crate::layout::{self, Range};

/// One page of 512 entries.
pub type Table = [u64; 512];

/// Entry bit: mapped.
pub const PRESENT: u64 = 1 << 0;
/// Entry bit: writable.
pub const WRITABLE: u64 = 1 << 1;
/// Entry bit: used by the processor.
pub const ACCESSED: u64 = 1 << 5;
/// Entry bit: written through.
pub const DIRTY: u64 = 1 << 6;
/// Entry bit of a directory: maps 2 MiB.
pub const LARGE: u64 = 1 << 7;
/// Entry bit: not executable (EFER.NXE).
pub const NO_EXECUTE: u64 = 1 << 63;

/// Address bits of an entry (51:12), C bit included.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// Order of the tables from layout::PAGE_TABLES.start.
const PML4: usize = 0;
const PDPT_IDENTITY: usize = 1;
const PDPT_WINDOW: usize = 2;
/// Four directories, 1 GiB each.
const PD_IDENTITY: usize = 3;
const PD_WINDOW: usize = 7;
/// One table per 2 MiB of the region below the pool.
const PT_REGION: usize = 8;
const PT_COUNT: usize = ((layout::POOL.start - layout::BASE) / layout::LARGE_PAGE) as usize;

/// How many pages [`build`] fills.
pub const TABLES: usize = PT_REGION + PT_COUNT;

const _: () = assert!(TABLES as u64 * layout::PAGE <= layout::PAGE_TABLES.len());
// The window's one directory must cover the pool.
const _: () = assert!(layout::POOL.end <= 1 << 30);

/// What the paravisor may do with a range of its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Constants.
    Read,
    /// Data.
    ReadWrite,
    /// Code.
    ReadExecute,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Access::Read => NO_EXECUTE,
            Access::ReadWrite => NO_EXECUTE | WRITABLE | DIRTY,
            Access::ReadExecute => 0,
        }
    }
}

/// A loadable segment of the stage's or the paravisor's ELF, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies.
    pub range: Range,
    /// What may be done there.
    pub access: Access,
}

/// Why tables cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The C bit is not a physical address bit that can be one.
    CBit(u32),
    /// The segment is empty, not in whole pages, or outside of the stage's and
    /// the paravisor's ranges.
    Segment(Segment),
    /// Two mappings want the page at this address.
    Overlap(u64),
}

/// Ranges of the region with fixed rights. What is not named here and is not
/// covered by a segment stays unmapped (guard pages, VMSA, spare pages).
const FIXED: [Segment; 8] = [
    fixed(layout::CPUID_PAGE, Access::Read),
    // Keys that are used up get wiped.
    fixed(layout::SECRETS_PAGE, Access::ReadWrite),
    fixed(layout::PARAMETER_PAGE, Access::Read),
    fixed(layout::CONFIG_PAGE, Access::Read),
    fixed(layout::BOOT_GDT, Access::Read),
    fixed(layout::PAGE_TABLES, Access::Read),
    fixed(layout::HEAP, Access::ReadWrite),
    fixed(layout::BOOT_STACK, Access::ReadWrite),
];

const fn fixed(range: Range, access: Access) -> Segment {
    Segment { range, access }
}

/// Value of CR3.
pub const fn cr3(c_bit: u32) -> u64 {
    layout::PAGE_TABLES.start | c_mask(c_bit)
}

const fn c_mask(c_bit: u32) -> u64 {
    match 1u64.checked_shl(c_bit) {
        Some(mask) => mask,
        None => 0,
    }
}

/// Builds the tables for [`layout::PAGE_TABLES`], to be placed there in order.
/// Pure: the same arguments give the same bytes.
pub fn build(c_bit: u32, segments: &[Segment]) -> Result<[Table; TABLES], Error> {
    if !(32..=51).contains(&c_bit) {
        return Err(Error::CBit(c_bit));
    }
    let mut builder = Builder {
        tables: [[0; 512]; TABLES],
        c: c_mask(c_bit),
    };
    builder.directories();
    for segment in &FIXED {
        builder.map(segment)?;
    }
    for segment in segments {
        let home = layout::STAGE.contains_range(segment.range)
            || layout::PARAVISOR.contains_range(segment.range);
        let whole = segment.range.start.is_multiple_of(layout::PAGE)
            && segment.range.end.is_multiple_of(layout::PAGE)
            && !segment.range.is_empty();
        if !home || !whole {
            return Err(Error::Segment(*segment));
        }
        builder.map(segment)?;
    }
    Ok(builder.tables)
}

struct Builder {
    tables: [Table; TABLES],
    c: u64,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "runs in the image builder: indices are constants or quotients of addresses \
              which `build` has checked against the layout; sums stay far below 2^52"
)]
impl Builder {
    /// Entry for the table with this number.
    fn pointer(&self, table: usize) -> u64 {
        (layout::PAGE_TABLES.start + table as u64 * layout::PAGE)
            | self.c
            | PRESENT
            | WRITABLE
            | ACCESSED
    }

    /// Everything above the 4 KiB pages.
    fn directories(&mut self) {
        let large = PRESENT | WRITABLE | ACCESSED | DIRTY | LARGE | NO_EXECUTE;
        self.tables[PML4][0] = self.pointer(PDPT_IDENTITY);
        self.tables[PML4][(layout::SHARED_WINDOW >> 39) as usize] = self.pointer(PDPT_WINDOW);
        self.tables[PDPT_WINDOW][0] = self.pointer(PD_WINDOW);
        for gib in 0..4 {
            self.tables[PDPT_IDENTITY][gib] = self.pointer(PD_IDENTITY + gib);
            for i in 0..512 {
                let address = ((gib as u64) << 30) + i as u64 * layout::LARGE_PAGE;
                self.tables[PD_IDENTITY + gib][i] = if layout::POOL.contains(address) {
                    0
                } else if layout::REGION.contains(address) {
                    let pt = (address - layout::BASE) / layout::LARGE_PAGE;
                    self.pointer(PT_REGION + pt as usize)
                } else {
                    address | self.c | large
                };
            }
        }
        let mut address = layout::POOL.start;
        while address < layout::POOL.end {
            self.tables[PD_WINDOW][(address / layout::LARGE_PAGE) as usize] = address | large;
            address += layout::LARGE_PAGE;
        }
    }

    /// Maps a range of the region by 4 KiB pages.
    fn map(&mut self, segment: &Segment) -> Result<(), Error> {
        let mut address = segment.range.start;
        while address < segment.range.end {
            let page = ((address - layout::BASE) / layout::PAGE) as usize;
            let entry = &mut self.tables[PT_REGION + page / 512][page % 512];
            if *entry != 0 {
                return Err(Error::Overlap(address));
            }
            *entry = address | self.c | PRESENT | ACCESSED | segment.access.bits();
            address += layout::PAGE;
        }
        Ok(())
    }
}

/// What a virtual address is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Physical address without the C bit.
    pub address: u64,
    /// C bit set.
    pub private: bool,
    /// Writable on every level.
    pub writable: bool,
    /// Executable on every level.
    pub executable: bool,
    /// Size of the page in bytes.
    pub page_size: u64,
}

/// Walks tables made by [`build`] as the processor would. `None`: not mapped, or
/// a walk that leaves the tables. For tests, inspection and the rig.
pub fn lookup(tables: &[Table], c_bit: u32, address: u64) -> Option<Mapping> {
    let c = c_mask(c_bit);
    let mut table = tables.get(PML4)?;
    let (mut writable, mut executable) = (true, true);
    for shift in [39u32, 30, 21, 12] {
        let entry = *table.get(((address >> shift) & 0x1ff) as usize)?;
        if entry & PRESENT == 0 {
            return None;
        }
        writable &= entry & WRITABLE != 0;
        executable &= entry & NO_EXECUTE == 0;
        let target = entry & ADDRESS & !c;
        if shift == 12 || (shift == 21 && entry & LARGE != 0) {
            let page_size = 1u64 << shift;
            return Some(Mapping {
                address: target | (address & page_size.wrapping_sub(1)),
                private: entry & c != 0,
                writable,
                executable,
                page_size,
            });
        }
        let offset = target.checked_sub(layout::PAGE_TABLES.start)?;
        table = tables.get((offset >> 12) as usize)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    fn segments() -> [Segment; 4] {
        let s = STAGE.start;
        let p = PARAVISOR.start;
        [
            Segment {
                range: range(s, s + 0x2000),
                access: Access::ReadExecute,
            },
            Segment {
                range: range(s + 0x2000, s + 0x5000),
                access: Access::ReadWrite,
            },
            Segment {
                range: range(p, p + 0x3000),
                access: Access::ReadExecute,
            },
            Segment {
                range: range(p + 0x3000, p + 0x4000),
                access: Access::Read,
            },
        ]
    }

    #[test]
    fn nothing_is_writable_and_executable_and_only_the_pool_is_shared() {
        for c_bit in [C_BIT_DEFAULT, C_BIT_RIG] {
            let tables = build(c_bit, &segments()).unwrap();
            let mut window_pages = 0;
            for base in [0, SHARED_WINDOW] {
                // Every page of the region and around it, then every 2 MiB to the end.
                let fine = (BASE - LARGE_PAGE..REGION.end + LARGE_PAGE).step_by(PAGE as usize);
                let coarse = (0..IDENTITY_END + LARGE_PAGE).step_by(LARGE_PAGE as usize);
                for gpa in fine.chain(coarse) {
                    let Some(m) = lookup(&tables, c_bit, base + gpa) else {
                        continue;
                    };
                    assert!(!(m.writable && m.executable), "{gpa:#x}");
                    assert_eq!(m.address, gpa, "an offset mapping only");
                    assert_eq!(m.private, base == 0, "{gpa:#x}");
                    if base != 0 {
                        assert!(POOL.contains(gpa) && m.writable && !m.executable);
                        window_pages += 1;
                    } else {
                        assert!(!POOL.contains(gpa), "no private alias of the pool");
                    }
                }
            }
            let expected = POOL.len() / PAGE + POOL.len() / LARGE_PAGE;
            assert_eq!(window_pages, expected, "the whole pool is in the window");
        }
    }

    #[test]
    fn each_range_has_its_rights() {
        let tables = build(51, &segments()).unwrap();
        let at = |a: u64| lookup(&tables, 51, a).map(|m| (m.writable, m.executable));
        let (ro, rw, rx) = (
            Some((false, false)),
            Some((true, false)),
            Some((false, true)),
        );
        assert_eq!(at(0), rw, "guest memory");
        assert_eq!(at(INITRD_LOAD), rw);
        assert_eq!(at(IDENTITY_END - 1), rw);
        assert_eq!(at(IDENTITY_END), None);
        assert_eq!(at(GUARD.start), None);
        assert_eq!(at(BOOT_VMSA.start), None);
        assert_eq!(at(CPUID_PAGE.start), ro);
        assert_eq!(at(CPUID_PAGE_2.start), None);
        assert_eq!(at(SECRETS_PAGE.start), rw);
        assert_eq!(at(PARAMETER_PAGE.start), ro);
        assert_eq!(at(CONFIG_PAGE.start), ro);
        assert_eq!(at(PAGE_TABLES.start), ro);
        assert_eq!(at(STAGE.start + 0x1fff), rx);
        assert_eq!(at(STAGE.start + 0x2000), rw);
        assert_eq!(at(STAGE.start + 0x5000), None);
        assert_eq!(at(PARAVISOR.start), rx);
        assert_eq!(at(PARAVISOR.start + 0x3000), ro);
        assert_eq!(at(PARAVISOR.start + 0x4000), None);
        assert_eq!(at(HEAP.start), rw);
        assert_eq!(at(BOOT_STACK_GUARD.start), None);
        assert_eq!(at(BOOT_STACK.start), rw);
        assert_eq!(at(BOOT_STACK_TOP - 1), rw);
        assert_eq!(at(POOL.start), None);
        assert_eq!(at(SHARED_WINDOW + POOL.start), rw);
    }

    #[test]
    fn tables_point_to_private_tables() {
        let c = 1u64 << 47;
        let tables = build(47, &[]).unwrap();
        for table in [PML4, PDPT_IDENTITY, PDPT_WINDOW] {
            for entry in tables[table].iter().filter(|e| **e != 0) {
                assert_ne!(entry & c, 0);
                assert!(PAGE_TABLES.contains(entry & ADDRESS & !c));
            }
        }
        assert_eq!(cr3(47), PAGE_TABLES.start | c);
    }

    #[test]
    fn wrong_segments_are_refused() {
        let segment = |start, end| Segment {
            range: range(start, end),
            access: Access::Read,
        };
        for bad in [
            segment(STAGE.start, STAGE.start),
            segment(STAGE.start + 1, STAGE.start + PAGE),
            segment(PAGE_TABLES.start, PAGE_TABLES.end),
            segment(PARAVISOR.end - PAGE, PARAVISOR.end + PAGE),
            segment(0, PAGE),
            segment(PARAVISOR.start, !0xfff),
        ] {
            assert_eq!(build(51, &[bad]).err(), Some(Error::Segment(bad)));
        }
        let twice = segment(STAGE.start, STAGE.start + PAGE);
        assert_eq!(
            build(51, &[twice, twice]).err(),
            Some(Error::Overlap(STAGE.start))
        );
        assert_eq!(build(52, &[]).err(), Some(Error::CBit(52)));
    }
}
