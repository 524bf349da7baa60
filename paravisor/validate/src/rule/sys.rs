//! SYS: the whole system.

use super::rules;

rules! {
    SYS_01 {
        reaction: Structural,
        statement: "No host byte leads to a panic: no unwrap, no index, no overflow where host bytes are seen",
        danger: "One word of the host stops the paravisor, and with it the guest",
        example: "Every message cut, changed, repeated and sent at the wrong time",
        source: "own reasoning",
    }
    SYS_02 {
        reaction: Structural,
        statement: "No allocation has a size that the host chooses without a limit of ours",
        danger: "The host makes the paravisor use up its memory",
        example: "The greatest value in every size and count",
        source: "own reasoning",
    }
    SYS_03 {
        reaction: Structural,
        statement: "Every refusal is counted; lines of the log are bounded in rate and hold rule ids and numbers, no strings of the host",
        danger: "A host fills the log until nothing else is seen, or writes into it what an operator's terminal takes for a command",
        example: "A million bad packets",
        source: "own reasoning",
    }
    SYS_04 {
        reaction: Structural,
        statement: "An index or offset that the host has chosen is masked by arithmetic after its bounds check",
        danger: "A processor that guesses reads private memory at an index of the host, and the cache tells (Spectre, variant 1)",
        example: "relid 2048 while the branch predictor expects a small one",
        source: "Linux `array_index_nospec`",
    }
    SYS_05 {
        reaction: Fail,
        statement: "The channel is opened again a bounded number of times per hour, then the device is failed",
        danger: "Bring-up after bring-up keeps the processor busy and gives the host a new try each time",
        example: "A corrupt ring after each open, or an offer that comes and goes",
        source: "own reasoning",
    }
    SYS_06 {
        reaction: Structural,
        statement: "When the NIC ends, the guest sees its link down and its transmits completed, and no frame of before",
        danger: "The guest waits for ever for its transmits, or takes old data for new",
        example: "A reset under load",
        source: "own reasoning",
    }
    SYS_07 {
        reaction: Structural,
        statement: "Frames interrupt the guest at most 20 times in a millisecond, however often the host signals; the rest waits in the ring",
        danger: "The guest does nothing but take interrupts",
        example: "A million frames of 14 bytes in a second, each with a signal",
        source: "own reasoning",
    }
    SYS_08 {
        reaction: Structural,
        statement: "A send section holds its message and zeros: nothing of an earlier frame stays behind a shorter one",
        danger: "The host reads bytes of a frame that were never part of what the guest sends now",
        example: "A frame of 1500 bytes, then one of 60 in the same section",
        source: "own reasoning",
    }
    SYS_09 {
        reaction: Structural,
        statement: "A GPA-direct packet names pages of the shared send buffer and nothing else",
        danger: "The host is told addresses of private memory, or reads them itself",
        example: "Every packet in the outgoing ring, looked at from the host",
        source: "Linux `netvsc_dma_map` sends from shared buffers",
    }
    SYS_10 {
        reaction: Structural,
        statement: "A verdict depends on the copied bytes and on our own state only",
        danger: "An audit cannot be repeated",
        example: "The same bytes twice",
        source: "own reasoning",
    }
    SYS_11 {
        reaction: Structural,
        statement: "Every field of a message lies at a fixed offset and is little-endian; no layout depends on padding or on the machine",
        danger: "A compiler or a target that lays structures out in another way reads other fields than those that were judged",
        example: "Messages in which no two neighbouring bytes are alike, compared with what is read from them",
        source: "Linux `__packed`; OpenVMM reads by zerocopy",
    }
    SYS_12 {
        not_applicable { refused_by: CTL_06, why: "The client is never saved or moved: it requests no feature for it, keeps no state outside its memory and refuses the pause messages of the protocol" },
        statement: "State that was saved is authenticated and judged again when it is restored",
        danger: "The host hands back a state in which a channel has another ring, or a flag 0",
        example: "A saved state with event flag 0",
        source: "OpenVMM `restore` judges a part again",
    }
    SYS_13 {
        reaction: Structural,
        statement: "Teardown goes: stop sending, close the channel, tear its GPADLs down, wait for each, release the relid",
        danger: "Pages or numbers are used again while the host still uses them",
        example: "RESCIND at each step of a teardown",
        source: "Linux `netvsc_device_remove`",
    }
    SYS_14 {
        reaction: Drop,
        statement: "The number of network cards is fixed by the measured configuration",
        danger: "A second card connects the guest to a network of the host's choice",
        example: "A second card",
        source: "own reasoning",
    }
    SYS_15 {
        reaction: Structural,
        statement: "No lock is held while an answer of the host is awaited: the client never waits inside a call",
        danger: "One withheld answer stops everything else",
        example: "A request that is never answered",
        source: "own reasoning",
    }
    SYS_16 {
        reaction: Structural,
        statement: "A poll does work in proportion to the bytes it copies, within budgets, and never waits for the host",
        danger: "One interrupt holds the processor for as long as the host likes",
        example: "A packet with 375 ranges, each full of per-packet information",
        source: "own reasoning",
    }
    SYS_17 {
        reaction: Structural,
        statement: "The way to UNLOAD uses copied messages and bounded waits like everything else",
        danger: "The last messages are read while the host changes them, or the end never comes",
        example: "The type of a message changes during UNLOAD",
        source: "Linux `vmbus_wait_for_unload` in part",
    }
    SYS_18 {
        reaction: Drop,
        statement: "Channels of disk controllers (SCSI, IDE, fibre channel) are not opened: each would need rules of its own",
        danger: "Answers with lengths and ids that no rule has looked at are believed",
        example: "An offer of a SCSI controller",
        source: "Linux 6fd13d699d24, 453de21c2b82 for what such rules are about",
    }
}
