//! Completions of our requests.

use super::*;
use crate::frame::{HashKind, HashKinds, Transport};

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
fn rnd_62_filter_not_set() {
    let request = Request::Set(oid::CURRENT_PACKET_FILTER);
    let bytes = set_complete(0xC000_0001, 7);
    assert_eq!(rule(control(&bytes, awaited(request))), Rule::RND_62);
}

/// NDIS_RECEIVE_SCALE_CAPABILITIES of revision 2.
pub(super) fn scale(queues: u32, table: u16) -> Vec<u8> {
    let mut value = Vec::from([0x88, 2, 18, 0]);
    value.extend([0x301u32, 1, queues].iter().flat_map(|w| w.to_le_bytes()));
    value.extend(table.to_le_bytes());
    value
}

#[test]
fn rnd_60_receive_scale_capabilities() {
    let id = oid::RECEIVE_SCALE_CAPABILITIES;
    let asked = |value: &[u8]| queried(id, &query_complete(value, |_| ()));
    for (queues, table, wanted) in [
        (8, 128, (8, 128)),
        (1, 16, (1, 16)),
        (64, 0, (64, 128)),
        // More than we use are left alone.
        (1000, 128, (64, 128)),
    ] {
        let Ok(judged) = asked(&scale(queues, table)) else {
            panic!("{queues} {table}")
        };
        let (queues, table) = wanted;
        // The host of this test names a function and TCP over both.
        let hashes = HashKinds::of(|kind| kind.transport() != Some(Transport::Udp));
        let value = Value::Scale {
            queues,
            table,
            hashes,
        };
        assert_eq!(judged, Judged::clean(value));
    }
    // Hashes by their bits; none without the function that we know.
    for (flags, expected) in [
        (0x0000_0001, &[][..]),
        (0xFFFF_FFFE, &[]),
        (0x0000_0101, &[HashKind::Ipv4, HashKind::TcpIpv4]),
        (0x0000_1001, &[HashKind::Ipv6, HashKind::UdpIpv6]),
        (0xFFFF_FFFF, &HashKind::ALL),
    ] {
        let mut value = scale(8, 128);
        value[4..8].copy_from_slice(&u32::to_le_bytes(flags));
        let Ok(Judged {
            value: Value::Scale { hashes, .. },
            ..
        }) = asked(&value)
        else {
            panic!("{flags:#x}")
        };
        assert_eq!(hashes, HashKinds::of(|kind| expected.contains(&kind)));
    }
    // Revision 1 says nothing of a table.
    let mut first = scale(8, 0);
    first[2] = 16;
    first.truncate(16);
    assert!(asked(&first).is_ok());
    let mut kind = scale(8, 128);
    kind[0] = 0x89;
    let mut longer = scale(8, 128);
    longer[2] = 19;
    let mut shorter = scale(8, 128);
    shorter[2] = 15;
    for bad in [
        // The catalogue's example, and others.
        scale(u32::MAX, 128),
        scale(0x1_0008, 128),
        scale(0, 128),
        scale(8, 129),
        scale(8, 100),
        scale(8, 256),
        kind,
        longer,
        shorter,
        scale(8, 128)[..15].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(rule(asked(&bad)), Rule::RND_60, "{bad:x?}");
    }
}
