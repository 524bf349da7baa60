//! Memory that is out of use and may not be used again yet: its GPADL is being torn
//! down, or a lane on another VP still has it. It goes back to the pool when neither
//! is so any more; what the host keeps is leaked (GPD-06).

use super::Uplink;
use alloc::sync::Arc;
use memory::{Backing, Owned};
use vmbus::GpadlId;

/// Where it is.
pub(super) enum Held<R> {
    /// Here.
    Own(Owned<R>),
    /// Here, and with every lane that is not home.
    Seen(Arc<Owned<R>>),
    /// With a lane that is not home.
    Away,
}

/// What the host has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    /// Nothing yet.
    Uses,
    /// It has let go of the memory.
    LetGo,
    /// It may use it for ever.
    Keeps,
}

pub(super) struct Parked<R> {
    gpadl: GpadlId,
    held: Held<R>,
    host: Host,
}

impl<B: Backing, const N: usize> Uplink<B, N> {
    pub(super) fn park(&mut self, gpadl: GpadlId, held: Held<B::Region>) {
        self.parked.push(Parked {
            gpadl,
            held,
            host: Host::Uses,
        });
    }

    /// The host has let go of a GPADL's memory, or never will.
    pub(super) fn host_let_go(&mut self, gpadl: GpadlId, released: bool) {
        for parked in &mut self.parked {
            if parked.gpadl == gpadl {
                parked.host = match released {
                    true => Host::LetGo,
                    false => Host::Keeps,
                };
            }
        }
        self.settle();
    }

    /// The connection is over: nothing is given back any more.
    pub(super) fn lose_all(&mut self) {
        for parked in &mut self.parked {
            if parked.host == Host::Uses {
                parked.host = Host::Keeps;
            }
        }
        self.settle();
    }

    /// A lane that was called home has brought its rings.
    pub(super) fn came_home(&mut self, ring: GpadlId, memory: Owned<B::Region>) {
        let mut parked = self.parked.iter_mut();
        let place = parked.find(|p| p.gpadl == ring && matches!(p.held, Held::Away));
        match place {
            Some(place) => place.held = Held::Own(memory),
            // Not called, or the pages of a connection that is over.
            None => self.park(ring, Held::Own(memory)),
        }
    }

    /// Whether a lane that was called home is still away.
    pub(super) fn awaits_lanes(&self) -> bool {
        let mut parked = self.parked.iter();
        parked.any(|parked| matches!(parked.held, Held::Away))
    }

    /// Gives back or leaks what is nobody's any more.
    pub(super) fn settle(&mut self) {
        let mut at = 0;
        while at < self.parked.len() {
            let done = self.parked.get(at).is_some_and(|p| {
                p.host != Host::Uses
                    && match &p.held {
                        Held::Own(_) => true,
                        Held::Seen(views) => Arc::strong_count(views) == 1,
                        Held::Away => false,
                    }
            });
            if !done {
                at = at.saturating_add(1);
                continue;
            }
            let parked = self.parked.swap_remove(at);
            let memory = match parked.held {
                Held::Own(memory) => Some(memory),
                Held::Seen(views) => Arc::into_inner(views),
                Held::Away => None,
            };
            match (memory, parked.host) {
                (Some(memory), Host::LetGo) => self.pool.give_back(memory),
                (Some(memory), _) => self.pool.leak(memory),
                (None, _) => {}
            }
        }
    }
}
