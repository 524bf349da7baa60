//! The card against a driver, through ports and registers of the machine.

use crate::test_support::e1000e::{DRIVER_RAM, E1000eDriver, RxShape, VECTORS};
use crate::test_support::{HostCpu, Ram, config};
use crate::{Machine, NicModel, NoBuffer};
use abi::e1000e::{cause, ctrl, mdic, phy, reg, status};

const BASE: u64 = 0x10_0000;
const SHAPES: [RxShape; 3] = [RxShape::Legacy, RxShape::Extended, RxShape::Split];

fn machine() -> Machine {
    Machine::with_nic(&config(), &HostCpu, NicModel::E1000e)
}

fn set_up(shape: RxShape) -> (Machine, Ram, E1000eDriver) {
    let mut machine = machine();
    let ram = Ram::new((BASE + DRIVER_RAM) as usize);
    let driver = E1000eDriver::start(&mut machine, &ram, BASE, shape);
    // The link's interrupt, which opening asked for.
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[2]));
    driver.others(&mut machine);
    machine.take_nic_events();
    (machine, ram, driver)
}

/// A frame to the card's address.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect();
    let address = config().mac;
    let count = len.min(6);
    frame[..count].copy_from_slice(&address[..count]);
    if len >= 14 {
        frame[12..14].copy_from_slice(&[8, 0]);
    }
    frame
}

#[test]
fn probe_finds_eeprom_phy_address_and_link() {
    let mut machine = machine();
    let driver = E1000eDriver::probe(&mut machine);
    assert_eq!(driver.mac, config().mac);
    assert!(machine.take_nic_events().reset);
    assert!(driver.link(&mut machine));
    machine.set_link(false);
    assert!(!driver.link(&mut machine));
    assert_eq!(driver.phy_read(&mut machine, phy::SPECIFIC_STATUS), 0);
    machine.set_link(true);
    // Powered down by the driver.
    driver.phy_write(&mut machine, phy::BMCR, phy::BMCR_POWER_DOWN);
    assert!(!driver.link(&mut machine));
    driver.write(&mut machine, reg::CTRL, ctrl::PHY_RST);
    assert!(driver.link(&mut machine));
    let seen = driver.read(&mut machine, reg::STATUS);
    assert_ne!(seen & status::PHYRA, 0);
    driver.write(&mut machine, reg::STATUS, 0);
    let seen = driver.read(&mut machine, reg::STATUS);
    assert_eq!(seen & status::PHYRA, 0);
}

#[test]
fn other_phys_and_words_behind_the_eeprom_are_not_there() {
    let mut machine = machine();
    let driver = E1000eDriver::probe(&mut machine);
    for other in (0..32u32).filter(|address| *address != 1) {
        let request = other << mdic::PHY_SHIFT | mdic::READ;
        driver.write(&mut machine, reg::MDIC, request);
        let answer = driver.read(&mut machine, reg::MDIC);
        assert_ne!(answer & mdic::ERROR, 0, "{other}");
    }
    for word in [64, 65, 0x3fff] {
        assert_eq!(driver.nvm_read(&mut machine, word), 0xffff);
    }
}

#[test]
fn link_changes_are_told() {
    let (mut machine, _, driver) = set_up(RxShape::Extended);
    machine.set_link(true);
    assert_eq!(driver.take_interrupt(&mut machine), None);
    for up in [false, true] {
        machine.set_link(up);
        assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[2]));
        let causes = driver.others(&mut machine);
        assert_eq!(causes & !cause::INT_ASSERTED, cause::LSC | cause::OTHER);
        assert_eq!(driver.link(&mut machine), up);
    }
}

#[test]
fn frames_leave_in_order_and_are_reported() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = [0; 1600];
    for round in 0..600 {
        let sent: Vec<Vec<u8>> = (0..round % 7 + 1)
            .map(|i| frame(14 + i * 200, i as u8))
            .collect();
        for frame in &sent {
            assert!(driver.send(&mut machine, &ram, frame));
        }
        assert!(machine.take_nic_events().tx_kicked, "round {round}");
        for frame in &sent {
            assert_eq!(machine.take_tx(&ram, &mut buf), Some(frame.len()));
            assert_eq!(&buf[..frame.len()], frame);
        }
        assert_eq!(machine.take_tx(&ram, &mut buf), None);
        assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[1]));
        assert_eq!(driver.take_interrupt(&mut machine), None);
        driver.rearm(&mut machine);
        assert_eq!(driver.reap_tx(&ram), sent.len());
    }
    assert_eq!(machine.counters().tx_dropped, 0);
}

#[test]
fn frames_arrive_in_order_until_the_buffers_are_used_up() {
    for shape in SHAPES {
        let (mut machine, ram, mut driver) = set_up(shape);
        assert_eq!(machine.deliver_rx(&ram, &frame(60, 0)), Err(NoBuffer));
        for round in 0..5u8 {
            assert_eq!(driver.fill_rx(&mut machine, &ram), 255, "{shape:?}");
            assert!(machine.take_nic_events().rx_refilled);
            // What came while the handler was at work is told as soon as it is done.
            driver.rearm(&mut machine);
            let late = driver.take_interrupt(&mut machine);
            assert_eq!(late, (round != 0).then_some(VECTORS[0]));
            driver.rearm(&mut machine);
            for i in 0..255usize {
                let sent = frame(14 + i * 5, round);
                assert_eq!(machine.deliver_rx(&ram, &sent), Ok(()));
            }
            assert_eq!(machine.deliver_rx(&ram, &frame(60, 0)), Err(NoBuffer));
            assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0]));
            assert_eq!(driver.take_interrupt(&mut machine), None);
            for i in 0..255usize {
                let got = driver.receive(&ram);
                assert_eq!(got, Some((frame(14 + i * 5, round), None)), "{shape:?} {i}");
            }
            assert_eq!(driver.receive(&ram), None);
        }
        assert_eq!(machine.counters().rx_frames, 5 * 255);
    }
}

#[test]
fn a_reset_forgets_and_a_new_open_works() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    driver.send(&mut machine, &ram, &frame(60, 1));
    driver.reset(&mut machine);
    assert!(machine.take_nic_events().reset);
    let mut buf = [0; 1600];
    assert_eq!(machine.take_tx(&ram, &mut buf), None);
    assert_eq!(machine.deliver_rx(&ram, &frame(60, 1)), Err(NoBuffer));
    let mut driver = E1000eDriver::start(&mut machine, &ram, BASE, RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    assert_eq!(machine.deliver_rx(&ram, &frame(61, 2)), Ok(()));
    assert_eq!(driver.receive(&ram), Some((frame(61, 2), None)));
    driver.send(&mut machine, &ram, &frame(62, 3));
    assert_eq!(machine.take_tx(&ram, &mut buf), Some(62));
}
