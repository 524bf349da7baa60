//! What the host says that its NIC can do.

use super::*;
use crate::frame::{Network, Transport};

const OID: u32 = oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES;
/// Where a query's value starts in its message.
const AT: u32 = 24;

pub(super) fn everything() -> rndis::Offload {
    let mut value = rndis::Offload {
        header: rndis::ObjectHeader::new(0xA7, 3, 156),
        ..Default::default()
    };
    value.checksum.ipv4_tx = 0x155.into();
    value.checksum.ipv6_tx = 0x55.into();
    value.lso_v2.ipv4_encapsulation = 2.into();
    value.lso_v2.ipv4_max_size = 62780.into();
    value.lso_v2.ipv6_encapsulation = 2.into();
    value.lso_v2.ipv6_max_size = u32::MAX.into();
    value.lso_v2.ipv6_options = 5.into();
    value.rsc_ipv4 = 1;
    value.rsc_ipv6 = 1;
    value
}

fn ask(value: &[u8]) -> Result<Judged<Offloads>, Violation> {
    let judged = queried(OID, &query_complete(value, |_| ()))?;
    match judged.value {
        Value::Offloads(value) => Ok(Judged {
            value,
            noted: judged.noted,
        }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_host_has_is_taken() {
    let judged = ask(everything().as_bytes()).unwrap();
    assert_eq!(judged.noted, None);
    let offloads = judged.value;
    for network in [Network::V4, Network::V6] {
        for transport in [Transport::Tcp, Transport::Udp] {
            assert!(offloads.checksum(network, transport));
        }
    }
    assert_eq!(offloads.large_send(Network::V4), Some(62780));
    assert_eq!(offloads.large_send(Network::V6), Some(65535 + 18));
    assert!(offloads.coalescing());
    // TCP without its options is of no use, and large sends need TCP.
    let mut value = everything();
    value.checksum.ipv4_tx = 0x51.into();
    value.lso_v2.ipv6_options = 1.into();
    value.rsc_ipv6 = 0;
    let offloads = ask(value.as_bytes()).unwrap().value;
    assert!(!offloads.checksum(Network::V4, Transport::Tcp));
    assert!(offloads.checksum(Network::V4, Transport::Udp));
    assert_eq!(offloads.large_send(Network::V4), None);
    assert_eq!(offloads.large_send(Network::V6), None);
    assert!(!offloads.coalescing());
}

#[test]
fn rnd_57_header_of_the_offload_answer() {
    let good = everything();
    type Change = fn(&mut rndis::Offload);
    let cases: [(Change, u32); 5] = [
        (|value| value.header.object_type = 0xA8, 0),
        (|value| value.header.revision = 0, 1),
        (|value| value.header.size = 0xFFFF.into(), 2),
        (|value| value.header.size = 157.into(), 2),
        (|value| value.header.size = 111.into(), 2),
    ];
    for (change, at) in cases {
        let mut value = good;
        change(&mut value);
        let violation = ask(value.as_bytes()).unwrap_err();
        assert_eq!((violation.rule, violation.offset), (Rule::RND_57, AT + at));
    }
    for len in 0..112 {
        assert_eq!(rule(ask(&good.as_bytes()[..len])), Rule::RND_57, "{len}");
    }
    // Bytes behind what the header says are not looked at.
    let mut long = good.as_bytes().to_vec();
    long.extend([0xFF; 20]);
    assert!(ask(&long).is_ok());
}

#[test]
fn rnd_58_sizes_of_large_sends() {
    let frame = 1500 + 18;
    for (size, fewest, usable) in [
        (1, 0, false),
        (0, 2, false),
        (2 * frame - 1, 2, false),
        (2 * frame, 2, true),
        (62780, 3, false),
        (62780, u32::MAX, false),
        (u32::MAX, 0, true),
    ] {
        let mut value = everything();
        value.lso_v2.ipv4_max_size = size.into();
        value.lso_v2.ipv4_min_segments = fewest.into();
        let judged = ask(value.as_bytes()).unwrap();
        let large = judged.value.large_send(Network::V4);
        let wanted = usable.then_some(size.min(65535 + 18) as usize);
        assert_eq!(large, wanted, "{size} {fewest}");
        let place = if fewest > 2 { 88 } else { 84 };
        let noted = judged.noted.map(|noted| (noted.rule, noted.offset));
        let expected = (!usable).then_some((Rule::RND_58, AT + place));
        assert_eq!(noted, expected, "{size} {fewest}");
        // The other version is not touched by it.
        assert!(judged.value.large_send(Network::V6).is_some());
    }
}

/// What an earlier revision does not have is off ("RND-59").
#[test]
fn rnd_59_short_answers_are_completed_with_zeros() {
    for (revision, size) in [(1, 112), (2, 144)] {
        let mut value = everything();
        value.header.revision = revision;
        value.header.size = size.into();
        for bytes in [value.as_bytes(), &value.as_bytes()[..size as usize]] {
            let offloads = ask(bytes).unwrap().value;
            assert!(!offloads.coalescing());
            assert_eq!(offloads.large_send(Network::V4), Some(62780));
        }
    }
    assert!(ask(everything().as_bytes()).unwrap().value.coalescing());
    assert_eq!(rule(ask(&everything().as_bytes()[..20])), Rule::RND_57);
}
