//! A ring of descriptors: where it lies and how far it is worked off.

use memory::{GuestMemory, OutOfRange};

/// Registers of a ring, from its low address on.
mod at {
    pub const LOW: u32 = 0x00;
    pub const HIGH: u32 = 0x04;
    pub const LENGTH: u32 = 0x08;
    pub const HEAD: u32 = 0x10;
    pub const TAIL: u32 = 0x18;
}

/// Offset of the tail register in a ring's registers.
pub(super) const TAIL: u32 = at::TAIL;

/// A ring, with every value as the driver wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ring {
    base: u64,
    /// Bytes.
    length: u32,
    head: u32,
    tail: u32,
}

impl Ring {
    /// Reads a register.
    pub(super) fn read(&self, register: u32) -> Option<u32> {
        Some(match register {
            at::LOW => self.base as u32,
            at::HIGH => (self.base >> 32) as u32,
            at::LENGTH => self.length,
            at::HEAD => self.head,
            at::TAIL => self.tail,
            _ => return None,
        })
    }

    /// Writes a register; whether it is one.
    pub(super) fn write(&mut self, register: u32, value: u32) -> bool {
        match register {
            // Aligned to 16 bytes; the length to 128 (datasheet 10.2.5.7, 10.2.5.9).
            at::LOW => self.base = self.base & !0xffff_ffff | u64::from(value & !0xf),
            at::HIGH => self.base = self.base & 0xffff_ffff | u64::from(value) << 32,
            at::LENGTH => self.length = value & 0xf_ff80,
            at::HEAD => self.head = value & 0xffff,
            at::TAIL => self.tail = value & 0xffff,
            _ => return false,
        }
        true
    }

    /// Descriptors in the ring, each of `len` bytes.
    pub(super) fn size(&self, len: usize) -> u32 {
        (u64::from(self.length))
            .checked_div(len as u64)
            .map_or(0, |size| size as u32)
    }

    /// How many descriptors the driver has handed over. None where head or tail
    /// point out of the ring.
    pub(super) fn available(&self, len: usize) -> u32 {
        let size = self.size(len);
        if self.head >= size || self.tail >= size {
            return 0;
        }
        match self.tail.checked_sub(self.head) {
            Some(count) => count,
            None => self.tail.saturating_add(size).saturating_sub(self.head),
        }
    }

    /// Where byte `offset` of the descriptor at the head is.
    pub(super) fn address(&self, len: usize, offset: u64) -> Result<u64, OutOfRange> {
        u64::from(self.head)
            .checked_mul(len as u64)
            .and_then(|at| at.checked_add(offset))
            .and_then(|at| self.base.checked_add(at))
            .ok_or(OutOfRange)
    }

    /// A private copy of the descriptor at the head.
    pub(super) fn fetch<const N: usize>(
        &self,
        guest: &impl GuestMemory,
    ) -> Result<[u8; N], OutOfRange> {
        let mut bytes = [0; N];
        guest.read(self.address(N, 0)?, &mut bytes)?;
        Ok(bytes)
    }

    /// The descriptor at the head is done.
    pub(super) fn advance(&mut self, len: usize) {
        let next = self.head.saturating_add(1);
        self.head = if next >= self.size(len) { 0 } else { next };
    }
}

/// The little-endian number of `len` bytes at `at`, 0 where there is none.
pub(super) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let field = bytes.iter().skip(at).take(len);
    field
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
