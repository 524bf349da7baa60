//! The network card as the owner of a processor works it: its own queue pair, without a
//! lock as long as nothing but frames comes by.

use super::Machine;
use crate::interrupt::apics::Apics;
use crate::interrupt::{Deliver, Message};
use crate::virtio::net::{Pair, takes_joined};
use crate::virtio::share::Raised;
use crate::{Counters, NicEvents, NoBuffer};
use abi::virtio::net;
use memory::{GuestMemory, Parcel};
use validate::frame::{Arrived, HashRequest, Task};

impl Machine {
    /// Queue pairs that the driver uses, from the first on: 1 until it chose more. To be
    /// asked by any processor.
    pub fn queue_pairs_in_use(&self) -> u16 {
        self.board.card.as_ref().map_or(1, |card| card.in_use())
    }

    /// The hashes that the guest's driver wants to know with its frames, if it wants any: a
    /// reset of the card ends that.
    pub fn hash_request(&self) -> Option<HashRequest> {
        self.board.card.as_ref()?;
        self.board.lock().nic.hash_request()
    }

    /// What happened at the NIC, as far as this processor's queue pair is concerned;
    /// asking takes the events.
    pub fn take_nic_events(&mut self) -> NicEvents {
        if let Some(pair) = &mut self.pair {
            let (events, control) = pair.take_events();
            self.control_due |= control;
            events
        } else if self.card_behind_lock() {
            self.board.lock().nic.take_events()
        } else {
            NicEvents::default()
        }
    }

    /// Does what the driver asks for at the NIC's control queue, if it asks: on the first
    /// processor, in each turn with attention. The driver may wait for it without doing
    /// anything else.
    pub fn serve_nic(&mut self, guest: &impl GuestMemory) {
        let rung = self.place.id == 0
            && self
                .pair
                .as_ref()
                .is_some_and(|pair| pair.take_control_event());
        if core::mem::take(&mut self.control_due) || rung {
            self.with_devices(|devices, _| devices.nic.serve_control(guest));
        }
    }

    /// Whether this processor serves a card that has no queue pairs of their own.
    fn card_behind_lock(&self) -> bool {
        self.place.id == 0 && self.board.card.is_none()
    }

    /// A doorbell was rung: its owner is to look.
    pub(super) fn ring(&mut self, offset: u64) {
        let queue = u16::try_from(offset / net::DOORBELL_STRIDE).unwrap_or(u16::MAX);
        let card = self.board.card.as_ref();
        if let Some(pair) = card.and_then(|card| card.ring(queue)) {
            self.call_those(1u64.wrapping_shl(pair.into()));
        }
    }

    /// What the work on the own pair leaves to do.
    fn settle(&mut self) {
        let Some(pair) = &mut self.pair else {
            return;
        };
        let owed = pair.take_owed();
        let index = pair.index();
        for (which, raised) in (0..).zip(pair.raise(&owed)) {
            match raised {
                Raised::Nothing => {}
                Raised::Message((address, data)) => {
                    let mut apics = Apics {
                        own: &mut self.lapic,
                        posts: &self.board.posts,
                        kicks: &mut self.kicks,
                    };
                    if let Some(message) = Message::from_msi(address, data) {
                        apics.deliver(message);
                    }
                }
                Raised::Line => {
                    let queue = index.saturating_mul(2).saturating_add(which);
                    self.with_devices(|devices, _| devices.nic.interrupt_queue(queue));
                }
            }
        }
        if let Some(ticket) = owed.broken {
            self.with_devices(|devices, _| devices.nic.set_broken_by(ticket));
        }
    }

    /// Tells the guest of all frames that [`Machine::take_frame`] and
    /// [`Machine::deliver`] have moved since the last time, with one interrupt for each
    /// direction at most. Who moves frames calls it before the guest runs again.
    pub fn publish(&mut self, guest: &impl GuestMemory) {
        if let Some(pair) = &mut self.pair {
            pair.publish(guest);
            self.settle();
        }
    }

    /// What cannot wait for the end of a burst: the card stops, and before it the guest
    /// hears of what was right.
    fn publish_if_broken(&mut self, guest: &impl GuestMemory) {
        if self.pair.as_ref().is_some_and(Pair::is_broken) {
            self.publish(guest);
        }
    }

    /// The next frame that the guest sends, copied into `buf` without the
    /// card's header: its length, and what the guest leaves to its card. Frames that do not
    /// fit `buf` or ask for what cannot be are dropped and counted. `None`: nothing
    /// to send now; the guest will ring (`tx_kicked`) when there is. That a frame was
    /// taken the guest may learn by [`Machine::publish`] only.
    pub fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        if self.control_due {
            self.serve_nic(guest);
        }
        if let Some(pair) = &mut self.pair {
            let taken = pair.take_frame(guest, buf);
            self.publish_if_broken(guest);
            taken
        } else if self.card_behind_lock() {
            self.with_devices(|devices, _| devices.nic.take_frame(guest, buf))
        } else {
            None
        }
    }

    /// [`Machine::take_frame`] for a guest that leaves nothing to its card, which is
    /// told at once.
    pub fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        let taken = self.take_frame(guest, buf);
        self.publish(guest);
        taken.map(|(len, _)| len)
    }

    /// Gives a frame (from the destination MAC on, without FCS) to the guest, written
    /// straight into its buffers. Frames longer than MTU + 18 bytes, and those for
    /// which the guest's next buffer is too small, are dropped and counted. After
    /// `NoBuffer` nothing of the parcel has been written. The guest may learn of the
    /// frame by [`Machine::publish`] only.
    pub fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), NoBuffer> {
        if let Some(pair) = &mut self.pair {
            let delivered = pair.deliver(guest, parcel, arrived);
            self.publish_if_broken(guest);
            delivered
        } else if self.card_behind_lock() {
            self.with_devices(|devices, _| devices.nic.deliver(guest, parcel))
        } else {
            Err(NoBuffer)
        }
    }

    /// Whether the card writes frames to the guest piece by piece; else
    /// [`Machine::deliver`] wants them private and whole.
    pub fn takes_pieces(&self) -> bool {
        self.board.card.is_some() || self.card_behind_lock() && self.board.lock().nic.takes_pieces()
    }

    /// Whether the guest's driver takes segments of TCP that were joined, over IPv4 and
    /// over IPv6 ([`Arrived::joined`]). Others are dropped and counted.
    pub fn takes_joined(&self) -> [bool; 2] {
        let card = self.board.card.as_ref();
        card.map_or([false; 2], |card| takes_joined(card.features()))
    }

    /// [`Machine::deliver`] for a frame that is private and of which nothing is known;
    /// the guest is told at once.
    pub fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer> {
        let delivered = self.deliver(guest, &mut Parcel::private(frame), Arrived::default());
        self.publish(guest);
        delivered
    }

    /// Tells the guest that the link went up or down.
    pub fn set_link(&mut self, up: bool) {
        self.with_devices(|devices, _| devices.nic.set_link(up));
    }

    /// Counters since start: the devices' and this processor's.
    pub fn counters(&self) -> Counters {
        let devices = self.board.lock();
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
            registers: self.registers,
        }
    }
}
