//! The card against a driver, through ports and registers of the machine.

use crate::test_support::e1000e::{DRIVER_RAM, E1000eDriver, RxShape, VECTORS};
use crate::test_support::{HostCpu, Ram, config, config_write, take_all};
use crate::{Machine, NicModel, NoBuffer};
use abi::e1000e::{cause, ctrl, mdic, phy, rctl, reg, status, tx};

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

/// As `set_up`, with INTA in place of MSI-X, and buffers.
fn set_up_inta() -> (Machine, Ram, E1000eDriver) {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    config_write(&mut machine, 0x42, 2, 0);
    for (select, value) in [(0x31, 0), (0x30, 0x8060)] {
        machine.mmio_write(0xfec0_0000, 4, select, 0);
        machine.mmio_write(0xfec0_0010, 4, value, 0);
    }
    driver.write(&mut machine, reg::IMC, u32::MAX);
    let mask = cause::RXT0 | cause::TXDW | cause::LSC;
    driver.write(&mut machine, reg::IMS, mask);
    driver.fill_rx(&mut machine, &ram);
    (machine, ram, driver)
}

/// What INTA was asserted for, 0 if it is not; taken as a driver's handler takes it.
fn inta(machine: &mut Machine, driver: &E1000eDriver) -> u32 {
    let Some(interrupt) = machine.pending_interrupt() else {
        return 0;
    };
    assert_eq!(interrupt.vector, 0x60);
    machine.accept_interrupt(0x60);
    let causes = driver.read(machine, reg::ICR);
    machine.mmio_write(0xfee0_00b0, 4, 0, 0);
    assert_eq!(machine.pending_interrupt(), None);
    causes & !cause::INT_ASSERTED
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
    for round in 0..600 {
        let sent: Vec<Vec<u8>> = (0..round % 7 + 1)
            .map(|i| frame(14 + i * 200, i as u8))
            .collect();
        for frame in &sent {
            assert!(driver.send(&mut machine, &ram, frame));
        }
        take_all(&mut machine, &ram, &sent);
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

#[test]
fn only_wanted_addresses_and_vlans_come_in() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    let base = rctl::EN | rctl::SECRC;
    let to = |address: [u8; 6]| {
        let mut frame = frame(60, 1);
        frame[..6].copy_from_slice(&address);
        frame
    };
    let multicast = [0x01, 0x00, 0x5e, 0x12, 0x34, 0x56];
    let other = [0x02, 0, 0, 1, 2, 3];
    for (mode, address, wanted) in [
        (0, config().mac, true),
        (0, other, false),
        (rctl::UPE, other, true),
        (0, [0xff; 6], false),
        (rctl::BAM, [0xff; 6], true),
        (0, multicast, false),
        (rctl::MPE, multicast, true),
        (rctl::UPE, multicast, false),
    ] {
        driver.write(&mut machine, reg::RCTL, base | mode);
        assert_eq!(machine.deliver_rx(&ram, &to(address)), Ok(()));
        let got = driver.receive(&ram);
        assert_eq!(got.is_some(), wanted, "{mode:#x} {address:x?}");
    }
    // The table: bits 47 to 36 of the address (0x56, 0x34) choose (Linux
    // `e1000_hash_mc_addr`: 0x563).
    driver.write(&mut machine, reg::RCTL, base);
    driver.write(&mut machine, reg::MTA + 4 * (0x563 >> 5), 1 << (0x563 & 31));
    assert_eq!(machine.deliver_rx(&ram, &to(multicast)), Ok(()));
    assert!(driver.receive(&ram).is_some());
    // VLAN 5 of 5 and 6.
    driver.write(&mut machine, reg::RCTL, base | rctl::VFE);
    driver.write(&mut machine, reg::VFTA, 1 << 5);
    for (id, wanted) in [(5, true), (6, false)] {
        let mut tagged = frame(60, 1);
        tagged.splice(12..12, [0x81, 0, 0, id]);
        assert_eq!(machine.deliver_rx(&ram, &tagged), Ok(()));
        assert_eq!(driver.receive(&ram).is_some(), wanted);
    }
    assert_eq!(machine.counters().rx_filtered, 5);
}

#[test]
fn an_fcs_is_there_for_a_driver_that_wants_it() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Legacy);
    driver.write(&mut machine, reg::RCTL, rctl::EN | rctl::MPE);
    driver.fill_rx(&mut machine, &ram);
    // The check value of this CRC is 0xcbf43926 for these nine digits.
    let sent = b"123456789".repeat(7);
    assert_eq!(machine.deliver_rx(&ram, &sent), Ok(()));
    let (got, _) = driver.receive(&ram).unwrap();
    assert_eq!(got.len(), sent.len() + 4);
    // A frame with its FCS leaves the CRC's well-known residue.
    let crc = got.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 }
        })
    });
    assert_eq!(crc, 0xdebb_20e3);
}

#[test]
fn long_frames_take_several_descriptors() {
    for shape in [RxShape::Legacy, RxShape::Extended] {
        let (mut machine, ram, mut driver) = set_up(shape);
        // Buffers of 256 bytes.
        let control = rctl::EN | rctl::SECRC | 3 << rctl::BSIZE_SHIFT;
        driver.write(&mut machine, reg::RCTL, control);
        driver.fill_rx(&mut machine, &ram);
        // 42 frames of 6 descriptors and 3 descriptors that are not enough.
        for seed in 0..42 {
            assert_eq!(machine.deliver_rx(&ram, &frame(1500, seed)), Ok(()));
        }
        assert_eq!(machine.deliver_rx(&ram, &frame(1500, 0)), Err(NoBuffer));
        for seed in 0..42 {
            assert_eq!(driver.receive(&ram), Some((frame(1500, seed), None)));
        }
        assert_eq!(driver.receive(&ram), None);
        assert_eq!(machine.deliver_rx(&ram, &frame(1519, 0)), Ok(()));
        assert_eq!(machine.counters().rx_dropped, 1);
    }
}

#[test]
fn without_msix_the_interrupt_comes_over_inta() {
    let (mut machine, ram, driver) = set_up_inta();
    machine.deliver_rx(&ram, &frame(60, 1)).unwrap();
    assert_eq!(inta(&mut machine, &driver), cause::RXT0);
    assert_eq!(driver.read(&mut machine, reg::ICR), 0);
}

#[test]
fn interrupts_come_no_faster_than_the_throttle() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    // 1000 units of 256 ns.
    driver.write(&mut machine, reg::EITR, 1000);
    let mut told = 0;
    for now in (0..2_560_000u64).step_by(16_000) {
        machine.advance(now);
        machine.deliver_rx(&ram, &frame(60, 1)).unwrap();
        if driver.take_interrupt(&mut machine).is_some() {
            told += 1;
            driver.rearm(&mut machine);
        }
    }
    // 10 intervals, and one at the start.
    assert!((10..=11).contains(&told), "{told}");
    // The last one waits, and says until when.
    let deadline = machine.next_deadline().unwrap();
    assert!((2_560_000..2_830_000).contains(&deadline), "{deadline}");
    machine.advance(deadline - 1);
    assert_eq!(machine.pending_interrupt(), None);
    machine.advance(deadline);
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0]));
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn addresses_outside_of_memory_stop_the_card_until_a_reset() {
    let mut buf = [0; 1600];
    for (address, len) in [
        (1 << 40, 60),
        (u64::MAX - 5, 60),
        (BASE + DRIVER_RAM - 1, 2),
    ] {
        let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
        driver.fill_rx(&mut machine, &ram);
        driver.push(&ram, address, tx::EOP | tx::RS | len, 0);
        driver.ring_tx(&mut machine);
        assert_eq!(machine.take_tx(&ram, &mut buf), None);
        assert_eq!(machine.counters().nic_broken, 1);
        assert_eq!(machine.deliver_rx(&ram, &frame(60, 1)), Err(NoBuffer));
        let mut driver = E1000eDriver::start(&mut machine, &ram, BASE, RxShape::Extended);
        driver.fill_rx(&mut machine, &ram);
        assert_eq!(machine.deliver_rx(&ram, &frame(60, 1)), Ok(()));
    }
}

#[test]
fn traffic_is_counted_and_reading_clears() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    let mut broadcast = frame(60, 1);
    broadcast[..6].fill(0xff);
    for frame in [&frame(60, 1), &frame(61, 1), &frame(1514, 1), &broadcast] {
        machine.deliver_rx(&ram, frame).unwrap();
    }
    let octets = 60 + 61 + 1514 + 60 + 4 * 4;
    // Good and total frames, broadcasts, 64 bytes, up to 127, up to 1522, octets.
    for (register, value) in [
        (0x4074, 4),
        (0x40d0, 4),
        (0x4078, 1),
        (0x405c, 2),
        (0x4060, 1),
        (0x4070, 1),
        (0x4088, octets),
        (0x408c, 0),
    ] {
        assert_eq!(driver.read(&mut machine, register), value, "{register:#x}");
    }
    for register in (0x4000..0x4128).step_by(4).filter(|at| *at < 0x40c0) {
        assert_eq!(driver.read(&mut machine, register), 0, "{register:#x}");
    }
}

mod moderation;
mod offloads;
mod pieces;
