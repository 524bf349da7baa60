//! The NIC alone: NVSP and RNDIS over a live channel. The host answers honestly, with
//! a lie, twice or not at all, says things of its own and writes where it likes; the
//! owner sends frames, stops the NIC, starts over after a failure.

mod host;
mod joined;

use crate::memory::{Arena, GuestRam, Race, Region, ring_headers};
use crate::{Digest, Input};
use host::{
    FIRST_PFN, Host, INFORMATION, Lie, MAC, PAGES, RECEIVE, RECEIVE_PAGES, RING_PAGES, SEND,
    SEND_PAGES,
};
use joined::{Joined, without_sums};
use memory::GuestMemory;
use netvsc::limits::SECOND;
use netvsc::{Config, Delivery, Event, Nic, Sending, TransmitError};
use std::collections::VecDeque;
use std::rc::Rc;
use validate::frame::{
    Arrived, HASH_KEY, HashKinds, HashRequest, MAX_SEGMENTED, Network, PartialSum, Request, Task,
};
use vmbus::Channel;

/// Accesses to shared memory that one poll may cost: 64 packets and 256 ranges, a few
/// each.
const PER_POLL: u64 = 2048;

struct World {
    arena: Rc<Arena>,
    nic: Nic<Region>,
    channel: Channel<Region>,
    host: Host,
    config: Config,
    now: u64,
    /// Where frames go, and whether they come in a row.
    guest: GuestRam,
    whole: bool,
    room: usize,
    /// Frames that an honest host has sent and that are still to come.
    coming: VecDeque<Vec<u8>>,
    told: Told,
    /// Hashes that the guest has asked for.
    asked: HashKinds,
    digest: Digest,
}

/// What the owner was told in this life of the NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Told {
    #[default]
    Nothing,
    Ready,
    Over,
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut world = World::new(&mut input);
    if input.u8() & 1 == 0 {
        world.turns(60);
        assert_eq!(world.told, Told::Ready, "{:?}", world.nic.failed());
    }
    for _ in 0..128 {
        if input.is_empty() {
            break;
        }
        world.act(&mut input);
        world.turn(false);
    }
    world.finish()
}

/// A NIC that starts, over memory that an earlier one may have used.
fn start(arena: &Rc<Arena>, config: Config, now: u64) -> (Nic<Region>, Channel<Region>) {
    let rings = arena.region(0, 2 * RING_PAGES, &ring_headers(RING_PAGES));
    let channel = Channel::new(rings, RING_PAGES as u32, netvsc::POLICY).expect("geometry");
    let receive = arena.region(RECEIVE, RECEIVE_PAGES, &[]);
    let send = arena.region(SEND, SEND_PAGES, &[]);
    let mut nic = Nic::new(config, receive, send).expect("buffers");
    nic.start(now);
    (nic, channel)
}

impl World {
    fn new(input: &mut Input<'_>) -> World {
        let shape = input.u8();
        let arena = Arena::new(PAGES, FIRST_PFN);
        let config = Config {
            receive_gpadl: 0xe1e11,
            send_gpadl: 0xe1e12,
            mtu: if shape & 1 == 0 { 1500 } else { 9000 },
            mac: (shape & 2 != 0).then_some(MAC),
            promiscuous: shape & 4 != 0,
            enforce_unmeasured: shape & 8 == 0,
            trust_checksums: shape & 8 != 0,
            seed: if shape & 16 == 0 { 7 } else { u64::MAX },
            coalescing: shape & 0xC0 == 0x80,
            sub_channels: if shape & 0xC0 == 0x40 { 1 } else { 0 },
        };
        let (nic, channel) = start(&arena, config, 1000);
        World {
            host: Host::new(&arena),
            arena,
            nic,
            channel,
            config,
            now: 1000,
            room: usize::MAX,
            guest: GuestRam::new(MAX_SEGMENTED.div_ceil(4096)),
            whole: shape & 32 != 0,
            coming: VecDeque::new(),
            told: Told::Nothing,
            asked: HashKinds::empty(),
            digest: Digest::new(),
        }
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn(true);
        }
    }

    /// The NIC once; the host reads, and answers everything if it `serves`.
    fn turn(&mut self, serves: bool) {
        self.now += 1000;
        let before = self.arena.accesses();
        let over = self.told == Told::Over;
        let (room, coming, digest) = (&mut self.room, &mut self.coming, &mut self.digest);
        let (honest, told) = (self.host.honest, self.told);
        let (guest, whole) = (&self.guest, self.whole);
        let asked = self.asked;
        let take = |parcel: &mut memory::Parcel<'_>, arrived: Arrived| {
            let hash = arrived.hash();
            assert!(hash.is_none_or(|hash| asked.contains(hash.kind)));
            assert!(
                told == Told::Ready || !over,
                "a frame from a NIC that is over"
            );
            let len = parcel.len();
            let most = if arrived.joined().is_some() {
                MAX_SEGMENTED
            } else {
                1518
            };
            assert!((14..=most).contains(&len), "{len} bytes");
            assert!(!whole || parcel.head().len() == len);
            let Some(left) = room.checked_sub(1) else {
                return Delivery::Wait;
            };
            *room = left;
            let mut frame = vec![0; len];
            parcel.write(guest, 0, len).expect("the guest's memory");
            guest.read(0, &mut frame).expect("the guest's memory");
            digest.debug(&arrived);
            if let Some(headers) = arrived.joined() {
                without_sums(&mut frame, headers);
            }
            if honest {
                assert!(coming.pop_front().as_ref() == Some(&frame), "another frame");
            }
            digest.bytes(&frame);
            Delivery::Taken
        };
        let polled = self
            .nic
            .poll_parcels(&mut self.channel, self.now, whole, take);
        let cost = self.arena.accesses() - before;
        assert!(cost <= if over { 0 } else { PER_POLL }, "{cost} accesses");
        assert_eq!(self.arena.outside(), 0, "an access outside of its region");
        while let Some(event) = self.nic.take_event(self.now) {
            self.hear(event);
        }
        // Whoever sleeps until then sleeps, and wakes up.
        let due = self.nic.next_deadline();
        assert_eq!(due.is_none(), self.told == Told::Over, "{due:?}");
        let busy = polled.more || polled.waiting;
        assert!(busy || due.is_none_or(|at| at >= self.now), "always due");
        self.host.orderly &= self.arena.is_quiet();
        self.host.fetch();
        while serves && self.host.serve() {}
    }

    fn hear(&mut self, event: Event) {
        self.digest.debug(&event);
        let told = match event {
            Event::Ready { mac, mtu } => {
                assert_eq!(self.told, Told::Nothing);
                assert!(self.config.mac.is_none_or(|wanted| wanted == mac));
                assert!(mac[0] & 1 == 0 && mtu <= self.config.mtu);
                // Who takes frames in a row takes none that are joined.
                self.nic.coalesce([!self.whole; 2]);
                Told::Ready
            }
            Event::SubChannelsAsked { count } | Event::SubChannels { count } => {
                assert_eq!(self.told, Told::Nothing);
                assert!(count <= self.config.sub_channels);
                Told::Nothing
            }
            Event::Link { .. } | Event::NetworkChange => {
                assert_eq!(self.told, Told::Ready);
                Told::Ready
            }
            Event::Failed(violation) => {
                assert!(self.told != Told::Over && !self.host.honest, "{violation}");
                assert!(self.channel.dead().is_some(), "a ring that lives on");
                Told::Over
            }
            Event::Stopped => {
                assert_ne!(self.told, Told::Over);
                Told::Over
            }
        };
        self.told = told;
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=2 => {
                for _ in 0..=input.u8() & 3 {
                    self.host.serve();
                }
            }
            3 => self.host.lie = Some(Lie::new(input)),
            4 => {
                self.host.honest = false;
                let known = self.host.ids.len();
                let id = match input.u8() {
                    back @ 0..=191 if known > 0 => {
                        self.host.ids[known - 1 - usize::from(back) % known]
                    }
                    255 => input.u64(),
                    some => u64::from(some & 1),
                };
                self.host.complete(id, input.run());
            }
            5 => {
                self.host.honest = false;
                let (flags, id) = (input.u8().into(), input.u8().into());
                self.host.in_band(flags, id, input.run());
            }
            6 => {
                self.host.honest = false;
                let count = usize::from(input.u8() % 8);
                let ranges: Vec<(u32, u32)> =
                    (0..count).map(|_| (input.word(), input.word())).collect();
                let id = input.u8().into();
                self.host.transfer(id, input.u8() as u32 & 3, &ranges);
            }
            7 => self.frames(input),
            8 => {
                self.host.honest = false;
                let message = input.run();
                self.host.control(input.u8().into(), message);
            }
            9 => self.transmit(input),
            10 => self.room = usize::from(input.u8()),
            11 => {
                // An honest host would have answered.
                self.host.honest = false;
                self.now += u64::from(input.u8()) * SECOND / 4;
            }
            12 => {
                self.host.honest = false;
                self.nic.stop(self.now);
            }
            13 => self.restart(),
            14 => {
                self.host.honest = false;
                self.host.orderly = false;
                let offset = match input.u8() % 4 {
                    0 => input.below(8) * 4,
                    1 => RING_PAGES * 4096 + input.below(8) * 4,
                    _ => input.below(PAGES * 1024) * 4,
                };
                let value = input.word();
                match input.u8() {
                    after @ 0..=63 => self.arena.race(Race {
                        after: after.into(),
                        offset,
                        value,
                    }),
                    _ => self.arena.poke(offset, &value.to_le_bytes()),
                }
            }
            _ => {
                let many = input.u8();
                if many & 0x80 != 0 {
                    self.ask_hash(many);
                }
                self.turns(usize::from(many & 15));
            }
        }
    }

    /// The guest asks for other hashes, or for none.
    fn ask_hash(&mut self, bits: u8) {
        self.asked = HashKinds::from_bits(bits >> 2);
        self.nic.set_hash(Some(HashRequest {
            kinds: self.asked,
            key: [bits; HASH_KEY],
        }));
    }

    /// The host has a frame for the guest that it has joined of segments, or has when
    /// it should not; the guest may want none any more.
    fn joined(&mut self, input: &mut Input<'_>) {
        let wanted = input.u8();
        if wanted & 3 == 3 {
            self.nic
                .coalesce([wanted & 4 != 0, wanted & 8 != 0].map(|on| on && !self.whole));
        }
        let joined = Joined::new(input);
        let slots = joined
            .messages
            .iter()
            .map(|message| self.host.slot(message));
        let ranges: Vec<_> = slots.collect();
        let asked = self.host.joins[usize::from(joined.network == Network::V6)];
        let lied = self.host.lie.is_some() || !joined.right || !asked;
        self.host.honest &= !lied && self.coming.is_empty() && self.told == Told::Ready;
        if self.host.transfer(input.u8().into(), 0, &ranges) {
            self.coming.push_back(joined.frame);
        }
    }

    /// The host has frames for the guest: one packet, some slots.
    fn frames(&mut self, input: &mut Input<'_>) {
        if self.config.coalescing && input.flag() {
            return self.joined(input);
        }
        let mut ranges = Vec::new();
        let mut frames = Vec::new();
        for _ in 0..=input.u8() & 7 {
            let len = 14 + input.below(1505);
            let filler = input.u8();
            let mut frame = vec![filler; len];
            frame[..6].copy_from_slice(&MAC);
            if filler & 1 != 0 {
                frame[12..14].copy_from_slice(&[8, 0]);
            }
            ranges.push(self.host.slot(&Host::packet(&frame, &INFORMATION)));
            frames.push(frame);
        }
        let lied = self.host.lie.is_some();
        // Its slots may be in use by an earlier packet that waits: not honest.
        self.host.honest &= !lied && self.coming.is_empty() && self.told == Told::Ready;
        if self.host.transfer(input.u8().into(), 0, &ranges) {
            self.coming.extend(frames);
        }
    }

    /// A frame of TCP that is not finished: a sum, or segments. What the guest says
    /// about it may be wrong.
    fn unfinished(&mut self, input: &mut Input<'_>) {
        let v6 = input.flag();
        let ip = if v6 { 40 } else { 20 };
        let mut frame = vec![input.u8(); 14 + ip + 20 + input.below(65600)];
        frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        frame[14] = if v6 { 0x60 } else { 0x45 };
        frame[20..22].copy_from_slice(&[if v6 { 6 } else { 0 }, 0]);
        if !v6 {
            frame[23] = 6;
        }
        frame[14 + ip + 12] = 0x50 | input.u8() & 0x30;
        if input.u8() > 200 {
            let at = input.below(frame.len());
            frame[at] = input.u8();
        }
        let network = if v6 { Network::V6 } else { Network::V4 };
        let segment = match input.u8() {
            0..=160 => Some((network, 1 + input.u16() % 1460)),
            161..=180 => Some((network, input.u16())),
            _ => None,
        };
        let sum = match input.u8() {
            0..=200 => PartialSum {
                start: 14 + ip as u16,
                offset: 16,
            },
            _ => PartialSum {
                start: input.u16(),
                offset: input.u16(),
            },
        };
        let request = Request {
            sum: Some(sum),
            segment,
        };
        let task = Task::judge(&request, &frame);
        self.digest.debug(&task);
        let Ok(task) = task else { return };
        let mut sending = Sending::new(task);
        // A frame that finds no room is offered again some times, then dropped.
        for _ in 0..4 {
            let before = (self.arena.accesses(), self.nic.counters().tx_messages);
            let result = self
                .nic
                .transmit(&mut self.channel, &mut frame, &mut sending, self.now);
            self.digest.debug(&result);
            let messages = self.nic.counters().tx_messages - before.1;
            assert!(messages as usize <= netvsc::limits::SEGMENTS);
            // A message of 64 KiB spans eleven sections.
            assert!(self.arena.accesses() - before.0 <= (messages + 1) * 32);
            if result != Err(TransmitError::Full) {
                return;
            }
            self.turn(true);
        }
    }

    fn transmit(&mut self, input: &mut Input<'_>) {
        if input.u8() & 1 == 1 {
            return self.unfinished(input);
        }
        for _ in 0..=input.u8() & 7 {
            let frame = vec![input.u8(); input.below(1600)];
            let before = self.arena.accesses();
            let result = self.nic.transmit_plain(&mut self.channel, &frame, self.now);
            self.digest.debug(&result);
            assert!(self.arena.accesses() - before <= 16);
            match result {
                Err(TransmitError::NotReady) => {}
                _ if self.told == Told::Over => panic!("{result:?} from a NIC that is over"),
                Err(TransmitError::BadLength) => {
                    assert!(frame.len() < 14 || frame.len() > self.nic.mtu() as usize + 18);
                }
                Ok(()) | Err(TransmitError::Full) => {
                    assert!((14..=1518).contains(&frame.len()));
                }
            }
        }
    }

    /// The channel is closed, its memory comes back, everything starts over.
    fn restart(&mut self) {
        self.count();
        while !self.arena.is_quiet() {
            // What was to be written between two accesses is written now.
            let _ = self.channel.has_packets();
            let page = self.arena.region(0, 1, &[]);
            let _ = memory::SharedMemory::copy_in(&page, 0, &mut []);
        }
        let (nic, channel) = start(&self.arena, self.config, self.now);
        (self.nic, self.channel) = (nic, channel);
        self.host = Host::new(&self.arena);
        self.told = Told::Nothing;
        self.asked = HashKinds::empty();
        self.coming.clear();
        self.room = usize::MAX;
    }

    fn count(&mut self) {
        self.digest.violations(&self.nic.counters().validation);
        self.digest.violations(self.channel.counters());
        let counters = self.nic.counters();
        for number in [counters.rx_frames, counters.tx_frames, counters.rx_bytes] {
            self.digest.number(number);
        }
        self.digest.number(self.nic.outstanding() as u64);
    }

    /// Whatever happened: a stop comes to its end.
    fn finish(mut self) -> u64 {
        self.room = usize::MAX;
        self.host.honest = false;
        self.host.lie = None;
        self.nic.stop(self.now);
        for step in 0..40 {
            if self.told == Told::Over {
                break;
            }
            self.now += if step % 4 == 0 { 21 * SECOND } else { 0 };
            self.turn(true);
        }
        assert_eq!(self.told, Told::Over, "a stop without an end");
        self.count();
        self.digest.value()
    }
}
