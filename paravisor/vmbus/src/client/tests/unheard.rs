//! What the host has not heard yet: it has no answer, and can be taken back.

use super::*;

/// The ring's GPADL exists; the open waits because the host has no room for it.
fn open_waits() -> (Run, ChannelId, GpadlId, u32) {
    let (mut run, channel) = Run::offered();
    let memory = PlainShared::new(4, 0);
    let ring = run.client.open(channel, &memory, 2, 0, run.now).unwrap();
    run.sent(8);
    run.tell(&words(10, &[7, ring.number(), 0]));
    run.refused(5);
    let open_id = run.client.last_open_id;
    (run, channel, ring, open_id)
}

#[test]
fn gpd_02_created_before_the_host_knows_of_it() {
    let (mut run, channel) = Run::offered();
    // 40 pages: a header and a body.
    let memory = PlainShared::new(40, 0);
    let ring = run.client.open(channel, &memory, 2, 0, run.now).unwrap();
    let created = words(10, &[7, ring.number(), 0]);
    run.tell(&created);
    run.refused(8);
    run.tell(&created);
    run.sent(8);
    run.tell(&created);
    assert_eq!(run.count(Rule::GPD_02), 3);
    assert_eq!(run.client.next_event(), None);
    // A neighbour: the same, one message later.
    run.sent(9);
    run.tell(&created);
    assert_eq!(run.client.counters().total(), 3);
    run.sent(5);
}

#[test]
fn ctl_46_opened_before_the_host_knows_of_it() {
    let (mut run, channel, _, open_id) = open_waits();
    run.tell(&words(6, &[7, open_id, 0]));
    assert_eq!(run.count(Rule::CTL_46), 1);
    assert_eq!(run.client.next_event(), None);
    run.sent(5);
    run.tell(&words(6, &[7, open_id, 0]));
    assert!(matches!(run.event(), Event::Opened { channel: c, .. } if c == channel));
    assert_eq!(run.client.counters().total(), 1);
}

#[test]
fn gpd_05_torn_down_before_the_teardown_was_said() {
    let (mut run, channel, ring) = Run::open();
    run.client.close(channel, run.now).unwrap();
    let torn_down = words(12, &[ring.number()]);
    run.tell(&torn_down);
    run.sent(7);
    run.refused(11);
    run.tell(&torn_down);
    assert_eq!(run.count(Rule::GPD_05), 2);
    assert_eq!(run.client.next_event(), None);
    run.sent(11);
    run.tell(&torn_down);
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring });
    assert_eq!(run.event(), Event::Closed { channel });
    assert_eq!(run.client.counters().total(), 2);
}

#[test]
fn ctl_07_ctl_08_answers_of_a_connection_before_its_questions() {
    let mut run = Run::new(Config::new(Target::PLAIN));
    run.tell(&words(15, &[1, 4, 0]));
    assert_eq!(run.count(Rule::CTL_08), 1);
    run.sent(14);
    run.tell(&words(15, &[1, 4, 0]));
    assert!(matches!(run.event(), Event::Connected { .. }));
    // REQUEST_OFFERS is not said yet.
    run.tell(offer(7, NIC).as_bytes());
    run.tell(&words(4, &[]));
    assert_eq!(run.count(Rule::CTL_07), 2);
    run.sent(3);
    run.tell(offer(7, NIC).as_bytes());
    run.tell(&words(4, &[]));
    assert!(matches!(run.event(), Event::Offered { .. }));
    assert_eq!(run.event(), Event::OffersDelivered);
    // Nor is UNLOAD.
    run.client.unload(run.now).unwrap();
    run.tell(&words(17, &[]));
    assert_eq!(run.count(Rule::CTL_07), 3);
    run.sent(16);
    run.tell(&words(17, &[]));
    assert_eq!(run.event(), Event::Unloaded { answered: true });
    assert_eq!(run.client.counters().total(), 4);
}

/// The open of a ring is not said after the ring's memory was asked back.
#[test]
fn gpd_14_close_takes_back_an_open_that_waits() {
    let (mut run, channel, ring, open_id) = open_waits();
    run.client.close(channel, run.now).unwrap();
    // No OPENCHANNEL, and no CLOSECHANNEL for what was never open.
    let teardown = run.sent(11);
    assert_eq!(word(&teardown, 12), ring.number());
    run.tell(&words(6, &[7, open_id, 0]));
    assert_eq!(run.count(Rule::CTL_46), 1);
    run.silent();
    run.tell(&words(12, &[ring.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring }, "GPD_14");
    assert_eq!(run.event(), Event::Closed { channel });
    run.silent();
}

/// A buffer of which the host has not heard comes back at once; one of which it
/// knows a part is told to the end and then torn down.
#[test]
fn gpd_14_close_takes_back_buffers_that_wait() {
    let (mut run, channel, ring) = Run::open();
    let memory = PlainShared::new(40, 0);
    let part = run.client.create_gpadl(channel, &memory, run.now).unwrap();
    let none = run.client.create_gpadl(channel, &memory, run.now).unwrap();
    run.sent(8);
    run.client.close(channel, run.now).unwrap();
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: none }, "GPD_14");
    assert_eq!(word(&run.sent(9), 12), part.number());
    run.sent(7);
    assert_eq!(word(&run.sent(11), 12), ring.number());
    run.silent();
    run.tell(&words(12, &[ring.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring });
    run.tell(&words(10, &[7, part.number(), 0]));
    assert_eq!(word(&run.sent(11), 12), part.number());
    run.tell(&words(12, &[part.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: part });
    assert_eq!(run.event(), Event::Closed { channel });
    assert_eq!(run.client.counters().total(), 0);
    run.silent();
}

#[test]
fn ctl_42_a_rescind_takes_back_an_open_that_waits() {
    let (mut run, channel, ring, _) = open_waits();
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    // CTL_42: it is neither opened nor, never having been open, closed.
    run.silent();
    run.client.close(channel, run.now).unwrap();
    run.sent(11);
    run.tell(&words(12, &[ring.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring });
    assert_eq!(run.event(), Event::Released { channel });
    run.sent(13);
    run.silent();
}

/// A host that takes no message gets no page either: they come back.
#[test]
fn ctl_50_a_request_that_the_host_never_took() {
    let (mut run, channel) = Run::offered();
    run.tell(&words(4, &[]));
    run.event();
    let memory = PlainShared::new(4, 0);
    let ring = run.client.open(channel, &memory, 2, 0, run.now).unwrap();
    run.now += REQUEST_DEADLINE;
    run.client.poll(run.now);
    assert!(matches!(run.event(), Event::OpenFailed { violation, .. }
        if violation.rule == Rule::CTL_50));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring });
    assert_eq!(run.event(), Event::Closed { channel });
    run.silent();
}
