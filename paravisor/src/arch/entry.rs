//! First instructions of the paravisor.
//!
//! The loader stage has set a stack, the FPU and the private RAM and jumps here
//! with RDI = address of the configuration page, interrupts off. `unsafe` because
//! it is assembly.
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
    ".text",
    main = sym crate::story::paravisor_main,
);
