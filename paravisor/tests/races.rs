//! The host takes the NIC back, or breaks its ring, at each step of the NIC's life:
//! everything ends cleanly, every page is accounted for, and a NIC that the host
//! offers anew, or that may be opened again, comes back as the one it was.

mod world;

use hostkit::fault::Layer as FaultLayer;
use memory::Purpose;
use paravisor_core::uplink::Standing;
use validate::{Layer, Rule};
use world::World;

const UP: Standing = Standing::Ready { link: true };
/// Turns of traffic once the NIC is up.
const TRAFFIC: usize = 12;
/// Turns after which a NIC must be back.
const BACK: usize = 700;

/// One turn; as soon as there is a NIC the guest sends, and the host sends it back.
fn live(world: &mut World) {
    if world.uplink.standing() == UP {
        let frame = world.frame();
        world.device.out.push_back(frame);
    }
    world.turn();
}

/// Messages judged so far, by layer.
fn judged(world: &World) -> Vec<u64> {
    let totals = world.uplink.totals();
    let layers = Layer::ALL.into_iter();
    layers.map(|l| totals.validation.messages(l)).collect()
}

/// Turns in which the host had said something new, and the pages of a NIC that is up.
fn steps() -> (Vec<usize>, usize) {
    let mut world = World::new();
    world.uplink.start(world.now);
    let mut steps = Vec::new();
    let mut before = judged(&world);
    let mut up = 0;
    for turn in 1.. {
        live(&mut world);
        let now = judged(&world);
        // Version, offer and the end of the offers come first: before them there is
        // no NIC to take back.
        if now != before && now[1] >= 3 {
            steps.push(turn);
        }
        before = now;
        up += usize::from(world.uplink.standing() == UP);
        if up > TRAFFIC {
            break;
        }
        assert!(turn < 1000, "not up");
    }
    (steps, world.used())
}

/// A world that has lived for so many turns.
fn after(turns: usize) -> World {
    let mut world = World::new();
    world.uplink.start(world.now);
    (0..turns).for_each(|_| live(&mut world));
    world
}

/// The NIC comes back, with its pages and its address, and works.
fn comes_back(world: &mut World, used: usize, step: usize) {
    let mac = world.uplink.mac();
    let back = (0..BACK).any(|_| {
        world.turn();
        world.uplink.standing() == UP
    });
    assert!(back, "step {step}: {:?}", world.uplink.standing());
    assert!(mac.is_none() || world.uplink.mac() == mac, "step {step}");
    assert_eq!(world.device.link.last(), Some(&true));
    accounted(world, used, step);
    world.device.received.clear();
    let frame = world.frame();
    world.device.out.clear();
    world.device.out.push_back(frame.clone());
    world.turns(6);
    assert_eq!(world.device.received, [frame], "step {step}");
}

/// So many pages are in use, none is lost, and the host saw no private one.
fn accounted(world: &World, used: usize, step: usize) {
    assert_eq!(world.used(), used, "SYS_13: pages at step {step}");
    let pool = world.uplink.pool();
    let leaked = Purpose::ALL.into_iter().map(|purpose| pool.leaked(purpose));
    assert_eq!(leaked.sum::<usize>(), 0, "SYS_13: lost at step {step}");
    assert_eq!(world.ledger.borrow().refused, 0);
}

#[test]
fn sys_13_ctl_40_nic_taken_back_at_each_step_ends_and_comes_back() {
    let (steps, used) = steps();
    assert!(steps.len() > 20, "{steps:?}");
    for (n, step) in steps.into_iter().enumerate() {
        let mut world = after(step);
        world.below.0.borrow_mut().rescind_nic();
        // Offered anew while the old one is still taken down, or long after that.
        match n % 3 {
            0 => {}
            1 => world.turns(3),
            _ => {
                world.turns(40);
                assert_eq!(world.uplink.standing(), Standing::NoNic, "step {step}");
                accounted(&world, 0, step);
            }
        }
        world.below.0.borrow_mut().offer_nic();
        comes_back(&mut world, used, step);
        let errors = world.below.0.borrow().server.counters().errors.len();
        assert_eq!(errors, 0, "what the host found wrong, step {step}");
    }
}

#[test]
fn sys_13_ring_broken_at_each_step_is_replaced() {
    let (steps, used) = steps();
    for step in steps {
        let mut world = after(step);
        let mut told = false;
        world.hook(move |message| {
            // The next packet is longer than what is in the ring (RNG_09).
            if message.layer == FaultLayer::Packet && !told {
                told = true;
                message.bytes[4..6].copy_from_slice(&[0xff, 0xff]);
            }
        });
        let broken = (0..BACK).any(|_| {
            live(&mut world);
            world.uplink.totals().restarts == 1
        });
        assert!(broken, "step {step}");
        comes_back(&mut world, used, step);
        let validation = world.uplink.totals().validation;
        assert_eq!(validation.of(Rule::RNG_09), 1, "step {step}");
    }
}

/// Both at once: the ring is broken and the offer is taken back in the same turn.
#[test]
fn sys_13_broken_and_taken_back_at_each_step() {
    let (steps, used) = steps();
    for step in steps.into_iter().step_by(2) {
        let mut world = after(step);
        world.hook(|message| {
            if message.layer == FaultLayer::Packet {
                message.bytes[4..6].copy_from_slice(&[0xff, 0xff]);
            }
        });
        live(&mut world);
        world.below.0.borrow_mut().rescind_nic();
        world.turns(40);
        world.below.0.borrow_mut().faults.clear_hook();
        accounted(&world, 0, step);
        world.below.0.borrow_mut().offer_nic();
        comes_back(&mut world, used, step);
    }
}
