//! Each test is named after the rule whose example it feeds, beside a legal
//! neighbour.

mod neighbours;
mod sweep;

use super::*;
use abi::nvsp::{
    InitComplete, ReceiveSection, SendIndirectionTable, SendReceiveBufferComplete, SendRndisPacket,
    SendRndisPacketComplete, SendSendBufferComplete, SendVfAssociation,
};
use zerocopy::IntoBytes;

const BUFFER: u32 = 2 << 20;
const RECEIVE: Awaited = Awaited::ReceiveBuffer { len: BUFFER };
const SEND: Awaited = Awaited::SendBuffer { len: 1 << 20 };

fn rule<T>(result: Result<T, Violation>) -> Rule {
    result.err().map(|violation| violation.rule).unwrap()
}

fn noted<T>(result: Result<Judged<T>, Violation>) -> Option<Rule> {
    result.unwrap().noted.map(|violation| violation.rule)
}

fn init(status: u32) -> InitComplete {
    InitComplete {
        message_type: message::INIT_COMPLETE.into(),
        negotiated_version: u32::MAX.into(),
        max_mdl_chain: 34.into(),
        status: status.into(),
    }
}

fn section(offset: u32, size: u32, count: u32, end: u32) -> SendReceiveBufferComplete {
    SendReceiveBufferComplete {
        message_type: message::SEND_RECEIVE_BUFFER_COMPLETE.into(),
        status: status::SUCCESS.into(),
        section_count: 1.into(),
        section: ReceiveSection {
            offset: offset.into(),
            sub_allocation_size: size.into(),
            sub_allocation_count: count.into(),
            end_offset: end.into(),
        },
    }
}

fn good_section() -> SendReceiveBufferComplete {
    section(0, 1806, 1000, 1_806_000)
}

fn geometry() -> ReceiveGeometry {
    match completion(good_section().as_bytes(), RECEIVE)
        .unwrap()
        .value
    {
        Completion::ReceiveBuffer(geometry) => geometry,
        other => panic!("{other:?}"),
    }
}

fn receive(message: SendReceiveBufferComplete) -> Result<Judged<Completion>, Violation> {
    completion(message.as_bytes(), RECEIVE)
}

fn send(status: u32, section_size: u32) -> Result<Judged<Completion>, Violation> {
    let message = SendSendBufferComplete {
        message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
        status: status.into(),
        section_size: section_size.into(),
    };
    completion(message.as_bytes(), SEND)
}

fn rndis(kind: u32, channel_type: u32) -> SendRndisPacket {
    SendRndisPacket {
        message_type: kind.into(),
        channel_type: channel_type.into(),
        section_index: u32::MAX.into(),
        section_size: 0.into(),
    }
}

const ALONE: InBandContext = InBandContext {
    primary: true,
    channels: 1,
};
const FOUR: InBandContext = InBandContext {
    primary: true,
    channels: 4,
};

/// A table of 16 entries, all `entry`, with the header as given.
fn table(count: u32, offset: u32, entry: u32) -> [u8; 80] {
    let mut bytes = [0; 80];
    let header = SendIndirectionTable {
        message_type: message::SEND_INDIRECTION_TABLE.into(),
        count: count.into(),
        offset: offset.into(),
    };
    bytes[..12].copy_from_slice(header.as_bytes());
    for at in (12..76).step_by(4) {
        bytes[at..at + 4].copy_from_slice(&entry.to_le_bytes());
    }
    bytes
}

#[test]
fn pkt_16_completion_of_another_kind() {
    let sent = SendRndisPacketComplete {
        message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
        status: 1.into(),
    };
    assert_eq!(
        rule(completion(sent.as_bytes(), Awaited::Init)),
        Rule::PKT_16
    );
    assert_eq!(
        rule(completion(init(1).as_bytes(), Awaited::Rndis)),
        Rule::PKT_16
    );
    let fits = completion(sent.as_bytes(), Awaited::Rndis).unwrap();
    assert_eq!(fits, Judged::clean(Completion::Rndis));
}

#[test]
fn pkt_21_payload_without_a_type() {
    assert_eq!(rule(in_band(&[], &ALONE)), Rule::PKT_21);
    assert_eq!(rule(carrier(&[1, 0], ReceivePhase::Open)), Rule::PKT_21);
    assert_eq!(rule(completion(&[1, 0, 0], Awaited::Init)), Rule::PKT_21);
}

#[test]
fn pkt_22_empty_completion() {
    assert_eq!(rule(completion(&[], Awaited::Rndis)), Rule::PKT_22);
    assert_eq!(rule(completion(&[], RECEIVE)), Rule::PKT_22);
    assert_eq!(
        completion(&[], Awaited::Nothing).unwrap().value,
        Completion::Nothing
    );
}

#[test]
fn nvs_01_structure_cut_short() {
    let whole = good_section();
    assert_eq!(
        rule(completion(&whole.as_bytes()[..12], RECEIVE)),
        Rule::NVS_01
    );
    assert_eq!(
        rule(completion(&whole.as_bytes()[..8], RECEIVE)),
        Rule::NVS_01
    );
    assert_eq!(
        rule(completion(&init(1).as_bytes()[..12], Awaited::Init)),
        Rule::NVS_01
    );
    assert!(receive(whole).is_ok());
}

#[test]
fn nvs_02_padding_behind_the_structure_is_not_read() {
    let mut padded = [0xEE; 40];
    padded[..16].copy_from_slice(init(1).as_bytes());
    assert_eq!(
        completion(&padded, Awaited::Init).unwrap(),
        Judged::clean(Completion::Init)
    );
}

#[test]
fn nvs_03_response_of_another_request() {
    let wrong = SendSendBufferComplete {
        message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
        status: 1.into(),
        section_size: 1.into(),
    };
    assert_eq!(
        rule(completion(wrong.as_bytes(), Awaited::Init)),
        Rule::NVS_03
    );
    assert_eq!(rule(completion(wrong.as_bytes(), RECEIVE)), Rule::NVS_03);
}

#[test]
fn nvs_04_response_in_band() {
    assert_eq!(rule(in_band(init(1).as_bytes(), &ALONE)), Rule::NVS_04);
    assert_eq!(
        rule(in_band(good_section().as_bytes(), &ALONE)),
        Rule::NVS_04
    );
}

#[test]
fn nvs_05_version_refused() {
    for status in [0, 2, 7, u32::MAX] {
        assert_eq!(
            rule(completion(init(status).as_bytes(), Awaited::Init)),
            Rule::NVS_05
        );
    }
    assert!(completion(init(1).as_bytes(), Awaited::Init).is_ok());
}

#[test]
fn nvs_06_deprecated_version_is_not_looked_at() {
    let mut message = init(1);
    message.negotiated_version = 0x5_0000.into();
    assert_eq!(
        completion(message.as_bytes(), Awaited::Init).unwrap(),
        Judged::clean(Completion::Init)
    );
}

#[test]
fn nvs_08_descriptor_chain_is_noted_only() {
    let mut message = init(1);
    message.max_mdl_chain = u32::MAX.into();
    assert_eq!(
        noted(completion(message.as_bytes(), Awaited::Init)),
        Some(Rule::NVS_08)
    );
    assert_eq!(noted(completion(init(1).as_bytes(), Awaited::Init)), None);
}

#[test]
fn nvs_11_receive_buffer_refused() {
    let mut message = good_section();
    message.status = 2.into();
    assert_eq!(rule(receive(message)), Rule::NVS_11);
}

#[test]
fn nvs_12_section_count() {
    for count in [0, 2, 0x1000_0000] {
        let mut message = good_section();
        message.section_count = count.into();
        assert_eq!(rule(receive(message)), Rule::NVS_12);
    }
}

#[test]
fn nvs_13_section_offset() {
    assert_eq!(
        rule(receive(section(4096, 1806, 1000, 1_810_096))),
        Rule::NVS_13
    );
}

#[test]
fn nvs_14_slot_too_small() {
    assert_eq!(rule(receive(section(0, 68, 1000, 68_000))), Rule::NVS_14);
    assert_eq!(
        rule(receive(section(0, MIN_SLOT - 1, 1, MIN_SLOT - 1))),
        Rule::NVS_14
    );
    assert!(receive(section(0, MIN_SLOT, 1, MIN_SLOT)).is_ok());
}

#[test]
fn nvs_15_slot_too_large() {
    assert_eq!(rule(receive(section(0, 0x01F0_0000, 1, 0))), Rule::NVS_15);
    assert_eq!(rule(receive(section(0, MAX_SLOT + 1, 1, 0))), Rule::NVS_15);
    assert!(receive(section(0, MAX_SLOT, 1, MAX_SLOT)).is_ok());
}

#[test]
fn nvs_16_slots_beyond_the_buffer() {
    assert_eq!(
        rule(receive(section(0, 0x1_0000, 0x1_0000, 0))),
        Rule::NVS_16
    );
    assert_eq!(rule(receive(section(0, 2048, 0, 0))), Rule::NVS_16);
    assert_eq!(rule(receive(section(0, 2048, 1025, 0))), Rule::NVS_16);
    assert!(receive(section(0, 2048, 1024, BUFFER)).is_ok());
}

#[test]
fn nvs_17_too_many_slots() {
    let huge = Awaited::ReceiveBuffer { len: 31 << 20 };
    let slots = |count| completion(section(0, MIN_SLOT, count, 0).as_bytes(), huge).map(|_| ());
    assert_eq!(rule(slots(MAX_SLOTS + 1)), Rule::NVS_17);
    assert!(slots(MAX_SLOTS).is_ok());
}

#[test]
fn nvs_18_section_end() {
    assert_eq!(
        rule(receive(section(0, 1806, 1000, u32::MAX))),
        Rule::NVS_18
    );
    assert!(receive(section(0, 1806, 1000, BUFFER)).is_ok());
}

#[test]
fn nvs_20_send_section_size() {
    for size in [0, 68, MIN_SECTION - 1, (1 << 20) + 1] {
        assert_eq!(rule(send(1, size)), Rule::NVS_20);
    }
    assert_eq!(rule(send(2, 6144)), Rule::NVS_20);
    match send(1, 6144).unwrap() {
        Judged {
            value: Completion::SendBuffer(geometry),
            noted: None,
        } => {
            assert_eq!(
                (geometry.section_size(), geometry.section_count()),
                (6144, 170)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nvs_21_send_section_count_is_capped() {
    let judged = send(1, MIN_SECTION).unwrap();
    assert_eq!(
        judged.noted.map(|violation| violation.rule),
        Some(Rule::NVS_21)
    );
    match judged.value {
        Completion::SendBuffer(geometry) => assert_eq!(geometry.section_count(), MAX_SECTIONS),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nvs_23_range_outside_the_buffer() {
    let geometry = geometry();
    assert_eq!(rule(geometry.range(0, 0x20, 0xFFFF_FFF0)), Rule::NVS_23);
    assert_eq!(rule(geometry.range(0, 64, BUFFER - 63)), Rule::NVS_23);
    assert_eq!(rule(geometry.range(0, u32::MAX, 1)), Rule::NVS_23);
    assert!(geometry.range(0, 64, BUFFER - 64).is_ok());
}

#[test]
fn nvs_24_range_length() {
    let geometry = geometry();
    assert_eq!(rule(geometry.range(0, 7, 0)), Rule::NVS_24);
    assert_eq!(rule(geometry.range(0, 1807, 0)), Rule::NVS_24);
    assert!(geometry.range(0, 8, 0).is_ok());
    assert!(geometry.range(0, 1806, 0).is_ok());
}

#[test]
fn nvs_25_range_across_slots() {
    let geometry = geometry();
    let across = geometry.range(0, 64, 1806 - 8).unwrap();
    assert_eq!(rule(geometry.in_one_slot(across)), Rule::NVS_25);
    let behind = geometry.range(0, 64, 1806 * 1000).unwrap();
    assert_eq!(rule(geometry.in_one_slot(behind)), Rule::NVS_25);
    let inside = geometry.range(0, 64, 1806 - 64).unwrap();
    assert!(geometry.in_one_slot(inside).is_ok());
}

/// The multiplication that stands for the division gives what the division gives.
#[test]
fn slots_of_every_place() {
    let sizes = (MIN_SLOT..MIN_SLOT + 3000).chain([1 << 16, (1 << 20) - 1, 1 << 31, u32::MAX]);
    for size in sizes {
        let geometry = ReceiveGeometry {
            slot_size: size,
            slot_count: 8,
            buffer_len: u32::MAX,
            reciprocal: reciprocal(size),
        };
        let edges = [0, 1, 2, 7, u32::MAX / size].map(|slot| slot.saturating_mul(size));
        let near = edges
            .iter()
            .flat_map(|edge| (-2..=2).map(|by| edge.saturating_add_signed(by)));
        for offset in near.chain([u32::MAX - 1, u32::MAX]) {
            for len in [0, 1, 8, size - 1, size] {
                let end = offset.saturating_add(len.saturating_sub(1));
                let expected = (offset / size, end / size);
                let slots = geometry.slots_of(offset, len);
                assert_eq!(slots, expected, "{size} {offset} {len}");
            }
        }
    }
}

#[test]
fn nvs_26_ranges_overlap() {
    let geometry = geometry();
    let mut slots = Slots::new();
    let first = geometry.range(0, 1806, 0).unwrap();
    let second = geometry.range(1, 1806, 1806).unwrap();
    slots.take(first).unwrap();
    assert_eq!(rule(slots.take(first)), Rule::NVS_26);
    slots.take(second).unwrap();
    slots.release(first);
    slots.take(first).unwrap();
    assert_eq!(rule(slots.take(second)), Rule::NVS_26);
    let last = geometry.range(0, 8, 1806 * 999).unwrap();
    slots.take(last).unwrap();
    assert_eq!(rule(slots.take(last)), Rule::NVS_26);
}

#[test]
fn nvs_31_receive_before_the_buffer() {
    let message = rndis(message::SEND_RNDIS_PACKET, 0);
    assert_eq!(
        rule(carrier(message.as_bytes(), ReceivePhase::NotReady)),
        Rule::NVS_31
    );
    assert_eq!(
        carrier(message.as_bytes(), ReceivePhase::Open),
        Ok(Carrier::Data)
    );
}

#[test]
fn nvs_32_inner_type() {
    let message = rndis(message::SUB_CHANNEL, 0);
    assert_eq!(
        rule(carrier(message.as_bytes(), ReceivePhase::Open)),
        Rule::NVS_32
    );
}

#[test]
fn nvs_33_channel_type() {
    let message = rndis(message::SEND_RNDIS_PACKET, 2);
    assert_eq!(
        rule(carrier(message.as_bytes(), ReceivePhase::Open)),
        Rule::NVS_33
    );
    let message = rndis(message::SEND_RNDIS_PACKET, 1);
    assert_eq!(
        carrier(message.as_bytes(), ReceivePhase::Open),
        Ok(Carrier::Control)
    );
}

#[test]
fn nvs_34_section_of_the_host_is_not_looked_at() {
    let mut message = rndis(message::SEND_RNDIS_PACKET, 0);
    message.section_index = 5.into();
    message.section_size = u32::MAX.into();
    assert_eq!(
        carrier(message.as_bytes(), ReceivePhase::Open),
        Ok(Carrier::Data)
    );
}

#[test]
fn nvs_35_transmit_completion_without_status() {
    let bytes = message::SEND_RNDIS_PACKET_COMPLETE.to_le_bytes();
    assert_eq!(rule(completion(&bytes, Awaited::Rndis)), Rule::NVS_35);
}

#[test]
fn nvs_36_transmit_status_counts() {
    let sent = |status: u32| {
        let message = SendRndisPacketComplete {
            message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
            status: status.into(),
        };
        completion(message.as_bytes(), Awaited::Rndis)
    };
    assert_eq!(noted(sent(u32::MAX)), Some(Rule::NVS_36));
    assert_eq!(noted(sent(1)), None);
}

#[test]
fn nvs_40_table_count() {
    for count in [0, 15, 0x4000_0000] {
        assert_eq!(rule(in_band(&table(count, 12, 0), &FOUR)), Rule::NVS_40);
    }
    assert_eq!(
        in_band(&table(16, 12, 3), &FOUR),
        Ok(InBand::IndirectionTable([3; 16]))
    );
}

#[test]
fn nvs_41_table_offset() {
    for offset in [0, 8, 13, 20, 0xFFFF_FFC0] {
        assert_eq!(rule(in_band(&table(16, offset, 0), &FOUR)), Rule::NVS_41);
    }
    assert!(in_band(&table(16, 16, 0), &FOUR).is_ok());
}

#[test]
fn nvs_42_table_entry() {
    assert_eq!(
        rule(in_band(&table(16, 12, 0x8000_0000), &FOUR)),
        Rule::NVS_42
    );
    assert_eq!(rule(in_band(&table(16, 12, 4), &FOUR)), Rule::NVS_42);
}

#[test]
fn nvs_43_table_without_sub_channels() {
    assert_eq!(rule(in_band(&table(16, 12, 0), &ALONE)), Rule::NVS_43);
}

#[test]
fn nvs_44_vf_association_changes_nothing() {
    let message = SendVfAssociation {
        message_type: message::SEND_VF_ASSOCIATION.into(),
        allocated: 1.into(),
        serial: 7.into(),
    };
    assert_eq!(
        in_band(message.as_bytes(), &ALONE),
        Ok(InBand::VfAssociation)
    );
    assert_eq!(
        rule(in_band(&message.as_bytes()[..8], &ALONE)),
        Rule::NVS_01
    );
}

#[test]
fn nvs_45_data_path_switch() {
    let bytes = message::SWITCH_DATA_PATH.to_le_bytes();
    assert_eq!(rule(in_band(&bytes, &ALONE)), Rule::NVS_45);
}

#[test]
fn nvs_46_other_types() {
    for kind in [
        0,
        3,
        99,
        100,
        101,
        107,
        109,
        124,
        126,
        127,
        130,
        131,
        132,
        135,
        u32::MAX,
    ] {
        assert_eq!(
            rule(in_band(&kind.to_le_bytes(), &ALONE)),
            Rule::NVS_46,
            "{kind}"
        );
    }
}

#[test]
fn nvs_48_control_on_a_sub_channel() {
    let context = InBandContext {
        primary: false,
        channels: 4,
    };
    assert_eq!(rule(in_band(&table(16, 12, 0), &context)), Rule::NVS_48);
}

#[test]
fn nvs_49_receive_after_revoke() {
    let message = rndis(message::SEND_RNDIS_PACKET, 0);
    assert_eq!(
        rule(carrier(message.as_bytes(), ReceivePhase::Revoked)),
        Rule::NVS_49
    );
}

fn granted(status: u32, count: u32) -> nvsp::SubChannelComplete {
    nvsp::SubChannelComplete {
        message_type: message::SUB_CHANNEL.into(),
        status: status.into(),
        count: count.into(),
    }
}

const ASKED: Awaited = Awaited::SubChannels { count: 7 };

#[test]
fn nvs_37_sub_channels_without_success() {
    for status in [0, 2, 5, u32::MAX] {
        let answer = completion(granted(status, 8).as_bytes(), ASKED).unwrap();
        assert_eq!(answer.value, Completion::SubChannels(0));
        let noted = answer.noted.unwrap();
        assert_eq!((noted.rule, noted.offset), (Rule::NVS_37, 4));
    }
    for count in [0, 1, 7] {
        let answer = completion(granted(1, count).as_bytes(), ASKED).unwrap();
        assert_eq!(answer, Judged::clean(Completion::SubChannels(count as u16)));
    }
}

#[test]
fn nvs_38_more_sub_channels_than_asked_for() {
    for count in [8, 0x1_0007, u32::MAX] {
        let answer = completion(granted(1, count).as_bytes(), ASKED);
        assert_eq!(rule(answer), Rule::NVS_38, "{count:#x}");
    }
}

#[test]
fn nvs_03_sub_channels_answer_something_else() {
    for other in [Awaited::Init, RECEIVE, SEND] {
        let answer = completion(granted(1, 1).as_bytes(), other);
        assert_eq!(rule(answer), Rule::NVS_03);
    }
    assert_eq!(rule(completion(init(1).as_bytes(), ASKED)), Rule::NVS_03);
    let whole = granted(1, 7);
    let cut = completion(&whole.as_bytes()[..11], ASKED);
    assert_eq!(rule(cut), Rule::NVS_01);
}
