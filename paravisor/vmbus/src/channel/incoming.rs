//! The ring from the host to us.

use super::outgoing::geometry;
use super::{Drained, Signal};
use abi::vmbus::{
    RING_HEADER_SIZE, RING_INTERRUPT_MASK, RING_PENDING_SEND_SIZE, RING_READ_INDEX,
    RING_WRITE_INDEX,
};
use memory::{OutOfRange, SharedMemory};
use validate::packet::{DESCRIPTOR, Span, span};
use validate::ring::{DataSize, available, pending_send_size};
use validate::{Judged, Violation};

/// Private state; the read index is ours and below `size`.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Offset of the control page in the region.
    start: usize,
    /// Offset of the data behind it.
    data: usize,
    size: DataSize,
    /// Where the next packet starts.
    read: u32,
    /// Bytes known to be readable.
    known: u32,
    /// Bytes taken since the read index was last published.
    unpublished: u32,
    /// Bytes that the host has ever written, as far as we looked.
    arrived: u64,
}

impl Incoming {
    pub(super) fn new(start: usize, size: DataSize) -> Incoming {
        Incoming {
            start,
            // What does not fit is refused by every access.
            data: start.saturating_add(RING_HEADER_SIZE),
            size,
            read: 0,
            known: 0,
            unpublished: 0,
            arrived: 0,
        }
    }

    /// Bytes that the host has written since the ring was made.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Loads the host's write index and gives the readable bytes.
    pub(super) fn refresh(&mut self, memory: &impl SharedMemory) -> Result<u32, Violation> {
        let write = self.load(memory, RING_WRITE_INDEX)?;
        let published = self.size.distance(self.unpublished, self.read);
        let known = available(self.size, published, self.unpublished, self.known, write)?;
        let more = known.saturating_sub(self.known);
        self.arrived = self.arrived.wrapping_add(more.into());
        self.known = known;
        Ok(known)
    }

    /// Copies the next packet, without its trailer, into `buffer` and gives its
    /// size. Each byte is read once: the descriptor first, then the rest.
    #[inline]
    pub(super) fn take(
        &mut self,
        memory: &impl SharedMemory,
        buffer: &mut [u8],
    ) -> Result<Option<Span>, Violation> {
        if self.known == 0 && self.refresh(memory)? == 0 {
            return Ok(None);
        }
        let limit = buffer.len();
        let head = buffer
            .first_chunk_mut::<DESCRIPTOR>()
            .ok_or_else(|| geometry(limit))?;
        self.get(memory, self.read, head)
            .map_err(|OutOfRange| geometry(0))?;
        let span = span(head, self.known, limit)?;
        let length = span.length() as usize;
        let rest = buffer
            .get_mut(DESCRIPTOR..length)
            .ok_or_else(|| geometry(limit))?;
        let behind = self.size.advance(self.read, DESCRIPTOR as u32);
        self.get(memory, behind, rest)
            .map_err(|OutOfRange| geometry(0))?;
        self.read = self.size.advance(self.read, span.total());
        self.known = self.known.saturating_sub(span.total());
        self.unpublished = self.unpublished.saturating_add(span.total());
        Ok(Some(span))
    }

    /// Publishes the read index, unmasks and looks again. The host has to be
    /// signalled if it waits for more room than it had and now has it.
    pub(super) fn finish(
        &mut self,
        memory: &impl SharedMemory,
    ) -> Result<Judged<Drained>, Violation> {
        let freed = core::mem::take(&mut self.unpublished);
        if freed != 0 {
            // A release store: all copies are done before the host sees it (RNG-25).
            self.store(memory, RING_READ_INDEX, self.read)?;
        }
        self.mask(memory, false)?;
        // Both must be visible before we look at what the host did meanwhile.
        memory.fence();
        let pending = self.load(memory, RING_PENDING_SEND_SIZE)?;
        let pending = pending_send_size(self.size, pending);
        let readable = self.refresh(memory)?;
        let after = self.size.bytes().saturating_sub(readable);
        let before = after.saturating_sub(freed);
        let signal = match pending.value {
            Some(wanted) if before <= wanted && after > wanted => Signal::Needed,
            _ => Signal::NotNeeded,
        };
        Ok(Judged {
            value: Drained {
                more: readable != 0,
                signal,
            },
            noted: pending.noted,
        })
    }

    pub(super) fn mask(&self, memory: &impl SharedMemory, masked: bool) -> Result<(), Violation> {
        self.store(memory, RING_INTERRUPT_MASK, u32::from(masked))
    }

    /// Copies from index `at`, which is below the size.
    #[inline(always)]
    fn get(&self, memory: &impl SharedMemory, at: u32, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        let room = self.size.bytes().wrapping_sub(at) as usize;
        if bytes.len() > room {
            return self.get_around(memory, at, bytes);
        }
        memory.copy_in(self.data.wrapping_add(at as usize), bytes)
    }

    /// The same in two pieces, for bytes that wrap.
    #[cold]
    #[inline(never)]
    fn get_around(
        &self,
        memory: &impl SharedMemory,
        at: u32,
        bytes: &mut [u8],
    ) -> Result<(), OutOfRange> {
        let room = self.size.bytes().wrapping_sub(at) as usize;
        let (first, second) = bytes.split_at_mut_checked(room).ok_or(OutOfRange)?;
        memory.copy_in(self.data.wrapping_add(at as usize), first)?;
        memory.copy_in(self.data, second)
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
