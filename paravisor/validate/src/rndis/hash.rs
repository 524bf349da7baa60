//! The words in which the host speaks of hashes (RND-27).

use crate::frame::{FlowHash, HashKind, HashKinds, Network};
use abi::rndis::{hash, rss_capability as capability};

/// What a hash is called there.
fn name(kind: HashKind) -> u32 {
    match kind {
        HashKind::Ipv4 => hash::IPV4,
        HashKind::TcpIpv4 => hash::TCP_IPV4,
        HashKind::UdpIpv4 => hash::UDP_IPV4,
        HashKind::Ipv6 => hash::IPV6,
        HashKind::TcpIpv6 => hash::TCP_IPV6,
        HashKind::UdpIpv6 => hash::UDP_IPV6,
    }
}

/// The word of the receive scale parameters, and of the information beside a frame, for
/// Toeplitz's hash of these.
pub fn information(kinds: HashKinds) -> u32 {
    let names = HashKind::ALL
        .into_iter()
        .filter(|kind| kinds.contains(*kind));
    names.fold(hash::TOEPLITZ, |word, kind| word | name(kind))
}

/// Hashes that the host can make, as it says with its receive queues.
pub(super) fn offered(flags: u32) -> HashKinds {
    if flags & hash::FUNCTION_MASK & hash::TOEPLITZ == 0 {
        return HashKinds::empty();
    }
    let has = |bits: u32| flags & bits != 0;
    HashKinds::of(|kind| match kind {
        HashKind::Ipv4 => has(capability::TCP_IPV4 | capability::UDP_IPV4),
        HashKind::TcpIpv4 => has(capability::TCP_IPV4),
        HashKind::UdpIpv4 => has(capability::UDP_IPV4),
        HashKind::Ipv6 => has(capability::TCP_IPV6 | capability::UDP_IPV6),
        HashKind::TcpIpv6 => has(capability::TCP_IPV6),
        HashKind::UdpIpv6 => has(capability::UDP_IPV6),
    })
}

/// The hash beside a frame, if it is one of those that were asked for and the frame's
/// head, as far as that is judged, is of the same version of IP.
pub(super) fn beside(frame: &[u8], value: u32, info: u32, asked: HashKinds) -> Option<FlowHash> {
    if info & hash::FUNCTION_MASK != hash::TOEPLITZ {
        return None;
    }
    let of = info & !hash::FUNCTION_MASK;
    let kind = HashKind::ALL.into_iter().find(|kind| name(*kind) == of)?;
    let fits = asked.contains(kind) && network(frame) == Some(kind.network());
    fits.then_some(FlowHash { value, kind })
}

/// Version of IP by the EtherType, behind one tag at most.
fn network(frame: &[u8]) -> Option<Network> {
    let ethertype = |at: usize| frame.get(at..)?.first_chunk::<2>();
    let mut kind = ethertype(12)?;
    if *kind == [0x81, 0x00] {
        kind = ethertype(16)?;
    }
    match kind {
        [0x08, 0x00] => Some(Network::V4),
        [0x86, 0xdd] => Some(Network::V6),
        _ => None,
    }
}
