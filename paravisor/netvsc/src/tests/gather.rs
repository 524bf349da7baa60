//! Frames that leave together: several messages in one section and one packet, within
//! what the host allows, in order, and none of them held back.

use super::messages::{frame, header, transmitted};
use super::peer::{Peer, SECTION, Sent};
use super::{counted, failed};
use crate::{Event, TransmitError};
use abi::rndis;
use alloc::vec;
use alloc::vec::Vec;
use memory::SharedMemory;
use validate::Rule;
use vmbus::{Outbound, Reply, SendError};
use zerocopy::IntoBytes;

/// Messages about frames have this before the frame.
const HEAD: usize = 44;

fn allowing(messages: u32, transfer: u32, alignment: u32) -> Peer {
    let mut peer = Peer::new();
    peer.allowed = [messages, transfer, alignment];
    peer.started()
}

fn transmit(peer: &mut Peer, frame: &[u8]) -> Result<(), TransmitError> {
    peer.nic.transmit_plain(&mut peer.channel, frame, peer.now)
}

/// The packets about frames that leave when a batch ends.
fn flushed(peer: &mut Peer) -> Vec<Sent> {
    let _ = peer.nic.flush(&mut peer.channel);
    peer.taken()
}

/// Frames of a packet.
fn frames(peer: &Peer, packet: &Sent) -> Vec<Vec<u8>> {
    let messages = peer.frames_of(packet);
    messages
        .iter()
        .map(|bytes| bytes[HEAD..].to_vec())
        .collect()
}

#[test]
fn frames_that_wait_together_leave_in_one_packet() {
    for count in 1..=20usize {
        let mut peer = Peer::ready();
        let sent: Vec<_> = (0..count).map(|n| frame(60 + 7 * n, n as u8)).collect();
        for frame in &sent {
            transmit(&mut peer, frame).unwrap();
        }
        let packets = flushed(&mut peer);
        assert_eq!(packets.len(), count.div_ceil(8));
        let came: Vec<_> = packets.iter().flat_map(|p| frames(&peer, p)).collect();
        assert_eq!(came, sent);
        let counters = peer.nic.counters();
        let counted = [
            counters.tx_frames,
            counters.tx_messages,
            counters.tx_packets,
        ];
        let expected = [count, count, count.div_ceil(8)].map(|n| n as u64);
        assert_eq!(counted, expected);
        assert_eq!(peer.nic.outstanding(), packets.len());
        for packet in &packets {
            peer.serve(packet);
        }
        peer.settle();
        assert_eq!(peer.nic.outstanding(), 0);
    }
}

/// The host's own words: messages in a packet, their bytes, where they start.
#[test]
fn rnd_46_rnd_47_rnd_48_the_host_bounds_what_is_gathered() {
    for (messages, transfer, alignment) in [
        (1, 0xEFFF, 3),
        (2, 0xEFFF, 3),
        (3, 0xEFFF, 0),
        (8, 0xEFFF, 3),
        (8, 0xEFFF, 7),
        (8, 2000, 2),
        // More than the catalogue allows (RND_46, RND_47), and less than a frame (RND_48).
        (0, 0xEFFF, 3),
        (u32::MAX, u32::MAX, 63),
        (8, 0, 3),
    ] {
        let mut peer = allowing(messages, transfer, alignment);
        let broken = [
            (Rule::RND_46, alignment > 7),
            (Rule::RND_47, !(1..=8).contains(&messages)),
            (Rule::RND_48, transfer < 1600),
        ];
        // One of them is noted, the first in their order.
        let noted = broken.iter().find(|(_, broken)| *broken);
        for (rule, _) in broken {
            let times = u32::from(noted.is_some_and(|(noted, _)| *noted == rule));
            assert_eq!(
                counted(&peer, rule),
                times,
                "{messages} {transfer} {alignment}"
            );
        }
        let most = messages.clamp(1, 8) as usize;
        let align = 1usize << alignment.min(7);
        let bytes = (transfer as usize).clamp(1514 + 128, SECTION);
        let sent: Vec<_> = (0..60usize)
            .map(|n| frame([60, 61, 333, 1514][n % 4], n as u8))
            .collect();
        let (mut all, mut packets) = (Vec::new(), 0);
        let mut leave = |peer: &mut Peer| {
            for packet in flushed(peer) {
                let whole = peer.rndis(&packet);
                assert!(whole.len() <= bytes, "{} of {bytes}", whole.len());
                let in_it = frames(peer, &packet);
                assert!(in_it.len() <= most);
                // Where each starts.
                let mut at = 0;
                for _ in &in_it {
                    assert_eq!(at % align, 0);
                    let length: [u8; 4] = whole[at + 4..at + 8].try_into().unwrap();
                    at += u32::from_le_bytes(length) as usize;
                }
                assert_eq!(at, whole.len());
                all.extend(in_it);
                packets += 1;
                peer.serve(&packet);
            }
        };
        for frame in &sent {
            if transmit(&mut peer, frame) == Err(TransmitError::Full) {
                leave(&mut peer);
                let _ = peer.poll();
                transmit(&mut peer, frame).unwrap();
            }
        }
        leave(&mut peer);
        assert_eq!(all, sent);
        assert!(packets >= 60usize.div_ceil(most));
        // As many as fit, not fewer: three of these four lengths fit into 2000 bytes.
        if most == 8 {
            assert!(packets <= 30, "{packets} packets");
        }
    }
}

/// A section that held much shows nothing of it behind a packet that holds little.
#[test]
fn sys_08_nothing_of_earlier_packets_shows() {
    let mut peer = Peer::ready();
    for round in 0..40 {
        let count = [3, 1, 8, 2][round % 4];
        for n in 0..count {
            let len = if count == 3 { 1514 } else { 61 + n };
            transmit(&mut peer, &frame(len, 0xA0 | round as u8)).unwrap();
        }
        for packet in flushed(&mut peer) {
            let mut section = vec![0; SECTION];
            let at = packet.word(8) as usize * SECTION;
            peer.send.copy_in(at, &mut section).unwrap();
            let behind = &section[packet.word(12) as usize..];
            assert!(behind.iter().all(|byte| *byte == 0), "SYS_08");
            assert_eq!(frames(&peer, &packet).len(), count);
            peer.serve(&packet);
        }
        let _ = peer.poll();
    }
}

/// One completion is for all that was in the packet.
#[test]
fn nvs_22_nvs_36_a_completion_is_for_all_frames_of_its_packet() {
    let mut peer = Peer::ready();
    let small = frame(60, 1);
    for _ in 0..14 * 8 {
        transmit(&mut peer, &small).unwrap();
    }
    assert_eq!(transmit(&mut peer, &small), Err(TransmitError::Full));
    let packets = flushed(&mut peer);
    assert_eq!(packets.len(), 14);
    // NVS_22: the one section comes back, for eight more.
    peer.complete(
        packets[3].id,
        transmitted(abi::nvsp::status::FAILURE).as_bytes(),
    );
    let _ = peer.poll();
    assert_eq!(peer.nic.counters().tx_errors, 8);
    assert_eq!(counted(&peer, Rule::NVS_36), 1);
    for _ in 0..8 {
        transmit(&mut peer, &small).unwrap();
    }
    assert_eq!(transmit(&mut peer, &small), Err(TransmitError::Full));
    let again = flushed(&mut peer);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].word(8), packets[3].word(8));
    assert_ne!(again[0].id, packets[3].id);
    // PKT_15: not twice.
    peer.complete(packets[3].id, transmitted(1).as_bytes());
    let _ = peer.poll();
    assert!(peer.nic.failed().is_none());
    assert_eq!(peer.nic.outstanding(), 14);
}

/// Whatever comes next leaves behind the frames that were there before.
#[test]
fn what_was_begun_leaves_first() {
    let mut peer = Peer::ready();
    transmit(&mut peer, &frame(60, 1)).unwrap();
    transmit(&mut peer, &frame(61, 2)).unwrap();
    // The next poll sends it without being told to.
    let keepalive = rndis::Keepalive {
        header: header(rndis::message::KEEPALIVE, 12),
        request_id: 5.into(),
    };
    peer.control(77, keepalive.as_bytes());
    let sent: Vec<_> = peer.heard().into_iter().filter(|s| s.kind == 6).collect();
    assert_eq!(frames(&peer, &sent[0]), [frame(60, 1), frame(61, 2)]);
    assert_eq!((sent.len(), sent[1].word(4)), (2, 1));
    sent.iter().for_each(|packet| peer.serve(packet));
    peer.settle();

    // An orderly stop takes the frames along.
    transmit(&mut peer, &frame(62, 3)).unwrap();
    peer.nic.stop(peer.now);
    assert_eq!(peer.nic.outstanding(), 1);
    let sent = peer.heard();
    assert_eq!(frames(&peer, &sent[0]), [frame(62, 3)]);
    assert_eq!((sent.len(), sent[1].word(4)), (2, 1));
    sent.iter().for_each(|packet| peer.serve(packet));
    peer.settle();
    assert_eq!(peer.events, [Event::Stopped]);
}

/// A packet is begun only if it can be queued later: a full ring refuses the frame, and
/// nothing of it is kept.
#[test]
fn rng_17_a_full_ring_refuses_a_frame_before_it_is_copied() {
    let mut peer = Peer::ready();
    let filling = loop {
        let kind = Outbound::InBand(Reply::None);
        if let Err(error) = peer.channel.queue(kind, 0, &[&[0; 8]]) {
            break error;
        }
    };
    assert_eq!(filling, SendError::Full);
    for _ in 0..3 {
        assert_eq!(transmit(&mut peer, &frame(60, 1)), Err(TransmitError::Full));
    }
    assert_eq!((peer.nic.outstanding(), failed(&peer)), (0, None));
    assert_eq!(peer.nic.counters().tx_messages, 0);
    // There is room for one packet more once some are read, and it is kept for it.
    let _ = peer.channel.flush();
    peer.taken();
    for n in 0..8 {
        transmit(&mut peer, &frame(60 + n, 1)).unwrap();
    }
    let packets = flushed(&mut peer);
    assert_eq!((packets.len(), peer.nic.counters().tx_messages), (1, 8));
    assert_eq!(frames(&peer, &packets[0]).len(), 8);
}
