//! PACKET and per-packet information.

use super::*;

#[test]
fn rnd_05_packet_header_cut_short() {
    let bytes = packet(|header| header.header.length = 12.into());
    assert_eq!(rule(judge(&bytes)), Rule::RND_05);
}

#[test]
fn rnd_06_frame_over_the_header() {
    for offset in [0, 35] {
        let bytes = packet(|header| header.data_offset = offset.into());
        assert_eq!(rule(judge(&bytes)), Rule::RND_06);
    }
}

#[test]
fn rnd_07_frame_beyond_the_message() {
    let wrap = packet(|header| {
        header.data_offset = 0xFFFF_FFFC.into();
        header.data_length = 16.into();
    });
    assert_eq!(rule(judge(&wrap)), Rule::RND_07);
    let one_more = packet(|header| header.data_length = 61.into());
    assert_eq!(rule(judge(&one_more)), Rule::RND_07);
}

#[test]
fn rnd_08_frame_without_ethernet_header() {
    assert_eq!(
        rule(judge(&packet_with(&[], &frame(1), |_| ()))),
        Rule::RND_08
    );
    assert_eq!(
        rule(judge(&packet_with(&[], &frame(13), |_| ()))),
        Rule::RND_08
    );
    assert_eq!(
        delivered(&packet_with(&[], &frame(14), |_| ()))
            .frame()
            .len(),
        14
    );
}

#[test]
fn rnd_09_frame_too_long() {
    assert_eq!(
        rule(judge(&packet_with(&[], &frame(60_000), |_| ()))),
        Rule::RND_09
    );
    assert_eq!(
        rule(judge(&packet_with(&[], &frame(1519), |_| ()))),
        Rule::RND_09
    );
    assert_eq!(
        delivered(&packet_with(&[], &frame(1518), |_| ()))
            .frame()
            .len(),
        1518
    );
}

#[test]
fn rnd_10_out_of_band_data() {
    let bytes = packet(|header| header.oob_count = 1.into());
    assert_eq!(rule(judge(&bytes)), Rule::RND_10);
    let mut counting = context();
    counting.packet.refuse_oob = false;
    assert_eq!(
        noted(message(&bytes, Carrier::Data, &counting)),
        Some(Rule::RND_10)
    );
}

#[test]
fn rnd_11_reserved_words_are_not_looked_at() {
    let bytes = packet(|header| {
        header.vc_handle = u32::MAX.into();
        header.reserved = u32::MAX.into();
    });
    assert!(judge(&bytes).unwrap().noted.is_none());
}

#[test]
fn rnd_12_information_at_offset_zero() {
    let bytes = packet(|header| {
        header.ppi_offset = 0.into();
        header.ppi_length = 64.into();
    });
    assert_eq!(rule(judge(&bytes)), Rule::RND_12);
    for offset in [0, 36, u32::MAX] {
        delivered(&packet(|header| header.ppi_offset = offset.into()));
    }
}

#[test]
fn rnd_13_information_offset() {
    for offset in [4, 32, 37, 38, 0xFFFF_FFFC] {
        let bytes = packet(|header| {
            header.ppi_offset = offset.into();
            header.ppi_length = 16.into();
        });
        assert_eq!(rule(judge(&bytes)), Rule::RND_13, "{offset}");
    }
}

#[test]
fn rnd_14_information_length() {
    for length in [1, 8, 11, 1000, u32::MAX] {
        let bytes = packet(|header| header.ppi_length = length.into());
        assert_eq!(rule(judge(&bytes)), Rule::RND_14, "{length}");
    }
}

#[test]
fn rnd_15_information_over_the_frame() {
    let bytes = packet(|header| header.ppi_length = 16.into());
    assert_eq!(rule(judge(&bytes)), Rule::RND_15);
    delivered(&with_ppi(&element(ppi::HASH_VALUE, 1)));
}

#[test]
fn rnd_16_ppi_size_zero() {
    for size in [0u32, 11] {
        let mut ppi = element(ppi::HASH_VALUE, 1);
        ppi[..4].copy_from_slice(&size.to_le_bytes());
        assert_eq!(rule(judge(&with_ppi(&ppi))), Rule::RND_16);
    }
    // A rest that is no element.
    let ppi = [element(ppi::HASH_VALUE, 1), std::vec![0; 8]].concat();
    assert_eq!(rule(judge(&with_ppi(&ppi))), Rule::RND_16);
    assert_eq!(
        delivered(&with_ppi(&element(ppi::HASH_VALUE, 9))).hash(),
        Some(9)
    );
}

#[test]
fn rnd_17_ppi_size_large() {
    let mut ppi = [element(ppi::HASH_VALUE, 1), std::vec![0; 48]].concat();
    ppi[..4].copy_from_slice(&0x1000u32.to_le_bytes());
    assert_eq!(rule(judge(&with_ppi(&ppi))), Rule::RND_17);
}

#[test]
fn rnd_18_ppi_size_alignment() {
    let mut ppi = element(ppi::HASH_VALUE, 1);
    ppi[..4].copy_from_slice(&13u32.to_le_bytes());
    assert_eq!(rule(judge(&with_ppi(&ppi))), Rule::RND_18);
}

#[test]
fn rnd_19_ppi_value_offset() {
    for offset in [0u32, 8, 13, 16, u32::MAX] {
        let mut ppi = element(ppi::HASH_VALUE, 1);
        ppi[8..12].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(rule(judge(&with_ppi(&ppi))), Rule::RND_19, "{offset}");
    }
}

#[test]
fn rnd_20_too_many_elements() {
    let bare = |kind: u32| -> Vec<u8> {
        let header = rndis::PerPacketInfo {
            size: 12.into(),
            kind: (100 + kind).into(),
            value_offset: 12.into(),
        };
        header.as_bytes().to_vec()
    };
    let many = |count: u32| (0..count).map(bare).collect::<Vec<_>>().concat();
    assert_eq!(rule(judge(&with_ppi(&many(17)))), Rule::RND_20);
    assert_eq!(rule(judge(&with_ppi(&many(140)))), Rule::RND_20);
    delivered(&with_ppi(&many(16)));
}

#[test]
fn rnd_21_element_twice() {
    let twice = [element(ppi::HASH_VALUE, 1), element(ppi::HASH_VALUE, 2)].concat();
    assert_eq!(rule(judge(&with_ppi(&twice))), Rule::RND_21);
    let two = [element(ppi::HASH_VALUE, 1), element(ppi::HASH_INFO, 2)].concat();
    assert_eq!(delivered(&with_ppi(&two)).hash(), Some(1));
}

#[test]
fn rnd_22_unknown_elements_are_skipped() {
    // Internal type 6 is not 802.1Q, which would be refused here.
    let ppi = [
        element(0x8000_0063, 1),
        element(ppi::INTERNAL | ppi::IEEE_8021Q, 2),
    ]
    .concat();
    let bytes = with_ppi(&ppi);
    let packet = delivered(&bytes);
    assert_eq!((packet.vlan(), packet.hash()), (None, None));
}

#[test]
fn rnd_24_checksum_failed_and_succeeded() {
    let bytes = with_ppi(&element(ppi::CHECKSUM, 0x09));
    let judged = judge(&bytes).unwrap();
    assert_eq!(
        judged.noted.map(|violation| violation.rule),
        Some(Rule::RND_24)
    );
    let sums = delivered(&bytes).checksum();
    assert_eq!((sums.tcp(), sums.udp(), sums.ip()), (false, false, false));
    assert!(!delivered(&bytes).arrived(true).vouched());
    let good = checksum::RX_TCP_SUCCEEDED | checksum::RX_IP_SUCCEEDED;
    let bytes = with_ppi(&element(ppi::CHECKSUM, good));
    let sums = delivered(&bytes).checksum();
    assert_eq!((sums.tcp(), sums.udp(), sums.ip()), (true, false, true));
    let packet = delivered(&bytes);
    assert!(packet.arrived(true).vouched() && !packet.arrived(false).vouched());
}

#[test]
fn rnd_26_tag() {
    let tagged = |value: u32, vlan: bool| {
        let bytes = with_ppi(&element(ppi::IEEE_8021Q, value));
        let mut context = context();
        context.packet.vlan = vlan;
        message(&bytes, Carrier::Data, &context).map(|judged| match judged.value {
            Message::Packet(packet) => packet.vlan(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(rule(tagged(4095 << 4, true)), Rule::RND_26);
    assert_eq!(rule(tagged(1 << 16, true)), Rule::RND_26);
    assert_eq!(rule(tagged(100 << 4, false)), Rule::RND_26);
    assert_eq!(tagged(100 << 4 | 8 | 5, true), Ok(Some(0xB064)));
}

#[test]
fn rnd_27_hash_is_a_number_only() {
    assert_eq!(
        delivered(&with_ppi(&element(ppi::HASH_VALUE, u32::MAX))).hash(),
        Some(u32::MAX)
    );
}

/// "RND-27": what the host says that a hash was made of.
#[test]
fn rnd_27_hash_of_a_kind_that_was_asked_for() {
    use crate::frame::{FlowHash, HashKind, HashKinds};
    use crate::rndis::hash::information;
    let all = HashKinds::of(|_| true);
    let of = |ethertype: &[u8], elements: &[(u32, u32)], asked: HashKinds| {
        let mut bytes = frame(60);
        bytes[12..12 + ethertype.len()].copy_from_slice(ethertype);
        let elements: Vec<u8> = (elements.iter())
            .flat_map(|(kind, value)| element(*kind, *value))
            .collect();
        delivered(&packet_with(&elements, &bytes, |_| ())).flow_hash(asked)
    };
    let (v4, v6) = ([0x08, 0x00], [0x86, 0xdd]);
    for kind in HashKind::ALL {
        let one = HashKinds::of(|other| other == kind);
        let others = HashKinds::of(|other| other != kind);
        let info = information(one);
        let both = [(ppi::HASH_VALUE, u32::MAX), (ppi::HASH_INFO, info)];
        let (own, foreign) = match kind.network() {
            crate::frame::Network::V4 => (v4, v6),
            crate::frame::Network::V6 => (v6, v4),
        };
        let value = u32::MAX;
        assert_eq!(of(&own, &both, one), Some(FlowHash { value, kind }));
        let tagged = [&[0x81, 0, 0, 5], &own[..]].concat();
        assert!(of(&tagged, &both, all).is_some());
        // Not asked for; a frame of the other version, of none, tagged twice.
        assert_eq!(of(&own, &both, others), None, "{kind:?}");
        assert_eq!(of(&own, &both, HashKinds::empty()), None);
        assert_eq!(of(&foreign, &both, all), None, "{kind:?}");
        assert_eq!(of(&[0x08, 0x06], &both, all), None);
        let twice = [&[0x88, 0xa8, 0, 5], &own[..]].concat();
        assert_eq!(of(&twice, &both, all), None);
        // One without the other.
        assert_eq!(of(&own, &both[..1], all), None);
        assert_eq!(of(&own, &both[1..], all), None);
    }
    // No kind, two of them, one with extension headers, bits of none, another function.
    for info in [
        0,
        1,
        0x301,
        0x801,
        0x2001,
        0x101_0001,
        u32::MAX,
        0x102,
        0x100,
    ] {
        let both = [(ppi::HASH_VALUE, 7), (ppi::HASH_INFO, info)];
        assert_eq!(of(&v4, &both, all), None, "{info:#x}");
    }
}

#[test]
fn rnd_28_fragment_without_coalescing() {
    let id = |flags: u32| with_ppi(&element(ppi::PACKET_ID, 1 | flags << 8 | 9 << 16));
    for flags in [1, 3, 5, 7] {
        assert_eq!(rule(judge(&id(flags))), Rule::RND_28);
    }
    delivered(&id(0));
}

#[test]
fn rnd_67_frame_for_another() {
    let mut other = frame(60);
    other[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    let bytes = packet_with(&[], &other, |_| ());
    assert_eq!(rule(judge(&bytes)), Rule::RND_67);
    let mut all = context();
    all.packet.promiscuous = true;
    assert!(message(&bytes, Carrier::Data, &all).is_ok());
    other[..6].copy_from_slice(&[0xFF; 6]);
    delivered(&packet_with(&[], &other, |_| ()));
}

#[test]
fn rnd_68_tag_beside_a_tag() {
    let mut context = context();
    context.packet.vlan = true;
    let mut tagged = frame(60);
    for ethertype in [[0x81, 0x00], [0x88, 0xA8]] {
        tagged[12..14].copy_from_slice(&ethertype);
        let bytes = packet_with(&element(ppi::IEEE_8021Q, 16), &tagged, |_| ());
        assert_eq!(rule(message(&bytes, Carrier::Data, &context)), Rule::RND_68);
        let bytes = packet_with(&[], &tagged, |_| ());
        assert!(message(&bytes, Carrier::Data, &context).is_ok());
    }
}

/// A message that is copied as far as it is judged gives what the whole one gives:
/// the same verdict ("RND-07" and the others), the same place, the same words beside
/// the frame.
#[test]
fn rnd_07_a_beginning_is_judged_like_the_whole() {
    let mut context = context();
    context.packet.vlan = true;
    let notes = [
        element(ppi::CHECKSUM, checksum::RX_TCP_SUCCEEDED),
        element(ppi::IEEE_8021Q, 100 << 4),
    ]
    .concat();
    for len in [14, 15, 60, 1514] {
        for ppi in [&notes[..0], &notes[..16], &notes[..]] {
            let good = packet_with(ppi, &frame(len), |_| ());
            // Every word of the header, bent in several ways.
            for at in (0..44).step_by(4) {
                for value in [None, Some(0), Some(1), Some(37), Some(300), Some(2000)] {
                    let mut bytes = good.clone();
                    if let Some(value) = value {
                        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
                    }
                    let head = bytes.first_chunk().unwrap();
                    let part = crate::rndis::packet::judged_part(head)
                        .map_or(bytes.len(), |(_, part)| part);
                    let part = part.min(bytes.len());
                    assert!(part <= 512 || part == bytes.len());
                    let whole = message(&bytes, Carrier::Data, &context);
                    let begun = begun(&bytes[..part], bytes.len(), Carrier::Data, &context);
                    match (whole, begun) {
                        (Err(whole), Err(begun)) => assert_eq!(whole, begun, "{at} {value:?}"),
                        (Ok(whole), Ok(begun)) => {
                            let (Message::Packet(whole), Message::Packet(begun)) =
                                (whole.value, begun.value)
                            else {
                                panic!("no frame");
                            };
                            assert_eq!(
                                (whole.start(), whole.len(), whole.vlan()),
                                (begun.start(), begun.len(), begun.vlan())
                            );
                            assert_eq!(whole.arrived(true), begun.arrived(true));
                            assert!(whole.frame().starts_with(begun.frame()));
                            assert_eq!(whole.frame().len(), whole.len());
                        }
                        other => panic!("{at} {value:?}: {other:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn rnd_09_a_tag_beside_the_frame_counts() {
    let mut context = context();
    context.packet.vlan = true;
    let tag = element(ppi::IEEE_8021Q, 100 << 4);
    let judge = |ppi: &[u8], len: usize| {
        let bytes = packet_with(ppi, &frame(len), |_| ());
        message(&bytes, Carrier::Data, &context).map(|_| ())
    };
    assert_eq!(judge(&tag, 1514), Ok(()));
    assert_eq!(rule(judge(&tag, 1515)), Rule::RND_09);
    assert_eq!(judge(&[], 1518), Ok(()));
    assert_eq!(rule(judge(&[], 1519)), Rule::RND_09);
}
