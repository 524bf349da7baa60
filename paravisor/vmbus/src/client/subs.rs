//! Sub-channels: asked for, taken while they may come, and gone before their
//! primary.
//!
//! A sub-channel that has lost its primary is an orphan. The owner lets go of it
//! as of one that was rescinded; its relid is released when the host takes it
//! back, too, or in front of its primary's, or before others are asked for.

use super::table::{ChannelId, Entry, Open, State};
use super::{Client, Event, RequestError};
use crate::limits::{MAX_CHANNELS, MAX_SUB_CHANNELS, SUB_CHANNELS_DEADLINE};
use abi::vmbus::Guid;
use validate::control::{Offer, Window};
use validate::{Rule, Violation};

impl Client {
    /// The device of `primary` is being asked for `count` sub-channels. From now on
    /// they are taken, until all have come or
    /// [`SUB_CHANNELS_DEADLINE`] has passed: each is an [`Event::SubChannel`]. Must
    /// be called before the request can be answered; open none before the answer,
    /// which goes to [`Client::granted_sub_channels`].
    pub fn expect_sub_channels(
        &mut self,
        primary: ChannelId,
        count: u16,
        now: u64,
    ) -> Result<(), RequestError> {
        self.usable(primary, |state| state == State::Open)?;
        let entry = self.table.get(primary).ok_or(RequestError::State)?;
        if !entry.is_primary() {
            return Err(RequestError::State);
        }
        let instance = entry.offer.instance();
        // Those of an earlier request that the host has never taken back.
        self.release_subs(instance);
        if let Some(entry) = self.table.get(primary) {
            let count = count.min(MAX_SUB_CHANNELS);
            entry.window = Some(Open {
                window: Window { count, taken: 0 },
                until: now.saturating_add(SUB_CHANNELS_DEADLINE),
            });
        }
        Ok(())
    }

    /// The device has granted so many of those that were asked for. Others that
    /// have come break CTL-26 and are released.
    pub fn granted_sub_channels(&mut self, primary: ChannelId, count: u16) {
        let Some(entry) = self.table.get(primary) else {
            return;
        };
        let instance = entry.offer.instance();
        if let Some(open) = &mut entry.window {
            open.window.count = open.window.count.min(count);
        }
        self.close_window(primary);
        let mut last = None;
        while let Some(entry) = self.table.next_sub(instance, last) {
            let (channel, index) = (entry.id, entry.offer.index());
            last = Some(channel);
            if index <= count || entry.orphan || entry.rescinded {
                continue;
            }
            self.counters
                .violation(Violation::new(Rule::CTL_26, 180, index));
            self.orphan(channel);
            if self
                .table
                .get(channel)
                .is_some_and(|entry| !entry.is_busy())
            {
                self.release(channel);
            }
        }
    }

    /// Whether sub-channels of this channel may still come.
    pub fn expects_sub_channels(&mut self, primary: ChannelId, now: u64) -> bool {
        self.expire_windows(now);
        let entry = self.table.get(primary);
        entry.is_some_and(|entry| entry.window.is_some())
    }

    /// Requests whose time is over (NVS-39): what comes now comes unasked.
    pub(super) fn expire_windows(&mut self, now: u64) {
        for entry in &mut self.table.channels {
            if entry.window.is_some_and(|open| open.until <= now) {
                entry.window = None;
            }
        }
    }

    /// Ends a request to which all has come that was asked for.
    fn close_window(&mut self, primary: ChannelId) {
        if let Some(entry) = self.table.get(primary)
            && entry
                .window
                .is_some_and(|open| open.window.is_complete() || open.window.count == 0)
        {
            entry.window = None;
        }
    }

    /// Takes a sub-channel. Its place was judged.
    pub(super) fn sub_offered(&mut self, offer: Offer) {
        let instance = offer.instance();
        let primary = self.table.primary(&instance).map(|entry| entry.id);
        let Some(primary) = primary else {
            return;
        };
        if let Some(entry) = self.table.get(primary)
            && let Some(open) = &mut entry.window
        {
            open.window.take(offer.index());
        }
        self.close_window(primary);
        match self.table.add(offer) {
            Some(channel) => self.emit(Event::SubChannel {
                primary,
                channel,
                index: offer.index(),
            }),
            None => self.fail(Violation::new(Rule::CTL_28, 0, MAX_CHANNELS as u64)),
        }
    }

    /// The owner closes the primary: its sub-channels first (CTL-41).
    pub(super) fn close_subs(&mut self, instance: Guid, now: u64) {
        let mut last = None;
        while let Some(Entry { id: channel, .. }) = self.table.next_sub(instance, last) {
            last = Some(channel);
            if let Some(entry) = self.table.get(channel) {
                entry.orphan = true;
            }
            // In a state in which there is nothing to close, nothing is closed.
            let _ = self.close_one(channel, now);
        }
        self.end_window(instance);
    }

    /// The primary is rescinded: the owner is told of its sub-channels first.
    pub(super) fn orphan_subs(&mut self, instance: Guid) {
        let mut last = None;
        while let Some(Entry { id: channel, .. }) = self.table.next_sub(instance, last) {
            last = Some(channel);
            self.orphan(channel);
        }
        self.end_window(instance);
    }

    fn end_window(&mut self, instance: Guid) {
        for entry in &mut self.table.channels {
            if entry.is_primary() && entry.offer.instance() == instance {
                entry.window = None;
            }
        }
    }

    fn orphan(&mut self, channel: ChannelId) {
        let Some(entry) = self.table.get(channel) else {
            return;
        };
        let known = entry.orphan || entry.rescinded;
        entry.orphan = true;
        self.halt(channel);
        if !known {
            self.emit(Event::Rescinded { channel });
        }
    }

    /// Releases what is left of a card's sub-channels.
    pub(super) fn release_subs(&mut self, instance: Guid) {
        let mut last = None;
        while let Some(entry) = self.table.next_sub(instance, last) {
            last = Some(entry.id);
            if entry.state == State::Offered && !entry.is_busy() {
                self.release(entry.id);
            }
        }
    }

    /// A sub-channel is closed: its primary may have waited for that.
    pub(super) fn primary_closed(&mut self, instance: Guid) {
        let mut channels = self.table.channels.iter();
        let waits = channels.find(|entry| {
            entry.is_primary()
                && entry.offer.instance() == instance
                && entry.state == State::Closing
        });
        if let Some(primary) = waits.map(|entry| entry.id) {
            self.closed(primary);
        }
    }
}
