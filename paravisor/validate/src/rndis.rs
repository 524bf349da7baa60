//! RNDIS: one message in the private copy of one range of the receive buffer.
//!
//! [`message`] judges header, type and carrier and hands the body to the file
//! of its kind: [`packet`] (frames and per-packet information) or [`response`]
//! (completions of our requests); events and keepalives are judged here.

use crate::index::part;
use crate::nvsp::Carrier;
use crate::{Judged, Rule, Violation, read_prefix};
use abi::rndis::{self, message as kind, status};

pub mod coalesce;
pub mod hash;
pub mod offload;
pub mod packet;
pub mod response;

pub use coalesce::{Gathered, Part};
pub use offload::Offloads;
pub use packet::{Checksum, Packet, PacketContext};
pub use response::{AwaitedResponse, Initialized, Request, Response, Value};

/// Fastest link that is believed, in units of 100 bit/s: 400 Gbit/s.
pub const MAX_LINK_SPEED: u32 = 4_000_000_000;

/// What decides about a message besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The message came on the NIC's first channel.
    pub primary: bool,
    /// Frames may be delivered: initialised, filter set, link wanted.
    pub ready: bool,
    /// What frames are measured against.
    pub packet: PacketContext,
    /// The request that waits for its response.
    pub awaited: Option<AwaitedResponse>,
}

/// A judged message.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// A frame.
    Packet(Packet<'a>),
    /// An event.
    Indication(Indication),
    /// The host wants a sign of life with this request id.
    Keepalive {
        /// Goes back unchanged.
        request_id: u32,
    },
    /// The answer to our request.
    Response(Response),
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indication {
    /// The link is up.
    LinkUp,
    /// The link is down.
    LinkDown,
    /// The link's speed in 100 bit/s, for display only.
    LinkSpeed(u32),
    /// The network behind the link changed.
    NetworkChange,
    /// The offloads in use. What was asked for is enough to know.
    Offload,
}

/// Judges one message. `range` is the private copy of the whole range.
pub fn message<'a>(
    range: &'a [u8],
    carrier: Carrier,
    context: &Context,
) -> Result<Judged<Message<'a>>, Violation> {
    begun(range, range.len(), carrier, context)
}

/// Judges one message whose range has `size` bytes, of which the first are `range`:
/// all of them, or of a PACKET as many as [`packet::judged_part`] wants.
pub fn begun<'a>(
    range: &'a [u8],
    size: usize,
    carrier: Carrier,
    context: &Context,
) -> Result<Judged<Message<'a>>, Violation> {
    let Some(header) = read_prefix::<rndis::Header>(range) else {
        return Err(Violation::new(Rule::RND_01, 0, range.len() as u64));
    };
    let message_type = header.message_type.get();
    let length = header.length.get();
    // RND-03: what follows the message in its range is never looked at.
    let whole = usize::try_from(length)
        .ok()
        .filter(|length| *length <= size && *length >= core::mem::size_of::<rndis::Header>());
    let Some(whole) = whole else {
        return Err(Violation::new(Rule::RND_02, 4, length));
    };
    let Some(message) = part(range, 0, whole.min(range.len())) else {
        return Err(Violation::new(Rule::RND_02, 4, length));
    };
    match message_type {
        kind::PACKET
        | kind::INDICATE_STATUS
        | kind::KEEPALIVE
        | kind::INITIALIZE_COMPLETE
        | kind::QUERY_COMPLETE
        | kind::SET_COMPLETE
        | kind::KEEPALIVE_COMPLETE => {}
        kind::INITIALIZE | kind::HALT | kind::QUERY | kind::SET | kind::RESET => {
            return Err(Violation::new(Rule::RND_63, 0, message_type));
        }
        _ => return Err(Violation::new(Rule::RND_04, 0, message_type)),
    }
    if (message_type == kind::PACKET) != (carrier == Carrier::Data) {
        return Err(Violation::new(Rule::NVS_33, 0, message_type));
    }
    if message_type == kind::PACKET {
        if !context.ready {
            return Err(Violation::new(Rule::RND_35, 0, message_type));
        }
        let packet = packet::judge(message, whole, &context.packet)?;
        return Ok(Judged {
            value: Message::Packet(packet.value),
            noted: packet.noted,
        });
    }
    if !context.primary {
        return Err(Violation::new(Rule::RND_66, 0, message_type));
    }
    if message.len() != whole {
        // Only a PACKET is judged by its beginning; the client copies the rest whole.
        return Err(Violation::new(Rule::RND_02, 4, length));
    }
    match message_type {
        // The buffer of an event may lie behind the message's length on old
        // hosts (RND-02, RND-53): it is bounded by the range.
        kind::INDICATE_STATUS => {
            let event = indication(range, message.len())?;
            Ok(Judged {
                value: Message::Indication(event.value),
                noted: event.noted,
            })
        }
        kind::KEEPALIVE => match read_prefix::<rndis::Keepalive>(message) {
            Some(keepalive) => Ok(Judged::clean(Message::Keepalive {
                request_id: keepalive.request_id.get(),
            })),
            None => Err(Violation::new(Rule::RND_64, 4, length)),
        },
        _ => {
            let response = response::judge(message, message_type, context.awaited)?;
            Ok(Judged {
                value: Message::Response(response.value),
                noted: response.noted,
            })
        }
    }
}

/// Judges INDICATE_STATUS. `range` is the whole range, `length` the message's.
fn indication(range: &[u8], length: usize) -> Result<Judged<Indication>, Violation> {
    const SIZE: usize = core::mem::size_of::<rndis::IndicateStatus>();
    let message = match read_prefix::<rndis::IndicateStatus>(range) {
        Some(message) if length >= SIZE => message,
        _ => return Err(Violation::new(Rule::RND_53, 4, length as u64)),
    };
    let buffer_length = message.buffer_length.get();
    let buffer_offset = message.buffer_offset.get();
    let buffer = if buffer_length == 0 {
        &[]
    } else {
        match slice_behind(SIZE, range, buffer_offset, buffer_length) {
            Ok(buffer) => buffer,
            Err(Outside::Offset) => return Err(Violation::new(Rule::RND_53, 16, buffer_offset)),
            Err(Outside::Length) => return Err(Violation::new(Rule::RND_53, 12, buffer_length)),
        }
    };
    Ok(Judged::clean(match message.status.get() {
        status::MEDIA_CONNECT => Indication::LinkUp,
        status::MEDIA_DISCONNECT => Indication::LinkDown,
        status::LINK_SPEED_CHANGE => {
            let Some(speed) = read_prefix::<zerocopy::little_endian::U32>(buffer) else {
                return Err(Violation::new(Rule::RND_53, 12, buffer_length));
            };
            let speed = link_speed(speed.get(), from_start(buffer_offset));
            return Ok(Judged {
                value: Indication::LinkSpeed(speed.value),
                noted: speed.noted,
            });
        }
        status::NETWORK_CHANGE => Indication::NetworkChange,
        status::TASK_OFFLOAD_CURRENT_CONFIG => Indication::Offload,
        other => return Err(Violation::new(Rule::RND_54, 8, other)),
    }))
}

/// A link speed that can be shown: neither zero nor beyond belief (RND-52).
pub(crate) fn link_speed(speed: u32, at: usize) -> Judged<u32> {
    let value = speed.clamp(1, MAX_LINK_SPEED);
    Judged {
        value,
        noted: (value != speed).then(|| Violation::new(Rule::RND_52, at, speed)),
    }
}

/// Where the bytes at an offset of RNDIS lie in the message.
pub(crate) fn from_start(offset: u32) -> usize {
    rndis::OFFSET_BASE.saturating_add(offset as usize)
}

/// Which of two fields is wrong.
pub(crate) enum Outside {
    /// The offset points into the header or behind the message.
    Offset,
    /// The offset is right, but not all the bytes are there.
    Length,
}

/// As [`slice`], for bytes that lie behind a header of `header` bytes.
pub(crate) fn slice_behind(
    header: usize,
    message: &[u8],
    offset: u32,
    length: u32,
) -> Result<&[u8], Outside> {
    let start = from_start(offset);
    if start < header || start > message.len() {
        return Err(Outside::Offset);
    }
    slice(message, offset, length).ok_or(Outside::Length)
}

/// The bytes at `offset` from byte 8 of `message`, `length` long, if they are
/// all there. No sum can wrap.
pub(crate) fn slice(message: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let body = message.get(rndis::OFFSET_BASE..)?;
    part(
        body,
        usize::try_from(offset).ok()?,
        usize::try_from(length).ok()?,
    )
}

#[cfg(test)]
mod tests;
