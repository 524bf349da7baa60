//! PACKET: a frame with per-packet information.

use super::coalesce::{Flags, Part};
use super::{from_start, hash, slice};
use crate::frame::{Arrived, FlowHash, HashKinds};
use crate::index::part;
use crate::{Judged, Rule, Violation, read_prefix};
use abi::rndis::{self, checksum, ppi, vlan};
use core::mem::size_of;
use zerocopy::little_endian::U32;

/// Shortest frame: an Ethernet header.
pub const MIN_FRAME: u32 = 14;
/// What a frame may have beyond the MTU: Ethernet header and one VLAN tag.
pub const FRAME_OVERHEAD: u32 = 18;
/// Most elements of per-packet information.
pub const MAX_ELEMENTS: usize = 16;
/// Smallest offset of data and information: behind the PACKET header.
const MIN_OFFSET: u32 = (core::mem::size_of::<rndis::Packet>() - rndis::OFFSET_BASE) as u32;
/// Where a frame has its EtherType.
const TYPE_AT: usize = 12;
/// EtherTypes of a tag inside the frame: 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xA8]];

/// What frames are measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketContext {
    /// Payload of the largest frame, in bytes.
    pub mtu: u32,
    /// Our address.
    pub mac: [u8; 6],
    /// Frames for others are wanted.
    pub promiscuous: bool,
    /// 802.1Q information was agreed on.
    pub vlan: bool,
    /// Receive coalescing was agreed on.
    pub coalescing: bool,
    /// Out-of-band data is refused, not only counted (RND-10 is a rule to be
    /// counted before it is enforced on hosts that nobody has measured).
    pub refuse_oob: bool,
}

/// What the host says about a frame's checksums. Passed on only to a guest that has
/// agreed to it, and only where policy trusts the host so far (RND-25).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    tcp: bool,
    udp: bool,
    ip: bool,
    failed: bool,
}

impl Checksum {
    /// The host says that the TCP checksum is right.
    pub fn tcp(&self) -> bool {
        self.tcp
    }
    /// The host says that the UDP checksum is right.
    pub fn udp(&self) -> bool {
        self.udp
    }
    /// The host says that the IP header's checksum is right.
    pub fn ip(&self) -> bool {
        self.ip
    }
}

/// A frame for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    frame: &'a [u8],
    start: u32,
    len: u32,
    checksum: Checksum,
    vlan: Option<u16>,
    hash: Option<u32>,
    /// What the hash was made of; 0 says nothing.
    hash_info: u32,
    fragment: Option<Flags>,
}

impl<'a> Packet<'a> {
    /// The frame from its destination address on, without check sequence; of a
    /// message that was not copied whole the bytes that were copied.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }
    /// Where the frame starts in its message.
    pub fn start(&self) -> usize {
        self.start as usize
    }
    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.len as usize
    }
    /// Never: a frame has an Ethernet header.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// What the guest's card may say about the frame. `trust`: the host's word that
    /// a checksum of TCP or UDP is right, and none wrong, is passed on (RND-25).
    pub fn arrived(&self, trust: bool) -> Arrived {
        let good = (self.checksum.tcp || self.checksum.udp) && !self.checksum.failed;
        Arrived::new(trust && good)
    }
    /// What the host says about checksums.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }
    /// 802.1Q tag control information (priority 15:13, eligible 12, id 11:0).
    pub fn vlan(&self) -> Option<u16> {
        self.vlan
    }
    /// Which part of a coalesced packet this is; `None`: a frame.
    pub fn part(&self) -> Option<Part> {
        self.fragment.map(|flags| Part {
            flags,
            len: self.len,
        })
    }
    /// The host's hash of the flow: a hint, never an index (RND-27).
    pub fn hash(&self) -> Option<u32> {
        self.hash
    }
    /// The same for a guest that has asked for hashes of these kinds. One of another
    /// kind, of none that is known, or of a frame that is not of its version of IP is
    /// none (RND-27).
    #[inline]
    pub fn flow_hash(&self, asked: HashKinds) -> Option<FlowHash> {
        match asked.is_empty() {
            true => None,
            false => hash::beside(self.frame, self.hash?, self.hash_info, asked),
        }
    }
}

/// How many bytes of a message must be copied before it can be judged, as `head` (its
/// first 44 bytes) says: its header and the information behind that; and with the head
/// of its frame. What follows are bytes that nobody judges. `None`: copy it whole.
pub fn judged_part(head: &[u8; size_of::<rndis::Packet>()]) -> Option<(usize, usize)> {
    let header = read_prefix::<rndis::Packet>(head)?;
    let frame = from_start(header.data_offset.get());
    let behind = header
        .ppi_offset
        .get()
        .checked_add(header.ppi_length.get())?;
    let needed = frame.checked_add(FRAME_HEAD)?;
    let usual = from_start(behind) <= frame && needed <= LONGEST_PART;
    usual.then_some((frame, needed))
}

/// Whether a message, of which at least header and information are here, goes on with
/// a coalesced packet that another began: then nothing of its data is judged, and so
/// nothing need be private. This decides about how much is copied and no more.
pub fn goes_on(message: &[u8]) -> bool {
    let Some(header) = read_prefix::<rndis::Packet>(message) else {
        return false;
    };
    let mut area = slice(message, header.ppi_offset.get(), header.ppi_length.get());
    for _ in 0..MAX_ELEMENTS {
        let Some(element) = area.and_then(read_prefix::<rndis::PerPacketInfo>) else {
            return false;
        };
        let bytes = area.unwrap_or_default();
        if element.kind.get() == ppi::PACKET_ID {
            let at = element.value_offset.get() as usize;
            let value = part(bytes, at, size_of::<U32>()).and_then(read_prefix::<U32>);
            let [_, flags, ..] = value.map_or(0, |value| value.get()).to_le_bytes();
            return Flags::of(flags, 0, 0).is_some_and(|fragment| !fragment.first);
        }
        // An element of no size ends the walk when the elements are used up.
        area = bytes.get(element.size.get() as usize..);
    }
    false
}

/// Bytes of a frame that are judged, here or by a card's filters: addresses, EtherType
/// and a VLAN tag.
const FRAME_HEAD: usize = MIN_FRAME as usize + 4;
/// Frames start at byte 256 at most on hosts that are known; beyond this a message
/// is copied whole.
const LONGEST_PART: usize = 512;

/// Judges one PACKET message of `length` bytes, of which the first are `message`.
pub(super) fn judge<'a>(
    message: &'a [u8],
    length: usize,
    context: &PacketContext,
) -> Result<Judged<Packet<'a>>, Violation> {
    let header = match read_prefix::<rndis::Packet>(message) {
        Some(header) if length >= size_of::<rndis::Packet>() => header,
        _ => return Err(Violation::new(Rule::RND_05, 4, length as u64)),
    };
    let data_offset = header.data_offset.get();
    let data_length = header.data_length.get();
    if data_offset < MIN_OFFSET {
        return Err(Violation::new(Rule::RND_06, 8, data_offset));
    }
    let start = from_start(data_offset);
    let Some(room) = length.checked_sub(start) else {
        return Err(Violation::new(Rule::RND_07, 8, data_offset));
    };
    if data_length as usize > room {
        return Err(Violation::new(Rule::RND_07, 12, data_length));
    }
    let size = if data_length < MIN_FRAME {
        Err(Violation::new(Rule::RND_08, 12, data_length))
    } else if data_length > context.mtu.saturating_add(FRAME_OVERHEAD) {
        Err(Violation::new(Rule::RND_09, 12, data_length))
    } else {
        Ok(())
    };
    // A fragment is measured as a part of its packet.
    if !context.coalescing {
        size?;
    }
    let len = data_length as usize;
    let private = message.len().saturating_sub(start).min(len);
    let judged = private >= FRAME_HEAD.min(len) || context.coalescing && goes_on(message);
    let Some(frame) = part(message, start, private).filter(|_| judged) else {
        return Err(Violation::new(Rule::RND_07, 8, data_offset));
    };
    let oob = [
        (16, header.oob_offset.get()),
        (20, header.oob_length.get()),
        (24, header.oob_count.get()),
    ];
    let mut noted = None;
    if let Some((at, word)) = oob.into_iter().find(|(_, word)| *word != 0) {
        let violation = Violation::new(Rule::RND_10, at, word);
        if context.refuse_oob {
            return Err(violation);
        }
        noted = Some(violation);
    }
    // RND-11: virtual connection and reserved word are not looked at.
    let information = information(message, &header)?;
    let mut packet = Packet {
        frame,
        start: start as u32,
        len: data_length,
        checksum: Checksum::default(),
        vlan: None,
        hash: None,
        hash_info: 0,
        fragment: None,
    };
    if let Some(information) = information {
        let start = from_start(header.ppi_offset.get());
        let bent = walk(information, start, context, &mut packet)?;
        noted = noted.or(bent);
    }
    match packet.fragment {
        None => size?,
        // It has no addresses of its own.
        Some(fragment) if !fragment.first => {
            return Ok(Judged {
                value: packet,
                noted,
            });
        }
        Some(_) if data_length < MIN_FRAME => size?,
        Some(_) => {
            destination(&packet, from_start(data_offset), context)?;
            return Ok(Judged {
                value: packet,
                noted,
            });
        }
    }
    // A tag beside the frame is a part of it too.
    if packet.vlan.is_some() && data_length > context.mtu.saturating_add(MIN_FRAME) {
        return Err(Violation::new(Rule::RND_09, 12, data_length));
    }
    destination(&packet, from_start(data_offset), context)?;
    Ok(Judged {
        value: packet,
        noted,
    })
}

/// The area of per-packet information, if there is one (RND-12 to RND-15).
fn information<'a>(
    message: &'a [u8],
    header: &rndis::Packet,
) -> Result<Option<&'a [u8]>, Violation> {
    let offset = header.ppi_offset.get();
    let length = header.ppi_length.get();
    if length == 0 {
        return Ok(None);
    }
    if offset == 0 {
        return Err(Violation::new(Rule::RND_12, 28, offset));
    }
    let room = (message.len().saturating_sub(rndis::OFFSET_BASE)) as u64;
    if offset < MIN_OFFSET || !offset.is_multiple_of(4) || u64::from(offset) > room {
        return Err(Violation::new(Rule::RND_13, 28, offset));
    }
    let area = match slice(message, offset, length) {
        Some(area) if area.len() >= ppi::HEADER_SIZE => area,
        _ => return Err(Violation::new(Rule::RND_14, 32, length)),
    };
    // Both ends lie inside the message, so the sums fit.
    let end = |offset: u32, length: u32| offset.saturating_add(length);
    let data = header.data_offset.get();
    if offset < end(data, header.data_length.get()) && data < end(offset, length) {
        return Err(Violation::new(Rule::RND_15, 28, offset));
    }
    Ok(Some(area))
}

/// Walks the elements once (RND-16 to RND-22) and takes what is understood. The
/// area starts at byte `at` of the message. Returns the first rule that a value
/// had to be bent for.
fn walk(
    mut area: &[u8],
    mut at: usize,
    context: &PacketContext,
    packet: &mut Packet<'_>,
) -> Result<Option<Violation>, Violation> {
    let mut seen = [0u32; MAX_ELEMENTS];
    let mut count = 0usize;
    let mut noted = None;
    while !area.is_empty() {
        let Some(element) = read_prefix::<rndis::PerPacketInfo>(area) else {
            return Err(Violation::new(Rule::RND_16, at, area.len() as u64));
        };
        let size = element.size.get();
        if (size as usize) < ppi::HEADER_SIZE {
            return Err(Violation::new(Rule::RND_16, at, size));
        }
        let Some((bytes, rest)) = area.split_at_checked(size as usize) else {
            return Err(Violation::new(Rule::RND_17, at, size));
        };
        if !size.is_multiple_of(4) {
            return Err(Violation::new(Rule::RND_18, at, size));
        }
        let kind = element.kind.get();
        if seen.iter().take(count).any(|earlier| *earlier == kind) {
            return Err(Violation::new(Rule::RND_21, at.saturating_add(4), kind));
        }
        match seen.get_mut(count) {
            Some(slot) => *slot = kind,
            None => {
                let seen = count.saturating_add(1) as u64;
                return Err(Violation::new(Rule::RND_20, at, seen));
            }
        }
        count = count.saturating_add(1);
        let element = Element {
            bytes,
            at,
            value_offset: element.value_offset.get(),
        };
        match kind {
            ppi::CHECKSUM => {
                let (value, at) = element.value()?;
                let (checksum, bent) = judge_checksum(value, at);
                packet.checksum = checksum;
                noted = noted.or(bent);
            }
            ppi::IEEE_8021Q => {
                let (value, at) = element.value()?;
                packet.vlan = Some(judge_vlan(value, at, context)?);
            }
            ppi::HASH_VALUE => packet.hash = Some(element.value()?.0),
            ppi::HASH_INFO => packet.hash_info = element.value()?.0,
            ppi::PACKET_ID => {
                // Version, flags and id in one word, in this order.
                let (value, at) = element.value()?;
                let [_, flags, low, high] = value.to_le_bytes();
                let at = at.saturating_add(1);
                packet.fragment = Flags::of(flags, u16::from_le_bytes([low, high]), at);
                if packet.fragment.is_some() && !context.coalescing {
                    return Err(Violation::new(Rule::RND_28, at, flags));
                }
            }
            // RND-22: the rest is skipped.
            _ => {}
        }
        at = at.saturating_add(bytes.len());
        area = rest;
    }
    Ok(noted)
}

/// One element, inside the area.
struct Element<'a> {
    bytes: &'a [u8],
    /// Where it starts in the message.
    at: usize,
    value_offset: u32,
}

impl Element<'_> {
    /// The element's value, one word, behind its header and inside it (RND-19), and
    /// where in the message it stands.
    fn value(&self) -> Result<(u32, usize), Violation> {
        let start = self.value_offset as usize;
        let value = match start >= ppi::HEADER_SIZE {
            true => part(self.bytes, start, size_of::<U32>()).and_then(read_prefix::<U32>),
            false => None,
        };
        match value {
            Some(value) => Ok((value.get(), self.at.saturating_add(start))),
            None => Err(Violation::new(
                Rule::RND_19,
                self.at.saturating_add(8),
                self.value_offset,
            )),
        }
    }
}

/// Failed and succeeded together mean "not verified" (RND-24).
fn judge_checksum(value: u32, at: usize) -> (Checksum, Option<Violation>) {
    let mut contradiction = false;
    let mut good = |succeeded: u32, failed: u32| {
        let both = value & succeeded != 0 && value & failed != 0;
        contradiction |= both;
        value & succeeded != 0 && !both
    };
    let result = Checksum {
        tcp: good(checksum::RX_TCP_SUCCEEDED, checksum::RX_TCP_FAILED),
        udp: good(checksum::RX_UDP_SUCCEEDED, checksum::RX_UDP_FAILED),
        ip: good(checksum::RX_IP_SUCCEEDED, checksum::RX_IP_FAILED),
        failed: value
            & (checksum::RX_TCP_FAILED | checksum::RX_UDP_FAILED | checksum::RX_IP_FAILED)
            != 0,
    };
    (
        result,
        contradiction.then(|| Violation::new(Rule::RND_24, at, value)),
    )
}

/// Only where tags were agreed on, with a usable id and no reserved bits (RND-26).
fn judge_vlan(value: u32, at: usize, context: &PacketContext) -> Result<u16, Violation> {
    let id = (value >> vlan::ID_SHIFT) & vlan::ID_MASK;
    if !context.vlan || value & vlan::RESERVED_MASK != 0 || id == vlan::ID_MASK {
        return Err(Violation::new(Rule::RND_26, at, value));
    }
    let priority = (value & vlan::PRIORITY_MASK) << 13;
    let eligible = if value & vlan::CFI != 0 { 1 << 12 } else { 0 };
    Ok((priority | eligible | id) as u16)
}

/// For us (RND-67), and tagged once at most (RND-68). The frame starts at byte `at`
/// of the message.
fn destination(packet: &Packet<'_>, at: usize, context: &PacketContext) -> Result<(), Violation> {
    let address = packet.frame.first_chunk::<6>().copied().unwrap_or_default();
    let [first, ..] = address;
    let group = first & 1 != 0;
    if !group && address != context.mac && !context.promiscuous {
        let (n, byte) = first_difference(address, context.mac);
        return Err(Violation::new(Rule::RND_67, at.saturating_add(n), byte));
    }
    let ethertype = packet
        .frame
        .get(TYPE_AT..)
        .and_then(|rest| rest.first_chunk());
    if let Some(tag) = ethertype.filter(|tag| packet.vlan.is_some() && TAGS.contains(tag)) {
        let at = at.saturating_add(TYPE_AT);
        return Err(Violation::new(Rule::RND_68, at, u16::from_le_bytes(*tag)));
    }
    Ok(())
}

/// The first byte of an address that is not as it should be, with its place.
pub(super) fn first_difference(address: [u8; 6], wanted: [u8; 6]) -> (usize, u8) {
    let pairs = address.into_iter().zip(wanted);
    let differs = pairs.enumerate().find(|(_, (is, should))| is != should);
    differs.map_or((0, 0), |(n, (is, _))| (n, is))
}
