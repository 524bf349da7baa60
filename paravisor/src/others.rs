//! What the first VP and the others tell each other outside of the guest's machine:
//! what a VP starts with, that it runs, how the run ended, what was counted.

use crate::arch::memory::GuestRam;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use devices::{MAX_PROCESSORS, Machine};
use paravisor_core::run::{End, Stats};
use paravisor_core::time::Clock;
use spin::Mutex;

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

fn bit(index: u8) -> u64 {
    1u64.wrapping_shl(index.into())
}

/// Lays the kit of VP `index` out.
pub fn put(index: u8, kit: Kit) {
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

/// Whether it is.
pub fn is_online(index: u8) -> bool {
    ONLINE.load(Ordering::SeqCst) & bit(index) != 0
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
pub fn stopped(index: u8, counted: &Stats) {
    STATS.lock().get_or_insert_default().add(counted);
    STOPPED.fetch_or(bit(index), Ordering::SeqCst);
}

/// Whether it has said so.
pub fn has_stopped(index: u8) -> bool {
    STOPPED.load(Ordering::SeqCst) & bit(index) != 0
}

/// What the VPs that have stopped have counted.
pub fn stats() -> Stats {
    STATS.lock().unwrap_or_default()
}
