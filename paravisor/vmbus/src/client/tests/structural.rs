//! Rules of the control plane that have no moment of refusal.

use super::*;

/// SYN_25: each message is posted with zeros behind it, also after a longer one.
#[test]
fn syn_25_a_short_message_after_a_long_one() {
    let (mut run, channel, _) = Run::open();
    let memory = PlainShared::new(26, 0xdead_beef);
    run.client.create_gpadl(channel, &memory, run.now).unwrap();
    let Some(Action::PostMessage(long)) = run.client.poll(run.now) else {
        panic!()
    };
    assert_eq!(long.payload().len(), 236);
    run.client.on_post_result(status::SUCCESS, run.now);
    run.client.close(channel, run.now).unwrap();
    let Some(Action::PostMessage(short)) = run.client.poll(run.now) else {
        panic!()
    };
    assert_eq!(short.payload(), words(7, &[7]));
    assert_eq!(short.padded().len(), 240);
    assert_eq!(short.padded()[12..], [0; 228], "SYN-25");
}

/// SYN_32, CTL_15: no monitor page is given, none of the server's is asked for, and
/// an answer that brings one all the same ends the connection. SYN_12: the first
/// processor is the only one that messages are asked for.
#[test]
fn syn_12_syn_32_ctl_15_no_monitor_pages_and_one_processor() {
    for target in [Target::PLAIN, Target::REDIRECTED] {
        let mut run = Run::new(Config::new(target));
        let mut asked = 0;
        // Every version that is proposed.
        while let Some(Action::PostMessage(post)) = run.client.poll(run.now) {
            run.client.on_post_result(status::SUCCESS, run.now);
            let contact = post.payload();
            assert_eq!(word(contact, 12), 0, "SYN-12");
            assert_eq!(contact[24..40], [0; 16], "SYN-32");
            assert_eq!(word(contact, 20) & 0x40, 0, "CTL-15");
            asked += 1;
            run.tell(&words(15, &[0, 0]));
        }
        assert_eq!(asked, VERSIONS.len());

        let mut run = Run::new(Config::new(target));
        run.sent(14);
        // Supported, connected, with server-specified monitor pages: two addresses.
        run.tell(&words(15, &[1, 4, 0x40 | 3, 0, 0x1000, 0, 0x2000, 0]));
        assert_eq!(run.failed(), Rule::CTL_14);
    }
}

/// SYN_33: what is signalled is the judged offer's connection, and an offer with
/// another id than one of 24 bits is no offer (CTL_34).
#[test]
fn syn_33_signals_go_where_a_judged_offer_says() {
    let mut run = Run::connected();
    for id in [u32::MAX, 0x0100_0000, 0] {
        let mut bad = offer(7, NIC);
        bad.connection_id = id.into();
        run.tell(bad.as_bytes());
        run.sent(13);
        run.silent();
    }
    assert_eq!(run.count(Rule::CTL_34), 3, "SYN-33");
    let channel = run.card(7);
    let Event::Opened { signal, .. } = opened(&mut run, channel) else {
        panic!()
    };
    assert_eq!((signal.connection_id, signal.flag), (0x2007, 0), "SYN-33");
}

/// Opens a channel against an honest host and gives what the owner is told.
fn opened(run: &mut Run, channel: ChannelId) -> Event {
    let (_, open) = run.opening(channel, 0, 0);
    run.answer_open(&open);
    run.event()
}

/// Closes it; the host answers each teardown.
fn closed(run: &mut Run, channel: ChannelId) {
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    let gpadl = word(&run.sent(11), 12);
    run.tell(&words(12, &[gpadl]));
    assert!(matches!(run.event(), Event::MemoryReleased { .. }));
    assert_eq!(run.event(), Event::Closed { channel });
}

/// CTL_42: after the rescind event flags wake nobody, nothing is opened, and the
/// owner can ask for no buffer.
#[test]
fn ctl_42_a_rescinded_channel_is_left_alone() {
    let (mut run, channel, _) = Run::open();
    let set = flags(&[(0, 0x80)]);
    assert_eq!(run.client.on_event_flags(&set).count(), 1);
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    let memory = PlainShared::new(4, 0);
    for _ in 0..3 {
        assert_eq!(run.client.on_event_flags(&set).count(), 0, "CTL-42");
        let open = run.client.open(channel, &memory, 2, 0, run.now);
        assert_eq!(open, Err(RequestError::State), "CTL-42");
        let gpadl = run.client.create_gpadl(channel, &memory, run.now);
        assert_eq!(gpadl, Err(RequestError::State), "CTL-42");
    }
    run.silent();
    assert_eq!(run.count(Rule::SYN_16), 3);
}

/// CTL_45: offer and rescind back to back, many times, without a look in between.
#[test]
fn ctl_45_offers_and_rescinds_in_their_order() {
    let mut run = Run::connected();
    for _ in 0..3 {
        run.tell(offer(7, NIC).as_bytes());
        run.tell(&words(2, &[7]));
    }
    run.tell(offer(7, NIC).as_bytes());
    let mut last = None;
    for _ in 0..3 {
        let Event::Offered { channel, .. } = run.event() else {
            panic!("CTL-45")
        };
        assert_eq!(run.event(), Event::Rescinded { channel }, "CTL-45");
        assert_eq!(run.event(), Event::Released { channel }, "CTL-45");
        assert_ne!(last, Some(channel));
        last = Some(channel);
    }
    assert!(matches!(run.event(), Event::Offered { .. }), "CTL-45");
    for _ in 0..3 {
        assert_eq!(word(&run.sent(13), 8), 7, "one release for each rescind");
    }
    run.silent();
}

/// CTL_47, GPD_01: no number of an attempt is used again, and old answers to it open
/// nothing (CTL_46).
#[test]
fn ctl_47_gpd_01_numbers_are_never_used_twice() {
    let (mut run, channel) = Run::offered();
    run.tell(&words(4, &[]));
    run.event();
    let (mut opens, mut gpadls) = (Vec::new(), Vec::new());
    for attempt in 0..200_u32 {
        let gpadl = run
            .client
            .open(channel, &PlainShared::new(4, 0), 2, 0, run.now)
            .unwrap();
        assert!(!gpadls.contains(&gpadl.number()), "GPD-01");
        gpadls.push(gpadl.number());
        run.sent(8);
        run.tell(&words(10, &[7, gpadl.number(), 0]));
        let open = word(&run.sent(5), 12);
        // The success of each attempt before, once more.
        for old in &opens {
            run.tell(&words(6, &[7, *old, 0]));
        }
        run.silent();
        assert!(!opens.contains(&open), "CTL-47");
        opens.push(open);
        assert_eq!(run.count(Rule::CTL_46), attempt * (attempt + 1) / 2);
        run.tell(&words(6, &[7, open, 0]));
        assert!(matches!(run.event(), Event::Opened { .. }));
        closed(&mut run, channel);
    }
}

/// GPD_01: at its end the counter refuses; it does not begin anew.
#[test]
fn gpd_01_the_counter_does_not_wrap() {
    let (mut run, channel, ring) = Run::open();
    run.client.table.last_gpadl = u32::MAX - 1;
    let memory = PlainShared::new(1, 0);
    let last = run.client.create_gpadl(channel, &memory, run.now).unwrap();
    assert_eq!(last.number(), u32::MAX);
    for _ in 0..3 {
        let refused = run.client.create_gpadl(channel, &memory, run.now);
        assert!(matches!(refused, Err(RequestError::Limit(v)) if v.rule == Rule::GPD_01));
    }
    assert_ne!(ring, last);
}

/// CTL_61: with other numbers of the host the owner sees the very same events, but
/// for the connection that it has to signal.
#[test]
fn ctl_61_the_hosts_numbers_do_not_name_channels() {
    let seen = |relid: u32| {
        let mut run = Run::connected();
        let channel = run.card(relid);
        let Event::Opened {
            channel: same,
            signal,
        } = opened(&mut run, channel)
        else {
            panic!()
        };
        run.tell(&words(2, &[relid]));
        (channel, same, signal.flag, run.event())
    };
    for relid in [1, 8, 1999, 2047] {
        assert_eq!(seen(7), seen(relid), "CTL-61");
    }
}
