//! The shared SynIC pages: one slot of the message page and one area of the
//! event-flags page belong to our SINT.

use abi::hyperv::{EVENT_FLAGS_AREA, MESSAGE_SLOT, MESSAGE_TYPE_NONE};
use memory::SharedMemory;
use validate::synic::pending;

/// Words of an event-flags area.
const FLAG_WORDS: usize = EVENT_FLAGS_AREA / 8;
/// Offset of the flags byte in a slot.
const SLOT_FLAGS: usize = 5;

/// What [`MessageSlot::drain`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drain {
    /// The slot is empty.
    Empty,
    /// The budget is spent and a message may be waiting (SYN-11): come back
    /// after other work, no interrupt will tell.
    BudgetSpent,
}

/// The slot of our SINT in the message page of one VP (SYN-02).
#[derive(Clone, Copy, Debug)]
pub struct MessageSlot {
    at: usize,
}

impl MessageSlot {
    /// The slot of `sint` (0 to 15).
    pub const fn new(sint: u8) -> MessageSlot {
        MessageSlot {
            at: (sint as usize & 15).wrapping_mul(MESSAGE_SLOT),
        }
    }

    /// Takes one message: the private copy of the slot (SYN-01), and whether an
    /// end-of-message is due. The slot is empty again afterwards. `None`: there
    /// was nothing (SYN-03).
    pub fn take(&self, page: &impl SharedMemory) -> Option<([u8; MESSAGE_SLOT], bool)> {
        let mut copy = [0; MESSAGE_SLOT];
        page.copy_in(self.at, &mut copy).ok()?;
        let [a, b, c, d, ..] = copy;
        let kind = u32::from_le_bytes([a, b, c, d]);
        if kind == MESSAGE_TYPE_NONE {
            return None;
        }
        // If the host has put another type there meanwhile, that message stays
        // and this one has been taken all the same (SYN-10).
        let cleared = page
            .compare_exchange_u32(self.at, kind, MESSAGE_TYPE_NONE)
            .ok()?;
        // The slot must be seen empty before the host is asked for more, and
        // the flag must be read after that.
        page.fence();
        let mut flags = [0];
        page.copy_in(self.at.saturating_add(SLOT_FLAGS), &mut flags)
            .ok()?;
        let [flags] = flags;
        Some((copy, cleared && pending(flags)))
    }

    /// Takes up to `budget` messages, hands each copy to `message` and calls
    /// `end_of_message` (a write to the EOM register) at most once for each.
    pub fn drain(
        &self,
        page: &impl SharedMemory,
        budget: usize,
        mut message: impl FnMut(&[u8; MESSAGE_SLOT]),
        mut end_of_message: impl FnMut(),
    ) -> Drain {
        for _ in 0..budget {
            let Some((copy, eom)) = self.take(page) else {
                return Drain::Empty;
            };
            message(&copy);
            if eom {
                end_of_message();
            }
        }
        Drain::BudgetSpent
    }
}

/// Event flags that were set, taken in one pass.
#[derive(Clone, Debug)]
pub struct FlagSet {
    words: [u64; FLAG_WORDS],
}

impl FlagSet {
    /// The numbers of the flags that were set.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let numbered = self.words.iter().zip(0..FLAG_WORDS as u32);
        numbered.flat_map(|(word, index)| {
            (0..64)
                .filter(move |bit| word.wrapping_shr(*bit) & 1 == 1)
                .map(move |bit: u32| index.wrapping_mul(64).wrapping_add(bit))
        })
    }

    /// No flag was set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// The area of our SINT in the event-flags page of one VP.
#[derive(Clone, Copy, Debug)]
pub struct EventFlags {
    at: usize,
}

impl EventFlags {
    /// The area of `sint` (0 to 15).
    pub const fn new(sint: u8) -> EventFlags {
        EventFlags {
            at: (sint as usize & 15).wrapping_mul(EVENT_FLAGS_AREA),
        }
    }

    /// Takes and clears the flags 0 to `highest`, each word once: what the host
    /// sets meanwhile raises the next interrupt (SYN-17).
    pub fn take(&self, page: &impl SharedMemory, highest: u32) -> FlagSet {
        let count = (highest as usize / 64).saturating_add(1);
        let mut words = [0; FLAG_WORDS];
        for (index, word) in words.iter_mut().take(count).enumerate() {
            let at = self.at.saturating_add(index.saturating_mul(8));
            *word = page.take_u64(at).unwrap_or(0);
        }
        FlagSet { words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use memory::doubles::{DoubleFetch, PlainShared};

    fn put(page: &PlainShared, sint: usize, kind: u32, byte: u8, flags: u8) {
        let mut slot = [byte; MESSAGE_SLOT];
        slot[0..4].copy_from_slice(&kind.to_le_bytes());
        slot[4] = 8;
        slot[5] = flags;
        page.copy_out(sint * MESSAGE_SLOT, &slot).unwrap();
    }

    #[test]
    fn syn_01_a_slot_is_read_once() {
        let plain = PlainShared::new(1, 0);
        let page = DoubleFetch::message_page(plain.clone());
        put(&plain, 2, 1, 0x77, 1);
        let (copy, eom) = MessageSlot::new(2).take(&page).unwrap();
        assert!(eom);
        assert!(copy[16..].iter().all(|b| *b == 0x77));
        assert!(MessageSlot::new(2).take(&page).is_none());
    }

    #[test]
    fn syn_02_other_slots_are_not_looked_at() {
        let page = PlainShared::new(1, 0);
        put(&page, 0, 1, 1, 1);
        put(&page, 3, 1, 1, 1);
        assert!(MessageSlot::new(2).take(&page).is_none());
        put(&page, 7, 1, 1, 0);
        assert!(MessageSlot::new(7).take(&page).is_some());
        assert_eq!(page.load_u32(7 * 256), Ok(0));
        assert_eq!(page.load_u32(3 * 256), Ok(1));
    }

    #[test]
    fn syn_10_one_eom_per_message() {
        let page = PlainShared::new(1, 0);
        put(&page, 2, 1, 0, 0);
        let (_, eom) = MessageSlot::new(2).take(&page).unwrap();
        assert!(!eom);
    }

    #[test]
    fn syn_11_a_slot_that_never_empties() {
        let page = PlainShared::new(1, 0);
        put(&page, 2, 1, 0, 1);
        let (mut messages, mut eoms) = (0, 0);
        let drain = MessageSlot::new(2).drain(
            &page,
            64,
            |_| {
                messages += 1;
                put(&page, 2, 1, 0, 1);
            },
            || eoms += 1,
        );
        assert_eq!((drain, messages, eoms), (Drain::BudgetSpent, 64, 64));
    }

    #[test]
    fn syn_17_flags_are_taken_once() {
        let page = PlainShared::new(1, 0);
        page.copy_out(2 * 256, &[0b10_0001, 0x80]).unwrap();
        page.copy_out(2 * 256 + 255, &[0x80]).unwrap();
        let flags = EventFlags::new(2).take(&page, 2047);
        assert_eq!(flags.iter().collect::<Vec<_>>(), [0, 5, 15, 2047]);
        assert!(EventFlags::new(2).take(&page, 2047).is_empty());
        // Beyond the highest assigned flag nothing is scanned.
        page.copy_out(2 * 256 + 255, &[0x80]).unwrap();
        assert!(EventFlags::new(2).take(&page, 7).is_empty());
    }
}
