//! What a guest asks of its NIC for a frame: a checksum, or segments.
//!
//! The guest is not believed. Where the headers lie is found by walking them in
//! our private copy of the frame; the numbers of the guest's descriptor must
//! agree with that walk, or the frame is not sent (RND-69). What reaches the
//! host about a frame comes from a [`Task`], and only this module makes one.

mod hash;

pub use hash::{FlowHash, HASH_KEY, HashKind, HashKinds, HashRequest};

use crate::{Rule, Violation};

/// Longest frame that may be sent in segments: an IP packet's largest size,
/// Ethernet header and tag.
pub const MAX_SEGMENTED: usize = 65535 + 18;
/// Most bytes of headers: Ethernet with a tag, IPv4 and TCP with all options.
pub const MAX_HEADERS: usize = 18 + 60 + 60;
/// Smallest segment: Linux `TCP_MIN_SND_MSS`. Bounds what one frame of the guest
/// may ask of us and of the host: 1366 segments.
pub const MIN_SEGMENT: u16 = 48;

/// Where a frame has its EtherType.
const TYPE_AT: usize = 12;
const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV6_HEADER: usize = 40;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What IP carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Where its header has the checksum.
    pub fn sum_at(self) -> usize {
        match self {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        }
    }
}

/// The headers of a frame: whole, and inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    network: Network,
    transport: Transport,
    network_at: u8,
    transport_at: u8,
    payload_at: u8,
}

impl Headers {
    /// Version of IP.
    pub fn network(&self) -> Network {
        self.network
    }
    /// What IP carries.
    pub fn transport(&self) -> Transport {
        self.transport
    }
    /// Where the IP header starts.
    pub fn network_at(&self) -> usize {
        self.network_at.into()
    }
    /// Where the TCP or UDP header starts.
    pub fn transport_at(&self) -> usize {
        self.transport_at.into()
    }
    /// Where the payload starts, [`MAX_HEADERS`] at most.
    pub fn payload_at(&self) -> usize {
        self.payload_at.into()
    }
    /// Whether there is a tag in front of the IP header.
    pub fn tagged(&self) -> bool {
        self.network_at() != ETHERNET
    }
    /// Where the checksum of TCP or UDP lies.
    pub fn sum_at(&self) -> usize {
        self.transport_at().saturating_add(self.transport.sum_at())
    }

    /// Walks the headers of a frame; its first [`MAX_HEADERS`] bytes are enough.
    /// `None`: not TCP or UDP directly over IP, a fragment, or not whole.
    pub fn of(frame: &[u8]) -> Option<Headers> {
        let ethertype = |at: usize| -> Option<[u8; 2]> { frame.get(at..)?.first_chunk().copied() };
        let mut network_at = ETHERNET;
        let mut kind = ethertype(TYPE_AT)?;
        if kind == [0x81, 0x00] {
            network_at = network_at.checked_add(TAG)?;
            kind = ethertype(TYPE_AT.checked_add(TAG)?)?;
        }
        let ip = frame.get(network_at..)?;
        let (network, header, protocol) = match kind {
            [0x08, 0x00] => {
                let header = ip.first_chunk::<20>()?;
                let [version, _, _, _, _, _, f0, f1, _, protocol, ..] = *header;
                // A fragment has no header of TCP, or not all of its data.
                if version >> 4 != 4 || f0 & 0x3f != 0 || f1 != 0 {
                    return None;
                }
                let length = usize::from(version & 0xf).checked_mul(4)?;
                (length >= 20).then_some((Network::V4, length, protocol))?
            }
            [0x86, 0xdd] => {
                let header = ip.first_chunk::<IPV6_HEADER>()?;
                let [version, _, _, _, _, _, next, ..] = *header;
                (version >> 4 == 6).then_some((Network::V6, IPV6_HEADER, next))?
            }
            _ => return None,
        };
        let transport_at = network_at.checked_add(header)?;
        let rest = frame.get(transport_at..)?;
        let (transport, header) = match protocol {
            PROTOCOL_TCP => {
                let header = rest.first_chunk::<20>()?;
                let [_, _, _, _, _, _, _, _, _, _, _, _, offset, ..] = *header;
                let length = usize::from(offset >> 4).checked_mul(4)?;
                (length >= 20).then_some((Transport::Tcp, length))?
            }
            PROTOCOL_UDP => (Transport::Udp, 8),
            _ => return None,
        };
        let payload_at = transport_at.checked_add(header)?;
        if payload_at > frame.len() {
            return None;
        }
        Some(Headers {
            network,
            transport,
            network_at: u8::try_from(network_at).ok()?,
            transport_at: u8::try_from(transport_at).ok()?,
            payload_at: u8::try_from(payload_at).ok()?,
        })
    }

    /// Sum of the pseudo header of TCP or UDP for `length` bytes of it, not
    /// complemented. `length` 0 gives what large send offload starts from (Linux
    /// `netvsc_xmit`).
    pub fn pseudo_sum(&self, frame: &[u8], length: u32) -> u16 {
        let (from, bytes) = match self.network {
            Network::V4 => (12, 8),
            Network::V6 => (8, 32),
        };
        let start = self.network_at().saturating_add(from);
        let addresses = frame
            .get(start..start.saturating_add(bytes))
            .unwrap_or_default();
        let protocol = u32::from(self.transport.protocol());
        fold(
            sum(addresses)
                .saturating_add(u64::from(protocol))
                .saturating_add(u64::from(length)),
        )
    }
}

/// One's complement sum of big-endian words, not yet folded; an odd last byte is
/// the high half of a word.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = 0u64;
    for word in words {
        // Below 2^32 times the number of words: no frame is that long.
        total = total.wrapping_add(u64::from(u32::from_be_bytes(*word)));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total.wrapping_add(u64::from(u32::from_be_bytes(last)))
}

/// Folds a sum to 16 bits.
pub fn fold(mut total: u64) -> u16 {
    // Each round keeps less than half of the bits above 16.
    for _ in 0..4 {
        total = (total & 0xffff).wrapping_add(total >> 16);
    }
    total as u16
}

/// What is known about a frame of the host besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    vouched: bool,
    joined: Option<Headers>,
    hash: Option<FlowHash>,
}

impl Arrived {
    /// Nothing.
    pub const PLAIN: Arrived = Arrived {
        vouched: false,
        joined: None,
        hash: None,
    };

    pub(crate) fn new(vouched: bool) -> Arrived {
        Arrived {
            vouched,
            ..Arrived::PLAIN
        }
    }

    /// The frame was made of several: its headers, which were judged
    /// ([`headers`](crate::rndis::coalesce::headers)). In the place of its checksum
    /// stands the sum of the pseudo header: the host has looked at those of the segments.
    pub fn of_joined(headers: Headers) -> Arrived {
        Arrived {
            vouched: true,
            joined: Some(headers),
            hash: None,
        }
    }

    /// The same, with this hash or none.
    pub fn with_hash(self, hash: Option<FlowHash>) -> Arrived {
        Arrived { hash, ..self }
    }

    /// The host's hash of it, where the guest asked for one of its kind.
    pub fn hash(&self) -> Option<FlowHash> {
        self.hash
    }

    /// Segments of TCP that the host has joined: the headers of the whole.
    pub fn joined(&self) -> Option<&Headers> {
        self.joined.as_ref()
    }

    /// The host vouches for the checksums in it (RND-25).
    pub fn vouched(&self) -> bool {
        self.vouched
    }
}

/// A sum that is missing in a frame, in the words of virtio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialSum {
    /// The first byte that it is over.
    pub start: u16,
    /// Where it goes, from there.
    pub offset: u16,
}

/// What a guest's driver says about a frame. Nothing of it is true yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A sum is missing.
    pub sum: Option<PartialSum>,
    /// To be cut into segments of this many bytes of TCP payload.
    pub segment: Option<(Network, u16)>,
}

/// What is left to do for a frame that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    kind: TaskKind,
}

/// See [`Task::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Nothing.
    Plain,
    /// The checksum of TCP or UDP. In its place stands the pseudo header's sum.
    Checksum(Headers),
    /// Another sum, over the frame from `start` on, that goes to byte `at`.
    Sum {
        /// First byte.
        start: usize,
        /// Place of the sum, inside the frame with both bytes.
        at: usize,
    },
    /// More than one segment of TCP, of `size` bytes of payload each.
    Segments(Headers, u16),
}

impl Task {
    /// Nothing is to be done.
    pub const PLAIN: Task = Task {
        kind: TaskKind::Plain,
    };

    /// What is to be done.
    pub fn kind(&self) -> TaskKind {
        self.kind
    }

    /// Judges a request against the private copy of its frame (RND-69).
    pub fn judge(request: &Request, frame: &[u8]) -> Result<Task, Violation> {
        let wrong = |value: u64| Violation::new(Rule::RND_69, 0, value);
        let Some(partial) = request.sum else {
            return match request.segment {
                None => Ok(Task::PLAIN),
                // Segments without a sum cannot be: each has one of its own.
                Some((_, size)) => Err(wrong(size.into())),
            };
        };
        let start = usize::from(partial.start);
        let at = start.saturating_add(partial.offset.into());
        if at.saturating_add(2) > frame.len() {
            return Err(wrong(at as u64));
        }
        let headers = Headers::of(frame).filter(|headers| {
            headers.transport_at() == start && headers.transport.sum_at() == partial.offset.into()
        });
        let kind = match (headers, request.segment) {
            (None, None) => TaskKind::Sum { start, at },
            (Some(headers), None) => TaskKind::Checksum(headers),
            (Some(headers), Some((network, size)))
                if headers.network == network
                    && headers.transport == Transport::Tcp
                    && size >= MIN_SEGMENT
                    && frame.len() <= MAX_SEGMENTED =>
            {
                let payload = frame.len().saturating_sub(headers.payload_at());
                match payload > size.into() {
                    true => TaskKind::Segments(headers, size),
                    false => TaskKind::Checksum(headers),
                }
            }
            (_, Some((_, size))) => return Err(wrong(size.into())),
        };
        Ok(Task { kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut frame = std::vec![0u8; 14 + 20 + 32 + payload];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        frame[34 + 12] = 0x80;
        frame
    }

    fn request(start: u16, offset: u16, segment: Option<(Network, u16)>) -> Request {
        Request {
            sum: Some(PartialSum { start, offset }),
            segment,
        }
    }

    #[test]
    fn headers_are_found_and_bounded() {
        let frame = tcp4(100);
        let headers = Headers::of(&frame).unwrap();
        assert_eq!(
            (
                headers.network_at(),
                headers.transport_at(),
                headers.payload_at()
            ),
            (14, 34, 66)
        );
        // The headers alone are enough, less is not.
        assert_eq!(Headers::of(&frame[..66]), Some(headers));
        for len in 0..66 {
            assert_eq!(Headers::of(&frame[..len]), None, "{len}");
        }
        let mut tagged = frame[..12].to_vec();
        tagged.extend([0x81, 0, 0, 5]);
        tagged.extend(&frame[12..]);
        let headers = Headers::of(&tagged).unwrap();
        assert!(headers.tagged() && headers.transport_at() == 38);
        // Fragments, short headers and other protocols are none.
        for (at, value) in [
            (20, 0x20),
            (21, 1),
            (14, 0x44),
            (46, 0x40),
            (23, 1),
            (12, 9),
        ] {
            let mut other = frame.clone();
            other[at] = value;
            assert_eq!(Headers::of(&other), None, "{at}");
        }
    }

    #[test]
    fn ipv6_headers() {
        let mut frame = std::vec![0u8; 14 + 40 + 20 + 10];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[20] = 6;
        frame[54 + 12] = 0x50;
        let headers = Headers::of(&frame).unwrap();
        assert_eq!((headers.network(), headers.payload_at()), (Network::V6, 74));
        frame[20] = 17;
        let headers = Headers::of(&frame).unwrap();
        assert_eq!(
            (headers.transport(), headers.payload_at()),
            (Transport::Udp, 62)
        );
        // An extension header: not walked.
        frame[20] = 0;
        assert_eq!(Headers::of(&frame), None);
    }

    #[test]
    fn sums_are_those_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(fold(sum(&[0x12])), 0x1200);
        assert_eq!(fold(sum(&[0xff; 65535])), 0xff00);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(sum(&[]), 0);
        let frame = tcp4(0);
        let headers = Headers::of(&frame).unwrap();
        // 0a00 + 020f + 0a00 + 0202 + 6 + 32.
        assert_eq!(headers.pseudo_sum(&frame, 32), 0x1811 + 6 + 32);
    }

    #[test]
    fn rnd_69_what_the_guest_says_must_agree_with_its_frame() {
        let frame = tcp4(3000);
        let v4 = |size| Some((Network::V4, size));
        let kind = |request: &Request| Task::judge(request, &frame).map(|task| task.kind());
        let headers = Headers::of(&frame).unwrap();
        assert_eq!(kind(&Request::default()), Ok(TaskKind::Plain));
        assert_eq!(
            kind(&request(34, 16, None)),
            Ok(TaskKind::Checksum(headers))
        );
        assert_eq!(
            kind(&request(34, 16, v4(1448))),
            Ok(TaskKind::Segments(headers, 1448))
        );
        // All in one segment: a frame with a checksum.
        assert_eq!(
            kind(&request(34, 16, v4(3000))),
            Ok(TaskKind::Checksum(headers))
        );
        // A sum at a place of its own is ours to make.
        assert_eq!(
            kind(&request(38, 2, None)),
            Ok(TaskKind::Sum { start: 38, at: 40 })
        );
        let last = frame.len() as u16 - 2;
        assert!(kind(&request(0, last, None)).is_ok());
        // Segments of nothing, of the wrong version, from the wrong place, with the
        // sum elsewhere, without one; sums behind the frame.
        let forged = [
            request(34, 16, v4(0)),
            request(34, 16, v4(MIN_SEGMENT - 1)),
            request(34, 16, Some((Network::V6, 1448))),
            request(30, 16, v4(1448)),
            request(34, 6, v4(1448)),
            Request {
                sum: None,
                segment: v4(1448),
            },
            request(0, last + 1, None),
            request(u16::MAX, u16::MAX, None),
        ];
        for forged in forged {
            let rule = kind(&forged).unwrap_err().rule;
            assert_eq!(rule, Rule::RND_69, "{forged:?}");
        }
        let long = tcp4(MAX_SEGMENTED);
        let error = Task::judge(&request(34, 16, v4(1448)), &long).unwrap_err();
        assert_eq!(error.rule, Rule::RND_69);
    }
}
