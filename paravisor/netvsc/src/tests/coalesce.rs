//! Coalesced packets: asked for, joined, refused.

use super::*;
use abi::rndis::{offload_parameter, packet_id, ppi};
use validate::frame::{Headers, MAX_SEGMENTED, Network, fold, sum};

const PART: u8 = packet_id::SUB_ALLOCATION;
const FIRST: u8 = PART | packet_id::FIRST;
const LAST: u8 = PART | packet_id::LAST;
const VOUCHED: u32 = rndis::checksum::RX_TCP_SUCCEEDED;
/// Data of a fragment that fits a slot.
const SEGMENT: usize = 1448;

fn able() -> Peer {
    let mut peer = Peer::with(Config {
        coalescing: true,
        ..config()
    });
    (peer.offloads.rsc_ipv4, peer.offloads.rsc_ipv6) = (1, 1);
    peer.nic.start(peer.now);
    peer.settle();
    peer
}

/// A peer that was asked to coalesce.
fn ready() -> Peer {
    let mut peer = able();
    peer.nic.coalesce([true; 2]);
    peer.settle();
    assert!(!peer.nic.coalesce_due());
    peer.log.clear();
    peer
}

/// A frame of TCP with this many bytes of payload, as a host has it that joined it: with
/// the length of the whole and the sums of the first segment.
fn tcp(network: Network, payload: usize) -> Vec<u8> {
    let (kind, ip) = match network {
        Network::V4 => ([0x08, 0x00], 20),
        Network::V6 => ([0x86, 0xdd], 40),
    };
    let mut bytes = frame(14 + ip + 32 + payload, 3);
    bytes[12..14].copy_from_slice(&kind);
    let length = match network {
        Network::V4 => {
            bytes[14] = 0x45;
            bytes[20..22].fill(0);
            bytes[23] = 6;
            (2, ip + 32 + payload)
        }
        Network::V6 => {
            bytes[14] = 0x60;
            bytes[20] = 6;
            (4, 32 + payload)
        }
    };
    bytes[14 + length.0..16 + length.0].copy_from_slice(&(length.1 as u16).to_be_bytes());
    bytes[14 + ip + 12] = 0x80;
    bytes
}

/// One fragment, with elements for checksum and place, and perhaps a tag.
fn message(data: &[u8], flags: u8, id: u16, sums: u32, tag: Option<u32>) -> Vec<u8> {
    let [low, high] = id.to_le_bytes();
    let place = u32::from_le_bytes([1, flags, low, high]);
    let mut elements = Vec::new();
    let tag = tag.map(|tag| (ppi::IEEE_8021Q, tag));
    let fixed = [(ppi::CHECKSUM, sums), (ppi::PACKET_ID, place)];
    for (kind, value) in fixed.into_iter().chain(tag) {
        for word in [16, kind, 12, value] {
            elements.extend_from_slice(&u32::to_le_bytes(word));
        }
    }
    let mut bytes = packet(data);
    bytes[32..36].copy_from_slice(&(elements.len() as u32).to_le_bytes());
    bytes[44..44 + elements.len()].copy_from_slice(&elements);
    bytes
}

/// The messages of a frame that is cut as a host cuts it.
fn cut(frame: &[u8], id: u16, tag: Option<u32>) -> Vec<Vec<u8>> {
    let head = Headers::of(frame).unwrap().payload_at() + SEGMENT;
    let (first, rest) = frame.split_at(head.min(frame.len()));
    let parts: Vec<&[u8]> = [first].into_iter().chain(rest.chunks(SEGMENT)).collect();
    let last = parts.len() - 1;
    (parts.iter().enumerate())
        .map(|(n, part)| {
            let first = if n == 0 { packet_id::FIRST } else { 0 };
            let end = if n == last { packet_id::LAST } else { 0 };
            message(part, PART | first | end, id, VOUCHED, tag)
        })
        .collect()
}

fn send(peer: &mut Peer, id: u64, messages: &[Vec<u8>]) {
    let ranges: Vec<_> = messages.iter().map(|bytes| peer.slot(bytes)).collect();
    peer.transfer(id, 0, &ranges);
    peer.settle();
}

/// The frame with what the guest gets in the place of the sums.
fn finished(mut frame: Vec<u8>, tag: Option<[u8; 4]>) -> Vec<u8> {
    if let Some(tag) = tag {
        frame.splice(12..12, tag);
    }
    let headers = Headers::of(&frame).unwrap();
    let (ip, tcp) = (headers.network_at(), headers.transport_at());
    if headers.network() == Network::V4 {
        frame[ip + 10..ip + 12].fill(0);
        let total = !fold(sum(&frame[ip..tcp]));
        frame[ip + 10..ip + 12].copy_from_slice(&total.to_be_bytes());
    }
    let pseudo = headers.pseudo_sum(&frame, (frame.len() - tcp) as u32);
    frame[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

#[test]
fn the_host_is_asked_when_the_guest_can_and_told_when_it_cannot() {
    let mut peer = able();
    let config = peer.log.iter().find(|sent| sent.nvsp() == 125).unwrap();
    assert_eq!(config.word(12) & nvsp::capability::RSC as u32, 0x80);
    let first = peer.parameters.take().unwrap();
    assert_eq!((first.rsc_ipv4, first.rsc_ipv6), (1, 1));
    for (wanted, said) in [
        ([true, true], (2, 2)),
        ([true, false], (2, 1)),
        ([false, false], (1, 1)),
    ] {
        peer.nic.coalesce(wanted);
        peer.settle();
        let told = peer.parameters.take().unwrap();
        assert_eq!((told.rsc_ipv4, told.rsc_ipv6), said);
        assert_eq!(told.lso_v2_ipv4, offload_parameter::NO_CHANGE);
        assert_eq!(told.tcp_ipv4_checksum, offload_parameter::NO_CHANGE);
        peer.nic.coalesce(wanted);
        peer.settle();
        assert!(peer.parameters.is_none(), "said once");
    }
    // A host that refuses, or never answers, is asked no more.
    peer.refuse_oid = Some(oid::TCP_OFFLOAD_PARAMETERS);
    peer.nic.coalesce([true; 2]);
    peer.settle();
    assert!(peer.parameters.take().is_some() && peer.nic.is_ready());
    peer.mute = true;
    peer.nic.coalesce([false; 2]);
    peer.settle();
    assert!(peer.nic.next_deadline() <= Some(peer.now + limits::REQUEST_DEADLINE));
    peer.now += limits::REQUEST_DEADLINE + 1;
    let _ = peer.poll();
    assert_eq!(counted(&peer, Rule::RND_65), 1);
    assert!(peer.nic.is_ready() && !peer.nic.coalesce_due());
    // A host without it, and a card that cannot take it: not a word.
    for (rsc, coalescing) in [(0, true), (1, false)] {
        let mut peer = Peer::with(Config {
            coalescing,
            ..super::config()
        });
        (peer.offloads.rsc_ipv4, peer.offloads.rsc_ipv6) = (rsc, rsc);
        peer.nic.start(peer.now);
        peer.settle();
        peer.parameters = None;
        peer.nic.coalesce([true; 2]);
        peer.settle();
        assert!(peer.parameters.is_none() && !peer.nic.coalesce_due());
    }
}

/// Each of its bytes is read once ("RND-34"): the double changes what was read.
#[test]
fn rnd_34_fragments_become_one_frame() {
    let mut id = 0;
    for network in [Network::V4, Network::V6] {
        for payload in [1, SEGMENT, SEGMENT + 1, 10 * SEGMENT, 45 * SEGMENT - 40] {
            for tag in [None, Some(7 << 4)] {
                let mut peer = ready();
                id += 1;
                let frame = tcp(network, payload);
                let messages = cut(&frame, 9, tag);
                send(&mut peer, id, &messages);
                let expected = finished(frame, tag.map(|_| [0x81, 0, 0, 7]));
                assert_eq!(peer.frames.len(), 1, "{payload}");
                assert!(peer.frames[0] == expected, "{network:?} {payload} {tag:?}");
                assert_eq!(peer.joined[0], Headers::of(&expected));
                assert_eq!(statuses(&peer), [(id, status::SUCCESS)]);
                let counters = peer.nic.counters();
                let counted = (counters.rx_frames, counters.rx_coalesced);
                assert_eq!(counted, (1, 1));
                assert_eq!(counters.rx_fragments, messages.len() as u64);
                assert!(counters.validation.violations().next().is_none());
            }
        }
    }
    // Information behind the data: a message is copied whole then, and not joined.
    let mut peer = ready();
    let mut messages = cut(&tcp(Network::V4, 3 * SEGMENT), 1, None);
    let bytes = &mut messages[1];
    let elements = bytes[44..76].to_vec();
    let behind = bytes.len() as u32 - 8;
    bytes[28..32].copy_from_slice(&behind.to_le_bytes());
    bytes.extend_from_slice(&elements);
    let len = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    send(&mut peer, 1, &messages);
    assert_eq!(counted(&peer, Rule::RND_34), 1);
    assert!(peer.frames.is_empty() && peer.nic.is_ready());
}

/// A frame that the guest has no room for is joined once and waits.
#[test]
fn a_joined_frame_waits_for_room() {
    let mut peer = ready();
    let joined = tcp(Network::V4, 5 * SEGMENT);
    let mut messages = cut(&joined, 1, None);
    messages.push(packet(&frame(100, 2)));
    messages.extend(cut(&joined, 2, None));
    peer.room = 0;
    let ranges: Vec<_> = messages.iter().map(|bytes| peer.slot(bytes)).collect();
    peer.transfer(5, 0, &ranges);
    assert!(peer.poll().waiting && peer.poll().waiting);
    peer.room = 1;
    assert!(peer.poll().waiting);
    peer.room = usize::MAX;
    peer.settle();
    let whole = finished(joined, None);
    assert!(peer.frames == [whole.clone(), frame(100, 2), whole]);
    assert_eq!(statuses(&peer), [(5, status::SUCCESS)]);
}

/// Nothing of it reaches the guest, and the host is told so.
fn refused(rule: Rule, times: u32, messages: &[Vec<u8>]) {
    let mut peer = ready();
    send(&mut peer, 1, messages);
    assert_eq!(counted(&peer, rule), times, "{rule:?}");
    assert!(peer.frames.is_empty() && peer.nic.is_ready());
    assert_eq!(statuses(&peer), [(1, status::FAILURE)]);
    // The next packet is none the worse.
    let good = tcp(Network::V6, 2 * SEGMENT);
    send(&mut peer, 2, &cut(&good, 1, None));
    assert!(peer.frames == [finished(good, None)]);
}

/// "RND-29": a middle without a first, a second first, no last.
#[test]
fn rnd_29_fragments_out_of_order() {
    let messages = cut(&tcp(Network::V4, 3 * SEGMENT), 1, None);
    refused(Rule::RND_29, 1, &messages[1..2]);
    refused(Rule::RND_29, 1, &messages[2..]);
    refused(Rule::RND_29, 1, &messages[..2]);
    refused(Rule::RND_29, 1, &[messages[0].clone(), messages[0].clone()]);
    // A frame in between is whole and comes through.
    let mut peer = ready();
    let whole = packet(&frame(60, 1));
    send(
        &mut peer,
        1,
        &[messages[0].clone(), whole, messages[2].clone()],
    );
    assert_eq!(counted(&peer, Rule::RND_29), 1);
    assert_eq!(counted(&peer, Rule::RND_33), 1);
    assert!(peer.frames == [frame(60, 1)]);
    // Not over the end of a packet.
    let mut peer = ready();
    send(&mut peer, 1, &messages[..1]);
    send(&mut peer, 2, &messages[1..]);
    assert!(counted(&peer, Rule::RND_29) == 2 && peer.frames.is_empty());
}

/// "RND-30": 562 and no more. The packet has no more ranges either ("PKT-10"), and
/// without coalescing no more than 375.
#[test]
fn rnd_30_pkt_10_too_many_fragments() {
    use validate::rndis::{Gathered, Message};
    let mut peer = ready();
    peer.transfer(1, 0, &[(8, 0); 563]);
    peer.settle();
    assert_eq!(counted(&peer, Rule::PKT_10), 0);
    let counters = peer.channel.counters();
    assert_eq!(counters.of(Rule::PKT_10), 1);
    let mut peer = able();
    peer.log.clear();
    peer.transfer(1, 0, &[(8, 0); 376]);
    peer.settle();
    assert_eq!(counted(&peer, Rule::PKT_10), 1);
    assert_eq!(statuses(&peer), [(1, status::FAILURE)]);
    // The rule by itself, with ranges without end.
    let part = |flags| {
        let bytes = message(&[0; 20], flags, 1, VOUCHED, None);
        let context = validate::rndis::Context {
            primary: true,
            ready: true,
            packet: validate::rndis::PacketContext {
                mtu: 1500,
                mac: [0; 6],
                promiscuous: true,
                vlan: true,
                coalescing: true,
                refuse_oob: true,
            },
            awaited: None,
        };
        let carrier = validate::nvsp::Carrier::Data;
        match validate::rndis::message(&bytes, carrier, &context)
            .unwrap()
            .value
        {
            Message::Packet(packet) => packet.part().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let mut gathered = Gathered::new();
    assert_eq!(gathered.add(&part(FIRST), true), Ok(false));
    for _ in 1..562 {
        assert_eq!(gathered.add(&part(PART), true), Ok(false));
    }
    let error = gathered.add(&part(LAST), true).unwrap_err();
    assert_eq!((error.rule, gathered), (Rule::RND_30, Gathered::new()));
}

/// "RND-31": beyond what IP can name, not as long as its headers say, no TCP, headers in
/// two fragments.
#[test]
fn rnd_31_lengths_that_do_not_add_up() {
    let messages = cut(&tcp(Network::V4, 3 * SEGMENT), 1, None);
    let mut long: Vec<_> = (0..MAX_SEGMENTED / SEGMENT + 2)
        .map(|_| messages[1].clone())
        .collect();
    long[0] = messages[0].clone();
    refused(Rule::RND_31, 1, &long);
    refused(Rule::RND_31, 1, &[messages[0].clone(), messages[2].clone()]);
    for network in [Network::V4, Network::V6] {
        for add in [1, -1_i16] {
            let mut frame = tcp(network, 3000);
            let at = if network == Network::V4 { 16 } else { 18 };
            let said = u16::from_be_bytes([frame[at], frame[at + 1]]);
            let other = said.wrapping_add_signed(add).to_be_bytes();
            frame[at..at + 2].copy_from_slice(&other);
            refused(Rule::RND_31, 1, &cut(&frame, 1, None));
        }
    }
    let mut udp = tcp(Network::V4, 3000);
    udp[23] = 17;
    refused(Rule::RND_31, 1, &cut(&udp, 1, None));
    let frame = tcp(Network::V4, 100);
    for split in [14, 34, 65] {
        let (first, last) = frame.split_at(split);
        let first = message(first, FIRST, 1, VOUCHED, None);
        refused(Rule::RND_31, 1, &[first, message(last, LAST, 1, 0, None)]);
    }
    // No payload: nothing was joined.
    let empty = tcp(Network::V4, 0);
    refused(
        Rule::RND_31,
        1,
        &[message(&empty, FIRST | LAST, 1, VOUCHED, None)],
    );
    // Less than addresses: no frame at all.
    refused(
        Rule::RND_08,
        1,
        &[message(&[0; 13], FIRST | LAST, 1, VOUCHED, None)],
    );
}

/// "RND-32": flows are not mixed.
#[test]
fn rnd_32_fragments_of_two_packets() {
    let frame = tcp(Network::V4, 3 * SEGMENT);
    let (one, two) = (cut(&frame, 1, None), cut(&frame, 2, None));
    let mixed = [one[0].clone(), two[1].clone(), one[2].clone()];
    refused(Rule::RND_32, 1, &mixed);
}

/// "RND-33": a range that breaks a rule, in between or before, and nothing is joined
/// over the gap; not even if the lengths would add up.
#[test]
fn rnd_33_nothing_is_joined_beside_what_was_refused() {
    let messages = cut(&tcp(Network::V4, 3 * SEGMENT), 1, None);
    let mut broken = messages[1].clone();
    broken[12..16].fill(0xff);
    let [first, middle, last] = [0, 1, 2].map(|n| messages[n].clone());
    let gap = [first.clone(), broken.clone(), middle.clone(), last.clone()];
    refused(Rule::RND_33, 2, &gap);
    refused(Rule::RND_33, 3, &[broken, first, middle, last]);
    // A range outside of the buffer is left out before anything is read.
    let mut peer = ready();
    let ranges: Vec<_> = messages.iter().map(|bytes| peer.slot(bytes)).collect();
    peer.transfer(
        1,
        0,
        &[ranges[0], (1000, u32::MAX - 7), ranges[1], ranges[2]],
    );
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_33), 3);
    assert!(peer.frames.is_empty());
}

/// "RND-25": without the host's word for the sums there is nothing to give the guest.
#[test]
fn rnd_25_joined_segments_need_the_hosts_word() {
    let frame = tcp(Network::V4, 2 * SEGMENT);
    for sums in [0, VOUCHED | rndis::checksum::RX_IP_FAILED, u32::MAX] {
        let (first, last) = frame.split_at(1000);
        let first = message(first, FIRST, 1, sums, None);
        let last = message(&last[..SEGMENT], PART, 1, VOUCHED, None);
        let rest = message(&frame[1000 + SEGMENT..], LAST, 1, VOUCHED, None);
        refused(Rule::RND_25, 1, &[first, last, rest]);
    }
}

/// "RND-28": not agreed on, not switched on yet, or for a taker that wants each frame in
/// a row. A packet id on a frame that is whole is legal.
#[test]
fn rnd_28_fragments_that_nobody_asked_for() {
    let messages = cut(&tcp(Network::V4, 3 * SEGMENT), 1, None);
    let mut whole = ready();
    whole.whole = true;
    for mut peer in [Peer::ready(), able(), whole] {
        peer.log.clear();
        send(&mut peer, 1, &messages);
        assert_eq!(counted(&peer, Rule::RND_28), 3);
        assert_eq!(statuses(&peer), [(1, status::FAILURE)]);
        let frame = frame(200, 1);
        send(&mut peer, 2, &[message(&frame, 0, 3, 0, None)]);
        assert!(peer.frames == [frame] && peer.joined == [None]);
    }
    // Switched off again: what was under way comes through.
    let mut peer = ready();
    peer.nic.coalesce([false; 2]);
    peer.settle();
    send(&mut peer, 1, &messages);
    assert_eq!(peer.frames.len(), 1);
}
