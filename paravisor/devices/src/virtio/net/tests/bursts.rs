//! Frames that are moved together: the driver is told of a burst once, and of all of it.

use super::{frame, set_up};
use crate::test_support::{NetDriver, Ram, VECTORS};
use crate::{Machine, NoBuffer};
use abi::virtio::{feature, net, pci::common, queue, status};
use core::cell::Cell;
use memory::{GuestMemory, OutOfRange, Parcel};
use std::vec::Vec;
use validate::frame::Arrived;

use super::BASE;

/// The guest's RAM, in which writes to two words are counted.
struct Watched<'a> {
    ram: &'a Ram,
    words: [u64; 2],
    writes: [Cell<usize>; 2],
}

impl Watched<'_> {
    /// Watches the used indices of a pair.
    fn new<'a>(ram: &'a Ram, driver: &NetDriver) -> Watched<'a> {
        let index = |which| driver.rings(which).2 + queue::IDX_OFFSET;
        Watched {
            ram,
            words: [index(net::QUEUE_RX), index(net::QUEUE_TX)],
            writes: Default::default(),
        }
    }

    /// Writes to each since the last call.
    fn take(&self) -> [usize; 2] {
        self.writes.each_ref().map(Cell::take)
    }
}

impl GuestMemory for Watched<'_> {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.ram.read(gpa, dst)
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        let end = gpa + src.len() as u64;
        for (word, writes) in self.words.iter().zip(&self.writes) {
            if gpa < word + 2 && *word < end {
                writes.set(writes.get() + 1);
            }
        }
        self.ram.write(gpa, src)
    }
}

fn deliver(machine: &mut Machine, guest: &impl GuestMemory, bytes: &[u8]) -> Result<(), NoBuffer> {
    machine.deliver(guest, &mut Parcel::private(bytes), Arrived::default())
}

/// `count` frames each way, of which the guest is not told yet.
fn move_frames(machine: &mut Machine, guest: &impl GuestMemory, count: usize) {
    let mut buf = [0; 1600];
    for n in 0..count {
        assert_eq!(deliver(machine, guest, &frame(60 + n, 1)), Ok(()));
        let taken = machine.take_frame(guest, &mut buf);
        assert_eq!(taken.map(|(len, _)| len), Some(80 + n));
        assert_eq!(buf[..80 + n], frame(80 + n, 2));
    }
}

fn send(machine: &mut Machine, ram: &Ram, driver: &mut NetDriver, count: usize) {
    driver.fill_rx(machine, ram);
    for n in 0..count {
        assert!(driver.send(machine, ram, &frame(80 + n, 2)));
    }
}

#[test]
fn a_burst_is_one_index_and_one_interrupt_of_each_queue() {
    for wanted in [0, feature::EVENT_IDX] {
        let (mut machine, ram, mut driver) = set_up(wanted);
        let watched = Watched::new(&ram, &driver);
        for count in [1, 2, 17, 40] {
            send(&mut machine, &ram, &mut driver, count);
            move_frames(&mut machine, &watched, count);
            // Nothing shows before the burst ends.
            assert_eq!(watched.take(), [0, 0]);
            assert_eq!(machine.pending_interrupt(), None);
            assert_eq!((driver.receive(&ram), driver.reap_tx(&ram)), (None, 0));

            machine.publish(&watched);
            assert_eq!(watched.take(), [1, 1], "{count} frames");
            let vectors = [(); 3].map(|()| driver.take_interrupt(&mut machine));
            assert_eq!(vectors, [Some(VECTORS[2]), Some(VECTORS[1]), None]);
            for n in 0..count {
                assert_eq!(driver.receive(&ram), Some(frame(60 + n, 1)));
            }
            assert_eq!((driver.receive(&ram), driver.reap_tx(&ram)), (None, count));

            // Once is enough.
            machine.publish(&watched);
            assert_eq!(watched.take(), [0, 0]);
            assert_eq!(machine.pending_interrupt(), None);
        }
        let counted = machine.counters();
        assert_eq!((counted.rx_frames, counted.tx_frames), (60, 60));
    }
}

/// The driver wants no interrupt of the burst, or one for a frame within it.
#[test]
fn v_2_7_7_2_a_burst_interrupts_if_one_of_its_frames_would() {
    for (event, interrupts) in [(0u64, true), (3, true), (4, true), (5, false), (77, false)] {
        let (mut machine, ram, mut driver) = set_up(feature::EVENT_IDX);
        send(&mut machine, &ram, &mut driver, 5);
        let (_, avail, _) = driver.rings(net::QUEUE_RX);
        ram.set::<2>(avail + queue::RING_OFFSET + 2 * 256, event);
        for _ in 0..5 {
            assert_eq!(deliver(&mut machine, &ram, &frame(60, 1)), Ok(()));
        }
        machine.publish(&ram);
        let pending = driver.take_interrupt(&mut machine);
        assert_eq!(pending, interrupts.then_some(VECTORS[1]), "{event}");
        assert_eq!(driver.take_interrupt(&mut machine), None);
        // It finds all of them either way.
        assert_eq!(core::iter::from_fn(|| driver.receive(&ram)).count(), 5);
    }
}

/// No buffer is left in the middle of a burst: what came before it is told.
#[test]
fn a_burst_that_ends_for_want_of_buffers_is_told() {
    let (mut machine, ram, mut driver) = set_up(feature::EVENT_IDX);
    driver.fill_rx(&mut machine, &ram);
    let one = frame(60, 1);
    let taken = (0..400).take_while(|_| deliver(&mut machine, &ram, &one).is_ok());
    assert_eq!(taken.count(), 256);
    machine.publish(&ram);
    assert_eq!(core::iter::from_fn(|| driver.receive(&ram)).count(), 256);
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[1]));
}

/// The driver resets the card between the frames of a burst: its rings are its own from
/// then on, and the next driver hears of its own frames only.
#[test]
fn a_reset_within_a_burst_leaves_the_rings_alone() {
    const MARK: u8 = 0xee;
    let (mut machine, ram, mut driver) = set_up(feature::EVENT_IDX);
    send(&mut machine, &ram, &mut driver, 5);
    move_frames(&mut machine, &ram, 5);
    driver.write(&mut machine, common::DEVICE_STATUS, 1, 0);
    assert_eq!(driver.status(&mut machine), 0);
    let rings = [net::QUEUE_RX, net::QUEUE_TX].map(|which| driver.rings(which));
    let places: Vec<u64> = rings.iter().flat_map(|(d, a, u)| [*d, *a, *u]).collect();
    let unharmed = || {
        let mut found = [0; 0xc00];
        places.iter().all(|place| {
            ram.read(*place, &mut found).unwrap();
            found.iter().all(|byte| *byte == MARK)
        })
    };
    for place in &places {
        ram.write(*place, &[MARK; 0xc00]).unwrap();
    }
    machine.publish(&ram);
    assert!(unharmed());
    assert_eq!(machine.pending_interrupt(), None);
    assert_eq!(deliver(&mut machine, &ram, &frame(60, 1)), Err(NoBuffer));
    machine.publish(&ram);
    assert!(unharmed());

    let mut driver = NetDriver::start(&mut machine, &ram, BASE, feature::EVENT_IDX);
    machine.publish(&ram);
    assert_eq!((driver.receive(&ram), driver.reap_tx(&ram)), (None, 0));
    send(&mut machine, &ram, &mut driver, 3);
    move_frames(&mut machine, &ram, 3);
    machine.publish(&ram);
    assert_eq!(core::iter::from_fn(|| driver.receive(&ram)).count(), 3);
    assert_eq!(driver.reap_tx(&ram), 3);
    assert_eq!(machine.counters().nic_broken, 0);
}

/// A rule is broken in the middle of a burst: the card stops at once, and of the frames
/// before it the driver is told as ever.
#[test]
fn frames_before_a_broken_chain_are_told() {
    let (mut machine, ram, mut driver) = set_up(0);
    send(&mut machine, &ram, &mut driver, 4);
    // Descriptor 2 of the queue holds the third frame.
    let (desc, _, _) = driver.rings(net::QUEUE_TX);
    ram.set::<2>(desc + 16 * 2 + 12, queue::DESC_WRITE.into());
    move_frames(&mut machine, &ram, 2);
    assert_eq!(machine.take_frame(&ram, &mut [0; 1600]), None);
    let told = driver.status(&mut machine) & status::NEEDS_RESET;
    assert_eq!(told, status::NEEDS_RESET);
    assert_eq!(machine.counters().nic_broken, 1);
    assert_eq!(core::iter::from_fn(|| driver.receive(&ram)).count(), 2);
    assert_eq!(driver.reap_tx(&ram), 2);
    // The card does nothing more.
    machine.publish(&ram);
    assert_eq!(deliver(&mut machine, &ram, &frame(60, 1)), Err(NoBuffer));
    assert_eq!(machine.counters().nic_broken, 1);
}

/// The used index lies outside of RAM: a hostile driver's mistake that shows at the end
/// of a burst only.
#[test]
fn an_index_that_cannot_be_stored_breaks_the_card() {
    let (mut machine, ram, mut driver) = set_up(0);
    send(&mut machine, &ram, &mut driver, 2);
    struct Cut<'a>(&'a Ram, u64);
    impl GuestMemory for Cut<'_> {
        fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
            self.0.read(gpa, dst)
        }
        fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
            if gpa == self.1 {
                return Err(OutOfRange);
            }
            self.0.write(gpa, src)
        }
    }
    let cut = Cut(&ram, driver.rings(net::QUEUE_RX).2 + queue::IDX_OFFSET);
    move_frames(&mut machine, &cut, 2);
    assert_eq!(machine.counters().nic_broken, 0);
    machine.publish(&cut);
    assert_eq!(machine.counters().nic_broken, 1);
    assert_eq!(driver.receive(&ram), None);
    machine.publish(&cut);
    assert_eq!(machine.counters().nic_broken, 1);
}
