//! PKT: ring packets.

use super::rules;

rules! { Pkt
    PKT_01 = 1, Reset,
        "The payload offset is at most the packet length",
        "OpenVMM `parse_packet`; iPXE PR #1807";
    PKT_02 = 2, Reset,
        "The payload offset is at least 16, the descriptor",
        "OpenVMM; Linux rewrites";
    PKT_03 = 3, Reset,
        "The packet length is at least 16",
        "OpenVMM; Linux rewrites";
    PKT_04 = 4, Reset,
        "A network card sends in-band, transfer-page and completion packets only",
        "Linux `netvsc_process_raw_pkt`; OpenVMM accepts type 9";
    PKT_05 = 5, Reset,
        "Only flag bit 0 is used",
        "OpenVMM; not in Linux";
    PKT_06 = 6, Ignore,
        "A completion that asks for a completion is not answered",
        "own";
    PKT_07 = 7, Drop,
        "A transfer-page packet has its 8-byte header",
        "Linux `netvsc_receive`; OpenVMM";
    PKT_08 = 8, Drop,
        "All ranges lie in front of the payload",
        "Linux NETVSC_XFER_HEADER_SIZE";
    PKT_09 = 9, Reset,
        "The range count is below 2^31",
        "own; not in Linux";
    PKT_10 = 10, Drop,
        "A transfer-page packet has 1 to 562 ranges",
        "OpenVMM NVSP_MAX_PACKETS_PER_RECEIVE";
    PKT_11 = 11, Drop,
        "The transfer-page set is our receive buffer",
        "Linux `netvsc_receive`; DPDK";
    PKT_12 = 12, Structural,
        "sender_owns_set and reserved are never looked at",
        "OpenVMM";
    PKT_13 = 13, Drop,
        "A completion's transaction id is in this channel's table of outstanding requests",
        "Linux e8b7db38449a";
    PKT_14 = 14, Drop,
        "A completion's transaction id is not 0",
        "Linux `__vmbus_request_addr_match`";
    PKT_15 = 15, Drop,
        "An id is retired by its first completion",
        "Linux in part";
    PKT_16 = 16, Reset,
        "A completion's type fits the request",
        "own; not in Linux";
    PKT_17 = 17, Structural,
        "Transaction ids are counters with a generation, never addresses",
        "own; Linux in part";
    PKT_18 = 18, Structural,
        "A completion is valid only on the channel of its request",
        "Linux, per-channel requestor";
    PKT_19 = 19, Structural,
        "A transfer-page packet is answered before the next packet is taken, so no two with one transaction id are outstanding; the id is an opaque echo",
        "own";
    PKT_20 = 20, Structural,
        "A request of the host is answered before the next packet is taken; answers do not queue up",
        "own";
    PKT_21 = 21, Drop,
        "In-band and transfer-page packets and non-empty completions hold at least the 4-byte message type",
        "Linux `netvsc_receive`";
    PKT_22 = 22, Drop,
        "An empty completion answers only a request that expects one",
        "own; not in Linux";
    PKT_23 = 23, Structural,
        "The payload's length is a multiple of 8; the length of a message comes from the message and is at most the payload",
        "own";
    PKT_24 = 24, Reset,
        "The oldest outstanding request is younger than its deadline",
        "own; not in Linux";
}
