//! Ring packets: descriptor, extended header, ranges, payload.

use crate::{Digest, Input};
use abi::nvsp::RECEIVE_BUFFER_ID;
use validate::packet::{Kind, MAX_RANGES, Policy, judge, refused, span};

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let policy = Policy {
        transfer_set: RECEIVE_BUFFER_ID,
        max_ranges: match input.u8() {
            0..=127 => 375,
            128..=200 => u32::from(input.u8()),
            _ => input.u32(),
        },
    };
    let available = match input.u8() {
        0..=127 => u32::MAX,
        128..=200 => u32::from(input.u16()),
        _ => input.u32(),
    };
    let limit = match input.u8() {
        0..=127 => 8192,
        _ => usize::from(input.u16()),
    };
    let bytes = input.rest();
    let mut digest = Digest::new();

    let measured = span(bytes, available, limit);
    digest.debug(&measured);
    if let Ok(span) = measured {
        assert!(span.length() >= 16 && span.length().is_multiple_of(8));
        assert!(span.length() as usize <= limit);
        assert!(span.total() <= available && span.total() == span.length() + 8);
    }
    let judged = judge(bytes, &policy);
    digest.debug(&judged);
    digest.debug(&refused(bytes));
    let Ok(packet) = judged else {
        return digest.value();
    };
    let whole = span(bytes, u32::MAX, bytes.len()).unwrap();
    let length = whole.length() as usize;
    // The payload is the end of the packet, and no byte more.
    let payload = packet.payload();
    assert!(bytes[..length].ends_with(payload) && payload.len() <= length - 16);
    assert!(payload.len().is_multiple_of(8));
    assert_eq!(bytes[8..16], packet.transaction_id().to_le_bytes());
    match packet.kind() {
        Kind::TransferPages(ranges) => {
            assert!(!ranges.is_empty() && !payload.is_empty());
            assert!(ranges.len() <= policy.max_ranges.min(MAX_RANGES) as usize);
            assert_eq!(ranges.iter().count(), ranges.len());
            assert!(24 + 8 * ranges.len() + payload.len() <= length);
        }
        Kind::InBand => assert!(!payload.is_empty()),
        Kind::Completion => assert!(!packet.completion_requested()),
    }
    // What lies behind the packet has no say.
    let alone = judge(&bytes[..length], &policy).expect("judged before");
    assert_eq!(format!("{alone:?}"), format!("{packet:?}"));
    digest.value()
}
