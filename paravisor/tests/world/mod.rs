//! The uplink over a fake host and a guest's NIC, all in one process.

// Each test program uses its own part of this.
#![allow(dead_code)]

use abi::hyperv::{CallResult, Control};
use abi::record::Outcome;
use devices::NoBuffer;
use hostkit::backend::Loopback;
use hostkit::fault::OutgoingMessage;
use hostkit::hv::NoHook;
use hostkit::mem::{MemoryFault, VmMemory};
use hostkit::{Machine, MachineConfig};
use memory::doubles::PlainShared;
use memory::{Backing, Parcel, Purpose, ShareFailed, SharedMemory, SharedPool};
use paravisor_core::audit::Finding;
use paravisor_core::lanes::{Hub, Worker};
use paravisor_core::run::{End, Reason};
use paravisor_core::synic;
use paravisor_core::uplink::{Config, Standing, Uplink};
use platform::{Access, BootState, Error, Exit, Platform, Reg, Registers, Seg, Segment};
use relay::NetDevice;
use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use validate::frame::{Arrived, FlowHash};
use vmbus::Target;

pub const FIRST_PFN: u64 = 0x8801;
pub const PAGES: usize = 1024;
pub const VECTOR: u8 = 0x60;

thread_local! {
    /// The paravisor's own code runs, not the host's or the guest's.
    pub static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs what is the paravisor's (`true`), or what it calls and is not.
fn side<T>(inside: bool, run: impl FnOnce() -> T) -> T {
    let before = INSIDE.replace(inside);
    let result = run();
    INSIDE.set(before);
    result
}

/// Pages that were shared with the host, and the host's accesses to others.
#[derive(Default)]
pub struct Ledger {
    pub shared: HashSet<u64>,
    pub refused: u64,
    /// The host changes no page's state any more.
    pub stubborn: bool,
}

/// The pool's memory as the host sees it.
#[derive(Clone)]
pub struct HostView {
    pub memory: PlainShared,
    pub ledger: Rc<RefCell<Ledger>>,
}

impl HostView {
    pub fn at(&self, gpa: u64, len: usize) -> Result<usize, MemoryFault> {
        let mut ledger = self.ledger.borrow_mut();
        let pages = (gpa >> 12)..=((gpa + len.max(1) as u64 - 1) >> 12);
        if !pages.clone().all(|pfn| ledger.shared.contains(&pfn)) {
            ledger.refused += 1;
            return Err(MemoryFault::Private(gpa));
        }
        Ok((gpa - (FIRST_PFN << 12)) as usize)
    }
}

impl VmMemory for HostView {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        let at = self.at(gpa, dst.len())?;
        self.memory
            .copy_in(at, dst)
            .map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        let at = self.at(gpa, src.len())?;
        self.memory
            .copy_out(at, src)
            .map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        let at = self.at(gpa, 4)?;
        self.memory
            .load_u32(at)
            .map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        let at = self.at(gpa, 4)?;
        self.memory
            .store_u32(at, value)
            .map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        // One thread: nothing comes between.
        let old = self.load_u32(gpa)?;
        self.store_u32(gpa, old | bits)?;
        Ok(old)
    }
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        let at = self.at(gpa, 4)?;
        self.memory
            .compare_exchange_u32(at, from, to)
            .map_err(|_| MemoryFault::Unmapped(gpa))
    }
    fn fence(&self) {
        self.memory.fence();
    }
}

impl Backing for HostView {
    type Region = PlainShared;
    fn share(&mut self, first_pfn: u64, pages: usize) -> Result<(), ShareFailed> {
        side(false, || {
            let mut ledger = self.ledger.borrow_mut();
            if ledger.stubborn {
                return Err(ShareFailed);
            }
            ledger.shared.extend((first_pfn..).take(pages));
            Ok(())
        })
    }
    fn region(&mut self, first_pfn: u64, pages: usize) -> Option<PlainShared> {
        let at = (first_pfn - FIRST_PFN) as usize * 4096;
        self.memory.window(at, pages * 4096)
    }
}

pub type Host = Machine<HostView, Loopback>;

/// The platform, as far as the uplink uses it: the fake host itself, and how its
/// hypercalls end, if not as they should.
#[derive(Clone)]
pub struct Below(
    pub Rc<RefCell<Host>>,
    pub Rc<Cell<Option<Error>>>,
    /// The VP that asks.
    pub u32,
);

pub struct NoVp;

impl Registers for NoVp {
    fn get(&self, _: Reg) -> u64 {
        unreachable!()
    }
    fn set(&mut self, _: Reg, _: u64) {
        unreachable!()
    }
    fn segment(&self, _: Seg) -> Segment {
        unreachable!()
    }
    fn cpl(&self) -> u8 {
        unreachable!()
    }
    fn next_rip(&self) -> u64 {
        unreachable!()
    }
    fn offer_interrupt(&mut self, _: Option<u8>) {}
    fn interrupt_offered(&self) -> bool {
        unreachable!()
    }
    fn task_priority(&self) -> u8 {
        unreachable!()
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn raise(&mut self, _: u8, _: Option<u32>) {}
    fn inject_nmi(&mut self) {}
    fn event_pending(&self) -> bool {
        unreachable!()
    }
    fn clear_interrupt_shadow(&mut self) {}
    fn interrupts_enabled(&self) -> bool {
        unreachable!()
    }
}

impl Platform for Below {
    type Vp = NoVp;
    fn enter(&mut self) -> Exit {
        unreachable!()
    }
    fn vp(&mut self) -> &mut NoVp {
        unreachable!()
    }
    fn start(&mut self, _: &BootState) -> Result<(), Error> {
        unreachable!()
    }
    fn start_at(&mut self, _: u8) -> Result<(), Error> {
        unreachable!()
    }
    fn hypercall(&mut self, control: Control, input: &[u8]) -> Result<CallResult, Error> {
        if let Some(error) = self.1.get() {
            return Err(error);
        }
        let mut host = self.0.borrow_mut();
        let call = || host.hypercall(&mut NoHook, self.2, control.0, input, &mut []);
        Ok(CallResult(side(false, call)))
    }
    fn hypercall_counts(&self) -> &[(u16, u64)] {
        &[]
    }
    fn read_register(&mut self, register: u32) -> Result<u64, Error> {
        let mut host = self.0.borrow_mut();
        Ok(side(false, || host.msr_read(self.2, register)).unwrap())
    }
    fn write_register(&mut self, register: u32, value: u64) -> Result<(), Error> {
        let mut host = self.0.borrow_mut();
        side(false, || host.msr_write(self.2, register, value)).unwrap();
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
        unreachable!("{outcome:?}")
    }
}

/// A guest's NIC made of two queues.
#[derive(Default)]
pub struct Device {
    pub out: VecDeque<Vec<u8>>,
    pub received: Vec<Vec<u8>>,
    /// The hashes of these.
    pub hashes: Vec<Option<FlowHash>>,
    pub link: Vec<bool>,
}

impl NetDevice for Device {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.out.pop_front()?;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer> {
        side(false, || self.received.push(frame.to_vec()));
        Ok(())
    }
    fn deliver(&mut self, parcel: &mut Parcel<'_>, arrived: Arrived) -> Result<(), NoBuffer> {
        side(false, || self.hashes.push(arrived.hash()));
        self.deliver_rx(parcel.head())
    }
    fn publish(&mut self) {}
    fn set_link(&mut self, up: bool) {
        side(false, || self.link.push(up));
    }
}

/// A VP other than the first, with its queues of the guest's NIC.
pub struct Other {
    pub below: Below,
    pub worker: Worker<PlainShared>,
    pub device: Device,
    /// It gets its turns.
    pub runs: bool,
    pub findings: Vec<Finding>,
}

pub struct World {
    pub below: Below,
    pub uplink: Uplink<HostView, PAGES>,
    pub device: Device,
    pub others: Vec<Other>,
    pub ledger: Rc<RefCell<Ledger>>,
    pub memory: PlainShared,
    pub now: u64,
    /// When the uplink wants its next turn.
    pub deadline: Option<u64>,
}

impl Other {
    pub fn turn(&mut self, now: u64) {
        let vp = self.below.2;
        let sint = {
            let mut host = self.below.0.borrow_mut();
            let vector = host.pending_vector(vp);
            vector
                .into_iter()
                .for_each(|vector| host.accept_vector(vp, vector));
            vector.is_some()
        };
        let reason = Reason {
            sint,
            guest: !self.device.out.is_empty(),
            ..Reason::default()
        };
        let (worker, below, device) = (&mut self.worker, &mut self.below, &mut self.device);
        side(true, || worker.turn(below, device, reason, now)).unwrap();
        self.findings.extend(self.worker.take_findings());
    }
}

impl World {
    pub fn new() -> World {
        World::with_pages_taken(0)
    }

    /// A world in which `taken` pages of the pool are lost already.
    pub fn with_pages_taken(taken: usize) -> World {
        World::over(PlainShared::new(PAGES, FIRST_PFN), taken)
    }

    /// As above, over memory in which something may stand already.
    pub fn over(memory: PlainShared, taken: usize) -> World {
        World::of(memory, taken, 1)
    }

    /// A world with so many VPs, each with a lane.
    pub fn with_vps(vps: u8) -> World {
        World::of(PlainShared::new(PAGES, FIRST_PFN), 0, vps)
    }

    fn of(memory: PlainShared, taken: usize, vps: u8) -> World {
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let view = HostView {
            memory: memory.clone(),
            ledger: ledger.clone(),
        };
        let mut host_config = MachineConfig::default();
        host_config.partition.vp_count = vps.into();
        let host = Machine::new(view.clone(), Loopback::default(), host_config);
        let mut below = Below(Rc::new(RefCell::new(host)), Rc::default(), 0);
        let mut pool = SharedPool::new(view, FIRST_PFN);
        let messages = pool.take(1, Purpose::Synic).unwrap();
        let flags = pool.take(1, Purpose::Synic).unwrap();
        if taken > 0 {
            let lost = pool.take(taken, Purpose::Hypercall).unwrap();
            pool.leak(lost);
        }
        let target = Target::REDIRECTED;
        synic::introduce(&mut below).unwrap();
        synic::take(&mut below, &messages, &flags, target.sint, VECTOR).unwrap();
        let config = Config {
            target,
            mac: None,
            enforce_unmeasured: true,
            mtu: 1500,
            seed: 7,
            sub_channels: (vps - 1).into(),
            coalescing: true,
        };
        let hub = Arc::new(Hub::new(vps));
        let others = (1..vps).map(|vp| {
            let messages = pool.take(1, Purpose::Synic).unwrap();
            let flags = pool.take(1, Purpose::Synic).unwrap();
            let mut below = Below(below.0.clone(), below.1.clone(), vp.into());
            synic::identify(&mut below, vp).unwrap();
            synic::take(&mut below, &messages, &flags, target.sint, VECTOR).unwrap();
            Other {
                below,
                worker: Worker::new(hub.clone(), vp, messages, flags, target.sint),
                device: Device::default(),
                runs: true,
                findings: Vec::new(),
            }
        });
        let others = others.collect();
        let uplink = side(true, || {
            Uplink::with_lanes(config, pool, messages, flags, hub)
        });
        World {
            below,
            uplink,
            device: Device::default(),
            others,
            ledger,
            memory,
            now: 1000,
            deadline: None,
        }
    }

    /// Both sides once.
    pub fn turn(&mut self) {
        self.try_turn().unwrap();
    }

    /// Both sides once, which may end the run.
    pub fn try_turn(&mut self) -> Result<(), End> {
        self.now += 1000;
        let vector = {
            let mut host = self.below.0.borrow_mut();
            let _ = host.poll(self.now);
            let vector = host.pending_vector(0);
            vector
                .into_iter()
                .for_each(|vector| host.accept_vector(0, vector));
            vector
        };
        assert!(vector.is_none_or(|vector| vector == VECTOR));
        let World {
            uplink,
            below,
            device,
            ..
        } = self;
        let polled = side(true, || {
            uplink.turn(below, device, vector.is_some(), self.now)
        })?;
        self.deadline = polled.deadline;
        self.others
            .iter_mut()
            .filter(|other| other.runs)
            .for_each(|other| other.turn(self.now));
        Ok(())
    }

    pub fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    pub fn bring_up(&mut self) {
        self.uplink.start(self.now);
        for _ in 0..500 {
            self.turn();
            if self.uplink.standing() == (Standing::Ready { link: true }) {
                return;
            }
        }
        panic!("not up: {:?}", self.uplink.standing());
    }

    pub fn hook(&self, hook: impl FnMut(&mut OutgoingMessage) + 'static) {
        self.below.0.borrow_mut().faults.set_hook(hook);
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x5a; 100];
        frame[..6].copy_from_slice(&self.uplink.mac().unwrap());
        frame
    }

    /// Pages in use, without the two of the SynIC.
    pub fn used(&self) -> usize {
        let pool = self.uplink.pool();
        Purpose::ALL
            .into_iter()
            .map(|purpose| pool.used(purpose))
            .sum::<usize>()
            - 2 * (1 + self.others.len())
    }
}
