//! The shared memory as the trace tells it: what the host wrote and what it read.

use std::collections::HashMap;

const PAGE: u64 = 4096;

/// Pages that were touched. What was never touched reads as zero: the guest
/// shares only pages that it has cleared.
#[derive(Default)]
pub struct Memory {
    pages: HashMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Memory {
    /// Puts `bytes` at `gpa`.
    pub fn write(&mut self, gpa: u64, bytes: &[u8]) {
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = (at % PAGE) as usize;
            let len = rest.len().min(PAGE as usize - start);
            let (now, later) = rest.split_at(len);
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| Box::new([0; PAGE as usize]));
            page[start..start + len].copy_from_slice(now);
            rest = later;
            at = at.wrapping_add(len as u64);
        }
    }

    /// Copies from `gpa`.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) {
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = (at % PAGE) as usize;
            let len = rest.len().min(PAGE as usize - start);
            let (now, later) = rest.split_at_mut(len);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => now.copy_from_slice(&page[start..start + len]),
                None => now.fill(0),
            }
            rest = later;
            at = at.wrapping_add(len as u64);
        }
    }

    /// Puts a word.
    pub fn store(&mut self, gpa: u64, word: u32) {
        self.write(gpa, &word.to_le_bytes());
    }

    /// Forgets a page: the guest has cleared it before it shares it again.
    pub fn clear(&mut self, pfn: u64) {
        self.pages.remove(&pfn);
    }
}

/// A buffer of the guest: bytes over a list of pages.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    /// Frame numbers.
    pub pfns: Vec<u64>,
    /// Offset of its first byte in the first page.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

impl Pages {
    /// Address of byte `at`.
    pub fn gpa(&self, at: usize) -> Option<u64> {
        let at = at.checked_add(self.offset)?;
        let pfn = self.pfns.get(at / PAGE as usize)?;
        Some(
            pfn.wrapping_mul(PAGE)
                .wrapping_add((at % PAGE as usize) as u64),
        )
    }

    /// Copies `len` bytes from byte `at` on; `None` beyond the end.
    pub fn read(&self, memory: &Memory, at: usize, len: usize) -> Option<Vec<u8>> {
        if at.checked_add(len)? > self.len {
            return None;
        }
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let gpa = self.gpa(at + done)?;
            let piece = (len - done).min((PAGE - gpa % PAGE) as usize);
            memory.read(gpa, &mut bytes[done..done + piece]);
            done += piece;
        }
        Some(bytes)
    }

    /// Addresses and lengths of the pieces of `at..at + len`.
    pub fn pieces(&self, at: usize, len: usize) -> Vec<(u64, usize)> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let Some(gpa) = self.gpa(at + done) else {
                break;
            };
            let piece = (len - done).min((PAGE - gpa % PAGE) as usize);
            pieces.push((gpa, piece));
            done += piece;
        }
        pieces
    }
}
