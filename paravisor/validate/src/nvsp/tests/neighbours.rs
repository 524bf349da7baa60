//! Each rule beside the message that is just legal, and what the violation points at.

use super::*;
use crate::Layer;
use crate::neighbours::{Neighbours, verdict};
use std::vec::Vec;

extern crate std;

fn le(word: u32) -> [u8; 4] {
    word.to_le_bytes()
}

fn answer(awaited: Awaited) -> impl Fn(&[u8]) -> Option<Violation> {
    move |bytes| verdict(completion(bytes, awaited))
}

fn open(bytes: &[u8]) -> Option<Violation> {
    carrier(bytes, ReceivePhase::Open).err()
}

fn four(bytes: &[u8]) -> Option<Violation> {
    in_band(bytes, &FOUR).err()
}

fn handshake(n: &mut Neighbours) {
    let first = answer(Awaited::Init);
    let version = init(1);
    let version = version.as_bytes();
    n.cut(Rule::NVS_01, &first, version, 15);
    n.cut(Rule::PKT_21, &first, version, 3);
    let other = le(message::SEND_SEND_BUFFER_COMPLETE);
    n.field(Rule::NVS_03, &first, version, 0, other);
    n.field(Rule::NVS_05, &first, version, 12, le(0));
    n.field(Rule::NVS_05, &first, version, 12, le(2));
    let mut chain = init(1);
    chain.max_mdl_chain = MAX_MDL_CHAIN.into();
    n.field(
        Rule::NVS_08,
        &first,
        chain.as_bytes(),
        8,
        le(MAX_MDL_CHAIN + 1),
    );
    chain.max_mdl_chain = 1.into();
    n.field(Rule::NVS_08, &first, chain.as_bytes(), 8, le(0));
    let sent = le(message::SEND_RNDIS_PACKET_COMPLETE);
    n.field(Rule::PKT_16, &first, version, 0, sent);
    n.cut(Rule::PKT_22, &first, version, 0);
}

fn buffers(n: &mut Neighbours) {
    let receive = answer(RECEIVE);
    let good = good_section();
    let good = good.as_bytes();
    n.cut(Rule::NVS_01, &receive, good, 27);
    n.field(Rule::NVS_11, &receive, good, 4, le(2));
    for count in [0, 2] {
        n.field(Rule::NVS_12, &receive, good, 8, le(count));
    }
    n.field(Rule::NVS_13, &receive, good, 12, le(1));
    let smallest = section(0, MIN_SLOT, 1, MIN_SLOT);
    n.field(
        Rule::NVS_14,
        &receive,
        smallest.as_bytes(),
        16,
        le(MIN_SLOT - 1),
    );
    let largest = section(0, MAX_SLOT, 1, MAX_SLOT);
    n.field(
        Rule::NVS_15,
        &receive,
        largest.as_bytes(),
        16,
        le(MAX_SLOT + 1),
    );
    let full = section(0, 2048, 1024, BUFFER);
    for count in [0, 1025, u32::MAX] {
        n.field(Rule::NVS_16, &receive, full.as_bytes(), 20, le(count));
    }
    n.field(Rule::NVS_18, &receive, full.as_bytes(), 24, le(BUFFER + 1));
    let huge = answer(Awaited::ReceiveBuffer { len: 31 << 20 });
    let many = section(0, MIN_SLOT, MAX_SLOTS, 0);
    n.field(Rule::NVS_17, &huge, many.as_bytes(), 20, le(MAX_SLOTS + 1));

    let sections = |section_size: u32| SendSendBufferComplete {
        message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
        status: status::SUCCESS.into(),
        section_size: section_size.into(),
    };
    let one = answer(Awaited::SendBuffer { len: MIN_SECTION });
    let smallest = sections(MIN_SECTION);
    n.cut(Rule::NVS_01, &one, smallest.as_bytes(), 11);
    for size in [0, MIN_SECTION - 1, MIN_SECTION + 1] {
        n.field(Rule::NVS_20, &one, smallest.as_bytes(), 8, le(size));
    }
    n.field(Rule::NVS_20, &one, smallest.as_bytes(), 4, le(2));
    // 256 sections of 4081 bytes and a rest, 257 of 4080.
    let most = sections(4081);
    n.field(Rule::NVS_21, answer(SEND), most.as_bytes(), 8, le(4080));
}

fn traffic(n: &mut Neighbours) {
    let sent = SendRndisPacketComplete {
        message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
        status: 1.into(),
    };
    let done = answer(Awaited::Rndis);
    n.cut(Rule::NVS_35, &done, sent.as_bytes(), 7);
    n.field(Rule::NVS_36, &done, sent.as_bytes(), 4, le(2));
    let init = le(message::INIT_COMPLETE);
    n.field(Rule::PKT_16, &done, sent.as_bytes(), 0, init);

    let asked = answer(ASKED);
    let seven = granted(1, 7);
    n.field(Rule::NVS_37, &asked, seven.as_bytes(), 4, le(2));
    n.field(Rule::NVS_38, &asked, seven.as_bytes(), 8, le(8));
    n.field(Rule::NVS_03, &asked, seven.as_bytes(), 0, init);

    let data = rndis(message::SEND_RNDIS_PACKET, 1);
    let data = data.as_bytes();
    n.cut(Rule::NVS_01, open, data, 15);
    n.field(Rule::NVS_32, open, data, 0, le(message::SUB_CHANNEL));
    n.field(Rule::NVS_33, open, data, 4, le(2));
    let early = carrier(data, ReceivePhase::NotReady).err();
    n.state(Rule::NVS_31, data, open(data), early);
    let late = carrier(data, ReceivePhase::Revoked).err();
    n.state(Rule::NVS_49, data, open(data), late);
}

fn in_band_messages(n: &mut Neighbours) {
    let vf = SendVfAssociation {
        message_type: message::SEND_VF_ASSOCIATION.into(),
        allocated: 1.into(),
        serial: 7.into(),
    };
    let vf = vf.as_bytes();
    n.cut(Rule::NVS_01, four, vf, 11);
    n.cut(Rule::PKT_21, four, vf, 3);
    n.field(Rule::NVS_04, four, vf, 0, le(message::INIT_COMPLETE));
    n.field(Rule::NVS_45, four, vf, 0, le(message::SWITCH_DATA_PATH));
    n.field(Rule::NVS_46, four, vf, 0, le(130));
    let sub = InBandContext {
        primary: false,
        channels: 4,
    };
    n.state(Rule::NVS_48, vf, four(vf), in_band(vf, &sub).err());
    let good = table(16, 12, 3);
    for count in [15, 17] {
        n.field(Rule::NVS_40, four, &good, 4, le(count));
    }
    for offset in [8, 13, 20, 0xFFFF_FFC0] {
        n.field(Rule::NVS_41, four, &good, 8, le(offset));
    }
    for entry in [0, 5, 15] {
        n.field(Rule::NVS_42, four, &good, 12 + 4 * entry, le(4));
    }
    let zeros = table(16, 12, 0);
    let alone = in_band(&zeros, &ALONE).err();
    n.state(Rule::NVS_43, &zeros, four(&zeros), alone);
}

/// A ring packet with these ranges (length, offset). Range `n` stands at byte
/// 24 + 8 n.
fn transfer(ranges: &[(u32, u32)]) -> Vec<u8> {
    let payload_at = 24 + 8 * ranges.len();
    let mut bytes = std::vec![0; payload_at];
    bytes[0] = 7;
    bytes[2] = (payload_at / 8) as u8;
    bytes[4] = (payload_at / 8 + 2) as u8;
    bytes[16..18].copy_from_slice(&0xCAFE_u16.to_le_bytes());
    bytes[20] = ranges.len() as u8;
    for (n, (len, offset)) in ranges.iter().enumerate() {
        bytes[24 + 8 * n..][..4].copy_from_slice(&le(*len));
        bytes[28 + 8 * n..][..4].copy_from_slice(&le(*offset));
    }
    bytes.extend_from_slice(rndis(message::SEND_RNDIS_PACKET, 0).as_bytes());
    bytes
}

/// What is wrong with the ranges of a packet.
fn ranges(bytes: &[u8]) -> Option<Violation> {
    let policy = crate::packet::Policy {
        transfer_set: 0xCAFE,
        max_ranges: 8,
    };
    let packet = crate::packet::judge(bytes, &policy).unwrap();
    let crate::packet::Kind::TransferPages(ranges) = packet.kind() else {
        panic!("{packet:?}");
    };
    let geometry = geometry();
    let mut slots = Slots::new();
    let judge = |(index, range): (usize, crate::packet::Range)| {
        let range = geometry.range(index, range.byte_count, range.byte_offset)?;
        geometry.in_one_slot(range)?;
        slots.take(range)
    };
    ranges.iter().enumerate().map(judge).find_map(Result::err)
}

fn slots(n: &mut Neighbours) {
    let last = 1806 * 999;
    let legal = transfer(&[(64, 0), (1806, last)]);
    n.field(Rule::NVS_23, ranges, &legal, 36, le(BUFFER + 1));
    n.field(Rule::NVS_23, ranges, &legal, 36, le(0xFFFF_FFF0));
    n.field(Rule::NVS_23, ranges, &legal, 32, le(BUFFER - last + 1));
    n.field(Rule::NVS_24, ranges, &legal, 32, le(1807));
    let shortest = transfer(&[(8, 0), (1806, 1806)]);
    n.field(Rule::NVS_24, ranges, &shortest, 24, le(7));
    n.field(Rule::NVS_25, ranges, &shortest, 36, le(1807));
    n.field(Rule::NVS_25, ranges, &legal, 36, le(1806 * 1000));
    n.field(Rule::NVS_26, ranges, &legal, 36, le(0));
}

/// Every rule of the layer that a message by itself can break, from NVS_01 to NVS_49.
#[test]
fn violations_point_at_what_differs_from_the_legal_neighbour() {
    let mut n = Neighbours::default();
    handshake(&mut n);
    buffers(&mut n);
    traffic(&mut n);
    in_band_messages(&mut n);
    slots(&mut n);
    // Rates, order and numbers of the client.
    n.complete(Layer::Nvsp, &["NVS-47", "NVS-50"]);
}
