//! The emulated SEV-SNP machine: two privilege levels over one memory.

pub mod call;
pub mod context;
pub mod end;
pub mod load;
pub mod ram;
pub mod stats;
pub mod virt;
pub mod vmmem;
pub mod vmpl0;
pub mod vmpl2;

use crate::host::Host;
use crate::metal::clock::{self, Clock};
use crate::metal::memory::{Frames, Plan};
use crate::metal::{apic, idt, svm};
use crate::options::Options;
use crate::record::{self, Guest};
use abi::record::Outcome;
use abi::snp::Vmsa;
use abi::svm::exit;
use alloc::boxed::Box;
use alloc::rc::Rc;
use context::{Context, Maps};
use core::cell::RefCell;
use end::{End, end};
use ram::Ram;
use rig::npt::View;
use rig::rmp::Rmp;
use stats::{Phase, Stats};
use vmmem::HostMemory;
use zerocopy::{FromZeros, IntoBytes};

/// C bit of VMPL0's page tables: 4-level nested tables of QEMU with
/// phys-bits=48 can tell addresses apart up to here.
pub const C_BIT: u32 = 47;
/// Virtual top of memory of VMPL2.
pub const VTOM_BIT: u32 = 46;
/// Index of VMPL0's context.
pub const UPPER: usize = 0;
/// Index of VMPL2's context.
pub const LOWER: usize = 1;
/// The timer fires at least this often (100 ns units), so that the limit of the
/// run holds even if nothing else happens.
const HEARTBEAT: u64 = 2_000_000;

/// The VM.
pub struct Vm {
    ram: Ram,
    rmp: Rc<RefCell<Rmp>>,
    frames: Frames,
    plan: Plan,
    ctx: [Context; 2],
    /// Which context runs.
    current: usize,
    /// Whose FS, GS, TR and so on are in the processor.
    live: Option<usize>,
    /// VMPL0 executed HLT.
    halted: bool,
    /// Registered GHCB page (guest frame).
    ghcb_gfn: Option<u64>,
    /// VMPL2's VMSA page (guest frame) from the SevControl register.
    lower_vmsa: Option<u64>,
    /// VMPL2's VMSA while it runs; the page is written at exit.
    vmsa: Box<Vmsa>,
    /// Interrupt that VMPL2 must take: vector.
    lower_irq: Option<u8>,
    /// The host side.
    pub host: Host,
    memory: Rc<HostMemory>,
    clock: Clock,
    limit: u64,
    armed: u64,
    guest_record: Guest,
    /// Counters.
    pub stats: Stats,
}

impl Vm {
    /// A VM without content.
    pub fn new(plan: Plan, mut frames: Frames, clock: Clock, options: &Options) -> Option<Vm> {
        let ram = Ram::new(plan.vm, plan.vm_size);
        let rmp = Rc::new(RefCell::new(Rmp::new(plan.vm_size >> 12)));
        let noise = frames.take(1)?;
        for i in 0..512 {
            let word = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i as u64 + 1);
            rig::npt::Tables::set(&mut frames, noise, i, word);
        }
        let maps = Maps::new(&mut frames)?;
        let upper = Context::new(
            0,
            View::PrivateBit(C_BIT),
            &maps,
            plan.vm,
            noise,
            &mut frames,
        )?;
        let lower = Context::new(
            2,
            View::SharedBit(VTOM_BIT),
            &maps,
            plan.vm,
            noise,
            &mut frames,
        )?;
        svm::enable(frames.take(1)?).ok()?;
        let memory = Rc::new(HostMemory::new(ram, rmp.clone()));
        Some(Vm {
            ram,
            rmp,
            frames,
            plan,
            ctx: [upper, lower],
            current: UPPER,
            live: None,
            halted: false,
            ghcb_gfn: None,
            lower_vmsa: None,
            vmsa: Vmsa::new_box_zeroed().ok()?,
            lower_irq: None,
            host: Host::new(memory.clone(), &clock, options),
            memory,
            clock,
            limit: options.limit.saturating_mul(10_000_000),
            armed: u64::MAX,
            guest_record: Guest::new(),
            stats: Stats::new(),
        })
    }

    /// Loads pages.
    pub fn loader<R>(
        &mut self,
        cpuid: &[u8; 4096],
        secrets: &[u8; 4096],
        f: impl FnOnce(&mut load::Loader<'_>) -> R,
    ) -> R {
        let mut rmp = self.rmp.borrow_mut();
        f(&mut load::Loader {
            ram: self.ram,
            rmp: &mut rmp,
            cpuid,
            secrets,
        })
    }

    /// Takes the VMSA in `gfn` as VMPL0's.
    pub fn start(&mut self, gfn: u64) -> Result<(), End> {
        let mut vmsa = Vmsa::new_zeroed();
        self.ram.read(gfn << 12, vmsa.as_mut_bytes());
        if let Err(why) = rig::vmsa::check_vmpl0(&vmsa) {
            return end!(
                Outcome::ImageRejected,
                "VMRUN refuses VMPL0's VMSA: {why:?}"
            );
        }
        let ctx = &mut self.ctx[UPPER];
        rig::vmsa::load(&vmsa, &mut ctx.vmcb.save, &mut ctx.regs);
        ctx.vmsa_gfn = gfn;
        self.rmp.borrow_mut().set_in_use(gfn, true);
        Ok(())
    }

    /// Runs until the end.
    pub fn run(&mut self) -> End {
        self.arm();
        loop {
            if let Err(end) = self.step() {
                self.guest_record.flush();
                return end;
            }
        }
    }

    fn step(&mut self) -> Result<(), End> {
        self.serve_host()?;
        if self.current == UPPER {
            if self.halted {
                if self.host.pending_vector().is_none() {
                    self.idle();
                    return Ok(());
                }
                self.halted = false;
            }
            self.prepare_upper();
        } else if self.host.pending_vector().is_some() {
            return self.reflect(rig::vmsa::Exit {
                code: exit::INTR,
                ..Default::default()
            });
        } else {
            self.prepare_lower();
        }
        let current = self.current;
        let load = self.live != Some(current);
        if load && let Some(other) = self.live {
            svm::save(&mut self.ctx[other].vmcb);
        }
        self.stats.phase(if current == UPPER {
            Phase::Upper
        } else {
            Phase::Lower
        });
        self.ctx[current].run(load);
        self.stats.phase(Phase::Rig);
        self.live = Some(current);
        // Delivered or reported in EXITINTINFO: not to be injected again by itself.
        self.ctx[current].vmcb.control.event_inj = 0;
        if let Some(vector) = self.ctx[current].settle() {
            if current == UPPER {
                self.host.accept_vector(vector);
            } else {
                self.lower_irq = None;
            }
        }
        let code = self.ctx[current].vmcb.control.exit_code;
        self.stats.exit(current, code);
        if current == UPPER {
            self.upper_exit(code)
        } else {
            self.lower_exit(code)
        }
    }

    /// Gives the host side its turn where it has something to do.
    fn serve_host(&mut self) -> Result<(), End> {
        let timer = idt::take_timer();
        let pci = idt::take_pci();
        let now = self.clock.now();
        if timer || pci || self.host.wants_turn || now >= self.host.deadline {
            self.host.turn(now, pci);
            self.armed = if timer { u64::MAX } else { self.armed };
            self.arm();
        }
        if pci {
            apic::unmask_pci();
        }
        self.check_host()?;
        if now > self.limit {
            let s = &self.ctx[self.current].vmcb.save;
            return end!(
                Outcome::RigFailure,
                "time limit: VMPL{} rip {:#x}{} rflags {:#x} cr2 {:#x}",
                self.ctx[self.current].npt.vmpl,
                s.rip,
                if self.halted { " halted" } else { "" },
                s.rflags,
                s.cr2
            );
        }
        Ok(())
    }

    /// Ends the run if the host side touched a private page.
    fn check_host(&self) -> Result<(), End> {
        match self.memory.violation() {
            Some(gpa) => end!(
                Outcome::PrivateAccess,
                "the host side touched private page {gpa:#x}"
            ),
            None => Ok(()),
        }
    }

    fn arm(&mut self) {
        let at = self.host.deadline.min(self.clock.now() + HEARTBEAT);
        if at < self.armed || self.armed <= self.clock.now() {
            self.armed = at;
            self.clock.arm(at);
        }
    }

    fn idle(&mut self) {
        self.stats.phase(Phase::Idle);
        // Interrupts are off here; idle turns them on for the HLT only, so that
        // one which came since the last look still ends it.
        if !idt::pending() {
            svm::idle();
        }
        self.stats.phase(Phase::Rig);
    }

    /// Makes the VMCB's FS, GS, TR and system call MSRs current.
    fn sync(&mut self, index: usize) {
        if self.live == Some(index) {
            svm::save(&mut self.ctx[index].vmcb);
        }
    }

    /// Everything about the running context, for the record of an unexpected exit.
    fn describe(&self) -> alloc::string::String {
        let c = &self.ctx[self.current];
        let (control, save) = (&c.vmcb.control, &c.vmcb.save);
        alloc::format!(
            "VMPL{} exit {:#x} info1 {:#x} info2 {:#x} int {:#x} rip {:#x} cr3 {:#x} rsp {:#x} rflags {:#x} cr0 {:#x}",
            c.npt.vmpl,
            control.exit_code,
            control.exit_info1,
            control.exit_info2,
            control.exit_int_info,
            save.rip,
            save.cr3,
            save.rsp,
            save.rflags,
            save.cr0,
        )
    }

    /// Forgets a page's mappings after its entry in the RMP changed.
    fn forget(&mut self, gfn: u64, frames: u64) {
        for gfn in gfn..gfn + frames {
            for ctx in &self.ctx {
                ctx.npt.forget(gfn, &mut self.frames);
            }
        }
    }

    /// Counters of the whole run.
    pub fn report(&mut self) {
        self.stats.report(&self.clock);
        record::count(
            "private_access_refused",
            format_args!(""),
            self.memory.refused(),
        );
        record::count(
            "rig_frames_bytes",
            format_args!(""),
            self.frames.used(&self.plan),
        );
        record::count("tsc_hz", format_args!(""), self.clock.tsc_hz);
        self.host.report();
        self.host.end_recording();
    }

    /// Microseconds of the run so far, from the clock that records use.
    pub fn tsc(&self) -> u64 {
        clock::tsc()
    }
}
