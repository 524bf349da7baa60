//! SynIC pages: slots that change under the reader, event flags, post results.

use crate::memory::{Arena, Race, slot_headers};
use crate::{Digest, Input};
use abi::hyperv::MESSAGE_SLOT;
use std::cell::Cell;
use validate::synic::{event_flag, post_status, slot};
use vmbus::synic::{Drain, EventFlags, MessageSlot};

/// Accesses to shared memory that taking one message may cost.
const PER_MESSAGE: u64 = 4;

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let sint = input.u8() & 15;
    let at = usize::from(sint) * MESSAGE_SLOT;
    let arena = Arena::new(2, 0);
    let messages = arena.region(0, 1, &slot_headers());
    let flags = arena.region(1, 1, &[]);
    let reader = MessageSlot::new(sint);
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 6 {
            0 => {
                let kind = if input.flag() { 1 } else { input.word() };
                arena.poke(at, &kind.to_le_bytes());
                arena.poke(at + 4, &[input.u8(), input.u8()]);
                arena.poke(at + 16, input.run());
            }
            1 => {
                let offset = input.below(2 * 4096) & !15;
                arena.poke(offset, &input.array::<16>());
            }
            2 => {
                let budget = usize::from(input.u8() % 80);
                let refill = input.u8();
                let before = arena.accesses();
                let (taken, ends) = (Cell::new(0), Cell::new(0));
                let seen = &mut digest;
                let drain = reader.drain(
                    &messages,
                    budget,
                    |copy| {
                        taken.set(taken.get() + 1);
                        seen.bytes(copy);
                        let judged = slot(copy);
                        if let Ok(Some(payload)) = &judged {
                            assert_eq!(copy[..4], 1_u32.to_le_bytes());
                            assert_eq!(payload.bytes().len(), usize::from(copy[4]));
                            assert!((8..=240).contains(&payload.bytes().len()));
                            assert!(copy[16..].starts_with(payload.bytes()));
                        }
                        seen.debug(&judged.map(|_| ()));
                        // The host fills the slot again at once.
                        if taken.get() < u32::from(refill) {
                            arena.poke(at, &1_u32.to_le_bytes());
                        }
                    },
                    || ends.set(ends.get() + 1),
                );
                assert!(taken.get() as usize <= budget && ends.get() <= taken.get());
                assert_eq!(drain == Drain::BudgetSpent, taken.get() as usize == budget);
                let cost = arena.accesses() - before;
                assert!(
                    cost <= PER_MESSAGE * (u64::from(taken.get()) + 1),
                    "{cost} accesses"
                );
                digest.number(ends.get().into());
            }
            3 => arena.race(Race {
                after: input.u8().into(),
                offset: if input.flag() {
                    at
                } else {
                    usize::from(input.u16())
                },
                value: input.word(),
            }),
            4 => {
                let highest = input.word();
                let before = arena.accesses();
                let set = EventFlags::new(sint).take(&flags, highest);
                assert!(arena.accesses() - before <= 32);
                let bound = (highest | 63).min(2047);
                for number in set.iter() {
                    assert!(number <= bound);
                    digest.number(number.into());
                    if let Ok(flag) = event_flag(number) {
                        assert!(u32::from(flag.number()) == number && number != 0);
                    }
                }
            }
            _ => {
                let _ = event_flag(input.word())
                    .map(|flag| assert!((1..=2047).contains(&flag.number())));
                digest.debug(&post_status(input.u16(), input.flag()));
            }
        }
        assert_eq!(arena.outside(), 0);
    }
    digest.value()
}
