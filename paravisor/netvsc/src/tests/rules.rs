//! Rules by their examples.

use super::*;

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

/// The answer about the send buffer (105) while the one about the receive buffer
/// (102) is due. One request is outstanding at a time, so the answer's type
/// (NVS-03) gives it away before the order does.
#[test]
fn nvs_50_answers_in_another_order() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    let sent = peer.heard();
    peer.complete(sent[0].id, peer::init_complete(1).as_bytes());
    let sent = peer.heard();
    let share = sent.last().unwrap();
    peer.complete(share.id, peer::send_buffer_complete().as_bytes());
    peer.settle();
    assert_eq!(share.nvsp(), message::SEND_RECEIVE_BUFFER);
    assert_eq!(failed(&peer), Some(Rule::NVS_03));
    assert!(!peer.nic.is_ready());
    assert!(peer.heard().is_empty());
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

/// A message 133 has nothing to grant: sub-channels are not asked for. In-band it
/// answers nothing ("NVS-04"), as an answer it answers something else ("PKT-16").
#[test]
fn nvs_37_nvs_38_nvs_39_grant_of_sub_channels_is_refused() {
    let mut grant = [0u8; 40];
    for (at, word) in [(0, message::SUB_CHANNEL), (4, 2), (8, u32::MAX)] {
        grant[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let mut peer = Peer::ready();
    peer.in_band(0, 0, &grant);
    peer.settle();
    assert_eq!(counted(&peer, Rule::NVS_04), 1);
    assert!(peer.nic.is_ready());
    // Nothing was asked for on the way up, and nothing waits.
    assert!(
        peer.log
            .iter()
            .all(|sent| sent.nvsp() != message::SUB_CHANNEL)
    );
    let out = frame(60, 0);
    peer.nic
        .transmit(&mut peer.channel, &out, peer.now)
        .unwrap();
    let sent = peer.heard();
    peer.complete(sent[0].id, &grant);
    peer.settle();
    assert_eq!(failed(&peer), Some(Rule::PKT_16));
}

/// The phase machine behind NVS-03: were an answer of another step ever to reach
/// it, the NIC would end. The host cannot bring it there, since one request of the
/// handshake is outstanding at a time and its answer must have its type.
#[test]
fn nvs_50_answer_of_another_phase_ends_the_nic() {
    use validate::nvsp::{Awaited, completion};
    let judged = |payload: &[u8], awaited| completion(payload, awaited).unwrap().value;
    let init = judged(peer::init_complete(1).as_bytes(), Awaited::Init);
    let send = judged(
        peer::send_buffer_complete().as_bytes(),
        Awaited::SendBuffer { len: 1 << 20 },
    );
    for (early, wrong) in [(true, send), (false, init)] {
        let mut peer = if early { Peer::new() } else { Peer::ready() };
        peer.nic.start(peer.now);
        peer.nic.completed(wrong, peer.now);
        assert_eq!(failed(&peer), Some(Rule::NVS_50));
    }
    // The answer of the phase itself goes on.
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    peer.nic.completed(init, peer.now);
    assert_eq!(failed(&peer), None);
}

/// Every wrong answer of the handshake, at every step that awaits one.
#[test]
fn nvs_03_nvs_50_each_wrong_answer_at_each_step() {
    let answers = |right: usize| {
        let all = [
            peer::init_complete(1).as_bytes().to_vec(),
            peer::receive_buffer_complete().as_bytes().to_vec(),
            peer::send_buffer_complete().as_bytes().to_vec(),
            [message::SUB_CHANNEL.to_le_bytes(), 1u32.to_le_bytes()].concat(),
        ];
        let wrong: Vec<_> = (0..4)
            .filter(|i| *i != right)
            .map(|i| all[i].clone())
            .collect();
        (all[right].clone(), wrong)
    };
    for step in 0..3 {
        let (right, wrong) = answers(step);
        for answer in wrong.iter().chain([&right]) {
            let mut peer = Peer::new();
            peer.nic.start(peer.now);
            // The steps before answer honestly.
            let waiting = (0..=step).map(|n| {
                let sent = peer.heard();
                let request = sent.iter().rfind(|sent| sent.flags == 1).unwrap().clone();
                if n < step {
                    peer.serve(&request);
                }
                request
            });
            let request = waiting.last().unwrap();
            peer.complete(request.id, answer);
            let _ = peer.poll();
            let expected = (*answer != right).then_some(Rule::NVS_03);
            assert_eq!(failed(&peer), expected, "step {step}: {answer:x?}");
        }
    }
}

/// A reply about offloads or receive scaling that nobody asked for ("RND-36").
#[test]
fn rnd_57_rnd_58_rnd_59_rnd_60_unasked_capabilities_are_refused() {
    let mut peer = Peer::ready();
    for (id, header) in [(1, 0xA7u8), (2, 0x88)] {
        let mut value = [0xFF; 112];
        value[0] = header;
        peer.control(id, &peer::query_complete(0, 0, &value));
        peer.settle();
        assert_eq!(counted(&peer, Rule::RND_36), id as u32);
    }
    assert_eq!(
        statuses(&peer),
        [(1, status::FAILURE), (2, status::FAILURE)]
    );
    assert!(peer.nic.is_ready());
}

/// What is asked for on the way up: six OIDs, none of which has a text ("RND-61").
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
            oid::LINK_SPEED,
            oid::MEDIA_CONNECT_STATUS,
            oid::CURRENT_PACKET_FILTER,
        ]
    );
    // A name that comes all the same: "RND-36".
    peer.control(9, &peer::query_complete(77, 0, b"\x1b[2J\x1b[31mname"));
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_36), 1);
}

/// Whatever the frame holds, its message has our header and nothing else ("RND-69").
#[test]
fn rnd_69_nothing_but_our_header_and_the_frame_leaves() {
    let mut peer = Peer::ready();
    for (len, fill) in [(14, 0xFF), (60, 0), (1514, 0x81), (1518, 0xFF)] {
        let out = alloc::vec![fill; len];
        peer.nic
            .transmit(&mut peer.channel, &out, peer.now)
            .unwrap();
        let sent = peer.heard();
        let bytes = peer.rndis(&sent[0]);
        let words: Vec<u32> = bytes[..44]
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        let (total, len) = (44 + len as u32, len as u32);
        assert_eq!(words, [1, total, 36, len, 0, 0, 0, 36, 0, 0, 0]);
        assert_eq!(bytes[44..], out);
        peer.serve(&sent[0]);
    }
}

/// The doubted rules refuse ("NVS-25", "NVS-26", "RND-10", "RND-45"), or count and
/// let pass, as the one word of the configuration says.
#[test]
fn nvs_25_nvs_26_rnd_10_rnd_45_in_both_settings() {
    for enforce in [true, false] {
        let up = || {
            let mut peer = Peer::with(Config {
                enforce_unmeasured: enforce,
                ..config()
            });
            peer.nic.start(peer.now);
            peer.settle();
            peer
        };
        let passed = |count: usize| if enforce { 0 } else { count };
        // NVS-25: across two slots; NVS-26: one slot twice.
        let mut peer = up();
        let message = packet(&frame(100, 9));
        let across = SLOT as u32 - 8;
        peer.receive.copy_out(across as usize, &message).unwrap();
        let range = (message.len() as u32, across);
        peer.transfer(5, 0, &[range]);
        peer.settle();
        assert_eq!(counted(&peer, Rule::NVS_25), 1);
        assert_eq!(peer.frames.len(), passed(1));
        let mut peer = up();
        let range = peer.slot(&message);
        // DoubleFetch changes what was read: the second reading is another
        // message, so only the counts and the first frame are looked at.
        peer.transfer(5, 0, &[range, range]);
        peer.settle();
        assert_eq!(counted(&peer, Rule::NVS_26), 1);
        assert_eq!(peer.frames.is_empty(), enforce);
        assert!(peer.nic.is_ready());
        // RND-10: out-of-band data.
        let mut peer = up();
        let mut message = packet(&frame(100, 9));
        message[24..28].copy_from_slice(&1u32.to_le_bytes());
        let range = peer.slot(&message);
        peer.transfer(5, 0, &[range]);
        peer.settle();
        assert_eq!(counted(&peer, Rule::RND_10), 1);
        assert_eq!(peer.frames.len(), passed(1));
        // RND-45: medium 5.
        let mut peer = Peer::with(Config {
            enforce_unmeasured: enforce,
            ..config()
        });
        peer.medium = 5;
        peer.nic.start(peer.now);
        peer.settle();
        assert_eq!(counted(&peer, Rule::RND_45), 1);
        assert_eq!(peer.nic.is_ready(), !enforce);
        assert_eq!(failed(&peer), enforce.then_some(Rule::RND_45));
    }
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
    let ranges = alloc::vec![(8, 0); limits::MAX_RANGES as usize];
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
    let all = 3 * u64::from(limits::MAX_RANGES);
    assert_eq!(polls, all.div_ceil(limits::RANGES_PER_POLL as u64));
    assert!(peer.nic.counters().rx_refused - before >= all);
}
