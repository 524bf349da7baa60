//! What a poll does: packets of the host, judged by their kind, and the answers
//! to them.

use crate::counters::add;
use crate::handshake::Phase;
use crate::limits;
use crate::nic::{Answer, Delivery, Nic, Polled};
use crate::receive::{Frame, Next, Piecemeal};
use abi::nvsp;
use memory::{OutOfRange, Parcel, SharedMemory};
use validate::frame::Arrived;
use validate::nvsp::{Awaited, Carrier, InBandContext};
use validate::packet::{Kind, Packet};
use validate::rndis::{Context, Indication, Message, PacketContext, Response};
use validate::{Layer, Reaction, Rule, Violation};
use vmbus::{Channel, Outbound, ReceiveError, SendError, Signal};
use zerocopy::IntoBytes;

/// Why work on the packet at hand stopped.
enum Progress {
    Done,
    NoRoom,
    Budget,
}

/// A range after judgement, without its bytes.
enum Outcome {
    Frame(Frame),
    /// A part of a coalesced one, which is not complete.
    Part,
    Message(Message<'static>),
    Refused(Violation),
}

impl<M: SharedMemory> Nic<M> {
    /// The body of a poll. An error is a violation that ends the NIC.
    pub(crate) fn run<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
        buffer: &mut [u8],
        whole: bool,
        sink: &mut impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
        polled: &mut Polled,
    ) -> Result<(), Violation> {
        let mut ranges = 0;
        let mut blocked = false;
        self.close(channel)?;
        self.step(channel, now)?;
        channel.begin_receive()?;
        while self.failed.is_none() {
            if !self.send_answer(channel, now, polled)? {
                blocked = true;
                break;
            }
            if self.receive.job.is_some() {
                match self.deliver(now, whole, sink, &mut ranges)? {
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
                    primary: self.index == 0,
                    channels: u32::from(self.subs.granted).saturating_add(1),
                };
                // No message asks for anything: a table for our frames is advice
                // for senders that choose, and each lane sends on its own channel;
                // an SR-IOV function is of no interest (NVS-44).
                if let Err(violation) = validate::nvsp::in_band(packet.payload(), &context) {
                    self.violated(violation);
                }
            }
            Kind::TransferPages(ranges) => {
                self.counters.validation.judged(Layer::Nvsp);
                let carrier = validate::nvsp::carrier(packet.payload(), self.receive.phase());
                // Without coalescing there are fewer ranges.
                let count = ranges.len() as u32;
                let many = !self.coalesce.expected && count > nvsp::MAX_RANGES;
                let carrier = match carrier {
                    Ok(_) if many => Err(Violation::new(Rule::PKT_10, 20, count)),
                    carrier => carrier,
                };
                match carrier {
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
        whole: bool,
        sink: &mut impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
        ranges: &mut usize,
    ) -> Result<Progress, Violation> {
        let carrier = self.receive.job.map_or(Carrier::Data, |job| job.carrier);
        let hashes = self.spread.standing();
        while *ranges < limits::RANGES_PER_POLL {
            let fragments = self.coalesce.expected && !whole;
            let context = self.context(fragments);
            let outside = |OutOfRange| Violation::new(Rule::NVS_23, 0, 0u32);
            let outcome = match self.receive.next_range(whole, fragments).map_err(outside)? {
                Next::Nothing => {
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
                }
                Next::Frame(frame) => Outcome::Frame(frame),
                Next::Range { bytes, size } => {
                    self.counters.validation.judged(Layer::Rndis);
                    match validate::rndis::begun(bytes, size, carrier, &context) {
                        Err(violation) => Outcome::Refused(violation),
                        Ok(judged) => {
                            if let Some(violation) = judged.noted {
                                self.counters.validation.violation(violation);
                            }
                            match judged.value {
                                Message::Packet(packet) => {
                                    let trust = self.config.trust_checksums;
                                    let hash = packet.flow_hash(hashes);
                                    let arrived = packet.arrived(trust).with_hash(hash);
                                    let part = Piecemeal::of(&packet, arrived);
                                    let (start, len) = (packet.start(), packet.len());
                                    let vlan = packet.vlan();
                                    match part.map(|part| self.receive.gather(&part)) {
                                        None => {
                                            if let Some(open) = self.receive.interrupted() {
                                                self.counters.validation.violation(open);
                                            }
                                            let receive = &mut self.receive;
                                            Outcome::Frame(receive.hold(start, len, vlan, arrived))
                                        }
                                        Some(Ok(None)) => Outcome::Part,
                                        Some(Ok(Some(frame))) => Outcome::Frame(frame),
                                        Some(Err(violation)) => Outcome::Refused(violation),
                                    }
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
                            }
                        }
                    }
                }
            };
            if let Outcome::Frame(_) = outcome
                && self.phase != Phase::Ready
            {
                add(&mut self.counters.rx_not_ready, 1);
            } else if let Outcome::Frame(frame) = outcome {
                let mut parcel = self.receive.parcel(&frame);
                if sink(&mut parcel, frame.arrived) == Delivery::Wait {
                    return Ok(Progress::NoRoom);
                }
                add(&mut self.counters.rx_frames, 1);
                add(&mut self.counters.rx_bytes, frame.len());
                if frame.fragments() != 0 {
                    add(&mut self.counters.rx_coalesced, 1);
                    add(&mut self.counters.rx_fragments, frame.fragments());
                }
            }
            *ranges = ranges.saturating_add(1);
            let accepted = match outcome {
                Outcome::Frame(_) | Outcome::Part => true,
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
                    if let Some(open) = self.receive.interrupted() {
                        self.counters.validation.violation(open);
                    }
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
    fn context(&self, coalescing: bool) -> Context {
        Context {
            primary: self.index == 0,
            ready: matches!(
                self.phase,
                Phase::Ready | Phase::FilterOff | Phase::Halt | Phase::Drain
            ),
            packet: PacketContext {
                mtu: self.mtu,
                mac: self.mac.unwrap_or_default(),
                promiscuous: self.config.promiscuous,
                vlan: true,
                coalescing,
                refuse_oob: self.config.enforce_unmeasured,
            },
            awaited: self.awaited,
        }
    }

    fn indicated(&mut self, event: Indication, now: u64) {
        match event {
            Indication::LinkUp | Indication::LinkDown => {
                let up = event == Indication::LinkUp;
                if !self.link.hear(up) {
                    add(&mut self.counters.link_coalesced, 1);
                    let status = match up {
                        true => abi::rndis::status::MEDIA_CONNECT,
                        false => abi::rndis::status::MEDIA_DISCONNECT,
                    };
                    self.violated(Violation::new(Rule::RND_55, 8, status));
                }
            }
            Indication::LinkSpeed(speed) => self.link_speed = Some(speed),
            Indication::NetworkChange => {
                if !self.link.hear_network(now) {
                    self.violated(Violation::new(
                        Rule::RND_56,
                        8,
                        abi::rndis::status::NETWORK_CHANGE,
                    ));
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
        // The sections are free whatever the answer says (NVS-22, NVS-36).
        if let Some(sections) = request.sections {
            self.send.give_back(sections);
        }
        self.counters.validation.judged(Layer::Nvsp);
        match validate::nvsp::completion(payload, request.awaited) {
            Ok(judged) => {
                if let Some(violation) = judged.noted {
                    self.counters.validation.violation(violation);
                    if violation.rule == Rule::NVS_36 {
                        add(&mut self.counters.tx_errors, request.messages.into());
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
}
