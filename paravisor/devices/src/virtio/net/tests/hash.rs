//! The hash of a frame's flow: offered, asked for, and told with a frame.

use super::{BASE, frame, tcp};
use crate::test_support::{DRIVER_RAM, HostCpu, NetDriver, Ram, VECTORS, config};
use crate::{Machine, MachineConfig, NoBuffer};
use abi::virtio::{feature, net, pci::common, queue};
use memory::{GuestMemory, Parcel};
use std::vec::Vec;
use validate::frame::{Arrived, FlowHash, HashKind, HashKinds, HashRequest, Headers};

/// Every kind with its number in the header.
const REPORTS: [(HashKind, u16); 6] = [
    (HashKind::Ipv4, 1),
    (HashKind::TcpIpv4, 2),
    (HashKind::UdpIpv4, 3),
    (HashKind::Ipv6, 4),
    (HashKind::TcpIpv6, 5),
    (HashKind::UdpIpv6, 6),
];
const ALL_TYPES: u32 = 0x3f;

fn set_up_with(hash: HashKinds, wanted: u64) -> (Machine, Ram, NetDriver) {
    let config = MachineConfig { hash, ..config() };
    let mut machine = Machine::new(&config, &HostCpu);
    let ram = Ram::new((BASE + 2 * DRIVER_RAM) as usize);
    let driver = NetDriver::start(&mut machine, &ram, BASE, wanted);
    (machine, ram, driver)
}

/// A card that offers all kinds to a driver that wants everything.
fn set_up() -> (Machine, Ram, NetDriver) {
    set_up_with(HashKinds::of(|_| true), u64::MAX)
}

/// The key of a request, `len` bytes of it.
fn key(len: usize) -> Vec<u8> {
    (0..len).map(|at| 0x80 | at as u8).collect()
}

/// The command with these types, this length of the key, and these bytes of it.
fn command(types: u32, len: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from([net::CTRL_MQ, net::CTRL_MQ_HASH_CONFIG]);
    bytes.extend(types.to_le_bytes());
    // What Linux leaves in the bytes without a meaning: the number of its queues.
    bytes.extend([0, 0, 0, 0, 0, 0, 1, 0]);
    bytes.push(len);
    bytes.extend(key);
    bytes
}

fn execute(machine: &mut Machine, ram: &Ram, driver: &mut NetDriver, bytes: &[u8]) -> u8 {
    driver.command(machine, ram, bytes);
    machine.serve_nic(ram);
    driver.answer(ram).unwrap()
}

fn ask(machine: &mut Machine, ram: &Ram, driver: &mut NetDriver, types: u32) {
    let bytes = command(types, 40, &key(40));
    assert_eq!(execute(machine, ram, driver, &bytes), net::CTRL_OK);
}

fn deliver(machine: &mut Machine, ram: &Ram, frame: &[u8], arrived: Arrived) {
    let mut parcel = Parcel::private(frame);
    assert_eq!(machine.deliver(ram, &mut parcel, arrived), Ok(()));
    machine.publish(ram);
}

fn hashed(kind: HashKind, value: u32) -> Arrived {
    Arrived::default().with_hash(Some(FlowHash { value, kind }))
}

#[test]
fn v_5_1_4_hashes_are_offered_where_the_host_makes_them() {
    let some = HashKinds::of(|kind| matches!(kind, HashKind::Ipv4 | HashKind::TcpIpv6));
    for (hash, types) in [
        (HashKinds::empty(), 0),
        (some, 0x11),
        (HashKinds::of(|_| true), ALL_TYPES),
    ] {
        let (mut machine, _, driver) = set_up_with(hash, u64::MAX);
        let bits = feature::NET_HASH_REPORT | feature::NET_CTRL_VQ;
        let offered = if types == 0 { 0 } else { bits };
        assert_eq!(driver.features & bits, offered);
        assert_eq!(driver.features & feature::NET_MQ, 0);
        // Of one pair: the control queue is the third.
        let queues = 2 + u64::from(types != 0);
        assert_eq!(driver.read(&mut machine, common::NUM_QUEUES, 2), queues);
        let mut field = |at, size| driver.device_config(&mut machine, at, size);
        assert_eq!(field(net::CONFIG_HASH_TYPES, 4), types.into());
        let longest = if types == 0 { 0 } else { 40 };
        assert_eq!(field(net::CONFIG_MAX_KEY, 1), longest);
        // No table: where frames go is not the driver's to say.
        assert_eq!(field(18, 2), 0);
        assert_eq!(field(net::CONFIG_MAX_PAIRS, 2), 1);
    }
}

#[test]
fn v_5_1_6_4_4_the_hash_and_its_kind_are_told() {
    let (mut machine, ram, mut driver) = set_up();
    driver.fill_rx(&mut machine, &ram);
    for asked in [0, ALL_TYPES, 0b01_0010, 1, 0] {
        // At first nothing is asked for, and nothing was told yet either.
        if asked != 0 || machine.hash_request().is_some() {
            ask(&mut machine, &ram, &mut driver, asked);
        }
        for (kind, report) in REPORTS {
            for value in [0xdead_beef, 0, u32::MAX] {
                let sent = frame(60, report as u8);
                deliver(&mut machine, &ram, &sent, hashed(kind, value));
                let told = asked & 1 << (report - 1) != 0;
                let expected = if told { (value, report) } else { (0, 0) };
                let (head, hash, got) = driver.receive_with_hash(&ram).unwrap();
                assert_eq!((hash, got), (Some(expected), sent), "{asked:x} {kind:?}");
                assert_eq!(head, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            }
        }
        // A frame without one.
        deliver(&mut machine, &ram, &frame(60, 1), Arrived::default());
        let (_, hash, _) = driver.receive_with_hash(&ram).unwrap();
        assert_eq!(hash, Some((0, net::HASH_REPORT_NONE)));
        driver.fill_rx(&mut machine, &ram);
    }
    assert_eq!(machine.counters().rx_dropped, 0);
}

#[test]
fn v_5_1_6_a_driver_that_did_not_agree_has_a_header_as_ever() {
    let (mut machine, ram, mut driver) =
        set_up_with(HashKinds::of(|_| true), !feature::NET_HASH_REPORT);
    assert_ne!(driver.features & feature::NET_CTRL_VQ, 0);
    driver.fill_rx(&mut machine, &ram);
    let sent = frame(60, 3);
    deliver(&mut machine, &ram, &sent, hashed(HashKind::TcpIpv4, 1));
    let (_, hash, got) = driver.receive_with_hash(&ram).unwrap();
    assert_eq!((hash, &got), (None, &sent));
    assert!(driver.send(&mut machine, &ram, &sent));
    let mut buf = [0; 100];
    assert_eq!(machine.take_tx(&ram, &mut buf), Some(60));
    assert_eq!(buf[..60], sent);
}

/// A frame that was joined, in several buffers: all of the header is in the first.
#[test]
fn v_5_1_6_3_1_the_first_buffer_holds_the_whole_header() {
    let (mut machine, ram, mut driver) = set_up();
    ask(&mut machine, &ram, &mut driver, ALL_TYPES);
    driver.fill_rx(&mut machine, &ram);
    let sent = tcp(5000);
    let arrived = Arrived::of_joined(Headers::of(&sent).unwrap());
    let hash = FlowHash {
        value: 7,
        kind: HashKind::TcpIpv4,
    };
    deliver(&mut machine, &ram, &sent, arrived.with_hash(Some(hash)));
    let (head, hash, got) = driver.receive_with_hash(&ram).unwrap();
    assert_eq!((hash, got == sent), (Some((7, 2)), true));
    assert_eq!((head[0], head[1]), (net::FLAG_NEEDS_CSUM, net::GSO_TCPV4));
    // 5074 bytes in buffers of 2048.
    assert_eq!(head[net::HEADER_NUM_BUFFERS], 3);

    for (first, fits) in [(20, true), (19, false)] {
        let (mut machine, ram, driver) = set_up();
        let (desc, avail, _) = driver.rings(net::QUEUE_RX);
        for (index, len) in [(0, first), (1, 1000)] {
            ram.set::<8>(desc + 16 * index, 0x1000 * (index + 1));
            ram.set::<4>(desc + 16 * index + 8, len);
            ram.set::<2>(desc + 16 * index + 12, queue::DESC_WRITE.into());
            ram.set::<2>(avail + 4 + 2 * index, index);
        }
        ram.set::<2>(avail + 2, 2);
        deliver(&mut machine, &ram, &frame(60, 1), Arrived::default());
        assert_eq!(machine.counters().rx_frames, u64::from(fits), "{first}");
        assert_eq!(machine.counters().rx_dropped, u64::from(!fits));
    }
}

#[test]
fn v_5_1_6_2_the_header_of_sent_frames_is_as_long() {
    let (mut machine, ram, mut driver) = set_up();
    let mut buf = [0; 4000];
    let sent = tcp(2000 - 54);
    // A segment's fields lie where they always do; a hash is not looked at.
    let mut header = Vec::from([1, 1, 0, 0]);
    for field in [1000_u16, 34, 16, 0, 0x5555, 0x5555, 0x5555, 0x5555] {
        header.extend(field.to_le_bytes());
    }
    assert_eq!(header.len(), net::HASH_HEADER_LEN);
    assert!(driver.send_with(&mut machine, &ram, &header, &sent));
    let (len, task) = machine.take_frame(&ram, &mut buf).unwrap();
    assert_eq!(buf[..len], sent);
    assert!(matches!(
        task.kind(),
        validate::frame::TaskKind::Segments(_, 1000)
    ));
    // Split, the hash's fields among the pieces.
    assert!(driver.send_with(&mut machine, &ram, &header, &sent));
    let (desc, avail, _) = driver.rings(net::QUEUE_TX);
    let slot = ram.get::<2>(avail + queue::IDX_OFFSET) - 1;
    let head = ram.get::<2>(avail + queue::RING_OFFSET + 2 * slot);
    let address = ram.get::<8>(desc + 16 * head);
    let cuts = [0, 11, 12, 17, 30, 20 + sent.len() as u64];
    for (index, cut) in (0..).zip(cuts.windows(2)) {
        let at = desc + 16 * if index == 0 { head } else { 100 + index };
        ram.set::<8>(at, address + cut[0]);
        ram.set::<4>(at + 8, cut[1] - cut[0]);
        let more = index + 2 != cuts.len() as u64;
        ram.set::<2>(at + 12, u64::from(more) * u64::from(queue::DESC_NEXT));
        ram.set::<2>(at + 14, 101 + index);
    }
    buf.fill(0);
    let (len, _) = machine.take_frame(&ram, &mut buf).unwrap();
    assert_eq!(buf[..len], sent);
    // The shortest frame, and one that is none: 20 bytes of header and 13.
    for (len, taken) in [(14, Some(14)), (13, None)] {
        assert!(driver.send(&mut machine, &ram, &frame(len, 1)));
        assert_eq!(machine.take_tx(&ram, &mut buf), taken);
    }
    assert_eq!(machine.counters().tx_dropped, 1);
}

#[test]
fn v_5_1_6_5_6_4_the_driver_says_how_hashes_are_made() {
    let (mut machine, ram, mut driver) = set_up();
    machine.take_nic_events();
    assert_eq!(machine.hash_request(), None);
    ask(&mut machine, &ram, &mut driver, ALL_TYPES);
    // That of the control queue.
    assert_eq!(driver.take_interrupt(&mut machine), Some(VECTORS[0] + 3));
    assert!(machine.take_nic_events().hash_changed);
    assert!(!machine.take_nic_events().hash_changed);
    let mut whole = [0; 40];
    whole.copy_from_slice(&key(40));
    let all = HashRequest {
        kinds: HashKinds::of(|_| true),
        key: whole,
    };
    assert_eq!(machine.hash_request(), Some(all));
    // A shorter key goes on with zeros; bytes behind it are not looked at.
    for (len, given) in [(16, 40), (16, 16), (1, 1), (0, 0), (0, 50), (40, 60)] {
        let bytes = command(2, len, &key(given));
        let answer = execute(&mut machine, &ram, &mut driver, &bytes);
        assert_eq!(answer, net::CTRL_OK, "{len} {given}");
        assert!(machine.take_nic_events().hash_changed);
        let request = machine.hash_request().unwrap();
        assert_eq!(
            request.kinds,
            HashKinds::of(|kind| kind == HashKind::TcpIpv4)
        );
        let (own, rest) = request.key.split_at(len.into());
        assert_eq!(own, key(len.into()));
        assert!(rest.iter().all(|byte| *byte == 0));
    }
    // No type: no hashes any more.
    ask(&mut machine, &ram, &mut driver, 0);
    assert!(machine.take_nic_events().hash_changed);
    assert_eq!(machine.hash_request(), None);
    assert_eq!(machine.counters().nic_broken, 0);
}

/// As Linux lays it out (`virtnet_commit_rss_command`): head, types and two fields of no
/// meaning here, another one, another with the key's length, key, answer.
#[test]
fn v_5_1_6_5_6_4_the_command_may_be_split_anywhere() {
    let (mut machine, ram, mut driver) = set_up();
    ask(&mut machine, &ram, &mut driver, 1);
    let before = machine.hash_request().unwrap();
    let bytes = command(ALL_TYPES, 40, &key(40));
    let (desc, avail, used) = driver.rings(2);
    let mut at = 0x1000;
    ram.write(at, &bytes).unwrap();
    let lens = [2, 8, 2, 3, 40, 1];
    for (index, len) in (0..).zip(lens) {
        ram.set::<8>(desc + 16 * index, at);
        ram.set::<4>(desc + 16 * index + 8, len);
        let flags = match index {
            5 => queue::DESC_WRITE,
            _ => queue::DESC_NEXT,
        };
        ram.set::<2>(desc + 16 * index + 12, flags.into());
        ram.set::<2>(desc + 16 * index + 14, index + 1);
        at += len;
    }
    assert_eq!(at, 0x1000 + bytes.len() as u64 + 1);
    ram.set::<1>(at - 1, 0xaa);
    ram.set::<2>(avail + queue::RING_OFFSET + 2, 0);
    ram.set::<2>(avail + queue::IDX_OFFSET, 2);
    machine.mmio_write(driver.bar() + 0x3000 + 8, 2, 2, 0);
    machine.serve_nic(&ram);
    assert_eq!(ram.get::<2>(used + queue::IDX_OFFSET), 2);
    assert_eq!(ram.get::<1>(at - 1), net::CTRL_OK.into());
    let after = machine.hash_request().unwrap();
    assert_eq!(after.kinds, HashKinds::of(|_| true));
    assert_eq!(after.key, before.key);
}

/// What the driver may not ask for changes nothing.
#[test]
fn v_5_1_6_5_6_4_what_is_not_offered_is_refused() {
    let some = HashKinds::of(|kind| matches!(kind, HashKind::Ipv4 | HashKind::TcpIpv4));
    let (mut machine, ram, mut driver) = set_up_with(some, u64::MAX);
    ask(&mut machine, &ram, &mut driver, 0b11);
    let before = machine.hash_request();
    assert!(before.is_some());
    machine.take_nic_events();
    let mut refused = Vec::from([
        // Types that the card does not offer, or that nobody knows.
        command(0b111, 40, &key(40)),
        command(0b100, 40, &key(40)),
        command(1 << 6 | 1, 40, &key(40)),
        command(u32::MAX, 40, &key(40)),
        // A key that is too long, or not there.
        command(0b11, 41, &key(41)),
        command(0b11, u8::MAX, &key(255)),
        command(0b11, 40, &key(39)),
        command(0, 40, &[]),
        command(0b11, 1, &[]),
    ]);
    let whole = command(0b11, 0, &[]);
    refused.extend((2..whole.len()).map(|len| whole[..len].to_vec()));
    for bytes in refused {
        let answer = execute(&mut machine, &ram, &mut driver, &bytes);
        assert_eq!(answer, net::CTRL_ERR, "{bytes:?}");
        assert_eq!(machine.hash_request(), before);
        assert!(!machine.take_nic_events().hash_changed);
    }
    // Where frames go is not the driver's to say; pairs cannot be chosen of one.
    for code in [0, 1, 3, 255] {
        let mut bytes = command(0b1, 40, &key(40));
        bytes[1] = code;
        let answer = execute(&mut machine, &ram, &mut driver, &bytes);
        assert_eq!(answer, net::CTRL_ERR, "{code}");
    }
    assert_eq!(machine.hash_request(), before);
    assert_eq!(machine.counters().nic_broken, 0);
}

#[test]
fn v_2_4_1_a_reset_ends_what_the_driver_asked_for() {
    let (mut machine, ram, mut driver) = set_up();
    ask(&mut machine, &ram, &mut driver, ALL_TYPES);
    machine.take_nic_events();
    driver.write(&mut machine, common::DEVICE_STATUS, 1, 0);
    let events = machine.take_nic_events();
    assert!(events.reset && events.hash_changed);
    assert_eq!(machine.hash_request(), None);
    let sent = frame(60, 1);
    assert_eq!(machine.deliver_rx(&ram, &sent), Err(NoBuffer));
    // The next driver has asked for nothing, whatever still comes with a frame.
    let mut driver = NetDriver::start(&mut machine, &ram, BASE, u64::MAX);
    driver.fill_rx(&mut machine, &ram);
    deliver(&mut machine, &ram, &sent, hashed(HashKind::Ipv4, 9));
    let (_, hash, _) = driver.receive_with_hash(&ram).unwrap();
    assert_eq!(hash, Some((0, 0)));
    // Another reset has nothing to end.
    machine.take_nic_events();
    driver.write(&mut machine, common::DEVICE_STATUS, 1, 0);
    let events = machine.take_nic_events();
    assert!(events.reset && !events.hash_changed);
    // Without the feature the header is as ever.
    let wanted = feature::NET_CTRL_VQ;
    let mut driver = NetDriver::start(&mut machine, &ram, BASE, wanted);
    driver.fill_rx(&mut machine, &ram);
    deliver(&mut machine, &ram, &sent, hashed(HashKind::Ipv4, 9));
    assert_eq!(driver.receive(&ram), Some(sent));
}
