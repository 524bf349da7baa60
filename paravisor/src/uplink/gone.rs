//! The host's side after a NIC went away without a word of its own.

use memory::Parcel;
use netvsc::{Delivery, Event, Polled, Sending, TransmitError};
use relay::Uplink;
use validate::frame::Arrived;
use vmbus::Signal;

/// Says once that it has stopped, and nothing else.
pub(crate) struct Gone {
    told: bool,
}

impl Gone {
    pub(crate) fn new() -> Gone {
        Gone { told: false }
    }

    /// One that has said so before.
    pub(crate) fn known() -> Gone {
        Gone { told: true }
    }
}

impl Uplink for Gone {
    fn poll(
        &mut self,
        _: u64,
        _: bool,
        _: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> Polled {
        Polled {
            signal: Signal::NotNeeded,
            more: false,
            waiting: false,
            packets: 0,
        }
    }
    fn transmit(&mut self, _: &mut [u8], _: &mut Sending, _: u64) -> Result<(), TransmitError> {
        Err(TransmitError::NotReady)
    }
    fn flush(&mut self) -> Signal {
        Signal::NotNeeded
    }
    fn take_event(&mut self, _: u64) -> Option<Event> {
        (!core::mem::replace(&mut self.told, true)).then_some(Event::Stopped)
    }
    fn is_ready(&self) -> bool {
        false
    }
    fn next_deadline(&self) -> Option<u64> {
        None
    }
}
