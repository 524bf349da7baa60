//! The ring from us to the host.

use super::{Kind, SendError, Signal};
use abi::vmbus::{
    PACKET_FLAG_COMPLETION_REQUESTED, PACKET_TRAILER_SIZE, PacketDescriptor, RING_HEADER_SIZE,
    RING_INTERRUPT_MASK, RING_PENDING_SEND_SIZE, RING_READ_INDEX, RING_WRITE_INDEX,
};
use core::mem::size_of;
use memory::{OutOfRange, SharedMemory};
use validate::ring::{DataSize, in_use};
use validate::{Rule, Violation};
use zerocopy::IntoBytes;

/// Longest packet: its length in units of 8 bytes has 16 bits.
const MAX_PACKET: usize = 0xffff * 8;

/// Private state; all indices are ours and below `size`.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Offset of the control page in the region.
    start: usize,
    /// Offset of the data behind it.
    data: usize,
    size: DataSize,
    /// Longest payload that this ring can ever take.
    max_payload: usize,
    /// Where the next packet goes.
    write: u32,
    /// Bytes not read by the host at the last look, plus what was written since.
    used: u32,
    /// Bytes written since the write index was last published.
    unpublished: u32,
    /// A pending send size stands in the control page.
    waiting: bool,
    /// Bytes that the host has ever read, as far as we looked.
    consumed: u64,
}

impl Outgoing {
    pub(super) fn new(start: usize, size: DataSize) -> Outgoing {
        let around = size_of::<PacketDescriptor>().saturating_add(PACKET_TRAILER_SIZE);
        let ring = (size.capacity() as usize).saturating_sub(around);
        Outgoing {
            start,
            // What does not fit is refused by every access.
            data: start.saturating_add(RING_HEADER_SIZE),
            size,
            max_payload: ring.min(MAX_PACKET.saturating_sub(size_of::<PacketDescriptor>())),
            write: 0,
            used: 0,
            unpublished: 0,
            waiting: false,
            consumed: 0,
        }
    }

    /// Bytes that the host has read since the ring was made.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    pub(super) fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Loads the host's read index and gives the bytes that it has not read.
    pub(super) fn refresh(&mut self, memory: &impl SharedMemory) -> Result<u32, Violation> {
        let read = self.load(memory, RING_READ_INDEX)?;
        let used = in_use(self.size, self.write, self.used, self.unpublished, read)?;
        let fewer = self.used.saturating_sub(used);
        self.consumed = self.consumed.wrapping_add(fewer.into());
        self.used = used;
        Ok(used)
    }

    /// Writes one packet: `head` (whole words of 8 bytes) behind its descriptor,
    /// then the payload. Gives its bytes without the trailer.
    pub(super) fn queue(
        &mut self,
        memory: &impl SharedMemory,
        kind: Kind,
        transaction_id: u64,
        head: &[u8],
        parts: &[&[u8]],
    ) -> Result<u32, SendError> {
        let mut payload = 0_usize;
        for part in parts {
            payload = payload.checked_add(part.len()).ok_or(SendError::TooLong)?;
        }
        let all = payload.checked_add(head.len());
        if all.is_none_or(|all| all > self.max_payload) {
            return Err(SendError::TooLong);
        }
        // Below half a megabyte from here on.
        let padded = payload.wrapping_add(7) & !7;
        let behind = size_of::<PacketDescriptor>().wrapping_add(head.len());
        let length = behind.wrapping_add(padded);
        let needed = length.wrapping_add(PACKET_TRAILER_SIZE) as u32;
        self.reserve(memory, needed)?;

        let descriptor = PacketDescriptor {
            packet_type: kind.packet_type.0.into(),
            data_offset8: ((behind / 8) as u16).into(),
            length8: ((length / 8) as u16).into(),
            flags: if kind.wants_reply {
                PACKET_FLAG_COMPLETION_REQUESTED
            } else {
                0
            }
            .into(),
            transaction_id: transaction_id.into(),
        };
        // Padding, then the trailer: low word zero, high word where this packet starts
        // (RNG-28).
        let tail = (u128::from(self.write) << 96).to_le_bytes();
        let tail = tail.get(8_usize.wrapping_sub(padded.wrapping_sub(payload))..);

        let (heads, tail) = ([descriptor.as_bytes(), head], tail.unwrap_or_default());
        let room = self.size.bytes().wrapping_sub(self.write);
        let put = if needed <= room {
            let at = self.data.wrapping_add(self.write as usize);
            memory.copy_out_all(at, heads, parts, tail)
        } else {
            self.put_around(memory, heads, parts, tail)
        };
        put.map_err(|OutOfRange| SendError::Corrupt(geometry(self.write as usize)))?;

        self.write = self.size.advance(self.write, needed);
        self.used = self.used.saturating_add(needed);
        self.unpublished = self.unpublished.saturating_add(needed);
        Ok(needed.saturating_sub(PACKET_TRAILER_SIZE as u32))
    }

    /// Publishes what was queued. The host has to be signalled if it had read
    /// everything before this batch and has not masked.
    pub(super) fn flush(&mut self, memory: &impl SharedMemory) -> Result<Signal, Violation> {
        if self.unpublished == 0 {
            return Ok(Signal::NotNeeded);
        }
        self.store(memory, RING_WRITE_INDEX, self.write)?;
        let batch = core::mem::take(&mut self.unpublished);
        // The write index must be visible before we look whether the host sleeps.
        memory.fence();
        let masked = self.load(memory, RING_INTERRUPT_MASK)? != 0;
        let unread = self.refresh(memory)?;
        // The host may have read some of the batch already: then it is awake.
        let was_empty = unread == batch;
        Ok(if was_empty && !masked {
            Signal::Needed
        } else {
            Signal::NotNeeded
        })
    }

    /// Makes sure that a packet with so many bytes of payload fits.
    pub(super) fn reserve_payload(
        &mut self,
        memory: &impl SharedMemory,
        payload: usize,
    ) -> Result<(), SendError> {
        if payload > self.max_payload {
            return Err(SendError::TooLong);
        }
        // Below half a megabyte from here on.
        let around = size_of::<PacketDescriptor>().wrapping_add(PACKET_TRAILER_SIZE);
        let needed = (payload.wrapping_add(7) & !7).wrapping_add(around) as u32;
        self.reserve(memory, needed)
    }

    /// Makes sure that `needed` bytes are free and 8 more stay so (RNG-27).
    #[inline]
    fn reserve(&mut self, memory: &impl SharedMemory, needed: u32) -> Result<(), SendError> {
        if self.fits(needed) && !self.waiting {
            return Ok(());
        }
        self.make_room(memory, needed)
    }

    fn fits(&self, needed: u32) -> bool {
        needed <= self.size.capacity().saturating_sub(self.used)
    }

    #[inline(never)]
    fn make_room(&mut self, memory: &impl SharedMemory, needed: u32) -> Result<(), SendError> {
        if !self.fits(needed) {
            self.refresh(memory).map_err(SendError::Corrupt)?;
        }
        if !self.fits(needed) {
            // Ask to be signalled, then look again: the host may have read in between.
            self.store(memory, RING_PENDING_SEND_SIZE, needed)
                .map_err(SendError::Corrupt)?;
            self.waiting = true;
            memory.fence();
            self.refresh(memory).map_err(SendError::Corrupt)?;
            if !self.fits(needed) {
                return Err(SendError::Full);
            }
        }
        if core::mem::take(&mut self.waiting) {
            self.store(memory, RING_PENDING_SEND_SIZE, 0)
                .map_err(SendError::Corrupt)?;
        }
        Ok(())
    }

    /// Writes a packet that wraps.
    #[cold]
    #[inline(never)]
    fn put_around(
        &self,
        memory: &impl SharedMemory,
        heads: [&[u8]; 2],
        parts: &[&[u8]],
        tail: &[u8],
    ) -> Result<(), OutOfRange> {
        let mut at = self.write;
        for part in heads.iter().chain(parts).chain([&tail]) {
            let room = self.size.bytes().wrapping_sub(at) as usize;
            let (first, second) = part.split_at_checked(room).unwrap_or((part, &[]));
            memory.copy_out(self.data.wrapping_add(at as usize), first)?;
            memory.copy_out(self.data, second)?;
            at = self.size.advance(at, part.len() as u32);
        }
        Ok(())
    }

    #[inline]
    fn load(&self, memory: &impl SharedMemory, word: usize) -> Result<u32, Violation> {
        memory
            .load_u32(self.start.saturating_add(word))
            .map_err(|_| geometry(word))
    }

    #[inline]
    fn store(&self, memory: &impl SharedMemory, word: usize, value: u32) -> Result<(), Violation> {
        memory
            .store_u32(self.start.saturating_add(word), value)
            .map_err(|_| geometry(word))
    }
}

/// Our own region is smaller than its rings: cannot happen after
/// `Channel::new`, and ends the channel instead of the paravisor.
#[cold]
pub(super) fn geometry(at: usize) -> Violation {
    Violation::new(Rule::RNG_10, at, 0_u32)
}
