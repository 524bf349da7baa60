//! Sub-channels: asked for, taken, and gone before their primary.

use super::*;

fn sub(relid: u32, index: u16) -> OfferChannel {
    let mut offer = offer(relid, NIC);
    offer.sub_channel_index = index.into();
    offer
}

impl Run {
    /// An open primary at relid 7, sealed, that expects `count` sub-channels.
    fn expecting(count: u16) -> (Run, ChannelId, GpadlId) {
        let (mut run, primary, gpadl) = Run::open();
        run.tell(&words(4, &[]));
        assert_eq!(run.event(), Event::OffersDelivered);
        let now = run.now;
        run.client.expect_sub_channels(primary, count, now).unwrap();
        (run, primary, gpadl)
    }

    /// Sub-channel `index` comes at relid 7 + index.
    fn sub(&mut self, index: u16) -> ChannelId {
        self.tell(sub(7 + u32::from(index), index).as_bytes());
        let Event::SubChannel {
            channel, index: i, ..
        } = self.event()
        else {
            panic!()
        };
        assert_eq!(i, index);
        channel
    }

    /// Opens what is at `relid`.
    fn open_sub(&mut self, channel: ChannelId, relid: u32, vp: u32) -> GpadlId {
        let (gpadl, open) = self.opening(channel, 64 + 4 * u64::from(relid), vp);
        assert_eq!((word(&open, 8), word(&open, 20)), (relid, vp));
        self.answer_open(&open);
        let signal = SignalTarget {
            connection_id: relid + 0x2000,
            flag: 0,
        };
        assert_eq!(self.event(), Event::Opened { channel, signal });
        gpadl
    }

    /// The close of a channel whose only GPADL is its ring's, said and answered.
    fn closes(&mut self, relid: u32, gpadl: GpadlId) {
        let teardown = self.sent(11);
        assert_eq!(
            (word(&teardown, 8), word(&teardown, 12)),
            (relid, gpadl.number())
        );
        self.tell(&words(12, &[gpadl.number()]));
        assert_eq!(self.event(), Event::MemoryReleased { gpadl });
    }
}

#[test]
fn sub_channels_of_every_number_open_and_close() {
    for count in [1u16, 3, 15, 63] {
        let (mut run, primary, ring) = Run::expecting(count);
        let subs: Vec<ChannelId> = (1..=count).map(|index| run.sub(index)).collect();
        assert!(
            !run.client.expects_sub_channels(primary, run.now),
            "all here"
        );
        run.client.granted_sub_channels(primary, count);
        let mut rings = vec![];
        for (index, channel) in (1..=u32::from(count)).zip(&subs) {
            rings.push(run.open_sub(*channel, 7 + index, index % 4));
            assert_eq!(run.client.target_vp(*channel), Some(index % 4));
        }
        run.silent();
        // Each has its flag.
        let mut bits = [0u8; 16];
        for relid in 7..=7 + usize::from(count) {
            bits[relid / 8] |= 1 << (relid % 8);
        }
        let bits: Vec<(usize, u8)> = (0..).zip(bits).collect();
        let signalled = run.client.on_event_flags(&flags(&bits)).count();
        assert_eq!(signalled, usize::from(count) + 1);
        // The owner closes the primary.
        run.client.close(primary, run.now).unwrap();
        for (index, ring) in (1..=u32::from(count)).zip(&rings) {
            assert_eq!(word(&run.sent(7), 8), 7 + index, "CTL-41");
            let teardown = run.sent(11);
            assert_eq!(word(&teardown, 12), ring.number());
        }
        assert_eq!(word(&run.sent(7), 8), 7);
        run.sent(11);
        run.tell(&words(12, &[ring.number()]));
        assert_eq!(run.event(), Event::MemoryReleased { gpadl: ring });
        // It is closed when the last of them is.
        for (channel, gpadl) in subs.iter().zip(rings) {
            run.silent();
            run.tell(&words(12, &[gpadl.number()]));
            assert_eq!(run.event(), Event::MemoryReleased { gpadl });
            let channel = *channel;
            assert_eq!(run.event(), Event::Closed { channel });
        }
        assert_eq!(run.event(), Event::Closed { channel: primary });
        let memory = PlainShared::new(4, 0);
        let again = run.client.open(subs[0], &memory, 2, 0, run.now);
        assert_eq!(again, Err(RequestError::State), "without its primary");
        // The host takes them back, too, and nothing is left.
        for (index, channel) in (1..=u32::from(count)).zip(subs) {
            run.tell(&words(2, &[7 + index]));
            assert_eq!(run.event(), Event::Released { channel });
            assert_eq!(word(&run.sent(13), 8), 7 + index);
        }
        run.silent();
        assert_eq!(run.client.counters().total(), 0);
    }
}

#[test]
fn ctl_26_indices_that_were_not_asked_for() {
    let (mut run, _, _) = Run::expecting(3);
    run.sub(2);
    // The catalogue's example, and one beyond.
    for (relid, index) in [(20, 2), (21, 4), (22, u16::MAX)] {
        run.tell(sub(relid, index).as_bytes());
        assert_eq!(word(&run.sent(13), 8), relid);
    }
    assert_eq!(run.count(Rule::CTL_26), 3);
    // One that was taken back does not come again for the same request.
    run.tell(&words(2, &[9]));
    assert!(matches!(run.event(), Event::Rescinded { .. }));
    assert!(matches!(run.event(), Event::Released { .. }));
    run.sent(13);
    run.tell(sub(9, 2).as_bytes());
    run.sent(13);
    assert_eq!(run.count(Rule::CTL_26), 4);
    run.silent();
}

/// More came than the device has granted afterwards.
#[test]
fn ctl_26_offered_but_not_granted() {
    let (mut run, primary, _) = Run::expecting(3);
    let [one, two, three] = [1, 2, 3].map(|index| run.sub(index));
    run.client.granted_sub_channels(primary, 1);
    assert_eq!(run.count(Rule::CTL_26), 2);
    for (channel, relid) in [(two, 9), (three, 10)] {
        assert_eq!(run.event(), Event::Rescinded { channel });
        assert_eq!(run.event(), Event::Released { channel });
        assert_eq!(word(&run.sent(13), 8), relid);
    }
    run.open_sub(one, 8, 1);
    run.silent();
}

#[test]
fn ctl_27_sub_channels_at_the_wrong_time() {
    let (mut run, primary, _) = Run::open();
    run.tell(&words(4, &[]));
    run.event();
    let mut refused = 0;
    let mut comes_unasked = |run: &mut Run| {
        run.tell(sub(30, 1).as_bytes());
        run.sent(13);
        refused += 1;
        assert_eq!(run.count(Rule::CTL_27), refused);
        run.silent();
    };
    // Before anybody has asked.
    comes_unasked(&mut run);
    // Refused by the device.
    run.client.expect_sub_channels(primary, 3, run.now).unwrap();
    run.client.granted_sub_channels(primary, 0);
    comes_unasked(&mut run);
    // All are there.
    run.client.expect_sub_channels(primary, 3, run.now).unwrap();
    run.sub(1);
    run.client.granted_sub_channels(primary, 1);
    assert!(!run.client.expects_sub_channels(primary, run.now));
    run.tell(sub(30, 2).as_bytes());
    run.sent(13);
    assert_eq!(run.count(Rule::CTL_27), 3);
    run.silent();
}

/// 7 are granted, 3 come: the rest is too late, and those that came work.
#[test]
fn nvs_39_ctl_27_fewer_than_granted() {
    let (mut run, primary, _) = Run::expecting(7);
    let subs = [1, 2, 3].map(|index| run.sub(index));
    run.client.granted_sub_channels(primary, 7);
    run.now += SUB_CHANNELS_DEADLINE - 1;
    assert!(run.client.expects_sub_channels(primary, run.now), "NVS_39");
    run.now += 1;
    assert!(!run.client.expects_sub_channels(primary, run.now), "NVS_39");
    run.tell(sub(11, 4).as_bytes());
    run.sent(13);
    assert_eq!(run.count(Rule::CTL_27), 1);
    for (channel, relid) in subs.into_iter().zip(8..) {
        run.open_sub(channel, relid, 0);
    }
}

#[test]
fn ctl_25_sub_channel_of_a_rescinded_primary() {
    let (mut run, primary, ring) = Run::expecting(3);
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel: primary });
    run.tell(sub(8, 1).as_bytes());
    assert_eq!(run.count(Rule::CTL_25), 1);
    run.sent(13);
    run.client.close(primary, run.now).unwrap();
    run.sent(7);
    run.closes(7, ring);
    assert_eq!(run.event(), Event::Released { channel: primary });
    run.sent(13);
    run.silent();
}

/// The host takes the primary back and says nothing of its sub-channels: the owner
/// hears of them first, and their relids are released first.
#[test]
fn ctl_41_sub_channels_go_before_their_primary() {
    let (mut run, primary, ring) = Run::expecting(3);
    let [one, two, three] = [1, 2, 3].map(|index| run.sub(index));
    let rings = [run.open_sub(one, 8, 0), run.open_sub(two, 9, 0)];
    run.tell(&words(2, &[7]));
    for channel in [one, two, three, primary] {
        assert_eq!(run.event(), Event::Rescinded { channel }, "CTL-41");
    }
    run.client.close(primary, run.now).unwrap();
    for (relid, ring) in (8..).zip(rings) {
        assert_eq!(word(&run.sent(7), 8), relid);
        run.closes(relid, ring);
        let Event::Closed { .. } = run.event() else {
            panic!()
        };
    }
    run.sent(7);
    run.closes(7, ring);
    for channel in [one, two, three, primary] {
        assert_eq!(run.event(), Event::Released { channel }, "CTL-41");
    }
    for relid in [8, 9, 10, 7] {
        assert_eq!(word(&run.sent(13), 8), relid);
    }
    run.silent();
    assert_eq!(run.client.counters().total(), 0);
}

/// An honest host takes them back itself, at any point of the same story.
#[test]
fn ctl_41_ctl_43_the_host_takes_all_back() {
    for primary_first in [true, false] {
        let (mut run, primary, ring) = Run::expecting(2);
        let [one, two] = [1, 2].map(|index| run.sub(index));
        let sub_ring = run.open_sub(one, 8, 0);
        let order = match primary_first {
            true => [7, 8, 9],
            false => [8, 9, 7],
        };
        for relid in order {
            run.tell(&words(2, &[relid]));
        }
        let mut told: Vec<Event> = core::iter::from_fn(|| run.client.next_event()).collect();
        // The second was never opened: it is gone at once.
        let gone = told
            .iter()
            .position(|e| *e == Event::Released { channel: two });
        told.remove(gone.unwrap());
        let rescinded = [one, two, primary].map(|channel| Event::Rescinded { channel });
        assert_eq!(told, rescinded, "CTL-41");
        assert_eq!(word(&run.sent(13), 8), 9);
        run.client.close(one, run.now).unwrap();
        run.sent(7);
        run.closes(8, sub_ring);
        assert_eq!(run.event(), Event::Released { channel: one });
        run.sent(13);
        run.client.close(primary, run.now).unwrap();
        run.sent(7);
        run.closes(7, ring);
        assert_eq!(run.event(), Event::Released { channel: primary });
        run.sent(13);
        run.silent();
        assert_eq!(run.client.counters().total(), 0, "CTL_43");
    }
}

/// A sub-channel that is being opened when its primary goes.
#[test]
fn ctl_40_ctl_42_rescind_of_the_primary_while_a_sub_channel_opens() {
    for heard in [true, false] {
        let (mut run, primary, ring) = Run::expecting(1);
        let one = run.sub(1);
        let memory = PlainShared::new(4, 64);
        let gpadl = run.client.open(one, &memory, 2, 0, run.now).unwrap();
        run.sent(8);
        run.tell(&words(10, &[8, gpadl.number(), 0]));
        if heard {
            run.sent(5);
        }
        run.tell(&words(2, &[7]));
        assert_eq!(run.event(), Event::Rescinded { channel: one }, "CTL-40");
        assert_eq!(run.event(), Event::Rescinded { channel: primary });
        run.client.close(primary, run.now).unwrap();
        if heard {
            assert_eq!(word(&run.sent(7), 8), 8);
        }
        run.closes(8, gpadl);
        assert_eq!(run.event(), Event::Closed { channel: one });
        assert_eq!(word(&run.sent(7), 8), 7, "CTL-42");
        run.closes(7, ring);
        assert_eq!(run.event(), Event::Released { channel: one });
        assert_eq!(run.event(), Event::Released { channel: primary });
        run.sent(13);
        run.sent(13);
        run.silent();
    }
}

/// The host keeps the ring of a sub-channel: it is lost, and nothing else.
#[test]
fn gpd_06_a_sub_channel_that_is_lost() {
    let (mut run, primary, ring) = Run::expecting(2);
    let [one, two] = [1, 2].map(|index| run.sub(index));
    let leaky = run.open_sub(one, 8, 0);
    let other = run.open_sub(two, 9, 0);
    run.client.close(primary, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.sent(7);
    run.closes(9, other);
    assert_eq!(run.event(), Event::Closed { channel: two });
    run.sent(7);
    run.closes(7, ring);
    run.silent();
    run.wait(REQUEST_DEADLINE);
    run.client.poll(run.now);
    assert_eq!(run.event(), Event::MemoryLeaked { gpadl: leaky });
    assert_eq!(run.event(), Event::Lost { channel: one });
    assert_eq!(run.event(), Event::Closed { channel: primary });
    assert_eq!(run.count(Rule::GPD_06), 1);
}

/// A host that never takes sub-channels back cannot fill the table by it.
#[test]
fn ctl_28_sub_channels_that_are_left_behind() {
    let (mut run, primary, _) = Run::expecting(1);
    for round in 0..200 {
        let relid = 100 + round;
        run.tell(sub(relid, 1).as_bytes());
        let Event::SubChannel { channel, .. } = run.event() else {
            panic!("CTL_28")
        };
        let ring = run.open_sub(channel, relid, 0);
        run.client.close(channel, run.now).unwrap();
        run.sent(7);
        run.closes(relid, ring);
        assert_eq!(run.event(), Event::Closed { channel });
        run.client.expect_sub_channels(primary, 1, run.now).unwrap();
        assert_eq!(run.event(), Event::Released { channel });
        run.sent(13);
        run.silent();
    }
    assert_eq!(run.count(Rule::CTL_28), 0);
}

#[test]
fn who_may_ask() {
    let (mut run, channel) = Run::offered();
    let asked = run.client.expect_sub_channels(channel, 1, run.now);
    assert_eq!(asked, Err(RequestError::State));
    let (mut run, _, _) = Run::expecting(1);
    let one = run.sub(1);
    run.open_sub(one, 8, 0);
    let asked = run.client.expect_sub_channels(one, 1, run.now);
    assert_eq!(asked, Err(RequestError::State));
}
