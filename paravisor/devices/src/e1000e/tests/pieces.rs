//! Frames of which only the head is private.

use super::*;
use memory::doubles::{DoubleFetch, PlainShared};
use memory::{Parcel, Piece, SharedMemory as _};
use validate::frame::Arrived;

/// Of a frame as much as its owner has judged.
const HEAD: usize = 18;

/// Gives a frame whose bytes behind the head lie in memory that changes once it is read.
fn deliver(machine: &mut Machine, ram: &Ram, frame: &[u8], head: usize) -> Result<(), NoBuffer> {
    let plain = PlainShared::new(1, 0);
    let rest = &frame[head..];
    plain.copy_out(7, rest).unwrap();
    let shared = DoubleFetch::new(plain, &[]);
    let pieces = [Piece::new(7, rest.len())];
    let mut parcel = Parcel::new(&frame[..head], &pieces, &shared);
    let result = machine.deliver(ram, &mut parcel, Arrived::default());
    if result.is_err() {
        assert_eq!(parcel.len(), frame.len(), "nothing of it was written");
        assert_eq!(shared.copied(), [0, 0]);
    } else {
        assert!(shared.copied()[0] <= rest.len() as u64, "read once");
    }
    result
}

fn tagged(len: usize) -> Vec<u8> {
    let mut frame = frame(len, 3);
    frame.splice(12..12, [0x81, 0x00, 0x20, 0x05]);
    frame
}

/// In pieces or whole, with a tag that is taken off, one that is left or none, in one
/// descriptor or several: the driver sees the same.
#[test]
fn frames_in_pieces_arrive_like_whole_ones() {
    for shape in SHAPES {
        for vme in [0, ctrl::VME] {
            for size in [0, 3 << rctl::BSIZE_SHIFT] {
                let (mut machine, ram, mut driver) = set_up(shape);
                let control = driver.read(&mut machine, reg::CTRL);
                driver.write(&mut machine, reg::CTRL, control | vme);
                let control = driver.read(&mut machine, reg::RCTL);
                driver.write(&mut machine, reg::RCTL, control | size);
                driver.fill_rx(&mut machine, &ram);
                assert!(machine.takes_pieces());
                for sent in [14, 15, 18, 60, 255, 256, 257, 1514].map(|len| frame(len, 9)) {
                    let head = HEAD.min(sent.len());
                    assert_eq!(deliver(&mut machine, &ram, &sent, head), Ok(()));
                    assert_eq!(driver.receive(&ram), Some((sent, None)), "{shape:?}");
                }
                for sent in [14, 60, 252, 253, 1500].map(tagged) {
                    assert_eq!(deliver(&mut machine, &ram, &sent, HEAD), Ok(()));
                    let mut expected = sent.clone();
                    let tag = (vme != 0).then(|| {
                        expected.drain(12..16);
                        0x2005
                    });
                    assert_eq!(driver.receive(&ram), Some((expected, tag)), "{shape:?}");
                }
                assert_eq!(machine.counters().rx_dropped, 0);
            }
        }
    }
}

/// Without buffers a frame is left as it was, so that it can come again.
#[test]
fn a_frame_that_finds_no_buffer_stays_whole() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let sent = tagged(100);
    assert_eq!(deliver(&mut machine, &ram, &sent, HEAD), Err(NoBuffer));
    driver.fill_rx(&mut machine, &ram);
    assert_eq!(deliver(&mut machine, &ram, &sent, HEAD), Ok(()));
    assert_eq!(driver.receive(&ram), Some((sent, None)));
}

/// Filters see the head, tag included.
#[test]
fn the_head_is_enough_for_the_filters() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    let control = driver.read(&mut machine, reg::RCTL);
    driver.write(&mut machine, reg::RCTL, control | rctl::VFE);
    assert_eq!(deliver(&mut machine, &ram, &tagged(60), HEAD), Ok(()));
    assert_eq!(driver.receive(&ram), None);
    driver.write(&mut machine, reg::VFTA, 1 << 5);
    assert_eq!(deliver(&mut machine, &ram, &tagged(60), HEAD), Ok(()));
    assert!(driver.receive(&ram).is_some());
    assert_eq!(machine.counters().rx_filtered, 1);
}

/// An FCS is over all of a frame, so a driver that wants it gets whole ones; one that
/// waited in pieces when the driver changed its mind is lost, and counted. So is one
/// whose buffer is no memory.
#[test]
fn what_cannot_be_delivered_in_pieces_is_counted() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Legacy);
    driver.fill_rx(&mut machine, &ram);
    driver.write(&mut machine, reg::RCTL, rctl::EN);
    assert!(!machine.takes_pieces());
    assert_eq!(deliver(&mut machine, &ram, &frame(100, 1), HEAD), Ok(()));
    assert_eq!(driver.receive(&ram), None);
    assert_eq!(machine.counters().rx_dropped, 1);
    assert_eq!(deliver(&mut machine, &ram, &frame(100, 1), 100), Ok(()));
    assert_eq!(
        driver.receive(&ram).map(|(frame, _)| frame.len()),
        Some(104)
    );

    driver.write(&mut machine, reg::RCTL, rctl::EN | rctl::SECRC);
    let (_, ring) = driver.ring_addresses();
    ram.set::<8>(ring + 16, 1 << 40);
    assert_eq!(deliver(&mut machine, &ram, &frame(100, 1), HEAD), Ok(()));
    let counters = machine.counters();
    assert_eq!((counters.rx_dropped, counters.nic_broken), (2, 1));
}
