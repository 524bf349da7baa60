//! The emulated SEV-SNP machine: two privilege levels over one memory, on as many
//! virtual processors as QEMU has cores.
//!
//! [`Vm`] is what all of them share; it sits behind one lock, which a core holds
//! whenever it is not in its guest and not asleep ([`cpu`]). [`VpCpu`] is what a core
//! has to itself. Both together are a [`Turn`], and all work is done by one.

pub mod call;
pub mod context;
pub mod cpu;
pub mod end;
pub mod load;
pub mod ram;
pub mod stats;
pub mod turn;
pub mod virt;
pub mod vmmem;
pub mod vmpl0;
pub mod vmpl2;

use crate::host::Host;
use crate::metal::clock::Clock;
use crate::metal::memory::{Frames, Plan};
use crate::metal::svm;
use crate::options::Options;
use crate::record::{self, Guest};
use abi::record::Outcome;
use abi::snp::Vmsa;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use context::{Context, Maps};
use core::cell::RefCell;
use end::{End, end};
use ram::Ram;
use rig::npt::{Npt, Tables, View};
use rig::rmp::Rmp;
use stats::Stats;
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

/// How far a VP has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Not started.
    Off,
    /// To begin with the VMSA in this guest frame.
    Starting(u64),
    /// At work.
    On,
    /// Halted with interrupts off: it does nothing more.
    Stopped,
}

/// What others must know of a VP.
struct VpPublic {
    life: Life,
    /// Registered GHCB page (guest frame).
    ghcb_gfn: Option<u64>,
    /// VMPL2's VMSA page (guest frame) from the SevControl register.
    lower_vmsa: Option<u64>,
    /// The vector that it knew of when it entered its guest, or was woken for.
    seen: Option<u8>,
    /// Where it was at its last exit: level and RIP.
    last: (usize, u64),
    record: Guest,
    stats: Stats,
}

impl VpPublic {
    fn new() -> VpPublic {
        VpPublic {
            life: Life::Off,
            ghcb_gfn: None,
            lower_vmsa: None,
            seen: None,
            last: (0, 0),
            record: Guest::new(),
            stats: Stats::new(),
        }
    }
}

/// What the VPs share.
pub struct Vm {
    ram: Ram,
    rmp: Rc<RefCell<Rmp>>,
    frames: Frames,
    plan: Plan,
    /// Nested tables of both levels.
    trees: [Npt; 2],
    /// VMPL2 has run, and its view of memory is what it was then.
    lower_viewed: bool,
    vps: Vec<VpPublic>,
    /// The host side.
    pub host: Host,
    memory: Rc<HostMemory>,
    clock: Clock,
    limit: u64,
    /// How often the host's counters are told, and when for the next time.
    beat: Option<u64>,
    next_beat: u64,
    /// When the next timer of any core fires.
    armed: u64,
    /// A core other than the first one has ended the run.
    ended: Option<End>,
}

/// What a core has to itself: its VP's processor.
pub struct VpCpu {
    /// Index of VP and core.
    index: usize,
    /// For [`svm::enable`].
    save_area: u64,
    ctx: [Context; 2],
    /// Which context runs.
    current: usize,
    /// Whose FS, GS, TR and so on are in the processor.
    live: Option<usize>,
    /// VMPL0 executed HLT.
    halted: bool,
    /// VMPL2's VMSA while it runs; the page is written at exit.
    vmsa: Box<Vmsa>,
    /// Interrupt that VMPL2 must take: vector.
    lower_irq: Option<u8>,
}

/// A VP's core at work, with the lock in its hands.
struct Turn<'a> {
    vm: &'a mut Vm,
    vp: &'a mut VpCpu,
}

impl VpCpu {
    fn new(index: usize, trees: &[Npt; 2], maps: &Maps, frames: &mut Frames) -> Option<VpCpu> {
        let [upper, lower] = trees;
        Some(VpCpu {
            index,
            save_area: frames.take(1)?,
            ctx: [Context::over(*upper, maps)?, Context::over(*lower, maps)?],
            current: UPPER,
            live: None,
            halted: false,
            vmsa: Vmsa::new_box_zeroed().ok()?,
            lower_irq: None,
        })
    }
}

impl Vm {
    /// A VM without content, and its processors.
    pub fn new(
        plan: Plan,
        mut frames: Frames,
        clock: Clock,
        options: &Options,
    ) -> Option<(Vm, Vec<VpCpu>)> {
        let ram = Ram::new(plan.vm, plan.vm_size);
        let rmp = Rc::new(RefCell::new(Rmp::new(plan.vm_size >> 12)));
        let noise = frames.take(1)?;
        for i in 0..512 {
            let word = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i as u64 + 1);
            frames.set(noise, i, word);
        }
        let maps = Maps::new(&mut frames)?;
        let mut tree = |vmpl, view| {
            Some(Npt {
                root: frames.take(1)?,
                vmpl,
                view,
                memory: plan.vm,
                noise,
            })
        };
        let trees = [
            tree(0, View::PrivateBit(C_BIT))?,
            tree(2, View::SharedBit(VTOM_BIT))?,
        ];
        let cpus: Vec<VpCpu> = (0..options.vps)
            .map(|index| VpCpu::new(index, &trees, &maps, &mut frames))
            .collect::<Option<_>>()?;
        svm::enable(cpus.first()?.save_area).ok()?;
        let memory = Rc::new(HostMemory::new(ram, rmp.clone()));
        let vm = Vm {
            ram,
            rmp,
            frames,
            plan,
            trees,
            lower_viewed: false,
            vps: cpus.iter().map(|_| VpPublic::new()).collect(),
            host: Host::new(memory.clone(), &clock, options),
            memory,
            clock,
            limit: options.limit.saturating_mul(10_000_000),
            beat: options.beat.map(|beat| beat.saturating_mul(10_000_000)),
            next_beat: 0,
            armed: u64::MAX,
            ended: None,
        };
        Some((vm, cpus))
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
            vps: self.vps.len() as u32,
        })
    }

    /// Takes the VMSA in `gfn` as that of the first VP.
    pub fn start(&mut self, gfn: u64) -> Result<(), End> {
        let mut vmsa = Vmsa::new_zeroed();
        self.ram.read(gfn << 12, vmsa.as_mut_bytes());
        if let Err(why) = rig::vmsa::check_vmpl0(&vmsa) {
            return end!(
                Outcome::ImageRejected,
                "VMRUN refuses VMPL0's VMSA: {why:?}"
            );
        }
        self.rmp.borrow_mut().set_in_use(gfn, true);
        if let Some(first) = self.vps.first_mut() {
            first.life = Life::Starting(gfn);
        }
        Ok(())
    }

    /// Counters of the whole run.
    fn report(&mut self) {
        let mut sum = Stats::new();
        for vp in &mut self.vps {
            vp.record.flush();
            sum.add(&mut vp.stats);
        }
        sum.report(&self.clock);
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
        if self.vps.len() > 1 {
            record::count("rig_vps", format_args!(""), self.vps.len() as u64);
            let (kicks, shootdowns) = cpu::counters();
            record::count("rig_kick", format_args!(""), kicks);
            record::count("rig_shootdown", format_args!(""), shootdowns);
        }
        self.host.report();
        self.host.end_recording();
    }
}
