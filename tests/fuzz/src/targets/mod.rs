//! The bodies.

mod control;
mod nvsp;
mod packet;
mod ring;
mod rndis;
mod synic;

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

pub(crate) const ALL: [Target; 6] = [
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
];
