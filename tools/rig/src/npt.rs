//! Nested page tables, filled when the guest touches memory and cleared when an
//! entry of the reverse map table changes.
//!
//! One tree per VMPL. The upper half of a tree (C bit, or for a lower VMPL the
//! virtual top of memory) is the other view of the same pages: private and
//! shared addresses lie far apart, so a leaf table never mixes them. VMRUN and
//! #VMEXIT flush QEMU's whole TLB, so no explicit flush is needed.

use crate::rmp::{Access, REGION_FRAMES, Rmp, Verdict};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// Every level needs it: nested accesses are user accesses.
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = PRESENT | WRITE | USER;
const LARGE_SIZE: u64 = REGION_FRAMES << 12;

/// Where tables live. Addresses are physical addresses of the machine.
pub trait Tables {
    /// A zeroed frame, or `None` when there is no more.
    fn allocate(&mut self) -> Option<u64>;
    /// Takes back a frame that nothing points to any more.
    fn release(&mut self, table: u64);
    /// Reads entry `index` of a table.
    fn get(&self, table: u64, index: usize) -> u64;
    /// Writes entry `index` of a table.
    fn set(&mut self, table: u64, index: usize, entry: u64);
}

/// How one VMPL tells private from shared addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The bit makes an address private (C bit of VMPL0).
    PrivateBit(u32),
    /// The bit makes an address shared (virtual top of memory of VMPL2).
    SharedBit(u32),
    /// Every address is private (a virtual top of memory above all of them).
    Private,
}

impl View {
    fn bit(self) -> u64 {
        match self {
            View::PrivateBit(b) | View::SharedBit(b) => 1 << b,
            View::Private => 0,
        }
    }

    /// Splits an address into GPA and "is private".
    pub fn split(self, address: u64) -> (u64, bool) {
        let set = address & self.bit() != 0;
        let private = match self {
            View::PrivateBit(_) => set,
            View::SharedBit(_) => !set,
            View::Private => true,
        };
        (address & !self.bit(), private)
    }

    /// The address under which a GPA is seen.
    pub fn join(self, gpa: u64, private: bool) -> u64 {
        match (self, private) {
            (View::PrivateBit(_), true) | (View::SharedBit(_), false) => gpa | self.bit(),
            _ => gpa,
        }
    }
}

/// The tree of one VMPL.
#[derive(Clone, Copy, Debug)]
pub struct Npt {
    /// Physical address of the root table.
    pub root: u64,
    /// Which VMPL it belongs to.
    pub vmpl: usize,
    /// Its way to name private pages.
    pub view: View,
    /// Machine address of guest frame 0; 2 MiB aligned.
    pub memory: u64,
    /// Machine address of the page shown in place of ciphertext.
    pub noise: u64,
}

/// The frames ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

impl Npt {
    /// The leaf for one frame, or 0 if an access must fault.
    fn leaf(&self, rmp: &Rmp, gfn: u64, private: bool) -> u64 {
        match rmp.check(self.vmpl, gfn, private, Access::Read) {
            Verdict::Allowed(p) => {
                (self.memory + (gfn << 12))
                    | PRESENT
                    | USER
                    | if p.write() { WRITE } else { 0 }
                    // Fetches are always private.
                    | if p.execute() && private { 0 } else { NX }
            }
            Verdict::Ciphertext => self.noise | PRESENT | USER | NX,
            _ => 0,
        }
    }

    /// Maps guest memory from 0 to `size` with all rights and no owner: a VM without
    /// private pages.
    pub fn fill_plain(&self, size: u64, t: &mut impl Tables) -> Result<(), OutOfFrames> {
        for address in (0..size).step_by(LARGE_SIZE as usize) {
            let table = self.table(address, 2, t)?;
            t.set(
                table,
                index(address, 2),
                (self.memory + address) | LARGE | TABLE,
            );
        }
        Ok(())
    }

    /// Maps all that may be mapped of the 2 MiB region around `address`.
    pub fn fill(&self, rmp: &Rmp, address: u64, t: &mut impl Tables) -> Result<(), OutOfFrames> {
        let (gpa, private) = self.view.split(address);
        let first = (gpa >> 12) & !(REGION_FRAMES - 1);
        let table = self.table(address, 2, t)?;
        let slot = index(address, 2);
        let leaf = self.leaf(rmp, first, private);
        let entry = t.get(table, slot);
        let split = entry & PRESENT != 0 && entry & LARGE == 0;
        let uniform = leaf != 0
            && leaf & ADDRESS != self.noise
            && (1..REGION_FRAMES).all(|i| self.leaf(rmp, first + i, private) == leaf + (i << 12));
        if uniform {
            t.set(table, slot, leaf | LARGE);
            if split {
                t.release(entry & ADDRESS);
            }
            return Ok(());
        }
        let leaves = if split {
            entry & ADDRESS
        } else {
            let new = t.allocate().ok_or(OutOfFrames)?;
            t.set(table, slot, new | TABLE);
            new
        };
        for i in 0..REGION_FRAMES {
            t.set(leaves, i as usize, self.leaf(rmp, first + i, private));
        }
        Ok(())
    }

    /// Forgets one page in both views; the next access fills it again.
    pub fn forget(&self, gfn: u64, t: &mut impl Tables) {
        for private in [true, false] {
            let address = self.view.join(gfn << 12, private);
            let Some(table) = self.find(address, t) else {
                continue;
            };
            let slot = index(address, 2);
            let entry = t.get(table, slot);
            if entry & PRESENT == 0 {
                continue;
            }
            if entry & LARGE != 0 {
                t.set(table, slot, 0);
            } else {
                t.set(entry & ADDRESS, index(address, 1), 0);
            }
        }
    }

    /// The page directory that holds `address`, if there is one.
    fn find(&self, address: u64, t: &impl Tables) -> Option<u64> {
        let mut table = self.root;
        for level in [4, 3] {
            let entry = t.get(table, index(address, level));
            if entry & PRESENT == 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(table)
    }

    /// The table of `level` that holds `address`, made where missing.
    fn table(&self, address: u64, level: u32, t: &mut impl Tables) -> Result<u64, OutOfFrames> {
        let mut table = self.root;
        for l in (level + 1..=4).rev() {
            let slot = index(address, l);
            let entry = t.get(table, slot);
            table = if entry & PRESENT != 0 {
                entry & ADDRESS
            } else {
                let new = t.allocate().ok_or(OutOfFrames)?;
                t.set(table, slot, new | TABLE);
                new
            };
        }
        Ok(table)
    }

    /// What is mapped at an address: the machine address and whether it may be
    /// written. For tests and for the record of an unexpected fault.
    pub fn lookup(&self, address: u64, t: &impl Tables) -> Option<(u64, bool)> {
        let entry = t.get(self.find(address, t)?, index(address, 2));
        if entry & PRESENT == 0 {
            return None;
        }
        if entry & LARGE != 0 {
            let base = entry & ADDRESS & !(LARGE_SIZE - 1);
            return Some((base | (address & (LARGE_SIZE - 1)), entry & WRITE != 0));
        }
        let leaf = t.get(entry & ADDRESS, index(address, 1));
        (leaf & PRESENT != 0).then_some(((leaf & ADDRESS) | (address & 0xfff), leaf & WRITE != 0))
    }
}

fn index(address: u64, level: u32) -> usize {
    ((address >> (12 + 9 * (level - 1))) & 0x1ff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::snp::RmpAttr;

    struct Frames(Vec<[u64; 512]>);

    impl Tables for Frames {
        fn release(&mut self, table: u64) {
            // Poison: a table that is still used would show.
            self.0[(table >> 12) as usize] = [u64::MAX; 512];
        }
        fn allocate(&mut self) -> Option<u64> {
            self.0.push([0; 512]);
            Some((self.0.len() as u64 - 1) << 12)
        }
        fn get(&self, table: u64, index: usize) -> u64 {
            self.0[(table >> 12) as usize][index]
        }
        fn set(&mut self, table: u64, index: usize, entry: u64) {
            self.0[(table >> 12) as usize][index] = entry;
        }
    }

    const C: u64 = 1 << 47;
    const TOM: u64 = 1 << 46;
    const MEMORY: u64 = 0x4000_0000;
    const NOISE: u64 = 0x3000;

    fn setup() -> (Frames, Rmp, Npt, Npt) {
        let mut t = Frames(Vec::new());
        t.allocate(); // address 0 stays unused
        let root0 = t.allocate().unwrap();
        let root2 = t.allocate().unwrap();
        let npt = |vmpl, root, view| Npt {
            root,
            vmpl,
            view,
            memory: MEMORY,
            noise: NOISE,
        };
        let a = npt(0, root0, View::PrivateBit(47));
        let b = npt(2, root2, View::SharedBit(46));
        (t, Rmp::new(1024), a, b)
    }

    #[test]
    fn a_uniform_region_is_one_large_leaf() {
        let (mut t, mut rmp, npt, _) = setup();
        rmp.pvalidate(0x20_0000, 1, true);
        let before = t.0.len();
        npt.fill(&rmp, C | 0x20_1234, &mut t).unwrap();
        assert_eq!(t.0.len(), before + 2); // two upper tables, no leaf table
        assert_eq!(
            npt.lookup(C | 0x2a_bcde, &t),
            Some((MEMORY + 0x2a_bcde, true))
        );
        assert_eq!(npt.lookup(0x2a_bcde, &t), None);
    }

    #[test]
    fn a_changed_page_splits_and_refills() {
        let (mut t, mut rmp, npt, _) = setup();
        rmp.pvalidate(0, 1, true);
        npt.fill(&rmp, C | 0x1000, &mut t).unwrap();
        rmp.update(5, false);
        npt.forget(5, &mut t);
        assert_eq!(npt.lookup(C | 0x1000, &t), None);
        npt.fill(&rmp, C | 0x1000, &mut t).unwrap();
        assert_eq!(npt.lookup(C | 0x1000, &t), Some((MEMORY + 0x1000, true)));
        assert_eq!(npt.lookup(C | 0x5000, &t), None);
        npt.fill(&rmp, 0x5000, &mut t).unwrap();
        assert_eq!(npt.lookup(0x5000, &t), Some((MEMORY + 0x5000, true)));
        // Shared view of a private page: noise, read-only.
        assert_eq!(npt.lookup(0x1010, &t), Some((NOISE + 0x10, false)));
        rmp.update(5, true);
        npt.forget(5, &mut t);
        assert_eq!(npt.lookup(0x5000, &t), None);
        assert_eq!(npt.lookup(C | 0x1000, &t), Some((MEMORY + 0x1000, true)));
    }

    #[test]
    fn a_region_that_becomes_uniform_is_joined() {
        let (mut t, mut rmp, npt, _) = setup();
        for gfn in 0..512 {
            rmp.pvalidate(gfn << 12, 0, true);
            npt.forget(gfn, &mut t);
            npt.fill(&rmp, C | gfn << 12, &mut t).unwrap();
        }
        let tables = t.0.len();
        assert_eq!(
            npt.lookup(C | 0x1f_f123, &t),
            Some((MEMORY + 0x1f_f123, true))
        );
        assert_eq!(t.0.iter().filter(|f| f[0] == u64::MAX).count(), 1);
        npt.forget(3, &mut t);
        npt.fill(&rmp, C | 0x3000, &mut t).unwrap();
        assert_eq!(t.0.len(), tables);
    }

    #[test]
    fn lower_vmpl_sees_what_it_was_given() {
        let (mut t, mut rmp, _, npt) = setup();
        rmp.pvalidate(0, 1, true);
        npt.fill(&rmp, 0x1000, &mut t).unwrap();
        assert_eq!(npt.lookup(0x1000, &t), None);
        rmp.rmpadjust(0, 0x1000, 0, 2 | RmpAttr::READ.bits());
        npt.forget(1, &mut t);
        npt.fill(&rmp, 0x1000, &mut t).unwrap();
        assert_eq!(npt.lookup(0x1000, &t), Some((MEMORY + 0x1000, false)));
        assert_eq!(npt.lookup(0x2000, &t), None);
        rmp.update(2, false);
        npt.forget(2, &mut t);
        npt.fill(&rmp, TOM | 0x2000, &mut t).unwrap();
        assert_eq!(npt.lookup(TOM | 0x2000, &t), Some((MEMORY + 0x2000, true)));
    }

    #[test]
    fn views_split_and_join() {
        let v = View::PrivateBit(47);
        assert_eq!(v.split(C | 0x1000), (0x1000, true));
        assert_eq!(v.split(0x1000), (0x1000, false));
        assert_eq!(v.join(0x1000, true), C | 0x1000);
        let v = View::SharedBit(46);
        assert_eq!(v.split(TOM | 0x1000), (0x1000, false));
        assert_eq!(v.join(0x1000, true), 0x1000);
        assert_eq!(v.join(0x1000, false), TOM | 0x1000);
        // Nothing is shared, and what was an alias is memory that does not exist.
        assert_eq!(View::Private.split(TOM | 0x1000), (TOM | 0x1000, true));
    }
}
