//! The guest's side of the uplink.

use devices::{Machine, NoBuffer};
use memory::GuestMemory;
use netvsc::Delivery;

/// Whoever the frames are for.
pub trait Guest {
    /// A frame from the host.
    fn deliver(&mut self, frame: &[u8]) -> Delivery;
    /// The next frame for the host, copied into `buffer`; its length.
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize>;
    /// The link went up or down.
    fn set_link(&mut self, up: bool);
}

/// No guest yet: frames are lost, as on a cable that nobody has plugged in.
pub struct Nobody;

impl Guest for Nobody {
    fn deliver(&mut self, _: &[u8]) -> Delivery {
        Delivery::Taken
    }
    fn take(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn set_link(&mut self, _: bool) {}
}

/// The guest's machine with its memory.
pub struct InVm<'a, G> {
    /// Its devices.
    pub machine: &'a mut Machine,
    /// Its RAM.
    pub memory: &'a G,
}

impl<G: GuestMemory> Guest for InVm<'_, G> {
    fn deliver(&mut self, frame: &[u8]) -> Delivery {
        match self.machine.deliver_rx(self.memory, frame) {
            Ok(()) => Delivery::Taken,
            Err(NoBuffer) => Delivery::Wait,
        }
    }
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.machine.take_tx(self.memory, buffer)
    }
    fn set_link(&mut self, up: bool) {
        self.machine.set_link(up);
    }
}
