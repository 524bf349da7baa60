//! Receive steering: which channel a frame goes to, by the key and the table that
//! the guest has set with OID_GEN_RECEIVE_SCALE_PARAMETERS. Before that, and for
//! frames that the guest wants no hash of, it is the primary channel.
//! The hash is Toeplitz's as Microsoft's "RSS hashing functions" defines it. It goes to
//! the guest beside the frame.
use super::{NicError, parse};
use abi::rndis::{RssParameters, hash, object, ppi, revision, rss_flag};
use alloc::vec::Vec;

/// Bytes of a key.
const KEY: usize = 40;
/// Most entries of the guest's table (Linux `ITAB_NUM`, OpenVMM the same).
pub const TABLE_ENTRIES: usize = 128;

const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_IPV6: [u8; 2] = [0x86, 0xDD];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The hash of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    value: u32,
    /// What it was made of: one bit of [`hash`].
    of: u32,
}

impl Hashed {
    /// The elements of information that the guest finds beside the frame.
    pub fn elements(self) -> [(u32, u32); 2] {
        [
            (ppi::HASH_VALUE, self.value),
            (ppi::HASH_INFO, hash::TOEPLITZ | self.of),
        ]
    }
}

/// What the guest has set.
#[derive(Clone, Debug, Default)]
pub(super) struct Steering {
    /// Bits of [`hash`]; 0 while nothing is steered.
    types: u32,
    key: Vec<u8>,
    table: Vec<u16>,
}

impl Steering {
    /// Takes the value of a SET. `Ok(false)`: the guest gets INVALID_DATA.
    pub fn set(&mut self, value: &[u8], channels: u16) -> Result<bool, NicError> {
        let p: RssParameters = parse(value, "rss-short")?;
        let size = usize::from(p.header.size.get());
        if p.header.object_type != object::RSS_PARAMETERS
            || size < revision::RSS_PARAMETERS[0]
            || size > value.len()
        {
            return Ok(false);
        }
        if p.flags.get() & rss_flag::DISABLE != 0 {
            *self = Steering::default();
            return Ok(true);
        }
        let part = |at: u32, len: u16| {
            let at = at as usize;
            value.get(at..at.checked_add(usize::from(len))?)
        };
        let (Some(table), Some(key)) = (
            part(p.table_offset.get(), p.table_size.get()),
            part(p.key_offset.get(), p.key_size.get()),
        ) else {
            return Ok(false);
        };
        let (words, rest) = table.as_chunks::<4>();
        let table: Vec<u32> = words.iter().map(|w| u32::from_le_bytes(*w)).collect();
        let right = p.hash_info.get() & hash::FUNCTION_MASK == hash::TOEPLITZ
            && key.len() == KEY
            && rest.is_empty()
            && (1..=TABLE_ENTRIES).contains(&table.len())
            && table.len().is_power_of_two()
            && table.iter().all(|entry| *entry < u32::from(channels))
            // The key is changed by switching off first (Linux `rndis_filter_set_rss_param`).
            && (self.types == 0 || self.key == key);
        if right {
            self.types = p.hash_info.get() & !hash::FUNCTION_MASK;
            self.key = key.to_vec();
            self.table = table.iter().map(|entry| *entry as u16).collect();
        }
        Ok(right)
    }

    /// The channel of a frame with this hash.
    pub fn channel(&self, hash: Option<Hashed>) -> u16 {
        let Some(hash) = hash else {
            return 0;
        };
        let at = hash.value as usize & self.table.len().wrapping_sub(1);
        self.table.get(at).copied().unwrap_or(0)
    }

    /// Hash of a frame, if the guest wants one of its kind.
    pub fn hash(&self, frame: &[u8]) -> Option<Hashed> {
        if self.types == 0 {
            return None;
        }
        let ether = frame.get(12..14)?;
        let packet = frame.get(14..)?;
        let (addresses, ports, protocol, [ip, tcp, udp]) = if ether == ETHER_IPV4 {
            let header = usize::from(packet.first()? & 15) * 4;
            // A fragment has no ports, or not its own.
            let whole = packet.get(6)? & 0x3F == 0 && *packet.get(7)? == 0;
            (
                packet.get(12..20)?,
                packet.get(header..header + 4),
                Some(*packet.get(9)?).filter(|_| whole),
                [hash::IPV4, hash::TCP_IPV4, hash::UDP_IPV4],
            )
        } else if ether == ETHER_IPV6 {
            (
                packet.get(8..40)?,
                packet.get(40..44),
                Some(*packet.get(6)?),
                [hash::IPV6, hash::TCP_IPV6, hash::UDP_IPV6],
            )
        } else {
            return None;
        };
        let with_ports = match protocol {
            Some(TCP) => self.types & tcp,
            Some(UDP) => self.types & udp,
            _ => 0,
        };
        match ports.filter(|_| with_ports != 0) {
            Some(ports) => Some(Hashed {
                value: toeplitz(&self.key, &[addresses, ports].concat()),
                of: with_ports,
            }),
            None => (self.types & ip != 0).then(|| Hashed {
                value: toeplitz(&self.key, addresses),
                of: ip,
            }),
        }
    }
}

/// Hash of `input`: for each bit that is set, the 32 bits of the key that begin
/// at its place.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut bytes = key.iter().copied().chain(core::iter::repeat(0));
    let mut window = 0u64;
    for _ in 0..4 {
        window = window << 8 | u64::from(bytes.next().unwrap_or(0));
    }
    let mut hash = 0;
    for byte in input {
        window = window << 8 | u64::from(bytes.next().unwrap_or(0));
        for bit in 0..8u32 {
            if byte & (0x80 >> bit) != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of Microsoft's "Verifying the RSS hash calculation".
    const VERIFY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn parameters(entries: &[u32], flags: u16, info: u32) -> Vec<u8> {
        let table = 4 * entries.len() as u16;
        let mut value = alloc::vec![0x89, 2, 40, 0];
        value.extend(flags.to_le_bytes());
        value.extend([0; 2]);
        value.extend(info.to_le_bytes());
        value.extend(table.to_le_bytes());
        value.extend([0; 2]);
        value.extend(40u32.to_le_bytes());
        value.extend(40u16.to_le_bytes());
        value.extend([0; 2]);
        value.extend((40 + u32::from(table)).to_le_bytes());
        value.resize(40, 0);
        value.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        value.extend(VERIFY);
        value
    }

    fn ipv4(source: [u8; 4], target: [u8; 4], ports: [u16; 2], protocol: u8) -> Vec<u8> {
        let mut frame = alloc::vec![0; 12];
        frame.extend(ETHER_IPV4);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(source.iter().chain(&target));
        frame.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        frame.resize(60, 0);
        frame
    }

    fn ipv6(source: [u16; 8], target: [u16; 8], ports: [u16; 2], protocol: u8) -> Vec<u8> {
        let mut frame = alloc::vec![0; 12];
        frame.extend(ETHER_IPV6);
        frame.extend([0x60, 0, 0, 0, 0, 20, protocol, 64]);
        let words = source.iter().chain(&target).chain(&ports);
        frame.extend(words.flat_map(|word| word.to_be_bytes()));
        frame.resize(14 + 40 + 20, 0);
        frame
    }

    const ALL: u32 = hash::TOEPLITZ
        | hash::IPV4
        | hash::TCP_IPV4
        | hash::UDP_IPV4
        | hash::IPV6
        | hash::TCP_IPV6
        | hash::UDP_IPV6;

    fn steering(info: u32) -> Steering {
        let mut steering = Steering::default();
        let value = parameters(&[0, 1, 2, 3], 0, info);
        assert_eq!(steering.set(&value, 4), Ok(true));
        steering
    }

    /// Frames, each with its hash with ports and without.
    type Rows = Vec<(Vec<u8>, [u32; 2])>;

    /// The pairs of hashes that Microsoft's page lists, here by source, target, ports of
    /// both, hash with ports, and without.
    #[test]
    fn hashes_are_the_published_ones() {
        let four = [
            (
                [66, 9, 149, 187],
                [161, 142, 100, 80],
                [2794, 1766],
                [0x51cc_c178, 0x323e_8fc2],
            ),
            (
                [199, 92, 111, 2],
                [65, 69, 140, 83],
                [14230, 4739],
                [0xc626_b0ea, 0xd718_262a],
            ),
            (
                [24, 19, 198, 95],
                [12, 22, 207, 184],
                [12898, 38024],
                [0x5c2b_394a, 0xd2d0_a5de],
            ),
            (
                [38, 27, 205, 30],
                [209, 142, 163, 6],
                [48228, 2217],
                [0xafc7_327f, 0x8298_9176],
            ),
            (
                [153, 39, 163, 191],
                [202, 188, 127, 2],
                [44251, 1303],
                [0x10e8_28a2, 0x5d18_09c5],
            ),
        ];
        let six = [
            (
                [0x3ffe, 0x2501, 0x200, 0x1fff, 0, 0, 0, 7],
                [0x3ffe, 0x2501, 0x200, 3, 0, 0, 0, 1],
                [2794, 1766],
                [0x4020_7d3d, 0x2cc1_8cd5],
            ),
            (
                [0x3ffe, 0x501, 8, 0, 0x260, 0x97ff, 0xfe40, 0xefab],
                [0xff02, 0, 0, 0, 0, 0, 0, 1],
                [14230, 4739],
                [0xdde5_1bbf, 0x0f0c_461c],
            ),
            (
                [0x3ffe, 0x1900, 0x4545, 3, 0x200, 0xf8ff, 0xfe21, 0x67cf],
                [0xfe80, 0, 0, 0, 0x200, 0xf8ff, 0xfe21, 0x67cf],
                [44251, 38024],
                [0x02d1_feef, 0x4b61_e985],
            ),
        ];
        let make: [&dyn Fn(u8) -> Rows; 2] = [
            &|protocol| {
                let frame = |(s, t, p, hashes)| (ipv4(s, t, p, protocol), hashes);
                four.into_iter().map(frame).collect()
            },
            &|protocol| {
                let frame = |(s, t, p, hashes)| (ipv6(s, t, p, protocol), hashes);
                six.into_iter().map(frame).collect()
            },
        ];
        let names = [
            [hash::IPV4, hash::TCP_IPV4, hash::UDP_IPV4],
            [hash::IPV6, hash::TCP_IPV6, hash::UDP_IPV6],
        ];
        for (make, [ip, tcp, udp]) in make.into_iter().zip(names) {
            for (protocol, of) in [(TCP, tcp), (UDP, udp)] {
                for (frame, [ports, addresses]) in make(protocol) {
                    let with_ports = Some(Hashed { value: ports, of });
                    let without = Some(Hashed {
                        value: addresses,
                        of: ip,
                    });
                    let all = steering(ALL);
                    assert_eq!(all.hash(&frame), with_ports);
                    assert_eq!(all.channel(with_ports), (ports & 3) as u16);
                    assert_eq!(steering(ALL & !of).hash(&frame), without);
                    assert_eq!(steering(hash::TOEPLITZ | of).hash(&frame), with_ports);
                    assert_eq!(steering(ALL & !of & !ip).hash(&frame), None);
                    // Cut anywhere: no hash or one of these, and no panic.
                    for len in 0..frame.len() {
                        let cut = all.hash(&frame[..len]);
                        assert!([None, without, with_ports].contains(&cut), "{len}");
                    }
                }
            }
            for (frame, [_, addresses]) in make(1) {
                assert_eq!(steering(ALL).hash(&frame).unwrap().value, addresses);
            }
        }
        let mut fragment = make[0](TCP)[0].0.clone();
        fragment[14 + 7] = 1;
        let addresses = Hashed {
            value: 0x323e_8fc2,
            of: hash::IPV4,
        };
        assert_eq!(steering(ALL).hash(&fragment), Some(addresses));
        assert_eq!(addresses.elements(), [(8, 0x323e_8fc2), (9, 0x101)]);
        assert_eq!(steering(ALL).hash(&[0xFF; 60]), None);
        assert_eq!(steering(ALL).channel(None), 0);
    }

    /// Another key is refused as long as there is one, and the first goes on.
    #[test]
    fn a_key_is_changed_by_switching_off() {
        let frame = ipv4([1; 4], [2; 4], [3, 4], TCP);
        let mut steering = steering(ALL);
        let first = steering.hash(&frame);
        let mut other = parameters(&[0, 1, 2, 3], 0, ALL);
        *other.last_mut().unwrap() ^= 1;
        other[40 + 16] ^= 0xFF;
        assert_eq!(steering.set(&other, 4), Ok(false));
        assert_eq!(steering.hash(&frame), first);
        // The same with another table.
        let table = parameters(&[0, 0, 0, 1], 0, ALL);
        assert_eq!(steering.set(&table, 4), Ok(true));
        assert_eq!(steering.hash(&frame), first);
        let off = parameters(&[0, 1, 2, 3], rss_flag::DISABLE, ALL);
        assert_eq!(steering.set(&off, 4), Ok(true));
        assert_eq!(steering.hash(&frame), None);
        assert_eq!(steering.set(&other, 4), Ok(true));
        let second = steering.hash(&frame);
        assert!(second.is_some() && second != first);
    }

    #[test]
    fn parameters_are_judged() {
        let good = parameters(&[0, 1, 2, 3], 0, 0x301);
        let mut steering = Steering::default();
        assert_eq!(
            steering.set(&good[..20], 4),
            Err(NicError::Protocol("rss-short"))
        );
        for bad in [
            parameters(&[0, 1, 2, 4], 0, 0x301),
            parameters(&[0, 1, 2], 0, 0x301),
            parameters(&[], 0, 0x301),
            parameters(&[0, 1], 0, 0x302),
            good[..good.len() - 1].to_vec(),
        ] {
            assert_eq!(steering.set(&bad, 4), Ok(false));
            assert_eq!(steering.types, 0);
        }
        assert_eq!(steering.set(&good, 4), Ok(true));
        assert_eq!(
            steering.set(&parameters(&[0], rss_flag::DISABLE, 0), 4),
            Ok(true)
        );
        assert_eq!(steering.hash(&ipv4([1; 4], [2; 4], [3, 4], TCP)), None);
    }
}
