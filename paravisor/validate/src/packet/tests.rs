//! Each rule gets the catalogue's malicious example and a legal neighbour.

mod neighbours;
mod sweep;

use super::*;
extern crate std;
use std::vec;
use std::vec::Vec;

const POLICY: Policy = Policy {
    transfer_set: 0xcafe,
    max_ranges: 562,
};

fn packet(kind: u16, offset8: u16, length8: u16, flags: u16) -> Vec<u8> {
    let mut bytes = vec![0; (length8 as usize * 8).max(DESCRIPTOR)];
    bytes[0..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&offset8.to_le_bytes());
    bytes[4..6].copy_from_slice(&length8.to_le_bytes());
    bytes[6..8].copy_from_slice(&flags.to_le_bytes());
    bytes[8..16].copy_from_slice(&0x1122_u64.to_le_bytes());
    bytes
}

fn transfer(set: u16, count: u32, offset8: u16, length8: u16) -> Vec<u8> {
    let mut bytes = packet(7, offset8, length8, 1);
    if bytes.len() >= 24 {
        bytes[16..18].copy_from_slice(&set.to_le_bytes());
        bytes[18..20].copy_from_slice(&[0xff, 0xff]); // PKT-12: garbage
        bytes[20..24].copy_from_slice(&count.to_le_bytes());
    }
    bytes
}

fn rule<T: core::fmt::Debug>(result: Result<T, Violation>) -> Rule {
    result.unwrap_err().rule
}

#[test]
fn rng_09_packet_and_trailer_inside_the_available_bytes() {
    let bytes = packet(6, 2, 4, 0);
    assert_eq!(rule(span(&bytes, 32, 4096)), Rule::RNG_09);
    assert_eq!(span(&bytes, 40, 4096).unwrap().total(), 40);
}

#[test]
fn rng_22_packet_inside_the_private_buffer() {
    let bytes = packet(6, 2, 0xffff, 0);
    assert_eq!(rule(span(&bytes, u32::MAX, 65536)), Rule::RNG_22);
    assert_eq!(
        span(&bytes, u32::MAX, 0xffff * 8).unwrap().length(),
        0xffff * 8
    );
}

#[test]
fn pkt_01_payload_offset_inside_the_packet() {
    assert_eq!(rule(span(&packet(6, 5, 3, 0), 4096, 4096)), Rule::PKT_01);
    assert!(span(&packet(6, 3, 3, 0), 4096, 4096).is_ok());
}

#[test]
fn pkt_02_payload_behind_the_descriptor() {
    assert_eq!(rule(span(&packet(6, 0, 3, 0), 4096, 4096)), Rule::PKT_02);
    assert_eq!(rule(span(&packet(6, 1, 3, 0), 4096, 4096)), Rule::PKT_02);
    assert!(span(&packet(6, 2, 3, 0), 4096, 4096).is_ok());
}

#[test]
fn pkt_03_packet_holds_its_descriptor() {
    assert_eq!(rule(span(&packet(6, 0, 0, 0), 4096, 4096)), Rule::PKT_03);
    assert_eq!(rule(span(&packet(6, 2, 1, 0), 4096, 4096)), Rule::PKT_03);
    assert!(span(&packet(11, 2, 2, 0), 4096, 4096).is_ok());
}

#[test]
fn pkt_04_three_types_only() {
    for kind in [0, 1, 2, 3, 4, 5, 8, 9, 10, 12, 13, 0xffff] {
        assert_eq!(
            rule(judge(&packet(kind, 2, 3, 0), &POLICY)),
            Rule::PKT_04,
            "{kind}"
        );
    }
    assert!(matches!(
        judge(&packet(6, 2, 3, 0), &POLICY).unwrap().kind(),
        Kind::InBand
    ));
    assert!(matches!(
        judge(&packet(11, 2, 3, 0), &POLICY).unwrap().kind(),
        Kind::Completion
    ));
}

#[test]
fn pkt_05_one_flag_only() {
    assert_eq!(rule(judge(&packet(6, 2, 3, 0x8000), &POLICY)), Rule::PKT_05);
    assert_eq!(rule(judge(&packet(6, 2, 3, 3), &POLICY)), Rule::PKT_05);
    let bytes = packet(6, 2, 3, 1);
    let good = judge(&bytes, &POLICY).unwrap();
    assert!(good.completion_requested());
    assert_eq!((good.transaction_id(), good.payload().len()), (0x1122, 8));
}

#[test]
fn pkt_06_a_completion_is_not_answered() {
    assert!(
        !judge(&packet(11, 2, 3, 1), &POLICY)
            .unwrap()
            .completion_requested()
    );
}

#[test]
fn pkt_07_transfer_packet_has_its_header() {
    assert_eq!(
        rule(judge(&transfer(0xcafe, 1, 2, 5), &POLICY)),
        Rule::PKT_07
    );
    assert!(judge(&transfer(0xcafe, 1, 4, 5), &POLICY).is_ok());
}

#[test]
fn pkt_08_ranges_in_front_of_the_payload() {
    assert_eq!(
        rule(judge(&transfer(0xcafe, 100, 4, 5), &POLICY)),
        Rule::PKT_08
    );
    assert_eq!(
        rule(judge(&transfer(0xcafe, 2, 4, 6), &POLICY)),
        Rule::PKT_08
    );
    assert!(judge(&transfer(0xcafe, 2, 5, 6), &POLICY).is_ok());
}

#[test]
fn pkt_09_range_count_is_no_negative_number() {
    assert_eq!(
        rule(judge(&transfer(0xcafe, u32::MAX, 3, 4), &POLICY)),
        Rule::PKT_09
    );
    assert_eq!(
        rule(judge(&transfer(0xcafe, 1 << 31, 3, 4), &POLICY)),
        Rule::PKT_09
    );
}

#[test]
fn pkt_10_one_to_562_ranges() {
    assert_eq!(
        rule(judge(&transfer(0xcafe, 0, 3, 4), &POLICY)),
        Rule::PKT_10
    );
    assert_eq!(
        rule(judge(&transfer(0xcafe, 563, 600, 700), &POLICY)),
        Rule::PKT_10
    );
    let bytes = transfer(0xcafe, 562, 3 + 562, 700);
    let Kind::TransferPages(ranges) = judge(&bytes, &POLICY).unwrap().kind() else {
        panic!()
    };
    assert_eq!((ranges.len(), ranges.iter().count()), (562, 562));
}

#[test]
fn pkt_11_our_receive_buffer() {
    assert_eq!(
        rule(judge(&transfer(0xbeef, 1, 4, 5), &POLICY)),
        Rule::PKT_11
    );
    assert!(judge(&transfer(0xcafe, 1, 4, 5), &POLICY).is_ok());
}

#[test]
fn pkt_12_garbage_in_reserved_bytes_is_ignored() {
    // `transfer` always writes garbage there.
    let mut bytes = transfer(0xcafe, 1, 4, 5);
    bytes[24..28].copy_from_slice(&1500_u32.to_le_bytes());
    bytes[28..32].copy_from_slice(&4096_u32.to_le_bytes());
    let Kind::TransferPages(ranges) = judge(&bytes, &POLICY).unwrap().kind() else {
        panic!()
    };
    let range = ranges.iter().next().unwrap();
    assert_eq!(
        range,
        Range {
            byte_count: 1500,
            byte_offset: 4096
        }
    );
}

#[test]
fn pkt_21_payload_holds_a_message_type() {
    assert_eq!(rule(judge(&packet(6, 2, 2, 0), &POLICY)), Rule::PKT_21);
    assert_eq!(
        rule(judge(&transfer(0xcafe, 1, 4, 4), &POLICY)),
        Rule::PKT_21
    );
    assert!(
        judge(&packet(11, 2, 2, 0), &POLICY)
            .unwrap()
            .payload()
            .is_empty()
    );
}

#[test]
fn pkt_23_payload_is_a_multiple_of_8() {
    for length8 in 2..40 {
        let bytes = packet(11, 2, length8, 0);
        assert!(
            judge(&bytes, &POLICY)
                .unwrap()
                .payload()
                .len()
                .is_multiple_of(8)
        );
    }
}

#[test]
fn no_bytes_panic() {
    let mut state = 1_u64;
    for _ in 0..200_000 {
        let mut bytes = [0_u8; 64];
        for byte in &mut bytes {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
        // Small numbers where lengths stand, so that deeper checks are met.
        bytes[0] &= 15;
        bytes[1] = 0;
        bytes[2] &= 15;
        bytes[3] = 0;
        bytes[4] &= 15;
        bytes[5] = 0;
        let len = (state >> 32) as usize % 65;
        let _ = judge(&bytes[..len], &POLICY);
    }
}
