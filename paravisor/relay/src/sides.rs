//! The two sides that the relay ties together, as it sees them.

use devices::{Machine, NoBuffer};
use memory::{GuestMemory, SharedMemory};
use netvsc::{Delivery, Event, Nic, Polled, TransmitError};
use vmbus::{Channel, Signal};

/// A network device of the guest. Its interrupts are its own affair.
pub trait NetDevice {
    /// The next frame that the guest sends, copied once into `buf`; its length.
    /// `None`: nothing to send now. Frames that do not fit are dropped and
    /// counted by the device.
    fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize>;
    /// Gives a frame to the guest.
    fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer>;
    /// Tells the guest that its link is up or down.
    fn set_link(&mut self, up: bool);
}

impl NetDevice for Machine {
    fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        Machine::take_tx(self, guest, buf)
    }
    fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer> {
        Machine::deliver_rx(self, guest, frame)
    }
    fn set_link(&mut self, up: bool) {
        Machine::set_link(self, up);
    }
}

/// The host's side: a NIC on its channel ([`Host`]), or a double in tests.
pub trait Uplink {
    /// See [`Nic::poll`].
    fn poll(&mut self, now: u64, sink: impl FnMut(&[u8]) -> Delivery) -> Polled;
    /// See [`Nic::transmit`].
    fn transmit(&mut self, frame: &[u8], now: u64) -> Result<(), TransmitError>;
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
    fn poll(&mut self, now: u64, sink: impl FnMut(&[u8]) -> Delivery) -> Polled {
        self.nic.poll(self.channel, now, sink)
    }
    fn transmit(&mut self, frame: &[u8], now: u64) -> Result<(), TransmitError> {
        self.nic.transmit(self.channel, frame, now)
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
