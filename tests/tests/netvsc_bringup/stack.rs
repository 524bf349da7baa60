//! The paravisor's VMBus client and NIC on one side, the fake host on the other,
//! one memory between them. The client sees all of it through a double that
//! changes every byte after its first read; the host side fails a test when it
//! touches a page that was not shared with it.

use abi::hyperv::msr;
use hostkit::backend::{Backend, Loopback};
use hostkit::{Machine, MachineConfig};
use memory::doubles::{DoubleFetch, PlainShared};
use netvsc::{Config, Delivery, Event as NicEvent, Nic};
use std::collections::VecDeque;
use undercroft_tests::{HostView, calls};
use vmbus::synic::{EventFlags, MessageSlot};
use vmbus::{Channel, ChannelId, Client, Event, GpadlId, SignalTarget, Target};

pub type Shared = DoubleFetch<PlainShared>;

const PAGE: usize = 4096;
const SIMP: usize = 0x1000;
const SIEFP: usize = 0x2000;
const RINGS: usize = 0x1_0000;
/// Pages of each ring with its control page.
const RING_PAGES: usize = 17;
const RECEIVE: usize = 0x10_0000;
const SEND: usize = 0x40_0000;
const SIZE: usize = 0x60_0000;
const VECTOR: u8 = 0x50;

/// Both sides and what passed between them.
pub struct Stack<B: Backend = Loopback> {
    pub host: Machine<HostView, B>,
    pub client: Client,
    pub channel: Channel<Shared>,
    pub nic: Option<Nic<Shared>>,
    pub now: u64,
    pub id: Option<ChannelId>,
    signal: Option<SignalTarget>,
    buffers: Vec<(GpadlId, bool)>,
    /// Frames that reached the guest's side, with a limit on what it takes.
    pub frames: VecDeque<Vec<u8>>,
    pub room: usize,
    pub nic_events: Vec<NicEvent>,
    pub events: Vec<Event>,
    pub signals_sent: u64,
    /// The address that a restarted NIC must have.
    pub mac: Option<[u8; 6]>,
    memory: PlainShared,
    message_page: Shared,
    flag_page: Shared,
    view: HostView,
    sint: u8,
}

impl<B: Backend> Stack<B> {
    pub fn new(config: MachineConfig, backend: B, target: Target) -> Stack<B> {
        let memory = PlainShared::new(SIZE / PAGE, 0);
        let view = HostView::new(memory.clone());
        for (start, size) in [
            (SIMP, 2 * PAGE),
            (RINGS, 2 * RING_PAGES * PAGE),
            (RECEIVE, netvsc::limits::RECEIVE_BUFFER),
            (SEND, netvsc::limits::SEND_BUFFER),
        ] {
            view.share((start / PAGE) as u64, size / PAGE);
        }
        let mut host = Machine::new(view.clone(), backend, config);
        calls::start_synic(&mut host, 0, SIMP as u64, target.sint, VECTOR);
        let window = |at: usize, len: usize| memory.window(at, len).unwrap();
        let channel = new_channel(&memory);
        Stack {
            host,
            client: Client::new(vmbus::Config::new(target)),
            channel,
            nic: None,
            now: 0,
            id: None,
            signal: None,
            buffers: Vec::new(),
            frames: VecDeque::new(),
            room: usize::MAX,
            nic_events: Vec::new(),
            events: Vec::new(),
            signals_sent: 0,
            mac: None,
            message_page: DoubleFetch::message_page(window(SIMP, PAGE)),
            flag_page: DoubleFetch::new(window(SIEFP, PAGE), &[]),
            memory,
            view,
            sint: target.sint,
        }
    }

    /// Accesses of the host side to pages that are not shared.
    pub fn refused(&self) -> u64 {
        self.view.refused()
    }

    pub fn nic(&mut self) -> &mut Nic<Shared> {
        self.nic.as_mut().expect("no NIC")
    }

    /// Starts the client and goes on until the NIC is ready or something failed.
    pub fn bring_up(&mut self) {
        self.client.start(self.now).unwrap();
        for _ in 0..500 {
            self.turn();
            let ready = self.nic.as_ref().is_some_and(|nic| nic.is_ready());
            if ready && self.nic_events.len() >= 2 {
                return;
            }
        }
        panic!("not ready: {:?} {:?}", self.events, self.nic_events);
    }

    /// Both sides once.
    pub fn turn(&mut self) {
        self.now += 1000;
        let _ = self.host.poll(self.now);
        if let Some(vector) = self.host.pending_vector(0) {
            assert_eq!(vector, VECTOR);
            self.host.accept_vector(0, vector);
        }
        self.take_messages();
        let flags = EventFlags::new(self.sint).take(&self.flag_page, self.client.highest_flag());
        let _ = self.client.on_event_flags(&flags).count();
        self.post();
        while let Some(event) = self.client.next_event() {
            self.events.push(event);
            self.react(event);
        }
        self.post();
        self.poll_nic();
    }

    pub fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    fn take_messages(&mut self) {
        let (client, host, now) = (&mut self.client, &mut self.host, self.now);
        let slot = MessageSlot::new(self.sint);
        let _ = slot.drain(
            &self.message_page,
            16,
            |copy| client.on_message(copy, now),
            || host.msr_write(0, msr::EOM, 0).unwrap(),
        );
    }

    fn post(&mut self) {
        calls::post_all(&mut self.client, &mut self.host, self.now);
    }

    pub fn signal_host(&mut self) {
        let Some(target) = self.signal else { return };
        self.signals_sent += 1;
        calls::signal(&mut self.host, target);
    }

    /// What the paravisor's owner of the bus does with events.
    fn react(&mut self, event: Event) {
        match event {
            Event::Offered { channel, .. } => {
                self.id = Some(channel);
                self.open();
            }
            Event::Opened { channel, signal } => {
                self.signal = Some(signal);
                for (at, len) in [
                    (RECEIVE, netvsc::limits::RECEIVE_BUFFER),
                    (SEND, netvsc::limits::SEND_BUFFER),
                ] {
                    let memory = self.memory.window(at, len).unwrap();
                    let gpadl = self
                        .client
                        .create_gpadl(channel, &memory, self.now)
                        .unwrap();
                    self.buffers.push((gpadl, false));
                }
            }
            Event::GpadlCreated { gpadl } => {
                for (id, created) in &mut self.buffers {
                    *created |= *id == gpadl;
                }
                if self.buffers.len() == 2 && self.buffers.iter().all(|(_, created)| *created) {
                    self.start_nic();
                }
            }
            Event::Failed { violation } => panic!("connection failed: {violation}"),
            _ => {}
        }
    }

    /// Opens the offered channel with fresh rings.
    pub fn open(&mut self) {
        self.channel = new_channel(&self.memory);
        self.buffers.clear();
        let id = self.id.unwrap();
        self.client
            .open(
                id,
                self.channel.memory(),
                self.channel.downstream_page(),
                0,
                self.now,
            )
            .unwrap();
    }

    fn start_nic(&mut self) {
        let window =
            |at: usize, len: usize| DoubleFetch::new(self.memory.window(at, len).unwrap(), &[]);
        let config = Config {
            receive_gpadl: self.buffers[0].0.number(),
            send_gpadl: self.buffers[1].0.number(),
            mtu: 1500,
            mac: self.mac,
            promiscuous: false,
            enforce_unmeasured: true,
            trust_checksums: true,
            coalescing: true,
            seed: 0xC0FF_EE00,
            sub_channels: 0,
        };
        let receive = window(RECEIVE, netvsc::limits::RECEIVE_BUFFER);
        let send = window(SEND, netvsc::limits::SEND_BUFFER);
        let mut nic = Nic::new(config, receive, send).unwrap();
        nic.start(self.now);
        self.nic = Some(nic);
    }

    fn poll_nic(&mut self) {
        let Some(nic) = self.nic.as_mut() else { return };
        let (frames, room) = (&mut self.frames, self.room);
        let polled = nic.poll(&mut self.channel, self.now, |frame| {
            if frames.len() >= room {
                return Delivery::Wait;
            }
            frames.push_back(frame.to_vec());
            Delivery::Taken
        });
        while let Some(event) = nic.take_event(self.now) {
            self.nic_events.push(event);
        }
        if polled.signal.is_needed() {
            self.signal_host();
        }
    }

    /// Sends a frame, at the next turns.
    pub fn transmit(&mut self, frame: &[u8]) -> Result<(), netvsc::TransmitError> {
        let nic = self.nic.as_mut().expect("no NIC");
        nic.transmit_plain(&mut self.channel, frame, self.now)
    }

    /// Closes the channel and waits until all three pieces of memory are back.
    pub fn close(&mut self) {
        let released = self.released();
        self.client.close(self.id.unwrap(), self.now).unwrap();
        self.nic = None;
        self.signal = None;
        self.turns(20);
        assert_eq!(self.released() - released, 3, "{:?}", self.events);
        assert!(
            matches!(self.events.last(), Some(Event::Closed { .. })),
            "{:?}",
            self.events
        );
    }

    fn released(&self) -> usize {
        self.events
            .iter()
            .filter(|event| matches!(event, Event::MemoryReleased { .. }))
            .count()
    }

    /// Rules broken on any layer.
    pub fn violations(&self) -> Vec<(validate::Rule, u32)> {
        let nic = self
            .nic
            .as_ref()
            .map(|nic| nic.counters().validation.clone());
        let mut all = self.client.counters().clone();
        all.add(self.channel.counters());
        all.add(&nic.unwrap_or_default());
        all.violations().collect()
    }
}

fn new_channel(memory: &PlainShared) -> Channel<Shared> {
    let rings = memory.window(RINGS, 2 * RING_PAGES * PAGE).unwrap();
    let rings = DoubleFetch::rings(rings, RING_PAGES);
    Channel::new(rings, RING_PAGES as u32, netvsc::POLICY).unwrap()
}
