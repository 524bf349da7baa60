//! The machine below: QEMU's PC as the rig drives it.

pub mod apic;
pub mod boot;
pub mod clock;
pub mod idt;
pub mod memory;
pub mod serial;
pub mod smp;
pub mod svm;

/// Ends QEMU with this value in `isa-debug-exit`. Without that device the rig
/// halts for ever with interrupts off.
pub fn exit(value: u8) -> ! {
    serial::drain();
    io::outl(0xf4, u32::from(value));
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Port access.
#[allow(unsafe_code)]
pub mod io {
    use x86_64::instructions::port::Port;

    /// Writes a byte.
    pub fn outb(port: u16, value: u8) {
        // SAFETY: the rig owns the machine; none of its ports changes memory.
        unsafe { Port::new(port).write(value) }
    }

    /// Writes four bytes.
    pub fn outl(port: u16, value: u32) {
        // SAFETY: as above.
        unsafe { Port::new(port).write(value) }
    }

    /// Writes two bytes.
    pub fn outw(port: u16, value: u16) {
        // SAFETY: as above.
        unsafe { Port::new(port).write(value) }
    }

    /// Reads a byte.
    pub fn inb(port: u16) -> u8 {
        // SAFETY: as above.
        unsafe { Port::new(port).read() }
    }
}

/// QEMU's firmware configuration device.
pub struct FwCfg;

impl rig::fwcfg::Device for FwCfg {
    fn select(&mut self, item: u16) {
        io::outw(0x510, item);
    }
    fn next(&mut self) -> u8 {
        io::inb(0x511)
    }
}

/// Model-specific registers.
#[allow(unsafe_code)]
pub mod msr {
    use x86_64::registers::model_specific::Msr;

    /// Reads an MSR.
    pub fn read(index: u32) -> u64 {
        // SAFETY: reading has no effect on memory; QEMU returns 0 for unknown ones.
        unsafe { Msr::new(index).read() }
    }

    /// Writes an MSR.
    pub fn write(index: u32, value: u64) {
        // SAFETY: called with MSRs of SVM, EFER and the APIC only, whose effects
        // the rig prepared for.
        unsafe { Msr::new(index).write(value) }
    }
}
