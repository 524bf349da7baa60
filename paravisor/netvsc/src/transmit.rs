//! The send buffer: sections that the host reads, each holding one RNDIS
//! message. Only copies of private bytes go in, and nothing of an earlier
//! message stays behind a shorter one (SYS-08).

use abi::rndis;
use memory::{OutOfRange, SharedMemory};
use validate::nvsp::{MAX_SECTIONS, SendGeometry};
use zerocopy::IntoBytes;

/// Bytes in front of a frame in its section.
pub(crate) const PACKET_HEADER: usize = size_of::<rndis::Packet>();

pub(crate) struct SendBuffer<M> {
    memory: M,
    section_size: usize,
    /// Stack of free sections; the first `free_len` count.
    free: [u16; MAX_SECTIONS as usize],
    free_len: usize,
    /// Bytes of each section that are not zero.
    used: [u32; MAX_SECTIONS as usize],
}

impl<M: SharedMemory> SendBuffer<M> {
    /// A buffer without sections, all zero.
    pub fn new(memory: M) -> Result<Self, OutOfRange> {
        memory.zero(0, memory.len())?;
        Ok(SendBuffer {
            memory,
            section_size: 0,
            free: [0; MAX_SECTIONS as usize],
            free_len: 0,
            used: [0; MAX_SECTIONS as usize],
        })
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }

    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Takes the sections that the host agreed to, once.
    pub fn open(&mut self, geometry: SendGeometry) {
        self.section_size = geometry.section_size() as usize;
        self.free_len = 0;
        // The highest number lies deepest, so that low sections are used first.
        for section in (0..geometry.section_count() as u16).rev() {
            self.give_back(section);
        }
    }

    /// Bytes that a section holds.
    pub fn section_size(&self) -> usize {
        self.section_size
    }

    /// A free section, if more than `reserve` are free.
    pub fn take(&mut self, reserve: usize) -> Option<u16> {
        let top = self.free_len.checked_sub(1).filter(|top| *top >= reserve)?;
        let section = self.free.get(top).copied()?;
        self.free_len = top;
        Some(section)
    }

    /// Gives a section back. The caller has it from [`take`](Self::take), and
    /// the table of requests lets it be given back once only.
    pub fn give_back(&mut self, section: u16) {
        if let Some(slot) = self.free.get_mut(self.free_len) {
            *slot = section;
            self.free_len = self.free_len.saturating_add(1);
        }
    }

    /// Copies `parts` one behind the other into the section and clears what an
    /// earlier message left behind them. Gives the bytes written.
    pub fn write(&mut self, section: u16, parts: [&[u8]; 2]) -> Result<u32, OutOfRange> {
        let [head, body] = parts;
        let length = head.len().checked_add(body.len()).ok_or(OutOfRange)?;
        if length > self.section_size {
            return Err(OutOfRange);
        }
        let start = usize::from(section)
            .checked_mul(self.section_size)
            .ok_or(OutOfRange)?;
        let at = |offset: usize| start.checked_add(offset).ok_or(OutOfRange);
        self.memory.copy_out(start, head)?;
        self.memory.copy_out(at(head.len())?, body)?;
        let used = self.used.get_mut(usize::from(section)).ok_or(OutOfRange)?;
        if let Some(left) = (*used as usize).checked_sub(length) {
            self.memory.zero(at(length)?, left)?;
        }
        *used = u32::try_from(length).map_err(|_| OutOfRange)?;
        Ok(*used)
    }
}

/// Header of the PACKET message around a frame of `len` bytes, with no
/// per-packet information: offset 36 and length 0, as FreeBSD sends it.
pub(crate) fn packet_header(len: usize) -> [u8; PACKET_HEADER] {
    let behind_header = PACKET_HEADER.saturating_sub(rndis::OFFSET_BASE) as u32;
    let header = rndis::Packet {
        header: rndis::Header {
            message_type: rndis::message::PACKET.into(),
            length: (PACKET_HEADER.saturating_add(len) as u32).into(),
        },
        data_offset: behind_header.into(),
        data_length: (len as u32).into(),
        ppi_offset: behind_header.into(),
        ..Default::default()
    };
    let mut bytes = [0; PACKET_HEADER];
    // Sizes agree: the layout asserts 44.
    let _ = header.write_to(&mut bytes);
    bytes
}
