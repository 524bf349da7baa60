//! Every message type with every length in every state.

use super::*;

/// Everything that decides about later messages, without the counters.
fn state(client: &Client) -> impl PartialEq + core::fmt::Debug + use<> {
    let channels = client.table.channels.iter();
    let channels: Vec<_> = channels
        .map(|c| {
            let window = c.window.map(|open| open.window);
            let moving = c.moving.is_some();
            (
                c.id,
                c.state,
                c.rescinded,
                c.leaked,
                c.orphan,
                window,
                moving,
            )
        })
        .collect();
    (
        (client.phase, client.version, client.features, client.sealed),
        (client.deadline, client.outbox.deadline()),
        (channels, client.table.gpadls.clone()),
        (
            client.failure,
            client.events.clone(),
            client.refused_offers.len(),
        ),
    )
}

/// For each type a message that a well-behaved host may send, and zeros behind it.
fn sensible(run: &Run) -> Vec<Vec<u8>> {
    let open_id = run.client.last_open_id;
    let gpadl = run.client.table.gpadls.last();
    let gpadl = gpadl.map_or(1, |gpadl| gpadl.number);
    let message = |kind| match kind {
        1 => offer(9, Guid([0xc; 16])).as_bytes().to_vec(),
        6 => words(6, &[7, open_id, 0]),
        10 => words(10, &[7, gpadl, 0]),
        12 => words(12, &[gpadl]),
        15 => words(15, &[1, 4, 0]),
        _ => words(kind, &[7]),
    };
    (0..=255)
        .map(|kind| {
            let mut bytes = message(kind);
            bytes.resize(240, 0);
            bytes
        })
        .collect()
}

/// Type and least length of the messages that may change a state.
type Legal = &'static [(u32, usize)];

/// A client in each state that it can be in.
fn states() -> Vec<(&'static str, Run, Legal)> {
    let idle = Run {
        client: Client::new(Config::new(Target::PLAIN)),
        now: 1000,
    };
    let mut contacting = Run::new(Config::new(Target::PLAIN));
    contacting.sent(14);
    let memory = PlainShared::new(4, 32);
    let creating = || {
        let (mut run, channel) = Run::offered();
        let gpadl = run.client.open(channel, &memory, 2, 0, run.now).unwrap();
        run.sent(8);
        (run, gpadl.number())
    };
    let (mut opening, gpadl) = creating();
    opening.tell(&words(10, &[7, gpadl, 0]));
    opening.sent(5);
    let closed = |rescind: bool| {
        let (mut run, channel, _) = Run::open();
        if rescind {
            run.tell(&words(2, &[7]));
            run.event();
        }
        run.client.close(channel, run.now).unwrap();
        run.sent(7);
        run.sent(11);
        run
    };
    let mut rescinded = Run::open().0;
    rescinded.tell(&words(2, &[7]));
    rescinded.event();
    let mut running = Run::open().0;
    running.tell(&words(4, &[]));
    running.event();
    let mut unloading = Run::open().0;
    unloading.client.unload(unloading.now).unwrap();
    unloading.sent(16);
    let mut failed = Run::connected();
    failed.tell(offer(0x0100_0000, NIC).as_bytes());
    assert_eq!(failed.failed(), Rule::CTL_21);

    let (mut moving, channel, _) = Run::open();
    moving.client.modify(channel, 1, moving.now).unwrap();
    moving.sent(22);
    let (mut expecting, channel, _) = Run::open();
    let asked = expecting
        .client
        .expect_sub_channels(channel, 63, expecting.now);
    asked.unwrap();

    let offered: Legal = &[(1, 196), (2, 12), (4, 8)];
    vec![
        ("idle", idle, &[]),
        ("contacting", contacting, &[(15, 20)]),
        ("connected", Run::connected(), &[(1, 196), (4, 8)]),
        ("offered", Run::offered().0, offered),
        (
            "creating",
            creating().0,
            &[(1, 196), (2, 12), (4, 8), (10, 20)],
        ),
        ("opening", opening, &[(1, 196), (2, 12), (4, 8), (6, 20)]),
        ("open", Run::open().0, offered),
        ("moving", moving, &[(1, 196), (2, 12), (4, 8), (24, 16)]),
        ("expecting sub-channels", expecting, offered),
        (
            "closing",
            closed(false),
            &[(1, 196), (2, 12), (4, 8), (12, 12)],
        ),
        ("rescinded", rescinded, &[(1, 196), (4, 8)]),
        (
            "rescinded and closing",
            closed(true),
            &[(1, 196), (4, 8), (12, 12)],
        ),
        // Sealed: an offer is refused, and its relid released.
        ("running", running, &[(1, 196), (2, 12)]),
        ("unloading", unloading, &[(17, 8)]),
        ("failed", failed, &[]),
    ]
}

/// The client after this message, and whether a violation was counted.
fn outcome(base: &Run, bytes: &[u8]) -> (Run, bool) {
    let mut run = Run {
        client: base.client.clone(),
        now: base.now,
    };
    run.tell(bytes);
    let counted = run.client.counters().total() != base.client.counters().total();
    (run, counted)
}

/// All violations, to be compared and printed.
fn rules(run: &Run) -> Vec<(Rule, u32)> {
    run.client.counters().violations().collect()
}

/// With sensible content the state changes exactly if the type is legal in it and
/// long enough.
#[test]
fn ctl_07_ctl_60_sensible_messages_of_every_type_and_length_in_every_state() {
    for (name, base, legal) in states() {
        let before = state(&base.client);
        for (bytes, kind) in sensible(&base).iter().zip(0..) {
            for length in 0..=240 {
                let wanted = legal.iter().any(|(k, min)| *k == kind && length >= *min);
                // Unknown types: around the limits.
                if kind >= 32 && ![0, 7, 8, 9, 100, 240].contains(&length) {
                    continue;
                }
                let (run, counted) = outcome(&base, &bytes[..length]);
                let changed = state(&run.client) != before;
                assert_eq!(
                    changed,
                    wanted,
                    "{name}: {kind}, {length} bytes, {:?}",
                    rules(&run)
                );
                // What does nothing is counted under a rule: CTL_07 and others.
                assert!(changed || counted, "{name}: {kind}, {length}");
            }
        }
    }
}

/// With other contents the state changes only by a message that is legal in it,
/// or to the end of the connection under a fatal rule; and the same bytes have
/// the same verdict each time.
#[test]
fn sys_10_foolish_messages_of_every_type_and_length_in_every_state() {
    for (name, base, legal) in states() {
        let before = state(&base.client);
        for fill in [0x00, 0xff, 0x07] {
            // Of the types that do not exist some; the sweep above has them all.
            for kind in (0_u32..32).chain([32, 127, 128, 255]) {
                let mut bytes = vec![fill; 240];
                bytes[..4].copy_from_slice(&kind.to_le_bytes());
                for length in 0..=240 {
                    if length % 4 != 0 || length % 16 != 12 && kind >= 32 {
                        continue;
                    }
                    let (run, counted) = outcome(&base, &bytes[..length]);
                    let after = state(&run.client);
                    if length % 16 == 12 {
                        let again = outcome(&base, &bytes[..length]);
                        assert_eq!(rules(&run), rules(&again.0), "SYS_10");
                        assert_eq!(after, state(&again.0.client), "SYS_10");
                    }
                    if !counted || after != before {
                        let fatal = run.client.failure;
                        let fatal = fatal.is_some_and(|v| v.rule.reaction() == Reaction::Fatal);
                        let possible = legal.iter().any(|(k, _)| *k == kind);
                        assert!(
                            fatal || possible,
                            "{name}: {kind} {length} {fill:#x} {:?}",
                            rules(&run)
                        );
                    }
                }
            }
        }
    }
}
