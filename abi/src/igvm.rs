//! The Independent Guest Virtual Machine (IGVM) file, format version 1, as far
//! as the SNP image uses it, and the one host-filled parameter that the firmware
//! reads: the memory map.
//!
//! Source: `igvm_defs` 0.5 (github.com/microsoft/igvm), structures of the same
//! names. Everything in the file is little endian.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "IGVM", the first four bytes of a file.
pub const MAGIC: u32 = u32::from_le_bytes(*b"IGVM");
/// The only format version that we write and read.
pub const FORMAT_VERSION_1: u32 = 1;
/// All addresses and sizes count in pages of this size.
pub const PAGE_SIZE: u64 = 4096;

/// `IGVM_FIXED_HEADER`, at offset 0 of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct FixedHeader {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`FORMAT_VERSION_1`].
    pub format_version: U32,
    /// Offset of the variable headers in the file; multiple of 8.
    pub variable_header_offset: U32,
    /// Their size in bytes.
    pub variable_header_size: U32,
    /// Size of the whole file in bytes.
    pub total_file_size: U32,
    /// CRC-32 (IEEE) over fixed and variable headers, this field taken as zero.
    pub checksum: U32,
}
const_assert_eq!(core::mem::size_of::<FixedHeader>(), 24);

/// `IGVM_VHS_VARIABLE_HEADER`: before each structure; the structure is padded to
/// a multiple of 8 bytes, `length` does not count the padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct VariableHeader {
    /// One of [`header_type`]; the top bit means "ignore if unknown".
    pub kind: U32,
    /// Length of the structure in bytes.
    pub length: U32,
}
const_assert_eq!(core::mem::size_of::<VariableHeader>(), 8);

/// `IgvmVariableHeaderType`.
pub mod header_type {
    /// [`super::SupportedPlatform`].
    pub const SUPPORTED_PLATFORM: u32 = 0x1;
    /// First type of the initialization section.
    pub const INIT_FIRST: u32 = 0x101;
    /// [`super::GuestPolicy`].
    pub const GUEST_POLICY: u32 = 0x101;
    /// First type of the directive section.
    pub const DIRECTIVE_FIRST: u32 = 0x301;
    /// [`super::ParameterArea`].
    pub const PARAMETER_AREA: u32 = 0x301;
    /// [`super::PageData`].
    pub const PAGE_DATA: u32 = 0x302;
    /// [`super::ParameterInsert`].
    pub const PARAMETER_INSERT: u32 = 0x303;
    /// [`super::VpContext`].
    pub const VP_CONTEXT: u32 = 0x304;
    /// [`super::RequiredMemory`].
    pub const REQUIRED_MEMORY: u32 = 0x305;
    /// [`super::Parameter`]: the number of virtual processors (u32).
    pub const VP_COUNT: u32 = 0x307;
    /// [`super::Parameter`]: array of [`super::MemoryMapEntry`].
    pub const MEMORY_MAP: u32 = 0x30c;
    /// [`super::Parameter`]: the host's command line, NUL-terminated.
    pub const COMMAND_LINE: u32 = 0x30e;
    /// A loader that does not know the type may ignore the structure.
    pub const OPTIONAL: u32 = 1 << 31;
}

/// `IgvmPlatformType`.
pub mod platform_type {
    /// AMD SEV-SNP.
    pub const SEV_SNP: u8 = 0x02;
}

/// `IGVM_VHS_SUPPORTED_PLATFORM`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct SupportedPlatform {
    /// One bit which later structures name to belong to this platform.
    pub compatibility_mask: U32,
    /// Highest VTL that the image brings.
    pub highest_vtl: u8,
    /// [`platform_type`].
    pub platform_type: u8,
    /// Version of the platform definition (1).
    pub platform_version: U16,
    /// For SNP: the virtual top of memory of lower layers.
    pub shared_gpa_boundary: U64,
}
const_assert_eq!(core::mem::size_of::<SupportedPlatform>(), 16);

/// `IGVM_VHS_GUEST_POLICY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct GuestPolicy {
    /// The SNP guest policy.
    pub policy: U64,
    /// Platforms that this belongs to.
    pub compatibility_mask: U32,
    /// Zero.
    pub reserved: U32,
}
const_assert_eq!(core::mem::size_of::<GuestPolicy>(), 16);

/// `IGVM_VHS_PARAMETER_AREA`: memory of the loader which parameter structures
/// fill and [`ParameterInsert`] places.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ParameterArea {
    /// Size; multiple of the page size.
    pub number_of_bytes: U64,
    /// Name of the area in later structures.
    pub parameter_area_index: U32,
    /// Offset of initial content in the file, 0 = zeros.
    pub file_offset: U32,
}
const_assert_eq!(core::mem::size_of::<ParameterArea>(), 16);

/// [`PageData::flags`]: the data describe a 2 MiB page.
pub const PAGE_FLAG_2MB: u32 = 1 << 0;
/// [`PageData::flags`]: the content is not measured.
pub const PAGE_FLAG_UNMEASURED: u32 = 1 << 1;
/// [`PageData::flags`]: the page is shared with the host.
pub const PAGE_FLAG_SHARED: u32 = 1 << 2;

/// `IgvmPageDataType`.
pub mod page_type {
    /// Ordinary data.
    pub const NORMAL: u16 = 0;
    /// The platform's secrets page.
    pub const SECRETS: u16 = 1;
    /// The SNP CPUID page.
    pub const CPUID_DATA: u16 = 2;
    /// CPUID page for extended state, a loader's second page.
    pub const CPUID_XF: u16 = 3;
}

/// `IGVM_VHS_PAGE_DATA`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct PageData {
    /// Where the page goes; page aligned.
    pub gpa: U64,
    /// Platforms that this belongs to.
    pub compatibility_mask: U32,
    /// Offset of the content in the file, 0 = zeros.
    pub file_offset: U32,
    /// `PAGE_FLAG_*`.
    pub flags: U32,
    /// [`page_type`].
    pub data_type: U16,
    /// Zero.
    pub reserved: U16,
}
const_assert_eq!(core::mem::size_of::<PageData>(), 24);

/// `IGVM_VHS_PARAMETER_INSERT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ParameterInsert {
    /// Where the area goes; page aligned.
    pub gpa: U64,
    /// Platforms that this belongs to.
    pub compatibility_mask: U32,
    /// Which area.
    pub parameter_area_index: U32,
}
const_assert_eq!(core::mem::size_of::<ParameterInsert>(), 16);

/// `IGVM_VHS_PARAMETER`: the loader writes a value to an area.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Parameter {
    /// Which area.
    pub parameter_area_index: U32,
    /// Where in the area, in bytes.
    pub byte_offset: U32,
}
const_assert_eq!(core::mem::size_of::<Parameter>(), 8);

/// `IGVM_VHS_VP_CONTEXT`; for SNP the content is the VMSA.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct VpContext {
    /// Where the VMSA goes; page aligned.
    pub gpa: U64,
    /// Platforms that this belongs to.
    pub compatibility_mask: U32,
    /// Offset of the VMSA in the file.
    pub file_offset: U32,
    /// Index of the virtual processor.
    pub vp_index: U16,
    /// Zero.
    pub reserved: U16,
}
const_assert_eq!(core::mem::size_of::<VpContext>(), 20);

/// [`RequiredMemory::flags`]: lower VTLs can be denied access.
pub const REQUIRED_MEMORY_VTL2_PROTECTABLE: u32 = 1 << 0;

/// `IGVM_VHS_REQUIRED_MEMORY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct RequiredMemory {
    /// Start of the range; page aligned.
    pub gpa: U64,
    /// Platforms that this belongs to.
    pub compatibility_mask: U32,
    /// Size in bytes; page aligned.
    pub number_of_bytes: U32,
    /// `REQUIRED_MEMORY_*`.
    pub flags: U32,
    /// Zero.
    pub reserved: U32,
}
const_assert_eq!(core::mem::size_of::<RequiredMemory>(), 24);

/// `MemoryMapEntryType`. Host input: unknown values are possible.
pub mod memory_type {
    /// Normal memory.
    pub const MEMORY: u16 = 0;
    /// Reserved by the platform.
    pub const PLATFORM_RESERVED: u16 = 1;
    /// Persistent memory.
    pub const PERSISTENT: u16 = 2;
    /// Memory that can be denied to lower VTLs.
    pub const VTL2_PROTECTABLE: u16 = 3;
}

/// `IGVM_VHS_MEMORY_MAP_ENTRY`: one range of the memory that the host says the
/// VM has. An entry with `number_of_pages` = 0 ends the array. Unmeasured host
/// input: to be judged before use.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct MemoryMapEntry {
    /// First page number (GPA / 4096).
    pub starting_gpa_page_number: U64,
    /// Number of pages; 0 ends the array.
    pub number_of_pages: U64,
    /// [`memory_type`].
    pub entry_type: U16,
    /// No flag is defined.
    pub flags: U16,
    /// Zero.
    pub reserved: U32,
}
const_assert_eq!(core::mem::size_of::<MemoryMapEntry>(), 24);

/// How many [`MemoryMapEntry`] fit into one page of parameters.
pub const MEMORY_MAP_ENTRIES_PER_PAGE: usize = 4096 / core::mem::size_of::<MemoryMapEntry>();
const_assert_eq!(MEMORY_MAP_ENTRIES_PER_PAGE, 170);

/// Where the one page of parameters holds the number of virtual processors (u32):
/// behind the memory map, which leaves 16 bytes.
pub const VP_COUNT_OFFSET: usize =
    MEMORY_MAP_ENTRIES_PER_PAGE * core::mem::size_of::<MemoryMapEntry>();
const_assert_eq!(VP_COUNT_OFFSET, 4080);
