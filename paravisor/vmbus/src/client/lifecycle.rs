//! A channel's life: GPADLs, open, close, rescind, release.
//!
//! ```text
//! Offered --open--> CreatingRing --created--> Opening --result--> Open
//!    ^                                                              | close
//!    +---- all GPADLs gone ------------- Closing <------------------+
//!                                           | rescinded: RELID_RELEASED, forgotten
//! ```

use super::outbox::{Asked, Pages, Request, Wiring};
use super::table::{ChannelId, Entry, GpadlEntry, GpadlState, State};
use super::{Client, Event, GpadlId, RequestError, SignalTarget};
use crate::limits::REQUEST_DEADLINE;
use abi::vmbus::{Features, REDIRECTED_CHANNEL_CONNECTION_BASE};
use memory::SharedMemory;
use validate::control::{Phase, Relid};
use validate::{Rule, Violation};

impl Entry {
    pub(super) fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Opening { deadline, .. } if !self.rescinded => Some(deadline),
            _ => None,
        }
    }
}

impl GpadlEntry {
    pub(super) fn deadline(&self) -> Option<u64> {
        match self.state {
            GpadlState::Creating { deadline, .. } | GpadlState::TearingDown { deadline, .. } => {
                Some(deadline)
            }
            GpadlState::Created => None,
        }
    }
}

impl Client {
    /// Opens `channel` with the rings in `memory`, the host's from page
    /// `downstream_page` on; interrupts go to `vp`. Ends with [`Event::Opened`],
    /// [`Event::OpenFailed`] or [`Event::Rescinded`]. Nothing in `memory` is
    /// trusted from here on.
    pub fn open(
        &mut self,
        channel: ChannelId,
        memory: &impl SharedMemory,
        downstream_page: u32,
        vp: u32,
        now: u64,
    ) -> Result<GpadlId, RequestError> {
        self.usable(channel, |state| state == State::Offered)?;
        let gpadl = self.share(channel, memory, true, now)?;
        if let Some(entry) = self.table.get(channel) {
            entry.vp = vp;
            entry.state = State::CreatingRing {
                downstream_page,
                vp,
            };
        }
        Ok(gpadl)
    }

    /// Makes `memory` known to the device of an open channel. Ends with
    /// [`Event::GpadlCreated`] or [`Event::GpadlFailed`].
    pub fn create_gpadl(
        &mut self,
        channel: ChannelId,
        memory: &impl SharedMemory,
        now: u64,
    ) -> Result<GpadlId, RequestError> {
        self.usable(channel, |state| state == State::Open)?;
        self.share(channel, memory, false, now)
    }

    /// Closes a channel in whatever state, or lets go of a rescinded one. All
    /// its GPADLs are torn down; their memory is free with
    /// [`Event::MemoryReleased`], and the channel closed with [`Event::Closed`]
    /// or gone with [`Event::Released`]. What the host has not heard yet of opening
    /// or sharing is not said any more. Sub-channels of a primary that is closed
    /// are closed first (CTL-41).
    pub fn close(&mut self, channel: ChannelId, now: u64) -> Result<(), RequestError> {
        let entry = self.table.get(channel).ok_or(RequestError::State)?;
        if matches!(entry.state, State::Offered | State::Closing | State::Broken) {
            return Err(RequestError::State);
        }
        if entry.is_primary() {
            let instance = entry.offer.instance();
            self.close_subs(instance, now);
        }
        self.close_one(channel, now)
    }

    /// Closes one channel and leaves those that belong to it alone.
    pub(super) fn close_one(&mut self, channel: ChannelId, now: u64) -> Result<(), RequestError> {
        self.withdraw_move(channel);
        let entry = self.table.get(channel).ok_or(RequestError::State)?;
        let relid = entry.relid();
        match entry.state {
            State::Offered | State::Closing | State::Broken => return Err(RequestError::State),
            State::CreatingRing { .. } | State::Halted => entry.state = State::Closing,
            State::Opening { open_id, .. } => {
                entry.state = State::Closing;
                if !self.outbox.withdraw(Asked::Open(open_id)) {
                    self.say(Request::Close { relid });
                }
            }
            State::Open => {
                entry.state = State::Closing;
                self.say(Request::Close { relid });
            }
        }
        self.tear_down(channel, now);
        self.closed(channel);
        Ok(())
    }

    pub(super) fn usable(
        &mut self,
        channel: ChannelId,
        state: impl Fn(State) -> bool,
    ) -> Result<(), RequestError> {
        let connected = matches!(self.phase, Phase::RequestingOffers | Phase::Running);
        let entry = self
            .table
            .get(channel)
            .filter(|entry| !entry.rescinded && !entry.orphan && connected);
        match entry {
            Some(entry) if state(entry.state) => Ok(()),
            _ => Err(RequestError::State),
        }
    }

    /// Sends the pages of `memory` to the host.
    fn share(
        &mut self,
        channel: ChannelId,
        memory: &impl SharedMemory,
        ring: bool,
        now: u64,
    ) -> Result<GpadlId, RequestError> {
        let pages = Pages::of(memory, &self.config.frames).map_err(|violation| {
            if violation.rule == Rule::GPD_11 {
                // A fault of ours, and the worst kind: nothing more is said.
                self.fail(violation);
            }
            RequestError::Limit(violation)
        })?;
        let relid = self
            .table
            .get(channel)
            .ok_or(RequestError::State)?
            .offer
            .relid();
        let deadline = now.saturating_add(REQUEST_DEADLINE);
        let number = self
            .table
            .add_gpadl(channel, relid, ring, deadline)
            .ok_or(RequestError::Limit(Violation::new(Rule::GPD_01, 0, 0_u32)))?;
        let relid = relid.number();
        self.say(Request::Gpadl {
            relid,
            gpadl: number,
            pages,
            sent: 0,
            number: 0,
        });
        Ok(GpadlId(number))
    }

    /// The host has a request of ours: it may answer from now on, and not before
    /// (GPD-02, GPD-05, CTL-46).
    pub(super) fn asked(&mut self, request: Asked) {
        match request {
            Asked::Contact | Asked::Offers | Asked::Unload => self.asked = true,
            Asked::Open(id) => {
                for entry in &mut self.table.channels {
                    if let State::Opening { open_id, asked, .. } = &mut entry.state
                        && *open_id == id
                    {
                        *asked = true;
                    }
                }
            }
            Asked::Modify(relid) => {
                let mut channels = self.table.channels.iter_mut();
                let entry = channels.find(|entry| entry.relid() == relid);
                if let Some(moving) = entry.and_then(|entry| entry.moving.as_mut()) {
                    moving.asked = true;
                }
            }
            Asked::Gpadl(number) | Asked::Teardown(number) => {
                let state = self.table.gpadl_mut(number).map(|gpadl| &mut gpadl.state);
                match (request, state) {
                    (Asked::Gpadl(_), Some(GpadlState::Creating { asked, .. }))
                    | (Asked::Teardown(_), Some(GpadlState::TearingDown { asked, .. })) => {
                        *asked = true;
                    }
                    _ => {}
                }
            }
        }
    }

    pub(super) fn gpadl_created(&mut self, number: u32, now: u64) {
        let Some(gpadl) = self.table.gpadl_mut(number) else {
            return;
        };
        let doomed = matches!(gpadl.state, GpadlState::Creating { doomed: true, .. });
        gpadl.state = GpadlState::Created;
        let (channel, ring) = (gpadl.channel, gpadl.ring);
        if doomed {
            return self.tear_down_one(number, now);
        }
        if !ring {
            return self.emit(Event::GpadlCreated {
                gpadl: GpadlId(number),
            });
        }
        let Some(open_id) = self.last_open_id.checked_add(1) else {
            return;
        };
        let features = self.features;
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        let State::CreatingRing {
            downstream_page,
            vp,
        } = entry.state
        else {
            return;
        };
        if entry.rescinded || entry.orphan {
            // No OPEN_RESULT would come; the owner's close tears it down.
            entry.state = State::Halted;
            return;
        }
        entry.state = State::Opening {
            open_id,
            deadline: now.saturating_add(REQUEST_DEADLINE),
            asked: false,
        };
        let relid = entry.relid();
        let long = wiring(entry, features);
        self.last_open_id = open_id;
        self.say(Request::Open {
            relid,
            open_id,
            gpadl: number,
            vp,
            downstream_page,
            long,
        });
    }

    pub(super) fn gpadl_refused(&mut self, number: u32, violation: Violation) {
        self.counters.violation(violation);
        let Some(gpadl) = self.table.remove_gpadl(number) else {
            return;
        };
        let doomed = matches!(gpadl.state, GpadlState::Creating { doomed: true, .. });
        if !doomed {
            self.gpadl_failed(&gpadl, violation);
        }
        self.memory_free(number, true);
        self.closed(gpadl.channel);
    }

    /// Tells the owner that a GPADL will not be, and with a ring's the open.
    fn gpadl_failed(&mut self, gpadl: &GpadlEntry, violation: Violation) {
        if !gpadl.ring {
            return self.emit(Event::GpadlFailed {
                gpadl: GpadlId(gpadl.number),
                violation,
            });
        }
        let Some(entry) = self.table.get(gpadl.channel) else {
            return;
        };
        entry.state = State::Closing;
        if !entry.rescinded && !entry.orphan {
            let channel = entry.id;
            self.emit(Event::OpenFailed { channel, violation });
        }
    }

    pub(super) fn opened(&mut self, relid: Relid) {
        let features = self.features;
        let Some(entry) = self.table.by_relid_mut(relid) else {
            return;
        };
        entry.state = State::Open;
        entry.life.opened = entry.life.opened.saturating_add(1);
        let (channel, orphan) = (entry.id, entry.orphan);
        let connection_id =
            wiring(entry, features).map_or(entry.offer.connection_id(), |own| own.connection_id);
        let signal = SignalTarget {
            connection_id,
            flag: 0,
        };
        // Of an orphan the owner knows that there is nothing to use any more.
        if !orphan {
            self.emit(Event::Opened { channel, signal });
        }
    }

    pub(super) fn open_refused(&mut self, relid: Relid, violation: Violation, now: u64) {
        self.counters.violation(violation);
        let Some(entry) = self.table.by_relid_mut(relid) else {
            return;
        };
        entry.state = State::Closing;
        let channel = entry.id;
        self.emit(Event::OpenFailed { channel, violation });
        self.tear_down(channel, now);
    }

    pub(super) fn rescinded(&mut self, relid: Relid) {
        let Some(entry) = self.table.by_relid_mut(relid) else {
            return;
        };
        // CTL-40: no deadline of the channel itself runs from here on, and the owner
        // is told at once; only answers about its GPADLs are still awaited, each
        // with a deadline.
        entry.rescinded = true;
        let (channel, state, orphan) = (entry.id, entry.state, entry.orphan);
        let (instance, primary) = (entry.offer.instance(), entry.is_primary());
        self.halt(channel);
        if primary {
            // CTL-41: they go first.
            self.orphan_subs(instance);
        }
        // What has lost its primary was taken back already.
        if !orphan {
            self.emit(Event::Rescinded { channel });
        }
        // A channel that the owner has never opened is not his to let go of.
        if state == State::Offered {
            self.release(channel);
        }
    }

    /// CTL-42: what was not said yet of an open or a move is not said any more.
    pub(super) fn halt(&mut self, channel: ChannelId) {
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        if let State::Opening { open_id, .. } = entry.state
            && self.outbox.withdraw(Asked::Open(open_id))
        {
            entry.state = State::Halted;
        }
        self.withdraw_move(channel);
    }

    /// Asks for the teardown of every GPADL of the channel, after CLOSECHANNEL;
    /// the relid is released behind the last answer (SYS-13).
    fn tear_down(&mut self, channel: ChannelId, now: u64) {
        let gpadls = self
            .table
            .gpadls
            .iter()
            .filter(|gpadl| gpadl.channel == channel);
        let numbers: alloc::vec::Vec<u32> = gpadls.map(|gpadl| gpadl.number).collect();
        for number in numbers {
            self.tear_down_one(number, now);
        }
    }

    fn tear_down_one(&mut self, number: u32, now: u64) {
        let Some(gpadl) = self.table.gpadl_mut(number) else {
            return;
        };
        let relid = gpadl.relid.number();
        match &mut gpadl.state {
            GpadlState::Creating { doomed, .. } => {
                *doomed = true;
                // The host has never heard of it: nothing is to be torn down.
                if self.outbox.withdraw(Asked::Gpadl(number)) {
                    self.gpadl_gone(number, true);
                }
            }
            GpadlState::TearingDown { .. } => {}
            GpadlState::Created => {
                let deadline = now.saturating_add(REQUEST_DEADLINE);
                gpadl.state = GpadlState::TearingDown {
                    deadline,
                    asked: false,
                };
                self.say(Request::Teardown {
                    relid,
                    gpadl: number,
                });
            }
        }
    }

    /// A GPADL is torn down (`released`) or given up. The only way, but for the
    /// end of the connection, by which memory goes back to its owner (GPD-14).
    pub(super) fn gpadl_gone(&mut self, number: u32, released: bool) {
        let Some(gpadl) = self.table.remove_gpadl(number) else {
            return;
        };
        self.memory_free(number, released);
        if !released && let Some(entry) = self.table.get(gpadl.channel) {
            entry.leaked = true;
            entry.life.leaked = entry.life.leaked.saturating_add(1);
        }
        self.closed(gpadl.channel);
    }

    /// Ends a closing channel once nothing of it is outstanding, and nothing of its
    /// sub-channels.
    pub(super) fn closed(&mut self, channel: ChannelId) {
        if self.table.has_gpadls(channel) {
            return;
        }
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        if entry.state != State::Closing || entry.moving.is_some() {
            return;
        }
        let (instance, primary) = (entry.offer.instance(), entry.is_primary());
        if primary && self.table.subs(instance).any(Entry::is_busy) {
            return;
        }
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        entry.life.closed = entry.life.closed.saturating_add(1);
        if entry.leaked {
            // An answer is still out: the relid can never be released (CTL-43).
            entry.state = State::Broken;
            self.emit(Event::Lost { channel });
        } else if entry.rescinded {
            self.release(channel);
        } else {
            entry.state = State::Offered;
            self.emit(Event::Closed { channel });
        }
        if !primary {
            self.primary_closed(instance);
        }
    }

    /// Lets the host use the relid again, once, as the last word about the
    /// channel (CTL-43).
    pub(super) fn release(&mut self, channel: ChannelId) {
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        let relid = entry.relid();
        let (instance, primary) = (entry.offer.instance(), entry.is_primary());
        if primary {
            self.release_subs(instance);
        }
        self.table.remove(channel);
        self.say(Request::Release { relid });
        self.emit(Event::Released { channel });
    }

    pub(super) fn expire_gpadls(&mut self, now: u64) {
        let late = |gpadl: &&GpadlEntry| gpadl.deadline().is_some_and(|deadline| deadline <= now);
        while let Some(gpadl) = self.table.gpadls.iter().find(late).copied() {
            let created = !matches!(gpadl.state, GpadlState::Creating { .. });
            let rule = if created { Rule::GPD_06 } else { Rule::CTL_50 };
            let violation = Violation::new(rule, 0, gpadl.number);
            self.counters.violation(violation);
            let unheard = self.outbox.withdraw(Asked::Gpadl(gpadl.number));
            if !created {
                self.gpadl_failed(&gpadl, violation);
            }
            self.gpadl_gone(gpadl.number, unheard);
        }
    }

    pub(super) fn expire_opens(&mut self, now: u64) {
        let late = |entry: &&Entry| entry.deadline().is_some_and(|deadline| deadline <= now);
        while let Some(entry) = self.table.channels.iter().find(late).copied() {
            let violation = Violation::new(Rule::CTL_50, 0, entry.relid());
            self.counters.violation(violation);
            if let Some(entry) = self.table.get(entry.id) {
                entry.state = State::Closing;
            }
            self.emit(Event::OpenFailed {
                channel: entry.id,
                violation,
            });
            let State::Opening { open_id, .. } = entry.state else {
                continue;
            };
            if !self.outbox.withdraw(Asked::Open(open_id)) {
                // The host may think it open: close, and take the rings back if it
                // answers.
                self.say(Request::Close {
                    relid: entry.relid(),
                });
            }
            self.tear_down(entry.id, now);
        }
    }
}

/// What the long OPENCHANNEL says: with both features our own connection id,
/// else the offer's. The event flag is the relid in any case.
fn wiring(entry: &Entry, features: Features) -> Option<Wiring> {
    let both = Features::GUEST_SIGNAL_PARAMETERS.union(Features::INTERRUPT_REDIRECTION);
    if !features.intersects(both) {
        return None;
    }
    let own = entry
        .relid()
        .wrapping_add(REDIRECTED_CHANNEL_CONNECTION_BASE);
    Some(Wiring {
        connection_id: if features.contains(both) {
            own
        } else {
            entry.offer.connection_id()
        },
        event_flag: entry.offer.relid().flag(),
        redirect: features.contains(Features::INTERRUPT_REDIRECTION),
    })
}
