//! CPUID as the guest sees it: the real processor's leaves, filtered by what this
//! platform lets a guest use. A feature is shown only if it is on the list here
//! *and* the processor has it. Layouts: APM volume 3, appendix E.
//!
//! Not shown, although the processor may have it: virtualization (SVM), memory
//! encryption (SME, SEV), any hypervisor, x2APIC and the TSC deadline timer (the
//! APIC is an xAPIC), MONITOR, machine checks, performance counters, cache and
//! bandwidth control, protection keys, shadow stacks, five-level paging, and the
//! speculation controls, whose MSRs the platform does not pass on yet.

use crate::{CpuidSource, CpuidState};

/// Leaves kept. There are 25 fixed ones and up to 13 with subleaves.
const CAPACITY: usize = 48;
/// Highest standard and extended leaf shown.
const MAX_STANDARD: u32 = 0xd;
const MAX_EXTENDED: u32 = 0x8000_0021;

/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// Leaf 1 ECX: OSXSAVE, XSAVE.
const ECX_OSXSAVE: u32 = 1 << 27;
const ECX_XSAVE: u32 = 1 << 26;
/// XCR0 components that a guest may turn on: x87, SSE, AVX and AVX-512.
const XCR0_X87: u64 = 1;
const XCR0_SSE: u64 = 1 << 1;
const XCR0_AVX: u64 = 1 << 2;
const XCR0_AVX512: u64 = 7 << 5;
/// Guest-physical address bits, enough for the RAM and devices that there are.
/// Fewer than the processor's: above them are the bits by which the platform
/// tells private from shared memory.
pub(crate) const PHYSICAL_BITS: u32 = 40;

/// Leaf 1 ECX: SSE3 0, PCLMULQDQ 1, SSSE3 9, FMA 12, CX16 13, PCID 17, SSE4.1 19,
/// SSE4.2 20, MOVBE 22, POPCNT 23, AES 25, XSAVE 26, AVX 28, F16C 29, RDRAND 30.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1 EDX: FPU 0, VME 1, DE 2, PSE 3, TSC 4, MSR 5, PAE 6, CX8 8, SEP 11, PGE 13,
/// CMOV 15, PAT 16, PSE36 17, CLFLUSH 19, MMX 23, FXSR 24, SSE 25, SSE2 26.
/// The platform adds APIC 9 and MTRR 12, which it emulates.
const LEAF1_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26,
]);
const EDX_EMULATED: u32 = bits(&[9, 12]);
/// Leaf 7 EBX: FSGSBASE 0, BMI1 3, AVX2 5, SMEP 7, BMI2 8, ERMS 9, INVPCID 10, RDSEED 18,
/// ADX 19, SMAP 20, CLFLUSHOPT 23, CLWB 24, SHA 29; AVX-512: F 16, DQ 17, IFMA 21,
/// CD 28, BW 30, VL 31.
const LEAF7_EBX: u32 = bits(&[0, 3, 5, 7, 8, 9, 10, 18, 19, 20, 23, 24, 29]);
const LEAF7_EBX_AVX512: u32 = bits(&[16, 17, 21, 28, 30, 31]);
/// Leaf 7 ECX: UMIP 2, GFNI 8, VAES 9, VPCLMULQDQ 10, RDPID 22; AVX-512: VBMI 1, VBMI2 6,
/// VNNI 11, BITALG 12, VPOPCNTDQ 14.
const LEAF7_ECX: u32 = bits(&[2, 8, 9, 10, 22]);
const LEAF7_ECX_AVX512: u32 = bits(&[1, 6, 11, 12, 14]);
/// Leaf 7 EDX: FSRM 4.
const LEAF7_EDX: u32 = bits(&[4]);
/// Leaf 0x8000_0001 ECX: LAHF 0, ABM 5, SSE4A 6, misaligned SSE 7, PREFETCHW 8, XOP 11,
/// FMA4 16, TBM 21, topology extensions 22.
const EXT1_ECX: u32 = bits(&[0, 5, 6, 7, 8, 11, 16, 21, 22]);
/// Leaf 0x8000_0001 EDX: those of leaf 1 that AMD repeats, SYSCALL 11, NX 20, MMX
/// extensions 22, FXSR 24, fast FXSR 25, 1 GiB pages 26, RDTSCP 27, long mode 29.
const EXT1_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29,
]);
/// Leaf 0x8000_0008 EBX: CLZERO 0, XSAVE saves error pointers 2.
const EXT8_EBX: u32 = bits(&[0, 2]);
/// Leaf 0x8000_0021 EAX: LFENCE serializes 2, null selector clears base 6.
const EXT21_EAX: u32 = bits(&[2, 6]);

const fn bits(list: &[u32]) -> u32 {
    let mut value = 0u32;
    let mut rest = list;
    while let [bit, tail @ ..] = rest {
        value |= 1u32.wrapping_shl(*bit);
        rest = tail;
    }
    value
}

/// A processor among those of the machine: cores of one package, without threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// APIC ID.
    pub id: u8,
    /// How many there are, at least 1.
    pub count: u8,
}

impl Place {
    /// Bits of an APIC ID that tell cores apart.
    fn shift(self) -> u32 {
        let last = u32::from(self.count.saturating_sub(1));
        u32::BITS.saturating_sub(last.leading_zeros())
    }

    /// Writes what leaves say of the topology where there are several processors.
    fn fill(self, leaf: u32, subleaf: u32, registers: &mut [u32; 4]) {
        let [eax, ebx, ecx, edx] = registers;
        let (id, count) = (u32::from(self.id), u32::from(self.count));
        let others = count.saturating_sub(1);
        match (leaf, subleaf) {
            // Several logical processors (bit 28: the count is valid).
            (1, _) => {
                *ebx = *ebx & 0xffff | count << 16 | id << 24;
                *edx |= 1 << 28;
            }
            // One thread per core; the cores of the package.
            (0xb, 0) => [*eax, *ebx, *ecx, *edx] = [0, 1, 0x100, id],
            (0xb, 1) => [*eax, *ebx, *ecx, *edx] = [self.shift(), count, 0x201, id],
            (0xb, _) => *edx = id,
            // CmpLegacy: they are cores, not threads.
            (0x8000_0001, _) => *ecx |= 1 << 1,
            (0x8000_0008, _) => *ecx = self.shift() << 12 | others,
            // All share the third cache (bits 5 to 7 are the level), none the others.
            (0x8000_001d, _) if *eax >> 5 & 7 == 3 => *eax = *eax & !0x03ff_c000 | others << 14,
            (0x8000_001e, _) => [*eax, *ebx] = [id, id],
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Leaf {
    leaf: u32,
    subleaf: u32,
    registers: [u32; 4],
}

/// The guest's CPUID.
#[derive(Clone, Debug)]
pub(crate) struct Cpuid {
    leaves: [Leaf; CAPACITY],
    count: usize,
    max_standard: u32,
    max_extended: u32,
    xcr0_supported: u64,
}

impl Cpuid {
    /// Filters the leaves of `host`. `invariant_tsc`: the platform promises a
    /// constant TSC rate.
    pub(crate) fn new(host: &dyn CpuidSource) -> Cpuid {
        let empty = Leaf {
            leaf: 0,
            subleaf: 0,
            registers: [0; 4],
        };
        let mut cpuid = Cpuid {
            leaves: [empty; CAPACITY],
            count: 0,
            max_standard: 0,
            max_extended: 0,
            xcr0_supported: 0,
        };
        let get = |leaf, subleaf| host.cpuid(leaf, subleaf).unwrap_or_default();
        cpuid.standard(&get);
        cpuid.extended(&get);
        cpuid
    }

    fn put(&mut self, leaf: u32, subleaf: u32, registers: [u32; 4]) {
        if let Some(slot) = self.leaves.get_mut(self.count) {
            *slot = Leaf {
                leaf,
                subleaf,
                registers,
            };
            self.count = self.count.saturating_add(1);
        }
    }

    fn standard(&mut self, get: &impl Fn(u32, u32) -> [u32; 4]) {
        let [max, vendor_b, vendor_c, vendor_d] = get(0, 0);
        self.max_standard = max.clamp(1, MAX_STANDARD);
        self.put(0, 0, [self.max_standard, vendor_b, vendor_c, vendor_d]);

        let [signature, brand, ecx, edx] = get(1, 0);
        // EBX: APIC ID 0 and one processor (see `Place` for several); brand and CLFLUSH size as they are.
        let brand = (brand & 0xffff) | 1 << 16;
        let ecx = ecx & LEAF1_ECX;
        self.put(
            1,
            0,
            [signature, brand, ecx, (edx & LEAF1_EDX) | EDX_EMULATED],
        );

        // XSAVE components: what the processor has of what we allow.
        let xsave = get(0xd, 0);
        let mut xcr0 = 0;
        if ecx & ECX_XSAVE != 0 && max >= 0xd {
            let host = u64::from(xsave[0]) | u64::from(xsave[3]) << 32;
            xcr0 = host & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
            let needed = XCR0_AVX | XCR0_AVX512;
            if host & needed == needed {
                xcr0 |= XCR0_AVX512;
            }
        }
        self.xcr0_supported = xcr0;

        // ARAT: the APIC timer never stops.
        self.put(6, 0, [1 << 2, 0, 0, 0]);

        let [_, ebx, ecx, edx] = get(7, 0);
        let wide = xcr0 & XCR0_AVX512 != 0;
        let ebx_mask = LEAF7_EBX | if wide { LEAF7_EBX_AVX512 } else { 0 };
        let ecx_mask = LEAF7_ECX | if wide { LEAF7_ECX_AVX512 } else { 0 };
        self.put(7, 0, [0, ebx & ebx_mask, ecx & ecx_mask, edx & LEAF7_EDX]);

        // One thread in one core: both levels have no ID bits and one processor.
        self.put(0xb, 0, [0, 1, 0x100, 0]);
        self.put(0xb, 1, [0, 1, 0x201, 0]);

        if xcr0 != 0 {
            // Sizes of leaf 0xd subleaf 0 are made when asked for.
            self.put(0xd, 0, [xcr0 as u32, 0, 0, (xcr0 >> 32) as u32]);
            // XSAVEOPT, XSAVEC, XGETBV with ECX 1; no XSAVES, so no IA32_XSS.
            let [eax, _, _, _] = get(0xd, 1);
            self.put(0xd, 1, [eax & 7, 0, 0, 0]);
            for component in 2u32..8 {
                if xcr0.wrapping_shr(component) & 1 != 0 {
                    let [size, offset, flags, _] = get(0xd, component);
                    self.put(0xd, component, [size, offset, flags & 2, 0]);
                }
            }
        }
    }

    fn extended(&mut self, get: &impl Fn(u32, u32) -> [u32; 4]) {
        let [max, b, c, d] = get(0x8000_0000, 0);
        self.max_extended = max.clamp(0x8000_0008, MAX_EXTENDED);
        self.put(0x8000_0000, 0, [self.max_extended, b, c, d]);

        let [signature, brand, ecx, edx] = get(0x8000_0001, 0);
        let topology = if self.max_extended >= 0x8000_001e {
            0
        } else {
            1 << 22
        };
        let ecx = ecx & EXT1_ECX & !topology;
        self.put(
            0x8000_0001,
            0,
            [signature, brand, ecx, (edx & EXT1_EDX) | EDX_EMULATED],
        );
        for leaf in 0x8000_0002..=0x8000_0006 {
            self.put(leaf, 0, get(leaf, 0));
        }
        // Invariant TSC: the guest's clock rests on it.
        self.put(0x8000_0007, 0, [0, 0, 0, 1 << 8]);
        let [sizes, ebx, _, _] = get(0x8000_0008, 0);
        let physical = (sizes & 0xff).clamp(36, PHYSICAL_BITS);
        let virtual_bits = (sizes >> 8 & 0xff).clamp(48, 48);
        self.put(
            0x8000_0008,
            0,
            [physical | virtual_bits << 8, ebx & EXT8_EBX, 0, 0],
        );
        self.put(0x8000_0019, 0, get(0x8000_0019, 0));
        let [fast, _, _, _] = get(0x8000_001a, 0);
        self.put(0x8000_001a, 0, [fast & 7, 0, 0, 0]);
        for subleaf in 0..4 {
            let [eax, ebx, ecx, edx] = get(0x8000_001d, subleaf);
            // Nobody shares the caches (bits 14 to 25).
            self.put(0x8000_001d, subleaf, [eax & !0x03ff_c000, ebx, ecx, edx]);
        }
        // Leaf 0x8000_001e (IDs) stays all zero: APIC 0, core 0, one thread, node 0. Where
        // there are several processors, `Place` writes it.
        let [eax, _, _, _] = get(0x8000_0021, 0);
        self.put(0x8000_0021, 0, [eax & EXT21_EAX, 0, 0, 0]);
    }

    /// What CPUID returns on the processor `place`.
    pub(crate) fn get_at(
        &self,
        leaf: u32,
        subleaf: u32,
        state: CpuidState,
        place: Place,
    ) -> [u32; 4] {
        let mut registers = self.get(leaf, subleaf, state);
        if place.count > 1 {
            place.fill(self.in_range(leaf), subleaf, &mut registers);
        }
        registers
    }

    /// What it returns where there is one processor.
    pub(crate) fn get(&self, leaf: u32, subleaf: u32, state: CpuidState) -> [u32; 4] {
        let leaf = self.in_range(leaf);
        let has_subleaves = matches!(leaf, 7 | 0xb | 0xd | 0x8000_001d);
        let index = if has_subleaves { subleaf } else { 0 };
        let mut registers = self.find(leaf, index).unwrap_or_default();
        let [_, ebx, ecx, _] = &mut registers;
        match (leaf, index) {
            (1, _) if *ecx & ECX_XSAVE != 0 && state.cr4 & CR4_OSXSAVE != 0 => *ecx |= ECX_OSXSAVE,
            // A level that does not exist still tells which was asked for.
            (0xb, 2..) => *ecx = subleaf & 0xff,
            (0xd, 0) if self.xcr0_supported != 0 => {
                *ebx = self.xsave_size(state.xcr0 & self.xcr0_supported);
                *ecx = self.xsave_size(self.xcr0_supported);
            }
            (0xd, 1) if self.xcr0_supported != 0 => {
                *ebx = self.compact_size(state.xcr0 & self.xcr0_supported);
            }
            _ => {}
        }
        registers
    }

    /// AMD parts answer zeros for a leaf that does not exist.
    fn in_range(&self, leaf: u32) -> u32 {
        let known = leaf <= self.max_standard || (0x8000_0000..=self.max_extended).contains(&leaf);
        if known { leaf } else { u32::MAX }
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        let used = self.leaves.get(..self.count)?;
        let found = used
            .iter()
            .find(|entry| entry.leaf == leaf && entry.subleaf == subleaf)?;
        Some(found.registers)
    }

    /// Components of an XSAVE area beyond the legacy part: size and offset.
    fn components(&self, xcr0: u64) -> impl Iterator<Item = (u32, u32)> + '_ {
        (2u32..8)
            .filter(move |component| xcr0.wrapping_shr(*component) & 1 != 0)
            .filter_map(|component| {
                let [size, offset, ..] = self.find(0xd, component)?;
                Some((size, offset))
            })
    }

    /// Size of an XSAVE area in standard form; 512 + 64 for legacy part and header.
    fn xsave_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0).fold(576, |end, (size, offset)| {
            end.max(offset.saturating_add(size))
        })
    }

    /// Size in compact form. No component here needs 64-byte alignment.
    fn compact_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0)
            .fold(576, |end: u32, (size, _)| end.saturating_add(size))
    }

    /// Whether the guest may set XCR0 to `value` (APM volume 2, 11.5.2).
    pub(crate) fn xcr0_allowed(&self, value: u64) -> bool {
        value & XCR0_X87 != 0
            && value & !self.xcr0_supported == 0
            && (value & XCR0_AVX == 0 || value & XCR0_SSE != 0)
            && (value & XCR0_AVX512 == 0
                || value & (XCR0_AVX512 | XCR0_AVX) == XCR0_AVX512 | XCR0_AVX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::HostCpu;

    const STATE: CpuidState = CpuidState { cr4: 0, xcr0: 1 };

    /// A processor that claims everything.
    struct Everything;
    impl CpuidSource for Everything {
        fn cpuid(&self, _: u32, _: u32) -> Option<[u32; 4]> {
            Some([u32::MAX; 4])
        }
    }
    /// A platform that vouches for nothing.
    struct Nothing;
    impl CpuidSource for Nothing {
        fn cpuid(&self, _: u32, _: u32) -> Option<[u32; 4]> {
            None
        }
    }

    #[test]
    fn no_sign_of_hypervisor_svm_or_memory_encryption() {
        let cpuid = Cpuid::new(&Everything);
        let [_, _, ecx, edx] = cpuid.get(1, 0, STATE);
        assert_eq!(ecx >> 31, 0, "hypervisor present");
        assert_eq!(ecx & bits(&[3, 21, 24]), 0, "MONITOR, x2APIC, TSC deadline");
        assert_eq!(edx & bits(&[7, 14]), 0, "MCE, MCA");
        assert_eq!(cpuid.get(0x8000_0001, 0, STATE)[2] & 1 << 2, 0, "SVM");
        for leaf in [
            0x8000_000a,
            0x8000_001f,
            0x8000_0020,
            0x4000_0000,
            0x4000_0100,
            10,
            15,
            16,
        ] {
            assert_eq!(cpuid.get(leaf, 0, STATE), [0; 4], "{leaf:#x}");
        }
        assert_eq!(cpuid.get(0x8000_0022, 0, STATE), [0; 4]);
        assert_eq!(cpuid.get(0xc000_0000, 0, STATE), [0; 4]);
    }

    /// SYN-30: whatever a source has in the leaves of hypervisors, nobody asks for
    /// them, and the guest reads zeros.
    #[test]
    fn syn_30_hypervisor_leaves_are_neither_read_nor_shown() {
        struct Recorder(core::cell::RefCell<std::vec::Vec<u32>>);
        impl CpuidSource for Recorder {
            fn cpuid(&self, leaf: u32, _: u32) -> Option<[u32; 4]> {
                self.0.borrow_mut().push(leaf);
                Some([u32::MAX; 4])
            }
        }
        let source = Recorder(Default::default());
        let cpuid = Cpuid::new(&source);
        for leaf in (0x4000_0000..0x4000_0400).chain(0x4f00_0000..0x4f00_0010) {
            for subleaf in [0, 1, u32::MAX] {
                assert_eq!(cpuid.get(leaf, subleaf, STATE), [0; 4], "{leaf:#x}");
            }
        }
        assert_eq!(cpuid.get(1, 0, STATE)[2] >> 31, 0, "hypervisor present");
        let asked = source.0.into_inner();
        assert!(asked.len() > 10);
        let hypervisors = asked.iter().filter(|leaf| *leaf >> 28 == 4);
        assert_eq!(hypervisors.count(), 0, "SYN-30: {asked:x?}");
    }

    #[test]
    fn any_source_gives_a_bounded_table() {
        for cpuid in [
            Cpuid::new(&Everything),
            Cpuid::new(&Nothing),
            Cpuid::new(&HostCpu),
        ] {
            assert!(cpuid.count < CAPACITY);
            for leaf in (0..0x20)
                .chain(0x8000_0000..0x8000_0030)
                .chain([0x4000_0000, u32::MAX])
            {
                for subleaf in [0, 1, 2, 7, 63, u32::MAX] {
                    cpuid.get(
                        leaf,
                        subleaf,
                        CpuidState {
                            cr4: u64::MAX,
                            xcr0: u64::MAX,
                        },
                    );
                }
            }
        }
    }

    #[test]
    fn osxsave_follows_cr4() {
        let cpuid = Cpuid::new(&HostCpu);
        assert_eq!(cpuid.get(1, 0, STATE)[2] & ECX_OSXSAVE, 0);
        let on = CpuidState {
            cr4: CR4_OSXSAVE,
            xcr0: 1,
        };
        assert_eq!(cpuid.get(1, 0, on)[2] & ECX_OSXSAVE, ECX_OSXSAVE);
    }

    #[test]
    fn xsave_sizes_follow_xcr0() {
        let cpuid = Cpuid::new(&HostCpu);
        assert_eq!(
            cpuid.get(0xd, 0, CpuidState { cr4: 0, xcr0: 3 }),
            [7, 576, 832, 0]
        );
        assert_eq!(cpuid.get(0xd, 0, CpuidState { cr4: 0, xcr0: 7 })[1], 832);
        assert_eq!(cpuid.get(0xd, 1, CpuidState { cr4: 0, xcr0: 7 })[1], 832);
        assert_eq!(cpuid.get(0xd, 2, STATE), [256, 576, 0, 0]);
        assert_eq!(cpuid.get(0xd, 9, STATE), [0; 4]);
        for (value, allowed) in [
            (0, false),
            (1, true),
            (3, true),
            (5, false),
            (7, true),
            (0xe7, false),
        ] {
            assert_eq!(cpuid.xcr0_allowed(value), allowed, "{value}");
        }
    }

    #[test]
    fn topology_is_one_processor() {
        let cpuid = Cpuid::new(&Everything);
        assert_eq!(cpuid.get(1, 0, STATE)[1] >> 16, 1);
        assert_eq!(cpuid.get(0xb, 0, STATE), [0, 1, 0x100, 0]);
        assert_eq!(cpuid.get(0xb, 1, STATE), [0, 1, 0x201, 0]);
        assert_eq!(cpuid.get(0xb, 5, STATE), [0, 0, 5, 0]);
        assert_eq!(cpuid.get(0x8000_001e, 0, STATE), [0; 4]);
        assert_eq!(cpuid.get(0x8000_001d, 3, STATE)[0] >> 14 & 0xfff, 0);
        assert_eq!(cpuid.get(0x8000_0008, 0, STATE)[0], 40 | 48 << 8);
    }
}
