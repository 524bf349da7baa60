//! The cores: who is in the guest, who has the lock, who must be woken.
//!
//! A core says that it is in its guest while it still holds the lock, and that it has
//! left before it asks for the lock again. So whoever has the lock knows all that may
//! still run, and can take them out ([`expel`]): a kick that comes before VMRUN stays
//! pending and ends it at once, and after it QEMU has forgotten the translations.
//!
//! One VP runs on the core that booted. Several run on all others, and the one that
//! booted sleeps until the end: whoever executes FXRSTOR, XRSTOR or FLDENV makes QEMU
//! (10.0.2: `cpu_clear_ignne`, target/i386/tcg/system/fpu_helper.c) read, change and
//! write the flags of its *first* processor, without a lock. There QEMU also keeps
//! whether nested paging is on and whether interrupts are let through, so a VMRUN or
//! #VMEXIT of the first processor at that moment is undone in part: the rig found
//! itself behind the nested tables of its guest. A core that never runs a guest has
//! nothing there that could be lost.
#![allow(unsafe_code)]

use super::end::End;
use super::turn::Next;
use super::{Turn, Vm, VpCpu};
use crate::metal::boot::Boot;
use crate::metal::clock::{Clock, tsc};
use crate::metal::{apic, idt, smp, svm};
use abi::record::Outcome;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
use core::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use spin::{Mutex, MutexGuard};

/// How long a core may take to leave its guest (100 ns units): much, as the machine
/// below may have fewer processors than the rig has cores.
const PATIENCE: u64 = 100_000_000;
/// Looks at the lock before a core goes to sleep: some ten microseconds, as long as the
/// work on an exit takes.
const SPINS: u32 = 200;

/// The VM behind its lock.
struct Machine(Mutex<Option<Box<Vm>>>);

// SAFETY: what is not `Send` in a `Vm` are its `Rc`s (memory and RMP, shared with the
// host side) and the host side's trait objects. All clones of them live in the same
// `Vm` and are reached under its lock alone.
unsafe impl Sync for Machine {}

static MACHINE: Machine = Machine(Mutex::new(None));
impl Machine {
    /// Takes the lock for the core of `vp`. Who has waited for some time sleeps: where
    /// QEMU has fewer processors than the rig has cores, spinning keeps the owner from
    /// its work.
    fn lock(&self, vp: usize) -> Locked<'_> {
        let owner = |guard| Locked(Some(guard));
        for _ in 0..SPINS {
            if let Some(guard) = self.0.try_lock() {
                return owner(guard);
            }
            core::hint::spin_loop();
        }
        let own = 1 << vp;
        loop {
            // In this order: the owner lets go first, then looks who waits.
            WAITING.fetch_or(own, SeqCst);
            if let Some(guard) = self.0.try_lock() {
                WAITING.fetch_and(!own, SeqCst);
                return owner(guard);
            }
            // Interrupts are off: a kick that came by now ends the HLT. What else a kick
            // may be for is looked at with the lock in hand.
            if !idt::take_kick(core_of(vp)) {
                svm::idle();
            }
        }
    }

    /// Takes the lock for a core without a VP, which is never woken for it.
    fn seize(&self) -> Locked<'_> {
        Locked(Some(self.0.lock()))
    }
}

/// The VM in the hands of a core.
struct Locked<'a>(Option<MutexGuard<'a, Option<Box<Vm>>>>);

impl Locked<'_> {
    fn vm(&mut self) -> Option<&mut Vm> {
        self.0.as_mut()?.as_deref_mut()
    }

    fn put(&mut self, vm: Box<Vm>) {
        if let Some(place) = &mut self.0 {
            **place = Some(vm);
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        drop(self.0.take());
        fence(SeqCst);
        let waiting = WAITING.load(SeqCst);
        if waiting != 0 {
            let next = waiting.trailing_zeros();
            // Two owners may choose the same one; then it is woken twice.
            WAITING.fetch_and(!(1 << next), SeqCst);
            kick(next as usize);
        }
    }
}

/// By VP: its processor, which waits for its core.
static CPUS: [Mutex<Option<Box<VpCpu>>>; smp::MAX_VPS] = [const { Mutex::new(None) }; smp::MAX_VPS];
/// By VP: it may be in its guest.
static IN_GUEST: [AtomicBool; smp::MAX_VPS] = [const { AtomicBool::new(false) }; smp::MAX_VPS];
/// VPs whose cores sleep until the lock is let go of, by bits.
static WAITING: AtomicU64 = AtomicU64::new(0);
/// The core that booted.
const BOOT_CORE: usize = 0;
/// The core of VP 0.
static FIRST: AtomicUsize = AtomicUsize::new(BOOT_CORE);
static KICKS: AtomicU64 = AtomicU64::new(0);
static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);

/// The core on which a VP runs.
pub fn core_of(vp: usize) -> usize {
    FIRST.load(Relaxed) + vp
}

/// Runs the VM until its end, with all its VPs, and reports.
pub fn run(vm: Vm, mut cpus: Vec<VpCpu>, boot: &Boot) -> End {
    let end = match cpus.as_mut_slice() {
        [only] => {
            MACHINE.seize().put(Box::new(vm));
            serve(only)
        }
        _ => run_elsewhere(vm, cpus, boot),
    };
    // Held for ever: the others stop at it.
    let mut machine = MACHINE.seize();
    let mut elsewhere = None;
    if let Some(vm) = machine.vm() {
        elsewhere = vm.ended.take();
        vm.report();
    }
    core::mem::forget(machine);
    end.or(elsewhere).unwrap_or_else(|| End {
        outcome: Outcome::RigFailure,
        message: "the run ended, and no core knows why".into(),
    })
}

/// Runs several VPs on the other cores, and sleeps until the end. How, if they could
/// not begin; else the VM knows.
fn run_elsewhere(vm: Vm, cpus: Vec<VpCpu>, boot: &Boot) -> Option<End> {
    let (clock, count) = (vm.clock, cpus.len());
    FIRST.store(BOOT_CORE + 1, Relaxed);
    apic::route_pci(core_of(0) as u8);
    for (cpu, place) in cpus.into_iter().zip(&CPUS) {
        *place.lock() = Some(Box::new(cpu));
    }
    {
        // Held until all are there: then they begin to look.
        let mut machine = MACHINE.seize();
        let mut vm = Box::new(vm);
        let started = smp::start(boot, &clock, &mut vm.frames, core_of(count), other);
        machine.put(vm);
        if let Err(why) = started {
            return Some(End {
                outcome: Outcome::RigFailure,
                message: why.into(),
            });
        }
    }
    loop {
        if MACHINE.seize().vm()?.ended.is_some() {
            return None;
        }
        // Interrupts are off: a kick that came by now ends the HLT.
        while !idt::take_kick(BOOT_CORE) {
            svm::idle();
        }
    }
}

/// A core that was woken.
fn other(core: usize) -> ! {
    let index = core.saturating_sub(FIRST.load(Relaxed));
    let cpu = CPUS.get(index).and_then(|place| place.lock().take());
    if let Some(mut cpu) = cpu {
        let end = match svm::enable(cpu.save_area) {
            Ok(()) => serve(&mut cpu),
            Err(why) => Some(End {
                outcome: Outcome::RigFailure,
                message: alloc::format!("core {core}: {why}"),
            }),
        };
        if let Some(end) = end
            && let Some(vm) = MACHINE.lock(index).vm()
        {
            vm.ended.get_or_insert(end);
            apic::kick(BOOT_CORE as u8);
        }
    }
    smp::park()
}

/// Works until the run ends. How, if it ended here.
fn serve(vp: &mut VpCpu) -> Option<End> {
    let index = vp.index;
    let in_guest = IN_GUEST.get(index)?;
    let mut left = None;
    loop {
        let next = {
            let mut machine = MACHINE.lock(index);
            let vm = machine.vm()?;
            if vm.ended.is_some() {
                return None;
            }
            let mut turn = Turn { vm, vp };
            let next = match left {
                Some(left) => turn.leave(left).and_then(|()| turn.enter()),
                None => turn.enter(),
            };
            match next {
                Ok(Next::Run { load }) => {
                    in_guest.store(true, SeqCst);
                    Next::Run { load }
                }
                Ok(Next::Sleep) => Next::Sleep,
                Err(end) => return Some(end),
            }
        };
        left = match next {
            Next::Run { load } => {
                vp.ctx[vp.current].run(load);
                in_guest.store(false, SeqCst);
                Some(tsc())
            }
            Next::Sleep => {
                // Interrupts are off here; idle turns them on for the HLT only, so
                // that one which came since the last look still ends it.
                if !idt::pending(core_of(index)) {
                    svm::idle();
                }
                None
            }
        };
    }
}

/// Makes the core of `vp` look at what is behind the lock.
pub fn kick(vp: usize) {
    KICKS.fetch_add(1, Relaxed);
    apic::kick(core_of(vp) as u8);
}

/// Takes the cores of all VPs but `own` out of their guests. The caller holds the lock, so none
/// enters again before it lets go. `false`: one did not leave in time.
pub fn expel(own: usize, count: usize, clock: &Clock) -> bool {
    let others = || {
        let all = IN_GUEST.iter().enumerate().take(count);
        all.filter(|(vp, in_guest)| *vp != own && in_guest.load(SeqCst))
    };
    let mut any = false;
    for (vp, _) in others() {
        any = true;
        kick(vp);
    }
    if !any {
        return true;
    }
    SHOOTDOWNS.fetch_add(1, Relaxed);
    smp::wait(clock, PATIENCE, || others().next().is_none())
}

/// Kicks, and times that somebody was taken out of the guest.
pub fn counters() -> (u64, u64) {
    (KICKS.load(Relaxed), SHOOTDOWNS.load(Relaxed))
}
