//! Local APIC (timer) and I/O APIC (PCI interrupt lines) of QEMU's q35.
#![allow(unsafe_code)]

use super::idt::{KICK_VECTOR, PCI_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR};
use super::io::outb;
use core::sync::atomic::{AtomicU8, Ordering};

const LAPIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;

const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;
const LVT_MASKED: u32 = 1 << 16;
/// Interrupt command: level asserted, and the delivery modes.
const ICR_ASSERT: u32 = 1 << 14;
const ICR_INIT: u32 = 5 << 8;
const ICR_START: u32 = 6 << 8;
const ICR_PENDING: u32 = 1 << 12;

/// I/O APIC inputs of the PCI lines PIRQA to PIRQH on q35.
const PCI_LINES: core::ops::Range<u32> = 16..24;
const REDIRECTION_LEVEL: u32 = 1 << 15;
const REDIRECTION_LOW: u32 = 1 << 13;
const REDIRECTION_MASKED: u32 = 1 << 16;

fn write(base: u64, register: u64, value: u32) {
    // SAFETY: both APICs sit at their reset addresses, identity mapped, and are
    // used from this module only; each core reaches its own local one.
    unsafe { ((base + register) as *mut u32).write_volatile(value) }
}

fn read(base: u64, register: u64) -> u32 {
    // SAFETY: as above.
    unsafe { ((base + register) as *const u32).read_volatile() }
}

/// 8259s off, local APIC on, timer one-shot and silent, I/O APIC masked.
pub fn init() {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    init_core();
    for line in 0..24 {
        redirect(line, REDIRECTION_MASKED);
    }
}

/// The local APIC of the core on which this runs.
pub fn init_core() {
    write(LAPIC, SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(LAPIC, LVT_LINT0, LVT_MASKED);
    write(LAPIC, LVT_LINT1, LVT_MASKED);
    write(LAPIC, LVT_ERROR, LVT_MASKED);
    write(LAPIC, TIMER_DIVIDE, 0xb); // by 1
    write(LAPIC, LVT_TIMER, u32::from(TIMER_VECTOR));
    write(LAPIC, TIMER_INITIAL, 0);
}

/// Sends an interrupt to another core. Interrupts must be off: the command is two
/// registers.
fn send(core: u8, command: u32) {
    while read(LAPIC, ICR_LOW) & ICR_PENDING != 0 {
        core::hint::spin_loop();
    }
    write(LAPIC, ICR_HIGH, u32::from(core) << 24);
    write(LAPIC, ICR_LOW, command | ICR_ASSERT);
}

/// Resets a core, which then waits for [`send_start`].
pub fn send_init(core: u8) {
    send(core, ICR_INIT);
}

/// Lets a core begin in real mode at page number `page`.
pub fn send_start(core: u8, page: u8) {
    send(core, ICR_START | u32::from(page));
}

/// Makes a core leave its guest or its HLT.
pub fn kick(core: u8) {
    send(core, u32::from(KICK_VECTOR));
}

/// The core that the PCI lines interrupt.
static PCI_CORE: AtomicU8 = AtomicU8::new(0);

/// Lets the PCI lines interrupt `core` from now on: they must be masked, and from then
/// on that core alone may touch the I/O APIC.
pub fn route_pci(core: u8) {
    PCI_CORE.store(core, Ordering::SeqCst);
}

/// Whether the PCI lines interrupt `core`.
pub fn has_pci(core: usize) -> bool {
    usize::from(PCI_CORE.load(Ordering::SeqCst)) == core
}

fn redirect(line: u32, low: u32) {
    let core = u32::from(PCI_CORE.load(Ordering::SeqCst));
    write(IOAPIC, 0, 0x10 + 2 * line + 1);
    write(IOAPIC, 0x10, core << 24);
    write(IOAPIC, 0, 0x10 + 2 * line);
    write(IOAPIC, 0x10, low);
}

fn pci(masked: u32) {
    for line in PCI_LINES {
        let low = u32::from(PCI_VECTOR) | REDIRECTION_LEVEL | REDIRECTION_LOW | masked;
        write(IOAPIC, 0, 0x10 + 2 * line);
        write(IOAPIC, 0x10, low);
    }
}

/// Lets PCI lines interrupt.
pub fn unmask_pci() {
    pci(0);
}

/// Keeps PCI lines quiet.
pub fn mask_pci() {
    pci(REDIRECTION_MASKED);
}

/// End of interrupt.
pub fn eoi() {
    write(LAPIC, EOI, 0);
}

/// Starts the one-shot timer; 0 stops it.
pub fn timer(count: u32) {
    write(LAPIC, TIMER_INITIAL, count);
}

/// Where the timer stands.
pub fn timer_current() -> u32 {
    read(LAPIC, TIMER_CURRENT)
}
