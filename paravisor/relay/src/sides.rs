//! The two sides that the relay ties together, as it sees them.

use devices::{Machine, NoBuffer};
use memory::{GuestMemory, Parcel, SharedMemory};
use netvsc::{Delivery, Event, Lane, Nic, Polled, Sending, TransmitError};
use validate::frame::{Arrived, Task};
use vmbus::{Channel, Signal};

/// A network device of the guest. Its interrupts are its own affair.
pub trait NetDevice {
    /// The next frame that the guest sends, copied once into `buf`; its length.
    /// `None`: nothing to send now. Frames that do not fit are dropped and
    /// counted by the device.
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize>;
    /// As `take_tx`, from a device whose guest may leave checksums and segments to
    /// it: with what is left to do, judged on the copy ([`Task::judge`]). Such a
    /// device needs no `take_tx` of its own beside it.
    fn take_frame(&mut self, buf: &mut [u8]) -> Option<(usize, Task)> {
        self.take_tx(buf).map(|len| (len, Task::PLAIN))
    }
    /// Gives a frame to the guest.
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer>;
    /// Whether [`NetDevice::deliver`] takes frames that are not in a row, and writes
    /// them to the guest piece by piece. Otherwise each comes private and whole.
    fn takes_pieces(&self) -> bool {
        false
    }
    /// Whether the guest takes segments of TCP that were joined, over IPv4 and IPv6.
    fn takes_joined(&self) -> [bool; 2] {
        [false; 2]
    }
    /// As `deliver_rx`, with what is known about the frame. After `NoBuffer` nothing
    /// of the parcel has been written.
    fn deliver(&mut self, parcel: &mut Parcel<'_>, _: Arrived) -> Result<(), NoBuffer> {
        self.deliver_rx(parcel.head())
    }
    /// The end of a burst: the guest learns of all frames that were taken and delivered
    /// since the last one, if it did not learn before.
    fn publish(&mut self);
    /// Tells the guest that its link is up or down.
    fn set_link(&mut self, up: bool);
    /// Whether there is a device.
    fn is_plugged(&self) -> bool {
        true
    }
}

/// The NIC of the guest's machine, with the guest's memory.
pub struct InVm<'a, G> {
    /// The machine.
    pub machine: &'a mut Machine,
    /// Its RAM.
    pub memory: &'a G,
}

impl<G: GuestMemory> NetDevice for InVm<'_, G> {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        self.take_frame(buf).map(|(len, _)| len)
    }
    fn take_frame(&mut self, buf: &mut [u8]) -> Option<(usize, Task)> {
        self.machine.take_frame(self.memory, buf)
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer> {
        self.machine.deliver_rx(self.memory, frame)
    }
    fn takes_pieces(&self) -> bool {
        self.machine.takes_pieces()
    }
    fn takes_joined(&self) -> [bool; 2] {
        self.machine.takes_joined()
    }
    fn deliver(&mut self, parcel: &mut Parcel<'_>, arrived: Arrived) -> Result<(), NoBuffer> {
        self.machine.deliver(self.memory, parcel, arrived)
    }
    fn publish(&mut self) {
        self.machine.publish(self.memory);
    }
    fn set_link(&mut self, up: bool) {
        self.machine.set_link(up);
    }
}

/// No device yet: sends nothing, and what is sent to it is lost, as on a cable
/// that is not plugged in. Call [`Relay::device_attached`](crate::Relay::device_attached)
/// when a device takes its place.
pub struct Unplugged;

impl NetDevice for Unplugged {
    fn take_tx(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn deliver_rx(&mut self, _: &[u8]) -> Result<(), NoBuffer> {
        Ok(())
    }
    fn publish(&mut self) {}
    fn set_link(&mut self, _: bool) {}
    fn is_plugged(&self) -> bool {
        false
    }
}

/// The host's side: a NIC on its channel ([`Host`]), or a double in tests.
pub trait Uplink {
    /// See [`Nic::poll_parcels`].
    fn poll(
        &mut self,
        now: u64,
        whole: bool,
        sink: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> Polled;
    /// See [`Nic::transmit`].
    fn transmit(
        &mut self,
        frame: &mut [u8],
        sending: &mut Sending,
        now: u64,
    ) -> Result<(), TransmitError>;
    /// See [`Nic::flush`].
    fn flush(&mut self) -> Signal;
    /// See [`Nic::take_event`].
    fn take_event(&mut self, now: u64) -> Option<Event>;
    /// See [`Nic::is_ready`].
    fn is_ready(&self) -> bool;
    /// See [`Nic::next_deadline`].
    fn next_deadline(&self) -> Option<u64>;
}

/// A NIC and the channel that it lives on.
pub struct Host<'a, M, R> {
    /// The NIC.
    pub nic: &'a mut Nic<M>,
    /// Its channel.
    pub channel: &'a mut Channel<R>,
}

impl<M: SharedMemory, R: SharedMemory> Uplink for Host<'_, M, R> {
    fn poll(
        &mut self,
        now: u64,
        whole: bool,
        sink: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> Polled {
        self.nic.poll_parcels(self.channel, now, whole, sink)
    }
    fn transmit(
        &mut self,
        frame: &mut [u8],
        sending: &mut Sending,
        now: u64,
    ) -> Result<(), TransmitError> {
        self.nic.transmit(self.channel, frame, sending, now)
    }
    fn flush(&mut self) -> Signal {
        self.nic.flush(self.channel)
    }
    fn take_event(&mut self, now: u64) -> Option<Event> {
        self.nic.take_event(now)
    }
    fn is_ready(&self) -> bool {
        self.nic.is_ready()
    }
    fn next_deadline(&self) -> Option<u64> {
        self.nic.next_deadline()
    }
}

/// A sub-channel on a VP of its own. The link is the card's, of which the primary
/// hears: `link` is how it stands, `told` how the relay knows it.
pub struct SubHost<'a, M, R> {
    /// The lane.
    pub lane: &'a mut Lane<M>,
    /// Its channel.
    pub channel: &'a mut Channel<R>,
    /// Whether the card's link is up.
    pub link: bool,
    /// As it was told last.
    pub told: &'a mut bool,
}

impl<M: SharedMemory, R: SharedMemory> Uplink for SubHost<'_, M, R> {
    fn poll(
        &mut self,
        now: u64,
        whole: bool,
        sink: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> Polled {
        self.lane.poll_parcels(self.channel, now, whole, sink)
    }
    fn transmit(
        &mut self,
        frame: &mut [u8],
        sending: &mut Sending,
        now: u64,
    ) -> Result<(), TransmitError> {
        self.lane.transmit(self.channel, frame, sending, now)
    }
    fn flush(&mut self) -> Signal {
        self.lane.flush(self.channel)
    }
    fn take_event(&mut self, now: u64) -> Option<Event> {
        let event = self.lane.take_event(now);
        event.or_else(|| {
            let changed = core::mem::replace(self.told, self.link) != self.link;
            changed.then_some(Event::Link { up: self.link })
        })
    }
    fn is_ready(&self) -> bool {
        self.lane.is_ready()
    }
    fn next_deadline(&self) -> Option<u64> {
        self.lane.next_deadline()
    }
}
