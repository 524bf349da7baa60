//! Sub-channels of the NIC against a client by hand.
mod common;

use common::*;
use undercroft_hostkit::MachineConfig;
use undercroft_hostkit::backend::Loopback;
use undercroft_hostkit::netvsp::NicError;

/// Where the rings of sub-channel `index` are.
fn place(index: u64) -> u64 {
    0xA0_000 + index * 2 * HALF * 0x1000
}

fn quiet() -> Loopback {
    Loopback {
        echo: false,
        ..Default::default()
    }
}

fn config(most: u16) -> MachineConfig {
    let mut config = MachineConfig::default();
    config.nic.max_sub_channels = most;
    config.partition.vp_count = 4;
    config
}

/// Asks for sub-channels: what was granted, and the offers that came.
fn ask(c: &mut Client, count: u32) -> (u32, u32, Vec<Vec<u8>>) {
    let answer = c.nvsp(&words(&[133, 1, count]));
    assert_eq!(u32_at(&answer, 0), 133);
    (u32_at(&answer, 4), u32_at(&answer, 8), c.messages())
}

/// Opens what is offered; the client goes on with the primary.
fn open(c: &mut Client, offer: &[u8]) -> (u32, Wires) {
    let (relid, index) = (u32_at(offer, 184), u64::from(u16_at(offer, 180)));
    let mut wires = Wires {
        ring: place(index),
        ..Default::default()
    };
    c.change(&mut wires);
    c.open_channel(relid, u32_at(offer, 192), true);
    c.change(&mut wires);
    (relid, wires)
}

/// SET of the receive scale parameters: key of all ones, this table.
fn scale(c: &mut Client, table: &[u32]) -> u32 {
    let bytes = 4 * table.len() as u32;
    let length = 40 + bytes + 40;
    let mut m = words(&[5, 28 + length, 3, 0x0001_0204, length, 20, 0]);
    m.extend(words(&[
        0x0028_0289,
        0,
        0x301,
        bytes,
        40,
        40,
        40 + bytes,
        0,
        0,
        0,
    ]));
    m.extend(words(table));
    m.extend([0x5A; 40]);
    u32_at(&c.control(&m), 12)
}

fn tcp(port: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 2, 2, 10, 0, 2, 15]);
    frame.extend(port.to_be_bytes());
    frame.resize(60, 0);
    frame
}

#[test]
fn granted_offered_opened_and_steered() {
    let (mut c, _) = Client::up(config(7), quiet());
    let (status, count, offers) = ask(&mut c, 3);
    assert_eq!((status, count, offers.len()), (1, 3, 3));
    let (_, value) = c.query(0x0001_0203);
    assert_eq!((value[0], u32_at(&value, 12), value.len()), (0x88, 8, 18));
    for (index, offer) in offers.iter().enumerate() {
        assert_eq!(usize::from(u16_at(offer, 180)), index + 1);
        let (interface, instance) = (&offer[8..24], &offer[24..40]);
        assert_eq!(interface, abi::vmbus::class::NIC.0);
        assert_eq!(instance, config(7).nic.instance.0);
    }
    let mut subs: Vec<Wires> = offers.iter().map(|o| open(&mut c, o).1).collect();
    assert_eq!(c.host.nic.state().sub_channels, 3);
    // With the last of them the table for the guest's frames comes.
    let table = c.receive().expect("table").payload;
    assert_eq!(
        (u32_at(&table, 0), u32_at(&table, 4), u32_at(&table, 8)),
        (134, 16, 12)
    );
    let entries: Vec<u32> = (0..16).map(|i| u32_at(&table, 12 + 4 * i)).collect();
    assert_eq!(entries, [0, 1, 2, 3].repeat(4));

    // Until the guest has said how, all frames come on the primary.
    c.host.backend.to_guest.push_back(tcp(1));
    c.poll();
    let got = c.receive().unwrap();
    c.done(got.transaction);
    assert_eq!(scale(&mut c, &[0, 1, 2, 4]), 0xC001_0015, "no channel 4");
    assert_eq!(scale(&mut c, &[0, 1, 2, 3]), 0);
    c.host.backend.to_guest.extend((0..100).map(tcp));
    c.poll();
    let mut on = [0; 4];
    let mut take = |c: &mut Client, index: usize| {
        while let Some(got) = c.receive() {
            on[index] += c.ranges(&got).len();
            c.done(got.transaction);
        }
    };
    for _ in 0..50 {
        take(&mut c, 0);
        for (index, sub) in (1..).zip(&mut subs) {
            c.change(sub);
            c.event();
            take(&mut c, index);
            c.change(sub);
        }
    }
    assert_eq!(on.iter().sum::<usize>(), 100);
    assert!(on.iter().all(|count| *count > 10), "{on:?}");
    // And a frame the other way.
    c.change(&mut subs[1]);
    assert_eq!(c.rndis_send(0, &rndis_packet(&tcp(9))), 1);
    c.change(&mut subs[1]);
    assert_eq!(c.host.backend.from_guest.pop_front(), Some(tcp(9)));
    assert_eq!(c.host.nic.counters().channel_tx.get(&2), Some(&1));
    let counters = c.host.nic.counters();
    assert_eq!((counters.messages_tx, counters.segments), (1, 0));
    assert_eq!(c.host.nic.state().slots_in_flight, 0);
    assert_eq!(c.host.nic.error(), None);
}

#[test]
fn no_more_than_there_are_and_only_once() {
    let (mut c, _) = Client::up(config(2), quiet());
    let (status, count, offers) = ask(&mut c, 63);
    assert_eq!((status, count, offers.len()), (1, 2, 2));
    let (status, count, offers) = ask(&mut c, 1);
    assert_eq!((status, count, offers.len()), (2, 0, 0));
    let (mut c, _) = Client::up(config(0), quiet());
    assert_eq!(ask(&mut c, 1).0, 2);
    assert_eq!(c.query(0x0001_0203).0, 0xC000_00BB);
}

#[test]
fn sub_channels_go_with_the_primary() {
    let (mut c, relid) = Client::up(config(7), quiet());
    let offers = ask(&mut c, 2).2;
    let subs: Vec<u32> = offers.iter().map(|o| open(&mut c, o).0).collect();
    let rescinded = |messages: &[Vec<u8>]| -> Vec<u32> {
        let rescinds = messages.iter().filter(|m| u32_at(m, 0) == 2);
        rescinds.map(|m| u32_at(m, 8)).collect()
    };
    // One alone.
    c.host.rescind(subs[0]);
    assert_eq!(rescinded(&c.messages()), subs[..1]);
    assert_eq!(c.host.nic.state().sub_channels, 1);
    assert!(c.host.nic.state().open);
    // The primary is closed by the guest.
    c.post(&words(&[7, 0, relid]));
    assert_eq!(rescinded(&c.messages()), subs[1..]);
    assert!(!c.host.nic.state().open);
    assert!(c.host.subs.is_empty());
}

#[test]
fn every_frame_for_the_guest_is_given_or_counted() {
    let (mut c, relid) = Client::up(config(7), quiet());
    for offer in ask(&mut c, 2).2 {
        open(&mut c, &offer);
    }
    let table = c.receive().expect("table");
    assert_eq!(u32_at(&table.payload, 0), 134);
    assert_eq!(scale(&mut c, &[1, 2]), 0);
    // The guest takes none of them: slots run out, then the room to wait.
    c.host.backend.to_guest.extend((0..20_000).map(tcp));
    for _ in 0..100 {
        c.poll();
    }
    let waiting = c.host.nic.frames_waiting() as u64;
    let accounts = |c: &Client| {
        let counters = c.host.nic.counters();
        let given: u64 = counters.channel_rx.values().sum();
        let dropped: u64 = counters.dropped.values().sum();
        (counters.frames_rx, given, dropped)
    };
    let (taken, given, dropped) = accounts(&c);
    assert!(waiting > 0 && given > 0, "{waiting} {given}");
    assert_eq!(taken, given + waiting + dropped);
    // They are lost with their channels.
    c.post(&words(&[7, 0, relid]));
    assert_eq!(c.host.nic.frames_waiting(), 0);
    assert_eq!(accounts(&c), (taken, given, dropped + waiting));
}

#[test]
fn the_host_takes_its_nic_back() {
    let (mut c, relid) = Client::up(config(7), quiet());
    let offers = ask(&mut c, 2).2;
    let sub = open(&mut c, &offers[0]).0;
    c.host.rescind_nic();
    let messages = c.messages();
    let rescinds: Vec<u32> = messages.iter().map(|m| u32_at(m, 8)).collect();
    assert_eq!(rescinds, [sub, sub + 1, relid]);
}

#[test]
fn a_sub_channel_carries_frames_only() {
    for (message, name) in [
        (words(&[101, 2, 0xCAFE]), "nvsp-on-sub-channel"),
        (words(&[107, 1, 0, 28]), "control-on-sub-channel"),
    ] {
        let (mut c, _) = Client::up(config(7), quiet());
        let offers = ask(&mut c, 1).2;
        let (_, mut sub) = open(&mut c, &offers[0]);
        c.change(&mut sub);
        c.nvsp_send(&message);
        assert_eq!(c.host.nic.error(), Some(NicError::Protocol(name)));
    }
}

#[test]
fn a_completion_belongs_to_its_channel() {
    let (mut c, _) = Client::up(config(7), quiet());
    let offers = ask(&mut c, 1).2;
    let (_, mut sub) = open(&mut c, &offers[0]);
    c.receive().expect("table");
    c.host.backend.to_guest.push_back(tcp(1));
    c.poll();
    let got = c.receive().unwrap();
    c.change(&mut sub);
    c.done(got.transaction);
    let error = Some(NicError::Protocol("completion-unknown"));
    assert_eq!(c.host.nic.error(), error);
}

#[test]
fn interrupts_go_where_the_guest_wants_them() {
    let (mut c, relid) = Client::up(config(7), quiet());
    assert_eq!(c.host.server.target_vp(relid), Some(0));
    let answer = c.ask(&words(&[22, 0, relid, 3]), 24);
    assert_eq!((u32_at(&answer, 8), u32_at(&answer, 12)), (relid, 0));
    assert_eq!(c.host.server.target_vp(relid), Some(3));
    let answer = c.ask(&words(&[22, 0, relid, 4]), 24);
    assert_ne!(u32_at(&answer, 12), 0);
    assert_eq!(c.host.server.target_vp(relid), Some(3));
}
