//! The whole uplink (SynIC, VMBus client, rings, NIC, relay) over the fake host.
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
use memory::{Purpose, SharedPool};
use paravisor_core::synic;
use paravisor_core::uplink::{Config, Standing, Uplink};
use platform::{Access, BootState, Error, Exit, Platform};
use relay::NetDevice;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
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

/// The platform, as far as the uplink uses it.
struct Below {
    host: Host,
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
        let result = self
            .host
            .hypercall(&mut NoHook, 0, control.0, input, &mut []);
        Ok(CallResult(result))
    }
    fn hypercall_counts(&self) -> &[(u16, u64)] {
        &[]
    }
    fn read_register(&mut self, register: u32) -> Result<u64, Error> {
        Ok(self.host.msr_read(0, register).unwrap_or(0))
    }
    fn write_register(&mut self, register: u32, value: u64) -> Result<(), Error> {
        self.host.msr_write(0, register, value).expect("register");
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

/// The guest's NIC.
struct Device {
    out: VecDeque<Vec<u8>>,
    room: usize,
    received: u64,
    digest: Digest,
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

struct World {
    below: Below,
    uplink: Uplink<HostView, PAGES>,
    device: Device,
    arena: Rc<Arena>,
    lies: Lies,
    now: u64,
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut world = World::new();
    world.uplink.start(world.now);
    if input.u8() & 1 == 0 {
        for _ in 0..60 {
            world.turn();
            if world.uplink.standing() == (Standing::Ready { link: true }) {
                break;
            }
        }
        assert_eq!(world.uplink.standing(), Standing::Ready { link: true });
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
    fn new() -> World {
        let arena = Arena::new(PAGES, FIRST_PFN);
        let view = HostView(arena.clone());
        let lies = Lies::default();
        let mut host = Machine::new(view.clone(), Loopback::default(), MachineConfig::default());
        let hook = lies.clone();
        host.faults.set_hook(move |message| tell(&hook, message));
        let mut below = Below {
            host,
            vp: FakeVp::new(0),
            bad_calls: 0,
            bad_value: 0,
        };
        let mut pool = SharedPool::new(view, FIRST_PFN);
        let messages = pool.take(1, Purpose::Synic).expect("page");
        let flags = pool.take(1, Purpose::Synic).expect("page");
        let target = Target::REDIRECTED;
        synic::introduce(&mut below).expect("introduction");
        synic::take(&mut below, &messages, &flags, target.sint, VECTOR).expect("SynIC");
        let config = Config {
            target,
            mac: None,
            mtu: 1500,
            enforce_unmeasured: true,
            seed: 7,
            sub_channels: 0,
        };
        World {
            below,
            uplink: Uplink::new(config, pool, messages, flags),
            device: Device {
                out: VecDeque::new(),
                room: usize::MAX,
                received: 0,
                digest: Digest::new(),
            },
            arena,
            lies,
            now: 1000,
        }
    }

    /// Both sides once.
    fn turn(&mut self) {
        self.now += 1000;
        let host = &mut self.below.host;
        let _ = host.poll(self.now);
        let vector = host.pending_vector(0);
        if let Some(vector) = vector {
            assert_eq!(vector, VECTOR);
            host.accept_vector(0, vector);
        }
        let before = self.arena.accesses();
        let raised = vector.is_some();
        let polled = self
            .uplink
            .turn(&mut self.below, &mut self.device, raised, self.now);
        // No word of the host ends more than the link.
        assert!(polled.is_ok(), "the paravisor ends");
        let cost = self.arena.accesses() - before;
        assert!(cost <= PER_TURN, "{cost} accesses in a turn");
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
                    if self.device.out.len() < 100 {
                        self.device.out.push_back(frame);
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
                let relid = self.below.host.nic_relid;
                let host = &mut self.below.host;
                match input.u8() % 4 {
                    0 => host.rescind_nic(),
                    1 if relid < 64 => drop(host.offer_nic()),
                    _ => {}
                }
            }
            10 => {
                let packet = input.run();
                self.below.host.nic.inject_packet(packet);
            }
            11 => {
                let message = input.run();
                self.below.host.nic.inject_control(message);
            }
            12 => {
                let sint = Target::REDIRECTED.sint;
                let kind = if input.flag() {
                    input.word()
                } else {
                    VMBUS_MESSAGE_TYPE
                };
                let payload = input.run();
                let Machine { partition, mem, .. } = &mut self.below.host;
                partition.send_message(mem, 0, sint, kind, 0, &payload[..payload.len().min(240)]);
            }
            13 => self.now += u64::from(input.u8()) * vmbus::limits::SECOND / 4,
            14 => {
                self.below.bad_calls = input.u8() & 7;
                self.below.bad_value = match input.u8() % 3 {
                    0 => u64::from(input.u16()),
                    1 => input.u64(),
                    _ => 1 << 63 | input.u64(),
                };
            }
            _ => {
                self.device.room = usize::from(input.u8());
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
        for step in 0..24 {
            self.now += if step % 4 == 0 {
                40 * vmbus::limits::SECOND
            } else {
                1000
            };
            if step == 4 {
                self.below.host.rescind_nic();
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
        assert!(used + leaked <= pool.shared() && used >= 2);
        if matches!(self.uplink.standing(), Standing::NoNic | Standing::Failed) {
            assert_eq!(used, 2, "pages that nobody accounts for");
        }
        let mut digest = self.device.digest;
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
