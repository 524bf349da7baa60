//! The bodies.

mod client;
mod control;
mod decode;
mod e1000e;
mod ghcb;
mod nic;
mod nvsp;
mod packet;
mod params;
mod pci_mmio;
mod ring;
mod rndis;
mod synic;
mod virtio;

use crate::Target;

const fn entry(
    name: &'static str,
    about: &'static str,
    body: fn(&[u8]) -> u64,
    rounds: u32,
) -> Target {
    Target {
        name,
        about,
        body,
        rounds,
    }
}

pub(crate) const ALL: [Target; 14] = [
    entry("synic", "message slots and event flags", synic::body, 2000),
    entry(
        "control",
        "control messages against a live client",
        control::body,
        1500,
    ),
    entry("ring", "ring bytes and indices that move", ring::body, 1500),
    entry("packet", "ring packets", packet::body, 4000),
    entry(
        "nvsp",
        "NVSP messages and the receive buffer's slots",
        nvsp::body,
        4000,
    ),
    entry("rndis", "RNDIS messages", rndis::body, 4000),
    entry(
        "nic",
        "the NIC over a live channel, as a sequence of host actions",
        nic::body,
        200,
    ),
    entry(
        "client",
        "the whole uplink, as a sequence of host actions",
        client::body,
        60,
    ),
    entry(
        "ghcb",
        "answers in the GHCB page and by MSR, exits, page instructions",
        ghcb::body,
        400,
    ),
    entry(
        "virtio",
        "virtio queues and registers under a hostile driver",
        virtio::body,
        300,
    ),
    entry(
        "e1000e",
        "the 82574L's descriptors and registers under a hostile driver",
        e1000e::body,
        200,
    ),
    entry(
        "pci_mmio",
        "ports, PCI, MMIO and MSRs of any width",
        pci_mmio::body,
        1000,
    ),
    entry(
        "decode",
        "instructions on device memory, page tables",
        decode::body,
        2000,
    ),
    entry(
        "params",
        "memory map and configuration page",
        params::body,
        4000,
    ),
];
