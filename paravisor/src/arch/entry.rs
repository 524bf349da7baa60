//! First instructions of the paravisor, on the first VP and on the others.
//!
//! The loader stage has set a stack, the FPU and the private RAM and jumps here
//! with RDI = address of the configuration page, interrupts off. The others start here
//! by the VMSA that the first one made for them, with RDI = their index. `unsafe`
//! because it is assembly.
#![allow(unsafe_code)]

use core::arch::global_asm;

global_asm!(
    ".section .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    "    cld",
    "    xor ebp, ebp",
    "    call {main}",
    "    ud2",
    ".global start_another",
    "start_another:",
    "    cld",
    "    xor ebp, ebp",
    "    call {another}",
    "    ud2",
    ".text",
    main = sym crate::story::paravisor_main,
    another = sym crate::story::paravisor_another,
);

unsafe extern "C" {
    /// Only its address is used.
    static start_another: [u8; 1];
}

/// Where another VP starts.
pub fn another() -> u64 {
    (&raw const start_another) as u64
}
