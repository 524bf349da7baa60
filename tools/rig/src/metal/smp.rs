//! The other processors of QEMU's machine (`-smp N`): woken one after the other by
//! INIT and SIPI, each with a stack and a local APIC of its own, all with the same
//! page tables, descriptors and interrupt handlers. A core and the VP that it runs
//! belong together for ever: the extended state of a VP stays in its core.
//!
//! Which core this is, CPUID tells. Segment bases, TR and TSC_AUX cannot: after the
//! first VMRUN they hold what the guest has put there.
#![allow(unsafe_code)]

use super::boot::Boot;
use super::clock::Clock;
use super::memory::Frames;
use super::{apic, idt};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;

/// Most virtual processors.
pub const MAX_VPS: usize = 64;
/// Most cores: one for each VP, and the one that boots.
pub const MAX_CORES: usize = MAX_VPS + 1;
/// Pages of a woken core's stack: the whole host side may run on it.
const STACK_PAGES: u64 = 64;
/// Pages below 1 MiB at which a core may begin, if nothing of QEMU's lies there.
const ENTRIES: [u64; 3] = [0x8000, 0x1_0000, 0x6_0000];
/// Pause between INIT and SIPI (100 ns units), as the MP specification has it.
const SETTLE: u64 = 100_000;
/// How long a core may take from SIPI to its first word.
const PATIENCE: u64 = 50_000_000;

/// What a woken core does. It does not return.
pub type Entry = fn(usize) -> !;

/// Stack of the core that is being woken.
static STACK: AtomicU64 = AtomicU64::new(0);
/// By core: it has said its first word.
static ONLINE: [AtomicBool; MAX_CORES] = [const { AtomicBool::new(false) }; MAX_CORES];
static ENTRY: Mutex<Option<Entry>> = Mutex::new(None);

global_asm!(
    r#"
    .section .text.trampoline, "ax", @progbits
    .balign 16
    .code16
    # Copied to the page that the SIPI names; runs there with CS at its start.
    .globl core_trampoline, core_trampoline_end
core_trampoline:
    jmp 2f
    .balign 8
core_gdt_pointer:
    .word 23
    .long boot_gdt
2:
    cli
    cld
    mov ax, cs
    mov ds, ax
    # LGDT with a 32-bit base.
    .byte 0x66, 0x0f, 0x01, 0x16
    .word core_gdt_pointer - core_trampoline
    # From real mode to long mode in one step, with the values of the first core.
    mov eax, 0x3000b0
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010011
    mov cr0, eax
    .byte 0x66, 0xea
    .long core_long_mode
    .word 8
core_trampoline_end:

    .code64
core_long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rip + {stack}]
    xor ebp, ebp
    call {main}
    ud2
    .section .text, "ax", @progbits
"#,
    stack = sym STACK,
    main = sym core_main,
);

unsafe extern "C" {
    static core_trampoline: u8;
    static core_trampoline_end: u8;
}

/// The core on which this runs.
pub fn index() -> usize {
    (core::arch::x86_64::__cpuid(1).ebx >> 24) as usize % MAX_CORES
}

extern "C" fn core_main() -> ! {
    idt::load();
    apic::init_core();
    let entry = *ENTRY.lock();
    let index = index();
    if let Some(online) = ONLINE.get(index) {
        online.store(true, Ordering::SeqCst);
    }
    match entry {
        Some(entry) => entry(index),
        None => park(),
    }
}

/// Ends a core's work.
pub fn park() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// A page for the trampoline: RAM below 1 MiB in which QEMU has left nothing that is
/// still read.
fn entry_page(boot: &Boot) -> Option<u64> {
    let line = boot.cmdline.as_bytes().as_ptr_range();
    let map = boot.memory.as_ptr_range();
    let kept = [
        (line.start as u64, line.end as u64),
        (map.start as u64, map.end as u64),
    ];
    ENTRIES.into_iter().find(|page| {
        let end = page + 4096;
        let ram = boot.memory.iter().any(|range| {
            range.kind == 1 && range.start <= *page && end <= range.start.saturating_add(range.size)
        });
        ram && !kept.iter().any(|(from, to)| *from < end && *page < *to)
    })
}

/// Waits until `done`; `false` if it took longer than `time`. Lets other cores go on
/// where QEMU runs them in turn.
pub fn wait(clock: &Clock, time: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = clock.now().saturating_add(time);
    loop {
        if done() {
            return true;
        }
        if clock.now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Wakes cores 1 to `count` - 1, of which QEMU must have as many (`-smp`).
pub fn start(
    boot: &Boot,
    clock: &Clock,
    frames: &mut Frames,
    count: usize,
    entry: Entry,
) -> Result<(), &'static str> {
    if count > MAX_CORES {
        return Err("more cores than the rig knows");
    }
    let page = entry_page(boot).ok_or("no room below 1 MiB for the first steps of a core")?;
    *ENTRY.lock() = Some(entry);
    // SAFETY: both symbols bound one piece of code of less than a page; the page is
    // RAM that nobody uses (`entry_page`), and no core runs there now.
    unsafe {
        let from = &raw const core_trampoline;
        let len = (&raw const core_trampoline_end as usize) - (from as usize);
        core::ptr::copy_nonoverlapping(from, page as *mut u8, len);
    }
    for (index, online) in ONLINE.iter().enumerate().take(count).skip(1) {
        let stack = frames.take(STACK_PAGES).ok_or("no frames for a stack")?;
        STACK.store(stack + STACK_PAGES * 4096, Ordering::SeqCst);
        apic::send_init(index as u8);
        wait(clock, SETTLE, || false);
        apic::send_start(index as u8, (page >> 12) as u8);
        if !wait(clock, PATIENCE, || online.load(Ordering::SeqCst)) {
            return Err("a core did not come up: QEMU's -smp must say one more than vps=");
        }
    }
    Ok(())
}
