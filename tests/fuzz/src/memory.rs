//! The VM's memory between a client and a hostile host.
//!
//! The client sees it through [`Region`]s: every byte that it read once changes
//! at once (unless the protocol makes it look again), a script of words is
//! written between its accesses as by a host on another processor, and every
//! access outside of a region is counted. The host sees what was shared with it.

use ::memory::{Backing, GuestMemory, OutOfRange, PAGE_SIZE, ShareFailed, SharedMemory};
use hostkit::mem::{MemoryFault, VmMemory};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

type Page = Option<Box<[u8; PAGE_SIZE]>>;

/// A word that the host writes while the client is at work.
#[derive(Clone, Copy, Debug)]
pub struct Race {
    /// Accesses of the client that are let pass before.
    pub after: u32,
    /// Byte offset, rounded down to 4.
    pub offset: usize,
    /// What is written.
    pub value: u32,
}

/// Consecutive pages from frame `first_pfn` on.
pub struct Arena {
    pages: RefCell<Vec<Page>>,
    first_pfn: u64,
    shared: RefCell<Vec<bool>>,
    script: RefCell<VecDeque<Race>>,
    accesses: Cell<u64>,
    outside: Cell<u64>,
    refused: Cell<u64>,
    turn: Cell<u32>,
}

impl Arena {
    /// `count` private pages of zeros.
    pub fn new(count: usize, first_pfn: u64) -> Rc<Arena> {
        Rc::new(Arena {
            pages: RefCell::new((0..count).map(|_| None).collect()),
            first_pfn,
            shared: RefCell::new(vec![false; count]),
            script: RefCell::default(),
            accesses: Cell::new(0),
            outside: Cell::new(0),
            refused: Cell::new(0),
            turn: Cell::new(0),
        })
    }

    /// The client's view of `pages` pages; bytes in `steady` do not change.
    pub fn region(self: &Rc<Self>, first: usize, pages: usize, steady: &[Range<usize>]) -> Region {
        Region {
            arena: self.clone(),
            start: first * PAGE_SIZE,
            len: pages * PAGE_SIZE,
            steady: steady.into(),
        }
    }

    /// Queues a write between accesses of the client.
    pub fn race(&self, race: Race) {
        self.script.borrow_mut().push_back(race);
    }

    /// Whether no write is queued.
    pub fn is_quiet(&self) -> bool {
        self.script.borrow().is_empty()
    }

    /// Accesses of the client so far (a copy of any length is one).
    pub fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    /// Accesses of the client beyond a region or off its alignment.
    pub fn outside(&self) -> u64 {
        self.outside.get()
    }

    /// Accesses of the host side to pages that are not shared.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Number of pages that are shared.
    pub fn shared(&self) -> usize {
        self.shared
            .borrow()
            .iter()
            .filter(|shared| **shared)
            .count()
    }

    /// Makes the pages visible to the host.
    pub fn share(&self, first: usize, pages: usize) {
        self.shared.borrow_mut()[first..first + pages].fill(true);
    }

    /// Copies bytes out, unseen by anyone.
    pub fn peek(&self, offset: usize, dst: &mut [u8]) {
        let pages = self.pages.borrow();
        let mut at = offset;
        let mut rest = dst;
        while !rest.is_empty() {
            let room = PAGE_SIZE - at % PAGE_SIZE;
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            match &pages[at / PAGE_SIZE] {
                Some(page) => now.copy_from_slice(&page[at % PAGE_SIZE..][..now.len()]),
                None => now.fill(0),
            }
            at += now.len();
            rest = later;
        }
    }

    /// The word at `offset`.
    pub fn peek_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.peek(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes bytes.
    pub fn poke(&self, offset: usize, src: &[u8]) {
        let mut pages = self.pages.borrow_mut();
        let mut at = offset;
        let mut rest = src;
        while !rest.is_empty() {
            let room = PAGE_SIZE - at % PAGE_SIZE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            let page = pages[at / PAGE_SIZE].get_or_insert_with(|| Box::new([0; PAGE_SIZE]));
            page[at % PAGE_SIZE..][..now.len()].copy_from_slice(now);
            at += now.len();
            rest = later;
        }
    }

    /// Writes zeros.
    fn wipe(&self, offset: usize, len: usize) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let next = (at / PAGE_SIZE + 1) * PAGE_SIZE;
            if at.is_multiple_of(PAGE_SIZE) && next <= end {
                self.pages.borrow_mut()[at / PAGE_SIZE] = None;
            } else {
                self.poke(at, &vec![0; next.min(end) - at]);
            }
            at = next;
        }
    }

    /// One access of the client: what the host has written by now is there.
    fn access(&self) {
        self.accesses.set(self.accesses.get() + 1);
        let mut script = self.script.borrow_mut();
        while let Some(race) = script.front_mut() {
            if race.after > 0 {
                race.after -= 1;
                return;
            }
            let size = self.pages.borrow().len() * PAGE_SIZE;
            self.poke((race.offset % size) & !3, &race.value.to_le_bytes());
            script.pop_front();
        }
    }

    fn host(&self, gpa: u64, len: usize) -> Result<usize, MemoryFault> {
        let last = gpa
            .checked_add(len.max(1) as u64 - 1)
            .ok_or(MemoryFault::Unmapped(gpa))?;
        let shared = self.shared.borrow();
        for pfn in gpa >> 12..=last >> 12 {
            let index = pfn.checked_sub(self.first_pfn).map(|index| index as usize);
            match index.and_then(|index| shared.get(index)) {
                Some(true) => {}
                _ => {
                    self.refused.set(self.refused.get() + 1);
                    return Err(MemoryFault::Private(gpa));
                }
            }
        }
        Ok((gpa - (self.first_pfn << 12)) as usize)
    }
}

/// Part of an [`Arena`], as the client sees it.
#[derive(Clone)]
pub struct Region {
    arena: Rc<Arena>,
    start: usize,
    len: usize,
    steady: Rc<[Range<usize>]>,
}

/// Ring headers that the protocol makes a client look at again: indices, mask
/// and pending size of two rings with the second at `page`.
pub fn ring_headers(page: usize) -> [Range<usize>; 2] {
    let second = page * PAGE_SIZE;
    [0..16, second..second + 16]
}

/// Type and flags of each slot of a message page.
pub fn slot_headers() -> Vec<Range<usize>> {
    let slots = (0..16).map(|slot| slot * 256);
    slots.flat_map(|at| [at..at + 4, at + 5..at + 6]).collect()
}

impl Region {
    /// The memory behind.
    pub fn arena(&self) -> &Rc<Arena> {
        &self.arena
    }

    fn check(&self, offset: usize, len: usize, align: usize) -> Result<usize, OutOfRange> {
        self.arena.access();
        match offset.checked_add(len) {
            Some(end) if end <= self.len && offset.is_multiple_of(align) => Ok(self.start + offset),
            _ => {
                self.arena.outside.set(self.arena.outside.get() + 1);
                Err(OutOfRange)
            }
        }
    }

    /// Changes what was just read.
    fn spoil(&self, offset: usize, seen: &[u8]) {
        let turn = self.arena.turn.get();
        self.arena.turn.set(turn.wrapping_add(1));
        let pattern = 0xb5a7_3d91_e64c_58f2_u64.rotate_left(turn % 8 * 8) as u8;
        let end = offset + seen.len();
        let mut spoiled: Vec<u8> = seen.iter().map(|byte| byte ^ pattern).collect();
        for range in self.steady.iter() {
            if range.start < end && offset < range.end {
                let (from, to) = (range.start.max(offset), range.end.min(end));
                spoiled[from - offset..to - offset]
                    .copy_from_slice(&seen[from - offset..to - offset]);
            }
        }
        self.arena.poke(self.start + offset, &spoiled);
    }
}

impl SharedMemory for Region {
    fn len(&self) -> usize {
        self.len
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        let first = self.arena.first_pfn + (self.start / PAGE_SIZE) as u64;
        (index < self.len / PAGE_SIZE).then_some(first + index as u64)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let at = self.check(offset, dst.len(), 1)?;
        self.arena.peek(at, dst);
        self.spoil(offset, dst);
        Ok(())
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        let at = self.check(offset, src.len(), 1)?;
        self.arena.poke(at, src);
        Ok(())
    }
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        let at = self.check(offset, len, 1)?;
        self.arena.wipe(at, len);
        Ok(())
    }
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        let at = self.check(offset, 4, 4)?;
        let value = self.arena.peek_u32(at);
        self.spoil(offset, &value.to_le_bytes());
        Ok(value)
    }
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        let at = self.check(offset, 4, 4)?;
        self.arena.poke(at, &value.to_le_bytes());
        Ok(())
    }
    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange> {
        let at = self.check(offset, 4, 4)?;
        let same = self.arena.peek_u32(at) == from;
        if same {
            self.arena.poke(at, &to.to_le_bytes());
        }
        Ok(same)
    }
    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
        let at = self.check(offset, 8, 8)?;
        let mut bytes = [0; 8];
        self.arena.peek(at, &mut bytes);
        self.arena.poke(at, &[0; 8]);
        Ok(u64::from_le_bytes(bytes))
    }
    fn fence(&self) {}
}

/// The arena as a host sees it, and as the pool's backing.
#[derive(Clone)]
pub struct HostView(pub Rc<Arena>);

impl VmMemory for HostView {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        let at = self.0.host(gpa, dst.len())?;
        self.0.peek(at, dst);
        Ok(())
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        let at = self.0.host(gpa, src.len())?;
        self.0.poke(at, src);
        Ok(())
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        let at = self.0.host(gpa, 4)?;
        Ok(self.0.peek_u32(at))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        self.write(gpa, &value.to_le_bytes())
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        let old = self.load_u32(gpa)?;
        self.store_u32(gpa, old | bits)?;
        Ok(old)
    }
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        let same = self.load_u32(gpa)? == from;
        if same {
            self.store_u32(gpa, to)?;
        }
        Ok(same)
    }
    fn fence(&self) {}
}

impl Backing for HostView {
    type Region = Region;
    fn share(&mut self, first_pfn: u64, pages: usize) -> Result<(), ShareFailed> {
        self.0.share((first_pfn - self.0.first_pfn) as usize, pages);
        Ok(())
    }
    fn region(&mut self, first_pfn: u64, pages: usize) -> Option<Region> {
        // The two pages of the SynIC, the two rings, the buffers.
        let steady = match pages {
            1 => slot_headers(),
            2..=256 => ring_headers(pages / 2).to_vec(),
            _ => Vec::new(),
        };
        let first = (first_pfn - self.0.first_pfn) as usize;
        Some(self.0.region(first, pages, &steady))
    }
}

/// The guest's RAM from address 0: double-fetch memory too, since the guest may
/// change it on another processor. Accesses are counted.
pub struct GuestRam {
    arena: Rc<Arena>,
    size: usize,
    spoils: Cell<bool>,
}

impl GuestRam {
    /// `pages` pages of zeros.
    pub fn new(pages: usize) -> GuestRam {
        GuestRam {
            arena: Arena::new(pages, 0),
            size: pages * PAGE_SIZE,
            spoils: Cell::new(false),
        }
    }

    /// Whether what is read changes.
    pub fn spoil(&self, spoils: bool) {
        self.spoils.set(spoils);
    }

    /// The memory behind.
    pub fn arena(&self) -> &Rc<Arena> {
        &self.arena
    }

    fn at(&self, gpa: u64, len: usize) -> Result<usize, OutOfRange> {
        self.arena.access();
        let at = usize::try_from(gpa).map_err(|_| OutOfRange)?;
        match at.checked_add(len) {
            Some(end) if end <= self.size => Ok(at),
            _ => Err(OutOfRange),
        }
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let at = self.at(gpa, dst.len())?;
        self.arena.peek(at, dst);
        if self.spoils.get() {
            let spoiled: Vec<u8> = dst.iter().map(|byte| byte ^ 0x5a).collect();
            self.arena.poke(at, &spoiled);
        }
        Ok(())
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        let at = self.at(gpa, src.len())?;
        self.arena.poke(at, src);
        Ok(())
    }
}
