//! Sub-channels: asked for at the end of the handshake, and each of them a lane of
//! its own for frames.
//!
//! A lane shares nothing that changes with the others: it has its rings, its part
//! of the send buffer's sections, its table of requests and its own view of the
//! receive buffer, of which it reads what the host puts on its channel. So it may
//! live on another processor. Control messages stay on the primary (NVS-48).

use crate::counters::Counters;
use crate::handshake::{FILTER, Phase};
use crate::limits;
use crate::nic::{Delivery, Event, Nic, Polled, TransmitError};
use crate::offload::Sending;
use crate::requests::{Request, Requests};
use abi::nvsp;
use memory::{OutOfRange, Parcel, SharedMemory};
use validate::Violation;
use validate::frame::{Arrived, HashKinds};
use validate::nvsp::Awaited;
use vmbus::{Channel, Signal};
use zerocopy::IntoBytes;

/// Operation of a sub-channel request.
const ALLOCATE: u32 = 1;

/// A host's receive scaling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Receive queues that it has.
    pub queues: u16,
    /// Entries of their table.
    pub table: u16,
    /// Hashes that it can make.
    pub hashes: HashKinds,
}

/// Sub-channels: what is known of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subs {
    /// What the host says of its receive scaling.
    pub scale: Option<Scale>,
    /// How many were granted.
    pub granted: u16,
    /// They are asked for, or need not be.
    pub settled: bool,
    asked_untold: Option<u16>,
    granted_untold: Option<u16>,
}

impl<M: SharedMemory> Nic<M> {
    /// How many sub-channels to ask for: what the owner wants, the host has, the send
    /// buffer has sections for and there is memory for, since the host chooses the size
    /// of a slot and each channel has room for a copy of one (SYS-02).
    pub(crate) fn wanted_sub_channels(&self) -> u16 {
        let queues = self.subs.scale.map_or(1, |scale| scale.queues);
        let sections = self.send.section_count();
        let lanes = sections
            .checked_div(limits::SECTIONS_PER_LANE)
            .unwrap_or(0)
            .min(queues);
        self.config
            .sub_channels
            .min(lanes.saturating_sub(1))
            .min(limits::sub_channels_for(self.receive.slot_size()))
    }

    pub(crate) fn ask_sub_channels<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let count = self.wanted_sub_channels();
        if count == 0 {
            self.subs.settled = true;
            self.enter(Phase::Rndis(FILTER), now);
            return Ok(());
        }
        let message = nvsp::SubChannelRequest {
            message_type: nvsp::message::SUB_CHANNEL.into(),
            operation: ALLOCATE.into(),
            count: u32::from(count).into(),
        };
        let request = Request {
            awaited: Awaited::SubChannels { count },
            sections: None,
            messages: 0,
            sent: now,
        };
        self.sent = self.send_request(channel, message.as_bytes(), request)?;
        if self.sent {
            self.subs.asked_untold = Some(count);
        }
        Ok(())
    }

    /// The host has answered. Sections are dealt out when none is under way.
    pub(crate) fn sub_channels_granted(&mut self, count: u16, now: u64) {
        self.subs.granted = count;
        self.subs.granted_untold = Some(count);
        self.enter(Phase::Share, now);
    }

    /// What the owner has to know of sub-channels, in front of everything else.
    pub(crate) fn sub_channel_event(&mut self) -> Option<Event> {
        if let Some(count) = self.subs.asked_untold.take() {
            return Some(Event::SubChannelsAsked { count });
        }
        let count = self.subs.granted_untold.take()?;
        Some(Event::SubChannels { count })
    }

    /// The lane for a sub-channel that was granted, of a NIC that is ready.
    /// `receive` and `send` are views of the NIC's buffers.
    pub fn lane<V: SharedMemory>(
        &self,
        index: u16,
        receive: V,
        send: V,
        now: u64,
    ) -> Result<Lane<V>, OutOfRange> {
        let fits = receive.len() == self.receive.len() && send.len() == self.send.len();
        let granted = (1..=self.subs.granted).contains(&index);
        if self.phase != Phase::Ready || !fits || !granted {
            return Err(OutOfRange);
        }
        let lanes = self.subs.granted.saturating_add(1);
        let send = self.send.view(send, index, lanes);
        let requests = Requests::for_sections(self.config.seed, index, send.own_sections());
        let receive = self.receive.view(receive, self.config.coalescing);
        let mut nic = Nic::unstarted(
            self.config,
            index,
            receive,
            send,
            requests,
            self.spread.of_lane(),
        );
        nic.phase = Phase::Ready;
        nic.entered = now;
        nic.next_scan = now.saturating_add(limits::DEADLINE_SCAN);
        nic.mac = self.mac;
        nic.mtu = self.mtu;
        nic.offloads = self.offloads;
        nic.allowed = self.allowed;
        // It is not told when that is switched on.
        nic.coalesce.expected = self.may_coalesce();
        nic.subs.granted = self.subs.granted;
        Ok(Lane { nic })
    }

    /// Sub-channels that the host has granted.
    pub fn granted_sub_channels(&self) -> u16 {
        self.subs.granted
    }
}

/// A sub-channel that carries frames. Its channel is made with the same
/// [`POLICY`](crate::POLICY) as the primary. It ends with the NIC: a violation on
/// one of them resets all.
pub struct Lane<M> {
    nic: Nic<M>,
}

impl<M: SharedMemory> Lane<M> {
    /// See [`Nic::poll`].
    pub fn poll<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        sink: impl FnMut(&[u8]) -> Delivery,
    ) -> Polled {
        self.nic.poll(channel, now, sink)
    }

    /// See [`Nic::poll_parcels`].
    pub fn poll_parcels<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        whole: bool,
        sink: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> Polled {
        self.nic.poll_parcels(channel, now, whole, sink)
    }

    /// [`Event::Failed`], once. Of the link the primary hears.
    pub fn take_event(&mut self, now: u64) -> Option<Event> {
        self.nic.take_event(now)
    }

    /// Whether frames may be sent.
    pub fn is_ready(&self) -> bool {
        self.nic.is_ready()
    }

    /// See [`Nic::transmit`].
    pub fn transmit<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        frame: &mut [u8],
        sending: &mut Sending,
        now: u64,
    ) -> Result<(), TransmitError> {
        self.nic.transmit(channel, frame, sending, now)
    }

    /// See [`Nic::transmit_plain`].
    pub fn transmit_plain<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        frame: &[u8],
        now: u64,
    ) -> Result<(), TransmitError> {
        self.nic.transmit_plain(channel, frame, now)
    }

    /// See [`Nic::flush`].
    pub fn flush<R: SharedMemory>(&mut self, channel: &mut Channel<R>) -> Signal {
        self.nic.flush(channel)
    }

    /// Which of the NIC's channels it is, from 1 on.
    pub fn index(&self) -> u16 {
        self.nic.index
    }

    /// The rule that ended it. The owner must end the NIC.
    pub fn failed(&self) -> Option<Violation> {
        self.nic.failed
    }

    /// What was counted on it.
    pub fn counters(&self) -> &Counters {
        self.nic.counters()
    }

    /// Takes the rules that did not hold since the last call.
    pub fn take_news(&mut self) -> alloc::vec::Vec<vmbus::News> {
        self.nic.take_news()
    }

    /// Frames that the host has not completed. An orderly stop of the NIC waits
    /// for them for a short time.
    pub fn outstanding(&self) -> usize {
        self.nic.outstanding()
    }

    /// When [`Lane::poll`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        self.nic.next_deadline()
    }

    /// The views of the buffers.
    pub fn into_buffers(self) -> (M, M) {
        self.nic.into_buffers()
    }
}
