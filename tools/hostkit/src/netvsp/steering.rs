//! Receive steering: which channel a frame goes to, by the key and the table that
//! the guest has set with OID_GEN_RECEIVE_SCALE_PARAMETERS. Before that, and for
//! frames that the guest wants no hash of, it is the primary channel.
//! The hash is Toeplitz's as Microsoft's "RSS hashing functions" defines it.
use super::{NicError, parse};
use abi::rndis::{RssParameters, hash, object, revision};
use alloc::vec::Vec;

/// Bytes of a key.
const KEY: usize = 40;
/// Most entries of the guest's table (Linux `ITAB_NUM`, OpenVMM the same).
pub const TABLE_ENTRIES: usize = 128;
/// `flags` of the parameters: hashing is switched off.
const DISABLE: u16 = 0x20;

const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_IPV6: [u8; 2] = [0x86, 0xDD];
const TCP: u8 = 6;

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
        if p.flags.get() & DISABLE != 0 {
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
            && table.iter().all(|entry| *entry < u32::from(channels));
        if right {
            self.types = p.hash_info.get() & !hash::FUNCTION_MASK;
            self.key = key.to_vec();
            self.table = table.iter().map(|entry| *entry as u16).collect();
        }
        Ok(right)
    }

    /// The channel of a frame.
    pub fn channel(&self, frame: &[u8]) -> u16 {
        let Some(hash) = self.hash(frame) else {
            return 0;
        };
        let at = hash as usize & self.table.len().wrapping_sub(1);
        self.table.get(at).copied().unwrap_or(0)
    }

    /// Hash of a frame, if the guest wants one of its kind.
    fn hash(&self, frame: &[u8]) -> Option<u32> {
        if self.types == 0 {
            return None;
        }
        let ether = frame.get(12..14)?;
        let packet = frame.get(14..)?;
        let (addresses, ports, tcp, ip) = if ether == ETHER_IPV4 {
            let header = usize::from(packet.first()? & 15) * 4;
            // A fragment has no ports, or not its own.
            let whole = packet.get(6)? & 0x3F == 0 && *packet.get(7)? == 0;
            let tcp = whole && *packet.get(9)? == TCP;
            (
                packet.get(12..20)?,
                packet.get(header..header + 4),
                tcp && self.types & hash::TCP_IPV4 != 0,
                self.types & hash::IPV4 != 0,
            )
        } else if ether == ETHER_IPV6 {
            let tcp = *packet.get(6)? == TCP;
            (
                packet.get(8..40)?,
                packet.get(40..44),
                tcp && self.types & hash::TCP_IPV6 != 0,
                self.types & hash::IPV6 != 0,
            )
        } else {
            return None;
        };
        match ports.filter(|_| tcp) {
            Some(ports) => Some(toeplitz(&self.key, &[addresses, ports].concat())),
            None => ip.then(|| toeplitz(&self.key, addresses)),
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

    /// The pairs of hashes that Microsoft's page lists.
    #[test]
    fn hashes_are_the_published_ones() {
        let rows = [
            (
                [66, 9, 149, 187],
                [161, 142, 100, 80],
                [2794, 1766],
                0x51cc_c178,
                0x323e_8fc2,
            ),
            (
                [199, 92, 111, 2],
                [65, 69, 140, 83],
                [14230, 4739],
                0xc626_b0ea,
                0xd718_262a,
            ),
        ];
        let mut steering = Steering::default();
        let value = parameters(&[0, 1, 2, 3], 0, 0x301);
        assert_eq!(steering.set(&value, 4), Ok(true));
        for (source, target, ports, tcp, ip) in rows {
            let frame = ipv4(source, target, ports, TCP);
            assert_eq!(steering.hash(&frame), Some(tcp));
            assert_eq!(steering.channel(&frame), (tcp & 3) as u16);
            let mut fragment = frame.clone();
            fragment[14 + 7] = 1;
            assert_eq!(steering.hash(&fragment), Some(ip));
            assert_eq!(steering.hash(&ipv4(source, target, ports, 17)), Some(ip));
            // Cut anywhere: no hash or one of the addresses, and no panic.
            for len in 0..frame.len() {
                let cut = steering.hash(&frame[..len]);
                assert!([None, Some(ip), Some(tcp)].contains(&cut), "{len}");
            }
        }
        assert_eq!(steering.hash(&[0xFF; 60]), None);
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
        assert_eq!(steering.set(&parameters(&[0], DISABLE, 0), 4), Ok(true));
        assert_eq!(steering.channel(&ipv4([1; 4], [2; 4], [3, 4], TCP)), 0);
    }
}
