//! `selftest=vps`: a payload for two VPs. Letters on the record channel as in
//! [`super::payload`]: small ones of VP 0, capital ones of VP 1.
#![allow(unsafe_code)]

use super::{Code, at, between};
use core::arch::global_asm;

global_asm!(
    r#"
    .section .rodata.selftest_vps, "a", @progbits
    .balign 4096
    .set SV_SHARED, 0x8000000000
    .set SV_PAGE, 0x600000
    .set SV_PATTERN, 0x1122334455667788
    # Words that both VPs see.
    .set SV_ROUND, {data}
    .set SV_SEEN, {data} + 8
    .set SV_UP, {data} + 16
    .set SV_TAKEN, {data} + 24
    .set SV_PLEASE, {data} + 32
    .set SV_SPINS, {data} + 48
    .set SV_MEET, {data} + 56

    .macro sv_step letter
    mov ebx, \letter
    call sv_letter
    .endm
    .macro sv_expect reg, value
    mov r10, \value
    cmp \reg, r10
    jne sv_fail
    .endm
    .macro sv_await word, value
9:  pause
    cmp qword ptr [\word], \value
    jne 9b
    .endm

# r15 is this VP's GHCB, r13 counts its interrupts.
sv_first:
    mov rsp, {stack}
    lidt [rip + sv_idt]
    mov r15d, 0x400000
    xor r13d, r13d
    call sv_ghcb

    # --- a: a page that is no VMSA, a VP that there is not, a sound one, once more.
    sv_step 'a'
    mov esi, 1
    call sv_start
    sv_expect rax, 5
    mov esi, 2
    call sv_start
    sv_expect rax, 0xe
    mov rax, {vmsa}
    xor ecx, ecx
    mov edx, 0x10001
    .byte 0xf3, 0x0f, 0x01, 0xfe
    sv_expect rax, 0
    mov esi, 1
    call sv_start
    sv_expect rax, 0
    mov esi, 1
    call sv_start
    sv_expect rax, 0x15
    # In use, so it cannot be taken back.
    mov rax, {vmsa}
    xor ecx, ecx
    mov edx, 1
    .byte 0xf3, 0x0f, 0x01, 0xfe
    sv_expect rax, 3

    # --- b: VP 1 has come up and sleeps; a kick wakes it.
    sv_step 'b'
    sv_await SV_UP, 1
    call sv_kick
    sv_await SV_TAKEN, 1
    # --- c: it runs without an exit; a kick reaches it all the same.
    sv_step 'c'
2:  pause
    cmp qword ptr [SV_SPINS], 1000
    jb 2b
    call sv_kick
    sv_await SV_TAKEN, 2
    # --- d: VP 0 sleeps; VP 1 wakes it.
    sv_step 'd'
    mov qword ptr [SV_PLEASE], 1
    sti
    hlt
    cli
    sv_expect r13, 1
    # --- e: VP 1 sleeps until its own timer.
    sv_step 'e'
    sv_await SV_TAKEN, 3

    # --- f: a page is taken away and given back while VP 1 reads it.
    sv_step 'f'
    mov ebp, 8
3:  mov rax, SV_PAGE
    xor ecx, ecx
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    sv_expect rax, 0
    mov r10, SV_PATTERN
    mov [SV_PAGE], r10
    inc qword ptr [SV_ROUND]
4:  pause
    mov r10, [SV_ROUND]
    cmp [SV_SEEN], r10
    jne 4b
    mov rax, SV_PAGE
    xor ecx, ecx
    xor edx, edx
    .byte 0xf2, 0x0f, 0x01, 0xff
    sv_expect rax, 0
    inc qword ptr [SV_ROUND]
5:  pause
    mov r10, [SV_ROUND]
    cmp [SV_SEEN], r10
    jne 5b
    dec ebp
    jnz 3b
    mov qword ptr [SV_ROUND], -1

    # --- g: calls of both at the same time, each with its own page.
    sv_step 'g'
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 2
    xor r12d, r12d
    call sv_calls
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 4
    # --- h: VP 1 runs VMPL2, and stops for good.
    sv_step 'h'
    sv_await SV_MEET, 5

    sv_step 'z'
    sv_step 10
    mov rax, 0x5100
    call sv_msr
    jmp sv_fail

sv_second:
    lidt [rip + sv_idt]
    mov r15d, 0x402000
    xor r13d, r13d
    call sv_ghcb
    sv_step 'A'
    mov ecx, 0x40000002               # VP index
    call sv_msr_read
    sv_expect rax, 1
    sv_step 'B'
    mov qword ptr [SV_UP], 1
    sti
    hlt
    cli
    mov [SV_TAKEN], r13
    sv_step 'C'
    sti
6:  inc qword ptr [SV_SPINS]
    pause
    cmp r13, 2
    jne 6b
    cli
    mov [SV_TAKEN], r13
    sv_step 'D'
    sv_await SV_PLEASE, 1
    mov ecx, 0x40000071
    mov eax, 0x50
    call sv_msr_write
    sv_step 'E'
    mov ecx, 0x400000b0
    mov rax, 0x1508
    call sv_msr_write
    mov ecx, 0x40000020
    call sv_msr_read
    add rax, 50000                    # 5 ms
    mov ecx, 0x400000b1
    call sv_msr_write
    sti
    hlt
    cli
    mov [SV_TAKEN], r13

    sv_step 'F'
    mov r11, SV_PAGE
2:  pause
    mov r8, [SV_ROUND]
    cmp r8, 0
    je 2b
    cmp r8, -1
    je 8f
    xor r14d, r14d
    mov rax, [r11]
    test r8, 1
    jz 4f
    # It was there when the round was read.
    cmp r14, 0
    jne 5f
    mov r10, SV_PATTERN
    cmp rax, r10
    jne sv_fail
    mov [SV_SEEN], r8
    jmp 2b
    # It was gone when the round was read: nothing old may be seen.
4:  sv_expect r14, 0x404
    mov [SV_SEEN], r8
5:  pause
    cmp [SV_ROUND], r8
    je 5b
    jmp 2b
8:
    sv_step 'G'
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 2
    mov r12d, 1
    call sv_calls
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 4

    sv_step 'H'
    call sv_hypercall_page
    mov dword ptr [r9 + 8], 0xfffffffe
    mov dword ptr [r9 + 12], 0x10     # target VTL 0
    mov dword ptr [r9 + 16], 0x00090040
    mov dword ptr [r9 + 20], 0
    mov qword ptr [r9 + 24], 0
    mov r10, {lower_vmsa} + 1
    mov [r9 + 32], r10
    mov qword ptr [r9 + 40], 0
    mov r10, 0x0000000100000051
    call sv_hypercall
    mov r11, 0x100000000
    cmp rax, r11
    jne sv_fail
    mov r8, {lower_code}
3:  mov rax, r8
    xor ecx, ecx
    mov edx, 0xf02
    .byte 0xf3, 0x0f, 0x01, 0xfe
    sv_expect rax, 0
    add r8, 0x1000
    cmp r8, {lower_end}
    jne 3b
    mov rax, {lower_vmsa}
    xor ecx, ecx
    mov edx, 0x10001
    .byte 0xf3, 0x0f, 0x01, 0xfe
    sv_expect rax, 0
    mov r12, {lower_vmsa}
    call sv_run
    sv_expect rax, 0x72
    mov r10, [r12 + 0x3a8]
    mov [r12 + 0x178], r10
    call sv_run
    sv_expect rax, 0x78
    sv_step 'Z'
    lock inc qword ptr [SV_MEET]
    cli
    hlt
    jmp sv_fail

sv_fail:
    sv_step '!'
    sv_step 10
    mov rax, 0x45100
    call sv_msr
4:
    hlt
    jmp 4b

    # Shares and registers the page at r15.
sv_ghcb:
    mov rax, r15
    mov r10, 0x20000000000014
    or rax, r10
    call sv_msr
    sv_expect rax, 0x15
    lea rax, [r15 + 0x12]
    call sv_msr
    lea r10, [r15 + 0x13]
    cmp rax, r10
    jne sv_fail
    mov rax, r15
    jmp sv_wrmsr

    # r9 = this VP's page, its head for a hypercall on this partition.
sv_hypercall_page:
    mov r9, SV_SHARED
    add r9, r15
    mov r10, -1
    mov [r9], r10
    mov qword ptr [r9 + 4072], 0
    ret
    # Control word in r10; the result is in rax.
sv_hypercall:
    mov [r9 + 4080], r10
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 1
    mov rax, r15
    call sv_wrmsr
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov rax, [r9 + 4080]
    ret
    # Starts VP esi in VTL 2.
sv_start:
    call sv_hypercall_page
    mov [r9 + 8], esi
    mov dword ptr [r9 + 12], 2
    mov r10, {vmsa} + 1
    mov [r9 + 16], r10
    mov r10d, 0x99
    jmp sv_hypercall
    # Interrupt command for VP 1.
sv_kick:
    mov ecx, 0x40000071
    mov rax, 0x0100000000000050
    jmp sv_msr_write
    # VP index, many times; r12 is what it must be.
sv_calls:
    mov ebp, 2000
7:  mov ecx, 0x40000002
    call sv_msr_read
    cmp rax, r12
    jne sv_fail
    dec ebp
    jnz 7b
    ret
    # Runs VMPL2 once: clears BUSY, returns its exit code in rax.
sv_run:
    mov r10, 0x7fffffffffffffff
    and [r12 + 0x3b8], r10
    mov r9, SV_SHARED
    add r9, r15
    mov byte ptr [r9], 0
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 2
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov rax, [r12 + 0x3c0]
    ret

    # One request of the MSR protocol in rax.
sv_msr:
    call sv_wrmsr
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov ecx, 0xc0010130
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret
sv_wrmsr:
    mov ecx, 0xc0010130
    mov rdx, rax
    shr rdx, 32
    wrmsr
    ret

    # MSR ecx, value rax, through the page.
sv_msr_write:
    mov r9, SV_SHARED
    add r9, r15
    mov r8d, ecx
    mov [r9 + 0x308], r8
    mov r8d, eax
    mov [r9 + 0x1f8], r8
    shr rax, 32
    mov [r9 + 0x310], rax
    mov r8d, 1
    jmp sv_msr_call
sv_msr_read:
    mov r9, SV_SHARED
    add r9, r15
    mov r8d, ecx
    mov [r9 + 0x308], r8
    xor r8d, r8d
sv_msr_call:
    mov [r9 + 0x398], r8
    mov qword ptr [r9 + 0x390], 0x7c
    mov qword ptr [r9 + 0x3a0], 0
    mov r8, 0x8000000000000000
    mov [r9 + 0x3f0], r8
    mov r8, 0x001c000600000000
    mov [r9 + 0x3f8], r8
    call sv_page
    mov rax, [r9 + 0x310]
    shl rax, 32
    or rax, [r9 + 0x1f8]
    ret
sv_page:
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 0
    mov rax, r15
    mov r8, rcx
    call sv_wrmsr
    mov rcx, r8
    .byte 0xf3, 0x0f, 0x01, 0xd9
    ret
    # Letter bl to COM2.
sv_letter:
    mov r9, SV_SHARED
    add r9, r15
    mov qword ptr [r9 + 0x390], 0x7b
    mov qword ptr [r9 + 0x398], 0x02f80010
    mov qword ptr [r9 + 0x3a0], 0
    mov [r9 + 0x1f8], rbx
    mov r8, 0x8000000000000000
    mov [r9 + 0x3f0], r8
    mov r8, 0x001c000000000000
    mov [r9 + 0x3f8], r8
    jmp sv_page

    # #VC: a page that is gone, which is read by three bytes.
sv_handler_vc:
    pop r14
    add qword ptr [rsp], 3
    iretq
sv_handler_unexpected:
    sv_step '?'
    jmp sv_fail
sv_handler_interrupt:
    inc r13
    push rax
    push rcx
    push rdx
    push r8
    push r9
    mov ecx, 0x40000070               # EOI
    xor eax, eax
    call sv_msr_write
    pop r9
    pop r8
    pop rdx
    pop rcx
    pop rax
    iretq
    .balign 8
sv_idt:
    .word 0xfff
    .quad {system} + 0x400
sv_end:
    .text
"#,
    stack = const at::STACK_TOP,
    system = const at::SYSTEM,
    data = const at::DATA,
    vmsa = const at::SECOND_VMSA,
    lower_code = const at::LOWER_CODE,
    lower_vmsa = const at::LOWER_VMSA,
    lower_end = const at::LOWER_TABLES + 0x3000,
);

unsafe extern "C" {
    static sv_first: u8;
    static sv_second: u8;
    static sv_end: u8;
    static sv_handler_vc: u8;
    static sv_handler_unexpected: u8;
    static sv_handler_interrupt: u8;
}

/// Code of VMPL0, of both VPs.
pub fn code() -> Code {
    Code {
        bytes: between(&raw const sv_first, &raw const sv_end),
        vc: &raw const sv_handler_vc as u64,
        unexpected: &raw const sv_handler_unexpected as u64,
        interrupt: &raw const sv_handler_interrupt as u64,
    }
}

/// Where VP 1 begins.
pub fn second() -> u64 {
    &raw const sv_second as u64
}
