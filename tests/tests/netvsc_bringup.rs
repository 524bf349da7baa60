//! VMBus client and NIC against the fake host, in one process: contact, offers,
//! rings, buffers, RNDIS, and frames each way. The shared memory changes after
//! the first read of any byte.

#[path = "netvsc_bringup/hash.rs"]
mod hash;
#[path = "netvsc_bringup/joined.rs"]
mod joined;
#[path = "netvsc_bringup/stack.rs"]
mod stack;

use abi::vmbus::Version;
use devices::test_support::e1000e::{E1000eDriver, RxShape};
use devices::test_support::{self, HostCpu, NetDriver, Ram};
use devices::{Machine, MachineConfig as GuestConfig, NicModel, NoBuffer};
use hostkit::MachineConfig;
use hostkit::backend::Loopback;
use hostkit::fault::Layer as FaultLayer;
use netvsc::{Event as NicEvent, Nic, TransmitError};
use relay::{Ended, Host, InVm, NetDevice, Relay};
use stack::{Shared, Stack};
use std::collections::VecDeque;
use std::time::Instant;
use validate::{Layer, Rule};
use vmbus::{Event, Target};

fn redirected() -> Stack {
    Stack::new(
        MachineConfig::default(),
        Loopback::default(),
        Target::REDIRECTED,
    )
}

/// A generator that is the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A frame to `mac` of random size and contents.
    fn frame(&mut self, mac: [u8; 6]) -> Vec<u8> {
        let len = 60 + (self.next() % 1455) as usize;
        let mut frame: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .collect();
        frame.truncate(len);
        frame[..6].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame
    }
}

#[test]
fn one_frame_each_way() {
    let start = Instant::now();
    let mut stack = redirected();
    stack.bring_up();
    assert!(stack.events.iter().any(|event| matches!(
        event,
        Event::Connected {
            version: Version::V6_0,
            ..
        }
    )));
    let mac = stack.nic().mac().unwrap();
    assert_eq!(mac, stack.host.backend.mac);
    assert_eq!(
        stack.nic_events,
        [
            NicEvent::Ready { mac, mtu: 1500 },
            NicEvent::Link { up: true }
        ]
    );
    assert_eq!(
        stack.host.nic.state().version,
        Some(abi::nvsp::version::V61)
    );
    let frame = Random(1).frame(mac);
    stack.transmit(&frame).unwrap();
    stack.turns(4);
    assert_eq!(stack.frames, [frame]);
    assert_eq!(stack.violations(), []);
    assert_eq!(stack.refused(), 0);
    assert_eq!(stack.nic().outstanding(), 0);
    assert_eq!(stack.host.nic.state().slots_in_flight, 0);
    // NVS-10, SYS-09: everything went through the send buffer.
    assert_eq!(stack.host.nic.counters().tx_direct, 0);
    assert!(stack.nic().counters().validation.messages(Layer::Rndis) >= 8);
    println!("bring-up and a frame each way: {:?}", start.elapsed());
}

#[test]
fn plain_guest_and_every_version() {
    for max_version in [Version::V5_2, Version::V5_3, Version::V6_0] {
        let mut config = MachineConfig::default();
        config.server.max_version = max_version;
        config.server.target = hostkit::vmbus::Target::PLAIN;
        let mut stack = Stack::new(config, Loopback::default(), Target::PLAIN);
        stack.bring_up();
        assert_eq!(stack.client.version(), Some(max_version));
        let mac = stack.nic().mac().unwrap();
        let frame = Random(2).frame(mac);
        stack.transmit(&frame).unwrap();
        stack.turns(4);
        assert_eq!(stack.frames, [frame]);
    }
}

#[test]
fn ten_thousand_frames_come_back_as_they_went() {
    const FRAMES: usize = 10_000;
    let start = Instant::now();
    let mut stack = redirected();
    stack.bring_up();
    let mac = stack.nic().mac().unwrap();
    let (mut random, mut check, mut burst) = (Random(3), Random(3), Random(7));
    let (mut sent, mut seen) = (0, 0);
    let mut waiting = None;
    while seen < FRAMES {
        // Bursts of random length; what does not fit now goes next.
        for _ in 0..burst.next() % 97 {
            if sent == FRAMES {
                break;
            }
            let frame = waiting.take().unwrap_or_else(|| random.frame(mac));
            match stack.transmit(&frame) {
                Ok(()) => sent += 1,
                Err(TransmitError::Full) => {
                    waiting = Some(frame);
                    break;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        stack.turn();
        assert!(start.elapsed().as_secs() < 60, "stuck at {seen}");
        while let Some(frame) = stack.frames.pop_front() {
            assert_eq!(frame, check.frame(mac), "frame {seen}");
            seen += 1;
        }
    }
    stack.turns(3);
    let counters = stack.nic().counters().clone();
    assert_eq!(
        (counters.tx_frames, counters.rx_frames),
        (FRAMES as u64, FRAMES as u64)
    );
    let host = stack.host.nic.counters();
    assert_eq!(
        (host.frames_tx, host.frames_rx),
        (FRAMES as u64, FRAMES as u64)
    );
    assert_eq!(
        (host.bytes_tx, host.bytes_rx),
        (counters.tx_bytes, counters.rx_bytes)
    );
    assert!(host.errors.is_empty(), "{:?}", host.errors);
    assert_eq!(stack.signals_sent, stack.channel.signals_needed());
    assert_eq!(stack.violations(), []);
    assert_eq!(stack.refused(), 0);
    assert_eq!(stack.host.nic.state().slots_in_flight, 0);
    println!(
        "{FRAMES} frames each way: {:?}, {} signals to the host",
        start.elapsed(),
        stack.signals_sent
    );
}

#[test]
fn guest_without_room_loses_nothing() {
    let mut stack = redirected();
    stack.bring_up();
    let mac = stack.nic().mac().unwrap();
    let mut random = Random(4);
    let frames: Vec<_> = (0..500).map(|_| random.frame(mac)).collect();
    stack.host.backend.to_guest.extend(frames.iter().cloned());
    stack.room = 10;
    stack.turns(20);
    assert_eq!(stack.frames.len(), 10);
    let mut seen = Vec::new();
    for _ in 0..2000 {
        seen.extend(stack.frames.drain(..));
        stack.turn();
    }
    assert_eq!(seen, frames);
    assert_eq!(stack.violations(), []);
}

#[test]
fn stop_close_and_open_again() {
    let mut stack = redirected();
    stack.bring_up();
    let mac = stack.nic().mac().unwrap();
    for round in 0..3 {
        stack.mac = Some(mac);
        let now = stack.now;
        stack.nic().stop(now);
        stack.nic_events.clear();
        stack.turns(10);
        assert_eq!(stack.nic_events, [NicEvent::Stopped], "round {round}");
        assert_eq!(stack.host.nic.state().filter, 0);
        stack.close();
        stack.nic_events.clear();
        stack.open();
        for _ in 0..200 {
            stack.turn();
        }
        assert!(stack.nic().is_ready());
        let frame = Random(5 + round).frame(mac);
        stack.transmit(&frame).unwrap();
        stack.turns(4);
        assert_eq!(stack.frames.pop_front(), Some(frame));
    }
    assert_eq!(stack.refused(), 0);
}

#[test]
fn failed_nic_comes_back_after_a_reset_of_its_channel() {
    let mut stack = redirected();
    stack.bring_up();
    let mac = stack.nic().mac().unwrap();
    // PKT-04: a GPA-direct packet from the host.
    let mut packet = [0; 48];
    packet[..8].copy_from_slice(&[9, 0, 5, 0, 6, 0, 0, 0]);
    stack.host.nic.inject_packet(&packet);
    stack.turns(4);
    assert!(
        matches!(stack.nic_events.last(), Some(NicEvent::Failed(v)) if v.rule == Rule::PKT_04),
        "{:?}",
        stack.nic_events
    );
    stack.mac = Some(mac);
    stack.close();
    stack.open();
    stack.turns(200);
    assert!(stack.nic().is_ready());
}

#[test]
fn damaged_messages_end_in_violations_only() {
    let mut ends = 0;
    for seed in 1..=20u64 {
        let mut stack = redirected();
        stack.bring_up();
        let mac = stack.nic().mac().unwrap();
        let mut damage = Random(seed);
        stack.host.faults.set_hook(move |message| {
            if message.layer == FaultLayer::Control || !damage.next().is_multiple_of(4) {
                return;
            }
            let at = damage.next() as usize % message.bytes.len().min(64);
            message.bytes[at] = damage.next() as u8;
        });
        let mut random = Random(seed);
        for _ in 0..200 {
            let _ = stack.transmit(&random.frame(mac));
            stack.turn();
            // The frame may be damaged, but it has the size of one.
            assert!(
                stack
                    .frames
                    .drain(..)
                    .all(|frame| (14..=1518).contains(&frame.len()))
            );
            if stack.nic().failed().is_some() {
                ends += 1;
                break;
            }
        }
        assert_eq!(stack.refused(), 0);
        assert!(!stack.violations().is_empty() || stack.nic().failed().is_none());
    }
    println!("{ends} of 20 NICs ended by damage");
}

/// A guest that sends what it got, with as many buffers as it is given.
struct Echo {
    buffers: usize,
    queue: VecDeque<Vec<u8>>,
    received: Vec<Vec<u8>>,
    link: Vec<bool>,
}

impl NetDevice for Echo {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.queue.pop_front()?;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer> {
        self.buffers = self.buffers.checked_sub(1).ok_or(NoBuffer)?;
        self.received.push(frame.to_vec());
        Ok(())
    }
    fn publish(&mut self) {}
    fn set_link(&mut self, up: bool) {
        self.link.push(up);
    }
}

#[test]
fn relay_between_guest_and_host() {
    let mut stack = redirected();
    stack.bring_up();
    let mut nic = stack.nic.take().unwrap();
    let mac = nic.mac().unwrap();
    let mut random = Random(6);
    let frames: Vec<_> = (0..2000).map(|_| random.frame(mac)).collect();
    let mut device = Echo {
        buffers: 0,
        queue: frames.iter().cloned().collect(),
        received: Vec::new(),
        link: Vec::new(),
    };
    // The events of the bring-up were taken by the stack.
    let mut relay = Relay::new();
    stack
        .host
        .nic
        .inject_control(&indication(abi::rndis::status::MEDIA_DISCONNECT));
    for turn in 0..6000 {
        if turn == 300 {
            stack
                .host
                .nic
                .inject_control(&indication(abi::rndis::status::MEDIA_CONNECT));
        }
        if turn >= 350 {
            device.buffers += 1;
        }
        stack.turn();
        // Before the link comes back the guest sends nothing.
        let budget = if device.link.last() == Some(&true) {
            7
        } else {
            0
        };
        let mut host = Host {
            nic: &mut nic,
            channel: &mut stack.channel,
        };
        let polled = relay.poll(&mut host, &mut device, stack.now, budget);
        assert_eq!(polled.ended, None);
        if polled.signal.is_needed() {
            stack.signal_host();
        }
        stack.now += 9000;
    }
    assert_eq!(device.link, [true]);
    let counters = relay.counters();
    assert_eq!(counters.tx_frames, 2000);
    assert_eq!(counters.rx_frames + counters.rx_dropped_no_buffer, 2000);
    assert_eq!(counters.rx_frames as usize, device.received.len());
    assert!(device.received.iter().all(|frame| frames.contains(frame)));
    assert_eq!(nic.counters().rx_frames, 2000);

    stack.host.nic.inject_packet(&[
        9, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    let mut ended = None;
    for _ in 0..10 {
        stack.turn();
        let mut host = Host {
            nic: &mut nic,
            channel: &mut stack.channel,
        };
        ended = ended.or(relay.poll(&mut host, &mut device, stack.now, 8).ended);
    }
    assert!(
        matches!(ended, Some(Ended::Failed(v)) if v.rule == Rule::PKT_04),
        "{ended:?}"
    );
    assert_eq!(device.link.last(), Some(&false));
}

/// A driver in the guest.
trait Driver: Sized {
    const MODEL: NicModel;
    fn start(machine: &mut Machine, ram: &Ram) -> Self;
    fn send(&mut self, machine: &mut Machine, ram: &Ram, frame: &[u8]) -> bool;
    fn receive(&mut self, ram: &Ram) -> Option<Vec<u8>>;
    fn reap_tx(&mut self, ram: &Ram) -> usize;
    fn fill_rx(&mut self, machine: &mut Machine, ram: &Ram);
    fn interrupted(&self, machine: &mut Machine) -> bool;
}

/// Where drivers have their rings and buffers.
const BASE: u64 = 0x10_0000;

impl Driver for NetDriver {
    const MODEL: NicModel = NicModel::Virtio;
    fn start(machine: &mut Machine, ram: &Ram) -> Self {
        NetDriver::start(machine, ram, BASE, u64::MAX)
    }
    fn send(&mut self, machine: &mut Machine, ram: &Ram, frame: &[u8]) -> bool {
        self.send(machine, ram, frame)
    }
    fn receive(&mut self, ram: &Ram) -> Option<Vec<u8>> {
        self.receive(ram)
    }
    fn reap_tx(&mut self, ram: &Ram) -> usize {
        self.reap_tx(ram)
    }
    fn fill_rx(&mut self, machine: &mut Machine, ram: &Ram) {
        self.fill_rx(machine, ram);
    }
    fn interrupted(&self, machine: &mut Machine) -> bool {
        self.take_interrupt(machine).is_some()
    }
}

impl Driver for E1000eDriver {
    const MODEL: NicModel = NicModel::E1000e;
    fn start(machine: &mut Machine, ram: &Ram) -> Self {
        E1000eDriver::start(machine, ram, BASE, RxShape::Extended)
    }
    fn send(&mut self, machine: &mut Machine, ram: &Ram, frame: &[u8]) -> bool {
        self.send(machine, ram, frame)
    }
    fn receive(&mut self, ram: &Ram) -> Option<Vec<u8>> {
        self.receive(ram).map(|(frame, _)| frame)
    }
    fn reap_tx(&mut self, ram: &Ram) -> usize {
        self.reap_tx(ram)
    }
    fn fill_rx(&mut self, machine: &mut Machine, ram: &Ram) {
        self.fill_rx(machine, ram);
    }
    fn interrupted(&self, machine: &mut Machine) -> bool {
        let taken = self.take_interrupt(machine).is_some();
        self.rearm(machine);
        taken
    }
}

/// A guest with a driver, its machine, and the relay to a NIC that is up.
struct Chain<D> {
    stack: Stack,
    nic: Nic<Shared>,
    mac: [u8; 6],
    machine: Machine,
    ram: Ram,
    driver: D,
    relay: Relay,
}

impl<D: Driver> Chain<D> {
    fn new() -> Chain<D> {
        let mut stack = redirected();
        stack.bring_up();
        let nic = stack.nic.take().unwrap();
        let mac = nic.mac().unwrap();
        let config = GuestConfig {
            mac,
            link_up: false,
            hash: nic.offers_hash().unwrap_or_default(),
            ..test_support::config()
        };
        let mut machine = Machine::with_nic(&config, &HostCpu, D::MODEL);
        let ram = Ram::new(0x40_0000);
        let mut driver = D::start(&mut machine, &ram);
        driver.fill_rx(&mut machine, &ram);
        let mut chain = Chain {
            stack,
            nic,
            mac,
            machine,
            ram,
            driver,
            relay: Relay::new(),
        };
        // The event of the bring-up was taken by the stack: a new one.
        for status in [
            abi::rndis::status::MEDIA_DISCONNECT,
            abi::rndis::status::MEDIA_CONNECT,
        ] {
            chain.stack.host.nic.inject_control(&indication(status));
            for _ in 0..10 {
                chain.stack.now += netvsc::limits::LINK_INTERVAL;
                chain.turn();
            }
        }
        assert!(chain.relay.link_up());
        chain
    }

    /// The host, then the relay.
    fn turn(&mut self) {
        self.stack.turn();
        let mut host = Host {
            nic: &mut self.nic,
            channel: &mut self.stack.channel,
        };
        let mut guest = InVm {
            machine: &mut self.machine,
            memory: &self.ram,
        };
        let polled = self.relay.poll(&mut host, &mut guest, self.stack.now, 64);
        if polled.signal.is_needed() {
            self.stack.signal_host();
        }
    }
}

/// How often the bytes of a frame are copied on their way: what one byte more costs.
/// Headers, descriptors and indices, which each frame has once, do not count.
fn copies_per_byte<D: Driver>() {
    const FRAMES: u64 = 100;
    let costs = |len: usize| {
        let mut chain = Chain::<D>::new();
        let mut frame = Random(5).frame(chain.mac);
        frame.resize(len, 0xA7);
        let before = chain.ram.copied();
        for _ in 0..FRAMES {
            let queued = chain.driver.send(&mut chain.machine, &chain.ram, &frame);
            assert!(queued);
            let mut seen = None;
            for _ in 0..20 {
                chain.turn();
                seen = seen.or_else(|| chain.driver.receive(&chain.ram));
            }
            assert_eq!(seen, Some(frame.clone()));
            assert_eq!(chain.driver.reap_tx(&chain.ram), 1);
            while chain.driver.interrupted(&mut chain.machine) {}
            chain.driver.fill_rx(&mut chain.machine, &chain.ram);
        }
        let [read, written] = chain.ram.copied();
        let (receive, send) = chain.nic.into_buffers();
        let [from_host, _] = receive.copied();
        let [_, to_host] = send.copied();
        // The driver itself writes each frame that it sends once and reads what it
        // receives once.
        let driver = FRAMES * len as u64;
        let to_guest = from_host + (written - before[1]) - driver;
        let from_guest = to_host + (read - before[0]) - driver;
        [to_guest, from_guest]
    };
    let (short, long) = (costs(514), costs(1514));
    let more = [0, 1].map(|way| long[way] - short[way]);
    let per_byte = more.map(|bytes| bytes as f64 / (FRAMES * 1000) as f64);
    println!("copies per byte to the guest, and from it: {per_byte:.3?}");
    assert_eq!(more, [FRAMES * 1000, 2 * FRAMES * 1000]);
}

#[test]
fn copies_per_byte_of_payload_with_virtio() {
    copies_per_byte::<NetDriver>();
}

#[test]
fn copies_per_byte_of_payload_with_e1000e() {
    copies_per_byte::<E1000eDriver>();
}

/// The whole way of a frame, twice: virtio driver, device, relay, NIC, rings,
/// host, and back.
#[test]
fn virtio_guest_over_the_whole_chain() {
    const FRAMES: usize = 1500;
    let mut chain = Chain::<NetDriver>::new();
    let mac = chain.mac;

    let (mut random, mut check) = (Random(8), Random(8));
    let (mut sent, mut seen, mut interrupts) = (0, 0, 0);
    let mut waiting = None;
    let start = Instant::now();
    while seen < FRAMES {
        assert!(start.elapsed().as_secs() < 60, "stuck at {seen}");
        chain.driver.reap_tx(&chain.ram);
        while sent < FRAMES {
            let frame = waiting.take().unwrap_or_else(|| random.frame(mac));
            if !chain.driver.send(&mut chain.machine, &chain.ram, &frame) {
                waiting = Some(frame);
                break;
            }
            sent += 1;
        }
        chain.turn();
        while chain.driver.interrupted(&mut chain.machine) {
            interrupts += 1;
        }
        while let Some(frame) = chain.driver.receive(&chain.ram) {
            assert_eq!(frame, check.frame(mac), "frame {seen}");
            seen += 1;
        }
        chain.driver.fill_rx(&mut chain.machine, &chain.ram);
    }
    assert!(interrupts > 0);
    let counters = chain.machine.counters();
    assert_eq!(
        (counters.tx_frames, counters.rx_frames),
        (FRAMES as u64, FRAMES as u64)
    );
    assert_eq!(counters.tx_dropped + counters.rx_dropped, 0);
    assert_eq!(chain.relay.counters().tx_frames, FRAMES as u64);
    assert_eq!(chain.stack.refused(), 0);
}

/// An INDICATE_STATUS without buffer.
fn indication(status: u32) -> Vec<u8> {
    [7, 20, status, 0, 0]
        .iter()
        .flat_map(|word: &u32| word.to_le_bytes())
        .collect()
}
