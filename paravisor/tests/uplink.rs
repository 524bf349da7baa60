//! The uplink against the fake host, in one process: bring-up, frames each way,
//! an offer that is taken back, a host that breaks the rules, a host that is silent.

mod world;

use abi::record::Outcome;
use hostkit::fault::{Layer as FaultLayer, OutgoingMessage};
use memory::{Purpose, SharedMemory};
use paravisor_core::uplink::Standing;
use platform::Error;
use validate::{Layer, Rule};
use vmbus::Target;
use world::{FIRST_PFN, PAGES, World};

#[test]
fn frames_go_each_way_and_the_host_sees_shared_pages_only() {
    let mut world = World::new();
    world.bring_up();
    assert_eq!(world.device.link, [true]);
    let frame = world.frame();
    world.device.out.push_back(frame.clone());
    world.turns(4);
    assert_eq!(world.device.received, [frame]);
    let totals = world.uplink.totals();
    assert_eq!((totals.tx_frames, totals.rx_frames), (1, 1));
    assert_eq!(totals.signals_sent, totals.signals_needed);
    // The descriptions of the buffers come faster than a port has room for.
    assert!(totals.calls_refused < 8);
    assert!(totals.validation.messages(Layer::Rndis) > 0);
    assert_eq!(totals.validation.violations().count(), 0);
    assert_eq!(world.ledger.borrow().refused, 0);
}

#[test]
fn offer_taken_back_gives_the_memory_back_and_takes_the_link_down() {
    let mut world = World::new();
    world.bring_up();
    assert!(world.used() > 0);
    world.below.0.borrow_mut().rescind_nic();
    world.turns(20);
    assert_eq!(world.uplink.standing(), Standing::NoNic);
    assert_eq!(world.device.link, [true, false]);
    assert_eq!(world.used(), 0);
}

/// The NIC is taken back and offered anew, sooner or later, again and again: it
/// comes back with its address and all its pages, until the hour's openings are
/// used up.
#[test]
fn ctl_29_sys_05_sys_13_a_nic_that_is_offered_anew_comes_back() {
    let mut world = World::new();
    world.bring_up();
    let (mac, used) = (world.uplink.mac(), world.used());
    const LIMIT: usize = relay::limits::RESETS_PER_INTERVAL;
    for round in 0..=LIMIT {
        world.below.0.borrow_mut().rescind_nic();
        // The first ones while the old channel is still being taken down.
        world.turns(round * 2);
        world.below.0.borrow_mut().offer_nic();
        let back = (0..600).any(|_| {
            world.turn();
            world.uplink.standing() == (Standing::Ready { link: true })
        });
        assert_eq!(back, round < LIMIT, "round {round}");
        assert_eq!(world.used(), if back { used } else { 0 }, "SYS_13");
        assert_eq!(world.uplink.mac(), mac);
    }
    let validation = world.uplink.totals().validation;
    let violations: Vec<_> = validation.violations().collect();
    assert_eq!(violations, [(Rule::SYS_05, 1)]);
    let pool = world.uplink.pool();
    assert!(Purpose::ALL.into_iter().all(|p| pool.leaked(p) == 0));
    let host = world.below.0.borrow();
    assert_eq!(host.server.counters().errors.len(), 0);
    assert_eq!(world.ledger.borrow().refused, 0);
}

/// SYS_14: what comes back must be the NIC that the guest knows.
#[test]
fn sys_14_rnd_49_a_nic_that_comes_back_with_another_address() {
    let mut world = World::new();
    world.bring_up();
    let mac = world.uplink.mac();
    let other = |world: &World, last: u8| {
        let mut host = world.below.0.borrow_mut();
        host.rescind_nic();
        host.backend.mac[5] ^= last;
        host.offer_nic();
    };
    other(&world, 1);
    world.turns(300);
    assert!(!world.uplink.link_up(), "SYS_14");
    assert_eq!(world.uplink.mac(), mac);
    assert!(world.uplink.totals().validation.of(Rule::RND_49) >= 1);
    // A neighbour: with its own it would have been let in.
    let mut world = World::new();
    world.bring_up();
    other(&world, 0);
    world.turns(300);
    assert!(world.uplink.link_up());
}

/// One refused open is a channel that failed, not a link that is lost.
#[test]
fn ctl_48_a_refused_open_is_tried_again() {
    for refusals in [1, 3, 100] {
        let mut world = World::new();
        world.below.0.borrow_mut().faults.refuse_opens = refusals;
        world.uplink.start(world.now);
        let tries = 1 + relay::limits::RESETS_PER_INTERVAL as u32;
        let mut pause = relay::limits::OPEN_PAUSE;
        for seen in 1..=refusals.min(tries) {
            let refused = |world: &World| world.uplink.totals().validation.of(Rule::CTL_48);
            world.turns(400);
            // Not at once, however often the host is heard meanwhile; and not late.
            assert_eq!(refused(&world), seen, "{refusals}");
            assert_eq!(world.used(), 0);
            if seen < tries {
                let until = world.deadline.unwrap();
                assert!(
                    until - world.now < pause
                        && until + 40 * vmbus::limits::MILLISECOND > world.now + pause
                );
                world.now = until - 2000;
                world.turn();
                assert_eq!(world.used(), 0);
                world.turn();
                assert!(world.used() > 0);
                pause *= 2;
            }
        }
        world.turns(600);
        let ready = world.uplink.standing() == Standing::Ready { link: true };
        assert_eq!(ready, refusals < 100, "{refusals}");
        let totals = world.uplink.totals();
        assert_eq!(totals.validation.of(Rule::CTL_48), refusals.min(tries));
        assert_eq!(world.used() == 0, !ready);
    }
}

#[test]
fn sys_06_frames_after_the_end_of_the_nic_are_completed() {
    let mut world = World::new();
    world.device.out.push_back(vec![0; 60]);
    world.uplink.start(world.now);
    world.turn();
    assert_eq!(world.device.out.len(), 1, "waits for a NIC that comes up");
    world.device.out.clear();
    for _ in 0..500 {
        world.turn();
    }
    assert_eq!(world.uplink.standing(), Standing::Ready { link: true });
    world.below.0.borrow_mut().rescind_nic();
    world.turns(20);
    world.device.out.extend([vec![0; 60], vec![0; 60]]);
    world.turns(4);
    assert!(world.device.out.is_empty());
    assert_eq!(world.uplink.relayed().tx_dropped_no_nic, 2);
}

#[test]
fn sys_02_a_pool_without_pages_is_a_nic_without_a_link() {
    // Rings fit; then rings and one buffer; then nothing.
    for taken in [PAGES - 100, PAGES - 600, PAGES - 10] {
        let mut world = World::with_pages_taken(taken);
        world.uplink.start(world.now);
        world.turns(500);
        assert_eq!(world.uplink.standing(), Standing::NoNic, "{taken}");
        assert_eq!(world.used(), 0, "{taken}");
    }
}

/// The host refuses to change a page's state in the middle of a bring-up: the run
/// ends, GPD-07 is told, and the pages are not tried again.
#[test]
fn gpd_07_a_page_that_the_host_does_not_convert() {
    let mut world = World::new();
    world.ledger.borrow_mut().stubborn = true;
    world.uplink.start(world.now);
    let used = world.used();
    let end = (0..500).find_map(|_| world.try_turn().err());
    assert_eq!(end.map(|end| end.outcome), Some(Outcome::MemoryFailure));
    let findings = world.uplink.take_findings();
    let told = findings.iter().find(|f| f.violation.rule == Rule::GPD_07);
    assert_eq!(told.map(|f| f.violation.value), Some(34), "{findings:?}");
    // Neither free nor in use.
    assert_eq!(world.uplink.pool().leaked(Purpose::Ring), 34);
    assert_eq!(world.used(), used);
}

#[test]
fn syn_24_a_result_that_cannot_be_is_no_success() {
    let request = "hypercall";
    // One element done of a call that has none, status "success"; and a host that
    // answers "not done yet" for ever.
    let value = 1 << 32;
    let status = 0x78;
    for (error, noted) in [
        (Error::Malformed { request, value }, 1),
        (Error::Refused { request, status }, 0),
    ] {
        let mut world = World::new();
        world.below.1.set(Some(error));
        world.uplink.start(world.now);
        world.turns(4);
        assert_eq!(world.uplink.standing(), Standing::Failed);
        assert_eq!(world.uplink.failure().unwrap().rule, Rule::SYN_23);
        let seen = world.uplink.totals().validation.of(Rule::SYN_24);
        assert_eq!(seen, noted);
        let found = world.uplink.take_findings();
        let found = found.iter().filter(|f| f.violation.rule == Rule::SYN_24);
        assert_eq!(found.count() as u32, noted);
    }
}

#[test]
fn sys_05_broken_nic_is_opened_again_with_the_same_address_but_not_for_ever() {
    let mut world = World::new();
    world.bring_up();
    let mac = world.uplink.mac();
    const LIMIT: u64 = relay::limits::RESETS_PER_INTERVAL as u64;
    for round in 0..=LIMIT {
        // A ring packet that is longer than what is in the ring (PKT).
        world.hook(|message| {
            if message.layer == FaultLayer::Packet {
                message.bytes[4..6].copy_from_slice(&[0xff, 0xff]);
            }
        });
        let frame = world.frame();
        world.device.out.push_back(frame);
        let broken = (0..50).any(|_| {
            world.turn();
            !world.uplink.link_up()
        });
        assert!(broken, "round {round}");
        world.below.0.borrow_mut().faults.clear_hook();
        let back = (0..500).any(|_| {
            world.turn();
            world.uplink.standing() == (Standing::Ready { link: true })
        });
        assert_eq!(back, round < LIMIT, "round {round}");
        assert_eq!(world.uplink.mac(), mac);
    }
    assert_eq!(world.uplink.standing(), Standing::NoNic);
    let totals = world.uplink.totals();
    assert_eq!(totals.restarts, LIMIT);
    assert_eq!(totals.validation.of(Rule::SYS_05), 1);
    // The device is failed for good.
    world.turns(200);
    assert_eq!(world.uplink.standing(), Standing::NoNic);
    assert_eq!(world.used(), 0);
}

#[test]
fn silent_host_ends_the_contact_within_its_deadline() {
    let mut world = World::new();
    world.below.0.borrow_mut().faults.never_answer_version = true;
    world.uplink.start(world.now);
    let begin = world.now;
    while world.uplink.standing() == Standing::Contacting {
        world.now += vmbus::limits::SECOND;
        world.turn();
        assert!(world.now - begin < 60 * vmbus::limits::SECOND, "hangs");
    }
    assert_eq!(world.uplink.standing(), Standing::Failed);
    assert_eq!(world.uplink.failure().unwrap().rule, Rule::CTL_13);
}

#[test]
fn syn_11_flood_of_messages_is_cut_into_turns() {
    let mut world = World::new();
    world.bring_up();
    // Every message of the host is told two hundred times.
    world.hook(|message| {
        if message.layer == FaultLayer::Control {
            message.copies = 200;
        }
    });
    world.below.0.borrow_mut().rescind_nic();
    world.turns(50);
    let synic = world.uplink.totals().validation.messages(Layer::Synic);
    assert!(synic > 100, "{synic}");
    assert_eq!(world.ledger.borrow().refused, 0);
}

/// Both ends of the last word: a host that answers UNLOAD gets its pages back to
/// the pool, one that does not has them for ever, and the wait ends.
#[test]
fn ctl_53_ctl_54_leave_is_answered_or_ends_by_its_deadline() {
    let mut world = World::new();
    world.bring_up();
    assert!(world.uplink.leave(world.now));
    world.turns(4);
    assert!(world.uplink.has_left());
    assert_eq!(world.used(), 0);
    assert_eq!(world.uplink.totals().validation.violations().count(), 0);
    // Nothing is left to take leave of.
    assert!(!world.uplink.leave(world.now));

    let mut world = World::new();
    world.bring_up();
    let shared = world.used();
    world.hook(|message| {
        if message.layer == FaultLayer::Control {
            message.copies = 0;
        }
    });
    let begin = world.now;
    assert!(world.uplink.leave(begin));
    while !world.uplink.has_left() {
        world.now += vmbus::limits::SECOND;
        world.turn();
        assert!(world.now - begin < 2 * vmbus::limits::UNLOAD_DEADLINE);
    }
    let totals = world.uplink.totals();
    assert_eq!(totals.validation.of(Rule::CTL_54), 1);
    assert_eq!(totals.validation.of(Rule::CTL_53), 0);
    let pool = world.uplink.pool();
    let leaked: usize = Purpose::ALL.into_iter().map(|p| pool.leaked(p)).sum();
    assert_eq!(leaked, shared);
}

/// The host raises the channel's flag all the time, and there is nothing in the
/// rings: they are looked at by the clock, and the guest's own work is not held up.
#[test]
fn syn_18_rng_30_storm_of_events_is_throttled_and_frames_still_move() {
    let mut world = World::new();
    world.bring_up();
    // Every flag of the first word, in the area of our SINT.
    let flags = 4096 + 256 * usize::from(Target::REDIRECTED.sint);
    let storm = |world: &mut World| {
        world.memory.store_u32(flags, u32::MAX).unwrap();
        world.now += 10;
        let now = world.now;
        let World {
            uplink,
            below,
            device,
            ..
        } = world;
        uplink.turn(below, device, true, now).unwrap()
    };
    for _ in 0..vmbus::limits::SPURIOUS_EVENTS + 8 {
        storm(&mut world);
    }
    let totals = world.uplink.totals();
    for rule in [Rule::SYN_18, Rule::RNG_30] {
        assert_eq!(totals.validation.of(rule), 1, "{rule}");
    }
    // The guest's frame waits for nobody.
    let frame = world.frame();
    world.device.out.push_back(frame.clone());
    world.uplink.guest_acted();
    storm(&mut world);
    assert_eq!(world.uplink.totals().tx_frames, 1);
    // What the host has for the guest waits for the clock.
    let _ = world.below.0.borrow_mut().poll(world.now);
    let due = storm(&mut world).deadline.unwrap();
    assert!(world.device.received.is_empty());
    assert!(due > world.now && due <= world.now + vmbus::limits::STORM_PERIOD);
    world.now = due;
    storm(&mut world);
    assert_eq!(world.device.received, [frame]);
    assert_eq!(world.uplink.standing(), Standing::Ready { link: true });
}

/// A generator of which a seed gives the same numbers for ever.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
    /// Mostly numbers at which things go wrong.
    fn word(&mut self) -> u32 {
        match self.roll(6) {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << self.roll(32),
            3 => self.roll(64) as u32,
            4 => (self.roll(0x1000) * 8) as u32,
            _ => self.roll(1 << 32) as u32,
        }
    }
}

/// A host that changes, drops, repeats and cuts what it says, writes to shared
/// pages at random, takes its offer back and lets time pass.
fn hostile_host(seed: u64) -> u64 {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new();
    // How often it lies, and whether from the start or once the NIC is up.
    let calm = 1 << (2 + dice.roll(7));
    let mut lies = dice.clone();
    let lie = move |message: &mut OutgoingMessage| {
        if lies.roll(calm) != 0 || message.bytes.is_empty() {
            return;
        }
        let len = message.bytes.len() as u64;
        match lies.roll(8) {
            0 => message.copies = lies.roll(4) as u32,
            1 => message.bytes.truncate(lies.roll(len) as usize),
            2 => message.bytes[lies.roll(len) as usize] = lies.roll(256) as u8,
            _ => {
                let at = (lies.roll(len) & !3) as usize;
                let word = lies.word().to_le_bytes();
                message.bytes[at..]
                    .iter_mut()
                    .zip(word)
                    .for_each(|(to, from)| *to = from);
            }
        }
    };
    if dice.roll(2) == 0 {
        world.bring_up();
    } else {
        world.uplink.start(world.now);
    }
    world.hook(lie);
    for _ in 0..600 {
        if dice.roll(4) == 0 && world.device.out.len() < 100 {
            let frame = vec![0xff; 14 + dice.roll(1500) as usize];
            world.device.out.push_back(frame);
        }
        if dice.roll(64) == 0 {
            let mut shared: Vec<u64> = world.ledger.borrow().shared.iter().copied().collect();
            shared.sort_unstable();
            let page = shared[dice.roll(shared.len() as u64) as usize] - FIRST_PFN;
            let at = match dice.roll(2) {
                0 => dice.roll(4) * 4,
                _ => dice.roll(1024) * 4,
            };
            let at = (page * 4096 + at) as usize;
            world.memory.store_u32(at, dice.word()).unwrap();
        }
        match dice.roll(400) {
            0 => world.below.0.borrow_mut().rescind_nic(),
            1 => world.now += vmbus::limits::SECOND * dice.roll(60),
            _ => {}
        }
        world.turn();
        world.device.received.clear();
    }
    assert_eq!(world.ledger.borrow().refused, 0, "seed {seed}");
    world
        .uplink
        .totals()
        .validation
        .violations()
        .map(|(_, count)| u64::from(count))
        .sum()
}

#[test]
fn sys_01_no_word_of_the_host_ends_more_than_the_link() {
    let rounds = std::env::var("UNDERCROFT_ROUNDS").ok();
    let rounds = rounds.and_then(|n| n.parse().ok()).unwrap_or(24);
    let violations: u64 = (1..=rounds).map(hostile_host).sum();
    assert!(violations > rounds, "{violations}");
}
