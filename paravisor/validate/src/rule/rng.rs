//! RNG: ring indices and signals.

use super::rules;

rules! {
    RNG_01 {
        reaction: Structural,
        statement: "Our own indices live in private memory; their shared copies are only written",
        danger: "The host changes our write index, and the client writes a packet to a place of the host's choice",
        example: "Our write index becomes 0x7FFFFFF0 between two packets",
        source: "own reasoning; OpenVMM",
    }
    RNG_02 {
        reaction: Reset,
        statement: "The host's write index is below the data size",
        danger: "The reader leaves the ring",
        example: "A write index equal to the size of the ring",
        source: "OpenVMM `InnerRing::validate`",
    }
    RNG_03 {
        reaction: Reset,
        statement: "The host's write index is a multiple of 8",
        danger: "Packets are read at odd places",
        example: "A write index of 0x13",
        source: "OpenVMM `validate`",
    }
    RNG_04 {
        reaction: Reset,
        statement: "The host's read index is below the data size and a multiple of 8",
        danger: "The free space comes out wrong, and unread data is overwritten",
        example: "A read index of 0xFFFFFFF8",
        source: "OpenVMM `validate`",
    }
    RNG_05 {
        reaction: Reset,
        statement: "The host's read index only moves forward, between its last value and our write index",
        danger: "What was consumed counts as unread; answers and flow control get mixed up",
        example: "A read index that goes back by 64",
        source: "own reasoning",
    }
    RNG_06 {
        reaction: Reset,
        statement: "The host's write index only moves forward: what was available stays available",
        danger: "Packets that were read come back with another content",
        example: "A write index that goes back by 32",
        source: "own reasoning",
    }
    RNG_07 {
        reaction: Structural,
        statement: "A shared index is loaded once per decision, with acquire ordering",
        danger: "Two looks at one index give two answers; or data is read before the index that vouches for it",
        example: "An index that changes between check and use",
        source: "Linux `hv_pkt_iter_avail`; OpenVMM",
    }
    RNG_08 {
        reaction: Reset,
        statement: "Available bytes are 0 or at least 24, the smallest packet with its trailer",
        danger: "A packet header is read that was never written",
        example: "8 bytes available",
        source: "own reasoning",
    }
    RNG_09 {
        reaction: Reset,
        statement: "Packet and trailer lie inside the available bytes",
        danger: "The read index overtakes the write index, and old bytes of the whole ring are read as packets",
        example: "32 bytes available, a packet of 32 bytes without room for its trailer",
        source: "mu_msvm",
    }
    RNG_10 {
        reaction: Structural,
        statement: "Ring sizes come from private state",
        danger: "The host changes the size of the ring",
        example: "Scribbles over the unused words of the header",
        source: "Linux ring_datasize; OpenVMM",
    }
    RNG_11 {
        reaction: Structural,
        statement: "Reserved bytes of the ring header are never read",
        danger: "Bytes without meaning become inputs",
        example: "0xFF in all reserved bytes",
        source: "OpenVMM",
    }
    RNG_12 {
        reaction: Structural,
        statement: "The interrupt mask of our ring is never read back; a poll by the clock covers a lost wake-up",
        danger: "The host turns wake-ups off for ever, and nothing is received any more",
        example: "The mask is set again after we have cleared it",
        source: "own reasoning",
    }
    RNG_13 {
        reaction: Structural,
        statement: "The host's interrupt mask is a boolean that suppresses our signal, nothing else",
        danger: "A mask full of garbage is taken for more than on or off",
        example: "A mask of 0xDEAD0000",
        source: "Linux `hv_signal_on_write`; OpenVMM",
    }
    RNG_14 {
        reaction: Structural,
        statement: "Feature bits of the host are never read: signalling depends on the pending send size alone",
        danger: "The rules of signalling change while the channel is open",
        example: "Feature bit 0 changes with each packet",
        source: "mu_msvm, OpenVMM",
    }
    RNG_15 {
        reaction: Clamp,
        statement: "A pending send size is rounded down to a multiple of 8 and clamped to what can ever be free; it decides a signal only",
        danger: "Signals that are needed are missed, or others sent for ever",
        example: "A pending send size of 0xFFFFFFFF",
        source: "OpenVMM",
    }
    RNG_16 {
        reaction: Structural,
        statement: "Signal arithmetic works on validated private values",
        danger: "A subtraction wraps, and the signal is sent always or never",
        example: "A read index beyond the ring just before the signal is decided",
        source: "own reasoning",
    }
    RNG_17 {
        reaction: Structural,
        statement: "Our pending send size is only written; waiting for space also has a timer",
        danger: "The client waits for space and is never woken",
        example: "Our pending send size becomes 0 while the ring is full",
        source: "own reasoning",
    }
    RNG_18 {
        reaction: Structural,
        statement: "The look after unmasking uses the private read index",
        danger: "The loop that looks once more before it sleeps never ends",
        example: "Our own read index changes in the shared page while the ring is empty",
        source: "own reasoning",
    }
    RNG_19 {
        reaction: Structural,
        statement: "Private indices start at 0 and are never taken from the shared page",
        danger: "Reading starts at a place of the host's choice",
        example: "A read index of 0x1000 before the first packet",
        source: "own reasoning",
    }
    RNG_20 {
        reaction: Structural,
        statement: "Every packet is copied once into private memory, then parsed",
        danger: "Every field of a packet can change between check and use",
        example: "The payload offset changes while the packet is being parsed",
        source: "Linux adae1e931acd",
    }
    RNG_21 {
        reaction: Structural,
        statement: "Shared memory is reached by byte copies and word atomics; no reference points into it",
        danger: "The compiler reads memory again that it believes constant",
        example: "A host that writes while the client reads",
        source: "own reasoning",
    }
    RNG_22 {
        reaction: Reset,
        statement: "A packet fits into the private buffer of the channel",
        danger: "A packet that was cut off is parsed as if it were whole",
        example: "A packet length of 0x7FFF8",
        source: "own reasoning",
    }
    RNG_23 {
        reaction: Structural,
        statement: "The first violation of a ring kills the channel; there is no resynchronisation",
        danger: "The client goes on in bytes that the host has laid out for it",
        example: "One bad length, then a crafted packet behind it",
        source: "OpenVMM",
    }
    RNG_24 {
        reaction: Structural,
        statement: "Trailers are never read",
        danger: "The reader walks back to a place of the host's choice",
        example: "A trailer of sixteen Fs",
        source: "Linux, OpenVMM",
    }
    RNG_25 {
        reaction: Structural,
        statement: "The read index is published at packet ends only, after the copy, with release ordering",
        danger: "The host overwrites bytes that are still being read",
        example: "A host that writes as soon as the index moves",
        source: "Linux `hv_pkt_iter_close`; OpenVMM",
    }
    RNG_26 {
        reaction: Structural,
        statement: "Packets per poll are bounded",
        danger: "One channel keeps the processor for ever",
        example: "A host that writes as fast as the client reads",
        source: "Linux NAPI; OpenVMM",
    }
    RNG_27 {
        reaction: Structural,
        statement: "At least 8 bytes of our ring stay free",
        danger: "A full ring looks empty",
        example: "Packets that fill the ring to the last byte",
        source: "Linux; OpenVMM",
    }
    RNG_28 {
        reaction: Structural,
        statement: "Padding and trailer are written with zeros in all reserved bytes",
        danger: "Private bytes leave in the gaps between packets",
        example: "A payload of 29 bytes; the three bytes behind it must be zero",
        source: "Linux, OpenVMM",
    }
    RNG_29 {
        reaction: Structural,
        statement: "What we wrote into the outgoing ring is never read back",
        danger: "What the host changed comes back as our own state",
        example: "Bytes of our last packet change in the ring",
        source: "own reasoning",
    }
    RNG_30 {
        reaction: Throttle,
        statement: "An event behind which neither index of the host has moved is spurious; so many in a row are counted and throttled",
        danger: "The processor is kept busy by signals about nothing",
        example: "Signal without data, again and again",
        source: "own reasoning",
    }
}
