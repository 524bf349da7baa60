//! The header in front of a frame for the guest (virtio 1.2, 5.1.6).

use abi::virtio::{feature, net};
use validate::frame::{Arrived, Network, Transport};

/// What a guest must have agreed to for frames that were joined: to sums that are
/// missing in them, and to several buffers for one.
const NEEDED: u64 = feature::NET_GUEST_CSUM | feature::NET_MRG_RXBUF;

/// Which joined frames a guest with these features takes, over IPv4 and IPv6.
pub(crate) fn takes_joined(features: u64) -> [bool; 2] {
    [feature::NET_GUEST_TSO4, feature::NET_GUEST_TSO6].map(|tso| {
        let needed = NEEDED | tso;
        features & needed == needed
    })
}

/// The header, without the number of buffers. `None`: the guest has not agreed to such
/// a frame. `vouched`: its sums count as right. `mtu` bounds the IP packet of a segment,
/// `len` is the frame's.
pub(super) fn header(
    arrived: &Arrived,
    features: u64,
    mtu: usize,
    len: usize,
) -> Option<[u8; net::HEADER_LEN]> {
    let mut header = [0; net::HEADER_LEN];
    let Some(headers) = arrived.joined() else {
        if arrived.vouched() && features & feature::NET_GUEST_CSUM != 0 {
            header[net::HEADER_FLAGS] = net::FLAG_DATA_VALID;
        }
        return Some(header);
    };
    let [v4, v6] = takes_joined(features);
    let (takes, kind) = match headers.network() {
        Network::V4 => (v4, net::GSO_TCPV4),
        Network::V6 => (v6, net::GSO_TCPV6),
    };
    if !takes {
        return None;
    }
    // The host does not say how long the segments were. None was longer than what fits
    // the MTU, and cut so, the frame can go on over a link like this one.
    let behind = headers.payload_at();
    let most = mtu.saturating_sub(behind.saturating_sub(headers.network_at()));
    let size = u16::try_from(most.max(1)).unwrap_or(u16::MAX);
    // 5.1.6.4.1: segments come with a sum that is to be made for each of them; in its
    // place stands that of the pseudo header.
    header[net::HEADER_FLAGS] = net::FLAG_NEEDS_CSUM;
    let several = len.saturating_sub(behind) > usize::from(size);
    let (kind, size) = match several {
        true => (kind, size),
        false => (net::GSO_NONE, 0),
    };
    header[net::HEADER_GSO_TYPE] = kind;
    for (at, value) in [
        (net::HEADER_HDR_LEN, behind as u16),
        (net::HEADER_GSO_SIZE, size),
        (net::HEADER_CSUM_START, headers.transport_at() as u16),
        (net::HEADER_CSUM_OFFSET, Transport::Tcp.sum_at() as u16),
    ] {
        for (to, from) in header.iter_mut().skip(at).zip(value.to_le_bytes()) {
            *to = from;
        }
    }
    Some(header)
}
