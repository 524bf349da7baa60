# What the payloads run at VMPL2.
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
