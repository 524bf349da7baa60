# `selftest`: the steps of one VP, and what it runs at VMPL2.
    .set GHCB, 0x400000
    .set SIMP, 0x401000
    .set PAGE, 0x600000

st_first:
    mov rsp, {stack}
    lidt [rip + st_idt]
    mov r15d, GHCB

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

    # --- GHCB: made shared, registered; a letter.
    call st_ghcb
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
    call st_hypercall_page
    mov dword ptr [r9 + 8], 0xfffffffe
    mov dword ptr [r9 + 12], 0
    mov dword ptr [r9 + 16], 0x00090004
    mov r10, [{output}]               # where the loader wants it
    mov [r9 + 4072], r10
    mov r10, 0x0000000100000050
    call st_hypercall
    mov r11, 0x100000000
    cmp rax, r11
    jne st_fail
    mov r10, SHARED + SIMP
    cmp qword ptr [r10], 0
    je st_fail

    # --- H: a timer interrupts VMPL0 while it halts.
    step 'H'
    xor r13d, r13d
    call st_timer
    sti
    hlt
    cli
    expect r13, 1

    # --- I: VMPL2: SevControl, permissions, VMSA bit, run.
    step 'I'
    call st_take_lower
    mov r8, {system}                  # its GDT and IDT
    mov r11, {system} + 0x2000
    call st_give
    # RMPQUERY of VMPL2's rights on its code.
    mov rax, {lower_code}
    mov edx, 2
    .byte 0xf3, 0x0f, 0x01, 0xfd
    expect rax, 0
    expect rdx, 0xf02

    # --- J: first exit: CPUID.
    step 'J'
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
    call st_timer
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

    # RIP = NRIP.
st_step:
    mov r10, [r12 + 0x3a8]
    mov [r12 + 0x178], r10
    ret

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
