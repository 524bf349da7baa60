//! Sub-channels: the request, its answer, and lanes.

use super::messages::scale;
use super::peer::Wires;
use super::*;
use crate::Delivery;

fn wanting(sub_channels: u16) -> Peer {
    let mut config = config();
    config.sub_channels = sub_channels;
    Peer::with(config)
}

/// A peer that starts, ready or not in the end.
fn start(mut peer: Peer) -> Peer {
    peer.nic.start(peer.now);
    peer.settle();
    peer
}

fn granted(peer: &Peer) -> Option<u16> {
    peer.events.iter().find_map(|event| match event {
        Event::SubChannels { count } => Some(*count),
        _ => None,
    })
}

#[test]
fn asked_for_in_front_of_the_filter_and_told_in_order() {
    let peer = start(wanting(3));
    assert!(peer.nic.is_ready());
    assert_eq!(peer.asked, Some(3));
    let events: Vec<Event> = peer.events.iter().copied().take(3).collect();
    assert_eq!(events[0], Event::SubChannelsAsked { count: 3 });
    assert_eq!(events[1], Event::SubChannels { count: 3 });
    assert!(matches!(events[2], Event::Ready { .. }));
    assert_eq!(peer.nic.granted_sub_channels(), 3);
    assert_eq!(peer.nic.counters().validation.total(), 0);
    // A NIC that wants none says nothing of them.
    let alone = start(wanting(0));
    assert!(alone.nic.is_ready() && alone.asked.is_none());
    assert_eq!(granted(&alone), None);
}

/// No more than the host has queues, and than there are sections for.
#[test]
fn no_more_than_there_is_for_them() {
    for (wanted, queues, asked) in [(63, 8, Some(3)), (2, 8, Some(2)), (63, 3, Some(2))] {
        let mut peer = wanting(wanted);
        peer.scale = scale(queues);
        assert_eq!(start(peer).asked, asked);
    }
    for scale in [scale(1), scale(0), scale(u32::MAX)] {
        let mut peer = wanting(3);
        peer.scale = scale;
        let peer = start(peer);
        assert!(peer.nic.is_ready() && peer.asked.is_none());
    }
    let mut peer = wanting(3);
    peer.refuse_oid = Some(oid::RECEIVE_SCALE_CAPABILITIES);
    let peer = start(peer);
    assert!(peer.nic.is_ready() && peer.asked.is_none());
}

/// A host that makes large slots does not make the channels need more memory than there
/// is for 64 processors.
#[test]
fn large_slots_mean_fewer_channels() {
    use crate::limits::{SLOT_COPIES, sub_channels_for};
    assert!(sub_channels_for(1728) >= 63 && sub_channels_for(0) >= 63);
    for size in [1, 1728, 9216, validate::nvsp::MAX_SLOT as usize] {
        let channels = usize::from(sub_channels_for(size)).min(63);
        assert!(channels > 0 && channels * size <= SLOT_COPIES, "{size}");
    }
}

#[test]
fn rnd_60_foolish_queues_leave_one_channel() {
    let mut peer = wanting(3);
    peer.scale = scale(u32::MAX);
    let peer = start(peer);
    assert!(peer.nic.is_ready() && peer.asked.is_none());
    assert_eq!(counted(&peer, Rule::RND_60), 1);
}

#[test]
fn nvs_37_refused_sub_channels_leave_one_channel() {
    for grant in [(2, 8), (0, 0), (u32::MAX, 3)] {
        let mut peer = wanting(3);
        peer.grant = Some(grant);
        let mut peer = start(peer);
        assert!(peer.nic.is_ready());
        assert_eq!(granted(&peer), Some(0));
        assert_eq!(counted(&peer, Rule::NVS_37), 1);
        let (receive, send) = peer.views();
        assert!(peer.nic.lane(1, receive, send, peer.now).is_err());
        // All sections are the primary's.
        peer.complete_transmits = false;
        let frame = frame(60, 0);
        let mut count = 0;
        while peer
            .nic
            .transmit_plain(&mut peer.channel, &frame, peer.now)
            .is_ok()
        {
            count += 1;
        }
        assert_eq!(count, 8 * 14);
    }
}

#[test]
fn nvs_38_more_than_asked_for_ends_the_nic() {
    let mut peer = wanting(3);
    peer.grant = Some((1, u32::MAX));
    let peer = start(peer);
    assert_eq!(peer.nic.failed().map(|v| v.rule), Some(Rule::NVS_38));
}

#[test]
fn pkt_24_no_answer_about_sub_channels() {
    let mut peer = wanting(3);
    peer.grant = None;
    let mut peer = start(peer);
    assert!(!peer.nic.is_ready());
    peer.now += limits::REQUEST_DEADLINE + 1;
    let _ = peer.poll();
    assert_eq!(peer.nic.failed().map(|v| v.rule), Some(Rule::PKT_24));
}

/// Each lane has its own sections and its own ids; a completion is known on its
/// own channel only.
#[test]
fn pkt_18_nvs_22_lanes_share_nothing() {
    let mut peer = start(wanting(3));
    peer.complete_transmits = false;
    let out = frame(60, 0);
    let mut sections = Vec::new();
    let mut ids = Vec::new();
    let mut lanes: Vec<_> = (1..=3)
        .map(|index| {
            let (receive, send) = peer.views();
            (
                peer.nic.lane(index, receive, send, peer.now).unwrap(),
                Wires::new(),
            )
        })
        .collect();
    for (lane, wires) in &mut lanes {
        peer.change(wires);
        while lane
            .transmit_plain(&mut peer.channel, &out, peer.now)
            .is_ok()
        {}
        let again = lane.transmit_plain(&mut peer.channel, &out, peer.now);
        assert_eq!(again, Err(TransmitError::Full));
        let _ = lane.flush(&mut peer.channel);
        let sent = peer.taken();
        assert_eq!(lane.outstanding(), sent.len());
        sections.extend(sent.iter().map(|sent| sent.word(8)));
        ids.extend(sent.iter().map(|sent| sent.id));
        peer.change(wires);
    }
    while peer
        .nic
        .transmit_plain(&mut peer.channel, &out, peer.now)
        .is_ok()
    {}
    let _ = peer.nic.flush(&mut peer.channel);
    let sent = peer.taken();
    sections.extend(sent.iter().map(|sent| sent.word(8)));
    let primary = sent[0].id;
    sections.sort_unstable();
    let before = sections.len();
    sections.dedup();
    // 2 are reserved on each.
    assert_eq!((sections.len(), before), (8, 8), "NVS-22");
    let (lane, wires) = &mut lanes[0];
    peer.change(wires);
    for id in [ids[2], primary] {
        peer.complete(id, messages::transmitted(status::SUCCESS).as_bytes());
    }
    let _ = lane.poll(&mut peer.channel, peer.now, |_| Delivery::Taken);
    assert_eq!(lane.counters().validation.of(Rule::PKT_13), 2, "PKT-18");
    peer.complete(ids[0], messages::transmitted(status::SUCCESS).as_bytes());
    let _ = lane.poll(&mut peer.channel, peer.now, |_| Delivery::Taken);
    assert_eq!(lane.outstanding(), 1);
}

/// Frames and nothing else.
#[test]
fn nvs_48_a_lane_takes_no_control() {
    let mut peer = start(wanting(3));
    let (receive, send) = peer.views();
    let mut lane = peer.nic.lane(1, receive, send, peer.now).unwrap();
    peer.change(&mut Wires::new());
    let mut got = 0;
    let mut message = [0; 40];
    message[..4].copy_from_slice(&message::SEND_VF_ASSOCIATION.to_le_bytes());
    peer.in_band(0, 0, &message);
    let _ = lane.poll(&mut peer.channel, peer.now, |_| {
        got += 1;
        Delivery::Taken
    });
    assert_eq!(lane.counters().validation.of(Rule::NVS_48), 1);
    let range = peer.slot(&packet(&frame(60, 0)));
    peer.transfer(5, 0, &[range]);
    let _ = lane.poll(&mut peer.channel, peer.now, |_| {
        got += 1;
        Delivery::Taken
    });
    assert_eq!((got, lane.failed()), (1, None));
    // An answer to a request of the NIC's own.
    peer.control(77, messages::set_complete(1, 0).as_bytes());
    let _ = lane.poll(&mut peer.channel, peer.now, |_| Delivery::Taken);
    assert!(lane.counters().validation.total() > 1);
}

#[test]
fn frames_are_spread() {
    let mut peer = start(wanting(3));
    peer.nic.spread(0b1011);
    peer.settle();
    let [value] = &peer.spread[..] else {
        panic!("{}", peer.spread.len())
    };
    let word = |at: usize| u32::from_le_bytes(value[at..at + 4].try_into().unwrap());
    assert_eq!((value[0], value.len()), (0x89, 40 + 512 + 40));
    assert_eq!((word(8), word(16), word(24)), (0x1701, 40, 552));
    let table: Vec<u32> = (0..128).map(|entry| word(40 + 4 * entry)).collect();
    assert_eq!(table[..6], [0, 1, 3, 0, 1, 3]);
    assert!(value[552..] != [0; 40]);
    // Refused: all come on the primary, and nothing ends.
    peer.refuse_oid = Some(oid::RECEIVE_SCALE_PARAMETERS);
    peer.nic.spread(1);
    peer.settle();
    assert_eq!(peer.spread.len(), 2);
    assert_eq!(counted(&peer, Rule::RND_41), 1);
    assert!(peer.nic.is_ready());
}

#[test]
fn rnd_65_no_answer_to_the_spread() {
    let mut peer = start(wanting(3));
    peer.mute_spread = true;
    peer.nic.spread(3);
    peer.settle();
    assert_eq!(peer.spread.len(), 1);
    let due = peer.nic.next_deadline();
    assert!(due.is_some_and(|due| due <= peer.now + limits::REQUEST_DEADLINE));
    peer.now += limits::REQUEST_DEADLINE + 1;
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_65), 1);
    assert!(peer.nic.is_ready());
    // And once more: what the host does is not known, so that it is switched off first.
    peer.mute_spread = false;
    peer.nic.spread(3);
    peer.settle();
    let flags: Vec<u8> = peer.spread.iter().map(|value| value[4]).collect();
    assert_eq!(flags, [0, 0x10, 0]);
}
