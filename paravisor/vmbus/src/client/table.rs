//! What the client knows: channels and GPADLs.

use crate::counters::Life;
use crate::limits::{MAX_CHANNELS, MAX_GPADLS};
use abi::vmbus::Guid;
use alloc::vec::Vec;
use validate::control::{Known, Ledger, Offer, Outstanding, Relid, Standing, Window};

/// Names a channel. Numbers of the host do not go beyond this crate (CTL-61); a
/// name is never used for another channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct ChannelId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Offered,
    CreatingRing {
        downstream_page: u32,
        vp: u32,
    },
    Opening {
        open_id: u32,
        deadline: u64,
        /// The host has the request; before, it has nothing to answer.
        asked: bool,
    },
    /// Rescinded before the open was said, which will not be said any more.
    Halted,
    Open,
    /// GPADLs are being torn down; then `Offered` again, or gone if rescinded.
    Closing,
    /// A GPADL of it is leaked: never to be opened again, never released.
    Broken,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: ChannelId,
    pub(super) offer: Offer,
    pub(super) state: State,
    pub(super) rescinded: bool,
    /// The host may still use memory of it.
    pub(super) leaked: bool,
    /// A sub-channel whose primary is closed, gone or about to be, or that was
    /// not granted: not to be opened any more.
    pub(super) orphan: bool,
    /// Sub-channels that may come, of a primary.
    pub(super) window: Option<Open>,
    /// VP that the host was told for interrupts.
    pub(super) vp: u32,
    /// A request to move them.
    pub(super) moving: Option<Move>,
    pub(super) life: Life,
}

/// A request for sub-channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) window: Window,
    pub(super) until: u64,
}

/// MODIFYCHANNEL_RESPONSE is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) vp: u32,
    pub(super) deadline: u64,
    /// The host has the request; before, it has nothing to answer.
    pub(super) asked: bool,
}

impl Entry {
    pub(super) fn relid(&self) -> u32 {
        self.offer.relid().number()
    }

    pub(super) fn is_primary(&self) -> bool {
        self.offer.index() == 0
    }

    /// Something is to come before it can be let go of: the owner's close, an
    /// answer about a GPADL or about a move.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.state, State::Offered | State::Broken) || self.moving.is_some()
    }

    fn standing(&self) -> Standing {
        match self.state {
            _ if self.rescinded => Standing::Rescinded,
            State::Offered => Standing::Offered,
            State::Opening {
                open_id,
                asked: true,
                ..
            } => Standing::Opening { open_id },
            State::Open => Standing::Open,
            _ => Standing::Busy,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GpadlState {
    /// GPADL_CREATED is awaited; `doomed`: to be torn down when it comes.
    Creating {
        deadline: u64,
        doomed: bool,
        /// The host has the whole request; before, it has nothing to answer.
        asked: bool,
    },
    Created,
    TearingDown {
        deadline: u64,
        /// As above.
        asked: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GpadlEntry {
    pub(super) number: u32,
    pub(super) channel: ChannelId,
    pub(super) relid: Relid,
    pub(super) state: GpadlState,
    /// It holds the rings.
    pub(super) ring: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) channels: Vec<Entry>,
    pub(super) gpadls: Vec<GpadlEntry>,
    /// Cards of the boot-time set.
    pub(super) adopted: Vec<Guid>,
    last_channel: u32,
    pub(super) last_gpadl: u32,
}

impl Table {
    pub(super) fn get(&mut self, id: ChannelId) -> Option<&mut Entry> {
        self.channels.iter_mut().find(|entry| entry.id == id)
    }

    pub(super) fn by_relid(&self, relid: u32) -> Option<&Entry> {
        self.channels.iter().find(|entry| entry.relid() == relid)
    }

    pub(super) fn by_relid_mut(&mut self, relid: Relid) -> Option<&mut Entry> {
        self.channels
            .iter_mut()
            .find(|entry| entry.offer.relid() == relid)
    }

    /// The primary channel of a card, unless rescinded.
    pub(super) fn primary(&self, instance: &Guid) -> Option<&Entry> {
        let mut live = self
            .channels
            .iter()
            .filter(|entry| !entry.rescinded && entry.is_primary());
        live.find(|entry| entry.offer.instance() == *instance)
    }

    /// Sub-channels of a card.
    pub(super) fn subs(&self, instance: Guid) -> impl Iterator<Item = &Entry> {
        self.channels
            .iter()
            .filter(move |entry| !entry.is_primary() && entry.offer.instance() == instance)
    }

    /// The next sub-channel of a card behind `last`: they stand in the order of
    /// their names, whatever is taken out between.
    pub(super) fn next_sub(&self, instance: Guid, last: Option<ChannelId>) -> Option<Entry> {
        self.subs(instance)
            .find(|entry| last.is_none_or(|last| entry.id > last))
            .copied()
    }

    pub(super) fn add(&mut self, offer: Offer) -> Option<ChannelId> {
        self.last_channel = self.last_channel.checked_add(1)?;
        let id = ChannelId(self.last_channel);
        if self.channels.len() >= MAX_CHANNELS {
            return None;
        }
        self.channels.push(Entry {
            id,
            offer,
            state: State::Offered,
            rescinded: false,
            leaked: false,
            orphan: false,
            window: None,
            vp: 0,
            moving: None,
            life: Life {
                messages: 1,
                ..Life::default()
            },
        });
        Some(id)
    }

    /// Notes a card of the boot-time set: the last `most` of them.
    pub(super) fn adopt(&mut self, instance: Guid, most: usize) {
        self.adopted.retain(|known| *known != instance);
        if self.adopted.len() >= most {
            // One that was taken back, or there would have been no room for this one.
            let live = |known: &Guid| Ledger::instance(self, known).is_some();
            let gone = self.adopted.iter().position(|known| !live(known));
            if let Some(gone) = gone {
                self.adopted.remove(gone);
            }
        }
        self.adopted.push(instance);
    }

    pub(super) fn remove(&mut self, id: ChannelId) {
        self.channels.retain(|entry| entry.id != id);
    }

    /// Notes a GPADL that is about to be created and gives it a number that was
    /// never used (GPD-01).
    pub(super) fn add_gpadl(
        &mut self,
        channel: ChannelId,
        relid: Relid,
        ring: bool,
        deadline: u64,
    ) -> Option<u32> {
        if self.gpadls.len() >= MAX_GPADLS {
            return None;
        }
        self.last_gpadl = self.last_gpadl.checked_add(1)?;
        let number = self.last_gpadl;
        let state = GpadlState::Creating {
            deadline,
            doomed: false,
            asked: false,
        };
        self.gpadls.push(GpadlEntry {
            number,
            channel,
            relid,
            state,
            ring,
        });
        Some(number)
    }

    pub(super) fn gpadl_mut(&mut self, number: u32) -> Option<&mut GpadlEntry> {
        self.gpadls.iter_mut().find(|gpadl| gpadl.number == number)
    }

    pub(super) fn remove_gpadl(&mut self, number: u32) -> Option<GpadlEntry> {
        let at = self
            .gpadls
            .iter()
            .position(|gpadl| gpadl.number == number)?;
        Some(self.gpadls.swap_remove(at))
    }

    pub(super) fn has_gpadls(&self, channel: ChannelId) -> bool {
        self.gpadls.iter().any(|gpadl| gpadl.channel == channel)
    }
}

impl Ledger for Table {
    fn channel(&self, relid: Relid) -> Option<Known> {
        let entry = self.by_relid(relid.number())?;
        Some(Known {
            instance: entry.offer.instance(),
            standing: entry.standing(),
        })
    }

    fn instance(&self, instance: &Guid) -> Option<Standing> {
        self.primary(instance).map(Entry::standing)
    }

    fn adopted(&self, instance: &Guid) -> bool {
        self.adopted.contains(instance)
    }

    fn has_connection(&self, connection_id: u32) -> bool {
        self.channels
            .iter()
            .any(|entry| entry.offer.connection_id() == connection_id)
    }

    fn channels(&self) -> usize {
        self.channels.len()
    }

    fn nics(&self) -> usize {
        self.channels
            .iter()
            .filter(|entry| !entry.rescinded && entry.is_primary())
            .fold(0, |count, _| count.saturating_add(1))
    }

    fn gpadl(&self, gpadl: u32) -> Option<Outstanding> {
        let entry = self.gpadls.iter().find(|entry| entry.number == gpadl)?;
        match entry.state {
            GpadlState::Creating { asked: false, .. } => None,
            GpadlState::Creating { .. } => Some(Outstanding::Create(entry.relid)),
            GpadlState::Created | GpadlState::TearingDown { asked: false, .. } => {
                Some(Outstanding::Nothing)
            }
            GpadlState::TearingDown { .. } => Some(Outstanding::Teardown),
        }
    }

    fn window(&self, instance: &Guid) -> Option<Window> {
        Some(self.primary(instance)?.window?.window)
    }

    fn moving(&self, relid: Relid) -> bool {
        let entry = self.by_relid(relid.number());
        entry.is_some_and(|entry| entry.moving.is_some_and(|moving| moving.asked))
    }
}
