//! Segments of TCP that the host has joined: the fragments of one frame, one a range.

use super::host::{HASH, Host, MAC};
use crate::Input;
use abi::rndis::{checksum, packet_id, ppi};
use validate::frame::{Headers, Network};

/// Most of them in one frame.
const MOST: usize = 12;
/// Largest payload of one: with all headers it fits a slot.
const PAYLOAD: usize = 1448;

/// A frame and how it comes.
pub struct Joined {
    /// With nothing in the place of its sums.
    pub frame: Vec<u8>,
    pub network: Network,
    pub messages: Vec<Vec<u8>>,
    /// All of it is as an honest host has it.
    pub right: bool,
}

impl Joined {
    pub fn new(input: &mut Input<'_>) -> Joined {
        let v6 = input.flag();
        let headers = if v6 { 14 + 40 + 20 } else { 14 + 20 + 20 };
        let mut frame = vec![0; headers];
        frame[..6].copy_from_slice(&MAC);
        frame[14 + headers - 34 + 12] = 0x50;
        let fill = input.u8();
        let mut ends = Vec::new();
        for _ in 0..=input.below(MOST) {
            let more = frame.len() + 1 + input.below(PAYLOAD);
            frame.resize(more, fill.wrapping_add(ends.len() as u8));
            ends.push(more);
        }
        let ip = frame.len() - 14;
        let (kind, version, length_at, length, protocol_at) = match v6 {
            false => ([0x08, 0x00], 0x45, 16, ip, 23),
            true => ([0x86, 0xdd], 0x60, 18, ip - 40, 20),
        };
        frame[12..14].copy_from_slice(&kind);
        frame[14] = version;
        frame[length_at..length_at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        frame[protocol_at] = 6;

        let id = input.u16();
        let last = ends.len() - 1;
        let mut places: Vec<(u8, u16)> = (0..=last)
            .map(|n| {
                let first = if n == 0 { packet_id::FIRST } else { 0 };
                let end = if n == last { packet_id::LAST } else { 0 };
                (packet_id::SUB_ALLOCATION | first | end, id)
            })
            .collect();
        let lie = input.u8();
        match lie {
            0..=160 => {}
            161..=200 => places[input.below(last + 1)].0 = input.u8(),
            201..=220 => places[input.below(last + 1)].1 = input.u16(),
            _ => {
                let at = input.below(headers);
                frame[at] = input.u8();
            }
        }
        let mut start = 0;
        let messages = (ends.iter().zip(places))
            .map(|(end, (flags, id))| {
                let part = &frame[start..*end];
                start = *end;
                fragment(part, flags, id)
            })
            .collect();
        Joined {
            frame,
            network: if v6 { Network::V6 } else { Network::V4 },
            messages,
            right: lie <= 160,
        }
    }
}

/// A message with a part of a frame.
fn fragment(part: &[u8], flags: u8, id: u16) -> Vec<u8> {
    let [low, high] = id.to_le_bytes();
    let sums = checksum::RX_TCP_SUCCEEDED | checksum::RX_IP_SUCCEEDED;
    let place = u32::from_le_bytes([1, flags, low, high]);
    let own = [(ppi::CHECKSUM, sums), (ppi::PACKET_ID, place)];
    Host::packet(part, &[HASH, own].concat())
}

/// Clears the sums of a frame that was joined, which are not the host's.
pub fn without_sums(frame: &mut [u8], headers: &Headers) {
    let ip = headers.network_at();
    let v4 = (headers.network() == Network::V4).then_some(ip + 10);
    for at in v4.into_iter().chain([headers.sum_at()]) {
        frame[at..at + 2].fill(0);
    }
}
