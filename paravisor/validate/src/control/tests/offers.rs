//! Offers.

use super::*;

#[test]
fn ctl_16_confidential_offer() {
    assert_eq!(offer_rule(|o| o.flags = 0x6.into()), Rule::CTL_16);
    assert_eq!(offer_rule(|o| o.flags = 0x2.into()), Rule::CTL_16);
}

#[test]
fn ctl_17_confidential_memory_without_rings() {
    assert_eq!(offer_rule(|o| o.flags = 0x4.into()), Rule::CTL_17);
}

/// Offers a class; the rule that refuses it and what an audit calls it.
fn refused(interface: Guid) -> (Rule, Option<&'static str>) {
    let bytes = offer(|o| o.interface = interface);
    let violation = judged(&bytes, Phase::Running, &with(Standing::Open)).unwrap_err();
    assert_eq!(violation.offset, 8);
    (violation.rule, class_of(&violation))
}

#[test]
fn ctl_18_ics_01_sys_18_every_known_class_is_refused_by_name() {
    for (interface, name, rule) in REFUSED_CLASSES {
        assert_eq!(refused(interface), (rule, Some(name)));
        assert_ne!(interface, class::NIC);
    }
    let named = |rule| REFUSED_CLASSES.iter().filter(move |c| c.2 == rule).count();
    assert_eq!(named(Rule::CTL_18), 9);
    assert_eq!(named(Rule::ICS_01), 6);
    assert_eq!(named(Rule::SYS_18), 3);
}

#[test]
fn ics_01_integration_services_are_not_opened() {
    for service in [
        class::TIME_SYNC,
        class::HEARTBEAT,
        class::SHUTDOWN,
        class::KVP,
        class::VSS,
        class::FILE_COPY,
    ] {
        assert_eq!(refused(service).0, Rule::ICS_01);
    }
}

#[test]
fn sys_18_disks_are_not_opened() {
    for disk in [class::SCSI, class::IDE, class::FIBRE_CHANNEL] {
        assert_eq!(refused(disk).0, Rule::SYS_18);
    }
}

#[test]
fn ctl_18_other_classes() {
    let mut nearly = class::NIC;
    nearly.0[15] ^= 1;
    for other in [class::PCI, class::KEYBOARD, nearly, Guid::default()] {
        assert_eq!(refused(other).0, Rule::CTL_18);
    }
    assert_eq!(refused(nearly).1, None);
    let message = judged(&offer(|_| ()), Phase::Running, &with(Standing::Open)).unwrap();
    let Message::Offer(offer) = message else {
        panic!()
    };
    assert_eq!((offer.relid().number(), offer.connection_id()), (9, 0x2009));
    assert_eq!(offer.instance(), NIC_B);
}

#[test]
fn ctl_18_a_refused_relid_is_released_if_free() {
    let book = with(Standing::Open);
    let other = payload(&offer(|o| o.interface = class::KVP));
    assert_eq!(droppable_relid(&other, &book).map(Relid::number), Some(9));
    let in_use = payload(&offer(|o| o.relid = 7.into()));
    assert_eq!(droppable_relid(&in_use, &book), None);
    assert_eq!(
        droppable_relid(&payload(&offer(|o| o.relid = 0.into())), &book),
        None
    );
    assert_eq!(droppable_relid(&payload(&header(2, 200)), &book), None);
}

#[test]
fn ctl_19_hv_sock_flag() {
    let sock = |o: &mut OfferChannel| {
        o.interface = class::KEYBOARD;
        o.flags = 0x2000.into();
    };
    assert_eq!(offer_rule(sock), Rule::CTL_19);
    assert_eq!(offer_rule(|o| o.flags = 0x2001.into()), Rule::CTL_19);
}

#[test]
fn ctl_20_no_instance() {
    assert_eq!(offer_rule(|o| o.instance = Guid::default()), Rule::CTL_20);
}

#[test]
fn ctl_21_relid_out_of_range() {
    assert_eq!(offer_rule(|o| o.relid = 0x0100_0000.into()), Rule::CTL_21);
    assert_eq!(offer_rule(|o| o.relid = 2048.into()), Rule::CTL_21);
    assert!(judged(&offer(|o| o.relid = 2047.into()), Phase::Running, &empty()).is_ok());
}

#[test]
fn ctl_22_relid_zero() {
    assert_eq!(offer_rule(|o| o.relid = 0.into()), Rule::CTL_22);
}

#[test]
fn ctl_23_relid_in_use() {
    assert_eq!(offer_rule(|o| o.relid = 7.into()), Rule::CTL_23);
    let bytes = offer(|o| o.relid = 7.into());
    assert_eq!(
        rule(&bytes, Phase::Running, &with(Standing::Rescinded)),
        Rule::CTL_23
    );
    assert!(judged(&bytes, Phase::Running, &empty()).is_ok());
}

#[test]
fn ctl_24_the_same_card_again() {
    assert_eq!(offer_rule(|o| o.instance = NIC_A), Rule::CTL_24);
    // A card that was taken back may come again.
    let again = offer(|o| o.instance = NIC_A);
    assert!(judged(&again, Phase::Running, &with(Standing::Rescinded)).is_ok());
}

#[test]
fn ctl_25_sub_channel_without_a_primary() {
    assert_eq!(offer_rule(|o| o.sub_channel_index = 3.into()), Rule::CTL_25);
    let sub = offer(|o| {
        o.instance = NIC_A;
        o.sub_channel_index = 1.into();
    });
    assert_eq!(
        rule(&sub, Phase::Running, &with(Standing::Offered)),
        Rule::CTL_25
    );
}

#[test]
fn ctl_27_sub_channel_that_nobody_asked_for() {
    let sub = |o: &mut OfferChannel| {
        o.instance = NIC_A;
        o.sub_channel_index = 1.into();
    };
    assert_eq!(offer_rule(sub), Rule::CTL_27);
}

/// The catalogue's example is index 2 twice; beside it everything out of range.
#[test]
fn ctl_26_sub_channel_that_was_not_granted() {
    let sub = |index: u16| {
        offer(|o| {
            o.instance = NIC_A;
            o.sub_channel_index = index.into();
        })
    };
    let mut book = with(Standing::Open);
    let mut window = Window { count: 3, taken: 0 };
    book.window = Some(window);
    for index in 1..=3 {
        let Ok(Message::Offer(offer)) = judged(&sub(index), Phase::Running, &book) else {
            panic!("{index}");
        };
        assert_eq!((offer.index(), offer.instance()), (index, NIC_A));
    }
    for index in [4, 63, 64, 65, 0x102, u16::MAX] {
        assert_eq!(rule(&sub(index), Phase::Running, &book), Rule::CTL_26);
    }
    window.take(2);
    book.window = Some(window);
    assert_eq!(rule(&sub(2), Phase::Running, &book), Rule::CTL_26);
    assert!(judged(&sub(3), Phase::Running, &book).is_ok());
    // The primary must be open however many were granted.
    for standing in [Standing::Offered, Standing::Busy, Standing::Rescinded] {
        book.standing = Some(standing);
        assert_eq!(rule(&sub(1), Phase::Running, &book), Rule::CTL_25);
    }
    // Sub-channels are no cards, but they are channels.
    book.standing = Some(Standing::Open);
    book.channels = 4;
    assert!(judged(&sub(1), Phase::Running, &book).is_ok());
    book.channels = 8;
    assert_eq!(rule(&sub(1), Phase::Running, &book), Rule::CTL_28);
}

#[test]
fn ctl_28_too_many_channels() {
    let mut book = empty();
    book.channels = 8;
    assert_eq!(rule(&offer(|_| ()), Phase::Running, &book), Rule::CTL_28);
}

#[test]
fn sys_14_more_cards_than_configured() {
    let mut book = empty();
    book.channels = 4;
    assert_eq!(rule(&offer(|_| ()), Phase::Running, &book), Rule::SYS_14);
    book.channels = 3;
    assert!(judged(&offer(|_| ()), Phase::Running, &book).is_ok());
}

#[test]
fn ctl_28_ctl_29_after_the_boot_time_set() {
    let known = offer(|o| o.instance = NIC_A);
    let other = offer(|o| o.instance = Guid([9; 16]));
    let keyboard = offer(|o| o.interface = class::KEYBOARD);
    let mut gate = gate(Phase::Running);
    let mut verdict = |admission, bytes: &[u8]| {
        gate.admission = admission;
        judge(&payload(bytes), &gate, &empty())
            .map_err(|v| v.rule)
            .err()
    };
    let (c28, c29, c18) = (Some(Rule::CTL_28), Some(Rule::CTL_29), Some(Rule::CTL_18));
    for (admission, verdicts) in [
        (Admission::All, [None, None, c18]),
        (Admission::Returning, [None, c29, c18]),
        (Admission::Nothing, [c29, c29, c18]),
        (Admission::Exhausted, [c28, c28, c18]),
    ] {
        for (bytes, wanted) in [&known, &other, &keyboard].into_iter().zip(verdicts) {
            assert_eq!(verdict(admission, bytes), wanted, "{admission:?}");
        }
    }
}

#[test]
fn ctl_32_ctl_37_monitor_and_user_bytes_are_ignored() {
    let bytes = offer(|o| {
        o.monitor_id = 255;
        o.monitor_allocated = 1;
        o.user_defined = [0xff; 120];
    });
    let with = judged(&bytes, Phase::Running, &empty());
    assert!(with.is_ok(), "CTL-32, CTL-37: {with:?}");
    let without = judged(&offer(|_| {}), Phase::Running, &empty());
    assert_eq!(std::format!("{with:?}"), std::format!("{without:?}"));
}

#[test]
fn ctl_33_not_dedicated() {
    assert_eq!(offer_rule(|o| o.is_dedicated = 0.into()), Rule::CTL_33);
}

#[test]
fn ctl_34_connection_id() {
    for id in [0, 1, 2, 3, 4, 0x0080_0074, 0x2007, u32::MAX, 0x0100_0000] {
        assert_eq!(
            offer_rule(|o| o.connection_id = id.into()),
            Rule::CTL_34,
            "{id:#x}"
        );
    }
    let largest = offer(|o| o.connection_id = 0x00ff_ffff.into());
    assert!(judged(&largest, Phase::Running, &empty()).is_ok());
}

#[test]
fn ctl_35_mmio_space() {
    assert_eq!(
        offer_rule(|o| o.mmio_megabytes = 0xffff.into()),
        Rule::CTL_35
    );
}

#[test]
fn ctl_36_pipes_and_unknown_flags() {
    assert_eq!(offer_rule(|o| o.flags = 0x10.into()), Rule::CTL_36);
    assert_eq!(offer_rule(|o| o.flags = 0x4000.into()), Rule::CTL_36);
    assert!(judged(&offer(|o| o.flags = 1.into()), Phase::Running, &empty()).is_ok());
}

#[test]
fn ctl_62_the_same_offer_changed() {
    let changed = |o: &mut OfferChannel| {
        o.relid = 7.into();
        o.instance = NIC_A;
        o.connection_id = 0x3000.into();
    };
    assert_eq!(offer_rule(changed), Rule::CTL_62);
}
