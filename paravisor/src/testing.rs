//! A guest VP made of plain variables, page tables for it, a platform made of a map.

use abi::hyperv::{CallResult, Control};
use abi::record::Outcome;
use devices::{CpuidSource, Machine, MachineConfig};
use memory::GuestMemory;
use platform::{Access, BootState, Error, Exit, Platform, Reg, Registers, Seg, Segment};
use std::collections::{HashMap, VecDeque};

pub struct FakeVp {
    pub regs: [u64; 64],
    pub cpl: u8,
    pub next_rip: u64,
    pub offered: Option<u8>,
    pub raised: Option<(u8, Option<u32>)>,
    pub shadow: bool,
    pub priority: u8,
}

impl FakeVp {
    pub fn long_mode(cr3: u64) -> FakeVp {
        let mut vp = FakeVp {
            regs: [0; 64],
            cpl: 0,
            next_rip: 0,
            offered: None,
            raised: None,
            shadow: false,
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
        self.regs[reg as usize]
    }
    fn set(&mut self, reg: Reg, value: u64) {
        self.regs[reg as usize] = value;
    }
    fn segment(&self, seg: Seg) -> Segment {
        Segment {
            base: 0,
            limit: u32::MAX,
            selector: 0,
            long: seg == Seg::Cs,
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
        self.raised = Some((vector, error_code));
    }
    fn inject_nmi(&mut self) {
        self.raised = Some((2, None));
    }
    fn event_pending(&self) -> bool {
        self.raised.is_some()
    }
    fn clear_interrupt_shadow(&mut self) {
        self.shadow = false;
    }
    fn interrupts_enabled(&self) -> bool {
        self.get(Reg::Rflags) & 0x200 != 0 && !self.shadow
    }
}

struct NoLeaves;

impl CpuidSource for NoLeaves {
    fn cpuid(&self, _: u32, _: u32) -> Option<[u32; 4]> {
        None
    }
}

/// A machine with one processor, without a link.
pub fn machine() -> Machine {
    let config = MachineConfig {
        memory_size: 0x2000_0000,
        tsc_hz: 2_000_000_000,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_up: false,
        processors: 1,
        queue_pairs: 1,
        hash: Default::default(),
        epoch_seconds: 0,
        advertise_pm_timer: false,
    };
    Machine::new(&config, &NoLeaves)
}

/// Identity map of the first GiB by large pages: tables at `base`, +0x1000, +0x2000.
pub fn identity_tables(guest: &impl GuestMemory, base: u64) {
    guest
        .write(base, &((base + 0x1000) | 7).to_le_bytes())
        .unwrap();
    guest
        .write(base + 0x1000, &((base + 0x2000) | 7).to_le_bytes())
        .unwrap();
    for i in 0..512u64 {
        guest
            .write(base + 0x2000 + 8 * i, &(i << 21 | 0x87).to_le_bytes())
            .unwrap();
    }
}

/// What a host says that gives nothing.
fn refused<T>(request: &'static str) -> Result<T, Error> {
    Err(Error::Refused { request, status: 1 })
}

/// A platform whose registers are a map and whose guest leaves as the test says. Its host
/// refuses everything else.
pub struct FakePlatform {
    /// What the next entries end with; none left is a mistake of the test.
    pub exits: VecDeque<Exit>,
    /// The guest.
    pub vp: FakeVp,
    /// Whether the guest takes an interrupt that is offered.
    pub takes_interrupts: bool,
    /// What it writes to CR8 in its next turn.
    pub cr8: Option<u8>,
    /// Vectors that it took.
    pub taken: Vec<u8>,
    /// Times that it was left to sleep.
    pub waits: u32,
    /// What was written.
    pub registers: HashMap<u32, u64>,
    /// Registers that read something else than what was written.
    pub stuck: HashMap<u32, u64>,
    /// Writes in order.
    pub written: Vec<(u32, u64)>,
    /// Pages at which the guest was started after a SIPI.
    pub started_at: Vec<u8>,
}

impl Default for FakePlatform {
    fn default() -> Self {
        FakePlatform {
            exits: VecDeque::new(),
            vp: FakeVp::long_mode(0x1000),
            takes_interrupts: true,
            cr8: None,
            taken: Vec::new(),
            waits: 0,
            registers: HashMap::new(),
            stuck: HashMap::new(),
            written: Vec::new(),
            started_at: Vec::new(),
        }
    }
}

impl Platform for FakePlatform {
    type Vp = FakeVp;

    fn enter(&mut self) -> Exit {
        if let Some(class) = self.cr8.take() {
            self.vp.priority = class;
        }
        if self.takes_interrupts && self.vp.interrupts_enabled() {
            let priority = self.vp.priority;
            self.taken
                .extend(self.vp.offered.take_if(|vector| *vector >> 4 > priority));
        }
        self.exits.pop_front().unwrap()
    }
    fn vp(&mut self) -> &mut FakeVp {
        &mut self.vp
    }
    fn start(&mut self, _: &BootState) -> Result<(), Error> {
        refused("start of the guest")
    }
    fn start_at(&mut self, page: u8) -> Result<(), Error> {
        self.started_at.push(page);
        Ok(())
    }
    fn hypercall(&mut self, _: Control, _: &[u8]) -> Result<CallResult, Error> {
        refused("hypercall")
    }
    fn hypercall_counts(&self) -> &[(u16, u64)] {
        &[]
    }
    fn read_register(&mut self, msr: u32) -> Result<u64, Error> {
        let written = self.registers.get(&msr).copied().unwrap_or(0);
        Ok(self.stuck.get(&msr).copied().unwrap_or(written))
    }
    fn write_register(&mut self, msr: u32, value: u64) -> Result<(), Error> {
        self.registers.insert(msr, value);
        self.written.push((msr, value));
        Ok(())
    }
    fn write_port(&mut self, _: u16, _: u8) -> Result<(), Error> {
        refused("port")
    }
    fn share(&mut self, _: u64) -> Result<(), Error> {
        refused("share")
    }
    fn unshare(&mut self, _: u64) -> Result<(), Error> {
        refused("unshare")
    }
    fn accept(&mut self, _: u64, _: u64) -> Result<(), Error> {
        refused("accept")
    }
    fn protect(&mut self, _: u64, _: u64, _: Access) -> Result<(), Error> {
        refused("protect")
    }
    fn wait(&mut self) {
        self.waits += 1;
    }
    fn take_interrupts(&mut self) {}
    fn terminate(&mut self, outcome: Outcome) -> ! {
        panic!("the VM ends: {outcome:?}")
    }
}
