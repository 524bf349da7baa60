//! When the driver hears of frames: throttles, and delays of causes.

use super::*;
use abi::e1000e::{DELAY_FLUSH, DELAY_UNIT, THROTTLE_UNIT};

/// Long enough for several frames to come at these times.
const UNITS: u32 = 100;
const DELAY: u64 = UNITS as u64 * DELAY_UNIT;
const START: u64 = 1_000_000;

/// A frame comes at this time.
fn comes(machine: &mut Machine, ram: &Ram, now: u64) {
    machine.advance(now);
    machine.deliver_rx(ram, &frame(60, 1)).unwrap();
}

/// Nothing is told before `end`, and then `causes`; nothing is left.
fn told_at(machine: &mut Machine, driver: &E1000eDriver, end: u64, causes: u32) {
    assert_eq!(machine.next_deadline(), Some(end));
    machine.advance(end - 1);
    assert_eq!(inta(machine, driver), 0);
    machine.advance(end);
    assert_eq!(inta(machine, driver), causes);
    assert_eq!(machine.next_deadline(), None);
}

/// 10.2.4.2, Interrupt Throttling Register: the second interrupt is held for the interval
/// after the first. It comes although it was masked for a while, and only once.
#[test]
fn d_10_2_4_2_interrupt_throttling_holds_and_loses_nothing() {
    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::ITR, 1000);
    comes(&mut machine, &ram, START);
    assert_eq!(inta(&mut machine, &driver), cause::RXT0);
    comes(&mut machine, &ram, START + 1000);
    assert_eq!(inta(&mut machine, &driver), 0);
    driver.write(&mut machine, reg::IMC, cause::RXT0);
    assert_eq!(machine.next_deadline(), None);
    driver.write(&mut machine, reg::IMS, cause::RXT0);
    let end = START + 1000 * THROTTLE_UNIT;
    told_at(&mut machine, &driver, end, cause::RXT0);
    // After a pause none is held.
    comes(&mut machine, &ram, end + 1000 * THROTTLE_UNIT);
    assert_eq!(inta(&mut machine, &driver), cause::RXT0);
}

/// Software developer's manual of the family, 3.2.7.1.1, Receive Interrupt Delay Timer:
/// each frame starts it anew.
#[test]
fn sdm_3_2_7_1_1_the_packet_timer_waits_for_a_pause() {
    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::RDTR, UNITS);
    for frame in 0..5 {
        comes(&mut machine, &ram, START + frame * DELAY / 2);
        assert_eq!(inta(&mut machine, &driver), 0);
    }
    let end = START + 4 * DELAY / 2 + DELAY;
    told_at(&mut machine, &driver, end, cause::RXT0);
    // Without a delay it is told at once.
    driver.write(&mut machine, reg::RDTR, 0);
    comes(&mut machine, &ram, end + 1);
    assert_eq!(inta(&mut machine, &driver), cause::RXT0);
}

/// 3.2.7.1.2, Receive Interrupt Absolute Delay Timer: it runs from the first frame on, and
/// its end ends the other.
#[test]
fn sdm_3_2_7_1_2_the_absolute_timer_ends_the_wait() {
    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::RDTR, UNITS);
    driver.write(&mut machine, reg::RADV, 2 * UNITS);
    for frame in 0..4 {
        comes(&mut machine, &ram, START + frame * DELAY / 2);
        assert_eq!(inta(&mut machine, &driver), 0);
    }
    told_at(&mut machine, &driver, START + 2 * DELAY, cause::RXT0);
    // Alone it does nothing.
    driver.write(&mut machine, reg::RDTR, 0);
    comes(&mut machine, &ram, START + 3 * DELAY);
    assert_eq!(inta(&mut machine, &driver), cause::RXT0);
    assert_eq!(machine.next_deadline(), None);
}

/// 13.4.30, RDTR: FPD ends the wait, and reads 0. Without a wait it does nothing.
#[test]
fn sdm_13_4_30_fpd_tells_now() {
    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::RDTR, UNITS | DELAY_FLUSH);
    assert_eq!(driver.read(&mut machine, reg::RDTR), UNITS);
    assert_eq!(inta(&mut machine, &driver), 0);
    comes(&mut machine, &ram, START);
    assert_eq!(inta(&mut machine, &driver), 0);
    driver.write(&mut machine, reg::RDTR, UNITS | DELAY_FLUSH);
    assert_eq!(inta(&mut machine, &driver), cause::RXT0);
    assert_eq!(machine.next_deadline(), None);
}

/// Few descriptors left is not told late, and takes along what waits.
#[test]
fn sdm_3_2_7_1_the_descriptor_threshold_is_not_delayed() {
    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::RDTR, UNITS);
    let mut frames = 0;
    let causes = loop {
        comes(&mut machine, &ram, START);
        frames += 1;
        match inta(&mut machine, &driver) {
            0 => assert_eq!(machine.next_deadline(), Some(START + DELAY)),
            causes => break causes,
        }
    };
    // 255 were there, half of the ring's 256 is the threshold.
    assert_eq!(frames, 127);
    assert_eq!(causes, cause::RXT0 | cause::RXDMT0);
    assert_eq!(machine.next_deadline(), None);
}

/// 3.4.3, TIDV and TADV: what descriptors with IDE report is told later, from all others
/// at once.
#[test]
fn sdm_13_4_47_transmit_delays_are_for_descriptors_with_ide() {
    let (mut machine, ram, mut driver) = set_up_inta();
    let mut buf = [0; 1600];
    let mut sends = |machine: &mut Machine, driver: &mut E1000eDriver, now, lower| {
        machine.advance(now);
        driver.push_packet(&ram, &frame(60, 1), 2048, lower, 0);
        driver.ring_tx(machine);
        assert_eq!(machine.take_tx(&ram, &mut buf), Some(60));
    };
    driver.write(&mut machine, reg::TIDV, UNITS);
    driver.write(&mut machine, reg::TADV, 2 * UNITS);
    for frame in 0..4 {
        sends(
            &mut machine,
            &mut driver,
            START + frame * DELAY / 2,
            tx::IDE,
        );
        assert_eq!(inta(&mut machine, &driver) & cause::TXDW, 0);
    }
    let end = START + 2 * DELAY;
    assert_eq!(machine.next_deadline(), Some(end));
    machine.advance(end - 1);
    assert_eq!(inta(&mut machine, &driver), 0);
    machine.advance(end);
    assert_ne!(inta(&mut machine, &driver) & cause::TXDW, 0);
    // One that waits goes with one that does not.
    sends(&mut machine, &mut driver, end, tx::IDE);
    assert_eq!(inta(&mut machine, &driver), 0);
    sends(&mut machine, &mut driver, end, 0);
    assert_ne!(inta(&mut machine, &driver) & cause::TXDW, 0);
    assert_eq!(machine.next_deadline(), None);
}

/// What waits is told when MSI-X takes over, whose queues' causes are not delayed; and a
/// reset forgets it.
#[test]
fn delays_end_with_the_mode_that_has_them() {
    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::RDTR, UNITS);
    comes(&mut machine, &ram, START);
    driver.write(&mut machine, reg::IMS, cause::RXQ0);
    config_write(&mut machine, 0x42, 2, 0x8000);
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0]));
    assert_eq!(machine.next_deadline(), None);
    driver.rearm(&mut machine);
    comes(&mut machine, &ram, START + 1);
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0]));

    let (mut machine, ram, driver) = set_up_inta();
    driver.write(&mut machine, reg::RDTR, UNITS);
    comes(&mut machine, &ram, START);
    driver.write(&mut machine, reg::CTRL, ctrl::RST);
    assert_eq!(machine.next_deadline(), None);
    assert_eq!(driver.read(&mut machine, reg::ICR), 0);
}
