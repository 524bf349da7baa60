//! The NIC: its parts, what its owner sees of it, and the poll loop.

use crate::counters::{Counters, add};
use crate::handshake::Phase;
use crate::limits;
use crate::rate::{Budget, Link};
use crate::receive::ReceiveBuffer;
use crate::requests::{Request, Requests};
use crate::transmit::{PACKET_HEADER, SendBuffer, packet_header};
use abi::nvsp::{self, channel_type};
use alloc::vec;
use alloc::vec::Vec;
use memory::{OutOfRange, SharedMemory};
use validate::nvsp::{Awaited, Carrier, InBandContext};
use validate::packet::{Kind, Packet};
use validate::rndis::{AwaitedResponse, Context, Indication, Message, PacketContext, Response};
use validate::{Layer, Reaction, Rule, Violation};
use vmbus::{Channel, Outbound, ReceiveError, Reply, SendError, Signal};
use zerocopy::IntoBytes;

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
    /// Random start of transaction ids (PKT-17).
    pub seed: u64,
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

/// Why work on the packet at hand stopped.
enum Progress {
    Done,
    NoRoom,
    Budget,
}

/// An answer that the host waits for.
#[derive(Clone, Copy)]
struct Answer {
    transaction_id: u64,
    /// Status of a receive; `None`: an empty completion.
    status: Option<u32>,
    since: u64,
}

/// A range after judgement, without its bytes.
enum Outcome {
    Frame(usize),
    Message(Message<'static>),
    Refused(Violation),
}

/// The NIC. `M` is the shared memory of its buffers.
pub struct Nic<M> {
    pub(crate) config: Config,
    pub(crate) phase: Phase,
    /// The message of this phase has been sent.
    pub(crate) sent: bool,
    /// When this phase was entered.
    pub(crate) entered: u64,
    pub(crate) receive: ReceiveBuffer<M>,
    pub(crate) send: SendBuffer<M>,
    pub(crate) requests: Requests,
    /// The RNDIS request that waits for its response.
    pub(crate) awaited: Option<AwaitedResponse>,
    pub(crate) next_request_id: u32,
    pub(crate) link: Link,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    pub(crate) link_speed: Option<u32>,
    pub(crate) ready_untold: bool,
    pub(crate) stopped_untold: bool,
    pub(crate) counters: Counters,
    failed: Option<Violation>,
    failed_untold: bool,
    strays: u32,
    /// A keepalive that waits for a section.
    keepalive: Option<u32>,
    keepalives: Budget,
    in_band: Budget,
    answer: Option<Answer>,
    next_scan: u64,
    /// Bytes that the host had not read at the last scan.
    unread: u32,
    /// Private copy of one packet of the ring.
    packet: Vec<u8>,
}

impl<M: SharedMemory> Nic<M> {
    /// A NIC that has not started. `receive` and `send` are the buffers of the
    /// configuration's GPADLs ([`limits::RECEIVE_BUFFER`], [`limits::SEND_BUFFER`]).
    pub fn new(config: Config, receive: M, send: M) -> Result<Self, OutOfRange> {
        Ok(Nic {
            config,
            phase: Phase::Idle,
            sent: false,
            entered: 0,
            receive: ReceiveBuffer::new(receive),
            send: SendBuffer::new(send)?,
            requests: Requests::new(config.seed),
            awaited: None,
            next_request_id: config.seed as u32 | 1,
            link: Link::new(),
            mac: None,
            mtu: config.mtu,
            link_speed: None,
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
        })
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
            Phase::FilterOff | Phase::Halt | Phase::Drain | Phase::Failed | Phase::Stopped => {}
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

    /// Requests that the host has not completed.
    pub fn outstanding(&self) -> usize {
        self.requests.outstanding()
    }

    /// The next event, if there is one.
    pub fn take_event(&mut self, now: u64) -> Option<Event> {
        if core::mem::take(&mut self.failed_untold) {
            return self.failed.map(Event::Failed);
        }
        if core::mem::take(&mut self.stopped_untold) {
            return Some(Event::Stopped);
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
        let waits = [self.phase_deadline(), self.link.deadline()];
        waits.into_iter().flatten().chain([self.next_scan]).min()
    }

    /// Works off what the host sent and sends what is due. `sink` gets each
    /// frame for the guest, from its destination address on, in private memory.
    pub fn poll<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        mut sink: impl FnMut(&[u8]) -> Delivery,
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
        let run = self.run(channel, now, &mut buffer, &mut sink, &mut polled);
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

    /// Takes a frame and queues it for the host; [`Nic::flush`] or the next poll
    /// makes it visible.
    pub fn transmit<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        frame: &[u8],
        now: u64,
    ) -> Result<(), TransmitError> {
        if self.phase != Phase::Ready {
            add(&mut self.counters.tx_refused, 1);
            return Err(TransmitError::NotReady);
        }
        let longest = (self.mtu as usize)
            .saturating_add(validate::rndis::packet::FRAME_OVERHEAD as usize)
            .min(self.send.section_size().saturating_sub(PACKET_HEADER));
        if frame.len() < validate::rndis::packet::MIN_FRAME as usize || frame.len() > longest {
            add(&mut self.counters.tx_refused, 1);
            return Err(TransmitError::BadLength);
        }
        let header = packet_header(frame.len());
        let parts = [header.as_slice(), frame];
        let reserve = limits::CONTROL_SECTIONS;
        match self.send_rndis(channel, channel_type::DATA, parts, reserve, now) {
            Ok(true) => {
                add(&mut self.counters.tx_frames, 1);
                add(&mut self.counters.tx_bytes, frame.len());
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
        channel.flush().unwrap_or_else(|violation| {
            self.fail(violation);
            Signal::NotNeeded
        })
    }

    /// The body of a poll. An error is a violation that ends the NIC.
    fn run<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        buffer: &mut [u8],
        sink: &mut impl FnMut(&[u8]) -> Delivery,
        polled: &mut Polled,
    ) -> Result<(), Violation> {
        let mut ranges = 0;
        let mut blocked = false;
        self.step(channel, now)?;
        channel.begin_receive()?;
        while self.failed.is_none() {
            if !self.send_answer(channel, now, polled)? {
                blocked = true;
                break;
            }
            if self.receive.job.is_some() {
                match self.deliver(now, sink, &mut ranges)? {
                    Progress::Done => continue,
                    Progress::NoRoom => {
                        polled.waiting = true;
                        blocked = true;
                    }
                    Progress::Budget => polled.more = true,
                }
                break;
            }
            if polled.packets >= limits::PACKETS_PER_POLL {
                polled.more = true;
                break;
            }
            match channel.receive(buffer) {
                Ok(None) => break,
                Ok(Some(packet)) => self.take_packet(&packet, now),
                Err(ReceiveError::Corrupt(violation)) => return Err(violation),
                Err(ReceiveError::Dropped {
                    violation,
                    transaction_id,
                    completion_requested,
                }) => {
                    // Counted by the channel. The slots of a refused receive go
                    // back to the host with a failure.
                    self.stray(violation);
                    let receive = violation.rule != Rule::PKT_21;
                    let status = receive.then_some(nvsp::status::FAILURE);
                    if completion_requested {
                        self.answer = Some(Answer {
                            transaction_id,
                            status,
                            since: now,
                        });
                    }
                }
            }
            polled.packets = polled.packets.saturating_add(1);
        }
        self.step(channel, now)?;
        let drained = channel.end_receive()?;
        polled.signal = polled.signal.or(drained.signal);
        polled.more |= drained.more && !blocked;
        if now >= self.next_scan {
            self.next_scan = now.saturating_add(limits::DEADLINE_SCAN);
            self.requests.check_age(now)?;
            // A host that has read nothing since the last look may have missed
            // a signal, or masked it for ever (RNG-13).
            let unread = channel.unread_by_host()?;
            if unread != 0 && unread == self.unread {
                polled.signal = Signal::Needed;
            }
            self.unread = unread;
        }
        Ok(())
    }

    /// Sends the answer at hand. `false`: the ring is full.
    fn send_answer<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        polled: &mut Polled,
    ) -> Result<bool, Violation> {
        let Some(answer) = self.answer else {
            return Ok(true);
        };
        let message = answer.status.map(|status| nvsp::SendRndisPacketComplete {
            message_type: nvsp::message::SEND_RNDIS_PACKET_COMPLETE.into(),
            status: status.into(),
        });
        let payload = message
            .as_ref()
            .map_or(&[][..], |message| message.as_bytes());
        match channel.queue(Outbound::Completion, answer.transaction_id, &[payload]) {
            Ok(()) => {
                self.answer = None;
                Ok(true)
            }
            Err(SendError::Corrupt(violation)) => Err(violation),
            Err(SendError::Full | SendError::TooLong) => {
                polled.signal = polled.signal.or(channel.flush()?);
                let age = now.saturating_sub(answer.since);
                if age > limits::ANSWER_DEADLINE {
                    return Err(Violation::new(Rule::PKT_24, 0, age));
                }
                Ok(false)
            }
        }
    }

    /// Judges a packet by its kind.
    fn take_packet(&mut self, packet: &Packet<'_>, now: u64) {
        let transaction_id = packet.transaction_id();
        match packet.kind() {
            Kind::Completion => self.take_completion(transaction_id, packet.payload(), now),
            Kind::InBand => {
                let answered = !packet.completion_requested() || transaction_id == 0;
                if !answered {
                    self.answer = Some(Answer {
                        transaction_id,
                        status: None,
                        since: now,
                    });
                }
                if !self.in_band.take(now) {
                    return self.violated(Violation::new(Rule::NVS_47, 0, 0u32));
                }
                self.counters.validation.judged(Layer::Nvsp);
                let context = InBandContext {
                    primary: true,
                    channels: 1,
                };
                // No message asks for anything: sub-channels are not open, and
                // an SR-IOV function is of no interest (NVS-44).
                if let Err(violation) = validate::nvsp::in_band(packet.payload(), &context) {
                    self.violated(violation);
                }
            }
            Kind::TransferPages(ranges) => {
                self.counters.validation.judged(Layer::Nvsp);
                match validate::nvsp::carrier(packet.payload(), self.receive.phase()) {
                    Ok(carrier) => {
                        let enforce = self.config.enforce_unmeasured;
                        let counters = &mut self.counters;
                        self.receive
                            .begin(transaction_id, carrier, ranges, enforce, |violation| {
                                counters.validation.violation(violation);
                                add(&mut counters.rx_refused, 1);
                            });
                    }
                    Err(violation) => {
                        let status = Some(nvsp::status::FAILURE);
                        self.answer = Some(Answer {
                            transaction_id,
                            status,
                            since: now,
                        });
                        self.violated(violation);
                    }
                }
            }
        }
    }

    /// Copies, judges and delivers the ranges of the packet at hand.
    fn deliver(
        &mut self,
        now: u64,
        sink: &mut impl FnMut(&[u8]) -> Delivery,
        ranges: &mut usize,
    ) -> Result<Progress, Violation> {
        let carrier = self.receive.job.map_or(Carrier::Data, |job| job.carrier);
        while *ranges < limits::RANGES_PER_POLL {
            let context = self.context();
            let outside = |OutOfRange| Violation::new(Rule::NVS_23, 0, 0u32);
            let Some(copied) = self.receive.next_range().map_err(outside)? else {
                // Only now: the last byte has been copied (NVS-28).
                if let Some(job) = self.receive.finish() {
                    let status = match job.accepted {
                        true => nvsp::status::SUCCESS,
                        false => nvsp::status::FAILURE,
                    };
                    let transaction_id = job.transaction_id;
                    self.answer = Some(Answer {
                        transaction_id,
                        status: Some(status),
                        since: now,
                    });
                }
                return Ok(Progress::Done);
            };
            if !copied.again {
                self.counters.validation.judged(Layer::Rndis);
            }
            let outcome = match validate::rndis::message(copied.bytes, carrier, &context) {
                Err(violation) => Outcome::Refused(violation),
                Ok(judged) => {
                    let outcome = match judged.value {
                        Message::Packet(packet) => {
                            let wanted = self.phase == Phase::Ready;
                            if wanted && sink(packet.frame()) == Delivery::Wait {
                                return Ok(Progress::NoRoom);
                            }
                            Outcome::Frame(if wanted { packet.frame().len() } else { 0 })
                        }
                        Message::Indication(indication) => {
                            Outcome::Message(Message::Indication(indication))
                        }
                        Message::Keepalive { request_id } => {
                            Outcome::Message(Message::Keepalive { request_id })
                        }
                        Message::Response(response) => {
                            Outcome::Message(Message::Response(response))
                        }
                    };
                    if let Some(violation) = judged.noted {
                        self.counters.validation.violation(violation);
                    }
                    outcome
                }
            };
            *ranges = ranges.saturating_add(1);
            let accepted = match outcome {
                Outcome::Frame(0) => true,
                Outcome::Frame(bytes) => {
                    add(&mut self.counters.rx_frames, 1);
                    add(&mut self.counters.rx_bytes, bytes);
                    true
                }
                Outcome::Message(Message::Indication(event)) => {
                    self.indicated(event, now);
                    true
                }
                Outcome::Message(Message::Keepalive { request_id }) => {
                    self.kept_alive(request_id, now);
                    true
                }
                Outcome::Message(Message::Response(response)) => {
                    self.answered(response, now);
                    true
                }
                Outcome::Message(Message::Packet(_)) => true,
                Outcome::Refused(violation) => {
                    let ignored = violation.rule.reaction() == Reaction::Ignore;
                    self.refused(violation, now);
                    ignored
                }
            };
            self.receive.advance(accepted);
            if self.failed.is_some() {
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::Budget)
    }

    /// What an RNDIS message is judged with.
    fn context(&self) -> Context {
        Context {
            primary: true,
            ready: matches!(
                self.phase,
                Phase::Ready | Phase::FilterOff | Phase::Halt | Phase::Drain
            ),
            packet: PacketContext {
                mtu: self.mtu,
                mac: self.mac.unwrap_or_default(),
                promiscuous: self.config.promiscuous,
                vlan: false,
                refuse_oob: self.config.enforce_unmeasured,
            },
            awaited: self.awaited,
        }
    }

    fn indicated(&mut self, event: Indication, now: u64) {
        match event {
            Indication::LinkUp | Indication::LinkDown => {
                if !self.link.hear(event == Indication::LinkUp) {
                    add(&mut self.counters.link_coalesced, 1);
                    self.violated(Violation::new(Rule::RND_55, 8, 0u32));
                }
            }
            Indication::LinkSpeed(speed) => self.link_speed = Some(speed),
            Indication::NetworkChange => {
                if !self.link.hear_network(now) {
                    self.violated(Violation::new(Rule::RND_56, 8, 0u32));
                }
            }
            Indication::Offload => {}
        }
    }

    fn kept_alive(&mut self, request_id: u32, now: u64) {
        if self.keepalive.is_some() || !self.keepalives.take(now) {
            return self.violated(Violation::new(Rule::RND_64, 8, request_id));
        }
        self.keepalive = Some(request_id);
    }

    /// A range did not hold a message that may be used.
    fn refused(&mut self, violation: Violation, now: u64) {
        add(&mut self.counters.rx_refused, 1);
        // The reaction `fail` concerns the request that waits.
        if violation.rule.reaction() == Reaction::Fail && self.awaited.is_some() {
            self.request_failed(violation, now);
        } else {
            self.violated(violation);
        }
    }

    fn answered(&mut self, response: Response, now: u64) {
        // Retired by its first response (RND-38).
        if let Some(awaited) = self.awaited.take() {
            self.responded(awaited.request, response, now);
        }
    }

    fn take_completion(&mut self, id: u64, payload: &[u8], now: u64) {
        let request = match self.requests.retire(id) {
            Ok(request) => request,
            Err(violation) => return self.violated(violation),
        };
        // The section is free whatever the answer says (NVS-22, NVS-36).
        if let Some(section) = request.section {
            self.send.give_back(section);
        }
        self.counters.validation.judged(Layer::Nvsp);
        match validate::nvsp::completion(payload, request.awaited) {
            Ok(judged) => {
                if let Some(violation) = judged.noted {
                    self.counters.validation.violation(violation);
                    if violation.rule == Rule::NVS_36 {
                        add(&mut self.counters.tx_errors, 1);
                    }
                }
                self.completed(judged.value, now);
            }
            // A request of the handshake is answered once. There is nothing to
            // wait for after a bad answer.
            Err(violation) if request.awaited != Awaited::Rndis => self.fail_noted(violation),
            Err(violation) => self.violated(violation),
        }
    }

    /// Sends the answer to a keepalive, if one waits and there is a section.
    pub(crate) fn send_keepalive<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let Some(request_id) = self.keepalive else {
            return Ok(());
        };
        let message = abi::rndis::StatusComplete {
            header: abi::rndis::Header {
                message_type: abi::rndis::message::KEEPALIVE_COMPLETE.into(),
                length: (size_of::<abi::rndis::StatusComplete>() as u32).into(),
            },
            request_id: request_id.into(),
            status: abi::rndis::status::SUCCESS.into(),
        };
        let parts = [message.as_bytes(), &[]];
        if self.send_rndis(channel, channel_type::CONTROL, parts, 0, now)? {
            self.keepalive = None;
        }
        Ok(())
    }

    /// Copies an RNDIS message into a section and queues it. `Ok(false)`: no
    /// section, no entry in the table or no room in the ring now.
    pub(crate) fn send_rndis<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        channel_type: u32,
        parts: [&[u8]; 2],
        reserve: usize,
        now: u64,
    ) -> Result<bool, Violation> {
        let Some(section) = self.send.take(reserve) else {
            return Ok(false);
        };
        let Ok(length) = self.send.write(section, parts) else {
            // Longer than a section: our own mistake, not to be repeated.
            self.send.give_back(section);
            return Err(Violation::new(Rule::NVS_20, 0, u64::from(section)));
        };
        let message = nvsp::SendRndisPacket {
            message_type: nvsp::message::SEND_RNDIS_PACKET.into(),
            channel_type: channel_type.into(),
            section_index: u32::from(section).into(),
            section_size: length.into(),
        };
        let request = Request {
            awaited: Awaited::Rndis,
            section: Some(section),
            sent: now,
        };
        let sent = self.send_request(channel, message.as_bytes(), request);
        if !matches!(sent, Ok(true)) {
            self.send.give_back(section);
        }
        sent
    }

    /// Queues an NVSP message that the host completes. `Ok(false)`: not now.
    pub(crate) fn send_request<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        message: &[u8],
        request: Request,
    ) -> Result<bool, Violation> {
        let Some(id) = self.requests.issue(request) else {
            return Ok(false);
        };
        let sent = send_message(channel, message, id, Reply::Requested);
        if !matches!(sent, Ok(true)) {
            self.requests.cancel(id);
        }
        sent
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
    fn stray(&mut self, violation: Violation) {
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
    fn fail(&mut self, violation: Violation) {
        if self.failed.is_none() {
            log::warn!("netvsc: failed by {violation}");
            self.failed = Some(violation);
            self.failed_untold = true;
            self.phase = Phase::Failed;
        }
    }
}

/// Queues an NVSP message, filled up with zeros to the size that 6.1 has.
/// `Ok(false)`: the ring is full.
pub(crate) fn send_message<R: SharedMemory>(
    channel: &mut Channel<R>,
    message: &[u8],
    transaction_id: u64,
    reply: Reply,
) -> Result<bool, Violation> {
    let zeros = [0; nvsp::MESSAGE_SIZE_V61];
    let filling = zeros.get(message.len()..).unwrap_or(&[]);
    match channel.queue(Outbound::InBand(reply), transaction_id, &[message, filling]) {
        Ok(()) => Ok(true),
        Err(SendError::Full) => Ok(false),
        Err(SendError::Corrupt(violation)) => Err(violation),
        // A ring that cannot hold 64 bytes was never made.
        Err(SendError::TooLong) => Err(Violation::new(Rule::RNG_27, 0, message.len() as u64)),
    }
}
