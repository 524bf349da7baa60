//! The payloads' code, in assembly: [`steps`] of one VP, [`vps`] of two, with routines
//! that both use. No data but their own, no relocations.
#![allow(unsafe_code)]

use super::{Code, at, between};
use core::arch::global_asm;

global_asm!(
    ".section .rodata.selftest, \"a\", @progbits",
    ".balign 4096",
    "st_upper:",
    include_str!("routines.s"),
    include_str!("steps.s"),
    include_str!("vps.s"),
    "st_upper_end:",
    include_str!("lower.s"),
    ".text",
    stack = const at::STACK_TOP,
    system = const at::SYSTEM,
    output = const at::OUTPUT,
    code = const at::CODE,
    data = const at::DATA,
    vmsa = const at::SECOND_VMSA,
    lower_code = const at::LOWER_CODE,
    lower_vmsa = const at::LOWER_VMSA,
    lower_end = const at::LOWER_TABLES + 0x3000,
    lower_stack = const at::LOWER_TABLES,
    cbit = const crate::vm::C_BIT,
);

unsafe extern "C" {
    static st_upper: u8;
    static st_upper_end: u8;
    static st_handler_unexpected: u8;
    static st_handler_interrupt: u8;
    static st_first: u8;
    static st_handler_vc: u8;
    static st_lower: u8;
    static st_lower_end: u8;
    static st_handler_lower: u8;
    static sv_first: u8;
    static sv_second: u8;
    static sv_handler_vc: u8;
}

fn upper(entry: *const u8, vc: *const u8) -> Code {
    Code {
        bytes: between(&raw const st_upper, &raw const st_upper_end),
        entry: entry as u64,
        vc: vc as u64,
        unexpected: &raw const st_handler_unexpected as u64,
        interrupt: &raw const st_handler_interrupt as u64,
    }
}

/// Code of VMPL0: the steps of one VP.
pub fn steps() -> Code {
    upper(&raw const st_first, &raw const st_handler_vc)
}

/// Code of VMPL0: the steps of two VPs.
pub fn vps() -> Code {
    upper(&raw const sv_first, &raw const sv_handler_vc)
}

/// Where the second of two VPs begins.
pub fn second() -> u64 {
    &raw const sv_second as u64
}

/// Code of VMPL2.
pub fn lower() -> &'static [u8] {
    between(&raw const st_lower, &raw const st_lower_end)
}

/// VMPL2's handler of everything.
pub fn handler_lower() -> u64 {
    &raw const st_handler_lower as u64
}
