//! The far side of the channel: reads what the NIC sends, answers as an honest host
//! does, and changes the answer when it was told to.

use crate::Input;
use crate::memory::Arena;
use abi::nvsp::{self, message, status};
use abi::rndis::{self, hash, offload_parameter, oid, ppi};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use zerocopy::IntoBytes;

pub const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 1, 2, 3];
const PAGE: usize = 4096;
/// Frame number of the first page.
pub const FIRST_PFN: u64 = 0x40;
/// Pages of each ring with its control page.
pub const RING_PAGES: usize = 3;
const SIZE: usize = (RING_PAGES - 1) * PAGE;
/// Both buffers lie behind the rings. The slots are smaller than a frame may be.
pub const RECEIVE: usize = 2 * RING_PAGES;
pub const SLOT: usize = 1806;
pub const SLOTS: usize = 32;
pub const RECEIVE_PAGES: usize = (SLOT * SLOTS).div_ceil(PAGE);
pub const SEND: usize = RECEIVE + RECEIVE_PAGES;
pub const SECTION: usize = 6144;
pub const SECTIONS: usize = 14;
pub const SEND_PAGES: usize = SECTION * SECTIONS / PAGE;
pub const PAGES: usize = SEND + SEND_PAGES;

/// A hash, whoever asked for it; what it is of stands where a lie can be.
pub const HASH: [(u32, u32); 2] = [
    (ppi::HASH_INFO, hash::TOEPLITZ | hash::TCP_IPV4),
    (ppi::HASH_VALUE, 0xfeed_f00d),
];
/// What is said about a frame.
pub const INFORMATION: [(u32, u32); 3] = [HASH[0], HASH[1], (ppi::CHECKSUM, 0)];

/// A packet of the NIC.
#[derive(Clone, Debug)]
pub struct Sent {
    pub kind: u16,
    pub id: u64,
    /// Between descriptor and payload.
    extended: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Sent {
    /// Pages that a GPA-direct packet names: number, offset and bytes.
    fn pages(&self) -> impl Iterator<Item = (u64, usize, usize)> {
        let ranges = self.extended.get(8..).unwrap_or_default();
        ranges.as_chunks::<16>().0.iter().map(|range| {
            let number = u128::from_le_bytes(*range);
            let word = |at: u32| (number >> at) as u32 as usize;
            ((number >> 64) as u64, word(32), word(0))
        })
    }

    pub fn word(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }
}

/// A change of the next packet.
#[derive(Clone, Copy)]
pub struct Lie {
    kind: u8,
    at: usize,
    value: u32,
}

impl Lie {
    pub fn new(input: &mut Input<'_>) -> Lie {
        Lie {
            kind: input.u8(),
            at: input.below(64),
            value: input.word(),
        }
    }
}

pub struct Host {
    arena: Rc<Arena>,
    read: usize,
    write: usize,
    next_slot: usize,
    pub waiting: VecDeque<Sent>,
    pub lie: Option<Lie>,
    /// Every packet so far was what an honest host sends.
    pub honest: bool,
    /// The rings hold what was put there by either side.
    pub orderly: bool,
    /// Ids of the NIC's requests, and the sections of those without an answer.
    pub ids: Vec<u64>,
    sections: HashMap<u64, u32>,
    /// Answers that the NIC owes, by the id of what asked for them.
    owed: HashMap<u64, u32>,
    /// Frames that the NIC sent.
    pub frames: Vec<Vec<u8>>,
    /// The NIC has asked for joined segments, over IPv4 and over IPv6.
    pub joins: [bool; 2],
}

fn at(index: usize) -> usize {
    index % SIZE
}

impl Host {
    pub fn new(arena: &Rc<Arena>) -> Host {
        Host {
            arena: arena.clone(),
            read: 0,
            write: 0,
            next_slot: 0,
            waiting: VecDeque::new(),
            lie: None,
            honest: true,
            orderly: true,
            ids: Vec::new(),
            sections: HashMap::new(),
            owed: HashMap::new(),
            frames: Vec::new(),
            joins: [false; 2],
        }
    }

    fn copy(&self, from: usize, bytes: &mut [u8]) {
        let (first, second) = bytes.split_at_mut(bytes.len().min(SIZE - from));
        self.arena.peek(PAGE + from, first);
        self.arena.peek(PAGE, second);
    }

    /// Reads what the NIC has sent.
    pub fn fetch(&mut self) {
        let told = self.arena.peek_u32(0) as usize % SIZE;
        while self.read != told {
            let mut head = [0; 16];
            self.copy(self.read, &mut head);
            let half = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
            let (offset, length) = (half(2) * 8, half(4) * 8);
            let whole = offset >= 16 && length >= offset && length + 8 <= SIZE;
            assert!(whole || !self.orderly, "no packet: {head:x?}");
            if !whole {
                self.read = told;
                break;
            }
            let mut payload = vec![0; length - offset];
            self.copy(at(self.read + offset), &mut payload);
            let mut extended = vec![0; offset - 16];
            self.copy(at(self.read + 16), &mut extended);
            let sent = Sent {
                extended,
                kind: half(0) as u16,
                id: u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|at: usize| head[at])),
                payload,
            };
            self.read = at(self.read + length + 8);
            if self.orderly {
                self.check(&sent, half(6) & 1 != 0);
            }
            self.waiting.push_back(sent);
        }
        self.arena.poke(4, &(self.read as u32).to_le_bytes());
    }

    /// What every packet of the NIC keeps to, whatever the host did.
    fn check(&mut self, sent: &Sent, answer: bool) {
        match sent.kind {
            11 => {
                let owed = self.owed.get_mut(&sent.id).filter(|owed| **owed > 0);
                *owed.expect("an answer that nobody waits for") -= 1;
                if self.honest && sent.payload.len() >= 8 {
                    assert_eq!(sent.word(4), status::SUCCESS);
                }
            }
            6 => {
                assert_eq!(sent.payload.len(), nvsp::MESSAGE_SIZE_V61);
                if answer {
                    assert!(sent.id != 0 && !self.ids.contains(&sent.id), "an id twice");
                    self.ids.push(sent.id);
                }
                if sent.word(0) == message::SEND_RNDIS_PACKET {
                    let section = sent.word(8);
                    assert!(!self.sections.values().any(|held| *held == section));
                    self.sections.insert(sent.id, section);
                }
            }
            9 => {
                assert!(answer && sent.id != 0 && !self.ids.contains(&sent.id));
                self.ids.push(sent.id);
                assert_eq!(sent.word(8), nvsp::NO_SECTION);
                for (pfn, offset, len) in sent.pages() {
                    let page = pfn.checked_sub(FIRST_PFN + SEND as u64);
                    assert!(page.is_some_and(|page| page < SEND_PAGES as u64), "a page");
                    assert!(len != 0 && offset + len <= PAGE);
                }
            }
            other => panic!("packet of kind {other}"),
        }
    }

    /// The RNDIS message in the section that a packet names.
    fn rndis(&self, sent: &Sent) -> Vec<u8> {
        if sent.kind == 9 {
            let mut bytes = Vec::new();
            for (pfn, offset, len) in sent.pages() {
                // A host that is not orderly may find anything in the ring.
                let page = (pfn.wrapping_sub(FIRST_PFN) % PAGES as u64) as usize;
                let (offset, len) = (offset % PAGE, len.min(PAGE - offset % PAGE));
                let mut part = vec![0; len];
                self.arena.peek(page * PAGE + offset, &mut part);
                bytes.extend(part);
            }
            return bytes;
        }
        let start = sent.word(8) as usize % SECTIONS * SECTION;
        let mut bytes = vec![0; (sent.word(12) as usize).min(SECTION)];
        self.arena.peek(SEND * PAGE + start, &mut bytes);
        bytes
    }

    /// Puts a packet into the ring to the NIC; `false`: there is no room.
    fn put(&mut self, kind: u16, flags: u16, id: u64, extended: &[u8], payload: &[u8]) -> bool {
        let mut payload = payload.to_vec();
        let start = RING_PAGES * PAGE;
        let total = (16 + extended.len() + payload.len()).next_multiple_of(8) + 8;
        let read = self.arena.peek_u32(start + 4) as usize % SIZE;
        if (self.write + SIZE - read) % SIZE + total + 8 > SIZE {
            return false;
        }
        let mut copies = 1;
        if let Some(lie) = self.lie.take() {
            self.honest = false;
            let at = lie.at % payload.len().max(1);
            match lie.kind % 8 {
                0 => copies = 0,
                1 => copies = 2,
                2 => payload.truncate(at),
                3 => payload
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|b| *b = lie.value as u8),
                _ => {
                    let words = payload
                        .iter_mut()
                        .skip(at & !3)
                        .zip(lie.value.to_le_bytes());
                    words.for_each(|(to, from)| *to = from);
                }
            }
        }
        let offset = 16 + extended.len();
        let length = (offset + payload.len()).next_multiple_of(8);
        let mut packet = Vec::new();
        for half in [kind, offset as u16 / 8, length as u16 / 8, flags] {
            packet.extend(half.to_le_bytes());
        }
        packet.extend(id.to_le_bytes());
        packet.extend(extended);
        packet.extend(&payload);
        packet.resize(length + 8, 0);
        for _ in 0..copies {
            let used = (self.write + SIZE - read) % SIZE;
            if used + packet.len() + 8 > SIZE {
                break;
            }
            let (first, second) = packet.split_at(packet.len().min(SIZE - self.write));
            self.arena.poke(start + PAGE + self.write, first);
            self.arena.poke(start + PAGE, second);
            self.write = at(self.write + packet.len());
            self.arena.poke(start, &(self.write as u32).to_le_bytes());
            if kind == 11 {
                self.sections.remove(&id);
            } else if flags & 1 != 0 {
                *self.owed.entry(id).or_default() += 1;
            }
        }
        true
    }

    /// A completion of anything.
    pub fn complete(&mut self, id: u64, payload: &[u8]) -> bool {
        self.put(11, 0, id, &[], payload)
    }

    /// An in-band packet.
    pub fn in_band(&mut self, flags: u16, id: u64, payload: &[u8]) -> bool {
        self.put(6, flags & 1, id, &[], payload)
    }

    /// A transfer-page packet with these ranges (bytes, offset).
    pub fn transfer(&mut self, id: u64, channel_type: u32, ranges: &[(u32, u32)]) -> bool {
        let mut extended = nvsp::RECEIVE_BUFFER_ID.to_le_bytes().to_vec();
        extended.extend([0, 0]);
        extended.extend((ranges.len() as u32).to_le_bytes());
        for (bytes, offset) in ranges {
            extended.extend(bytes.to_le_bytes());
            extended.extend(offset.to_le_bytes());
        }
        let carrier = nvsp::SendRndisPacket {
            message_type: message::SEND_RNDIS_PACKET.into(),
            channel_type: channel_type.into(),
            section_index: nvsp::NO_SECTION.into(),
            section_size: 0.into(),
        };
        self.put(7, 1, id, &extended, carrier.as_bytes())
    }

    /// Writes an RNDIS message into the next slot; its range.
    pub fn slot(&mut self, message: &[u8]) -> (u32, u32) {
        let offset = self.next_slot % SLOTS * SLOT;
        self.next_slot += 1;
        let message = &message[..message.len().min(SLOT)];
        self.arena.poke(RECEIVE * PAGE + offset, message);
        (message.len() as u32, offset as u32)
    }

    /// One control message to the NIC.
    pub fn control(&mut self, id: u64, message: &[u8]) -> bool {
        let mut message = message.to_vec();
        // A lie about a message in the buffer is about its bytes.
        if let Some(Lie { kind, at, value }) = self.lie.filter(|lie| lie.kind % 8 > 2) {
            self.lie = None;
            self.honest = false;
            let at = (at % message.len().max(1)) & !3;
            let bytes = if kind % 8 == 3 { 1 } else { 4 };
            let words = message.iter_mut().skip(at).zip(value.to_le_bytes());
            words.take(bytes).for_each(|(to, from)| *to = from);
        }
        let range = self.slot(&message);
        self.transfer(id, nvsp::channel_type::CONTROL, &[range])
    }

    /// A frame in a PACKET message, as OpenVMM lays it out, with words of information
    /// about it.
    pub fn packet(frame: &[u8], information: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        let message = rndis::Packet {
            header: header(rndis::message::PACKET, 256 + frame.len()),
            data_offset: 248.into(),
            data_length: (frame.len() as u32).into(),
            ppi_offset: 36.into(),
            ppi_length: (16 * information.len() as u32).into(),
            ..Default::default()
        };
        bytes[..44].copy_from_slice(message.as_bytes());
        for (place, (kind, value)) in bytes[44..].chunks_exact_mut(16).zip(information) {
            let element = rndis::PerPacketInfo {
                size: 16.into(),
                kind: (*kind).into(),
                value_offset: 12.into(),
            };
            place[..12].copy_from_slice(element.as_bytes());
            place[12..].copy_from_slice(&value.to_le_bytes());
        }
        bytes.extend(frame);
        bytes
    }

    /// Answers the oldest packet that waits for an answer. `false`: there is none, or
    /// no room for it.
    pub fn serve(&mut self) -> bool {
        let Some(sent) = self.waiting.front().cloned() else {
            return false;
        };
        if matches!(sent.kind, 6 | 9) && !self.answer(&sent) {
            return false;
        }
        self.waiting.pop_front();
        true
    }

    fn answer(&mut self, sent: &Sent) -> bool {
        match sent.word(0) {
            message::INIT => {
                let answer = nvsp::InitComplete {
                    message_type: message::INIT_COMPLETE.into(),
                    negotiated_version: u32::MAX.into(),
                    max_mdl_chain: 34.into(),
                    status: status::SUCCESS.into(),
                };
                self.complete(sent.id, answer.as_bytes())
            }
            message::SEND_RECEIVE_BUFFER => {
                let answer = nvsp::SendReceiveBufferComplete {
                    message_type: message::SEND_RECEIVE_BUFFER_COMPLETE.into(),
                    status: status::SUCCESS.into(),
                    section_count: 1.into(),
                    section: nvsp::ReceiveSection {
                        offset: 0.into(),
                        sub_allocation_size: (SLOT as u32).into(),
                        sub_allocation_count: (SLOTS as u32).into(),
                        end_offset: ((SLOT * SLOTS) as u32).into(),
                    },
                };
                self.complete(sent.id, answer.as_bytes())
            }
            message::SEND_SEND_BUFFER => {
                let answer = nvsp::SendSendBufferComplete {
                    message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
                    status: status::SUCCESS.into(),
                    section_size: (SECTION as u32).into(),
                };
                self.complete(sent.id, answer.as_bytes())
            }
            message::SEND_RNDIS_PACKET => {
                let rndis = self.rndis(sent);
                let answer = nvsp::SendRndisPacketComplete {
                    message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
                    status: status::SUCCESS.into(),
                };
                self.complete(sent.id, answer.as_bytes()) && self.answer_rndis(&rndis)
            }
            message::SUB_CHANNEL => {
                let answer = nvsp::SubChannelComplete {
                    message_type: message::SUB_CHANNEL.into(),
                    status: status::SUCCESS.into(),
                    count: sent.word(8).into(),
                };
                self.complete(sent.id, answer.as_bytes())
            }
            _ => true,
        }
    }

    /// A response for which there is no room now is lost; the bring-up leaves room.
    fn answer_rndis(&mut self, bytes: &[u8]) -> bool {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let request = word(8);
        let id = 0x9000 + u64::from(request);
        match word(0) {
            rndis::message::INITIALIZE => {
                let answer = rndis::InitializeComplete {
                    header: header(rndis::message::INITIALIZE_COMPLETE, 52),
                    request_id: request.into(),
                    major: 1.into(),
                    device_flags: rndis::DEVICE_CONNECTIONLESS.into(),
                    max_packets_per_message: 8.into(),
                    max_transfer: 0xefff.into(),
                    alignment_factor: 3.into(),
                    medium: rndis::MEDIUM_802_3.into(),
                    ..Default::default()
                };
                self.control(id, answer.as_bytes());
            }
            rndis::message::QUERY => {
                let value = match word(12) {
                    oid::PERMANENT_ADDRESS | oid::CURRENT_ADDRESS => MAC.to_vec(),
                    oid::MAXIMUM_FRAME_SIZE => 1500_u32.to_le_bytes().to_vec(),
                    oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => offloads().as_bytes().to_vec(),
                    oid::LINK_SPEED => 100_000_000_u32.to_le_bytes().to_vec(),
                    oid::RECEIVE_SCALE_CAPABILITIES => {
                        let mut value = vec![rndis::object::RSS_CAPABILITIES, 1, 16, 0];
                        value.extend([0x301_u32, 1, 8].map(u32::to_le_bytes).concat());
                        value
                    }
                    _ => 0_u32.to_le_bytes().to_vec(),
                };
                let answer = rndis::QueryComplete {
                    header: header(rndis::message::QUERY_COMPLETE, 24 + value.len()),
                    request_id: request.into(),
                    status: 0.into(),
                    buffer_length: (value.len() as u32).into(),
                    buffer_offset: 16.into(),
                };
                self.control(id, &[answer.as_bytes(), &value].concat());
            }
            rndis::message::SET => {
                if word(12) == oid::TCP_OFFLOAD_PARAMETERS {
                    // NDIS_OFFLOAD_PARAMETERS behind the request.
                    let rsc = [28 + 22, 28 + 23].map(|at| bytes.get(at).copied());
                    for (joins, said) in self.joins.iter_mut().zip(rsc) {
                        match said {
                            Some(offload_parameter::OFF) => *joins = false,
                            Some(offload_parameter::TX_OR_ON) => *joins = true,
                            _ => {}
                        }
                    }
                }
                let answer = rndis::StatusComplete {
                    header: header(rndis::message::SET_COMPLETE, 16),
                    request_id: request.into(),
                    status: 0.into(),
                };
                self.control(id, answer.as_bytes());
            }
            rndis::message::PACKET => {
                let start = (word(8) as usize).saturating_add(rndis::OFFSET_BASE);
                self.frames.push(bytes.get(start..).unwrap_or(&[]).to_vec());
            }
            _ => {}
        }
        true
    }
}

/// Checksums of both versions, and large sends.
fn offloads() -> rndis::Offload {
    let size = size_of::<rndis::Offload>();
    let mut value = rndis::Offload {
        header: rndis::ObjectHeader::new(rndis::object::OFFLOAD, 3, size),
        ..Default::default()
    };
    value.checksum.ipv4_tx = 0x155.into();
    value.checksum.ipv6_tx = 0x55.into();
    value.lso_v2.ipv4_encapsulation = 2.into();
    value.lso_v2.ipv4_max_size = 62780.into();
    (value.rsc_ipv4, value.rsc_ipv6) = (1, 1);
    value
}

fn header(message_type: u32, length: usize) -> rndis::Header {
    rndis::Header {
        message_type: message_type.into(),
        length: (length as u32).into(),
    }
}
