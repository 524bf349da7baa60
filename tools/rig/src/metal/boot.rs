//! Entry by PVH (Xen's `docs/misc/pvh.pandoc`): QEMU jumps here in 32-bit mode
//! with paging off and EBX = start info. This turns on long mode with the first
//! 4 GiB mapped one to one and calls `rig_main`.
#![allow(unsafe_code)]

use core::arch::global_asm;

/// Size of the stack on which the rig runs, bytes.
const STACK_SIZE: usize = 512 * 1024;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_start

    .section .text.boot, "ax", @progbits
    .code32
    .globl pvh_start
pvh_start:
    cli
    cld
    mov esp, offset boot_stack_top
    # PML4[0] -> PDPT; PDPT[0..4] = 1 GiB pages: after every exit QEMU's TLB is
    # empty, so the shorter the walk the better.
    mov eax, offset boot_pdpt
    or eax, 3
    mov dword ptr [boot_pml4], eax
    mov dword ptr [boot_pdpt + 0], 0x00000083
    mov dword ptr [boot_pdpt + 8], 0x40000083
    mov dword ptr [boot_pdpt + 16], 0x80000083
    mov dword ptr [boot_pdpt + 24], 0xc0000083
    # PAE. PSE, PGE, SMEP and SMAP only because guests have them, too: QEMU flushes
    # its TLB and its jump cache once more when VMRUN or #VMEXIT changes one of
    # these, or CR0.WP.
    mov eax, cr4
    or eax, 0x3000b0
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    or eax, 0x80010001
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset long_mode
    push eax
    retf

    .code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + boot_stack_top]
    xor ebp, ebp
    mov edi, ebx
    call rig_main
4:
    hlt
    jmp 4b

    .section .rodata, "a", @progbits
    .balign 8
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .word 23
    .long boot_gdt
    .long 0

    .section .bss, "aw", @nobits
    .balign 4096
    .globl boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_stack: .skip {stack}
boot_stack_top:
    .section .text, "ax", @progbits
"#,
    stack = const STACK_SIZE,
);

/// `hvm_start_info`, version 1.
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

const START_MAGIC: u32 = 0x336e_c578;

#[repr(C)]
#[derive(Clone, Copy)]
struct Module {
    start: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

/// One range of the machine's memory map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemoryRange {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// 1 = RAM.
    pub kind: u32,
    reserved: u32,
}

/// What QEMU handed over.
pub struct Boot {
    /// The command line.
    pub cmdline: &'static str,
    /// First module (`-initrd`): the image. Empty if there is none.
    pub image: &'static [u8],
    /// The memory map.
    pub memory: &'static [MemoryRange],
    /// End of the rig's own image.
    pub rig_end: u64,
}

unsafe extern "C" {
    static rig_end: u8;
}

/// Reads the start info. `None` if it is none.
pub fn read(info: u64) -> Option<Boot> {
    // SAFETY: QEMU's PVH loader passes the address of a start info in identity
    // mapped memory; the magic is checked before anything else is believed.
    let info = unsafe { (info as *const StartInfo).read_unaligned() };
    if info.magic != START_MAGIC || info.version < 1 {
        return None;
    }
    let cmdline = match info.cmdline {
        0 => "",
        at => {
            // SAFETY: QEMU terminates the command line with a NUL and nobody
            // writes there later: the VM's memory is chosen around it.
            let c = unsafe { core::ffi::CStr::from_ptr(at as *const core::ffi::c_char) };
            c.to_str().unwrap_or("")
        }
    };
    let image: &[u8] = if info.module_count > 0 {
        // SAFETY: module_count entries lie at `modules`.
        let m = unsafe { (info.modules as *const Module).read_unaligned() };
        // SAFETY: QEMU loaded `size` bytes there; memory::plan keeps the VM's
        // memory away from them.
        unsafe { core::slice::from_raw_parts(m.start as *const u8, m.size as usize) }
    } else {
        &[]
    };
    // SAFETY: memmap_entries entries lie at `memmap`, aligned by QEMU.
    let memory = unsafe {
        core::slice::from_raw_parts(
            info.memmap as *const MemoryRange,
            info.memmap_entries as usize,
        )
    };
    Some(Boot {
        cmdline,
        image,
        memory,
        rig_end: &raw const rig_end as u64,
    })
}
