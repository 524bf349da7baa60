//! Checksums, segmentation and tags. What the card made is judged by sums that are
//! worked out here in another way; what it leaves to others by what it hands on.

use super::{frame, set_up};
use crate::test_support::e1000e::{E1000eDriver, RxShape};
use crate::test_support::{Ram, config};
use abi::e1000e::{ctrl, reg, tx};
use validate::frame::{Headers, MAX_SEGMENTED, Task, TaskKind};

/// Where the transport header starts, behind IPv4 and IPv6.
const V4: usize = 34;
const V6: usize = 54;

/// Ones' complement sum by definition: add, carry around.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    bytes.chunks(2).fold(0u16, |total, pair| {
        let value = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
        let (total, carry) = total.overflowing_add(value);
        total + u16::from(carry)
    })
}

/// A TCP packet; its checksum field holds the pseudo header's sum, as drivers leave it.
fn packet(v6: bool, payload: &[u8], with_length: bool) -> Vec<u8> {
    let mut packet = frame(14, 0);
    let tcp = 20 + payload.len();
    let addresses: Vec<u8>;
    if v6 {
        packet[12..14].copy_from_slice(&[0x86, 0xdd]);
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(((tcp % 65536) as u16).to_be_bytes());
        packet.extend([6, 64]);
        addresses = (0..32).collect();
        packet.extend(&addresses);
    } else {
        packet.extend([0x45, 0]);
        packet.extend((((20 + tcp) % 65536) as u16).to_be_bytes());
        packet.extend([0xff, 0xfe, 0x40, 0, 64, 6, 0, 0]);
        addresses = vec![10, 0, 2, 15, 10, 0, 2, 2];
        packet.extend(&addresses);
    }
    let start = packet.len();
    packet.extend([0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1]);
    // Header of 20 bytes; CWR, ACK, PSH and FIN.
    packet.extend([0x50, 0x99, 0x20, 0, 0, 0, 0, 0]);
    packet.extend(payload);
    let length = if with_length { tcp as u16 } else { 0 };
    let pseudo = sum(&[&addresses, &[0, 6], &length.to_be_bytes()]);
    packet[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
    packet
}

/// Whether the sums of a frame are right.
fn assert_sums(frame: &[u8], v6: bool) {
    let (start, addresses) = if v6 { (V6, 22..54) } else { (V4, 26..34) };
    if !v6 {
        assert_eq!(sum(&[&frame[14..34]]), 0xffff, "IPv4 header");
        let length = u16::from_be_bytes([frame[16], frame[17]]);
        assert_eq!(usize::from(length), frame.len() - 14);
    } else {
        let length = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(usize::from(length), frame.len() - 54);
    }
    let length = ((frame.len() - start) as u16).to_be_bytes();
    let whole = sum(&[&frame[addresses], &[0, 6], &length, &frame[start..]]);
    assert_eq!(whole, 0xffff, "TCP");
}

/// The context that Linux's `e1000_tso` and `e1000_tx_csum` write.
fn context(driver: &mut E1000eDriver, ram: &Ram, v6: bool, cut: u16) {
    let start = if v6 { V6 } else { V4 } as u32;
    let ip = if v6 {
        14 | 24 << 8
    } else {
        14 | 24 << 8 | 33 << 16
    };
    let lower = tx::CONTEXT_TCP | if v6 { 0 } else { tx::CONTEXT_IPV4 };
    let transport = start | (start + 16) << 8;
    let last = (start + 20) << 8 | u32::from(cut) << 16;
    driver.push_context(ram, ip, transport, lower, last);
}

const DATA: u32 = tx::DEXT | tx::KIND_DATA << tx::KIND_SHIFT;

#[test]
fn checksums_are_inserted_or_handed_on() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = [0; 1600];
    for len in [0, 1, 2, 77, 1000, 1439, 1440] {
        for v6 in [false, true] {
            let payload = frame(len, 3);
            let options = tx::TXSM | if v6 { 0 } else { tx::IXSM };
            context(&mut driver, &ram, v6, 0);
            let packet = packet(v6, &payload, true);
            driver.push_packet(&ram, &packet, 50, DATA, options);
            driver.ring_tx(&mut machine);
            let (got, task) = machine.take_frame(&ram, &mut buf).unwrap();
            assert_eq!(got, packet.len(), "{len} {v6}");
            // The pseudo header's sum stands where TCP's is to be.
            let headers = Headers::of(&packet).unwrap();
            assert_eq!(task.kind(), TaskKind::Checksum(headers));
            let tcp = headers.transport_at();
            assert_eq!(buf[tcp..got], packet[tcp..]);
            let finished = !sum(&[&buf[tcp..got]]);
            buf[tcp + 16..tcp + 18].copy_from_slice(&finished.to_be_bytes());
            assert_sums(&buf[..got], v6);
            driver.reap_tx(&ram);
        }
    }
    // A sum that ends before the frame does is not TCP's: made here.
    let lower = tx::CONTEXT_TCP | tx::CONTEXT_IPV4;
    driver.push_context(&ram, 14, 34 | 50 << 8 | 59 << 16, lower, 0);
    let short = packet(false, &[7; 99], true);
    driver.push_packet(&ram, &short, 2000, DATA, tx::TXSM);
    driver.ring_tx(&mut machine);
    let sent = machine.take_frame(&ram, &mut buf);
    assert_eq!(sent, Some((short.len(), Task::PLAIN)));
    assert_eq!(sum(&[&buf[34..60]]), {
        // What was in its place is part of the sum, and gone from the frame.
        sum(&[&(!sum(&[&short[50..52]])).to_be_bytes()])
    });
    // Legacy: start 34, place 50, to the end.
    let mut packet = packet(false, &[7; 99], true);
    let header = !sum(&[&packet[14..34]]);
    packet[24..26].copy_from_slice(&header.to_be_bytes());
    driver.push_packet(&ram, &packet, 2000, tx::IC | 50 << 16, 34 << 8);
    driver.ring_tx(&mut machine);
    let sent = machine.take_frame(&ram, &mut buf);
    assert_eq!(sent, Some((packet.len(), Task::PLAIN)));
    assert_sums(&buf[..packet.len()], false);
    assert_eq!(machine.counters().tx_dropped, 0);
}

#[test]
fn packets_to_be_cut_are_handed_on() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = vec![0; MAX_SEGMENTED];
    let (mut segments, mut octets) = (0, 0);
    for (len, cut) in [(1440, 1440), (1441, 1440), (10_000, 1400), (65_000, 1440)] {
        for v6 in [false, true] {
            let payload = frame(len, 9);
            // As Linux leaves it: no length, and none in the pseudo header.
            let mut whole = packet(v6, &payload, false);
            let length_at = if v6 { 18 } else { 16 };
            whole[length_at..length_at + 2].fill(0);
            context(&mut driver, &ram, v6, cut);
            let options = tx::TXSM | if v6 { 0 } else { tx::IXSM };
            driver.push_packet(&ram, &whole, 2000, DATA | tx::TSE, options);
            driver.ring_tx(&mut machine);
            let (got, task) = machine.take_frame(&ram, &mut buf).unwrap();
            assert_eq!(got, whole.len());
            let headers = Headers::of(&whole).unwrap();
            let kind = match len > usize::from(cut) {
                true => TaskKind::Segments(headers, cut),
                false => TaskKind::Checksum(headers),
            };
            assert_eq!(task.kind(), kind);
            // Now it says its length, and its sum is that of a whole packet's start.
            let expected = packet(v6, &payload, true);
            let tcp = headers.transport_at();
            assert_eq!(buf[tcp..got], expected[tcp..]);
            let finished = !sum(&[&buf[tcp..got]]);
            buf[tcp + 16..tcp + 18].copy_from_slice(&finished.to_be_bytes());
            assert_sums(&buf[..got], v6);
            assert!(machine.take_frame(&ram, &mut buf).is_none());
            assert_eq!(driver.reap_tx(&ram), 1);
            let count = len.div_ceil(usize::from(cut));
            segments += count;
            octets += len + count * (tcp + 20 + 4);
        }
    }
    assert_eq!(machine.counters().tx_dropped, 0);
    // Packets once, segments each, their bytes with headers and FCS.
    assert_eq!(driver.read(&mut machine, 0x40f8), 8);
    assert_eq!(driver.read(&mut machine, 0x4080) as usize, segments);
    assert_eq!(driver.read(&mut machine, 0x4090) as usize, octets);
    assert_eq!(driver.read(&mut machine, 0x40f8), 0);
}

#[test]
fn a_tag_moves_what_is_left_to_do() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = vec![0; MAX_SEGMENTED];
    let value = driver.read(&mut machine, reg::CTRL);
    driver.write(&mut machine, reg::CTRL, value | ctrl::VME);
    let whole = packet(false, &[5; 3000], false);
    context(&mut driver, &ram, false, 1400);
    let (lower, tag) = (DATA | tx::TSE | tx::VLE, 0x6005 << 16);
    driver.push_packet(&ram, &whole, 4000, lower, tx::TXSM | tx::IXSM | tag);
    driver.ring_tx(&mut machine);
    let (got, task) = machine.take_frame(&ram, &mut buf).unwrap();
    let headers = Headers::of(&buf[..got]).unwrap();
    assert!(headers.tagged());
    assert_eq!(buf[12..18], [0x81, 0, 0x60, 0x05, 8, 0]);
    assert_eq!(task.kind(), TaskKind::Segments(headers, 1400));
}

#[test]
fn a_packet_may_be_announced_in_parts() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = [0; 1600];
    let whole = frame(1000, 4);
    driver.push_packet(&ram, &whole, 400, 0, 0);
    for tail in [1, 2] {
        driver.write(&mut machine, reg::TDT, tail);
        assert_eq!(machine.take_frame(&ram, &mut buf), None);
        // The owner uses its buffer for something else.
        buf.fill(0xee);
    }
    driver.ring_tx(&mut machine);
    let sent = machine.take_frame(&ram, &mut buf);
    assert_eq!(sent, Some((1000, Task::PLAIN)));
    assert_eq!(buf[..1000], whole);
}

#[test]
fn tags_are_put_on_and_taken_off() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = [0; 1600];
    let plain = frame(100, 1);
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x60, 0x05]);
    driver.fill_rx(&mut machine, &ram);
    for stripping in [false, true] {
        let value = driver.read(&mut machine, reg::CTRL) & !ctrl::VME;
        let mode = if stripping { ctrl::VME } else { 0 };
        driver.write(&mut machine, reg::CTRL, value | mode);
        driver.push_packet(&ram, &plain, 2000, tx::VLE, 0x6005 << 16);
        driver.ring_tx(&mut machine);
        let sent = machine.take_tx(&ram, &mut buf).unwrap();
        let expected = if stripping { &tagged } else { &plain };
        assert_eq!(&buf[..sent], expected);
        assert_eq!(machine.deliver_rx(&ram, &tagged), Ok(()));
        let expected = if stripping {
            (plain.clone(), Some(0x6005))
        } else {
            (tagged.clone(), None)
        };
        assert_eq!(driver.receive(&ram), Some(expected));
    }
}

#[test]
fn what_makes_no_sense_is_dropped_and_the_next_packet_goes() {
    let (mut machine, ram, mut driver) = set_up(RxShape::Extended);
    let mut buf = [0; 1600];
    let whole = packet(false, &[1; 1500], false);
    let mut dropped = 0;
    // Header length, segment size, IP start, transport start, place of its sum.
    for (header, cut, ip, start, place) in [
        (54, 0, 14, 34, 50),
        (53, 100, 14, 34, 50),
        (255, 100, 14, 250, 50),
        (54, 1500, 14, 34, 251),
        (54, 100, 15, 34, 50),
        (54, 100, 255, 34, 50),
        (0, 100, 0, 0, 0),
        (54, 47, 14, 34, 50),
        (54, 1465, 14, 34, 50),
    ] {
        let ip = ip | 24 << 8 | 33 << 16;
        let lower = tx::CONTEXT_TCP | tx::CONTEXT_IPV4;
        let last = header << 8 | cut << 16;
        let options = tx::TXSM | tx::IXSM;
        driver.push_context(&ram, ip, start | place << 8, lower, last);
        let bytes = if place == 251 { &whole[..200] } else { &whole };
        driver.push_packet(&ram, bytes, 2000, DATA | tx::TSE, options);
        driver.push_packet(&ram, &frame(60, 1), 2000, 0, 0);
        driver.ring_tx(&mut machine);
        assert_eq!(machine.take_tx(&ram, &mut buf), Some(60));
        dropped += 1;
        assert_eq!(machine.counters().tx_dropped, dropped, "{header} {cut}");
        driver.reap_tx(&ram);
    }
    // A sum outside of the frame, a kind of descriptor that is none, frames that are
    // too short, too long, and longer than any packet.
    driver.push_packet(&ram, &frame(60, 1), 2000, tx::IC | 59 << 16, 0);
    driver.push_packet(&ram, &frame(60, 1), 2000, tx::DEXT | 5 << tx::KIND_SHIFT, 0);
    driver.push_packet(&ram, &frame(13, 1), 2000, 0, 0);
    driver.push_packet(&ram, &frame(1519, 1), 2000, 0, 0);
    driver.push_packet(&ram, &[2; 70_000], 2000, 0, 0);
    driver.push_packet(&ram, &frame(1518, 1), 2000, 0, 0);
    driver.ring_tx(&mut machine);
    assert_eq!(machine.take_tx(&ram, &mut buf), Some(1518));
    assert_eq!(machine.counters().tx_dropped, dropped + 5);
    assert_eq!(config().mtu, 1500);
}
