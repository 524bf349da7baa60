//! The VMBus client against the fake host: from the first contact to an open
//! channel and back, over SynIC pages and hypercalls, in both target modes. The
//! client sees memory that changes after its first read; the host sees what is
//! shared, and nothing else.

use abi::hyperv::msr;
use abi::vmbus::{Features, Version};
use hostkit::backend::Loopback;
use hostkit::{Machine, MachineConfig};
use memory::doubles::{DoubleFetch, PlainShared};
use undercroft_tests::{HostView, calls};
use validate::packet::{Kind, Policy};
use validate::{Layer, Rule};
use vmbus::synic::{EventFlags, MessageSlot};
use vmbus::{Channel, ChannelId, Client, Config, Event, Outbound, Reply, SignalTarget, Target};

const PAGE: usize = 4096;
const SIMP: usize = 0x1000;
const SIEFP: usize = 0x2000;
const RINGS: usize = 0x4000;
const RING_PAGES: usize = 5;
const BUFFER: usize = 0x2_0000;
const BUFFER_PAGES: usize = 64;
const SIZE: usize = 0x8_0000;
const VECTOR: u8 = 0x50;
const POLICY: Policy = Policy {
    transfer_set: 0xcafe,
    max_ranges: 375,
};

/// Client and host with one memory between them.
struct Bus {
    host: Machine<HostView, Loopback>,
    client: Client,
    memory: PlainShared,
    messages: DoubleFetch<PlainShared>,
    flags: DoubleFetch<PlainShared>,
    events: Vec<Event>,
    signalled: Vec<ChannelId>,
    now: u64,
    view: HostView,
}

impl Bus {
    fn new(target: Target, change: impl FnOnce(&mut MachineConfig, &mut Config)) -> Bus {
        let mut machine = MachineConfig::default();
        machine.server.target = if target.redirected {
            hostkit::vmbus::Target::REDIRECTED
        } else {
            hostkit::vmbus::Target::PLAIN
        };
        let mut config = Config::new(target);
        change(&mut machine, &mut config);
        let memory = PlainShared::new(SIZE / PAGE, 0);
        let view = HostView::new(memory.clone());
        for (start, pages) in [(SIMP, 2), (RINGS, 2 * RING_PAGES), (BUFFER, BUFFER_PAGES)] {
            view.share((start / PAGE) as u64, pages);
        }
        let mut host = Machine::new(view.clone(), Loopback::default(), machine);
        calls::start_synic(&mut host, 0, SIMP as u64, target.sint, VECTOR);
        let mut client = Client::new(config);
        client.start(0).unwrap();
        Bus {
            host,
            client,
            messages: DoubleFetch::message_page(memory.window(SIMP, PAGE).unwrap()),
            flags: DoubleFetch::new(memory.window(SIEFP, PAGE).unwrap(), &[]),
            memory,
            events: Vec::new(),
            signalled: Vec::new(),
            now: 0,
            view,
        }
    }

    /// Both sides until nothing moves any more.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 4 {
            idle += 1;
            self.now += 100;
            let _ = self.host.poll(self.now);
            assert_eq!(self.view.refused(), 0, "the host touched private memory");
            if let Some(vector) = self.host.pending_vector(0) {
                assert_eq!(vector, VECTOR);
                self.host.accept_vector(0, vector);
                idle = 0;
            }
            let (client, host, now) = (&mut self.client, &mut self.host, self.now);
            let _ = MessageSlot::new(client.sint()).drain(
                &self.messages,
                vmbus::limits::MESSAGES_PER_WAKE,
                |copy| client.on_message(copy, now),
                || host.msr_write(0, msr::EOM, 0).unwrap(),
            );
            let flags = EventFlags::new(client.sint());
            let flags = flags.take(&self.flags, client.highest_flag());
            self.signalled.extend(client.on_event_flags(&flags));
            if calls::post_all(&mut self.client, &mut self.host, self.now) {
                idle = 0;
            }
            while let Some(event) = self.client.next_event() {
                self.events.push(event);
            }
        }
    }

    fn signal(&mut self, target: SignalTarget) {
        calls::signal(&mut self.host, target);
    }

    fn take(&mut self) -> Vec<Event> {
        self.settle();
        std::mem::take(&mut self.events)
    }

    fn connect(&mut self) -> (Version, Features, ChannelId) {
        match self.take()[..] {
            [
                Event::Connected { version, features },
                Event::Offered { channel, .. },
                Event::OffersDelivered,
            ] => (version, features, channel),
            ref other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, channel: ChannelId) -> (Channel<DoubleFetch<PlainShared>>, SignalTarget) {
        let rings = self.memory.window(RINGS, 2 * RING_PAGES * PAGE).unwrap();
        let rings = DoubleFetch::rings(rings, RING_PAGES);
        let rings = Channel::new(rings, RING_PAGES as u32, POLICY).unwrap();
        let page = rings.downstream_page();
        self.client
            .open(channel, rings.memory(), page, 0, self.now)
            .unwrap();
        match self.take()[..] {
            [
                Event::Opened {
                    channel: opened,
                    signal,
                },
            ] if opened == channel => (rings, signal),
            ref other => panic!("{other:?}"),
        }
    }

    fn violations(&self) -> Vec<(Rule, u32)> {
        self.client.counters().violations().collect()
    }
}

#[test]
fn to_an_open_channel_and_back_in_both_modes() {
    for target in [Target::PLAIN, Target::REDIRECTED] {
        let mut bus = Bus::new(target, |_, _| ());
        let (version, features, channel) = bus.connect();
        assert_eq!(version, Version::V6_0);
        assert_eq!(features.bits(), if target.redirected { 3 } else { 0 });
        let (mut rings, signal) = bus.open(channel);
        let relid = bus.host.nic_relid;
        assert!(bus.host.server.is_open(relid));
        if target.redirected {
            assert_eq!(signal.connection_id, relid + 0x2_7000);
        }

        // A buffer of the device, in a header and two bodies.
        let buffer = bus.memory.window(BUFFER, BUFFER_PAGES * PAGE).unwrap();
        let buffer = bus.client.create_gpadl(channel, &buffer, bus.now).unwrap();
        assert_eq!(bus.take(), [Event::GpadlCreated { gpadl: buffer }]);

        // A request over the rings: NVSP INIT, version 6.1.
        let init: Vec<u8> = [1_u32, 0x6_0001, 0x6_0001, 0, 0, 0, 0, 0, 0, 0]
            .map(u32::to_le_bytes)
            .concat();
        let needed = rings
            .send(Outbound::InBand(Reply::Requested), 77, &[&init])
            .unwrap();
        assert!(needed.is_needed());
        bus.signal(signal);
        assert_eq!(bus.take(), []);
        assert_eq!(bus.signalled, [channel]);
        let mut packet = [0; 4096];
        rings.begin_receive().unwrap();
        let answer = rings.receive(&mut packet).unwrap().unwrap();
        assert!(matches!(answer.kind(), Kind::Completion));
        assert_eq!(answer.transaction_id(), 77);
        assert_eq!(answer.payload()[..4], 2_u32.to_le_bytes());
        assert!(rings.receive(&mut packet).unwrap().is_none());
        assert!(!rings.end_receive().unwrap().more);

        bus.client.close(channel, bus.now).unwrap();
        let events = bus.take();
        assert!(
            matches!(
                events[..],
                [
                    Event::MemoryReleased { .. },
                    Event::MemoryReleased { .. },
                    Event::Closed { .. }
                ]
            ),
            "{events:?}"
        );
        assert!(!bus.host.server.is_open(relid));

        // Again: rings and numbers are new, the card is the same.
        let _ = bus.open(channel);
        bus.client.unload(bus.now).unwrap();
        let events = bus.take();
        assert!(
            matches!(
                events[..],
                [
                    Event::MemoryReleased { .. },
                    Event::Unloaded { answered: true }
                ]
            ),
            "{events:?}"
        );
        assert_eq!(bus.violations(), []);
        assert_eq!(bus.host.server.counters().errors.len(), 0);
        assert!(bus.client.counters().messages(Layer::Control) >= 10);
    }
}

#[test]
fn ctl_12_older_hosts_down_to_5_2() {
    for (newest, expected) in [
        (Version::V5_3, Some(Version::V5_3)),
        (Version::V5_2, Some(Version::V5_2)),
        (Version::V5_1, None),
    ] {
        for target in [Target::PLAIN, Target::REDIRECTED] {
            let mut bus = Bus::new(target, |machine, _| machine.server.max_version = newest);
            let Some(expected) = expected else {
                let events = bus.take();
                assert!(matches!(events[..], [Event::Failed { violation }]
                    if violation.rule == Rule::CTL_12));
                continue;
            };
            let (version, features, channel) = bus.connect();
            assert_eq!((version, features), (expected, Features::empty()));
            let _ = bus.open(channel);
            assert_eq!(bus.violations(), []);
        }
    }
}

#[test]
fn ctl_13_a_host_that_never_answers() {
    let mut bus = Bus::new(Target::REDIRECTED, |_, _| ());
    bus.host.faults.never_answer_version = true;
    assert_eq!(bus.take(), []);
    bus.now = bus.client.deadline().unwrap();
    let events = bus.take();
    assert!(matches!(events[..], [Event::Failed { violation }]
        if violation.rule == Rule::CTL_13));
}

#[test]
fn ctl_29_ctl_43_a_card_that_is_pulled_and_put_back() {
    let mut bus = Bus::new(Target::REDIRECTED, |_, _| ());
    let (_, _, first) = bus.connect();
    for round in 0..5 {
        let card = if round == 0 { first } else { bus.replaced() };
        let _ = bus.open(card);
        bus.host.rescind_nic();
        assert_eq!(bus.take(), [Event::Rescinded { channel: card }]);
        bus.client.close(card, bus.now).unwrap();
        let events = bus.take();
        assert!(
            matches!(events[..], [Event::MemoryReleased { .. }, Event::Released { channel }]
                if channel == card),
            "{events:?}"
        );
    }
    assert_eq!(bus.violations(), []);
    assert_eq!(bus.host.server.counters().errors.len(), 0);
}

impl Bus {
    /// The host offers the card again.
    fn replaced(&mut self) -> ChannelId {
        self.host.offer_nic();
        match self.take()[..] {
            [Event::Offered { channel, .. }] => channel,
            ref other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_answer_twice_changes_nothing() {
    let mut bus = Bus::new(Target::REDIRECTED, |_, _| ());
    bus.host.faults.set_hook(|message| {
        let kind = message.bytes.first().copied();
        // A repeated offer is fatal (CTL-62) and has its own test.
        message.copies = if kind == Some(1) { 1 } else { 2 };
    });
    let (_, _, channel) = bus.connect();
    let _ = bus.open(channel);
    bus.client.close(channel, bus.now).unwrap();
    let events = bus.take();
    assert!(
        matches!(
            events[..],
            [Event::MemoryReleased { .. }, Event::Closed { .. }]
        ),
        "{events:?}"
    );
    let violations = bus.violations();
    for rule in [
        Rule::CTL_08,
        Rule::CTL_30,
        Rule::GPD_04,
        Rule::CTL_49,
        Rule::GPD_05,
    ] {
        assert!(violations.contains(&(rule, 1)), "{rule}: {violations:?}");
    }
    assert_eq!(violations.len(), 5, "{violations:?}");
}
