//! Ring packets: descriptor and extended header, judged on a private copy.
//!
//! [`span`] judges the 16 bytes of the descriptor that are copied first and
//! says how many bytes to copy; [`judge`] gives the meaning of the whole. Both
//! look at the same private bytes: the ring is not read again.

use crate::index::part;
use crate::{Rule, Violation, read_prefix};
use abi::vmbus::{
    PACKET_FLAG_COMPLETION_REQUESTED, PACKET_TRAILER_SIZE, PacketDescriptor, PacketType,
    TransferPageHeader, TransferPageRange,
};
use core::mem::size_of;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = size_of::<PacketDescriptor>();
/// Most ranges of one transfer-page packet, with receive segment coalescing
/// (OpenVMM NVSP_MAX_PACKETS_PER_RECEIVE; 375 without).
pub const MAX_RANGES: u32 = 562;
/// Where the extended header ends and the ranges start.
pub(crate) const RANGES_AT: usize = DESCRIPTOR + size_of::<TransferPageHeader>();

/// What the receiver of a channel is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Id of the receive buffer to which transfer-page packets refer.
    pub transfer_set: u16,
    /// Most ranges of such a packet, at most [`MAX_RANGES`].
    pub max_ranges: u32,
}

/// How far a packet reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    length: u32,
}

impl Span {
    /// Bytes of the packet, a multiple of 8, at least 16, without the trailer.
    #[inline]
    pub const fn length(self) -> u32 {
        self.length
    }
    /// Bytes to move on in the ring.
    #[inline]
    pub const fn total(self) -> u32 {
        self.length.saturating_add(PACKET_TRAILER_SIZE as u32)
    }
}

/// Judges the size of the packet that starts with `descriptor`, when
/// `available` bytes of the ring are readable and `limit` bytes of private
/// buffer are ready.
#[inline]
pub fn span(descriptor: &[u8], available: u32, limit: usize) -> Result<Span, Violation> {
    let Some(head) = read_prefix::<PacketDescriptor>(descriptor) else {
        return Err(Violation::new(Rule::RNG_08, 0, descriptor.len() as u64));
    };
    let (length8, offset8) = (head.length8.get(), head.data_offset8.get());
    let span = Span {
        length: u32::from(length8).wrapping_mul(8),
    };
    if length8 < 2 {
        return Err(Violation::new(Rule::PKT_03, 4, length8));
    }
    if span.total() > available {
        return Err(Violation::new(Rule::RNG_09, 4, length8));
    }
    if span.length as usize > limit {
        return Err(Violation::new(Rule::RNG_22, 4, length8));
    }
    if offset8 > length8 {
        return Err(Violation::new(Rule::PKT_01, 2, offset8));
    }
    if offset8 < 2 {
        return Err(Violation::new(Rule::PKT_02, 2, offset8));
    }
    Ok(span)
}

/// A packet that was judged.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    kind: Kind<'a>,
    transaction_id: u64,
    completion_requested: bool,
    payload: &'a [u8],
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Everything is in the payload.
    InBand,
    /// The payload refers to ranges of the receive buffer.
    TransferPages(Ranges<'a>),
    /// An answer to one of our packets.
    Completion,
}

impl<'a> Packet<'a> {
    /// What kind of packet it is.
    #[inline]
    pub fn kind(&self) -> Kind<'a> {
        self.kind
    }
    /// The sender's id: opaque, to be echoed. In a completion, ours.
    #[inline]
    pub fn transaction_id(&self) -> u64 {
        self.transaction_id
    }
    /// Whether the host waits for a completion; never for a completion (PKT-06).
    #[inline]
    pub fn completion_requested(&self) -> bool {
        self.completion_requested
    }
    /// The payload with its padding: a multiple of 8 bytes.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The ranges of a transfer-page packet. Their bounds are judged against the
/// receive buffer by whoever owns it.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    bytes: &'a [u8],
}

/// Part of the receive buffer, as the host names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Bytes.
    pub byte_count: u32,
    /// Offset into the receive buffer.
    pub byte_offset: u32,
}

impl<'a> Ranges<'a> {
    /// How many, from 1 to [`MAX_RANGES`].
    pub fn len(&self) -> usize {
        self.bytes
            .chunks_exact(size_of::<TransferPageRange>())
            .len()
    }
    /// Never: an empty list is refused (PKT-10).
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Range> + 'a {
        self.bytes
            .chunks_exact(size_of::<TransferPageRange>())
            .filter_map(|bytes| {
                let range = read_prefix::<TransferPageRange>(bytes)?;
                Some(Range {
                    byte_count: range.byte_count.get(),
                    byte_offset: range.byte_offset.get(),
                })
            })
    }
}

/// Judges a whole packet (descriptor to the end of the payload), its size included.
pub fn judge<'a>(bytes: &'a [u8], policy: &Policy) -> Result<Packet<'a>, Violation> {
    let span = span(bytes, u32::MAX, bytes.len())?;
    judge_measured(bytes, span, policy)
}

/// The same for a packet whose descriptor, the first bytes of `bytes`, has passed
/// [`span`]. With another span the packet is cut or refused.
#[inline]
pub fn judge_measured<'a>(
    bytes: &'a [u8],
    span: Span,
    policy: &Policy,
) -> Result<Packet<'a>, Violation> {
    let Some(head) = read_prefix::<PacketDescriptor>(bytes) else {
        return Err(Violation::new(Rule::RNG_08, 0, bytes.len() as u64));
    };
    let start = usize::from(head.data_offset8.get()).wrapping_mul(8);
    let payload = (span.length as usize)
        .checked_sub(start)
        .and_then(|len| part(bytes, start, len));
    let Some(payload) = payload else {
        return Err(Violation::new(Rule::PKT_01, 2, head.data_offset8.get()));
    };
    let kind = PacketType(head.packet_type.get());
    if ![
        PacketType::IN_BAND,
        PacketType::TRANSFER_PAGES,
        PacketType::COMPLETION,
    ]
    .contains(&kind)
    {
        return Err(Violation::new(Rule::PKT_04, 0, kind.0));
    }
    let flags = head.flags.get();
    if flags & !PACKET_FLAG_COMPLETION_REQUESTED != 0 {
        return Err(Violation::new(Rule::PKT_05, 6, flags));
    }
    let transaction_id = head.transaction_id.get();
    let kind = match kind {
        PacketType::IN_BAND => Kind::InBand,
        PacketType::TRANSFER_PAGES => Kind::TransferPages(ranges(bytes, start, policy)?),
        _ => Kind::Completion,
    };
    let completion = matches!(kind, Kind::Completion);
    if payload.is_empty() && !completion {
        return Err(Violation::new(Rule::PKT_21, 4, head.length8.get()));
    }
    Ok(Packet {
        kind,
        transaction_id,
        completion_requested: !completion && flags & PACKET_FLAG_COMPLETION_REQUESTED != 0,
        payload,
    })
}

/// What a dropped packet (a violation of [`judge`] with reaction `drop`) carried:
/// the host's transaction id, and whether it waits for a completion.
pub fn refused(bytes: &[u8]) -> Option<(u64, bool)> {
    let head = read_prefix::<PacketDescriptor>(bytes)?;
    let requested = head.flags.get() & PACKET_FLAG_COMPLETION_REQUESTED != 0;
    let completion = PacketType(head.packet_type.get()) == PacketType::COMPLETION;
    Some((head.transaction_id.get(), requested && !completion))
}

/// The ranges between extended header and payload, which starts at `start`.
fn ranges<'a>(bytes: &'a [u8], start: usize, policy: &Policy) -> Result<Ranges<'a>, Violation> {
    let extended = start
        .checked_sub(DESCRIPTOR)
        .and_then(|len| part(bytes, DESCRIPTOR, len))
        .and_then(read_prefix::<TransferPageHeader>);
    let Some(extended) = extended else {
        return Err(Violation::new(
            Rule::PKT_07,
            2,
            start.wrapping_shr(3) as u64,
        ));
    };
    let count = extended.range_count.get();
    if count >= 1 << 31 {
        return Err(Violation::new(Rule::PKT_09, 20, count));
    }
    if count == 0 || count > policy.max_ranges.min(MAX_RANGES) {
        return Err(Violation::new(Rule::PKT_10, 20, count));
    }
    let list = part(bytes, 0, start).and_then(|front| {
        let len = (count as usize).checked_mul(size_of::<TransferPageRange>())?;
        part(front, RANGES_AT, len)
    });
    let Some(list) = list else {
        return Err(Violation::new(Rule::PKT_08, 20, count));
    };
    if extended.set_id.get() != policy.transfer_set {
        return Err(Violation::new(Rule::PKT_11, 16, extended.set_id.get()));
    }
    Ok(Ranges { bytes: list })
}

#[cfg(test)]
mod tests;
