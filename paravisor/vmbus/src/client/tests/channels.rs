//! Channels: open, close, rescind.

use super::*;

#[test]
fn a_channel_opens_and_closes() {
    let (mut run, channel) = Run::offered();
    run.tell(&words(4, &[]));
    assert_eq!(run.event(), Event::OffersDelivered);
    let gpadl = run
        .client
        .open(channel, &PlainShared::new(4, 0x100), 2, 0, run.now)
        .unwrap();
    let header = run.sent(8);
    assert_eq!((word(&header, 8), word(&header, 12)), (7, gpadl.number()));
    assert_eq!(word(&header, 16), (8 + 4 * 8) | (1 << 16));
    assert_eq!((word(&header, 20), word(&header, 24)), (4 * 4096, 0));
    assert_eq!(header.len(), 28 + 4 * 8);
    assert_eq!((word(&header, 28), word(&header, 52)), (0x100, 0x103));
    run.silent();
    run.tell(&words(10, &[7, gpadl.number(), 0]));
    let open = run.sent(5);
    assert_eq!(open.len(), 148);
    assert_eq!(
        (word(&open, 16), word(&open, 20), word(&open, 24)),
        (gpadl.number(), 0, 2)
    );
    run.answer_open(&open);
    let signal = SignalTarget {
        connection_id: 0x2007,
        flag: 0,
    };
    assert_eq!(run.event(), Event::Opened { channel, signal });
    assert_eq!(run.client.deadline(), None);

    let buffer = run
        .client
        .create_gpadl(channel, &PlainShared::new(2, 0), run.now)
        .unwrap();
    run.sent(8);
    run.tell(&words(10, &[7, buffer.number(), 0]));
    assert_eq!(run.event(), Event::GpadlCreated { gpadl: buffer });

    run.client.close(channel, run.now).unwrap();
    assert_eq!(word(&run.sent(7), 8), 7);
    for gpadl in [gpadl, buffer] {
        assert_eq!(word(&run.sent(11), 12), gpadl.number());
    }
    run.tell(&words(12, &[buffer.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: buffer });
    run.tell(&words(12, &[gpadl.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl });
    assert_eq!(run.event(), Event::Closed { channel });
    run.silent();
    // And once more, with other numbers (CTL-47, GPD-01).
    let again = run
        .client
        .open(channel, &PlainShared::new(4, 0x100), 2, 0, run.now)
        .unwrap();
    assert!(again.number() > buffer.number());
    run.sent(8);
    run.tell(&words(10, &[7, again.number(), 0]));
    let second = run.sent(5);
    assert_ne!(word(&second, 12), word(&open, 12));
    // The answer to the first attempt does not open the second.
    run.answer_open(&open);
    assert_eq!(run.count(Rule::CTL_46), 1);
    run.silent();
}

#[test]
fn redirected_channels_have_our_connection_and_flag() {
    let mut run = Run::new(Config::new(Target::REDIRECTED));
    run.sent(14);
    run.tell(&words(15, &[1, 1, 3]));
    let Some(Action::PostMessage(post)) = run.client.poll(run.now) else {
        panic!()
    };
    // We stay on our connection, whatever the answer names.
    assert_eq!(post.connection_id(), 0x0080_0074);
    run.client.on_post_result(0, run.now);
    run.event();
    let channel = run.card(7);
    let (_, open) = run.opening(channel, 0, 0);
    assert_eq!(open.len(), 156);
    assert_eq!(
        (word(&open, 148), word(&open, 152)),
        (0x2_7007, 7 | (1 << 16))
    );
    run.answer_open(&open);
    let signal = SignalTarget {
        connection_id: 0x2_7007,
        flag: 0,
    };
    assert_eq!(run.event(), Event::Opened { channel, signal });
}

#[test]
fn gpd_12_large_gpadls_are_split_26_and_28() {
    let (mut run, channel, _) = Run::open();
    for (pages, bodies) in [
        (26, 0),
        (27, 1),
        (26 + 28, 1),
        (26 + 28 + 1, 2),
        (4096, 146),
    ] {
        let memory = PlainShared::new(pages, 0x5000);
        let gpadl = run.client.create_gpadl(channel, &memory, run.now).unwrap();
        let mut frames = Vec::new();
        let header = run.sent(8);
        frames.extend(
            header[28..]
                .chunks(8)
                .map(|c| u64::from_le_bytes(c.try_into().unwrap())),
        );
        assert_eq!(
            header[16..20],
            [(pages * 8 + 8) as u8, ((pages * 8 + 8) >> 8) as u8, 1, 0]
        );
        for number in 1..=bodies {
            let body = run.sent(9);
            assert_eq!((word(&body, 8), word(&body, 12)), (number, gpadl.number()));
            frames.extend(
                body[16..]
                    .chunks(8)
                    .map(|c| u64::from_le_bytes(c.try_into().unwrap())),
            );
        }
        run.silent();
        let expected: Vec<u64> = (0..pages).map(|i| memory.pfn(i).unwrap()).collect();
        assert_eq!(frames, expected);
        run.tell(&words(10, &[7, gpadl.number(), 0]));
        run.event();
    }
    let large = PlainShared::new(8191, 0);
    let refused = run.client.create_gpadl(channel, &large, run.now);
    assert!(matches!(refused, Err(RequestError::Limit(v)) if v.rule == Rule::GPD_12));
}

#[test]
fn gpd_03_ring_refused() {
    let (mut run, channel) = Run::offered();
    let gpadl = run
        .client
        .open(channel, &PlainShared::new(4, 0), 2, 0, run.now)
        .unwrap();
    run.sent(8);
    run.tell(&words(10, &[7, gpadl.number(), 0xc000_009a]));
    assert!(matches!(run.event(), Event::OpenFailed { violation, .. }
        if violation.rule == Rule::GPD_03 && violation.value == 0xc000_009a));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl });
    assert_eq!(run.event(), Event::Closed { channel });
    run.silent();
}

#[test]
fn gpd_06_no_torndown_leaks() {
    let (mut run, channel, gpadl) = Run::open();
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.tell(&words(4, &[]));
    run.event();
    run.wait(REQUEST_DEADLINE);
    run.client.poll(run.now);
    assert_eq!(run.event(), Event::MemoryLeaked { gpadl });
    assert_eq!(run.event(), Event::Lost { channel });
    assert_eq!(run.count(Rule::GPD_06), 1);
    // Late: nobody waits for it any more. The channel stays closed for good.
    run.tell(&words(12, &[gpadl.number()]));
    assert_eq!(run.count(Rule::GPD_05), 1);
    let memory = PlainShared::new(4, 0);
    let again = run.client.open(channel, &memory, 2, 0, run.now);
    assert_eq!(again, Err(RequestError::State));
    run.silent();
}

#[test]
fn ctl_48_open_refused() {
    let (mut run, channel) = Run::offered();
    let (gpadl, open) = run.opening(channel, 0, 0);
    run.tell(&words(6, &[7, word(&open, 12), 0xc000_0001]));
    assert!(matches!(run.event(), Event::OpenFailed { violation, .. }
        if violation.rule == Rule::CTL_48));
    run.sent(11);
    run.tell(&words(12, &[gpadl.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl });
    assert_eq!(run.event(), Event::Closed { channel });
}

#[test]
fn ctl_50_no_open_result() {
    let (mut run, channel) = Run::offered();
    let gpadl = run
        .client
        .open(channel, &PlainShared::new(4, 0), 2, 0, run.now)
        .unwrap();
    run.sent(8);
    run.tell(&words(10, &[7, gpadl.number(), 0]));
    run.sent(5);
    run.tell(&words(4, &[]));
    run.event();
    run.wait(REQUEST_DEADLINE);
    run.sent(7);
    assert!(matches!(run.event(), Event::OpenFailed { violation, .. }
        if violation.rule == Rule::CTL_50));
    run.sent(11);
    run.tell(&words(12, &[gpadl.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl });
    assert_eq!(run.event(), Event::Closed { channel });
}

#[test]
fn ctl_50_no_gpadl_created() {
    let (mut run, channel, _) = Run::open();
    run.tell(&words(4, &[]));
    run.event();
    let gpadl = run
        .client
        .create_gpadl(channel, &PlainShared::new(1, 0), run.now)
        .unwrap();
    run.sent(8);
    run.wait(REQUEST_DEADLINE);
    run.client.poll(run.now);
    assert!(
        matches!(run.event(), Event::GpadlFailed { gpadl: g, violation }
        if g == gpadl && violation.rule == Rule::CTL_50)
    );
    assert_eq!(run.event(), Event::MemoryLeaked { gpadl });
    // The channel itself is still open and can be closed.
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
}

/// RESCIND in every state of a channel; RELID_RELEASED comes last and once.
#[test]
fn ctl_43_rescind_at_any_moment() {
    // Offered: nobody uses it, it is released at once.
    let (mut run, channel) = Run::offered();
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    assert_eq!(run.event(), Event::Released { channel });
    run.sent(13);
    run.silent();

    // While the ring's GPADL is created: its answer is waited for.
    let (mut run, channel) = Run::offered();
    let gpadl = run
        .client
        .open(channel, &PlainShared::new(4, 0), 2, 0, run.now)
        .unwrap();
    run.sent(8);
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    run.tell(&words(2, &[7]));
    assert_eq!(run.count(Rule::CTL_39), 1);
    run.client.close(channel, run.now).unwrap();
    run.silent();
    run.tell(&words(10, &[7, gpadl.number(), 0]));
    run.sent(11);
    run.silent();
    run.lets_go(channel, gpadl);
    run.silent();

    // While opening: no OPEN_RESULT is accepted any more (CTL-44).
    let (mut run, channel) = Run::offered();
    let (gpadl, open) = run.opening(channel, 0, 0);
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    run.answer_open(&open);
    assert_eq!(run.count(Rule::CTL_44), 1);
    run.silent();
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.lets_go(channel, gpadl);

    // While open; the relid is not free before the release (CTL-23), and
    // afterwards it is.
    let (mut run, channel, gpadl) = Run::open();
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.lets_go(channel, gpadl);
    let new = run.card(7);
    assert_ne!(new, channel);
    assert_eq!(run.client.close(channel, run.now), Err(RequestError::State));

    // While closing.
    let (mut run, channel, gpadl) = Run::open();
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    run.sent(11);
    run.lets_go(channel, gpadl);
    run.silent();
}
