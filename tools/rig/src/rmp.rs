//! The reverse map table: who owns each page of the VM, whether the guest has
//! validated it, and what each VMPL may do with it.
//!
//! Semantics of AMD64 Architecture Programmer's Manual, volume 2, 15.36 and the
//! instruction pages of PVALIDATE, RMPADJUST and RMPQUERY in volume 3. Entries
//! exist for guest memory only and are indexed by guest frame: the table keeps
//! the GPA of an assigned page fixed, as the rig never remaps one.

use abi::snp::{RMP_PAGE_2M, RMP_PAGE_4K, RMPADJUST_VMPL_MASK, RmpAttr, rc};
use alloc::vec::Vec;

/// Frames in a 2 MiB region.
pub const REGION_FRAMES: u64 = 512;
/// Privilege levels that the table keeps permissions for.
pub const VMPLS: usize = 4;

/// Rights of one VMPL on one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Perms(u8);

impl Perms {
    /// Nothing.
    pub const NONE: Perms = Perms(0);
    /// Read, write, execute.
    pub const ALL: Perms = Perms(0xf);

    fn from_attr(attr: RmpAttr) -> Perms {
        Perms(((attr.bits() >> 8) & 0xf) as u8)
    }

    /// The same in RMPADJUST's bit positions.
    pub fn to_attr(self) -> RmpAttr {
        RmpAttr::from_bits_truncate(u64::from(self.0) << 8)
    }

    /// May read.
    pub fn read(self) -> bool {
        self.0 & 1 != 0
    }

    /// May write (illegal without read, so it needs both).
    pub fn write(self) -> bool {
        self.0 & 3 == 3
    }

    /// May fetch instructions, in user or supervisor mode.
    pub fn execute(self) -> bool {
        self.read() && self.0 & 0xc != 0
    }

    fn within(self, other: Perms) -> bool {
        self.0 & !other.0 == 0
    }
}

/// One entry: bit 0 assigned to the guest, 1 validated, 2 VMSA, 3 VMSA in use,
/// then four bits of permissions per VMPL from bit 8.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u32);

const ASSIGNED: u32 = 1 << 0;
const VALIDATED: u32 = 1 << 1;
const VMSA: u32 = 1 << 2;
const IN_USE: u32 = 1 << 3;
const VMPL0_ALL: u32 = 0xf << 8;

impl Entry {
    fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    fn perms(self, vmpl: usize) -> Perms {
        Perms(((self.0 >> (8 + 4 * vmpl)) & 0xf) as u8)
    }

    fn set_perms(&mut self, vmpl: usize, perms: Perms) {
        let shift = 8 + 4 * vmpl;
        self.0 = (self.0 & !(0xf << shift)) | (u32::from(perms.0) << shift);
    }
}

/// What kind of access is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read or page-table read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// Result of an access check, in the order in which hardware checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The VM has no memory there.
    NoMemory,
    /// Allowed, with these rights for later accesses of the same kind of address.
    Allowed(Perms),
    /// Private access to a page that the guest does not own: a nested page fault
    /// with the RMP bit to the host.
    NotOwned,
    /// Private access to a page that was never validated: `#VC` 404h.
    NotValidated,
    /// The VMPL lacks the right: a nested page fault with RMP and VMPL bits.
    Denied,
    /// Shared read of a private page: ciphertext.
    Ciphertext,
    /// Shared write to a private page: a nested page fault with the RMP bit.
    SharedWrite,
}

/// How an instruction on the table ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// EAX holds the code; `carry` is CF (PVALIDATE only).
    Code {
        /// Return code, see [`abi::snp::rc`].
        eax: u32,
        /// Carry flag.
        carry: bool,
    },
    /// The page is not the guest's: nested page fault to the host.
    HostFault,
    /// The page is not validated: `#VC` 404h.
    NotValidated,
}

impl Done {
    fn code(eax: u32) -> Done {
        Done::Code { eax, carry: false }
    }
}

/// The table for one VM.
pub struct Rmp {
    entries: Vec<Entry>,
    /// Per region: still one 2 MiB entry (no 4 KiB operation has split it).
    large: Vec<bool>,
}

impl Rmp {
    /// All of `frames` assigned to the guest, unvalidated, in 2 MiB entries.
    /// `frames` is rounded down to whole regions.
    pub fn new(frames: u64) -> Rmp {
        let regions = (frames / REGION_FRAMES) as usize;
        Rmp {
            entries: alloc::vec![Entry(ASSIGNED | VMPL0_ALL); regions * REGION_FRAMES as usize],
            large: alloc::vec![true; regions],
        }
    }

    /// Frames in the table.
    pub fn frames(&self) -> u64 {
        self.entries.len() as u64
    }

    fn get(&self, gfn: u64) -> Option<Entry> {
        self.entries.get(usize::try_from(gfn).ok()?).copied()
    }

    /// Splits the region of a frame into 4 KiB entries, as the host's PSMASH does.
    fn smash(&mut self, gfn: u64) {
        if let Some(l) = self.large.get_mut((gfn / REGION_FRAMES) as usize) {
            *l = false;
        }
    }

    /// Whether the region of a frame is one 2 MiB entry.
    pub fn is_large(&self, gfn: u64) -> bool {
        self.large
            .get((gfn / REGION_FRAMES) as usize)
            .copied()
            .unwrap_or(false)
    }

    /// A page that the firmware placed at launch: owned, validated, all rights
    /// for VMPL0. `false` if there is no such page or it was placed before.
    pub fn launch(&mut self, gfn: u64, vmsa: bool) -> bool {
        self.smash(gfn);
        let Some(e) = self.entries.get_mut(gfn as usize) else {
            return false;
        };
        if e.has(VALIDATED) {
            return false;
        }
        e.0 = ASSIGNED | VALIDATED | VMPL0_ALL | if vmsa { VMSA } else { 0 };
        true
    }

    /// Whether the host may touch the page: it exists and is not the guest's.
    pub fn is_shared(&self, gfn: u64) -> bool {
        self.get(gfn).is_some_and(|e| !e.has(ASSIGNED))
    }

    /// Whether the page is in use as, or marked as, a VMSA.
    pub fn is_vmsa(&self, gfn: u64) -> bool {
        self.get(gfn)
            .is_some_and(|e| e.has(ASSIGNED | VALIDATED | VMSA))
    }

    /// Whether the page is a VMSA that runs.
    pub fn is_in_use(&self, gfn: u64) -> bool {
        self.get(gfn).is_some_and(|e| e.has(IN_USE))
    }

    /// Marks a VMSA as running; it then refuses changes.
    pub fn set_in_use(&mut self, gfn: u64, in_use: bool) {
        if let Some(e) = self.entries.get_mut(gfn as usize) {
            e.0 = (e.0 & !IN_USE) | if in_use { IN_USE } else { 0 };
        }
    }

    /// The host's RMPUPDATE for one 4 KiB page: a new owner, not validated, no
    /// VMSA, all rights for VMPL0, none for others. Returns 0 or an error code
    /// of [`abi::snp::rc`].
    pub fn update(&mut self, gfn: u64, to_guest: bool) -> u32 {
        let Some(e) = self.get(gfn) else {
            return rc::FAIL_INPUT;
        };
        if e.has(IN_USE) {
            return rc::FAIL_INUSE;
        }
        self.smash(gfn);
        self.entries[gfn as usize].0 = VMPL0_ALL | if to_guest { ASSIGNED } else { 0 };
        rc::SUCCESS
    }

    /// The same for a whole 2 MiB region, which becomes one entry again if it
    /// goes to the guest.
    pub fn update_large(&mut self, gfn: u64, to_guest: bool) -> u32 {
        let Some(range) = self.region(gfn) else {
            return rc::FAIL_INPUT;
        };
        if self.entries[range.clone()].iter().any(|e| e.has(IN_USE)) {
            return rc::FAIL_INUSE;
        }
        self.entries[range].fill(Entry(VMPL0_ALL | if to_guest { ASSIGNED } else { 0 }));
        self.large[(gfn / REGION_FRAMES) as usize] = to_guest;
        rc::SUCCESS
    }

    fn region(&self, gfn: u64) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(gfn).ok()?;
        let end = start.checked_add(REGION_FRAMES as usize)?;
        (gfn.is_multiple_of(REGION_FRAMES) && end <= self.entries.len()).then_some(start..end)
    }

    /// Checks an access of a VMPL. `private` is the C bit (or an address below
    /// the virtual top of memory).
    pub fn check(&self, vmpl: usize, gfn: u64, private: bool, access: Access) -> Verdict {
        let Some(e) = self.get(gfn) else {
            return Verdict::NoMemory;
        };
        if !private {
            return match (e.has(ASSIGNED), access) {
                (false, _) => Verdict::Allowed(Perms(3)),
                (true, Access::Write) => Verdict::SharedWrite,
                (true, _) => Verdict::Ciphertext,
            };
        }
        if !e.has(ASSIGNED) {
            return Verdict::NotOwned;
        }
        if !e.has(VALIDATED) {
            return Verdict::NotValidated;
        }
        let mut perms = e.perms(vmpl);
        if e.has(IN_USE) {
            perms.0 &= !2;
        }
        let allowed = match access {
            Access::Read => perms.read(),
            Access::Write => perms.write(),
            Access::Fetch => perms.execute(),
        };
        if allowed {
            Verdict::Allowed(perms)
        } else {
            Verdict::Denied
        }
    }

    /// PVALIDATE at VMPL0 (the only level that may). Arguments as in the
    /// registers: `size` is ECX, `validate` EDX bit 0.
    pub fn pvalidate(&mut self, gpa: u64, size: u32, validate: bool) -> Done {
        let gfn = gpa >> 12;
        let range = match size {
            RMP_PAGE_4K => {
                if gfn >= self.frames() {
                    return Done::HostFault;
                }
                gfn as usize..gfn as usize + 1
            }
            RMP_PAGE_2M => {
                if !gpa.is_multiple_of(REGION_FRAMES << 12) {
                    return Done::code(rc::FAIL_INPUT);
                }
                match self.region(gfn) {
                    Some(r) => r,
                    None => return Done::HostFault,
                }
            }
            _ => return Done::code(rc::FAIL_INPUT),
        };
        if self.entries[range.clone()].iter().any(|e| !e.has(ASSIGNED)) {
            return Done::HostFault;
        }
        if size == RMP_PAGE_2M && !self.is_large(gfn) {
            return Done::code(rc::FAIL_SIZEMISMATCH);
        }
        if size == RMP_PAGE_4K {
            self.smash(gfn);
        }
        let mut changed = false;
        for e in &mut self.entries[range] {
            if e.has(VALIDATED) != validate {
                changed = true;
                e.0 ^= VALIDATED;
            }
        }
        Done::Code {
            eax: rc::SUCCESS,
            carry: !changed,
        }
    }

    /// RMPADJUST: `rdx` holds target VMPL and attributes.
    pub fn rmpadjust(&mut self, vmpl: usize, gpa: u64, size: u32, rdx: u64) -> Done {
        let gfn = gpa >> 12;
        let target = (rdx & RMPADJUST_VMPL_MASK) as usize;
        let range = match size {
            RMP_PAGE_4K => gfn as usize..gfn as usize + 1,
            RMP_PAGE_2M if gpa.is_multiple_of(REGION_FRAMES << 12) => {
                gfn as usize..gfn as usize + REGION_FRAMES as usize
            }
            _ => return Done::code(rc::FAIL_INPUT),
        };
        if target >= VMPLS {
            return Done::code(rc::FAIL_INPUT);
        }
        let Some(entries) = self.entries.get(range.clone()) else {
            return Done::HostFault;
        };
        if entries.iter().any(|e| !e.has(ASSIGNED)) {
            return Done::HostFault;
        }
        if size == RMP_PAGE_2M && !self.is_large(gfn) {
            return Done::code(rc::FAIL_SIZEMISMATCH);
        }
        if entries.iter().any(|e| !e.has(VALIDATED)) {
            return Done::NotValidated;
        }
        let attr = RmpAttr::from_bits_truncate(rdx);
        let wanted = Perms::from_attr(attr);
        if target <= vmpl || entries.iter().any(|e| !wanted.within(e.perms(vmpl))) {
            return Done::code(rc::FAIL_PERMISSION);
        }
        if entries.iter().any(|e| e.has(IN_USE)) {
            return Done::code(rc::FAIL_INUSE);
        }
        if size == RMP_PAGE_4K {
            self.smash(gfn);
        }
        for e in &mut self.entries[range] {
            e.set_perms(target, wanted);
            // Silently ignored below VMPL0.
            if vmpl == 0 {
                e.0 = (e.0 & !VMSA)
                    | if attr.contains(RmpAttr::VMSA) {
                        VMSA
                    } else {
                        0
                    };
            }
        }
        Done::code(rc::SUCCESS)
    }

    /// RMPQUERY: `(code, RDX, RCX)`.
    pub fn rmpquery(&self, vmpl: usize, gpa: u64, rdx: u64) -> Result<(u32, u64, u64), Done> {
        let target = (rdx & RMPADJUST_VMPL_MASK) as usize;
        let gfn = gpa >> 12;
        let e = self
            .get(gfn)
            .filter(|e| e.has(ASSIGNED))
            .ok_or(Done::HostFault)?;
        if !e.has(VALIDATED) {
            return Err(Done::NotValidated);
        }
        if target >= VMPLS || target < vmpl {
            return Ok((rc::FAIL_PERMISSION, rdx, 0));
        }
        let mut attr = e.perms(target).to_attr();
        attr.set(RmpAttr::VMSA, e.has(VMSA));
        Ok((
            rc::SUCCESS,
            attr.bits() | target as u64,
            u64::from(self.is_large(gfn)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Done = Done::Code {
        eax: 0,
        carry: false,
    };
    const SAME: Done = Done::Code {
        eax: 0,
        carry: true,
    };

    fn adjust(target: u64, attr: RmpAttr) -> u64 {
        target | attr.bits()
    }

    #[test]
    fn pvalidate_tells_by_carry_that_nothing_changed() {
        let mut r = Rmp::new(1024);
        assert_eq!(r.pvalidate(0x1000, 0, true), OK);
        assert_eq!(r.pvalidate(0x1000, 0, true), SAME);
        assert_eq!(r.pvalidate(0x1000, 0, false), OK);
        assert_eq!(r.pvalidate(0x1000, 0, false), SAME);
    }

    #[test]
    fn pvalidate_2m_needs_alignment_and_a_large_entry() {
        let mut r = Rmp::new(1024);
        assert_eq!(r.pvalidate(0x1000, 1, true), Done::code(rc::FAIL_INPUT));
        assert_eq!(r.pvalidate(0, 1, true), OK);
        assert_eq!(r.pvalidate(0, 1, true), SAME);
        assert_eq!(r.pvalidate(0x20_0000, 0, true), OK);
        assert_eq!(
            r.pvalidate(0x20_0000, 1, true),
            Done::code(rc::FAIL_SIZEMISMATCH)
        );
        assert_eq!(r.pvalidate(0x0, 2, true), Done::code(rc::FAIL_INPUT));
    }

    #[test]
    fn pvalidate_of_a_shared_page_faults_to_the_host() {
        let mut r = Rmp::new(512);
        assert_eq!(r.update(3, false), 0);
        assert_eq!(r.pvalidate(0x3000, 0, true), Done::HostFault);
        assert_eq!(r.pvalidate(0, 1, true), Done::HostFault);
        assert_eq!(r.pvalidate(512 << 12, 0, true), Done::HostFault);
        assert_eq!(r.update(3, true), 0);
        assert_eq!(r.pvalidate(0x3000, 0, true), OK);
    }

    #[test]
    fn rmpupdate_drops_validation_and_lower_rights() {
        let mut r = Rmp::new(512);
        r.pvalidate(0, 1, true);
        r.rmpadjust(0, 0, 1, adjust(2, RmpAttr::RWX));
        assert_eq!(
            r.check(2, 5, true, Access::Write),
            Verdict::Allowed(Perms::ALL)
        );
        assert_eq!(r.update(5, false), 0);
        assert_eq!(r.check(0, 5, true, Access::Read), Verdict::NotOwned);
        assert!(r.is_shared(5));
        r.update(5, true);
        assert_eq!(r.check(0, 5, true, Access::Read), Verdict::NotValidated);
        r.pvalidate(0x5000, 0, true);
        assert_eq!(r.check(2, 5, true, Access::Read), Verdict::Denied);
        assert_eq!(
            r.check(2, 6, true, Access::Read),
            Verdict::Allowed(Perms::ALL)
        );
    }

    #[test]
    fn rescinding_keeps_lower_rights() {
        let mut r = Rmp::new(512);
        r.pvalidate(0x1000, 0, true);
        r.rmpadjust(0, 0x1000, 0, adjust(2, RmpAttr::READ));
        r.pvalidate(0x1000, 0, false);
        assert_eq!(r.check(2, 1, true, Access::Read), Verdict::NotValidated);
        r.pvalidate(0x1000, 0, true);
        assert_eq!(
            r.check(2, 1, true, Access::Read),
            Verdict::Allowed(Perms(1))
        );
        assert_eq!(r.check(2, 1, true, Access::Write), Verdict::Denied);
    }

    #[test]
    fn rmpadjust_codes() {
        let mut r = Rmp::new(1024);
        assert_eq!(
            r.rmpadjust(0, 0x1000, 0, adjust(2, RmpAttr::RWX)),
            Done::NotValidated
        );
        r.pvalidate(0x1000, 0, true);
        assert_eq!(
            r.rmpadjust(0, 0x1000, 0, adjust(0, RmpAttr::RWX)),
            Done::code(rc::FAIL_PERMISSION)
        );
        assert_eq!(
            r.rmpadjust(0, 0x1000, 0, adjust(9, RmpAttr::RWX)),
            Done::code(rc::FAIL_INPUT)
        );
        assert_eq!(
            r.rmpadjust(0, 0x1000, 3, adjust(1, RmpAttr::RWX)),
            Done::code(rc::FAIL_INPUT)
        );
        assert_eq!(
            r.rmpadjust(0, 0, 1, adjust(1, RmpAttr::RWX)),
            Done::code(rc::FAIL_SIZEMISMATCH)
        );
        // VMPL1 may not give what it does not have.
        assert_eq!(
            r.rmpadjust(1, 0x1000, 0, adjust(2, RmpAttr::READ)),
            Done::code(rc::FAIL_PERMISSION)
        );
        assert_eq!(r.rmpadjust(0, 0x1000, 0, adjust(1, RmpAttr::READ)), OK);
        assert_eq!(r.rmpadjust(1, 0x1000, 0, adjust(2, RmpAttr::READ)), OK);
    }

    #[test]
    fn vmsa_bit_is_vmpl0_only_and_blocks_changes_while_in_use() {
        let mut r = Rmp::new(512);
        r.pvalidate(0x1000, 0, true);
        r.rmpadjust(0, 0x1000, 0, adjust(1, RmpAttr::RWX));
        r.rmpadjust(1, 0x1000, 0, adjust(2, RmpAttr::VMSA));
        assert!(!r.is_vmsa(1));
        assert_eq!(r.rmpadjust(0, 0x1000, 0, adjust(1, RmpAttr::VMSA)), OK);
        assert!(r.is_vmsa(1));
        r.set_in_use(1, true);
        assert_eq!(
            r.rmpadjust(0, 0x1000, 0, adjust(1, RmpAttr::empty())),
            Done::code(rc::FAIL_INUSE)
        );
        assert_eq!(r.update(1, false), rc::FAIL_INUSE);
        assert_eq!(r.check(0, 1, true, Access::Write), Verdict::Denied);
        r.set_in_use(1, false);
        assert_eq!(
            r.check(0, 1, true, Access::Write),
            Verdict::Allowed(Perms::ALL)
        );
    }

    #[test]
    fn shared_addresses_of_private_pages_show_ciphertext() {
        let mut r = Rmp::new(512);
        assert_eq!(r.check(0, 1, false, Access::Read), Verdict::Ciphertext);
        assert_eq!(r.check(0, 1, false, Access::Write), Verdict::SharedWrite);
        r.update(1, false);
        assert_eq!(
            r.check(2, 1, false, Access::Write),
            Verdict::Allowed(Perms(3))
        );
        assert_eq!(r.check(0, 512, true, Access::Read), Verdict::NoMemory);
    }

    #[test]
    fn launch_places_a_page_once() {
        let mut r = Rmp::new(512);
        assert!(r.launch(7, true));
        assert!(r.is_vmsa(7));
        assert!(!r.launch(7, false));
        assert!(!r.launch(512, false));
        assert!(!r.is_large(7));
        assert_eq!(r.pvalidate(0x7000, 0, true), SAME);
    }

    #[test]
    fn rmpquery_reports_rights() {
        let mut r = Rmp::new(512);
        r.pvalidate(0, 1, true);
        r.rmpadjust(0, 0, 1, adjust(2, RmpAttr::READ | RmpAttr::WRITE));
        assert_eq!(r.rmpquery(0, 0x5000, 2), Ok((0, 0x302, 1)));
        assert_eq!(r.rmpquery(2, 0x5000, 0), Ok((rc::FAIL_PERMISSION, 0, 0)));
        r.update(5, true);
        assert_eq!(r.rmpquery(0, 0x5000, 2), Err(Done::NotValidated));
    }
}
