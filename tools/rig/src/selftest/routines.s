# What both payloads use. Position independent: linked with the rig, run elsewhere; no
# relocations. r15 is the VP's GHCB, r13 counts its interrupts.
    .set SHARED, 0x8000000000

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

st_fail:
    step '!'
    step 10
    mov rax, 0x45100
    call st_msr
4:
    hlt
    jmp 4b

    # Shares and registers the page at r15.
st_ghcb:
    mov rax, r15
    mov r10, 0x20000000000014
    or rax, r10
    call st_msr
    expect rax, 0x15
    lea rax, [r15 + 0x12]
    call st_msr
    lea r10, [r15 + 0x13]
    cmp rax, r10
    jne st_fail
    mov rax, r15
    jmp st_wrmsr

    # r9 = this VP's page, its head for a hypercall on this partition.
st_hypercall_page:
    mov r9, SHARED
    add r9, r15
    mov r10, -1
    mov [r9], r10
    mov qword ptr [r9 + 4072], 0
    ret
    # Control word in r10; the result is in rax.
st_hypercall:
    mov [r9 + 4080], r10
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 1
    mov rax, r15
    call st_wrmsr
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov rax, [r9 + 4080]
    ret
    # Makes {lower_vmsa} this VP's VMSA of VMPL2 and gives VMPL2 its code and tables;
    # r12 = the VMSA.
st_take_lower:
    call st_hypercall_page
    mov dword ptr [r9 + 8], 0xfffffffe
    mov dword ptr [r9 + 12], 0x10     # target VTL 0
    mov dword ptr [r9 + 16], 0x00090040
    mov dword ptr [r9 + 20], 0
    mov qword ptr [r9 + 24], 0
    mov r10, {lower_vmsa} + 1
    mov [r9 + 32], r10
    mov qword ptr [r9 + 40], 0
    mov r10, 0x0000000100000051
    call st_hypercall
    mov r11, 0x100000000
    cmp rax, r11
    jne st_fail
    mov r8, {lower_code}
    mov r11, {lower_end}
    call st_give
    mov r12, {lower_vmsa}
    mov rax, r12
    xor ecx, ecx
    mov edx, 0x10001
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 0
    ret
    # Gives VMPL2 all rights on the pages from r8 up to r11.
st_give:
    mov rax, r8
    xor ecx, ecx
    mov edx, 0xf02
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 0
    add r8, 0x1000
    cmp r8, r11
    jne st_give
    ret
    # Runs VMPL2 once: clears BUSY, returns its exit code in rax.
st_run:
    mov r10, 0x7fffffffffffffff
    and [r12 + 0x3b8], r10
    mov r9, SHARED
    add r9, r15
    mov byte ptr [r9], 0
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 2
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov rax, [r12 + 0x3c0]
    ret

    # An interrupt for this VP in 5 ms: stimer 0, direct, vector 50h, auto-enable.
st_timer:
    mov ecx, 0x400000b0
    mov rax, 0x1508
    call st_msr_write
    mov ecx, 0x40000020
    call st_msr_read
    add rax, 50000
    mov ecx, 0x400000b1
    jmp st_msr_write

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
    add r9, r15
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
    add r9, r15
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
    # Exits with usage 0 and this VP's page.
st_page:
    mov word ptr [r9 + 0xffa], 2
    mov dword ptr [r9 + 0xffc], 0
    mov rax, r15
    mov r8, rcx
    call st_wrmsr
    mov rcx, r8
    .byte 0xf3, 0x0f, 0x01, 0xd9
    ret
    # Letter bl to COM2.
st_letter:
    mov r9, SHARED
    add r9, r15
    mov qword ptr [r9 + 0x390], 0x7b
    mov qword ptr [r9 + 0x398], 0x02f80010
    mov qword ptr [r9 + 0x3a0], 0
    mov [r9 + 0x1f8], rbx
    mov r8, 0x8000000000000000
    mov [r9 + 0x3f0], r8
    mov r8, 0x001c000000000000
    mov [r9 + 0x3f8], r8
    jmp st_page

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
