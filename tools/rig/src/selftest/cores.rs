//! `selftest=cores`: what several cores of the rig must be able to do, without an
//! image. Each runs a guest of a few bytes in real mode (the mode in which a VP's
//! processor begins after SIPI) while the others run theirs. As with a VM the core that
//! booted runs none of several guests ([`crate::vm::cpu`] tells why).
//!
//! 1. The time-stamp counter that a core reads is never behind what another has read
//!    before.
//! 2. All guests run at once, and each exit is the core's own, however often the others
//!    load the state of their floating point units meanwhile.
//! 3. A kick takes a core out of a guest that would never leave, even if it comes
//!    just before VMRUN; and out of its sleep.

use crate::metal::boot::Boot;
use crate::metal::clock::{Clock, tsc};
use crate::metal::memory::{Frames, Plan};
use crate::metal::{apic, idt, smp, svm};
use crate::record;
use crate::vm::context::{Context, Maps};
use crate::vm::end::{End, end};
use crate::vm::ram::Ram;
use crate::vm::vmmem::HostMemory;
use abi::record::Outcome;
use abi::svm::{Segment, exit, msr::EFER_SVME};
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use hostkit::VmMemory;
use rig::npt::View;
use rig::rmp::Rmp;
use spin::Mutex;

/// Readings of the time-stamp counter, each by the next core.
const READINGS: u64 = 100;
/// Exits of each guest while all run.
const EXITS: u64 = 10_000;
/// Kicks of each core, in its guest and asleep.
const KICKS: u64 = 50;
/// The whole test (100 ns units).
const LIMIT: u64 = 300_000_000;

/// `inc ebx; mov cx, 200`, then `fldenv cs:[0x200]; loop`, then `cpuid; jmp` to the
/// start: an exit each time around.
const BUSY: [u8; 16] = [
    0x66, 0x43, 0xb9, 0xc8, 0x00, 0x2e, 0xd9, 0x26, 0x00, 0x02, 0xe2, 0xf9, 0x0f, 0xa2, 0xeb, 0xf0,
];
/// Where its CPUID is.
const CPUID_AT: u64 = 12;
/// Where the environment for FLDENV lies in the guest's page.
const ENVIRONMENT_AT: u64 = 0x200;
/// No exception is pending, in 16-bit format.
const ENVIRONMENT: [u8; 14] = [0; 14];
/// Where the other part lies in the guest's page.
const ENDLESS_AT: u64 = 0x10;
/// `inc ecx; pause; jmp` to the start: no exit at all.
const ENDLESS: [u8; 6] = [0x66, 0x41, 0xf3, 0x90, 0xeb, 0xfa];

/// The part of one core that runs a guest.
struct Work {
    context: Mutex<Option<Context>>,
    save_area: AtomicU64,
    /// Times that it waited for a kick in its guest or in its sleep.
    begun: AtomicU64,
    /// Kicks that it has taken.
    taken: AtomicU64,
    /// Exits that had no kick behind them.
    stray: AtomicU64,
}

static WORK: [Work; smp::MAX_VPS] = [const {
    Work {
        context: Mutex::new(None),
        save_area: AtomicU64::new(0),
        begun: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        stray: AtomicU64::new(0),
    }
}; smp::MAX_VPS];
static CLOCK: Mutex<Option<Clock>> = Mutex::new(None);
static CORES: AtomicU64 = AtomicU64::new(0);
static ARRIVED: AtomicU64 = AtomicU64::new(0);
static TURN: AtomicU64 = AtomicU64::new(0);
static LATEST: AtomicU64 = AtomicU64::new(0);
static GIVEN_UP: AtomicBool = AtomicBool::new(false);
static WHY: Mutex<Option<String>> = Mutex::new(None);

/// The test was given up, here or elsewhere.
struct Failed;

fn fail<T>(why: String) -> Result<T, Failed> {
    WHY.lock().get_or_insert(why);
    GIVEN_UP.store(true, SeqCst);
    Err(Failed)
}

/// The core that runs the first guest of `count`.
fn first_core(count: usize) -> usize {
    usize::from(count > 1)
}

/// Lets `count` cores work, and wakes them for it. The end tells how it went.
pub fn run(boot: &Boot, plan: &Plan, mut frames: Frames, clock: Clock, count: usize) -> End {
    match prepare(boot, plan, &mut frames, clock, count) {
        Ok(()) => {}
        Err(end) => return end,
    }
    let begin = clock.now();
    let result = if first_core(count) == 0 {
        work(0)
    } else {
        kick_all(&clock, count)
    };
    let micros = (clock.now() - begin) / 10;
    if result.is_err() || GIVEN_UP.load(SeqCst) {
        let why = WHY.lock().take().unwrap_or_default();
        return End {
            outcome: Outcome::Panic,
            message: alloc::format!("{count} cores: {why}"),
        };
    }
    record::count("cores", format_args!(""), count as u64);
    record::count("cores_exits", format_args!(""), EXITS * count as u64);
    let kicks = 2 * KICKS * (first_core(count) * count) as u64;
    record::count("cores_kicks", format_args!(""), kicks);
    record::count("cores_us", format_args!(""), micros);
    End {
        outcome: Outcome::PowerOff,
        message: alloc::format!("{count} cores did their work"),
    }
}

fn prepare(
    boot: &Boot,
    plan: &Plan,
    frames: &mut Frames,
    clock: Clock,
    count: usize,
) -> Result<(), End> {
    const FRAMES: &str = "out of frames";
    let pages = plan.vm_size >> 12;
    let mut rmp = Rmp::new(pages);
    for gfn in 0..pages {
        rmp.update(gfn, false);
    }
    let memory = HostMemory::new(Ram::new(plan.vm, plan.vm_size), Rc::new(RefCell::new(rmp)));
    let Some(maps) = Maps::new(frames) else {
        return end!(Outcome::RigFailure, "{FRAMES}");
    };
    for (index, work) in WORK.iter().enumerate().take(count) {
        let page = (index as u64 + 1) << 12;
        let written = memory
            .write(page, &BUSY)
            .and_then(|()| memory.write(page + ENDLESS_AT, &ENDLESS))
            .and_then(|()| memory.write(page + ENVIRONMENT_AT, &ENVIRONMENT));
        let view = View::PrivateBit(crate::vm::C_BIT);
        let context = Context::new(2, view, &maps, plan.vm, 0, frames);
        let (Some(mut context), Some(save_area), Ok(())) = (context, frames.take(1), written)
        else {
            return end!(Outcome::RigFailure, "{FRAMES}");
        };
        if context.npt.fill_plain(plan.vm_size, frames).is_err() {
            return end!(Outcome::RigFailure, "{FRAMES}");
        }
        real_mode(&mut context, page);
        *work.context.lock() = Some(context);
        work.save_area.store(save_area, SeqCst);
    }
    *CLOCK.lock() = Some(clock);
    CORES.store(count as u64, SeqCst);
    match smp::start(boot, &clock, frames, first_core(count) + count, other) {
        Ok(()) => Ok(()),
        Err(why) => end!(Outcome::RigFailure, "{why}"),
    }
}

/// The processor after SIPI, at the start of `page`.
fn real_mode(context: &mut Context, page: u64) {
    let segment = |attrib, base: u64| Segment {
        selector: (base >> 4) as u16,
        attrib,
        limit: 0xffff,
        base,
    };
    let save = &mut context.vmcb.save;
    let data = segment(0x93, 0);
    (save.ds, save.es, save.ss, save.fs, save.gs) = (data, data, data, data, data);
    save.cs = segment(0x9b, page);
    (save.tr, save.ldtr) = (segment(0x8b, 0), segment(0x82, 0));
    (save.gdtr.limit, save.idtr.limit) = (0xffff, 0xffff);
    save.efer = EFER_SVME;
    save.cr0 = 0x10;
    save.dr6 = abi::snp::reset::DR6;
    save.dr7 = abi::snp::reset::DR7;
    save.pat = abi::snp::reset::PAT;
    save.rflags = 2;
    save.rip = 0;
}

/// The work of a core that was woken.
fn other(core: usize) -> ! {
    let index = core - first_core(CORES.load(SeqCst) as usize);
    let _ = work(index).and_then(|()| be_kicked(index));
    smp::park()
}

fn clock() -> Result<Clock, Failed> {
    let clock = *CLOCK.lock();
    clock.map_or_else(|| fail(String::from("no clock")), Ok)
}

/// Waits until `done`, or somebody has given up, or the time is over.
fn until(what: &str, done: impl Fn() -> bool) -> Result<(), Failed> {
    let given_up = || GIVEN_UP.load(SeqCst);
    if !smp::wait(&clock()?, LIMIT, || done() || given_up()) {
        return fail(alloc::format!("time is over: {what}"));
    }
    if given_up() { Err(Failed) } else { Ok(()) }
}

/// Waits for all cores.
fn meet(times: u64) -> Result<(), Failed> {
    ARRIVED.fetch_add(1, SeqCst);
    let all = times * CORES.load(SeqCst);
    until("not all cores came", || ARRIVED.load(SeqCst) >= all)
}

/// The part with guest `index` that needs no kicks.
fn work(index: usize) -> Result<(), Failed> {
    let Some(work) = WORK.get(index) else {
        return fail(alloc::format!("guest {index} is unknown"));
    };
    if let Err(why) = svm::enable(work.save_area.load(SeqCst)) {
        return fail(alloc::format!("guest {index}: {why}"));
    }
    let cores = CORES.load(SeqCst);
    for reading in 0..READINGS {
        let turn = reading * cores + index as u64;
        until("a core does not pass its turn on", || {
            TURN.load(SeqCst) == turn
        })?;
        let now = tsc();
        let latest = LATEST.swap(now, SeqCst);
        if now < latest {
            return fail(alloc::format!(
                "core of guest {index} reads time stamp {now}, another has read {latest} before"
            ));
        }
        TURN.store(turn + 1, SeqCst);
    }
    meet(1)?;
    let mut context = work.context.lock();
    let Some(context) = context.as_mut() else {
        return fail(alloc::format!("no guest {index}"));
    };
    for count in 1..=EXITS {
        context.run(true);
        let code = context.vmcb.control.exit_code;
        let ebx = context.regs.rbx;
        if (code, ebx, context.vmcb.save.rip) != (exit::CPUID, count, CPUID_AT) {
            return fail(alloc::format!(
                "guest {index}, exit {count}: code {code:#x}, rip {:#x}, ebx {ebx}",
                context.vmcb.save.rip
            ));
        }
        context.advance(2);
    }
    context.vmcb.save.rip = ENDLESS_AT;
    meet(2)
}

/// Runs guest `index`, which only a kick ends, then sleeps, in turns.
fn be_kicked(index: usize) -> Result<(), Failed> {
    let core = index + first_core(CORES.load(SeqCst) as usize);
    let Some(work) = WORK.get(index) else {
        return Err(Failed);
    };
    let mut context = work.context.lock();
    let Some(context) = context.as_mut() else {
        return Err(Failed);
    };
    for round in 0..2 * KICKS {
        // Told before the core is where the kick is to find it: nothing may be lost.
        work.begun.store(round + 1, SeqCst);
        while !idt::take_kick(core) {
            if GIVEN_UP.load(SeqCst) {
                return Err(Failed);
            }
            if round % 2 == 0 {
                context.run(true);
                let code = context.vmcb.control.exit_code;
                if code != exit::INTR {
                    return fail(alloc::format!("guest {index}: exit {code:#x} for a kick"));
                }
            } else if !idt::kicked(core) {
                svm::idle();
            }
            if !idt::kicked(core) {
                work.stray.fetch_add(1, SeqCst);
            }
        }
        work.taken.store(round + 1, SeqCst);
    }
    Ok(())
}

/// Kicks the cores of all guests, one kick at a time for each.
fn kick_all(clock: &Clock, count: usize) -> Result<(), Failed> {
    for round in 1..=2 * KICKS {
        for (index, work) in WORK.iter().enumerate().take(count) {
            until("a core does not begin", || work.begun.load(SeqCst) >= round)?;
            // Half of the kicks find the core where it was going, the others on its way.
            if round % 4 < 2 {
                smp::wait(clock, 1_000, || false);
            }
            apic::kick((index + first_core(count)) as u8);
        }
        for work in WORK.iter().take(count) {
            until("a kick had no effect", || work.taken.load(SeqCst) >= round)?;
        }
    }
    let stray: u64 = WORK.iter().map(|work| work.stray.load(SeqCst)).sum();
    if stray != 0 {
        return fail(alloc::format!("{stray} exits without a kick"));
    }
    Ok(())
}
