//! A guest VP made of variables.

use platform::{Reg, Registers, Seg, Segment};

/// The VP.
#[derive(Clone, Debug)]
pub struct FakeVp {
    /// Registers by their number.
    pub registers: [u64; 64],
    /// Segment bases by their number.
    pub bases: [u64; 6],
    /// Privilege level.
    pub cpl: u8,
    /// Code is 64-bit.
    pub long: bool,
    /// Address behind the instruction, where the hardware tells it.
    pub next_rip: u64,
    /// Events raised.
    pub raised: Vec<(u8, Option<u32>)>,
    /// Offered vector.
    pub offered: Option<u8>,
    /// Class of vectors held back.
    pub priority: u8,
}

impl FakeVp {
    /// Registers of 64-bit code with the page tables at `cr3`.
    pub fn new(cr3: u64) -> FakeVp {
        let mut vp = FakeVp {
            registers: [0; 64],
            bases: [0; 6],
            cpl: 0,
            long: true,
            next_rip: 0,
            raised: Vec::new(),
            offered: None,
            priority: 0,
        };
        vp.set(Reg::Cr0, 1 << 31 | 1 << 16 | 1);
        vp.set(Reg::Cr3, cr3);
        vp.set(Reg::Cr4, 1 << 5);
        vp.set(Reg::Efer, 0xd00);
        vp.set(Reg::Rflags, 2);
        vp
    }
}

impl Registers for FakeVp {
    fn get(&self, reg: Reg) -> u64 {
        self.registers[reg as usize]
    }
    fn set(&mut self, reg: Reg, value: u64) {
        self.registers[reg as usize] = value;
    }
    fn segment(&self, seg: Seg) -> Segment {
        Segment {
            base: self.bases[seg as usize],
            limit: u32::MAX,
            selector: 0,
            long: seg == Seg::Cs && self.long,
            big: false,
        }
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn next_rip(&self) -> u64 {
        self.next_rip
    }
    fn offer_interrupt(&mut self, vector: Option<u8>) {
        self.offered = vector;
    }
    fn interrupt_offered(&self) -> bool {
        self.offered.is_some()
    }
    fn task_priority(&self) -> u8 {
        self.priority
    }
    fn set_task_priority(&mut self, class: u8) {
        self.priority = class;
    }
    fn raise(&mut self, vector: u8, error_code: Option<u32>) {
        self.raised.push((vector, error_code));
    }
    fn inject_nmi(&mut self) {
        self.raised.push((2, None));
    }
    fn event_pending(&self) -> bool {
        !self.raised.is_empty()
    }
    fn clear_interrupt_shadow(&mut self) {}
    fn interrupts_enabled(&self) -> bool {
        self.get(Reg::Rflags) & 0x200 != 0
    }
}
