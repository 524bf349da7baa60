//! Frames that the guest has not finished, seen from the host.

use super::*;
use abi::rndis::ppi;
use validate::frame::{Headers, Network, PartialSum, Request, Task, fold, sum};

/// A large send of `payload` bytes of TCP, as a guest's driver hands it over: whole
/// lengths, the sum of the pseudo header in place of TCP's. `tagged`: VLAN 5.
fn large(network: Network, tagged: bool, payload: usize) -> Vec<u8> {
    let ip = match network {
        Network::V4 => 20,
        Network::V6 => 40,
    };
    let mut frame = alloc::vec![0u8; 14 + ip + 32];
    frame[..6].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 9]);
    frame[6..12].copy_from_slice(&MAC);
    let tcp = 14 + ip;
    match network {
        Network::V4 => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[14] = 0x45;
            let length = (20 + 32 + payload) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[18..20].copy_from_slice(&0xFFFEu16.to_be_bytes());
            frame[22..24].copy_from_slice(&[64, 6]);
            frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        }
        Network::V6 => {
            frame[12..14].copy_from_slice(&[0x86, 0xDD]);
            frame[14] = 0x60;
            let length = (32 + payload) as u16;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame[20..22].copy_from_slice(&[6, 64]);
            for (n, byte) in frame[22..54].iter_mut().enumerate() {
                *byte = n as u8 ^ 0xFD;
            }
        }
    }
    frame[tcp + 4..tcp + 8].copy_from_slice(&0xFFFF_F000u32.to_be_bytes());
    frame[tcp + 12] = 0x80;
    // CWR, ACK, PSH, FIN.
    frame[tcp + 13] = 0x99;
    frame.extend((0..payload).map(|n| (n * 7 % 251) as u8));
    let headers = Headers::of(&frame).unwrap();
    let pseudo = headers.pseudo_sum(&frame, (32 + payload) as u32);
    frame[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    if tagged {
        frame.splice(12..12, [0x81, 0x00, 0xB0, 0x05]);
    }
    frame
}

fn task(frame: &[u8], segment: Option<(Network, u16)>) -> Task {
    let headers = Headers::of(frame).unwrap();
    let request = Request {
        sum: Some(PartialSum {
            start: headers.transport_at() as u16,
            offset: 16,
        }),
        segment,
    };
    Task::judge(&request, frame).unwrap()
}

/// What the host reads of one message: its elements and its frame.
type Read = (Vec<(u32, u32)>, Vec<u8>);

fn read(bytes: &[u8]) -> Read {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((word(0), word(4)), (1, bytes.len()));
    let notes = bytes[8 + word(28)..][..word(32)]
        .chunks(16)
        .map(|element| {
            let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
            assert_eq!((word(0), word(8)), (16, 12));
            (word(4), word(12))
        })
        .collect();
    let frame = bytes[8 + word(8)..].to_vec();
    assert_eq!(frame.len(), word(12));
    (notes, frame)
}

/// The host's part of the work on one message: finished frames, tag put back.
fn finish((notes, frame): Read) -> Vec<Vec<u8>> {
    let note = |kind| notes.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v);
    let headers = Headers::of(&frame).unwrap();
    let tcp = headers.transport_at();
    let mut out = Vec::new();
    match (note(ppi::LSO), note(ppi::CHECKSUM)) {
        (Some(value), None) => {
            let size = (value & 0xF_FFFF) as usize;
            assert_eq!((value >> 20 & 0x3FF) as usize, tcp);
            assert_eq!(value >> 30 & 1, 1);
            assert_eq!(value >> 31 == 1, headers.network() == Network::V6);
            // Lengths are zero, the sum is that of the pseudo header.
            let length = if value >> 31 == 1 { 18 } else { 16 };
            assert_eq!(frame[length..length + 2], [0, 0]);
            assert_eq!(
                frame[tcp + 16..tcp + 18],
                headers.pseudo_sum(&frame, 0).to_be_bytes()
            );
            let payload = &frame[headers.payload_at()..];
            assert!(payload.len() > size);
            let count = payload.len().div_ceil(size);
            for (n, part) in payload.chunks(size).enumerate() {
                let mut segment = frame[..headers.payload_at()].to_vec();
                segment.extend(part);
                let first = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().unwrap());
                let sequence = first.wrapping_add((n * size) as u32);
                segment[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
                if headers.network() == Network::V4 {
                    let id = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(n as u16);
                    segment[18..20].copy_from_slice(&id.to_be_bytes());
                    let length = (segment.len() - 14) as u16;
                    segment[16..18].copy_from_slice(&length.to_be_bytes());
                    let header = !fold(sum(&segment[14..34]));
                    segment[24..26].copy_from_slice(&header.to_be_bytes());
                } else {
                    let length = (segment.len() - tcp) as u16;
                    segment[18..20].copy_from_slice(&length.to_be_bytes());
                }
                if n + 1 != count {
                    segment[tcp + 13] &= !0x09;
                }
                if n != 0 {
                    segment[tcp + 13] &= !0x80;
                }
                let length = (segment.len() - tcp) as u32;
                let pseudo = headers.pseudo_sum(&segment, length);
                segment[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
                let total = !fold(sum(&segment[tcp..]));
                segment[tcp + 16..tcp + 18].copy_from_slice(&total.to_be_bytes());
                out.push(segment);
            }
        }
        (None, Some(value)) => {
            let bits = if headers.network() == Network::V4 {
                5
            } else {
                6
            };
            assert_eq!(value, bits | (tcp as u32) << 16);
            let mut frame = frame.clone();
            let total = !fold(sum(&frame[tcp..]));
            frame[tcp + 16..tcp + 18].copy_from_slice(&total.to_be_bytes());
            out.push(frame);
        }
        (None, None) => out.push(frame.clone()),
        other => panic!("{other:?}"),
    }
    if let Some(tag) = note(ppi::IEEE_8021Q) {
        assert_eq!(tag, 0x5D, "priority 5, eligible, VLAN 5");
        for frame in &mut out {
            frame.splice(12..12, [0x81, 0x00, 0xB0, 0x05]);
        }
    }
    out
}

/// Every segment is a sound frame, and together they are what the guest sent.
fn sound(sent: &[u8], size: usize, segments: &[Vec<u8>]) {
    let whole = Headers::of(sent).unwrap();
    let count = segments.len();
    let mut payload: Vec<u8> = Vec::new();
    for (n, segment) in segments.iter().enumerate() {
        let headers = Headers::of(segment).unwrap();
        assert_eq!(headers, whole);
        let (ip, tcp) = (headers.network_at(), headers.transport_at());
        let part = &segment[headers.payload_at()..];
        assert!(part.len() == size || n + 1 == count && part.len() <= size);
        let word = |at: usize| usize::from(u16::from_be_bytes([segment[at], segment[at + 1]]));
        match headers.network() {
            Network::V4 => {
                assert_eq!(word(ip + 2), segment.len() - ip);
                assert_eq!(word(ip + 4), (0xFFFE + n) % 0x10000);
                assert_eq!(fold(sum(&segment[ip..tcp])), 0xFFFF, "sum of IP in {n}");
            }
            Network::V6 => assert_eq!(word(ip + 4), segment.len() - tcp),
        }
        let first = u32::from_be_bytes(segment[tcp + 4..tcp + 8].try_into().unwrap());
        assert_eq!(first, 0xFFFF_F000u32.wrapping_add(payload.len() as u32));
        let cwr = if n == 0 { 0x80 } else { 0 };
        let end = if n + 1 == count { 0x09 } else { 0 };
        assert_eq!(segment[tcp + 13], 0x10 | cwr | end, "flags of {n}");
        let length = (segment.len() - tcp) as u32;
        let total = u64::from(headers.pseudo_sum(segment, length)) + sum(&segment[tcp..]);
        assert_eq!(fold(total), 0xFFFF, "sum of TCP in {n} of {count}");
        assert_eq!(segment[..12], sent[..12]);
        payload.extend(part);
    }
    assert_eq!(payload, sent[whole.payload_at()..]);
}

fn without(change: impl FnOnce(&mut rndis::Offload)) -> Peer {
    let mut peer = Peer::new();
    change(&mut peer.offloads);
    peer.nic.start(peer.now);
    peer.settle();
    assert!(peer.nic.is_ready(), "{:?}", peer.nic.failed());
    peer
}

fn nothing(offloads: &mut rndis::Offload) {
    let header = offloads.header;
    *offloads = rndis::Offload {
        header,
        ..Default::default()
    };
}

/// Sends a frame, serving the host while there is no room. The messages that it took.
fn send(peer: &mut Peer, frame: &[u8], task: Task) -> Vec<Read> {
    let mut frame = frame.to_vec();
    let mut sending = Sending::new(task);
    let mut messages = Vec::new();
    for _ in 0..100 {
        let sent = peer
            .nic
            .transmit(&mut peer.channel, &mut frame, &mut sending, peer.now);
        for packet in peer.heard() {
            messages.extend(peer.frames_of(&packet).iter().map(|bytes| read(bytes)));
            peer.serve(&packet);
        }
        let _ = peer.poll();
        match sent {
            Ok(()) => return messages,
            Err(TransmitError::Full) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("never taken");
}

#[test]
fn rnd_69_segments_are_sound_whoever_cuts_them() {
    let hosts: [fn(&mut rndis::Offload); 3] = [
        |_| {},
        |offloads| {
            offloads.lso_v2.ipv4_max_size = 0.into();
            offloads.lso_v2.ipv6_encapsulation = 0.into();
        },
        nothing,
    ];
    for (host, change) in hosts.into_iter().enumerate() {
        let mut peer = without(change);
        for network in [Network::V4, Network::V6] {
            for tagged in [false, true] {
                for (payload, size) in [(1449, 1448), (5000, 1000), (65000, 1448), (2897, 1448)] {
                    let frame = large(network, tagged, payload);
                    let size = size - if network == Network::V6 { 20 } else { 0 };
                    let task = task(&frame, Some((network, size as u16)));
                    let messages = send(&mut peer, &frame, task);
                    // The host cuts what it can take whole: 62780 bytes over IPv4.
                    let most = match network {
                        Network::V4 => 62780,
                        Network::V6 => 65535,
                    };
                    let headers = frame.len() - payload;
                    let large = match host {
                        0 => payload.div_ceil((most - headers) / size * size),
                        _ => payload.div_ceil(size),
                    };
                    assert_eq!(messages.len(), large, "RND_69, {payload} by host {host}");
                    let segments: Vec<Vec<u8>> = messages.into_iter().flat_map(finish).collect();
                    assert_eq!(segments.len(), payload.div_ceil(size));
                    sound(&frame, size, &segments);
                }
            }
        }
        assert_eq!(peer.nic.outstanding(), 0);
        assert_eq!(counted(&peer, Rule::RND_69), 0);
    }
}

#[test]
fn a_sum_is_the_hosts_or_ours() {
    for (offered, change) in [(true, (|_| {}) as fn(&mut _)), (false, nothing)] {
        let mut peer = without(change);
        for network in [Network::V4, Network::V6] {
            let frame = large(network, false, 700);
            let task = task(&frame, None);
            let mut messages = send(&mut peer, &frame, task);
            let (notes, sent) = messages.remove(0);
            assert_eq!((notes.len(), messages.len()), (usize::from(offered), 0));
            let mut frames = finish((notes, sent));
            let frame = frames.remove(0);
            let headers = Headers::of(&frame).unwrap();
            let tcp = headers.transport_at();
            let pseudo = headers.pseudo_sum(&frame, (frame.len() - tcp) as u32);
            assert_eq!(fold(u64::from(pseudo) + sum(&frame[tcp..])), 0xFFFF);
        }
        // A sum somewhere else is ours in any case.
        let frame = frame(200, 3);
        let request = Request {
            sum: Some(PartialSum {
                start: 100,
                offset: 50,
            }),
            segment: None,
        };
        let task = Task::judge(&request, &frame).unwrap();
        let messages = send(&mut peer, &frame, task);
        let (notes, sent) = &messages[0];
        assert!(notes.is_empty());
        let total = !fold(sum(&frame[100..]));
        assert_eq!(sent[150..152], total.to_be_bytes());
        assert_eq!((&sent[..150], &sent[152..]), (&frame[..150], &frame[152..]));
    }
}

/// What is switched on is what the host has ("RND-58" bends it where it cannot be).
#[test]
fn rnd_58_what_is_switched_on() {
    let peer = without(|_| {});
    let set = peer.parameters.unwrap();
    assert_eq!(set.header.object_type, rndis::object::DEFAULT);
    assert_eq!((set.tcp_ipv4_checksum, set.udp_ipv6_checksum), (4, 4));
    assert_eq!((set.lso_v2_ipv4, set.lso_v2_ipv6), (2, 2));
    assert_eq!((set.lso_v1, set.ipsec_v1), (0, 0));
    let peer = without(|offloads| offloads.lso_v2.ipv4_max_size = 1.into());
    assert_eq!(counted(&peer, Rule::RND_58), 1);
    let set = peer.parameters.unwrap();
    assert_eq!((set.lso_v2_ipv4, set.lso_v2_ipv6), (1, 2));
    // A host with nothing is asked for nothing.
    assert!(without(nothing).parameters.is_none());
}

/// An answer that cannot be, a refusal of the query, or of the setting: a NIC
/// without offloads ("RND-57").
#[test]
fn rnd_57_without_a_usable_answer_there_are_no_offloads() {
    let peer = without(|offloads| offloads.header.size = 0xFFFF.into());
    assert_eq!(counted(&peer, Rule::RND_57), 1);
    assert_eq!(*peer.nic.offloads(), Default::default());
    for oid in [
        oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES,
        oid::TCP_OFFLOAD_PARAMETERS,
    ] {
        let mut peer = Peer::new();
        peer.refuse_oid = Some(oid);
        peer.nic.start(peer.now);
        peer.settle();
        assert!(peer.nic.is_ready());
        assert_eq!(*peer.nic.offloads(), Default::default());
        assert_eq!(counted(&peer, Rule::RND_41), 1);
    }
}

/// Pages of the send buffer, and sections that come back: all of them, and no frame
/// between two others.
#[test]
fn sys_09_nvs_22_large_messages_lie_in_the_send_buffer() {
    let mut peer = without(|_| {});
    peer.log.clear();
    peer.complete_transmits = false;
    let frame = large(Network::V6, false, 60000);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut sending = Sending::new(task(&frame, Some((Network::V6, 1428))));
        let mut copy = frame.clone();
        let taken = peer
            .nic
            .transmit(&mut peer.channel, &mut copy, &mut sending, peer.now);
        waiting.push(taken);
        for packet in peer.heard() {
            // Every page lies in the send buffer: `rndis` finds it nowhere else (SYS_09).
            assert_eq!((packet.kind, packet.flags), (9, 1));
            assert_eq!(read(&peer.rndis(&packet)).1.len(), frame.len());
        }
    }
    // Sixteen sections hold one such message and not two (NVS_22).
    assert_eq!(waiting[0], Ok(()));
    assert_eq!(waiting[1], Err(TransmitError::Full));
    assert_eq!(waiting[2], Err(TransmitError::Full));
    let small = super::frame(60, 1);
    for _ in 0..3 {
        peer.nic
            .transmit_plain(&mut peer.channel, &small, peer.now)
            .unwrap();
    }
    assert_eq!(peer.nic.counters().tx_refused, 0);
    let log = core::mem::take(&mut peer.log);
    for packet in log.iter().chain(&peer.heard()) {
        peer.complete(packet.id, messages::transmitted(1).as_bytes());
    }
    peer.settle();
    assert_eq!(peer.nic.outstanding(), 0);
    peer.complete_transmits = true;
    let task = task(&frame, Some((Network::V6, 1428)));
    assert_eq!(send(&mut peer, &frame, task).len(), 1);
}

/// A ring that is full in the middle of a frame: the rest follows, nothing twice.
#[test]
fn a_frame_goes_on_where_it_stopped() {
    let mut peer = Peer::new();
    nothing(&mut peer.offloads);
    peer.allowed = [3, 0xEFFF, 0];
    peer.nic.start(peer.now);
    peer.settle();
    let frame = large(Network::V4, false, 60000);
    let mut copy = frame.clone();
    let mut sending = Sending::new(task(&frame, Some((Network::V4, 500))));
    let mut messages = Vec::new();
    let mut full = 0;
    while let Err(error) = peer
        .nic
        .transmit(&mut peer.channel, &mut copy, &mut sending, peer.now)
    {
        assert_eq!(error, TransmitError::Full);
        full += 1;
        for packet in peer.heard() {
            messages.extend(peer.frames_of(&packet).iter().map(|bytes| read(bytes)));
            peer.serve(&packet);
        }
        let _ = peer.poll();
    }
    for packet in peer.heard() {
        messages.extend(peer.frames_of(&packet).iter().map(|bytes| read(bytes)));
    }
    // Fourteen sections at a time with three segments each, as the host allows here.
    assert_eq!((full, messages.len()), (2, 120));
    let segments: Vec<Vec<u8>> = messages.into_iter().flat_map(finish).collect();
    sound(&frame, 500, &segments);
    let counters = peer.nic.counters();
    assert_eq!((counters.tx_frames, counters.tx_messages), (1, 120));
}

/// Segments beyond the MTU and frames of no length that is sent.
#[test]
fn segments_that_do_not_fit_are_refused() {
    let mut peer = without(|_| {});
    let mut frame = large(Network::V4, false, 4000);
    for size in [1467, 3999] {
        let mut sending = Sending::new(task(&frame, Some((Network::V4, size))));
        let refused = peer
            .nic
            .transmit(&mut peer.channel, &mut frame, &mut sending, peer.now);
        assert_eq!(refused, Err(TransmitError::BadLength));
    }
    assert_eq!(peer.nic.counters().tx_refused, 2);
}
