//! Tiny kernels and firmware for tests: real formats, a few bytes of code.

use abi::linux_boot::{
    BOOT_FLAG, ENTRY_64_OFFSET, HEADER_MAGIC, LOADFLAG_LOADED_HIGH, SECTOR, SETUP_HEADER_OFFSET,
    SetupHeader, XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64,
};
use loader::layout;
use zerocopy::{FromZeros, IntoBytes};

/// A bzImage with the given code at its 64-bit entry, and nothing else. The code
/// runs at [`layout::KERNEL_LOAD`] + 0x200 with RSI = zero page, as the boot
/// protocol says; it may use 1 MiB of memory from its load address.
pub fn tiny_bzimage(code: &[u8]) -> Vec<u8> {
    let mut body = vec![0xf4; ENTRY_64_OFFSET as usize]; // 32-bit entry: HLT
    body.extend_from_slice(code);
    body.resize(body.len().next_multiple_of(16), 0xcc);

    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = 1;
    header.syssize.set((body.len() / 16) as u32);
    header.boot_flag.set(BOOT_FLAG);
    header.jump.set(0x6aeb); // to 0x26c, the end of the header
    header.header.set(HEADER_MAGIC);
    header.version.set(0x020f);
    header.loadflags = LOADFLAG_LOADED_HIGH;
    header.code32_start.set(0x10_0000);
    header.initrd_addr_max.set(0x7fff_ffff);
    header.kernel_alignment.set(layout::LARGE_PAGE as u32);
    header.relocatable_kernel = 1;
    header.min_alignment = 21;
    header
        .xloadflags
        .set(XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G);
    header.cmdline_size.set(2047);
    header.pref_address.set(layout::KERNEL_LOAD);
    let init_size = body.len().next_multiple_of(0x1000).max(0x10_0000);
    header.init_size.set(init_size as u32);

    let mut file = vec![0; 2 * SECTOR];
    file[SETUP_HEADER_OFFSET..][..size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
    file.extend_from_slice(&body);
    file
}

/// A static x86-64 ELF with a code page at `base` (entry at its first byte) and,
/// behind it, a data segment with `data` and `bss` zero bytes.
pub fn tiny_firmware(base: u64, code: &[u8], data: &[u8], bss: u64) -> Vec<u8> {
    let data_at = base + (code.len() as u64).next_multiple_of(layout::PAGE);
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    file.extend_from_slice(&62u16.to_le_bytes()); // EM_X86_64
    file.extend_from_slice(&1u32.to_le_bytes());
    for value in [base, 64, 0] {
        file.extend_from_slice(&u64::to_le_bytes(value)); // entry, phoff, shoff
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for value in [64u16, 56, 2, 64, 0, 0] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    let data_offset = 0x1000 + (code.len() as u64).next_multiple_of(layout::PAGE);
    let segments = [
        (5u32, 0x1000, base, code.len() as u64, code.len() as u64),
        (
            6,
            data_offset,
            data_at,
            data.len() as u64,
            data.len() as u64 + bss,
        ),
    ];
    for (flags, offset, address, in_file, in_memory) in segments {
        file.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
        file.extend_from_slice(&flags.to_le_bytes());
        for value in [offset, address, address, in_file, in_memory, layout::PAGE] {
            file.extend_from_slice(&value.to_le_bytes());
        }
    }
    file.resize(0x1000, 0);
    file.extend_from_slice(code);
    file.resize(data_offset as usize, 0);
    file.extend_from_slice(data);
    file
}

/// Options for an image of tiny parts, complete and buildable.
pub fn tiny_options() -> crate::image::Options {
    use crate::Input;
    crate::image::Options {
        stage: Input::new(
            "tiny-stage",
            tiny_firmware(layout::STAGE.start, b"\xf4", b"", 0x4000),
        ),
        paravisor: Input::new(
            "tiny-paravisor",
            tiny_firmware(layout::PARAVISOR.start, &[0x90; 5000], b"data", 0x3000),
        ),
        kernel: Input::new("tiny-kernel", tiny_bzimage(b"\xf4\xeb\xfd")),
        initrd: Some(Input::new("tiny-initrd", vec![0x5a; 10_000])),
        command_line: "console=ttyS0".into(),
        debug_console: false,
        count_unmeasured: false,
        c_bit: layout::C_BIT_DEFAULT,
        mac: None,
        vmbus_target: Default::default(),
        nic: Default::default(),
        max_vps: 64,
    }
}
