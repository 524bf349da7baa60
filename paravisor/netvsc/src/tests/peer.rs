//! A host that says what a test tells it to say: it reads and writes the rings
//! by itself, and answers the script honestly where the test does not care.

use super::messages::*;
use crate::{Config, Delivery, Event, Nic, POLICY, Polled};
use abi::nvsp::{self, message, status};
use abi::rndis::{self, oid};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use memory::doubles::{DoubleFetch, PlainShared, VecGuest};
use memory::{GuestMemory, PAGE_SIZE, Parcel, SharedMemory};
use validate::frame::{Arrived, FlowHash, Headers};
use vmbus::Channel;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

pub const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 0x0A, 0x0B, 0x0C];
pub const SLOT: usize = 1806;
pub const SLOTS: usize = 64;
pub const SECTION: usize = 6144;
pub const SECTIONS: usize = 16;
/// Pages of each ring with its control page.
const RING_PAGES: usize = 5;

/// A packet of the guest.
#[derive(Clone, Debug)]
pub struct Sent {
    pub kind: u16,
    pub flags: u16,
    pub id: u64,
    /// Between descriptor and payload.
    pub extended: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Sent {
    pub fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
    pub fn nvsp(&self) -> u32 {
        self.word(0)
    }
}

type Memory = DoubleFetch<PlainShared>;

pub struct Peer {
    pub nic: Nic<Memory>,
    pub channel: Channel<Memory>,
    pub now: u64,
    /// Frames that reached the guest's side.
    pub frames: Vec<Vec<u8>>,
    /// Whether the host vouched for each.
    pub vouched: Vec<bool>,
    /// Of each frame the headers, if it was joined.
    pub joined: Vec<Option<Headers>>,
    /// And the hash that came with it.
    pub hashes: Vec<Option<FlowHash>>,
    /// Where they are written to.
    guest: VecGuest,
    /// Takes them private and in a row, in place of pieces.
    pub whole: bool,
    /// How many frames the guest's side takes before it has no room.
    pub room: usize,
    pub events: Vec<Event>,
    /// Sends nothing of its own while set.
    pub mute: bool,
    /// Status of RNDIS queries by OID, in place of success.
    pub refuse_oid: Option<u32>,
    pub complete_transmits: bool,
    /// What the host can do for frames.
    pub offloads: rndis::Offload,
    /// What was switched on.
    pub parameters: Option<rndis::OffloadParameters>,
    pub link_up: bool,
    /// How many sub-channels it was asked for, and what it answers.
    pub asked: Option<u32>,
    pub grant: Option<(u32, u32)>,
    pub scale: rndis::RssCapabilities,
    /// Parameters of receive scaling that were set, not answered while mute.
    pub spread: Vec<Vec<u8>>,
    pub mute_spread: bool,
    /// Medium that INITIALIZE is answered with.
    pub medium: u32,
    /// And what it allows in one packet: messages, bytes, and the power of two that they
    /// are aligned to.
    pub allowed: [u32; 3],
    rings: PlainShared,
    pub receive: PlainShared,
    pub send: PlainShared,
    read: usize,
    write: usize,
    next_slot: usize,
    /// Everything that the guest sent.
    pub log: Vec<Sent>,
    waiting: VecDeque<Sent>,
}

pub fn config() -> Config {
    Config {
        receive_gpadl: 0xE1E11,
        send_gpadl: 0xE1E12,
        mtu: 1500,
        mac: None,
        promiscuous: false,
        enforce_unmeasured: true,
        trust_checksums: true,
        coalescing: false,
        seed: 0x0123_4567_89AB_CDEF,
        sub_channels: 0,
    }
}

/// A channel that is not at hand.
pub struct Wires {
    channel: Channel<Memory>,
    rings: PlainShared,
    read: usize,
    write: usize,
}

impl Wires {
    pub fn new() -> Wires {
        let rings = PlainShared::new(2 * RING_PAGES, 0x100);
        let shared = DoubleFetch::rings(rings.clone(), RING_PAGES);
        Wires {
            channel: Channel::new(shared, RING_PAGES as u32, POLICY).unwrap(),
            rings,
            read: 0,
            write: 0,
        }
    }
}

impl Peer {
    /// Goes on with another channel of the card.
    pub fn change(&mut self, wires: &mut Wires) {
        use core::mem::swap;
        swap(&mut self.channel, &mut wires.channel);
        swap(&mut self.rings, &mut wires.rings);
        swap(&mut self.read, &mut wires.read);
        swap(&mut self.write, &mut wires.write);
    }

    /// Views of both buffers.
    pub fn views(&self) -> (Memory, Memory) {
        let view = |memory: &PlainShared| DoubleFetch::new(memory.clone(), &[]);
        (view(&self.receive), view(&self.send))
    }

    /// What the guest sent on the channel at hand since the last look.
    pub fn taken(&mut self) -> Vec<Sent> {
        self.fetch();
        self.waiting.drain(..).collect()
    }

    pub fn new() -> Peer {
        Peer::with(config())
    }

    pub fn with(config: Config) -> Peer {
        let rings = PlainShared::new(2 * RING_PAGES, 0x100);
        let receive = PlainShared::new(SLOT * SLOTS / PAGE_SIZE + 1, 0x200);
        let send = PlainShared::new(SECTIONS * SECTION / PAGE_SIZE, 0x300);
        let shared = DoubleFetch::rings(rings.clone(), RING_PAGES);
        let channel = Channel::new(shared, RING_PAGES as u32, POLICY).unwrap();
        let everything = |memory: &PlainShared| DoubleFetch::new(memory.clone(), &[]);
        Peer {
            nic: Nic::new(config, everything(&receive), everything(&send)).unwrap(),
            channel,
            now: 1000,
            frames: Vec::new(),
            vouched: Vec::new(),
            joined: Vec::new(),
            hashes: Vec::new(),
            guest: VecGuest::new(0x11000),
            whole: false,
            room: usize::MAX,
            events: Vec::new(),
            mute: false,
            refuse_oid: None,
            complete_transmits: true,
            offloads: offloads(),
            parameters: None,
            link_up: true,
            asked: None,
            grant: Some((1, 3)),
            scale: scale(8),
            spread: Vec::new(),
            mute_spread: false,
            medium: rndis::MEDIUM_802_3,
            allowed: [8, 0xEFFF, 3],
            rings,
            receive,
            send,
            read: 0,
            write: 0,
            next_slot: 0,
            log: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// A peer whose NIC is ready and has told so.
    pub fn ready() -> Peer {
        Peer::new().started()
    }

    /// The same, of a peer that was told what its host is like.
    pub fn started(mut self) -> Peer {
        self.nic.start(self.now);
        self.settle();
        assert!(self.nic.is_ready(), "{:?}", self.nic.failed());
        self.log.clear();
        self.events.clear();
        self
    }

    /// One poll of the NIC; its events are collected.
    pub fn poll(&mut self) -> Polled {
        let Peer {
            frames,
            vouched,
            joined,
            hashes,
            room,
            guest,
            ..
        } = self;
        let channel = &mut self.channel;
        let take = |parcel: &mut Parcel<'_>, arrived: Arrived| {
            let Some(left) = room.checked_sub(1) else {
                return Delivery::Wait;
            };
            *room = left;
            let mut frame = alloc::vec![0; parcel.len()];
            parcel.write(guest, 0, frame.len()).unwrap();
            guest.read(0, &mut frame).unwrap();
            frames.push(frame);
            vouched.push(arrived.vouched());
            joined.push(arrived.joined().copied());
            hashes.push(arrived.hash());
            Delivery::Taken
        };
        let polled = self.nic.poll_parcels(channel, self.now, self.whole, take);
        while let Some(event) = self.nic.take_event(self.now) {
            self.events.push(event);
        }
        polled
    }

    /// Polls and answers until both sides are quiet.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            self.now += 100;
            let more = self.poll().more;
            self.fetch();
            if self.waiting.is_empty() && !more {
                return;
            }
            while let Some(packet) = self.waiting.pop_front() {
                self.serve(&packet);
            }
        }
        panic!("never quiet");
    }

    /// Polls once and gives what the guest sent since.
    pub fn heard(&mut self) -> Vec<Sent> {
        let _ = self.poll();
        self.fetch();
        self.waiting.drain(..).collect()
    }

    fn fetch(&mut self) {
        let (mut head, size) = ([0; 16], (RING_PAGES - 1) * PAGE_SIZE);
        while self.read != self.rings.load_u32(0).unwrap() as usize {
            self.copy_ring(self.read, &mut head);
            let field = |at: usize| u16::from_le_bytes(head[at..at + 2].try_into().unwrap());
            let (kind, offset, length, flags) = (
                field(0),
                field(2) as usize * 8,
                field(4) as usize * 8,
                field(6),
            );
            let mut payload = alloc::vec![0; length - offset];
            self.copy_ring((self.read + offset) % size, &mut payload);
            let id = u64::from_le_bytes(head[8..16].try_into().unwrap());
            let mut extended = alloc::vec![0; offset - 16];
            self.copy_ring((self.read + 16) % size, &mut extended);
            self.read = (self.read + length + 8) % size;
            self.rings.store_u32(4, self.read as u32).unwrap();
            let sent = Sent {
                kind,
                flags,
                id,
                extended,
                payload,
            };
            self.log.push(sent.clone());
            self.waiting.push_back(sent);
        }
    }

    fn copy_ring(&self, at: usize, bytes: &mut [u8]) {
        let size = (RING_PAGES - 1) * PAGE_SIZE;
        let (first, second) = bytes.split_at_mut(bytes.len().min(size - at));
        self.rings.copy_in(PAGE_SIZE + at, first).unwrap();
        self.rings.copy_in(PAGE_SIZE, second).unwrap();
    }

    /// Puts a packet into the ring to the guest. `extended` stands between
    /// descriptor and payload.
    pub fn put(&mut self, kind: u16, flags: u16, id: u64, extended: &[u8], payload: &[u8]) {
        let mut bytes = alloc::vec![0; 16];
        bytes.extend_from_slice(extended);
        let offset = bytes.len();
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&(offset as u16 / 8).to_le_bytes());
        let length = bytes.len() as u16 / 8;
        bytes[4..6].copy_from_slice(&length.to_le_bytes());
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let start = RING_PAGES * PAGE_SIZE;
        let size = (RING_PAGES - 1) * PAGE_SIZE;
        let read = self.rings.load_u32(start + 4).unwrap() as usize;
        let used = (self.write + size - read) % size;
        assert!(bytes.len() + 8 <= size - used, "ring to the guest is full");
        let (first, second) = bytes.split_at(bytes.len().min(size - self.write));
        let data = start + PAGE_SIZE;
        self.rings.copy_out(data + self.write, first).unwrap();
        self.rings.copy_out(data, second).unwrap();
        self.write = (self.write + bytes.len()) % size;
        self.rings.store_u32(start, self.write as u32).unwrap();
    }

    /// A completion.
    pub fn complete(&mut self, id: u64, payload: &[u8]) {
        self.put(11, 0, id, &[], payload);
    }

    /// An in-band packet.
    pub fn in_band(&mut self, flags: u16, id: u64, payload: &[u8]) {
        self.put(6, flags, id, &[], payload);
    }

    /// A transfer-page packet with these ranges (bytes, offset).
    pub fn transfer(&mut self, id: u64, channel_type: u32, ranges: &[(u32, u32)]) {
        let mut extended = Vec::new();
        extended.extend_from_slice(&nvsp::RECEIVE_BUFFER_ID.to_le_bytes());
        extended.extend_from_slice(&[0xFF, 0xFF]);
        extended.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
        for (bytes, offset) in ranges {
            extended.extend_from_slice(&bytes.to_le_bytes());
            extended.extend_from_slice(&offset.to_le_bytes());
        }
        let carrier = nvsp::SendRndisPacket {
            message_type: message::SEND_RNDIS_PACKET.into(),
            channel_type: channel_type.into(),
            section_index: nvsp::NO_SECTION.into(),
            section_size: 0.into(),
        };
        self.put(7, 1, id, &extended, carrier.as_bytes());
    }

    /// Writes an RNDIS message into the next slot; its range.
    pub fn slot(&mut self, message: &[u8]) -> (u32, u32) {
        let offset = self.next_slot % SLOTS * SLOT;
        self.next_slot += 1;
        self.receive.copy_out(offset, message).unwrap();
        (message.len() as u32, offset as u32)
    }

    /// One control message to the guest.
    pub fn control(&mut self, id: u64, message: &[u8]) {
        let range = self.slot(message);
        self.transfer(id, nvsp::channel_type::CONTROL, &[range]);
    }

    /// An event without buffer.
    pub fn indicate(&mut self, id: u64, status: u32) {
        let event = rndis::IndicateStatus {
            header: header(rndis::message::INDICATE_STATUS, 20),
            status: status.into(),
            ..Default::default()
        };
        self.control(id, event.as_bytes());
    }

    /// The RNDIS message that a packet of the guest carries in its section.
    pub fn rndis(&self, packet: &Sent) -> Vec<u8> {
        assert_eq!(packet.nvsp(), message::SEND_RNDIS_PACKET);
        if packet.kind == 9 {
            return self.direct(packet);
        }
        let mut bytes = alloc::vec![0; packet.word(12) as usize];
        self.send
            .copy_in(packet.word(8) as usize * SECTION, &mut bytes)
            .unwrap();
        bytes
    }

    /// The messages of a packet about frames, as a host finds them: each as long as its
    /// head says. Padding is cut off here, and is zero.
    pub fn frames_of(&self, packet: &Sent) -> Vec<Vec<u8>> {
        let all = self.rndis(packet);
        let mut rest = &all[..];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(word(0), rndis::message::PACKET);
            let (message, behind) = rest.split_at(word(4) as usize);
            let end = 8 + (word(8) + word(12)) as usize;
            let (message, padding) = message.split_at(end);
            assert!(padding.iter().all(|byte| *byte == 0));
            assert!(padding.len() < 1 << self.allowed[2].min(7));
            let mut message = message.to_vec();
            message[4..8].copy_from_slice(&(end as u32).to_le_bytes());
            messages.push(message);
            rest = behind;
        }
        messages
    }

    /// The bytes at the pages that a GPA-direct packet names.
    fn direct(&self, packet: &Sent) -> Vec<u8> {
        assert_eq!((packet.word(8), packet.word(12)), (nvsp::NO_SECTION, 0));
        let word = |at: usize| u32::from_le_bytes(packet.extended[at..at + 4].try_into().unwrap());
        let mut bytes = Vec::new();
        for range in 0..word(4) as usize {
            let at = 8 + 16 * range;
            let (len, offset, pfn) = (word(at), word(at + 4), word(at + 8));
            assert_eq!(word(at + 12), 0);
            let start = (pfn as usize - 0x300) * PAGE_SIZE + offset as usize;
            let mut part = alloc::vec![0; len as usize];
            // Fails for any page that is not one of the send buffer's.
            self.send.copy_in(start, &mut part).unwrap();
            bytes.extend(part);
        }
        bytes
    }

    /// Answers one packet as an honest host does.
    pub fn serve(&mut self, packet: &Sent) {
        if !matches!(packet.kind, 6 | 9) || self.mute {
            return;
        }
        match packet.nvsp() {
            message::INIT => self.complete(packet.id, init_complete(status::SUCCESS).as_bytes()),
            message::SEND_RECEIVE_BUFFER => {
                self.complete(packet.id, receive_buffer_complete().as_bytes());
            }
            message::SEND_SEND_BUFFER => {
                self.complete(packet.id, send_buffer_complete().as_bytes());
            }
            message::SEND_RNDIS_PACKET => {
                let rndis = self.rndis(packet);
                if self.complete_transmits || packet.word(4) == 1 {
                    self.complete(packet.id, transmitted(status::SUCCESS).as_bytes());
                }
                self.serve_rndis(&rndis);
            }
            message::SUB_CHANNEL => {
                assert_eq!(packet.word(4), 1, "operation");
                self.asked = Some(packet.word(8));
                if let Some((status, count)) = self.grant {
                    let answer = nvsp::SubChannelComplete {
                        message_type: message::SUB_CHANNEL.into(),
                        status: status.into(),
                        count: count.into(),
                    };
                    self.complete(packet.id, answer.as_bytes());
                }
            }
            _ => assert_eq!(packet.flags, 0, "nothing else asks for an answer"),
        }
    }

    fn serve_rndis(&mut self, bytes: &[u8]) {
        let word = |at: usize| U32::read_from_bytes(&bytes[at..at + 4]).unwrap().get();
        let id = 0x9000 + u64::from(word(8));
        match word(0) {
            rndis::message::INITIALIZE => {
                let mut answer = initialize_complete(word(8));
                answer.medium = self.medium.into();
                let [messages, transfer, alignment] = self.allowed;
                answer.max_packets_per_message = messages.into();
                answer.max_transfer = transfer.into();
                answer.alignment_factor = alignment.into();
                self.control(id, answer.as_bytes());
            }
            rndis::message::QUERY => {
                let oid = word(12);
                let value = match oid {
                    oid::PERMANENT_ADDRESS | oid::CURRENT_ADDRESS => MAC.to_vec(),
                    oid::MAXIMUM_FRAME_SIZE => 1500u32.to_le_bytes().to_vec(),
                    oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => {
                        let asked = rndis::Offload::read_from_bytes(&bytes[28..]).unwrap();
                        assert_eq!(asked.header.object_type, rndis::object::OFFLOAD);
                        assert_eq!(asked.header.size.get(), 156);
                        self.offloads.as_bytes().to_vec()
                    }
                    oid::RECEIVE_SCALE_CAPABILITIES => self.scale.as_bytes().to_vec(),
                    oid::LINK_SPEED => 100_000_000u32.to_le_bytes().to_vec(),
                    oid::MEDIA_CONNECT_STATUS => u32::from(!self.link_up).to_le_bytes().to_vec(),
                    other => panic!("query of {other:#x}"),
                };
                let refused = self.refuse_oid == Some(oid);
                let status = if refused {
                    rndis::status::NOT_SUPPORTED
                } else {
                    0
                };
                let answer = query_complete(word(8), status, &value);
                self.control(id, &answer);
            }
            rndis::message::SET => {
                let oid = word(12);
                if oid == oid::TCP_OFFLOAD_PARAMETERS {
                    let set = rndis::OffloadParameters::read_from_bytes(&bytes[28..]);
                    self.parameters = Some(set.unwrap());
                } else if oid == oid::RECEIVE_SCALE_PARAMETERS {
                    self.spread.push(bytes[28..].to_vec());
                    if self.mute_spread {
                        return;
                    }
                } else {
                    assert_eq!(oid, oid::CURRENT_PACKET_FILTER);
                }
                let status = match self.refuse_oid == Some(oid) {
                    true => rndis::status::FAILURE,
                    false => 0,
                };
                let answer = set_complete(word(8), status);
                self.control(id, answer.as_bytes());
            }
            rndis::message::PACKET | rndis::message::HALT => {}
            rndis::message::KEEPALIVE_COMPLETE => {}
            other => panic!("RNDIS type {other:#x}"),
        }
    }
}
