//! A pair of rings between a live channel and a host that writes packets,
//! garbage and indices, at rest and between our accesses.

use crate::memory::{Arena, Race, ring_headers};
use crate::{Digest, Input};
use abi::vmbus::{
    PACKET_TRAILER_SIZE, PAGE_SIZE, RING_PENDING_SEND_SIZE, RING_READ_INDEX, RING_WRITE_INDEX,
};
use std::collections::VecDeque;
use std::rc::Rc;
use vmbus::{Channel, Outbound, ReceiveError, Reply, SendError};

/// Accesses to shared memory that one call may cost.
const PER_CALL: u64 = 16;

/// One ring as an honest reader or writer keeps it, beside the real one.
struct Model {
    /// Offset of the control page.
    start: usize,
    /// Bytes of data.
    size: usize,
    /// What our side has done, and told.
    ours: usize,
    told: usize,
    /// Where the honest part of the host is.
    host: usize,
}

impl Model {
    fn new(start: usize, pages: usize) -> Model {
        Model {
            start,
            size: pages * PAGE_SIZE,
            ours: 0,
            told: 0,
            host: 0,
        }
    }
    fn step(&self, index: usize, by: usize) -> usize {
        (index + by) % self.size
    }
    fn copy(&self, arena: &Arena, at: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            let at = self.start + PAGE_SIZE + self.step(at, index);
            arena.peek(at, std::slice::from_mut(byte));
        }
    }
    fn put(&self, arena: &Arena, at: usize, bytes: &[u8]) {
        let first = bytes.len().min(self.size - at);
        arena.poke(self.start + PAGE_SIZE + at, &bytes[..first]);
        arena.poke(self.start + PAGE_SIZE, &bytes[first..]);
    }
}

struct World {
    arena: Rc<Arena>,
    out: Model,
    inc: Model,
    /// Packets that were sent and the host has not read; that the host has sent
    /// and we have not read.
    sent: VecDeque<(u64, Vec<u8>)>,
    coming: VecDeque<Vec<u8>>,
    /// The host has done something that no honest one does.
    hostile: bool,
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let shape = input.u8();
    let (up, down) = (1 + usize::from(shape & 1), 1 + usize::from(shape >> 1 & 1));
    let split = 1 + up;
    let arena = Arena::new(split + 1 + down, 0x40);
    let region = arena.region(0, split + 1 + down, &ring_headers(split));
    let mut channel = Channel::new(region, split as u32, netvsc::POLICY).expect("geometry");
    let mut world = World {
        arena: arena.clone(),
        out: Model::new(0, up),
        inc: Model::new(split * PAGE_SIZE, down),
        sent: VecDeque::new(),
        coming: VecDeque::new(),
        hostile: false,
    };
    let mut buffer = vec![
        0;
        if shape & 4 == 0 {
            8192
        } else {
            64 + usize::from(shape) * 8
        }
    ];
    let mut next_id = 1;
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let dead = channel.dead();
        let before = arena.accesses();
        match input.u8() % 16 {
            0..=3 => world.host_sends(&mut input),
            4 => world.host_reads(),
            5 => {
                // A word of a header, honest or not.
                world.hostile = true;
                let start = [world.out.start, world.inc.start][input.below(2)];
                arena.poke(start + 4 * input.below(4), &input.word().to_le_bytes());
            }
            6 => {
                world.hostile = true;
                let start = [world.out.start, world.inc.start][input.below(2)];
                let at = start + input.below(2 * PAGE_SIZE);
                let bytes = input.run();
                arena.poke(at, &bytes[..bytes.len().min(start + 2 * PAGE_SIZE - at)]);
            }
            7 => {
                world.hostile = true;
                let start = [world.out.start, world.inc.start][input.below(2)];
                let offset = if input.flag() {
                    input.below(4) * 4
                } else {
                    input.below(2 * PAGE_SIZE)
                };
                arena.race(Race {
                    after: u32::from(input.u8() % 32),
                    offset: start + offset,
                    value: input.word(),
                });
            }
            8 | 9 => {
                let kind = match input.u8() % 4 {
                    0 => Outbound::Completion,
                    1 => Outbound::InBand(Reply::None),
                    _ => Outbound::InBand(Reply::Requested),
                };
                let first = vec![0xa5; usize::from(input.u8())];
                let second = vec![0x5a; usize::from(input.u16() & 0x7ff)];
                let result = channel.queue(kind, next_id, &[&first, &second]);
                digest.debug(&result);
                let len = first.len() + second.len();
                if result.is_ok() {
                    let total = 16 + len.next_multiple_of(8) + PACKET_TRAILER_SIZE;
                    world.out.ours = world.out.step(world.out.ours, total);
                    world.sent.push_back((next_id, [first, second].concat()));
                    next_id += 1;
                }
                assert!(result != Err(SendError::TooLong) || len > channel.max_payload());
            }
            10 => {
                let quiet = arena.is_quiet();
                let result = channel.flush();
                digest.debug(&result);
                if result.is_ok() && world.out.ours != world.out.told {
                    world.out.told = world.out.ours;
                    if quiet {
                        world.ours_stands(world.out.start + RING_WRITE_INDEX, world.out.told);
                    }
                }
            }
            11..=13 => receive(&mut channel, &mut buffer, &mut world, &mut digest),
            14 => {
                let quiet = arena.is_quiet();
                let result = channel.end_receive();
                digest.debug(&result);
                let moved = world.inc.told != world.inc.ours;
                if let Ok(drained) = result {
                    world.inc.told = world.inc.ours;
                    if moved && quiet {
                        world.ours_stands(world.inc.start + RING_READ_INDEX, world.inc.told);
                    }
                    if !world.hostile {
                        let pending = arena.peek_u32(world.inc.start + RING_PENDING_SEND_SIZE);
                        assert!(pending != 0 || !drained.signal.is_needed());
                    }
                }
            }
            _ => {
                let result = (
                    channel.has_packets(),
                    channel.unread_by_host(),
                    channel.begin_receive(),
                );
                digest.debug(&result);
                if !world.hostile {
                    let any = !world.coming.is_empty();
                    assert_eq!(result.0, channel.dead().map_or(Ok(any), Err));
                }
            }
        }
        let cost = arena.accesses() - before;
        assert!(cost <= PER_CALL, "{cost} accesses in a call");
        assert_eq!(arena.outside(), 0);
        // What killed a channel is said for ever, and an honest host kills none.
        assert!(dead.is_none() || channel.dead() == dead);
        assert!(
            world.hostile || channel.dead().is_none() || shape & 4 != 0,
            "{:?}",
            channel.dead()
        );
    }
    digest.violations(channel.counters());
    digest.number(channel.signals_needed());
    digest.value()
}

fn receive(
    channel: &mut Channel<crate::memory::Region>,
    buffer: &mut [u8],
    world: &mut World,
    digest: &mut Digest,
) {
    let result = channel.receive(buffer);
    digest.debug(&result);
    match result {
        Ok(None) => {
            assert!(world.hostile || world.coming.is_empty());
            return;
        }
        Err(ReceiveError::Corrupt(violation)) => {
            assert_eq!(channel.dead(), Some(violation));
            return;
        }
        Ok(Some(_)) | Err(ReceiveError::Dropped { .. }) => {}
    }
    let length = 8 * usize::from(u16::from_le_bytes([buffer[4], buffer[5]]));
    world.inc.ours = world.inc.step(world.inc.ours, length + PACKET_TRAILER_SIZE);
    if !world.hostile {
        assert_eq!(world.coming.pop_front().as_deref(), Some(&buffer[..length]));
    }
}

impl World {
    /// The host writes one packet as the protocol has it; its contents are free.
    fn host_sends(&mut self, input: &mut Input<'_>) {
        let kind = match input.u8() {
            0..=127 => 6,
            128..=191 => 7,
            192..=223 => 11,
            other => u16::from(other),
        };
        let mut packet = vec![0; 8];
        packet.extend(input.array::<8>());
        packet.extend(input.run());
        packet.resize(packet.len().next_multiple_of(8), 0);
        let offset = match input.u8() {
            0..=191 => 2,
            some => u16::from(some & 15),
        };
        let length = (packet.len() / 8) as u16;
        for (at, word) in [kind, offset, length, u16::from(input.u8() & 3)]
            .into_iter()
            .enumerate()
        {
            packet[2 * at..2 * at + 2].copy_from_slice(&word.to_le_bytes());
        }
        // Bounds of the packet are part of the ring's own rules.
        self.hostile |=
            !(2..=length).contains(&offset) || ![6, 7, 11].contains(&kind) || packet[6] > 1;
        self.hostile |= kind == 7 || packet.len() == 16;
        let total = packet.len() + PACKET_TRAILER_SIZE;
        let used = (self.inc.host + self.inc.size - self.inc.told) % self.inc.size;
        if used + total + 8 > self.inc.size {
            return;
        }
        self.inc.put(&self.arena, self.inc.host, &packet);
        self.inc.host = self.inc.step(self.inc.host, total);
        let index = (self.inc.host as u32).to_le_bytes();
        self.arena.poke(self.inc.start + RING_WRITE_INDEX, &index);
        self.coming.push_back(packet);
    }

    /// The host reads what we told it of: exactly what was sent, no byte more.
    fn host_reads(&mut self) {
        while self.out.host != self.out.told {
            let mut head = [0; 16];
            self.out.copy(&self.arena, self.out.host, &mut head);
            let length = 8 * usize::from(u16::from_le_bytes([head[4], head[5]]));
            let Some((id, payload)) = self.sent.pop_front() else {
                assert!(self.hostile);
                break;
            };
            let total = 16 + payload.len().next_multiple_of(8) + PACKET_TRAILER_SIZE;
            if !self.hostile {
                assert_eq!(
                    (
                        length + PACKET_TRAILER_SIZE,
                        head[8..16] == id.to_le_bytes()
                    ),
                    (total, true)
                );
                let mut rest = vec![0; total - 16];
                self.out
                    .copy(&self.arena, self.out.step(self.out.host, 16), &mut rest);
                assert!(rest.starts_with(&payload), "payload differs");
                let (padding, trailer) =
                    rest[payload.len()..].split_at(rest.len() - payload.len() - 8);
                assert!(
                    padding.iter().all(|byte| *byte == 0),
                    "old bytes in the padding"
                );
                assert_eq!(trailer, ((self.out.host as u64) << 32).to_le_bytes());
            }
            self.out.host = self.out.step(self.out.host, total);
        }
        let index = (self.out.host as u32).to_le_bytes();
        self.arena.poke(self.out.start + RING_READ_INDEX, &index);
    }

    /// Our index stands in the header as we keep it, whatever the host wrote there.
    fn ours_stands(&self, at: usize, index: usize) {
        assert_eq!(
            self.arena.peek_u32(at) as usize,
            index,
            "an index of ours moved"
        );
    }
}
