//! Host, paravisor and guest in one process: the fake host with its NIC, the real
//! client, NIC, relay and virtio-net device, and a guest's driver that does the least.
//! Memory is reached as in the firmware.

use crate::tcp;
use abi::hyperv::{CallResult, Control, PostMessage, SignalEvent, Sint, call, msr};
use abi::virtio::{net, queue};
use devices::test_support::{self, HostCpu, NetDriver, Ram};
use devices::{Machine, MachineConfig as GuestConfig};
use hostkit::MachineConfig;
use hostkit::backend::{Backend, DEFAULT_MAC};
use hostkit::hv::NoHook;
use hostkit::mem::{MemoryFault, VmMemory};
use memory::{GuestMemory, Native, NativeGuest, RawShared, SharedMemory};
use netvsc::{Config, Nic};
use relay::{Host, InVm, Relay};
use vmbus::synic::{EventFlags, MessageSlot};
use vmbus::{Action, Channel, ChannelId, Client, Event, GpadlId, SignalTarget, Target};
use zerocopy::{FromZeros, IntoBytes};

const PAGE: usize = 4096;
const SIMP: usize = 0x1000;
const SIEFP: usize = 0x2000;
const RINGS: usize = 0x1_0000;
/// Pages of each ring with its control page.
const RING_PAGES: usize = 17;
const RECEIVE: usize = 0x10_0000;
const SEND: usize = 0x40_0000;
const SHARED: usize = 0x60_0000;
const VECTOR: u8 = 0x50;
/// The guest's queues, and its buffers.
const QUEUES: u64 = 0x10_0000;
const BUFFERS: u64 = 0x40_0000;

/// All of the memory that is shared with the host.
pub struct View(RawShared);

impl VmMemory for View {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        let read = self.0.copy_in(gpa as usize, dst);
        read.map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        let written = self.0.copy_out(gpa as usize, src);
        written.map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        let word = self.0.load_u32(gpa as usize);
        word.map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        let stored = self.0.store_u32(gpa as usize, value);
        stored.map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        // One thread: nothing comes between.
        let old = self.load_u32(gpa)?;
        self.store_u32(gpa, old | bits)?;
        Ok(old)
    }
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        let took = self.0.compare_exchange_u32(gpa as usize, from, to);
        took.map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn fence(&self) {
        self.0.fence();
    }
}

/// A network that sends the same frames over and over, and counts what it gets.
pub struct Feed {
    /// The frames.
    frames: Vec<Vec<u8>>,
    /// The one that is next.
    next: usize,
    /// How many are to come.
    pub left: usize,
    /// Frames of the guest, and the bytes in them.
    pub got: (u64, u64),
}

impl Backend for Feed {
    fn mac(&self) -> [u8; 6] {
        DEFAULT_MAC
    }
    fn send(&mut self, frame: &[u8]) {
        self.got.0 += 1;
        self.got.1 += frame.len() as u64;
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        frame.extend_from_slice(&self.frames[self.next]);
        self.next = (self.next + 1) % self.frames.len();
        true
    }
}

/// A queue of the guest: descriptor, ring entry and buffer `n` belong together.
struct Queue {
    avail: u64,
    used: u64,
    size: u16,
    posted: u16,
    reaped: u16,
}

/// All three.
pub struct World {
    /// The host.
    pub host: hostkit::Machine<View, Feed>,
    client: Client,
    channel: Channel<RawShared>,
    nic: Option<Nic<RawShared>>,
    relay: Relay,
    /// The guest's machine.
    pub machine: Machine,
    guest: NativeGuest,
    queues: [Queue; 2],
    shared: Native,
    pages: [RawShared; 2],
    buffers: Vec<GpadlId>,
    created: usize,
    id: Option<ChannelId>,
    signal: Option<SignalTarget>,
    now: u64,
    mtu: u16,
    /// What the guest gets, and sends.
    pub frame: Vec<u8>,
    /// Frames are cut into segments, and joined.
    large: bool,
    /// From one of the guest's buffers to the next, and room in one that receives.
    stride: [u64; 2],
}

impl World {
    /// As [`World::new`], with frames of TCP that are cut into segments where they are not
    /// the guest's.
    pub fn large(len: usize) -> World {
        let segments = tcp::segments(len);
        World::with(tcp::whole(len), segments.len(), segments, true)
    }

    /// Whether [`World::large`] has made it.
    pub fn is_large(&self) -> bool {
        self.large
    }

    /// Frames that the network sees of one of the guest's.
    pub fn segments(&self) -> usize {
        self.host.backend.frames.len()
    }

    /// Buffers of the guest that a frame takes.
    pub fn buffers(&self, which: u16) -> usize {
        let whole = self.frame.len() + net::HEADER_LEN;
        whole.div_ceil(self.stride[usize::from(which)] as usize)
    }

    /// Everything up, with frames of `len` bytes (Ethernet header included); the host
    /// puts up to `ranges` of them into one packet.
    pub fn new(len: usize, ranges: usize) -> World {
        let mut frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
        frame[..6].copy_from_slice(&DEFAULT_MAC);
        // A protocol that nobody looks into.
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        World::with(frame.clone(), ranges, vec![frame], false)
    }

    fn with(frame: Vec<u8>, ranges: usize, frames: Vec<Vec<u8>>, large: bool) -> World {
        let len = frame.len();
        let longest = frames.iter().map(Vec::len).max().unwrap_or(0);
        let mtu = longest.saturating_sub(14).max(1500) as u16;
        let shared = Native::new(SHARED / PAGE, 0).expect("memory");
        let window = |at: usize, len: usize| shared.window(at, len).expect("a window");
        let mut config = MachineConfig::default();
        config.nic.max_ranges = ranges;
        config.nic.mtu = u32::from(mtu) + 14;
        let feed = Feed {
            frames,
            next: 0,
            left: 0,
            got: (0, 0),
        };
        let target = Target::REDIRECTED;
        let mut host = hostkit::Machine::new(View(window(0, SHARED)), feed, config);
        for (register, value) in [
            (msr::GUEST_OS_ID, 1 << 63),
            (msr::SIMP, SIMP as u64 | 1),
            (msr::SIEFP, SIEFP as u64 | 1),
            (
                msr::SINT0 + u32::from(target.sint),
                Sint::new(VECTOR, true).0,
            ),
            (msr::SCONTROL, 1),
        ] {
            host.msr_write(0, register, value).expect("a register");
        }
        let config = GuestConfig {
            mac: DEFAULT_MAC,
            mtu,
            ..test_support::config()
        };
        let mut machine = Machine::new(&config, &HostCpu);
        let ram = Native::new(0x180_0000 / PAGE, 0).expect("memory");
        let guest = NativeGuest::new(&ram).expect("memory");
        let driver = NetDriver::start(&mut machine, &Ram::new(0x40_0000), QUEUES, u64::MAX);
        let whole = (len + net::HEADER_LEN).next_multiple_of(2048) as u64;
        let stride = [if large { 2048 } else { whole }, whole];
        // What a driver says of a frame that is to be cut.
        let mut header = [0; net::HEADER_LEN];
        if large {
            header = [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0];
            header[4..6].copy_from_slice(&(tcp::SEGMENT as u16).to_le_bytes());
        }
        let queues = [net::QUEUE_RX, net::QUEUE_TX].map(|which| {
            let size = 256_u16;
            let (desc, avail, used) = driver.rings(which);
            let step = stride[usize::from(which)];
            let (space, flags) = match which {
                net::QUEUE_RX => (step, queue::DESC_WRITE),
                _ => ((net::HEADER_LEN + len) as u64, 0),
            };
            let base = BUFFERS + u64::from(which) * stride[0] * u64::from(size);
            for id in 0..size {
                let address = base + step * u64::from(id);
                let bytes = [
                    &address.to_le_bytes()[..],
                    &(space as u32).to_le_bytes(),
                    &flags.to_le_bytes(),
                    &[0; 2],
                ]
                .concat();
                let write = |at: u64, bytes: &[u8]| guest.write(at, bytes).expect("RAM");
                write(desc + 16 * u64::from(id), &bytes);
                let entry = avail + queue::RING_OFFSET + 2 * u64::from(id);
                write(entry, &id.to_le_bytes());
                if which == net::QUEUE_TX {
                    write(address, &header);
                    write(address + net::HEADER_LEN as u64, &frame);
                }
            }
            Queue {
                avail,
                used,
                size,
                posted: 0,
                reaped: 0,
            }
        });
        let rings = window(RINGS, 2 * RING_PAGES * PAGE);
        let mut world = World {
            host,
            client: Client::new(vmbus::Config::new(target)),
            channel: Channel::new(rings, RING_PAGES as u32, netvsc::POLICY).expect("geometry"),
            nic: None,
            relay: Relay::new(),
            machine,
            guest,
            queues,
            pages: [window(SIMP, PAGE), window(SIEFP, PAGE)],
            shared,
            buffers: Vec::new(),
            created: 0,
            id: None,
            signal: None,
            now: 0,
            mtu,
            frame,
            large,
            stride,
        };
        world.bring_up(target.sint);
        if large {
            let nic = world.nic.as_mut().expect("a NIC");
            nic.coalesce(world.machine.takes_joined());
            for _ in 0..4 {
                world.poll();
                world.later(vmbus::Signal::NotNeeded);
            }
        }
        world
    }

    fn bring_up(&mut self, sint: u8) {
        self.client.start(self.now).expect("a client");
        for _ in 0..500 {
            self.now += 10_000;
            self.host();
            let (client, host, now) = (&mut self.client, &mut self.host, self.now);
            let _ = MessageSlot::new(sint).drain(
                &self.pages[0],
                16,
                |copy| client.on_message(copy, now),
                || host.msr_write(0, msr::EOM, 0).expect("a register"),
            );
            let flags = EventFlags::new(sint).take(&self.pages[1], self.client.highest_flag());
            let _ = self.client.on_event_flags(&flags).count();
            while let Some(event) = self.client.next_event() {
                self.react(event);
            }
            self.post();
            if self.nic.is_some() {
                self.poll();
            }
            if self.relay.link_up() {
                // A driver says where it wants to be woken.
                return;
            }
        }
        panic!("the NIC does not come up");
    }

    fn post(&mut self) {
        while let Some(Action::PostMessage(post)) = self.client.poll(self.now) {
            let mut input = PostMessage::new_zeroed();
            input.connection_id = post.connection_id();
            input.message_type = abi::hyperv::VMBUS_MESSAGE_TYPE;
            input.payload_size = post.payload().len() as u32;
            input.payload = *post.padded();
            let result = self.call(call::POST_MESSAGE, input.as_bytes());
            self.client.on_post_result(result, self.now);
        }
    }

    fn call(&mut self, code: u16, input: &[u8]) -> u16 {
        let control = Control::simple(code).0;
        let result = self.host.hypercall(&mut NoHook, 0, control, input, &mut []);
        CallResult(result).status()
    }

    fn react(&mut self, event: Event) {
        let window = |at: usize, len: usize| self.shared.window(at, len).expect("a window");
        let parts = [
            (RECEIVE, netvsc::limits::RECEIVE_BUFFER),
            (SEND, netvsc::limits::SEND_BUFFER),
        ];
        match event {
            Event::Offered { channel, .. } => {
                self.id = Some(channel);
                let (rings, page) = (self.channel.memory(), self.channel.downstream_page());
                let opened = self.client.open(channel, rings, page, 0, self.now);
                opened.expect("an open");
            }
            Event::Opened { channel, signal } => {
                self.signal = Some(signal);
                for (at, len) in parts {
                    let made = self
                        .client
                        .create_gpadl(channel, &window(at, len), self.now);
                    self.buffers.push(made.expect("a GPADL"));
                }
            }
            Event::GpadlCreated { .. } => {
                self.created += 1;
                // The rings have one too, of which nobody is told.
                if self.created == self.buffers.len() {
                    let config = Config {
                        receive_gpadl: self.buffers[0].number(),
                        send_gpadl: self.buffers[1].number(),
                        mtu: self.mtu.into(),
                        mac: None,
                        promiscuous: false,
                        enforce_unmeasured: true,
                        seed: 7,
                        sub_channels: 0,
                        trust_checksums: self.large,
                        coalescing: self.large,
                    };
                    let [receive, send] = parts.map(|(at, len)| window(at, len));
                    let mut nic = Nic::new(config, receive, send).expect("buffers");
                    nic.start(self.now);
                    self.nic = Some(nic);
                }
            }
            Event::Failed { violation } => panic!("connection failed: {violation}"),
            _ => {}
        }
    }

    /// The host's turn.
    pub fn host(&mut self) {
        let _ = self.host.poll(self.now);
        while let Some(vector) = self.host.pending_vector(0) {
            self.host.accept_vector(0, vector);
        }
    }

    /// The paravisor's turn, and what it asks of the host.
    fn poll(&mut self) {
        if self.relay().is_needed() {
            let target = self.signal.expect("a channel");
            let input = SignalEvent {
                connection_id: target.connection_id,
                flag: target.flag,
                reserved: 0,
            };
            assert_eq!(self.call(call::SIGNAL_EVENT, input.as_bytes()), 0);
        }
    }

    /// One poll of the relay: what is measured.
    #[inline]
    pub fn relay(&mut self) -> vmbus::Signal {
        let nic = self.nic.as_mut().expect("a NIC");
        let mut host = Host {
            nic,
            channel: &mut self.channel,
        };
        let mut guest = InVm {
            machine: &mut self.machine,
            memory: &self.guest,
        };
        let budget = relay::limits::TX_PER_POLL;
        let polled = self.relay.poll(&mut host, &mut guest, self.now, budget);
        assert_eq!(polled.ended, None);
        polled.signal
    }

    /// The guest makes `count` buffers of a queue available, and wants to be woken.
    pub fn post_buffers(&mut self, which: u16, count: u16) {
        let queue = &mut self.queues[usize::from(which)];
        queue.posted = queue.posted.wrapping_add(count);
        let event = queue.avail + queue::RING_OFFSET + 2 * u64::from(queue.size);
        for (at, value) in [
            (event, queue.reaped),
            (queue.avail + queue::IDX_OFFSET, queue.posted),
        ] {
            self.guest.write(at, &value.to_le_bytes()).expect("RAM");
        }
    }

    /// The guest takes back what was used; how many.
    pub fn reap(&mut self, which: u16) -> u16 {
        let queue = &mut self.queues[usize::from(which)];
        let mut index = [0; 2];
        let at = queue.used + queue::IDX_OFFSET;
        self.guest.read(at, &mut index).expect("RAM");
        let used = u16::from_le_bytes(index);
        let count = used.wrapping_sub(queue.reaped);
        queue.reaped = used;
        while let Some(pending) = self.machine.pending_interrupt() {
            self.machine.accept_interrupt(pending.vector);
            self.machine.mmio_write(0xfee0_00b0, 4, 0, 0);
        }
        count
    }

    /// Bytes of the buffer into which the guest got its last frame.
    pub fn last_received(&self, len: usize) -> Vec<u8> {
        let queue = &self.queues[usize::from(net::QUEUE_RX)];
        let stride = self.stride[0];
        let buffers = self.buffers(net::QUEUE_RX) as u16;
        let mut bytes = Vec::new();
        for back in (1..=buffers).rev() {
            let id = u64::from(queue.reaped.wrapping_sub(back) % queue.size);
            let mut part = vec![0; stride as usize];
            let at = BUFFERS + stride * id;
            self.guest.read(at, &mut part).expect("RAM");
            bytes.extend(part);
        }
        bytes[net::HEADER_LEN..][..len].to_vec()
    }

    /// Time goes on.
    pub fn later(&mut self, signal: vmbus::Signal) {
        // Far enough for the pace of interrupts (SYS-07).
        self.now += 10_000;
        if signal.is_needed() {
            let target = self.signal.expect("a channel");
            let input = SignalEvent {
                connection_id: target.connection_id,
                flag: target.flag,
                reserved: 0,
            };
            assert_eq!(self.call(call::SIGNAL_EVENT, input.as_bytes()), 0);
        }
        self.host();
    }

    /// Rules that did not hold: none, with an honest host.
    pub fn violations(&self) -> u64 {
        let nic = self.nic.as_ref().expect("a NIC");
        nic.counters().validation.total() + self.channel.counters().total()
    }
}
