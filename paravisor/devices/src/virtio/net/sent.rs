//! Frames that the guest sends (virtio 1.2, 5.1.6.2): copied, and what their header asks
//! for judged.

use super::ETHERNET_LEN;
use super::arrived::header_len;
use crate::virtio::queue::{Broken, Chain, Queue};
use abi::virtio::{feature, net};
use memory::GuestMemory;
use validate::frame::{Network, PartialSum, Request, Task};

/// What became of a chain that the guest sent.
pub(super) enum Sent {
    /// A frame of this many bytes lies in the buffer, and this is left to do.
    Frame(usize, Task),
    /// It cannot be sent.
    Unusable,
}

/// What the driver may leave to the card: what was agreed on.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    sums: bool,
    /// Over IPv4 and IPv6.
    segments: [bool; 2],
    /// Length of the driver's header.
    header: usize,
}

impl Allowed {
    pub(super) fn by(features: u64) -> Allowed {
        Allowed {
            sums: features & feature::NET_CSUM != 0,
            segments: [feature::NET_HOST_TSO4, feature::NET_HOST_TSO6]
                .map(|feature| features & feature != 0),
            header: header_len(features),
        }
    }
}

/// What the driver's header asks for (5.1.6.2). `None`: something that was not
/// agreed on.
fn request(header: &[u8; net::HASH_HEADER_LEN], may: Allowed) -> Option<Request> {
    let field = |at: usize| {
        let word = header.get(at..).and_then(|rest| rest.first_chunk::<2>());
        u16::from_le_bytes(word.copied().unwrap_or_default())
    };
    let [flags, gso, ..] = *header;
    let [v4, v6] = may.segments;
    // 5.1.6.2.1: without the features, flags and gso_type are 0; the driver has no
    // other flag, and ECN segments are not offered.
    let sum = match flags {
        0 => None,
        net::FLAG_NEEDS_CSUM if may.sums => Some(PartialSum {
            start: field(net::HEADER_CSUM_START),
            offset: field(net::HEADER_CSUM_OFFSET),
        }),
        _ => return None,
    };
    let size = field(net::HEADER_GSO_SIZE);
    let segment = match gso {
        net::GSO_NONE => None,
        net::GSO_TCPV4 if v4 => Some((Network::V4, size)),
        net::GSO_TCPV6 if v6 => Some((Network::V6, size)),
        _ => return None,
    };
    Some(Request { sum, segment })
}

/// Copies the frame of a chain into `buf`.
pub(super) fn read_frame(
    queue: &Queue,
    mut chain: Chain,
    guest: &impl GuestMemory,
    buf: &mut [u8],
    may: Allowed,
) -> Result<Sent, Broken> {
    // What a hash would be in it is without a meaning here (5.1.6.2).
    let mut header = [0u8; net::HASH_HEADER_LEN];
    // Bytes of header and of frame copied so far.
    let mut have_header = 0usize;
    let mut have = 0usize;
    let mut fits = true;
    while let Some(buffer) = chain.next(queue, guest)? {
        // 5.1.6.2: a sent frame lies in device-readable buffers.
        if buffer.writable {
            return Err(Broken);
        }
        let mut address = buffer.address;
        let mut left = usize::try_from(buffer.len).map_err(|_| Broken)?;
        let rest = header.get_mut(have_header..may.header).unwrap_or_default();
        let count = left.min(rest.len());
        if let Some(part) = rest.get_mut(..count) {
            guest.read(address, part)?;
        }
        have_header = have_header.saturating_add(count);
        address = address.checked_add(count as u64).ok_or(Broken)?;
        left = left.saturating_sub(count);
        if left == 0 || !fits {
            continue;
        }
        let end = have.checked_add(left).ok_or(Broken)?;
        match buf.get_mut(have..end) {
            Some(part) => {
                guest.read(address, part)?;
                have = end;
            }
            // Too long for us: walk on, to find a broken chain all the same.
            None => fits = false,
        }
    }
    let whole = have_header == may.header && have >= ETHERNET_LEN;
    let frame = buf.get(..have).filter(|_| fits && whole);
    let sent = frame.and_then(|frame| {
        let request = request(&header, may)?;
        Task::judge(&request, frame).ok()
    });
    Ok(sent.map_or(Sent::Unusable, |task| Sent::Frame(have, task)))
}
