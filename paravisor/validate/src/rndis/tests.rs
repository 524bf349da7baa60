//! Each test is named after the rule whose example it feeds, beside a legal
//! neighbour.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

extern crate std;

use super::*;
use abi::rndis::{checksum, oid, ppi};
use std::vec::Vec;
use zerocopy::IntoBytes;

const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 0x01, 0x02, 0x03];

fn context() -> Context {
    Context {
        primary: true,
        ready: true,
        packet: PacketContext {
            mtu: 1500,
            mac: MAC,
            promiscuous: false,
            vlan: false,
            refuse_oob: true,
        },
        awaited: None,
    }
}

fn rule<T>(result: Result<T, Violation>) -> Rule {
    result.err().map(|violation| violation.rule).unwrap()
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame = std::vec![0xA5; len];
    let head = len.min(6);
    frame[..head].copy_from_slice(&MAC[..head]);
    if let Some(ethertype) = frame.get_mut(12..14) {
        ethertype.copy_from_slice(&[0x08, 0x00]);
    }
    frame
}

/// One element with the value behind its header.
fn element(kind: u32, value: u32) -> Vec<u8> {
    let header = rndis::PerPacketInfo {
        size: 16.into(),
        kind: kind.into(),
        value_offset: 12.into(),
    };
    [header.as_bytes(), &value.to_le_bytes()].concat()
}

/// A PACKET with information right behind the header and the frame behind it,
/// its header changed at will.
fn packet_with(ppi: &[u8], frame: &[u8], change: impl FnOnce(&mut rndis::Packet)) -> Vec<u8> {
    let mut header = rndis::Packet {
        header: rndis::Header {
            message_type: kind::PACKET.into(),
            length: (44 + ppi.len() as u32 + frame.len() as u32).into(),
        },
        data_offset: (36 + ppi.len() as u32).into(),
        data_length: (frame.len() as u32).into(),
        ppi_offset: 36.into(),
        ppi_length: (ppi.len() as u32).into(),
        ..Default::default()
    };
    change(&mut header);
    [header.as_bytes(), ppi, frame].concat()
}

fn packet(change: impl FnOnce(&mut rndis::Packet)) -> Vec<u8> {
    packet_with(&[], &frame(60), change)
}

fn judge<'a>(bytes: &'a [u8]) -> Result<Judged<Message<'a>>, Violation> {
    message(bytes, Carrier::Data, &context())
}

fn delivered(bytes: &[u8]) -> Packet<'_> {
    match judge(bytes).unwrap().value {
        Message::Packet(packet) => packet,
        other => panic!("{other:?}"),
    }
}

fn with_ppi(ppi: &[u8]) -> Vec<u8> {
    packet_with(ppi, &frame(60), |_| ())
}

fn control<'a>(
    bytes: &'a [u8],
    awaited: Option<AwaitedResponse>,
) -> Result<Judged<Message<'a>>, Violation> {
    message(
        bytes,
        Carrier::Control,
        &Context {
            awaited,
            ..context()
        },
    )
}

fn indicate(status: u32, length: u32, offset: u32, buffer: &[u8]) -> Vec<u8> {
    let header = rndis::IndicateStatus {
        header: rndis::Header {
            message_type: kind::INDICATE_STATUS.into(),
            length: (20 + buffer.len() as u32).into(),
        },
        status: status.into(),
        buffer_length: length.into(),
        buffer_offset: offset.into(),
    };
    [header.as_bytes(), buffer].concat()
}

fn event(bytes: &[u8]) -> Result<Judged<Indication>, Violation> {
    control(bytes, None).map(|judged| match judged.value {
        Message::Indication(value) => Judged {
            value,
            noted: judged.noted,
        },
        other => panic!("{other:?}"),
    })
}

fn awaited(request: Request) -> Option<AwaitedResponse> {
    Some(AwaitedResponse {
        request_id: 7,
        request,
        transfer: 1514 + 44,
        mtu: 1500,
        mac: None,
        enforce_medium: true,
    })
}

fn initialize_complete(change: impl FnOnce(&mut rndis::InitializeComplete)) -> Vec<u8> {
    let mut message = rndis::InitializeComplete {
        header: rndis::Header {
            message_type: kind::INITIALIZE_COMPLETE.into(),
            length: 52.into(),
        },
        request_id: 7.into(),
        major: 1.into(),
        device_flags: rndis::DEVICE_CONNECTIONLESS.into(),
        max_packets_per_message: 8.into(),
        max_transfer: 0xEFFF.into(),
        alignment_factor: 3.into(),
        ..Default::default()
    };
    change(&mut message);
    message.as_bytes().to_vec()
}

fn initialized(bytes: &[u8]) -> Result<Judged<Initialized>, Violation> {
    control(bytes, awaited(Request::Initialize)).map(|judged| match judged.value {
        Message::Response(Response::Initialized(value)) => Judged {
            value,
            noted: judged.noted,
        },
        other => panic!("{other:?}"),
    })
}

fn query_complete(value: &[u8], change: impl FnOnce(&mut rndis::QueryComplete)) -> Vec<u8> {
    let mut message = rndis::QueryComplete {
        header: rndis::Header {
            message_type: kind::QUERY_COMPLETE.into(),
            length: (24 + value.len() as u32).into(),
        },
        request_id: 7.into(),
        status: 0.into(),
        buffer_length: (value.len() as u32).into(),
        buffer_offset: 16.into(),
    };
    change(&mut message);
    [message.as_bytes(), value].concat()
}

fn queried(oid: u32, bytes: &[u8]) -> Result<Judged<Value>, Violation> {
    control(bytes, awaited(Request::Query(oid))).map(|judged| match judged.value {
        Message::Response(Response::Value(value)) => Judged {
            value,
            noted: judged.noted,
        },
        other => panic!("{other:?}"),
    })
}

fn number(oid: u32, value: u32) -> Result<Judged<Value>, Violation> {
    queried(oid, &query_complete(&value.to_le_bytes(), |_| ()))
}

fn noted<T>(result: Result<Judged<T>, Violation>) -> Option<Rule> {
    result.unwrap().noted.map(|violation| violation.rule)
}

fn set_complete(status: u32, id: u32) -> Vec<u8> {
    rndis::StatusComplete {
        header: rndis::Header {
            message_type: kind::SET_COMPLETE.into(),
            length: 16.into(),
        },
        request_id: id.into(),
        status: status.into(),
    }
    .as_bytes()
    .to_vec()
}

#[test]
fn rnd_01_range_without_a_header() {
    assert_eq!(rule(judge(&[1, 0, 0, 0])), Rule::RND_01);
    assert_eq!(rule(judge(&[])), Rule::RND_01);
}

#[test]
fn rnd_02_message_length() {
    for length in [0, 7, 105, u32::MAX] {
        let bytes = packet(|header| header.header.length = length.into());
        assert_eq!(rule(judge(&bytes)), Rule::RND_02, "{length}");
    }
    assert_eq!(delivered(&packet(|_| ())).frame(), frame(60));
}

#[test]
fn rnd_03_second_message_is_not_looked_at() {
    let two = [packet(|_| ()), packet(|_| ())].concat();
    assert_eq!(delivered(&two).frame().len(), 60);
    // Nor may the first reach into it.
    let two = packet(|header| header.header.length = 44.into());
    assert_eq!(rule(judge(&two)), Rule::RND_07);
}

#[test]
fn rnd_04_types_that_no_device_sends() {
    for message_type in [0, 9, kind::RESET_COMPLETE, 0x8000_0001, u32::MAX] {
        let bytes = packet(|header| header.header.message_type = message_type.into());
        assert_eq!(rule(control(&bytes, None)), Rule::RND_04);
    }
}

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
    assert_eq!(delivered(&bytes).checksum(), Checksum::default());
    let good = checksum::RX_TCP_SUCCEEDED | checksum::RX_IP_SUCCEEDED;
    let bytes = with_ppi(&element(ppi::CHECKSUM, good));
    let sums = delivered(&bytes).checksum();
    assert_eq!((sums.tcp(), sums.udp(), sums.ip()), (true, false, true));
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

#[test]
fn rnd_28_fragment_without_coalescing() {
    let id = |flags: u32| with_ppi(&element(ppi::PACKET_ID, 1 | flags << 8 | 9 << 16));
    for flags in [1, 3, 5, 7] {
        assert_eq!(rule(judge(&id(flags))), Rule::RND_28);
    }
    delivered(&id(0));
}

#[test]
fn rnd_35_frame_before_the_device_is_ready() {
    let early = Context {
        ready: false,
        ..context()
    };
    assert_eq!(
        rule(message(&packet(|_| ()), Carrier::Data, &early)),
        Rule::RND_35
    );
}

#[test]
fn rnd_36_response_without_request() {
    let request = Request::Set(oid::CURRENT_PACKET_FILTER);
    assert_eq!(
        rule(control(&set_complete(0, 0), awaited(request))),
        Rule::RND_36
    );
    assert_eq!(rule(control(&set_complete(0, 7), None)), Rule::RND_36);
    assert!(control(&set_complete(0, 7), awaited(request)).is_ok());
}

#[test]
fn rnd_37_response_of_another_type() {
    let request = Request::Query(oid::LINK_SPEED);
    assert_eq!(
        rule(control(&set_complete(0, 7), awaited(request))),
        Rule::RND_37
    );
    let keepalive = {
        let mut bytes = set_complete(0, 7);
        bytes[..4].copy_from_slice(&kind::KEEPALIVE_COMPLETE.to_le_bytes());
        bytes
    };
    assert_eq!(rule(control(&keepalive, awaited(request))), Rule::RND_37);
}

#[test]
fn rnd_39_response_too_long() {
    let bytes = query_complete(&[0; 5000], |_| ());
    assert_eq!(rule(queried(oid::LINK_SPEED, &bytes)), Rule::RND_39);
}

#[test]
fn rnd_40_response_cut_short() {
    let mut bytes = set_complete(0, 7);
    bytes[4..8].copy_from_slice(&12u32.to_le_bytes());
    assert_eq!(
        rule(control(&bytes, awaited(Request::Set(0)))),
        Rule::RND_40
    );
    let bytes = initialize_complete(|message| message.header.length = 44.into());
    assert_eq!(rule(initialized(&bytes)), Rule::RND_40);
    let bytes = initialize_complete(|message| message.header.length = 48.into());
    assert!(initialized(&bytes).is_ok());
    let bytes = query_complete(&[], |message| message.header.length = 20.into());
    assert_eq!(rule(queried(oid::LINK_SPEED, &bytes)), Rule::RND_40);
}

#[test]
fn rnd_41_status_of_a_failed_query() {
    let bytes = query_complete(&MAC, |message| message.status = 0xC000_00BB.into());
    assert_eq!(rule(queried(oid::PERMANENT_ADDRESS, &bytes)), Rule::RND_41);
    let bytes = initialize_complete(|message| message.status = 1.into());
    assert_eq!(rule(initialized(&bytes)), Rule::RND_41);
}

#[test]
fn rnd_42_query_value_outside() {
    for offset in [0, 4, 12, 17, 0xFFFF_FFF0] {
        let bytes = query_complete(&MAC, |message| message.buffer_offset = offset.into());
        assert_eq!(
            rule(queried(oid::PERMANENT_ADDRESS, &bytes)),
            Rule::RND_42,
            "{offset}"
        );
    }
    // No value at offset 0 is legal, but this OID has one.
    let bytes = query_complete(&[], |message| message.buffer_offset = 0.into());
    assert_eq!(rule(queried(oid::PERMANENT_ADDRESS, &bytes)), Rule::RND_43);
}

#[test]
fn rnd_43_value_length() {
    let bytes = query_complete(&MAC[..3], |_| ());
    assert_eq!(rule(queried(oid::PERMANENT_ADDRESS, &bytes)), Rule::RND_43);
    let bytes = query_complete(&[0; 8], |_| ());
    assert_eq!(rule(queried(oid::LINK_SPEED, &bytes)), Rule::RND_43);
    let bytes = query_complete(&MAC, |_| ());
    assert_eq!(
        queried(oid::PERMANENT_ADDRESS, &bytes).unwrap().value,
        Value::Mac(MAC)
    );
}

#[test]
fn rnd_44_version() {
    let bytes = initialize_complete(|message| message.major = 9.into());
    assert_eq!(rule(initialized(&bytes)), Rule::RND_44);
}

#[test]
fn rnd_45_medium() {
    let bytes = initialize_complete(|message| message.medium = 5.into());
    assert_eq!(rule(initialized(&bytes)), Rule::RND_45);
    let mut counting = awaited(Request::Initialize).unwrap();
    counting.enforce_medium = false;
    assert_eq!(noted(control(&bytes, Some(counting))), Some(Rule::RND_45));
    let bytes = initialize_complete(|message| message.device_flags = 2.into());
    assert_eq!(rule(initialized(&bytes)), Rule::RND_45);
}

#[test]
fn rnd_46_alignment_is_clamped() {
    let bytes = initialize_complete(|message| message.alignment_factor = 63.into());
    let judged = initialized(&bytes).unwrap();
    assert_eq!(judged.value.alignment(), 128);
    assert_eq!(
        judged.noted.map(|violation| violation.rule),
        Some(Rule::RND_46)
    );
    assert_eq!(
        initialized(&initialize_complete(|_| ()))
            .unwrap()
            .value
            .alignment(),
        8
    );
}

#[test]
fn rnd_47_packets_per_transfer_are_clamped() {
    for (packets, expected) in [(0, 1), (9, 8), (u32::MAX, 8)] {
        let bytes = initialize_complete(|message| message.max_packets_per_message = packets.into());
        let judged = initialized(&bytes).unwrap();
        assert_eq!(judged.value.max_packets(), expected);
        assert_eq!(
            judged.noted.map(|violation| violation.rule),
            Some(Rule::RND_47)
        );
    }
}

#[test]
fn rnd_48_transfer_is_clamped() {
    let bytes = initialize_complete(|message| message.max_transfer = 0.into());
    let judged = initialized(&bytes).unwrap();
    assert_eq!(judged.value.max_transfer(), 1558);
    assert_eq!(
        judged.noted.map(|violation| violation.rule),
        Some(Rule::RND_48)
    );
}

#[test]
fn rnd_49_address() {
    let mac = |mac: [u8; 6]| queried(oid::CURRENT_ADDRESS, &query_complete(&mac, |_| ()));
    assert_eq!(rule(mac([0xFF; 6])), Rule::RND_49);
    assert_eq!(rule(mac([0; 6])), Rule::RND_49);
    assert_eq!(rule(mac([1, 0, 0x5E, 0, 0, 1])), Rule::RND_49);
    assert!(mac(MAC).is_ok());
    let mut fixed = awaited(Request::Query(oid::CURRENT_ADDRESS)).unwrap();
    fixed.mac = Some([2, 0, 0, 0, 0, 1]);
    let bytes = query_complete(&MAC, |_| ());
    assert_eq!(rule(control(&bytes, Some(fixed))), Rule::RND_49);
}

#[test]
fn rnd_50_mtu_is_clamped() {
    for (mtu, expected) in [(0, 1280), (9000, 1500)] {
        let judged = number(oid::MAXIMUM_FRAME_SIZE, mtu).unwrap();
        assert_eq!(judged.value, Value::Mtu(expected));
        assert_eq!(
            judged.noted.map(|violation| violation.rule),
            Some(Rule::RND_50)
        );
    }
    assert_eq!(
        number(oid::MAXIMUM_FRAME_SIZE, 1400),
        Ok(Judged::clean(Value::Mtu(1400)))
    );
}

#[test]
fn rnd_51_link_query() {
    assert_eq!(
        number(oid::MEDIA_CONNECT_STATUS, 0),
        Ok(Judged::clean(Value::LinkUp(true)))
    );
    assert_eq!(
        number(oid::MEDIA_CONNECT_STATUS, 1),
        Ok(Judged::clean(Value::LinkUp(false)))
    );
    let judged = number(oid::MEDIA_CONNECT_STATUS, 0x8000_0000).unwrap();
    assert_eq!(judged.value, Value::LinkUp(false));
    assert_eq!(
        judged.noted.map(|violation| violation.rule),
        Some(Rule::RND_51)
    );
}

#[test]
fn rnd_52_link_speed_is_clamped() {
    let judged = number(oid::LINK_SPEED, 0).unwrap();
    assert_eq!(judged.value, Value::LinkSpeed(1));
    assert_eq!(
        judged.noted.map(|violation| violation.rule),
        Some(Rule::RND_52)
    );
    let judged = number(oid::LINK_SPEED, 100_000_000);
    assert_eq!(judged, Ok(Judged::clean(Value::LinkSpeed(100_000_000))));
}

#[test]
fn rnd_53_event_buffer() {
    for offset in [0, 8, 11, 13, 0xFFFF_FFF0] {
        let bytes = indicate(status::LINK_SPEED_CHANGE, 4, offset, &[0; 4]);
        assert_eq!(rule(event(&bytes)), Rule::RND_53, "{offset}");
    }
    let mut short = indicate(status::MEDIA_CONNECT, 0, 0, &[]);
    short[4..8].copy_from_slice(&16u32.to_le_bytes());
    assert_eq!(rule(event(&short)), Rule::RND_53);
    // A speed without a number.
    assert_eq!(
        rule(event(&indicate(status::LINK_SPEED_CHANGE, 0, 0, &[]))),
        Rule::RND_53
    );
    // OpenVMM: no buffer, offset 0.
    let bytes = indicate(status::MEDIA_CONNECT, 0, 0, &[]);
    assert_eq!(event(&bytes), Ok(Judged::clean(Indication::LinkUp)));
}

#[test]
fn rnd_02_rnd_53_old_hosts_omit_the_buffer_from_the_length() {
    let mut bytes = indicate(status::TASK_OFFLOAD_CURRENT_CONFIG, 112, 12, &[0; 112]);
    bytes[4..8].copy_from_slice(&20u32.to_le_bytes());
    assert_eq!(event(&bytes), Ok(Judged::clean(Indication::Offload)));
    // The range still bounds it.
    bytes.truncate(100);
    assert_eq!(rule(event(&bytes)), Rule::RND_53);
}

#[test]
fn rnd_54_other_events_change_nothing() {
    assert_eq!(rule(event(&indicate(0xC001_0018, 0, 0, &[]))), Rule::RND_54);
    let bytes = indicate(status::MEDIA_DISCONNECT, 0, 0, &[]);
    assert_eq!(event(&bytes), Ok(Judged::clean(Indication::LinkDown)));
    let bytes = indicate(status::LINK_SPEED_CHANGE, 4, 12, &5000u32.to_le_bytes());
    assert_eq!(
        event(&bytes),
        Ok(Judged::clean(Indication::LinkSpeed(5000)))
    );
    let bytes = indicate(status::NETWORK_CHANGE, 4, 12, &2u32.to_le_bytes());
    assert_eq!(event(&bytes), Ok(Judged::clean(Indication::NetworkChange)));
}

#[test]
fn rnd_62_filter_not_set() {
    let request = Request::Set(oid::CURRENT_PACKET_FILTER);
    let bytes = set_complete(0xC000_0001, 7);
    assert_eq!(rule(control(&bytes, awaited(request))), Rule::RND_62);
}

#[test]
fn rnd_63_requests_from_the_host() {
    for message_type in [
        kind::INITIALIZE,
        kind::HALT,
        kind::QUERY,
        kind::SET,
        kind::RESET,
    ] {
        let bytes = packet(|header| header.header.message_type = message_type.into());
        assert_eq!(rule(control(&bytes, None)), Rule::RND_63);
    }
}

#[test]
fn rnd_64_keepalive() {
    let mut bytes = set_complete(0, 7);
    bytes[..4].copy_from_slice(&kind::KEEPALIVE.to_le_bytes());
    assert!(matches!(
        control(&bytes, None).unwrap().value,
        Message::Keepalive { request_id: 7 }
    ));
    bytes[4..8].copy_from_slice(&8u32.to_le_bytes());
    assert_eq!(rule(control(&bytes, None)), Rule::RND_64);
}

#[test]
fn rnd_66_event_on_a_sub_channel() {
    let sub = Context {
        primary: false,
        ..context()
    };
    let bytes = indicate(status::MEDIA_CONNECT, 0, 0, &[]);
    assert_eq!(rule(message(&bytes, Carrier::Control, &sub)), Rule::RND_66);
    // Frames are welcome there.
    assert!(message(&packet(|_| ()), Carrier::Data, &sub).is_ok());
}

#[test]
fn nvs_33_carrier_and_type() {
    assert_eq!(rule(judge(&set_complete(0, 7))), Rule::NVS_33);
    assert_eq!(rule(control(&packet(|_| ()), None)), Rule::NVS_33);
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
