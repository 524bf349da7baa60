# `selftest=vps`: the steps of two VPs. Small letters are VP 0's, capital ones VP 1's.
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

    .macro sv_await word, value
9:  pause
    cmp qword ptr [\word], \value
    jne 9b
    .endm

sv_first:
    mov rsp, {stack}
    lidt [rip + st_idt]
    mov r15d, 0x400000
    xor r13d, r13d
    call st_ghcb

    # --- a: a page that is no VMSA, a VP that there is not, a sound one, once more.
    step 'a'
    mov esi, 1
    call sv_start
    expect rax, 5
    mov esi, 2
    call sv_start
    expect rax, 0xe
    mov rax, {vmsa}
    xor ecx, ecx
    mov edx, 0x10001
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 0
    mov esi, 1
    call sv_start
    expect rax, 0
    mov esi, 1
    call sv_start
    expect rax, 0x15
    # In use, so it cannot be taken back.
    mov rax, {vmsa}
    xor ecx, ecx
    mov edx, 1
    .byte 0xf3, 0x0f, 0x01, 0xfe
    expect rax, 3

    # --- b: VP 1 has come up and sleeps; a kick wakes it.
    step 'b'
    sv_await SV_UP, 1
    call sv_kick
    sv_await SV_TAKEN, 1
    # --- c: it runs without an exit; a kick reaches it all the same.
    step 'c'
2:  pause
    cmp qword ptr [SV_SPINS], 1000
    jb 2b
    call sv_kick
    sv_await SV_TAKEN, 2
    # --- d: VP 0 sleeps; VP 1 wakes it.
    step 'd'
    mov qword ptr [SV_PLEASE], 1
    sti
    hlt
    cli
    expect r13, 1
    # --- e: VP 1 sleeps until its own timer.
    step 'e'
    sv_await SV_TAKEN, 3

    # --- f: a page is taken away and given back while VP 1 reads it.
    step 'f'
    mov ebp, 8
3:  mov rax, SV_PAGE
    xor ecx, ecx
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    expect rax, 0
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
    expect rax, 0
    inc qword ptr [SV_ROUND]
5:  pause
    mov r10, [SV_ROUND]
    cmp [SV_SEEN], r10
    jne 5b
    dec ebp
    jnz 3b
    mov qword ptr [SV_ROUND], -1

    # --- g: calls of both at the same time, each with its own page.
    step 'g'
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 2
    xor r12d, r12d
    call sv_calls
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 4
    # --- h: VP 1 runs VMPL2, and stops for good.
    step 'h'
    sv_await SV_MEET, 5

    step 'z'
    step 10
    mov rax, 0x5100
    call st_msr
    jmp st_fail

sv_second:
    lidt [rip + st_idt]
    mov r15d, 0x402000
    xor r13d, r13d
    call st_ghcb
    step 'A'
    mov ecx, 0x40000002               # VP index
    call st_msr_read
    expect rax, 1
    step 'B'
    mov qword ptr [SV_UP], 1
    sti
    hlt
    cli
    mov [SV_TAKEN], r13
    step 'C'
    sti
6:  inc qword ptr [SV_SPINS]
    pause
    cmp r13, 2
    jne 6b
    cli
    mov [SV_TAKEN], r13
    step 'D'
    sv_await SV_PLEASE, 1
    mov ecx, 0x40000071
    mov eax, 0x50
    call st_msr_write
    step 'E'
    call st_timer
    sti
    hlt
    cli
    mov [SV_TAKEN], r13

    step 'F'
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
    jne st_fail
    mov [SV_SEEN], r8
    jmp 2b
    # It was gone when the round was read: nothing old may be seen.
4:  expect r14, 0x404
    mov [SV_SEEN], r8
5:  pause
    cmp [SV_ROUND], r8
    je 5b
    jmp 2b
8:
    step 'G'
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 2
    mov r12d, 1
    call sv_calls
    lock inc qword ptr [SV_MEET]
    sv_await SV_MEET, 4

    step 'H'
    call st_take_lower
    call st_run
    expect rax, 0x72
    mov r10, [r12 + 0x3a8]
    mov [r12 + 0x178], r10
    call st_run
    expect rax, 0x78
    step 'Z'
    lock inc qword ptr [SV_MEET]
    cli
    hlt
    jmp st_fail

    # Starts VP esi in VTL 2.
sv_start:
    call st_hypercall_page
    mov [r9 + 8], esi
    mov dword ptr [r9 + 12], 2
    mov r10, {vmsa} + 1
    mov [r9 + 16], r10
    mov r10d, 0x99
    jmp st_hypercall
    # Interrupt command for VP 1.
sv_kick:
    mov ecx, 0x40000071
    mov rax, 0x0100000000000050
    jmp st_msr_write
    # VP index, many times; r12 is what it must be.
sv_calls:
    mov ebp, 2000
7:  mov ecx, 0x40000002
    call st_msr_read
    cmp rax, r12
    jne st_fail
    dec ebp
    jnz 7b
    ret

    # #VC: a page that is gone, which is read by three bytes.
sv_handler_vc:
    pop r14
    add qword ptr [rsp], 3
    iretq
