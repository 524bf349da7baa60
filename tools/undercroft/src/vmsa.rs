//! The VMSA with which VMPL0 starts, and the CPUID page that the image asks for.

use abi::snp::{CPUID_ENTRIES, CpuidPage, Segment, SevFeatures, Vmsa, attrib, reset};
use loader::{layout, page_tables};
use zerocopy::FromZeros;

/// EFER: long mode enabled and active, no-execute, and SVME, which must be set in
/// a VMSA.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12;
/// CR0: paging, protection, native FPU errors. The stage adds write protection.
const CR0: u64 = 1 << 31 | 1 << 5 | 1;
/// CR4: PAE, machine check, OSXSAVE. The stage adds SSE.
const CR4: u64 = 1 << 5 | 1 << 6 | 1 << 18;

/// Features of VMPL0: SNP only, so that the image starts on any part. Interrupts
/// at VMPL0 are injected the normal way.
pub const FEATURES: SevFeatures = SevFeatures::SNP;

/// The boot VMSA. RSP, RFLAGS, IDTR and the FPU state stay zero, as other loaders
/// leave them.
pub fn boot_vmsa(c_bit: u32, entry: u64) -> Box<Vmsa> {
    let code = Segment {
        selector: layout::BOOT_CODE_SELECTOR,
        attrib: attrib::CODE64,
        limit: u32::MAX,
        base: 0,
    };
    let data = Segment {
        selector: layout::BOOT_DATA_SELECTOR,
        attrib: attrib::DATA,
        ..code
    };
    // Cannot fail for want of memory in practice: one page.
    let mut vmsa = Box::new(Vmsa::new_zeroed());
    vmsa.cs = code;
    vmsa.ds = data;
    vmsa.es = data;
    vmsa.ss = data;
    vmsa.fs = data;
    vmsa.gs = data;
    vmsa.gdtr = Segment {
        selector: 0,
        attrib: 0,
        limit: size_of_val(&layout::BOOT_GDT_ENTRIES) as u32 - 1,
        base: layout::BOOT_GDT.start,
    };
    vmsa.tr = Segment {
        selector: 0,
        attrib: attrib::TSS64_BUSY,
        limit: 0xffff,
        base: 0,
    };
    vmsa.efer = EFER;
    vmsa.cr0 = CR0;
    vmsa.cr3 = page_tables::cr3(c_bit);
    vmsa.cr4 = CR4;
    vmsa.pat = reset::PAT;
    vmsa.xcr0 = reset::XCR0;
    vmsa.rip = entry;
    vmsa.sev_features = FEATURES.bits();
    vmsa
}

/// Leaves (EAX, ECX) that the firmware is asked to fill in.
const LEAVES: [(u32, u32); 36] = [
    (0x0, 0),
    (0x1, 0),
    (0x2, 0),
    (0x4, 0),
    (0x4, 1),
    (0x4, 2),
    (0x4, 3),
    (0x5, 0),
    (0x6, 0),
    (0x7, 0),
    (0x7, 1),
    (0xb, 0),
    (0xb, 1),
    (0xd, 0),
    (0xd, 1),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0005, 0),
    (0x8000_0006, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (0x8000_000a, 0),
    (0x8000_0019, 0),
    (0x8000_001a, 0),
    (0x8000_001b, 0),
    (0x8000_001c, 0),
    (0x8000_001d, 0),
    (0x8000_001d, 1),
    (0x8000_001d, 2),
    (0x8000_001d, 3),
    (0x8000_001e, 0),
    (0x8000_001f, 0),
    (0x8000_0020, 0),
];

/// The CPUID page as a request: leaves without values. Not measured by content;
/// the firmware checks what the host puts in.
pub fn cpuid_request() -> Box<CpuidPage> {
    const { assert!(LEAVES.len() <= CPUID_ENTRIES) };
    let mut page = Box::new(CpuidPage::new_zeroed());
    page.count = LEAVES.len() as u32;
    for (entry, (eax, ecx)) in page.entries.iter_mut().zip(LEAVES) {
        entry.eax_in = eax;
        entry.ecx_in = ecx;
        // Leaf Dh describes the state that XCR0 enables.
        entry.xcr0_in = if eax == 0xd { reset::XCR0 } else { 0 };
    }
    page
}
