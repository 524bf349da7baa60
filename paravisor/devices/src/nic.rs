//! The network card that the machine was given.

use crate::e1000e::E1000e;
use crate::virtio::net::Net;
use crate::{MachineConfig, NicEvents, NicModel, NoBuffer};
use alloc::boxed::Box;
use memory::{GuestMemory, Parcel};
use validate::frame::{Arrived, Task};

/// One of the two cards. Both are at the same place of the PCI bus and have the same
/// interrupt pin.
#[expect(
    clippy::large_enum_variant,
    reason = "a machine has one card; virtio's, the fast one, needs no pointer to it"
)]
pub(crate) enum Nic {
    Virtio(Net),
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
            NicModel::Virtio => Nic::Virtio(Net::new(config)),
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

    /// Whether [`Nic::take_events`] has something to tell.
    pub(crate) fn has_events(&self) -> bool {
        match self {
            Nic::Virtio(net) => net.has_events(),
            Nic::E1000e(card) => card.has_events(),
        }
    }

    pub(crate) fn take_events(&mut self) -> NicEvents {
        match self {
            Nic::Virtio(net) => net.take_events(),
            Nic::E1000e(card) => card.take_events(),
        }
    }

    pub(crate) fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        match self {
            Nic::Virtio(net) => net.take_frame(guest, buf),
            Nic::E1000e(card) => card.take_frame(guest, buf),
        }
    }

    pub(crate) fn takes_pieces(&self) -> bool {
        matches!(self, Nic::Virtio(_))
    }

    pub(crate) fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), NoBuffer> {
        match self {
            Nic::Virtio(net) => net.deliver(guest, parcel, arrived),
            Nic::E1000e(card) => card.deliver_rx(guest, parcel.head()),
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
            Nic::Virtio(net) => Traffic {
                tx_frames: net.tx_frames,
                rx_frames: net.rx_frames,
                tx_dropped: net.tx_dropped,
                rx_dropped: net.rx_dropped,
                rx_filtered: 0,
                broken: net.transport.broken,
            },
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
