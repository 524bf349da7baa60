//! Eight frames from ring and receive buffer to the point where the guest could
//! have them. All three ways make the same copies: a packet out of the ring, a
//! range out of the receive buffer. So what they differ in is the looking.

use crate::{Bench, CONTEXT, bytes, table, unchecked};
use criterion::Throughput;
use std::hint::black_box;
use validate::nvsp::{self, Awaited, Completion, Range, ReceiveGeometry, ReceivePhase, Slots};
use validate::packet::{self, Kind, Packet};
use validate::rndis::{self, Message};

const FRAMES: u32 = 8;

/// What the host and we agreed on for the receive buffer.
pub fn geometry() -> ReceiveGeometry {
    let awaited = Awaited::ReceiveBuffer { len: bytes::BUFFER };
    match nvsp::completion(&bytes::receive_buffer(), awaited).map(|judged| judged.value) {
        Ok(Completion::ReceiveBuffer(geometry)) => geometry,
        other => panic!("{other:?}"),
    }
}

/// Judges all ranges of a packet and takes their slots, as the NIC does it.
pub fn ranges(
    packet: &Packet<'_>,
    geometry: &ReceiveGeometry,
    slots: &mut Slots,
    taken: &mut Vec<Range>,
) -> Option<()> {
    let Kind::TransferPages(ranges) = packet.kind() else {
        return None;
    };
    taken.clear();
    for (index, range) in ranges.iter().enumerate() {
        let range = geometry.range(index, range.byte_count, range.byte_offset);
        let range = range.ok()?;
        geometry.in_one_slot(range).ok()?;
        slots.take(range).ok()?;
        taken.push(range);
    }
    Some(())
}

/// The packet is done: its slots may come again.
pub fn release(slots: &mut Slots, taken: &[Range]) {
    for range in taken {
        slots.release(*range);
    }
}

/// Ring and receive buffer, and the private memory that they are copied to.
struct World {
    packets: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    packet: Vec<u8>,
    copy: Vec<u8>,
    slots: Slots,
    taken: Vec<Range>,
    geometry: ReceiveGeometry,
}

impl World {
    /// The frames in `packets` packets of the ring, the same number in each.
    fn new(packets: u32) -> World {
        let message = bytes::frame(1514, true);
        let len = message.len() as u32;
        let mut buffer = vec![0; bytes::BUFFER as usize];
        let slots: Vec<u32> = (0..FRAMES).map(|n| n * bytes::SLOT).collect();
        for at in &slots {
            buffer[*at as usize..][..message.len()].copy_from_slice(&message);
        }
        let each = (FRAMES / packets) as usize;
        World {
            packets: slots
                .chunks(each)
                .map(|slots| {
                    let ranges: Vec<_> = slots.iter().map(|at| (len, *at)).collect();
                    bytes::transfer_packet(&ranges)
                })
                .collect(),
            buffer,
            packet: vec![0; netvsc::limits::PACKET_BUFFER],
            copy: vec![0; bytes::SLOT as usize],
            slots: Slots::new(),
            taken: Vec::new(),
            geometry: geometry(),
        }
    }

    fn bytes(&self) -> usize {
        let packets: usize = self.packets.iter().map(Vec::len).sum();
        packets + FRAMES as usize * bytes::frame(1514, true).len()
    }

    /// Frame bytes that came through all rules.
    fn judged(&mut self) -> Option<usize> {
        let mut total = 0;
        for bytes in &self.packets {
            let head = bytes.get(..packet::DESCRIPTOR)?;
            let span = packet::span(head, u32::MAX, self.packet.len()).ok()?;
            let copy = self.packet.get_mut(..span.length() as usize)?;
            copy.copy_from_slice(black_box(bytes));
            let packet = packet::judge(copy, &netvsc::POLICY).ok()?;
            let carrier = nvsp::carrier(packet.payload(), ReceivePhase::Open).ok()?;
            ranges(&packet, &self.geometry, &mut self.slots, &mut self.taken)?;
            for range in &self.taken {
                let copy = self.copy.get_mut(..range.len())?;
                copy.copy_from_slice(self.buffer.get(range.offset()..)?.get(..range.len())?);
                let judged = rndis::message(copy, carrier, black_box(&CONTEXT)).ok()?;
                let Message::Packet(packet) = judged.value else {
                    return None;
                };
                black_box((packet.checksum(), packet.vlan(), packet.hash()));
                total += black_box(packet.frame()).len();
            }
            release(&mut self.slots, &self.taken);
        }
        Some(total)
    }

    /// Frame bytes that nobody has asked anything about.
    fn read(&mut self) -> usize {
        let mut total = 0;
        for bytes in &self.packets {
            let Some(copy) = self.packet.get_mut(..bytes.len()) else {
                break;
            };
            copy.copy_from_slice(black_box(bytes));
            let packet = unchecked::packet(copy);
            black_box((packet.kind, packet.flags, packet.set_id));
            black_box((packet.transaction_id, unchecked::nvsp::<2>(packet.payload)));
            for (len, offset) in packet.ranges() {
                let from = self.buffer.get(offset as usize..).unwrap_or(&[]);
                let (Some(copy), Some(from)) =
                    (self.copy.get_mut(..len as usize), from.get(..len as usize))
                else {
                    continue;
                };
                copy.copy_from_slice(from);
                let found = unchecked::frame(copy);
                black_box((found.head, found.address, found.ethertype));
                black_box((found.checksum, found.vlan, found.hash, found.packet_id));
                total += black_box(found.frame).len();
            }
        }
        total
    }

    /// The copies alone.
    fn copied(&mut self, len: usize) {
        for bytes in &self.packets {
            self.packet[..bytes.len()].copy_from_slice(black_box(bytes));
            black_box(&mut self.packet);
        }
        for slot in 0..FRAMES as usize {
            let from = &self.buffer[slot * bytes::SLOT as usize..][..len];
            self.copy[..len].copy_from_slice(black_box(from));
            black_box(&mut self.copy);
        }
    }
}

pub fn bench(bench: &mut Bench<'_>) {
    for (name, packets) in [
        ("8 packets of a frame each", FRAMES),
        ("1 packet of 8 frames", 1),
    ] {
        let mut world = World::new(packets);
        let len = bytes::frame(1514, true).len();
        assert_eq!(world.judged(), Some(FRAMES as usize * 1514));
        assert_eq!(world.read(), FRAMES as usize * 1514);
        let mut group = bench.criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(world.bytes() as u64));
        group.bench_function(table::WAYS[0], |b| b.iter(|| black_box(world.judged())));
        group.bench_function(table::WAYS[1], |b| b.iter(|| black_box(world.read())));
        group.bench_function(table::WAYS[2], |b| b.iter(|| world.copied(len)));
        group.finish();
        bench.table.add(name, world.bytes(), FRAMES);
    }
}
