//! Rules of the ring, each with what a host does against it.

use super::*;
use crate::limits::{STORM_PERIOD, STORM_PERIODS};

#[test]
fn rng_01_our_indices_are_only_written() {
    let (mut channel, mut host) = pair(1);
    let _ = channel.send(IN_BAND, 1, &[b"one"]).unwrap();
    host.take().unwrap();
    host.set_up(RING_WRITE_INDEX, 0x7fff_fff0);
    host.set_down(RING_READ_INDEX, 0x7fff_fff0);
    let _ = channel.send(IN_BAND, 2, &[b"two"]).unwrap();
    assert_eq!(host.up(RING_WRITE_INDEX), 64);
    assert_eq!(host.take().unwrap().0.transaction_id.get(), 2);
    host.put_raw(&packet(PacketType::COMPLETION, 0, 3, &[0; 8]));
    host.put_raw(&[0; 8]);
    assert!(channel.receive(&mut [0; 64]).unwrap().is_some());
}

#[test]
fn rng_02_to_06_lying_indices_kill_the_channel() {
    let lies = [
        (RING_WRITE_INDEX, 4096, Rule::RNG_02),
        (RING_WRITE_INDEX, 0x13, Rule::RNG_03),
        (RING_WRITE_INDEX, 8, Rule::RNG_08),
    ];
    for (word, value, rule) in lies {
        let (mut channel, host) = pair(1);
        host.set_down(word, value);
        assert_eq!(corrupt(channel.receive(&mut [0; 64])), rule);
        assert_eq!(channel.counters().of(rule), 1);
    }
    for (value, rule) in [
        (0xffff_fff8, Rule::RNG_04),
        (4, Rule::RNG_04),
        (64, Rule::RNG_05),
    ] {
        let (mut channel, host) = pair(1);
        host.set_up(RING_READ_INDEX, value);
        match channel.send(IN_BAND, 1, &[b"x"]) {
            Err(SendError::Corrupt(violation)) => assert_eq!(violation.rule, rule),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rng_06_the_write_index_goes_back() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.put(PacketType::COMPLETION, 0, 2, &[0; 8]).unwrap();
    let mut buffer = [0; 64];
    channel.receive(&mut buffer).unwrap().unwrap();
    host.set_down(RING_WRITE_INDEX, 32);
    assert_eq!(channel.has_packets().unwrap_err().rule, Rule::RNG_06);
}

#[test]
fn rng_09_a_packet_beyond_the_available_bytes() {
    let (mut channel, mut host) = pair(1);
    // 32 bytes with a length of 32: no room for the trailer.
    host.put_raw(&packet(PacketType::COMPLETION, 0, 1, &[0; 16]));
    assert_eq!(corrupt(channel.receive(&mut [0; 64])), Rule::RNG_09);
}

#[test]
fn rng_12_the_mask_is_ours_to_write_only() {
    let (mut channel, mut host) = pair(1);
    host.set_down(RING_INTERRUPT_MASK, 0xffff_ffff);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    // No interrupt comes; the poll by the clock finds it.
    assert_eq!(channel.has_packets(), Ok(true));
}

#[test]
fn rng_15_a_mad_pending_size_is_clamped_and_counted() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.set_down(RING_PENDING_SEND_SIZE, u32::MAX);
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    assert!(channel.end_receive().unwrap().signal.is_needed());
    assert_eq!(channel.counters().of(Rule::RNG_15), 1);
    assert!(channel.dead().is_none());
    // Ring size less one: signalled when empty, nothing to count.
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.set_down(RING_PENDING_SEND_SIZE, 4095);
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    assert!(channel.end_receive().unwrap().signal.is_needed());
    assert_eq!(channel.counters().of(Rule::RNG_15), 1);
}

#[test]
fn rng_18_the_last_look_uses_our_read_index() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    host.set_down(RING_READ_INDEX, 8);
    assert!(!channel.end_receive().unwrap().more);
}

/// Events about nothing are attended to for a while, then by the clock (RNG_30);
/// data ends it, and a storm that lasts resets the channel (SYN_18).
#[test]
#[cfg_attr(
    miri,
    ignore = "counts a hundred thousand events and touches little memory"
)]
fn rng_30_syn_18_events_about_nothing() {
    let (mut channel, mut host) = pair(1);
    let mut now = 1000;
    // A neighbour: a packet behind each event, however many.
    let mut buffer = [0; 64];
    for id in 0..1000 {
        host.put(PacketType::COMPLETION, 0, id, &[0; 8]).unwrap();
        assert_eq!(channel.on_event(now), Ok(Attention::Now));
        channel.receive(&mut buffer).unwrap().unwrap();
        let _ = channel.end_receive().unwrap();
    }
    // So is an event behind which the host made room.
    let _ = channel.send(IN_BAND, 1, &[b"x"]).unwrap();
    host.take().unwrap();
    assert_eq!(channel.on_event(now), Ok(Attention::Now));
    for _ in 1..SPURIOUS_EVENTS {
        assert_eq!(channel.on_event(now), Ok(Attention::Now));
    }
    assert_eq!(channel.counters().of(Rule::RNG_30), 0);
    let next = now + STORM_PERIOD;
    assert_eq!(channel.on_event(now), Ok(Attention::At(next)));
    assert_eq!(channel.counters().of(Rule::RNG_30), 1);
    assert_eq!(channel.counters().of(Rule::SYN_18), 1);
    // A storm: one look per period, and the rings are not touched for the rest.
    for _ in 0..100 {
        for _ in 0..1000 {
            assert!(matches!(channel.on_event(now), Ok(Attention::At(at)) if at > now));
        }
        now += STORM_PERIOD;
        assert_eq!(channel.on_event(now), Ok(Attention::Now));
    }
    // Rare events again: as before.
    now += STORM_PERIOD;
    assert_eq!(channel.on_event(now), Ok(Attention::Now));
    assert_eq!(channel.on_event(now), Ok(Attention::Now));
    assert_eq!(channel.traffic().storms, 1);
    assert!(channel.dead().is_none());
    // And one that lasts.
    let mut periods = 0;
    let violation = 'storm: loop {
        for _ in 0..1000 {
            if let Err(violation) = channel.on_event(now) {
                break 'storm violation;
            }
        }
        periods += 1;
        now += STORM_PERIOD;
        assert!(periods < 2 * STORM_PERIODS);
    };
    assert_eq!(violation.rule, Rule::SYN_18);
    assert_eq!(channel.dead(), Some(violation));
    assert_eq!(channel.traffic().packets_in, 1000);
    assert_eq!(channel.traffic().packets_out, 1);
}

#[test]
fn rng_19_nothing_is_seeded_from_the_shared_page() {
    let (mut channel, mut host) = pair(1);
    host.set_down(RING_READ_INDEX, 0x800);
    host.set_up(RING_WRITE_INDEX, 0x800);
    host.put_raw(&packet(PacketType::COMPLETION, 0, 77, &[0; 8]));
    host.put_raw(&[0; 8]);
    let mut buffer = [0; 64];
    assert_eq!(
        channel
            .receive(&mut buffer)
            .unwrap()
            .unwrap()
            .transaction_id(),
        77
    );
}

#[test]
fn rng_22_a_packet_longer_than_the_buffer() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::COMPLETION, 0, 1, &[0; 64]).unwrap();
    assert_eq!(corrupt(channel.receive(&mut [0; 72])), Rule::RNG_22);
}

#[test]
fn rng_23_no_resynchronisation() {
    let (mut channel, mut host) = pair(1);
    host.put_raw(&packet(PacketType::GPA_DIRECT, 0, 1, &[0; 8]));
    host.put_raw(&[0; 8]);
    host.put(PacketType::COMPLETION, 0, 2, &[0; 8]).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(corrupt(channel.receive(&mut buffer)), Rule::PKT_04);
    assert_eq!(corrupt(channel.receive(&mut buffer)), Rule::PKT_04);
    assert!(matches!(
        channel.send(IN_BAND, 1, &[]),
        Err(SendError::Corrupt(_))
    ));
    assert!(channel.end_receive().is_err() && channel.begin_receive().is_err());
}

#[test]
fn rng_24_trailers_are_not_read() {
    let (mut channel, mut host) = pair(1);
    let mut buffer = [0; 64];
    for id in 0..turns(1000, 40) {
        host.put_raw(&packet(PacketType::COMPLETION, 0, id, &[0; 8]));
        host.put_raw(&[0xff; 8]);
        assert_eq!(
            channel
                .receive(&mut buffer)
                .unwrap()
                .unwrap()
                .transaction_id(),
            id
        );
        let _ = channel.end_receive().unwrap();
    }
}

#[test]
fn rng_27_eight_bytes_stay_free() {
    let (mut channel, host) = pair(1);
    // 4088 bytes are the most: descriptor 16, trailer 8.
    assert_eq!(channel.max_payload(), 4064);
    let _ = channel.send(IN_BAND, 1, &[&[1; 4064]]).unwrap();
    assert_eq!(host.up(RING_WRITE_INDEX), 4088);
    assert_eq!(channel.send(IN_BAND, 2, &[]), Err(SendError::Full));
}

#[test]
fn rng_28_padding_and_trailer_are_zero() {
    let (mut channel, mut host) = pair(1);
    // Let the memory be dirty first.
    host.memory
        .copy_out(RING_HEADER_SIZE, &[0xee; 4096])
        .unwrap();
    for _ in 0..3 {
        let at = host.read;
        let _ = channel.send(IN_BAND, 1, &[&[0xff; 29]]).unwrap();
        let (_, payload, trailer) = host.take().unwrap();
        assert_eq!(payload[29..], [0; 3]);
        assert_eq!(trailer, u64::from(at) << 32);
    }
}

#[test]
fn pkt_07_a_dropped_packet_is_consumed() {
    let (mut channel, mut host) = pair(1);
    host.put(PacketType::TRANSFER_PAGES, 1, 0xabcd, &[0; 16])
        .unwrap();
    host.put(PacketType::COMPLETION, 0, 5, &[0; 8]).unwrap();
    let mut buffer = [0; 64];
    match channel.receive(&mut buffer) {
        Err(ReceiveError::Dropped {
            violation,
            transaction_id,
            completion_requested,
        }) => {
            assert_eq!(violation.rule, Rule::PKT_07);
            assert_eq!((transaction_id, completion_requested), (0xabcd, true));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        channel
            .receive(&mut buffer)
            .unwrap()
            .unwrap()
            .transaction_id(),
        5
    );
    assert_eq!(channel.counters().of(Rule::PKT_07), 1);
}
