//! RNG: ring indices and signals.

use super::rules;

rules! {
    RNG_01 {
        reaction: Structural,
        statement: "Our own indices live in private memory; their shared copies are only written",
        danger: "",
        example: "",
        source: "own; OpenVMM; not in Linux",
    }
    RNG_02 {
        reaction: Reset,
        statement: "The host's write index is below the data size",
        danger: "",
        example: "",
        source: "OpenVMM `InnerRing::validate`; not in Linux",
    }
    RNG_03 {
        reaction: Reset,
        statement: "The host's write index is a multiple of 8",
        danger: "",
        example: "",
        source: "OpenVMM `validate`; not in Linux",
    }
    RNG_04 {
        reaction: Reset,
        statement: "The host's read index is below the data size and a multiple of 8",
        danger: "",
        example: "",
        source: "OpenVMM `validate`; not in Linux",
    }
    RNG_05 {
        reaction: Reset,
        statement: "The host's read index only moves forward, between its last value and our write index",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    RNG_06 {
        reaction: Reset,
        statement: "The host's write index only moves forward: what was available stays available",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    RNG_07 {
        reaction: Structural,
        statement: "A shared index is loaded once per decision, with acquire ordering",
        danger: "",
        example: "",
        source: "Linux `hv_pkt_iter_avail`; OpenVMM",
    }
    RNG_08 {
        reaction: Reset,
        statement: "Available bytes are 0 or at least 24, the smallest packet with its trailer",
        danger: "",
        example: "",
        source: "own; OpenVMM in part",
    }
    RNG_09 {
        reaction: Reset,
        statement: "Packet and trailer lie inside the available bytes",
        danger: "",
        example: "",
        source: "mu_msvm; not in Linux, not in OpenVMM",
    }
    RNG_10 {
        reaction: Structural,
        statement: "Ring sizes come from private state",
        danger: "",
        example: "",
        source: "Linux ring_datasize; OpenVMM",
    }
    RNG_11 {
        reaction: Structural,
        statement: "Reserved bytes of the ring header are never read",
        danger: "",
        example: "",
        source: "OpenVMM",
    }
    RNG_12 {
        reaction: Throttle,
        statement: "The interrupt mask of our ring is never read back; a poll by the clock covers a lost wake-up",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RNG_13 {
        reaction: Ignore,
        statement: "The host's interrupt mask is a boolean that suppresses our signal, nothing else",
        danger: "",
        example: "",
        source: "Linux `hv_signal_on_write`; OpenVMM",
    }
    RNG_14 {
        reaction: Structural,
        statement: "Feature bits of the host are never read: signalling depends on the pending send size alone",
        danger: "",
        example: "",
        source: "mu_msvm, OpenVMM",
    }
    RNG_15 {
        reaction: Clamp,
        statement: "A pending send size is rounded down to a multiple of 8 and clamped to what can ever be free; it decides a signal only",
        danger: "",
        example: "",
        source: "OpenVMM",
    }
    RNG_16 {
        reaction: Structural,
        statement: "Signal arithmetic works on validated private values",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RNG_17 {
        reaction: Structural,
        statement: "Our pending send size is only written; waiting for space also has a timer",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RNG_18 {
        reaction: Structural,
        statement: "The look after unmasking uses the private read index",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RNG_19 {
        reaction: Structural,
        statement: "Private indices start at 0 and are never taken from the shared page",
        danger: "",
        example: "",
        source: "own; Linux in part; not in OpenVMM",
    }
    RNG_20 {
        reaction: Structural,
        statement: "Every packet is copied once into private memory, then parsed",
        danger: "",
        example: "",
        source: "Linux adae1e931acd",
    }
    RNG_21 {
        reaction: Structural,
        statement: "Shared memory is reached by byte copies and word atomics; no reference points into it",
        danger: "",
        example: "",
        source: "own",
    }
    RNG_22 {
        reaction: Reset,
        statement: "A packet fits into the private buffer of the channel",
        danger: "",
        example: "",
        source: "own; Linux clamps",
    }
    RNG_23 {
        reaction: Reset,
        statement: "The first violation of a ring kills the channel; there is no resynchronisation",
        danger: "",
        example: "",
        source: "OpenVMM; not in Linux",
    }
    RNG_24 {
        reaction: Structural,
        statement: "Trailers are never read",
        danger: "",
        example: "",
        source: "Linux, OpenVMM",
    }
    RNG_25 {
        reaction: Structural,
        statement: "The read index is published at packet ends only, after the copy, with release ordering",
        danger: "",
        example: "",
        source: "Linux `hv_pkt_iter_close`; OpenVMM",
    }
    RNG_26 {
        reaction: Throttle,
        statement: "Packets per poll are bounded",
        danger: "",
        example: "",
        source: "Linux NAPI; OpenVMM",
    }
    RNG_27 {
        reaction: Structural,
        statement: "At least 8 bytes of our ring stay free",
        danger: "",
        example: "",
        source: "Linux; OpenVMM",
    }
    RNG_28 {
        reaction: Structural,
        statement: "Padding and trailer are written with zeros in all reserved bytes",
        danger: "",
        example: "",
        source: "Linux, OpenVMM",
    }
    RNG_29 {
        reaction: Structural,
        statement: "What we wrote into the outgoing ring is never read back",
        danger: "",
        example: "",
        source: "own",
    }
}
