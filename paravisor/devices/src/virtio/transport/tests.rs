//! The registers of the PCI transport (virtio 1.2, section 4.1).

use super::*;
use crate::virtio::share::{Held, Turn, event};
use abi::pci::header;

const ADDRESS: u32 = 0xe000_0000;

fn transport() -> Transport {
    transport_with(1)
}

fn transport_with(pairs: u16) -> Transport {
    let mut transport = Transport::new(&Kind {
        device: 1,
        class: [0, 0, 2],
        features: match pairs {
            1 => feature::EVENT_IDX | feature::NET_MAC,
            _ => feature::NET_CTRL_VQ | feature::NET_MQ,
        },
        pairs,
        control: pairs > 1,
        queue_size: 256,
        control_size: 64,
        address: ADDRESS,
        pin: 16,
    });
    transport.config_write(header::COMMAND, 2, 6);
    transport
}

fn read(transport: &mut Transport, offset: u64, size: u8) -> u64 {
    transport.bar_read(0, offset, size)
}

fn write(transport: &mut Transport, offset: u64, size: u8, value: u64) {
    transport.bar_write(0, offset, size, value);
}

fn accept(transport: &mut Transport, features: u64) -> u8 {
    write(transport, common::DEVICE_STATUS, 1, 3);
    for half in 0..2 {
        write(transport, common::DRIVER_FEATURE_SELECT, 4, half);
        write(
            transport,
            common::DRIVER_FEATURE,
            4,
            features >> (32 * half),
        );
    }
    write(transport, common::DEVICE_STATUS, 1, 0xb);
    read(transport, common::DEVICE_STATUS, 1) as u8
}

#[test]
fn v_4_1_2_identity() {
    let mut transport = transport();
    assert_eq!(transport.config_read(0, 4), 0x1041_1af4);
    assert_eq!(transport.config_read(header::REVISION, 1), 1);
    assert_eq!(transport.config_read(header::INTERRUPT_PIN, 1), 1);
    assert_eq!(transport.config_read(header::BAR0, 4), ADDRESS);
    assert_eq!(transport.config_read(header::BAR0 + 4, 4), ADDRESS + 0x4000);
    transport.config_write(header::BAR0 + 4, 4, u32::MAX);
    assert_eq!(transport.config_read(header::BAR0 + 4, 4), 0xffff_f000);
}

#[test]
fn v_2_2_features_must_be_a_subset_with_version_1() {
    assert_eq!(accept(&mut transport(), feature::VERSION_1) & 8, 8);
    assert_eq!(
        accept(&mut transport(), feature::VERSION_1 | feature::EVENT_IDX) & 8,
        8
    );
    assert_eq!(accept(&mut transport(), feature::EVENT_IDX) & 8, 0);
    assert_eq!(
        accept(&mut transport(), feature::VERSION_1 | feature::NET_MQ) & 8,
        0
    );
    assert_eq!(accept(&mut transport(), u64::MAX) & 8, 0);
}

#[test]
fn v_3_1_1_features_are_fixed_after_features_ok() {
    let mut transport = transport();
    accept(&mut transport, feature::VERSION_1);
    write(&mut transport, common::DRIVER_FEATURE_SELECT, 4, 0);
    write(&mut transport, common::DRIVER_FEATURE, 4, u64::MAX);
    assert_eq!(read(&mut transport, common::DRIVER_FEATURE, 4), 0);
}

#[test]
fn v_4_1_4_3_1_a_queue_that_does_not_exist_has_size_0() {
    let mut transport = transport();
    assert_eq!(read(&mut transport, common::NUM_QUEUES, 2), 2);
    for (index, size) in [(0, 256), (1, 256), (2, 0), (0xffff, 0)] {
        write(&mut transport, common::QUEUE_SELECT, 2, index);
        assert_eq!(read(&mut transport, common::QUEUE_SIZE, 2), size);
        write(&mut transport, common::QUEUE_ENABLE, 2, 1);
    }
}

#[test]
fn v_4_1_4_3_2_an_enabled_queue_does_not_move() {
    let mut transport = transport();
    write(&mut transport, common::QUEUE_DESC, 8, 0x1_2345_6780);
    assert_eq!(read(&mut transport, common::QUEUE_DESC + 4, 4), 1);
    write(&mut transport, common::QUEUE_DESC + 4, 4, 0);
    write(&mut transport, common::QUEUE_SIZE, 2, 16);
    write(&mut transport, common::QUEUE_ENABLE, 2, 1);
    assert_eq!(read(&mut transport, common::QUEUE_ENABLE, 2), 1);
    write(&mut transport, common::QUEUE_DESC, 4, 0);
    write(&mut transport, common::QUEUE_SIZE, 2, 8);
    write(&mut transport, common::QUEUE_ENABLE, 2, 0);
    assert_eq!(read(&mut transport, common::QUEUE_DESC, 8), 0x2345_6780);
    assert_eq!(read(&mut transport, common::QUEUE_SIZE, 2), 16);
    assert_eq!(read(&mut transport, common::QUEUE_ENABLE, 2), 1);
}

#[test]
fn a_queue_that_cannot_be_enabled_needs_a_reset() {
    let mut transport = transport();
    accept(&mut transport, feature::VERSION_1);
    write(&mut transport, common::QUEUE_SIZE, 2, 24);
    write(&mut transport, common::QUEUE_ENABLE, 2, 1);
    assert_eq!(
        read(&mut transport, common::DEVICE_STATUS, 1) as u8 & 64,
        64
    );
    // 2.1.1: only a reset clears it.
    write(&mut transport, common::DEVICE_STATUS, 1, 0xf);
    assert_eq!(
        read(&mut transport, common::DEVICE_STATUS, 1) as u8 & 64,
        64
    );
    assert!(!transport.running());
    write(&mut transport, common::DEVICE_STATUS, 1, 0);
    assert_eq!(read(&mut transport, common::DEVICE_STATUS, 1), 0);
    assert_eq!(transport.broken, 1);
}

#[test]
fn v_4_1_4_3_1_reset_restores_everything() {
    let mut transport = transport();
    accept(&mut transport, feature::VERSION_1);
    write(&mut transport, common::CONFIG_MSIX_VECTOR, 2, 1);
    write(&mut transport, common::QUEUE_SELECT, 2, 1);
    write(&mut transport, common::QUEUE_ENABLE, 2, 1);
    write(&mut transport, common::DEVICE_STATUS, 1, 0);
    let first = transport.share().pair(0).unwrap();
    assert_eq!(first.take_events(), event::RESET);
    assert_eq!(first.take_events(), 0);
    assert_eq!(read(&mut transport, common::QUEUE_SELECT, 2), 0);
    assert_eq!(read(&mut transport, common::CONFIG_MSIX_VECTOR, 2), 0xffff);
    write(&mut transport, common::QUEUE_SELECT, 2, 1);
    assert_eq!(read(&mut transport, common::QUEUE_ENABLE, 2), 0);
}

#[test]
fn v_4_1_5_1_2_vectors_beyond_the_table_read_back_as_none() {
    let mut transport = transport();
    for (value, back) in [(2, 2), (3, 0xffff), (0xffff, 0xffff)] {
        write(&mut transport, common::QUEUE_MSIX_VECTOR, 2, value);
        assert_eq!(read(&mut transport, common::QUEUE_MSIX_VECTOR, 2), back);
    }
}

#[test]
fn v_4_1_4_5_isr_is_cleared_by_reading_and_drives_inta() {
    let mut transport = transport();
    accept(&mut transport, feature::VERSION_1);
    write(&mut transport, common::DEVICE_STATUS, 1, 0xf);
    assert!(!transport.intx());
    transport.interrupt_queue(0);
    transport.interrupt_config();
    assert!(transport.intx());
    assert_eq!(transport.config_read(header::STATUS, 2) & 8, 8);
    transport.config_write(header::COMMAND, 2, 6 | 1 << 10);
    assert!(!transport.intx());
    transport.config_write(header::COMMAND, 2, 6);
    assert_eq!(transport.bar_read(0, ISR, 1), 3);
    assert_eq!(transport.bar_read(0, ISR, 1), 0);
    assert!(!transport.intx());
}

#[test]
fn v_4_1_4_9_configuration_window() {
    let mut transport = transport();
    let at = transport.window_capability;
    transport.config_write(at + pci::cap::BAR, 1, 0);
    transport.config_write(at + pci::cap::OFFSET, 4, common::NUM_QUEUES as u32);
    transport.config_write(at + pci::cap::LENGTH, 4, 2);
    assert_eq!(transport.config_read(at + pci::cap::EXTRA, 2), 2);
    transport.config_write(at + pci::cap::OFFSET, 4, common::QUEUE_SELECT as u32);
    transport.config_write(at + pci::cap::EXTRA, 2, 1);
    assert_eq!(read(&mut transport, common::QUEUE_SELECT, 2), 1);
    for (offset, length) in [(1, 2), (0, 3), (0, 0), (u32::MAX, 1), (2, u32::MAX)] {
        transport.config_write(at + pci::cap::OFFSET, 4, offset);
        transport.config_write(at + pci::cap::LENGTH, 4, length);
        transport.config_write(at + pci::cap::EXTRA, 4, 0xffff_ffff);
        transport.config_read(at + pci::cap::EXTRA, 4);
    }
    transport.config_write(at + pci::cap::BAR, 1, 0xff);
    transport.config_read(at + pci::cap::EXTRA, 4);
}

#[test]
fn v_4_1_4_4_doorbells() {
    let mut transport = transport();
    let share = transport.share().clone();
    let rung = || share.pair(0).unwrap().take_events();
    write(&mut transport, NOTIFY + 4, 2, 1);
    assert_eq!(rung(), event::TX);
    write(&mut transport, NOTIFY, 4, 77);
    write(&mut transport, NOTIFY + 8, 2, 2);
    write(&mut transport, NOTIFY + 0xffc, 2, 2);
    assert_eq!(rung(), event::RX);
    assert_eq!(transport.take_calls(), 1);
    // Their page is known without a question to the registers.
    let page = u64::from(ADDRESS) + NOTIFY;
    assert_eq!(share.doorbell(page + 4), Some(4));
    assert_eq!(share.doorbell(page - 1), None);
    transport.config_write(header::COMMAND, 2, 0);
    assert_eq!(share.doorbell(page), None);
}

/// A queue may be worked while the driver runs, its pair is in use and the function may
/// access memory; of which there are two pairs here.
#[test]
fn v_3_1_1_queues_are_handed_over_and_taken_back() {
    let mut transport = transport_with(2);
    let share = transport.share().clone();
    let mut held = [const { Held::nothing() }; 4];
    let mut may = || {
        let mut may = 0;
        for (index, held) in held.iter_mut().enumerate() {
            let pair = share.pair(index as u16 / 2).unwrap();
            match held.work(pair, index as u16 % 2, |queue| queue.enabled()) {
                Turn::Nothing => {}
                Turn::Done(enabled, _) => may |= u32::from(enabled) << index,
            }
        }
        may
    };
    let both = feature::NET_CTRL_VQ | feature::NET_MQ;
    for _ in 0..2 {
        assert_eq!(may(), 0);
        assert_eq!(accept(&mut transport, feature::VERSION_1 | both) & 8, 8);
        assert_eq!(read(&mut transport, common::NUM_QUEUES, 2), 5);
        for (queue, size) in [(0, 256), (1, 256), (2, 256), (3, 256), (4, 64), (5, 0)] {
            write(&mut transport, common::QUEUE_SELECT, 2, queue);
            assert_eq!(read(&mut transport, common::QUEUE_SIZE, 2), size);
            write(&mut transport, common::QUEUE_ENABLE, 2, 1);
            assert_eq!(may(), 0);
        }
        write(&mut transport, common::DEVICE_STATUS, 1, 0xf);
        assert_eq!(may(), 0b0011);
        assert_eq!(transport.control_queue(), Some(4));
        assert!(transport.use_pairs(2));
        assert_eq!(may(), 0b1111);
        transport.config_write(header::COMMAND, 2, 2);
        assert_eq!(may(), 0);
        transport.config_write(header::COMMAND, 2, 6);
        assert_eq!(may(), 0b1111);
        assert!(transport.use_pairs(1));
        assert_eq!(may(), 0b0011);
        transport.set_broken_by(u64::MAX);
        assert_eq!(may(), 0b0011, "queues of another driver");
        transport.set_broken();
        assert_eq!(may(), 0);
        write(&mut transport, common::DEVICE_STATUS, 1, 0);
        assert_eq!(read(&mut transport, common::DEVICE_STATUS, 1), 0);
    }
}

#[test]
fn v_2_4_2_a_reset_is_not_over_while_a_queue_is_worked() {
    let mut transport = transport();
    let share = transport.share().clone();
    accept(&mut transport, feature::VERSION_1);
    write(&mut transport, common::QUEUE_ENABLE, 2, 1);
    write(&mut transport, common::DEVICE_STATUS, 1, 0xf);
    let mut held = Held::nothing();
    let pair = share.pair(0).unwrap();
    let during = held.work(pair, 0, |_| {
        write(&mut transport, common::DEVICE_STATUS, 1, 0);
        read(&mut transport, common::DEVICE_STATUS, 1) as u8
    });
    assert!(matches!(during, Turn::Done(status::NEEDS_RESET, 1)));
    assert_eq!(read(&mut transport, common::DEVICE_STATUS, 1), 0);
    assert!(matches!(held.work(pair, 0, |_| ()), Turn::Nothing));
}

#[test]
fn v_3_1_2_nothing_runs_before_driver_ok_and_bus_mastering() {
    let mut transport = transport();
    assert_eq!(accept(&mut transport, feature::VERSION_1) & 8, 8);
    assert!(!transport.running());
    write(&mut transport, common::DEVICE_STATUS, 1, 0xf);
    assert!(transport.running());
    transport.config_write(header::COMMAND, 2, 2);
    assert!(!transport.running());
}
