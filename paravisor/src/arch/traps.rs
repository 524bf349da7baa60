//! Exceptions and interrupts at VMPL0.
//!
//! Exceptions are never expected: the paravisor executes nothing that raises #VC
//! and touches nothing unmapped. Each ends the run with a record that names it.
//! Interrupts are what the host wants to be heard: their handler sets a flag and
//! nothing else; the loop does the work. Vectors that nobody asked for are counted
//! (SYN-19). All 256 gates exist, so that the host cannot turn a vector into #GP.
//!
//! Handlers are assembly because `abi_x86_interrupt` is not stable; `unsafe` for
//! that reason, and because loading an IDT is.
#![allow(unsafe_code)]

use super::percpu::{NO_VECTOR, this};
use abi::record::Outcome;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use paravisor_core::run::{KICK_VECTOR, Pending};
use spin::Once;
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::{PrivilegeLevel, VirtAddr};

/// Number of exception stacks.
pub const STACKS: usize = 5;

/// Vector of our SynIC interrupt source.
pub const SINT_VECTOR: u8 = 0x60;
/// Vector of the timer for the guest's devices. The timers are in a lower class
/// than the source: one that waits for its EOI does not hold messages back.
pub const TIMER_VECTOR: u8 = 0x50;
/// Vector of the timer for everything else.
pub const WATCH_VECTOR: u8 = 0x40;

/// Exceptions with a stack of their own, in the order of the IST.
const OWN_STACK: [u8; STACKS] = [8, 2, 29, 14, 18];

/// Of all VPs.
static SPURIOUS: AtomicU64 = AtomicU64::new(0);

/// Takes the flags of this VP.
pub fn take() -> Pending {
    let own = this();
    Pending {
        sint: own.sint.swap(false, Ordering::SeqCst),
        timer: own.timer.swap(false, Ordering::SeqCst),
        watch: own.watch.swap(false, Ordering::SeqCst),
        kick: own.kick.swap(false, Ordering::SeqCst),
        foreign: u8::try_from(own.foreign.swap(NO_VECTOR, Ordering::SeqCst)).ok(),
    }
}

/// Whether an interrupt of ours waits to be taken.
pub fn pending() -> bool {
    let own = this();
    [&own.sint, &own.timer, &own.watch, &own.kick]
        .into_iter()
        .any(|flag| flag.load(Ordering::SeqCst))
}

/// Interrupts on vectors that nobody asked for.
pub fn spurious() -> u64 {
    SPURIOUS.load(Ordering::Relaxed)
}

// 256 stubs of 16 bytes. Exceptions 8, 10 to 14, 17, 21, 29 and 30 bring an error
// code (APM volume 2, table 8-1); the others push 0 in its place.
global_asm!(
    ".section .text.traps, \"ax\"",
    ".balign 16",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    "    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)",
    "    push 0",
    "    .endif",
    "    push vector",
    "    jmp trap_common",
    "    .set vector, vector + 1",
    ".endr",
    ".balign 16",
    "trap_common:",
    "    push rax",
    "    push rcx",
    "    push rdx",
    "    push rbx",
    "    push rbp",
    "    push rsi",
    "    push rdi",
    "    push r8",
    "    push r9",
    "    push r10",
    "    push r11",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    cld",
    "    mov rdi, rsp",
    "    mov rbp, rsp",
    "    and rsp, -16",
    "    call {handler}",
    "    mov rsp, rbp",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop r11",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rdi",
    "    pop rsi",
    "    pop rbp",
    "    pop rbx",
    "    pop rdx",
    "    pop rcx",
    "    pop rax",
    "    add rsp, 16",
    "    iretq",
    ".text",
    handler = sym handle,
);

unsafe extern "C" {
    /// First of the stubs; only its address is used.
    static trap_stubs: [u8; 256 * STUB_SIZE];
}
const STUB_SIZE: usize = 16;

/// What the stubs leave on the stack.
#[repr(C)]
struct Frame {
    /// R15 up to RAX, as pushed.
    registers: [u64; 15],
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

extern "C" fn handle(frame: &Frame) {
    let own = this();
    match frame.vector as u8 {
        SINT_VECTOR => own.sint.store(true, Ordering::SeqCst),
        TIMER_VECTOR => own.timer.store(true, Ordering::SeqCst),
        WATCH_VECTOR => own.watch.store(true, Ordering::SeqCst),
        KICK_VECTOR => own.kick.store(true, Ordering::SeqCst),
        vector @ 0..32 => exception(vector, frame),
        vector => {
            own.foreign.store(vector.into(), Ordering::SeqCst);
            SPURIOUS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn exception(vector: u8, frame: &Frame) -> ! {
    let address = if vector == 14 || vector == 29 {
        x86_64::registers::control::Cr2::read_raw()
    } else {
        0
    };
    // NMI, #MC and #HV are the host's doing; everything else is a bug of ours.
    let outcome = if matches!(vector, 2 | 18 | 28) {
        Outcome::HostFailure
    } else {
        Outcome::Panic
    };
    super::log::end(
        outcome,
        format_args!(
            "exception {vector} code {:#x} at {:#x} rsp {:#x} cr2 {address:#x}",
            frame.code, frame.rip, frame.rsp
        ),
    )
}

static IDT: Once<InterruptDescriptorTable> = Once::new();

/// Builds and loads the IDT.
pub(super) fn load_idt() {
    let idt = IDT.call_once(|| {
        let mut idt = InterruptDescriptorTable::new();
        let first = (&raw const trap_stubs).cast::<u8>();
        let stub = |vector: u8| {
            VirtAddr::from_ptr(first.wrapping_add(usize::from(vector).wrapping_mul(STUB_SIZE)))
        };
        macro_rules! exceptions {
            ($($field:ident = $vector:expr),+ $(,)?) => {$(
                // SAFETY: the stub for this vector expects what the processor
                // pushes and returns by IRETQ or not at all.
                let entry = unsafe { idt.$field.set_handler_addr(stub($vector)) };
                if let Some(index) = OWN_STACK.iter().position(|v| *v == $vector) {
                    // SAFETY: the TSS has this stack (`tables::load`).
                    unsafe { entry.set_stack_index(index as u16) };
                }
            )+};
        }
        exceptions!(
            divide_error = 0,
            debug = 1,
            non_maskable_interrupt = 2,
            breakpoint = 3,
            overflow = 4,
            bound_range_exceeded = 5,
            invalid_opcode = 6,
            device_not_available = 7,
            double_fault = 8,
            invalid_tss = 10,
            segment_not_present = 11,
            stack_segment_fault = 12,
            general_protection_fault = 13,
            page_fault = 14,
            x87_floating_point = 16,
            alignment_check = 17,
            machine_check = 18,
            simd_floating_point = 19,
            virtualization = 20,
            cp_protection_exception = 21,
            hv_injection_exception = 28,
            vmm_communication_exception = 29,
            security_exception = 30,
        );
        for vector in 32..=255u8 {
            // SAFETY: as above, for interrupts.
            unsafe { idt[vector].set_handler_addr(stub(vector)) }
                .set_privilege_level(PrivilegeLevel::Ring0);
        }
        idt
    });
    idt.load();
}
