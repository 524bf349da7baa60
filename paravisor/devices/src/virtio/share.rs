//! What the registers of a network card and those who work its queues tell each other.
//!
//! The registers lie behind the lock of the devices. A queue pair is worked by one
//! processor, which owns the state of both queues by value and takes no lock for a
//! frame. Between the two lies a [`Share`], all of it atomic:
//!
//! * A queue that the driver has enabled is laid out ([`Desk`]) and its *ticket* says
//!   which one it is. The owner looks at the ticket before each frame, and fetches the
//!   queue when it has another one. Ticket 0: nobody may touch the queue.
//! * While the owner works it is *busy*. Who takes a ticket away looks afterwards
//!   whether the owner is busy; the owner says that it is before it looks at the
//!   ticket. So one of the two sees the other, and when nobody is busy any more,
//!   nobody touches the queue. The owner never waits, and an owner that sleeps, or runs
//!   the guest, or has not started at all is not busy: nobody waits for those.

use super::queue::Queue;
use crate::pci::msix::Msix;
use abi::virtio::net;
use abi::virtio::pci::NO_VECTOR;
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
};
use spin::Mutex;

/// Most queue pairs: one for each processor that a machine can have.
pub(crate) const MAX_PAIRS: u16 = crate::MAX_PROCESSORS as u16;
/// Vectors that these need: configuration, receive and transmit queues, control queue.
pub(crate) const MAX_VECTORS: usize = 2 + 2 * MAX_PAIRS as usize;
/// Of no queue.
pub(crate) const NO_QUEUE: u16 = u16::MAX;

/// What happened at a queue pair. The lowest two are the queues' numbers in the pair.
pub(crate) mod event {
    /// The receive queue was rung.
    pub const RX: u32 = 1 << abi::virtio::net::QUEUE_RX;
    /// The transmit queue was rung.
    pub const TX: u32 = 1 << abi::virtio::net::QUEUE_TX;
    /// The device was reset.
    pub const RESET: u32 = 1 << 2;
    /// The driver chose another number of pairs (pair 0 is told).
    pub const PAIRS: u32 = 1 << 3;
    /// The control queue was rung (pair 0 is told).
    pub const CONTROL: u32 = 1 << 4;
    /// The driver wants other hashes, or none (pair 0 is told).
    pub const HASH: u32 = 1 << 5;
}

/// Where a queue lies for its owner.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Which queue may be worked: a generation of the device; 0 for none.
    ticket: AtomicU64,
    /// MSI-X vector.
    vector: AtomicU16,
    /// The queue of a generation, until its owner fetches it.
    laid_out: Mutex<Option<(u64, Queue)>>,
}

/// Of one queue pair. Aligned so that two owners do not share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct PairShare {
    busy: AtomicBool,
    /// Somebody has this pair for its own.
    claimed: AtomicBool,
    events: AtomicU32,
    desks: [Desk; 2],
    pub tx_frames: Count,
    pub rx_frames: Count,
    pub tx_dropped: Count,
    pub rx_dropped: Count,
}

/// A counter that one processor counts and all may read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(crate) fn add(&self) {
        // One writer, so no other count comes in between.
        self.0.store(self.get().saturating_add(1), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Share {
    /// Address of the page of doorbells; 0 while there is none.
    doorbells: AtomicU64,
    /// Message control of MSI-X; 0 while the function must not write to memory.
    control: AtomicU16,
    /// Features that the driver accepted.
    features: AtomicU64,
    control_queue: AtomicU16,
    in_use: AtomicU16,
    /// Types of hashes that the driver wants to know, as in its command.
    hash_types: AtomicU32,
    pub(crate) msix: Msix<MAX_VECTORS>,
    pairs: Vec<PairShare>,
}

/// How an interrupt leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// As this message.
    Message((u64, u32)),
    /// Not, or not now.
    Nothing,
    /// By INTA, which is behind the devices' lock.
    Line,
}

impl Share {
    pub(crate) fn new(pairs: u16, vectors: u16) -> Share {
        let desk = || Desk {
            ticket: AtomicU64::new(0),
            vector: AtomicU16::new(NO_VECTOR),
            laid_out: Mutex::new(None),
        };
        let pair = |_| PairShare {
            busy: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            events: AtomicU32::new(0),
            desks: [desk(), desk()],
            tx_frames: Count::default(),
            rx_frames: Count::default(),
            tx_dropped: Count::default(),
            rx_dropped: Count::default(),
        };
        Share {
            doorbells: AtomicU64::new(0),
            control: AtomicU16::new(0),
            features: AtomicU64::new(0),
            control_queue: AtomicU16::new(NO_QUEUE),
            in_use: AtomicU16::new(1),
            hash_types: AtomicU32::new(0),
            msix: Msix::new(vectors),
            pairs: (0..pairs).map(pair).collect(),
        }
    }

    pub(crate) fn pairs(&self) -> &[PairShare] {
        &self.pairs
    }

    pub(crate) fn pair(&self, index: u16) -> Option<&PairShare> {
        self.pairs.get(usize::from(index))
    }

    /// Pairs that the driver uses.
    pub(crate) fn in_use(&self) -> u16 {
        self.in_use.load(SeqCst)
    }

    /// What was agreed on.
    pub(crate) fn features(&self) -> u64 {
        self.features.load(Relaxed)
    }

    /// The queue that is rung by a write to this address, if there is one.
    pub(crate) fn doorbell(&self, gpa: u64) -> Option<u64> {
        let page = self.doorbells.load(Relaxed);
        (page != 0 && gpa & !0xfff == page).then_some(gpa & 0xfff)
    }

    /// A queue is rung. The pair whose owner is to look: its own, or the first, which
    /// serves the control queue.
    pub(crate) fn ring(&self, queue: u16) -> Option<u16> {
        if queue == self.control_queue.load(SeqCst) {
            self.pair(0)?.note(event::CONTROL);
            return Some(0);
        }
        let index = queue >> 1;
        self.pair(index)?
            .note(1u32.wrapping_shl(u32::from(queue & 1)));
        Some(index)
    }

    /// Message control as it is, or 0 if no message may leave.
    pub(crate) fn control(&self) -> u16 {
        self.control.load(SeqCst)
    }

    /// Tells the driver that buffers of a data queue were used.
    pub(crate) fn interrupt(&self, pair: u16, which: u16) -> Raised {
        let Some(desk) = self.pair(pair).and_then(|pair| pair.desk(which)) else {
            return Raised::Nothing;
        };
        self.raise(desk.vector.load(SeqCst))
    }

    /// A vector wants to be sent.
    pub(crate) fn raise(&self, vector: u16) -> Raised {
        if self.control() & abi::pci::msix::ENABLE == 0 {
            // Off, or perhaps only kept back: the registers know.
            return Raised::Line;
        }
        // 4.1.5.1.2: NO_VECTOR means no interrupt; it is not in the table.
        let sent = self.msix.send(vector, || self.control());
        sent.map_or(Raised::Nothing, Raised::Message)
    }

    /// Says what the driver agreed on, and which queue is the control queue.
    pub(crate) fn set_features(&self, features: u64, control_queue: u16) {
        self.features.store(features, SeqCst);
        self.control_queue.store(control_queue, SeqCst);
    }

    /// Says where the doorbells are and what may be sent.
    pub(crate) fn set_place(&self, doorbells: u64, control: u16) {
        self.doorbells.store(doorbells, SeqCst);
        self.control.store(control, SeqCst);
    }

    /// Says how many pairs are in use. Whether that is a change.
    pub(crate) fn set_in_use(&self, count: u16) -> bool {
        let changed = self.in_use.swap(count, SeqCst) != count;
        if changed && let Some(first) = self.pair(0) {
            first.note(event::PAIRS);
        }
        changed
    }

    /// Types of hashes that the driver wants to know; 0: none.
    pub(crate) fn hash_types(&self) -> u32 {
        self.hash_types.load(Relaxed)
    }

    /// Says which these are. That it was told, if there are or were any.
    pub(crate) fn set_hash_types(&self, types: u32) {
        let before = self.hash_types.swap(types, SeqCst);
        if before | types != 0
            && let Some(first) = self.pair(0)
        {
            first.note(event::HASH);
        }
    }

    /// Whether an owner from this pair on works on a queue.
    pub(crate) fn is_busy(&self, from: u16) -> bool {
        let mut pairs = self.pairs.iter().skip(usize::from(from));
        pairs.any(|pair| pair.busy.load(SeqCst))
    }
}

impl PairShare {
    /// To be asked once: `true` for who has the pair for its own from now on.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, SeqCst)
    }

    /// Something happened.
    pub(crate) fn note(&self, event: u32) {
        self.events.fetch_or(event, SeqCst);
    }

    /// The device was reset: what was rung before is void.
    pub(crate) fn note_reset(&self) {
        // Cannot fail: the change is always one.
        let changed = |events: u32| Some(events & (event::PAIRS | event::HASH) | event::RESET);
        let _ = self.events.fetch_update(SeqCst, SeqCst, changed);
    }

    /// Whether something happened.
    pub(crate) fn has_events(&self) -> bool {
        self.events.load(SeqCst) != 0
    }

    /// Takes what happened.
    pub(crate) fn take_events(&self) -> u32 {
        // Nearly always nothing, and then nothing is written.
        if !self.has_events() {
            return 0;
        }
        self.events.swap(0, SeqCst)
    }

    /// Whether the control queue was rung; asking takes this event alone.
    pub(crate) fn take_control(&self) -> bool {
        self.events.fetch_and(!event::CONTROL, SeqCst) & event::CONTROL != 0
    }

    fn desk(&self, which: u16) -> Option<&Desk> {
        self.desks.get(usize::from(which))
    }

    /// Lays a queue out for the owner.
    pub(crate) fn lay_out(&self, which: u16, generation: u64, queue: Queue) {
        if let Some(desk) = self.desk(which) {
            *desk.laid_out.lock() = Some((generation, queue));
        }
    }

    /// Says which queue may be worked from now on; 0 for none.
    pub(crate) fn set_ticket(&self, which: u16, ticket: u64) {
        if let Some(desk) = self.desk(which)
            && desk.ticket.load(Relaxed) != ticket
        {
            desk.ticket.store(ticket, SeqCst);
        }
    }

    /// MSI-X vector of a queue.
    pub(crate) fn set_vector(&self, which: u16, vector: u16) {
        if let Some(desk) = self.desk(which) {
            desk.vector.store(vector, SeqCst);
        }
    }
}

/// A queue as its owner has it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Which one it is; 0: none was ever fetched.
    ticket: u64,
    queue: Queue,
}

/// What the owner finds when it wants to work on a queue.
pub(crate) enum Turn<T> {
    /// It has no queue now.
    Nothing,
    /// It has worked, on the queue of this ticket.
    Done(T, u64),
}

impl Held {
    pub(crate) const fn nothing() -> Held {
        Held {
            ticket: 0,
            queue: Queue::new(0),
        }
    }

    /// Whether the driver was not told of all that went back in the queue.
    pub(crate) fn has_unpublished(&self) -> bool {
        self.queue.has_unpublished()
    }

    /// Works on a queue of a pair, if that may be. To be called by the owner alone.
    pub(crate) fn work<T>(
        &mut self,
        pair: &PairShare,
        which: u16,
        work: impl FnOnce(&mut Queue) -> T,
    ) -> Turn<T> {
        let Some(desk) = pair.desk(which) else {
            return Turn::Nothing;
        };
        // So that an owner which only looks does not seem busy for ever.
        if desk.ticket.load(Relaxed) == 0 {
            return Turn::Nothing;
        }
        // Busy first, then the ticket: see the head of this file.
        pair.busy.store(true, SeqCst);
        let ticket = desk.ticket.load(SeqCst);
        let done = if ticket != 0 && (ticket == self.ticket || self.fetch(desk, ticket)) {
            Turn::Done(work(&mut self.queue), ticket)
        } else {
            Turn::Nothing
        };
        pair.busy.store(false, Release);
        done
    }

    #[cold]
    fn fetch(&mut self, desk: &Desk, ticket: u64) -> bool {
        crate::machine::count_lock();
        let mut laid_out = desk.laid_out.lock();
        let Some((_, queue)) = laid_out.take_if(|(generation, _)| *generation == ticket) else {
            return false;
        };
        *self = Held { ticket, queue };
        true
    }
}

const _: () = assert!(net::QUEUE_RX == 0 && net::QUEUE_TX == 1);
