//! The network card as the owner of a processor works it.

use super::Machine;
use crate::{Counters, NicEvents, NoBuffer};
use memory::{GuestMemory, Parcel};
use validate::frame::{Arrived, Task};

impl Machine {
    /// What happened at the NIC; asking takes the events.
    pub fn take_nic_events(&mut self) -> NicEvents {
        self.board.devices.lock().nic.take_events()
    }

    /// The next frame that the guest sends, copied into `buf` without the
    /// card's header: its length, and what the guest leaves to its card. Frames that do not
    /// fit `buf` or ask for what cannot be are dropped and counted. `None`: nothing
    /// to send now; the guest will ring (`tx_kicked`) when there is.
    pub fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        self.with_devices(|devices, _| devices.nic.take_frame(guest, buf))
    }

    /// [`Machine::take_frame`] for a guest that leaves nothing to its card.
    pub fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        self.take_frame(guest, buf).map(|(len, _)| len)
    }

    /// Gives a frame (from the destination MAC on, without FCS) to the guest, written
    /// straight into its buffers. Frames longer than MTU + 18 bytes, and those for
    /// which the guest's next buffer is too small, are dropped and counted. After
    /// `NoBuffer` nothing of the parcel has been written.
    pub fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), NoBuffer> {
        self.with_devices(|devices, _| devices.nic.deliver(guest, parcel, arrived))
    }

    /// Whether the card writes frames to the guest piece by piece; else
    /// [`Machine::deliver`] wants them private and whole.
    pub fn takes_pieces(&self) -> bool {
        self.board.devices.lock().nic.takes_pieces()
    }

    /// [`Machine::deliver`] for a frame that is private and of which nothing is known.
    pub fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer> {
        self.deliver(guest, &mut Parcel::private(frame), Arrived::default())
    }

    /// Tells the guest that the link went up or down.
    pub fn set_link(&mut self, up: bool) {
        self.with_devices(|devices, _| devices.nic.set_link(up));
    }

    /// Counters since start: the devices' and this processor's.
    pub fn counters(&self) -> Counters {
        let devices = self.board.devices.lock();
        let traffic = devices.nic.traffic();
        Counters {
            unknown_port: devices.unknown_port,
            unknown_mmio: devices.unknown_mmio,
            unknown_msr: self.unknown_msr,
            tx_frames: traffic.tx_frames,
            rx_frames: traffic.rx_frames,
            tx_dropped: traffic.tx_dropped,
            rx_dropped: traffic.rx_dropped,
            rx_filtered: traffic.rx_filtered,
            nic_broken: traffic.broken,
            console_lost: devices.uart.lost,
            ignored_interrupts: self.lapic.ignored_messages,
        }
    }
}
