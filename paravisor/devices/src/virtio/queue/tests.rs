//! The queue against rings written by hand, rule by rule.

use super::*;
use crate::test_support::Ram;
use layout::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE};

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;

fn queue(event_idx: bool) -> Queue {
    let mut queue = Queue::new(8);
    (queue.desc, queue.avail, queue.used) = (DESC, AVAIL, USED);
    queue.enable(event_idx, false).unwrap();
    queue
}

fn describe(ram: &Ram, index: u64, address: u64, len: u64, flags: u16, next: u16) {
    ram.set::<8>(DESC + 16 * index, address);
    ram.set::<4>(DESC + 16 * index + 8, len);
    ram.set::<2>(DESC + 16 * index + 12, flags.into());
    ram.set::<2>(DESC + 16 * index + 14, next.into());
}

fn offer(ram: &Ram, slot: u64, head: u64, idx: u64) {
    ram.set::<2>(AVAIL + 4 + 2 * slot, head);
    ram.set::<2>(AVAIL + 2, idx);
}

fn walk(queue: &Queue, ram: &Ram) -> Result<Vec<Buffer>, Broken> {
    let mut queue = queue.clone();
    let mut chain = queue.peek(ram)?.unwrap();
    let mut buffers = Vec::new();
    while let Some(buffer) = chain.next(&queue, ram)? {
        buffers.push(buffer);
    }
    Ok(buffers)
}

#[test]
fn v_2_7_size_and_alignment_are_checked_on_enabling() {
    for (size, desc, avail, used, good) in [
        (8, 0x10, 2, 4, true),
        (6, 0x10, 2, 4, false),
        (0, 0x10, 2, 4, false),
        (16, 0x10, 2, 4, false),
        (8, 0x18, 2, 4, false),
        (8, 0x10, 1, 4, false),
        (8, 0x10, 2, 2, false),
    ] {
        let mut queue = Queue::new(8);
        (queue.size, queue.desc, queue.avail, queue.used) = (size, desc, avail, used);
        assert_eq!(
            queue.enable(false, false).is_ok(),
            good,
            "{size} {desc} {avail} {used}"
        );
        assert_eq!(queue.enabled(), good);
    }
}

#[test]
fn v_2_7_5_a_chain_is_followed_by_next() {
    let (mut queue, ram) = (queue(false), Ram::new(0x4000));
    describe(&ram, 5, 0xaaaa, 10, DESC_NEXT, 2);
    describe(&ram, 2, 0xbbbb, 20, DESC_WRITE, 7);
    assert!(queue.peek(&ram).unwrap().is_none());
    offer(&ram, 0, 5, 1);
    let buffers = walk(&queue, &ram).unwrap();
    assert_eq!(
        buffers,
        [
            Buffer {
                address: 0xaaaa,
                len: 10,
                writable: false
            },
            Buffer {
                address: 0xbbbb,
                len: 20,
                writable: true
            }
        ]
    );
}

#[test]
fn v_2_7_5_2_a_loop_ends_with_the_queue_size() {
    let (queue, ram) = (queue(false), Ram::new(0x4000));
    describe(&ram, 0, 0, 1, DESC_NEXT, 1);
    describe(&ram, 1, 0, 1, DESC_NEXT, 0);
    offer(&ram, 0, 0, 1);
    assert_eq!(walk(&queue, &ram), Err(Broken));
}

#[test]
fn a_chain_as_long_as_the_queue_is_fine() {
    let (queue, ram) = (queue(false), Ram::new(0x4000));
    for index in 0..8 {
        let flags = if index == 7 { 0 } else { DESC_NEXT };
        describe(&ram, index, 0, 1, flags, index as u16 + 1);
    }
    offer(&ram, 0, 0, 1);
    assert_eq!(walk(&queue, &ram).unwrap().len(), 8);
}

#[test]
fn indices_beyond_the_table_break_the_queue() {
    let (mut queue, ram) = (queue(false), Ram::new(0x4000));
    offer(&ram, 0, 8, 1);
    assert!(queue.peek(&ram).is_err());
    offer(&ram, 0, 0, 1);
    describe(&ram, 0, 0, 1, DESC_NEXT, 8);
    assert_eq!(walk(&queue, &ram), Err(Broken));
}

#[test]
fn v_2_7_5_3_1_indirect_descriptors_only_if_agreed_on() {
    let (queue, ram) = (queue(false), Ram::new(0x4000));
    describe(&ram, 0, 0x100, 16, DESC_INDIRECT, 0);
    offer(&ram, 0, 0, 1);
    assert_eq!(walk(&queue, &ram), Err(Broken));
}

#[test]
fn v_2_7_5_3_a_table_is_walked_and_bounded() {
    let ram = Ram::new(0x4000);
    let mut queue = queue(false);
    queue.indirect = true;
    let table = |index: u64, address: u64, flags: u16, next: u64| {
        let at = 0x500 + 16 * index;
        ram.set::<8>(at, address);
        ram.set::<4>(at + 8, 8);
        ram.set::<2>(at + 12, u64::from(flags));
        ram.set::<2>(at + 14, next);
    };
    offer(&ram, 0, 0, 1);
    // In any order, as long as the queue itself.
    for index in 0..7 {
        table(index, 0x100 * index, DESC_NEXT, index + 1);
    }
    table(7, 0x700, DESC_WRITE, 0);
    describe(&ram, 0, 0x500, 8 * 16, DESC_INDIRECT, 0);
    let buffers = walk(&queue, &ram).unwrap();
    let addresses: Vec<u64> = buffers.iter().map(|buffer| buffer.address).collect();
    assert_eq!(addresses, (0..8).map(|n| 0x100 * n).collect::<Vec<_>>());
    assert!(buffers[7].writable);
    // An index behind the table, and a loop in it.
    for next in [8, 7, 3] {
        table(7, 0x700, DESC_NEXT, next);
        assert_eq!(walk(&queue, &ram), Err(Broken), "{next}");
    }
    table(7, 0x700, 0, 0);
    // A table in the table; one with NEXT; of no whole entries; too long.
    table(0, 0x500, DESC_INDIRECT, 0);
    assert_eq!(walk(&queue, &ram), Err(Broken));
    table(0, 0x500, 0, 0);
    for (len, flags) in [
        (16, DESC_INDIRECT | DESC_NEXT),
        (0, DESC_INDIRECT),
        (17, DESC_INDIRECT),
        (9 * 16, DESC_INDIRECT),
    ] {
        describe(&ram, 0, 0x500, len, flags, 0);
        assert_eq!(walk(&queue, &ram), Err(Broken), "{len}");
    }
    // Outside of memory.
    describe(&ram, 0, u64::MAX - 8, 32, DESC_INDIRECT, 0);
    assert_eq!(walk(&queue, &ram), Err(Broken));
}

#[test]
fn v_2_7_13_3_more_chains_than_descriptors_break_the_queue() {
    for (index, right) in [(8, true), (9, false), (0xffff, false)] {
        let (mut queue, ram) = (queue(false), Ram::new(0x4000));
        offer(&ram, 0, 0, index);
        assert_eq!(queue.peek(&ram).is_ok(), right);
    }
    // The index is looked at again when what it announced is taken.
    let (mut queue, ram) = (queue(false), Ram::new(0x4000));
    offer(&ram, 0, 0, 2);
    assert!(queue.peek_behind(&ram, 1).unwrap().is_some());
    offer(&ram, 0, 0, 9);
    assert!(queue.peek(&ram).unwrap().is_some());
    queue.advance_by(2);
    assert_eq!(queue.peek(&ram).err(), Some(Broken));
}

#[test]
fn areas_outside_ram_break_the_queue() {
    let ram = Ram::new(0x4000);
    for (desc, avail, used) in [
        (0x10_0000, AVAIL, USED),
        (DESC, 0x10_0000, USED),
        (DESC, AVAIL, 0x10_0000),
    ] {
        let mut queue = Queue::new(8);
        (queue.desc, queue.avail, queue.used) = (desc, avail, used);
        queue.enable(true, false).unwrap();
        describe(&ram, 0, 0, 1, 0, 0);
        offer(&ram, 0, 0, 1);
        let outcome = queue.peek(&ram).and_then(|chain| {
            chain.unwrap().next(&queue, &ram)?;
            queue.give_back(&ram, 0, 0)
        });
        assert_eq!(outcome, Err(Broken));
    }
    let mut queue = Queue::new(8);
    (queue.desc, queue.avail, queue.used) = (!15, !1, !3);
    queue.enable(true, false).unwrap();
    assert!(queue.peek(&ram).is_err());
    assert_eq!(queue.ask_for_notification(&ram), Err(Broken));
    assert_eq!(queue.give_back(&ram, 0, 0), Err(Broken));
}

#[test]
fn v_2_7_8_used_entries_and_index() {
    let (mut queue, ram) = (queue(false), Ram::new(0x4000));
    for round in 0..20u64 {
        queue.give_back(&ram, 3, 100 + round as u32).unwrap();
        let entry = USED + 4 + 8 * (round % 8);
        assert_eq!(
            (ram.get::<4>(entry), ram.get::<4>(entry + 4)),
            (3, 100 + round)
        );
        assert_eq!(ram.get::<2>(USED + 2), round + 1);
    }
}

#[test]
fn v_2_7_7_interrupts_without_event_idx_obey_the_flag() {
    let (mut queue, ram) = (queue(false), Ram::new(0x4000));
    assert_eq!(queue.give_back(&ram, 0, 0), Ok(true));
    ram.set::<2>(AVAIL, 1);
    assert_eq!(queue.give_back(&ram, 0, 0), Ok(false));
}

#[test]
fn v_2_7_7_2_interrupts_with_event_idx_when_the_index_passes_it() {
    let (mut queue, ram) = (queue(true), Ram::new(0x4000));
    let used_event = AVAIL + 4 + 2 * 8;
    ram.set::<2>(used_event, 2);
    let asked: Vec<bool> = (0..5)
        .map(|_| queue.give_back(&ram, 0, 0).unwrap())
        .collect();
    assert_eq!(asked, [false, false, true, false, false]);
    // Around the end of the 16-bit index.
    (queue.next_used, queue.published) = (0xfffe, 0xfffe);
    ram.set::<2>(used_event, 0xffff);
    let asked: Vec<bool> = (0..3)
        .map(|_| queue.give_back(&ram, 0, 0).unwrap())
        .collect();
    assert_eq!(asked, [false, true, false]);
}

/// A burst is one index, and one answer to whether the driver wants to know.
#[test]
fn v_2_7_8_2_chains_that_go_back_together_are_published_at_once() {
    let (mut queue, ram) = (queue(true), Ram::new(0x4000));
    let used_event = AVAIL + 4 + 2 * 8;
    for (event, asked) in [(0, true), (2, false), (7, true), (9, true), (15, false)] {
        ram.set::<2>(used_event, event);
        let before = ram.get::<2>(USED + 2);
        assert_eq!(queue.publish(&ram), Ok(false));
        for head in 0..3u16 {
            let len = 100 + u32::from(head);
            assert_eq!(queue.put_back(&ram, &[(head, len)]), Ok(()));
            assert!(queue.has_unpublished());
            assert_eq!(ram.get::<2>(USED + 2), before);
        }
        let wanted = queue.publish(&ram);
        assert_eq!(wanted, Ok(asked), "event {event}, index {before}");
        assert_eq!(ram.get::<2>(USED + 2), before + 3);
        assert!(!queue.has_unpublished());
        for n in 0..3 {
            let entry = USED + 4 + 8 * ((before + n) % 8);
            let found = (ram.get::<4>(entry), ram.get::<4>(entry + 4));
            assert_eq!(found, (n, 100 + n));
        }
    }
    // One for all that wait, with the other way to say it.
    let (mut queue, ram) = (self::queue(false), Ram::new(0x4000));
    assert_eq!(queue.put_back(&ram, &[(0, 0), (1, 0)]), Ok(()));
    ram.set::<2>(AVAIL, 1);
    assert_eq!(queue.publish(&ram), Ok(false));
}

/// What the driver was not told of is still with the device.
#[test]
fn v_2_7_13_3_chains_in_flight_are_no_more_than_descriptors() {
    let (mut queue, ram) = (queue(false), Ram::new(0x4000));
    describe(&ram, 0, 0, 1, 0, 0);
    for at in 0..8 {
        offer(&ram, at, 0, at + 1);
        assert!(queue.peek(&ram).unwrap().is_some());
        queue.advance();
        queue.put_back(&ram, &[(0, 0)]).unwrap();
    }
    offer(&ram, 0, 0, 9);
    assert_eq!(queue.peek(&ram).err(), Some(Broken));
    queue.publish(&ram).unwrap();
    assert!(queue.peek(&ram).unwrap().is_some());
}

#[test]
fn v_2_7_10_notification_is_asked_for_and_races_are_seen() {
    let (mut queue, ram) = (queue(true), Ram::new(0x4000));
    assert_eq!(queue.ask_for_notification(&ram), Ok(false));
    offer(&ram, 0, 0, 1);
    assert_eq!(queue.ask_for_notification(&ram), Ok(true));
    queue.advance();
    assert_eq!(queue.ask_for_notification(&ram), Ok(false));
    assert_eq!(ram.get::<2>(USED + 4 + 8 * 8), 1);
}
