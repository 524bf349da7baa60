//! Completions of our own RNDIS requests.

use super::offload::{self, Offloads};
use super::packet::FRAME_OVERHEAD;
use super::packet::first_difference;
use super::{Outside, from_start, hash, link_speed, slice_behind};
use crate::frame::HashKinds;
use crate::{Judged, Rule, Violation, read_prefix};
use abi::rndis::{self, message, object, oid, revision, status};
use zerocopy::little_endian::U32;

/// Longest response: a query completion with the largest value that is asked
/// for. Responses that we ask for are far smaller.
pub const MAX_RESPONSE: usize = 256;
/// Smallest MTU: IPv6's.
pub const MIN_MTU: u32 = 1280;
/// Largest alignment of messages in one transfer, as a power of two.
pub const MAX_ALIGNMENT: u32 = 7;
/// Most PACKET messages in one transfer.
pub const MAX_PACKETS_PER_MESSAGE: u32 = 8;

/// Most receive queues that we use (Linux `VRSS_CHANNEL_MAX`); more are left alone.
pub const MAX_QUEUES: u16 = 64;
/// Most entries of the table behind them: 512 bytes of words (Linux `ITAB_NUM`).
pub const MAX_TABLE: u16 = 128;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// INITIALIZE.
    Initialize,
    /// QUERY of this OID.
    Query(u32),
    /// SET of this OID.
    Set(u32),
}

impl Request {
    /// Type of the message that answers.
    fn completion(self) -> u32 {
        match self {
            Request::Initialize => message::INITIALIZE_COMPLETE,
            Request::Query(_) => message::QUERY_COMPLETE,
            Request::Set(_) => message::SET_COMPLETE,
        }
    }
}

/// The request that waits for its response, with what the response is measured
/// against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitedResponse {
    /// The id it was sent with.
    pub request_id: u32,
    /// What was asked.
    pub request: Request,
    /// The largest frame that we send, with all headers of its message.
    pub transfer: u32,
    /// The MTU that was configured: the host may lower it, not raise it.
    pub mtu: u32,
    /// The address that policy, measurement or an earlier answer fixed.
    pub mac: Option<[u8; 6]>,
    /// Medium and flags of INITIALIZE are enforced, not only counted (RND-45 is
    /// a rule to be counted before it is enforced on unmeasured hosts).
    pub enforce_medium: bool,
}

/// A response that answers the awaited request with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The device is initialised.
    Initialized(Initialized),
    /// The value of an OID.
    Value(Value),
    /// The OID was set.
    Set,
}

/// The limits that the host names, made safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialized {
    max_packets: u32,
    max_transfer: u32,
    alignment: u32,
}

impl Initialized {
    /// Most PACKET messages in one transfer, 1 to 8.
    pub fn max_packets(&self) -> u32 {
        self.max_packets
    }
    /// Largest transfer in bytes, at least one frame with its headers.
    pub fn max_transfer(&self) -> u32 {
        self.max_transfer
    }
    /// Alignment of messages in one transfer, in bytes, 1 to 128.
    pub fn alignment(&self) -> u32 {
        1u32.wrapping_shl(self.alignment)
    }
}

/// The value of an OID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A unicast address.
    Mac([u8; 6]),
    /// An MTU between [`MIN_MTU`] and the configured one.
    Mtu(u32),
    /// A link speed in 100 bit/s.
    LinkSpeed(u32),
    /// Whether the link is up.
    LinkUp(bool),
    /// What the NIC can do for frames.
    Offloads(Offloads),
    /// Receive queues, the first included, 1 to [`MAX_QUEUES`], and entries of the
    /// table that spreads frames over them, 1 to [`MAX_TABLE`].
    Scale {
        /// The queues.
        queues: u16,
        /// The entries, a power of two.
        table: u16,
        /// Hashes that the host can make and that we know.
        hashes: HashKinds,
    },
    /// Any other number.
    Number(u32),
}

/// Judges a completion message of type `kind` (one of the four).
pub(super) fn judge(
    message: &[u8],
    kind: u32,
    awaited: Option<AwaitedResponse>,
) -> Result<Judged<Response>, Violation> {
    // Type, length, request id, status: common to all four.
    let minimum = match kind {
        message::INITIALIZE_COMPLETE => rndis::INITIALIZE_COMPLETE_MIN,
        message::QUERY_COMPLETE => core::mem::size_of::<rndis::QueryComplete>(),
        _ => core::mem::size_of::<rndis::StatusComplete>(),
    };
    let head = match read_prefix::<rndis::StatusComplete>(message) {
        Some(head) if message.len() >= minimum => head,
        _ => return Err(Violation::new(Rule::RND_40, 4, message.len() as u64)),
    };
    if message.len() > MAX_RESPONSE {
        return Err(Violation::new(Rule::RND_39, 4, message.len() as u64));
    }
    let id = head.request_id.get();
    let awaited = match awaited {
        Some(awaited) if awaited.request_id == id => awaited,
        _ => return Err(Violation::new(Rule::RND_36, 8, id)),
    };
    if kind != awaited.request.completion() {
        return Err(Violation::new(Rule::RND_37, 0, kind));
    }
    let code = head.status.get();
    if code != status::SUCCESS {
        let rule = match awaited.request {
            Request::Set(oid::CURRENT_PACKET_FILTER) => Rule::RND_62,
            _ => Rule::RND_41,
        };
        return Err(Violation::new(rule, 12, code));
    }
    match awaited.request {
        Request::Initialize => initialized(message, &awaited),
        Request::Query(oid) => {
            let value = value(message, oid, &awaited)?;
            Ok(Judged {
                value: Response::Value(value.value),
                noted: value.noted,
            })
        }
        Request::Set(_) => Ok(Judged::clean(Response::Set)),
    }
}

fn initialized(message: &[u8], awaited: &AwaitedResponse) -> Result<Judged<Response>, Violation> {
    // The list of address families may be missing: 12 words are enough.
    let Some(words) = read_prefix::<[U32; rndis::INITIALIZE_COMPLETE_MIN / 4]>(message) else {
        return Err(Violation::new(Rule::RND_40, 4, message.len() as u64));
    };
    let [
        _,
        _,
        _,
        _,
        major,
        minor,
        flags,
        medium,
        packets,
        transfer,
        alignment,
        _,
    ] = words.map(|word| word.get());
    if (major, minor) != rndis::VERSION {
        return Err(match major == rndis::VERSION.0 {
            true => Violation::new(Rule::RND_44, 20, minor),
            false => Violation::new(Rule::RND_44, 16, major),
        });
    }
    let mut noted = None;
    if medium != rndis::MEDIUM_802_3 || flags & rndis::DEVICE_CONNECTIONLESS == 0 {
        let violation = match medium == rndis::MEDIUM_802_3 {
            true => Violation::new(Rule::RND_45, 24, flags),
            false => Violation::new(Rule::RND_45, 28, medium),
        };
        if awaited.enforce_medium {
            return Err(violation);
        }
        noted = Some(violation);
    }
    let max_packets = packets.clamp(1, MAX_PACKETS_PER_MESSAGE);
    let max_transfer = transfer.max(awaited.transfer);
    let clamped_alignment = alignment.min(MAX_ALIGNMENT);
    let noted = noted
        .or((alignment != clamped_alignment).then(|| Violation::new(Rule::RND_46, 40, alignment)))
        .or((packets != max_packets).then(|| Violation::new(Rule::RND_47, 32, packets)))
        .or((transfer != max_transfer).then(|| Violation::new(Rule::RND_48, 36, transfer)));
    let value = Initialized {
        max_packets,
        max_transfer,
        alignment: clamped_alignment,
    };
    Ok(Judged {
        value: Response::Initialized(value),
        noted,
    })
}

fn value(message: &[u8], id: u32, awaited: &AwaitedResponse) -> Result<Judged<Value>, Violation> {
    const HEADER: usize = core::mem::size_of::<rndis::QueryComplete>();
    let Some(header) = read_prefix::<rndis::QueryComplete>(message) else {
        return Err(Violation::new(Rule::RND_40, 4, message.len() as u64));
    };
    let length = header.buffer_length.get();
    let offset = header.buffer_offset.get();
    let buffer = if length == 0 {
        &[]
    } else {
        match slice_behind(HEADER, message, offset, length) {
            Ok(buffer) => buffer,
            Err(Outside::Offset) => return Err(Violation::new(Rule::RND_42, 20, offset)),
            Err(Outside::Length) => return Err(Violation::new(Rule::RND_42, 16, length)),
        }
    };
    let at = from_start(offset);
    let wrong_length = Violation::new(Rule::RND_43, 16, length);
    if matches!(id, oid::PERMANENT_ADDRESS | oid::CURRENT_ADDRESS) {
        let mac = <[u8; 6]>::try_from(buffer).map_err(|_| wrong_length)?;
        return Ok(Judged::clean(Value::Mac(judge_mac(mac, at, awaited.mac)?)));
    }
    if id == oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES {
        let frame = awaited.mtu.saturating_add(FRAME_OVERHEAD);
        let offloads = offload::judge(buffer, at, frame)?;
        return Ok(Judged {
            value: Value::Offloads(offloads.value),
            noted: offloads.noted,
        });
    }
    if id == oid::RECEIVE_SCALE_CAPABILITIES {
        return scale(buffer, at).map(Judged::clean);
    }
    let number = match <[u8; 4]>::try_from(buffer) {
        Ok(bytes) => u32::from_le_bytes(bytes),
        Err(_) => return Err(wrong_length),
    };
    Ok(match id {
        oid::MAXIMUM_FRAME_SIZE => {
            let mtu = number.clamp(MIN_MTU, awaited.mtu.max(MIN_MTU));
            let noted = (mtu != number).then(|| Violation::new(Rule::RND_50, at, number));
            Judged {
                value: Value::Mtu(mtu),
                noted,
            }
        }
        oid::LINK_SPEED => {
            let speed = link_speed(number, at);
            Judged {
                value: Value::LinkSpeed(speed.value),
                noted: speed.noted,
            }
        }
        oid::MEDIA_CONNECT_STATUS => {
            // 0 is connected; whatever is neither 0 nor 1 counts as not.
            let noted = (number > 1).then(|| Violation::new(Rule::RND_51, at, number));
            Judged {
                value: Value::LinkUp(number == 0),
                noted,
            }
        }
        _ => Judged::clean(Value::Number(number)),
    })
}

/// NDIS_RECEIVE_SCALE_CAPABILITIES (RND-60), revision 1 or 2. It stands at byte `at`
/// of the message.
fn scale(buffer: &[u8], at: usize) -> Result<Value, Violation> {
    let [shorter, longer] = revision::RSS_CAPABILITIES;
    let broken = |offset: usize, value: u32| {
        Err(Violation::new(
            Rule::RND_60,
            at.saturating_add(offset),
            value,
        ))
    };
    let Some(words) = read_prefix::<[U32; 4]>(buffer) else {
        return broken(0, buffer.len() as u32);
    };
    let [head, flags, _, queues] = words.map(|word| word.get());
    let [kind, _, size_low, size_high] = head.to_le_bytes();
    let size = usize::from(u16::from_le_bytes([size_low, size_high]));
    if kind != object::RSS_CAPABILITIES || size < shorter || size > buffer.len() {
        return broken(0, head);
    }
    let queues = match u16::try_from(queues) {
        Ok(queues) if queues != 0 => queues.min(MAX_QUEUES),
        _ => return broken(12, queues),
    };
    let entries = match read_prefix::<rndis::RssCapabilities>(buffer) {
        Some(whole) if size >= longer => whole.table_entries.get(),
        _ => 0,
    };
    // 0: the host does not say.
    let table = match entries {
        0 => MAX_TABLE,
        entries if entries <= MAX_TABLE && entries.is_power_of_two() => entries,
        entries => return broken(16, entries.into()),
    };
    let hashes = hash::offered(flags);
    Ok(Value::Scale {
        queues,
        table,
        hashes,
    })
}

/// Unicast, not zero, and the one that is already fixed (RND-49). It stands at byte
/// `at` of the message.
fn judge_mac(mac: [u8; 6], at: usize, fixed: Option<[u8; 6]>) -> Result<[u8; 6], Violation> {
    let [first, ..] = mac;
    if first & 1 != 0 || mac == [0; 6] {
        return Err(Violation::new(Rule::RND_49, at, first));
    }
    match fixed {
        Some(fixed) if fixed != mac => {
            let (n, byte) = first_difference(mac, fixed);
            Err(Violation::new(Rule::RND_49, at.saturating_add(n), byte))
        }
        _ => Ok(mac),
    }
}
