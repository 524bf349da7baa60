//! Host to guest: slots of the receive buffer, frames and control messages in them.
use super::channel::Channel;
use super::coalesce::{self, Joined};
use super::steering::Hashed;
use super::{Bytes, Env, NicError, offload};
use crate::fault::Layer;
use crate::pages::PageList;
use crate::ring::packet;
use abi::nvsp::{NO_SECTION, RECEIVE_BUFFER_ID, SendRndisPacket, channel_type, message};
use abi::rndis::{self, Packet, PerPacketInfo, packet_id, ppi};
use abi::vmbus::{PacketType, TransferPageHeader, TransferPageRange};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// Slot bytes beyond the largest frame (OpenVMM: MTU + 292).
const SLOT_OVERHEAD: u32 = 292;
/// Where a frame starts in its slot (OpenVMM: RNDIS data offset 248).
pub const DATA_AT: usize = 256;
/// Bytes of an element of information with a word.
const ELEMENT: u32 = ppi::HEADER_SIZE as u32 + 4;
/// Slots that only control messages may use.
const CONTROL_SLOTS: usize = 8;
/// Frames that wait for a sub-channel at most.
const MAX_STEERED: usize = 256;
/// Most slots: a slot number has to fit the ranges of a few packets, no more.
const MAX_SLOTS: usize = 16384;

/// The guest's receive buffer, cut into slots.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    pages: Arc<PageList>,
    slot_size: u32,
    slots: u32,
    free: VecDeque<u32>,
    /// Slots of packets that the guest has not completed, by transaction id, and
    /// the channel that each went out on.
    in_flight: BTreeMap<u64, (u16, Vec<u32>)>,
}

impl ReceiveBuffer {
    pub fn new(pages: Arc<PageList>, mtu: u32) -> Option<Self> {
        let slot_size = mtu + SLOT_OVERHEAD;
        let slots = (pages.len() / slot_size as usize).min(MAX_SLOTS);
        // Room for control messages and a frame.
        if slots <= CONTROL_SLOTS {
            return None;
        }
        let slots = slots as u32;
        Some(ReceiveBuffer {
            pages,
            slot_size,
            slots,
            free: (0..slots).collect(),
            in_flight: BTreeMap::new(),
        })
    }

    pub fn slot_size(&self) -> u32 {
        self.slot_size
    }

    pub fn slots(&self) -> u32 {
        self.slots
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.values().map(|(_, slots)| slots.len()).sum()
    }

    /// Whether a frame may go in.
    fn has_room(&self) -> bool {
        self.free.len() > CONTROL_SLOTS
    }

    /// The guest is done with a packet. `false` if there is no such packet on this
    /// channel.
    pub fn complete(&mut self, transaction_id: u64, channel: u16) -> bool {
        match self.in_flight.remove(&transaction_id) {
            Some((of, slots)) if of == channel => {
                self.free.extend(slots);
                true
            }
            _ => false,
        }
    }

    /// A channel is gone, and with it what it would have completed.
    pub fn abandon(&mut self, channel: u16) {
        let free = &mut self.free;
        self.in_flight.retain(|_, (of, slots)| {
            if *of == channel {
                free.extend(core::mem::take(slots));
            }
            *of != channel
        });
    }
}

impl Channel {
    /// Writes messages into slots and queues the packet that names them.
    /// Messages that do not fit a slot are cut.
    fn send_slots(
        &mut self,
        env: &mut Env<'_>,
        kind: u32,
        messages: &[Bytes],
        late: bool,
    ) -> Result<(), NicError> {
        let relid = self.port.relid;
        let Some(buffer) = &mut self.receive else {
            return Ok(());
        };
        let mut used = Vec::new();
        let mut ranges: Vec<u8> = Vec::new();
        for m in messages {
            let (bytes, copies) = if late {
                (m.clone(), 1)
            } else {
                let passed = env.faults.pass(Layer::ReceiveBuffer, relid, m.clone());
                (passed.bytes, passed.copies)
            };
            for _ in 0..copies {
                let Some(slot) = buffer.free.pop_front() else {
                    break;
                };
                used.push(slot);
                let at = slot * buffer.slot_size;
                let bytes = bytes.get(..buffer.slot_size as usize).unwrap_or(&bytes);
                buffer.pages.write(env.mem, at as usize, bytes)?;
                let range = TransferPageRange {
                    byte_count: (bytes.len() as u32).into(),
                    byte_offset: at.into(),
                };
                ranges.extend_from_slice(range.as_bytes());
            }
        }
        let Some(first) = used.first() else {
            return Ok(());
        };
        let transaction_id = u64::from(*first);
        let head = TransferPageHeader {
            set_id: RECEIVE_BUFFER_ID.into(),
            sender_owns_set: 0,
            reserved: 0,
            range_count: (used.len() as u32).into(),
        };
        let mut extended = head.as_bytes().to_vec();
        extended.extend_from_slice(&ranges);
        buffer
            .in_flight
            .insert(transaction_id, (self.port.index, used));
        let m = SendRndisPacket {
            message_type: message::SEND_RNDIS_PACKET.into(),
            channel_type: kind.into(),
            section_index: NO_SECTION.into(),
            section_size: 0.into(),
        };
        let payload = self.nvsp(&m);
        let bytes = packet(
            PacketType::TRANSFER_PAGES,
            1,
            transaction_id,
            &extended,
            &payload,
        );
        self.queue(env, bytes);
        Ok(())
    }

    /// Sends waiting control messages, then frames, as long as slots and ring
    /// have room. What does not fit stays where it is.
    pub fn receive_poll(&mut self, env: &mut Env<'_>) -> Result<(), NicError> {
        if self.port.index != 0 {
            return self.steered_poll(env);
        }
        while self.port.out_queue.is_empty()
            && self.receive.as_ref().is_some_and(|r| !r.free.is_empty())
            && let Some(m) = self.control_queue.pop_front()
        {
            self.send_slots(env, channel_type::CONTROL, &[m], false)?;
            self.port.flush(env)?;
        }
        while self.port.out_queue.is_empty()
            && self.receive.as_ref().is_some_and(|r| !r.free.is_empty())
            && let Some(m) = self.late_queue.pop_front()
        {
            let data = m.starts_with(&rndis::message::PACKET.to_le_bytes());
            let kind = if data {
                channel_type::DATA
            } else {
                channel_type::CONTROL
            };
            self.send_slots(env, kind, &[m], true)?;
            self.port.flush(env)?;
        }
        if !self.rndis.initialized {
            return Ok(());
        }
        while self.port.out_queue.is_empty() && self.control_queue.is_empty() {
            let room = match &self.receive {
                Some(r) if r.has_room() => r.free.len() - CONTROL_SLOTS,
                _ => return Ok(()),
            };
            let most = room.min(self.config.max_ranges.clamp(1, rndis_ranges()));
            let mut joined: Vec<Joined> = Vec::new();
            let (mut count, mut frame) = (0, Vec::new());
            while count < most {
                frame.clear();
                if !env.backend.receive(&mut frame) {
                    break;
                }
                if !self.wanted(env, &frame) {
                    continue;
                }
                count += 1;
                let enabled = &self.rndis.enabled;
                if !joined
                    .last_mut()
                    .is_some_and(|last| last.take(&frame, enabled))
                {
                    joined.push(Joined::new(&frame, enabled));
                }
            }
            if count == 0 {
                return Ok(());
            }
            let mut frames = Vec::new();
            for joined in joined {
                let first = joined.parts.first().map_or(&[][..], Vec::as_slice);
                let hash = self.steering.hash(first);
                let messages = self.messages(env, &joined.parts, hash);
                env.counters.bytes_saved += joined.saved as u64;
                frames.extend(self.steer(env, hash, messages));
            }
            self.send_frames(env, &frames)?;
        }
        Ok(())
    }

    fn send_frames(&mut self, env: &mut Env<'_>, frames: &[Vec<Bytes>]) -> Result<(), NicError> {
        let count = frames.len() as u64;
        *env.counters.channel_rx.entry(self.port.index).or_default() += count;
        let messages: Vec<Bytes> = frames.iter().flatten().cloned().collect();
        self.send_slots(env, channel_type::DATA, &messages, false)?;
        self.port.flush(env)
    }

    /// Hands a frame's messages to the sub-channel that its hash means, or back.
    fn steer(
        &mut self,
        env: &mut Env<'_>,
        hash: Option<Hashed>,
        messages: Vec<Bytes>,
    ) -> Option<Vec<Bytes>> {
        let Some(port) = self.subs.get_mut(&self.steering.channel(hash)) else {
            return Some(messages);
        };
        if port.frames.len() < MAX_STEERED {
            port.frames.push_back(messages);
        } else {
            *env.counters.dropped.entry("queue-full").or_default() += 1;
        }
        None
    }

    /// The frames that the primary channel has put here.
    fn steered_poll(&mut self, env: &mut Env<'_>) -> Result<(), NicError> {
        while self.port.out_queue.is_empty() && !self.port.frames.is_empty() {
            let room = match &self.receive {
                Some(r) if r.has_room() => r.free.len() - CONTROL_SLOTS,
                _ => return Ok(()),
            };
            let most = room.min(self.config.max_ranges.clamp(1, rndis_ranges()));
            let mut left = most;
            let fits = |frame: &&Vec<Bytes>| {
                let rest = left.checked_sub(frame.len());
                left = rest.unwrap_or(0);
                rest.is_some()
            };
            let count = self.port.frames.iter().take_while(fits).count();
            if count == 0 {
                return Ok(());
            }
            let frames: Vec<Vec<Bytes>> = self.port.frames.drain(..count).collect();
            self.send_frames(env, &frames)?;
        }
        Ok(())
    }

    /// Whether a frame of the network is for the guest.
    fn wanted(&mut self, env: &mut Env<'_>, frame: &[u8]) -> bool {
        let mut dropped = |why| *env.counters.dropped.entry(why).or_default() += 1;
        if self.rndis.filter == 0 {
            dropped("filter");
            return false;
        }
        if frame.len() < 14 || frame.len() > self.mtu as usize {
            dropped("size");
            return false;
        }
        env.counters.frames_rx += 1;
        env.counters.bytes_rx += frame.len() as u64;
        true
    }

    /// The messages of a frame, or of segments that were joined: the first of them has
    /// the hash.
    fn messages(&mut self, env: &mut Env<'_>, parts: &[Bytes], hash: Option<Hashed>) -> Vec<Bytes> {
        let hash = hash.map_or(Vec::new(), |hash| hash.elements().to_vec());
        if let [frame] = parts {
            let sums = offload::verdict(frame, &self.rndis.enabled);
            let elements = [&[(ppi::CHECKSUM, sums)], &hash[..]].concat();
            return alloc::vec![self.message(frame, &elements)];
        }
        env.counters.joined += parts.len() as u64;
        env.counters.coalesced += 1;
        let first = parts.first().map_or(&[][..], Vec::as_slice);
        let sums = (ppi::CHECKSUM, coalesce::sums(first));
        self.packets_joined = self.packets_joined.wrapping_add(1);
        let [low, high] = self.packets_joined.to_le_bytes();
        let last = parts.len() - 1;
        let message = |(n, part): (usize, &Bytes)| {
            let first = if n == 0 { packet_id::FIRST } else { 0 };
            let end = if n == last { packet_id::LAST } else { 0 };
            let flags = packet_id::SUB_ALLOCATION | first | end;
            let id = u32::from_le_bytes([packet_id::VERSION, flags, low, high]);
            let hash = if n == 0 { &hash[..] } else { &[] };
            self.message(part, &[&[sums, (ppi::PACKET_ID, id)], hash].concat())
        };
        parts.iter().enumerate().map(message).collect()
    }

    /// RNDIS PACKET around a frame or a part of one, with what is said about it.
    fn message(&self, frame: &[u8], elements: &[(u32, u32)]) -> Bytes {
        let used = (DATA_AT + frame.len()) as u32;
        let slot = self.receive.as_ref().map_or(used, ReceiveBuffer::slot_size);
        let length = if self.config.whole_slot { slot } else { used };
        let head = Packet {
            header: rndis::Header {
                message_type: rndis::message::PACKET.into(),
                length: length.into(),
            },
            data_offset: ((DATA_AT - rndis::OFFSET_BASE) as u32).into(),
            data_length: (frame.len() as u32).into(),
            ppi_offset: ((size_of::<Packet>() - rndis::OFFSET_BASE) as u32).into(),
            ppi_length: (elements.len() as u32 * ELEMENT).into(),
            ..Default::default()
        };
        let mut m = Vec::with_capacity(length as usize);
        m.extend_from_slice(head.as_bytes());
        for (kind, value) in elements {
            let element = PerPacketInfo {
                size: ELEMENT.into(),
                kind: (*kind).into(),
                value_offset: (ppi::HEADER_SIZE as u32).into(),
            };
            m.extend_from_slice(element.as_bytes());
            m.extend_from_slice(&value.to_le_bytes());
        }
        m.resize(DATA_AT, 0);
        m.extend_from_slice(frame);
        m.resize(length as usize, 0);
        m
    }
}

const fn rndis_ranges() -> usize {
    abi::nvsp::MAX_RANGES as usize
}
