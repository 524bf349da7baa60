//! PKT: ring packets.

use super::rules;

rules! {
    PKT_01 {
        reaction: Reset,
        statement: "The payload offset is at most the packet length",
        danger: "The payload's length wraps to four thousand million bytes",
        example: "Length 24, payload at 40",
        source: "OpenVMM `parse_packet`; iPXE PR #1807",
    }
    PKT_02 {
        reaction: Reset,
        statement: "The payload offset is at least 16, the descriptor",
        danger: "The payload is the header itself",
        example: "Payload at 0",
        source: "OpenVMM `parse_packet`",
    }
    PKT_03 {
        reaction: Reset,
        statement: "The packet length is at least 16",
        danger: "The reader makes no progress and never ends",
        example: "Length 0",
        source: "OpenVMM `parse_packet`",
    }
    PKT_04 {
        reaction: Reset,
        statement: "A network card sends in-band, transfer-page and completion packets only",
        danger: "The host makes the client follow guest addresses that it lists",
        example: "A packet of type 9 with page number 0",
        source: "Linux `netvsc_process_raw_pkt`",
    }
    PKT_05 {
        reaction: Reset,
        statement: "Only flag bit 0 is used",
        danger: "A flag of the future changes what a packet means",
        example: "Flags 0x8000",
        source: "OpenVMM",
    }
    PKT_06 {
        reaction: Structural,
        statement: "A completion that asks for a completion is not answered",
        danger: "Two sides answer each other's answers for ever",
        example: "A completion that asks for a completion",
        source: "own reasoning",
    }
    PKT_07 {
        reaction: Drop,
        statement: "A transfer-page packet has its 8-byte header",
        danger: "The set and the number of ranges are read from the payload",
        example: "Type 7 with its payload at 16",
        source: "Linux `netvsc_receive`; OpenVMM",
    }
    PKT_08 {
        reaction: Drop,
        statement: "All ranges lie in front of the payload",
        danger: "Ranges are read from behind the packet",
        example: "100 ranges in front of a payload at 32",
        source: "Linux NETVSC_XFER_HEADER_SIZE",
    }
    PKT_09 {
        reaction: Reset,
        statement: "The range count is below 2^31",
        danger: "The count is negative for code that uses signed numbers, and its bound never holds",
        example: "0xFFFFFFFF ranges",
        source: "own reasoning",
    }
    PKT_10 {
        reaction: Drop,
        statement: "A transfer-page packet has 1 to 562 ranges",
        danger: "Transactions without content, or batches beyond any table",
        example: "0 ranges",
        source: "OpenVMM NVSP_MAX_PACKETS_PER_RECEIVE",
    }
    PKT_11 {
        reaction: Drop,
        statement: "The transfer-page set is our receive buffer",
        danger: "Ranges are applied to another buffer",
        example: "Set 0xBEEF",
        source: "Linux `netvsc_receive`; DPDK",
    }
    PKT_12 {
        reaction: Structural,
        statement: "sender_owns_set and reserved are never looked at",
        danger: "Garbage that hosts leave there has an effect",
        example: "0xFF in both fields",
        source: "OpenVMM",
    }
    PKT_13 {
        reaction: Drop,
        statement: "A completion's transaction id is in this channel's table of outstanding requests; a host that breaks this again and again has its channel reset",
        danger: "A number of the host is used as a pointer: it frees or writes what it likes",
        example: "Id 0xFFFF888000001000",
        source: "Linux e8b7db38449a",
    }
    PKT_14 {
        reaction: Drop,
        statement: "A completion's transaction id is not 0; a host that breaks this again and again has its channel reset",
        danger: "An answer to nothing is looked up as if it were one",
        example: "Id 0",
        source: "Linux `__vmbus_request_addr_match`",
    }
    PKT_15 {
        reaction: Drop,
        statement: "An id is retired by its first completion; a host that breaks this again and again has its channel reset",
        danger: "An answer is used twice, the second time for a request that is gone",
        example: "The same completion twice",
        source: "Linux `vmbus_request_addr`",
    }
    PKT_16 {
        reaction: Reset,
        statement: "A completion's type fits the request",
        danger: "The record of one kind of request is used as that of another",
        example: "A transmit completion for the handshake's request",
        source: "own reasoning",
    }
    PKT_17 {
        reaction: Structural,
        statement: "Transaction ids are counters with a generation, never addresses",
        danger: "Addresses of private memory leave, or an old answer fits a new request",
        example: "The ids of a hundred requests, seen from the host",
        source: "own reasoning",
    }
    PKT_18 {
        reaction: Structural,
        statement: "A completion is valid only on the channel of its request",
        danger: "An answer on one queue completes a request of another",
        example: "An id of one channel answered on the next",
        source: "Linux, per-channel requestor",
    }
    PKT_19 {
        reaction: Structural,
        statement: "A transfer-page packet is answered before the next packet is taken, so no two with one transaction id are outstanding; the id is an opaque echo",
        danger: "Two receives with one id; whichever is answered frees the other's data",
        example: "Two packets with one transaction id",
        source: "own reasoning",
    }
    PKT_20 {
        reaction: Structural,
        statement: "A request of the host is answered before the next packet is taken; answers do not queue up",
        danger: "Answers pile up without end",
        example: "100000 packets that each want an answer",
        source: "own reasoning",
    }
    PKT_21 {
        reaction: Drop,
        statement: "In-band and transfer-page packets and non-empty completions hold at least the 4-byte message type",
        danger: "The message type is read from behind the packet",
        example: "A packet of 16 bytes",
        source: "Linux `netvsc_receive`",
    }
    PKT_22 {
        reaction: Drop,
        statement: "An empty completion answers only a request that expects one; a host that breaks this again and again has its channel reset",
        danger: "An answer without content is read as if it had one",
        example: "An empty completion for an RNDIS request",
        source: "own reasoning",
    }
    PKT_23 {
        reaction: Structural,
        statement: "The payload's length is a multiple of 8; the length of a message comes from the message and is at most the payload",
        danger: "Padding is taken for data",
        example: "An inner length 4 beyond the payload",
        source: "own reasoning",
    }
    PKT_24 {
        reaction: Reset,
        statement: "The oldest outstanding request is younger than its deadline",
        danger: "Requests without answers use up the table, and nothing can be sent any more",
        example: "Transmits that are never completed",
        source: "own reasoning",
    }
}
