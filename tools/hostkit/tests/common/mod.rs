//! A client by hand: just enough VMBus, NVSP and RNDIS to bring a NIC up.
#![allow(dead_code)]
use abi::hyperv::{CallResult, Control, PostMessage, Sint, call, msr};
use abi::vmbus::{PACKET_TRAILER_SIZE, PAGE_SIZE, PacketType};
use std::rc::Rc;
use undercroft_hostkit::backend::Loopback;
use undercroft_hostkit::hv::NoHook;
use undercroft_hostkit::mem::VecMemory;
use undercroft_hostkit::ring::packet;
use undercroft_hostkit::vmbus::Target;
use undercroft_hostkit::{Machine, MachineConfig, VmMemory};
use zerocopy::{FromZeros, IntoBytes};

pub type Host = Machine<Rc<VecMemory>, Loopback>;
const SIMP: u64 = 0x1000;
const SIEFP: u64 = 0x2000;
/// First page of the rings: 4 pages up, 4 pages down.
pub const RING: u64 = 0x10_000;
pub const HALF: u64 = 4;
pub const RECEIVE: u64 = 0x20_000;
pub const RECEIVE_PAGES: u64 = 64;
pub const SEND: u64 = 0x80_000;
pub const SEND_PAGES: u64 = 16;
pub const SECTION: u64 = 6144;

/// A packet out of the host-to-guest ring.
#[derive(Debug)]
pub struct Got {
    pub kind: u16,
    pub transaction: u64,
    pub extended: Vec<u8>,
    pub payload: Vec<u8>,
}

/// What the client keeps of one channel.
#[derive(Debug, Default)]
pub struct Wires {
    pub ring: u64,
    pub signal_connection: u32,
    pub flag: u16,
    pub write: u32,
    pub read: u32,
}

pub struct Client {
    pub mem: Rc<VecMemory>,
    /// The channel at hand.
    pub ring: u64,
    pub host: Host,
    target: Target,
    pub signal_connection: u32,
    pub flag: u16,
    write: u32,
    read: u32,
    now: u64,
    pub transaction: u64,
}

pub fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(b[at..at + 2].try_into().unwrap())
}
pub fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}
/// Little-endian words one after another.
pub fn words(w: &[u32]) -> Vec<u8> {
    w.iter().flat_map(|w| w.to_le_bytes()).collect()
}

impl Client {
    pub fn new(config: MachineConfig) -> Self {
        Self::with_backend(config, Loopback::default())
    }

    pub fn with_backend(config: MachineConfig, backend: Loopback) -> Self {
        let mem = Rc::new(VecMemory::new(0x10_0000));
        let mut host = Machine::new(mem.clone(), backend, config);
        let target = config.server.target;
        for (m, v) in [
            (msr::GUEST_OS_ID, 1 << 63),
            (msr::SIMP, SIMP | 1),
            (msr::SIEFP, SIEFP | 1),
            (msr::SINT0 + u32::from(target.sint), Sint::new(0x50, true).0),
            (msr::SCONTROL, 1),
        ] {
            host.msr_write(0, m, v).unwrap();
        }
        Client {
            mem,
            host,
            target,
            ring: RING,
            signal_connection: 0,
            flag: 0,
            write: 0,
            read: 0,
            now: 0,
            transaction: 0,
        }
    }

    pub fn poll(&mut self) {
        self.now += 1000;
        for _ in 0..100 {
            if self.host.poll(self.now) != Some(self.now) {
                return;
            }
        }
        panic!("host is never done");
    }

    pub fn post(&mut self, payload: &[u8]) {
        let mut m = PostMessage::new_zeroed();
        m.connection_id = *self.target.connections.last().unwrap();
        (m.message_type, m.payload_size) = (1, payload.len() as u32);
        m.payload[..payload.len()].copy_from_slice(payload);
        let control = Control::simple(call::POST_MESSAGE).0;
        let r = self
            .host
            .hypercall(&mut NoHook, 0, control, m.as_bytes(), &mut []);
        assert_eq!(CallResult(r).status(), 0);
        self.poll();
    }

    /// Next message out of the slot.
    pub fn message(&mut self) -> Option<Vec<u8>> {
        let slot = SIMP + 256 * u64::from(self.target.sint);
        let mut m = [0; 256];
        self.mem.read(slot, &mut m).unwrap();
        if u32_at(&m, 0) == 0 {
            return None;
        }
        self.mem.store_u32(slot, 0).unwrap();
        let mut flags = [0];
        self.mem.read(slot + 5, &mut flags).unwrap();
        if flags[0] & 1 != 0 {
            self.host.msr_write(0, msr::EOM, 0).unwrap();
        }
        Some(m[16..16 + usize::from(m[4])].to_vec())
    }

    pub fn messages(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.message()).collect()
    }

    /// Sends a message and expects exactly one answer of this type.
    pub fn ask(&mut self, message: &[u8], answer: u32) -> Vec<u8> {
        self.post(message);
        let m = self.messages();
        assert_eq!(m.len(), 1, "{m:x?}");
        assert_eq!(u32_at(&m[0], 0), answer);
        m[0].clone()
    }

    pub fn contact(&mut self, version: u32, features: u32) -> Vec<u8> {
        let mut m = words(&[14, 0, version, 0, 2, features, 0, 0, 0, 0]);
        m.resize(40, 0);
        self.ask(&m, 15)
    }

    pub fn gpadl(&mut self, relid: u32, id: u32, first: u64, pages: u64) -> Vec<u8> {
        let pfns: Vec<u64> = (0..pages).map(|i| (first >> 12) + i).collect();
        let length = 8 + 8 * pages as u32;
        let mut m = words(&[8, 0, relid, id, length | 1 << 16, pages as u32 * 4096, 0]);
        let (head, rest) = pfns.split_at(pfns.len().min(26));
        m.extend(head.iter().flat_map(|p| p.to_le_bytes()));
        self.post(&m);
        for (i, chunk) in rest.chunks(28).enumerate() {
            assert!(self.messages().is_empty());
            let mut m = words(&[9, 0, i as u32 + 1, id]);
            m.extend(chunk.iter().flat_map(|p| p.to_le_bytes()));
            self.post(&m);
        }
        let m = self.messages();
        assert_eq!(m.len(), 1);
        m[0].clone()
    }

    /// Version, offers, rings. Leaves the NIC's channel open.
    pub fn open(&mut self, version: u32, features: u32) -> u32 {
        let response = self.contact(version, features);
        assert_eq!((response[8], response[9]), (1, 0));
        self.post(&words(&[3, 0]));
        let offers = self.messages();
        assert_eq!(offers.len(), 2);
        assert_eq!((u32_at(&offers[0], 0), u32_at(&offers[1], 0)), (1, 4));
        let relid = u32_at(&offers[0], 184);
        self.open_channel(
            relid,
            u32_at(&offers[0], 192),
            features & 3 == 3 && version >= 0x6_0000,
        );
        relid
    }

    pub fn open_channel(&mut self, relid: u32, connection: u32, own: bool) {
        let ring = self.ring;
        let gpadl = if ring == RING { 1 } else { relid + 100 };
        self.mem
            .guest(ring, (2 * HALF) as usize * PAGE_SIZE, |b| b.fill(0));
        (self.write, self.read) = (0, 0);
        assert_eq!(u32_at(&self.gpadl(relid, gpadl, ring, 2 * HALF), 16), 0);
        let mut m = words(&[5, 0, relid, 99, gpadl, 0, HALF as u32]);
        m.resize(148, 0);
        (self.signal_connection, self.flag) = (connection, relid as u16);
        if own {
            self.signal_connection = relid + 0x27000;
            m.extend(self.signal_connection.to_le_bytes());
            m.extend(self.flag.to_le_bytes());
            m.extend([1, 0]);
        }
        let result = self.ask(&m, 6);
        assert_eq!(
            (u32_at(&result, 8), u32_at(&result, 12), u32_at(&result, 16)),
            (relid, 99, 0)
        );
    }

    /// Goes on with another channel; `wires` keeps what the one at hand has.
    pub fn change(&mut self, wires: &mut Wires) {
        use std::mem::swap;
        swap(&mut self.ring, &mut wires.ring);
        swap(&mut self.signal_connection, &mut wires.signal_connection);
        swap(&mut self.flag, &mut wires.flag);
        swap(&mut self.write, &mut wires.write);
        swap(&mut self.read, &mut wires.read);
    }

    pub fn signal(&mut self) {
        let mut input = self.signal_connection.to_le_bytes().to_vec();
        input.resize(8, 0);
        let control = Control::simple(call::SIGNAL_EVENT).0;
        let r = self
            .host
            .hypercall(&mut NoHook, 0, control, &input, &mut []);
        assert_eq!(CallResult(r).status(), 0);
        self.poll();
    }

    /// Takes the channel's event flag.
    pub fn event(&mut self) -> bool {
        let at = SIEFP + 256 * u64::from(self.target.sint) + u64::from(self.flag / 8);
        let bit = 1 << (self.flag % 8);
        self.mem
            .guest(at, 1, |b| std::mem::replace(&mut b[0], 0) & bit != 0)
            .unwrap()
    }

    /// Writes a packet into the guest-to-host ring and signals.
    pub fn send(&mut self, p: &[u8]) {
        let size = (HALF - 1) as u32 * PAGE_SIZE as u32;
        let mut bytes = p.to_vec();
        bytes.extend((u64::from(self.write) << 32).to_le_bytes());
        for b in bytes {
            let at = self.ring + PAGE_SIZE as u64 + u64::from(self.write);
            self.mem.write(at, &[b]).unwrap();
            self.write = (self.write + 1) % size;
        }
        self.mem.store_u32(self.ring, self.write).unwrap();
        self.signal();
    }

    /// Reads the next packet of the host-to-guest ring.
    pub fn receive(&mut self) -> Option<Got> {
        let ring = self.ring + HALF * PAGE_SIZE as u64;
        let size = (HALF - 1) as u32 * PAGE_SIZE as u32;
        let write = self.mem.load_u32(ring).unwrap();
        if write == self.read {
            return None;
        }
        let at = |i: usize| {
            ring + PAGE_SIZE as u64 + (u64::from(self.read) + i as u64) % u64::from(size)
        };
        let mut head = [0; 16];
        for (i, b) in head.iter_mut().enumerate() {
            self.mem.read(at(i), std::slice::from_mut(b)).unwrap();
        }
        let (data, len) = (
            usize::from(u16_at(&head, 2)) * 8,
            usize::from(u16_at(&head, 4)) * 8,
        );
        let mut body = vec![0; len];
        for (i, b) in body.iter_mut().enumerate() {
            self.mem.read(at(i), std::slice::from_mut(b)).unwrap();
        }
        self.read = (self.read + (len + PACKET_TRAILER_SIZE) as u32) % size;
        self.mem.store_u32(ring + 4, self.read).unwrap();
        Some(Got {
            kind: u16_at(&head, 0),
            transaction: u64::from_le_bytes(head[8..16].try_into().unwrap()),
            extended: body[16..data].to_vec(),
            payload: body[data..].to_vec(),
        })
    }

    /// One NVSP request in-band, its completion back.
    pub fn nvsp(&mut self, message: &[u8]) -> Vec<u8> {
        self.nvsp_send(message);
        let got = self.receive().expect("completion");
        assert_eq!((got.kind, got.transaction), (11, self.transaction));
        got.payload
    }

    pub fn nvsp_send(&mut self, message: &[u8]) {
        self.transaction += 1;
        let mut m = message.to_vec();
        m.resize(40, 0);
        self.send(&packet(PacketType::IN_BAND, 1, self.transaction, &[], &m));
    }

    /// Gives a receive packet back.
    pub fn done(&mut self, transaction: u64) {
        self.send(&packet(
            PacketType::COMPLETION,
            0,
            transaction,
            &[],
            &words(&[108, 1]),
        ));
    }

    /// Sends RNDIS through section 0 of the send buffer.
    pub fn rndis_send(&mut self, channel: u32, rndis: &[u8]) -> u32 {
        self.mem.write(SEND, rndis).unwrap();
        u32_at(
            &self.nvsp(&words(&[107, channel, 0, rndis.len() as u32])),
            4,
        )
    }

    /// Ranges of a receive packet.
    pub fn ranges(&self, got: &Got) -> Vec<Vec<u8>> {
        assert_eq!(
            (got.kind, u16_at(&got.extended, 0), u32_at(&got.payload, 0)),
            (7, 0xCAFE, 107)
        );
        let count = u32_at(&got.extended, 4) as usize;
        let range = |i: usize| {
            let mut b = vec![0; u32_at(&got.extended, 8 + 8 * i) as usize];
            self.mem
                .read(
                    RECEIVE + u64::from(u32_at(&got.extended, 12 + 8 * i)),
                    &mut b,
                )
                .unwrap();
            b
        };
        (0..count).map(range).collect()
    }

    /// A control request and the RNDIS answer.
    pub fn control(&mut self, rndis: &[u8]) -> Vec<u8> {
        assert_eq!(self.rndis_send(1, rndis), 1);
        let got = self.receive().expect("answer");
        let mut answer = self.ranges(&got);
        self.done(got.transaction);
        assert_eq!((answer.len(), u32_at(&got.payload, 4)), (1, 1));
        answer.remove(0)
    }

    pub fn query(&mut self, oid: u32) -> (u32, Vec<u8>) {
        let a = self.control(&words(&[4, 28, 7, oid, 0, 0, 0]));
        assert_eq!(
            (u32_at(&a, 0), u32_at(&a, 4) as usize, u32_at(&a, 8)),
            (0x8000_0004, a.len(), 7)
        );
        (u32_at(&a, 12), a[24..24 + u32_at(&a, 16) as usize].to_vec())
    }

    /// NVSP 6.1, buffers.
    pub fn buffers(&mut self, relid: u32) {
        let a = self.nvsp(&words(&[1, 0x6_0001, 0x6_0001]));
        assert_eq!((u32_at(&a, 0), u32_at(&a, 12)), (2, 1));
        self.nvsp(&words(&[125, 1514, 0, 0, 0]));
        self.nvsp(&words(&[100, 6, 30]));
        assert_eq!(u32_at(&self.gpadl(relid, 2, RECEIVE, RECEIVE_PAGES), 16), 0);
        let a = self.nvsp(&words(&[101, 2, 0xCAFE]));
        assert_eq!((u32_at(&a, 0), u32_at(&a, 4), u32_at(&a, 8)), (102, 1, 1));
        assert_eq!(u32_at(&a, 16), 1806);
        assert_eq!(u32_at(&self.gpadl(relid, 3, SEND, SEND_PAGES), 16), 0);
        let a = self.nvsp(&words(&[104, 3, 0]));
        assert_eq!(
            (u32_at(&a, 0), u32_at(&a, 4), u32_at(&a, 8)),
            (105, 1, 6144)
        );
    }

    /// RNDIS up, packet filter set.
    pub fn rndis(&mut self) {
        let a = self.control(&words(&[2, 24, 1, 1, 0, 0x4000]));
        assert_eq!(
            (a.len(), u32_at(&a, 0), u32_at(&a, 12)),
            (52, 0x8000_0002, 0)
        );
        let a = self.control(&words(&[5, 32, 2, 0x0001_010E, 4, 20, 0, 0xD]));
        assert_eq!((u32_at(&a, 0), u32_at(&a, 12)), (0x8000_0005, 0));
    }

    /// All the way up, version 6.0 with redirected signals.
    pub fn up(config: MachineConfig, backend: Loopback) -> (Client, u32) {
        let mut c = Client::with_backend(config, backend);
        let relid = c.open(0x6_0000, 3);
        c.buffers(relid);
        c.rndis();
        (c, relid)
    }
}

/// RNDIS PACKET around a frame, as a client sends it.
pub fn rndis_packet(frame: &[u8]) -> Vec<u8> {
    let len = frame.len() as u32;
    let mut m = words(&[1, 44 + len, 36, len, 0, 0, 0, 0, 0, 0, 0]);
    m.extend(frame);
    m
}
