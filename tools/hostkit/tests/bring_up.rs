//! The host against a client by hand: from INITIATE_CONTACT to frames.
mod common;

use abi::vmbus::{PacketType, Version};
use common::*;
use undercroft_hostkit::MachineConfig;
use undercroft_hostkit::VmMemory;
use undercroft_hostkit::backend::{Backend, Loopback, Scripted};
use undercroft_hostkit::fault::{Faults, Layer};
use undercroft_hostkit::netvsp::NicError;
use undercroft_hostkit::ring::packet;
use undercroft_hostkit::vmbus::Target;

fn quiet() -> Loopback {
    Loopback {
        echo: false,
        ..Default::default()
    }
}

#[test]
fn a_frame_each_way() {
    let (mut c, _) = Client::up(MachineConfig::default(), quiet());
    let frame: Vec<u8> = (0..200).map(|i| i as u8).collect();
    assert_eq!(c.rndis_send(0, &rndis_packet(&frame)), 1);
    assert_eq!(c.host.backend.from_guest.pop_front().unwrap(), frame);
    c.event();
    c.host.backend.to_guest.push_back(frame.clone());
    c.poll();
    assert!(c.event());
    let got = c.receive().unwrap();
    let ranges = c.ranges(&got);
    assert_eq!(
        (ranges.len(), ranges[0].len(), u32_at(&got.payload, 4)),
        (1, 256 + 200, 0)
    );
    assert_eq!((u32_at(&ranges[0], 8), u32_at(&ranges[0], 12)), (248, 200));
    assert_eq!(&ranges[0][256..], frame);
    assert_eq!(c.host.nic.state().slots_in_flight, 1);
    c.done(got.transaction);
    assert_eq!(c.host.nic.state().slots_in_flight, 0);
    assert_eq!(c.host.nic.error(), None);
    let n = c.host.nic.counters();
    assert_eq!(
        (n.frames_rx, n.frames_tx, n.bytes_rx, n.bytes_tx),
        (1, 1, 200, 200)
    );
    assert_eq!(n.signals_not_needed, 0);
}

#[test]
fn plain_target_with_the_offers_own_connection() {
    let mut config = MachineConfig::default();
    config.server.target = Target::PLAIN;
    let mut c = Client::new(config);
    let relid = c.open(Version::V5_2.0, 0);
    assert_eq!(c.signal_connection, 0x2000 + relid);
    c.buffers(relid);
    c.rndis();
    assert_eq!(c.host.server.version(), Some(Version::V5_2));
}

#[test]
fn versions_are_negotiated_newest_first() {
    let mut config = MachineConfig::default();
    config.server.max_version = Version::V5_3;
    let mut c = Client::new(config);
    let refused = c.contact(0x6_0000, 3);
    assert_eq!((refused.len(), refused[8]), (16, 0));
    let taken = c.contact(0x5_0003, 0);
    assert_eq!(
        (taken.len(), taken[8], u32_at(&taken, 12)),
        (16, 1, 0x80_0074)
    );
    assert_eq!(c.contact(0x5_0009, 0)[8], 0);

    let mut c = Client::new(MachineConfig::default());
    let taken = c.contact(0x6_0000, 0x13);
    assert_eq!((taken.len(), taken[8], u32_at(&taken, 16)), (20, 1, 3));
}

#[test]
fn faults_drop_alter_and_repeat() {
    let mut c = Client::new(MachineConfig::default());
    c.host.faults = Faults::from_word("never-answer-version").unwrap();
    c.post(&{
        let mut m = words(&[14, 0, 0x6_0000, 0, 2, 3]);
        m.resize(40, 0);
        m
    });
    assert!(c.messages().is_empty());
    assert!(Faults::from_word("no-such-fault").is_none());
    c.host.faults = Faults::default();
    c.host.faults.set_hook(|m| {
        if m.layer == Layer::Control {
            m.bytes[8] = 7;
            m.copies = 2;
        }
    });
    let mut m = words(&[14, 0, 0x6_0000, 0, 2, 3]);
    m.resize(40, 0);
    c.post(&m);
    let answers = c.messages();
    assert_eq!((answers.len(), answers[0][8], answers[1][8]), (2, 7, 7));
}

#[test]
fn oids_answer_what_a_driver_asks() {
    let (mut c, _) = Client::up(MachineConfig::default(), quiet());
    assert_eq!(c.query(0x0101_0101), (0, c.host.backend.mac().to_vec()));
    assert_eq!(c.query(0x0001_0106), (0, 1500u32.to_le_bytes().to_vec()));
    assert_eq!(c.query(0x0001_0114), (0, vec![0; 4]));
    assert_eq!(c.query(0xFC01_020D).1.len(), 156);
    assert_eq!(c.query(0x1234_5678), (0xC000_00BB, vec![]));
    // SET of offload parameters is followed by an indication.
    let mut set = words(&[5, 56, 3, 0xFC01_020C, 28, 20, 0]);
    set.extend([0x80, 3, 28, 0]);
    set.resize(56, 0);
    assert_eq!(u32_at(&c.control(&set), 0), 0x8000_0005);
    let got = c.receive().unwrap();
    let indicate = c.ranges(&got).remove(0);
    assert_eq!(
        (
            u32_at(&indicate, 0),
            u32_at(&indicate, 8),
            u32_at(&indicate, 16)
        ),
        (7, 0x4002_0006, 12)
    );
    c.done(got.transaction);
    assert_eq!(u32_at(&c.control(&words(&[8, 12, 4])), 0), 0x8000_0008);
}

#[test]
fn link_change_is_indicated() {
    let (mut c, _) = Client::up(MachineConfig::default(), quiet());
    for (up, status) in [(false, 0x4001_000C), (true, 0x4001_000B)] {
        c.host.backend.link_up = up;
        c.poll();
        let got = c.receive().unwrap();
        let m = c.ranges(&got).remove(0);
        assert_eq!((m.len(), u32_at(&m, 0), u32_at(&m, 8)), (20, 7, status));
        c.done(got.transaction);
    }
}

#[test]
fn many_frames_come_in_batches_and_wait_for_slots() {
    let (mut c, _) = Client::up(MachineConfig::default(), quiet());
    let frame = |i: u32| {
        let mut f = vec![0xEE; 60 + (i as usize * 7) % 1400];
        f[..4].copy_from_slice(&i.to_le_bytes());
        f
    };
    c.host.backend.to_guest.extend((0..1000).map(frame));
    let mut next = 0;
    while next < 1000 {
        c.poll();
        let mut held = Vec::new();
        while let Some(got) = c.receive() {
            for m in c.ranges(&got) {
                assert_eq!(&m[256..], frame(next));
                next += 1;
            }
            held.push(got.transaction);
        }
        assert!(!held.is_empty(), "stuck at {next}");
        for t in held {
            c.done(t);
        }
    }
    assert_eq!(c.host.nic.state().slots_in_flight, 0);
}

#[test]
fn gpa_direct_and_several_frames_in_one_buffer() {
    let (mut c, _) = Client::up(MachineConfig::default(), quiet());
    let (a, b) = (vec![1u8; 100], vec![2u8; 64]);
    let mut both = rndis_packet(&a);
    both.extend(rndis_packet(&b));
    assert_eq!(c.rndis_send(0, &both), 1);
    // The same over a page boundary, by pages.
    let at = 0x9_0000 + 4096 - 30;
    c.mem.write(at, &both).unwrap();
    let mut extended = words(&[0, 1, both.len() as u32, 4096 - 30]);
    extended.extend(0x90u64.to_le_bytes());
    extended.extend(0x91u64.to_le_bytes());
    c.transaction += 1;
    let mut nvsp = words(&[107, 0, u32::MAX, 0]);
    nvsp.resize(40, 0);
    c.send(&packet(
        PacketType::GPA_DIRECT,
        1,
        c.transaction,
        &extended,
        &nvsp,
    ));
    assert_eq!(c.receive().unwrap().kind, 11);
    let sent: Vec<_> = c.host.backend.from_guest.drain(..).collect();
    assert_eq!(sent, [a.clone(), b.clone(), a, b]);
    assert_eq!(
        (
            c.host.nic.counters().tx_sections > 0,
            c.host.nic.counters().tx_direct
        ),
        (true, 1)
    );
}

/// Linux `netvsc_send` with `cp_partial`: a section holds a whole message and the
/// header of a second one, whose frame the packet names by its pages.
#[test]
fn frame_whose_header_ends_a_section_goes_on_in_pages() {
    let (mut c, _) = Client::up(MachineConfig::default(), quiet());
    let (a, b) = (vec![1u8; 100], vec![2u8; 64]);
    let mut first = rndis_packet(&a);
    let second = rndis_packet(&b);
    let (head, frame) = second.split_at(second.len() - b.len());
    first.extend(head);
    c.mem.write(SEND, &first).unwrap();
    c.mem.write(0x9_0010, frame).unwrap();
    let mut extended = words(&[0, 1, frame.len() as u32, 0x10]);
    extended.extend(0x90u64.to_le_bytes());
    c.transaction += 1;
    let mut nvsp = words(&[107, 0, 0, first.len() as u32]);
    nvsp.resize(40, 0);
    let kind = PacketType::GPA_DIRECT;
    c.send(&packet(kind, 1, c.transaction, &extended, &nvsp));
    assert_eq!(c.receive().unwrap().kind, 11);
    let sent: Vec<_> = c.host.backend.from_guest.drain(..).collect();
    assert_eq!(sent, [a, b]);
    assert_eq!(c.host.nic.counters().tx_mixed, 1);
    assert_eq!(c.host.nic.error(), None);
}

#[test]
fn buffers_come_back_only_after_the_device_let_go() {
    let (mut c, relid) = Client::up(MachineConfig::default(), quiet());
    c.post(&words(&[11, 0, relid, 1]));
    assert!(c.messages().is_empty(), "ring still in use");
    c.nvsp(&words(&[103, 0xCAFE]));
    let torn = c.ask(&words(&[11, 0, relid, 2]), 12);
    assert_eq!(u32_at(&torn, 8), 2);
    c.post(&words(&[7, 0, relid]));
    assert_eq!(u32_at(&c.messages()[0], 8), 1);
    c.ask(&words(&[11, 0, relid, 3]), 12);
    // From here on the host has no reason to touch any of these pages.
    for page in (RING..RECEIVE + RECEIVE_PAGES * 4096).step_by(4096) {
        c.mem.set_private(page, true);
    }
    c.host.backend.to_guest.push_back(vec![0; 60]);
    c.poll();
    assert_eq!(c.mem.refused(), 0);
    assert!(c.host.server.counters().errors.is_empty());
}

#[test]
fn rescind_and_a_new_offer() {
    let (mut c, relid) = Client::up(MachineConfig::default(), quiet());
    c.host.rescind_nic();
    assert_eq!(c.messages(), [words(&[2, 0, relid])]);
    c.post(&words(&[7, 0, relid]));
    for gpadl in 1..=3 {
        c.ask(&words(&[11, 0, relid, gpadl]), 12);
    }
    c.post(&words(&[13, 0, relid]));
    assert!(c.messages().is_empty());
    let fresh = c.host.offer_nic();
    assert_ne!(fresh, relid);
    let offer = c.message().unwrap();
    assert_eq!((u32_at(&offer, 0), u32_at(&offer, 184)), (1, fresh));
    c.open_channel(fresh, 0, true);
    c.buffers(fresh);
    c.rndis();
    assert!(
        c.host.server.counters().errors.is_empty(),
        "{:?}",
        c.host.server.counters().errors
    );
}

#[test]
fn unload_and_a_second_life() {
    let (mut c, relid) = Client::up(MachineConfig::default(), quiet());
    c.ask(&words(&[16, 0]), 17);
    assert_eq!(c.host.server.version(), None);
    assert!(!c.host.nic.state().open);
    assert_eq!(c.open(0x6_0000, 3), relid);
    c.buffers(relid);
    c.rndis();
}

#[test]
fn modify_channel_moves_or_refuses() {
    let (mut c, relid) = Client::up(MachineConfig::default(), quiet());
    assert_eq!(u32_at(&c.ask(&words(&[22, 0, relid, 0]), 24), 12), 0);
    assert_ne!(u32_at(&c.ask(&words(&[22, 0, relid, 5]), 24), 12), 0);
}

#[test]
fn guest_errors_stop_the_channel_with_a_name() {
    type Breakage = fn(&mut Client);
    let cases: [(&str, Breakage); 9] = [
        ("nvsp-type", |c| c.nvsp_send(&words(&[999]))),
        ("init-twice", |c| {
            c.nvsp_send(&words(&[1, 0x6_0001, 0x6_0001]))
        }),
        ("packet-type", |c| {
            c.send(&packet(PacketType(3), 0, 1, &[], &[0; 8]))
        }),
        ("completion-unknown", |c| c.done(12345)),
        ("send-section", |c| c.nvsp_send(&words(&[107, 0, 5000, 60]))),
        ("rndis-length", |c| {
            c.mem.write(SEND, &words(&[1, 4000, 36, 60])).unwrap();
            c.nvsp_send(&words(&[107, 0, 0, 60]));
        }),
        ("lso-not-enabled", |c| {
            let mut m = words(&[
                1,
                64 + 60,
                56,
                60,
                0,
                0,
                0,
                36,
                20,
                0,
                0,
                20,
                2,
                12,
                0x4000_0100,
                0,
            ]);
            m.extend([0; 60]);
            c.mem.write(SEND, &m).unwrap();
            c.nvsp_send(&words(&[107, 0, 0, m.len() as u32]));
        }),
        // The second message starts where the host did not say.
        ("rndis-alignment", |c| {
            let mut m = [rndis_packet(&[1; 101]), rndis_packet(&[2; 64])].concat();
            m.resize(m.len().next_multiple_of(8), 0);
            c.mem.write(SEND, &m).unwrap();
            c.nvsp_send(&words(&[107, 0, 0, m.len() as u32]));
        }),
        ("control-type", |c| {
            c.mem.write(SEND, &words(&[6, 12, 0])).unwrap();
            c.nvsp_send(&words(&[107, 1, 0, 12]));
        }),
    ];
    for (name, breakage) in cases {
        let (mut c, _) = Client::up(MachineConfig::default(), quiet());
        breakage(&mut c);
        assert_eq!(c.host.nic.error(), Some(NicError::Protocol(name)));
        c.signal();
        c.poll();
    }
}

#[test]
fn bad_control_messages_are_counted_not_followed() {
    let mut c = Client::new(MachineConfig::default());
    c.post(&words(&[3, 0]));
    c.contact(0x6_0000, 3);
    for m in [
        words(&[3]),
        words(&[99, 0]),
        words(&[15, 0, 0, 0]),
        words(&[27, 0]),
        words(&[5, 0, 1]),
        words(&[7, 0, 77]),
        words(&[9, 0, 1, 5, 0, 0]),
        words(&[11, 0, 1, 5]),
        words(&[13, 0, 40]),
    ] {
        c.post(&m);
    }
    assert!(c.messages().is_empty());
    let errors = c.host.server.counters().errors;
    assert_eq!(errors["not-connected"], 1);
    assert_eq!(errors.values().sum::<u64>(), 10, "{errors:?}");
}

#[test]
fn gpadls_are_judged_as_openvmm_does() {
    let mut c = Client::new(MachineConfig::default());
    c.contact(0x6_0000, 3);
    c.post(&words(&[3, 0]));
    c.messages();
    let created = |c: &mut Client, m: &[u8]| u32_at(&c.ask(m, 10), 16);
    // Empty range, offset beyond a page, too few frames, no ranges.
    for (length, count, range) in [
        (16, 1, [0, 0]),
        (16, 1, [4096, 5000]),
        (16, 1, [8192, 0]),
        (16, 0, [4096, 0]),
    ] {
        let mut m = words(&[8, 0, 1, 7, length | count << 16, range[0], range[1]]);
        m.extend(9u64.to_le_bytes());
        assert_ne!(created(&mut c, &m), 0);
    }
    let mut good = words(&[8, 0, 1, 7, 16 | 1 << 16, 4096, 0]);
    good.extend(9u64.to_le_bytes());
    assert_eq!(created(&mut c, &good), 0);
    assert_ne!(created(&mut c, &good), 0, "same id again");
    assert_eq!(u32_at(&c.gpadl(1, 8, 0, 200), 16), 0);
    assert_eq!(c.host.server.counters().gpadl_pages, 201);
}

#[test]
fn fuzzed_guest_bytes_never_panic() {
    let mut seed = 7u64;
    let mut rand = move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as u32
    };
    for round in 0..300 {
        let (mut c, relid) = Client::up(MachineConfig::default(), quiet());
        for _ in 0..20 {
            let mut m: Vec<u8> = (0..rand() % 240).map(|_| rand() as u8).collect();
            if m.len() > 12 {
                m[..4].copy_from_slice(&(rand() % 30).to_le_bytes());
                if rand() % 2 == 0 {
                    m[8..12].copy_from_slice(&relid.to_le_bytes());
                }
            }
            if m.first() != Some(&14) {
                c.post(&m);
            }
            c.messages();
        }
        let mut body: Vec<u8> = (0..8 * (rand() % 20)).map(|_| rand() as u8).collect();
        if body.len() >= 8 && round % 2 == 0 {
            body[..4].copy_from_slice(&[107, 0, 0, 0]);
            body[4..8].copy_from_slice(&(rand() % 2).to_le_bytes());
        }
        let rndis: Vec<u8> = (0..64)
            .map(|i| if i % 4 == 0 { (rand() % 64) as u8 } else { 0 })
            .collect();
        c.mem.write(SEND, &rndis).unwrap();
        if c.host.server.is_open(relid) {
            let kind = [6, 9, 11, 7][rand() as usize % 4];
            let split = body.len().min(8 * (rand() as usize % 4));
            let (extended, payload) = body.split_at(split);
            c.send(&packet(
                PacketType(kind),
                rand() as u16 % 3,
                5,
                extended,
                payload,
            ));
        }
    }
}

#[test]
fn scripted_peer_answers_arp_and_ping() {
    let mut s = Scripted::default();
    let mut arp = vec![0xff; 6];
    arp.extend([
        2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15,
    ]);
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    s.send(&arp);
    let mut answer = Vec::new();
    assert!(s.receive(&mut answer));
    assert_eq!(
        (&answer[..6], answer[21], &answer[28..32]),
        (&[2, 0, 0, 0, 0, 1][..], 2, &[10, 0, 2, 2][..])
    );
    assert!(!s.receive(&mut answer));
}
