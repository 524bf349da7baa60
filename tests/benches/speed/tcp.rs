//! Frames of TCP: whole, and in segments.

use hostkit::backend::DEFAULT_MAC;
use validate::frame::{Headers, fold, sum};

/// Ethernet, IPv4 and TCP.
pub const HEADERS: usize = 54;
/// Payload of a segment.
pub const SEGMENT: usize = 1460;

/// A frame of `len` bytes; its sum is that of the pseudo header, as a driver leaves it to
/// its card and a card to its driver.
pub fn whole(len: usize) -> Vec<u8> {
    let mut frame = head(len, 0);
    frame.extend((HEADERS..len).map(|at| at as u8));
    let pseudo = pseudo(&frame);
    frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

/// The same in finished segments.
pub fn segments(len: usize) -> Vec<Vec<u8>> {
    let whole = whole(len);
    let parts = whole[HEADERS..].chunks(SEGMENT).enumerate();
    let segment = |(n, part): (usize, &[u8])| {
        let mut frame = head(HEADERS + part.len(), n * SEGMENT);
        frame.extend_from_slice(part);
        let total = u64::from(pseudo(&frame)) + sum(&frame[34..]);
        frame[50..52].copy_from_slice(&(!fold(total)).to_be_bytes());
        frame
    };
    parts.map(segment).collect()
}

fn head(len: usize, sequence: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADERS];
    frame[..6].copy_from_slice(&DEFAULT_MAC);
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[10, 0, 2, 2, 10, 0, 2, 15]);
    let total = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&total.to_be_bytes());
    frame[38..42].copy_from_slice(&(sequence as u32).to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    frame
}

fn pseudo(frame: &[u8]) -> u16 {
    let headers = Headers::of(frame).expect("TCP");
    headers.pseudo_sum(frame, (frame.len() - 34) as u32)
}
