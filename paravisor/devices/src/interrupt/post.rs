//! What others leave for a VP: interrupts, INIT and SIPI, doorbells, and whether it
//! must be woken to see them. One [`Post`] per VP, all of it atomic: nobody waits.
//!
//! A sender leaves its note first and looks then whether the owner is away (in the
//! guest, or asleep). The owner says first that it goes and looks then for notes. So
//! one of the two sees the other, whatever the order, and no note waits for nobody.

use super::Route;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Words of 32 vectors.
const WORDS: usize = 8;
/// Signals, in one word so that INIT and SIPI are found in the order in which they
/// came: the last INIT, and the SIPI after it with its vector in the lowest byte.
const NMI: u32 = 1 << 16;
const INIT: u32 = 1 << 17;
const START: u32 = 1 << 8;
const START_MASK: u32 = START | 0xff;

/// Whether the sender of a note has to wake the VP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wake {
    /// By an interrupt of the host's.
    Kick,
    /// It looks by itself before it goes, or somebody has woken it already.
    NotNeeded,
}

/// Notes for one VP. Aligned so that two VPs do not share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct Post {
    requested: [AtomicU32; WORDS],
    level: [AtomicU32; WORDS],
    signals: AtomicU32,
    doorbells: AtomicU64,
    route: AtomicU32,
    any: AtomicBool,
    away: AtomicBool,
    kicked: AtomicBool,
}

/// What a VP has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Interrupts by vector.
    pub requested: [u32; WORDS],
    /// Those among them whose last trigger was a level.
    pub level: [u32; WORDS],
    /// An NMI.
    pub nmi: bool,
    /// INIT; a start in the same notes came after it.
    pub init: bool,
    /// SIPI with this vector, the last one.
    pub start: Option<u8>,
    /// Queue pairs whose doorbell was rung, by bits.
    pub doorbells: u64,
}

impl Default for Post {
    fn default() -> Self {
        Post::new()
    }
}

impl Post {
    /// For a VP that is not away.
    pub const fn new() -> Post {
        Post {
            requested: [const { AtomicU32::new(0) }; WORDS],
            level: [const { AtomicU32::new(0) }; WORDS],
            signals: AtomicU32::new(0),
            doorbells: AtomicU64::new(0),
            route: AtomicU32::new(0),
            any: AtomicBool::new(false),
            away: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
        }
    }

    /// An interrupt with this vector.
    pub fn interrupt(&self, vector: u8, level: bool) -> Wake {
        let bit = 1u32.wrapping_shl(u32::from(vector & 31));
        let word = usize::from(vector >> 5);
        let words = self.requested.get(word).zip(self.level.get(word));
        if let Some((requested, triggers)) = words {
            // The trigger first: who takes the request finds it.
            if level {
                triggers.fetch_or(bit, SeqCst);
            } else {
                triggers.fetch_and(!bit, SeqCst);
            }
            requested.fetch_or(bit, SeqCst);
        }
        self.tell()
    }

    /// An NMI.
    pub fn nmi(&self) -> Wake {
        self.signal(0, NMI)
    }

    /// INIT. A start that nobody has seen yet is void.
    pub fn init(&self) -> Wake {
        self.signal(START_MASK, INIT)
    }

    /// SIPI: start at page number `vector`.
    pub fn start(&self, vector: u8) -> Wake {
        self.signal(START_MASK, START | u32::from(vector))
    }

    fn signal(&self, clear: u32, set: u32) -> Wake {
        let change = |signals: u32| Some(signals & !clear | set);
        // Cannot fail: the change is always one.
        let _ = self.signals.fetch_update(SeqCst, SeqCst, change);
        self.tell()
    }

    /// The doorbell of queue pair `pair` (0 to 63).
    pub fn ring(&self, pair: u8) -> Wake {
        let bit = 1u64.wrapping_shl(u32::from(pair));
        self.doorbells.fetch_or(bit, SeqCst);
        self.tell()
    }

    fn tell(&self) -> Wake {
        self.any.store(true, SeqCst);
        if self.away.load(SeqCst) && !self.kicked.swap(true, SeqCst) {
            Wake::Kick
        } else {
            Wake::NotNeeded
        }
    }

    /// The owner's local APIC has changed what senders must know of it.
    pub(crate) fn set_route(&self, route: Route) {
        self.route.store(route.pack(), SeqCst);
    }

    /// What its owner has said last of the local APIC with this ID.
    pub(crate) fn route(&self, id: u8) -> Route {
        Route::unpack(id, self.route.load(SeqCst))
    }

    /// Something that the owner has to look at, and that it finds where it is.
    pub fn call(&self) -> Wake {
        self.tell()
    }

    /// The owner is about to enter its guest or to sleep. `false`: there are notes, and
    /// it must look at them first.
    pub fn leave(&self) -> bool {
        // A kick that came while the owner was here is used up, or will end its absence
        // at once; either way the next sender has to kick again.
        self.kicked.store(false, SeqCst);
        self.away.store(true, SeqCst);
        if self.any.load(SeqCst) {
            self.away.store(false, SeqCst);
            return false;
        }
        true
    }

    /// The owner is back.
    pub fn back(&self) {
        self.away.store(false, SeqCst);
    }

    /// Whether there is something to take.
    pub(crate) fn has_notes(&self) -> bool {
        self.any.load(SeqCst)
    }

    /// Takes what there is. To be called by the owner alone.
    pub fn take(&self) -> Option<Notes> {
        // Nearly always there is nothing, and then nothing is written.
        if !self.any.load(SeqCst) {
            return None;
        }
        self.any.store(false, SeqCst);
        let mut notes = Notes::default();
        let words = notes.requested.iter_mut().zip(&mut notes.level);
        for ((to, level), (from, triggers)) in words.zip(self.requested.iter().zip(&self.level)) {
            *to = from.swap(0, SeqCst);
            *level = *to & triggers.load(SeqCst);
        }
        let signals = self.signals.swap(0, SeqCst);
        notes.nmi = signals & NMI != 0;
        notes.init = signals & INIT != 0;
        notes.start = (signals & START != 0).then_some(signals as u8);
        notes.doorbells = self.doorbells.swap(0, SeqCst);
        Some(notes)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Duration;

    #[test]
    fn notes_are_found_once() {
        let post = Post::new();
        assert_eq!(post.take(), None);
        assert_eq!(post.interrupt(0x31, false), Wake::NotNeeded);
        assert_eq!(post.interrupt(0xff, true), Wake::NotNeeded);
        assert_eq!(post.nmi(), Wake::NotNeeded);
        assert_eq!(post.start(0x9a), Wake::NotNeeded);
        assert_eq!(post.ring(63), Wake::NotNeeded);
        let notes = post.take().unwrap();
        assert_eq!(notes.requested, [0, 1 << 17, 0, 0, 0, 0, 0, 1 << 31]);
        assert_eq!(notes.level, [0, 0, 0, 0, 0, 0, 0, 1 << 31]);
        assert_eq!((notes.nmi, notes.init), (true, false));
        assert_eq!((notes.start, notes.doorbells), (Some(0x9a), 1 << 63));
        assert_eq!(post.take(), None);
    }

    #[test]
    fn vector_used_by_a_level_and_then_by_an_edge_is_an_edge() {
        let post = Post::new();
        let _ = post.interrupt(0x40, true);
        post.take();
        let _ = post.interrupt(0x40, false);
        assert_eq!(post.take().unwrap().level, [0; WORDS]);
    }

    #[test]
    fn init_takes_an_unseen_start_back() {
        let post = Post::new();
        let _ = post.start(1);
        let _ = post.init();
        let notes = post.take().unwrap();
        assert_eq!((notes.init, notes.start), (true, None));
        // As Linux does it: INIT, SIPI, SIPI.
        let _ = post.init();
        let _ = post.start(8);
        let _ = post.start(8);
        let notes = post.take().unwrap();
        assert_eq!((notes.init, notes.start), (true, Some(8)));
    }

    #[test]
    fn one_kick_wakes_for_all() {
        let post = Post::new();
        assert!(post.leave());
        assert_eq!(post.ring(0), Wake::Kick);
        assert_eq!(post.nmi(), Wake::NotNeeded);
        post.back();
        assert_eq!(post.init(), Wake::NotNeeded);
        // Not before all is seen.
        assert!(!post.leave());
        assert!(post.take().is_some());
        assert!(post.leave());
        assert_eq!(post.ring(0), Wake::Kick);
    }

    /// The sender was slow: its kick comes when the owner is here, and is used up there.
    #[test]
    fn kick_that_came_late_does_not_stand_for_the_next() {
        let post = Post::new();
        assert!(post.leave());
        assert_eq!(post.ring(0), Wake::Kick);
        post.back();
        post.take();
        // The owner takes the interrupt while it is here; then it goes.
        post.kicked.store(true, SeqCst);
        assert!(post.leave());
        assert_eq!(post.ring(1), Wake::Kick);
    }

    /// Two senders, one owner that sleeps whenever it may: each note arrives, and the
    /// owner never sleeps over one.
    #[test]
    fn no_note_is_lost_and_nobody_sleeps_over_one() {
        const ROUNDS: u32 = 20_000;
        struct Bed {
            kick: Mutex<bool>,
            woken: Condvar,
            post: Post,
            seen: [AtomicU32; 2],
        }
        let bed = Arc::new(Bed {
            kick: Mutex::new(false),
            woken: Condvar::new(),
            post: Post::new(),
            seen: [const { AtomicU32::new(0) }; 2],
        });
        let senders = [0u8, 1].map(|sender| {
            let bed = bed.clone();
            std::thread::spawn(move || {
                for round in 1..=ROUNDS {
                    if bed.post.interrupt(0x20 + sender, false) == Wake::Kick {
                        *bed.kick.lock().unwrap() = true;
                        bed.woken.notify_one();
                    }
                    // The next one is another note only after this one was seen.
                    while bed.seen[usize::from(sender)].load(SeqCst) < round {
                        std::thread::yield_now();
                    }
                }
            })
        });
        let mut counts = [0; 2];
        while counts != [ROUNDS; 2] {
            if let Some(notes) = bed.post.take() {
                for (sender, count) in counts.iter_mut().enumerate() {
                    if notes.requested[1] >> sender & 1 != 0 {
                        *count += 1;
                        bed.seen[sender].store(*count, SeqCst);
                    }
                }
            }
            if bed.post.leave() {
                let kick = bed.kick.lock().unwrap();
                let wait = Duration::from_secs(20);
                let (mut kick, timeout) = bed
                    .woken
                    .wait_timeout_while(kick, wait, |kick| !*kick && counts != [ROUNDS; 2])
                    .unwrap();
                assert!(!timeout.timed_out(), "asleep over a note: {counts:?}");
                *kick = false;
                bed.post.back();
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
