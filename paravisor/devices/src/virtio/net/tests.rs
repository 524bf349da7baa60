//! The card against a driver, through ports and registers of the machine.

mod bursts;
mod hash;

use crate::test_support::{
    DRIVER_RAM, HostCpu, NetDriver, Ram, VECTORS, config, config_write, take_all,
};
use crate::{Machine, NoBuffer};
use abi::virtio::{feature, net, pci::common, queue, status};
use validate::frame::{Arrived, Headers, MAX_SEGMENTED, TaskKind};

const BASE: u64 = 0x10_0000;

fn set_up(wanted: u64) -> (Machine, Ram, NetDriver) {
    let mut machine = Machine::new(&config(), &HostCpu);
    let ram = Ram::new((BASE + DRIVER_RAM) as usize);
    let driver = NetDriver::start(&mut machine, &ram, BASE, wanted);
    (machine, ram, driver)
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

#[test]
fn v_5_1_4_configuration() {
    let (mut machine, _, driver) = set_up(u64::MAX);
    let wanted = feature::NET_MAC
        | feature::NET_MTU
        | feature::NET_STATUS
        | feature::NET_CSUM
        | feature::NET_GUEST_CSUM
        | feature::NET_GUEST_TSO4
        | feature::NET_GUEST_TSO6
        | feature::NET_MRG_RXBUF
        | feature::NET_HOST_TSO4
        | feature::NET_HOST_TSO6
        | feature::INDIRECT_DESC
        | feature::EVENT_IDX
        | feature::VERSION_1;
    assert_eq!(driver.features, wanted);
    let mac: Vec<u8> = (0..6)
        .map(|i| driver.device_config(&mut machine, i, 1) as u8)
        .collect();
    assert_eq!(mac, config().mac);
    assert_eq!(driver.device_config(&mut machine, net::CONFIG_MTU, 2), 1500);
    assert_eq!(driver.device_config(&mut machine, net::CONFIG_STATUS, 2), 1);
    assert_eq!(driver.device_config(&mut machine, 0xfff, 4), 0);
}

#[test]
fn frames_leave_in_order_and_the_buffers_come_back() {
    // Miri is some thousand times slower.
    let rounds = if cfg!(miri) { 8 } else { 1000 };
    for wanted in [0, feature::EVENT_IDX] {
        let (mut machine, ram, mut driver) = set_up(wanted);
        for round in 0..rounds {
            let sent: Vec<Vec<u8>> = (0..round % 7 + 1)
                .map(|i| frame(14 + i * 200, i as u8))
                .collect();
            for frame in &sent {
                assert!(driver.send(&mut machine, &ram, frame));
            }
            take_all(&mut machine, &ram, &sent);
            assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[2]));
            assert_eq!(driver.reap_tx(&ram), sent.len());
        }
        assert_eq!(machine.counters().tx_dropped, 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of frames; the next tests deliver a few")]
fn frames_arrive_in_order_until_the_buffers_are_used_up() {
    for wanted in [0, feature::EVENT_IDX] {
        let (mut machine, ram, mut driver) = set_up(wanted);
        assert_eq!(machine.deliver_rx(&ram, &frame(60, 0)), Err(NoBuffer));
        assert_eq!(driver.fill_rx(&mut machine, &ram), 256);
        assert!(machine.take_nic_events().rx_refilled);
        for round in 0..10 {
            let longest = frame(14 + 255 * 5, round);
            for i in 0..256usize {
                let sent = &longest[..14 + i * 5];
                assert_eq!(machine.deliver_rx(&ram, sent), Ok(()));
            }
            assert_eq!(machine.deliver_rx(&ram, &frame(60, 0)), Err(NoBuffer));
            assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[1]));
            for i in 0..256usize {
                assert_eq!(
                    driver.receive(&ram).as_deref(),
                    Some(&longest[..14 + i * 5])
                );
            }
            assert_eq!(driver.receive(&ram), None);
            machine.take_nic_events();
            driver.fill_rx(&mut machine, &ram);
            assert!(machine.take_nic_events().rx_refilled);
        }
    }
}

#[test]
fn v_5_1_6_5_link_changes_are_told() {
    let (mut machine, _, driver) = set_up(feature::NET_STATUS);
    let before = driver.read(&mut machine, common::CONFIG_GENERATION, 1);
    machine.set_link(true);
    assert_eq!(driver.take_interrupt(&mut machine), None);
    machine.set_link(false);
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0]));
    assert_eq!(driver.device_config(&mut machine, net::CONFIG_STATUS, 2), 0);
    assert_ne!(
        driver.read(&mut machine, common::CONFIG_GENERATION, 1),
        before
    );
}

#[test]
fn v_5_1_6_2_1_offloads_that_were_not_agreed_on_are_dropped() {
    let (mut machine, ram, mut driver) = set_up(0);
    assert!(driver.send(&mut machine, &ram, &frame(60, 1)));
    // The buffer of descriptor 0, which is taken first: flags = NEEDS_CSUM.
    let (desc, _, _) = driver.rings(net::QUEUE_TX);
    let at = ram.get::<8>(desc);
    ram.set::<1>(at, 1);
    assert!(driver.send(&mut machine, &ram, &frame(61, 2)));
    let mut buf = [0; 1600];
    assert_eq!(machine.take_tx(&ram, &mut buf), Some(61));
    assert_eq!(machine.counters().tx_dropped, 1);
    assert_eq!(driver.reap_tx(&ram), 2);
}

/// TCP over IPv4 without a payload's worth of sense.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 54 + payload];
    frame[12] = 8;
    frame[14] = 0x45;
    frame[23] = 6;
    frame[46] = 0x50;
    frame
}

/// A header: flags, type, header length, segment size, start and offset of the sum.
fn header(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> Vec<u8> {
    let mut header = vec![flags, gso, 0xFF, 0xFF];
    for field in [size, start, offset, 0] {
        header.extend(field.to_le_bytes());
    }
    header
}

#[test]
fn v_5_1_6_2_what_the_driver_leaves_to_the_card() {
    let offloads = feature::NET_CSUM | feature::NET_HOST_TSO4 | feature::NET_HOST_TSO6;
    let mut buf = vec![0; 4000];
    // By what was agreed on: none, sums, sums and segments of IPv4 only.
    for (wanted, works) in [
        (0, [true, false, false, false]),
        (feature::NET_CSUM, [true, true, false, false]),
        (
            feature::NET_CSUM | feature::NET_HOST_TSO4,
            [true, true, true, false],
        ),
        (offloads, [true, true, true, false]),
    ] {
        let (mut machine, ram, mut driver) = set_up(wanted);
        let headers = [
            header(0, 0, 7, 7, 7),
            header(1, 0, 0, 34, 16),
            header(1, 1, 1000, 34, 16),
            // Of IPv6, which the frame is not.
            header(1, 4, 1000, 34, 16),
        ];
        for (header, works) in headers.into_iter().zip(works) {
            driver.send_with(&mut machine, &ram, &header, &tcp(1900));
            let taken = machine.take_frame(&ram, &mut buf);
            machine.publish(&ram);
            assert_eq!(taken.is_some(), works, "{header:?} with {wanted:#x}");
            if let Some((len, task)) = taken {
                assert_eq!(len, 1954);
                match (header[0], header[1], task.kind()) {
                    (0, 0, TaskKind::Plain) | (1, 0, TaskKind::Checksum(_)) => {}
                    (1, 1, TaskKind::Segments(headers, 1000)) => {
                        assert_eq!(headers.payload_at(), 54);
                    }
                    other => unreachable!("{other:?}"),
                }
            }
            assert_eq!(driver.reap_tx(&ram), 1);
        }
        let dropped = works.iter().filter(|works| !**works).count() as u64;
        assert_eq!(machine.counters().tx_dropped, dropped);
    }
    // What cannot be: flags that no driver sends, ECN, UDP, segments of nothing or
    // without a sum, sums behind the frame.
    let (mut machine, ram, mut driver) = set_up(u64::MAX);
    for header in [
        header(2, 0, 0, 34, 16),
        header(3, 0, 0, 34, 16),
        header(1, 0x81, 1000, 34, 16),
        header(1, 3, 1000, 34, 16),
        header(1, 1, 0, 34, 16),
        header(0, 1, 1000, 34, 16),
        header(1, 0, 0, 1950, 3),
    ] {
        driver.send_with(&mut machine, &ram, &header, &tcp(1900));
        assert_eq!(machine.take_frame(&ram, &mut buf), None, "{header:?}");
    }
    assert_eq!(machine.counters().tx_dropped, 7);
    assert_eq!(machine.counters().nic_broken, 0);
}

#[test]
fn v_5_1_6_3_a_frame_may_take_several_buffers() {
    for wanted in [0, feature::NET_MRG_RXBUF] {
        let (mut machine, ram, driver) = set_up(wanted);
        let (desc, avail, used) = driver.rings(net::QUEUE_RX);
        let write = u64::from(queue::DESC_WRITE);
        // Chains of one buffer: 100, 50, 200 and 40 bytes.
        let lens = [100u64, 50, 200, 40];
        for (index, len) in lens.into_iter().enumerate() {
            let at = desc + 16 * index as u64;
            ram.set::<8>(at, 0x1000 * (index as u64 + 1));
            ram.set::<4>(at + 8, len);
            ram.set::<2>(at + 12, write);
            ram.set::<2>(avail + 4 + 2 * index as u64, index as u64);
        }
        ram.set::<2>(avail + 2, 2);
        let sent = frame(200, 3);
        let several = wanted != 0;
        // Not enough yet: it waits if the chains together may hold it.
        let outcome = machine.deliver_rx(&ram, &sent);
        assert_eq!(outcome, if several { Err(NoBuffer) } else { Ok(()) });
        assert_eq!(machine.counters().rx_dropped, u64::from(!several));
        if !several {
            continue;
        }
        assert_eq!(ram.get::<2>(used + 2), 0);
        ram.set::<2>(avail + 2, 4);
        assert_eq!(machine.deliver_rx(&ram, &sent), Ok(()));
        assert_eq!(ram.get::<2>(used + 2), 3);
        let written: Vec<(u64, u64)> = (0..3)
            .map(|n| {
                (
                    ram.get::<4>(used + 4 + 8 * n),
                    ram.get::<4>(used + 8 + 8 * n),
                )
            })
            .collect();
        assert_eq!(written, [(0, 100), (1, 50), (2, 62)]);
        assert_eq!(ram.get::<2>(0x1000 + net::HEADER_NUM_BUFFERS as u64), 3);
        let mut bytes = vec![0; 100];
        memory::GuestMemory::read(&ram, 0x1000, &mut bytes).unwrap();
        let mut all = bytes[12..].to_vec();
        for (at, len) in [(0x2000, 50), (0x3000, 62)] {
            let mut bytes = vec![0; len];
            memory::GuestMemory::read(&ram, at, &mut bytes).unwrap();
            all.extend(bytes);
        }
        assert_eq!(all, sent);
        // The last chain is still there, for a frame that it holds.
        assert_eq!(machine.deliver_rx(&ram, &frame(28, 1)), Ok(()));
        assert_eq!(ram.get::<4>(used + 4 + 8 * 3), 3);
        assert_eq!(machine.deliver_rx(&ram, &frame(28, 1)), Err(NoBuffer));
    }
}

#[test]
fn v_5_1_6_4_frames_that_were_joined() {
    let all = feature::NET_GUEST_CSUM
        | feature::NET_MRG_RXBUF
        | feature::NET_GUEST_TSO4
        | feature::NET_GUEST_TSO6;
    for (payload, gso, size, buffers) in [
        (60_000, net::GSO_TCPV4, 1460, 30),
        (1460, net::GSO_NONE, 0, 1),
    ] {
        // Without any one of what it needs it is dropped.
        for missing in [
            0,
            feature::NET_GUEST_TSO6,
            feature::NET_GUEST_TSO4,
            feature::NET_GUEST_CSUM,
            feature::NET_MRG_RXBUF,
        ] {
            let wanted = all & !missing;
            let (mut machine, ram, mut driver) = set_up(wanted);
            driver.fill_rx(&mut machine, &ram);
            let sent = tcp(payload);
            let headers = Headers::of(&sent).unwrap();
            let takes = missing == 0 || missing == feature::NET_GUEST_TSO6;
            let v6 = missing == 0 || missing == feature::NET_GUEST_TSO4;
            assert_eq!(machine.takes_joined(), [takes, v6]);
            let mut parcel = memory::Parcel::private(&sent);
            let arrived = Arrived::of_joined(headers);
            assert_eq!(machine.deliver(&ram, &mut parcel, arrived), Ok(()));
            machine.publish(&ram);
            let counters = machine.counters();
            assert_eq!(counters.rx_dropped, u64::from(!takes));
            if !takes {
                continue;
            }
            assert_eq!(counters.rx_frames, 1);
            let mut expected = header(net::FLAG_NEEDS_CSUM, gso, size, 34, 16);
            expected[2..4].copy_from_slice(&54u16.to_le_bytes());
            expected[10..12].copy_from_slice(&u16::to_le_bytes(buffers));
            let (head, frame) = driver.receive_all(&ram).unwrap();
            assert_eq!(head[..], expected);
            assert!(frame == sent);
        }
    }
    let (mut machine, ram, mut driver) = set_up(all);
    driver.fill_rx(&mut machine, &ram);
    // Longer than anything that can be, for a guest that takes much.
    let sent = tcp(MAX_SEGMENTED);
    let arrived = Arrived::of_joined(Headers::of(&sent).unwrap());
    let mut parcel = memory::Parcel::private(&sent);
    assert_eq!(machine.deliver(&ram, &mut parcel, arrived), Ok(()));
    assert_eq!(machine.counters().rx_dropped, 1);
    // A driver that starts anew has agreed to nothing.
    assert_eq!(machine.takes_joined(), [true; 2]);
    driver.write(&mut machine, common::DEVICE_STATUS, 1, 0);
    assert_eq!(machine.takes_joined(), [false; 2]);
}

#[test]
fn a_buffer_that_is_no_memory_loses_the_frame_and_needs_a_reset() {
    let (mut machine, ram, mut driver) = set_up(u64::MAX);
    driver.fill_rx(&mut machine, &ram);
    let (desc, avail, _) = driver.rings(net::QUEUE_RX);
    let head = ram.get::<2>(avail + 4);
    ram.set::<8>(desc + 16 * head, 1 << 40);
    let sent = frame(60, 1);
    let mut parcel = memory::Parcel::private(&sent);
    let arrived = Arrived::default();
    // Taken: what was written of it cannot be written again.
    assert_eq!(machine.deliver(&ram, &mut parcel, arrived), Ok(()));
    let counters = machine.counters();
    assert_eq!((counters.rx_dropped, counters.nic_broken), (1, 1));
    assert_eq!(machine.deliver_rx(&ram, &sent), Err(NoBuffer));
}

#[test]
fn work_for_one_frame_is_bounded_whatever_the_chains_are() {
    let (mut machine, ram, driver) = set_up(feature::NET_MRG_RXBUF);
    let (desc, avail, _) = driver.rings(net::QUEUE_RX);
    // Every chain: all descriptors, none of which holds a byte.
    for index in 0..256u64 {
        ram.set::<8>(desc + 16 * index, 0x1000);
        ram.set::<4>(desc + 16 * index + 8, 0);
        let next = u64::from(queue::DESC_WRITE | queue::DESC_NEXT);
        ram.set::<2>(desc + 16 * index + 12, next);
        ram.set::<2>(desc + 16 * index + 14, (index + 1) % 256);
        ram.set::<2>(avail + 4 + 2 * index, index);
    }
    ram.set::<2>(avail + 2, 256);
    let before = ram.copied();
    let _ = machine.deliver_rx(&ram, &frame(1500, 1));
    let read = ram.copied()[0] - before[0];
    assert!(read <= 257 * 16 + 300 * 4, "{read}");
}

#[test]
fn frames_of_impossible_length_are_dropped_and_counted() {
    let (mut machine, ram, mut driver) = set_up(0);
    let mut buf = [0; 1000];
    for len in [0, 13, 1001] {
        driver.send(&mut machine, &ram, &frame(len, 1));
    }
    driver.send(&mut machine, &ram, &frame(1000, 1));
    assert_eq!(machine.take_tx(&ram, &mut buf), Some(1000));
    assert_eq!(machine.counters().tx_dropped, 3);
    driver.fill_rx(&mut machine, &ram);
    for len in [0, 13, 1519] {
        assert_eq!(machine.deliver_rx(&ram, &frame(len, 0)), Ok(()));
    }
    assert_eq!(machine.counters().rx_dropped, 3);
    assert_eq!(machine.deliver_rx(&ram, &frame(1518, 0)), Ok(()));
    assert_eq!(driver.receive(&ram), Some(frame(1518, 0)));
}

#[test]
fn header_and_frame_may_be_split_anywhere() {
    let (mut machine, ram, driver) = set_up(0);
    let (desc, avail, _) = driver.rings(net::QUEUE_TX);
    let sent = frame(100, 9);
    let mut bytes = vec![0; net::HEADER_LEN];
    bytes.extend(&sent);
    ram.write(0x1000, &bytes);
    let cuts = [0u64, 5, 5, 12, 13, 112];
    for (index, pair) in cuts.windows(2).enumerate() {
        let at = desc + 16 * index as u64;
        ram.set::<8>(at, 0x1000 + pair[0]);
        ram.set::<4>(at + 8, pair[1] - pair[0]);
        let last = index + 2 == cuts.len();
        ram.set::<2>(at + 12, if last { 0 } else { u64::from(queue::DESC_NEXT) });
        ram.set::<2>(at + 14, index as u64 + 1);
    }
    ram.set::<2>(avail + 4, 0);
    ram.set::<2>(avail + 2, 1);
    let mut buf = [0; 1600];
    assert_eq!(machine.take_tx(&ram, &mut buf), Some(100));
    assert_eq!(&buf[..100], sent);
}

#[test]
fn a_receive_chain_may_be_split_anywhere_and_too_small_ones_lose_the_frame() {
    let (mut machine, ram, driver) = set_up(0);
    let (desc, avail, used) = driver.rings(net::QUEUE_RX);
    let write = u64::from(queue::DESC_WRITE);
    for (index, (offset, len)) in [(0u64, 7u64), (7, 10), (17, 60)].into_iter().enumerate() {
        let at = desc + 16 * index as u64;
        ram.set::<8>(at, 0x1000 + offset);
        ram.set::<4>(at + 8, len);
        let next = if index == 2 {
            0
        } else {
            u64::from(queue::DESC_NEXT)
        };
        ram.set::<2>(at + 12, write | next);
        ram.set::<2>(at + 14, index as u64 + 1);
    }
    ram.set::<2>(avail + 4, 0);
    ram.set::<2>(avail + 2, 1);
    assert_eq!(machine.deliver_rx(&ram, &frame(66, 3)), Ok(()));
    assert_eq!(machine.counters().rx_dropped, 1);
    assert_eq!(machine.deliver_rx(&ram, &frame(65, 3)), Ok(()));
    assert_eq!((ram.get::<2>(used + 2), ram.get::<4>(used + 8)), (1, 77));
    let mut bytes = [0; 65];
    memory::GuestMemory::read(&ram, 0x1000 + 12, &mut bytes).unwrap();
    assert_eq!(bytes[..], frame(65, 3));
}

#[test]
fn buffers_of_the_wrong_direction_or_place_need_a_reset() {
    let mut buf = [0; 1600];
    let wrong = [(u64::MAX - 5, 0), (0x1000, queue::DESC_WRITE), (1 << 40, 0)];
    // Miri is some thousand times slower.
    let tried = if cfg!(miri) { 1 } else { wrong.len() };
    for (address, flags) in wrong.into_iter().take(tried) {
        let (mut machine, ram, mut driver) = set_up(0);
        let (desc, _, _) = driver.rings(net::QUEUE_TX);
        driver.send(&mut machine, &ram, &frame(60, 1));
        ram.set::<8>(desc, address);
        ram.set::<2>(desc + 12, u64::from(flags));
        assert_eq!(machine.take_tx(&ram, &mut buf), None);
        assert_eq!(
            driver.status(&mut machine) & status::NEEDS_RESET,
            status::NEEDS_RESET
        );
        assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0]));
        assert_eq!(machine.deliver_rx(&ram, &frame(60, 1)), Err(NoBuffer));
        assert_eq!(machine.counters().nic_broken, 1);
        // A reset and a new start make it work again.
        let mut driver = NetDriver::start(&mut machine, &ram, BASE, 0);
        assert!(machine.take_nic_events().reset);
        driver.send(&mut machine, &ram, &frame(60, 1));
        assert_eq!(machine.take_tx(&ram, &mut buf), Some(60));
    }
    let (mut machine, ram, mut driver) = set_up(0);
    driver.fill_rx(&mut machine, &ram);
    ram.set::<2>(driver.rings(net::QUEUE_RX).0 + 12, 0);
    assert_eq!(machine.deliver_rx(&ram, &frame(60, 1)), Err(NoBuffer));
    assert_eq!(machine.counters().nic_broken, 1);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "hundreds of chains; one of each kind is in other tests"
)]
fn a_queue_of_nothing_but_unusable_chains_ends() {
    let (mut machine, ram, mut driver) = set_up(0);
    while driver.send(&mut machine, &ram, &frame(5, 0)) {}
    machine.take_nic_events();
    let mut buf = [0; 1600];
    assert_eq!(machine.take_tx(&ram, &mut buf), None);
    assert_eq!(machine.counters().tx_dropped, 256);
    // The owner is asked to come again, and then finds nothing.
    assert!(machine.take_nic_events().tx_kicked);
    assert_eq!(machine.take_tx(&ram, &mut buf), None);
    assert!(!machine.take_nic_events().tx_kicked);
}

#[test]
fn without_msix_the_interrupt_comes_over_inta() {
    let (mut machine, ram, mut driver) = set_up(0);
    config_write(&mut machine, driver.msix_capability() + 2, 2, 0);
    // I/O APIC pin 16: vector 0x50, level.
    for (select, value) in [(0x31, 0), (0x30, 0x8050)] {
        machine.mmio_write(0xfec0_0000, 4, select, 0);
        machine.mmio_write(0xfec0_0010, 4, value, 0);
    }
    driver.fill_rx(&mut machine, &ram);
    machine.deliver_rx(&ram, &frame(60, 1)).unwrap();
    assert_eq!(machine.pending_interrupt().unwrap().vector, 0x50);
    machine.accept_interrupt(0x50);
    assert_eq!(driver.isr(&mut machine), 1);
    machine.mmio_write(0xfee0_00b0, 4, 0, 0);
    assert_eq!(machine.pending_interrupt(), None);
}

trait Put {
    fn write(&self, gpa: u64, bytes: &[u8]);
}

impl Put for Ram {
    fn write(&self, gpa: u64, bytes: &[u8]) {
        memory::GuestMemory::write(self, gpa, bytes).unwrap();
    }
}
