//! Every combination of sizes near their limits, against the rules as the catalogue
//! words them: a packet passes exactly if it breaks none, and the rule that is named
//! is one that it breaks.

use super::*;
use std::collections::BTreeSet;

/// The rules that break, each with offset and value of what breaks it.
type Broken = Vec<(Rule, u32, u64)>;

/// Holds a verdict against what breaks; notes what was named.
fn agree<T: core::fmt::Debug>(
    seen: &mut BTreeSet<std::string::String>,
    verdict: Result<T, Violation>,
    broken: &Broken,
    what: impl core::fmt::Debug,
) -> Option<T> {
    match verdict {
        Ok(value) => {
            assert!(broken.is_empty(), "{what:?}: {broken:?} passed");
            seen.insert("legal".into());
            Some(value)
        }
        Err(violation) => {
            let named = (violation.rule, violation.offset, violation.value);
            assert!(broken.contains(&named), "{what:?}: {named:?} of {broken:?}");
            seen.insert(std::format!("{}", violation.rule));
            None
        }
    }
}

/// RNG_09, RNG_22, PKT_01, PKT_02, PKT_03: sizes of the descriptor against bytes in
/// the ring, room in the buffer, and a descriptor that is cut.
#[test]
fn rng_09_rng_22_pkt_01_pkt_02_pkt_03_every_size_near_a_limit() {
    let mut seen = BTreeSet::new();
    let sizes = [
        0, 1, 2, 3, 4, 5, 0x7ff, 0x1fff, 0x7fff, 0x8000, 0xfffe, 0xffff,
    ];
    for offset8 in sizes {
        for length8 in sizes {
            let head = &packet(6, offset8, length8, 0)[..DESCRIPTOR];
            let length = u32::from(length8) * 8;
            let around = |size: u32| [-9, -8, -1, 0, 1, 8].map(|d| size.saturating_add_signed(d));
            let available = around(length + 8).into_iter().chain([0, 8, 24, u32::MAX]);
            for available in available {
                for limit in around(length).into_iter().chain([16, 0x4000]) {
                    let (l, o) = (u64::from(length8), u64::from(offset8));
                    let rules = [
                        (Rule::PKT_03, 4, l, length8 < 2),
                        (Rule::RNG_09, 4, l, length + 8 > available),
                        (Rule::RNG_22, 4, l, length > limit),
                        (Rule::PKT_01, 2, o, offset8 > length8),
                        (Rule::PKT_02, 2, o, offset8 < 2),
                    ];
                    let broken = rules.iter().filter(|r| r.3);
                    let broken = broken.map(|r| (r.0, r.1, r.2)).collect();
                    let verdict = span(head, available, limit as usize);
                    let what = (offset8, length8, available, limit);
                    if let Some(span) = agree(&mut seen, verdict, &broken, what) {
                        assert_eq!((span.length(), span.total()), (length, length + 8));
                    }
                }
            }
            for cut in 0..DESCRIPTOR {
                let verdict = span(&head[..cut], u32::MAX, usize::MAX);
                agree(
                    &mut seen,
                    verdict,
                    &vec![(Rule::RNG_08, 0, cut as u64)],
                    cut,
                );
            }
        }
    }
    let all = [
        "PKT-01", "PKT-02", "PKT-03", "RNG-08", "RNG-09", "RNG-22", "legal",
    ];
    assert!(seen.iter().map(|s| &**s).eq(all), "{seen:?}");
}

/// Sizes, type and flags of a whole packet, its ranges, and each truncation.
#[test]
fn pkt_04_pkt_05_pkt_07_pkt_08_pkt_09_pkt_10_pkt_11_pkt_21_every_packet_near_a_limit() {
    const SETS: [u16; 2] = [0xcafe, 0xbeef];
    const COUNTS: [u32; 8] = [0, 1, 2, 3, 562, 563, 0x7fff_ffff, 0x8000_0000];
    let mut seen = BTreeSet::new();
    for offset8 in 0..9_u16 {
        for length8 in 0..9_u16 {
            for kind in (0..15).chain([0xffff]) {
                let transfer_pages = kind == 7;
                let (sets, counts) = match transfer_pages {
                    true => (&SETS[..], &COUNTS[..]),
                    false => (&SETS[..1], &COUNTS[1..2]),
                };
                for (&set, &count) in sets.iter().flat_map(|s| counts.iter().map(move |c| (s, c))) {
                    let mut bytes = transfer(set, count, offset8, length8);
                    bytes.resize(72, 0);
                    bytes[..2].copy_from_slice(&u16::to_le_bytes(kind));
                    for flags in [0, 1, 2, 0xffff] {
                        bytes[6..8].copy_from_slice(&u16::to_le_bytes(flags));
                        for cut in (16..=72).filter(|cut| cut % 8 < 2) {
                            let broken = breaks(&bytes[..cut], kind, flags, set, count);
                            let verdict = judge(&bytes[..cut], &POLICY);
                            let what = (offset8, length8, kind, flags, set, count, cut);
                            let Some(packet) = agree(&mut seen, verdict, &broken, what) else {
                                continue;
                            };
                            let payload = usize::from(length8 - offset8) * 8;
                            assert_eq!(packet.payload().len(), payload, "{what:?}");
                            let Kind::TransferPages(ranges) = packet.kind() else {
                                continue;
                            };
                            assert_eq!(ranges.iter().count(), count as usize, "{what:?}");
                        }
                    }
                }
            }
        }
    }
    for id in [
        "PKT-01", "PKT-02", "PKT-03", "PKT-04", "PKT-05", "PKT-07", "PKT-08", "PKT-09", "PKT-10",
        "PKT-11", "PKT-21", "RNG-09", "RNG-22", "legal",
    ] {
        // More bytes than any buffer has are always there: RNG-22 comes first.
        assert_eq!(seen.contains(id), id != "RNG-09", "{id}: {seen:?}");
    }
}

/// What a whole packet breaks. Rules about ranges count only where their bytes are.
fn breaks(bytes: &[u8], kind: u16, flags: u16, set: u16, count: u32) -> Broken {
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (offset8, length8) = (word(2), word(4));
    let (o, l, c) = (u64::from(offset8), u64::from(length8), u64::from(count));
    let length = usize::from(length8) * 8;
    let mut broken: Broken = Vec::new();
    let mut check = |rule, at, value, breaks: bool| {
        if breaks {
            broken.push((rule, at, value));
        }
    };
    check(Rule::PKT_03, 4, l, length8 < 2);
    check(Rule::RNG_22, 4, l, length > bytes.len());
    check(Rule::PKT_01, 2, o, offset8 > length8);
    check(Rule::PKT_02, 2, o, offset8 < 2);
    check(Rule::PKT_04, 0, kind.into(), ![6, 7, 11].contains(&kind));
    check(Rule::PKT_05, 6, flags.into(), flags & !1 != 0);
    check(Rule::PKT_21, 4, l, kind != 11 && offset8 == length8);
    if kind == 7 {
        check(Rule::PKT_07, 2, o, offset8 < 3);
        check(Rule::PKT_08, 20, c, 24 + 8 * c > 8 * o);
        check(Rule::PKT_09, 20, c, count >= 1 << 31);
        check(Rule::PKT_10, 20, c, !(1..=562).contains(&count));
        check(Rule::PKT_11, 16, set.into(), set != 0xcafe);
    }
    broken
}
