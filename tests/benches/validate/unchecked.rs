//! The same fields without a rule: plain reads of little-endian words, which stop
//! at the end of the bytes (a missing word is 0) and believe everything else.
//!
//! Each function reads every field that its twin in `validate` looks at and gives
//! them all, so that the compiler cannot leave one out.

use abi::vmbus::Guid;

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}
fn word16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}
fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
/// What is there of the `len` bytes at `at`.
fn part(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or(&[]);
    rest.get(..len).unwrap_or(rest)
}

/// Message type and payload of a slot, copied as `validate` copies it.
pub fn slot(bytes: &[u8; 256]) -> (u32, [u8; 240], usize) {
    let len = usize::from(bytes[4]);
    let mut payload = [0; 240];
    for (to, from) in payload.iter_mut().zip(part(bytes, 16, len)) {
        *to = *from;
    }
    (word(bytes, 0), payload, len)
}

/// Interface and instance of an offer, then type, flags, MMIO space, sub-channel,
/// relid, kind of signal and connection.
pub fn offer(bytes: &[u8]) -> ([Guid; 2], [u32; 7]) {
    let guids = [Guid(array(bytes, 8)), Guid(array(bytes, 24))];
    let numbers = [
        word(bytes, 0),
        word16(bytes, 56).into(),
        word16(bytes, 58).into(),
        word16(bytes, 180).into(),
        word(bytes, 184),
        word16(bytes, 190).into(),
        word(bytes, 192),
    ];
    (guids, numbers)
}

/// Type and `N` words behind the 8 bytes of a channel message's header.
pub fn words<const N: usize>(bytes: &[u8]) -> (u32, [u32; N]) {
    let words = core::array::from_fn(|n| word(bytes, 8 + 4 * n));
    (word(bytes, 0), words)
}

pub struct Packet<'a> {
    pub kind: u16,
    pub flags: u16,
    pub transaction_id: u64,
    pub payload: &'a [u8],
    pub set_id: u16,
    pub ranges: &'a [u8],
}

/// A ring packet with the ranges between descriptor and payload.
pub fn packet(bytes: &[u8]) -> Packet<'_> {
    let kind = word16(bytes, 0);
    let start = usize::from(word16(bytes, 2)) * 8;
    let length = usize::from(word16(bytes, 4)) * 8;
    let (set_id, ranges) = match kind {
        7 => {
            let count = word(bytes, 20) as usize;
            (word16(bytes, 16), part(bytes, 24, count.saturating_mul(8)))
        }
        _ => (0, &[][..]),
    };
    Packet {
        kind,
        flags: word16(bytes, 6),
        transaction_id: word64(bytes, 8),
        payload: part(bytes, start, length.saturating_sub(start)),
        set_id,
        ranges,
    }
}

impl Packet<'_> {
    /// Length and offset of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        self.ranges
            .chunks_exact(8)
            .map(|range| (word(range, 0), word(range, 4)))
    }
}

/// The first `N` words of an NVSP message.
pub fn nvsp<const N: usize>(bytes: &[u8]) -> [u32; N] {
    core::array::from_fn(|n| word(bytes, 4 * n))
}

/// Count, offset and entries of an indirection table.
pub fn table(bytes: &[u8]) -> ([u32; 3], [u32; 16]) {
    let head = nvsp(bytes);
    let at = head[2] as usize;
    let entries = core::array::from_fn(|n| word(bytes, at.saturating_add(4 * n)));
    (head, entries)
}

#[derive(Default)]
pub struct Frame<'a> {
    pub head: [u32; 9],
    pub frame: &'a [u8],
    pub address: [u8; 6],
    pub ethertype: [u8; 2],
    pub checksum: Option<u32>,
    pub vlan: Option<u32>,
    pub hash: Option<u32>,
    pub packet_id: Option<u32>,
}

/// An RNDIS PACKET with its per-packet information.
pub fn frame(bytes: &[u8]) -> Frame<'_> {
    let head: [u32; 9] = core::array::from_fn(|n| word(bytes, 4 * n));
    let [_, _, data_at, data_len, _, _, _, ppi_at, ppi_len] = head;
    let frame = part(bytes, 8 + data_at as usize, data_len as usize);
    let mut found = Frame {
        head,
        frame,
        address: array(frame, 0),
        ethertype: array(frame, 12),
        ..Frame::default()
    };
    let mut area = part(bytes, 8 + ppi_at as usize, ppi_len as usize);
    while !area.is_empty() {
        let (size, kind, value_at) = (word(area, 0), word(area, 4), word(area, 8));
        let value = Some(word(area, value_at as usize));
        match kind {
            abi::rndis::ppi::CHECKSUM => found.checksum = value,
            abi::rndis::ppi::IEEE_8021Q => found.vlan = value,
            abi::rndis::ppi::HASH_VALUE => found.hash = value,
            abi::rndis::ppi::PACKET_ID => found.packet_id = value,
            _ => {}
        }
        // The one thing it does not believe: an element of size 0 would keep it
        // here for ever.
        area = area.get(size.max(4) as usize..).unwrap_or(&[]);
    }
    found
}
