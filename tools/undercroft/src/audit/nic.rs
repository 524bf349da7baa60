//! The NIC on a channel: packets of the host's ring, NVSP, RNDIS. The verdicts
//! are `validate`'s; this file keeps what they are held against, as the
//! paravisor's NIC does.

use super::file::little;
use super::joint::Joint;
use super::memory::{Memory, Pages};
use super::verdict::{Audit, Finding, Frame, Verdict, Way};
use abi::nvsp::message as nv;
use abi::rndis::{self as wire, filter, oid};
use abi::vmbus::PacketType;
use netvsc::limits::{REQUESTS, STRAYS};
use std::collections::HashMap;
use std::rc::Rc;
use validate::nvsp::{
    Awaited, Carrier, Completion, InBandContext, ReceiveGeometry, ReceivePhase, Slots,
};
use validate::packet::{Kind, Packet, Ranges};
use validate::rndis::{AwaitedResponse, Context, Message, PacketContext};
use validate::rndis::{Request, Response, Value};
use validate::{Layer, Reaction, Rule, Violation};

/// Where and when something was said.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Record.
    pub record: u64,
    /// Its place in the file.
    pub file_offset: u64,
    /// Reference time.
    pub time: u64,
}

/// State of a NIC that holds for all of its channels.
pub struct Shared {
    channels: u16,
    receive: Option<Rc<Pages>>,
    send: Option<Rc<Pages>>,
    send_section: usize,
    phase: ReceivePhase,
    geometry: Option<ReceiveGeometry>,
    mtu: u32,
    coalescing: bool,
    mac: Option<[u8; 6]>,
    filter: u32,
    ready: bool,
}

/// State of one NIC, or of one of its sub-channels, from the opening of its channel on.
pub struct Nic {
    relid: u32,
    /// Not one of its sub-channels.
    primary: bool,
    /// Sub-channels that it was just asked for.
    pub asked: Option<u16>,
    /// Sub-channels that it has just granted.
    pub granted: Option<u16>,
    /// Channels that it has, as far as it has granted them.
    channels: u16,
    /// Rules that no host was measured for are enforced (see `--enforce-all`).
    enforce: bool,
    requests: HashMap<u64, Awaited>,
    /// Last id in each place of the paravisor's table.
    last: HashMap<u64, u64>,
    strays: u32,
    receive: Option<Rc<Pages>>,
    send: Option<Rc<Pages>>,
    send_section: usize,
    phase: ReceivePhase,
    geometry: Option<ReceiveGeometry>,
    awaited: Option<AwaitedResponse>,
    configured_mtu: u32,
    /// It said that it knows receive coalescing.
    coalescing: bool,
    /// Fragments of a coalesced packet.
    joint: Joint,
    mtu: u32,
    /// Address that an earlier start has fixed.
    pub fixed_mac: Option<[u8; 6]>,
    mac: Option<[u8; 6]>,
    filter: u32,
    ready: bool,
    /// Pieces of the guest's message that the host still has to read.
    wanted: Vec<(u64, usize)>,
    gathered: Vec<u8>,
    gathering_control: bool,
}

impl Nic {
    /// A NIC whose channel was just opened.
    pub fn new(relid: u32, fixed_mac: Option<[u8; 6]>, enforce: bool) -> Nic {
        Nic {
            relid,
            primary: true,
            asked: None,
            granted: None,
            channels: 1,
            enforce,
            requests: HashMap::new(),
            last: HashMap::new(),
            strays: 0,
            receive: None,
            send: None,
            send_section: 0,
            phase: ReceivePhase::NotReady,
            geometry: None,
            awaited: None,
            configured_mtu: 1500,
            coalescing: false,
            joint: Joint::default(),
            mtu: 1500,
            fixed_mac,
            mac: None,
            filter: 0,
            ready: false,
            wanted: Vec::new(),
            gathered: Vec::new(),
            gathering_control: false,
        }
    }

    /// What its sub-channels share with it.
    pub fn shared(&self) -> Shared {
        Shared {
            channels: self.channels,
            receive: self.receive.clone(),
            send: self.send.clone(),
            send_section: self.send_section,
            phase: self.phase,
            geometry: self.geometry,
            mtu: self.mtu,
            coalescing: self.coalescing,
            mac: self.mac,
            filter: self.filter,
            ready: self.ready,
        }
    }

    /// This one is a sub-channel of a NIC that stands so now.
    pub fn follow(&mut self, shared: Shared) {
        self.primary = false;
        self.channels = shared.channels;
        self.receive = shared.receive;
        self.send = shared.send;
        self.send_section = shared.send_section;
        self.phase = shared.phase;
        self.geometry = shared.geometry;
        self.mtu = shared.mtu;
        self.coalescing = shared.coalescing;
        self.mac = shared.mac;
        self.filter = shared.filter;
        self.ready = shared.ready;
    }

    /// A packet of the guest, descriptor first. `pages` are its GPADLs.
    pub fn guest_packet(&mut self, bytes: &[u8], pages: impl Fn(u32) -> Option<Pages>) {
        let word = |at: usize| bytes.get(at..at + 4).map_or(0, little) as u32;
        let half = |at: usize| bytes.get(at..at + 2).map_or(0, little) as u16;
        let (kind, start, flags) = (PacketType(half(0)), usize::from(half(2)) * 8, half(6));
        let id = bytes.get(8..16).map_or(0, little);
        if kind != PacketType::IN_BAND && kind != PacketType::GPA_DIRECT {
            return;
        }
        let mut awaited = Awaited::Nothing;
        match word(start) {
            nv::INIT => awaited = Awaited::Init,
            nv::SEND_NDIS_CONFIG => {
                self.configured_mtu = word(start + 4).saturating_sub(14);
                self.mtu = self.configured_mtu;
                let capabilities = u64::from(word(start + 12));
                self.coalescing = capabilities & abi::nvsp::capability::RSC != 0;
            }
            nv::SEND_RECEIVE_BUFFER => {
                self.receive = pages(word(start + 4)).map(Rc::new);
                let len = self.receive.as_ref().map_or(0, |p| p.len) as u32;
                awaited = Awaited::ReceiveBuffer { len };
            }
            nv::SEND_SEND_BUFFER => {
                self.send = pages(word(start + 4)).map(Rc::new);
                let len = self.send.as_ref().map_or(0, |p| p.len) as u32;
                awaited = Awaited::SendBuffer { len };
            }
            nv::SUB_CHANNEL => {
                let count = word(start + 8) as u16;
                self.asked = Some(count);
                awaited = Awaited::SubChannels { count };
            }
            nv::REVOKE_RECEIVE_BUFFER => self.phase = ReceivePhase::Revoked,
            nv::SEND_RNDIS_PACKET => {
                awaited = Awaited::Rndis;
                self.gathering_control = word(start + 4) == abi::nvsp::channel_type::CONTROL;
                let (section, size) = (word(start + 8), word(start + 12) as usize);
                self.gathered.clear();
                self.wanted = if section == abi::nvsp::NO_SECTION {
                    direct_ranges(bytes.get(16..start).unwrap_or_default())
                } else {
                    let at = (section as usize).saturating_mul(self.send_section);
                    self.send
                        .as_ref()
                        .map_or(Vec::new(), |p| p.pieces(at, size))
                };
                self.wanted.reverse();
            }
            _ => {}
        }
        if flags & 1 != 0 && id != 0 {
            self.requests.insert(id, awaited);
            self.last.insert(id % REQUESTS as u64, id);
        }
    }

    /// The host has read `bytes` at `gpa`: perhaps the next piece of a message
    /// that the guest has sent.
    pub fn guest_data(&mut self, gpa: u64, bytes: &[u8], time: u64, audit: &mut Audit) {
        if self.wanted.last() != Some(&(gpa, bytes.len())) {
            return;
        }
        self.wanted.pop();
        self.gathered.extend_from_slice(bytes);
        if !self.wanted.is_empty() {
            return;
        }
        let message = std::mem::take(&mut self.gathered);
        if self.gathering_control {
            self.guest_control(&message);
        } else if audit.keep_frames {
            let mut rest = message.as_slice();
            while let Some((frame, length)) = data_of(rest) {
                audit.frames.push(Frame {
                    time,
                    way: Way::Out,
                    bytes: frame.to_vec(),
                });
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }

    fn guest_control(&mut self, message: &[u8]) {
        let word = |at: usize| message.get(at..at + 4).map_or(0, little) as u32;
        let request = match word(0) {
            wire::message::INITIALIZE => Request::Initialize,
            wire::message::QUERY => Request::Query(word(12)),
            wire::message::SET => Request::Set(word(12)),
            _ => return,
        };
        if request == Request::Set(oid::CURRENT_PACKET_FILTER) {
            self.filter = word((word(20) as usize).saturating_add(wire::OFFSET_BASE));
        }
        // The permanent address is for display; the current one is the NIC's.
        let permanent = request == Request::Query(oid::PERMANENT_ADDRESS);
        self.awaited = Some(AwaitedResponse {
            request_id: word(8),
            request,
            transfer: self
                .mtu
                .saturating_add(validate::rndis::packet::FRAME_OVERHEAD)
                .saturating_add(size_of::<wire::Packet>() as u32),
            mtu: self.configured_mtu,
            mac: if permanent { None } else { self.fixed_mac },
            enforce_medium: self.enforce,
        });
    }

    /// The address that the NIC has, once it works.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.ready)
    }

    /// Judges one packet of the host that has been measured. `false`: the
    /// paravisor gives the channel up here.
    pub fn host_packet(
        &mut self,
        bytes: &[u8],
        memory: &Memory,
        stamp: Stamp,
        audit: &mut Audit,
    ) -> bool {
        let mut judge = Judge {
            relid: self.relid,
            stamp,
            audit,
            alive: true,
        };
        judge.audit.count(Layer::Packet);
        match validate::packet::judge(bytes, &netvsc::POLICY) {
            Err(violation) => {
                judge.refuse(Layer::Packet, "ring packet", bytes, violation);
                if violation.rule.reaction() == Reaction::Drop {
                    judge.alive = true;
                    self.stray(violation, &mut judge);
                } else {
                    judge.alive = false;
                }
            }
            Ok(packet) => {
                let what = match packet.kind() {
                    Kind::InBand => "in-band packet".to_owned(),
                    Kind::Completion => format!("completion of {:#x}", packet.transaction_id()),
                    Kind::TransferPages(ranges) => {
                        format!("transfer-page packet with {} ranges", ranges.len())
                    }
                };
                judge.accept(Layer::Packet, &what, bytes, None);
                self.judged_packet(&packet, bytes, memory, &mut judge);
            }
        }
        judge.alive
    }

    fn judged_packet(
        &mut self,
        packet: &Packet<'_>,
        bytes: &[u8],
        memory: &Memory,
        judge: &mut Judge<'_>,
    ) {
        let payload = packet.payload();
        match packet.kind() {
            Kind::Completion => self.completion(packet.transaction_id(), bytes, payload, judge),
            Kind::InBand => {
                judge.audit.count(Layer::Nvsp);
                let context = InBandContext {
                    primary: self.primary,
                    channels: self.channels.into(),
                };
                let what = nvsp_name(payload);
                match validate::nvsp::in_band(payload, &context) {
                    Ok(_) => judge.accept(Layer::Nvsp, &what, payload, None),
                    Err(violation) => judge.refuse(Layer::Nvsp, &what, payload, violation),
                }
            }
            Kind::TransferPages(ranges) => {
                judge.audit.count(Layer::Nvsp);
                let what = nvsp_name(payload);
                match validate::nvsp::carrier(payload, self.phase) {
                    Err(violation) => judge.refuse(Layer::Nvsp, &what, payload, violation),
                    Ok(carrier) => {
                        judge.accept(Layer::Nvsp, &what, payload, None);
                        self.ranges(carrier, ranges, bytes, memory, judge);
                    }
                }
            }
        }
    }

    fn completion(&mut self, id: u64, bytes: &[u8], payload: &[u8], judge: &mut Judge<'_>) {
        let Some(awaited) = self.requests.remove(&id) else {
            let known = self.last.get(&(id % REQUESTS as u64)) == Some(&id);
            let rule = match id {
                0 => Rule::PKT_14,
                _ if known => Rule::PKT_15,
                _ => Rule::PKT_13,
            };
            let violation = Violation::new(rule, 8, id);
            judge.refuse(Layer::Packet, "completion", bytes, violation);
            return self.stray(violation, judge);
        };
        judge.audit.count(Layer::Nvsp);
        let what = nvsp_name(payload);
        match validate::nvsp::completion(payload, awaited) {
            Ok(judged) => {
                judge.accept(Layer::Nvsp, &what, payload, judged.noted);
                match judged.value {
                    Completion::ReceiveBuffer(geometry) => {
                        self.geometry = Some(geometry);
                        self.phase = ReceivePhase::Open;
                    }
                    Completion::SubChannels(count) => {
                        self.granted = Some(count);
                        self.channels = count.saturating_add(1);
                    }
                    Completion::SendBuffer(geometry) => {
                        self.send_section = geometry.section_size() as usize;
                    }
                    _ => {}
                }
            }
            Err(violation) => {
                judge.refuse(Layer::Nvsp, &what, payload, violation);
                // A request of the handshake is answered once.
                judge.alive &= awaited == Awaited::Rndis;
                self.stray(violation, judge);
            }
        }
    }

    /// Answers to nothing are forgiven some times only.
    fn stray(&mut self, violation: Violation, judge: &mut Judge<'_>) {
        let rules = [
            Rule::PKT_13,
            Rule::PKT_14,
            Rule::PKT_15,
            Rule::PKT_22,
            Rule::RND_37,
        ];
        if rules.contains(&violation.rule) {
            self.strays += 1;
            judge.alive &= self.strays <= STRAYS;
        }
    }

    fn ranges(
        &mut self,
        carrier: Carrier,
        ranges: Ranges<'_>,
        packet: &[u8],
        memory: &Memory,
        judge: &mut Judge<'_>,
    ) {
        let Some(geometry) = self.geometry else {
            return;
        };
        // A packet's slots are given back before the next packet is looked at.
        let mut slots = Slots::new();
        let mut good = Vec::new();
        let mut accepted = true;
        for (index, range) in ranges.iter().enumerate() {
            let what = format!("range {index}");
            let range = match geometry.range(index, range.byte_count, range.byte_offset) {
                Ok(range) => range,
                Err(violation) => {
                    judge.refuse(Layer::Nvsp, &what, packet, violation);
                    accepted = false;
                    continue;
                }
            };
            if let Err(violation) = geometry.in_one_slot(range) {
                judge.doubt(self.enforce, &what, packet, violation);
                if self.enforce {
                    accepted = false;
                    continue;
                }
            }
            if let Err(violation) = slots.take(range) {
                judge.doubt(self.enforce, &what, packet, violation);
                if self.enforce {
                    good.clear();
                    break;
                }
            }
            good.push(range);
        }
        self.joint.begin(accepted);
        for (n, range) in good.iter().enumerate() {
            let more = n + 1 < good.len();
            let bytes = self
                .receive
                .as_ref()
                .and_then(|pages| pages.read(memory, range.offset(), range.len()));
            let Some(bytes) = bytes else { continue };
            judge.audit.count(Layer::Rndis);
            self.rndis(&bytes, carrier, (n, more), judge);
            if !judge.alive {
                return;
            }
        }
    }

    /// The message in a range, of which the index is told and whether others follow.
    fn rndis(
        &mut self,
        bytes: &[u8],
        carrier: Carrier,
        (index, more): (usize, bool),
        judge: &mut Judge<'_>,
    ) {
        let context = Context {
            primary: self.primary,
            ready: self.ready,
            packet: PacketContext {
                mtu: self.mtu,
                mac: self.mac.unwrap_or_default(),
                promiscuous: self.filter & filter::PROMISCUOUS != 0,
                vlan: false,
                coalescing: self.coalescing,
                refuse_oob: self.enforce,
            },
            awaited: self.awaited,
        };
        let what = rndis_name(bytes);
        let judged = match validate::rndis::message(bytes, carrier, &context) {
            Ok(judged) => judged,
            Err(violation) => {
                if let Some(open) = self.joint.refused(violation) {
                    judge.refuse(Layer::Rndis, &what, bytes, open);
                }
                let concerns_request =
                    violation.rule.reaction() == Reaction::Fail && self.awaited.is_some();
                judge.refuse(Layer::Rndis, &what, bytes, violation);
                if concerns_request {
                    let request = self.awaited.take().map(|a| a.request);
                    let optional = [oid::PERMANENT_ADDRESS, oid::LINK_SPEED]
                        .iter()
                        .any(|oid| request == Some(Request::Query(*oid)));
                    judge.alive |= optional;
                } else {
                    self.stray(violation, judge);
                }
                return;
            }
        };
        judge.accept(Layer::Rndis, &what, bytes, judged.noted);
        match judged.value {
            Message::Packet(packet) => {
                let (frame, broken) = self.joint.take(&packet, index, more);
                if let Some(violation) = broken {
                    judge.refuse(Layer::Rndis, &what, bytes, violation);
                }
                if let Some(bytes) = frame.filter(|_| judge.audit.keep_frames) {
                    judge.audit.frames.push(Frame {
                        time: judge.stamp.time,
                        way: Way::In,
                        bytes,
                    });
                }
            }
            Message::Response(response) => self.answered(response),
            Message::Indication(_) | Message::Keepalive { .. } => {}
        }
    }

    fn answered(&mut self, response: Response) {
        let Some(awaited) = self.awaited.take() else {
            return;
        };
        match (response, awaited.request) {
            // A guest that asks for the permanent address only takes that.
            (Response::Value(Value::Mac(mac)), Request::Query(id))
                if id == oid::CURRENT_ADDRESS || self.mac.is_none() =>
            {
                self.mac = Some(mac);
            }
            (Response::Value(Value::Mtu(mtu)), _) => self.mtu = mtu,
            (Response::Set, Request::Set(oid::CURRENT_PACKET_FILTER)) => {
                self.ready |= self.filter != 0;
            }
            _ => {}
        }
    }
}

/// Speaks the verdicts on one packet.
struct Judge<'a> {
    relid: u32,
    stamp: Stamp,
    audit: &'a mut Audit,
    alive: bool,
}

impl Judge<'_> {
    fn accept(&mut self, layer: Layer, what: &str, bytes: &[u8], noted: Option<Violation>) {
        self.say(layer, what, bytes, true, noted);
    }

    fn refuse(&mut self, layer: Layer, what: &str, bytes: &[u8], violation: Violation) {
        use Reaction::{Fail, Fatal, Leak, Reset};
        let ends = matches!(violation.rule.reaction(), Reset | Fatal | Fail | Leak);
        self.alive &= !ends;
        self.say(layer, what, bytes, false, Some(violation));
    }

    /// A rule that is enforced or counted only.
    fn doubt(&mut self, enforced: bool, what: &str, bytes: &[u8], violation: Violation) {
        self.say(Layer::Nvsp, what, bytes, !enforced, Some(violation));
    }

    fn say(
        &mut self,
        layer: Layer,
        what: &str,
        bytes: &[u8],
        accepted: bool,
        violation: Option<Violation>,
    ) {
        self.audit.say(Verdict {
            record: self.stamp.record,
            file_offset: self.stamp.file_offset,
            time: self.stamp.time,
            layer: layer.name(),
            channel: self.relid,
            what: what.to_owned(),
            accepted,
            finding: violation.map(Finding::new),
            bytes: bytes.to_vec(),
        });
    }
}

/// Frame in the RNDIS PACKET at the start of `bytes`, and the message's length.
fn data_of(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let word = |at: usize| Some(little(bytes.get(at..at + 4)?) as usize);
    if word(0)? != wire::message::PACKET as usize {
        return None;
    }
    let start = word(8)?.checked_add(wire::OFFSET_BASE)?;
    let frame = bytes.get(start..start.checked_add(word(12)?)?)?;
    Some((frame, word(4)?.max(1)))
}

/// Address and length of the pieces that a GPA-direct packet names.
fn direct_ranges(extended: &[u8]) -> Vec<(u64, usize)> {
    let word = |at: usize| extended.get(at..at + 4).map_or(0, little) as usize;
    let mut out = Vec::new();
    let mut at = 8;
    for _ in 0..word(4).min(64) {
        let (len, offset) = (word(at), word(at + 4));
        let count = len.saturating_add(offset).div_ceil(4096).min(64);
        let pfns = (0..count)
            .filter_map(|i| extended.get(at + 8 + 8 * i..at + 16 + 8 * i).map(little))
            .collect();
        at += 8 + 8 * count;
        let pages = Pages { pfns, offset, len };
        out.extend(pages.pieces(0, len.min(64 * 4096)));
    }
    out
}

fn nvsp_name(payload: &[u8]) -> String {
    let number = payload.get(0..4).map_or(0, little) as u32;
    let name = match number {
        nv::INIT_COMPLETE => "INIT_COMPLETE",
        nv::SEND_RECEIVE_BUFFER_COMPLETE => "SEND_RECEIVE_BUFFER_COMPLETE",
        nv::SEND_SEND_BUFFER_COMPLETE => "SEND_SEND_BUFFER_COMPLETE",
        nv::SEND_RNDIS_PACKET => "SEND_RNDIS_PACKET",
        nv::SEND_RNDIS_PACKET_COMPLETE => "SEND_RNDIS_PACKET_COMPLETE",
        nv::SEND_VF_ASSOCIATION => "SEND_VF_ASSOCIATION",
        nv::SEND_INDIRECTION_TABLE => "SEND_INDIRECTION_TABLE",
        nv::SWITCH_DATA_PATH => "SWITCH_DATA_PATH",
        nv::SUB_CHANNEL => "SUB_CHANNEL",
        _ if payload.is_empty() => "empty NVSP completion",
        _ => return format!("NVSP message {number}"),
    };
    name.to_owned()
}

fn rndis_name(bytes: &[u8]) -> String {
    let number = bytes.get(0..4).map_or(0, little) as u32;
    let name = match number {
        wire::message::PACKET => "PACKET",
        wire::message::INDICATE_STATUS => "INDICATE_STATUS",
        wire::message::KEEPALIVE => "KEEPALIVE",
        wire::message::INITIALIZE_COMPLETE => "INITIALIZE_COMPLETE",
        wire::message::QUERY_COMPLETE => "QUERY_COMPLETE",
        wire::message::SET_COMPLETE => "SET_COMPLETE",
        wire::message::KEEPALIVE_COMPLETE => "KEEPALIVE_COMPLETE",
        _ => return format!("RNDIS message {number:#x}"),
    };
    name.to_owned()
}
