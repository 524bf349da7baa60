//! NVS: NVSP, the protocol of the virtual switch. Sub-channels (NVS-37 to
//! NVS-39) are not asked for and have no code.

use super::rules;

rules! { Nvs
    NVS_01 = 1, Drop,
        "The payload holds the whole structure of its message type",
        "Linux 44144185951a";
    NVS_02 = 2, Structural,
        "A structure is read with its own size, never beyond the payload",
        "own; Linux copies sizeof(struct nvsp_message)";
    NVS_03 = 3, Reset,
        "A handshake response is the one that the outstanding request expects",
        "own; not in Linux";
    NVS_04 = 4, Drop,
        "A response answers a request: in-band responses are refused",
        "own; not in Linux";
    NVS_05 = 5, Fail,
        "The version is accepted with status 1 and nothing else",
        "Linux `negotiate_nvsp_ver`";
    NVS_06 = 6, Structural,
        "The deprecated version field is not looked at: the version is the one proposed",
        "Linux";
    NVS_07 = 7, Structural,
        "Nothing below NVSP 6.1 is proposed",
        "Linux `netvsc_connect_vsp`";
    NVS_08 = 8, Clamp,
        "The longest descriptor chain is between 1 and our maximum; it limits nothing",
        "Linux ignores it";
    NVS_09 = 9, Structural,
        "Each known version is proposed at most once",
        "Linux ver_list";
    NVS_10 = 10, Structural,
        "Neither SR-IOV nor receive coalescing is offered",
        "Linux omits SR-IOV when isolated";
    NVS_11 = 11, Fail,
        "The receive buffer is accepted with status 1 before a section is looked at",
        "Linux `netvsc_init_buf`";
    NVS_12 = 12, Fail,
        "The receive buffer has one section",
        "Linux `netvsc_init_buf`";
    NVS_13 = 13, Fail,
        "The section starts at offset 0",
        "Linux `netvsc_init_buf`";
    NVS_14 = 14, Fail,
        "A slot holds a full frame with headers and per-packet information",
        "Linux NETVSC_MTU_MIN (lower)";
    NVS_15 = 15, Fail,
        "A slot is no larger than the private copy of a range may be",
        "own; not in Linux";
    NVS_16 = 16, Fail,
        "At least one slot, and all slots lie in the buffer",
        "Linux `netvsc_init_buf`";
    NVS_17 = 17, Fail,
        "No more slots than the tables of receives in flight can hold",
        "own; not in Linux";
    NVS_18 = 18, Fail,
        "The section's end is that of its slots, or lies in the buffer",
        "own; not in Linux";
    NVS_19 = 19, Structural,
        "The geometry never changes after it was accepted",
        "own";
    NVS_20 = 20, Fail,
        "The send buffer is accepted with sections of a usable size",
        "Linux `netvsc_init_buf`";
    NVS_21 = 21, Clamp,
        "Between 1 and our maximum of send sections are used",
        "Linux";
    NVS_22 = 22, Structural,
        "The section freed by a completion is the one that our table recorded",
        "Linux packet->send_buf_index";
    NVS_23 = 23, Drop,
        "A range lies in the receive buffer",
        "Linux `netvsc_receive`";
    NVS_24 = 24, Drop,
        "A range holds an RNDIS header and is no longer than a slot",
        "Linux `netvsc_receive`, `rndis_filter_receive`";
    NVS_25 = 25, Drop,
        "A range stays inside one slot",
        "OpenVMM sends index * size; not in Linux";
    NVS_26 = 26, Drop,
        "No two ranges that are not completed share a slot",
        "own; not in Linux";
    NVS_27 = 27, Structural,
        "A range is copied once, whole, before anything in it is read",
        "Linux 0ba35fe91ce3 in part";
    NVS_28 = 28, Structural,
        "A receive is completed after its last byte was copied",
        "Linux order";
    NVS_29 = 29, Structural,
        "A receive is completed with success if all its ranges were accepted, else with failure",
        "Linux";
    NVS_30 = 30, Structural,
        "No more receives are in flight than there are slots: one is completed before the next is read",
        "Linux `enq_receive_complete` in part";
    NVS_31 = 31, Reset,
        "No transfer-page packet before the receive buffer is accepted",
        "Linux in part";
    NVS_32 = 32, Drop,
        "A transfer-page packet carries an RNDIS packet message",
        "Linux; DPDK";
    NVS_33 = 33, Drop,
        "Channel type 0 goes with data, 1 with control messages",
        "own; not in Linux";
    NVS_34 = 34, Structural,
        "Section index and size of a message from the host are not looked at",
        "Linux";
    NVS_35 = 35, Drop,
        "A transmit completion holds its status",
        "Linux (2023)";
    NVS_36 = 36, Ignore,
        "A transmit status other than 1 counts as an error; the section is free either way",
        "DPDK";
    NVS_40 = 40, Drop,
        "The indirection table has 16 entries",
        "Linux `netvsc_send_table`";
    NVS_41 = 41, Drop,
        "The indirection table lies behind its header, aligned and inside the payload",
        "Linux in part";
    NVS_42 = 42, Drop,
        "Each entry of the indirection table names an open channel",
        "own; not in Linux at store time";
    NVS_43 = 43, Drop,
        "An indirection table comes on the primary channel while there are sub-channels",
        "own; not in Linux";
    NVS_44 = 44, Ignore,
        "SR-IOV announcements change nothing",
        "Linux isolated branch";
    NVS_45 = 45, Drop,
        "The data path is never switched",
        "own";
    NVS_46 = 46, Drop,
        "Other message types from the host are discarded",
        "Linux default";
    NVS_47 = 47, Throttle,
        "In-band messages have a budget per interval",
        "own";
    NVS_48 = 48, Drop,
        "Sub-channels carry data and its completions only",
        "own; not in Linux";
    NVS_49 = 49, Drop,
        "Ranges are not read once the receive buffer is being revoked",
        "Linux in part";
    NVS_50 = 50, Reset,
        "The handshake has one order",
        "own";
}
