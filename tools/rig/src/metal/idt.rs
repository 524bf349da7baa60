//! The rig's own exceptions and interrupts. Exceptions are bugs of the rig and
//! end the run; interrupts only leave a note for the main loop.
#![allow(unsafe_code)]

use super::{apic, smp};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Vector of the local APIC's timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// Vector of all PCI interrupt lines.
pub const PCI_VECTOR: u8 = 0x41;
/// Vector by which one core wakes another.
pub const KICK_VECTOR: u8 = 0x42;
/// Vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// By core: its timer has fired.
static TIMERS: [AtomicBool; smp::MAX_CORES] = [const { AtomicBool::new(false) }; smp::MAX_CORES];
/// Set at the start: the first look lets the lines through.
static PCI: AtomicBool = AtomicBool::new(true);
/// By core: somebody wants it to look up.
static KICKS: [AtomicBool; smp::MAX_CORES] = [const { AtomicBool::new(false) }; smp::MAX_CORES];

/// Whether the timer of `core` fired since the last call.
pub fn take_timer(core: usize) -> bool {
    TIMERS
        .get(core)
        .is_some_and(|timer| timer.swap(false, Ordering::Relaxed))
}

/// Whether a PCI line was raised since the last call, or this is the first. The lines
/// are masked until [`apic::unmask_pci`].
pub fn take_pci() -> bool {
    PCI.swap(false, Ordering::Relaxed)
}

/// Whether `core` was kicked since the last call.
pub fn take_kick(core: usize) -> bool {
    KICKS
        .get(core)
        .is_some_and(|kick| kick.swap(false, Ordering::SeqCst))
}

/// Whether a kick of `core` waits to be taken.
pub fn kicked(core: usize) -> bool {
    KICKS
        .get(core)
        .is_some_and(|kick| kick.load(Ordering::SeqCst))
}

/// Whether something waits for `core`.
pub fn pending(core: usize) -> bool {
    let timer = TIMERS.get(core);
    timer.is_some_and(|timer| timer.load(Ordering::Relaxed))
        || apic::has_pci(core) && PCI.load(Ordering::Relaxed)
        || kicked(core)
}

global_asm!(
    r#"
    .text
    # 32 exception stubs of 16 bytes: those without an error code push a zero.
    .balign 16
exception_stubs:
    .set v, 0
    .rept 32
    .balign 16
    .if v != 8 && v != 10 && v != 11 && v != 12 && v != 13 && v != 14 && v != 17 && v != 21 && v != 29 && v != 30
    push 0
    .endif
    push v
    jmp exception_common
    .set v, v + 1
    .endr

exception_common:
    pop rdi
    mov rsi, rsp
    mov rdx, cr2
    and rsp, -16
    call rig_exception
    ud2

    .macro irq name, target
\name:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    call \target
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq
    .endm

    irq irq_timer, rig_irq_timer
    irq irq_pci, rig_irq_pci
    irq irq_kick, rig_irq_kick
irq_spurious:
    iretq
"#
);

unsafe extern "C" {
    static exception_stubs: u8;
    fn irq_timer();
    fn irq_pci();
    fn irq_kick();
    fn irq_spurious();
}

#[unsafe(no_mangle)]
extern "C" fn rig_irq_timer() {
    if let Some(timer) = TIMERS.get(smp::index()) {
        timer.store(true, Ordering::Relaxed);
    }
    apic::eoi();
}

#[unsafe(no_mangle)]
extern "C" fn rig_irq_pci() {
    // Level triggered: stays asserted until the device's driver looks.
    apic::mask_pci();
    PCI.store(true, Ordering::Relaxed);
    apic::eoi();
}

#[unsafe(no_mangle)]
extern "C" fn rig_irq_kick() {
    if let Some(kick) = KICKS.get(smp::index()) {
        kick.store(true, Ordering::SeqCst);
    }
    apic::eoi();
}

#[unsafe(no_mangle)]
extern "C" fn rig_exception(vector: u64, frame: *const u64, cr2: u64) -> ! {
    // SAFETY: the stub passes its stack: error code, RIP, CS, RFLAGS, RSP, SS.
    let [code, rip, _, _, rsp] = unsafe { (frame as *const [u64; 5]).read() };
    let core = smp::index();
    panic!("core {core}: exception {vector} code {code:#x} rip {rip:#x} rsp {rsp:#x} cr2 {cr2:#x}");
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);

static mut IDT: Idt = Idt([[0; 2]; 256]);

fn gate(handler: u64) -> [u64; 2] {
    let low = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler & 0xffff_0000) << 32;
    [low, handler >> 32]
}

/// Builds and loads the table, on the first core.
pub fn init() {
    let stubs = &raw const exception_stubs as u64;
    let idt = &raw mut IDT;
    // SAFETY: runs once, before interrupts are on; nobody else touches the table.
    unsafe {
        for v in 0..32u64 {
            (*idt).0[v as usize] = gate(stubs + v * 16);
        }
        (*idt).0[TIMER_VECTOR as usize] = gate(irq_timer as *const () as u64);
        (*idt).0[PCI_VECTOR as usize] = gate(irq_pci as *const () as u64);
        (*idt).0[KICK_VECTOR as usize] = gate(irq_kick as *const () as u64);
        (*idt).0[SPURIOUS_VECTOR as usize] = gate(irq_spurious as *const () as u64);
    }
    load();
}

/// Loads the table on the core on which this runs.
pub fn load() {
    let pointer = x86_64::structures::DescriptorTablePointer {
        limit: (size_of::<Idt>() - 1) as u16,
        base: x86_64::VirtAddr::new(&raw const IDT as u64),
    };
    // SAFETY: the table was built before any core comes here, and stays.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
}
