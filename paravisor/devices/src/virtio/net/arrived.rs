//! The header in front of a frame for the guest (virtio 1.2, 5.1.6).

use super::hash;
use crate::virtio::share::Share;
use abi::virtio::{feature, net};
use validate::frame::{Arrived, FlowHash, Headers, Network, Transport};

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

/// Length of the header with these features, in both directions.
pub(super) fn header_len(features: u64) -> usize {
    match features & feature::NET_HASH_REPORT {
        0 => net::HEADER_LEN,
        _ => net::HASH_HEADER_LEN,
    }
}

/// A header, as long as was agreed on.
pub(super) struct Header {
    bytes: [u8; net::HASH_HEADER_LEN],
    len: usize,
}

impl Header {
    /// For a frame, without the number of buffers. `None`: the guest has not agreed to
    /// such a frame. `mtu` bounds the IP packet of a segment, `len` is the frame's.
    #[inline]
    pub(super) fn of(arrived: &Arrived, share: &Share, mtu: usize, len: usize) -> Option<Header> {
        let features = share.features();
        let mut header = Header {
            bytes: [0; net::HASH_HEADER_LEN],
            len: header_len(features),
        };
        if arrived.joined().is_some() || arrived.hash().is_some() {
            return header.with_more(arrived, share, mtu, len);
        }
        header.vouch(arrived, features);
        Some(header)
    }

    /// Apart from the way of most frames, which it would make longer.
    #[inline(never)]
    fn with_more(
        mut self,
        arrived: &Arrived,
        share: &Share,
        mtu: usize,
        len: usize,
    ) -> Option<Header> {
        let features = share.features();
        match arrived.joined() {
            None => self.vouch(arrived, features),
            Some(headers) => self.describe(headers, features, mtu, len)?,
        }
        if self.len != net::HEADER_LEN
            && let Some(hash) = arrived.hash()
        {
            self.set_hash(hash, share.hash_types());
        }
        Some(self)
    }

    fn vouch(&mut self, arrived: &Arrived, features: u64) {
        if arrived.vouched() && features & feature::NET_GUEST_CSUM != 0 {
            self.bytes[net::HEADER_FLAGS] = net::FLAG_DATA_VALID;
        }
    }

    /// Segments of TCP that were joined.
    fn describe(&mut self, headers: &Headers, features: u64, mtu: usize, len: usize) -> Option<()> {
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
        self.bytes[net::HEADER_FLAGS] = net::FLAG_NEEDS_CSUM;
        let several = len.saturating_sub(behind) > usize::from(size);
        let (kind, size) = match several {
            true => (kind, size),
            false => (net::GSO_NONE, 0),
        };
        self.bytes[net::HEADER_GSO_TYPE] = kind;
        for (at, value) in [
            (net::HEADER_HDR_LEN, behind as u16),
            (net::HEADER_GSO_SIZE, size),
            (net::HEADER_CSUM_START, headers.transport_at() as u16),
            (net::HEADER_CSUM_OFFSET, Transport::Tcp.sum_at() as u16),
        ] {
            self.put(at, &value.to_le_bytes());
        }
        Some(())
    }

    /// 5.1.6.4.4. What stands there without it, 0, is no hash.
    fn set_hash(&mut self, hash: FlowHash, wanted: u32) {
        if wanted & hash::bit(hash.kind) != 0 {
            self.put(net::HEADER_HASH_VALUE, &hash.value.to_le_bytes());
            let report = hash::report(hash.kind);
            self.put(net::HEADER_HASH_REPORT, &report.to_le_bytes());
        }
    }

    /// 5.1.6.4.1: without NET_MRG_RXBUF it is 1.
    pub(super) fn set_buffers(&mut self, count: u16) {
        let [low, high] = count.to_le_bytes();
        self.bytes[net::HEADER_NUM_BUFFERS] = low;
        self.bytes[net::HEADER_NUM_BUFFERS + 1] = high;
    }

    /// Length of it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// It.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}
