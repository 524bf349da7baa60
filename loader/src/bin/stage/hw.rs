//! The only `unsafe` of the stage: its entry code, the SNP instructions and the
//! jump to the paravisor. Unsafe because each of these is an instruction which
//! the compiler does not know, or touches memory that no Rust object owns.
#![allow(unsafe_code)]

use abi::ghcb::msr;
use abi::record::{Outcome, TERMINATE_SET};
use core::arch::{asm, global_asm};
use undercroft_loader::layout;

/// Bytes of the stage's own stack, in its bss (measured, validated zero pages).
const STACK_SIZE: usize = 0x4000;
/// CR4.OSFXSR and CR4.OSXMMEXCPT: LDMXCSR is an invalid instruction without.
const CR4_SSE: u32 = 1 << 9 | 1 << 10;
/// CR4.SMEP and CR4.SMAP: no page of ours is a user page, and none may become one.
/// CR4.PSE and CR4.PGE change nothing here (long mode, no global pages); a guest
/// has them, and an emulated processor need not flush when they stay as they are.
const CR4_PROTECT: u32 = 1 << 20 | 1 << 21 | 1 << 4 | 1 << 7;
/// CR0.WP: read-only pages hold for the supervisor, too.
const CR0_WP: u32 = 1 << 16;

// At entry only CS, SS, DS, GDTR, CR0 (PG, PE, NE), CR3, CR4 (PAE), EFER and RIP
// have values; RSP, RFLAGS, IDTR, FCW and MXCSR are zero.
global_asm!(
    ".section .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    "    lea rsp, [rip + {stack} + {stack_size}]",
    "    mov rax, cr4",
    "    or rax, {cr4}",
    "    mov cr4, rax",
    "    mov rax, cr0",
    "    or rax, {cr0}",
    "    mov cr0, rax",
    "    fninit",
    "    ldmxcsr [rip + {mxcsr}]",
    "    xor ebp, ebp",
    "    call {main}",
    "    ud2",
    ".text",
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    cr4 = const CR4_SSE | CR4_PROTECT,
    cr0 = const CR0_WP,
    mxcsr = sym MXCSR,
    main = sym crate::stage_main,
);

#[repr(C, align(4096))]
struct Stack(#[allow(dead_code)] [u8; STACK_SIZE]);

/// Only ever used through RSP.
static mut STACK: Stack = Stack([0; STACK_SIZE]);

/// All SSE exceptions masked, round to nearest.
static MXCSR: u32 = abi::snp::reset::MXCSR;

/// What PVALIDATE answered.
pub struct Pvalidate {
    /// EAX, see `abi::snp::rc`.
    pub code: u32,
    /// CF: the page had that state before.
    pub unchanged: bool,
}

/// Validates the page at `address`, which is identity mapped: 2 MiB if `large`,
/// else 4 KiB.
pub fn pvalidate(address: u64, large: bool) -> Pvalidate {
    let answer: u64;
    let carry: u8;
    // SAFETY: PVALIDATE changes no memory that Rust knows of: the page is not in
    // use, nothing has been validated there before.
    unsafe {
        asm!(
            ".byte 0xf2, 0x0f, 0x01, 0xff",
            "setc {carry}",
            carry = out(reg_byte) carry,
            inlateout("rax") address => answer,
            in("ecx") if large { abi::snp::RMP_PAGE_2M } else { abi::snp::RMP_PAGE_4K },
            in("edx") 1,
            options(nostack),
        );
    }
    Pvalidate {
        // The answer is EAX; the upper half is not defined.
        code: answer as u32,
        unchanged: carry != 0,
    }
}

/// Fills the `size` bytes of pages at `address` with zeros.
pub fn zero(address: u64, size: u64) {
    // SAFETY: the pages are mapped writable, were just validated, and belong to no
    // Rust object yet (they are part of `layout::PRIVATE_RAM`).
    unsafe { core::ptr::write_bytes(address as *mut u8, 0, size as usize) }
}

/// The measured configuration page.
pub fn config_page() -> &'static [u8] {
    // SAFETY: the page was loaded and validated with the image, is mapped
    // read-only and is never written.
    unsafe {
        core::slice::from_raw_parts(
            layout::CONFIG_PAGE.start as *const u8,
            layout::PAGE as usize,
        )
    }
}

/// Leaves the stage for good.
pub fn enter_paravisor(entry: u64) -> ! {
    // SAFETY: `entry` comes from the measured configuration page; the stack below
    // RSP is validated, zeroed and mapped; nothing here is needed afterwards.
    unsafe {
        asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "jmp {entry}",
            top = in(reg) layout::BOOT_STACK_TOP,
            entry = in(reg) entry,
            in("rdi") layout::CONFIG_PAGE.start,
            options(noreturn),
        )
    }
}

/// Asks the host to end the VM, with a reason. A host that runs the VM again
/// nevertheless gets the same request again.
pub fn terminate(outcome: Outcome) -> ! {
    let request = msr::terminate(TERMINATE_SET, outcome as u8);
    loop {
        // SAFETY: the GHCB MSR is never intercepted and holds no address here; the
        // bytes are VMGEXIT (REP VMMCALL), which ends the VM.
        unsafe {
            asm!(
                "wrmsr",
                ".byte 0xf3, 0x0f, 0x01, 0xd9",
                in("ecx") abi::ghcb::MSR_GHCB,
                in("eax") request as u32,
                in("edx") (request >> 32) as u32,
                options(nostack),
            );
        }
    }
}
