//! A network card with several queue pairs, each the property of its processor: how the
//! driver asks for them, that their work takes no lock, and that a reset gets them back.

use super::*;
use crate::test_support::{DRIVER_RAM, HostCpu, NetDriver, Ram, VECTORS, config};
use abi::virtio::{feature, net, pci::common, queue, status};
use memory::GuestMemory;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

const BASE: u64 = 0x10_0000;
const MANY: u64 = feature::NET_CTRL_VQ | feature::NET_MQ;

fn machines(pairs: u16, processors: u8) -> Vec<Machine> {
    let config = MachineConfig {
        processors,
        queue_pairs: pairs,
        ..config()
    };
    let first = Machine::new(&config, &HostCpu);
    let others: Vec<_> = (1..processors)
        .map(|index| first.processor(index).unwrap())
        .collect();
    let mut all = Vec::from([first]);
    all.extend(others);
    for machine in &mut all {
        machine.mmio_write(layout::LAPIC_BASE + 0xf0, 4, 0x1ff, 0);
    }
    all
}

fn ram(pairs: u16) -> Ram {
    Ram::new((BASE + u64::from(pairs + 1) * DRIVER_RAM) as usize)
}

/// Four processors with a pair each, all in use, and the driver's half of each.
fn four() -> (Vec<Machine>, Ram, NetDriver, Vec<NetDriver>) {
    let mut all = machines(4, 4);
    let ram = ram(4);
    let mut driver = NetDriver::start_pairs(&mut all[0], &ram, BASE, MANY, 4);
    assert!(driver.use_pairs(&mut all[0], &ram, 4));
    // That of the control queue.
    let taken = driver.take_interrupt(&mut all[0]);
    assert_eq!(taken, Some(VECTORS[0] + 9));
    let halves = (0..4).map(|pair| driver.pair(pair)).collect();
    (all, ram, driver, halves)
}

fn locks() -> u64 {
    LOCKS.with(core::cell::Cell::get)
}

#[test]
fn v_5_1_3_one_pair_is_a_card_without_a_choice() {
    for (pairs, processors) in [(1, 1), (1, 4), (0, 2), (9, 1)] {
        let mut all = machines(pairs, processors);
        let ram = ram(1);
        let driver = NetDriver::start(&mut all[0], &ram, BASE, u64::MAX);
        assert_eq!(driver.features & MANY, 0);
        assert_eq!(driver.read(&mut all[0], common::NUM_QUEUES, 2), 2);
        let most = driver.device_config(&mut all[0], net::CONFIG_MAX_PAIRS, 2);
        assert_eq!((most, all[0].queue_pairs_in_use()), (1, 1));
        if let Some(other) = all.get_mut(1) {
            let frame = [0; 60];
            assert_eq!(other.deliver_rx(&ram, &frame), Err(NoBuffer));
            assert_eq!(other.take_tx(&ram, &mut [0; 60]), None);
            assert_eq!(other.take_nic_events(), NicEvents::default());
        }
    }
}

#[test]
fn v_5_1_2_queues_and_vectors_of_many_pairs() {
    for (pairs, table, pending) in [(2, 0xe000_4000, 0x800), (64, 0xe000_4000, 0x1000)] {
        let mut all = machines(pairs, 64);
        let ram = ram(1);
        let driver = NetDriver::start(&mut all[0], &ram, BASE, MANY | feature::NET_STATUS);
        let queues = u64::from(2 * pairs + 1);
        assert_eq!(driver.read(&mut all[0], common::NUM_QUEUES, 2), queues);
        let most = driver.device_config(&mut all[0], net::CONFIG_MAX_PAIRS, 2);
        assert_eq!(most, pairs.into());
        // The last vector is the control queue's, and one more is none.
        let last = table + 16 * queues;
        assert_eq!(all[0].mmio_read(last + 8, 4, 0), 0x40 + queues);
        for (vector, back) in [(queues, queues), (queues + 1, 0xffff)] {
            driver.write(&mut all[0], common::CONFIG_MSIX_VECTOR, 2, vector);
            let shown = driver.read(&mut all[0], common::CONFIG_MSIX_VECTOR, 2);
            assert_eq!(shown, back);
        }
        // A masked one waits where the capability says.
        all[0].mmio_write(last + 12, 4, 1, 0);
        driver.write(&mut all[0], common::CONFIG_MSIX_VECTOR, 2, queues);
        all[0].set_link(false);
        let word = table + pending + 8 * (queues / 64);
        assert_eq!(all[0].mmio_read(word, 8, 0), 1 << (queues % 64));
        all[0].mmio_write(last + 12, 4, 0, 0);
        assert_eq!(all[0].mmio_read(word, 8, 0), 0);
        assert_eq!(
            driver.take_interrupt(&mut all[0]),
            Some((0x40 + queues) as u8)
        );
    }
}

#[test]
fn v_5_1_6_5_5_the_driver_chooses_how_many_pairs_it_uses() {
    let mut all = machines(4, 4);
    let ram = ram(4);
    let mut driver = NetDriver::start_pairs(&mut all[0], &ram, BASE, MANY, 4);
    assert!(all[0].take_nic_events().reset);
    let mut third = driver.pair(3);
    third.fill_rx(&mut all[3], &ram);
    let frame = [7; 60];
    for (count, good) in [
        (4, true),
        (0, false),
        (5, false),
        (3, true),
        (u16::MAX, false),
        (4, true),
        (1, true),
    ] {
        let before = all[0].queue_pairs_in_use();
        assert_eq!(driver.use_pairs(&mut all[0], &ram, count), good, "{count}");
        let after = if good { count } else { before };
        for machine in &all {
            assert_eq!(machine.queue_pairs_in_use(), after);
        }
        assert_eq!(all[0].take_nic_events().pairs_changed, before != after);
        assert!(!all[0].take_nic_events().pairs_changed);
        assert!(!all[3].take_nic_events().pairs_changed);
        // A pair that is not in use is not touched, and goes on where it was later.
        let delivered = all[3].deliver_rx(&ram, &frame);
        assert_eq!(delivered.is_ok(), after == 4);
        assert_eq!(third.receive(&ram).is_some(), after == 4);
        assert!(third.send(&mut all[3], &ram, &frame));
        let sent = core::iter::from_fn(|| all[3].take_tx(&ram, &mut [0; 60])).count();
        assert_eq!(sent != 0, after == 4, "{count}");
    }
    assert_eq!(all[0].counters().nic_broken, 0);
    // A reset leaves the first.
    assert!(driver.use_pairs(&mut all[0], &ram, 2));
    driver.write(&mut all[0], common::DEVICE_STATUS, 1, 0);
    let events = all[0].take_nic_events();
    assert!(events.pairs_changed && events.reset);
    assert!(all[1].take_nic_events().reset);
    assert_eq!(all[2].queue_pairs_in_use(), 1);
}

/// The owner may be told of the control queue by its events alone, too.
#[test]
fn commands_are_served_with_the_frames_if_nobody_does_before() {
    let mut all = machines(2, 2);
    let ram = ram(2);
    let mut driver = NetDriver::start_pairs(&mut all[0], &ram, BASE, MANY, 2);
    assert!(all[0].leave());
    driver.command(&mut all[1], &ram, &[net::CTRL_MQ, 0, 2, 0]);
    assert_eq!(all[1].take_kicks(), 1);
    all[0].back();
    assert!(all[0].take_attention());
    assert!(all[0].take_nic_events().tx_kicked);
    assert_eq!(driver.answer(&ram), None);
    assert_eq!(all[0].take_tx(&ram, &mut [0; 60]), None);
    assert_eq!(driver.answer(&ram), Some(net::CTRL_OK));
    assert!(all[0].take_attention() && all[0].take_nic_events().pairs_changed);
    assert!(!all[0].take_attention());
    // The control queue's own vector.
    assert_eq!(driver.take_interrupt(&mut all[0]), Some(VECTORS[0] + 5));
}

#[test]
fn v_5_1_6_5_other_commands_are_answered_with_an_error() {
    let (mut all, ram, mut driver, _) = four();
    for class in 0..=7u8 {
        for code in 0..=5u8 {
            for len in 0..=8 {
                let bytes = [class, code, 2, 0, 1, 2, 3, 4];
                let good = (class, code) == (net::CTRL_MQ, 0) && len >= 4;
                driver.command(&mut all[0], &ram, &bytes[..len]);
                all[0].serve_nic(&ram);
                let expected = if good { net::CTRL_OK } else { net::CTRL_ERR };
                assert_eq!(driver.answer(&ram), Some(expected), "{class} {code} {len}");
            }
        }
    }
    assert_eq!(all[0].queue_pairs_in_use(), 2);
    assert_eq!(all[0].counters().nic_broken, 0);
}

/// Without `NET_MQ` the control queue is the third one, and knows no command.
#[test]
fn v_5_1_2_the_control_queue_of_one_pair() {
    let mut all = machines(4, 4);
    let ram = ram(4);
    let wanted = feature::NET_CTRL_VQ;
    let mut driver = NetDriver::start_pairs(&mut all[0], &ram, BASE, wanted, 2);
    // That is queue 8 at this card, which is none now.
    driver.command(&mut all[0], &ram, &[net::CTRL_MQ, 0, 2, 0]);
    all[0].serve_nic(&ram);
    assert_eq!(driver.answer(&ram), None);
    // And queue 2 has an empty ring.
    let (_, _, used) = driver.rings(2);
    driver.fill_rx(&mut all[0], &ram);
    let third = driver.pair(1);
    let (desc, avail, _) = third.rings(0);
    ram.write(0x100, &[net::CTRL_MQ, 0, 2, 0]).unwrap();
    for (at, address, len, flags, next) in [
        (0, 0x100, 4, queue::DESC_NEXT, 1),
        (1, 0x200, 1, queue::DESC_WRITE, 0),
    ] {
        ram.set::<8>(desc + 16 * at, address);
        ram.set::<4>(desc + 16 * at + 8, len);
        ram.set::<2>(desc + 16 * at + 12, flags.into());
        ram.set::<2>(desc + 16 * at + 14, next);
    }
    ram.set::<1>(0x200, 0xaa);
    ram.set::<2>(avail + 2, 1);
    all[0].mmio_write(driver.bar() + 0x3000 + 8, 2, 2, 0);
    all[0].serve_nic(&ram);
    assert_eq!(ram.get::<1>(0x200), net::CTRL_ERR.into());
    assert_eq!(ram.get::<2>(used + 2), 1);
    assert_eq!(all[0].queue_pairs_in_use(), 1);
}

/// Chains of every shape that is none: the card stops, after a bounded walk.
#[test]
fn hostile_chains_in_the_control_queue() {
    let end = BASE + 5 * DRIVER_RAM;
    let (next, write) = (queue::DESC_NEXT, queue::DESC_WRITE);
    for (shape, broken) in [
        // No room for an answer.
        (&[(BASE, 4, 0, 0)][..], true),
        (&[(BASE, 4, next, 1), (BASE, 0, write, 0)], true),
        (&[(BASE, 0, 0, 0)], true),
        // Nothing but an answer; an answer of any length.
        (&[(0x100, 1, write, 0)], false),
        (&[(BASE, 4, next, 1), (0x100, u32::MAX, write, 0)], false),
        // Data of any length: four bytes are looked at.
        (&[(0x180, u32::MAX, next, 1), (0x100, 1, write, 0)], false),
        // Data behind the answer, a loop, a link to nowhere, no memory.
        (&[(0x100, 1, write | next, 1), (BASE, 4, 0, 0)], true),
        (&[(BASE, 4, next, 1), (BASE, 4, next, 0)], true),
        (&[(BASE, 4, next, 64)], true),
        (&[(end, 4, next, 1), (0x100, 1, write, 0)], true),
        (&[(BASE, 4, next, 1), (end, 1, write, 0)], true),
        (&[(u64::MAX, 4, next, 1), (0x100, 1, write, 0)], true),
        // A table, which was not agreed on.
        (&[(BASE, 16, queue::DESC_INDIRECT, 0)], true),
    ] {
        let (mut all, ram, mut driver, _) = four();
        driver.command(&mut all[0], &ram, &[0; 4]);
        let (desc, avail, _) = driver.rings(8);
        for (at, (address, len, flags, next)) in shape.iter().enumerate() {
            let at = desc + 16 * at as u64;
            ram.set::<8>(at, *address);
            ram.set::<4>(at + 8, u64::from(*len));
            ram.set::<2>(at + 12, u64::from(*flags));
            ram.set::<2>(at + 14, *next);
        }
        // As many commands as there are descriptors, all the same one.
        ram.write(avail + queue::RING_OFFSET, &[0; 128]).unwrap();
        ram.set::<2>(avail + queue::IDX_OFFSET, 1 + 64);
        let before = ram.copied();
        all[0].serve_nic(&ram);
        let copied = ram.copied()[0] - before[0];
        assert!(copied < 8 * 64 * 32, "{copied} bytes in one turn");
        for _ in 0..8 {
            all[0].serve_nic(&ram);
        }
        let counted = all[0].counters().nic_broken;
        assert_eq!(counted, broken.into(), "{shape:x?}");
        let status = driver.status(&mut all[0]) & status::NEEDS_RESET;
        assert_eq!(status != 0, broken);
        // Then no pair is worked any more.
        let delivered = all[3].deliver_rx(&ram, &[0; 60]);
        assert_eq!(delivered, Err(NoBuffer));
    }
}

/// Each processor moves the frames of its pair, its interrupts come to it, and a
/// doorbell that another one rings wakes it.
#[test]
fn each_pair_is_its_processors() {
    let (mut all, ram, _driver, mut halves) = four();
    for machine in &mut all {
        machine.take_nic_events();
        machine.take_signals();
        machine.take_kicks();
    }
    for index in 0..4usize {
        let frame = [index as u8; 100];
        let vector = VECTORS[0] + 1 + 2 * index as u8;
        halves[index].fill_rx(&mut all[index], &ram);
        assert!(all[index].take_attention() && all[index].take_nic_events().rx_refilled);
        for other in 0..4 {
            let delivered = all[other].deliver_rx(&ram, &frame);
            assert_eq!(delivered.is_ok(), other <= index);
            if other < index {
                // To those that were filled before.
                assert!(halves[other].receive(&ram).is_some());
                all[other].take_signals();
                halves[other].take_interrupt(&mut all[other]);
            }
        }
        assert_eq!(halves[index].receive(&ram).as_deref(), Some(&frame[..]));
        let taken = halves[index].take_interrupt(&mut all[index]);
        assert_eq!(taken, Some(vector));

        let ringer = (index + 1) % 4;
        assert!(all[index].leave());
        assert!(halves[index].send(&mut all[ringer], &ram, &frame));
        assert_eq!(all[ringer].take_kicks(), 1 << index);
        all[index].back();
        all[index].take_signals();
        assert!(all[index].take_nic_events().tx_kicked);
        let mut buf = [0; 200];
        for (other, machine) in all.iter_mut().enumerate() {
            let expected = (other == index).then_some(100);
            assert_eq!(machine.take_tx(&ram, &mut buf), expected);
        }
        assert_eq!(buf[..100], frame);
        let taken = halves[index].take_interrupt(&mut all[index]);
        assert_eq!(taken, Some(vector + 1));
    }
    let counted = all[0].counters();
    assert_eq!((counted.tx_frames, counted.rx_frames), (4, 4 + 6));
    assert_eq!(counted.nic_broken, 0);
}

/// A driver that breaks a rule in one pair's ring stops the card for all.
#[test]
fn a_broken_pair_needs_a_reset_of_the_card() {
    let (mut all, ram, driver, _) = four();
    let (_, avail, _) = driver.rings(2 * 2 + net::QUEUE_TX);
    ram.set::<2>(avail + queue::IDX_OFFSET, 1000);
    assert_eq!(all[2].take_tx(&ram, &mut [0; 60]), None);
    assert_eq!(all[0].counters().nic_broken, 1);
    assert_eq!(driver.status(&mut all[0]) & status::NEEDS_RESET, 64);
    all[0].take_signals();
    assert_eq!(driver.take_interrupt(&mut all[0]), Some(VECTORS[0]));
    assert_eq!(all[2].take_tx(&ram, &mut [0; 60]), None);
    assert_eq!(all[0].counters().nic_broken, 1);
}

/// A thousand frames each way on the fourth pair, doorbells and interrupts among them,
/// while another processor works at the devices: not one lock.
#[test]
fn frames_take_no_lock() {
    let rounds = if cfg!(miri) { 20 } else { 1000 };
    let (all, ram, _driver, mut halves) = four();
    let mut all = all.into_iter();
    let mut first = all.next().unwrap();
    let mut fourth = all.nth(2).unwrap();
    let mut half = halves.pop().unwrap();
    fourth.take_nic_events();
    half.fill_rx(&mut fourth, &ram);
    // What is laid out is fetched with the first frame.
    assert_eq!(fourth.deliver_rx(&ram, &[0; 60]), Ok(()));
    assert_eq!(fourth.take_tx(&ram, &mut [0; 60]), None);
    half.receive(&ram).unwrap();
    half.take_interrupt(&mut fourth);
    let over = AtomicBool::new(false);
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let before = locks();
            while !over.load(SeqCst) {
                crate::test_support::config_read(&mut first, 4, 2);
                first.mmio_read(layout::PCI_MMIO_BASE + 0x14, 1, 0);
                begun.fetch_add(1, SeqCst);
            }
            assert!(locks() - before >= begun.load(SeqCst) as u64);
        });
        while begun.load(SeqCst) == 0 {
            thread::yield_now();
        }
        let before = locks();
        for round in 0..rounds {
            let frame = [round as u8; 60];
            half.fill_rx(&mut fourth, &ram);
            assert_eq!(fourth.deliver_rx(&ram, &frame), Ok(()));
            assert_eq!(half.take_interrupt(&mut fourth), Some(VECTORS[0] + 7));
            assert_eq!(half.receive(&ram).as_deref(), Some(&frame[..]));
            assert!(half.send(&mut fourth, &ram, &frame));
            assert!(fourth.take_attention());
            assert!(fourth.take_nic_events().tx_kicked);
            assert_eq!(fourth.take_tx(&ram, &mut [0; 60]), Some(60));
            assert_eq!(fourth.take_tx(&ram, &mut [0; 60]), None);
            assert_eq!(half.take_interrupt(&mut fourth), Some(VECTORS[0] + 8));
            assert_eq!(half.reap_tx(&ram), 1);
            fourth.take_signals();
            // What the loop of a VP does after each exit of this kind.
            fourth.drain_console(|_| unreachable!());
            assert_eq!(fourth.take_audit(&mut [0; 16]), 0);
            assert_eq!(fourth.take_power_event(), None);
            assert_eq!(fourth.next_deadline(), None);
            assert!(fourth.leave());
            fourth.back();
        }
        assert_eq!(locks(), before);
        over.store(true, SeqCst);
    });
    // And it is a lock that is counted: the console's.
    let before = locks();
    fourth.io_read(layout::UART_BASE, 1, 0);
    assert_eq!(locks(), before + 1);
}

/// Four processors move frames as fast as they can, each on its pair, while the driver
/// resets the card again and again. When the status reads 0 the rings are the driver's:
/// it writes over them, and nobody else does.
#[test]
fn reset_gets_the_queues_back_while_frames_flow() {
    let (rounds, frames) = if cfg!(miri) { (2, 2) } else { (18, 40) };
    const MARK: u8 = 0xee;
    let mut all = machines(4, 4);
    let ram = ram(4);
    let mut first = all.remove(0);
    let over = AtomicBool::new(false);
    let moved: [AtomicUsize; 4] = Default::default();
    let work = |machine: &mut Machine| {
        let count = &moved[usize::from(machine.index())];
        let frame = [machine.index(); 200];
        let mut buf = [0; 200];
        let before = count.load(SeqCst);
        machine.take_signals();
        machine.take_nic_events();
        for _ in 0..4 {
            if let Some(len) = machine.take_tx(&ram, &mut buf) {
                assert_eq!(&buf[..len], &[machine.index(); 90]);
                count.fetch_add(1, SeqCst);
            }
            if machine.deliver_rx(&ram, &frame).is_ok() {
                count.fetch_add(1, SeqCst);
            }
        }
        if let Some(interrupt) = machine.pending_interrupt() {
            machine.accept_interrupt(interrupt.vector);
            machine.mmio_write(layout::LAPIC_BASE + 0xb0, 4, 0, 0);
        }
        machine.take_kicks();
        if count.load(SeqCst) == before {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        // Whatever fails, the others end.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }
        let over = Over(&over);
        for mut machine in all {
            let (work, over) = (&work, over.0);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    work(&mut machine);
                }
            });
        }
        for round in 0..rounds {
            let wanted = if round % 2 == 0 {
                MANY
            } else {
                MANY | feature::EVENT_IDX
            };
            let mut driver = NetDriver::start_pairs(&mut first, &ram, BASE, wanted, 4);
            let begin = Instant::now();
            let in_time = || assert!(begin.elapsed() < Duration::from_secs(60), "round {round}");
            driver.command(&mut first, &ram, &[net::CTRL_MQ, 0, 4, 0]);
            let answer = loop {
                first.serve_nic(&ram);
                if let Some(answer) = driver.answer(&ram) {
                    break answer;
                }
                in_time();
            };
            assert_eq!(answer, net::CTRL_OK);
            let mut halves: Vec<_> = (0..4).map(|pair| driver.pair(pair)).collect();
            let enough: Vec<_> = moved.iter().map(|m| m.load(SeqCst) + frames).collect();
            while (0..4).any(|i| moved[i].load(SeqCst) < enough[i]) {
                for (index, half) in halves.iter_mut().enumerate() {
                    half.reap_tx(&ram);
                    while let Some(frame) = half.receive(&ram) {
                        assert_eq!(frame, [index as u8; 200]);
                    }
                    half.fill_rx(&mut first, &ram);
                    for _ in 0..4 {
                        half.send(&mut first, &ram, &[index as u8; 90]);
                    }
                }
                work(&mut first);
                in_time();
            }
            // In some rounds, by taking the bus from it first; in some, fewer pairs.
            match round % 3 {
                1 => crate::test_support::config_write(&mut first, 4, 2, 2),
                2 => {
                    driver.command(&mut first, &ram, &[net::CTRL_MQ, 0, 2, 0]);
                    first.serve_nic(&ram);
                }
                _ => {}
            }
            driver.write(&mut first, common::DEVICE_STATUS, 1, 0);
            while driver.status(&mut first) != 0 {
                in_time();
            }
            let rings = (0..9).map(|queue| driver.rings(queue));
            let places: Vec<_> = rings.flat_map(|(d, a, u)| [d, a, u]).collect();
            for place in &places {
                ram.write(*place, &[MARK; 0xc00]).unwrap();
            }
            for _ in 0..20 {
                thread::yield_now();
            }
            for place in &places {
                let mut found = [0; 0xc00];
                ram.read(*place, &mut found).unwrap();
                assert!(found.iter().all(|byte| *byte == MARK), "round {round}");
            }
        }
    });
    assert_eq!(first.counters().nic_broken, 0);
    assert_eq!(first.queue_pairs_in_use(), 1);
}
