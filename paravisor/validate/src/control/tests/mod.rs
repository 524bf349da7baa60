//! Each rule gets the catalogue's malicious example and a legal neighbour.

mod offers;

use super::*;
use crate::synic::slot;
use abi::vmbus::*;
extern crate std;
use std::vec;
use std::vec::Vec;
use zerocopy::{FromZeros, IntoBytes};

const NIC_A: Guid = Guid([0xa; 16]);
const NIC_B: Guid = Guid([0xb; 16]);

/// A client that knows: relid 7 (card A, as `standing` says) and some GPADLs.
struct Book {
    standing: Option<Standing>,
    gpadls: Vec<(u32, Outstanding)>,
    channels: usize,
    window: Option<Window>,
    moving: bool,
}

fn empty() -> Book {
    Book {
        standing: None,
        gpadls: vec![],
        window: None,
        moving: false,
        channels: 0,
    }
}

fn with(standing: Standing) -> Book {
    Book {
        standing: Some(standing),
        gpadls: vec![],
        window: None,
        moving: false,
        channels: 1,
    }
}

impl Ledger for Book {
    fn channel(&self, relid: Relid) -> Option<Known> {
        let standing = self.standing.filter(|_| relid.number() == 7)?;
        Some(Known {
            instance: NIC_A,
            standing,
        })
    }
    fn instance(&self, instance: &Guid) -> Option<Standing> {
        self.standing
            .filter(|s| *s != Standing::Rescinded && *instance == NIC_A)
    }
    fn adopted(&self, instance: &Guid) -> bool {
        *instance == NIC_A
    }
    fn has_connection(&self, connection_id: u32) -> bool {
        self.standing.is_some() && connection_id == 0x2007
    }
    fn channels(&self) -> usize {
        self.channels
    }
    fn nics(&self) -> usize {
        self.channels
    }
    fn gpadl(&self, gpadl: u32) -> Option<Outstanding> {
        self.gpadls
            .iter()
            .find(|(number, _)| *number == gpadl)
            .map(|(_, o)| *o)
    }
    fn window(&self, instance: &Guid) -> Option<Window> {
        self.window.filter(|_| *instance == NIC_A)
    }
    fn moving(&self, relid: Relid) -> bool {
        self.moving && relid.number() == 7
    }
}

fn gate(phase: Phase) -> Gate {
    Gate {
        phase,
        version: Version::V6_0,
        features: Features::from_bits_retain(3),
        message_connection: CONNECTION_MESSAGE_REDIRECTED,
        admission: Admission::All,
        max_nics: 4,
        max_channels: 8,
    }
}

fn payload(bytes: &[u8]) -> Payload {
    let mut copy = [0; 256];
    copy[0] = 1;
    copy[4] = bytes.len() as u8;
    copy[16..16 + bytes.len()].copy_from_slice(bytes);
    slot(&copy).unwrap().unwrap()
}

fn judged(bytes: &[u8], phase: Phase, book: &Book) -> Result<Message, Violation> {
    judge(&payload(bytes), &gate(phase), book)
}

fn rule(bytes: &[u8], phase: Phase, book: &Book) -> Rule {
    judged(bytes, phase, book).unwrap_err().rule
}

fn header(kind: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes
}

fn words(kind: u32, rest: &[u32]) -> Vec<u8> {
    let mut bytes = header(kind, 8);
    rest.iter()
        .for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

fn offer(change: impl FnOnce(&mut OfferChannel)) -> Vec<u8> {
    let mut offer = OfferChannel::new_zeroed();
    offer.header.message_type = 1.into();
    offer.interface = class::NIC;
    offer.instance = NIC_B;
    offer.relid = 9.into();
    offer.is_dedicated = 1.into();
    offer.connection_id = 0x2009.into();
    change(&mut offer);
    offer.as_bytes().to_vec()
}

fn offer_rule(change: impl FnOnce(&mut OfferChannel)) -> Rule {
    rule(
        &offer(change),
        Phase::RequestingOffers,
        &with(Standing::Open),
    )
}

fn version(supported: u8, state: u8, connection: u32, features: u32) -> Vec<u8> {
    let mut bytes = header(15, 8);
    bytes.extend([supported, state, 0, 0]);
    bytes.extend(connection.to_le_bytes());
    bytes.extend(features.to_le_bytes());
    bytes
}

fn version_rule(supported: u8, state: u8, connection: u32, features: u32) -> Rule {
    rule(
        &version(supported, state, connection, features),
        Phase::Contacting,
        &empty(),
    )
}

#[test]
fn ctl_01_unknown_type() {
    assert_eq!(
        rule(&header(u32::MAX, 100), Phase::Running, &empty()),
        Rule::CTL_01
    );
    assert_eq!(
        rule(&header(0, 100), Phase::Running, &empty()),
        Rule::CTL_01
    );
    assert_eq!(
        rule(&header(30, 100), Phase::Running, &empty()),
        Rule::CTL_01
    );
}

#[test]
fn ctl_02_a_request_from_the_host() {
    for kind in [3, 5, 7, 8, 9, 11, 13, 14, 16, 18, 19, 21, 22, 25, 27, 29] {
        for phase in [
            Phase::Idle,
            Phase::Contacting,
            Phase::Running,
            Phase::Unloading,
        ] {
            assert_eq!(
                rule(&header(kind, 160), phase, &empty()),
                Rule::CTL_02,
                "{kind}"
            );
        }
    }
}

#[test]
fn ctl_03_too_short() {
    assert_eq!(
        rule(&header(1, 100), Phase::Running, &empty()),
        Rule::CTL_03
    );
    for info in MESSAGES
        .iter()
        .filter(|info| info.direction == Direction::ToGuest)
    {
        let kind = info.message_type;
        if info.min_size > 8 {
            let short = header(kind.0, info.min_size - 1);
            assert_eq!(
                rule(&short, Phase::Running, &empty()),
                Rule::CTL_03,
                "{}",
                info.name
            );
        }
        if let Err(violation) = judged(&header(kind.0, info.min_size), Phase::Running, &empty()) {
            assert_ne!(violation.rule, Rule::CTL_03, "{}", info.name);
        }
    }
    // The 6.0 form of VERSION_RESPONSE has four bytes more.
    let short = &version(1, 0, 4, 0)[..16];
    assert_eq!(rule(short, Phase::Contacting, &empty()), Rule::CTL_03);
}

#[test]
fn ctl_04_the_rest_of_a_long_message_is_not_looked_at() {
    let mut long = version(1, 0, 4, 3);
    long.extend([0xff; 20]); // as if with the server's monitor pages
    let Message::VersionAccepted(accepted) = judged(&long, Phase::Contacting, &empty()).unwrap()
    else {
        panic!()
    };
    assert_eq!(accepted.features().bits(), 3);
}

#[test]
fn ctl_05_padding_is_ignored() {
    let mut bytes = offer(|_| ());
    bytes[4..8].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    assert!(judged(&bytes, Phase::RequestingOffers, &empty()).is_ok());
}

#[test]
fn ctl_06_not_negotiated() {
    let mut gate = gate(Phase::Running);
    gate.version = Version::V5_2;
    let response = payload(&words(24, &[7, 0]));
    assert_eq!(
        judge(&response, &gate, &empty()).unwrap_err().rule,
        Rule::CTL_06
    );
    gate.version = Version::V5_3;
    assert_eq!(
        judge(&response, &gate, &empty()).unwrap_err().rule,
        Rule::CTL_51
    );
    // 26 and 28 need features that are never asked for.
    assert_eq!(
        rule(&header(26, 16), Phase::Running, &empty()),
        Rule::CTL_06
    );
    assert_eq!(
        rule(&header(28, 16), Phase::Running, &empty()),
        Rule::CTL_06
    );
}

#[test]
fn ctl_07_not_yet() {
    assert_eq!(
        rule(&offer(|_| ()), Phase::Contacting, &empty()),
        Rule::CTL_07
    );
    assert_eq!(rule(&offer(|_| ()), Phase::Idle, &empty()), Rule::CTL_07);
    assert_eq!(
        rule(&offer(|_| ()), Phase::Unloading, &empty()),
        Rule::CTL_07
    );
    assert!(judged(&offer(|_| ()), Phase::RequestingOffers, &empty()).is_ok());
}

#[test]
fn ctl_08_version_response_out_of_turn() {
    for phase in [
        Phase::Idle,
        Phase::RequestingOffers,
        Phase::Running,
        Phase::Unloading,
    ] {
        assert_eq!(rule(&version(1, 0, 4, 0), phase, &empty()), Rule::CTL_08);
    }
}

#[test]
fn ctl_09_supported_is_a_boolean() {
    assert_eq!(version_rule(0x80, 0, 4, 0), Rule::CTL_09);
    assert_eq!(version_rule(2, 0, 4, 0), Rule::CTL_09);
    let refused = judged(&version(0, 0, 0, 0)[..16], Phase::Contacting, &empty());
    assert!(matches!(refused, Ok(Message::VersionRefused(_))));
}

#[test]
fn ctl_10_connection_state() {
    assert_eq!(version_rule(1, 1, 4, 0), Rule::CTL_10);
    assert_eq!(version_rule(0, 3, 4, 0), Rule::CTL_10);
    let refused = judged(&version(0, 2, 0, 0), Phase::Contacting, &empty());
    assert!(matches!(refused, Ok(Message::VersionRefused(_))));
}

#[test]
fn ctl_11_message_connection() {
    assert_eq!(version_rule(1, 0, 0x00ff_ffff, 0), Rule::CTL_11);
    assert_eq!(version_rule(1, 0, 0, 0), Rule::CTL_11);
    assert_eq!(version_rule(1, 0, 0x8000_0004, 0), Rule::CTL_11);
    for connection in [1, 4, 0x0080_0074] {
        assert!(judged(&version(1, 0, connection, 0), Phase::Contacting, &empty()).is_ok());
    }
}

#[test]
fn ctl_14_features_not_asked_for() {
    assert_eq!(version_rule(1, 0, 4, u32::MAX), Rule::CTL_14);
    assert_eq!(version_rule(1, 0, 4, 0x4), Rule::CTL_14);
    assert_eq!(version_rule(1, 0, 4, 0x8000_0003), Rule::CTL_14);
    assert!(judged(&version(1, 0, 4, 1), Phase::Contacting, &empty()).is_ok());
    // Below 6.0 there are no features in the answer.
    let mut gate = gate(Phase::Contacting);
    (gate.version, gate.features) = (Version::V5_3, Features::empty());
    let answer = judge(&payload(&version(1, 0, 4, u32::MAX)), &gate, &empty()).unwrap();
    let Message::VersionAccepted(accepted) = answer else {
        panic!()
    };
    assert!(accepted.features().is_empty());
}

#[test]
fn ctl_30_all_offers_delivered_once() {
    assert!(judged(&header(4, 8), Phase::RequestingOffers, &empty()).is_ok());
    assert_eq!(rule(&header(4, 8), Phase::Running, &empty()), Rule::CTL_30);
}

#[test]
fn ctl_38_rescind_of_nothing() {
    for relid in [0, 6, 2000, 2048, u32::MAX] {
        let bytes = words(2, &[relid]);
        assert_eq!(
            rule(&bytes, Phase::Running, &with(Standing::Open)),
            Rule::CTL_38
        );
    }
    for standing in [
        Standing::Offered,
        Standing::Opening { open_id: 1 },
        Standing::Open,
    ] {
        assert!(judged(&words(2, &[7]), Phase::Running, &with(standing)).is_ok());
    }
}

#[test]
fn ctl_39_rescind_twice() {
    let bytes = words(2, &[7]);
    assert_eq!(
        rule(&bytes, Phase::Running, &with(Standing::Rescinded)),
        Rule::CTL_39
    );
}

#[test]
fn ctl_44_open_result_after_a_rescind() {
    let bytes = words(6, &[7, 1, 0]);
    assert_eq!(
        rule(&bytes, Phase::Running, &with(Standing::Rescinded)),
        Rule::CTL_44
    );
    let mut book = with(Standing::Rescinded);
    let Some(relid) = Relid::in_range(7) else {
        panic!()
    };
    book.gpadls = vec![(5, Outstanding::Create(relid)), (6, Outstanding::Teardown)];
    assert!(judged(&words(10, &[7, 5, 0]), Phase::Running, &book).is_ok());
    assert!(judged(&words(12, &[6]), Phase::Running, &book).is_ok());
}

#[test]
fn ctl_46_open_result_of_another_attempt() {
    let opening = with(Standing::Opening { open_id: 3 });
    assert_eq!(
        rule(&words(6, &[7, 0x1234, 0]), Phase::Running, &opening),
        Rule::CTL_46
    );
    assert_eq!(
        rule(&words(6, &[8, 3, 0]), Phase::Running, &opening),
        Rule::CTL_46
    );
    assert_eq!(
        rule(&words(6, &[u32::MAX, 3, 0]), Phase::Running, &opening),
        Rule::CTL_46
    );
    let offered = with(Standing::Offered);
    assert_eq!(
        rule(&words(6, &[7, 0, 0]), Phase::Running, &offered),
        Rule::CTL_46
    );
    let opened = judged(&words(6, &[7, 3, 0]), Phase::Running, &opening);
    assert!(matches!(opened, Ok(Message::Opened(relid)) if relid.number() == 7));
}

#[test]
fn ctl_48_open_refused() {
    let opening = with(Standing::Opening { open_id: 3 });
    let refused = judged(&words(6, &[7, 3, 0xc000_0001]), Phase::Running, &opening);
    let Ok(Message::OpenRefused { violation, .. }) = refused else {
        panic!()
    };
    assert_eq!(
        (violation.rule, violation.value),
        (Rule::CTL_48, 0xc000_0001)
    );
}

#[test]
fn ctl_49_open_result_twice() {
    assert_eq!(
        rule(&words(6, &[7, 1, 0]), Phase::Running, &with(Standing::Open)),
        Rule::CTL_49
    );
}

#[test]
fn ctl_51_modify_response_unasked() {
    assert_eq!(
        rule(&words(24, &[5, 0]), Phase::Running, &empty()),
        Rule::CTL_51
    );
}

#[test]
fn ctl_51_ctl_52_modify_response_answers_one_request() {
    let mut book = with(Standing::Open);
    book.moving = true;
    for standing in [Standing::Open, Standing::Rescinded, Standing::Busy] {
        book.standing = Some(standing);
        let moved = judged(&words(24, &[7, 0]), Phase::Running, &book);
        assert!(matches!(moved, Ok(Message::Moved(relid)) if relid.number() == 7));
    }
    let refused = judged(&words(24, &[7, 1]), Phase::Running, &book);
    let Ok(Message::MoveRefused { relid, violation }) = refused else {
        panic!()
    };
    assert_eq!((relid.number(), violation.offset), (7, 12));
    assert_eq!((violation.rule, violation.value), (Rule::CTL_52, 1));
    for other in [0, 5, 8, 2048 + 7, 0x0100_0007] {
        let response = words(24, &[other, 0]);
        assert_eq!(rule(&response, Phase::Running, &book), Rule::CTL_51);
    }
    book.moving = false;
    let late = words(24, &[7, 0]);
    assert_eq!(rule(&late, Phase::Running, &book), Rule::CTL_51);
}

#[test]
fn ctl_53_unload_response_unasked() {
    assert_eq!(rule(&header(17, 8), Phase::Running, &empty()), Rule::CTL_53);
    assert!(judged(&header(17, 8), Phase::Unloading, &empty()).is_ok());
}

#[test]
fn ctl_55_close_reserved_response() {
    assert_eq!(
        rule(&words(20, &[1]), Phase::Running, &empty()),
        Rule::CTL_55
    );
}

#[test]
fn ctl_56_tl_connect_result() {
    assert_eq!(
        rule(&header(23, 44), Phase::Running, &empty()),
        Rule::CTL_56
    );
}

#[test]
fn ctl_57_ctl_58_answers_to_what_was_never_asked() {
    // As if the features had been negotiated; without them CTL-06 comes first.
    let mut open = gate(Phase::Running);
    open.features = Features::all();
    for (bytes, rule) in [(header(26, 9), Rule::CTL_57), (header(28, 8), Rule::CTL_58)] {
        let refused = judge(&payload(&bytes), &open, &empty()).unwrap_err();
        assert_eq!((refused.rule, refused.value), (rule, bytes[0].into()));
        assert_eq!(refused.rule.reaction(), crate::Reaction::Drop);
        let closed = judge(&payload(&bytes), &gate(Phase::Running), &empty());
        assert_eq!(closed.unwrap_err().rule, Rule::CTL_06);
    }
}

fn gpadl_book() -> Book {
    let mut book = with(Standing::Open);
    let relid = Relid::in_range(7).unwrap();
    book.gpadls = vec![
        (5, Outstanding::Create(relid)),
        (6, Outstanding::Nothing),
        (8, Outstanding::Teardown),
    ];
    book
}

#[test]
fn gpd_02_created_but_not_asked_for() {
    let book = gpadl_book();
    assert_eq!(
        rule(&words(10, &[7, 1, 0]), Phase::Running, &book),
        Rule::GPD_02
    );
    assert_eq!(
        rule(&words(10, &[9, 5, 0]), Phase::Running, &book),
        Rule::GPD_02
    );
    let created = judged(&words(10, &[7, 5, 0]), Phase::Running, &book);
    assert!(matches!(created, Ok(Message::GpadlCreated(gpadl)) if gpadl.number() == 5));
}

#[test]
fn gpd_03_creation_refused() {
    let refused = judged(
        &words(10, &[7, 5, 0xc000_009a]),
        Phase::Running,
        &gpadl_book(),
    );
    let Ok(Message::GpadlRefused { violation, .. }) = refused else {
        panic!()
    };
    assert_eq!(violation.rule, Rule::GPD_03);
}

#[test]
fn gpd_04_created_twice() {
    assert_eq!(
        rule(&words(10, &[7, 6, 0]), Phase::Running, &gpadl_book()),
        Rule::GPD_04
    );
}

#[test]
fn gpd_05_torn_down_but_not_asked_for() {
    let book = gpadl_book();
    assert_eq!(rule(&words(12, &[6]), Phase::Running, &book), Rule::GPD_05);
    assert_eq!(rule(&words(12, &[99]), Phase::Running, &book), Rule::GPD_05);
    assert!(judged(&words(12, &[8]), Phase::Running, &book).is_ok());
}

#[test]
fn gpd_12_a_range_has_at_most_8190_pages() {
    assert_eq!(gpadl_pages(8448).unwrap_err().rule, Rule::GPD_12);
    assert_eq!(gpadl_pages(0).unwrap_err().rule, Rule::GPD_12);
    assert!(gpadl_pages(8190).is_ok());
}

#[test]
fn no_bytes_panic() {
    let book = gpadl_book();
    let mut state = 3_u64;
    for _ in 0..200_000 {
        let mut bytes = [0_u8; 240];
        for byte in &mut bytes {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
        bytes[0] &= 31;
        bytes[1..4].fill(0);
        if state & 1 == 0 {
            bytes[8] &= 15;
            bytes[9..12].fill(0);
        }
        let len = 8 + (state >> 20) as usize % 233;
        for phase in [Phase::Contacting, Phase::RequestingOffers, Phase::Running] {
            let _ = judged(&bytes[..len], phase, &book);
        }
    }
}
