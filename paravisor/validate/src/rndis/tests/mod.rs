//! Each test is named after the rule whose example it feeds, beside a legal
//! neighbour. Here: headers, types, events.

extern crate std;

mod neighbours;
mod offload;
mod packet;
mod response;
mod sweep;

use super::*;
use abi::rndis::{checksum, oid, packet_id, ppi};
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
            coalescing: false,
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
