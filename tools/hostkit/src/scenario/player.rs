//! Plays a scenario: sees everything that the host sends, changes it, and says
//! what the host does of its own accord.
use super::names::{Base, Field, Kind, SlotField};
use super::{Action, Change, Invented, Line, Scenario, Step, Value, Which};
use crate::fault::{Layer, OutgoingMessage};
use abi::hyperv::CallResult;
use alloc::vec::Vec;

/// Messages that wait for their time; more are let go at once.
const MAX_LATE: usize = 4096;

/// How long the NIC leaves a word of a ring alone after a scenario wrote it (100 ns).
const POKE_STANDS: u64 = 20 * 10_000;

/// A message that was held back, with everything that was done to it.
#[derive(Clone, Debug)]
pub(super) struct Late {
    due: u64,
    pub message: OutgoingMessage,
}

#[derive(Clone, Debug)]
struct Playing {
    line: Line,
    /// When its step was reached.
    reached: Option<u64>,
    seen: u64,
    happened: u64,
}

impl Playing {
    fn awake(&self, now: u64) -> bool {
        let plus = self.line.after.map_or(0, |(_, plus)| plus);
        self.reached
            .is_some_and(|at| at.saturating_add(plus) <= now)
    }

    /// One more occurrence of `kind`: does it count?
    fn occurs(&mut self, kinds: &[Kind], now: u64, dice: &mut Dice) -> bool {
        let Some((which, wanted)) = self.line.of else {
            return false;
        };
        if !self.awake(now) || !kinds.iter().any(|kind| wanted.covers(*kind)) {
            return false;
        }
        self.seen += 1;
        let hit = match which {
            Which::Each => true,
            Which::Nth(n) => self.seen == n,
            Which::First(n) => self.seen <= n,
            Which::Every(n) => self.seen.is_multiple_of(n),
            Which::Chance(n, of) => dice.roll(of) < n,
        };
        self.happened += u64::from(hit);
        hit
    }
}

#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }
}

/// A scenario that is being played.
#[derive(Clone, Debug)]
pub struct Player {
    lines: Vec<Playing>,
    dice: Dice,
    now: u64,
    relid: u32,
    acts: Vec<Action>,
    late: Vec<Late>,
    late_signal: Option<u64>,
    storm_until: u64,
    silent_nic: u64,
    silent_bus: u64,
    no_interrupts: u64,
}

impl Player {
    /// At its beginning.
    pub fn new(scenario: &Scenario) -> Player {
        let lines = scenario.lines.iter().map(|line| Playing {
            line: line.clone(),
            // A line without a step is awake from the start.
            reached: line.after.is_none().then_some(0),
            seen: 0,
            happened: 0,
        });
        Player {
            lines: lines.collect(),
            dice: Dice(scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            relid: 0,
            acts: Vec::new(),
            late: Vec::new(),
            late_signal: None,
            storm_until: 0,
            silent_nic: 0,
            silent_bus: 0,
            no_interrupts: 0,
        }
    }

    /// How often each line happened so far.
    pub fn happened(&self) -> impl Iterator<Item = (u32, u64)> {
        self.lines.iter().map(|p| (p.line.number, p.happened))
    }

    /// Whether every line has happened and nothing waits for its time.
    pub fn is_over(&self) -> bool {
        let idle = self.late.is_empty() && self.acts.is_empty() && self.late_signal.is_none();
        let states = [
            self.storm_until,
            self.silent_nic,
            self.silent_bus,
            self.no_interrupts,
        ];
        let quiet = states.into_iter().all(|until| self.now >= until);
        idle && quiet && self.lines.iter().all(|p| p.happened > 0)
    }

    /// The NIC does nothing at the moment.
    pub(crate) fn nic_is_silent(&self) -> bool {
        self.now < self.silent_nic
    }

    /// No interrupt reaches the guest at the moment.
    pub(crate) fn withholds_interrupts(&self) -> bool {
        self.now < self.no_interrupts
    }

    /// The bus takes no messages at the moment.
    pub(crate) fn bus_is_silent(&self) -> bool {
        self.now < self.silent_bus
    }

    /// Something of `kinds` has passed.
    fn passed(&mut self, kinds: &[Kind]) {
        let now = self.now;
        for p in &mut self.lines {
            if let Some((Step::Passed(step), _)) = p.line.after
                && p.reached.is_none()
                && kinds.iter().any(|kind| step.covers(*kind))
            {
                p.reached = Some(now);
            }
        }
    }

    /// The guest sent a channel message.
    pub(crate) fn heard(&mut self, message: &[u8]) {
        if let Some(kind) = word(message, 0) {
            self.passed(&[Kind::Vmbus(Some(kind))]);
        }
    }

    /// Where time and the NIC are; what is to be done now.
    pub(super) fn tick(
        &mut self,
        now: u64,
        relid: u32,
        link: bool,
        frames: u64,
    ) -> (Vec<Action>, Vec<OutgoingMessage>, bool) {
        self.now = now;
        self.relid = relid;
        for p in &mut self.lines {
            let there = match p.line.after {
                Some((Step::LinkUp, _)) => link,
                Some((Step::Frame(n), _)) => frames >= n,
                Some((Step::Time(t), _)) => now >= t,
                _ => false,
            };
            if there && p.reached.is_none() {
                p.reached = Some(now);
            }
            if p.line.of.is_none() && p.happened == 0 && p.awake(now) {
                p.happened = 1;
                let acts = p.line.changes.iter().filter_map(|change| match change {
                    Change::Act(action) => Some(action.clone()),
                    _ => None,
                });
                self.acts.extend(acts);
            }
        }
        let mut late = Vec::new();
        self.late.retain(|l| {
            let due = l.due <= now;
            if due {
                late.push(l.message.clone());
            }
            !due
        });
        let signal = self.late_signal.take_if(|due| *due <= now).is_some();
        (
            core::mem::take(&mut self.acts),
            late,
            signal || now < self.storm_until,
        )
    }

    /// What lasts for a while.
    pub(super) fn last(&mut self, action: &Action) {
        match action {
            Action::Storm(time) => self.storm_until = self.now.saturating_add(*time),
            Action::SilentNic(time) => self.silent_nic = self.now.saturating_add(*time),
            Action::SilentBus(time) => self.silent_bus = self.now.saturating_add(*time),
            Action::NoInterrupts(time) => self.no_interrupts = self.now.saturating_add(*time),
            // The NIC would write its own index over it before the guest has looked.
            Action::Poke(..) => {
                let until = self.now.saturating_add(POKE_STANDS);
                self.silent_nic = self.silent_nic.max(until);
            }
            _ => {}
        }
    }

    /// When it wants a turn.
    pub(super) fn next_due(&self) -> Option<u64> {
        let late = self.late.iter().map(|l| l.due);
        let waits = self.lines.iter().filter_map(|p| {
            let wanted = p.line.of.is_none() && p.happened == 0;
            let (step, plus) = p.line.after?;
            let from = match step {
                Step::Time(t) => Some(t),
                _ => p.reached,
            };
            from.filter(|_| wanted).map(|at| at.saturating_add(plus))
        });
        let states = [self.silent_nic, self.silent_bus, self.no_interrupts].into_iter();
        let now = self.now;
        let storm = (now < self.storm_until).then_some(now + 1000);
        late.chain(waits)
            .chain(self.late_signal)
            .chain(states.filter(|t| *t > now))
            .chain(storm)
            .min()
    }

    /// A message of the host on its way.
    pub(crate) fn message(&mut self, m: &mut OutgoingMessage) {
        let kinds = kinds(m);
        let now = self.now;
        let mut delay = None;
        let mut again = None;
        for p in &mut self.lines {
            if !p.occurs(&kinds, now, &mut self.dice) {
                continue;
            }
            for change in &p.line.changes {
                match change {
                    Change::Set(field, value) => set(m, *field, *value, self.relid),
                    Change::Truncate(n) => m.bytes.truncate(*n),
                    Change::Extend(n) => m.bytes.resize(m.bytes.len() + n, 0),
                    Change::Drop => m.copies = 0,
                    Change::Repeat(n) => m.copies = *n,
                    Change::Delay(time) => delay = Some(now.saturating_add(*time)),
                    Change::Again(time) => again = Some(now.saturating_add(*time)),
                    Change::Return(_) => {}
                    Change::Act(action) => self.acts.push(action.clone()),
                }
            }
        }
        self.passed(&kinds);
        if let Some(due) = delay.or(again)
            && m.copies > 0
            && self.late.len() < MAX_LATE
        {
            let message = m.clone();
            self.late.push(Late { due, message });
            if delay.is_some() {
                m.copies = 0;
            }
        }
    }

    /// The interrupt of the NIC's channel is due: is it sent?
    pub(crate) fn signal(&mut self) -> bool {
        let mut send = true;
        let now = self.now;
        for p in &mut self.lines {
            if !p.occurs(&[Kind::Signal], now, &mut self.dice) {
                continue;
            }
            for change in &p.line.changes {
                match change {
                    Change::Drop => send = false,
                    Change::Delay(time) => {
                        send = false;
                        let due = now.saturating_add(*time);
                        self.late_signal = Some(self.late_signal.map_or(due, |d| d.min(due)));
                    }
                    Change::Act(action) => self.acts.push(action.clone()),
                    _ => {}
                }
            }
        }
        self.passed(&[Kind::Signal]);
        send
    }

    fn returned(&mut self, kind: Kind) -> Option<u64> {
        let mut result = None;
        let now = self.now;
        for p in &mut self.lines {
            if !p.occurs(&[kind], now, &mut self.dice) {
                continue;
            }
            for change in &p.line.changes {
                match change {
                    Change::Return(value) => result = Some(*value),
                    Change::Act(action) => self.acts.push(action.clone()),
                    _ => {}
                }
            }
        }
        self.passed(&[kind]);
        result
    }

    /// A hypercall of the guest; `Some` if it is answered without being done.
    pub(crate) fn hypercall(&mut self, now: u64, code: u16) -> Option<CallResult> {
        self.now = self.now.max(now);
        self.returned(Kind::Hypercall(code)).map(CallResult)
    }

    /// A register that the guest reads.
    pub(crate) fn register(&mut self, now: u64, register: u32) -> Option<u64> {
        self.now = self.now.max(now);
        self.returned(Kind::Register(register))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

/// Where a packet's payload begins.
fn payload(bytes: &[u8]) -> usize {
    half(bytes, 2).map_or(0, |units| usize::from(units) * 8)
}

fn kinds(m: &OutgoingMessage) -> Vec<Kind> {
    let mut out = Vec::new();
    match m.layer {
        Layer::Control => out.push(Kind::Vmbus(Some(word(&m.bytes, 0).unwrap_or(0)))),
        Layer::Packet => {
            out.push(Kind::Packet(Some(half(&m.bytes, 0).unwrap_or(0))));
            let inner = word(&m.bytes, payload(&m.bytes));
            out.extend(inner.map(|kind| Kind::Nvsp(Some(kind))));
        }
        Layer::ReceiveBuffer => out.push(Kind::Rndis(Some(word(&m.bytes, 0).unwrap_or(0)))),
    }
    out
}

/// Sets a field; what lies beyond the message is left alone.
pub(super) fn set(m: &mut OutgoingMessage, field: Field, value: Value, relid: u32) {
    let bytes = match value {
        Value::Number(n) => (u128::from(n)).to_le_bytes(),
        Value::NicRelid => u128::from(relid).to_le_bytes(),
        Value::Class(guid) => guid.0,
    };
    let low = u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]);
    let at = match field.base {
        Base::Start => field.at,
        Base::Payload => payload(&m.bytes) + field.at,
        Base::Slot(which) => {
            match which {
                SlotField::Type => m.slot.message_type = Some(low as u32),
                SlotField::Size => m.slot.size = Some(low as u8),
                SlotField::Flags => m.slot.flags = low as u8,
                SlotField::Sint => m.slot.sint = Some(low as u8),
            }
            return;
        }
    };
    let source = bytes.get(..field.width).unwrap_or_default();
    if let Some(place) = m.bytes.get_mut(at..at + field.width) {
        place.copy_from_slice(source);
    }
}

/// The message that a scenario made up.
pub(super) fn invent(made: &Invented, relid: u32) -> OutgoingMessage {
    let (layer, mut bytes) = match made.kind {
        Kind::Vmbus(kind) => (Layer::Control, start(kind.unwrap_or(0), made.kind)),
        Kind::Packet(kind) => {
            let body = super::names::size(made.kind).saturating_sub(16);
            let kind = abi::vmbus::PacketType(kind.unwrap_or(0));
            let packet = crate::ring::packet(kind, 0, 0, &[], &alloc::vec![0; body]);
            (Layer::Packet, packet)
        }
        Kind::Nvsp(kind) => {
            let body = start(kind.unwrap_or(0), made.kind);
            let kind = abi::vmbus::PacketType::IN_BAND;
            let packet = crate::ring::packet(kind, 0, 0, &[], &body);
            (Layer::Packet, packet)
        }
        _ => {
            let number = match made.kind {
                Kind::Rndis(Some(n)) => n,
                _ => 0,
            };
            let mut body = start(number, made.kind);
            let len = body.len() as u32;
            if let Some(place) = body.get_mut(4..8) {
                place.copy_from_slice(&len.to_le_bytes());
            }
            (Layer::ReceiveBuffer, body)
        }
    };
    if let Some(raw) = &made.raw {
        bytes = raw.clone();
    }
    let mut m = OutgoingMessage::new(layer, relid, bytes);
    for (field, value) in &made.fields {
        set(&mut m, *field, *value, relid);
    }
    m
}

fn start(number: u32, kind: Kind) -> Vec<u8> {
    let mut bytes = alloc::vec![0; super::names::size(kind).max(8)];
    if let Some(place) = bytes.get_mut(..4) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}
