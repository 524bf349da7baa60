//! RNDIS: requests and answers, events, frames.

use super::*;

#[test]
fn rnd_35_frame_before_the_filter_is_set() {
    let mut peer = Peer::new();
    peer.refuse_oid = Some(oid::PERMANENT_ADDRESS);
    peer.nic.start(peer.now);
    for _ in 0..5 {
        for sent in peer.heard() {
            peer.serve(&sent);
        }
    }
    assert!(!peer.nic.is_ready());
    let range = peer.slot(&packet(&frame(100, 9)));
    peer.transfer(5, 0, &[range]);
    peer.settle();
    assert_eq!((peer.frames.len(), counted(&peer, Rule::RND_35)), (0, 1));
    assert!(peer.nic.is_ready());
}

#[test]
fn rnd_36_response_to_nothing() {
    let mut peer = Peer::ready();
    peer.control(5, messages::set_complete(0, 0).as_bytes());
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_36), 1);
    assert!(peer.nic.is_ready());
}

#[test]
fn rnd_41_query_that_the_host_refuses() {
    for (oid, alive) in [
        (oid::PERMANENT_ADDRESS, true),
        (oid::LINK_SPEED, true),
        (oid::CURRENT_ADDRESS, false),
        (oid::MAXIMUM_FRAME_SIZE, false),
    ] {
        let mut peer = Peer::new();
        peer.refuse_oid = Some(oid);
        peer.nic.start(peer.now);
        peer.settle();
        assert_eq!(peer.nic.is_ready(), alive, "{oid:#x}");
        assert_eq!(counted(&peer, Rule::RND_41), 1);
    }
}

#[test]
fn rnd_49_address_of_the_policy() {
    let mut peer = Peer::with(Config {
        mac: Some([2, 0, 0, 0, 0, 9]),
        ..config()
    });
    peer.nic.start(peer.now);
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::RND_49));
}

#[test]
fn rnd_55_link_flaps_are_coalesced() {
    let mut peer = Peer::ready();
    for flap in 0..400u64 {
        let event = if flap % 2 == 0 {
            rndis::status::MEDIA_DISCONNECT
        } else {
            rndis::status::MEDIA_CONNECT
        };
        peer.indicate(flap + 1, event);
        peer.settle();
    }
    assert!(peer.events.len() <= 2, "{:?}", peer.events);
    peer.indicate(1000, rndis::status::MEDIA_DISCONNECT);
    peer.now += SECOND;
    peer.settle();
    assert_eq!(peer.events.last(), Some(&Event::Link { up: false }));
    let coalesced = peer.nic.counters().link_coalesced;
    assert!(coalesced > 100);
    assert_eq!(u64::from(counted(&peer, Rule::RND_55)), coalesced);
    assert!(!peer.nic.link_up());
}

#[test]
fn rnd_56_network_changes() {
    let mut peer = Peer::ready();
    for id in 1..50 {
        peer.indicate(id, rndis::status::NETWORK_CHANGE);
        peer.settle();
    }
    assert_eq!(peer.events, [Event::NetworkChange]);
    assert_eq!(counted(&peer, Rule::RND_56), 48);
}

#[test]
fn rnd_62_filter_that_is_not_set() {
    let mut peer = Peer::new();
    peer.refuse_oid = Some(oid::CURRENT_PACKET_FILTER);
    peer.nic.start(peer.now);
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::RND_62));
}

#[test]
fn rnd_64_keepalives_are_answered_at_a_limited_rate() {
    let mut peer = Peer::ready();
    for id in 1..=30u32 {
        let keepalive = rndis::Keepalive {
            header: messages::header(rndis::message::KEEPALIVE, 12),
            request_id: id.into(),
        };
        peer.control(id.into(), keepalive.as_bytes());
        peer.settle();
    }
    let answers: Vec<Vec<u8>> = peer
        .log
        .iter()
        .filter(|sent| sent.kind == 6)
        .map(|sent| peer.rndis(sent))
        .collect();
    assert_eq!(answers.len() as u32, limits::KEEPALIVES_PER_INTERVAL);
    assert!(answers.iter().all(|bytes| bytes.len() == 16));
    assert_eq!(
        counted(&peer, Rule::RND_64),
        30 - limits::KEEPALIVES_PER_INTERVAL
    );
}

#[test]
fn rnd_65_host_that_never_answers_a_query() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    for _ in 0..4 {
        for sent in peer.heard() {
            peer.serve(&sent);
        }
    }
    // The query is completed as a transmit, and that is all.
    for sent in peer.heard() {
        if sent.flags == 1 {
            peer.complete(sent.id, messages::transmitted(1).as_bytes());
        }
    }
    peer.mute = true;
    let start = peer.now;
    while peer.nic.failed().is_none() && peer.now < start + 60 * SECOND {
        peer.now += SECOND;
        peer.settle();
    }
    assert_eq!(failed(&peer), Some(Rule::RND_65));
}

/// A reply about offloads or receive scaling that nobody asked for ("RND-36").
#[test]
fn rnd_60_unasked_capabilities_are_refused() {
    let mut peer = Peer::ready();
    for (id, header) in [(1, 0xA7u8), (2, 0x88)] {
        let mut value = [0xFF; 112];
        value[0] = header;
        peer.control(id, &messages::query_complete(0, 0, &value));
        peer.settle();
        assert_eq!(counted(&peer, Rule::RND_36), id as u32);
    }
    assert_eq!(
        statuses(&peer),
        [(1, status::FAILURE), (2, status::FAILURE)]
    );
    assert!(peer.nic.is_ready());
}

/// What is asked for on the way up: eight OIDs, none of which has a text ("RND-61").
#[test]
fn rnd_61_no_name_is_asked_for() {
    let mut peer = Peer::new();
    let mut asked = Vec::new();
    peer.nic.start(peer.now);
    while !peer.nic.is_ready() {
        peer.now += 100;
        for sent in peer.heard() {
            if sent.kind == 6 && sent.nvsp() == message::SEND_RNDIS_PACKET {
                let rndis = peer.rndis(&sent);
                let word = |at: usize| u32::from_le_bytes(rndis[at..at + 4].try_into().unwrap());
                if word(0) != rndis::message::INITIALIZE {
                    asked.push(word(12));
                }
            }
            peer.serve(&sent);
        }
        assert!(peer.now < 100_000);
    }
    assert_eq!(
        asked,
        [
            oid::PERMANENT_ADDRESS,
            oid::CURRENT_ADDRESS,
            oid::MAXIMUM_FRAME_SIZE,
            oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES,
            oid::TCP_OFFLOAD_PARAMETERS,
            oid::LINK_SPEED,
            oid::RECEIVE_SCALE_CAPABILITIES,
            oid::MEDIA_CONNECT_STATUS,
            oid::CURRENT_PACKET_FILTER,
        ]
    );
    // A name that comes all the same: "RND-36".
    peer.control(9, &messages::query_complete(77, 0, b"\x1b[2J\x1b[31mname"));
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_36), 1);
}

/// Whatever the frame holds, its message has our header and nothing else but zeros up to
/// where the host wants the next one ("RND-69").
#[test]
fn rnd_69_nothing_but_our_header_and_the_frame_leaves() {
    let mut peer = Peer::ready();
    for (len, fill) in [(14, 0xFF), (60, 0), (1514, 0x81), (1518, 0xFF)] {
        let out = alloc::vec![fill; len];
        peer.nic
            .transmit_plain(&mut peer.channel, &out, peer.now)
            .unwrap();
        let sent = peer.heard();
        let bytes = peer.rndis(&sent[0]);
        let words: Vec<u32> = bytes[..44]
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        let total = (44 + len).next_multiple_of(8);
        let (message, frame) = (total as u32, len as u32);
        assert_eq!(words, [1, message, 36, frame, 0, 0, 0, 36, 0, 0, 0]);
        assert_eq!(bytes.len(), total);
        assert_eq!(bytes[44..44 + len], out);
        assert!(bytes[44 + len..].iter().all(|byte| *byte == 0));
        peer.serve(&sent[0]);
    }
}
