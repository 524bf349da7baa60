//! Ties the NIC of the host to the network device of the guest: frames both
//! ways, back-pressure, link state, reset.
//!
//! * To the guest: a frame for which the guest has no buffer stays where it is
//!   (in the ring and the receive buffer) for a short time; then frames are
//!   dropped and counted until the guest has buffers again.
//! * To the host: a frame stays in the guest's queue until the host has room; one
//!   that was taken already waits in private memory.
//! * No frame is lost without a count ([`Counters`], or the device's).
//!
//! The relay parses nothing and knows no registers. Times are in units of
//! 100 ns of the partition's reference clock.
#![no_std]
#![forbid(unsafe_code)]
// Tests may panic: it is how they fail.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

mod budget;
pub mod limits;
mod sides;
#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use memory::Parcel;
use netvsc::{Delivery, Event, Sending, TransmitError};
use validate::Violation;
use validate::frame::Arrived;
use vmbus::Signal;

use budget::Pace;

pub use budget::ResetBudget;
pub use sides::{Host, InVm, NetDevice, SubHost, Unplugged, Uplink};

/// What the relay counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames given to the device.
    pub rx_frames: u64,
    /// Frames that the guest had no buffer for, for too long.
    pub rx_dropped_no_buffer: u64,
    /// Frames that came while the guest's link is down.
    pub rx_dropped_link_down: u64,
    /// Frames that came while there is no device.
    pub rx_dropped_unplugged: u64,
    /// Times that a frame had to wait for a buffer of the guest.
    pub rx_waits: u64,
    /// Times that frames had to wait because the guest was interrupted often enough
    /// (SYS-07).
    pub rx_paced: u64,
    /// Frames given to the NIC.
    pub tx_frames: u64,
    /// Times that the NIC had no room for a frame.
    pub tx_waits: u64,
    /// Frames of a length that the NIC does not take.
    pub tx_dropped_length: u64,
    /// Frames that were under way when the NIC ended, or came after that.
    pub tx_dropped_no_nic: u64,
    /// Frames that were under way when the guest reset its device.
    pub tx_dropped_reset: u64,
}

impl Counters {
    /// Adds those of another relay.
    pub fn add(&mut self, other: &Counters) {
        for (sum, count) in [
            (&mut self.rx_frames, other.rx_frames),
            (&mut self.rx_dropped_no_buffer, other.rx_dropped_no_buffer),
            (&mut self.rx_dropped_link_down, other.rx_dropped_link_down),
            (&mut self.rx_dropped_unplugged, other.rx_dropped_unplugged),
            (&mut self.rx_waits, other.rx_waits),
            (&mut self.rx_paced, other.rx_paced),
            (&mut self.tx_frames, other.tx_frames),
            (&mut self.tx_waits, other.tx_waits),
            (&mut self.tx_dropped_length, other.tx_dropped_length),
            (&mut self.tx_dropped_no_nic, other.tx_dropped_no_nic),
            (&mut self.tx_dropped_reset, other.tx_dropped_reset),
        ] {
            *sum = sum.saturating_add(count);
        }
    }
}

/// How the NIC ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// An orderly stop is complete.
    Stopped,
    /// This rule was broken.
    Failed(Violation),
}

/// What a poll did and what it leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Polled {
    /// Packets or frames were moved.
    pub worked: bool,
    /// A budget ended the poll: there is more to do at once.
    pub more: bool,
    /// Whether the host must be signalled.
    pub signal: Signal,
    /// The host is being asked for so many sub-channels
    /// ([`Event::SubChannelsAsked`]).
    pub asked: Option<u16>,
    /// It has granted so many.
    pub granted: Option<u16>,
    /// The NIC became ready, with this address and MTU.
    pub ready: Option<([u8; 6], u32)>,
    /// The NIC ended: the owner closes its channel.
    pub ended: Option<Ended>,
}

/// The state between the two sides.
pub struct Relay {
    /// Private copy of a frame of the guest.
    frame: Vec<u8>,
    /// The first bytes of `frame` are one that the NIC had no room for.
    held: Option<(usize, Sending)>,
    /// Since when the guest has no buffer.
    no_buffer_since: Option<u64>,
    /// How often the guest may be interrupted for frames.
    pace: Pace,
    /// A frame of this poll has reached the guest.
    burst: bool,
    /// A frame waits for the next interval of the pace.
    paced: bool,
    /// The link as the host says.
    host_link: bool,
    /// The link as the guest was told.
    guest_link: bool,
    /// The guest's link stays down until then.
    bounce: Option<u64>,
    /// The NIC has been ready, so frames after its end have nowhere to go.
    ended: bool,
    counters: Counters,
}

impl Default for Relay {
    fn default() -> Self {
        Relay::new()
    }
}

impl Relay {
    /// A relay for a device whose link is down.
    pub fn new() -> Relay {
        Relay {
            frame: vec![0; limits::FRAME],
            held: None,
            no_buffer_since: None,
            pace: Pace::new(),
            burst: false,
            paced: false,
            host_link: false,
            guest_link: false,
            bounce: None,
            ended: false,
            counters: Counters::default(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Frames of the guest that were taken and wait for room in the NIC.
    pub fn held(&self) -> u64 {
        self.held.is_some().into()
    }

    /// When [`Relay::poll`] must be called at the latest, if nothing happens.
    pub fn next_deadline(&self, host: &impl Uplink) -> Option<u64> {
        let hold = self
            .no_buffer_since
            .map(|since| since.saturating_add(limits::RX_HOLD));
        let pace = self.paced.then_some(self.pace.renewed_at());
        [host.next_deadline(), hold, pace, self.bounce]
            .into_iter()
            .flatten()
            .min()
    }

    /// The guest's driver reset its device: frames of the old one are gone.
    pub fn device_reset(&mut self) {
        if self.held.take().is_some() {
            count(&mut self.counters.tx_dropped_reset);
        }
        self.no_buffer_since = None;
    }

    /// Another device takes the place of the one so far; its link is down until
    /// the next poll says otherwise.
    pub fn device_attached(&mut self) {
        self.device_reset();
        self.guest_link = false;
    }

    /// Whether the guest sees its link up.
    pub fn link_up(&self) -> bool {
        self.guest_link
    }

    /// A new NIC takes the place of one that ended.
    pub fn nic_replaced(&mut self) {
        self.ended = false;
    }

    /// Moves what can be moved. `budget` bounds the frames taken from the guest
    /// ([`limits::TX_PER_POLL`]); the NIC has its own for the other way.
    pub fn poll(
        &mut self,
        host: &mut impl Uplink,
        device: &mut impl NetDevice,
        now: u64,
        budget: usize,
    ) -> Polled {
        let before = self.counters;
        self.burst = false;
        self.paced = false;
        let whole = !device.takes_pieces();
        let taken = host.poll(now, whole, |parcel, arrived| {
            self.deliver(device, parcel, arrived, now)
        });
        let mut polled = Polled {
            worked: taken.packets != 0,
            more: taken.more,
            signal: taken.signal,
            asked: None,
            granted: None,
            ready: None,
            ended: None,
        };
        self.take_events(host, now, &mut polled);
        self.show_link(device, now);
        polled.more |= self.send(host, device, now, budget);
        // However the poll went, nothing stays that the guest does not know of.
        device.publish();
        polled.signal = polled.signal.or(host.flush());
        polled.worked |= self.counters != before;
        polled
    }

    fn take_events(&mut self, host: &mut impl Uplink, now: u64, polled: &mut Polled) {
        // Sub-channels asked for and granted, ready, link, network and end: a NIC has
        // no more than these at a time.
        for _ in 0..6 {
            match host.take_event(now) {
                None => return,
                Some(Event::SubChannelsAsked { count }) => polled.asked = Some(count),
                Some(Event::SubChannels { count }) => polled.granted = Some(count),
                Some(Event::Ready { mac, mtu }) => polled.ready = Some((mac, mtu)),
                Some(Event::Link { up }) => self.host_link = up,
                Some(Event::NetworkChange) => {
                    self.bounce = Some(now.saturating_add(limits::LINK_BOUNCE));
                }
                Some(Event::Failed(violation)) => {
                    self.end(Ended::Failed(violation), polled);
                }
                Some(Event::Stopped) => self.end(Ended::Stopped, polled),
            }
        }
    }

    fn end(&mut self, ended: Ended, polled: &mut Polled) {
        polled.ended = Some(ended);
        self.ended = true;
        self.host_link = false;
        self.bounce = None;
        self.no_buffer_since = None;
        self.paced = false;
        if self.held.take().is_some() {
            count(&mut self.counters.tx_dropped_no_nic);
        }
    }

    /// The guest sees a link that is up if the host says so and no bounce is
    /// under way.
    fn show_link(&mut self, device: &mut impl NetDevice, now: u64) {
        if self.bounce.is_some_and(|until| now >= until) {
            self.bounce = None;
        }
        let up = self.host_link && self.bounce.is_none();
        if up != self.guest_link {
            self.guest_link = up;
            device.set_link(up);
        }
    }

    /// A frame for the guest.
    fn deliver(
        &mut self,
        device: &mut impl NetDevice,
        parcel: &mut Parcel<'_>,
        arrived: Arrived,
        now: u64,
    ) -> Delivery {
        if !device.is_plugged() {
            count(&mut self.counters.rx_dropped_unplugged);
            return Delivery::Taken;
        }
        if !self.guest_link {
            count(&mut self.counters.rx_dropped_link_down);
            return Delivery::Taken;
        }
        if !self.burst && !self.pace.allows(now) {
            // SYS-07: it stays in the ring until the guest may be interrupted again.
            self.paced = true;
            count(&mut self.counters.rx_paced);
            return Delivery::Wait;
        }
        if device.deliver(parcel, arrived).is_ok() {
            if !core::mem::replace(&mut self.burst, true) {
                self.pace.spend();
            }
            self.no_buffer_since = None;
            count(&mut self.counters.rx_frames);
            return Delivery::Taken;
        }
        let since = match self.no_buffer_since {
            Some(since) => since,
            None => {
                self.no_buffer_since = Some(now);
                count(&mut self.counters.rx_waits);
                now
            }
        };
        if now.saturating_sub(since) < limits::RX_HOLD {
            return Delivery::Wait;
        }
        count(&mut self.counters.rx_dropped_no_buffer);
        Delivery::Taken
    }

    /// Frames of the guest; whether the budget ended it.
    fn send(
        &mut self,
        host: &mut impl Uplink,
        device: &mut impl NetDevice,
        now: u64,
        budget: usize,
    ) -> bool {
        if !host.is_ready() && !self.ended {
            // Still coming up: the frames wait in the guest's queue.
            return false;
        }
        for _ in 0..budget {
            let taken = self.held.take().or_else(|| {
                let (len, task) = device.take_frame(&mut self.frame)?;
                Some((len, Sending::new(task)))
            });
            let Some((len, mut sending)) = taken else {
                return false;
            };
            let Some(frame) = self.frame.get_mut(..len) else {
                count(&mut self.counters.tx_dropped_length);
                continue;
            };
            match host.transmit(frame, &mut sending, now) {
                Ok(()) => count(&mut self.counters.tx_frames),
                Err(TransmitError::Full) => {
                    self.held = Some((len, sending));
                    count(&mut self.counters.tx_waits);
                    return false;
                }
                Err(TransmitError::BadLength) => count(&mut self.counters.tx_dropped_length),
                Err(TransmitError::NotReady) => count(&mut self.counters.tx_dropped_no_nic),
            }
        }
        true
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
