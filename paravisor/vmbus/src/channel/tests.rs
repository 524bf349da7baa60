//! Tests of the rings, against a host that is written here from the protocol's
//! text and keeps to it unless a test makes it lie.

mod rules;
mod structural;
mod sweep;

use super::*;
use abi::vmbus::*;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use memory::doubles::{DoubleFetch, PlainShared};
use validate::Rule;
use validate::packet::Kind;

const POLICY: Policy = Policy {
    transfer_set: 0xcafe,
    max_ranges: 375,
};

/// The host's end of both rings. It trusts nobody either: own indices.
struct Host {
    memory: PlainShared,
    /// Data size of one ring; both are alike.
    size: u32,
    read: u32,
    write: u32,
}

fn pair(pages: usize) -> (Channel<DoubleFetch<PlainShared>>, Host) {
    let memory = PlainShared::new(2 * (pages + 1), 64);
    let spoiled = DoubleFetch::rings(memory.clone(), pages + 1);
    let channel = Channel::new(spoiled, pages as u32 + 1, POLICY).unwrap();
    (
        channel,
        Host {
            memory,
            size: (pages * PAGE_SIZE) as u32,
            read: 0,
            write: 0,
        },
    )
}

impl Host {
    fn downstream(&self) -> usize {
        RING_HEADER_SIZE + self.size as usize
    }
    /// A word of the guest-to-host ring's control page.
    fn up(&self, word: usize) -> u32 {
        self.memory.load_u32(word).unwrap()
    }
    fn set_up(&self, word: usize, value: u32) {
        self.memory.store_u32(word, value).unwrap();
    }
    /// A word of the host-to-guest ring's control page.
    fn down(&self, word: usize) -> u32 {
        self.memory.load_u32(self.downstream() + word).unwrap()
    }
    fn set_down(&self, word: usize, value: u32) {
        self.memory
            .store_u32(self.downstream() + word, value)
            .unwrap();
    }

    fn bytes(&self, start: usize, at: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let room = ((self.size - at) as usize).min(len);
        let data = start + RING_HEADER_SIZE;
        self.memory
            .copy_in(data + at as usize, &mut bytes[..room])
            .unwrap();
        self.memory.copy_in(data, &mut bytes[room..]).unwrap();
        bytes
    }

    /// Takes one packet: descriptor, payload, trailer.
    fn take(&mut self) -> Option<(PacketDescriptor, Vec<u8>, u64)> {
        if self.up(RING_WRITE_INDEX) == self.read {
            return None;
        }
        let head = self.bytes(0, self.read, 16);
        let head = <PacketDescriptor as zerocopy::FromBytes>::read_from_bytes(&head).unwrap();
        let length = head.length8.get() as usize * 8;
        let whole = self.bytes(0, self.read, length + 8);
        let payload = whole[head.data_offset8.get() as usize * 8..length].to_vec();
        let trailer = u64::from_le_bytes(whole[length..].try_into().unwrap());
        self.read = (self.read + length as u32 + 8) % self.size;
        self.set_up(RING_READ_INDEX, self.read);
        Some((head, payload, trailer))
    }

    fn free(&self) -> u32 {
        let read = self.down(RING_READ_INDEX);
        let used = (self.write + self.size - read) % self.size;
        self.size - used
    }

    /// Writes raw bytes as they are and moves the write index.
    fn put_raw(&mut self, bytes: &[u8]) {
        let data = self.downstream() + RING_HEADER_SIZE;
        let (first, second) = bytes
            .split_at_checked((self.size - self.write) as usize)
            .unwrap_or((bytes, &[]));
        self.memory
            .copy_out(data + self.write as usize, first)
            .unwrap();
        self.memory.copy_out(data, second).unwrap();
        self.write = (self.write + bytes.len() as u32) % self.size;
        self.set_down(RING_WRITE_INDEX, self.write);
    }

    /// Sends one packet if it fits; `Some(signal wanted)`.
    fn put(&mut self, kind: PacketType, flags: u16, id: u64, payload: &[u8]) -> Option<bool> {
        let mut bytes = packet(kind, flags, id, payload);
        bytes.extend((u64::from(self.write) << 32).to_le_bytes());
        if self.free() <= bytes.len() as u32 {
            self.set_down(RING_PENDING_SEND_SIZE, bytes.len() as u32);
            return None;
        }
        let before = self.write;
        self.put_raw(&bytes);
        let read = self.down(RING_READ_INDEX);
        Some(self.down(RING_INTERRUPT_MASK) == 0 && read == before)
    }
}

fn packet(kind: PacketType, flags: u16, id: u64, payload: &[u8]) -> Vec<u8> {
    let length8 = 2 + payload.len().div_ceil(8) as u16;
    let mut bytes = Vec::new();
    for word in [kind.0, 2, length8, flags] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(id.to_le_bytes());
    bytes.extend(payload);
    bytes.resize(length8 as usize * 8, 0);
    bytes
}

fn corrupt<T: core::fmt::Debug>(result: Result<T, ReceiveError>) -> Rule {
    match result {
        Err(ReceiveError::Corrupt(violation)) => violation.rule,
        other => panic!("{other:?}"),
    }
}

/// Knuth's MMIX generator: the same numbers on every run.
struct Numbers(u64);
impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// How often to do the same with other numbers; Miri is some thousand times slower.
const fn turns(native: u64, miri: u64) -> u64 {
    if cfg!(miri) { miri } else { native }
}

const IN_BAND: Outbound = Outbound::InBand(Reply::None);

#[test]
fn a_packet_each_way() {
    let (mut channel, mut host) = pair(4);
    let asking = Outbound::InBand(Reply::Requested);
    assert_eq!(
        channel.send(asking, 7, &[b"hello ", b"host"]),
        Ok(Signal::Needed)
    );
    let (head, payload, trailer) = host.take().unwrap();
    assert_eq!((head.packet_type.get(), head.flags.get()), (6, 1));
    assert_eq!((head.transaction_id.get(), trailer), (7, 0));
    assert_eq!(payload, b"hello host\0\0\0\0\0\0");

    assert_eq!(
        host.put(PacketType::COMPLETION, 0, 7, b"hello back"),
        Some(true)
    );
    let mut buffer = [0; 4096];
    channel.begin_receive().unwrap();
    let packet = channel.receive(&mut buffer).unwrap().unwrap();
    assert!(matches!(packet.kind(), Kind::Completion));
    assert_eq!(packet.transaction_id(), 7);
    assert_eq!(packet.payload(), b"hello back\0\0\0\0\0\0");
    assert!(channel.receive(&mut buffer).unwrap().is_none());
    let drained = channel.end_receive().unwrap();
    assert_eq!(
        drained,
        Drained {
            more: false,
            signal: Signal::NotNeeded
        }
    );
    assert_eq!(host.down(RING_READ_INDEX), host.write);
}

/// Random sizes, random turns, both directions; rings of one page wrap at every
/// few packets, run full and run empty, and their end cuts packets at each of the
/// places where it can. The memory changes after each read.
#[test]
fn rings_wrap_fill_and_drain() {
    const PACKETS: u64 = turns(40_000, 120);
    let (mut channel, mut host) = pair(1);
    let mut numbers = Numbers(42);
    let mut buffer = vec![0; 4096];
    let (mut sent, mut arrived, mut offered, mut received) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut full_out, mut full_in, mut empty) = (0, 0, 0);
    // Bytes of a packet in front of the ring's end.
    let (mut cuts_out, mut cuts_in) = (BTreeSet::new(), BTreeSet::new());
    let cut = |from: u32, to: u32| (to < from).then(|| PAGE_SIZE as u32 - from);
    let pattern: Vec<u8> = (0..600_u32).map(|i| (i * 7 % 251) as u8).collect();
    // Content depends on the number of the packet alone.
    let length = |number: u64| (number.wrapping_mul(0x9e37_79b9) >> 8) % 200;
    let content = |number: u64| {
        let from = (number % 251) as usize;
        &pattern[from..from + length(number) as usize]
    };
    while arrived < PACKETS || received < PACKETS {
        match numbers.below(4) {
            0 if sent < PACKETS => {
                for _ in 0..numbers.below(20) {
                    let (a, b) = content(sent).split_at(length(sent) as usize / 3);
                    match channel.send(IN_BAND, sent, &[a, b]) {
                        Ok(_) => sent += 1,
                        Err(SendError::Full) => {
                            full_out += 1;
                            break;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            1 => {
                for _ in 0..numbers.below(20) {
                    let from = host.read;
                    let Some((head, payload, _)) = host.take() else {
                        empty += 1;
                        break;
                    };
                    cuts_out.extend(cut(from, host.read));
                    assert_eq!(head.transaction_id.get(), arrived);
                    assert_eq!(&payload[..length(arrived) as usize], content(arrived));
                    assert!(payload[length(arrived) as usize..].iter().all(|b| *b == 0));
                    arrived += 1;
                }
            }
            2 if offered < PACKETS => {
                for _ in 0..numbers.below(20) {
                    let kind = PacketType::COMPLETION;
                    let from = host.write;
                    if host.put(kind, 0, offered, content(offered)).is_none() {
                        full_in += 1;
                        break;
                    }
                    cuts_in.extend(cut(from, host.write));
                    offered += 1;
                }
            }
            _ => {
                channel.begin_receive().unwrap();
                for _ in 0..numbers.below(20) {
                    let Some(packet) = channel.receive(&mut buffer).unwrap() else {
                        break;
                    };
                    assert_eq!(packet.transaction_id(), received);
                    let payload = packet.payload();
                    assert_eq!(&payload[..length(received) as usize], content(received));
                    received += 1;
                }
                let _ = channel.end_receive().unwrap();
            }
        }
    }
    let least = PACKETS / 80;
    assert!(
        full_out > least && full_in > least && empty > least,
        "{full_out} {full_in} {empty}"
    );
    // Descriptor, up to 199 bytes of payload and the trailer, in units of 8; the
    // longest may end with the ring.
    let all: BTreeSet<u32> = (1..=28).map(|units| units * 8).collect();
    if cfg!(miri) {
        assert!(cuts_out.len() > 1 && cuts_in.len() > 1);
    } else {
        assert_eq!((&cuts_out, &cuts_in), (&all, &all));
    }
    assert_eq!(channel.counters().violations().count(), 0);
}

#[test]
fn a_signal_only_from_empty_to_non_empty() {
    let (mut channel, mut host) = pair(1);
    assert_eq!(channel.send(IN_BAND, 1, &[b"1"]), Ok(Signal::Needed));
    assert_eq!(channel.send(IN_BAND, 2, &[b"2"]), Ok(Signal::NotNeeded));
    host.take().unwrap();
    assert_eq!(channel.send(IN_BAND, 3, &[b"3"]), Ok(Signal::NotNeeded));
    while host.take().is_some() {}
    host.set_up(RING_INTERRUPT_MASK, 0xdead_0000); // RNG-13: a boolean
    assert_eq!(channel.send(IN_BAND, 4, &[b"4"]), Ok(Signal::NotNeeded));
    while host.take().is_some() {}
    host.set_up(RING_INTERRUPT_MASK, 0);
    // A batch is announced once.
    channel.queue(IN_BAND, 5, &[b"5"]).unwrap();
    channel.queue(IN_BAND, 6, &[b"6"]).unwrap();
    assert!(host.take().is_none());
    assert_eq!(channel.flush(), Ok(Signal::Needed));
    assert_eq!(channel.flush(), Ok(Signal::NotNeeded));
    assert_eq!(channel.signals_needed(), 2);
    assert_eq!(channel.unread_by_host(), Ok(64));
}

#[test]
fn a_full_ring_asks_for_room_and_the_reader_tells() {
    let (mut channel, mut host) = pair(1);
    let payload = [0x55; 1000];
    let mut sent = 0;
    while channel.send(IN_BAND, sent, &[&payload]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 3); // 3 * 1024 bytes, 1024 left, 8 of them must stay free
    assert_eq!(host.up(RING_PENDING_SEND_SIZE), 1024);
    assert_eq!(channel.send(IN_BAND, 9, &[&payload]), Err(SendError::Full));
    host.take().unwrap();
    assert_eq!(channel.send(IN_BAND, 9, &[&payload]), Ok(Signal::NotNeeded));
    assert_eq!(host.up(RING_PENDING_SEND_SIZE), 0);
    assert_eq!(
        channel.send(IN_BAND, 9, &[&[0; 4073]]),
        Err(SendError::TooLong)
    );

    // The other way round: the host waits, our batch makes room.
    let mut buffer = [0; 4096];
    while host.put(PacketType::COMPLETION, 0, 1, &payload).is_some() {}
    channel.begin_receive().unwrap();
    channel.receive(&mut buffer).unwrap().unwrap();
    assert!(channel.end_receive().unwrap().signal.is_needed());
    channel.receive(&mut buffer).unwrap().unwrap();
    assert!(!channel.end_receive().unwrap().signal.is_needed());
}

#[test]
fn a_packet_that_comes_while_the_mask_is_on_is_found() {
    let (mut channel, mut host) = pair(1);
    let mut buffer = [0; 256];
    channel.begin_receive().unwrap();
    assert_eq!(host.down(RING_INTERRUPT_MASK), 1);
    assert!(channel.receive(&mut buffer).unwrap().is_none());
    // The host sees the mask and stays silent.
    assert_eq!(host.put(PacketType::COMPLETION, 0, 1, &[1; 8]), Some(false));
    assert!(channel.end_receive().unwrap().more);
    assert_eq!(host.down(RING_INTERRUPT_MASK), 0);
    assert_eq!(channel.has_packets(), Ok(true));
}

#[test]
fn geometry_is_checked() {
    let new = |pages, downstream| {
        Channel::new(PlainShared::new(pages, 0), downstream, POLICY).map(|_| ())
    };
    assert_eq!(new(4, 2), Ok(()));
    for (pages, downstream) in [
        (4, 0),
        (4, 1),
        (4, 3),
        (4, 4),
        (4, 5),
        (4, u32::MAX),
        (0, 0),
    ] {
        assert_eq!(
            new(pages, downstream),
            Err(GeometryError),
            "{pages} {downstream}"
        );
    }
}

/// Whatever stands in the shared pages, the channel neither panics nor loops.
#[test]
fn random_headers_and_data() {
    let mut numbers = Numbers(7);
    let mut buffer = [0; 2048];
    for _ in 0..turns(3000, 12) {
        let (mut channel, host) = pair(1);
        for page in [0, host.downstream()] {
            for word in [0, 4, 8, 12] {
                let mask = [7, 63, 0xfff, 0xffff_ffff][numbers.below(4) as usize];
                host.memory
                    .store_u32(page + word, numbers.below(1 << 32) as u32 & mask)
                    .unwrap();
            }
        }
        let data = host.downstream() + RING_HEADER_SIZE;
        for at in (0..512).step_by(2) {
            let word = numbers.below(if at % 8 == 4 { 8 } else { 12 }) as u16;
            host.memory
                .copy_out(data + at, &word.to_le_bytes())
                .unwrap();
        }
        for _ in 0..8 {
            let _ = channel.send(IN_BAND, 1, &[&[0; 100]]);
            let _ = channel.receive(&mut buffer);
            let _ = channel.end_receive();
        }
    }
}
