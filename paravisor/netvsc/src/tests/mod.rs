//! The NIC against a scripted host, over rings and buffers that change after
//! their first read.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

mod peer;

use crate::limits::{self, SECOND};
use crate::{Config, Event, TransmitError};
use abi::nvsp::{self, message, status};
use abi::rndis::{self, oid};
use alloc::vec::Vec;
use memory::SharedMemory;
use peer::{MAC, Peer, SECTION, SLOT, config, frame, packet};
use validate::Rule;
use zerocopy::IntoBytes;

fn failed(peer: &Peer) -> Option<Rule> {
    peer.nic.failed().map(|violation| violation.rule)
}

fn counted(peer: &Peer, rule: Rule) -> u32 {
    peer.nic.counters().validation.of(rule)
}

/// Statuses of receive completions in the log.
fn statuses(peer: &Peer) -> Vec<(u64, u32)> {
    let answers = peer.log.iter().filter(|sent| sent.kind == 11);
    answers.map(|sent| (sent.id, sent.word(4))).collect()
}

#[test]
fn bring_up_follows_the_script() {
    let mut peer = Peer::new();
    assert_eq!(peer.nic.next_deadline(), None);
    peer.nic.start(peer.now);
    peer.settle();
    assert_eq!(
        peer.events,
        [
            Event::Ready {
                mac: MAC,
                mtu: 1500
            },
            Event::Link { up: true }
        ]
    );
    let requests: Vec<u32> = peer
        .log
        .iter()
        .filter(|sent| sent.kind == 6)
        .map(|sent| sent.nvsp())
        .collect();
    assert_eq!(requests[..5], [1, 125, 100, 101, 104]);
    assert!(
        requests[5..]
            .iter()
            .all(|kind| *kind == message::SEND_RNDIS_PACKET)
    );
    assert!(
        peer.log
            .iter()
            .all(|sent| sent.kind == 11 || sent.payload.len() == 40)
    );
    // NVS-07, NVS-10.
    assert_eq!(
        (peer.log[0].word(4), peer.log[0].word(8)),
        (0x60001, 0x60001)
    );
    assert_eq!((peer.log[1].word(4), peer.log[1].word(12)), (1514, 0x20));
    // PKT-17: ids with an answer are neither 0 nor alike.
    let mut ids: Vec<u64> = peer
        .log
        .iter()
        .filter(|sent| sent.flags == 1)
        .map(|sent| sent.id)
        .collect();
    ids.sort();
    assert!(ids[0] != 0 && ids.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(peer.nic.link_speed(), Some(100_000_000));
    assert!(peer.nic.counters().validation.violations().next().is_none());
    assert_eq!(peer.nic.outstanding(), 0);
}

#[test]
fn a_frame_each_way() {
    let mut peer = Peer::ready();
    let out = frame(777, 1);
    peer.nic
        .transmit(&mut peer.channel, &out, peer.now)
        .unwrap();
    assert!(peer.nic.flush(&mut peer.channel).is_needed());
    let sent = peer.heard();
    assert_eq!(peer.rndis(&sent[0])[44..], out);
    peer.serve(&sent[0]);
    let (first, second) = (frame(60, 2), frame(1518, 3));
    let ranges = [peer.slot(&packet(&first)), peer.slot(&packet(&second))];
    peer.transfer(77, 0, &ranges);
    peer.settle();
    assert_eq!(peer.frames, [first, second]);
    assert_eq!(statuses(&peer), [(77, status::SUCCESS)]);
    let counters = peer.nic.counters();
    assert_eq!((counters.tx_frames, counters.tx_bytes), (1, 777));
    assert_eq!((counters.rx_frames, counters.rx_bytes), (2, 60 + 1518));
    assert_eq!(peer.nic.outstanding(), 0);
}

#[test]
fn ten_thousand_frames_each_way() {
    let mut peer = Peer::ready();
    let mut echoed = 0;
    for round in 0..2500usize {
        for i in 0..4 {
            let out = frame(60 + (round * 31 + i * 411) % 1458, round as u8);
            peer.nic
                .transmit(&mut peer.channel, &out, peer.now)
                .unwrap();
        }
        let _ = peer.nic.flush(&mut peer.channel);
        let sent = peer.heard();
        let echo: Vec<_> = sent
            .iter()
            .filter(|sent| sent.kind == 6)
            .map(|sent| {
                peer.serve(sent);
                peer.rndis(sent)[44..].to_vec()
            })
            .collect();
        let ranges: Vec<_> = echo.iter().map(|frame| peer.slot(&packet(frame))).collect();
        peer.transfer(round as u64 + 1, 0, &ranges);
        peer.settle();
        assert_eq!(peer.frames, echo, "round {round}");
        echoed += peer.frames.len();
        peer.frames.clear();
        peer.log.clear();
    }
    assert_eq!(echoed, 10_000);
    assert!(peer.nic.counters().validation.violations().next().is_none());
}

#[test]
fn sys_08_nothing_of_an_earlier_frame_stays() {
    let mut peer = Peer::ready();
    for len in [1514, 60] {
        let out = frame(len, 0x5A);
        peer.nic
            .transmit(&mut peer.channel, &out, peer.now)
            .unwrap();
        peer.settle();
    }
    let section = peer
        .log
        .iter()
        .rfind(|sent| sent.kind == 6)
        .unwrap()
        .word(8) as usize;
    let mut bytes = [0; SECTION];
    peer.send.copy_in(section * SECTION, &mut bytes).unwrap();
    assert!(bytes[..104].iter().any(|byte| *byte != 0));
    assert!(bytes[104..].iter().all(|byte| *byte == 0));
}

#[test]
fn pkt_13_strays_are_dropped_and_then_end_the_nic() {
    let mut peer = Peer::ready();
    for id in 0..u64::from(limits::STRAYS) {
        peer.complete(0xFFFF_8880_0000_1000 + id, peer::transmitted(1).as_bytes());
        peer.settle();
    }
    assert_eq!(
        (failed(&peer), counted(&peer, Rule::PKT_13)),
        (None, limits::STRAYS)
    );
    peer.complete(0xFFFF, &[]);
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::PKT_13));
    assert!(
        matches!(peer.events[..], [Event::Failed(violation)] if violation.rule == Rule::PKT_13)
    );
}

#[test]
fn pkt_15_completion_twice() {
    let mut peer = Peer::ready();
    peer.nic
        .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    let sent = peer.heard();
    peer.complete(sent[0].id, peer::transmitted(1).as_bytes());
    peer.complete(sent[0].id, peer::transmitted(1).as_bytes());
    peer.settle();
    assert_eq!(counted(&peer, Rule::PKT_15), 1);
    assert!(peer.nic.is_ready());
}

#[test]
fn pkt_16_init_answered_as_a_transmit() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    let sent = peer.heard();
    peer.complete(sent[0].id, peer::transmitted(1).as_bytes());
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::PKT_16));
    // The channel is dead with it.
    assert_eq!(
        peer.channel.dead().map(|violation| violation.rule),
        Some(Rule::PKT_16)
    );
}

#[test]
fn pkt_20_flagged_in_band_messages_get_an_empty_completion() {
    let mut peer = Peer::ready();
    let vf = nvsp::SendVfAssociation {
        message_type: message::SEND_VF_ASSOCIATION.into(),
        allocated: 1.into(),
        serial: 7.into(),
    };
    peer.in_band(1, 0x8000_0000_0000_0000, vf.as_bytes());
    peer.in_band(0, 5, vf.as_bytes());
    peer.in_band(1, 6, &130u32.to_le_bytes());
    peer.settle();
    let answers: Vec<_> = peer
        .log
        .iter()
        .map(|sent| (sent.id, sent.payload.len()))
        .collect();
    assert_eq!(answers, [(0x8000_0000_0000_0000, 0), (6, 0)]);
    assert_eq!(counted(&peer, Rule::NVS_46), 1);
}

#[test]
fn pkt_22_empty_completion_of_a_transmit() {
    let mut peer = Peer::ready();
    peer.nic
        .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    let sent = peer.heard();
    peer.complete(sent[0].id, &[]);
    peer.settle();
    assert_eq!(counted(&peer, Rule::PKT_22), 1);
    assert!(peer.nic.is_ready() && peer.nic.outstanding() == 0);
}

#[test]
fn pkt_24_transmit_that_is_never_completed() {
    let mut peer = Peer::ready();
    peer.complete_transmits = false;
    peer.nic
        .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    peer.settle();
    peer.now += limits::TRANSMIT_DEADLINE;
    assert!(
        peer.nic
            .next_deadline()
            .is_some_and(|deadline| deadline < peer.now)
    );
    peer.settle();
    peer.now += limits::DEADLINE_SCAN;
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::PKT_24));
}

#[test]
fn pkt_24_host_that_never_answers_init() {
    let mut peer = Peer::new();
    peer.mute = true;
    peer.nic.start(peer.now);
    peer.settle();
    peer.now = peer.nic.next_deadline().unwrap();
    while peer.nic.failed().is_none() {
        peer.now += SECOND;
        peer.settle();
        assert!(peer.now < limits::REQUEST_DEADLINE + 3 * SECOND);
    }
    assert_eq!(failed(&peer), Some(Rule::PKT_24));
}

#[test]
fn nvs_05_version_refused() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    let sent = peer.heard();
    peer.complete(sent[0].id, peer::init_complete(0).as_bytes());
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::NVS_05));
    // NVS-09: nothing else is proposed.
    assert!(peer.heard().is_empty());
}

#[test]
fn nvs_23_nvs_29_bad_range_among_good_ones() {
    let mut peer = Peer::ready();
    let good = peer.slot(&packet(&frame(100, 9)));
    peer.transfer(5, 0, &[good, (0x20, 0xFFFF_FFF0)]);
    let also_good = peer.slot(&packet(&frame(101, 9)));
    peer.transfer(6, 0, &[also_good]);
    peer.settle();
    assert_eq!(
        statuses(&peer),
        [(5, status::FAILURE), (6, status::SUCCESS)]
    );
    assert_eq!((peer.frames.len(), counted(&peer, Rule::NVS_23)), (2, 1));
}

#[test]
fn nvs_26_two_identical_ranges() {
    let mut peer = Peer::ready();
    let range = peer.slot(&packet(&frame(100, 9)));
    peer.transfer(5, 0, &[range, range]);
    peer.settle();
    assert_eq!(statuses(&peer), [(5, status::FAILURE)]);
    assert_eq!((peer.frames.len(), counted(&peer, Rule::NVS_26)), (0, 1));
    // The slot is free again.
    peer.receive
        .copy_out(range.1 as usize, &packet(&frame(100, 9)))
        .unwrap();
    peer.transfer(6, 0, &[range]);
    peer.settle();
    assert_eq!(peer.frames.len(), 1);
}

#[test]
fn nvs_25_nvs_26_are_only_counted_if_asked_so() {
    let mut peer = Peer::with(Config {
        enforce_unmeasured: false,
        ..config()
    });
    peer.nic.start(peer.now);
    peer.settle();
    let message = packet(&frame(100, 9));
    let across = SLOT as u32 - 8;
    peer.receive.copy_out(across as usize, &message).unwrap();
    peer.transfer(5, 0, &[(message.len() as u32, across)]);
    peer.settle();
    assert_eq!((peer.frames.len(), counted(&peer, Rule::NVS_25)), (1, 1));
}

#[test]
fn nvs_28_receive_is_completed_after_the_frame_left() {
    let mut peer = Peer::ready();
    peer.room = 1;
    let ranges = [
        peer.slot(&packet(&frame(100, 1))),
        peer.slot(&packet(&frame(101, 2))),
    ];
    peer.transfer(5, 0, &ranges);
    let polled = peer.poll();
    assert!(polled.waiting && !polled.more);
    peer.settle();
    assert_eq!((peer.frames.len(), peer.log.len()), (1, 0));
    // The frame is in private memory: what the host does to the slot is late.
    peer.receive.zero(0, SLOT * 2).unwrap();
    peer.room = 10;
    peer.settle();
    assert_eq!(peer.frames, [frame(100, 1), frame(101, 2)]);
    assert_eq!(statuses(&peer), [(5, status::SUCCESS)]);
    assert_eq!(peer.nic.counters().rx_frames, 2);
}

#[test]
fn nvs_31_receive_before_the_buffer() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    peer.transfer(5, 0, &[(100, 0)]);
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::NVS_31));
}

#[test]
fn nvs_36_transmit_that_the_host_refused() {
    let mut peer = Peer::ready();
    peer.nic
        .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    let sent = peer.heard();
    peer.complete(sent[0].id, peer::transmitted(u32::MAX).as_bytes());
    peer.settle();
    assert_eq!(
        (peer.nic.counters().tx_errors, counted(&peer, Rule::NVS_36)),
        (1, 1)
    );
    assert!(peer.nic.is_ready() && peer.nic.outstanding() == 0);
}

#[test]
fn nvs_47_in_band_flood() {
    let mut peer = Peer::ready();
    for _ in 0..30 {
        for _ in 0..10 {
            peer.in_band(0, 0, &134u32.to_le_bytes());
        }
        let _ = peer.poll();
    }
    assert_eq!(counted(&peer, Rule::NVS_01), limits::IN_BAND_PER_INTERVAL);
    assert_eq!(
        counted(&peer, Rule::NVS_47),
        300 - limits::IN_BAND_PER_INTERVAL
    );
    assert!(peer.nic.is_ready());
}

#[test]
fn sections_run_out_and_come_back() {
    let mut peer = Peer::ready();
    let mut taken = 0;
    let full = loop {
        match peer
            .nic
            .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(
        (full, taken),
        (TransmitError::Full, 16 - limits::CONTROL_SECTIONS)
    );
    peer.settle();
    assert!(
        peer.nic
            .transmit(&mut peer.channel, &frame(60, 0), peer.now)
            .is_ok()
    );
}

#[test]
fn frames_of_no_length_are_refused() {
    let mut peer = Peer::ready();
    for len in [0, 13, 1519, 70_000] {
        let bytes = alloc::vec![0; len];
        let result = peer.nic.transmit(&mut peer.channel, &bytes, peer.now);
        assert_eq!(result, Err(TransmitError::BadLength));
    }
    assert_eq!(peer.nic.counters().tx_refused, 4);
    let mut idle = Peer::new();
    let result = idle.nic.transmit(&mut idle.channel, &frame(60, 0), 0);
    assert_eq!(result, Err(TransmitError::NotReady));
}

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
    peer.control(5, peer::set_complete(0, 0).as_bytes());
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
    assert!(peer.nic.counters().link_coalesced > 100);
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
            header: peer::header(rndis::message::KEEPALIVE, 12),
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
            peer.complete(sent.id, peer::transmitted(1).as_bytes());
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

#[test]
fn rng_26_a_poll_has_a_budget() {
    let mut peer = Peer::ready();
    for id in 0..limits::PACKETS_PER_POLL as u64 + 10 {
        peer.in_band(0, id, &[0; 8]);
    }
    let polled = peer.poll();
    assert_eq!(
        (polled.packets, polled.more),
        (limits::PACKETS_PER_POLL, true)
    );
    let polled = peer.poll();
    assert_eq!((polled.packets, polled.more), (10, false));
}

#[test]
fn rng_13_host_that_does_not_read_is_signalled_again() {
    let mut peer = Peer::ready();
    peer.nic
        .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    assert!(peer.nic.flush(&mut peer.channel).is_needed());
    let mut signals = 0;
    for _ in 0..100 {
        peer.now += SECOND / 10;
        signals += u32::from(peer.poll().signal.is_needed());
    }
    // The first scan notes, each further one reminds.
    assert!((8..=10).contains(&signals), "{signals}");
    peer.settle();
    assert_eq!(peer.nic.outstanding(), 0);
    peer.now += 3 * SECOND;
    assert!(!peer.poll().signal.is_needed());
}

#[test]
fn stop_takes_everything_back() {
    let mut peer = Peer::ready();
    peer.nic.stop(peer.now);
    peer.settle();
    assert_eq!(peer.events, [Event::Stopped]);
    let sent: Vec<_> = peer
        .log
        .iter()
        .filter(|sent| sent.kind == 6)
        .cloned()
        .collect();
    let kinds: Vec<u32> = sent.iter().map(|sent| sent.nvsp()).collect();
    assert_eq!(kinds, [107, 107, 103, 106]);
    let filter = peer.rndis(&sent[0]);
    assert_eq!(filter[28..32], [0; 4]);
    assert!(!peer.nic.is_ready() && peer.nic.failed().is_none());
    assert!(peer.nic.counters().validation.violations().next().is_none());
}

#[test]
fn stop_does_not_wait_for_ever() {
    let mut peer = Peer::ready();
    peer.complete_transmits = false;
    peer.nic
        .transmit(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    peer.settle();
    peer.nic.stop(peer.now);
    peer.settle();
    assert!(peer.events.is_empty());
    peer.now += limits::DRAIN;
    peer.settle();
    assert_eq!(peer.events, [Event::Stopped]);
}

#[test]
fn random_packets_of_the_host_end_in_violations_only() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut ends = 0;
    for _ in 0..300 {
        let mut peer = Peer::ready();
        for _ in 0..50 {
            let words: Vec<u8> = (0..40).map(|_| (random() >> 56) as u8 & 0x0F).collect();
            let mut message = packet(&frame(60 + (random() % 1400) as usize, 0));
            let (at, value) = (random() as usize % 60, random());
            message[at] = value as u8;
            match random() % 5 {
                0 => peer.in_band(1, random() % 3, &words),
                1 => peer.complete(random() % 4096, &words[..(random() % 40) as usize]),
                2 => {
                    let ranges = [(random() as u32 % 3000, random() as u32 % 200_000)];
                    peer.transfer(random(), random() as u32 % 3, &ranges);
                }
                3 => {
                    let range = peer.slot(&message);
                    peer.transfer(random(), 0, &[range]);
                }
                _ => peer.control(random(), &message),
            }
            let _ = peer.poll();
            for sent in peer.heard() {
                peer.serve(&sent);
            }
            if peer.nic.failed().is_some() {
                ends += 1;
                break;
            }
        }
    }
    assert!(ends < 300);
}
