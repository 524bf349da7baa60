//! The control plane: what the guest has asked for, and whether the host's
//! messages fit. The verdicts are [`validate::control::judge`]'s; this file
//! keeps the state that it asks for, as the paravisor's client does.

use super::file::little;
use super::memory::Pages;
use abi::vmbus::{Features, Guid, MessageType, Version};
use std::collections::{BTreeMap, BTreeSet};
use validate::control::{
    Admission, Gate, Known, Ledger, Message, OLDEST_VERSION, Offer, Outstanding, Phase, Relid,
    Standing, Window,
};
use validate::{Rule, Violation};

/// State of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offered,
    /// Its first GPADL is being created.
    Preparing,
    Opening(u32),
    Open,
    Closing,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    offer: Offer,
    state: State,
    rescinded: bool,
    /// GPADL and first page of the host-to-guest ring, once it was opened.
    rings: Option<(u32, u32)>,
}

#[derive(Clone, Debug)]
struct Gpadl {
    relid: Relid,
    awaits: Awaits,
    pages: Pages,
    /// Frame numbers that are still to come in bodies.
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Creation,
    Nothing,
    Teardown,
}

/// What follows from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing outside of the control plane.
    None,
    /// The guest opens a channel: its rings are in use from here on.
    Rings(u32),
    /// The channel is closed.
    Closed(u32),
    /// The guest begins anew.
    Restarted,
}

/// The connection.
pub struct Control {
    phase: Phase,
    version: Version,
    features: Features,
    message_connection: u32,
    sealed: bool,
    /// The last card that was taken before the set was complete.
    adopted: Option<Guid>,
    /// The paravisor has ended the connection.
    pub dead: bool,
    channels: Vec<Channel>,
    gpadls: BTreeMap<u32, Gpadl>,
    /// Channels whose interrupts the guest wants to move.
    moving: BTreeSet<u32>,
    /// Sub-channels that the guest has asked the primary with this relid for, and until
    /// when they may come.
    windows: BTreeMap<u32, (Window, u64)>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            phase: Phase::Idle,
            version: OLDEST_VERSION,
            features: Features::empty(),
            message_connection: 0,
            sealed: false,
            adopted: None,
            dead: false,
            channels: Vec::new(),
            gpadls: BTreeMap::new(),
            moving: BTreeSet::new(),
            windows: BTreeMap::new(),
        }
    }
}

fn word(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).map_or(0, little) as u32
}

fn frames(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(little)
}

impl Control {
    /// What a message is held against.
    pub fn gate(&self) -> Gate {
        Gate {
            phase: self.phase,
            version: self.version,
            features: self.features,
            message_connection: self.message_connection,
            // What the measured configuration of every image says.
            admission: if self.sealed {
                Admission::Returning
            } else {
                Admission::All
            },
            max_nics: 1,
            max_channels: vmbus::limits::MAX_CHANNELS,
        }
    }

    /// Pages of a GPADL that the guest has described completely.
    pub fn pages(&self, gpadl: u32) -> Option<&Pages> {
        self.gpadls
            .get(&gpadl)
            .filter(|g| g.missing == 0)
            .map(|g| &g.pages)
    }

    /// Ring GPADL and first page of the host-to-guest ring of a channel.
    pub fn rings(&self, relid: u32) -> Option<(u32, u32)> {
        self.find(relid)?.rings
    }

    /// Whether the guest has the channel open.
    pub fn is_open(&self, relid: u32) -> Option<bool> {
        self.find(relid)
            .map(|c| c.state == State::Open && !c.rescinded)
    }

    /// Relid of the primary channel whose sub-channel this is.
    pub fn primary_of(&self, relid: u32) -> Option<u32> {
        let channel = self.find(relid).filter(|c| c.offer.index() != 0)?;
        let primary = self.primary(&channel.offer.instance())?;
        Some(primary.offer.relid().number())
    }

    fn primary(&self, instance: &Guid) -> Option<&Channel> {
        let mut live = self.channels.iter().filter(|c| !c.rescinded);
        live.find(|c| c.offer.index() == 0 && c.offer.instance() == *instance)
    }

    /// The guest asks the NIC on channel `relid` for `count` sub-channels: from now on
    /// they may come.
    pub fn ask(&mut self, relid: u32, count: u16, time: u64) {
        let window = Window {
            count: count.min(vmbus::limits::MAX_SUB_CHANNELS),
            taken: 0,
        };
        let until = time.saturating_add(vmbus::limits::SUB_CHANNELS_DEADLINE);
        self.windows.insert(relid, (window, until));
    }

    /// The NIC has granted so many of them. Those that have come beyond that break
    /// CTL-26: their relids, and what is broken.
    pub fn granted(&mut self, relid: u32, count: u16) -> Vec<(u32, Violation)> {
        if let Some((window, _)) = self.windows.get_mut(&relid) {
            window.count = window.count.min(count);
        }
        self.close_window(relid);
        let Some(instance) = self.find(relid).map(|c| c.offer.instance()) else {
            return Vec::new();
        };
        let beyond = self
            .channels
            .iter()
            .filter(|c| c.offer.instance() == instance && c.offer.index() > count && !c.rescinded);
        let broken = |c: &Channel| {
            let violation = Violation::new(Rule::CTL_26, 180, c.offer.index());
            (c.offer.relid().number(), violation)
        };
        beyond.map(broken).collect()
    }

    /// What comes from `time` on.
    pub fn expire(&mut self, time: u64) {
        self.windows.retain(|_, (_, until)| *until > time);
    }

    fn close_window(&mut self, relid: u32) {
        let done = |window: &Window| window.is_complete() || window.count == 0;
        if self.windows.get(&relid).is_some_and(|(w, _)| done(w)) {
            self.windows.remove(&relid);
        }
    }

    fn find(&self, relid: u32) -> Option<&Channel> {
        self.channels
            .iter()
            .find(|c| c.offer.relid().number() == relid)
    }

    fn find_mut(&mut self, relid: u32) -> Option<&mut Channel> {
        self.channels
            .iter_mut()
            .find(|c| c.offer.relid().number() == relid)
    }

    /// The guest posts a channel message to `connection`.
    pub fn posted(&mut self, connection: u32, message: &[u8]) -> Change {
        let relid = word(message, 8);
        match MessageType(word(message, 0)) {
            MessageType::INITIATE_CONTACT => {
                let again = self.phase != Phase::Contacting && self.phase != Phase::Idle;
                *self = Control {
                    phase: Phase::Contacting,
                    version: Version(word(message, 8)),
                    message_connection: connection,
                    ..Control::default()
                };
                if self.version >= Version::V6_0 {
                    self.features = Features::from_bits_retain(word(message, 20));
                }
                return if again {
                    Change::Restarted
                } else {
                    Change::None
                };
            }
            MessageType::UNLOAD => self.phase = Phase::Unloading,
            MessageType::GPADL_HEADER => self.describe(relid, message),
            MessageType::GPADL_BODY => {
                if let Some(g) = self.gpadls.get_mut(&word(message, 12)) {
                    let more = frames(message.get(16..).unwrap_or_default()).take(g.missing);
                    let before = g.pages.pfns.len();
                    g.pages.pfns.extend(more);
                    g.missing -= g.pages.pfns.len() - before;
                }
            }
            MessageType::GPADL_TEARDOWN => {
                if let Some(g) = self.gpadls.get_mut(&word(message, 12)) {
                    g.awaits = Awaits::Teardown;
                }
            }
            MessageType::OPEN_CHANNEL => {
                let (open_id, ring) = (word(message, 12), word(message, 16));
                let downstream = word(message, 24);
                if let Some(c) = self.find_mut(relid) {
                    c.state = State::Opening(open_id);
                    c.rings = Some((ring, downstream));
                    return Change::Rings(relid);
                }
            }
            MessageType::CLOSE_CHANNEL => {
                self.windows.remove(&relid);
                if let Some(c) = self.find_mut(relid) {
                    c.state = State::Closing;
                    c.rings = None;
                    self.settle(relid);
                    return Change::Closed(relid);
                }
            }
            MessageType::MODIFY_CHANNEL => {
                self.moving.insert(relid);
            }
            MessageType::RELID_RELEASED => {
                self.channels.retain(|c| c.offer.relid().number() != relid);
                return Change::Closed(relid);
            }
            _ => {}
        }
        Change::None
    }

    /// GPADL_HEADER: one range, its first frame numbers.
    fn describe(&mut self, relid: u32, message: &[u8]) {
        let Some(channel) = self.find_mut(relid) else {
            return;
        };
        let owner = channel.offer.relid();
        if channel.state == State::Offered {
            channel.state = State::Preparing;
        }
        let words = usize::from(word(message, 16) as u16) / 8;
        let (len, offset) = (word(message, 20), word(message, 24));
        let pfns: Vec<u64> = frames(message.get(28..).unwrap_or_default())
            .take(words.saturating_sub(1))
            .collect();
        let missing = words.saturating_sub(1).saturating_sub(pfns.len());
        let gpadl = Gpadl {
            relid: owner,
            awaits: Awaits::Creation,
            pages: Pages {
                pfns,
                offset: offset as usize,
                len: len as usize,
            },
            missing,
        };
        self.gpadls.insert(word(message, 12), gpadl);
    }

    /// Carries out a judged message, as the paravisor does.
    pub fn act(&mut self, message: &Message) -> Change {
        match message {
            Message::VersionAccepted(accepted) => {
                self.features = accepted.features();
                self.phase = Phase::RequestingOffers;
            }
            Message::VersionRefused(_) => {}
            Message::Offer(offer) => {
                if offer.index() != 0 {
                    let primary = self.primary(&offer.instance());
                    let primary = primary.map_or(0, |c| c.offer.relid().number());
                    if let Some((window, _)) = self.windows.get_mut(&primary) {
                        window.take(offer.index());
                    }
                    self.close_window(primary);
                } else if !self.sealed {
                    self.adopted = Some(offer.instance());
                }
                self.channels.push(Channel {
                    offer: *offer,
                    state: State::Offered,
                    rescinded: false,
                    rings: None,
                });
            }
            Message::AllOffersDelivered(_) => {
                self.phase = Phase::Running;
                self.sealed = true;
            }
            Message::Rescind(relid) => {
                if let Some(c) = self.find_mut(relid.number()) {
                    c.rescinded = true;
                }
                self.windows.remove(&relid.number());
                return Change::Closed(relid.number());
            }
            Message::Opened(relid) => {
                if let Some(c) = self.find_mut(relid.number()) {
                    c.state = State::Open;
                }
            }
            Message::OpenRefused { relid, .. } => {
                if let Some(c) = self.find_mut(relid.number()) {
                    c.state = State::Closing;
                    c.rings = None;
                }
                return Change::Closed(relid.number());
            }
            Message::GpadlCreated(gpadl) => {
                if let Some(g) = self.gpadls.get_mut(&gpadl.number()) {
                    g.awaits = Awaits::Nothing;
                }
            }
            Message::GpadlRefused { gpadl, .. } | Message::GpadlTorndown(gpadl) => {
                if let Some(g) = self.gpadls.remove(&gpadl.number()) {
                    let relid = g.relid.number();
                    let refused = matches!(message, Message::GpadlRefused { .. });
                    if let Some(c) = self.find_mut(relid)
                        && refused
                        && c.state == State::Preparing
                    {
                        c.state = State::Closing;
                    }
                    self.settle(relid);
                }
            }
            Message::Moved(relid) | Message::MoveRefused { relid, .. } => {
                self.moving.remove(&relid.number());
            }
            Message::UnloadResponse(_) => {
                *self = Control::default();
                return Change::Restarted;
            }
        }
        Change::None
    }

    /// A closing channel without GPADLs may be opened again.
    fn settle(&mut self, relid: u32) {
        if self.gpadls.values().any(|g| g.relid.number() == relid) {
            return;
        }
        if let Some(c) = self.find_mut(relid)
            && c.state == State::Closing
        {
            c.state = State::Offered;
        }
    }
}

impl Channel {
    fn standing(&self) -> Standing {
        match self.state {
            _ if self.rescinded => Standing::Rescinded,
            State::Offered => Standing::Offered,
            State::Opening(open_id) => Standing::Opening { open_id },
            State::Open => Standing::Open,
            State::Preparing | State::Closing => Standing::Busy,
        }
    }
}

impl Ledger for Control {
    fn channel(&self, relid: Relid) -> Option<Known> {
        let channel = self.find(relid.number())?;
        Some(Known {
            instance: channel.offer.instance(),
            standing: channel.standing(),
        })
    }
    fn instance(&self, instance: &Guid) -> Option<Standing> {
        self.primary(instance).map(Channel::standing)
    }
    fn adopted(&self, instance: &Guid) -> bool {
        self.adopted == Some(*instance)
    }
    fn has_connection(&self, connection_id: u32) -> bool {
        self.channels
            .iter()
            .any(|c| c.offer.connection_id() == connection_id)
    }
    fn channels(&self) -> usize {
        self.channels.len()
    }
    fn nics(&self) -> usize {
        let primaries = self.channels.iter().filter(|c| c.offer.index() == 0);
        primaries.filter(|c| !c.rescinded).count()
    }
    fn gpadl(&self, gpadl: u32) -> Option<Outstanding> {
        let entry = self.gpadls.get(&gpadl)?;
        Some(match entry.awaits {
            Awaits::Creation => Outstanding::Create(entry.relid),
            Awaits::Nothing => Outstanding::Nothing,
            Awaits::Teardown => Outstanding::Teardown,
        })
    }
    fn window(&self, instance: &Guid) -> Option<Window> {
        let primary = self.primary(instance)?.offer.relid().number();
        Some(self.windows.get(&primary)?.0)
    }
    fn moving(&self, relid: Relid) -> bool {
        self.moving.contains(&relid.number())
    }
}
