//! The rings of one channel, and what waits for them.
use super::{Bytes, Env, NicError};
use crate::mem::VmMemory;
use crate::ring::{InRing, OutRing};
use crate::vmbus::RingRequest;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// One of the NIC's VMBus channels: its rings and what waits for them.
#[derive(Debug)]
pub(super) struct Port {
    pub relid: u32,
    /// 0 for the primary channel.
    pub index: u16,
    pub in_ring: InRing,
    pub out_ring: OutRing,
    pub signalled: bool,
    pub backlog: bool,
    /// Packets that wait for ring space.
    pub out_queue: VecDeque<Bytes>,
    /// Frames that were steered here, each with its RNDIS messages.
    pub frames: VecDeque<Vec<Bytes>>,
    pub signal: bool,
}

impl Port {
    pub fn open(mem: &dyn VmMemory, request: &RingRequest, index: u16) -> Option<Self> {
        let in_ring = InRing::new(&request.ring, request.downstream_offset)?;
        let out_ring = OutRing::new(&request.ring, request.downstream_offset)?;
        out_ring.start(mem).ok()?;
        Some(Port {
            relid: request.relid,
            index,
            in_ring,
            out_ring,
            signalled: false,
            backlog: false,
            out_queue: VecDeque::new(),
            frames: VecDeque::new(),
            signal: false,
        })
    }

    /// Moves waiting packets into the ring and shows them to the guest.
    pub fn flush(&mut self, env: &mut Env<'_>) -> Result<(), NicError> {
        while let Some(front) = self.out_queue.front() {
            if !self.out_ring.write(env.mem, front)? {
                break;
            }
            let kind = front
                .get(..2)
                .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            *env.counters.packets_out.entry(kind).or_default() += 1;
            self.out_queue.pop_front();
        }
        self.signal |= self.out_ring.publish(env.mem)?;
        Ok(())
    }

    /// Writes over a word of a ring's control page.
    pub fn poke(&self, mem: &dyn VmMemory, incoming: bool, at: usize, value: u32) {
        let done = if incoming {
            self.out_ring.poke(mem, at, value)
        } else {
            self.in_ring.poke(mem, at, value)
        };
        if let Err(e) = done {
            log::warn!("scenario: poke: {e:?}");
        }
    }
}
