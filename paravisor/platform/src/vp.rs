//! The guest's registers, seen the same way on every backend.

/// Registers that the paravisor reads or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
    Rflags,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Efer,
    Xcr0,
    Pat,
    Xss,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    SpecCtrl,
    Debugctl,
}

impl Reg {
    /// General registers by their number in an instruction.
    pub const GENERAL: [Reg; 16] = [
        Reg::Rax,
        Reg::Rcx,
        Reg::Rdx,
        Reg::Rbx,
        Reg::Rsp,
        Reg::Rbp,
        Reg::Rsi,
        Reg::Rdi,
        Reg::R8,
        Reg::R9,
        Reg::R10,
        Reg::R11,
        Reg::R12,
        Reg::R13,
        Reg::R14,
        Reg::R15,
    ];
}

/// Segment registers, by their number in an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

impl Seg {
    /// By number.
    pub fn from_number(number: u8) -> Option<Seg> {
        Some(match number {
            0 => Seg::Es,
            1 => Seg::Cs,
            2 => Seg::Ss,
            3 => Seg::Ds,
            4 => Seg::Fs,
            5 => Seg::Gs,
            _ => return None,
        })
    }
}

/// A segment register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// 64-bit code.
    pub long: bool,
    /// 32-bit default operand size.
    pub big: bool,
}

/// The guest's registers between two entries, and its event slots.
pub trait Registers {
    /// Reads a register.
    fn get(&self, reg: Reg) -> u64;
    /// Writes a register.
    fn set(&mut self, reg: Reg, value: u64);
    /// Reads a segment register.
    fn segment(&self, seg: Seg) -> Segment;
    /// Current privilege level, 0 to 3.
    fn cpl(&self) -> u8;
    /// Address of the next instruction, for exits where the hardware knows it.
    fn next_rip(&self) -> u64;

    /// Lets the guest take `vector` as soon as it accepts interrupts, or takes
    /// the offer back.
    fn offer_interrupt(&mut self, vector: Option<u8>);
    /// Whether the offer of the last entry is still open (not yet taken).
    fn interrupt_offered(&self) -> bool;
    /// Class of vectors that the guest holds back (CR8), 0 to 15.
    fn task_priority(&self) -> u8;
    /// Sets it.
    fn set_task_priority(&mut self, class: u8);
    /// Raises an exception at the next entry.
    fn raise(&mut self, vector: u8, error_code: Option<u32>);
    /// Delivers a non-maskable interrupt at the next entry, unless another event
    /// goes first (it is lost then, as a second NMI would be).
    fn inject_nmi(&mut self);
    /// Whether an event will be injected at the next entry, so that no exception
    /// can be raised before it.
    fn event_pending(&self) -> bool;
    /// Ends the shadow of STI or MOV SS after an instruction was emulated.
    fn clear_interrupt_shadow(&mut self);
    /// Whether the guest could take an interrupt right now (IF set, no shadow).
    fn interrupts_enabled(&self) -> bool;

    /// Goes on behind an emulated instruction.
    fn advance(&mut self, next: u64) {
        self.set(Reg::Rip, next);
        self.clear_interrupt_shadow();
    }
}

/// State in which a guest VP starts: 64-bit mode, flat segments, interrupts off
/// (Linux `Documentation/arch/x86/boot.rst`, "64-bit boot protocol").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// First instruction.
    pub rip: u64,
    /// First argument (`boot_params`).
    pub rsi: u64,
    /// Page tables, identity for everything that the kernel touches early.
    pub cr3: u64,
    /// GDT with the two selectors.
    pub gdt_base: u64,
    /// Its limit.
    pub gdt_limit: u16,
    /// Flat 64-bit code.
    pub code_selector: u16,
    /// Flat data.
    pub data_selector: u16,
}
