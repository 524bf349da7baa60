//! The two pages which the security processor fills at launch: CPUID and secrets.

use abi::hyperv::cpuid as hv;
use abi::snp::{CPUID_ENTRIES, CPUID_LEAF_SEV, CpuidEntry, CpuidPage, SecretsPage, cpuid_sev};
use zerocopy::FromZeros;

/// EAX, EBX, ECX, EDX of a leaf.
pub type Leaf = [u32; 4];

/// Leaves and subleaves that the page answers, besides Hyper-V's.
const LEAVES: [(u32, u32); 31] = [
    (0, 0),
    (1, 0),
    (2, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (7, 1),
    (0xb, 0),
    (0xb, 1),
    (0xd, 0),
    (0xd, 1),
    (0xd, 2),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0005, 0),
    (0x8000_0006, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (0x8000_0019, 0),
    (0x8000_001a, 0),
    (0x8000_001d, 0),
    (0x8000_001d, 1),
    (0x8000_001d, 2),
    (0x8000_001d, 3),
    (0x8000_001e, 0),
    (0x8000_001f, 0),
    (0x8000_0021, 0),
];

/// Highest extended leaf that the page names.
const EXTENDED_MAX: u32 = 0x8000_0021;
const LEAF1_ECX_MONITOR: u32 = 1 << 3;
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
const EXT1_ECX_SVM: u32 = 1 << 2;
/// XCR0 and XSS with which leaf 0Dh is computed (x87 only, as at reset).
const XCR0_IN: u64 = 1;

/// Builds the CPUID page: `cpuid` is the machine's own instruction. The result
/// shows what the policy of the firmware would let through: no SVM, no MONITOR,
/// the SEV leaf with this C bit, and Hyper-V above.
pub fn cpuid_page(
    c_bit: u32,
    phys_bits: u32,
    vtom_bit: u32,
    cpuid: impl Fn(u32, u32) -> Leaf,
) -> CpuidPage {
    let mut page = CpuidPage::new_zeroed();
    let max = cpuid(0, 0)[0];
    let max_extended = cpuid(0x8000_0000, 0)[0];
    let mut push = |function: u32, index: u32, [eax, ebx, ecx, edx]: Leaf| {
        if let Some(entry) = page.entries.get_mut(page.count as usize) {
            let xstate = function == 0xd;
            *entry = CpuidEntry {
                eax_in: function,
                ecx_in: index,
                xcr0_in: if xstate && index < 2 { XCR0_IN } else { 0 },
                xss_in: 0,
                eax,
                ebx,
                ecx,
                edx,
                reserved: 0,
            };
            page.count += 1;
        }
    };
    for (function, index) in LEAVES {
        let known = if function < 0x8000_0000 {
            function <= max
        } else {
            function <= max_extended
        };
        let mut leaf = if known {
            cpuid(function, index)
        } else {
            [0; 4]
        };
        match function {
            1 => {
                leaf[2] &= !(LEAF1_ECX_MONITOR
                    | LEAF1_ECX_X2APIC
                    | LEAF1_ECX_TSC_DEADLINE
                    | LEAF1_ECX_OSXSAVE);
                leaf[2] |= hv::LEAF1_ECX_HYPERVISOR;
            }
            0xd if index == 0 => leaf[1] = leaf[1].min(XSAVE_LEGACY_SIZE),
            0x8000_0000 => leaf[0] = EXTENDED_MAX,
            0x8000_0001 => leaf[2] &= !EXT1_ECX_SVM,
            0x8000_0008 => leaf[0] = (leaf[0] & !0xff) | phys_bits,
            CPUID_LEAF_SEV => leaf = sev_leaf(c_bit),
            _ => {}
        }
        push(function, index, leaf);
    }
    for (function, leaf) in hyperv_leaves(vtom_bit) {
        push(function, 0, leaf);
    }
    page
}

/// Bytes of the save area with x87 and SSE only.
const XSAVE_LEGACY_SIZE: u32 = 576;
const _: () = assert!(LEAVES.len() + 8 <= CPUID_ENTRIES);

/// Leaf 8000_001Fh: the features that the rig emulates, one physical address
/// bit lost, four VMPLs.
fn sev_leaf(c_bit: u32) -> Leaf {
    let features = cpuid_sev::SEV
        | cpuid_sev::SEV_ES
        | cpuid_sev::SNP
        | cpuid_sev::VMPL
        | cpuid_sev::RMPQUERY
        | cpuid_sev::COHERENCY
        | cpuid_sev::HOST_64BIT
        | cpuid_sev::ALTERNATE_INJECTION
        | cpuid_sev::DEBUG_SWAP;
    [features, c_bit | 1 << 6 | 4 << 12, 16, 1]
}

fn hyperv_leaves(vtom_bit: u32) -> [(u32, Leaf); 8] {
    let vendor = hv::VENDOR;
    let features = hv::features_eax::VP_RUNTIME
        | hv::features_eax::REFERENCE_COUNTER
        | hv::features_eax::SYNIC
        | hv::features_eax::STIMER
        | hv::features_eax::APIC_MSRS
        | hv::features_eax::HYPERCALL_MSRS
        | hv::features_eax::VP_INDEX
        | hv::features_eax::REFERENCE_TSC
        | hv::features_eax::FREQUENCY_MSRS;
    let privileges = hv::features_ebx::POST_MESSAGES
        | hv::features_ebx::SIGNAL_EVENTS
        | hv::features_ebx::ACCESS_VSM
        | hv::features_ebx::ACCESS_VP_REGISTERS
        | hv::features_ebx::START_VP
        | hv::features_ebx::ISOLATION;
    let more = hv::features_edx::FREQUENCY_REGS | hv::features_edx::DIRECT_STIMERS;
    let isolation = hv::ISOLATION_TYPE_SNP
        | hv::ISOLATION_EBX_BOUNDARY_ACTIVE
        | vtom_bit << hv::ISOLATION_EBX_BOUNDARY_SHIFT;
    [
        (
            hv::LEAF_VENDOR,
            [hv::LEAF_ISOLATION, vendor[0], vendor[1], vendor[2]],
        ),
        (hv::LEAF_INTERFACE, [hv::INTERFACE_HV1, 0, 0, 0]),
        (hv::LEAF_VERSION, [20_348, 10 << 16, 0, 0]),
        (hv::LEAF_FEATURES, [features, privileges, 0, more]),
        (hv::LEAF_ENLIGHTENMENTS, [0, u32::MAX, 0, 0]),
        (hv::LEAF_LIMITS, [64, 64, 0, 0]),
        (0x4000_0006, [0, 0, 0, 0]),
        (
            hv::LEAF_ISOLATION,
            [hv::ISOLATION_EAX_PARAVISOR, isolation, 0, 0],
        ),
    ]
}

/// Builds the secrets page with four different keys from a random seed. The
/// keys are those of an emulator: they protect nothing.
pub fn secrets_page(seed: u64) -> SecretsPage {
    let mut page = SecretsPage::new_zeroed();
    page.version = 3;
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1);
    for byte in page.vmpck.as_flattened_mut() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *byte = (x >> 32) as u8;
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(function: u32, _: u32) -> Leaf {
        match function {
            0 => [0xd, 0, 0, 0],
            0x8000_0000 => [0x8000_001e, 0, 0, 0],
            0x8000_0008 => [0x3030, 0, 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    fn find(page: &CpuidPage, function: u32) -> CpuidEntry {
        *page.entries[..page.count as usize]
            .iter()
            .find(|e| e.eax_in == function)
            .unwrap()
    }

    #[test]
    fn the_sev_leaf_names_the_c_bit() {
        let page = cpuid_page(47, 48, 46, fake);
        let sev = find(&page, 0x8000_001f);
        assert_eq!(sev.ebx & 0x3f, 47);
        assert_eq!(sev.ebx >> 12 & 0xf, 4);
        assert_ne!(sev.eax & cpuid_sev::SNP, 0);
        assert_eq!(find(&page, 0x8000_0000).eax, EXTENDED_MAX);
        assert_eq!(find(&page, 0x8000_0008).eax, 0x3030);
    }

    #[test]
    fn no_svm_and_a_hypervisor() {
        let page = cpuid_page(47, 48, 46, fake);
        assert_eq!(find(&page, 0x8000_0001).ecx & EXT1_ECX_SVM, 0);
        assert_ne!(find(&page, 1).ecx & (1 << 31), 0);
        let vendor = find(&page, 0x4000_0000);
        assert_eq!(vendor.ebx.to_le_bytes(), *b"Micr");
        assert_eq!(find(&page, 0x4000_000c).ebx, 2 | 1 << 5 | 46 << 6);
        assert!(page.count as usize <= CPUID_ENTRIES);
    }

    #[test]
    fn keys_differ() {
        let page = secrets_page(42);
        assert_ne!(page.vmpck[0], page.vmpck[1]);
        assert_ne!(page.vmpck[2], page.vmpck[3]);
        assert_ne!(page.vmpck, secrets_page(43).vmpck);
    }
}
