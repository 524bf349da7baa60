//! MODIFYCHANNEL: a channel's interrupts move to another VP.

use super::outbox::{Asked, Request};
use super::table::{ChannelId, Entry, Move, State};
use super::{Client, Event, RequestError};
use crate::limits::REQUEST_DEADLINE;
use abi::vmbus::Version;
use validate::control::Relid;
use validate::{Rule, Violation};

impl Client {
    /// Has the interrupts of an open channel sent to `vp`. Ends with
    /// [`Event::Moved`] or [`Event::MoveFailed`], unless the channel is closed or
    /// rescinded before. Hosts answer from 5.3 on (Linux
    /// `vmbus_send_modifychannel`); for older ones see [`Event::Moved`].
    pub fn modify(&mut self, channel: ChannelId, vp: u32, now: u64) -> Result<(), RequestError> {
        self.usable(channel, |state| state == State::Open)?;
        let answered = self.version >= Version::V5_3;
        let entry = self.table.get(channel).ok_or(RequestError::State)?;
        if entry.moving.is_some() {
            return Err(RequestError::State);
        }
        if answered {
            entry.moving = Some(Move {
                vp,
                deadline: now.saturating_add(REQUEST_DEADLINE),
                asked: false,
            });
        } else {
            entry.vp = vp;
        }
        let relid = entry.relid();
        self.say(Request::Modify {
            relid,
            vp,
            answered,
        });
        if !answered {
            let sure = false;
            self.emit(Event::Moved { channel, vp, sure });
        }
        Ok(())
    }

    /// The VP that gets the channel's interrupts, as far as the host has said.
    pub fn target_vp(&self, channel: ChannelId) -> Option<u32> {
        let mut channels = self.table.channels.iter();
        channels
            .find(|entry| entry.id == channel)
            .map(|entry| entry.vp)
    }

    /// The host has answered.
    pub(super) fn moved(&mut self, relid: Relid, refused: Option<Violation>) {
        if let Some(violation) = refused {
            self.counters.violation(violation);
        }
        let Some(entry) = self.table.by_relid_mut(relid) else {
            return;
        };
        let Some(moving) = entry.moving.take() else {
            return;
        };
        let channel = entry.id;
        // The old one stays in place if the host has refused (CTL-52).
        if refused.is_none() {
            entry.vp = moving.vp;
        }
        let wanted = entry.state == State::Open && !entry.rescinded && !entry.orphan;
        if wanted {
            let vp = moving.vp;
            self.emit(match refused {
                None => Event::Moved {
                    channel,
                    vp,
                    sure: true,
                },
                Some(violation) => Event::MoveFailed { channel, violation },
            });
        }
        // The channel's end may have waited for the answer (CTL-43).
        self.closed(channel);
    }

    /// A request that the host has not heard is not said any more.
    pub(super) fn withdraw_move(&mut self, channel: ChannelId) {
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        let relid = entry.relid();
        if entry.moving.is_some()
            && self.outbox.withdraw(Asked::Modify(relid))
            && let Some(entry) = self.table.get(channel)
        {
            entry.moving = None;
        }
    }

    pub(super) fn expire_moves(&mut self, now: u64) {
        let late = |entry: &&Entry| entry.moving.is_some_and(|moving| moving.deadline <= now);
        // Each round takes one of them away.
        while let Some(entry) = self.table.channels.iter().find(late) {
            let (channel, relid) = (entry.id, entry.relid());
            let violation = Violation::new(Rule::CTL_50, 0, relid);
            self.counters.violation(violation);
            self.outbox.withdraw(Asked::Modify(relid));
            let Some(entry) = self.table.get(channel) else {
                continue;
            };
            entry.moving = None;
            if entry.state == State::Open && !entry.rescinded && !entry.orphan {
                self.emit(Event::MoveFailed { channel, violation });
            }
            self.closed(channel);
        }
    }
}
