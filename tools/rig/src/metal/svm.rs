//! Enters guests: SVM on, and the assembly around VMRUN.
#![allow(unsafe_code)]

use super::msr;
use abi::svm::{Vmcb, msr as svm_msr};
use core::arch::global_asm;
use rig::vmsa::Regs;

/// Load FS, GS, TR, LDTR and the system call MSRs from the VMCB before entry.
pub const LOAD: u64 = 1;

global_asm!(
    r#"
    .text
    .balign 16
    # rdi = VMCB, rsi = registers, rdx = flags. Runs with interrupts off; while
    # the global interrupt flag is clear IF is set, so that a physical interrupt
    # ends the guest, and is taken by the rig right after STGI.
svm_run:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    push rsi
    mov rax, rdi
    test dl, 1
    jz 2f
    vmload rax
2:
    mov rbx, [rsi + 0x00]
    mov rcx, [rsi + 0x08]
    mov rdx, [rsi + 0x10]
    mov rdi, [rsi + 0x20]
    mov rbp, [rsi + 0x28]
    mov r8,  [rsi + 0x30]
    mov r9,  [rsi + 0x38]
    mov r10, [rsi + 0x40]
    mov r11, [rsi + 0x48]
    mov r12, [rsi + 0x50]
    mov r13, [rsi + 0x58]
    mov r14, [rsi + 0x60]
    mov r15, [rsi + 0x68]
    mov rsi, [rsi + 0x18]
    clgi
    sti
    vmrun rax
    mov rax, [rsp]
    mov [rax + 0x00], rbx
    mov [rax + 0x08], rcx
    mov [rax + 0x10], rdx
    mov [rax + 0x18], rsi
    mov [rax + 0x20], rdi
    mov [rax + 0x28], rbp
    mov [rax + 0x30], r8
    mov [rax + 0x38], r9
    mov [rax + 0x40], r10
    mov [rax + 0x48], r11
    mov [rax + 0x50], r12
    mov [rax + 0x58], r13
    mov [rax + 0x60], r14
    mov [rax + 0x68], r15
    cld
    stgi
    nop
    cli
    pop rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

svm_save:
    mov rax, rdi
    vmsave rax
    ret

svm_idle:
    sti
    hlt
    cli
    ret
"#
);

unsafe extern "C" {
    fn svm_run(vmcb: u64, regs: *mut Regs, flags: u64);
    fn svm_save(vmcb: u64);
    fn svm_idle();
}

/// Turns SVM on. `Err` if the processor has none.
pub fn enable(host_save: u64) -> Result<(), &'static str> {
    let svm = core::arch::x86_64::__cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    if !svm || msr::read(svm_msr::VM_CR) & svm_msr::VM_CR_SVMDIS != 0 {
        return Err("no SVM: start QEMU with -cpu EPYC");
    }
    if core::arch::x86_64::__cpuid(0x8000_000a).edx & 1 == 0 {
        return Err("no nested paging");
    }
    msr::write(svm_msr::EFER, msr::read(svm_msr::EFER) | svm_msr::EFER_SVME);
    msr::write(svm_msr::VM_HSAVE_PA, host_save);
    if core::arch::x86_64::__cpuid(1).ecx & (1 << 26) != 0 {
        use x86_64::registers::control::{Cr4, Cr4Flags};
        // SAFETY: the processor has XSAVE; the rig keeps no extended state that the
        // bit would put in danger, it makes XGETBV legal.
        unsafe { Cr4::update(|cr4| *cr4 |= Cr4Flags::OSXSAVE) }
    }
    Ok(())
}

/// XCR0 as the guest left it: SVM does not swap it, SEV-ES does. 1, its value at
/// reset, where the processor has no XSAVE.
pub fn xcr0() -> u64 {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    if !Cr4::read().contains(Cr4Flags::OSXSAVE) {
        return 1;
    }
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set and register 0 exists; XGETBV writes EDX:EAX alone.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Runs a guest until its next exit. `vmcb` must be a VMCB that the caller owns,
/// in identity mapped memory; `load` as [`LOAD`].
pub fn run(vmcb: &mut Vmcb, regs: &mut Regs, load: bool) {
    let at = core::ptr::from_mut(vmcb) as u64;
    // SAFETY: the VMCB and all that it names (permission maps, nested tables)
    // belong to the rig, the guest can reach only what its nested tables map, and
    // the assembly keeps the C ABI's registers.
    unsafe { svm_run(at, regs, if load { LOAD } else { 0 }) }
}

/// Stores FS, GS, TR, LDTR and the system call MSRs, which are still the
/// guest's, into its VMCB.
pub fn save(vmcb: &mut Vmcb) {
    // SAFETY: VMSAVE writes to the VMCB alone.
    unsafe { svm_save(core::ptr::from_mut(vmcb) as u64) }
}

/// Sleeps until an interrupt; takes it.
pub fn idle() {
    // SAFETY: handlers only store flags; the IDT is in place.
    unsafe { svm_idle() }
}
