//! NVSP messages, and ranges against slots of the receive buffer.

use crate::{Digest, Input};
use std::collections::BTreeSet;
use validate::nvsp::{
    Awaited, Completion, InBand, InBandContext, MAX_SECTIONS, MAX_SLOT, MAX_SLOTS, MIN_SECTION,
    MIN_SLOT, ReceiveGeometry, ReceivePhase, Slots, carrier, completion, in_band,
};

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let len = match input.u8() {
        0..=127 => 2 << 20,
        _ => input.u32(),
    };
    let choice = match input.u8() {
        252.. => 7,
        other => other % 7,
    };
    match choice {
        kind @ (0..=4 | 7) => {
            let awaited = match kind {
                0 => Awaited::Init,
                1 => Awaited::ReceiveBuffer { len },
                2 => Awaited::SendBuffer { len },
                3 => Awaited::Rndis,
                4 => Awaited::Nothing,
                _ => Awaited::SubChannels { count: len as u16 },
            };
            let message = input.run();
            let judged = completion(message, awaited);
            digest.debug(&judged);
            match judged.map(|judged| judged.value) {
                Ok(Completion::ReceiveBuffer(geometry)) => {
                    slots(&geometry, len, input, &mut digest)
                }
                Ok(Completion::SendBuffer(geometry)) => {
                    let (size, count) = (geometry.section_size(), geometry.section_count());
                    assert!(size >= MIN_SECTION && (1..=MAX_SECTIONS).contains(&count));
                    assert!(u64::from(size) * u64::from(count) <= u64::from(len));
                }
                Ok(Completion::SubChannels(granted)) => {
                    let asked =
                        matches!(awaited, Awaited::SubChannels { count } if granted <= count);
                    assert!(asked, "{granted} granted for {awaited:?}");
                }
                Ok(other) => {
                    let fits = matches!(
                        (awaited, other),
                        (Awaited::Init, Completion::Init)
                            | (Awaited::Rndis, Completion::Rndis)
                            | (Awaited::Nothing, Completion::Nothing)
                    );
                    assert!(fits, "{awaited:?} answered by {other:?}");
                }
                Err(violation) => assert!(violation.offset as usize <= message.len().max(32)),
            }
        }
        5 => {
            let phase = [
                ReceivePhase::NotReady,
                ReceivePhase::Open,
                ReceivePhase::Revoked,
            ][input.below(3)];
            let judged = carrier(input.rest(), phase);
            assert!(judged.is_err() || phase == ReceivePhase::Open);
            digest.debug(&judged);
        }
        _ => {
            let context = InBandContext {
                primary: !input.u8().is_multiple_of(4),
                channels: u32::from(input.u8()),
            };
            let judged = in_band(input.rest(), &context);
            digest.debug(&judged);
            if let Ok(InBand::IndirectionTable(table)) = judged {
                assert!(context.channels > 1);
                assert!(table.iter().all(|entry| *entry < context.channels));
            }
            assert!(judged.is_err() || context.primary);
        }
    }
    digest.value()
}

/// Takes and gives back slots, beside a model that keeps a set of numbers.
fn slots(geometry: &ReceiveGeometry, len: u32, mut input: Input<'_>, digest: &mut Digest) {
    let (size, count) = (geometry.slot_size(), geometry.slot_count());
    assert!((MIN_SLOT..=MAX_SLOT).contains(&size) && (1..=MAX_SLOTS).contains(&count));
    assert!(u64::from(size) * u64::from(count) <= u64::from(len));
    let mut taken = Slots::new();
    let mut model = BTreeSet::new();
    let mut held = Vec::new();
    for index in 0..64 {
        if input.is_empty() {
            break;
        }
        if input.u8().is_multiple_of(4) && !held.is_empty() {
            let range = held.swap_remove(input.below(held.len()));
            taken.release(range);
            for slot in
                range.offset() / size as usize..=(range.offset() + range.len() - 1) / size as usize
            {
                model.remove(&slot);
            }
            continue;
        }
        let offset = match input.u8() {
            0..=191 => input.u32() % count * size,
            _ => input.u32(),
        };
        let bytes = match input.u8() {
            0..=191 => u32::from(input.u16()) % (size + 1),
            _ => input.u32(),
        };
        let Ok(range) = geometry.range(index, bytes, offset) else {
            digest.number(1);
            continue;
        };
        assert!(range.offset() + range.len() <= len as usize);
        assert!((8..=size as usize).contains(&range.len()));
        let (first, last) = (
            range.offset() / size as usize,
            (range.offset() + range.len() - 1) / size as usize,
        );
        let one = geometry.in_one_slot(range).is_ok();
        assert_eq!(one, first == last && last < count as usize);
        let free = (first..=last).all(|slot| !model.contains(&slot));
        let took = taken.take(range).is_ok();
        digest.number(took.into());
        if took {
            assert!(free, "a slot was taken twice");
            model.extend(first..=last);
            held.push(range);
        } else {
            // Refused for another reason only beyond the bitmap.
            assert!(!free || last >= MAX_SLOTS as usize);
        }
    }
}
