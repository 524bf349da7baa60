//! The send buffer: sections that the host reads, each holding one RNDIS
//! message, or several in a row for a message that is longer. Only copies of
//! private bytes go in, and nothing of an earlier message stays behind a shorter
//! one (SYS-08).

use memory::{OutOfRange, SharedMemory};
use validate::nvsp::{MAX_SECTIONS, SendGeometry};

/// Sections in a row that one message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    first: u16,
    count: u16,
}

impl Sections {
    #[cfg(test)]
    pub fn one(first: u16) -> Sections {
        Sections { first, count: 1 }
    }

    /// Number of the first.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// Whether the host finds the message by the number of its section.
    pub fn is_one(&self) -> bool {
        self.count == 1
    }

    fn all(&self) -> core::ops::Range<u16> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// The bytes of a message in their order, measured once.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    parts: &'a [&'a [u8]],
    length: usize,
}

impl<'a> Parts<'a> {
    pub const NONE: Parts<'static> = Parts {
        parts: &[],
        length: 0,
    };

    pub fn new(parts: &'a [&'a [u8]]) -> Parts<'a> {
        let length = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        Parts { parts, length }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn all(&self) -> &'a [&'a [u8]] {
        self.parts
    }
}

const WORDS: usize = MAX_SECTIONS as usize / 64;

pub(crate) struct SendBuffer<M> {
    memory: M,
    section_size: usize,
    section_count: u16,
    /// Those that are this channel's.
    share: core::ops::Range<u16>,
    /// Bytes of the longest message.
    longest: usize,
    /// One bit per section that is free.
    free: [u64; WORDS],
    free_count: u16,
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
            section_count: 0,
            share: 0..0,
            longest: 0,
            free: [0; WORDS],
            free_count: 0,
            used: [0; MAX_SECTIONS as usize],
        })
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }

    pub fn into_memory(self) -> M {
        self.memory
    }

    /// The region itself, for packets that name its pages.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes the sections that the host agreed to, once.
    pub fn open(&mut self, geometry: SendGeometry) {
        self.section_size = geometry.section_size() as usize;
        self.section_count = geometry.section_count() as u16;
        self.keep(0, 1);
    }

    /// Keeps the part of the `lane`th of so many channels, all of it free.
    pub fn keep(&mut self, lane: u16, lanes: u16) {
        let count = self.section_count.checked_div(lanes).unwrap_or(0);
        let first = count.saturating_mul(lane);
        self.share = first..first.saturating_add(count);
        let bytes = self.section_size.saturating_mul(count.into());
        self.longest = bytes.min(crate::limits::MESSAGE);
        self.free = [0; WORDS];
        self.free_count = 0;
        self.give_back(Sections { first, count });
    }

    /// Another view of the same buffer, with the part of another channel.
    pub fn view<V: SharedMemory>(&self, memory: V, lane: u16, lanes: u16) -> SendBuffer<V> {
        let mut view = SendBuffer {
            memory,
            section_size: self.section_size,
            section_count: self.section_count,
            share: 0..0,
            longest: 0,
            free: [0; WORDS],
            free_count: 0,
            // What an earlier message of the primary has left there is cleared, too.
            used: self.used,
        };
        view.keep(lane, lanes);
        view
    }

    /// Bytes of a section.
    pub fn section_size(&self) -> usize {
        self.section_size
    }

    /// Sections that the host has made.
    pub fn section_count(&self) -> u16 {
        self.section_count
    }

    /// Those of them that are this channel's.
    pub fn own_sections(&self) -> usize {
        self.share.len()
    }

    /// Bytes of the longest message.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Where the sections start in the region.
    pub fn offset(&self, sections: Sections) -> usize {
        usize::from(sections.first).saturating_mul(self.section_size)
    }

    fn is_free(&self, section: u16) -> bool {
        let word = self.free.get(usize::from(section / 64));
        word.is_some_and(|word| word >> (section % 64) & 1 != 0)
    }

    fn mark(&mut self, section: u16, free: bool) {
        if let Some(word) = self.free.get_mut(usize::from(section / 64)) {
            let bit = 1 << (section % 64);
            *word = if free { *word | bit } else { *word & !bit };
        }
    }

    /// Free sections for a message of `length` bytes, the lowest that fit, if
    /// `reserve` more are free.
    pub fn take(&mut self, length: usize, reserve: u16) -> Option<Sections> {
        let count = match length <= self.section_size {
            true => 1,
            false => u16::try_from(length.div_ceil(self.section_size.max(1))).ok()?,
        };
        if self.free_count < count.saturating_add(reserve) {
            return None;
        }
        if count == 1 {
            // Only sections of this channel are ever free.
            let at = self.free.iter().position(|word| *word != 0)?;
            let word = self.free.get_mut(at)?;
            let first = (at as u16).wrapping_mul(64) | word.trailing_zeros() as u16;
            *word &= word.wrapping_sub(1);
            self.free_count = self.free_count.saturating_sub(1);
            return Some(Sections { first, count });
        }
        let mut run = 0;
        let last = self.share.clone().find(|section| {
            run = if self.is_free(*section) {
                u16::saturating_add(run, 1)
            } else {
                0
            };
            run == count
        })?;
        let sections = Sections {
            first: last.saturating_add(1).checked_sub(count)?,
            count,
        };
        sections.all().for_each(|section| self.mark(section, false));
        self.free_count = self.free_count.saturating_sub(count);
        Some(sections)
    }

    /// Gives sections back. The caller has them from [`take`](Self::take), and
    /// the table of requests lets them be given back once only.
    pub fn give_back(&mut self, sections: Sections) {
        sections.all().for_each(|section| self.mark(section, true));
        self.free_count = self.free_count.saturating_add(sections.count);
    }

    /// Copies `front` and then `parts` into the sections, from byte `at` on. Gives the byte
    /// behind them.
    pub fn put(
        &mut self,
        sections: Sections,
        at: usize,
        front: &[u8],
        parts: &Parts<'_>,
    ) -> Result<usize, OutOfRange> {
        let room = self.section_size.saturating_mul(sections.count.into());
        let behind = at.checked_add(front.len()).ok_or(OutOfRange)?;
        let end = behind.checked_add(parts.length).ok_or(OutOfRange)?;
        if end > room {
            return Err(OutOfRange);
        }
        let start = self.offset(sections).checked_add(at).ok_or(OutOfRange)?;
        self.memory
            .copy_out_all(start, [front, &[]], parts.parts, &[])?;
        Ok(end)
    }

    /// The sections hold `length` bytes and no more: what earlier messages left behind
    /// them is cleared. Before this the host is not to be told of them.
    pub fn seal(&mut self, sections: Sections, length: usize) -> Result<u32, OutOfRange> {
        let mut at = self.offset(sections);
        let mut left = length;
        for section in sections.all() {
            let here = left.min(self.section_size);
            let used = self.used.get_mut(usize::from(section)).ok_or(OutOfRange)?;
            let stale = (*used as usize).saturating_sub(here);
            if stale != 0 {
                self.memory
                    .zero(at.checked_add(here).ok_or(OutOfRange)?, stale)?;
            }
            *used = u32::try_from(here).map_err(|_| OutOfRange)?;
            left = left.saturating_sub(here);
            at = at.checked_add(self.section_size).ok_or(OutOfRange)?;
        }
        u32::try_from(length).map_err(|_| OutOfRange)
    }

    /// As [`put`](Self::put) from the start on, and [`seal`](Self::seal).
    pub fn write(&mut self, sections: Sections, parts: &Parts<'_>) -> Result<u32, OutOfRange> {
        let length = self.put(sections, 0, &[], parts)?;
        self.seal(sections, length)
    }
}
