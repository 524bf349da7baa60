//! What the host's NIC can do for a frame (Linux `rndis_query_hwcaps`,
//! `rndis_netdev_set_hwcaps`).

use crate::frame::{Network, Transport};
use crate::{Judged, Rule, Violation, read_prefix};
use abi::rndis::{self, ability, encapsulation, object, revision};

/// Most bytes of a large send: what IP can name, with Ethernet header and tag.
const MAX_LARGE: u32 = 65535 + 18;
/// Segments that a host may want at least in a large send. We send two or more.
const MIN_SEGMENTS: u32 = 2;

/// Offloads that the host has and that we know how to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    tcp: [bool; 2],
    udp: [bool; 2],
    large: [u32; 2],
    coalescing: bool,
}

fn place(network: Network) -> usize {
    match network {
        Network::V4 => 0,
        Network::V6 => 1,
    }
}

impl Offloads {
    /// The host finishes this checksum when we send.
    pub fn checksum(&self, network: Network, transport: Transport) -> bool {
        let flags = match transport {
            Transport::Tcp => self.tcp,
            Transport::Udp => self.udp,
        };
        flags.get(place(network)).copied().unwrap_or(false)
    }

    /// Longest frame that the host cuts into segments of TCP; `None`: it cuts none.
    pub fn large_send(&self, network: Network) -> Option<usize> {
        let largest = self.large.get(place(network)).copied().unwrap_or(0);
        (largest != 0).then_some(largest as usize)
    }

    /// The host can join segments of TCP that it receives, of IPv4 and IPv6.
    pub fn coalescing(&self) -> bool {
        self.coalescing
    }
}

/// Judges an offload structure that starts at byte `at` of its message, for frames
/// with `frame` bytes at most.
pub(super) fn judge(value: &[u8], at: usize, frame: u32) -> Result<Judged<Offloads>, Violation> {
    let Some(header) = read_prefix::<rndis::ObjectHeader>(value) else {
        return Err(Violation::new(Rule::RND_57, at, value.len() as u64));
    };
    let [smallest, ..] = revision::OFFLOAD;
    let size = usize::from(header.size.get());
    if header.object_type != object::OFFLOAD {
        return Err(Violation::new(Rule::RND_57, at, header.object_type));
    }
    if header.revision == 0 {
        return Err(Violation::new(Rule::RND_57, at.saturating_add(1), 0u32));
    }
    let Some(stated) = value.get(..size).filter(|_| size >= smallest) else {
        return Err(Violation::new(
            Rule::RND_57,
            at.saturating_add(2),
            size as u64,
        ));
    };
    // RND-59: what an early revision does not have is zero.
    let mut whole = [0; size_of::<rndis::Offload>()];
    for (to, from) in whole.iter_mut().zip(stated) {
        *to = *from;
    }
    let Some(offload) = read_prefix::<rndis::Offload>(&whole) else {
        return Err(Violation::new(Rule::RND_57, at, size as u64));
    };
    let sums = &offload.checksum;
    let has = |word: u32, bits: u32| word & bits == bits;
    let plain = |word: u32| has(word, encapsulation::IEEE_802_3);
    let (v4, v6) = (sums.ipv4_tx.get(), sums.ipv6_tx.get());
    // As Linux: TCP counts only with options, which all of today's segments have.
    let tcp = ability::TCP | ability::TCP_OPTIONS;
    let tcp = [has(v4, tcp), has(v6, tcp | ability::IP_OPTIONS)];
    let large = &offload.lso_v2;
    let options = has(
        large.ipv6_options.get(),
        ability::IP_OPTIONS | ability::TCP_OPTIONS,
    );
    let mut noted = None;
    let mut largest = |wanted: bool, field: usize, size: u32, fewest: u32| -> u32 {
        if !wanted {
            return 0;
        }
        // Less than two segments, or more than we ever have (RND-58): no large sends.
        if size < frame.saturating_mul(2) || fewest > MIN_SEGMENTS {
            let (field, value) = match fewest > MIN_SEGMENTS {
                true => (field.saturating_add(4), fewest),
                false => (field, size),
            };
            noted = noted.or(Some(Violation::new(
                Rule::RND_58,
                at.saturating_add(field),
                value,
            )));
            return 0;
        }
        size.min(MAX_LARGE)
    };
    let [tcp4, tcp6] = tcp;
    let large = [
        largest(
            tcp4 && plain(large.ipv4_encapsulation.get()),
            84,
            large.ipv4_max_size.get(),
            large.ipv4_min_segments.get(),
        ),
        largest(
            tcp6 && plain(large.ipv6_encapsulation.get()) && options,
            96,
            large.ipv6_max_size.get(),
            large.ipv6_min_segments.get(),
        ),
    ];
    Ok(Judged {
        value: Offloads {
            tcp,
            udp: [has(v4, ability::UDP), has(v6, ability::UDP)],
            large,
            coalescing: offload.rsc_ipv4 != 0 && offload.rsc_ipv6 != 0,
        },
        noted,
    })
}
