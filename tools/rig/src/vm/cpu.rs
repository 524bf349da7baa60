//! The cores: who is in the guest, who has the lock, who must be woken.
//!
//! A core says that it is in its guest while it still holds the lock, and that it has
//! left before it asks for the lock again. So whoever has the lock knows all that may
//! still run, and can take them out ([`expel`]): a kick that comes before VMRUN stays
//! pending and ends it at once, and after it QEMU has forgotten the translations.
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
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
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
    /// Takes the lock for `core`. Who has waited for some time sleeps: where QEMU has
    /// fewer processors than the rig has cores, spinning keeps the owner from its work.
    fn lock(&self, core: usize) -> Locked<'_> {
        let owner = |guard| Locked(Some(guard));
        for _ in 0..SPINS {
            if let Some(guard) = self.0.try_lock() {
                return owner(guard);
            }
            core::hint::spin_loop();
        }
        let own = 1 << core;
        loop {
            // In this order: the owner lets go first, then looks who waits.
            WAITING.fetch_or(own, SeqCst);
            if let Some(guard) = self.0.try_lock() {
                WAITING.fetch_and(!own, SeqCst);
                return owner(guard);
            }
            // Interrupts are off: a kick that came by now ends the HLT. What else a kick
            // may be for is looked at with the lock in hand.
            if !idt::take_kick(core) {
                svm::idle();
            }
        }
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

/// Processors that wait for their core.
static CPUS: [Mutex<Option<Box<VpCpu>>>; smp::MAX_CORES] =
    [const { Mutex::new(None) }; smp::MAX_CORES];
/// By core: it may be in its guest.
static IN_GUEST: [AtomicBool; smp::MAX_CORES] = [const { AtomicBool::new(false) }; smp::MAX_CORES];
/// Cores that sleep until the lock is let go of, by bits.
static WAITING: AtomicU64 = AtomicU64::new(0);
static KICKS: AtomicU64 = AtomicU64::new(0);
static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);

/// Runs the VM until its end, with all its VPs, and reports.
pub fn run(vm: Vm, cpus: Vec<VpCpu>, boot: &Boot) -> End {
    let count = cpus.len();
    let mut first = None;
    for (cpu, place) in cpus.into_iter().zip(&CPUS) {
        match cpu.index {
            0 => first = Some(cpu),
            _ => *place.lock() = Some(Box::new(cpu)),
        }
    }
    let clock = vm.clock;
    {
        // Held until all are there: then they begin to look.
        let mut machine = MACHINE.lock(0);
        let mut vm = Box::new(vm);
        let started = smp::start(boot, &clock, &mut vm.frames, count, other);
        machine.put(vm);
        if let Err(why) = started {
            return End {
                outcome: Outcome::RigFailure,
                message: why.into(),
            };
        }
    }
    let end = first.as_mut().and_then(serve).unwrap_or_else(|| End {
        outcome: Outcome::RigFailure,
        message: "the first core has nothing to do".into(),
    });
    // Held for ever: the others stop at it.
    let mut machine = MACHINE.lock(0);
    if let Some(vm) = machine.vm() {
        vm.report();
    }
    core::mem::forget(machine);
    end
}

/// A core that was woken.
fn other(index: usize) -> ! {
    let cpu = CPUS.get(index).and_then(|place| place.lock().take());
    if let Some(mut cpu) = cpu {
        let end = match svm::enable(cpu.save_area) {
            Ok(()) => serve(&mut cpu),
            Err(why) => Some(End {
                outcome: Outcome::RigFailure,
                message: alloc::format!("core {index}: {why}"),
            }),
        };
        if let Some(end) = end
            && let Some(vm) = MACHINE.lock(index).vm()
        {
            vm.ended.get_or_insert(end);
            kick(0);
        }
    }
    smp::park()
}

/// Works until the run ends, here or elsewhere. The first core is told how.
fn serve(vp: &mut VpCpu) -> Option<End> {
    let core = vp.index;
    let in_guest = IN_GUEST.get(core)?;
    let mut left = None;
    loop {
        let next = {
            let mut machine = MACHINE.lock(core);
            let vm = machine.vm()?;
            if vm.ended.is_some() {
                return vm.ended.take_if(|_| core == 0);
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
                if !idt::pending(core) {
                    svm::idle();
                }
                None
            }
        };
    }
}

/// Makes a core look at what is behind the lock.
pub fn kick(core: usize) {
    KICKS.fetch_add(1, Relaxed);
    apic::kick(core as u8);
}

/// Takes all cores but `own` out of their guests. The caller holds the lock, so none
/// enters again before it lets go. `false`: one did not leave in time.
pub fn expel(own: usize, count: usize, clock: &Clock) -> bool {
    let others = || {
        let all = IN_GUEST.iter().enumerate().take(count);
        all.filter(|(core, in_guest)| *core != own && in_guest.load(SeqCst))
    };
    let mut any = false;
    for (core, _) in others() {
        any = true;
        kick(core);
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
