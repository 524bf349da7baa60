//! Packets, requests and budgets.

use super::*;

#[test]
fn sys_08_nothing_of_an_earlier_frame_stays() {
    let mut peer = Peer::ready();
    for len in [1514, 60] {
        let out = frame(len, 0x5A);
        peer.nic
            .transmit_plain(&mut peer.channel, &out, peer.now)
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
        peer.complete(
            0xFFFF_8880_0000_1000 + id,
            messages::transmitted(1).as_bytes(),
        );
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
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    let sent = peer.heard();
    peer.complete(sent[0].id, messages::transmitted(1).as_bytes());
    peer.complete(sent[0].id, messages::transmitted(1).as_bytes());
    peer.settle();
    assert_eq!(counted(&peer, Rule::PKT_15), 1);
    assert!(peer.nic.is_ready());
}

#[test]
fn pkt_16_init_answered_as_a_transmit() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    let sent = peer.heard();
    peer.complete(sent[0].id, messages::transmitted(1).as_bytes());
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
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
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
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
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
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
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

/// One id for two packets in a row: each is answered before the next is read, so
/// nothing is outstanding twice and no setting decides ("PKT-19", "NVS-30").
#[test]
fn pkt_19_nvs_30_same_id_twice_is_never_outstanding_twice() {
    for enforce_unmeasured in [true, false] {
        let mut peer = Peer::with(Config {
            enforce_unmeasured,
            ..config()
        });
        peer.nic.start(peer.now);
        peer.settle();
        peer.log.clear();
        let count = SLOTS as u64 + 1;
        for _ in 0..count {
            let range = peer.slot(&packet(&frame(60, 3)));
            peer.transfer(u64::MAX, 0, &[range]);
            peer.settle();
        }
        assert_eq!(statuses(&peer).len() as u64, count);
        assert!(
            statuses(&peer)
                .iter()
                .all(|answer| *answer == (u64::MAX, 1))
        );
        assert!(peer.nic.counters().validation.violations().next().is_none());
    }
}

/// The worst packets: as many ranges as fit, each with as much information as is
/// allowed. A poll takes its budget and no more ("SYS-16").
#[test]
fn sys_16_work_of_a_poll_is_bounded() {
    let mut peer = Peer::with(Config {
        enforce_unmeasured: false,
        ..config()
    });
    peer.nic.start(peer.now);
    peer.settle();
    let ranges = alloc::vec![(8, 0); nvsp::MAX_RANGES as usize];
    for id in 1..=3 {
        peer.transfer(id, 0, &ranges);
    }
    let before = peer.nic.counters().rx_refused;
    let mut polls = 0;
    loop {
        let seen = peer
            .nic
            .counters()
            .validation
            .messages(validate::Layer::Rndis);
        let more = peer.poll().more;
        let seen_now = peer
            .nic
            .counters()
            .validation
            .messages(validate::Layer::Rndis);
        assert!(seen_now - seen <= limits::RANGES_PER_POLL as u64);
        polls += 1;
        if !more {
            break;
        }
    }
    let all = 3 * u64::from(nvsp::MAX_RANGES);
    assert_eq!(polls, all.div_ceil(limits::RANGES_PER_POLL as u64));
    assert!(peer.nic.counters().rx_refused - before >= all);
}
