//! Receive coalescing, as a virtual switch does it in software: segments of one TCP flow
//! that come one behind the other become one packet, whose first fragment begins with the
//! headers of the whole. Nothing waits: what has not come yet is not joined.
//!
//! As with hosts that are known, the lengths are those of the whole, and the sums are
//! left as they were in the first segment (Linux `netvsc_alloc_recv_skb`).
use super::Bytes;
use super::offload::{ETHERNET, Enabled, Headers, put, verdict, word};
use abi::rndis::checksum::{
    RX_IP_SUCCEEDED, RX_IP_VALUE_INVALID, RX_TCP_SUCCEEDED, RX_TCP_VALUE_INVALID,
};
use alloc::vec::Vec;

/// ACK, and ACK with PSH: no other segment is joined.
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;
/// Longest IP packet.
const LONGEST: usize = 65535;

/// Segments that were joined, or one frame of any kind.
#[derive(Debug)]
pub(super) struct Joined {
    /// The first begins with the headers; the others are payload.
    pub parts: Vec<Bytes>,
    /// Of the whole.
    len: usize,
    /// Bytes of headers that are not in it any more.
    pub saved: usize,
    flow: Option<Flow>,
}

/// What the next segment must fit.
#[derive(Debug)]
struct Flow {
    headers: Headers,
    /// Its sequence number.
    next: u32,
    /// Payload of each segment but the last.
    size: usize,
}

impl Joined {
    pub fn new(frame: &[u8], enabled: &Enabled) -> Joined {
        let flow = segment(frame, enabled).map(|headers| Flow {
            next: sequence(frame, &headers).wrapping_add((frame.len() - headers.payload) as u32),
            size: frame.len() - headers.payload,
            headers,
        });
        Joined {
            parts: alloc::vec![frame.to_vec()],
            len: frame.len(),
            saved: 0,
            flow: flow.filter(|_| !pushes(frame)),
        }
    }

    /// Takes the next frame, if it goes on where this one ends.
    pub fn take(&mut self, frame: &[u8], enabled: &Enabled) -> bool {
        let (Some(flow), Some(first)) = (&mut self.flow, self.parts.first_mut()) else {
            return false;
        };
        let Some(headers) = segment(frame, enabled) else {
            return false;
        };
        let payload = frame.get(headers.payload..).unwrap_or_default();
        let fits = headers == flow.headers
            && alike(first, frame, &headers)
            && sequence(frame, &headers) == flow.next
            && payload.len() <= flow.size
            && self.len - ETHERNET + payload.len() <= LONGEST;
        if !fits {
            return false;
        }
        let transport = headers.transport;
        self.len += payload.len();
        self.saved += headers.payload;
        flow.next = flow.next.wrapping_add(payload.len() as u32);
        let ends = payload.len() < flow.size || pushes(frame);
        // Acknowledgement, flags, window and options are those of the last.
        for (start, end) in [
            (transport + 8, transport + 16),
            (transport + 20, headers.payload),
        ] {
            put(first, start, frame.get(start..end).unwrap_or_default());
        }
        let (at, length) = match headers.version {
            0 => (ETHERNET + 2, self.len - ETHERNET),
            _ => (ETHERNET + 4, self.len - transport),
        };
        put(first, at, &(length as u16).to_be_bytes());
        self.parts.push(payload.to_vec());
        if ends {
            self.flow = None;
        }
        true
    }
}

/// What is said about the sums of segments that were joined: they were right, and what
/// stands in the headers is no sum any more.
pub(super) fn sums(first: &[u8]) -> u32 {
    let ip = match word(first, 12) {
        0x0800 => RX_IP_SUCCEEDED | RX_IP_VALUE_INVALID,
        _ => 0,
    };
    RX_TCP_SUCCEEDED | RX_TCP_VALUE_INVALID | ip
}

/// The headers, if the frame is one that may be joined with others.
fn segment(frame: &[u8], enabled: &Enabled) -> Option<Headers> {
    let headers = Headers::of(frame)?;
    let flags = *frame.get(headers.transport + 13)?;
    let switched_on = enabled.coalesce.get(headers.version).copied()?;
    let plain = headers.protocol == 6 && flags & !PUSH == ACK && headers.payload < frame.len();
    let whole = match headers.version {
        0 => usize::from(word(frame, ETHERNET + 2)) + ETHERNET == frame.len(),
        _ => usize::from(word(frame, ETHERNET + 4)) + headers.transport == frame.len(),
    };
    // The sums of all segments are right: that is what is said of the whole.
    let right = verdict(frame, enabled) == RX_TCP_SUCCEEDED;
    (switched_on && plain && whole && right).then_some(headers)
}

fn pushes(frame: &[u8]) -> bool {
    Headers::of(frame).is_some_and(|h| frame.get(h.transport + 13).is_some_and(|f| f & PUSH != 0))
}

fn sequence(frame: &[u8], headers: &Headers) -> u32 {
    let at = headers.transport + 4;
    u32::from(word(frame, at)) << 16 | u32::from(word(frame, at + 2))
}

/// Whether two frames with the same headers belong to one flow: all bytes are the same
/// but lengths, ids, sums, and what moves on in TCP.
fn alike(one: &[u8], other: &[u8], headers: &Headers) -> bool {
    let tcp = headers.transport;
    let moving: &[(usize, usize)] = match headers.version {
        0 => &[(2, 6), (10, 12)],
        _ => &[(4, 6)],
    };
    (0..tcp + 4).all(|at| {
        let inside =
            |(start, end): &(usize, usize)| (ETHERNET + start..ETHERNET + end).contains(&at);
        moving.iter().any(inside) || one.get(at) == other.get(at)
    })
}

#[cfg(test)]
mod tests {
    use super::super::offload::finished_segments;
    use super::*;

    const ON: Enabled = Enabled {
        tcp: [true; 2],
        udp: [true; 2],
        large_send: [true; 2],
        coalesce: [true; 2],
        verdict: [[true; 2]; 2],
    };

    fn join(frames: &[Bytes], enabled: &Enabled) -> Vec<Joined> {
        let mut all: Vec<Joined> = Vec::new();
        for frame in frames {
            if !all.last_mut().is_some_and(|last| last.take(frame, enabled)) {
                all.push(Joined::new(frame, enabled));
            }
        }
        all
    }

    #[test]
    fn segments_of_a_flow_are_joined() {
        let frames = finished_segments(5000, 1000);
        let all = join(&frames, &ON);
        assert_eq!(all.len(), 1);
        let parts = &all[0].parts;
        assert_eq!(parts.len(), 5);
        assert_eq!(parts[0].len(), 1054);
        assert_eq!(word(&parts[0], 16), 5040);
        // PSH of the last one.
        assert_eq!(parts[0][47], ACK | PUSH);
        let payload: Bytes = [&parts[0][54..], &parts[1..].concat()].concat();
        let sent: Bytes = frames
            .iter()
            .flat_map(|frame| &frame[54..])
            .copied()
            .collect();
        assert_eq!(payload, sent);
        // Not asked for; no verdict on sums.
        for enabled in [
            Enabled {
                coalesce: [false, true],
                ..ON
            },
            Enabled {
                verdict: [[false; 2]; 2],
                ..ON
            },
        ] {
            assert_eq!(join(&frames, &enabled).len(), 5);
        }
    }

    #[test]
    fn what_does_not_go_on_is_not_joined() {
        let frames = finished_segments(5000, 1000);
        // A gap, a damaged one, another flow, an end in between.
        let without = [frames[0].clone(), frames[2].clone(), frames[3].clone()];
        assert_eq!(join(&without, &ON).len(), 2);
        let mut damaged = frames.clone();
        damaged[1][900] ^= 1;
        assert_eq!(join(&damaged, &ON).len(), 3);
        let mut other = frames.clone();
        other[1][37] ^= 1;
        assert_eq!(join(&other, &ON).len(), 3);
        let short = [&finished_segments(1500, 1000)[..], &frames[..1]].concat();
        assert_eq!(join(&short, &ON).len(), 2);
        // Never longer than IP can say.
        let long = finished_segments(62000, 1000);
        assert_eq!(join(&[&long[..], &long[..]].concat(), &ON).len(), 2);
    }
}
