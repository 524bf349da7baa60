//! Each rule beside the packet that is just legal, and what the violation points at.

use super::*;
use crate::Layer;
use crate::neighbours::Neighbours;

fn judged(bytes: &[u8]) -> Option<Violation> {
    judge(bytes, &POLICY).err()
}

/// Every rule of the layer that a packet by itself can break, from PKT_01 to PKT_21.
#[test]
fn violations_point_at_what_differs_from_the_legal_neighbour() {
    let mut n = Neighbours::default();
    let in_band = packet(6, 2, 3, 1);
    let half = |word: u16| word.to_le_bytes();
    let le = |word: u32| word.to_le_bytes();
    n.field(Rule::PKT_01, judged, &in_band, 2, half(4));
    for offset in [0, 1] {
        n.field(Rule::PKT_02, judged, &in_band, 2, half(offset));
    }
    for length in [0, 1] {
        n.field(Rule::PKT_03, judged, &in_band, 4, half(length));
    }
    n.field(Rule::PKT_04, judged, &in_band, 0, half(9));
    n.field(Rule::PKT_05, judged, &in_band, 6, half(3));
    n.field(Rule::PKT_21, judged, &in_band, 4, half(2));
    let pages = transfer(0xcafe, 1, 4, 6);
    n.field(Rule::PKT_07, judged, &pages, 2, half(2));
    n.field(Rule::PKT_08, judged, &pages, 20, le(2));
    n.field(Rule::PKT_09, judged, &pages, 20, le(1 << 31));
    for count in [0, POLICY.max_ranges + 1] {
        n.field(Rule::PKT_10, judged, &pages, 20, le(count));
    }
    n.field(Rule::PKT_11, judged, &pages, 16, half(0xbeef));
    // What a completion answers is in the client's table; PKT-16 and PKT-22 are
    // among the neighbours of NVSP.
    let client = ["PKT-13", "PKT-14", "PKT-15", "PKT-16", "PKT-22", "PKT-24"];
    n.complete(Layer::Packet, &client);
}
