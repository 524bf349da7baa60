//! NVS: NVSP, the protocol of the virtual switch. Sub-channels are not asked for.

use super::rules;

rules! {
    NVS_01 {
        reaction: Drop,
        statement: "The payload holds the whole structure of its message type",
        danger: "Fields are read from bytes that an earlier message left behind",
        example: "A receive buffer answer of 12 bytes",
        source: "Linux 44144185951a",
    }
    NVS_02 {
        reaction: Structural,
        statement: "A structure is read with its own size, never beyond the payload",
        danger: "The copy of a short message takes old bytes along",
        example: "A sub-channel answer of 12 bytes",
        source: "own reasoning",
    }
    NVS_03 {
        reaction: Reset,
        statement: "A handshake response is the one that the outstanding request expects",
        danger: "The fields of one answer are read with the layout of another",
        example: "The version request answered with a send buffer answer",
        source: "own reasoning",
    }
    NVS_04 {
        reaction: Drop,
        statement: "A response answers a request: in-band responses are refused",
        danger: "A later request finds an answer that was there before it",
        example: "A version answer an hour after the start",
        source: "own reasoning",
    }
    NVS_05 {
        reaction: Fail,
        statement: "The version is accepted with status 1 and nothing else",
        danger: "Half of the handshake goes one way and half the other",
        example: "Status 0",
        source: "Linux `negotiate_nvsp_ver`",
    }
    NVS_06 {
        reaction: Structural,
        statement: "The deprecated version field is not looked at: the version is the one proposed",
        danger: "The host picks a version that nobody proposed",
        example: "The field says 6.1 while 5 was proposed",
        source: "Linux `negotiate_nvsp_ver`",
    }
    NVS_07 {
        reaction: Structural,
        statement: "Nothing below NVSP 6.1 is proposed",
        danger: "Old code paths with known faults are used",
        example: "A host that accepts version 5 only",
        source: "Linux `netvsc_connect_vsp`",
    }
    NVS_08 {
        reaction: Clamp,
        statement: "The longest descriptor chain is between 1 and our maximum; it limits nothing",
        danger: "A limit of nothing, or none at all",
        example: "0xFFFFFFFF",
        source: "own reasoning",
    }
    NVS_09 {
        reaction: Structural,
        statement: "Each known version is proposed at most once",
        danger: "The negotiation never ends",
        example: "Every version is refused",
        source: "Linux ver_list",
    }
    NVS_10 {
        reaction: Structural,
        statement: "SR-IOV is not offered, and receive coalescing only where the guest's card can take it",
        danger: "Traffic moves to a device that the host owns, or packets are joined by rules that nobody checks",
        example: "What the capabilities message says, seen from the host",
        source: "Linux `netvsc_connect_vsp` omits SR-IOV when isolated",
    }
    NVS_11 {
        reaction: Fail,
        statement: "The receive buffer is accepted with status 1 before a section is looked at",
        danger: "A buffer is used that the host refused",
        example: "Status 2 with sections",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_12 {
        reaction: Fail,
        statement: "The receive buffer has one section",
        danger: "A list is read beyond its message",
        example: "0x10000000 sections",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_13 {
        reaction: Fail,
        statement: "The section starts at offset 0",
        danger: "All ranges are shifted against the buffer",
        example: "A section at 4096",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_14 {
        reaction: Fail,
        statement: "A slot holds a full frame with headers and per-packet information",
        danger: "Millions of tiny slots of which none holds a frame",
        example: "Slots of 68 bytes",
        source: "own reasoning; Linux NETVSC_MTU_MIN",
    }
    NVS_15 {
        reaction: Fail,
        statement: "A slot is no larger than the private copy of a range may be",
        danger: "Private memory of a size that the host chose",
        example: "Slots of 31 MiB",
        source: "own reasoning",
    }
    NVS_16 {
        reaction: Fail,
        statement: "At least one slot, and all slots lie in the buffer",
        danger: "Slots beyond the end of the buffer",
        example: "65536 slots of 65536 bytes",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_17 {
        reaction: Fail,
        statement: "No more slots than the tables of receives in flight can hold",
        danger: "Tables of a size that the host chose",
        example: "478000 slots",
        source: "own reasoning",
    }
    NVS_18 {
        reaction: Fail,
        statement: "The section's end is that of its slots, or lies in the buffer",
        danger: "Two fields describe two different buffers",
        example: "An end of 0xFFFFFFFF",
        source: "own reasoning",
    }
    NVS_19 {
        reaction: Structural,
        statement: "The geometry never changes after it was accepted",
        danger: "Ranges that were checked against one buffer are read from another",
        example: "A second receive buffer answer",
        source: "own reasoning",
    }
    NVS_20 {
        reaction: Fail,
        statement: "The send buffer is accepted with sections of a usable size",
        danger: "A division by zero",
        example: "Sections of 0 bytes",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_21 {
        reaction: Clamp,
        statement: "Between 1 and our maximum of send sections are used",
        danger: "A table of a size that the host chose",
        example: "220000 sections",
        source: "Linux `netvsc_init_buf` divides",
    }
    NVS_22 {
        reaction: Structural,
        statement: "The section freed by a completion is the one that our table recorded",
        danger: "The host frees a section that another frame is in",
        example: "A completion that names another section",
        source: "Linux packet->send_buf_index",
    }
    NVS_23 {
        reaction: Drop,
        statement: "A range lies in the receive buffer",
        danger: "Memory behind the buffer is read as a frame",
        example: "Offset 0xFFFFFFF0, length 0x20",
        source: "Linux `netvsc_receive`",
    }
    NVS_24 {
        reaction: Drop,
        statement: "A range holds an RNDIS header and is no longer than a slot",
        danger: "The private copy overflows, or a header is read that is not there",
        example: "A range one byte longer than a slot",
        source: "Linux `netvsc_receive`, `rndis_filter_receive`",
    }
    NVS_25 {
        reaction: Drop,
        statement: "A range stays inside one slot",
        danger: "Bytes of another frame are read, one that the host may write again",
        example: "64 bytes at 8 before the end of a slot",
        source: "OpenVMM's host sends index * size",
    }
    NVS_26 {
        reaction: Drop,
        statement: "No two ranges that are not completed share a slot",
        danger: "The same bytes arrive twice, or change while they are read",
        example: "The same range twice",
        source: "own reasoning",
    }
    NVS_27 {
        reaction: Structural,
        statement: "A range is copied once, whole, before anything in it is read",
        danger: "Every field of a message can change between check and use",
        example: "The length of the frame changes while its message is being parsed",
        source: "own reasoning; Linux 0ba35fe91ce3 copies headers",
    }
    NVS_28 {
        reaction: Structural,
        statement: "A receive is completed after its last byte was copied",
        danger: "The host writes the next frame over the one being read",
        example: "A host that fills a slot the moment it gets it back",
        source: "Linux `netvsc_receive`",
    }
    NVS_29 {
        reaction: Structural,
        statement: "A receive is completed with success if all its ranges were accepted, else with failure",
        danger: "The host does not learn that its packets are refused",
        example: "A good and a bad range in one packet",
        source: "Linux `netvsc_receive`",
    }
    NVS_30 {
        reaction: Structural,
        statement: "No more receives are in flight than there are slots: one is completed before the next is read",
        danger: "The list of answers overflows and slots are lost",
        example: "One packet more than there are slots, none of them answered",
        source: "Linux `enq_receive_complete`",
    }
    NVS_31 {
        reaction: Reset,
        statement: "No transfer-page packet before the receive buffer is accepted",
        danger: "A buffer is read that does not exist yet",
        example: "A transfer-page packet as the first packet",
        source: "own reasoning",
    }
    NVS_32 {
        reaction: Drop,
        statement: "A transfer-page packet carries an RNDIS packet message",
        danger: "A control message is read with ranges",
        example: "A sub-channel message with ranges",
        source: "Linux `netvsc_receive`; DPDK",
    }
    NVS_33 {
        reaction: Drop,
        statement: "Channel type 0 goes with data, 1 with control messages",
        danger: "Answers to requests arrive where frames do",
        example: "A query's answer marked as data",
        source: "own reasoning",
    }
    NVS_34 {
        reaction: Structural,
        statement: "Section index and size of a message from the host are not looked at",
        danger: "A number of the host is an index into our own table",
        example: "Section 5",
        source: "Linux `netvsc_receive`",
    }
    NVS_35 {
        reaction: Drop,
        statement: "A transmit completion holds its status",
        danger: "An old status counts for a new frame",
        example: "A transmit completion of 4 bytes",
        source: "Linux `netvsc_send_completion`",
    }
    NVS_36 {
        reaction: Ignore,
        statement: "A transmit status other than 1 counts as an error; the section is free either way",
        danger: "An error stays hidden, or a section is freed twice",
        example: "Status 0xFFFFFFFF",
        source: "DPDK",
    }
    NVS_37 {
        reaction: Ignore,
        statement: "Sub-channels count as granted only with status 1; else the card has one channel",
        danger: "Queues are used that were not granted",
        example: "Status 2 with 8 sub-channels",
        source: "Linux `rndis_set_subchannel`",
    }
    NVS_38 {
        reaction: Fail,
        statement: "No more sub-channels are granted than were asked for",
        danger: "The table of channels overflows",
        example: "0xFFFFFFFF sub-channels",
        source: "Linux 206ad34d52a2",
    }
    NVS_39 {
        reaction: Structural,
        statement: "The wait for granted sub-channels is bounded, and those that came are used",
        danger: "The start of the card hangs",
        example: "7 sub-channels granted, 3 offered",
        source: "own reasoning",
    }
    NVS_40 {
        reaction: Drop,
        statement: "The indirection table has 16 entries",
        danger: "The table is read beyond its message",
        example: "0x40000000 entries",
        source: "Linux `netvsc_send_table`",
    }
    NVS_41 {
        reaction: Drop,
        statement: "The indirection table lies behind its header, aligned and inside the payload",
        danger: "The header is read as entries, or bytes behind the message are",
        example: "Offset 0xFFFFFFC0",
        source: "Linux `netvsc_send_table`",
    }
    NVS_42 {
        reaction: Drop,
        statement: "Each entry of the indirection table names an open channel",
        danger: "A frame is sent on a queue that does not exist",
        example: "An entry of 0x80000000",
        source: "own reasoning",
    }
    NVS_43 {
        reaction: Drop,
        statement: "An indirection table comes on the primary channel while there are sub-channels",
        danger: "A table for queues that do not exist",
        example: "A table on sub-channel 2",
        source: "own reasoning",
    }
    NVS_44 {
        reaction: Structural,
        statement: "SR-IOV announcements change nothing",
        danger: "Traffic moves to a device that the host owns",
        example: "A device of SR-IOV is announced with serial 7",
        source: "Linux `netvsc_receive_inband`, isolated branch",
    }
    NVS_45 {
        reaction: Drop,
        statement: "The data path is never switched",
        danger: "Traffic passes by the paravisor",
        example: "An answer to a switch that was never asked for",
        source: "own reasoning",
    }
    NVS_46 {
        reaction: Drop,
        statement: "Other message types from the host are discarded",
        danger: "Handlers of old protocols are reached",
        example: "Type 130",
        source: "Linux `netvsc_receive_inband`",
    }
    NVS_47 {
        reaction: Throttle,
        statement: "In-band messages have a budget per interval",
        danger: "The processor is busy with messages that carry nothing",
        example: "A million capability messages per second",
        source: "own reasoning",
    }
    NVS_48 {
        reaction: Drop,
        statement: "Sub-channels carry data and its completions only",
        danger: "The set-up of the card changes from any of its queues",
        example: "A receive buffer answer on a sub-channel",
        source: "own reasoning",
    }
    NVS_49 {
        reaction: Drop,
        statement: "Ranges are not read once the receive buffer is being revoked",
        danger: "A buffer is read that is about to become private again",
        example: "A transfer-page packet after the revocation",
        source: "own reasoning",
    }
    NVS_50 {
        reaction: Reset,
        statement: "The handshake has one order",
        danger: "A step is done with what the step before it should have brought",
        example: "A send buffer answer before the receive buffer's",
        source: "own reasoning",
    }
}
