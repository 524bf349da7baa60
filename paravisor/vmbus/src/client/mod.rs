//! The control plane: from the first contact to open channels, and back.
//!
//! The owner feeds the client with slot copies ([`Client::on_message`]), the
//! clock and the results of its posts, does what [`Client::poll`] says, and
//! reads [`Client::next_event`]. Nothing here waits, and so nobody can hold a lock
//! while it does (SYS-15): each request that the host has to answer carries a
//! deadline, which `poll` watches. The way out, UNLOAD, is no exception: its answer
//! comes through the same copies and has a deadline too (SYS-17).

mod lifecycle;
mod moves;
mod outbox;
mod subs;
mod table;
#[cfg(test)]
mod tests;
mod words;

use crate::counters::{Counters, Life, News};
use crate::limits::{
    CONTACT_DEADLINE, LATE_OFFERS, MAX_CHANNELS, MAX_QUEUED_EVENTS, MESSAGES_PER_WAKE,
    OFFERS_DEADLINE, OFFERS_INTERVAL, REFUSED_OFFERS, SPENT_BUDGETS, UNLOAD_DEADLINE,
};
use crate::synic::{Drain, FlagSet};
use abi::hyperv::MESSAGE_SLOT;
use abi::vmbus::{Features, Version};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use outbox::{Outbox, Request};
use table::{State, Table};
use validate::control::{
    Accepted, Admission, Gate, Message, OLDEST_VERSION, Offer, Phase, droppable_relid, judge,
};
use validate::synic::{event_flag, slot};
use validate::{Layer, Reaction, Rule, Violation};

pub use outbox::Post;
pub use table::ChannelId;
pub use words::{
    Action, Config, Event, GpadlId, LateOffers, RequestError, SignalTarget, Target, VERSIONS,
};

/// The client. See the module.
#[derive(Clone, Debug)]
pub struct Client {
    config: Config,
    phase: Phase,
    /// Position in `config.versions`.
    proposal: usize,
    version: Version,
    features: Features,
    message_connection: u32,
    /// For the answer to contact, offers request or unload.
    deadline: Option<u64>,
    /// The host has that request; before, it has nothing to answer.
    asked: bool,
    /// The boot-time set is complete.
    sealed: bool,
    /// When offers were refused, oldest first, at most an hour ago.
    refused_offers: VecDeque<u64>,
    /// When cards were taken since then, at most an hour ago.
    late_offers: VecDeque<u64>,
    /// Wake-ups in a row that have used their whole budget.
    spent_budgets: u32,
    last_open_id: u32,
    table: Table,
    outbox: Outbox,
    events: VecDeque<Event>,
    counters: Counters,
    failure: Option<Violation>,
}

impl Client {
    /// A client that has said nothing yet.
    pub fn new(config: Config) -> Client {
        Client {
            message_connection: config.target.message_connection,
            config,
            phase: Phase::Idle,
            proposal: 0,
            version: OLDEST_VERSION,
            features: Features::empty(),
            deadline: None,
            asked: false,
            sealed: false,
            refused_offers: VecDeque::new(),
            late_offers: VecDeque::new(),
            spent_budgets: 0,
            last_open_id: 0,
            table: Table::default(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            counters: Counters::new(),
            failure: None,
        }
    }

    /// Begins with the newest version. The SynIC must be on.
    pub fn start(&mut self, now: u64) -> Result<(), RequestError> {
        if self.phase != Phase::Idle || self.failure.is_some() {
            return Err(RequestError::State);
        }
        self.proposal = 0;
        self.propose(now);
        Ok(())
    }

    /// Judges the private copy of our message slot and acts on it.
    pub fn on_message(&mut self, copy: &[u8; MESSAGE_SLOT], now: u64) {
        self.counters.judged(Layer::Synic);
        let payload = match slot(copy) {
            Ok(Some(payload)) => payload,
            Ok(None) => return,
            Err(violation) => return self.counters.violation(violation),
        };
        self.counters.judged(Layer::Control);
        self.expire_windows(now);
        let gate = self.gate(now);
        match judge(&payload, &gate, &self.table) {
            Ok(message) => self.act(message, now),
            Err(violation) if violation.rule.reaction() == Reaction::Fatal => self.fail(violation),
            Err(violation) => {
                self.counters.violation(violation);
                let listening = matches!(gate.phase, Phase::RequestingOffers | Phase::Running);
                let relid = droppable_relid(&payload, &self.table).filter(|_| listening);
                if let Some(relid) = relid {
                    self.refuse_offer(relid.number(), now);
                }
            }
        }
    }

    /// A look at the message slot is over. Each spent budget is counted, and too
    /// many in a row end the connection (SYN-11).
    pub fn on_drained(&mut self, drain: Drain) {
        if drain == Drain::Empty {
            self.spent_budgets = 0;
            return;
        }
        let violation = Violation::new(Rule::SYN_11, 0, MESSAGES_PER_WAKE as u64);
        self.spent_budgets = self.spent_budgets.saturating_add(1);
        if self.spent_budgets >= SPENT_BUDGETS && self.phase != Phase::Idle {
            return self.fail(violation);
        }
        self.counters.violation(violation);
    }

    /// What has happened to a channel since it was offered; `None` once its relid
    /// is released.
    pub fn life(&self, channel: ChannelId) -> Option<Life> {
        let mut channels = self.table.channels.iter();
        channels
            .find(|entry| entry.id == channel)
            .map(|entry| entry.life)
    }

    /// The channels whose event flags were set. Flags of others do nothing.
    pub fn on_event_flags(&mut self, flags: &FlagSet) -> impl Iterator<Item = ChannelId> + use<> {
        let mut signalled = [None; MAX_CHANNELS];
        let mut free = signalled.iter_mut();
        for number in flags.iter() {
            let channel = event_flag(number).and_then(|flag| {
                let number = u32::from(flag.number());
                let entry = self.table.by_relid(number);
                let entry = entry.ok_or(Violation::new(Rule::SYN_15, 0, number))?;
                let open = entry.state == State::Open && !entry.rescinded;
                open.then_some(entry.id)
                    .ok_or(Violation::new(Rule::SYN_16, 0, number))
            });
            match channel {
                Ok(id) => {
                    if let Some(slot) = free.next() {
                        *slot = Some(id);
                    }
                }
                Err(violation) => self.counters.violation(violation),
            }
        }
        signalled.into_iter().flatten()
    }

    /// The highest event flag that a channel of ours has, for
    /// [`EventFlags::take`](crate::synic::EventFlags::take).
    pub fn highest_flag(&self) -> u32 {
        self.table
            .channels
            .iter()
            .map(|entry| entry.relid())
            .max()
            .unwrap_or(0)
    }

    /// The next thing to do at time `now`; call until it gives `None`.
    pub fn poll(&mut self, now: u64) -> Option<Action> {
        self.expire(now);
        self.outbox
            .poll(now, self.message_connection)
            .map(Action::PostMessage)
    }

    /// Status of the hypercall for the last [`Action::PostMessage`].
    pub fn on_post_result(&mut self, status: u16, now: u64) {
        match self.outbox.result(status, now) {
            Ok(Some(asked)) => self.asked(asked),
            Ok(None) => {}
            Err(violation) => self.fail(violation),
        }
    }

    /// What has happened since, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Client::poll`] has to be called again at the latest.
    pub fn deadline(&self) -> Option<u64> {
        let gpadls = self
            .table
            .gpadls
            .iter()
            .filter_map(|gpadl| gpadl.deadline());
        let opens = self
            .table
            .channels
            .iter()
            .filter_map(|entry| entry.deadline());
        let moves = self.table.channels.iter();
        let moves = moves.filter_map(|entry| Some(entry.moving?.deadline));
        gpadls
            .chain(opens)
            .chain(moves)
            .chain(self.deadline)
            .chain(self.outbox.deadline())
            .min()
    }

    /// The SINT on which the host speaks.
    pub fn sint(&self) -> u8 {
        self.config.target.sint
    }

    /// The negotiated version, once connected.
    pub fn version(&self) -> Option<Version> {
        matches!(self.phase, Phase::RequestingOffers | Phase::Running).then_some(self.version)
    }

    /// Messages judged and rules violated on the control plane.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes the rules that did not hold since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        self.counters.take_news()
    }

    /// The host's number of a channel, for audit records only (CTL-61).
    pub fn audit_number(&self, id: ChannelId) -> Option<u32> {
        let mut channels = self.table.channels.iter();
        channels
            .find(|entry| entry.id == id)
            .map(|entry| entry.relid())
    }

    /// The event flag of a channel, for another VP that works for it alone.
    pub fn event_flag(&self, id: ChannelId) -> Option<u16> {
        let mut channels = self.table.channels.iter();
        channels
            .find(|entry| entry.id == id)
            .map(|entry| entry.offer.relid().flag())
    }

    /// Counts a violation that the owner has noticed on the way to the client,
    /// for example a budget of messages that was spent (SYN-11).
    pub fn note(&mut self, violation: Violation) {
        self.counters.violation(violation);
    }

    /// The boot-time set is complete, whatever the host says: from now on only what
    /// [`Config::late_offers`] allows (CTL-29).
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// A channel that is on offer and that nobody has opened, or that is closed.
    pub fn on_offer(&self) -> Option<ChannelId> {
        let mut channels = self.table.channels.iter();
        channels
            .find(|entry| entry.state == State::Offered && !entry.rescinded && entry.is_primary())
            .map(|entry| entry.id)
    }

    /// Ends the connection. Channels should be closed before.
    pub fn unload(&mut self, now: u64) -> Result<(), RequestError> {
        if !matches!(self.phase, Phase::RequestingOffers | Phase::Running) {
            return Err(RequestError::State);
        }
        self.say(Request::Unload);
        self.phase = Phase::Unloading;
        self.asked = false;
        self.deadline = Some(now.saturating_add(UNLOAD_DEADLINE));
        Ok(())
    }

    /// Which offers are taken at this time.
    fn admission(&self, now: u64) -> Admission {
        let hour_ago = now.saturating_sub(OFFERS_INTERVAL);
        let late = self.late_offers.iter().filter(|time| **time > hour_ago);
        match self.config.late_offers {
            _ if !self.sealed => Admission::All,
            LateOffers::Nothing => Admission::Nothing,
            _ if late.fold(0, |count: usize, _| count.saturating_add(1)) >= LATE_OFFERS => {
                Admission::Exhausted
            }
            LateOffers::Returning => Admission::Returning,
            LateOffers::Anything => Admission::All,
        }
    }

    /// Takes a card.
    fn offered(&mut self, offer: Offer, now: u64) {
        if offer.index() != 0 {
            return self.sub_offered(offer);
        }
        if self.sealed {
            self.late_offers.truncate(LATE_OFFERS.saturating_sub(1));
            self.late_offers.push_front(now);
        } else {
            self.table.adopt(offer.instance(), self.config.nics);
        }
        match self.table.add(offer) {
            Some(channel) => self.emit(Event::Offered {
                channel,
                instance: offer.instance(),
            }),
            None => self.fail(Violation::new(Rule::CTL_28, 0, MAX_CHANNELS as u64)),
        }
    }

    fn gate(&self, now: u64) -> Gate {
        Gate {
            // As long as the host has not been asked, every answer is one too many.
            phase: if self.asked { self.phase } else { Phase::Idle },
            version: self.version,
            features: self.features,
            message_connection: self.config.target.message_connection,
            admission: self.admission(now),
            max_nics: self.config.nics,
            max_channels: MAX_CHANNELS,
        }
    }

    /// Proposes the version at `self.proposal`, or gives up (CTL-12).
    fn propose(&mut self, now: u64) {
        let version = self.config.versions.get(self.proposal).copied();
        let Some(version) = version.filter(|version| *version >= OLDEST_VERSION) else {
            return self.fail(Violation::new(Rule::CTL_12, 8, self.version.0));
        };
        let target = self.config.target;
        self.version = version;
        self.features = if version >= Version::V6_0 {
            target.features()
        } else {
            Features::empty()
        };
        self.say(Request::Contact {
            version,
            target_vp: target.vp,
            sint: target.contact_sint,
            vtl: target.contact_vtl,
            features: self.features,
        });
        self.phase = Phase::Contacting;
        self.asked = false;
        self.deadline = Some(now.saturating_add(CONTACT_DEADLINE));
    }

    fn connected(&mut self, accepted: Accepted, now: u64) {
        self.features = accepted.features();
        if !self.config.target.redirected {
            self.message_connection = accepted.message_connection();
        }
        self.say(Request::Offers);
        self.phase = Phase::RequestingOffers;
        self.asked = false;
        self.deadline = Some(now.saturating_add(OFFERS_DEADLINE));
        self.emit(Event::Connected {
            version: self.version,
            features: self.features,
        });
    }

    /// Carries a judged message out.
    fn act(&mut self, message: Message, now: u64) {
        self.heard(&message);
        match message {
            Message::VersionAccepted(accepted) => self.connected(accepted, now),
            Message::VersionRefused(_) => {
                self.proposal = self.proposal.saturating_add(1);
                self.propose(now);
            }
            Message::Offer(offer) => self.offered(offer, now),
            Message::AllOffersDelivered(_) => {
                self.phase = Phase::Running;
                self.deadline = None;
                self.sealed = true;
                self.emit(Event::OffersDelivered);
            }
            Message::Rescind(relid) => self.rescinded(relid),
            Message::Opened(relid) => self.opened(relid),
            Message::OpenRefused { relid, violation } => self.open_refused(relid, violation, now),
            Message::GpadlCreated(gpadl) => self.gpadl_created(gpadl.number(), now),
            Message::GpadlRefused { gpadl, violation } => {
                self.gpadl_refused(gpadl.number(), violation);
            }
            Message::GpadlTorndown(gpadl) => self.gpadl_gone(gpadl.number(), true),
            Message::Moved(relid) => self.moved(relid, None),
            Message::MoveRefused { relid, violation } => self.moved(relid, Some(violation)),
            Message::UnloadResponse(_) => self.unloaded(true),
        }
    }

    /// Counts a message for the channel that it speaks of.
    fn heard(&mut self, message: &Message) {
        let entry = match message {
            Message::Rescind(relid)
            | Message::Opened(relid)
            | Message::Moved(relid)
            | Message::MoveRefused { relid, .. }
            | Message::OpenRefused { relid, .. } => self.table.by_relid_mut(*relid),
            Message::GpadlCreated(gpadl)
            | Message::GpadlRefused { gpadl, .. }
            | Message::GpadlTorndown(gpadl) => {
                let gpadl = self.table.gpadl_mut(gpadl.number());
                let channel = gpadl.map(|gpadl| gpadl.channel);
                channel.and_then(|channel| self.table.get(channel))
            }
            _ => None,
        };
        if let Some(entry) = entry {
            entry.life.messages = entry.life.messages.saturating_add(1);
        }
    }

    /// Releases the relid of a refused offer, within limits (CTL-28).
    fn refuse_offer(&mut self, relid: u32, now: u64) {
        let old = |time: &mut u64| now.saturating_sub(*time) >= OFFERS_INTERVAL;
        while self.refused_offers.pop_front_if(old).is_some() {}
        if self.refused_offers.len() >= REFUSED_OFFERS {
            return self.fail(Violation::new(Rule::CTL_28, 0, REFUSED_OFFERS as u64));
        }
        self.refused_offers.push_back(now);
        self.say(Request::Release { relid });
    }

    /// Gives up what is overdue.
    fn expire(&mut self, now: u64) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            let waited = |rule| Violation::new(rule, 0, now);
            match self.phase {
                Phase::Contacting => return self.fail(waited(Rule::CTL_13)),
                Phase::RequestingOffers => return self.fail(waited(Rule::CTL_31)),
                Phase::Unloading => {
                    self.counters.violation(waited(Rule::CTL_54));
                    return self.unloaded(false);
                }
                Phase::Idle | Phase::Running => self.deadline = None,
            }
        }
        self.expire_gpadls(now);
        self.expire_opens(now);
        self.expire_moves(now);
    }

    /// The connection is over by UNLOAD.
    fn unloaded(&mut self, answered: bool) {
        self.forget(answered);
        self.emit(Event::Unloaded { answered });
    }

    /// The connection is over because the host broke a rule.
    fn fail(&mut self, violation: Violation) {
        self.counters.violation(violation);
        if self.failure.replace(violation).is_some() {
            return;
        }
        self.forget(false);
        self.emit(Event::Failed { violation });
    }

    /// Drops all state; the memory of every GPADL is released or leaked.
    fn forget(&mut self, released: bool) {
        self.phase = Phase::Idle;
        self.deadline = None;
        self.outbox.clear();
        for gpadl in core::mem::take(&mut self.table.gpadls) {
            self.memory_free(gpadl.number, released);
        }
        self.table.channels.clear();
        self.table.adopted.clear();
    }

    /// Queues a message; a full queue ends the connection (CTL-59).
    fn say(&mut self, request: Request) {
        if let Err(violation) = self.outbox.push(request) {
            self.fail(violation);
        }
    }

    /// Queues an event; one that nobody fetches ends the connection (CTL-59).
    fn emit(&mut self, event: Event) {
        self.events.push_back(event);
        let length = self.events.len();
        if length > MAX_QUEUED_EVENTS && self.failure.is_none() {
            self.fail(Violation::new(Rule::CTL_59, 0, length as u64));
        }
    }

    fn memory_free(&mut self, number: u32, released: bool) {
        let gpadl = GpadlId(number);
        self.emit(match released {
            true => Event::MemoryReleased { gpadl },
            false => Event::MemoryLeaked { gpadl },
        });
    }
}
