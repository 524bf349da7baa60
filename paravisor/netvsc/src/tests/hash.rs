//! The guest's hash: asked of the host, believed as far as it was asked for.

use super::messages::scale;
use super::peer::Wires;
use super::*;
use crate::Delivery;
use abi::rndis::{hash, packet_id, ppi, rss_capability, rss_flag};
use memory::Parcel;
use validate::frame::{Arrived, FlowHash, HASH_KEY, HashKind, HashKinds, HashRequest};

const V4: [u8; 2] = [0x08, 0x00];
const V6: [u8; 2] = [0x86, 0xdd];
const TCP: u32 = hash::TOEPLITZ | hash::TCP_IPV4;

fn kinds(kinds: &[HashKind]) -> HashKinds {
    HashKinds::of(|kind| kinds.contains(&kind))
}

fn request(of: &[HashKind], byte: u8) -> Option<HashRequest> {
    Some(HashRequest {
        kinds: kinds(of),
        key: [byte; HASH_KEY],
    })
}

/// A host that hashes the ports of TCP and those of UDP over IPv4.
fn host(sub_channels: u16) -> Peer {
    let mut config = config();
    config.sub_channels = sub_channels;
    config.coalescing = true;
    let mut peer = Peer::with(config);
    peer.scale = scale(8);
    let ports = rss_capability::TCP_IPV4 | rss_capability::TCP_IPV6 | rss_capability::UDP_IPV4;
    peer.scale.flags = (hash::TOEPLITZ | ports).into();
    (peer.offloads.rsc_ipv4, peer.offloads.rsc_ipv6) = (1, 1);
    peer.started()
}

/// The same after the guest has asked for these with this key.
fn asked(of: &[HashKind]) -> Peer {
    let mut peer = host(0);
    peer.nic.set_hash(request(of, 0xA5));
    assert!(peer.nic.spread_due());
    peer.settle();
    assert!(!peer.nic.spread_due());
    peer.log.clear();
    peer
}

/// A frame's message with elements in front.
fn message(data: &[u8], elements: &[(u32, u32)]) -> Vec<u8> {
    let words = |(kind, value): &(u32, u32)| [16, *kind, 12, *value];
    let bytes: Vec<u8> = (elements.iter().flat_map(words))
        .flat_map(u32::to_le_bytes)
        .collect();
    let mut message = packet(data);
    message[32..36].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    message[44..44 + bytes.len()].copy_from_slice(&bytes);
    message
}

fn of_type(ethertype: [u8; 2]) -> Vec<u8> {
    let mut bytes = frame(80, 1);
    bytes[12..14].copy_from_slice(&ethertype);
    bytes
}

/// What the guest learns of the hash of a frame with these elements.
fn learned(peer: &mut Peer, ethertype: [u8; 2], elements: &[(u32, u32)]) -> Option<FlowHash> {
    let frame = of_type(ethertype);
    let range = peer.slot(&message(&frame, elements));
    let (before, id) = (peer.frames.len(), peer.now);
    peer.transfer(id, 0, &[range]);
    peer.settle();
    assert_eq!(peer.frames.len(), before + 1, "frames go on");
    assert_eq!(peer.frames.last(), Some(&frame));
    peer.hashes.pop().unwrap()
}

fn told(value: &[u8]) -> (u16, u32, &[u8]) {
    let word = |at: usize| u32::from_le_bytes(value[at..at + 4].try_into().unwrap());
    (word(4) as u16, word(8), &value[word(24) as usize..])
}

/// With this hash of TCP over IPv4 beside it.
fn plain(peer: &mut Peer, value: u32) -> Option<u32> {
    let both = [(ppi::HASH_VALUE, value), (ppi::HASH_INFO, TCP)];
    learned(peer, V4, &both).map(|hash| hash.value)
}

#[test]
fn offered_as_the_host_says() {
    let every = kinds(&[
        HashKind::Ipv4,
        HashKind::TcpIpv4,
        HashKind::UdpIpv4,
        HashKind::Ipv6,
        HashKind::TcpIpv6,
    ]);
    assert_eq!(host(0).nic.offers_hash(), Some(every));
    // No hashes, no scaling, nothing known yet.
    assert_eq!(Peer::ready().nic.offers_hash(), None);
    let mut peer = Peer::new();
    peer.refuse_oid = Some(oid::RECEIVE_SCALE_CAPABILITIES);
    let mut peer = peer.started();
    assert_eq!(peer.nic.offers_hash(), None);
    assert_eq!(Peer::new().nic.offers_hash(), None);
    // Such a host is not asked either, whatever the guest says.
    peer.nic.set_hash(request(&[HashKind::Ipv4], 1));
    peer.settle();
    assert!(peer.spread.is_empty() && !peer.nic.spread_due());
    assert_eq!(plain(&mut peer, 7), None);
}

#[test]
fn the_guests_key_and_kinds_go_to_the_host() {
    let key = [0xA5; HASH_KEY];
    let own = hash::TOEPLITZ | hash::IPV4 | hash::TCP_IPV4 | hash::IPV6 | hash::TCP_IPV6;
    // By TCP's ports only where that makes no other hash of a frame that gets one.
    for (of, info) in [
        (&[HashKind::TcpIpv4][..], own),
        (&[HashKind::Ipv4], own & !hash::TCP_IPV4),
        (&[HashKind::Ipv6, HashKind::UdpIpv4], {
            (own | hash::UDP_IPV4) & !hash::TCP_IPV6
        }),
        (&[HashKind::UdpIpv6], own | hash::UDP_IPV6),
        (&HashKind::ALL, own | hash::UDP_IPV4 | hash::UDP_IPV6),
    ] {
        let peer = asked(of);
        let said: Vec<_> = peer.spread.iter().map(|value| told(value)).collect();
        assert_eq!(said, [(0, info, &key[..])], "{of:?}");
        // One channel: all on the primary.
        assert!(peer.spread[0][40..552].iter().all(|byte| *byte == 0));
    }
    // Nothing is asked for by an empty set, and nothing twice.
    let mut peer = host(0);
    peer.nic.set_hash(request(&[], 1));
    peer.nic.set_hash(None);
    peer.settle();
    assert!(peer.spread.is_empty());
    let mut peer = asked(&[HashKind::Ipv4]);
    peer.nic.set_hash(request(&[HashKind::Ipv4], 0xA5));
    assert!(!peer.nic.spread_due());
}

/// A host refuses another key while it uses one: that is switched off first.
#[test]
fn another_key_in_two_steps_and_back_to_our_own() {
    let mut peer = host(3);
    peer.nic.spread(0b1011);
    peer.settle();
    let ours = told(&peer.spread[0]).2.to_vec();
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 0xA5));
    peer.settle();
    assert_eq!(plain(&mut peer, 7), Some(7));
    // Other channels, the same key: at once.
    peer.nic.spread(0b11);
    peer.settle();
    assert_eq!(plain(&mut peer, 8), Some(8));
    peer.nic.set_hash(None);
    assert_eq!(plain(&mut peer, 9), None);
    let said: Vec<_> = (peer.spread.iter())
        .map(|value| (told(value).0, told(value).2 == &ours[..], value[40 + 8]))
        .collect();
    let off = rss_flag::DISABLE;
    assert_eq!(
        said,
        [
            (0, true, 3),
            (off, false, 3),
            (0, false, 3),
            (0, false, 0),
            (off, true, 0),
            (0, true, 0)
        ]
    );
    assert!(peer.nic.counters().validation.violations().next().is_none());
}

/// "RND-27": the kind is one that was asked for and fits the frame, or there is none.
#[test]
fn rnd_27_what_the_host_says_of_a_hash() {
    let kind = HashKind::TcpIpv4;
    let mut peer = asked(&[kind, HashKind::Ipv6]);
    for value in [0, 7, u32::MAX] {
        assert_eq!(plain(&mut peer, value), Some(value));
    }
    let value = (ppi::HASH_VALUE, 7);
    let info = |info: u32| (ppi::HASH_INFO, hash::TOEPLITZ | info);
    let own = info(hash::TCP_IPV4);
    let six = Some(FlowHash {
        value: 7,
        kind: HashKind::Ipv6,
    });
    for (ethertype, elements, expected) in [
        (V6, &[value, info(hash::IPV6)][..], six),
        // In the other order, it is the same.
        (V6, &[info(hash::IPV6), value], six),
        // A kind that was not asked for, though the host was told to spread by it.
        (V4, &[value, info(hash::IPV4)], None),
        (V6, &[value, info(hash::TCP_IPV6)], None),
        // Of a frame that is not of that version.
        (V6, &[value, own], None),
        ([0x08, 0x06], &[value, own], None),
        // No kind, two, unknown ones, no function that we know.
        (V4, &[value, info(0)], None),
        (V4, &[value, info(hash::TCP_IPV4 | hash::IPV4)], None),
        (V4, &[value, info(hash::TCP_IPV4 | 1 << 31)], None),
        (V4, &[value, (ppi::HASH_INFO, hash::TCP_IPV4)], None),
        (V4, &[value, (ppi::HASH_INFO, u32::MAX)], None),
        // Half of it.
        (V4, &[own], None),
        (V4, &[value], None),
        (V4, &[], None),
    ] {
        assert_eq!(
            learned(&mut peer, ethertype, elements),
            expected,
            "{elements:x?}"
        );
    }
    // None of that is a violation.
    assert!(peer.nic.counters().validation.violations().next().is_none());
}

/// "RND-27": a host that sends hashes though nobody has asked for any.
#[test]
fn rnd_27_hashes_that_nobody_asked_for() {
    let mut peer = host(0);
    assert_eq!(plain(&mut peer, 7), None);
    // Spread by our own key: of that the guest learns nothing.
    let mut peer = host(3);
    peer.nic.spread(0b11);
    peer.settle();
    assert_eq!(plain(&mut peer, 7), None);
    // Asked, but not agreed to yet: the answer is on its way.
    peer.mute_spread = true;
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 1));
    peer.settle();
    assert_eq!(plain(&mut peer, 7), None);
}

#[test]
fn rnd_41_a_host_that_refuses_the_guests_key() {
    let mut peer = host(0);
    peer.refuse_oid = Some(oid::RECEIVE_SCALE_PARAMETERS);
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 0xA5));
    peer.settle();
    assert_eq!(plain(&mut peer, 7), None);
    // Said; off, in case; our own in its place, also refused. Then it is left alone.
    let said: Vec<_> = (peer.spread.iter())
        .map(|value| (told(value).0, told(value).2[0] == 0xA5))
        .collect();
    assert_eq!(said, [(0, true), (rss_flag::DISABLE, false), (0, false)]);
    assert_eq!(counted(&peer, Rule::RND_41), 3, "RND-41");
    assert!(peer.nic.is_ready() && !peer.nic.spread_due());
    // What the host agrees to in the place of it is no hash for the guest.
    peer.refuse_oid = None;
    peer.nic.spread(1);
    peer.settle();
    assert_eq!(plain(&mut peer, 7), None);
    assert_ne!(told(peer.spread.last().unwrap()).2[0], 0xA5);
    // The guest may ask again.
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 0xB6));
    peer.settle();
    assert_eq!(plain(&mut peer, 7), Some(7));
}

#[test]
fn rnd_65_no_answer_to_the_guests_key() {
    let mut peer = host(0);
    peer.mute_spread = true;
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 0xA5));
    peer.settle();
    peer.mute_spread = false;
    let late = peer.nic.next_request_id - 1;
    peer.now += limits::REQUEST_DEADLINE + 1;
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_65), 1, "RND-65");
    assert_eq!(plain(&mut peer, 7), None);
    // An answer that comes after all is one to nothing.
    peer.control(5, messages::set_complete(late, 0).as_bytes());
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_36), 1);
    assert_eq!(plain(&mut peer, 7), None);
    assert!(peer.nic.is_ready());
}

/// An answer counts for what was asked, not for what the guest has asked since.
#[test]
fn a_change_of_mind_while_the_host_thinks() {
    let mut peer = host(0);
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 0xA5));
    let first = peer.heard();
    peer.nic.set_hash(request(&[HashKind::TcpIpv4], 0xB6));
    peer.mute_spread = true;
    first.iter().for_each(|sent| peer.serve(sent));
    let _ = peer.poll();
    let before = peer.spread.len();
    let id = peer.nic.next_request_id;
    peer.control(6, messages::set_complete(id - 1, 0).as_bytes());
    // The first is agreed to now. It stands for nothing any more.
    peer.settle();
    assert_eq!(plain(&mut peer, 7), None);
    assert!(peer.spread.len() > before);
    assert_eq!(told(peer.spread.last().unwrap()).0, rss_flag::DISABLE);
}

/// Lanes look at what their NIC has agreed on, and forget it with it.
#[test]
fn all_lanes_give_the_hash() {
    let mut peer = host(3);
    let (receive, send) = peer.views();
    let mut lane = peer.nic.lane(2, receive, send, peer.now).unwrap();
    let mut wires = Wires::new();
    for (asked, expected) in [
        (None, None),
        (request(&[HashKind::TcpIpv4], 1), Some(9)),
        (request(&[HashKind::Ipv6], 1), None),
    ] {
        peer.nic.set_hash(asked);
        peer.settle();
        peer.change(&mut wires);
        let both = [(ppi::HASH_VALUE, 9), (ppi::HASH_INFO, TCP)];
        let range = peer.slot(&message(&of_type(V4), &both));
        peer.transfer(5, 0, &[range]);
        let mut got = Vec::new();
        let take = |_: &mut Parcel<'_>, arrived: Arrived| {
            got.push(arrived.hash().map(|hash| hash.value));
            Delivery::Taken
        };
        let _ = lane.poll_parcels(&mut peer.channel, peer.now, false, take);
        assert_eq!(got, [expected]);
        peer.change(&mut wires);
    }
}

/// Of joined segments the first one's counts, and their headers are judged: TCP it is.
#[test]
fn rnd_27_hash_of_joined_segments() {
    const PART: u8 = packet_id::SUB_ALLOCATION;
    let mut peer = asked(&[HashKind::Ipv4, HashKind::TcpIpv4, HashKind::UdpIpv4]);
    peer.nic.coalesce([true; 2]);
    peer.settle();
    let mut whole = frame(14 + 20 + 20 + 1000, 3);
    whole[12..14].copy_from_slice(&V4);
    whole[14] = 0x45;
    whole[16..18].copy_from_slice(&1040u16.to_be_bytes());
    whole[20..22].fill(0);
    whole[23] = 6;
    whole[46] = 0x50;
    let place = |flags: u8| (ppi::PACKET_ID, 1 | u32::from(PART | flags) << 8);
    let sums = (ppi::CHECKSUM, rndis::checksum::RX_TCP_SUCCEEDED);
    let beside = |value: u32, info: u32| {
        let info = (ppi::HASH_INFO, hash::TOEPLITZ | info);
        [(ppi::HASH_VALUE, value), info]
    };
    let mut id = 100;
    let mut send = |first: &[(u32, u32)], last: &[(u32, u32)]| {
        let elements = |flags, rest: &[(u32, u32)]| [&[sums, place(flags)], rest].concat();
        let messages = [
            message(&whole[..554], &elements(packet_id::FIRST, first)),
            message(&whole[554..], &elements(packet_id::LAST, last)),
        ];
        let ranges: Vec<_> = messages.iter().map(|bytes| peer.slot(bytes)).collect();
        id += 1;
        peer.transfer(id, 0, &ranges);
        peer.settle();
        assert!(peer.joined.pop().unwrap().is_some());
        peer.hashes.pop().unwrap()
    };
    let of = |value, kind| Some(FlowHash { value, kind });
    let tcp = beside(7, hash::TCP_IPV4);
    assert_eq!(send(&tcp, &[]), of(7, HashKind::TcpIpv4));
    assert_eq!(send(&beside(7, hash::IPV4), &[]), of(7, HashKind::Ipv4));
    assert_eq!(send(&tcp, &beside(8, hash::IPV4)), of(7, HashKind::TcpIpv4));
    // Not with the first; of UDP; nothing at all.
    assert_eq!(send(&[], &tcp), None);
    assert_eq!(send(&beside(7, hash::UDP_IPV4), &[]), None);
    assert_eq!(send(&[], &[]), None);
    // A frame after it that is whole has its own or none.
    assert_eq!(send(&tcp, &[]), of(7, HashKind::TcpIpv4));
    assert_eq!(learned(&mut peer, V4, &[]), None);
}

/// A frame that the guest has no room for keeps its hash.
#[test]
fn a_frame_that_waits_keeps_its_hash() {
    let mut peer = asked(&[HashKind::TcpIpv4]);
    peer.room = 0;
    let both = [(ppi::HASH_VALUE, 9), (ppi::HASH_INFO, TCP)];
    let range = peer.slot(&message(&of_type(V4), &both));
    peer.transfer(5, 0, &[range]);
    assert!(peer.poll().waiting && peer.poll().waiting);
    peer.room = 1;
    peer.settle();
    assert_eq!(peer.hashes.pop().flatten().map(|hash| hash.value), Some(9));
}
