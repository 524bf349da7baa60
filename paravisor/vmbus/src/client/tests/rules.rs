//! Rules of the whole client.

use super::*;
use crate::synic::{Drain, MessageSlot};
use memory::doubles::DoubleFetch;
use validate::Reaction;

#[test]
fn syn_11_a_slot_that_is_never_empty_ends_the_connection() {
    let mut run = Run::connected();
    for _ in 1..SPENT_BUDGETS {
        run.client.on_drained(Drain::BudgetSpent);
    }
    // A neighbour: one empty slot, and the host may talk on.
    run.client.on_drained(Drain::Empty);
    for _ in 1..SPENT_BUDGETS {
        run.client.on_drained(Drain::BudgetSpent);
    }
    run.silent();
    run.client.on_drained(Drain::BudgetSpent);
    assert_eq!(run.failed(), Rule::SYN_11);
    assert_eq!(run.count(Rule::SYN_11), 2 * SPENT_BUDGETS - 1);
    assert_eq!(Rule::SYN_11.reaction(), Reaction::Throttle);
}

#[test]
fn ctl_40_a_rescind_ends_every_wait() {
    // Opening: the answer to OPENCHANNEL is no longer waited for.
    let (mut run, channel) = Run::offered();
    run.tell(&words(4, &[]));
    run.event();
    let memory = PlainShared::new(4, 0);
    let gpadl = run.client.open(channel, &memory, 2, 0, run.now).unwrap();
    run.sent(8);
    run.tell(&words(10, &[7, gpadl.number(), 0]));
    run.sent(5);
    assert!(run.client.deadline().is_some());
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    assert_eq!(run.client.deadline(), None, "CTL_40");
    run.now += 10 * REQUEST_DEADLINE;
    run.silent();
    // A GPADL that is being created is waited for, but not for ever.
    let (mut run, channel, _) = Run::open();
    run.tell(&words(4, &[]));
    run.event();
    let gpadl = run.client.create_gpadl(channel, &memory, run.now).unwrap();
    run.sent(8);
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    run.wait(REQUEST_DEADLINE);
    run.client.poll(run.now);
    assert!(matches!(run.event(), Event::GpadlFailed { gpadl: g, .. } if g == gpadl));
    assert_eq!(run.event(), Event::MemoryLeaked { gpadl });
    assert_eq!(run.client.deadline(), None);
}

#[test]
fn gpd_11_a_private_page_is_never_named() {
    let mut config = Config::new(Target::PLAIN);
    config.frames = 0x100..0x104;
    let mut run = Run::new(config);
    run.sent(14);
    run.tell(&words(15, &[0, 0]));
    run.sent(14);
    run.tell(&words(15, &[1, 4]));
    run.sent(3);
    run.event();
    let channel = run.card(7);
    // A neighbour: all of the pool.
    let mut good = run.client.clone();
    let inside = PlainShared::new(4, 0x100);
    assert!(good.open(channel, &inside, 2, 0, run.now).is_ok());
    // The last page lies behind the pool.
    let outside = PlainShared::new(4, 0x101);
    let refused = run.client.open(channel, &outside, 2, 0, run.now);
    assert!(matches!(refused, Err(RequestError::Limit(v))
        if (v.rule, v.value) == (Rule::GPD_11, 0x104)));
    assert_eq!(run.failed(), Rule::GPD_11);
    run.silent();
    // By default no frame may have a C bit.
    let (mut run, channel) = Run::offered();
    let private = PlainShared::new(4, 1 << 40);
    assert!(run.client.open(channel, &private, 2, 0, run.now).is_err());
    assert_eq!(run.failed(), Rule::GPD_11);
}

#[test]
fn gpd_14_sys_13_close_then_teardown_then_memory_then_relid() {
    let (mut run, channel, ring) = Run::open();
    let memory = PlainShared::new(2, 0);
    let buffer = run.client.create_gpadl(channel, &memory, run.now).unwrap();
    run.sent(8);
    run.tell(&words(10, &[7, buffer.number(), 0]));
    run.event();
    run.tell(&words(2, &[7]));
    run.event();
    run.client.close(channel, run.now).unwrap();
    // CLOSECHANNEL, both teardowns; nothing is given back yet (GPD_14).
    run.sent(7);
    run.sent(11);
    run.sent(11);
    run.silent();
    run.tell(&words(12, &[buffer.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: buffer });
    // And the relid not before the last of them (SYS_13).
    run.silent();
    run.tell(&words(12, &[ring.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring });
    assert_eq!(run.event(), Event::Released { channel });
    run.sent(13);
    run.silent();
}

/// SYS_15: a host that answers nothing holds nobody up; each call returns, and
/// other channels go on.
#[test]
fn sys_15_a_withheld_answer_stops_nothing_else() {
    let (mut run, first) = Run::offered();
    run.tell(offer(8, Guid([0xb; 16])).as_bytes());
    let Event::Offered {
        channel: second, ..
    } = run.event()
    else {
        panic!()
    };
    let memory = PlainShared::new(4, 0);
    run.client.open(first, &memory, 2, 0, run.now).unwrap();
    run.sent(8);
    // The first is never answered; the second opens.
    let gpadl = run.client.open(second, &memory, 2, 0, run.now).unwrap();
    run.sent(8);
    run.tell(&words(10, &[8, gpadl.number(), 0]));
    let open = run.sent(5);
    run.tell(&words(6, &[8, word(&open, 12), 0]));
    assert!(matches!(run.event(), Event::Opened { channel, .. } if channel == second));
    run.silent();
}

/// SYS_17: during UNLOAD a slot changes while it is read; only the copy counts,
/// and the wait ends.
#[test]
fn sys_17_the_way_out_copies_and_has_an_end() {
    let (mut run, _, _) = Run::open();
    run.client.unload(run.now).unwrap();
    run.sent(16);
    let plain = PlainShared::new(1, 0);
    let page = DoubleFetch::message_page(plain.clone());
    let put = |bytes: &[u8]| plain.copy_out(512, &slot_of(bytes)).unwrap();
    put(offer(9, NIC).as_bytes());
    let (copy, _) = MessageSlot::new(2).take(&page).unwrap();
    run.client.on_message(&copy, run.now);
    assert_eq!(run.count(Rule::CTL_07), 1);
    run.silent();
    put(&words(17, &[]));
    let (copy, _) = MessageSlot::new(2).take(&page).unwrap();
    let mut answered = run.client.clone();
    answered.on_message(&copy, run.now);
    let released = answered.next_event();
    assert!(matches!(released, Some(Event::MemoryReleased { .. })));
    let end = answered.next_event();
    assert_eq!(end, Some(Event::Unloaded { answered: true }));
    // Without that answer it ends all the same.
    run.wait(UNLOAD_DEADLINE);
    run.client.poll(run.now);
    assert!(matches!(run.event(), Event::MemoryLeaked { .. }));
    assert_eq!(run.event(), Event::Unloaded { answered: false });
}

#[test]
fn a_channel_has_its_own_counts() {
    let (mut run, channel, ring) = Run::open();
    let life = run.client.life(channel).unwrap();
    assert_eq!((life.messages, life.opened, life.resets()), (3, 1, 0));
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.tell(&words(12, &[ring.number()]));
    let life = run.client.life(channel).unwrap();
    assert_eq!((life.messages, life.closed, life.leaked), (4, 1, 0));
    run.tell(&words(2, &[7]));
    assert_eq!(run.client.life(channel), None);
}
