//! NVSP: what the virtual switch answers and sends, judged on a private copy.
//!
//! Completions are judged against the kind of the request they answer
//! ([`Awaited`]), in-band messages against the state of the channel
//! ([`InBandContext`]), transfer-page packets against the frozen geometry of
//! the receive buffer ([`ReceiveGeometry`]). A version other than 6.1 is never
//! proposed, so NVS-07 and NVS-09 hold by construction of the client.

use crate::index::{confine, part};
use crate::{Judged, Rule, Violation, read_prefix};
use abi::nvsp::{self, message, status};
use abi::vmbus::TransferPageRange;
use core::mem::size_of;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// Smallest slot: a full Ethernet frame of MTU 1500, the RNDIS header and room
/// for per-packet information (checksum, VLAN, hash value and hash info).
pub const MIN_SLOT: u32 = 1514 + 44 + 4 * 16;
/// Largest slot: a coalesced packet of 64 KiB with its headers. Our private
/// copy of a range has this bound.
pub const MAX_SLOT: u32 = 64 * 1024 + 1024;
/// Most slots of the receive buffer, and so most receives in flight. 16 MiB in
/// slots of 2 KiB; sizes the bitmap [`Slots`].
pub const MAX_SLOTS: u32 = 8192;
/// Smallest section of the send buffer: a full frame with its RNDIS header.
pub const MIN_SECTION: u32 = 1514 + 44;
/// Most sections of the send buffer that we use; sizes the client's tables.
pub const MAX_SECTIONS: u32 = 256;
/// Smallest range: an RNDIS header (RND-01 says the same of the copy).
const MIN_RANGE: u32 = core::mem::size_of::<abi::rndis::Header>() as u32;
/// Longest chain of memory descriptors that we note; it limits nothing here.
pub const MAX_MDL_CHAIN: u32 = 64;

/// What an outstanding request waits for. Kept in the client's private table,
/// never taken from the host (PKT-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// INIT was sent.
    Init,
    /// SEND_RECEIVE_BUFFER was sent, for a buffer of this many bytes.
    ReceiveBuffer {
        /// Bytes of the buffer.
        len: u32,
    },
    /// SEND_SEND_BUFFER was sent, for a buffer of this many bytes.
    SendBuffer {
        /// Bytes of the buffer.
        len: u32,
    },
    /// SUB_CHANNEL was sent, for this many.
    SubChannels {
        /// How many were asked for.
        count: u16,
    },
    /// An RNDIS message was sent, data or control.
    Rndis,
    /// A message whose completion has no payload (configuration, NDIS version,
    /// revoke, when a completion was asked for).
    Nothing,
}

/// A completion that fits its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The proposed version was accepted.
    Init,
    /// The receive buffer was accepted with this geometry.
    ReceiveBuffer(ReceiveGeometry),
    /// The send buffer was accepted with this geometry.
    SendBuffer(SendGeometry),
    /// So many sub-channels were granted, no more than were asked for; none if the
    /// host has refused (NVS-37).
    SubChannels(u16),
    /// The RNDIS message was taken. A status other than success is noted
    /// (NVS-36); the section is free either way.
    Rndis,
    /// The empty completion.
    Nothing,
}

/// Slots of the receive buffer, fixed once (NVS-19): there is no way to change
/// a value of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveGeometry {
    slot_size: u32,
    slot_count: u32,
    buffer_len: u32,
    /// See [`reciprocal`].
    reciprocal: u64,
}

/// What turns a division by `divisor` (2 or more) into a multiplication: the least
/// number above 2^64 / divisor. It is too large by `e <= 1`, so that the product with
/// a dividend below 2^32, without its lower 64 bits, is off by less than
/// 2^32 * e / 2^64: never enough to reach the next whole number, which is 1 / divisor
/// away or more.
fn reciprocal(divisor: u32) -> u64 {
    u64::MAX
        .checked_div(divisor.into())
        .unwrap_or(0)
        .saturating_add(1)
}

/// Sections of the send buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendGeometry {
    section_size: u32,
    section_count: u32,
}

impl SendGeometry {
    /// Bytes of one section.
    pub fn section_size(&self) -> u32 {
        self.section_size
    }
    /// Number of sections, 1 to [`MAX_SECTIONS`].
    pub fn section_count(&self) -> u32 {
        self.section_count
    }
}

/// One range of a transfer-page packet, inside the receive buffer and at least
/// as long as an RNDIS header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    offset: u32,
    len: u32,
    /// Its number in its packet.
    index: u16,
    /// First and last slot that it touches.
    slots: (u32, u32),
}

impl Range {
    /// Bytes from the start of the receive buffer.
    pub fn offset(&self) -> usize {
        self.offset as usize
    }
    /// Bytes, 8 to the slot size.
    pub fn len(&self) -> usize {
        self.len as usize
    }
    /// Never: a range holds an RNDIS header.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Where its packet names its length.
    fn len_at(&self) -> usize {
        usize::from(self.index)
            .saturating_mul(size_of::<TransferPageRange>())
            .saturating_add(crate::packet::RANGES_AT)
    }
    /// Where its packet names its offset.
    fn offset_at(&self) -> usize {
        self.len_at().saturating_add(4)
    }
}

impl ReceiveGeometry {
    /// Bytes of one slot: the size of the private copy of a range.
    pub fn slot_size(&self) -> u32 {
        self.slot_size
    }
    /// Number of slots: most receives in flight.
    pub fn slot_count(&self) -> u32 {
        self.slot_count
    }

    /// Judges one range (NVS-23, NVS-24). `index` is its number in the packet.
    #[inline]
    pub fn range(&self, index: usize, byte_count: u32, offset: u32) -> Result<Range, Violation> {
        let range = Range {
            offset,
            len: byte_count,
            index: u16::try_from(index).unwrap_or(u16::MAX),
            slots: self.slots_of(offset, byte_count),
        };
        // Subtraction on the side that we own; no sum that could wrap.
        match self.buffer_len.checked_sub(offset) {
            None => return Err(Violation::new(Rule::NVS_23, range.offset_at(), offset)),
            Some(room) if byte_count > room => {
                return Err(Violation::new(Rule::NVS_23, range.len_at(), byte_count));
            }
            Some(_) => {}
        }
        if byte_count < MIN_RANGE || byte_count > self.slot_size {
            return Err(Violation::new(Rule::NVS_24, range.len_at(), byte_count));
        }
        Ok(range)
    }

    /// Whether the range stays inside one slot (NVS-25). A doubtful rule: to be
    /// counted before it is enforced on hosts that nobody has measured.
    #[inline]
    pub fn in_one_slot(&self, range: Range) -> Result<(), Violation> {
        let (first, last) = range.slots;
        if first == last && last < self.slot_count {
            return Ok(());
        }
        Err(Violation::new(
            Rule::NVS_25,
            range.offset_at(),
            range.offset,
        ))
    }

    /// First and last slot that a range touches.
    #[inline]
    fn slots_of(&self, offset: u32, len: u32) -> (u32, u32) {
        let slot = |byte: u32| (u128::from(byte).wrapping_mul(self.reciprocal.into()) >> 64) as u32;
        let first = slot(offset);
        let within = offset.wrapping_sub(first.wrapping_mul(self.slot_size));
        // Most ranges end in the slot in which they start.
        let last = match u64::from(within).wrapping_add(len.into()) {
            end if end <= u64::from(self.slot_size) => first,
            _ => slot(offset.saturating_add(len.saturating_sub(1))),
        };
        (first, last)
    }
}

/// Slots that the host has handed to us and that we have not given back: one
/// bit per slot. Two ranges that touch the same slot overlap for NVS-26, since
/// a slot holds one RNDIS message.
#[derive(Clone, Debug)]
pub struct Slots {
    bits: [u64; (MAX_SLOTS / 64 + 1) as usize],
}

impl Default for Slots {
    fn default() -> Self {
        Slots::new()
    }
}

impl Slots {
    /// No slot is ours.
    pub const fn new() -> Self {
        Slots {
            bits: [0; (MAX_SLOTS / 64 + 1) as usize],
        }
    }

    /// Takes the slots of `range`, or tells that one is taken already (NVS-26).
    #[inline]
    pub fn take(&mut self, range: Range) -> Result<(), Violation> {
        let (first, last) = range.slots;
        if (first..=last).any(|slot| self.is_taken(slot)) {
            return Err(Violation::new(
                Rule::NVS_26,
                range.offset_at(),
                range.offset,
            ));
        }
        for slot in first..=last {
            self.set(slot, true);
        }
        Ok(())
    }

    /// Gives the slots of `range` back.
    #[inline]
    pub fn release(&mut self, range: Range) {
        let (first, last) = range.slots;
        for slot in first..=last {
            self.set(slot, false);
        }
    }

    #[inline]
    fn is_taken(&self, slot: u32) -> bool {
        let mask = 1u64.wrapping_shl(slot);
        confine((slot >> 6) as usize, self.bits.len())
            .and_then(|word| self.bits.get(word))
            .is_none_or(|word| word & mask != 0)
    }

    #[inline]
    fn set(&mut self, slot: u32, taken: bool) {
        let mask = 1u64.wrapping_shl(slot);
        let word = confine((slot >> 6) as usize, self.bits.len());
        if let Some(word) = word.and_then(|word| self.bits.get_mut(word)) {
            *word = if taken { *word | mask } else { *word & !mask };
        }
    }
}

/// The message type, present in every payload that is not empty (PKT-21).
#[inline]
fn message_type(payload: &[u8]) -> Result<u32, Violation> {
    match read_prefix::<nvsp::Header>(payload) {
        Some(header) => Ok(header.message_type.get()),
        None => Err(Violation::new(Rule::PKT_21, 0, payload.len() as u64)),
    }
}

/// Reads the structure of a known type, no further than its own size (NVS-02);
/// a payload that is shorter breaks NVS-01.
#[inline]
fn body<T: FromBytes>(payload: &[u8]) -> Result<T, Violation> {
    read_prefix::<T>(payload).ok_or_else(|| Violation::new(Rule::NVS_01, 0, payload.len() as u64))
}

/// Judges the payload of a completion packet against the request that its
/// transaction id named in the client's table.
#[inline]
pub fn completion(payload: &[u8], awaited: Awaited) -> Result<Judged<Completion>, Violation> {
    if payload.is_empty() {
        return match awaited {
            Awaited::Nothing => Ok(Judged::clean(Completion::Nothing)),
            _ => Err(Violation::new(Rule::PKT_22, 0, 0u32)),
        };
    }
    let kind = message_type(payload)?;
    match (awaited, kind) {
        // Hosts pad empty completions; there is nothing in them to read.
        (Awaited::Nothing, _) => Ok(Judged::clean(Completion::Nothing)),
        (Awaited::Init, message::INIT_COMPLETE) => init_complete(payload),
        (Awaited::ReceiveBuffer { len }, message::SEND_RECEIVE_BUFFER_COMPLETE) => {
            receive_buffer_complete(payload, len)
        }
        (Awaited::SendBuffer { len }, message::SEND_SEND_BUFFER_COMPLETE) => {
            send_buffer_complete(payload, len)
        }
        (Awaited::SubChannels { count }, message::SUB_CHANNEL) => granted(payload, count),
        (Awaited::Rndis, message::SEND_RNDIS_PACKET_COMPLETE) => rndis_complete(payload),
        // A response of the handshake, but not the one that is awaited.
        (
            Awaited::Init
            | Awaited::ReceiveBuffer { .. }
            | Awaited::SendBuffer { .. }
            | Awaited::SubChannels { .. },
            message::INIT_COMPLETE
            | message::SEND_RECEIVE_BUFFER_COMPLETE
            | message::SEND_SEND_BUFFER_COMPLETE
            | message::SUB_CHANNEL,
        ) => Err(Violation::new(Rule::NVS_03, 0, kind)),
        // A completion of another kind of request altogether.
        _ => Err(Violation::new(Rule::PKT_16, 0, kind)),
    }
}

fn init_complete(payload: &[u8]) -> Result<Judged<Completion>, Violation> {
    let message: nvsp::InitComplete = body(payload)?;
    if message.status.get() != status::SUCCESS {
        return Err(Violation::new(Rule::NVS_05, 12, message.status.get()));
    }
    // NVS-06: `negotiated_version` is not looked at.
    let chain = message.max_mdl_chain.get();
    let noted =
        (!(1..=MAX_MDL_CHAIN).contains(&chain)).then(|| Violation::new(Rule::NVS_08, 8, chain));
    Ok(Judged {
        value: Completion::Init,
        noted,
    })
}

fn receive_buffer_complete(payload: &[u8], len: u32) -> Result<Judged<Completion>, Violation> {
    // The status stands before the sections: a refusal may come without any.
    let head: [U32; 3] = body(payload)?;
    let [_, status, sections] = head.map(|word| word.get());
    if status != nvsp::status::SUCCESS {
        return Err(Violation::new(Rule::NVS_11, 4, status));
    }
    if sections != 1 {
        return Err(Violation::new(Rule::NVS_12, 8, sections));
    }
    let message: nvsp::SendReceiveBufferComplete = body(payload)?;
    let offset = message.section.offset.get();
    let size = message.section.sub_allocation_size.get();
    let count = message.section.sub_allocation_count.get();
    let end = message.section.end_offset.get();
    if offset != 0 {
        return Err(Violation::new(Rule::NVS_13, 12, offset));
    }
    if size < MIN_SLOT {
        return Err(Violation::new(Rule::NVS_14, 16, size));
    }
    if size > MAX_SLOT {
        return Err(Violation::new(Rule::NVS_15, 16, size));
    }
    // Two u32 make at most a u64: the product cannot wrap.
    let total = u64::from(size).wrapping_mul(u64::from(count));
    if count == 0 || total > u64::from(len) {
        return Err(Violation::new(Rule::NVS_16, 20, count));
    }
    if count > MAX_SLOTS {
        return Err(Violation::new(Rule::NVS_17, 20, count));
    }
    if u64::from(end) != total && end > len {
        return Err(Violation::new(Rule::NVS_18, 24, end));
    }
    Ok(Judged::clean(Completion::ReceiveBuffer(ReceiveGeometry {
        slot_size: size,
        slot_count: count,
        buffer_len: len,
        reciprocal: reciprocal(size),
    })))
}

fn send_buffer_complete(payload: &[u8], len: u32) -> Result<Judged<Completion>, Violation> {
    let head: [U32; 2] = body(payload)?;
    let [_, status] = head.map(|word| word.get());
    if status != nvsp::status::SUCCESS {
        // The catalogue has no rule of its own for this status: a refused
        // buffer has no section of a usable size.
        return Err(Violation::new(Rule::NVS_20, 4, status));
    }
    let message: nvsp::SendSendBufferComplete = body(payload)?;
    let size = message.section_size.get();
    if size < MIN_SECTION || size > len {
        return Err(Violation::new(Rule::NVS_20, 8, size));
    }
    match len.checked_div(size) {
        Some(count) if count >= 1 => {
            let section_count = count.min(MAX_SECTIONS);
            // NVS-21: the cap is ours; more sections are simply left alone.
            Ok(Judged {
                value: Completion::SendBuffer(SendGeometry {
                    section_size: size,
                    section_count,
                }),
                noted: (count > MAX_SECTIONS).then(|| Violation::new(Rule::NVS_21, 8, size)),
            })
        }
        _ => Err(Violation::new(Rule::NVS_21, 8, size)),
    }
}

/// The number counts with status 1 only (NVS-37); without it the card has one
/// channel.
fn granted(payload: &[u8], asked: u16) -> Result<Judged<Completion>, Violation> {
    let message: nvsp::SubChannelComplete = body(payload)?;
    let (status, count) = (message.status.get(), message.count.get());
    if status != nvsp::status::SUCCESS {
        return Ok(Judged {
            value: Completion::SubChannels(0),
            noted: Some(Violation::new(Rule::NVS_37, 4, status)),
        });
    }
    match u16::try_from(count) {
        Ok(count) if count <= asked => Ok(Judged::clean(Completion::SubChannels(count))),
        _ => Err(Violation::new(Rule::NVS_38, 8, count)),
    }
}

#[inline]
fn rndis_complete(payload: &[u8]) -> Result<Judged<Completion>, Violation> {
    let Some(message) = read_prefix::<nvsp::SendRndisPacketComplete>(payload) else {
        return Err(Violation::new(Rule::NVS_35, 0, payload.len() as u64));
    };
    let status = message.status.get();
    Ok(Judged {
        value: Completion::Rndis,
        noted: (status != status::SUCCESS).then(|| Violation::new(Rule::NVS_36, 4, status)),
    })
}

/// Which RNDIS messages a transfer-page packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// PACKET messages.
    Data,
    /// Control messages.
    Control,
}

/// State of the client that decides about a transfer-page packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceivePhase {
    /// The receive buffer was not accepted yet.
    NotReady,
    /// Ranges may be delivered.
    Open,
    /// The buffer was revoked or is about to be: complete, but do not read.
    Revoked,
}

/// Judges the payload of a transfer-page packet (NVS-31, NVS-32, NVS-49). The
/// ranges are judged one by one with [`ReceiveGeometry::range`].
#[inline]
pub fn carrier(payload: &[u8], phase: ReceivePhase) -> Result<Carrier, Violation> {
    let kind = message_type(payload)?;
    match phase {
        ReceivePhase::NotReady => return Err(Violation::new(Rule::NVS_31, 0, kind)),
        ReceivePhase::Revoked => return Err(Violation::new(Rule::NVS_49, 0, kind)),
        ReceivePhase::Open => {}
    }
    if kind != message::SEND_RNDIS_PACKET {
        return Err(Violation::new(Rule::NVS_32, 0, kind));
    }
    let message: nvsp::SendRndisPacket = body(payload)?;
    // NVS-34: section index and size mean nothing in this direction.
    match message.channel_type.get() {
        nvsp::channel_type::DATA => Ok(Carrier::Data),
        nvsp::channel_type::CONTROL => Ok(Carrier::Control),
        other => Err(Violation::new(Rule::NVS_33, 4, other)),
    }
}

/// State of the channel that an in-band packet came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBandContext {
    /// The NIC's first channel.
    pub primary: bool,
    /// Open channels of the NIC; 1 without sub-channels.
    pub channels: u32,
}

/// An in-band message from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InBand {
    /// An SR-IOV function came or went. Nothing follows from it (NVS-44).
    VfAssociation,
    /// A new indirection table.
    IndirectionTable([u32; nvsp::INDIRECTION_ENTRIES as usize]),
}

/// Judges an in-band message from the host.
pub fn in_band(payload: &[u8], context: &InBandContext) -> Result<InBand, Violation> {
    let kind = message_type(payload)?;
    if !context.primary {
        return Err(Violation::new(Rule::NVS_48, 0, kind));
    }
    match kind {
        message::SEND_VF_ASSOCIATION => {
            let _: nvsp::SendVfAssociation = body(payload)?;
            Ok(InBand::VfAssociation)
        }
        message::SEND_INDIRECTION_TABLE => indirection_table(payload, context),
        // Responses are completions; in-band they answer nothing.
        message::INIT_COMPLETE
        | message::SEND_RECEIVE_BUFFER_COMPLETE
        | message::SEND_SEND_BUFFER_COMPLETE
        | message::SEND_RNDIS_PACKET_COMPLETE
        | message::SUB_CHANNEL => Err(Violation::new(Rule::NVS_04, 0, kind)),
        message::SWITCH_DATA_PATH => Err(Violation::new(Rule::NVS_45, 0, kind)),
        _ => Err(Violation::new(Rule::NVS_46, 0, kind)),
    }
}

fn indirection_table(payload: &[u8], context: &InBandContext) -> Result<InBand, Violation> {
    const ENTRIES: usize = nvsp::INDIRECTION_ENTRIES as usize;
    let message: nvsp::SendIndirectionTable = body(payload)?;
    if message.count.get() != nvsp::INDIRECTION_ENTRIES {
        return Err(Violation::new(Rule::NVS_40, 4, message.count.get()));
    }
    let offset = message.offset.get();
    let table = match usize::try_from(offset) {
        Ok(at)
            if at >= core::mem::size_of::<nvsp::SendIndirectionTable>() && at.is_multiple_of(4) =>
        {
            part(payload, at, size_of::<[U32; ENTRIES]>()).and_then(read_prefix::<[U32; ENTRIES]>)
        }
        _ => None,
    };
    let Some(table) = table else {
        return Err(Violation::new(Rule::NVS_41, 8, offset));
    };
    let table = table.map(|entry| entry.get());
    // The table lies in the message: no place wraps around.
    let place = |entry: u32| offset.wrapping_add(entry.wrapping_mul(size_of::<U32>() as u32));
    let places = (0..nvsp::INDIRECTION_ENTRIES).map(|entry| place(entry) as usize);
    let mut entries = places.zip(table);
    if let Some((at, entry)) = entries.find(|(_, entry)| *entry >= context.channels) {
        return Err(Violation::new(Rule::NVS_42, at, entry));
    }
    if context.channels <= 1 {
        // There are no sub-channels to choose among.
        return Err(Violation::new(Rule::NVS_43, 0, message.message_type.get()));
    }
    Ok(InBand::IndirectionTable(table))
}

#[cfg(test)]
mod tests;
