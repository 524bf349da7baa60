//! The device's side of a split virtqueue (virtio 1.2, section 2.7). The rings are
//! the guest's memory: each field is copied once and judged before it is used,
//! and no walk takes more steps than the queue is long.

use abi::virtio::queue as layout;
use core::sync::atomic::{Ordering, fence};
use memory::{GuestMemory, OutOfRange};

/// The driver broke a rule of the queue: the device needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl From<OutOfRange> for Broken {
    fn from(_: OutOfRange) -> Broken {
        Broken
    }
}

/// One split virtqueue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// The size offered.
    max: u16,
    /// The size in use.
    pub(crate) size: u16,
    /// Descriptor area.
    pub(crate) desc: u64,
    /// Driver area.
    pub(crate) avail: u64,
    /// Device area.
    pub(crate) used: u64,
    /// MSI-X vector.
    pub(crate) vector: u16,
    enabled: bool,
    event_idx: bool,
    indirect: bool,
    next_avail: u16,
    /// The driver's index as it was judged last: chains below it wait.
    known: u16,
    /// Where the next chain that goes back is entered.
    next_used: u16,
    /// The used index as the driver was told last: entries from here on wait for
    /// [`Queue::publish`].
    published: u16,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) address: u64,
    pub(crate) len: u32,
    /// The device may write it (else read it).
    pub(crate) writable: bool,
}

/// A chain of buffers that the driver made available.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// Index of its first descriptor; goes back into the used ring.
    pub(crate) head: u16,
    next: Option<u16>,
    /// Descriptors that may still be read.
    budget: u16,
    /// The table that `next` counts in: its address and entries. The queue's own
    /// until a descriptor names another.
    table: Option<(u64, u16)>,
}

impl Queue {
    /// A queue after reset. `max` is a power of two.
    pub(crate) const fn new(max: u16) -> Queue {
        Queue {
            max,
            size: max,
            desc: 0,
            avail: 0,
            used: 0,
            vector: abi::virtio::pci::NO_VECTOR,
            enabled: false,
            event_idx: false,
            indirect: false,
            next_avail: 0,
            known: 0,
            next_used: 0,
            published: 0,
        }
    }

    /// Back to the state after reset.
    pub(crate) fn reset(&mut self) {
        *self = Queue::new(self.max);
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    /// Turns the queue on, if its size and areas are as section 2.7 wants them.
    pub(crate) fn enable(&mut self, event_idx: bool, indirect: bool) -> Result<(), Broken> {
        // 2.7: the size is a power of two; 4.1.5.1.3: not above the size offered.
        if !self.size.is_power_of_two() || self.size > self.max {
            return Err(Broken);
        }
        // 2.7: alignment of the three parts.
        if self.desc & 15 != 0 || self.avail & 1 != 0 || self.used & 3 != 0 {
            return Err(Broken);
        }
        self.event_idx = event_idx;
        self.indirect = indirect;
        self.enabled = true;
        Ok(())
    }

    /// Position in a ring of a free-running index.
    fn slot(&self, index: u16) -> u64 {
        u64::from(index & self.size.wrapping_sub(1))
    }

    fn read_u16(guest: &impl GuestMemory, base: u64, offset: u64) -> Result<u16, Broken> {
        let mut bytes = [0; 2];
        guest.read(base.checked_add(offset).ok_or(Broken)?, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write(guest: &impl GuestMemory, base: u64, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        guest.write(base.checked_add(offset).ok_or(Broken)?, bytes)?;
        Ok(())
    }

    /// How many chains wait (2.7.13): the driver's index is looked at.
    fn waiting(&mut self, guest: &impl GuestMemory) -> Result<u16, Broken> {
        let index = Queue::read_u16(guest, self.avail, layout::IDX_OFFSET)?;
        let waiting = index.wrapping_sub(self.next_avail);
        // 2.7.13.3: never more chains than descriptors, those included that were taken
        // and not given back yet, as far as the driver can know.
        if index.wrapping_sub(self.published) > self.size || waiting > self.size {
            Err(Broken)
        } else {
            self.known = index;
            Ok(waiting)
        }
    }

    /// The next chain, without taking it; see [`Queue::advance`].
    pub(crate) fn peek(&mut self, guest: &impl GuestMemory) -> Result<Option<Chain>, Broken> {
        self.peek_behind(guest, 0)
    }

    /// As [`Queue::peek`], the chain behind so many others.
    pub(crate) fn peek_behind(
        &mut self,
        guest: &impl GuestMemory,
        others: u16,
    ) -> Result<Option<Chain>, Broken> {
        // The index only grows, so what it was at the last look is there still.
        let known = self.known.wrapping_sub(self.next_avail) > others;
        if !self.enabled || !known && self.waiting(guest)? <= others {
            return Ok(None);
        }
        // The ring entry was written before the index that announced it.
        fence(Ordering::Acquire);
        let entry = self
            .slot(self.next_avail.wrapping_add(others))
            .wrapping_mul(layout::AVAIL_ENTRY_LEN);
        let offset = layout::RING_OFFSET.wrapping_add(entry);
        let head = Queue::read_u16(guest, self.avail, offset)?;
        if head >= self.size {
            return Err(Broken);
        }
        Ok(Some(Chain {
            head,
            next: Some(head),
            budget: self.size,
            table: None,
        }))
    }

    /// Takes the chain that `peek` showed.
    pub(crate) fn advance(&mut self) {
        self.advance_by(1);
    }

    /// Takes so many chains.
    pub(crate) fn advance_by(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_add(count);
    }

    /// Asks the driver to ring when it makes the next chain available (2.7.10), and
    /// tells whether one came meanwhile.
    pub(crate) fn ask_for_notification(
        &mut self,
        guest: &impl GuestMemory,
    ) -> Result<bool, Broken> {
        if !self.enabled {
            return Ok(false);
        }
        if self.event_idx {
            let ring = u64::from(self.size).wrapping_mul(layout::USED_ENTRY_LEN);
            let offset = layout::RING_OFFSET.wrapping_add(ring);
            Queue::write(guest, self.used, offset, &self.next_avail.to_le_bytes())?;
        }
        // 2.7.10.1: the store before the next look at the index.
        fence(Ordering::SeqCst);
        Ok(self.waiting(guest)? != 0)
    }

    /// Gives a chain back with `len` bytes written into it and tells the driver: as
    /// [`Queue::put_back`] and [`Queue::publish`].
    pub(crate) fn give_back(
        &mut self,
        guest: &impl GuestMemory,
        head: u16,
        len: u32,
    ) -> Result<bool, Broken> {
        self.put_back(guest, &[(head, len)])?;
        self.publish(guest)
    }

    /// Enters chains that go back, with the bytes written into each (2.7.8), all of them
    /// or none. The driver does not know before [`Queue::publish`].
    pub(crate) fn put_back(
        &mut self,
        guest: &impl GuestMemory,
        chains: &[(u16, u32)],
    ) -> Result<(), Broken> {
        let mut new = self.next_used;
        for (head, len) in chains {
            let [a, b, c, d] = u32::from(*head).to_le_bytes();
            let [e, f, g, h] = len.to_le_bytes();
            let entry = self.slot(new).wrapping_mul(layout::USED_ENTRY_LEN);
            let offset = layout::RING_OFFSET.wrapping_add(entry);
            Queue::write(guest, self.used, offset, &[a, b, c, d, e, f, g, h])?;
            new = new.wrapping_add(1);
        }
        self.next_used = new;
        Ok(())
    }

    /// Whether chains went back of which the driver was not told.
    pub(crate) fn has_unpublished(&self) -> bool {
        self.next_used != self.published
    }

    /// Tells the driver of all chains that went back since the last time, by one store
    /// of the index, and tells whether it wants an interrupt for any of them (2.7.7).
    pub(crate) fn publish(&mut self, guest: &impl GuestMemory) -> Result<bool, Broken> {
        let (old, new) = (self.published, self.next_used);
        if new == old {
            return Ok(false);
        }
        self.published = new;
        // 2.7.8.2: the entries before the index that announces them.
        fence(Ordering::Release);
        Queue::write(guest, self.used, layout::IDX_OFFSET, &new.to_le_bytes())?;
        fence(Ordering::SeqCst);
        if !self.event_idx {
            let flags = Queue::read_u16(guest, self.avail, 0)?;
            return Ok(flags & layout::AVAIL_NO_INTERRUPT == 0);
        }
        let ring = u64::from(self.size).wrapping_mul(layout::AVAIL_ENTRY_LEN);
        let offset = layout::RING_OFFSET.wrapping_add(ring);
        let event = Queue::read_u16(guest, self.avail, offset)?;
        // 2.7.7.2: the driver wants it when the index passes used_event.
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }
}

impl Chain {
    /// The next buffer of the chain, `None` at its end.
    pub(crate) fn next(
        &mut self,
        queue: &Queue,
        guest: &impl GuestMemory,
    ) -> Result<Option<Buffer>, Broken> {
        let Some(index) = self.next else {
            return Ok(None);
        };
        // 2.7.5.2: no loops; a chain is at most as long as the queue.
        self.budget = self.budget.checked_sub(1).ok_or(Broken)?;
        let (table, entries) = self.table.unwrap_or((queue.desc, queue.size));
        if index >= entries {
            return Err(Broken);
        }
        let offset = u64::from(index).wrapping_mul(layout::DESCRIPTOR_LEN);
        let mut bytes = [0; layout::DESCRIPTOR_LEN as usize];
        guest.read(table.checked_add(offset).ok_or(Broken)?, &mut bytes)?;
        let value = u128::from_le_bytes(bytes);
        let flags = (value >> 96) as u16;
        if flags & layout::DESC_INDIRECT != 0 {
            // 2.7.5.3.1: only if agreed on, not in a table of its own kind, not with
            // NEXT (so it ends the chain), and no longer than the queue.
            let len = (value >> 64) as u32;
            const BYTES: u32 = layout::DESCRIPTOR_LEN as u32;
            let entries = u16::try_from(len / BYTES).map_err(|_| Broken)?;
            let whole = len.is_multiple_of(BYTES) && entries != 0 && entries <= queue.size;
            let alone = self.table.is_none() && flags & layout::DESC_NEXT == 0;
            if !(queue.indirect && whole && alone) {
                return Err(Broken);
            }
            self.table = Some((value as u64, entries));
            self.next = Some(0);
            self.budget = entries;
            return self.next(queue, guest);
        }
        self.next = (flags & layout::DESC_NEXT != 0).then_some((value >> 112) as u16);
        Ok(Some(Buffer {
            address: value as u64,
            len: (value >> 64) as u32,
            writable: flags & layout::DESC_WRITE != 0,
        }))
    }
}

#[cfg(test)]
mod tests;
