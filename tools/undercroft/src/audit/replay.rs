//! Record by record: memory is rebuilt, and whatever becomes visible to the
//! guest is judged at that moment.

use super::control::{Change, Control};
use super::file::{Record, little};
use super::memory::Memory;
use super::nic::{Nic, Stamp};
use super::register::{self, Registers};
use super::ring::{Rings, Word};
use super::verdict::{Audit, Finding, Verdict};
use abi::hyperv::{
    self, CallResult, Control as CallControl, MESSAGE_PAYLOAD, MESSAGE_SLOT, OverlayPage, call,
    msr, reg,
};
use abi::trace::Kind;
use std::collections::{BTreeMap, HashMap};
use validate::synic::{event_flag, post_status, slot};
use validate::{Layer, Reaction, Rule, Violation};

/// A channel whose rings are in use.
struct Open {
    rings: Rings,
    nic: Nic,
    dead: bool,
}

/// SynIC pages of a VP.
#[derive(Clone, Copy, Default)]
struct Overlays {
    messages: u64,
    flags: u64,
}

/// The replay.
pub struct Replay {
    pub audit: Audit,
    enforce: bool,
    memory: Memory,
    overlays: BTreeMap<u32, Overlays>,
    control: Control,
    open: BTreeMap<u32, Open>,
    watched: HashMap<u64, (u32, Word)>,
    /// Messages that stand in a slot: address of the slot, and whether it was
    /// judged as a channel message too.
    standing: HashMap<u64, bool>,
    /// Address of the NIC as an earlier channel has fixed it.
    mac: Option<[u8; 6]>,
    /// The post whose result is awaited, by VP.
    posts: HashMap<u32, (u16, bool)>,
    registers: Registers,
}

impl Replay {
    pub fn new(audit: Audit, enforce: bool) -> Replay {
        Replay {
            audit,
            enforce,
            memory: Memory::default(),
            overlays: BTreeMap::new(),
            control: Control::default(),
            open: BTreeMap::new(),
            watched: HashMap::new(),
            standing: HashMap::new(),
            mac: None,
            posts: HashMap::new(),
            registers: Registers::default(),
        }
    }

    /// One record.
    pub fn record(&mut self, record: &Record<'_>) {
        self.audit.records += 1;
        self.audit.last_time = record.time;
        let stamp = Stamp {
            record: record.sequence,
            file_offset: record.offset as u64,
            time: record.time,
        };
        let gpa = record.u64(0);
        match record.kind {
            Kind::WRITE => {
                self.memory.write(gpa, record.bytes());
                self.host_wrote(gpa, record.bytes().len(), stamp);
            }
            Kind::STORE => {
                self.memory.store(gpa, record.u32(8));
                self.host_wrote(gpa, 4, stamp);
            }
            Kind::SET_BITS => {
                let (old, bits) = (record.u32(8), record.u32(12));
                self.memory.store(gpa, old | bits);
                self.flags(gpa, bits & !old, stamp);
            }
            Kind::EXCHANGE => {
                self.memory.store(gpa, record.u32(12));
                self.host_wrote(gpa, 4, stamp);
            }
            Kind::READ => {
                self.memory.write(gpa, record.bytes());
                self.host_read(gpa, record.bytes(), stamp);
            }
            Kind::LOAD => self.host_loaded(gpa, record.u32(8)),
            Kind::REFUSED => self.audit.private_refused += 1,
            Kind::REGISTER_WRITE => self.register(record.subject, record.u32(0), record.u64(8)),
            Kind::REGISTER_FAULT => self.registers.fault(record.subject, record.u32(0)),
            Kind::REGISTER_READ if record.u32(4) == 0 => {
                self.register_read(record.subject, record.u32(0), record.u64(8), stamp);
            }
            Kind::CALL => self.call(record),
            Kind::RESULT => self.result(record, stamp),
            Kind::DROPPED => self.audit.dropped += record.u64(0),
            _ => {}
        }
    }

    /// The guest writes a register.
    fn register(&mut self, vp: u32, register: u32, value: u64) {
        self.registers.write(vp, register, value);
        let page = OverlayPage(value);
        let gpa = if page.enabled() { page.gpa() } else { 0 };
        let overlays = self.overlays.entry(vp).or_default();
        match register {
            msr::SIMP => overlays.messages = gpa,
            msr::SIEFP => overlays.flags = gpa,
            _ => {}
        }
    }

    /// The host says what a register holds.
    fn register_read(&mut self, vp: u32, register: u32, value: u64, stamp: Stamp) {
        self.audit.look("register");
        let judged = self.registers.read(vp, register, value);
        let what = register::name(register);
        let bytes = value.to_le_bytes();
        self.say(Layer::Synic, 0, &what, &bytes, judged.err(), false, stamp);
    }

    fn call(&mut self, record: &Record<'_>) {
        let control = CallControl(record.u64(0));
        let mut input = record.bytes().to_vec();
        match control.code() {
            call::POST_MESSAGE => {
                // Zeros at the end were left out.
                input.resize(16 + MESSAGE_PAYLOAD, 0);
                let word = |at: usize| little(&input[at..at + 4]) as u32;
                let size = (word(12) as usize).min(MESSAGE_PAYLOAD);
                let message = &input[16..16 + size];
                let first = message.first() == Some(&14);
                self.posts
                    .insert(record.subject, (call::POST_MESSAGE, first));
                let change = self.control.posted(word(0), message);
                self.changed(change);
            }
            call::SET_VP_REGISTERS => {
                for rep in 0..usize::from(control.rep_count()) {
                    let at = 16 + 32 * rep;
                    let field = |from: usize, to: usize| {
                        input
                            .get(at + from..)
                            .map_or(0, |b| little(&b[..b.len().min(to - from)]))
                    };
                    let register = match field(0, 4) as u32 {
                        reg::SIPP => msr::SIMP,
                        reg::SIFP => msr::SIEFP,
                        _ => continue,
                    };
                    self.register(record.subject, register, field(16, 24));
                }
            }
            _ => {}
        }
    }

    fn result(&mut self, record: &Record<'_>, stamp: Stamp) {
        let Some((_, first)) = self.posts.remove(&record.subject) else {
            return;
        };
        self.audit.look("post-result");
        let result = CallResult(record.u64(0));
        let judged = post_status(result.status(), first);
        let bytes = record.payload.get(..8).unwrap_or_default();
        self.say(
            Layer::Synic,
            0,
            "result of PostMessage",
            bytes,
            judged.err(),
            false,
            stamp,
        );
    }

    /// What follows from what guest or host have said.
    fn changed(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Rings(relid) => {
                let rings = self.control.rings(relid).and_then(|(gpadl, downstream)| {
                    Rings::new(self.control.pages(gpadl)?.clone(), downstream)
                });
                self.close(relid);
                let Some(rings) = rings else { return };
                for pfn in rings.frames() {
                    self.memory.clear(*pfn);
                }
                for (gpa, word) in rings.words() {
                    self.watched.insert(gpa, (relid, word));
                }
                let nic = Nic::new(relid, self.mac, self.enforce);
                let dead = false;
                self.open.insert(relid, Open { rings, nic, dead });
            }
            Change::Closed(relid) => self.close(relid),
            Change::Restarted => {
                let all: Vec<u32> = self.open.keys().copied().collect();
                all.into_iter().for_each(|relid| self.close(relid));
            }
        }
    }

    fn close(&mut self, relid: u32) {
        if let Some(open) = self.open.remove(&relid) {
            self.mac = open.nic.mac().or(self.mac);
        }
        self.watched.retain(|_, (of, _)| *of != relid);
    }

    /// The host changed `len` bytes at `gpa`: a slot or an index may be new.
    fn host_wrote(&mut self, gpa: u64, len: usize, stamp: Stamp) {
        let end = gpa.saturating_add(len as u64);
        let touched = |at: u64| gpa < at.saturating_add(4) && at < end;
        let watched = self.watched.iter().filter(|(at, _)| touched(**at));
        let mut words: Vec<_> = watched.map(|(at, of)| (*at, *of)).collect();
        words.sort_unstable_by_key(|(at, _)| *at);
        for (at, (relid, kind)) in words {
            self.host_word(relid, kind, at, stamp);
        }
        let pages: Vec<u64> = self.overlays.values().map(|o| o.messages).collect();
        for page in pages.into_iter().filter(|page| *page != 0) {
            for sint in 0..16 {
                let at = page.saturating_add(sint * MESSAGE_SLOT as u64);
                // A message is there as soon as its type is.
                if gpa <= at && at < end {
                    self.slot(at, stamp);
                }
            }
        }
    }

    /// A message slot has got a type.
    fn slot(&mut self, at: u64, stamp: Stamp) {
        let mut copy = [0; MESSAGE_SLOT];
        self.memory.read(at, &mut copy);
        if little(&copy[..4]) as u32 == hyperv::MESSAGE_TYPE_NONE {
            self.standing.remove(&at);
            return;
        }
        if self.control.dead {
            self.audit.unheard += 1;
            return;
        }
        self.audit.count(Layer::Synic);
        let payload = match slot(&copy) {
            Ok(None) => return,
            Ok(Some(payload)) => {
                self.say(Layer::Synic, 0, "message slot", &copy, None, true, stamp);
                payload
            }
            Err(violation) => {
                self.standing.insert(at, false);
                return self.say(
                    Layer::Synic,
                    0,
                    "message slot",
                    &copy,
                    Some(violation),
                    false,
                    stamp,
                );
            }
        };
        self.standing.insert(at, true);
        self.control.expire(stamp.time);
        self.audit.count(Layer::Control);
        let bytes = payload.bytes();
        let kind = abi::vmbus::MessageType(little(&bytes[..4]) as u32);
        let what = kind
            .info()
            .map_or(format!("channel message {}", kind.0), |info| {
                info.name.to_owned()
            });
        let relid = match kind {
            abi::vmbus::MessageType::OFFER_CHANNEL => bytes.get(184..188),
            abi::vmbus::MessageType::VERSION_RESPONSE
            | abi::vmbus::MessageType::ALL_OFFERS_DELIVERED
            | abi::vmbus::MessageType::GPADL_TORNDOWN
            | abi::vmbus::MessageType::UNLOAD_RESPONSE => None,
            _ => bytes.get(8..12),
        }
        .map_or(0, little) as u32;
        match validate::control::judge(&payload, &self.control.gate(), &self.control) {
            Ok(message) => {
                use validate::control::Message::{GpadlRefused, MoveRefused, OpenRefused};
                let noted = match &message {
                    OpenRefused { violation, .. }
                    | GpadlRefused { violation, .. }
                    | MoveRefused { violation, .. } => Some(*violation),
                    _ => None,
                };
                let good = noted.is_none();
                self.say(Layer::Control, relid, &what, bytes, noted, good, stamp);
                let change = self.control.act(&message);
                self.changed(change);
            }
            Err(violation) => {
                self.say(
                    Layer::Control,
                    relid,
                    &what,
                    bytes,
                    Some(violation),
                    false,
                    stamp,
                );
                if violation.rule.reaction() == Reaction::Fatal {
                    self.control.dead = true;
                    self.changed(Change::Restarted);
                }
            }
        }
    }

    /// Bits became set: event flags, perhaps.
    fn flags(&mut self, gpa: u64, bits: u32, stamp: Stamp) {
        let area = hyperv::EVENT_FLAGS_AREA as u64;
        let inside = |page: u64| gpa.checked_sub(page).filter(|at| *at < 16 * area);
        let mut pages = self.overlays.values().map(|o| o.flags);
        let Some(at) = pages.find_map(|page| inside(page).filter(|_| page != 0)) else {
            return;
        };
        let base = at % area * 8;
        for bit in (0..32).filter(|bit| bits & 1 << bit != 0) {
            let number = base as u32 + bit;
            self.audit.look("event-flag");
            let judged = event_flag(number).and_then(|flag| {
                let number = u32::from(flag.number());
                match self.control.is_open(number) {
                    Some(true) => Ok(()),
                    Some(false) => Err(Violation::new(Rule::SYN_16, 0, number)),
                    None => Err(Violation::new(Rule::SYN_15, 0, number)),
                }
            });
            let what = format!("event flag {number}");
            let word = bits.to_le_bytes();
            self.say(
                Layer::Synic,
                number,
                &what,
                &word,
                judged.err(),
                judged.is_ok(),
                stamp,
            );
        }
    }

    /// The host changed a word of a ring.
    fn host_word(&mut self, relid: u32, kind: Word, gpa: u64, stamp: Stamp) {
        let mut word = [0; 4];
        self.memory.read(gpa, &mut word);
        let value = u32::from_le_bytes(word);
        let Some(open) = self.open.get_mut(&relid) else {
            return;
        };
        if open.dead {
            self.audit.unheard += 1;
            return;
        }
        let (what, result) = match kind {
            Word::HostWrite => {
                self.audit.look("ring-index");
                match open.rings.shown(value) {
                    Ok(available) => return self.packets(relid, available, stamp),
                    Err(violation) => ("write index of the host's ring", Err(violation)),
                }
            }
            Word::HostRead => {
                self.audit.look("ring-index");
                (
                    "read index of the guest's ring",
                    open.rings.host_read(value),
                )
            }
            Word::HostPending => {
                if let Some(noted) = open.rings.host_pending(value) {
                    self.say(
                        Layer::Ring,
                        relid,
                        "pending send size",
                        &word,
                        Some(noted),
                        true,
                        stamp,
                    );
                }
                return;
            }
            // The guest's own words: nobody reads them back.
            Word::GuestRead | Word::GuestWrite => return,
        };
        if let Err(violation) = result {
            open.dead = true;
            self.say(
                Layer::Ring,
                relid,
                what,
                &word,
                Some(violation),
                false,
                stamp,
            );
        }
    }

    /// A sub-channel takes over what it shares with its primary.
    fn follow(&mut self, relid: u32) {
        let primary = self.control.primary_of(relid);
        let shared = primary.and_then(|primary| Some(self.open.get(&primary)?.nic.shared()));
        if let (Some(shared), Some(open)) = (shared, self.open.get_mut(&relid)) {
            open.nic.follow(shared);
        }
    }

    /// Judges every packet that an index has shown.
    fn packets(&mut self, relid: u32, mut available: u32, stamp: Stamp) {
        let layers = [Layer::Packet, Layer::Nvsp, Layer::Rndis];
        self.follow(relid);
        while available != 0 {
            let Some(open) = self.open.get_mut(&relid) else {
                return;
            };
            match open.rings.next(&self.memory, available) {
                Ok((packet, total)) => {
                    available = available.saturating_sub(total);
                    let counts = |audit: &Audit| {
                        layers.map(|l| audit.judged.get(l.name()).copied().unwrap_or(0))
                    };
                    let before = counts(&self.audit);
                    let alive = open
                        .nic
                        .host_packet(&packet, &self.memory, stamp, &mut self.audit);
                    let after = counts(&self.audit);
                    if let Some((_, judged)) = open.rings.pending.back_mut() {
                        *judged = std::array::from_fn(|i| after[i] - before[i]);
                    }
                    if !alive {
                        open.dead = true;
                        return;
                    }
                    if let Some(count) = open.nic.granted.take() {
                        for (sub, violation) in self.control.granted(relid, count) {
                            let what = "OFFER_CHANNEL beyond the grant";
                            let found = Some(violation);
                            self.say(Layer::Control, sub, what, &[], found, false, stamp);
                        }
                    }
                }
                Err((head, violation)) => {
                    open.dead = true;
                    let layer = violation.rule.layer();
                    let what = "packet descriptor";
                    self.say(layer, relid, what, &head, Some(violation), false, stamp);
                    return;
                }
            }
        }
    }

    /// The host read memory: what the guest has sent.
    fn host_read(&mut self, gpa: u64, bytes: &[u8], stamp: Stamp) {
        let channels: Vec<u32> = self.open.keys().copied().collect();
        for relid in channels {
            let Some(open) = self.open.get_mut(&relid) else {
                continue;
            };
            if let Some(packet) = open.rings.guest_bytes(gpa, bytes) {
                self.follow(relid);
                let control = &self.control;
                let Some(open) = self.open.get_mut(&relid) else {
                    return;
                };
                open.nic
                    .guest_packet(&packet, |id| control.pages(id).cloned());
                if let Some(count) = open.nic.asked.take() {
                    self.control.ask(relid, count, stamp.time);
                }
                return;
            }
            open.nic.guest_data(gpa, bytes, stamp.time, &mut self.audit);
        }
    }

    /// The host loaded a word and found it changed.
    fn host_loaded(&mut self, gpa: u64, value: u32) {
        self.memory.store(gpa, value);
        if value == hyperv::MESSAGE_TYPE_NONE {
            self.standing.remove(&gpa);
        }
        if let Some((relid, word)) = self.watched.get(&gpa).copied()
            && let Some(open) = self.open.get_mut(&relid)
        {
            match word {
                Word::GuestRead => open.rings.guest_read(value),
                Word::GuestWrite => open.rings.guest_write(value),
                _ => {}
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn say(
        &mut self,
        layer: Layer,
        channel: u32,
        what: &str,
        bytes: &[u8],
        violation: Option<Violation>,
        accepted: bool,
        stamp: Stamp,
    ) {
        self.audit.say(Verdict {
            record: stamp.record,
            file_offset: stamp.file_offset,
            time: stamp.time,
            layer: layer.name(),
            channel,
            what: what.to_owned(),
            accepted: accepted || violation.is_none(),
            finding: violation.map(Finding::new),
            bytes: bytes.to_vec(),
        });
    }

    /// The end: what the guest did not take any more.
    pub fn finish(mut self) -> Audit {
        let mut left: BTreeMap<&'static str, u64> = BTreeMap::new();
        for channel_message in self.standing.values() {
            *left.entry(Layer::Synic.name()).or_default() += 1;
            *left.entry(Layer::Control.name()).or_default() += u64::from(*channel_message);
        }
        for open in self.open.values() {
            for (_, judged) in &open.rings.pending {
                for (layer, n) in [Layer::Packet, Layer::Nvsp, Layer::Rndis]
                    .iter()
                    .zip(judged)
                {
                    *left.entry(layer.name()).or_default() += n;
                }
            }
        }
        left.retain(|_, n| *n != 0);
        self.audit.not_taken = left;
        self.audit
    }
}
