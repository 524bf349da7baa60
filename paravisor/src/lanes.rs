//! Sub-channels of the NIC on VPs of their own: how a lane gets there and back.
//!
//! The first VP opens the sub-channels and makes the lanes ([`crate::uplink`]); each
//! is then handed to its VP, which owns it by value and moves its frames without a
//! lock ([`Worker`]). Locks are taken where a lane changes hands, and nowhere else.
//!
//! A lane comes home when the first VP calls it (the NIC ends, the sub-channel was
//! taken back), when a rule was broken on it, or when its VP stops. Nobody waits for
//! that: what the host has let go of is given back when the lane that used it is home,
//! and is never used again if that lane does not come.

mod worker;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use memory::Owned;
use netvsc::{Lane, Sending, TransmitError};
use relay::NetDevice;
use spin::Mutex;
use validate::frame::{Arrived, Task};
use vmbus::{Channel, Counters, GpadlId, SignalTarget};

pub use worker::Worker;

/// For a VP: a lane lies ready.
const PARCEL: u32 = 1 << 0;
/// For a VP: the lane that it has is to come home.
const RECALL: u32 = 1 << 1;
/// For the first VP: lanes are home.
const HOME: u32 = 1 << 0;
/// For the first VP: frames came on a way round.
const DETOUR: u32 = 1 << 1;

/// Bytes of frames that wait on the way round, before the last: one of the largest
/// frames, or a few dozen ordinary ones.
const DETOUR_BYTES: usize = 64 << 10;

/// A lane with its channel: all that one VP needs for it.
pub struct Strand<R> {
    /// Which of the card's channels it is.
    pub index: u16,
    /// The frames.
    pub lane: Lane<Arc<Owned<R>>>,
    /// The rings.
    pub channel: Channel<Owned<R>>,
    /// Their memory's number.
    pub ring: GpadlId,
    /// How to signal the host.
    pub signal: SignalTarget,
    /// Its event flag, which is the host's number for it.
    pub flag: u16,
    /// SignalEvent hypercalls made.
    pub signals_sent: u64,
    /// Those of them that the host refused.
    pub calls_refused: u64,
}

/// A lane on its way: through a box, because it is large.
pub type Parcel<R> = Box<Strand<R>>;

/// What lies between the first VP and one other.
struct Berth<R> {
    /// What its VP has to look at. Read in each of its turns, so without a lock.
    note: AtomicU32,
    out: Mutex<Option<Parcel<R>>>,
    home: Mutex<Vec<Parcel<R>>>,
}

/// What lies between the first VP and all others.
pub struct Hub<R> {
    /// By VP; the first has one that nobody uses.
    berths: Vec<Berth<R>>,
    /// What the first VP has to look at.
    note: AtomicU32,
    /// VPs whose lanes are home, by bits.
    returned: AtomicU64,
    /// The card carries frames.
    alive: AtomicBool,
    /// Its link is up.
    link: AtomicBool,
    /// Frames of guests' queues whose lane is not there, for the primary channel.
    detour: Mutex<VecDeque<(Vec<u8>, Task)>>,
    /// How many bytes, for a look without the lock.
    detoured: AtomicUsize,
    /// Frames that came round, which the relays of two VPs have counted.
    rounds: AtomicU64,
    /// What VPs that have stopped had counted beside their lanes.
    counted: Mutex<(Counters, relay::Counters)>,
}

impl<R> Hub<R> {
    /// For so many VPs.
    pub fn new(vps: u8) -> Hub<R> {
        let berth = |_| Berth {
            note: AtomicU32::new(0),
            out: Mutex::new(None),
            home: Mutex::new(Vec::new()),
        };
        Hub {
            berths: (0..vps).map(berth).collect(),
            note: AtomicU32::new(0),
            returned: AtomicU64::new(0),
            alive: AtomicBool::new(false),
            link: AtomicBool::new(false),
            detour: Mutex::new(VecDeque::new()),
            detoured: AtomicUsize::new(0),
            rounds: AtomicU64::new(0),
            counted: Mutex::default(),
        }
    }

    fn berth(&self, vp: u8) -> Option<&Berth<R>> {
        self.berths.get(usize::from(vp))
    }

    /// Whether the first VP has something to look at.
    pub fn has_news(&self) -> bool {
        self.note.load(Ordering::SeqCst) != 0
    }

    fn tell_first(&self, note: u32) {
        self.note.fetch_or(note, Ordering::SeqCst);
    }

    /// Lays a lane out for its VP, which is to be woken. `Err`: there is no such VP.
    pub fn hand_out(&self, vp: u8, parcel: Parcel<R>) -> Result<(), Parcel<R>> {
        let Some(berth) = self.berth(vp) else {
            return Err(parcel);
        };
        *berth.out.lock() = Some(parcel);
        berth.note.fetch_or(PARCEL, Ordering::SeqCst);
        Ok(())
    }

    /// Calls the lane of a VP home, which is to be woken. One that the VP has not
    /// fetched yet is home at once.
    pub fn recall(&self, vp: u8) {
        let Some(berth) = self.berth(vp) else {
            return;
        };
        if let Some(parcel) = berth.out.lock().take() {
            self.bring_home(vp, parcel);
        }
        berth.note.fetch_or(RECALL, Ordering::SeqCst);
    }

    fn bring_home(&self, vp: u8, parcel: Parcel<R>) {
        if let Some(berth) = self.berth(vp) {
            berth.home.lock().push(parcel);
        }
        let bit = 1u64.wrapping_shl(vp.into());
        self.returned.fetch_or(bit, Ordering::SeqCst);
        self.tell_first(HOME);
    }

    /// Takes the lanes that are home.
    pub fn take_home(&self) -> Vec<Parcel<R>> {
        let mut parcels = Vec::new();
        if self.note.fetch_and(!HOME, Ordering::SeqCst) & HOME == 0 {
            return parcels;
        }
        let returned = self.returned.swap(0, Ordering::SeqCst);
        for (vp, berth) in (0..u64::BITS).zip(&self.berths) {
            if returned.wrapping_shr(vp) & 1 == 1 {
                parcels.append(&mut berth.home.lock());
            }
        }
        parcels
    }

    /// How the card stands: whether it carries frames, and its link.
    pub fn set_state(&self, alive: bool, link: bool) {
        // Asked for in each turn: only a change is written.
        for (to, value) in [(&self.alive, alive), (&self.link, link)] {
            if to.load(Ordering::Relaxed) != value {
                to.store(value, Ordering::SeqCst);
            }
        }
    }

    /// Sends a frame on the way round. `Full`: try again after the first VP's turn.
    fn send_round(&self, frame: &[u8], task: Task) -> Result<(), TransmitError> {
        let mut detour = self.detour.lock();
        let waiting = self.detoured.load(Ordering::SeqCst);
        if waiting >= DETOUR_BYTES {
            return Err(TransmitError::Full);
        }
        detour.push_back((frame.to_vec(), task));
        let waiting = waiting.saturating_add(frame.len());
        self.detoured.store(waiting, Ordering::SeqCst);
        drop(detour);
        self.tell_first(DETOUR);
        Ok(())
    }

    fn account(&self, counters: &Counters, relayed: &relay::Counters) {
        let mut counted = self.counted.lock();
        counted.0.add(counters);
        counted.1.add(relayed);
    }

    /// Rules that VPs which have stopped had counted beside their lanes.
    pub fn add_counted(&self, sum: &mut Counters) {
        sum.add(&self.counted.lock().0);
    }

    /// Makes the first VP's `sum` that of all: adds what the relays of VPs that have
    /// stopped had counted, and takes off what came round and was counted twice.
    pub fn add_relayed(&self, sum: &mut relay::Counters) {
        sum.add(&self.counted.lock().1);
        let rounds = self.rounds.load(Ordering::SeqCst);
        sum.tx_frames = sum.tx_frames.saturating_sub(rounds);
    }

    /// Whether frames have come round since the last look.
    pub fn take_detour_note(&self) -> bool {
        self.note.load(Ordering::SeqCst) & DETOUR != 0
            && self.note.fetch_and(!DETOUR, Ordering::SeqCst) & DETOUR != 0
    }

    fn take_round(&self) -> Option<(Vec<u8>, Task)> {
        if self.detoured.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut detour = self.detour.lock();
        let first = detour.pop_front();
        if first.is_some() {
            self.rounds.fetch_add(1, Ordering::SeqCst);
        }
        let waiting = self.detoured.load(Ordering::SeqCst);
        let taken = first.as_ref().map_or(0, |(frame, _)| frame.len());
        let waiting = waiting.saturating_sub(taken);
        self.detoured.store(waiting, Ordering::SeqCst);
        first
    }
}

/// The first VP's queues, and behind them the frames that come round.
pub struct WithDetour<'a, D, R> {
    /// Its own.
    pub device: &'a mut D,
    /// The others.
    pub hub: &'a Hub<R>,
}

impl<D: NetDevice, R> NetDevice for WithDetour<'_, D, R> {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        self.take_frame(buf).map(|(len, _)| len)
    }
    fn take_frame(&mut self, buf: &mut [u8]) -> Option<(usize, Task)> {
        if let Some(taken) = self.device.take_frame(buf) {
            return Some(taken);
        }
        let (frame, task) = self.hub.take_round()?;
        buf.get_mut(..frame.len())?.copy_from_slice(&frame);
        Some((frame.len(), task))
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), devices::NoBuffer> {
        self.device.deliver_rx(frame)
    }
    fn takes_pieces(&self) -> bool {
        self.device.takes_pieces()
    }
    fn deliver(
        &mut self,
        parcel: &mut memory::Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), devices::NoBuffer> {
        self.device.deliver(parcel, arrived)
    }
    fn publish(&mut self) {
        self.device.publish();
    }
    fn set_link(&mut self, up: bool) {
        self.device.set_link(up);
    }
    fn is_plugged(&self) -> bool {
        self.device.is_plugged()
    }
}

/// The host's side for a queue whose lane is not there: what the guest sends goes
/// round by the primary channel.
struct Round<'a, R> {
    hub: &'a Hub<R>,
}

impl<R> relay::Uplink for Round<'_, R> {
    fn poll(
        &mut self,
        _: u64,
        _: bool,
        _: impl FnMut(&mut memory::Parcel<'_>, Arrived) -> netvsc::Delivery,
    ) -> netvsc::Polled {
        netvsc::Polled {
            signal: vmbus::Signal::NotNeeded,
            more: false,
            waiting: false,
            packets: 0,
        }
    }
    fn transmit(
        &mut self,
        frame: &mut [u8],
        sending: &mut Sending,
        _: u64,
    ) -> Result<(), TransmitError> {
        self.hub.send_round(frame, sending.task())
    }
    fn flush(&mut self) -> vmbus::Signal {
        vmbus::Signal::NotNeeded
    }
    fn take_event(&mut self, _: u64) -> Option<netvsc::Event> {
        None
    }
    fn is_ready(&self) -> bool {
        true
    }
    fn next_deadline(&self) -> Option<u64> {
        None
    }
}
