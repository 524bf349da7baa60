//! The NIC against a scripted host, over rings and buffers that change after
//! their first read.

mod coalesce;
mod gather;
mod hash;
mod lanes;
mod messages;
mod offload;
mod peer;
mod races;
mod rules;
mod structural;
mod sweep;

use crate::limits::{self, SECOND};
use crate::{Config, Event, Sending, TransmitError};
use abi::nvsp::{self, message, status};
use abi::rndis::{self, oid};
use alloc::vec::Vec;
use memory::SharedMemory;
use messages::{frame, packet};
use peer::{MAC, Peer, SECTION, SLOT, SLOTS, config};
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
    assert_eq!((peer.log[1].word(4), peer.log[1].word(12)), (1514, 0x28));
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
        .transmit_plain(&mut peer.channel, &out, peer.now)
        .unwrap();
    assert!(peer.nic.flush(&mut peer.channel).is_needed());
    let sent = peer.heard();
    assert_eq!(peer.frames_of(&sent[0])[0][44..], out);
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
                .transmit_plain(&mut peer.channel, &out, peer.now)
                .unwrap();
        }
        let _ = peer.nic.flush(&mut peer.channel);
        let sent = peer.heard();
        let echo: Vec<_> = sent
            .iter()
            .filter(|sent| sent.kind == 6)
            .flat_map(|sent| {
                peer.serve(sent);
                peer.frames_of(sent)
            })
            .map(|message| message[44..].to_vec())
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
fn sections_run_out_and_come_back() {
    let mut peer = Peer::ready();
    let mut taken = 0;
    let full = loop {
        match peer
            .nic
            .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
        {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    // As many messages in each as the host allows.
    assert_eq!(
        (full, taken),
        (TransmitError::Full, 8 * (16 - limits::CONTROL_SECTIONS))
    );
    peer.settle();
    assert!(
        peer.nic
            .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
            .is_ok()
    );
}

#[test]
fn frames_of_no_length_are_refused() {
    let mut peer = Peer::ready();
    for len in [0, 13, 1519, 70_000] {
        let bytes = alloc::vec![0; len];
        let result = peer.nic.transmit_plain(&mut peer.channel, &bytes, peer.now);
        assert_eq!(result, Err(TransmitError::BadLength));
    }
    assert_eq!(peer.nic.counters().tx_refused, 4);
    let mut idle = Peer::new();
    let result = idle.nic.transmit_plain(&mut idle.channel, &frame(60, 0), 0);
    assert_eq!(result, Err(TransmitError::NotReady));
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
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
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
fn a_second_stop_changes_nothing() {
    let mut peer = Peer::ready();
    peer.complete_transmits = false;
    let small = frame(60, 0);
    peer.nic
        .transmit_plain(&mut peer.channel, &small, peer.now)
        .unwrap();
    peer.nic.stop(peer.now);
    peer.settle();
    // The ring is full when the buffers are to be taken back: that waits.
    let mute = vmbus::Outbound::InBand(vmbus::Reply::None);
    let filler = [[0; 40].as_slice()];
    while peer.channel.queue(mute, 0, &filler).is_ok() {}
    peer.now += limits::DRAIN + 1;
    let _ = peer.poll();
    peer.nic.stop(peer.now);
    let _ = peer.poll();
    assert!(peer.events.is_empty(), "{:?}", peer.events);
    let log = peer.log.len();
    peer.settle();
    assert_eq!(peer.events, [Event::Stopped]);
    let ours = peer.log[log..].iter().filter(|sent| sent.nvsp() != 0);
    let kinds: Vec<u32> = ours.map(|sent| sent.nvsp()).collect();
    assert_eq!(kinds, [103, 106]);
}

#[test]
fn the_owner_is_told_of_one_end() {
    let broken = validate::Violation::new(Rule::RNG_05, 4, 3u32);
    for told in [false, true] {
        let mut peer = Peer::ready();
        peer.nic.stop(peer.now);
        let mut ends = Vec::new();
        for _ in 0..20 {
            let now = peer.now;
            let taken = |_: &[u8]| crate::Delivery::Taken;
            let _ = peer.nic.poll(&mut peer.channel, now, taken);
            if peer.nic.next_deadline().is_none() {
                break;
            }
            let sent = peer.heard();
            sent.iter().for_each(|sent| peer.serve(sent));
        }
        assert_eq!(peer.nic.next_deadline(), None);
        if told {
            ends.extend(peer.nic.take_event(peer.now));
        }
        peer.channel.condemn(broken);
        let _ = peer.nic.flush(&mut peer.channel);
        ends.extend(core::iter::from_fn(|| peer.nic.take_event(peer.now)));
        ends.extend(peer.events.iter().copied());
        let end = match told {
            false => Event::Failed(broken),
            true => Event::Stopped,
        };
        assert_eq!(ends, [end]);
    }
}

#[test]
fn a_link_that_may_not_be_told_yet_wakes_nobody() {
    // The link is known before the packet filter is set, and told once it is.
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    for _ in 0..40 {
        let sent = peer.heard();
        let due = peer.nic.next_deadline().unwrap();
        assert!(due > peer.now, "always due");
        sent.iter().for_each(|sent| peer.serve(sent));
        peer.now += 100;
    }
    assert_eq!(peer.events.last(), Some(&Event::Link { up: true }));
    // The same while it stops.
    peer.indicate(1, rndis::status::MEDIA_DISCONNECT);
    peer.settle();
    peer.indicate(2, rndis::status::MEDIA_CONNECT);
    peer.mute = true;
    peer.settle();
    peer.nic.stop(peer.now);
    peer.now += limits::LINK_INTERVAL + 1;
    let _ = peer.poll();
    assert!(peer.nic.next_deadline().unwrap() > peer.now);
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
