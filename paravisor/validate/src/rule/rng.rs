//! RNG: ring indices and signals.

use super::rules;

rules! { Rng
    RNG_01 = 1, Structural,
        "Our own indices live in private memory; their shared copies are only written",
        "own; OpenVMM; not in Linux";
    RNG_02 = 2, Reset,
        "The host's write index is below the data size",
        "OpenVMM `InnerRing::validate`; not in Linux";
    RNG_03 = 3, Reset,
        "The host's write index is a multiple of 8",
        "OpenVMM `validate`; not in Linux";
    RNG_04 = 4, Reset,
        "The host's read index is below the data size and a multiple of 8",
        "OpenVMM `validate`; not in Linux";
    RNG_05 = 5, Reset,
        "The host's read index only moves forward, between its last value and our write index",
        "own; not in Linux, not in OpenVMM";
    RNG_06 = 6, Reset,
        "The host's write index only moves forward: what was available stays available",
        "own; not in Linux, not in OpenVMM";
    RNG_07 = 7, Structural,
        "A shared index is loaded once per decision, with acquire ordering",
        "Linux `hv_pkt_iter_avail`; OpenVMM";
    RNG_08 = 8, Reset,
        "Available bytes are 0 or at least 24, the smallest packet with its trailer",
        "own; OpenVMM in part";
    RNG_09 = 9, Reset,
        "Packet and trailer lie inside the available bytes",
        "mu_msvm; not in Linux, not in OpenVMM";
    RNG_10 = 10, Structural,
        "Ring sizes come from private state",
        "Linux ring_datasize; OpenVMM";
    RNG_11 = 11, Structural,
        "Reserved bytes of the ring header are never read",
        "OpenVMM";
    RNG_12 = 12, Throttle,
        "The interrupt mask of our ring is never read back; a poll by the clock covers a lost wake-up",
        "own; not in Linux";
    RNG_13 = 13, Ignore,
        "The host's interrupt mask is a boolean that suppresses our signal, nothing else",
        "Linux `hv_signal_on_write`; OpenVMM";
    RNG_14 = 14, Structural,
        "Feature bits of the host are never read: signalling depends on the pending send size alone",
        "mu_msvm, OpenVMM";
    RNG_15 = 15, Clamp,
        "A pending send size is rounded down to a multiple of 8 and clamped to what can ever be free; it decides a signal only",
        "OpenVMM";
    RNG_16 = 16, Structural,
        "Signal arithmetic works on validated private values",
        "own; not in Linux";
    RNG_17 = 17, Structural,
        "Our pending send size is only written; waiting for space also has a timer",
        "own; not in Linux";
    RNG_18 = 18, Structural,
        "The look after unmasking uses the private read index",
        "own; not in Linux";
    RNG_19 = 19, Structural,
        "Private indices start at 0 and are never taken from the shared page",
        "own; Linux in part; not in OpenVMM";
    RNG_20 = 20, Structural,
        "Every packet is copied once into private memory, then parsed",
        "Linux adae1e931acd";
    RNG_21 = 21, Structural,
        "Shared memory is reached by byte copies and word atomics; no reference points into it",
        "own";
    RNG_22 = 22, Reset,
        "A packet fits into the private buffer of the channel",
        "own; Linux clamps";
    RNG_23 = 23, Reset,
        "The first violation of a ring kills the channel; there is no resynchronisation",
        "OpenVMM; not in Linux";
    RNG_24 = 24, Structural,
        "Trailers are never read",
        "Linux, OpenVMM";
    RNG_25 = 25, Structural,
        "The read index is published at packet ends only, after the copy, with release ordering",
        "Linux `hv_pkt_iter_close`; OpenVMM";
    RNG_26 = 26, Throttle,
        "Packets per poll are bounded",
        "Linux NAPI; OpenVMM";
    RNG_27 = 27, Structural,
        "At least 8 bytes of our ring stay free",
        "Linux; OpenVMM";
    RNG_28 = 28, Structural,
        "Padding and trailer are written with zeros in all reserved bytes",
        "Linux, OpenVMM";
    RNG_29 = 29, Structural,
        "What we wrote into the outgoing ring is never read back",
        "own";
}
