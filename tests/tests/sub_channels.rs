//! A card with sub-channels, all on one thread: VMBus client, NIC and lanes on one
//! side, the fake host on the other. Every channel has its VP, its rings, its lane.

#[path = "sub_channels/many.rs"]
mod many;

use hostkit::MachineConfig;
use hostkit::fault::Layer as FaultLayer;
use hostkit::trace::{Recorder, VecSink};
use many::Many;
use undercroft::audit::{self, Audit, Options, Way};
use validate::Rule;
use validate::frame::{HashKind, HashKinds, HashRequest};
use vmbus::Event;
use vmbus::affinity::target_vp;

/// Records what the host does from now on.
fn recorded(many: &mut Many) -> VecSink {
    let sink = VecSink::default();
    many.host
        .record(Recorder::new(Box::new(sink.clone()), "test", 0));
    sink
}

/// Who judges the record afterwards names the rules that were named live.
fn audited(many: &mut Many, sink: &VecSink) -> Audit {
    many.host.end_recording();
    let options = Options {
        frames: true,
        enforce_all: true,
        ..Options::default()
    };
    let audit = audit::audit(&sink.bytes(), options);
    let replayed: Vec<_> = audit
        .violations
        .iter()
        .map(|(rule, times)| (*rule, *times as u32))
        .collect();
    let live = many.violations();
    let live: Vec<_> = live.iter().map(|(rule, n)| (rule.id(), *n)).collect();
    assert_eq!(replayed, live, "{}", audit::text(&audit));
    audit
}

fn config(vps: u32) -> MachineConfig {
    let mut config = MachineConfig::default();
    config.partition.vp_count = vps;
    config
}

/// Frames there and back again over all channels; how many came on each.
fn traffic(many: &mut Many, lanes: usize, frames: u16) -> Vec<usize> {
    let mut sent = 0;
    let mut turns = 0;
    while sent < frames || many.received() < usize::from(frames) {
        // As many as fit, on each channel in turn.
        for lane in 0..lanes {
            if sent < frames && many.transmit(lane, sent) {
                sent += 1;
            }
        }
        many.turn();
        turns += 1;
        assert!(turns < 5000, "{sent} sent, {} back", many.received());
    }
    let counts = many.take_frames(frames);
    assert_eq!(counts.iter().sum::<usize>(), usize::from(frames));
    counts
}

#[test]
fn frames_on_1_4_16_and_64_channels() {
    for (channels, vps, frames) in [(1, 1, 50), (4, 4, 400), (16, 4, 800), (64, 64, 1500)] {
        let mut many = Many::new(config(vps), channels - 1);
        many.bring_up();
        assert_eq!(many.lanes().len() + 1, usize::from(channels));
        let counts = traffic(&mut many, channels.into(), frames);
        let host = many.host.nic.counters();
        for index in 0..channels {
            // The host has steered as it was told, and each has carried its part.
            let steered = host.channel_rx.get(&index).copied().unwrap_or(0);
            assert_eq!(counts[usize::from(index)] as u64, steered, "{index}");
            assert!(steered > 0, "{index} of {channels}");
            let sent = host.channel_tx.get(&index).copied().unwrap_or(0);
            assert!(sent > 0, "{index} of {channels}");
        }
        // Each on its VP.
        let online = (0..vps).fold(0u64, |mask, vp| mask | 1 << vp);
        for (index, channel) in many.channels() {
            let wanted = target_vp(index, online);
            assert_eq!(many.client.target_vp(channel), Some(wanted));
            assert_eq!(many.host.server.target_vp(many.relid(index)), Some(wanted));
        }
        assert_eq!(many.host.nic.error(), None);
        assert_eq!(many.violations(), []);
        // The owner closes the card: all memory comes back.
        many.close();
        assert_eq!(many.memory(), (usize::from(channels) + 2, 0));
        assert_eq!(many.violations(), []);
        assert_eq!(many.refused(), 0);
    }
}

/// The hash is the one that the host puts a frame on its channel by: the entry of the
/// table that it names is that channel.
#[test]
fn the_guests_hash_comes_on_all_channels() {
    let asked = |kinds: &[HashKind], byte: u8| HashRequest {
        kinds: HashKinds::of(|kind| kinds.contains(&kind)),
        key: core::array::from_fn(|n| (n as u8).wrapping_mul(37) ^ byte),
    };
    for (channels, vps) in [(1_u16, 1), (4, 4)] {
        let mut many = Many::new(config(vps), channels - 1);
        let sink = recorded(&mut many);
        many.bring_up();
        traffic(&mut many, channels.into(), 200);
        assert!(many.hashes.iter().all(|(_, hash)| hash.is_none()));
        let mut last = Vec::new();
        for (kind, byte) in [
            (HashKind::TcpIpv4, 1),
            (HashKind::TcpIpv4, 2),
            (HashKind::Ipv4, 3),
        ] {
            many.ask_hash(Some(asked(&[kind, HashKind::UdpIpv4], byte)));
            traffic(&mut many, channels.into(), 200);
            assert_eq!(many.hashes.len(), 200);
            let mut values = Vec::new();
            for (index, hash) in many.hashes.drain(..) {
                let hash = hash.unwrap();
                assert_eq!(hash.kind, kind);
                let entry = (hash.value % 128 % u32::from(channels)) as u16;
                assert_eq!(entry, index, "{:#x}", hash.value);
                values.push(hash.value);
            }
            values.sort_unstable();
            values.dedup();
            // By ports they differ, by addresses not; and by the key in any case.
            assert!((values.len() > 150) == (kind == HashKind::TcpIpv4));
            assert_ne!(values, last);
            last = values;
        }
        // Of another kind, and none at all.
        for asked in [Some(asked(&[HashKind::Ipv6], 4)), None] {
            many.ask_hash(asked);
            traffic(&mut many, channels.into(), 50);
            assert_eq!(many.hashes.len(), 50);
            assert!(many.hashes.iter().all(|(_, hash)| hash.is_none()));
        }
        assert_eq!(many.host.nic.error(), None);
        assert_eq!(many.violations(), []);
        audited(&mut many, &sink);
    }
}

#[test]
fn a_card_that_is_taken_back_and_comes_again() {
    let mut many = Many::new(config(4), 3);
    many.bring_up();
    traffic(&mut many, 4, 100);
    for round in 1..=3 {
        many.host.rescind_nic();
        many.turns(30);
        assert_eq!(many.memory(), (6 * round, 0));
        assert_eq!(many.lanes().len(), 0);
        many.host.offer_nic();
        many.settle();
        assert_eq!(many.lanes().len(), 3, "{:?}", many.events);
        traffic(&mut many, 4, 100);
    }
    assert_eq!(many.violations(), []);
    assert_eq!(many.refused(), 0);
}

/// One sub-channel goes; its frames come on the others.
#[test]
fn a_sub_channel_that_is_taken_back() {
    let mut many = Many::new(config(4), 3);
    many.bring_up();
    traffic(&mut many, 4, 100);
    let relid = many.relid(2);
    many.host.rescind(relid);
    many.turns(30);
    assert_eq!(many.lanes(), [1, 3]);
    assert_eq!(many.memory(), (1, 0));
    let counts = traffic(&mut many, 2, 200);
    assert_eq!(counts[2], 0);
    assert!(
        [0, 1, 3].iter().all(|index| counts[*index] > 10),
        "{counts:?}"
    );
    assert_eq!(many.violations(), []);
    many.close();
    assert_eq!(many.memory(), (6, 0));
}

/// The host takes its card back by the primary alone.
#[test]
fn ctl_41_the_primary_is_taken_back_alone() {
    let mut many = Many::new(config(4), 3);
    many.bring_up();
    let relid = many.relid(0);
    // The host's own rescinds of the sub-channels are lost on the way.
    many.host.faults.set_hook(move |m| {
        let rescind = m.layer == FaultLayer::Control && m.bytes[0] == 2;
        if rescind && m.bytes[8..12] != relid.to_le_bytes() {
            m.copies = 0;
        }
    });
    many.host.rescind_nic();
    many.turns(40);
    assert_eq!(many.memory(), (6, 0), "CTL-41: {:?}", many.events);
    let rescinded: Vec<_> = many
        .events
        .iter()
        .filter(|e| matches!(e, Event::Rescinded { .. }))
        .collect();
    assert_eq!(rescinded.len(), 4);
    assert_eq!(many.violations(), []);
    assert_eq!(many.refused(), 0);
}

/// 7 are granted and 3 come.
#[test]
fn nvs_39_fewer_come_than_were_granted() {
    let mut many = Many::new(config(4), 7);
    let mut seen = 0;
    many.host.faults.set_hook(move |m| {
        let offer = m.layer == FaultLayer::Control && m.bytes[0] == 1;
        if offer && m.bytes[180] != 0 {
            seen += 1;
            m.copies = u32::from(seen % 2 == 1 && seen < 7);
        }
    });
    many.bring_up();
    assert_eq!(many.lanes(), [1, 3, 5], "NVS-39");
    let counts = traffic(&mut many, 4, 300);
    assert!(
        [0, 1, 3, 5].iter().all(|index| counts[*index] > 10),
        "{counts:?}"
    );
    assert_eq!(many.violations(), []);
    many.close();
    assert_eq!(many.memory(), (6, 0));
}

/// Asked for, granted, used, moved, taken back and asked for again: who reads the record
/// finds nothing wrong, and every frame.
#[test]
fn a_record_of_sub_channels_is_judged_as_they_were() {
    let mut many = Many::new(config(4), 3);
    let sink = recorded(&mut many);
    many.bring_up();
    let counts = traffic(&mut many, 4, 200);
    assert!(counts[..4].iter().all(|count| *count > 10), "{counts:?}");
    many.host.rescind_nic();
    many.turns(30);
    many.host.offer_nic();
    many.settle();
    traffic(&mut many, 4, 100);
    many.close();
    let audit = audited(&mut many, &sink);
    assert!(audit.is_clean(), "{}", audit::text(&audit));
    for way in [Way::Out, Way::In] {
        let frames = audit.frames.iter().filter(|frame| frame.way == way);
        assert_eq!(frames.count(), 300, "{way:?}");
    }
}

/// Two of three are not opened.
#[test]
fn ctl_48_sub_channels_that_are_refused() {
    let mut many = Many::new(config(4), 3);
    many.refuse_subs = 2;
    many.bring_up();
    assert_eq!(many.lanes().len(), 1);
    assert_eq!(many.memory(), (2, 0));
    traffic(&mut many, 2, 100);
    assert_eq!(many.violations(), [(Rule::CTL_48, 2)]);
    many.close();
    assert_eq!(many.memory(), (6, 0));
}

/// Offers that nobody asked for: without a request, twice, beyond the grant, and of
/// a card that is gone.
#[test]
fn ctl_25_ctl_26_ctl_27_sub_channels_that_nobody_asked_for() {
    let mut alone = Many::new(config(1), 0);
    let sink = recorded(&mut alone);
    alone.bring_up();
    alone.host.offer_sub(1);
    alone.turns(5);
    assert_eq!(alone.violations(), [(Rule::CTL_27, 1)]);
    assert_eq!(alone.lanes().len(), 0);
    alone.host.rescind_nic();
    alone.host.offer_sub(1);
    alone.turns(30);
    assert_eq!(alone.violations(), [(Rule::CTL_25, 1), (Rule::CTL_27, 1)]);
    audited(&mut alone, &sink);

    let mut many = Many::new(config(4), 3);
    let sink = recorded(&mut many);
    let mut offers = 0;
    many.host.faults.set_hook(move |m| {
        if m.layer == FaultLayer::Control && m.bytes[0] == 1 && m.bytes[180] != 0 {
            offers += 1;
            match offers {
                // The second is the first once more, the third one too many.
                2 => m.bytes[180] = 1,
                3 => m.bytes[180] = 4,
                _ => {}
            }
        }
    });
    many.bring_up();
    assert_eq!(many.violations(), [(Rule::CTL_26, 2)]);
    assert_eq!(many.lanes(), [1]);
    traffic(&mut many, 2, 100);
    audited(&mut many, &sink);
}

/// A VP goes: the channels that were its are another's.
#[test]
fn channels_move_to_other_processors() {
    let mut many = Many::new(config(4), 3);
    many.bring_up();
    many.move_all(0b1011);
    many.turns(10);
    for (index, channel) in many.channels() {
        let wanted = target_vp(index, 0b1011);
        assert_eq!(many.client.target_vp(channel), Some(wanted));
        assert_eq!(many.host.server.target_vp(many.relid(index)), Some(wanted));
    }
    traffic(&mut many, 4, 200);
    assert_eq!(many.flags_on(2), 0, "nothing comes on a VP that is gone");
    assert_eq!(many.violations(), []);
}
