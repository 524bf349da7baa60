//! Frames between the host's buffers and the guest's: one poll of the relay, with
//! everything below and above it.

use crate::path::Path;
use crate::world::World;
use abi::virtio::net;
use std::hint::black_box;
use vmbus::Signal;

/// Frames of one measured call: fewer than a poll's budget.
const FRAMES: usize = 48;
/// The same of frames that are joined, or cut: so many fit the buffers.
const LARGE: usize = 4;

/// One way, and the yardstick: as many copies from and to places as far apart.
pub struct Frames {
    way: Way,
    len: usize,
    count: usize,
    world: World,
    signal: Signal,
    from: Vec<u8>,
    to: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToGuest,
    ToHost,
}

impl Frames {
    /// From the receive buffer into the guest's buffers; the host puts `ranges` frames
    /// into a packet.
    pub fn receive(len: usize, ranges: usize) -> Frames {
        Frames::new(Way::ToGuest, len, World::new(len, ranges))
    }

    /// As `receive`, of frames that come in segments, which the host joins.
    pub fn joined(len: usize) -> Frames {
        Frames::new(Way::ToGuest, len, World::large(len))
    }

    /// From the guest's buffers into the send buffer, the completions of the call
    /// before included.
    pub fn transmit(len: usize) -> Frames {
        Frames::new(Way::ToHost, len, World::new(len, 1))
    }

    /// As `transmit`, of frames that the guest leaves to be cut.
    pub fn segmented(len: usize) -> Frames {
        Frames::new(Way::ToHost, len, World::large(len))
    }

    fn new(way: Way, len: usize, mut world: World) -> Frames {
        world.later(Signal::Needed);
        let count = match world.is_large() {
            true => LARGE,
            false => FRAMES,
        };
        Frames {
            way,
            len,
            count,
            world,
            signal: Signal::NotNeeded,
            from: vec![0x5a; count * slot(len)],
            to: vec![0; count * buffer(len)],
        }
    }
}

/// As far apart as frames in the receive buffer.
fn slot(len: usize) -> usize {
    len + 292
}

/// As far apart as the guest's buffers.
fn buffer(len: usize) -> usize {
    (len + net::HEADER_LEN).next_multiple_of(2048)
}

impl Path for Frames {
    fn frames(&self) -> usize {
        self.count
    }
    fn bytes(&self) -> usize {
        self.len
    }

    fn prepare(&mut self) {
        self.world.host.backend.got = (0, 0);
        let which = match self.way {
            Way::ToGuest => {
                self.world.host.backend.left = self.count * self.world.segments();
                self.world.host();
                net::QUEUE_RX
            }
            Way::ToHost => net::QUEUE_TX,
        };
        let buffers = self.count * self.world.buffers(which);
        self.world.post_buffers(which, buffers as u16);
    }

    fn measured(&mut self) {
        self.signal = black_box(self.world.relay());
    }

    fn check(&mut self) {
        self.world.later(self.signal);
        match self.way {
            Way::ToGuest => {
                let buffers = self.count * self.world.buffers(net::QUEUE_RX);
                assert_eq!(usize::from(self.world.reap(net::QUEUE_RX)), buffers);
                let got = self.world.last_received(self.len);
                let differ = (0..got.len()).find(|at| got[*at] != self.world.frame[*at]);
                assert_eq!(differ, None, "another frame");
            }
            Way::ToHost => {
                assert_eq!(usize::from(self.world.reap(net::QUEUE_TX)), self.count);
                let frames = self.count * self.world.segments();
                // Each segment but the first has headers of its own.
                let more = (frames - self.count) * crate::tcp::HEADERS;
                let expected = (frames as u64, (self.count * self.len + more) as u64);
                assert_eq!(self.world.host.backend.got, expected);
            }
        }
        assert_eq!(self.world.violations(), 0);
    }

    fn copied(&mut self) {
        let from = self.from.chunks(slot(self.len));
        let to = self.to.chunks_mut(buffer(self.len));
        for (from, to) in from.zip(to) {
            to[..self.len].copy_from_slice(black_box(&from[..self.len]));
            black_box(&mut *to);
        }
    }
}
