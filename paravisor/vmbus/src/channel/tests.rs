//! Tests of the rings, against a host that is written here from the protocol's
//! text and keeps to it unless a test makes it lie.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod structural;
mod sweep;

use super::*;
use crate::limits::{STORM_PERIOD, STORM_PERIODS};
use abi::vmbus::*;
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
/// few packets, run full and run empty. A million packets in all. The memory
/// changes after each read.
#[test]
fn rings_wrap_fill_and_drain() {
    const PACKETS: u64 = 500_000;
    let (mut channel, mut host) = pair(1);
    let mut numbers = Numbers(42);
    let mut buffer = vec![0; 4096];
    let (mut sent, mut arrived, mut offered, mut received) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut full_out, mut full_in, mut empty) = (0, 0, 0);
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
                    let Some((head, payload, _)) = host.take() else {
                        empty += 1;
                        break;
                    };
                    assert_eq!(head.transaction_id.get(), arrived);
                    assert_eq!(&payload[..length(arrived) as usize], content(arrived));
                    assert!(payload[length(arrived) as usize..].iter().all(|b| *b == 0));
                    arrived += 1;
                }
            }
            2 if offered < PACKETS => {
                for _ in 0..numbers.below(20) {
                    let kind = PacketType::COMPLETION;
                    if host.put(kind, 0, offered, content(offered)).is_none() {
                        full_in += 1;
                        break;
                    }
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
    assert!(
        full_out > 1000 && full_in > 1000 && empty > 1000,
        "{full_out} {full_in} {empty}"
    );
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
fn rng_01_our_indices_are_only_written() {
    let (mut channel, mut host) = pair(1);
    let _ = channel.send(IN_BAND, 1, &[b"one"]).unwrap();
    host.take().unwrap();
    host.set_up(RING_WRITE_INDEX, 0x7fff_fff0);
    host.set_down(RING_READ_INDEX, 0x7fff_fff0);
    let _ = channel.send(IN_BAND, 2, &[b"two"]).unwrap();
    assert_eq!(host.up(RING_WRITE_INDEX), 64);
    assert_eq!(host.take().unwrap().0.transaction_id.get(), 2);
    host.put_raw(&packet(PacketType::COMPLETION, 0, 3, &[0; 8]));
    host.put_raw(&[0; 8]);
    assert!(channel.receive(&mut [0; 64]).unwrap().is_some());
}

#[test]
fn rng_02_to_06_lying_indices_kill_the_channel() {
    let lies = [
        (RING_WRITE_INDEX, 4096, Rule::RNG_02),
        (RING_WRITE_INDEX, 0x13, Rule::RNG_03),
        (RING_WRITE_INDEX, 8, Rule::RNG_08),
    ];
    for (word, value, rule) in lies {
        let (mut channel, host) = pair(1);
        host.set_down(word, value);
        assert_eq!(corrupt(channel.receive(&mut [0; 64])), rule);
        assert_eq!(channel.counters().of(rule), 1);
    }
    for (value, rule) in [
        (0xffff_fff8, Rule::RNG_04),
        (4, Rule::RNG_04),
        (64, Rule::RNG_05),
    ] {
        let (mut channel, host) = pair(1);
        host.set_up(RING_READ_INDEX, value);
        match channel.send(IN_BAND, 1, &[b"x"]) {
            Err(SendError::Corrupt(violation)) => assert_eq!(violation.rule, rule),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rng_06_the_write_index_goes_back() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.put(PacketType::COMPLETION, 0, 2, &[0; 8]).unwrap();
    let mut buffer = [0; 64];
    channel.receive(&mut buffer).unwrap().unwrap();
    host.set_down(RING_WRITE_INDEX, 32);
    assert_eq!(channel.has_packets().unwrap_err().rule, Rule::RNG_06);
}

#[test]
fn rng_09_a_packet_beyond_the_available_bytes() {
    let (mut channel, mut host) = pair(1);
    // 32 bytes with a length of 32: no room for the trailer.
    host.put_raw(&packet(PacketType::COMPLETION, 0, 1, &[0; 16]));
    assert_eq!(corrupt(channel.receive(&mut [0; 64])), Rule::RNG_09);
}

#[test]
fn rng_12_the_mask_is_ours_to_write_only() {
    let (mut channel, mut host) = pair(1);
    host.set_down(RING_INTERRUPT_MASK, 0xffff_ffff);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    // No interrupt comes; the poll by the clock finds it.
    assert_eq!(channel.has_packets(), Ok(true));
}

#[test]
fn rng_15_a_mad_pending_size_is_clamped_and_counted() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.set_down(RING_PENDING_SEND_SIZE, u32::MAX);
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    assert!(channel.end_receive().unwrap().signal.is_needed());
    assert_eq!(channel.counters().of(Rule::RNG_15), 1);
    assert!(channel.dead().is_none());
    // Ring size less one: signalled when empty, nothing to count.
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.set_down(RING_PENDING_SEND_SIZE, 4095);
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    assert!(channel.end_receive().unwrap().signal.is_needed());
    assert_eq!(channel.counters().of(Rule::RNG_15), 1);
}

#[test]
fn rng_18_the_last_look_uses_our_read_index() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    host.set_down(RING_READ_INDEX, 8);
    assert!(!channel.end_receive().unwrap().more);
}

/// Events about nothing are attended to for a while, then by the clock (RNG_30);
/// data ends it, and a storm that lasts resets the channel (SYN_18).
#[test]
fn rng_30_syn_18_events_about_nothing() {
    let (mut channel, mut host) = pair(1);
    let mut now = 1000;
    // A neighbour: a packet behind each event, however many.
    let mut buffer = [0; 64];
    for id in 0..1000 {
        host.put(PacketType::COMPLETION, 0, id, &[0; 8]).unwrap();
        assert_eq!(channel.on_event(now), Ok(Attention::Now));
        channel.receive(&mut buffer).unwrap().unwrap();
        let _ = channel.end_receive().unwrap();
    }
    // So is an event behind which the host made room.
    let _ = channel.send(IN_BAND, 1, &[b"x"]).unwrap();
    host.take().unwrap();
    assert_eq!(channel.on_event(now), Ok(Attention::Now));
    for _ in 1..SPURIOUS_EVENTS {
        assert_eq!(channel.on_event(now), Ok(Attention::Now));
    }
    assert_eq!(channel.counters().of(Rule::RNG_30), 0);
    let next = now + STORM_PERIOD;
    assert_eq!(channel.on_event(now), Ok(Attention::At(next)));
    assert_eq!(channel.counters().of(Rule::RNG_30), 1);
    assert_eq!(channel.counters().of(Rule::SYN_18), 1);
    // A storm: one look per period, and the rings are not touched for the rest.
    for _ in 0..100 {
        for _ in 0..1000 {
            assert!(matches!(channel.on_event(now), Ok(Attention::At(at)) if at > now));
        }
        now += STORM_PERIOD;
        assert_eq!(channel.on_event(now), Ok(Attention::Now));
    }
    // Rare events again: as before.
    now += STORM_PERIOD;
    assert_eq!(channel.on_event(now), Ok(Attention::Now));
    assert_eq!(channel.on_event(now), Ok(Attention::Now));
    assert_eq!(channel.traffic().storms, 1);
    assert!(channel.dead().is_none());
    // And one that lasts.
    let mut periods = 0;
    let violation = 'storm: loop {
        for _ in 0..1000 {
            if let Err(violation) = channel.on_event(now) {
                break 'storm violation;
            }
        }
        periods += 1;
        now += STORM_PERIOD;
        assert!(periods < 2 * STORM_PERIODS);
    };
    assert_eq!(violation.rule, Rule::SYN_18);
    assert_eq!(channel.dead(), Some(violation));
    assert_eq!(channel.traffic().packets_in, 1000);
    assert_eq!(channel.traffic().packets_out, 1);
}

#[test]
fn rng_19_nothing_is_seeded_from_the_shared_page() {
    let (mut channel, mut host) = pair(1);
    host.set_down(RING_READ_INDEX, 0x800);
    host.set_up(RING_WRITE_INDEX, 0x800);
    host.put_raw(&packet(PacketType::COMPLETION, 0, 77, &[0; 8]));
    host.put_raw(&[0; 8]);
    let mut buffer = [0; 64];
    assert_eq!(
        channel
            .receive(&mut buffer)
            .unwrap()
            .unwrap()
            .transaction_id(),
        77
    );
}

#[test]
fn rng_22_a_packet_longer_than_the_buffer() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 64]).unwrap();
    assert_eq!(corrupt(channel.receive(&mut [0; 72])), Rule::RNG_22);
}

#[test]
fn rng_23_no_resynchronisation() {
    let (mut channel, mut host) = pair(1);
    host.put_raw(&packet(PacketType::GPA_DIRECT, 0, 1, &[0; 8]));
    host.put_raw(&[0; 8]);
    host.put(PacketType::COMPLETION, 0, 2, &[0; 8]).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(corrupt(channel.receive(&mut buffer)), Rule::PKT_04);
    assert_eq!(corrupt(channel.receive(&mut buffer)), Rule::PKT_04);
    assert!(matches!(
        channel.send(IN_BAND, 1, &[]),
        Err(SendError::Corrupt(_))
    ));
    assert!(channel.end_receive().is_err() && channel.begin_receive().is_err());
}

#[test]
fn rng_24_trailers_are_not_read() {
    let (mut channel, mut host) = pair(1);
    let mut buffer = [0; 64];
    for id in 0..1000 {
        host.put_raw(&packet(PacketType::COMPLETION, 0, id, &[0; 8]));
        host.put_raw(&[0xff; 8]);
        assert_eq!(
            channel
                .receive(&mut buffer)
                .unwrap()
                .unwrap()
                .transaction_id(),
            id
        );
        let _ = channel.end_receive().unwrap();
    }
}

#[test]
fn rng_27_eight_bytes_stay_free() {
    let (mut channel, host) = pair(1);
    // 4088 bytes are the most: descriptor 16, trailer 8.
    assert_eq!(channel.max_payload(), 4064);
    let _ = channel.send(IN_BAND, 1, &[&[1; 4064]]).unwrap();
    assert_eq!(host.up(RING_WRITE_INDEX), 4088);
    assert_eq!(channel.send(IN_BAND, 2, &[]), Err(SendError::Full));
}

#[test]
fn rng_28_padding_and_trailer_are_zero() {
    let (mut channel, mut host) = pair(1);
    // Let the memory be dirty first.
    host.memory
        .copy_out(RING_HEADER_SIZE, &[0xee; 4096])
        .unwrap();
    for _ in 0..3 {
        let at = host.read;
        let _ = channel.send(IN_BAND, 1, &[&[0xff; 29]]).unwrap();
        let (_, payload, trailer) = host.take().unwrap();
        assert_eq!(payload[29..], [0; 3]);
        assert_eq!(trailer, u64::from(at) << 32);
    }
}

#[test]
fn pkt_07_a_dropped_packet_is_consumed() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::TRANSFER_PAGES, 1, 0xabcd, &[0; 16])
        .unwrap();
    host.put(PacketType::COMPLETION, 0, 5, &[0; 8]).unwrap();
    let mut buffer = [0; 64];
    match channel.receive(&mut buffer) {
        Err(ReceiveError::Dropped {
            violation,
            transaction_id,
            completion_requested,
        }) => {
            assert_eq!(violation.rule, Rule::PKT_07);
            assert_eq!((transaction_id, completion_requested), (0xabcd, true));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        channel
            .receive(&mut buffer)
            .unwrap()
            .unwrap()
            .transaction_id(),
        5
    );
    assert_eq!(channel.counters().of(Rule::PKT_07), 1);
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
    for _ in 0..3000 {
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
