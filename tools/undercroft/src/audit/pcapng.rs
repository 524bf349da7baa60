//! The Ethernet frames of a trace as a pcapng file (IETF
//! draft-ietf-opsawg-pcapng), for Wireshark. Written here, and not by a crate:
//! three kinds of block, and times exactly in the trace's unit.

use super::verdict::{Audit, Way};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const ETHERNET: u16 = 1;
/// Interface option: times are in 10^-7 s.
const TIME_UNIT: (u16, u8) = (9, 7);
/// Packet option: flags; bits 1:0 are 1 for inbound, 2 for outbound.
const FLAGS: u16 = 2;

/// The file. Times count from the start of the run.
pub fn pcapng(audit: &Audit) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = Vec::new();
    body.extend(0x1a2b_3c4d_u32.to_le_bytes());
    body.extend([1, 0, 0, 0]);
    body.extend(u64::MAX.to_le_bytes());
    block(&mut out, SECTION, &body);
    body.clear();
    body.extend(ETHERNET.to_le_bytes());
    body.extend([0; 2]);
    body.extend(0_u32.to_le_bytes());
    option(&mut body, 2, b"guest");
    option(&mut body, TIME_UNIT.0, &[TIME_UNIT.1]);
    option(&mut body, 0, &[]);
    block(&mut out, INTERFACE, &body);
    for frame in &audit.frames {
        body.clear();
        let length = (frame.bytes.len() as u32).to_le_bytes();
        body.extend(0_u32.to_le_bytes());
        body.extend(((frame.time >> 32) as u32).to_le_bytes());
        body.extend((frame.time as u32).to_le_bytes());
        body.extend(length);
        body.extend(length);
        body.extend(&frame.bytes);
        pad(&mut body);
        let way: u32 = match frame.way {
            Way::In => 1,
            Way::Out => 2,
        };
        option(&mut body, FLAGS, &way.to_le_bytes());
        option(&mut body, 0, &[]);
        block(&mut out, PACKET, &body);
    }
    out
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = (body.len() as u32 + 12).to_le_bytes();
    out.extend(kind.to_le_bytes());
    out.extend(length);
    out.extend(body);
    out.extend(length);
}
