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
    size: DataSize,
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
        Outgoing {
            start,
            size,
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
        let around = size_of::<PacketDescriptor>().saturating_add(PACKET_TRAILER_SIZE);
        let ring = (self.size.capacity() as usize).saturating_sub(around);
        ring.min(MAX_PACKET.saturating_sub(size_of::<PacketDescriptor>()))
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
        let payload = parts
            .iter()
            .try_fold(0_usize, |sum, part| sum.checked_add(part.len()));
        let longest = self.max_payload().saturating_sub(head.len());
        let payload = payload
            .filter(|len| *len <= longest)
            .ok_or(SendError::TooLong)?;
        let padded = payload
            .checked_next_multiple_of(8)
            .ok_or(SendError::TooLong)?;
        let behind = size_of::<PacketDescriptor>().saturating_add(head.len());
        let length = behind.saturating_add(padded);
        let needed = u32::try_from(length.saturating_add(PACKET_TRAILER_SIZE))
            .map_err(|_| SendError::TooLong)?;
        self.reserve(memory, needed)?;

        let descriptor = PacketDescriptor {
            packet_type: kind.packet_type.0.into(),
            data_offset8: u16::try_from(behind / 8)
                .map_err(|_| SendError::TooLong)?
                .into(),
            length8: u16::try_from(length / 8)
                .map_err(|_| SendError::TooLong)?
                .into(),
            flags: if kind.wants_reply {
                PACKET_FLAG_COMPLETION_REQUESTED
            } else {
                0
            }
            .into(),
            transaction_id: transaction_id.into(),
        };
        // Low word zero, high word where this packet starts (RNG-28).
        let trailer = u64::from(self.write) << 32;
        let padding = [0_u8; 7];
        let padding = padding.get(..padded.saturating_sub(payload)).unwrap_or(&[]);

        let mut at = self.write;
        let mut put = |bytes: &[u8]| -> Result<(), SendError> {
            at = self
                .copy_out(memory, at, bytes)
                .map_err(|OutOfRange| self.broken())?;
            Ok(())
        };
        put(descriptor.as_bytes())?;
        put(head)?;
        for part in parts {
            put(part)?;
        }
        put(padding)?;
        put(&trailer.to_le_bytes())?;

        self.write = at;
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

    /// Makes sure that `needed` bytes are free and 8 more stay so (RNG-27).
    fn reserve(&mut self, memory: &impl SharedMemory, needed: u32) -> Result<(), SendError> {
        let capacity = self.size.capacity();
        let fits = |used: u32| needed <= capacity.saturating_sub(used);
        if !fits(self.used) && !fits(self.refresh(memory).map_err(SendError::Corrupt)?) {
            // Ask to be signalled, then look again: the host may have read in between.
            self.store(memory, RING_PENDING_SEND_SIZE, needed)
                .map_err(SendError::Corrupt)?;
            self.waiting = true;
            memory.fence();
            if !fits(self.refresh(memory).map_err(SendError::Corrupt)?) {
                return Err(SendError::Full);
            }
        }
        if core::mem::take(&mut self.waiting) {
            self.store(memory, RING_PENDING_SEND_SIZE, 0)
                .map_err(SendError::Corrupt)?;
        }
        Ok(())
    }

    /// Copies `bytes` to index `at`, in two pieces if they wrap; gives the index behind.
    fn copy_out(
        &self,
        memory: &impl SharedMemory,
        at: u32,
        bytes: &[u8],
    ) -> Result<u32, OutOfRange> {
        let room = self.size.bytes().saturating_sub(at) as usize;
        let (first, second) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        let data = self.start.checked_add(RING_HEADER_SIZE).ok_or(OutOfRange)?;
        memory.copy_out(data.checked_add(at as usize).ok_or(OutOfRange)?, first)?;
        if !second.is_empty() {
            memory.copy_out(data, second)?;
        }
        Ok(self
            .size
            .advance(at, u32::try_from(bytes.len()).map_err(|_| OutOfRange)?))
    }

    fn load(&self, memory: &impl SharedMemory, word: usize) -> Result<u32, Violation> {
        memory
            .load_u32(self.start.saturating_add(word))
            .map_err(|_| geometry(word))
    }

    fn store(&self, memory: &impl SharedMemory, word: usize, value: u32) -> Result<(), Violation> {
        memory
            .store_u32(self.start.saturating_add(word), value)
            .map_err(|_| geometry(word))
    }

    fn broken(&self) -> SendError {
        SendError::Corrupt(geometry(self.write as usize))
    }
}

/// Our own region is smaller than its rings: cannot happen after
/// `Channel::new`, and ends the channel instead of the paravisor.
pub(super) fn geometry(at: usize) -> Violation {
    Violation::new(Rule::RNG_10, at, 0_u32)
}
