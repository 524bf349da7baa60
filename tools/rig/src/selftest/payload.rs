//! The payload's code, position independent: linked with the rig, run elsewhere.
//! It uses no stack variables, no data and no relocations.
#![allow(unsafe_code)]

use super::{Code, at, between};
use core::arch::global_asm;

global_asm!(
    r#"
    .section .rodata.selftest, "a", @progbits
    .balign 4096
    .set SHARED, 0x8000000000
    .set GHCB, 0x400000
    .set SIMP, 0x401000
    .set PAGE, 0x600000

    # Writes eax:edx = \value to the GHCB MSR and exits; the answer is in rax.
    .macro ghcb_msr value
    mov rax, \value
    call st_msr
    .endm
    # The step's letter to the record channel.
    .macro step letter
    mov ebx, \letter
    call st_letter
    .endm
    .macro expect reg, value
    mov r10, \value
    cmp \reg, r10
    jne st_fail
    .endm

st_upper:
    mov rsp, {stack}
    lidt [rip + st_idt]
    xor r15d, r15d

    # --- MSR protocol: SEV info: versions 1..2, C bit.
    ghcb_msr 2
    mov r10, rax
    shr r10, 24
    and r10d, 0xff
    cmp r10d, {cbit}
    jne st_fail
    mov r10d, 0xfff
    and r10, rax
    expect r10, 1
    # HV features.
    ghcb_msr 0x80
    expect rax, 0x1081

    # --- GHCB: make shared, register, write a letter.
    mov rax, GHCB
    mov r10, 0x20000000000014
    or rax, r10
    call st_msr
    expect rax, 0x15
    mov rax, GHCB + 0x12
    call st_msr
    expect rax, GHCB + 0x13
    mov rax, GHCB
    call st_wrmsr
    step 'A'

    # --- B: SEV_STATUS has SEV, ES, SNP; EFER shows SVME.
    step 'B'
    mov ecx, 0xc0010131
    rdmsr
    expect rax, 7
    mov ecx, 0xc0000080
    rdmsr
    expect rax, 0x1500

    # --- C: PVALIDATE twice, CF tells.
    step 'C'
    mov rax, PAGE
    xor ecx, ecx
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    jc st_fail
    expect rax, 0
    mov rax, PAGE
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    jnc st_fail
    expect rax, 0
    # 2 MiB on a split region: size mismatch.
    mov rax, PAGE
    mov ecx, 1
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    expect rax, 6
    # 2 MiB on a whole region.
    mov rax, 0x2000000
    mov ecx, 1
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    jc st_fail
    expect rax, 0

    # --- D: private and shared views of one page differ.
    step 'D'
    mov r11, PAGE
    mov r10, 0x1122334455667788
    mov [r11], r10
    mov r12, SHARED
    add r12, r11
    mov r13, [r12]
    cmp r13, r10
    je st_fail
    mov rax, [r11]
    cmp rax, r10
    jne st_fail
    # After a change of owner the shared view works, and the old content is gone.
    mov rax, PAGE
    mov r10, 0x20000000000014
    or rax, r10
    call st_msr
    expect rax, 0x15
    mov r10, 0x1122334455667788
    cmp [r12], r10
    je st_fail
    mov [r12], r10
    cmp [r12], r10
    jne st_fail

    # --- E: CPUID raises #VC with error code 72h; OUT with 7Bh; RDMSR with 7Ch.
    step 'E'
    xor r14d, r14d
    xor eax, eax
    cpuid
    expect r14, 0x72
    xor r14d, r14d
    out 0x80, al
    expect r14, 0x7b
    xor r14d, r14d
    mov ecx, 0x40000000
    rdmsr
    expect r14, 0x7c
    # A page that was never validated: 404h (the handler steps over 3 bytes).
    xor r14d, r14d
    mov r11, 0x3000000
    mov rax, [r11]
    expect r14, 0x404

    # --- F: synthetic MSRs through the page.
    step 'F'
    mov ecx, 0x40000000
    mov rax, 0x8100000000000001
    call st_msr_write
    mov ecx, 0x40000000
    call st_msr_read
    mov r10, 0x8100000000000001
    cmp rax, r10
    jne st_fail
    # An unknown register: #GP asked for.
    mov r9, SHARED
    add r9, GHCB
    mov ecx, 0x40000fff
    call st_msr_read
    mov r10, [r9 + 0x398]
    and r10d, r10d
    expect r10, 1

    # --- G: a hypercall: GetVpRegisters(TimeRefCount), output behind the input.
    step 'G'
    mov rax, SIMP
    mov r10, 0x20000000000014
    or rax, r10
    call st_msr
    expect rax, 0x15
    mov rax, GHCB
    call st_wrmsr
    mov r9, SHARED
    add r9, GHCB
    mov r10, -1
    mov [r9], r10                     # partition: self
    mov dword ptr [r9 + 8], 0xfffffffe
    mov dword ptr [r9 + 12], 0
    mov dword ptr [r9 + 16], 0x00090004
    mov r10, [{output}]               # where the loader wants it
    mov [r9 + 4072], r10
    mov r10, 0x0000000100000050
    mov [r9 + 4080], r10
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 1
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov r10, [r9 + 4080]
    mov r11, 0x100000000
    cmp r10, r11
    jne st_fail
    mov r10, SHARED + SIMP
    cmp qword ptr [r10], 0
    je st_fail

    # --- H: a timer interrupts VMPL0 while it halts. Stimer 0, direct, vector 50h, auto-enable.
    step 'H'
    xor r13d, r13d
    mov ecx, 0x400000b0
    mov rax, 0x1508
    call st_msr_write
    mov ecx, 0x40000020
    call st_msr_read
    add rax, 50000                    # 5 ms
    mov ecx, 0x400000b1
    call st_msr_write
    sti
    hlt
    cli
    expect r13, 1

    # --- I: VMPL2: SevControl, permissions, VMSA bit, run.
    step 'I'
    mov r9, SHARED
    add r9, GHCB
    mov r10, -1
    mov [r9], r10
    mov dword ptr [r9 + 8], 0xfffffffe
    mov dword ptr [r9 + 12], 0x10     # target VTL 0
    mov dword ptr [r9 + 16], 0x00090040
    mov dword ptr [r9 + 20], 0
    mov qword ptr [r9 + 24], 0
    mov r10, {lower_vmsa} + 1
    mov [r9 + 32], r10
    mov qword ptr [r9 + 40], 0
    mov qword ptr [r9 + 4072], 0
    mov r10, 0x0000000100000051
    mov [r9 + 4080], r10
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 1
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov r10, [r9 + 4080]
    mov r11, 0x100000000
    cmp r10, r11
    jne st_fail
    # Code, three tables, GDT and IDT (they lie elsewhere) for VMPL2.
    mov r8, {lower_code}
2:
    mov rax, r8
    xor ecx, ecx
    mov edx, 0xf02
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 0
    add r8, 0x1000
    cmp r8, {lower_end}
    jne 2b
    mov r8, {system}
3:
    mov rax, r8
    xor ecx, ecx
    mov edx, 0xf02
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 0
    add r8, 0x1000
    cmp r8, {system} + 0x2000
    jne 3b
    mov rax, {lower_vmsa}
    xor ecx, ecx
    mov edx, 0x10001
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 0
    # RMPQUERY of VMPL2's rights on its code.
    mov rax, {lower_code}
    mov edx, 2
    .byte 0xf3, 0x0f, 0x01, 0xfd
    expect rax, 0
    expect rdx, 0xf02

    # --- J: first exit: CPUID.
    step 'J'
    mov r12, {lower_vmsa}
    call st_run
    expect rax, 0x72
    mov r10, [r12 + 0x3a8]            # NRIP
    sub r10, [r12 + 0x178]
    expect r10, 2
    mov r10, 0x8000000000000000       # BUSY
    test [r12 + 0x3b8], r10
    jz st_fail
    call st_step
    # --- K: HLT, RIP already past.
    step 'K'
    call st_run
    expect rax, 0x78
    # --- L: MMIO read at a hole: 400h with the reserved bit, GPA.
    step 'L'
    call st_run
    expect rax, 0x400
    mov r10, [r12 + 0x390]
    and r10d, 8
    expect r10, 8
    mov r10, [r12 + 0x398]
    mov r11, 0xfee00020
    cmp r10, r11
    jne st_fail
    add qword ptr [r12 + 0x178], 2    # mov eax, [rdi]
    # --- M: write to a page without rights: RMP and VMPL bits.
    step 'M'
    call st_run
    expect rax, 0x400
    mov r10, [r12 + 0x390]
    bt r10, 31
    jnc st_fail
    bt r10, 36
    jnc st_fail
    add qword ptr [r12 + 0x178], 2
    # --- N: OUT; port and size; NRIP.
    step 'N'
    call st_run
    expect rax, 0x7b
    mov r10, [r12 + 0x390]
    shr r10, 16
    expect r10, 0x3f8
    call st_step
    # --- O: EFER without SVME (ebx), SEV_STATUS natively, synthetic MSR exits.
    step 'O'
    call st_run
    expect rax, 0x7c
    mov r10, [r12 + 0x318]            # rbx: EFER as seen by VMPL2
    expect r10, 0x500
    mov r10, [r12 + 0x328]            # rbp: SEV_STATUS
    expect r10, 0x5f
    call st_step
    # --- P: interrupt of VMPL2: V_IRQ with IF=0, delivered behind its STI.
    step 'P'
    mov r10, 0x0000006000160100       # vector 60h, priority 6, V_IRQ, IGN_TPR
    mov [r12 + 0x3b8], r10
    call st_run
    expect rax, 0x81
    mov r10, [r12 + 0x330]            # rsi counts interrupts
    expect r10, 1
    mov r10, [r12 + 0x3b8]
    bt r10, 8
    jc st_fail
    call st_step
    # --- Q: EVENTINJ of #GP with an error code.
    step 'Q'
    mov r10, 0x1234
    shl r10, 32
    mov r11d, 0x80000b0d
    or r10, r11
    mov [r12 + 0x3e0], r10
    call st_run
    expect rax, 0x81
    mov r10, [r12 + 0x330]
    expect r10, 2
    call st_step
    # --- R: VMPL2 spins; VMPL0's timer takes it back: exit code INTR.
    step 'R'
    xor r13d, r13d
    mov ecx, 0x400000b0
    mov rax, 0x1508
    call st_msr_write
    mov ecx, 0x40000020
    call st_msr_read
    add rax, 50000
    mov ecx, 0x400000b1
    call st_msr_write
    call st_run
    expect rax, 0x60
    expect r13, 0
    sti
    nop
    cli
    expect r13, 1
    # --- S: rescinding and validating again keeps rights; FS base of VMPL0 lived on.
    step 'S'
    mov ecx, 0xc0000100
    rdmsr
    expect rax, 0

    # --- T: many exits, for their price (see the counters of time).
    step 'T'
    lea r10, [rip + st_bench]
    lea r11, [rip + st_lower]
    sub r10, r11
    add r10, {lower_code}
    mov [r12 + 0x178], r10
    mov r13d, 5000
8:
    call st_run
    cmp rax, 0x60
    je 8b
    expect rax, 0x72
    call st_step
    dec r13d
    jnz 8b

    step 'Z'
    step 10
    ghcb_msr 0x5100
    jmp st_fail

st_fail:
    step '!'
    step 10
    ghcb_msr 0x45100
4:
    hlt
    jmp 4b

    # Runs VMPL2 once: clears BUSY, returns its exit code in rax.
st_run:
    mov r10, 0x7fffffffffffffff
    and [r12 + 0x3b8], r10
    mov r9, SHARED
    add r9, GHCB
    mov byte ptr [r9], 0
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 2
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov rax, [r12 + 0x3c0]
    ret
    # RIP = NRIP.
st_step:
    mov r10, [r12 + 0x3a8]
    mov [r12 + 0x178], r10
    ret

    # One request of the MSR protocol in rax.
st_msr:
    call st_wrmsr
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov ecx, 0xc0010130
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret
st_wrmsr:
    mov ecx, 0xc0010130
    mov rdx, rax
    shr rdx, 32
    wrmsr
    ret

    # MSR ecx, value rax, through the page.
st_msr_write:
    mov r9, SHARED
    add r9, GHCB
    mov r8d, ecx
    mov [r9 + 0x308], r8
    mov r8d, eax
    mov [r9 + 0x1f8], r8
    shr rax, 32
    mov [r9 + 0x310], rax
    mov r8d, 1
    jmp st_msr_call
st_msr_read:
    mov r9, SHARED
    add r9, GHCB
    mov r8d, ecx
    mov [r9 + 0x308], r8
    xor r8d, r8d
st_msr_call:
    mov [r9 + 0x398], r8
    mov qword ptr [r9 + 0x390], 0x7c
    mov qword ptr [r9 + 0x3a0], 0
    mov r8, 0x8000000000000000
    mov [r9 + 0x3f0], r8
    mov r8, 0x001c000600000000
    mov [r9 + 0x3f8], r8
    call st_page
    mov rax, [r9 + 0x310]
    shl rax, 32
    or rax, [r9 + 0x1f8]
    ret
    # Exits with usage 0 and the page's address.
st_page:
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 0
    mov rax, GHCB
    mov r8, rcx
    call st_wrmsr
    mov rcx, r8
    .byte 0xf3, 0x0f, 0x01, 0xd9
    ret

    # Letter bl to COM2.
st_letter:
    mov r9, SHARED
    add r9, GHCB
    mov qword ptr [r9 + 0x390], 0x7b
    mov qword ptr [r9 + 0x398], 0x02f80010
    mov qword ptr [r9 + 0x3a0], 0
    mov [r9 + 0x1f8], rbx
    mov r8, 0x8000000000000000
    mov [r9 + 0x3f0], r8
    mov r8, 0x001c000000000000
    mov [r9 + 0x3f8], r8
    jmp st_page

    # #VC: error code to r14, step over the instruction.
st_handler_vc:
    pop r14
    cmp r14, 0x404
    je 5f
    add qword ptr [rsp], 2
    iretq
5:
    add qword ptr [rsp], 3            # mov rax, [r11]
    iretq
st_handler_unexpected:
    step '?'
    jmp st_fail
st_handler_interrupt:
    inc r13
    push rax
    push rcx
    push rdx
    push r8
    push r9
    mov ecx, 0x40000070               # EOI
    xor eax, eax
    call st_msr_write
    pop r9
    pop r8
    pop rdx
    pop rcx
    pop rax
    iretq
    .balign 8
st_idt:
    .word 0xfff
    .quad {system} + 0x400
st_upper_end:

    .balign 4096
st_lower:
    mov rsp, {lower_stack}
    xor esi, esi
    cpuid
    hlt
    mov edi, 0xfee00020
    mov eax, [rdi]
    mov edi, {code}
    mov [rdi], eax
    mov dx, 0x3f8
    mov al, 0x41
    out dx, al
    mov ecx, 0xc0000080
    rdmsr
    mov ebx, eax
    mov ecx, 0xc0010131
    rdmsr
    mov ebp, eax
    mov ecx, 0x40000000
    rdmsr
    sti
    nop
    nop
    cli
    vmmcall
    nop
    vmmcall
    mov ebx, 0
6:
    pause
    jmp 6b
st_bench:
    cpuid
    jmp st_bench
st_handler_lower:
    inc rsi
    cmp rsi, 2
    jne 7f
    pop rax                           # error code 1234h
    cmp rax, 0x1234
    je 7f
    ud2
7:
    iretq
st_lower_end:
    .text
"#,
    stack = const at::STACK_TOP,
    system = const at::SYSTEM,
    output = const at::OUTPUT,
    code = const at::CODE,
    lower_code = const at::LOWER_CODE,
    lower_vmsa = const at::LOWER_VMSA,
    lower_end = const at::LOWER_TABLES + 0x3000,
    lower_stack = const at::LOWER_TABLES,
    cbit = const crate::vm::C_BIT,
);

unsafe extern "C" {
    static st_upper: u8;
    static st_upper_end: u8;
    static st_handler_vc: u8;
    static st_handler_unexpected: u8;
    static st_handler_interrupt: u8;
    static st_lower: u8;
    static st_lower_end: u8;
    static st_handler_lower: u8;
}

/// Code of VMPL0.
pub fn code() -> Code {
    Code {
        bytes: between(&raw const st_upper, &raw const st_upper_end),
        vc: &raw const st_handler_vc as u64,
        unexpected: &raw const st_handler_unexpected as u64,
        interrupt: &raw const st_handler_interrupt as u64,
    }
}

/// Code of VMPL2.
pub fn lower() -> &'static [u8] {
    between(&raw const st_lower, &raw const st_lower_end)
}

/// VMPL2's handler of everything.
pub fn handler_lower() -> u64 {
    &raw const st_handler_lower as u64
}
