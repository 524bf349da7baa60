//! Both sides of a card with sub-channels, and an owner that makes lanes of them.

use abi::hyperv::msr;
use hostkit::backend::Loopback;
use hostkit::{Machine, MachineConfig};
use memory::Parcel;
use memory::doubles::{DoubleFetch, PlainShared};
use netvsc::{Config, Delivery, Event as NicEvent, Lane, Nic, limits};
use std::collections::BTreeMap;
use undercroft_tests::{HostView, calls};
use validate::Rule;
use validate::frame::{Arrived, FlowHash, HashRequest};
use vmbus::affinity::target_vp;
use vmbus::synic::{EventFlags, MessageSlot};
use vmbus::{Channel, ChannelId, Client, Event, GpadlId, SignalTarget, Target};

type Shared = DoubleFetch<PlainShared>;

const PAGE: usize = 4096;
/// Two pages for the SynIC of each VP.
const SYNIC: usize = 0x1000;
const RINGS: usize = 0x10_0000;
/// Pages of each ring with its control page.
const RING_PAGES: usize = 5;
const RECEIVE: usize = 0x40_0000;
const SEND: usize = 0x60_0000;
const SIZE: usize = 0x80_0000;
const VECTOR: u8 = 0x50;
const TARGET: Target = Target::REDIRECTED;

/// A channel that is being opened, or open.
struct Wire {
    channel: Channel<Shared>,
    signal: Option<SignalTarget>,
    lane: Option<Lane<Shared>>,
    /// Its event flag was seen, or it said that there is more.
    due: bool,
}

pub struct Many {
    pub host: Machine<HostView, Loopback>,
    pub client: Client,
    pub events: Vec<Event>,
    /// So many opens of sub-channels are refused.
    pub refuse_subs: u32,
    wanted: u16,
    vps: u32,
    now: u64,
    nic: Option<Nic<Shared>>,
    ids: BTreeMap<u16, ChannelId>,
    wires: BTreeMap<u16, Wire>,
    granted: Option<u16>,
    buffers: Vec<(GpadlId, bool)>,
    /// The channels over which frames are spread.
    spread: u64,
    frames: Vec<(u16, Vec<u8>)>,
    /// Of each frame the channel and the hash.
    pub hashes: Vec<(u16, Option<FlowHash>)>,
    flags: BTreeMap<u32, usize>,
    counted: vmbus::Counters,
    memory: PlainShared,
    view: HostView,
}

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

impl Many {
    pub fn new(mut config: MachineConfig, wanted: u16) -> Many {
        config.nic.max_sub_channels = 63;
        let vps = config.partition.vp_count;
        let memory = PlainShared::new(SIZE / PAGE, 0);
        let view = HostView::new(memory.clone());
        let rings = usize::from(wanted + 1) * 2 * RING_PAGES * PAGE;
        assert!(RINGS + rings <= RECEIVE);
        for (start, size) in [
            (SYNIC, 2 * PAGE * vps as usize),
            (RINGS, rings),
            (RECEIVE, limits::RECEIVE_BUFFER),
            (SEND, limits::send_buffer(wanted)),
        ] {
            view.share((start / PAGE) as u64, size / PAGE);
        }
        let mut host = Machine::new(view.clone(), Loopback::default(), config);
        for vp in 0..vps {
            let simp = (SYNIC + 2 * PAGE * vp as usize) as u64;
            calls::start_synic(&mut host, vp, simp, TARGET.sint, VECTOR);
        }
        Many {
            host,
            client: Client::new(vmbus::Config::new(TARGET)),
            events: Vec::new(),
            refuse_subs: 0,
            wanted,
            vps,
            now: 0,
            nic: None,
            ids: BTreeMap::new(),
            wires: BTreeMap::new(),
            granted: None,
            buffers: Vec::new(),
            spread: 0,
            frames: Vec::new(),
            hashes: Vec::new(),
            flags: BTreeMap::new(),
            counted: vmbus::Counters::new(),
            memory,
            view,
        }
    }

    pub fn bring_up(&mut self) {
        self.client.start(self.now).unwrap();
        self.settle();
    }

    /// Until the NIC is ready and nothing about sub-channels is open.
    pub fn settle(&mut self) {
        for _ in 0..3000 {
            self.turn();
            let ready = self.nic.as_ref().is_some_and(Nic::is_ready);
            if ready && self.all_open() && self.host.nic.state().filter != 0 {
                // The last answers.
                return self.turns(20);
            }
            if ready && !self.all_open() {
                // Nobody waits for long.
                self.now += vmbus::limits::SECOND / 10;
            }
        }
        panic!("never settled: {:?}", self.events);
    }

    fn all_open(&mut self) -> bool {
        let Some(primary) = self.ids.get(&0).copied() else {
            return false;
        };
        let open = self.wires.values().all(|wire| wire.signal.is_some());
        let lanes = self
            .wires
            .iter()
            .all(|(index, wire)| *index == 0 || wire.lane.is_some());
        let told = self.wanted == 0 || self.granted.is_some();
        told && open && lanes && !self.client.expects_sub_channels(primary, self.now)
    }

    pub fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Both sides once.
    pub fn turn(&mut self) {
        self.now += 1000;
        let _ = self.host.poll(self.now);
        for vp in 0..self.vps {
            while let Some(vector) = self.host.pending_vector(vp) {
                assert_eq!(vector, VECTOR);
                self.host.accept_vector(vp, vector);
                self.host.msr_write(vp, msr::EOI, 0).ok();
            }
        }
        let (client, host, now) = (&mut self.client, &mut self.host, self.now);
        let page = DoubleFetch::message_page(self.memory.window(SYNIC, PAGE).unwrap());
        let _ = MessageSlot::new(TARGET.sint).drain(
            &page,
            64,
            |copy| client.on_message(copy, now),
            || host.msr_write(0, msr::EOM, 0).unwrap(),
        );
        self.take_flags();
        self.post();
        while let Some(event) = self.client.next_event() {
            self.events.push(event);
            self.react(event);
        }
        self.post();
        self.poll_nic();
        self.poll_lanes();
    }

    /// Flags of each VP: those of its channels only.
    fn take_flags(&mut self) {
        for vp in 0..self.vps {
            let at = SYNIC + 2 * PAGE * vp as usize + PAGE;
            let page = DoubleFetch::new(self.memory.window(at, PAGE).unwrap(), &[]);
            let flags = EventFlags::new(TARGET.sint).take(&page, self.client.highest_flag());
            for channel in self.client.on_event_flags(&flags) {
                let index = self.ids.iter().find(|(_, id)| **id == channel);
                let Some((index, _)) = index else { continue };
                assert_eq!(self.client.target_vp(channel), Some(vp));
                *self.flags.entry(vp).or_default() += 1;
                if let Some(wire) = self.wires.get_mut(index) {
                    wire.due = true;
                }
            }
        }
    }

    fn post(&mut self) {
        calls::post_all(&mut self.client, &mut self.host, self.now);
    }

    fn signal(&mut self, index: u16) {
        let signal = self.wires.get(&index).and_then(|wire| wire.signal);
        let Some(target) = signal else { return };
        calls::signal(&mut self.host, target);
    }

    fn index(&self, channel: ChannelId) -> Option<u16> {
        let mut ids = self.ids.iter();
        ids.find(|(_, id)| **id == channel).map(|(index, _)| *index)
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Offered { channel, .. } => {
                self.ids.insert(0, channel);
                self.open(0);
            }
            Event::SubChannel {
                primary,
                channel,
                index,
            } => {
                assert_eq!(self.ids.get(&0), Some(&primary));
                self.ids.insert(index, channel);
                self.open_granted();
            }
            Event::Opened { channel, signal } => {
                let index = self.index(channel).unwrap();
                let wire = self.wires.get_mut(&index).unwrap();
                wire.signal = Some(signal);
                if index == 0 {
                    self.share(channel);
                }
            }
            Event::OpenFailed { channel, .. } => {
                let index = self.index(channel).unwrap();
                assert_ne!(index, 0);
                self.wires.remove(&index);
                self.ids.remove(&index);
            }
            Event::GpadlCreated { gpadl } => {
                for (id, created) in &mut self.buffers {
                    *created |= *id == gpadl;
                }
                if self.buffers.iter().all(|(_, created)| *created) {
                    self.start_nic();
                }
            }
            Event::Rescinded { channel } => {
                let Some(index) = self.index(channel) else {
                    return;
                };
                self.retire(index);
                if index == 0 {
                    self.retire_all();
                }
                let _ = self.client.close(channel, self.now);
            }
            Event::Failed { violation } => panic!("connection failed: {violation}"),
            _ => {}
        }
    }

    fn open(&mut self, index: u16) {
        let at = RINGS + usize::from(index) * 2 * RING_PAGES * PAGE;
        let rings = self.memory.window(at, 2 * RING_PAGES * PAGE).unwrap();
        let rings = DoubleFetch::rings(rings, RING_PAGES);
        let channel = Channel::new(rings, RING_PAGES as u32, netvsc::POLICY).unwrap();
        if index != 0 {
            let refuse = core::mem::take(&mut self.refuse_subs);
            self.host.faults.refuse_opens += refuse;
        }
        let vp = target_vp(index, (1u128 << self.vps).wrapping_sub(1) as u64);
        let id = self.ids[&index];
        let opened = self
            .client
            .open(id, channel.memory(), RING_PAGES as u32, vp, self.now);
        opened.unwrap();
        let wire = Wire {
            channel,
            signal: None,
            lane: None,
            due: true,
        };
        self.wires.insert(index, wire);
    }

    /// Opens what was granted and has come.
    fn open_granted(&mut self) {
        let granted = self.granted.unwrap_or(0);
        let new: Vec<u16> = self.ids.keys().copied().collect();
        for index in new {
            if (1..=granted).contains(&index) && !self.wires.contains_key(&index) {
                self.open(index);
            }
        }
    }

    fn share(&mut self, channel: ChannelId) {
        self.buffers.clear();
        for (at, len) in [
            (RECEIVE, limits::RECEIVE_BUFFER),
            (SEND, limits::send_buffer(self.wanted)),
        ] {
            let memory = self.memory.window(at, len).unwrap();
            let gpadl = self.client.create_gpadl(channel, &memory, self.now);
            self.buffers.push((gpadl.unwrap(), false));
        }
    }

    fn views(&self) -> (Shared, Shared) {
        let view = |at, len| DoubleFetch::new(self.memory.window(at, len).unwrap(), &[]);
        (
            view(RECEIVE, limits::RECEIVE_BUFFER),
            view(SEND, limits::send_buffer(self.wanted)),
        )
    }

    fn start_nic(&mut self) {
        let config = Config {
            receive_gpadl: self.buffers[0].0.number(),
            send_gpadl: self.buffers[1].0.number(),
            mtu: 1500,
            mac: None,
            promiscuous: false,
            enforce_unmeasured: true,
            trust_checksums: true,
            coalescing: false,
            seed: 0xC0FF_EE00,
            sub_channels: self.wanted,
        };
        let (receive, send) = self.views();
        let mut nic = Nic::new(config, receive, send).unwrap();
        nic.start(self.now);
        self.nic = Some(nic);
    }

    fn poll_nic(&mut self) {
        let (Some(nic), Some(wire)) = (self.nic.as_mut(), self.wires.get_mut(&0)) else {
            return;
        };
        let (frames, hashes) = (&mut self.frames, &mut self.hashes);
        let take = |parcel: &mut Parcel<'_>, arrived: Arrived| {
            frames.push((0, parcel.head().to_vec()));
            hashes.push((0, arrived.hash()));
            Delivery::Taken
        };
        let polled = nic.poll_parcels(&mut wire.channel, self.now, true, take);
        let mut grant = None;
        while let Some(event) = nic.take_event(self.now) {
            match event {
                NicEvent::SubChannelsAsked { count } => {
                    let primary = self.ids[&0];
                    let client = &mut self.client;
                    client
                        .expect_sub_channels(primary, count, self.now)
                        .unwrap();
                }
                NicEvent::SubChannels { count } => grant = Some(count),
                NicEvent::Failed(violation) => panic!("NIC failed: {violation}"),
                _ => {}
            }
        }
        if polled.signal.is_needed() {
            self.signal(0);
        }
        if let Some(count) = grant {
            self.client.granted_sub_channels(self.ids[&0], count);
            self.granted = Some(count);
            self.open_granted();
        }
    }

    fn poll_lanes(&mut self) {
        let Some(nic) = self.nic.as_mut().filter(|nic| nic.is_ready()) else {
            return;
        };
        let mut open = 1;
        let mut signals = Vec::new();
        for (index, wire) in self.wires.iter_mut().filter(|(index, _)| **index != 0) {
            if wire.signal.is_none() {
                continue;
            }
            open |= 1u64 << index;
            let lane = wire.lane.get_or_insert_with(|| {
                let view = |at, len| DoubleFetch::new(self.memory.window(at, len).unwrap(), &[]);
                let receive = view(RECEIVE, limits::RECEIVE_BUFFER);
                let send = view(SEND, limits::send_buffer(self.wanted));
                nic.lane(*index, receive, send, self.now).unwrap()
            });
            if !core::mem::take(&mut wire.due) {
                continue;
            }
            let (frames, hashes) = (&mut self.frames, &mut self.hashes);
            let take = |parcel: &mut Parcel<'_>, arrived: Arrived| {
                frames.push((*index, parcel.head().to_vec()));
                hashes.push((*index, arrived.hash()));
                Delivery::Taken
            };
            let polled = lane.poll_parcels(&mut wire.channel, self.now, true, take);
            assert_eq!(lane.failed(), None);
            wire.due = polled.more;
            if polled.signal.is_needed() {
                signals.push(*index);
            }
        }
        let settled = self.wires.values().all(|wire| wire.signal.is_some());
        let primary = self.ids[&0];
        if open != self.spread && settled && !self.client.expects_sub_channels(primary, self.now) {
            self.spread = open;
            if open != 1 {
                nic.spread(open);
            }
        }
        signals.into_iter().for_each(|index| self.signal(index));
    }

    /// What the guest asks for, and the host's answer to that.
    pub fn ask_hash(&mut self, asked: Option<HashRequest>) {
        let nic = self.nic.as_mut().unwrap();
        assert!(nic.offers_hash().is_some());
        nic.set_hash(asked);
        self.turns(20);
        assert!(!self.nic.as_ref().unwrap().spread_due());
        self.hashes.clear();
    }

    /// Sends frame number `n` on the `lane`th channel that is open. `false`: not now.
    pub fn transmit(&mut self, lane: usize, n: u16) -> bool {
        let nic = self.nic.as_mut().unwrap();
        let frame = frame(nic.mac().unwrap(), n);
        let (index, wire) = self.wires.iter_mut().nth(lane).unwrap();
        let index = *index;
        let sent = match &mut wire.lane {
            Some(lane) => lane.transmit_plain(&mut wire.channel, &frame, self.now),
            None => nic.transmit_plain(&mut wire.channel, &frame, self.now),
        };
        let signal = match &mut wire.lane {
            Some(lane) => lane.flush(&mut wire.channel),
            None => nic.flush(&mut wire.channel),
        };
        if signal.is_needed() {
            self.signal(index);
        }
        match sent {
            Ok(()) => true,
            Err(netvsc::TransmitError::Full) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    pub fn received(&self) -> usize {
        self.frames.len()
    }

    /// How many frames came on each channel. All numbers below `count` came once,
    /// as they were sent.
    pub fn take_frames(&mut self, count: u16) -> Vec<usize> {
        let mac = self.nic.as_ref().unwrap().mac().unwrap();
        let mut seen = vec![0; count.into()];
        let mut on = vec![0; 64];
        for (index, bytes) in self.frames.drain(..) {
            let n = u16::from_be_bytes([bytes[34], bytes[35]]);
            assert_eq!(bytes, frame(mac, n));
            seen[usize::from(n)] += 1;
            on[usize::from(index)] += 1;
        }
        assert!(seen.iter().all(|times| *times == 1));
        on
    }

    /// Indices of the lanes.
    pub fn lanes(&self) -> Vec<u16> {
        let wires = self.wires.iter().filter(|(_, wire)| wire.lane.is_some());
        wires.map(|(index, _)| *index).collect()
    }

    pub fn channels(&self) -> Vec<(u16, ChannelId)> {
        self.ids.iter().map(|(index, id)| (*index, *id)).collect()
    }

    pub fn relid(&self, index: u16) -> u32 {
        self.client.audit_number(self.ids[&index]).unwrap()
    }

    pub fn move_all(&mut self, online: u64) {
        self.flags.clear();
        for (index, channel) in self.channels() {
            let vp = target_vp(index, online);
            self.client.modify(channel, vp, self.now).unwrap();
        }
    }

    /// Event flags that came on a VP since the channels moved.
    pub fn flags_on(&self, vp: u32) -> usize {
        self.flags.get(&vp).copied().unwrap_or(0)
    }

    /// A channel is no more: what it has counted is kept.
    fn retire(&mut self, index: u16) {
        if let Some(wire) = self.wires.remove(&index) {
            self.counted.add(wire.channel.counters());
            if let Some(lane) = wire.lane {
                self.counted.add(&lane.counters().validation);
            }
        }
        self.ids.remove(&index);
    }

    fn retire_all(&mut self) {
        let all: Vec<u16> = self.ids.keys().chain(self.wires.keys()).copied().collect();
        all.into_iter().for_each(|index| self.retire(index));
        if let Some(nic) = self.nic.take() {
            self.counted.add(&nic.counters().validation);
        }
        self.granted = None;
        self.spread = 0;
    }

    /// Closes the card.
    pub fn close(&mut self) {
        let primary = self.ids[&0];
        self.retire_all();
        self.client.close(primary, self.now).unwrap();
        self.turns(100);
        let closed = self.events.contains(&Event::Closed { channel: primary });
        assert!(closed, "{:?}", self.events);
    }

    /// Pieces of memory that came back, and that were lost.
    pub fn memory(&self) -> (usize, usize) {
        let count = |f: fn(&Event) -> bool| self.events.iter().filter(|event| f(event)).count();
        (
            count(|event| matches!(event, Event::MemoryReleased { .. })),
            count(|event| matches!(event, Event::MemoryLeaked { .. })),
        )
    }

    /// Accesses of the host to pages that are not shared.
    pub fn refused(&self) -> u64 {
        self.view.refused()
    }

    /// Rules broken on any layer.
    pub fn violations(&self) -> Vec<(Rule, u32)> {
        let mut all = self.client.counters().clone();
        all.add(&self.counted);
        for wire in self.wires.values() {
            all.add(wire.channel.counters());
            if let Some(lane) = &wire.lane {
                all.add(&lane.counters().validation);
            }
        }
        if let Some(nic) = &self.nic {
            all.add(&nic.counters().validation);
        }
        all.violations().collect()
    }
}
