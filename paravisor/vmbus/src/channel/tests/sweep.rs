//! Packets of every size near a limit, of which the ring has too few bytes, just
//! enough and too many, at its start and around its end.

use super::*;

/// A channel whose next packet starts at `place`.
fn at(place: u32) -> (Channel<DoubleFetch<PlainShared>>, Host) {
    let (mut channel, mut host) = pair(1);
    if place != 0 {
        let payload = vec![0; place as usize - 24];
        host.put(PacketType::COMPLETION, 0, 1, &payload).unwrap();
        let mut buffer = [0; 4096];
        channel.begin_receive().unwrap();
        channel.receive(&mut buffer).unwrap().unwrap();
        let _ = channel.end_receive().unwrap();
    }
    assert_eq!(host.down(RING_READ_INDEX), place);
    (channel, host)
}

/// RNG_08, RNG_09, RNG_23, PKT_01 to PKT_04, PKT_21: a packet passes exactly if it
/// keeps them all; else the channel is dead with a rule that it breaks.
#[test]
#[cfg_attr(miri, ignore = "thousands of rings")]
fn rng_08_rng_09_rng_23_packets_of_which_the_ring_has_a_part() {
    let mut seen = alloc::collections::BTreeMap::new();
    for place in [0, 4096 - 24, 4096 - 8] {
        for (offset8, length8) in (0..6_u16).flat_map(|o| (0..6_u16).map(move |l| (o, l))) {
            for kind in [PacketType::IN_BAND, PacketType::COMPLETION, PacketType(9)] {
                for available in (0..=64).step_by(8) {
                    let (mut channel, mut host) = at(place);
                    let mut bytes = [0; 64];
                    for (at, word) in [kind.0, offset8, length8].into_iter().enumerate() {
                        bytes[2 * at..][..2].copy_from_slice(&word.to_le_bytes());
                    }
                    host.put_raw(&bytes[..available]);
                    let total = usize::from(length8) * 8 + 8;
                    let in_band = kind == PacketType::IN_BAND;
                    let rules = [
                        (Rule::RNG_08, available < 24),
                        (Rule::RNG_09, total > available),
                        (Rule::PKT_01, offset8 > length8),
                        (Rule::PKT_02, offset8 < 2),
                        (Rule::PKT_03, length8 < 2),
                        (Rule::PKT_04, kind.0 == 9),
                        (Rule::PKT_21, in_band && offset8 == length8),
                    ];
                    let breaks = |rule| rules.contains(&(rule, true));
                    let what = (place, offset8, length8, kind, available);
                    let mut buffer = [0; 4096];
                    channel.begin_receive().unwrap();
                    match channel.receive(&mut buffer) {
                        Ok(None) => assert_eq!(available, 0, "{what:?}"),
                        Ok(Some(packet)) => {
                            assert!(rules.iter().all(|rule| !rule.1), "{what:?}");
                            let payload = usize::from(length8 - offset8) * 8;
                            assert_eq!(packet.payload().len(), payload, "{what:?}");
                            *seen.entry("legal").or_insert(0) += 1;
                            // What lies behind it is no packet.
                            let next = channel.receive(&mut buffer).map(|next| next.is_some());
                            assert_ne!(next, Ok(true), "{what:?}");
                        }
                        Err(ReceiveError::Dropped { violation, .. }) => {
                            assert!(breaks(violation.rule), "{what:?}: {violation}");
                            assert_eq!(violation.rule, Rule::PKT_21, "{what:?}");
                            assert_eq!(channel.dead(), None);
                        }
                        Err(ReceiveError::Corrupt(violation)) => {
                            assert!(breaks(violation.rule), "{what:?}: {violation}");
                            *seen.entry("refused").or_insert(0) += 1;
                            // RNG_23: and nothing else comes from it.
                            host.put(PacketType::COMPLETION, 0, 1, &[]);
                            let again = channel.receive(&mut buffer).map(drop);
                            assert_eq!(again, Err(ReceiveError::Corrupt(violation)));
                        }
                    }
                }
            }
        }
    }
    assert!(seen["legal"] > 100 && seen["refused"] > 1000, "{seen:?}");
}
