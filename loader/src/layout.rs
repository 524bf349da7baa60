//! Where everything lies in the VM's physical address space, and where the
//! paravisor sees it.
//!
//! Guest RAM starts at GPA 0. The paravisor's region is a hole in the guest's
//! memory map, reserved there and without permissions for VMPL2. All numbers
//! are guest physical addresses in bytes unless a name says otherwise; every
//! range is [`Range`], start inclusive, end exclusive. Compile-time assertions
//! at the end of this file keep the ranges apart.
//!
//! | offset in the region | what |
//! |---|---|
//! | 0x0 | unmapped |
//! | 0x1000 | boot VMSA of VMPL0 |
//! | 0x2000, 0x3000 | CPUID page, spare |
//! | 0x4000 | secrets page |
//! | 0x5000 | parameter page: IGVM memory map, written by the host, unmeasured |
//! | 0x6000 | configuration page ([`crate::config::Config`]), measured |
//! | 0x7000 | boot GDT |
//! | 0x8000 | page tables of VMPL0 |
//! | 0x2_0000 | loader stage |
//! | 0x4_0000 | paravisor |
//! | 0x10_0000 | private RAM: heap, then the boot stack; validated by the stage |
//! | 0x80_0000 | pool of pages that become shared at run time |
//!
//! Behind the region lie the areas of the processors from the second on, as many as
//! there are ([`owned`]); the rest of [`VP_AREAS`] is ordinary guest RAM.
//!
//! | offset in the area of a VP | what |
//! |---|---|
//! | 0x0 | never validated: a stack that overflows ends here |
//! | 0x1000 | stack |
//! | 0x1_1000 | what the VP has for itself (`PerVp` of the paravisor) |
//! | 0x1_2000 | VMSA with which VMPL0 starts |
//! | 0x1_3000 | VMSA of the guest |
//! | 0x1_4000 | stacks for exceptions |

/// A half-open range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

impl Range {
    /// `size` bytes from `start`. For constants.
    #[allow(
        clippy::arithmetic_side_effects,
        reason = "called in constants only, where overflow stops the compiler"
    )]
    const fn sized(start: u64, size: u64) -> Range {
        Range {
            start,
            end: start + size,
        }
    }

    /// Length in bytes (0 for a range that ends before it starts).
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether `address` lies inside.
    pub const fn contains(self, address: u64) -> bool {
        address >= self.start && address < self.end
    }

    /// Whether all of `other` lies inside.
    pub const fn contains_range(self, other: Range) -> bool {
        other.start >= self.start && other.end <= self.end && other.start <= other.end
    }

    /// Whether a byte lies in both.
    pub const fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Size of a page in bytes.
pub const PAGE: u64 = 0x1000;
/// Size of a large page in bytes.
pub const LARGE_PAGE: u64 = 0x20_0000;

/// Least guest RAM of a VM.
pub const MEMORY_MIN: u64 = 0x1000_0000;
/// Most guest RAM of a VM: everything stays below the 32-bit device hole.
pub const MEMORY_MAX: u64 = 0x8000_0000;
/// Guest RAM that the tools assume unless told otherwise.
pub const MEMORY_DEFAULT: u64 = 0x2000_0000;
/// Guest RAM is a multiple of this.
pub const MEMORY_ALIGN: u64 = LARGE_PAGE;
/// RAM that must be left above the initrd, for the kernel that unpacks it.
pub const MEMORY_ABOVE_INITRD: u64 = 0x400_0000;

/// Start of the paravisor's region.
pub const BASE: u64 = 0x0800_0000;
/// Size of the paravisor's region.
pub const SIZE: u64 = 0x0100_0000;
/// The paravisor's region.
pub const REGION: Range = Range::sized(BASE, SIZE);

/// `size` bytes at `offset` in the region. For constants, like [`Range::sized`].
#[allow(
    clippy::arithmetic_side_effects,
    reason = "called in constants only, where overflow stops the compiler"
)]
const fn at(offset: u64, size: u64) -> Range {
    Range::sized(BASE + offset, size)
}

/// Never mapped: the region's first page.
pub const GUARD: Range = at(0x0, PAGE);
/// VMSA with which VMPL0 starts.
pub const BOOT_VMSA: Range = at(0x1000, PAGE);
/// The SNP CPUID page.
pub const CPUID_PAGE: Range = at(0x2000, PAGE);
/// Room for a second CPUID page; not in the image, not mapped.
pub const CPUID_PAGE_2: Range = at(0x3000, PAGE);
/// The SNP secrets page.
pub const SECRETS_PAGE: Range = at(0x4000, PAGE);
/// Array of [`abi::igvm::MemoryMapEntry`]; unmeasured host input.
pub const PARAMETER_PAGE: Range = at(0x5000, PAGE);
/// [`crate::config::Config`]; measured.
pub const CONFIG_PAGE: Range = at(0x6000, PAGE);
/// The GDT of [`BOOT_GDT_ENTRIES`], measured.
pub const BOOT_GDT: Range = at(0x7000, PAGE);
/// Room for VMPL0's page tables.
pub const PAGE_TABLES: Range = at(0x8000, 0x1_8000);
/// Room for the loader stage.
pub const STAGE: Range = at(0x2_0000, 0x2_0000);
/// Room for the paravisor's ELF: text, rodata, data, bss.
pub const PARAVISOR: Range = at(0x4_0000, 0xc_0000);
/// Private RAM which the stage validates before the paravisor starts.
pub const PRIVATE_RAM: Range = at(0x10_0000, 0x70_0000);
/// Part of [`PRIVATE_RAM`]: the paravisor's heap. It has room for what 64 VPs need.
pub const HEAP: Range = at(0x10_0000, 0x6b_f000);
/// Part of [`PRIVATE_RAM`], not mapped: an overflowing boot stack faults here.
pub const BOOT_STACK_GUARD: Range = at(0x7b_f000, PAGE);
/// Part of [`PRIVATE_RAM`]: the stack on which the paravisor is entered.
pub const BOOT_STACK: Range = at(0x7c_0000, 0x4_0000);
/// RSP at the paravisor's entry (16-byte aligned, nothing pushed).
pub const BOOT_STACK_TOP: u64 = BOOT_STACK.end;
/// Pages that become shared with the host at run time. Unvalidated at start and
/// without a private mapping.
pub const POOL: Range = at(0x80_0000, 0x80_0000);

/// Most virtual processors of a VM.
pub const MAX_VPS: u32 = 64;
/// Size of the area of one VP.
pub const VP_AREA: u64 = 0x4_0000;
/// Areas of all VPs but the first, which uses the region.
pub const VP_AREAS: Range = Range::sized(REGION.end, 63 * VP_AREA);
/// In a VP's area: its stack; the page below is never validated.
pub const VP_STACK: Range = Range::sized(0x1000, 0x1_0000);
/// In a VP's area: what it has for itself.
pub const VP_DATA: Range = Range::sized(0x1_1000, PAGE);
/// In a VP's area: VMSA with which VMPL0 starts.
pub const VP_VMSA: Range = Range::sized(0x1_2000, PAGE);
/// In a VP's area: VMSA of the guest.
pub const VP_GUEST_VMSA: Range = Range::sized(0x1_3000, PAGE);
/// In a VP's area: stacks for exceptions.
pub const VP_TRAP_STACKS: Range = Range::sized(0x1_4000, 0x1_4000);
/// In a VP's area: everything that is validated.
pub const VP_USED: Range = Range {
    start: VP_STACK.start,
    end: VP_TRAP_STACKS.end,
};

/// The area of VP `index`, from 1 on.
pub const fn vp_area(index: u32) -> Option<Range> {
    if index == 0 || index >= MAX_VPS {
        return None;
    }
    let offset = (index as u64).wrapping_sub(1).wrapping_mul(VP_AREA);
    let start = VP_AREAS.start.wrapping_add(offset);
    Some(Range {
        start,
        end: start.wrapping_add(VP_AREA),
    })
}

/// What of guest RAM is the paravisor's in a VM with `vps` processors: the region and
/// the areas, up to a multiple of 2 MiB.
pub const fn owned(vps: u32) -> Range {
    let end = match vp_area(vps.wrapping_sub(1)) {
        Some(area) => {
            area.end.wrapping_add(LARGE_PAGE.wrapping_sub(1)) & !(LARGE_PAGE.wrapping_sub(1))
        }
        None => REGION.end,
    };
    Range {
        start: REGION.start,
        end,
    }
}

/// Virtual address at which the pool is mapped shared (C bit clear): add the GPA.
/// Only [`POOL`] is mapped there.
pub const SHARED_WINDOW: u64 = 0x80_0000_0000;
/// End of the identity mapping with the C bit set.
pub const IDENTITY_END: u64 = 0x1_0000_0000;

/// C bit of the SNP parts on the market.
pub const C_BIT_DEFAULT: u32 = 51;
/// C bit of the emulating rig (QEMU with 48 physical address bits).
pub const C_BIT_RIG: u32 = 47;
/// The virtual top of memory bit of VMPL2.
pub const VTOM_BIT: u32 = 46;

/// Entries of the GDT in [`BOOT_GDT`]: null, 64-bit code (accessed), flat data.
pub const BOOT_GDT_ENTRIES: [u64; 4] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0];
/// Selector of the code segment in [`BOOT_GDT`].
pub const BOOT_CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment in [`BOOT_GDT`].
pub const BOOT_DATA_SELECTOR: u16 = 0x10;

/// The zero page (`abi::linux_boot::BootParams`), setup header copied in, measured.
pub const BOOT_PARAMS: Range = Range::sized(0x1_0000, PAGE);
/// The guest's command line, NUL-terminated, measured.
pub const CMDLINE: Range = Range::sized(0x2_0000, PAGE);
/// Page tables and GDT for the guest's 64-bit entry, written by the paravisor.
pub const GUEST_TABLES: Range = Range::sized(0x3_0000, 0x8000);
/// ACPI tables, written by the paravisor; reserved in the guest's e820.
pub const ACPI: Range = Range::sized(0xe_0000, 0x2_0000);
/// Load address of the protected-mode part of the bzImage.
pub const KERNEL_LOAD: u64 = 0x0100_0000;
/// What the kernel may use from its load address on (`init_size` must fit).
pub const KERNEL: Range = Range {
    start: KERNEL_LOAD,
    end: BASE,
};
/// Load address of the initrd.
pub const INITRD_LOAD: u64 = 0x0a00_0000;
/// Where the initrd may lie in the largest VM.
pub const INITRD: Range = Range {
    start: INITRD_LOAD,
    end: MEMORY_MAX,
};

/// Every range of the map that must not touch another one.
pub const DISJOINT: [Range; 21] = [
    BOOT_PARAMS,
    CMDLINE,
    GUEST_TABLES,
    ACPI,
    KERNEL,
    GUARD,
    BOOT_VMSA,
    CPUID_PAGE,
    CPUID_PAGE_2,
    SECRETS_PAGE,
    PARAMETER_PAGE,
    CONFIG_PAGE,
    BOOT_GDT,
    PAGE_TABLES,
    STAGE,
    PARAVISOR,
    HEAP,
    BOOT_STACK,
    POOL,
    VP_AREAS,
    INITRD,
];

#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: what is out of bounds or overflows is a build error"
)]
const _: () = {
    let mut i = 0;
    while i < DISJOINT.len() {
        let a = DISJOINT[i];
        assert!(a.start.is_multiple_of(PAGE) && a.end.is_multiple_of(PAGE) && !a.is_empty());
        assert!(a.end <= MEMORY_MAX);
        let mut j = i + 1;
        while j < DISJOINT.len() {
            assert!(!a.overlaps(DISJOINT[j]), "two ranges of the layout overlap");
            j += 1;
        }
        i += 1;
    }
    // Ranges after KERNEL and before VP_AREAS in the list belong to the region.
    let mut i = 5;
    while i < DISJOINT.len() - 2 {
        assert!(REGION.contains_range(DISJOINT[i]));
        i += 1;
    }
    assert!(PRIVATE_RAM.contains_range(HEAP));
    assert!(PRIVATE_RAM.contains_range(BOOT_STACK));
    assert!(PRIVATE_RAM.contains_range(BOOT_STACK_GUARD));
    assert!(HEAP.end == BOOT_STACK_GUARD.start);
    assert!(!BOOT_STACK_GUARD.overlaps(BOOT_STACK));
    assert!(BOOT_STACK.end == PRIVATE_RAM.end);
    assert!(PRIVATE_RAM.end == POOL.start && POOL.end == REGION.end);
    assert!(BASE.is_multiple_of(LARGE_PAGE) && POOL.start.is_multiple_of(LARGE_PAGE));
    assert!(POOL.end.is_multiple_of(LARGE_PAGE));
    // VMSA pages must not be 2 MiB aligned (erratum).
    assert!(!BOOT_VMSA.start.is_multiple_of(LARGE_PAGE));
    assert!(VP_AREAS.end <= INITRD_LOAD && INITRD_LOAD < MEMORY_MIN);
    assert!(owned(1).end == REGION.end && owned(MAX_VPS).end <= INITRD_LOAD);
    assert!(VP_AREAS.len() == (MAX_VPS as u64 - 1) * VP_AREA);
    // The pieces of a VP's area follow each other, and no VMSA in it can lie at a
    // multiple of 2 MiB.
    assert!(VP_STACK.start == PAGE && VP_STACK.end == VP_DATA.start);
    assert!(VP_DATA.end == VP_VMSA.start && VP_VMSA.end == VP_GUEST_VMSA.start);
    assert!(VP_GUEST_VMSA.end == VP_TRAP_STACKS.start && VP_USED.end <= VP_AREA);
    assert!(LARGE_PAGE.is_multiple_of(VP_AREA) && VP_AREAS.start.is_multiple_of(VP_AREA));
    assert!(VP_VMSA.start != 0 && VP_GUEST_VMSA.start != 0);
    assert!(MEMORY_MIN <= MEMORY_DEFAULT && MEMORY_DEFAULT <= MEMORY_MAX);
    assert!(BOOT_STACK_TOP.is_multiple_of(16));
    // The shared window and the identity mapping use different top-level entries.
    assert!(SHARED_WINDOW >= 1 << 39 && IDENTITY_END <= 1 << 39);
};

/// Whether `memory` bytes of guest RAM are a size that this layout supports.
pub const fn memory_size_ok(memory: u64) -> bool {
    memory >= MEMORY_MIN && memory <= MEMORY_MAX && memory.is_multiple_of(MEMORY_ALIGN)
}
