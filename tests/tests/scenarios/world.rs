//! The paravisor's uplink on one side, the fake host with a scenario on the other,
//! one memory between them, of which the paravisor sees every byte change after its
//! first read; and a guest that sends frames and waits for them to come back.

use abi::hyperv::{CallResult, Control, msr};
use abi::record::Outcome;
use devices::NoBuffer;
use hostkit::backend::Loopback;
use hostkit::hv::NoHook;
use hostkit::scenario::{Guest, Observed, Player, Scenario};
use hostkit::{Machine, MachineConfig};
use memory::doubles::{DoubleFetch, PlainShared};
use memory::{Backing, Purpose, ShareFailed, SharedPool};
use paravisor_core::synic;
use paravisor_core::time::Clock;
use paravisor_core::uplink::{Config, Standing, Uplink};
use platform::{Access, BootState, Error, Exit, Platform, Reg, Registers, Seg, Segment};
use relay::NetDevice;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use undercroft_tests::HostView;
use vmbus::Target;

const FIRST_PFN: u64 = 0x8801;
const PAGES: usize = 4096;
const VECTOR: u8 = 0x60;
const TSC_HZ: u64 = 2_000_000_000;
/// Header page and data of both rings, as the uplink asks for them.
const RING_PAGES: usize = 17;

/// What the paravisor's pool gets its pages from.
struct Pages(HostView);

impl Backing for Pages {
    type Region = DoubleFetch<PlainShared>;
    fn share(&mut self, first_pfn: u64, pages: usize) -> Result<(), ShareFailed> {
        self.0.share(first_pfn, pages);
        Ok(())
    }
    fn region(&mut self, first_pfn: u64, pages: usize) -> Option<Self::Region> {
        let window = self.0.window(first_pfn, pages)?;
        // The SynIC's message page is the first that the pool gives, and rings are
        // the only piece of their size.
        Some(if first_pfn == FIRST_PFN {
            DoubleFetch::message_page(window)
        } else if pages == 2 * RING_PAGES {
            DoubleFetch::rings(window, RING_PAGES)
        } else {
            DoubleFetch::new(window, &[])
        })
    }
}

pub type Host = Machine<HostView, Loopback>;

/// The platform, as far as the uplink uses it: the fake host itself.
#[derive(Clone)]
pub struct Below(pub Rc<RefCell<Host>>);

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
        let mut host = self.0.borrow_mut();
        Ok(CallResult(host.hypercall(
            &mut NoHook,
            0,
            control.0,
            input,
            &mut [],
        )))
    }
    fn hypercall_counts(&self) -> &[(u16, u64)] {
        &[]
    }
    fn read_register(&mut self, register: u32) -> Result<u64, Error> {
        let read = self.0.borrow_mut().msr_read(0, register);
        read.map_err(|_| Error::Refused {
            request: "register",
            status: 0,
        })
    }
    fn write_register(&mut self, register: u32, value: u64) -> Result<(), Error> {
        self.0.borrow_mut().msr_write(0, register, value).unwrap();
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

/// The guest: one frame at a time goes out with a number and has to come back.
#[derive(Default)]
struct Talker {
    mac: [u8; 6],
    next: u64,
    /// Number of the frame that is out, and when it went.
    out: Option<(u64, u64)>,
    now: u64,
    echoed: u64,
    link: bool,
    losses: u64,
}

/// After which a frame counts as lost and is sent again, as TCP would.
const RETRY: u64 = 200 * 10_000;

impl NetDevice for Talker {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        let late = self.out.is_none_or(|(_, at)| self.now - at > RETRY);
        if !self.link || !late {
            return None;
        }
        self.next += 1;
        self.out = Some((self.next, self.now));
        buf[..6].copy_from_slice(&self.mac);
        buf[6..12].copy_from_slice(&self.mac);
        buf[12..14].copy_from_slice(&[0x88, 0xb5]);
        buf[14..22].copy_from_slice(&self.next.to_le_bytes());
        buf[22..100].fill(0x5a);
        Some(100)
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), NoBuffer> {
        let number = frame.get(14..22).and_then(|b| b.try_into().ok());
        if let (Some((wanted, _)), Some(number)) = (self.out, number.map(u64::from_le_bytes))
            && wanted == number
            && frame.len() == 100
            && frame[22..].iter().all(|b| *b == 0x5a)
        {
            self.out = None;
            self.echoed += 1;
        }
        Ok(())
    }
    fn publish(&mut self) {}
    fn set_link(&mut self, up: bool) {
        self.losses += u64::from(self.link && !up);
        self.link = up;
    }
}

/// Round trips that a guest wants to see once the host has done everything.
const ENOUGH: u64 = 64;
/// Round trips after which the guest has waited long enough for the host.
const PLENTY: u64 = 3000;
/// Longest life of a run, in the clock of the run: bring-up with every deadline,
/// and a transmit that is never completed, each a few times.
const LONGEST: u64 = 300 * 10_000_000;
/// How long a guest without a link waits for another.
const PATIENCE: u64 = 60 * 10_000_000;

/// Plays a scenario.
pub fn play(scenario: &Scenario) -> Observed {
    let view = HostView::new(PlainShared::new(PAGES, FIRST_PFN));
    let mut config = MachineConfig::default();
    config.partition.tsc_hz = TSC_HZ;
    let mut host = Machine::new(view.clone(), Loopback::default(), config);
    host.faults.play(Player::new(scenario));
    let mut below = Below(Rc::new(RefCell::new(host)));
    let mut rules = BTreeSet::new();
    let mut seen = Observed {
        rules: Vec::new(),
        guest: Guest::Absent,
        outcome: Outcome::HostFailure.name().to_string(),
        private_refused: 0,
        happened: Vec::new(),
    };
    if let Err(why) = run(&mut below, Pages(view.clone()), &mut rules, &mut seen) {
        // What the image would say as its last word.
        rules.extend(named_in(&why));
    }
    let host = below.0.borrow();
    seen.happened = host.faults.player().unwrap().happened().collect();
    seen.rules = rules.into_iter().collect();
    seen.private_refused = view.refused();
    seen
}

/// Ids of rules in a sentence.
fn named_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let ids: HashSet<&str> = validate::Rule::ids().map(|(id, _)| id).collect();
    words
        .filter(|w| ids.contains(w))
        .map(str::to_string)
        .collect()
}

fn run(
    below: &mut Below,
    pages: Pages,
    rules: &mut BTreeSet<String>,
    seen: &mut Observed,
) -> Result<(), String> {
    let mut pool: SharedPool<Pages, PAGES> = SharedPool::new(pages, FIRST_PFN);
    let messages = pool.take(1, Purpose::Synic).unwrap();
    let flags = pool.take(1, Purpose::Synic).unwrap();
    let target = Target::REDIRECTED;
    synic::introduce(below).map_err(|e| e.to_string())?;
    let hz = below.read_register(msr::TSC_FREQUENCY).unwrap_or(0);
    let reference = below.read_register(msr::TIME_REF_COUNT).unwrap_or(0);
    Clock::new(0, hz, reference).map_err(|broken| format!("no clock: {}", broken.rule))?;
    synic::take(below, &messages, &flags, target.sint, VECTOR).map_err(|e| e.to_string())?;
    let config = Config {
        target,
        mac: None,
        mtu: 1500,
        seed: 7,
        sub_channels: 0,
        coalescing: true,
        enforce_unmeasured: false,
    };
    let mut uplink: Uplink<Pages, PAGES> = Uplink::new(config, pool, messages, flags);
    let mut guest = Talker {
        mac: hostkit::backend::DEFAULT_MAC,
        ..Talker::default()
    };
    let mut now = 1000;
    let mut foreign = 0u64;
    let mut lost_since = None;
    let mut echoed_then = None;
    let mut connected = false;
    uplink.start(now);
    loop {
        let (vector, host_due, over) = {
            let mut host = below.0.borrow_mut();
            let due = host.poll(now);
            let vector = host.pending_vector(0);
            vector.into_iter().for_each(|v| host.accept_vector(0, v));
            (vector, due, host.faults.player().unwrap().is_over())
        };
        foreign += u64::from(vector.is_some_and(|v| v != VECTOR));
        guest.now = now;
        let polled = uplink.turn(below, &mut guest, vector == Some(VECTOR), now);
        let polled = polled.map_err(|end| end.why.to_string())?;
        connected |= !matches!(uplink.standing(), Standing::Contacting | Standing::Failed);
        // The end: enough of the guest's frames came back after everything, or the
        // link is gone and stays away.
        if over && echoed_then.is_none() {
            echoed_then = Some(guest.echoed);
        }
        let enough = match echoed_then {
            Some(then) => guest.echoed >= then + ENOUGH,
            // Something does not happen at all; the judge will say so.
            None => guest.echoed >= PLENTY,
        };
        let gone = matches!(uplink.standing(), Standing::NoNic | Standing::Failed);
        match (guest.link || !gone, lost_since) {
            (true, _) => lost_since = None,
            (false, None) => lost_since = Some(now),
            _ => {}
        }
        let given_up = lost_since.is_some_and(|at| now - at > PATIENCE);
        if enough || given_up || now > LONGEST {
            let working = enough && guest.link;
            let before = uplink.totals().restarts + guest.losses;
            seen.guest = match (working, before) {
                (true, 0) => Guest::Up,
                (true, _) => Guest::Back,
                (false, _) => Guest::Lost,
            };
            break;
        }
        // Busy turns are close together, idle ones end with the next deadline.
        let waits = guest.out.is_some_and(|(_, at)| now - at > 100_000);
        let idle = vector.is_none() && !polled.more && (!guest.link || waits);
        let retry = guest
            .out
            .map(|(_, at)| at + RETRY + 1)
            .filter(|_| guest.link);
        let due = [host_due, polled.deadline, retry]
            .into_iter()
            .flatten()
            .min();
        let next = due
            .unwrap_or(now + 10_000_000)
            .clamp(now + 500, now + 10_000_000);
        now = if idle { next } else { now + 1000 };
    }
    let totals = uplink.totals();
    rules.extend(
        totals
            .validation
            .violations()
            .map(|(r, _)| r.id().to_string()),
    );
    if foreign > 0 {
        rules.insert("SYN-19".to_string());
    }
    // Who never hears of VMBus does not start a guest.
    if connected {
        seen.outcome = Outcome::PowerOff.name().to_string();
    } else {
        seen.guest = Guest::Absent;
    }
    Ok(())
}
