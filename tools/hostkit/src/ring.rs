//! The host's ends of a channel's two rings, over the pages of a GPADL. Layout
//! and signalling: Linux `drivers/hv/ring_buffer.c`, OpenVMM `vmbus_ring`.
//!
//! The index that this side owns lives here; the guest's copy of it is written,
//! never read back. A guest index that makes no sense ends in a [`RingError`].
use crate::mem::{MemoryFault, VmMemory};
use crate::pages::{PageError, PageList};
use abi::vmbus::{
    PACKET_FLAG_COMPLETION_REQUESTED, PACKET_TRAILER_SIZE, PAGE_SIZE, PacketDescriptor, PacketType,
    RING_FEATURE_BITS, RING_FEATURE_PENDING_SEND_SIZE, RING_GAP, RING_INTERRUPT_MASK,
    RING_PENDING_SEND_SIZE, RING_READ_INDEX, RING_WRITE_INDEX,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

/// What the guest did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// An index is not a multiple of 8, or not inside the ring.
    BadIndex(u32),
    /// The packet is shorter than a descriptor, or longer than what was written.
    BadLength(u16),
    /// The payload starts inside the descriptor or behind the packet.
    BadPayloadOffset(u16),
    /// The ring's pages cannot be reached.
    Memory(MemoryFault),
    /// A packet of the host that no ring of this size holds.
    TooLarge(usize),
}

impl From<PageError> for RingError {
    fn from(e: PageError) -> Self {
        match e {
            PageError::Memory(fault) => RingError::Memory(fault),
            // Offsets are kept inside the ring by construction.
            PageError::OutOfRange => RingError::BadIndex(u32::MAX),
        }
    }
}

impl From<MemoryFault> for RingError {
    fn from(fault: MemoryFault) -> Self {
        RingError::Memory(fault)
    }
}

/// A packet of the guest, copied out of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Packet type.
    pub kind: PacketType,
    /// Flags of the descriptor.
    pub flags: u16,
    /// Transaction id.
    pub transaction_id: u64,
    /// Everything behind the descriptor's 16 bytes.
    pub body: Vec<u8>,
    /// Where the payload starts in `body`; before it lies the extended header.
    pub payload_at: usize,
}

impl Packet {
    /// Payload, padded to 8 bytes.
    pub fn payload(&self) -> &[u8] {
        self.body.get(self.payload_at..).unwrap_or_default()
    }
    /// Extended header (page ranges).
    pub fn extended(&self) -> &[u8] {
        self.body.get(..self.payload_at).unwrap_or_default()
    }
    /// Whether the guest wants a completion.
    pub fn wants_completion(&self) -> bool {
        self.flags & PACKET_FLAG_COMPLETION_REQUESTED != 0
    }
}

/// Header page and data pages of one ring.
#[derive(Clone, Debug)]
struct Half {
    pages: Arc<PageList>,
    /// Byte offset of the header page.
    start: usize,
    /// Bytes of data.
    size: u32,
}

impl Half {
    /// Pages `first..end` of the GPADL.
    fn new(pages: &Arc<PageList>, first: usize, end: usize) -> Option<Self> {
        let total = pages.len() / PAGE_SIZE;
        if !pages.is_page_aligned() || end > total || end.checked_sub(first)? < 2 {
            return None;
        }
        let size = u32::try_from((end - first - 1) * PAGE_SIZE).ok()?;
        Some(Half {
            pages: pages.clone(),
            start: first * PAGE_SIZE,
            size,
        })
    }

    fn header(&self, field: usize) -> Result<u64, RingError> {
        Ok(self.pages.gpa(self.start + field)?)
    }

    fn index(&self, mem: &dyn VmMemory, field: usize) -> Result<u32, RingError> {
        let index = mem.load_u32(self.header(field)?)?;
        if index >= self.size || !index.is_multiple_of(8) {
            return Err(RingError::BadIndex(index));
        }
        Ok(index)
    }

    /// Bytes from `from` forward to `to`.
    fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from {
            to - from
        } else {
            self.size - from + to
        }
    }

    fn advance(&self, index: u32, by: u32) -> u32 {
        let next = index + by;
        if next >= self.size {
            next - self.size
        } else {
            next
        }
    }

    fn copy_in(&self, mem: &dyn VmMemory, index: u32, dst: &mut [u8]) -> Result<(), RingError> {
        let first = dst.len().min((self.size - index) as usize);
        let (a, b) = dst.split_at_mut(first);
        self.pages
            .read(mem, self.start + PAGE_SIZE + index as usize, a)?;
        Ok(self.pages.read(mem, self.start + PAGE_SIZE, b)?)
    }

    fn copy_out(&self, mem: &dyn VmMemory, index: u32, src: &[u8]) -> Result<(), RingError> {
        let first = src.len().min((self.size - index) as usize);
        let (a, b) = src.split_at(first);
        self.pages
            .write(mem, self.start + PAGE_SIZE + index as usize, a)?;
        Ok(self.pages.write(mem, self.start + PAGE_SIZE, b)?)
    }
}

/// Guest to host: the host reads.
#[derive(Debug)]
pub struct InRing {
    half: Half,
    read: u32,
    published: u32,
}

impl InRing {
    /// Pages `0..downstream_offset` of the ring GPADL.
    pub fn new(pages: &Arc<PageList>, downstream_offset: usize) -> Option<Self> {
        let half = Half::new(pages, 0, downstream_offset)?;
        Some(InRing {
            half,
            read: 0,
            published: 0,
        })
    }

    /// Writes over a word of the control page.
    pub(crate) fn poke(&self, mem: &dyn VmMemory, at: usize, value: u32) -> Result<(), RingError> {
        Ok(mem.store_u32(self.half.header(at)?, value)?)
    }

    /// Tells the guest whether new packets need a signal.
    pub fn set_mask(&self, mem: &dyn VmMemory, masked: bool) -> Result<(), RingError> {
        mem.store_u32(self.half.header(RING_INTERRUPT_MASK)?, u32::from(masked))?;
        mem.fence();
        Ok(())
    }

    /// Whether there is something to read.
    pub fn has_data(&self, mem: &dyn VmMemory) -> Result<bool, RingError> {
        Ok(self.half.index(mem, RING_WRITE_INDEX)? != self.read)
    }

    /// Copies the next packet out. Space is given back by [`publish`](Self::publish).
    pub fn next(&mut self, mem: &dyn VmMemory) -> Result<Option<Packet>, RingError> {
        const HEAD: usize = size_of::<PacketDescriptor>();
        let write = self.half.index(mem, RING_WRITE_INDEX)?;
        let there = self.half.distance(self.read, write) as usize;
        if there == 0 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        if there < HEAD + PACKET_TRAILER_SIZE {
            return Err(RingError::BadLength(0));
        }
        self.half.copy_in(mem, self.read, &mut head)?;
        let Ok(d) = PacketDescriptor::read_from_bytes(&head) else {
            return Ok(None);
        };
        let len = usize::from(d.length8.get()) * 8;
        let payload = usize::from(d.data_offset8.get()) * 8;
        if len < HEAD || len + PACKET_TRAILER_SIZE > there {
            return Err(RingError::BadLength(d.length8.get()));
        }
        if payload < HEAD || payload > len {
            return Err(RingError::BadPayloadOffset(d.data_offset8.get()));
        }
        let mut body = alloc::vec![0; len - HEAD];
        self.half
            .copy_in(mem, self.half.advance(self.read, HEAD as u32), &mut body)?;
        self.read = self
            .half
            .advance(self.read, (len + PACKET_TRAILER_SIZE) as u32);
        Ok(Some(Packet {
            kind: PacketType(d.packet_type.get()),
            flags: d.flags.get(),
            transaction_id: d.transaction_id.get(),
            body,
            payload_at: payload - HEAD,
        }))
    }

    /// Gives the space of everything read back to the guest. `true` if the guest
    /// waits for that space and wants a signal.
    pub fn publish(&mut self, mem: &dyn VmMemory) -> Result<bool, RingError> {
        if self.published == self.read {
            return Ok(false);
        }
        let given = self.half.distance(self.published, self.read);
        mem.store_u32(self.half.header(RING_READ_INDEX)?, self.read)?;
        self.published = self.read;
        mem.fence();
        let pending = mem.load_u32(self.half.header(RING_PENDING_SEND_SIZE)?)?;
        if pending == 0 {
            return Ok(false);
        }
        let write = self.half.index(mem, RING_WRITE_INDEX)?;
        let after = self.half.size - self.half.distance(self.read, write);
        Ok(after > pending && after.saturating_sub(given) <= pending)
    }
}

/// Host to guest: the host writes.
#[derive(Debug)]
pub struct OutRing {
    half: Half,
    write: u32,
    published: u32,
    pending: bool,
}

impl OutRing {
    /// Pages from `downstream_offset` on.
    pub fn new(pages: &Arc<PageList>, downstream_offset: usize) -> Option<Self> {
        let half = Half::new(pages, downstream_offset, pages.len() / PAGE_SIZE)?;
        Some(OutRing {
            half,
            write: 0,
            published: 0,
            pending: false,
        })
    }

    /// Writes over a word of the control page.
    pub(crate) fn poke(&self, mem: &dyn VmMemory, at: usize, value: u32) -> Result<(), RingError> {
        Ok(mem.store_u32(self.half.header(at)?, value)?)
    }

    /// Says that this side uses the pending send size. Once, after open.
    pub fn start(&self, mem: &dyn VmMemory) -> Result<(), RingError> {
        Ok(mem.store_u32(
            self.half.header(RING_FEATURE_BITS)?,
            RING_FEATURE_PENDING_SEND_SIZE,
        )?)
    }

    fn free(&self, mem: &dyn VmMemory) -> Result<u32, RingError> {
        let read = self.half.index(mem, RING_READ_INDEX)?;
        Ok(self.half.size - self.half.distance(read, self.write))
    }

    /// Whether the ring was found full and has room now (as far as `bytes` go).
    pub fn is_blocked(&self) -> bool {
        self.pending
    }

    /// Writes a packet given as descriptor and everything behind it, padded to 8
    /// bytes; the guest sees it after [`publish`](Self::publish). `false` if the
    /// ring is full: then the guest will signal when there is room.
    pub fn write(&mut self, mem: &dyn VmMemory, packet: &[u8]) -> Result<bool, RingError> {
        let padded = packet.len().next_multiple_of(8);
        let total = padded + PACKET_TRAILER_SIZE;
        if total > self.half.size as usize - RING_GAP {
            return Err(RingError::TooLarge(total));
        }
        let need = (total + RING_GAP) as u32;
        if self.free(mem)? < need {
            // Everything staged counts as waiting, too.
            let wanted = total as u32;
            mem.store_u32(self.half.header(RING_PENDING_SEND_SIZE)?, wanted)?;
            self.pending = true;
            mem.fence();
            if self.free(mem)? < need {
                return Ok(false);
            }
        }
        if self.pending {
            mem.store_u32(self.half.header(RING_PENDING_SEND_SIZE)?, 0)?;
            self.pending = false;
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(packet);
        bytes.resize(padded, 0);
        bytes.extend_from_slice(&(u64::from(self.write) << 32).to_le_bytes());
        self.half.copy_out(mem, self.write, &bytes)?;
        self.write = self.half.advance(self.write, total as u32);
        Ok(true)
    }

    /// Shows the guest what was written. `true` if it wants a signal: the ring
    /// was empty before this batch and the guest did not mask it.
    pub fn publish(&mut self, mem: &dyn VmMemory) -> Result<bool, RingError> {
        if self.published == self.write {
            return Ok(false);
        }
        let before = self.published;
        mem.store_u32(self.half.header(RING_WRITE_INDEX)?, self.write)?;
        self.published = self.write;
        mem.fence();
        if mem.load_u32(self.half.header(RING_INTERRUPT_MASK)?)? != 0 {
            return Ok(false);
        }
        Ok(self.half.index(mem, RING_READ_INDEX)? == before)
    }
}

/// Puts a packet together. `extended` lies between descriptor and payload; its
/// length is a multiple of 8.
pub fn packet(
    kind: PacketType,
    flags: u16,
    transaction_id: u64,
    extended: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    const HEAD: usize = size_of::<PacketDescriptor>();
    let padded = payload.len().next_multiple_of(8);
    let length = HEAD + extended.len() + padded;
    let descriptor = PacketDescriptor {
        packet_type: kind.0.into(),
        data_offset8: (((HEAD + extended.len()) / 8) as u16).into(),
        length8: ((length / 8) as u16).into(),
        flags: flags.into(),
        transaction_id: transaction_id.into(),
    };
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(descriptor.as_bytes());
    bytes.extend_from_slice(extended);
    bytes.extend_from_slice(payload);
    bytes.resize(length, 0);
    bytes
}

#[cfg(test)]
mod tests;
