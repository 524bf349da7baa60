//! The Linux x86 boot protocol, as far as a 64-bit entry without firmware needs
//! it: the setup header of a bzImage, the zero page (`boot_params`), e820.
//!
//! Sources: Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`;
//! `arch/x86/include/uapi/asm/bootparam.h` (struct `setup_header`,
//! `boot_params`) and `asm/setup_data.h`.
//!
//! Multi-byte fields are unaligned little-endian types: the setup header starts
//! at an odd offset.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of [`SetupHeader`] in the bzImage and in the zero page.
pub const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// `boot_flag` of every bzImage.
pub const BOOT_FLAG: u16 = 0xaa55;
/// `header` of every bzImage: "HdrS".
pub const HEADER_MAGIC: u32 = 0x5372_6448;
/// First protocol with `xloadflags` (2.12), needed for the 64-bit entry.
pub const PROTOCOL_XLOADFLAGS: u16 = 0x020c;
/// `setup_sects` value 0 means this many sectors.
pub const SETUP_SECTS_DEFAULT: u8 = 4;
/// Size of a setup sector in bytes.
pub const SECTOR: usize = 512;
/// The 64-bit entry point, relative to the load address of the protected-mode part.
pub const ENTRY_64_OFFSET: u64 = 0x200;

/// `loadflags`: the protected-mode part is loaded at or above 1 MiB.
pub const LOADFLAG_LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: the kernel must not print early messages.
pub const LOADFLAG_QUIET: u8 = 1 << 5;
/// `xloadflags`: the kernel has the 64-bit entry at +0x200.
pub const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: kernel, boot_params, command line and initrd may lie above 4 GiB.
pub const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// `type_of_loader` of a loader without an assigned number.
pub const LOADER_UNDEFINED: u8 = 0xff;

/// Code segment selector which the 64-bit entry expects (`__BOOT_CS`).
pub const BOOT_CS: u16 = 0x10;
/// Data segment selector which the 64-bit entry expects (`__BOOT_DS`).
pub const BOOT_DS: u16 = 0x18;

/// `struct setup_header`: bzImage offset 0x1f1 up to and including
/// `kernel_info_offset`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct SetupHeader {
    /// Size of the setup part in 512-byte sectors, without the boot sector; 0 means 4.
    pub setup_sects: u8,
    /// Mount the root read-only (obsolete).
    pub root_flags: U16,
    /// Size of the protected-mode part in 16-byte paragraphs.
    pub syssize: U32,
    /// Obsolete.
    pub ram_size: U16,
    /// Video mode.
    pub vid_mode: U16,
    /// Default root device (obsolete).
    pub root_dev: U16,
    /// [`BOOT_FLAG`].
    pub boot_flag: U16,
    /// A short jump; its second byte (file offset 0x201) gives the end of the header.
    pub jump: U16,
    /// [`HEADER_MAGIC`].
    pub header: U32,
    /// Boot protocol version, major in the high byte.
    pub version: U16,
    /// Real-mode switch hook.
    pub realmode_swtch: U32,
    /// Obsolete.
    pub start_sys_seg: U16,
    /// Offset of the version string, minus 0x200.
    pub kernel_version: U16,
    /// Who loaded the kernel.
    pub type_of_loader: u8,
    /// `LOADFLAG_*`.
    pub loadflags: u8,
    /// Obsolete.
    pub setup_move_size: U16,
    /// 32-bit entry point.
    pub code32_start: U32,
    /// Physical address of the initrd, low half.
    pub ramdisk_image: U32,
    /// Size of the initrd in bytes, low half.
    pub ramdisk_size: U32,
    /// Obsolete.
    pub bootsect_kludge: U32,
    /// End of the real-mode heap.
    pub heap_end_ptr: U16,
    /// Extended loader version.
    pub ext_loader_ver: u8,
    /// Extended loader type.
    pub ext_loader_type: u8,
    /// Physical address of the command line, low half.
    pub cmd_line_ptr: U32,
    /// Highest address that the initrd may occupy.
    pub initrd_addr_max: U32,
    /// Alignment which the kernel asks for.
    pub kernel_alignment: U32,
    /// Whether the kernel may be loaded elsewhere.
    pub relocatable_kernel: u8,
    /// Smallest alignment, as a power of two.
    pub min_alignment: u8,
    /// `XLF_*`.
    pub xloadflags: U16,
    /// Longest command line in bytes, without the terminating NUL.
    pub cmdline_size: U32,
    /// Paravirtualized environment (0 = PC).
    pub hardware_subarch: U32,
    /// Data for it.
    pub hardware_subarch_data: U64,
    /// Offset of the compressed kernel in the protected-mode part.
    pub payload_offset: U32,
    /// Its size.
    pub payload_length: U32,
    /// List of `setup_data`.
    pub setup_data: U64,
    /// Preferred load address.
    pub pref_address: U64,
    /// Linear memory which the kernel needs from its load address until it has
    /// read the memory map.
    pub init_size: U32,
    /// EFI handover entry.
    pub handover_offset: U32,
    /// Offset of `kernel_info` (protocol 2.15).
    pub kernel_info_offset: U32,
}
const_assert_eq!(
    core::mem::size_of::<SetupHeader>(),
    0x26c - SETUP_HEADER_OFFSET
);
const_assert_eq!(
    core::mem::offset_of!(SetupHeader, header) + SETUP_HEADER_OFFSET,
    0x202
);
const_assert_eq!(
    core::mem::offset_of!(SetupHeader, ramdisk_image) + SETUP_HEADER_OFFSET,
    0x218
);
const_assert_eq!(
    core::mem::offset_of!(SetupHeader, xloadflags) + SETUP_HEADER_OFFSET,
    0x236
);
const_assert_eq!(
    core::mem::offset_of!(SetupHeader, pref_address) + SETUP_HEADER_OFFSET,
    0x258
);
const_assert_eq!(
    core::mem::offset_of!(SetupHeader, init_size) + SETUP_HEADER_OFFSET,
    0x260
);

/// e820 type: usable RAM.
pub const E820_RAM: u32 = 1;
/// e820 type: reserved.
pub const E820_RESERVED: u32 = 2;
/// e820 type: ACPI tables, reclaimable.
pub const E820_ACPI: u32 = 3;
/// e820 type: ACPI non-volatile storage.
pub const E820_NVS: u32 = 4;
/// Most entries that the zero page holds.
pub const E820_MAX: usize = 128;

/// `struct boot_e820_entry` (20 bytes, packed).
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
pub struct E820Entry {
    /// First byte of the range.
    pub addr: U64,
    /// Length of the range in bytes.
    pub size: U64,
    /// `E820_*`.
    pub kind: U32,
}
const_assert_eq!(core::mem::size_of::<E820Entry>(), 20);

impl E820Entry {
    /// An entry for `size` bytes from `addr`.
    pub const fn new(addr: u64, size: u64, kind: u32) -> Self {
        E820Entry {
            addr: U64::new(addr),
            size: U64::new(size),
            kind: U32::new(kind),
        }
    }
}

/// `struct boot_params`, the zero page. Fields which nobody here sets stay
/// nameless padding; a zeroed page is a valid starting point.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct BootParams {
    /// 000: video information; zero means none.
    pub screen_info: [u8; 0x40],
    /// 040: APM, tboot, IST.
    pub pad_040: [u8; 0x30],
    /// 070: physical address of the ACPI RSDP (protocol 2.14).
    pub acpi_rsdp_addr: U64,
    /// 078: disks, system descriptor, OLPC.
    pub pad_078: [u8; 0x48],
    /// 0C0: high half of the initrd's address.
    pub ext_ramdisk_image: U32,
    /// 0C4: high half of the initrd's size.
    pub ext_ramdisk_size: U32,
    /// 0C8: high half of the command line's address.
    pub ext_cmd_line_ptr: U32,
    /// 0CC.
    pub pad_0cc: [u8; 0x70],
    /// 13C: confidential computing blob (SNP guests that know they are one; stays 0).
    pub cc_blob_address: U32,
    /// 140: EDID, EFI.
    pub pad_140: [u8; 0xa8],
    /// 1E8: number of valid entries in `e820_table`.
    pub e820_entries: u8,
    /// 1E9: EDD counts, keyboard, secure boot.
    pub pad_1e9: [u8; 6],
    /// 1EF: must be zero, else the kernel thinks that the page was not cleared.
    pub sentinel: u8,
    /// 1F0.
    pub pad_1f0: u8,
    /// 1F1: copied from the bzImage.
    pub hdr: SetupHeader,
    /// 26C.
    pub pad_26c: [u8; 0x2d0 - 0x26c],
    /// 2D0: the memory map.
    pub e820_table: [E820Entry; E820_MAX],
    /// CD0: EDD.
    pub pad_cd0: [u8; 0x1000 - 0xcd0],
}
const_assert_eq!(core::mem::size_of::<BootParams>(), 4096);
const_assert_eq!(core::mem::offset_of!(BootParams, acpi_rsdp_addr), 0x070);
const_assert_eq!(core::mem::offset_of!(BootParams, ext_ramdisk_image), 0x0c0);
const_assert_eq!(core::mem::offset_of!(BootParams, cc_blob_address), 0x13c);
const_assert_eq!(core::mem::offset_of!(BootParams, e820_entries), 0x1e8);
const_assert_eq!(core::mem::offset_of!(BootParams, sentinel), 0x1ef);
const_assert_eq!(core::mem::offset_of!(BootParams, hdr), SETUP_HEADER_OFFSET);
const_assert_eq!(core::mem::offset_of!(BootParams, e820_table), 0x2d0);
