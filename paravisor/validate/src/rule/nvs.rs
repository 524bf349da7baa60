//! NVS: NVSP, the protocol of the virtual switch. Sub-channels (NVS-37 to
//! NVS-39) are not asked for and have no code.

use super::rules;

rules! {
    NVS_01 {
        reaction: Drop,
        statement: "The payload holds the whole structure of its message type",
        danger: "",
        example: "",
        source: "Linux 44144185951a",
    }
    NVS_02 {
        reaction: Structural,
        statement: "A structure is read with its own size, never beyond the payload",
        danger: "",
        example: "",
        source: "own; Linux copies sizeof(struct nvsp_message)",
    }
    NVS_03 {
        reaction: Reset,
        statement: "A handshake response is the one that the outstanding request expects",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_04 {
        reaction: Drop,
        statement: "A response answers a request: in-band responses are refused",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_05 {
        reaction: Fail,
        statement: "The version is accepted with status 1 and nothing else",
        danger: "",
        example: "",
        source: "Linux `negotiate_nvsp_ver`",
    }
    NVS_06 {
        reaction: Structural,
        statement: "The deprecated version field is not looked at: the version is the one proposed",
        danger: "",
        example: "",
        source: "Linux",
    }
    NVS_07 {
        reaction: Structural,
        statement: "Nothing below NVSP 6.1 is proposed",
        danger: "",
        example: "",
        source: "Linux `netvsc_connect_vsp`",
    }
    NVS_08 {
        reaction: Clamp,
        statement: "The longest descriptor chain is between 1 and our maximum; it limits nothing",
        danger: "",
        example: "",
        source: "Linux ignores it",
    }
    NVS_09 {
        reaction: Structural,
        statement: "Each known version is proposed at most once",
        danger: "",
        example: "",
        source: "Linux ver_list",
    }
    NVS_10 {
        reaction: Structural,
        statement: "Neither SR-IOV nor receive coalescing is offered",
        danger: "",
        example: "",
        source: "Linux omits SR-IOV when isolated",
    }
    NVS_11 {
        reaction: Fail,
        statement: "The receive buffer is accepted with status 1 before a section is looked at",
        danger: "",
        example: "",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_12 {
        reaction: Fail,
        statement: "The receive buffer has one section",
        danger: "",
        example: "",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_13 {
        reaction: Fail,
        statement: "The section starts at offset 0",
        danger: "",
        example: "",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_14 {
        reaction: Fail,
        statement: "A slot holds a full frame with headers and per-packet information",
        danger: "",
        example: "",
        source: "Linux NETVSC_MTU_MIN (lower)",
    }
    NVS_15 {
        reaction: Fail,
        statement: "A slot is no larger than the private copy of a range may be",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_16 {
        reaction: Fail,
        statement: "At least one slot, and all slots lie in the buffer",
        danger: "",
        example: "",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_17 {
        reaction: Fail,
        statement: "No more slots than the tables of receives in flight can hold",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_18 {
        reaction: Fail,
        statement: "The section's end is that of its slots, or lies in the buffer",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_19 {
        reaction: Structural,
        statement: "The geometry never changes after it was accepted",
        danger: "",
        example: "",
        source: "own",
    }
    NVS_20 {
        reaction: Fail,
        statement: "The send buffer is accepted with sections of a usable size",
        danger: "",
        example: "",
        source: "Linux `netvsc_init_buf`",
    }
    NVS_21 {
        reaction: Clamp,
        statement: "Between 1 and our maximum of send sections are used",
        danger: "",
        example: "",
        source: "Linux",
    }
    NVS_22 {
        reaction: Structural,
        statement: "The section freed by a completion is the one that our table recorded",
        danger: "",
        example: "",
        source: "Linux packet->send_buf_index",
    }
    NVS_23 {
        reaction: Drop,
        statement: "A range lies in the receive buffer",
        danger: "",
        example: "",
        source: "Linux `netvsc_receive`",
    }
    NVS_24 {
        reaction: Drop,
        statement: "A range holds an RNDIS header and is no longer than a slot",
        danger: "",
        example: "",
        source: "Linux `netvsc_receive`, `rndis_filter_receive`",
    }
    NVS_25 {
        reaction: Drop,
        statement: "A range stays inside one slot",
        danger: "",
        example: "",
        source: "OpenVMM sends index * size; not in Linux",
    }
    NVS_26 {
        reaction: Drop,
        statement: "No two ranges that are not completed share a slot",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_27 {
        reaction: Structural,
        statement: "A range is copied once, whole, before anything in it is read",
        danger: "",
        example: "",
        source: "Linux 0ba35fe91ce3 in part",
    }
    NVS_28 {
        reaction: Structural,
        statement: "A receive is completed after its last byte was copied",
        danger: "",
        example: "",
        source: "Linux order",
    }
    NVS_29 {
        reaction: Structural,
        statement: "A receive is completed with success if all its ranges were accepted, else with failure",
        danger: "",
        example: "",
        source: "Linux",
    }
    NVS_30 {
        reaction: Structural,
        statement: "No more receives are in flight than there are slots: one is completed before the next is read",
        danger: "",
        example: "",
        source: "Linux `enq_receive_complete` in part",
    }
    NVS_31 {
        reaction: Reset,
        statement: "No transfer-page packet before the receive buffer is accepted",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    NVS_32 {
        reaction: Drop,
        statement: "A transfer-page packet carries an RNDIS packet message",
        danger: "",
        example: "",
        source: "Linux; DPDK",
    }
    NVS_33 {
        reaction: Drop,
        statement: "Channel type 0 goes with data, 1 with control messages",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_34 {
        reaction: Structural,
        statement: "Section index and size of a message from the host are not looked at",
        danger: "",
        example: "",
        source: "Linux",
    }
    NVS_35 {
        reaction: Drop,
        statement: "A transmit completion holds its status",
        danger: "",
        example: "",
        source: "Linux (2023)",
    }
    NVS_36 {
        reaction: Ignore,
        statement: "A transmit status other than 1 counts as an error; the section is free either way",
        danger: "",
        example: "",
        source: "DPDK",
    }
    NVS_40 {
        reaction: Drop,
        statement: "The indirection table has 16 entries",
        danger: "",
        example: "",
        source: "Linux `netvsc_send_table`",
    }
    NVS_41 {
        reaction: Drop,
        statement: "The indirection table lies behind its header, aligned and inside the payload",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    NVS_42 {
        reaction: Drop,
        statement: "Each entry of the indirection table names an open channel",
        danger: "",
        example: "",
        source: "own; not in Linux at store time",
    }
    NVS_43 {
        reaction: Drop,
        statement: "An indirection table comes on the primary channel while there are sub-channels",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_44 {
        reaction: Ignore,
        statement: "SR-IOV announcements change nothing",
        danger: "",
        example: "",
        source: "Linux isolated branch",
    }
    NVS_45 {
        reaction: Drop,
        statement: "The data path is never switched",
        danger: "",
        example: "",
        source: "own",
    }
    NVS_46 {
        reaction: Drop,
        statement: "Other message types from the host are discarded",
        danger: "",
        example: "",
        source: "Linux default",
    }
    NVS_47 {
        reaction: Throttle,
        statement: "In-band messages have a budget per interval",
        danger: "",
        example: "",
        source: "own",
    }
    NVS_48 {
        reaction: Drop,
        statement: "Sub-channels carry data and its completions only",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    NVS_49 {
        reaction: Drop,
        statement: "Ranges are not read once the receive buffer is being revoked",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    NVS_50 {
        reaction: Reset,
        statement: "The handshake has one order",
        danger: "",
        example: "",
        source: "own",
    }
}
