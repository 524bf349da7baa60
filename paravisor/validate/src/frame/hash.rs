//! The hash of a flow: a hint of the host for the guest, which spreads its work by it.
//!
//! The host makes it with a key that it was told. The value is a number to hand on
//! and never an index of ours. What it says that it was made of is believed only
//! where that was asked for.

use super::{Headers, Network, Transport};
use core::ops::BitAnd;

/// Bytes of the key: 16 of each IPv6 address, two of each port, and the 32 bits
/// behind the last bit of them.
pub const HASH_KEY: usize = 40;

/// What a hash was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// The addresses of IPv4.
    Ipv4,
    /// The addresses of IPv4 and the ports of TCP.
    TcpIpv4,
    /// The addresses of IPv4 and the ports of UDP.
    UdpIpv4,
    /// The addresses of IPv6.
    Ipv6,
    /// The addresses of IPv6 and the ports of TCP.
    TcpIpv6,
    /// The addresses of IPv6 and the ports of UDP.
    UdpIpv6,
}

impl HashKind {
    /// All that there are.
    pub const ALL: [HashKind; 6] = [
        HashKind::Ipv4,
        HashKind::TcpIpv4,
        HashKind::UdpIpv4,
        HashKind::Ipv6,
        HashKind::TcpIpv6,
        HashKind::UdpIpv6,
    ];

    /// The version of IP that it is about.
    pub const fn network(self) -> Network {
        match self {
            HashKind::Ipv4 | HashKind::TcpIpv4 | HashKind::UdpIpv4 => Network::V4,
            HashKind::Ipv6 | HashKind::TcpIpv6 | HashKind::UdpIpv6 => Network::V6,
        }
    }

    /// Whose ports are in it.
    pub const fn transport(self) -> Option<Transport> {
        match self {
            HashKind::Ipv4 | HashKind::Ipv6 => None,
            HashKind::TcpIpv4 | HashKind::TcpIpv6 => Some(Transport::Tcp),
            HashKind::UdpIpv4 | HashKind::UdpIpv6 => Some(Transport::Udp),
        }
    }

    const fn bit(self) -> u8 {
        match self {
            HashKind::Ipv4 => 1,
            HashKind::TcpIpv4 => 1 << 1,
            HashKind::UdpIpv4 => 1 << 2,
            HashKind::Ipv6 => 1 << 3,
            HashKind::TcpIpv6 => 1 << 4,
            HashKind::UdpIpv6 => 1 << 5,
        }
    }
}

/// A set of [`HashKind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKinds(u8);

impl HashKinds {
    /// None.
    pub const fn empty() -> HashKinds {
        HashKinds(0)
    }

    /// Those for which `has` holds.
    pub fn of(has: impl Fn(HashKind) -> bool) -> HashKinds {
        let mut kinds = HashKinds::empty();
        for kind in HashKind::ALL {
            if has(kind) {
                kinds.insert(kind);
            }
        }
        kinds
    }

    /// Whether this one is in it.
    pub const fn contains(self, kind: HashKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether all of `other` are in it.
    pub const fn contains_all(self, other: HashKinds) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds one.
    pub const fn insert(&mut self, kind: HashKind) {
        self.0 |= kind.bit();
    }

    /// One bit for each.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From those bits; others are left out.
    pub const fn from_bits(bits: u8) -> HashKinds {
        HashKinds(bits & 0x3f)
    }

    /// Whether there is none in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitAnd for HashKinds {
    type Output = HashKinds;

    fn bitand(self, other: HashKinds) -> HashKinds {
        HashKinds(self.0 & other.0)
    }
}

/// A hash that came with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash {
    /// The hash: any number at all.
    pub value: u32,
    /// What it was made of, as the host says: a kind that was asked for.
    pub kind: HashKind,
}

impl FlowHash {
    /// Whether it can be of a frame with these headers.
    pub fn fits(&self, headers: &Headers) -> bool {
        let transport = self.kind.transport();
        self.kind.network() == headers.network()
            && transport.is_none_or(|of| of == headers.transport())
    }
}

/// What a guest asks of the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashRequest {
    /// To be made of these.
    pub kinds: HashKinds,
    /// With this key, which the host learns.
    pub key: [u8; HASH_KEY],
}

impl core::fmt::Debug for HashRequest {
    /// Without the key: the guest's peers are not to read it in a log.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HashRequest")
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_kinds() {
        let mut kinds = HashKinds::default();
        assert!(kinds.is_empty() && kinds == HashKinds::empty());
        for (n, kind) in HashKind::ALL.into_iter().enumerate() {
            assert!(!kinds.contains(kind));
            kinds.insert(kind);
            assert!(kinds.contains(kind) && !kinds.is_empty());
            for later in &HashKind::ALL[n + 1..] {
                assert!(!kinds.contains(*later), "{later:?} after {kind:?}");
            }
        }
        assert_eq!(kinds, HashKinds::of(|_| true));
        assert_eq!(HashKinds::from_bits(kinds.bits()), kinds);
        assert_eq!(HashKinds::from_bits(0xff), kinds);
        let tcp = HashKinds::of(|kind| matches!(kind, HashKind::TcpIpv4 | HashKind::TcpIpv6));
        assert!(kinds.contains_all(tcp) && !tcp.contains_all(kinds));
        assert!(tcp.contains_all(HashKinds::empty()));
        assert_eq!(tcp & kinds, tcp);
    }

    #[test]
    fn a_request_does_not_print_its_key() {
        extern crate std;
        let request = HashRequest {
            kinds: HashKinds::empty(),
            key: [0xa5; HASH_KEY],
        };
        let printed = std::format!("{request:?}");
        assert!(
            !printed.contains("165") && !printed.contains("key"),
            "{printed}"
        );
    }
}
