//! Segments of TCP that the host joins, over the whole chain.

use super::*;
use abi::virtio::net;
use core::slice;
use validate::frame::{Headers, fold, sum};

const HEADERS: usize = 54;

/// Segments of one flow, finished.
pub fn segments(mac: [u8; 6], count: usize, payload: usize) -> Vec<Vec<u8>> {
    let segment = |n: usize| {
        let mut frame = vec![0; HEADERS];
        frame[..6].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&(n as u16).to_be_bytes());
        frame[22..24].copy_from_slice(&[64, 6]);
        frame[26..34].copy_from_slice(&[10, 0, 2, 2, 10, 0, 2, 15]);
        let total = !fold(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&total.to_be_bytes());
        frame[34..38].copy_from_slice(&[0, 80, 0x12, 0x34]);
        frame[38..42].copy_from_slice(&((n * payload) as u32).to_be_bytes());
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
        frame.extend((0..payload).map(|at| (at * 13 + n * 7) as u8));
        let headers = Headers::of(&frame).unwrap();
        let pseudo = headers.pseudo_sum(&frame, (20 + payload) as u32);
        let total = !fold(u64::from(pseudo) + sum(&frame[34..]));
        frame[50..52].copy_from_slice(&total.to_be_bytes());
        frame
    };
    (0..count).map(segment).collect()
}

fn ready() -> Chain<NetDriver> {
    let mut chain = Chain::<NetDriver>::new();
    chain.nic.coalesce(chain.machine.takes_joined());
    for _ in 0..10 {
        chain.turn();
    }
    assert!(!chain.nic.coalesce_due());
    chain
}

impl Chain<NetDriver> {
    /// Sends frames, which come back, and gives what the guest gets.
    fn round(&mut self, frames: &[Vec<u8>]) -> Vec<([u8; net::HEADER_LEN], Vec<u8>)> {
        for frame in frames {
            assert!(self.driver.send(&mut self.machine, &self.ram, frame));
        }
        let mut got = Vec::new();
        for _ in 0..20 {
            self.turn();
            got.extend(core::iter::from_fn(|| self.driver.receive_all(&self.ram)));
            while self.driver.interrupted(&mut self.machine) {}
            self.driver.fill_rx(&mut self.machine, &self.ram);
        }
        assert_eq!(self.driver.reap_tx(&self.ram), frames.len());
        got
    }
}

/// What 40 segments come to is one frame of 58 KiB, which has the headers of a large
/// send of the guest's own. Before and after it, what is not of its flow.
#[test]
fn segments_reach_the_guest_as_one_frame() {
    let mut chain = ready();
    let sent = segments(chain.mac, 40, 1460);
    let other = Random(3).frame(chain.mac);
    let all = [slice::from_ref(&other), &sent, slice::from_ref(&other)].concat();
    let got = chain.round(&all);
    assert_eq!(got.len(), 3);
    assert!(got[0].1 == other && got[2].1 == other);
    let (header, frame) = &got[1];
    let payload: Vec<u8> = sent.iter().flat_map(|s| &s[HEADERS..]).copied().collect();
    assert!(frame[HEADERS..] == payload);
    assert_eq!(frame[16..18], ((frame.len() - 14) as u16).to_be_bytes());
    assert_eq!(fold(sum(&frame[14..34])), 0xffff);
    // As a driver would leave it to a card: that card finds it in order.
    let headers = Headers::of(frame).unwrap();
    let pseudo = headers.pseudo_sum(frame, (frame.len() - 34) as u32);
    assert_eq!(frame[50..52], pseudo.to_be_bytes());
    assert_eq!(header[..10], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
    let counters = chain.nic.counters();
    assert_eq!((counters.rx_frames, counters.rx_coalesced), (3, 1));
    assert_eq!(counters.rx_fragments, 40);
    let host = chain.stack.host.nic.counters();
    assert_eq!((host.frames_rx, host.joined, host.coalesced), (42, 40, 1));
    assert!(counters.validation.violations().next().is_none());
    // Switched off: one by one, with the host's word for their sums.
    chain.nic.coalesce([false; 2]);
    for _ in 0..10 {
        chain.turn();
    }
    let got = chain.round(&sent);
    assert!(got.iter().map(|(_, frame)| frame).eq(&sent));
    assert!(got.iter().all(|(header, _)| header[..2] == [2, 0]));
}

/// What a byte more in each segment costs: it is copied once.
#[test]
fn copies_per_byte_of_payload_of_joined_segments() {
    const SEGMENTS: usize = 30;
    let costs = |payload: usize| {
        let mut chain = ready();
        let sent = segments(chain.mac, SEGMENTS, payload);
        let before = chain.ram.copied();
        let got = chain.round(&sent);
        assert_eq!(got.len(), 1);
        let [_, written] = chain.ram.copied();
        let (receive, _) = chain.nic.into_buffers();
        let [from_host, _] = receive.copied();
        // The driver writes what it sends, once.
        let driver = SEGMENTS * (payload + HEADERS);
        from_host + written - before[1] - driver as u64
    };
    // As many buffers of the guest's for both, so that descriptors cost the same.
    let (short, long) = (costs(1400), costs(1430));
    assert_eq!(long - short, SEGMENTS as u64 * 30);
}
