//! A VM without paravisor: an unmodified guest on an ordinary PC that is a Hyper-V
//! guest and knows it. Its own VMBus and NIC drivers talk to `hostkit` directly, so
//! that the fake host is judged by somebody who did not write it.
//!
//! The PC around the guest is the paravisor's (`devices`), and so is the code that
//! answers exits (`paravisor_core::dispatch`); what is added is the hypervisor.

mod boot;
mod hyperv;
mod vp;

use crate::host::Host;
use crate::metal::clock::Clock;
use crate::metal::{apic, idt, serial, svm};
use crate::record;
use crate::vm::end::{End, end};
use crate::vm::stats::{Phase, Stats};
use crate::vm::vmmem::HostMemory;
use abi::record::Outcome;
use abi::svm::event;
use alloc::rc::Rc;
use devices::{Machine, PowerEvent};
use hostkit::VmMemory;
use memory::{GuestMemory, OutOfRange};
use paravisor_core::dispatch::{Next, dispatch};
use paravisor_core::mmio::Decoded;
use paravisor_core::walk;
use platform::{Exit, Reg, Registers};
use vp::Vp;

/// As for the confidential VM: the limit of the run holds even if nothing happens.
const HEARTBEAT: u64 = 2_000_000;
/// The guest, in the counters of exits.
const GUEST: usize = 1;

/// The guest's memory, all of which the host may touch.
struct Ram(Rc<HostMemory>);

impl GuestMemory for Ram {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        VmMemory::read(&*self.0, gpa, dst).map_err(|_| OutOfRange)
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        VmMemory::write(&*self.0, gpa, src).map_err(|_| OutOfRange)
    }
}

/// The VM.
pub struct Pc {
    vp: Vp,
    ram: Ram,
    devices: Machine,
    decoded: Decoded,
    host: Host,
    clock: Clock,
    limit: u64,
    armed: u64,
    halted: bool,
    started: bool,
    stats: Stats,
}

impl Pc {
    /// Runs until the end.
    pub fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.step() {
                self.console();
                return end;
            }
        }
    }

    fn nanoseconds(&self) -> u64 {
        self.clock.now().saturating_mul(100)
    }

    fn step(&mut self) -> Result<(), End> {
        self.serve()?;
        if self.halted {
            if self.devices.pending_interrupt().is_none() {
                self.stats.phase(Phase::Idle);
                if !idt::pending(0) {
                    svm::idle();
                }
                self.stats.phase(Phase::Rig);
                return Ok(());
            }
            self.halted = false;
        }
        self.prepare();
        self.stats.phase(Phase::Lower);
        self.vp.ctx.run(!self.started);
        self.stats.phase(Phase::Rig);
        self.started = true;
        self.vp.ctx.vmcb.control.event_inj = 0;
        if let Some(vector) = self.vp.ctx.settle() {
            self.devices.accept_interrupt(vector);
        }
        self.leave()
    }

    /// Time, host and devices get their turn.
    fn serve(&mut self) -> Result<(), End> {
        let timer = idt::take_timer(0);
        let pci = idt::take_pci();
        let now = self.clock.now();
        if timer || pci || self.host.wants_turn || now >= self.host.deadline {
            self.host.turn(now, pci);
        }
        if pci {
            apic::unmask_pci();
        }
        self.devices.advance(now.saturating_mul(100));
        // The VM's local APIC keeps priorities; hostkit's own little one only hands
        // the edges over.
        while let Some(vector) = self.host.pending_vector(0) {
            self.host.accept_vector(0, vector);
            self.devices.raise_interrupt(vector);
            let ended = self.host.msr_write(now, 0, abi::hyperv::msr::EOI, 0);
            if ended.is_err() {
                break;
            }
        }
        self.console();
        if timer {
            self.armed = u64::MAX;
        }
        self.arm();
        match self.devices.take_power_event() {
            Some(PowerEvent::PowerOff) => return end!(Outcome::PowerOff, "ACPI S5"),
            Some(PowerEvent::Reset) => return end!(Outcome::Reset, "reset register"),
            None => {}
        }
        if now > self.limit {
            return end!(Outcome::RigFailure, "time limit: {}", self.describe());
        }
        Ok(())
    }

    fn arm(&mut self) {
        let now = self.clock.now();
        let devices = self.devices.next_deadline().map_or(u64::MAX, |ns| ns / 100);
        let at = self.host.deadline.min(devices).min(now + HEARTBEAT);
        if at < self.armed || self.armed <= now {
            self.armed = at;
            self.clock.arm(at);
        }
    }

    fn console(&mut self) {
        let mut wrote = true;
        while core::mem::take(&mut wrote) {
            self.devices.drain_console(|bytes| {
                bytes.iter().copied().for_each(serial::console);
                wrote = true;
            });
        }
    }

    /// Chooses what the guest takes at entry.
    fn prepare(&mut self) {
        let again = self.vp.ctx.interrupted_event();
        self.vp.ctx.vmcb.control.exit_int_info = 0;
        if self.vp.event_pending() {
            return;
        }
        if again & event::VALID != 0 {
            self.vp.ctx.vmcb.control.event_inj = again;
            return;
        }
        if self.devices.take_nmi() {
            self.vp.inject_nmi();
            return;
        }
        let Some(pending) = self.devices.pending_interrupt() else {
            return;
        };
        if self.vp.interrupts_enabled() {
            self.vp.ctx.vmcb.control.event_inj = event::interrupt(pending.vector);
            self.devices.accept_interrupt(pending.vector);
        } else {
            self.vp.ctx.offer(pending.vector);
        }
    }

    /// Answers an exit.
    fn leave(&mut self) -> Result<(), End> {
        let control = &self.vp.ctx.vmcb.control;
        let (code, info1, info2) = (control.exit_code, control.exit_info1, control.exit_info2);
        self.stats.exit(GUEST, code);
        let why = platform::snp::decode(code, info1, info2);
        self.vp.next_rip = self.next_rip(&why, info2);
        match &why {
            Exit::Cpuid => {
                self.cpuid();
                return Ok(());
            }
            Exit::ReadMsr if self.msr(false) => return Ok(()),
            Exit::WriteMsr if self.msr(true) => return Ok(()),
            Exit::Hypercall => {
                self.hypercall();
                return Ok(());
            }
            Exit::Halt => self.vp.set(Reg::Rip, self.vp.next_rip),
            Exit::Mmio { .. } => self.sync(),
            Exit::Io(access) => {
                self.stats.port(access.port);
                if access.string.is_some() {
                    self.sync();
                }
            }
            _ => {}
        }
        let now = self.nanoseconds();
        let next = dispatch(
            &why,
            &mut self.vp,
            &self.ram,
            &mut self.devices,
            &mut self.decoded,
            now,
        );
        match next {
            Next::Run => Ok(()),
            Next::Halted => {
                self.halted = true;
                Ok(())
            }
            Next::TripleFault => end!(Outcome::TripleFault, "{}", self.describe()),
            Next::Unknown { .. } => end!(Outcome::UnknownExit, "{}", self.describe()),
        }
    }

    /// Brings FS, GS and their kind from the processor into the VMCB.
    fn sync(&mut self) {
        svm::save(&mut self.vp.ctx.vmcb);
    }

    /// QEMU reports it for ports only; else the instruction is measured.
    fn next_rip(&self, why: &Exit, info2: u64) -> u64 {
        match why {
            Exit::Io(_) => info2,
            Exit::Cpuid
            | Exit::ReadMsr
            | Exit::WriteMsr
            | Exit::Hypercall
            | Exit::Halt
            | Exit::CacheFlush
            | Exit::Rdpmc => {
                let mut bytes = [0; walk::MAX_INSTRUCTION];
                let len = walk::fetch(&self.vp, &self.ram, &mut bytes).unwrap_or(0);
                let bytes = bytes.get(..len).unwrap_or_default();
                let length = rig::insn::length(bytes, self.vp.ctx.bits()).unwrap_or(0);
                self.vp.get(Reg::Rip).wrapping_add(length)
            }
            _ => self.vp.get(Reg::Rip),
        }
    }

    fn describe(&self) -> alloc::string::String {
        let (control, save) = (&self.vp.ctx.vmcb.control, &self.vp.ctx.vmcb.save);
        alloc::format!(
            "guest exit {:#x} info1 {:#x} info2 {:#x} int {:#x} rip {:#x} rsp {:#x} rflags {:#x} cr2 {:#x} cr3 {:#x}{}",
            control.exit_code,
            control.exit_info1,
            control.exit_info2,
            control.exit_int_info,
            save.rip,
            save.rsp,
            save.rflags,
            save.cr2,
            save.cr3,
            if self.halted { " halted" } else { "" },
        )
    }

    /// Counters of the whole run.
    pub fn report(&mut self) {
        self.stats.report(&self.clock);
        record::count("tsc_hz", format_args!(""), self.clock.tsc_hz);
        let machine = self.devices.counters();
        record::count("unknown_mmio", format_args!(""), machine.unknown_mmio);
        record::count("unknown_msr", format_args!(""), machine.unknown_msr);
        if let Some(crash) = self.host.crash() {
            record::log("error", format_args!("the guest crashed: {crash:x?}"));
        }
        self.host.report();
    }
}
