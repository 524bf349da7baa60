//! NVSP: handshake, buffers, in-band messages.

use super::*;

#[test]
fn nvs_05_version_refused() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    let sent = peer.heard();
    peer.complete(sent[0].id, messages::init_complete(0).as_bytes());
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
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now)
        .unwrap();
    let sent = peer.heard();
    peer.complete(sent[0].id, messages::transmitted(u32::MAX).as_bytes());
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
    peer.complete(sent[0].id, messages::init_complete(1).as_bytes());
    let sent = peer.heard();
    let share = sent.last().unwrap();
    peer.complete(share.id, messages::send_buffer_complete().as_bytes());
    peer.settle();
    assert_eq!(share.nvsp(), message::SEND_RECEIVE_BUFFER);
    assert_eq!(failed(&peer), Some(Rule::NVS_03));
    assert!(!peer.nic.is_ready());
    assert!(peer.heard().is_empty());
}

/// A message 133 has nothing to grant: sub-channels are not asked for. In-band it
/// answers nothing ("NVS-04"), as an answer it answers something else ("PKT-16").
#[test]
fn nvs_04_pkt_16_grant_of_sub_channels_that_nobody_asked_for() {
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
        .transmit_plain(&mut peer.channel, &out, peer.now)
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
    let init = judged(messages::init_complete(1).as_bytes(), Awaited::Init);
    let send = judged(
        messages::send_buffer_complete().as_bytes(),
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
            messages::init_complete(1).as_bytes().to_vec(),
            messages::receive_buffer_complete().as_bytes().to_vec(),
            messages::send_buffer_complete().as_bytes().to_vec(),
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
