//! Sub-channels on VPs of their own: the first VP's uplink, a worker for each other VP,
//! the fake host, all in one process and one after the other.

mod world;

use hostkit::fault::Layer as FaultLayer;
use memory::Purpose;
use paravisor_core::account::Account;
use paravisor_core::uplink::{Standing, ring_pages};
use validate::Rule;
use validate::frame::{FlowHash, HashKind, HashRequest};
use world::World;

const UP: Standing = Standing::Ready { link: true };
/// Pages of a NIC with four VPs: receive and send buffer, two rings for each channel.
const PAGES: usize = 512 + 256 + 4 * 2 * 17;

/// Frame number `n`, a TCP segment between ports of its own.
fn frame(mac: [u8; 6], n: u16) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend([
        2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 86, 0, 0, 0x40, 0, 64, 6, 0, 0,
    ]);
    frame.extend([10, 0, 2, 2, 10, 0, 2, 15]);
    frame.extend(n.to_be_bytes());
    frame.extend((!n).to_be_bytes());
    frame.resize(100, n as u8);
    frame
}

/// A world whose lanes are on their VPs, and whose frames are spread over all.
fn up(vps: u8) -> World {
    let mut world = World::with_vps(vps);
    world.bring_up();
    assert_eq!(world.uplink.granted(), u16::from(vps) - 1);
    world.uplink.vps_online();
    world.uplink.set_queues(vps.into());
    settle(&mut world, usize::from(vps) - 1);
    world
}

fn settle(world: &mut World, lanes: usize) {
    for _ in 0..1000 {
        world.turn();
        if world.uplink.standing() == UP && world.uplink.lanes_away() == lanes {
            // The last answers: which frames go where.
            return world.turns(20);
        }
    }
    panic!("{} lanes", world.uplink.lanes_away());
}

/// Sends frames from all queues, waits until all are back; how many came on each VP.
fn traffic(world: &mut World, frames: u16) -> Vec<usize> {
    let mac = world.uplink.mac().unwrap();
    let vps = world.others.len() + 1;
    for n in 0..frames {
        match usize::from(n) % vps {
            0 => world.device.out.push_back(frame(mac, n)),
            vp => world.others[vp - 1].device.out.push_back(frame(mac, n)),
        }
    }
    let mut seen = vec![0; frames.into()];
    let mut on = vec![0; vps];
    for _ in 0..2000 {
        world.turn();
        let devices = world.others.iter_mut().map(|other| &mut other.device);
        for (vp, device) in [&mut world.device].into_iter().chain(devices).enumerate() {
            for bytes in device.received.drain(..) {
                let n = u16::from_be_bytes([bytes[34], bytes[35]]);
                assert_eq!(bytes, frame(mac, n));
                seen[usize::from(n)] += 1;
                on[vp] += 1;
            }
        }
        if on.iter().sum::<usize>() == usize::from(frames) {
            break;
        }
    }
    assert!(seen.iter().all(|times| *times == 1), "{on:?}");
    on
}

fn clean(world: &World) {
    let broken: Vec<_> = world.uplink.totals().validation.violations().collect();
    assert_eq!(broken, []);
    for other in &world.others {
        assert_eq!(other.findings, []);
    }
    assert_eq!(world.ledger.borrow().refused, 0);
}

fn leaked(world: &World) -> usize {
    let pool = world.uplink.pool();
    Purpose::ALL.into_iter().map(|p| pool.leaked(p)).sum()
}

#[test]
fn each_vp_moves_the_frames_of_its_channel() {
    let mut world = up(4);
    assert_eq!(world.used(), PAGES);
    let on = traffic(&mut world, 600);
    assert!(on.iter().all(|count| *count > 50), "{on:?}");
    for (vp, other) in (1..).zip(&world.others) {
        assert_eq!(other.worker.lane(), Some(vp));
        // What the guest sent on this VP has left on this VP's channel.
        assert_eq!(other.worker.relayed().tx_frames, 150);
        assert_eq!(other.worker.relayed().rx_frames, on[usize::from(vp)] as u64);
        assert_eq!(other.device.link, [], "the first VP shows the link");
    }
    clean(&world);
    // The VPs stop, the host is left: every frame is accounted for, on its lane.
    for other in &mut world.others {
        other.worker.go_home();
    }
    assert!(world.uplink.leave(world.now));
    let totals = world.uplink.totals();
    let rx: Vec<_> = totals
        .lanes
        .iter()
        .map(|frames| frames.rx as usize)
        .collect();
    assert_eq!(rx, on);
    assert!(totals.lanes.iter().all(|frames| frames.tx == 150));
    assert_eq!((totals.rx_frames, totals.tx_frames), (600, 600));
    let mut account = Account::new();
    world.uplink.account(&mut account);
    for way in ["rx_frames", "tx_frames"] {
        assert!(account.rows().contains(&("relay", way, 600)));
    }
    assert!(totals.signals_sent >= totals.signals_needed && totals.signals_needed > 0);
    world.turns(50);
    assert!(world.uplink.has_left());
    clean(&world);
}

/// A driver that uses fewer queues gets its frames on those.
#[test]
fn frames_come_on_the_queues_that_are_used() {
    let mut world = up(4);
    for (queues, used) in [(2, 2), (1, 1), (4, 4)] {
        world.uplink.set_queues(queues);
        world.turns(20);
        let on = traffic(&mut world, 400);
        assert!(
            on[..used].iter().all(|count| *count > 20),
            "{queues}: {on:?}"
        );
        assert!(
            on[used..].iter().all(|count| *count == 0),
            "{queues}: {on:?}"
        );
    }
    clean(&world);
}

/// The host takes its NIC back while the lanes are away; it comes again, with lanes.
#[test]
fn a_nic_that_goes_calls_its_lanes_home() {
    let mut world = up(4);
    traffic(&mut world, 100);
    for _ in 0..3 {
        world.below.0.borrow_mut().rescind_nic();
        world.turns(40);
        assert_eq!((world.used(), leaked(&world)), (0, 0));
        assert!(
            world
                .others
                .iter()
                .all(|other| other.worker.lane().is_none())
        );
        // What the guest sends now is completed and counted.
        let mac = world.uplink.mac().unwrap();
        world.others[1].device.out.push_back(frame(mac, 1));
        world.turns(3);
        assert!(world.others[1].device.out.is_empty());
        world.below.0.borrow_mut().offer_nic();
        settle(&mut world, 3);
        assert_eq!((world.used(), leaked(&world)), (PAGES, 0));
        let on = traffic(&mut world, 200);
        assert!(on.iter().all(|count| *count > 10), "{on:?}");
    }
    assert_eq!(world.others[1].worker.relayed().tx_dropped_no_nic, 3);
    clean(&world);
}

/// Traffic on all channels: whether all frames had a hash of that kind, or none had one.
fn hashed(world: &mut World, kind: Option<HashKind>) {
    traffic(world, 200);
    let devices = world.others.iter_mut().map(|other| &mut other.device);
    for device in [&mut world.device].into_iter().chain(devices) {
        let seen: Vec<_> = device.hashes.drain(..).collect();
        assert!(seen.len() > 10);
        let kinds = |seen: &Option<FlowHash>| seen.map(|hash| hash.kind);
        assert!(seen.iter().all(|seen| kinds(seen) == kind), "{seen:?}");
    }
}

/// The key of Microsoft's "Verifying the RSS hash calculation": it spreads well.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// What the guest asks of the host holds on every VP, and for the next NIC, too.
#[test]
fn the_guests_hash_on_each_vp() {
    let mut world = up(4);
    let kinds = world.uplink.offers_hash();
    assert!(kinds.contains(HashKind::TcpIpv4));
    hashed(&mut world, None);
    let asked = HashRequest { kinds, key: KEY };
    world.uplink.set_hash(Some(asked));
    world.turns(20);
    hashed(&mut world, Some(HashKind::TcpIpv4));
    world.below.0.borrow_mut().rescind_nic();
    world.turns(40);
    assert!(world.uplink.offers_hash().is_empty(), "there is no NIC");
    world.below.0.borrow_mut().offer_nic();
    settle(&mut world, 3);
    hashed(&mut world, Some(HashKind::TcpIpv4));
    world.uplink.set_hash(None);
    world.turns(20);
    hashed(&mut world, None);
    clean(&world);
}

/// Its rings, and both buffers, which it sees.
const KEPT: usize = 512 + 256 + 2 * 17;

/// A VP that is slow: nothing that it could still touch is used for anything else
/// before its lane is home, and a NIC that comes again waits for that.
#[test]
fn a_lane_that_comes_home_late_keeps_its_memory() {
    let mut world = up(4);
    world.others[1].runs = false;
    world.below.0.borrow_mut().rescind_nic();
    world.turns(40);
    assert_eq!((world.used(), leaked(&world)), (KEPT, 0));
    world.below.0.borrow_mut().offer_nic();
    world.turns(100);
    assert_eq!((world.used(), leaked(&world)), (KEPT, 0));
    world.others[1].runs = true;
    settle(&mut world, 3);
    assert_eq!((world.used(), leaked(&world)), (PAGES, 0));
    traffic(&mut world, 100);
    assert_eq!(world.uplink.totals().restarts, 1);
    clean(&world);
}

/// A VP that never runs again: nobody waits for ever. Here there are not so many pages
/// twice, so the link stays down; the guest lives.
#[test]
fn sys_05_a_lane_that_never_comes_home() {
    let mut world = up(4);
    world.others[1].runs = false;
    world.below.0.borrow_mut().rescind_nic();
    world.turns(40);
    world.below.0.borrow_mut().offer_nic();
    world.turns(40);
    assert_eq!(world.uplink.standing(), Standing::Connected);
    world.now += vmbus::limits::SECOND;
    world.turns(100);
    assert_eq!(world.uplink.standing(), Standing::NoNic);
    assert_eq!(world.uplink.totals().validation.of(Rule::SYS_05), 1);
    assert_eq!((world.used(), leaked(&world)), (KEPT, 0));
    world.others[1].runs = true;
    world.turns(3);
    assert_eq!((world.used(), leaked(&world)), (0, 0));
}

/// The connection ends while a lane is away: its pages are given back when it is home.
#[test]
fn an_end_with_a_lane_away() {
    let mut world = up(2);
    world.others[0].runs = false;
    assert!(world.uplink.leave(world.now));
    world.turns(20);
    assert!(world.uplink.has_left());
    assert_eq!((world.used(), leaked(&world)), (KEPT, 0));
    world.others[0].runs = true;
    world.turns(3);
    assert_eq!((world.used(), leaked(&world)), (0, 0));
    clean(&world);
}

/// A rule broken on one lane ends the NIC, which starts anew.
#[test]
fn a_rule_broken_on_a_lane_ends_the_nic() {
    let mut world = up(4);
    traffic(&mut world, 50);
    let relid = *world
        .below
        .0
        .borrow()
        .subs
        .iter()
        .find(|(_, i)| **i == 2)
        .unwrap()
        .0;
    let mut once = true;
    world.hook(move |m| {
        if m.layer == FaultLayer::Packet && m.relid == relid && core::mem::take(&mut once) {
            // A packet that is longer than the ring says.
            m.bytes[4..6].copy_from_slice(&0xffff_u16.to_le_bytes());
        }
    });
    let mac = world.uplink.mac().unwrap();
    for n in 0..60 {
        world.others[1].device.out.push_back(frame(mac, n));
    }
    world.turns(400);
    let finding = world.others[1].findings.first().expect("a rule was broken");
    assert_eq!((finding.vp, finding.channel), (2, Some(relid as u16)));
    println!("{}", finding.violation);
    let totals = world.uplink.totals();
    assert_eq!(totals.restarts, 1);
    assert_eq!(totals.validation.of(finding.violation.rule), 1);
    settle(&mut world, 3);
    assert_eq!((world.used(), leaked(&world)), (PAGES, 0));
    for device in world.others.iter_mut().map(|other| &mut other.device) {
        device.out.clear();
        device.received.clear();
    }
    world.device.received.clear();
    traffic(&mut world, 100);
}

/// One sub-channel is taken back: its frames come on the others, and what the guest
/// sends on its queue goes round by the primary.
#[test]
fn frames_go_round_where_a_lane_is_missing() {
    let mut world = up(4);
    let relid = *world
        .below
        .0
        .borrow()
        .subs
        .iter()
        .find(|(_, i)| **i == 2)
        .unwrap()
        .0;
    world.below.0.borrow_mut().rescind(relid);
    world.turns(30);
    assert_eq!(world.uplink.lanes_away(), 2);
    assert_eq!((world.used(), leaked(&world)), (PAGES - 2 * 17, 0));
    let on = traffic(&mut world, 600);
    assert_eq!(on[2], 0);
    assert!([0, 1, 3].iter().all(|vp| on[*vp] > 50), "{on:?}");
    let sent = world.others[1].worker.relayed();
    assert_eq!((sent.tx_frames, sent.tx_dropped_no_nic), (150, 0));
    clean(&world);
    // Two relays had them in hand; in the account of all VPs they are there once.
    assert_eq!(world.uplink.relayed().tx_frames, 300);
    for other in &mut world.others {
        other.worker.go_home();
    }
    let mut account = Account::new();
    world.uplink.account(&mut account);
    assert!(account.rows().contains(&("relay", "tx_frames", 600)));
}

/// The flag of a channel that is not this VP's.
#[test]
fn syn_15_a_flag_on_the_wrong_vp() {
    let mut world = up(2);
    let relid = *world.below.0.borrow().subs.first_key_value().unwrap().0;
    let wrong = relid - 1;
    set_flag(&world, wrong);
    traffic(&mut world, 40);
    let finding = world.others[0].findings[0];
    assert_eq!(finding.violation.rule, Rule::SYN_15, "SYN-15");
    assert_eq!((finding.vp, finding.violation.value), (1, wrong.into()));
    assert_eq!(world.uplink.totals().validation.of(Rule::SYN_15), 0);
    world.others[0].worker.go_home();
    assert_eq!(world.uplink.totals().validation.of(Rule::SYN_15), 1);
}

/// The flag of a lane that is home, after its NIC has ended.
#[test]
fn syn_16_a_flag_without_a_lane() {
    let mut world = up(2);
    let relid = *world.below.0.borrow().subs.first_key_value().unwrap().0;
    world.below.0.borrow_mut().rescind_nic();
    world.turns(40);
    set_flag(&world, relid);
    let vp = &mut world.others[0];
    let reason = paravisor_core::run::Reason {
        sint: true,
        ..Default::default()
    };
    let turned = vp
        .worker
        .turn(&mut vp.below, &mut vp.device, reason, world.now);
    assert_eq!(turned.unwrap().deadline, None);
    let finding = vp.worker.take_findings()[0];
    assert_eq!(finding.violation.rule, Rule::SYN_16, "SYN-16");
}

/// The host sets a flag in VP 1's page.
fn set_flag(world: &World, flag: u32) {
    use hostkit::mem::VmMemory;
    let mut host = world.below.0.borrow_mut();
    let siefp = host.msr_read(1, abi::hyperv::msr::SIEFP).unwrap() & !0xfff;
    let at = siefp + 7 * 256 + u64::from(flag / 32) * 4;
    host.mem.fetch_or_u32(at, 1 << (flag % 32)).unwrap();
}

/// As many lanes as there can be have room in the pool.
#[test]
fn pages_for_up_to_64_vps() {
    for vps in 1..=64_u8 {
        let rings = usize::from(vps) * 2 * ring_pages(vps).max(5);
        let first = 2 * 17 - 2 * ring_pages(vps);
        let send = netvsc::limits::send_buffer(u16::from(vps) - 1);
        let buffers = (netvsc::limits::RECEIVE_BUFFER + send) / 4096;
        let own = 3 * usize::from(vps);
        assert!(rings + first + buffers + own < 2047, "{vps}");
    }
}

/// And room in the heap: what each VP but the first has for itself, added up.
#[test]
fn heap_for_up_to_64_vps() {
    use paravisor_core::lanes::{Strand, Worker};
    type Region = memory::doubles::PlainShared;
    let lane = size_of::<Strand<Region>>() + netvsc::limits::PACKET_BUFFER;
    // The ranges of a packet, and the pieces of a frame that is joined of them.
    let range = size_of::<validate::packet::Range>() + size_of::<memory::Piece>();
    let ranges = netvsc::limits::MAX_RANGES as usize * range;
    // With 64 channels each has but a few sections.
    let requests = 16 * 64;
    let worker = size_of::<Worker<Region>>() + relay::limits::FRAME;
    // A queue pair of the guest's card, notes, accounts.
    let device = 8 << 10;
    let each = lane + ranges + requests + worker + device;
    // The first has less than this, as runs report it.
    let first = 384 << 10;
    let all = first + 63 * each + netvsc::limits::SLOT_COPIES;
    let spare = 128 << 10;
    println!("{each} each, {all} in all");
    assert!(all + spare <= loader::layout::HEAP.len() as usize, "{all}");
}
