//! From one entry into the guest to the next, on the core of a VP.

use super::end::{End, end};
use super::stats::{Phase, Stats};
use super::{HEARTBEAT, LOWER, Life, Turn, UPPER, cpu};
use crate::metal::{apic, idt, svm};
use abi::record::Outcome;
use abi::snp::Vmsa;
use abi::svm::exit;
use rig::npt::OutOfFrames;
use zerocopy::{FromZeros, IntoBytes};

/// What a core does when it has let go of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enters the current context.
    Run {
        /// Its FS, GS, TR and so on must be loaded.
        load: bool,
    },
    /// Sleeps until an interrupt.
    Sleep,
}

impl Turn<'_> {
    /// This VP's counters.
    pub(super) fn stats(&mut self) -> &mut Stats {
        &mut self.vm.vps[self.vp.index].stats
    }

    /// Looks at the exit of the current context, which ended at `left`.
    pub(super) fn leave(&mut self, left: u64) -> Result<(), End> {
        self.stats().phase_at(Phase::Lock, left);
        self.stats().phase(Phase::Rig);
        let current = self.vp.current;
        self.vp.live = Some(current);
        let index = self.vp.index;
        let ctx = &mut self.vp.ctx[current];
        // Delivered or reported in EXITINTINFO: not to be injected again by itself.
        ctx.vmcb.control.event_inj = 0;
        let code = ctx.vmcb.control.exit_code;
        self.vm.vps[index].last = (ctx.npt.vmpl, ctx.vmcb.save.rip);
        if code != exit::NPF {
            ctx.moved_on();
        }
        let delivered = ctx.settle();
        if current == UPPER {
            self.vm.host.offer_vector(index, None, delivered);
        } else if delivered.is_some() {
            self.vp.lower_irq = None;
        }
        self.stats().exit(current, code);
        if current == UPPER {
            self.upper_exit(code)
        } else {
            self.lower_exit(code)
        }
    }

    /// Everything before the next entry.
    pub(super) fn enter(&mut self) -> Result<Next, End> {
        let index = self.vp.index;
        loop {
            // Whatever the kick was for was left behind the lock before.
            idt::take_kick(cpu::core_of(index));
            match self.vm.vps[index].life {
                Life::Off | Life::Stopped => return Ok(self.sleep()),
                Life::Starting(gfn) => self.begin(gfn)?,
                Life::On => {}
            }
            self.serve_host()?;
            let pending = self.vm.host.pending_vector(index);
            if self.vp.current == UPPER {
                if self.vp.halted {
                    if pending.is_none() {
                        return Ok(self.sleep());
                    }
                    self.vp.halted = false;
                }
                self.prepare_upper();
            } else if pending.is_some() {
                self.reflect(rig::vmsa::Exit {
                    code: exit::INTR,
                    ..Default::default()
                })?;
                continue;
            } else {
                self.prepare_lower();
            }
            break;
        }
        let current = self.vp.current;
        let load = self.vp.live != Some(current);
        if load && let Some(other) = self.vp.live {
            svm::save(&mut self.vp.ctx[other].vmcb);
        }
        self.vm.vps[index].seen = self.vm.host.pending_vector(index);
        self.wake_others();
        self.stats().phase(if current == UPPER {
            Phase::Upper
        } else {
            Phase::Lower
        });
        Ok(Next::Run { load })
    }

    /// Begins with the VMSA in `gfn`.
    fn begin(&mut self, gfn: u64) -> Result<(), End> {
        let mut vmsa = Vmsa::new_zeroed();
        self.vm.ram.read(gfn << 12, vmsa.as_mut_bytes());
        if let Err(why) = rig::vmsa::check_vmpl0(&vmsa) {
            return end!(
                Outcome::VmKilled,
                "VMRUN refuses VMPL0's VMSA of VP {}: {why:?}",
                self.vp.index
            );
        }
        let ctx = &mut self.vp.ctx[UPPER];
        rig::vmsa::load(&vmsa, &mut ctx.vmcb.save, &mut ctx.regs);
        ctx.vmsa_gfn = gfn;
        self.vm.vps[self.vp.index].life = Life::On;
        Ok(())
    }

    fn sleep(&mut self) -> Next {
        self.vm.vps[self.vp.index].seen = None;
        self.wake_others();
        self.stats().phase(Phase::Idle);
        Next::Sleep
    }

    /// Wakes the VPs for which the host has an interrupt that they do not know of.
    fn wake_others(&mut self) {
        let own = self.vp.index;
        for (index, vp) in self.vm.vps.iter_mut().enumerate() {
            if index == own || vp.life != Life::On {
                continue;
            }
            let pending = self.vm.host.pending_vector(index);
            if pending.is_some() && pending != vp.seen {
                vp.seen = pending;
                cpu::kick(index);
            }
        }
    }

    /// Gives the host side its turn where it has something to do.
    fn serve_host(&mut self) -> Result<(), End> {
        let timer = idt::take_timer(cpu::core_of(self.vp.index));
        // The lines go to the core of VP 0, which alone may touch the I/O APIC.
        let pci = self.vp.index == 0 && idt::take_pci();
        let now = self.vm.clock.now();
        if timer || pci || self.vm.host.wants_turn || now >= self.vm.host.deadline {
            self.vm.host.turn(now, pci);
            self.vm.armed = if timer { u64::MAX } else { self.vm.armed };
            self.arm();
        }
        if pci {
            apic::unmask_pci();
        }
        self.check_host()?;
        if let Some(beat) = self.vm.beat
            && now >= self.vm.next_beat
        {
            self.vm.next_beat = now.saturating_add(beat);
            self.vm.host.beat(now);
        }
        if now > self.vm.limit {
            return end!(Outcome::RigFailure, "time limit: {}", self.whereabouts());
        }
        Ok(())
    }

    /// Where everybody is.
    fn whereabouts(&self) -> alloc::string::String {
        let save = &self.vp.ctx[self.vp.current].vmcb.save;
        let mut text = alloc::format!("rflags {:#x} cr2 {:#x};", save.rflags, save.cr2);
        for (index, vp) in self.vm.vps.iter().enumerate() {
            let (vmpl, rip) = vp.last;
            text += &alloc::format!(" VP {index} ({:?}): VMPL{vmpl} rip {rip:#x}", vp.life);
        }
        text
    }

    /// Ends the run if the host side touched a private page.
    pub(super) fn check_host(&self) -> Result<(), End> {
        match self.vm.memory.violation() {
            Some(gpa) => end!(
                Outcome::PrivateAccess,
                "the host side touched private page {gpa:#x}"
            ),
            None => Ok(()),
        }
    }

    /// Arms this core's timer, unless that of another fires in time.
    fn arm(&mut self) {
        let now = self.vm.clock.now();
        let at = self.vm.host.deadline.min(now + HEARTBEAT);
        if at < self.vm.armed || self.vm.armed <= now {
            self.vm.armed = at;
            self.vm.clock.arm(at);
        }
    }

    /// Makes the VMCB's FS, GS, TR and system call MSRs current.
    pub(super) fn sync(&mut self, index: usize) {
        if self.vp.live == Some(index) {
            svm::save(&mut self.vp.ctx[index].vmcb);
        }
    }

    /// Everything about the running context, for the record of an unexpected exit.
    pub(super) fn describe(&self) -> alloc::string::String {
        let c = &self.vp.ctx[self.vp.current];
        let (control, save) = (&c.vmcb.control, &c.vmcb.save);
        alloc::format!(
            "VP {} VMPL{} exit {:#x} info1 {:#x} info2 {:#x} int {:#x} rip {:#x} cr3 {:#x} rsp {:#x} rflags {:#x} cr0 {:#x}",
            self.vp.index,
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

    /// Maps what may be mapped around `address` for the running level.
    pub(super) fn fill(&mut self, level: usize, address: u64) -> Result<(), End> {
        self.stats().fills += 1;
        let npt = self.vp.ctx[level].npt;
        let mut filled = npt.fill(&self.vm.rmp.borrow(), address, &mut self.vm.frames);
        if filled == Err(OutOfFrames) {
            // Tables that were given back may be used again once nobody walks them.
            self.others_out()?;
            filled = npt.fill(&self.vm.rmp.borrow(), address, &mut self.vm.frames);
        }
        match filled {
            Ok(()) => Ok(()),
            Err(OutOfFrames) => end!(Outcome::RigFailure, "out of frames for nested tables"),
        }
    }

    /// Forgets pages' mappings after their entries in the RMP changed. When this
    /// returns no core uses them any more.
    pub(super) fn forget(&mut self, gfn: u64, frames: u64) -> Result<(), End> {
        for gfn in gfn..gfn + frames {
            for tree in &self.vm.trees {
                tree.forget(gfn, &mut self.vm.frames);
            }
        }
        self.others_out()
    }

    /// Takes all others out of their guests: what they remember of nested tables is
    /// forgotten when they enter again.
    fn others_out(&mut self) -> Result<(), End> {
        if !cpu::expel(self.vp.index, self.vm.vps.len(), &self.vm.clock) {
            return end!(
                Outcome::RigFailure,
                "a core does not leave its guest: {}",
                self.whereabouts()
            );
        }
        self.vm.frames.reuse();
        Ok(())
    }

    /// Chooses VMPL2's view of memory, which all VPs share, once and for all.
    pub(super) fn fix_view(&mut self, view: rig::npt::View) -> Result<(), End> {
        let tree = &mut self.vm.trees[LOWER];
        if self.vm.lower_viewed && tree.view != view {
            return end!(
                Outcome::VmKilled,
                "VMPL2's virtual top of memory is not what it was: {view:?}"
            );
        }
        self.vm.lower_viewed = true;
        tree.view = view;
        self.vp.ctx[LOWER].npt.view = view;
        Ok(())
    }
}
