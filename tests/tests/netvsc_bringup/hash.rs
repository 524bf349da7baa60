//! The hash of a flow over the whole chain: the guest's driver says how it is to be made,
//! the host makes it, and it lies in front of the frame.

use super::*;
use abi::virtio::{net, pci::common};

/// The key of Microsoft's "Verifying the RSS hash calculation".
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// The first flow of that page, over this protocol.
fn flow(mac: [u8; 6], protocol: u8) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 46]);
    frame[22..24].copy_from_slice(&[64, protocol]);
    frame[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
    frame[34..36].copy_from_slice(&2794_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&1766_u16.to_be_bytes());
    frame[46] = 0x50;
    frame
}

/// Its hashes with and without ports.
const WITH_PORTS: u32 = 0x51cc_c178;
const ADDRESSES: u32 = 0x323e_8fc2;

impl Chain<NetDriver> {
    /// What the owner of the machine does when it hears of it.
    fn pass_on(&mut self) {
        if self.machine.take_nic_events().hash_changed {
            self.nic.set_hash(self.machine.hash_request());
        }
        for _ in 0..10 {
            self.turn();
        }
    }

    /// The driver asks for hashes of these types.
    fn ask(&mut self, types: u32, key: &[u8; 40]) {
        let mut command = vec![net::CTRL_MQ, net::CTRL_MQ_HASH_CONFIG];
        command.extend(types.to_le_bytes());
        command.extend([0; 8]);
        command.push(40);
        command.extend(key);
        self.driver.command(&mut self.machine, &self.ram, &command);
        self.machine.serve_nic(&self.ram);
        assert_eq!(self.driver.answer(&self.ram), Some(net::CTRL_OK));
        self.pass_on();
    }

    /// The hash that the guest sees of a flow: value and report.
    fn hash_of(&mut self, protocol: u8) -> Option<(u32, u16)> {
        let frame = flow(self.mac, protocol);
        assert!(self.driver.send(&mut self.machine, &self.ram, &frame));
        for _ in 0..20 {
            self.turn();
            if let Some((_, hash, got)) = self.driver.receive_with_hash(&self.ram) {
                self.driver.fill_rx(&mut self.machine, &self.ram);
                self.driver.reap_tx(&self.ram);
                assert_eq!(got, frame);
                return hash;
            }
        }
        panic!("the frame did not come back");
    }
}

#[test]
fn the_guest_gets_the_hashes_that_it_asks_for() {
    let mut chain = Chain::<NetDriver>::new();
    // Nothing is asked for so far.
    assert_eq!(chain.hash_of(TCP), Some((0, net::HASH_REPORT_NONE)));
    let (ip, tcp, udp) = (1, 1 << 1, 1 << 2);
    let none = (0, net::HASH_REPORT_NONE);
    let addresses = (ADDRESSES, net::HASH_REPORT_IPV4);
    let over_tcp = (WITH_PORTS, net::HASH_REPORT_TCPV4);
    let over_udp = (WITH_PORTS, net::HASH_REPORT_UDPV4);
    for (types, expected) in [
        (ip | tcp | udp, [over_tcp, over_udp, addresses]),
        (ip | tcp, [over_tcp, addresses, addresses]),
        (ip, [addresses, addresses, addresses]),
        (tcp, [over_tcp, none, none]),
        (0, [none, none, none]),
        (ip | tcp, [over_tcp, addresses, addresses]),
    ] {
        chain.ask(types, &KEY);
        let seen = [TCP, UDP, ICMP].map(|protocol| chain.hash_of(protocol).unwrap());
        assert_eq!(seen, expected, "types {types:#x}");
    }
    // Another key makes another hash.
    let mut other = KEY;
    other[3] ^= 1;
    chain.ask(tcp, &other);
    let (value, report) = chain.hash_of(TCP).unwrap();
    assert_eq!(report, net::HASH_REPORT_TCPV4);
    assert_ne!(value, WITH_PORTS);
    // Another driver has asked for nothing yet.
    chain
        .driver
        .write(&mut chain.machine, common::DEVICE_STATUS, 1, 0);
    chain.pass_on();
    chain.driver = Driver::start(&mut chain.machine, &chain.ram);
    chain.driver.fill_rx(&mut chain.machine, &chain.ram);
    assert_eq!(chain.hash_of(TCP), Some(none));
    chain.ask(tcp, &KEY);
    assert_eq!(chain.hash_of(TCP), Some(over_tcp));
    let counters = chain.nic.counters();
    assert!(counters.validation.violations().next().is_none());
    assert_eq!(chain.machine.counters().tx_dropped, 0);
}

/// Segments that the host joins have the hash of the first, which is that of all.
#[test]
fn joined_segments_have_the_hash_of_their_flow() {
    let mut chain = Chain::<NetDriver>::new();
    chain.nic.coalesce(chain.machine.takes_joined());
    chain.ask(1 << 1, &KEY);
    let mut seen = Vec::new();
    for count in [1, 3] {
        let sent = super::joined::segments(chain.mac, count, 100);
        for frame in &sent {
            assert!(chain.driver.send(&mut chain.machine, &chain.ram, frame));
        }
        let mut got = Vec::new();
        for _ in 0..20 {
            chain.turn();
            let next = || chain.driver.receive_with_hash(&chain.ram);
            got.extend(core::iter::from_fn(next));
        }
        chain.driver.fill_rx(&mut chain.machine, &chain.ram);
        chain.driver.reap_tx(&chain.ram);
        let [(_, hash, frame)] = &got[..] else {
            panic!("{} frames", got.len())
        };
        assert_eq!(frame.len(), 54 + count * 100);
        seen.push(hash.unwrap());
    }
    assert_eq!(seen[0].1, net::HASH_REPORT_TCPV4);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(chain.nic.counters().rx_coalesced, 1);
}
