//! The hash of a frame's flow (virtio 1.2, sections 5.1.6.4.3, 5.1.6.4.4 and 5.1.6.5.6.4)
//! in the words of virtio. The host makes it; the card hands it on.

use abi::virtio::net;
use validate::frame::{HASH_KEY, HashKind, HashKinds, HashRequest};

/// `hash_report` of a hash of this kind.
pub(super) fn report(kind: HashKind) -> u16 {
    match kind {
        HashKind::Ipv4 => net::HASH_REPORT_IPV4,
        HashKind::TcpIpv4 => net::HASH_REPORT_TCPV4,
        HashKind::UdpIpv4 => net::HASH_REPORT_UDPV4,
        HashKind::Ipv6 => net::HASH_REPORT_IPV6,
        HashKind::TcpIpv6 => net::HASH_REPORT_TCPV6,
        HashKind::UdpIpv6 => net::HASH_REPORT_UDPV6,
    }
}

/// The bit of this kind among the types of hashes.
pub(super) fn bit(kind: HashKind) -> u32 {
    1u32.wrapping_shl(u32::from(report(kind)).saturating_sub(1))
}

/// The types of hashes that are these kinds.
pub(super) fn types(kinds: HashKinds) -> u32 {
    let known = HashKind::ALL
        .into_iter()
        .filter(|kind| kinds.contains(*kind));
    known.fold(0, |types, kind| types | bit(kind))
}

/// Judges what the driver asks for (`struct virtio_net_hash_config`). `None`: too short,
/// a type that is not offered, or a longer key than is offered.
///
/// The 8 bytes behind the types are to be 0, and are not looked at: Linux leaves the
/// number of its queues there (`virtnet_rss_update_by_qpairs`). A short key is one that
/// goes on with zeros.
pub(super) fn request(data: &[u8], offers: HashKinds) -> Option<HashRequest> {
    let asked = u32::from_le_bytes(*data.first_chunk()?);
    let kinds = HashKinds::of(|kind| asked & bit(kind) != 0);
    if !offers.contains_all(kinds) || types(kinds) != asked {
        return None;
    }
    let len = usize::from(*data.get(net::HASH_CONFIG_KEY_LEN)?);
    let from = data.get(net::HASH_CONFIG_KEY..)?.get(..len)?;
    let mut key = [0; HASH_KEY];
    key.get_mut(..len)?.copy_from_slice(from);
    Some(HashRequest { kinds, key })
}
