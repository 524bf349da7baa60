//! The two rings of an open channel: which packets an index shows, and what the
//! guest has sent.

use super::memory::{Memory, Pages};
use abi::vmbus::{
    PACKET_TRAILER_SIZE, PAGE_SIZE, RING_HEADER_SIZE, RING_PENDING_SEND_SIZE, RING_READ_INDEX,
    RING_WRITE_INDEX,
};
use std::collections::VecDeque;
use validate::packet::{DESCRIPTOR, span};
use validate::ring::{DataSize, available, in_use};
use validate::{Rule, Violation};

/// Word of a ring's control page that somebody changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The host shows packets.
    HostWrite,
    /// The host waits for room.
    HostPending,
    /// The host has read packets.
    HostRead,
    /// The guest has read packets.
    GuestRead,
    /// The guest shows packets.
    GuestWrite,
}

/// Rings of one channel.
pub struct Rings {
    pages: Pages,
    /// Byte at which the host-to-guest ring starts.
    split: usize,
    down: DataSize,
    up: DataSize,
    /// Where the next packet of the host starts.
    read: u32,
    /// The guest's read index as the host knows it.
    published: u32,
    /// The guest's write index as the host knows it, and the host's read index.
    up_write: u32,
    up_read: u32,
    /// Packets that the guest is not known to have taken: where each ends, and
    /// what was judged in it.
    pub pending: VecDeque<(u32, [u64; 3])>,
    /// The guest's packet that the host is reading.
    partial: Vec<u8>,
    partial_at: u32,
}

impl Rings {
    /// Rings over the pages of a GPADL, split at `downstream` pages.
    pub fn new(pages: Pages, downstream: u32) -> Option<Rings> {
        let total = pages.len / PAGE_SIZE;
        let split = downstream as usize;
        let up = DataSize::pages(split.checked_sub(1)?)?;
        let down = DataSize::pages(total.checked_sub(split)?.checked_sub(1)?)?;
        Some(Rings {
            pages,
            split: split * PAGE_SIZE,
            down,
            up,
            read: 0,
            published: 0,
            up_write: 0,
            up_read: 0,
            pending: VecDeque::new(),
            partial: Vec::new(),
            partial_at: 0,
        })
    }

    /// Frames of the rings.
    pub fn frames(&self) -> &[u64] {
        &self.pages.pfns
    }

    /// Addresses of the words to be watched.
    pub fn words(&self) -> Vec<(u64, Word)> {
        [
            (self.split + RING_WRITE_INDEX, Word::HostWrite),
            (self.split + RING_PENDING_SEND_SIZE, Word::HostPending),
            (self.split + RING_READ_INDEX, Word::GuestRead),
            (RING_READ_INDEX, Word::HostRead),
            (RING_WRITE_INDEX, Word::GuestWrite),
        ]
        .into_iter()
        .filter_map(|(at, word)| Some((self.pages.gpa(at)?, word)))
        .collect()
    }

    /// The guest's read index, as the host has loaded it.
    pub fn guest_read(&mut self, index: u32) {
        if index >= self.down.bytes() {
            return;
        }
        let taken = self.down.distance(self.published, index);
        while let Some((end, _)) = self.pending.front() {
            let size = self.down.distance(self.published, *end);
            if size > taken {
                break;
            }
            self.pending.pop_front();
        }
        self.published = index;
    }

    /// The guest's write index, as the host has loaded it.
    pub fn guest_write(&mut self, index: u32) {
        self.up_write = index;
    }

    /// The host's read index in the guest's ring.
    pub fn host_read(&mut self, index: u32) -> Result<(), Violation> {
        let known = self.up.distance(self.up_read, self.up_write);
        in_use(self.up, self.up_write, known, 0, index)?;
        self.up_read = index;
        Ok(())
    }

    /// What the host waits for.
    pub fn host_pending(&self, raw: u32) -> Option<Violation> {
        validate::ring::pending_send_size(self.down, raw).noted
    }

    /// The host's write index: bytes that can be read now.
    pub fn shown(&self, index: u32) -> Result<u32, Violation> {
        let taken = self.down.distance(self.published, self.read);
        available(self.down, self.published, taken, 0, index)
    }

    /// The next packet, without trailer, when `available` bytes are there.
    /// `Err` has the descriptor with the violation.
    pub fn next(
        &mut self,
        memory: &Memory,
        available: u32,
    ) -> Result<(Vec<u8>, u32), (Vec<u8>, Violation)> {
        let lost = |at| Violation::new(Rule::RNG_08, at, 0_u32);
        let head = self
            .copy(memory, self.read, DESCRIPTOR)
            .ok_or_else(|| (Vec::new(), lost(0)))?;
        let span = span(&head, available, netvsc::limits::PACKET_BUFFER)
            .map_err(|violation| (head, violation))?;
        let packet = self
            .copy(memory, self.read, span.length() as usize)
            .ok_or_else(|| (Vec::new(), lost(0)))?;
        self.read = self.down.advance(self.read, span.total());
        self.pending.push_back((self.read, [0; 3]));
        Ok((packet, span.total()))
    }

    fn copy(&self, memory: &Memory, index: u32, len: usize) -> Option<Vec<u8>> {
        let data = self.split + RING_HEADER_SIZE;
        let first = len.min((self.down.bytes() - index) as usize);
        let mut bytes = self.pages.read(memory, data + index as usize, first)?;
        bytes.extend(self.pages.read(memory, data, len - first)?);
        Some(bytes)
    }

    /// The host has read `bytes` at `gpa`: if that completes a packet of the
    /// guest, here it is.
    pub fn guest_bytes(&mut self, gpa: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        let at = |index: u32| self.pages.gpa(RING_HEADER_SIZE + index as usize);
        let next = self.up.advance(self.partial_at, self.partial.len() as u32);
        if at(self.partial_at) == Some(gpa) && !self.partial.is_empty() {
            // It looks at the descriptor again.
            self.partial.clear();
        } else if at(next) != Some(gpa) {
            return None;
        }
        self.partial.extend_from_slice(bytes);
        let length = usize::from(u16::from_le_bytes([
            *self.partial.get(4)?,
            *self.partial.get(5)?,
        ])) * 8;
        if length < DESCRIPTOR || self.partial.len() < length {
            return None;
        }
        let packet = std::mem::take(&mut self.partial);
        let total = (length + PACKET_TRAILER_SIZE) as u32;
        self.partial_at = self.up.advance(self.partial_at, total.min(self.up.bytes()));
        Some(packet)
    }
}
