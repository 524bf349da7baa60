//! CPUID as the platform vouches for it: the SNP CPUID page, checked by the
//! firmware against what the processor allows.

use abi::snp::{CPUID_ENTRIES, CpuidEntry, CpuidPage};
use devices::CpuidSource;

/// Leaves whose sub-leaf counts. The page's `ecx_in` of other leaves is ignored,
/// as in Linux (`snp_cpuid_get_validated_func`).
fn is_indexed(leaf: u32) -> bool {
    matches!(
        leaf,
        0x4 | 0x7 | 0xb | 0xd | 0xf | 0x10 | 0x8000_001d | 0x8000_0020
    )
}

/// The page as a source of leaves.
#[derive(Clone, Copy)]
pub struct CheckedCpuid<'a> {
    entries: &'a [CpuidEntry],
}

impl<'a> CheckedCpuid<'a> {
    /// `None` if the page says that it has more entries than fit (the firmware
    /// would have refused it).
    pub fn new(page: &'a CpuidPage) -> Option<CheckedCpuid<'a>> {
        let count = usize::try_from(page.count)
            .ok()
            .filter(|n| *n <= CPUID_ENTRIES)?;
        Some(CheckedCpuid {
            entries: page.entries.get(..count)?,
        })
    }
}

impl CpuidSource for CheckedCpuid<'_> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        self.entries
            .iter()
            .find(|e| {
                let index = !is_indexed(leaf) || e.ecx_in == subleaf;
                // Leaf 0xd, sub-leaves 0 and 1, exist once for each XCR0; the guest
                // starts with x87 state only.
                let state = leaf != 0xd || subleaf > 1 || matches!(e.xcr0_in, 0 | 1);
                e.eax_in == leaf && index && state
            })
            .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn entry(leaf: u32, subleaf: u32, xcr0: u64, eax: u32) -> CpuidEntry {
        CpuidEntry {
            eax_in: leaf,
            ecx_in: subleaf,
            xcr0_in: xcr0,
            eax,
            ..Default::default()
        }
    }

    #[test]
    fn sub_leaves_count_where_they_exist() {
        let mut page = CpuidPage::new_zeroed();
        page.entries[0] = entry(1, 7, 0, 10);
        page.entries[1] = entry(7, 0, 0, 70);
        page.entries[2] = entry(7, 1, 0, 71);
        page.entries[3] = entry(0xd, 0, 7, 13);
        page.entries[4] = entry(0xd, 0, 1, 14);
        page.entries[5] = entry(0x2, 0, 0, 99);
        page.count = 5;
        let source = CheckedCpuid::new(&page).unwrap();
        assert_eq!(source.cpuid(1, 0).unwrap()[0], 10);
        assert_eq!(source.cpuid(7, 1).unwrap()[0], 71);
        assert_eq!(source.cpuid(7, 2), None);
        assert_eq!(source.cpuid(0xd, 0).unwrap()[0], 14);
        assert_eq!(source.cpuid(2, 0), None, "beyond the count");
    }

    #[test]
    fn count_beyond_the_page_is_refused() {
        let mut page = CpuidPage::new_zeroed();
        page.count = 65;
        assert!(CheckedCpuid::new(&page).is_none());
    }
}
