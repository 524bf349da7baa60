//! PKT: ring packets.

use super::rules;

rules! {
    PKT_01 {
        reaction: Reset,
        statement: "The payload offset is at most the packet length",
        danger: "",
        example: "",
        source: "OpenVMM `parse_packet`; iPXE PR #1807",
    }
    PKT_02 {
        reaction: Reset,
        statement: "The payload offset is at least 16, the descriptor",
        danger: "",
        example: "",
        source: "OpenVMM; Linux rewrites",
    }
    PKT_03 {
        reaction: Reset,
        statement: "The packet length is at least 16",
        danger: "",
        example: "",
        source: "OpenVMM; Linux rewrites",
    }
    PKT_04 {
        reaction: Reset,
        statement: "A network card sends in-band, transfer-page and completion packets only",
        danger: "",
        example: "",
        source: "Linux `netvsc_process_raw_pkt`; OpenVMM accepts type 9",
    }
    PKT_05 {
        reaction: Reset,
        statement: "Only flag bit 0 is used",
        danger: "",
        example: "",
        source: "OpenVMM; not in Linux",
    }
    PKT_06 {
        reaction: Ignore,
        statement: "A completion that asks for a completion is not answered",
        danger: "",
        example: "",
        source: "own",
    }
    PKT_07 {
        reaction: Drop,
        statement: "A transfer-page packet has its 8-byte header",
        danger: "",
        example: "",
        source: "Linux `netvsc_receive`; OpenVMM",
    }
    PKT_08 {
        reaction: Drop,
        statement: "All ranges lie in front of the payload",
        danger: "",
        example: "",
        source: "Linux NETVSC_XFER_HEADER_SIZE",
    }
    PKT_09 {
        reaction: Reset,
        statement: "The range count is below 2^31",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    PKT_10 {
        reaction: Drop,
        statement: "A transfer-page packet has 1 to 562 ranges",
        danger: "",
        example: "",
        source: "OpenVMM NVSP_MAX_PACKETS_PER_RECEIVE",
    }
    PKT_11 {
        reaction: Drop,
        statement: "The transfer-page set is our receive buffer",
        danger: "",
        example: "",
        source: "Linux `netvsc_receive`; DPDK",
    }
    PKT_12 {
        reaction: Structural,
        statement: "sender_owns_set and reserved are never looked at",
        danger: "",
        example: "",
        source: "OpenVMM",
    }
    PKT_13 {
        reaction: Drop,
        statement: "A completion's transaction id is in this channel's table of outstanding requests",
        danger: "",
        example: "",
        source: "Linux e8b7db38449a",
    }
    PKT_14 {
        reaction: Drop,
        statement: "A completion's transaction id is not 0",
        danger: "",
        example: "",
        source: "Linux `__vmbus_request_addr_match`",
    }
    PKT_15 {
        reaction: Drop,
        statement: "An id is retired by its first completion",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    PKT_16 {
        reaction: Reset,
        statement: "A completion's type fits the request",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    PKT_17 {
        reaction: Structural,
        statement: "Transaction ids are counters with a generation, never addresses",
        danger: "",
        example: "",
        source: "own; Linux in part",
    }
    PKT_18 {
        reaction: Structural,
        statement: "A completion is valid only on the channel of its request",
        danger: "",
        example: "",
        source: "Linux, per-channel requestor",
    }
    PKT_19 {
        reaction: Structural,
        statement: "A transfer-page packet is answered before the next packet is taken, so no two with one transaction id are outstanding; the id is an opaque echo",
        danger: "",
        example: "",
        source: "own",
    }
    PKT_20 {
        reaction: Structural,
        statement: "A request of the host is answered before the next packet is taken; answers do not queue up",
        danger: "",
        example: "",
        source: "own",
    }
    PKT_21 {
        reaction: Drop,
        statement: "In-band and transfer-page packets and non-empty completions hold at least the 4-byte message type",
        danger: "",
        example: "",
        source: "Linux `netvsc_receive`",
    }
    PKT_22 {
        reaction: Drop,
        statement: "An empty completion answers only a request that expects one",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    PKT_23 {
        reaction: Structural,
        statement: "The payload's length is a multiple of 8; the length of a message comes from the message and is at most the payload",
        danger: "",
        example: "",
        source: "own",
    }
    PKT_24 {
        reaction: Reset,
        statement: "The oldest outstanding request is younger than its deadline",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
}
