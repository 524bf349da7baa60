//! The NIC: its parts, what its owner sees of it, and how it ends.

use crate::coalesce::Coalesce;
use crate::counters::{Counters, add};
use crate::gather::Begun;
use crate::handshake::Phase;
use crate::lane::Subs;
use crate::limits;
use crate::offload::Sending;
use crate::rate::{Budget, Link};
use crate::receive::ReceiveBuffer;
use crate::requests::Requests;
use crate::spread::Spread;
use crate::transmit::{Parts, SendBuffer};
use alloc::vec;
use alloc::vec::Vec;
use memory::{OutOfRange, Parcel, SharedMemory};
use validate::frame::{Arrived, MAX_SEGMENTED, TaskKind};
use validate::rndis::{AwaitedResponse, Initialized, Offloads};
use validate::{Reaction, Rule, Violation};
use vmbus::{Channel, Signal};

/// What the owner decides about a NIC.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// GPADL of the receive buffer.
    pub receive_gpadl: u32,
    /// GPADL of the send buffer.
    pub send_gpadl: u32,
    /// Payload of the largest frame, in bytes; the host may lower it.
    pub mtu: u32,
    /// The address that the NIC must have: from the measured configuration, or
    /// from its first start (RND-49). `None`: whichever the host names.
    pub mac: Option<[u8; 6]>,
    /// Frames for other addresses are wanted too.
    pub promiscuous: bool,
    /// Enforce the rules for which no public source says that all hosts hold
    /// them (NVS-25, NVS-26, RND-10, RND-45); otherwise they are only counted.
    pub enforce_unmeasured: bool,
    /// The host's word that a checksum is right goes on to a guest that has agreed
    /// to such words (RND-25). A host can make a wrong frame with a right checksum
    /// at any time, so this gives nothing away but the detection of accidents.
    pub trust_checksums: bool,
    /// Random start of transaction ids (PKT-17).
    pub seed: u64,
    /// Sub-channels that are asked for; 0: none, and nothing is said of them.
    pub sub_channels: u16,
    /// Coalesced frames may be asked for ([`Nic::coalesce`]): the guest's card can take
    /// them, and in pieces.
    pub coalescing: bool,
}

/// What the owner must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Frames may flow. The link is down until [`Event::Link`] says otherwise.
    Ready {
        /// The NIC's address.
        mac: [u8; 6],
        /// Payload of the largest frame.
        mtu: u32,
    },
    /// The link went up or down.
    Link {
        /// It is up.
        up: bool,
    },
    /// The host is being asked for so many sub-channels: they may be offered from
    /// now on, before [`Event::SubChannels`] even.
    SubChannelsAsked {
        /// How many.
        count: u16,
    },
    /// The host has granted so many. The NIC goes on without them until the owner
    /// makes lanes of them ([`Nic::lane`]) and has frames spread ([`Nic::spread`]).
    SubChannels {
        /// How many, perhaps none.
        count: u16,
    },
    /// The guest should look at its network anew (renew its lease).
    NetworkChange,
    /// The NIC is dead; this rule was broken. Close the channel.
    Failed(Violation),
    /// An orderly stop is done: the host has been told that the buffers are
    /// ours. Close the channel.
    Stopped,
}

/// What became of a frame for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is with the guest, or was dropped by the taker, who counts that.
    Taken,
    /// No room now. The frame is kept, and no other packet is read, until a
    /// later poll offers it again.
    Wait,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitError {
    /// No section or no room in the ring now. Try again after a poll.
    Full,
    /// The NIC is not ready. The frame is lost.
    NotReady,
    /// Shorter than an Ethernet header, or longer than MTU and headers. The
    /// frame is lost.
    BadLength,
}

/// What a poll leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Polled {
    /// Whether the host must be signalled.
    pub signal: Signal,
    /// A budget ended the poll: there is more to do at once.
    pub more: bool,
    /// A frame waits for room at the guest's side.
    pub waiting: bool,
    /// Packets taken from the ring.
    pub packets: usize,
}

/// An answer that the host waits for.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub transaction_id: u64,
    /// Status of a receive; `None`: an empty completion.
    pub status: Option<u32>,
    pub since: u64,
}

/// The NIC. `M` is the shared memory of its buffers.
pub struct Nic<M> {
    pub(crate) config: Config,
    /// Which of the card's channels this is: 0 is the primary.
    pub(crate) index: u16,
    pub(crate) subs: Subs,
    pub(crate) spread: Spread,
    pub(crate) coalesce: Coalesce,
    pub(crate) phase: Phase,
    /// The message of this phase has been sent.
    pub(crate) sent: bool,
    /// When this phase was entered.
    pub(crate) entered: u64,
    pub(crate) receive: ReceiveBuffer<M>,
    pub(crate) send: SendBuffer<M>,
    pub(crate) requests: Requests,
    /// What the host allows in one packet, once known.
    pub(crate) allowed: Option<Initialized>,
    /// A packet to which messages may be added.
    pub(crate) begun: Option<Begun>,
    /// The RNDIS request that waits for its response.
    pub(crate) awaited: Option<AwaitedResponse>,
    pub(crate) next_request_id: u32,
    pub(crate) link: Link,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    pub(crate) link_speed: Option<u32>,
    /// What the host does for frames.
    pub(crate) offloads: Offloads,
    pub(crate) ready_untold: bool,
    pub(crate) stopped_untold: bool,
    pub(crate) counters: Counters,
    pub(crate) failed: Option<Violation>,
    pub(crate) failed_untold: bool,
    pub(crate) strays: u32,
    /// A keepalive that waits for a section.
    pub(crate) keepalive: Option<u32>,
    pub(crate) keepalives: Budget,
    pub(crate) in_band: Budget,
    pub(crate) answer: Option<Answer>,
    pub(crate) next_scan: u64,
    /// Bytes that the host had not read at the last scan.
    pub(crate) unread: u32,
    /// Private copy of one packet of the ring.
    pub(crate) packet: Vec<u8>,
}

impl<M: SharedMemory> Nic<M> {
    /// A NIC that has not started. `receive` and `send` are the buffers of the
    /// configuration's GPADLs ([`limits::RECEIVE_BUFFER`], [`limits::SEND_BUFFER`]).
    pub fn new(config: Config, receive: M, send: M) -> Result<Self, OutOfRange> {
        let send = SendBuffer::new(send)?;
        let requests = Requests::new(config.seed, 0);
        let receive = ReceiveBuffer::new(receive);
        let spread = Spread::new();
        Ok(Nic::unstarted(config, 0, receive, send, requests, spread))
    }

    pub(crate) fn unstarted(
        config: Config,
        index: u16,
        receive: ReceiveBuffer<M>,
        send: SendBuffer<M>,
        requests: Requests,
        spread: Spread,
    ) -> Nic<M> {
        Nic {
            config,
            index,
            subs: Subs::default(),
            spread,
            coalesce: Coalesce::default(),
            phase: Phase::Idle,
            sent: false,
            entered: 0,
            receive,
            send,
            requests,
            allowed: None,
            begun: None,
            awaited: None,
            next_request_id: config.seed as u32 | 1,
            link: Link::new(),
            mac: None,
            mtu: config.mtu,
            link_speed: None,
            offloads: Offloads::default(),
            ready_untold: false,
            stopped_untold: false,
            counters: Counters::default(),
            failed: None,
            failed_untold: false,
            strays: 0,
            keepalive: None,
            keepalives: Budget::new(limits::KEEPALIVES_PER_INTERVAL),
            in_band: Budget::new(limits::IN_BAND_PER_INTERVAL),
            answer: None,
            next_scan: 0,
            unread: 0,
            packet: vec![0; limits::PACKET_BUFFER],
        }
    }

    /// The buffers, receive and send: to be given back once their GPADLs are
    /// torn down, or leaked.
    pub fn into_buffers(self) -> (M, M) {
        (self.receive.into_memory(), self.send.into_memory())
    }

    /// Begins the handshake. The next poll sends the first message.
    pub fn start(&mut self, now: u64) {
        if self.phase == Phase::Idle {
            self.next_scan = now.saturating_add(limits::DEADLINE_SCAN);
            self.enter(Phase::Init, now);
        }
    }

    /// Begins an orderly stop; [`Event::Stopped`] or [`Event::Failed`] ends it.
    pub fn stop(&mut self, now: u64) {
        match self.phase {
            Phase::Ready => self.enter(Phase::FilterOff, now),
            // It is on its way already, or over.
            Phase::FilterOff
            | Phase::Halt
            | Phase::Drain
            | Phase::RevokeReceive
            | Phase::RevokeSend
            | Phase::Failed
            | Phase::Stopped => {}
            // The handshake is not done: the host has no frame of ours and gives
            // us none, and closing the channel ends the rest.
            _ => self.enter(Phase::Stopped, now),
        }
    }

    /// Whether frames may be sent.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether the host says that the link is up.
    pub fn link_up(&self) -> bool {
        self.link.is_up()
    }

    /// Link speed in 100 bit/s as the host tells it, for display.
    pub fn link_speed(&self) -> Option<u32> {
        self.link_speed
    }

    /// What the host does for frames.
    pub fn offloads(&self) -> &Offloads {
        &self.offloads
    }

    /// The NIC's address, once known.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// Payload of the largest frame.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The rule that ended this NIC.
    pub fn failed(&self) -> Option<Violation> {
        self.failed
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes the rules that did not hold since the last call.
    pub fn take_news(&mut self) -> Vec<vmbus::News> {
        self.counters.validation.take_news()
    }

    /// Requests that the host has not completed, one that is about to leave included.
    pub fn outstanding(&self) -> usize {
        let begun = usize::from(self.begun.is_some());
        self.requests.outstanding().saturating_add(begun)
    }

    /// The next event, if there is one.
    pub fn take_event(&mut self, now: u64) -> Option<Event> {
        if core::mem::take(&mut self.failed_untold) {
            return self.failed.map(Event::Failed);
        }
        if core::mem::take(&mut self.stopped_untold) {
            return Some(Event::Stopped);
        }
        if matches!(self.phase, Phase::Stopped | Phase::Failed) {
            return None;
        }
        if let Some(event) = self.sub_channel_event() {
            return Some(event);
        }
        if self.phase != Phase::Ready {
            return None;
        }
        if core::mem::take(&mut self.ready_untold) {
            return self.mac.map(|mac| Event::Ready { mac, mtu: self.mtu });
        }
        if let Some(up) = self.link.tell(now) {
            return Some(Event::Link { up });
        }
        self.link.tell_network(now).then_some(Event::NetworkChange)
    }

    /// When [`Nic::poll`] and [`Nic::take_event`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        if matches!(self.phase, Phase::Idle | Phase::Stopped | Phase::Failed) {
            return None;
        }
        // Link events are told by a NIC that is ready only.
        let link = self.link.deadline().filter(|_| self.phase == Phase::Ready);
        let waits = [
            self.phase_deadline(),
            self.spread_deadline(),
            self.coalesce_deadline(),
            link,
        ];
        waits.into_iter().flatten().chain([self.next_scan]).min()
    }

    /// [`Nic::poll_parcels`] for a taker that wants each frame in a row.
    pub fn poll<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        mut sink: impl FnMut(&[u8]) -> Delivery,
    ) -> Polled {
        self.poll_parcels(channel, now, true, |parcel, _| sink(parcel.head()))
    }

    /// Works off what the host sent and sends what is due. `sink` gets each frame
    /// for the guest, from its destination address on: in private memory if `whole`,
    /// else with what nobody judges still in the receive buffer, to be copied from
    /// there once.
    pub fn poll_parcels<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        whole: bool,
        mut sink: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> Polled {
        let mut polled = Polled {
            signal: Signal::NotNeeded,
            more: false,
            waiting: false,
            packets: 0,
        };
        if matches!(self.phase, Phase::Idle | Phase::Stopped | Phase::Failed) {
            return polled;
        }
        // The buffer leaves for the time of the poll, so that a packet in it
        // does not keep the rest of the NIC borrowed.
        let mut buffer = core::mem::take(&mut self.packet);
        let run = self.run(channel, now, &mut buffer, whole, &mut sink, &mut polled);
        self.packet = buffer;
        if let Err(violation) = run {
            self.fail(violation);
        }
        if let Some(violation) = self.failed {
            channel.condemn(violation);
        } else {
            polled.signal = polled.signal.or(self.flush(channel));
        }
        polled
    }

    /// Takes a finished frame and queues it for the host; see [`Nic::transmit`].
    pub fn transmit_plain<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        frame: &[u8],
        now: u64,
    ) -> Result<(), TransmitError> {
        self.admit(frame, &Sending::default())?;
        let mut sending = Sending::default();
        self.pass(channel, frame, &mut sending, now)
    }

    /// Takes a frame and queues it for the host; [`Nic::flush`] or the next poll
    /// makes it visible. After [`TransmitError::Full`] a part of it may have left:
    /// the same frame comes again with the same `sending`, until it is taken.
    pub fn transmit<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        frame: &mut [u8],
        sending: &mut Sending,
        now: u64,
    ) -> Result<(), TransmitError> {
        self.admit(frame, sending)?;
        sending.prepare(frame, &self.offloads);
        self.pass(channel, frame, sending, now)
    }

    /// Whether the frame is one that can be sent.
    fn admit(&mut self, frame: &[u8], sending: &Sending) -> Result<(), TransmitError> {
        if self.phase != Phase::Ready {
            add(&mut self.counters.tx_refused, 1);
            return Err(TransmitError::NotReady);
        }
        let overhead = validate::rndis::packet::FRAME_OVERHEAD;
        let mtu = self.mtu.saturating_add(overhead) as usize;
        let fits = match sending.task().kind() {
            // Each segment has to fit.
            TaskKind::Segments(headers, size) => {
                let segment = headers.payload_at().saturating_add(size.into());
                segment <= mtu && frame.len() <= MAX_SEGMENTED
            }
            _ => frame.len() <= mtu,
        };
        if frame.len() < validate::rndis::packet::MIN_FRAME as usize || !fits {
            add(&mut self.counters.tx_refused, 1);
            return Err(TransmitError::BadLength);
        }
        Ok(())
    }

    fn pass<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        frame: &[u8],
        sending: &mut Sending,
        now: u64,
    ) -> Result<(), TransmitError> {
        if let Some(brief) = sending.brief(frame, self.alignment()) {
            let parts = [brief.head(), brief.note(), frame, brief.padding()];
            self.pass_message(channel, &parts, now)?;
            add(&mut self.counters.tx_frames, 1);
            add(&mut self.counters.tx_bytes, frame.len());
            return Ok(());
        }
        let largest = self.send.longest().saturating_sub(limits::MESSAGE_OVERHEAD);
        // A frame has no more segments than this, and each message takes one at least.
        for _ in 0..limits::SEGMENTS {
            let message = sending.next(frame, &self.offloads, largest);
            let parts = message.parts(frame);
            self.pass_message(channel, &parts, now)?;
            if sending.advance(&message, frame) {
                break;
            }
        }
        add(&mut self.counters.tx_frames, 1);
        add(&mut self.counters.tx_bytes, frame.len());
        Ok(())
    }

    fn pass_message<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        parts: &[&[u8]],
        now: u64,
    ) -> Result<(), TransmitError> {
        match self.gather(channel, &Parts::new(parts), now) {
            Ok(true) => {
                add(&mut self.counters.tx_messages, 1);
                Ok(())
            }
            Ok(false) => Err(TransmitError::Full),
            Err(violation) => {
                self.fail(violation);
                add(&mut self.counters.tx_refused, 1);
                Err(TransmitError::NotReady)
            }
        }
    }

    /// Makes queued frames visible to the host.
    pub fn flush<R: SharedMemory>(&mut self, channel: &mut Channel<R>) -> Signal {
        if self.failed.is_some() {
            return Signal::NotNeeded;
        }
        let closed = self.close(channel);
        let flushed = closed.and_then(|_| channel.flush());
        flushed.unwrap_or_else(|violation| {
            self.fail(violation);
            Signal::NotNeeded
        })
    }

    /// Counts a broken rule and reacts as the catalogue says.
    pub(crate) fn violated(&mut self, violation: Violation) {
        match violation.rule.reaction() {
            Reaction::Reset | Reaction::Fatal | Reaction::Fail | Reaction::Leak => {
                self.fail_noted(violation);
            }
            _ => {
                self.counters.validation.violation(violation);
                self.stray(violation);
            }
        }
    }

    /// "Drop, repeat = reset": answers to nothing are forgiven some times only.
    pub(crate) fn stray(&mut self, violation: Violation) {
        let rules = [
            Rule::PKT_13,
            Rule::PKT_14,
            Rule::PKT_15,
            Rule::PKT_22,
            Rule::RND_37,
        ];
        if rules.contains(&violation.rule) {
            self.strays = self.strays.saturating_add(1);
            if self.strays > limits::STRAYS {
                self.fail(violation);
            }
        }
    }

    /// Counts a broken rule that ends the NIC.
    pub(crate) fn fail_noted(&mut self, violation: Violation) {
        self.counters.validation.violation(violation);
        self.fail(violation);
    }

    /// Ends the NIC. Counted already, or by the layer below.
    pub(crate) fn fail(&mut self, violation: Violation) {
        if self.failed.is_none() {
            log::warn!("netvsc: failed by {violation}");
            self.failed = Some(violation);
            // The owner is told of one end: a stop that it knows of already stands.
            let told = self.phase == Phase::Stopped && !self.stopped_untold;
            self.failed_untold = !told;
            self.stopped_untold = false;
            self.phase = Phase::Failed;
        }
    }
}
