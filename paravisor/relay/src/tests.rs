//! The relay between a double of each side.

use super::*;
use alloc::collections::VecDeque;
use devices::NoBuffer;
use validate::Rule;

#[derive(Default)]
struct Device {
    to_host: VecDeque<Vec<u8>>,
    from_host: Vec<Vec<u8>>,
    buffers: usize,
    /// Frames that came, kept or not.
    delivered: u64,
    /// Counts only.
    forget: bool,
    /// Frames moved of which the guest does not know, and how often it was told.
    untold: usize,
    told: usize,
    link: Vec<bool>,
}

impl NetDevice for Device {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.to_host.pop_front()?;
        self.untold += 1;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer> {
        self.buffers = self.buffers.checked_sub(1).ok_or(NoBuffer)?;
        self.delivered += 1;
        self.untold += 1;
        if !self.forget {
            self.from_host.push(frame.to_vec());
        }
        Ok(())
    }
    fn publish(&mut self) {
        self.untold = 0;
        self.told += 1;
    }
    fn set_link(&mut self, up: bool) {
        self.link.push(up);
    }
}

#[derive(Default)]
struct Wire {
    ready: bool,
    room: usize,
    sent: Vec<Vec<u8>>,
    unflushed: bool,
    arriving: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Uplink for Wire {
    fn poll(
        &mut self,
        _: u64,
        whole: bool,
        mut sink: impl FnMut(&mut Parcel<'_>, Arrived) -> Delivery,
    ) -> netvsc::Polled {
        assert!(whole);
        let mut polled = netvsc::Polled {
            signal: Signal::NotNeeded,
            more: false,
            waiting: false,
            packets: 0,
        };
        while let Some(frame) = self.arriving.front() {
            if sink(&mut Parcel::private(frame), Arrived::default()) == Delivery::Wait {
                polled.waiting = true;
                break;
            }
            self.arriving.pop_front();
            polled.packets += 1;
        }
        polled
    }
    fn transmit(&mut self, frame: &mut [u8], _: &mut Sending, _: u64) -> Result<(), TransmitError> {
        if !self.ready {
            return Err(TransmitError::NotReady);
        }
        if frame.len() > 1518 {
            return Err(TransmitError::BadLength);
        }
        self.room = self.room.checked_sub(1).ok_or(TransmitError::Full)?;
        self.sent.push(frame.to_vec());
        self.unflushed = true;
        Ok(())
    }
    fn flush(&mut self) -> Signal {
        match core::mem::take(&mut self.unflushed) {
            true => Signal::Needed,
            false => Signal::NotNeeded,
        }
    }
    fn take_event(&mut self, _: u64) -> Option<Event> {
        self.events.pop_front()
    }
    fn is_ready(&self) -> bool {
        self.ready
    }
    fn next_deadline(&self) -> Option<u64> {
        None
    }
}

struct Setup {
    relay: Relay,
    wire: Wire,
    device: Device,
    now: u64,
}

impl Setup {
    fn new() -> Setup {
        let mut wire = Wire {
            ready: true,
            room: 1000,
            ..Wire::default()
        };
        wire.events.push_back(Event::Ready {
            mac: [2; 6],
            mtu: 1500,
        });
        wire.events.push_back(Event::Link { up: true });
        let device = Device {
            buffers: 1000,
            ..Device::default()
        };
        Setup {
            relay: Relay::new(),
            wire,
            device,
            now: 1,
        }
    }

    fn up() -> Setup {
        let mut setup = Setup::new();
        let polled = setup.poll();
        assert_eq!(polled.ready, Some(([2; 6], 1500)));
        assert_eq!(setup.device.link, [true]);
        setup
    }

    fn poll(&mut self) -> Polled {
        let (budget, told) = (limits::TX_PER_POLL, self.device.told);
        let polled = self
            .relay
            .poll(&mut self.wire, &mut self.device, self.now, budget);
        // Whatever ended the poll, the guest was told once of all that was moved.
        assert_eq!((self.device.untold, self.device.told), (0, told + 1));
        polled
    }
}

fn frame(tag: u8) -> Vec<u8> {
    vec![tag; 60]
}

#[test]
fn frames_go_both_ways() {
    let mut setup = Setup::up();
    setup.device.to_host.extend([frame(1), frame(2)]);
    setup.wire.arriving.extend([frame(3), frame(4)]);
    let polled = setup.poll();
    assert!(polled.worked && !polled.more && polled.signal.is_needed());
    assert_eq!(setup.wire.sent, [frame(1), frame(2)]);
    assert_eq!(setup.device.from_host, [frame(3), frame(4)]);
    let polled = setup.poll();
    assert!(!polled.worked && !polled.signal.is_needed());
}

#[test]
fn full_host_leaves_frames_with_the_guest() {
    let mut setup = Setup::up();
    setup.wire.room = 2;
    setup.device.to_host.extend((0..5).map(frame));
    let _ = setup.poll();
    // Two went, one waits in private memory, two in the queue.
    assert_eq!((setup.wire.sent.len(), setup.device.to_host.len()), (2, 2));
    let _ = setup.poll();
    assert_eq!(setup.device.to_host.len(), 2);
    setup.wire.room = 10;
    let _ = setup.poll();
    assert_eq!(setup.wire.sent, (0..5).map(frame).collect::<Vec<_>>());
    assert_eq!(setup.relay.counters().tx_frames, 5);
}

#[test]
fn guest_without_buffers_holds_frames_a_short_time() {
    let mut setup = Setup::up();
    setup.device.buffers = 1;
    setup.wire.arriving.extend((0..4).map(frame));
    let _ = setup.poll();
    assert_eq!(
        (setup.device.from_host.len(), setup.wire.arriving.len()),
        (1, 3)
    );
    assert_eq!(
        setup.relay.next_deadline(&setup.wire),
        Some(1 + limits::RX_HOLD)
    );
    // Buffers in time: nothing is lost.
    setup.now += limits::RX_HOLD - 1;
    setup.device.buffers = 1;
    let _ = setup.poll();
    assert_eq!(
        (setup.device.from_host.len(), setup.wire.arriving.len()),
        (2, 2)
    );
    // Too late: counted, and the ring is free.
    setup.now += limits::RX_HOLD;
    let _ = setup.poll();
    assert_eq!(setup.wire.arriving.len(), 0);
    assert_eq!(setup.relay.counters().rx_dropped_no_buffer, 2);
    // Buffers again: frames arrive again, and may wait again.
    setup.device.buffers = 1;
    setup.wire.arriving.extend([frame(8), frame(9)]);
    let _ = setup.poll();
    assert_eq!(
        (setup.device.from_host.len(), setup.wire.arriving.len()),
        (3, 1)
    );
}

#[test]
fn every_frame_is_counted_once() {
    let mut setup = Setup::up();
    setup.device.buffers = 100;
    for round in 0..50u64 {
        setup.wire.arriving.extend((0..7).map(frame));
        setup.now += limits::RX_HOLD / 4;
        if round % 9 == 0 {
            setup.device.buffers += 10;
        }
        let _ = setup.poll();
    }
    setup.now += limits::RX_HOLD;
    let _ = setup.poll();
    let counters = setup.relay.counters();
    assert_eq!(counters.rx_frames as usize, setup.device.from_host.len());
    assert_eq!(counters.rx_frames + counters.rx_dropped_no_buffer, 350);
}

#[test]
fn nothing_is_taken_before_the_nic_is_ready() {
    let mut setup = Setup::new();
    setup.wire.ready = false;
    setup.wire.events.clear();
    setup.device.to_host.push_back(frame(1));
    assert!(!setup.poll().worked);
    assert_eq!(
        (setup.device.to_host.len(), setup.device.link.len()),
        (1, 0)
    );
}

#[test]
fn link_follows_the_host() {
    let mut setup = Setup::up();
    setup.wire.events.push_back(Event::Link { up: false });
    let _ = setup.poll();
    setup.wire.arriving.push_back(frame(1));
    let _ = setup.poll();
    assert_eq!(setup.relay.counters().rx_dropped_link_down, 1);
    setup.wire.events.push_back(Event::Link { up: true });
    let _ = setup.poll();
    assert_eq!(setup.device.link, [true, false, true]);
}

#[test]
fn network_change_bounces_the_link() {
    let mut setup = Setup::up();
    setup.wire.events.push_back(Event::NetworkChange);
    let _ = setup.poll();
    assert_eq!(setup.device.link, [true, false]);
    let deadline = setup.relay.next_deadline(&setup.wire).unwrap();
    setup.now = deadline;
    let _ = setup.poll();
    assert_eq!(setup.device.link, [true, false, true]);
    assert_eq!(setup.relay.next_deadline(&setup.wire), None);
}

#[test]
fn sys_06_failed_nic_takes_the_link_down_and_swallows_frames() {
    let mut setup = Setup::up();
    setup.wire.room = 0;
    setup.device.to_host.extend([frame(1), frame(2)]);
    let _ = setup.poll();
    let violation = Violation::new(Rule::PKT_24, 0, 0u32);
    setup.wire.events.push_back(Event::Failed(violation));
    setup.wire.ready = false;
    let polled = setup.poll();
    assert_eq!(polled.ended, Some(Ended::Failed(violation)));
    assert_eq!(setup.device.link, [true, false]);
    assert_eq!(setup.relay.counters().tx_dropped_no_nic, 2);
    // The next NIC comes up: frames wait for it.
    setup.relay.nic_replaced();
    setup.device.to_host.push_back(frame(3));
    let _ = setup.poll();
    assert_eq!(setup.device.to_host.len(), 1);
}

#[test]
fn device_reset_drops_the_frame_that_waits() {
    let mut setup = Setup::up();
    setup.wire.room = 0;
    setup.device.to_host.push_back(frame(1));
    let _ = setup.poll();
    setup.relay.device_reset();
    setup.wire.room = 10;
    setup.device.to_host.push_back(frame(2));
    let _ = setup.poll();
    assert_eq!(setup.wire.sent, [frame(2)]);
    assert_eq!(setup.relay.counters().tx_dropped_reset, 1);
}

#[test]
fn frames_that_the_nic_refuses_are_counted() {
    let mut setup = Setup::up();
    setup.device.to_host.extend([vec![0; 4000], frame(1)]);
    let _ = setup.poll();
    assert_eq!(setup.wire.sent, [frame(1)]);
    assert_eq!(setup.relay.counters().tx_dropped_length, 1);
}

#[test]
fn a_poll_takes_no_more_than_its_budget() {
    let mut setup = Setup::up();
    setup.device.to_host.extend((0..100).map(frame));
    let polled = setup.poll();
    assert!(polled.more);
    assert_eq!(setup.wire.sent.len(), limits::TX_PER_POLL);
    assert!(!setup.poll().more);
    assert_eq!(setup.wire.sent.len(), 100);
}

#[test]
fn a_device_that_comes_later_learns_of_the_link() {
    let mut setup = Setup::new();
    setup.wire.arriving.push_back(frame(1));
    for _ in 0..2 {
        let _ = setup.relay.poll(&mut setup.wire, &mut Unplugged, 1, 64);
    }
    assert!(setup.wire.arriving.is_empty() && setup.relay.link_up());
    assert_eq!(setup.relay.counters().rx_dropped_unplugged, 1);
    assert_eq!(setup.relay.counters().rx_frames, 0);
    setup.relay.device_attached();
    let _ = setup.poll();
    assert_eq!(setup.device.link, [true]);
}

/// SYS-07: a million frames in a second, one at each poll, as from a host that
/// signals each of them by itself.
#[test]
fn sys_07_the_guest_is_interrupted_at_its_own_rate() {
    let mut setup = Setup::up();
    setup.device.buffers = 2_000_000;
    setup.device.forget = true;
    const FRAMES: u64 = 100_000;
    const STEP: u64 = 10; // A microsecond.
    let begin = limits::RX_INTERVAL;
    let mut interrupts = Vec::new();
    for n in 0..FRAMES {
        setup.now = begin + n * STEP;
        setup.wire.arriving.push_back(frame(1));
        let before = setup.device.delivered;
        let _ = setup.poll();
        if setup.device.delivered != before {
            interrupts.push(setup.now);
        }
        assert!(setup.wire.arriving.len() as u64 <= limits::RX_INTERVAL / STEP);
    }
    // Whatever interval one looks at, two of the limiter's may meet in it.
    let limit = limits::RX_BURSTS_PER_INTERVAL as usize;
    for window in interrupts.windows(2 * limit + 1) {
        assert!(window[2 * limit] - window[0] >= limits::RX_INTERVAL);
    }
    let intervals = FRAMES * STEP / limits::RX_INTERVAL;
    assert_eq!(interrupts.len() as u64, intervals * limit as u64);
    // What had to wait comes at the deadline, and nothing is lost.
    assert!(setup.relay.counters().rx_paced > 0);
    setup.now = setup.relay.next_deadline(&setup.wire).unwrap();
    let _ = setup.poll();
    assert_eq!(setup.device.delivered, FRAMES);
    assert_eq!(setup.relay.next_deadline(&setup.wire), None);
}

/// SYS-07's neighbour: a host within the pace is not held up, and a burst is
/// delivered whole.
#[test]
fn sys_07_frames_within_the_pace_do_not_wait() {
    let mut setup = Setup::up();
    for n in 0..u64::from(limits::RX_BURSTS_PER_INTERVAL) {
        setup.wire.arriving.extend([frame(1), frame(2)]);
        let _ = setup.poll();
        assert_eq!(setup.device.delivered, 2 * (n + 1));
    }
    assert_eq!(setup.relay.counters().rx_paced, 0);
    setup.wire.arriving.push_back(frame(3));
    let _ = setup.poll();
    assert_eq!(setup.relay.counters().rx_paced, 1);
}
