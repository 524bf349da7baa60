//! The network card that the machine was given.

use crate::e1000e::E1000e;
use crate::virtio::net::Net;
use crate::virtio::share::{Count, PairShare, Share};
use crate::{MachineConfig, NicEvents, NicModel, NoBuffer};
use alloc::boxed::Box;
use alloc::sync::Arc;
use memory::{GuestMemory, Parcel};
use validate::frame::{HashRequest, Task};

/// One of the two cards. Both are at the same place of the PCI bus and have the same
/// interrupt pin.
pub(crate) enum Nic {
    Virtio(Box<Net>),
    E1000e(Box<E1000e>),
}

/// Traffic, in the words of [`crate::Counters`].
pub(crate) struct Traffic {
    pub tx_frames: u64,
    pub rx_frames: u64,
    pub tx_dropped: u64,
    pub rx_dropped: u64,
    pub rx_filtered: u64,
    pub broken: u64,
}

impl Nic {
    pub(crate) fn new(config: &MachineConfig, model: NicModel) -> Nic {
        match model {
            NicModel::Virtio => Nic::Virtio(Box::new(Net::new(config))),
            NicModel::E1000e => Nic::E1000e(Box::new(E1000e::new(config))),
        }
    }

    pub(crate) fn config_read(&mut self, offset: usize, size: u8) -> u32 {
        match self {
            Nic::Virtio(net) => net.transport.config_read(offset, size),
            Nic::E1000e(card) => card.config_read(offset, size),
        }
    }

    pub(crate) fn config_write(&mut self, offset: usize, size: u8, value: u32) {
        match self {
            Nic::Virtio(net) => net.transport.config_write(offset, size, value),
            Nic::E1000e(card) => card.config_write(offset, size, value),
        }
    }

    pub(crate) fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
        match self {
            Nic::Virtio(net) => net.transport.decode(gpa),
            Nic::E1000e(card) => card.decode(gpa),
        }
    }

    pub(crate) fn bar_read(&mut self, bar: u8, offset: u64, size: u8, now: u64) -> u64 {
        match self {
            Nic::Virtio(net) => net.transport.bar_read(bar, offset, size),
            Nic::E1000e(card) => card.bar_read(bar, offset, size, now),
        }
    }

    pub(crate) fn bar_write(&mut self, bar: u8, offset: u64, size: u8, value: u64, now: u64) {
        match self {
            Nic::Virtio(net) => net.transport.bar_write(bar, offset, size, value),
            Nic::E1000e(card) => card.bar_write(bar, offset, size, value, now),
        }
    }

    pub(crate) fn next_message(&mut self) -> Option<(u64, u32)> {
        match self {
            Nic::Virtio(net) => net.transport.next_message(),
            Nic::E1000e(card) => card.next_message(),
        }
    }

    pub(crate) fn intx(&mut self) -> bool {
        match self {
            Nic::Virtio(net) => net.transport.intx(),
            Nic::E1000e(card) => card.intx(),
        }
    }

    pub(crate) fn advance(&mut self, now: u64) {
        match self {
            Nic::Virtio(_) => {}
            Nic::E1000e(card) => card.advance(now),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        match self {
            Nic::Virtio(_) => None,
            Nic::E1000e(card) => card.next_deadline(),
        }
    }

    /// What is seen of a card whose queues have owners.
    pub(crate) fn share(&self) -> Option<&Arc<Share>> {
        match self {
            Nic::Virtio(net) => Some(net.transport.share()),
            Nic::E1000e(_) => None,
        }
    }

    /// Whether [`Nic::take_events`] has something to tell.
    pub(crate) fn has_events(&self) -> bool {
        match self {
            Nic::Virtio(_) => false,
            Nic::E1000e(card) => card.has_events(),
        }
    }

    /// Of a card whose queues have no owners.
    pub(crate) fn take_events(&mut self) -> NicEvents {
        match self {
            Nic::Virtio(_) => NicEvents::default(),
            Nic::E1000e(card) => card.take_events(),
        }
    }

    /// Processors that have something to look at, by bits.
    pub(crate) fn take_calls(&mut self) -> u64 {
        match self {
            Nic::Virtio(net) => net.transport.take_calls(),
            Nic::E1000e(card) => u64::from(card.has_events()),
        }
    }

    /// Does what the driver asks for at the control queue.
    pub(crate) fn serve_control(&mut self, guest: &impl GuestMemory) {
        if let Nic::Virtio(net) = self {
            net.serve_control(guest);
        }
    }

    /// The hashes that the driver wants to know.
    pub(crate) fn hash_request(&self) -> Option<HashRequest> {
        match self {
            Nic::Virtio(net) => net.hash_request(),
            Nic::E1000e(_) => None,
        }
    }

    /// Tells the driver by INTA that buffers of a queue were used.
    pub(crate) fn interrupt_queue(&mut self, queue: u16) {
        if let Nic::Virtio(net) = self {
            net.transport.interrupt_queue(queue);
        }
    }

    /// The driver broke a rule in a queue of this ticket.
    pub(crate) fn set_broken_by(&mut self, ticket: u64) {
        if let Nic::Virtio(net) = self {
            net.transport.set_broken_by(ticket);
        }
    }

    /// A frame of a card whose queues have no owners.
    pub(crate) fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        match self {
            Nic::Virtio(_) => None,
            Nic::E1000e(card) => card.take_frame(guest, buf),
        }
    }

    /// Whether a card whose queues have no owners takes frames in pieces.
    pub(crate) fn takes_pieces(&self) -> bool {
        match self {
            Nic::Virtio(_) => false,
            Nic::E1000e(card) => card.takes_pieces(),
        }
    }

    /// A frame for a card whose queues have no owners.
    pub(crate) fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
    ) -> Result<(), NoBuffer> {
        match self {
            Nic::Virtio(_) => Err(NoBuffer),
            Nic::E1000e(card) => card.deliver(guest, parcel),
        }
    }

    pub(crate) fn set_link(&mut self, up: bool) {
        match self {
            Nic::Virtio(net) => net.set_link(up),
            Nic::E1000e(card) => card.set_link(up),
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        match self {
            Nic::Virtio(net) => {
                let pairs = net.transport.share().pairs();
                let sum = |count: fn(&PairShare) -> &Count| {
                    let counts = pairs.iter().map(|pair| count(pair).get());
                    counts.fold(0u64, u64::saturating_add)
                };
                Traffic {
                    tx_frames: sum(|pair| &pair.tx_frames),
                    rx_frames: sum(|pair| &pair.rx_frames),
                    tx_dropped: sum(|pair| &pair.tx_dropped),
                    rx_dropped: sum(|pair| &pair.rx_dropped),
                    rx_filtered: 0,
                    broken: net.transport.broken,
                }
            }
            Nic::E1000e(card) => Traffic {
                tx_frames: card.tx_frames,
                rx_frames: card.rx_frames,
                tx_dropped: card.tx_dropped,
                rx_dropped: card.rx_dropped,
                rx_filtered: card.rx_filtered,
                broken: card.broken,
            },
        }
    }
}
