//! The whole uplink (SynIC, VMBus client, rings, NIC, relay) over the fake host, with one
//! VP or with a second one that has a lane of its own, which may be slow to take its turns.
//! The host is honest until the input says otherwise: it changes, drops, cuts and
//! repeats messages, writes shared words at rest and between our accesses, takes
//! its offer back, says things of its own and lets time pass.

use crate::memory::{Arena, HostView, Race};
use crate::{Digest, Input};
use abi::hyperv::{CallResult, Control, VMBUS_MESSAGE_TYPE};
use abi::record::Outcome;
use devices::NoBuffer;
use hostkit::backend::Loopback;
use hostkit::fault::{Layer as FaultLayer, OutgoingMessage};
use hostkit::hv::NoHook;
use hostkit::{Machine, MachineConfig};
use memory::{Backing, Purpose, SharedPool};
use paravisor_core::lanes::{Hub, Worker};
use paravisor_core::run::Reason;
use paravisor_core::synic;
use paravisor_core::uplink::{Config, Standing, Uplink};
use platform::{Access, BootState, Error, Exit, Platform};
use relay::NetDevice;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use vmbus::Target;

use crate::vp::FakeVp;

const FIRST_PFN: u64 = 0x8801;
const PAGES: usize = 1024;
const VECTOR: u8 = 0x60;
/// Accesses to shared memory that one turn may cost: budgets of messages, flags,
/// packets and ranges, a few accesses each, and the zeroing of fresh pages.
const PER_TURN: u64 = 8192;

type Host = Machine<HostView, Loopback>;

/// A change that waits for its message.
#[derive(Clone, Copy)]
struct Lie {
    /// Messages of the layer that pass unchanged before.
    after: u8,
    layer: Option<FaultLayer>,
    kind: u8,
    at: u16,
    value: u32,
}

type Lies = Rc<RefCell<VecDeque<Lie>>>;

fn tell(lies: &Lies, message: &mut OutgoingMessage) {
    let mut lies = lies.borrow_mut();
    let Some(lie) = lies.front_mut() else { return };
    if lie.layer.is_some_and(|layer| layer != message.layer) || message.bytes.is_empty() {
        return;
    }
    if lie.after > 0 {
        lie.after -= 1;
        return;
    }
    let lie = *lie;
    lies.pop_front();
    let at = usize::from(lie.at) % message.bytes.len();
    match lie.kind % 8 {
        0 => message.copies = 0,
        1 => message.copies = 2 + lie.value % 100,
        2 => message.bytes.truncate(at.max(1)),
        3 => message.bytes[at] = lie.value as u8,
        _ => {
            let word = lie.value.to_le_bytes();
            let words = message.bytes[at & !3..].iter_mut().zip(word);
            words.for_each(|(to, from)| *to = from);
        }
    }
}

/// The platform of one VP, as far as the network uses it.
struct Below {
    host: Rc<RefCell<Host>>,
    index: u32,
    vp: FakeVp,
    /// What the next hypercalls end with, if not as they should.
    bad_calls: u8,
    bad_value: u64,
}

impl Platform for Below {
    type Vp = FakeVp;
    fn enter(&mut self) -> Exit {
        unreachable!()
    }
    fn vp(&mut self) -> &mut FakeVp {
        &mut self.vp
    }
    fn start(&mut self, _: &BootState) -> Result<(), Error> {
        unreachable!()
    }
    fn start_at(&mut self, _: u8) -> Result<(), Error> {
        unreachable!()
    }
    fn hypercall(&mut self, control: Control, input: &[u8]) -> Result<CallResult, Error> {
        if self.bad_calls > 0 {
            self.bad_calls -= 1;
            return match self.bad_value {
                value if value >> 63 != 0 => Err(Error::Malformed {
                    request: "hypercall",
                    value,
                }),
                value => Ok(CallResult(value)),
            };
        }
        let mut host = self.host.borrow_mut();
        let result = host.hypercall(&mut NoHook, self.index, control.0, input, &mut []);
        Ok(CallResult(result))
    }
    fn hypercall_counts(&self) -> &[(u16, u64)] {
        &[]
    }
    fn read_register(&mut self, register: u32) -> Result<u64, Error> {
        let mut host = self.host.borrow_mut();
        Ok(host.msr_read(self.index, register).unwrap_or(0))
    }
    fn write_register(&mut self, register: u32, value: u64) -> Result<(), Error> {
        let mut host = self.host.borrow_mut();
        host.msr_write(self.index, register, value)
            .expect("register");
        Ok(())
    }
    fn write_port(&mut self, _: u16, _: u8) -> Result<(), Error> {
        unreachable!()
    }
    fn share(&mut self, _: u64) -> Result<(), Error> {
        unreachable!()
    }
    fn unshare(&mut self, _: u64) -> Result<(), Error> {
        unreachable!()
    }
    fn accept(&mut self, _: u64, _: u64) -> Result<(), Error> {
        unreachable!()
    }
    fn protect(&mut self, _: u64, _: u64, _: Access) -> Result<(), Error> {
        unreachable!()
    }
    fn wait(&mut self) {}
    fn take_interrupts(&mut self) {}
    fn terminate(&mut self, outcome: Outcome) -> ! {
        panic!("terminated: {outcome:?}")
    }
}

impl Below {
    /// Whether the host's interrupt has come; asking takes it.
    fn is_raised(&mut self) -> bool {
        let mut host = self.host.borrow_mut();
        let Some(vector) = host.pending_vector(self.index) else {
            return false;
        };
        assert_eq!(vector, VECTOR);
        host.accept_vector(self.index, vector);
        true
    }
}

impl Second {
    fn turn(&mut self, now: u64) {
        if self.sleeps > 0 {
            self.sleeps -= 1;
            return;
        }
        let reason = Reason {
            sint: self.below.is_raised(),
            guest: !self.device.out.is_empty(),
            ..Reason::default()
        };
        let turn = self
            .worker
            .turn(&mut self.below, &mut self.device, reason, now);
        assert!(turn.is_ok(), "the paravisor ends");
        self.worker.take_findings();
    }
}

/// The guest's NIC, or the queues of one VP.
struct Device {
    out: VecDeque<Vec<u8>>,
    room: usize,
    received: u64,
    digest: Digest,
}

impl Device {
    fn new() -> Device {
        Device {
            out: VecDeque::new(),
            room: usize::MAX,
            received: 0,
            digest: Digest::new(),
        }
    }
}

impl NetDevice for Device {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.out.pop_front()?;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer> {
        assert!((14..=1518).contains(&frame.len()), "{} bytes", frame.len());
        self.room = self.room.checked_sub(1).ok_or(NoBuffer)?;
        self.received += 1;
        self.digest.bytes(frame);
        Ok(())
    }
    fn publish(&mut self) {}
    fn set_link(&mut self, up: bool) {
        self.digest.number(up.into());
    }
}

/// The second VP.
struct Second {
    below: Below,
    worker: Worker<<HostView as Backing>::Region>,
    device: Device,
    /// Turns that it lets pass.
    sleeps: u8,
}

struct World {
    below: Below,
    second: Option<Second>,
    uplink: Uplink<HostView, PAGES>,
    device: Device,
    arena: Rc<Arena>,
    lies: Lies,
    now: u64,
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let shape = input.u8();
    let mut world = World::new(shape & 2 != 0);
    world.uplink.start(world.now);
    if shape & 1 == 0 {
        for _ in 0..60 {
            world.turn();
            if world.uplink.standing() == (Standing::Ready { link: true }) {
                break;
            }
        }
        assert_eq!(world.uplink.standing(), Standing::Ready { link: true });
        if let Some(second) = &world.second {
            world.uplink.vps_online();
            world.uplink.set_queues(2);
            assert_eq!(second.worker.lane(), None);
        }
    }
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        world.act(&mut input);
        world.turn();
    }
    world.finish()
}

impl World {
    fn new(two: bool) -> World {
        let arena = Arena::new(PAGES, FIRST_PFN);
        let view = HostView(arena.clone());
        let lies = Lies::default();
        let vps = 1 + u8::from(two);
        let mut config = MachineConfig::default();
        config.partition.vp_count = vps.into();
        let mut host = Machine::new(view.clone(), Loopback::default(), config);
        let hook = lies.clone();
        host.faults.set_hook(move |message| tell(&hook, message));
        let host = Rc::new(RefCell::new(host));
        let below = |index| Below {
            host: host.clone(),
            index,
            vp: FakeVp::new(0),
            bad_calls: 0,
            bad_value: 0,
        };
        let mut first = below(0);
        let mut pool = SharedPool::new(view, FIRST_PFN);
        let messages = pool.take(1, Purpose::Synic).expect("page");
        let flags = pool.take(1, Purpose::Synic).expect("page");
        let target = Target::REDIRECTED;
        synic::introduce(&mut first).expect("introduction");
        synic::take(&mut first, &messages, &flags, target.sint, VECTOR).expect("SynIC");
        let config = Config {
            target,
            mac: None,
            mtu: 1500,
            enforce_unmeasured: true,
            seed: 7,
            sub_channels: u16::from(two),
            coalescing: false,
        };
        // The pages are watched by one thread, and so is the way to them.
        #[allow(clippy::arc_with_non_send_sync)]
        let hub = Arc::new(Hub::new(vps));
        let second = two.then(|| {
            let messages = pool.take(1, Purpose::Synic).expect("page");
            let flags = pool.take(1, Purpose::Synic).expect("page");
            let mut below = below(1);
            synic::identify(&mut below, 1).expect("identity");
            synic::take(&mut below, &messages, &flags, target.sint, VECTOR).expect("SynIC");
            Second {
                below,
                worker: Worker::new(hub.clone(), 1, messages, flags, target.sint),
                device: Device::new(),
                sleeps: 0,
            }
        });
        World {
            below: first,
            second,
            uplink: Uplink::with_lanes(config, pool, messages, flags, hub),
            device: Device::new(),
            arena,
            lies,
            now: 1000,
        }
    }

    /// Both sides once.
    fn turn(&mut self) {
        self.now += 1000;
        let _ = self.below.host.borrow_mut().poll(self.now);
        let raised = self.below.is_raised();
        let before = self.arena.accesses();
        let polled = self
            .uplink
            .turn(&mut self.below, &mut self.device, raised, self.now);
        // No word of the host ends more than the link.
        assert!(polled.is_ok(), "the paravisor ends");
        let cost = self.arena.accesses() - before;
        assert!(cost <= PER_TURN, "{cost} accesses in a turn");
        if let Some(second) = &mut self.second {
            let before = self.arena.accesses();
            second.turn(self.now);
            let cost = self.arena.accesses() - before;
            assert!(cost <= PER_TURN, "{cost} accesses in a turn");
        }
        assert_eq!(self.arena.outside(), 0, "an access outside of its region");
        assert_eq!(self.uplink.pool().shared(), self.arena.shared());
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=4 => self.lies.borrow_mut().push_back(Lie {
                after: input.u8() & 15,
                layer: match input.u8() % 4 {
                    0 => Some(FaultLayer::Control),
                    1 => Some(FaultLayer::Packet),
                    2 => Some(FaultLayer::ReceiveBuffer),
                    _ => None,
                },
                kind: input.u8(),
                at: input.u16(),
                value: input.word(),
            }),
            5 | 6 => {
                for _ in 0..=input.u8() & 7 {
                    let mut frame = vec![0xff; 14 + input.below(1500)];
                    frame[6] = input.u8();
                    let device = match &mut self.second {
                        Some(second) if frame[6] & 1 != 0 => &mut second.device,
                        _ => &mut self.device,
                    };
                    if device.out.len() < 100 {
                        device.out.push_back(frame);
                    }
                }
            }
            7 => {
                let at = self.shared_word(input);
                let value = input.word();
                self.arena.poke(at, &value.to_le_bytes());
            }
            8 => {
                let offset = self.shared_word(input);
                self.arena.race(Race {
                    after: input.u8().into(),
                    offset,
                    value: input.word(),
                });
            }
            9 => {
                let host = &mut *self.below.host.borrow_mut();
                match input.u8() % 8 {
                    0 | 4 => host.rescind_nic(),
                    1 | 5 if host.nic_relid < 64 => drop(host.offer_nic()),
                    2 => {
                        if let Some(relid) = host.subs.keys().next().copied() {
                            host.rescind(relid);
                        }
                    }
                    3 => {
                        if let Some(second) = &mut self.second {
                            second.sleeps = input.u8();
                        }
                    }
                    _ => {}
                }
            }
            10 => {
                let packet = input.run();
                self.below.host.borrow_mut().nic.inject_packet(packet);
            }
            11 => {
                let message = input.run();
                self.below.host.borrow_mut().nic.inject_control(message);
            }
            12 => {
                let sint = Target::REDIRECTED.sint;
                let kind = if input.flag() {
                    input.word()
                } else {
                    VMBUS_MESSAGE_TYPE
                };
                let payload = input.run();
                let Machine { partition, mem, .. } = &mut *self.below.host.borrow_mut();
                let vp = u32::from(self.second.is_some() && input.flag());
                partition.send_message(mem, vp, sint, kind, 0, &payload[..payload.len().min(240)]);
            }
            13 => self.now += u64::from(input.u8()) * vmbus::limits::SECOND / 4,
            14 => {
                let below = match &mut self.second {
                    Some(second) if input.flag() => &mut second.below,
                    _ => &mut self.below,
                };
                below.bad_calls = input.u8() & 7;
                below.bad_value = match input.u8() % 3 {
                    0 => u64::from(input.u16()),
                    1 => input.u64(),
                    _ => 1 << 63 | input.u64(),
                };
            }
            _ => {
                self.device.room = usize::from(input.u8());
                if let Some(second) = &mut self.second {
                    second.device.room = self.device.room;
                }
                for _ in 0..input.u8() & 15 {
                    self.turn();
                }
            }
        }
    }

    /// A word of a page that the host can see; often one of a header.
    fn shared_word(&self, input: &mut Input<'_>) -> usize {
        let page = match input.u8() {
            page @ 0..=63 => usize::from(page),
            64..=127 => 2,
            128..=191 => 2 + 17,
            _ => input.below(self.arena.shared().max(1)),
        };
        let page = page % self.arena.shared().max(1);
        let at = if input.flag() {
            input.below(4) * 4
        } else {
            input.below(1024) * 4
        };
        page * 4096 + at
    }

    /// The host goes away: whatever it did, every page is accounted for.
    fn finish(mut self) -> u64 {
        self.lies.borrow_mut().clear();
        self.below.bad_calls = 0;
        if let Some(second) = &mut self.second {
            second.below.bad_calls = 0;
            second.sleeps = 0;
        }
        for step in 0..24 {
            self.now += if step % 4 == 0 {
                40 * vmbus::limits::SECOND
            } else {
                1000
            };
            if step == 4 {
                self.below.host.borrow_mut().rescind_nic();
            }
            self.turn();
        }
        let pool = self.uplink.pool();
        let used: usize = Purpose::ALL
            .into_iter()
            .map(|purpose| pool.used(purpose))
            .sum();
        let leaked: usize = Purpose::ALL
            .into_iter()
            .map(|purpose| pool.leaked(purpose))
            .sum();
        let synic = 2 * (1 + usize::from(self.second.is_some()));
        assert!(used + leaked <= pool.shared() && used >= synic);
        if matches!(self.uplink.standing(), Standing::NoNic | Standing::Failed) {
            assert_eq!(used, synic, "pages that nobody accounts for");
        }
        let mut digest = self.device.digest;
        if let Some(second) = &mut self.second {
            assert_eq!(second.worker.lane(), None, "a lane of a NIC that is gone");
            digest.number(second.device.digest.value());
            digest.violations(second.worker.counters());
            digest.number(second.device.received);
        }
        let totals = self.uplink.totals();
        digest.violations(&totals.validation);
        digest.debug(&self.uplink.standing());
        digest.debug(&self.uplink.failure());
        for number in [
            totals.rx_frames,
            totals.tx_frames,
            totals.restarts,
            totals.signals_sent,
            self.device.received,
            used as u64,
            leaked as u64,
        ] {
            digest.number(number);
        }
        digest.value()
    }
}
