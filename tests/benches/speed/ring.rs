//! One packet after the other through a ring: written, published, copied out into
//! private memory, judged, and its room given back, by two channels that stand at
//! the two ends of one ring.

use crate::path::Path;
use abi::vmbus::PAGE_SIZE;
use memory::{Native, RawShared};
use std::hint::black_box;
use validate::packet::Policy;
use vmbus::{Channel, Outbound, Reply};

/// Control page and data of a ring, as the paravisor asks for them.
const RING_PAGES: usize = 17;
/// Packets of one measured call.
const PACKETS: usize = 256;

/// Some rings, each between two channels, which are worked off in turn.
pub struct Ring {
    size: usize,
    batch: usize,
    pairs: Vec<Pair>,
    payload: Vec<u8>,
    buffer: Vec<u8>,
    copy: [Vec<u8>; 2],
}

/// The two ends of a ring.
struct Pair {
    writer: Channel<RawShared>,
    reader: Channel<RawShared>,
}

impl Pair {
    fn new() -> Pair {
        let pages = RING_PAGES;
        let memory = Native::new(3 * pages, 1).expect("memory");
        // Three rings; the writer's outgoing one, in the middle, is the reader's
        // incoming one.
        let channel = |first: usize| {
            let region = memory.window(first * PAGE_SIZE, 2 * pages * PAGE_SIZE);
            Channel::new(region.expect("a window"), pages as u32, POLICY).expect("geometry")
        };
        Pair {
            writer: channel(pages),
            reader: channel(0),
        }
    }
}

impl Ring {
    /// For payloads of `size` bytes; `batch` packets are published at a time.
    pub fn new(size: usize, batch: usize, channels: usize) -> Ring {
        Ring {
            size,
            batch,
            pairs: (0..channels).map(|_| Pair::new()).collect(),
            payload: (0..size).map(|at| at as u8).collect(),
            buffer: vec![0; netvsc::limits::PACKET_BUFFER],
            copy: [vec![0; size], vec![0; size]],
        }
    }
}

const POLICY: Policy = netvsc::POLICY;

impl Path for Ring {
    fn frames(&self) -> usize {
        // Each channel has its turn as often.
        PACKETS.max(self.batch * self.pairs.len())
    }
    fn bytes(&self) -> usize {
        self.size
    }

    fn measured(&mut self) {
        let kind = Outbound::InBand(Reply::None);
        let mut id = 0;
        let turns = self.frames() / self.batch;
        let mut pairs = 0..self.pairs.len();
        for _ in 0..turns {
            let next = pairs.next().unwrap_or_else(|| {
                pairs = 1..self.pairs.len();
                0
            });
            let Pair { writer, reader } = &mut self.pairs[next];
            for _ in 0..self.batch {
                id += 1;
                let payload = black_box(self.payload.as_slice());
                writer.queue(kind, id, &[payload]).expect("room");
            }
            let _ = black_box(writer.flush().expect("honest"));
            reader.begin_receive().expect("honest");
            for _ in 0..self.batch {
                let packet = reader.receive(&mut self.buffer).expect("honest");
                let packet = packet.expect("a packet");
                black_box((packet.transaction_id(), packet.payload().len()));
            }
            let _ = black_box(reader.end_receive().expect("honest"));
        }
    }

    fn check(&mut self) {
        let got = &self.buffer[16..][..self.size];
        assert_eq!(got, self.payload, "the last packet is not what was sent");
        for Pair { writer, reader } in &self.pairs {
            assert_eq!(reader.traffic().packets_in, writer.traffic().packets_out);
        }
    }

    /// In and out again.
    fn copied(&mut self) {
        let [ring, private] = &mut self.copy;
        for _ in 0..PACKETS.max(self.batch * self.pairs.len()) {
            ring.copy_from_slice(black_box(&self.payload));
            private.copy_from_slice(black_box(ring));
            black_box(&mut *private);
        }
    }
}
