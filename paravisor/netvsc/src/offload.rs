//! Frames of the guest that are not finished: checksums to fill in, segments to
//! cut. What the host has offered to do it is asked for, by information beside the
//! frame (Linux `netvsc_xmit`); the rest is done here. A guest may therefore use
//! its card's offloads whatever the host has, before and after a new channel.
//!
//! All numbers come from [`validate::frame`], which has walked the private copy of
//! the frame (RND-69). Nothing but that copy is changed.

use abi::rndis::{self, checksum, lso, ppi, vlan};
use validate::frame::{Headers, MAX_HEADERS, Network, Task, TaskKind, Transport, fold, sum};
use validate::rndis::Offloads;
use validate::rndis::response::MAX_ALIGNMENT;
use zerocopy::IntoBytes;

/// PACKET header, and three elements of information of one word each.
const RNDIS: usize = size_of::<rndis::Packet>() + 3 * ELEMENT;
const ELEMENT: usize = ppi::HEADER_SIZE + 4;
/// Where a frame's tag is, and its length.
const TAG_AT: usize = 12;
const TAG: usize = 4;
/// Flags of TCP that belong to the last segment (FIN, PSH) and to the first (CWR).
const LAST_ONLY: u8 = 0x09;
const FIRST_ONLY: u8 = 0x80;

/// A frame of the guest that is on its way, and how much of it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    task: Task,
    /// Bytes of TCP payload that the host has, and in how many segments.
    done: usize,
    segments: u16,
}

impl Sending {
    /// A frame of which nothing has left.
    pub const fn new(task: Task) -> Sending {
        Sending {
            task,
            done: 0,
            segments: 0,
        }
    }

    /// What is to be done for it.
    /// What is left to do for the whole frame, as long as nothing of it has left.
    pub fn task(&self) -> Task {
        self.task
    }
}

impl Default for Sending {
    fn default() -> Self {
        Sending::new(Task::PLAIN)
    }
}

/// One message for the host: its own bytes, and a part of the frame behind them.
pub(crate) struct Message {
    rndis: [u8; RNDIS],
    rndis_len: usize,
    head: [u8; MAX_HEADERS],
    head_start: usize,
    head_len: usize,
    /// The part of the frame behind the head.
    rest: (usize, usize),
    /// Bytes of payload in it, and in how many segments the host sends them.
    payload: usize,
    segments: u16,
}

impl Message {
    /// The bytes of the message in their order.
    pub fn parts<'a>(&'a self, frame: &'a [u8]) -> [&'a [u8]; 4] {
        let head = self.head.get(..self.head_len).unwrap_or_default();
        let (before, behind) = match self.head_start {
            0 => (&[][..], head),
            // The tag has left the frame.
            start => (
                head.get(..TAG_AT).unwrap_or_default(),
                head.get(start..).unwrap_or_default(),
            ),
        };
        let (start, end) = self.rest;
        [
            self.rndis.get(..self.rndis_len).unwrap_or_default(),
            before,
            behind,
            frame.get(start..end).unwrap_or_default(),
        ]
    }
}

/// The longest padding.
pub(crate) static ZEROS: [u8; 1 << MAX_ALIGNMENT] = [0; 1 << MAX_ALIGNMENT];

/// What stands in front of a frame that is sent as it is: the head of its message, and
/// one element of information at most. Nearly all frames are of this kind.
pub(crate) struct Brief {
    head: rndis::Packet,
    note: [u8; ELEMENT],
    noted: bool,
    padding: usize,
}

impl Brief {
    /// `align`: of messages that lie behind one another, a power of two.
    fn new(frame: usize, checksum: Option<u32>, align: usize) -> Brief {
        let notes = if checksum.is_some() { ELEMENT } else { 0 };
        let length = size_of::<rndis::Packet>()
            .saturating_add(notes)
            .saturating_add(frame);
        let padding = length.wrapping_neg() & align.saturating_sub(1);
        let mut head = packet(frame, notes);
        head.header.length = (length.saturating_add(padding) as u32).into();
        let mut brief = Brief {
            head,
            padding,
            note: [0; ELEMENT],
            noted: checksum.is_some(),
        };
        if let Some(value) = checksum {
            let (head, value) = (element(ppi::CHECKSUM), value.to_le_bytes());
            let words = head.as_bytes().iter().chain(&value);
            for (to, from) in brief.note.iter_mut().zip(words) {
                *to = *from;
            }
        }
        brief
    }

    /// The head.
    pub fn head(&self) -> &[u8] {
        self.head.as_bytes()
    }

    /// Zeros behind the frame, so that another message may follow.
    pub fn padding(&self) -> &'static [u8] {
        ZEROS.get(..self.padding).unwrap_or_default()
    }

    /// The element, if there is one.
    pub fn note(&self) -> &[u8] {
        let note: &[u8] = &self.note;
        if self.noted { note } else { &[] }
    }
}

/// The head of a message with so many bytes of information and of a frame behind it.
fn packet(frame: usize, notes: usize) -> rndis::Packet {
    const HEADER: usize = size_of::<rndis::Packet>();
    const BEHIND: u32 = (HEADER - rndis::OFFSET_BASE) as u32;
    let (frame, notes) = (frame as u32, notes as u32);
    rndis::Packet {
        header: rndis::Header {
            message_type: rndis::message::PACKET.into(),
            length: (HEADER as u32)
                .saturating_add(notes)
                .saturating_add(frame)
                .into(),
        },
        data_offset: BEHIND.saturating_add(notes).into(),
        data_length: frame.into(),
        // With no information: offset 36 and length 0, as FreeBSD sends it.
        ppi_offset: BEHIND.into(),
        ppi_length: notes.into(),
        ..Default::default()
    }
}

/// The head of an element of one word.
fn element(kind: u32) -> rndis::PerPacketInfo {
    rndis::PerPacketInfo {
        size: (ELEMENT as u32).into(),
        kind: kind.into(),
        value_offset: (ppi::HEADER_SIZE as u32).into(),
    }
}

fn is_tagged(frame: &[u8]) -> bool {
    word(frame, TAG_AT) == 0x8100 && frame.len() >= TAG_AT.saturating_add(2 * TAG)
}

fn set(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(to) = at.checked_add(2).and_then(|end| bytes.get_mut(at..end)) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    u16::from_be_bytes(word.copied().unwrap_or_default())
}

impl Sending {
    /// Does to the frame what the host does not do. Once is enough; after it
    /// `task` says what is left.
    pub(crate) fn prepare(&mut self, frame: &mut [u8], host: &Offloads) {
        let (start, at, udp) = match self.task.kind() {
            TaskKind::Plain | TaskKind::Segments(..) => return,
            TaskKind::Checksum(headers)
                if host.checksum(headers.network(), headers.transport()) =>
            {
                return;
            }
            TaskKind::Checksum(headers) => (
                headers.transport_at(),
                headers.sum_at(),
                headers.transport() == Transport::Udp,
            ),
            TaskKind::Sum { start, at } => (start, at, false),
        };
        let total = fold(sum(frame.get(start..).unwrap_or_default()));
        set(frame, at, finished(total, udp));
        self.task = Task::PLAIN;
    }

    /// What stands in front of the frame, if it is sent as it is, in one message and with
    /// one element beside it at most.
    pub(crate) fn brief(&self, frame: &[u8], align: usize) -> Option<Brief> {
        let checksum = match self.task.kind() {
            TaskKind::Plain | TaskKind::Sum { .. } => None,
            TaskKind::Checksum(headers) => Some(checksum_bits(&headers)),
            TaskKind::Segments(..) => return None,
        };
        (!is_tagged(frame)).then(|| Brief::new(frame.len(), checksum, align))
    }

    /// The next message about the frame. `largest` bounds the frame in it.
    pub(crate) fn next(&self, frame: &[u8], host: &Offloads, largest: usize) -> Message {
        let mut message = Message {
            rndis: [0; RNDIS],
            rndis_len: 0,
            head: [0; MAX_HEADERS],
            head_start: 0,
            head_len: 0,
            rest: (0, frame.len()),
            payload: 0,
            segments: 1,
        };
        let mut notes = Notes::default();
        match self.task.kind() {
            TaskKind::Plain | TaskKind::Sum { .. } => {}
            TaskKind::Checksum(headers) => {
                notes.checksum = Some(checksum_bits(&headers));
            }
            TaskKind::Segments(headers, size) => {
                self.cut(
                    frame,
                    &headers,
                    size,
                    host,
                    largest,
                    &mut message,
                    &mut notes,
                );
            }
        }
        message.take_tag(frame, &mut notes);
        message.write_rndis(&notes);
        message
    }

    /// What a message about a frame has carried is done. Whether that was all.
    pub(crate) fn advance(&mut self, message: &Message, frame: &[u8]) -> bool {
        let TaskKind::Segments(headers, _) = self.task.kind() else {
            return true;
        };
        self.done = self.done.saturating_add(message.payload);
        self.segments = self.segments.wrapping_add(message.segments);
        self.done >= frame.len().saturating_sub(headers.payload_at())
    }

    /// As many segments as the host cuts by itself, else one.
    #[allow(clippy::too_many_arguments)]
    fn cut(
        &self,
        frame: &[u8],
        headers: &Headers,
        size: u16,
        host: &Offloads,
        largest: usize,
        message: &mut Message,
        notes: &mut Notes,
    ) {
        let size = usize::from(size).max(1);
        let behind = headers.payload_at();
        let left = frame.len().saturating_sub(behind).saturating_sub(self.done);
        let room = host
            .large_send(headers.network())
            .map_or(0, |most| most.min(largest).saturating_sub(behind));
        // Whole segments only, so that none in the middle is short.
        let most = match room.checked_div(size) {
            Some(segments @ 2..) => segments.saturating_mul(size),
            _ => size,
        };
        let payload = left.min(most);
        let start = behind.saturating_add(self.done);
        message.rest = (start, start.saturating_add(payload));
        message.payload = payload;
        message.segments = u16::try_from(payload.div_ceil(size)).unwrap_or(u16::MAX);
        let head = frame.get(..behind).unwrap_or_default();
        for (to, from) in message.head.iter_mut().zip(head) {
            *to = *from;
        }
        message.head_len = behind;
        let head = message.head.get_mut(..behind).unwrap_or_default();

        let tcp = headers.transport_at();
        let sequence_at = tcp.saturating_add(4);
        let sequence = u32::from(word(head, sequence_at)) << 16
            | u32::from(word(head, sequence_at.saturating_add(2)));
        let sequence = sequence.wrapping_add(self.done as u32);
        set(head, sequence_at, (sequence >> 16) as u16);
        set(head, sequence_at.saturating_add(2), sequence as u16);
        if let Some(flags) = head.get_mut(tcp.saturating_add(13)) {
            if payload != left {
                *flags &= !LAST_ONLY;
            }
            if self.done != 0 {
                *flags &= !FIRST_ONLY;
            }
        }
        let ip = headers.network_at();
        if headers.network() == Network::V4 {
            let id = word(head, ip.saturating_add(4)).wrapping_add(self.segments);
            set(head, ip.saturating_add(4), id);
        }
        let transport = (behind.saturating_sub(tcp)).saturating_add(payload);
        if payload > size {
            // Lengths and sums of large sends are the host's business: it wants none.
            set_lengths(head, headers, None);
            set(head, headers.sum_at(), headers.pseudo_sum(head, 0));
            notes.large_send = Some(large_send_bits(headers, size));
            return;
        }
        set_lengths(head, headers, Some(payload));
        let pseudo = headers.pseudo_sum(head, transport as u32);
        if host.checksum(headers.network(), Transport::Tcp) {
            set(head, headers.sum_at(), pseudo);
            notes.checksum = Some(checksum_bits(headers));
            return;
        }
        set(head, headers.sum_at(), 0);
        let header = head.get(tcp..).unwrap_or_default();
        let (start, end) = message.rest;
        let total = u64::from(pseudo)
            .saturating_add(sum(header))
            .saturating_add(sum(frame.get(start..end).unwrap_or_default()));
        set(head, headers.sum_at(), finished(fold(total), false));
    }
}

/// Finishes the headers of a frame of `len` bytes that the host has joined: the IP
/// header's sum, and for TCP that of the pseudo header, from which the guest goes on.
pub(crate) fn join(head: &mut [u8], headers: &Headers, len: usize) {
    let payload = len.saturating_sub(headers.payload_at());
    set_lengths(head, headers, Some(payload));
    let transport = len.saturating_sub(headers.transport_at());
    let pseudo = headers.pseudo_sum(head, transport as u32);
    set(head, headers.sum_at(), pseudo);
}

/// The sum as it stands in a header. Of UDP zero would mean that there is none.
fn finished(total: u16, udp: bool) -> u16 {
    match !total {
        0 if udp => 0xffff,
        sum => sum,
    }
}

/// Writes the lengths of the IP header and its sum; `None`: zeros, for a large
/// send (Linux `netvsc_xmit`).
fn set_lengths(head: &mut [u8], headers: &Headers, payload: Option<usize>) {
    let ip = headers.network_at();
    let with_payload = |from: usize| {
        let headers = headers.payload_at().saturating_sub(from);
        payload.map_or(0, |payload| headers.saturating_add(payload) as u16)
    };
    match headers.network() {
        Network::V4 => {
            set(head, ip.saturating_add(2), with_payload(ip));
            set(head, ip.saturating_add(10), 0);
            if payload.is_some() {
                let header = head.get(ip..headers.transport_at()).unwrap_or_default();
                let total = fold(sum(header));
                set(head, ip.saturating_add(10), finished(total, false));
            }
        }
        Network::V6 => {
            set(
                head,
                ip.saturating_add(4),
                with_payload(headers.transport_at()),
            );
        }
    }
}

fn checksum_bits(headers: &Headers) -> u32 {
    let network = match headers.network() {
        Network::V4 => checksum::TX_IPV4,
        Network::V6 => checksum::TX_IPV6,
    };
    let transport = match headers.transport() {
        Transport::Tcp => checksum::TX_TCP,
        Transport::Udp => checksum::TX_UDP,
    };
    network | transport | transport_offset(headers) << checksum::TX_TCP_OFFSET_SHIFT
}

fn large_send_bits(headers: &Headers, size: usize) -> u32 {
    let network = match headers.network() {
        Network::V4 => 0,
        Network::V6 => lso::IPV6,
    };
    let size = size as u32 & lso::MSS_MASK;
    network | lso::TYPE_V2 | size | transport_offset(headers) << lso::TCP_OFFSET_SHIFT
}

/// Where TCP or UDP starts in the frame that the host gets: its tag has left it.
fn transport_offset(headers: &Headers) -> u32 {
    let tag = if headers.tagged() { TAG } else { 0 };
    headers.transport_at().saturating_sub(tag) as u32
}

/// Elements of information beside a frame.
#[derive(Default)]
struct Notes {
    vlan: Option<u32>,
    large_send: Option<u32>,
    checksum: Option<u32>,
}

impl Message {
    /// An 802.1Q tag travels beside the frame, as Linux sends it.
    fn take_tag(&mut self, frame: &[u8], notes: &mut Notes) {
        if !is_tagged(frame) {
            return;
        }
        let tag = u32::from(word(frame, TAG_AT.saturating_add(2)));
        let eligible = if tag & 1 << 12 != 0 { vlan::CFI } else { 0 };
        notes.vlan = Some(tag >> 13 | eligible | (tag & vlan::ID_MASK) << vlan::ID_SHIFT);
        if self.head_len == 0 {
            // The addresses; what is behind the tag follows from the frame itself.
            for (to, from) in self.head.iter_mut().zip(frame).take(TAG_AT) {
                *to = *from;
            }
            self.head_len = TAG_AT;
            self.rest.0 = TAG_AT.saturating_add(TAG);
        } else {
            self.head_start = TAG_AT.saturating_add(TAG);
        }
    }

    fn write_rndis(&mut self, notes: &Notes) {
        let elements = [
            (ppi::IEEE_8021Q, notes.vlan),
            (ppi::LSO, notes.large_send),
            (ppi::CHECKSUM, notes.checksum),
        ];
        let header = size_of::<rndis::Packet>();
        let mut end = header;
        for (kind, value) in elements {
            let Some(value) = value else { continue };
            let element = element(kind);
            for bytes in [element.as_bytes(), &value.to_le_bytes()] {
                let next = end.saturating_add(bytes.len());
                let room = self.rndis.get_mut(end..next).unwrap_or_default();
                for (to, from) in room.iter_mut().zip(bytes) {
                    *to = *from;
                }
                end = next;
            }
        }
        let removed = match self.head_start {
            0 => 0,
            _ => TAG,
        };
        let (start, last) = self.rest;
        let data = self
            .head_len
            .saturating_sub(removed)
            .saturating_add(last.saturating_sub(start));
        let message = packet(data, end.saturating_sub(header));
        // There is room for every element behind it, too.
        let _ = message.write_to_prefix(&mut self.rndis);
        self.rndis_len = end;
    }
}
