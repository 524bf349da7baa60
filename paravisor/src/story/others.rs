//! The other VPs, outside of the guest's machine: their start, and what the first VP
//! and they tell each other: what a VP starts with, that it runs, how the run ended,
//! what was counted.

use super::stop::{Chapter as _, Stop, bug, stop};
use super::{Host, clock};
use crate::arch::memory as window;
use crate::arch::memory::GuestRam;
use abi::record::Outcome;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use devices::{MAX_PROCESSORS, Machine};
use loader::layout;
use memory::RawShared;
use paravisor_core::lanes::Worker;
use paravisor_core::run::{End, Stats};
use paravisor_core::time::Clock;
use platform::Platform as _;
use spin::Mutex;

/// Longest wait for a VP to run that the host was asked to start, in 100 ns.
const ONLINE_DEADLINE: u64 = 5 * 10_000_000;
/// Longest wait for the other VPs to stop at the end of a run.
const STOP_DEADLINE: u64 = 2 * 10_000_000;

/// What a VP other than the first starts with.
pub struct Kit {
    /// Its processor of the guest's machine.
    pub machine: Machine,
    /// Its GHCB: a page that is shared already.
    pub ghcb_pfn: u64,
    /// The guest's RAM.
    pub ram: GuestRam,
    /// The one clock.
    pub clock: Clock,
    /// The source on which the host speaks.
    pub sint: u8,
    /// Its part of the NIC, if it has one.
    pub worker: Option<Box<Worker<RawShared>>>,
    /// Whether the guest's console leaves in clear.
    pub console: bool,
}

const _: () = assert!(MAX_PROCESSORS as u32 == u64::BITS);

/// For the one VP that is being started.
static KIT: Mutex<Option<(u8, Kit)>> = Mutex::new(None);
static ONLINE: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicBool = AtomicBool::new(false);
static END: Mutex<Option<End>> = Mutex::new(None);
static STATS: Mutex<Option<Stats>> = Mutex::new(None);
static CALLS: Mutex<Vec<(u16, u64)>> = Mutex::new(Vec::new());

fn bit(index: u8) -> u64 {
    1u64.wrapping_shl(index.into())
}

fn is_set(vps: &AtomicU64, index: u8) -> bool {
    vps.load(Ordering::SeqCst) & bit(index) != 0
}

/// Lays the kit of VP `index` out.
fn put(index: u8, kit: Kit) {
    *KIT.lock() = Some((index, kit));
}

/// Takes the kit of VP `index`, if it is the one that is being started.
pub fn take(index: u8) -> Option<Kit> {
    let mut kit = KIT.lock();
    kit.take_if(|(owner, _)| *owner == index)
        .map(|(_, kit)| kit)
}

/// VP `index` is about to enter its loop.
pub fn set_online(index: u8) {
    ONLINE.fetch_or(bit(index), Ordering::SeqCst);
}

/// The run ends like this, unless another VP has ended it before.
pub fn end(end: End) {
    END.lock().get_or_insert(end);
    ENDED.store(true, Ordering::SeqCst);
}

/// How the run has ended.
pub fn ended() -> Option<End> {
    // Asked for in each turn, so without the lock as long as it goes on.
    if !ENDED.load(Ordering::SeqCst) {
        return None;
    }
    *END.lock()
}

/// VP `index` runs its half of the guest no more.
pub fn stopped(index: u8, counted: &Stats, calls: &[(u16, u64)]) {
    STATS.lock().get_or_insert_default().add(counted);
    add_calls(&mut CALLS.lock(), calls);
    STOPPED.fetch_or(bit(index), Ordering::SeqCst);
}

/// Adds what was counted of hypercalls, by code.
fn add_calls(sums: &mut Vec<(u16, u64)>, calls: &[(u16, u64)]) {
    for (code, count) in calls {
        match sums.iter_mut().find(|(known, _)| known == code) {
            Some((_, sum)) => *sum = sum.saturating_add(*count),
            None => sums.push((*code, *count)),
        }
    }
}

/// The hypercalls of this VP and of those that have stopped.
pub fn all_calls(own: &[(u16, u64)]) -> Vec<(u16, u64)> {
    let mut sums = own.to_vec();
    add_calls(&mut sums, &CALLS.lock());
    sums
}

/// Starts VP `index` and waits until its guest half waits to be started.
pub fn start(host: &mut Host, index: u8, kit: Kit) -> Result<(), Stop> {
    let clock = kit.clock;
    let area = layout::vp_area(index.into()).ok_or(bug("area of a VP"))?;
    host.accept(
        area.start.saturating_add(layout::VP_USED.start),
        area.start.saturating_add(layout::VP_USED.end),
    )
    .chapter("area of a VP")?;
    let mut ready = window::prepare_area(index).ok_or(bug("area of a VP"))?;
    put(index, kit);
    let state = ready.state;
    let (vmsa, gpa) = ready.start_vmsa();
    host.start_vp(index, vmsa, gpa, &state)
        .chapter("start of a VP")?;
    let limit = clock::now(&clock).saturating_add(ONLINE_DEADLINE);
    while !is_set(&ONLINE, index) {
        if clock::now(&clock) >= limit {
            let what = "a VP that was to be started does not run";
            return Err(stop(Outcome::HostFailure, what));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Waits a little for the other VPs to stop, so that their guest halves do not go on
/// while the host is left. What they have counted.
pub fn await_stop(host: &mut Host, clock: &Clock, vps: u8) -> Stats {
    let limit = clock::now(clock).saturating_add(STOP_DEADLINE);
    for index in 1..vps {
        while !is_set(&STOPPED, index) && clock::now(clock) < limit {
            host.take_interrupts();
            core::hint::spin_loop();
        }
    }
    STATS.lock().unwrap_or_default()
}
